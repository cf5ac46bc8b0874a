//! What all parts of the worker share, and the life of an attempt as a whole: its end, its sender, the sweep.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use munjigi_events::{AnalysisId, EventPost, ServerId, Status};
use munjigi_foundation::clock::Clock;
use munjigi_foundation::settings::Secret;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::book::{Book, Found, Phase};
use crate::folder::{Folder, Stage, State};
use crate::job::Job;
use crate::log::Draft;
use crate::metrics::{self, Metrics};
use crate::run::models::Model;
use crate::run::users::Users;
use crate::send::{Sent, send};
use crate::settings::WorkerSettings;

/// How often the worker looks for what is too old.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long an attempt that was cut or lost is remembered: its last events may still be on their way.
const REMAINS_KEEP: Duration = Duration::from_secs(3_600);
/// How long a cancelled model may take to end by itself.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(2);

pub(crate) type Jobs = Book<Arc<Job>>;

/// What all parts share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: WorkerSettings,
    pub(crate) models: BTreeMap<String, Model>,
    pub(crate) server_id: ServerId,
    pub(crate) secret: Secret,
    pub(crate) folder: Folder,
    pub(crate) clock: Clock,
    pub(crate) post: EventPost,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) users: Users,
    /// Our own binary.
    pub(crate) program: PathBuf,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    /// Free slots, for the registry.
    pub(crate) free: watch::Sender<usize>,
    /// Disk promised to files that are still arriving, in bytes.
    pub(crate) promised: AtomicU64,
    pub(crate) book: Mutex<Jobs>,
}

/// How an attempt is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The model is asked, and killed after a grace.
    Cancel,
    /// The model is killed.
    Delete,
}

impl Core {
    pub(crate) fn book(&self) -> MutexGuard<'_, Jobs> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells registry and metrics what changed.
    pub(crate) fn counted(&self) {
        let book = self.book();
        let free = book.free_slots();
        for (phase, name) in [
            (Phase::Receiving, "receiving"),
            (Phase::Running, "running"),
            (Phase::Ready, "ready"),
            (Phase::Cut, "cut"),
            (Phase::Lost, "lost"),
        ] {
            let count = i64::try_from(book.in_phase(phase)).unwrap_or(i64::MAX);
            self.metrics
                .analyses
                .get_or_create(&metrics::Phase { phase: name })
                .set(count);
        }
        drop(book);
        self.metrics
            .free_slots
            .set(i64::try_from(free).unwrap_or(i64::MAX));
        self.free
            .send_if_modified(|before| std::mem::replace(before, free) != free);
    }

    pub(crate) fn new_job(&self, state: State) -> Arc<Job> {
        let place = self.folder.analysis(&state.analysis);
        let clock = self.clock.clone();
        Arc::new(Job::new(
            state,
            self.server_id.clone(),
            place,
            clock,
            &self.shutdown,
        ))
    }

    /// Starts sending the events of `job`. `closed`: it writes no more.
    pub(crate) fn start_sending(self: &Arc<Self>, job: &Arc<Job>, closed: bool) {
        let stop = job.stopped.child_token();
        let before = std::mem::replace(
            &mut *job.sending.lock().unwrap_or_else(PoisonError::into_inner),
            stop.clone(),
        );
        before.cancel();
        let (core, job) = (Arc::clone(self), Arc::clone(job));
        let tasks = job.tasks.clone();
        tasks.spawn(async move {
            let (log, post) = (Arc::clone(&job.log), core.post.clone());
            let sent = send(log, post, closed, stop, Arc::clone(&core.metrics)).await;
            if let Sent::Refused(why) = sent {
                tracing::warn!(analysis = %job.analysis(), attempt = job.attempt(), why, "fenced by the hub");
                // Not awaited here: the removal waits for this task to end.
                core.end_later(job.analysis().clone(), Some(job.attempt()), How::Delete);
            }
        });
    }

