//! What was said of a file before: outcomes by the digest of the program, of what other files of the input say, the
//! file's place and its content.
//!
//! An entry is trusted only as far as it can be read; a broken one is a miss. Files with secrets are never kept, so
//! that no secret outlives its scan here, nor are files whose analysis was cut by time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::classify;
use crate::engine::Context;
use crate::file::{Job, Outcome};
use crate::report::coverage::{Row, Status};
use crate::report::sarif;

/// Bytes that the folder may hold after a scan; the oldest entries go first.
const FOLDER_BYTES_MAX: u64 = 1 << 30;
/// Largest entry that is written or read, packed and unpacked.
const ENTRY_BYTES_MAX: u64 = 16 << 20;
/// Files that are looked at when the folder is tidied.
const ENTRIES_MAX: usize = 1_000_000;

/// A folder of outcomes.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    /// Digest of the running program: another build may say something else.
    program: blake3::Hash,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    row: Row,
    results: Vec<sarif::Result>,
}

/// Where an outcome is kept.
#[derive(Debug)]
pub(crate) struct Key(PathBuf);

impl Cache {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(std::env::current_exe()?)?)?;
        Ok(Self {
            root: root.to_owned(),
            program: hasher.finalize(),
        })
    }

    /// The key of a file; `None` when only a part of it is there.
    pub(crate) fn key(&self, job: &Job, base: &str, context: &Context) -> Option<Key> {
        if job.cut.is_some() {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.program.as_bytes());
        hasher.update(context.digest().as_bytes());
        for part in [base.as_bytes(), job.path.as_bytes(), &job.bytes] {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(part);
        }
        let name = hasher.finalize().to_hex();
        let (folder, rest) = name.split_at_checked(2)?;
        Some(Key(self.root.join(folder).join(format!("{rest}.json.zst"))))
    }

    /// The outcome that was kept under a key.
    pub(crate) fn get(&self, key: &Key, job: &Job) -> Option<Outcome> {
        let file = File::open(&key.0).ok()?.take(ENTRY_BYTES_MAX);
        let mut bytes = Vec::new();
        zstd::stream::read::Decoder::new(file)
            .ok()?
            .take(ENTRY_BYTES_MAX)
            .read_to_end(&mut bytes)
            .ok()?;
        let entry: Entry = serde_json::from_slice(&bytes).ok()?;
        let source = match entry.results.is_empty() {
            true => None,
            false => Some(classify::content(&job.path, &job.bytes).ok()?.text),
        };
        Some(Outcome {
            results: entry.results,
            source,
            ..Outcome::row(job.sequence, job.base, entry.row)
        })
    }

    /// Keeps an outcome. A failure costs the next scan time and is no error of this one.
    pub(crate) fn put(&self, key: &Key, outcome: &Outcome) {
        let lasting = outcome.row.status != Status::Truncated && outcome.secrets.is_empty();
        if lasting && let Err(error) = self.write(key, outcome) {
            // Another process may have written the same entry, or the disk is full.
            drop(error);
        }
    }

    fn write(&self, key: &Key, outcome: &Outcome) -> io::Result<()> {
        let entry = Entry {
            row: outcome.row.clone(),
            results: outcome.results.clone(),
        };
        let packed = zstd::encode_all(serde_json::to_vec(&entry)?.as_slice(), 1)?;
        if u64::try_from(packed.len()).is_ok_and(|length| length > ENTRY_BYTES_MAX) {
            return Ok(());
        }
        let folder = key.0.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&packed)?;
        file.persist(&key.0).map_err(|error| error.error)?;
        Ok(())
    }

    /// Removes the oldest entries beyond [`FOLDER_BYTES_MAX`].
    pub(crate) fn tidy(&self) -> io::Result<()> {
        self.tidy_to(FOLDER_BYTES_MAX)
    }

    fn tidy_to(&self, most: u64) -> io::Result<()> {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for folder in fs::read_dir(&self.root)?
            .flatten()
            .filter(|entry| entry.file_name().len() == 2)
        {
            for entry in fs::read_dir(folder.path())?.flatten() {
                let metadata = entry.metadata()?;
                if metadata.is_file() && entries.len() < ENTRIES_MAX {
                    entries.push((metadata.modified()?, metadata.len(), entry.path()));
                }
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= most {
                break;
            }
            fs::remove_file(path)?;
            total = total.saturating_sub(bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::EntryPath;
    use crate::report::mask::Secrets;

    fn job(name: &str, bytes: &[u8]) -> Job {
        Job {
            sequence: 3,
            base: 0,
            path: EntryPath::new(name.as_bytes()),
            bytes: bytes.to_vec(),
            cut: None,
        }
    }

    #[test]
    fn outcomes_come_back_for_the_same_place_and_content_only() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let key = cache
            .key(&job("a.c", b"int x;"), "PATH", &Context::default())
            .unwrap();
        assert!(cache.get(&key, &job("a.c", b"int x;")).is_none());
        let outcome = Outcome::row(
            9,
            0,
            Row {
                bytes: Some(6),
                ..Row::new("a.c".to_owned(), Status::Analysed)
            },
        );
        cache.put(&key, &outcome);
        let again = cache.get(&key, &job("a.c", b"int x;")).unwrap();
        assert_eq!((again.sequence, again.row), (3, outcome.row));
        for (other, base) in [
            (job("b.c", b"int x;"), "PATH"),
            (job("a.c", b"int y;"), "PATH"),
            (job("a.c", b"int x;"), "PATH2"),
        ] {
            let key = cache.key(&other, base, &Context::default()).unwrap();
            assert!(cache.get(&key, &other).is_none(), "{other:?} {base}");
        }
        fs::write(&key.0, b"broken").unwrap();
        assert!(cache.get(&key, &job("a.c", b"int x;")).is_none());
    }

    #[test]
    fn secrets_and_cut_files_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let key = cache
            .key(&job("a.c", b"1"), "PATH", &Context::default())
            .unwrap();
        let mut outcome = Outcome::row(0, 0, Row::new("a.c".to_owned(), Status::Truncated));
        cache.put(&key, &outcome);
        outcome.row.status = Status::Analysed;
        outcome.secrets = Secrets::default();
        outcome.secrets.add("hunter2-Zebra9");
        cache.put(&key, &outcome);
        assert!(cache.get(&key, &job("a.c", b"1")).is_none());
        assert!(
            cache
                .key(
                    &Job {
                        cut: Some("cut".to_owned()),
                        ..job("a.c", b"1")
                    },
                    "PATH",
                    &Context::default()
                )
                .is_none()
        );
    }

    #[test]
    fn the_folder_stays_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        for n in 0..20_u8 {
            let job = job("a.c", &[n]);
            let outcome = Outcome::row(0, 0, Row::new("a.c".to_owned(), Status::Analysed));
            cache.put(
                &cache.key(&job, "PATH", &Context::default()).unwrap(),
                &outcome,
            );
        }
        let bytes = || -> u64 {
            let folders = fs::read_dir(dir.path()).unwrap().flatten();
            folders
                .flat_map(|f| fs::read_dir(f.path()).unwrap().flatten())
                .map(|e| e.metadata().unwrap().len())
                .sum()
        };
        let all = bytes();
        cache.tidy_to(all / 2).unwrap();
        assert!(bytes() <= all / 2 && bytes() > 0);
        cache.tidy().unwrap();
        assert!(bytes() > 0);
    }
}
