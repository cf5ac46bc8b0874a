//! Expressions and patterns of JavaScript and TypeScript.

use tree_sitter::Node;

use super::super::{child, integer, kids, operator, pass, plus_chain, unescape};
use super::{class, function, is_function};
use crate::ir::{
    Arg, Builder, Call, Callee, ExprId, ExprKind, Lit, Name, New, Op, Part, Sp, Target,
};

pub(super) fn expr(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    if !b.enter() {
        return b.unknown(node.into());
    }
    let id = expr_inner(b, node);
    b.leave();
    id
}

pub(super) fn field_expr(b: &mut Builder<'_>, node: Node<'_>, field: &str) -> ExprId {
    match node.child_by_field_name(field) {
        Some(part) => expr(b, part),
        None => b.unknown(node.into()),
    }
}

/// The condition of a `for`, which the grammar wraps in a statement.
pub(super) fn condition(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    if node.kind() == "expression_statement" {
        let parts = all(b, node);
        return pass(b, parts, node.into());
    }
    expr(b, node)
}

fn all(b: &mut Builder<'_>, node: Node<'_>) -> Vec<ExprId> {
    kids(node).into_iter().map(|part| expr(b, part)).collect()
}

/// `'node:fs/promises'` is `fs.promises`.
pub(super) fn module_path(text: &str) -> String {
    let text = text.trim_matches(['\'', '"', '`']);
    let text = text.strip_prefix("node:").unwrap_or(text);
    text.trim_start_matches(['.', '/']).replace('/', ".")
}

