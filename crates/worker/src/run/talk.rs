//! The conversation with one model, from `analyze` to the end of its whole tree.

use std::sync::Arc;
use std::time::Duration;

use munjigi_events::{Progress, Status};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::ChildStderr;
use tokio::time::Instant;

use super::protocol::{self, Listener, Said};
use super::{SIGN_OF_LIFE, UNSENT_QUIET};
use crate::core::{CANCEL_GRACE, Core};
use crate::job::Job;
use crate::log::Draft;
use crate::sandbox::{Ended, Sandboxed};

/// Progress is told at most so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How long a model may take to end after it said that it is done.
const DONE_GRACE: Duration = Duration::from_secs(5);
/// How long the rest of the output is waited for once the tree has ended.
const REST_TIME: Duration = Duration::from_secs(5);
/// The end of the model's standard error that is kept.
const STDERR_BYTES: usize = 4_096;
const VERDICT_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) artifacts: Vec<String>,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

impl Heard {
    pub(crate) fn failed(error: String) -> Self {
        Self {
            artifacts: Vec::new(),
            error: Some(error),
        }
    }
}

/// One conversation.
#[derive(Debug)]
pub(crate) struct Talk<'a> {
    core: &'a Arc<Core>,
    job: &'a Arc<Job>,
    listener: Listener,
    heard: Heard,
    done: bool,
    /// Known, not yet told.
    progress: Option<(Progress, Option<String>)>,
    shown: Option<Progress>,
    told: Instant,
    spoke: Instant,
}

/// Why the model is to be ended before it ended by itself.
#[derive(Debug)]
enum Close {
    /// It is done, or nobody wants it any more.
    Quiet,
    Because(String),
}

impl<'a> Talk<'a> {
    pub(crate) fn new(core: &'a Arc<Core>, job: &'a Arc<Job>) -> Self {
        let now = Instant::now();
        Self {
            core,
            job,
            listener: Listener::default(),
            heard: Heard::default(),
            done: false,
            progress: None,
            shown: None,
            told: now,
            spoke: now,
        }
    }

    /// Holds the conversation to its end; nothing of the model is left afterwards.
    pub(crate) async fn hold(mut self, sandboxed: Sandboxed) -> Heard {
        let (channel, mut stdout, stderr, mut supervisor) = sandboxed.into_parts();
        let (verdict, mut orders) = channel.into_split();
        let verdict = read_verdict(verdict);
        tokio::pin!(verdict);
        let errors = self.job.tasks.spawn(read_tail(stderr));
        let mut buffer = vec![0; READ_BYTES];
        let mut close = self.ask(&mut orders).await.err();
        let mut ended = None;
        let mut open = true;
        let limit = Instant::now() + self.core.settings.time_max;
        let mut pulse = tokio::time::interval(PROGRESS_EVERY);
        let mut grace: Option<Instant> = None;
        while ended.is_none() && close.is_none() {
            tokio::select! {
                came = &mut verdict => ended = Some(came),
                read = stdout.read(&mut buffer), if open => {
                    let bytes = read.ok().and_then(|read| buffer.get(..read)).unwrap_or_default();
                    open = !bytes.is_empty();
                    close = self.listen(bytes).await;
                }
                _ = pulse.tick() => close = self.beat(limit).await,
                () = self.job.stopped.cancelled() => close = Some(Close::Quiet),
                () = self.job.cancelled.cancelled(), if grace.is_none() => {
                    grace = Some(Instant::now() + CANCEL_GRACE);
                    drop(orders.write_all(b"{\"type\":\"cancel\"}\n").await);
                }
                () = until(grace) => close = Some(Close::Quiet),
            }
            if self.done && grace.is_none() {
                grace = Some(Instant::now() + DONE_GRACE);
            }
        }
        // From here the supervisor ends the tree, if the model has not ended by itself.
        drop(orders);
        let ended = match ended {
            Some(ended) => ended,
            None => verdict.await,
        };
        if close.is_none() {
            close = self.rest(&mut stdout, &mut buffer).await;
        }
        Sandboxed::reap(&mut supervisor).await;
        drop(stdout);
        let errors = errors.await.unwrap_or_default();
        self.conclude(&ended, close, &errors)
    }

    async fn ask(&self, orders: &mut OwnedWriteHalf) -> Result<(), Close> {
        let state = self.job.state();
        let settings = &self.core.settings;
        let line = json!({
            "type": "analyze",
            "analyzeId": state.analysis,
            "input": self.job.place.file(&state.name),
            "output": self.job.place.output(),
            "name": state.name,
            "limits": {
                "memoryBytes": settings.memory_max,
                "seconds": settings.time_max.as_secs(),
                "outputBytes": settings.output_max,
                "fileBytes": settings.file_max,
            },
        });
        orders
            .write_all(format!("{line}\n").as_bytes())
            .await
            .map_err(|_| Close::Because("it ended before it was asked".to_owned()))
    }

