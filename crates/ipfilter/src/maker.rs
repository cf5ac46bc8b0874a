//! Makes the parts of a [table](crate::table) out of pieces.

use crate::key::Key;
use crate::sweep::Tag;
use crate::table::{
    ASK, CODE, COUNT_BITS, GROUP, INNER, LIST, MARK_BYTES, NODE_BYTES, Node, RECORD_BYTES,
    VALUE_BYTES, WHOLE, WORDS, below, cell, mark,
};

/// Blocks for each border at first; a border of a rule that stands alone has a twin.
const BLOCKS_PER_BORDER: u128 = 16;
/// Bytes for each border, above which blocks are made larger.
const BYTES_PER_BORDER: usize = 9;
/// How often they are doubled.
const DOUBLINGS: u32 = 7;
/// Entries of a list; of more a node is made.
const LIST_MAX: usize = 8;
const BLOCKS_MAX: u128 = 1 << 28;
/// So few that powers and [`Key::OPEN`] are neither taken for a list nor for each other.
const BITS_MAX: u32 = 120;

/// A table in the making.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) nodes: Vec<u8>,
    pub(crate) records: Vec<u8>,
    /// Of the root's slots; none where no look-up asks for them.
    pub(crate) marks: Vec<u8>,
    /// Of the blocks whose marks name one, likewise.
    pub(crate) values: Vec<u8>,
    pub(crate) slots: Vec<u8>,
}

/// A piece: its first address, and what holds up to the next one.
type Piece<K> = (K, Tag);

#[derive(Debug, Default)]
struct Maker<K> {
    parts: Parts,
    /// Bits that all borders have 0 at their low end.
    drop: u32,
    /// Bytes of a slot's key.
    width: usize,
    /// Bits below a mark of the root.
    cell: u32,
    slots: usize,
    /// While the root is made.
    marks: Option<Marks>,
    entries: Vec<(K, u32)>,
}

/// What is known of the root's slots without reading them.
#[derive(Debug, Default)]
struct Marks {
    marks: Vec<u8>,
    /// For each record, how many values stand before its own.
    before: Vec<u32>,
    values: Vec<Tag>,
}

impl Marks {
    fn begin(&mut self) {
        self.before.push(small(self.values.len()));
    }

    /// The mark of a block that has one value.
    fn whole(&mut self, tag: Tag) -> u8 {
        let first = self.before.last().map_or(0, |before| *before as usize);
        let own = self.values.get(first..).unwrap_or_default();
        let repeats = own.last() == Some(&tag);
        match u8::try_from(own.len() - usize::from(repeats)) {
            Ok(number) if number < WHOLE => {
                if !repeats {
                    self.values.push(tag);
                }
                WHOLE | number
            }
            // Of too many values the last ones are left to the slots.
            _ => ASK,
        }
    }

    /// The sections.
    fn parts(self) -> [Vec<u8>; 2] {
        let before = small(self.before.len());
        let places = self.before.iter().map(|place| before + place);
        let mut values = Vec::with_capacity((self.before.len() + self.values.len()) * VALUE_BYTES);
        places
            .chain(self.values)
            .for_each(|word| word.write(&mut values));
        [self.marks, values]
    }
}

/// Blocks of one record, in their order.
#[derive(Debug)]
enum Part<'a, K> {
    /// One value holds for all addresses of these.
    Whole { blocks: u32, tag: Tag },
    /// Borders cut this one; the value holds up to the first.
    Cut {
        before: Tag,
        borders: &'a [Piece<K>],
    },
}

/// A record's parts, and the value that most blocks have.
#[derive(Debug)]
struct Group<'a, K> {
    parts: Vec<Part<'a, K>>,
    background: Tag,
    /// For counting.
    tags: Vec<(Tag, u32)>,
}

/// Lays a node over borders.
#[derive(Debug, Clone, Copy)]
struct Grid<K> {
    base: K,
    bits: u32,
    blocks: u32,
}

/// A table of `pieces`, the first one from address 0 on.
pub(crate) fn parts<K: Key>(pieces: &[Piece<K>]) -> Parts {
    let mut maker = Maker::default();
    match pieces {
        [] | [_] => {
            let tag = pieces.first().map_or(0, |only| only.1);
            let root = Node {
                bits: K::TAIL,
                below: tag,
                above: tag,
                ..Node::<K>::default()
            };
            maker.parts.nodes = root.bytes();
        }
        [first, borders @ ..] => maker.root(first.1, borders),
    }
    // So that the last slot too can be read in the width of an address, and one beyond it.
    let slots = &mut maker.parts.slots;
    slots.resize(slots.len() + 2 * (VALUE_BYTES + 16), 0);
    maker.parts
}

