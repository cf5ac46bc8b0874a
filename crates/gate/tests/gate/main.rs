//! The gate over real sockets, and its parsers over a corpus: each test is one story.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::too_many_lines,
    reason = "a corpus is a table, a story is told at once"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a task of a story ends with its test"
)]

mod answers;
mod balancing;
mod bulk;
mod closings;
mod compression;
mod control;
mod corpus;
mod desync;
mod discovery;
mod explained;
mod failures;
mod files;
mod forwarding;
mod h2spec;
mod handshakes;
mod health;
mod hops;
mod http2;
mod http2_backends;
mod http2_limits;
mod http2_same;
mod http2_support;
mod http2_tls;
mod http2_tunnels;
mod ip_filter;
mod layer4;
mod letters;
mod limits;
mod lookup;
mod pings;
mod proxy;
mod queueing;
mod refusals;
mod retries;
mod rewriting;
mod routing;
mod shield;
mod support;
mod tls;
mod tls_foreign;
mod tls_support;
mod traces;
mod tunnels;
mod upstream_settings;
mod ws_support;
