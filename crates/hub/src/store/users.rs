//! The rows of users, sessions, tokens and sign-in links.

use munjigi_events::UserId;
use munjigi_foundation::clock::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{Store, StoreError};

/// The SHA-256 of a secret: what is kept of it.
pub(crate) type Hash = [u8; 32];

/// A person.
#[derive(Debug, Clone)]
pub(crate) struct UserRow {
    pub(crate) id: UserId,
    pub(crate) name: String,
    pub(crate) admin: bool,
    pub(crate) has_password: bool,
    pub(crate) created_at: Timestamp,
}

/// A way in that a request showed: a session's cookie or a token.
#[derive(Debug, Clone)]
pub(crate) struct CredentialRow {
    pub(crate) user: UserRow,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) used_at: Option<Timestamp>,
}

/// A token as its user sees it.
#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) used_at: Option<Timestamp>,
}

/// What became of a sign-in link.
#[derive(Debug, Clone)]
pub(crate) enum Link {
    Good(UserRow),
    /// Used before, or too old.
    Spent,
    Unknown,
}

fn time(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    Ok(row
        .try_get::<Option<i64>, _>(column)?
        .map(Timestamp::from_millis))
}

fn user(row: &SqliteRow) -> Result<UserRow, StoreError> {
    Ok(UserRow {
        id: UserId(row.try_get("user_id")?),
        name: row.try_get("user_name")?,
        admin: row.try_get("admin")?,
        has_password: row.try_get("has_password")?,
        created_at: Timestamp::from_millis(row.try_get("user_created_at")?),
    })
}

macro_rules! user_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "users.id AS user_id, users.name AS user_name, users.admin, ",
            "users.password IS NOT NULL AS has_password, users.created_at AS user_created_at ",
            $after
        )
    };
}

pub(crate) async fn insert(
    tx: &mut SqliteConnection,
    id: &UserId,
    name: &str,
    admin: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO users (id, name, admin, created_at) VALUES (?, ?, ?, ?)")
        .bind(id.as_str())
        .bind(name)
        .bind(admin)
        .bind(now.millis())
        .execute(tx)
        .await?;
    Ok(())
}

/// True when somebody has that name.
pub(crate) async fn is_taken(tx: &mut SqliteConnection, name: &str) -> Result<bool, StoreError> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM users WHERE name = ? AND deleted_at IS NULL")
            .bind(name)
            .fetch_optional(tx)
            .await?;
    Ok(found.is_some())
}

pub(crate) async fn count(tx: &mut SqliteConnection) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM users WHERE deleted_at IS NULL")
        .fetch_one(tx)
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// The user made at the first start.
pub(crate) async fn first(store: &Store) -> Result<Option<UserRow>, StoreError> {
    sqlx::query(user_columns!(
        "SELECT ",
        "FROM users WHERE deleted_at IS NULL AND admin ORDER BY created_at, id LIMIT 1"
    ))
    .fetch_optional(store.read())
    .await?
    .as_ref()
    .map(user)
    .transpose()
}

pub(crate) async fn find(store: &Store, id: &UserId) -> Result<Option<UserRow>, StoreError> {
    sqlx::query(user_columns!(
        "SELECT ",
        "FROM users WHERE id = ? AND deleted_at IS NULL"
    ))
    .bind(id.as_str())
    .fetch_optional(store.read())
    .await?
    .as_ref()
    .map(user)
    .transpose()
}

/// A user by name, and the password's hash.
pub(crate) async fn by_name(
    store: &Store,
    name: &str,
) -> Result<Option<(UserRow, Option<String>)>, StoreError> {
    let row = sqlx::query(user_columns!(
        "SELECT users.password, ",
        "FROM users WHERE name = ? AND deleted_at IS NULL"
    ))
    .bind(name)
    .fetch_optional(store.read())
    .await?;
    row.map(|row| Ok((user(&row)?, row.try_get("password")?)))
        .transpose()
}

/// The hash of a user's password.
pub(crate) async fn password(store: &Store, id: &UserId) -> Result<Option<String>, StoreError> {
    let found: Option<Option<String>> =
        sqlx::query_scalar("SELECT password FROM users WHERE id = ? AND deleted_at IS NULL")
            .bind(id.as_str())
            .fetch_optional(store.read())
            .await?;
    Ok(found.flatten())
}

pub(crate) async fn list(store: &Store) -> Result<Vec<UserRow>, StoreError> {
    sqlx::query(user_columns!(
        "SELECT ",
        "FROM users WHERE deleted_at IS NULL ORDER BY created_at, id"
    ))
    .fetch_all(store.read())
    .await?
    .iter()
    .map(user)
    .collect()
}

