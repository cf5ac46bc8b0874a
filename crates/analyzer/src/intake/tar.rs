//! Tar, read as a stream: ustar, GNU long names, pax paths and sizes (POSIX.1-2024, `pax`, "ustar Interchange Format").

use std::io::{self, Read};
use std::rc::Rc;

use super::limits::{Budget, read_full, stop_of, why};
use super::name::{self, EntryPath, NAME_BYTES_MAX};
use super::{Ended, Halt, Intake, RowStatus};

const BLOCK: u64 = 512;
/// Extended headers are names and numbers; a larger one is an attack on memory.
const EXTENDED_BYTES_MAX: u64 = 64 * 1024;

/// Whether a block is a tar header: its checksum fits (the field itself counted as spaces).
pub(super) fn is_header(block: &[u8]) -> bool {
    let Some(stored) = block.get(148..156).and_then(octal) else {
        return false;
    };
    let Some(block) = block.get(..512) else {
        return false;
    };
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| {
            if (148..156).contains(&i) {
                32
            } else {
                u64::from(*b)
            }
        })
        .sum();
    sum == stored
}

/// A number field: octal digits, or base 256 when the first bit is set (GNU).
fn octal(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        return rest.iter().try_fold(u64::from(first & 0x7f), |n, b| {
            n.checked_mul(256)?.checked_add(u64::from(*b))
        });
    }
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .filter(|b| !matches!(b, b' ' | 0))
        .collect();
    digits.iter().try_fold(0_u64, |n, b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// A field of text, up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// What extended headers say of the next entry.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Extended {
    /// Reads pax records: `LENGTH KEY=VALUE\n`, the length counting itself.
    fn read_pax(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|b| *b == b' ') {
            let length = records
                .get(..space)
                .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
            let Some(record) = length.and_then(|length| records.get(space + 1..length)) else {
                return;
            };
            records = length
                .and_then(|length| records.get(length..))
                .unwrap_or_default();
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            let Some(equals) = record.iter().position(|b| *b == b'=') else {
                continue;
            };
            let (key, value) = (
                record.get(..equals).unwrap_or_default(),
                record.get(equals + 1..).unwrap_or_default(),
            );
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"size" => {
                    self.size = std::str::from_utf8(value)
                        .ok()
                        .and_then(|digits| digits.parse().ok());
                }
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
    }
}

/// One header, with what extended headers added.
#[derive(Debug)]
struct Header {
    name: Vec<u8>,
    size: u64,
    kind: u8,
    sparse: bool,
}

impl Header {
    fn read(block: &[u8], extended: Extended) -> Option<Self> {
        let kind = *block.get(156)?;
        let size = octal(block.get(124..136)?)?;
        let name = extended.name.unwrap_or_else(|| {
            let base = text(block.get(..100).unwrap_or_default());
            let prefix = text(block.get(345..500).unwrap_or_default());
            if block.get(257..262) == Some(b"ustar")
                && block.get(262) == Some(&0)
                && !prefix.is_empty()
            {
                [prefix, b"/", base].concat()
            } else {
                base.to_vec()
            }
        });
        Some(Self {
            name,
            size: extended.size.unwrap_or(size),
            kind,
            sparse: extended.sparse || kind == b'S',
        })
    }

    fn is_folder(&self) -> bool {
        self.kind == b'5' || (matches!(self.kind, b'0' | 0) && self.name.ends_with(b"/"))
    }

    /// Why the entry is no file with content.
    fn refused(&self) -> Option<&'static str> {
        match self.kind {
            b'1' => Some("hard link"),
            b'2' => Some("symbolic link"),
            b'3' | b'4' => Some("device"),
            b'6' => Some("fifo"),
            _ if self.sparse => Some("sparse file"),
            b'0' | 0 | b'7' => None,
            _ => Some("unknown kind of tar entry"),
        }
    }

    /// Bytes that follow the header: links and devices have none, whatever their size says.
    fn stored(&self) -> u64 {
        if matches!(self.kind, b'1'..=b'6') {
            0
        } else {
            self.size
        }
    }
}

