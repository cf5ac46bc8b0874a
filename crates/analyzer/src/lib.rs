//! The built-in model: unpack → classify → parse → IR → engines → rank → explain → report.

mod classify;
pub mod finding;
pub mod intake;
mod lines;
mod rank;
pub mod report;
mod secrets;
