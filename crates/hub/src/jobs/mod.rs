//! Jobs: what a user asks for, from the row to its last event.
//!
//! The rows say everything. [`state`] decides from a row what comes next, [`conductor`] asks it again and again and
//! starts the acts ([`acts`]), and each act ends in one transaction that changes rows and events together. A hub that
//! is killed goes on from its rows.

mod acts;
mod api;
mod conductor;
mod directory;
mod ingest;
mod placement;
mod state;
mod sweep;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use munjigi_eureka::Known;
use munjigi_events::{AnalysisId, EventId, Status, UserId};
use munjigi_foundation::api::Problem;
use munjigi_foundation::clock::{Clock, Timestamp};
use munjigi_foundation::settings::Secret;
use munjigi_foundation::tls::UrlTrust;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gates::Drained;
use crate::push::{Live, Sockets};
use crate::results::{self, Results};
use crate::store::ledger::{Ledger, Said};
use crate::store::undo::{self, Kind};
use crate::store::{Store, StoreError, jobs as rows};
use crate::uploads::Uploads;

pub(crate) use api::router;
pub use directory::Workers;
pub use placement::Worker;
use state::Patience;
use worker::WorkerFace;

/// Posts of events that are read at once.
const POSTS: usize = 16;

/// What jobs stand on.
#[derive(Debug)]
pub struct JobsWiring {
    pub store: Store,
    pub uploads: Uploads,
    pub clock: Clock,
    /// What the registry says, again and again.
    pub registry: watch::Receiver<Known>,
    /// Workers that get no new jobs, again and again.
    pub drained: watch::Receiver<Drained>,
    /// The name under which workers register.
    pub worker_service: String,
    /// Base url of a gate's inner listener.
    pub gate_inner_url: String,
    /// How that url is verified when it is https.
    pub trust: UrlTrust,
    /// Shown to workers, and wanted of them.
    pub cluster_secret: Secret,
    /// Where results are kept.
    pub folder: PathBuf,
    /// How long the events of a job outlive its last one.
    pub event_ttl: Duration,
    /// How long a finished job is kept.
    pub keep_results: Duration,
    pub limits: JobLimits,
}

/// What one user may ask for, and how long a worker is waited for.
#[derive(Debug, Clone, Copy)]
pub struct JobLimits {
    /// Models of one job.
    pub models: usize,
    /// Unfinished jobs of one user.
    pub unfinished: u64,
    /// Live sockets and event streams of one user.
    pub sockets: u32,
    /// A worker that posts nothing for so long has lost its analyses; after a quarter of it, it is asked.
    pub worker_silence: Duration,
    /// Attempts of an analysis that may fail before it has.
    pub attempts: u32,
    pub results: ResultLimits,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            models: 16,
            unfinished: 100,
            sockets: 32,
            worker_silence: Duration::from_secs(15),
            attempts: 3,
            results: ResultLimits::default(),
        }
    }
}

/// What a result may be.
#[derive(Debug, Clone, Copy)]
pub struct ResultLimits {
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of all members.
    pub expanded_bytes: u64,
    /// Expanded bytes per byte of the archive, beyond 64 MiB.
    pub ratio: u64,
    /// Members.
    pub entries: u64,
    /// Findings that can be asked for; more are in the archive only.
    pub findings: usize,
    /// Bytes of one finding that can be asked for.
    pub finding_bytes: usize,
    /// No byte from the worker for so long: fetched again.
    pub idle: Duration,
}

impl Default for ResultLimits {
    fn default() -> Self {
        Self {
            archive_bytes: 4 << 30,
            expanded_bytes: 16 << 30,
            ratio: 400,
            entries: 500_000,
            findings: 100_000,
            finding_bytes: 4 << 20,
            idle: Duration::from_secs(30),
        }
    }
}

/// Why jobs can't be started.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    #[error("the folder for results can't be used: {0}")]
    Folder(#[from] std::io::Error),
    #[error("the http client can't be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// The hub's jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jobs")
    }
}

struct Inner {
    store: Store,
    uploads: Uploads,
    clock: Clock,
    face: WorkerFace,
    results: Results,
    live: Live,
    sockets: Sockets,
    workers: watch::Receiver<Workers>,
    /// Something changed: look at the rows now.
    wake: Notify,
    memory: Mutex<Memory>,
    figures: Figures,
    posts: Semaphore,
    secret: Secret,
    patience: Patience,
    limits: JobLimits,
    event_ttl: Duration,
    keep_results: Duration,
    started: Timestamp,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What a restart may forget.
#[derive(Debug, Default)]
struct Memory {
    /// Acts under way, one for each analysis at the most.
    flights: HashMap<AnalysisId, Flight>,
    /// Undo steps under way.
    undoing: HashMap<i64, AnalysisId>,
    /// When a worker last spoke of an analysis, or for it.
    heard: HashMap<AnalysisId, Heard>,
    /// When an analysis was placed, until the registry must know of it.
    placed: HashMap<AnalysisId, Timestamp>,
    /// When it was last said why an analysis waits.
    told: HashMap<AnalysisId, Timestamp>,
}

#[derive(Debug)]
struct Flight {
    event_id: EventId,
    stop: CancellationToken,
}

#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// An event came.
    event: Timestamp,
    /// It answered that it is still at it.
    answer: Timestamp,
}

