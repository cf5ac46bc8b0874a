//! The table of verdicts: the address space in blocks of equal size, most of them decided by one
//! read.
//!
//! A node has the blocks between its first and its last border. 384 blocks share a record of 64
//! bytes, one line of the cache: a bit for each block, the background (the value of the blocks whose
//! bit is 0), and where the slots of the others are. The block's rank among the bits that are 1 is
//! its slot; counts of the earlier words are kept. So an address of a block that no border cuts, by
//! far the most frequent case, takes one read; there is nothing to search.
//!
//! Reading a slot waits for the memory, and most addresses of such a block are not what its slot says.
//! So a slot has a mark, a byte with up to six bits of its addresses: those behind their block's that
//! they have in common. An address with other ones has the background. Or one value holds for the whole
//! block, and the mark says which of its record's values. A byte is near more often than a slot is, and
//! so are these values, one for each run of blocks.
//!
//! A slot has a value and a key, and says one of three things:
//!
//! - the value holds for 2^n addresses from the key on (or up to the end), the background elsewhere;
//! - a short list of such entries, sorted, decides: the last one up to the address;
//! - a node of its own has what is inside, where rules come in clusters.
//!
//! The bits above a block are known when its slot is read, and those below the narrowest rule say
//! nothing: a key stores what is between, in whole bytes.
//!
//! | part | holds |
//! |---|---|
//! | nodes | 48 bytes each: see [`Node`]; the first one is the root |
//! | records | the number of the first slot (4 bytes), the background (4), how many slots earlier words have (9 bits for each of six), six words of bits |
//! | marks | of each slot of the root: a 0, up to six bits, a 1, zeros; or a 1 and the number of a value. None in a dense root |
//! | values | for each record of the root, where its values begin (4 bytes), counted in values; then these (4 bytes each). None in a dense root |
//! | slots | a value (4 bytes), then the key. The low seven bits of a value say what it is |

use std::hint::select_unpredictable;
use std::ops::Range;

use crate::key::Key;
use crate::sweep::{TAG_MASK, Tag};

/// The low seven bits of a slot's value: how many addresses it covers, as a power of two of the
/// narrowest rule; or one of the following.
pub(crate) const CODE: u32 = 0x7f;
/// A list follows: how many entries in eight bits, then the distance from the record's first slot.
pub(crate) const LIST: u32 = 125;
/// The node with the number that stands above the low seven bits.
pub(crate) const INNER: u32 = 126;

/// Bits of a mark.
const MARK_BITS: u32 = 6;
/// A mark without bits: the slot is asked.
pub(crate) const ASK: u8 = 1 << MARK_BITS;
/// Of a mark: the rest is the number of the value that the whole block has.
pub(crate) const WHOLE: u8 = 0x80;

/// How many bits of an address stand below its mark, where `bits` stand below its block.
pub(crate) fn cell(bits: u32) -> u32 {
    bits.saturating_sub(MARK_BITS)
}

/// The bits of one address, as high as they stand in a mark.
#[inline]
pub(crate) fn mark<K: Key>(key: K, cell: u32) -> u8 {
    key.shifted(cell).low() << 1 & !WHOLE
}

/// The 1 that ends the bits of a mark, with what stands below it.
#[inline]
pub(crate) fn below(end: u8) -> u8 {
    end | end.wrapping_sub(1)
}

/// More than any table needs: each node below another has smaller blocks.
const DEPTH_MAX: usize = 128;
pub(crate) const NODE_BYTES: usize = 48;
pub(crate) const RECORD_BYTES: usize = 64;
/// Blocks of a record.
pub(crate) const GROUP: u32 = 384;
/// Words of a record's map.
pub(crate) const WORDS: usize = 6;
/// Bits of one count in a record.
pub(crate) const COUNT_BITS: usize = 9;
/// A mark.
pub(crate) const MARK_BYTES: usize = 1;
/// The value of a slot.
pub(crate) const VALUE_BYTES: usize = 4;

/// Where the parts of a table stand in the bytes of a rule set, and its root.
#[derive(Debug, Clone)]
pub(crate) struct Table<K> {
    /// Of the first bits of an address ([`Key::head`]): its block.
    shift: u32,
    first: u64,
    blocks: u64,
    records: usize,
    marks: Range<usize>,
    values: usize,
    /// Bits below a mark.
    cell: u32,
    slots: usize,
    stride: usize,
    drop: u32,
    mask: K,
    /// Many blocks have slots: no branch foresees which.
    is_dense: bool,
    root: Node<K>,
    nodes: Range<usize>,
}

