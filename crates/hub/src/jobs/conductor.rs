//! Looks at the rows again and again, and starts what comes next.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use munjigi_events::{AnalysisId, EventId, ServerId, UserId};
use munjigi_foundation::clock::Timestamp;
use tokio_util::sync::CancellationToken;

use super::placement::{self, Load, Waiting};
use super::state::{self, Next};
use super::{Flight, Heard, Jobs};
use crate::store::StoreError;
use crate::store::jobs::{self as rows, Analysis, Job};
use crate::store::undo::{self, Kind, Undo};

/// The rows are looked at this often while something is under way …
const EVERY: Duration = Duration::from_millis(250);
/// … and this often while nothing is: whatever changes them wakes the conductor.
const IDLE: Duration = Duration::from_secs(5);
/// Undo steps under way at once.
const UNDOING: usize = 32;
/// Undo steps looked at.
const UNDO_SEEN: u32 = 2_000;
/// A worker says its free slots anew, and the registry passes it on, within this.
const CAPACITY_SEEN: Duration = Duration::from_secs(3);
/// Why an analysis waits is said after it waited this long …
const TELL_AFTER: Duration = Duration::from_secs(2);
/// … and anew, when it changed, after this.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// A worker that answers but posts nothing is believed for so many times the silence that is allowed.
const BELIEVED: u32 = 6;

