//! Buffers of one thread. A connection borrows one while bytes are on the move and gives it back
//! when it goes idle, so that an idle connection holds none.

use std::cell::RefCell;
use std::rc::Rc;

use super::Core;

/// What a head and a small body fit in.
pub(crate) const SMALL: usize = 16 * 1024;
/// A body that filled a small one.
pub(crate) const MEDIUM: usize = 64 * 1024;
/// A body that filled a medium one.
pub(crate) const LARGE: usize = 256 * 1024;

/// Free buffers of each size; what exceeds `keep` bytes of a size goes back to the allocator.
#[derive(Debug)]
pub(crate) struct Pool {
    small: RefCell<Vec<Box<[u8]>>>,
    medium: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
}

const KEEP_BYTES: usize = 2 * 1024 * 1024;

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            small: RefCell::new(Vec::new()),
            medium: RefCell::new(Vec::new()),
            large: RefCell::new(Vec::new()),
        }
    }

    fn list(&self, size: usize) -> &RefCell<Vec<Box<[u8]>>> {
        if size <= SMALL {
            &self.small
        } else if size <= MEDIUM {
            &self.medium
        } else {
            &self.large
        }
    }

    fn take(&self, size: usize) -> Box<[u8]> {
        self.list(size)
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    fn give(&self, bytes: Box<[u8]>) {
        let size = bytes.len();
        if size != SMALL && size != MEDIUM && size != LARGE {
            return;
        }
        let mut list = self.list(size).borrow_mut();
        if (list.len() + 1) * size <= KEEP_BYTES {
            list.push(bytes);
        }
    }
}

/// A borrowed buffer: filled at the end, consumed at the front.
#[derive(Debug)]
pub(crate) struct Buffer {
    core: Rc<Core>,
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Borrows a buffer of one of the three sizes.
    pub(crate) fn new(core: &Rc<Core>, size: usize) -> Self {
        Self {
            core: Rc::clone(core),
            bytes: core.buffers.take(size),
            start: 0,
            end: 0,
        }
    }

    /// What was filled and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
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
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    pub(crate) fn fill(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Forgets what is filled beyond the first `count` bytes.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Makes room behind the filled part: moves it to the front, or into the next larger size.
    /// False when the largest size is full.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.end < self.bytes.len() || self.grow()
    }

    /// Changes to the next larger size, keeping what is filled.
    pub(crate) fn grow(&mut self) -> bool {
        let size = match self.bytes.len() {
            SMALL => MEDIUM,
            MEDIUM => LARGE,
            _ => return false,
        };
        let mut larger = self.core.buffers.take(size);
        let filled = self.filled();
        let count = filled.len();
        if let Some(target) = larger.get_mut(..count) {
            target.copy_from_slice(filled);
        }
        self.core
            .buffers
            .give(std::mem::replace(&mut self.bytes, larger));
        self.start = 0;
        self.end = count;
        true
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.core.buffers.give(std::mem::take(&mut self.bytes));
    }
}
