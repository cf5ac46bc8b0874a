//! The input as a folder on disk, for models that read a tree.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{EntryPath, Halt, Intake, Leaf, Limits, Meter, Sink, reason_of};
use crate::report::coverage::{Row, Status};
use crate::scan::upload_name;

/// Why an input could not be unpacked at all.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("unpacking stopped: {0}")]
    Halted(#[from] Halt),
}

/// What [`unpack_tree`] wrote.
#[derive(Debug)]
pub struct Tree {
    /// One row for each entry: `analysed` stands for "unpacked".
    pub coverage: Vec<Row>,
}

/// Unpacks the file `input`, called `name`, into the empty folder `out`: the members of an archive, or the file itself.
/// Archives inside it stay files.
pub fn unpack_tree(
    input: &Path,
    name: &str,
    out: &Path,
    limits: Limits,
    cancelled: Arc<AtomicBool>,
) -> Result<Tree, TreeError> {
    let unreadable = |source| TreeError::Input {
        path: input.to_owned(),
        source,
    };
    let mut file = File::open(input).map_err(unreadable)?;
    let meter = Meter::default();
    meter.bytes_total.store(
        file.metadata().map_err(unreadable)?.len(),
        Ordering::Relaxed,
    );
    let place = upload_name(name);
    let mut writer = Writer {
        out,
        file_bytes: limits.file_bytes,
        prefix: place.member(b""),
        coverage: Vec::new(),
    };
    Intake::new(limits, cancelled, &meter, out, &mut writer).input(&mut file, &place)?;
    Ok(Tree {
        coverage: writer.coverage,
    })
}

struct Writer<'o> {
    out: &'o Path,
    /// Larger files are left out.
    file_bytes: u64,
    prefix: EntryPath,
    coverage: Vec<Row>,
}

impl Writer<'_> {
    /// Where a member goes: its cleaned name has no `..` and is relative, and `out` began empty and holds no link.
    fn target(&self, path: &EntryPath) -> PathBuf {
        let bytes = path.as_bytes();
        let relative = bytes
            .strip_prefix(self.prefix.as_bytes())
            .unwrap_or_else(|| path.file_name());
        self.out.join(std::ffi::OsStr::from_bytes(relative))
    }
}

impl Sink for Writer<'_> {
    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<(), Halt> {
        let target = self.target(leaf.path);
        let mut row = Row::new(leaf.path.display(), Status::Analysed);
        let created = target
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| {
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .custom_flags(libc::O_NOFOLLOW)
                    .open(&target)
            });
        match created {
            Ok(file) => match copy(leaf.reader, file, self.file_bytes)? {
                Ok(bytes) if bytes > self.file_bytes => {
                    fs::remove_file(&target)
                        .map_err(|error| Halt::Failed(format!("cannot remove: {error}")))?;
                    let reason = format!(
                        "larger than {} bytes, the limit of one file",
                        self.file_bytes
                    );
                    row = Row {
                        status: Status::Skipped,
                        reason: Some(reason),
                        ..row
                    }
                }
                Ok(bytes) => row.bytes = Some(bytes),
                Err(reason) => {
                    row = Row {
                        status: Status::Truncated,
                        reason: Some(reason),
                        ..row
                    }
                }
            },
            Err(error) => {
                row = Row {
                    status: Status::Skipped,
                    reason: Some(super::limits::why(&error)),
                    ..row
                }
            }
        }
        self.coverage.push(row);
        Ok(())
    }

    fn row(&mut self, row: Row) -> Result<(), Halt> {
        self.coverage.push(row);
        Ok(())
    }

    fn opens_nested(&self) -> bool {
        false
    }
}

/// Copies a leaf, as far as it has not more than `most` bytes. A failure of the source is a reason for coverage, one of the disk a halt.
fn copy(reader: &mut dyn io::Read, mut file: File, most: u64) -> Result<Result<u64, String>, Halt> {
    let mut buf = vec![0_u8; 64 * 1024];
    let mut bytes = 0_u64;
    loop {
        let n = match reader.read(&mut buf) {
            Ok(0) => return Ok(Ok(bytes)),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return reason_of(&error).map(Err),
        };
        bytes = bytes.saturating_add(u64::try_from(n).unwrap_or(0));
        if bytes > most {
            return Ok(Ok(bytes));
        }
        file.write_all(buf.get(..n).unwrap_or_default())
            .map_err(|error| Halt::Failed(format!("cannot write: {error}")))?;
    }
}
