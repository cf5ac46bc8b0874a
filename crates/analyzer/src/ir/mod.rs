//! The one intermediate form that every language is lowered to and every engine reads.
//!
//! It keeps the structure of the source (blocks, branches, loops, `try`) instead of a graph of basic blocks: an abstract
//! interpreter follows structure directly, dead branches fall out of constant conditions, and every node still knows its
//! bytes. Variables are resolved to slots at lowering; names of fields, methods and types are interned.

mod build;
mod names;

use std::rc::Rc;

pub(crate) use build::Builder;
pub(crate) use names::{Name, Names};

/// Bytes of a node, end exclusive; the `Copy` twin of [`crate::finding::Span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Sp {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Sp {
    pub(crate) fn range(self) -> std::ops::Range<u32> {
        self.start..self.end
    }
}

/// Index of an expression in [`Program::exprs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ExprId(pub(crate) u32);

/// Index of a function in [`Program::funcs`]; 0 is the top of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FuncId(pub(crate) u32);

/// Index of a class in [`Program::classes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClassId(pub(crate) u32);

/// One lowered file.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) exprs: Vec<Expr>,
    pub(crate) funcs: Vec<Func>,
    pub(crate) classes: Vec<Class>,
    pub(crate) names: Names,
    /// Something was deeper or larger than a bound and was left out.
    pub(crate) cut: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) kind: ExprKind,
    pub(crate) sp: Sp,
}

#[derive(Debug, Clone)]
pub(crate) enum Lit {
    Null,
    Bool(bool),
    Int(i64),
    /// A number we do not compute with.
    Number,
    Str(Rc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Membership: Python's `in`.
    In,
    NotIn,
    /// Shifts and bit operations: never text, never folded but for `&`, `|`, `^`.
    BitAnd,
    BitOr,
    BitXor,
    Shift,
    Not,
    Neg,
    /// An operator whose result says nothing of its operands: `typeof`, `sizeof`, `instanceof`.
    Opaque,
}

/// Where a variable lives: `up` functions outward, then a slot of that function's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Var {
    pub(crate) up: u16,
    pub(crate) slot: u32,
}

#[derive(Debug, Clone)]
pub(crate) enum ExprKind {
    Lit(Lit),
    Var(Var),
    /// The receiver of the function at hand.
    This,
    /// A name that is no variable of the file: a builtin, an import, a class.
    Free(Name),
    /// A dotted path known from an import or a fully qualified name.
    Path(Name),
    Field(ExprId, Name),
    Index(ExprId, ExprId),
    Call(Box<Call>),
    New(Box<New>),
    /// `+` on text or numbers, templates, f-strings; the parts in order.
    Concat(Vec<ExprId>),
    Binary(Op, ExprId, ExprId),
    Unary(Op, ExprId),
    Cond(ExprId, ExprId, ExprId),
    And(ExprId, ExprId),
    Or(ExprId, ExprId),
    Assign(Box<Target>, ExprId),
    List(Vec<ExprId>),
    /// Keys that are no expression of their own are literals; `None` is a spread.
    Map(Vec<(Option<ExprId>, ExprId)>),
    Closure(FuncId),
    Class(ClassId),
    /// The result carries what its parts carry: casts, `await`, spreads, slices.
    Pass(Vec<ExprId>),
    /// The value seen as the type: a cast, or a declaration with a type.
    Cast(ExprId, Name),
    AddrOf(ExprId),
    Deref(ExprId),
    /// Evaluates all, is the last.
    Seq(Vec<ExprId>),
    /// A block used as an expression: `switch` with values, comprehensions. Its value is what `Yield` gathered.
    Block(Vec<Stmt>),
    /// Declares a local array or struct: a new object, empty.
    Fresh(Name),
    Unknown,
}

#[derive(Debug, Clone)]
pub(crate) struct Arg {
    pub(crate) expr: ExprId,
    pub(crate) name: Option<Name>,
    pub(crate) spread: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) callee: Callee,
    pub(crate) args: Vec<Arg>,
}

