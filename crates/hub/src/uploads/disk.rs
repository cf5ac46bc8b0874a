//! The folder of the uploads: blocking file work, called from threads that may block.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use munjigi_foundation::settings::Size;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::digest::{Checksum, Digests};

/// How many bytes of backlog are hashed for each byte that arrives: a resumed upload catches up while it goes on.
const CATCH_UP_FACTOR: u64 = 4;

/// Whether the disk could promise the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// The blocks are allocated.
    Allocated,
    /// The file system can't allocate ahead: the promise is kept by counting.
    Counted,
}

/// The file of the upload `id`. Ids are made here and checked where they enter: letters and digits only.
pub(super) fn path(folder: &Path, id: &str) -> PathBuf {
    folder.join(id)
}

/// What stays free when nothing is said: this much, or this part of a smaller disk.
const STAYS_FREE: u64 = 512 << 20;
const STAYS_FREE_PART: u64 = 20;

/// A disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    /// Free for us.
    pub(crate) free: u64,
    /// What must stay free.
    pub(crate) watermark: u64,
}

/// The disk of `folder`, of which `stays_free` must stay free.
pub(super) fn disk(folder: &Path, stays_free: Option<Size>) -> io::Result<Disk> {
    let stat = rustix::fs::statvfs(folder)?;
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    Ok(Disk {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        watermark: stays_free.map_or(STAYS_FREE.min(total / STAYS_FREE_PART), Size::bytes),
    })
}

/// Makes the file and reserves `length` bytes for it; nothing is left when that fails.
pub(super) fn create(folder: &Path, id: &str, length: Option<u64>) -> io::Result<Promise> {
    let path = path(folder, id);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let promised = promise(&file, length.unwrap_or(0));
    if promised.is_err() {
        drop(fs::remove_file(&path));
        return promised;
    }
    // The name must be on disk before the row says that it is there.
    File::open(folder)?.sync_all()?;
    promised
}

fn promise(file: &File, length: u64) -> io::Result<Promise> {
    if length == 0 {
        return Ok(Promise::Allocated);
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        Ok(()) => Ok(Promise::Allocated),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(Promise::Counted),
        Err(error) => Err(error.into()),
    }
}

/// Removes the file; one that is gone already is fine.
pub(super) fn remove(folder: &Path, id: &str) -> io::Result<()> {
    match fs::remove_file(path(folder, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Cuts the file at `end`.
pub(super) fn cut(folder: &Path, id: &str, end: u64) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path(folder, id))?
        .set_len(end)
}

/// The end of an upload's file while a request writes to it.
pub(super) struct Tail {
    file: File,
    /// Bytes in the file that belong to the upload.
    pub(super) written: u64,
    /// Bytes known to be on disk.
    pub(super) durable: u64,
    pub(super) digests: Digests,
    pub(super) checksum: Option<Checksum>,
}

impl Tail {
    /// Opens the file at `offset`, the durable end. What a crash left behind it is cut off.
    pub(super) fn open(
        folder: &Path,
        id: &str,
        offset: u64,
        digests: Option<Digests>,
    ) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path(folder, id))?;
        let length = file.metadata()?.len();
        if length < offset {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file of upload {id} has {length} bytes, {offset} were acknowledged"),
            ));
        }
        // Not set_len: that would also give back the blocks reserved behind the end.
        Ok(Self {
            file,
            written: offset,
            durable: offset,
            digests: digests
                .filter(|digests| digests.hashed() <= offset)
                .unwrap_or_default(),
            checksum: None,
        })
    }

    /// Appends `batch` and carries the digests along.
    pub(super) fn push(&mut self, batch: &[Bytes]) -> io::Result<()> {
        for bytes in batch {
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.file.write_all_at(bytes, self.written)?;
            if self.digests.hashed() == self.written {
                self.digests.update(bytes);
                self.written += count;
            } else {
                self.written += count;
                let most = count.saturating_mul(CATCH_UP_FACTOR);
                self.digests.catch_up(&self.file, self.written, most)?;
            }
            if let Some(checksum) = &mut self.checksum {
                checksum.update(bytes);
            }
        }
        Ok(())
    }

    /// Puts what was written on disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.durable < self.written {
            self.file.sync_data()?;
            self.durable = self.written;
        }
        Ok(())
    }

    /// Cuts the file at its end, and gives the digests of all of it.
    pub(super) fn finish(&mut self) -> io::Result<([u8; 32], [u8; 32])> {
        self.digests.catch_up(&self.file, self.written, u64::MAX)?;
        // A crash may have left bytes behind the end; blocks reserved in vain go back too.
        self.file.set_len(self.written)?;
        self.file.sync_all()?;
        self.durable = self.written;
        Ok(self.digests.finish())
    }
}
