//! `explanations/ID.json`: a finding with its rule's card, complete in itself, and the same in words.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sarif;
use super::text::{Style, explain};
use crate::finding::Rule;

/// Largest explanation that is read back.
const EXPLANATION_BYTES_MAX: u64 = 16 << 20;

/// A rule as its reader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    pub id: String,
    pub name: String,
    pub kind: String,
    pub level: String,
    pub cwe: Vec<u16>,
    pub short: String,
    pub why: String,
    pub fix: String,
    pub limits: String,
    pub examples: Vec<CardExample>,
}

/// A vulnerable snippet beside its mended twin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardExample {
    pub language: String,
    pub vulnerable: String,
    pub fixed: String,
}

impl Card {
    /// The card of a rule.
    #[must_use]
    pub fn of(rule: &Rule) -> Self {
        let example = |example: &crate::finding::Example| CardExample {
            language: example.language.to_owned(),
            vulnerable: example.vulnerable.to_owned(),
            fixed: example.fixed.to_owned(),
        };
        Self {
            id: rule.id.to_owned(),
            name: rule.name.to_owned(),
            kind: sarif::kind_name(rule.kind).to_owned(),
            level: sarif::level_name(rule.level).to_owned(),
            cwe: rule.cwe.to_vec(),
            short: rule.short.to_owned(),
            why: rule.why.to_owned(),
            fix: rule.fix.to_owned(),
            limits: rule.limits.to_owned(),
            examples: rule.examples.iter().map(example).collect(),
        }
    }
}

/// One explanation file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub id: String,
    pub rule: Card,
    /// The SARIF result.
    pub result: sarif::Result,
    /// All of it in words.
    pub words: String,
}

impl Explanation {
    #[must_use]
    pub fn new(rule: &Rule, result: sarif::Result) -> Self {
        let rule = Card::of(rule);
        let words = explain(&rule, &result, Style::plain());
        Self {
            id: result.id().to_owned(),
            rule,
            result,
            words,
        }
    }
}

/// Why a finding cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("no finding has an id that begins with {id:?} in {dir}", dir = dir.display())]
    Unknown { id: String, dir: PathBuf },
    #[error("the id {id:?} begins {count} findings; give more of it")]
    Ambiguous { id: String, count: usize },
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no explanation of a finding: {source}", path = path.display())]
    Format {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// The explanation of the finding `id`, or of the only one whose id begins so, from a folder that `scan --results` or
/// `result` wrote.
pub fn explain_finding(results: &Path, id: &str, style: Style) -> Result<String, ExplainError> {
    let dir = results.join("explanations");
    let read_error = |path: &Path, source| ExplainError::Read {
        path: path.to_owned(),
        source,
    };
    let mut matches = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(|source| read_error(&dir, source))? {
        let path = entry.map_err(|source| read_error(&dir, source))?.path();
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if !id.is_empty()
            && stem.starts_with(id)
            && path
                .extension()
                .is_some_and(|extension| extension == "json")
        {
            matches.push(path);
        }
    }
    let path = match matches.as_slice() {
        [path] => path,
        [] => {
            return Err(ExplainError::Unknown {
                id: id.to_owned(),
                dir,
            });
        }
        more => {
            return Err(ExplainError::Ambiguous {
                id: id.to_owned(),
                count: more.len(),
            });
        }
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(EXPLANATION_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|source| read_error(path, source))?;
    let explanation: Explanation =
        serde_json::from_slice(&bytes).map_err(|source| ExplainError::Format {
            path: path.clone(),
            source,
        })?;
    Ok(explain(&explanation.rule, &explanation.result, style))
}
