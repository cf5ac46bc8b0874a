//! The gate over real sockets, and its parsers over a corpus: each test is one story.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod control;
mod corpus;
mod failures;
mod forwarding;
mod lookup;
mod support;
mod tunnels;
