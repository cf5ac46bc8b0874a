//! The shield of a whole gate: the commands on bans, and bans that hold in the next process, however this one ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use munjigi_testkit::{Program, eventually, free_port};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::binary;
use crate::handover::{successor, tell};
use crate::load::origin;
use crate::operators::{command, said};

const WITHIN: Duration = Duration::from_secs(60);

struct Shielded {
    file: PathBuf,
    log: PathBuf,
    web: SocketAddr,
}

impl Shielded {
    fn new(folder: &Path, origin: SocketAddr) -> Self {
        let web = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let file = folder.join("gate.toml");
        let text = format!(
            "[gate]\nthreads = 2\n[[gate.listener]]\nname = \"web\"\naddress = \"{web}\"\n\
             [[gate.route]]\npath = \"/\"\nservice = \"APP\"\n\
             [gate.service.APP]\nbackends = [ {{ address = \"{origin}\" }} ]\n\
             [gate.client_ip]\ntrusted = [\"127.0.0.1\"]\n\
             [gate.shield]\ndeny_path = [\"*.php\"]\n"
        );
        std::fs::write(&file, text).unwrap();
        Self {
            file,
            log: folder.join("log"),
            web,
        }
    }

    async fn start(&self) -> Program {
        let arguments = ["run", self.file.to_str().unwrap()];
        let program = Program::start(binary(), &arguments, &self.log).unwrap();
        eventually("the gate listens", WITHIN, async || {
            TcpStream::connect(self.web).await.ok()
        })
        .await
        .unwrap();
        program
    }

    /// The code of what `client` gets; empty for an answer of the backend.
    async fn code(&self, client: &str, path: &str) -> String {
        let url = format!("http://{}{path}", self.web);
        let request = reqwest::Client::new()
            .get(url)
            .header("X-Forwarded-For", client)
            .send();
        let answer = request.await.unwrap();
        if answer.status() == 200 {
            return String::new();
        }
        let problem: serde_json::Value = answer.json().await.unwrap();
        problem["code"].as_str().unwrap().to_owned()
    }
}

