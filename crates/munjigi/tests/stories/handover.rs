//! SIGUSR2: another process takes over on the same sockets, and nobody notices.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use munjigi_testkit::{Program, Pushed, Site, SiteKind, eventually, free_port};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::load::{Load, Tunnel, origin};
use crate::{binary, slow_model};

const WITHIN: Duration = Duration::from_secs(60);

/// A process that was started by the one under test: ended with the story.
pub(crate) struct Grandchild(Pid);

impl Grandchild {
    fn lives(&self) -> bool {
        test_kill_process(self.0).is_ok()
    }

    pub(crate) fn tell(&self, signal: Signal) {
        kill_process(self.0, signal).unwrap();
    }
}

impl Drop for Grandchild {
    fn drop(&mut self) {
        if self.lives() {
            self.tell(Signal::KILL);
        }
    }
}

pub(crate) fn tell(program: &Program, signal: Signal) {
    let id = program.id().unwrap();
    kill_process(Pid::from_raw(id.cast_signed()).unwrap(), signal).unwrap();
}

/// The process that took over, once the log names it.
pub(crate) async fn successor(log: &Path) -> Grandchild {
    let pid = eventually("another process has taken over", WITHIN, async || {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let line = text
            .lines()
            .rev()
            .find(|line| line.contains("has taken over"))?;
        line.split("pid=").nth(1)?.trim().parse::<i32>().ok()
    })
    .await
    .unwrap_or_else(|error| {
        panic!(
            "{error}\n{}",
            std::fs::read_to_string(log).unwrap_or_default()
        )
    });
    Grandchild(Pid::from_raw(pid).unwrap())
}

async fn log_says(log: &Path, what: &str) {
    eventually(what, WITHIN, async || {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.contains(what).then_some(())
    })
    .await
    .unwrap_or_else(|error| {
        panic!(
            "{error}\n{}",
            std::fs::read_to_string(log).unwrap_or_default()
        )
    });
}

struct GateAlone {
    file: PathBuf,
    log: PathBuf,
    web: SocketAddr,
}

fn gate_alone(folder: &Path, origin: SocketAddr, limits: &str) -> GateAlone {
    let web = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let text = format!(
        "[gate]\nthreads = 2\n[[gate.listener]]\nname = \"web\"\naddress = \"{web}\"\n\
         [[gate.route]]\npath = \"/\"\nservice = \"APP\"\n\
         [gate.service.APP]\nbackends = [ {{ address = \"{origin}\" }} ]\n\
         [gate.limits]\n{limits}\n"
    );
    let file = folder.join("gate.toml");
    std::fs::write(&file, text).unwrap();
    GateAlone {
        file,
        log: folder.join("log"),
        web,
    }
}

