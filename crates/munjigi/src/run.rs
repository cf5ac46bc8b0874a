//! `munjigi run`, and the life of a process with roles.

use std::time::Duration;

use munjigi_foundation::settings::Severity;

use crate::check::{any_error, print_problems};
use crate::cli::RunArgs;
use crate::handover::{Own, Predecessor, Successor};
use crate::outcome::{Exit, Failure, say};
use crate::roles::{self, Plan, Roles};
use crate::settings;
use crate::signals::{Signals, Told};
use crate::up::Lock;

/// How long a hub may wait for its registry before its link is printed all the same.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Runs the roles of a settings file.
pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let own = Own::at_start()?;
    let mut predecessor = Predecessor::find()?;
    let document = settings::load(&args.file)?;
    let (read, problems) = settings::read(&document, &args.only);
    if !problems.is_empty() {
        print_problems(&document, &problems);
    }
    let Some(settings) = read else {
        return Ok(Exit::CouldNot);
    };
    if let Some(before) = &mut predecessor {
        before.wait_for_release()?;
    }
    block_on(async {
        let signals = Signals::listen()?;
        let plan = Plan {
            settings,
            workers: Vec::new(),
        };
        let roles = roles::start(plan, predecessor.as_ref()).await?;
        print_link(&roles).await?;
        if let Some(before) = &mut predecessor {
            before.serving()?;
        }
        let life = Life {
            roles,
            own,
            lock: None,
        };
        life.serve(signals, || reread(args))
            .await
            .map(|end| end.exit)
    })
}

/// Runs `main` on a runtime of its own.
pub(crate) fn block_on(main: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    // What roles write are users' files, secrets and logs: nobody else's, whatever the folder they lie in allows.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("munjigi")
        .build()
        .map_err(Failure::could_not)?;
    let ended = runtime.block_on(main);
    // Whoever was told twice does not wait for what is stuck.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

/// The hub's one line: to standard output alone, since the link signs in.
async fn print_link(roles: &Roles) -> Result<(), Failure> {
    let Some(hub) = &roles.hub else {
        return Ok(());
    };
    if tokio::time::timeout(READY_WITHIN, hub.until_ready())
        .await
        .is_err()
    {
        tracing::warn!("the hub is not registered yet");
    }
    let base = roles.web_url().unwrap_or_else(|| hub.url());
    let link = hub.sign_in_url(&base).await.map_err(Failure::could_not)?;
    say(format!("Sign in within 10 minutes: {}", link.expose()));
    Ok(())
}

/// A process at work.
pub(crate) struct Life {
    pub(crate) roles: Roles,
    pub(crate) own: Own,
    /// Of the data folder as a whole, where there is one.
    pub(crate) lock: Option<Lock>,
}

/// How a process ended.
pub(crate) struct End {
    pub(crate) exit: Exit,
    /// Another process took its place.
    pub(crate) replaced: bool,
}

impl Life {
    /// Serves until it is told to stop; told again, it ends at once.
    pub(crate) async fn serve(
        mut self,
        mut signals: Signals,
        reread: impl Fn() -> Option<settings::Settings>,
    ) -> Result<End, Failure> {
        let mut replaced = false;
        loop {
            match signals.next().await {
                Told::Stop => break,
                Told::Reload => self.reload(reread()),
                Told::HandOver => {
                    if self.hand_over().await? {
                        replaced = true;
                        break;
                    }
                }
            }
        }
        if replaced {
            tracing::info!("another process serves now; this one ends with its last tunnel");
            tokio::select! {
                () = self.roles.leave() => {}
                () = signals.stop() => {}
            }
        }
        tracing::info!("draining; once more ends at once");
        let exit = tokio::select! {
            () = self.roles.end() => Exit::Good,
            () = signals.stop() => Exit::No,
        };
        Ok(End { exit, replaced })
    }

    fn reload(&self, settings: Option<settings::Settings>) {
        let Some(settings) = settings else {
            tracing::error!("the settings were not reloaded: the running ones stay");
            return;
        };
        let others = self.roles.plan.settings.changed_beside_gate(&settings);
        if let (Some(gate), Some(new)) = (&self.roles.gate, settings.gate.clone()) {
            match gate.reload(new) {
                Ok(changes) => {
                    tracing::info!("the gate's settings were reloaded: {changes}");
                    for key in &changes.restart {
                        tracing::warn!("{key} changed: {NEEDS_RESTART}");
                    }
                }
                Err(error) => {
                    for reason in &error.reasons {
                        tracing::error!("{reason}");
                    }
                    tracing::error!("the settings were not reloaded: the running ones stay");
                    return;
                }
            }
        } else {
            tracing::info!("only a gate's settings can be reloaded, and none runs here");
        }
        for role in others {
            tracing::warn!("{role} changed: {NEEDS_RESTART}");
        }
    }

    /// Starts another process in the place of this one; true once it serves. When it fails this one goes on.
    async fn hand_over(&mut self) -> Result<bool, Failure> {
        tracing::info!("starting another process in the place of this one");
        let successor = match Successor::start(&self.own, self.roles.sockets()).await {
            Ok(successor) => successor,
            Err(error) => {
                tracing::error!(
                    "the new process failed before it took over: {error}; this one serves on"
                );
                return Ok(false);
            }
        };
        let instances = self.roles.release().await;
        if let Some(lock) = &mut self.lock {
            lock.release();
        }
        let sticky_key = self.roles.sticky_key();
        match successor.take_over(instances.clone(), sticky_key).await {
            Ok(pid) => {
                tracing::info!(pid, "another process has taken over");
                Ok(true)
            }
            Err(error) => {
                tracing::error!("the new process failed: {error}; this one serves on");
                if let Some(lock) = &mut self.lock {
                    lock.take()?;
                }
                match self.roles.take_back(instances).await {
                    Ok(()) => tracing::info!("everything runs again in this process"),
                    // The gate serves on: ending it would not bring the others back.
                    Err(failure) => failure.print(),
                }
                Ok(false)
            }
        }
    }
}

/// What the log says of settings that only a new process reads.
const NEEDS_RESTART: &str = "that needs a new process (SIGUSR2, or a restart)";

/// The settings file as it is now; its problems go to the log.
fn reread(args: &RunArgs) -> Option<settings::Settings> {
    let fresh = match settings::load(&args.file) {
        Ok(fresh) => fresh,
        Err(failure) => {
            tracing::error!("{failure}");
            return None;
        }
    };
    let (read, problems) = settings::read(&fresh, &args.only);
    for problem in &problems {
        let line = problem.in_one_line(&fresh.name, &fresh.text);
        match problem.severity {
            Severity::Error => tracing::error!("{line}"),
            Severity::Warning => tracing::warn!("{line}"),
        }
    }
    read.filter(|_| !any_error(&problems))
}
