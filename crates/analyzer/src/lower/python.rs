//! Python to the IR.

use std::collections::BTreeSet;

use tree_sitter::Node;

use super::{child, fields, integer, kids, one, operator, pass, plus_chain, stmt, unescape};
use crate::ir::{
    Arg, Block, Builder, Call, Callee, Case, ClassId, ExprId, ExprKind, Field, FuncId, Lit, Name,
    Op, Param, Part, Program, Sp, StmtKind, Target,
};

pub(super) fn lower(mut b: Builder<'_>, root: Node<'_>) -> Program {
    declare_all(&mut b, root);
    let mut body = Vec::new();
    for node in kids(root) {
        statement(&mut b, node, &mut body);
    }
    b.finish(body)
}

// ── names ──

/// Declares every name that a function, or the file, binds: Python's scopes are whole functions.
fn declare_all(b: &mut Builder<'_>, root: Node<'_>) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut outer: BTreeSet<String> = BTreeSet::new();
    let mut work: Vec<Node<'_>> = kids(root);
    while let Some(node) = work.pop() {
        match node.kind() {
            "function_definition" => {
                if let Some(name) = node.child_by_field_name("name") {
                    names.insert(b.slice(name).to_owned());
                }
                continue;
            }
            "class_definition" | "lambda" => continue,
            "assignment" | "augmented_assignment" | "for_statement" | "for_in_clause" => {
                if let Some(left) = node.child_by_field_name("left") {
                    bound(b, left, &mut names);
                }
            }
            "named_expression" => {
                if let Some(name) = node.child_by_field_name("name") {
                    bound(b, name, &mut names);
                }
            }
            "as_pattern_target" | "case_pattern" => bound(b, node, &mut names),
            "import_statement" | "import_from_statement" => {
                for import in fields(node, "name") {
                    let name = import.child_by_field_name("alias").unwrap_or(import);
                    let text = b.slice(name);
                    let first = text.split('.').next().unwrap_or(text);
                    names.insert(first.to_owned());
                }
            }
            "global_statement" => {
                for name in kids(node) {
                    let name = b.name_of(name);
                    b.resolve_top(name);
                    outer.insert(b.text_of(name));
                }
            }
            "nonlocal_statement" => {
                for name in kids(node) {
                    outer.insert(b.slice(name).to_owned());
                }
            }
            _ => {}
        }
        work.extend(kids(node));
    }
    for name in names.difference(&outer) {
        let name = b.name(name);
        b.declare(name);
    }
}

fn bound(b: &Builder<'_>, node: Node<'_>, names: &mut BTreeSet<String>) {
    let mut work = vec![node];
    while let Some(node) = work.pop() {
        match node.kind() {
            "identifier" => {
                names.insert(b.slice(node).to_owned());
            }
            "attribute" | "subscript" | "class_pattern" => {}
            _ => work.extend(kids(node)),
        }
    }
}

fn variable(b: &mut Builder<'_>, node: Node<'_>) -> Target {
    let name = b.name_of(node);
    match b.resolve(name) {
        Some(var) => Target::Var(var, node.into()),
        None => {
            let var = b.declare(name);
            Target::Var(var, node.into())
        }
    }
}

// ── functions and classes ──

fn marks(b: &mut Builder<'_>, node: Node<'_>) -> Vec<Name> {
    let Some(parent) = node
        .parent()
        .filter(|parent| parent.kind() == "decorated_definition")
    else {
        return Vec::new();
    };
    kids(parent)
        .into_iter()
        .filter(|part| part.kind() == "decorator")
        .map(|part| {
            let text = b.slice(part).trim_start_matches('@').trim();
            let end = text.find(['(', ' ', '\n']).unwrap_or(text.len());
            let path = text.get(..end).unwrap_or_default();
            b.name(path)
        })
        .collect()
}

fn function(b: &mut Builder<'_>, node: Node<'_>, class: Option<ClassId>) -> FuncId {
    let name_node = node.child_by_field_name("name").unwrap_or(node);
    let name = b.name_of(name_node);
    let marks = marks(b, node);
    let fixed = marks.iter().any(|mark| b.text_of(*mark) == "staticmethod");
    let constructor = class.is_some() && b.text_of(name) == "__init__";
    let func = b.open(name, name_node.into());
    let params = match node.child_by_field_name("parameters") {
        Some(list) => parameters(b, list),
        None => Vec::new(),
    };
    let mut body = Vec::new();
    if let Some(part) = node.child_by_field_name("body") {
        declare_all(b, part);
        body = block(b, part);
    }
    b.close(params, body);
    if let Some(func) = b.func_mut(func) {
        func.class = class;
        func.marks = marks;
        func.fixed = fixed;
        func.constructor = constructor;
    }
    func
}

