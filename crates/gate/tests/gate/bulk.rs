//! Large bodies of known length, which pass within the kernel where nobody wants to see them:
//! what holds for all bodies holds for them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use munjigi_gate::Gate;
use munjigi_gate::settings::GateSettings;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::sync::mpsc::{Receiver, channel};

use crate::support::*;
use crate::tls_support::{Authority, listener_tls, tls};
use crate::ws_support::{break_off, lines, logged};

const MIB: usize = 1 << 20;

/// Bytes of which each place can be told from those near it.
fn bytes(count: usize) -> Vec<u8> {
    (0..count)
        .map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[5])
        .collect()
}

/// A gate before origins that the story plays itself, with its admin socket and its log.
struct Stage {
    gate: Gate,
    socket: PathBuf,
    log: PathBuf,
    peers: Receiver<Peer>,
    _origin: Origin,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn new(change: impl FnOnce(&mut GateSettings, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (taken, peers) = channel(16);
        let origin = origin(move |peer, _| {
            let taken = taken.clone();
            async move { drop(taken.send(peer).await) }
        })
        .await;
        let mut settings = settings(&[origin.address]);
        let socket = folder.path().join("admin.sock");
        settings.admin.socket = Some(socket.clone());
        let log = logged(&mut settings, folder.path());
        change(&mut settings, folder.path());
        let gate = start(settings).await;
        Self {
            gate,
            socket,
            log,
            peers,
            _origin: origin,
            _folder: folder,
        }
    }

    async fn plain() -> Self {
        Self::new(|_, _| {}).await
    }

    /// A client that has sent `head`, and the backend that has read one.
    async fn asked(&mut self, head: &str) -> (Peer, Peer) {
        let mut client = client(&self.gate).await;
        client.send(head).await;
        let mut backend = self.peers.recv().await.unwrap();
        backend.head().await.unwrap();
        (client, backend)
    }

    async fn spliced(&self) -> u64 {
        figure(&self.socket, "munjigi_gate_spliced_bytes_total").await
    }

    /// How the first exchange ended, as the log has it.
    async fn line(&self) -> serde_json::Value {
        lines(&self.log, 1).await.swap_remove(0)
    }
}

fn put(length: usize) -> String {
    format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
}

fn ok(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
}

/// The connection of an answer with this field serves no other request.
const LAST: &str = "Connection: close\r\n";

/// Sends `body` until something is there to be read.
async fn send_until_told(client: &Peer, body: &[u8]) {
    let mut sent = 0;
    loop {
        let wanted = Interest::READABLE | Interest::WRITABLE;
        let ready = tokio::time::timeout(PATIENCE, client.stream.ready(wanted));
        if ready.await.unwrap().unwrap().is_readable() {
            return;
        }
        match client.stream.try_write(&body[sent % body.len()..]) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

/// Sends on a task of its own: the story reads meanwhile.
fn sending(mut peer: Peer, body: Vec<u8>) -> tokio::task::JoinHandle<Peer> {
    tokio::spawn(async move {
        peer.send_bytes(&body).await;
        peer
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_ends_where_it_ends_in_both_directions() {
    let mut stage = Stage::plain().await;
    let body = bytes(8 * MIB);
    let (client, mut backend) = stage.asked(&put(body.len())).await;
    // The next request comes right behind the body, in one piece with its end.
    let next = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut client = sending(client, [&body, next.as_bytes()].concat());
    assert!(
        backend.exactly(body.len()).await == body,
        "it came otherwise"
    );
    let up = stage.spliced().await;
    assert!(up > 0, "nothing passed within the kernel");
    let answered = sending(backend, [ok(body.len()).as_bytes(), &body].concat());
    let mut client = (&mut client).await.unwrap();
    let (head, back) = client.response().await;
    assert!(back == body, "it came back otherwise");
    assert!(stage.spliced().await > up, "down it was copied");
    // The backend's connection is used again: not a byte of it was taken for the first answer.
    let mut backend = answered.await.unwrap();
    assert!(
        backend
            .head()
            .await
            .unwrap()
            .starts_with("GET /next HTTP/1.1")
    );
    backend.send(&response(200, "", "next")).await;
    assert_eq!(client.response().await.1, b"next");
    let line = stage.line().await;
    assert_eq!(line["bytesReceived"], body.len());
    let written = line["bytesSent"].as_u64().unwrap();
    assert_eq!(written, (head.len() + body.len()) as u64);
    assert_eq!(line["reason"], "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_be_seen_is_read() {
    let ca = Authority::new();
    let pair = ca.issue("a", &["a.test"]);
    let mut stage = Stage::new(|settings, _| {
        settings.listeners[1].tls = Some(listener_tls(&[&pair]));
    })
    .await;
    let body = bytes(4 * MIB);
    // A small one.
    let (mut client, mut backend) = stage.asked(&put(16 * 1_024)).await;
    client.send_bytes(&body[..16 * 1_024]).await;
    backend.exactly(16 * 1_024).await;
    backend.send(&response(200, LAST, "ok")).await;
    client.response().await;
    // Chunks.
    let head = "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (client, mut backend) = stage.asked(head).await;
    let size = format!("{:x}\r\n", body.len());
    let chunked = [size.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    let client = sending(client, chunked.clone());
    assert!(backend.body_of(head).await == body);
    let answer = format!("HTTP/1.1 200 OK\r\n{LAST}Transfer-Encoding: chunked\r\n\r\n");
    let answered = sending(backend, [answer.as_bytes(), &chunked].concat());
    assert!(client.await.unwrap().response().await.1 == body);
    drop(answered.await.unwrap());
    // TLS on one side.
    let address = stage.gate.address("inner").unwrap();
    let mut sealed = tls(address, ca.client(), "a.test").await;
    sealed.send(&put(body.len())).await;
    let mut backend = stage.peers.recv().await.unwrap();
    backend.head().await.unwrap();
    let whole = body.clone();
    let sealed = tokio::spawn(async move {
        sealed.send_bytes(&whole).await;
        sealed
    });
    assert!(backend.exactly(body.len()).await == body);
    let answered = sending(backend, [ok(body.len()).as_bytes(), &body].concat());
    assert!(sealed.await.unwrap().response().await.1 == body);
    answered.await.unwrap();
    assert_eq!(stage.spliced().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_behind_many_is_passed_on_at_once() {
    let mut stage = Stage::plain().await;
    let body = bytes(4 * MIB);
    let (mut client, mut backend) = stage.asked(&put(2 * body.len() + 2)).await;
    for _ in 0..2 {
        client = sending(client, body.clone()).await.unwrap();
        assert!(backend.exactly(body.len()).await == body);
        client.send("!").await;
        assert_eq!(backend.exactly(1).await, b"!");
    }
    // The client may say that nothing more comes from it.
    client.stream.shutdown().await.unwrap();
    backend.send(&response(200, "", "ok")).await;
    assert_eq!(client.response().await.1, b"ok");
    assert!(stage.spliced().await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_data_stops_nobody() {
    for behind in [1, 4 * MIB] {
        let mut stage = Stage::plain().await;
        let body = bytes(4 * MIB + behind);
        let (mut client, mut backend) = stage.asked(&put(body.len())).await;
        let whole = body.clone();
        let client = tokio::spawn(async move {
            let (first, rest) = whole.split_at(4 * MIB);
            client.send_bytes(first).await;
            let urgent = || socket2::SockRef::from(&client.stream).send_out_of_band(b"!");
            let sent = client.stream.async_io(Interest::WRITABLE, urgent).await;
            assert_eq!(sent.unwrap(), 1);
            client.send_bytes(rest).await;
            client
        });
        assert!(
            backend.exactly(body.len()).await == body,
            "the urgent byte is no part of the body"
        );
        backend.send(&response(200, "", "ok")).await;
        assert_eq!(client.await.unwrap().response().await.1, b"ok");
        assert!(stage.spliced().await > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_stands_still_stops_the_client_and_learns_that_it_went() {
    let mut stage = Stage::plain().await;
    let (client, mut backend) = stage.asked(&put(1 << 30)).await;
    let body = bytes(MIB);
    let mut sent = 0;
    loop {
        let room = client.stream.writable();
        // As long as the gate takes bytes there is room within this time, many times over.
        if tokio::time::timeout(Duration::from_secs(1), room)
            .await
            .is_err()
        {
            break;
        }
        if let Ok(count) = client.stream.try_write(&body[sent % MIB..]) {
            sent += count;
        }
        assert!(sent < 64 * MIB, "{sent} bytes were taken");
    }
    let goes_on = backend.exactly(sent.min(8 * MIB)).await;
    assert!(
        goes_on
            .chunks(MIB)
            .all(|piece| piece == &body[..piece.len()])
    );
    assert!(stage.spliced().await > 0);
    break_off(client);
    let rest = backend.rest().await;
    assert!(rest.len() + goes_on.len() <= sent);
    let line = stage.line().await;
    // Whichever of the two is seen first: its reset, or the end of its body.
    let reasons = ["client_gone", "request_cut"];
    assert!(
        reasons.iter().any(|reason| line["reason"] == *reason),
        "{line}"
    );
    let socket = stage.socket.clone();
    eventually("nothing is left", || async {
        let page = admin(&socket, "/connections").await;
        let value: serde_json::Value = serde_json::from_str(&page).unwrap();
        value["active"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_in_a_large_body_ends_it() {
    let impatient = |settings: &mut GateSettings, _: &Path| {
        settings.routes[0].timeout.idle = Duration::from_millis(300);
    };
    // A backend that takes nothing more.
    let mut stage = Stage::new(impatient).await;
    let (mut client, backend) = stage.asked(&put(1 << 30)).await;
    send_until_told(&client, &bytes(MIB)).await;
    let (head, body) = client.response().await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (504, "backend_stalled")
    );
    assert!(stage.spliced().await > 0);
    drop(backend);
    // One that sends nothing more.
    let mut stage = Stage::new(impatient).await;
    let (mut client, mut backend) = stage.asked("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let body = bytes(4 * MIB);
    backend.send(&ok(2 * body.len())).await;
    let backend = sending(backend, body.clone());
    client.head().await.unwrap();
    assert!(client.rest().await == body);
    assert_eq!(stage.line().await["reason"], "backend_idle");
    assert!(stage.spliced().await > 0);
    drop(backend.await.unwrap());
    // One that is gone in the middle.
    let mut stage = Stage::plain().await;
    let (mut client, mut backend) = stage.asked("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    backend.send(&ok(2 * body.len())).await;
    let backend = sending(backend, body.clone());
    client.head().await.unwrap();
    assert!(client.exactly(body.len()).await == body);
    drop(backend.await.unwrap());
    assert!(client.rest().await.is_empty());
    assert_eq!(stage.line().await["reason"], "response_cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_in_a_large_body_is_408() {
    let mut stage = Stage::plain().await;
    let (client, mut backend) = stage.asked(&put(1 << 30)).await;
    let body = bytes(4 * MIB);
    let mut client = sending(client, body.clone()).await.unwrap();
    let since = Instant::now();
    assert!(backend.exactly(body.len()).await == body);
    let told = tokio::time::timeout(4 * PATIENCE, client.stream.readable());
    told.await.expect("it may stand still for ever").unwrap();
    assert!(since.elapsed() > Duration::from_secs(14));
    let (head, document) = client.response().await;
    assert_eq!(
        (status(&head), code(&document).as_str()),
        (408, "request_too_slow")
    );
    assert_eq!(stage.line().await["bytesReceived"], body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_a_large_body_that_nobody_wants() {
    let mut stage = Stage::plain().await;
    let (mut client, mut backend) = stage.asked(&put(1 << 30)).await;
    let body = bytes(MIB);
    let backend = tokio::spawn(async move {
        backend.exactly(4 * MIB).await;
        backend.send(&response(413, "", "big")).await;
        backend
    });
    send_until_told(&client, &body).await;
    let (head, body) = client.response().await;
    assert_eq!((status(&head), body.as_slice()), (413, b"big".as_slice()));
    assert_eq!(header(&head, "connection"), Some("close"));
    assert!(stage.spliced().await > 0);
    // A connection in the middle of a body serves nobody else.
    assert!(backend.await.unwrap().rest().await.len() < 64 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_a_large_body() {
    let mut stage = Stage::plain().await;
    let body = bytes(4 * MIB);
    let (client, mut backend) = stage.asked(&put(2 * body.len())).await;
    let address = stage.gate.address("web").unwrap();
    let client = sending(client, body.clone()).await.unwrap();
    assert!(backend.exactly(body.len()).await == body);
    assert!(stage.spliced().await > 0);
    let draining = tokio::spawn(stage.gate.drain(4 * PATIENCE));
    eventually("nothing new is taken", || async {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    let client = sending(client, body.clone());
    assert!(backend.exactly(body.len()).await == body);
    backend.send(&response(200, "", "ok")).await;
    let (head, answer) = client.await.unwrap().response().await;
    assert_eq!((status(&head), answer.as_slice()), (200, b"ok".as_slice()));
    assert_eq!(header(&head, "connection"), Some("close"));
    draining.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fills_the_first_buffer_comes_with_what_follows() {
    let mut stage = Stage::plain().await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut client, mut backend) = stage.asked(get).await;
    // Around the sizes of buffers, with and without a request right behind a body.
    for size in [
        15_000, 16_300, 16_384, 17_000, 65_536, 81_800, 81_920, 100_000, 300_000,
    ] {
        let body = bytes(size);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        backend
            .send_bytes(&[answer.as_bytes(), &body].concat())
            .await;
        let (_, received) = client.response().await;
        assert!(received == body, "an answer of {size} bytes");

        let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
        client
            .send_bytes(&[post.as_bytes(), &body, get.as_bytes()].concat())
            .await;
        let head = backend.head().await.unwrap();
        assert!(head.starts_with("POST"), "{head}");
        assert!(
            backend.exactly(size).await == body,
            "an upload of {size} bytes"
        );
        backend.send(&response(200, "", "taken")).await;
        assert_eq!(client.response().await.1, b"taken");
        let head = backend.head().await.unwrap();
        assert!(head.starts_with("GET"), "behind {size} bytes: {head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_answer_comes_at_once_and_with_its_end() {
    let mut stage = Stage::plain().await;
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let (mut client, mut backend) = stage.asked(last).await;
        let begin = Instant::now();
        backend.send(&response(200, "", "the last words")).await;
        let (head, body) = client.response().await;
        assert_eq!(header(&head, "connection"), Some("close"));
        assert_eq!(body, b"the last words");
        assert_eq!(client.rest().await, b"");
        fastest = fastest.min(begin.elapsed());
    }
    // What waits for more in vain is held for 200 ms (tcp(7), TCP_CORK).
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}
