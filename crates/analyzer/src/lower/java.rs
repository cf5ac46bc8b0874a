//! Java to the IR.

mod expr;

use tree_sitter::Node;

use self::expr::{arguments, expr};
use super::{child, fields, kids, stmt, type_text};
use crate::ir::{
    Block, Builder, Call, Callee, Case, ClassId, ExprId, ExprKind, Field, Name, Param, Program, Sp,
    StmtKind, Target,
};

pub(super) fn lower(mut b: Builder<'_>, root: Node<'_>) -> Program {
    let mut body = Vec::new();
    for node in kids(root) {
        statement(&mut b, node, &mut body);
    }
    b.finish(body)
}

// ── declarations ──

fn annotations(b: &mut Builder<'_>, node: Node<'_>) -> Vec<Name> {
    let Some(modifiers) = child(node, "modifiers") else {
        return Vec::new();
    };
    kids(modifiers)
        .into_iter()
        .filter(|m| matches!(m.kind(), "annotation" | "marker_annotation"))
        .filter_map(|m| m.child_by_field_name("name"))
        .map(|name| {
            let text = b.slice(name);
            let simple = text.rsplit('.').next().unwrap_or(text);
            b.name(simple)
        })
        .collect()
}

fn has_modifier(b: &Builder<'_>, node: Node<'_>, word: &str) -> bool {
    child(node, "modifiers").is_some_and(|m| {
        let mut cursor = m.walk();
        m.children(&mut cursor).any(|part| b.slice(part) == word)
    })
}

fn type_name(b: &mut Builder<'_>, node: Option<Node<'_>>) -> Name {
    let Some(node) = node else { return Name::NONE };
    let text = type_text(b.slice(node));
    if text == "var" {
        Name::NONE
    } else {
        b.name(text)
    }
}

fn super_names(b: &mut Builder<'_>, node: Node<'_>) -> Vec<Name> {
    let mut names = Vec::new();
    for field in ["superclass", "interfaces"] {
        let Some(part) = node.child_by_field_name(field) else {
            continue;
        };
        let mut stack = vec![part];
        while let Some(at) = stack.pop() {
            if matches!(
                at.kind(),
                "type_identifier" | "scoped_type_identifier" | "generic_type"
            ) {
                let text = type_text(b.slice(at));
                names.push(b.name(text));
            } else {
                stack.extend(kids(at));
            }
        }
    }
    names
}

fn class(b: &mut Builder<'_>, node: Node<'_>) -> ClassId {
    let name = match node.child_by_field_name("name") {
        Some(name) => b.name_of(name),
        None => Name::NONE,
    };
    let supers = super_names(b, node);
    let id = b.class(name, supers);
    let marks = annotations(b, node);
    let record = node.kind() == "record_declaration";
    if let Some(class) = b.class_mut(id) {
        class.marks = marks;
        class.record = record;
    }
    if let Some(params) = node.child_by_field_name("parameters") {
        for param in kids(params) {
            let ty = type_name(b, param.child_by_field_name("type"));
            if let Some(name) = param.child_by_field_name("name") {
                let name = b.name_of(name);
                add_field(b, id, name, ty, None);
            }
        }
    }
    if let Some(body) = node.child_by_field_name("body") {
        class_body(b, id, body);
    }
    id
}

fn add_field(b: &mut Builder<'_>, id: ClassId, name: Name, ty: Name, init: Option<ExprId>) {
    if let Some(class) = b.class_mut(id) {
        class.fields.push(Field { name, ty, init });
    }
}

fn class_body(b: &mut Builder<'_>, id: ClassId, body: Node<'_>) {
    if !b.enter() {
        return;
    }
    b.classes.push(id);
    let members: Vec<Node<'_>> = kids(body)
        .into_iter()
        .flat_map(|m| {
            if m.kind() == "enum_body_declarations" {
                kids(m)
            } else {
                vec![m]
            }
        })
        .collect();
    // Names first: a method may use a field that is declared below it.
    for member in members.iter().filter(|m| is_field(m)) {
        let ty = type_name(b, member.child_by_field_name("type"));
        for declarator in fields(*member, "declarator") {
            if let Some(name) = declarator.child_by_field_name("name") {
                let name = b.name_of(name);
                add_field(b, id, name, ty, None);
            }
        }
    }
    for member in members {
        class_member(b, id, member);
    }
    b.classes.pop();
    b.leave();
}

