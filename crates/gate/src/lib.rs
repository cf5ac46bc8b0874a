//! The gate: takes connections, finds the service of each request, forwards it. A request's way
//! is told in `pipeline.rs` and docs/life-of-a-request.md.
//!
//! Each thread runs an event loop of its own (`driver`) with its own listening sockets and its
//! own connections to backends; they share one [`Snapshot`] of all that can change. Control work
//! (discovery, the admin face) runs on the caller's Tokio runtime and reaches the loops only
//! through the snapshot.

mod access_log;
mod actions;
mod admin;
mod arrival;
mod backend;
mod backends;
mod balance;
mod binding;
mod breaker;
mod compress;
mod conditions;
mod connection;
mod decide;
pub mod discovery;
mod driver;
mod ejection;
pub mod explain;
mod figures;
mod files;
mod forward;
mod forwarded;
mod gate;
mod headers;
pub mod health;
mod hedge;
mod hold;
pub mod http1;
pub mod http2;
pub mod ip_filter;
mod layer4;
mod live;
mod meter;
mod metrics;
mod network;
mod orders;
mod outgoing;
mod pages;
mod pipeline;
pub mod proxy_protocol;
mod queue;
mod rate;
mod reach;
mod reason;
mod record;
mod refusals;
mod relay;
mod reload;
mod reply;
mod retry;
mod rewrite;
mod ring;
mod routes;
mod service;
pub mod settings;
mod shard;
pub mod shield;
mod snapshot;
mod stats;
mod sticky;
mod target;
mod template;
mod tls;
pub mod trace;
mod tunnel;
mod watch;
pub mod ws;

pub use backends::{Backends, Discovery, Instance};
pub use gate::{Gate, StartError, Wiring};
pub use network::Network;
pub use reason::Reason;
pub use reload::{Changes, ReloadError};
pub use settings::GateSettings;
pub use snapshot::Snapshot;
