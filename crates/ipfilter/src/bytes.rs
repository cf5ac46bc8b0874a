//! The compiled form: a header, then sections. All numbers have their little end first.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `munjigiR` |
//! | 8..12 | version, 4 |
//! | 12..16 | 1: allow is asked first; 2: the default allows |
//! | 16..24 | length of the whole |
//! | 24..32 | checksum of all that follows |
//! | 32..36 | how many rules |
//! | 36..48 | 0 |
//! | 48..256 | the sections: offset and length, 8 bytes each; each begins at a multiple of 64 |

use std::fmt;
use std::ops::Range;

use crate::key::Key;
use crate::maker::Parts;

pub(crate) const MAGIC: &[u8; 8] = b"munjigiR";
pub(crate) const VERSION: u32 = 4;
const CHECKSUM_AT: usize = 24;
const CHECKED_AT: usize = 32;
const SECTIONS_AT: usize = 48;
pub(crate) const SECTIONS: usize = 13;
const HEADER: usize = padded(SECTIONS_AT + SECTIONS * 16);

pub(crate) const ALLOW_FIRST: u32 = 1;
pub(crate) const DEFAULT_ALLOWS: u32 = 2;

/// Two tables take sections 0 to 9; then come what lint found and the sources.
pub(crate) const IDLE: usize = 10;
pub(crate) const UNALIGNED: usize = 11;
pub(crate) const SOURCES: usize = 12;

/// Why bytes are no compiled rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadBytes {
    /// They do not begin like one.
    Magic,
    /// Another version made them.
    Version(u32),
    /// There are fewer or more of them than they say.
    Length,
    /// They were changed.
    Checksum,
    /// A part does not lie where it must, or points outside.
    Structure,
}

impl fmt::Display for BadBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => formatter.write_str("these bytes are no compiled rule set"),
            Self::Version(other) => write!(
                formatter,
                "this rule set was compiled as version {other}, version {VERSION} is known: compile it anew"
            ),
            Self::Length => formatter.write_str("the compiled rule set is cut"),
            Self::Checksum => formatter.write_str("the compiled rule set was changed"),
            Self::Structure => formatter.write_str("the compiled rule set is inconsistent"),
        }
    }
}

impl std::error::Error for BadBytes {}

/// What the header says.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) flags: u32,
    pub(crate) rules: u32,
    pub(crate) sections: [Range<usize>; SECTIONS],
}

/// Puts a compiled rule set together.
pub(crate) fn join(
    flags: u32,
    rules: u32,
    tables: [Parts; 2],
    [idle, unaligned, sources]: [Vec<u8>; 3],
) -> Vec<u8> {
    let mut sections: Vec<Vec<u8>> = Vec::with_capacity(SECTIONS);
    for parts in tables {
        sections.extend([
            parts.nodes,
            parts.records,
            parts.marks,
            parts.values,
            parts.slots,
        ]);
    }
    sections.extend([idle, unaligned, sources]);
    let total = HEADER
        + sections
            .iter()
            .map(|section| padded(section.len()))
            .sum::<usize>();
    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(MAGIC);
    for word in [VERSION, flags] {
        word.write(&mut bytes);
    }
    (total as u64).write(&mut bytes);
    0_u64.write(&mut bytes);
    rules.write(&mut bytes);
    bytes.resize(SECTIONS_AT, 0);
    let mut offset = HEADER;
    for section in &sections {
        (offset as u64).write(&mut bytes);
        (section.len() as u64).write(&mut bytes);
        offset += padded(section.len());
    }
    bytes.resize(HEADER, 0);
    for section in sections {
        bytes.extend_from_slice(&section);
        bytes.resize(padded(bytes.len()), 0);
    }
    seal(&mut bytes);
    bytes
}

/// Writes the checksum. Tests change bytes, and then want more than to be told so.
pub fn seal(bytes: &mut [u8]) {
    let sum = bytes.get(CHECKED_AT..).map_or(0, checksum);
    if let Some(slot) = bytes.get_mut(CHECKSUM_AT..CHECKED_AT) {
        slot.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Records of a table must not cross lines of the cache.
const fn padded(length: usize) -> usize {
    length.next_multiple_of(64)
}

/// Reads and checks the header.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, BadBytes> {
    let word = |at: usize| bytes.get(at..).map_or(0, u32::read);
    let long = |at: usize| bytes.get(at..).map_or(0, u64::read);
    if bytes.get(..8) != Some(MAGIC.as_slice()) {
        return Err(BadBytes::Magic);
    }
    if bytes.len() < HEADER {
        return Err(BadBytes::Length);
    }
    if word(8) != VERSION {
        return Err(BadBytes::Version(word(8)));
    }
    if long(16) != bytes.len() as u64 {
        return Err(BadBytes::Length);
    }
    if bytes.get(CHECKED_AT..).map(checksum) != Some(long(CHECKSUM_AT)) {
        return Err(BadBytes::Checksum);
    }
    let mut sections: [Range<usize>; SECTIONS] = std::array::from_fn(|_| 0..0);
    for (place, section) in sections.iter_mut().enumerate() {
        let at = SECTIONS_AT + place * 16;
        let start = usize::try_from(long(at)).map_err(|_| BadBytes::Structure)?;
        let length = usize::try_from(long(at + 8)).map_err(|_| BadBytes::Structure)?;
        let end = start.checked_add(length).ok_or(BadBytes::Structure)?;
        if start < HEADER || end > bytes.len() {
            return Err(BadBytes::Structure);
        }
        *section = start..end;
    }
    Ok(Header {
        flags: word(12),
        rules: word(32),
        sections,
    })
}

/// Finds accidents, not forgers: words multiplied and mixed (four chains, so that a million rules
/// take a few milliseconds).
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(PRIME).rotate_left(29);
    let mut sums = [1_u64, 2, 3, 4];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (sum, word) in sums.iter_mut().zip(block.chunks_exact(8)) {
            *sum = mix(*sum, u64::read(word));
        }
    }
    let mut sum = bytes.len() as u64;
    for part in sums {
        sum = mix(sum, part);
    }
    for byte in blocks.remainder() {
        sum = mix(sum, u64::from(*byte));
    }
    sum ^ sum >> 32
}
