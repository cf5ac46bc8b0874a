//! Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload, interop version 8), on the same resources.
//!
//! The interim response 104 is not sent: the server library can't. A client without it learns of its upload from the
//! answer to the creation, and can make an empty one first (`Upload-Complete: ?0`).

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use munjigi_events::UserId;
use serde_json::json;

use super::error::UploadError;
use super::http::{
    LIST, Refusal, UPLOAD_COMPLETE, UPLOAD_LENGTH, UPLOAD_OFFSET, body_length, number, plain_name,
    repr_digest, set,
};
use super::receive::Append;
use super::storage::New;
use super::{Upload, Uploads};

const UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");
const PARTIAL: &str = "application/partial-upload";
/// Where the draft's problem types are registered.
const TYPES: &str = "https://iana.org/assignments/http-problem-types#";

/// What `OPTIONS` says of the draft.
pub(super) fn describe(uploads: &Uploads, headers: &mut HeaderMap) {
    let limit = format!("max-size={}", uploads.limits().upload.bytes());
    set(headers, UPLOAD_LIMIT, limit);
    let types = HeaderValue::from_static(PARTIAL);
    headers.insert(HeaderName::from_static("accept-patch"), types);
}

/// True for a PATCH of the draft.
pub(super) fn is_partial(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case(PARTIAL))
}

pub(super) async fn create(
    uploads: &Uploads,
    user: &UserId,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    answer(async {
        let last = complete(headers)?;
        let announced = number(headers, &UPLOAD_LENGTH)?;
        let content = body_length(headers, &body)?;
        let length = match (announced, content) {
            (Some(announced), Some(content)) if last && announced != content => {
                return Err(UploadError::Length {
                    announced,
                    now: content,
                }
                .into());
            }
            (Some(announced), _) => Some(announced),
            (None, content) => content.filter(|_| last),
        };
        let sha256 = repr_digest(headers)?;
        let new = New {
            name: plain_name(&file_name(headers)),
            length,
            metadata: String::new(),
            sha256,
        };
        let mut upload = uploads.create(user, new).await?;
        if !upload.complete && content != Some(0) {
            let append = Append {
                offset: 0,
                length: None,
                body: content,
                last,
                checksum: None,
                sha256: None,
            };
            upload = match uploads.append(user, &upload.id, append, body).await {
                Ok(upload) => upload,
                Err(error @ UploadError::Digest) => return Err(error.into()),
                // What came is kept, the answer says how much.
                Err(_) => uploads.known(user, &upload.id).await?,
            };
        }
        let mut response = StatusCode::CREATED.into_response();
        set(
            response.headers_mut(),
            header::LOCATION,
            format!("{LIST}/{}", upload.id),
        );
        state(uploads, response.headers_mut(), &upload);
        Ok(response)
    })
    .await
}

/// The `filename` of a `Content-Disposition`, as far as it is a plain one; the draft has no field for names.
fn file_name(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_DISPOSITION)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default();
    value
        .split(';')
        .filter_map(|part| part.trim().split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("filename"))
        .map(|(_, name)| name.trim().trim_matches('"').to_owned())
        .unwrap_or_default()
}

pub(super) async fn head(uploads: &Uploads, user: &UserId, id: &str) -> Response {
    answer(async {
        let upload = uploads.status(user, id).await?;
        let mut response = StatusCode::NO_CONTENT.into_response();
        state(uploads, response.headers_mut(), &upload);
        Ok(response)
    })
    .await
}

pub(super) async fn patch(
    uploads: &Uploads,
    user: &UserId,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    answer(async {
        if !is_partial(headers) {
            let problem = munjigi_foundation::api::Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "wrong_type",
                format!("the Content-Type of an upload's bytes is {PARTIAL}"),
            );
            return Err(problem.into());
        }
        let offset = number(headers, &UPLOAD_OFFSET)?
            .ok_or_else(|| Refusal::bad("offset_needed", "Upload-Offset is needed"))?;
        let append = Append {
            offset,
            length: number(headers, &UPLOAD_LENGTH)?,
            body: body_length(headers, &body)?,
            last: complete(headers)?,
            checksum: None,
            sha256: repr_digest(headers)?,
        };
        let upload = uploads.append(user, id, append, body).await?;
        let mut response = StatusCode::NO_CONTENT.into_response();
        state(uploads, response.headers_mut(), &upload);
        Ok(response)
    })
    .await
}

pub(super) async fn delete(uploads: &Uploads, user: &UserId, id: &str) -> Response {
    answer(async {
        uploads.terminate(user, id).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

/// `Upload-Complete`, a boolean structured field (RFC 9651 §3.3.6).
fn complete(headers: &HeaderMap) -> Result<bool, Refusal> {
    let mut values = headers.get_all(&UPLOAD_COMPLETE).iter();
    match (
        values.next().map(|value| value.as_bytes().trim_ascii()),
        values.next(),
    ) {
        (Some(b"?1"), None) => Ok(true),
        (Some(b"?0"), None) => Ok(false),
        _ => Err(Refusal::bad(
            "bad_header",
            "Upload-Complete must be ?1 or ?0",
        )),
    }
}

fn state(uploads: &Uploads, headers: &mut HeaderMap, upload: &Upload) {
    set(headers, UPLOAD_OFFSET, upload.received);
    set(
        headers,
        UPLOAD_COMPLETE,
        if upload.complete { "?1" } else { "?0" },
    );
    if let Some(length) = upload.length {
        set(headers, UPLOAD_LENGTH, length);
    }
    let limits = uploads.limits();
    let mut limit = format!("max-size={}", limits.upload.bytes());
    if !upload.complete {
        let left = uploads.left(upload).as_secs();
        limit.push_str(&format!(", max-age={left}"));
    }
    set(headers, UPLOAD_LIMIT, limit);
}

/// Answers with the draft's problem types where it has one.
async fn answer(work: impl Future<Output = Result<Response, Refusal>>) -> Response {
    let mut response = match work.await {
        Ok(response) => response,
        Err(Refusal::Problem(problem)) => problem.into_response(),
        Err(Refusal::Upload(error)) => problem(&error),
    };
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

fn problem(error: &UploadError) -> Response {
    let problem = error.problem();
    let (name, extra, offset, status) = match *error {
        UploadError::Offset {
            expected, provided, ..
        } => (
            "mismatching-upload-offset",
            json!({ "expected-offset": expected, "provided-offset": provided }),
            Some((expected, "?0")),
            StatusCode::CONFLICT,
        ),
        UploadError::Complete { length } => (
            "completed-upload",
            json!({}),
            Some((length, "?1")),
            StatusCode::BAD_REQUEST,
        ),
        UploadError::Length { .. } | UploadError::Beyond { .. } => (
            "inconsistent-upload-length",
            json!({}),
            None,
            StatusCode::BAD_REQUEST,
        ),
        _ => return problem.into_response(),
    };
    let mut document = json!({
        "type": format!("{TYPES}{name}"),
        "status": status.as_u16(),
        "code": problem.code,
        "title": problem.title,
        "detail": problem.detail,
    });
    if let (Some(document), Some(extra)) = (document.as_object_mut(), extra.as_object()) {
        document.extend(extra.clone());
    }
    let mut response = (status, axum::Json(document)).into_response();
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, json);
    if let Some((offset, complete)) = offset {
        set(headers, UPLOAD_OFFSET, offset);
        set(headers, UPLOAD_COMPLETE, complete);
    }
    response
}
