//! The built-in model: unpack → classify → parse → IR → engines → rank → explain → report.

pub mod engine;
pub mod finding;
mod ir;
mod lower;
mod parse;
mod rules;
