//! Events and rows, changed together: the one place where an event enters the store.
//!
//! A [`Ledger`] holds a job and its analyses inside a transaction. Events are folded into it as any consumer folds
//! them, and [`Ledger::save`] writes both the events and the rows that they add up to. So the rows are what the events
//! say, by construction.

use std::collections::BTreeMap;

use munjigi_events::{
    Analysis as Folded, AnalysisId, Event, EventId, Fold, Job as FoldedJob, ServerId, Status,
};
use munjigi_foundation::clock::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Row, SqliteExecutor};

use super::jobs::{self, Analysis, Job, number, unsigned};
use super::{StoreError, uploads};

/// A job with its analyses and the events that this transaction adds.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) job: Job,
    pub(crate) analyses: Vec<Analysis>,
    folded: FoldedJob,
    /// New events, as JSON, from offset `job.last_offset` + 1 - their number.
    added: Vec<String>,
}

/// What the hub says of an analysis.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// From a worker that still might write: the next attempt.
    pub(crate) take_over: bool,
    pub(crate) server_id: Option<ServerId>,
    pub(crate) message: Option<String>,
    pub(crate) error: Option<String>,
}

impl Ledger {
    /// Loads a job; `None` when there is none.
    pub(crate) async fn load(
        tx: &mut SqliteConnection,
        id: &EventId,
    ) -> Result<Option<Self>, StoreError> {
        let Some(job) = jobs::find(&mut *tx, id).await? else {
            return Ok(None);
        };
        let analyses = jobs::analyses_of(tx, id).await?;
        let folded = analyses
            .iter()
            // What waits for its first event is not there yet.
            .filter(|analysis| analysis.seq > 0)
            .map(|analysis| (analysis.analyze_id.clone(), folded(analysis)))
            .collect::<BTreeMap<_, _>>();
        Ok(Some(Self {
            job,
            analyses,
            folded: FoldedJob { analyses: folded },
            added: Vec::new(),
        }))
    }

    /// The analysis `id` of this job.
    pub(crate) fn analysis(&self, id: &AnalysisId) -> Option<&Analysis> {
        self.analyses
            .iter()
            .find(|analysis| analysis.analyze_id == *id)
    }

    fn analysis_mut(&mut self, id: &AnalysisId) -> Option<&mut Analysis> {
        self.analyses
            .iter_mut()
            .find(|analysis| analysis.analyze_id == *id)
    }

    /// Folds one event in; only [`Fold::Next`] changes anything.
    pub(crate) fn append(&mut self, event: &Event, now: Timestamp) -> Result<Fold, StoreError> {
        let json = event
            .to_json()
            .map_err(|error| StoreError::Corrupt(format!("an event: {error}")))?;
        let fold = self.folded.fold(event);
        if fold != Fold::Next {
            return Ok(fold);
        }
        let after = self.folded.analyses.get(&event.analyze_id).cloned();
        let status = self.folded.status();
        if let (Some(after), Some(analysis)) = (after, self.analysis_mut(&event.analyze_id)) {
            analysis.status = after.status;
            if after.attempt != analysis.attempt {
                analysis.accepted = false;
                analysis.collected = false;
                analysis.said = None;
            }
            // Only a worker that has the whole file runs its model.
            analysis.accepted |= matches!(after.status, Status::Running | Status::Collecting);
            analysis.attempt = after.attempt;
            analysis.seq = after.seq;
            analysis.server_id = after.server_id;
            analysis.progress = after.progress;
            analysis.findings = after.findings;
            analysis.error = after.error;
        }
        self.added.push(json);
        self.job.last_offset += 1;
        self.job.status = status;
        let ended = self
            .analyses
            .iter()
            .all(|analysis| analysis.status.is_terminal());
        if ended && self.job.ended_at.is_none() {
            self.job.ended_at = Some(now);
        }
        Ok(Fold::Next)
    }

    /// Adds what the hub says of an analysis: with the next `seq`, or as the first of the next attempt.
    pub(crate) fn say(
        &mut self,
        id: &AnalysisId,
        status: Status,
        said: Said,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(analysis) = self.analysis(id) else {
            return Err(StoreError::Corrupt(format!("no analysis {id} to speak of")));
        };
        let (attempt, seq) = if said.take_over || analysis.attempt == 0 {
            (analysis.attempt + 1, 1)
        } else {
            (analysis.attempt, analysis.seq + 1)
        };
        let event = Event {
            user_id: self.job.user_id.clone(),
            event_id: self.job.event_id.clone(),
            server_id: said.server_id,
            analyze_id: id.clone(),
            status,
            created_at: now,
            seq,
            attempt,
            progress: None,
            message: said.message,
            finding: None,
            error: said.error,
        };
        match self.append(&event, now)? {
            Fold::Next => Ok(()),
            other => Err(StoreError::Corrupt(format!(
                "{status} of {id} does not follow: {other:?}"
            ))),
        }
    }