    /// Ends all attempts of `id` up to `attempt` (the one that is here when none is named): fenced durably, stopped,
    /// removed. Doing it again does no harm.
    ///
    /// # Errors
    /// What the disk says: then nothing was promised.
    pub(crate) async fn end(
        self: &Arc<Self>,
        id: AnalysisId,
        attempt: Option<u32>,
        how: How,
    ) -> std::io::Result<()> {
        let core = Arc::clone(self);
        // A caller that goes away must not leave it half done.
        let ending = self.tasks.spawn(async move {
            let (fence, job) = core.book().fence(&id, attempt, core.clock.now());
            if let Some(fence) = fence {
                let (keeper, id) = (Arc::clone(&core), id.clone());
                blocking(move || keeper.folder.add_fence(&id, fence)).await?;
            }
            match job {
                Some(job) => core.remove(&job, how).await,
                None => Ok(()),
            }
        });
        ending
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    /// As [`Core::end`], without waiting.
    pub(crate) fn end_later(self: &Arc<Self>, id: AnalysisId, attempt: Option<u32>, how: How) {
        let core = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = core.end(id.clone(), attempt, how).await {
                tracing::error!(analysis = %id, %error, "an analysis can't be removed; tried again later");
            }
        });
    }

    async fn remove(self: &Arc<Self>, job: &Arc<Job>, how: How) -> std::io::Result<()> {
        job.cancelled.cancel();
        if how == How::Delete {
            job.stopped.cancel();
        }
        job.removed
            .get_or_try_init(async || {
                job.tasks.close();
                if tokio::time::timeout(CANCEL_GRACE * 2, job.tasks.wait())
                    .await
                    .is_err()
                {
                    job.stopped.cancel();
                    job.tasks.wait().await;
                }
                let place = job.place.clone();
                blocking(move || place.remove()).await
            })
            .await?;
        self.book().remove(job.analysis(), job.attempt());
        self.counted();
        tracing::info!(analysis = %job.analysis(), attempt = job.attempt(), "removed");
        Ok(())
    }

    /// Takes up what a run before left: finished results stay, what arrived or ran is lost, what was fenced goes.
    pub(crate) fn take_up(self: &Arc<Self>, states: Vec<State>) -> std::io::Result<()> {
        for state in states {
            let id = state.analysis.clone();
            let fenced = matches!(self.book().find(&id, Some(state.attempt)), Found::Deleted);
            let job = self.new_job(state.clone());
            if fenced {
                job.place.remove()?;
                continue;
            }
            let (stage, phase) = match state.stage {
                Stage::Ready if result_is_whole(&job, &state) => (Stage::Ready, Phase::Ready),
                Stage::Ready | Stage::Running | Stage::Lost => (Stage::Lost, Phase::Lost),
                Stage::Receiving | Stage::Cut => (Stage::Cut, Phase::Cut),
            };
            job.place.remove_run()?;
            if stage != state.stage {
                tracing::warn!(analysis = %id, attempt = state.attempt, ?stage, "taken up after a restart");
                job.reach(stage, &self.clock)?;
            }
            if let (Stage::Ready, Some(result)) = (stage, &state.result) {
                collecting_once(&job, result)?;
            }
            self.book()
                .insert(id, state.attempt, phase, Arc::clone(&job));
            self.start_sending(&job, stage != Stage::Ready);
        }
        self.counted();
        Ok(())
    }

    /// Removes what is too old, until the shutdown.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        while self
            .shutdown
            .run_until_cancelled(every.tick())
            .await
            .is_some()
        {
            for (id, attempt, how_long) in self.too_old() {
                tracing::warn!(analysis = %id, attempt, how_long, "removed: nobody asked for it");
                self.end_later(id, Some(attempt), How::Delete);
            }
            let kept = self.book().forget(self.clock.now()).cloned();
            if let Some(kept) = kept {
                let core = Arc::clone(&self);
                if let Err(error) = blocking(move || core.folder.replace_fences(&kept)).await {
                    tracing::error!(%error, "old fences can't be dropped");
                }
            }
        }
    }

    fn too_old(&self) -> Vec<(AnalysisId, u32, u64)> {
        let now = self.clock.now();
        let book = self.book();
        book.entries()
            .filter_map(|(id, entry)| {
                let age = now.since(entry.job.state().since);
                let limit = match entry.phase {
                    // What could not be removed is tried again.
                    _ if entry.leaving => Duration::ZERO,
                    Phase::Receiving | Phase::Running => return None,
                    Phase::Ready => self.settings.result_keep,
                    Phase::Cut | Phase::Lost => REMAINS_KEEP,
                };
                (age >= limit).then(|| (id.clone(), entry.attempt, age.as_secs()))
            })
            .collect()
    }

    /// Promises `bytes` of disk to a file that arrives; `None` when there is not so much.
    pub(crate) fn promise(self: &Arc<Self>, bytes: u64) -> std::io::Result<Option<Promise>> {
        let free = self.folder.free_bytes()?;
        let promised = self.promised.fetch_add(bytes, Ordering::Relaxed);
        let promise = Promise {
            core: Arc::clone(self),
            left: bytes,
        };
        let needed = promised
            .saturating_add(bytes)
            .saturating_add(self.settings.disk_free_min);
        Ok((needed <= free).then_some(promise))
    }
}

/// Disk that is kept free for a file until its bytes are there.
#[derive(Debug)]
pub(crate) struct Promise {
    core: Arc<Core>,
    left: u64,
}

impl Promise {
    /// `bytes` of it are on the disk now. False when it promised less.
    pub(crate) fn use_up(&mut self, bytes: u64) -> bool {
        let used = bytes.min(self.left);
        self.left -= used;
        self.core.promised.fetch_sub(used, Ordering::Relaxed);
        used == bytes
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.core.promised.fetch_sub(self.left, Ordering::Relaxed);
    }
}

fn result_is_whole(job: &Job, state: &State) -> bool {
    let length = std::fs::metadata(job.place.result()).map(|metadata| metadata.len());
    state
        .result
        .as_ref()
        .is_some_and(|result| length.is_ok_and(|length| length == result.bytes))
}

/// The last event of a finished attempt, unless it was written before.
pub(crate) fn collecting_once(job: &Job, result: &crate::folder::Result) -> std::io::Result<()> {
    if job.log.last()? == Some(Status::Collecting) {
        return Ok(());
    }
    let mut draft = Draft::new(Status::Collecting).message(Some(format!(
        "a result of {} files in {} bytes is ready",
        result.files, result.bytes
    )));
    draft.error.clone_from(&result.error);
    job.log.append(vec![draft]).map_err(std::io::Error::other)
}

/// Blocking work off the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
