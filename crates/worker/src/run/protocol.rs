//! What a model says (contract §7), line by line, and how much of it is listened to. No I/O.

use munjigi_events::{EVENT_BYTES_MAX, Progress};
use serde::Deserialize;
use serde_json::Value;

/// The longest line of a model.
pub(crate) const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes of output in one run.
const OUTPUT_BYTES_MAX: u64 = 4 << 30;
/// Lines that are no protocol before the model is taken to be broken.
const GARBAGE_MAX: u64 = 1_000;
/// Findings of one run.
pub(crate) const FINDINGS_MAX: u64 = 100_000;
/// Artifacts of one run.
const ARTIFACTS_MAX: usize = 200_000;
/// Characters of a message that are kept.
const MESSAGE_CHARS_MAX: usize = 2_000;
/// Characters of the short names in a progress line.
const WORD_CHARS_MAX: usize = 100;
/// What the rest of an event may take beside its finding.
const EVENT_REST: usize = 8 * 1024;

/// A line that means something.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Description(Description),
    Progress(Progress, Option<String>),
    /// A SARIF result.
    Finding(Value),
    /// A path beneath the output folder, as the model wrote it.
    Artifact(String),
    Done,
    Error(String),
}

/// What a model says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Description {
    pub(crate) id: String,
    pub(crate) version: String,
}

/// Why a model is not listened to any longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it wrote a line longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("it wrote more than {OUTPUT_BYTES_MAX} bytes")]
    TooMuch,
    #[error("it wrote more than {GARBAGE_MAX} lines that are not the protocol, such as: {0}")]
    Garbage(String),
    #[error("it reported more than {FINDINGS_MAX} findings")]
    TooManyFindings,
    #[error("it named more than {ARTIFACTS_MAX} artifacts")]
    TooManyArtifacts,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    phase: Option<String>,
    done: Option<u64>,
    total: Option<u64>,
    unit: Option<String>,
    message: Option<String>,
    result: Option<Value>,
    path: Option<String>,
    id: Option<String>,
    version: Option<String>,
}

/// Listens to one model: bytes in, meaning out.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// An unfinished line.
    rest: Vec<u8>,
    bytes: u64,
    garbage: u64,
    findings: u64,
    artifacts: usize,
}

impl Listener {
    /// Takes what was read; gives what the whole lines in it say.
    ///
    /// # Errors
    /// When the model passed a limit: it is to be ended.
    pub(crate) fn take(&mut self, read: &[u8]) -> Result<Vec<Said>, Broken> {
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(read.len()).unwrap_or(u64::MAX));
        if self.bytes > OUTPUT_BYTES_MAX {
            return Err(Broken::TooMuch);
        }
        let mut said = Vec::new();
        let mut parts = read.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if self.rest.len().saturating_add(part.len()) > LINE_BYTES_MAX {
                return Err(Broken::LineTooLong);
            }
            self.rest.extend_from_slice(part);
            if parts.peek().is_none() {
                break;
            }
            let line = std::mem::take(&mut self.rest);
            said.extend(self.line(&line)?);
        }
        Ok(said)
    }

    /// True while no line was half read.
    pub(crate) fn at_line_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Said>, Broken> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        let said = serde_json::from_slice::<Line>(line).ok().and_then(meaning);
        match &said {
            Some(Said::Finding(_)) => {
                self.findings = self.findings.saturating_add(1);
                if self.findings > FINDINGS_MAX {
                    return Err(Broken::TooManyFindings);
                }
            }
            Some(Said::Artifact(_)) => {
                self.artifacts = self.artifacts.saturating_add(1);
                if self.artifacts > ARTIFACTS_MAX {
                    return Err(Broken::TooManyArtifacts);
                }
            }
            Some(_) => {}
            None => {
                self.garbage = self.garbage.saturating_add(1);
                if self.garbage > GARBAGE_MAX {
                    return Err(Broken::Garbage(short(&String::from_utf8_lossy(line), 80)));
                }
            }
        }
        Ok(said)
    }

    /// Lines so far that were not the protocol.
    pub(crate) fn garbage(&self) -> u64 {
        self.garbage
    }
}

fn meaning(line: Line) -> Option<Said> {
    let message = line
        .message
        .map(|message| short(&message, MESSAGE_CHARS_MAX));
    Some(match line.kind.as_str() {
        "description" => Said::Description(Description {
            id: short(&line.id.unwrap_or_default(), WORD_CHARS_MAX),
            version: short(&line.version.unwrap_or_default(), WORD_CHARS_MAX),
        }),
        "progress" => Said::Progress(
            Progress {
                phase: short(&line.phase.unwrap_or_default(), WORD_CHARS_MAX),
                done: line.done.unwrap_or(0),
                total: line.total,
                unit: line.unit.map(|unit| short(&unit, WORD_CHARS_MAX)),
            },
            message,
        ),
        "finding" => Said::Finding(line.result.filter(Value::is_object)?),
        "artifact" => Said::Artifact(line.path?),
        "done" => Said::Done,
        "error" => Said::Error(message.unwrap_or_else(|| "it gave no reason".to_owned())),
        _ => return None,
    })
}

