//! Text of one file to a syntax tree.

use std::borrow::Cow;
use std::ops::ControlFlow;

use tree_sitter::{ParseOptions, ParseState, Parser, Tree};

use crate::finding::{Language, Source};

/// The tree of `source`, or `None` where `stop` said so first or the grammar could not be loaded.
///
/// A tree with error nodes is a tree all the same: lowering skips what it can't read.
pub(crate) fn parse(source: &Source<'_>, stop: &dyn Fn() -> bool) -> Option<Tree> {
    let mut parser = Parser::new();
    parser.set_language(&grammar(source.language)).ok()?;
    let text = match source.language {
        Language::Python => without_long_comments(source.text),
        _ => Cow::Borrowed(source.text),
    };
    let bytes = text.as_bytes();
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

/// Comment lines in a row above which Python's grammar is spared them.
const COMMENTS_MAX: usize = 64;

/// `text` with the long runs of comment lines blanked, every other byte at its place.
///
/// At each comment line the grammar's scanner looks ahead over all that follow, to learn whether a block ends: ten
/// thousand in a row take it half a minute. Blank lines it passes once.
fn without_long_comments(text: &str) -> Cow<'_, str> {
    let is_comment = |line: &str| line.trim_start().starts_with('#');
    let mut blanked = String::new();
    let (mut copied, mut at) = (0, 0);
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let start = at;
        at += line.len();
        if !is_comment(line) {
            continue;
        }
        let mut count = 1;
        while let Some(next) = lines.next_if(|next| is_comment(next)) {
            at += next.len();
            count += 1;
        }
        if count > COMMENTS_MAX {
            blanked.push_str(text.get(copied..start).unwrap_or_default());
            let run = text.get(start..at).unwrap_or_default();
            blanked.extend(run.bytes().map(|byte| {
                if matches!(byte, b'\n' | b'\r') {
                    char::from(byte)
                } else {
                    ' '
                }
            }));
            copied = at;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    blanked.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(blanked)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_comments_are_blanked_and_nothing_moves() {
        let few = "a = 1\n# b\n  # c\nd = 2\n";
        assert_eq!(without_long_comments(few), few);
        let many = format!("a = 1\n{}b = '\u{e9}#'\n", "  # \u{e9}\r\n".repeat(100));
        let blanked = without_long_comments(&many);
        assert_eq!(blanked.len(), many.len());
        assert!(!blanked.contains("# ") && blanked.ends_with("b = '\u{e9}#'\n"));
        assert_eq!(blanked.matches('\n').count(), many.matches('\n').count());
    }

    #[test]
    fn a_megabyte_of_comments_costs_no_more_than_reading_it() {
        let text = format!(
            "def f():\n    return 1\n{}",
            "# nothing happens on this line\n".repeat(30_000)
        );
        let source = Source {
            path: "a.py",
            language: Language::Python,
            text: &text,
        };
        let looks = std::cell::Cell::new(0_u32);
        let stop = || {
            looks.set(looks.get() + 1);
            looks.get() > 5_000
        };
        assert!(
            parse(&source, &stop).is_some(),
            "the parser asked {} times",
            looks.get()
        );
    }
}
