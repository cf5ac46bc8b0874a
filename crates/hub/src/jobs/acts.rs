//! The acts of a job. Each looks at its row again inside the transaction that ends it: what changed meanwhile (a
//! cancel, an event, a takeover) wins, and the act leaves no trace.

use std::sync::atomic::Ordering;
use std::time::Duration;

use munjigi_events::{AnalysisId, EventId, ServerId, Status};
use munjigi_foundation::clock::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::worker::{Dispatch, Dispatched, Fetched, Known, Target};
use super::{Jobs, state};
use crate::results::{self, ResultError};
use crate::store::StoreError;
use crate::store::jobs::{Analysis, Held, Job};
use crate::store::ledger::{Ledger, Said};
use crate::store::results::Index;
use crate::store::undo::{self, Kind, Undo};
use crate::store::uploads as upload_rows;

/// A result that can't be fetched is fetched again after this.
const FETCH_AGAIN: Duration = Duration::from_secs(1);
/// A worker that has a result and can't be reached for so long has lost it.
const RESULT_LOST: Duration = Duration::from_secs(60);
/// Our own storage may refuse a result for so long.
const STORAGE_FAILS: Duration = Duration::from_secs(600);

impl Jobs {
    /// Changes an analysis and its job in one transaction, unless the row is no longer what `row` says it was: of
    /// another attempt or ended. False when it was left alone.
    async fn change<F>(&self, row: &Analysis, change: F) -> Result<bool, StoreError>
    where
        F: for<'c> FnOnce(
                &'c mut sqlx::SqliteConnection,
                &'c mut Ledger,
                &'c Analysis,
            ) -> crate::store::Work<'c, bool>
            + Send
            + 'static,
    {
        let (event_id, id, attempt) = (row.event_id.clone(), row.analyze_id.clone(), row.attempt);
        let saved = self
            .0
            .store
            .write(move |tx| {
                Box::pin(async move {
                    let Some(mut ledger) = Ledger::load(tx, &event_id).await? else {
                        return Ok(None);
                    };
                    let Some(now) = ledger.analysis(&id).cloned() else {
                        return Ok(None);
                    };
                    if now.attempt != attempt || now.status.is_terminal() {
                        return Ok(None);
                    }
                    if !change(tx, &mut ledger, &now).await? {
                        return Ok(None);
                    }
                    Ok(Some(ledger.save(tx).await?))
                })
            })
            .await?;
        if let Some(last) = saved {
            self.changed(&row.event_id, last);
        }
        Ok(saved.is_some())
    }

    /// Places an analysis on `server` and sends it the file.
    pub(super) async fn dispatch(
        &self,
        row: &Analysis,
        job: &Job,
        server: ServerId,
    ) -> Result<(), StoreError> {
        if !self.note_placed(row, &server).await? {
            return Ok(());
        }
        tracing::info!(analysis = %row.analyze_id, attempt = row.attempt, %server, "placed");
        self.hear(&row.analyze_id, self.0.clock.now());
        let began = Instant::now();
        let figures = &self.0.figures;
        match self.send_file(row, job, server).await? {
            Dispatched::Accepted => {
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(0);
                figures.dispatched.fetch_add(1, Ordering::Relaxed);
                figures.dispatch_ms.fetch_add(took, Ordering::Relaxed);
                let (id, now) = (row.analyze_id.clone(), self.0.clock.now());
                self.hear(&id, now);
                self.memory().placed.insert(id.clone(), now);
                self.change(row, move |_, ledger, _| {
                    ledger.change(&id, |row| row.accepted = true);
                    Box::pin(async { Ok(true) })
                })
                .await
                .map(drop)
            }
            // The worker may have written of a file that it could not hold in the end, so that even here the attempt
            // is taken over: a number is cheaper than a doubt.
            Dispatched::Busy(wait) => {
                let again = self.0.clock.now().plus(wait);
                self.take_over(row, false, "the worker is full", Some(again))
                    .await
            }
            Dispatched::Failed(why) => {
                figures.dispatch_failed.fetch_add(1, Ordering::Relaxed);
                let why = format!("the file did not reach the worker: {why}");
                self.take_over(row, true, &why, None).await
            }
            Dispatched::Never(why) => {
                figures.dispatch_failed.fetch_add(1, Ordering::Relaxed);
                self.give_up(row, &format!("the worker does not take the file: {why}"))
                    .await
            }
        }
    }

    /// Writes the undo of a placement, then that it is placed. False when the row has moved on.
    async fn note_placed(&self, row: &Analysis, server: &ServerId) -> Result<bool, StoreError> {
        let (now, seq, server) = (self.0.clock.now(), row.seq, server.clone());
        self.change(row, move |tx, ledger, row| {
            Box::pin(async move {
                if row.status != Status::Queued || row.seq != seq {
                    return Ok(false);
                }
                let step = undo::New {
                    event_id: &row.event_id,
                    analyze_id: &row.analyze_id,
                    attempt: row.attempt,
                    kind: Kind::Worker,
                    target: server.as_str(),
                    armed: false,
                };
                undo::insert(tx, step, now).await?;
                let said = Said {
                    server_id: Some(server.clone()),
                    ..Said::default()
                };
                ledger.say(&row.analyze_id, Status::Placed, said, now)?;
                Ok(true)
            })
        })
        .await
    }

    async fn send_file(
        &self,
        row: &Analysis,
        job: &Job,
        server: ServerId,
    ) -> Result<Dispatched, StoreError> {
        let Some(upload) = upload_rows::find(&self.0.store, &job.upload_id).await? else {
            return Ok(Dispatched::Never("the upload is gone".to_owned()));
        };
        let Some(sha256) = upload.sha256 else {
            return Ok(Dispatched::Never("the upload is not finished".to_owned()));
        };
        let (file, length) = match self.0.uploads.open(&job.upload_id).await {
            Ok(opened) => opened,
            Err(error) => {
                return Ok(Dispatched::Never(format!(
                    "the upload can't be read: {error}"
                )));
            }
        };
        let dispatch = Dispatch {
            target: Target {
                server_id: server,
                analyze_id: row.analyze_id.clone(),
                attempt: row.attempt,
            },
            event_id: job.event_id.clone(),
            user_id: job.user_id.clone(),
            // After PLACED.
            seq: row.seq + 2,
            model: row.model.clone(),
            name: job.name.clone(),
            sha256,
        };
        Ok(self.0.face.dispatch(&dispatch, file, length).await)
    }

    /// Takes an analysis from its worker: what the worker has is undone, and it waits again, or has failed too often.
    pub(super) async fn take_over(
        &self,
        row: &Analysis,
        failed: bool,
        why: &str,
        again: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let (tries, why) = (self.0.patience.tries, why.to_owned());
        let (seen, told) = (row.accepted, why.clone());
        let done = self
            .change(row, move |tx, ledger, row| {
                Box::pin(async move {
                    // A worker that runs the model has the file, whatever became of the answer.
                    let moved_on = row.accepted && !seen;
                    if matches!(row.status, Status::Cancelling | Status::Queued) || moved_on {
                        return Ok(false);
                    }
                    undo::arm(tx, &row.analyze_id, true, now).await?;
                    let failures = row.tries + u32::from(failed);
                    let mut said = Said {
                        take_over: true,
                        ..Said::default()
                    };
                    if failures >= tries {
                        said.server_id.clone_from(&row.server_id);
                        said.error = Some(format!("{why} (attempt {failures} of {tries})"));
                        ledger.say(&row.analyze_id, Status::Failed, said, now)?;
                    } else {
                        said.message = Some(why);
                        ledger.say(&row.analyze_id, Status::Queued, said, now)?;
                    }
                    let wait = if failed {
                        state::place_again(failures, now)
                    } else {
                        now
                    };
                    ledger.change(&row.analyze_id, |row| {
                        row.tries = failures;
                        row.not_before = again.unwrap_or(wait);
                    });
                    Ok(true)
                })
            })
            .await?;
        if done {
            self.0.figures.taken_over.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(analysis = %row.analyze_id, attempt = row.attempt, why = told, "taken over");
        }
        Ok(())
    }

    /// Ends an analysis that no worker will ever do.
    async fn give_up(&self, row: &Analysis, why: &str) -> Result<(), StoreError> {
        let (now, why) = (self.0.clock.now(), why.to_owned());
        self.change(row, move |tx, ledger, row| {
            Box::pin(async move {
                if row.status == Status::Cancelling {
                    return Ok(false);
                }
                undo::arm(tx, &row.analyze_id, true, now).await?;
                let said = Said {
                    take_over: true,
                    server_id: row.server_id.clone(),
                    error: Some(why),
                    ..Said::default()
                };
                ledger.say(&row.analyze_id, Status::Failed, said, now)?;
                Ok(true)
            })
        })
        .await
        .map(drop)
    }

    /// Asks a quiet worker whether it still has the analysis.
    pub(super) async fn probe(&self, row: &Analysis) -> Result<(), StoreError> {
        let Some(target) = target(row) else {
            return self.take_over(row, false, "it has no worker", None).await;
        };
        match self.0.face.probe(&target).await {
            Known::Here => {
                self.hear_answer(&row.analyze_id, self.0.clock.now());
                Ok(())
            }
            Known::Lost(why) => {
                self.take_over(row, true, &format!("the worker lost it: {why}"), None)
                    .await
            }
            Known::Unknown(why) => {
                tracing::debug!(analysis = %row.analyze_id, why, "a quiet worker can't be asked");
                // Not at once again: the silence goes on counting.
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            }
        }
    }

    /// Fetches, verifies and stores a result. Once `stop` is cancelled it waits for the worker no longer, but ends what
    /// it writes.
    pub(super) async fn collect(
        &self,
        row: &Analysis,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let Some(target) = target(row) else {
            return self.take_over(row, false, "it has no worker", None).await;
        };
        let now = self.0.clock.now();
        let name = results::name(&row.event_id, &row.analyze_id, row.attempt);
        let step = name.clone();
        let noted = self
            .change(row, move |tx, _, row| {
                Box::pin(async move {
                    if row.status != Status::Collecting || row.collected {
                        return Ok(false);
                    }
                    let step = undo::New {
                        event_id: &row.event_id,
                        analyze_id: &row.analyze_id,
                        attempt: row.attempt,
                        kind: Kind::Result,
                        target: &step,
                        armed: false,
                    };
                    undo::insert(tx, step, now).await?;
                    Ok(true)
                })
            })
            .await?;
        if !noted {
            return Ok(());
        }
        let began = Instant::now();
        let Some(fetched) = stop.run_until_cancelled(self.0.face.fetch(&target)).await else {
            return Ok(());
        };
        let answer = match fetched {
            Fetched::Result(answer) => answer,
            // It failed, and its worker made no result of that.
            Fetched::Nothing(_) | Fetched::NotReady(_) if row.error.is_some() => {
                return self.nothing_to_collect(row).await;
            }
            Fetched::Nothing(why) => {
                let why = format!("the worker lost the result: {why}");
                return self.take_over(row, true, &why, None).await;
            }
            Fetched::NotReady(why) | Fetched::Unreachable(why) => {
                return self.fetch_again(row, &why, RESULT_LOST).await;
            }
        };
        match self.0.results.take(&name, answer, stop).await {
            Ok((held, index)) => {
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(0);
                self.0.figures.collected.fetch_add(1, Ordering::Relaxed);
                self.0.figures.collect_ms.fetch_add(took, Ordering::Relaxed);
                self.collected(row, held, index).await
            }
            Err(ResultError::Stopped) => Ok(()),
            Err(ResultError::Cut(why)) => self.fetch_again(row, &why, RESULT_LOST).await,
            Err(ResultError::Storage(why)) => {
                tracing::error!(analysis = %row.analyze_id, why, "a result can't be stored");
                self.fetch_again(row, &why, STORAGE_FAILS).await
            }
            Err(error @ ResultError::Bad(_)) => {
                self.take_over(row, true, &error.to_string(), None).await
            }
        }
    }

    async fn fetch_again(
        &self,
        row: &Analysis,
        why: &str,
        patience: Duration,
    ) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        if now.since(self.since_event(&row.analyze_id)) > patience {
            let why = format!("the result can't be fetched: {why}");
            return self.take_over(row, true, &why, None).await;
        }
        tracing::info!(analysis = %row.analyze_id, why, "a result is fetched again");
        let (id, again) = (row.analyze_id.clone(), now.plus(FETCH_AGAIN));
        self.change(row, move |_, ledger, row| {
            let same = row.status == Status::Collecting;
            ledger.change(&id, |row| row.not_before = again);
            Box::pin(async move { Ok(same) })
        })
        .await
        .map(drop)
    }

    /// When the last event of an analysis came.
    fn since_event(&self, id: &AnalysisId) -> Timestamp {
        let heard = self.memory().heard.get(id).map(|heard| heard.event);
        heard.unwrap_or_default().max(self.0.started)
    }

    /// The result is stored: the worker is to be cleaned, which its undo does.
    async fn collected(&self, row: &Analysis, held: Held, index: Index) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        self.change(row, move |tx, ledger, row| {
            Box::pin(async move {
                if row.status != Status::Collecting {
                    return Ok(false);
                }
                crate::store::results::insert(tx, &row.event_id, &row.analyze_id, &index).await?;
                undo::settle(tx, &row.analyze_id, Kind::Result).await?;
                undo::arm(tx, &row.analyze_id, false, now).await?;
                ledger.change(&row.analyze_id, |row| {
                    row.result = Some(held);
                    row.collected = true;
                });
                Ok(true)
            })
        })
        .await
        .map(drop)
    }

    /// The model failed and left nothing.
    async fn nothing_to_collect(&self, row: &Analysis) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        self.change(row, move |tx, ledger, row| {
            Box::pin(async move {
                if row.status != Status::Collecting {
                    return Ok(false);
                }
                undo::settle(tx, &row.analyze_id, Kind::Result).await?;
                undo::arm(tx, &row.analyze_id, false, now).await?;
                ledger.change(&row.analyze_id, |row| row.collected = true);
                Ok(true)
            })
        })
        .await
        .map(drop)
    }

    /// Writes the last event of an analysis whose result is here.
    pub(super) async fn finish(&self, row: &Analysis) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let done = self
            .change(row, move |_, ledger, row| {
                Box::pin(async move {
                    if row.status != Status::Collecting || !row.collected {
                        return Ok(false);
                    }
                    let status = match row.error {
                        Some(_) => Status::Failed,
                        None => Status::Done,
                    };
                    let said = Said {
                        server_id: row.server_id.clone(),
                        error: row.error.clone(),
                        ..Said::default()
                    };
                    ledger.say(&row.analyze_id, status, said, now)?;
                    Ok(true)
                })
            })
            .await?;
        if done {
            tracing::info!(analysis = %row.analyze_id, attempt = row.attempt, "finished");
        }
        Ok(())
    }

    /// Writes the last event of a cancelled analysis.
    pub(super) async fn end_cancel(&self, row: &Analysis, job: &Job) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let done = self
            .change(row, move |_, ledger, row| {
                Box::pin(async move {
                    if row.status != Status::Cancelling {
                        return Ok(false);
                    }
                    let said = Said {
                        server_id: row.server_id.clone(),
                        ..Said::default()
                    };
                    ledger.say(&row.analyze_id, Status::Cancelled, said, now)?;
                    Ok(true)
                })
            })
            .await?;
        if done {
            tracing::info!(event = %job.event_id, analysis = %row.analyze_id, "cancelled");
        }
        Ok(())
    }

    /// Says why an analysis waits.
    pub(super) async fn say_why(&self, row: &Analysis, why: String) -> Result<(), StoreError> {
        let (now, seq) = (self.0.clock.now(), row.seq);
        self.change(row, move |_, ledger, row| {
            Box::pin(async move {
                if row.status != Status::Queued || row.seq != seq {
                    return Ok(false);
                }
                let said = Said {
                    message: Some(why.clone()),
                    ..Said::default()
                };
                ledger.say(&row.analyze_id, Status::Queued, said, now)?;
                ledger.change(&row.analyze_id, |row| row.said = Some(why));
                Ok(true)
            })
        })
        .await
        .map(drop)
    }

    /// Does one undo step; it stays, with its error, when that fails.
    pub(super) async fn take_back(&self, step: &Undo) -> Result<(), StoreError> {
        let outcome = match step.kind {
            Kind::Worker => {
                let target = Target {
                    server_id: ServerId::from(step.target.as_str()),
                    analyze_id: step.analyze_id.clone(),
                    attempt: step.attempt,
                };
                self.0.face.delete(&target, step.stop).await
            }
            Kind::Result => self
                .0
                .results
                .remove(&step.target)
                .await
                .map_err(|error| error.to_string()),
            Kind::Upload => match self.0.uploads.remove(&step.target).await {
                // Another job needs it: it goes with that one, or when its time is over.
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
        };
        let (id, now) = (step.id, self.0.clock.now());
        match outcome {
            Ok(()) => {
                self.0
                    .store
                    .write(move |tx| Box::pin(async move { undo::done(tx, id).await }))
                    .await
            }
            Err(error) => {
                tracing::info!(analysis = %step.analyze_id, kind = step.kind.as_str(), tries = step.tries, error, "a clean-up waits");
                let mut again = state::undo_again(step.tries, now);
                if step.kind == Kind::Worker && self.is_up(&step.target) {
                    // It is there, and the gate will know it any moment.
                    again = again.min(now.plus(Duration::from_secs(2)));
                }
                self.0
                    .store
                    .write(move |tx| {
                        Box::pin(async move { undo::failed(tx, id, &error, again).await })
                    })
                    .await
            }
        }
    }

    fn is_up(&self, server: &str) -> bool {
        self.workers()
            .iter()
            .any(|worker| worker.up && worker.server_id.as_str() == server)
    }

    /// Cancels every unfinished job of a user that is gone, and removes the finished ones.
    pub(super) async fn end_of_user(&self, job: &Job) -> Result<(), StoreError> {
        let id: &EventId = &job.event_id;
        if job.ended_at.is_some() {
            self.remove(id).await.map(drop)
        } else {
            self.cancel(&job.user_id, id).await.map(drop)
        }
    }
}

fn target(row: &Analysis) -> Option<Target> {
    Some(Target {
        server_id: row.server_id.clone()?,
        analyze_id: row.analyze_id.clone(),
        attempt: row.attempt,
    })
}
