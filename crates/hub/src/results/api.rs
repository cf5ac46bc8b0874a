//! Results over HTTP: findings, the archive, the report, sources.

use std::ops::RangeInclusive;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt};
use munjigi_events::{AnalysisId, EventId};
use munjigi_foundation::api::Problem;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ResultError, coverage, name, sarif};
use crate::jobs::{Jobs, failed};
use crate::store::jobs::{self as rows, Analysis, Held};
use crate::store::results::{self as index, Wanted};
use crate::user::User;

const FINDINGS: u32 = 100;
const FINDINGS_MAX: u32 = 500;
/// An answer with findings ends after this; the next page goes on.
const ANSWER_MAX: u64 = 8 << 20;

pub(crate) fn router() -> Router<Jobs> {
    Router::new()
        .route("/api/jobs/{eventId}/findings", get(findings))
        .route("/api/jobs/{eventId}/report.sarif", get(report))
        .route("/api/jobs/{eventId}/results/{file}", get(archive))
        .route("/api/jobs/{eventId}/sources/{analyzeId}", get(source))
        .route("/api/jobs/{eventId}/coverage/{analyzeId}", get(covered))
        .route(
            "/api/jobs/{eventId}/coverage/{analyzeId}/summary",
            get(covered_summary),
        )
}

fn unreadable(error: &ResultError) -> Problem {
    tracing::error!(%error, "a result can't be read");
    Problem::internal()
}

/// The analyses of a user's job that have a result.
async fn with_results(
    jobs: &Jobs,
    user: &User,
    event_id: &str,
) -> Result<Vec<(Analysis, Held)>, Problem> {
    let job = jobs.of_user(user, event_id).await?;
    let analyses = rows::analyses_of(jobs.store().read(), &job.event_id)
        .await
        .map_err(failed)?;
    Ok(analyses
        .into_iter()
        .filter_map(|analysis| analysis.result.map(|held| (analysis, held)))
        .collect())
}

fn name_of(analysis: &Analysis) -> String {
    name(&analysis.event_id, &analysis.analyze_id, analysis.attempt)
}

fn no_result() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_result",
        "there is no result (yet)",
    )
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    severity: Option<String>,
    cwe: Option<String>,
    path: Option<String>,
    analyze_id: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
}

fn wanted(filter: Filter) -> Result<Wanted, Problem> {
    let some = |value: Option<String>| value.filter(|value| !value.is_empty());
    let mut levels = Vec::new();
    for level in some(filter.severity)
        .as_deref()
        .unwrap_or_default()
        .split(',')
    {
        match level.trim() {
            "" => {}
            level @ ("error" | "warning" | "note" | "none") => levels.push(level.to_owned()),
            _ => {
                return Err(Problem::bad_request(
                    "bad_severity",
                    "a severity is error, warning or note",
                ));
            }
        }
    }
    let cwe = some(filter.cwe)
        .map(|written| {
            let digits = written.trim_start_matches(|c: char| !c.is_ascii_digit());
            digits.parse().map_err(|_| {
                Problem::bad_request("bad_cwe", "a weakness is a number, such as 89 or CWE-89")
            })
        })
        .transpose()?;
    let after = some(filter.after)
        .map(|written| {
            written
                .parse()
                .map_err(|_| Problem::bad_request("bad_after", "`after` is what `next` said"))
        })
        .transpose()?;
    Ok(Wanted {
        analyze_id: some(filter.analyze_id),
        levels,
        cwe,
        path: some(filter.path),
        after: after.unwrap_or(0),
        limit: filter.limit.unwrap_or(FINDINGS).clamp(1, FINDINGS_MAX),
    })
}

async fn findings(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path(event_id): Path<String>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let analyses = with_results(&jobs, &user, &event_id).await?;
    let Query(filter) = filter.map_err(|bad| Problem::bad_request("bad_query", bad.body_text()))?;
    let wanted = wanted(filter)?;
    let one_more = Wanted {
        limit: wanted.limit + 1,
        ..wanted.clone()
    };
    let found = index::findings(jobs.store(), &EventId(event_id), &one_more)
        .await
        .map_err(failed)?;
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let (mut told, mut bytes, mut next) = (Vec::new(), 0, None);
    let mut last = None;
    for finding in found {
        if told.len() >= limit || bytes > ANSWER_MAX {
            next = last;
            break;
        }
        last = Some(finding.id);
        let Some((analysis, _)) = analyses
            .iter()
            .find(|(analysis, _)| analysis.analyze_id == finding.analyze_id)
        else {
            continue;
        };
        let json = jobs
            .results()
            .part(&name_of(analysis), finding.start, finding.length)
            .await
            .map_err(|error| unreadable(&error))?;
        bytes += finding.length;
        // Whatever it was when it was read, it came from outside.
        let Ok(mut value) = serde_json::from_slice::<Map<String, Value>>(&json) else {
            continue;
        };
        value.insert("analyzeId".to_owned(), json!(finding.analyze_id));
        if let Some(name) = finding.rule_name {
            value.insert("ruleName".to_owned(), json!(name));
        }
        if let Some(card) = finding.card
            && let Ok(card) = serde_json::from_str(&card)
        {
            value.insert("ruleHelp".to_owned(), card);
        }
        told.push(value);
    }
    Ok(Json(match next {
        Some(next) => json!({ "findings": told, "next": next.to_string() }),
        None => json!({ "findings": told }),
    }))
}

