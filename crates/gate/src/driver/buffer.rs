//! Buffers of one thread. A connection borrows one while bytes are on the move and gives it back
//! when it goes idle, so that an idle connection holds none.

use std::cell::RefCell;
use std::rc::Rc;

use super::Core;

/// What a head and a small body fit in.
pub(crate) const SMALL: usize = 16 * 1024;
/// A body that filled a small one: 64 KiB, with a head before it, or in records.
pub(crate) const MEDIUM: usize = 80 * 1024;
/// A body that filled a medium one.
pub(crate) const LARGE: usize = 256 * 1024;

/// Larger ones begin on a page. The kernel copies with `rep movsb`, which some processors do at a
/// fraction of their speed when the target lies a few bytes behind the source within a page; that
/// is where an allocator puts a large block, behind its own 16 bytes.
const PAGE: usize = 4 * 1024;

/// Memory of one of the three sizes.
#[derive(Debug, Default)]
struct Block {
    memory: Box<[u8]>,
    at: usize,
    size: usize,
}

impl Block {
    fn new(size: usize) -> Self {
        let slack = if size > SMALL { PAGE } else { 0 };
        let memory = vec![0; size + slack].into_boxed_slice();
        let at = memory.as_ptr().align_offset(PAGE).min(slack);
        Self { memory, at, size }
    }

    fn bytes(&self) -> &[u8] {
        let end = self.at + self.size;
        self.memory.get(self.at..end).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let end = self.at + self.size;
        self.memory.get_mut(self.at..end).unwrap_or_default()
    }
}

/// Free buffers of each size; what exceeds `keep` bytes of a size goes back to the allocator.
#[derive(Debug)]
pub(crate) struct Pool {
    small: RefCell<Vec<Block>>,
    medium: RefCell<Vec<Block>>,
    large: RefCell<Vec<Block>>,
    sheets: RefCell<Vec<Vec<u8>>>,
}

/// What a head and the data that is sent with it fit on.
const SHEET: usize = 8 * 1024;
const SHEETS_KEPT: usize = 32;
const KEEP_BYTES: usize = 2 * 1024 * 1024;

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            small: RefCell::new(Vec::new()),
            medium: RefCell::new(Vec::new()),
            large: RefCell::new(Vec::new()),
            sheets: RefCell::new(Vec::new()),
        }
    }

    /// An empty piece of memory to write a head on, and a small body behind it.
    pub(crate) fn sheet(&self) -> Vec<u8> {
        let kept = self.sheets.borrow_mut().pop();
        kept.unwrap_or_else(|| Vec::with_capacity(SHEET))
    }

    /// Takes a sheet back that was sent.
    pub(crate) fn give_sheet(&self, mut sheet: Vec<u8>) {
        let mut sheets = self.sheets.borrow_mut();
        if (SHEET..=2 * SHEET).contains(&sheet.capacity()) && sheets.len() < SHEETS_KEPT {
            sheet.clear();
            sheets.push(sheet);
        }
    }

    fn list(&self, size: usize) -> &RefCell<Vec<Block>> {
        if size <= SMALL {
            &self.small
        } else if size <= MEDIUM {
            &self.medium
        } else {
            &self.large
        }
    }

    fn take(&self, size: usize) -> Block {
        let kept = self.list(size).borrow_mut().pop();
        kept.unwrap_or_else(|| Block::new(size))
    }

    fn give(&self, block: Block) {
        let size = block.size;
        if size != SMALL && size != MEDIUM && size != LARGE {
            return;
        }
        let mut list = self.list(size).borrow_mut();
        if (list.len() + 1) * size <= KEEP_BYTES {
            list.push(block);
        }
    }
}

/// A borrowed buffer: filled at the end, consumed at the front.
#[derive(Debug)]
pub(crate) struct Buffer {
    core: Rc<Core>,
    block: Block,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Borrows a buffer of one of the three sizes.
    pub(crate) fn new(core: &Rc<Core>, size: usize) -> Self {
        Self {
            core: Rc::clone(core),
            block: core.buffers.take(size),
            start: 0,
            end: 0,
        }
    }

    /// What was filled and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        let filled = self.block.bytes().get(self.start..self.end);
        filled.unwrap_or_default()
    }

    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        let (start, end) = (self.start, self.end);
        let filled = self.block.bytes_mut().get_mut(start..end);
        filled.unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where the next bytes go. Consumed space at the front is won back when nothing is left.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let end = self.end;
        self.block.bytes_mut().get_mut(end..).unwrap_or_default()
    }

    pub(crate) fn fill(&mut self, count: usize) {
        self.end = (self.end + count).min(self.block.size);
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Forgets what is filled beyond the first `count` bytes.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    pub(crate) fn capacity(&self) -> usize {
        self.block.size
    }

    /// Makes room behind the filled part: moves it to the front, or into the next larger size.
    /// False when the largest size is full.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.start > 0 {
            let filled = self.start..self.end;
            self.block.bytes_mut().copy_within(filled, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.end < self.block.size || self.grow()
    }

    /// Changes to the next larger size, keeping what is filled.
    pub(crate) fn grow(&mut self) -> bool {
        let size = match self.block.size {
            SMALL => MEDIUM,
            MEDIUM => LARGE,
            _ => return false,
        };
        let mut larger = self.core.buffers.take(size);
        let filled = self.filled();
        let count = filled.len();
        if let Some(target) = larger.bytes_mut().get_mut(..count) {
            target.copy_from_slice(filled);
        }
        self.core
            .buffers
            .give(std::mem::replace(&mut self.block, larger));
        self.start = 0;
        self.end = count;
        true
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.core.buffers.give(std::mem::take(&mut self.block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blocks_begin_on_a_page_and_have_their_whole_size() {
        for size in [SMALL, MEDIUM, LARGE] {
            let mut block = Block::new(size);
            assert_eq!((block.bytes().len(), block.bytes_mut().len()), (size, size));
            if size > SMALL {
                assert_eq!(block.bytes().as_ptr() as usize % PAGE, 0);
            }
        }
    }
}
