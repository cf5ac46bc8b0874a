//! Between the intake and the threads that analyse: numbers files, and holds the intake back.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::classify;
use crate::file::{Job, Outcome};
use crate::intake::{EntryPath, Halt, Leaf, Sink, reason_of};
use crate::report::coverage::{Row, Status};

/// Outcomes that may wait for an earlier one.
const WINDOW: u64 = 512;
/// Bytes of files that may wait for a thread, or be with one.
const BYTES_MAX: usize = 64 << 20;
/// Files, and outcomes, that a queue holds.
pub(crate) const QUEUE: usize = 128;

/// Holds the intake back while too many outcomes wait for an earlier one, or too many bytes wait for a thread.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Outcomes that were passed on.
    released: u64,
    /// Bytes of files that are queued or under analysis.
    bytes: usize,
    waiting: bool,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if state.waiting {
            self.changed.notify_all();
        }
    }

    /// Outcomes below `next` were passed on.
    pub(crate) fn release(&self, next: u64) {
        self.change(|state| state.released = next);
    }

    /// A file of this many bytes was analysed.
    pub(crate) fn leave(&self, bytes: usize) {
        self.change(|state| state.bytes = state.bytes.saturating_sub(bytes));
    }

    /// Waits until `sequence` is inside the window and there is room for `bytes`; a file alone always has room.
    fn enter(&self, sequence: u64, bytes: usize, cancelled: &AtomicBool) -> Result<(), Halt> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if cancelled.load(Ordering::Relaxed) {
            return Err(Halt::Cancelled);
        }
        while sequence >= state.released + WINDOW
            || (state.bytes > 0 && state.bytes.saturating_add(bytes) > BYTES_MAX)
        {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Halt::Cancelled);
            }
            state.waiting = true;
            let waited = self.changed.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting = false;
        }
        state.bytes = state.bytes.saturating_add(bytes);
        Ok(())
    }
}

/// The scan's side of the intake.
pub(crate) struct Feeder<'a> {
    jobs: SyncSender<Job>,
    outcomes: SyncSender<Outcome>,
    gate: &'a Gate,
    cancelled: &'a AtomicBool,
    file_bytes: u64,
    sequence: u64,
    /// The scanned path that is being read.
    pub(crate) base: usize,
}

impl<'a> Feeder<'a> {
    pub(crate) fn new(
        jobs: SyncSender<Job>,
        outcomes: SyncSender<Outcome>,
        gate: &'a Gate,
        cancelled: &'a AtomicBool,
        file_bytes: u64,
    ) -> Self {
        Self {
            jobs,
            outcomes,
            gate,
            cancelled,
            file_bytes,
            sequence: 0,
            base: 0,
        }
    }

    /// A scanned path that vanished after it was looked at.
    pub(crate) fn unreadable(&mut self, place: &EntryPath, error: &io::Error) -> Result<(), Halt> {
        let reason = reason_of(error)?;
        self.row(Row {
            reason: Some(reason),
            ..Row::new(place.display(), Status::Skipped)
        })
    }

    fn number(&mut self, bytes: usize) -> Result<u64, Halt> {
        let sequence = self.sequence;
        self.gate.enter(sequence, bytes, self.cancelled)?;
        self.sequence += 1;
        Ok(sequence)
    }

    fn skipped(&mut self, leaf: &Leaf<'_>, reason: String) -> Result<(), Halt> {
        let row = Row::new(leaf.path.display(), Status::Skipped);
        self.row(Row {
            reason: Some(reason),
            bytes: leaf.declared,
            ..row
        })
    }
}

impl Sink for Feeder<'_> {
    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<(), Halt> {
        if let Some(reason) = classify::left_out(leaf.path) {
            return self.skipped(&leaf, reason.to_owned());
        }
        let too_large = || {
            format!(
                "larger than {} bytes, the limit of one file",
                self.file_bytes
            )
        };
        if leaf.declared.is_some_and(|bytes| bytes > self.file_bytes) {
            let reason = too_large();
            return self.skipped(&leaf, reason);
        }
        let mut bytes = Vec::new();
        let read = leaf
            .reader
            .take(self.file_bytes + 1)
            .read_to_end(&mut bytes);
        if u64::try_from(bytes.len()).is_ok_and(|length| length > self.file_bytes) {
            let reason = too_large();
            return self.skipped(
                &Leaf {
                    declared: None,
                    ..leaf
                },
                reason,
            );
        }
        let cut = match read {
            Ok(_) => None,
            Err(error) => Some(reason_of(&error)?),
        };
        let job = Job {
            sequence: self.number(bytes.len())?,
            base: self.base,
            path: leaf.path.clone(),
            bytes,
            cut,
        };
        self.jobs.send(job).map_err(|_| Halt::Cancelled)
    }

    fn row(&mut self, row: Row) -> Result<(), Halt> {
        let outcome = Outcome::row(self.number(0)?, self.base, row);
        self.outcomes.send(outcome).map_err(|_| Halt::Cancelled)
    }
}
