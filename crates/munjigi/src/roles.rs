//! The roles of one process, started in the order in which they need each other, and ended in the other order.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use munjigi_eureka::Instance;
use munjigi_foundation::clock::Clock;
use munjigi_foundation::listen::{Sockets, label};
use munjigi_foundation::settings::Secret;
use munjigi_gate::settings::{GateSettings, RegistrySettings as GateRegistry, RegistrySource};
use munjigi_gate::shield::BanFile;
use munjigi_gate::{Discovery, Gate};
use munjigi_hub::settings::HubSettings;
use munjigi_hub::{GateAdmin, Hub};
use munjigi_registry::{Kept, Registry};
use munjigi_worker::{Worker, WorkerSettings};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::discovery::{Embedded, OverHttp};
use crate::handover::Predecessor;
use crate::listening;
use crate::outcome::Failure;
use crate::settings::{Cluster, Settings};

/// How long the roles may take after the gate's drain to leave everything in order.
const END: Duration = Duration::from_secs(15);

/// How long the registry may take to tell the gate of hub and workers, before it serves without them.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);
/// How long requests to a hub that is about to be replaced may take to end by themselves.
const QUIET_WITHIN: Duration = Duration::from_millis(500);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Running roles.
#[derive(Debug)]
pub(crate) struct Roles {
    pub(crate) registry: Option<Registry>,
    pub(crate) gate: Option<Gate>,
    pub(crate) hub: Option<Hub>,
    /// Where the workers listen.
    workers: Vec<SocketAddr>,
    pub(crate) plan: Plan,
    sockets: Sockets,
    /// Hub and workers.
    inner: Part,
    /// Registry and discovery: the others take themselves out of the registry at their end.
    outer: Part,
}

/// Tasks that end together.
#[derive(Debug, Default)]
struct Part {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Part {
    async fn end(&self, what: &str) {
        self.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(END, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "{what} did not end in time");
        }
    }
}

/// What runs: the roles of `settings`, and a worker for each of `workers` beside the one in `settings`.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) workers: Vec<WorkerSettings>,
}

/// Starts what is planned, in the place of the process before where there is one.
pub(crate) async fn start(plan: Plan, predecessor: Option<&Predecessor>) -> Result<Roles, Failure> {
    let mut roles = Roles {
        registry: None,
        gate: None,
        hub: None,
        workers: Vec::new(),
        plan,
        sockets: predecessor.map_or_else(Sockets::default, |before| before.sockets.clone()),
        inner: Part::default(),
        outer: Part::default(),
    };
    match roles.start(predecessor).await {
        Ok(()) => Ok(roles),
        Err(failure) => {
            // Those that started leave everything in order too.
            roles.end().await;
            Err(failure)
        }
    }
}

impl Roles {
    async fn start(&mut self, predecessor: Option<&Predecessor>) -> Result<(), Failure> {
        let cluster = self.cluster()?;
        let instances = predecessor.map_or_else(Vec::new, |before| before.instances.clone());
        self.start_registry(&cluster, instances)?;
        if let Some(gate) = self.plan.settings.gate.clone() {
            self.start_gate(gate, predecessor).await?;
        }
        self.start_inner(&cluster).await?;
        if let (Some(gate), true) = (&self.gate, predecessor.is_some()) {
            self.until_known(gate).await;
            gate.open().map_err(Failure::could_not)?;
        }
        Ok(())
    }

    fn cluster(&self) -> Result<Cluster, Failure> {
        match &self.plan.settings.cluster {
            Some(cluster) => Ok(cluster.clone()),
            None => Ok(Cluster {
                secret: random_secret()?,
                services: crate::settings::default_services(),
            }),
        }
    }

