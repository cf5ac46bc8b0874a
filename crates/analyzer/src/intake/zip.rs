//! Zip, read by its central directory (APPNOTE.TXT 6.3.10, sections 4.3 and 4.4), zip64 included.
//!
//! The directory is read in batches, so that its length costs no memory. What the directory and the local headers say
//! differently, entries that share bytes, and checksums that do not match are told, not guessed away.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Read, SeekFrom};
use std::rc::Rc;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use super::limits::{Counted, Expanding, Stop, read_full};
use super::name::{self, EntryPath};
use super::{Ended, Halt, Intake, ReadSeek, RowStatus};

const END_BYTES: u64 = 22;
const COMMENT_BYTES_MAX: u64 = 65_535;
const CENTRAL_BYTES: usize = 46;
pub(super) const LOCAL_BYTES: usize = 30;
const BATCH: usize = 1024;

pub(super) fn le16(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u16::from_le_bytes(
        bytes.get(at..at + 2)?.try_into().ok()?,
    )))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(
        bytes.get(at..at + 4)?.try_into().ok()?,
    )))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Where the central directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Directory {
    start: u64,
    end: u64,
    /// Added to every offset that the archive names: what stands before it in the file.
    base: u64,
}

/// Looks for the end record, then for the directory before it.
fn directory(source: &mut dyn ReadSeek) -> io::Result<Option<Directory>> {
    let length = source.seek(SeekFrom::End(0))?;
    let tail_start = length.saturating_sub(END_BYTES + COMMENT_BYTES_MAX);
    source.seek(SeekFrom::Start(tail_start))?;
    let mut tail = Vec::new();
    Read::take(&mut *source, END_BYTES + COMMENT_BYTES_MAX).read_to_end(&mut tail)?;
    for at in memchr::memmem::rfind_iter(&tail, b"PK\x05\x06") {
        let Some(record) = tail.get(at..) else {
            continue;
        };
        let (Some(size), Some(offset)) = (le32(record, 12), le32(record, 16)) else {
            continue;
        };
        let Some(end) = u64::try_from(at).ok().map(|at| tail_start + at) else {
            continue;
        };
        let narrow =
            size != 0xffff_ffff && offset != 0xffff_ffff && le16(record, 10) != Some(0xffff);
        let found = if narrow {
            None
        } else {
            wide_directory(source, end)?
        };
        let (size, offset, end) = found.unwrap_or((size, offset, end));
        let Some(start) = end.checked_sub(size) else {
            continue;
        };
        let Some(base) = start.checked_sub(offset) else {
            continue;
        };
        let directory = Directory { start, end, base };
        if size == 0 || begins_with(source, start, b"PK\x01\x02")? {
            return Ok(Some(directory));
        }
    }
    Ok(None)
}

/// The zip64 end record before the end record at `end`: size and offset of the directory, and the record's place.
fn wide_directory(source: &mut dyn ReadSeek, end: u64) -> io::Result<Option<(u64, u64, u64)>> {
    let Some(locator_at) = end.checked_sub(20) else {
        return Ok(None);
    };
    let locator = read_at(source, locator_at, 20)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    // The record stands right before its locator unless it has an extensible part; then the locator's offset holds.
    for at in [locator_at.checked_sub(56), le64(&locator, 8)]
        .into_iter()
        .flatten()
    {
        let record = read_at(source, at, 56)?;
        if let (true, Some(size), Some(offset)) = (
            record.starts_with(b"PK\x06\x06"),
            le64(&record, 40),
            le64(&record, 48),
        ) {
            return Ok(Some((size, offset, at)));
        }
    }
    Ok(None)
}

fn read_at(source: &mut dyn ReadSeek, at: u64, bytes: usize) -> io::Result<Vec<u8>> {
    source.seek(SeekFrom::Start(at))?;
    let mut out = vec![0; bytes];
    let n = read_full(source, &mut out)?;
    out.truncate(n);
    Ok(out)
}

fn begins_with(source: &mut dyn ReadSeek, at: u64, magic: &[u8]) -> io::Result<bool> {
    Ok(read_at(source, at, magic.len())? == magic)
}

