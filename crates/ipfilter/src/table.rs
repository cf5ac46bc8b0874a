//! The table of verdicts: pieces of the address space, found in one or two steps.
//!
//! A node spreads the addresses between its first and its last border evenly over buckets of about
//! four entries; an address reaches its bucket by one multiplication. A bucket that is still
//! crowded (rules come in clusters) is a node of its own. So the cost of a look-up depends on how
//! rules are spread, hardly on their number.
//!
//! A bucket has a background, the value of all addresses that no entry covers, and entries. An
//! entry covers 2^n addresses from its key on, or all up to the next entry. So a rule that
//! stands alone takes one entry, though it has two borders, and one with many exceptions takes no
//! more.
//!
//! Everything is read from bytes, within bounds.

use std::ops::Range;

use crate::key::Key;
use crate::sweep::{TAG_MASK, Tag};

/// The low seven bits of an entry's value: how many addresses it covers, as a power of two.
const CODE: u32 = 0x7f;
/// It covers all up to the next entry.
const OPEN: u32 = 127;
/// In a bucket's background: the bucket is the node that stands where a line would.
const INNER: u32 = 126;
/// Powers above take an open entry.
const POWER_MAX: u32 = 100;

/// Entries looked at in one go, without a branch.
const LANES: usize = 8;
/// Entries that a bucket should have.
const PER_BUCKET: usize = 4;
/// Entries above which a bucket becomes a node.
const CROWDED: usize = 12;
/// Nodes on the way to a bucket. Below, a crowded bucket is searched by halves.
const DEPTH_MAX: usize = 8;
const BUCKETS_MAX: usize = 1 << 26;

const NODE_BYTES: usize = 40;
const BUCKET_BYTES: usize = 8;

/// Where the parts of a table stand in the bytes of a rule set.
#[derive(Debug, Clone)]
pub(crate) struct Table<K> {
    nodes: Range<usize>,
    buckets: Range<usize>,
    entries: Range<usize>,
    /// `None` where one value holds for all addresses.
    root: Option<Node<K>>,
    constant: Tag,
}

/// A table in the making.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) nodes: Vec<u8>,
    pub(crate) buckets: Vec<u8>,
    pub(crate) entries: Vec<u8>,
    pub(crate) constant: Tag,
}

#[derive(Debug, Clone, Copy)]
struct Node<K> {
    base: K,
    /// Buckets for each 2^shift addresses, times 2^32.
    scale: u64,
    /// The last border, in steps of 2^shift from `base`.
    top: u32,
    shift: u32,
    /// The value below `base`.
    below: Tag,
    /// Its first bucket.
    buckets: u32,
}

impl<K: Key> Node<K> {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (base, rest) = bytes.split_at_checked(16)?;
        let (scale, rest) = rest.split_at_checked(8)?;
        let (top, rest) = rest.split_at_checked(4)?;
        let (shift, rest) = rest.split_at_checked(4)?;
        let (below, buckets) = rest.split_at_checked(4)?;
        Some(Self {
            base: K::read(base),
            scale: u64::read(scale),
            top: u32::read(top),
            shift: u32::read(shift),
            below: u32::read(below),
            buckets: u32::read(buckets),
        })
    }

    fn write(self, slot: &mut [u8]) {
        let mut bytes = Vec::with_capacity(NODE_BYTES);
        self.base.wide().write(&mut bytes);
        self.scale.write(&mut bytes);
        for word in [self.top, self.shift, self.below, self.buckets] {
            word.write(&mut bytes);
        }
        slot.copy_from_slice(&bytes);
    }

    /// The place of the bucket of an address at or above `base`, among the node's own.
    #[inline]
    fn bucket_of(&self, key: K) -> u32 {
        self.bucket_of_step(key.minus(self.base).shifted(self.shift, self.top))
    }

    #[inline]
    fn bucket_of_step(&self, step: u32) -> u32 {
        let place = u64::from(step).wrapping_mul(self.scale) >> 32;
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// The first address of bucket `place`.
    fn start_of(&self, place: u32) -> K {
        let step = (u64::from(place) << 32).div_ceil(self.scale);
        K::narrow(self.base.wide() + (u128::from(step) << self.shift))
    }

    /// A node over `borders` with `buckets` buckets, at least one.
    fn spread(borders: &[(K, Tag)], below: Tag, buckets: usize) -> Self {
        let base = borders.first().map_or_else(K::default, |border| border.0);
        let last = borders.last().map_or(base, |border| border.0);
        let span = last.minus(base).wide();
        let shift = (128 - span.leading_zeros()).saturating_sub(32);
        let top = u32::try_from(span >> shift).unwrap_or(u32::MAX);
        let steps = u64::from(top) + 1;
        let buckets = (buckets.min(BUCKETS_MAX) as u64).clamp(1, steps);
        Self {
            base,
            scale: (buckets << 32) / steps,
            top,
            shift,
            below,
            buckets: 0,
        }
    }
}

