//! `munjigi jobs`, `munjigi cancel` and `munjigi delete`.

use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::HubArgs;
use super::follow::{list, text};
use super::hub::{Hub, good};
use super::screen::printable;
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

/// `munjigi delete`
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
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
    let jobs = list(&answer, "jobs");
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
    let findings = findings(job);
    printable(&format!(
        "{}  {:<10}  {}  {findings:>6} findings  {}",
        text(job, "eventId"),
        text(job, "status"),
        text(job, "createdAt"),
        text(job, "name"),
    ))
}

fn findings(job: &Value) -> u64 {
    let analyses = list(job, "analyses").iter();
    analyses
        .filter_map(|analysis| analysis.get("findings").and_then(Value::as_u64))
        .sum()
}

fn has_ended(job: &Value) -> bool {
    matches!(text(job, "status"), "DONE" | "FAILED" | "CANCELLED")
}

/// Cancels a job; what it left is removed.
pub(crate) async fn cancel(args: CancelArgs) -> Result<Exit, Failure> {
    let hub = Hub::find(&args.hub)?;
    let path = format!("/api/jobs/{}", args.event_id);
    let job = hub.json(Method::GET, &path).await?;
    if has_ended(&job) {
        let ended = format!("the job has ended: {}", text(&job, "status"));
        let removes = format!("`munjigi delete {}` removes it", args.event_id);
        return Err(Failure::no(ended).hint(removes));
    }
    let answer = good(hub.send(hub.request(Method::DELETE, &path)).await?).await?;
    say(if answer.status() == StatusCode::ACCEPTED {
        format!("{}  CANCELLING", args.event_id)
    } else {
        format!("{}  removed", args.event_id)
    });
    Ok(Exit::Good)
}

/// Deletes a job that has ended, and says what went.
pub(crate) async fn delete(args: DeleteArgs) -> Result<Exit, Failure> {
    let hub = Hub::find(&args.hub)?;
    let path = format!("/api/jobs/{}", args.event_id);
    let job = hub.json(Method::GET, &path).await?;
    if !has_ended(&job) {
        let going = format!("the job has not ended: {}", text(&job, "status"));
        let stops = format!("`munjigi cancel {}` stops it first", args.event_id);
        return Err(Failure::no(going).hint(stops));
    }
    good(hub.send(hub.request(Method::DELETE, &path)).await?).await?;
    say(printable(&gone(&job)));
    Ok(Exit::Good)
}

/// What went with a job that has ended.
fn gone(job: &Value) -> String {
    let results = list(job, "analyses")
        .iter()
        .filter(|analysis| analysis.get("result").is_some_and(Value::is_object))
        .count();
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let (found, results) = (findings(job), u64::try_from(results).unwrap_or(0));
    format!(
        "{}  deleted: {}, its events, {found} finding{}, {results} result{}",
        text(job, "eventId"),
        text(job, "name"),
        plural(found),
        plural(results),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_went_is_counted() {
        let job = json!({"eventId": "E", "name": "a.zip", "analyses": [
            {"findings": 2, "result": {"size": 1}}, {"findings": 1}, {},
        ]});
        assert_eq!(
            gone(&job),
            "E  deleted: a.zip, its events, 3 findings, 1 result"
        );
    }
}