/// One entry as the central directory has it.
#[derive(Debug)]
struct Central {
    name: Vec<u8>,
    flags: u64,
    method: u64,
    crc: u32,
    packed: u64,
    size: u64,
    local: u64,
    unix_mode: u64,
}

impl Central {
    fn parse(head: &[u8], name: &[u8], extra: &[u8]) -> Option<Self> {
        let mut entry = Self {
            name: name.to_vec(),
            flags: le16(head, 8)?,
            method: le16(head, 10)?,
            crc: u32::try_from(le32(head, 16)?).ok()?,
            packed: le32(head, 20)?,
            size: le32(head, 24)?,
            local: le32(head, 42)?,
            // The high half holds a Unix mode when a Unix program (3, or 19 for macOS) wrote the entry.
            unix_mode: if matches!(head.get(5), Some(3 | 19)) {
                le32(head, 38)? >> 16
            } else {
                0
            },
        };
        let mut wide = extra_field(extra, 1).unwrap_or_default();
        for field in [&mut entry.size, &mut entry.packed, &mut entry.local] {
            if *field == 0xffff_ffff {
                *field = le64(wide, 0)?;
                wide = wide.get(8..)?;
            }
        }
        Some(entry)
    }

    fn is_folder(&self) -> bool {
        self.name.ends_with(b"/") || self.unix_mode & 0o170_000 == 0o040_000
    }

    /// Why the entry's content is not to be read.
    fn refused(&self) -> Option<String> {
        let reason = match self.unix_mode & 0o170_000 {
            0o120_000 => "symbolic link",
            0o020_000 | 0o060_000 => "device",
            0o010_000 => "fifo",
            0o140_000 => "socket",
            _ if self.flags & 0x2041 != 0 => "encrypted",
            _ if !matches!(self.method, 0 | 8 | 12 | 93) => {
                return Some(format!(
                    "compression method {} is not supported",
                    self.method
                ));
            }
            _ => return None,
        };
        Some(reason.to_owned())
    }
}

/// The extra field with this id.
fn extra_field(mut extra: &[u8], id: u64) -> Option<&[u8]> {
    loop {
        let size = usize::try_from(le16(extra, 2)?).ok()?;
        if le16(extra, 0)? == id {
            return extra.get(4..4 + size);
        }
        extra = extra.get(4 + size..)?;
    }
}

/// Walks the directory in batches.
struct Entries {
    directory: Directory,
    at: u64,
    batch: VecDeque<Central>,
    /// Set when the directory itself is damaged.
    broken: bool,
}

impl Entries {
    fn next(&mut self, source: &mut dyn ReadSeek) -> io::Result<Option<Central>> {
        if self.batch.is_empty() && !self.broken && self.at < self.directory.end {
            self.fill(source)?;
        }
        Ok(self.batch.pop_front())
    }

