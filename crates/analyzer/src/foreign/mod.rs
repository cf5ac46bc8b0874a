//! Any command that writes SARIF as a model (contract §7, `format = "sarif"`): the input is unpacked by our own intake,
//! the command runs over the tree, and its report becomes findings and a result folder as those of the built-in model.
//!
//! All of it happens where the command does, in the worker's sandbox: what takes a foreign archive or report apart has no
//! more rights than the command itself.

mod place;
mod report;
mod result;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::intake::{Limits, Tree, TreeError, unpack_tree};
use crate::report::summary::Summary;

pub use report::ReportError;
pub use result::{ConvertError, convert};

/// Replaced in arguments by the folder of the tree.
const INPUT: &str = "{input}";
/// Replaced in arguments by the file that the report goes to; without it, it goes to standard output.
const OUTPUT: &str = "{output}";
/// How often it is looked whether the command has ended, and whether somebody wants it to.
const POLL: Duration = Duration::from_millis(50);
/// How often it is told that something is under way.
const TELL: Duration = Duration::from_secs(1);
/// The end of the command's standard error that is kept, in bytes.
const LAST_WORDS: usize = 2_048;
/// How long the rest of standard error is waited for.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

/// A command that writes SARIF 2.1.0.
#[derive(Debug, Clone)]
pub struct Tool {
    /// The program, then its arguments.
    pub command: Vec<OsString>,
}

/// One run of a tool.
#[derive(Debug)]
pub struct Task<'t> {
    /// The uploaded file.
    pub input: &'t Path,
    /// What it is called: the first part of every place.
    pub name: &'t str,
    /// Where the result goes: an empty folder.
    pub output: &'t Path,
    /// Where the tool's folder is made, and removed at the end.
    pub scratch: &'t Path,
    pub limits: Limits,
}

/// Who watches a run.
pub trait Listener {
    /// At least every two seconds.
    fn progress(&self, phase: &'static str, done: u64, unit: &'static str);
    /// A finding, as SARIF result.
    fn finding(&self, result: &Value);
    /// Asked many times a second; true ends the run.
    fn cancelled(&self) -> bool;
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    #[error("the input can't be unpacked: {0}")]
    Unpack(#[from] TreeError),
    #[error("no command is given")]
    NoCommand,
    #[error("{program} can't be started: {source}")]
    Start { program: String, source: io::Error },
    /// It ended otherwise than with 0 or 1.
    #[error("{program} {ended}{words}")]
    Ended {
        program: String,
        ended: String,
        words: String,
    },
    #[error("{program} wrote no SARIF 2.1.0: {source}{words}")]
    Report {
        program: String,
        source: ReportError,
        words: String,
    },
    #[error("the result can't be written: {0}")]
    Result(#[from] io::Error),
    #[error("cancelled")]
    Cancelled,
}

/// The folders of one run, removed when dropped.
struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    fn new(scratch: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("munjigi-tool-")
            .tempdir_in(scratch)?;
        // As the tool will see it, links resolved.
        let room = Self { folder };
        for folder in [room.tree(), room.temporary()] {
            fs::create_dir(folder)?;
        }
        Ok(room)
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    /// `TMPDIR` and `HOME` of the tool.
    fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn report(&self) -> PathBuf {
        self.folder.path().join("report.sarif")
    }
}

/// Runs `tool` on an upload.
///
/// # Errors
/// See [`ForeignError`]; what was found until then was told.
pub fn run(tool: &Tool, task: &Task<'_>, listener: &dyn Listener) -> Result<Summary, ForeignError> {
    let room = Room::new(task.scratch)?;
    let tree = unpack(task, &room, listener)?;
    let (status, words) = run_command(tool, &room, listener)?;
    let program = tool.program();
    let words = told(&words, &room);
    if !matches!(status.code(), Some(0 | 1)) {
        let ended = how(status);
        return Err(ForeignError::Ended {
            program,
            ended,
            words,
        });
    }
    listener.progress("report", 0, "findings");
    let report = room.report();
    let converted = convert(task, &report, &room.tree(), tree.coverage, listener);
    converted.map_err(|error| match error {
        ConvertError::Report(source) => ForeignError::Report {
            program,
            source,
            words,
        },
        ConvertError::Io(error) => ForeignError::Result(error),
        ConvertError::Cancelled => ForeignError::Cancelled,
    })
}

/// Unpacks on a thread of its own, so that somebody listens meanwhile.
fn unpack(task: &Task<'_>, room: &Room, listener: &dyn Listener) -> Result<Tree, ForeignError> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let tree = room.tree();
    thread::scope(|scope| {
        let (limits, stop) = (task.limits.clone(), Arc::clone(&cancelled));
        let tree = &tree;
        let unpacking = scope.spawn(move || unpack_tree(task.input, task.name, tree, limits, stop));
        let mut pulse = Pulse::new("unpack");
        while !unpacking.is_finished() {
            if listener.cancelled() {
                cancelled.store(true, Ordering::Relaxed);
            }
            pulse.beat(listener);
        }
        let unpacked = unpacking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if cancelled.load(Ordering::Relaxed) {
            return Err(ForeignError::Cancelled);
        }
        Ok(unpacked?)
    })
}

/// Tells that something is under way.
struct Pulse {
    phase: &'static str,
    start: Instant,
    told: Option<Instant>,
}

impl Pulse {
    fn new(phase: &'static str) -> Self {
        Self {
            phase,
            start: Instant::now(),
            told: None,
        }
    }

    /// Waits for a moment; tells when it is time again.
    fn beat(&mut self, listener: &dyn Listener) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            self.told = Some(Instant::now());
            listener.progress(self.phase, self.start.elapsed().as_secs(), "seconds");
        }
        thread::park_timeout(POLL);
    }
}

