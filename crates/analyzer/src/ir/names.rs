//! Interned text.

use std::collections::HashMap;
use std::rc::Rc;

/// An interned name; 0 is the empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Name(u32);

impl Name {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// All names of one file. Ids follow the order of first use, so they are the same in every run.
#[derive(Debug)]
pub(crate) struct Names {
    ids: HashMap<Rc<str>, Name>,
    texts: Vec<Rc<str>>,
    joined: HashMap<(Name, Name), Name>,
}

impl Default for Names {
    fn default() -> Self {
        let mut names = Self {
            ids: HashMap::new(),
            texts: Vec::new(),
            joined: HashMap::new(),
        };
        names.intern("");
        names
    }
}

/// A dotted path longer than this says no more.
const PATH_BYTES: usize = 160;

impl Names {
    pub(crate) fn intern(&mut self, text: &str) -> Name {
        if let Some(name) = self.ids.get(text) {
            return *name;
        }
        let name = Name(u32::try_from(self.texts.len()).unwrap_or(0));
        let text: Rc<str> = Rc::from(text);
        self.texts.push(Rc::clone(&text));
        self.ids.insert(text, name);
        name
    }

    pub(crate) fn get(&self, text: &str) -> Option<Name> {
        self.ids.get(text).copied()
    }

    pub(crate) fn text(&self, name: Name) -> &str {
        self.texts.get(name.0 as usize).map_or("", |text| text)
    }

    pub(crate) fn shared(&self, name: Name) -> Rc<str> {
        self.texts
            .get(name.0 as usize)
            .map_or_else(|| Rc::from(""), Rc::clone)
    }

    /// `a.b`; `b` alone where `a` is nothing; `a` where it is long already.
    pub(crate) fn join(&mut self, a: Name, b: Name) -> Name {
        if a.is_none() {
            return b;
        }
        if let Some(name) = self.joined.get(&(a, b)) {
            return *name;
        }
        let text = self.text(a);
        let name = if text.len() > PATH_BYTES {
            a
        } else {
            let text = format!("{text}.{}", self.text(b));
            self.intern(&text)
        };
        self.joined.insert((a, b), name);
        name
    }

    /// `a()`: what a call of `a` gave.
    pub(crate) fn called(&mut self, a: Name) -> Name {
        let text = self.text(a);
        if a.is_none() || text.len() > PATH_BYTES {
            return a;
        }
        let text = format!("{text}()");
        self.intern(&text)
    }
}
