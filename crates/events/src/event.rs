use std::fmt;

use munjigi_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest event, as JSON; what is larger goes by reference.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as it is written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }
    )*};
}

ids! {
    /// Whose job it is.
    UserId
    /// A job. It groups the events of all its analyses.
    EventId
    /// An analysis: one model's work on one job.
    AnalysisId
    /// A worker.
    ServerId
}

/// Where an analysis (or a job) stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    Queued,
    Placed,
    Receiving,
    Running,
    Collecting,
    Done,
    Failed,
    Cancelling,
    Cancelled,
}

impl Status {
    /// True when nothing comes after it in its attempt.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// True for what a worker may write.
    #[must_use]
    pub fn is_workers(self) -> bool {
        matches!(self, Self::Receiving | Self::Running | Self::Collecting)
    }

    /// As it is written: `QUEUED`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Placed => "PLACED",
            Self::Receiving => "RECEIVING",
            Self::Running => "RUNNING",
            Self::Collecting => "COLLECTING",
            Self::Done => "DONE",
            Self::Failed => "FAILED",
            Self::Cancelling => "CANCELLING",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Reads what [`Status::as_str`] writes.
    #[must_use]
    pub fn parse(written: &str) -> Option<Self> {
        [
            Self::Queued,
            Self::Placed,
            Self::Receiving,
            Self::Running,
            Self::Collecting,
            Self::Done,
            Self::Failed,
            Self::Cancelling,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|status| status.as_str() == written)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a phase is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// `receive`, `unpack`, `analyse`, `report` …: the model's own word.
    pub phase: String,
    pub done: u64,
    /// Absent while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// `bytes`, `files` ….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// What happened to an analysis. The first six fields are always written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub user_id: UserId,
    pub event_id: EventId,
    /// `null` until the analysis is placed.
    pub server_id: Option<ServerId>,
    pub analyze_id: AnalysisId,
    pub status: Status,
    pub created_at: Timestamp,
    /// Counts from 1 without gaps in one (`analyzeId`, `attempt`).
    pub seq: u64,
    /// Counts from 1; events of an older attempt are dropped.
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// A SARIF result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Value>,
    /// Why the model or the analysis failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why something is no event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("an event is at most {EVENT_BYTES_MAX} bytes, this one has {0}")]
    TooLarge(usize),
    #[error("not an event: {0}")]
    Json(#[from] serde_json::Error),
    #[error("`{0}` counts from 1")]
    Zero(&'static str),
}

impl Event {
    /// Reads an event from JSON, within its limits.
    ///
    /// # Errors
    /// When it is too large, no event, or counts from 0.
    pub fn parse(json: &[u8]) -> Result<Self, EventError> {
        if json.len() > EVENT_BYTES_MAX {
            return Err(EventError::TooLarge(json.len()));
        }
        let event: Self = serde_json::from_slice(json)?;
        if event.seq == 0 {
            return Err(EventError::Zero("seq"));
        }
        if event.attempt == 0 {
            return Err(EventError::Zero("attempt"));
        }
        Ok(event)
    }

    /// The event as JSON, one line.
    ///
    /// # Errors
    /// When it is too large.
    pub fn to_json(&self) -> Result<String, EventError> {
        let json = serde_json::to_string(self)?;
        if json.len() > EVENT_BYTES_MAX {
            return Err(EventError::TooLarge(json.len()));
        }
        Ok(json)
    }

    /// What orders the events of one analysis.
    #[must_use]
    pub fn place(&self) -> (u32, u64) {
        (self.attempt, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"userId":"u1","eventId":"01J","serverId":"143","analyzeId":"01K","status":"RUNNING","createdAt":"2026-11-21T03:05:00.123Z","seq":7,"attempt":1,"progress":{"phase":"taint","done":120,"total":800,"unit":"files"},"message":"…"}"#;

    #[test]
    fn an_event_is_written_as_the_contract_says() {
        let event = Event::parse(FULL.as_bytes()).unwrap();
        assert_eq!(event.to_json().unwrap(), FULL);
        assert_eq!(event.place(), (1, 7));
    }

    #[test]
    fn a_server_is_null_until_placed() {
        let json = FULL.replace("\"143\"", "null").replace("RUNNING", "QUEUED");
        let event = Event::parse(json.as_bytes()).unwrap();
        assert_eq!(event.server_id, None);
        assert!(event.to_json().unwrap().contains(r#""serverId":null"#));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for bad in [
            "",
            "{}",
            "[]",
            &FULL.replace("\"seq\":7", "\"seq\":0"),
            &FULL.replace("\"seq\":7", "\"seq\":-1"),
            &FULL.replace("RUNNING", "WALKING"),
            &FULL.replace("…", &"x".repeat(EVENT_BYTES_MAX)),
        ] {
            assert!(Event::parse(bad.as_bytes()).is_err());
        }
    }

    #[test]
    fn statuses_are_read_as_written() {
        for status in [
            "QUEUED",
            "PLACED",
            "RECEIVING",
            "RUNNING",
            "COLLECTING",
            "DONE",
            "FAILED",
            "CANCELLING",
            "CANCELLED",
        ] {
            assert_eq!(Status::parse(status).unwrap().to_string(), status);
            assert_eq!(
                serde_json::to_string(&Status::parse(status).unwrap()).unwrap(),
                format!("\"{status}\"")
            );
        }
        assert!(Status::parse("done").is_none());
    }
}
