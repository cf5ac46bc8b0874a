//! A foreign report: read twice, so that its results, which may be many, are never together in memory.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use super::place::{Bases, Location};

/// Largest report that is read, in bytes.
const REPORT_BYTES_MAX: u64 = 256 << 20;
/// Results of one report.
const RESULTS_MAX: u64 = 100_000;
/// Runs of one report.
const RUNS_MAX: usize = 256;

/// What is wrong with a report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("there is no report: {0}")]
    Missing(io::Error),
    #[error("the report is empty")]
    Empty,
    #[error("the report has {0} bytes, {REPORT_BYTES_MAX} is the limit")]
    TooLarge(u64),
    #[error("the report is of version {0:?}")]
    Version(String),
    #[error("the report has more than {RUNS_MAX} runs, the limit")]
    Runs,
    #[error("the report has more than {RESULTS_MAX} results, the limit")]
    Results,
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("the report can't be read: {0}")]
    Io(#[from] io::Error),
}

#[derive(Deserialize)]
struct Log {
    version: String,
    runs: Vec<RunHead>,
}

/// A run without its results (SARIF §3.14).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunHead {
    pub(super) tool: Tool,
    #[serde(default)]
    pub(super) artifacts: Vec<Artifact>,
    #[serde(default)]
    pub(super) original_uri_base_ids: Bases,
    pub(super) column_kind: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Artifact {
    #[serde(default)]
    pub(super) location: Location,
}

/// `tool` (SARIF §3.18), as it is passed on.
#[derive(Debug, Deserialize)]
pub(super) struct Tool {
    pub(super) driver: Map<String, Value>,
    #[serde(default)]
    pub(super) extensions: Vec<Map<String, Value>>,
}

impl Tool {
    /// The rule that a result names (SARIF §3.27.5 to §3.27.7).
    pub(super) fn rule_of(&self, result: &Value) -> Option<&Value> {
        let index = |pointer: &str| {
            let number = result.pointer(pointer)?.as_u64()?;
            usize::try_from(number).ok()
        };
        let component = index("/rule/toolComponent/index");
        let component = match component {
            Some(index) => self.extensions.get(index)?,
            None => &self.driver,
        };
        if let Some(at) = index("/ruleIndex").or_else(|| index("/rule/index")) {
            return rules(component).get(at);
        }
        let id = result
            .get("ruleId")
            .or_else(|| result.pointer("/rule/id"))?;
        let id = id.as_str()?;
        let named = |wanted: &str| {
            std::iter::once(&self.driver)
                .chain(&self.extensions)
                .flat_map(rules)
                .find(|rule| rule.get("id").and_then(Value::as_str) == Some(wanted))
        };
        // A result may name a rule below the one that is described: `CA1000/1`.
        named(id).or_else(|| named(id.rsplit_once('/')?.0))
    }
}

fn rules(component: &Map<String, Value>) -> &[Value] {
    let rules = component.get("rules").and_then(Value::as_array);
    rules.map_or(&[], Vec::as_slice)
}

/// A report that is SARIF 2.1.0, as far as its runs.
#[derive(Debug)]
pub(super) struct Report {
    file: File,
    pub(super) runs: Vec<RunHead>,
}

impl Report {
    /// Reads everything but the results.
    pub(super) fn open(path: &Path) -> Result<Self, ReportError> {
        let mut file = File::open(path).map_err(ReportError::Missing)?;
        let bytes = file.metadata()?.len();
        if bytes > REPORT_BYTES_MAX {
            return Err(ReportError::TooLarge(bytes));
        }
        if bytes == 0 {
            return Err(ReportError::Empty);
        }
        let log = read_log(&mut file)?;
        if log.version != "2.1.0" {
            return Err(ReportError::Version(log.version.chars().take(20).collect()));
        }
        if log.runs.len() > RUNS_MAX {
            return Err(ReportError::Runs);
        }
        Ok(Self {
            file,
            runs: log.runs,
        })
    }

    /// Passes on each result with the index of its run, in the order of the report; false ends the reading.
    pub(super) fn results(
        &mut self,
        each: &mut dyn FnMut(usize, Value) -> bool,
    ) -> Result<(), ReportError> {
        let (mut left, mut ended) = (RESULTS_MAX, None);
        let mut count = |run, result| {
            if left == 0 {
                ended = Some(true);
                return false;
            }
            left -= 1;
            let goes_on = each(run, result);
            if !goes_on {
                ended = Some(false);
            }
            goes_on
        };
        let part = Part {
            depth: Depth::Log,
            run: 0,
            each: &mut count,
        };
        let read = part.deserialize(&mut serde_json::Deserializer::from_reader(text(
            &mut self.file,
        )?));
        match ended {
            Some(true) => Err(ReportError::Results),
            Some(false) => Ok(()),
            None => Ok(read?),
        }
    }
}

fn read_log(file: &mut File) -> Result<Log, ReportError> {
    let mut json = serde_json::Deserializer::from_reader(text(file)?);
    let log = Log::deserialize(&mut json)?;
    json.end()?;
    Ok(log)
}

/// The report from its beginning, without the byte order mark that some tools write.
fn text(file: &mut File) -> io::Result<impl Read + '_> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    Ok(reader)
}

/// Where in the report a value stands.
#[derive(Debug, Clone, Copy)]
enum Depth {
    Log,
    Runs,
    Run,
    Results,
}

