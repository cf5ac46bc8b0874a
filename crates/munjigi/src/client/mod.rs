//! The commands that speak to a hub: submit, jobs, watch, cancel, result, delete.

mod coverage;
mod follow;
mod hub;
mod jobs;
mod progress;
mod result;
mod screen;
mod submit;
mod upload;

pub(crate) use jobs::{CancelArgs, DeleteArgs, JobsArgs, cancel, delete, jobs};
pub(crate) use result::{ResultArgs, result};
pub(crate) use submit::{SubmitArgs, WatchArgs, submit, watch};

use clap::Args;

/// Where the hub is, and who asks.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    /// The hub's URL [default: that of ./munjigi-data/runtime.json]
    #[arg(long, value_name = "URL", env = "MUNJIGI_HUB", hide_env = true)]
    hub: Option<String>,
    /// A token of yours [default: that in ./munjigi-data/cli.token]
    #[arg(
        long,
        value_name = "TOKEN",
        env = "MUNJIGI_TOKEN",
        hide_env = true,
        hide_env_values = true
    )]
    token: Option<String>,
}

/// From which level on findings make the exit code 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum FailOn {
    Note,
    Warning,
    Error,
    Never,
}
