//! What operators see of refusals: one by one, by minute, and all that the security page shows.

use std::net::SocketAddr;
use std::path::Path;

use munjigi_gate::GateSettings;
use munjigi_gate::settings::Protocol;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::http2_support::{client2, get};
use crate::support::*;
use crate::tls_support::*;
use crate::ws_support::*;

const TEXT: &str = "[[gate.route]]\nname = \"app\"\npath = \"/app\"\nmethod = [\"GET\"]\nservice = \"APP\"\n\
    [gate.client_ip]\ntrusted = [\"127.0.0.1/32\"]\n";

fn guarded(folder: &Path, origin: SocketAddr, more: &str) -> GateSettings {
    let text = format!("{TEXT}{more}");
    let mut settings = written(folder, &[("APP", origin)], &text);
    settings.admin.socket = Some(folder.join("admin.sock"));
    settings.data = folder.join("gate-data");
    settings
}

async fn page(folder: &Path, path: &str) -> Value {
    let text = admin(&folder.join("admin.sock"), path).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
}

/// Waits until so many are noted: a client has its answer before that.
async fn noted(folder: &Path, count: u64) {
    eventually("refusals are noted", || async {
        page(folder, "/refusals").await["kept"] == count
    })
    .await;
}

fn rows(page: &Value, key: &str) -> Vec<String> {
    let rows = page["refusals"].as_array().unwrap().iter();
    rows.map(|row| row[key].as_str().unwrap_or("-").to_owned())
        .collect()
}

