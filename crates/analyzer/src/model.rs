//! The built-in model as a process: the child's side of the model protocol (contract §7).
//!
//! One JSON object a line. A line that is none, or asks for nothing we know, is answered by an `error` line and
//! nothing else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::foreign::{self, Tool};
use crate::intake::Limits;
use crate::report::folder::PARTS;
use crate::report::sarif;
use crate::report::summary::Summary;
use crate::scan::{Observer, Progress, ScanOptions, scan};

/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Threads of an analysis for which no number is given: each reserves address space, which a sandbox limits.
const THREADS_MAX: usize = 8;
/// Largest file of the tree that a tool looks at, in bytes.
const TREE_FILE_BYTES: u64 = 256 << 20;
/// Requests that wait while an analysis runs.
const QUEUE: usize = 16;

/// What a worker asks for.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Request {
    Describe,
    Analyze(Analyze),
    /// Only streaming models are told how much of the file is there.
    Input {},
    Cancel,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Analyze {
    #[serde(default)]
    analyze_id: Value,
    input: PathBuf,
    output: PathBuf,
    /// The uploaded file's name: the first part of every place.
    name: Option<String>,
    #[serde(default)]
    limits: Asked,
}

/// Limits that a worker may lower or raise; what it does not name keeps its default.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    threads: Option<usize>,
    expanded_bytes: Option<u64>,
    entries: Option<u64>,
    /// Bytes of all files that may be written, and of one.
    output_bytes: Option<u64>,
    file_bytes: Option<u64>,
}

/// A line that was read, with the number of cancellations before it.
enum Line {
    Request(Request, u64),
    Bad(String),
}

/// Serves requests until `input` ends; `scratch` is where each scan makes, and removes, its own folder.
///
/// # Errors
/// When `output` cannot be written, since then nobody listens.
pub fn serve(
    input: impl Read + Send + 'static,
    output: impl Write,
    scratch: &Path,
) -> io::Result<()> {
    serve_as(&Kind::Source, input, output, scratch)
}

/// The same for a command that writes SARIF.
///
/// # Errors
/// As [`serve`].
pub fn serve_tool(
    tool: Tool,
    input: impl Read + Send + 'static,
    output: impl Write,
    scratch: &Path,
) -> io::Result<()> {
    serve_as(&Kind::Tool(tool), input, output, scratch)
}

/// What analyses.
enum Kind {
    Source,
    Tool(Tool),
}

fn serve_as(
    kind: &Kind,
    input: impl Read + Send + 'static,
    output: impl Write,
    scratch: &Path,
) -> io::Result<()> {
    let cancels = Arc::new(AtomicU64::new(0));
    let (lines_in, lines_out) = sync_channel(QUEUE);
    let counter = Arc::clone(&cancels);
    std::thread::Builder::new()
        .name("requests".to_owned())
        .spawn(move || read_requests(input, &lines_in, &counter))?;
    let server = Server {
        kind,
        output: Mutex::new(output),
        failed: AtomicBool::new(false),
        cancels,
        scratch,
    };
    server.run(&lines_out)
}

/// Reads lines. Cancellations take effect here, while an analysis keeps the other side busy.
fn read_requests(input: impl Read, lines: &SyncSender<Line>, cancels: &AtomicU64) {
    let mut input = BufReader::new(input);
    loop {
        let line = match next_line(&mut input) {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error) => {
                let bad = Line::Bad(format!("cannot read requests: {error}"));
                if matches!(lines.try_send(bad), Err(TrySendError::Disconnected(_)))
                    || error.kind() != io::ErrorKind::InvalidData
                {
                    return;
                }
                continue;
            }
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let sent = match serde_json::from_slice::<Request>(&line) {
            Ok(Request::Cancel) => {
                cancels.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Ok(request) => lines
                .send(Line::Request(request, cancels.load(Ordering::SeqCst)))
                .map_err(|_| ()),
            // Those that do not fit the queue are dropped: a cancellation behind them must be seen.
            Err(error) => match lines.try_send(Line::Bad(format!(
                "not a request of the model protocol: {error}"
            ))) {
                Err(TrySendError::Disconnected(_)) => Err(()),
                _ => Ok(()),
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The next line without its end; an error of kind `InvalidData` for one that is too long, which is then skipped.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input
        .take(LINE_BYTES_MAX + 1)
        .read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(line));
    }
    if u64::try_from(line.len()).is_ok_and(|length| length <= LINE_BYTES_MAX) {
        return Ok(Some(line));
    }
    while line.last() != Some(&b'\n') && !line.is_empty() {
        line.clear();
        input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a line is longer than {LINE_BYTES_MAX} bytes, the limit"),
    ))
}

struct Server<'s, W> {
    kind: &'s Kind,
    output: Mutex<W>,
    /// Set once a line could not be written.
    failed: AtomicBool,
    cancels: Arc<AtomicU64>,
    scratch: &'s Path,
}

