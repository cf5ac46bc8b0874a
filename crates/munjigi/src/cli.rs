//! The command line. Every command has an example in its `--help`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::{BackendsArgs, ConnectionsArgs, DrainArgs, LogLevelArgs, WeightArgs};
use crate::bans::BansArgs;
use crate::client::{CancelArgs, DeleteArgs, JobsArgs, ResultArgs, SubmitArgs, WatchArgs};
use crate::explain::ExplainCommand;
use crate::scan::ScanArgs;

/// Offers heavy file analysis as a web service: gate, registry, hub, workers and an analyser in one program.
#[derive(Debug, Parser)]
#[command(
    name = "munjigi",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Start here:\n  munjigi up\n  munjigi submit --follow app.zip"
)]
pub(crate) struct Cli {
    /// What the program's own log tells, as in the RUST_LOG convention
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "MUNJIGI_LOG",
        hide_env = true,
        hide_short_help = true
    )]
    pub(crate) log: Option<String>,
    /// Writes the program's own log as JSON lines
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) log_json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs everything in one process on embedded defaults: no other program, no settings file
    #[command(
        after_help = "Examples:\n  munjigi up\n  munjigi up --data /var/lib/munjigi --listen 127.0.0.1:8080 --workers 4"
    )]
    Up(UpArgs),
    /// Runs the roles of a settings file
    #[command(
        after_help = "Examples:\n  munjigi run munjigi.toml\n  munjigi run munjigi.toml --only gate,registry"
    )]
    Run(RunArgs),
    /// Checks a settings file: every problem at once, with line, caret and hint
    #[command(after_help = "Example:\n  munjigi check munjigi.toml && systemctl reload munjigi")]
    Check(CheckArgs),
    /// Prints every setting with its default, limit and meaning
    #[command(after_help = "Examples:\n  munjigi settings\n  munjigi settings gate")]
    Settings(SettingsArgs),
    /// Explains a request's way, the IP filter's verdict, how WebSockets ended, or a finding
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// Runs the analyser on files, folders or archives, with no server
    #[command(
        after_help = "Examples:\n  munjigi scan src/\n  munjigi scan app.zip --format sarif -o app.sarif --fail-on error"
    )]
    Scan(ScanArgs),
    /// Uploads a file, resumably, and starts a job
    #[command(
        after_help = "Examples:\n  munjigi submit --follow app.zip\n  munjigi submit app.tar.gz --json --fail-on error --hub http://127.0.0.1:8080 --token mjg_…"
    )]
    Submit(SubmitArgs),
    /// Lists your jobs, newest first
    #[command(after_help = "Examples:\n  munjigi jobs\n  munjigi jobs --status RUNNING --json")]
    Jobs(JobsArgs),
    /// Shows a job's events, from the first one to its end
    #[command(after_help = "Example:\n  munjigi watch 01JD3ZK5T1M8Q4V0X6Y7N2B9CE")]
    Watch(WatchArgs),
    /// Stops a job and removes what it left
    #[command(after_help = "Example:\n  munjigi cancel 01JD3ZK5T1M8Q4V0X6Y7N2B9CE")]
    Cancel(CancelArgs),
    /// Deletes a job that has ended, with its events, findings and results
    #[command(after_help = "Example:\n  munjigi delete 01JD3ZK5T1M8Q4V0X6Y7N2B9CE")]
    Delete(DeleteArgs),
    /// Fetches a job's results, verified, into a folder
    #[command(after_help = "Example:\n  munjigi result 01JD3ZK5T1M8Q4V0X6Y7N2B9CE -o findings/")]
    Result(ResultArgs),
    /// Lists the backends of a running gate, with state and figures
    #[command(
        after_help = "Examples:\n  munjigi backends\n  munjigi backends HUB --json --admin unix:/run/munjigi/admin.sock"
    )]
    Backends(BackendsArgs),
    /// Takes a backend out of the balance of a running gate; a worker gets no new jobs
    #[command(
        after_long_help = "A drained backend gets no balanced requests, and what it has goes on. What a route's `where` sends to it still arrives: \
            there is no other that could answer, and so the jobs of a worker come to their end. Hubs that know this gate \
            (`gate_admin`; in the same process by themselves) place no new jobs on it within 3 s. It holds until --undo, or \
            until the gate ends.\n\n\
            To empty a worker for maintenance: drain it, and wait until `munjigi backends` shows nothing in flight and the \
            status page no busy slot.\n\n\
            Examples:\n  munjigi drain MODEL-SERVER 10.0.0.3:8000\n  munjigi drain MODEL-SERVER 10.0.0.3:8000 --undo"
    )]
    Drain(DrainArgs),
    /// Lists whom a running gate bans, and bans or pardons
    #[command(
        after_help = "Examples:\n  munjigi bans\n  munjigi bans add 203.0.113.7 --for 1h\n  munjigi bans remove 203.0.113.7"
    )]
    Bans(BansArgs),
    /// Gives a backend of a running gate another share
    #[command(
        after_help = "Examples:\n  munjigi weight HUB 10.0.0.3:8000 5\n  munjigi weight HUB 10.0.0.3:8000"
    )]
    Weight(WeightArgs),
    /// Lists the open connections and tunnels of a running gate, the oldest first
    #[command(after_help = "Example:\n  munjigi connections --tunnels --limit 20")]
    Connections(ConnectionsArgs),
    /// Prints or changes what the log of a running process with a gate tells, until it ends
    #[command(
        after_help = "Examples:\n  munjigi log-level\n  munjigi log-level info,munjigi_gate=debug"
    )]
    LogLevel(LogLevelArgs),
    /// The built-in model, speaking the model protocol on standard input and output
    #[command(hide = true)]
    Model,
    /// A command that writes SARIF as a model, speaking the model protocol on standard input and output
    #[command(hide = true)]
    SarifModel {
        #[arg(allow_hyphen_values = true, trailing_var_arg = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Enters the sandbox that a worker describes, and becomes the model
    #[command(hide = true)]
    Sandbox {
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        arguments: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "munjigi-data")]
    pub(crate) data: PathBuf,
    /// Where users reach it; every other port is a free one on loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// Does not open the page in the browser
    #[arg(long)]
    pub(crate) no_open: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The settings file
    pub(crate) file: PathBuf,
    /// Runs only these roles of the file
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub(crate) only: Vec<Role>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The settings file
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// Only the settings of this role
    pub(crate) role: Option<Role>,
}

/// A table of the settings file that a process can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    Gate,
    Registry,
    Hub,
    Worker,
}
