//! `POST /internal/events`: what workers say of the analyses that were placed on them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use munjigi_events::{AnalysisId, Event, EventId, Fold, Status, Stored};
use munjigi_foundation::api::{Problem, bearer, read_body, same_secret};
use munjigi_foundation::clock::Timestamp;
use sqlx::SqliteConnection;

use super::{Jobs, failed};
use crate::store::StoreError;
use crate::store::jobs::{self as rows, Analysis};
use crate::store::ledger::Ledger;

/// One post.
const BODY_MAX: usize = 8 << 20;
/// Events of one post.
const EVENTS_MAX: usize = 10_000;

/// Why events of an analysis are not taken.
mod code {
    pub(super) const UNKNOWN: &str = "unknown_analysis";
    pub(super) const OLDER: &str = "older_attempt";
    pub(super) const NOT_PLACED: &str = "not_placed";
    pub(super) const NOT_WORKERS: &str = "not_a_workers_status";
    pub(super) const BACKWARDS: &str = "status_goes_backwards";
    pub(super) const OTHER_JOB: &str = "other_job";
}

/// Takes events of workers.
pub(super) async fn events(
    State(jobs): State<Jobs>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let known = bearer(&headers)
        .is_some_and(|token| same_secret(token.as_bytes(), jobs.0.secret.expose().as_bytes()));
    if !known {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this needs the cluster's secret",
        )
        .hint("send `Authorization: Bearer SECRET` with the secret of [cluster]"));
    }
    let permit = jobs.0.posts.acquire().await;
    let bytes = read_body(body, BODY_MAX).await?;
    let events = parse(&bytes)?;
    drop(bytes);
    let answer = jobs.take(events).await.map_err(failed)?;
    drop(permit);
    if answer.stored.is_empty() && !answer.refused.is_empty() {
        let told: Vec<String> = answer
            .refused
            .iter()
            .take(10)
            .map(|(id, code)| format!("{id}: {code}"))
            .collect();
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "not_placed",
            format!("these events are not taken: {}", told.join(", ")),
        ));
    }
    Ok(Json(answer).into_response())
}

fn parse(bytes: &[u8]) -> Result<Vec<Event>, Problem> {
    let mut events = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if events.len() >= EVENTS_MAX {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_many_events",
                format!("a post has at most {EVENTS_MAX} events"),
            ));
        }
        let event = Event::parse(line).map_err(|error| {
            Problem::bad_request("bad_event", format!("line {}: {error}", number + 1))
        })?;
        events.push(event);
    }
    if events.is_empty() {
        return Err(Problem::bad_request("no_events", "the body has no event"));
    }
    Ok(events)
}

/// What became of the events of one job.
#[derive(Debug, Default)]
struct Taken {
    stored: BTreeMap<AnalysisId, u64>,
    refused: BTreeMap<AnalysisId, &'static str>,
    /// The last offset, where something was added.
    last: Option<u64>,
    added: u64,
}

impl Jobs {
    /// Stores events, those of each job in one transaction.
    async fn take(&self, events: Vec<Event>) -> Result<Stored, StoreError> {
        let now = self.0.clock.now();
        let mut by_job: BTreeMap<EventId, Vec<Event>> = BTreeMap::new();
        for event in events {
            by_job
                .entry(event.event_id.clone())
                .or_default()
                .push(event);
        }
        let mut answer = Stored::default();
        for (id, events) in by_job {
            let job = id.clone();
            let taken = self
                .0
                .store
                .write(move |tx| Box::pin(async move { take(tx, &job, &events, now).await }))
                .await?;
            for analysis in taken.stored.keys() {
                self.hear(analysis, now);
            }
            let figures = &self.0.figures;
            figures.events.fetch_add(taken.added, Ordering::Relaxed);
            let refused = u64::try_from(taken.refused.len()).unwrap_or(0);
            figures.events_refused.fetch_add(refused, Ordering::Relaxed);
            if let Some(last) = taken.last {
                self.changed(&id, last);
            }
            answer.stored.extend(taken.stored);
            let told = taken.refused.into_iter();
            answer
                .refused
                .extend(told.map(|(id, code)| (id, code.to_owned())));
        }
        Ok(answer)
    }
}

async fn take(
    tx: &mut SqliteConnection,
    job: &EventId,
    events: &[Event],
    now: Timestamp,
) -> Result<Taken, StoreError> {
    let mut taken = Taken::default();
    let Some(mut ledger) = Ledger::load(tx, job).await? else {
        for event in events {
            let elsewhere = rows::job_of(&mut *tx, &event.analyze_id).await?.is_some();
            let code = if elsewhere {
                code::OTHER_JOB
            } else {
                code::UNKNOWN
            };
            taken.refused.insert(event.analyze_id.clone(), code);
        }
        return Ok(taken);
    };
    let before = ledger.job.last_offset;
    for event in events {
        let id = &event.analyze_id;
        if taken.refused.contains_key(id) {
            continue;
        }
        let Some(row) = ledger.analysis(id) else {
            taken.refused.insert(id.clone(), code::UNKNOWN);
            continue;
        };
        if let Err(code) = may(row, event, &ledger.job.user_id) {
            taken.stored.remove(id);
            taken.refused.insert(id.clone(), code);
            continue;
        }
        // What was seen is dropped; after a gap nothing more fits, and the answer says from where to send again.
        let fold = ledger.append(event, now)?;
        if fold == Fold::Next {
            taken.added += 1;
        }
        let seq = ledger.analysis(id).map_or(0, |row| row.seq);
        taken.stored.insert(id.clone(), seq);
    }
    if ledger.job.last_offset > before {
        taken.last = Some(ledger.save(tx).await?);
    }
    Ok(taken)
}

/// Whether a worker may say this of an analysis.
fn may(row: &Analysis, event: &Event, user: &munjigi_events::UserId) -> Result<(), &'static str> {
    if event.attempt < row.attempt {
        return Err(code::OLDER);
    }
    let placed = row.server_id.is_some() && row.server_id == event.server_id;
    if event.attempt > row.attempt || !placed {
        return Err(code::NOT_PLACED);
    }
    if event.user_id != *user {
        return Err(code::OTHER_JOB);
    }
    if event.seq <= row.seq {
        // Sent again; it was judged when it came first.
        return Ok(());
    }
    if !event.status.is_workers() {
        return Err(code::NOT_WORKERS);
    }
    let writes = matches!(
        row.status,
        Status::Placed | Status::Receiving | Status::Running
    );
    if !writes {
        return Err(code::NOT_PLACED);
    }
    if rank(event.status) < rank(row.status) {
        return Err(code::BACKWARDS);
    }
    Ok(())
}

fn rank(status: Status) -> u8 {
    match status {
        Status::Receiving => 1,
        Status::Running => 2,
        Status::Collecting => 3,
        _ => 0,
    }
}
