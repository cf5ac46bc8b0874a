//! A folder on disk, in the order of its names, without following a link.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::limits::why;
use super::name::EntryPath;
use super::{Halt, Intake, RowStatus};
use crate::report::coverage::Row;

/// What a walk meets.
enum Found<'w> {
    File {
        path: &'w Path,
        place: EntryPath,
        bytes: u64,
    },
    Refused {
        place: EntryPath,
        reason: String,
    },
    /// A folder that the scan itself writes to.
    Own {
        place: EntryPath,
    },
}

/// A folder being walked: its path, its place, and the names still to visit, the next one last.
struct Level {
    path: PathBuf,
    place: EntryPath,
    names: Vec<OsString>,
}

impl Level {
    fn open(path: PathBuf, place: EntryPath) -> io::Result<Self> {
        let mut names = fs::read_dir(&path)?
            .map(|entry| entry.map(|e| e.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
        Ok(Self { path, place, names })
    }
}

/// Visits every entry below `root` that is no folder, and not what is below the folders `own`.
fn walk(
    root: &Path,
    own: &[PathBuf],
    visit: &mut dyn FnMut(Found<'_>) -> Result<(), Halt>,
) -> Result<(), Halt> {
    let refused = |place: EntryPath, error: &io::Error| Found::Refused {
        place,
        reason: why(error),
    };
    let mut levels = match Level::open(root.to_owned(), EntryPath::new(b"")) {
        Ok(level) => vec![level],
        Err(error) => return visit(refused(EntryPath::new(b"."), &error)),
    };
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        let place = level.place.child(name.as_bytes());
        let path = level.path.join(&name);
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                visit(Found::File {
                    path: &path,
                    place,
                    bytes: metadata.len(),
                })?;
                continue;
            }
            Ok(metadata) => metadata.file_type(),
            Err(error) => {
                visit(refused(place, &error))?;
                continue;
            }
        };
        if kind.is_dir() && own.contains(&path) {
            visit(Found::Own { place })?;
            continue;
        }
        if kind.is_dir() {
            match Level::open(path, place.clone()) {
                Ok(level) => levels.push(level),
                Err(error) => visit(refused(place.child("…".as_bytes()), &error))?,
            }
            continue;
        }
        let reason = match () {
            () if kind.is_symlink() => "symbolic link",
            () if kind.is_fifo() => "fifo",
            () if kind.is_socket() => "socket",
            () => "device",
        };
        visit(Found::Refused {
            place,
            reason: reason.to_owned(),
        })?;
    }
    Ok(())
}

/// Counts, then reads.
pub(super) fn read(intake: &mut Intake<'_>, root: &Path, own: &[PathBuf]) -> Result<(), Halt> {
    let mut left_out: u64 = 0;
    walk(root, own, &mut |found| {
        intake
            .budget
            .check_cancelled()
            .map_err(|_| Halt::Cancelled)?;
        if !intake.budget.entry() {
            left_out += 1;
            return Ok(());
        }
        match found {
            Found::Refused { place, reason } => intake.row(&place, RowStatus::Skipped, &reason),
            Found::Own { place } => {
                let row = Row::new(place.child("…".as_bytes()).display(), RowStatus::Skipped);
                let reason = Some("what this scan writes".to_owned());
                intake.sink.row(Row {
                    reason,
                    count: Some(0),
                    ..row
                })
            }
            Found::File { place, .. } if !intake.sink.wants(&place) => Ok(()),
            Found::File { path, place, .. } => match open(path) {
                Ok(mut file) => intake.opened(&mut file, &place, 0, false),
                Err(error) => intake.row(&place, RowStatus::Skipped, &why(&error)),
            },
        }
    })?;
    if left_out > 0 {
        let reason = intake.entries_reason();
        let row = Row::new("…".to_owned(), RowStatus::Skipped);
        intake.sink.row(Row {
            reason: Some(reason),
            count: Some(left_out),
            ..row
        })?;
    }
    Ok(())
}

/// Adds the files below `root` and their bytes to the meter.
pub(super) fn count(
    meter: &super::Meter,
    root: &Path,
    own: &[PathBuf],
    cancelled: &dyn Fn() -> bool,
) -> Result<(), Halt> {
    walk(root, own, &mut |found| {
        if cancelled() {
            return Err(Halt::Cancelled);
        }
        if let Found::File { bytes, .. } = found {
            meter.bytes_total.fetch_add(bytes, Ordering::Relaxed);
        }
        let entries = if let Found::Own { .. } = found { 0 } else { 1 };
        meter.files_known.fetch_add(entries, Ordering::Relaxed);
        Ok(())
    })
}

/// Opens a file that must not have become a link, nor block as a fifo would, since it was looked at.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("no longer a regular file"))
    }
}
