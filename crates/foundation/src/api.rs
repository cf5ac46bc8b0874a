//! The JSON face that hub, worker, registry and admin share: problem documents (RFC 9457) and bounded bodies.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An error as the client sees it: an RFC 9457 problem document with a stable `code`.
///
/// What the operator must know goes to the log where the error is made, never into `detail`.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    #[serde(serialize_with = "status_number")]
    pub status: StatusCode,
    /// Stable, snake case: tests and clients match on it.
    pub code: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// What happened to this request, for a person.
    pub detail: String,
    /// What to do about it, where something helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Sent as `Retry-After`, in whole seconds.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

fn status_number<S: serde::Serializer>(
    status: &StatusCode,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            title: status.canonical_reason().unwrap_or("Error"),
            detail: detail.into(),
            hint: None,
            retry_after: None,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// 404 `not_found`: also for what exists but is not the caller's.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no such {what}"),
        )
    }

    /// 400 with `code`.
    #[must_use]
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 500 `internal`: says nothing of the cause, which belongs to the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something failed on our side; the log says what",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413 `body_too_large` naming the limit, 400 `body_cut` when the client left.
pub async fn read_body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is longer than {limit} bytes"),
        )),
        Err(_) => Err(Problem::bad_request(
            "body_cut",
            "the body ended before its end",
        )),
    }
}

/// Reads a JSON body of at most `limit` bytes.
///
/// # Errors
/// As [`read_body`], and 400 `bad_json` with what is wrong and where.
pub async fn read_json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Problem> {
    let bytes = read_body(body, limit).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::bad_request(
            "bad_json",
            format!("the body is not the JSON expected: {error}"),
        )
    })
}

/// True when two secrets are equal, in time that does not depend on where they differ.
#[must_use]
pub fn same_secret(left: &[u8], right: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    left.ct_eq(right).into()
}

/// The token of an `Authorization: Bearer` header.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_a_problem_document() {
        let response = Problem::not_found("job")
            .hint("list them with `munjigi jobs`")
            .into_response();
        assert_eq!(response.status(), 404);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let body = read_body(response.into_body(), 1_000).await.unwrap();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["code"], "not_found");
        assert_eq!(value["status"], 404);
        assert_eq!(value["title"], "Not Found");
    }

    #[tokio::test]
    async fn a_body_beyond_its_limit_is_413() {
        let problem = read_body(Body::from("12345"), 4).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(read_body(Body::from("1234"), 4).await.unwrap(), "1234");
    }
}
