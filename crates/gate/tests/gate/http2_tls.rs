//! HTTP/2 over TLS: ALPN with clients and backends, and what comes before and after.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use munjigi_gate::proxy_protocol::{self, Version};
use munjigi_gate::settings::{
    AccessLog, HealthSettings, Layer4Settings, Probe, Protocol, ProxyMode, TraceSettings, Transport,
};
use munjigi_gate::{Gate, GateSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http2_support::*;
use crate::support::*;
use crate::tls_support::*;

/// Settings of a gate whose `web` speaks both versions over TLS as `a.test`.
fn sealed(ca: &Authority, origin: &Origin) -> GateSettings {
    let mut settings = both(&[origin.address]);
    settings.listeners[0].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
    settings
}

/// Backends of HTTP/2 over TLS as `b.test`.
fn sealed_service(ca: &Authority, settings: &mut GateSettings) {
    let service = service(settings);
    service.protocol = Protocol::Http2;
    service.tls = Some(ca.trust("b.test"));
}

/// What a client offers by ALPN.
type Offered<'a> = &'a [&'a [u8]];
/// What was agreed on, if there was a handshake.
type Answered<'a> = Option<Option<&'a [u8]>>;

async fn agreed(gate: &Gate, ca: &Authority, offered: &[&[u8]]) -> Option<Option<Vec<u8>>> {
    let mut config = ca.client();
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    let config = Arc::new(config);
    let client = try_tls(gate.address("web").unwrap(), &config, "a.test").await;
    let mut client = client.ok()?;
    let protocol = client
        .stream
        .get_ref()
        .1
        .alpn_protocol()
        .map(<[u8]>::to_vec);
    if protocol.as_deref() == Some(b"h2") {
        let client = greet(client.stream, 1 << 20).await;
        assert!(client.ask(get("/")).await.unwrap().text().contains("https"));
    } else {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let answer = client.head().await;
        // Nobody agreed on anything, and HTTP/1.1 is not served.
        assert_eq!(answer.is_some(), gate_speaks_http1(gate));
    }
    Some(protocol)
}

fn gate_speaks_http1(gate: &Gate) -> bool {
    let snapshot = gate.snapshot();
    let listener = &snapshot.settings().listeners[0];
    listener.protocols.contains(&Protocol::Http1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alpn_chooses_the_version() {
    let ca = Authority::new();
    let origin = echo().await;
    let (one, two): (&[u8], &[u8]) = (b"http/1.1", b"h2");
    let both = [Protocol::Http1, Protocol::Http2];
    let check = async |protocols: &[Protocol], cases: &[(Offered<'_>, Answered<'_>)]| {
        let mut settings = sealed(&ca, &origin);
        settings.listeners[0].protocols = protocols.to_vec();
        let gate = start(settings).await;
        for (offered, expected) in cases {
            let expected = expected.map(|name| name.map(<[u8]>::to_vec));
            let seen = agreed(&gate, &ca, offered).await;
            assert_eq!(seen, expected, "{protocols:?} {offered:?}");
        }
    };
    check(
        &both,
        &[
            (&[two, one], Some(Some(two))),
            (&[one, two], Some(Some(two))),
            (&[one], Some(Some(one))),
            (&[two], Some(Some(two))),
            (&[], Some(None)),
            (&[b"h3"], None),
        ],
    )
    .await;
    check(
        &both[1..],
        &[
            (&[two, one], Some(Some(two))),
            (&[one], None),
            (&[], Some(None)),
        ],
    )
    .await;
    check(
        &both[..1],
        &[
            (&[two, one], Some(Some(one))),
            (&[two], None),
            (&[], Some(None)),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_version_and_tls_and_a_plain_port_knows_tls() {
    let ca = Authority::new();
    let origin = echo().await;
    let log = ca.folder.path().join("access.log");
    let socket = ca.folder.path().join("admin.sock");
    let mut settings = sealed(&ca, &origin);
    settings.access_log = AccessLog::File(log.clone());
    settings.admin.socket = Some(socket.clone());
    let inner = &mut settings.listeners[1];
    inner.protocols = vec![Protocol::Http1, Protocol::Http2];
    let gate = start(settings).await;
    let client = sealed2(&gate, &ca, "a.test").await;
    assert_eq!(client.ask(get("/named")).await.unwrap().status(), 200);
    eventually("the log has the line", || async {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains("/named"));
        line.is_some_and(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["protocol"] == "h2" && line["tls"]["version"] == "1.3"
        })
    })
    .await;
    // Whoever speaks TLS to a port that does not is counted as such.
    let inner = gate.address("inner").unwrap();
    let refused = try_tls(inner, &Arc::new(ca.client()), "a.test").await;
    assert!(refused.is_err());
    eventually("it is counted", || async {
        let figures = admin(&socket, "/metrics").await;
        figures.contains("munjigi_gate_ends_total{reason=\"tls_on_plain_port\"} 1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_names_the_client_before_the_handshake() {
    let ca = Authority::new();
    let origin = echo().await;
    for encrypted in [true, false] {
        let mut settings = sealed(&ca, &origin);
        if !encrypted {
            settings.listeners[0].tls = None;
        }
        settings.listeners[0].proxy_protocol = ProxyMode::V2;
        settings.trusted = vec!["127.0.0.0/8".parse().unwrap()];
        let gate = start(settings).await;
        let destination = "198.51.100.7:443".parse().unwrap();
        let source = "192.0.2.1:1000".parse().unwrap();
        let first = proxy_protocol::write(Version::V2, source, destination);
        let address = gate.address("web").unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(&first).await.unwrap();
        let client = if encrypted {
            let mut config = ca.client();
            config.alpn_protocols = vec![b"h2".to_vec()];
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let name = "a.test".try_into().unwrap();
            greet(connector.connect(name, stream).await.unwrap(), 1 << 20).await
        } else {
            greet(stream, 1 << 20).await
        };
        let seen = client.ask(get("/")).await.unwrap().text();
        assert_eq!(header(&seen, "x-forwarded-for"), Some("192.0.2.1"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_are_told_whose_request_it_is_and_traces_go_on() {
    let origin = origin(|mut peer, number| async move {
        let source = peer.proxied_from().await;
        while let Some(head) = peer.head().await {
            let trace = header(&head, "traceparent").unwrap();
            peer.send(&response(200, "", &format!("{number} {source} {trace}")))
                .await;
        }
    })
    .await;
    let mut settings = both(&[origin.address]);
    service(&mut settings).proxy_protocol = Some(Version::V2);
    let collector = nobody().await;
    settings.trace = Some(TraceSettings::new(&format!("http://{collector}")));
    let gate = start(settings).await;
    let stream = tokio::net::TcpStream::connect(gate.address("web").unwrap())
        .await
        .unwrap();
    let own = stream.local_addr().unwrap();
    let client = greet(stream, 1 << 20).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    // A connection that named its client serves no other, nor twice.
    for number in 0..2 {
        let mut asked = get("/");
        let parent = format!("00-{trace}-b7ad6b7169203331-01");
        let headers = asked.headers_mut();
        headers.insert("traceparent", parent.parse().unwrap());
        let seen = client.ask(asked).await.unwrap().text();
        let expected = format!("{number} {own} 00-{trace}-");
        assert!(seen.starts_with(&expected), "{seen} instead of {expected}");
        assert!(!seen.contains("b7ad6b7169203331"), "{seen}");
    }
}

/// A body that no two places of look alike.
fn body(size: usize) -> Bytes {
    (0..size)
        .map(|at| u8::try_from((at * 31 / 7 + at / 255) % 256).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_both_ways_over_tls_on_both_sides() {
    let ca = Authority::new();
    let config = server_of(&ca.issue("b", &["b.test"]));
    let origin = tls_origin2(config, |request, mut respond| async move {
        let scheme = request.uri().scheme_str().unwrap().to_owned();
        let head = Response::builder().header("x-scheme", scheme);
        let mut answer = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        let mut stream = request.into_body();
        while let Some(Ok(piece)) = stream.data().await {
            stream.flow_control().release_capacity(piece.len()).unwrap();
            if pour(&mut answer, piece, false).await.is_err() {
                return;
            }
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("7"));
        drop(answer.send_trailers(trailers));
    })
    .await;
    let mut settings = sealed(&ca, &origin);
    sealed_service(&ca, &mut settings);
    let gate = start(settings).await;
    let client = sealed2(&gate, &ca, "a.test").await;
    let mut asked = tokio::task::JoinSet::new();
    let client = Arc::new(client);
    for size in [0, 1, 16_384, 70_000, 3_000_000] {
        let client = Arc::clone(&client);
        asked.spawn(async move {
            let sent = body(size);
            let request = request("POST", "/");
            let answer = client.send(request, sent.to_vec(), None).await.unwrap();
            assert!(answer.body == sent, "{size}: {}", answer.body.len());
            assert_eq!(answer.field("x-scheme"), Some("https"));
            assert_eq!(answer.trailers.unwrap()["x-sum"], "7");
        });
    }
    while let Some(done) = asked.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_do_not_agree_on_http2_are_told_apart() {
    let ca = Authority::new();
    let pair = ca.issue("b", &["b.test"]);
    // One that knows no ALPN at all, one that knows another protocol, one of another name.
    let silent = server_of(&pair);
    let mut other = server_of(&pair);
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut foreign = server_of(&ca.issue("c", &["c.test"]));
    foreign.alpn_protocols = vec![b"h2".to_vec()];
    for (config, expected) in [
        (silent, "backend_tls_failed"),
        (other, "backend_tls_failed"),
        (foreign, "backend_certificate_refused"),
    ] {
        let origin = tls_origin(config, |peer, _| echo_over(peer)).await;
        let mut settings = both(&[origin.address]);
        sealed_service(&ca, &mut settings);
        let gate = start(settings).await;
        let answer = client2(&gate).await.ask(get("/")).await.unwrap();
        assert_eq!(
            (answer.status(), code(&answer.body).as_str()),
            (502, expected)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_takes_over_and_connections_end_with_their_requests() {
    let ca = Authority::new();
    let hold = Hold::new();
    let origin = held_origin(&hold).await;
    let gate = start(sealed(&ca, &origin)).await;
    let client = sealed2(&gate, &ca, "a.test").await;
    let (response, _) = client.begin(get("/"), true).await.unwrap();
    hold.arrival().await;
    let requests = client.requests.clone();
    // GOAWAY: no further request may begin, the one under way ends.
    let told = async {
        loop {
            match requests.clone().ready().await {
                Err(error) if error.is_go_away() => return,
                Err(error) => panic!("{error}"),
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let ends = async {
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        hold.release(1);
        assert_eq!(answer(response).await.unwrap().text(), "ok");
        // The end is said (close_notify): else the connection would have an error.
        let ended = tokio::time::timeout(PATIENCE, client.connection).await;
        ended.unwrap().unwrap().unwrap();
    };
    tokio::join!(gate.leave(), ends);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass_over_tls_on_both_sides() {
    let ca = Authority::new();
    let config = server_of(&ca.issue("b", &["b.test"]));
    let origin = tls_origin(config, |mut peer, _| async move {
        let head = peer.head().await.unwrap();
        let key = header(&head, "sec-websocket-key").unwrap();
        let accept = munjigi_gate::ws::accept_for(key.as_bytes());
        peer.send(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"))
            .await;
        let mut piece = [0; 4_096];
        loop {
            match peer.stream.read(&mut piece).await {
                Ok(count) if count > 0 => peer.send_bytes(&piece[..count]).await,
                _ => return,
            }
        }
    })
    .await;
    let mut settings = sealed(&ca, &origin);
    service(&mut settings).tls = Some(ca.trust("b.test"));
    let gate = start(settings).await;
    let client = sealed2(&gate, &ca, "a.test").await;
    // The gate has said that it takes them.
    client.ask(request("GET", "/missing")).await.ok();
    let request = Request::builder()
        .method("CONNECT")
        .uri("https://a.test/live")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    let (response, mut stream) = client.begin(request, false).await.unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut back = response.into_body();
    for size in [1, 200_000] {
        let sent = body(size);
        let (copy, mut seen) = (sent.clone(), Vec::new());
        let receiving = async {
            while seen.len() < size {
                let piece = back.data().await.unwrap().unwrap();
                back.flow_control().release_capacity(piece.len()).unwrap();
                seen.extend_from_slice(&piece);
            }
        };
        let (poured, ()) = tokio::join!(pour(&mut stream, copy, false), receiving);
        poured.unwrap();
        assert!(seen == sent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_speak_as_requests_do() {
    let ca = Authority::new();
    for encrypted in [false, true] {
        let ill = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let state = Arc::clone(&ill);
        let serve = move |request: Request<h2::RecvStream>,
                          mut respond: h2::server::SendResponse<Bytes>| {
            let state = Arc::clone(&state);
            async move {
                let bad = state.load(std::sync::atomic::Ordering::Relaxed);
                let status = if bad && request.uri().path() == "/health" {
                    500
                } else {
                    200
                };
                let head = Response::builder().status(status).body(()).unwrap();
                drop(respond.send_response(head, true));
            }
        };
        let origin = if encrypted {
            tls_origin2(server_of(&ca.issue("b", &["b.test"])), serve).await
        } else {
            origin2(serve).await
        };
        let mut settings = both(&[origin.address]);
        service(&mut settings).protocol = Protocol::Http2;
        if encrypted {
            sealed_service(&ca, &mut settings);
        }
        service(&mut settings).health = Some(HealthSettings {
            interval: Duration::from_millis(50),
            timeout: PATIENCE,
            rise: 1,
            fall: 1,
            ..HealthSettings::new(Probe::Http(munjigi_gate::settings::HttpProbe::new(
                "/health",
            )))
        });
        let gate = start(settings).await;
        let client = client2(&gate).await;
        let becomes = async |status: u16| {
            eventually("the probes see it", || async {
                client.ask(get("/")).await.unwrap().status() == status
            })
            .await;
        };
        becomes(200).await;
        ill.store(true, std::sync::atomic::Ordering::Relaxed);
        becomes(503).await;
        ill.store(false, std::sync::atomic::Ordering::Relaxed);
        becomes(200).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layer_4_passes_what_it_does_not_know() {
    let origin = origin2(|_, mut respond| async move { reply(&mut respond, "through") }).await;
    let mut settings = to_http2(&[origin.address]);
    settings.listeners[1].layer4 = Some(Layer4Settings::new(Transport::Tcp, "APP"));
    let gate = start(settings).await;
    let client = connect2(gate.address("inner").unwrap(), 1 << 20).await;
    assert_eq!(client.ask(get("/")).await.unwrap().text(), "through");
}

#[test]
fn settings_refuse_what_would_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let check = |service: &str, route: &str, expected: &str| {
        let text = format!(
            "[gate.service.A]\nprotocol = \"h2\"\nbackends = [{{ address = \"127.0.0.1:1\" }}]\n{service}\n[[gate.route]]\npath = \"/\"\nservice = \"A\"\n{route}\n"
        );
        let problems = problems(folder.path(), &text);
        assert!(problems.contains(expected), "{problems}");
    };
    check("", "", ": 0 errors");
    check(
        "proxy_protocol = \"v2\"",
        "",
        "`proxy_protocol` does not go with \"h2\"",
    );
    check(
        "",
        "retry = { attempts = 2 }\nhedge = { after = \"1s\" }",
        "`hedge` does nothing for service A: it speaks \"h2\"",
    );
}
