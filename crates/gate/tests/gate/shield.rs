//! The shield over real sockets: signals, bans, whom nobody bans, every way in, bans that are kept.
//! Clients are named by a trusted proxy, 127.0.0.1, since loopback is never banned.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use munjigi_foundation::clock::{Clock, Timestamp};
use munjigi_gate::shield::{BanFile, BanStore};
use munjigi_gate::{Gate, GateSettings, Wiring};
use tokio::net::UdpSocket;

use crate::http2_support::*;
use crate::support::*;
use crate::tls_support::*;

const TRUSTED: &str = "[gate.client_ip]\ntrusted = [\"127.0.0.0/8\"]\n";
const ROUTE: &str = "[[gate.route]]\npath = \"/app\"\nservice = \"APP\"\n";

/// An origin that serves /app, and /app/missing not.
async fn app() -> Answering {
    answering(|head| {
        let missing = head.split(' ').nth(1).unwrap().starts_with("/app/missing");
        response(if missing { 404 } else { 200 }, "", "")
    })
    .await
}

fn shielded(folder: &Path, origin: SocketAddr, shield: &str) -> GateSettings {
    let text = format!("{ROUTE}{TRUSTED}[gate.shield]\n{shield}\n");
    let mut settings = written(folder, &[("APP", origin)], &text);
    settings.admin.socket = Some(folder.join("admin.sock"));
    settings.data = folder.join("gate-data");
    settings
}

fn wiring(folder: &Path, clock: &Clock) -> Wiring {
    Wiring {
        clock: clock.clone(),
        bans: Some(Arc::new(BanFile::new(&folder.join("gate-data")))),
        ..Wiring::default()
    }
}

fn noon() -> Clock {
    Clock::manual(Timestamp::from_millis(1_795_262_400_000))
}

async fn shielded_at_noon(folder: &Path, origin: SocketAddr, shield: &str) -> Gate {
    let settings = shielded(folder, origin, shield);
    Gate::start(settings, wiring(folder, &noon()))
        .await
        .unwrap()
}

/// What `client` gets for a request, as a proxy brings it: the status, and the code of a problem.
async fn ask_as(gate: &Gate, client: &str, line: &str, fields: &str) -> (u16, String) {
    let request =
        format!("{line} HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {client}\r\n{fields}\r\n");
    let (head, body) = ask(gate, &request).await;
    let code = match status(&head) {
        200 => String::new(),
        404 if body.is_empty() => "of the backend".to_owned(),
        _ => code(&body),
    };
    (status(&head), code)
}

async fn get(gate: &Gate, client: &str, path: &str) -> (u16, String) {
    ask_as(gate, client, &format!("GET {path}"), "").await
}

