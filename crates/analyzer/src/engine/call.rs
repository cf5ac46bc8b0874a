//! Calls: who is called, what the models say of it, and functions of the file followed into.

use crate::finding::{Language, StepKind};
use crate::ir::{Arg, Call, Callee, ClassId, ExprId, FuncId, Name, New, Sp};

use super::machine::{Machine, Say};
use super::resolve::Callable;
use super::value::{ObjId, Shape, Value};

/// A function larger than this is not followed for its constants alone.
const SMALL: u32 = 40;

/// An argument as given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) name: Option<Name>,
    pub(super) sp: Sp,
    pub(super) expr: Option<ExprId>,
}

/// A call as the models see it.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) name: Name,
    pub(super) recv: Value,
    pub(super) recv_expr: Option<ExprId>,
    pub(super) hint: Name,
    pub(super) args: Vec<Given>,
    /// The whole call.
    pub(super) sp: Sp,
}

impl Machine<'_> {
    pub(super) fn call(&mut self, call: &Call, sp: Sp) -> Value {
        let (site, callables) = match &call.callee {
            Callee::Method { recv, name, hint } => {
                let receiver = self.eval(*recv);
                let callables = self.callables_of(&receiver, *name, call.args.len());
                let args = self.args(&call.args);
                let site = Site {
                    name: *name,
                    recv: receiver,
                    recv_expr: Some(*recv),
                    hint: *hint,
                    args,
                    sp,
                };
                (site, callables)
            }
            Callee::Own(name) => {
                let callables = self.own(*name, call.args.len());
                let args = self.args(&call.args);
                let site = Site {
                    name: *name,
                    recv: Value::default(),
                    recv_expr: None,
                    hint: Name::NONE,
                    args,
                    sp,
                };
                (site, callables)
            }
            Callee::Func(callee) => {
                let value = self.eval(*callee);
                if let Some(made) = self.construct_value(&value, &call.args, sp) {
                    return made;
                }
                let callables = self.closures(&value, &Value::default());
                let args = self.args(&call.args);
                (self.plain_site(&value, *callee, args, sp), callables)
            }
        };
        self.dispatch(&site, &callables)
    }

    /// A call of a value: its path says what it is, `os.system` or `system`.
    fn plain_site(&mut self, value: &Value, callee: ExprId, args: Vec<Given>, sp: Sp) -> Site {
        let text = self.names.shared(value.path);
        let (recv, name) = match text.rsplit_once('.') {
            Some((recv, name)) => (self.names.intern(recv), self.names.intern(name)),
            None => (Name::NONE, value.path),
        };
        let mut recv = Value::path(recv);
        recv.add_taints(&value.taint);
        let name = if name.is_none() {
            let at = self
                .program
                .expr(callee)
                .map(|expr| expr.sp)
                .unwrap_or_default();
            let text: String = self.slice(at).chars().take(40).collect();
            self.names.intern(&text)
        } else {
            name
        };
        Site {
            name,
            recv,
            recv_expr: None,
            hint: Name::NONE,
            args,
            sp,
        }
    }

    fn dispatch(&mut self, site: &Site, callables: &[Callable]) -> Value {
        let inner = callables
            .iter()
            .filter(|(func, ..)| {
                self.program
                    .func(*func)
                    .is_some_and(|func| !func.body.is_empty())
            })
            .count();
        if inner > 0 {
            let mut all: Option<Value> = None;
            for (func, frame, this) in callables.iter().take(3) {
                let value = self.run(*func, Some(*frame), this.clone(), &site.args, site.name);
                match &mut all {
                    Some(all) => all.join(&value),
                    None => all = Some(value),
                }
            }
            return all.unwrap_or_default();
        }
        self.outside(site)
    }

    /// A call that leaves the file: what the models and the built-in collections say, or the default.
    pub(super) fn outside(&mut self, site: &Site) -> Value {
        if let Some(value) = self.text_method(site) {
            return value;
        }
        let told = self.consult(site);
        self.cookies(site);
        let builtin = self.xml_parser(site).or_else(|| self.builtin(site));
        let mut value = match (builtin, told.result) {
            (_, Some(value)) => value,
            (Some(value), None) => value,
            (None, None) => self.carried(site),
        };
        self.callbacks(site, &mut value);
        if value.path.is_none() && !value.konst.is_known() {
            value.path = self.call_path(site);
        }
        let clean = told.clean | self.replaced(site);
        if clean != 0 {
            for taint in &mut value.taint {
                taint.clean |= clean;
            }
            if clean == u32::MAX {
                value.taint.clear();
            }
            self.note(
                &mut value,
                StepKind::Sanitizer,
                site.sp,
                Say::Cleaned(site.name),
            );
        }
        value
    }

    /// An object of an unknown class made around a request gives what the request holds, where its getters say so.
    fn wrapped_request(&mut self, site: &Site) -> Option<Value> {
        if site.recv.path == self.known.wrapper {
            let name = self.names.text(site.name).to_lowercase();
            let reads = ["param", "header", "cookie", "query", "form", "body"];
            let gets = reads.iter().any(|word| name.contains(word)) && !name.starts_with("set");
            if !gets {
                return Some(Value::default());
            }
            let mut value = Value::default();
            let taint = self.new_taint(StepKind::Source, site.sp, Say::Source("parameter"));
            value.add_taint(taint);
            return Some(value);
        }
        let made = site.recv.path == self.known.new
            || site.recv_expr.is_none()
            || self.language == Language::Python;
        let around =
            made && site.args.len() == 1 && site.args.iter().any(|arg| self.is_request(&arg.value));
        around.then(|| Value::path(self.known.wrapper))
    }

    fn is_request(&self, value: &Value) -> bool {
        let ends = |name: Name| {
            let text = self.names.text(name);
            matches!(
                text.rsplit('.').next().unwrap_or(text),
                "HttpServletRequest" | "ServletRequest" | "request" | "Request"
            )
        };
        !value.is_tainted()
            && (ends(value.path) || ends(value.ty) || value.path == self.known.wrapper)
    }

    pub(super) fn call_path(&mut self, site: &Site) -> Name {
        let base = if site.recv.path.is_none() {
            site.recv.ty
        } else {
            site.recv.path
        };
        let path = self.names.join(base, site.name);
        self.names.called(path)
    }

    /// Rules for which replacing constant text makes the result harmless: without a quote no string ends, without a
    /// bracket no element begins. Taking out `..` once is no repair: `....//` leaves `../`.
    fn replaced(&self, site: &Site) -> u32 {
        if !matches!(self.names.text(site.name), "replace" | "replaceAll") {
            return 0;
        }
        let old = site
            .args
            .first()
            .and_then(|arg| arg.value.konst.text())
            .unwrap_or_default();
        let bit = |rule: &str| crate::rules::taint_index(rule).map_or(0, |at| 1_u32 << at);
        match old {
            "'" | "\"" => bit("xpath-injection"),
            "<" => bit("cross-site-scripting"),
            _ => 0,
        }
    }

    /// The default: a result carries what went in.
    fn carried(&mut self, site: &Site) -> Value {
        if let Some(value) = self.wrapped_request(site) {
            return value;
        }
        let mut value = self.deep(&site.recv);
        for arg in &site.args {
            let part = self.deep(&arg.value);
            value.add_taints(&part.taint);
        }
        self.note(
            &mut value,
            StepKind::Propagator,
            site.sp,
            Say::Through(site.name),
        );
        value
    }

    pub(super) fn args(&mut self, args: &[Arg]) -> Vec<Given> {
        let mut out = Vec::with_capacity(args.len());
        for arg in args {
            let sp = self
                .program
                .expr(arg.expr)
                .map(|expr| expr.sp)
                .unwrap_or_default();
            let value = self.eval(arg.expr);
            if arg.spread
                && let Some(items) = self.items(&value)
            {
                out.extend(items.into_iter().map(|value| Given {
                    value,
                    name: None,
                    sp,
                    expr: None,
                }));
                continue;
            }
            let value = if arg.spread {
                self.element(&value)
            } else {
                value
            };
            out.push(Given {
                value,
                name: arg.name,
                sp,
                expr: Some(arg.expr),
            });
        }
        out
    }

    // ── making objects ──

    pub(super) fn create(&mut self, new: &New, sp: Sp) -> Value {
        if let Some(body) = new.body {
            let args = self.args(&new.args);
            return self.instance(body, &args, sp);
        }
        if let Some(callee) = new.callee {
            let value = self.eval(callee);
            if let Some(made) = self.construct_value(&value, &new.args, sp) {
                return made;
            }
            let closures = self.closures(&value, &Value::default());
            if let Some((func, frame, _)) = closures.first() {
                let this = Value::object(self.alloc(Shape::Record, sp));
                let args = self.args(&new.args);
                self.run(*func, Some(*frame), this.clone(), &args, new.class);
                return this;
            }
        }
        if let Some(class) = self.classes.get(&new.class).copied() {
            let args = self.args(&new.args);
            return self.instance(class, &args, sp);
        }
        let text = self.names.shared(new.class);
        let simple = text.rsplit('.').next().unwrap_or(&text);
        let name = self.names.intern(simple);
        let args = self.args(&new.args);
        let site = Site {
            name,
            recv: Value::path(self.known.new),
            recv_expr: None,
            hint: Name::NONE,
            args,
            sp,
        };
        let mut value = self.outside(&site);
        if value.path != self.known.wrapper {
            value.path = self.names.join(self.known.new, name);
        }
        if value.objs.is_empty() {
            let id = self.alloc(Shape::Record, sp);
            value.add_object(id);
        }
        value
    }

    /// A call of a class of this file: an instance.
    fn construct_value(&mut self, value: &Value, args: &[Arg], sp: Sp) -> Option<Value> {
        let class = value.objs.iter().find_map(|id| {
            let class = self.state.obj(*id)?.class?;
            (self.protos.get(class.0 as usize) == Some(id)).then_some(class)
        })?;
        let args = self.args(args);
        Some(self.instance(class, &args, sp))
    }

    pub(super) fn instance(&mut self, class: ClassId, args: &[Given], sp: Sp) -> Value {
        let id = self.alloc(Shape::Record, sp);
        self.state.change(id, |obj| obj.class = Some(class));
        self.init_fields(class, id);
        let this = Value::object(id);
        if let Some(func) = self.constructor_chain(class, args.len()) {
            let frame = self.here();
            let name = self
                .program
                .class(class)
                .map(|class| class.name)
                .unwrap_or_default();
            self.run(func, Some(frame), this.clone(), args, name);
        } else if let Some(class) = self.program.class(class).filter(|class| class.record) {
            for (field, arg) in class.fields.iter().zip(args) {
                self.set_field(&this, field.name, arg.value.clone(), arg.sp);
            }
        }
        this
    }

    fn constructor_chain(&self, class: ClassId, arity: usize) -> Option<FuncId> {
        let mut at = class;
        for _ in 0..8 {
            if let Some(func) = self.constructor(at, arity) {
                return Some(func);
            }
            let class = self.program.class(at)?;
            let next = *class
                .supers
                .iter()
                .find_map(|name| self.classes.get(name))?;
            if next == at {
                return None;
            }
            at = next;
        }
        None
    }

    /// Field initialisers of a class and its superclasses, run on an object.
    pub(super) fn init_fields(&mut self, class: ClassId, id: ObjId) {
        let program = self.program;
        let mut chain = vec![class];
        while let Some(class) = chain.last().and_then(|at| program.class(*at)) {
            let next = class.supers.iter().find_map(|name| self.classes.get(name));
            match next {
                Some(next) if !chain.contains(next) && chain.len() < 8 => chain.push(*next),
                _ => break,
            }
        }
        let this = Value::object(id);
        let frame = self.add_frame(FuncId(0), Some(0), this);
        self.stack.push(frame);
        for class in chain.into_iter().rev().filter_map(|at| program.class(at)) {
            for field in &class.fields {
                let mut value = match field.init {
                    Some(init) => self.eval(init),
                    None => Value::default(),
                };
                value.ty = field.ty;
                self.state.change(id, |obj| {
                    obj.fields.insert(field.name, value);
                });
            }
        }
        self.stack.pop();
    }

    // ── following ──

    /// Runs a function of this file with these arguments.
    pub(super) fn run(
        &mut self,
        id: FuncId,
        frame: Option<u32>,
        this: Value,
        args: &[Given],
        name: Name,
    ) -> Value {
        let program = self.program;
        let Some(func) = program.func(id) else {
            return Value::default();
        };
        let again = self
            .stack
            .iter()
            .filter(|at| {
                self.frames
                    .get(**at as usize)
                    .is_some_and(|frame| frame.func == id)
            })
            .count();
        // What is run for itself, and what is given a request, may begin something under any name.
        let gives = |arg: &Given| {
            self.deep(&arg.value).is_tainted()
                || self.calls_back(&arg.value)
                || self.is_request(&arg.value)
        };
        let idle = self.stack.len() > 1
            && !self.touches.get(id.0 as usize).copied().unwrap_or(true)
            && func.weight > SMALL
            && !args.iter().any(gives)
            && !self.deep(&this).is_tainted();
        if idle {
            return Value::default();
        }
        if again > 0 || !self.may_follow() || !self.nest() {
            let mut value = Value::default();
            for arg in args {
                let part = self.deep(&arg.value);
                value.add_taints(&part.taint);
            }
            return value;
        }
        if let Some(called) = self.called.get_mut(id.0 as usize) {
            *called = true;
        }
        let parent = self.lexical(func.parent, frame);
        let at = self.add_frame(id, parent, this);
        self.bind(func, at, args, name);
        let around = std::mem::take(&mut self.around);
        self.stack.push(at);
        self.block(&func.body);
        let value = self.end_frame(at);
        self.stack.pop();
        self.around = around;
        self.depth -= 1;
        value
    }

    /// The value is a function, or an object around one.
    fn calls_back(&self, value: &Value) -> bool {
        value.objs.iter().any(|id| {
            self.state
                .obj(*id)
                .is_some_and(|obj| !matches!(obj.shape, Shape::Buffer | Shape::Cell(_)))
        }) && self.language != Language::C
            || !self.closures(value, &Value::default()).is_empty()
    }

    /// The frame of the function around, found from where the closure was made.
    fn lexical(&self, parent: Option<FuncId>, frame: Option<u32>) -> Option<u32> {
        let wanted = parent?;
        let mut at = frame;
        for _ in 0..64 {
            let frame = self.frames.get(at? as usize)?;
            if frame.func == wanted {
                return at;
            }
            at = frame.parent;
        }
        Some(0)
    }

    fn bind(&mut self, func: &crate::ir::Func, at: u32, args: &[Given], name: Name) {
        let Some(base) = self.frames.get(at as usize).map(|frame| frame.base) else {
            return;
        };
        let own = self.language == Language::Python
            && func.class.is_some()
            && !func.fixed
            && !func.inline;
        let mut positional = args.iter().filter(|arg| arg.name.is_none());
        for (index, param) in func.params.iter().enumerate() {
            let mut value = if own && index == 0 {
                self.frames
                    .get(at as usize)
                    .map(|frame| frame.this.clone())
                    .unwrap_or_default()
            } else if param.rest {
                let id = self.alloc(Shape::List, param.sp);
                for arg in positional.by_ref() {
                    let value = self.passed(arg, name, param.name);
                    self.state.change(id, |obj| obj.push(value));
                }
                Value::object(id)
            } else {
                let arg = args
                    .iter()
                    .find(|arg| arg.name == Some(param.name))
                    .or_else(|| positional.next());
                match (arg, param.default) {
                    (Some(arg), _) => self.passed(arg, name, param.name),
                    (None, Some(default)) => {
                        self.stack.push(at);
                        let value = self.eval(default);
                        self.stack.pop();
                        value
                    }
                    (None, None) => Value::default(),
                }
            };
            if !param.ty.is_none() {
                value.ty = param.ty;
            }
            self.state.set_cell(base + param.slot, value);
        }
    }

    fn passed(&mut self, arg: &Given, callee: Name, param: Name) -> Value {
        let mut value = arg.value.clone();
        if arg.name == Some(param) && arg.expr.is_none() {
            // What a framework passes starts at the parameter itself.
            return value;
        }
        self.note(
            &mut value,
            StepKind::Call,
            arg.sp,
            Say::Passed(callee, param),
        );
        value
    }

    /// Joins all ways out of the function at hand.
    pub(super) fn end_frame(&mut self, at: u32) -> Value {
        let Some(frame) = self.frames.get_mut(at as usize) else {
            return Value::default();
        };
        let ret = frame.ret.take();
        let mut exits = std::mem::take(&mut frame.exits);
        let mark = frame.mark;
        if !exits.is_empty() {
            let alive = !self.state.dead;
            let end = self.state.take(mark);
            if alive {
                exits.push(end);
            }
            self.state.merge(exits);
        }
        ret.unwrap_or_default()
    }

    // ── closures ──

    pub(super) fn closure(&mut self, func: FuncId, sp: Sp) -> Value {
        let id = self.alloc(Shape::Closure(func), sp);
        // An arrow function has the receiver of the function around it; so has a Java lambda.
        if self.program.func(func).is_some_and(|func| func.inline) {
            let this = self.this();
            self.state.change(id, |obj| obj.rest = this);
        }
        self.pending.push((func, id));
        Value::object(id)
    }

    /// Closures handed to code outside the file are called by it.
    fn callbacks(&mut self, site: &Site, result: &mut Value) {
        for arg in &site.args {
            let mut closures = self.closures(&arg.value, &Value::default());
            // An object with functions as fields: handlers, options.
            for id in &arg.value.objs {
                let fields: Vec<Value> = match self.state.obj(*id) {
                    Some(obj) if obj.shape == Shape::Map => {
                        obj.fields.values().take(16).cloned().collect()
                    }
                    _ => Vec::new(),
                };
                for field in fields {
                    closures.extend(self.closures(&field, &arg.value));
                }
            }
            for (func, frame, this) in closures.into_iter().take(4) {
                let given = self.callback_args(site, func);
                let mut value = self.run(func, Some(frame), this, &given, site.name);
                value.konst = super::value::Konst::Unknown;
                result.join(&value);
            }
        }
    }

    /// `addEventListener('message', …)`: other windows may send.
    fn hears_messages(&self, site: &Site) -> bool {
        self.names.text(site.name) == "addEventListener"
            && site
                .args
                .first()
                .is_some_and(|arg| arg.value.konst.text() == Some("message"))
    }

    /// What code outside passes to a callback: the elements of what it was called on, or what a framework would.
    fn callback_args(&mut self, site: &Site, func: FuncId) -> Vec<Given> {
        let count = self.program.func(func).map_or(0, |func| func.params.len());
        let mut inside = if site.recv.objs.is_empty() {
            site.recv.derived()
        } else {
            self.element(&site.recv)
        };
        inside.konst = super::value::Konst::Unknown;
        (0..count)
            .map(|at| {
                let mut value = self.entry_param(func, at);
                if at == 0 && self.hears_messages(site) {
                    value.path = self.names.intern("MessageEvent");
                }
                let own = value.is_tainted();
                if !own && value.path.is_none() {
                    value.add_taints(&inside.taint);
                    for id in &inside.objs {
                        value.add_object(*id);
                    }
                }
                let name = self.param(func, at).map(|param| param.name).filter(|_| own);
                Given {
                    value,
                    name,
                    sp: site.sp,
                    expr: None,
                }
            })
            .collect()
    }
}
