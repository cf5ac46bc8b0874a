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
mod backends;
mod balance;
mod compress;
mod conditions;
mod connection;
mod decide;
mod discovery;
mod driver;
pub mod explain;
mod files;
mod forward;
mod gate;
mod headers;
pub mod http1;
mod meter;
mod metrics;
mod network;
mod outgoing;
mod pages;
mod pipeline;
mod rate;
mod reach;
mod reason;
mod record;
mod relay;
mod reply;
mod rewrite;
mod routes;
pub mod settings;
mod shard;
mod snapshot;
mod stats;
mod target;
mod template;
mod tunnel;
pub mod ws;

pub use backends::{Backends, Discovery, Instance};
pub use gate::{Gate, StartError, Wiring};
pub use network::Network;
pub use reason::Reason;
pub use settings::GateSettings;
pub use snapshot::Snapshot;
