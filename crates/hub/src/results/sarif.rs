//! The little of SARIF that the hub understands: where `runs` begin and end, and what the rules are.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::store::results::{Member, Rule};

/// The name under which what stands between the brackets of `runs` is noted; no member can have it.
pub(super) const RUNS: &str = "report.sarif/runs";
/// What stands around the runs of several reports.
pub(super) const BEFORE: &str = "{\"$schema\":\"https://json.schemastore.org/sarif-2.1.0.json\",\"version\":\"2.1.0\",\"runs\":[";
pub(super) const AFTER: &str = "]}\n";
/// Rules of one report.
const RULES_MAX: usize = 10_000;

/// Finds the array `runs` of the outermost object, byte by byte, whatever the size.
#[derive(Debug, Default)]
pub(super) struct Runs {
    offset: u64,
    depth: u32,
    in_text: bool,
    escaped: bool,
    /// The text that is being read at depth 1, or was read last there.
    word: Vec<u8>,
    /// The last text at depth 1 was the key `runs`.
    next: bool,
    start: Option<u64>,
    end: Option<u64>,
}

impl Runs {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.byte(*byte);
            self.offset += 1;
        }
    }

    fn byte(&mut self, byte: u8) {
        if self.in_text {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_text = false,
                _ if self.depth == 1 && self.word.len() < 8 => self.word.push(byte),
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_text = true;
                if self.depth == 1 {
                    self.word.clear();
                }
            }
            b':' if self.depth == 1 => self.next = self.word == b"runs",
            b'{' | b'[' => {
                if self.depth == 1 && self.next && byte == b'[' && self.start.is_none() {
                    self.start = Some(self.offset + 1);
                }
                self.depth = self.depth.saturating_add(1);
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 1 && self.start.is_some() && self.end.is_none() {
                    self.end = Some(self.offset);
                }
            }
            b',' if self.depth == 1 => self.next = false,
            _ => {}
        }
    }

    /// What stands between the brackets; `None` when there is no whole object, or it has no runs.
    pub(super) fn found(&self) -> Option<Range<u64>> {
        let whole = self.depth == 0 && !self.in_text;
        let range = self.start?..self.end?;
        (whole && !range.is_empty()).then_some(range)
    }
}

#[derive(Deserialize)]
struct Log {
    #[serde(default)]
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    tool: Tool,
}

#[derive(Deserialize)]
struct Tool {
    driver: Driver,
}

#[derive(Deserialize)]
struct Driver {
    #[serde(default)]
    rules: Vec<Value>,
}

/// The rules of the report that lies at `report` in `parts`. A report that can't be read has none.
pub(super) fn rules(parts: &File, report: &Member) -> io::Result<Vec<(String, Rule)>> {
    let mut parts = parts.try_clone()?;
    parts.seek(SeekFrom::Start(report.start))?;
    let reader = BufReader::with_capacity(256 * 1024, parts.take(report.length));
    // Results are skipped as they are read: only rules are held.
    let log: Log = match serde_json::from_reader(reader) {
        Ok(log) => log,
        Err(error) if error.is_io() => return Err(error.into()),
        Err(_) => return Ok(Vec::new()),
    };
    Ok(log
        .runs
        .iter()
        .flat_map(|run| &run.tool.driver.rules)
        .take(RULES_MAX)
        .filter_map(rule)
        .collect())
}

fn rule(descriptor: &Value) -> Option<(String, Rule)> {
    let text = |pointer: &str| descriptor.pointer(pointer).and_then(Value::as_str);
    let id = text("/id")?.to_owned();
    let cwe = descriptor
        .pointer("/properties/tags")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter_map(|tag| tag.strip_prefix("external/cwe/cwe-")?.parse().ok())
        .collect();
    let card = json!({
        "short": text("/shortDescription/text"),
        "why": text("/fullDescription/text"),
        "fix": text("/help/text"),
        "examples": [],
    });
    Some((
        id,
        Rule {
            name: text("/name")
                .or_else(|| text("/shortDescription/text"))
                .map(str::to_owned),
            cwe,
            card: Some(card.to_string()),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_whatever_stands_around_them() {
        for (report, expected) in [
            (
                r#"{"runs":[{"a":1},{"b":[2]}]}"#,
                Some(r#"{"a":1},{"b":[2]}"#),
            ),
            (
                r#"{"x":{"runs":[9]},"runs" : [ {"t":"]}\"["} ] ,"y":"runs"}"#,
                Some(r#" {"t":"]}\"["} "#),
            ),
            (r#"{"y":"runs","z":[1]}"#, None),
            (r#"{"runs":[]}"#, None),
            (r#"{"runs":[{"cut":"#, None),
            (r#"{"runs":7}"#, None),
            ("", None),
        ] {
            for step in [1, 3, 1_000] {
                let mut runs = Runs::default();
                for chunk in report.as_bytes().chunks(step) {
                    runs.feed(chunk);
                }
                let found = runs.found().map(|range| {
                    let range =
                        usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                    report.get(range).unwrap()
                });
                assert_eq!(found, expected, "{report}");
            }
        }
    }
}