fn answer(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn bans(folder: &Path) -> serde_json::Value {
    serde_json::from_str(&admin(&folder.join("admin.sock"), "/bans").await).unwrap()
}

/// An order to the admin face, and its answer with the status.
async fn order(folder: &Path, request: &str, body: &str) -> (u16, serde_json::Value) {
    let stream = tokio::net::UnixStream::connect(folder.join("admin.sock"))
        .await
        .unwrap();
    let mut peer = Peer::new(stream);
    let length = body.len();
    peer.send(&format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
    .await;
    let (head, body) = peer.response().await;
    (status(&head), serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_denied_paths_are_answered_and_the_sixth_request_is_banned() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let clock = noon();
    let mut settings = shielded(
        folder.path(),
        origin.address,
        "deny_path = [\"*.php\", \"/app/private/*\"]",
    );
    settings.threads = 2;
    let gate = Gate::start(settings, wiring(folder.path(), &clock))
        .await
        .unwrap();
    let who = "203.0.113.7";
    for path in [
        "/a.php",
        "/app/b.php",
        "/app/private/x",
        "/app/C.PHP",
        "/d%2ephp?x=1",
    ] {
        assert_eq!(
            get(&gate, who, path).await,
            answer(403, "denied_path"),
            "{path}"
        );
    }
    assert_eq!(get(&gate, who, "/app").await, answer(403, "banned"));
    assert_eq!(
        get(&gate, "203.0.113.8", "/app").await.0,
        200,
        "others are not"
    );
    let listed = bans(folder.path()).await;
    let ban = &listed["bans"][0];
    assert_eq!(listed["total"], 1);
    assert_eq!(ban["address"], who);
    assert_eq!(ban["count"], 6, "{ban}");
    assert_eq!(ban["reason"], "denied_path 5");
    assert_eq!(ban["firstPath"], "/a.php");
    assert_eq!(ban["until"], "2026-11-21T13:00:00.000Z");
    // It ends by itself, and the next one is twice as long.
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(get(&gate, who, "/app").await.0, 200);
    for _ in 0..5 {
        assert_eq!(get(&gate, who, "/x.php").await.1, "denied_path");
    }
    assert_eq!(get(&gate, who, "/app").await.1, "banned");
    assert_eq!(
        bans(folder.path()).await["bans"][0]["until"],
        "2026-11-21T15:00:00.000Z"
    );
    let socket = folder.path().join("admin.sock");
    for line in [
        "munjigi_gate_shield_signals_total{signal=\"denied_path\"} 10",
        "munjigi_gate_shield_bans_total{by=\"signals\"} 2",
        "munjigi_gate_shield_bans 1",
        "munjigi_gate_ends_total{reason=\"banned\"} 2",
        "munjigi_gate_ends_total{reason=\"denied_path\"} 10",
    ] {
        // An exchange is counted when it is over, a moment after its answer.
        eventually(line, || async {
            let page = admin(&socket, "/metrics").await;
            page.lines().any(|known| known == line)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_serves_is_a_signal_whoever_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let gate = shielded_at_noon(folder.path(), origin.address, "").await;
    let check = async |who: &str, line: &str, fields: &str, most: usize| {
        for asked in 0..=most {
            let (_, code) = ask_as(&gate, who, line, fields).await;
            if code == "banned" {
                assert!(asked > 1, "{line}: not before it was answered");
                return;
            }
        }
        panic!("{line} {fields}: not banned");
    };
    check("203.0.113.1", "GET /x.php", "", 4).await;
    check("203.0.113.2", "GET /app/missing.php", "", 4).await;
    check("203.0.113.3", "GET /.git/HEAD", "", 3).await;
    check("203.0.113.4", "GET /app?id=1%20UNION%20SELECT%201", "", 3).await;
    check("203.0.113.5", "GET /app", "User-Agent: sqlmap/1.7\r\n", 3).await;
    check(
        "203.0.113.6",
        "GET /app",
        "X-Api-Version: ${jndi:ldap://x.test/a}\r\n",
        3,
    )
    .await;
    check("203.0.113.7", "TRACE /app/missing", "", 5).await;
    check("2001:db8:0:1::1", "GET /.env", "", 2).await;
    assert_eq!(
        get(&gate, "2001:db8:0:1:ffff::2", "/app").await.1,
        "banned",
        "of IPv6 the /64"
    );
    assert_eq!(get(&gate, "2001:db8:0:2::1", "/app").await.0, 200);
    // A .php that somebody serves is none, and clean requests never are.
    for _ in 0..10 {
        assert_eq!(get(&gate, "203.0.113.9", "/app/index.php").await.0, 200);
        assert_eq!(get(&gate, "203.0.113.9", "/app/missing/7").await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_bans_loopback_trusted_peers_and_who_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let shield = "deny_path = [\"*.php\"]\nnever = [\"198.51.100.0/24\"]\n\
        [gate.ip_filter]\nallow = [\"203.0.113.5\"]\n";
    let gate = shielded_at_noon(folder.path(), origin.address, shield).await;
    for who in [
        "127.0.0.1",
        "127.0.0.9",
        "::1",
        "198.51.100.7",
        "203.0.113.5",
    ] {
        for _ in 0..12 {
            assert_eq!(get(&gate, who, "/x.php").await.1, "denied_path", "{who}");
        }
    }
    // The peer itself, who names nobody.
    for _ in 0..12 {
        let (head, body) = ask(&gate, "GET /x.php HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!((status(&head), code(&body).as_str()), (403, "denied_path"));
        let (head, _) = ask(&gate, "GET /x y z HTTP/1.1\r\n\r\n").await;
        assert_eq!(status(&head), 400);
    }
    assert_eq!(bans(folder.path()).await["total"], 0);
    for who in ["127.0.0.1", "198.51.100.7", "203.0.113.5"] {
        let (status, body) = order(
            folder.path(),
            "POST /bans",
            &format!("{{\"address\":\"{who}\"}}"),
        )
        .await;
        assert_eq!((status, body["code"].as_str()), (409, Some("never_banned")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_bans_and_pardons() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let clock = noon();
    let gate = Gate::start(
        shielded(folder.path(), origin.address, ""),
        wiring(folder.path(), &clock),
    )
    .await
    .unwrap();
    let who = "203.0.113.7";
    let (code, body) = order(
        folder.path(),
        "POST /bans",
        &format!("{{\"address\":\"{who}\",\"for\":\"30m\"}}"),
    )
    .await;
    assert_eq!(
        (code, body["until"].as_str()),
        (200, Some("2026-11-21T12:30:00.000Z"))
    );
    assert_eq!(get(&gate, who, "/app").await.1, "banned");
    let ban = bans(folder.path()).await["bans"][0].clone();
    assert_eq!(
        (ban["reason"].as_str(), ban["count"].as_u64()),
        (Some("manual"), Some(1))
    );
    let remove = format!("DELETE /bans?address={who}");
    let ended = async || {
        let (code, body) = order(folder.path(), &remove, "").await;
        (code, body["ended"].as_bool())
    };
    assert_eq!(ended().await, (200, Some(true)));
    assert_eq!(get(&gate, who, "/app").await.0, 200);
    assert_eq!(ended().await, (200, Some(false)));
    for (address, time, expected) in [
        ("203.0.113.0/24", "1h", "bad_address"),
        ("x", "1h", "bad_address"),
        (who, "0s", "bad_duration"),
        (who, "5", "bad_duration"),
        (who, "999d", "bad_duration"),
    ] {
        let body = format!("{{\"address\":\"{address}\",\"for\":\"{time}\"}}");
        let (status, body) = order(folder.path(), "POST /bans", &body).await;
        assert_eq!(
            (status, body["code"].as_str()),
            (400, Some(expected)),
            "{address} {time}"
        );
        assert!(body["hint"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bans_hold_in_the_next_process_and_over_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let clock = noon();
    let settings = || shielded(folder.path(), origin.address, "deny_path = [\"*.php\"]");
    let gate = Gate::start(settings(), wiring(folder.path(), &clock))
        .await
        .unwrap();
    let who = "203.0.113.7";
    for _ in 0..5 {
        get(&gate, who, "/x.php").await;
    }
    order(folder.path(), "POST /bans", "{\"address\":\"2001:db8::5\"}").await;
    gate.reload(settings()).unwrap();
    assert_eq!(
        get(&gate, who, "/app").await.1,
        "banned",
        "a reload forgets nothing"
    );
    let store = BanFile::new(&folder.path().join("gate-data"));
    eventually("both bans are in the file", || async {
        store.load().unwrap().len() == 2
    })
    .await;
    // As kill -9 leaves it: nothing more is written.
    drop(gate);
    let gate = Gate::start(settings(), wiring(folder.path(), &clock))
        .await
        .unwrap();
    assert_eq!(get(&gate, who, "/app").await.1, "banned");
    assert_eq!(get(&gate, "2001:db8::77", "/app").await.1, "banned");
    assert_eq!(bans(folder.path()).await["total"], 2);
    order(folder.path(), &format!("DELETE /bans?address={who}"), "").await;
    eventually("the pardon is in the file", || async {
        store.load().unwrap().len() == 1
    })
    .await;
    drop(gate);
    let gate = Gate::start(settings(), wiring(folder.path(), &clock))
        .await
        .unwrap();
    assert_eq!(get(&gate, who, "/app").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_refuses_nobody_and_lists_whom_it_would() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let shield = "dry_run = true\ndeny_path = [\"*.php\"]";
    let gate = shielded_at_noon(folder.path(), origin.address, shield).await;
    let who = "203.0.113.7";
    for _ in 0..12 {
        assert_eq!(get(&gate, who, "/x.php").await.1, "denied_path");
        assert_eq!(get(&gate, who, "/app").await.0, 200);
    }
    let listed = bans(folder.path()).await;
    assert_eq!(
        (listed["total"].as_u64(), listed["dryRun"].as_bool()),
        (Some(1), Some(true))
    );
    assert_eq!(listed["bans"][0]["dryRun"], true);
    drop(gate);
    let gate = shielded_at_noon(folder.path(), origin.address, "").await;
    assert_eq!(
        get(&gate, who, "/app").await.0,
        200,
        "and nothing of it is kept"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_sign_ins_at_the_hub_are_signals() {
    let folder = tempfile::tempdir().unwrap();
    let hub = answering(|head| {
        let failed = head.starts_with("POST ");
        let word = if failed {
            "Munjigi-Sign-In: failed\r\n"
        } else {
            ""
        };
        response(if failed { 401 } else { 200 }, word, "{\"code\":\"x\"}")
    })
    .await;
    let gate = Gate::start(
        shielded(folder.path(), hub.address, ""),
        wiring(folder.path(), &noon()),
    )
    .await
    .unwrap();
    for _ in 0..5 {
        let post = ask_as(
            &gate,
            "203.0.113.7",
            "POST /app/api/sign-in",
            "Content-Length: 0\r\n",
        )
        .await;
        assert_eq!(post.0, 401);
    }
    assert_eq!(get(&gate, "203.0.113.7", "/app").await.1, "banned");
    // An office behind one address: some mistype among many that do not.
    for round in 0..40 {
        for _ in 0..20 {
            assert_eq!(get(&gate, "203.0.113.8", "/app").await.0, 200, "{round}");
        }
        ask_as(
            &gate,
            "203.0.113.8",
            "POST /app/api/sign-in",
            "Content-Length: 0\r\n",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_banned_are_turned_away_at_every_door() {
    let authority = Authority::new();
    authority.issue("web", &["a.test"]);
    let folder = authority.folder.path();
    let origin = echo().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listeners = format!(
        r#"
        [[gate.route]]
        path = "/"
        service = "APP"
        [[gate.listener]]
        name = "plain"
        address = "127.0.0.1:0"
        protocols = ["http/1.1", "h2"]
        proxy_protocol = "v1"
        [[gate.listener]]
        name = "sealed"
        address = "127.0.0.1:0"
        proxy_protocol = "v1"
        tls = {{ certificate = "web.pem", key = "web.key" }}
        [[gate.listener]]
        name = "line"
        address = "127.0.0.1:0"
        protocols = ["tcp"]
        proxy_protocol = "v1"
        service = "APP"
        [[gate.listener]]
        name = "datagrams"
        address = "127.0.0.1:0"
        protocols = ["udp"]
        service = "NAMES"
        [gate.service.NAMES]
        backends = [{{ address = "{}" }}]
        [gate.client_ip]
        trusted = ["127.0.0.1"]
        [gate.shield]
        "#,
        udp.local_addr().unwrap()
    );
    let mut settings = written(folder, &[("APP", origin.address)], &listeners);
    settings.admin.socket = Some(folder.join("admin.sock"));
    let gate = start(settings).await;
    let who = "203.0.113.7";
    let header = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 1000 80\r\n");
    let line = gate.address("line").unwrap();
    let mut tunnel = Peer::connect(line).await;
    tunnel
        .send(&format!(
            "{}GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
            header(who)
        ))
        .await;
    assert_eq!(status(&tunnel.response().await.0), 200);
    let banned = order(folder, "POST /bans", &format!("{{\"address\":\"{who}\"}}")).await;
    assert_eq!(banned.0, 200, "{}", banned.1);
    // In plain HTTP it is told so, by both versions.
    let plain = gate.address("plain").unwrap();
    let mut client = Peer::connect(plain).await;
    client
        .send(&format!(
            "{}GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
            header(who)
        ))
        .await;
    let (head, body) = client.response().await;
    assert_eq!((status(&head), code(&body).as_str()), (403, "banned"));
    let mut stream = tokio::net::TcpStream::connect(plain).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, header(who).as_bytes())
        .await
        .unwrap();
    let h2 = greet(stream, 1 << 20).await;
    let answer = h2.ask(request("GET", "/")).await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(code(&answer.body), "banned");
    // Before TLS and at layer 4 the connection is closed.
    for listener in ["sealed", "line"] {
        let address = gate.address(listener).unwrap();
        let mut client = Peer::connect(address).await;
        client.send(&header(who)).await;
        assert!(!client.fill().await, "{listener}");
    }
    let mut other = Peer::connect(line).await;
    other
        .send(&format!(
            "{}GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
            header("203.0.113.8")
        ))
        .await;
    assert_eq!(status(&other.response().await.0), 200);
    let closed = "munjigi_gate_ends_total{reason=\"banned_closed\"} 2";
    eventually("both are counted", || async {
        let page = admin(&folder.join("admin.sock"), "/metrics").await;
        page.lines().any(|line| line == closed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_and_workers_on_the_inner_listener_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let gate = shielded_at_noon(folder.path(), origin.address, "deny_path = [\"*.php\"]").await;
    let who = "203.0.113.7";
    let inner = async |path: &str| {
        let mut client = Peer::connect(gate.address("inner").unwrap()).await;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {who}\r\n\r\n");
        client.send(&request).await;
        status(&client.response().await.0)
    };
    for _ in 0..12 {
        assert_eq!(inner("/x.php").await, 404);
        assert_eq!(inner("/.env").await, 404);
    }
    assert_eq!(get(&gate, who, "/app").await.0, 200);
    for _ in 0..6 {
        get(&gate, who, "/x.php").await;
    }
    assert_eq!(get(&gate, who, "/app").await.1, "banned");
    assert_eq!(inner("/app").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tarpit_holds_as_many_as_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let shield = "tarpit = { delay = \"10m\", connections = 2 }";
    let gate = shielded_at_noon(folder.path(), origin.address, shield).await;
    order(folder.path(), "POST /bans", "{\"address\":\"203.0.113.7\"}").await;
    let request = "GET /app HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut peer = client(&gate).await;
        peer.send(request).await;
        held.push(peer);
    }
    let holding = |count: u64| {
        let folder = folder.path().to_owned();
        async move {
            let page = admin(&folder.join("admin.sock"), "/shield").await;
            serde_json::from_str::<serde_json::Value>(&page).unwrap()["held"] == count
        }
    };
    eventually("two wait", || holding(2)).await;
    assert_eq!(
        get(&gate, "203.0.113.7", "/app").await.1,
        "banned",
        "a third one does not"
    );
    assert_eq!(
        get(&gate, "203.0.113.8", "/app").await.0,
        200,
        "and nobody else does"
    );
    // A reset: half of a connection may be closed by a client that still waits.
    let gone = held.pop().unwrap();
    socket2::SockRef::from(&gone.stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(gone);
    eventually("who goes away makes room", || holding(1)).await;
    // The end of the gate waits for nobody.
    let drained = gate.drain(PATIENCE);
    let answered = async {
        let (head, body) = held[0].response().await;
        assert_eq!((status(&head), code(&body).as_str()), (403, "banned"));
    };
    tokio::join!(drained, answered);
}

/// It has said all that it had to say, and waits for its answer like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tarpit_keeps_a_half_closed_client_for_its_time_and_not_longer() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let shield = "tarpit = { delay = \"300ms\", connections = 1 }";
    let gate = shielded_at_noon(folder.path(), origin.address, shield).await;
    order(folder.path(), "POST /bans", "{\"address\":\"203.0.113.7\"}").await;
    let request = "GET /app HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    // Each takes the one place that there is: the one before has left it.
    for round in 1..=3 {
        let mut peer = client(&gate).await;
        let sent = Instant::now();
        peer.send(request).await;
        let ended = tokio::io::AsyncWriteExt::shutdown(&mut peer.stream);
        ended.await.unwrap();
        let (head, body) = peer.response().await;
        assert_eq!((status(&head), code(&body).as_str()), (403, "banned"));
        assert!(sent.elapsed() >= Duration::from_millis(300), "{round}");
        assert_eq!(peer.rest().await, b"", "and the connection is closed");
        let page = admin(&folder.path().join("admin.sock"), "/shield").await;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        assert_eq!(page["held"], 0, "{round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_ban_is_told_to_the_webhook_until_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    let (sender, mut posted) = tokio::sync::mpsc::channel(8);
    let hook = crate::support::origin(move |mut peer, number| {
        let sender = sender.clone();
        async move {
            let Some(head) = peer.head().await else {
                return;
            };
            let body = peer.body_of(&head).await;
            sender.send((head, body)).await.unwrap();
            let status = if number == 0 { 503 } else { 204 };
            peer.send(&format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        }
    })
    .await;
    std::fs::write(folder.path().join("hook.token"), "the-token\n").unwrap();
    let shield = format!(
        "deny_path = [\"*.php\"]\nwebhook = {{ url = \"http://{}/hook?secret=s3cr3t\", token_file = \"hook.token\" }}",
        hook.address
    );
    let settings = shielded(folder.path(), origin.address, &shield);
    assert!(!format!("{settings:?}").contains("s3cr3t"));
    let gate = Gate::start(settings, wiring(folder.path(), &noon()))
        .await
        .unwrap();
    for _ in 0..5 {
        get(&gate, "203.0.113.7", "/x.php").await;
    }
    for _ in 0..2 {
        let received = tokio::time::timeout(PATIENCE, posted.recv());
        let (head, body) = received.await.expect("nothing was posted").unwrap();
        assert!(
            head.starts_with("POST /hook?secret=s3cr3t HTTP/1.1"),
            "{head}"
        );
        assert_eq!(header(&head, "authorization"), Some("Bearer the-token"));
        let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(message["event"], "ban");
        assert_eq!(message["ban"]["address"], "203.0.113.7");
        assert!(message["text"].as_str().unwrap().contains("denied_path 5"));
    }
    eventually("it is counted", || async {
        let page = admin(&folder.path().join("admin.sock"), "/metrics").await;
        page.contains("munjigi_gate_shield_alarms_total{result=\"sent\"} 1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_speak_against_the_peer_that_sends_them() {
    let folder = tempfile::tempdir().unwrap();
    let origin = app().await;
    // A listener with a PROXY header, so that the peer is somebody else than loopback.
    let more =
        "[[gate.listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"v1\"\n";
    let shield = format!("reject = \"close\"\n{more}");
    let gate = shielded_at_noon(folder.path(), origin.address, &shield).await;
    let send = async |request: &str| {
        let mut peer = Peer::connect(gate.address("plain").unwrap()).await;
        peer.send(&format!(
            "PROXY TCP4 203.0.113.7 127.0.0.1 1000 80\r\n{request}"
        ))
        .await;
        peer.head().await.map(|head| status(&head))
    };
    for _ in 0..5 {
        assert_eq!(
            send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await,
            Some(400)
        );
    }
    assert_eq!(
        send("GET /app HTTP/1.1\r\nHost: a.test\r\n\r\n").await,
        None,
        "closed"
    );
    assert_eq!(
        bans(folder.path()).await["bans"][0]["reason"],
        "malformed 5"
    );
}

#[test]
fn settings_of_the_shield_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
[gate.shield]
ban = { after = 0, within = "1ms", for = "2h", most = "1h" }
deny_path = ["public/*", "*", "/a b"]
never = ["10.0.0.0/33"]
reject = "404"
weights = { dot_file = -1, sql = 2 }
missing = { share = 2.0 }
rules = { agents = ["x"], payloads = ["("], ignore = [""] }
tarpit = { delay = "1h" }
webhook = { url = "ftp://x" }
clients = 5
"#;
    let said = problems(folder.path(), text);
    let name = format!("{}/", folder.path().display());
    insta::assert_snapshot!(said.replace(&name, ""));
}

#[test]
fn a_shield_that_is_not_enabled_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let read = |text: &str| written(folder.path(), &[], text).shield;
    assert!(read("").is_none());
    assert!(read("[gate.shield]\nenabled = false\n").is_none());
    let shield =
        read("[gate.shield]\nban = { after = 3, within = \"30s\", for = \"30d\" }\n").unwrap();
    assert_eq!(
        (shield.ban.after, shield.ban.most),
        (3, Duration::from_secs(30 * 86_400))
    );
}
