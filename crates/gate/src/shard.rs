//! What the connections of one thread share: the driver, the snapshot, the pool of backend
//! connections, the counters. Nothing of it is seen by another thread but the counters.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use munjigi_foundation::clock::Clock;
use rustc_hash::FxHashMap;

use crate::access_log::LogHandle;
use crate::compress::Running;
use crate::driver::Core;
use crate::driver::tcp::TcpStream;
use crate::files;
use crate::hold::Hold;
use crate::http2;
use crate::live::Live;
use crate::rate::network_of;
use crate::reason::Reason;
use crate::refusals::{Refusal, Refusals};
use crate::settings::{ListenerSettings, Protocol};
use crate::shield;
use crate::snapshot::Snapshot;
use crate::stats::ThreadStats;
use crate::trace::Tracer;
use crate::ws::doctor::Doctor;

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Another process serves the listeners now: what is open goes on, and ends when it can.
    pub(crate) leaving: AtomicBool,
    pub(crate) draining: AtomicBool,
    pub(crate) hold: Hold,
    pub(crate) tracer: Option<Tracer>,
    pub(crate) log: LogHandle,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) doctor: Doctor,
    /// What was refused lately.
    pub(crate) refusals: Refusals,
    pub(crate) threads: Vec<Arc<ThreadStats>>,
    /// Responses that are being compressed.
    pub(crate) compressions: Arc<Running>,
    /// Who is banned, and who may be soon.
    pub(crate) shield: Arc<shield::State>,
    /// Threads for files; started by the first route that needs them.
    pub(crate) files: OnceLock<files::pool::Pool>,
}

impl Shared {
    /// For so many threads.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        (tracer, log): (Option<Tracer>, LogHandle),
        clock: Clock,
        threads: usize,
    ) -> Self {
        let now = Instant::now();
        Self {
            snapshot: Arc::new(ArcSwap::new(snapshot)),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            hold: Hold::default(),
            tracer,
            log,
            clock,
            started: now,
            doctor: Doctor::new(now),
            refusals: Refusals::new(threads),
            threads: (0..threads).map(|_| Arc::new(ThreadStats::new())).collect(),
            compressions: Arc::default(),
            shield: Arc::default(),
            files: OnceLock::new(),
        }
    }

    /// The threads for files.
    pub(crate) fn files(&self, snapshot: &Snapshot) -> &files::pool::Pool {
        self.files.get_or_init(|| {
            let limits = &snapshot.settings.limits;
            files::pool::Pool::start(limits.file_threads, limits.file_queue)
        })
    }
}

/// A listener as the threads see it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_max: AtomicUsize,
    pub(crate) protocols: Protocols,
    /// Connections of one address; 0 for no limit.
    per_address: AtomicUsize,
    addresses: Addresses,
    /// It takes datagrams.
    pub(crate) datagrams: bool,
    /// Accepts no more.
    pub(crate) closed: AtomicBool,
}

/// What a listener speaks; a reload may change it.
#[derive(Debug)]
pub(crate) struct Protocols {
    http1: AtomicBool,
    http2: AtomicBool,
}

impl Protocols {
    pub(crate) fn new(protocols: &[Protocol]) -> Self {
        let this = Self {
            http1: AtomicBool::new(false),
            http2: AtomicBool::new(false),
        };
        this.set(protocols);
        this
    }

    pub(crate) fn set(&self, protocols: &[Protocol]) {
        let has = |wanted| protocols.contains(&wanted);
        self.http1.store(has(Protocol::Http1), Ordering::Relaxed);
        self.http2.store(has(Protocol::Http2), Ordering::Relaxed);
    }

    pub(crate) fn http1(&self) -> bool {
        self.http1.load(Ordering::Relaxed)
    }

    pub(crate) fn http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }
}

impl Listener {
    pub(crate) fn new(settings: &ListenerSettings, address: std::net::SocketAddr) -> Self {
        Self {
            name: settings.name.clone(),
            address,
            connections: AtomicUsize::new(0),
            connections_max: AtomicUsize::new(settings.connections_max),
            protocols: Protocols::new(&settings.protocols),
            per_address: AtomicUsize::new(settings.connections_per_address.unwrap_or(0)),
            addresses: Addresses::default(),
            datagrams: settings.is_udp(),
            closed: AtomicBool::new(false),
        }
    }

