//! One address of a service, with what all threads know of it: figures, state, weight. It
//! outlives changes of the set around it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::health::Health;
use crate::service::Service;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// The moment that times in atomics count from.
static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Its probes fail.
pub(crate) const UNHEALTHY: u8 = 1;
/// It failed too many requests in a row.
pub(crate) const EJECTED: u8 = 2;
/// An operator wants it empty.
pub(crate) const DRAINED: u8 = 4;

/// Half of a measured time has faded after so many milliseconds without a new one.
const FADE_MS: u64 = 5_000;
/// The share of its weight that a backend begins with in a slow start, of 1000.
const RAMP_FROM: u64 = 100;

fn millis(now: Instant) -> u32 {
    // It wraps after 49 days; only differences are used.
    #[expect(clippy::cast_possible_truncation, reason = "meant to wrap")]
    let millis = now.saturating_duration_since(*BASE).as_millis() as u32;
    millis
}

/// Milliseconds from `then` to `now`; 0 when the clock of this thread is a little behind.
fn since(then: u32, now: Instant) -> u64 {
    let past = millis(now).wrapping_sub(then);
    if past > u32::MAX / 2 { 0 } else { past.into() }
}

/// One address of a service.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Unique in this process.
    pub id: u64,
    /// Where it listens.
    pub address: SocketAddr,
    /// The address as text: for logs, and as `Host` where the client sent none.
    pub name: String,
    /// Requests in flight, over all threads.
    pub in_flight: AtomicU32,
    /// Requests sent to it.
    pub requests: AtomicU64,
    /// Of these, how many failed on its side.
    pub failures: AtomicU64,
    /// How often it was left out for its failures.
    pub ejections: AtomicU64,
    /// What its probes say.
    pub health: Mutex<Health>,
    weight: AtomicU32,
    flags: AtomicU8,
    streak: AtomicU32,
    /// When its slow start began, by `millis`; 0 when it is over.
    warming: AtomicU32,
    /// Time to answer in microseconds (low half) and when it was measured (high half); 0 when
    /// nothing was measured.
    answers_in: AtomicU64,
}

