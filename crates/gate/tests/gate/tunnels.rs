//! WebSockets and other upgrades.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use munjigi_gate::Gate;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::*;

/// An origin whose WebSockets send back what they get, and say on `closed` why they ended.
async fn echoing(closed: tokio::sync::mpsc::Sender<Option<CloseCode>>) -> Origin {
    origin(move |peer, _| {
        let closed = closed.clone();
        async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async(peer.stream).await else {
                return;
            };
            let mut code = None;
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Close(frame) => code = frame.map(|frame| frame.code),
                    Message::Text(_) | Message::Binary(_) => socket.send(message).await.unwrap(),
                    _ => {}
                }
            }
            closed.send(code).await.unwrap();
        }
    })
    .await
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(gate: &Gate) -> Result<Socket, tungstenite::Error> {
    let address = gate.address("web").unwrap();
    tokio_tungstenite::connect_async(format!("ws://{address}/live"))
        .await
        .map(|(socket, _)| socket)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_passes_on_every_route() {
    let (closed, mut ends) = tokio::sync::mpsc::channel(4);
    let origin = echoing(closed).await;
    let gate = start(settings(&[origin.address])).await;
    let mut socket = open(&gate).await.unwrap();
    for size in [0, 1, 125, 126, 70_000, 1_000_000] {
        let message = Message::Binary(vec![7; size].into());
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    ends.recv().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_says_1001_to_both_sides() {
    let (closed, mut ends) = tokio::sync::mpsc::channel(4);
    let origin = echoing(closed).await;
    let gate = start(settings(&[origin.address])).await;
    let mut socket = open(&gate).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::text("hello")
    );
    let draining = tokio::spawn(gate.drain(Duration::from_secs(10)));
    let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("no close frame");
    };
    assert_eq!(frame.code, CloseCode::Away);
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(ends.recv().await.unwrap(), Some(CloseCode::Away));
    draining.await.unwrap();
}

/// The text of a handshake; `change` replaces one line by others.
fn handshake(change: &str) -> String {
    format!(
        "GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{change}\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_raw_before_a_101_that_fits() {
    let origin = origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(header(&head, "connection"), Some("Upgrade"), "{head}");
        assert_eq!(header(&head, "upgrade"), Some("websocket"), "{head}");
        let answer = match header(&head, "x-case").unwrap() {
            "wrong" => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
            "missing" => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "other" => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            "refused" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            other => panic!("{other}"),
        };
        peer.send(answer).await;
        // What a client sends behind its handshake is no second request for anybody.
        assert_eq!(peer.rest().await, b"");
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    for case in ["wrong", "missing", "other"] {
        let request = handshake(&format!("X-Case: {case}\r\n"));
        let (head, body) = ask(&gate, &request).await;
        assert_eq!(
            (status(&head), code(&body).as_str()),
            (502, "bad_upgrade"),
            "{case}"
        );
    }
    let (head, body) = ask(&gate, &handshake("X-Case: refused\r\n")).await;
    assert_eq!((status(&head), body.as_slice()), (403, b"no".as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origins_of_pages_are_checked_where_the_route_says_so() {
    let (closed, _ends) = tokio::sync::mpsc::channel(4);
    let origin = echoing(closed).await;
    let mut settings = settings(&[origin.address]);
    settings.routes[0].websocket.origins = Some(vec!["https://example.com".to_owned()]);
    let gate = start(settings).await;
    for origin in ["", "Origin: https://evil.example\r\n", "Origin: null\r\n"] {
        let (head, body) = ask(&gate, &handshake(origin)).await;
        assert_eq!(
            (status(&head), code(&body).as_str()),
            (403, "origin_refused"),
            "{origin}"
        );
    }
    let mut client = client(&gate).await;
    client
        .send(&handshake("Origin: https://example.com\r\n"))
        .await;
    assert_eq!(status(&client.head().await.unwrap()), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tunnel_ends_after_idle_and_a_living_one_does_not() {
    let (closed, mut ends) = tokio::sync::mpsc::channel(4);
    let origin = echoing(closed).await;
    let mut settings = settings(&[origin.address]);
    settings.routes[0].websocket.idle = Duration::from_millis(600);
    // Nothing but `idle` cuts a tunnel.
    settings.routes[0].timeout.idle = Duration::from_millis(100);
    settings.routes[0].timeout.response = Duration::from_millis(100);
    let gate = start(settings).await;
    let mut socket = open(&gate).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        socket.send(Message::text("still here")).await.unwrap();
        assert!(socket.next().await.unwrap().is_ok());
    }
    let silent_since = std::time::Instant::now();
    while let Some(Ok(_)) = socket.next().await {}
    assert!(silent_since.elapsed() >= Duration::from_millis(590));
    assert_eq!(ends.recv().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_pass_too_and_may_half_close() {
    let origin = origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(header(&head, "upgrade"), Some("sum"));
        // The first byte of the new protocol comes together with the 101.
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: sum\r\n\r\n>",
        )
        .await;
        let all = peer.rest().await;
        let sum: u32 = all.iter().map(|byte| u32::from(*byte - b'0')).sum();
        peer.send(&sum.to_string()).await;
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    // And the client does not wait for it.
    client
        .send("GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: sum\r\n\r\n123")
        .await;
    assert_eq!(status(&client.head().await.unwrap()), 101);
    assert_eq!(client.exactly(1).await, b">");
    client.send("456").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream)
        .await
        .unwrap();
    assert_eq!(client.rest().await, b"21");
}
