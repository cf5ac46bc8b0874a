//! A real nginx in front of the gate, and behind it, that cuts silent WebSockets: with `ping` they
//! live, without it they die, and the gate says of what. nginx is a program of others: `./test
//! hops` installs and runs it with a short timer, `./test --long` with its default of a minute.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use munjigi_gate::{Gate, GateSettings};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::support::*;
use crate::ws_support::*;

/// An nginx that passes WebSockets to `to`; with a timer other than its default where one is given.
async fn nginx(folder: &Path, to: SocketAddr, timer: &str) -> (Child, SocketAddr) {
    let address = nobody().await;
    let own = folder.display();
    let config = format!(
        "daemon off; master_process off; pid {own}/nginx.pid; error_log {own}/nginx.log;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {own}/b; proxy_temp_path {own}/p; fastcgi_temp_path {own}/f;\n\
         uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;\n\
         server {{ listen {address}; location / {{ proxy_pass http://{to}; proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; {timer} }} }} }}\n"
    );
    std::fs::write(folder.join("nginx.conf"), config).unwrap();
    let child = Command::new("nginx")
        .args(["-p", &own.to_string(), "-c", "nginx.conf"])
        .current_dir(folder)
        .kill_on_drop(true)
        .spawn()
        .expect("nginx can't be run: `./test hops` installs it");
    eventually("nginx listens", || async {
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;
    (child, address)
}

/// A gate with nginx on one side of it.
struct Chain {
    gate: Gate,
    _nginx: Child,
    /// Where clients connect.
    door: SocketAddr,
    peers: tokio::sync::mpsc::Receiver<Peer>,
    _origin: Origin,
}

async fn chain(folder: &Path, in_front: bool, timer: &str, ping: Option<Duration>) -> Chain {
    let (origin, peers) = taking().await;
    let with = |backend: SocketAddr| -> GateSettings {
        let mut settings = settings(&[backend]);
        settings.routes[0].websocket.ping = ping;
        settings.admin.socket = Some(folder.join("admin.sock"));
        settings
    };
    if in_front {
        let gate = start(with(origin.address)).await;
        let (nginx, door) = nginx(folder, gate.address("web").unwrap(), timer).await;
        return Chain {
            gate,
            _nginx: nginx,
            door,
            peers,
            _origin: origin,
        };
    }
    let (nginx, behind) = nginx(folder, origin.address, timer).await;
    let gate = start(with(behind)).await;
    let door = gate.address("web").unwrap();
    Chain {
        gate,
        _nginx: nginx,
        door,
        peers,
        _origin: origin,
    }
}

/// Answers pings until the stream ends; says whether it was still open after `longest`.
async fn outlives(mut peer: Peer, longest: Duration, masked: bool) -> bool {
    let life = async {
        // Not `fill`, which is impatient: silence is the story here.
        while matches!(peer.stream.read_buf(&mut peer.buffer).await, Ok(1..)) {
            while let Some(ping) = parse(&peer.buffer) {
                peer.buffer.drain(..ping.raw.len());
                assert_eq!(ping.first, 0x89);
                let key = masked.then_some([1, 2, 3, 4]);
                peer.send_bytes(&frame(0x8a, &ping.payload, key)).await;
            }
        }
    };
    tokio::time::timeout(longest, life).await.is_err()
}

/// Opens silent sockets, and says how many were open after `longest`.
async fn silent(chain: &mut Chain, count: usize, longest: Duration) -> usize {
    let (mut clients, mut backends) = (JoinSet::new(), JoinSet::new());
    for _ in 0..count {
        clients.spawn(outlives(opened(chain.door).await, longest, true));
        let backend = chain.peers.recv().await.unwrap();
        backends.spawn(outlives(backend, longest * 2, false));
    }
    let mut open = 0;
    while let Some(outcome) = clients.join_next().await {
        open += usize::from(outcome.unwrap());
    }
    // Their ends are seen by the gate once both sides are gone.
    backends.shutdown().await;
    open
}

async fn story(timer: &str, seconds: f64, every: Duration) {
    for in_front in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let longest = Duration::from_secs_f64(seconds * 2.5);
        let mut with_ping = chain(folder.path(), in_front, timer, Some(every)).await;
        assert_eq!(
            silent(&mut with_ping, 3, longest).await,
            3,
            "in front: {in_front}"
        );
        drop(with_ping);
        let folder = tempfile::tempdir().unwrap();
        let mut without = chain(folder.path(), in_front, timer, None).await;
        assert_eq!(
            silent(&mut without, 8, longest).await,
            0,
            "in front: {in_front}"
        );
        let socket = folder.path().join("admin.sock");
        eventually("all ends are known", || async {
            let page = admin(&socket, "/websockets").await;
            page.contains("8 of 8 closed by the")
        })
        .await;
        let page = admin(&socket, "/websockets").await;
        let page: Value = serde_json::from_str(&page).unwrap();
        let cause = &page["routes"][0]["causes"][0];
        let side = if in_front { "client" } else { "backend" };
        assert_eq!(cause["side"], side, "{page}");
        assert!(
            (cause["seconds"].as_f64().unwrap() - seconds).abs() <= 1.0,
            "{page}"
        );
        let said = cause["said"].as_str().unwrap();
        assert!(said.contains("of silence: an idle timeout"), "{said}");
        drop(without.gate);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx: ./test hops"]
async fn a_hop_with_a_short_timer_is_outlived_or_named() {
    story("proxy_read_timeout 2s;", 2.0, Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx and ten minutes: ./test --long"]
async fn a_hop_with_the_default_timer_is_outlived_or_named() {
    story("", 60.0, Duration::from_secs(25)).await;
}