impl<W: Write> Server<'_, W> {
    fn run(&self, lines: &Receiver<Line>) -> io::Result<()> {
        while let Ok(line) = lines.recv() {
            match line {
                Line::Request(Request::Describe, _) => self.say(&match self.kind {
                    Kind::Source => description(),
                    Kind::Tool(tool) => tool_description(tool),
                })?,
                Line::Request(Request::Analyze(request), cancels) => {
                    self.analyze(&request, cancels)?;
                }
                Line::Request(Request::Input {}, _) => {
                    self.say(&json!({"type": "error", "message": "this model does not stream: no input lines, please"}))?;
                }
                Line::Request(Request::Cancel, _) => {}
                Line::Bad(message) => self.say(&json!({"type": "error", "message": message}))?,
            }
        }
        Ok(())
    }

    fn say(&self, line: &Value) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let written = output.write_all(&bytes).and_then(|()| output.flush());
        if written.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        written
    }

    fn analyze(&self, request: &Analyze, cancels: u64) -> io::Result<()> {
        let watch = Watch {
            server: self,
            cancels,
        };
        let ended = match self.kind {
            Kind::Source => self.scan(request, &watch),
            Kind::Tool(tool) => self.run_tool(tool, request, &watch),
        };
        match ended {
            Ok(summary) => {
                for part in PARTS {
                    self.say(&json!({"type": "artifact", "path": part}))?;
                }
                self.say(
                    &json!({"type": "done", "analyzeId": request.analyze_id, "summary": summary}),
                )
            }
            Err(message) => self.say(
                &json!({"type": "error", "analyzeId": request.analyze_id, "message": message}),
            ),
        }
    }

    fn run_tool(
        &self,
        tool: &Tool,
        request: &Analyze,
        watch: &Watch<'_, '_, W>,
    ) -> Result<Summary, String> {
        let asked = &request.limits;
        let size = std::fs::metadata(&request.input).map_or(0, |metadata| metadata.len());
        let defaults = Limits::default();
        // The tree, the report and the result share what may be written.
        let room = asked.output_bytes.map_or(u64::MAX, |bytes| bytes / 4 * 3);
        let file = asked.file_bytes.unwrap_or(u64::MAX);
        let task = foreign::Task {
            input: &request.input,
            name: request.name.as_deref().unwrap_or("upload"),
            output: &request.output,
            scratch: self.scratch,
            limits: Limits {
                expanded_bytes: Some(
                    asked
                        .expanded_bytes
                        .unwrap_or_else(|| defaults.expanded_for(size))
                        .min(room),
                ),
                entries: asked.entries.unwrap_or(defaults.entries),
                file_bytes: file.min(TREE_FILE_BYTES),
                ..defaults
            },
        };
        foreign::run(tool, &task, watch).map_err(|error| error.to_string())
    }

    fn scan(&self, request: &Analyze, watch: &Watch<'_, '_, W>) -> Result<Summary, String> {
        let defaults = ScanOptions::new(vec![request.input.clone()]);
        let options = ScanOptions {
            name: request.name.clone(),
            results: Some(request.output.clone()),
            scratch: self.scratch.to_owned(),
            threads: request
                .limits
                .threads
                .unwrap_or(defaults.threads.min(THREADS_MAX)),
            limits: Limits {
                expanded_bytes: request.limits.expanded_bytes,
                entries: request.limits.entries.unwrap_or(defaults.limits.entries),
                ..defaults.limits
            },
            ..defaults
        };
        match scan(&options, watch) {
            Ok(report) => Ok(report.summary),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Passes on what a scan tells.
struct Watch<'w, 's, W> {
    server: &'w Server<'s, W>,
    /// Cancellations that came before the request.
    cancels: u64,
}

impl<W: Write> Observer for Watch<'_, '_, W> {
    fn progress(&self, progress: &Progress) {
        let Progress {
            phase,
            done,
            total,
            unit,
            message,
        } = progress;
        let line = json!({
            "type": "progress", "phase": phase, "done": done, "total": total, "unit": unit, "message": message,
        });
        // A failure ends the scan through `cancelled`.
        self.server.say(&line).unwrap_or(());
    }

    fn finding(&self, result: &sarif::Result) {
        self.server
            .say(&json!({"type": "finding", "result": result}))
            .unwrap_or(());
    }

    fn cancelled(&self) -> bool {
        self.server.failed.load(Ordering::Relaxed)
            || self.server.cancels.load(Ordering::SeqCst) > self.cancels
    }
}

impl<W: Write> foreign::Listener for Watch<'_, '_, W> {
    fn progress(&self, phase: &'static str, done: u64, unit: &'static str) {
        let line = json!({"type": "progress", "phase": phase, "done": done, "unit": unit});
        self.server.say(&line).unwrap_or(());
    }

    fn finding(&self, result: &Value) {
        self.server
            .say(&json!({"type": "finding", "result": result}))
            .unwrap_or(());
    }

    fn cancelled(&self) -> bool {
        Observer::cancelled(self)
    }
}

fn tool_description(tool: &Tool) -> Value {
    json!({
        "type": "description",
        "id": tool.program(),
        "version": "",
        "accepts": ["*"],
        "explains": [],
        "streaming": false,
    })
}

/// The answer to `describe`.
#[must_use]
pub fn description() -> Value {
    json!({
        "type": "description",
        "id": "source",
        "version": env!("CARGO_PKG_VERSION"),
        "accepts": ["zip", "tar", "tar.gz", "tar.zst", "tar.bz2", "gz", "zst", "bz2", "java", "python", "javascript", "typescript", "c"],
        "explains": ["flow", "score", "contributions", "rule", "coverage"],
        "streaming": false,
    })
}
