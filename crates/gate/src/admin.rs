//! The operators' face: a Unix socket that only its owner can open, and TCP with a token where
//! the settings ask for it.

mod bans;
mod orders;
mod security;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Query, Request, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use munjigi_foundation::api::{Problem, bearer, same_secret};
use munjigi_foundation::listen::{self, Limits, Sockets};
use munjigi_foundation::settings::Secret;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::figures;
use crate::gate::{Remotes, StartError};
use crate::health::uptime::Uptimes;
use crate::metrics;
use crate::settings::AdminSettings;
use crate::shard::{Listener, Shared};
use crate::stats::Totals;

/// What the face shows.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) shared: Arc<Shared>,
    pub(crate) listeners: Arc<Mutex<HashMap<String, Arc<Listener>>>>,
    pub(crate) remotes: Remotes,
    pub(crate) uptimes: Arc<Uptimes>,
}

impl View {
    fn listeners(&self) -> Vec<Arc<Listener>> {
        let listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = listeners.values().cloned().collect();
        all.sort_by(|left, right| left.name.cmp(&right.name));
        all
    }
}

/// The running face.
#[derive(Debug)]
pub(crate) struct AdminFace {
    stop: CancellationToken,
    tasks: TaskTracker,
    address: Option<SocketAddr>,
    socket: Option<PathBuf>,
    /// Another process serves the socket: its file stays.
    left: AtomicBool,
}

/// Who may ask on TCP.
#[derive(Debug, Clone)]
struct Door {
    address: SocketAddr,
    token: Option<Secret>,
}

impl AdminFace {
    pub(crate) async fn start(
        settings: &AdminSettings,
        view: View,
        sockets: &Sockets,
    ) -> Result<Self, StartError> {
        let mut face = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            address: None,
            socket: None,
            left: AtomicBool::new(false),
        };
        if let Some(path) = &settings.socket {
            let listener =
                listen_unix(path, sockets)
                    .await
                    .map_err(|source| StartError::Admin {
                        place: path.display().to_string(),
                        source,
                    })?;
            face.socket = Some(path.clone());
            let served =
                listen::serve_unix(listener, router(view.clone()), limits(), face.stop.clone());
            face.tasks.spawn(served);
        }
        if let Some(address) = settings.address {
            let failed = |source| StartError::Admin {
                place: address.to_string(),
                source,
            };
            let socket = sockets
                .listen(&listen::label("gate.admin", "", address), address)
                .map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            let listener = tokio::net::TcpListener::from_std(socket).map_err(failed)?;
            let door = Door {
                address,
                token: settings.token.clone(),
            };
            let guarded =
                router(view).layer(axum::middleware::from_fn_with_state(Arc::new(door), guard));
            let served = listen::serve(listener, guarded, limits(), face.stop.clone());
            face.address = Some(address);
            face.tasks.spawn(served);
        }
        Ok(face)
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Another process serves the same sockets now.
    pub(crate) async fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        self.stop().await;
    }

    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for AdminFace {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(path) = &self.socket
            && !self.left.load(Ordering::Relaxed)
        {
            // Already gone is as good.
            drop(std::fs::remove_file(path));
        }
    }
}

fn limits() -> Limits {
    Limits {
        connections: 64,
        drain: std::time::Duration::from_secs(1),
        ..Limits::default()
    }
}

/// The socket of the process before, or a new one.
async fn listen_unix(path: &Path, sockets: &Sockets) -> io::Result<tokio::net::UnixListener> {
    let label = format!("gate.admin {}", path.display());
    if let Some(socket) = sockets.claim(&label)?.pop() {
        return tokio::net::UnixListener::from_std(socket.into());
    }
    let listener = bind_socket(path).await?;
    sockets.keep(&label, std::slice::from_ref(&listener))?;
    Ok(listener)
}

/// Binds a socket that only its owner can open. A socket without a listener, left by a crash, is
/// replaced; a living one is not.
async fn bind_socket(path: &Path) -> io::Result<tokio::net::UnixListener> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder)?;
    }
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another gate serves this socket",
        ));
    }
    let is_socket = std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()));
    if is_socket {
        std::fs::remove_file(path)?;
    }
    // Bound under a name of its own and moved once its mode is right: nobody can open it before.
    // The name is short, since the whole path of a socket has at most 107 bytes (unix(7)).
    let early = path.with_file_name(format!(".a{}", std::process::id()));
    if early.exists() {
        std::fs::remove_file(&early)?;
    }
    let listener = tokio::net::UnixListener::bind(&early)?;
    std::fs::set_permissions(&early, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&early, path)?;
    Ok(listener)
}

fn router(view: View) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics_page))
        .route("/backends", get(backends))
        .route("/routes", get(routes))
        .route("/connections", get(connections))
        .route("/websockets", get(websockets))
        .merge(orders::router())
        .merge(bans::router())
        .merge(security::router())
        .route("/ip-filter", get(ip_filter))
        .route("/ip-filter/explain", get(explain_ip))
        .route("/status", get(status))
        .fallback(async || Problem::not_found("page of the admin face"))
        .with_state(view)
}