    fn start_registry(
        &mut self,
        cluster: &Cluster,
        instances: Vec<Instance>,
    ) -> Result<(), Failure> {
        let Some(settings) = self.plan.settings.registry.clone() else {
            return Ok(());
        };
        let kept = Kept {
            secret: cluster.secret.clone(),
            services: cluster.services.clone(),
        };
        let address = settings.address;
        let started = self
            .sockets
            .listen(&label("registry", "", address), address)
            .and_then(|socket| {
                let (tasks, shutdown) = (&self.outer.tasks, &self.outer.shutdown);
                Registry::start_on(
                    socket,
                    settings,
                    Some(kept),
                    Clock::system(),
                    tasks,
                    shutdown,
                )
            })
            .map_err(|error| cannot_listen("registry", address, &error))?;
        started.take_over(instances);
        self.registry = Some(started);
        Ok(())
    }

    /// Hub and workers.
    async fn start_inner(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        let Settings {
            gate, hub, worker, ..
        } = self.plan.settings.clone();
        if let Some(hub) = hub {
            let admin_socket = gate.and_then(|gate| gate.admin.socket);
            self.start_hub(hub, cluster, admin_socket).await?;
        }
        let more = self.plan.workers.clone();
        for worker in worker.into_iter().chain(more) {
            let address = self.start_worker(worker, cluster).await?;
            self.workers.push(address);
        }
        Ok(())
    }

    async fn start_gate(
        &mut self,
        settings: GateSettings,
        predecessor: Option<&Predecessor>,
    ) -> Result<(), Failure> {
        let closed = predecessor.is_some();
        let wiring = munjigi_gate::Wiring {
            discovery: self.discovery(&settings.registry, closed).await?,
            own_addresses: Vec::new(),
            clock: Clock::system(),
            sockets: self.sockets.clone(),
            bans: Some(Arc::new(BanFile::new(&settings.data))),
            closed,
            sticky_key: predecessor.and_then(|before| before.sticky_key.clone()),
        };
        let gate = Gate::start(settings, wiring)
            .await
            .map_err(|error| match &error {
                munjigi_gate::StartError::Listen {
                    address, source, ..
                } if source.kind() == ErrorKind::AddrInUse => taken(&error, *address),
                _ => Failure::could_not(&error),
            })?;
        self.gate = Some(gate);
        Ok(())
    }

    /// Where hub and workers of this process listen.
    fn inner_addresses(&self) -> Vec<SocketAddr> {
        let hub = self.hub.iter().map(Hub::address);
        hub.chain(self.workers.iter().copied()).collect()
    }

