//! The result folder of a foreign report (contract §8): its findings with our places, levels and fingerprints.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::place::Places;
use super::report::{Report, ReportError, RunHead};
use super::{Listener, TELL, Task};
use crate::report::coverage::{Coverage, Row};
use crate::report::folder::Folder;
use crate::report::summarise;
use crate::report::summary::Summary;

/// A finding larger than this is told in short; the folder has it in full. In bytes.
const TOLD_BYTES_MAX: usize = 256 * 1024;
/// What of it is told then.
const TOLD: [&str; 6] = [
    "ruleId",
    "level",
    "kind",
    "message",
    "locations",
    "partialFingerprints",
];
/// Bytes of one of those.
const TOLD_PART_MAX: usize = 32 * 1024;
/// Our fingerprint.
const FINGERPRINT: &str = "munjigi/v1";
/// Characters of a message that is made from a rule's.
const MESSAGE_MAX: usize = 4_000;

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("the result can't be written: {0}")]
    Io(#[from] io::Error),
    #[error("cancelled")]
    Cancelled,
}

/// Reads the report at `path`, of a tool that looked at `tree`, and writes the result folder of `task`; each finding is
/// told on the way.
///
/// # Errors
/// When the report is no SARIF 2.1.0 or too large, the folder can't be written, or the run was cancelled.
pub fn convert(
    task: &Task<'_>,
    path: &Path,
    tree: &Path,
    coverage: Vec<Row>,
    listener: &dyn Listener,
) -> Result<Summary, ConvertError> {
    let places = Places::new(task.name, tree, &coverage)?;
    let mut report = Report::open(path)?;
    let mut runs = std::mem::take(&mut report.runs);
    for run in &mut runs {
        tag_rules(run);
    }
    let mut folder = Folder::create(task.output)?;
    let create = |name: &str| File::create(task.output.join(name)).map(BufWriter::new);
    let mut writer = Writer {
        runs: &runs,
        places,
        lines: create("findings.jsonl")?,
        log: Sarif::new(create("report.sarif")?)?,
        seen: HashMap::new(),
        counts: [0; 3],
        rules: BTreeMap::new(),
        told: Instant::now(),
        listener,
    };
    let mut failed = None;
    report.results(&mut |run, result| match writer.take(run, result) {
        Ok(()) => true,
        Err(error) => {
            failed = Some(error);
            false
        }
    })?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    let Writer {
        places,
        mut lines,
        log,
        counts,
        rules,
        ..
    } = writer;
    lines.flush()?;
    log.finish(&runs)?;
    for (place, text) in places.sources() {
        folder.source(&place, &text)?;
    }
    let coverage = Coverage { files: coverage };
    let summary = summarise(vec![task.name.to_owned()], &coverage, counts, rules);
    for (name, value) in [
        ("coverage.json", json!(coverage)),
        ("summary.json", json!(summary)),
    ] {
        let mut out = create(name)?;
        serde_json::to_writer_pretty(&mut out, &value).map_err(io::Error::from)?;
        out.flush()?;
    }
    Ok(summary)
}

struct Writer<'w> {
    runs: &'w [RunHead],
    places: Places,
    lines: BufWriter<File>,
    log: Sarif,
    /// How often a fingerprint came.
    seen: HashMap<[u8; 16], u32>,
    /// Notes, warnings, errors.
    counts: [u64; 3],
    rules: BTreeMap<String, u64>,
    told: Instant,
    listener: &'w dyn Listener,
}

