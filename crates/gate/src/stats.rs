//! Figures: each thread counts for itself, readers add up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::reason::Reason;
use crate::tls::figures::{HandshakeTotals, Handshakes};
use crate::ws::doctor::Closing;
use crate::ws::end::{ENDERS, End};
use crate::ws::handshake::Fault;

/// Upper bounds of the duration histogram, in microseconds.
pub(crate) const BOUNDS: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// Upper bounds of the histogram of tunnels' lifetimes, in seconds.
pub(crate) const LIFETIMES: [u64; 9] = [1, 10, 30, 60, 120, 300, 900, 3_600, 14_400];

const REASONS: usize = Reason::ALL.len();
const FAULTS: usize = Fault::ALL.len();
const CLOSINGS: usize = End::ALL.len();

/// What one thread counts and all may read. Since nobody else writes, adding takes no locked
/// instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only for the thread that owns the counter.
    pub(crate) fn add(&self, count: u64) {
        self.0
            .store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes back what was added. Only for the thread that owns the counter.
    pub(crate) fn take(&self, count: u64) {
        self.add(count.wrapping_neg());
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The figures of one thread.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct ThreadStats {
    /// Exchanges that ended, by status class (0 for those without a response).
    classes: [Counter; 6],
    reasons: [Counter; REASONS],
    durations: [Counter; BOUNDS.len() + 1],
    duration_micros: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) bytes_spliced: Counter,
    pub(crate) accepted: Counter,
    pub(crate) backend_connections: Counter,
    pub(crate) retries: Counter,
    pub(crate) failed_sign_ins: Counter,
    pub(crate) active: Counter,
    pub(crate) tunnels: Counter,
    pub(crate) client_handshakes: Handshakes,
    pub(crate) backend_handshakes: Handshakes,
    pub(crate) http2: Http2Stats,
    pub(crate) websockets: WebSocketStats,
}

/// How WebSockets and other tunnels began and ended.
#[derive(Debug)]
pub(crate) struct WebSocketStats {
    /// WebSockets that were opened.
    pub(crate) opened: Counter,
    faults: [Counter; FAULTS],
    /// Tunnels by who ended them, and how.
    closings: [Counter; CLOSINGS],
    /// Their lifetimes, by who ended them, and the sums of these in milliseconds.
    lifetimes: [[Counter; LIFETIMES.len() + 1]; ENDERS.len()],
    lived: [Counter; ENDERS.len()],
}

impl WebSocketStats {
    /// Of those that the side at this place of [`ENDERS`] ended.
    fn lifetimes_of(&self, side: usize) -> &[Counter] {
        let none: &[Counter] = &[];
        self.lifetimes.get(side).map_or(none, |counters| counters)
    }
}

/// What HTTP/2 adds.
#[derive(Debug, Default)]
pub(crate) struct Http2Stats {
    /// Connections of clients that spoke it.
    pub(crate) connections: Counter,
    /// Requests that came by it.
    pub(crate) requests: Counter,
    /// Streams that clients reset.
    pub(crate) resets_received: Counter,
    /// Streams of clients that the gate reset.
    pub(crate) resets_sent: Counter,
}

impl ThreadStats {
    pub(crate) fn new() -> Self {
        Self {
            classes: Default::default(),
            reasons: std::array::from_fn(|_| Counter::default()),
            durations: Default::default(),
            duration_micros: Counter::default(),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            bytes_spliced: Counter::default(),
            accepted: Counter::default(),
            backend_connections: Counter::default(),
            retries: Counter::default(),
            failed_sign_ins: Counter::default(),
            active: Counter::default(),
            tunnels: Counter::default(),
            http2: Http2Stats::default(),
            websockets: WebSocketStats {
                opened: Counter::default(),
                faults: std::array::from_fn(|_| Counter::default()),
                closings: std::array::from_fn(|_| Counter::default()),
                lifetimes: Default::default(),
                lived: Default::default(),
            },
            client_handshakes: Handshakes::default(),
            backend_handshakes: Handshakes::default(),
        }
    }

    pub(crate) fn reason(&self, reason: Reason) {
        if let Some(counter) = self.reasons.get(reason.index()) {
            counter.add(1);
        }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        if let Some(counter) = self.websockets.faults.get(fault.index()) {
            counter.add(1);
        }
    }

    pub(crate) fn closing(&self, closing: &Closing) {
        let websockets = &self.websockets;
        if let Some(counter) = websockets.closings.get(closing.end.index()) {
            counter.add(1);
        }
        let by = closing.end.ender();
        let place = LIFETIMES.partition_point(|bound| Duration::from_secs(*bound) < closing.age);
        let lifetimes = websockets.lifetimes.get(by);
        if let Some(counter) = lifetimes.and_then(|counters| counters.get(place)) {
            counter.add(1);
        }
        if let Some(sum) = websockets.lived.get(by) {
            sum.add(u64::try_from(closing.age.as_millis()).unwrap_or(u64::MAX));
        }
    }

    pub(crate) fn exchange(&self, status: u16, duration: Duration) {
        if let Some(counter) = self.classes.get(usize::from(status / 100)) {
            counter.add(1);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(counter) = self.durations.get(place) {
            counter.add(1);
        }
        self.duration_micros.add(micros);
    }
}

/// How long tunnels lived that one side ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lifetimes {
    /// One of [`ENDERS`].
    pub(crate) by: &'static str,
    /// Up to each of [`LIFETIMES`], and beyond the last; none is in two of them.
    pub(crate) counts: Vec<u64>,
    /// The sum of all, in milliseconds.
    pub(crate) millis: u64,
}

/// The figures of all threads together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) classes: [u64; 6],
    pub(crate) reasons: Vec<(Reason, u64)>,
    pub(crate) durations: Vec<u64>,
    pub(crate) duration_micros: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_spliced: u64,
    pub(crate) accepted: u64,
    pub(crate) backend_connections: u64,
    pub(crate) retries: u64,
    pub(crate) failed_sign_ins: u64,
    pub(crate) active: u64,
    pub(crate) tunnels: u64,
    /// Connections, requests, resets received and sent.
    pub(crate) http2: [u64; 4],
    pub(crate) websockets: u64,
    pub(crate) faults: Vec<(Fault, u64)>,
    pub(crate) closings: Vec<(End, u64)>,
    pub(crate) lifetimes: Vec<Lifetimes>,
    pub(crate) client_handshakes: HandshakeTotals,
    pub(crate) backend_handshakes: HandshakeTotals,
}

