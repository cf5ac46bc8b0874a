//! The built-in model: unpack → classify → parse → IR → engines → rank → explain → report.

pub mod finding;
