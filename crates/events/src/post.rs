use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use munjigi_foundation::settings::Secret;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{AnalysisId, Event, EventError};

/// The longest a post may take: the hub answers as soon as its transaction is on disk.
const POST_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to a post: the last stored `seq` of each analysis named in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub stored: BTreeMap<AnalysisId, u64>,
    /// Analyses whose events will never be taken, with the code of why: their attempt is not (or no longer) placed
    /// there. When that is so of all of a post, the answer is a refusal instead ([`PostError::Refused`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<AnalysisId, String>,
}

/// The log between worker and hub where there is no Kafka: events are posted as NDJSON to the hub, through the inner
/// listener of a gate, and count as sent once the hub has stored them.
#[derive(Clone)]
pub struct EventPost {
    client: reqwest::Client,
    url: String,
    secret: Secret,
}

impl fmt::Debug for EventPost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventPost").field("url", &self.url).finish()
    }
}

/// Why events were not stored.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// Nobody answered, or not in time: the same events are to be posted again.
    #[error("the hub can't be reached: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// The hub or the gate can't take them now: again, later.
    #[error("the hub answered {status}: {body}")]
    Later { status: StatusCode, body: String },
    /// They will never be taken: the attempt is not (or no longer) placed here.
    #[error("the hub refused the events with {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error(transparent)]
    Event(#[from] EventError),
}

impl EventPost {
    /// Posts to `hub` (a base url such as `http://127.0.0.1:8080`), with the cluster's `secret`.
    #[must_use]
    pub fn new(client: reqwest::Client, hub: &str, secret: Secret) -> Self {
        Self {
            client,
            url: format!("{}/internal/events", hub.trim_end_matches('/')),
            secret,
        }
    }

    /// Posts `events`, which are in order within each analysis.
    ///
    /// # Errors
    /// See [`PostError`]: only `Refused` is final.
    pub async fn post(&self, events: &[Event]) -> Result<Stored, PostError> {
        let mut body = BytesMut::new();
        for event in events {
            body.put_slice(event.to_json()?.as_bytes());
            body.put_u8(b'\n');
        }
        let response = self
            .client
            .post(&self.url)
            .timeout(POST_TIMEOUT)
            .bearer_auth(self.secret.expose())
            .header("content-type", "application/x-ndjson")
            .body(body.freeze())
            .send()
            .await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.json().await?);
        }
        let body = response.text().await.unwrap_or_default();
        let body: String = body.chars().take(500).collect();
        Err(match status {
            StatusCode::CONFLICT
            | StatusCode::GONE
            | StatusCode::BAD_REQUEST
            | StatusCode::FORBIDDEN => PostError::Refused { status, body },
            _ => PostError::Later { status, body },
        })
    }
}
