//! WebSockets over HTTP/2 (RFC 8441), toward backends of either version.

use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use munjigi_gate::ws::accept_for;

use crate::http2_support::*;
use crate::support::*;
use crate::ws_support::{lines, logged};

fn handshake(protocol: &'static str) -> Request<()> {
    let mut request = Request::builder()
        .method("CONNECT")
        .uri("http://x/live?a=b")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", "https://example.com")
        .body(())
        .unwrap();
    let protocol = Protocol::from_static(protocol);
    request.extensions_mut().insert(protocol);
    request
}

/// A client that has seen that the gate takes extended CONNECT.
async fn ready(gate: &munjigi_gate::Gate) -> Client {
    let client = client2(gate).await;
    eventually("the gate's settings", || async {
        client.requests.is_extended_connect_protocol_enabled()
    })
    .await;
    client
}

/// A backend of HTTP/1.1 that takes WebSockets and sends back each byte.
async fn echoing() -> Origin {
    origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert!(head.starts_with("GET /live?a=b HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert_eq!(header(&head, "connection"), Some("Upgrade"));
        assert_eq!(header(&head, "sec-websocket-version"), Some("13"));
        let accept = accept_for(header(&head, "sec-websocket-key").unwrap().as_bytes());
        peer.send(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nfirst"))
            .await;
        while peer.fill().await {
            let bytes = std::mem::take(&mut peer.buffer);
            peer.send_bytes(&bytes).await;
        }
    })
    .await
}

/// A backend of HTTP/2 that does.
async fn echoing2() -> Origin {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    origin2_with(builder, |request, mut respond| async move {
        assert_eq!(request.method(), "CONNECT");
        let asked = request.extensions().get::<Protocol>().unwrap();
        assert_eq!(asked.as_str(), "websocket");
        assert_eq!(request.uri().path_and_query().unwrap(), "/live?a=b");
        assert!(!request.headers().contains_key("sec-websocket-key"));
        let mut response = Response::new(());
        let chat = http::HeaderValue::from_static("chat");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", chat);
        let mut stream = respond.send_response(response, false).unwrap();
        stream
            .send_data(Bytes::from_static(b"first"), false)
            .unwrap();
        let mut body = request.into_body();
        while let Some(Ok(piece)) = body.data().await {
            body.flow_control().release_capacity(piece.len()).unwrap();
            if pour(&mut stream, piece, false).await.is_err() {
                return;
            }
        }
        drop(stream.send_data(Bytes::new(), true));
    })
    .await
}

async fn exactly(body: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let piece = tokio::time::timeout(PATIENCE, body.data()).await.unwrap();
        let piece = piece.expect("the tunnel ended").unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        seen.extend_from_slice(&piece);
    }
    seen
}

