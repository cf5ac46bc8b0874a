//! Backends that speak HTTP/2: requests of either version go to them, many on one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use munjigi_gate::settings::Protocol;

use crate::http2_support::*;
use crate::support::*;

/// An origin of HTTP/2 that answers with what it saw: pseudo-fields, fields, body, trailers.
async fn mirror() -> Origin {
    origin2(|request, mut respond| async move {
        let (head, mut body) = request.into_parts();
        let mut seen = format!("{} {}\r\n", head.method, head.uri);
        for (name, value) in &head.headers {
            seen.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        seen.push_str("\r\n");
        seen.push_str(&String::from_utf8(take(&mut body).await.unwrap()).unwrap());
        let trailers = body.trailers().await.unwrap();
        for (name, value) in &trailers.unwrap_or_default() {
            seen.push_str(&format!("\r\n{name}: {}", value.to_str().unwrap()));
        }
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(seen.into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        stream.send_trailers(trailers).unwrap();
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_both_versions_reach_them() {
    let origin = mirror().await;
    let gate = start(to_http2(&[origin.address])).await;
    // From HTTP/1.1, with a chunked body and trailers; the answer's trailers come back in chunks.
    let mut one = client(&gate).await;
    one.send("POST /a?b HTTP/1.1\r\nHost: Example.com\r\nConnection: X-Hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-End: 9\r\n\r\n")
        .await;
    let head = one.head().await.unwrap();
    assert_eq!(
        header(&head, "transfer-encoding"),
        Some("chunked"),
        "{head}"
    );
    let mut body = String::new();
    loop {
        let size = usize::from_str_radix(&one.line().await, 16).unwrap();
        if size == 0 {
            break;
        }
        body.push_str(&String::from_utf8(one.exactly(size).await).unwrap());
        one.exactly(2).await;
    }
    assert_eq!(one.line().await, "x-sum: 7");
    assert_eq!(one.line().await, "");
    assert!(
        body.starts_with("POST http://Example.com/a?b\r\n"),
        "{body}"
    );
    assert!(body.ends_with("\r\n\r\nhello\r\nx-end: 9"), "{body}");
    assert!(body.contains("x-forwarded-for: 127.0.0.1\r\n"), "{body}");
    for hop in ["x-hop", "connection", "transfer-encoding", "\nhost:", "te:"] {
        assert!(!body.contains(hop), "{hop} in {body}");
    }
    // The connection of the client goes on.
    one.send("GET /c HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        .await;
    let (head, body) = one.response().await;
    assert_eq!(status(&head), 200);
    assert!(body.starts_with(b"GET http://x/c\r\n"));

    // From HTTP/2; `te: trailers` is kept, as a backend of gRPC asks for it.
    let two = client2(&gate).await;
    let mut asked = request("POST", "/d");
    asked
        .headers_mut()
        .insert("te", HeaderValue::from_static("trailers"));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("9"));
    let answer = two
        .send(asked, b"hi".to_vec(), Some(trailers))
        .await
        .unwrap();
    let text = answer.text();
    assert!(text.starts_with("POST http://example.com/d\r\n"), "{text}");
    assert!(text.contains("te: trailers\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nhi\r\nx-end: 9"), "{text}");
    assert_eq!(answer.trailers.unwrap()["x-sum"], "7");
    // An HTTP/1.0 client, which knows no chunks.
    let mut old = client(&gate).await;
    old.send("GET /e HTTP/1.0\r\n\r\n").await;
    let rest = String::from_utf8(old.rest().await).unwrap();
    assert!(
        rest.contains("Connection: close\r\n") && rest.contains("GET http://127.0.0.1:"),
        "{rest}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_body_keep_their_meaning() {
    let origin = origin2(|request, mut respond| async move {
        let mut response = Response::new(());
        let status = match request.uri().path() {
            "/204" => 204,
            "/304" => 304,
            _ => 200,
        };
        *response.status_mut() = status.try_into().unwrap();
        if request.uri().path() != "/204" {
            response
                .headers_mut()
                .insert("content-length", HeaderValue::from_static("5"));
        }
        let ends = request.method() == "HEAD" || status != 200;
        let mut stream = respond.send_response(response, ends).unwrap();
        if !ends {
            stream
                .send_data(Bytes::from_static(b"hello"), true)
                .unwrap();
        }
    })
    .await;
    let gate = start(to_http2(&[origin.address])).await;
    let mut one = client(&gate).await;
    let two = client2(&gate).await;
    let cases = [
        ("GET", "/", 200, "hello", Some("5")),
        ("HEAD", "/", 200, "", Some("5")),
        ("GET", "/204", 204, "", None),
        ("GET", "/304", 304, "", Some("5")),
        ("GET", "/", 200, "hello", Some("5")),
    ];
    for (method, path, expected, text, length) in cases {
        one.send(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        let head = one.head().await.unwrap();
        assert_eq!(
            (status(&head), header(&head, "content-length")),
            (expected, length),
            "{path}"
        );
        assert_eq!(one.exactly(text.len()).await, text.as_bytes());
        let answer = two.ask(request(method, path)).await.unwrap();
        assert_eq!(
            (answer.status(), answer.field("content-length")),
            (expected, length),
            "{path}"
        );
        assert_eq!(answer.text(), text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_a_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let together = Arc::new(tokio::sync::Barrier::new(50));
    let (count, barrier) = (Arc::clone(&connections), Arc::clone(&together));
    let origin = origin(move |peer, _| {
        count.fetch_add(1, Ordering::Relaxed);
        let barrier = Arc::clone(&barrier);
        async move {
            let mut connection = h2::server::handshake(peer.stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let barrier = Arc::clone(&barrier);
                tokio::spawn(async move {
                    barrier.wait().await;
                    reply(&mut respond, "ok");
                });
            }
        }
    })
    .await;
    let gate = start(to_http2(&[origin.address])).await;
    let address = gate.address("web").unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        asking.spawn(async move {
            let mut one = Peer::connect(address).await;
            one.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            one.response().await.1
        });
    }
    while let Some(body) = asking.join_next().await {
        assert_eq!(body.unwrap(), b"ok");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_gets_no_more_streams_than_it_takes() {
    let open = Arc::new(AtomicUsize::new(0));
    let worst = Arc::new(AtomicUsize::new(0));
    let connections = Arc::new(AtomicUsize::new(0));
    let (now, most, count) = (
        Arc::clone(&open),
        Arc::clone(&worst),
        Arc::clone(&connections),
    );
    let origin = origin(move |peer, _| {
        count.fetch_add(1, Ordering::Relaxed);
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(2);
            let mut connection = builder.handshake(peer.stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    reply(&mut respond, "ok");
                });
            }
        }
    })
    .await;
    let mut settings = to_http2(&[origin.address]);
    settings.limits.http2.backend_connections = 2;
    settings.routes[0].timeout.connect = PATIENCE;
    let gate = start(settings).await;
    let client = client2(&gate).await;
    let mut asked = Vec::new();
    for _ in 0..100 {
        asked.push(client.begin(get("/"), true).await.unwrap().0);
    }
    for response in asked {
        let answer = answer(response).await.unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
    }
    assert!(worst.load(Ordering::SeqCst) <= 4, "{worst:?} at once");
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_full_says_so() {
    let hold = Hold::new();
    let held = hold.clone();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let origin = origin2_with(builder, move |_, mut respond| {
        let held = held.clone();
        async move {
            held.wait().await;
            reply(&mut respond, "ok");
        }
    })
    .await;
    let mut settings = to_http2(&[origin.address]);
    settings.limits.http2.backend_connections = 1;
    settings.limits.http2.backend_queue = 1;
    settings.routes[0].timeout.connect = PATIENCE;
    settings.routes[0].retry.attempts = 1;
    let gate = start(settings).await;
    let client = client2(&gate).await;
    let (first, _) = client.begin(get("/"), true).await.unwrap();
    hold.arrival().await;
    let (second, _) = client.begin(get("/"), true).await.unwrap();
    // The third finds one in the stream and one in the queue, once these got there.
    let full = loop {
        let (third, _) = client.begin(get("/"), true).await.unwrap();
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(500), answer(third)).await {
            break answer.unwrap();
        }
    };
    assert_eq!(
        (full.status(), code(&full.body).as_str()),
        (503, "backend_streams")
    );
    assert!(full.field("retry-after").is_some());
    hold.release(1_000);
    assert_eq!(answer(first).await.unwrap().text(), "ok");
    assert_eq!(answer(second).await.unwrap().text(), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_a_backend_did_not_look_at_are_sent_again() {
    // Each connection answers one request, then says that it goes; what came behind it on the
    // same connection was not looked at.
    let origin = origin(|mut peer, number| async move {
        if number % 2 == 0 {
            let mut connection = h2::server::handshake(peer.stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                connection.graceful_shutdown();
            }
        } else {
            // Frames by hand: GOAWAY with last stream 1 on the third request.
            let mut raw = RawServer::new(&mut peer);
            raw.serve().await;
        }
    })
    .await;
    let gate = start(to_http2(&[origin.address])).await;
    let client = client2(&gate).await;
    for method in ["GET", "POST", "GET", "POST"] {
        let answer = client.ask(request(method, "/")).await.unwrap();
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "ok"),
            "{method}"
        );
    }
}

/// A server that answers stream 1 and says goodbye on stream 3.
struct RawServer<'a>(&'a mut Peer);

impl<'a> RawServer<'a> {
    fn new(peer: &'a mut Peer) -> Self {
        Self(peer)
    }

    async fn serve(&mut self) {
        assert_eq!(self.0.exactly(PREFACE.len()).await, PREFACE);
        self.0.send_bytes(&frame(4, 0, 0, &[])).await;
        loop {
            while self.0.buffer.len() < 9 {
                if !self.0.fill().await {
                    return;
                }
            }
            let head = self.0.exactly(9).await;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.0.exactly(length).await;
            match (head[3], stream) {
                (4, _) if head[4] == 0 => self.0.send_bytes(&frame(4, 1, 0, &[])).await,
                (1, 1) => {
                    // :status 200 from the static table.
                    self.0.send_bytes(&frame(1, 4, 1, &[0x88])).await;
                    self.0.send_bytes(&frame(0, 1, 1, b"ok")).await;
                }
                (1, _) => {
                    self.0
                        .send_bytes(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))
                        .await;
                }
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_fail_are_told_apart() {
    // It speaks HTTP/1.1 alone.
    let old = echo().await;
    let gate = start(to_http2(&[old.address])).await;
    let answer = client2(&gate).await.ask(get("/")).await.unwrap();
    assert_eq!(
        (answer.status(), code(&answer.body).as_str()),
        (502, "connect_failed")
    );
    // It breaks off: before an answer, and in the middle of one.
    let breaking = origin2(|request, mut respond| async move {
        if request.uri().path() == "/before" {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        } else {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream
                .send_data(Bytes::from_static(b"half"), false)
                .unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let gate = start(to_http2(&[breaking.address])).await;
    let two = client2(&gate).await;
    let answer = two.ask(get("/before")).await.unwrap();
    assert_eq!(
        (answer.status(), code(&answer.body).as_str()),
        (502, "backend_closed")
    );
    assert!(two.ask(get("/middle")).await.unwrap_err().is_reset());
    let mut one = client(&gate).await;
    one.send("GET /middle HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let rest = String::from_utf8(one.rest().await).unwrap();
    assert!(
        rest.contains("half") && !rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
    // It says nothing: after `response`; or not even that it is there: after the ping.
    let (silent, listener) = deaf().await;
    let gate = {
        let mut settings = to_http2(&[silent]);
        settings.routes[0].timeout.connect = Duration::from_millis(200);
        start(settings).await
    };
    let answer = client2(&gate).await.ask(get("/")).await.unwrap();
    assert_eq!(
        (answer.status(), code(&answer.body).as_str()),
        (504, "connect_timeout")
    );
    drop(listener);
    let slow = origin2(|_, respond| async move {
        tokio::time::sleep(PATIENCE).await;
        drop(respond);
    })
    .await;
    let mut settings = to_http2(&[slow.address]);
    settings.routes[0].timeout.response = Duration::from_millis(200);
    settings.limits.http2.ping = Duration::from_millis(100);
    let gate = start(settings).await;
    let answer = client2(&gate).await.ask(get("/")).await.unwrap();
    assert_eq!(
        (answer.status(), code(&answer.body).as_str()),
        (504, "response_timeout")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_streams_both_ways_and_ends_with_its_status() {
    // The shape of gRPC over HTTP/2: length-prefixed messages both ways at once, the status in
    // trailers, or in the one head of an answer without messages.
    let origin = origin2(|request, mut respond| async move {
        let head = request.headers().clone();
        assert_eq!(head["te"], "trailers");
        assert_eq!(head["content-type"], "application/grpc");
        let mut response = Response::new(());
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", kind);
        if request.uri().path() == "/none" {
            let status = HeaderValue::from_static("12");
            response.headers_mut().insert("grpc-status", status);
            respond.send_response(response, true).unwrap();
            return;
        }
        let mut stream = respond.send_response(response, false).unwrap();
        let mut body = request.into_body();
        while let Some(message) = body.data().await {
            let message = message.unwrap();
            body.flow_control().release_capacity(message.len()).unwrap();
            stream.send_data(message, false).unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("grpc-message", HeaderValue::from_static("fine"));
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let gate = start(to_http2(&[origin.address])).await;
    let client = client2(&gate).await;
    let call = |path: &str| {
        Request::builder()
            .method("POST")
            .uri(format!("http://x{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap()
    };
    let (response, mut stream) = client.begin(call("/echo"), false).await.unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    for number in 0..100_u8 {
        let message = [&[0, 0, 0, 0, 1][..], &[number]].concat();
        stream.send_data(message.clone().into(), false).unwrap();
        // Each message comes back before the next one is sent.
        let mut back = Vec::new();
        while back.len() < message.len() {
            let piece = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            back.extend_from_slice(&piece);
        }
        assert_eq!(back, message);
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"], "fine");

    let (response, _) = client.begin(call("/none"), true).await.unwrap();
    let answer = answer(response).await.unwrap();
    assert_eq!(answer.field("grpc-status"), Some("12"));
    assert_eq!(answer.field("content-length"), None);
    assert!(answer.trailers.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_both_ways_at_once() {
    const SIZE: usize = 32 << 20;
    let origin = origin2(|request, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            let count = piece.len();
            pour(&mut stream, piece, false).await.unwrap();
            body.flow_control().release_capacity(count).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let gate = start(to_http2(&[origin.address])).await;
    let client = client2(&gate).await;
    let body: Vec<u8> = (0..SIZE)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    let answer = client
        .send(request("POST", "/"), body.clone(), None)
        .await
        .unwrap();
    assert!(
        answer.body == body,
        "{} bytes of {SIZE}, or others",
        answer.body.len()
    );
    // And from HTTP/1.1.
    let mut one = Peer::connect(gate.address("web").unwrap()).await;
    one.send(&format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n"
    ))
    .await;
    let (mut reader, mut writer) = one.stream.into_split();
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writer, &sent)
            .await
            .unwrap();
        writer
    });
    let mut seen = 0;
    let mut chunk = vec![0; 1 << 16];
    while seen < SIZE {
        let count = tokio::io::AsyncReadExt::read(&mut reader, &mut chunk)
            .await
            .unwrap();
        assert!(count > 0, "the answer ended after {seen} bytes");
        seen += count;
    }
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_does_not_hold_the_others_back() {
    let origin = origin2(|request, mut respond| async move {
        if request.uri().path() == "/large" {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            drop(pour(&mut stream, vec![7; 64 << 20].into(), true).await);
        } else {
            reply(&mut respond, vec![7; 1 << 20]);
        }
    })
    .await;
    let mut settings = to_http2(&[origin.address]);
    settings.limits.http2.backend_connections = 1;
    let gate = start(settings).await;
    let address = gate.address("web").unwrap();
    // Many that never read: each keeps its own window full.
    let mut lazy = Vec::new();
    for _ in 0..20 {
        let client = connect2(address, 65_535).await;
        let (response, _) = client.begin(get("/large"), true).await.unwrap();
        let body = response.await.unwrap().into_body();
        lazy.push((client, body));
    }
    let client = client2(&gate).await;
    for _ in 0..5 {
        assert_eq!(client.ask(get("/")).await.unwrap().body.len(), 1 << 20);
    }
    drop(lazy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_say_which_protocol_a_service_speaks() {
    assert_eq!(static_service(&[]).protocol, Protocol::Http1);
    assert_eq!(to_http2(&[]).service("APP").protocol, Protocol::Http2);
}
