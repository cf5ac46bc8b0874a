//! Jobs over HTTP.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use munjigi_events::{AnalysisId, EventId, Status, UserId};
use munjigi_foundation::api::{Problem, read_body};
use munjigi_foundation::clock::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::SqliteConnection;

use super::{Ended, Jobs, failed, ingest};
use crate::push;
use crate::results;
use crate::store::jobs::{self as rows, Analysis, Held, Job, Listing};
use crate::store::ledger::{Ledger, Said};
use crate::store::{StoreError, undo};
use crate::uploads::{self, Upload};
use crate::user::User;

/// What a client says of a job is short.
const BODY_MAX: usize = 64 * 1024;
const KEY_MAX: usize = 255;
const MODEL_MAX: usize = 64;
const LIST: u32 = 50;
const LIST_MAX: u32 = 200;
/// Clean-ups shown.
const CLEANUPS_MAX: u32 = 1_000;
/// Where nothing is said, a job is neither urgent nor unimportant.
const PRIORITY: u32 = 3;
/// The model of a job that names none.
const MODEL: &str = "source";

/// The paths of jobs, their events and their results; and of workers' posts.
pub(crate) fn router(jobs: Jobs) -> Router {
    Router::new()
        .route("/api/jobs", post(create).get(list))
        .route("/api/jobs/{eventId}", get(one).delete(end))
        .route("/api/jobs/{eventId}/events", get(push::sse))
        .route("/api/ws", get(push::ws))
        .route("/api/admin/cleanup", get(cleanup))
        .route("/internal/events", post(ingest::events))
        .merge(results::router())
        .with_state(jobs)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    upload: String,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    priority: Option<u32>,
}

/// A wanted job, checked.
#[derive(Debug, Clone)]
struct New {
    user: UserId,
    upload: String,
    models: Vec<String>,
    priority: u32,
    key: Option<String>,
    /// SHA-256 of what was asked.
    digest: Vec<u8>,
    unfinished_max: u64,
}

/// What came of it.
enum Made {
    New(String, EventId),
    /// The same was asked before, under the same key.
    Again(String),
    OtherRequest,
    TooMany,
    NoUpload,
}

async fn create(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = read_body(body, BODY_MAX).await?;
    let wanted: Wanted = serde_json::from_slice(&bytes).map_err(|error| {
        Problem::bad_request(
            "bad_json",
            format!("the body is not the JSON expected: {error}"),
        )
        .hint(r#"send {"upload":"ID","models":["source"]}"#)
    })?;
    let new = check(&jobs, &user.id, wanted, key(&headers)?)?;
    let upload = jobs
        .0
        .uploads
        .get(&user.id, &new.upload)
        .await
        .map_err(failed)?;
    if let Some(upload) = upload.as_ref().filter(|upload| !upload.complete) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "upload_unfinished",
            format!(
                "the upload has {} bytes so far and is not finished",
                upload.received
            ),
        )
        .hint("finish the upload, then start the job"));
    }
    let (now, unfinished) = (jobs.0.clock.now(), new.unfinished_max);
    let made = jobs
        .0
        .store
        .write(move |tx| Box::pin(async move { make(tx, new, upload, now).await }))
        .await
        .map_err(failed)?;
    match made {
        Made::New(answer, id) => {
            jobs.0.figures.created.fetch_add(1, Ordering::Relaxed);
            tracing::info!(event = %id, user = %user.id, "a job was made");
            jobs.changed(&id, 0);
            Ok(created(answer, &id))
        }
        Made::Again(answer) => {
            let id = serde_json::from_str::<Value>(&answer)
                .ok()
                .and_then(|job| job.get("eventId")?.as_str().map(EventId::from))
                .unwrap_or_else(|| EventId::from(""));
            Ok(created(answer, &id))
        }
        Made::OtherRequest => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "this Idempotency-Key came with another request before",
        )
        .hint("use a new key for a new request")),
        Made::TooMany => Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_jobs",
            format!("a user has at most {unfinished} unfinished jobs"),
        )
        .retry_after(10)),
        Made::NoUpload => Err(Problem::not_found("upload")),
    }
}

