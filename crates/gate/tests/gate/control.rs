//! What operators see and do: admin face, access log, reload, shutdown, settings, explain.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use munjigi_foundation::settings::Secret;
use munjigi_gate::explain::{self, Asked};
use munjigi_gate::settings::{AccessLog, ListenerSettings, PathPattern};
use munjigi_gate::{Gate, GateSettings};

use crate::support::*;
use crate::tls_support::Authority;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_socket_shows_what_happens() {
    let origin = echo().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let mut settings = settings(&[origin.address]);
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    ask(&gate, "GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(admin(&socket, "/health").await, "ok\n");
    // An answer arrives a moment before its request is counted.
    eventually("both are counted", || async {
        admin(&socket, "/status")
            .await
            .contains("\"requests\":2,\"routes\"")
    })
    .await;
    let page = admin(&socket, "/status").await;
    let status: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["requests"], 2, "{page}");
    assert_eq!(status["reasons"]["done"], 1, "{page}");
    assert_eq!(status["reasons"]["bad_host"], 1, "{page}");
    assert_eq!(status["routes"][0]["requests"], 1, "{page}");
    let backend = &status["services"][0]["backends"][0];
    assert_eq!(backend["address"], origin.address.to_string());
    assert_eq!(backend["state"], "up");
    assert_eq!(backend["requests"], 1);
    let metrics = admin(&socket, "/metrics").await;
    for line in [
        "munjigi_gate_requests_total{class=\"2xx\"} 1",
        "munjigi_gate_requests_total{class=\"4xx\"} 1",
        "munjigi_gate_ends_total{reason=\"bad_host\"} 1",
        "munjigi_gate_request_duration_seconds_bucket{le=\"+Inf\"} 2",
        "munjigi_gate_route_requests_total{route=\"app\"} 1",
        "munjigi_gate_backends{service=\"APP\",state=\"up\"} 1",
    ] {
        assert!(
            metrics.lines().any(|other| other == line),
            "{line}\n{metrics}"
        );
    }
    for page in ["/routes", "/connections", "/backends"] {
        let text = admin(&socket, page).await;
        assert!(
            serde_json::from_str::<serde_json::Value>(&text).is_ok(),
            "{page}: {text}"
        );
    }
    // A second gate does not take a living socket away; a dead one is replaced.
    let mut second = crate::support::settings(&[]);
    second.admin.socket = Some(socket.clone());
    assert!(
        Gate::start(second.clone(), munjigi_gate::Wiring::default())
            .await
            .is_err()
    );
    drop(gate);
    start(second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_face_on_tcp_asks_for_a_token_and_knows_its_hosts() {
    let mut settings = settings(&[]);
    settings.admin.address = Some("127.0.0.1:0".parse().unwrap());
    settings.admin.token = Some(Secret::new("a-token-of-the-test"));
    let gate = start(settings).await;
    let address = gate.admin_address().unwrap();
    let answer = async |path: &str, more: &str| {
        let mut peer = Peer::connect(address).await;
        peer.send(&format!("GET {path} HTTP/1.1\r\n{more}\r\n"))
            .await;
        status(&peer.head().await.unwrap())
    };
    let token = "Authorization: Bearer a-token-of-the-test\r\n";
    let host = "Host: localhost\r\n";
    assert_eq!(answer("/status", host).await, 401);
    assert_eq!(
        answer("/status", &format!("{host}Authorization: Bearer x\r\n")).await,
        401
    );
    assert_eq!(answer("/status", &format!("{host}{token}")).await, 200);
    assert_eq!(
        answer("/status", &format!("Host: {address}\r\n{token}")).await,
        200
    );
    assert_eq!(
        answer("/status", &format!("Host: evil.example\r\n{token}")).await,
        421
    );
    assert_eq!(
        answer(
            "/status",
            &format!("{host}{token}Origin: http://localhost\r\n")
        )
        .await,
        403
    );
    assert_eq!(answer("/metrics", host).await, 200);
    assert_eq!(answer("/health", host).await, 200);
    assert_eq!(answer("/nothing", &format!("{host}{token}")).await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_has_a_line_for_each_request_and_no_secret() {
    let origin = echo().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let mut settings = settings(&[origin.address]);
    settings.access_log = AccessLog::File(file.clone());
    let gate = start(settings).await;
    ask(&gate, "GET /sign-in?token=hunter2&a=b HTTP/1.1\r\nHost: x\r\nUser-Agent: \"curl\"\r\nAuthorization: Bearer hunter2\r\nCookie: s=hunter2\r\n\r\n").await;
    ask(&gate, "GET / HTTP/1.1\r\n\r\n").await;
    gate.drain(Duration::from_secs(5)).await;
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(!log.contains("hunter2"), "{log}");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["status"], 200);
    assert_eq!(lines[0]["target"], "/sign-in?token=…&a=b");
    assert_eq!(lines[0]["reason"], "done");
    assert_eq!(lines[0]["route"], "app");
    assert_eq!(lines[0]["backend"], origin.address.to_string());
    assert_eq!(lines[0]["userAgent"], "\"curl\"");
    assert!(
        lines[0]["ms"]["total"].as_f64().unwrap() >= lines[0]["ms"]["response"].as_f64().unwrap()
    );
    assert_eq!(
        (&lines[1]["status"], &lines[1]["reason"]),
        (&400.into(), &"bad_host".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_routes_and_listeners_and_cuts_nobody() {
    let (first, second) = (echo().await, echo().await);
    let before = settings(&[first.address]);
    let gate = start(before.clone()).await;
    let mut kept = client(&gate).await;
    kept.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&kept.response().await.0), 200);
    let inner = gate.address("inner").unwrap();

    let mut after = before.clone();
    after.routes[0].path = PathPattern::prefix("/new").unwrap();
    after
        .services
        .insert("APP".to_owned(), static_service(&[second.address]));
    after.listeners[1] = ListenerSettings::new("third", "127.0.0.1:0".parse().unwrap());
    gate.reload(after).unwrap();
    // The same connection, the new routes.
    kept.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&kept.response().await.0), 404);
    kept.send("GET /new HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&kept.response().await.0), 200);
    let mut third = Peer::connect(gate.address("third").unwrap()).await;
    third.send("GET /new HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&third.response().await.0), 200);
    assert_eq!(gate.address("inner"), None);
    eventually("the old listener is closed", || async {
        tokio::net::TcpStream::connect(inner).await.is_err()
    })
    .await;

    // What can't be had changes nothing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut wrong = before.clone();
    wrong
        .listeners
        .push(ListenerSettings::new("taken", taken.local_addr().unwrap()));
    assert!(
        gate.reload(wrong)
            .unwrap_err()
            .to_string()
            .contains("taken")
    );
    kept.send("GET /new HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&kept.response().await.0), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_lets_requests_end_and_takes_no_new_ones() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let origin = origin(move |mut peer, _| {
        let (arrived, release) = (arrived.clone(), Arc::clone(&released));
        async move {
            peer.head().await.unwrap();
            arrived.send(()).await.unwrap();
            release.notified().await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let gate = start(settings(&[origin.address])).await;
    let address = gate.address("web").unwrap();
    let mut idle = client(&gate).await;
    let mut busy = client(&gate).await;
    busy.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    arrivals.recv().await.unwrap();
    let draining = tokio::spawn(gate.drain(Duration::from_secs(20)));
    assert_eq!(idle.rest().await, b"");
    eventually("nothing new is taken", || async {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    release.notify_one();
    let (head, body) = busy.response().await;
    assert_eq!(body, b"ok");
    assert_eq!(header(&head, "connection"), Some("close"));
    draining.await.unwrap();
}

pub(crate) fn read(text: &str) -> (Option<GateSettings>, String) {
    read_in("".as_ref(), text)
}

const GOOD: &str = r#"
[gate]
threads = 2
access_log = "off"

[[gate.listener]]
name = "web"
address = "0.0.0.0:8080"
connections_max = 500

[[gate.listener]]
name = "inner"
address = "localhost:0"

[gate.client_ip]
trusted = ["10.0.0.0/8"]

[[gate.route]]
name = "app"
listener = ["web"]
host = ["example.com", "*.example.com"]
path = "/"
service = "HUB"
request_body_max = "4GiB"
timeout = { connect = "1s", response = "2s", idle = "3s", rate_min = "240B/s" }
websocket = { idle = "1h", origins = ["https://example.com"] }
retry = { attempts = 3, on = ["connect"] }

[[gate.route]]
name = "analysis"
listener = ["inner"]
path = "/analysis"
method = ["GET", "POST", "DELETE"]
service = "MODEL-SERVER"
where = "metadata.serverId = query.serverId"
where_missing = "balance"
timeout = { rate_min = "off" }

[gate.service.HUB]
backends = [ { address = "127.0.0.1:8000", weight = 2 } ]

[gate.service.MODEL-SERVER]
discovery = "registry"
networks = ["10.0.0.0/8"]
balance = "least_requests"

[gate.registry]
urls = ["http://user:pw@10.0.0.2:8761/eureka"]

[gate.limits]
head_bytes = "16KiB"
"#;

#[test]
fn good_settings_are_read() {
    let (settings, problems) = read(GOOD);
    let settings = settings.unwrap_or_else(|| panic!("{problems}"));
    assert_eq!(
        settings.listeners[1].address,
        "127.0.0.1:0".parse().unwrap()
    );
    assert_eq!(settings.listeners[0].connections_max, 500);
    assert_eq!(settings.routes[0].retry.attempts, 3);
    assert_eq!(settings.routes[0].request_body_max, Some(4 << 30));
    assert_eq!(settings.routes[1].timeout.rate_min, None);
    assert!(
        settings.routes[1]
            .lookup
            .as_ref()
            .unwrap()
            .balance_when_missing
    );
    assert_eq!(settings.limits.head_bytes, 16 << 10);
    assert!(!format!("{settings:?}").contains("pw@"));
}

#[test]
fn bad_settings_show_all_their_problems() {
    let (settings, problems) = read(
        r#"
[gate]
threads = 0
forward = { address = "127.0.0.1:3128" }
[[gate.listener]]
name = "web"
address = "example.com:80"
protocols = ["http/1.1", "h2", "spdy"]
tls = { internal = true }
[[gate.route]]
path = "api"
listener = ["wbe"]
service = "HUB"
where = "serverId = query.serverId"
retry = { on = ["503", "luck"] }
[[gate.route]]
path = "/a"
path_exact = "/a"
service = "HUB"
[[gate.route]]
path_regex = "("
service = "HUB"
where_missing = "balance"
[gate.service.HUB]
balance = "peak_ewma"
protocol = "h2"
health = { tcp = true }
backends = [ { address = "127.0.0.1" } ]
[gate.admin]
address = "127.0.0.1:9901"
"#,
    );
    assert!(settings.is_none());
    insta::assert_snapshot!(problems);
}

#[test]
fn explain_says_what_would_happen() {
    let (settings, problems) = read(GOOD);
    let snapshot = explain::snapshot(settings.unwrap_or_else(|| panic!("{problems}")));
    let stages = |method: &str, url: &str, listener: Option<&str>| {
        let asked = Asked {
            method,
            url,
            headers: &[],
            from: "192.0.2.1".parse().unwrap(),
            listener,
        };
        let decisions = explain::request(&snapshot, asked).decisions;
        let lines: Vec<String> = decisions
            .iter()
            .map(|d| format!("{}: {}", d.stage, d.verdict))
            .collect();
        lines.join("\n")
    };
    let all = [
        stages("GET", "http://example.com/x?y", None),
        stages("GET", "http://other.example/x", None),
        stages("POST", "http://example.com/internal/events", None),
        stages("PUT", "http://inner/analysis?serverId=1", Some("inner")),
        stages("GET", "http://inner/analysis?serverId=1", Some("inner")),
        stages("CONNECT", "http://example.com/", None),
    ];
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn the_page_on_settings_names_every_key_and_its_examples_are_good() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/gate.md");
    let page = std::fs::read_to_string(page).unwrap();
    let authority = Authority::new();
    let folder = &authority.folder;
    std::fs::copy(authority.ca_file(), folder.path().join("authority.pem")).unwrap();
    for name in ["web", "shop"] {
        authority.issue(name, &[&format!("{name}.example.com")]);
    }
    for file in [
        "404.html",
        "oops.html",
        "admin.token",
        "sticky.key",
        "backends.toml",
    ] {
        std::fs::write(folder.path().join(file), "0123456789abcdef0123456789abcdef").unwrap();
    }
    std::fs::write(folder.path().join("ip.conf"), "deny from 10.*\n").unwrap();
    std::fs::write(folder.path().join("drop.txt"), "192.0.2.0/24\n").unwrap();
    std::fs::create_dir(folder.path().join("www")).unwrap();
    let examples: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 5);
    for example in examples {
        let (settings, problems) = read_in(folder.path(), example);
        assert!(
            settings.is_some() && problems.contains(": 0 errors"),
            "{problems}\n{example}"
        );
    }
    let mut missing = Vec::new();
    for schema in munjigi_gate::settings::SCHEMAS {
        for key in schema.keys.iter().filter(|key| !key.later) {
            let name = key.name;
            let forms = [
                format!("{name} = "),
                format!("`{name}`"),
                format!("limits.{name}`"),
                format!("gate.{name}"),
            ];
            if !forms.iter().any(|form| page.contains(form)) {
                missing.push(format!("`{name}` of {}", schema.place));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "docs/gate.md does not name {}",
        missing.join(", ")
    );
}
