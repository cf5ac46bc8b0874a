//! `munjigi jobs` and `munjigi cancel`.

use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::HubArgs;
use super::follow::text;
use super::hub::{Hub, good};
use super::submit::printable;
use crate::outcome::{Exit, Failure, say};

/// `munjigi jobs`
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    #[command(flatten)]
    hub: HubArgs,
    /// How many, newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// Only those with this status, such as RUNNING
    #[arg(long)]
    status: Option<String>,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

/// `munjigi cancel`
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The job's id, as `submit` and `jobs` print it
    event_id: String,
    #[command(flatten)]
    hub: HubArgs,
}

/// Lists the user's jobs.
pub(crate) async fn jobs(args: JobsArgs) -> Result<Exit, Failure> {
    let hub = Hub::find(&args.hub)?;
    let mut request = hub
        .request(Method::GET, "/api/jobs")
        .query(&[("limit", args.limit)]);
    if let Some(status) = &args.status {
        request = request.query(&[("status", status.to_ascii_uppercase())]);
    }
    let answer = good(hub.send(request).await?).await?;
    let answer: Value = answer
        .json()
        .await
        .map_err(|error| hub.unreachable(&error))?;
    let jobs = answer
        .get("jobs")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if jobs.is_empty() && !args.json {
        say("no jobs yet; `munjigi submit FILE` starts one");
    }
    for job in jobs {
        if args.json {
            say(job);
        } else {
            say(row(job));
        }
    }
    Ok(Exit::Good)
}

fn row(job: &Value) -> String {
    let findings: u64 = job
        .get("analyses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|analysis| analysis.get("findings").and_then(Value::as_u64))
        .sum();
    printable(&format!(
        "{}  {:<10}  {}  {findings:>6} findings  {}",
        text(job, "eventId"),
        text(job, "status"),
        text(job, "createdAt"),
        text(job, "name"),
    ))
}

/// Cancels a job; what it left is removed.
pub(crate) async fn cancel(args: CancelArgs) -> Result<Exit, Failure> {
    let hub = Hub::find(&args.hub)?;
    let path = format!("/api/jobs/{}", args.event_id);
    let job = hub.json(Method::GET, &path).await?;
    if matches!(text(&job, "status"), "DONE" | "FAILED" | "CANCELLED") {
        return Err(Failure::no(format!(
            "the job has ended: {}",
            text(&job, "status")
        )));
    }
    let answer = good(hub.send(hub.request(Method::DELETE, &path)).await?).await?;
    say(if answer.status() == StatusCode::ACCEPTED {
        format!("{}  CANCELLING", args.event_id)
    } else {
        format!("{}  removed", args.event_id)
    });
    Ok(Exit::Good)
}
