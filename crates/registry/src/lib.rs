//! The registry: who is where. Pure [`leases`], and the Eureka protocol's HTTP face around them.
//!
//! In this version: JSON, one registry alone. XML and replication between peers come later.

mod answers;
mod face;
mod guard;
pub mod leases;
pub mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use munjigi_eureka::Instance;
use munjigi_foundation::clock::{Clock, Timestamp};
use munjigi_foundation::listen::{self, Door};
use munjigi_foundation::settings::Secret;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use answers::Answers;
use leases::Leases;
use settings::RegistrySettings;

/// How often leases are looked through: an ended one is seen out at most this much later.
const EXPIRY: Duration = Duration::from_millis(500);

/// Names that only holders of the cluster's secret may register.
#[derive(Debug, Clone)]
pub struct Kept {
    pub secret: Secret,
    /// Upper case.
    pub services: Vec<String>,
}

/// A registry at work.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// What the HTTP face, the expiry and those who watch share.
#[derive(Debug)]
struct Shared {
    leases: Mutex<Leases>,
    answers: Answers,
    /// The version of what is held, sent after each change.
    version: watch::Sender<u64>,
    ticks: Ticks,
    kept: Option<Kept>,
    settings: RegistrySettings,
}

/// The time of day that leases count by: it never jumps, whatever is done to the machine's clock.
#[derive(Debug)]
struct Ticks {
    start: Timestamp,
    since: Instant,
}

impl Ticks {
    fn from(start: Timestamp) -> Self {
        Self {
            start,
            since: Instant::now(),
        }
    }

    fn now(&self) -> Timestamp {
        self.start.plus(self.since.elapsed())
    }
}

impl Registry {
    /// Binds the registry's address and serves until `shutdown`.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub fn start(
        settings: RegistrySettings,
        kept: Option<Kept>,
        clock: Clock,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> io::Result<Self> {
        let socket = listen::bind(settings.address, false)?;
        Self::start_on(socket, settings, kept, clock, tasks, shutdown)
    }

    /// As [`Registry::start`], on a socket that listens already.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    pub fn start_on(
        socket: std::net::TcpListener,
        settings: RegistrySettings,
        kept: Option<Kept>,
        clock: Clock,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(socket)?;
        let address = listener.local_addr()?;
        let door = Door::open(listener, settings.tls.as_ref()).map_err(io::Error::other)?;
        let limits = listen::Limits {
            connections: settings.connections_max,
            ..listen::Limits::default()
        };
        let leases = Leases::new(settings.limits);
        let shared = Arc::new(Shared {
            version: watch::Sender::new(leases.version()),
            leases: Mutex::new(leases),
            answers: Answers::new(),
            ticks: Ticks::from(clock.now()),
            kept,
            settings,
        });
        let router = face::router(Arc::clone(&shared));
        tasks.spawn(listen::serve(door, router, limits, shutdown.clone()));
        tasks.spawn(expire(Arc::clone(&shared), shutdown.clone()));
        Ok(Self { shared, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of its protocol face.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.shared.settings.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}/eureka", self.address)
    }

    /// The instances of `application`, whatever their status.
    #[must_use]
    pub fn instances(&self, application: &str) -> Vec<Instance> {
        self.shared.leases().instances(application)
    }

    /// All instances, for the registry that takes this one's place.
    #[must_use]
    pub fn everybody(&self) -> Vec<Instance> {
        let all = self.shared.leases().all();
        all.applications
            .into_iter()
            .flat_map(|application| application.instances)
            .collect()
    }

    /// Takes what the registry before held: each lease counts from now on. What does not fit is left out; it registers
    /// at its next renewal.
    pub fn take_over(&self, instances: Vec<Instance>) {
        let now = self.shared.ticks.now();
        self.shared.change(|leases| {
            for instance in instances {
                let (app, id) = (instance.app.clone(), instance.instance_id.clone());
                if let Err(why) = leases.register(instance, now) {
                    tracing::warn!(app, id, %why, "an instance of the registry before is left out");
                }
            }
        });
    }

    /// Changes whenever anything that the registry holds changes: for those in the same process, who learn at once.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }
}

impl Shared {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        // Leases are changed by methods that leave them whole, also when they panic.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the leases, and tells those who watch.
    fn change<T>(&self, act: impl FnOnce(&mut Leases) -> T) -> T {
        let mut leases = self.leases();
        let answer = act(&mut leases);
        // While the lock is held: versions are told in their order.
        let version = leases.version();
        self.version.send_if_modified(|known| {
            let changed = *known != version;
            *known = version;
            changed
        });
        answer
    }
}

async fn expire(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EXPIRY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let now = shared.ticks.now();
        for gone in shared.change(|leases| leases.expire(now)) {
            tracing::warn!(
                app = gone.app,
                id = gone.instance_id,
                "the lease ended without a renewal"
            );
        }
    }
}
