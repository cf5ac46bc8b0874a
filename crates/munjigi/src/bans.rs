//! `munjigi bans`: whom a running gate bans, and an operator's own word on it.

use std::time::Duration;

use clap::{Args, Subcommand};
use munjigi_foundation::clock::{Clock, Timestamp};
use munjigi_foundation::settings::{format_duration, parse_duration};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::admin::{Admin, AdminArgs, cell, list, table};
use crate::outcome::{Exit, Failure, remark, say};

/// `munjigi bans`
#[derive(Debug, Args)]
pub(crate) struct BansArgs {
    #[command(subcommand)]
    order: Option<Order>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Bans an address; of IPv6 its /64
    #[command(after_help = "Example:\n  munjigi bans add 203.0.113.7 --for 1h")]
    Add {
        /// IPv4 or IPv6
        #[arg(value_name = "ADDR")]
        address: String,
        /// How long, such as 30m, 1h or 7d [default: as long as a first ban]
        #[arg(long = "for", value_name = "TIME", value_parser = time)]
        length: Option<Duration>,
    },
    /// Ends the ban of an address, and forgets what was before
    #[command(after_help = "Example:\n  munjigi bans remove 203.0.113.7")]
    Remove {
        /// As `munjigi bans` prints it
        #[arg(value_name = "ADDR")]
        address: String,
    },
}

fn time(written: &str) -> Result<Duration, String> {
    parse_duration(written)
}

/// Lists bans, makes one or ends one.
pub(crate) async fn bans(args: BansArgs) -> Result<Exit, Failure> {
    match args.order {
        None => shown(&args.admin, args.json).await,
        Some(Order::Add { address, length }) => add(&address, length, &args.admin).await,
        Some(Order::Remove { address }) => remove(&address, &args.admin).await,
    }
}

async fn shown(admin: &AdminArgs, json: bool) -> Result<Exit, Failure> {
    let answer = Admin::find(admin)?
        .ask(Method::GET, "/bans?limit=1000000", None)
        .await?;
    let bans = list(&answer, "bans");
    if json {
        bans.iter().for_each(say);
        return Ok(Exit::Good);
    }
    if answer.get("enabled") == Some(&Value::Bool(false)) {
        remark("hint", "there is no [gate.shield]: nobody is banned");
    } else if bans.is_empty() {
        remark("hint", "nobody is banned");
    }
    let now = Clock::system().now();
    let rows: Vec<_> = bans.iter().map(|ban| row(ban, now)).collect();
    table(&rows).iter().for_each(say);
    Ok(Exit::Good)
}

/// Address, count, reason, end.
fn row(ban: &Value, now: Timestamp) -> Vec<String> {
    let count = ban.get("count").and_then(Value::as_u64).unwrap_or_default();
    let noun = if count == 1 { "request" } else { "requests" };
    let mut reason = cell(ban, "reason");
    let path = cell(ban, "firstPath");
    if !path.is_empty() && path != "-" {
        reason = format!("{reason} (first {path})");
    }
    if ban.get("dryRun") == Some(&Value::Bool(true)) {
        reason += " (dry run)";
    }
    let until = cell(ban, "until");
    let left = Timestamp::parse(&until).map_or_else(
        |_| String::new(),
        |until| format!(" ({} left)", rough(until.since(now))),
    );
    vec![
        cell(ban, "address"),
        format!("{count} {noun}"),
        reason,
        format!("until {until}{left}"),
    ]
}

/// A span in its largest unit.
fn rough(span: Duration) -> String {
    let seconds = span.as_secs();
    let unit = [86_400, 3_600, 60]
        .into_iter()
        .find(|unit| seconds >= 2 * unit)
        .unwrap_or(1);
    format_duration(Duration::from_secs(seconds / unit * unit))
}

async fn add(address: &str, length: Option<Duration>, admin: &AdminArgs) -> Result<Exit, Failure> {
    let mut order = json!({ "address": address });
    if let (Some(length), Some(order)) = (length, order.as_object_mut()) {
        order.insert("for".to_owned(), format_duration(length).into());
    }
    let answer = Admin::find(admin)?
        .ask(Method::POST, "/bans", Some(&order))
        .await?;
    let (client, until) = (cell(&answer, "address"), cell(&answer, "until"));
    say(format!("{client} is banned until {until}"));
    if answer.get("dryRun") == Some(&Value::Bool(true)) {
        remark(
            "warning",
            "the gate runs with dry_run: its requests go through",
        );
    }
    Ok(Exit::Good)
}

async fn remove(address: &str, admin: &AdminArgs) -> Result<Exit, Failure> {
    // Only for the escaping of the query.
    let mut url = Url::parse("http://localhost/bans").map_err(Failure::could_not)?;
    url.query_pairs_mut().append_pair("address", address);
    let path = format!("/bans?{}", url.query().unwrap_or_default());
    let answer = Admin::find(admin)?.ask(Method::DELETE, &path, None).await?;
    let client = cell(&answer, "address");
    let ended = answer.get("ended") == Some(&Value::Bool(true));
    let what = if ended {
        "is no longer banned"
    } else {
        "was not banned"
    };
    say(format!(
        "{client} {what}; what spoke against it is forgotten"
    ));
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_address_count_reason_and_end() {
        let ban = json!({
            "address": "203.0.113.7", "count": 7, "reason": "dot_file 3", "firstPath": "/.git/HEAD",
            "until": "2026-11-21T12:00:00.000Z", "dryRun": false,
        });
        let now = Timestamp::parse("2026-11-21T11:00:30.000Z").unwrap();
        assert_eq!(
            row(&ban, now).join("  "),
            "203.0.113.7  7 requests  dot_file 3 (first /.git/HEAD)  until 2026-11-21T12:00:00.000Z (59m left)"
        );
        let rough = |seconds: u64| rough(Duration::from_secs(seconds));
        assert_eq!(
            [rough(59), rough(119), rough(7_300), rough(200_000)],
            ["59s", "119s", "2h", "2d"]
        );
    }
}
