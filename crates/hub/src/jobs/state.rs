//! What is to be done next for an analysis: decided from its row alone, so that a hub that was killed goes on as if
//! nothing had happened. No I/O here.

use std::time::Duration;

use munjigi_events::Status;
use munjigi_foundation::clock::Timestamp;

use crate::store::jobs::Analysis;
use crate::store::undo::{Kind, Undo};

/// A worker that can't be reached is asked so often before the hub goes on without its answer; the step stays, and is
/// tried until the worker is back.
const ASKED_ENOUGH: u32 = 3;

/// The times that decide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// A worker that posts nothing for so long is asked whether it still has the analysis.
    pub(crate) probe: Duration,
    /// A worker that posts nothing for so long has lost it.
    pub(crate) silence: Duration,
    /// Attempts of an analysis that may fail.
    pub(crate) tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            probe: Duration::from_secs(4),
            silence: Duration::from_secs(15),
            tries: 3,
        }
    }
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Somebody else's turn.
    Wait,
    /// It waits for a worker.
    Place,
    /// Ask the worker whether it still has it.
    Probe,
    /// Take it from the worker: back into the queue, or to its end when it `failed` too often.
    TakeOver { failed: bool, why: &'static str },
    /// Fetch the result.
    Collect,
    /// Its result is here and the worker clean: write the last event.
    Finish,
    /// Everything is taken back: write the last event.
    EndCancel,
}

/// Decides for one analysis. `undo` are the armed steps of its job, `heard` is when its worker was heard last.
pub(crate) fn next(
    analysis: &Analysis,
    undo: &[Undo],
    heard: Timestamp,
    now: Timestamp,
    patience: Patience,
) -> Next {
    match analysis.status {
        Status::Done | Status::Failed | Status::Cancelled => Next::Wait,
        Status::Cancelling => {
            // The job is cancelled as one: nothing of it may be left here, whichever analysis it belongs to.
            if undo.iter().all(is_only_out_of_reach) {
                Next::EndCancel
            } else {
                Next::Wait
            }
        }
        Status::Queued => {
            let unfenced = mine(analysis, undo).any(|step| !is_only_out_of_reach(step));
            if unfenced || analysis.not_before > now {
                Next::Wait
            } else {
                Next::Place
            }
        }
        // Whoever was sending the file is gone, or this would not be asked.
        Status::Placed | Status::Receiving if !analysis.accepted => Next::TakeOver {
            failed: false,
            why: "the hub was restarted while it sent the file",
        },
        Status::Placed | Status::Receiving | Status::Running => {
            let silent = now.since(heard);
            if silent >= patience.silence {
                Next::TakeOver {
                    failed: true,
                    why: "the worker is silent",
                }
            } else if silent >= patience.probe {
                Next::Probe
            } else {
                Next::Wait
            }
        }
        Status::Collecting if analysis.collected => {
            if mine(analysis, undo).all(is_only_out_of_reach) {
                Next::Finish
            } else {
                Next::Wait
            }
        }
        Status::Collecting if analysis.not_before > now => Next::Wait,
        Status::Collecting => Next::Collect,
    }
}

fn mine<'u>(analysis: &Analysis, undo: &'u [Undo]) -> impl Iterator<Item = &'u Undo> {
    let id = analysis.analyze_id.clone();
    undo.iter().filter(move |step| step.analyze_id == id)
}

/// A worker that was asked and does not answer: no reason to wait.
fn is_only_out_of_reach(step: &Undo) -> bool {
    step.kind == Kind::Worker && step.tries >= ASKED_ENOUGH
}

/// When a step that failed `tries` times is tried again: soon at first, at most every 15 s.
pub(crate) fn undo_again(tries: u32, now: Timestamp) -> Timestamp {
    let wait = Duration::from_millis(250).saturating_mul(1 << tries.min(6));
    now.plus(wait.min(Duration::from_secs(15)))
}

/// When an analysis whose attempt failed is placed again.
pub(crate) fn place_again(tries: u32, now: Timestamp) -> Timestamp {
    let wait = Duration::from_millis(500).saturating_mul(1 << tries.min(5));
    now.plus(wait)
}

#[cfg(test)]
mod tests {
    use munjigi_events::{AnalysisId, EventId};

