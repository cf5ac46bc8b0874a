//! The hub's database: one writer with group commit, many readers (SQLite, WAL).
//!
//! Every change goes through [`Store::write`]. Changes that wait while a transaction is written share the next one,
//! so that a burst of events costs one `fsync`, not one each; a change that fails is undone alone, by its savepoint.
//! An answer is given only after the commit: what was acknowledged is on disk.

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// Changes that may wait for the writer; more callers wait in turn.
const QUEUE: usize = 1_024;
/// Changes that share one transaction at the most.
const GROUP_MAX: usize = 256;
/// Connections that read at once.
const READERS: u32 = 8;

/// Why the database did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The hub shuts down.
    #[error("the database is closed")]
    Closed,
    /// A row says what no version of ours writes.
    #[error("the database holds something unreadable: {0}")]
    Corrupt(String),
}

/// A change on its way to the writer: runs in a savepoint of the shared transaction, and says whether it was kept.
type Change = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> Running<'c> + Send>;
/// A change being run; gives what answers the caller once the commit succeeded or failed.
type Running<'c> = Pin<Box<dyn Future<Output = (bool, Answer)> + Send + 'c>>;
/// Told the outcome of the commit.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The future of a change, borrowing the connection.
pub type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'c>>;

/// The hub's database.
#[derive(Clone)]
pub struct Store {
    readers: SqlitePool,
    writer: mpsc::Sender<Change>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens (or makes) the database in `file` and starts its writer on `tasks`; it ends when the last `Store` is
    /// dropped.
    ///
    /// # Errors
    /// When the file can't be opened, or its schema is newer than this version.
    pub async fn open(file: &Path, tasks: &TaskTracker) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL, FULL syncs each commit: an acknowledged change survives a power cut, not only kill -9.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .disable_statement_logging();
        let mut connection = SqliteConnection::connect_with(&options).await?;
        schema::migrate(&mut connection).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await?;
        let (writer, queue) = mpsc::channel(QUEUE);
        tasks.spawn(write_all(connection, queue));
        Ok(Self { readers, writer })
    }

    /// Connections for reading; what they see was committed.
    #[must_use]
    pub fn read(&self) -> &SqlitePool {
        &self.readers
    }

    /// Runs `change` in a transaction and answers after its commit. When `change` fails, nothing of it stays.
    ///
    /// # Errors
    /// What `change` says, or that the commit failed.
    pub async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Work<'c, T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel::<Result<T, StoreError>>();
        let boxed: Change = Box::new(move |connection| {
            Box::pin(async move {
                let outcome = change(connection).await;
                let keep = outcome.is_ok();
                let respond: Answer = Box::new(move |committed| {
                    // A caller that no longer waits is answered all the same: its change stands.
                    drop(reply.send(committed.and(outcome)));
                });
                (keep, respond)
            })
        });
        self.writer
            .send(boxed)
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

async fn write_all(mut connection: SqliteConnection, mut queue: mpsc::Receiver<Change>) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, GROUP_MAX).await > 0 {
        write_group(&mut connection, group.drain(..)).await;
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the database did not close cleanly");
    }
}

/// Runs the changes of one group in one transaction and answers them.
async fn write_group(connection: &mut SqliteConnection, group: impl Iterator<Item = Change>) {
    let begun = run(connection, "BEGIN IMMEDIATE").await;
    let mut answers = Vec::new();
    for change in group {
        if begun.is_err() {
            // Dropping it tells its caller that the database is closed to it.
            continue;
        }
        answers.push(write_one(connection, change).await);
    }
    if let Err(error) = begun {
        tracing::error!(%error, "the database takes no changes");
        return;
    }
    let committed = run(connection, "COMMIT").await;
    if let Err(error) = &committed {
        tracing::error!(%error, "a transaction could not be committed");
        drop(run(connection, "ROLLBACK").await);
    }
    for answer in answers {
        answer(committed.as_ref().map(|&()| ()).map_err(|error| {
            StoreError::Database(sqlx::Error::Protocol(format!("not committed: {error}")))
        }));
    }
}

async fn write_one(connection: &mut SqliteConnection, change: Change) -> Answer {
    drop(run(connection, "SAVEPOINT change").await);
    let (keep, answer) = change(connection).await;
    if !keep {
        drop(run(connection, "ROLLBACK TO change").await);
    }
    drop(run(connection, "RELEASE change").await);
    answer
}

async fn run(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(drop)
}

pub(crate) mod jobs;
pub(crate) mod ledger;
pub(crate) mod results;
mod schema;
pub(crate) mod undo;
pub(crate) mod uploads;
pub(crate) mod users;

#[cfg(test)]
mod tests {
    use super::*;

    async fn open() -> (tempfile::TempDir, Store, TaskTracker) {
        let dir = tempfile::tempdir().unwrap();
        let tasks = TaskTracker::new();
        let store = Store::open(&dir.path().join("hub.db"), &tasks)
            .await
            .unwrap();
        store
            .write(|c| {
                Box::pin(async move { Ok(run(c, "CREATE TABLE t (n INTEGER PRIMARY KEY)").await?) })
            })
            .await
            .unwrap();
        (dir, store, tasks)
    }

    fn insert(n: i64) -> impl for<'c> FnOnce(&'c mut SqliteConnection) -> Work<'c, i64> + Send {
        move |c| {
            Box::pin(async move {
                sqlx::query("INSERT INTO t VALUES (?)")
                    .bind(n)
                    .execute(c)
                    .await?;
                Ok(n)
            })
        }
    }

    #[tokio::test]
    async fn a_change_that_fails_leaves_its_neighbours_alone() {
        let (_dir, store, tasks) = open().await;
        let (a, b, c, d) = tokio::join!(
            store.write(insert(1)),
            store.write(insert(1)),
            store.write(insert(2)),
            store.write(|c| Box::pin(async move {
                sqlx::query("INSERT INTO t VALUES (3)").execute(c).await?;
                Err::<(), _>(StoreError::Corrupt("no".to_owned()))
            })),
        );
        assert_eq!((a.unwrap(), c.unwrap()), (1, 2));
        assert!(matches!(b, Err(StoreError::Database(_))));
        assert!(matches!(d, Err(StoreError::Corrupt(_))));
        let kept: Vec<i64> = sqlx::query_scalar("SELECT n FROM t ORDER BY n")
            .fetch_all(store.read())
            .await
            .unwrap();
        assert_eq!(kept, [1, 2]);
        drop(store);
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let (_dir, store, _tasks) = open().await;
        assert!(
            sqlx::query("DELETE FROM t")
                .execute(store.read())
                .await
                .is_err()
        );
    }
}
