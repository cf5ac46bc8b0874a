//! tus 1.0.0 (<https://tus.io/protocols/resumable-upload>): core, creation, creation-with-upload,
//! creation-defer-length, expiration, checksum, termination.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use munjigi_events::UserId;
use munjigi_foundation::api::Problem;

use super::digest::{CHECKSUM_ALGORITHMS, Checksum};
use super::error::UploadError;
use super::http::{
    LIST, METADATA_MAX, Refusal, TUS_RESUMABLE, UPLOAD_LENGTH, UPLOAD_OFFSET, body_length, decode,
    number, plain_name, repr_digest, set,
};
use super::receive::Append;
use super::storage::New;
use super::{Upload, Uploads};

const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
/// Exactly what is built.
const EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination";
const OFFSET_OCTETS: &str = "application/offset+octet-stream";

const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");

/// What `OPTIONS` says of tus.
pub(super) fn describe(uploads: &Uploads, headers: &mut HeaderMap) {
    headers.insert(TUS_RESUMABLE, VERSION);
    headers.insert(TUS_VERSION, VERSION);
    headers.insert(TUS_EXTENSION, HeaderValue::from_static(EXTENSIONS));
    headers.insert(
        TUS_CHECKSUM_ALGORITHM,
        HeaderValue::from_static(CHECKSUM_ALGORITHMS),
    );
    set(headers, TUS_MAX_SIZE, uploads.limits().upload.bytes());
}

pub(super) async fn create(
    uploads: &Uploads,
    user: &UserId,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    answer(async {
        version(headers)?;
        let with_body = is_offset_octets(headers);
        let new = new(headers)?;
        let checksum = checksum(headers)?;
        let length = body_length(headers, &body)?;
        if !with_body && length != Some(0) {
            return Err(wrong_type());
        }
        let mut upload = uploads.create(user, new).await?;
        if with_body && !upload.complete {
            let append = Append {
                offset: 0,
                length: None,
                body: length,
                last: false,
                checksum,
                sha256: None,
            };
            // The upload is made: an append that fails leaves it to be gone on with.
            upload = match uploads.append(user, &upload.id, append, body).await {
                Ok(upload) => upload,
                Err(error @ (UploadError::Checksum | UploadError::Digest)) => {
                    return Err(error.into());
                }
                Err(_) => uploads.known(user, &upload.id).await?,
            };
        }
        let mut response = StatusCode::CREATED.into_response();
        let answer = response.headers_mut();
        set(answer, header::LOCATION, format!("{LIST}/{}", upload.id));
        if with_body {
            set(answer, UPLOAD_OFFSET, upload.received);
        }
        expires(answer, &upload);
        Ok(response)
    })
    .await
}

fn new(headers: &HeaderMap) -> Result<New, Refusal> {
    let length = number(headers, &UPLOAD_LENGTH)?;
    let deferred = match headers.get(&UPLOAD_DEFER_LENGTH) {
        None => false,
        Some(value) if value == "1" => true,
        Some(_) => {
            return Err(Refusal::bad(
                "bad_header",
                "Upload-Defer-Length can only be 1",
            ));
        }
    };
    if length.is_some() == deferred {
        return Err(Refusal::bad(
            "length_needed",
            "either Upload-Length or Upload-Defer-Length: 1 is needed",
        ));
    }
    let metadata = match headers.get(&UPLOAD_METADATA) {
        None => "",
        Some(value) => value
            .to_str()
            .ok()
            .filter(|text| text.len() <= METADATA_MAX)
            .ok_or_else(|| {
                Refusal::bad(
                    "bad_metadata",
                    format!("Upload-Metadata must be ASCII of at most {METADATA_MAX} bytes"),
                )
            })?,
    };
    Ok(New {
        name: name(metadata)?,
        length,
        metadata: metadata.to_owned(),
        sha256: repr_digest(headers)?,
    })
}

/// The file's name among the metadata: `filename`, as the tus clients send it, or `name`.
fn name(metadata: &str) -> Result<String, Refusal> {
    let bad = |what: &str| Refusal::bad("bad_metadata", format!("Upload-Metadata: {what}"));
    let mut found = [None, None];
    let mut keys = Vec::new();
    for pair in metadata.split(',').map(str::trim) {
        if pair.is_empty() && metadata.trim().is_empty() {
            continue;
        }
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if key.is_empty() || keys.contains(&key) {
            return Err(bad("each key must be there, and once only"));
        }
        keys.push(key);
        let decoded =
            decode(value).ok_or_else(|| bad(&format!("the value of {key} is no Base64")))?;
        let place = match key {
            "filename" => found.first_mut(),
            "name" => found.last_mut(),
            _ => None,
        };
        if let Some(place) = place {
            *place = Some(String::from_utf8_lossy(&decoded).into_owned());
        }
    }
    Ok(plain_name(
        &found.into_iter().flatten().next().unwrap_or_default(),
    ))
}

