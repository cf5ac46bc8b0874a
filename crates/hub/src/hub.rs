//! The hub as a whole: what it is built from and in which order.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use munjigi_foundation::clock::Clock;
use munjigi_foundation::listen::{self, Door, Limits, Sockets};
use munjigi_foundation::settings::Secret;
use munjigi_foundation::tls::{self, TlsError, UrlTrust};
use rustix::fs::FlockOperation;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin, Sources};
use crate::auth::{self, Auth, AuthError, WeakAuth};
use crate::face::{self, Guard, Hosts, Network, Operations};
use crate::gates::Gates;
use crate::jobs::{self, Jobs, JobsError, JobsWiring};
use crate::pages::{self, Pages};
use crate::registry::Registries;
use crate::settings::HubSettings;
use crate::store::{Store, StoreError};
use crate::uploads::{self, Uploads, UploadsWiring};

/// How long the link is valid that a start prints for the first user.
const FIRST_LINK: Duration = Duration::from_secs(600);
/// How often what removed users still own is looked at.
const REMOVED_EVERY: Duration = Duration::from_secs(30);
/// The name of the token that client commands on this machine use.
const CLI_TOKEN: &str = "command line";

/// How a gate's admin face is reached.
#[derive(Debug, Clone)]
pub enum GateAdmin {
    /// A Unix socket on this machine.
    Socket(PathBuf),
    /// A base url, and the token it wants.
    Url { url: String, token: Option<Secret> },
}

/// What the hub needs of its surroundings.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// Shared with workers: shown to them, and wanted of them.
    pub cluster_secret: Secret,
    /// Base url of a gate's inner listener: the way to the workers.
    pub gate_inner_url: String,
    /// The gates that the status page shows.
    pub gate_admin: Vec<GateAdmin>,
    /// Base urls of registries, with `/eureka`, in the order in which they are asked.
    pub registry_urls: Vec<Secret>,
    /// The url under which users reach the hub, when it is known: its host is one of ours.
    pub public_url: Option<String>,
    pub clock: Clock,
    /// Sockets that the process before left us, and that the one after gets.
    pub sockets: Sockets,
}

/// Why the hub can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data folder {path} can't be used: {error}")]
    Data { path: PathBuf, error: io::Error },
    #[error("another hub uses the data folder {0}")]
    Locked(PathBuf),
    #[error("can't listen on {address}: {error}")]
    Listen {
        address: SocketAddr,
        error: io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("users can't be prepared: {0}")]
    Users(String),
    #[error("a registry's url can't be used, or none is given")]
    Registry,
    #[error("the http client can't be made: {0}")]
    Client(#[from] reqwest::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Jobs(#[from] JobsError),
}

/// A running hub. It ends with the `shutdown` given at its start, whether this is dropped or not; the tracker given
/// there is empty once all of it has ended and the data folder is free.
#[derive(Debug)]
pub struct Hub {
    address: SocketAddr,
    /// It speaks TLS there.
    sealed: bool,
    auth: WeakAuth,
    registered: watch::Receiver<bool>,
}