impl<K: Key> Maker<K> {
    fn root(&mut self, below: Tag, borders: &[Piece<K>]) {
        let zeros = borders
            .iter()
            .map(|border| border.0.wide().trailing_zeros());
        let most = BITS_MAX.min(K::BITS - 1);
        self.drop = zeros.min().unwrap_or(0).min(most);
        let least = self.drop.max(K::TAIL);
        let bits = plan(below, borders, least..=most, |bits| {
            MARK_BYTES + VALUE_BYTES + (bits - self.drop).div_ceil(8) as usize
        });
        self.cell = cell(bits);
        self.marks = Some(Marks::default());
        self.width = (bits - self.drop).div_ceil(8) as usize;
        let used = self.node(below, borders, bits);
        let grid = Grid::over(borders, bits);
        // Written again with what is the root's alone.
        let mut root = self.node_of(&grid, below, borders, 0);
        root.drop = self.drop;
        root.width = bits - self.drop;
        root.dense = u32::from(used > grid.blocks / 3);
        if root.dense != 0 {
            (self.parts.marks, self.parts.values) = Default::default();
        }
        self.write_node(0, &root);
    }

    fn node_of(&self, grid: &Grid<K>, below: Tag, borders: &[Piece<K>], record: u32) -> Node<K> {
        Node {
            base: grid.base,
            bits: grid.bits,
            blocks: grid.blocks,
            below,
            above: borders.last().map_or(below, |last| last.1),
            record,
            ..Node::default()
        }
    }

    fn write_node(&mut self, number: usize, node: &Node<K>) {
        let at = number * NODE_BYTES;
        if let Some(slot) = self.parts.nodes.get_mut(at..at + NODE_BYTES) {
            slot.copy_from_slice(&node.bytes());
        }
    }

    /// A node over `borders`, of which there is at least one, with those inside of it; `below`
    /// holds before the first. Returns how many of its blocks have slots.
    fn node(&mut self, below: Tag, borders: &[Piece<K>], bits: u32) -> u32 {
        let number = self.parts.nodes.len() / NODE_BYTES;
        let record = self.parts.records.len() / RECORD_BYTES;
        let grid = Grid::over(borders, bits);
        self.parts.nodes.resize((number + 1) * NODE_BYTES, 0);
        let node = self.node_of(&grid, below, borders, small(record));
        self.write_node(number, &node);
        let records = grid.blocks.div_ceil(GROUP) as usize;
        self.parts.records.reserve(records * RECORD_BYTES);
        let mut used = 0;
        // Nodes inside stand behind this one, whose records must lie together.
        let mut inner = Vec::new();
        grid.each_group(below, borders, |start, group| {
            used += self.record(start, grid.bits, group, &mut inner);
        });
        if let Some(marks) = self.marks.take() {
            [self.parts.marks, self.parts.values] = marks.parts();
        }
        for (slot, before, borders) in inner {
            let child = self.parts.nodes.len() / NODE_BYTES;
            let at = slot * (VALUE_BYTES + self.width);
            if let Some(value) = self.parts.slots.get_mut(at..at + VALUE_BYTES) {
                value.copy_from_slice(&(small(child) << 7 | INNER).to_le_bytes());
            }
            let stride = VALUE_BYTES + self.width;
            let most = bits.saturating_sub(1).max(self.drop);
            let bits = plan(before, borders, self.drop..=most, |_| stride);
            self.node(before, borders, bits);
        }
        used
    }

    /// Writes the record of `group`, whose first block begins at `start`, and its slots. Adds to
    /// `inner` what needs a node: its slot, and what is in it.
    fn record<'a>(
        &mut self,
        start: K,
        bits: u32,
        group: &Group<'a, K>,
        inner: &mut Vec<(usize, Tag, &'a [Piece<K>])>,
    ) -> u32 {
        let first = self.slots;
        if let Some(marks) = &mut self.marks {
            marks.begin();
        }
        let (mut map, mut place) = (Map::default(), 0_u32);
        let mut lists = Vec::new();
        for part in &group.parts {
            let block = at_block(start, bits, place);
            match part {
                Part::Whole { blocks, tag } => {
                    for place in place..place + blocks {
                        if *tag != group.background {
                            map.set(place);
                            let mark = self.marks.as_mut().map_or(ASK, |marks| marks.whole(*tag));
                            let key = at_block(start, bits, place);
                            self.slot(key, *tag | K::OPEN, mark);
                        }
                    }
                    place += blocks;
                }
                Part::Cut { before, borders } => {
                    map.set(place);
                    place += 1;
                    let mut entries = std::mem::take(&mut self.entries);
                    self.entries_of(block, *before, borders, group.background, &mut entries);
                    match entries.as_slice() {
                        [(key, value)] => {
                            self.slot(*key, *value, self.mark(*key, *value));
                        }
                        short if short.len() <= LIST_MAX => {
                            lists.push((self.slots, entries.clone()));
                            self.slot(K::default(), LIST, ASK);
                        }
                        _ => {
                            inner.push((self.slots, *before, *borders));
                            self.slot(K::default(), INNER, ASK);
                        }
                    }
                    self.entries = entries;
                }
            }
        }
        for (slot, entries) in lists {
            let value = small(self.slots - first) << 15 | small(entries.len()) << 7 | LIST;
            let at = slot * (VALUE_BYTES + self.width);
            if let Some(slot) = self.parts.slots.get_mut(at..at + VALUE_BYTES) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
            for (key, value) in entries {
                self.slot(key, value, ASK);
            }
        }
        let records = &mut self.parts.records;
        small(first).write(records);
        group.background.write(records);
        map.counts().write(records);
        for word in map.0 {
            word.write(records);
        }
        map.0.iter().map(|word| word.count_ones()).sum()
    }

