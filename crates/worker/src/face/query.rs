//! What a request names: checked, with a problem that says what is wrong.

use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use munjigi_events::{AnalysisId, EventId, ServerId, UserId};
use munjigi_foundation::api::Problem;
use serde::Deserialize;

use crate::core::Core;
use crate::folder::plain_id;

/// The longest file name taken.
const NAME_BYTES_MAX: usize = 1_024;

/// The analysis that a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) analysis: AnalysisId,
    pub(crate) attempt: Option<u32>,
}

/// What comes with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dispatch {
    pub(crate) analysis: AnalysisId,
    pub(crate) event: EventId,
    pub(crate) user: UserId,
    pub(crate) attempt: u32,
    pub(crate) seq: u64,
    pub(crate) model: String,
    pub(crate) name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    server_id: Option<ServerId>,
    analyze_id: Option<String>,
    event_id: Option<String>,
    user_id: Option<String>,
    attempt: Option<String>,
    seq: Option<String>,
    model: Option<String>,
    name: Option<String>,
}

impl Written {
    fn read(core: &Core, uri: &Uri) -> Result<Self, Problem> {
        let Query(written) =
            Query::<Self>::try_from_uri(uri).map_err(|error| bad(&error.body_text()))?;
        match &written.server_id {
            Some(wanted) if *wanted != core.server_id => Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "wrong_server",
                format!("this is the worker {}, not {wanted}", core.server_id),
            )
            .hint("route by `metadata.serverId = query.serverId`")),
            _ => Ok(written),
        }
    }
}

fn bad(detail: &str) -> Problem {
    Problem::bad_request("bad_query", detail)
}

fn id(name: &str, value: Option<String>) -> Result<String, Problem> {
    let value = value.ok_or_else(|| bad(&format!("`{name}` is missing in the query")))?;
    if plain_id(&value) {
        return Ok(value);
    }
    Err(bad(&format!(
        "`{name}` may have letters, digits, - and _, at most 64 of them"
    )))
}

fn count<T: std::str::FromStr + PartialOrd + From<u8>>(
    name: &str,
    value: &str,
) -> Result<T, Problem> {
    value
        .parse()
        .ok()
        .filter(|count| *count >= T::from(1))
        .ok_or_else(|| bad(&format!("`{name}` must be a whole number from 1 on")))
}

impl Target {
    /// Reads `serverId`, `analyzeId` and `attempt`.
    pub(crate) fn read(core: &Core, uri: &Uri) -> Result<Self, Problem> {
        let written = Written::read(core, uri)?;
        Ok(Self {
            analysis: AnalysisId(id("analyzeId", written.analyze_id)?),
            attempt: match written.attempt {
                Some(attempt) => Some(count("attempt", &attempt)?),
                None => None,
            },
        })
    }
}

impl Dispatch {
    /// Reads all that comes with a file.
    pub(crate) fn read(core: &Core, uri: &Uri) -> Result<Self, Problem> {
        let written = Written::read(core, uri)?;
        let missing = |name: &str| bad(&format!("`{name}` is missing in the query"));
        let model = written.model.ok_or_else(|| missing("model"))?;
        if !core.models.contains_key(&model) {
            let offered: Vec<&str> = core.models.keys().map(String::as_str).collect();
            return Err(Problem::bad_request(
                "unknown_model",
                format!("this worker offers: {}", offered.join(", ")),
            ));
        }
        let name = written.name.unwrap_or_default();
        if name.len() > NAME_BYTES_MAX {
            return Err(bad(&format!(
                "`name` is longer than {NAME_BYTES_MAX} bytes"
            )));
        }
        Ok(Self {
            analysis: AnalysisId(id("analyzeId", written.analyze_id)?),
            event: EventId(id("eventId", written.event_id)?),
            user: UserId(id("userId", written.user_id)?),
            attempt: count(
                "attempt",
                &written.attempt.ok_or_else(|| missing("attempt"))?,
            )?,
            seq: count("seq", &written.seq.ok_or_else(|| missing("seq"))?)?,
            model,
            name,
        })
    }
}
