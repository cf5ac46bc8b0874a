//! `munjigi up`: everything in one process, on embedded defaults, in one folder.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use munjigi_foundation::settings::Document;
use munjigi_worker::WorkerSettings;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::check::print_problems;
use crate::cli::UpArgs;
use crate::handover::{Own, Predecessor};
use crate::outcome::{Exit, Failure, say};
use crate::roles::{self, Plan, Roles};
use crate::run::{Life, block_on};
use crate::settings::{self, Settings};
use crate::signals::Signals;

/// Runs everything.
pub(crate) fn up(args: &UpArgs) -> Result<Exit, Failure> {
    warn_beyond_loopback(args);
    let own = Own::at_start()?;
    let mut predecessor = Predecessor::find()?;
    let data = Data::make(&args.data)?;
    if let Some(before) = &mut predecessor {
        before.wait_for_release()?;
    }
    let lock = data.lock()?;
    let (settings, workers) = embedded(args, &data.folder)?;
    block_on(async {
        let signals = Signals::listen()?;
        let plan = Plan { settings, workers };
        let roles = roles::start(plan, predecessor.as_ref()).await?;
        let link = data.describe(&roles).await?;
        say(format!("Munjigi is ready: {link}"));
        match &mut predecessor {
            Some(before) => before.serving()?,
            None if args.no_open => {}
            None => open_in_browser(&link),
        }
        let life = Life {
            roles,
            own,
            lock: Some(lock),
        };
        let end = life.serve(signals, no_settings_file).await?;
        if !end.replaced {
            // Nobody is there any more: what says otherwise goes.
            drop(fs::remove_file(data.folder.join("runtime.json")));
        }
        Ok(end.exit)
    })
}

/// What SIGHUP finds: `up` has no settings file to read again.
fn no_settings_file() -> Option<Settings> {
    tracing::error!("`munjigi up` runs on embedded defaults: there is no settings file");
    None
}

fn warn_beyond_loopback(args: &UpArgs) {
    if !args.listen.ip().is_loopback() {
        let mut stderr = std::io::stderr().lock();
        drop(writeln!(
            stderr,
            "warning: {} is reachable from outside, and nothing is encrypted: passwords and tokens can be read on the way\nhint: listen on 127.0.0.1, and put TLS in front",
            args.listen
        ));
    }
}

/// The data folder.
struct Data {
    folder: PathBuf,
}

/// Keeps others out of the data folder.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: Option<File>,
}

impl Lock {
    /// Takes it, also again after [`Lock::release`].
    pub(crate) fn take(&mut self) -> Result<(), Failure> {
        let folder = self.path.parent().unwrap_or(&self.path).display();
        let file = private(&self.path)
            .map_err(|error| Failure::could_not(format!("{folder} can't be locked: {error}")))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::could_not(format!("another munjigi works in {folder}"))
                .hint("stop it, or name another folder with --data")
        })?;
        self.file = Some(file);
        Ok(())
    }

    /// Lets another process take it.
    pub(crate) fn release(&mut self) {
        self.file = None;
    }
}

impl Data {
    fn make(folder: &Path) -> Result<Self, Failure> {
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::could_not(format!(
                "the data folder {} can't be used: {error}",
                folder.display()
            ))
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| cannot(&error))?;
        let folder = folder.canonicalize().map_err(|error| cannot(&error))?;
        Ok(Self { folder })
    }

    /// Locks the folder, and makes what every start needs.
    fn lock(&self) -> Result<Lock, Failure> {
        let mut lock = Lock {
            path: self.folder.join("lock"),
            file: None,
        };
        lock.take()?;
        let secret = self.folder.join("cluster.secret");
        if !secret.exists() {
            write_private(&secret, roles::random_secret()?.expose())?;
        }
        Ok(lock)
    }

    /// Writes what client commands need; gives the link of the first user.
    async fn describe(&self, roles: &Roles) -> Result<String, Failure> {
        let (Some(hub), Some(url)) = (&roles.hub, roles.web_url()) else {
            return Err(Failure::could_not("there is no hub"));
        };
        hub.until_ready().await;
        let token = self.folder.join("cli.token");
        if !token.exists() {
            let made = hub.cli_token().await.map_err(Failure::could_not)?;
            write_private(&token, made.expose())?;
        }
        let runtime = json!({
            "url": url,
            "inner": roles.inner_url()?,
            "admin": format!("unix:{}", self.folder.join("admin.sock").display()),
            "registry": roles.registry.as_ref().map(munjigi_registry::Registry::url),
            "pid": std::process::id(),
        });
        write_private(&self.folder.join("runtime.json"), &runtime.to_string())?;
        let link = hub.sign_in_url(&url).await.map_err(Failure::could_not)?;
        Ok(link.expose().to_owned())
    }
}

fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let fresh = path.with_extension("new");
    let written = private(&fresh)
        .and_then(|mut file| {
            writeln!(file, "{text}")?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(|error| {
        Failure::could_not(format!("{} can't be written: {error}", path.display()))
    })
}

/// The settings of `up`, written as anybody would write them, so that there is one way from settings to roles.
fn embedded(args: &UpArgs, folder: &Path) -> Result<(Settings, Vec<WorkerSettings>), Failure> {
    let text = format!(
        r#"[cluster]
secret_file = "cluster.secret"

[gate]
data = "gate"
[[gate.listener]]
name = "web"
address = "{listen}"
[[gate.listener]]
name = "inner"
address = "127.0.0.1:0"
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
where_missing = "balance"
timeout = {{ rate_min = "off" }}
[gate.service.HUB]
discovery = "registry"
networks = ["127.0.0.0/8"]
[gate.service.MODEL-SERVER]
discovery = "registry"
networks = ["127.0.0.0/8"]
[gate.registry]
embedded = true
[gate.admin]
socket = "admin.sock"

[registry]
address = "127.0.0.1:0"

[hub]
address = "127.0.0.1:0"
data = "hub"
"#,
        listen = args.listen
    );
    let settings = read(folder, text)?;
    let workers = (1..=args.workers)
        .map(|number| {
            let text = format!(
                "[cluster]\nsecret_file = \"cluster.secret\"\n[worker]\ndata = \"worker-{number}\"\nhub = \"http://127.0.0.1:1\"\nregistry = [\"http://127.0.0.1:1/eureka\"]\nmodel = [ {{ name = \"source\", builtin = true }} ]\n"
            );
            let mut worker = read(folder, text)?
                .worker
                .ok_or_else(|| Failure::could_not("the worker's defaults can't be read"))?;
            // Those of this process: only a settings file with all roles can leave them out.
            worker.hub = None;
            worker.registry.clear();
            Ok(worker)
        })
        .collect::<Result<_, Failure>>()?;
    Ok((settings, workers))
}

fn read(folder: &Path, text: String) -> Result<Settings, Failure> {
    let document = Document::new(&folder.join("up.toml"), text, settings::environment());
    let (read, problems) = settings::read(&document, &[]);
    if read.is_none() {
        print_problems(&document, &problems);
    }
    read.ok_or_else(|| Failure::could_not("munjigi up can't start with these arguments"))
}

/// Opens the page where there is a desktop; that it can't be opened is no failure: the link was printed.
fn open_in_browser(link: &str) {
    let environment = settings::environment();
    if !["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| environment.contains_key(*name))
    {
        return;
    }
    let opened = std::process::Command::new("xdg-open")
        .arg(link)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    drop(opened);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_settings_are_good() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("cluster.secret"),
            "0123456789abcdef0123456789abcdef",
        )
        .unwrap();
        let args = UpArgs {
            data: folder.path().to_path_buf(),
            listen: "127.0.0.1:0".parse().unwrap(),
            workers: 3,
            no_open: true,
        };
        let (settings, workers) = embedded(&args, folder.path()).unwrap();
        assert!(settings.gate.is_some() && settings.registry.is_some() && settings.hub.is_some());
        assert_eq!(workers.len(), 3);
        assert!(workers.iter().all(|worker| worker.hub.is_none()));
    }

    #[test]
    fn a_data_folder_is_worked_in_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("deep/data");
        let data = Data::make(&data).unwrap();
        let mut first = data.lock().unwrap();
        assert!(data.lock().is_err());
        first.release();
        let second = data.lock().unwrap();
        assert!(first.take().is_err());
        drop(second);
        first.take().unwrap();
    }
}
