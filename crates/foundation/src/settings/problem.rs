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
        });
    }

    /// Records a problem of any form.
    pub fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
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
