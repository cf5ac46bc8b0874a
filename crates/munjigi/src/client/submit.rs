//! `munjigi submit` and `munjigi watch`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use munjigi_events::{Event, Status};
use reqwest::Method;
use serde_json::{Value, json};

use super::coverage;
use super::follow::{Followed, Levels, Listener, follow, list, text};
use super::hub::{Hub, good};
use super::screen::{Screen, printable};
use super::upload::{Memory, Source, upload};
use super::{FailOn, HubArgs};
use crate::outcome::{Exit, Failure, remark, say};

/// A model that nobody offers is asked for so often …
const MODELS_TRIES: u32 = 5;
/// … at this distance, before it is said.
const MODELS_AGAIN: Duration = Duration::from_millis(500);

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
    if args.follow || args.fail_on.is_some() {
        return follow_to_the_end(&hub, &job, args.json, args.fail_on).await;
    }
    let event_id = text(&job, "eventId");
    if args.json {
        say(json!({"summary": job}));
    } else {
        say(format!("{event_id}  {}", text(&job, "status")));
    }
    remark_on_models(&hub, event_id, &args.model).await;
    Ok(Exit::Good)
}

/// Says which of `models` nobody offers now: the job is there, and waits. When the hub can't say, nothing is said.
async fn remark_on_models(hub: &Hub, event_id: &str, models: &[String]) {
    let mut tries = 0;
    let (missing, offered) = loop {
        let Ok(answer) = hub.json(Method::GET, "/api/models").await else {
            return;
        };
        let offered = list(&answer, "models").iter();
        let offered: Vec<String> = offered
            .map(|model| text(model, "name").to_owned())
            .collect();
        let missing: Vec<&String> = models
            .iter()
            .filter(|model| !offered.contains(model))
            .collect();
        tries += 1;
        if missing.is_empty() || tries > MODELS_TRIES {
            break (missing, offered);
        }
        // Workers that have just started are known a moment later.
        tokio::time::sleep(MODELS_AGAIN).await;
    };
    for model in &missing {
        let others = if offered.is_empty() {
            "none offers any".to_owned()
        } else {
            format!("offered: {}", offered.join(", "))
        };
        let line = format!("no worker offers the model `{model}` now; {others}");
        remark("warning", printable(&line));
    }
    if !missing.is_empty() {
        let ends = format!("the job waits until one does; `munjigi cancel {event_id}` ends it");
        remark("hint", ends);
    }
}

/// Shows a job's events to its end.
pub(crate) async fn watch(args: WatchArgs) -> Result<Exit, Failure> {
    let hub = Hub::find(&args.hub)?;
    let path = format!("/api/jobs/{}", args.event_id);
    let job = hub.json(Method::GET, &path).await?;
    follow_to_the_end(&hub, &job, args.json, args.fail_on).await
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
    job: &Value,
    json: bool,
    fail_on: Option<FailOn>,
) -> Result<Exit, Failure> {
    let event_id = text(job, "eventId");
    let mut listener: Box<dyn Listener> = if json {
        // Standard output is for events and the summary alone.
        remark("job", event_id);
        Box::new(Lines)
    } else {
        say(printable(&format!("job {event_id}  {}", text(job, "name"))));
        Box::new(Screen::of(job))
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
    let unread = status == Status::Done.as_str() && coverage::nothing_analysed(job);
    if unread {
        say(format!("{status}, but nothing was analysed"));
    } else {
        say(format!(
            "{status}: {} error{}, {} warning{}, {} note{}",
            levels.error,
            plural(levels.error),
            levels.warning,
            plural(levels.warning),
            levels.note,
            plural(levels.note),
        ));
    }
    for analysis in list(job, "analyses") {
        let error = analysis.get("error").and_then(Value::as_str);
        let lines = error.map(str::to_owned).into_iter();
        for line in lines.chain(coverage::line(analysis)) {
            let model = text(analysis, "model");
            say(printable(&format!("{model}: {line}")));
        }
    }
    if unread {
        remark(
            "warning",
            "no finding here does not mean that there is none: check the file and submit it again",
        );
    } else if status == Status::Done.as_str() {
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

#[cfg(test)]
mod tests {
    use super::*;

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