    /// Takes what the model wrote.
    async fn listen(&mut self, bytes: &[u8]) -> Option<Close> {
        if bytes.is_empty() {
            return None;
        }
        self.spoke = Instant::now();
        let said = match self.listener.take(bytes) {
            Ok(said) => said,
            Err(broken) => return Some(Close::Because(broken.to_string())),
        };
        let mut drafts = Vec::new();
        for said in said {
            match said {
                Said::Finding(finding) => {
                    let (finding, note) = protocol::fitting(finding);
                    let mut draft = Draft::new(Status::Running).message(note.map(str::to_owned));
                    draft.finding = Some(finding);
                    drafts.push(draft);
                }
                Said::Progress(progress, message) => self.progress = Some((progress, message)),
                Said::Artifact(path) => self.heard.artifacts.push(path),
                Said::Done => self.done = true,
                Said::Error(why) => {
                    self.heard.error.get_or_insert(why);
                    self.done = true;
                }
                Said::Description(_) => {}
            }
        }
        self.core
            .metrics
            .findings
            .inc_by(u64::try_from(drafts.len()).unwrap_or(0));
        if drafts.is_empty() {
            return None;
        }
        self.told = Instant::now();
        let told = self.job.tell(drafts).await;
        told.err().map(|error| Close::Because(error.to_string()))
    }

    /// Tells progress, or a sign of life; and looks at the clock.
    async fn beat(&mut self, limit: Instant) -> Option<Close> {
        let now = Instant::now();
        let settings = &self.core.settings;
        if now >= limit {
            let seconds = settings.time_max.as_secs();
            return Some(Close::Because(format!(
                "it ran longer than {seconds} s (`time_max`)"
            )));
        }
        if now.duration_since(self.spoke) >= settings.silence_max {
            let seconds = settings.silence_max.as_secs();
            return Some(Close::Because(format!(
                "it said nothing for {seconds} s (`silence_max`)"
            )));
        }
        let quiet = self.job.log.unsent() >= UNSENT_QUIET;
        let draft = match self.progress.take() {
            Some(next) if quiet => {
                self.progress = Some(next);
                return None;
            }
            Some((progress, message)) => {
                self.shown = Some(progress);
                Draft::new(Status::Running).message(message)
            }
            None if quiet || now.duration_since(self.told) < SIGN_OF_LIFE => return None,
            None => Draft::new(Status::Running),
        };
        self.told = now;
        self.job
            .tell_or_log(draft.progress(self.shown.clone()))
            .await;
        None
    }

    /// What was written before the end and not read yet.
    async fn rest(
        &mut self,
        stdout: &mut tokio::process::ChildStdout,
        buffer: &mut [u8],
    ) -> Option<Close> {
        let patience = Instant::now() + REST_TIME;
        loop {
            let read = tokio::time::timeout_at(patience, stdout.read(buffer)).await;
            let bytes = match read {
                Ok(Ok(read)) => buffer.get(..read).unwrap_or_default(),
                Ok(Err(_)) | Err(_) => return None,
            };
            if bytes.is_empty() {
                return None;
            }
            if let Some(close) = self.listen(bytes).await {
                return Some(close);
            }
        }
    }

    fn conclude(mut self, ended: &Ended, close: Option<Close>, errors: &[u8]) -> Heard {
        if self.listener.garbage() > 0 || !self.listener.at_line_end() {
            tracing::warn!(
                analysis = %self.job.analysis(),
                lines = self.listener.garbage(),
                "the model wrote lines that are not the protocol"
            );
        }
        let limits = &self.core.settings;
        let why = match (close, ended) {
            (Some(Close::Because(why)), _) => Some(why),
            // What it said itself comes first, unless the sandbox had to end it.
            (_, Ended::Memory { .. }) => {
                Some(over(ended, "memory_max", limits.memory_max >> 20, "MiB"))
            }
            (_, Ended::Disk { .. }) => {
                Some(over(ended, "output_max", limits.output_max >> 20, "MiB"))
            }
            (_, Ended::Processes { .. }) => Some(over(
                ended,
                "processes_max",
                limits.processes_max,
                "at a time",
            )),
            (_, Ended::NotStarted { .. }) => Some(format!("it {ended}")),
            _ if self.done => None,
            (_, Ended::Exit { .. } | Ended::Stopped) => {
                Some(format!("it {ended} before it said that it was done"))
            }
        };
        if let Some(why) = why {
            let tail = self.readable(errors);
            let detail = if tail.is_empty() {
                String::new()
            } else {
                format!("; its last words: {tail}")
            };
            self.heard.error = Some(format!("the model failed: {why}{detail}"));
        }
        self.heard
    }

    /// The end of standard error, without the places where our folders lie.
    fn readable(&self, errors: &[u8]) -> String {
        let text = String::from_utf8_lossy(errors);
        let place = self.core.folder.root().display().to_string();
        protocol::short(text.trim().replace(&place, "…").as_str(), STDERR_BYTES)
    }
}

fn over(ended: &Ended, setting: &str, limit: u64, unit: &str) -> String {
    format!("it {ended}, {limit} {unit} is the limit (`{setting}`)")
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The supervisor's verdict: it comes when nothing of the tree is left.
async fn read_verdict(channel: OwnedReadHalf) -> Ended {
    let mut bytes = Vec::new();
    let limit = u64::try_from(VERDICT_BYTES_MAX).unwrap_or(u64::MAX);
    let read = channel.take(limit).read_to_end(&mut bytes).await;
    let verdict = read.ok().and_then(|_| serde_json::from_slice(&bytes).ok());
    verdict.unwrap_or_else(|| Ended::NotStarted {
        why: "the sandbox ended without a verdict".to_owned(),
    })
}

/// Reads all of standard error and keeps its end.
async fn read_tail(mut stderr: ChildStderr) -> Vec<u8> {
    let mut tail = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = stderr.read(&mut buffer).await {
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        tail.extend_from_slice(bytes);
        let surplus = tail.len().saturating_sub(STDERR_BYTES);
        tail.drain(..surplus);
    }
    tail
}