impl Hub {
    /// Starts a hub; it serves when this returns. It stops at `shutdown`, and `outer` is empty once it has.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        settings: HubSettings,
        wiring: Wiring,
        outer: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let lock = lock_data(&settings.data)?;
        let tasks = TaskTracker::new();
        let limits = Limits {
            connections: usize::try_from(settings.limits.connections).unwrap_or(usize::MAX),
            ..Limits::default()
        };
        let built = Built::new(&settings, &wiring, &tasks, &shutdown).await?;
        let address = built.address;
        let (door, router) = (built.door, built.router);
        tasks.spawn(listen::serve(door, router, limits, shutdown.clone()));
        outer.spawn(async move {
            shutdown.cancelled().await;
            tasks.close();
            tasks.wait().await;
            // Not before all that writes has ended: a second hub on the same data refuses to start until then.
            drop(lock);
        });
        Ok(Self {
            address,
            sealed: settings.tls.is_some(),
            auth: built.auth,
            registered: built.registered,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base url of its own address.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.sealed { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Ends once `/ready` says so: the registry has answered and knows this hub.
    pub async fn until_ready(&self) {
        let mut registered = self.registered.clone();
        // The sender ends with the hub: who waits then is not kept waiting.
        drop(registered.wait_for(|registered| *registered).await);
    }

    /// A url under `base` that signs the first user in, once, within 10 minutes. Earlier ones no longer work.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_in_url(&self, base: &str) -> Result<Secret, StartError> {
        let made = async {
            let auth = self.auth.upgrade()?;
            auth.link(&auth.first_user().await?, FIRST_LINK).await
        };
        let link = made.await.map_err(users)?;
        let base = base.trim_end_matches('/');
        Ok(Secret::new(&format!(
            "{base}/sign-in?token={}",
            link.expose()
        )))
    }

    /// A new token of the first user, for client commands on this machine.
    ///
    /// # Errors
    /// When the database fails, or the user has too many tokens.
    pub async fn cli_token(&self) -> Result<Secret, StartError> {
        let made = async {
            let auth = self.auth.upgrade()?;
            auth.new_token(&auth.first_user().await?, CLI_TOKEN, None)
                .await
        };
        let (_, token) = made.await.map_err(users)?;
        Ok(token)
    }
}

/// All parts, wired, before the first request.
struct Built {
    door: Door,
    address: SocketAddr,
    router: Router,
    auth: WeakAuth,
    registered: watch::Receiver<bool>,
}

impl Built {
    async fn new(
        settings: &HubSettings,
        wiring: &Wiring,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, StartError> {
        let store = Store::open(&settings.data.join("hub.db"), tasks).await?;
        let auth = Auth::start(
            store.clone(),
            wiring.clock.clone(),
            settings.session,
            settings.limits.users,
        )
        .await
        .map_err(|error| StartError::Users(error.to_string()))?;
        tasks.spawn(auth.clone().sweep_on(shutdown.clone()));
        let uploads = uploads_wiring(settings, wiring, &store, tasks, shutdown);
        let uploads = Uploads::start(uploads).await?;
        let removing = remove_users(auth.clone(), uploads.clone(), shutdown.clone());
        tasks.spawn(removing);
        let listener = bind(settings, &wiring.sockets)?;
        let address = local(&listener, settings.address)?;
        let door = Door::open(listener, settings.tls.as_ref())?;
        let trust = tls::for_urls(settings.ca_file.as_deref())?;
        let client = client(&trust)?;
        let registries = Registries::start(wiring, address, &client, tasks, shutdown)?;
        let gates = Gates::start(settings, wiring, (&client, &trust), tasks, shutdown)?;
        let wired = jobs_wiring(
            settings,
            wiring,
            trust,
            (&store, &uploads),
            (&registries, &gates),
        );
        let jobs = Jobs::start(wired, tasks.clone(), shutdown.clone())?;
        let guard = guard(settings, wiring, address, &auth);
        let pages = Pages::new();
        let operations = Operations {
            auth: auth.clone(),
            uploads: uploads.clone(),
            answers: Arc::clone(&guard.answers),
            registered: registries.registered.clone(),
            jobs: jobs.clone(),
        };
        let registered = registries.registered.clone();
        let admin = Admin::new(Sources {
            registries,
            worker_service: settings.worker_service.clone(),
            gates,
            uploads: uploads.clone(),
            store: store.clone(),
            clock: wiring.clock.clone(),
        });
        tasks.spawn(admin.clone().watch_workers(shutdown.clone()));
        let router = face::router(
            [
                pages::router(pages.clone()),
                auth::router(auth.clone(), pages.clone()),
                uploads::router(uploads),
                jobs::router(jobs),
                admin::router(admin),
                face::operations(operations),
            ],
            pages,
            guard,
        );
        Ok(Self {
            door,
            address,
            router,
            auth: auth.downgrade(),
            registered,
        })
    }
}

fn uploads_wiring(
    settings: &HubSettings,
    wiring: &Wiring,
    store: &Store,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> UploadsWiring {
    UploadsWiring {
        store: store.clone(),
        folder: settings.data.join("uploads"),
        clock: wiring.clock.clone(),
        limits: settings.limits,
        keep: settings.keep_uploads,
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    }
}

fn jobs_wiring(
    settings: &HubSettings,
    wiring: &Wiring,
    trust: UrlTrust,
    (store, uploads): (&Store, &Uploads),
    (registries, gates): (&Registries, &Gates),
) -> JobsWiring {
    JobsWiring {
        store: store.clone(),
        uploads: uploads.clone(),
        clock: wiring.clock.clone(),
        registry: registries.known.clone(),
        drained: gates.drained.clone(),
        worker_service: settings.worker_service.clone(),
        gate_inner_url: wiring.gate_inner_url.clone(),
        trust,
        cluster_secret: wiring.cluster_secret.clone(),
        folder: settings.data.join("results"),
        event_ttl: settings.event_ttl,
        keep_results: settings.keep_results,
        limits: settings.jobs,
    }
}

fn users(error: AuthError) -> StartError {
    match error {
        AuthError::Store(error) => StartError::Store(error),
        other => StartError::Users(other.to_string()),
    }
}

/// One client for all that the hub asks: registries and gates. Redirects are not followed: they would carry tokens
/// elsewhere.
fn client(trust: &UrlTrust) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(trust.clone())
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(5))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
}

fn guard(settings: &HubSettings, wiring: &Wiring, address: SocketAddr, auth: &Auth) -> Guard {
    let host_of = |url: &String| {
        let url = reqwest::Url::parse(url).ok()?;
        Some(url.host_str()?.trim_matches(['[', ']']).to_owned())
    };
    let mut names = settings.hosts.clone();
    names.extend(wiring.public_url.as_ref().and_then(host_of));
    if !address.ip().is_unspecified() {
        names.push(address.ip().to_string());
    }
    let mut trusted = settings.trusted.clone();
    trusted.extend(Network::of_url(&wiring.gate_inner_url));
    Guard {
        auth: auth.clone(),
        hosts: Arc::new(Hosts::new(names)),
        trusted: trusted.into(),
        answers: Arc::default(),
        request: settings.limits.request,
    }
}

/// Makes the data folder, for nobody else to read, and takes its lock.
fn lock_data(data: &Path) -> Result<File, StartError> {
    let failed = |error: io::Error| StartError::Data {
        path: data.to_path_buf(),
        error,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(failed)?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(data.join("hub.lock"))
        .map_err(failed)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Locked(data.to_path_buf())),
        Err(error) => Err(failed(error.into())),
    }
}

/// Binds the address. With port 0 the port of the last start is taken again when it is free, so that whoever knows
/// this hub finds it after a restart.
fn bind(settings: &HubSettings, sockets: &Sockets) -> Result<TcpListener, StartError> {
    let wanted = settings.address;
    let label = listen::label("hub", "", wanted);
    let file = settings.data.join("hub.port");
    let last = std::fs::read_to_string(&file)
        .ok()
        .and_then(|port| port.trim().parse::<u16>().ok())
        .filter(|_| wanted.port() == 0);
    let failed = |error| StartError::Listen {
        address: wanted,
        error,
    };
    let handed_over = sockets.claim(&label).map_err(failed)?.pop();
    let listening = match handed_over {
        Some(socket) => Ok(socket.into()),
        None => last
            .and_then(|port| listen::bind(SocketAddr::new(wanted.ip(), port), false).ok())
            .map_or_else(|| listen::bind(wanted, false), Ok),
    };
    let listening = listening.and_then(|socket| {
        sockets.keep(&label, std::slice::from_ref(&socket))?;
        Ok(socket)
    });
    let listener = listening.and_then(TcpListener::from_std).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    if wanted.port() == 0 && last != Some(port) {
        let kept = File::create(&file).and_then(|mut file| writeln!(file, "{port}"));
        kept.map_err(|error| StartError::Data { path: file, error })?;
    }
    Ok(listener)
}

fn local(listener: &TcpListener, wanted: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError::Listen {
        address: wanted,
        error,
    })
}

