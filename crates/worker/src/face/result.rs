//! `GET /analysis`: the packed result as a stream, whole or in part (RFC 9110 §14).

use std::io::SeekFrom;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use munjigi_foundation::api::Problem;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::disk_failed;
use super::query::Target;
use crate::book::{Found, Phase};
use crate::core::Core;
use crate::folder;
use crate::job::Job;

/// Read from the disk at once.
const CHUNK: usize = 64 * 1024;

pub(super) async fn serve(
    State(core): State<Arc<Core>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let target = Target::read(&core, &uri).map_err(|problem| core.refused(problem))?;
    let found = core.book().find(&target.analysis, target.attempt);
    let (job, result) = ready(found).map_err(|problem| core.refused(problem))?;
    respond(&core, &job, &result, &headers).await
}

fn ready(found: Found<Arc<Job>>) -> Result<(Arc<Job>, folder::Result), Problem> {
    let not_ready = || {
        Problem::new(
            StatusCode::CONFLICT,
            "not_ready",
            "the analysis has not ended yet",
        )
        .retry_after(2)
    };
    match found {
        Found::Unknown => Err(Problem::not_found("analysis on this worker")),
        Found::Deleted => Err(Problem::new(
            StatusCode::GONE,
            "deleted",
            "the analysis was deleted on this worker",
        )),
        Found::Here(Phase::Lost | Phase::Cut, _) => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "lost",
            "the analysis was lost: its file did not arrive whole, or the worker was restarted",
        )
        .hint("send it again with the next attempt")),
        Found::Here(Phase::Receiving | Phase::Running, _) => Err(not_ready()),
        Found::Here(Phase::Ready, job) => match job.state().result {
            Some(result) => Ok((job, result)),
            None => Err(not_ready()),
        },
    }
}

async fn respond(
    core: &Core,
    job: &Job,
    result: &folder::Result,
    headers: &HeaderMap,
) -> Result<Response<Body>, Problem> {
    let digest = format!("sha-256=:{}:", result.sha256);
    let tag = format!("\"{}\"", result.sha256);
    let text = |header| headers.get(header).and_then(|value| value.to_str().ok());
    // A part of another version than the client has would not fit.
    let same = text(header::IF_RANGE).is_none_or(|wanted| wanted == tag);
    let range = text(header::RANGE)
        .filter(|_| same)
        .and_then(|range| part(range, result.bytes));
    let (status, from, length) = match range {
        None => (StatusCode::OK, 0, result.bytes),
        Some(Ok((from, length))) => (StatusCode::PARTIAL_CONTENT, from, length),
        Some(Err(())) => return Ok(not_satisfiable(result.bytes)),
    };
    let mut file = tokio::fs::File::open(job.place.result())
        .await
        .map_err(|error| disk_failed(&error))?;
    file.seek(SeekFrom::Start(from))
        .await
        .map_err(|error| disk_failed(&error))?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = response.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Problem::internal());
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/zstd"),
    );
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(header::ETAG, value(&tag)?);
    // Of the whole representation, whatever part is sent (RFC 9530 §3).
    fields.insert("repr-digest", value(&digest)?);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = from + length - 1;
        fields.insert(
            header::CONTENT_RANGE,
            value(&format!("bytes {from}-{last}/{}", result.bytes))?,
        );
    }
    core.metrics.results_served.inc();
    Ok(response)
}

fn not_satisfiable(bytes: u64) -> Response<Body> {
    let problem = Problem::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "range",
        format!("the result has {bytes} bytes"),
    );
    let mut response = axum::response::IntoResponse::into_response(problem);
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{bytes}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// Start and length of the one range asked for; `None` where the field is to be ignored: another unit, several
/// ranges, or no range at all.
fn part(range: &str, bytes: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    if range.contains(',') {
        return None;
    }
    let number = |text: &str| text.trim().parse::<u64>();
    if first.trim().is_empty() {
        let length = number(last).ok()?.min(bytes);
        return Some(if length == 0 {
            Err(())
        } else {
            Ok((bytes - length, length))
        });
    }
    let first = number(first).ok()?;
    let last = if last.trim().is_empty() {
        u64::MAX
    } else {
        number(last).ok()?
    };
    if last < first {
        return None;
    }
    if first >= bytes {
        return Some(Err(()));
    }
    Some(Ok((first, last.min(bytes - 1) - first + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (range, expected) in [
            ("bytes=0-", Some(Ok((0, 10)))),
            ("bytes=0-0", Some(Ok((0, 1)))),
            ("bytes=4-99", Some(Ok((4, 6)))),
            ("bytes=-3", Some(Ok((7, 3)))),
            ("bytes=-30", Some(Ok((0, 10)))),
            ("bytes=-0", Some(Err(()))),
            ("bytes=10-", Some(Err(()))),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
            ("bytes=a-b", None),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
    }
}
