//! Requests and answers that go through.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use munjigi_gate::settings::{PathPattern, RouteSettings};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_to_the_backend_and_the_answer_comes_back() {
    let origin = echo().await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    for path in ["/", "/a?b=c", "/a%2Fb//c/?x=%20", "/a/../b/./c"] {
        client
            .send(&format!(
                "GET {path} HTTP/1.1\r\nHost: Example.com:8080\r\nX-A: 1\r\n\r\n"
            ))
            .await;
        let (head, body) = client.response().await;
        assert_eq!(status(&head), 200, "{head}");
        assert!(header(&head, "date").is_some());
        let seen = String::from_utf8(body).unwrap();
        assert!(
            seen.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{seen}"
        );
        assert_eq!(header(&seen, "host"), Some("Example.com:8080"));
        assert_eq!(header(&seen, "x-a"), Some("1"));
        assert_eq!(header(&seen, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(header(&seen, "x-forwarded-proto"), Some("http"));
        assert_eq!(header(&seen, "x-forwarded-host"), Some("Example.com:8080"));
        assert_eq!(
            header(&seen, "forwarded"),
            Some("for=127.0.0.1;host=\"Example.com:8080\";proto=http")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_both_ways_in_either_framing() {
    let origin = echo().await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    for request in [
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    ] {
        client.send(request).await;
        let (head, body) = client.response().await;
        assert_eq!(status(&head), 200);
        assert!(String::from_utf8(body).unwrap().ends_with("\r\n\r\nhello"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_go_through_but_those_that_frame_or_authorise() {
    let origin = origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        let mut raw = String::new();
        while !raw.ends_with("\r\n\r\n") {
            raw.push_str(&peer.line().await);
            raw.push_str("\r\n");
        }
        let length = raw.len();
        peer.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{raw}"
        ))
        .await;
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let (_, body) = ask(
        &gate,
        "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Repr-Digest\r\n\r\n5\r\nhello\r\n0\r\nRepr-Digest: sha-256=:eA==:\r\nContent-Length: 3\r\nCookie: a=b\r\n\r\n",
    )
    .await;
    let seen = String::from_utf8(body).unwrap();
    assert_eq!(
        seen,
        "5\r\nhello\r\n0\r\nRepr-Digest: sha-256=:eA==:\r\n\r\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_for_this_hop_are_not_forwarded() {
    let origin = origin(|mut peer, _| async move {
        while let Some(head) = peer.head().await {
            for gone in ["keep-alive", "te", "x-hop", "upgrade", "proxy-authorization", "proxy", "connection", "http2-settings"] {
                assert_eq!(header(&head, gone), None, "{head}");
            }
            assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.1"), "{head}");
            assert_eq!(header(&head, "x-forwarded-port"), None, "{head}");
            assert!(header(&head, "forwarded").unwrap().starts_with("for=127.0.0.1;"));
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nX-Kept: 1\r\n\r\n").await;
        }
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let (head, _) = ask(
        &gate,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: x-hop, keep-alive, X-Forwarded-For, upgrade, HTTP2-Settings\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nProxy-Authorization: x\r\nProxy: http://evil\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Port: 1\r\nForwarded: for=1.2.3.4\r\n\r\n",
    )
    .await;
    assert_eq!(status(&head), 200);
    assert_eq!(header(&head, "x-kept"), Some("1"));
    for gone in ["x-secret", "keep-alive", "proxy-connection"] {
        assert_eq!(header(&head, gone), None, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_peer_is_believed_about_those_before_it() {
    let origin = echo().await;
    let mut settings = settings(&[origin.address]);
    settings.trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let gate = start(settings).await;
    let (_, body) = ask(
        &gate,
        "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\n\r\n",
    )
    .await;
    let seen = String::from_utf8(body).unwrap();
    assert_eq!(header(&seen, "x-forwarded-for"), Some("1.2.3.4, 127.0.0.1"));
    assert_eq!(header(&seen, "x-forwarded-proto"), Some("https"));
    assert_eq!(
        header(&seen, "forwarded"),
        Some("for=1.2.3.4, for=127.0.0.1;host=\"x\";proto=http")
    );
    // What it says to us alone is said anew to the backend.
    let (_, body) = ask(
        &gate,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Forwarded-Proto, x-forwarded-host\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: y\r\n\r\n",
    )
    .await;
    let seen = String::from_utf8(body).unwrap();
    assert_eq!(header(&seen, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&seen, "x-forwarded-host"), Some("x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_keep_their_framing_or_get_one_that_the_client_understands() {
    let origin = framings().await;
    let gate = start(settings(&[origin.address])).await;
    let mut one = client(&gate).await;
    let cases = [
        ("GET", "/length", "hello", Some("5"), None),
        ("GET", "/chunked", "hello", None, Some("chunked")),
        ("GET", "/close", "hello", None, Some("chunked")),
        ("GET", "/204", "", None, None),
        ("GET", "/empty", "", Some("0"), None),
    ];
    for (method, path, text, length, coding) in cases {
        one.send(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        let (head, body) = one.response().await;
        assert_eq!(String::from_utf8(body).unwrap(), text, "{path}");
        assert_eq!(header(&head, "content-length"), length, "{path}");
        assert_eq!(header(&head, "transfer-encoding"), coding, "{path}");
    }
    // No body follows these, whatever their length says.
    for (method, path, length) in [
        ("HEAD", "/length", "5"),
        ("GET", "/304", "5"),
        ("HEAD", "/length", "5"),
    ] {
        one.send(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        let head = one.head().await.unwrap();
        assert_eq!(
            header(&head, "content-length"),
            Some(length),
            "{method} {path}"
        );
    }
    one.send("GET /length HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(one.response().await.1, b"hello");

    // An HTTP/1.0 client knows no chunks.
    let mut old = client(&gate).await;
    old.send("GET /chunked HTTP/1.0\r\n\r\n").await;
    let head = old.head().await.unwrap();
    assert_eq!(header(&head, "transfer-encoding"), None);
    assert_eq!(header(&head, "connection"), Some("close"));
    assert_eq!(old.rest().await, b"hello");
    let mut old = client(&gate).await;
    for _ in 0..2 {
        old.send("GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let (head, body) = old.response().await;
        assert_eq!(header(&head, "connection"), Some("keep-alive"));
        assert_eq!(body, b"hello");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let origin = echo().await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    let mut all = String::new();
    for number in 0..50 {
        all.push_str(&format!(
            "POST /{number} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok"
        ));
    }
    client.send(&all).await;
    for number in 0..50 {
        let (head, body) = client.response().await;
        assert_eq!(status(&head), 200);
        assert!(body.starts_with(format!("POST /{number} ").as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_backends_are_kept() {
    let opened = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&opened);
    let origin = origin(move |mut peer, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            while peer.head().await.is_some() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    for _ in 0..20 {
        ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    }
    assert_eq!(opened.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_pass_as_they_come() {
    let origin = origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(header(&head, "expect"), Some("100-continue"));
        peer.send("HTTP/1.1 104 Upload Resumption Supported\r\nLocation: /u/1\r\nUpload-Draft-Interop-Version: 8\r\n\r\n").await;
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(peer.body_of(&head).await, b"hello");
        peer.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    client
        .send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), 104);
    assert_eq!(header(&head, "location"), Some("/u/1"));
    assert_eq!(header(&head, "upload-draft-interop-version"), Some("8"));
    assert_eq!(status(&client.head().await.unwrap()), 103);
    assert_eq!(status(&client.head().await.unwrap()), 100);
    client.send("hello").await;
    assert_eq!(status(&client.head().await.unwrap()), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_come_before_the_upload_has_ended() {
    let origin = origin(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
            .await;
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    client
        .send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        .await;
    client.send_bytes(&vec![0; 100_000]).await;
    let (head, body) = client.response().await;
    assert_eq!((status(&head), body.as_slice()), (413, b"big".as_slice()));
    assert_eq!(header(&head, "connection"), Some("close"));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_still_stops_the_backend() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let origin = origin(move |mut peer, _| {
        let counter = Arc::clone(&counter);
        async move {
            peer.head().await.unwrap();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
                .await;
            let chunk = vec![7; 64 * 1024];
            for _ in 0..16_384 {
                if tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &chunk)
                    .await
                    .is_err()
                {
                    return;
                }
                counter.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.head().await.unwrap();
    let mut last = usize::MAX;
    while sent.load(Ordering::Relaxed) != last {
        last = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // What the kernel's buffers hold, and no more.
    assert!(last < 64 << 20, "{last} bytes were taken from the backend");
    client.buffer.clear();
    let more = client.exactly(8 << 20).await;
    assert!(more.iter().all(|byte| *byte == 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_bodies_are_intact_on_several_threads_at_once() {
    let origin = origin(|mut peer, _| async move {
        while let Some(head) = peer.head().await {
            let body = peer.body_of(&head).await;
            let length = body.len();
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ))
            .await;
            peer.send_bytes(&body).await;
        }
    })
    .await;
    let mut settings = settings(&[origin.address]);
    settings.threads = 2;
    let gate = Arc::new(start(settings).await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16_u8 {
        let gate = Arc::clone(&gate);
        tasks.spawn(async move {
            let body: Vec<u8> = (0..3_000_000_u32)
                .map(|at| (at % 251) as u8 ^ number)
                .collect();
            let mut client = client(&gate).await;
            for _ in 0..3 {
                client
                    .send(&format!(
                        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    ))
                    .await;
                client.send_bytes(&body).await;
                let (head, back) = client.response().await;
                assert_eq!(status(&head), 200);
                assert!(back == body, "the body came back changed");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_goes_through_the_backends() {
    let (first, second) = (named("first").await, named("second").await);
    let gate = start(settings(&[first.address, second.address])).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (_, body) = ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        seen.push(String::from_utf8(body).unwrap());
    }
    assert_eq!(seen, ["first", "second", "first", "second"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_most_specific_route_serves() {
    let mut settings = settings(&[]);
    settings.routes.clear();
    let mut origins = Vec::new();
    let rows: &[(&str, PathPattern, Option<&str>, Option<&str>)] = &[
        ("root", PathPattern::prefix("/").unwrap(), None, None),
        ("api", PathPattern::prefix("/api").unwrap(), None, None),
        (
            "api-get",
            PathPattern::prefix("/api/v1").unwrap(),
            None,
            Some("GET"),
        ),
        (
            "exact",
            PathPattern::Exact("/api/v1/x".to_owned()),
            None,
            None,
        ),
        (
            "regex",
            PathPattern::Regex(regex::Regex::new("^(?:/api/[0-9]+)$").unwrap()),
            None,
            None,
        ),
        (
            "wild",
            PathPattern::prefix("/").unwrap(),
            Some("*.example.com"),
            None,
        ),
        (
            "wilder",
            PathPattern::prefix("/").unwrap(),
            Some("*.b.example.com"),
            None,
        ),
        (
            "host",
            PathPattern::prefix("/w").unwrap(),
            Some("a.example.com"),
            None,
        ),
    ];
    for (name, path, host, method) in rows {
        let origin = named(name).await;
        let mut route = RouteSettings::new(name, path.clone(), name);
        route.hosts = host.map(|host| vec![host.parse().unwrap()]);
        route.methods = method.map(|method| vec![method.to_owned()]);
        settings.routes.push(route);
        settings
            .services
            .insert((*name).to_owned(), static_service(&[origin.address]));
        origins.push(origin);
    }
    let gate = start(settings).await;
    let cases = [
        ("GET", "x", "/", "root"),
        ("GET", "x", "/apix", "root"),
        ("GET", "x", "/api", "api"),
        ("GET", "x", "/api/", "api"),
        ("GET", "x", "/api/7", "regex"),
        ("GET", "x", "/api/7/8", "api"),
        ("GET", "x", "/api/v1/x", "exact"),
        ("GET", "x", "/api/v1/y", "api-get"),
        ("POST", "x", "/api/v1/y", "api"),
        ("GET", "x", "/api/%76%31/y", "api-get"),
        ("GET", "x", "/other/../api/v1/y", "api-get"),
        ("GET", "q.example.com", "/api", "wild"),
        ("GET", "Q.B.example.com:80", "/api", "wilder"),
        ("GET", "example.com", "/", "root"),
        ("GET", "a.example.com", "/w/x", "host"),
        ("GET", "a.example.com", "/z", "wild"),
    ];
    for (method, host, path, expected) in cases {
        let (_, body) = ask(
            &gate,
            &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        )
        .await;
        assert_eq!(
            String::from_utf8(body).unwrap(),
            expected,
            "{method} {host} {path}"
        );
    }
}

/// What a client leaves unread stays with its backend but for a part that is small: else a thousand slow readers take all
/// the memory that the kernel has for TCP.
#[tokio::test]
async fn a_client_that_reads_nothing_holds_little_of_a_body() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let origin = origin(move |mut peer, _| {
        let count = Arc::clone(&count);
        async move {
            let socket = socket2::SockRef::from(&peer.stream);
            socket.set_send_buffer_size(64 * 1024).unwrap();
            peer.head().await.unwrap();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
                .await;
            let chunk = vec![0; 64 * 1024];
            while let Ok(sent) = tokio::io::AsyncWriteExt::write(&mut peer.stream, &chunk).await {
                count.fetch_add(sent, Ordering::Relaxed);
            }
        }
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let mut before = usize::MAX;
    let settled = loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = written.load(Ordering::Relaxed);
        if now > 0 && now == before {
            break now;
        }
        before = now;
    };
    println!("{settled} bytes left the backend");
    // 1.1 to 4.5 MB, as the gate's own receive buffer grew; 5.6 to 8.5 without the bound on what waits for the client.
    assert!(settled < 5 << 20, "{settled} bytes left the backend");
}

/// `./test --long`: a gigabyte in each direction, in bounded memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a while; ./test --long runs it"]
async fn a_gigabyte_passes_each_way_in_bounded_memory() {
    const GIB: usize = 1 << 30;
    let origin = origin(|mut peer, _| async move {
        peer.head().await.unwrap();
        let mut left = GIB - peer.buffer.len();
        let mut chunk = vec![0; 256 * 1024];
        while left > 0 {
            let count = tokio::io::AsyncReadExt::read(&mut peer.stream, &mut chunk)
                .await
                .unwrap();
            assert!(count > 0);
            left -= count;
        }
        peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"))
            .await;
        for _ in 0..GIB / chunk.len() {
            peer.send_bytes(&chunk).await;
        }
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let before = resident();
    let mut client = client(&gate).await;
    client
        .send(&format!(
            "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {GIB}\r\n\r\n"
        ))
        .await;
    let chunk = vec![1; 256 * 1024];
    for _ in 0..GIB / chunk.len() {
        client.send_bytes(&chunk).await;
    }
    client.head().await.unwrap();
    let mut left = GIB - client.buffer.len();
    let mut peak = 0;
    let mut chunk = vec![0; 256 * 1024];
    while left > 0 {
        let count = tokio::io::AsyncReadExt::read(&mut client.stream, &mut chunk)
            .await
            .unwrap();
        assert!(count > 0, "{left} bytes are missing");
        left -= count;
        peak = peak.max(resident());
    }
    assert!(
        peak < before + (32 << 20),
        "resident grew from {before} to {peak}"
    );
}

/// Resident bytes of this process.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}
