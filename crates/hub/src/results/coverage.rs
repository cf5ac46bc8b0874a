//! What a result says of its input as a whole: how much was looked at, what was left out, and why.
//!
//! `coverage.json` has a row for each entry of the input; a reader wants the reasons, with how often each holds.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::store::results::Member;

/// The member of the parts that holds the summary.
pub(super) const SUMMARY: &str = "coverage.json/summary";
/// The file of the result that it is made of.
pub(super) const MEMBER: &str = "coverage.json";
/// Reasons that are told apart; the rest of the entries count as one.
const REASONS_MAX: usize = 100;
/// Places that are named for a reason.
const EXAMPLES: usize = 3;
/// Bytes of a text in `coverage.json`: one that is longer is none that a model of good will writes.
const TEXT_MAX: usize = 64 * 1024;
/// Characters of a reason or a place that are kept.
const SHOWN_MAX: usize = 500;

/// What is known of the input's entries.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    analysed: u64,
    skipped: u64,
    truncated: u64,
    /// The most frequent first.
    reasons: Vec<Reason>,
    /// Entries whose reason is not among `reasons`.
    #[serde(rename = "otherReasons")]
    other: u64,
}

/// Why entries were left out, or not read to their end.
#[derive(Debug, Serialize)]
struct Reason {
    status: Status,
    reason: String,
    count: u64,
    examples: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Analysed,
    Skipped,
    Truncated,
}

#[derive(Deserialize)]
struct Row {
    path: String,
    status: Status,
    #[serde(default)]
    reason: String,
    count: Option<u64>,
}

#[derive(Deserialize)]
struct Coverage {
    files: Rows,
}

/// Counted as they are read, not held.
struct Rows(Summary);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Counting)
    }
}

struct Counting;

impl<'de> Visitor<'de> for Counting {
    type Value = Rows;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rows of coverage")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Rows, A::Error> {
        let mut summary = Summary::default();
        let mut reasons = BTreeMap::new();
        while let Some(row) = rows.next_element::<Row>()? {
            summary.count(row, &mut reasons);
        }
        summary.reasons = reasons.into_values().collect();
        summary
            .reasons
            .sort_by(|a, b| (b.count, &a.reason).cmp(&(a.count, &b.reason)));
        Ok(Rows(summary))
    }
}

