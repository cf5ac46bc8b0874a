//! Health, readiness, metrics, and the description of the face.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
use crate::jobs::Jobs;
use crate::uploads::Uploads;

/// The face, described by hand; a test compares it with the router.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");
/// OpenMetrics' older sister, which every Prometheus reads.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What operators ask.
#[derive(Clone)]
pub(crate) struct Operations {
    pub(crate) auth: Auth,
    pub(crate) uploads: Uploads,
    pub(crate) answers: Arc<Answers>,
    /// A registry knows this hub.
    pub(crate) registered: watch::Receiver<bool>,
    pub(crate) jobs: Jobs,
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
    let registry = *operations.registered.borrow();
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
    text.push_str(&operations.jobs.metrics().await);
    ([(header::CONTENT_TYPE, METRICS)], text).into_response()
}

impl Operations {
    /// The metrics in Prometheus' text format.
    async fn text(&self) -> String {
        let figures = self.uploads.figures();
        let usage = self.uploads.usage().await.unwrap_or_default();
        let free = self.uploads.disk().await.map_or(0, |disk| disk.free);
        let sessions = self.auth.session_count().await.unwrap_or(0);
        let mut text = String::new();
        for (name, help, value) in [
            (
                "uploads_created",
                "Uploads made since the start.",
                &figures.created,
            ),
            (
                "uploads_completed",
                "Uploads completed since the start.",
                &figures.completed,
            ),
            (
                "uploads_removed",
                "Uploads removed since the start.",
                &figures.removed,
            ),
            (
                "upload_received_bytes",
                "Bytes of uploads written since the start.",
                &figures.bytes,
            ),
        ] {
            family(&mut text, &format!("{name}_total"), "counter", help);
            sample(
                &mut text,
                &format!("{name}_total"),
                value.load(Ordering::Relaxed),
            );
        }
        for (name, help, value) in [
            ("uploads", "Uploads kept.", usage.uploads),
            (
                "upload_bytes",
                "Bytes of uploads kept or promised.",
                usage.bytes,
            ),
            (
                "uploads_receiving",
                "Requests that receive bytes now.",
                self.uploads.receiving_now(),
            ),
            (
                "disk_free_bytes",
                "Bytes free on the disk of the uploads.",
                free,
            ),
            ("sessions", "Sessions signed in.", sessions),
        ] {
            family(&mut text, name, "gauge", help);
            sample(&mut text, name, value);
        }
        self.answered(&mut text);
        text
    }

    fn answered(&self, text: &mut String) {
        family(
            text,
            "http_requests_total",
            "counter",
            "Requests answered, by class of status.",
        );
        for (class, count) in (1..).zip(self.answers.counts()) {
            sample(
                text,
                &format!("http_requests_total{{class=\"{class}xx\"}}"),
                count,
            );
        }
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    text.push_str(&format!(
        "# HELP munjigi_hub_{name} {help}\n# TYPE munjigi_hub_{name} {kind}\n"
    ));
}

fn sample(text: &mut String, name: &str, value: u64) {
    text.push_str(&format!("munjigi_hub_{name} {value}\n"));
}
