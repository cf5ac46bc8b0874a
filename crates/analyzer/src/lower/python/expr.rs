//! Expressions and targets of Python.

use tree_sitter::Node;

use super::super::{child, integer, kids, one, operator, pass, plus_chain, unescape};
use super::{field_expr, parameters, variable};
use crate::ir::{
    Arg, Builder, Call, Callee, ExprId, ExprKind, Lit, Op, Part, Sp, StmtKind, Target,
};

pub(super) fn field_target(b: &mut Builder<'_>, node: Node<'_>, field: &str) -> Target {
    match node.child_by_field_name(field) {
        Some(part) => target(b, part),
        None => Target::Ignore,
    }
}

pub(super) fn target(b: &mut Builder<'_>, node: Node<'_>) -> Target {
    let sp: Sp = node.into();
    match node.kind() {
        "identifier" => variable(b, node),
        "attribute" => {
            let object = field_expr(b, node, "object");
            let name = node
                .child_by_field_name("attribute")
                .map_or("", |part| b.slice(part));
            let name = b.name(name);
            Target::Field(object, name, sp)
        }
        "subscript" => {
            let object = field_expr(b, node, "value");
            let index = field_expr(b, node, "subscript");
            Target::Index(object, index, sp)
        }
        "pattern_list" | "tuple_pattern" | "list_pattern" | "tuple" | "list"
        | "expression_list" => {
            if !b.enter() {
                return Target::Ignore;
            }
            let parts = kids(node)
                .into_iter()
                .enumerate()
                .map(|(at, part)| {
                    if part.kind() == "list_splat_pattern" {
                        let inner = kids(part).first().copied().unwrap_or(part);
                        (Part::Rest, target(b, inner))
                    } else {
                        (Part::At(at), target(b, part))
                    }
                })
                .collect();
            b.leave();
            Target::Pattern(parts)
        }
        "as_pattern_target" | "parenthesized_expression" => match kids(node).first() {
            Some(inner) if b.enter() => {
                let inner = target(b, *inner);
                b.leave();
                inner
            }
            _ => Target::Ignore,
        },
        _ => Target::Ignore,
    }
}

// ── expressions ──

pub(super) fn plain_arg(expr: ExprId) -> Arg {
    Arg {
        expr,
        name: None,
        spread: false,
    }
}

pub(super) fn expr(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    if !b.enter() {
        return b.unknown(node.into());
    }
    let id = expr_inner(b, node);
    b.leave();
    id
}

fn all(b: &mut Builder<'_>, node: Node<'_>) -> Vec<ExprId> {
    kids(node).into_iter().map(|part| expr(b, part)).collect()
}

#[expect(clippy::too_many_lines, reason = "one arm per kind of node: a table")]
fn expr_inner(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let kind = match node.kind() {
        "identifier" => return identifier(b, node),
        "string" => return string(b, node),
        "concatenated_string" => ExprKind::Concat(all(b, node)),
        "integer" => ExprKind::Lit(integer(b.slice(node))),
        "float" => ExprKind::Lit(Lit::Number),
        "true" => ExprKind::Lit(Lit::Bool(true)),
        "false" => ExprKind::Lit(Lit::Bool(false)),
        "none" => ExprKind::Lit(Lit::Null),
        "attribute" => {
            let object = field_expr(b, node, "object");
            let name = node
                .child_by_field_name("attribute")
                .map_or("", |part| b.slice(part));
            let name = b.name(name);
            ExprKind::Field(object, name)
        }
        "subscript" => return subscript(b, node),
        "call" => return call(b, node),
        "binary_operator" => return binary(b, node),
        "boolean_operator" => {
            let left = field_expr(b, node, "left");
            let right = field_expr(b, node, "right");
            match node.child_by_field_name("operator").map(|op| b.slice(op)) {
                Some("and") => ExprKind::And(left, right),
                _ => ExprKind::Or(left, right),
            }
        }
        "not_operator" => {
            let value = field_expr(b, node, "argument");
            ExprKind::Unary(Op::Not, value)
        }
        "unary_operator" => {
            let value = field_expr(b, node, "argument");
            let op = if b.slice(node).starts_with('-') {
                Op::Neg
            } else {
                Op::Opaque
            };
            ExprKind::Unary(op, value)
        }
        "comparison_operator" => return comparison(b, node),
        "conditional_expression" => {
            let parts = all(b, node);
            match parts.as_slice() {
                [then, cond, other] => ExprKind::Cond(*cond, *then, *other),
                _ => ExprKind::Pass(parts),
            }
        }
        "list" | "tuple" | "set" | "expression_list" => ExprKind::List(all(b, node)),
        "dictionary" => return dictionary(b, node),
        "list_comprehension"
        | "set_comprehension"
        | "generator_expression"
        | "dictionary_comprehension" => {
            return comprehension(b, node);
        }
        "lambda" => return lambda(b, node),
        "named_expression" => {
            let value = field_expr(b, node, "value");
            let target = field_target(b, node, "name");
            ExprKind::Assign(Box::new(target), value)
        }
        "assignment" => return assignment(b, node),
        "augmented_assignment" => return augmented(b, node),
        "as_pattern" => {
            let value = kids(node).first().copied();
            let value = match value {
                Some(value) => expr(b, value),
                None => b.unknown(sp),
            };
            let target = field_target(b, node, "alias");
            ExprKind::Assign(Box::new(target), value)
        }
        "ellipsis" | "type" => ExprKind::Unknown,
        _ => {
            let parts = all(b, node);
            return pass(b, parts, sp);
        }
    };
    b.expr(kind, sp)
}

