//! The hub's face over real sockets: the door, uploads, operations.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod door;
mod operations;
mod site;
mod uploads;