/// Sets a password and ends all sessions but `keep`; gives the hashes of those ended. The password must still be
/// `before`: two changes at once can't both count.
pub(crate) async fn set_password(
    tx: &mut SqliteConnection,
    id: &UserId,
    before: Option<&str>,
    password: &str,
    keep: Option<Hash>,
) -> Result<Option<Vec<Hash>>, StoreError> {
    let done = sqlx::query(
        "UPDATE users SET password = ? WHERE id = ? AND deleted_at IS NULL AND password IS ?",
    )
    .bind(password)
    .bind(id.as_str())
    .bind(before)
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let keep = keep.map(Vec::from).unwrap_or_default();
    let ended =
        sqlx::query_scalar("DELETE FROM sessions WHERE user_id = ? AND hash <> ? RETURNING hash")
            .bind(id.as_str())
            .bind(keep)
            .fetch_all(tx)
            .await?;
    Ok(Some(hashes(ended)))
}

fn hashes(rows: Vec<Vec<u8>>) -> Vec<Hash> {
    rows.into_iter()
        .filter_map(|hash| Hash::try_from(hash).ok())
        .collect()
}

/// Ends everything by which `id` gets in; gives the hashes of what was ended. `None` when there is no such user.
pub(crate) async fn delete(
    tx: &mut SqliteConnection,
    id: &UserId,
    now: Timestamp,
) -> Result<Option<Vec<Hash>>, StoreError> {
    let done = sqlx::query("UPDATE users SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL")
        .bind(now.millis())
        .bind(id.as_str())
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let mut ended = sqlx::query_scalar("DELETE FROM sessions WHERE user_id = ? RETURNING hash")
        .bind(id.as_str())
        .fetch_all(&mut *tx)
        .await?;
    ended.extend(
        sqlx::query_scalar::<_, Vec<u8>>("DELETE FROM tokens WHERE user_id = ? RETURNING hash")
            .bind(id.as_str())
            .fetch_all(&mut *tx)
            .await?,
    );
    sqlx::query("DELETE FROM sign_in_links WHERE user_id = ?")
        .bind(id.as_str())
        .execute(tx)
        .await?;
    Ok(Some(hashes(ended)))
}

/// Users that were deleted: what they owned is to go.
pub(crate) async fn deleted(store: &Store) -> Result<Vec<UserId>, StoreError> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM users WHERE deleted_at IS NOT NULL LIMIT 1000")
            .fetch_all(store.read())
            .await?;
    Ok(ids.into_iter().map(UserId).collect())
}

/// Forgets removed users who own nothing any more.
pub(crate) async fn purge(tx: &mut SqliteConnection) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "DELETE FROM users WHERE deleted_at IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM uploads WHERE user_id = users.id) \
         AND NOT EXISTS (SELECT 1 FROM jobs WHERE user_id = users.id)",
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM idempotency WHERE user_id NOT IN (SELECT id FROM users)")
        .execute(tx)
        .await?;
    Ok(done.rows_affected())
}

pub(crate) async fn session(
    store: &Store,
    hash: &Hash,
) -> Result<Option<CredentialRow>, StoreError> {
    let row = sqlx::query(user_columns!(
        "SELECT sessions.expires_at, NULL AS used_at, ",
        "FROM sessions JOIN users ON users.id = sessions.user_id WHERE hash = ? AND users.deleted_at IS NULL"
    ))
    .bind(hash.as_slice())
    .fetch_optional(store.read())
    .await?;
    row.as_ref().map(credential).transpose()
}

pub(crate) async fn token(store: &Store, hash: &Hash) -> Result<Option<CredentialRow>, StoreError> {
    let row = sqlx::query(user_columns!(
        "SELECT tokens.expires_at, tokens.used_at, ",
        "FROM tokens JOIN users ON users.id = tokens.user_id WHERE hash = ? AND users.deleted_at IS NULL"
    ))
    .bind(hash.as_slice())
    .fetch_optional(store.read())
    .await?;
    row.as_ref().map(credential).transpose()
}

fn credential(row: &SqliteRow) -> Result<CredentialRow, StoreError> {
    Ok(CredentialRow {
        user: user(row)?,
        expires_at: time(row, "expires_at")?,
        used_at: time(row, "used_at")?,
    })
}

/// Makes a session; beyond `most` of one user the oldest ends. Gives the hashes of those ended.
pub(crate) async fn insert_session(
    tx: &mut SqliteConnection,
    hash: Hash,
    id: &UserId,
    now: Timestamp,
    expires_at: Timestamp,
    most: u32,
) -> Result<Vec<Hash>, StoreError> {
    sqlx::query("INSERT INTO sessions (hash, user_id, created_at, expires_at) VALUES (?, ?, ?, ?)")
        .bind(hash.as_slice())
        .bind(id.as_str())
        .bind(now.millis())
        .bind(expires_at.millis())
        .execute(&mut *tx)
        .await?;
    let ended = sqlx::query_scalar(
        "DELETE FROM sessions WHERE hash IN \
         (SELECT hash FROM sessions WHERE user_id = ? ORDER BY created_at DESC, hash LIMIT -1 OFFSET ?) RETURNING hash",
    )
    .bind(id.as_str())
    .bind(most)
    .fetch_all(tx)
    .await?;
    Ok(hashes(ended))
}

pub(crate) async fn extend_session(
    tx: &mut SqliteConnection,
    hash: Hash,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE sessions SET expires_at = ? WHERE hash = ?")
        .bind(expires_at.millis())
        .bind(hash.as_slice())
        .execute(tx)
        .await?;
    Ok(())
}

