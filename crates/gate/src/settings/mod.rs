//! The gate's settings as meant: every default filled in, every name resolved.

mod actions;
mod conditions;
mod discovery;
mod http2;
mod ip_filter;
mod read;
mod schema;
mod shield;
mod tls;
mod trace;
mod upstream;
mod upstream_read;
mod upstream_schema;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use munjigi_foundation::settings::{HostPort, Secret};
use munjigi_foundation::tls::{ServerSettings, TrustSettings};

pub use crate::actions::{Action, Redirect, Respond};
pub use crate::compress::{Coding, Compression};
pub use crate::conditions::{Condition, Source, ValueTest};
pub use crate::files::FilesSettings;
pub use crate::headers::{Direction, HeaderRules};
pub use crate::layer4::{Layer4Settings, Transport};
pub use crate::network::Network;
pub use crate::pages::{ErrorPages, Page};
pub use crate::rate::{LimitBy, RateLimit};
pub use crate::rewrite::Rewrite;
pub use crate::routes::{HostPattern, Lookup, LookupSource, PathPattern};
pub use crate::template::{Placeholder, Template};
pub use discovery::{DiscoverySettings, DnsName, DnsSettings};
pub use http2::{Http2Limits, Protocol};
pub(crate) use ip_filter::{Complaint, Refused};
pub use ip_filter::{Inline, IpFilterSettings, Reject, RuleFile};
pub use schema::ALL as SCHEMAS;
pub use shield::{ShieldSettings, TarpitSettings, WebhookSettings};
pub use tls::ProxyMode;
pub use trace::TraceSettings;
pub use upstream::{
    Balance, BreakerSettings, EjectionSettings, HashSource, HealthSettings, HttpProbe,
    LimitSettings, Placement, Probe, RetryOn, RetrySettings, Share, StickySettings,
};

/// `[gate]`, the table that [`GateSettings::read`] reads.
pub static SCHEMA: &munjigi_foundation::settings::Schema = &schema::GATE;

/// Everything that `[gate]` says.
#[derive(Debug, Clone)]
pub struct GateSettings {
    /// Event loops, each on its own thread.
    pub threads: usize,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// Folder for what must outlive a restart: bans, uptime, the key of sticky cookies.
    pub data: PathBuf,
    /// Where the gate is; backends of the same zone come first.
    pub zone: Option<String>,
    /// Where clients connect.
    pub listeners: Vec<ListenerSettings>,
    /// Peers whose `X-Forwarded-*` and `Forwarded` are kept and believed.
    pub trusted: Vec<Network>,
    /// Who may come in; all when absent.
    pub ip_filter: Option<IpFilterSettings>,
    /// Bans scanners; nobody when absent.
    pub shield: Option<ShieldSettings>,
    /// Pages in place of problem documents.
    pub error_pages: ErrorPages,
    /// In the order of the file.
    pub routes: Vec<RouteSettings>,
    /// By name. A service without a table is looked up in the registry by its name.
    pub services: BTreeMap<String, ServiceSettings>,
    /// Where services without static backends are looked up.
    pub registry: RegistrySettings,
    /// The operators' face.
    pub admin: AdminSettings,
    /// Where traces go; nowhere when absent.
    pub trace: Option<TraceSettings>,
    /// Limits of connections and heads.
    pub limits: LimitsSettings,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            access_log: AccessLog::Off,
            data: PathBuf::from("gate-data"),
            zone: None,
            listeners: Vec::new(),
            trusted: Vec::new(),
            ip_filter: None,
            shield: None,
            error_pages: ErrorPages::default(),
            routes: Vec::new(),
            services: BTreeMap::new(),
            registry: RegistrySettings::default(),
            admin: AdminSettings::default(),
            trace: None,
            limits: LimitsSettings::default(),
        }
    }
}

impl GateSettings {
    /// The settings of one service: its table, or the defaults of one that the registry knows.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceSettings {
        self.services.get(name).cloned().unwrap_or_default()
    }

    /// True when a route or a listener of layer 4 asks the registry for its service.
    #[must_use]
    pub fn asks_registry(&self) -> bool {
        let by_routes = self.routes.iter().map(|route| &route.service);
        let lines = self.listeners.iter().filter_map(|l| l.layer4.as_ref());
        by_routes
            .chain(lines.map(|line| &line.service))
            .filter(|name| !name.is_empty())
            .any(|name| self.service(name).discovery == DiscoverySettings::Registry)
    }
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To the end of this file.
    File(PathBuf),
}