/// A bucket: where its entries begin and end, and its background.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    first: usize,
    end: usize,
    background: u32,
}

impl Bucket {
    /// Reads it together with the next one, whose entries begin where its own end.
    #[inline]
    fn read(buckets: &[u8], place: usize) -> Option<Self> {
        let bytes = buckets.get(place.checked_mul(BUCKET_BYTES)?..)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes.first_chunk::<12>()?;
        Some(Self {
            first: u32::from_le_bytes([a, b, c, d]) as usize,
            background: u32::from_le_bytes([e, f, g, h]),
            end: u32::from_le_bytes([i, j, k, l]) as usize,
        })
    }

    fn write(slot: &mut [u8], first: usize, background: u32) {
        let mut bytes = Vec::with_capacity(BUCKET_BYTES);
        u32::try_from(first).unwrap_or(u32::MAX).write(&mut bytes);
        background.write(&mut bytes);
        slot.copy_from_slice(&bytes);
    }
}

impl<K: Key> Table<K> {
    /// The table that stands at these places of `data`. Checks all that a look-up relies on.
    pub(crate) fn open(
        data: &[u8],
        [nodes, buckets, entries]: [Range<usize>; 3],
        constant: Tag,
    ) -> Option<Self> {
        let root = data.get(nodes.clone())?.get(..NODE_BYTES);
        let table = Self {
            root: root.and_then(Node::read),
            nodes,
            buckets,
            entries,
            constant,
        };
        table.is_sound(data)?.then_some(table)
    }

    /// What decides on `key`.
    #[inline]
    pub(crate) fn find(&self, data: &[u8], key: K) -> Tag {
        let Some(root) = &self.root else {
            return self.constant;
        };
        self.find_below(data, root, key).unwrap_or(0)
    }

    #[inline]
    fn find_below(&self, data: &[u8], root: &Node<K>, key: K) -> Option<Tag> {
        let buckets = data.get(self.buckets.clone())?;
        let mut node = *root;
        for _ in 0..=DEPTH_MAX {
            if key < node.base {
                return Some(node.below);
            }
            let place = node.buckets as usize + node.bucket_of(key) as usize;
            let bucket = Bucket::read(buckets, place)?;
            if bucket.background & CODE != INNER {
                let entries = data.get(self.entries.clone())?;
                return Self::find_in(entries, bucket, key);
            }
            let inner = (bucket.background >> 8) as usize * NODE_BYTES;
            node = Node::read(
                data.get(self.nodes.clone())?
                    .get(inner..inner + NODE_BYTES)?,
            )?;
        }
        None
    }

    /// The last entry at or before `key` decides, if it reaches so far. Entries of later buckets
    /// have larger keys, so that a fixed number can be looked at.
    #[inline]
    fn find_in(entries: &[u8], bucket: Bucket, key: K) -> Option<Tag> {
        let own = bucket.end.checked_sub(bucket.first)?;
        let from = bucket.first.checked_mul(K::ENTRY)?;
        let lanes = entries.get(from..from.checked_add(LANES * K::ENTRY)?)?;
        let mut before = 0;
        for entry in lanes.chunks_exact(K::ENTRY) {
            before += usize::from(K::read(entry) <= key);
        }
        let before = if before == LANES && own > LANES {
            Self::count_before(entries, bucket, key)?
        } else {
            before.min(own)
        };
        if before == 0 {
            return Some(bucket.background);
        }
        let last = from + (before - 1) * K::ENTRY;
        let entry = entries.get(last..last + K::ENTRY)?;
        let value = u32::read(entry.get(K::BYTES..)?);
        let code = value & CODE;
        let inside = code == OPEN || key.minus(K::read(entry)).is_below(code);
        Some(if inside {
            value & TAG_MASK
        } else {
            bucket.background
        })
    }