/// One log with the runs of all analyses.
async fn report(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path(event_id): Path<String>,
) -> Result<Response, Problem> {
    let analyses = with_results(&jobs, &user, &event_id).await?;
    if analyses.is_empty() {
        return Err(no_result());
    }
    let mut streams = vec![fixed(sarif::BEFORE)];
    let mut first = true;
    for (analysis, _) in &analyses {
        let runs = index::member(jobs.store(), &analysis.analyze_id, sarif::RUNS)
            .await
            .map_err(failed)?;
        let Some(runs) = runs else { continue };
        if !first {
            streams.push(fixed(","));
        }
        first = false;
        let stream = jobs
            .results()
            .part_stream(&name_of(analysis), runs.start, runs.length)
            .await
            .map_err(|error| unreadable(&error))?;
        streams.push(stream);
    }
    streams.push(fixed(sarif::AFTER));
    let mut response = Body::from_stream(stream::iter(streams).flatten()).into_response();
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/sarif+json"),
    );
    attach(fields, &format!("munjigi-{event_id}.sarif"));
    Ok(response)
}

type Bytes = stream::BoxStream<'static, std::io::Result<bytes::Bytes>>;

fn fixed(text: &'static str) -> Bytes {
    let bytes = bytes::Bytes::from_static(text.as_bytes());
    stream::once(async move { Ok(bytes) }).boxed()
}

fn attach(fields: &mut HeaderMap, file: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{file}\"")) {
        fields.insert(header::CONTENT_DISPOSITION, value);
    }
}

/// The archive as the worker packed it, whole or in part.
async fn archive(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path((event_id, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let analyses = with_results(&jobs, &user, &event_id).await?;
    let (analysis, held) = file
        .strip_suffix(".tar.zst")
        .and_then(|id| {
            analyses
                .iter()
                .find(|(analysis, _)| analysis.analyze_id.as_str() == id)
        })
        .ok_or_else(no_result)?;
    let digest = STANDARD.encode(held.sha256);
    let tag = format!("\"{digest}\"");
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|known| matches_tag(known, &tag)) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        describe(response.headers_mut(), &tag, &digest);
        return Ok(response);
    }
    // A part of something else than the client has would not fit (RFC 9110 §13.1.5).
    let same = text(header::IF_RANGE).is_none_or(|wanted| wanted == tag);
    let range = text(header::RANGE)
        .filter(|_| same)
        .and_then(|range| part(range, held.size));
    let (status, start, length) = match range {
        None => (StatusCode::OK, 0, held.size),
        Some(Ok(part)) => {
            let length = part.end() - part.start() + 1;
            (StatusCode::PARTIAL_CONTENT, *part.start(), length)
        }
        Some(Err(())) => return Ok(not_satisfiable(held.size)),
    };
    let stream = jobs
        .results()
        .archive_stream(&name_of(analysis), start, length)
        .await
        .map_err(|error| unreadable(&error))?;
    let mut response = Body::from_stream(stream).into_response();
    *response.status_mut() = status;
    let fields = response.headers_mut();
    describe(fields, &tag, &digest);
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/zstd"),
    );
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    attach(fields, &format!("{}.tar.zst", analysis.analyze_id));
    if status == StatusCode::PARTIAL_CONTENT {
        let last = start + length - 1;
        let range = format!("bytes {start}-{last}/{}", held.size);
        if let Ok(value) = HeaderValue::from_str(&range) {
            fields.insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

/// What is said of the whole, whatever part is sent (RFC 9530 §3).
fn describe(fields: &mut HeaderMap, tag: &str, digest: &str) {
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    if let Ok(tag) = HeaderValue::from_str(tag) {
        fields.insert(header::ETAG, tag);
    }
    if let Ok(digest) = HeaderValue::from_str(&format!("sha-256=:{digest}:")) {
        fields.insert(HeaderName::from_static("repr-digest"), digest);
    }
}

fn matches_tag(known: &str, tag: &str) -> bool {
    known == "*"
        || known
            .split(',')
            .any(|one| one.trim().trim_start_matches("W/") == tag)
}

fn not_satisfiable(size: u64) -> Response {
    let problem = Problem::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "bad_range",
        format!("the result has {size} bytes"),
    );
    let mut response = problem.into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// The one range asked for (RFC 9110 §14.1.2); `None` where the field is to be ignored: another unit, several ranges,
/// or no range at all.
fn part(range: &str, size: u64) -> Option<Result<RangeInclusive<u64>, ()>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    if range.contains(',') {
        return None;
    }
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let length = last.parse::<u64>().ok()?.min(size);
        return Some(if length == 0 {
            Err(())
        } else {
            Ok(size - length..=size - 1)
        });
    }
    let first: u64 = first.parse().ok()?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        last.parse().ok()?
    };
    if last < first {
        return None;
    }
    if first >= size {
        return Some(Err(()));
    }
    Some(Ok(first..=last.min(size - 1)))
}