/// TCP: a known `Host`, no `Origin`, a token.
async fn guard(Extract(door): Extract<Arc<Door>>, request: Request, next: Next) -> Response {
    match admit(&door, request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn admit(door: &Door, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| is_known_host(host, door.address.ip())) {
        return Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown_host",
            "this host is not known here",
        ));
    }
    if headers.contains_key(header::ORIGIN) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "origin_refused",
            "no page may ask here",
        ));
    }
    let open = door.address.ip().is_loopback() && matches!(path, "/metrics" | "/health");
    let token = bearer(headers).unwrap_or_default();
    let known = door
        .token
        .as_ref()
        .is_some_and(|known| same_secret(known.expose().as_bytes(), token.as_bytes()));
    if open || known {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "this needs the token of the admin face",
    )
    .hint("send `Authorization: Bearer TOKEN`; `gate.admin.token_file` holds it"))
}

/// Loopback names and literal addresses: a name that a stranger's DNS points here is refused.
fn is_known_host(host: &str, own: IpAddr) -> bool {
    let name = crate::target::host_name(host);
    if name == "localhost" {
        return true;
    }
    name.trim_matches(['[', ']'])
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback() || own.is_unspecified() || address == own)
}

async fn health() -> &'static str {
    "ok\n"
}

async fn metrics_page(Extract(view): Extract<View>) -> impl IntoResponse {
    let page = metrics::page(&view.shared, &view.listeners(), &view.uptimes);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page)
}

fn services(view: &View) -> Vec<Value> {
    let snapshot = view.shared.snapshot.load();
    let mut all: Vec<_> = snapshot.services.values().collect();
    all.sort_by(|left, right| left.name.cmp(&right.name));
    all.into_iter()
        .map(|known| figures::service(known, &view.uptimes))
        .collect()
}

fn route_list(view: &View) -> Vec<Value> {
    let snapshot = view.shared.snapshot.load();
    let list = snapshot.routes.iter().filter_map(|route| {
        let settings = snapshot.route_settings(route)?;
        Some(json!({
            "name": settings.name,
            "listeners": settings.listeners,
            "path": settings.path.to_string(),
            "methods": settings.methods,
            "service": settings.service,
            "where": settings.lookup.as_ref().map(|lookup| {
                format!("metadata.{} = {}", lookup.key, lookup.source)
            }),
            "requests": route.requests(),
        }))
    });
    list.collect()
}

fn connection_counts(view: &View) -> Value {
    let totals = Totals::of(&view.shared.threads);
    let listeners: Vec<Value> = view
        .listeners()
        .iter()
        .map(|listener| {
            json!({
                "name": listener.name,
                "address": listener.address.to_string(),
                "open": listener.connections.load(Ordering::Relaxed),
                "max": listener.connections_max.load(Ordering::Relaxed),
            })
        })
        .collect();
    json!({
        "listeners": listeners,
        "active": totals.active,
        "tunnels": totals.tunnels,
        "accepted": totals.accepted,
    })
}

async fn backends(Extract(view): Extract<View>) -> Json<Value> {
    Json(json!({ "services": services(&view) }))
}

async fn routes(Extract(view): Extract<View>) -> Json<Value> {
    Json(json!({ "routes": route_list(&view) }))
}

fn no_ip_filter() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_ip_filter",
        "there is no [gate.ip_filter]: everybody may come in",
    )
}

/// The IP filter: rules in force, figures, what was wrong with files.
async fn ip_filter(Extract(view): Extract<View>) -> Result<Json<Value>, Problem> {
    let snapshot = view.shared.snapshot.load();
    let filter = snapshot.ip_filter.as_ref().ok_or_else(no_ip_filter)?;
    Ok(Json(filter.page()))
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    address: IpAddr,
}

/// The verdict on one address by the rules in force, with the rule.
async fn explain_ip(
    Extract(view): Extract<View>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let snapshot = view.shared.snapshot.load_full();
    let filter = snapshot.ip_filter.clone().ok_or_else(no_ip_filter)?;
    // The rule's text is read from its file.
    let told = tokio::task::spawn_blocking(move || {
        let allow = filter.rules().verdict(asked.address).allow;
        json!({ "address": asked.address, "allow": allow, "why": filter.explain(asked.address) })
    });
    told.await.map(Json).map_err(|_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the verdict could not be told",
        )
    })
}

async fn connections(Extract(view): Extract<View>) -> Json<Value> {
    Json(connection_counts(&view))
}

/// How WebSockets began and ended, and what that adds up to.
async fn websockets(Extract(view): Extract<View>) -> Json<Value> {
    let totals = Totals::of(&view.shared.threads);
    Json(view.shared.doctor.page(&totals, Instant::now()))
}

async fn status(Extract(view): Extract<View>) -> Json<Value> {
    let totals = Totals::of(&view.shared.threads);
    let reasons: serde_json::Map<String, Value> = totals
        .reasons
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.code().to_owned(), (*count).into()))
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": view.shared.started.elapsed().as_secs(),
        "draining": view.shared.draining.load(Ordering::Relaxed),
        "routes": route_list(&view),
        "services": services(&view),
        "requests": totals.requests(),
        "bytesReceived": totals.bytes_received,
        "bytesSent": totals.bytes_sent,
        "connections": connection_counts(&view),
        "reasons": reasons,
    }))
}
