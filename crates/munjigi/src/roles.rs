//! The roles of one process, started in the order in which they need each other, and ended in the other order.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use munjigi_foundation::clock::Clock;
use munjigi_foundation::settings::Secret;
use munjigi_gate::settings::{GateSettings, RegistrySettings as GateRegistry, RegistrySource};
use munjigi_gate::{Discovery, Gate};
use munjigi_hub::settings::HubSettings;
use munjigi_hub::{GateAdmin, Hub};
use munjigi_registry::{Kept, Registry};
use munjigi_worker::{Worker, WorkerSettings};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::discovery::{Embedded, OverHttp};
use crate::outcome::Failure;
use crate::settings::{Cluster, Settings};

/// How long requests in flight may take once the process was told to end.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the roles may take after that to leave everything in order.
const END: Duration = Duration::from_secs(15);

/// Running roles.
#[derive(Debug)]
pub(crate) struct Roles {
    pub(crate) registry: Option<Registry>,
    pub(crate) gate: Option<Gate>,
    pub(crate) hub: Option<Hub>,
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

/// Starts the roles of `settings`, and a worker for each of `workers` beside the one in `settings`.
pub(crate) async fn start(
    settings: Settings,
    workers: Vec<WorkerSettings>,
) -> Result<Roles, Failure> {
    let mut roles = Roles {
        registry: None,
        gate: None,
        hub: None,
        inner: Part::default(),
        outer: Part::default(),
    };
    match roles.start(settings, workers).await {
        Ok(()) => Ok(roles),
        Err(failure) => {
            // Those that started leave everything in order too.
            roles.end().await;
            Err(failure)
        }
    }
}

impl Roles {
    async fn start(
        &mut self,
        settings: Settings,
        workers: Vec<WorkerSettings>,
    ) -> Result<(), Failure> {
        let cluster = match settings.cluster {
            Some(cluster) => cluster,
            None => Cluster {
                secret: random_secret()?,
                services: crate::settings::default_services(),
            },
        };
        if let Some(registry) = settings.registry {
            let kept = Kept {
                secret: cluster.secret.clone(),
                services: cluster.services.clone(),
            };
            let address = registry.address;
            let started = Registry::start(
                registry,
                Some(kept),
                Clock::system(),
                &self.outer.tasks,
                &self.outer.shutdown,
            );
            self.registry =
                Some(started.map_err(|error| cannot_listen("registry", address, &error))?);
        }
        let admin_socket = settings
            .gate
            .as_ref()
            .and_then(|gate| gate.admin.socket.clone());
        if let Some(gate) = settings.gate {
            self.start_gate(gate).await?;
        }
        if let Some(hub) = settings.hub {
            self.start_hub(hub, &cluster, admin_socket).await?;
        }
        for worker in settings.worker.into_iter().chain(workers) {
            self.start_worker(worker, &cluster).await?;
        }
        Ok(())
    }

    async fn start_gate(&mut self, settings: GateSettings) -> Result<(), Failure> {
        let wiring = munjigi_gate::Wiring {
            discovery: self.discovery(&settings.registry)?,
            own_addresses: Vec::new(),
            clock: Clock::system(),
        };
        let gate = Gate::start(settings, wiring)
            .await
            .map_err(Failure::could_not)?;
        self.gate = Some(gate);
        Ok(())
    }

    fn discovery(&self, settings: &GateRegistry) -> Result<Option<Arc<dyn Discovery>>, Failure> {
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
            let known = munjigi_eureka::observe(client, settings.refresh, &tasks, shutdown.clone());
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
        };
        let (tasks, shutdown) = (&self.inner.tasks, self.inner.shutdown.clone());
        let hub = Hub::start(settings, wiring, tasks, shutdown)
            .await
            .map_err(|error| {
                let failure = Failure::could_not(&error);
                match error {
                    munjigi_hub::StartError::Locked(_) => {
                        failure.hint("stop the other one, or name another data folder")
                    }
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
    ) -> Result<(), Failure> {
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
        };
        Worker::start(
            settings,
            wiring,
            &self.inner.tasks,
            self.inner.shutdown.clone(),
        )
        .await
        .map(drop)
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
        let gate = self.gate.take();
        let drained = async {
            if let Some(gate) = gate {
                gate.drain(DRAIN).await;
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
    Failure::could_not(format!("the {role} can't listen on {address}: {error}"))
}

/// A secret that nobody else knows: hub and worker are in this process.
pub(crate) fn random_secret() -> Result<Secret, Failure> {
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random).map_err(Failure::could_not)?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Secret::new(&text))
}
