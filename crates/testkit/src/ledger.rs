use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use munjigi_events::{AnalysisId, Event, Job, Status};

/// What was pushed of one job, held against the contract: `offset` counts from 1 without gaps, `seq` counts from 1
/// without gaps in one (`analyzeId`, `attempt`), attempts only grow, each analysis has exactly one terminal event.
#[derive(Debug, Default)]
pub struct Ledger {
    events: Vec<Event>,
    epoch: Option<String>,
}

impl Ledger {
    /// Takes the event at `offset`.
    ///
    /// # Errors
    /// When it breaks a promise.
    pub fn take(&mut self, epoch: &str, offset: u64, event: Event) -> Result<()> {
        let last = u64::try_from(self.events.len())?;
        ensure!(
            offset == last + 1,
            "offset {offset} comes after {last}: {event:?}"
        );
        let known = self.epoch.get_or_insert_with(|| epoch.to_owned());
        ensure!(known == epoch, "the epoch changed from {known} to {epoch}");
        if let Some(before) = self
            .events
            .iter()
            .rev()
            .find(|e| e.analyze_id == event.analyze_id)
        {
            ensure!(
                !before.status.is_terminal(),
                "{event:?} comes after the end, {before:?}"
            );
            let next = event.attempt == before.attempt && event.seq == before.seq + 1;
            let over = event.attempt == before.attempt + 1 && event.seq == 1;
            ensure!(next || over, "{event:?} comes after {before:?}");
        } else {
            ensure!(event.place() == (1, 1), "{event:?} is the first");
            ensure!(event.status == Status::Queued, "{event:?} is the first");
        }
        self.events.push(event);
        Ok(())
    }

    /// The events so far.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Where to go on from, as a client names it.
    #[must_use]
    pub fn position(&self) -> Option<(String, u64)> {
        let epoch = self.epoch.clone()?;
        Some((epoch, u64::try_from(self.events.len()).ok()?))
    }

    /// What the events add up to.
    #[must_use]
    pub fn fold(&self) -> Job {
        let mut job = Job::default();
        for event in &self.events {
            job.fold(event);
        }
        job
    }

    /// True once every analysis has had its terminal event.
    #[must_use]
    pub fn ended(&self) -> bool {
        let mut last: BTreeMap<&AnalysisId, Status> = BTreeMap::new();
        for event in &self.events {
            last.insert(&event.analyze_id, event.status);
        }
        !last.is_empty() && last.values().all(|status| status.is_terminal())
    }

    /// The statuses in order, each named once while it lasts: for messages.
    #[must_use]
    pub fn story(&self) -> String {
        let mut story: Vec<String> = Vec::new();
        for event in &self.events {
            let word = format!("{}#{}", event.status, event.attempt);
            if story.last() != Some(&word) {
                story.push(word);
            }
        }
        story.join(" → ")
    }
}
