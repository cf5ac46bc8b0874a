//! Files that are read again when they change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::TlsError;

/// Largest file of certificates: all authorities of a system fit.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// Reads a file of at most 4 MiB.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let failed = |error: std::io::Error| TlsError::Read {
        file: file.to_owned(),
        why: error.to_string(),
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened
        .take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        let why = "is larger than 4 MiB".to_owned();
        return Err(TlsError::Content {
            file: file.to_owned(),
            why,
        });
    }
    Ok(bytes)
}

/// What tells one state of a file from another; `None` while it is not there.
type Stamp = Option<[i64; 6]>;

fn stamp(file: &Path) -> Stamp {
    let data = std::fs::metadata(file).ok()?;
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Some([
        whole(data.ino()),
        whole(data.len()),
        data.mtime(),
        data.mtime_nsec(),
        data.ctime(),
        data.ctime_nsec(),
    ])
}

#[derive(Debug, Default)]
struct Seen {
    /// When they were read.
    read: Vec<Stamp>,
    /// At the last look.
    last: Vec<Stamp>,
}

/// Files with the state in which they were read.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    seen: Mutex<Seen>,
}

impl Files {
    /// To be made before they are read: a change that falls between is seen then.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let files = Self {
            paths,
            seen: Mutex::default(),
        };
        files.about_to_read();
        files
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.paths.iter().map(|path| stamp(path)).collect()
    }

    /// Remembers their state as the one that is read next.
    pub(super) fn about_to_read(&self) {
        let stamps = self.stamps();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last.clone_from(&stamps);
        seen.read = stamps;
    }

    /// True when they differ from what was read, and did not change since the last look: whoever
    /// replaces a certificate and then its key is not caught in between.
    pub(super) fn have_settled_differently(&self) -> bool {
        let now = self.stamps();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = seen.last == now;
        let differ = seen.read != now;
        seen.last = now;
        settled && differ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.pem");
        std::fs::write(&file, "1").unwrap();
        let files = Files::new(vec![file.clone()]);
        assert!(!files.have_settled_differently());
        std::fs::write(&file, "22").unwrap();
        assert!(!files.have_settled_differently(), "it may still be written");
        assert!(files.have_settled_differently());
        files.about_to_read();
        assert!(!files.have_settled_differently());
        std::fs::remove_file(&file).unwrap();
        assert!(!files.have_settled_differently());
        assert!(files.have_settled_differently());
    }
}
