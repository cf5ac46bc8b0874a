//! Deadlines of one thread: a hierarchical wheel, six levels of 64 slots, one tick 16 ms.
//!
//! A connection keeps one [`Timer`] for its whole life and moves its deadline with every phase.
//! Moving a deadline *later* only stores a number: the entry stays in its old slot and is put
//! where it belongs when that slot comes up. So a busy connection touches the wheel about once
//! per shortest phase limit instead of several times per request.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::Core;

/// Resolution of every limit of the gate, in milliseconds.
pub(crate) const TICK_MS: u64 = 16;
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 6;
const NONE: usize = usize::MAX;
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
struct Entry {
    deadline: u64,
    /// The slot it is linked in, as `level * SLOTS + slot`; `NONE` when it is in no list.
    slot: usize,
    linked_tick: u64,
    previous: usize,
    next: usize,
    waker: Option<Waker>,
}

/// The wheel. Pure: it is told the tick, and hands back the wakers that are due.
#[derive(Debug)]
pub(crate) struct Wheel {
    tick: u64,
    entries: Slab<Entry>,
    heads: Vec<usize>,
    occupied: [u64; LEVELS],
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            tick: 0,
            entries: Slab::new(),
            heads: vec![NONE; SLOTS * LEVELS],
            occupied: [0; LEVELS],
        }
    }

    fn add(&mut self) -> usize {
        self.entries.insert(Entry {
            deadline: NEVER,
            slot: NONE,
            linked_tick: NEVER,
            previous: NONE,
            next: NONE,
            waker: None,
        })
    }

    fn remove(&mut self, key: usize) {
        self.unlink(key);
        if self.entries.contains(key) {
            drop(self.entries.remove(key));
        }
    }

    fn set(&mut self, key: usize, deadline: u64) {
        let deadline = deadline.max(self.tick + 1);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.deadline = deadline;
        if entry.slot != NONE && entry.linked_tick <= deadline {
            return;
        }
        self.unlink(key);
        self.link(key, deadline);
    }

    fn clear(&mut self, key: usize) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.deadline = NEVER;
        }
    }

    fn is_due(&self, key: usize) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| entry.deadline <= self.tick)
    }

    fn store_waker(&mut self, key: usize, waker: &Waker) {
        if let Some(entry) = self.entries.get_mut(key) {
            match &entry.waker {
                Some(stored) if stored.will_wake(waker) => {}
                _ => entry.waker = Some(waker.clone()),
            }
        }
    }

    fn link(&mut self, key: usize, tick: u64) {
        let differing = (tick ^ self.tick) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / BITS) as usize;
        let level = level.min(LEVELS - 1);
        let slot =
            usize::try_from((tick >> (BITS as usize * level)) & (SLOTS as u64 - 1)).unwrap_or(0);
        let index = level * SLOTS + slot;
        let Some(head) = self.heads.get_mut(index) else {
            return;
        };
        let first = std::mem::replace(head, key);
        if let Some(next) = self.entries.get_mut(first) {
            next.previous = key;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.slot = index;
            entry.linked_tick = tick;
            entry.previous = NONE;
            entry.next = first;
        }
        if let Some(bits) = self.occupied.get_mut(level) {
            *bits |= 1 << slot;
        }
    }

    fn unlink(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let (index, previous, next) = (entry.slot, entry.previous, entry.next);
        if index == NONE {
            return;
        }
        entry.slot = NONE;
        if let Some(next) = self.entries.get_mut(next) {
            next.previous = previous;
        }
        if let Some(previous) = self.entries.get_mut(previous) {
            previous.next = next;
        } else if let Some(head) = self.heads.get_mut(index) {
            *head = next;
            if next == NONE
                && let Some(bits) = self.occupied.get_mut(index / SLOTS)
            {
                *bits &= !(1 << (index % SLOTS));
            }
        }
    }

    /// The tick at which something may be due, and the slot that holds it.
    fn next_slot(&self) -> Option<(u64, usize)> {
        let (level, bits) = self
            .occupied
            .iter()
            .enumerate()
            .find(|(_, bits)| **bits != 0)?;
        let shift = BITS * u32::try_from(level).unwrap_or(0);
        let current = u32::try_from((self.tick >> shift) & (SLOTS as u64 - 1)).unwrap_or(0);
        let ahead = bits.rotate_right(current).trailing_zeros();
        let slot = (current + ahead) as usize % SLOTS;
        let start = (self.tick >> shift >> BITS) << BITS;
        let mut tick = (start + slot as u64) << shift;
        if tick < self.tick {
            tick += 1 << (shift + BITS);
        }
        Some((tick, level * SLOTS + slot))
    }

    pub(crate) fn next_tick(&self) -> Option<u64> {
        self.next_slot().map(|(tick, _)| tick)
    }

    /// Moves time on and wakes what is due.
    pub(crate) fn advance(&mut self, now: u64, mut wake: impl FnMut(&Waker)) {
        while let Some((tick, index)) = self.next_slot() {
            if tick > now {
                break;
            }
            self.tick = self.tick.max(tick);
            let mut key = self.heads.get(index).copied().unwrap_or(NONE);
            while key != NONE {
                let Some(entry) = self.entries.get(key) else {
                    break;
                };
                let (next, deadline) = (entry.next, entry.deadline);
                self.unlink(key);
                if deadline <= self.tick {
                    if let Some(waker) = self.entries.get(key).and_then(|e| e.waker.as_ref()) {
                        wake(waker);
                    }
                } else if deadline != NEVER {
                    self.link(key, deadline);
                }
                key = next;
            }
        }
        self.tick = self.tick.max(now);
    }
}

