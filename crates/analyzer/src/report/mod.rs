//! Findings → what people and other programs read: SARIF, JSON lines, explanations, coverage, text.

pub mod coverage;
