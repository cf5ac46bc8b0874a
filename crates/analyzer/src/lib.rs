//! The built-in model: unpack → classify → parse → IR → engines → rank → explain → report.

mod around;
mod cache;
mod classify;
pub mod engine;
mod file;
pub mod finding;
pub mod foreign;
pub mod intake;
mod ir;
mod lines;
mod lower;
pub mod model;
mod parse;
mod queue;
mod rank;
pub mod report;
mod rules;
pub mod scan;
mod secrets;

pub use report::Report;
pub use report::explanations::{ExplainError, explain_finding};
pub use report::text::Style;
pub use scan::{Observer, Progress, ScanError, ScanOptions, scan};