    fn slot(&mut self, key: K, value: u32, mark: u8) {
        self.slots += 1;
        if let Some(marks) = &mut self.marks {
            marks.marks.push(mark);
        }
        value.write(&mut self.parts.slots);
        let key = key.wide() >> self.drop;
        let bytes = key.to_le_bytes();
        self.parts
            .slots
            .extend_from_slice(bytes.get(..self.width).unwrap_or_default());
    }

    /// The mark of a slot: the bits that all addresses it covers have in common, then a bit that is 1.
    fn mark(&self, key: K, value: u32) -> u8 {
        let code = value & CODE;
        if code >= K::OPEN {
            return ASK;
        }
        let last = key.wide() + ((1 << (code + self.drop)) - 1);
        let (first, last) = (mark(key, self.cell), mark(K::narrow(last), self.cell));
        let end = 1 << ((first ^ last) | 1).ilog2();
        first & !below(end) | end
    }

    /// The entries of a block that begins at `start`, before `background`.
    fn entries_of(
        &self,
        start: K,
        before: Tag,
        borders: &[Piece<K>],
        background: Tag,
        entries: &mut Vec<(K, u32)>,
    ) {
        entries.clear();
        let head = borders.first().filter(|first| first.0 > start);
        let head = head.map(|_| (start, before));
        let pieces = head.iter().chain(borders);
        let ends = pieces.clone().skip(1).map(|next| Some(next.0));
        let mut reaches_on = false;
        for ((start, tag), end) in pieces.clone().zip(ends.chain([None])) {
            let size = end.map_or(0, |end| end.minus(*start).wide());
            let power = size
                .is_power_of_two()
                .then(|| size.trailing_zeros() - self.drop);
            if *tag != background {
                entries.push((*start, tag | power.unwrap_or(K::OPEN)));
                reaches_on = power.is_none();
            } else if reaches_on {
                entries.push((*start, tag | K::OPEN));
                reaches_on = false;
            }
        }
    }
}

/// A bit for each block of a record.
#[derive(Debug, Default)]
struct Map([u64; WORDS]);

