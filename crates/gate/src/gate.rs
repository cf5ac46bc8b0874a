//! Starting, reloading and ending the gate.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use munjigi_foundation::clock::Clock;
use munjigi_foundation::listen::Sockets;
use munjigi_foundation::settings::Secret;
use tokio::sync::oneshot;

use crate::access_log::{self, LogWriter};
use crate::admin::{self, AdminFace};
use crate::backends::Discovery;
use crate::binding::{Bound, bind_all, socket_label};
use crate::connection;
use crate::discovery::Followers;
use crate::driver::Driver;
use crate::driver::listener::TcpListener;
use crate::driver::timer::Timer;
use crate::driver::udp::UdpSocket;
use crate::health::keeper::{self, Keeping};
use crate::health::uptime::Uptimes;
use crate::hold::is_same;
use crate::layer4;
use crate::live;
use crate::reload::{Changes, ReloadError, stays};
use crate::settings::{GateSettings, ListenerSettings};
use crate::shard::{Listener, Shard, Shared};
use crate::shield::{self, BanStore};
use crate::snapshot::Snapshot;
use crate::sticky;
use crate::tls::Credentials;
use crate::trace::{Exporter, Tracer};

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
    /// Sockets that the process before left us, and that the one after gets.
    pub sockets: Sockets,
    /// Keeps bans over a restart; nothing does when absent.
    pub bans: Option<Arc<dyn BanStore>>,
    /// Listens, and serves nobody before [`Gate::open`].
    pub closed: bool,
    /// The key of sticky cookies of the process before ([`Gate::sticky_key`]).
    pub sticky_key: Option<Secret>,
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
    /// A certificate can't be used.
    #[error("{place}: {source}")]
    Tls {
        /// The listener or service.
        place: String,
        /// What is wrong with which file.
        source: munjigi_foundation::tls::TlsError,
    },
    /// Traces can't be sent.
    #[error("no HTTP client for traces: {0}")]
    Trace(#[from] reqwest::Error),
    /// The gate has ended.
    #[error("the gate has ended")]
    Ended,
}

impl From<crate::tls::Refused> for StartError {
    fn from(refused: crate::tls::Refused) -> Self {
        Self::Tls {
            place: refused.place,
            source: refused.error,
        }
    }
}

/// What a thread is told.
enum Order {
    Listen(OwnedFd, Arc<Listener>),
    /// List the open connections.
    List(live::Wanted, oneshot::Sender<(Vec<live::Row>, usize)>),
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
            Self::List(..) => "List",
            Self::Look => "Look",
            Self::Stop => "Stop",
        })
    }
}

/// The way to all threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remotes(Arc<Mutex<Vec<Remote>>>);

