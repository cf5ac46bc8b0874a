//! The table of verdicts: pieces of the address space, found in one or two steps.
//!
//! A node spreads the addresses between its first and its last border evenly over buckets of about
//! three entries; an address reaches its bucket by one multiplication. A bucket that is still
//! crowded (rules come in clusters) is a node of its own. So the cost of a look-up depends on how
//! rules are spread, hardly on their number.
//!
//! A bucket has a background, the value of all addresses that no entry covers, and entries. An
//! entry covers 2^n addresses from its key on, or all up to the next entry. So a rule that
//! stands alone takes one entry, though it has two borders, and one with many exceptions takes no
//! more.
//!
//! Three parts, all read within bounds:
//!
//! | part | holds |
//! |---|---|
//! | nodes | 40 bytes each: see [`Node`]; the first one is the root |
//! | index | for each 32 buckets 68 bytes: a place in the words, and 32 distances from it, two bytes each. Small, so that it stays in a near cache |
//! | words | buckets: a head (the background, and how many entries in the low seven bits), then the entries, each a key and a value. Places count four bytes |

use std::hint::select_unpredictable;
use std::ops::Range;

use crate::key::{Key, LANES};
use crate::sweep::{TAG_MASK, Tag};

/// The low seven bits of an entry's value: how many addresses it covers, as a power of two. Those
/// of a bucket's head: how many entries it has.
const CODE: u32 = 0x7f;
/// Of an entry: it covers all up to the next one.
const OPEN: u32 = 127;
/// Of a head: the bucket is the node whose number stands where a line would.
const INNER: u32 = 126;
/// Of a head: two words follow, where its entries are and how many.
const LONG: u32 = 125;
/// Powers above take an open entry.
const POWER_MAX: u32 = 100;

/// Entries that a bucket should have.
const PER_BUCKET: usize = 3;
/// Entries above which a bucket becomes a node.
const CROWDED: usize = 12;
/// Nodes below the root on the way to a bucket. Below, a crowded bucket is searched by halves.
const DEPTH_MAX: usize = 8;
const BUCKETS_MAX: usize = 1 << 26;

const NODE_BYTES: usize = 40;
/// Buckets of one block of the index.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 4 + 2 * BLOCK;
const WORD: usize = 4;

/// Where the parts of a table stand in the bytes of a rule set.
#[derive(Debug, Clone)]
pub(crate) struct Table<K> {
    nodes: Range<usize>,
    index: Range<usize>,
    words: Range<usize>,
    /// `None` where one value holds for all addresses.
    root: Option<Node<K>>,
    constant: Tag,
}

/// A table in the making.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) nodes: Vec<u8>,
    pub(crate) index: Vec<u8>,
    pub(crate) words: Vec<u8>,
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
    /// The block of the index with its first bucket.
    block: u32,
}

impl<K: Key> Node<K> {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (base, rest) = bytes.split_at_checked(16)?;
        let (scale, rest) = rest.split_at_checked(8)?;
        let (top, rest) = rest.split_at_checked(4)?;
        let (shift, rest) = rest.split_at_checked(4)?;
        let (below, block) = rest.split_at_checked(4)?;
        Some(Self {
            base: K::read(base),
            scale: u64::read(scale),
            top: u32::read(top),
            shift: u32::read(shift),
            below: u32::read(below),
            block: u32::read(block),
        })
    }

    fn write(self, slot: &mut [u8]) {
        let mut bytes = Vec::with_capacity(NODE_BYTES);
        self.base.wide().write(&mut bytes);
        self.scale.write(&mut bytes);
        for word in [self.top, self.shift, self.below, self.block] {
            word.write(&mut bytes);
        }
        slot.copy_from_slice(&bytes);
    }

    /// The place of the bucket of an address at or above `base`, among the node's own.
    #[inline]
    fn bucket_of(&self, key: K) -> usize {
        self.bucket_of_step(key.minus(self.base).shifted(self.shift, self.top))
    }

    #[inline]
    fn bucket_of_step(&self, step: u32) -> usize {
        (u64::from(step).wrapping_mul(self.scale) >> 32) as usize
    }

    fn buckets(&self) -> usize {
        self.bucket_of_step(self.top) + 1
    }

    /// The first address of bucket `place`.
    fn start_of(&self, place: usize) -> K {
        let step = ((place as u64) << 32).div_ceil(self.scale);
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
            block: 0,
        }
    }
}

impl<K: Key> Table<K> {
    /// The table that stands at these places of `data`. Checks all that a look-up relies on.
    pub(crate) fn open(
        data: &[u8],
        [nodes, index, words]: [Range<usize>; 3],
        constant: Tag,
    ) -> Option<Self> {
        let root = data.get(nodes.clone())?.get(..NODE_BYTES);
        let table = Self {
            root: root.and_then(Node::read),
            nodes,
            index,
            words,
            constant,
        };
        table.is_sound(data)?.then_some(table)
    }

