//! Findings → what people and other programs read: SARIF, JSON lines, explanations, coverage, text.

pub(crate) mod build;
pub mod coverage;
pub mod explanations;
pub(crate) mod folder;
pub(crate) mod mask;
pub mod sarif;
pub(crate) mod spool;
pub mod summary;
pub mod text;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::finding::{Level, Rule};
use coverage::{Coverage, Status};
use explanations::Card;
use mask::Masker;
use spool::Spool;
use summary::Summary;
use text::Style;

/// Every rule of every engine, ordered by id: the table that `ruleIndex` points into.
#[must_use]
pub fn rules() -> &'static [&'static Rule] {
    static RULES: LazyLock<Vec<&'static Rule>> = LazyLock::new(|| {
        let mut rules: Vec<_> = crate::engine::rules()
            .iter()
            .chain(crate::secrets::rules())
            .copied()
            .collect();
        rules.sort_by_key(|rule| rule.id);
        rules
    });
    &RULES
}

/// The rule with this id.
#[must_use]
pub fn rule(id: &str) -> Option<&'static Rule> {
    rules()
        .get(rule_index(id))
        .copied()
        .filter(|rule| rule.id == id)
}

pub(crate) fn rule_index(id: &str) -> usize {
    rules().partition_point(|rule| rule.id < id)
}

/// What a scan found and looked at.
#[derive(Debug)]
pub struct Report {
    pub(crate) spool: Spool,
    pub(crate) masker: Masker,
    pub(crate) bases: Vec<sarif::Base>,
    /// What became of every entry, ordered by path.
    pub coverage: Coverage,
    pub summary: Summary,
    /// Files of the result folder, relative to it; empty when none was asked for.
    pub files: Vec<PathBuf>,
}

impl Report {
    /// All findings, ordered by path, place and rule.
    pub fn results(&self) -> impl Iterator<Item = io::Result<sarif::Result>> + '_ {
        self.spool.results(&self.masker)
    }

    /// The highest level among the findings.
    #[must_use]
    pub fn worst_level(&self) -> Option<Level> {
        let [notes, warnings, errors] = self.spool.counts();
        let by_level = [
            (errors, Level::Error),
            (warnings, Level::Warning),
            (notes, Level::Note),
        ];
        by_level
            .into_iter()
            .find(|(count, _)| *count > 0)
            .map(|(_, level)| level)
    }

    /// Writes one SARIF 2.1.0 log.
    pub fn write_sarif(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_sarif_from(out, &mut self.results())
    }

    pub(crate) fn write_sarif_from(
        &self,
        out: &mut dyn Write,
        results: &mut dyn Iterator<Item = io::Result<sarif::Result>>,
    ) -> io::Result<()> {
        let notifications = self.notifications();
        let header = sarif::Header {
            rules: rules(),
            bases: &self.bases,
            notifications: &notifications,
        };
        sarif::write(out, &header, results)
    }

    /// Writes `{"summary":…,"findings":[SARIF results…],"coverage":…}`.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"{\"summary\":")?;
        serde_json::to_writer(&mut *out, &self.summary)?;
        out.write_all(b",\"findings\":[")?;
        for (index, result) in self.results().enumerate() {
            out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, &result?)?;
        }
        out.write_all(b"\n],\"coverage\":")?;
        serde_json::to_writer(&mut *out, &self.coverage)?;
        out.write_all(b"}\n")
    }

    /// Writes the findings for a person.
    pub fn write_text(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        for result in self.results() {
            let result = result?;
            if let Some(rule) = rule(&result.rule_id) {
                writeln!(out, "{}", text::listed(&Card::of(rule), &result, style))?;
            }
        }
        out.write_all(text::closing(&self.summary, &self.coverage, style).as_bytes())
    }

    /// Files that were not read to their end, as notifications of the run; the first thousand.
    fn notifications(&self) -> Vec<sarif::Notification> {
        let truncated = self
            .coverage
            .files
            .iter()
            .filter(|row| row.status == Status::Truncated);
        truncated
            .take(1000)
            .map(|row| sarif::Notification {
                text: format!(
                    "not read to the end: {}",
                    row.reason.as_deref().unwrap_or_default()
                ),
                uri: crate::intake::percent_encoded(row.path.as_bytes()),
            })
            .collect()
    }
}

/// Puts a summary together.
pub(crate) fn summarise(
    input: Vec<String>,
    coverage: &Coverage,
    counts: [u64; 3],
    rules: BTreeMap<String, u64>,
) -> Summary {
    let mut languages = BTreeMap::new();
    let mut bytes = 0_u64;
    for row in coverage
        .files
        .iter()
        .filter(|row| row.status != Status::Skipped)
    {
        bytes = bytes.saturating_add(row.bytes.unwrap_or(0));
        if let Some(language) = &row.language {
            *languages.entry(language.clone()).or_insert(0) += 1;
        }
    }
    let [note, warning, error] = counts;
    Summary {
        tool: "munjigi".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        input,
        findings: summary::FindingCounts {
            error,
            warning,
            note,
        },
        rules,
        files: summary::FileCounts {
            analysed: coverage.count(Status::Analysed),
            skipped: coverage.count(Status::Skipped),
            truncated: coverage.count(Status::Truncated),
        },
        languages,
        bytes,
    }
}
