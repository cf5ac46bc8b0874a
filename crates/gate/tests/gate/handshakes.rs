//! Broken handshakes of WebSockets: each has its code, and good ones have none.

use std::path::Path;

use http::Request;
use munjigi_gate::GateSettings;
use munjigi_gate::ws::handshake::Fault;
use tokio::task::JoinSet;

use crate::http2_support::{both, client2};
use crate::support::*;
use crate::tls_support::*;
use crate::ws_support::*;

/// Settings of a gate whose one route serves WebSockets only.
fn required(origin: &Origin, folder: &Path) -> GateSettings {
    let mut settings = both(&[origin.address]);
    settings.admin.socket = Some(folder.join("admin.sock"));
    let websocket = &mut settings.routes[0].websocket;
    websocket.required = true;
    websocket.origins = Some(vec!["https://example.com".to_owned()]);
    settings
}

/// How often each fault was counted.
async fn counted(folder: &Path) -> Vec<(String, u64)> {
    let metrics = admin(&folder.join("admin.sock"), "/metrics").await;
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("munjigi_gate_websocket_faults_total{code=\""));
    lines
        .map(|line| {
            let (code, rest) = line.split_at("WS001".len());
            let count = rest.rsplit(' ').next().unwrap();
            (code.to_owned(), count.parse().unwrap())
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_handshake_has_its_own_code() {
    let folder = tempfile::tempdir().unwrap();
    let origin = origin(|_, _| async { panic!("none of them reaches the backend") }).await;
    let mut settings = required(&origin, folder.path());
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let cases = [
        (None, "", Fault::PlainRequest, 426),
        (
            Some("Upgrade: websocket\r\n"),
            "",
            Fault::UpgradeMissing,
            426,
        ),
        (
            Some("Upgrade: websocket"),
            "Upgrade: foo",
            Fault::UpgradeWrong,
            426,
        ),
        (
            Some("Connection: Upgrade\r\n"),
            "",
            Fault::ConnectionMissing,
            426,
        ),
        (
            Some("Connection: Upgrade"),
            "Connection: keep-alive",
            Fault::ConnectionWrong,
            426,
        ),
        (Some(key.as_str()), "", Fault::KeyMissing, 400),
        (Some(KEY), "c2hvcnQ=", Fault::KeyWrong, 400),
        (
            Some("Origin"),
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin",
            Fault::KeyRepeated,
            400,
        ),
        (
            Some("Sec-WebSocket-Version: 13\r\n"),
            "",
            Fault::VersionMissing,
            426,
        ),
        (Some("Version: 13"), "Version: 8", Fault::VersionWrong, 426),
        (
            Some("https://example.com"),
            "https://evil.example",
            Fault::OriginRefused,
            400,
        ),
        (Some("GET "), "PUT ", Fault::MethodWrong, 400),
        (Some("HTTP/1.1"), "HTTP/1.0", Fault::OldVersion, 426),
        (
            Some("\r\n\r\n"),
            "\r\nContent-Length: 2\r\n\r\nhi",
            Fault::Body,
            400,
        ),
        (
            Some("Upgrade: websocket\r\nConnection: Upgrade\r\n"),
            "Via: 1.1 hop\r\n",
            Fault::UpgradeLost,
            426,
        ),
    ];
    for (number, (from, to, fault, wanted)) in cases.iter().enumerate() {
        let request = match from {
            Some(from) => HANDSHAKE.replacen(from, to, 1),
            None => "GET /live?a=1 HTTP/1.1\r\nHost: example.com\r\n\r\n".to_owned(),
        };
        let (head, body) = ask(&gate, &request).await;
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status(&head), *wanted, "{fault:?}: {head}");
        assert_eq!(document["code"], fault.code(), "{fault:?}");
        assert_eq!(document["reason"], fault.word(), "{fault:?}");
        assert_eq!(document["url"], "ws://example.com/live?a=1", "{fault:?}");
        let upgrade = (*wanted == 426).then_some("websocket");
        assert_eq!(header(&head, "upgrade"), upgrade, "{fault:?}: {head}");
        if *wanted == 426 {
            let connection = header(&head, "connection").unwrap();
            assert!(connection.starts_with("Upgrade"), "{fault:?}: {head}");
        }
        let version = matches!(fault, Fault::VersionMissing | Fault::VersionWrong);
        assert_eq!(
            header(&head, "sec-websocket-version"),
            version.then_some("13")
        );
        let line = &lines(&log, number + 1).await[number];
        assert_eq!(line["handshake"]["code"], fault.code(), "{line}");
        assert_eq!(line["handshake"]["reason"], fault.word(), "{line}");
        assert_eq!(line["reason"], fault.code(), "{line}");
        assert_eq!(line["status"], *wanted, "{line}");
    }
    let mut expected: Vec<_> = cases
        .iter()
        .map(|case| (case.2.code().to_owned(), 1))
        .collect();
    expected.sort();
    assert_eq!(counted(folder.path()).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_the_answer_has_no_upgrade_field() {
    let folder = tempfile::tempdir().unwrap();
    let origin = origin(|_, _| async { panic!("none of them reaches the backend") }).await;
    let gate = start(required(&origin, folder.path())).await;
    let client = client2(&gate).await;
    eventually("the gate's settings", || async {
        client.requests.is_extended_connect_protocol_enabled()
    })
    .await;
    let plain = || Request::builder().uri("http://example.com/live");
    let connect = |origin: &str| {
        let mut request = Request::builder()
            .method("CONNECT")
            .uri("http://example.com/live")
            .header("origin", origin);
        let protocol = h2::ext::Protocol::from_static("websocket");
        request.extensions_mut().unwrap().insert(protocol);
        request
    };
    let cases = [
        (plain(), Fault::NoExtendedConnect, 426),
        (
            plain().header("sec-websocket-key", KEY),
            Fault::NoExtendedConnect,
            426,
        ),
        (connect("https://example.com"), Fault::VersionMissing, 426),
        (
            connect("https://example.com").header("sec-websocket-version", "12"),
            Fault::VersionWrong,
            426,
        ),
        (
            connect("https://evil.example").header("sec-websocket-version", "13"),
            Fault::OriginRefused,
            400,
        ),
    ];
    for (request, fault, wanted) in cases {
        let request = request.body(()).unwrap();
        let plain = request.method() == "GET";
        let (response, _stream) = client.begin(request, plain).await.unwrap();
        let answer = crate::http2_support::answer(response).await.unwrap();
        assert_eq!(
            (answer.status(), code(&answer.body).as_str()),
            (wanted, fault.code())
        );
        assert_eq!(answer.field("upgrade"), None);
        assert_eq!(answer.field("connection"), None);
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(document["url"], "ws://example.com/live");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_gets_a_page_that_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let origin = echo().await;
    let ca = Authority::new();
    let mut settings = required(&origin, folder.path());
    settings.listeners[1].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
    let gate = start(settings).await;
    let accept = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n";
    let target = "/live?<script>alert(1)</script>&token=hunter2";
    let request = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{accept}\r\n");
    let (head, body) = ask(&gate, &request).await;
    let page = String::from_utf8(body).unwrap();
    assert_eq!(status(&head), 426);
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(
        header(&head, "content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = header(&head, "content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert!(page.contains("ws://a.test/live?&lt;script&gt;"), "{page}");
    assert!(page.contains("WS001"), "{page}");
    for never in ["<script", "hunter2", "src=", "href=", "@import"] {
        assert!(!page.contains(never), "{never}: {page}");
    }
    // Where TLS is spoken, it is wss://; a program that takes anything gets the document.
    let inner = gate.address("inner").unwrap();
    let mut sealed = tls(inner, ca.client(), "a.test").await;
    sealed.send(&request).await;
    let (_, body) = sealed.response().await;
    assert!(String::from_utf8_lossy(&body).contains("wss://a.test/live"));
    let (head, body) = ask(&gate, &request.replace(accept, "Accept: */*\r\n")).await;
    assert_eq!(
        header(&head, "content-type"),
        Some("application/problem+json")
    );
    assert_eq!(code(&body), "WS001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_trusted_proxy_the_scheme_is_the_clients() {
    let folder = tempfile::tempdir().unwrap();
    let origin = echo().await;
    let mut settings = required(&origin, folder.path());
    settings.trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let gate = start(settings).await;
    let request = "GET /live HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Proto: https\r\n\r\n";
    let (_, body) = ask(&gate, request).await;
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["url"], "wss://a.test/live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elsewhere_a_broken_handshake_passes_and_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let origin = answering(|head| {
        assert_eq!(header(head, "sec-websocket-version"), Some("13"));
        response(400, "", "backend")
    })
    .await;
    let mut settings = settings(&[origin.address]);
    settings.admin.socket = Some(folder.path().join("admin.sock"));
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    let keyless = HANDSHAKE.replace(&format!("Sec-WebSocket-Key: {KEY}\r\n"), "");
    let (head, body) = ask(&gate, &keyless).await;
    assert_eq!((status(&head), body.as_slice()), (400, &b"backend"[..]));
    // What is wrong at first counts, not what follows from it.
    let line = &lines(&log, 1).await[0];
    assert_eq!(line["handshake"]["code"], "WS006", "{line}");
    assert_eq!(line["reason"], "done", "{line}");
    // A plain request has no sign of a handshake, and its answer may be anything.
    let plain = "GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    ask(&gate, plain).await;
    assert!(lines(&log, 2).await[1]["handshake"].is_null());
    assert_eq!(counted(folder.path()).await, [("WS006".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_switch_is_noted_and_its_answer_passes() {
    let folder = tempfile::tempdir().unwrap();
    let origin = answering(|head| match header(head, "origin") {
        Some("https://a") => response(200, "", "a page"),
        Some("https://b") => response(426, "Upgrade: websocket\r\nConnection: upgrade\r\n", "no"),
        _ => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\n\r\n".to_owned(),
    })
    .await;
    let mut settings = settings(&[origin.address]);
    settings.admin.socket = Some(folder.path().join("admin.sock"));
    settings.routes[0].websocket.required = true;
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    let from = |origin: &str| HANDSHAKE.replace("https://example.com", origin);
    let (head, body) = ask(&gate, &from("https://a")).await;
    assert_eq!((status(&head), body.as_slice()), (200, &b"a page"[..]));
    // A 426 says what it wants in place of this.
    let (head, body) = ask(&gate, &from("https://b")).await;
    assert_eq!((status(&head), body.as_slice()), (426, &b"no"[..]));
    assert_eq!(header(&head, "upgrade"), Some("websocket"), "{head}");
    let (head, body) = ask(&gate, &from("https://c")).await;
    assert_eq!((status(&head), code(&body).as_str()), (502, "bad_upgrade"));
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["handshake"], "WS019");
    let lines = lines(&log, 3).await;
    for (line, fault) in lines.iter().zip(["WS018", "WS018", "WS019"]) {
        assert_eq!(line["handshake"]["code"], fault, "{line}");
    }
    let expected = [("WS018".to_owned(), 2), ("WS019".to_owned(), 1)];
    assert_eq!(counted(folder.path()).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_and_tls_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let origin = echo().await;
    let ca = Authority::new();
    let mut settings = required(&origin, folder.path());
    settings.listeners[1].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    let mut hello = client(&gate).await;
    hello
        .send_bytes(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])
        .await;
    assert_eq!(hello.rest().await, b"");
    let line = &lines(&log, 1).await[0];
    assert_eq!(line["handshake"]["code"], "WS016", "{line}");
    assert_eq!(line["reason"], "tls_on_plain_port", "{line}");
    let inner = gate.address("inner").unwrap();
    let mut plain = Peer::connect(inner).await;
    plain.send(HANDSHAKE).await;
    let (head, body) = plain.response().await;
    assert_eq!((status(&head), code(&body).as_str()), (400, "WS017"));
    let mut page = Peer::connect(inner).await;
    page.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, body) = page.response().await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (400, "plain_http_on_tls_port")
    );
    let expected = [("WS016".to_owned(), 1), ("WS017".to_owned(), 1)];
    assert_eq!(counted(folder.path()).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_good_handshakes_give_no_code() {
    let folder = tempfile::tempdir().unwrap();
    let origin = origin(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        peer.send(&switch(&head)).await;
        peer.rest().await;
    })
    .await;
    let mut settings = required(&origin, folder.path());
    settings.routes[0].websocket.origins = None;
    let gate = start(settings).await;
    let address = gate.address("web").unwrap();
    let mut clients = JoinSet::new();
    for worker in 0..20_u64 {
        clients.spawn(async move {
            for number in 0..500 {
                let request = good(worker * 500 + number);
                let mut client = Peer::connect(address).await;
                client.send(&request).await;
                let head = client.head().await.unwrap();
                assert_eq!(status(&head), 101, "{request}{head}");
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    // A client can read its answer before the gate has counted it.
    let opened = "munjigi_gate_websockets_opened_total 10000";
    eventually("all are counted", || async {
        let metrics = admin(&folder.path().join("admin.sock"), "/metrics").await;
        metrics.lines().any(|line| line == opened)
    })
    .await;
    assert_eq!(counted(folder.path()).await, []);
}

/// A handshake as clients of all kinds write it.
fn good(number: u64) -> String {
    use base64::Engine;
    let nonce = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let key = base64::engine::general_purpose::STANDARD.encode([nonce, nonce].concat());
    let pick = |all: &[&str], shift: u32| {
        let count = all.len() as u64;
        all[usize::try_from((number >> shift) % count).unwrap()].to_owned()
    };
    let mut lines = [
        pick(
            &[
                "Upgrade: websocket",
                "upgrade: WebSocket",
                "UPGRADE: WEBSOCKET",
            ],
            0,
        ),
        pick(
            &[
                "Connection: Upgrade",
                "connection: keep-alive, Upgrade",
                "Connection: upgrade",
            ],
            1,
        ),
        format!("Sec-WebSocket-Key: {key}"),
        "Sec-WebSocket-Version: 13".to_owned(),
        pick(
            &[
                "Origin: https://example.com",
                "Accept: text/html",
                "Via: 1.1 proxy",
                "Content-Length: 0",
            ],
            3,
        ),
        pick(
            &[
                "Sec-WebSocket-Protocol: chat, superchat",
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
                "X-Forwarded-For: 192.0.2.1",
            ],
            5,
        ),
    ];
    let turn = usize::try_from(number).unwrap() % lines.len();
    lines.rotate_left(turn);
    format!(
        "GET /live?n={number} HTTP/1.1\r\nHost: example.com\r\n{}\r\n\r\n",
        lines.join("\r\n")
    )
}