    /// What decides on `key`.
    ///
    /// The places were checked by [`Table::open`]; each read is within `data` all the same. There
    /// is hardly a branch on what was read, so that the next look-up need not wait for this one.
    #[inline]
    pub(crate) fn find(&self, data: &[u8], key: K) -> Tag {
        match &self.root {
            Some(root) if key >= root.base => self.find_below(data, root, key).unwrap_or(0),
            Some(root) => root.below,
            None => self.constant,
        }
    }

    #[inline]
    fn find_below(&self, data: &[u8], root: &Node<K>, key: K) -> Option<Tag> {
        let bucket = self.bucket(data, root, key)?;
        let (head, entries) = bucket.split_at_checked(WORD)?;
        let head = u32::read(head);
        let own = head & CODE;
        if own as usize > LANES {
            return self.find_slowly(data, bucket, key);
        }
        let before = K::seek(entries, own as usize, key)?;
        let entry = entries.get(before.saturating_sub(1) * K::ENTRY..)?;
        Self::decide(head, entry, before, key)
    }

    /// The bytes from the head of `key`'s bucket on.
    #[inline]
    fn bucket<'a>(&self, data: &'a [u8], node: &Node<K>, key: K) -> Option<&'a [u8]> {
        let place = node.bucket_of(key);
        let block = (node.block as usize + place / BLOCK) * BLOCK_BYTES;
        let block = data
            .get(self.index.start.wrapping_add(block)..)?
            .first_chunk::<BLOCK_BYTES>()?;
        let distance = block.get(WORD + place % BLOCK * 2..)?.first_chunk()?;
        let word = u32::read(block) as usize + usize::from(u16::from_le_bytes(*distance));
        data.get(self.words.start.wrapping_add(word * WORD)..)
    }

    /// The value of `entry`, the last of `before` entries up to `key`, if it reaches so far.
    #[inline]
    fn decide(head: u32, entry: &[u8], before: usize, key: K) -> Option<Tag> {
        let value = u32::read(entry.get(K::BYTES..)?);
        let code = value & CODE;
        let reaches = (code == OPEN) | key.minus(K::read(entry)).is_below(code);
        Some(select_unpredictable((before != 0) & reaches, value, head) & TAG_MASK)
    }

    /// Through inner nodes, and in buckets with many entries.
    #[inline(never)]
    fn find_slowly(&self, data: &[u8], bucket: &[u8], key: K) -> Option<Tag> {
        let mut bucket = bucket;
        for _ in 0..=DEPTH_MAX {
            let (start, entries) = bucket.split_at_checked(WORD)?;
            let head = u32::read(start);
            let (entries, own) = match head & CODE {
                INNER => {
                    let at = self.nodes.start + (head >> 8) as usize * NODE_BYTES;
                    let node = Node::read(data.get(at..)?)?;
                    if key < node.base {
                        return Some(node.below);
                    }
                    bucket = self.bucket(data, &node, key)?;
                    continue;
                }
                LONG => {
                    let (place, rest) = entries.split_at_checked(WORD)?;
                    let at = self.words.start + u32::read(place) as usize * WORD;
                    (data.get(at..)?, u32::read(rest) as usize)
                }
                own => (entries, own as usize),
            };
            let before = Self::count_before(entries, own, key)?;
            let entry = entries.get(before.saturating_sub(1) * K::ENTRY..)?;
            return Self::decide(head, entry, before, key);
        }
        None
    }

    fn count_before(entries: &[u8], own: usize, key: K) -> Option<usize> {
        let (mut low, mut high) = (0, own);
        while low < high {
            let middle = low + (high - low) / 2;
            if K::read(entries.get(middle.checked_mul(K::ENTRY)?..)?) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some(low)
    }

    /// `None` or `false` when something is out of place. What holds then: a look-up stays within
    /// the parts and ends.
    fn is_sound(&self, data: &[u8]) -> Option<bool> {
        let nodes = data.get(self.nodes.clone())?;
        let index = data.get(self.index.clone())?;
        let words = data.get(self.words.clone())?;
        let whole = nodes.len() % NODE_BYTES == 0
            && index.len() % BLOCK_BYTES == 0
            && words.len() % WORD == 0;
        if self.root.is_none() {
            return Some(whole && index.is_empty() && words.is_empty());
        }
        let count = nodes.len() / NODE_BYTES;
        // Each block belongs to one node: this bounds the work on bytes that lie.
        let mut left = index.len() / BLOCK_BYTES;
        for (number, bytes) in nodes.chunks_exact(NODE_BYTES).enumerate() {
            let node = Node::<K>::read(bytes)?;
            if node.scale > 1 << 32 || node.shift as usize >= K::BYTES * 8 {
                return Some(false);
            }
            left = left.checked_sub(node.buckets().div_ceil(BLOCK))?;
            for place in 0..node.buckets() {
                let (block, lane) = (node.block as usize + place / BLOCK, place % BLOCK);
                let block = index.get(block.checked_mul(BLOCK_BYTES)?..)?;
                let distance = u16::from_le_bytes(*block.get(WORD + lane * 2..)?.first_chunk()?);
                let word = u32::read(block) as usize + usize::from(distance);
                let bucket = words.get(word.checked_mul(WORD)?..)?;
                let head = u32::read(bucket);
                let fits = match head & CODE {
                    INNER => {
                        let child = (head >> 8) as usize;
                        number < child && child < count
                    }
                    LONG => {
                        let at = u32::read(bucket.get(WORD..)?) as usize * WORD;
                        let own = u32::read(bucket.get(2 * WORD..)?) as usize;
                        let end = own.checked_mul(K::ENTRY)?.checked_add(at)?;
                        own > 0 && bucket.len() >= 3 * WORD && end <= words.len()
                    }
                    own => {
                        let lanes = (LANES + 1).max(own as usize);
                        bucket.len() >= WORD + lanes * K::ENTRY
                    }
                };
                if !fits {
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
    /// Entries of long buckets, which stand behind all others, with the place of the bucket.
    long: Vec<(usize, Vec<(K, u32)>)>,
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
                maker.write_long();
                // So that the last bucket too can be read as if it were full.
                let words = &mut maker.parts.words;
                words.resize(words.len() + (LANES + 1) * K::ENTRY, 0);
            }
        }
        maker.parts
    }

    /// A node over `borders`, of which there is at least one; `below` holds before the first.
    /// Returns its number.
    fn node(&mut self, below: Tag, borders: &[(K, Tag)], depth: usize) -> u32 {
        let number = self.parts.nodes.len() / NODE_BYTES;
        self.parts.nodes.resize((number + 1) * NODE_BYTES, 0);
        let mut node = Node::spread(borders, below, wanted_buckets(below, borders));
        let index = self.parts.index.len();
        node.block = small(index / BLOCK_BYTES);
        let blocks = node.buckets().div_ceil(BLOCK);
        self.parts.index.resize(index + blocks * BLOCK_BYTES, 0);
        if let Some(slot) = self.parts.nodes.get_mut(number * NODE_BYTES..) {
            node.write(slot);
        }
        let mut carried = below;
        let mut rest = borders;
        let mut inner = Vec::new();
        let mut first = 0;
        for place in 0..node.buckets() {
            let own = rest
                .iter()
                .take_while(|border| node.bucket_of(border.0) == place)
                .count();
            let (own, later) = rest.split_at_checked(own).unwrap_or_default();
            rest = later;
            let word = self.parts.words.len() / WORD;
            if place % BLOCK == 0 {
                first = word;
            }
            self.point(
                index + place / BLOCK * BLOCK_BYTES,
                place % BLOCK,
                first,
                word,
            );
            if self.bucket(node.start_of(place), carried, own, depth) {
                inner.push((word, carried, own));
            }
            carried = own.last().map_or(carried, |border| border.1);
        }
        // Behind all buckets of this node, so that distances within a block stay small.
        for (word, carried, borders) in inner {
            let child = self.node(carried, borders, depth + 1);
            self.patch(word, &[child << 8 | INNER]);
        }
        small(number)
    }

    /// Writes one place of the index.
    fn point(&mut self, block: usize, lane: usize, first: usize, word: usize) {
        let distance = u16::try_from(word - first).unwrap_or(u16::MAX);
        if let Some((start, lanes)) = self
            .parts
            .index
            .get_mut(block..)
            .and_then(|block| block.split_at_mut_checked(WORD))
        {
            start.copy_from_slice(&small(first).to_le_bytes());
            if let Some(slot) = lanes.get_mut(lane * 2..lane * 2 + 2) {
                slot.copy_from_slice(&distance.to_le_bytes());
            }
        }
    }

    fn patch(&mut self, word: usize, values: &[u32]) {
        for (place, value) in (word..).zip(values) {
            if let Some(slot) = self.parts.words.get_mut(place * WORD..(place + 1) * WORD) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Writes a bucket that begins at `start`, where `carried` holds up to the first border. True
    /// when it is to become a node: then there is only room for its head.
    fn bucket(&mut self, start: K, carried: Tag, borders: &[(K, Tag)], depth: usize) -> bool {
        if borders.is_empty() {
            carried.write(&mut self.parts.words);
            return false;
        }
        self.local.clear();
        if borders.first().is_some_and(|border| border.0 > start) {
            self.local.push((start, carried));
        }
        self.local.extend_from_slice(borders);
        let background = background(&self.local);
        leaf(&self.local, background, &mut self.leaf);
        if self.leaf.len() <= CROWDED {
            (background | small(self.leaf.len())).write(&mut self.parts.words);
            for (key, value) in &self.leaf {
                key.write(&mut self.parts.words);
                value.write(&mut self.parts.words);
            }
            return false;
        }
        if depth < DEPTH_MAX {
            0_u32.write(&mut self.parts.words);
            return true;
        }
        self.long
            .push((self.parts.words.len() / WORD, self.leaf.clone()));
        for word in [background | LONG, 0, 0] {
            word.write(&mut self.parts.words);
        }
        false
    }

    fn write_long(&mut self) {
        for (word, entries) in std::mem::take(&mut self.long) {
            let place = self.parts.words.len() / WORD;
            self.patch(word + 1, &[small(place), small(entries.len())]);
            for (key, value) in entries {
                key.write(&mut self.parts.words);
                value.write(&mut self.parts.words);
            }
        }
    }
}

/// Sizes here follow from at most 2^24 lines.
fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
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
