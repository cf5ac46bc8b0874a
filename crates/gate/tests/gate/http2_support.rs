//! Clients and origins that speak HTTP/2, for the stories.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use munjigi_gate::Gate;
use munjigi_gate::settings::Protocol;
use munjigi_gate::{GateSettings, settings as shapes};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::*;
use crate::tls_support::*;

/// What opens a connection, RFC 9113 §3.4.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Settings of a gate whose listener `web` speaks both versions.
pub(crate) fn both(addresses: &[SocketAddr]) -> GateSettings {
    let mut settings = settings(addresses);
    settings.listeners[0].protocols = vec![Protocol::Http1, Protocol::Http2];
    settings
}

/// Settings of a gate whose backends speak HTTP/2, as its listener does.
pub(crate) fn to_http2(addresses: &[SocketAddr]) -> GateSettings {
    let mut settings = both(addresses);
    let service = shapes::ServiceSettings {
        protocol: Protocol::Http2,
        ..static_service(addresses)
    };
    settings.services.insert("APP".to_owned(), service);
    settings
}

/// A client's connection.
pub(crate) struct Client {
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

pub(crate) async fn client2(gate: &Gate) -> Client {
    connect2(gate.address("web").unwrap(), 1 << 20).await
}

pub(crate) async fn connect2(address: SocketAddr, window: u32) -> Client {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    greet(stream, window).await
}

/// Speaks HTTP/2 on a connection.
pub(crate) async fn greet<S>(stream: S, window: u32) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(window.max(65_535) * 8)
        .initial_max_send_streams(10_000)
        .handshake(stream)
        .await
        .unwrap();
    Client {
        requests,
        connection: tokio::spawn(connection),
    }
}

/// A client that offers both versions over TLS.
pub(crate) async fn sealed2(gate: &Gate, ca: &Authority, name: &str) -> Client {
    let mut config = ca.client();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = tls(gate.address("web").unwrap(), config, name).await;
    let (_, connection) = client.stream.get_ref();
    assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
    greet(client.stream, 1 << 20).await
}

pub(crate) fn get(path: &str) -> Request<()> {
    request("GET", path)
}

pub(crate) fn request(method: &str, path: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(format!("http://example.com{path}"))
        .body(())
        .unwrap()
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    pub(crate) async fn begin(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut ready = self.requests.clone().ready().await?;
        ready.send_request(request, ends)
    }

    pub(crate) async fn ask(&self, request: Request<()>) -> Result<Answer, h2::Error> {
        let (response, _) = self.begin(request, true).await?;
        answer(response).await
    }

    /// With a body, and trailers when there are any.
    pub(crate) async fn send(
        &self,
        request: Request<()>,
        body: Vec<u8>,
        trailers: Option<HeaderMap>,
    ) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.begin(request, false).await?;
        let sending = tokio::spawn(async move {
            pour(&mut stream, body.into(), trailers.is_none()).await?;
            match trailers {
                Some(trailers) => stream.send_trailers(trailers),
                None => Ok(()),
            }
        });
        let answer = answer(response).await;
        sending.abort();
        answer
    }
}

/// Sends as fast as the other side takes it.
pub(crate) async fn pour(
    stream: &mut SendStream<Bytes>,
    mut body: Bytes,
    ends: bool,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let room = match room {
            Some(room) => room?,
            None => return Err(h2::Reason::CANCEL.into()),
        };
        let piece = body.split_to(room.min(body.len()));
        let last = ends && body.is_empty();
        stream.send_data(piece, last)?;
        if last {
            return Ok(());
        }
    }
    if ends {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}

pub(crate) async fn answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let whole = async {
        let (head, mut stream) = response.await?.into_parts();
        let body = take(&mut stream).await?;
        let trailers = stream.trailers().await?;
        Ok(Answer {
            head,
            body,
            trailers,
        })
    };
    tokio::time::timeout(PATIENCE * 3, whole)
        .await
        .expect("no answer in time")
}

/// All data of a stream.
pub(crate) async fn take(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// A server of HTTP/2: each request is handed to `serve`.
pub(crate) async fn origin2<F, T>(serve: F) -> Origin
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> T + Send + Sync + Clone + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    origin2_with(h2::server::Builder::new(), serve).await
}

pub(crate) async fn origin2_with<F, T>(builder: h2::server::Builder, serve: F) -> Origin
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> T + Send + Sync + Clone + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    origin(move |peer, _| {
        let (builder, serve) = (builder.clone(), serve.clone());
        serve2(builder, peer.stream, serve)
    })
    .await
}

/// As [`origin2`], over TLS.
pub(crate) async fn tls_origin2<F, T>(config: ServerConfig, serve: F) -> Origin
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> T + Send + Sync + Clone + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let mut config = config;
    config.alpn_protocols = vec![b"h2".to_vec()];
    tls_origin(config, move |peer, _| {
        serve2(h2::server::Builder::new(), peer.stream, serve.clone())
    })
    .await
}

async fn serve2<S, F, T>(builder: h2::server::Builder, stream: S, serve: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let mut tasks = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        tasks.spawn(serve(request, respond));
    }
}

/// Answers with 200 and a body.
pub(crate) fn reply(respond: &mut SendResponse<Bytes>, body: impl Into<Bytes>) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(body.into(), true).unwrap();
}

/// A connection whose frames are written by hand.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field as a literal without indexing (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        let mut length = text.len();
        if length < 127 {
            bytes.push(u8::try_from(length).unwrap());
        } else {
            bytes.push(127);
            length -= 127;
            while length >= 128 {
                bytes.push(u8::try_from(length % 128).unwrap() | 128);
                length /= 128;
            }
            bytes.push(u8::try_from(length).unwrap());
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The block of a GET.
pub(crate) fn block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pseudo = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
    ];
    for (name, value) in pseudo.iter().chain(more) {
        bytes.extend(field(name, value));
    }
    bytes
}

impl Raw {
    /// Opens a connection and says the empty settings.
    pub(crate) async fn open(gate: &Gate) -> Self {
        Self::open_with(gate, &[]).await
    }

    pub(crate) async fn open_with(gate: &Gate, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(gate.address("web").unwrap())
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Self {
            stream,
            buffer: Vec::new(),
        };
        raw.send(PREFACE).await;
        raw.send(&frame(4, 0, 0, settings)).await;
        raw
    }

    /// Writes; a peer that is gone is no failure of the test.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let [l0, l1, l2, kind, flags, s0, s1, s2, s3, rest @ ..] = self.buffer.as_slice() {
                let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
                if rest.len() >= length {
                    let frame = Frame {
                        kind: *kind,
                        flags: *flags,
                        stream: u32::from_be_bytes([*s0, *s1, *s2, *s3]),
                        payload: rest[..length].to_vec(),
                    };
                    self.buffer.drain(..9 + length);
                    return Some(frame);
                }
            }
            let mut chunk = vec![0; 64 * 1024];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut chunk)).await;
            match read.expect("the gate said nothing in time") {
                Ok(count) if count > 0 => self.buffer.extend_from_slice(&chunk[..count]),
                _ => return None,
            }
        }
    }

    /// The next frame of a kind.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// The code of the GOAWAY that ends the connection.
    pub(crate) async fn goodbye(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == 7 {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }
}

/// A listener whose connections nobody takes.
pub(crate) async fn deaf() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), listener)
}
