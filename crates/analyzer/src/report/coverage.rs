//! `coverage.json`: what became of every entry of the input.

use serde::{Deserialize, Serialize};

/// What became of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Analysed,
    Skipped,
    Truncated,
}

/// One entry, or members left out together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its place, not percent-encoded; `a.zip!/…` for members left out together.
    pub path: String,
    pub status: Status,
    /// There unless analysed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its size, expanded, as far as it was read or is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// How many entries the row stands for; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Row {
    /// A row with nothing but place and status.
    #[must_use]
    pub fn new(path: String, status: Status) -> Self {
        Self {
            path,
            status,
            reason: None,
            bytes: None,
            language: None,
            count: None,
        }
    }

    /// How many entries the row stands for.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.count.unwrap_or(1)
    }
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coverage {
    pub files: Vec<Row>,
}

impl Coverage {
    /// Entries with this status.
    #[must_use]
    pub fn count(&self, status: Status) -> u64 {
        self.files
            .iter()
            .filter(|row| row.status == status)
            .map(Row::entries)
            .sum()
    }
}