/// The blocks between two borders.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Node<K> {
    /// Where the first block begins.
    pub(crate) base: K,
    /// How many bits of an address stand below its block.
    pub(crate) bits: u32,
    /// How many blocks there are; in a root that is 0 when one value holds for all addresses.
    pub(crate) blocks: u32,
    /// What holds before the first block, and after the last one.
    pub(crate) below: Tag,
    pub(crate) above: Tag,
    /// The number of its first record.
    pub(crate) record: u32,
    /// Of the root, for all slots: bits that keys leave out at their low end; how many they have.
    pub(crate) drop: u32,
    pub(crate) width: u32,
    /// Of the root: 1 when many blocks have slots.
    pub(crate) dense: u32,
}

/// What is known of [`GROUP`] blocks.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    bytes: &'a [u8; RECORD_BYTES],
    /// Which of its blocks is asked about.
    place: u32,
}

impl Record<'_> {
    #[inline(always)]
    fn word(&self) -> u64 {
        let (words, _) = self.bytes.as_chunks::<8>();
        let word = words.get(2 + self.place as usize / 64);
        word.map_or(0, |word| u64::from_le_bytes(*word))
    }

    #[inline(always)]
    fn has_slot(&self) -> bool {
        self.word().wrapping_shr(self.place % 64) & 1 != 0
    }

    #[inline(always)]
    fn background(&self) -> Tag {
        self.bytes.get(4..).map_or(0, u32::read)
    }

    #[inline]
    fn first_slot(&self) -> usize {
        u32::read(self.bytes) as usize
    }

    /// The number of the block's slot.
    #[inline(always)]
    fn slot(&self) -> usize {
        let counts = self.bytes.get(8..).map_or(0, u64::read);
        let earlier = counts >> (COUNT_BITS * (self.place as usize / 64)) & ((1 << COUNT_BITS) - 1);
        let own = self.word() & !u64::MAX.wrapping_shl(self.place % 64);
        self.first_slot() + earlier as usize + own.count_ones() as usize
    }
}

/// Whether a slot with this mark may have an entry for `key`.
#[inline]
fn is_marked<K: Key>(own: u8, key: K, cell: u32) -> bool {
    let end = own & own.wrapping_neg();
    (own ^ mark(key, cell)) & !below(end) == 0
}

impl<K: Key> Node<K> {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (base, rest) = bytes.split_at_checked(16)?;
        let (words, _) = rest.first_chunk::<32>()?.as_chunks::<4>();
        let word = |at: usize| words.get(at).map_or(0, |word| u32::from_le_bytes(*word));
        Some(Self {
            base: K::read(base),
            bits: word(0),
            blocks: word(1),
            below: word(2),
            above: word(3),
            record: word(4),
            drop: word(5),
            width: word(6),
            dense: word(7),
        })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(NODE_BYTES);
        self.base.wide().write(&mut bytes);
        for word in [
            self.bits,
            self.blocks,
            self.below,
            self.above,
            self.record,
            self.drop,
            self.width,
            self.dense,
        ] {
            word.write(&mut bytes);
        }
        bytes
    }

    /// The block of an address, or what holds outside of all blocks.
    fn block(&self, key: K) -> Result<u64, Tag> {
        if key < self.base {
            return Err(self.below);
        }
        let block = key.minus(self.base).shifted(self.bits).wide();
        match u64::try_from(block) {
            Ok(block) if block < u64::from(self.blocks) => Ok(block),
            _ => Err(self.above),
        }
    }
}

impl<K: Key> Table<K> {
    /// The table that stands at these places of `data`. Checks all that a look-up relies on: that
    /// no shift is too far. Reads are within `data` whatever it holds.
    pub(crate) fn open(
        data: &[u8],
        [nodes, records, marks, values, slots]: [Range<usize>; 5],
    ) -> Option<Self> {
        let (all, _) = data.get(nodes.clone())?.as_chunks::<NODE_BYTES>();
        let root = Node::<K>::read(all.first()?)?;
        for node in all {
            let node = Node::<K>::read(node)?;
            if node.bits >= K::BITS {
                return None;
            }
        }
        let shift = root.bits.checked_sub(K::TAIL)?;
        if root.drop >= K::BITS || root.width >= K::BITS {
            return None;
        }
        Some(Self {
            shift,
            first: root.base.head().wrapping_shr(shift),
            blocks: root.blocks.into(),
            records: records.start,
            marks,
            values: values.start,
            cell: cell(root.bits),
            slots: slots.start,
            stride: VALUE_BYTES + root.width.div_ceil(8) as usize,
            drop: root.drop,
            mask: K::narrow((1 << root.width) - 1),
            is_dense: root.dense != 0,
            root,
            nodes,
        })
    }

