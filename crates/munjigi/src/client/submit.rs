//! `munjigi submit` and `munjigi watch`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use munjigi_events::{Event, Status};
use reqwest::Method;
use serde_json::{Value, json};

use super::coverage;
use super::follow::{Followed, Levels, Listener, follow, text};
use super::hub::{Hub, good};
use super::upload::{Memory, Source, upload};
use super::{FailOn, HubArgs};
use crate::outcome::{Exit, Failure, say};

/// `munjigi submit`
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The file to analyse: an archive (zip, tar, tar.gz, tar.zst) or a single file
    file: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    /// A model to run; may be given several times
    #[arg(long, value_name = "NAME", default_value = "source")]
    model: Vec<String>,
    /// Shows the job's events to its end
    #[arg(long)]
    follow: bool,
    /// Prints one JSON object a line: the events, then {"summary":…}
    #[arg(long)]
    json: bool,
    /// Exit 1 when a finding reaches LEVEL; implies --follow [default: never]
    #[arg(long, value_name = "LEVEL")]
    fail_on: Option<FailOn>,
}

/// `munjigi watch`
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The job's id, as `submit` and `jobs` print it
    event_id: String,
    #[command(flatten)]
    hub: HubArgs,
    /// Prints one JSON object a line: the events, then {"summary":…}
    #[arg(long)]
    json: bool,
    /// Exit 1 when a finding reaches LEVEL [default: never]
    #[arg(long, value_name = "LEVEL")]
    fail_on: Option<FailOn>,
}

/// Uploads a file and starts a job.
pub(crate) async fn submit(args: SubmitArgs) -> Result<Exit, Failure> {
    let source = Source::open(&args.file)?;
    let hub = Hub::find(&args.hub)?;
    let memory = Memory::of_user();
    let upload = tokio::select! {
        uploaded = upload(&hub, &source, &memory) => uploaded?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::no("stopped").hint("the same command goes on where it stopped"));
        }
    };
    let job = start(&hub, &upload, &args.model).await?;
    let event_id = text(&job, "eventId");
    if args.follow || args.fail_on.is_some() {
        return follow_to_the_end(&hub, event_id, args.json, args.fail_on).await;
    }
    if args.json {
        say(json!({"summary": job}));
    } else {
        say(format!("{event_id}  {}", text(&job, "status")));
    }
    Ok(Exit::Good)
}

/// Shows a job's events to its end.
pub(crate) async fn watch(args: WatchArgs) -> Result<Exit, Failure> {
    let hub = Hub::find(&args.hub)?;
    follow_to_the_end(&hub, &args.event_id, args.json, args.fail_on).await
}

async fn start(hub: &Hub, upload: &str, models: &[String]) -> Result<Value, Failure> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).map_err(Failure::could_not)?;
    let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({"upload": upload, "models": models});
    let mut tries = 0;
    loop {
        // The key makes it safe to ask again when the answer got lost.
        let request = hub
            .request(Method::POST, "/api/jobs")
            .header("idempotency-key", &key)
            .json(&body);
        match hub.send(request).await {
            Ok(response) => {
                let response = good(response).await?;
                return response
                    .json()
                    .await
                    .map_err(|error| hub.unreachable(&error));
            }
            Err(failure) if tries >= 5 => return Err(failure),
            Err(_) => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(100 << tries)).await;
            }
        }
    }
}

async fn follow_to_the_end(
    hub: &Hub,
    event_id: &str,
    json: bool,
    fail_on: Option<FailOn>,
) -> Result<Exit, Failure> {
    let mut listener: Box<dyn Listener> = if json {
        Box::new(Lines)
    } else {
        Box::new(Screen::new())
    };
    let mut followed = tokio::select! {
        followed = follow(hub, event_id, listener.as_mut()) => followed?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::no("stopped following; the job goes on")
                .hint(format!("`munjigi watch {event_id}` follows it, `munjigi cancel {event_id}` stops it")));
        }
    };
    drop(listener);
    coverage::add(hub, &mut followed.job).await;
    report(event_id, &followed, json);
    let done = text(&followed.job, "status") == Status::Done.as_str();
    let reached = followed.levels.reach(fail_on.unwrap_or(FailOn::Never));
    Ok(if done && !reached {
        Exit::Good
    } else {
        Exit::No
    })
}

