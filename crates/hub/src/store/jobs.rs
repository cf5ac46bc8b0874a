//! The rows of jobs and analyses.

use std::collections::BTreeMap;

use munjigi_events::{AnalysisId, EventId, Progress, ServerId, Status, UserId};
use munjigi_foundation::clock::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, SqliteExecutor};

use super::{Store, StoreError};

/// A job, as its row says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    pub(crate) event_id: EventId,
    pub(crate) user_id: UserId,
    pub(crate) upload_id: String,
    /// The upload is kept for this job.
    pub(crate) upload_held: bool,
    /// Of the upload.
    pub(crate) name: String,
    /// Of the upload, in bytes.
    pub(crate) size: u64,
    pub(crate) status: Status,
    /// 1 comes first, 5 last.
    pub(crate) priority: u32,
    pub(crate) epoch: String,
    pub(crate) last_offset: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) events_gone: bool,
}

/// What a result is, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) sha256: [u8; 32],
    /// Bytes.
    pub(crate) size: u64,
}

/// An analysis, as its row says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Analysis {
    pub(crate) analyze_id: AnalysisId,
    pub(crate) event_id: EventId,
    pub(crate) ordinal: u32,
    pub(crate) model: String,
    pub(crate) status: Status,
    pub(crate) attempt: u32,
    /// Of the last event.
    pub(crate) seq: u64,
    pub(crate) server_id: Option<ServerId>,
    pub(crate) progress: Option<Progress>,
    pub(crate) findings: u64,
    pub(crate) error: Option<String>,
    /// The worker has the whole file.
    pub(crate) accepted: bool,
    /// What the worker had is here, or there was nothing.
    pub(crate) collected: bool,
    /// Attempts that failed.
    pub(crate) tries: u32,
    pub(crate) not_before: Timestamp,
    /// Why it waits, as its last `QUEUED` event says.
    pub(crate) said: Option<String>,
    pub(crate) result: Option<Held>,
}

macro_rules! jobs {
    ($rest:literal) => {
        concat!(
            "SELECT event_id, user_id, upload_id, upload_held, name, size, status, priority, epoch, last_offset, \
             created_at, ended_at, events_gone FROM jobs ",
            $rest
        )
    };
}

macro_rules! analyses {
    ($rest:literal) => {
        concat!(
            "SELECT analyze_id, event_id, ordinal, model, status, attempt, seq, server_id, progress, findings, error, \
             accepted, collected, tries, not_before, said, result_sha256, result_size FROM analyses ",
            $rest
        )
    };
}

/// A count for SQLite, which has no unsigned numbers.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count from SQLite.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn status(row: &SqliteRow) -> Result<Status, StoreError> {
    let written: String = row.try_get("status")?;
    Status::parse(&written).ok_or_else(|| StoreError::Corrupt(format!("a status is {written:?}")))
}

fn job(row: &SqliteRow) -> Result<Job, StoreError> {
    let ended: Option<i64> = row.try_get("ended_at")?;
    Ok(Job {
        event_id: EventId(row.try_get("event_id")?),
        user_id: UserId(row.try_get("user_id")?),
        upload_id: row.try_get("upload_id")?,
        upload_held: row.try_get("upload_held")?,
        name: row.try_get("name")?,
        size: unsigned(row.try_get("size")?),
        status: status(row)?,
        priority: row.try_get("priority")?,
        epoch: row.try_get("epoch")?,
        last_offset: unsigned(row.try_get("last_offset")?),
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        ended_at: ended.map(Timestamp::from_millis),
        events_gone: row.try_get("events_gone")?,
    })
}

fn analysis(row: &SqliteRow) -> Result<Analysis, StoreError> {
    let progress: Option<String> = row.try_get("progress")?;
    let sha256: Option<Vec<u8>> = row.try_get("result_sha256")?;
    let size: Option<i64> = row.try_get("result_size")?;
    let unreadable = |what: &str| StoreError::Corrupt(format!("the {what} of an analysis"));
    let result = match (sha256, size) {
        (Some(sha256), Some(size)) => Some(Held {
            sha256: sha256.try_into().map_err(|_| unreadable("digest"))?,
            size: unsigned(size),
        }),
        _ => None,
    };
    Ok(Analysis {
        analyze_id: AnalysisId(row.try_get("analyze_id")?),
        event_id: EventId(row.try_get("event_id")?),
        ordinal: row.try_get("ordinal")?,
        model: row.try_get("model")?,
        status: status(row)?,
        attempt: row.try_get("attempt")?,
        seq: unsigned(row.try_get("seq")?),
        server_id: row.try_get::<Option<String>, _>("server_id")?.map(ServerId),
        progress: progress
            .map(|json| serde_json::from_str(&json).map_err(|_| unreadable("progress")))
            .transpose()?,
        findings: unsigned(row.try_get("findings")?),
        error: row.try_get("error")?,
        accepted: row.try_get("accepted")?,
        collected: row.try_get("collected")?,
        tries: row.try_get("tries")?,
        not_before: Timestamp::from_millis(row.try_get("not_before")?),
        said: row.try_get("said")?,
        result,
    })
}

