//! Statements.

use crate::finding::StepKind;
use crate::ir::{Case, ExprId, ExprKind, Part, Sp, Stmt, StmtKind, Target};

use super::machine::{Around, Machine, Say};
use super::state::Delta;
use super::value::{Konst, Obj, Shape, Value};

/// Rounds of a loop whose condition is a constant each time: enough for counters that start a thing once.
const EXACT_ROUNDS: u32 = 6;
/// Rounds of any other loop: what is carried from one round to the next shows in the second.
const ROUNDS: u32 = 2;

impl Machine<'_> {
    pub(super) fn block(&mut self, block: &[Stmt]) {
        for stmt in block {
            if self.state.dead || self.spent() {
                return;
            }
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        if !self.step() || !self.nest() {
            return;
        }
        match &stmt.kind {
            StmtKind::Expr(expr) => {
                self.eval(*expr);
            }
            StmtKind::If { cond, then, other } => self.branch(*cond, then, other),
            StmtKind::Loop {
                cond,
                body,
                update,
                post,
            } => self.looping(*cond, body, update, *post),
            StmtKind::ForEach {
                target,
                iter,
                body,
                keys,
            } => self.for_each(target, *iter, body, *keys),
            StmtKind::Switch { value, cases } => self.switch(*value, cases),
            StmtKind::Try {
                body,
                catches,
                last,
            } => self.trying(body, catches, last),
            StmtKind::Return(value) => self.returning(*value, stmt.sp),
            StmtKind::Yield(value) => {
                let value = self.eval(*value);
                match self.yields.last_mut() {
                    Some(all) if !all.same(&Value::default()) => all.join(&value),
                    Some(all) => *all = value,
                    None => {}
                }
            }
            StmtKind::Throw(value) => {
                if let Some(value) = value {
                    self.eval(*value);
                }
                self.state.dead = true;
            }
            StmtKind::Break => self.leave(false),
            StmtKind::Continue => self.leave(true),
            StmtKind::Block(body) => self.block(body),
        }
        self.depth -= 1;
    }

    /// Runs `with` as one of several paths from here; what it did is taken back and returned, if it comes out alive.
    pub(super) fn path(&mut self, with: impl FnOnce(&mut Self)) -> Option<Delta> {
        let mark = self.state.mark();
        with(self);
        let delta = self.state.take(mark);
        let alive = !self.state.dead;
        self.state.dead = false;
        alive.then_some(delta)
    }

    fn branch(&mut self, cond: ExprId, then: &[Stmt], other: &[Stmt]) {
        let value = self.eval(cond);
        match value.konst.truth() {
            Some(true) => {
                self.refine(cond, true);
                self.block(then);
            }
            Some(false) => {
                self.refine(cond, false);
                self.block(other);
            }
            None => {
                let yes = self.path(|m| {
                    m.refine(cond, true);
                    m.block(then);
                });
                let no = self.path(|m| {
                    m.refine(cond, false);
                    m.block(other);
                });
                self.state.merge(yes.into_iter().chain(no).collect());
            }
        }
    }

    fn leave(&mut self, again: bool) {
        let found = self
            .around
            .iter()
            .rposition(|around| around.is_loop || !again);
        if let Some(at) = found
            && let Some(mark) = self.around.get(at).map(|around| around.mark)
        {
            let delta = self.state.peek(mark);
            if let Some(around) = self.around.get_mut(at) {
                if again {
                    around.continues.push(delta);
                } else {
                    around.breaks.push(delta);
                }
            }
        }
        self.state.dead = true;
    }

    fn returning(&mut self, value: Option<ExprId>, sp: Sp) {
        let value = match value {
            Some(value) => self.eval(value),
            None => Value::default(),
        };
        self.give(value, sp);
    }

    /// Ends the function at hand with `value`.
    pub(super) fn give(&mut self, mut value: Value, sp: Sp) {
        self.returned_page(&value, sp);
        let name = self.program.func(self.func()).map(|func| func.name);
        if self.stack.len() > 1 {
            self.note(
                &mut value,
                StepKind::Return,
                sp,
                Say::Returned(name.unwrap_or_default()),
            );
        }
        let Some(mark) = self.frame().map(|frame| frame.mark) else {
            return;
        };
        let delta = self.state.peek(mark);
        if let Some(frame) = self.frame_mut() {
            match &mut frame.ret {
                Some(ret) => ret.join(&value),
                None => frame.ret = Some(value),
            }
            frame.exits.push(delta);
        }
        self.state.dead = true;
    }

    /// One more round: the body, then what `continue` left, then the update.
    fn round(&mut self, body: &[Stmt], update: &[Stmt]) {
        let mark = self.state.mark();
        self.around.push(Around {
            mark,
            breaks: Vec::new(),
            continues: Vec::new(),
            is_loop: true,
        });
        self.block(body);
        let Some(around) = self.around.last_mut() else {
            return;
        };
        let mut again = std::mem::take(&mut around.continues);
        if !again.is_empty() {
            let alive = !self.state.dead;
            let end = self.state.take(mark);
            if alive {
                again.push(end);
            }
            self.state.merge(again);
        }
        if !self.state.dead {
            self.block(update);
        }
    }

    fn looping(&mut self, cond: Option<ExprId>, body: &[Stmt], update: &[Stmt], post: bool) {
        let start = self.state.mark();
        let mut outs: Vec<Delta> = Vec::new();
        let mut rounds = 0;
        let mut open = 0;
        loop {
            let truth = if post && rounds == 0 {
                Some(true)
            } else {
                match cond {
                    Some(cond) => self.eval(cond).konst.truth(),
                    None => Some(true),
                }
            };
            if truth != Some(true) {
                outs.push(self.state.peek(start));
            }
            if truth == Some(false) || self.spent() {
                break;
            }
            if truth.is_none() {
                open += 1;
                if let Some(cond) = cond {
                    self.refine(cond, true);
                }
            }
            if open > ROUNDS || rounds > EXACT_ROUNDS {
                outs.push(self.state.peek(start));
                break;
            }
            let before = self.state.peek(start);
            let base = self.around.len();
            self.round(body, update);
            // Breaks are relative to this round; what went before it must be with them.
            let breaks = self
                .around
                .pop()
                .map(|around| around.breaks)
                .unwrap_or_default();
            debug_assert_eq!(base, self.around.len());
            self.collect_breaks(start, &before, breaks, &mut outs);
            if self.state.dead {
                break;
            }
            if open > 0 {
                self.widen(start, &before);
            }
            rounds += 1;
        }
        self.state.take(start);
        self.state.merge(outs);
    }

    /// Turns what `break` left, relative to a round, into what it is relative to the start of the loop.
    fn collect_breaks(
        &mut self,
        start: super::state::Mark,
        before: &Delta,
        breaks: Vec<Delta>,
        outs: &mut Vec<Delta>,
    ) {
        if breaks.is_empty() {
            return;
        }
        let alive = !self.state.dead;
        let now = self.state.take(start);
        for delta in breaks {
            let mark = self.state.mark();
            self.state.apply(before.clone());
            self.state.apply(delta);
            outs.push(self.state.take(mark));
        }
        self.state.apply(now);
        self.state.dead = !alive;
    }

    /// The next round starts from what holds before and after the last one.
    fn widen(&mut self, start: super::state::Mark, before: &Delta) {
        let after = self.state.take(start);
        self.state.merge(vec![before.clone(), after]);
    }

    fn for_each(&mut self, target: &Target, iter: ExprId, body: &[Stmt], keys: bool) {
        let source = self.eval(iter);
        let sp = self
            .program
            .expr(iter)
            .map(|expr| expr.sp)
            .unwrap_or_default();
        let items = self.items(&source);
        let start = self.state.mark();
        let mut outs: Vec<Delta> = Vec::new();
        let exact = items
            .as_ref()
            .is_some_and(|items| items.len() <= EXACT_ROUNDS as usize)
            && !keys;
        let list = match items {
            Some(items) if exact => items,
            _ => {
                outs.push(Delta::default());
                vec![
                    if keys {
                        source.derived()
                    } else {
                        self.element(&source)
                    };
                    ROUNDS as usize
                ]
            }
        };
        for mut value in list {
            if self.state.dead || self.spent() {
                break;
            }
            self.note(&mut value, StepKind::Propagator, sp, Say::Element);
            self.assign(target, value);
            let before = self.state.peek(start);
            self.round(body, &[]);
            let breaks = self
                .around
                .pop()
                .map(|around| around.breaks)
                .unwrap_or_default();
            self.collect_breaks(start, &before, breaks, &mut outs);
            if !exact && !self.state.dead {
                self.widen(start, &before);
            }
        }
        let alive = !self.state.dead;
        let end = self.state.take(start);
        if alive {
            outs.push(end);
        }
        self.state.merge(outs);
    }

    fn switch(&mut self, value: ExprId, cases: &[Case]) {
        let subject = self.eval(value);
        let labels: Vec<Vec<Value>> = cases
            .iter()
            .map(|case| case.labels.iter().map(|label| self.eval(*label)).collect())
            .collect();
        let known =
            subject.konst.is_known() && labels.iter().flatten().all(|label| label.konst.is_known());
        let mark = self.state.mark();
        self.around.push(Around {
            mark,
            breaks: Vec::new(),
            continues: Vec::new(),
            is_loop: false,
        });
        let mut outs: Vec<Delta> = Vec::new();
        if known {
            let hit = labels
                .iter()
                .position(|labels| labels.iter().any(|label| label.konst == subject.konst))
                .or_else(|| cases.iter().position(|case| case.default));
            if let Some(hit) = hit {
                for case in cases.get(hit..).unwrap_or_default() {
                    self.block(&case.body);
                }
            }
        } else {
            let mut fall: Option<Delta> = None;
            for case in cases {
                let from = fall.take();
                fall = self.path(|m| {
                    if let Some(from) = from {
                        m.state.merge(vec![Delta::default(), from]);
                    }
                    m.refine_case(value, case);
                    m.block(&case.body);
                });
            }
            outs.extend(fall);
            if !cases.iter().any(|case| case.default) {
                outs.push(Delta::default());
            }
            self.state.dead = true;
        }
        let breaks = self
            .around
            .pop()
            .map(|around| around.breaks)
            .unwrap_or_default();
        if breaks.is_empty() && known {
            return;
        }
        let alive = !self.state.dead;
        let end = self.state.take(mark);
        if alive {
            outs.push(end);
        }
        outs.extend(breaks);
        self.state.merge(outs);
    }

    fn trying(&mut self, body: &[Stmt], catches: &[Vec<Stmt>], last: &[Stmt]) {
        let mark = self.state.mark();
        self.block(body);
        let alive = !self.state.dead;
        let done = self.state.take(mark);
        self.state.dead = false;
        let mut outs = Vec::new();
        for handler in catches {
            let partly = done.clone();
            outs.extend(self.path(|m| {
                m.state.merge(vec![Delta::default(), partly]);
                m.block(handler);
            }));
        }
        if alive {
            outs.push(done);
        } else if catches.is_empty() {
            self.state.apply(done);
        }
        if alive || !catches.is_empty() {
            self.state.merge(outs);
        }
        let dead = self.state.dead || (!alive && catches.is_empty());
        self.state.dead = false;
        self.block(last);
        self.state.dead |= dead;
    }

    // ── assignment ──

    pub(super) fn assign(&mut self, target: &Target, value: Value) {
        match target {
            Target::Var(var, sp) => self.assign_var(*var, *sp, value),
            Target::Field(object, name, sp) => {
                let place = *object;
                let mut object = self.eval(place);
                if object.objs.is_empty() && value.is_tainted() {
                    object = self.made_real(place, object, *sp, 4);
                }
                self.store_sinks(&object, *name, &Value::default(), &value, *sp);
                self.set_field(&object, *name, value, *sp);
            }
            Target::Index(object, index, sp) => {
                let object_value = self.eval(*object);
                let index = self.eval(*index);
                self.store_sinks(&object_value, crate::ir::Name::NONE, &index, &value, *sp);
                if object_value.objs.is_empty() && value.is_tainted() {
                    self.taint_place(*object, &value, *sp);
                }
                self.set_index(&object_value, &index, value, *sp);
            }
            Target::Deref(pointer, sp) => {
                let object = self.eval(*pointer);
                self.set_deref(&object, value, *sp);
            }
            Target::Pattern(parts) => {
                for (part, target) in parts {
                    let piece = match part {
                        Part::At(at) => {
                            let index = Value::konst(Konst::Int(i64::try_from(*at).unwrap_or(0)));
                            self.get_index(&value, &index, target_span(target))
                        }
                        Part::Key(name) => self.get_field(&value, *name, target_span(target)),
                        Part::Rest => value.clone(),
                    };
                    self.assign(target, piece);
                }
            }
            Target::Ignore => {}
        }
    }

    /// A field is written of something nothing is known of: from here on it is an object of its own.
    fn made_real(&mut self, place: ExprId, old: Value, sp: Sp, depth: u8) -> Value {
        let program = self.program;
        let kind = program.expr(place).map(|expr| &expr.kind);
        let mut value = old;
        match kind {
            Some(ExprKind::Var(var)) => {
                let id = self.alloc(Shape::Record, sp);
                value.add_object(id);
                if let Some(cell) = self.cell_of(*var) {
                    self.state.set_cell(cell, value.clone());
                }
            }
            Some(ExprKind::Field(outer, name)) if depth > 0 => {
                let mut object = self.eval(*outer);
                if object.objs.is_empty() {
                    object = self.made_real(*outer, object, sp, depth - 1);
                }
                if !object.objs.is_empty() {
                    let id = self.alloc(Shape::Record, sp);
                    value.add_object(id);
                    self.set_field(&object, *name, value.clone(), sp);
                }
            }
            _ => {}
        }
        value
    }

    fn assign_var(&mut self, var: crate::ir::Var, sp: Sp, mut value: Value) {
        let Some(cell) = self.cell_of(var) else {
            return;
        };
        let name = self.names.intern(self.slice(sp));
        let (kind, say) = if var.up > 0 {
            (StepKind::Capture, Say::Captured(name))
        } else {
            (StepKind::Propagator, Say::Assigned(name))
        };
        self.note(&mut value, kind, sp, say);
        self.state.set_cell(cell, value);
    }

    pub(super) fn set_field(
        &mut self,
        object: &Value,
        name: crate::ir::Name,
        mut value: Value,
        sp: Sp,
    ) {
        self.note(&mut value, StepKind::Field, sp, Say::Stored(name));
        let sure = object.objs.len() == 1;
        for id in &object.objs {
            self.state.change(*id, |obj| {
                if sure {
                    obj.fields.insert(name, value.clone());
                } else {
                    obj.fields.entry(name).or_default().join(&value);
                }
            });
        }
    }

    pub(super) fn set_index(&mut self, object: &Value, index: &Value, mut value: Value, sp: Sp) {
        self.note(&mut value, StepKind::Field, sp, Say::Element);
        let key = match &index.konst {
            Konst::Str(text) => Some(self.names.intern(text)),
            _ => None,
        };
        let at = match index.konst {
            Konst::Int(at) => usize::try_from(at).ok(),
            _ => None,
        };
        for id in &object.objs {
            self.state.change(*id, |obj| store(obj, key, at, &value));
        }
    }

    pub(super) fn set_deref(&mut self, object: &Value, mut value: Value, sp: Sp) {
        self.note(&mut value, StepKind::Field, sp, Say::Element);
        for id in &object.objs {
            match self.state.obj(*id).map(|obj| obj.shape) {
                Some(Shape::Cell(cell)) => self.state.set_cell(cell, value.clone()),
                Some(_) => self.state.change(*id, |obj| obj.spill(&value)),
                None => {}
            }
        }
    }
}

fn store(obj: &mut Obj, key: Option<crate::ir::Name>, at: Option<usize>, value: &Value) {
    match (key, at) {
        (Some(key), _) => {
            obj.fields.insert(key, value.clone());
        }
        (None, Some(at)) if obj.exact && at < 64 && !matches!(obj.shape, Shape::Buffer) => {
            while obj.items.len() <= at {
                obj.items.push(Value::default());
            }
            if let Some(item) = obj.items.get_mut(at) {
                *item = value.clone();
            }
        }
        _ => obj.spill(value),
    }
}

fn target_span(target: &Target) -> Sp {
    match target {
        Target::Var(_, sp)
        | Target::Field(_, _, sp)
        | Target::Index(_, _, sp)
        | Target::Deref(_, sp) => *sp,
        Target::Pattern(parts) => parts
            .first()
            .map_or_else(Sp::default, |(_, target)| target_span(target)),
        Target::Ignore => Sp::default(),
    }
}