impl Remotes {
    /// The open connections of all threads, the oldest first, and how many there are.
    pub(crate) async fn list(&self, wanted: live::Wanted) -> (Vec<live::Row>, usize) {
        let mut answers = Vec::new();
        for remote in &*lock(&self.0) {
            let (sender, answer) = oneshot::channel();
            if remote.send(Order::List(wanted, sender)).is_ok() {
                answers.push(answer);
            }
        }
        let (mut all, mut total) = (Vec::new(), 0);
        for answer in answers {
            // A thread that ended meanwhile has no connections.
            if let Ok((rows, count)) = answer.await {
                all.extend(rows);
                total += count;
            }
        }
        all.sort_by(|left, right| right.age.total_cmp(&left.age));
        all.truncate(wanted.limit);
        (all, total)
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
    remotes: Remotes,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listeners: Arc<Mutex<HashMap<String, Arc<Listener>>>>,
    /// Closed by a reload, with connections that go on.
    retired: Mutex<Vec<Arc<Listener>>>,
    followers: Followers,
    admin: AdminFace,
    own: Vec<SocketAddr>,
    log: Mutex<Option<LogWriter>>,
    exporter: Option<Exporter>,
    keeper: shield::Keeper,
    sticky: sticky::OwnKey,
    sockets: Sockets,
    /// What listens and is not served yet.
    waiting: Mutex<Vec<Bound>>,
}

impl Gate {
    /// Starts the gate: it serves when this returns. Must be called on a Tokio runtime, which
    /// does the control work.
    ///
    /// # Errors
    /// When an address, a file or a thread can't be had; nothing is left running then.
    pub async fn start(mut settings: GateSettings, wiring: Wiring) -> Result<Self, StartError> {
        let credentials = Arc::new(Credentials::load(&settings, None)?);
        let sockets = wiring.sockets;
        let bound = bind_all(&settings.listeners, settings.threads, &sockets)
            .map_err(|mut reasons| reasons.swap_remove(0))?;
        let (log, writer) = access_log::open(&settings.access_log)
            .and_then(|opened| access_log::start(opened, settings.limits.access_log_lines))
            .map_err(StartError::AccessLog)?;
        let mut own = wiring.own_addresses;
        own.extend(settings.admin.address);
        let threads = settings.threads.max(1);
        let admin_settings = settings.admin.clone();
        let (tracer, exporter) = start_tracer(&settings)?;
        let keeping = Keeping {
            uptimes: Arc::new(Uptimes::open(&settings.data)),
            clock: wiring.clock.clone(),
            probes: Arc::new(tokio::sync::Semaphore::new(keeper::PROBES_MAX)),
        };
        let uptimes = Arc::clone(&keeping.uptimes);
        let sticky = sticky::OwnKey::new(wiring.sticky_key);
        sticky::fill_secrets(&mut settings, &sticky);
        let snapshot = Snapshot::new(settings, own.clone(), None).with(credentials);
        let snapshot = Arc::new(snapshot);
        let followers = Followers::new(wiring.discovery, keeping);
        followers.follow(&snapshot);
        followers.keep_uptimes();
        let shared = Arc::new(Shared::new(snapshot, (tracer, log), wiring.clock, threads));
        let keeper = shield::Keeper::start(
            Arc::clone(&shared.shield),
            Arc::clone(&shared.snapshot),
            wiring.bans,
            shared.clock.clone(),
        );
        followers.watch_files(&shared.snapshot);
        let listeners = Arc::new(Mutex::new(HashMap::new()));
        let remotes = Remotes::default();
        let view = admin::View {
            shared: Arc::clone(&shared),
            listeners: Arc::clone(&listeners),
            remotes: remotes.clone(),
            uptimes,
        };
        let admin = AdminFace::start(&admin_settings, view, &sockets).await?;
        let gate = Self {
            remotes,
            threads: Mutex::default(),
            listeners,
            retired: Mutex::default(),
            followers,
            admin,
            own,
            log: Mutex::new(Some(writer)),
            exporter,
            keeper,
            sticky,
            sockets,
            waiting: Mutex::new(bound),
            shared,
        };
        (0..threads).try_for_each(|index| gate.start_thread(index))?;
        if !wiring.closed {
            gate.serve()?;
        }
        Ok(gate)
    }

    /// Serves who connects, if that was not begun at the start.
    ///
    /// # Errors
    /// When a thread of the gate has ended.
    pub fn open(&self) -> Result<(), StartError> {
        // The process before this one may have banned somebody meanwhile.
        self.keeper.load();
        self.serve()
    }

    fn serve(&self) -> Result<(), StartError> {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        self.listen(waiting)
    }

    fn start_thread(&self, index: usize) -> Result<(), StartError> {
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
        lock(&self.remotes.0).push(Remote { orders, waker });
        Ok(())
    }

    fn listen(&self, bound: Vec<Bound>) -> Result<(), StartError> {
        for bound in bound {
            let listener = Arc::new(Listener::new(&bound.settings, bound.address));
            // There may be more sockets than threads: another process may have had more of them.
            let remotes = lock(&self.remotes.0);
            let threads = remotes.iter().cycle();
            for (socket, remote) in bound.sockets.into_iter().zip(threads) {
                remote.send(Order::Listen(socket, Arc::clone(&listener)))?;
            }
            lock(&self.listeners).insert(bound.settings.name, listener);
        }
        Ok(())
    }

    /// Where a listener listens, with the port that it got.
    #[must_use]
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        let listening = lock(&self.listeners)
            .get(listener)
            .map(|listener| listener.address);
        listening.or_else(|| {
            lock(&self.waiting)
                .iter()
                .find(|bound| bound.settings.name == listener)
                .map(|bound| bound.address)
        })
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

