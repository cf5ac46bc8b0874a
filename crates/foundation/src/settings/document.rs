use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

use super::{Problem, Problems, Schema, Severity, Table};

/// The process' environment, as the binary read it.
pub type Environment = BTreeMap<String, String>;

/// A settings file: its text, where relative names lead, and the environment for `*_env` keys.
#[derive(Debug, Clone)]
pub struct Document {
    /// Name for messages.
    pub name: String,
    pub text: String,
    /// Folder against which relative file names are resolved.
    pub base: PathBuf,
    /// Looked up by `*_env` keys.
    pub environment: Environment,
}

/// What stays the same while one document is read.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) document: &'a Document,
    pub(super) problems: &'a Problems,
}

impl Document {
    /// A document that was read from `path`.
    #[must_use]
    pub fn new(path: &Path, text: String, environment: Environment) -> Self {
        let base = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Self {
            name: path.display().to_string(),
            text,
            base,
            environment,
        }
    }

    /// Reads the document with `read`, which gets the root table; returns what it made and every problem met.
    ///
    /// `None` when there was an error, whatever `read` returned.
    pub fn read<T>(
        &self,
        root: &'static Schema,
        read: impl FnOnce(&Table<'_>) -> Option<T>,
    ) -> (Option<T>, Vec<Problem>) {
        let problems = Problems::default();
        let (table, errors): (Spanned<DeTable<'_>>, _) = DeTable::parse_recoverable(&self.text);
        let reading = Reading {
            document: self,
            problems: &problems,
        };
        let made = read(&Table::root(&reading, root, &table));
        if !errors.is_empty() {
            let spans = errors.iter().filter_map(toml::de::Error::span);
            let broken: Vec<_> = spans.map(|span| lines_around(&self.text, &span)).collect();
            problems.forget_consequences(&broken);
        }
        for error in &errors {
            problems.error(error.span(), error.message());
        }
        let made = made.filter(|_| !problems.any_error());
        (made, problems.into_sorted())
    }

    /// `problems` as a person reads them, with a last line that counts them.
    #[must_use]
    pub fn render(&self, problems: &[Problem], colour: bool) -> String {
        let mut text = String::new();
        for problem in problems {
            text.push_str(&problem.render(&self.name, &self.text, colour));
            text.push_str("\n\n");
        }
        let errors = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .count();
        let warnings = problems.len() - errors;
        text.push_str(&format!(
            "{}: {errors} error{}, {warnings} warning{}\n",
            self.name,
            if errors == 1 { "" } else { "s" },
            if warnings == 1 { "" } else { "s" },
        ));
        text
    }
}

/// The lines of a syntax error: those it spans, and of a broken header all up to the next one, for whose keys they are
/// is not known.
fn lines_around(text: &str, error: &Range<usize>) -> Range<usize> {
    let (before, after) = text.split_at_checked(error.start).unwrap_or((text, ""));
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let in_header = before
        .get(start..)
        .is_some_and(|line| line.trim_start().starts_with('['));
    let end = if in_header {
        after.find("\n[")
    } else {
        let rest = text.get(error.end..).unwrap_or_default();
        rest.find('\n').map(|at| error.end - error.start + at)
    };
    start..end.map_or(text.len(), |at| error.start + at)
}