async fn open(client: &Client) -> (SendStream<Bytes>, RecvStream) {
    let (response, stream) = client.begin(handshake("websocket"), false).await.unwrap();
    let (head, body) = response.await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["sec-websocket-protocol"], "chat");
    for gone in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!head.headers.contains_key(gone), "{gone}");
    }
    (stream, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_a_stream() {
    let (old, new) = (echoing().await, echoing2().await);
    for settings in [both(&[old.address]), to_http2(&[new.address])] {
        let gate = start(settings).await;
        let client = ready(&gate).await;
        let (mut stream, mut body) = open(&client).await;
        assert_eq!(exactly(&mut body, 5).await, b"first");
        for size in [1, 125, 70_000, 1_000_000] {
            let message = vec![u8::try_from(size % 251).unwrap(); size];
            let sent = message.clone();
            let sending = tokio::spawn(async move {
                pour(&mut stream, sent.into(), false).await.unwrap();
                stream
            });
            assert!(exactly(&mut body, size).await == message, "{size}");
            stream = sending.await.unwrap();
        }
        // Another request of the connection beside it is not disturbed; the end is an end.
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(take(&mut body).await.unwrap(), b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_of_http1_reaches_a_backend_of_http2() {
    let origin = echoing2().await;
    let gate = start(to_http2(&[origin.address])).await;
    let mut client = client(&gate).await;
    client.send("GET /live?a=b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), 101, "{head}");
    assert_eq!(
        header(&head, "sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(client.exactly(10).await, b"firstearly");
    client.send("hello").await;
    assert_eq!(client.exactly(5).await, b"hello");

    // A backend that does not take them.
    let plain = origin2(|_, mut respond| async move { reply(&mut respond, "no") }).await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = to_http2(&[plain.address]);
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    let (head, body) = ask(&gate, "GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n").await;
    assert_eq!((status(&head), code(&body).as_str()), (502, "bad_upgrade"));
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["handshake"], "WS021", "{document}");
    let line = &lines(&log, 1).await[0];
    assert_eq!(line["handshake"]["code"], "WS021", "{line}");
    assert_eq!(line["handshake"]["reason"], "backend_takes_none", "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_become_a_websocket_is_answered() {
    let origin = origin(|mut peer, number| async move {
        peer.head().await.unwrap();
        let answer = match number {
            0 => "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
            1 => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
            _ => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
        };
        peer.send(answer).await;
        peer.rest().await;
    })
    .await;
    let mut settings = both(&[origin.address]);
    settings.routes[0].websocket.origins = Some(vec!["https://example.com".to_owned()]);
    let gate = start(settings).await;
    let client = ready(&gate).await;
    let ask = |request: Request<()>| {
        let client = &client;
        async move {
            let (response, _stream) = client.begin(request, false).await.unwrap();
            answer(response).await.unwrap()
        }
    };
    let refused = ask(handshake("websocket")).await;
    assert_eq!((refused.status(), refused.text().as_str()), (403, "no"));
    for _ in 0..2 {
        let wrong = ask(handshake("websocket")).await;
        assert_eq!(
            (wrong.status(), code(&wrong.body).as_str()),
            (502, "bad_upgrade")
        );
    }
    let other = ask(handshake("connect-udp")).await;
    assert_eq!(
        (other.status(), code(&other.body).as_str()),
        (501, "connect_not_served")
    );
    let mut evil = handshake("websocket");
    evil.headers_mut()
        .insert("origin", "https://evil.example".parse().unwrap());
    let evil = ask(evil).await;
    assert_eq!(
        (evil.status(), code(&evil.body).as_str()),
        (403, "origin_refused")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tunnel_ends_after_idle_and_a_reset_ends_it_at_once() {
    let origin = echoing().await;
    let mut settings = both(&[origin.address]);
    settings.routes[0].websocket.idle = Duration::from_millis(500);
    let gate = start(settings).await;
    let client = ready(&gate).await;
    let (_stream, mut body) = open(&client).await;
    assert_eq!(exactly(&mut body, 5).await, b"first");
    let end = tokio::time::timeout(PATIENCE, body.data()).await.unwrap();
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    let (mut stream, mut body) = open(&client).await;
    assert_eq!(exactly(&mut body, 5).await, b"first");
    stream.send_reset(h2::Reason::CANCEL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_says_1001_to_both_sides() {
    let closed = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = std::sync::Arc::clone(&closed);
    let origin = origin(move |mut peer, _| {
        let told = std::sync::Arc::clone(&told);
        async move {
            let head = peer.head().await.unwrap();
            let accept = accept_for(header(&head, "sec-websocket-key").unwrap().as_bytes());
            peer.send(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"))
                .await;
            // A masked close frame with 1001.
            let frame = peer.exactly(8).await;
            assert_eq!(frame[0], 0x88);
            let mask = &frame[2..6];
            assert_eq!([frame[6] ^ mask[0], frame[7] ^ mask[1]], 1001_u16.to_be_bytes());
            told.notify_one();
        }
    })
    .await;
    let gate = start(both(&[origin.address])).await;
    let client = ready(&gate).await;
    let (_stream, mut body) = open(&client).await;
    let draining = tokio::spawn(gate.drain(Duration::from_secs(10)));
    let frame = exactly(&mut body, 4).await;
    assert_eq!(frame[0], 0x88);
    assert_eq!(frame[2..4], 1001_u16.to_be_bytes());
    closed.notified().await;
    draining.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_goes_on_when_another_process_takes_over() {
    let origin = echoing().await;
    let gate = start(both(&[origin.address])).await;
    let client = ready(&gate).await;
    let (mut stream, mut body) = open(&client).await;
    assert_eq!(exactly(&mut body, 5).await, b"first");
    let requests = client.requests.clone();
    let told = async {
        while requests.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let goes_on = async {
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        let message = Bytes::from_static(b"still here");
        pour(&mut stream, message.clone(), false).await.unwrap();
        assert_eq!(exactly(&mut body, message.len()).await, message);
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(take(&mut body).await.unwrap(), b"");
    };
    tokio::join!(gate.leave(), goes_on);
}