async fn ask_as(gate: &munjigi_gate::Gate, client: &str, line: &str) -> u16 {
    let request = format!("{line} HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {client}\r\n\r\n");
    status(&ask(gate, &request).await.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_can_be_looked_up_and_what_is_not_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let origin = answering(|_| response(200, "", "")).await;
    let shield = "[gate.shield]\ndeny_path = [\"*.php\"]\n";
    let gate = start(guarded(folder.path(), origin.address, shield)).await;
    let (one, other) = ("203.0.113.7", "198.51.100.9");
    assert_eq!(ask_as(&gate, one, "GET /app").await, 200);
    let secret = "GET /a.php?cli_token=s3cret&page=1";
    assert_eq!(ask_as(&gate, one, secret).await, 403);
    assert_eq!(ask_as(&gate, other, "GET /nothing").await, 404);
    assert_eq!(ask_as(&gate, other, "DELETE /app").await, 405);
    assert_eq!(
        status(&ask(&gate, "GET /app HTTP/1.1\r\n\r\n").await.0),
        400
    );

    noted(folder.path(), 4).await;
    let all = page(folder.path(), "/refusals").await;
    assert_eq!((&all["kept"], &all["total"]), (&json!(4), &json!(4)));
    assert_eq!(
        rows(&all, "reason"),
        ["bad_host", "method_not_allowed", "no_route", "denied_path"]
    );
    let denied = &all["refusals"][3];
    assert_eq!(denied["path"], "/a.php?cli_token=…&page=1");
    assert!(!all.to_string().contains("s3cret"));
    assert_eq!(
        (&denied["client"], &denied["listener"], &denied["status"]),
        (&json!(one), &json!("web"), &json!(403))
    );
    assert_eq!(
        (&denied["method"], &denied["host"]),
        (&json!("GET"), &json!("a.test"))
    );
    assert_eq!(all["refusals"][0]["path"], Value::Null);

    for (query, expected) in [
        ("reason=no_route", &["/nothing"][..]),
        ("client=198.51.100.", &["/app", "/nothing"]),
        ("path=A.PHP", &["/a.php?cli_token=…&page=1"]),
        ("path=&client=203.0.113.7", &["/a.php?cli_token=…&page=1"]),
        ("since=1h&path=nothing", &["/nothing"]),
        ("since=2999-01-01T00:00:00Z", &[]),
        ("client=198.51.100.9&limit=1", &["/app"]),
        ("reason=done", &[]),
    ] {
        let found = page(folder.path(), &format!("/refusals?{query}")).await;
        assert_eq!(rows(&found, "path"), expected, "{query}");
    }
    let refused = page(folder.path(), "/refusals?since=yesterday").await;
    assert_eq!(refused["code"], "bad_since", "{refused}");
    let long = "x".repeat(301);
    let refused = page(folder.path(), &format!("/refusals?path={long}")).await;
    assert_eq!(refused["code"], "too_long", "{refused}");

    let minutes = page(folder.path(), "/refusals/minutes").await;
    assert_eq!(minutes["total"], 4, "{minutes}");
    let counted = minutes["reasons"].as_array().unwrap();
    assert_eq!(counted.len(), 4);
    for reason in counted {
        let counts = reason["counts"].as_array().unwrap();
        assert_eq!(counts.len(), 60);
        let sum: u64 = counts.iter().filter_map(Value::as_u64).sum();
        assert_eq!(reason["total"], sum, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_its_route_where_nothing_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let origin = answering(|_| response(200, "", "")).await;
    let more = "[[gate.route]]\nname = \"live\"\npath = \"/live\"\nservice = \"APP\"\n\
        websocket = { required = true }\n";
    let mut settings = guarded(folder.path(), origin.address, more);
    settings.listeners[0].protocols = vec![Protocol::Http1, Protocol::Http2];
    let gate = start(settings).await;
    assert_eq!(ask_as(&gate, "203.0.113.7", "GET /live").await, 426);
    let two = client2(&gate).await;
    assert_eq!(two.ask(get("/live")).await.unwrap().status(), 426);
    // Which route it would have had, nobody knows.
    assert_eq!(ask_as(&gate, "203.0.113.7", "GET /none").await, 404);
    noted(folder.path(), 3).await;
    let all = page(folder.path(), "/refusals").await;
    assert_eq!(rows(&all, "path"), ["/none", "/live", "/live"]);
    assert_eq!(rows(&all, "route"), ["-", "live", "live"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_closed_at_once_is_there_too() {
    let folder = tempfile::tempdir().unwrap();
    let origin = answering(|_| response(200, "", "")).await;
    let rules = "[gate.ip_filter]\ndeny = [\"127.0.0.2\"]\nreject = \"close\"\n";
    let gate = start(guarded(folder.path(), origin.address, rules)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(gate.address("web").unwrap()).await.unwrap();
    let mut peer = Peer::new(stream);
    assert!(peer.head().await.is_none());
    let all = page(folder.path(), "/refusals").await;
    let refusal = &all["refusals"][0];
    assert_eq!(
        (&refusal["reason"], &refusal["client"], &refusal["status"]),
        (&json!("ip_closed"), &json!("127.0.0.2"), &json!(0))
    );
    assert_eq!(refusal["method"], Value::Null);
    assert_eq!(all["total"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_page_has_all_that_guards_the_gate() {
    let origin = answering(|_| response(200, "", "")).await;
    // Without a shield and without TLS it says so, and is no error.
    let bare = tempfile::tempdir().unwrap();
    let _gate = start(guarded(bare.path(), origin.address, "")).await;
    let whole = page(bare.path(), "/security").await;
    assert_eq!(whole["bans"]["enabled"], false);
    assert_eq!(whole["shield"], Value::Null);
    assert_eq!(whole["certificates"], json!([]));
    assert_eq!(whole["refused"]["total"], 0);

    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let pair = ca.issue("a", &["a.test", "*.a.test"]);
    let shield = "[gate.shield]\ndeny_path = [\"*.php\"]\n";
    let mut settings = guarded(folder.path(), origin.address, shield);
    settings.listeners[1].tls = Some(listener_tls(&[&pair]));
    let gate = start(settings).await;
    for number in 0..7 {
        ask_as(&gate, "203.0.113.7", &format!("GET /{number}.php")).await;
    }
    ask_as(&gate, "203.0.113.8", "GET /x.php").await;
    noted(folder.path(), 8).await;
    let whole = page(folder.path(), "/security").await;
    let ban = &whole["bans"]["bans"][0];
    assert_eq!(ban["address"], "203.0.113.7", "{whole}");
    assert_eq!(ban["firstPath"], "/0.php");
    let suspects = whole["shield"]["suspects"].as_array().unwrap();
    let suspect = suspects.iter().find(|one| one["address"] == "203.0.113.8");
    assert!(suspect.unwrap()["score"].as_f64() > Some(0.0), "{whole}");
    assert_eq!(whole["shield"]["signals"]["denied_path"]["count"], 6);
    let reasons = whole["refused"]["reasons"].as_array().unwrap();
    let count = |code: &str| {
        let found = reasons.iter().find(|reason| reason["reason"] == code);
        found.unwrap()["total"].as_u64().unwrap()
    };
    assert_eq!(count("denied_path") + count("banned"), 8);
    assert!(count("banned") >= 1);
    let certificate = &whole["certificates"][0];
    assert_eq!(certificate["listener"], "inner");
    assert_eq!(certificate["names"], json!(["a.test", "*.a.test"]));
    assert_eq!(
        certificate["file"].as_str().unwrap(),
        pair.certificate.display().to_string()
    );
    assert!(
        certificate["daysLeft"].as_i64().unwrap() > 30,
        "{certificate}"
    );
    let alone = page(folder.path(), "/certificates").await;
    assert_eq!(alone["certificates"][0]["names"], certificate["names"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifetimes_of_tunnels_are_told_by_who_ended_them() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let (origin, mut peers) = taking().await;
    let mut settings = settings(&[origin.address]);
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let (client, mut backend) = pair(&gate, &mut peers).await;
    drop(client);
    backend.rest().await;
    eventually("the tunnel is counted", || async {
        let page = page(folder.path(), "/websockets").await;
        let ended = page["lifetimes"]["ended"].as_array().unwrap();
        let of = |by: &str| ended.iter().find(|side| side["by"] == by).unwrap();
        let sum = |by: &str| {
            let counts = of(by)["counts"].as_array().unwrap();
            counts.iter().filter_map(Value::as_u64).sum::<u64>()
        };
        let bounds = page["lifetimes"]["bounds"].as_array().unwrap().len();
        assert_eq!(of("client")["counts"].as_array().unwrap().len(), bounds + 1);
        assert_eq!((sum("backend"), sum("gate")), (0, 0), "{page}");
        sum("client") == 1
    })
    .await;
    let figures = admin(&socket, "/metrics").await;
    let name = "munjigi_gate_tunnel_lifetime_seconds";
    for line in [
        format!("{name}_bucket{{by=\"client\",le=\"+Inf\"}} 1\n"),
        format!("{name}_count{{by=\"client\"}} 1\n"),
        format!("{name}_count{{by=\"gate\"}} 0\n"),
    ] {
        assert!(figures.contains(&line), "{line}: {figures}");
    }
}
