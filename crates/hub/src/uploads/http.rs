//! `/api/uploads`: which protocol speaks, and what both share.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use munjigi_foundation::api::Problem;
use serde_json::json;

use super::error::UploadError;
use super::{Upload, Uploads, ietf, tus};
use crate::user::User;

/// The face's path of a list of uploads; one upload is `LIST/ID`.
pub(super) const LIST: &str = "/api/uploads";
/// Uploads that a list names at the most.
const LIST_MAX: u32 = 100;
/// The longest `Upload-Metadata`, and the longest file name.
pub(super) const METADATA_MAX: usize = 4_096;
const NAME_MAX: usize = 255;
/// What an upload without a name is called.
const NAMELESS: &str = "upload";

pub(super) const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub(super) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const INTEROP: HeaderName = HeaderName::from_static("upload-draft-interop-version");
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// What goes wrong at the face: the storage's causes, or a request that says something wrong.
pub(super) enum Refusal {
    Upload(UploadError),
    Problem(Box<Problem>),
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Self {
        Self::Upload(error)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl Refusal {
    /// 400 with `code`.
    pub(super) fn bad(code: &'static str, detail: impl Into<String>) -> Self {
        Problem::bad_request(code, detail).into()
    }
}

enum Protocol {
    Tus,
    Ietf,
}

/// tus names itself in every request. The draft's requests are known by their own fields; a `HEAD` or `DELETE` of the
/// draft may have none of them.
fn protocol(method: &Method, headers: &HeaderMap) -> Protocol {
    let draft = headers.contains_key(&UPLOAD_COMPLETE)
        || headers.contains_key(&INTEROP)
        || ietf::is_partial(headers)
        || matches!(*method, Method::HEAD | Method::DELETE);
    if draft && !headers.contains_key(&TUS_RESUMABLE) {
        Protocol::Ietf
    } else {
        Protocol::Tus
    }
}

/// The paths of the uploads.
pub(crate) fn router(uploads: Uploads) -> Router {
    Router::new()
        .route(LIST, get(list).head(list).post(create).options(options))
        .route(
            "/api/uploads/{id}",
            get(show)
                .head(item)
                .patch(item)
                .delete(item)
                .post(item)
                .options(options),
        )
        .with_state(uploads)
}

async fn options(State(uploads): State<Uploads>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    tus::describe(&uploads, response.headers_mut());
    ietf::describe(&uploads, response.headers_mut());
    response
}

async fn create(
    State(uploads): State<Uploads>,
    Extension(user): Extension<User>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    match protocol(&head.method, &head.headers) {
        Protocol::Tus => tus::create(&uploads, &user.id, &head.headers, body).await,
        Protocol::Ietf => ietf::create(&uploads, &user.id, &head.headers, body).await,
    }
}

async fn item(
    State(uploads): State<Uploads>,
    Extension(user): Extension<User>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    let Some(method) = method(&head.method, headers) else {
        let problem = Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "POST needs X-HTTP-Method-Override with PATCH, HEAD or DELETE",
        );
        let allow = HeaderValue::from_static("GET, HEAD, PATCH, DELETE, OPTIONS");
        return ([(header::ALLOW, allow)], problem).into_response();
    };
    match (protocol(&method, headers), method) {
        (Protocol::Tus, Method::HEAD) => tus::head(&uploads, &user.id, &id, headers).await,
        (Protocol::Tus, Method::DELETE) => tus::delete(&uploads, &user.id, &id, headers).await,
        (Protocol::Tus, _) => tus::patch(&uploads, &user.id, &id, headers, body).await,
        (Protocol::Ietf, Method::HEAD) => ietf::head(&uploads, &user.id, &id).await,
        (Protocol::Ietf, Method::DELETE) => ietf::delete(&uploads, &user.id, &id).await,
        (Protocol::Ietf, _) => ietf::patch(&uploads, &user.id, &id, headers, body).await,
    }
}

/// The method meant: tus lets clients that can't say PATCH or DELETE say POST (tus 1.0, X-HTTP-Method-Override).
fn method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::POST {
        return Some(method.clone());
    }
    let meant = headers.get(&METHOD_OVERRIDE)?.to_str().ok()?;
    [Method::PATCH, Method::DELETE, Method::HEAD]
        .into_iter()
        .find(|method| method.as_str().eq_ignore_ascii_case(meant))
}