/// `[[gate.listener]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// What routes call it.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// What it speaks; nothing of HTTP at layer 4.
    pub protocols: Vec<Protocol>,
    /// Connections at once; of UDP, sessions.
    pub connections_max: usize,
    /// Of these, how many one address may have (of IPv6, one /64); no limit when absent.
    pub connections_per_address: Option<usize>,
    /// Its bytes go to one service as they are.
    pub layer4: Option<Layer4Settings>,
    /// Speaks TLS alone.
    pub tls: Option<ServerSettings>,
    /// What must stand in front of each connection.
    pub proxy_protocol: ProxyMode,
}

impl ListenerSettings {
    /// A listener with defaults.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            protocols: vec![Protocol::Http1],
            connections_max: 10_000,
            connections_per_address: None,
            layer4: None,
            tls: None,
            proxy_protocol: ProxyMode::Off,
        }
    }

    /// True when it takes datagrams.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        let layer4 = self.layer4.as_ref();
        layer4.is_some_and(|layer4| layer4.transport == Transport::Udp)
    }
}

/// `[[gate.route]]`
#[derive(Debug, Clone)]
pub struct RouteSettings {
    /// What logs and metrics call it.
    pub name: String,
    /// Only requests of these listeners; all when absent.
    pub listeners: Option<Vec<String>>,
    /// Only these hosts; all when absent.
    pub hosts: Option<Vec<HostPattern>>,
    /// Only these paths.
    pub path: PathPattern,
    /// Only these methods; all when absent. `GET` includes `HEAD`.
    pub methods: Option<Vec<String>>,
    /// Only requests that fulfil all of these.
    pub conditions: Vec<Condition>,
    /// Where the requests go; empty where `action` answers by itself.
    pub service: String,
    /// What becomes of them.
    pub action: Action,
    /// Another path for the backend, or for `files`.
    pub rewrite: Option<Rewrite>,
    /// Changes of the fields of requests.
    pub request_headers: Option<Arc<HeaderRules>>,
    /// Changes of the fields of all responses, the gate's own ones included.
    pub response_headers: Option<Arc<HeaderRules>>,
    /// Compression of responses.
    pub compression: Option<Arc<Compression>>,
    /// Requests per time of one client.
    pub rate_limit: Option<RateLimit>,
    /// Pages in place of problem documents; those of the gate come after them.
    pub error_pages: ErrorPages,
    /// Only the backend whose metadata matches.
    pub lookup: Option<Lookup>,
    /// Rules for tunnels.
    pub websocket: WebSocketSettings,
    /// Limits of each phase.
    pub timeout: TimeoutSettings,
    /// Largest request body, in bytes.
    pub request_body_max: Option<u64>,
    /// When a request is sent again.
    pub retry: RetrySettings,
    /// How long one backend is waited for alone.
    pub hedge_after: Option<Duration>,
}

impl RouteSettings {
    /// A route with defaults: all listeners, hosts and methods.
    #[must_use]
    pub fn new(name: &str, path: PathPattern, service: &str) -> Self {
        Self {
            name: name.to_owned(),
            listeners: None,
            hosts: None,
            path,
            methods: None,
            conditions: Vec::new(),
            service: service.to_owned(),
            action: Action::Forward,
            rewrite: None,
            request_headers: None,
            response_headers: None,
            compression: None,
            rate_limit: None,
            error_pages: ErrorPages::default(),
            lookup: None,
            websocket: WebSocketSettings::default(),
            timeout: TimeoutSettings::default(),
            request_body_max: None,
            retry: RetrySettings::default(),
            hedge_after: None,
        }
    }
}

/// `websocket = { … }`
#[derive(Debug, Clone)]
pub struct WebSocketSettings {
    /// How long a tunnel may be silent in both directions.
    pub idle: Duration,
    /// How long one direction between the gate and a peer may be silent before that peer is pinged;
    /// nobody is when absent.
    pub ping: Option<Duration>,
    /// The route serves WebSockets only.
    pub required: bool,
    /// Pages that may open it; not checked when absent.
    pub origins: Option<Vec<String>>,
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(3_600),
            ping: None,
            required: false,
            origins: None,
        }
    }
}

/// `timeout = { … }`: limits of progress, never of a whole body.
#[derive(Debug, Clone, Copy)]
pub struct TimeoutSettings {
    /// Until a connection to the backend stands.
    pub connect: Duration,
    /// From the end of the request to the head of the response.
    pub response: Duration,
    /// Without a byte from the backend, or without room at it.
    pub idle: Duration,
    /// Slowest client, in bytes per second over any 15 s.
    pub rate_min: Option<u64>,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            rate_min: Some(240),
        }
    }
}

