//! The shield of a whole gate: the commands on bans, and bans that hold in the next process, however this one ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use munjigi_testkit::{Program, eventually, free_port};
use rustix::process::Signal;

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
            tokio::net::TcpStream::connect(self.web).await.ok()
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

async fn wrong_orders_are_told(folder: &Path, pardoned: &str) {
    for (wrong, code, words) in [
        (&["bans", "remove", pardoned][..], 1, "is not banned"),
        (&["bans", "remove", "nobody"], 2, "is no address"),
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
    wrong_orders_are_told(folder, scanner).await;
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