/// One deadline of a connection. It fires once when it is passed, until it is set again.
#[derive(Debug)]
pub(crate) struct Timer {
    core: Rc<Core>,
    key: usize,
}

impl Timer {
    pub(crate) fn new(core: &Rc<Core>) -> Self {
        Self {
            core: Rc::clone(core),
            key: core.timers.borrow_mut().add(),
        }
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Expires `after` from now (rounded up to a tick).
    pub(crate) fn set(&self, after: Duration) {
        let tick = self.core.tick_after(after);
        self.core.timers.borrow_mut().set(self.key, tick);
    }

    /// Expires at `when`.
    pub(crate) fn set_at(&self, when: Instant) {
        self.set(when.saturating_duration_since(self.core.now()));
    }

    /// Never expires.
    pub(crate) fn clear(&self) {
        self.core.timers.borrow_mut().clear(self.key);
    }

    pub(crate) fn poll_expired(&self, context: &Context<'_>) -> Poll<()> {
        let mut wheel = self.core.timers.borrow_mut();
        if wheel.is_due(self.key) {
            return Poll::Ready(());
        }
        wheel.store_waker(self.key, context.waker());
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.core.timers.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use fastrand::Rng;

    use super::*;

    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn deadlines_fire_at_their_tick_whatever_was_moved_before() {
        for seed in 1..40 {
            let mut random = Rng::with_seed(seed);
            let mut wheel = Wheel::new();
            let mut expected: Vec<(usize, u64, Arc<Count>)> = Vec::new();
            for _ in 0..50 {
                let key = wheel.add();
                let count = Arc::new(Count(AtomicU64::new(0)));
                wheel.store_waker(key, &Waker::from(Arc::clone(&count)));
                let mut deadline = 0;
                for _ in 0..random.u64(1..=4) {
                    let range = 1 << random.u64(1..=20);
                    deadline = random.u64(1..=range);
                    wheel.set(key, deadline);
                }
                expected.push((key, deadline, count));
            }
            let mut now = 0;
            while now < 1 << 21 {
                now += random.u64(1..=5_000);
                wheel.advance(now, Waker::wake_by_ref);
                for (key, deadline, count) in &expected {
                    let fired = count.0.load(Ordering::Relaxed);
                    assert_eq!(
                        fired,
                        u64::from(*deadline <= now),
                        "seed {seed}, timer {key}, deadline {deadline}, now {now}"
                    );
                }
            }
        }
    }

    #[test]
    fn next_tick_is_never_after_a_deadline() {
        let mut random = Rng::with_seed(77);
        for _ in 0..2_000 {
            let mut wheel = Wheel::new();
            wheel.advance(random.u64(..1 << 30), |_| {});
            let key = wheel.add();
            let deadline = wheel.tick + random.u64(1..=1 << 22);
            wheel.set(key, deadline);
            let next = wheel.next_tick().unwrap();
            assert!(next <= deadline && next > wheel.tick.saturating_sub(1));
        }
    }

    #[test]
    fn a_cleared_timer_never_fires() {
        let mut wheel = Wheel::new();
        let key = wheel.add();
        let count = Arc::new(Count(AtomicU64::new(0)));
        wheel.store_waker(key, &Waker::from(Arc::clone(&count)));
        wheel.set(key, 5);
        wheel.clear(key);
        wheel.advance(1_000, Waker::wake_by_ref);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert!(wheel.next_tick().is_none());
    }
}
