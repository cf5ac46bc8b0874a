//! A job as a person at a terminal follows it: a line for each change and each finding, and below them what moves.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use munjigi_events::{AnalysisId, Event, ServerId, Status};
use serde_json::Value;

use super::follow::{Listener, list, text};
use crate::outcome::say;

/// What a person sees of a job.
pub(super) struct Screen<W: FnMut(&str)> {
    bar: ProgressBar,
    print: W,
    event_id: String,
    /// The models' names, where there are several analyses to tell apart.
    models: BTreeMap<AnalysisId, String>,
    analyses: BTreeMap<AnalysisId, Seen>,
    /// It was said what a job that waits can be told.
    advised: bool,
}

/// What was shown of an analysis.
#[derive(Default)]
struct Seen {
    attempt: u32,
    status: Option<Status>,
    message: Option<String>,
    server_id: Option<ServerId>,
    /// Findings of this attempt, and of those before it.
    findings: HashSet<u64>,
    earlier: HashSet<u64>,
}

impl Screen<fn(&str)> {
    /// Shows `job` on standard output.
    pub(super) fn of(job: &Value) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
        if std::io::stderr().is_terminal() {
            bar.set_style(
                // As wide as the terminal and no wider, however long the message is.
                ProgressStyle::with_template("{spinner} {elapsed}  {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self::new(job, bar, |line| say(line))
    }
}

impl<W: FnMut(&str)> Screen<W> {
    fn new(job: &Value, bar: ProgressBar, print: W) -> Self {
        let models: BTreeMap<AnalysisId, String> = list(job, "analyses")
            .iter()
            .map(|analysis| {
                (
                    AnalysisId::from(text(analysis, "analyzeId")),
                    text(analysis, "model").to_owned(),
                )
            })
            .collect();
        let ended = matches!(text(job, "status"), "DONE" | "FAILED" | "CANCELLED");
        Self {
            bar,
            print,
            event_id: text(job, "eventId").to_owned(),
            models: if models.len() > 1 {
                models
            } else {
                BTreeMap::new()
            },
            analyses: BTreeMap::new(),
            advised: ended,
        }
    }

    fn line(&mut self, id: &AnalysisId, line: &str) {
        let model = self.models.get(id).map(|model| format!("{model}: "));
        let line = printable(&format!("{}{line}", model.unwrap_or_default()));
        let print = &mut self.print;
        self.bar.suspend(|| print(&line));
    }

    /// A change of status, a new attempt, or another reason to wait.
    fn change(&mut self, event: &Event) {
        let seen = self.analyses.entry(event.analyze_id.clone()).or_default();
        let again =
            seen.attempt > 0 && event.attempt > seen.attempt && event.status == Status::Queued;
        let changed = event.attempt != seen.attempt || seen.status != Some(event.status);
        let waits = event.status == Status::Queued && event.message.is_some();
        if !(changed || waits && seen.message != event.message) {
            return;
        }
        let before = seen.server_id.take();
        if event.attempt != seen.attempt {
            let found = std::mem::take(&mut seen.findings);
            seen.earlier.extend(found);
        }
        seen.attempt = event.attempt;
        seen.status = Some(event.status);
        seen.message.clone_from(&event.message);
        seen.server_id.clone_from(&event.server_id);
        let why = event.error.as_ref().or(event.message.as_ref());
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let line = match (&event.server_id, event.status) {
            _ if again => {
                let worker = before.map_or_else(String::new, |id| format!(" after worker {id}"));
                format!(
                    "attempt {}{worker}{why}; findings are counted anew",
                    event.attempt
                )
            }
            (Some(server), Status::Placed) => format!("{} on worker {server}{why}", event.status),
            _ => format!("{}{why}", event.status),
        };
        self.line(&event.analyze_id, &line);
        if waits && !again && !self.advised {
            self.advised = true;
            let advice = waiting_advice(&self.event_id);
            self.line(&event.analyze_id, &format!("  {advice}"));
        }
    }
}

/// What can be done about a job that waits.
fn waiting_advice(event_id: &str) -> String {
    format!("the job waits; Ctrl-C leaves it waiting, `munjigi cancel {event_id}` ends it")
}

impl<W: FnMut(&str)> Listener for Screen<W> {
    fn event(&mut self, event: &Event, _: &Value) {
        self.change(event);
        if let Some(finding) = &event.finding {
            let key = key(finding);
            let seen = self.analyses.entry(event.analyze_id.clone()).or_default();
            seen.findings.insert(key);
            // What an attempt that was given up had found is found again.
            if !seen.earlier.contains(&key) {
                self.line(&event.analyze_id, &finding_line(finding));
            }
        }
        if let Some(progress) = &event.progress {
            let total = progress
                .total
                .map_or_else(String::new, |total| format!(" of {total}"));
            let unit = progress.unit.as_deref().unwrap_or_default();
            let moves = format!("{} {}{total} {unit}", progress.phase, progress.done);
            self.bar.set_message(printable(&moves));
        }
    }

    fn note(&mut self, text: &str) {
        self.bar.set_message(printable(text));
    }
}

impl<W: FnMut(&str)> Drop for Screen<W> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What tells a finding from the others of its analysis.
fn key(finding: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    match finding
        .pointer("/partialFingerprints/munjigi~1v1")
        .and_then(Value::as_str)
    {
        Some(fingerprint) => fingerprint.hash(&mut hasher),
        None => finding.to_string().hash(&mut hasher),
    }
    hasher.finish()
}

/// `error  src/App.java:12  SQL injection: …`
fn finding_line(finding: &Value) -> String {
    let place = finding
        .pointer("/locations/0/physicalLocation")
        .unwrap_or(&Value::Null);
    let file = place
        .pointer("/artifactLocation/uri")
        .and_then(Value::as_str)
        .unwrap_or("?");
    let line = place
        .pointer("/region/startLine")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let message = finding
        .pointer("/message/text")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let level = match text(finding, "level") {
        "" => "warning",
        level => level,
    };
    format!("  {level:<7}  {file}:{line}  {message}")
}

/// What comes from a scanned file must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The lines that these events of a job make.
    fn lines(job: &Value, events: &[Value]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut screen = Screen::new(job, ProgressBar::hidden(), |line: &str| {
            lines.push(line.to_owned());
        });
        for (seq, event) in events.iter().enumerate() {
            let mut whole = json!({
                "userId": "u", "eventId": "E", "serverId": null, "analyzeId": "A", "attempt": 1, "seq": seq + 1,
                "createdAt": "2026-11-21T03:05:00.123Z",
            });
            let fields = event.as_object().unwrap().clone();
            whole.as_object_mut().unwrap().extend(fields);
            let read: Event = serde_json::from_value(whole.clone()).unwrap();
            screen.event(&read, &whole);
        }
        drop(screen);
        lines
    }

    fn finding(name: &str) -> Value {
        json!({"level": "error", "message": {"text": name}, "partialFingerprints": {"munjigi/v1": name}})
    }

    #[test]
    fn a_job_that_waits_says_why_and_what_can_be_done_once() {
        let job = json!({"eventId": "E", "status": "QUEUED", "analyses": [{"analyzeId": "A", "model": "x"}]});
        let none = "no worker offers the model `x`; offered: source";
        let said = lines(
            &job,
            &[
                json!({"status": "QUEUED"}),
                json!({"status": "QUEUED", "message": none}),
                json!({"status": "QUEUED", "message": none}),
                json!({"status": "QUEUED", "message": "all workers are busy"}),
                json!({"status": "PLACED", "serverId": "143"}),
            ],
        );
        assert_eq!(
            said,
            [
                "QUEUED",
                "QUEUED: no worker offers the model `x`; offered: source",
                "  the job waits; Ctrl-C leaves it waiting, `munjigi cancel E` ends it",
                "QUEUED: all workers are busy",
                "PLACED on worker 143",
            ]
        );
    }

    #[test]
    fn a_new_attempt_is_told_and_lists_no_finding_twice() {
        let job = json!({"eventId": "E", "analyses": [{"analyzeId": "A", "model": "x"}]});
        let said = lines(
            &job,
            &[
                json!({"status": "RUNNING", "serverId": "143"}),
                json!({"status": "RUNNING", "serverId": "143", "finding": finding("one")}),
                // The same fingerprint twice in one attempt are two findings.
                json!({"status": "RUNNING", "serverId": "143", "finding": finding("one")}),
                json!({"status": "QUEUED", "attempt": 2, "message": "the worker is silent"}),
                json!({"status": "PLACED", "attempt": 2, "serverId": "144"}),
                json!({"status": "RUNNING", "attempt": 2, "serverId": "144", "finding": finding("one")}),
                json!({"status": "RUNNING", "attempt": 2, "serverId": "144", "finding": finding("two")}),
                // Taken over to be stopped: no new attempt for whoever reads it.
                json!({"status": "CANCELLING", "attempt": 3, "serverId": "144"}),
            ],
        );
        assert_eq!(
            said,
            [
                "RUNNING",
                "  error    ?:0  one",
                "  error    ?:0  one",
                "attempt 2 after worker 143: the worker is silent; findings are counted anew",
                "PLACED on worker 144",
                "RUNNING",
                "  error    ?:0  two",
                "CANCELLING",
            ]
        );
    }

    #[test]
    fn several_analyses_are_told_apart() {
        let job = json!({"eventId": "E", "analyses": [
            {"analyzeId": "A", "model": "source"}, {"analyzeId": "B", "model": "deep\u{1b}"},
        ]});
        let said = lines(
            &job,
            &[
                json!({"status": "RUNNING"}),
                json!({"status": "RUNNING", "analyzeId": "B"}),
                json!({"status": "RUNNING"}),
            ],
        );
        assert_eq!(said, ["source: RUNNING", "deep\u{fffd}: RUNNING"]);
    }

    #[test]
    fn a_finding_is_one_line_that_steers_no_terminal() {
        let finding = json!({"level": "error", "message": {"text": "bad \u{1b}[31mred"}, "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": "a.py"}, "region": {"startLine": 3}}}
        ]});
        assert_eq!(
            printable(&finding_line(&finding)),
            "  error    a.py:3  bad \u{fffd}[31mred"
        );
        assert_eq!(finding_line(&json!({})), "  warning  ?:0  ");
    }
}