pub(super) async fn head(
    uploads: &Uploads,
    user: &UserId,
    id: &str,
    headers: &HeaderMap,
) -> Response {
    answer(async {
        version(headers)?;
        let upload = uploads.status(user, id).await?;
        let mut response = StatusCode::OK.into_response();
        let answer = response.headers_mut();
        set(answer, UPLOAD_OFFSET, upload.received);
        match upload.length {
            Some(length) => set(answer, UPLOAD_LENGTH, length),
            None => set(answer, UPLOAD_DEFER_LENGTH, 1),
        }
        if !upload.metadata.is_empty() {
            set(answer, UPLOAD_METADATA, &upload.metadata);
        }
        expires(answer, &upload);
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
        version(headers)?;
        if !is_offset_octets(headers) {
            return Err(wrong_type());
        }
        let offset = number(headers, &UPLOAD_OFFSET)?
            .ok_or_else(|| Refusal::bad("offset_needed", "Upload-Offset is needed"))?;
        let append = Append {
            offset,
            length: number(headers, &UPLOAD_LENGTH)?,
            body: body_length(headers, &body)?,
            last: false,
            checksum: checksum(headers)?,
            sha256: repr_digest(headers)?,
        };
        let upload = uploads.append(user, id, append, body).await?;
        let mut response = StatusCode::NO_CONTENT.into_response();
        set(response.headers_mut(), UPLOAD_OFFSET, upload.received);
        expires(response.headers_mut(), &upload);
        Ok(response)
    })
    .await
}

pub(super) async fn delete(
    uploads: &Uploads,
    user: &UserId,
    id: &str,
    headers: &HeaderMap,
) -> Response {
    answer(async {
        version(headers)?;
        uploads.terminate(user, id).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

/// Answers as tus wants it: with the version, never cached.
async fn answer(work: impl Future<Output = Result<Response, Refusal>>) -> Response {
    let mut response = match work.await {
        Ok(response) => response,
        Err(Refusal::Problem(problem)) => {
            let version_needed = problem.status == StatusCode::PRECONDITION_FAILED;
            let mut response = problem.into_response();
            if version_needed {
                response.headers_mut().insert(TUS_VERSION, VERSION);
            }
            response
        }
        Err(Refusal::Upload(error)) => {
            let mut response = error.problem().into_response();
            if let UploadError::Offset { expected, .. } = error {
                set(response.headers_mut(), UPLOAD_OFFSET, expected);
            }
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(TUS_RESUMABLE, VERSION);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn version(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers
        .get(&TUS_RESUMABLE)
        .is_some_and(|value| value == VERSION)
    {
        return Ok(());
    }
    let problem = Problem::new(
        StatusCode::PRECONDITION_FAILED,
        "tus_version",
        "Tus-Resumable must be 1.0.0 (or send Upload-Complete, for the IETF draft)",
    );
    Err(problem.into())
}

fn is_offset_octets(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case(OFFSET_OCTETS))
}

fn wrong_type() -> Refusal {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "wrong_type",
        format!("the Content-Type of an upload's bytes is {OFFSET_OCTETS}"),
    )
    .into()
}

fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>, Refusal> {
    let Some(value) = headers.get(&UPLOAD_CHECKSUM) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(|text| {
        let (algorithm, encoded) = text.trim().split_once(' ')?;
        Checksum::new(algorithm, decode(encoded)?)
    });
    parsed.map(Some).ok_or_else(|| {
        Refusal::bad(
            "bad_checksum",
            format!(
                "Upload-Checksum must be one of {CHECKSUM_ALGORITHMS} and its digest in Base64"
            ),
        )
    })
}

/// A complete upload expires too, but no client needs to hurry with it.
fn expires(headers: &mut HeaderMap, upload: &Upload) {
    if !upload.complete {
        set(headers, UPLOAD_EXPIRES, upload.expires_at.http_date());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_metadata() {
        let check = |metadata: &str, expected: Option<&str>| {
            let read = name(metadata).ok();
            assert_eq!(read.as_deref(), expected, "{metadata:?}");
        };
        check("filename d29ybGQ=", Some("world"));
        check("type eA==,filename d29ybGQ=,flag", Some("world"));
        check("name d29ybGQ", Some("world"));
        check("name eA==, filename d29ybGQ=", Some("world"));
        check("filename Li4vLi4vZXRjL3Bhc3N3ZA==", Some("passwd"));
        check("", Some("upload"));
        check("flag", Some("upload"));
        check("filename d29ybGQ=,filename eA==", None);
        check("filename *", None);
        check("a eA==,,b eA==", None);
    }
}
