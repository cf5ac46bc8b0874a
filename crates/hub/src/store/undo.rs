//! What is to be undone. A row is written before its act, armed when the act is to be taken back (or has served its
//! purpose), and removed once that is done.

use munjigi_events::{AnalysisId, EventId};
use munjigi_foundation::clock::Timestamp;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{Store, StoreError};

/// What a step takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An attempt on a worker: stopped and deleted there.
    Worker,
    /// A result stored here.
    Result,
    /// The upload, unless another job needs it.
    Upload,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Result => "result",
            Self::Upload => "upload",
        }
    }

    fn parse(written: &str) -> Option<Self> {
        [Self::Worker, Self::Result, Self::Upload]
            .into_iter()
            .find(|kind| kind.as_str() == written)
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Undo {
    pub(crate) id: i64,
    pub(crate) event_id: EventId,
    pub(crate) analyze_id: AnalysisId,
    pub(crate) attempt: u32,
    pub(crate) kind: Kind,
    /// The worker's `serverId`, the result's name, the upload's id.
    pub(crate) target: String,
    /// The worker may still be at it.
    pub(crate) stop: bool,
    pub(crate) since: Timestamp,
    pub(crate) tries: u32,
    pub(crate) next_try: Timestamp,
    pub(crate) error: Option<String>,
}

fn undo(row: &SqliteRow) -> Result<Undo, StoreError> {
    let kind: String = row.try_get("kind")?;
    Ok(Undo {
        id: row.try_get("id")?,
        event_id: EventId(row.try_get("event_id")?),
        analyze_id: AnalysisId(row.try_get("analyze_id")?),
        attempt: row.try_get("attempt")?,
        kind: Kind::parse(&kind)
            .ok_or_else(|| StoreError::Corrupt(format!("an undo step is {kind:?}")))?,
        target: row.try_get("target")?,
        stop: row.try_get("stop")?,
        since: Timestamp::from_millis(row.try_get("since")?),
        tries: row.try_get("tries")?,
        next_try: Timestamp::from_millis(row.try_get("next_try")?),
        error: row.try_get("error")?,
    })
}

/// Steps that are to be done, the oldest first, at most `limit`.
pub(crate) async fn armed(store: &Store, limit: u32) -> Result<Vec<Undo>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, event_id, analyze_id, attempt, kind, target, stop, since, tries, next_try, error FROM undo \
         WHERE armed = 1 ORDER BY next_try, id LIMIT ?",
    )
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(undo).collect()
}

/// A step on its way into the table.
#[derive(Debug, Clone)]
pub(crate) struct New<'a> {
    pub(crate) event_id: &'a EventId,
    pub(crate) analyze_id: &'a AnalysisId,
    pub(crate) attempt: u32,
    pub(crate) kind: Kind,
    pub(crate) target: &'a str,
    pub(crate) armed: bool,
}

/// Writes a step down, once.
pub(crate) async fn insert(
    tx: &mut SqliteConnection,
    new: New<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO undo (event_id, analyze_id, attempt, kind, target, armed, since) \
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS \
         (SELECT 1 FROM undo WHERE analyze_id = ?2 AND attempt = ?3 AND kind = ?4 AND target = ?5)",
    )
    .bind(new.event_id.as_str())
    .bind(new.analyze_id.as_str())
    .bind(new.attempt)
    .bind(new.kind.as_str())
    .bind(new.target)
    .bind(new.armed)
    .bind(now.millis())
    .execute(tx)
    .await?;
    Ok(())
}

/// Arms all steps of an analysis; `stop` where the worker may still be at it.
pub(crate) async fn arm(
    tx: &mut SqliteConnection,
    analysis: &AnalysisId,
    stop: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE undo SET stop = MAX(stop, ?1), next_try = CASE armed WHEN 1 THEN next_try ELSE ?2 END, \
         since = CASE armed WHEN 1 THEN since ELSE ?2 END, armed = 1 WHERE analyze_id = ?3",
    )
    .bind(stop)
    .bind(now.millis())
    .bind(analysis.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

/// A result that is held is no longer to be undone by itself.
pub(crate) async fn settle(
    tx: &mut SqliteConnection,
    analysis: &AnalysisId,
    kind: Kind,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM undo WHERE analyze_id = ? AND kind = ? AND armed = 0")
        .bind(analysis.as_str())
        .bind(kind.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// A step was done.
pub(crate) async fn done(tx: &mut SqliteConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM undo WHERE id = ?")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// A step failed, and is tried again at `next_try`.
pub(crate) async fn failed(
    tx: &mut SqliteConnection,
    id: i64,
    error: &str,
    next_try: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE undo SET tries = tries + 1, error = ?, next_try = ? WHERE id = ?")
        .bind(error)
        .bind(next_try.millis())
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// A worker is back: what waits for it is tried now.
pub(crate) async fn hasten(
    tx: &mut SqliteConnection,
    server: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE undo SET next_try = MIN(next_try, ?) WHERE armed = 1 AND kind = 'worker' AND target = ?",
    )
    .bind(now.millis())
    .bind(server)
    .execute(tx)
    .await?;
    Ok(())
}