#[derive(Debug, Deserialize)]
struct SourcePath {
    path: String,
}

/// The text of a file that findings touch.
async fn source(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path((event_id, analyze_id)): Path<(String, String)>,
    query: Result<Query<SourcePath>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(SourcePath { path }) =
        query.map_err(|bad| Problem::bad_request("bad_query", bad.body_text()))?;
    let analysis = one_with_result(&jobs, &user, &event_id, &analyze_id).await?;
    let found = find_source(&jobs, &analysis.analyze_id, &path).await?;
    let member = found.ok_or_else(|| Problem::not_found("source in this result"))?;
    member_response(&jobs, &analysis, &member, "text/plain; charset=utf-8").await
}

/// The analysis `analyze_id` of a user's job, when it has a result.
async fn one_with_result(
    jobs: &Jobs,
    user: &User,
    event_id: &str,
    analyze_id: &str,
) -> Result<Analysis, Problem> {
    with_results(jobs, user, event_id)
        .await?
        .into_iter()
        .map(|(analysis, _)| analysis)
        .find(|analysis| analysis.analyze_id.as_str() == analyze_id)
        .ok_or_else(no_result)
}

/// A member of a result, as a stream.
async fn member_response(
    jobs: &Jobs,
    analysis: &Analysis,
    member: &index::Member,
    kind: &'static str,
) -> Result<Response, Problem> {
    let stream = jobs
        .results()
        .part_stream(&name_of(analysis), member.start, member.length)
        .await
        .map_err(|error| unreadable(&error))?;
    let mut response = Body::from_stream(stream).into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(member.length));
    Ok(response)
}

/// `coverage.json` as the model wrote it: what became of every entry of the input.
async fn covered(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path((event_id, analyze_id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let analysis = one_with_result(&jobs, &user, &event_id, &analyze_id).await?;
    coverage_member(&jobs, &analysis, coverage::MEMBER).await
}

/// The same in short: how many entries were looked at, and why the others were not.
async fn covered_summary(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    Path((event_id, analyze_id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let analysis = one_with_result(&jobs, &user, &event_id, &analyze_id).await?;
    coverage_member(&jobs, &analysis, coverage::SUMMARY).await
}

async fn coverage_member(
    jobs: &Jobs,
    analysis: &Analysis,
    path: &str,
) -> Result<Response, Problem> {
    let member = index::member(jobs.store(), &analysis.analyze_id, path)
        .await
        .map_err(failed)?
        .ok_or_else(|| {
            Problem::new(
                StatusCode::NOT_FOUND,
                "no_coverage",
                "the model did not say what it looked at",
            )
        })?;
    member_response(jobs, analysis, &member, "application/json").await
}

/// A finding names its file by a uri (percent-encoded), the archive by its path.
async fn find_source(
    jobs: &Jobs,
    id: &AnalysisId,
    path: &str,
) -> Result<Option<index::Member>, Problem> {
    let decoded = percent_decoded(path);
    for path in [path, decoded.as_str()] {
        let member = format!("sources/{path}");
        let found = index::member(jobs.store(), id, &member)
            .await
            .map_err(failed)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    // A name that no file system takes lies under its digest.
    let digest = blake3::hash(decoded.as_bytes()).to_hex();
    index::member(jobs.store(), id, &format!("sources/{digest}"))
        .await
        .map_err(failed)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let decoded = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(byte) = decoded {
            bytes.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (range, expected) in [
            ("bytes=0-", Some(Ok(0..=9))),
            ("bytes=0-0", Some(Ok(0..=0))),
            ("bytes=4-99", Some(Ok(4..=9))),
            ("bytes=-3", Some(Ok(7..=9))),
            ("bytes=-30", Some(Ok(0..=9))),
            ("bytes=-0", Some(Err(()))),
            ("bytes=10-", Some(Err(()))),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
    }

    #[test]
    fn filters_are_checked() {
        let filter = |severity: &str, cwe: &str| {
            wanted(Filter {
                severity: Some(severity.to_owned()),
                cwe: Some(cwe.to_owned()),
                ..Filter::default()
            })
        };
        let good = filter("error,warning", "CWE-89").unwrap();
        assert_eq!(good.levels, ["error", "warning"]);
        assert_eq!(good.cwe, Some(89));
        assert_eq!(filter("", "").unwrap().cwe, None);
        assert_eq!(filter("high", "").unwrap_err().code, "bad_severity");
        assert_eq!(filter("", "sql").unwrap_err().code, "bad_cwe");
    }

    #[test]
    fn a_uri_names_its_file() {
        assert_eq!(percent_decoded("a%20b/%ED%95%9C.py"), "a b/한.py");
        assert_eq!(percent_decoded("100%"), "100%");
    }
}