async fn start(gate: &GateAlone) -> Program {
    let arguments = ["run", gate.file.to_str().unwrap()];
    let program = Program::start(binary(), &arguments, &gate.log).unwrap();
    eventually("the gate listens", WITHIN, async || {
        tokio::net::TcpStream::connect(gate.web).await.ok()
    })
    .await
    .unwrap();
    program
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_tunnels_outlive_a_handover() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, _origin) = origin().await;
    let gate = gate_alone(folder.path(), origin, "keep_alive = \"1s\"");
    let old = start(&gate).await;
    let mut tunnel = Tunnel::open(gate.web).await;
    assert!(tunnel.lives().await);
    let load = Load::begin(gate.web, "/", 8);
    load.more(100).await;
    tell(&old, Signal::USR2);
    let new = successor(&gate.log).await;
    load.more(300).await;
    // Once more: the successor has one, too.
    new.tell(Signal::USR2);
    eventually("the first successor has ended", WITHIN, async || {
        (!new.lives()).then_some(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", std::fs::read_to_string(&gate.log).unwrap()));
    let newest = successor(&gate.log).await;
    load.more(300).await;
    let (answered, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {answered}");

    assert!(tunnel.lives().await, "the old process keeps its tunnels");
    tunnel.close().await;
    let old_pid = Pid::from_raw(old.id().unwrap().cast_signed()).unwrap();
    eventually(
        "the old process ends with its last tunnel",
        WITHIN,
        async || {
            // Not awaited by us yet, it stays as a zombie.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", old_pid.as_raw_pid())).ok();
            stat.is_none_or(|stat| stat.contains(") Z")).then_some(())
        },
    )
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", old.log_tail()));
    newest.tell(Signal::TERM);
    eventually("the newest process ends when told", WITHIN, async || {
        (!newest.lives()).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_of_an_old_process_get_1001_after_drain_max_and_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, _origin) = origin().await;
    let gate = gate_alone(folder.path(), origin, "drain_max = \"1s\"");
    let old = start(&gate).await;
    let tunnel = Tunnel::open(gate.web).await;
    tell(&old, Signal::USR2);
    let new = successor(&gate.log).await;
    assert_eq!(tunnel.close_code().await, Some(CloseCode::Away));
    let tunnel = Tunnel::open(gate.web).await;
    new.tell(Signal::TERM);
    assert_eq!(tunnel.close_code().await, Some(CloseCode::Away));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_fails_leaves_the_old_one_serving() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, _origin) = origin().await;
    let gate = gate_alone(folder.path(), origin, "");
    let old = start(&gate).await;
    let good = std::fs::read_to_string(&gate.file).unwrap();
    let load = Load::begin(gate.web, "/", 4);
    load.more(20).await;
    std::fs::write(&gate.file, format!("{good}\n[nonsense]\n")).unwrap();
    tell(&old, Signal::USR2);
    log_says(&gate.log, "failed before it took over").await;
    // Good settings, and an address that another program has: it fails once it starts its roles.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = format!(
        "\n[[gate.listener]]\nname = \"taken\"\naddress = \"{}\"\n",
        taken.local_addr().unwrap()
    );
    std::fs::write(&gate.file, format!("{good}{listener}")).unwrap();
    tell(&old, Signal::USR2);
    log_says(&gate.log, "the new process failed:").await;
    load.more(50).await;
    let (answered, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {answered}");
    assert_eq!(old.stop().await.unwrap(), 0);
}

/// Where the key of sticky cookies can't be kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sticky_cookies_mean_the_same_to_the_new_process() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, _origin) = origin().await;
    let gate = gate_alone(folder.path(), origin, "");
    let text = std::fs::read_to_string(&gate.file).unwrap();
    let text = text.replace("[gate]\n", "[gate]\ndata = \"no-folder\"\n");
    let sticky = "[gate.service.APP]\nsticky = { cookie = \"kept\" }\n";
    let text = text.replace("[gate.service.APP]\n", sticky);
    std::fs::write(&gate.file, text).unwrap();
    std::fs::write(folder.path().join("no-folder"), "").unwrap();
    let cookie = async || {
        let url = format!("http://{}/", gate.web);
        let answer = reqwest::Client::new().get(url).send().await.unwrap();
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(cookie.starts_with("kept="), "{cookie}");
        cookie
    };
    let mut old = start(&gate).await;
    let first = cookie().await;
    tell(&old, Signal::HUP);
    log_says(&gate.log, "settings were reloaded").await;
    assert_eq!(cookie().await, first, "a reload");
    tell(&old, Signal::USR2);
    let new = successor(&gate.log).await;
    assert_eq!(old.wait().await.unwrap(), 0);
    assert_eq!(cookie().await, first, "a handover");
    new.tell(Signal::TERM);
    log_says(&gate.log, "can't be kept").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_registry_and_worker_pass_on_with_their_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let model = slow_model();
    let mut site = Site::new(binary(), folder.path(), SiteKind::OneProcess, Some(&model)).unwrap();
    site.start().await.unwrap();
    let log = folder.path().join("all.log");
    let client = site.client().await.unwrap();
    let upload = client
        .upload("wait.txt", b"seconds=4 mib=1\n".to_vec())
        .await
        .unwrap();
    let event_id = client.job(&upload, &["slow"]).await.unwrap();
    let mut socket = client.follow(&event_id, None).await.unwrap();
    let web: SocketAddr = site.base().trim_start_matches("http://").parse().unwrap();
    let load = Load::begin(web, "/api/health", 6);
    load.more(50).await;

    // What fails after the data was released: the old process takes it back.
    let file = folder.path().join("all.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(folder.path().join("no-folder"), "").unwrap();
    let broken = good.replace("data = \"hub\"", "data = \"no-folder\"");
    assert_ne!(good, broken);
    std::fs::write(&file, broken).unwrap();
    tell(site.program("all").unwrap(), Signal::USR2);
    log_says(&log, "everything runs again in this process").await;
    load.more(50).await;

    std::fs::write(&file, good).unwrap();
    tell(site.program("all").unwrap(), Signal::USR2);
    let new = successor(&log).await;
    load.more(100).await;
    let (answered, failures) = load.end().await;
    assert_eq!(
        failures,
        Vec::<String>::new(),
        "of {answered}\n{}",
        site.log_tails()
    );

    // The hub's own sockets were told, and the job goes on at the new one.
    loop {
        match socket.next().await.unwrap() {
            Pushed::Closed(code) => break assert_eq!(code, Some(1001)),
            Pushed::Error { code } => panic!("{code}"),
            _ => {}
        }
    }
    eventually("the job is done", WITHIN, async || {
        let job = client.get(&format!("/api/jobs/{event_id}")).await.ok()?;
        (job["status"] == "DONE").then_some(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", site.log_tails()));
    new.tell(Signal::TERM);
    eventually("the new process ends when told", WITHIN, async || {
        (!new.lives()).then_some(())
    })
    .await
    .unwrap();
}
