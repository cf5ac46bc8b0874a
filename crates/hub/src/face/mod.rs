//! The hub's face: one router, and what every request meets before its handler.

mod guard;
mod operations;
mod origin;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware;
use munjigi_foundation::api::Problem;

use crate::pages::Pages;

pub(crate) use guard::{Guard, foreign_origin};
#[cfg(test)]
pub(crate) use operations::OPENAPI;
pub(crate) use operations::{Operations, router as operations};
pub use origin::Network;
pub(crate) use origin::{Arrival, Hosts};

/// The whole face: `parts` behind the guard.
pub(crate) fn router(
    parts: impl IntoIterator<Item = Router>,
    pages: Pages,
    guard: Guard,
) -> Router {
    parts
        .into_iter()
        .fold(Router::new(), Router::merge)
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not take this method; Allow says which it takes",
            )
        })
        .fallback(move |request: Request| async move { pages.missing(&request) })
        .layer(middleware::from_fn_with_state(guard, guard::guard))
}