    /// Takes over what a reload changes of a listener that stays.
    pub(crate) fn apply(&self, settings: &ListenerSettings) {
        self.connections_max
            .store(settings.connections_max, Ordering::Relaxed);
        self.protocols.set(&settings.protocols);
        let per_address = settings.connections_per_address.unwrap_or(0);
        self.per_address.store(per_address, Ordering::Relaxed);
    }
}

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct Seat {
    listener: Arc<Listener>,
    /// Where it counts, too.
    address: Option<IpAddr>,
}

impl Seat {
    /// A seat on `listener`, unless all are taken, or all that one address may have. A trusted
    /// peer speaks for many clients: only the first limit holds for it, and for the client that it
    /// names [`Seat::count_for`] does.
    ///
    /// # Errors
    /// Which limit it was.
    pub(crate) fn take(
        listener: &Arc<Listener>,
        peer: IpAddr,
        snapshot: &Snapshot,
    ) -> Result<Self, Reason> {
        let taken = listener.connections.fetch_add(1, Ordering::Relaxed);
        let mut seat = Self {
            listener: Arc::clone(listener),
            address: None,
        };
        if taken >= listener.connections_max.load(Ordering::Relaxed) {
            return Err(Reason::TooManyConnections);
        }
        seat.count_for(peer, snapshot)?;
        Ok(seat)
    }

    /// Counts the connection for the address of its client: the peer, or whom a trusted one names in a PROXY header.
    ///
    /// # Errors
    /// When that address has as many as it may.
    pub(crate) fn count_for(&mut self, client: IpAddr, snapshot: &Snapshot) -> Result<(), Reason> {
        let most = self.listener.per_address.load(Ordering::Relaxed);
        if most == 0 || self.address.is_some() || snapshot.trusts(client.to_canonical()) {
            return Ok(());
        }
        let address = network_of(client);
        if !self.listener.addresses.enter(address, most) {
            return Err(Reason::TooManyFromAddress);
        }
        self.address = Some(address);
        Ok(())
    }

    pub(crate) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.listener.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            self.listener.addresses.leave(address);
        }
    }
}

/// Connections by address, of IPv6 by /64: as many entries as there are connections at most.
#[derive(Debug, Default)]
struct Addresses([Mutex<HashMap<IpAddr, usize>>; 16]);

impl Addresses {
    fn part(&self, address: IpAddr) -> Option<MutexGuard<'_, HashMap<IpAddr, usize>>> {
        let sum = match address {
            IpAddr::V4(ip) => ip
                .octets()
                .iter()
                .fold(0, |sum: u8, b| sum.wrapping_add(*b)),
            IpAddr::V6(ip) => ip
                .octets()
                .iter()
                .fold(0, |sum: u8, b| sum.wrapping_add(*b)),
        };
        let part = self.0.get(usize::from(sum) % self.0.len())?;
        Some(part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts one more, unless there are `most`.
    fn enter(&self, address: IpAddr, most: usize) -> bool {
        let Some(mut part) = self.part(address) else {
            return true;
        };
        let count = part.entry(address).or_default();
        let free = *count < most;
        *count += usize::from(free);
        free
    }

    fn leave(&self, address: IpAddr) {
        if let Some(mut part) = self.part(address)
            && let Some(count) = part.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                part.remove(&address);
            }
        }
    }
}

/// One thread.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) core: Rc<Core>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
    pub(crate) stats: Arc<ThreadStats>,
    pub(crate) pool: Pool,
    /// Connections of HTTP/2 to backends.
    pub(crate) http2: http2::backend::Pool,
    pub(crate) live: Rc<Live>,
    snapshot: RefCell<arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    date: RefCell<(i64, String)>,
    date_checked: Cell<Option<Instant>>,
}

