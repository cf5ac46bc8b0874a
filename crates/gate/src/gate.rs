//! Starting, reloading and ending the gate.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use munjigi_foundation::clock::Clock;

use crate::access_log::{self, LogWriter};
use crate::admin::{self, AdminFace};
use crate::backends::Discovery;
use crate::connection;
use crate::discovery::Followers;
use crate::driver::Driver;
use crate::driver::tcp::TcpListener;
use crate::driver::timer::Timer;
use crate::health::keeper::{self, Keeping};
use crate::health::uptime::Uptimes;
use crate::settings::{GateSettings, ListenerSettings};
use crate::shard::{Listener, Protocols, Shard, Shared};
use crate::snapshot::Snapshot;
use crate::stats::ThreadStats;
use crate::sticky;

/// Orders that may wait for one thread.
const ORDERS_MAX: usize = 256;
/// How often idle connections to backends are looked through.
const SWEEP: Duration = Duration::from_millis(500);

/// What the binary hands in.
#[derive(Debug, Clone, Default)]
pub struct Wiring {
    /// The registry: in this process, or over HTTP.
    pub discovery: Option<Arc<dyn Discovery>>,
    /// Addresses that may never become backends, beside the gate's own admin address.
    pub own_addresses: Vec<SocketAddr>,
    /// Where the time of day comes from.
    pub clock: Clock,
}

/// Why the gate can't start or reload.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened on.
    #[error("listener `{name}` can't listen on {address}: {source}")]
    Listen {
        /// The listener's name.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The access log can't be opened.
    #[error("the access log can't be opened: {0}")]
    AccessLog(io::Error),
    /// A thread can't be started.
    #[error("a thread can't be started: {0}")]
    Thread(io::Error),
    /// The admin face can't be opened.
    #[error("the admin face can't listen on {place}: {source}")]
    Admin {
        /// Socket or address.
        place: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The gate has ended.
    #[error("the gate has ended")]
    Ended,
}

/// What a thread is told.
enum Order {
    Listen(std::net::TcpListener, Arc<Listener>),
    /// Look at what changed: a listener was closed, or a drain began.
    Look,
    Stop,
}

/// The way to one thread.
#[derive(Debug)]
struct Remote {
    orders: SyncSender<Order>,
    /// Wakes the task that takes orders.
    waker: Arc<Mutex<Option<Waker>>>,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Listen(..) => "Listen",
            Self::Look => "Look",
            Self::Stop => "Stop",
        })
    }
}

impl Remote {
    fn send(&self, order: Order) -> Result<(), StartError> {
        self.orders.send(order).map_err(|_| StartError::Ended)?;
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = &*waker {
            waker.wake_by_ref();
        }
        Ok(())
    }
}

/// A running gate. Dropping it ends its threads at once; [`Gate::drain`] ends it kindly.
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
    remotes: Vec<Remote>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listeners: Arc<Mutex<HashMap<String, Arc<Listener>>>>,
    /// Closed by a reload, with connections that go on.
    retired: Mutex<Vec<Arc<Listener>>>,
    followers: Followers,
    admin: AdminFace,
    own: Vec<SocketAddr>,
    log: Mutex<Option<LogWriter>>,
}

impl Gate {
    /// Starts the gate: it serves when this returns. Must be called on a Tokio runtime, which
    /// does the control work.
    ///
    /// # Errors
    /// When an address, a file or a thread can't be had; nothing is left running then.
    pub async fn start(settings: GateSettings, wiring: Wiring) -> Result<Self, StartError> {
        let sockets = bind_all(&settings.listeners, settings.threads)?;
        let (log, writer) =
            access_log::open(&settings.access_log, settings.limits.access_log_lines)
                .map_err(StartError::AccessLog)?;
        let mut own = wiring.own_addresses;
        own.extend(settings.admin.address);
        let threads = settings.threads.max(1);
        let admin_settings = settings.admin.clone();
        let keeping = Keeping {
            uptimes: Arc::new(Uptimes::open(&settings.data)),
            clock: wiring.clock.clone(),
            probes: Arc::new(tokio::sync::Semaphore::new(keeper::PROBES_MAX)),
        };
        let uptimes = Arc::clone(&keeping.uptimes);
        let mut settings = settings;
        sticky::fill_secrets(&mut settings);
        let snapshot = Arc::new(Snapshot::new(settings, own.clone(), None));
        let followers = Followers::new(wiring.discovery, keeping);
        followers.follow(&snapshot);
        followers.keep_uptimes();
        let shared = Arc::new(Shared {
            snapshot: Arc::new(ArcSwap::new(snapshot)),
            draining: AtomicBool::new(false),
            log,
            clock: wiring.clock,
            started: Instant::now(),
            threads: (0..threads).map(|_| Arc::new(ThreadStats::new())).collect(),
        });
        let listeners = Arc::new(Mutex::new(HashMap::new()));
        let view = admin::View {
            shared: Arc::clone(&shared),
            listeners: Arc::clone(&listeners),
            uptimes,
        };
        let admin = AdminFace::start(&admin_settings, view).await?;
        let mut gate = Self {
            remotes: Vec::new(),
            threads: Mutex::default(),
            listeners,
            retired: Mutex::default(),
            followers,
            admin,
            own,
            log: Mutex::new(Some(writer)),
            shared,
        };
        for index in 0..threads {
            gate.start_thread(index)?;
        }
        gate.listen(sockets)?;
        Ok(gate)
    }

