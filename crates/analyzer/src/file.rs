//! One file: its text, what the engines say of it, and its row of coverage.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::classify::{self, Class};
use crate::engine::Context;
use crate::finding::{Analysis, Finding, Language, Source};
use crate::intake::EntryPath;
use crate::lines::Lines;
use crate::rank::Setting;
use crate::report::build::{FINDINGS_MAX, View};
use crate::report::coverage::{Row, Status};
use crate::report::mask::{Places, Secrets};
use crate::report::{rule_index, sarif};
use crate::{engine, secrets};

/// A file to analyse.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) sequence: u64,
    pub(crate) base: usize,
    pub(crate) path: EntryPath,
    pub(crate) bytes: Vec<u8>,
    /// Why the bytes are not all of the file, if they are not.
    pub(crate) cut: Option<String>,
}

/// What became of a file, or of an entry that was none.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) sequence: u64,
    pub(crate) base: usize,
    pub(crate) path: Arc<str>,
    pub(crate) row: Row,
    pub(crate) results: Vec<sarif::Result>,
    /// The file's text, masked, where findings touch it.
    pub(crate) source: Option<String>,
    pub(crate) secrets: Secrets,
}

impl Outcome {
    pub(crate) fn row(sequence: u64, base: usize, row: Row) -> Self {
        let path = Arc::from(row.path.as_str());
        Self {
            sequence,
            base,
            path,
            row,
            results: Vec::new(),
            source: None,
            secrets: Secrets::default(),
        }
    }
}

/// Analyses a file. `deadline` is asked often and ends the engines when it says true.
pub(crate) fn analyse(
    job: Job,
    base_id: &str,
    context: &Context,
    deadline: &dyn Fn() -> bool,
) -> Outcome {
    let display = job.path.display();
    let bytes = u64::try_from(job.bytes.len()).ok();
    let skipped = |reason: String| {
        let row = Row {
            reason: Some(reason),
            bytes,
            ..Row::new(display.clone(), Status::Skipped)
        };
        Outcome::row(job.sequence, job.base, row)
    };
    let content = match classify::content(&job.path, &job.bytes) {
        Ok(content) => content,
        Err(reason) => return skipped(reason.to_owned()),
    };
    drop(job.bytes);
    let (language, code) = match content.class {
        Class::Minified => {
            return skipped("minified: its source is what should be analysed".to_owned());
        }
        Class::Source(language) => (Some(language), true),
        Class::Unsupported(_) => (None, true),
        Class::Text(_) => (None, false),
    };
    let text = content.text.as_str();
    let analysis = engines(&display, language, text, code, context, deadline);
    let truncated = job.cut.or(analysis.truncated);
    let row = Row {
        bytes,
        ..covered(display.clone(), content.class, truncated)
    };
    let mut outcome = Outcome::row(job.sequence, job.base, row);
    if analysis.findings.is_empty() {
        return outcome;
    }
    for range in &analysis.secrets {
        outcome
            .secrets
            .add(text.get(range.clone()).unwrap_or_default());
    }
    let view = View {
        lines: Lines::new(text),
        places: Places::new(text, &analysis.secrets),
        masker: outcome.secrets.masker(),
        uri: job.path.uri(),
        base: base_id.to_owned(),
        setting: Setting::of(&display, text),
    };
    outcome.results = view.results(analysis.findings, &rule_index);
    outcome.source = Some(view.places.show(text, 0..text.len()));
    outcome
}

/// The row of a file that was analysed, or as far as it was.
fn covered(display: String, class: Class, truncated: Option<String>) -> Row {
    let row = Row::new(display, Status::Analysed);
    let row = match class {
        Class::Source(language) => Row {
            language: Some(classify::language_name(language).to_owned()),
            ..row
        },
        Class::Text(what) => Row {
            language: Some(what.to_owned()),
            ..row
        },
        Class::Unsupported(what) => {
            let reason = format!("no engine for {what} in this version: searched for secrets only");
            Row {
                status: Status::Skipped,
                reason: Some(reason),
                language: Some(what.to_owned()),
                ..row
            }
        }
        Class::Minified => row,
    };
    match truncated {
        Some(reason) => Row {
            status: Status::Truncated,
            reason: Some(reason),
            ..row
        },
        None => row,
    }
}

/// What all engines say.
struct Said {
    findings: Vec<Finding>,
    secrets: Vec<Range<usize>>,
    truncated: Option<String>,
}

/// Runs every engine. One that panics costs its own findings, not the scan.
fn engines(
    path: &str,
    language: Option<Language>,
    text: &str,
    code: bool,
    context: &Context,
    deadline: &dyn Fn() -> bool,
) -> Said {
    let mut said = Said {
        findings: Vec::new(),
        secrets: Vec::new(),
        truncated: None,
    };
    match catch_unwind(AssertUnwindSafe(|| secrets::scan(text, code))) {
        Ok(hits) => {
            for hit in hits {
                said.secrets.push(hit.secret);
                said.findings.push(hit.finding);
            }
        }
        Err(_) => {
            said.truncated =
                Some("internal error: the search for secrets failed on this file".to_owned());
        }
    }
    let Some(language) = language else {
        return said;
    };
    let source = Source {
        path,
        language,
        text,
    };
    let run = || engine::analyse_in(&source, context, deadline);
    let analysis = catch_unwind(AssertUnwindSafe(run));
    let Analysis {
        findings,
        truncated,
    } = analysis.unwrap_or_else(|_| Analysis {
        findings: Vec::new(),
        truncated: Some("internal error: the analysis failed on this file"),
    });
    said.findings.extend(findings);
    said.truncated = said.truncated.or(truncated.map(str::to_owned));
    if said.findings.len() > FINDINGS_MAX {
        said.truncated = Some(format!(
            "more than {FINDINGS_MAX} findings in one file, the limit"
        ));
    }
    said
}
