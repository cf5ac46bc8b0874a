//! Text of one file to a syntax tree.

use std::ops::ControlFlow;

use tree_sitter::{ParseOptions, ParseState, Parser, Tree};

use crate::finding::{Language, Source};

/// The tree of `source`, or `None` where `stop` said so first or the grammar could not be loaded.
///
/// A tree with error nodes is a tree all the same: lowering skips what it can't read.
pub(crate) fn parse(source: &Source<'_>, stop: &dyn Fn() -> bool) -> Option<Tree> {
    let mut parser = Parser::new();
    parser.set_language(&grammar(source.language)).ok()?;
    let bytes = source.text.as_bytes();
    let mut progress = |_: &ParseState| {
        if stop() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let options = ParseOptions::new().progress_callback(&mut progress);
    parser.parse_with_options(
        &mut |at, _| bytes.get(at..).unwrap_or_default(),
        None,
        Some(options),
    )
}

fn grammar(language: Language) -> tree_sitter::Language {
    match language {
        Language::C => tree_sitter_c::LANGUAGE.into(),
        Language::Java => tree_sitter_java::LANGUAGE.into(),
        Language::JavaScript => tree_sitter_javascript::LANGUAGE.into(),
        Language::Python => tree_sitter_python::LANGUAGE.into(),
        Language::TypeScript { tsx: false } => tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
        Language::TypeScript { tsx: true } => tree_sitter_typescript::LANGUAGE_TSX.into(),
    }
}