impl Summary {
    fn count(&mut self, row: Row, reasons: &mut BTreeMap<(Status, String), Reason>) {
        let entries = row.count.unwrap_or(1);
        let total = match row.status {
            Status::Analysed => &mut self.analysed,
            Status::Skipped => &mut self.skipped,
            Status::Truncated => &mut self.truncated,
        };
        *total = total.saturating_add(entries);
        if row.status == Status::Analysed {
            return;
        }
        let key = (row.status, shown(&row.reason));
        if reasons.len() >= REASONS_MAX && !reasons.contains_key(&key) {
            self.other = self.other.saturating_add(entries);
            return;
        }
        let reason = reasons
            .entry(key)
            .or_insert_with_key(|(status, reason)| Reason {
                status: *status,
                reason: reason.clone(),
                count: 0,
                examples: Vec::new(),
            });
        reason.count = reason.count.saturating_add(entries);
        if reason.examples.len() < EXAMPLES {
            reason.examples.push(shown(&row.path));
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

/// The summary of the `coverage.json` that lies at `member` in `parts`; `None` when it is none.
///
/// # Errors
/// When `parts` can't be read.
pub(super) fn summary(parts: &File, member: &Member) -> io::Result<Option<Summary>> {
    let mut parts = parts.try_clone()?;
    parts.seek(SeekFrom::Start(member.start))?;
    let texts = Texts {
        inner: parts.take(member.length),
        inside: false,
        escaped: false,
        length: 0,
    };
    match read(BufReader::with_capacity(64 * 1024, texts)) {
        Ok(summary) => Ok(Some(summary)),
        Err(error) if error.io_error_kind() == Some(io::ErrorKind::InvalidData) => Ok(None),
        Err(error) if error.is_io() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

fn read(reader: impl Read) -> serde_json::Result<Summary> {
    let mut json = serde_json::Deserializer::from_reader(reader);
    let coverage = Coverage::deserialize(&mut json)?;
    // Nothing but space may follow.
    json.end()?;
    Ok(coverage.files.0)
}

/// Ends with an error where a text of the JSON that passes is longer than [`TEXT_MAX`]: texts are held in memory.
struct Texts<R> {
    inner: R,
    inside: bool,
    escaped: bool,
    length: usize,
}

impl<R: Read> Read for Texts<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        for byte in buffer.get(..read).unwrap_or_default() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = self.inside,
                b'"' => {
                    self.inside = !self.inside;
                    self.length = 0;
                }
                _ => {}
            }
            self.length += usize::from(self.inside);
            if self.length > TEXT_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn summarised(text: &str) -> Option<Value> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("before{text}")).unwrap();
        let member = Member {
            path: MEMBER.to_owned(),
            start: 6,
            length: u64::try_from(text.len()).unwrap(),
        };
        let summary = summary(file.as_file(), &member).unwrap();
        summary.map(|summary| serde_json::to_value(summary).unwrap())
    }

    #[test]
    fn entries_are_counted_by_what_became_of_them_and_why() {
        let rows = json!({"files": [
            {"path": "a.zip!/a.py", "status": "analysed", "bytes": 3, "language": "python"},
            {"path": "a.zip!/l.png", "status": "skipped", "reason": "binary"},
            {"path": "a.zip!/…", "status": "skipped", "reason": "too many", "count": 40},
            {"path": "a.zip!/m.png", "status": "skipped", "reason": "binary"},
            {"path": "a.zip", "status": "truncated", "reason": "damaged"},
        ]});
        assert_eq!(
            summarised(&rows.to_string()).unwrap(),
            json!({"analysed": 1, "skipped": 42, "truncated": 1, "otherReasons": 0, "reasons": [
                {"status": "skipped", "reason": "too many", "count": 40, "examples": ["a.zip!/…"]},
                {"status": "skipped", "reason": "binary", "count": 2, "examples": ["a.zip!/l.png", "a.zip!/m.png"]},
                {"status": "truncated", "reason": "damaged", "count": 1, "examples": ["a.zip"]},
            ]})
        );
    }

    #[test]
    fn many_reasons_and_long_ones_are_bounded() {
        let rows: Vec<Value> = (0..150)
            .map(|n| json!({"path": "x".repeat(600), "status": "skipped", "reason": n.to_string()}))
            .collect();
        let summary = summarised(&json!({ "files": rows }).to_string()).unwrap();
        assert_eq!(summary["skipped"], 150);
        assert_eq!(summary["otherReasons"], 50);
        let example = summary["reasons"][0]["examples"][0].as_str().unwrap();
        assert_eq!(example.len(), SHOWN_MAX);
    }

    #[test]
    fn what_is_no_coverage_has_no_summary() {
        let long = "x".repeat(TEXT_MAX + 1);
        let escaped = "\\\"".repeat(TEXT_MAX);
        for text in [
            "",
            "[]",
            "{}",
            "{\"files\": 7}",
            "{\"files\": [{\"path\": \"a\", \"status\": \"eaten\"}]}",
            "{\"files\": []} more",
            &format!("{{\"files\": [{{\"path\": \"{long}\", \"status\": \"skipped\"}}]}}"),
            &format!("{{\"files\": [{{\"path\": \"{escaped}\", \"status\": \"skipped\"}}]}}"),
        ] {
            assert_eq!(summarised(text), None, "{text:.60}");
        }
        assert!(summarised("{\"files\": [], \"more\": [1]}").is_some());
    }
}
