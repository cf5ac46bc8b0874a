//! Health, readiness, metrics, and the description of the face.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use munjigi_foundation::api::Problem;
use serde_json::json;
use tokio::sync::watch;

use super::Arrival;
use super::guard::Answers;
use crate::auth::Auth;
use crate::uploads::Uploads;

/// The face, described by hand; a test compares it with the router.
const OPENAPI: &str = include_str!("openapi.json");
/// OpenMetrics' older sister, which every Prometheus reads.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What the hub waits for before it is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// The registry has answered, and knows this hub.
    pub(crate) registry: bool,
}

/// Gives more lines of metrics; another part of the hub's.
pub(crate) type MoreMetrics =
    Arc<dyn Fn() -> futures_util::future::BoxFuture<'static, String> + Send + Sync>;

/// What operators ask.
#[derive(Clone)]
pub(crate) struct Operations {
    pub(crate) auth: Auth,
    pub(crate) uploads: Uploads,
    pub(crate) answers: Arc<Answers>,
    pub(crate) ready: watch::Receiver<Readiness>,
    pub(crate) more: Vec<MoreMetrics>,
}

/// The paths of operations.
pub(crate) fn router(operations: Operations) -> Router {
    Router::new()
        .route(
            "/api/health",
            get(|| async { Json(json!({ "status": "ok" })) }),
        )
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/openapi.json", get(openapi))
        .with_state(operations)
}

async fn openapi() -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], OPENAPI).into_response()
}

async fn ready(State(operations): State<Operations>) -> Response {
    let registry = operations.ready.borrow().registry;
    let store = operations.uploads.usage().await.is_ok();
    let body = json!({ "ready": registry && store, "database": store, "registry": registry });
    let status = if registry && store {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

/// For a token of an administrator, or for a peer on this machine that did not come through a gate.
async fn metrics(
    State(operations): State<Operations>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
) -> Response {
    let direct = peer.ip().to_canonical().is_loopback() && !arrival.forwarded;
    if !direct {
        match operations.auth.who(&headers).await {
            Ok(Some(signed)) if signed.user.admin => {}
            Ok(_) => {
                let problem = Problem::new(
                    StatusCode::UNAUTHORIZED,
                    "token_needed",
                    "metrics need an administrator's token, or a client on this machine",
                );
                return problem.into_response();
            }
            Err(error) => {
                tracing::error!(%error, "who asks could not be read");
                return Problem::internal().into_response();
            }
        }
    }
    let mut text = operations.text().await;
    for more in &operations.more {
        text.push_str(&more().await);
    }
    ([(header::CONTENT_TYPE, METRICS)], text).into_response()
}

impl Operations {
    /// The metrics in Prometheus' text format.
    async fn text(&self) -> String {
        use std::sync::atomic::Ordering::Relaxed;
        let figures = self.uploads.figures();
        let usage = self.uploads.usage().await.unwrap_or_default();
        let free = self.uploads.disk_free().await.unwrap_or(0);
        let sessions = self.auth.session_count().await.unwrap_or(0);
        let mut text = String::new();
        for (name, kind, help, value) in [
            (
                "uploads_created_total",
                "counter",
                "Uploads made since the start.",
                figures.created.load(Relaxed),
            ),
            (
                "uploads_completed_total",
                "counter",
                "Uploads completed since the start.",
                figures.completed.load(Relaxed),
            ),
            (
                "uploads_removed_total",
                "counter",
                "Uploads removed since the start.",
                figures.removed.load(Relaxed),
            ),
            (
                "upload_received_bytes_total",
                "counter",
                "Bytes of uploads written since the start.",
                figures.bytes.load(Relaxed),
            ),
            ("uploads", "gauge", "Uploads kept.", usage.uploads),
            (
                "upload_bytes",
                "gauge",
                "Bytes of uploads kept or promised.",
                usage.bytes,
            ),
            (
                "uploads_receiving",
                "gauge",
                "Requests that receive bytes now.",
                self.uploads.receiving_now(),
            ),
            (
                "disk_free_bytes",
                "gauge",
                "Bytes free on the disk of the uploads.",
                free,
            ),
            ("sessions", "gauge", "Sessions signed in.", sessions),
        ] {
            line(&mut text, name, kind, help, "", value);
        }
        let counts = self.answers.counts();
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(counts) {
            let first = if *class == "1xx" {
                "Requests answered, by class of status."
            } else {
                ""
            };
            line(
                &mut text,
                "http_requests_total",
                "counter",
                first,
                &format!("{{class=\"{class}\"}}"),
                count,
            );
        }
        text
    }
}

fn line(text: &mut String, name: &str, kind: &str, help: &str, labels: &str, value: u64) {
    if !help.is_empty() {
        text.push_str(&format!("# HELP munjigi_hub_{name} {help}\n"));
        text.push_str(&format!("# TYPE munjigi_hub_{name} {kind}\n"));
    }
    text.push_str(&format!("munjigi_hub_{name}{labels} {value}\n"));
}
