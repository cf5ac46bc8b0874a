use std::collections::BTreeMap;

use crate::{AnalysisId, Event, Progress, ServerId, Status};

/// What the events of one analysis add up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    pub status: Status,
    pub attempt: u32,
    /// Of the last event.
    pub seq: u64,
    pub server_id: Option<ServerId>,
    pub progress: Option<Progress>,
    /// Distinct findings of the newest attempt.
    pub findings: u64,
    pub error: Option<String>,
}

/// What the events of one job add up to: the same as its rows in the hub's store, which a test holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Job {
    pub analyses: BTreeMap<AnalysisId, Analysis>,
}

/// What folding an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// It is the next one.
    Next,
    /// It was seen before, or belongs to an older attempt.
    Old,
    /// Events between the last one and this one are missing.
    Gap,
}

impl Job {
    /// Takes one event into account.
    pub fn fold(&mut self, event: &Event) -> Fold {
        let Some(analysis) = self.analyses.get_mut(&event.analyze_id) else {
            if event.seq != 1 {
                return Fold::Gap;
            }
            self.analyses
                .insert(event.analyze_id.clone(), Analysis::first(event));
            return Fold::Next;
        };
        analysis.fold(event)
    }

    /// The job's status: `DONE` if all analyses are, `FAILED` if any is (once all have ended), `CANCELLED` only by
    /// its user; until then the least advanced one.
    #[must_use]
    pub fn status(&self) -> Status {
        job_status(self.analyses.values().map(|analysis| analysis.status))
    }
}

/// A job's status from those of its analyses.
pub fn job_status(analyses: impl Iterator<Item = Status> + Clone) -> Status {
    let any = |wanted: Status| analyses.clone().any(|status| status == wanted);
    if analyses.clone().all(Status::is_terminal) {
        return if any(Status::Cancelled) {
            Status::Cancelled
        } else if any(Status::Failed) {
            Status::Failed
        } else if any(Status::Done) {
            Status::Done
        } else {
            Status::Queued
        };
    }
    // A cancelled job shows it at once, whatever the others still do.
    if any(Status::Cancelling) || any(Status::Cancelled) {
        return Status::Cancelling;
    }
    [
        Status::Queued,
        Status::Placed,
        Status::Receiving,
        Status::Running,
        Status::Collecting,
    ]
    .into_iter()
    .find(|status| any(*status))
    .unwrap_or(Status::Queued)
}

impl Analysis {
    fn first(event: &Event) -> Self {
        Self {
            status: event.status,
            attempt: event.attempt,
            seq: event.seq,
            server_id: event.server_id.clone(),
            progress: event.progress.clone(),
            findings: u64::from(event.finding.is_some()),
            error: event.error.clone(),
        }
    }

    fn fold(&mut self, event: &Event) -> Fold {
        if event.place() <= (self.attempt, self.seq) {
            return Fold::Old;
        }
        if event.attempt > self.attempt {
            if event.seq != 1 {
                return Fold::Gap;
            }
            *self = Self::first(event);
            return Fold::Next;
        }
        if event.seq != self.seq + 1 {
            return Fold::Gap;
        }
        self.status = event.status;
        self.seq = event.seq;
        self.server_id.clone_from(&event.server_id);
        if event.progress.is_some() {
            self.progress.clone_from(&event.progress);
        }
        if event.error.is_some() {
            self.error.clone_from(&event.error);
        }
        self.findings += u64::from(event.finding.is_some());
        Fold::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(attempt: u32, seq: u64, status: Status) -> Event {
        Event {
            user_id: "u".into(),
            event_id: "e".into(),
            server_id: None,
            analyze_id: "a".into(),
            status,
            created_at: munjigi_foundation::clock::Timestamp::default(),
            seq,
            attempt,
            progress: None,
            message: None,
            finding: None,
            error: None,
        }
    }

    #[test]
    fn events_fold_in_order_once() {
        let mut job = Job::default();
        let steps = [
            (event(1, 2, Status::Placed), Fold::Gap),
            (event(1, 1, Status::Queued), Fold::Next),
            (event(1, 1, Status::Queued), Fold::Old),
            (event(1, 2, Status::Placed), Fold::Next),
            (event(1, 4, Status::Running), Fold::Gap),
            (event(2, 2, Status::Running), Fold::Gap),
            (event(2, 1, Status::Queued), Fold::Next),
            (event(1, 3, Status::Running), Fold::Old),
            (event(2, 2, Status::Failed), Fold::Next),
        ];
        for (event, expected) in steps {
            assert_eq!(job.fold(&event), expected, "{:?}", event.place());
        }
        assert_eq!(job.status(), Status::Failed);
    }

    #[test]
    fn a_job_is_what_its_analyses_are() {
        use Status::{Cancelled, Cancelling, Done, Failed, Queued, Running};
        for (analyses, expected) in [
            (vec![Done, Done], Done),
            (vec![Done, Failed], Failed),
            (vec![Done, Running], Running),
            (vec![Failed, Running], Running),
            (vec![Running, Queued], Queued),
            (vec![Cancelled, Cancelling], Cancelling),
            (vec![Cancelled, Done], Cancelled),
            (vec![], Queued),
        ] {
            assert_eq!(
                job_status(analyses.iter().copied()),
                expected,
                "{analyses:?}"
            );
        }
    }
}
