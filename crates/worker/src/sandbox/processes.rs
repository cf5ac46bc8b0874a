//! What a tree of processes uses, read from `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// Processes looked at in one go: a tree that has more has passed every limit.
const PROCESSES_MAX: usize = 65_536;
/// Entries looked at when files are added up.
const ENTRIES_MAX: usize = 1_000_000;
/// What an entry costs the disk beside its bytes, so that empty files count too.
const ENTRY_BYTES: u64 = 4_096;

/// All descendants of a process at one moment.
#[derive(Debug)]
pub(super) struct Tree(Vec<Pid>);

impl Tree {
    pub(super) fn below(root: Pid) -> Self {
        let mut found: Vec<Pid> = Vec::new();
        let mut open = vec![root];
        while let Some(process) = open.pop() {
            for child in children(process) {
                if found.len() >= PROCESSES_MAX {
                    return Self(found);
                }
                found.push(child);
                open.push(child);
            }
        }
        Self(found)
    }

    pub(super) fn processes(&self) -> &[Pid] {
        &self.0
    }

    /// Threads of all processes; one that just ended counts as one.
    pub(super) fn threads(&self) -> u64 {
        self.0
            .iter()
            .map(|process| value_of(&proc_file(*process, "status"), "Threads:").unwrap_or(1))
            .sum()
    }

    /// Bytes of memory that no file backs: a mapped input is no one's memory, a shared anonymous mapping is. What
    /// processes share after a fork is counted for each, unless that makes more than `enough`: then it is looked at
    /// closely, which costs more.
    pub(super) fn memory(&self, enough: u64) -> u64 {
        let quick = self.sum("status", ["RssAnon:", "RssShmem:", "VmSwap:"]);
        if quick <= enough {
            return quick;
        }
        match self.sum("smaps_rollup", ["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]) {
            // An older kernel, or not allowed to look.
            0 => quick,
            shared_once => shared_once,
        }
    }

    fn sum(&self, file: &str, fields: [&str; 3]) -> u64 {
        self.0
            .iter()
            .flat_map(|process| {
                let text = proc_file(*process, file);
                fields.map(|field| value_of(&text, field).unwrap_or(0))
            })
            .sum::<u64>()
            .saturating_mul(1_024)
    }
}

fn children(process: Pid) -> Vec<Pid> {
    let folder = format!("/proc/{}/task", process.as_raw_nonzero());
    let Ok(threads) = fs::read_dir(folder) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|id| id.parse().ok().and_then(Pid::from_raw))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn proc_file(process: Pid, name: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{name}", process.as_raw_nonzero())).unwrap_or_default()
}

/// The number after `field` (kB where the kernel says so).
fn value_of(status: &str, field: &str) -> Option<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|value| value.split_ascii_whitespace().next())
        .and_then(|value| value.parse().ok())
}

/// Bytes that `folders` take on the disk, links not followed. Stops as soon as it is more than `enough`.
pub(super) fn disk_used(folders: &[PathBuf], enough: u64) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut open: Vec<PathBuf> = folders.to_vec();
    let (mut bytes, mut entries) = (0_u64, 0_usize);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            entries = entries.saturating_add(1);
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            // Blocks, not length: a sparse file takes only what was written.
            bytes = bytes
                .saturating_add(metadata.blocks().saturating_mul(512))
                .saturating_add(ENTRY_BYTES);
            if bytes > enough || entries > ENTRIES_MAX {
                return bytes.max(enough.saturating_add(1));
            }
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    bytes
}

/// True when a user who owns nothing on the way can reach `path`, and read it.
pub(super) fn open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    path.ancestors().all(|part| {
        let Ok(metadata) = fs::metadata(part) else {
            return false;
        };
        let wanted = if metadata.is_dir() { 0o005 } else { 0o004 };
        let wanted = if part == path { wanted } else { 0o001 };
        metadata.mode() & wanted == wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_a_status_file() {
        let status = "Name:\tx\nThreads:\t12\nRssAnon:\t   1024 kB\n";
        assert_eq!(value_of(status, "Threads:"), Some(12));
        assert_eq!(value_of(status, "RssAnon:"), Some(1_024));
        assert_eq!(value_of(status, "VmSwap:"), None);
    }

    #[test]
    fn disk_use_counts_entries_and_stops_early() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/a"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/usr", folder.path().join("link")).unwrap();
        let folders = [folder.path().to_path_buf()];
        let used = disk_used(&folders, u64::MAX);
        assert!((100_000..1_000_000).contains(&used), "{used}");
        assert_eq!(disk_used(&folders, 10), 4_096.max(disk_used(&folders, 10)));
        assert!(disk_used(&folders, 10) < used);
    }
}