impl Writer<'_> {
    fn take(&mut self, run: usize, mut result: Value) -> Result<(), ConvertError> {
        if self.listener.cancelled() {
            return Err(ConvertError::Cancelled);
        }
        let Some(head) = self.runs.get(run) else {
            return Ok(());
        };
        if is_suppressed(&result) {
            return Ok(());
        }
        let rule = head.tool.rule_of(&result);
        let Some(level) = level_of(&result, rule) else {
            return Ok(());
        };
        let id = rule_id(&result, rule);
        let message = message_of(&result, rule);
        let file = self.places.rewrite(head, &mut result);
        let print = self.fingerprint(&id, &message, file.as_deref(), &result);
        if let Some(members) = result.as_object_mut() {
            members.insert("ruleId".to_owned(), json!(id));
            members.insert("level".to_owned(), json!(level));
            let prints = members
                .entry("partialFingerprints")
                .or_insert_with(|| json!({}));
            match prints.as_object_mut() {
                Some(prints) => drop(prints.entry(FINGERPRINT).or_insert(json!(print))),
                None => *prints = json!({ FINGERPRINT: print }),
            }
            let words = members.entry("message").or_insert_with(|| json!({}));
            match words.as_object_mut() {
                Some(words) => drop(words.entry("text").or_insert(json!(message))),
                None => *words = json!({ "text": message }),
            }
        }
        self.keep(run, level, id, &result)
    }

    fn keep(
        &mut self,
        run: usize,
        level: &'static str,
        id: String,
        result: &Value,
    ) -> Result<(), ConvertError> {
        let line = result.to_string();
        self.lines.write_all(line.as_bytes())?;
        self.lines.write_all(b"\n")?;
        self.log.result(self.runs, run, &line)?;
        let count = match level {
            "error" => &mut self.counts[2],
            "warning" => &mut self.counts[1],
            _ => &mut self.counts[0],
        };
        *count += 1;
        *self.rules.entry(id).or_insert(0) += 1;
        if line.len() > TOLD_BYTES_MAX {
            self.listener.finding(&in_short(result));
        } else {
            self.listener.finding(result);
        }
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            let done = self.counts.iter().sum();
            self.listener.progress("report", done, "findings");
        }
        Ok(())
    }

    /// Of the rule, the file and the line it is in, not of the line's number: unchanged by edits elsewhere.
    fn fingerprint(
        &mut self,
        id: &str,
        message: &str,
        file: Option<&Path>,
        result: &Value,
    ) -> String {
        let line = result
            .pointer("/locations/0/physicalLocation/region/startLine")
            .and_then(Value::as_u64)
            .unwrap_or(1);
        let mut hasher = blake3::Hasher::new();
        let file_name = file.map(|file| file.to_string_lossy().into_owned());
        let text = file.and_then(|file| self.places.line(file, line));
        for part in [
            id,
            file_name.as_deref().unwrap_or(""),
            text.unwrap_or(message),
        ] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        let nth = self.seen.entry(key).or_insert(0);
        *nth += 1;
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}:{nth}")
    }
}

/// True for what the tool was told to be quiet about (SARIF §3.27.23).
fn is_suppressed(result: &Value) -> bool {
    let accepted = |one: &Value| {
        let status = one.get("status").and_then(Value::as_str);
        status.is_none_or(|status| status == "accepted")
    };
    result
        .get("suppressions")
        .and_then(Value::as_array)
        .is_some_and(|all| !all.is_empty() && all.iter().all(accepted))
}

/// The level of a finding (SARIF §3.27.10); `None` for a result that is none, such as a check that passed.
fn level_of(result: &Value, rule: Option<&Value>) -> Option<&'static str> {
    let kind = result.get("kind").and_then(Value::as_str).unwrap_or("fail");
    if matches!(kind, "pass" | "notApplicable") {
        return None;
    }
    if kind != "fail" {
        return Some("note");
    }
    let said = result.get("level").and_then(Value::as_str).or_else(|| {
        rule?
            .pointer("/defaultConfiguration/level")
            .and_then(Value::as_str)
    });
    Some(match said {
        Some("error") => "error",
        Some("note" | "none") => "note",
        _ => "warning",
    })
}

fn rule_id(result: &Value, rule: Option<&Value>) -> String {
    [result.get("ruleId"), result.pointer("/rule/id")]
        .into_iter()
        .chain([rule.and_then(|rule| rule.get("id"))])
        .flatten()
        .find_map(Value::as_str)
        .unwrap_or("unnamed")
        .to_owned()
}

