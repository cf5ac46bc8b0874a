//! `summary.json`: a scan in figures. It holds no times, so that equal scans have equal summaries.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Findings by level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingCounts {
    pub error: u64,
    pub warning: u64,
    pub note: u64,
}

/// Entries of the input by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCounts {
    pub analysed: u64,
    pub skipped: u64,
    pub truncated: u64,
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub tool: String,
    pub version: String,
    /// What was scanned: file names, or the name of an upload.
    pub input: Vec<String>,
    pub findings: FindingCounts,
    /// Findings by rule.
    pub rules: BTreeMap<String, u64>,
    pub files: FileCounts,
    /// Analysed files by language.
    pub languages: BTreeMap<String, u64>,
    /// Bytes of text that were analysed.
    pub bytes: u64,
}
