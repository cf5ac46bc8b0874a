//! Python to the IR.

mod expr;

use std::collections::BTreeSet;

use tree_sitter::Node;

use self::expr::{expr, field_target, plain_arg, target};
use super::{fields, kids, one, pass, stmt};
use crate::ir::{
    Block, Builder, Call, Callee, Case, ClassId, ExprId, ExprKind, Field, FuncId, Name, Param,
    Program, Sp, StmtKind, Target,
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
    let func = b.open(name);
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

#[expect(clippy::too_many_lines, reason = "one arm per kind of node: a table")]
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
