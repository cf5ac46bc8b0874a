//! The worker's face (contract §6) as the hub calls it, through a gate's inner listener.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use munjigi_events::{AnalysisId, EventId, ServerId, UserId};
use munjigi_foundation::settings::Secret;
use munjigi_foundation::tls::UrlTrust;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

/// Short questions are answered within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A dispatch that moves no byte for so long has failed; it may go on for as long as bytes move.
const STALLED: Duration = Duration::from_secs(60);
/// After the last byte the worker makes the file durable and verifies it.
const VERIFIED_WITHIN: Duration = Duration::from_secs(180);
/// Read from the upload at once.
const CHUNK: usize = 256 * 1024;
/// What a worker says of a failure is kept up to this length.
const WORDS: usize = 500;

/// Calls workers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WorkerFace {
    client: reqwest::Client,
    gate: Arc<str>,
    secret: Secret,
}

impl fmt::Debug for WorkerFace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerFace")
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

/// One attempt on one worker.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) server_id: ServerId,
    pub(crate) analyze_id: AnalysisId,
    pub(crate) attempt: u32,
}

/// What goes with a file.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    pub(crate) target: Target,
    pub(crate) event_id: EventId,
    pub(crate) user_id: UserId,
    /// Of the worker's first event.
    pub(crate) seq: u64,
    pub(crate) model: String,
    pub(crate) name: String,
    pub(crate) sha256: [u8; 32],
}

/// What came of a dispatch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dispatched {
    /// The worker has the file, durable and verified.
    Accepted,
    /// No slot or disk there: later, or elsewhere.
    Busy(Duration),
    /// No worker will ever take it.
    Never(String),
    /// This attempt failed.
    Failed(String),
}

/// What a worker says of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is at it, or has its result.
    Here,
    /// It has it no more.
    Lost(String),
    /// Nobody could say.
    Unknown(String),
}

/// A result on its way.
#[derive(Debug)]
pub(crate) enum Fetched {
    Result(Response),
    /// The worker has no result and will have none.
    Nothing(String),
    /// The worker says that the result is not ready.
    NotReady(String),
    /// Later.
    Unreachable(String),
}

#[derive(Deserialize)]
struct Words {
    #[serde(default)]
    code: String,
    #[serde(default)]
    detail: String,
}

