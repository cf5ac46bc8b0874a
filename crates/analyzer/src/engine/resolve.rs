//! Who is called: functions, methods and constructors of the file.

use crate::finding::Language;
use crate::ir::{ClassId, FuncId, Name};

use super::machine::Machine;
use super::value::{Shape, Value};

/// A function of this file that may be called: with its lexical frame and its receiver.
pub(super) type Callable = (FuncId, u32, Value);

impl Machine<'_> {
    /// Functions that a value is.
    pub(super) fn closures(&self, value: &Value, this: &Value) -> Vec<Callable> {
        let mut out = Vec::new();
        for id in &value.objs {
            if let Some(obj) = self.state.obj(*id)
                && let Shape::Closure(func) = obj.shape
            {
                let this = if obj.rest.objs.is_empty() {
                    this
                } else {
                    &obj.rest
                };
                out.push((func, obj.frame, this.clone()));
            }
        }
        out
    }

    /// Functions that `recv.name` is: a closure in a field, or a method of the class.
    pub(super) fn callables_of(&self, recv: &Value, name: Name, arity: usize) -> Vec<Callable> {
        let mut out = Vec::new();
        for id in &recv.objs {
            let Some(obj) = self.state.obj(*id) else {
                continue;
            };
            if let Some(field) = obj.fields.get(&name) {
                let closures = self.closures(&field.clone(), recv);
                if !closures.is_empty() {
                    out.extend(closures);
                    continue;
                }
            }
            let (class, frame) = (obj.class, obj.frame);
            if let Some(class) = class
                && let Some(func) = self.method_of(class, name, arity)
            {
                out.push((func, frame, Value::object(*id)));
            }
        }
        if out.is_empty() && !recv.ty.is_none() {
            out = self.by_type(recv.ty, name, arity);
        }
        out
    }

    /// Methods by declared type: of the class itself, or of those that extend it in this file.
    pub(super) fn by_type(&self, ty: Name, name: Name, arity: usize) -> Vec<Callable> {
        let Some(class) = self.classes.get(&ty).copied() else {
            return Vec::new();
        };
        let mut found: Vec<(ClassId, FuncId)> = Vec::new();
        if let Some(func) = self.method_of(class, name, arity) {
            found.push((class, func));
        }
        let program = self.program;
        for (at, other) in program.classes.iter().enumerate() {
            if other.supers.contains(&ty) && found.len() < 4 {
                let id = ClassId(u32::try_from(at).unwrap_or(u32::MAX));
                if let Some(func) = self.method_of(id, name, arity)
                    && !found.iter().any(|(_, seen)| *seen == func)
                {
                    found.push((id, func));
                }
            }
        }
        found
            .into_iter()
            .filter(|(_, func)| {
                program
                    .func(*func)
                    .is_some_and(|func| !func.body.is_empty())
            })
            .map(|(class, func)| (func, 0, self.class_value(class)))
            .collect()
    }

    pub(super) fn method(&self, class: ClassId, name: Name) -> Option<FuncId> {
        self.method_of(class, name, usize::MAX)
    }

    /// The method of a class or of its superclasses in this file; the one with `arity` parameters if there is one.
    pub(super) fn method_of(&self, class: ClassId, name: Name, arity: usize) -> Option<FuncId> {
        let mut at = class;
        for _ in 0..16 {
            let class = self.program.class(at)?;
            let mut first = None;
            for id in &class.methods {
                let Some(func) = self.program.func(*id) else {
                    continue;
                };
                if func.name == name {
                    first = first.or(Some(*id));
                    if func.params.len() == arity {
                        return Some(*id);
                    }
                }
            }
            if first.is_some() {
                return first;
            }
            let next = class
                .supers
                .iter()
                .find_map(|name| self.classes.get(name))?;
            if *next == at {
                return None;
            }
            at = *next;
        }
        None
    }

    /// A method called by its bare name: of the class at hand or of one around it.
    pub(super) fn own(&self, name: Name, arity: usize) -> Vec<Callable> {
        let this = self.this();
        let frame = self.here();
        let mut at = self.program.func(self.func());
        let mut first = true;
        while let Some(func) = at {
            if let Some(class) = func.class {
                let id = match self.names.text(name) {
                    "this" => self.constructor(class, arity),
                    "super" => {
                        let base = self.program.class(class).and_then(|class| {
                            let found = class.supers.iter().find_map(|name| self.classes.get(name));
                            found.copied()
                        });
                        base.and_then(|base| self.constructor(base, arity))
                    }
                    _ => self.method_of(class, name, arity),
                };
                if let Some(id) = id {
                    let this = if first && !this.objs.is_empty() {
                        this
                    } else {
                        self.class_value(class)
                    };
                    return vec![(id, frame, this)];
                }
                first = false;
            }
            at = func.parent.and_then(|parent| self.program.func(parent));
        }
        // A class inside another may call what is outside.
        let program = self.program;
        let found = program.classes.iter().enumerate().find_map(|(at, _)| {
            let class = ClassId(u32::try_from(at).unwrap_or(u32::MAX));
            let func = self.method_of(class, name, arity)?;
            Some((class, func))
        });
        match found {
            Some((class, func)) if self.language == Language::Java => {
                vec![(func, 0, self.class_value(class))]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn constructor(&self, class: ClassId, arity: usize) -> Option<FuncId> {
        let class = self.program.class(class)?;
        let all = class
            .methods
            .iter()
            .copied()
            .filter(|id| self.program.func(*id).is_some_and(|func| func.constructor));
        let mut first = None;
        for id in all {
            first = first.or(Some(id));
            let count = self.program.func(id).map_or(0, |func| func.params.len());
            let own = usize::from(self.language == Language::Python);
            if count == arity + own {
                return Some(id);
            }
        }
        first
    }
}