fn is_field(node: &Node<'_>) -> bool {
    matches!(node.kind(), "field_declaration" | "constant_declaration")
}

fn class_member(b: &mut Builder<'_>, id: ClassId, member: Node<'_>) {
    match member.kind() {
        "field_declaration" | "constant_declaration" => {
            for declarator in fields(member, "declarator") {
                let (Some(name), Some(value)) = (
                    declarator.child_by_field_name("name"),
                    declarator.child_by_field_name("value"),
                ) else {
                    continue;
                };
                let name = b.name_of(name);
                let value = expr(b, value);
                if let Some(class) = b.class_mut(id)
                    && let Some(field) = class.fields.iter_mut().find(|field| field.name == name)
                {
                    field.init = Some(value);
                }
            }
        }
        "method_declaration" | "constructor_declaration" | "compact_constructor_declaration" => {
            method(b, id, member);
        }
        "static_initializer" | "block" => {
            let name = b.name("static");
            let func = b.open(name);
            let mut body = Vec::new();
            for node in kids(member) {
                statement(b, node, &mut body);
            }
            b.close(Vec::new(), body);
            if let Some(func) = b.func_mut(func) {
                func.class = Some(id);
            }
            if let Some(class) = b.class_mut(id) {
                class.methods.push(func);
            }
        }
        "enum_constant" => {
            if let Some(body) = member.child_by_field_name("body") {
                class_body(b, id, body);
            }
        }
        "class_declaration"
        | "interface_declaration"
        | "enum_declaration"
        | "record_declaration" => {
            class(b, member);
        }
        _ => {}
    }
}

fn method(b: &mut Builder<'_>, id: ClassId, node: Node<'_>) {
    let constructor = node.kind() != "method_declaration";
    let name = match node.child_by_field_name("name") {
        Some(name) => b.name_of(name),
        None => Name::NONE,
    };
    let marks = annotations(b, node);
    let fixed = has_modifier(b, node, "static");
    let func = b.open(name);
    let params = match node.child_by_field_name("parameters") {
        Some(list) => parameters(b, list),
        None => Vec::new(),
    };
    let body = match node.child_by_field_name("body") {
        Some(body) => block(b, body),
        None => Vec::new(),
    };
    b.close(params, body);
    if let Some(func) = b.func_mut(func) {
        func.class = Some(id);
        func.marks = marks;
        func.fixed = fixed;
        func.constructor = constructor;
    }
    if let Some(class) = b.class_mut(id) {
        class.methods.push(func);
    }
}

fn parameters(b: &mut Builder<'_>, list: Node<'_>) -> Vec<Param> {
    let mut params = Vec::new();
    for node in kids(list) {
        let (name_node, rest) = match node.kind() {
            "formal_parameter" => (node.child_by_field_name("name"), false),
            "spread_parameter" => (
                child(node, "variable_declarator").and_then(|d| d.child_by_field_name("name")),
                true,
            ),
            "identifier" => (Some(node), false),
            _ => (None, false),
        };
        let Some(name_node) = name_node else { continue };
        let ty = type_name(b, node.child_by_field_name("type"));
        let annotations = annotations(b, node);
        let name = b.name_of(name_node);
        let slot = b.declare(name).slot;
        params.push(Param {
            slot,
            name,
            ty,
            sp: name_node.into(),
            annotations,
            default: None,
            rest,
        });
    }
    params
}

// ── statements ──