/// The message, its own or its rule's with the arguments filled in (SARIF §3.11).
fn message_of(result: &Value, rule: Option<&Value>) -> String {
    if let Some(text) = result.pointer("/message/text").and_then(Value::as_str) {
        return text.to_owned();
    }
    let id = result.pointer("/message/id").and_then(Value::as_str);
    let of_rule = rule.and_then(|rule| {
        let named = id.and_then(|id| rule.get("messageStrings")?.get(id)?.get("text"));
        named.or_else(|| rule.pointer("/shortDescription/text"))
    });
    let text = of_rule.and_then(Value::as_str).unwrap_or_default();
    let mut text: String = text.chars().take(MESSAGE_MAX).collect();
    let arguments = result
        .pointer("/message/arguments")
        .and_then(Value::as_array);
    for (number, argument) in arguments.into_iter().flatten().take(20).enumerate() {
        let argument = argument.as_str().unwrap_or_default();
        text = text.replace(&format!("{{{number}}}"), argument);
        text = text.chars().take(MESSAGE_MAX).collect();
    }
    text
}

/// The parts of a large finding that fit.
fn in_short(result: &Value) -> Value {
    let parts = TOLD.iter().filter_map(|name| {
        let part = result.get(*name)?;
        (part.to_string().len() <= TOLD_PART_MAX).then(|| ((*name).to_owned(), part.clone()))
    });
    Value::Object(parts.collect::<Map<_, _>>())
}

