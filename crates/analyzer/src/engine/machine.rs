//! The abstract machine: frames, bounds, traces. Statements are in `exec`, expressions in `eval`, calls in `call`.

use std::collections::{BTreeMap, HashMap};

use crate::finding::StepKind;
use crate::ir::{ClassId, FuncId, Name, Names, Param, Program, Sp};
use crate::rules::model::Models;

use super::state::{Delta, Mark, State};
use super::value::{Obj, ObjId, Shape, Taint, Value};

/// Calls followed into one another.
pub(super) const CALLS: usize = 12;
/// Nesting of the machine itself (statements, expressions and calls together): what the stack bears.
pub(super) const NEST: u32 = 260;
/// Steps within which calls are followed in one file, besides those its size gives it.
const STEPS: u64 = 400_000;
/// The same per expression of the file.
const STEPS_PER_EXPRESSION: u64 = 20;
/// Steps within which one entry function may follow calls: a knot of calls must not eat the file's share.
const ENTRY_STEPS: u64 = 120_000;
/// Nodes in the arena of traces.
const TRACES: usize = 1_500_000;
/// Cells and objects alive at once in one entry.
const ALIVE: usize = 1_000_000;

pub(super) const NO_TRACE: u32 = u32::MAX;

/// What a step of a trace says; words are made when a finding is reported.
#[derive(Debug, Clone, Copy)]
pub(super) enum Say {
    /// Kind of source.
    Source(&'static str),
    Param(&'static str, Name),
    Assigned(Name),
    Built,
    Through(Name),
    Passed(Name, Name),
    Returned(Name),
    Stored(Name),
    Loaded(Name),
    Captured(Name),
    Cleaned(Name),
    Checked,
    Element,
    Filled(&'static str, Name),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Trace {
    pub(super) parent: u32,
    pub(super) kind: StepKind,
    pub(super) sp: Sp,
    pub(super) func: FuncId,
    pub(super) say: Say,
}

pub(super) struct Frame {
    pub(super) func: FuncId,
    pub(super) base: u32,
    pub(super) parent: Option<u32>,
    pub(super) this: Value,
    pub(super) ret: Option<Value>,
    pub(super) exits: Vec<Delta>,
    pub(super) mark: Mark,
}

/// A loop or `switch` that `break` leaves.
pub(super) struct Around {
    pub(super) mark: Mark,
    pub(super) breaks: Vec<Delta>,
    pub(super) continues: Vec<Delta>,
    pub(super) is_loop: bool,
}

/// A sink reached, before words: the best flow of each sink and rule is kept.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub(super) trace: u32,
    pub(super) length: u32,
    pub(super) callee: Name,
    pub(super) arg: Sp,
    pub(super) func: FuncId,
    /// The operand is nothing but the attacker's value, or text built around it.
    pub(super) built: bool,
}

/// A use of an API that is wrong by itself.
#[derive(Debug, Clone)]
pub(super) struct Misuse {
    pub(super) callee: Name,
    pub(super) what: String,
    pub(super) func: FuncId,
    pub(super) at: Sp,
}

pub(super) struct Machine<'a> {
    pub(super) program: &'a Program,
    pub(super) names: Names,
    pub(super) known: Known,
    pub(super) text: &'a str,
    pub(super) context: &'a super::Context,
    pub(super) models: &'static Models,
    pub(super) language: crate::finding::Language,
    /// Text returned by a handler of a route is a page (Flask, Bottle), not data (FastAPI).
    pub(super) pages: bool,
    pub(super) state: State,
    pub(super) traces: Vec<Trace>,
    pub(super) frames: Vec<Frame>,
    /// Frames being run, innermost last.
    pub(super) stack: Vec<u32>,
    pub(super) around: Vec<Around>,
    /// What `Yield` gathers, one entry per block expression around.
    pub(super) yields: Vec<Value>,
    pub(super) classes: HashMap<Name, ClassId>,
    /// The object that stands for all instances of a class, and its static side.
    pub(super) protos: Vec<ObjId>,
    /// Closures made in the entry at hand, to be run if nobody calls them.
    pub(super) pending: Vec<(FuncId, ObjId)>,
    pub(super) called: Vec<bool>,
    /// A source was seen in the function, or one it calls: from the last time it was run.
    pub(super) touches: Vec<bool>,
    pub(super) hits: BTreeMap<(Sp, usize), Hit>,
    pub(super) misuses: BTreeMap<(Sp, usize), Misuse>,
    pub(super) depth: u32,
    steps: u64,
    limit: u64,
    entry_limit: u64,
    /// Why something was left out.
    pub(super) truncated: Option<&'static str>,
    pub(super) stop: &'a dyn Fn() -> bool,
    /// `stop` was seen: nothing runs any more.
    pub(super) stopped: bool,
}

/// Names asked for often.
pub(super) struct Known {
    pub(super) new: Name,
    /// An object made around a request.
    pub(super) wrapper: Name,
    pub(super) request: Name,
    pub(super) response: Name,
}

impl<'a> Machine<'a> {
    pub(super) fn new(
        program: &'a Program,
        names: Names,
        source: &crate::finding::Source<'a>,
        context: &'a super::Context,
        stop: &'a dyn Fn() -> bool,
    ) -> Self {
        let models = crate::rules::model::models(source.language);
        let mut names = names;
        let known = Known {
            wrapper: names.intern("wrapped request"),
            new: names.intern("new"),
            request: names.intern("http.Request"),
            response: names.intern("http.Response"),
        };
        let mut machine = Self {
            program,
            names,
            known,
            text: source.text,
            context,
            models,
            language: source.language,
            pages: ["flask", "bottle", "quart", "sanic"]
                .iter()
                .any(|name| source.text.contains(name)),
            state: State::default(),
            traces: Vec::new(),
            frames: Vec::new(),
            stack: Vec::new(),
            around: Vec::new(),
            yields: Vec::new(),
            classes: HashMap::new(),
            protos: Vec::new(),
            pending: Vec::new(),
            called: vec![false; program.funcs.len()],
            touches: Vec::new(),
            hits: BTreeMap::new(),
            misuses: BTreeMap::new(),
            depth: 0,
            steps: 0,
            limit: STEPS + STEPS_PER_EXPRESSION * program.exprs.len() as u64,
            entry_limit: u64::MAX,
            truncated: None,
            stop,
            stopped: false,
        };
        machine.touches = machine.touching();
        for (at, class) in program.classes.iter().enumerate() {
            let id = ClassId(u32::try_from(at).unwrap_or(u32::MAX));
            let mut obj = Obj::new(Shape::Record, Sp::default());
            obj.class = Some(id);
            let proto = machine.state.add_obj(obj);
            machine.protos.push(proto);
            machine.classes.entry(class.name).or_insert(id);
        }
        machine
    }

