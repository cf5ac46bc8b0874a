//! The binary: command line, environment, signals, wiring of roles, exit codes.

mod admin;
mod bans;
mod check;
mod cli;
mod client;
mod discovery;
mod explain;
mod handover;
mod listening;
mod outcome;
mod roles;
mod run;
mod scan;
mod settings;
mod signals;
mod up;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use munjigi_foundation::telemetry::{FILTER_HINT, LogFormat, start_log};

use cli::{Cli, Command};
use outcome::{Exit, Failure};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version are answers; anything else could not be understood.
            let exit = if error.use_stderr() {
                Exit::CouldNot
            } else {
                Exit::Good
            };
            drop(error.print());
            return exit.into();
        }
    };
    let told = if matches!(cli.command, Command::Run(_)) {
        "info"
    } else {
        "warn"
    };
    // A variable that is set to nothing says nothing.
    let filter = cli.log.as_deref().filter(|filter| !filter.is_empty());
    let format = if cli.log_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    if let Command::Sandbox { arguments } = &cli.command {
        // Nothing else may run in a process that is about to become a model: no log, no runtime, no thread.
        return munjigi_worker::sandbox::enter(arguments);
    }
    let colour = std::io::stderr().is_terminal();
    let started = start_log(filter.unwrap_or(told), format, colour).map_err(|why| {
        Failure::could_not(format!("--log (or MUNJIGI_LOG): {why}")).hint(FILTER_HINT)
    });
    match started.and_then(|()| dispatch(cli.command)) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Up(args) => up::up(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Settings(args) => Ok(check::settings(&args)),
        Command::Explain(command) => explain::explain(command),
        Command::Scan(args) => scan::scan(&args),
        Command::Submit(args) => wait(client::submit(args)),
        Command::Jobs(args) => wait(client::jobs(args)),
        Command::Watch(args) => wait(client::watch(args)),
        Command::Cancel(args) => wait(client::cancel(args)),
        Command::Delete(args) => wait(client::delete(args)),
        Command::Result(args) => wait(client::result(args)),
        Command::Backends(args) => wait(admin::backends(args)),
        Command::Drain(args) => wait(admin::drain(args)),
        Command::Bans(args) => wait(bans::bans(args)),
        Command::Weight(args) => wait(admin::weight(args)),
        Command::Connections(args) => wait(admin::connections(args)),
        Command::LogLevel(args) => wait(admin::log_level(args)),
        Command::Model | Command::Sandbox { .. } => scan::model(),
        Command::SarifModel { command } => scan::sarif_model(command),
    }
}

/// Runs what waits on one hub: one thread is enough.
fn wait(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::could_not)?
        .block_on(command)
}
