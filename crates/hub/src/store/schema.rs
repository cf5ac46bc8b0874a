//! The tables, by version. A database is brought up to date when it is opened; one of a newer version is refused.

use sqlx::{Connection, SqliteConnection};

use super::StoreError;

/// Each entry brings the schema from the version of its index to the next one. Entries are never changed once
/// released: add one.
const VERSIONS: &[&[&str]] = &[&[USERS, UPLOADS]];

/// People and how they sign in. Secrets are kept as hashes only.
const USERS: &str = "
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    admin INTEGER NOT NULL,
    password TEXT,                      -- argon2id in PHC form; NULL while none is set
    created_at INTEGER NOT NULL,        -- milliseconds since 1970, as every *_at
    deleted_at INTEGER                  -- gone for everyone; the row stays until what it owned is gone
) STRICT;
CREATE UNIQUE INDEX users_by_name ON users(name) WHERE deleted_at IS NULL;

CREATE TABLE sessions (
    hash BLOB PRIMARY KEY,              -- SHA-256 of the cookie
    user_id TEXT NOT NULL REFERENCES users(id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL         -- slides with use
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_user ON sessions(user_id, created_at);

CREATE TABLE tokens (
    hash BLOB PRIMARY KEY,              -- SHA-256 of the token
    id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL REFERENCES users(id),
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,                 -- NULL: never
    used_at INTEGER                     -- coarse
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_user ON tokens(user_id);

CREATE TABLE sign_in_links (
    hash BLOB PRIMARY KEY,              -- SHA-256 of the token in the link
    user_id TEXT NOT NULL REFERENCES users(id),
    expires_at INTEGER NOT NULL,
    used_at INTEGER                     -- a link works once
) STRICT, WITHOUT ROWID;
";

/// Uploads, finished or not.
const UPLOADS: &str = "
CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users(id),
    name TEXT NOT NULL,                 -- the file's name as the client gave it
    length INTEGER,                     -- NULL while it is deferred
    received INTEGER NOT NULL,          -- durable bytes: what was acknowledged
    complete INTEGER NOT NULL,
    sha256 BLOB,                        -- when complete
    blake3 BLOB,                        -- when complete
    expected_sha256 BLOB,               -- announced for the whole; verified at its end
    used INTEGER NOT NULL DEFAULT 0,    -- jobs that need it: it is kept while there is one
    metadata TEXT NOT NULL,             -- Upload-Metadata as sent
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX uploads_by_user ON uploads(user_id);
CREATE INDEX uploads_by_expiry ON uploads(expires_at);
";

/// Brings the schema up to date.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    if done > VERSIONS.len() {
        return Err(StoreError::Corrupt(format!(
            "its schema has version {version}, this program knows {} at the most",
            VERSIONS.len()
        )));
    }
    for (index, statements) in VERSIONS.iter().enumerate().skip(done) {
        let mut transaction = connection.begin().await?;
        for statement in *statements {
            sqlx::raw_sql(*statement).execute(&mut *transaction).await?;
        }
        // PRAGMA takes no parameters; the number is our own.
        let set = format!("PRAGMA user_version = {}", index + 1);
        sqlx::raw_sql(sqlx::AssertSqlSafe(set))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    Ok(())
}
