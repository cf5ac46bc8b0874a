//! Figures: each thread counts for itself, readers add up.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::reason::Reason;
use crate::tls::figures::{HandshakeTotals, Handshakes};
use crate::ws::doctor::{Closing, End};
use crate::ws::handshake::Fault;

/// Upper bounds of the duration histogram, in microseconds.
pub(crate) const BOUNDS: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

const REASONS: usize = Reason::ALL.len();
const FAULTS: usize = Fault::ALL.len();
const CLOSINGS: usize = End::ALL.len();

/// The figures of one thread.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct ThreadStats {
    /// Exchanges that ended, by status class (0 for those without a response).
    classes: [AtomicU64; 6],
    reasons: [AtomicU64; REASONS],
    durations: [AtomicU64; BOUNDS.len() + 1],
    duration_micros: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) backend_connections: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) failed_sign_ins: AtomicU64,
    pub(crate) active: AtomicI64,
    pub(crate) tunnels: AtomicI64,
    pub(crate) client_handshakes: Handshakes,
    pub(crate) backend_handshakes: Handshakes,
    pub(crate) http2: Http2Stats,
    pub(crate) websockets: WebSocketStats,
}

/// How WebSockets and other tunnels began and ended.
#[derive(Debug)]
pub(crate) struct WebSocketStats {
    /// WebSockets that were opened.
    pub(crate) opened: AtomicU64,
    faults: [AtomicU64; FAULTS],
    /// Tunnels by who ended them, and how.
    closings: [AtomicU64; CLOSINGS],
}

impl WebSocketStats {
    const fn new() -> Self {
        Self {
            opened: AtomicU64::new(0),
            faults: [const { AtomicU64::new(0) }; FAULTS],
            closings: [const { AtomicU64::new(0) }; CLOSINGS],
        }
    }
}

/// What HTTP/2 adds.
#[derive(Debug, Default)]
pub(crate) struct Http2Stats {
    /// Connections of clients that spoke it.
    pub(crate) connections: AtomicU64,
    /// Requests that came by it.
    pub(crate) requests: AtomicU64,
    /// Streams that clients reset.
    pub(crate) resets_received: AtomicU64,
    /// Streams of clients that the gate reset.
    pub(crate) resets_sent: AtomicU64,
}

impl ThreadStats {
    pub(crate) fn new() -> Self {
        Self {
            classes: [const { AtomicU64::new(0) }; 6],
            reasons: [const { AtomicU64::new(0) }; REASONS],
            durations: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            duration_micros: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            backend_connections: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            failed_sign_ins: AtomicU64::new(0),
            active: AtomicI64::new(0),
            tunnels: AtomicI64::new(0),
            http2: Http2Stats::default(),
            websockets: WebSocketStats::new(),
            client_handshakes: Handshakes::new(),
            backend_handshakes: Handshakes::new(),
        }
    }

    pub(crate) fn reason(&self, reason: Reason) {
        if let Some(counter) = self.reasons.get(reason.index()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        if let Some(counter) = self.websockets.faults.get(fault.index()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn closing(&self, closing: &Closing) {
        if let Some(counter) = self.websockets.closings.get(closing.end.index()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn exchange(&self, status: u16, duration: Duration) {
        if let Some(counter) = self.classes.get(usize::from(status / 100)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(counter) = self.durations.get(place) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.duration_micros.fetch_add(micros, Ordering::Relaxed);
    }
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
    pub(crate) accepted: u64,
    pub(crate) backend_connections: u64,
    pub(crate) retries: u64,
    pub(crate) failed_sign_ins: u64,
    pub(crate) active: i64,
    pub(crate) tunnels: i64,
    /// Connections, requests, resets received and sent.
    pub(crate) http2: [u64; 4],
    pub(crate) websockets: u64,
    pub(crate) faults: Vec<(Fault, u64)>,
    pub(crate) closings: Vec<(End, u64)>,
    pub(crate) client_handshakes: HandshakeTotals,
    pub(crate) backend_handshakes: HandshakeTotals,
}

impl Totals {
    pub(crate) fn of(threads: &[std::sync::Arc<ThreadStats>]) -> Self {
        let sum = |pick: &dyn Fn(&ThreadStats) -> &AtomicU64| {
            threads
                .iter()
                .map(|thread| pick(thread).load(Ordering::Relaxed))
                .sum::<u64>()
        };
        let gauge = |pick: &dyn Fn(&ThreadStats) -> &AtomicI64| {
            threads
                .iter()
                .map(|thread| pick(thread).load(Ordering::Relaxed))
                .sum::<i64>()
        };
        let column = |pick: &dyn Fn(&ThreadStats) -> &[AtomicU64], place: usize| {
            threads
                .iter()
                .filter_map(|thread| pick(thread).get(place))
                .map(|counter| counter.load(Ordering::Relaxed))
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
            accepted: sum(&|thread| &thread.accepted),
            backend_connections: sum(&|thread| &thread.backend_connections),
            retries: sum(&|thread| &thread.retries),
            failed_sign_ins: sum(&|thread| &thread.failed_sign_ins),
            active: gauge(&|thread| &thread.active),
            tunnels: gauge(&|thread| &thread.tunnels),
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
