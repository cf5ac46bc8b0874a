//! SIGHUP: the settings change under load, and nobody notices.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use munjigi_testkit::{Program, eventually, free_port};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::binary;
use crate::load::{Load, Tunnel, origin};

const WITHIN: Duration = Duration::from_secs(60);

struct Gate {
    folder: PathBuf,
    web: SocketAddr,
    second: SocketAddr,
    origin: SocketAddr,
    program: Program,
}

impl Gate {
    async fn start(folder: &Path, origin: SocketAddr) -> Self {
        let port = || SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let (web, second) = (port(), port());
        std::fs::write(folder.join("gate.toml"), settings(0, web, second, origin)).unwrap();
        let file = folder.join("gate.toml");
        let arguments = ["run", file.to_str().unwrap()];
        let program = Program::start(binary(), &arguments, &folder.join("log")).unwrap();
        eventually("the gate listens", WITHIN, async || {
            tokio::net::TcpStream::connect(web).await.ok()
        })
        .await
        .unwrap();
        Self {
            folder: folder.to_path_buf(),
            web,
            second,
            origin,
            program,
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let id = self.program.id().unwrap();
        kill_process(Pid::from_raw(id.cast_signed()).unwrap(), signal).unwrap();
    }

    /// Tells it to reload `text`, and waits until the log has said `what` once more.
    async fn reload(&self, text: &str, what: &str) {
        let before = self.log().matches(what).count();
        std::fs::write(self.folder.join("gate.toml"), text).unwrap();
        self.signal(Signal::HUP);
        eventually(what, WITHIN, async || {
            (self.log().matches(what).count() > before).then_some(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", self.program.log_tail()));
    }

    async fn reload_number(&self, number: u32) {
        let text = settings(number, self.web, self.second, self.origin);
        self.reload(&text, "settings were reloaded").await;
    }
}

/// Settings of which each number differs from the one before in routes, a service, a limit, and a listener that comes
/// and goes.
fn settings(number: u32, web: SocketAddr, second: SocketAddr, origin: SocketAddr) -> String {
    let mut text = format!(
        "[gate]\nthreads = 2\n\
         [[gate.listener]]\nname = \"web\"\naddress = \"{web}\"\nconnections_max = {}\n\
         [[gate.route]]\nname = \"all\"\npath = \"/\"\nservice = \"APP\"\n\
         [gate.service.APP]\nbackends = [ {{ address = \"{origin}\" }} ]\nbalance = \"{}\"\n\
         [gate.limits]\nkeep_alive = \"{}s\"\n",
        20_000 + number,
        ["round_robin", "least_requests"][number as usize % 2],
        60 + number % 2,
    );
    if number % 2 == 1 {
        writeln!(
            text,
            "[[gate.listener]]\nname = \"second\"\naddress = \"{second}\""
        )
        .unwrap();
    }
    for route in 0..number % 50 {
        writeln!(
            text,
            "[[gate.route]]\npath = \"/reload-{number}/{route}\"\nservice = \"APP\""
        )
        .unwrap();
    }
    text
}

async fn tunnels(address: SocketAddr, count: usize) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    while tunnels.len() < count {
        let mut some = JoinSet::new();
        for _ in 0..100.min(count - tunnels.len()) {
            some.spawn(Tunnel::open(address));
        }
        tunnels.extend(some.join_all().await);
    }
    tunnels
}

/// Reloads `times`, `every` so often, with so many WebSockets open and requests under way. Nothing may fail, and memory
/// may grow by `growth` at most, once all has been seen a few times.
async fn reloads(times: u32, every: Duration, sockets: usize, growth: f64) {
    let folder = tempfile::tempdir().unwrap();
    let (origin, _origin) = origin().await;
    let gate = Gate::start(folder.path(), origin).await;
    let open = tunnels(gate.web, sockets).await;
    let load = Load::begin(gate.web, "/", 8);
    load.more(100).await;
    let settled = times / 4;
    let mut before = 0;
    for number in 1..=times {
        gate.reload_number(number).await;
        load.more(10).await;
        tokio::time::sleep(every).await;
        if number == settled {
            before = gate.program.memory().unwrap().0;
        }
    }
    let after = gate.program.memory().unwrap().0;
    let (answered, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {answered}");
    let mut checks = JoinSet::new();
    for mut tunnel in open {
        checks.spawn(async move { tunnel.lives().await.then_some(tunnel) });
    }
    let living: Vec<Tunnel> = checks.join_all().await.into_iter().flatten().collect();
    let log = gate.program.log_tail();
    assert_eq!(living.len(), sockets, "no socket was cut: {log}");
    println!(
        "{times} reloads, {sockets} WebSockets, {answered} requests, {} KiB before, {} KiB after",
        before / 1024,
        after / 1024
    );
    let (before, after) = (before as f64, after as f64);
    assert!(after <= before * (1.0 + growth), "{before} grew to {after}");
    assert_eq!(gate.program.stop().await.unwrap(), 0);
    for tunnel in living.into_iter().take(20) {
        assert_eq!(tunnel.close_code().await, Some(CloseCode::Away));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_cut_nobody() {
    // Small heaps grow in steps: the long form holds the share.
    reloads(20, Duration::from_millis(20), 300, 0.25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes"]
async fn reloads_for_ten_minutes_with_nine_thousand_websockets() {
    // Each WebSocket is two descriptors of the gate, and two of this process (client and origin).
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let sockets = usize::try_from((limit.saturating_sub(2_000) / 2).min(9_000)).unwrap();
    println!("open files: {limit}; WebSockets: {sockets}");
    reloads(136, Duration::from_millis(4_400), sockets, 0.05).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_says_what_changed_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, _origin) = origin().await;
    let gate = Gate::start(folder.path(), origin).await;
    let good = settings(0, gate.web, gate.second, origin);

    let broken =
        good.replace("path = \"/\"", "path = \"nowhere\"") + "\n[gate.admin]\nsokcet = 1\n";
    gate.reload(&broken, "were not reloaded").await;
    let log = gate.log();
    assert!(
        log.contains("sokcet") && log.contains("nowhere"),
        "all reasons: {log}"
    );
    // As `check` says it: where, and what to do.
    let mut lines = broken.lines();
    let line = 1 + lines.position(|line| line.contains("sokcet")).unwrap();
    let named = format!(
        "gate.toml:{line}: unknown key `sokcet` in [gate.admin] (hint: did you mean `socket`?)"
    );
    assert!(log.contains(&named), "{named}: {log}");
    assert_eq!(status(gate.web).await, 200);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let unbound = format!(
        "{}\n[[gate.listener]]\nname = \"taken\"\naddress = \"{address}\"\n",
        good.replace(
            "name = \"all\"\npath = \"/\"",
            "name = \"all\"\npath = \"/none\""
        )
    )
    .replace(
        "[gate]",
        "[gate]\naccess_log = \"no/such/folder/access.log\"",
    );
    gate.reload(&unbound, "were not reloaded").await;
    let log = gate.log();
    assert!(
        log.contains("listener `taken` can't listen") && log.contains("access log"),
        "all reasons: {log}"
    );
    assert_eq!(status(gate.web).await, 200, "the routes stay, too");

    let changed = settings(1, gate.web, gate.second, origin).replace(
        "[gate]\nthreads = 2",
        "[gate]\nthreads = 3\ndata = \"elsewhere\"",
    );
    gate.reload(&changed, "settings were reloaded").await;
    let log = gate.log();
    for line in [
        "listener web changed",
        "listener second added",
        "service APP changed",
        "limits changed",
        "gate.threads changed: that needs a new process",
        "gate.data changed: that needs a new process",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert_eq!(status(gate.second).await, 200);
    // A new name on the same address keeps its socket.
    let renamed = changed.replace("name = \"second\"", "name = \"renamed\"");
    gate.reload(&renamed, "listener renamed added").await;
    assert_eq!(status(gate.second).await, 200);
    gate.reload(&good, "listener renamed removed").await;
    eventually("the removed listener is closed", WITHIN, async || {
        tokio::net::TcpStream::connect(gate.second)
            .await
            .is_err()
            .then_some(())
    })
    .await
    .unwrap();
    assert_eq!(gate.program.stop().await.unwrap(), 0);
}

async fn status(address: SocketAddr) -> u16 {
    let url = format!("http://{address}/");
    reqwest::get(url).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_access_log_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, _origin) = origin().await;
    let gate = Gate::start(folder.path(), origin).await;
    let with_log = settings(0, gate.web, gate.second, origin)
        .replace("[gate]", "[gate]\naccess_log = \"access.log\"");
    gate.reload(&with_log, "access_log changed").await;
    let (current, rotated) = (
        folder.path().join("access.log"),
        folder.path().join("access.log.1"),
    );
    let lines = async |file: &Path, count: usize| {
        eventually("the line is written", WITHIN, async || {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            (text.lines().count() == count).then_some(())
        })
        .await
        .unwrap();
    };
    status(gate.web).await;
    lines(&current, 1).await;
    std::fs::rename(&current, &rotated).unwrap();
    status(gate.web).await;
    lines(&rotated, 2).await;
    gate.reload(&with_log, "the access log was opened anew")
        .await;
    status(gate.web).await;
    lines(&current, 1).await;
    lines(&rotated, 2).await;
    assert_eq!(gate.program.stop().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_twice_it_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, _origin) = origin().await;
    let mut gate = Gate::start(folder.path(), origin).await;
    // An answer that never comes keeps the drain waiting.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = settings(0, gate.web, gate.second, silent.local_addr().unwrap())
        .replace("[gate.limits]", "[gate.limits]\ndrain = \"1h\"");
    gate.reload(&text, "settings were reloaded").await;
    let mut asking = JoinSet::new();
    asking.spawn(reqwest::get(format!("http://{}/", gate.web)));
    let (_kept, _) = silent.accept().await.unwrap();
    gate.signal(Signal::TERM);
    eventually("it drains", WITHIN, async || {
        gate.log().contains("draining").then_some(())
    })
    .await
    .unwrap();
    assert!(tokio::net::TcpStream::connect(gate.web).await.is_err());
    gate.signal(Signal::TERM);
    assert_eq!(gate.program.wait().await.unwrap(), 1);
    assert!(asking.join_next().await.unwrap().unwrap().is_err());
}
