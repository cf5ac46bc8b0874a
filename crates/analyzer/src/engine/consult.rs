//! What the models say of a call: sources, sinks, sanitizers, misuse.

use crate::finding::{Language, StepKind};
use crate::ir::{ExprId, ExprKind, Name, Sp, Target};
use crate::rules::model::{Act, Cond, Model, Sel, glob, plain};

use super::call::{Given, Site};
use super::machine::{Hit, Machine, Misuse, Say};
use super::value::{Konst, Shape, Value};

/// What was said.
#[derive(Default)]
pub(super) struct Told {
    pub(super) result: Option<Value>,
    /// Rules for which the result is harmless.
    pub(super) clean: u32,
}

impl Machine<'_> {
    pub(super) fn consult(&mut self, site: &Site) -> Told {
        let mut told = Told::default();
        for model in self.matching(site) {
            match &model.act {
                Act::Source(kind)
                    if told.result.as_ref().is_none_or(|value| !value.is_tainted()) =>
                {
                    let mut value = Value::path(self.call_path(site));
                    let taint = self.new_taint(StepKind::Source, site.sp, Say::Source(kind));
                    value.add_taint(taint);
                    told.result = Some(value);
                }
                Act::Source(_) | Act::Guard(_) => {}
                Act::Fill(kind) => self.fill(site, model, kind),
                Act::Sink(rule) => {
                    self.sink(site, model, *rule);
                    told.result = told.result.or_else(|| Some(Value::default()));
                }
                Act::Use(rule) => self.misuse(site, model, *rule),
                Act::Clean(mask) => told.clean |= mask,
                Act::Drop => told.result = told.result.or_else(|| Some(Value::default())),
                Act::Keep => {
                    let page = (self.names.text(site.name) == "make_response")
                        .then_some("cross-site-scripting");
                    let mut value = told.result.take().unwrap_or_default();
                    for given in self.selected(site, &model.args) {
                        let given =
                            self.page_body(page.and_then(crate::rules::taint_index), &given.value);
                        let part = self.deep(&given);
                        value.add_taints(&part.taint);
                    }
                    self.note(
                        &mut value,
                        StepKind::Propagator,
                        site.sp,
                        Say::Through(site.name),
                    );
                    told.result = Some(value);
                }
                Act::Copy => told.result = Some(self.copy(site, model, true)),
                Act::Append => told.result = Some(self.copy(site, model, false)),
            }
        }
        told
    }

    fn matching(&self, site: &Site) -> Vec<&'static Model> {
        let path = self.names.text(site.recv.path);
        let ty = self.names.text(site.recv.ty);
        let hint = self.names.text(site.hint);
        let mut found: Vec<&'static Model> = self
            .models
            .named(self.names.text(site.name))
            .iter()
            .filter(|model| {
                model.call && model.recv.iter().any(|recv| recv.matches(path, ty, hint))
            })
            .filter(|model| model.conds.iter().all(|cond| self.holds(site, cond)))
            .collect();
        // What a result carries is decided last: a sink alone gives nothing back.
        found.sort_by_key(|model| matches!(model.act, Act::Keep));
        found
    }

    fn holds(&self, site: &Site, cond: &Cond) -> bool {
        let given = self.selected(site, std::slice::from_ref(&cond.arg));
        let matched = match given.first() {
            None => cond.absent,
            Some(given) => {
                let text = match &given.value.konst {
                    Konst::Str(text) => plain(text),
                    Konst::Bool(value) => value.to_string(),
                    Konst::Int(value) => value.to_string(),
                    Konst::Null => "null".to_owned(),
                    Konst::Unknown => plain(self.names.text(given.value.path)),
                };
                cond.globs.iter().any(|pattern| glob(pattern, &text))
            }
        };
        matched != cond.unless
    }

    pub(super) fn selected(&self, site: &Site, sels: &[Sel]) -> Vec<Given> {
        let mut out = Vec::new();
        let positional = || site.args.iter().filter(|arg| arg.name.is_none());
        for sel in sels {
            match sel {
                Sel::Arg(at) => out.extend(positional().nth(*at).cloned()),
                Sel::From(at) => out.extend(positional().skip(*at).cloned()),
                Sel::Named(name) => {
                    let named = site
                        .args
                        .iter()
                        .find(|arg| arg.name.is_some_and(|n| self.names.text(n) == *name));
                    match named {
                        Some(arg) => out.push(arg.clone()),
                        None => out.extend(self.option(site, name)),
                    }
                }
                Sel::This => out.push(Given {
                    value: site.recv.clone(),
                    name: None,
                    sp: site
                        .recv_expr
                        .and_then(|expr| self.program.expr(expr))
                        .map_or(site.sp, |expr| expr.sp),
                    expr: site.recv_expr,
                }),
            }
        }
        out
    }

    /// A named option given in an object: `{ httpOnly: true }`.
    fn option(&self, site: &Site, name: &str) -> Option<Given> {
        let name = self.names.get(name)?;
        site.args.iter().find_map(|arg| {
            let obj = self.state.obj(*arg.value.objs.first()?)?;
            let value = (obj.shape == Shape::Map).then(|| obj.fields.get(&name))??;
            Some(Given {
                value: value.clone(),
                ..arg.clone()
            })
        })
    }

    // ── sinks ──

    fn sink(&mut self, site: &Site, model: &Model, rule: usize) {
        for given in self.selected(site, &model.args) {
            let value = self.page_body(Some(rule), &given.value);
            if model.args == [Sel::Named("$where")] {
                // Text that the database runs as a program, whatever it was made from.
                self.reach_surely(rule, &value, given.sp, site);
            } else {
                self.reach(rule, &value, given.sp, site);
            }
        }
    }

    /// What of an operand is a page: of Flask's `(body, status, headers)` the body, of Express' objects nothing, since
    /// they are sent as JSON.
    fn page_body(&self, rule: Option<usize>, value: &Value) -> Value {
        if rule.is_none() || crate::rules::taint_index("cross-site-scripting") != rule {
            return value.clone();
        }
        match self.language {
            Language::Python => match self.items(value).as_ref().and_then(|items| items.first()) {
                Some(body) => body.clone(),
                None => value.clone(),
            },
            Language::JavaScript | Language::TypeScript { .. } => {
                let data = value.objs.iter().any(|id| {
                    self.state
                        .obj(*id)
                        .is_some_and(|obj| matches!(obj.shape, Shape::Map | Shape::List))
                });
                if data { value.derived() } else { value.clone() }
            }
            Language::C | Language::Java => value.clone(),
        }
    }

    /// Whether what a taint's source gives can harm by this rule.
    fn counts(&self, rule: usize, trace: u32) -> bool {
        let id = crate::rules::TAINT.get(rule).map_or("", |rule| rule.id);
        let mut built = false;
        let mut at = trace;
        let mut first = None;
        while let Some(node) = self.traces.get(at as usize) {
            built |= matches!(node.say, Say::Built);
            first = Some(*node);
            at = node.parent;
        }
        let Some(first) = first else { return true };
        let (Say::Source(kind) | Say::Filled(kind, _) | Say::Param(kind, _)) = first.say else {
            return true;
        };
        let local = matches!(kind, "environment" | "argument" | "input");
        match id {
            // An operator comes in an object, and only bodies and parsed queries hold objects.
            "nosql-injection" => {
                let text = self.slice(first.sp);
                let flat = ["params", "headers", "cookies"]
                    .iter()
                    .any(|part| text.ends_with(part));
                !built && !local && !flat && matches!(kind, "parameter" | "body")
            }
            // Who starts a script chooses its files; in C the same place may run with more rights than its caller.
            "path-traversal" => !local || matches!(self.language, Language::C | Language::Java),
            "cross-site-scripting"
            | "open-redirect"
            | "server-side-request-forgery"
            | "trust-boundary-violation" => !local || self.language == Language::Java,
            _ => true,
        }
    }

    /// Attacker-controlled data reaches a sink of the rule, unless harmless for it.
    pub(super) fn reach(&mut self, rule: usize, value: &Value, sp: Sp, site: &Site) {
        let mut value = value.clone();
        let deep = self.deep(&value);
        value.objs.clear();
        value.taint = deep.taint;
        value.taint.retain(|taint| self.counts(rule, taint.trace));
        self.reach_surely(rule, &value, sp, site);
    }

    fn reach_surely(&mut self, rule: usize, value: &Value, sp: Sp, site: &Site) {
        let deep = self.deep(value);
        let bit = 1_u32 << rule;
        let callee = self.callee_text(site);
        for taint in &deep.taint {
            if taint.clean & bit != 0 {
                continue;
            }
            let length = self.length(taint.trace);
            let better = self
                .hits
                .get(&(site.sp, rule))
                .is_none_or(|old| length < old.length);
            if better {
                let hit = Hit {
                    trace: taint.trace,
                    length,
                    callee,
                    arg: sp,
                    func: self.func(),
                    built: !value.konst.is_known() && value.path.is_none(),
                };
                self.hits.insert((site.sp, rule), hit);
            }
        }
    }

    /// The callee as written, without arguments: `statement.executeQuery`.
    pub(super) fn callee_text(&mut self, site: &Site) -> Name {
        let text = self.slice(site.sp);
        let name = self.names.text(site.name);
        if site.recv.path == self.known.new {
            let made = format!("new {name}");
            return self.names.intern(&made);
        }
        let end = text.find(name).map_or(text.len(), |at| at + name.len());
        let whole = text.get(..end).unwrap_or_default();
        let short: String = whole.chars().filter(|c| !c.is_whitespace()).collect();
        if short.len() > 60 || short.is_empty() || !short.ends_with(name) {
            return site.name;
        }
        self.names.intern(&short)
    }

    fn misuse(&mut self, site: &Site, model: &Model, rule: usize) {
        let what = model
            .conds
            .iter()
            .filter(|cond| !cond.unless)
            .flat_map(|cond| self.selected(site, std::slice::from_ref(&cond.arg)))
            .find_map(|given| given.value.konst.text().map(str::to_owned))
            .unwrap_or_default();
        self.add_misuse(rule, site, what);
    }

    pub(super) fn add_misuse(&mut self, rule: usize, site: &Site, what: String) {
        let callee = self.callee_text(site);
        let func = self.func();
        self.misuses.entry((site.sp, rule)).or_insert(Misuse {
            callee,
            what,
            func,
            at: site.sp,
        });
    }

    /// Writing to a field that is a sink by its name (`element.innerHTML = x`), or into a session.
    pub(super) fn store_sinks(
        &mut self,
        object: &Value,
        name: Name,
        key: &Value,
        value: &Value,
        sp: Sp,
    ) {
        if !value.is_tainted() && !key.is_tainted() && value.objs.is_empty() {
            return;
        }
        let called = match self.names.shared(object.path).rsplit('.').next() {
            Some(last) if name.is_none() => self.names.intern(last),
            _ => name,
        };
        let site = Site {
            name: called,
            recv: object.clone(),
            recv_expr: None,
            hint: Name::NONE,
            args: Vec::new(),
            sp,
        };
        let path = self.names.text(object.path);
        if path.rsplit('.').next() == Some("session")
            && let Some(rule) = crate::rules::taint_index("trust-boundary-violation")
        {
            self.reach(rule, value, sp, &site);
            self.reach(rule, key, sp, &site);
        }
        let models = self.models;
        let ty = self.names.text(object.ty);
        let path = self.names.text(object.path);
        let sinks: Vec<usize> = models
            .named(self.names.text(name))
            .iter()
            .filter(|model| !model.call && model.recv.iter().any(|recv| recv.matches(path, ty, "")))
            .filter_map(|model| match model.act {
                Act::Sink(rule) => Some(rule),
                _ => None,
            })
            .collect();
        for rule in sinks {
            self.reach(rule, value, sp, &site);
        }
    }

    // ── writing through arguments ──

    fn fill(&mut self, site: &Site, model: &Model, kind: &'static str) {
        for given in self.selected(site, &model.args) {
            let name = self.names.intern(self.slice(given.sp));
            let mut value = Value::default();
            let taint = self.new_taint(StepKind::Source, given.sp, Say::Filled(kind, name));
            value.add_taint(taint);
            self.write(&given, value, false);
        }
    }

    /// `copy` and `append`: moves what is in the further arguments into the first.
    fn copy(&mut self, site: &Site, model: &Model, over: bool) -> Value {
        let given = self.selected(site, &model.args);
        let Some((to, from)) = given.split_first() else {
            return Value::default();
        };
        let mut value = Value::default();
        for part in from {
            let deep = self.deep(&part.value);
            value.add_taints(&deep.taint);
            value.konst = part.value.konst.clone();
        }
        self.note(
            &mut value,
            StepKind::Propagator,
            site.sp,
            Say::Through(site.name),
        );
        if !over {
            value.konst = Konst::Unknown;
        }
        self.write(to, value, over);
        to.value.clone()
    }

    /// Writes `value` to where an argument points.
    fn write(&mut self, to: &Given, value: Value, over: bool) {
        let inside = to.expr.is_some_and(|expr| self.is_offset(expr));
        let over = over && !inside;
        let mut done = false;
        for id in &to.value.objs {
            let shape = self.state.obj(*id).map(|obj| obj.shape);
            done = true;
            match shape {
                Some(Shape::Cell(cell)) => {
                    let mut old = self.state.cell(cell);
                    if old.objs.is_empty() {
                        if over {
                            old = Value::default();
                        }
                        old.add_taints(&value.taint);
                        old.konst = Konst::Unknown;
                        self.state.set_cell(cell, old);
                    } else {
                        for inner in old.objs {
                            self.state.change(inner, |obj| obj.spill(&value));
                        }
                    }
                }
                Some(Shape::Closure(_)) | None => {}
                Some(_) if over && to.value.objs.len() == 1 => self.state.change(*id, |obj| {
                    obj.items.clear();
                    obj.rest = value.clone();
                }),
                Some(_) => self.state.change(*id, |obj| obj.spill(&value)),
            }
        }
        if !done && let Some(expr) = to.expr {
            self.taint_place(expr, &value, to.sp);
        }
    }

    /// A pointer into the middle of a block.
    fn is_offset(&self, expr: ExprId) -> bool {
        match self.program.expr(expr).map(|expr| &expr.kind) {
            Some(ExprKind::Binary(..) | ExprKind::Concat(_)) => true,
            Some(ExprKind::Cast(inner, _) | ExprKind::AddrOf(inner)) => self.is_offset(*inner),
            Some(ExprKind::Index(..)) => true,
            _ => false,
        }
    }

    /// The variable or field that an expression stands for now also holds `value`.
    pub(super) fn taint_place(&mut self, place: ExprId, value: &Value, sp: Sp) {
        let program = self.program;
        match program.expr(place).map(|expr| &expr.kind) {
            Some(ExprKind::Var(var)) => {
                if let Some(cell) = self.cell_of(*var) {
                    let mut old = self.state.cell(cell);
                    old.add_taints(&value.taint);
                    old.konst = Konst::Unknown;
                    self.state.set_cell(cell, old);
                }
            }
            Some(ExprKind::Field(object, name)) => {
                let target = Target::Field(*object, *name, sp);
                self.assign(&target, value.clone());
            }
            Some(
                ExprKind::Cast(inner, _)
                | ExprKind::AddrOf(inner)
                | ExprKind::Deref(inner)
                | ExprKind::Index(inner, _),
            ) => self.taint_place(*inner, value, sp),
            Some(ExprKind::Binary(_, left, _)) => self.taint_place(*left, value, sp),
            Some(ExprKind::Concat(parts)) => {
                if let Some(first) = parts.first() {
                    self.taint_place(*first, value, sp);
                }
            }
            _ => {}
        }
    }
}
