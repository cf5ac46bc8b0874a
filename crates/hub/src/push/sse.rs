//! The same events as `text/event-stream`, for one job.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use munjigi_events::EventId;
use munjigi_foundation::api::Problem;
use serde::Deserialize;

use super::{Follower, From, Pushed};
use crate::jobs::{Jobs, failed};
use crate::user::User;

/// A comment after so long without an event: proxies and clients see that the stream lives.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resume {
    last_event_id: Option<String>,
}

/// `GET /api/jobs/{eventId}/events`.
pub(crate) async fn follow(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path(event_id): Path<String>,
    query: Result<Query<Resume>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let named = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
        .or_else(|| query.ok().and_then(|Query(resume)| resume.last_event_id))
        .filter(|id| !id.is_empty());
    let from = named.as_deref().map_or_else(From::default, from_id);
    let id = EventId(event_id);
    let held = jobs.sockets().take(&user.id)?;
    let follower = Follower::open(jobs.store(), jobs.live(), &user.id, &id, &from)
        .await
        .map_err(failed)?
        .ok_or_else(|| Problem::not_found("job"))?;
    let ended = jobs.shutdown().clone();
    let all = stream::unfold(Some((follower, held)), move |followed| {
        let (signed_out, ended) = (user.signed_out.clone(), ended.clone());
        async move {
            let (mut follower, held) = followed?;
            let block = tokio::select! {
                next = next_block(&mut follower) => next?,
                () = tokio::time::sleep(COMMENT_EVERY) => Bytes::from_static(b":\n\n"),
                () = signed_out.cancelled() => return None,
                () = ended.cancelled() => return None,
            };
            Some((Ok::<_, Infallible>(block), Some((follower, held))))
        }
    });
    let mut response = axum::body::Body::from_stream(all).into_response();
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather answers are asked not to.
    fields.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}

/// `EPOCH:OFFSET`. What is not of that form was never ours: something may be missing.
fn from_id(id: &str) -> From {
    match id.rsplit_once(':') {
        Some((epoch, offset)) => match offset.parse() {
            Ok(offset) => From {
                epoch: Some(epoch.to_owned()),
                offset: Some(offset),
            },
            Err(_) => unknown(),
        },
        None => unknown(),
    }
}

fn unknown() -> From {
    From {
        epoch: Some(String::new()),
        offset: None,
    }
}

/// The next block; `None` at the end. A place that could be kept is not spoken of.
async fn next_block(follower: &mut Follower) -> Option<Bytes> {
    loop {
        match follower.next().await {
            Ok(Some(Pushed::Subscribed {
                recovered: true, ..
            })) => {}
            Ok(Some(pushed)) => return Some(block(&pushed)),
            Ok(None) => return None,
            Err(error) => {
                tracing::error!(%error, "events can't be read");
                return None;
            }
        }
    }
}

/// JSON holds no line feed of its own, so that one `data:` line holds it.
fn block(pushed: &Pushed) -> Bytes {
    match pushed {
        Pushed::Subscribed { .. } => {
            Bytes::from(format!("event: recovered\ndata: {}\n\n", pushed.message()))
        }
        Pushed::Event {
            epoch,
            offset,
            json,
        } => Bytes::from(format!("id: {epoch}:{offset}\ndata: {json}\n\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let from = from_id("01J:5");
        assert_eq!(from.epoch.as_deref(), Some("01J"));
        assert_eq!(from.offset, Some(5));
        for odd in ["5", "01J:", "01J:-1", ":", "01J:x"] {
            assert_eq!(from_id(odd), unknown(), "{odd}");
        }
    }
}