    /// Waits, not for long, until the gate has heard of hub and workers of this process.
    async fn until_known(&self, gate: &Gate) {
        let addresses = self.inner_addresses();
        let known = async {
            while !gate.knows(&addresses) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(KNOWN_WITHIN, known).await.is_err() {
            tracing::warn!("the gate has not heard of hub and workers yet");
        }
    }

    /// The listening sockets, for the process that takes the place of this one.
    pub(crate) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// The gate's own key of sticky cookies, for the same process.
    pub(crate) fn sticky_key(&self) -> Option<Secret> {
        self.gate.as_ref().and_then(Gate::sticky_key)
    }

    /// True when this process holds data that only one process may work on.
    fn has_data(&self) -> bool {
        self.registry.is_some() || self.hub.is_some() || !self.workers.is_empty()
    }

    /// Ends registry, hub and workers, so that another process can take their place; the gate holds requests to them
    /// meanwhile. Gives what the registry knew.
    pub(crate) async fn release(&mut self) -> Vec<Instance> {
        if let Some(gate) = &self.gate {
            gate.let_go();
        }
        if !self.has_data() {
            return Vec::new();
        }
        let addresses = self.inner_addresses();
        if let Some(gate) = &self.gate {
            gate.hold(addresses.clone());
            // What is under way and short ends by itself; what is long (an upload, an event stream) goes on later.
            let quiet = async {
                while gate.in_flight(&addresses) > 0 {
                    tokio::time::sleep(LOOK).await;
                }
            };
            drop(tokio::time::timeout(QUIET_WITHIN, quiet).await);
        }
        self.inner.end("hub and workers").await;
        let instances = self.registry.as_ref().map(Registry::everybody);
        self.outer.end("the registry").await;
        (self.hub, self.registry) = (None, None);
        self.workers.clear();
        (self.inner, self.outer) = (Part::default(), Part::default());
        instances.unwrap_or_default()
    }

    /// After [`Roles::release`], when no other process took over: starts again what was ended.
    pub(crate) async fn take_back(&mut self, instances: Vec<Instance>) -> Result<(), Failure> {
        let wanted = &self.plan.settings;
        let more = !self.plan.workers.is_empty();
        if wanted.registry.is_some() || wanted.hub.is_some() || wanted.worker.is_some() || more {
            let cluster = self.cluster()?;
            self.start_registry(&cluster, instances)?;
            self.start_inner(&cluster).await?;
            self.gate_follows(true).await?;
        }
        if let Some(gate) = &self.gate {
            gate.keep_again();
            gate.release();
        }
        Ok(())
    }

    async fn gate_follows(&self, wait: bool) -> Result<(), Failure> {
        if let Some(gate) = &self.gate {
            let source = gate.snapshot().settings().registry.clone();
            gate.follow_again(self.discovery(&source, wait).await?);
            self.until_known(gate).await;
        }
        Ok(())
    }

    /// Another process serves now: what is open here goes on until it ends by itself, for `drain_max` at most.
    pub(crate) async fn leave(&self) {
        if let Some(gate) = &self.gate {
            gate.release();
            gate.leave().await;
        }
    }

    /// Where the gate learns of backends. With `wait` the registry is given a moment to say what it knows.
    async fn discovery(
        &self,
        settings: &GateRegistry,
        wait: bool,
    ) -> Result<Option<Arc<dyn Discovery>>, Failure> {
        let (tasks, shutdown) = (self.outer.tasks.clone(), self.outer.shutdown.clone());
        if let Some(RegistrySource::Urls(urls)) = &settings.source {
            let trust = munjigi_foundation::tls::for_urls(settings.ca_file.as_deref())
                .map_err(|error| Failure::could_not(format!("gate.registry: {error}")))?;
            let http = reqwest::Client::builder()
                .no_proxy()
                .tls_backend_preconfigured(trust)
                .build()
                .map_err(Failure::could_not)?;
            let client = munjigi_eureka::Client::new(http, urls, None)
                .map_err(|error| Failure::could_not(format!("gate.registry.urls: {error}")))?;
            let mut known =
                munjigi_eureka::observe(client, settings.refresh, &tasks, shutdown.clone());
            if wait {
                let heard = known.wait_for(|known| known.reachable);
                if tokio::time::timeout(KNOWN_WITHIN, heard).await.is_err() {
                    tracing::warn!("the registry has not answered yet");
                }
            }
            return Ok(Some(Arc::new(OverHttp {
                known,
                tasks,
                shutdown,
            })));
        }
        Ok(self.registry.clone().map(|registry| -> Arc<dyn Discovery> {
            Arc::new(Embedded {
                registry,
                tasks,
                shutdown,
            })
        }))
    }

    async fn start_hub(
        &mut self,
        settings: HubSettings,
        cluster: &Cluster,
        admin_socket: Option<PathBuf>,
    ) -> Result<(), Failure> {
        let gate_inner_url = match &settings.gate {
            Some(url) => url.clone(),
            None => self.inner_url()?,
        };
        let mut gate_admin: Vec<GateAdmin> = settings
            .gate_admin
            .iter()
            .map(|url| GateAdmin::Url {
                url: url.clone(),
                token: settings.gate_admin_token.clone(),
            })
            .collect();
        if gate_admin.is_empty() {
            gate_admin.extend(admin_socket.map(GateAdmin::Socket));
        }
        let wiring = munjigi_hub::Wiring {
            cluster_secret: cluster.secret.clone(),
            gate_inner_url,
            gate_admin,
            registry_urls: if settings.registry.is_empty() {
                self.registry_urls(&[])
            } else {
                settings.registry.clone()
            },
            public_url: self.web_url(),
            clock: Clock::system(),
            sockets: self.sockets.clone(),
        };
        let (tasks, shutdown) = (&self.inner.tasks, self.inner.shutdown.clone());
        let hub = Hub::start(settings, wiring, tasks, shutdown)
            .await
            .map_err(|error| {
                let failure = Failure::could_not(&error);
                match &error {
                    munjigi_hub::StartError::Locked(_) => {
                        failure.hint("stop the other one, or name another data folder")
                    }
                    munjigi_hub::StartError::Listen {
                        address,
                        error: why,
                    } if why.kind() == ErrorKind::AddrInUse => taken(&error, *address),
                    _ => failure,
                }
            })?;
        self.hub = Some(hub);
        Ok(())
    }

    async fn start_worker(
        &self,
        settings: WorkerSettings,
        cluster: &Cluster,
    ) -> Result<SocketAddr, Failure> {
        let hub_url = match &settings.hub {
            Some(url) => url.clone(),
            None => self.inner_url()?,
        };
        let registry_urls = self
            .registry_urls(&settings.registry)
            .iter()
            .map(|url| url.expose().to_owned())
            .collect();
        let wiring = munjigi_worker::Wiring {
            cluster_secret: cluster.secret.clone(),
            hub_url,
            registry_urls,
            program: std::env::current_exe().map_err(Failure::could_not)?,
            clock: Clock::system(),
            sockets: self.sockets.clone(),
        };
        Worker::start(
            settings,
            wiring,
            &self.inner.tasks,
            self.inner.shutdown.clone(),
        )
        .await
        .map(|worker| worker.address())
        .map_err(Failure::could_not)
    }

    fn registry_urls(&self, named: &[String]) -> Vec<Secret> {
        if named.is_empty() {
            let own = self
                .registry
                .iter()
                .map(|registry| Secret::new(&registry.url()));
            return own.collect();
        }
        named.iter().map(|url| Secret::new(url)).collect()
    }

    /// The gate's inner listener in this process.
    pub(crate) fn inner_url(&self) -> Result<String, Failure> {
        self.listener_url("inner").ok_or_else(|| {
            Failure::could_not("the gate of this process has no listener named \"inner\"")
        })
    }

    /// Where users reach the gate of this process.
    pub(crate) fn web_url(&self) -> Option<String> {
        self.listener_url("web")
    }

    fn listener_url(&self, name: &str) -> Option<String> {
        let gate = self.gate.as_ref()?;
        let address = reachable(gate.address(name)?);
        let snapshot = gate.snapshot();
        let mut listeners = snapshot.settings().listeners.iter();
        let sealed = listeners.any(|listener| listener.name == name && listener.tls.is_some());
        Some(format!(
            "{}://{address}",
            if sealed { "https" } else { "http" }
        ))
    }

    /// Ends all roles: no new connections, requests in flight end, WebSockets are told to come back.
    pub(crate) async fn end(mut self) {
        // Hub and workers hear of it at once: answers without an end (event streams) end by them.
        self.inner.shutdown.cancel();
        self.sockets.clear();
        let gate = self.gate.take();
        let drained = async {
            if let Some(gate) = gate {
                let longest = gate.snapshot().settings().limits.drain;
                gate.drain(longest).await;
            }
        };
        tokio::join!(drained, self.inner.end("hub and workers"));
        self.outer.end("the registry").await;
    }
}

/// The address as a client on this machine writes it.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    address
}

fn cannot_listen(role: &str, address: SocketAddr, error: &std::io::Error) -> Failure {
    let message = format!("the {role} can't listen on {address}: {error}");
    if error.kind() == ErrorKind::AddrInUse {
        return taken(&message, address);
    }
    Failure::could_not(message)
}

/// Somebody else listens there already.
fn taken(error: &dyn std::fmt::Display, address: SocketAddr) -> Failure {
    let by = listening::owner(address).map_or_else(String::new, |owner| format!(", by {owner}"));
    Failure::could_not(format!("{error}{by}")).hint(
        "stop that one, or take another address: `munjigi up --listen 127.0.0.1:0` takes a free port, `munjigi run` \
         listens where the settings file says (address = …)",
    )
}

/// A secret that nobody else knows: hub and worker are in this process.
pub(crate) fn random_secret() -> Result<Secret, Failure> {
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random).map_err(Failure::could_not)?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Secret::new(&text))
}
