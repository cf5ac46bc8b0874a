//! The worker's face (contract §6), which hubs call through a gate's inner listener.

mod query;
mod receive;
mod result;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use munjigi_foundation::api::{Problem, bearer, same_secret};

use crate::core::{Core, How};
use crate::metrics::Why;
use query::Target;

/// The worker's routes.
pub(crate) fn router(core: Arc<Core>) -> Router {
    let guarded = Router::new()
        .route(
            "/analysis",
            post(receive::receive).get(result::serve).delete(delete),
        )
        .route("/analysis/cancel", post(cancel))
        .route("/metrics", get(metrics))
        .layer(from_fn_with_state(Arc::clone(&core), guard));
    Router::new()
        .route("/health", get(async || "ok\n"))
        .merge(guarded)
        .fallback(async || Problem::not_found("path"))
        .with_state(core)
}

/// Only who knows the cluster's secret comes in; and every refusal is counted.
async fn guard(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let known = bearer(request.headers())
        .is_some_and(|token| same_secret(token.as_bytes(), core.secret.expose().as_bytes()));
    if !known {
        let problem = Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this needs the cluster's secret",
        )
        .hint("send `Authorization: Bearer SECRET` with the secret of [cluster]");
        let mut response = core.refused(problem).into_response();
        let challenge = header::HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
        return response;
    }
    next.run(request).await
}

impl Core {
    /// Counts a refusal.
    pub(crate) fn refused(&self, problem: Problem) -> Problem {
        self.metrics
            .refused
            .get_or_create(&Why { code: problem.code })
            .inc();
        problem
    }
}

/// 500, with the cause in the log.
pub(crate) fn disk_failed(error: &std::io::Error) -> Problem {
    tracing::error!(%error, "the worker's disk");
    Problem::internal()
}

async fn delete(State(core): State<Arc<Core>>, uri: Uri) -> Result<StatusCode, Problem> {
    let target = Target::read(&core, &uri).map_err(|problem| core.refused(problem))?;
    core.end(target.analysis, target.attempt, How::Delete)
        .await
        .map_err(|error| disk_failed(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn cancel(State(core): State<Arc<Core>>, uri: Uri) -> Result<StatusCode, Problem> {
    let target = Target::read(&core, &uri).map_err(|problem| core.refused(problem))?;
    core.end_later(target.analysis, target.attempt, How::Cancel);
    Ok(StatusCode::ACCEPTED)
}

async fn metrics(State(core): State<Arc<Core>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], core.metrics.text())
}
