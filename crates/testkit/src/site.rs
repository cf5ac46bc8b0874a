use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Client, Program, eventually};

/// How the roles are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteKind {
    /// All roles of one settings file in one process.
    OneProcess,
    /// Registry, gate, hub and two workers, each a process of its own.
    Split,
}

/// The whole program at work in a folder of its own, with two workers that offer the built-in model and, when asked
/// for, a command.
#[derive(Debug)]
pub struct Site {
    binary: PathBuf,
    folder: PathBuf,
    kind: SiteKind,
    web: u16,
    running: Vec<(String, Program)>,
    client: Option<Client>,
}

/// A port that nobody listens on now, and that was not given before. It is below those that the kernel gives to
/// clients (`net.ipv4.ip_local_port_range`): any connection that begins meanwhile may take one of those.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 10_000;
    const COUNT: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Processes that run at the same time begin at different ones.
        let place = std::process::id()
            .wrapping_mul(101)
            .wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from(place % COUNT)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

impl Site {
    /// Writes the settings of a site into `folder`. `model` is the `command = […]` of a second model named `slow`.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(binary: &Path, folder: &Path, kind: SiteKind, model: Option<&str>) -> Result<Self> {
        let secret = folder.join("cluster.secret");
        fs::write(&secret, "a-secret-of-the-cluster-for-tests-only")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        let (web, inner, registry, hub) = (free_port()?, free_port()?, free_port()?, free_port()?);
        let cluster =
            "[cluster]\nsecret_file = \"cluster.secret\"\nservices = [\"HUB\", \"MODEL-SERVER\"]\n";
        let url = format!("registry = [\"http://127.0.0.1:{registry}/eureka\"]");
        let registry_part = format!("[registry]\naddress = \"127.0.0.1:{registry}\"\n");
        let gate_part = gate(web, inner, registry);
        let hub_part = format!(
            "[hub]\naddress = \"127.0.0.1:{hub}\"\ndata = \"hub\"\ngate = \"http://127.0.0.1:{inner}\"\n{url}\n"
        );
        let worker = |number: u32| {
            let mut models = "{ name = \"source\", builtin = true }".to_owned();
            if let Some(command) = model {
                models.push_str(&format!(", {{ name = \"slow\", command = {command} }}"));
            }
            format!(
                "[worker]\naddress = \"127.0.0.1:0\"\nserver_id = \"{number}\"\ndata = \"worker-{number}\"\nhub = \"http://127.0.0.1:{inner}\"\n{url}\nmodel = [ {models} ]\n"
            )
        };
        let write = |name: &str, parts: &[&str]| fs::write(folder.join(name), parts.join("\n"));
        match kind {
            SiteKind::OneProcess => {
                write(
                    "all.toml",
                    &[cluster, &registry_part, &gate_part, &hub_part, &worker(1)],
                )?;
                write("worker-2.toml", &[cluster, &worker(2)])?;
            }
            SiteKind::Split => {
                write("registry.toml", &[cluster, &registry_part])?;
                write("gate.toml", &[cluster, &gate_part])?;
                write("hub.toml", &[cluster, &hub_part])?;
                write("worker-1.toml", &[cluster, &worker(1)])?;
                write("worker-2.toml", &[cluster, &worker(2)])?;
            }
        }
        Ok(Self {
            binary: binary.to_path_buf(),
            folder: folder.to_path_buf(),
            kind,
            web,
            running: Vec::new(),
            client: None,
        })
    }

    /// The processes of this site, by the names [`Site::kill`] takes.
    #[must_use]
    pub fn processes(&self) -> &'static [&'static str] {
        match self.kind {
            SiteKind::OneProcess => &["all", "worker-2"],
            SiteKind::Split => &["registry", "gate", "hub", "worker-1", "worker-2"],
        }
    }

    /// Starts every process that does not run, and waits until the hub answers through the gate.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start(&mut self) -> Result<()> {
        for name in self.processes() {
            if !self.running.iter().any(|(running, _)| running == name) {
                self.start_one(name).await?;
            }
        }
        let url = format!("{}/ready", self.base());
        let http = reqwest::Client::new();
        eventually(
            "the hub is ready through the gate",
            Duration::from_secs(20),
            async || {
                let answer = http.get(&url).send().await.ok()?;
                answer.status().is_success().then_some(())
            },
        )
        .await
        .with_context(|| self.log_tails())
    }

    async fn start_one(&mut self, name: &str) -> Result<()> {
        let settings = self.folder.join(format!("{name}.toml"));
        let log = self.folder.join(format!("{name}.log"));
        let arguments = ["run", settings.to_str().context("a name in UTF-8")?];
        let mut program = Program::start(&self.binary, &arguments, &log)?;
        if matches!(name, "all" | "hub") {
            let link = program.line().await?;
            fs::write(self.folder.join("link"), link)?;
        }
        self.running.push((name.to_owned(), program));
        Ok(())
    }

    /// Where users reach it.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.web)
    }

    /// A client of the first user.
    ///
    /// # Errors
    /// When signing in fails.
    pub async fn client(&mut self) -> Result<Client> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let link = fs::read_to_string(self.folder.join("link"))?;
        let link = link
            .split_whitespace()
            .find(|word| word.contains("token="))
            .context("the hub printed no link")?;
        let client = Client::by_link(&self.base(), link).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// kill -9 on one process.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        let Some(index) = self.running.iter().position(|(running, _)| running == name) else {
            bail!("{name} does not run");
        };
        self.running.swap_remove(index).1.kill().await
    }

    /// A running process.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.running
            .iter()
            .find(|(running, _)| running == name)
            .map(|(_, program)| program)
    }

    /// Ends all processes with SIGTERM; their exit codes by name.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn stop(&mut self) -> Result<Vec<(String, i32)>> {
        let mut codes = Vec::new();
        // Hub and workers first: what they still say goes through gate and registry.
        self.running
            .sort_by_key(|(name, _)| !(name.starts_with("worker") || name == "hub"));
        for (name, program) in self.running.drain(..) {
            codes.push((name, program.stop().await?));
        }
        Ok(codes)
    }

    /// The ends of all logs, for messages.
    #[must_use]
    pub fn log_tails(&self) -> String {
        self.running
            .iter()
            .map(|(name, program)| format!("== {name}\n{}\n", program.log_tail()))
            .collect()
    }

    /// Files under a folder of the site that hold users' data, by their names relative to it.
    ///
    /// # Errors
    /// When a folder can't be read.
    pub fn files(&self, folder: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let root = self.folder.join(folder);
        let mut open = vec![root.clone()];
        while let Some(next) = open.pop() {
            let Ok(entries) = fs::read_dir(&next) else {
                continue;
            };
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path.strip_prefix(&root)?.display().to_string());
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

fn gate(web: u16, inner: u16, registry: u16) -> String {
    format!(
        r#"[gate]
threads = 1
[[gate.listener]]
name = "web"
address = "127.0.0.1:{web}"
[[gate.listener]]
name = "inner"
address = "127.0.0.1:{inner}"
[[gate.route]]
name = "app"
listener = ["web"]
path = "/"
service = "HUB"
[[gate.route]]
name = "events"
listener = ["inner"]
path = "/internal"
service = "HUB"
[[gate.route]]
name = "analysis"
listener = ["inner"]
path = "/analysis"
service = "MODEL-SERVER"
where = "metadata.serverId = query.serverId"
timeout = {{ rate_min = "off" }}
[gate.service.HUB]
discovery = "registry"
networks = ["127.0.0.0/8"]
[gate.service.MODEL-SERVER]
discovery = "registry"
networks = ["127.0.0.0/8"]
[gate.registry]
urls = ["http://127.0.0.1:{registry}/eureka"]
[gate.admin]
socket = "admin.sock"
"#
    )
}