#[derive(Debug, Default)]
struct Figures {
    created: AtomicU64,
    dispatched: AtomicU64,
    dispatch_failed: AtomicU64,
    dispatch_ms: AtomicU64,
    collected: AtomicU64,
    collect_ms: AtomicU64,
    taken_over: AtomicU64,
    events: AtomicU64,
    events_refused: AtomicU64,
}

/// What came of ending a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is being cancelled.
    Cancelling,
    /// It had ended before.
    Before,
    /// There is no such job of theirs.
    Unknown,
}

/// 500, with the reason in the log.
#[expect(
    clippy::needless_pass_by_value,
    reason = "given to map_err, which hands the error over"
)]
pub(crate) fn failed(error: StoreError) -> Problem {
    tracing::error!(%error, "the database");
    Problem::internal()
}

impl Jobs {
    /// Starts to work on what the rows say, on `tasks` until `shutdown`.
    ///
    /// # Errors
    /// See [`JobsError`].
    pub fn start(
        wiring: JobsWiring,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, JobsError> {
        let (known, workers) = watch::channel(Workers::default());
        tasks.spawn(directory::watch(
            wiring.registry.clone(),
            wiring.drained.clone(),
            wiring.worker_service.clone(),
            known,
            shutdown.clone(),
        ));
        let results = Results::open(&wiring.folder, wiring.limits.results)?;
        let jobs = Self(Arc::new(Inner {
            face: WorkerFace::new(
                &wiring.gate_inner_url,
                wiring.cluster_secret.clone(),
                wiring.trust,
            )?,
            results,
            live: Live::default(),
            sockets: Sockets::new(wiring.limits.sockets),
            workers,
            wake: Notify::new(),
            memory: Mutex::default(),
            figures: Figures::default(),
            posts: Semaphore::new(POSTS),
            secret: wiring.cluster_secret,
            patience: Patience {
                probe: wiring.limits.worker_silence / 4,
                silence: wiring.limits.worker_silence,
                tries: wiring.limits.attempts,
            },
            limits: wiring.limits,
            event_ttl: wiring.event_ttl,
            keep_results: wiring.keep_results,
            started: wiring.clock.now(),
            store: wiring.store,
            uploads: wiring.uploads,
            clock: wiring.clock,
            tasks: tasks.clone(),
            shutdown,
        }));
        let (conducting, sweeping) = (jobs.clone(), jobs.clone());
        tasks.spawn(async move { conducting.conduct().await });
        tasks.spawn(async move { sweeping.sweep().await });
        Ok(jobs)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn live(&self) -> &Live {
        &self.0.live
    }

    pub(crate) fn sockets(&self) -> &Sockets {
        &self.0.sockets
    }

    /// What must have ended before the hub has.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    pub(crate) fn results(&self) -> &Results {
        &self.0.results
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    /// The workers known now.
    #[must_use]
    pub fn workers(&self) -> Workers {
        self.0.workers.borrow().clone()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows changed: tells followers and the conductor.
    fn changed(&self, id: &EventId, last: u64) {
        self.0.live.tell(id, last);
        self.0.wake.notify_one();
    }

    /// Cancels a job: everything of it is taken back, by steps that survive a crash.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn cancel(&self, user: &UserId, id: &EventId) -> Result<Ended, StoreError> {
        let (owner, job, now) = (user.clone(), id.clone(), self.0.clock.now());
        let done = self
            .0
            .store
            .write(move |tx| Box::pin(async move { cancel(tx, &owner, &job, now).await }))
            .await?;
        let (ended, last) = done;
        if ended == Ended::Cancelling {
            for flight in self.memory().flights.values() {
                if flight.event_id == *id {
                    flight.stop.cancel();
                }
            }
            tracing::info!(event = %id, "a job is being cancelled");
            self.changed(id, last);
        }
        Ok(ended)
    }

    /// Removes a job that has ended, with its results. True when it is gone.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn remove(&self, id: &EventId) -> Result<bool, StoreError> {
        let (job, now) = (id.clone(), self.0.clock.now());
        let removed = self
            .0
            .store
            .write(move |tx| Box::pin(async move { remove(tx, &job, now).await }))
            .await?;
        self.changed(id, 0);
        Ok(removed)
    }

    /// Lines of metrics, in Prometheus' text format.
    pub async fn metrics(&self) -> String {
        let figure = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let figures = &self.0.figures;
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, value: String| {
            text.push_str("# TYPE ");
            text.push_str(name);
            text.push(' ');
            text.push_str(kind);
            text.push('\n');
            text.push_str(&value);
            text.push('\n');
        };
        if let Ok(counts) = rows::counts(&self.0.store).await {
            let name = "munjigi_hub_jobs";
            let lines: Vec<String> = counts
                .iter()
                .map(|(status, count)| format!("{name}{{status=\"{status}\"}} {count}"))
                .collect();
            if !lines.is_empty() {
                line(name, "gauge", lines.join("\n"));
            }
        }
        let (flights, undoing) = {
            let memory = self.memory();
            (memory.flights.len(), memory.undoing.len())
        };
        let pending = undo::armed(&self.0.store, 10_000)
            .await
            .map_or(0, |all| all.len());
        for (name, value) in [
            ("munjigi_hub_acts", flights),
            ("munjigi_hub_undoing", undoing),
            ("munjigi_hub_cleanup_pending", pending),
            ("munjigi_hub_followed_jobs", self.0.live.followed()),
            ("munjigi_hub_workers", self.workers().len()),
        ] {
            line(name, "gauge", format!("{name} {value}"));
        }
        let (name, sockets) = ("munjigi_hub_sockets", self.0.sockets.count());
        line(name, "gauge", format!("{name} {sockets}"));
        for (name, value) in [
            ("munjigi_hub_jobs_created_total", &figures.created),
            ("munjigi_hub_dispatches_total", &figures.dispatched),
            (
                "munjigi_hub_dispatch_failures_total",
                &figures.dispatch_failed,
            ),
            (
                "munjigi_hub_dispatch_milliseconds_total",
                &figures.dispatch_ms,
            ),
            ("munjigi_hub_results_collected_total", &figures.collected),
            (
                "munjigi_hub_collect_milliseconds_total",
                &figures.collect_ms,
            ),
            ("munjigi_hub_takeovers_total", &figures.taken_over),
            ("munjigi_hub_events_stored_total", &figures.events),
            ("munjigi_hub_events_refused_total", &figures.events_refused),
        ] {
            line(name, "counter", format!("{name} {}", figure(value)));
        }
        text
    }
}

async fn cancel(
    tx: &mut sqlx::SqliteConnection,
    user: &UserId,
    id: &EventId,
    now: Timestamp,
) -> Result<(Ended, u64), StoreError> {
    let Some(mut ledger) = Ledger::load(tx, id).await? else {
        return Ok((Ended::Unknown, 0));
    };
    if ledger.job.user_id != *user {
        return Ok((Ended::Unknown, 0));
    }
    if ledger.job.ended_at.is_some() {
        return Ok((Ended::Before, 0));
    }
    if ledger.job.status == Status::Cancelling {
        return Ok((Ended::Cancelling, ledger.job.last_offset));
    }
    for analysis in ledger.analyses.clone() {
        // What was written before its act, now to be taken back.
        undo::arm(tx, &analysis.analyze_id, true, now).await?;
        if analysis.result.is_some() {
            take_back_result(tx, &analysis, now).await?;
            ledger.change(&analysis.analyze_id, |row| row.result = None);
        }
        if !analysis.status.is_terminal() {
            let said = Said {
                take_over: true,
                server_id: analysis.server_id.clone(),
                ..Said::default()
            };
            ledger.say(&analysis.analyze_id, Status::Cancelling, said, now)?;
        }
    }
    crate::store::results::forget(tx, id).await?;
    if let Some(first) = ledger.analyses.first().filter(|_| ledger.job.upload_held) {
        let step = undo::New {
            event_id: id,
            analyze_id: &first.analyze_id,
            attempt: 0,
            kind: Kind::Upload,
            target: &ledger.job.upload_id,
            armed: true,
        };
        undo::insert(tx, step, now).await?;
    }
    ledger.release_upload(tx).await?;
    Ok((Ended::Cancelling, ledger.save(tx).await?))
}

async fn take_back_result(
    tx: &mut sqlx::SqliteConnection,
    analysis: &rows::Analysis,
    now: Timestamp,
) -> Result<(), StoreError> {
    let name = results::name(&analysis.event_id, &analysis.analyze_id, analysis.attempt);
    let step = undo::New {
        event_id: &analysis.event_id,
        analyze_id: &analysis.analyze_id,
        attempt: analysis.attempt,
        kind: Kind::Result,
        target: &name,
        armed: true,
    };
    undo::insert(tx, step, now).await
}

async fn remove(
    tx: &mut sqlx::SqliteConnection,
    id: &EventId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Some(ledger) = Ledger::load(tx, id).await? else {
        return Ok(true);
    };
    if ledger.job.ended_at.is_none() {
        return Ok(false);
    }
    for analysis in &ledger.analyses {
        if analysis.result.is_some() {
            take_back_result(tx, analysis, now).await?;
        }
    }
    rows::delete(tx, id).await?;
    Ok(true)
}
