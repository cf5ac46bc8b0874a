//! What an operator sees of a running gate and tells it, by the commands.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use munjigi_testkit::{Program, eventually, free_port};

use crate::binary;
use crate::load::{Tunnel, origin};

const WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn command(folder: &Path, arguments: &[&str]) -> Output {
    tokio::process::Command::new(binary())
        .args(arguments)
        .current_dir(folder)
        .output()
        .await
        .unwrap()
}

/// What a command prints that must go well.
pub(crate) async fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = command(folder, arguments).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A gate that runs in `folder`, and where its admin face listens on TCP.
struct Running {
    program: Program,
    web: SocketAddr,
    admin: SocketAddr,
}

async fn start(folder: &Path, origins: [SocketAddr; 2]) -> Running {
    let address = || SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let (web, admin) = (address(), address());
    let [first, second] = origins;
    std::fs::write(folder.join("token"), "the-token-of-the-admin-face\n").unwrap();
    std::fs::write(
        folder.join("gate.toml"),
        format!(
            "[gate]\nthreads = 1\n[[gate.listener]]\nname = \"web\"\naddress = \"{web}\"\n\
             [[gate.route]]\nname = \"app\"\npath = \"/\"\nservice = \"APP\"\n\
             [gate.service.APP]\nbackends = [ {{ address = \"{first}\" }}, {{ address = \"{second}\" }} ]\n\
             [gate.admin]\naddress = \"{admin}\"\ntoken_file = \"token\"\n"
        ),
    )
    .unwrap();
    let file = folder.join("gate.toml");
    let arguments = ["run", file.to_str().unwrap()];
    let program = Program::start(binary(), &arguments, &folder.join("log")).unwrap();
    eventually("the gate listens", WITHIN, async || {
        tokio::net::TcpStream::connect(web).await.ok()
    })
    .await
    .unwrap();
    Running {
        program,
        web,
        admin,
    }
}

/// The cells of the line of a table that holds `what`.
fn row(table: &str, what: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.contains(what)).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

/// How many requests the backend at `address` got.
async fn requests(folder: &Path, address: &str) -> u64 {
    let lines = said(folder, &["backends", "APP", "--json"]).await;
    let backend = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|backend| backend["address"] == address)
        .unwrap();
    assert_eq!(backend["service"], "APP");
    backend["requests"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_are_shown_drained_and_weighed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (first, _first) = origin().await;
    let (second, _second) = origin().await;
    let gate = start(folder, [first, second]).await;
    let (first, second) = (first.to_string(), second.to_string());
    let table = said(folder, &["backends"]).await;
    assert!(table.starts_with("SERVICE  ADDRESS"), "{table}");
    assert_eq!(row(&table, &first)[..4], ["APP", &first, "up", "1"]);

    // Drained: requests go to the other one, and only there.
    said(folder, &["drain", "APP", &first]).await;
    for _ in 0..4 {
        let url = format!("http://{}/", gate.web);
        assert_eq!(reqwest::get(url).await.unwrap().status(), 200);
    }
    assert_eq!(requests(folder, &first).await, 0);
    assert_eq!(requests(folder, &second).await, 4);
    let table = said(folder, &["backends"]).await;
    assert_eq!(row(&table, &first)[2], "drained");
    said(folder, &["drain", "APP", &first, "--undo"]).await;
    said(folder, &["weight", "APP", &first, "7"]).await;
    let table = said(folder, &["backends"]).await;
    assert_eq!(row(&table, &first)[2..4], ["up", "7"]);
    said(folder, &["weight", "APP", &first]).await;
    let table = said(folder, &["backends"]).await;
    assert_eq!(row(&table, &first)[2..4], ["up", "1"]);

    for (wrong, code) in [
        (&["drain", "APP", "127.0.0.1:1"][..], 1),
        (&["drain", "NONE", "127.0.0.1:1"], 1),
        (&["backends", "NONE"], 1),
        (&["weight", "APP", "127.0.0.1:1", "5000"], 2),
        (&["backends", "--admin", "unix:/no/such/socket"], 2),
    ] {
        let output = command(folder, wrong).await;
        assert_eq!(output.status.code(), Some(code), "{wrong:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("error: "), "{wrong:?}: {said}");
    }
    assert_eq!(gate.program.stop().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (origin, _origin) = origin().await;
    let gate = start(folder, [origin, origin]).await;
    let mut tunnel = Tunnel::open(gate.web).await;
    assert!(tunnel.lives().await);
    let lines = said(folder, &["connections", "--tunnels", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(listed["listener"], "web");
    assert_eq!(listed["tunnel"]["backend"], origin.to_string());
    let moved = |key: &str| listed["tunnel"][key].as_u64().unwrap();
    assert!(
        moved("bytesSent") > 0 && moved("bytesReceived") > 0,
        "{listed}"
    );
    assert!(listed["age"].as_f64().unwrap() >= listed["silentFor"].as_f64().unwrap());
    let table = said(folder, &["connections"]).await;
    assert!(table.starts_with("LISTENER"), "{table}");
    let mut more = Vec::new();
    for _ in 0..3 {
        more.push(Tunnel::open(gate.web).await);
    }
    let table = said(folder, &["connections", "--limit", "2"]).await;
    assert!(table.contains("2 of 4"), "{table}");
    assert_eq!(gate.program.stop().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closed_websockets_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (origin, _origin) = origin().await;
    let gate = start(folder, [origin, origin]).await;
    let nothing = said(folder, &["explain", "closed"]).await;
    assert_eq!(nothing, "no timer shows in how WebSockets ended\n");
    let mut tunnel = Tunnel::open(gate.web).await;
    assert!(tunnel.lives().await);
    drop(tunnel);
    eventually("its end is known", WITHIN, async || {
        let table = said(folder, &["explain", "closed"]).await;
        table.contains("AGO").then_some(table)
    })
    .await
    .unwrap();
    let table = said(folder, &["explain", "closed", "app"]).await;
    assert_eq!(
        row(&table, "app")[1..4],
        ["app", "client", "end"],
        "{table}"
    );
    let page = said(folder, &["explain", "closed", "--json"]).await;
    let page: serde_json::Value = serde_json::from_str(page.trim()).unwrap();
    assert_eq!(page["opened"], 1, "{page}");
    assert_eq!(
        page["routes"][0]["last"][0]["frames"]["client"], 1,
        "{page}"
    );
    let unknown = command(folder, &["explain", "closed", "nothing"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(gate.program.stop().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_changed_over_tcp_with_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (origin, _origin) = origin().await;
    let gate = start(folder, [origin, origin]).await;
    let place = format!("http://{}", gate.admin);
    let over_tcp = ["log-level", "--admin", &place];
    let refused = command(folder, &over_tcp).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("error: this needs the token"));
    let with_token = [&over_tcp[..], &["--admin-token-file", "token"]].concat();
    assert_eq!(said(folder, &with_token).await.trim(), "info");
    let changed = [&with_token[..], &["info,munjigi_gate=debug"]].concat();
    let now = said(folder, &changed).await;
    assert!(
        now.contains("munjigi_gate=debug") && now.contains("info"),
        "{now}"
    );
    assert_eq!(said(folder, &["log-level"]).await, now);
    let wrong = command(folder, &["log-level", "no=such=filter"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(said(folder, &["log-level"]).await, now);
    assert_eq!(gate.program.stop().await.unwrap(), 0);
}