impl Jobs {
    pub(super) async fn conduct(&self) {
        let mut up: HashSet<ServerId> = HashSet::new();
        let mut workers = self.0.workers.clone();
        loop {
            let wait = match self.round(&mut up).await {
                Ok(true) => EVERY,
                Ok(false) => IDLE,
                Err(error) => {
                    tracing::error!(%error, "jobs can't go on");
                    EVERY
                }
            };
            tokio::select! {
                () = self.0.shutdown.cancelled() => return,
                () = self.0.wake.notified() => {}
                Ok(()) = workers.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts what comes next; false when there is nothing to be done at all.
    async fn round(&self, up: &mut HashSet<ServerId>) -> Result<bool, StoreError> {
        let now = self.0.clock.now();
        self.greet(up, now).await?;
        let (jobs, analyses) = rows::live(&self.0.store).await?;
        let steps = undo::armed(&self.0.store, UNDO_SEEN).await?;
        let busy = !analyses.is_empty() || !steps.is_empty();
        self.forget(&analyses, now);
        self.undo(&steps, now);
        let jobs: BTreeMap<EventId, Job> = jobs
            .into_iter()
            .map(|job| (job.event_id.clone(), job))
            .collect();
        let mut by_job: BTreeMap<EventId, Vec<Undo>> = BTreeMap::new();
        for step in steps {
            by_job.entry(step.event_id.clone()).or_default().push(step);
        }
        let mut waiting = Vec::new();
        for analysis in &analyses {
            let Some(job) = jobs.get(&analysis.event_id) else {
                continue;
            };
            if self.memory().flights.contains_key(&analysis.analyze_id) {
                continue;
            }
            let steps = by_job
                .get(&analysis.event_id)
                .map_or(&[][..], Vec::as_slice);
            match state::next(analysis, steps, self.heard(analysis), now, self.0.patience) {
                Next::Wait => {}
                Next::Place => waiting.push((analysis, job, steps)),
                act => self.act(analysis, job, act),
            }
        }
        self.place(&analyses, &jobs, waiting, now);
        Ok(busy)
    }

    /// A worker that is back is asked at once for what waits for it.
    async fn greet(&self, up: &mut HashSet<ServerId>, now: Timestamp) -> Result<(), StoreError> {
        let known: HashSet<ServerId> = self
            .workers()
            .iter()
            .filter(|worker| worker.up)
            .map(|worker| worker.server_id.clone())
            .collect();
        let new: Vec<ServerId> = known.difference(up).cloned().collect();
        *up = known;
        for server in new {
            self.0
                .store
                .write(move |tx| {
                    Box::pin(async move { undo::hasten(tx, server.as_str(), now).await })
                })
                .await?;
        }
        Ok(())
    }

    /// What is remembered of analyses that ended is forgotten.
    fn forget(&self, live: &[Analysis], now: Timestamp) {
        let live: HashSet<&AnalysisId> = live.iter().map(|row| &row.analyze_id).collect();
        let mut memory = self.memory();
        memory.heard.retain(|id, _| live.contains(id));
        memory.told.retain(|id, _| live.contains(id));
        memory
            .placed
            .retain(|id, placed| live.contains(id) && now.since(*placed) < CAPACITY_SEEN);
    }

    /// When the worker of an analysis was heard last; a hub that has just started has heard nobody yet.
    fn heard(&self, analysis: &Analysis) -> Timestamp {
        let heard = self
            .memory()
            .heard
            .get(&analysis.analyze_id)
            .copied()
            .unwrap_or_default();
        let event = heard.event.max(self.0.started);
        let believed = self.0.patience.silence.saturating_mul(BELIEVED);
        event.max(heard.answer.min(event.plus(believed)))
    }

    /// An event of the worker came.
    pub(super) fn hear(&self, id: &AnalysisId, now: Timestamp) {
        let mut memory = self.memory();
        memory.heard.entry(id.clone()).or_default().event = now;
    }

    /// The worker answers that it is still at it.
    pub(super) fn hear_answer(&self, id: &AnalysisId, now: Timestamp) {
        let mut memory = self.memory();
        let heard = memory.heard.entry(id.clone()).or_insert(Heard {
            event: self.0.started,
            answer: now,
        });
        heard.answer = now;
    }

    fn act(&self, analysis: &Analysis, job: &Job, act: Next) {
        let (jobs, row, of) = (self.clone(), analysis.clone(), job.clone());
        match act {
            Next::Wait | Next::Place => {}
            Next::Probe => self.fly(analysis, async move { jobs.probe(&row).await }),
            Next::TakeOver { failed, why } => self.fly(analysis, async move {
                jobs.take_over(&row, failed, why, None).await
            }),
            Next::Collect => {
                self.fly_to_its_end(
                    analysis,
                    |stop| async move { jobs.collect(&row, &stop).await },
                );
            }
            Next::Finish => self.fly(analysis, async move { jobs.finish(&row).await }),
            Next::EndCancel => {
                self.fly(analysis, async move { jobs.end_cancel(&row, &of).await });
            }
        }
    }

    /// Runs the one act of an analysis; it is dropped when the job is cancelled or the hub stops.
    pub(super) fn fly(
        &self,
        analysis: &Analysis,
        act: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) {
        self.fly_to_its_end(analysis, |stop| async move {
            stop.run_until_cancelled(act).await.unwrap_or(Ok(()))
        });
    }

    /// The same for an act that ends by itself soon after its token is cancelled: one that writes files, which, dropped
    /// in the middle, could leave one that appears after its undo.
    fn fly_to_its_end<A>(&self, analysis: &Analysis, act: impl FnOnce(CancellationToken) -> A)
    where
        A: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let stop = self.0.shutdown.child_token();
        let flight = Flight {
            event_id: analysis.event_id.clone(),
            stop: stop.clone(),
        };
        let id = analysis.analyze_id.clone();
        self.memory().flights.insert(id.clone(), flight);
        let (jobs, act) = (self.clone(), act(stop));
        self.0.tasks.spawn(async move {
            if let Err(error) = act.await {
                tracing::error!(analysis = %id, %error, "an act failed");
            }
            jobs.memory().flights.remove(&id);
            jobs.0.wake.notify_one();
        });
    }

    fn undo(&self, steps: &[Undo], now: Timestamp) {
        for step in steps.iter().filter(|step| step.next_try <= now) {
            {
                let mut memory = self.memory();
                let flying = match step.kind {
                    // The file may still be read for any analysis of the job.
                    Kind::Upload => memory
                        .flights
                        .values()
                        .any(|flight| flight.event_id == step.event_id),
                    Kind::Worker | Kind::Result => memory.flights.contains_key(&step.analyze_id),
                };
                if flying
                    || memory.undoing.len() >= UNDOING
                    || memory.undoing.contains_key(&step.id)
                {
                    continue;
                }
                memory.undoing.insert(step.id, step.analyze_id.clone());
            }
            let (jobs, step) = (self.clone(), step.clone());
            self.0.tasks.spawn(async move {
                let shutdown = jobs.0.shutdown.clone();
                tokio::select! {
                    done = jobs.take_back(&step) => {
                        if let Err(error) = done {
                            tracing::error!(step = step.id, %error, "an undo step can't be noted");
                        }
                    }
                    () = shutdown.cancelled() => {}
                }
                jobs.memory().undoing.remove(&step.id);
                jobs.0.wake.notify_one();
            });
        }
    }

    fn place(
        &self,
        analyses: &[Analysis],
        jobs: &BTreeMap<EventId, Job>,
        waiting: Vec<(&Analysis, &Job, &[Undo])>,
        now: Timestamp,
    ) {
        if waiting.is_empty() {
            return;
        }
        let mut loads: BTreeMap<ServerId, Load> = BTreeMap::new();
        let mut of_user: BTreeMap<UserId, u32> = BTreeMap::new();
        {
            let memory = self.memory();
            for row in analyses {
                let Some(server) = &row.server_id else {
                    continue;
                };
                let load = loads.entry(server.clone()).or_default();
                load.live += 1;
                if !row.accepted || memory.placed.contains_key(&row.analyze_id) {
                    load.unseen += 1;
                }
                if let Some(job) = jobs.get(&row.event_id) {
                    *of_user.entry(job.user_id.clone()).or_default() += 1;
                }
            }
        }
        let queue = waiting
            .iter()
            .map(|(row, job, steps)| Waiting {
                analyze_id: row.analyze_id.clone(),
                user_id: job.user_id.clone(),
                model: row.model.clone(),
                priority: job.priority,
                since: job.created_at,
                avoid: steps
                    .iter()
                    .filter(|step| step.kind == Kind::Worker && step.analyze_id == row.analyze_id)
                    .map(|step| ServerId::from(step.target.as_str()))
                    .collect(),
            })
            .collect();
        let plan = placement::plan(queue, &self.workers(), loads, of_user);
        let find = |id: &AnalysisId| waiting.iter().find(|(row, _, _)| row.analyze_id == *id);
        for (id, server) in plan.placed {
            if let Some((row, job, _)) = find(&id) {
                self.memory().placed.insert(id, now);
                let (all, row, job) = (self.clone(), (*row).clone(), (*job).clone());
                let act = row.clone();
                self.fly(&act, async move { all.dispatch(&row, &job, server).await });
            }
        }
        for (id, why) in plan.waiting {
            if let Some((row, job, _)) = find(&id) {
                self.tell_why(row, job, why, now);
            }
        }
    }

    fn tell_why(&self, row: &Analysis, job: &Job, why: String, now: Timestamp) {
        let waited = now.since(job.created_at.max(row.not_before));
        if row.said.as_ref() == Some(&why) || waited < TELL_AFTER {
            return;
        }
        {
            let mut memory = self.memory();
            let told = memory.told.get(&row.analyze_id);
            if told.is_some_and(|told| now.since(*told) < TELL_AGAIN) {
                return;
            }
            memory.told.insert(row.analyze_id.clone(), now);
        }
        let (jobs, waiting) = (self.clone(), row.clone());
        self.fly(row, async move { jobs.say_why(&waiting, why).await });
    }
}
