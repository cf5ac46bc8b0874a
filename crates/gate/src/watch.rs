//! Files that are read again when they change. They are looked at twice a second: that sees a file that was written,
//! replaced, or whose link was moved, on every file system, and needs no descriptor.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Files, and how they were when they were looked at last.
#[derive(Debug)]
pub(crate) struct Watch(Vec<(PathBuf, Option<Mark>)>);

impl Watch {
    /// Watches `files` from now on. To be made before they are read, so that no change is missed.
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let marked = files.into_iter().map(|file| {
            let mark = mark(&file);
            (file, mark)
        });
        Self(marked.collect())
    }

    /// Ends when one of them is another than before, or is gone.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.look() {
                return;
            }
        }
    }

    fn look(&mut self) -> bool {
        let mut different = false;
        for (file, known) in &mut self.0 {
            let now = mark(file);
            different |= *known != now;
            *known = now;
        }
        different
    }
}

fn mark(file: &Path) -> Option<Mark> {
    let metadata = std::fs::metadata(file).ok()?;
    Some(Mark {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_change_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let other = folder.path().join("other");
        let mut watch = Watch::new([file.clone()]);
        assert!(!watch.look());
        std::fs::write(&file, "a").unwrap();
        assert!(watch.look() && !watch.look());
        std::fs::write(&file, "ab").unwrap();
        assert!(watch.look());
        std::fs::write(&other, "cd").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert!(watch.look());
        std::fs::remove_file(&file).unwrap();
        assert!(watch.look() && !watch.look());
        std::fs::write(&other, "e").unwrap();
        std::os::unix::fs::symlink(&other, &file).unwrap();
        assert!(watch.look() && !watch.look());
    }
}