impl Shard {
    pub(crate) fn new(
        core: &Rc<Core>,
        shared: &Arc<Shared>,
        index: usize,
        stats: &Arc<ThreadStats>,
    ) -> Rc<Self> {
        Rc::new(Self {
            core: Rc::clone(core),
            shared: Arc::clone(shared),
            index,
            stats: Arc::clone(stats),
            pool: Pool::default(),
            http2: http2::backend::Pool::default(),
            live: Rc::default(),
            snapshot: RefCell::new(arc_swap::Cache::new(Arc::clone(&shared.snapshot))),
            date: RefCell::default(),
            date_checked: Cell::new(None),
        })
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshot.borrow_mut().load())
    }

    /// Counts a connection of `client` that ends for `reason` before it asked for anything.
    pub(crate) fn turn_away(&self, listener: &str, client: IpAddr, reason: Reason) {
        self.stats.reason(reason);
        if reason.group().is_some() {
            let now = self.shared.clock.now();
            let refusal = Refusal::of_connection(now, listener, client, reason);
            self.shared.refusals.note(self.index, reason, refusal);
        }
    }

    /// Everything ends now: what is idle at once, requests with their answer, tunnels with a close frame.
    pub(crate) fn draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// An answer is the last one of its connection: the gate drains, or another process has taken its place.
    pub(crate) fn leaving(&self) -> bool {
        self.draining() || self.shared.leaving.load(Ordering::Relaxed)
    }

    /// The `Date` of responses, made anew each second.
    pub(crate) fn with_date<T>(&self, act: impl FnOnce(&[u8]) -> T) -> T {
        let now = self.core.now();
        let stale = self
            .date_checked
            .get()
            .is_none_or(|at| now.saturating_duration_since(at) > Duration::from_millis(100));
        if stale {
            self.date_checked.set(Some(now));
            let time = self.shared.clock.now();
            let second = time.millis().div_euclid(1_000);
            let mut date = self.date.borrow_mut();
            if date.0 != second || date.1.is_empty() {
                *date = (second, time.http_date());
            }
        }
        act(self.date.borrow().1.as_bytes())
    }
}

/// Idle connections to backends, the one used last first.
#[derive(Debug, Default)]
pub(crate) struct Pool(RefCell<FxHashMap<Kind, Vec<(TcpStream, Instant)>>>);

/// A backend, and the way it was reached ([`TcpStream::way`]): TLS and plain never mix.
type Kind = (u64, u64);

impl Pool {
    /// A connection to backend `id`, reached by `way`, that was idle for at most `age`.
    pub(crate) fn take(&self, id: u64, way: u64, age: Duration) -> Option<TcpStream> {
        let mut pools = self.0.borrow_mut();
        let list = pools.get_mut(&(id, way))?;
        while let Some((stream, since)) = list.pop() {
            let now = stream.core().now();
            if stream.is_spoilt() {
                continue;
            }
            if now.saturating_duration_since(since) <= age {
                return Some(stream);
            }
            // All below were idle for longer; they stay for requests that may take them.
            list.push((stream, since));
            return None;
        }
        None
    }

    pub(crate) fn give(&self, id: u64, stream: TcpStream, most: usize) {
        if stream.owes() {
            return;
        }
        // A read that happened to fill its buffer leaves readiness behind: look once.
        if stream.is_spoilt() && !stream.has_nothing_to_read() {
            return;
        }
        stream.park();
        let mut pools = self.0.borrow_mut();
        let list = pools.entry((id, stream.way())).or_default();
        if list.len() < most {
            let now = stream.core().now();
            list.push((stream, now));
        }
    }

    /// Drops what was idle for longer than `age` or was closed by its backend.
    pub(crate) fn sweep(&self, age: Duration, now: Instant) {
        let mut pools = self.0.borrow_mut();
        for list in pools.values_mut() {
            list.retain(|(stream, since)| {
                !stream.is_spoilt() && now.saturating_duration_since(*since) <= age
            });
        }
        pools.retain(|_, list| !list.is_empty());
    }

    pub(crate) fn clear(&self) {
        let pools = std::mem::take(&mut *self.0.borrow_mut());
        drop(pools);
    }
}