/// Adds the tags by which weaknesses are looked for, where a tool names them otherwise: `CWE-89: SQL injection`.
fn tag_rules(run: &mut RunHead) {
    let components = std::iter::once(&mut run.tool.driver).chain(&mut run.tool.extensions);
    let rules = components
        .filter_map(|component| component.get_mut("rules")?.as_array_mut())
        .flatten();
    for rule in rules {
        let Some(tags) = rule.pointer_mut("/properties/tags") else {
            continue;
        };
        let Some(tags) = tags.as_array_mut() else {
            continue;
        };
        let named: Vec<Value> = tags
            .iter()
            .filter_map(|tag| weakness(tag.as_str()?))
            .map(|number| json!(format!("external/cwe/cwe-{number:03}")))
            .collect();
        for tag in named {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
    }
}

/// 89 for `CWE-89: …`, `cwe-089`.
fn weakness(tag: &str) -> Option<u32> {
    let (head, rest) = tag.split_at_checked(4)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    head.eq_ignore_ascii_case("cwe-")
        .then(|| digits.parse().ok())
        .flatten()
}

/// One log, written as its results come.
struct Sarif {
    out: BufWriter<File>,
    /// The run that is open, and whether it has results.
    at: Option<(usize, bool)>,
}

impl Sarif {
    fn new(mut out: BufWriter<File>) -> io::Result<Self> {
        out.write_all(
            b"{\"$schema\":\"https://json.schemastore.org/sarif-2.1.0.json\",\"version\":\"2.1.0\",\"runs\":[",
        )?;
        Ok(Self { out, at: None })
    }

    fn result(&mut self, runs: &[RunHead], run: usize, line: &str) -> io::Result<()> {
        self.open(runs, run)?;
        let first = !matches!(self.at, Some((_, true)));
        self.out.write_all(if first { b"\n" } else { b",\n" })?;
        self.out.write_all(line.as_bytes())?;
        self.at = Some((run, true));
        Ok(())
    }

    /// Closes the runs before `run` and opens it.
    fn open(&mut self, runs: &[RunHead], run: usize) -> io::Result<()> {
        loop {
            let next = match self.at {
                Some((at, _)) if at >= run => return Ok(()),
                Some((at, _)) => {
                    self.out.write_all(b"\n]},")?;
                    at + 1
                }
                None => 0,
            };
            let Some(head) = runs.get(next) else {
                return Ok(());
            };
            let mut members = json!({
                "tool": {"driver": head.tool.driver, "extensions": head.tool.extensions},
                "originalUriBaseIds": {"PATH": {"description": {"text": "the upload"}}},
            });
            if let (Some(kind), Some(members)) = (&head.column_kind, members.as_object_mut()) {
                members.insert("columnKind".to_owned(), json!(kind));
            }
            let members = members.to_string();
            let open = members.strip_suffix('}').unwrap_or(&members);
            write!(self.out, "{open},\"results\":[")?;
            self.at = Some((next, false));
        }
    }

    fn finish(mut self, runs: &[RunHead]) -> io::Result<()> {
        if let Some(last) = runs.len().checked_sub(1) {
            self.open(runs, last)?;
            self.out.write_all(b"\n]}")?;
        }
        self.out.write_all(b"]}\n")?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_come_from_the_result_or_its_rule() {
        let rule = json!({"defaultConfiguration": {"level": "error"}});
        for (result, rule, level) in [
            (json!({"level": "note"}), Some(&rule), Some("note")),
            (json!({}), Some(&rule), Some("error")),
            (json!({}), None, Some("warning")),
            (json!({"level": "none"}), None, Some("note")),
            (json!({"level": 7}), None, Some("warning")),
            (json!({"kind": "pass"}), Some(&rule), None),
            (json!({"kind": "notApplicable"}), None, None),
            (json!({"kind": "review"}), Some(&rule), Some("note")),
        ] {
            assert_eq!(level_of(&result, rule), level, "{result}");
        }
    }

    #[test]
    fn messages_come_from_the_result_or_its_rule() {
        let rule = json!({"messageStrings": {"m": {"text": "{0} reaches {1}"}}, "shortDescription": {"text": "short"}});
        for (result, text) in [
            (json!({"message": {"text": "own"}}), "own"),
            (
                json!({"message": {"id": "m", "arguments": ["a", "b"]}}),
                "a reaches b",
            ),
            (json!({"message": {"id": "x"}}), "short"),
            (json!({}), "short"),
        ] {
            assert_eq!(message_of(&result, Some(&rule)), text, "{result}");
        }
        assert_eq!(message_of(&json!({"message": 7}), None), "");
        // Arguments that hold arguments don't grow without bound.
        let grow = json!({"messageStrings": {"m": {"text": "{0}{0}{0}"}}});
        let arguments: Vec<String> = (0..20)
            .map(|n| format!("{{{}}}", n + 1).repeat(50))
            .collect();
        let result = json!({"message": {"id": "m", "arguments": arguments}});
        assert!(message_of(&result, Some(&grow)).len() <= MESSAGE_MAX);
    }

    #[test]
    fn suppressed_results_and_weaknesses_are_told_apart() {
        for (suppressions, expected) in [
            (json!([]), false),
            (json!([{"kind": "inSource"}]), true),
            (json!([{"kind": "external", "status": "accepted"}]), true),
            (
                json!([{"kind": "external", "status": "underReview"}]),
                false,
            ),
            (json!(null), false),
        ] {
            let result = json!({ "suppressions": suppressions });
            assert_eq!(is_suppressed(&result), expected, "{result}");
        }
        for (tag, number) in [
            ("CWE-89: Improper Neutralization", Some(89)),
            ("cwe-089", Some(89)),
            ("CWE-", None),
            ("OWASP-A03", None),
            ("한글", None),
        ] {
            assert_eq!(weakness(tag), number, "{tag}");
        }
    }

    #[test]
    fn a_large_finding_is_told_in_short() {
        let result = json!({"ruleId": "a", "level": "error", "codeFlows": "x".repeat(1000), "message": {"text": "y".repeat(TOLD_PART_MAX)}});
        assert_eq!(in_short(&result), json!({"ruleId": "a", "level": "error"}));
    }
}