/// A part of the report on the way to its results.
struct Part<'e> {
    depth: Depth,
    run: usize,
    each: &'e mut dyn FnMut(usize, Value) -> bool,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.depth {
            Depth::Log => "a SARIF log",
            Depth::Runs => "a list of runs",
            Depth::Run => "a run",
            Depth::Results => "a list of results",
        })
    }

    /// `"results": null` stands for a run that had no business to find any.
    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        match self.depth {
            Depth::Results => Ok(()),
            _ => Err(E::invalid_type(serde::de::Unexpected::Unit, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let (wanted, depth) = match self.depth {
            Depth::Log => ("runs", Depth::Runs),
            Depth::Run => ("results", Depth::Results),
            Depth::Runs | Depth::Results => {
                return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self));
            }
        };
        while let Some(name) = members.next_key::<String>()? {
            if name == wanted {
                members.next_value_seed(Part {
                    depth,
                    run: self.run,
                    each: &mut *self.each,
                })?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        match self.depth {
            Depth::Runs => {
                let mut run = 0;
                while let Some(()) = values.next_element_seed(Part {
                    depth: Depth::Run,
                    run,
                    each: &mut *self.each,
                })? {
                    run += 1;
                }
                Ok(())
            }
            Depth::Results => {
                while let Some(result) = values.next_element::<Value>()? {
                    if !result.is_object() {
                        return Err(A::Error::custom("a result is no object"));
                    }
                    if !(self.each)(self.run, result) {
                        return Err(A::Error::custom("no more is wanted"));
                    }
                }
                Ok(())
            }
            Depth::Log | Depth::Run => {
                Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn results(text: &str) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut found = Vec::new();
        Report::open(file.path())
            .and_then(|mut report| {
                report.results(&mut |_, result| {
                    found.push(result["ruleId"].to_string());
                    true
                })
            })
            .map(|()| found)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn results_are_found_wherever_their_run_has_them() {
        let run = |results: Value| json!({"results": results, "tool": {"driver": {"name": "t"}}, "artifacts": []});
        let log = json!({"runs": [run(json!([{"ruleId": 1}])), run(json!(null)), run(json!([{"ruleId": 2}, {}]))], "version": "2.1.0"});
        let text = log.to_string();
        let expected = ["1", "2", "null"];
        assert_eq!(results(&text).unwrap(), expected);
        assert_eq!(results(&format!("\u{feff}{text}\n")).unwrap(), expected);
    }

    #[test]
    fn what_is_no_sarif_is_said() {
        let tool = r#""tool":{"driver":{"name":"t"}}"#;
        for (text, part) in [
            (String::new(), "empty"),
            ("no findings".to_owned(), "expected"),
            ("{}".to_owned(), "missing field `version`"),
            (r#"{"version":"2.1.0"}"#.to_owned(), "missing field `runs`"),
            (r#"{"version":"2.0.0","runs":[]}"#.to_owned(), "2.0.0"),
            (
                r#"{"version":"2.1.0","runs":[{}]}"#.to_owned(),
                "missing field `tool`",
            ),
            (
                format!(r#"{{"version":"2.1.0","runs":[{{{tool},"results":7}}]}}"#),
                "list of results",
            ),
            (
                format!(r#"{{"version":"2.1.0","runs":[{{{tool},"results":[7]}}]}}"#),
                "no object",
            ),
            (format!(r#"{{"version":"2.1.0","runs":[{{{tool}}}]"#), "EOF"),
            (
                format!(r#"{{"version":"2.1.0","runs":[{{{tool}}}]}} more"#),
                "trailing",
            ),
            (
                format!(
                    r#"{{"version":"2.1.0","runs":[{{{tool},"results":[{}{}]}}]}}"#,
                    "[".repeat(10_000),
                    "]".repeat(10_000)
                ),
                "recursion",
            ),
        ] {
            let error = results(&text).unwrap_err();
            assert!(error.contains(part), "{text:.60}: {error}");
        }
        let many = format!(
            r#"{{"version":"2.1.0","runs":[{{{tool},"results":[{{}}{}]}}]}}"#,
            ",{}".repeat(100_000)
        );
        assert!(results(&many).unwrap_err().contains("100000 results"));
    }

    #[test]
    fn a_result_finds_its_rule() {
        let tool: Tool = serde_json::from_value(json!({
            "driver": {"name": "t", "rules": [{"id": "a"}, {"id": "b"}]},
            "extensions": [{"name": "x", "rules": [{"id": "c"}]}],
        }))
        .unwrap();
        for (result, id) in [
            (json!({"ruleId": "b"}), Some("b")),
            (json!({"ruleId": "b/2"}), Some("b")),
            (json!({"ruleIndex": 0, "ruleId": "b"}), Some("a")),
            (json!({"rule": {"id": "c"}}), Some("c")),
            (
                json!({"rule": {"index": 0, "toolComponent": {"index": 0}}}),
                Some("c"),
            ),
            (
                json!({"rule": {"index": 0, "toolComponent": {"index": 7}}}),
                None,
            ),
            (json!({"ruleIndex": 9}), None),
            (json!({"ruleIndex": -1}), None),
            (json!({}), None),
        ] {
            let found = tool
                .rule_of(&result)
                .map(|rule| rule["id"].as_str().unwrap());
            assert_eq!(found, id, "{result}");
        }
    }
}