    /// Serves by `settings` from the next request on, and says what that changed. Listeners that stay keep their
    /// connections, services their backends with pools and figures; no client is cut, idle ones included. The access
    /// log is opened anew, so that a file that was moved away is let go.
    ///
    /// # Errors
    /// All that can't be had, such as an address that another program listens on; then nothing changes.
    pub fn reload(&self, settings: GateSettings) -> Result<Changes, ReloadError> {
        let before = self.snapshot();
        let mut settings = settings;
        let mut changes = Changes::between(before.settings(), &settings);
        settings.threads = before.settings().threads;
        sticky::fill_secrets(&mut settings, &self.sticky);
        let old = &before.settings().listeners;
        let (stay, new): (Vec<_>, Vec<_>) = settings
            .listeners
            .iter()
            .cloned()
            .partition(|wanted| old.iter().any(|old| stays(old, wanted)));
        let credentials = Credentials::load(&settings, Some(&before.credentials));
        let credentials = credentials.map_err(|refused| ReloadError {
            reasons: vec![refused.into()],
        })?;
        let (bound, log) = self.acquire(&new, &settings)?;
        self.log_by(&mut changes, log);
        let next = Snapshot::new(settings, self.own.clone(), Some(&before));
        let next = Arc::new(next.with(Arc::new(credentials)));
        self.followers.follow(&next);
        self.shared.snapshot.store(next);
        let retired = self.keep_only(&stay);
        let listening = self.listen(bound);
        if retired {
            self.tell_all();
        }
        self.forget_sockets(old);
        listening.map_err(|error| ReloadError {
            reasons: vec![error],
        })?;
        Ok(changes)
    }

    /// All that may fail, before anything changes.
    fn acquire(
        &self,
        new: &[ListenerSettings],
        settings: &GateSettings,
    ) -> Result<(Vec<Bound>, access_log::Opened), ReloadError> {
        let bound = bind_all(new, settings.threads, &self.sockets);
        let log = access_log::open(&settings.access_log).map_err(StartError::AccessLog);
        match (bound, log) {
            (Ok(bound), Ok(log)) => Ok((bound, log)),
            (bound, log) => {
                for taken in bound.iter().flatten() {
                    let known = self.snapshot();
                    let known = known.settings().listeners.iter();
                    if known.clone().all(|old| socket_label(old) != taken.label()) {
                        self.sockets.forget(&taken.label());
                    }
                }
                let mut reasons = bound.err().unwrap_or_default();
                reasons.extend(log.err());
                Err(ReloadError { reasons })
            }
        }
    }

    fn log_by(&self, changes: &mut Changes, opened: access_log::Opened) {
        if self.shared.log.is_on() && changes.live.iter().all(|line| line != "access_log changed") {
            changes
                .live
                .push("the access log was opened anew".to_owned());
        }
        self.shared.log.switch(opened);
    }

    /// Closes the listeners that are not in `stay`; true when there was one.
    fn keep_only(&self, stay: &[ListenerSettings]) -> bool {
        let mut gone = Vec::new();
        lock(&self.listeners).retain(|name, listener| {
            match stay.iter().find(|wanted| wanted.name == *name) {
                Some(wanted) => listener.apply(wanted),
                None => {
                    listener.closed.store(true, Ordering::Relaxed);
                    gone.push(Arc::clone(listener));
                    return false;
                }
            }
            true
        });
        let mut retired = lock(&self.retired);
        retired.retain(|old| old.connections.load(Ordering::Relaxed) > 0);
        retired.extend(gone.iter().cloned());
        !gone.is_empty()
    }

    /// Sockets that the running settings no longer name are closed once their queue is empty.
    fn forget_sockets(&self, before: &[ListenerSettings]) {
        let now = self.snapshot();
        let wanted: Vec<_> = now.settings().listeners.iter().map(socket_label).collect();
        for old in before.iter().map(socket_label) {
            if !wanted.contains(&old) {
                self.sockets.forget(&old);
            }
        }
    }

    /// From now on requests to `addresses` wait, for 5 s at most, and what is known of backends stays as it is: those
    /// who serve there are about to be ended, and others start in their place.
    pub fn hold(&self, addresses: Vec<SocketAddr>) {
        self.followers.freeze();
        self.shared.hold.begin(addresses, self.shared.started);
    }

    /// Requests in flight at `addresses`.
    #[must_use]
    pub fn in_flight(&self, addresses: &[SocketAddr]) -> u64 {
        let snapshot = self.snapshot();
        let sets = snapshot.services.values().map(|service| service.set.load());
        sets.map(|set| {
            let ours = set
                .up()
                .iter()
                .filter(|backend| addresses.iter().any(|held| is_same(*held, backend.address)));
            ours.map(|backend| u64::from(backend.in_flight.load(Ordering::Relaxed)))
                .sum::<u64>()
        })
        .sum()
    }

    /// The gate's own key of sticky cookies, when some service needed it: for the process that takes the place of this
    /// one.
    #[must_use]
    pub fn sticky_key(&self) -> Option<Secret> {
        self.sticky.known()
    }

    /// Leaves the files of which there can be one writer to the process that takes the place of this one: what is known
    /// is written now, and nothing later.
    pub fn let_go(&self) {
        self.followers.let_go();
    }

