//! What clients fetch again and again, rendered once for each change.
//!
//! An answer is kept as bytes, plain and packed, until something changes, at most 30 s. Its tag is weak (RFC 9110 §8.8.1): the time of
//! the last renewal, which is part of an answer, is no change.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use munjigi_eureka::{applications_to_json, instance_to_json};
use munjigi_foundation::api::Problem;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::Shared;
use crate::leases::{Leases, Revision};

/// Answers kept at a time; further ones are rendered for each request.
const KEPT_MAX: usize = 256;
/// How long answers are kept where nothing changes: then renewals show again.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
    All,
    Delta,
    /// One application, in upper case.
    Application(String),
    Vip(String),
    SecureVip(String),
}

impl Asked {
    /// `None` where there is no such thing.
    fn read(&self, leases: &Leases) -> Option<Value> {
        let found = match self {
            Self::All => leases.all(),
            Self::Delta => leases.delta(),
            Self::Application(name) => return application(leases, name),
            Self::Vip(vip) => leases.answer(|instance| instance.vip_addresses().any(|v| v == vip)),
            Self::SecureVip(vip) => {
                leases.answer(|instance| instance.secure_vip_addresses().any(|v| v == vip))
            }
        };
        Some(applications_to_json(&found))
    }
}

fn application(leases: &Leases, name: &str) -> Option<Value> {
    let list: Vec<Value> = leases
        .instances(name)
        .iter()
        .filter_map(|instance| {
            instance_to_json(instance)
                .get_mut("instance")
                .map(Value::take)
        })
        .collect();
    (!list.is_empty()).then(|| json!({"application": {"name": name, "instance": list}}))
}

/// The answers to what was asked since the last change.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Part of each tag: a registry that starts again counts from the beginning, and is another.
    run: u64,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    revision: Revision,
    since: Instant,
    answers: HashMap<Asked, Arc<Answer>>,
}

/// Rendered by the first who asks; the others wait for it.
#[derive(Debug, Default)]
struct Answer {
    plain: OnceCell<Option<Plain>>,
    packed: OnceCell<Bytes>,
}

#[derive(Debug, Clone)]
struct Plain {
    revision: Revision,
    bytes: Bytes,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            // Random, as the keys of a hash map are.
            run: RandomState::new().build_hasher().finish(),
            held: Mutex::new(Held {
                revision: Revision::default(),
                since: Instant::now(),
                answers: HashMap::new(),
            }),
        }
    }

    /// The answer to `asked` at `revision`, perhaps not rendered yet.
    fn at(&self, revision: Revision, asked: &Asked) -> Arc<Answer> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.revision != revision || held.since.elapsed() > KEPT_FOR {
            *held = Held {
                revision,
                since: Instant::now(),
                answers: HashMap::new(),
            };
        }
        if let Some(answer) = held.answers.get(asked) {
            return Arc::clone(answer);
        }
        let answer = Arc::new(Answer::default());
        if held.answers.len() < KEPT_MAX {
            held.answers.insert(asked.clone(), Arc::clone(&answer));
        }
        answer
    }
}

/// Answers `asked`: 304 to who has it already, packed for who takes that.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    asked: Asked,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let revision = shared.leases().revision();
    let answer = shared.answers.at(revision, &asked);
    let rendering = Arc::clone(shared);
    let render = move || {
        let leases = rendering.leases();
        let (revision, found) = (leases.revision(), asked.read(&leases));
        drop(leases);
        found.map(|value| Plain {
            revision,
            bytes: Bytes::from(value.to_string()),
        })
    };
    let plain = answer
        .plain
        .get_or_try_init(|| aside(render))
        .await?
        .clone()
        .ok_or_else(|| Problem::not_found("application"))?;
    let etag = tag(&shared.answers, plain.revision);
    let mut response = if has(headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if takes_gzip(headers) {
        let bytes = plain.bytes.clone();
        let packed = answer
            .packed
            .get_or_try_init(|| async { aside(move || gzip(&bytes)).await?.map_err(broken) })
            .await?;
        json_response(packed.clone(), Some("gzip"))
    } else {
        json_response(plain.bytes, None)
    };
    let fields = response.headers_mut();
    fields.insert(header::ETAG, etag);
    fields.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // Held by clients, but asked for each time.
    let ask = HeaderValue::from_static("no-cache");
    fields.insert(header::CACHE_CONTROL, ask);
    Ok(response)
}

/// Runs what takes long on a thread of its own.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(broken)
}

fn broken(error: impl std::error::Error) -> Problem {
    tracing::error!(%error, "an answer could not be made");
    Problem::internal()
}

fn json_response(bytes: Bytes, coding: Option<&'static str>) -> Response {
    let mut response = Body::from(bytes).into_response();
    let fields = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    fields.insert(header::CONTENT_TYPE, json);
    if let Some(coding) = coding {
        let coding = HeaderValue::from_static(coding);
        fields.insert(header::CONTENT_ENCODING, coding);
    }
    response
}

fn gzip(bytes: &[u8]) -> std::io::Result<Bytes> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes)?;
    packer.finish().map(Bytes::from)
}

fn tag(answers: &Answers, revision: Revision) -> HeaderValue {
    let tag = format!("W/\"{:x}-{revision}\"", answers.run);
    HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("W/\"\""))
}

/// The members of a list field, without the spaces around them.
fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// `If-None-Match` (RFC 9110 §13.1.2), compared weakly.
fn has(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let bare = |tag: &str| tag.trim_start_matches("W/").to_owned();
    let own = bare(etag.to_str().unwrap_or_default());
    members(headers, header::IF_NONE_MATCH).any(|one| one == "*" || bare(one) == own)
}

/// `Accept-Encoding` (RFC 9110 §12.5.3): only what is named is sent.
fn takes_gzip(headers: &HeaderMap) -> bool {
    members(headers, header::ACCEPT_ENCODING).any(|one| {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let refused = weight
            .trim()
            .strip_prefix("q=")
            .and_then(|weight| weight.trim().parse::<f32>().ok())
            .is_some_and(|weight| weight <= 0.0);
        let coding = coding.trim();
        let gzip = coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip");
        gzip && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leases::Limits;

    #[test]
    fn gzip_is_for_who_names_it() {
        for (accepted, expected) in [
            (None, false),
            (Some("gzip"), true),
            (Some("identity, GZIP;q=0.5"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip; q=0.000"), false),
            (Some("br, deflate"), false),
            (Some("x-gzip"), true),
            (Some("gzipped"), false),
            (Some("*"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accepted) = accepted {
                headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
            }
            assert_eq!(takes_gzip(&headers), expected, "{accepted:?}");
        }
    }

    #[test]
    fn so_many_answers_are_kept_and_none_beyond_a_change() {
        let answers = Answers::new();
        let (one, two) = (
            Revision::default(),
            Leases::new(Limits::default()).revision(),
        );
        let first = answers.at(one, &Asked::All);
        assert!(Arc::ptr_eq(&first, &answers.at(one, &Asked::All)));
        for n in 0..2 * KEPT_MAX {
            answers.at(one, &Asked::Vip(n.to_string()));
        }
        assert_eq!(answers.held.lock().unwrap().answers.len(), KEPT_MAX);
        assert!(!Arc::ptr_eq(&first, &answers.at(two, &Asked::All)));
        assert_eq!(answers.held.lock().unwrap().answers.len(), 1);
    }
}