    /// Which functions mention, themselves or through functions of this file, a name that may begin something.
    fn touching(&self) -> Vec<bool> {
        let program = self.program;
        let mut by_name: HashMap<Name, Vec<usize>> = HashMap::new();
        for (at, func) in program.funcs.iter().enumerate() {
            by_name.entry(func.name).or_default().push(at);
        }
        let mut touches: Vec<bool> = program
            .funcs
            .iter()
            .map(|func| {
                func.mentions
                    .iter()
                    .any(|name| self.models.begins(self.names.text(*name)))
            })
            .collect();
        // Callers of each function, then one walk from those that touch something.
        let mut callers: Vec<Vec<usize>> = vec![Vec::new(); program.funcs.len()];
        for (at, func) in program.funcs.iter().enumerate() {
            for name in &func.mentions {
                for callee in by_name.get(name).into_iter().flatten() {
                    if let Some(list) = callers.get_mut(*callee) {
                        list.push(at);
                    }
                }
            }
        }
        let mut work: Vec<usize> = (0..touches.len())
            .filter(|at| touches.get(*at).copied().unwrap_or(false))
            .collect();
        while let Some(at) = work.pop() {
            for caller in callers.get(at).into_iter().flatten() {
                if let Some(touch @ false) = touches.get_mut(*caller) {
                    *touch = true;
                    work.push(*caller);
                }
            }
        }
        touches
    }

    // ── bounds ──

    /// One step; `false` where a bound is met and nothing more must be done.
    pub(super) fn step(&mut self) -> bool {
        if self.stopped {
            return false;
        }
        self.steps += 1;
        if self.steps.is_multiple_of(4096) && (self.stop)() {
            self.stopped = true;
            self.truncated = Some("time guard");
            return false;
        }
        self.steps < self.end()
    }

    /// Whether calls may still be followed.
    pub(super) fn may_follow(&mut self) -> bool {
        let spent = self.steps + self.state.copied;
        if spent >= self.entry_limit {
            self.truncated = self
                .truncated
                .or(Some("calls within one function went beyond the bound"));
            return false;
        }
        if spent >= self.limit {
            self.truncated = self
                .truncated
                .or(Some("calls within the file went beyond the bound"));
            return false;
        }
        self.stack.len() < CALLS && self.state.size() <= ALIVE
    }

    pub(super) fn spent(&self) -> bool {
        self.stopped || self.steps + self.state.copied >= self.end()
    }

    /// Where all work ends: calls are no longer followed long before, so that every function has its turn.
    fn end(&self) -> u64 {
        self.limit.saturating_mul(4)
    }

    pub(super) fn open_entry(&mut self) {
        self.entry_limit = self.steps + self.state.copied + ENTRY_STEPS;
    }

    pub(super) fn nest(&mut self) -> bool {
        if self.depth >= NEST {
            self.truncated = self.truncated.or(Some(
                "nesting of calls and expressions went beyond the bound",
            ));
            return false;
        }
        self.depth += 1;
        true
    }

