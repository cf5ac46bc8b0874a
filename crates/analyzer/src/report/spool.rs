//! Results on disk while a scan runs, so that their number costs no memory.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::mask::Masker;
use super::sarif;
use crate::finding::Level;

#[derive(Debug)]
struct Entry {
    base: usize,
    path: Arc<str>,
    offset: u64,
    length: usize,
}

/// Results in an unnamed file, ordered at the end.
#[derive(Debug)]
pub(crate) struct Spool {
    file: BufWriter<File>,
    length: u64,
    index: Vec<Entry>,
    /// Findings by level: note, warning, error.
    counts: [u64; 3],
}

impl Spool {
    pub(crate) fn new(scratch: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(tempfile::tempfile_in(scratch)?),
            length: 0,
            index: Vec::new(),
            counts: [0; 3],
        })
    }

    pub(crate) fn push(
        &mut self,
        base: usize,
        path: &Arc<str>,
        result: &sarif::Result,
    ) -> io::Result<()> {
        let line = serde_json::to_vec(result)?;
        self.file.write_all(&line)?;
        self.index.push(Entry {
            base,
            path: Arc::clone(path),
            offset: self.length,
            length: line.len(),
        });
        self.length += u64::try_from(line.len()).unwrap_or(0);
        let slot = match sarif::level_of(&result.level) {
            Some(Level::Error) => 2,
            Some(Level::Warning) => 1,
            Some(Level::Note) | None => 0,
        };
        if let Some(count) = self.counts.get_mut(slot) {
            *count += 1;
        }
        Ok(())
    }

    /// Notes, warnings and errors.
    pub(crate) fn counts(&self) -> [u64; 3] {
        self.counts
    }

    /// Ends writing, and orders by path; within a file results keep their order.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.index
            .sort_by(|a, b| (a.base, &a.path).cmp(&(b.base, &b.path)));
        self.file.flush()
    }

    /// All results in order, masked.
    pub(crate) fn results<'s>(
        &'s self,
        masker: &'s Masker,
    ) -> impl Iterator<Item = io::Result<sarif::Result>> + 's {
        self.index.iter().map(move |entry| {
            let mut line = vec![0; entry.length];
            self.file.get_ref().read_exact_at(&mut line, entry.offset)?;
            let mut value: serde_json::Value = serde_json::from_slice(&line)?;
            masker.mask_json(&mut value);
            Ok(serde_json::from_value(value)?)
        })
    }
}