async fn list(State(uploads): State<Uploads>, Extension(user): Extension<User>) -> Response {
    match uploads.list(&user.id, LIST_MAX).await {
        Ok(list) => {
            let list: Vec<_> = list.iter().map(shown).collect();
            Json(json!({ "uploads": list })).into_response()
        }
        Err(error) => UploadError::from(error).problem().into_response(),
    }
}

async fn show(
    State(uploads): State<Uploads>,
    Extension(user): Extension<User>,
    Path(id): Path<String>,
) -> Response {
    match uploads.known(&user.id, &id).await {
        Ok(upload) => Json(shown(&upload)).into_response(),
        Err(error) => error.problem().into_response(),
    }
}

/// An upload as JSON.
fn shown(upload: &Upload) -> serde_json::Value {
    json!({
        "id": upload.id,
        "name": upload.name,
        "length": upload.length,
        "received": upload.received,
        "complete": upload.complete,
        "sha256": upload.sha256.map(hex),
        "blake3": upload.blake3.map(hex),
        "inUse": upload.used > 0,
        "createdAt": upload.created_at,
        "expiresAt": upload.expires_at,
    })
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of a header that holds one number.
pub(super) fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.to_str().unwrap_or_default().trim();
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = digits
        .parse::<u64>()
        .ok()
        .filter(|number| plain && values.next().is_none() && i64::try_from(*number).is_ok());
    parsed.map(Some).ok_or_else(|| {
        Refusal::bad(
            "bad_header",
            format!("{name} must be one whole number of bytes, it is \"{digits}\""),
        )
    })
}

/// The length of the request's body, when it says so.
pub(super) fn body_length(headers: &HeaderMap, body: &Body) -> Result<Option<u64>, Refusal> {
    use http_body::Body as _;
    Ok(number(headers, &header::CONTENT_LENGTH)?.or_else(|| body.size_hint().exact()))
}

/// A name as others will see it: the last part of a path, without control characters, at most 255 bytes.
pub(super) fn plain_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut plain = String::new();
    for c in last.chars().filter(|c| !c.is_control()) {
        if plain.len() + c.len_utf8() > NAME_MAX {
            break;
        }
        plain.push(c);
    }
    let plain = plain.trim();
    match plain {
        "" | "." | ".." => NAMELESS.to_owned(),
        _ => plain.to_owned(),
    }
}

/// The SHA-256 of a `Repr-Digest` (RFC 9530), which describes the whole upload.
pub(super) fn repr_digest(headers: &HeaderMap) -> Result<Option<[u8; 32]>, Refusal> {
    let Some(value) = headers.get("repr-digest") else {
        return Ok(None);
    };
    for member in value.to_str().unwrap_or_default().split(',') {
        let Some(encoded) = member.trim().strip_prefix("sha-256=:") else {
            continue;
        };
        let digest = encoded.strip_suffix(':').and_then(decode);
        return digest
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Some)
            .ok_or_else(|| Refusal::bad("bad_header", "Repr-Digest holds no SHA-256 digest"));
    }
    // Other algorithms need not be understood (RFC 9530 §3).
    Ok(None)
}

/// Base64 with or without padding.
pub(super) fn decode(encoded: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    STANDARD_NO_PAD
        .decode(encoded.trim().trim_end_matches('='))
        .ok()
}

/// Sets a header whose value is made here.
pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, value: impl ToString) {
    if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_text_and_never_a_path() {
        for (name, plain) in [
            ("a.zip", "a.zip"),
            ("C:\\x\\a.zip", "a.zip"),
            ("../../etc/passwd", "passwd"),
            ("dir/", "upload"),
            ("..", "upload"),
            ("", "upload"),
            ("a\nb\u{0}.zip", "ab.zip"),
            ("<img src=x>.zip", "<img src=x>.zip"),
            ("먼지기.zip", "먼지기.zip"),
        ] {
            assert_eq!(plain_name(name), plain, "{name:?}");
        }
        assert!(plain_name(&"가".repeat(200)).len() <= NAME_MAX);
    }

    #[test]
    fn one_number_is_one_number() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(UPLOAD_OFFSET, value.parse().unwrap());
            }
            number(&headers, &UPLOAD_OFFSET)
        };
        assert!(matches!(read(&[]), Ok(None)));
        assert!(matches!(read(&["0"]), Ok(Some(0))));
        for bad in [
            &["-1"][..],
            &["+1"],
            &["1.0"],
            &[""],
            &["1", "1"],
            &["99999999999999999999"],
            &["0x1"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
