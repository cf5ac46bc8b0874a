//! A zip without a readable directory (cut, or still arriving): its local headers, one after the other.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read, SeekFrom};
use std::rc::Rc;

use flate2::bufread::DeflateDecoder;

use super::limits::{Expanding, why};
use super::name::{self, EntryPath};
use super::zip::{LOCAL_BYTES, Packed, le16, le32};
use super::{Ended, Halt, Intake, ReadSeek, RowStatus};

const NO_DIRECTORY: &str = "the zip's directory is missing: what stands before the damage was read";

/// Reads entries from the start of `source` until one cannot be followed.
pub(super) fn read(
    intake: &mut Intake<'_>,
    archive: &EntryPath,
    source: &mut dyn ReadSeek,
    depth: u32,
) -> Result<Ended, Halt> {
    let mut at = 0;
    let mut seen = 0_u64;
    loop {
        intake
            .budget
            .check_cancelled()
            .map_err(|_| Halt::Cancelled)?;
        match entry(intake, archive, source, at, depth)? {
            Some(next) => at = next,
            None if seen == 0 => {
                return Ok(Ended::Early(
                    "not a zip archive, although its name or start says so".to_owned(),
                ));
            }
            None => return Ok(Ended::Early(NO_DIRECTORY.to_owned())),
        }
        seen += 1;
        if intake.budget.spent().is_some() || !intake.budget.entry() {
            return Ok(Ended::Early(NO_DIRECTORY.to_owned()));
        }
    }
}

/// Reads the entry at `at`; answers where the next one begins, if that can be known.
fn entry(
    intake: &mut Intake<'_>,
    archive: &EntryPath,
    source: &mut dyn ReadSeek,
    at: u64,
    depth: u32,
) -> Result<Option<u64>, Halt> {
    let Ok(Some(local)) = Local::read(source, at) else {
        return Ok(None);
    };
    if local.name.ends_with(b"/") {
        return Ok(local.next());
    }
    let path = match name::clean(&local.name) {
        Ok(name) => archive.member(&name),
        Err(reason) => {
            intake.row(
                &archive.member(name::shown(&local.name)),
                RowStatus::Skipped,
                reason,
            )?;
            return Ok(local.next());
        }
    };
    let reason = match local.method {
        _ if local.flags & 0x2041 != 0 => Some("encrypted"),
        8 => None,
        0 | 12 | 93 if local.flags & 8 == 0 => None,
        _ => Some("its length is only in the missing directory"),
    };
    if let Some(reason) = reason {
        intake.row(&path, RowStatus::Skipped, reason)?;
        return Ok(local.next());
    }
    if !intake.first_of(&path) {
        intake.row(&path, RowStatus::Skipped, super::DUPLICATE)?;
        return Ok(local.next());
    }
    if source.seek(SeekFrom::Start(local.data)).is_err() {
        return Ok(None);
    }
    if local.flags & 8 == 0 {
        let packed = Packed {
            method: local.method,
            packed: local.packed,
            crc: Some((local.crc, local.size)),
        };
        let mut content = packed.open(intake, source.take(local.packed));
        intake.member(&path, Some(local.size), &mut content, depth)?;
        return Ok(local.next());
    }
    deflated(intake, &path, source, local.data, depth)
}

/// A deflated entry whose length follows it: its own end tells where the next one begins.
fn deflated(
    intake: &mut Intake<'_>,
    path: &EntryPath,
    source: &mut dyn ReadSeek,
    data: u64,
    depth: u32,
) -> Result<Option<u64>, Halt> {
    let decoder = DeflateDecoder::new(BufReader::with_capacity(64 * 1024, &mut *source));
    let used = Rc::new(Cell::new(0));
    let mut content = Expanding::new(
        Tracked {
            decoder,
            used: Rc::clone(&used),
        },
        &intake.budget,
        Rc::clone(&used),
        &intake.limits,
    );
    intake.member(path, None, &mut content, depth)?;
    if io::copy(&mut content, &mut io::sink()).is_err() {
        return Ok(None);
    }
    let end = data.saturating_add(used.get());
    // The descriptor: an optional signature, then checksum and two sizes of 4 or (zip64) 8 bytes.
    for length in [16, 12, 24, 20] {
        let mut magic = [0_u8; 4];
        let found = source
            .seek(SeekFrom::Start(end + length))
            .and_then(|_| source.read_exact(&mut magic));
        if found.is_ok() && matches!(&magic, b"PK\x03\x04" | b"PK\x01\x02") {
            return Ok(Some(end + length));
        }
    }
    Ok(None)
}

/// A decoder that tells how many packed bytes it used.
struct Tracked<R> {
    decoder: DeflateDecoder<R>,
    used: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Tracked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.decoder.read(buf)?;
        self.used.set(self.decoder.total_in());
        Ok(n)
    }
}

/// A local header.
struct Local {
    name: Vec<u8>,
    flags: u64,
    method: u64,
    crc: u32,
    packed: u64,
    size: u64,
    data: u64,
}

impl Local {
    fn read(source: &mut dyn ReadSeek, at: u64) -> Result<Option<Self>, String> {
        let mut head = [0_u8; LOCAL_BYTES];
        source
            .seek(SeekFrom::Start(at))
            .and_then(|_| source.read_exact(&mut head))
            .map_err(|error| why(&error))?;
        Ok(Self::parse(&head, at).and_then(|(mut local, name_length)| {
            local.name = vec![0; name_length];
            source.read_exact(&mut local.name).ok()?;
            Some(local)
        }))
    }

    fn parse(head: &[u8], at: u64) -> Option<(Self, usize)> {
        if !head.starts_with(b"PK\x03\x04") {
            return None;
        }
        let (name_length, extra_length) = (le16(head, 26)?, le16(head, 28)?);
        let local = Self {
            name: Vec::new(),
            flags: le16(head, 6)?,
            method: le16(head, 8)?,
            crc: u32::try_from(le32(head, 14)?).ok()?,
            packed: le32(head, 18)?,
            size: le32(head, 22)?,
            data: at + 30 + name_length + extra_length,
        };
        Some((local, usize::try_from(name_length).ok()?))
    }

    /// Where the next header begins when this one says its length.
    fn next(&self) -> Option<u64> {
        (self.flags & 8 == 0 && self.packed != 0xffff_ffff)
            .then(|| self.data.saturating_add(self.packed))
    }
}
