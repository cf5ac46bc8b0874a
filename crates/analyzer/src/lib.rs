//! The built-in model: unpack → classify → parse → IR → engines → rank → explain → report.

mod classify;
mod engine;
mod file;
pub mod finding;
pub mod intake;
mod lines;
pub mod model;
mod queue;
mod rank;
pub mod report;
pub mod scan;
mod secrets;

pub use report::Report;
pub use report::explanations::{ExplainError, explain_finding};
pub use report::text::Style;
pub use scan::{Observer, Progress, ScanError, ScanOptions, scan};
