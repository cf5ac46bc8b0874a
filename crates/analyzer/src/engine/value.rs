//! Abstract values: what is known of a value on all paths that reach a place.

use std::collections::BTreeMap;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::ir::{ClassId, FuncId, Name, Sp};

/// A value known exactly, or not.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Konst {
    #[default]
    Unknown,
    Null,
    Bool(bool),
    Int(i64),
    Str(Rc<str>),
}

impl Konst {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Truth as Python, JavaScript and C see it; Java only asks of booleans, where they agree.
    pub(super) fn truth(&self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Null => Some(false),
            Self::Bool(value) => Some(*value),
            Self::Int(value) => Some(*value != 0),
            Self::Str(text) => Some(!text.is_empty()),
        }
    }
}

/// Attacker-controlled data in a value: how it came here, and for which rules it is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taint {
    /// Last step of its way, in the arena of traces.
    pub(super) trace: u32,
    /// First step of its way: which source it is.
    pub(super) root: u32,
    /// One bit per rule: set where a sanitizer or a guard makes it harmless.
    pub(super) clean: u32,
}

/// Index of an abstract object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjId(pub(super) u32);

/// Sources kept in one value; a report needs one.
const TAINTS: usize = 3;
/// Objects one value may point to.
const OBJECTS: usize = 4;

#[derive(Debug, Clone, Default)]
pub(super) struct Value {
    pub(super) konst: Konst,
    /// Dotted path of where it comes from: `flask.request.args`, `java.sql.Connection.createStatement()`.
    pub(super) path: Name,
    /// Declared type.
    pub(super) ty: Name,
    pub(super) taint: SmallVec<[Taint; 1]>,
    pub(super) objs: SmallVec<[ObjId; 1]>,
}

impl Value {
    pub(super) fn konst(konst: Konst) -> Self {
        Self {
            konst,
            ..Self::default()
        }
    }

    pub(super) fn text(text: &str) -> Self {
        Self::konst(Konst::Str(Rc::from(text)))
    }

    pub(super) fn path(path: Name) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    pub(super) fn object(id: ObjId) -> Self {
        let mut value = Self::default();
        value.objs.push(id);
        value
    }

    pub(super) fn is_tainted(&self) -> bool {
        !self.taint.is_empty()
    }

    pub(super) fn add_taint(&mut self, taint: Taint) {
        if let Some(old) = self.taint.iter_mut().find(|old| old.root == taint.root) {
            if taint.clean & old.clean != old.clean {
                *old = Taint {
                    clean: old.clean & taint.clean,
                    ..taint
                };
            }
        } else if self.taint.len() < TAINTS {
            self.taint.push(taint);
        }
    }

    pub(super) fn add_taints(&mut self, taints: &[Taint]) {
        for taint in taints {
            self.add_taint(*taint);
        }
    }

    pub(super) fn add_object(&mut self, id: ObjId) {
        if !self.objs.contains(&id) && self.objs.len() < OBJECTS {
            self.objs.push(id);
        }
    }

    /// What holds whichever of the two it is.
    pub(super) fn join(&mut self, other: &Self) {
        if self.konst != other.konst {
            self.konst = Konst::Unknown;
        }
        if self.path != other.path {
            self.path = either(self.path, other.path);
        }
        if self.ty != other.ty {
            self.ty = either(self.ty, other.ty);
        }
        self.add_taints(&other.taint);
        for id in &other.objs {
            self.add_object(*id);
        }
    }

    /// The same value with only its taint: the result of an operation on it.
    pub(super) fn derived(&self) -> Self {
        Self {
            taint: self.taint.clone(),
            ..Self::default()
        }
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        self.konst == other.konst
            && self.path == other.path
            && self.ty == other.ty
            && self.objs == other.objs
            && self.same_taint(other)
    }

    fn same_taint(&self, other: &Self) -> bool {
        self.taint.len() == other.taint.len()
            && self
                .taint
                .iter()
                .zip(&other.taint)
                .all(|(a, b)| a.root == b.root && a.clean == b.clean)
    }
}

fn either(a: Name, b: Name) -> Name {
    if a.is_none() {
        b
    } else if b.is_none() {
        a
    } else {
        Name::NONE
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Record,
    List,
    Map,
    /// Text that grows in place: `StringBuilder`, a C array.
    Buffer,
    Closure(FuncId),
    /// A pointer to a cell: C's `&x`.
    Cell(u32),
}

/// An abstract object.
#[derive(Debug, Clone)]
pub(super) struct Obj {
    pub(super) shape: Shape,
    pub(super) class: Option<ClassId>,
    /// Elements of a list in order, while `exact`.
    pub(super) items: Vec<Value>,
    pub(super) fields: BTreeMap<Name, Value>,
    /// What was stored at places not known; the content of a buffer.
    pub(super) rest: Value,
    /// `items` are all there is, in this order.
    pub(super) exact: bool,
    /// The frame it was made in: closures and local classes read it.
    pub(super) frame: u32,
    /// Where it was made.
    pub(super) sp: Sp,
}

/// Elements kept apart in one list.
const ITEMS: usize = 64;

impl Obj {
    pub(super) fn new(shape: Shape, sp: Sp) -> Self {
        Self {
            shape,
            class: None,
            items: Vec::new(),
            fields: BTreeMap::new(),
            rest: Value::default(),
            exact: true,
            frame: 0,
            sp,
        }
    }

    pub(super) fn push(&mut self, value: Value) {
        if self.exact && self.items.len() < ITEMS {
            self.items.push(value);
        } else {
            self.collapse();
            self.spill(&value);
        }
    }

    /// Adds to what is at unknown places; a constant there says nothing.
    pub(super) fn spill(&mut self, value: &Value) {
        if self.rest.same(&Value::default()) {
            self.rest = value.clone();
        } else {
            self.rest.join(value);
        }
        if !matches!(self.shape, Shape::Buffer) {
            self.rest.konst = Konst::Unknown;
        }
    }

    /// Forgets the order of the elements.
    pub(super) fn collapse(&mut self) {
        for item in std::mem::take(&mut self.items) {
            self.spill(&item);
        }
        self.exact = false;
    }

    /// All values inside, joined.
    pub(super) fn content(&self) -> Value {
        let mut all: Option<Value> = None;
        let mut add = |value: &Value| match &mut all {
            Some(all) => all.join(value),
            None => all = Some(value.clone()),
        };
        self.items
            .iter()
            .chain(self.fields.values())
            .for_each(&mut add);
        if !self.rest.same(&Value::default()) {
            add(&self.rest);
        }
        all.unwrap_or_default()
    }

    pub(super) fn join(&mut self, other: &Self) {
        if self.exact && other.exact && self.items.len() == other.items.len() {
            for (mine, theirs) in self.items.iter_mut().zip(&other.items) {
                mine.join(theirs);
            }
        } else {
            self.collapse();
            for item in &other.items {
                self.spill(item);
            }
        }
        let absent = Value::default();
        for (name, value) in &mut self.fields {
            value.join(other.fields.get(name).unwrap_or(&absent));
        }
        for (name, value) in &other.fields {
            if !self.fields.contains_key(name) {
                let mut value = value.clone();
                value.konst = Konst::Unknown;
                self.fields.insert(*name, value);
            }
        }
        if matches!(self.shape, Shape::Buffer) {
            self.rest.join(&other.rest);
        } else {
            self.spill(&other.rest);
        }
        self.class = self.class.or(other.class);
    }
}