fn identifier(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let name = b.name_of(node);
    b.mention(name);
    match b.resolve(name) {
        Some(var) => b.var(var, sp),
        None => b.expr(ExprKind::Free(name), sp),
    }
}

fn string(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let raw = child(node, "string_start").is_some_and(|start| b.slice(start).contains(['r', 'R']));
    let mut parts = Vec::new();
    for part in kids(node) {
        match part.kind() {
            "string_content" => {
                let text = b.slice(part);
                let text = if raw {
                    text.to_owned()
                } else {
                    plain_text(text)
                };
                parts.push(b.string(&text, part.into()));
            }
            "interpolation" => {
                let value = field_expr(b, part, "expression");
                parts.push(value);
            }
            _ => {}
        }
    }
    match (parts.len(), parts.first()) {
        (0, _) => b.string("", sp),
        (1, Some(only)) if matches!(b.kind(*only), Some(ExprKind::Lit(_))) => *only,
        _ => b.expr(ExprKind::Concat(parts), sp),
    }
}

fn plain_text(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(rest.get(..at).unwrap_or_default());
        rest = rest.get(at..).unwrap_or_default();
        let width = rest.chars().take(2).map(char::len_utf8).sum();
        unescape(rest.get(..width).unwrap_or_default(), &mut out);
        rest = rest.get(width..).unwrap_or_default();
    }
    out + rest
}

fn subscript(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let object = field_expr(b, node, "value");
    let index = node.child_by_field_name("subscript");
    match index {
        Some(index) if index.kind() != "slice" => {
            let index = expr(b, index);
            b.expr(ExprKind::Index(object, index), sp)
        }
        _ => {
            // A slice: the same kind of thing, of unknown content.
            let unknown = b.unknown(sp);
            b.expr(ExprKind::Pass(vec![object, unknown]), sp)
        }
    }
}

fn call(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let Some(function) = node.child_by_field_name("function") else {
        return b.unknown(sp);
    };
    let callee = if function.kind() == "attribute" {
        let name = function
            .child_by_field_name("attribute")
            .map_or("", |part| b.slice(part));
        let name = b.name(name);
        match function.child_by_field_name("object") {
            Some(object) => {
                let hint = b.hint(object);
                Callee::Method {
                    recv: expr(b, object),
                    name,
                    hint,
                }
            }
            None => Callee::Own(name),
        }
    } else {
        Callee::Func(expr(b, function))
    };
    let args = match node.child_by_field_name("arguments") {
        Some(list) if list.kind() == "argument_list" => kids(list)
            .into_iter()
            .map(|part| argument(b, part))
            .collect(),
        Some(generator) => vec![plain_arg(expr(b, generator))],
        None => Vec::new(),
    };
    b.expr(ExprKind::Call(Box::new(Call { callee, args })), sp)
}

fn argument(b: &mut Builder<'_>, node: Node<'_>) -> Arg {
    match node.kind() {
        "keyword_argument" => {
            let name = node
                .child_by_field_name("name")
                .map_or("", |part| b.slice(part));
            let name = Some(b.name(name));
            Arg {
                expr: field_expr(b, node, "value"),
                name,
                spread: false,
            }
        }
        "list_splat" => {
            let parts = all(b, node);
            Arg {
                expr: pass(b, parts, node.into()),
                name: None,
                spread: true,
            }
        }
        "dictionary_splat" => {
            let parts = all(b, node);
            plain_arg(pass(b, parts, node.into()))
        }
        _ => plain_arg(expr(b, node)),
    }
}