impl Tool {
    /// The program's name, for messages.
    pub(crate) fn program(&self) -> String {
        let program = self.command.first().map(Path::new);
        let name = program.and_then(Path::file_name).unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The arguments with their places filled in, and whether the report goes to a file by itself.
    fn arguments(&self, room: &Room) -> (Vec<OsString>, bool) {
        let mut to_file = false;
        let (tree, report) = (room.tree(), room.report());
        let filled = self.command.iter().skip(1).map(|argument| {
            // What is no UTF-8 names no place of ours.
            let Some(text) = argument.to_str() else {
                return argument.clone();
            };
            to_file |= text.contains(OUTPUT);
            let tree = tree.to_string_lossy();
            let report = report.to_string_lossy();
            OsString::from(text.replace(INPUT, &tree).replace(OUTPUT, &report))
        });
        let arguments = filled.collect();
        (arguments, to_file)
    }
}

fn run_command(
    tool: &Tool,
    room: &Room,
    listener: &dyn Listener,
) -> Result<(ExitStatus, Vec<u8>), ForeignError> {
    let program = tool.command.first().ok_or(ForeignError::NoCommand)?;
    let (arguments, to_file) = tool.arguments(room);
    let output = if to_file {
        Stdio::null()
    } else {
        Stdio::from(File::create(room.report())?)
    };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(room.tree())
        .env("TMPDIR", room.temporary())
        .env("HOME", room.temporary())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| ForeignError::Start {
            program: tool.program(),
            source,
        })?;
    let words = LastWords::of(&mut child);
    let mut pulse = Pulse::new("run");
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if listener.cancelled() {
            child.kill()?;
            child.wait()?;
            return Err(ForeignError::Cancelled);
        }
        pulse.beat(listener);
    };
    Ok((status, words.heard()))
}

/// The end of a command's standard error. Whoever else holds that pipe keeps nobody waiting.
struct LastWords {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: Option<thread::JoinHandle<()>>,
}

impl LastWords {
    fn of(child: &mut Child) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let reading = child.stderr.take().and_then(|mut stderr| {
            let kept = Arc::clone(&kept);
            let read = move || {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(read @ 1..) = stderr.read(&mut buffer) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
                    let surplus = kept.len().saturating_sub(LAST_WORDS);
                    kept.drain(..surplus);
                }
            };
            let builder = thread::Builder::new().name("last words".to_owned());
            builder.spawn(read).ok()
        });
        Self { kept, reading }
    }

    fn heard(self) -> Vec<u8> {
        let end = Instant::now() + LAST_WORDS_TIME;
        while self
            .reading
            .as_ref()
            .is_some_and(|read| !read.is_finished())
            && Instant::now() < end
        {
            thread::park_timeout(POLL);
        }
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The last words as a part of a message, without the places where our folders lie.
fn told(words: &[u8], room: &Room) -> String {
    let text = String::from_utf8_lossy(words);
    let folder = room.folder.path().to_string_lossy();
    let text = text.trim().replace(folder.as_ref(), "…");
    if text.is_empty() {
        String::new()
    } else {
        format!("; its last words: {text}")
    }
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}, where 0 and 1 are success"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