    fn start_thread(&mut self, index: usize) -> Result<(), StartError> {
        let (orders, inbox) = sync_channel(ORDERS_MAX);
        let waker = Arc::new(Mutex::new(None));
        let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&waker));
        let (started, outcome) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("gate-{index}"))
            .spawn(move || run_thread(&shared, index, inbox, slot, &started))
            .map_err(StartError::Thread)?;
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        // A thread that does not run must not get sockets: connections to it would hang.
        outcome
            .recv()
            .map_err(|_| StartError::Ended)?
            .map_err(StartError::Thread)?;
        self.remotes.push(Remote { orders, waker });
        Ok(())
    }

    fn listen(&self, sockets: Vec<Bound>) -> Result<(), StartError> {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for bound in sockets {
            let listener = Arc::new(Listener {
                name: bound.settings.name.clone(),
                address: bound.address,
                connections: AtomicUsize::new(0),
                connections_max: AtomicUsize::new(bound.settings.connections_max),
                protocols: Protocols::new(&bound.settings.protocols),
                closed: AtomicBool::new(false),
            });
            for (remote, socket) in self.remotes.iter().zip(bound.sockets) {
                remote.send(Order::Listen(socket, Arc::clone(&listener)))?;
            }
            listeners.insert(bound.settings.name, listener);
        }
        Ok(())
    }

    /// Where a listener listens, with the port that it got.
    #[must_use]
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(listener)
            .map(|listener| listener.address)
    }

    /// Where the admin face listens on TCP, with the port that it got.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    /// What requests are served by now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Serves by `settings` from the next request on. Listeners and services that stay are kept
    /// with their connections; no client is cut. The number of threads, the access log and the
    /// admin face stay as they were started.
    ///
    /// # Errors
    /// When a new address can't be listened on; then nothing changes.
    pub fn reload(&self, settings: GateSettings) -> Result<(), StartError> {
        let before = self.snapshot();
        let mut settings = settings;
        settings.threads = before.settings().threads;
        sticky::fill_secrets(&mut settings);
        let (stay, new): (Vec<_>, Vec<_>) =
            settings.listeners.iter().cloned().partition(|wanted| {
                let old = before.settings().listeners.iter();
                old.clone()
                    .any(|old| old.name == wanted.name && old.address == wanted.address)
            });
        let sockets = bind_all(&new, settings.threads)?;
        let next = Arc::new(Snapshot::new(settings, self.own.clone(), Some(&before)));
        self.followers.follow(&next);
        self.shared.snapshot.store(next);
        {
            let mut listeners = self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            listeners.retain(|name, listener| {
                let wanted = stay.iter().find(|wanted| wanted.name == *name);
                match wanted {
                    Some(wanted) => {
                        let limit = &listener.connections_max;
                        limit.store(wanted.connections_max, Ordering::Relaxed);
                        listener.protocols.set(&wanted.protocols);
                    }
                    None => {
                        listener.closed.store(true, Ordering::Relaxed);
                        self.retire(listener);
                    }
                }
                wanted.is_some()
            });
        }
        self.listen(sockets)?;
        self.tell_all();
        Ok(())
    }

    fn retire(&self, listener: &Arc<Listener>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|old| old.connections.load(Ordering::Relaxed) > 0);
        retired.push(Arc::clone(listener));
    }

    fn tell_all(&self) {
        for remote in &self.remotes {
            // A thread that has ended has nothing to look at.
            drop(remote.send(Order::Look));
        }
    }

    /// Ends the gate kindly: no new connections, requests in flight end, WebSockets get a close
    /// frame (1001) on both sides. What is left after `deadline` is cut.
    pub async fn drain(self, deadline: Duration) {
        self.shared.draining.store(true, Ordering::Relaxed);
        {
            let listeners = self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for listener in listeners.values() {
                listener.closed.store(true, Ordering::Relaxed);
            }
        }
        self.tell_all();
        let end = tokio::time::Instant::now() + deadline;
        while self.open_connections() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let left = self.open_connections();
        if left > 0 {
            tracing::warn!(left, "connections were cut after the drain time");
        }
        self.followers.stop().await;
        self.admin.stop().await;
    }

    fn open_connections(&self) -> usize {
        let listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        listeners
            .values()
            .chain(&*retired)
            .map(|listener| listener.connections.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        for remote in &self.remotes {
            drop(remote.send(Order::Stop));
        }
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the gate failed");
            }
        }
        let writer = self
            .log
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.shared.log.close();
        if let Some(writer) = writer {
            writer.join();
        }
    }
}