fn binary(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let is_plus = |node: Node<'_>| {
        node.child_by_field_name("operator")
            .is_some_and(|op| op.kind() == "+")
    };
    if let Some(parts) = plus_chain(node, "binary_operator", &is_plus) {
        let parts = parts.into_iter().map(|part| expr(b, part)).collect();
        return b.expr(ExprKind::Concat(parts), sp);
    }
    let left = field_expr(b, node, "left");
    let right = field_expr(b, node, "right");
    let op = node
        .child_by_field_name("operator")
        .map_or("", |op| op.kind());
    let kind = ExprKind::Binary(operator(op), left, right);
    b.expr(kind, sp)
}

fn comparison(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let operands = all(b, node);
    let mut cursor = node.walk();
    let op = node
        .children_by_field_name("operators", &mut cursor)
        .next()
        .map_or(Op::Opaque, |op| {
            let text: Vec<&str> = b.slice(op).split_whitespace().collect();
            operator(&text.join(" "))
        });
    match operands.as_slice() {
        [left, right] => b.expr(ExprKind::Binary(op, *left, *right), sp),
        _ => {
            let parts = b.expr(ExprKind::Pass(operands), sp);
            b.expr(ExprKind::Unary(Op::Opaque, parts), sp)
        }
    }
}

fn dictionary(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let mut entries = Vec::new();
    for part in kids(node) {
        if part.kind() == "pair" {
            let key = field_expr(b, part, "key");
            let value = field_expr(b, part, "value");
            entries.push((Some(key), value));
        } else {
            let parts = all(b, part);
            entries.push((None, pass(b, parts, part.into())));
        }
    }
    b.expr(ExprKind::Map(entries), node.into())
}

/// A comprehension is a loop that yields; clauses nest from the first to the last.
fn comprehension(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let mut heads = Vec::new();
    for part in kids(node) {
        match part.kind() {
            "for_in_clause" => {
                let iter = field_expr(b, part, "right");
                let target = field_target(b, part, "left");
                heads.push((Some((target, iter)), None, Sp::from(part)));
            }
            "if_clause" => {
                let parts = all(b, part);
                let cond = pass(b, parts, part.into());
                heads.push((None, Some(cond), Sp::from(part)));
            }
            _ => {}
        }
    }
    let value = match node.child_by_field_name("body") {
        Some(pair) if pair.kind() == "pair" => field_expr(b, pair, "value"),
        Some(body) => expr(b, body),
        None => b.unknown(sp),
    };
    let mut body = one(StmtKind::Yield(value), sp);
    for (each, cond, at) in heads.into_iter().rev() {
        let kind = match (each, cond) {
            (Some((target, iter)), _) => StmtKind::ForEach {
                target,
                iter,
                body,
                keys: false,
            },
            (None, Some(cond)) => StmtKind::If {
                cond,
                then: body,
                other: Vec::new(),
            },
            (None, None) => StmtKind::Block(body),
        };
        body = one(kind, at);
    }
    b.expr(ExprKind::Block(body), sp)
}

fn lambda(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let name = b.name("lambda");
    let func = b.open(name);
    let params = match node.child_by_field_name("parameters") {
        Some(list) => parameters(b, list),
        None => Vec::new(),
    };
    let value = field_expr(b, node, "body");
    b.close(params, one(StmtKind::Return(Some(value)), sp));
    if let Some(func) = b.func_mut(func) {
        func.inline = true;
    }
    b.expr(ExprKind::Closure(func), sp)
}

fn assignment(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let Some(right) = node.child_by_field_name("right") else {
        return b.unknown(sp);
    };
    let value = expr(b, right);
    let target = field_target(b, node, "left");
    b.expr(ExprKind::Assign(Box::new(target), value), sp)
}

fn augmented(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let old = field_expr(b, node, "left");
    let value = field_expr(b, node, "right");
    let text = node
        .child_by_field_name("operator")
        .map_or("", |op| b.slice(op));
    let kind = if text == "+=" {
        ExprKind::Concat(vec![old, value])
    } else {
        ExprKind::Binary(operator(text), old, value)
    };
    let value = b.expr(kind, sp);
    let target = field_target(b, node, "left");
    b.expr(ExprKind::Assign(Box::new(target), value), sp)
}