fn all<T>(
    rows: &[SqliteRow],
    read: fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(read).collect()
}

/// The job `id`, whoever owns it.
pub(crate) async fn find(
    on: impl SqliteExecutor<'_>,
    id: &EventId,
) -> Result<Option<Job>, StoreError> {
    sqlx::query(jobs!("WHERE event_id = ?"))
        .bind(id.as_str())
        .fetch_optional(on)
        .await?
        .as_ref()
        .map(job)
        .transpose()
}

/// The analyses of a job, in the order in which they were asked for.
pub(crate) async fn analyses_of(
    on: impl SqliteExecutor<'_>,
    id: &EventId,
) -> Result<Vec<Analysis>, StoreError> {
    let rows = sqlx::query(analyses!("WHERE event_id = ? ORDER BY ordinal"))
        .bind(id.as_str())
        .fetch_all(on)
        .await?;
    all(&rows, analysis)
}

/// The job that an analysis belongs to.
pub(crate) async fn job_of(
    on: impl SqliteExecutor<'_>,
    id: &AnalysisId,
) -> Result<Option<EventId>, StoreError> {
    let found: Option<String> =
        sqlx::query_scalar("SELECT event_id FROM analyses WHERE analyze_id = ?")
            .bind(id.as_str())
            .fetch_optional(on)
            .await?;
    Ok(found.map(EventId))
}

/// Which jobs of a user are listed.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    pub(crate) user: UserId,
    pub(crate) limit: u32,
    /// Older than this job.
    pub(crate) before: Option<String>,
    pub(crate) status: Option<Status>,
}

/// The newest jobs of a user.
pub(crate) async fn list(store: &Store, wanted: &Listing) -> Result<Vec<Job>, StoreError> {
    // Ids are ULIDs: younger ones are greater.
    let rows = sqlx::query(jobs!(
        "WHERE user_id = ?1 AND (?2 IS NULL OR event_id < ?2) AND (?3 IS NULL OR status = ?3) \
         ORDER BY event_id DESC LIMIT ?4"
    ))
    .bind(wanted.user.as_str())
    .bind(wanted.before.as_deref())
    .bind(wanted.status.map(Status::as_str))
    .bind(wanted.limit)
    .fetch_all(store.read())
    .await?;
    all(&rows, job)
}

/// Jobs with an analysis that has not ended, and those analyses.
pub(crate) async fn live(store: &Store) -> Result<(Vec<Job>, Vec<Analysis>), StoreError> {
    let mut reader = store.read().begin().await?;
    let found = sqlx::query(jobs!(
        "WHERE event_id IN (SELECT event_id FROM analyses WHERE live = 1)"
    ))
    .fetch_all(&mut *reader)
    .await?;
    let rows = sqlx::query(analyses!("WHERE live = 1 ORDER BY event_id, ordinal"))
        .fetch_all(&mut *reader)
        .await?;
    Ok((all(&found, job)?, all(&rows, analysis)?))
}

/// How many jobs of `user` have not ended.
pub(crate) async fn unfinished_of(
    tx: &mut SqliteConnection,
    user: &UserId,
) -> Result<u64, StoreError> {
    let count: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM jobs WHERE user_id = ? AND ended_at IS NULL")
            .bind(user.as_str())
            .fetch_one(tx)
            .await?;
    Ok(unsigned(count))
}

pub(crate) async fn insert(tx: &mut SqliteConnection, job: &Job) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO jobs (event_id, user_id, upload_id, upload_held, name, size, status, priority, epoch, \
         last_offset, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(job.event_id.as_str())
    .bind(job.user_id.as_str())
    .bind(&job.upload_id)
    .bind(job.upload_held)
    .bind(&job.name)
    .bind(number(job.size))
    .bind(job.status.as_str())
    .bind(job.priority)
    .bind(&job.epoch)
    .bind(number(job.last_offset))
    .bind(job.created_at.millis())
    .execute(tx)
    .await?;
    Ok(())
}

