//! Whole scans of archives and folders that are built here, hostile ones included.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archives;
mod damage;
mod hostile;
mod model;
mod report;
mod support;