    #[cold]
    fn count_before(entries: &[u8], bucket: Bucket, key: K) -> Option<usize> {
        let (mut low, mut high) = (bucket.first, bucket.end);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = entries.get(middle * K::ENTRY..)?;
            if K::read(entry) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some(low - bucket.first)
    }

    /// `None` or `false` when something is out of place. What holds then: a look-up stays within
    /// the parts and ends.
    fn is_sound(&self, data: &[u8]) -> Option<bool> {
        let nodes = data.get(self.nodes.clone())?;
        let buckets = data.get(self.buckets.clone())?;
        let entries = data.get(self.entries.clone())?;
        let whole = nodes.len() % NODE_BYTES == 0
            && buckets.len() % BUCKET_BYTES == 0
            && entries.len() % K::ENTRY == 0;
        if self.root.is_none() {
            return Some(whole && buckets.is_empty() && entries.is_empty());
        }
        let count = (entries.len() / K::ENTRY).checked_sub(LANES)?;
        // Each bucket belongs to one node: this bounds the work on bytes that lie.
        let mut left = buckets.len() / BUCKET_BYTES;
        for (id, bytes) in nodes.chunks_exact(NODE_BYTES).enumerate() {
            let node = Node::<K>::read(bytes)?;
            let last = node.bucket_of_step(node.top);
            left = left.checked_sub(last as usize + 2)?;
            if node.scale > 1 << 32 || node.shift >= 128 {
                return Some(false);
            }
            for place in 0..=last {
                let place = node.buckets as usize + place as usize;
                let bucket = Bucket::read(buckets, place)?;
                let inner = bucket.background & CODE == INNER;
                let child = (bucket.background >> 8) as usize;
                if bucket.first > bucket.end
                    || bucket.end > count
                    || (inner && (child <= id || child >= nodes.len() / NODE_BYTES))
                {
                    return Some(false);
                }
            }
        }
        Some(whole)
    }
}

/// Makes the parts of a table.
#[derive(Debug, Default)]
pub(crate) struct Maker<K> {
    parts: Parts,
    leaf: Vec<(K, u32)>,
    local: Vec<(K, Tag)>,
}

impl<K: Key> Maker<K> {
    /// A table of `pieces`, the first one from address 0 on.
    pub(crate) fn make(pieces: &[(K, Tag)]) -> Parts {
        let mut maker = Self::default();
        match pieces {
            [] => {}
            [only] => maker.parts.constant = only.1,
            [first, borders @ ..] => {
                maker.node(first.1, borders, 0);
                // So that the last bucket too can be looked at in one go.
                for _ in 0..LANES {
                    K::MAX.write(&mut maker.parts.entries);
                    OPEN.write(&mut maker.parts.entries);
                }
            }
        }
        maker.parts
    }

    fn entries(&self) -> usize {
        self.parts.entries.len() / K::ENTRY
    }

    /// A node over `borders`, of which there is at least one; `below` holds before the first.
    /// Returns its number.
    fn node(&mut self, below: Tag, borders: &[(K, Tag)], depth: usize) -> u32 {
        let id = self.parts.nodes.len() / NODE_BYTES;
        self.parts.nodes.resize((id + 1) * NODE_BYTES, 0);
        let mut node = Node::spread(borders, below, wanted_buckets(below, borders));
        let start = self.parts.buckets.len() / BUCKET_BYTES;
        node.buckets = u32::try_from(start).unwrap_or(u32::MAX);
        let count = node.bucket_of_step(node.top) as usize + 1;
        // One more, which ends the entries of the last.
        let end = start + count + 1;
        self.parts.buckets.resize(end * BUCKET_BYTES, 0);
        if let Some(slot) = self.parts.nodes.get_mut(id * NODE_BYTES..) {
            node.write(slot);
        }
        let mut carried = below;
        let mut rest = borders;
        for place in 0..count {
            let number = u32::try_from(place).unwrap_or(u32::MAX);
            let own = rest
                .iter()
                .take_while(|border| node.bucket_of(border.0) == number)
                .count();
            let (own, later) = rest.split_at_checked(own).unwrap_or_default();
            rest = later;
            let first = self.entries();
            let background = self.bucket(node.start_of(number), carried, own, depth);
            self.set_bucket(start + place, first, background);
            carried = own.last().map_or(carried, |border| border.1);
        }
        self.set_bucket(start + count, self.entries(), 0);
        u32::try_from(id).unwrap_or(u32::MAX)
    }