#[expect(clippy::too_many_lines, reason = "one arm per kind of node: a table")]
fn expr_inner(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let kind = match node.kind() {
        "identifier" | "shorthand_property_identifier" => return identifier(b, node),
        "this" | "super" => ExprKind::This,
        "string" | "template_string" => return string(b, node),
        "number" => ExprKind::Lit(integer(b.slice(node))),
        "true" => ExprKind::Lit(Lit::Bool(true)),
        "false" => ExprKind::Lit(Lit::Bool(false)),
        "null" | "undefined" => ExprKind::Lit(Lit::Null),
        "regex" => ExprKind::Unknown,
        "member_expression" => {
            let object = field_expr(b, node, "object");
            let name = node
                .child_by_field_name("property")
                .map_or("", |part| b.slice(part));
            let name = b.name(name);
            ExprKind::Field(object, name)
        }
        "subscript_expression" => {
            let object = field_expr(b, node, "object");
            let index = field_expr(b, node, "index");
            ExprKind::Index(object, index)
        }
        "call_expression" => return call(b, node),
        "new_expression" => return new(b, node),
        "binary_expression" => return binary(b, node),
        "unary_expression" => {
            let value = field_expr(b, node, "argument");
            let op = match node.child_by_field_name("operator").map(|op| b.slice(op)) {
                Some("!") => Op::Not,
                Some("-") => Op::Neg,
                _ => Op::Opaque,
            };
            ExprKind::Unary(op, value)
        }
        "update_expression" => return update(b, node),
        "assignment_expression" | "augmented_assignment_expression" => return assignment(b, node),
        "ternary_expression" => {
            let cond = field_expr(b, node, "condition");
            let then = field_expr(b, node, "consequence");
            let other = field_expr(b, node, "alternative");
            ExprKind::Cond(cond, then, other)
        }
        "sequence_expression" => ExprKind::Seq(all(b, node)),
        "array" => ExprKind::List(all(b, node)),
        "object" => return object(b, node),
        kind if is_function(kind) => {
            let name = match node.child_by_field_name("name") {
                Some(name) => b.name_of(name),
                None => Name::NONE,
            };
            return closure(b, node, name);
        }
        "class" => {
            let name = match node.child_by_field_name("name") {
                Some(name) => b.name_of(name),
                None => Name::NONE,
            };
            ExprKind::Class(class(b, node, name))
        }
        "as_expression" | "satisfies_expression" | "non_null_expression" | "type_assertion" => {
            let parts = kids(node);
            let value = if node.kind() == "type_assertion" {
                parts.last()
            } else {
                parts.first()
            };
            return match value {
                Some(value) => expr(b, *value),
                None => b.unknown(sp),
            };
        }
        "jsx_element" | "jsx_self_closing_element" | "jsx_opening_element" => {
            return element(b, node);
        }
        "jsx_text"
        | "jsx_closing_element"
        | "type_arguments"
        | "import"
        | "property_identifier" => ExprKind::Unknown,
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

pub(super) fn closure(b: &mut Builder<'_>, node: Node<'_>, name: Name) -> ExprId {
    let class = b.classes.last().copied();
    let arrow = node.kind() == "arrow_function";
    let func = function(b, node, name, class.filter(|_| arrow));
    if let Some(func) = b.func_mut(func) {
        func.inline = true;
    }
    b.expr(ExprKind::Closure(func), node.into())
}

fn string(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let mut parts = Vec::new();
    let mut text = String::new();
    for part in kids(node) {
        match part.kind() {
            "escape_sequence" => unescape(b.slice(part), &mut text),
            "template_substitution" => {
                if !text.is_empty() {
                    parts.push(b.string(&text, sp));
                    text.clear();
                }
                let inner = all(b, part);
                parts.push(pass(b, inner, part.into()));
            }
            _ => text.push_str(b.slice(part)),
        }
    }
    if parts.is_empty() {
        return b.string(&text, sp);
    }
    if !text.is_empty() {
        parts.push(b.string(&text, sp));
    }
    b.expr(ExprKind::Concat(parts), sp)
}

fn arguments(b: &mut Builder<'_>, node: Node<'_>) -> Vec<Arg> {
    let Some(list) = node.child_by_field_name("arguments") else {
        return Vec::new();
    };
    if list.kind() == "template_string" {
        // A tag gets the values apart from the text: it may bind or encode them.
        return Vec::new();
    }
    kids(list)
        .into_iter()
        .map(|part| {
            let spread = part.kind() == "spread_element";
            Arg {
                expr: expr(b, part),
                name: None,
                spread,
            }
        })
        .collect()
}

fn call(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let Some(function) = node.child_by_field_name("function") else {
        return b.unknown(sp);
    };
    if let Some(path) = required(b, node, function) {
        return path;
    }
    let callee = match function.kind() {
        "member_expression" => {
            let name = function
                .child_by_field_name("property")
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
        }
        "super" => {
            let name = b.name("super");
            Callee::Own(name)
        }
        _ => Callee::Func(expr(b, function)),
    };
    let args = arguments(b, node);
    b.expr(ExprKind::Call(Box::new(Call { callee, args })), sp)
}

/// `require('m')` and `import('m')` are the module's path.
fn required(b: &mut Builder<'_>, node: Node<'_>, function: Node<'_>) -> Option<ExprId> {
    if !matches!(b.slice(function), "require" | "import") {
        return None;
    }
    let list = node.child_by_field_name("arguments")?;
    let parts = kids(list);
    let only = parts.first().filter(|part| part.kind() == "string")?;
    let path = module_path(b.slice(*only));
    let path = b.name(&path);
    Some(b.expr(ExprKind::Path(path), node.into()))
}

fn new(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let Some(constructor) = node.child_by_field_name("constructor") else {
        return b.unknown(sp);
    };
    let class = b.name_of(constructor);
    let callee = expr(b, constructor);
    // A class of this file or a plain name is found by its name.
    let callee = match b.kind(callee) {
        Some(ExprKind::Free(_)) => None,
        _ => Some(callee),
    };
    let args = arguments(b, node);
    let new = New {
        class,
        callee,
        args,
        body: None,
    };
    b.expr(ExprKind::New(Box::new(new)), sp)
}

fn binary(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let is_plus = |node: Node<'_>| {
        node.child_by_field_name("operator")
            .is_some_and(|op| op.kind() == "+")
    };
    if let Some(parts) = plus_chain(node, "binary_expression", &is_plus) {
        let parts = parts.into_iter().map(|part| expr(b, part)).collect();
        return b.expr(ExprKind::Concat(parts), sp);
    }
    let left = field_expr(b, node, "left");
    let right = field_expr(b, node, "right");
    let kind = match node
        .child_by_field_name("operator")
        .map_or("", |op| op.kind())
    {
        "&&" => ExprKind::And(left, right),
        "||" | "??" => ExprKind::Or(left, right),
        // `in` asks for a key of an object here, not for an element.
        "in" | "instanceof" => ExprKind::Binary(Op::Opaque, left, right),
        op => ExprKind::Binary(operator(op), left, right),
    };
    b.expr(kind, sp)
}

fn assignment(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let Some(left) = node.child_by_field_name("left") else {
        return b.unknown(sp);
    };
    let right = match node.child_by_field_name("right") {
        // `exports.show = function …`: the function is called `show`.
        Some(right) if is_function(right.kind()) && left.kind() == "member_expression" => {
            let name = left
                .child_by_field_name("property")
                .map_or("", |part| b.slice(part));
            let name = b.name(name);
            closure(b, right, name)
        }
        Some(right) => expr(b, right),
        None => b.unknown(sp),
    };
    let op = node
        .child_by_field_name("operator")
        .map_or("=", |op| b.slice(op));
    let value = match op {
        "=" => right,
        "+=" => {
            let old = expr(b, left);
            b.expr(ExprKind::Concat(vec![old, right]), sp)
        }
        "||=" | "??=" => {
            let old = expr(b, left);
            b.expr(ExprKind::Or(old, right), sp)
        }
        _ => {
            let old = expr(b, left);
            b.expr(ExprKind::Binary(operator(op), old, right), sp)
        }
    };
    let target = target(b, left);
    b.expr(ExprKind::Assign(Box::new(target), value), sp)
}

fn update(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let Some(operand) = node.child_by_field_name("argument") else {
        return b.unknown(sp);
    };
    let old = expr(b, operand);
    let one = b.expr(ExprKind::Lit(Lit::Int(1)), sp);
    let op = if b.slice(node).contains("++") {
        Op::Add
    } else {
        Op::Sub
    };
    let value = b.expr(ExprKind::Binary(op, old, one), sp);
    let target = target(b, operand);
    b.expr(ExprKind::Assign(Box::new(target), value), sp)
}

fn object(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let mut entries = Vec::new();
    for part in kids(node) {
        match part.kind() {
            "pair" => {
                let key = part.child_by_field_name("key");
                let value = field_expr(b, part, "value");
                entries.push((key.map(|key| key_expr(b, key)), value));
            }
            "shorthand_property_identifier" => {
                let key = b.string(b.slice(part), part.into());
                let value = identifier(b, part);
                entries.push((Some(key), value));
            }
            "method_definition" => {
                let name = part
                    .child_by_field_name("name")
                    .map_or("", |name| b.slice(name));
                let key = b.string(name, part.into());
                let name = b.name(name);
                let func = function(b, part, name, None);
                if let Some(func) = b.func_mut(func) {
                    func.inline = true;
                }
                let value = b.expr(ExprKind::Closure(func), part.into());
                entries.push((Some(key), value));
            }
            _ => {
                let value = expr(b, part);
                entries.push((None, value));
            }
        }
    }
    b.expr(ExprKind::Map(entries), node.into())
}

fn key_expr(b: &mut Builder<'_>, key: Node<'_>) -> ExprId {
    match key.kind() {
        "property_identifier" | "number" | "private_property_identifier" => {
            b.string(b.slice(key), key.into())
        }
        "computed_property_name" => {
            let parts = all(b, key);
            pass(b, parts, key.into())
        }
        _ => expr(b, key),
    }
}

/// An element of a page: its attributes and children are values React encodes, but for one.
fn element(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let mut parts = Vec::new();
    let head = if node.kind() == "jsx_element" {
        child(node, "jsx_opening_element")
    } else {
        Some(node)
    };
    for attribute in head.map(kids).unwrap_or_default() {
        if attribute.kind() != "jsx_attribute" {
            continue;
        }
        let inner = kids(attribute);
        let (Some(name), Some(value)) = (inner.first(), inner.get(1)) else {
            continue;
        };
        let name = b.slice(*name);
        let value = expr(b, *value);
        if name == "dangerouslySetInnerHTML" {
            // Written as the field it sets.
            let name = b.name(name);
            let object = b.unknown(attribute.into());
            let target = Target::Field(object, name, attribute.into());
            let assign = b.expr(ExprKind::Assign(Box::new(target), value), attribute.into());
            parts.push(assign);
        } else {
            parts.push(value);
        }
    }
    if node.kind() == "jsx_element" {
        for part in kids(node) {
            if !matches!(
                part.kind(),
                "jsx_opening_element" | "jsx_closing_element" | "jsx_text"
            ) {
                parts.push(expr(b, part));
            }
        }
    }
    // What an element shows is encoded: it carries nothing on.
    let last = b.unknown(sp);
    parts.push(last);
    b.expr(ExprKind::Seq(parts), sp)
}

// ── targets ──

pub(super) fn target(b: &mut Builder<'_>, node: Node<'_>) -> Target {
    let sp: Sp = node.into();
    match node.kind() {
        "identifier" | "shorthand_property_identifier_pattern" => {
            let name = b.name_of(node);
            match b.resolve(name) {
                Some(var) => Target::Var(var, sp),
                None => {
                    // A global that nobody declares: `location = x` in a page.
                    let window = b.name("window");
                    let object = b.expr(ExprKind::Free(window), sp);
                    Target::Field(object, name, sp)
                }
            }
        }
        "member_expression" => {
            let object = field_expr(b, node, "object");
            let name = node
                .child_by_field_name("property")
                .map_or("", |part| b.slice(part));
            let name = b.name(name);
            Target::Field(object, name, sp)
        }
        "subscript_expression" => {
            let object = field_expr(b, node, "object");
            let index = field_expr(b, node, "index");
            Target::Index(object, index, sp)
        }
        "object_pattern" | "array_pattern" => {
            if !b.enter() {
                return Target::Ignore;
            }
            let parts = pattern(b, node);
            b.leave();
            Target::Pattern(parts)
        }
        "assignment_pattern" | "object_assignment_pattern" => {
            match node.child_by_field_name("left") {
                Some(left) => target(b, left),
                None => Target::Ignore,
            }
        }
        "parenthesized_expression" | "non_null_expression" | "as_expression" | "rest_pattern" => {
            match kids(node).first() {
                Some(inner) => target(b, *inner),
                None => Target::Ignore,
            }
        }
        _ => Target::Ignore,
    }
}

fn pattern(b: &mut Builder<'_>, node: Node<'_>) -> Vec<(Part, Target)> {
    let array = node.kind() == "array_pattern";
    let mut parts = Vec::new();
    for (at, part) in kids(node).into_iter().enumerate() {
        let piece = match part.kind() {
            "rest_pattern" => Part::Rest,
            _ if array => Part::At(at),
            "pair_pattern" => {
                let key = part
                    .child_by_field_name("key")
                    .map_or("", |key| b.slice(key));
                Part::Key(b.name(key.trim_matches(['\'', '"'])))
            }
            "object_assignment_pattern" => {
                let left = part
                    .child_by_field_name("left")
                    .map_or("", |left| b.slice(left));
                Part::Key(b.name(left))
            }
            _ => Part::Key(b.name_of(part)),
        };
        let inner = match part.kind() {
            "pair_pattern" => part.child_by_field_name("value").unwrap_or(part),
            _ => part,
        };
        parts.push((piece, target(b, inner)));
    }
    parts
}