    /// What decides on `key`.
    ///
    /// Few instructions, few stores, and no branch that is hard to foresee: so the processor is at
    /// work on many look-ups while each waits for the memory. What is rare is not inlined.
    #[inline(always)]
    pub(crate) fn find(&self, data: &[u8], key: K) -> Tag {
        let block = key.head().wrapping_shr(self.shift).wrapping_sub(self.first);
        if block >= self.blocks {
            return self.outside(key);
        }
        if !self.is_dense
            && let Some(record) = self.record(data, 0, block)
            && !record.has_slot()
        {
            return record.background();
        }
        self.inside(data, key, block).unwrap_or(0)
    }

    #[inline(never)]
    fn outside(&self, key: K) -> Tag {
        if key < self.root.base {
            self.root.below
        } else {
            self.root.above
        }
    }

    /// In the slot of a block, if it has one.
    #[inline(never)]
    fn inside(&self, data: &[u8], key: K, block: u64) -> Option<Tag> {
        let record = self.record(data, 0, block)?;
        let place = record.slot();
        if !self.is_dense {
            let mark = self.mark(data, place);
            if mark & WHOLE != 0 {
                return self.value(data, block, mark);
            }
            if !is_marked(mark, key, self.cell) {
                return Some(record.background());
            }
        }
        let has_slot = record.has_slot();
        let (value, own) = self.slot(data, place)?;
        if has_slot & (value & CODE >= LIST) {
            return self.search(data, key, block);
        }
        let covers = has_slot & self.covers(value, own, key);
        let background = record.background();
        Some(select_unpredictable(covers, value & TAG_MASK, background))
    }

    /// The record of a block of the node whose first record is `first`.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a node has fewer than 2^32 blocks"
    )]
    fn record<'a>(&self, data: &'a [u8], first: u32, block: u64) -> Option<Record<'a>> {
        let number = u64::from(first) + block / u64::from(GROUP);
        let at = self.records.wrapping_add(number as usize * RECORD_BYTES);
        Some(Record {
            bytes: data.get(at..)?.first_chunk()?,
            place: (block % u64::from(GROUP)) as u32,
        })
    }

    #[inline]
    fn mark(&self, data: &[u8], place: usize) -> u8 {
        let marks = data.get(self.marks.clone()).unwrap_or_default();
        marks.get(place).map_or(ASK, |own| *own)
    }

    /// The value of a whole block, which `mark` names.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a node has fewer than 2^32 blocks"
    )]
    fn value(&self, data: &[u8], block: u64, mark: u8) -> Option<Tag> {
        let word = |at: usize| {
            data.get(self.values.wrapping_add(at * VALUE_BYTES)..)
                .map(u32::read)
        };
        let first = word((block / u64::from(GROUP)) as usize)?;
        word(first as usize + usize::from(mark & !WHOLE))
    }

    #[inline]
    fn slot(&self, data: &[u8], place: usize) -> Option<(u32, K)> {
        K::slot(data.get(self.slots.wrapping_add(place.wrapping_mul(self.stride))..)?)
    }

    /// Whether `key` is among the addresses of an entry.
    #[inline]
    fn covers(&self, value: u32, own: K, key: K) -> bool {
        let key = key.shifted(self.drop).masked(self.mask);
        key.minus(own.masked(self.mask)).is_below(value & CODE)
    }

    /// In lists and inner nodes.
    #[inline(never)]
    fn search(&self, data: &[u8], key: K, block: u64) -> Option<Tag> {
        let (mut first, mut block) = (0, block);
        for _ in 0..DEPTH_MAX {
            let record = self.record(data, first, block)?;
            if !record.has_slot() {
                return Some(record.background());
            }
            let (value, own) = self.slot(data, record.slot())?;
            match value & CODE {
                LIST => return self.search_list(data, key, record, value),
                INNER => {}
                _ if self.covers(value, own, key) => return Some(value & TAG_MASK),
                _ => return Some(record.background()),
            }
            let at = (value >> 7) as usize * NODE_BYTES + self.nodes.start;
            let node = Node::<K>::read(data.get(at..)?)?;
            match node.block(key) {
                Ok(inner) => (first, block) = (node.record, inner),
                Err(tag) => return Some(tag),
            }
        }
        None
    }

    /// The last entry up to `key` decides, if it reaches so far.
    fn search_list(&self, data: &[u8], key: K, record: Record<'_>, value: u32) -> Option<Tag> {
        let first = record.first_slot() + (value >> 15) as usize;
        let short = key.shifted(self.drop).masked(self.mask);
        let mut found = record.background();
        for place in first..first + (value >> 7 & 0xff) as usize {
            let (value, own) = self.slot(data, place)?;
            if own.masked(self.mask) > short {
                break;
            }
            found = if self.covers(value, own, key) {
                value & TAG_MASK
            } else {
                record.background()
            };
        }
        Some(found)
    }
}
