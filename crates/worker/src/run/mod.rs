//! Runs one attempt: the model in its sandbox, its words as events, its output packed.

pub(crate) mod models;
mod pack;
mod protocol;
mod talk;
pub(crate) mod users;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use munjigi_events::{Progress, Status};
use tokio_util::sync::CancellationToken;

use crate::book::Phase;
use crate::core::{Core, blocking, collecting_once};
use crate::folder::{self, Stage};
use crate::job::Job;
use crate::log::Draft;
use crate::metrics::Run;
use models::Room;
use pack::{PackError, Packed, pack};
use talk::{Heard, Talk};

/// A sign of life is written when nothing was for so long (the contract's limit is 2 s).
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_millis(1_500);
/// With so many events waiting for the hub, signs of life are no longer written: they would only add to the heap.
pub(crate) const UNSENT_QUIET: u64 = 100;
/// Names of refused artifacts that are told.
const REFUSED_TOLD: usize = 20;

/// Runs `job`, whose file is here, until its result is ready, it is ended, or the worker is stopped.
pub(crate) async fn run(core: &Arc<Core>, job: &Arc<Job>) {
    let model = job.state().model;
    let heard = talk(core, job).await;
    let outcome = match &heard {
        _ if job.is_over() => "stopped",
        Heard { error: None, .. } => "done",
        Heard { error: Some(_), .. } => "failed",
    };
    core.metrics
        .runs
        .get_or_create(&Run { model, outcome })
        .inc();
    if job.is_over() {
        // Removed by whoever ended it; when the worker is stopped, the next start finds it running and says lost.
        return;
    }
    if let Some(error) = &heard.error {
        tracing::warn!(analysis = %job.analysis(), error, "the model failed");
    }
    if let Err(error) = finish(core, job, heard).await {
        // Without a result the hub hears nothing more from here, and moves the analysis.
        tracing::error!(analysis = %job.analysis(), %error, "the result can't be kept");
        core.book()
            .advance(job.analysis(), job.attempt(), Phase::Lost);
        job.stopped.cancel();
        core.counted();
    }
}

async fn talk(core: &Arc<Core>, job: &Arc<Job>) -> Heard {
    let state = job.state();
    let Some(model) = core.models.get(&state.model) else {
        return Heard::failed(format!(
            "the worker no longer offers the model {}",
            state.model
        ));
    };
    job.tell_or_log(Draft::new(Status::Running).progress(Some(phase("start"))))
        .await;
    let user = core.users.take();
    let place = job.place.clone();
    if let Err(error) = blocking(move || place.make_run_folders()).await {
        return Heard::failed(format!("no folders for the model: {error}"));
    }
    let room = Room {
        input: Some(job.place.input()),
        output: Some(job.place.output()),
        temporary: job.place.temporary(),
        user: user.as_ref(),
    };
    match model.start(&core.program, room) {
        Ok(sandboxed) => Talk::new(core, job).hold(sandboxed).await,
        Err(error) => Heard::failed(format!("the sandbox could not be started: {error}")),
    }
}

fn phase(name: &str) -> Progress {
    Progress {
        phase: name.to_owned(),
        done: 0,
        total: None,
        unit: None,
    }
}

/// Packs the result, keeps it, and writes the last event.
async fn finish(core: &Arc<Core>, job: &Arc<Job>, heard: Heard) -> std::io::Result<()> {
    let mut error = heard.error;
    let packed = match pack_alive(core, job, heard.artifacts).await {
        Ok(packed) => packed,
        Err(PackError::Stopped) => return Ok(()),
        Err(why) => {
            // An empty result is better than none: the hub learns why from the last event.
            error.get_or_insert_with(|| why.to_string());
            let place = job.place.clone();
            blocking(move || place.make_run_folders()).await?;
            pack_alive(core, job, Vec::new())
                .await
                .map_err(std::io::Error::other)?
        }
    };
    tell_refused(job, &packed).await;
    let result = folder::Result {
        bytes: packed.bytes,
        sha256: STANDARD.encode(packed.sha256),
        files: packed.files,
        error: error.map(|error| protocol::short(&error, 4_000)),
    };
    let (kept, clock) = (Arc::clone(job), core.clock.clone());
    blocking(move || {
        kept.change(|state| {
            state.stage = Stage::Ready;
            state.since = clock.now();
            state.result = Some(result);
        })?;
        kept.place.remove_run()
    })
    .await?;
    // First it can be fetched, then it is said: the hub comes at once.
    if !core
        .book()
        .advance(job.analysis(), job.attempt(), Phase::Ready)
    {
        return Ok(());
    }
    core.counted();
    let last = Arc::clone(job);
    blocking(move || match last.state().result {
        Some(result) => collecting_once(&last, &result),
        None => Ok(()),
    })
    .await
}

/// Packs, with signs of life.
async fn pack_alive(
    core: &Arc<Core>,
    job: &Arc<Job>,
    artifacts: Vec<String>,
) -> Result<Packed, PackError> {
    let stop = CancellationToken::new();
    // Dropped with this future, as when the worker stops.
    let stop_on_drop = stop.clone().drop_guard();
    let (place, heard) = (job.place.clone(), stop.clone());
    let mut packing = tokio::task::spawn_blocking(move || {
        pack(&place.output(), &artifacts, &place.result(), &heard)
    });
    loop {
        tokio::select! {
            packed = &mut packing => {
                drop(stop_on_drop);
                return packed.unwrap_or_else(|error| Err(std::io::Error::other(error).into()));
            }
            () = tokio::time::sleep(SIGN_OF_LIFE) => {
                if job.log.unsent() < UNSENT_QUIET {
                    job.tell_or_log(Draft::new(Status::Running).progress(Some(phase("pack")))).await;
                }
            }
            () = job.cancelled.cancelled(), if !stop.is_cancelled() => stop.cancel(),
            () = core.shutdown.cancelled(), if !stop.is_cancelled() => stop.cancel(),
        }
    }
}

async fn tell_refused(job: &Job, packed: &Packed) {
    if packed.refused.is_empty() {
        return;
    }
    let told: Vec<String> = packed
        .refused
        .iter()
        .take(REFUSED_TOLD)
        .map(|(artifact, why)| format!("{}: {why}", protocol::short(artifact, 200)))
        .collect();
    let count = packed.refused.len();
    tracing::warn!(analysis = %job.analysis(), count, "the model named artifacts that were refused");
    let message = format!("{count} artifacts were refused: {}", told.join("; "));
    job.tell_or_log(Draft::new(Status::Running).message(Some(message)))
        .await;
}
