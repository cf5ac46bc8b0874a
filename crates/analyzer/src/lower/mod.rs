//! Syntax trees to the IR, one module per language.
//!
//! Lowering is recursive and therefore counts its depth ([`Builder::enter`]); what lies deeper is left out and the
//! program marked as cut. A node that is not understood becomes an expression that carries what its parts carry, so that
//! new syntax loses precision and nothing else.

mod c;
mod java;
mod javascript;
mod python;

use tree_sitter::{Node, Tree};

use crate::finding::{Language, Source};
use crate::ir::{Block, Builder, ExprId, ExprKind, Lit, Op, Program, Sp, Stmt, StmtKind};

/// The IR of one parsed file.
pub(crate) fn lower(source: &Source<'_>, tree: &Tree) -> Program {
    let builder = Builder::new(source.text);
    let root = tree.root_node();
    match source.language {
        Language::C => c::lower(builder, root),
        Language::Java => java::lower(builder, root),
        Language::JavaScript | Language::TypeScript { .. } => javascript::lower(builder, root),
        Language::Python => python::lower(builder, root),
    }
}

/// Named children without comments.
fn kids<'t>(node: Node<'t>) -> Vec<Node<'t>> {
    let mut cursor = node.walk();
    node.named_children(&mut cursor)
        .filter(|child| !child.is_extra())
        .collect()
}

/// Named children of one field.
fn fields<'t>(node: Node<'t>, field: &str) -> Vec<Node<'t>> {
    let mut cursor = node.walk();
    node.children_by_field_name(field, &mut cursor)
        .filter(Node::is_named)
        .collect()
}

fn child<'t>(node: Node<'t>, kind: &str) -> Option<Node<'t>> {
    kids(node).into_iter().find(|child| child.kind() == kind)
}

fn stmt(kind: StmtKind, sp: Sp) -> Stmt {
    Stmt { kind, sp }
}

fn operator(text: &str) -> Op {
    match text {
        "+" | "+=" => Op::Add,
        "-" | "-=" => Op::Sub,
        "*" | "*=" => Op::Mul,
        "/" | "/=" | "//" | "//=" => Op::Div,
        "%" | "%=" => Op::Rem,
        "==" | "===" | "is" => Op::Eq,
        "!=" | "!==" | "<>" | "is not" => Op::Ne,
        "<" => Op::Lt,
        "<=" => Op::Le,
        ">" => Op::Gt,
        ">=" => Op::Ge,
        "in" => Op::In,
        "not in" => Op::NotIn,
        "&" | "&=" => Op::BitAnd,
        "|" | "|=" => Op::BitOr,
        "^" | "^=" => Op::BitXor,
        "<<" | "<<=" | ">>" | ">>=" | ">>>" | ">>>=" => Op::Shift,
        "!" | "not" => Op::Not,
        _ => Op::Opaque,
    }
}

/// An integer literal of any of the languages: `0x1f`, `0b1`, `1_000`, `10L`, `42u`.
fn integer(text: &str) -> Lit {
    let text: String = text.chars().filter(|c| *c != '_').collect();
    let lower = text.to_ascii_lowercase();
    let value = if let Some(digits) = lower.strip_prefix("0x") {
        i64::from_str_radix(digits.trim_end_matches(['l', 'u', 'n']), 16)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        i64::from_str_radix(digits.trim_end_matches(['l', 'n']), 2)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        i64::from_str_radix(digits, 8)
    } else {
        lower.trim_end_matches(['l', 'u', 'n']).parse()
    };
    value.map_or(Lit::Number, Lit::Int)
}

/// The character an escape sequence stands for, as far as rules care.
fn unescape(text: &str, out: &mut String) {
    let mut chars = text.chars();
    if chars.next() != Some('\\') {
        out.push_str(text);
        return;
    }
    match chars.next() {
        Some('n') => out.push('\n'),
        Some('t') => out.push('\t'),
        Some('r') => out.push('\r'),
        Some('0') if text.len() == 2 => out.push('\0'),
        Some('x' | 'u') => {
            let digits: String = chars.filter(char::is_ascii_hexdigit).collect();
            let code = u32::from_str_radix(&digits, 16).ok();
            out.push(code.and_then(char::from_u32).unwrap_or('\u{fffd}'));
        }
        Some(c) => out.push(c),
        None => {}
    }
}

/// Strips generics, array brackets and blanks of a type as written: `Map<String, X>[]` is `Map`.
fn type_text(text: &str) -> &str {
    let end = text.find(['<', '[', ' ', '\n', '*']).unwrap_or(text.len());
    text.get(..end).unwrap_or(text)
}

/// The parts of a left-leaning chain of `+`, found without recursion: generated code has thousands of them.
fn plus_chain<'t>(
    node: Node<'t>,
    kind: &str,
    is_plus: &dyn Fn(Node<'t>) -> bool,
) -> Option<Vec<Node<'t>>> {
    if !is_plus(node) {
        return None;
    }
    let mut parts = Vec::new();
    let mut at = node;
    while at.kind() == kind && is_plus(at) {
        parts.push(at.child_by_field_name("right")?);
        at = at.child_by_field_name("left")?;
    }
    parts.push(at);
    parts.reverse();
    Some(parts)
}

/// An expression that carries what all `parts` carry; the part itself where there is one.
fn pass(b: &mut Builder<'_>, parts: Vec<ExprId>, sp: Sp) -> ExprId {
    match (parts.len(), parts.first()) {
        (0, _) => b.unknown(sp),
        (1, Some(only)) => *only,
        _ => b.expr(ExprKind::Pass(parts), sp),
    }
}

/// Statements for a block that may be a single statement.
fn one(kind: StmtKind, sp: Sp) -> Block {
    vec![stmt(kind, sp)]
}