/// What removed users owned goes: after each removal, and after a crash in between. Their jobs end by themselves
/// (`jobs::sweep`) and release their uploads; once nothing is left, the user is forgotten.
async fn remove_users(auth: Auth, uploads: Uploads, shutdown: CancellationToken) {
    loop {
        if let Err(error) = remove_uploads_of_removed(&auth, &uploads).await {
            tracing::warn!(%error, "what a removed user owned could not be removed");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = auth.user_removed() => {}
            // Again later: a job that was still being cancelled has released its upload by then.
            () = tokio::time::sleep(REMOVED_EVERY) => {}
        }
    }
}

async fn remove_uploads_of_removed(auth: &Auth, uploads: &Uploads) -> Result<(), StoreError> {
    let removed = auth.removed_users().await?;
    if removed.is_empty() {
        return Ok(());
    }
    for user in &removed {
        uploads.remove_all_of(user).await?;
    }
    auth.forget_removed().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The other direction, each path of the document in the router, is a test over real sockets.
    #[tokio::test]
    async fn each_path_of_the_router_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let settings = HubSettings::embedded(dir.path().to_path_buf());
        let wiring = Wiring {
            cluster_secret: Secret::new("a secret"),
            gate_inner_url: "http://127.0.0.1:9".to_owned(),
            gate_admin: Vec::new(),
            registry_urls: vec![Secret::new("http://127.0.0.1:9/eureka")],
            public_url: None,
            clock: Clock::system(),
            sockets: Sockets::default(),
        };
        let built = Built::new(&settings, &wiring, &tasks, &shutdown)
            .await
            .unwrap();
        let shown = format!("{:?}", built.router);
        let routes: BTreeSet<&str> = shown
            .split('"')
            .filter(|part| part.starts_with('/') && !part.contains("axum_fallback"))
            .collect();
        assert!(
            routes.contains("/api/uploads/{id}"),
            "the router shows its paths no more"
        );
        let document: serde_json::Value = serde_json::from_str(face::OPENAPI).unwrap();
        let described = document["paths"].as_object().unwrap();
        let page = |path: &str| pages::PAGES.contains(&path) || path.starts_with("/assets/");
        let missing: Vec<_> = routes
            .iter()
            .filter(|path| !page(path) && !described.contains_key(**path))
            .collect();
        assert!(missing.is_empty(), "not described: {missing:?}");
        shutdown.cancel();
    }
}
