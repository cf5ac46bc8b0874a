//! What operators order and ask of the running gate, over its admin face.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use munjigi_foundation::api::{Problem, read_json};
use munjigi_foundation::telemetry;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::View;
use crate::backends::Service;
use crate::live::Wanted;

/// An order is short.
const ORDER_MAX: usize = 16 * 1024;
/// Connections in one answer.
const LIST_MAX: usize = 10_000;

pub(crate) fn router() -> Router<View> {
    Router::new()
        .route("/connections/live", get(live))
        .route("/drain", post(drain))
        .route("/weight", post(weight))
        .route("/log-level", get(log_level).put(set_log_level))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
    #[serde(default)]
    tunnels: bool,
}

/// The open connections, the oldest first.
async fn live(Extract(view): Extract<View>, Query(listing): Query<Listing>) -> Json<Value> {
    let wanted = Wanted {
        limit: listing.limit.unwrap_or(100).min(LIST_MAX),
        tunnels: listing.tunnels,
    };
    let (connections, total) = view.remotes.list(wanted).await;
    Json(json!({ "connections": connections, "total": total }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainOrder {
    service: String,
    address: SocketAddr,
    /// Takes the order back.
    #[serde(default)]
    undo: bool,
}

/// Sends no new requests to a backend; what it has goes on.
async fn drain(Extract(view): Extract<View>, body: Body) -> Result<Json<Value>, Problem> {
    let order: DrainOrder = read_json(body, ORDER_MAX).await?;
    let service = service(&view, &order.service)?;
    if !service.drain(order.address, !order.undo, Instant::now()) {
        return Err(no_backend(&order.service, order.address));
    }
    Ok(Json(json!({ "drained": !order.undo })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightOrder {
    service: String,
    address: SocketAddr,
    /// Absent: its own again.
    weight: Option<u32>,
}

/// Gives a backend another weight.
async fn weight(Extract(view): Extract<View>, body: Body) -> Result<Json<Value>, Problem> {
    let order: WeightOrder = read_json(body, ORDER_MAX).await?;
    if order
        .weight
        .is_some_and(|weight| !(1..=1_000).contains(&weight))
    {
        return Err(Problem::bad_request("bad_weight", "a weight is 1 to 1000")
            .hint("to send nothing, drain the backend"));
    }
    let service = service(&view, &order.service)?;
    if !service.set_weight(order.address, order.weight, Instant::now()) {
        return Err(no_backend(&order.service, order.address));
    }
    Ok(Json(json!({ "weight": order.weight })))
}

fn service(view: &View, name: &str) -> Result<Arc<Service>, Problem> {
    let snapshot = view.shared.snapshot.load();
    snapshot.services.get(name).cloned().ok_or_else(|| {
        let mut known: Vec<_> = snapshot.services.keys().cloned().collect();
        known.sort();
        Problem::new(
            StatusCode::NOT_FOUND,
            "no_such_service",
            format!("no route leads to a service {name}"),
        )
        .hint(format!("the services are {}", known.join(", ")))
    })
}

fn no_backend(service: &str, address: SocketAddr) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_backend",
        format!("the service {service} has no backend {address}"),
    )
    .hint("`munjigi backends` lists them")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevel {
    filter: String,
}

async fn log_level() -> Json<Value> {
    Json(json!({ "filter": telemetry::log_filter() }))
}

/// Changes what the program's own log tells, until it ends.
async fn set_log_level(body: Body) -> Result<Json<Value>, Problem> {
    let wanted: LogLevel = read_json(body, ORDER_MAX).await?;
    let before = telemetry::log_filter();
    telemetry::set_log_filter(&wanted.filter).map_err(|why| {
        Problem::bad_request("bad_filter", format!("the log's filter: {why}"))
            .hint(telemetry::FILTER_HINT)
    })?;
    tracing::warn!(before, now = wanted.filter, "the log's filter was changed");
    Ok(Json(json!({ "filter": telemetry::log_filter() })))
}
