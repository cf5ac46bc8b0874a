//! What a condition says of the variables in it on the path where it holds.

use crate::finding::StepKind;
use crate::ir::{Call, Callee, Case, ExprId, ExprKind, Op, Sp};
use crate::rules::model::{Act, Sel};

use super::machine::{Machine, Say};
use super::value::{Konst, Value};

/// Calls that make a path canonical: only then does a check of its start mean anything.
const CANONICAL: &[&str] = &[
    "getCanonicalPath",
    "getCanonicalFile",
    "normalize",
    "toRealPath",
    "realpath",
    "abspath",
    "normpath",
    "resolve",
    "canonicalize_file_name",
    "is_relative_to",
    "join",
];

impl Machine<'_> {
    /// The condition was found to be `truth`.
    pub(super) fn refine(&mut self, cond: ExprId, truth: bool) {
        if !self.nest() {
            return;
        }
        let program = self.program;
        match program.expr(cond).map(|expr| (&expr.kind, expr.sp)) {
            Some((ExprKind::Unary(Op::Not, inner), _)) => self.refine(*inner, !truth),
            Some((ExprKind::And(left, right), _)) if truth => {
                self.refine(*left, true);
                self.refine(*right, true);
            }
            Some((ExprKind::Or(left, right), _)) if !truth => {
                self.refine(*left, false);
                self.refine(*right, false);
            }
            Some((ExprKind::Binary(op, left, right), sp)) => {
                self.refine_binary(*op, *left, *right, truth, sp);
            }
            Some((ExprKind::Call(call), sp)) => self.refine_call(call, truth, sp),
            Some((ExprKind::Seq(parts), _)) => {
                if let Some(last) = parts.last() {
                    self.refine(*last, truth);
                }
            }
            _ => {}
        }
        self.depth -= 1;
    }

    /// One case of a `switch` is entered: the subject is what its only label says.
    pub(super) fn refine_case(&mut self, subject: ExprId, case: &Case) {
        if let ([label], false) = (case.labels.as_slice(), case.default) {
            let label = self.peeked(*label);
            self.becomes(subject, &label);
        }
    }

    fn refine_binary(&mut self, op: Op, left: ExprId, right: ExprId, truth: bool, sp: Sp) {
        match (op, truth) {
            (Op::Eq, true) | (Op::Ne, false) => {
                let (a, b) = (self.peeked(left), self.peeked(right));
                self.becomes(left, &b);
                self.becomes(right, &a);
                if b.konst.is_known() {
                    self.host_checked(left);
                }
            }
            // `x in ("a", "b")` is an allow-list; `".." in x` is a search inside x.
            (Op::In, true) | (Op::NotIn, false) => {
                let list = self.peeked(right);
                if !self.deep(&list).is_tainted() {
                    self.harmless(left, u32::MAX, sp);
                    self.host_checked(left);
                }
            }
            (Op::In, false) | (Op::NotIn, true) => self.lacks(left, right, sp),
            // `x.indexOf("..") >= 0`, `find(…) == -1`
            _ => self.refine_search(op, left, right, truth, sp),
        }
    }

    /// The text `place` does not hold `needle`.
    fn lacks(&mut self, needle: ExprId, place: ExprId, sp: Sp) {
        let needle = self.peeked(needle);
        let Some(text) = needle.konst.text() else {
            return;
        };
        let mut mask = 0;
        if text.contains("..") {
            mask |= bit("path-traversal");
        }
        if matches!(text, "'" | "\"") {
            // What can't end a string stays inside it.
            mask |= bit("xpath-injection") | bit("code-injection");
        }
        if mask != 0 {
            let program = self.program;
            let place = match program.expr(place).map(|expr| &expr.kind) {
                // `"'" in x[1:-1]`
                Some(ExprKind::Pass(parts)) => parts.first().copied().unwrap_or(place),
                _ => place,
            };
            self.harmless(place, mask, sp);
        }
    }

    /// The host of a parsed address was compared with what is allowed: the address itself is harmless.
    fn host_checked(&mut self, place: ExprId) {
        let program = self.program;
        let object = match program.expr(place).map(|expr| &expr.kind) {
            Some(ExprKind::Field(object, name)) => Some((*object, *name)),
            Some(ExprKind::Call(call)) => match &call.callee {
                Callee::Method { recv, name, .. } => Some((*recv, *name)),
                _ => None,
            },
            _ => None,
        };
        let Some((object, name)) = object else { return };
        if matches!(
            self.names.text(name),
            "netloc" | "hostname" | "host" | "getHost" | "getAuthority" | "origin"
        ) {
            let value = self.peeked(object);
            let mask = bit("open-redirect") | bit("server-side-request-forgery");
            for taint in value.taint {
                self.harmless_root(taint.root, mask);
            }
        }
    }

    fn refine_search(&mut self, op: Op, left: ExprId, right: ExprId, truth: bool, sp: Sp) {
        let program = self.program;
        let limit = self.peeked(right).konst;
        let absent = matches!(
            (op, truth, &limit),
            (Op::Ge, false, Konst::Int(0))
                | (Op::Gt | Op::Ne, false, Konst::Int(-1))
                | (Op::Lt, true, Konst::Int(0))
        );
        if absent
            && let Some(ExprKind::Call(call)) = program.expr(left).map(|expr| &expr.kind)
            && let Callee::Method { recv, .. } = &call.callee
            && let Some(arg) = call.args.first()
            && self
                .peeked(arg.expr)
                .konst
                .text()
                .is_some_and(|text| text.contains(".."))
        {
            self.harmless(*recv, bit("path-traversal"), sp);
        }
    }

    fn refine_call(&mut self, call: &Call, truth: bool, sp: Sp) {
        let Callee::Method { recv, name, .. } = &call.callee else {
            self.refine_plain(call, truth, sp);
            return;
        };
        let text = self.names.shared(*name);
        match &*text {
            "equals" | "equalsIgnoreCase" if truth => {
                if let Some(arg) = call.args.first() {
                    let (a, b) = (self.peeked(*recv), self.peeked(arg.expr));
                    self.becomes(*recv, &b);
                    self.becomes(arg.expr, &a);
                    self.host_checked(*recv);
                    self.host_checked(arg.expr);
                }
            }
            "contains" | "includes" | "containsKey" | "has" | "indexOf" | "test" | "exec"
            | "match" | "fullmatch"
                if truth =>
            {
                let list = self.peeked(*recv);
                if !self.deep(&list).is_tainted()
                    && let Some(arg) = call.args.last()
                {
                    self.harmless(arg.expr, u32::MAX, sp);
                    self.host_checked(arg.expr);
                }
            }
            "contains" | "includes" => {
                let needle = call
                    .args
                    .first()
                    .map(|arg| self.peeked(arg.expr))
                    .unwrap_or_default();
                if needle.konst.text().is_some_and(|text| text.contains("..")) {
                    self.harmless(*recv, bit("path-traversal"), sp);
                }
            }
            "startsWith" | "startswith" | "is_relative_to" if truth => self.refine_start(*recv, sp),
            _ if truth => self.refine_model(call, *recv, &text, sp),
            _ => {}
        }
    }

    /// A path that starts with the allowed folder is harmless, if it was made canonical before.
    fn refine_start(&mut self, recv: ExprId, sp: Sp) {
        let program = self.program;
        let mut at = recv;
        let mut canonical = false;
        for _ in 0..8 {
            match program.expr(at).map(|expr| &expr.kind) {
                Some(ExprKind::Call(call)) => match &call.callee {
                    Callee::Method { recv, name, .. } => {
                        canonical |= CANONICAL.contains(&self.names.text(*name));
                        // `os.path.realpath(p)`: the argument, not the module.
                        at = match call.args.first() {
                            Some(arg) if !self.peeked(*recv).is_tainted() => arg.expr,
                            _ => *recv,
                        };
                    }
                    _ => break,
                },
                Some(ExprKind::Cast(inner, _)) => at = *inner,
                _ => break,
            }
        }
        let value = self.peeked(at);
        let path = self.names.text(value.path);
        canonical |= CANONICAL.iter().any(|name| path.contains(name));
        if canonical {
            self.harmless(at, bit("path-traversal"), sp);
            for taint in value.taint {
                self.harmless_root(taint.root, bit("path-traversal"));
            }
        }
    }

    fn refine_model(&mut self, call: &Call, recv: ExprId, name: &str, sp: Sp) {
        let models = self.models;
        for model in models.named(name) {
            let Act::Guard(mask) = model.act else {
                continue;
            };
            for sel in &model.args {
                let place = match sel {
                    Sel::This => Some(recv),
                    Sel::Arg(at) => call.args.get(*at).map(|arg| arg.expr),
                    Sel::From(_) | Sel::Named(_) => None,
                };
                if let Some(place) = place {
                    self.harmless(place, mask, sp);
                }
            }
        }
    }

    fn refine_plain(&mut self, call: &Call, truth: bool, sp: Sp) {
        let program = self.program;
        let name = match &call.callee {
            Callee::Own(name) => Some(*name),
            Callee::Func(callee) => match program.expr(*callee).map(|expr| &expr.kind) {
                Some(ExprKind::Free(name)) => Some(*name),
                _ => None,
            },
            Callee::Method { .. } => None,
        };
        let Some(name) = name else { return };
        let text = self.names.shared(name);
        let models = self.models;
        let guards = models
            .named(&text)
            .iter()
            .find_map(|model| match model.act {
                Act::Guard(mask) => Some(mask),
                _ => None,
            });
        if truth
            && let Some(mask) = guards
            && let Some(arg) = call.args.first()
        {
            self.harmless(arg.expr, mask, sp);
        }
    }

    // ── variables ──

    /// The value of a variable or literal, without evaluating anything.
    pub(super) fn peeked(&mut self, expr: ExprId) -> Value {
        let program = self.program;
        match program.expr(expr).map(|expr| &expr.kind) {
            Some(ExprKind::Var(var)) => self
                .cell_of(*var)
                .map(|cell| self.state.cell(cell))
                .unwrap_or_default(),
            Some(ExprKind::Lit(_) | ExprKind::List(_) | ExprKind::Free(_)) => self.eval(expr),
            Some(ExprKind::Field(..) | ExprKind::Path(_)) => {
                let mark = self.state.mark();
                let value = self.eval(expr);
                self.state.take(mark);
                value
            }
            Some(ExprKind::Cast(inner, _)) => self.peeked(*inner),
            Some(ExprKind::Unary(Op::Neg, _)) => self.eval(expr),
            _ => Value::default(),
        }
    }

    /// The variable equals a constant on this path.
    fn becomes(&mut self, place: ExprId, value: &Value) {
        if !value.konst.is_known() || matches!(value.konst, Konst::Null | Konst::Bool(_)) {
            return;
        }
        let program = self.program;
        if let Some(ExprKind::Var(var)) = program.expr(place).map(|expr| &expr.kind)
            && let Some(cell) = self.cell_of(*var)
        {
            let old = self.state.cell(cell);
            if !old.konst.is_known() && old.objs.is_empty() {
                self.state.set_cell(cell, Value::konst(value.konst.clone()));
            }
        }
    }

    /// The variable is harmless for these rules on this path.
    fn harmless(&mut self, place: ExprId, mask: u32, sp: Sp) {
        let program = self.program;
        match program.expr(place).map(|expr| &expr.kind) {
            Some(ExprKind::Var(var)) => {
                if let Some(cell) = self.cell_of(*var) {
                    let mut value = self.state.cell(cell);
                    if value.is_tainted() {
                        self.checked(&mut value, mask, sp);
                        self.state.set_cell(cell, value);
                    }
                }
            }
            Some(ExprKind::Cast(inner, _)) => self.harmless(*inner, mask, sp),
            Some(ExprKind::Field(object, name)) => {
                let object = self.peeked(*object);
                for id in &object.objs {
                    let Some(mut value) = self
                        .state
                        .obj(*id)
                        .and_then(|obj| obj.fields.get(name).cloned())
                    else {
                        continue;
                    };
                    self.checked(&mut value, mask, sp);
                    self.state.change(*id, |obj| {
                        obj.fields.insert(*name, value);
                    });
                }
            }
            Some(ExprKind::Call(call)) => {
                // `x.trim().matches(…)`
                if let Callee::Method { recv, .. } = &call.callee {
                    self.harmless(*recv, mask, sp);
                }
            }
            _ => {}
        }
    }

    fn checked(&mut self, value: &mut Value, mask: u32, sp: Sp) {
        if mask == u32::MAX {
            value.taint.clear();
            return;
        }
        for taint in &mut value.taint {
            taint.clean |= mask;
        }
        self.note(value, StepKind::Guard, sp, Say::Checked);
    }

    /// Everything in the frame that comes from the same source is harmless for these rules.
    fn harmless_root(&mut self, root: u32, mask: u32) {
        let Some(frame) = self.frame() else { return };
        let base = frame.base;
        let slots = self.program.func(frame.func).map_or(0, |func| func.slots);
        for cell in base..base.saturating_add(slots) {
            let mut value = self.state.cell(cell);
            let mut changed = false;
            for taint in value.taint.iter_mut().filter(|taint| taint.root == root) {
                taint.clean |= mask;
                changed = true;
            }
            if changed {
                self.state.set_cell(cell, value);
            }
        }
    }
}

fn bit(rule: &str) -> u32 {
    crate::rules::taint_index(rule).map_or(0, |at| 1 << at)
}
