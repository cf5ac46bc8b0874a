//! One writer per upload, and what it leaves for the next one: the hash state.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

use super::digest::Digests;

/// How long a newer request waits for the older one to stop.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Hash states kept between requests (2 KiB each); beyond, the ones unused the longest are worked out again.
const SLOTS_MAX: usize = 1_024;

/// Writers by upload.
#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<String, Arc<Slot>>>);

struct Slot {
    digests: Arc<tokio::sync::Mutex<Option<Digests>>>,
    /// Requests that wait for the writer to stop.
    waiting: watch::Sender<usize>,
    used: Mutex<Instant>,
}

/// The right to write to one upload, as long as it is held.
pub(super) struct Turn {
    /// The digests of the durable bytes, where they are known.
    pub(super) digests: OwnedMutexGuard<Option<Digests>>,
    waiting: watch::Receiver<usize>,
}

impl Turn {
    /// Ends when somebody else wants the upload.
    pub(super) async fn wanted(&mut self) {
        // The slot lives as long as somebody may wait; without it nobody does.
        if self.waiting.wait_for(|waiting| *waiting > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Counts one that waits, also when its request is dropped.
struct Waiting<'s>(&'s watch::Sender<usize>);

impl<'s> Waiting<'s> {
    fn new(count: &'s watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Slots {
    /// Asks whoever writes to `id` to stop, and takes its place; `None` when it does not stop in time.
    pub(super) async fn take(&self, id: &str) -> Option<Turn> {
        let slot = self.slot(id);
        let waiting = Waiting::new(&slot.waiting);
        let lock = Arc::clone(&slot.digests).lock_owned();
        let digests = tokio::time::timeout(STOP_WAIT, lock).await.ok()?;
        drop(waiting);
        Some(Turn {
            digests,
            waiting: slot.waiting.subscribe(),
        })
    }

    fn slot(&self, id: &str) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= SLOTS_MAX && !slots.contains_key(id) {
            drop_idle(&mut slots, SLOTS_MAX / 2);
        }
        let slot = slots.entry(id.to_owned()).or_insert_with(|| {
            Arc::new(Slot {
                digests: Arc::default(),
                waiting: watch::Sender::new(0),
                used: Mutex::new(Instant::now()),
            })
        });
        *slot.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Arc::clone(slot)
    }

    /// Forgets an upload that is complete or gone.
    pub(super) fn forget(&self, id: &str) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.get(id).is_some_and(is_idle) {
            slots.remove(id);
        }
    }
}

/// True when neither a writer nor a waiter holds it. References are handed out under the map's lock, which the caller
/// holds.
fn is_idle(slot: &Arc<Slot>) -> bool {
    Arc::strong_count(slot) == 1 && Arc::strong_count(&slot.digests) == 1
}

/// Keeps the `most` used last, and all that are in use.
fn drop_idle(slots: &mut HashMap<String, Arc<Slot>>, most: usize) {
    let mut ages: Vec<Instant> = slots
        .values()
        .map(|slot| *slot.used.lock().unwrap_or_else(PoisonError::into_inner))
        .collect();
    ages.sort_unstable_by(|left, right| right.cmp(left));
    let Some(limit) = ages.get(most).copied() else {
        return;
    };
    slots.retain(|_, slot| {
        let used = *slot.used.lock().unwrap_or_else(PoisonError::into_inner);
        used > limit || !is_idle(slot)
    });
}