impl Backend {
    pub(crate) fn new(address: SocketAddr, weight: u32) -> Self {
        LazyLock::force(&BASE);
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address,
            name: address.to_string(),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            health: Mutex::default(),
            weight: AtomicU32::new(weight.max(1)),
            flags: AtomicU8::new(0),
            streak: AtomicU32::new(0),
            warming: AtomicU32::new(0),
            answers_in: AtomicU64::new(0),
        }
    }

    /// Its share, at least 1.
    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed).max(1)
    }

    pub(crate) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// True when one of `flags` is set.
    pub(crate) fn is(&self, flags: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flags != 0
    }

    /// Sets or clears a flag; true when that changed it.
    pub(crate) fn mark(&self, flag: u8, on: bool) -> bool {
        let before = if on {
            self.flags.fetch_or(flag, Ordering::Relaxed)
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed)
        };
        (before & flag != 0) != on
    }

    /// What operators call its state, among those that discovery says are up.
    pub(crate) fn state(&self) -> &'static str {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & DRAINED != 0 {
            "drained"
        } else if flags & UNHEALTHY != 0 {
            "unhealthy"
        } else if flags & EJECTED != 0 {
            "ejected"
        } else {
            "up"
        }
    }

    /// One more failure in a row; how many there are.
    pub(crate) fn failed(&self) -> u32 {
        self.streak
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    /// The failures in a row end.
    pub(crate) fn succeeded(&self) {
        if self.streak.load(Ordering::Relaxed) != 0 {
            self.streak.store(0, Ordering::Relaxed);
        }
    }

    /// A slow start begins.
    pub(crate) fn warm_up(&self, now: Instant) {
        self.warming.store(millis(now).max(1), Ordering::Relaxed);
    }

    /// The share of its weight that it gets at `now`, of 1000; it grows over `slow_start`.
    pub(crate) fn ramp(&self, now: Instant, slow_start: Duration) -> u64 {
        let began = self.warming.load(Ordering::Relaxed);
        if began == 0 {
            return 1_000;
        }
        let whole = u64::try_from(slow_start.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let past = since(began, now);
        if past >= whole {
            self.warming.store(0, Ordering::Relaxed);
            return 1_000;
        }
        RAMP_FROM + (1_000 - RAMP_FROM) * past / whole
    }

    /// Notes how long it took to answer. With `peak`, a longer time than before counts at once.
    pub(crate) fn answered_in(&self, took: Duration, now: Instant, peak: bool) {
        let sample = u64::try_from(took.as_micros())
            .unwrap_or(u64::MAX)
            .clamp(1, u64::from(u32::MAX));
        let before = self.answers_in(now);
        let next = match before {
            None => sample,
            Some(before) if peak && sample >= before => sample,
            Some(before) => (before * 7 + sample).div_ceil(8),
        };
        let packed = u64::from(millis(now)) << 32 | next.clamp(1, u64::from(u32::MAX));
        self.answers_in.store(packed, Ordering::Relaxed);
    }

    /// Its time to answer in microseconds, fading while nothing new is measured; `None` when
    /// nothing was measured.
    pub(crate) fn answers_in(&self, now: Instant) -> Option<u64> {
        let packed = self.answers_in.load(Ordering::Relaxed);
        if packed == 0 {
            return None;
        }
        let at = (packed >> 32) as u32;
        let micros = packed & u64::from(u32::MAX);
        Some((micros * FADE_MS / (FADE_MS + since(at, now))).max(1))
    }

    pub(crate) fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request in flight for as long as it lives.
#[derive(Debug)]
pub(crate) struct InFlight(pub(crate) Arc<Backend>, Option<Arc<Service>>);

impl InFlight {
    /// A place at `backend`; `None` when it has as many requests as the service's limit allows.
    pub(crate) fn take(backend: &Arc<Backend>, service: &Arc<Service>) -> Option<Self> {
        if let Some(limit) = &service.settings.limit {
            let room = |count: u32| (count < limit.requests).then_some(count + 1);
            let (done, failed) = (Ordering::SeqCst, Ordering::Relaxed);
            backend.in_flight.fetch_update(done, failed, room).ok()?;
        } else {
            backend.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        backend.requests.fetch_add(1, Ordering::Relaxed);
        let counted = service.counts_requests();
        if counted {
            service.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Some(Self(
            Arc::clone(backend),
            counted.then(|| Arc::clone(service)),
        ))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(service) = &self.1 else {
            self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        service.in_flight.fetch_sub(1, Ordering::Relaxed);
        if service.settings.limit.is_some() {
            // Whoever begins to wait looks for room after it has entered the queue: one of us
            // sees the other.
            fence(Ordering::SeqCst);
            service.queue.wake(self.0.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_grows_from_a_tenth_to_the_whole() {
        let backend = Backend::new(([127, 0, 0, 1], 1).into(), 1);
        let start = Instant::now();
        let ten = Duration::from_secs(10);
        assert_eq!(backend.ramp(start, ten), 1_000);
        backend.warm_up(start);
        let mut before = 0;
        for step in 0..=101 {
            let ramp = backend.ramp(start + ten * step / 100, ten);
            assert!(ramp >= before, "{step}");
            assert!(
                ramp.abs_diff((100 + 9 * u64::from(step)).min(1_000)) <= 9,
                "{step}: {ramp}"
            );
            before = ramp;
        }
        assert_eq!(before, 1_000);
        // It is over for good.
        assert_eq!(backend.ramp(start, ten), 1_000);
    }

    #[test]
    fn times_to_answer_follow_and_fade() {
        let backend = Backend::new(([127, 0, 0, 1], 1).into(), 1);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let ms = Duration::from_millis;
        assert_eq!(backend.answers_in(start), None);
        backend.answered_in(ms(8), start, true);
        assert_eq!(backend.answers_in(start), Some(8_000));
        backend.answered_in(ms(80), start, true);
        assert_eq!(
            backend.answers_in(start),
            Some(80_000),
            "a peak counts at once"
        );
        backend.answered_in(ms(8), start, true);
        assert_eq!(backend.answers_in(start), Some(71_000), "and goes slowly");
        assert_eq!(backend.answers_in(at(5)), Some(35_500), "half has faded");
        assert_eq!(backend.answers_in(at(100_000)), Some(3));
        backend.answered_in(ms(80), at(100_000), false);
        let slow = backend.answers_in(at(100_000)).unwrap();
        assert!((9_000..12_000).contains(&slow), "{slow}");
    }
}
