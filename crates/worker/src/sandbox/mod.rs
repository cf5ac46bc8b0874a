//! The sandbox that a model runs in (contract §7).
//!
//! Two stages of our own binary stand between the worker and the model, because a process can only be confined from
//! within, and safely only before it has threads:
//!
//! 1. **supervise**: takes its own namespaces, starts stage 2, watches the memory, number and files of the whole
//!    tree, and ends all of it, whatever detached itself, when the model ends, a limit is passed, or the worker goes
//!    away. Its standard input is a socket to the worker: the [`Spec`] first, then what the model is to read; back
//!    comes the [`Ended`] verdict.
//! 2. **confine**: limits, own user, Landlock, seccomp; then starts the model and waits for it.
//!
//! The model's standard output and error lead straight to the worker.

mod confine;
mod filter;
mod paths;
mod processes;
mod supervise;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// The hidden subcommand of the binary that leads to [`enter`].
pub const SUBCOMMAND: &str = "sandbox";
const SUPERVISE: &str = "supervise";
const CONFINE: &str = "confine";
/// The longest spec, as JSON: it passes through a socket's buffer and an argument.
const SPEC_BYTES_MAX: usize = 64 * 1024;
/// What a stage exits with when it could not do its work.
const COULD_NOT: u8 = 125;

/// The bounds of one run, for the tree as a whole where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory that no file backs.
    pub memory: u64,
    /// Seconds of processor time of one process.
    pub cpu: u64,
    /// Bytes of one file.
    pub file: u64,
    /// Bytes of all files in the folders that it may write.
    pub disk: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Open files of one process.
    pub open_files: u64,
}

/// What to run, and within what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Files and folders to read beside the system's programs and libraries.
    pub read: Vec<PathBuf>,
    /// Folders to read and write.
    pub write: Vec<PathBuf>,
    /// Current folder, `TMPDIR` and `HOME`; one of `write`.
    pub temporary: PathBuf,
    /// Whether it may open internet sockets.
    pub network: bool,
    /// False where `sandbox = "off"`: limits and the end of the whole tree stay, nothing else.
    pub confined: bool,
    /// User and group of its own, when the worker is root.
    pub user: Option<u32>,
    pub limits: Limits,
}

/// How a run ended. Nothing of its tree is left then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By itself; by the convention of shells 128 + n is signal n.
    Exit { code: u8 },
    /// The tree used more memory than it may.
    Memory { bytes: u64 },
    /// The tree had more processes and threads than it may.
    Processes { count: u64 },
    /// It wrote more than it may.
    Disk { bytes: u64 },
    /// The worker let go of it.
    Stopped,
    /// It was never started.
    NotStarted { why: String },
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { code } if *code > 128 => {
                write!(f, "was ended by signal {}", signal_name(code - 128))
            }
            Self::Exit { code } => write!(f, "exited with code {code}"),
            Self::Memory { bytes } => write!(f, "used {} MiB of memory", bytes >> 20),
            Self::Processes { count } => write!(f, "had {count} processes and threads"),
            Self::Disk { bytes } => write!(f, "wrote {} MiB", bytes >> 20),
            Self::Stopped => f.write_str("was stopped"),
            Self::NotStarted { why } => write!(f, "could not be started: {why}"),
        }
    }
}

/// Signals that say something to the reader of a message.
fn signal_name(signal: u8) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU: its processor time was used up",
        25 => "SIGXFSZ: a file became too large",
        31 => "SIGSYS: a system call that the sandbox forbids",
        other => return other.to_string(),
    };
    format!("{signal} ({name})")
}

/// What this machine lacks to confine a model.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("the kernel has no Landlock (it came with Linux 5.13, and must be on at boot)")]
    Landlock,
    #[error("the kernel has no seccomp filters")]
    Seccomp,
}

/// Whether models can be confined here. The answer costs two system calls and one file, and changes nothing.
///
/// # Errors
/// What is missing.
pub fn supported() -> Result<(), Missing> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .map_err(|_| Missing::Landlock)?;
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Ok(()),
        _ => Err(Missing::Seccomp),
    }
}

/// True when Landlock keeps signals and abstract sockets inside (ABI 6).
fn scopes_supported() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::from_all(ABI::V6))
        .and_then(Ruleset::create)
        .is_ok()
}

/// The body of the hidden subcommand: `arguments` are those after its name. Never called in the worker's own process.
#[must_use]
pub fn enter(arguments: &[OsString]) -> ExitCode {
    match arguments {
        [stage] if stage == SUPERVISE => supervise::run(),
        [stage, spec] if stage == CONFINE => confine::run(spec),
        _ => ExitCode::from(COULD_NOT),
    }
}

/// A running sandbox, from the worker's side.
#[derive(Debug)]
pub struct Sandboxed {
    /// The spec went in; what is written now the model reads. Closing it ends everything.
    pub channel: UnixStream,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    supervisor: Child,
}

/// Starts `spec` by means of `program`, which is our own binary (or one that leads [`SUBCOMMAND`] to [`enter`]).
///
/// # Errors
/// When the first stage can't be started.
pub fn start(program: &Path, spec: &Spec) -> std::io::Result<Sandboxed> {
    let mut json = serde_json::to_vec(spec)?;
    json.push(b'\n');
    if json.len() > SPEC_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "the command and its folders take {} bytes, {SPEC_BYTES_MAX} is the limit",
            json.len()
        )));
    }
    let (mut ours, theirs) = StdStream::pair()?;
    // An empty socket takes a spec whole: nobody is waited for.
    ours.write_all(&json)?;
    ours.set_nonblocking(true)?;
    let mut supervisor = Command::new(program)
        .args([SUBCOMMAND, SUPERVISE])
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C at the terminal is the worker's to handle, in its order.
        .process_group(0)
        .spawn()?;
    let channel = UnixStream::from_std(ours)?;
    let (Some(stdout), Some(stderr)) = (supervisor.stdout.take(), supervisor.stderr.take()) else {
        return Err(std::io::Error::other("the sandbox has no output"));
    };
    Ok(Sandboxed {
        channel,
        stdout,
        stderr,
        supervisor,
    })
}

impl Sandboxed {
    /// Waits for the first stage after its verdict, or after it was let go of. It ends within seconds; if it does not,
    /// it is killed, and the kernel ends what it started.
    pub async fn reap(supervisor: &mut Child) {
        let patience = std::time::Duration::from_secs(15);
        if tokio::time::timeout(patience, supervisor.wait())
            .await
            .is_err()
        {
            tracing::error!("a sandbox did not end in time and is killed");
            drop(supervisor.kill().await);
        }
    }

    /// Its parts, to be used at the same time.
    #[must_use]
    pub fn into_parts(self) -> (UnixStream, ChildStdout, ChildStderr, Child) {
        (self.channel, self.stdout, self.stderr, self.supervisor)
    }
}