impl Totals {
    pub(crate) fn of(threads: &[std::sync::Arc<ThreadStats>]) -> Self {
        let sum = |pick: &dyn Fn(&ThreadStats) -> &Counter| {
            threads.iter().map(|thread| pick(thread).get()).sum::<u64>()
        };
        let column = |pick: &dyn Fn(&ThreadStats) -> &[Counter], place: usize| {
            threads
                .iter()
                .filter_map(|thread| pick(thread).get(place))
                .map(Counter::get)
                .sum::<u64>()
        };
        Self {
            classes: std::array::from_fn(|place| column(&|thread| &thread.classes, place)),
            reasons: Reason::ALL
                .iter()
                .map(|reason| (*reason, column(&|thread| &thread.reasons, reason.index())))
                .collect(),
            durations: (0..=BOUNDS.len())
                .map(|place| column(&|thread| &thread.durations, place))
                .collect(),
            duration_micros: sum(&|thread| &thread.duration_micros),
            bytes_received: sum(&|thread| &thread.bytes_received),
            bytes_sent: sum(&|thread| &thread.bytes_sent),
            bytes_spliced: sum(&|thread| &thread.bytes_spliced),
            accepted: sum(&|thread| &thread.accepted),
            backend_connections: sum(&|thread| &thread.backend_connections),
            retries: sum(&|thread| &thread.retries),
            failed_sign_ins: sum(&|thread| &thread.failed_sign_ins),
            active: sum(&|thread| &thread.active),
            tunnels: sum(&|thread| &thread.tunnels),
            http2: [
                sum(&|thread| &thread.http2.connections),
                sum(&|thread| &thread.http2.requests),
                sum(&|thread| &thread.http2.resets_received),
                sum(&|thread| &thread.http2.resets_sent),
            ],
            websockets: sum(&|thread| &thread.websockets.opened),
            faults: Fault::ALL
                .iter()
                .map(|fault| (*fault, column(&|t| &t.websockets.faults, fault.index())))
                .collect(),
            closings: End::ALL
                .iter()
                .map(|end| (*end, column(&|t| &t.websockets.closings, end.index())))
                .collect(),
            lifetimes: ENDERS
                .iter()
                .copied()
                .enumerate()
                .map(|(side, by)| Lifetimes {
                    by,
                    counts: (0..=LIFETIMES.len())
                        .map(|place| column(&|t| t.websockets.lifetimes_of(side), place))
                        .collect(),
                    millis: column(&|t| &t.websockets.lived, side),
                })
                .collect(),
            client_handshakes: HandshakeTotals::of(
                threads.iter().map(|thread| &thread.client_handshakes),
            ),
            backend_handshakes: HandshakeTotals::of(
                threads.iter().map(|thread| &thread.backend_handshakes),
            ),
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }
}