fn parameters(b: &mut Builder<'_>, list: Node<'_>) -> Vec<Param> {
    let mut params = Vec::new();
    for node in kids(list) {
        let name_node = match node.kind() {
            "identifier" => Some(node),
            "default_parameter" | "typed_default_parameter" => node.child_by_field_name("name"),
            "typed_parameter" | "list_splat_pattern" | "dictionary_splat_pattern" => {
                first_identifier(node)
            }
            _ => None,
        };
        let Some(name_node) = name_node else { continue };
        let rest = node.kind().contains("splat")
            || node.kind() == "typed_parameter" && b.slice(node).starts_with('*');
        let ty = match node.child_by_field_name("type") {
            Some(ty) => {
                let text = super::type_text(b.slice(ty));
                b.name(text)
            }
            None => Name::NONE,
        };
        let default = node
            .child_by_field_name("value")
            .map(|value| expr(b, value));
        let name = b.name_of(name_node);
        let slot = b.declare(name).slot;
        params.push(Param {
            slot,
            name,
            ty,
            sp: name_node.into(),
            annotations: Vec::new(),
            default,
            rest,
        });
    }
    params
}

fn first_identifier(node: Node<'_>) -> Option<Node<'_>> {
    let mut work = vec![node];
    while let Some(node) = work.pop() {
        if node.kind() == "identifier" {
            return Some(node);
        }
        let mut parts = kids(node);
        parts.reverse();
        work.extend(parts.into_iter().filter(|part| part.kind() != "type"));
    }
    None
}

fn class(b: &mut Builder<'_>, node: Node<'_>) {
    if !b.enter() {
        return;
    }
    let name = match node.child_by_field_name("name") {
        Some(name) => b.name_of(name),
        None => Name::NONE,
    };
    let supers = node
        .child_by_field_name("superclasses")
        .map(kids)
        .unwrap_or_default();
    let supers = supers
        .into_iter()
        .filter(|part| matches!(part.kind(), "identifier" | "attribute"))
        .map(|part| {
            let text = b.slice(part);
            let last = text.rsplit('.').next().unwrap_or(text);
            b.name(last)
        })
        .collect();
    let id = b.class(name, supers);
    b.classes.push(id);
    let body = node
        .child_by_field_name("body")
        .map(kids)
        .unwrap_or_default();
    for member in body {
        class_member(b, id, member);
    }
    b.classes.pop();
    b.leave();
}

fn class_member(b: &mut Builder<'_>, id: ClassId, member: Node<'_>) {
    match member.kind() {
        "function_definition" => {
            let func = function(b, member, Some(id));
            if let Some(class) = b.class_mut(id) {
                class.methods.push(func);
            }
        }
        "decorated_definition" => {
            if let Some(inner) = member.child_by_field_name("definition") {
                class_member(b, id, inner);
            }
        }
        "class_definition" => class(b, member),
        "expression_statement" => {
            for part in kids(member)
                .into_iter()
                .filter(|part| part.kind() == "assignment")
            {
                let (Some(left), Some(right)) = (
                    part.child_by_field_name("left"),
                    part.child_by_field_name("right"),
                ) else {
                    continue;
                };
                if left.kind() == "identifier" {
                    let name = b.name_of(left);
                    let init = Some(expr(b, right));
                    if let Some(class) = b.class_mut(id) {
                        class.fields.push(Field {
                            name,
                            ty: Name::NONE,
                            init,
                        });
                    }
                }
            }
        }
        _ => {}
    }
}

// ── statements ──

fn block(b: &mut Builder<'_>, node: Node<'_>) -> Block {
    let mut out = Vec::new();
    if b.enter() {
        for child in kids(node) {
            statement(b, child, &mut out);
        }
        b.leave();
    }
    out
}

fn field_block(b: &mut Builder<'_>, node: Node<'_>, field: &str) -> Block {
    match node.child_by_field_name(field) {
        Some(part) => block(b, part),
        None => Vec::new(),
    }
}

fn field_expr(b: &mut Builder<'_>, node: Node<'_>, field: &str) -> ExprId {
    match node.child_by_field_name(field) {
        Some(part) => expr(b, part),
        None => b.unknown(node.into()),
    }
}

fn statement(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let sp: Sp = node.into();
    match node.kind() {
        "expression_statement" => {
            for part in kids(node) {
                let value = expr(b, part);
                out.push(stmt(StmtKind::Expr(value), sp));
            }
        }
        "if_statement" => out.extend(branch(b, node)),
        "while_statement" => {
            let cond = Some(field_expr(b, node, "condition"));
            let body = field_block(b, node, "body");
            let update = Vec::new();
            out.push(stmt(
                StmtKind::Loop {
                    cond,
                    body,
                    update,
                    post: false,
                },
                sp,
            ));
            otherwise(b, node, out);
        }
        "for_statement" => {
            let iter = field_expr(b, node, "right");
            let target = field_target(b, node, "left");
            let body = field_block(b, node, "body");
            out.push(stmt(
                StmtKind::ForEach {
                    target,
                    iter,
                    body,
                    keys: false,
                },
                sp,
            ));
            otherwise(b, node, out);
        }
        "return_statement" | "raise_statement" => {
            let parts: Vec<ExprId> = kids(node).into_iter().map(|part| expr(b, part)).collect();
            let value = (!parts.is_empty()).then(|| pass(b, parts, sp));
            let kind = if node.kind() == "return_statement" {
                StmtKind::Return(value)
            } else {
                StmtKind::Throw(value)
            };
            out.push(stmt(kind, sp));
        }
        "break_statement" => out.push(stmt(StmtKind::Break, sp)),
        "continue_statement" => out.push(stmt(StmtKind::Continue, sp)),
        "try_statement" => trying(b, node, out),
        "with_statement" => with(b, node, out),
        "match_statement" => matching(b, node, out),
        "function_definition" => {
            let func = function(b, node, None);
            let closure = b.expr(ExprKind::Closure(func), sp);
            if let Some(name) = node.child_by_field_name("name") {
                let target = variable(b, name);
                let assign = b.assign(target, closure, name.into());
                out.push(assign);
            }
        }
        "decorated_definition" => {
            if let Some(inner) = node.child_by_field_name("definition") {
                statement(b, inner, out);
            }
        }
        "class_definition" => class(b, node),
        "import_statement" | "import_from_statement" => import(b, node, out),
        "exec_statement" => {
            let callee = b.name("exec");
            let callee = b.expr(ExprKind::Free(callee), sp);
            let args = match node.child_by_field_name("code") {
                Some(code) => vec![plain_arg(expr(b, code))],
                None => Vec::new(),
            };
            let call = Call {
                callee: Callee::Func(callee),
                args,
            };
            let value = b.expr(ExprKind::Call(Box::new(call)), sp);
            out.push(stmt(StmtKind::Expr(value), sp));
        }
        "global_statement"
        | "nonlocal_statement"
        | "pass_statement"
        | "delete_statement"
        | "future_import_statement"
        | "type_alias_statement" => {}
        "ERROR" | "block" => {
            for part in kids(node) {
                statement(b, part, out);
            }
        }
        _ => {
            let value = expr(b, node);
            out.push(stmt(StmtKind::Expr(value), sp));
        }
    }
}

fn otherwise(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    if let Some(part) = node.child_by_field_name("alternative") {
        out.extend(field_block(b, part, "body"));
    }
}

/// `if`, `elif`…, `else` as nested branches, built from the end.
fn branch(b: &mut Builder<'_>, node: Node<'_>) -> Block {
    let cond = field_expr(b, node, "condition");
    let then = field_block(b, node, "consequence");
    let mut other: Block = Vec::new();
    let mut arms = Vec::new();
    for part in fields(node, "alternative") {
        if part.kind() == "elif_clause" {
            let cond = field_expr(b, part, "condition");
            let then = field_block(b, part, "consequence");
            arms.push((cond, then, Sp::from(part)));
        } else {
            other = field_block(b, part, "body");
        }
    }
    // A long chain of `elif` would nest as deep: beyond the bound the arms stand beside each other.
    let deep = arms.split_off(arms.len().min(60));
    for (cond, then, sp) in deep {
        let other_arm = Vec::new();
        other.extend(one(
            StmtKind::If {
                cond,
                then,
                other: other_arm,
            },
            sp,
        ));
    }
    for (cond, then, sp) in arms.into_iter().rev() {
        other = one(StmtKind::If { cond, then, other }, sp);
    }
    one(StmtKind::If { cond, then, other }, node.into())
}

fn trying(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let mut body = field_block(b, node, "body");
    let mut catches = Vec::new();
    let mut last = Vec::new();
    for part in kids(node) {
        match part.kind() {
            "except_clause" | "except_group_clause" => {
                let mut caught = Vec::new();
                for inner in kids(part) {
                    match inner.kind() {
                        "block" => caught.extend(block(b, inner)),
                        "as_pattern" => {
                            if let Some(alias) = inner.child_by_field_name("alias") {
                                let target = target(b, alias);
                                let unknown = b.unknown(inner.into());
                                caught.push(b.assign(target, unknown, inner.into()));
                            }
                        }
                        _ => {}
                    }
                }
                catches.push(caught);
            }
            "else_clause" => body.extend(field_block(b, part, "body")),
            "finally_clause" => {
                for inner in kids(part) {
                    last.extend(block(b, inner));
                }
            }
            _ => {}
        }
    }
    out.push(stmt(
        StmtKind::Try {
            body,
            catches,
            last,
        },
        node.into(),
    ));
}

fn with(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    for clause in kids(node)
        .into_iter()
        .filter(|part| part.kind() == "with_clause")
    {
        for item in kids(clause) {
            let Some(value) = item.child_by_field_name("value") else {
                continue;
            };
            let value = expr(b, value);
            out.push(stmt(StmtKind::Expr(value), item.into()));
        }
    }
    out.extend(field_block(b, node, "body"));
}

fn matching(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let value = field_expr(b, node, "subject");
    let body = node
        .child_by_field_name("body")
        .map(kids)
        .unwrap_or_default();
    let mut cases = Vec::new();
    for clause in body.into_iter().filter(|part| part.kind() == "case_clause") {
        let mut case = Case {
            labels: Vec::new(),
            default: false,
            body: Vec::new(),
        };
        for pattern in kids(clause)
            .into_iter()
            .filter(|part| part.kind() == "case_pattern")
        {
            label(b, pattern, &mut case);
        }
        if clause.child_by_field_name("guard").is_some() {
            let unknown = b.unknown(clause.into());
            case.labels.push(unknown);
        }
        case.body.extend(field_block(b, clause, "consequence"));
        case.body.push(stmt(StmtKind::Break, clause.into()));
        cases.push(case);
    }
    out.push(stmt(StmtKind::Switch { value, cases }, node.into()));
}

fn label(b: &mut Builder<'_>, pattern: Node<'_>, case: &mut Case) {
    let parts = kids(pattern);
    if b.slice(pattern) == "_" || parts.is_empty() {
        case.default = true;
        return;
    }
    for part in parts {
        match part.kind() {
            "union_pattern" => {
                for inner in kids(part) {
                    let value = expr(b, inner);
                    case.labels.push(value);
                }
            }
            "string" | "integer" | "true" | "false" | "none" | "concatenated_string" | "float" => {
                let value = expr(b, part);
                case.labels.push(value);
            }
            "dotted_name" if kids(part).len() == 1 => case.default = true,
            _ => {
                let unknown = b.unknown(part.into());
                case.labels.push(unknown);
            }
        }
    }
}

fn import(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let sp: Sp = node.into();
    let module = node
        .child_by_field_name("module_name")
        .map(|module| b.slice(module).trim_start_matches('.'));
    for import in fields(node, "name") {
        let alias = import.child_by_field_name("alias");
        let name = import.child_by_field_name("name").unwrap_or(import);
        let text = b.slice(name);
        let (path, bound) = match (module, alias) {
            (Some(""), alias) => (text.to_owned(), alias.map_or(text, |alias| b.slice(alias))),
            (Some(module), alias) => (
                format!("{module}.{text}"),
                alias.map_or(text, |alias| b.slice(alias)),
            ),
            (None, Some(alias)) => (text.to_owned(), b.slice(alias)),
            (None, None) => {
                let first = text.split('.').next().unwrap_or(text);
                (first.to_owned(), first)
            }
        };
        let path = b.name(&path);
        let value = b.expr(ExprKind::Path(path), import.into());
        let bound = b.name(bound);
        let var = match b.resolve(bound) {
            Some(var) => var,
            None => b.declare(bound),
        };
        let assign = b.assign(Target::Var(var, alias.unwrap_or(name).into()), value, sp);
        out.push(assign);
    }
}

// ── targets ──

fn field_target(b: &mut Builder<'_>, node: Node<'_>, field: &str) -> Target {
    match node.child_by_field_name(field) {
        Some(part) => target(b, part),
        None => Target::Ignore,
    }
}

fn target(b: &mut Builder<'_>, node: Node<'_>) -> Target {
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

fn plain_arg(expr: ExprId) -> Arg {
    Arg {
        expr,
        name: None,
        spread: false,
    }
}

fn expr(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
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
    b.expr(ExprKind::Block(Box::new(body)), sp)
}

fn lambda(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let name = b.name("lambda");
    let func = b.open(name, sp);
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