async fn wrong_orders_are_told(folder: &Path) {
    for (wrong, code, words) in [
        (&["bans", "remove", "nobody"][..], 2, "is no address"),
        (&["bans", "add", "203.0.113.0/24"], 2, "is a network"),
        (
            &["bans", "add", "127.0.0.1"],
            2,
            "is never banned: loopback",
        ),
        (
            &["bans", "add", "203.0.113.8", "--for", "soon"],
            2,
            "is no duration",
        ),
        (
            &["bans", "--admin", "unix:/no/such/socket"],
            2,
            "does not answer",
        ),
    ] {
        let output = command(folder, wrong).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{wrong:?}: {said}");
        assert!(
            said.starts_with("error: ") && said.contains(words),
            "{wrong:?}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bans_are_listed_made_and_ended_and_outlive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (origin, _origin) = origin().await;
    let gate = Shielded::new(folder, origin);
    let program = gate.start().await;
    let (scanner, other) = ("203.0.113.7", "203.0.113.8");
    assert_eq!(said(folder, &["bans"]).await, "");
    for _ in 0..5 {
        assert_eq!(gate.code(scanner, "/x.php").await, "denied_path");
    }
    assert_eq!(gate.code(scanner, "/").await, "banned");
    let text = said(folder, &["bans", "add", other, "--for", "2h"]).await;
    assert!(text.starts_with("203.0.113.8 is banned until "), "{text}");
    assert_eq!(gate.code(other, "/").await, "banned");

    let lines = said(folder, &["bans"]).await;
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let line = lines.iter().find(|line| line.starts_with(scanner)).unwrap();
    for part in ["6 requests", "denied_path 5", "/x.php", "until 20"] {
        assert!(line.contains(part), "{line}");
    }
    let json = said(folder, &["bans", "--json"]).await;
    let listed: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(listed.len(), 2);
    assert!(
        listed
            .iter()
            .any(|ban| ban["address"] == other && ban["manual"] == true)
    );

    let kept = folder.join("gate-data/bans.jsonl");
    eventually("both are kept", WITHIN, async || {
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        (text.contains(scanner) && text.contains(other)).then_some(())
    })
    .await
    .unwrap();
    program.kill().await.unwrap();
    let program = gate.start().await;
    assert_eq!(gate.code(scanner, "/").await, "banned");
    assert_eq!(gate.code(other, "/").await, "banned");
    assert_eq!(gate.code("203.0.113.9", "/").await, "");

    said(folder, &["bans", "remove", scanner]).await;
    assert_eq!(gate.code(scanner, "/").await, "");
    let again = said(folder, &["bans", "remove", scanner]).await;
    assert!(again.contains("was not banned"), "{again}");
    wrong_orders_are_told(folder).await;
    assert_eq!(program.stop().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bans_hold_after_a_handover() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (origin, _origin) = origin().await;
    let gate = Shielded::new(folder, origin);
    let mut old = gate.start().await;
    let who = "203.0.113.7";
    said(folder, &["bans", "add", who]).await;
    let kept = folder.join("gate-data/bans.jsonl");
    eventually("it is kept", WITHIN, async || {
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        text.contains(who).then_some(())
    })
    .await
    .unwrap();
    tell(&old, Signal::USR2);
    let new = successor(&gate.log).await;
    assert_eq!(old.wait().await.unwrap(), 0);
    assert_eq!(gate.code(who, "/").await, "banned");
    assert_eq!(gate.code("203.0.113.9", "/").await, "");
    new.tell(Signal::TERM);
}

/// A connection that has had its first answer: `client` is named anew in each request on it.
struct Open(BufReader<TcpStream>);

impl Open {
    async fn new(web: SocketAddr) -> Self {
        let mut open = Self(BufReader::new(TcpStream::connect(web).await.unwrap()));
        assert_eq!(open.ask("203.0.113.9", "/").await, "HTTP/1.1 200 OK");
        open
    }

    /// The first line of the answer.
    async fn ask(&mut self, client: &str, path: &str) -> String {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let (mut first, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).await.unwrap(), 0, "{first:?}");
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            if let Some(given) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = given.trim().parse().unwrap();
            }
            first.get_or_insert(line);
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        first.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_the_old_process_bans_while_it_ends_the_new_one_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (origin, _origin) = origin().await;
    let gate = Shielded::new(folder, origin);
    let old = gate.start().await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(Open::new(gate.web).await);
    }
    tell(&old, Signal::USR2);
    let new = successor(&gate.log).await;
    let (by_old, by_new, pardoned) = ("203.0.113.7", "203.0.113.8", "203.0.113.10");
    said(folder, &["bans", "add", by_new]).await;
    said(folder, &["bans", "add", pardoned]).await;
    // Each connection of the old process has one more answer.
    let last = open.pop().unwrap();
    for mut open in open {
        assert_eq!(open.ask(by_old, "/x.php").await, "HTTP/1.1 403 Forbidden");
    }
    eventually(
        "the new process knows of the old one's ban",
        WITHIN,
        async || (gate.code(by_old, "/").await == "banned").then_some(()),
    )
    .await
    .unwrap();
    said(folder, &["bans", "remove", pardoned]).await;
    // The old one ends with its last connection; nothing that it writes then takes a ban back.
    drop(last);
    let mut old = old;
    assert_eq!(old.wait().await.unwrap(), 0);
    new.tell(Signal::KILL);
    let program = eventually("the port is free again", WITHIN, async || {
        std::net::TcpListener::bind(gate.web).ok().map(drop)
    });
    program.await.unwrap();
    let program = gate.start().await;
    for (who, code) in [(by_old, "banned"), (by_new, "banned"), (pardoned, "")] {
        assert_eq!(gate.code(who, "/").await, code, "{who}");
    }
    assert_eq!(program.stop().await.unwrap(), 0);
}
