use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// One running process of the program. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Program {
    /// Starts `binary` with `arguments`; what it logs is added to the file `log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(binary: &Path, arguments: &[&str], log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let mut child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} can't be started", binary.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            stdout: BufReader::new(stdout),
            log: log.to_path_buf(),
        })
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    /// When it ends first, or none comes within 20 s; the error holds the end of its log.
    pub async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), self.stdout.read_line(&mut line));
        match read.await {
            Ok(Ok(count)) if count > 0 => Ok(line.trim_end().to_owned()),
            _ => anyhow::bail!("it printed no line; its log:\n{}", self.log_tail()),
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// kill -9: no handler runs, nothing is flushed.
    ///
    /// # Errors
    /// When the process can't be awaited.
    pub async fn kill(mut self) -> Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }

    /// SIGTERM, then its exit code.
    ///
    /// # Errors
    /// When it does not end within 30 s.
    pub async fn stop(mut self) -> Result<i32> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
        {
            kill_process(pid, Signal::TERM)?;
        }
        self.wait().await
    }

    /// Its exit code, once it ends by itself.
    ///
    /// # Errors
    /// When it does not end within 30 s.
    pub async fn wait(&mut self) -> Result<i32> {
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait())
            .await
            .with_context(|| format!("it does not end; its log:\n{}", self.log_tail()))??;
        Ok(status.code().unwrap_or(-1))
    }

    /// Resident memory in bytes, and its highest value so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let id = self.child.id().context("it has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|kib| kib.parse::<u64>().ok())
                .map(|kib| kib * 1024)
                .context("no such field")
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }
}