/// Reads every entry of `reader`.
pub(super) fn read(
    intake: &mut Intake<'_>,
    archive: &EntryPath,
    reader: &mut dyn Read,
    depth: u32,
) -> Result<Ended, Halt> {
    let mut left_out: u64 = 0;
    let ended = loop {
        let header = match next_header(reader) {
            Ok(Some(header)) => header,
            Ok(None) => break Ended::Whole,
            Err(error) => break Ended::of(&error)?,
        };
        let mut content = Content {
            left: header.stored(),
            padding: padding(header.stored()),
            budget: Rc::clone(&intake.budget),
            inner: &mut *reader,
        };
        if !intake.budget.entry() {
            left_out += u64::from(!header.is_folder());
        } else if !header.is_folder() {
            entry(intake, archive, &header, &mut content, depth)?;
        }
        if let Err(error) = content.finish() {
            break Ended::of(&error)?;
        }
    };
    intake.left_out(archive, left_out, &intake.entries_reason())?;
    Ok(ended)
}

fn entry(
    intake: &mut Intake<'_>,
    archive: &EntryPath,
    header: &Header,
    content: &mut Content<'_>,
    depth: u32,
) -> Result<(), Halt> {
    let name = match name::clean(&header.name) {
        Ok(name) => name,
        Err(reason) => {
            return intake.row(
                &archive.member(name::shown(&header.name)),
                RowStatus::Skipped,
                reason,
            );
        }
    };
    let path = archive.member(&name);
    if let Some(reason) = header.refused() {
        return intake.row(&path, RowStatus::Skipped, reason);
    }
    if !intake.first_of(&path) {
        return intake.row(&path, RowStatus::Skipped, super::DUPLICATE);
    }
    intake.member(&path, Some(header.size), content, depth)
}

/// The next entry's header, extended headers folded in; `None` at the end.
fn next_header(reader: &mut dyn Read) -> io::Result<Option<Header>> {
    let mut extended = Extended::default();
    loop {
        let mut block = [0_u8; 512];
        match read_full(reader, &mut block)? {
            0 => return Ok(None),
            512 => {}
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if !is_header(&block) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no tar header where one should be",
            ));
        }
        let kind = block.get(156).copied().unwrap_or_default();
        if !matches!(kind, b'L' | b'K' | b'x' | b'g') {
            let header = Header::read(&block, extended);
            return header
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "bad tar header"));
        }
        let size = block.get(124..136).and_then(octal).unwrap_or(u64::MAX);
        if size > EXTENDED_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "extended tar header larger than 64 KiB",
            ));
        }
        let mut data = Vec::new();
        let stored = size.next_multiple_of(BLOCK);
        Read::take(&mut *reader, stored).read_to_end(&mut data)?;
        if u64::try_from(data.len()) != Ok(stored) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        data.truncate(usize::try_from(size).unwrap_or(0));
        match kind {
            b'x' => extended.read_pax(&data),
            b'L' => {
                extended.name = Some(
                    text(&data)
                        .iter()
                        .copied()
                        .take(NAME_BYTES_MAX + 1)
                        .collect(),
                );
            }
            _ => {}
        }
    }
}

fn padding(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK)
        .map_or(0, |padded| padded - size)
}

/// The content of one entry; [`Content::finish`] skips what was not read.
struct Content<'r> {
    left: u64,
    padding: u64,
    budget: Rc<Budget>,
    inner: &'r mut dyn Read,
}

impl Content<'_> {
    fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        let skipped = io::copy(&mut self.inner.take(self.padding), &mut io::sink())?;
        if skipped == self.padding {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let Some(part) = buf.get_mut(..most).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        self.budget.check_cancelled()?;
        let n = self.inner.read(part)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self
            .left
            .saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
        Ok(n)
    }
}

impl Ended {
    /// How an archive ended whose stream failed; a cancelled scan ends as a whole.
    pub(super) fn of(error: &io::Error) -> Result<Self, Halt> {
        match stop_of(error) {
            Some(super::limits::Stop::Cancelled) => Err(Halt::Cancelled),
            _ => Ok(Self::Early(why(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_fields_are_octal_or_base_256() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   17 \0", Some(0o17)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"99", None),
        ] {
            assert_eq!(octal(field), expected, "{field:?}");
        }
    }

    #[test]
    fn pax_records_with_wrong_lengths_are_ignored() {
        let mut extended = Extended::default();
        extended.read_pax(b"12 path=a/b\n11 size=77\n");
        assert_eq!(
            (extended.name.as_deref(), extended.size),
            (Some(&b"a/b"[..]), Some(77))
        );
        for bad in [
            &b"999 path=x\n"[..],
            b"0 path=x\n",
            b" =\n",
            b"1 path=x\n",
            b"x y=z\n",
        ] {
            let mut extended = Extended::default();
            extended.read_pax(bad);
            assert_eq!(extended.name, None, "{bad:?}");
        }
    }
}