    /// Writes them again: no other process took over.
    pub fn keep_again(&self) {
        self.followers.keep_again();
    }

    /// Held requests go on, to the same addresses.
    pub fn release(&self) {
        self.shared.hold.end();
    }

    /// Follows discovery again after [`Gate::hold`].
    pub fn follow_again(&self, discovery: Option<Arc<dyn Discovery>>) {
        self.followers.thaw(discovery, &self.snapshot());
    }

    /// True when each of `addresses` is a backend that may be used.
    #[must_use]
    pub fn knows(&self, addresses: &[SocketAddr]) -> bool {
        let snapshot = self.snapshot();
        let sets: Vec<_> = snapshot
            .services
            .values()
            .map(|service| service.set.load())
            .collect();
        addresses.iter().all(|wanted| {
            let mut backends = sets.iter().flat_map(|set| set.up());
            backends.any(|backend| is_same(*wanted, backend.address))
        })
    }

    /// Another process serves the same sockets now: nothing new is taken, answers close their connection, tunnels go
    /// on. Ends when all have ended, or after `limits.drain_max`; [`Gate::drain`] ends what is left.
    pub async fn leave(&self) {
        self.shared.leaving.store(true, Ordering::Relaxed);
        self.sockets.clear();
        self.close_listeners();
        self.keeper.leave();
        self.admin.leave().await;
        let longest = self.snapshot().settings().limits.drain_max;
        self.wait_until_empty(longest).await;
    }

    fn tell_all(&self) {
        for remote in &*lock(&self.remotes.0) {
            // A thread that has ended has nothing to look at.
            drop(remote.send(Order::Look));
        }
    }

    /// Ends the gate kindly: no new connections, requests in flight end, WebSockets get a close
    /// frame (1001) on both sides. What is left after `deadline` is cut.
    pub async fn drain(self, deadline: Duration) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.sockets.clear();
        self.close_listeners();
        self.wait_until_empty(deadline).await;
        let left = self.open_connections();
        if left > 0 {
            tracing::warn!(left, "connections were cut after the drain time");
        }
        self.followers.stop().await;
        self.keeper.stop().await;
        if let Some(exporter) = &self.exporter {
            exporter.stop().await;
        }
        self.admin.stop().await;
    }

    fn close_listeners(&self) {
        lock(&self.waiting).clear();
        for listener in lock(&self.listeners).values() {
            listener.closed.store(true, Ordering::Relaxed);
        }
        self.tell_all();
    }

    async fn wait_until_empty(&self, longest: Duration) {
        let end = tokio::time::Instant::now() + longest;
        while self.open_connections() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn open_connections(&self) -> usize {
        let listeners = lock(&self.listeners);
        let retired = lock(&self.retired);
        listeners
            .values()
            .chain(&*retired)
            .map(|listener| listener.connections.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        for remote in &*lock(&self.remotes.0) {
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

fn start_tracer(settings: &GateSettings) -> Result<(Option<Tracer>, Option<Exporter>), StartError> {
    let Some(settings) = &settings.trace else {
        return Ok((None, None));
    };
    let (tracer, finished) = Tracer::new(settings);
    let exporter = Exporter::start(settings, finished, Arc::clone(&tracer.counts))?;
    Ok((Some(tracer), Some(exporter)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

fn serve_socket(shard: &Rc<Shard>, socket: OwnedFd, listener: Arc<Listener>) -> io::Result<()> {
    let task = Rc::clone(shard);
    if listener.datagrams {
        let socket = UdpSocket::new(&shard.core, socket.into())?;
        shard.core.spawn(layer4::udp::serve(task, socket, listener));
    } else {
        let socket = TcpListener::new(&shard.core, socket.into())?;
        shard.core.spawn(connection::accept(task, socket, listener));
    }
    Ok(())
}

async fn take_orders(shard: Rc<Shard>, inbox: Receiver<Order>, waker: Arc<Mutex<Option<Waker>>>) {
    std::future::poll_fn(|context| {
        *waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        while let Ok(order) = inbox.try_recv() {
            match order {
                Order::Listen(socket, listener) => {
                    let name = listener.name.clone();
                    if let Err(error) = serve_socket(&shard, socket, listener) {
                        tracing::error!(%error, listener = name, "can't listen");
                    }
                }
                Order::List(wanted, answer) => {
                    // Who asked may have gone meanwhile.
                    drop(answer.send(shard.live.list(wanted, shard.core.now())));
                }
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
