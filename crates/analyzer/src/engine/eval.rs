//! Expressions.

use crate::finding::{Language, StepKind};
use crate::ir::{ClassId, ExprId, ExprKind, Lit, Name, Op, Sp};
use crate::rules::model::{Act, Model};

use super::fold;
use super::machine::{Machine, Say};
use super::value::{Konst, Obj, ObjId, Shape, Value};

impl Machine<'_> {
    pub(super) fn eval(&mut self, id: ExprId) -> Value {
        if !self.step() || !self.nest() {
            return Value::default();
        }
        let program = self.program;
        let value = match program.expr(id) {
            Some(expr) => self.eval_kind(&expr.kind, expr.sp),
            None => Value::default(),
        };
        self.depth -= 1;
        value
    }

    fn eval_kind(&mut self, kind: &ExprKind, sp: Sp) -> Value {
        match kind {
            ExprKind::Lit(lit) => Value::konst(literal(lit)),
            ExprKind::Var(var) => self.read_var(*var, sp),
            ExprKind::This => self.this(),
            ExprKind::Free(name) => self.read_free(*name, sp),
            ExprKind::Path(name) => self.read_path(*name, sp),
            ExprKind::Field(object, name) => {
                let object = self.eval(*object);
                self.get_field(&object, *name, sp)
            }
            ExprKind::Index(object, index) => {
                let object = self.eval(*object);
                let index = self.eval(*index);
                self.get_index(&object, &index, sp)
            }
            ExprKind::Call(call) => self.call(call, sp),
            ExprKind::New(new) => self.create(new, sp),
            ExprKind::Concat(parts) => self.concat(parts, sp),
            ExprKind::Binary(op, left, right) => self.binary(*op, *left, *right, sp),
            ExprKind::Unary(op, value) => {
                let value = self.eval(*value);
                Value::konst(fold::unary(*op, &value.konst))
            }
            ExprKind::Cond(cond, then, other) => self.cond(*cond, *then, *other),
            ExprKind::And(left, right) => self.logic(*left, *right, true),
            ExprKind::Or(left, right) => self.logic(*left, *right, false),
            ExprKind::Assign(target, value) => {
                let value = self.eval(*value);
                self.assign(target, value.clone());
                value
            }
            ExprKind::List(parts) => self.list(parts, sp),
            ExprKind::Map(entries) => self.map(entries, sp),
            ExprKind::Closure(func) => self.closure(*func, sp),
            ExprKind::Class(class) => self.class_value(*class),
            ExprKind::Pass(parts) => self.pass(parts),
            ExprKind::Cast(value, ty) => self.cast(*value, *ty),
            ExprKind::AddrOf(place) => self.address(*place, sp),
            ExprKind::Deref(pointer) => {
                let pointer = self.eval(*pointer);
                self.deref(&pointer)
            }
            ExprKind::Seq(parts) => {
                let mut last = Value::default();
                for part in parts {
                    last = self.eval(*part);
                }
                last
            }
            ExprKind::Block(block) => {
                self.yields.push(Value::default());
                self.block(block);
                self.yields.pop().unwrap_or_default()
            }
            ExprKind::Fresh(name) => {
                let shape = match self.names.text(*name) {
                    "struct" => Shape::Record,
                    "array" => Shape::List,
                    _ => Shape::Buffer,
                };
                let id = self.alloc(shape, sp);
                Value::object(id)
            }
            ExprKind::Unknown => Value::default(),
        }
    }

    // ── reading ──

    fn read_var(&mut self, var: crate::ir::Var, sp: Sp) -> Value {
        let Some(cell) = self.cell_of(var) else {
            return Value::default();
        };
        let mut value = self.state.cell(cell);
        if var.up > 0 && value.is_tainted() {
            let name = self.names.intern(self.slice(sp));
            self.note(&mut value, StepKind::Capture, sp, Say::Captured(name));
        }
        value
    }

    fn read_free(&mut self, name: Name, sp: Sp) -> Value {
        if let Some(class) = self.classes.get(&name) {
            let mut value = self.class_value(*class);
            value.path = name;
            return value;
        }
        self.field_source(Name::NONE, Name::NONE, name, sp)
            .unwrap_or_else(|| Value::path(name))
    }

    fn read_path(&mut self, path: Name, sp: Sp) -> Value {
        let text = self.names.shared(path);
        if let Some((recv, name)) = text.rsplit_once('.') {
            let recv = self.names.intern(recv);
            let name = self.names.intern(name);
            if let Some(value) = self.field_source(recv, Name::NONE, name, sp) {
                return value;
            }
        }
        Value::path(path)
    }

    pub(super) fn class_value(&self, class: ClassId) -> Value {
        let mut value = Value::default();
        if let Some(proto) = self.protos.get(class.0 as usize) {
            value.objs.push(*proto);
        }
        value
    }

    /// The attacker-controlled value that reading `name` of the receiver gives, if the models say so.
    fn field_source(&mut self, path: Name, ty: Name, name: Name, sp: Sp) -> Option<Value> {
        let models = self.models;
        let found = {
            let (path, ty) = (self.names.text(path), self.names.text(ty));
            let is_source = |model: &&Model| {
                !model.call
                    && matches!(model.act, Act::Source(_))
                    && model.recv.iter().any(|recv| recv.matches(path, ty, ""))
            };
            models.named(self.names.text(name)).iter().find(is_source)?
        };
        let Act::Source(kind) = found.act else {
            return None;
        };
        let mut value = Value::path(self.names.join(path, name));
        let taint = self.new_taint(StepKind::Source, sp, Say::Source(kind));
        value.add_taint(taint);
        Some(value)
    }

    pub(super) fn get_field(&mut self, object: &Value, name: Name, sp: Sp) -> Value {
        if let Some(value) = self.field_source(object.path, object.ty, name, sp) {
            return value;
        }
        let mut all: Option<Value> = None;
        for id in &object.objs {
            if let Some(value) = self.field_of(*id, name) {
                match &mut all {
                    Some(all) => all.join(&value),
                    None => all = Some(value),
                }
            }
        }
        let mut value = match all {
            Some(mut value) => {
                self.note(&mut value, StepKind::Field, sp, Say::Loaded(name));
                value
            }
            None => Value::default(),
        };
        if value.path.is_none() && !value.konst.is_known() {
            let base = if object.path.is_none() {
                object.ty
            } else {
                object.path
            };
            value.path = self.names.join(base, name);
        }
        if object.is_tainted() && !matches!(self.names.text(name), "length" | "size") {
            let mut own = object.derived();
            self.note(&mut own, StepKind::Propagator, sp, Say::Loaded(name));
            value.add_taints(&own.taint);
        }
        value
    }

    fn field_of(&mut self, id: ObjId, name: Name) -> Option<Value> {
        let obj = self.state.obj(id)?;
        if let Some(value) = obj.fields.get(&name) {
            return Some(value.clone());
        }
        if let Shape::Cell(cell) = obj.shape {
            let inner = self.state.cell(cell);
            let target = inner.objs.first().copied()?;
            return (target != id).then(|| self.state.obj(target)?.fields.get(&name).cloned())?;
        }
        let class = obj.class;
        let rest = (!obj.rest.same(&Value::default())).then(|| obj.rest.clone());
        if let Some(class) = class {
            if let Some(func) = self.method(class, name) {
                let closure = self.alloc(Shape::Closure(func), Sp::default());
                self.state.change(closure, |obj| obj.frame = 0);
                return Some(Value::object(closure));
            }
            let proto = self.protos.get(class.0 as usize).copied()?;
            if proto != id
                && let Some(value) = self
                    .state
                    .obj(proto)
                    .and_then(|proto| proto.fields.get(&name))
            {
                return Some(value.clone());
            }
        }
        rest
    }

    pub(super) fn get_index(&mut self, object: &Value, index: &Value, sp: Sp) -> Value {
        if let Konst::Str(text) = &index.konst {
            let name = self.names.intern(text);
            return self.get_field(object, name, sp);
        }
        if let (Konst::Str(text), Konst::Int(at)) = (&object.konst, &index.konst) {
            let char = usize::try_from(*at)
                .ok()
                .and_then(|at| text.chars().nth(at));
            return char.map_or_else(Value::default, |c| Value::text(c.encode_utf8(&mut [0; 4])));
        }
        let mut value = self.element_at(object, &index.konst);
        self.note(&mut value, StepKind::Field, sp, Say::Element);
        value
    }

    /// The element at a position, or all of them joined where the position is not known.
    pub(super) fn element_at(&self, object: &Value, index: &Konst) -> Value {
        let mut all: Option<Value> = None;
        for id in &object.objs {
            let Some(obj) = self.state.obj(*id) else {
                continue;
            };
            let value = match (index, obj.exact, obj.shape) {
                (Konst::Int(at), true, Shape::List) => at_position(obj, *at),
                (_, _, Shape::Cell(cell)) => self.state.cell(cell),
                _ => obj.content(),
            };
            match &mut all {
                Some(all) => all.join(&value),
                None => all = Some(value),
            }
        }
        let mut value = all.unwrap_or_default();
        value.add_taints(&object.taint);
        if value.path.is_none() && !value.konst.is_known() {
            value.path = object.path;
        }
        value
    }

    pub(super) fn element(&self, object: &Value) -> Value {
        self.element_at(object, &Konst::Unknown)
    }

    /// The elements one by one, where all are known.
    pub(super) fn items(&self, object: &Value) -> Option<Vec<Value>> {
        let [only] = object.objs.as_slice() else {
            return None;
        };
        let obj = self.state.obj(*only)?;
        let plain = obj.exact
            && obj.shape == Shape::List
            && obj.rest.same(&Value::default())
            && !object.is_tainted();
        plain.then(|| obj.items.clone())
    }

    pub(super) fn deref(&self, pointer: &Value) -> Value {
        let mut all: Option<Value> = None;
        for id in &pointer.objs {
            let value = match self.state.obj(*id) {
                Some(obj) => match obj.shape {
                    Shape::Cell(cell) => self.state.cell(cell),
                    Shape::Record => Value::object(*id),
                    _ => obj.content(),
                },
                None => continue,
            };
            match &mut all {
                Some(all) => all.join(&value),
                None => all = Some(value),
            }
        }
        let mut value = all.unwrap_or_default();
        value.add_taints(&pointer.taint);
        value
    }

    fn address(&mut self, place: ExprId, sp: Sp) -> Value {
        let program = self.program;
        match program.expr(place).map(|expr| &expr.kind) {
            Some(ExprKind::Var(var)) => {
                let Some(cell) = self.cell_of(*var) else {
                    return Value::default();
                };
                let value = self.state.cell(cell);
                let is_block = value.objs.first().is_some_and(|id| {
                    self.state.obj(*id).is_some_and(|obj| {
                        matches!(obj.shape, Shape::Buffer | Shape::Record | Shape::List)
                            && obj.sp != sp
                    })
                });
                if is_block && matches!(self.language, Language::C) && self.is_array(*var) {
                    return value;
                }
                let id = self.alloc(Shape::Cell(cell), sp);
                Value::object(id)
            }
            Some(ExprKind::Index(object, _)) => self.eval(*object),
            Some(ExprKind::Deref(pointer)) => self.eval(*pointer),
            _ => self.eval(place),
        }
    }

    /// Whether the variable still holds the array or struct it was declared as.
    fn is_array(&self, var: crate::ir::Var) -> bool {
        let Some(cell) = self.cell_of(var) else {
            return false;
        };
        self.state
            .cell(cell)
            .objs
            .first()
            .and_then(|id| self.state.obj(*id))
            .is_some_and(|obj| matches!(obj.shape, Shape::Record))
    }

    // ── building ──

    fn concat(&mut self, parts: &[ExprId], sp: Sp) -> Value {
        let mut all = Value::default();
        let mut first = true;
        for part in parts {
            let value = self.eval(*part);
            all.konst = if first {
                value.konst.clone()
            } else {
                fold::concat(&all.konst, &value.konst)
            };
            first = false;
            let deep = self.deep(&value);
            all.add_taints(&deep.taint);
            for id in &value.objs {
                // Python joins lists with `+`.
                let keep = self
                    .state
                    .obj(*id)
                    .is_some_and(|obj| matches!(obj.shape, Shape::List));
                if keep {
                    all.add_object(*id);
                }
            }
        }
        self.note(&mut all, StepKind::Propagator, sp, Say::Built);
        all
    }

    fn binary(&mut self, op: Op, left: ExprId, right: ExprId, sp: Sp) -> Value {
        let a = self.eval(left);
        let b = self.eval(right);
        let mut value = Value::konst(fold::binary(op, &a.konst, &b.konst));
        let text = match op {
            // `"%s" % x` of Python; text is never multiplied with text.
            Op::Rem | Op::Add => true,
            Op::Sub if self.language == Language::C => true,
            // `pathlib.Path(folder) / name`
            Op::Div if self.language == Language::Python => {
                let joins = self.names.text(a.path).ends_with("Path()");
                if joins {
                    value.path = a.path;
                }
                joins
            }
            _ => false,
        };
        if text {
            let (a, b) = (self.deep(&a), self.deep(&b));
            value.add_taints(&a.taint);
            value.add_taints(&b.taint);
            self.note(&mut value, StepKind::Propagator, sp, Say::Built);
        }
        if self.language == Language::C && matches!(op, Op::Add | Op::Sub) {
            value.objs = a.objs;
        }
        value
    }

    fn cond(&mut self, cond: ExprId, then: ExprId, other: ExprId) -> Value {
        let test = self.eval(cond);
        match test.konst.truth() {
            Some(true) => self.eval(then),
            Some(false) => self.eval(other),
            None => {
                let mut value = Value::default();
                let yes = self.path(|m| {
                    m.refine(cond, true);
                    value = m.eval(then);
                });
                let mut second = Value::default();
                let no = self.path(|m| {
                    m.refine(cond, false);
                    second = m.eval(other);
                });
                value.join(&second);
                self.state.merge(yes.into_iter().chain(no).collect());
                value
            }
        }
    }

    fn logic(&mut self, left: ExprId, right: ExprId, and: bool) -> Value {
        let a = self.eval(left);
        match a.konst.truth() {
            Some(truth) if truth == and => self.eval(right),
            Some(_) => a,
            None => {
                let mut b = Value::default();
                let done = self.path(|m| {
                    m.refine(left, and);
                    b = m.eval(right);
                });
                let paths = std::iter::once(super::state::Delta::default())
                    .chain(done)
                    .collect();
                self.state.merge(paths);
                if b.konst.truth() == Some(!and) && matches!(b.konst, Konst::Bool(_)) {
                    return Value::konst(Konst::Bool(!and));
                }
                let mut value = a;
                value.join(&b);
                value
            }
        }
    }

    fn list(&mut self, parts: &[ExprId], sp: Sp) -> Value {
        let id = self.alloc(Shape::List, sp);
        for part in parts {
            let value = self.eval(*part);
            self.state.change(id, |obj| obj.push(value));
        }
        Value::object(id)
    }

    fn map(&mut self, entries: &[(Option<ExprId>, ExprId)], sp: Sp) -> Value {
        let id = self.alloc(Shape::Map, sp);
        for (key, value) in entries {
            let key = key.map(|key| self.eval(key));
            let mut value = self.eval(*value);
            match key {
                None => {
                    let spread = value
                        .objs
                        .first()
                        .and_then(|from| self.state.obj(*from))
                        .cloned();
                    let own = value.derived();
                    self.state.change(id, |obj| {
                        if let Some(from) = spread {
                            obj.fields.extend(from.fields);
                            obj.spill(&from.rest);
                        }
                        obj.spill(&own);
                    });
                }
                Some(key) => {
                    self.note(&mut value, StepKind::Field, sp, Say::Element);
                    let name = match &key.konst {
                        Konst::Str(text) => Some(self.names.intern(text)),
                        _ => None,
                    };
                    self.state.change(id, |obj| match name {
                        Some(name) => {
                            obj.fields.insert(name, value);
                        }
                        None => obj.spill(&value),
                    });
                }
            }
        }
        Value::object(id)
    }

    fn pass(&mut self, parts: &[ExprId]) -> Value {
        let mut all: Option<Value> = None;
        for part in parts {
            let value = self.eval(*part);
            match &mut all {
                Some(all) => all.join(&value),
                None => all = Some(value),
            }
        }
        all.unwrap_or_default()
    }

    fn cast(&mut self, value: ExprId, ty: Name) -> Value {
        let mut value = self.eval(value);
        if is_number(self.names.text(ty)) && self.language != Language::C {
            value.taint.clear();
        }
        if !ty.is_none() {
            value.ty = ty;
        }
        value
    }
}

fn is_number(ty: &str) -> bool {
    matches!(
        ty,
        "int"
            | "long"
            | "short"
            | "byte"
            | "double"
            | "float"
            | "boolean"
            | "Integer"
            | "Long"
            | "Double"
            | "Boolean"
    )
}

fn at_position(obj: &Obj, at: i64) -> Value {
    let len = i64::try_from(obj.items.len()).unwrap_or(i64::MAX);
    let at = if at < 0 { at + len } else { at };
    let item = usize::try_from(at).ok().and_then(|at| obj.items.get(at));
    match item {
        Some(item) if obj.rest.same(&Value::default()) => item.clone(),
        Some(item) => {
            let mut item = item.clone();
            item.join(&obj.rest);
            item
        }
        None => obj.rest.clone(),
    }
}

fn literal(lit: &Lit) -> Konst {
    match lit {
        Lit::Null => Konst::Null,
        Lit::Bool(value) => Konst::Bool(*value),
        Lit::Int(value) => Konst::Int(*value),
        Lit::Number => Konst::Unknown,
        Lit::Str(text) => Konst::Str(std::rc::Rc::clone(text)),
    }
}
