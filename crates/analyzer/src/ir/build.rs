//! What every lowering needs: functions and scopes under construction, expressions, interning.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use tree_sitter::Node;

use super::{
    Block, Class, ClassId, Expr, ExprId, ExprKind, Func, FuncId, Lit, Name, Param, Program, Sp,
    Stmt, StmtKind, Target, Var,
};

/// Deeper nesting of statements and expressions is cut: no program written by a person comes near.
pub(crate) const DEPTH: u32 = 96;

/// More expressions than this in one file and the rest is left out.
const EXPRESSIONS: usize = 4_000_000;

struct Scope {
    func: FuncId,
    slots: HashMap<Name, u32>,
    count: u32,
    mentions: BTreeSet<Name>,
    weight: u32,
}

/// A program under construction.
pub(crate) struct Builder<'t> {
    pub(crate) text: &'t str,
    program: Program,
    scopes: Vec<Scope>,
    /// Classes around the place at hand, innermost last.
    pub(crate) classes: Vec<ClassId>,
    depth: u32,
}

impl<'t> Builder<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let mut builder = Self {
            text,
            program: Program::default(),
            scopes: Vec::new(),
            classes: Vec::new(),
            depth: 0,
        };
        builder.open(Name::NONE);
        builder
    }

    /// Closes the top of the file.
    pub(crate) fn finish(mut self, body: Block) -> Program {
        self.close(Vec::new(), body);
        self.program
    }

    // ── nesting ──

    /// One level deeper; `false` where the bound is met, and then the caller must leave the node out.
    pub(crate) fn enter(&mut self) -> bool {
        if self.depth >= DEPTH || self.program.exprs.len() >= EXPRESSIONS {
            self.program.cut = true;
            return false;
        }
        self.depth += 1;
        true
    }

    pub(crate) fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    // ── text ──

    pub(crate) fn slice(&self, node: Node<'_>) -> &'t str {
        self.text.get(node.byte_range()).unwrap_or_default()
    }

    pub(crate) fn name(&mut self, text: &str) -> Name {
        self.program.names.intern(text)
    }

    pub(crate) fn name_of(&mut self, node: Node<'_>) -> Name {
        let text = self.slice(node);
        self.name(text)
    }

    pub(crate) fn text_of(&self, name: Name) -> String {
        self.program.names.text(name).to_owned()
    }

    // ── functions and scopes ──

    pub(crate) fn open(&mut self, name: Name) -> FuncId {
        let id = FuncId(small(self.program.funcs.len()));
        let parent = self.scopes.last().map(|scope| scope.func);
        self.program.funcs.push(Func {
            name,
            class: None,
            parent,
            params: Vec::new(),
            body: Vec::new(),
            slots: 0,
            marks: Vec::new(),
            fixed: false,
            constructor: false,
            inline: false,
            mentions: Vec::new(),
            weight: 0,
        });
        self.scopes.push(Scope {
            func: id,
            slots: HashMap::new(),
            count: 0,
            mentions: BTreeSet::new(),
            weight: 0,
        });
        id
    }

    pub(crate) fn close(&mut self, params: Vec<Param>, body: Block) {
        let Some(scope) = self.scopes.pop() else {
            return;
        };
        if let Some(outer) = self.scopes.last_mut() {
            // What an inner function can touch, the outer can too: it may call it.
            outer.mentions.extend(scope.mentions.iter().copied());
            outer.weight = outer.weight.saturating_add(scope.weight);
        }
        if let Some(func) = self.program.funcs.get_mut(scope.func.0 as usize) {
            func.params = params;
            func.body = body;
            func.slots = scope.count;
            func.mentions = scope.mentions.into_iter().collect();
            func.weight = scope.weight;
        }
    }

    pub(crate) fn func_mut(&mut self, id: FuncId) -> Option<&mut Func> {
        self.program.funcs.get_mut(id.0 as usize)
    }

    /// The slot of `name` in the function at hand, made if need be.
    pub(crate) fn declare(&mut self, name: Name) -> Var {
        let Some(scope) = self.scopes.last_mut() else {
            return Var { up: 0, slot: 0 };
        };
        let next = scope.count;
        let slot = *scope.slots.entry(name).or_insert(next);
        if slot == next {
            scope.count += 1;
        }
        Var { up: 0, slot }
    }

    /// A slot without a name.
    pub(crate) fn temp(&mut self) -> Var {
        let Some(scope) = self.scopes.last_mut() else {
            return Var { up: 0, slot: 0 };
        };
        let slot = scope.count;
        scope.count += 1;
        Var { up: 0, slot }
    }

    pub(crate) fn resolve(&self, name: Name) -> Option<Var> {
        for (up, scope) in self.scopes.iter().rev().enumerate() {
            if let Some(slot) = scope.slots.get(&name) {
                return Some(Var {
                    up: u16::try_from(up).unwrap_or(u16::MAX),
                    slot: *slot,
                });
            }
        }
        None
    }

    /// Python's `global x`: from here on `name` is the top's variable.
    pub(crate) fn resolve_top(&mut self, name: Name) -> Var {
        let up = u16::try_from(self.scopes.len().saturating_sub(1)).unwrap_or(u16::MAX);
        let Some(scope) = self.scopes.first_mut() else {
            return Var { up: 0, slot: 0 };
        };
        let next = scope.count;
        let slot = *scope.slots.entry(name).or_insert(next);
        if slot == next {
            scope.count += 1;
        }
        Var { up, slot }
    }

    pub(crate) fn mention(&mut self, name: Name) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.mentions.insert(name);
        }
    }

    // ── classes ──

    pub(crate) fn class(&mut self, name: Name, supers: Vec<Name>) -> ClassId {
        let id = ClassId(small(self.program.classes.len()));
        self.program.classes.push(Class {
            name,
            supers,
            methods: Vec::new(),
            record: false,
            fields: Vec::new(),
            marks: Vec::new(),
        });
        id
    }

    pub(crate) fn class_mut(&mut self, id: ClassId) -> Option<&mut Class> {
        self.program.classes.get_mut(id.0 as usize)
    }

    // ── expressions and statements ──

    pub(crate) fn expr(&mut self, kind: ExprKind, sp: Sp) -> ExprId {
        if let Some(scope) = self.scopes.last_mut() {
            scope.weight = scope.weight.saturating_add(1);
            match &kind {
                ExprKind::Field(_, name) | ExprKind::Free(name) | ExprKind::Path(name) => {
                    scope.mentions.insert(*name);
                }
                ExprKind::Call(call) => {
                    if let super::Callee::Method { name, .. } | super::Callee::Own(name) =
                        call.callee
                    {
                        scope.mentions.insert(name);
                    }
                }
                ExprKind::New(new) => {
                    scope.mentions.insert(new.class);
                }
                _ => {}
            }
        }
        let id = ExprId(small(self.program.exprs.len()));
        self.program.exprs.push(Expr { kind, sp });
        id
    }

    pub(crate) fn kind(&self, id: ExprId) -> Option<&ExprKind> {
        self.program.expr(id).map(|expr| &expr.kind)
    }

    pub(crate) fn span_of(&self, id: ExprId) -> Sp {
        self.program
            .expr(id)
            .map_or_else(Sp::default, |expr| expr.sp)
    }

    pub(crate) fn unknown(&mut self, sp: Sp) -> ExprId {
        self.expr(ExprKind::Unknown, sp)
    }

    pub(crate) fn string(&mut self, text: &str, sp: Sp) -> ExprId {
        self.expr(ExprKind::Lit(Lit::Str(Rc::from(text))), sp)
    }

    pub(crate) fn var(&mut self, var: Var, sp: Sp) -> ExprId {
        self.expr(ExprKind::Var(var), sp)
    }

    pub(crate) fn assign(&mut self, target: Target, value: ExprId, sp: Sp) -> Stmt {
        let expr = self.expr(ExprKind::Assign(Box::new(target), value), sp);
        Stmt {
            kind: StmtKind::Expr(expr),
            sp,
        }
    }

    /// The last word of what a receiver is written as: `db` of `this.app.db`.
    pub(crate) fn hint(&mut self, node: Node<'_>) -> Name {
        let text = self.slice(node);
        if text.ends_with(')') {
            return Name::NONE;
        }
        let end = text.trim_end_matches(|c: char| !is_word(c));
        let start = end.rfind(|c: char| !is_word(c)).map_or(0, |at| at + 1);
        let word = end.get(start..).unwrap_or_default();
        let word: String = word.chars().take(40).collect();
        self.name(&word)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// An index as 32 bits; files are smaller than 4 GiB, so this never saturates.
pub(crate) fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl From<Node<'_>> for Sp {
    fn from(node: Node<'_>) -> Self {
        Self {
            start: small(node.start_byte()),
            end: small(node.end_byte()),
        }
    }
}