/// `[gate.service.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceSettings {
    /// Where its backends come from.
    pub discovery: DiscoverySettings,
    /// Discovered addresses outside are refused; all are good when absent.
    pub networks: Option<Vec<Network>>,
    /// What the backends speak.
    pub protocol: Protocol,
    /// How one is chosen.
    pub balance: Balance,
    /// Its backends are called over verified TLS.
    pub tls: Option<TrustSettings>,
    /// What is said to a backend in front of each connection.
    pub proxy_protocol: Option<crate::proxy_protocol::Version>,
    /// What `consistent_hash` looks at.
    pub hash: HashSource,
    /// A cookie that keeps a client on its backend.
    pub sticky: Option<StickySettings>,
    /// Probes.
    pub health: Option<HealthSettings>,
    /// Leaves out backends that fail.
    pub ejection: Option<EjectionSettings>,
    /// How long the share of a backend that came back grows to its whole.
    pub slow_start: Option<Duration>,
    /// Requests in flight at one backend.
    pub limit: Option<LimitSettings>,
    /// Gives a failing service a rest.
    pub breaker: Option<BreakerSettings>,
    /// With a smaller share of good backends than this, all are asked.
    pub panic_below: Option<Share>,
}

/// One of `backends`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSettings {
    /// Where it listens.
    pub address: HostPort,
    /// Its share.
    pub weight: u32,
    /// Whether it is asked first.
    pub placement: Placement,
}

impl BackendSettings {
    /// A backend with weight 1.
    #[must_use]
    pub fn new(address: HostPort) -> Self {
        Self {
            address,
            weight: 1,
            placement: Placement::default(),
        }
    }
}

/// `[gate.registry]`
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// Where it is; `None` when no service needs it.
    pub source: Option<RegistrySource>,
    /// Whom https urls are verified against, alone.
    pub ca_file: Option<PathBuf>,
    /// How often it is asked.
    pub refresh: Duration,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            source: None,
            ca_file: None,
            refresh: Duration::from_secs(1),
        }
    }
}

/// Where the registry is.
#[derive(Debug, Clone)]
pub enum RegistrySource {
    /// In the same process; the binary hands it in.
    Embedded,
    /// Eureka-compatible servers. The URLs may hold a password.
    Urls(Vec<Secret>),
}

/// `[gate.admin]`
#[derive(Debug, Clone, Default)]
pub struct AdminSettings {
    /// A Unix socket, mode 0600.
    pub socket: Option<PathBuf>,
    /// Also on TCP.
    pub address: Option<SocketAddr>,
    /// What TCP requests must carry.
    pub token: Option<Secret>,
}

/// `[gate.limits]`
#[derive(Debug, Clone, Copy)]
pub struct LimitsSettings {
    /// Largest head, in bytes.
    pub head_bytes: usize,
    /// Most header fields.
    pub headers: usize,
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// From a new connection to the end of its PROXY header and TLS handshake.
    pub handshake: Duration,
    /// How long a client's connection may wait for its next request.
    pub keep_alive: Duration,
    /// How long a backend's connection is kept for the next request.
    pub backend_idle: Duration,
    /// Connections kept for one backend by one thread.
    pub backend_idle_max: usize,
    /// Backends of one service.
    pub backends_max: usize,
    /// Access-log lines that may wait to be written.
    pub access_log_lines: usize,
    /// Buckets of one route's rate limit.
    pub rate_limit_keys: usize,
    /// Responses that are compressed at once.
    pub compressions_max: usize,
    /// Threads that open and read files.
    pub file_threads: usize,
    /// Files that may wait for one of them.
    pub file_queue: usize,
    /// How long requests in flight may take once the gate was told to end.
    pub drain: Duration,
    /// How long tunnels go on once another process has taken over.
    pub drain_max: Duration,
    /// What HTTP/2 has of its own.
    pub http2: Http2Limits,
}

impl Default for LimitsSettings {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            headers: 100,
            head: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            backend_idle: Duration::from_secs(4),
            backend_idle_max: 1_024,
            backends_max: 10_000,
            access_log_lines: 8_192,
            rate_limit_keys: 100_000,
            compressions_max: 256,
            file_threads: 4,
            file_queue: 1_024,
            drain: Duration::from_secs(10),
            drain_max: Duration::from_secs(3_600),
            http2: Http2Limits::default(),
        }
    }
}