    fn set_bucket(&mut self, place: usize, first: usize, background: u32) {
        let at = place * BUCKET_BYTES;
        if let Some(slot) = self.parts.buckets.get_mut(at..at + BUCKET_BYTES) {
            Bucket::write(slot, first, background);
        }
    }

    /// Writes the entries of a bucket that begins at `start`, where `carried` holds up to the
    /// first border; returns its background.
    fn bucket(&mut self, start: K, carried: Tag, borders: &[(K, Tag)], depth: usize) -> u32 {
        if borders.is_empty() {
            return carried;
        }
        self.local.clear();
        if borders.first().is_some_and(|border| border.0 > start) {
            self.local.push((start, carried));
        }
        self.local.extend_from_slice(borders);
        let background = background(&self.local);
        leaf(&self.local, background, &mut self.leaf);
        if self.leaf.len() > CROWDED && depth < DEPTH_MAX {
            return self.node(carried, borders, depth + 1) << 8 | INNER;
        }
        for (key, value) in &self.leaf {
            key.write(&mut self.parts.entries);
            value.write(&mut self.parts.entries);
        }
        background
    }
}

/// As many buckets as give each its few entries; fewer where most of them would be empty.
fn wanted_buckets<K: Key>(below: Tag, borders: &[(K, Tag)]) -> usize {
    let common = vote(below, borders);
    let others = borders.iter().filter(|border| border.1 != common).count();
    let many = others.div_ceil(PER_BUCKET).max(2);
    let node = Node::spread(borders, below, many);
    let (mut used, mut last) = (0_usize, None);
    for border in borders {
        let place = Some(node.bucket_of(border.0));
        used += usize::from(place != last);
        last = place;
    }
    if used < many / 4 {
        (used * 2).max(64).min(many)
    } else {
        many
    }
}

/// The value of more than half of the pieces, if there is one (Boyer and Moore's vote).
fn vote<K: Key>(below: Tag, borders: &[(K, Tag)]) -> Tag {
    let (mut candidate, mut votes) = (below, 1_usize);
    for (_, tag) in borders {
        if *tag == candidate {
            votes += 1;
        } else if votes == 0 {
            (candidate, votes) = (*tag, 1);
        } else {
            votes -= 1;
        }
    }
    candidate
}

/// The value that most pieces of a bucket have.
fn background<K: Key>(pieces: &[(K, Tag)]) -> Tag {
    if pieces.len() > 4 * CROWDED {
        return vote(0, pieces);
    }
    let count = |tag| pieces.iter().filter(|other| other.1 == tag).count();
    let (mut best, mut most) = (0, 0);
    for (_, tag) in pieces {
        let votes = count(*tag);
        if votes > most {
            (best, most) = (*tag, votes);
        }
    }
    best
}

/// The entries of `pieces` before `background`.
fn leaf<K: Key>(pieces: &[(K, Tag)], background: Tag, entries: &mut Vec<(K, u32)>) {
    entries.clear();
    let mut reaches_on = false;
    let ends = pieces.iter().skip(1).map(|next| Some(next.0));
    for ((start, tag), end) in pieces.iter().zip(ends.chain([None])) {
        let power = end.and_then(|end| power_of_two(end.minus(*start).wide()));
        if *tag != background {
            entries.push((*start, tag | power.unwrap_or(OPEN)));
            reaches_on = power.is_none();
        } else if reaches_on {
            entries.push((*start, tag | OPEN));
            reaches_on = false;
        }
    }
}

fn power_of_two(size: u128) -> Option<u32> {
    (size.is_power_of_two() && size.trailing_zeros() <= POWER_MAX).then(|| size.trailing_zeros())
}
