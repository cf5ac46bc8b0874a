//! The rows of uploads.

use munjigi_events::UserId;
use munjigi_foundation::clock::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{Store, StoreError};

/// An upload, as its row says: what was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub id: String,
    pub user_id: UserId,
    /// The file's name as the client gave it, without folders; text, never a path.
    pub name: String,
    /// Bytes; `None` while it is deferred.
    pub length: Option<u64>,
    /// Durable bytes.
    pub received: u64,
    pub complete: bool,
    /// When complete.
    pub sha256: Option<[u8; 32]>,
    /// When complete.
    pub blake3: Option<[u8; 32]>,
    /// SHA-256 that the client announced for the whole; verified when the last byte is there.
    pub expected_sha256: Option<[u8; 32]>,
    /// Jobs that need it.
    pub used: u32,
    /// `Upload-Metadata` as sent.
    pub metadata: String,
    pub created_at: Timestamp,
    /// When it goes, unless somebody touches it or a job needs it.
    pub expires_at: Timestamp,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, name, length, received, complete, sha256, blake3, expected_sha256, used, ",
            "metadata, created_at, expires_at FROM uploads ",
            $rest
        )
    };
}

/// Uploads, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) uploads: u64,
    /// Bytes held or promised.
    pub(crate) bytes: u64,
    /// Bytes promised and not received yet.
    pub(crate) missing: u64,
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn digest(bytes: Option<Vec<u8>>, column: &str) -> Result<Option<[u8; 32]>, StoreError> {
    bytes
        .map(|bytes| {
            <[u8; 32]>::try_from(bytes.as_slice())
                .map_err(|_| StoreError::Corrupt(format!("an upload's {column} is no digest")))
        })
        .transpose()
}

fn upload(row: &SqliteRow) -> Result<Upload, StoreError> {
    Ok(Upload {
        id: row.try_get("id")?,
        user_id: UserId(row.try_get("user_id")?),
        name: row.try_get("name")?,
        length: row.try_get::<Option<i64>, _>("length")?.map(unsigned),
        received: unsigned(row.try_get("received")?),
        complete: row.try_get("complete")?,
        sha256: digest(row.try_get("sha256")?, "sha256")?,
        blake3: digest(row.try_get("blake3")?, "blake3")?,
        expected_sha256: digest(row.try_get("expected_sha256")?, "expected_sha256")?,
        used: row.try_get("used")?,
        metadata: row.try_get("metadata")?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        expires_at: Timestamp::from_millis(row.try_get("expires_at")?),
    })
}

pub(crate) async fn find(store: &Store, id: &str) -> Result<Option<Upload>, StoreError> {
    sqlx::query(select!("WHERE id = ?"))
        .bind(id)
        .fetch_optional(store.read())
        .await?
        .as_ref()
        .map(upload)
        .transpose()
}

/// The newest uploads of `user`, at most `limit`.
pub(crate) async fn list(
    store: &Store,
    user: &UserId,
    limit: u32,
) -> Result<Vec<Upload>, StoreError> {
    sqlx::query(select!("WHERE user_id = ? ORDER BY id DESC LIMIT ?"))
        .bind(user.as_str())
        .bind(limit)
        .fetch_all(store.read())
        .await?
        .iter()
        .map(upload)
        .collect()
}

/// Every upload, for the look at the folder that a start takes.
pub(crate) async fn all(store: &Store) -> Result<Vec<Upload>, StoreError> {
    sqlx::query(select!("ORDER BY id"))
        .fetch_all(store.read())
        .await?
        .iter()
        .map(upload)
        .collect()
}

/// Ids of uploads that nobody needs any more at `now`.
pub(crate) async fn expired(
    store: &Store,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT id FROM uploads WHERE used = 0 AND expires_at <= ? ORDER BY expires_at LIMIT ?",
    )
    .bind(now.millis())
    .bind(limit)
    .fetch_all(store.read())
    .await?)
}