#[derive(Debug, Clone)]
pub(crate) enum Callee {
    /// `recv.name(…)`; `hint` is the last word of the receiver's text, for receivers of unknown type.
    Method {
        recv: ExprId,
        name: Name,
        hint: Name,
    },
    /// A method of the class at hand called without a receiver, or a superclass' constructor.
    Own(Name),
    Func(ExprId),
}

#[derive(Debug, Clone)]
pub(crate) struct New {
    /// The type as written, without type arguments.
    pub(crate) class: Name,
    /// What the constructor is, where it is an expression (JavaScript).
    pub(crate) callee: Option<ExprId>,
    pub(crate) args: Vec<Arg>,
    /// The body of an anonymous class.
    pub(crate) body: Option<ClassId>,
}

#[derive(Debug, Clone)]
pub(crate) enum Target {
    Var(Var, Sp),
    Field(ExprId, Name, Sp),
    Index(ExprId, ExprId, Sp),
    Deref(ExprId, Sp),
    /// Destructuring: by position, by name, or the rest.
    Pattern(Vec<(Part, Self)>),
    Ignore,
}

#[derive(Debug, Clone)]
pub(crate) enum Part {
    At(usize),
    Key(Name),
    Rest,
}

pub(crate) type Block = Vec<Stmt>;

#[derive(Debug, Clone)]
pub(crate) struct Stmt {
    pub(crate) kind: StmtKind,
    pub(crate) sp: Sp,
}

#[derive(Debug, Clone)]
pub(crate) enum StmtKind {
    Expr(ExprId),
    If {
        cond: ExprId,
        then: Block,
        other: Block,
    },
    Loop {
        cond: Option<ExprId>,
        body: Block,
        update: Block,
        /// `do … while`: the body runs before the condition.
        post: bool,
    },
    ForEach {
        target: Target,
        iter: ExprId,
        body: Block,
        /// The target gets keys, not elements: `for … in` of JavaScript.
        keys: bool,
    },
    Switch {
        value: ExprId,
        cases: Vec<Case>,
    },
    Try {
        body: Block,
        catches: Vec<Block>,
        last: Block,
    },
    Return(Option<ExprId>),
    Yield(ExprId),
    Throw(Option<ExprId>),
    Break,
    Continue,
    Block(Block),
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) labels: Vec<ExprId>,
    pub(crate) default: bool,
    pub(crate) body: Block,
}

#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub(crate) slot: u32,
    pub(crate) name: Name,
    /// Declared type without type arguments, or [`Name::NONE`].
    pub(crate) ty: Name,
    pub(crate) sp: Sp,
    pub(crate) annotations: Vec<Name>,
    pub(crate) default: Option<ExprId>,
    /// Takes all further arguments.
    pub(crate) rest: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Func {
    pub(crate) name: Name,
    pub(crate) class: Option<ClassId>,
    pub(crate) parent: Option<FuncId>,
    pub(crate) params: Vec<Param>,
    pub(crate) body: Block,
    pub(crate) slots: u32,
    /// Annotations and decorators, dotted path as written.
    pub(crate) marks: Vec<Name>,
    /// Methods without a receiver.
    pub(crate) fixed: bool,
    pub(crate) constructor: bool,
    /// An expression: arrow function, lambda, function expression.
    pub(crate) inline: bool,
    /// Names of fields and functions that the body mentions, sorted; what the function can touch.
    pub(crate) mentions: Vec<Name>,
    /// Expressions in the body.
    pub(crate) weight: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) name: Name,
    pub(crate) supers: Vec<Name>,
    pub(crate) methods: Vec<FuncId>,
    /// The constructor stores its arguments in the fields, in order.
    pub(crate) record: bool,
    /// Field initialisers, in order, run with the class' object as receiver.
    pub(crate) fields: Vec<Field>,
    pub(crate) marks: Vec<Name>,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Name,
    pub(crate) ty: Name,
    pub(crate) init: Option<ExprId>,
}

impl Program {
    pub(crate) fn expr(&self, id: ExprId) -> Option<&Expr> {
        self.exprs.get(id.0 as usize)
    }

    pub(crate) fn func(&self, id: FuncId) -> Option<&Func> {
        self.funcs.get(id.0 as usize)
    }

    pub(crate) fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id.0 as usize)
    }
}