struct Bound {
    settings: ListenerSettings,
    address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
}

/// Binds every listener once for each thread; all or nothing.
fn bind_all(listeners: &[ListenerSettings], threads: usize) -> Result<Vec<Bound>, StartError> {
    listeners
        .iter()
        .map(|settings| {
            bind(settings, threads.max(1)).map_err(|source| StartError::Listen {
                name: settings.name.clone(),
                address: settings.address,
                source,
            })
        })
        .collect()
}

fn bind(settings: &ListenerSettings, threads: usize) -> io::Result<Bound> {
    // The first one decides on the port; a port that another program shares with us by
    // SO_REUSEPORT would take our connections, so it must be free at first.
    if settings.address.port() != 0 {
        drop(munjigi_foundation::listen::bind(settings.address, false)?);
    }
    let first = munjigi_foundation::listen::bind(settings.address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    while sockets.len() < threads {
        sockets.push(munjigi_foundation::listen::bind(address, true)?);
    }
    for socket in &sockets {
        // Inherited by what it accepts: saves a system call for each connection.
        socket2::SockRef::from(socket).set_tcp_nodelay(true)?;
    }
    Ok(Bound {
        settings: settings.clone(),
        address,
        sockets,
    })
}

fn run_thread(
    shared: &Arc<Shared>,
    index: usize,
    inbox: Receiver<Order>,
    waker: Arc<Mutex<Option<Waker>>>,
    started: &SyncSender<io::Result<()>>,
) {
    let Some(stats) = shared.threads.get(index) else {
        return;
    };
    let (driver, outcome) = match Driver::new() {
        Ok(driver) => (Some(driver), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let told = started.send(outcome);
    let (Some(mut driver), Ok(())) = (driver, told) else {
        return;
    };
    let shard = Shard::new(driver.core(), shared, index, stats);
    driver
        .core()
        .spawn(take_orders(Rc::clone(&shard), inbox, waker));
    driver.core().spawn(sweep(Rc::clone(&shard)));
    if let Err(error) = driver.run() {
        tracing::error!(%error, index, "the event loop of a thread failed");
    }
    shard.pool.clear();
}

async fn take_orders(shard: Rc<Shard>, inbox: Receiver<Order>, waker: Arc<Mutex<Option<Waker>>>) {
    std::future::poll_fn(|context| {
        *waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        while let Ok(order) = inbox.try_recv() {
            match order {
                Order::Listen(socket, listener) => match TcpListener::new(&shard.core, socket) {
                    Ok(socket) => {
                        let accept = connection::accept(Rc::clone(&shard), socket, listener);
                        shard.core.spawn(accept);
                    }
                    Err(error) => {
                        tracing::error!(%error, listener = listener.name, "can't listen");
                    }
                },
                Order::Look => shard.core.wake_all(),
                Order::Stop => {
                    shard.core.stop();
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    })
    .await;
}

async fn sweep(shard: Rc<Shard>) {
    let timer = Timer::new(&shard.core);
    loop {
        timer.set(SWEEP);
        std::future::poll_fn(|context| timer.poll_expired(context)).await;
        let age = shard.snapshot().settings.limits.backend_idle;
        shard.pool.sweep(age, shard.core.now());
    }
}