impl WorkerFace {
    /// Calls through the gate at `gate` (a base url) with the cluster's `secret`.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn new(gate: &str, secret: Secret, trust: UrlTrust) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tls_backend_preconfigured(trust)
            .build()?;
        Ok(Self {
            client,
            gate: gate.trim_end_matches('/').into(),
            secret,
        })
    }

    fn request(&self, method: Method, path: &str, target: &Target) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.gate))
            .query(&[
                ("serverId", target.server_id.as_str()),
                ("analyzeId", target.analyze_id.as_str()),
                ("attempt", &target.attempt.to_string()),
            ])
            .bearer_auth(self.secret.expose())
    }

    /// Streams the file to its worker.
    pub(crate) async fn dispatch(&self, what: &Dispatch, file: File, length: u64) -> Dispatched {
        let moved = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&moved);
        let stream = ReaderStream::with_capacity(file.take(length), CHUNK);
        let stream = futures_util::StreamExt::inspect(stream, move |chunk| {
            if let Ok(chunk) = chunk {
                let bytes = u64::try_from(chunk.len()).unwrap_or(0);
                counter.fetch_add(bytes, Ordering::Relaxed);
            }
        });
        let digest = format!("sha-256=:{}:", STANDARD.encode(what.sha256));
        let request = self
            .request(Method::POST, "/analysis", &what.target)
            .query(&[
                ("eventId", what.event_id.as_str()),
                ("userId", what.user_id.as_str()),
                ("seq", &what.seq.to_string()),
                ("model", &what.model),
                ("name", &what.name),
            ])
            .header("content-type", "application/octet-stream")
            .header("content-length", length)
            .header("repr-digest", digest)
            .body(reqwest::Body::wrap_stream(stream));
        let answer = tokio::select! {
            answer = request.send() => answer,
            () = stalled(&moved, length) => {
                return Dispatched::Failed("the worker takes no more bytes".to_owned());
            }
        };
        match answer {
            Ok(answer) => dispatched(answer).await,
            Err(error) => Dispatched::Failed(plain(&error)),
        }
    }

    /// Asks a worker whether it still has an attempt.
    pub(crate) async fn probe(&self, target: &Target) -> Known {
        let request = self.request(Method::GET, "/analysis", target);
        // The head is enough: a result that is ready is not read here.
        match tokio::time::timeout(ANSWER_WITHIN, request.send()).await {
            Ok(Ok(answer)) if answer.status().is_success() => Known::Here,
            Ok(Ok(answer)) => {
                let status = answer.status();
                let words = words(answer).await;
                match status {
                    StatusCode::CONFLICT => Known::Here,
                    StatusCode::GONE => Known::Lost(words.detail),
                    StatusCode::NOT_FOUND if is_workers(&words) => Known::Lost(words.detail),
                    _ => Known::Unknown(format!("{status}: {}", words.detail)),
                }
            }
            Ok(Err(error)) => Known::Unknown(plain(&error)),
            Err(_) => Known::Unknown("no answer in time".to_owned()),
        }
    }

    /// Starts to fetch a result.
    pub(crate) async fn fetch(&self, target: &Target) -> Fetched {
        let request = self.request(Method::GET, "/analysis", target);
        match tokio::time::timeout(ANSWER_WITHIN, request.send()).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => Fetched::Result(answer),
            Ok(Ok(answer)) => {
                let status = answer.status();
                let words = words(answer).await;
                let said = format!("{status}: {}", words.detail);
                match status {
                    StatusCode::GONE => Fetched::Nothing(said),
                    StatusCode::CONFLICT => Fetched::NotReady(said),
                    StatusCode::NOT_FOUND if is_workers(&words) => Fetched::Nothing(said),
                    _ => Fetched::Unreachable(said),
                }
            }
            Ok(Err(error)) => Fetched::Unreachable(plain(&error)),
            Err(_) => Fetched::Unreachable("no answer in time".to_owned()),
        }
    }

    /// Removes all attempts up to this one; the worker takes none of them again. `stop` where it may still be at it.
    ///
    /// # Errors
    /// Why the worker is not clean yet.
    pub(crate) async fn delete(&self, target: &Target, stop: bool) -> Result<(), String> {
        if stop {
            // Whatever it answers: what counts is that nothing is left, which the DELETE says.
            let cancel = self.request(Method::POST, "/analysis/cancel", target);
            drop(tokio::time::timeout(ANSWER_WITHIN, cancel.send()).await);
        }
        let request = self.request(Method::DELETE, "/analysis", target);
        match tokio::time::timeout(ANSWER_WITHIN, request.send()).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) if answer.status() == StatusCode::GONE => Ok(()),
            Ok(Ok(answer)) => {
                let status = answer.status();
                let words = words(answer).await;
                if status == StatusCode::NOT_FOUND && is_workers(&words) {
                    return Ok(());
                }
                Err(format!("{status}: {}", words.detail))
            }
            Ok(Err(error)) => Err(plain(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

/// Ends when no byte moved for long.
async fn stalled(moved: &AtomicU64, length: u64) {
    let mut before = 0;
    loop {
        let all = moved.load(Ordering::Relaxed) >= length;
        tokio::time::sleep(if all { VERIFIED_WITHIN } else { STALLED }).await;
        let now = moved.load(Ordering::Relaxed);
        if all || now == before {
            return;
        }
        before = now;
    }
}

async fn dispatched(answer: Response) -> Dispatched {
    let status = answer.status();
    let after = answer
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .map(Duration::from_secs);
    if status == StatusCode::ACCEPTED {
        return Dispatched::Accepted;
    }
    let words = words(answer).await;
    let said = format!("{status}: {}", words.detail);
    match status {
        StatusCode::TOO_MANY_REQUESTS => {
            Dispatched::Busy(after.unwrap_or(Duration::from_secs(1)).min(STALLED))
        }
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Dispatched::Never(said)
        }
        _ => Dispatched::Failed(said),
    }
}

/// The worker said it itself: a gate that does not know the worker says something else.
fn is_workers(words: &Words) -> bool {
    matches!(words.code.as_str(), "not_found" | "lost" | "deleted")
}

async fn words(mut answer: Response) -> Words {
    let mut body = Vec::new();
    while body.len() < 16 * 1024 {
        match tokio::time::timeout(ANSWER_WITHIN, answer.chunk()).await {
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    let mut words = serde_json::from_slice(&body).unwrap_or(Words {
        code: String::new(),
        detail: String::from_utf8_lossy(&body).into_owned(),
    });
    words.detail = words.detail.chars().take(WORDS).collect();
    words
}

/// An error with its causes, without the url: it names users' files.
fn plain(error: &reqwest::Error) -> String {
    let mut text = if error.is_connect() {
        "can't connect".to_owned()
    } else if error.is_body() {
        "the body was cut".to_owned()
    } else {
        "no answer".to_owned()
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text.chars().take(WORDS).collect()
}