    use super::*;

    fn analysis(status: Status, accepted: bool, collected: bool) -> Analysis {
        Analysis {
            analyze_id: AnalysisId::from("a"),
            event_id: EventId::from("e"),
            ordinal: 0,
            model: "source".to_owned(),
            status,
            attempt: 1,
            seq: 3,
            server_id: None,
            progress: None,
            findings: 0,
            error: None,
            accepted,
            collected,
            tries: 0,
            not_before: Timestamp::from_millis(0),
            said: None,
            result: None,
        }
    }

    fn step(kind: Kind, analysis: &str, tries: u32) -> Undo {
        Undo {
            id: 1,
            event_id: EventId::from("e"),
            analyze_id: AnalysisId::from(analysis),
            attempt: 1,
            kind,
            target: "143".to_owned(),
            stop: false,
            since: Timestamp::from_millis(0),
            tries,
            next_try: Timestamp::from_millis(0),
            error: None,
        }
    }

    /// What comes next for an analysis whose worker was heard so many seconds ago.
    fn after(row: (Status, bool, bool), undo: &[Undo], heard: u64) -> Next {
        let now = Timestamp::from_millis(1_000_000);
        let heard = now.minus(Duration::from_secs(heard));
        let row = analysis(row.0, row.1, row.2);
        next(&row, undo, heard, now, Patience::default())
    }

    fn worker(tries: u32) -> Vec<Undo> {
        vec![step(Kind::Worker, "a", tries)]
    }

    #[test]
    fn what_waits_is_placed_once_its_last_attempt_is_fenced() {
        let queued = (Status::Queued, false, false);
        assert_eq!(after(queued, &[], 0), Next::Place);
        assert_eq!(after(queued, &worker(0), 0), Next::Wait);
        assert_eq!(after(queued, &worker(3), 0), Next::Place, "out of reach");
        let anothers = [step(Kind::Worker, "b", 0)];
        assert_eq!(after(queued, &anothers, 0), Next::Place);
    }

    #[test]
    fn what_is_placed_is_watched() {
        for status in [Status::Placed, Status::Receiving] {
            let sender_gone = after((status, false, false), &[], 0);
            assert!(matches!(sender_gone, Next::TakeOver { failed: false, .. }));
        }
        for status in [Status::Placed, Status::Receiving, Status::Running] {
            assert_eq!(after((status, true, false), &[], 1), Next::Wait);
            assert_eq!(after((status, true, false), &[], 5), Next::Probe);
            let silent = after((status, true, false), &[], 20);
            assert!(matches!(silent, Next::TakeOver { failed: true, .. }));
        }
    }

    #[test]
    fn what_is_ready_is_collected_and_ends_once_the_worker_is_clean() {
        assert_eq!(
            after((Status::Collecting, true, false), &[], 99),
            Next::Collect
        );
        let collected = (Status::Collecting, true, true);
        assert_eq!(after(collected, &worker(0), 0), Next::Wait);
        assert_eq!(
            after(collected, &worker(3), 0),
            Next::Finish,
            "out of reach"
        );
        assert_eq!(after(collected, &[], 0), Next::Finish);
        assert_eq!(after((Status::Done, true, true), &[], 99), Next::Wait);
    }

    #[test]
    fn what_is_cancelled_ends_once_the_hub_is_clean() {
        let cancelled = (Status::Cancelling, true, false);
        assert_eq!(after(cancelled, &worker(0), 99), Next::Wait);
        assert_eq!(
            after(cancelled, &worker(3), 0),
            Next::EndCancel,
            "out of reach"
        );
        for kind in [Kind::Result, Kind::Upload] {
            let left_here = [step(kind, "b", 9)];
            assert_eq!(after(cancelled, &left_here, 0), Next::Wait, "{kind:?}");
        }
        assert_eq!(after(cancelled, &[], 0), Next::EndCancel);
    }

    #[test]
    fn what_failed_is_tried_later_and_later() {
        let now = Timestamp::from_millis(0);
        let waits: Vec<i64> = (0..8)
            .map(|tries| undo_again(tries, now).millis())
            .collect();
        assert_eq!(
            waits,
            [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]
        );
        assert!(place_again(u32::MAX, now).millis() <= 16_000);
    }
}
