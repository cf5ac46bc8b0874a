//! How a command ends: the exit code, and what is said when it fails.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// Exit codes of every command: 0 good, 1 no, 2 could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Good,
    No,
    CouldNot,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Good => Self::from(0),
            Exit::No => Self::from(1),
            Exit::CouldNot => Self::from(2),
        }
    }
}

/// A command that failed: printed to standard error as `error: …`, with a `hint: …` where one helps.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// It could not be done (exit 2).
    pub(crate) fn could_not(message: impl fmt::Display) -> Self {
        Self {
            exit: Exit::CouldNot,
            message: message.to_string(),
            hint: None,
        }
    }

    /// The answer is no (exit 1).
    pub(crate) fn no(message: impl fmt::Display) -> Self {
        Self {
            exit: Exit::No,
            ..Self::could_not(message)
        }
    }

    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Says it on standard error.
    pub(crate) fn print(&self) {
        let mut stderr = std::io::stderr().lock();
        drop(writeln!(stderr, "error: {}", self.message));
        if let Some(hint) = &self.hint {
            drop(writeln!(stderr, "hint: {hint}"));
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// One line to standard error beside what a command answers: `warning: …`, `hint: …`, `job: …`.
pub(crate) fn remark(kind: &str, line: impl fmt::Display) {
    drop(writeln!(std::io::stderr().lock(), "{kind}: {line}"));
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::could_not(format!("{error:#}"))
    }
}

/// One line to standard output. A reader that went away (`| head`) is no error of ours.
pub(crate) fn say(line: impl fmt::Display) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}