/// At most `limit` characters, control characters replaced: what a model says is shown to people.
pub(crate) fn short(text: &str, limit: usize) -> String {
    let mut kept: String = text
        .chars()
        .take(limit)
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    if text.chars().nth(limit).is_some() {
        kept.push('…');
    }
    kept
}

/// A finding that fits into an event. What is too large loses its steps and snippets, which the result's files keep;
/// the second value says so.
pub(crate) fn fitting(finding: Value) -> (Value, Option<&'static str>) {
    let limit = EVENT_BYTES_MAX - EVENT_REST;
    if size(&finding) <= limit {
        return (finding, None);
    }
    let note = "this finding is larger than an event may be; the result holds it in full";
    let kept = [
        "ruleId",
        "level",
        "kind",
        "message",
        "partialFingerprints",
        "locations",
        "guid",
    ];
    let mut small: serde_json::Map<String, Value> = serde_json::Map::new();
    for key in kept {
        if let Some(value) = finding.get(key)
            && size(value) <= limit / kept.len()
        {
            small.insert(key.to_owned(), value.clone());
        }
    }
    (Value::Object(small), Some(note))
}

fn size(value: &Value) -> usize {
    serde_json::to_string(value).map_or(usize::MAX, |json| json.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_understood() {
        let check = |line: &str, expected: Option<Said>| {
            let said = Listener::default()
                .take(format!("{line}\n").as_bytes())
                .unwrap();
            assert_eq!(said, expected.into_iter().collect::<Vec<_>>(), "{line}");
        };
        check(r#"{"type":"done"}"#, Some(Said::Done));
        check(
            r#"{"type":"progress","phase":"parse","done":1,"total":2,"unit":"files"}"#,
            Some(Said::Progress(
                Progress {
                    phase: "parse".to_owned(),
                    done: 1,
                    total: Some(2),
                    unit: Some("files".to_owned()),
                },
                None,
            )),
        );
        check(
            r#"{"type":"finding","result":{"ruleId":"a"}}"#,
            Some(Said::Finding(json!({"ruleId": "a"}))),
        );
        check(r#"{"type":"finding","result":7}"#, None);
        check(
            r#"{"type":"artifact","path":"a/b"}"#,
            Some(Said::Artifact("a/b".to_owned())),
        );
        check(r#"{"type":"artifact"}"#, None);
        check(
            "{\"type\":\"error\",\"message\":\"\\u001b[31mno\"}",
            Some(Said::Error("\u{fffd}[31mno".to_owned())),
        );
        for other in [
            "",
            "  ",
            "hello",
            "{",
            "[]",
            r#"{"type":"dance"}"#,
            "{\"type\":7}",
            "\u{0}",
        ] {
            check(other, None);
        }
    }

    #[test]
    fn what_passes_a_limit_is_broken() {
        let mut listener = Listener::default();
        let long = vec![b'x'; LINE_BYTES_MAX];
        assert!(listener.take(&long).is_ok());
        assert_eq!(listener.take(b"x"), Err(Broken::LineTooLong));

        let garbage = "no\n".repeat(1_001);
        assert!(matches!(
            Listener::default().take(garbage.as_bytes()),
            Err(Broken::Garbage(line)) if line == "no"
        ));
        let findings = "{\"type\":\"finding\",\"result\":{}}\n".repeat(100_001);
        assert_eq!(
            Listener::default().take(findings.as_bytes()),
            Err(Broken::TooManyFindings)
        );
    }

    #[test]
    fn a_large_finding_is_cut_to_fit() {
        let finding = json!({
            "ruleId": "sql", "level": "error", "message": {"text": "x"},
            "codeFlows": ["y".repeat(EVENT_BYTES_MAX)],
        });
        let (small, note) = fitting(finding);
        assert!(note.is_some());
        assert_eq!(
            small,
            json!({"ruleId": "sql", "level": "error", "message": {"text": "x"}})
        );
        let (same, note) = fitting(small.clone());
        assert_eq!((same, note), (small, None));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_say_the_same(
            lines in prop::collection::vec(
                prop_oneof![
                    Just(b"{\"type\":\"done\"}".to_vec()),
                    Just(b"{\"type\":\"artifact\",\"path\":\"a\"}".to_vec()),
                    prop::collection::vec(any::<u8>(), 0..40),
                ],
                0..20,
            ),
            cuts in prop::collection::vec(1_usize..50, 1..40),
        ) {
            let whole: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
            let expected = Listener::default().take(&whole).unwrap();
            let mut listener = Listener::default();
            let mut said = Vec::new();
            let (mut rest, mut cuts) = (whole.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                said.extend(listener.take(now).unwrap());
                rest = later;
            }
            prop_assert_eq!(said, expected);
            prop_assert!(listener.at_line_end());
        }
    }
}
