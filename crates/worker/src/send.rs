//! Sends the events of one attempt to the hub, for as long as it takes.

use std::sync::Arc;
use std::time::Duration;

use munjigi_events::{Event, EventPost, PostError, Status};
use tokio_util::sync::CancellationToken;

use crate::log::EventLog;
use crate::metrics::Metrics;

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why sending ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The hub has all, up to the last event.
    All,
    /// The hub takes no events of this attempt any more.
    Refused(String),
    Stopped,
}

/// Sends what `log` holds and what is appended, until the last event is stored. An attempt that writes no more
/// (`closed`) ends when all it wrote is stored.
pub(crate) async fn send(
    log: Arc<EventLog>,
    post: EventPost,
    closed: bool,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
) -> Sent {
    tokio::select! {
        sent = send_all(&log, &post, closed, &metrics) => sent,
        () = stop.cancelled() => Sent::Stopped,
    }
}

async fn send_all(log: &Arc<EventLog>, post: &EventPost, closed: bool, metrics: &Metrics) -> Sent {
    let mut backoff = Backoff::default();
    let mut complained = false;
    loop {
        let events = match blocking(log, |log| log.batch()).await {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(analysis = %log.identity().analysis, %error, "events can't be read");
                backoff.wait().await;
                continue;
            }
        };
        let Some(last) = events.last() else {
            let over = blocking(log, |log| log.last()).await.ok().flatten();
            if closed || over == Some(Status::Collecting) {
                return Sent::All;
            }
            log.changed.notified().await;
            continue;
        };
        match attempt(log, post, &events, last).await {
            Step::Stored(stored) => {
                metrics
                    .events_sent
                    .inc_by(u64::try_from(events.len()).unwrap_or(0));
                if complained {
                    tracing::info!(analysis = %log.identity().analysis, "events reach the hub again");
                    complained = false;
                }
                if stored >= last.seq {
                    backoff = Backoff::default();
                } else {
                    backoff.wait().await;
                }
                if let Err(error) = blocking(log, move |log| log.sent(stored)).await {
                    tracing::error!(%error, "the place in the events can't be found");
                    backoff.wait().await;
                }
            }
            Step::Again(why) => {
                metrics.posts_failed.inc();
                if !complained {
                    tracing::warn!(analysis = %log.identity().analysis, why, "events wait for the hub");
                    complained = true;
                }
                backoff.wait().await;
            }
            Step::Refused(why) => return Sent::Refused(why),
        }
    }
}

enum Step {
    Stored(u64),
    Again(String),
    Refused(String),
}

async fn attempt(log: &EventLog, post: &EventPost, events: &[Event], last: &Event) -> Step {
    let analysis = &log.identity().analysis;
    match post.post(events).await {
        Ok(answer) => match answer.stored.get(analysis) {
            Some(stored) => Step::Stored((*stored).min(last.seq)),
            None => Step::Again("the hub's answer does not name the analysis".to_owned()),
        },
        Err(PostError::Refused { status, body }) => Step::Refused(format!("{status}: {body}")),
        Err(error) => Step::Again(error.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    log: &Arc<EventLog>,
    work: impl FnOnce(&EventLog) -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let log = Arc::clone(log);
    tokio::task::spawn_blocking(move || work(&log))
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// Waits twice as long each time, with some chance in it so that many do not come back at once.
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_FIRST)
    }
}

impl Backoff {
    async fn wait(&mut self) {
        let chance = getrandom::u32().unwrap_or(0) % 256;
        let wait = self.0 / 2 + self.0 * chance / 512;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
        tokio::time::sleep(wait).await;
    }
}