/// Inserts an analysis that waits for its first event.
pub(crate) async fn insert_analysis(
    tx: &mut SqliteConnection,
    job: &EventId,
    id: &AnalysisId,
    ordinal: u32,
    model: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO analyses (analyze_id, event_id, ordinal, model, status, attempt, seq, findings, live) \
         VALUES (?, ?, ?, ?, 'QUEUED', 0, 0, 0, 1)",
    )
    .bind(id.as_str())
    .bind(job.as_str())
    .bind(ordinal)
    .bind(model)
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes a job with its analyses, events and what is known of its results; undo rows stay.
pub(crate) async fn delete(tx: &mut SqliteConnection, id: &EventId) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM findings WHERE event_id = ?",
        "DELETE FROM events WHERE event_id = ?",
        "DELETE FROM jobs WHERE event_id = ?",
    ] {
        sqlx::query(statement)
            .bind(id.as_str())
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// Jobs by status.
pub(crate) async fn counts(store: &Store) -> Result<Vec<(String, u64)>, StoreError> {
    let rows = sqlx::query("SELECT status, COUNT(*) AS jobs FROM jobs GROUP BY status")
        .fetch_all(store.read())
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("status")?, unsigned(row.try_get("jobs")?))))
        .collect()
}

/// Jobs that ended before `ended` (and, with `events`, whose events are still there), at most `limit`.
pub(crate) async fn ended_before(
    store: &Store,
    ended: Timestamp,
    events: bool,
    limit: u32,
) -> Result<Vec<EventId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT event_id FROM jobs WHERE ended_at IS NOT NULL AND ended_at <= ? AND (? = 0 OR events_gone = 0) \
         ORDER BY ended_at LIMIT ?",
    )
    .bind(ended.millis())
    .bind(events)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    Ok(ids.into_iter().map(EventId).collect())
}

/// Analyses under way, by worker.
pub(crate) async fn running(store: &Store) -> Result<BTreeMap<String, u64>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT server_id, COUNT(*) FROM analyses WHERE server_id IS NOT NULL \
         AND status IN ('PLACED', 'RECEIVING', 'RUNNING', 'COLLECTING') GROUP BY server_id",
    )
    .fetch_all(store.read())
    .await?;
    let counted = |(server, count): (String, i64)| (server, u64::try_from(count).unwrap_or(0));
    Ok(rows.into_iter().map(counted).collect())
}

/// Jobs of users that are gone, at most `limit`.
pub(crate) async fn of_removed_users(store: &Store, limit: u32) -> Result<Vec<Job>, StoreError> {
    let rows = sqlx::query(jobs!(
        "WHERE user_id IN (SELECT id FROM users WHERE deleted_at IS NOT NULL) AND status <> 'CANCELLING' LIMIT ?"
    ))
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    all(&rows, job)
}

/// An answer given before under an `Idempotency-Key`, with the digest of its request.
pub(crate) async fn answered(
    tx: &mut SqliteConnection,
    user: &UserId,
    key: &str,
) -> Result<Option<(Vec<u8>, String)>, StoreError> {
    let row = sqlx::query("SELECT request, answer FROM idempotency WHERE user_id = ? AND key = ?")
        .bind(user.as_str())
        .bind(key)
        .fetch_optional(tx)
        .await?;
    row.map(|row| Ok((row.try_get("request")?, row.try_get("answer")?)))
        .transpose()
}

/// Keeps an answer under its key.
pub(crate) async fn keep_answer(
    tx: &mut SqliteConnection,
    user: &UserId,
    key: &str,
    request: &[u8],
    answer: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO idempotency (user_id, key, request, answer, created_at) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(user.as_str())
    .bind(key)
    .bind(request)
    .bind(answer)
    .bind(now.millis())
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets answers given before `before`.
pub(crate) async fn forget_answers(
    tx: &mut SqliteConnection,
    before: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM idempotency WHERE created_at < ?")
        .bind(before.millis())
        .execute(tx)
        .await?;
    Ok(())
}

/// Drops the events of a job that ended.
pub(crate) async fn drop_events(tx: &mut SqliteConnection, id: &EventId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM events WHERE event_id = ?")
        .bind(id.as_str())
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE jobs SET events_gone = 1 WHERE event_id = ?")
        .bind(id.as_str())
        .execute(tx)
        .await?;
    Ok(())
}