/// Ids of the uploads of `user` that no job needs.
pub(crate) async fn unused_of(store: &Store, user: &UserId) -> Result<Vec<String>, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT id FROM uploads WHERE user_id = ? AND used = 0")
            .bind(user.as_str())
            .fetch_all(store.read())
            .await?,
    )
}

/// What all users hold.
pub(crate) async fn usage(store: &Store) -> Result<Usage, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS uploads, COALESCE(SUM(COALESCE(length, received)), 0) AS bytes, \
         COALESCE(SUM(COALESCE(length, received) - received), 0) AS missing FROM uploads",
    )
    .fetch_one(store.read())
    .await?;
    as_usage(&row)
}

fn as_usage(row: &SqliteRow) -> Result<Usage, StoreError> {
    Ok(Usage {
        uploads: unsigned(row.try_get("uploads")?),
        bytes: unsigned(row.try_get("bytes")?),
        missing: unsigned(row.try_get("missing")?),
    })
}

/// What `user` holds, as the transaction sees it: two creations at once can't both take the last of a quota.
pub(crate) async fn usage_of(
    tx: &mut SqliteConnection,
    user: &UserId,
) -> Result<Usage, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS uploads, COALESCE(SUM(COALESCE(length, received)), 0) AS bytes, \
         COALESCE(SUM(COALESCE(length, received) - received), 0) AS missing FROM uploads WHERE user_id = ?",
    )
    .bind(user.as_str())
    .fetch_one(tx)
    .await?;
    as_usage(&row)
}

pub(crate) async fn insert(tx: &mut SqliteConnection, upload: &Upload) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO uploads (id, user_id, name, length, received, complete, expected_sha256, metadata, created_at, expires_at) \
         VALUES (?, ?, ?, ?, 0, 0, ?, ?, ?, ?)",
    )
    .bind(&upload.id)
    .bind(upload.user_id.as_str())
    .bind(&upload.name)
    .bind(upload.length.map(number))
    .bind(upload.expected_sha256.map(Vec::from))
    .bind(&upload.metadata)
    .bind(upload.created_at.millis())
    .bind(upload.expires_at.millis())
    .execute(tx)
    .await?;
    Ok(())
}

/// Sets the durable offset; it never goes back. False when the row is gone.
pub(crate) async fn advance(
    tx: &mut SqliteConnection,
    id: &str,
    received: u64,
    expires_at: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE uploads SET received = MAX(received, ?), expires_at = ? WHERE id = ? AND complete = 0",
    )
    .bind(number(received))
    .bind(expires_at.millis())
    .bind(id)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets a deferred length. False when the row is gone or has another length.
pub(crate) async fn set_length(
    tx: &mut SqliteConnection,
    id: &str,
    length: u64,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE uploads SET length = ?1 WHERE id = ?2 AND (length IS NULL OR length = ?1)",
    )
    .bind(number(length))
    .bind(id)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Marks it complete with its digests. False when the row is gone.
pub(crate) async fn complete(
    tx: &mut SqliteConnection,
    id: &str,
    length: u64,
    sha256: [u8; 32],
    blake3: [u8; 32],
    expires_at: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE uploads SET length = ?1, received = ?1, complete = 1, sha256 = ?2, blake3 = ?3, expires_at = ?4 \
         WHERE id = ?5",
    )
    .bind(number(length))
    .bind(Vec::from(sha256))
    .bind(Vec::from(blake3))
    .bind(expires_at.millis())
    .bind(id)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes the row unless a job needs it. True when it was removed.
pub(crate) async fn delete_unused(tx: &mut SqliteConnection, id: &str) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM uploads WHERE id = ? AND used = 0")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Counts one more job that needs the upload. False when there is no such upload.
///
/// # Errors
/// When the database fails.
pub async fn pin(tx: &mut SqliteConnection, id: &str) -> Result<bool, StoreError> {
    let done = sqlx::query("UPDATE uploads SET used = used + 1 WHERE id = ?")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Counts one job less. An upload that is gone is nothing to undo.
///
/// # Errors
/// When the database fails.
pub async fn unpin(tx: &mut SqliteConnection, id: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE uploads SET used = MAX(used - 1, 0) WHERE id = ?")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}
