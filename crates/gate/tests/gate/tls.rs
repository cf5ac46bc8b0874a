//! TLS with clients and backends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use munjigi_gate::settings::{ListenerSettings, ServiceSettings};
use munjigi_gate::{Gate, GateSettings};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;
use crate::tls_support::*;

const GET: &str = "GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Settings of a gate whose `web` speaks TLS with these certificates.
fn sealed(origin: &Origin, pairs: &[&munjigi_foundation::tls::Pair]) -> GateSettings {
    let mut settings = settings(&[origin.address]);
    settings.listeners[0].tls = Some(listener_tls(pairs));
    settings
}

fn web(gate: &Gate) -> std::net::SocketAddr {
    gate.address("web").unwrap()
}

async fn metrics(socket: &std::path::Path) -> String {
    admin(socket, "/metrics").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_pass_over_both_versions_and_backends_learn_of_it() {
    let ca = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let log = folder.path().join("access.log");
    let pair = ca.issue("a", &["a.test"]);
    let origin = echo().await;
    let mut settings = sealed(&origin, &[&pair]);
    settings.admin.socket = Some(socket.clone());
    settings.access_log = munjigi_gate::settings::AccessLog::File(log.clone());
    let gate = start(settings).await;
    for (version, name) in [(&TLS13, "1.3"), (&TLS12, "1.2")] {
        let mut client = tls(web(&gate), ca.client_of_version(version), "a.test").await;
        for _ in 0..3 {
            client.send(GET).await;
            let (head, body) = client.response().await;
            let body = String::from_utf8(body).unwrap();
            assert_eq!(status(&head), 200);
            assert_eq!(header(&body, "x-forwarded-proto"), Some("https"), "{body}");
            assert!(header(&body, "forwarded").unwrap().ends_with("proto=https"));
        }
        let figures = metrics(&socket).await;
        let line = format!("munjigi_gate_tls_handshakes_total{{side=\"client\",version=\"{name}\"");
        assert!(figures.contains(&line), "{figures}");
    }
    let figures = metrics(&socket).await;
    let expiry = "munjigi_gate_tls_certificate_expiry_seconds{listener=\"web\",certificate=\"0\",names=\"a.test\"} ";
    assert!(figures.contains(expiry), "{figures}");
    eventually("the log names the suite", || async {
        let log = std::fs::read_to_string(&log).unwrap();
        log.contains("\"tls\":{\"cipher\":\"TLS_AES_256_GCM_SHA384\"")
            && log.contains("\"version\":\"1.2\"")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_asked_for_chooses_the_certificate() {
    let ca = Authority::new();
    let exact = ca.issue("exact", &["a.test", "b.test"]);
    let wild = ca.issue("wild", &["*.c.test"]);
    let inside = ca.issue("inside", &["x.c.test"]);
    let origin = echo().await;
    let gate = start(sealed(&origin, &[&exact, &wild, &inside])).await;
    for (name, expected) in [
        ("a.test", &exact),
        ("B.test", &exact),
        ("y.c.test", &wild),
        ("x.c.test", &inside),
    ] {
        let client = tls(web(&gate), ca.client(), name).await;
        assert!(client.shown() == der(expected), "{name}");
    }
    // Neither two labels nor none are covered: the first is shown, which the client refuses.
    for name in ["z.y.c.test", "c.test", "other.test"] {
        let refused = try_tls(web(&gate), &Arc::new(ca.client()), name).await;
        assert!(refused.is_err(), "{name}");
    }
    // Without a name, the first.
    let mut config = ca.client();
    config.enable_sni = false;
    let client = tls(web(&gate), config, "a.test").await;
    assert!(client.shown() == der(&exact));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn post_quantum_and_alpn_are_offered() {
    let ca = Authority::new();
    let origin = echo().await;
    let gate = start(sealed(&origin, &[&ca.issue("a", &["a.test"])])).await;
    let mut config = ca.client();
    config.alpn_protocols = vec![b"h3-future".to_vec(), b"http/1.1".to_vec()];
    let client = tls(web(&gate), config, "a.test").await;
    let (_, connection) = client.stream.get_ref();
    assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
    let group = connection.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let mut config = ca.client();
    config.alpn_protocols = vec![b"h3-future".to_vec()];
    let refused = try_tls(web(&gate), &Arc::new(config), "a.test").await;
    assert!(refused.is_err(), "no protocol in common");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_resumed_by_any_thread_and_across_a_reload() {
    let ca = Authority::new();
    let origin = echo().await;
    let mut settings = sealed(&origin, &[&ca.issue("a", &["a.test"])]);
    settings.threads = 2;
    let gate = start(settings.clone()).await;
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(ca.client_of_version(version));
        for round in 0..8 {
            if round == 4 {
                gate.reload(settings.clone()).unwrap();
            }
            let mut client = try_tls(web(&gate), &config, "a.test").await.unwrap();
            client.send(GET).await;
            assert_eq!(status(&client.response().await.0), 200);
            let kind = client.stream.get_ref().1.handshake_kind().unwrap();
            if round > 0 {
                assert_eq!(kind, HandshakeKind::Resumed, "{version:?} {round}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_required_or_asked_for() {
    let ca = Authority::new();
    let others = Authority::new();
    let pair = ca.issue("a", &["a.test"]);
    let (good, bad) = (
        ca.issue("me", &["me.test"]),
        others.issue("me", &["me.test"]),
    );
    let origin = echo().await;
    for optional in [false, true] {
        let mut settings = sealed(&origin, &[&pair]);
        let tls = settings.listeners[0].tls.as_mut().unwrap();
        tls.client = asking(ca.ca_file(), optional);
        let gate = start(settings).await;
        let served = |config: rustls::ClientConfig| async {
            // With TLS 1.3 the client learns of a refusal only when it reads.
            let Ok(mut client) = try_tls(web(&gate), &Arc::new(config), "a.test").await else {
                return false;
            };
            client.send(GET).await;
            client.head().await.is_some()
        };
        assert!(served(ca.client_with(&good)).await);
        assert!(!served(ca.client_with(&bad)).await);
        assert_eq!(served(ca.client()).await, optional);
        assert_eq!(served(ca.client_of_version(&TLS12)).await, optional);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_a_certificate_is_not_resumed_where_one_is_required() {
    let ca = Authority::new();
    let pair = ca.issue("a", &["a.test"]);
    let origin = echo().await;
    let mut settings = sealed(&origin, &[&pair]);
    let mut strict = ListenerSettings::new("strict", ([127, 0, 0, 1], 0).into());
    strict.tls = Some(listener_tls(&[&pair]));
    strict.tls.as_mut().unwrap().client = asking(ca.ca_file(), false);
    settings.listeners.push(strict);
    let gate = start(settings).await;
    let config = Arc::new(ca.client());
    let mut client = try_tls(web(&gate), &config, "a.test").await.unwrap();
    client.send(GET).await;
    assert_eq!(status(&client.response().await.0), 200);
    let strict = gate.address("strict").unwrap();
    if let Ok(mut client) = try_tls(strict, &config, "a.test").await {
        client.send(GET).await;
        assert!(client.head().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_on_a_tls_port_is_told_and_tls_on_a_plain_one_counted() {
    let ca = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let origin = echo().await;
    let mut settings = sealed(&origin, &[&ca.issue("a", &["a.test"])]);
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let mut client = Peer::connect(web(&gate)).await;
    client.send(GET).await;
    let (head, body) = client.response().await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (400, "plain_http_on_tls_port")
    );
    assert_eq!(header(&head, "connection"), Some("close"));
    assert!(client.rest().await.is_empty());
    let inner = gate.address("inner").unwrap();
    assert!(
        try_tls(inner, &Arc::new(ca.client()), "a.test")
            .await
            .is_err()
    );
    // Something that is neither.
    let mut client = Peer::connect(web(&gate)).await;
    client.send_bytes(&[0; 64]).await;
    assert!(client.rest().await.is_empty());
    // A version of old: an alert, and the end.
    let mut client = Peer::connect(web(&gate)).await;
    client
        .send_bytes(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
        .await;
    let rest = client.rest().await;
    assert_eq!(rest.first(), Some(&21), "{rest:?}");
    eventually("each is counted by its code", || async {
        let figures = metrics(&socket).await;
        [
            "plain_http_on_tls_port\"} 1",
            "tls_on_plain_port\"} 1",
            "tls_handshake_failed\"} 2",
        ]
        .iter()
        .all(|line| figures.contains(line))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_has_its_own_limit() {
    let ca = Authority::new();
    let origin = echo().await;
    let mut settings = sealed(&origin, &[&ca.issue("a", &["a.test"])]);
    settings.limits.handshake = Duration::from_millis(200);
    let gate = start(settings).await;
    let mut client = Peer::connect(web(&gate)).await;
    client.send_bytes(b"\x16\x03\x01\x02").await;
    assert!(client.rest().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_serve_new_connections_and_cut_none() {
    let ca = Authority::new();
    let pair = ca.issue("a", &["a.test"]);
    let first = der(&pair);
    let origin = echo().await;
    let gate = start(sealed(&origin, &[&pair])).await;
    let mut old = tls(web(&gate), ca.client(), "a.test").await;
    assert!(old.shown() == first);
    ca.issue("a", &["a.test"]);
    let second = der(&pair);
    assert!(first != second);
    eventually("the new certificate is shown", || async {
        tls(web(&gate), ca.client(), "a.test").await.shown() == second
    })
    .await;
    old.send(GET).await;
    assert_eq!(status(&old.response().await.0), 200);
    // A key that does not fit: the pair before it goes on, at SIGHUP and by itself.
    let key = std::fs::read_to_string(&pair.key).unwrap();
    replace(
        &pair.key,
        &std::fs::read_to_string(ca.issue("other", &["a.test"]).key).unwrap(),
    );
    let settings = gate.snapshot().settings().clone();
    let error = gate.reload(settings.clone()).unwrap_err().to_string();
    assert!(
        error.contains("does not belong to the certificate"),
        "{error}"
    );
    assert!(tls(web(&gate), ca.client(), "a.test").await.shown() == second);
    replace(&pair.key, &key);
    gate.reload(settings).unwrap();
    old.send(GET).await;
    assert_eq!(status(&old.response().await.0), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_from_tls_to_tls_both_ways() {
    let ca = Authority::new();
    let origin = tls_origin(server_of(&ca.issue("b", &["b.test"])), |peer, _| {
        echo_over(peer)
    })
    .await;
    let mut settings = sealed(&origin, &[&ca.issue("a", &["a.test"])]);
    let service = settings.services.get_mut("APP").unwrap();
    service.tls = Some(ca.trust("b.test"));
    let gate = start(settings).await;
    let mut client = tls(web(&gate), ca.client(), "a.test").await;
    for size in [0, 1, 1_000, 16_384, 16_385, 100_000, 3_000_000] {
        let body: Vec<u8> = (0..size)
            .map(|at| u8::try_from(at * 31 % 251).unwrap())
            .collect();
        let head = format!("POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: {size}\r\n\r\n");
        client.send(&head).await;
        client.send_bytes(&body).await;
        let (head, answer) = client.response().await;
        assert_eq!(status(&head), 200);
        assert!(answer.ends_with(&body), "{size}");
        // In chunks: the backend's answer comes as it was sent.
        client
            .send("POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for chunk in body.chunks(70_000) {
            client.send(&format!("{:x}\r\n", chunk.len())).await;
            client.send_bytes(chunk).await;
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        let (head, answer) = client.response().await;
        assert_eq!(status(&head), 200);
        assert!(answer.ends_with(&body), "{size}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_connections_are_kept_resumed_and_verified() {
    let ca = Authority::new();
    let others = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let origin = tls_origin(
        server_of(&ca.issue("b", &["b.test"])),
        |mut peer: TlsPeer, number| async move {
            let resumed = peer.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            while let Some(head) = peer.head().await {
                let text = format!("{number} {resumed}");
                let close = header(&head, "x-close").is_some();
                let end = if close { "Connection: close\r\n" } else { "" };
                peer.send(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{end}\r\n{text}",
                    text.len()
                ))
                .await;
                if close {
                    drop(peer.stream.shutdown().await);
                    return;
                }
            }
        },
    )
    .await;
    let mut settings = settings(&[origin.address]);
    settings.admin.socket = Some(socket.clone());
    settings.services.get_mut("APP").unwrap().tls = Some(ca.trust("b.test"));
    let gate = start(settings.clone()).await;
    let mut client = client(&gate).await;
    for (request, expected) in [
        (GET, "0 false"),
        (GET, "0 false"),
        (
            "GET /a HTTP/1.1\r\nHost: x\r\nX-Close: 1\r\n\r\n",
            "0 false",
        ),
        (GET, "1 true"),
    ] {
        client.send(request).await;
        let (_, body) = client.response().await;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }
    let figures = metrics(&socket).await;
    assert!(
        figures.contains("side=\"backend\",version=\"1.3\""),
        "{figures}"
    );
    // Another name, another authority, plain: each with its own code, and never a kept connection.
    let plain = crate::support::origin(|mut peer, _| async move {
        peer.fill().await;
        peer.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let check = |change: &dyn Fn(&mut ServiceSettings), expected: &'static str| {
        let mut settings = settings.clone();
        settings.admin.socket = None;
        change(settings.services.get_mut("APP").unwrap());
        let gate = &gate;
        async move {
            gate.reload(settings).unwrap();
            let (head, body) = ask(gate, GET).await;
            assert_eq!((status(&head), code(&body).as_str()), (502, expected));
        }
    };
    check(
        &|service| service.tls = Some(ca.trust("c.test")),
        "backend_certificate_refused",
    )
    .await;
    check(
        &|service| service.tls = Some(others.trust("b.test")),
        "backend_certificate_refused",
    )
    .await;
    let address = plain.address;
    check(
        &|service| {
            *service = static_service(&[address]);
            service.tls = Some(ca.trust("b.test"));
        },
        "backend_tls_failed",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_ends_with_its_connection_must_end_it_in_words() {
    let ca = Authority::new();
    let origin = tls_origin(
        server_of(&ca.issue("b", &["b.test"])),
        |mut peer: TlsPeer, number| async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\n\r\nhalf or whole").await;
            if number == 0 {
                drop(peer.stream.shutdown().await);
            } else {
                // The end of TCP alone: as somebody in between would make it.
                let (socket, _) = peer.stream.get_mut();
                drop(socket.shutdown().await);
            }
            peer.fill().await;
        },
    )
    .await;
    let mut settings = sealed(&origin, &[&ca.issue("a", &["a.test"])]);
    settings.services.get_mut("APP").unwrap().tls = Some(ca.trust("b.test"));
    let gate = start(settings).await;
    let mut client = tls(web(&gate), ca.client(), "a.test").await;
    client.send(GET).await;
    let (_, body) = client.response().await;
    assert_eq!(body, b"half or whole");
    client.send(GET).await;
    client.head().await.unwrap();
    let mut rest = Vec::new();
    let end = client.stream.read_to_end(&mut rest).await;
    rest.splice(0..0, client.buffer.drain(..));
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it is not completed");
    assert!(end.is_err(), "nor ended as if it were complete: {end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_with_a_word() {
    let ca = Authority::new();
    let origin = echo().await;
    let mut settings = sealed(&origin, &[&ca.issue("a", &["a.test"])]);
    settings.limits.keep_alive = Duration::from_millis(200);
    let gate = start(settings).await;
    // Idle for too long; asked to close; ended by the client, whose request is still answered.
    let mut idle = tls(web(&gate), ca.client(), "a.test").await;
    let mut rest = Vec::new();
    assert_eq!(idle.stream.read_to_end(&mut rest).await.unwrap(), 0);
    let mut closing = tls(web(&gate), ca.client(), "a.test").await;
    closing
        .send("GET /a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .await;
    closing.response().await;
    assert_eq!(closing.stream.read_to_end(&mut rest).await.unwrap(), 0);
    let mut half = tls(web(&gate), ca.client(), "a.test").await;
    half.send(GET).await;
    half.stream.shutdown().await.unwrap();
    assert_eq!(status(&half.response().await.0), 200);
    assert_eq!(half.stream.read_to_end(&mut rest).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass_over_tls() {
    let ca = Authority::new();
    let origin = tls_origin(
        server_of(&ca.issue("b", &["b.test"])),
        |peer: TlsPeer, _| async move {
            let mut socket = tokio_tungstenite::accept_async(peer.stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if message.is_binary() || message.is_text() {
                    socket.send(message).await.unwrap();
                }
            }
        },
    )
    .await;
    let mut settings = sealed(&origin, &[&ca.issue("a", &["a.test"])]);
    settings.services.get_mut("APP").unwrap().tls = Some(ca.trust("b.test"));
    let gate = start(settings).await;
    let client = tls(web(&gate), ca.client(), "a.test").await;
    let (mut socket, _) = tokio_tungstenite::client_async("wss://a.test/ws", client.stream)
        .await
        .unwrap();
    for size in [1, 100, 70_000, 500_000] {
        let message = tokio_tungstenite::tungstenite::Message::binary(vec![7; size]);
        socket.send(message.clone()).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
        assert_eq!(answer.unwrap().unwrap(), message);
    }
    // A drain says goodbye in the WebSocket's own words.
    let drained = gate.drain(PATIENCE);
    let (closed, ()) = tokio::join!(socket.next(), drained);
    let closed = closed.unwrap().unwrap();
    assert!(closed.is_close(), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_slow_gets_every_byte() {
    let ca = Authority::new();
    let origin = echo().await;
    let gate = start(sealed(&origin, &[&ca.issue("a", &["a.test"])])).await;
    let mut client = tls(web(&gate), ca.client(), "a.test").await;
    let size = 8_000_000;
    let body = vec![b'x'; size];
    client
        .send(&format!(
            "POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: {size}\r\n\r\n"
        ))
        .await;
    client.send_bytes(&body).await;
    let head = client.head().await.unwrap();
    let length: usize = header(&head, "content-length").unwrap().parse().unwrap();
    let mut got = client.buffer.len();
    let mut piece = vec![0; 300_000];
    while got < length {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let count = client.stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "cut at {got}");
        got += count;
    }
    assert_eq!(got, length);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_go_over_tls_and_a_failed_handshake_is_tried_elsewhere() {
    use munjigi_gate::settings::{HealthSettings, HttpProbe, Probe};
    let ca = Authority::new();
    let others = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let good = tls_origin(server_of(&ca.issue("b", &["b.test"])), |peer, _| {
        echo_over(peer)
    })
    .await;
    let foreign = tls_origin(server_of(&others.issue("b", &["b.test"])), |peer, _| {
        echo_over(peer)
    })
    .await;
    let mut settings = settings(&[foreign.address, good.address]);
    settings.admin.socket = Some(socket.clone());
    let service = settings.services.get_mut("APP").unwrap();
    service.tls = Some(ca.trust("b.test"));
    // Without probes: each request finds its way.
    let gate = start(settings.clone()).await;
    for _ in 0..6 {
        let (head, _) = ask(&gate, GET).await;
        assert_eq!(status(&head), 200);
    }
    drop(gate);
    let service = settings.services.get_mut("APP").unwrap();
    service.health = Some(HealthSettings {
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(5),
        ..HealthSettings::new(Probe::Http(HttpProbe::new("/health")))
    });
    settings.routes[0].retry.attempts = 1;
    let gate = start(settings).await;
    eventually("the foreign one gets no requests", || async {
        let mut good = 0;
        for _ in 0..6 {
            good += u32::from(status(&ask(&gate, GET).await.0) == 200);
        }
        good == 6
    })
    .await;
}