fn created(answer: String, id: &EventId) -> Response {
    let mut response = (StatusCode::CREATED, answer).into_response();
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if let Ok(place) = HeaderValue::from_str(&format!("/api/jobs/{id}")) {
        fields.insert(header::LOCATION, place);
    }
    response
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default().trim();
    if key.is_empty() || key.len() > KEY_MAX {
        return Err(Problem::bad_request(
            "bad_idempotency_key",
            format!("an Idempotency-Key has 1 to {KEY_MAX} visible characters"),
        ));
    }
    Ok(Some(key.to_owned()))
}

fn check(jobs: &Jobs, user: &UserId, wanted: Wanted, key: Option<String>) -> Result<New, Problem> {
    let mut models: Vec<String> = Vec::new();
    for model in wanted.models {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if model.is_empty() || model.len() > MODEL_MAX || !model.chars().all(plain) {
            let shown: String = model.chars().take(MODEL_MAX).collect();
            return Err(Problem::bad_request(
                "bad_model",
                format!("{shown:?} is no name of a model"),
            )
            .hint("GET /api/models lists them"));
        }
        if !models.contains(&model) {
            models.push(model);
        }
    }
    if models.is_empty() {
        models.push(MODEL.to_owned());
    }
    let limits = jobs.0.limits;
    if models.len() > limits.models {
        return Err(Problem::bad_request(
            "too_many_models",
            format!("a job has at most {} models", limits.models),
        ));
    }
    let priority = wanted.priority.unwrap_or(PRIORITY);
    if !(1..=5).contains(&priority) {
        return Err(Problem::bad_request(
            "bad_priority",
            "a priority is 1 (comes first) to 5 (comes last)",
        ));
    }
    let asked = json!([wanted.upload, models, priority]).to_string();
    Ok(New {
        user: user.clone(),
        upload: wanted.upload,
        models,
        priority,
        key,
        digest: Sha256::digest(asked.as_bytes()).to_vec(),
        unfinished_max: limits.unfinished,
    })
}

async fn make(
    tx: &mut SqliteConnection,
    new: New,
    upload: Option<Upload>,
    now: Timestamp,
) -> Result<Made, StoreError> {
    if let Some(key) = &new.key
        && let Some((digest, answer)) = rows::answered(tx, &new.user, key).await?
    {
        return Ok(if digest == new.digest {
            Made::Again(answer)
        } else {
            Made::OtherRequest
        });
    }
    let Some(upload) = upload else {
        return Ok(Made::NoUpload);
    };
    if rows::unfinished_of(tx, &new.user).await? >= new.unfinished_max {
        return Ok(Made::TooMany);
    }
    if !uploads::pin(tx, &upload.id).await? {
        return Ok(Made::NoUpload);
    }
    let job = Job {
        event_id: EventId(id()),
        user_id: new.user.clone(),
        upload_id: upload.id,
        upload_held: true,
        name: upload.name,
        size: upload.length.unwrap_or(upload.received),
        status: Status::Queued,
        priority: new.priority,
        epoch: id(),
        last_offset: 0,
        created_at: now,
        ended_at: None,
        events_gone: false,
    };
    rows::insert(tx, &job).await?;
    let mut ids = Vec::new();
    for (ordinal, model) in (0..).zip(&new.models) {
        let analysis = AnalysisId(id());
        rows::insert_analysis(tx, &job.event_id, &analysis, ordinal, model).await?;
        ids.push(analysis);
    }
    let Some(mut ledger) = Ledger::load(tx, &job.event_id).await? else {
        return Err(StoreError::Corrupt("a job that was just made".to_owned()));
    };
    for analysis in ids {
        ledger.say(&analysis, Status::Queued, Said::default(), now)?;
    }
    let answer = shown(&ledger.job, &ledger.analyses).to_string();
    ledger.save(tx).await?;
    if let Some(key) = &new.key {
        rows::keep_answer(tx, &new.user, key, &new.digest, &answer, now).await?;
    }
    Ok(Made::New(answer, job.event_id))
}

fn id() -> String {
    ulid::Ulid::generate().to_string()
}

/// A job as the face shows it.
fn shown(job: &Job, analyses: &[Analysis]) -> Value {
    json!({
        "eventId": job.event_id,
        "status": job.status,
        "createdAt": job.created_at,
        "endedAt": job.ended_at,
        "name": job.name,
        "size": job.size,
        "upload": job.upload_id,
        "priority": job.priority,
        "epoch": job.epoch,
        "lastOffset": job.last_offset,
        "analyses": analyses.iter().map(shown_analysis).collect::<Vec<_>>(),
    })
}