    /// Changes what no event says of an analysis.
    pub(crate) fn change(&mut self, id: &AnalysisId, change: impl FnOnce(&mut Analysis)) {
        if let Some(analysis) = self.analysis_mut(id) {
            change(analysis);
        }
    }

    /// Writes events and rows. A job that has ended gives its upload back. The last offset is returned.
    pub(crate) async fn save(mut self, tx: &mut SqliteConnection) -> Result<u64, StoreError> {
        let first = self.job.last_offset - u64::try_from(self.added.len()).unwrap_or(0) + 1;
        for (json, offset) in self.added.iter().zip(first..) {
            sqlx::query("INSERT INTO events (event_id, offset, json) VALUES (?, ?, ?)")
                .bind(self.job.event_id.as_str())
                .bind(number(offset))
                .bind(json)
                .execute(&mut *tx)
                .await?;
        }
        for analysis in &self.analyses {
            save_analysis(tx, analysis).await?;
        }
        if self.job.ended_at.is_some() {
            self.release_upload(tx).await?;
        }
        sqlx::query(
            "UPDATE jobs SET status = ?, last_offset = ?, ended_at = ?, upload_held = ? WHERE event_id = ?",
        )
        .bind(self.job.status.as_str())
        .bind(number(self.job.last_offset))
        .bind(self.job.ended_at.map(Timestamp::millis))
        .bind(self.job.upload_held)
        .bind(self.job.event_id.as_str())
        .execute(tx)
        .await?;
        Ok(self.job.last_offset)
    }

    /// The job needs its upload no more.
    pub(crate) async fn release_upload(
        &mut self,
        tx: &mut SqliteConnection,
    ) -> Result<(), StoreError> {
        if self.job.upload_held {
            uploads::unpin(tx, &self.job.upload_id).await?;
            self.job.upload_held = false;
        }
        Ok(())
    }
}

async fn save_analysis(tx: &mut SqliteConnection, analysis: &Analysis) -> Result<(), StoreError> {
    let progress = analysis
        .progress
        .as_ref()
        .map(serde_json::to_string)
        .transpose()
        .map_err(|error| StoreError::Corrupt(format!("progress: {error}")))?;
    sqlx::query(
        "UPDATE analyses SET status = ?, attempt = ?, seq = ?, server_id = ?, progress = ?, findings = ?, error = ?, \
         live = ?, accepted = ?, collected = ?, tries = ?, not_before = ?, said = ?, result_sha256 = ?, \
         result_size = ? WHERE analyze_id = ?",
    )
    .bind(analysis.status.as_str())
    .bind(analysis.attempt)
    .bind(number(analysis.seq))
    .bind(analysis.server_id.as_ref().map(ServerId::as_str))
    .bind(progress)
    .bind(number(analysis.findings))
    .bind(&analysis.error)
    .bind(!analysis.status.is_terminal())
    .bind(analysis.accepted)
    .bind(analysis.collected)
    .bind(analysis.tries)
    .bind(analysis.not_before.millis())
    .bind(&analysis.said)
    .bind(analysis.result.map(|held| held.sha256.to_vec()))
    .bind(analysis.result.map(|held| number(held.size)))
    .bind(analysis.analyze_id.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

fn folded(analysis: &Analysis) -> Folded {
    Folded {
        status: analysis.status,
        attempt: analysis.attempt,
        seq: analysis.seq,
        server_id: analysis.server_id.clone(),
        progress: analysis.progress.clone(),
        findings: analysis.findings,
        error: analysis.error.clone(),
    }
}

/// Events of a job after `offset`, as JSON with their offsets: at most `limit`.
pub(crate) async fn events_after(
    on: impl SqliteExecutor<'_>,
    id: &EventId,
    offset: u64,
    limit: u32,
) -> Result<Vec<(u64, String)>, StoreError> {
    let rows = sqlx::query(
        "SELECT offset, json FROM events WHERE event_id = ? AND offset > ? ORDER BY offset LIMIT ?",
    )
    .bind(id.as_str())
    .bind(number(offset))
    .bind(limit)
    .fetch_all(on)
    .await?;
    rows.iter()
        .map(|row| Ok((unsigned(row.try_get("offset")?), row.try_get("json")?)))
        .collect()
}