fn block(b: &mut Builder<'_>, node: Node<'_>) -> Block {
    let mut out = Vec::new();
    if b.enter() {
        if matches!(node.kind(), "block" | "constructor_body") {
            for child in kids(node) {
                statement(b, child, &mut out);
            }
        } else {
            statement(b, node, &mut out);
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
        "block" => {
            let body = block(b, node);
            out.push(stmt(StmtKind::Block(body), sp));
        }
        "local_variable_declaration" => local(b, node, out),
        "expression_statement" => {
            for part in kids(node) {
                if part.kind() == "switch_expression" {
                    switch(b, part, false, out);
                } else {
                    let value = expr(b, part);
                    out.push(stmt(StmtKind::Expr(value), sp));
                }
            }
        }
        "switch_expression" | "switch_statement" => switch(b, node, false, out),
        "if_statement" => {
            let cond = field_expr(b, node, "condition");
            let then = field_block(b, node, "consequence");
            let other = field_block(b, node, "alternative");
            out.push(stmt(StmtKind::If { cond, then, other }, sp));
        }
        "while_statement" | "do_statement" | "for_statement" | "enhanced_for_statement" => {
            looping(b, node, out);
        }
        "return_statement" | "yield_statement" | "throw_statement" => {
            let value = kids(node).first().map(|part| expr(b, *part));
            let kind = match (node.kind(), value) {
                ("yield_statement", Some(value)) => StmtKind::Yield(value),
                ("throw_statement", value) => StmtKind::Throw(value),
                (_, value) => StmtKind::Return(value),
            };
            out.push(stmt(kind, sp));
        }
        "break_statement" => out.push(stmt(StmtKind::Break, sp)),
        "continue_statement" => out.push(stmt(StmtKind::Continue, sp)),
        "labeled_statement" | "synchronized_statement" => {
            for part in kids(node) {
                match part.kind() {
                    "identifier" => {}
                    "parenthesized_expression" => {
                        let value = expr(b, part);
                        out.push(stmt(StmtKind::Expr(value), sp));
                    }
                    _ => out.extend(block(b, part)),
                }
            }
        }
        "try_statement" | "try_with_resources_statement" => trying(b, node, out),
        "class_declaration"
        | "interface_declaration"
        | "enum_declaration"
        | "record_declaration" => {
            class(b, node);
        }
        "explicit_constructor_invocation" => {
            let args = arguments(b, node);
            let name = node
                .child_by_field_name("constructor")
                .map_or("super", |part| b.slice(part));
            let name = b.name(name);
            let value = b.expr(
                ExprKind::Call(Box::new(Call {
                    callee: Callee::Own(name),
                    args,
                })),
                sp,
            );
            out.push(stmt(StmtKind::Expr(value), sp));
        }
        "package_declaration"
        | "import_declaration"
        | "annotation_type_declaration"
        | "module_declaration" => {}
        "method_declaration" => {
            let id = b.class(Name::NONE, Vec::new());
            method(b, id, node);
        }
        "ERROR" => {
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

fn local(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let ty = type_name(b, node.child_by_field_name("type"));
    for declarator in fields(node, "declarator") {
        let Some(name_node) = declarator.child_by_field_name("name") else {
            continue;
        };
        let sp: Sp = declarator.into();
        let value = match declarator.child_by_field_name("value") {
            Some(value) => expr(b, value),
            None => b.unknown(sp),
        };
        let value = if ty.is_none() {
            value
        } else {
            b.expr(ExprKind::Cast(value, ty), b.span_of(value))
        };
        let name = b.name_of(name_node);
        let var = b.declare(name);
        let target = Target::Var(var, name_node.into());
        let assign = b.assign(target, value, sp);
        out.push(assign);
    }
}

fn looping(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let sp: Sp = node.into();
    match node.kind() {
        "while_statement" | "do_statement" => {
            let cond = Some(field_expr(b, node, "condition"));
            let body = field_block(b, node, "body");
            out.push(stmt(
                StmtKind::Loop {
                    cond,
                    body,
                    update: Vec::new(),
                    post: node.kind() == "do_statement",
                },
                sp,
            ));
        }
        "for_statement" => {
            for init in fields(node, "init") {
                statement(b, init, out);
            }
            let cond = node
                .child_by_field_name("condition")
                .map(|part| expr(b, part));
            let body = field_block(b, node, "body");
            let mut update = Vec::new();
            for part in fields(node, "update") {
                statement(b, part, &mut update);
            }
            out.push(stmt(
                StmtKind::Loop {
                    cond,
                    body,
                    update,
                    post: false,
                },
                sp,
            ));
        }
        _ => {
            let iter = field_expr(b, node, "value");
            let Some(name_node) = node.child_by_field_name("name") else {
                return;
            };
            let name = b.name_of(name_node);
            let ty = type_name(b, node.child_by_field_name("type"));
            let var = b.declare(name);
            let at: Sp = name_node.into();
            let mut body = Vec::new();
            if !ty.is_none() {
                let read = b.var(var, at);
                let typed = b.expr(ExprKind::Cast(read, ty), at);
                body.push(b.assign(Target::Var(var, at), typed, at));
            }
            body.extend(field_block(b, node, "body"));
            out.push(stmt(
                StmtKind::ForEach {
                    target: Target::Var(var, at),
                    iter,
                    body,
                    keys: false,
                },
                sp,
            ));
        }
    }
}

fn trying(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let mut body = Vec::new();
    if let Some(resources) = node.child_by_field_name("resources") {
        for resource in kids(resources) {
            let (Some(name_node), Some(value)) = (
                resource.child_by_field_name("name"),
                resource.child_by_field_name("value"),
            ) else {
                continue;
            };
            let ty = type_name(b, resource.child_by_field_name("type"));
            let value = expr(b, value);
            let value = b.expr(ExprKind::Cast(value, ty), b.span_of(value));
            let name = b.name_of(name_node);
            let var = b.declare(name);
            body.push(b.assign(Target::Var(var, name_node.into()), value, resource.into()));
        }
    }
    body.extend(field_block(b, node, "body"));
    let mut catches = Vec::new();
    let mut last = Vec::new();
    for part in kids(node) {
        match part.kind() {
            "catch_clause" => {
                let mut caught = Vec::new();
                if let Some(name_node) = child(part, "catch_formal_parameter")
                    .and_then(|param| param.child_by_field_name("name"))
                {
                    let name = b.name_of(name_node);
                    let var = b.declare(name);
                    let unknown = b.unknown(name_node.into());
                    caught.push(b.assign(Target::Var(var, name_node.into()), unknown, part.into()));
                }
                caught.extend(field_block(b, part, "body"));
                catches.push(caught);
            }
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

/// A `switch`; with `value` its arms yield, else they are statements.
fn switch(b: &mut Builder<'_>, node: Node<'_>, value: bool, out: &mut Block) {
    if !b.enter() {
        return;
    }
    let sp: Sp = node.into();
    let subject = field_expr(b, node, "condition");
    let mut cases = Vec::new();
    let groups = node
        .child_by_field_name("body")
        .map(kids)
        .unwrap_or_default();
    for group in groups {
        let mut case = Case {
            labels: Vec::new(),
            default: false,
            body: Vec::new(),
        };
        let arrow = group.kind() == "switch_rule";
        for part in kids(group) {
            if part.kind() == "switch_label" {
                label(b, part, &mut case);
            } else if arrow && value && part.kind() == "expression_statement" {
                for inner in kids(part) {
                    let result = expr(b, inner);
                    case.body.push(stmt(StmtKind::Yield(result), inner.into()));
                }
            } else {
                statement(b, part, &mut case.body);
            }
        }
        if arrow {
            case.body.push(stmt(StmtKind::Break, group.into()));
        }
        cases.push(case);
    }
    out.push(stmt(
        StmtKind::Switch {
            value: subject,
            cases,
        },
        sp,
    ));
    b.leave();
}

fn label(b: &mut Builder<'_>, node: Node<'_>, case: &mut Case) {
    let parts = kids(node);
    if b.slice(node).starts_with("default") {
        case.default = true;
    }
    for part in parts {
        let label = if part.kind() == "pattern" {
            b.unknown(part.into())
        } else {
            expr(b, part)
        };
        case.labels.push(label);
    }
}