fn shown_analysis(analysis: &Analysis) -> Value {
    let value = json!({
        "analyzeId": analysis.analyze_id,
        "model": analysis.model,
        "serverId": analysis.server_id,
        "status": analysis.status,
        "attempt": analysis.attempt,
        "findings": analysis.findings,
        "progress": analysis.progress,
        "error": analysis.error,
        "message": analysis.said,
        "result": analysis.result.map(shown_result),
    });
    // What there is not is left out.
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, value)| name == "serverId" || !value.is_null())
            .collect(),
        other => other,
    }
}

fn shown_result(held: Held) -> Value {
    let sha256: String = held
        .sha256
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({ "size": held.size, "sha256": sha256 })
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<u32>,
    before: Option<String>,
    status: Option<String>,
}

fn bad_query(rejection: &QueryRejection) -> Problem {
    Problem::bad_request("bad_query", rejection.body_text())
}

async fn list(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(page) = page.map_err(|rejection| bad_query(&rejection))?;
    let status = page
        .status
        .filter(|status| !status.is_empty())
        .map(|written| {
            Status::parse(&written.to_ascii_uppercase()).ok_or_else(|| {
                Problem::bad_request("bad_status", "there is no such status")
                    .hint("QUEUED, PLACED, RECEIVING, RUNNING, COLLECTING, DONE, FAILED, CANCELLING or CANCELLED")
            })
        })
        .transpose()?;
    let wanted = Listing {
        user: user.id,
        limit: page.limit.unwrap_or(LIST).clamp(1, LIST_MAX),
        before: page.before.filter(|before| !before.is_empty()),
        status,
    };
    let found = rows::list(&jobs.0.store, &wanted).await.map_err(failed)?;
    let mut shown_jobs = Vec::with_capacity(found.len());
    for job in found {
        let analyses = rows::analyses_of(jobs.0.store.read(), &job.event_id)
            .await
            .map_err(failed)?;
        shown_jobs.push(shown(&job, &analyses));
    }
    Ok(Json(json!({ "jobs": shown_jobs })))
}

impl Jobs {
    /// The job `id` of `user`.
    ///
    /// # Errors
    /// 404 when there is none, also when it is somebody else's.
    pub(crate) async fn of_user(&self, user: &User, id: &str) -> Result<Job, Problem> {
        rows::find(self.0.store.read(), &EventId::from(id))
            .await
            .map_err(failed)?
            .filter(|job| job.user_id == user.id)
            .ok_or_else(|| Problem::not_found("job"))
    }
}

async fn one(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let job = jobs.of_user(&user, &id).await?;
    let analyses = rows::analyses_of(jobs.0.store.read(), &job.event_id)
        .await
        .map_err(failed)?;
    Ok(Json(shown(&job, &analyses)))
}

async fn end(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = EventId(id);
    match jobs.cancel(&user.id, &id).await.map_err(failed)? {
        Ended::Unknown => Err(Problem::not_found("job")),
        Ended::Cancelling => {
            let job = jobs.of_user(&user, id.as_str()).await?;
            let analyses = rows::analyses_of(jobs.0.store.read(), &id)
                .await
                .map_err(failed)?;
            Ok((StatusCode::ACCEPTED, Json(shown(&job, &analyses))).into_response())
        }
        Ended::Before => {
            jobs.remove(&id).await.map_err(failed)?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

async fn cleanup(State(jobs): State<Jobs>) -> Result<Json<Value>, Problem> {
    let steps = undo::armed(&jobs.0.store, CLEANUPS_MAX)
        .await
        .map_err(failed)?;
    let rows: Vec<Value> = steps
        .iter()
        .map(|step| {
            let worker = step.kind == undo::Kind::Worker;
            json!({
                "eventId": step.event_id,
                "analyzeId": step.analyze_id,
                "attempt": step.attempt,
                "kind": step.kind.as_str(),
                "serverId": worker.then_some(&step.target),
                "since": step.since,
                "attempts": step.tries,
                "nextTry": step.next_try,
                "error": step.error,
            })
        })
        .collect();
    Ok(Json(json!({ "cleanups": rows })))
}
