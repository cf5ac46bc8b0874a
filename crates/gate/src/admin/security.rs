//! Who was turned away, and what guards the gate: refusals by minute and one by one, certificates,
//! and all of it at once for the security page.

use std::time::Instant;

use axum::extract::{Query, State as Extract};
use axum::routing::get;
use axum::{Json, Router};
use munjigi_foundation::api::Problem;
use munjigi_foundation::clock::Timestamp;
use munjigi_foundation::settings::parse_duration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::View;
use crate::refusals::{KEPT, Search};
use crate::shield;
use crate::stats::Totals;

/// Refusals in one answer, unless more are asked for.
const LISTED: usize = 100;
/// Bans on the page as a whole.
const BANS: usize = 100;
/// What is looked for is short.
const WORD_MAX: usize = 300;
const DAY_MILLIS: i64 = 86_400_000;

pub(crate) fn router() -> Router<View> {
    Router::new()
        .route("/refusals", get(refusals))
        .route("/refusals/minutes", get(minutes))
        .route("/certificates", get(certificates))
        .route("/security", get(security))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    reason: Option<String>,
    client: Option<String>,
    path: Option<String>,
    since: Option<String>,
    limit: Option<usize>,
}

fn word(name: &str, written: Option<String>) -> Result<Option<String>, Problem> {
    let word = written.map(|word| word.trim().to_owned());
    let word = word.filter(|word| !word.is_empty());
    if word.as_ref().is_some_and(|word| word.len() > WORD_MAX) {
        let detail = format!("`{name}` has more than {WORD_MAX} bytes");
        return Err(Problem::bad_request("too_long", detail).hint("look for a part of it"));
    }
    Ok(word)
}

/// A moment, or how long ago it was.
fn moment(written: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    let age = parse_duration(written).map(|age| now.minus(age));
    age.or_else(|_| Timestamp::parse(written)).map_err(|_| {
        let detail = format!("`since`: \"{written}\" is neither a time nor a span of time");
        Problem::bad_request("bad_since", detail).hint("write 15m, or 2026-11-21T12:00:00Z")
    })
}

/// The last refusals, the newest first, as far as they fit what is looked for.
async fn refusals(
    Extract(view): Extract<View>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let now = view.shared.clock.now();
    let since = word("since", asked.since)?;
    let since = since.map(|since| moment(&since, now)).transpose()?;
    let search = Search {
        reason: word("reason", asked.reason)?,
        client: word("client", asked.client)?,
        path: word("path", asked.path)?,
        since,
        limit: asked.limit.unwrap_or(LISTED).min(KEPT),
    };
    Ok(Json(view.shared.refusals.search(&search)))
}

async fn minutes(Extract(view): Extract<View>) -> Json<Value> {
    Json(view.shared.refusals.minutes(view.shared.clock.now()))
}

async fn certificates(Extract(view): Extract<View>) -> Json<Value> {
    Json(json!({ "certificates": all_certificates(&view) }))
}

/// The certificates of all listeners, as they are served now.
fn all_certificates(view: &View) -> Vec<Value> {
    let now = view.shared.clock.now();
    let snapshot = view.shared.snapshot.load();
    let mut all = Vec::new();
    for (listener, tls) in snapshot.credentials.listeners() {
        for (pair, certificate) in tls.settings().pairs.iter().zip(tls.certificates()) {
            let left = certificate.not_after.millis() - now.millis();
            all.push(json!({
                "listener": listener,
                "file": pair.certificate.display().to_string(),
                "names": certificate.names,
                "notBefore": certificate.not_before,
                "notAfter": certificate.not_after,
                "daysLeft": left.div_euclid(DAY_MILLIS),
            }));
        }
    }
    all
}

/// All that the security page shows of this gate.
async fn security(Extract(view): Extract<View>) -> Json<Value> {
    let shared = &view.shared;
    let now = shared.clock.now();
    let shield = shared.snapshot.load().shield.clone();
    let shield = shield.as_deref();
    let totals = Totals::of(&shared.threads);
    Json(json!({
        "refused": shared.refusals.minutes(now),
        "bans": shield::bans_page(&shared.shield, shield, BANS, now),
        "shield": shield.map(|shield| shield::state_page(&shared.shield, shield, now)),
        "certificates": all_certificates(&view),
        "websockets": shared.doctor.summary(&totals, Instant::now()),
    }))
}