pub(crate) async fn delete_session(
    tx: &mut SqliteConnection,
    hash: Hash,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE hash = ?")
        .bind(hash.as_slice())
        .execute(tx)
        .await?;
    Ok(())
}

/// Makes a token unless the user has `most` of them already.
pub(crate) async fn insert_token(
    tx: &mut SqliteConnection,
    hash: Hash,
    user: &UserId,
    token: &TokenRow,
    most: u32,
) -> Result<bool, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tokens WHERE user_id = ?")
        .bind(user.as_str())
        .fetch_one(&mut *tx)
        .await?;
    if count >= i64::from(most) {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO tokens (hash, id, user_id, name, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(hash.as_slice())
    .bind(&token.id)
    .bind(user.as_str())
    .bind(&token.name)
    .bind(token.created_at.millis())
    .bind(token.expires_at.map(Timestamp::millis))
    .execute(tx)
    .await?;
    Ok(true)
}

pub(crate) async fn tokens(store: &Store, user: &UserId) -> Result<Vec<TokenRow>, StoreError> {
    sqlx::query(
        "SELECT id, name, created_at, expires_at, used_at FROM tokens WHERE user_id = ? ORDER BY id",
    )
    .bind(user.as_str())
    .fetch_all(store.read())
    .await?
    .iter()
    .map(|row| {
        Ok(TokenRow {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            created_at: Timestamp::from_millis(row.try_get("created_at")?),
            expires_at: time(row, "expires_at")?,
            used_at: time(row, "used_at")?,
        })
    })
    .collect()
}

/// Removes a user's token; gives its hash.
pub(crate) async fn delete_token(
    tx: &mut SqliteConnection,
    user: &UserId,
    id: &str,
) -> Result<Option<Hash>, StoreError> {
    let ended =
        sqlx::query_scalar("DELETE FROM tokens WHERE user_id = ? AND id = ? RETURNING hash")
            .bind(user.as_str())
            .bind(id)
            .fetch_all(tx)
            .await?;
    Ok(hashes(ended).into_iter().next())
}

pub(crate) async fn touch_token(
    tx: &mut SqliteConnection,
    hash: Hash,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE tokens SET used_at = ? WHERE hash = ?")
        .bind(now.millis())
        .bind(hash.as_slice())
        .execute(tx)
        .await?;
    Ok(())
}

/// Makes a sign-in link; the user's older ones no longer work.
pub(crate) async fn insert_link(
    tx: &mut SqliteConnection,
    hash: Hash,
    user: &UserId,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sign_in_links WHERE user_id = ? AND used_at IS NULL")
        .bind(user.as_str())
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO sign_in_links (hash, user_id, expires_at) VALUES (?, ?, ?)")
        .bind(hash.as_slice())
        .bind(user.as_str())
        .bind(expires_at.millis())
        .execute(tx)
        .await?;
    Ok(())
}

/// Uses a link up.
pub(crate) async fn take_link(
    tx: &mut SqliteConnection,
    hash: Hash,
    now: Timestamp,
) -> Result<Link, StoreError> {
    let row = sqlx::query(user_columns!(
        "SELECT sign_in_links.expires_at, sign_in_links.used_at, ",
        "FROM sign_in_links JOIN users ON users.id = user_id WHERE hash = ? AND deleted_at IS NULL"
    ))
    .bind(hash.as_slice())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else {
        return Ok(Link::Unknown);
    };
    let credential = credential(&row)?;
    if credential.used_at.is_some() || credential.expires_at.is_none_or(|end| end <= now) {
        return Ok(Link::Spent);
    }
    sqlx::query("UPDATE sign_in_links SET used_at = ? WHERE hash = ?")
        .bind(now.millis())
        .bind(hash.as_slice())
        .execute(tx)
        .await?;
    Ok(Link::Good(credential.user))
}

/// Removes what expired; gives the hashes of sessions and tokens. Links are remembered for a day as spent.
pub(crate) async fn expire(
    tx: &mut SqliteConnection,
    now: Timestamp,
) -> Result<Vec<Hash>, StoreError> {
    let mut ended: Vec<Vec<u8>> =
        sqlx::query_scalar("DELETE FROM sessions WHERE expires_at <= ? RETURNING hash")
            .bind(now.millis())
            .fetch_all(&mut *tx)
            .await?;
    ended.extend(
        sqlx::query_scalar::<_, Vec<u8>>("DELETE FROM tokens WHERE expires_at <= ? RETURNING hash")
            .bind(now.millis())
            .fetch_all(&mut *tx)
            .await?,
    );
    let day_ago = now.minus(std::time::Duration::from_secs(86_400));
    sqlx::query("DELETE FROM sign_in_links WHERE expires_at <= ?")
        .bind(day_ago.millis())
        .execute(tx)
        .await?;
    Ok(hashes(ended))
}

/// Sessions that have not ended.
pub(crate) async fn session_count(store: &Store) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sessions")
        .fetch_one(store.read())
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}