impl Map {
    fn set(&mut self, place: u32) {
        if let Some(word) = self.0.get_mut(place as usize / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// For each word, how many bits the earlier ones have.
    fn counts(&self) -> u64 {
        let (mut counts, mut before) = (0, 0);
        for (place, word) in self.0.iter().enumerate() {
            counts |= before << (place * COUNT_BITS);
            before += u64::from(word.count_ones());
        }
        counts
    }
}

impl<K: Key> Grid<K> {
    fn over(borders: &[Piece<K>], bits: u32) -> Self {
        let block = |border: Option<&Piece<K>>| border.map_or(0, |border| border.0.wide() >> bits);
        let (mut first, mut last) = (block(borders.first()), block(borders.last()));
        // Up to the next round ends, where that is near: rarely is an address outside then.
        let round = 128 - (first ^ last).leading_zeros();
        if (last - first) >> round.saturating_sub(1) != 0 {
            first = first >> round << round;
            last = first | ((1 << round) - 1);
        }
        Self {
            base: K::narrow(first << bits),
            bits,
            blocks: u32::try_from(last - first + 1).unwrap_or(u32::MAX),
        }
    }

    /// Calls `then` for the blocks of each record, with where they begin and what they hold.
    fn each_group<'a>(
        &self,
        below: Tag,
        borders: &'a [Piece<K>],
        mut then: impl FnMut(K, &Group<'a, K>),
    ) {
        let mut group = Group {
            parts: Vec::new(),
            background: below,
            tags: Vec::new(),
        };
        let (mut carried, mut rest) = (below, borders);
        let mut place = 0;
        while place < self.blocks {
            let count = GROUP.min(self.blocks - place);
            let start = at_block(self.base, self.bits, place);
            let last = place + count - 1;
            let own = self.borders_up_to(rest, last);
            let (own, later) = rest.split_at_checked(own).unwrap_or_default();
            group.fill(start, self.bits, count, carried, own);
            then(start, &group);
            carried = own.last().map_or(carried, |last| last.1);
            rest = later;
            place += count;
        }
    }

    fn borders_up_to(&self, borders: &[Piece<K>], last: u32) -> usize {
        borders
            .iter()
            .take_while(|border| {
                border.0.minus(self.base).shifted(self.bits).wide() <= u128::from(last)
            })
            .count()
    }
}

impl<'a, K: Key> Group<'a, K> {
    fn fill(&mut self, start: K, bits: u32, count: u32, before: Tag, borders: &'a [Piece<K>]) {
        self.parts.clear();
        let block_of = |border: &Piece<K>| border.0.minus(start).shifted(bits);
        let (mut place, mut carried, mut rest) = (0, before, borders);
        let mut next = rest.first().map(block_of);
        while let (Some(block), Some(first)) = (next, rest.first()) {
            let mut own = 1;
            next = loop {
                match rest.get(own).map(block_of) {
                    Some(same) if same == block => own += 1,
                    other => break other,
                }
            };
            let (own, later) = rest.split_at_checked(own).unwrap_or_default();
            rest = later;
            let block = u32::try_from(block.wide()).unwrap_or(count);
            self.whole(block - place, carried);
            if own.len() == 1 && first.0 == at_block(start, bits, block) {
                // A run begins here.
                place = block;
            } else {
                self.parts.push(Part::Cut {
                    before: carried,
                    borders: own,
                });
                place = block + 1;
            }
            carried = own.last().map_or(carried, |last| last.1);
        }
        self.whole(count - place, carried);
        self.background = self.most(before);
    }

    fn whole(&mut self, blocks: u32, tag: Tag) {
        if blocks > 0 {
            self.parts.push(Part::Whole { blocks, tag });
        }
    }

    /// The value that most whole blocks have, else `before`.
    fn most(&mut self, before: Tag) -> Tag {
        self.tags.clear();
        self.tags
            .extend(self.parts.iter().filter_map(|part| match part {
                Part::Whole { blocks, tag } => Some((*tag, *blocks)),
                Part::Cut { .. } => None,
            }));
        self.tags.sort_unstable();
        let sums = self.tags.chunk_by(|left, right| left.0 == right.0);
        let sums = sums.map(|same| (same.iter().map(|part| part.1).sum::<u32>(), same.first()));
        let most = sums.max_by_key(|sum| sum.0).and_then(|sum| sum.1);
        most.map_or(before, |most| most.0)
    }

    /// Bytes that this group takes, about: without the values that marks name, at most four bytes for each run.
    fn cost(&self, stride: usize) -> usize {
        let cost = |part: &Part<'_, K>| match part {
            Part::Whole { tag, .. } if *tag == self.background => 0,
            Part::Whole { blocks, .. } => *blocks as usize * stride,
            Part::Cut { borders, .. } => {
                let own = borders.iter().filter(|border| border.1 != self.background);
                match own.count() {
                    0 | 1 => stride,
                    few if few <= LIST_MAX => (few + 1) * stride,
                    many => many * (stride + 8) + NODE_BYTES + RECORD_BYTES,
                }
            }
        };
        RECORD_BYTES + self.parts.iter().map(cost).sum::<usize>()
    }
}

/// How many bits stand below a block: few, but blocks must not cost more than borders are worth.
fn plan<K: Key>(
    below: Tag,
    borders: &[Piece<K>],
    range: std::ops::RangeInclusive<u32>,
    stride: impl Fn(u32) -> usize,
) -> u32 {
    let ends = borders.first().zip(borders.last());
    let span = ends.map_or(0, |(first, last)| last.0.minus(first.0).wide());
    let blocks = (borders.len() as u128 * BLOCKS_PER_BORDER).clamp(GROUP.into(), BLOCKS_MAX);
    let bits = (128 - (span / blocks).leading_zeros()).clamp(*range.start(), *range.end());
    let budget = borders.len() * BYTES_PER_BORDER + NODE_BYTES + 2 * RECORD_BYTES;
    let (mut best, mut least) = (bits, usize::MAX);
    for bits in bits..=(bits + DOUBLINGS).min(*range.end()) {
        let mut cost = 0;
        Grid::over(borders, bits).each_group(below, borders, |_, group| {
            cost += group.cost(stride(bits));
        });
        // Where it rises once, what may come further on is a few per cent: not worth a pass each.
        if cost >= least {
            break;
        }
        (best, least) = (bits, cost);
        if cost <= budget {
            break;
        }
    }
    best
}

fn at_block<K: Key>(start: K, bits: u32, place: u32) -> K {
    K::narrow(start.wide() + (u128::from(place) << bits))
}

/// Sizes here follow from at most 2^24 lines.
fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

const _: () = assert!(LIST > BITS_MAX && INNER <= CODE);
