//! Whole scans of archives and folders that are built here, hostile ones included.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

mod archives;
mod around;
mod damage;
mod foreign;
mod hostile;
mod model;
mod report;
mod support;
