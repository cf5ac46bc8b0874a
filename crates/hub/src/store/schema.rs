//! The tables, by version. A database is brought up to date when it is opened; one of a newer version is refused.

use sqlx::{Connection, SqliteConnection};

use super::StoreError;

/// Each entry brings the schema from the version of its index to the next one. Entries are never changed once
/// released: add one.
const VERSIONS: &[&[&str]] = &[&[USERS, UPLOADS, JOBS, RESULTS]];

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

/// Jobs, their analyses, their events, and what is to be undone.
const JOBS: &str = "
CREATE TABLE jobs (
    event_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users(id),
    upload_id TEXT NOT NULL,            -- may be gone once the job has ended
    upload_held INTEGER NOT NULL,       -- counted in uploads.used
    name TEXT NOT NULL,                 -- of the upload
    size INTEGER NOT NULL,              -- of the upload, in bytes
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,          -- 1 comes first, 5 last
    epoch TEXT NOT NULL,                -- of its offsets
    last_offset INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at INTEGER,                   -- when its last analysis ended
    events_gone INTEGER NOT NULL DEFAULT 0  -- they outlived their time
) STRICT;
CREATE INDEX jobs_by_user ON jobs(user_id, event_id);
CREATE INDEX jobs_by_end ON jobs(ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE analyses (
    analyze_id TEXT PRIMARY KEY,
    event_id TEXT NOT NULL REFERENCES jobs(event_id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,           -- in the order in which the models were asked for
    model TEXT NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,               -- of the last event
    server_id TEXT,
    progress TEXT,
    findings INTEGER NOT NULL,
    error TEXT,
    live INTEGER NOT NULL,              -- has had no terminal event
    accepted INTEGER NOT NULL DEFAULT 0,    -- the worker has the whole file
    collected INTEGER NOT NULL DEFAULT 0,   -- what the worker had is here, or there was nothing
    tries INTEGER NOT NULL DEFAULT 0,   -- attempts that failed
    not_before INTEGER NOT NULL DEFAULT 0,
    said TEXT,                          -- why it waits, as its last QUEUED event says
    result_sha256 BLOB,                 -- while there is a result
    result_size INTEGER
) STRICT;
CREATE INDEX analyses_by_job ON analyses(event_id, ordinal);
CREATE INDEX analyses_live ON analyses(live) WHERE live = 1;

CREATE TABLE events (
    event_id TEXT NOT NULL,
    offset INTEGER NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (event_id, offset)
) STRICT;

CREATE TABLE undo (
    id INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    analyze_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    kind TEXT NOT NULL,                 -- worker, result, upload
    target TEXT NOT NULL,               -- the worker's serverId, the result's name, the upload's id
    armed INTEGER NOT NULL,             -- 0: written before the act, to be done only when it is taken back
    stop INTEGER NOT NULL DEFAULT 0,    -- the worker may still be at it
    since INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    next_try INTEGER NOT NULL DEFAULT 0,
    error TEXT
) STRICT;
CREATE INDEX undo_by_analysis ON undo(analyze_id);
CREATE INDEX undo_armed ON undo(next_try) WHERE armed = 1;

CREATE TABLE idempotency (
    user_id TEXT NOT NULL,
    key TEXT NOT NULL,
    request BLOB NOT NULL,              -- SHA-256 of the request
    answer TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency(created_at);
";

/// What can be asked of results without unpacking them.
const RESULTS: &str = "
CREATE TABLE findings (
    id INTEGER PRIMARY KEY,             -- in the order of the result
    event_id TEXT NOT NULL,
    analyze_id TEXT NOT NULL REFERENCES analyses(analyze_id) ON DELETE CASCADE,
    level TEXT NOT NULL,
    rule_id TEXT NOT NULL,
    path TEXT NOT NULL,
    start INTEGER NOT NULL,             -- of its JSON in the result's parts
    length INTEGER NOT NULL
) STRICT;
CREATE INDEX findings_by_job ON findings(event_id, id);
CREATE INDEX findings_by_analysis ON findings(analyze_id);

CREATE TABLE rules (
    analyze_id TEXT NOT NULL REFERENCES analyses(analyze_id) ON DELETE CASCADE,
    rule_id TEXT NOT NULL,
    name TEXT,
    cwe TEXT NOT NULL,                  -- ',89,564,'
    card TEXT,                          -- JSON
    PRIMARY KEY (analyze_id, rule_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE members (
    analyze_id TEXT NOT NULL REFERENCES analyses(analyze_id) ON DELETE CASCADE,
    path TEXT NOT NULL,                 -- in the archive
    start INTEGER NOT NULL,             -- in the result's parts
    length INTEGER NOT NULL,
    PRIMARY KEY (analyze_id, path)
) STRICT, WITHOUT ROWID;
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