    fn fill(&mut self, source: &mut dyn ReadSeek) -> io::Result<()> {
        source.seek(SeekFrom::Start(self.at))?;
        let mut reader = BufReader::with_capacity(128 * 1024, &mut *source);
        for _ in 0..BATCH {
            if self.at >= self.directory.end {
                break;
            }
            let mut head = [0_u8; CENTRAL_BYTES];
            let whole = read_full(&mut reader, &mut head)? == CENTRAL_BYTES
                && head.starts_with(b"PK\x01\x02");
            let lengths = [28, 30, 32].map(|at| {
                le16(&head, at)
                    .and_then(|n| usize::try_from(n).ok())
                    .unwrap_or(0)
            });
            let [name_length, extra_length, _] = lengths;
            let rest: usize = lengths.iter().sum();
            let mut buf = vec![0_u8; rest];
            if !whole || read_full(&mut reader, &mut buf)? != rest {
                self.broken = true;
                break;
            }
            self.at += u64::try_from(CENTRAL_BYTES + rest).unwrap_or(u64::MAX);
            let name = buf.get(..name_length).unwrap_or_default();
            let extra = buf
                .get(name_length..name_length + extra_length)
                .unwrap_or_default();
            match Central::parse(&head, name, extra) {
                Some(entry) => self.batch.push_back(entry),
                None => {
                    self.broken = true;
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The number of entries that the directory of `source` claims, for progress; `None` when it is no readable zip.
pub(super) fn claimed_entries(source: &mut dyn ReadSeek) -> io::Result<Option<u64>> {
    let Some(found) = directory(source)? else {
        return Ok(None);
    };
    // At least 46 bytes an entry: a lie cannot be larger than the directory itself.
    let most = (found.end - found.start) / u64::try_from(CENTRAL_BYTES).unwrap_or(1);
    let mut entries = Entries {
        directory: found,
        at: found.start,
        batch: VecDeque::new(),
        broken: false,
    };
    let mut count: u64 = 0;
    while let Some(entry) = entries.next(source)? {
        count += u64::from(!entry.is_folder());
        if count >= 100_000 {
            return Ok(Some(most));
        }
    }
    Ok(Some(count))
}

/// Reads every entry of the zip `source`.
pub(super) fn read(
    intake: &mut Intake<'_>,
    archive: &EntryPath,
    source: &mut dyn ReadSeek,
    depth: u32,
) -> Result<Ended, Halt> {
    let found = match directory(source) {
        Ok(Some(found)) => found,
        Ok(None) => return super::salvage::read(intake, archive, source, depth),
        Err(error) => return Ended::of(&error),
    };
    let mut entries = Entries {
        directory: found,
        at: found.start,
        batch: VecDeque::new(),
        broken: false,
    };
    let mut reader = Reader {
        base: found.base,
        limit: found.start,
        taken: BTreeMap::new(),
    };
    let (mut beyond, mut unread): (u64, u64) = (0, 0);
    loop {
        intake
            .budget
            .check_cancelled()
            .map_err(|_| Halt::Cancelled)?;
        let entry = match entries.next(source) {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => return Ended::of(&error),
        };
        if !intake.budget.entry() {
            beyond += u64::from(!entry.is_folder());
        } else if entry.is_folder() {
            continue;
        } else if intake.budget.spent().is_some() {
            unread += 1;
        } else {
            reader.entry(intake, archive, &entry, source, depth)?;
        }
    }
    intake.left_out(archive, beyond, &intake.entries_reason())?;
    if let Some(stop) = intake.budget.spent() {
        intake.left_out(archive, unread, &stop.to_string())?;
    }
    if entries.broken {
        Ok(Ended::Early(
            "damaged: the directory of the zip ends early".to_owned(),
        ))
    } else {
        Ok(Ended::Whole)
    }
}

/// Reads entries, and knows which bytes earlier ones claimed.
struct Reader {
    base: u64,
    /// No content reaches into the directory.
    limit: u64,
    taken: BTreeMap<u64, u64>,
}

impl Reader {
    fn entry(
        &mut self,
        intake: &mut Intake<'_>,
        archive: &EntryPath,
        entry: &Central,
        source: &mut dyn ReadSeek,
        depth: u32,
    ) -> Result<(), Halt> {
        let name = match name::clean(&entry.name) {
            Ok(name) => name,
            Err(reason) => {
                return intake.row(
                    &archive.member(name::shown(&entry.name)),
                    RowStatus::Skipped,
                    reason,
                );
            }
        };
        let path = archive.member(&name);
        if let Some(reason) = entry.refused() {
            return intake.row(&path, RowStatus::Skipped, &reason);
        }
        if !intake.first_of(&path) {
            return intake.row(&path, RowStatus::Skipped, super::DUPLICATE);
        }
        let data = match self.locate(entry, source) {
            Ok(Ok(data)) => data,
            Ok(Err(reason)) => return intake.row(&path, RowStatus::Skipped, reason),
            Err(error) => {
                return intake.row(&path, RowStatus::Skipped, &super::limits::why(&error));
            }
        };
        let result = match source.seek(SeekFrom::Start(data)) {
            Ok(_) => {
                let packed = Packed {
                    method: entry.method,
                    packed: entry.packed,
                    crc: Some((entry.crc, entry.size)),
                };
                let mut content = packed.open(intake, source.take(entry.packed));
                intake.member(&path, Some(entry.size), &mut content, depth)
            }
            Err(error) => intake.row(&path, RowStatus::Skipped, &super::limits::why(&error)),
        };
        intake.advance(entry.packed, depth);
        result
    }

    /// Where the entry's content begins, or why the entry is not to be trusted.
    fn locate(
        &mut self,
        entry: &Central,
        source: &mut dyn ReadSeek,
    ) -> io::Result<Result<u64, &'static str>> {
        let Some(at) = entry.local.checked_add(self.base) else {
            return Ok(Err("damaged: its place is outside the archive"));
        };
        let head = read_at(source, at, LOCAL_BYTES)?;
        if !head.starts_with(b"PK\x03\x04") {
            return Ok(Err("damaged: no local header where the directory says"));
        }
        let (Some(name_length), Some(extra_length)) = (le16(&head, 26), le16(&head, 28)) else {
            return Ok(Err("damaged: local header cut"));
        };
        let name = read_at(source, at + 30, usize::try_from(name_length).unwrap_or(0))?;
        let has_descriptor = le16(&head, 6).is_some_and(|flags| flags & 8 != 0);
        let sizes = (le32(&head, 18), le32(&head, 22));
        let narrow = (Some(entry.packed), Some(entry.size));
        let lies = name != entry.name
            || le16(&head, 8) != Some(entry.method)
            || (!has_descriptor
                && sizes != narrow
                && sizes.0 != Some(0xffff_ffff)
                && sizes.1 != Some(0xffff_ffff));
        if lies {
            return Ok(Err("local header and directory disagree"));
        }
        let data = at + 30 + name_length + extra_length;
        let end = data.saturating_add(entry.packed);
        if end > self.limit {
            return Ok(Err("damaged: its content reaches beyond the archive"));
        }
        let overlaps = self
            .taken
            .range(..end)
            .next_back()
            .is_some_and(|(_, other)| *other > at);
        if overlaps {
            return Ok(Err("shares its bytes with another entry"));
        }
        self.taken.insert(at, end);
        Ok(Ok(data))
    }
}

/// How the content of an entry is stored, and what it should be once expanded.
pub(super) struct Packed {
    pub(super) method: u64,
    /// Packed bytes.
    pub(super) packed: u64,
    pub(super) crc: Option<(u32, u64)>,
}

impl Packed {
    /// The expanded content, held to the limits and to its checksum.
    pub(super) fn open<'s>(
        self,
        intake: &Intake<'_>,
        source: impl Read + 's,
    ) -> Checked<Expanding<Box<dyn Read + 's>>> {
        let counted = Counted::new(source, None);
        let count = counted.count();
        let capacity = usize::try_from(self.packed)
            .unwrap_or(usize::MAX)
            .clamp(512, 64 * 1024);
        let plain: Box<dyn Read + 's> = match self.method {
            8 => Box::new(DeflateDecoder::new(BufReader::with_capacity(
                capacity, counted,
            ))),
            12 => Box::new(bzip2::bufread::BzDecoder::new(BufReader::with_capacity(
                capacity, counted,
            ))),
            93 => super::zstd_reader(BufReader::with_capacity(capacity, counted)),
            _ => Box::new(counted),
        };
        let inner = Expanding::new(plain, &intake.budget, Rc::clone(&count), &intake.limits);
        Checked {
            inner,
            crc: Crc::new(),
            length: 0,
            expected: self.crc,
        }
    }
}

/// Compares length and CRC-32 with what the directory says, at the end of the content.
pub(super) struct Checked<R> {
    inner: R,
    crc: Crc,
    length: u64,
    expected: Option<(u32, u64)>,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.crc.update(buf.get(..n).unwrap_or_default());
        self.length = self
            .length
            .saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
        match self.expected {
            Some(expected)
                if n == 0 && !buf.is_empty() && expected != (self.crc.sum(), self.length) =>
            {
                Err(Stop::Checksum.into())
            }
            Some((_, size)) if self.length > size => Err(Stop::Checksum.into()),
            _ => Ok(n),
        }
    }
}
