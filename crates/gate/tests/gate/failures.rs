//! What goes wrong, and what the client is told: each cause has its code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use munjigi_gate::settings::GateSettings;

use crate::support::*;

async fn refused(gate: &munjigi_gate::Gate, request: &str) -> (u16, String, Option<String>) {
    let mut client = client(gate).await;
    client.send(request).await;
    let (head, body) = client.response().await;
    assert_eq!(
        header(&head, "content-type"),
        Some("application/problem+json"),
        "{head}"
    );
    (
        status(&head),
        code(&body),
        header(&head, "connection").map(str::to_owned),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_one_meaning_are_refused_and_closed() {
    let origin = origin(|_, _| async { panic!("it must not get here") }).await;
    let gate = start(settings(&[origin.address])).await;
    let long = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "y".repeat(40_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "X: y\r\n".repeat(101)
    );
    let cases: &[(&str, u16, &str)] = &[
        (
            "GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
            400,
            "bad_request",
        ),
        ("GET / HTTP/1.1\nHost: x\n\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "ambiguous_length",
        ),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "ambiguous_length",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            "unknown_coding",
        ),
        (
            "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
            501,
            "connect_not_served",
        ),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "http_version"),
        (&long, 431, "head_too_large"),
        (&many, 431, "too_many_headers"),
    ];
    for (request, expected, code) in cases {
        let (status, got, connection) = refused(&gate, request).await;
        let shown: String = request.chars().take(60).collect();
        assert_eq!((status, got.as_str()), (*expected, *code), "{shown:?}");
        if *code != "connect_not_served" {
            assert_eq!(connection.as_deref(), Some("close"), "{shown:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_route_takes_is_404_or_405() {
    let origin = echo().await;
    let mut settings = settings(&[origin.address]);
    settings.routes[0].path = munjigi_gate::settings::PathPattern::prefix("/a").unwrap();
    settings.routes[0].methods = Some(vec!["GET".to_owned(), "DELETE".to_owned()]);
    let gate = start(settings).await;
    let mut client = client(&gate).await;
    client.send("GET /b HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, body) = client.response().await;
    assert_eq!((status(&head), code(&body).as_str()), (404, "no_route"));
    client.send("PATCH /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, body) = client.response().await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (405, "method_not_allowed")
    );
    assert_eq!(header(&head, "allow"), Some("DELETE, GET, HEAD"));
    // The connection stays: these requests were understood.
    client.send("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&client.head().await.unwrap()), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn internal_paths_of_the_hub_are_for_the_inner_listener() {
    let origin = echo().await;
    let mut settings = settings(&[]);
    settings.routes[0].service = "HUB".to_owned();
    settings
        .services
        .insert("HUB".to_owned(), static_service(&[origin.address]));
    let gate = start(settings).await;
    for path in [
        "/internal/events",
        "/internal",
        "/%69nternal/events",
        "/a/../internal/events",
        "/a/%2e%2e/internal/events",
        "//internal/events",
        "/./internal/events",
        "/internal%2fevents",
        "/%2569nternal/events",
        "/a/..;/internal/events",
        "/internal;x/events",
        "/INTERNAL/events",
        "/internal/../api",
        "/\\internal/events",
    ] {
        let (head, body) = ask(&gate, &format!("POST {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(
            (status(&head), code(&body).as_str()),
            (404, "internal_path"),
            "{path}"
        );
    }
    for path in ["/internals", "/api/internal/x", "/"] {
        let (head, _) = ask(&gate, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(status(&head), 200, "{path}");
    }
    let mut inner = Peer::connect(gate.address("inner").unwrap()).await;
    inner
        .send("POST /internal/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!(status(&inner.response().await.0), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_beyond_the_limit_are_413_in_either_framing() {
    let origin = echo().await;
    let mut settings = settings(&[origin.address]);
    settings.routes[0].request_body_max = Some(10);
    let gate = start(settings).await;
    let known = refused(
        &gate,
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello world",
    )
    .await;
    assert_eq!((known.0, known.1.as_str()), (413, "body_too_large"));
    let chunked = refused(&gate, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n").await;
    assert_eq!((chunked.0, chunked.1.as_str()), (413, "body_too_large"));
    let (head, _) = ask(
        &gate,
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789",
    )
    .await;
    assert_eq!(status(&head), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_chunk_is_400() {
    let origin = origin(|mut peer, _| async move { drop(peer.rest().await) }).await;
    let gate = start(settings(&[origin.address])).await;
    let (status, code, _) = refused(
        &gate,
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
    )
    .await;
    assert_eq!((status, code.as_str()), (400, "bad_chunk"));
}

/// An address that refuses connections.
async fn closed_port() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_refuses_is_passed_over() {
    let (dead, origin) = (closed_port().await, echo().await);
    let gate = start(settings(&[dead, origin.address])).await;
    for _ in 0..6 {
        let (head, _) = ask(
            &gate,
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        assert_eq!(status(&head), 200);
    }
    let gate = start(settings(&[dead])).await;
    let (head, body) = ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (502, "connect_failed")
    );
    let gate = start(settings(&[])).await;
    let (head, body) = ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((status(&head), code(&body).as_str()), (503, "no_backend"));
    assert!(header(&head, "retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_accept_is_504() {
    // A listener whose queue is full drops what else knocks.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _queued = std::net::TcpStream::connect(address).unwrap();
    let mut settings = settings(&[address]);
    settings.routes[0].timeout.connect = Duration::from_millis(200);
    let gate = start(settings).await;
    let (head, body) = ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (504, "connect_timeout")
    );
}

fn impatient(address: std::net::SocketAddr) -> GateSettings {
    let mut settings = settings(&[address]);
    settings.routes[0].timeout.response = Duration::from_millis(200);
    settings.routes[0].timeout.idle = Duration::from_millis(200);
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_answers_of_a_backend_have_their_codes() {
    let origin = origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        let answer = match head.split(' ').nth(1).unwrap() {
            "/silent" => return drop(peer.rest().await),
            "/closed" => return,
            "/half" => "HTTP/1.1 200 OK\r\nContent-Le",
            "/garbage" => "hello\r\n\r\n",
            "/lengths" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "/bare-lf" => "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            "/101" => "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            other => panic!("{other}"),
        };
        peer.send(answer).await;
    })
    .await;
    let gate = start(impatient(origin.address)).await;
    for (path, expected, reason) in [
        ("/silent", 504, "response_timeout"),
        ("/closed", 502, "backend_closed"),
        ("/half", 502, "backend_closed"),
        ("/garbage", 502, "bad_response"),
        ("/lengths", 502, "bad_response"),
        ("/bare-lf", 502, "bad_response"),
        ("/101", 502, "bad_upgrade"),
    ] {
        let (head, body) = ask(&gate, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(
            (status(&head), code(&body).as_str()),
            (expected, reason),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_is_never_completed() {
    let origin = origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        if head.contains("/length") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
                .await;
        } else {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                .await;
        }
        if head.contains("silent") {
            drop(peer.rest().await);
        }
    })
    .await;
    let gate = start(impatient(origin.address)).await;
    for path in ["/length", "/chunked", "/length-silent", "/chunked-silent"] {
        let mut client = client(&gate).await;
        client
            .send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        let all = client.rest().await;
        let text = String::from_utf8(all).unwrap();
        assert!(text.contains("hello"), "{path}: {text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_was_closed_costs_no_request() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let origin = origin(move |mut peer, number| {
        let counter = Arc::clone(&counter);
        async move {
            peer.head().await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            if number == 0 {
                // The next request arrives, and the connection goes without a word.
                peer.head().await.unwrap();
                return;
            }
            while peer.head().await.is_some() {
                counter.fetch_add(1, Ordering::Relaxed);
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    for _ in 0..3 {
        let (head, _) = ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&head), 200);
    }
    assert_eq!(seen.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_may_not_be_repeated_is_not_repeated() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let origin = origin(move |mut peer, _| {
        let counter = Arc::clone(&counter);
        async move {
            if peer
                .head()
                .await
                .is_some_and(|head| head.starts_with("POST"))
            {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let (head, body) = ask(
        &gate,
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (502, "backend_closed")
    );
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_end_is_408() {
    let origin = echo().await;
    let mut settings = settings(&[origin.address]);
    settings.limits.head = Duration::from_millis(300);
    settings.limits.keep_alive = Duration::from_millis(300);
    let gate = start(settings).await;
    let (status, code, _) = refused(&gate, "GET / HTTP/1.1\r\nHost: x\r\n").await;
    assert_eq!((status, code.as_str()), (408, "head_timeout"));
    // One who says nothing is let go without an answer.
    let mut silent = client(&gate).await;
    assert_eq!(silent.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_slower_than_rate_min_is_408() {
    let echoing = echo().await;
    let mut settings = settings(&[echoing.address]);
    let mut patient = settings.routes[0].clone();
    patient.path = munjigi_gate::settings::PathPattern::prefix("/patient").unwrap();
    patient.timeout.rate_min = None;
    settings.routes.push(patient);
    let (end, mut ended) = tokio::sync::mpsc::channel(1);
    let endless = origin(move |mut peer, _| {
        let end = end.clone();
        async move {
            let since = Instant::now();
            peer.head().await.unwrap();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
                .await;
            let (mut sent, chunk) = (0, vec![7; 64 * 1024]);
            while sent < 1 << 30
                && tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &chunk)
                    .await
                    .is_ok()
            {
                sent += chunk.len();
            }
            end.send((sent, since)).await.unwrap();
        }
    })
    .await;
    let reading = start(crate::support::settings(&[endless.address])).await;
    let gate = Arc::new(start(settings).await);
    let start = Instant::now();
    let upload = |path: &'static str, every: Duration, bytes: usize, count: u32| {
        let gate = Arc::clone(&gate);
        async move {
            let mut client = client(&gate).await;
            let total = bytes * count as usize;
            client
                .send(&format!(
                    "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {total}\r\n\r\n"
                ))
                .await;
            for _ in 0..count {
                tokio::select! {
                    more = client.fill() => {
                        assert!(more);
                        break;
                    }
                    () = tokio::time::sleep(every) => client.send_bytes(&vec![b'x'; bytes]).await,
                }
            }
            let (head, _) = client.response().await;
            (status(&head), start.elapsed())
        }
    };
    let second = Duration::from_secs(1);
    let unread = async {
        let mut client = client(&reading).await;
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        client.head().await.unwrap();
        // The backend's side of the exchange ends with the client's.
        let (sent, since) = ended.recv().await.unwrap();
        assert!(sent < 1 << 30, "the whole answer was sent");
        since.elapsed()
    };
    let lateness = Lateness::measure();
    let (steady, dripping, stalled, patient, unread) = tokio::join!(
        upload("/steady", second, 400, 18),
        upload("/dripping", second, 100, 40),
        upload("/stalled", second * 60, 1, 1),
        upload("/patient", second * 18, 10, 1),
        unread,
    );
    // What the machine was late with, gate and clients alike, is nobody's fault here.
    let late = lateness.so_far();
    let in_time = second * 14..second * 17 + late;
    assert!(in_time.contains(&unread), "after {unread:?}, {late:?} late");
    assert_eq!(steady.0, 200);
    assert_eq!(patient.0, 200);
    for slow in [dripping, stalled] {
        assert_eq!(slow.0, 408);
        assert!(
            in_time.contains(&slow.1),
            "after {:?}, {late:?} late",
            slow.1
        );
    }
}

/// How late timers of this process were, all together: under load a test's own clock runs behind.
struct Lateness {
    millis: Arc<AtomicU64>,
    measuring: tokio::task::JoinHandle<()>,
}

impl Lateness {
    fn measure() -> Self {
        let step = Duration::from_millis(100);
        let millis = Arc::new(AtomicU64::new(0));
        let sum = Arc::clone(&millis);
        let measuring = tokio::spawn(async move {
            loop {
                let since = Instant::now();
                tokio::time::sleep(step).await;
                let over = since.elapsed().saturating_sub(step).as_millis();
                sum.fetch_add(u64::try_from(over).unwrap(), Ordering::Relaxed);
            }
        });
        Self { millis, measuring }
    }

    fn so_far(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.measuring.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_get_503() {
    let origin = echo().await;
    let mut settings = settings(&[origin.address]);
    settings.listeners[0].connections_max = 2;
    let gate = start(settings).await;
    let mut first = client(&gate).await;
    let mut second = client(&gate).await;
    for kept in [&mut first, &mut second] {
        kept.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&kept.response().await.0), 200);
    }
    let mut third = client(&gate).await;
    let (head, body) = third.response().await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (503, "too_many_connections")
    );
    drop(first);
    eventually("a seat is free again", || async {
        let mut next = client(&gate).await;
        next.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        next.head().await.is_some_and(|head| status(&head) == 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_backends_may_vanish_at_any_point() {
    let origin = origin(|mut peer, number| async move {
        // Each connection goes a little further than the one before.
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
        if peer.head().await.is_some() {
            let cut = (number * 7) % (answer.len() + 1);
            peer.send_bytes(&answer[..cut]).await;
            drop(peer.stream.set_zero_linger());
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let mut settings = settings(&[origin.address]);
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789";
    for cut in 0..=request.len() {
        for reset in [false, true] {
            let mut client = client(&gate).await;
            client.send_bytes(&request[..cut]).await;
            if reset {
                client.stream.set_zero_linger().unwrap();
            }
        }
    }
    eventually("nothing is left of them", || async {
        let page = admin(&socket, "/connections").await;
        let value: serde_json::Value = serde_json::from_str(&page).unwrap();
        value["active"] == 0 && value["listeners"][1]["open"] == 0
    })
    .await;
    let page = admin(&socket, "/backends").await;
    let value: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(value["services"][0]["backends"][0]["inFlight"], 0, "{page}");
}
