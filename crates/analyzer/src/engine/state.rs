//! Variables and objects, with a trail: branches are run one after the other on one state and undone, so that a branch
//! costs what it changes and not what exists.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::value::{Obj, ObjId, Value};

enum Undo {
    Cell(u32, Value),
    Obj(u32, Rc<Obj>),
}

/// What a branch changed.
#[derive(Clone, Default)]
pub(super) struct Delta {
    cells: BTreeMap<u32, Value>,
    objs: BTreeMap<u32, Rc<Obj>>,
}

#[derive(Default)]
pub(super) struct State {
    cells: Vec<Value>,
    objs: Vec<Rc<Obj>>,
    trail: Vec<Undo>,
    /// The place at hand can't be reached.
    pub(super) dead: bool,
    /// Entries copied by `peek`: work that must be counted.
    pub(super) copied: u64,
}

/// Where undoing goes back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(usize);

impl State {
    pub(super) fn add_cells(&mut self, count: u32) -> u32 {
        let base = u32::try_from(self.cells.len()).unwrap_or(u32::MAX);
        self.cells
            .resize_with(self.cells.len() + count as usize, Value::default);
        base
    }

    pub(super) fn cell(&self, at: u32) -> Value {
        self.cells.get(at as usize).cloned().unwrap_or_default()
    }

    pub(super) fn set_cell(&mut self, at: u32, value: Value) {
        if let Some(cell) = self.cells.get_mut(at as usize) {
            let old = std::mem::replace(cell, value);
            self.trail.push(Undo::Cell(at, old));
        }
    }

    pub(super) fn add_obj(&mut self, obj: Obj) -> ObjId {
        let id = ObjId(u32::try_from(self.objs.len()).unwrap_or(u32::MAX));
        self.objs.push(Rc::new(obj));
        id
    }

    pub(super) fn obj(&self, id: ObjId) -> Option<&Obj> {
        self.objs.get(id.0 as usize).map(|obj| &**obj)
    }

    pub(super) fn change(&mut self, id: ObjId, with: impl FnOnce(&mut Obj)) {
        if let Some(slot) = self.objs.get_mut(id.0 as usize) {
            self.trail.push(Undo::Obj(id.0, Rc::clone(slot)));
            with(Rc::make_mut(slot));
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.trail.len())
    }

    /// What changed since `mark`, left as it is.
    pub(super) fn peek(&mut self, mark: Mark) -> Delta {
        let mut delta = Delta::default();
        let trail = self.trail.get(mark.0..).unwrap_or_default();
        self.copied += trail.len() as u64;
        for undo in trail {
            match undo {
                Undo::Cell(at, _) => {
                    if let Some(value) = self.cells.get(*at as usize) {
                        delta.cells.entry(*at).or_insert_with(|| value.clone());
                    }
                }
                Undo::Obj(at, _) => {
                    if let Some(obj) = self.objs.get(*at as usize) {
                        delta.objs.entry(*at).or_insert_with(|| Rc::clone(obj));
                    }
                }
            }
        }
        delta
    }

    /// What changed since `mark`, undone.
    pub(super) fn take(&mut self, mark: Mark) -> Delta {
        let delta = self.peek(mark);
        while self.trail.len() > mark.0 {
            match self.trail.pop() {
                Some(Undo::Cell(at, old)) => {
                    if let Some(cell) = self.cells.get_mut(at as usize) {
                        *cell = old;
                    }
                }
                Some(Undo::Obj(at, old)) => {
                    if let Some(obj) = self.objs.get_mut(at as usize) {
                        *obj = old;
                    }
                }
                None => break,
            }
        }
        delta
    }

    pub(super) fn apply(&mut self, delta: Delta) {
        for (at, value) in delta.cells {
            self.set_cell(at, value);
        }
        for (at, obj) in delta.objs {
            if let Some(slot) = self.objs.get_mut(at as usize) {
                self.trail.push(Undo::Obj(at, std::mem::replace(slot, obj)));
            }
        }
    }

    /// Goes on from all of `paths` at once; from none, the place is dead.
    pub(super) fn merge(&mut self, mut paths: Vec<Delta>) {
        self.dead = paths.is_empty();
        if paths.len() < 2 {
            if let Some(only) = paths.pop() {
                self.apply(only);
            }
            return;
        }
        let count = paths.len();
        let mut cells: BTreeMap<u32, (usize, Value)> = BTreeMap::new();
        let mut objs: BTreeMap<u32, (usize, Obj)> = BTreeMap::new();
        for path in paths {
            for (at, value) in path.cells {
                cells
                    .entry(at)
                    .and_modify(|(seen, old)| {
                        *seen += 1;
                        old.join(&value);
                    })
                    .or_insert((1, value));
            }
            for (at, obj) in path.objs {
                match objs.get_mut(&at) {
                    Some((seen, old)) => {
                        *seen += 1;
                        old.join(&obj);
                    }
                    None => {
                        objs.insert(at, (1, Rc::unwrap_or_clone(obj)));
                    }
                }
            }
        }
        for (at, (seen, mut value)) in cells {
            if seen < count
                && let Some(base) = self.cells.get(at as usize)
            {
                value.join(base);
            }
            self.set_cell(at, value);
        }
        for (at, (seen, mut obj)) in objs {
            let Some(slot) = self.objs.get_mut(at as usize) else {
                continue;
            };
            if seen < count {
                obj.join(slot);
            }
            self.trail
                .push(Undo::Obj(at, std::mem::replace(slot, Rc::new(obj))));
        }
    }

    /// Forgets how to undo: nothing before this place will be gone back to.
    pub(super) fn settle(&mut self) {
        self.trail.clear();
    }

    /// Cells and objects alive.
    pub(super) fn size(&self) -> usize {
        self.cells.len() + self.objs.len()
    }
}
