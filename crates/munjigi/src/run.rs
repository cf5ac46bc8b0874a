//! `munjigi run`, and the life of a process with roles.

use std::time::Duration;

use munjigi_foundation::settings::Document;

use crate::check::{any_error, print_problems};
use crate::cli::RunArgs;
use crate::outcome::{Exit, Failure, say};
use crate::roles::{self, Roles};
use crate::settings;
use crate::signals::{Signals, Told};

/// How long a hub may wait for its registry before its link is printed all the same.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Runs the roles of a settings file.
pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let document = settings::load(&args.file)?;
    let (read, problems) = settings::read(&document, &args.only);
    if !problems.is_empty() {
        print_problems(&document, &problems);
    }
    let Some(settings) = read else {
        return Ok(Exit::CouldNot);
    };
    block_on(async {
        let signals = Signals::listen()?;
        let roles = roles::start(settings, Vec::new()).await?;
        print_link(&roles).await?;
        serve(roles, signals, || reread(&document, args)).await
    })
}

/// Runs `main` on a runtime of its own.
pub(crate) fn block_on(main: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
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

/// Serves until it is told to stop; told again, it ends at once.
pub(crate) async fn serve(
    roles: Roles,
    mut signals: Signals,
    reread: impl Fn() -> Option<settings::Settings>,
) -> Result<Exit, Failure> {
    loop {
        match signals.next().await {
            Told::Stop => break,
            Told::Reload => reload(&roles, reread()),
        }
    }
    tracing::info!("draining; once more ends at once");
    let again = async { while signals.next().await != Told::Stop {} };
    tokio::select! {
        () = roles.end() => Ok(Exit::Good),
        () = again => Ok(Exit::No),
    }
}

fn reload(roles: &Roles, settings: Option<settings::Settings>) {
    let Some(settings) = settings else {
        tracing::error!("the settings were not reloaded: the running ones stay");
        return;
    };
    if let (Some(gate), Some(new)) = (&roles.gate, settings.gate) {
        match gate.reload(new) {
            Ok(()) => tracing::info!("the gate's settings were reloaded"),
            Err(error) => {
                tracing::error!(%error, "the settings were not reloaded: the running ones stay");
            }
        }
    } else {
        tracing::info!("only a gate's settings can be reloaded, and none runs here");
    }
}

/// The settings file as it is now; its problems go to the log.
fn reread(document: &Document, args: &RunArgs) -> Option<settings::Settings> {
    let fresh = match settings::load(&args.file) {
        Ok(fresh) => fresh,
        Err(failure) => {
            failure.print();
            return None;
        }
    };
    let (read, problems) = settings::read(&fresh, &args.only);
    for problem in &problems {
        tracing::error!(file = document.name, "{}", problem.message);
    }
    read.filter(|_| !any_error(&problems))
}
