//! Listening sockets and the HTTP server of the control roles (hub, worker, registry, admin).
//!
//! The gate's data path has an engine of its own; it takes only [`bind`] from here.

mod sockets;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::tls::{ServerSettings, ServerTls, TlsError};
pub use sockets::{Sockets, label};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Binds a listening TCP socket that does not block. With `share`, several sockets may listen on the same address
/// (`SO_REUSEPORT`), one for each thread.
///
/// # Errors
/// What the kernel says, as it says it.
pub fn bind(address: SocketAddr, share: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The limits of one HTTP server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections served at once; more wait unaccepted.
    pub connections: usize,
    /// How long a client may take to send a request's head.
    pub head: Duration,
    /// How long requests in flight may take once the server shuts down.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            head: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// A listening socket, and the TLS that its connections speak.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Self {
        Self {
            listener,
            tls: None,
        }
    }
}

impl Door {
    /// With the certificates of an address, if it has any.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn open(listener: TcpListener, tls: Option<&ServerSettings>) -> Result<Self, TlsError> {
        let load = |tls: &ServerSettings| ServerTls::load(tls.clone(), &[b"http/1.1"]);
        let tls = tls.map(load).transpose()?.map(Arc::new);
        Ok(Self { listener, tls })
    }
}

/// Among a request's extensions: it came over TLS.
#[derive(Debug, Clone, Copy)]
pub struct OverTls;

/// Serves `router` on a listener until `shutdown`; then lets requests in flight end, for at most `limits.drain`. Files
/// of certificates are read again when they change.
///
/// Handlers can take the peer by `ConnectInfo<SocketAddr>`, and [`OverTls`] from the extensions.
pub async fn serve(
    door: impl Into<Door>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let Door { listener, tls } = door.into();
    let mut watcher = JoinSet::new();
    if let Some(tls) = &tls {
        let place = listener.local_addr().map(|address| address.to_string());
        watcher.spawn(ServerTls::watch(
            Arc::downgrade(tls),
            place.unwrap_or_default(),
        ));
    }
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                accept_failed(&error).await;
                continue;
            }
        };
        drop(stream.set_nodelay(true));
        let (router, head, shutdown) = (router.clone(), limits.head, shutdown.clone());
        let tls = tls.as_ref().map(|tls| tls.config());
        connections.spawn(async move {
            match tls {
                None => serve_connection(stream, Some(peer), router, head, shutdown).await,
                Some(tls) => {
                    let router = router.layer(Extension(OverTls));
                    if let Some(stream) = shake_hands(stream, tls, head).await {
                        serve_connection(stream, Some(peer), router, head, shutdown).await;
                    }
                }
            }
            drop(permit);
        });
    }
    finish(connections, limits.drain).await;
}

/// Tells a client of plain HTTP that TLS is spoken here.
async fn answer_plain(mut stream: TcpStream) {
    let document = "{\"status\":400,\"code\":\"plain_http_on_tls_port\",\"title\":\"Bad Request\",\"detail\":\"this port speaks HTTPS\",\"hint\":\"use https:// in the address\"}\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{document}",
        document.len()
    );
    let answered = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What was sent is read, or the kernel would take the answer back by a reset.
        let mut rest = stream.take(64 * 1024);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // A client that goes away is its own affair.
    drop(answered.await);
}

/// The handshake, within the time of a head. `None` when there is none: whoever failed to agree was told by an alert.
async fn shake_hands(
    stream: TcpStream,
    tls: Arc<rustls::ServerConfig>,
    within: Duration,
) -> Option<TlsStream<TcpStream>> {
    let shaken = async {
        let mut first = [0];
        stream.peek(&mut first).await.ok()?;
        if first.first().is_some_and(u8::is_ascii_alphabetic) {
            answer_plain(stream).await;
            return None;
        }
        let accepted = TlsAcceptor::from(tls).accept(stream).await;
        accepted
            .inspect_err(|error| tracing::debug!(%error, "TLS handshake failed"))
            .ok()
    };
    tokio::time::timeout(within, shaken).await.ok().flatten()
}

/// As [`serve`], on a Unix socket.
pub async fn serve_unix(
    listener: UnixListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                accept_failed(&error).await;
                continue;
            }
        };
        let connection =
            serve_connection(stream, None, router.clone(), limits.head, shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    finish(connections, limits.drain).await;
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    // Out of descriptors, most likely: trying again at once would only burn the processor.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn finish(connections: TaskTracker, drain: Duration) {
    connections.close();
    if tokio::time::timeout(drain, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            left = connections.len(),
            "connections were cut after the drain time"
        );
    }
}

async fn serve_connection<S>(
    stream: S,
    peer: Option<SocketAddr>,
    router: Router,
    head: Duration,
    shutdown: CancellationToken,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            if let Some(peer) = peer {
                request.extensions_mut().insert(ConnectInfo(peer));
            }
            let response = router.oneshot(request).await;
            Ok::<_, Infallible>(response.unwrap_or_else(|never| match never {}))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        // A client that goes away is its own affair.
        ended = connection.as_mut() => return drop(ended),
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}
