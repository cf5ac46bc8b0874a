//! HTTP/2 from clients, to backends of HTTP/1.1.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use munjigi_gate::settings::Protocol;
use tokio::sync::Semaphore;

use crate::http2_support::*;
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_bytes_say_which_version_a_client_speaks() {
    let origin = echo().await;
    let gate = start(both(&[origin.address])).await;
    let two = client2(&gate).await;
    let answer = two.ask(get("/two")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        answer.text().starts_with("GET /two HTTP/1.1\r\n"),
        "{}",
        answer.text()
    );
    let (head, body) = ask(&gate, "GET /one HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&head), 200);
    assert!(body.starts_with(b"GET /one HTTP/1.1\r\n"));
    // Byte by byte, and a beginning that only looks like it.
    let mut slow = client(&gate).await;
    for byte in b"PRINT / HTTP/1.1\r\nHost: x\r\n\r\n" {
        slow.send_bytes(&[*byte]).await;
    }
    assert!(slow.response().await.1.starts_with(b"PRINT / HTTP/1.1\r\n"));

    let mut settings = both(&[origin.address]);
    settings.listeners[0].protocols = vec![Protocol::Http2];
    let only = start(settings).await;
    assert_eq!(
        client2(&only).await.ask(get("/")).await.unwrap().status(),
        200
    );
    let mut one = client(&only).await;
    one.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let rest = one.rest().await;
    assert!(!rest.windows(4).any(|part| part == b"HTTP"), "{rest:?}");

    let plain = start(crate::support::settings(&[origin.address])).await;
    let (head, _) = ask(&plain, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(status(&head) >= 400, "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_becomes_one_of_http1() {
    let origin = echo().await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    let asked = Request::builder()
        .uri("http://Example.com:81/a?b=c")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-own", "v")
        .header("te", "trailers")
        .header("x-forwarded-for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .body(())
        .unwrap();
    let seen = client.ask(asked).await.unwrap().text();
    assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "host"), Some("Example.com:81"));
    assert_eq!(header(&seen, "cookie"), Some("a=1; b=2"));
    assert_eq!(header(&seen, "x-own"), Some("v"));
    assert_eq!(header(&seen, "te"), None);
    assert_eq!(header(&seen, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(&seen, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&seen, "content-length"), None);
    assert_eq!(header(&seen, "transfer-encoding"), None);
    let expected = "for=127.0.0.1;host=\"Example.com:81\";proto=http";
    assert_eq!(header(&seen, "forwarded"), Some(expected));

    let sized = Request::builder()
        .method("POST")
        .uri("http://x/")
        .header("content-length", "5")
        .body(())
        .unwrap();
    let seen = client.send(sized, b"hello".to_vec(), None).await.unwrap();
    assert_eq!(header(&seen.text(), "content-length"), Some("5"));
    assert!(seen.text().ends_with("hello"));
    let seen = client
        .send(request("POST", "/"), b"hello".to_vec(), None)
        .await
        .unwrap();
    assert_eq!(header(&seen.text(), "transfer-encoding"), Some("chunked"));
    assert!(seen.text().ends_with("hello"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_every_framing_arrive() {
    let origin = framings().await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    let cases = [
        ("GET", "/length", 200, "hello", Some("5")),
        ("GET", "/chunked", 200, "hello", None),
        ("GET", "/close", 200, "hello", None),
        ("GET", "/204", 204, "", None),
        ("GET", "/304", 304, "", Some("5")),
        ("GET", "/empty", 200, "", Some("0")),
        ("GET", "/hints", 200, "hello", Some("5")),
        ("HEAD", "/length", 200, "", Some("5")),
    ];
    for (method, path, status, text, length) in cases {
        let asked = request(method, path);
        let answer = client
            .ask(asked)
            .await
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.text(), text, "{method} {path}");
        assert_eq!(answer.field("content-length"), length, "{method} {path}");
        assert!(answer.field("date").is_some(), "{method} {path}");
        for hop in ["connection", "keep-alive", "x-hop", "transfer-encoding"] {
            assert_eq!(answer.field(hop), None, "{method} {path}");
        }
        let trailers = answer.trailers.unwrap_or_default();
        let expected = usize::from(path == "/chunked");
        assert_eq!(trailers.len(), expected, "{path}: {trailers:?}");
    }
    // The hint itself.
    let (mut response, _) = client.begin(get("/hints"), true).await.unwrap();
    let hint = std::future::poll_fn(|context| response.poll_informational(context))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(hint.status(), 103);
    assert_eq!(hint.headers()["link"], "</a>");
    assert_eq!(answer(response).await.unwrap().text(), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_and_expectations_pass_upward() {
    let origin = origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(header(&head, "expect"), Some("100-continue"));
        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(peer.line().await, "5");
        assert_eq!(peer.exactly(7).await, b"hello\r\n");
        assert_eq!(peer.line().await, "0");
        assert_eq!(peer.line().await, "x-sum: 7");
        assert_eq!(peer.line().await, "");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        peer.rest().await;
    })
    .await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    let mut asked = request("POST", "/");
    let expect = HeaderValue::from_static("100-continue");
    asked.headers_mut().insert("expect", expect);
    let (mut response, mut stream) = client.begin(asked, false).await.unwrap();
    let go_on = std::future::poll_fn(|context| response.poll_informational(context)).await;
    assert_eq!(go_on.unwrap().unwrap().status(), 100);
    stream
        .send_data(Bytes::from_static(b"hello"), false)
        .unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert("authorization", HeaderValue::from_static("too late"));
    stream.send_trailers(trailers).unwrap();
    assert_eq!(answer(response).await.unwrap().text(), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_one_meaning_are_refused() {
    let origin = origin(|_, _| async { panic!("it must not get here") }).await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    let with = |name: &'static str, value: &str| {
        let mut asked = get("/");
        asked.headers_mut().append(name, value.parse().unwrap());
        asked
    };
    let mut twice = with("content-length", "0");
    twice
        .headers_mut()
        .append("content-length", "0".parse().unwrap());
    let mut many = get("/");
    for number in 0..101 {
        many.headers_mut().append("x", number.into());
    }
    let long = "y".repeat(40_000);
    let cases = [
        (with("host", "other"), 400, "bad_host"),
        (twice, 400, "ambiguous_length"),
        (with("x-long", &long), 431, "head_too_large"),
        (many, 431, "too_many_headers"),
        (request("CONNECT", ""), 501, "connect_not_served"),
    ];
    for (asked, status, expected) in cases {
        let answer = client.ask(asked).await.unwrap();
        assert_eq!(
            answer.field("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(
            (answer.status(), code(&answer.body).as_str()),
            (status, expected)
        );
    }
    // Each of these is a stream error of type PROTOCOL_ERROR (RFC 9113 §8.1.1), or an answer.
    let malformed: &[(&[(&str, &str)], &str)] = &[
        (&[("connection", "close")], "8.2.2"),
        (&[("transfer-encoding", "chunked")], "8.2.2"),
        (&[("upgrade", "x")], "8.2.2"),
        (&[("keep-alive", "1")], "8.2.2"),
        (&[("proxy-connection", "close")], "8.2.2"),
        (&[("te", "gzip")], "8.2.2"),
        (&[(":status", "200")], "8.3"),
        (&[("x", "y"), (":path", "/")], "8.3"),
        (&[("content-length", "5")], "8.1.1"),
        (&[("content-length", "1"), ("content-length", "2")], "8.1.1"),
        (&[("content-length", "x")], "8.1.1"),
    ];
    for (fields, section) in malformed {
        let mut raw = Raw::open(&gate).await;
        raw.send(&frame(1, 0x5, 1, &block("/", fields))).await;
        let reset = raw
            .next_of(3)
            .await
            .unwrap_or_else(|| panic!("RFC 9113 {section}: {fields:?}"));
        assert_eq!(
            (reset.stream, reset.payload.as_slice()),
            (1, &[0, 0, 0, 1][..]),
            "{fields:?}"
        );
    }
    // What no field can hold breaks the block, and with it the connection (§8.2.1, §5.4.1).
    for (name, value) in [
        ("X-Upper", "v"),
        ("x", "a\rb"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        ("x y", "v"),
    ] {
        let mut raw = Raw::open(&gate).await;
        raw.send(&frame(1, 0x5, 1, &block("/", &[(name, value)])))
            .await;
        let code = raw.goodbye().await;
        assert!(
            code.is_some_and(|code| code != 0),
            "{name:?} {value:?}: {code:?}"
        );
    }
    // A value with blanks around it is malformed, too (§8.2.1): the answer names it.
    for path in ["http://other/", "x"] {
        let mut raw = Raw::open(&gate).await;
        raw.send(&frame(1, 0x5, 1, &block(path, &[]))).await;
        let first = loop {
            let frame = raw.next().await.unwrap();
            if frame.stream == 1 {
                break frame;
            }
        };
        assert!(first.kind == 1 || first.kind == 3, "{path}: {first:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_differs_from_its_length_never_reaches_its_end() {
    let steps = Arc::new(Semaphore::new(0));
    let seen = Arc::clone(&steps);
    let origin = origin(move |mut peer, _| {
        let seen = Arc::clone(&seen);
        async move {
            let head = peer.head().await.unwrap();
            assert_eq!(header(&head, "content-length"), Some("10"));
            assert_eq!(peer.exactly(1).await, b"x");
            seen.add_permits(1);
            assert!(peer.rest().await.len() < 9);
            seen.add_permits(1);
        }
    })
    .await;
    let gate = start(both(&[origin.address])).await;
    for body in [&b"short"[..], b"longer than ten"] {
        let mut raw = Raw::open(&gate).await;
        let mut fields = block("/", &[("content-length", "10")]);
        // POST in place of GET.
        fields.splice(..field(":method", "GET").len(), field(":method", "POST"));
        raw.send(&frame(1, 0x4, 1, &fields)).await;
        raw.send(&frame(0, 0, 1, b"x")).await;
        steps.acquire().await.unwrap().forget();
        raw.send(&frame(0, 0x1, 1, body)).await;
        let reset = raw.next_of(3).await.unwrap();
        assert_eq!(
            (reset.stream, reset.payload.as_slice()),
            (1, &[0, 0, 0, 1][..])
        );
        steps.acquire().await.unwrap().forget();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejections_are_documents() {
    let origin = echo().await;
    let mut settings = both(&[origin.address]);
    settings.routes[0].path = munjigi_gate::settings::PathPattern::prefix("/a").unwrap();
    settings.routes[0].methods = Some(vec!["GET".to_owned(), "POST".to_owned()]);
    settings.routes[0].request_body_max = Some(10);
    let gate = start(settings).await;
    let client = client2(&gate).await;
    let asked = client.ask(get("/b")).await.unwrap();
    assert_eq!(
        (asked.status(), code(&asked.body).as_str()),
        (404, "no_route")
    );
    let wrong = client.ask(request("PUT", "/a")).await.unwrap();
    assert_eq!(
        (wrong.status(), wrong.field("allow")),
        (405, Some("GET, HEAD, POST"))
    );
    let large = client
        .send(request("POST", "/a"), vec![7; 11], None)
        .await
        .unwrap();
    assert_eq!(
        (large.status(), code(&large.body).as_str()),
        (413, "body_too_large")
    );
    let head = client.ask(request("HEAD", "/b")).await.unwrap();
    assert_eq!((head.status(), head.body.len()), (404, 0));
    assert!(head.field("content-length").is_some());
    // The connection goes on.
    assert_eq!(client.ask(get("/a")).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_come_before_the_upload_has_ended() {
    let origin = origin(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
            .await;
        peer.rest().await;
    })
    .await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    let (response, mut stream) = client.begin(request("POST", "/"), false).await.unwrap();
    let answered = answer(response).await.unwrap();
    assert_eq!((answered.status(), answered.text().as_str()), (403, "no"));
    // RFC 9113 §8.1: the rest of the upload is not wanted, and that is no error.
    let reset = std::future::poll_fn(|context| stream.poll_reset(context)).await;
    assert_eq!(reset.unwrap(), h2::Reason::NO_ERROR);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_ends_the_exchange_with_the_backend() {
    let steps = Arc::new(Semaphore::new(0));
    let seen = Arc::clone(&steps);
    let origin = origin(move |mut peer, _| {
        let seen = Arc::clone(&seen);
        async move {
            peer.head().await.unwrap();
            seen.add_permits(1);
            assert_eq!(peer.rest().await, b"");
            seen.add_permits(1);
        }
    })
    .await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    for _ in 0..3 {
        let (response, mut stream) = client.begin(get("/"), true).await.unwrap();
        steps.acquire().await.unwrap().forget();
        stream.send_reset(h2::Reason::CANCEL);
        steps.acquire().await.unwrap().forget();
        drop(response);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_answer_is_never_completed() {
    let origin = origin(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            .await;
    })
    .await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    let error = client.ask(get("/")).await.unwrap_err();
    assert!(error.is_reset() && error.is_remote(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_fail_are_told_apart() {
    let (refusing, listener) = deaf().await;
    drop(listener);
    let gate = start(both(&[refusing])).await;
    let answer = client2(&gate).await.ask(get("/")).await.unwrap();
    assert_eq!(
        (answer.status(), code(&answer.body).as_str()),
        (502, "connect_failed")
    );
    let closing = origin(|mut peer, _| async move {
        peer.head().await;
    })
    .await;
    let gate = start(both(&[closing.address])).await;
    let answer = client2(&gate)
        .await
        .ask(request("POST", "/"))
        .await
        .unwrap();
    assert_eq!(
        (answer.status(), code(&answer.body).as_str()),
        (502, "backend_closed")
    );
    let silent = origin(|mut peer, _| async move {
        peer.rest().await;
    })
    .await;
    let mut settings = both(&[silent.address]);
    settings.routes[0].timeout.response = Duration::from_millis(100);
    let gate = start(settings).await;
    let answer = client2(&gate).await.ask(get("/")).await.unwrap();
    assert_eq!(
        (answer.status(), code(&answer.body).as_str()),
        (504, "response_timeout")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_at_once() {
    let together = Arc::new(tokio::sync::Barrier::new(1_000));
    let origin = {
        let together = Arc::clone(&together);
        origin(move |mut peer, _| {
            let together = Arc::clone(&together);
            async move {
                while let Some(head) = peer.head().await {
                    together.wait().await;
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    let length = path.len();
                    peer.send(&format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}"
                    ))
                    .await;
                }
            }
        })
        .await
    };
    let mut settings = both(&[origin.address]);
    settings.limits.http2.streams = 1_000;
    let gate = start(settings).await;
    let client = client2(&gate).await;
    let mut asked = Vec::new();
    for number in 0..1_000 {
        let path = format!("/{number}");
        let (response, _) = client.begin(get(&path), true).await.unwrap();
        asked.push((path, response));
    }
    for (path, response) in asked {
        assert_eq!(answer(response).await.unwrap().text(), path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_both_ways_at_once() {
    const SIZE: usize = 64 << 20;
    // Sends back what it gets, while it gets it.
    let origin = origin(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"
        ))
        .await;
        let mut left = SIZE;
        while left > 0 {
            let line = peer.line().await;
            let size = usize::from_str_radix(&line, 16).unwrap();
            let piece = peer.exactly(size).await;
            peer.exactly(2).await;
            left -= size;
            peer.send_bytes(&piece).await;
        }
        peer.rest().await;
    })
    .await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    let body: Vec<u8> = (0..SIZE)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    let answer = client
        .send(request("POST", "/"), body.clone(), None)
        .await
        .unwrap();
    assert_eq!(answer.body.len(), SIZE);
    assert!(answer.body == body, "the bytes differ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_stands_still_holds_the_client_back() {
    let hold = Hold::new();
    let held = hold.clone();
    let origin = origin(move |mut peer, _| {
        let held = held.clone();
        async move {
            while let Some(head) = peer.head().await {
                if head.starts_with("POST") {
                    held.wait().await;
                }
                let body = peer.body_of(&head).await;
                peer.send(&response(200, "", &body.len().to_string())).await;
            }
        }
    })
    .await;
    let gate = start(both(&[origin.address])).await;
    let client = client2(&gate).await;
    let (response, mut stream) = client.begin(request("POST", "/"), false).await.unwrap();
    let size = 64 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        let mut left = size;
        while left > 0 {
            let piece = left.min(1 << 16);
            let last = left == piece;
            pour(&mut stream, vec![0; piece].into(), last)
                .await
                .unwrap();
            left -= piece;
            counted.fetch_add(piece, Ordering::Relaxed);
        }
    });
    // Until it stands still, others of the connection are served.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(client.ask(get("/")).await.unwrap().text(), "0");
    }
    assert!(
        before < size / 2,
        "{before} bytes were taken for a backend that takes none"
    );
    hold.release(1);
    assert_eq!(answer(response).await.unwrap().text(), size.to_string());
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_says_goodbye_twice_and_lets_requests_end() {
    let hold = Hold::new();
    let origin = held_origin(&hold).await;
    let gate = start(both(&[origin.address])).await;
    let mut raw = Raw::open(&gate).await;
    raw.send(&frame(4, 1, 0, &[])).await;
    raw.send(&frame(1, 0x5, 1, &block("/", &[]))).await;
    // An answer to a ping: the request before it was read.
    raw.send(&frame(6, 0, 0, &[1; 8])).await;
    raw.next_of(6).await.unwrap();
    let draining = tokio::spawn(gate.drain(Duration::from_secs(20)));
    let first = raw.next_of(7).await.unwrap();
    assert_eq!(first.payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let ping = raw.next_of(6).await.unwrap();
    raw.send(&frame(6, 1, 0, &ping.payload)).await;
    let second = raw.next_of(7).await.unwrap();
    assert_eq!(second.payload[..8], [0, 0, 0, 1, 0, 0, 0, 0]);
    hold.release(1);
    let data = raw.next_of(0).await.unwrap();
    assert_eq!(data.payload, b"ok");
    assert_eq!(raw.next().await, None);
    draining.await.unwrap();
}
