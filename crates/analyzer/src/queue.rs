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
use crate::scan::WINDOW;

/// Holds the intake back while too many outcomes wait for an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Outcomes that were passed on.
    released: Mutex<u64>,
    changed: Condvar,
}

impl Gate {
    /// Outcomes below `next` were passed on.
    pub(crate) fn release(&self, next: u64) {
        *self.released.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.changed.notify_all();
    }

    /// Waits until `sequence` is inside the window.
    fn enter(&self, sequence: u64, cancelled: &AtomicBool) -> Result<(), Halt> {
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        while sequence >= *released + WINDOW {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Halt::Cancelled);
            }
            let waited = self
                .changed
                .wait_timeout(released, Duration::from_millis(100));
            released = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
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

    fn number(&mut self) -> Result<u64, Halt> {
        let sequence = self.sequence;
        self.gate.enter(sequence, self.cancelled)?;
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
            sequence: self.number()?,
            base: self.base,
            path: leaf.path.clone(),
            bytes,
            cut,
        };
        self.jobs.send(job).map_err(|_| Halt::Cancelled)
    }

    fn row(&mut self, row: Row) -> Result<(), Halt> {
        let outcome = Outcome::row(self.number()?, self.base, row);
        self.outcomes.send(outcome).map_err(|_| Halt::Cancelled)
    }
}
