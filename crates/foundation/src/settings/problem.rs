use std::cell::RefCell;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// Whether a problem keeps the program from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone)]
pub struct Problem {
    pub severity: Severity,
    /// Lower case, names the thing and the limit.
    pub message: String,
    /// Bytes of the settings text; `None` when the whole file is meant.
    pub span: Option<Range<usize>>,
    /// What to do.
    pub hint: Option<String>,
    /// It says that something is not there: where a line can't be read, that may be what is on it.
    pub absent: bool,
    /// Where it is, when it is in a file that the settings name. `span` is that name then.
    pub excerpt: Option<Excerpt>,
}

/// A line of another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// The line, without its end.
    pub text: String,
    /// Bytes of `text`.
    pub span: Range<usize>,
}

/// Collects problems while settings are read, so that all can be shown at once.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Records an error at `span`.
    pub fn error(&self, span: impl Into<Option<Range<usize>>>, message: impl Into<String>) {
        self.push(Severity::Error, span.into(), message.into(), None);
    }

    /// Records an error at `span` and what to do about it.
    pub fn error_with_hint(
        &self,
        span: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(
            Severity::Error,
            span.into(),
            message.into(),
            Some(hint.into()),
        );
    }

    /// Records that something is not there, and what to write.
    pub fn absent(
        &self,
        span: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.error_with_hint(span, message, hint);
        if let Some(last) = self.0.borrow_mut().last_mut() {
            last.absent = true;
        }
    }

    /// Records a warning: the program starts all the same.
    pub fn warning(
        &self,
        span: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(
            Severity::Warning,
            span.into(),
            message.into(),
            Some(hint.into()),
        );
    }

    fn push(
        &self,
        severity: Severity,
        span: Option<Range<usize>>,
        message: String,
        hint: Option<String>,
    ) {
        self.add(Problem {
            severity,
            message,
            span,
            hint,
            excerpt: None,
            absent: false,
        });
    }

    /// Records a problem of any form.
    pub fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// Forgets what `broken` lines may be the only cause of: what is missing, and what stands on them.
    pub(super) fn forget_consequences(&self, broken: &[Range<usize>]) {
        let on_them = |span: &Range<usize>| {
            broken
                .iter()
                .any(|lines| span.start < lines.end && lines.start < span.end)
        };
        self.0
            .borrow_mut()
            .retain(|problem| !problem.absent && !problem.span.as_ref().is_some_and(on_them));
    }

    /// True when at least one problem is an error.
    #[must_use]
    pub fn any_error(&self) -> bool {
        self.0
            .borrow()
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// The problems in the order of the file.
    #[must_use]
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
        problems
    }
}

impl Problem {
    /// The line of `text` where it stands, from 1; `None` when the whole file is meant.
    #[must_use]
    pub fn line(&self, text: &str) -> Option<usize> {
        let before = text.as_bytes().get(..self.span.as_ref()?.start)?;
        Some(1 + before.iter().filter(|byte| **byte == b'\n').count())
    }

    /// The problem in one line, for a log: `munjigi.toml:3: what is wrong (hint: what to do)`. The place is that in
    /// the other file, where it is in one.
    #[must_use]
    pub fn in_one_line(&self, file: &str, text: &str) -> String {
        let (file, line) = match &self.excerpt {
            Some(excerpt) => (excerpt.file.as_str(), Some(excerpt.line)),
            None => (file, self.line(text)),
        };
        let line = line.map(|line| format!(":{line}"));
        let hint = self.hint.as_ref().map(|hint| format!(" (hint: {hint})"));
        let (line, hint) = (line.unwrap_or_default(), hint.unwrap_or_default());
        format!("{file}{line}: {}{hint}", self.message)
    }

    /// The problem as a person reads it: file, line, caret, hint.
    #[must_use]
    pub fn render(&self, file: &str, text: &str, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let mut group = match (&self.excerpt, &self.span) {
            (Some(excerpt), _) => {
                let end = excerpt.span.end.min(excerpt.text.len());
                let place = AnnotationKind::Primary.span(excerpt.span.start.min(end)..end);
                let snippet = Snippet::source(excerpt.text.as_str())
                    .path(excerpt.file.as_str())
                    .line_start(excerpt.line);
                title.element(snippet.annotation(place))
            }
            (None, Some(span)) => {
                let end = span.end.min(text.len());
                let place = AnnotationKind::Primary.span(span.start.min(end)..end);
                title.element(Snippet::source(text).path(file).annotation(place))
            }
            (None, None) => title.element(Origin::path(file)),
        };
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
        }
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        renderer.render(&[group])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_names_the_file_that_the_problem_is_in() {
        let mut problem = Problem {
            severity: Severity::Error,
            message: "expected true or false".to_owned(),
            span: Some(4..8),
            hint: None,
            absent: false,
            excerpt: None,
        };
        let text = "a=1\nb=2x\n";
        let line = problem.in_one_line("munjigi.toml", text);
        assert_eq!(line, "munjigi.toml:2: expected true or false");
        problem.excerpt = Some(Excerpt {
            file: "list.txt".to_owned(),
            line: 7,
            text: "default maybe".to_owned(),
            span: 8..13,
        });
        problem.hint = Some("say so".to_owned());
        let line = problem.in_one_line("munjigi.toml", text);
        assert_eq!(line, "list.txt:7: expected true or false (hint: say so)");
    }
}
