//! What an operator sees of a running gate and tells it, by the commands.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use munjigi_testkit::{Program, eventually, free_port};

use crate::binary;
use crate::load::{Tunnel, origin};

const WITHIN: Duration = Duration::from_secs(60);

async fn command(folder: &Path, arguments: &[&str]) -> Output {
    tokio::process::Command::new(binary())
        .args(arguments)
        .current_dir(folder)
        .output()
        .await
        .unwrap()
}

/// What a command prints that must go well.
async fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = command(folder, arguments).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_shows_its_backends_and_takes_orders() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (first, _first) = origin().await;
    let (second, _second) = origin().await;
    let address = || SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let (web, admin) = (address(), address());
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
    let program = Program::start(
        binary(),
        &["run", folder.join("gate.toml").to_str().unwrap()],
        &folder.join("log"),
    )
    .unwrap();
    eventually("the gate listens", WITHIN, async || {
        tokio::net::TcpStream::connect(web).await.ok()
    })
    .await
    .unwrap();

    let (first, second) = (first.to_string(), second.to_string());
    let row = |table: &str, address: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.contains(address)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    let table = said(folder, &["backends"]).await;
    assert!(table.starts_with("SERVICE  ADDRESS"), "{table}");
    assert_eq!(row(&table, &first)[..4], ["APP", &first, "up", "1"]);

    // Drained: requests go to the other one, and only there.
    said(folder, &["drain", "APP", &first]).await;
    let requests = async |address: &str| -> u64 {
        let lines = said(folder, &["backends", "APP", "--json"]).await;
        let values = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let backend = values
            .into_iter()
            .find(|backend: &serde_json::Value| backend["address"] == address)
            .unwrap();
        assert_eq!(backend["service"], "APP");
        backend["requests"].as_u64().unwrap()
    };
    for _ in 0..4 {
        let url = format!("http://{web}/");
        assert_eq!(reqwest::get(url).await.unwrap().status(), 200);
    }
    assert_eq!((requests(&first).await, requests(&second).await), (0, 4));
    let table = said(folder, &["backends"]).await;
    assert_eq!(row(&table, &first)[2], "drained");
    said(folder, &["drain", "APP", &first, "--undo"]).await;
    said(folder, &["weight", "APP", &first, "7"]).await;
    let table = said(folder, &["backends"]).await;
    assert_eq!(row(&table, &first)[2..4], ["up", "7"]);

    // A tunnel is listed with its backend and its bytes.
    let mut tunnel = Tunnel::open(web).await;
    assert!(tunnel.lives().await);
    let lines = said(folder, &["connections", "--tunnels", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(listed["listener"], "web");
    assert!(
        listed["tunnel"]["bytesSent"].as_u64().unwrap() > 0,
        "{listed}"
    );
    assert!(listed["age"].as_f64().unwrap() >= listed["silentFor"].as_f64().unwrap());
    let table = said(folder, &["connections"]).await;
    assert!(table.starts_with("LISTENER"), "{table}");
    tunnel.close().await;

    // Over TCP, with the token and not without.
    let place = format!("http://{admin}");
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

    for (wrong, code) in [
        (&["drain", "APP", "127.0.0.1:1"][..], 1),
        (&["drain", "NONE", "127.0.0.1:1"], 1),
        (&["backends", "NONE"], 1),
        (&["weight", "APP", "127.0.0.1:1", "5000"], 2),
        (&["log-level", "no=such=filter"], 2),
        (&["backends", "--admin", "unix:/no/such/socket"], 2),
    ] {
        let output = command(folder, wrong).await;
        assert_eq!(output.status.code(), Some(code), "{wrong:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).starts_with("error: "),
            "{wrong:?}"
        );
    }
    assert_eq!(program.stop().await.unwrap(), 0);
}
