//! Bans over the admin face: listed, made and ended.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use munjigi_foundation::api::{Problem, read_json};
use munjigi_foundation::settings::parse_duration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::View;
use crate::shield::{self, Ban, Client, Shield};

/// An order is short.
const ORDER_MAX: usize = 16 * 1024;
/// Bans in one answer, unless more are asked for.
const LISTED: usize = 1_000;
const LIST_MAX: usize = 1_000_000;
/// The longest ban that an operator may give.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
const SHORTEST: Duration = Duration::from_secs(1);

pub(crate) fn router() -> Router<View> {
    Router::new()
        .route("/bans", get(list).post(add).delete(remove))
        .route("/shield", get(state))
}

fn no_shield() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_shield",
        "there is no [gate.shield]: nobody is banned",
    )
    .hint("add the table to the settings and reload them")
}

fn shield_of(view: &View) -> Result<Arc<Shield>, Problem> {
    view.shared
        .snapshot
        .load()
        .shield
        .clone()
        .ok_or_else(no_shield)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
}

/// The bans that hold, the newest first.
async fn list(Extract(view): Extract<View>, Query(listing): Query<Listing>) -> Json<Value> {
    let shield = view.shared.snapshot.load().shield.clone();
    let limit = listing.limit.unwrap_or(LISTED).min(LIST_MAX);
    let now = view.shared.clock.now();
    Json(shield::bans_page(
        &view.shared.shield,
        shield.as_deref(),
        limit,
        now,
    ))
}

/// The shield as a whole.
async fn state(Extract(view): Extract<View>) -> Result<Json<Value>, Problem> {
    let shield = shield_of(&view)?;
    let now = view.shared.clock.now();
    Ok(Json(shield::state_page(&view.shared.shield, &shield, now)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BanOrder {
    address: String,
    /// As in the settings; the length of a first ban when absent.
    #[serde(rename = "for")]
    time: Option<String>,
}

fn client(written: &str) -> Result<Client, Problem> {
    written.parse().map_err(|why: String| {
        Problem::bad_request("bad_address", why)
            .hint("whole networks are for the IP filter: gate.ip_filter.deny")
    })
}

/// Bans a client.
async fn add(Extract(view): Extract<View>, body: Body) -> Result<Json<Value>, Problem> {
    let order: BanOrder = read_json(body, ORDER_MAX).await?;
    let shield = shield_of(&view)?;
    let client = client(&order.address)?;
    let time = match &order.time {
        None => shield.settings.ban.first,
        Some(written) => parse_duration(written)
            .and_then(|time| {
                let good = (SHORTEST..=LONGEST).contains(&time);
                good.then_some(time)
                    .ok_or_else(|| "a ban lasts 1s to 365d".to_owned())
            })
            .map_err(|why| Problem::bad_request("bad_duration", why).hint("write 30m, 1h or 7d"))?,
    };
    let address: IpAddr = order.address.parse().unwrap_or(client.address());
    let snapshot = view.shared.snapshot.load();
    if let Some(why) = shield.exempts(&snapshot, address) {
        let detail = format!("{} is never banned: {why}", order.address);
        return Err(Problem::new(StatusCode::CONFLICT, "never_banned", detail)
            .hint("gate.ip_filter.deny keeps an address out for good"));
    }
    let now = view.shared.clock.now();
    let ban = Ban::manual(client, now, now.plus(time));
    let answer =
        json!({ "address": client, "until": ban.until, "dryRun": shield.settings.dry_run });
    view.shared.shield.ban(ban, shield.settings.bounds);
    Ok(Json(answer))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pardon {
    address: String,
}

/// Ends a ban, if there is one, and forgets what was before.
async fn remove(
    Extract(view): Extract<View>,
    Query(pardon): Query<Pardon>,
) -> Result<Json<Value>, Problem> {
    let client = client(&pardon.address)?;
    let now = view.shared.clock.now();
    let ended = view.shared.shield.pardon(client, now).is_some();
    Ok(Json(json!({ "address": client, "ended": ended })))
}