    // ── frames ──

    pub(super) fn frame(&self) -> Option<&Frame> {
        self.stack
            .last()
            .and_then(|at| self.frames.get(*at as usize))
    }

    pub(super) fn frame_mut(&mut self) -> Option<&mut Frame> {
        let at = *self.stack.last()?;
        self.frames.get_mut(at as usize)
    }

    pub(super) fn func(&self) -> FuncId {
        self.frame().map_or(FuncId(0), |frame| frame.func)
    }

    pub(super) fn this(&self) -> Value {
        self.frame()
            .map(|frame| frame.this.clone())
            .unwrap_or_default()
    }

    pub(super) fn here(&self) -> u32 {
        self.stack.last().copied().unwrap_or(0)
    }

    pub(super) fn add_frame(&mut self, func: FuncId, parent: Option<u32>, this: Value) -> u32 {
        let slots = self.program.func(func).map_or(0, |func| func.slots);
        let base = self.state.add_cells(slots);
        let at = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let mark = self.state.mark();
        self.frames.push(Frame {
            func,
            base,
            parent,
            this,
            ret: None,
            exits: Vec::new(),
            mark,
        });
        at
    }

    /// The cell of a variable, and whether it belongs to a function around the one at hand.
    pub(super) fn cell_of(&self, var: crate::ir::Var) -> Option<u32> {
        let mut at = *self.stack.last()?;
        for _ in 0..var.up {
            at = self.frames.get(at as usize)?.parent?;
        }
        self.frames
            .get(at as usize)
            .map(|frame| frame.base + var.slot)
    }

    // ── traces ──

    pub(super) fn new_taint(&mut self, kind: StepKind, sp: Sp, say: Say) -> Taint {
        let at = self.add_trace(NO_TRACE, kind, sp, say);
        // The same place is the same source, however often it is evaluated.
        Taint {
            trace: at,
            root: sp.start,
            clean: 0,
        }
    }

    pub(super) fn add_trace(&mut self, parent: u32, kind: StepKind, sp: Sp, say: Say) -> u32 {
        if self.traces.len() >= TRACES {
            self.truncated = self
                .truncated
                .or(Some("more steps of data flow than the bound"));
            return parent;
        }
        let func = self.func();
        if let Some(last) = self.traces.get(parent as usize)
            && last.sp == sp
            && last.func == func
            && kind == StepKind::Propagator
        {
            return parent;
        }
        let at = u32::try_from(self.traces.len()).unwrap_or(NO_TRACE);
        self.traces.push(Trace {
            parent,
            kind,
            sp,
            func,
            say,
        });
        at
    }

    /// Notes one more step on the way of everything tainted in `value`.
    pub(super) fn note(&mut self, value: &mut Value, kind: StepKind, sp: Sp, say: Say) {
        for at in 0..value.taint.len() {
            let Some(parent) = value.taint.get(at).map(|taint| taint.trace) else {
                continue;
            };
            let trace = self.add_trace(parent, kind, sp, say);
            if let Some(taint) = value.taint.get_mut(at) {
                taint.trace = trace;
            }
        }
    }

    pub(super) fn length(&self, mut trace: u32) -> u32 {
        let mut length = 0;
        while let Some(node) = self.traces.get(trace as usize) {
            length += 1;
            trace = node.parent;
            if length > 4096 {
                break;
            }
        }
        length
    }

    // ── values ──

    /// The value with everything inside its objects.
    pub(super) fn deep(&self, value: &Value) -> Value {
        let mut all = value.derived();
        let mut seen: Vec<ObjId> = Vec::new();
        let mut work: Vec<(ObjId, u8)> = value.objs.iter().map(|id| (*id, 0)).collect();
        while let Some((id, depth)) = work.pop() {
            if seen.contains(&id) || seen.len() > 64 {
                continue;
            }
            seen.push(id);
            let Some(obj) = self.state.obj(id) else {
                continue;
            };
            let inside = obj
                .items
                .iter()
                .chain(obj.fields.values())
                .chain(std::iter::once(&obj.rest));
            for part in inside {
                all.add_taints(&part.taint);
                if depth < 3 {
                    work.extend(part.objs.iter().map(|id| (*id, depth + 1)));
                }
            }
        }
        all
    }

    pub(super) fn alloc(&mut self, shape: Shape, sp: Sp) -> ObjId {
        let mut obj = Obj::new(shape, sp);
        obj.frame = self.here();
        self.state.add_obj(obj)
    }

    pub(super) fn slice(&self, sp: Sp) -> &'a str {
        self.text
            .get(sp.start as usize..sp.end as usize)
            .unwrap_or_default()
    }

    pub(super) fn param(&self, func: FuncId, at: usize) -> Option<&'a Param> {
        self.program.func(func).and_then(|func| func.params.get(at))
    }
}