fn report(event_id: &str, followed: &Followed, json: bool) {
    let Followed { job, levels } = followed;
    let status = text(job, "status");
    if json {
        say(json!({"summary": {
            "eventId": event_id,
            "status": status,
            "findings": {"error": levels.error, "warning": levels.warning, "note": levels.note},
            "analyses": job.get("analyses"),
        }}));
        return;
    }
    say(format!(
        "{status}: {} error{}, {} warning{}, {} note{}",
        levels.error,
        plural(levels.error),
        levels.warning,
        plural(levels.warning),
        levels.note,
        plural(levels.note),
    ));
    for analysis in job
        .get("analyses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let error = analysis.get("error").and_then(Value::as_str);
        let lines = error.map(str::to_owned).into_iter();
        for line in lines.chain(coverage::line(analysis)) {
            let model = text(analysis, "model");
            say(printable(&format!("{model}: {line}")));
        }
    }
    if status == Status::Done.as_str() {
        say(format!("munjigi result {event_id} -o DIR fetches them"));
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl Levels {
    fn reach(self, level: FailOn) -> bool {
        match level {
            FailOn::Never => false,
            FailOn::Error => self.error > 0,
            FailOn::Warning => self.error + self.warning > 0,
            FailOn::Note => self.error + self.warning + self.note > 0,
        }
    }
}

/// For programs: each event as it came.
struct Lines;

impl Listener for Lines {
    fn event(&mut self, _: &Event, json: &Value) {
        say(json);
    }

    fn note(&mut self, _: &str) {}
}

/// For a person: a line for each change of status and each finding, and below them what moves.
struct Screen {
    bar: ProgressBar,
    last: Option<(Status, u32)>,
}

impl Screen {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
        if std::io::stderr().is_terminal() {
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}  {elapsed}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar, last: None }
    }

    fn line(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }
}

impl Listener for Screen {
    fn event(&mut self, event: &Event, _: &Value) {
        if let Some(finding) = &event.finding {
            self.line(&finding_line(finding));
        }
        let now = (event.status, event.attempt);
        if self.last != Some(now) {
            self.last = Some(now);
            let place = match (&event.server_id, event.status) {
                (Some(server), Status::Placed) => format!(" on worker {server}"),
                _ => String::new(),
            };
            let why = event.error.as_ref().or(event.message.as_ref());
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            self.line(&format!("{}{place}{why}", event.status));
        }
        if let Some(progress) = &event.progress {
            let total = progress
                .total
                .map_or_else(String::new, |total| format!(" of {total}"));
            let unit = progress.unit.as_deref().unwrap_or_default();
            self.bar.set_message(format!(
                "{} {}{total} {unit}",
                progress.phase, progress.done
            ));
        }
    }

    fn note(&mut self, text: &str) {
        self.bar.set_message(text.to_owned());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
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
    printable(&format!("  {level:<7}  {file}:{line}  {message}"))
}

/// What comes from a scanned file must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_steers_no_terminal() {
        let finding = json!({"level": "error", "message": {"text": "bad \u{1b}[31mred"}, "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": "a.py"}, "region": {"startLine": 3}}}
        ]});
        assert_eq!(
            finding_line(&finding),
            "  error    a.py:3  bad \u{fffd}[31mred"
        );
        assert_eq!(finding_line(&json!({})), "  warning  ?:0  ");
    }

    #[test]
    fn levels_reach() {
        let warning = Levels {
            warning: 1,
            ..Levels::default()
        };
        assert!(warning.reach(FailOn::Warning) && warning.reach(FailOn::Note));
        assert!(!warning.reach(FailOn::Error) && !warning.reach(FailOn::Never));
    }
}
