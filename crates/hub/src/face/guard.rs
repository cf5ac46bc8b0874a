//! What every request meets before its handler: is the name ours, who asks, may this page ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use munjigi_foundation::api::Problem;
use munjigi_foundation::listen::OverTls;

use super::origin::{self, Arrival, Hosts, Network};
use crate::auth::{Auth, Credential, Signed};

/// Paths under `/api/` that need no sign-in.
const OPEN: &[&str] = &[
    "/api/sign-in",
    "/api/sign-out",
    "/api/health",
    "/api/openapi.json",
];
/// What pages may load and do: only what comes from here, no inline script or style, no frame around.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);
const ALWAYS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Requests by class of status, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct Answers([AtomicU64; 5]);

impl Answers {
    fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(count) = self.0.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts of 1xx to 5xx.
    pub(crate) fn counts(&self) -> [u64; 5] {
        [0, 1, 2, 3, 4].map(|class: usize| {
            self.0
                .get(class)
                .map_or(0, |count| count.load(Ordering::Relaxed))
        })
    }
}

/// Stands before all handlers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub(crate) auth: Auth,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) trusted: Arc<[Network]>,
    pub(crate) answers: Arc<Answers>,
    /// How long a request other than an upload may take until its answer begins.
    pub(crate) request: Duration,
}

/// 403 for a page of somebody else.
pub(crate) fn foreign_origin() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "foreign_origin",
        "a request signed in by cookie must come from a page of this site (Origin)",
    )
}

/// Judges a request, lets it pass, and dresses its answer.
pub(super) async fn guard(
    State(guard): State<Guard>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut arrival = origin::arrival(request.headers(), peer, &guard.trusted);
    // Without a gate between, this connection is the client's own.
    arrival.https |= !arrival.forwarded && request.extensions().get::<OverTls>().is_some();
    let mut response = match guard.admit(&mut request, arrival).await {
        Ok(()) => guard.answer(request, next).await,
        Err(problem) => refuse(problem),
    };
    guard.answers.count(response.status());
    dress(response.headers_mut());
    response
}

impl Guard {
    /// Runs the handler. A client that owes the rest of a body does not hold a connection for good; uploads judge that
    /// themselves, by progress.
    async fn answer(&self, request: Request, next: Next) -> Response {
        if request.uri().path().starts_with("/api/uploads") {
            return next.run(request).await;
        }
        match tokio::time::timeout(self.request, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                format!("the request took longer than {} s", self.request.as_secs()),
            )
            .into_response(),
        }
    }

    async fn admit(&self, request: &mut Request, arrival: Arrival) -> Result<(), Problem> {
        let path = request.uri().path();
        // Workers come by a gate's own address, with the cluster's secret: no browser, no name to be fooled by.
        if !path.starts_with("/internal/") && !self.hosts.knows(&arrival.host) {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "unknown_host",
                format!("this hub is not known as \"{}\"", arrival.host),
            )
            .hint("add the name to `hosts` in [hub]"));
        }
        let need = need(request.method(), path);
        if need == Need::Nothing {
            request.extensions_mut().insert(arrival);
            return Ok(());
        }
        let signed = self.auth.who(request.headers()).await.map_err(|error| {
            tracing::error!(%error, "who asks could not be read");
            Problem::internal()
        })?;
        let Some(signed) = signed else {
            return Err(sign_in_needed(request.headers()));
        };
        let changes = !origin::is_safe(request.method()) || path == "/api/ws";
        let by_cookie = matches!(signed.by, Credential::Session(_));
        if by_cookie && changes && !arrival.is_same_origin(request.headers()) {
            return Err(foreign_origin());
        }
        if need == Need::Administrator && !signed.user.admin {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "administrator_needed",
                "only an administrator may do this",
            ));
        }
        let extensions = request.extensions_mut();
        extensions.insert(arrival);
        extensions.insert(signed.user.clone());
        extensions.insert::<Signed>(signed);
        Ok(())
    }
}

/// Who may ask for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    User,
    Administrator,
}

fn need(method: &Method, path: &str) -> Need {
    let below = |base: &str| {
        path.strip_prefix(base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // What an upload may be is no secret, and clients ask before they sign in.
    let asks = *method == Method::OPTIONS && below("/api/uploads");
    if !below("/api") || OPEN.contains(&path) || asks {
        Need::Nothing
    } else if below("/api/admin") || below("/api/users") {
        Need::Administrator
    } else {
        Need::User
    }
}

fn sign_in_needed(headers: &HeaderMap) -> Problem {
    if headers.contains_key(header::AUTHORIZATION) {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "bad_token",
            "the token is unknown, expired or revoked",
        )
    } else {
        Problem::new(StatusCode::UNAUTHORIZED, "sign_in_needed", "sign in first")
            .hint("use a session cookie or `Authorization: Bearer TOKEN`")
    }
}

fn refuse(problem: Problem) -> Response {
    let unauthorized = problem.status == StatusCode::UNAUTHORIZED;
    let mut response = problem.into_response();
    if unauthorized {
        // RFC 6750 §3.
        let challenge = HeaderValue::from_static("Bearer realm=\"munjigi\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Sets what every answer has, unless its handler knew better.
fn dress(headers: &mut HeaderMap) {
    for (name, value) in ALWAYS {
        headers.entry(name).or_insert(value);
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_ask_for_what() {
        for (method, path, expected) in [
            (Method::GET, "/", Need::Nothing),
            (Method::GET, "/assets/x.js", Need::Nothing),
            (Method::GET, "/sign-in", Need::Nothing),
            (Method::POST, "/api/sign-in", Need::Nothing),
            (Method::GET, "/api/health", Need::Nothing),
            (Method::GET, "/api/healthy", Need::User),
            (Method::POST, "/internal/events", Need::Nothing),
            (Method::OPTIONS, "/api/uploads", Need::Nothing),
            (Method::OPTIONS, "/api/uploads/x", Need::Nothing),
            (Method::OPTIONS, "/api/jobs", Need::User),
            (Method::POST, "/api/uploads", Need::User),
            (Method::GET, "/api", Need::User),
            (Method::GET, "/api/anything", Need::User),
            (Method::GET, "/api/ws", Need::User),
            (Method::GET, "/api/users", Need::Administrator),
            (Method::DELETE, "/api/users/x", Need::Administrator),
            (Method::GET, "/api/usersx", Need::User),
            (Method::GET, "/api/admin/workers", Need::Administrator),
        ] {
            assert_eq!(need(&method, path), expected, "{method} {path}");
        }
    }
}
