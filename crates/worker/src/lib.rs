//! The model server: takes files, runs models in a sandbox, publishes events, serves and deletes results.
//!
//! An attempt's way: [`face`] takes the file to the disk → [`run`] holds the conversation with the model in the
//! [`sandbox`], whose words become events in the [`log`] → packed → fetched by the hub → deleted. [`book`] decides what
//! is taken and what is over; [`folder`] is the disk; [`send`] brings the events to the hub.

mod book;
mod core;
mod face;
mod folder;
mod job;
mod log;
mod metrics;
mod register;
mod run;
pub mod sandbox;
mod send;
pub mod settings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use munjigi_eureka::BadUrl;
use munjigi_events::{EventPost, ServerId};
use munjigi_foundation::clock::Clock;
use munjigi_foundation::listen::{self, Door, Limits, Sockets};
use munjigi_foundation::settings::{HostPort, Secret};
use munjigi_foundation::tls::{self, TlsError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::book::Book;
use crate::core::{Core, blocking};
use crate::folder::Folder;
use crate::metrics::Metrics;
use crate::run::models::Model;
use crate::run::users::Users;

pub use folder::FolderError;
pub use settings::{ModelSettings, Program, WorkerSettings};

/// What the binary gives a worker beside its settings.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// `[cluster] secret`: who calls the worker's face shows it, and the worker shows it to the hub and the registry.
    pub cluster_secret: Secret,
    /// Where events go when the settings name no hub: a gate's inner listener, such as `http://127.0.0.1:8080`.
    pub hub_url: String,
    /// Where the worker registers when the settings name no registry. Empty: nowhere.
    pub registry_urls: Vec<String>,
    /// Our own binary: it is started again as `PROGRAM sandbox …` ([`sandbox::enter`]) and `PROGRAM model`.
    pub program: PathBuf,
    pub clock: Clock,
    /// Sockets that the process before left us, and that the one after gets.
    pub sockets: Sockets,
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("what a run before left can't be taken up: {0}")]
    TakeUp(std::io::Error),
    #[error(
        "models can't be kept in a sandbox here: {0}; write sandbox = \"off\" for each model to run them without"
    )]
    Sandbox(#[from] sandbox::Missing),
    #[error("the model {name}: {why}")]
    Model { name: String, why: String },
    #[error("{address}: {error}")]
    Listen {
        address: HostPort,
        error: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error(transparent)]
    Registry(#[from] BadUrl),
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    address: SocketAddr,
    server_id: ServerId,
}

impl Worker {
    /// Starts a worker: takes up what a run before left, listens, registers. It runs in `tasks` until `shutdown`;
    /// models that run then are ended, and their analyses are lost for the next start.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        settings: WorkerSettings,
        wiring: Wiring,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let registry_urls = if settings.registry.is_empty() {
            wiring.registry_urls.clone()
        } else {
            settings.registry.clone()
        };
        let sockets = wiring.sockets.clone();
        let (core, folder_id) = make_core(settings, wiring, shutdown)?;
        let states = core.folder.analyses()?;
        let taking_up = Arc::clone(&core);
        let runtime = tokio::runtime::Handle::current();
        blocking(move || {
            // The senders that this starts belong to the runtime.
            let _entered = runtime.enter();
            taking_up.take_up(states)
        })
        .await
        .map_err(StartError::TakeUp)?;
        let (listener, address) =
            bind(&core.settings.address, &core.settings.data, &sockets).await?;
        let door = Door::open(listener, core.settings.tls.as_ref())?;
        if !registry_urls.is_empty() {
            register::register(&core, &registry_urls, &folder_id, address, tasks)?;
        }
        let server_id = core.server_id.clone();
        tracing::info!(%address, %server_id, "the worker takes analyses");
        core.tasks.spawn(Arc::clone(&core).sweep());
        core.tasks.spawn(describe(Arc::clone(&core)));
        tasks.spawn(serve(core, door));
        Ok(Self { address, server_id })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its id in registry and events.
    #[must_use]
    pub fn server_id(&self) -> &ServerId {
        &self.server_id
    }
}

fn make_core(
    settings: WorkerSettings,
    wiring: Wiring,
    shutdown: CancellationToken,
) -> Result<(Arc<Core>, ServerId), StartError> {
    if settings.models.iter().any(|model| model.sandbox) {
        sandbox::supported()?;
    }
    let folder = Folder::open(&settings.data)?;
    let folder_id = folder.id()?;
    let server_id = settings
        .server_id
        .clone()
        .unwrap_or_else(|| folder_id.clone());
    let mut models = BTreeMap::new();
    for model in &settings.models {
        let found = Model::find(model, &settings, &wiring.program, folder.root());
        let found = found.map_err(|why| StartError::Model {
            name: model.name.clone(),
            why,
        })?;
        if !found.is_confined() {
            tracing::warn!(
                model = found.name(),
                "runs without a sandbox, with the worker's own rights"
            );
        }
        models.insert(model.name.clone(), found);
    }
    let hub = settings.hub.clone().unwrap_or(wiring.hub_url);
    let client = client(&settings)?;
    let book = Book::new(settings.slots, folder.fences()?);
    let core = Core {
        models,
        server_id,
        post: EventPost::new(client, &hub, wiring.cluster_secret.clone()),
        secret: wiring.cluster_secret,
        folder,
        clock: wiring.clock,
        metrics: Arc::new(Metrics::new()),
        users: Users::of_this_process(),
        program: wiring.program,
        tasks: TaskTracker::new(),
        shutdown,
        free: watch::Sender::new(settings.slots),
        promised: AtomicU64::new(0),
        book: Mutex::new(book),
        settings,
    };
    Ok((Arc::new(core), folder_id))
}

/// For the urls of the hub and the registries.
pub(crate) fn client(settings: &WorkerSettings) -> Result<reqwest::Client, StartError> {
    let trust = tls::for_urls(settings.ca_file.as_deref())?;
    let builder = reqwest::Client::builder().no_proxy();
    Ok(builder.tls_backend_preconfigured(trust).build()?)
}

async fn bind(
    address: &HostPort,
    data: &Path,
    sockets: &Sockets,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen {
        address: address.clone(),
        error,
    };
    let resolved = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(failed)?
        .next()
        .ok_or_else(|| failed(std::io::Error::other("the name has no address")))?;
    // Several workers of one process may leave the port to the kernel: their folders tell them apart.
    let label = listen::label("worker", &data.display().to_string(), resolved);
    let listener = sockets.listen(&label, resolved).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Serves until the shutdown, then waits until nothing works on the data folder any more.
async fn serve(core: Arc<Core>, door: Door) {
    let router = face::router(Arc::clone(&core));
    listen::serve(door, router, Limits::default(), core.shutdown.clone()).await;
    let jobs: Vec<_> = core
        .book()
        .entries()
        .map(|(_, entry)| Arc::clone(&entry.job))
        .collect();
    for job in jobs {
        job.tasks.close();
        job.tasks.wait().await;
    }
    core.tasks.close();
    core.tasks.wait().await;
    tracing::info!(server_id = %core.server_id, "the worker has ended");
}

/// Asks each model what it is, so that a broken one shows in the log before a job meets it.
async fn describe(core: Arc<Core>) {
    for model in core.models.values() {
        let temporary = core
            .folder
            .root()
            .join(format!("describe-{}", model.name()));
        let made = temporary.clone();
        let ready = blocking(move || folder::make_empty(&made)).await;
        let user = core.users.take();
        let described = model.describe(&core.program, temporary.clone(), user.as_ref());
        match (ready, core.shutdown.run_until_cancelled(described).await) {
            (_, None) => {}
            (Ok(()), Some(Ok(it))) => {
                tracing::info!(
                    model = model.name(),
                    id = it.id,
                    version = it.version,
                    "the model answers"
                );
            }
            (Err(error), _) => {
                tracing::error!(model = model.name(), %error, "no folder to ask it in");
            }
            (_, Some(Err(why))) => {
                tracing::warn!(
                    model = model.name(),
                    why,
                    "the model does not describe itself"
                );
            }
        }
        let used = temporary;
        if let Err(error) = blocking(move || folder::remove_folder(&used)).await {
            tracing::warn!(%error, "a folder stays");
        }
    }
}
