//! Java to the IR.

use tree_sitter::Node;

use super::{
    child, fields, integer, kids, one, operator, pass, plus_chain, stmt, type_text, unescape,
};
use crate::ir::{
    Arg, Block, Builder, Call, Callee, Case, ClassId, ExprId, ExprKind, Field, Lit, Name, New, Op,
    Param, Program, Sp, StmtKind, Target,
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
    if let Some(class) = b.class_mut(id) {
        class.marks = marks;
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
            let func = b.open(name, member.into());
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
    let sp = node.child_by_field_name("name").unwrap_or(node).into();
    let marks = annotations(b, node);
    let fixed = has_modifier(b, node, "static");
    let func = b.open(name, sp);
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

// ── expressions ──

fn arguments(b: &mut Builder<'_>, node: Node<'_>) -> Vec<Arg> {
    let Some(list) = node.child_by_field_name("arguments") else {
        return Vec::new();
    };
    kids(list)
        .into_iter()
        .map(|part| Arg {
            expr: expr(b, part),
            name: None,
            spread: false,
        })
        .collect()
}

fn expr(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    if !b.enter() {
        return b.unknown(node.into());
    }
    let id = expr_inner(b, node);
    b.leave();
    id
}

fn expr_inner(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let kind = match node.kind() {
        "identifier" => return identifier(b, node),
        "string_literal" | "text_block" => return string(b, node),
        "character_literal" => {
            let text = b.slice(node).trim_matches('\'');
            let mut value = String::new();
            unescape(text, &mut value);
            return b.string(&value, sp);
        }
        "decimal_integer_literal"
        | "hex_integer_literal"
        | "octal_integer_literal"
        | "binary_integer_literal" => ExprKind::Lit(integer(b.slice(node))),
        "decimal_floating_point_literal" | "hex_floating_point_literal" => {
            ExprKind::Lit(Lit::Number)
        }
        "true" => ExprKind::Lit(Lit::Bool(true)),
        "false" => ExprKind::Lit(Lit::Bool(false)),
        "null_literal" => ExprKind::Lit(Lit::Null),
        "this" | "super" => ExprKind::This,
        "parenthesized_expression" => {
            let parts = all(b, node);
            return pass(b, parts, sp);
        }
        "binary_expression" => return binary(b, node),
        "unary_expression" => {
            let value = field_expr(b, node, "operand");
            let text = node
                .child_by_field_name("operator")
                .map_or("", |o| b.slice(o));
            ExprKind::Unary(if text == "-" { Op::Neg } else { operator(text) }, value)
        }
        "update_expression" => return update(b, node),
        "assignment_expression" => return assignment(b, node),
        "ternary_expression" => {
            let cond = field_expr(b, node, "condition");
            let then = field_expr(b, node, "consequence");
            let other = field_expr(b, node, "alternative");
            ExprKind::Cond(cond, then, other)
        }
        "cast_expression" => {
            let ty = type_name(b, node.child_by_field_name("type"));
            let value = field_expr(b, node, "value");
            ExprKind::Cast(value, ty)
        }
        "instanceof_expression" => return instance_of(b, node),
        "field_access" => {
            let object = field_expr(b, node, "object");
            let name = node.child_by_field_name("field").map_or("", |f| b.slice(f));
            if name == "this" {
                ExprKind::This
            } else {
                let name = b.name(name);
                ExprKind::Field(object, name)
            }
        }
        "array_access" => {
            let array = field_expr(b, node, "array");
            let index = field_expr(b, node, "index");
            ExprKind::Index(array, index)
        }
        "method_invocation" => return invocation(b, node),
        "object_creation_expression" => return creation(b, node),
        "array_creation_expression" => match node.child_by_field_name("value") {
            Some(value) => return expr(b, value),
            None => {
                let name = b.name("array");
                ExprKind::Fresh(name)
            }
        },
        "array_initializer" | "element_value_array_initializer" => {
            let parts = all(b, node);
            ExprKind::List(parts)
        }
        "lambda_expression" => return lambda(b, node),
        "method_reference" => return reference(b, node),
        "switch_expression" => {
            let mut body = Vec::new();
            switch(b, node, true, &mut body);
            ExprKind::Block(Box::new(body))
        }
        "class_literal" => ExprKind::Unknown,
        _ => {
            let parts = all(b, node);
            ExprKind::Pass(parts)
        }
    };
    b.expr(kind, sp)
}

fn all(b: &mut Builder<'_>, node: Node<'_>) -> Vec<ExprId> {
    kids(node).into_iter().map(|part| expr(b, part)).collect()
}

fn identifier(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let name = b.name_of(node);
    if let Some(var) = b.resolve(name) {
        return b.var(var, sp);
    }
    field_of(b, name, sp)
}

/// A bare name that is no variable: a field of the class at hand or of one around it, or a class.
fn field_of(b: &mut Builder<'_>, name: Name, sp: Sp) -> ExprId {
    let classes = b.classes.clone();
    for (out, id) in classes.iter().rev().enumerate() {
        let has = b
            .class_mut(*id)
            .is_some_and(|class| class.fields.iter().any(|field| field.name == name));
        if has {
            let object = if out == 0 {
                ExprKind::This
            } else {
                ExprKind::Class(*id)
            };
            let object = b.expr(object, sp);
            return b.expr(ExprKind::Field(object, name), sp);
        }
    }
    b.expr(ExprKind::Free(name), sp)
}

fn string(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let mut value = String::new();
    for part in kids(node) {
        match part.kind() {
            "escape_sequence" => unescape(b.slice(part), &mut value),
            _ => value.push_str(b.slice(part)),
        }
    }
    b.string(&value, node.into())
}

fn sign<'t>(node: Node<'t>) -> &'t str {
    node.child_by_field_name("operator")
        .map_or("", |operator| operator.kind())
}

fn binary(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    if let Some(parts) = plus_chain(node, "binary_expression", &|node| sign(node) == "+") {
        let parts = parts.into_iter().map(|part| expr(b, part)).collect();
        return b.expr(ExprKind::Concat(parts), sp);
    }
    let left = field_expr(b, node, "left");
    let right = field_expr(b, node, "right");
    let kind = match sign(node) {
        "&&" => ExprKind::And(left, right),
        "||" => ExprKind::Or(left, right),
        text => ExprKind::Binary(operator(text), left, right),
    };
    b.expr(kind, sp)
}

fn target(b: &mut Builder<'_>, node: Node<'_>) -> Target {
    let sp: Sp = node.into();
    let id = expr(b, node);
    match b.kind(id) {
        Some(ExprKind::Var(var)) => Target::Var(*var, sp),
        Some(ExprKind::Field(object, name)) => Target::Field(*object, *name, sp),
        Some(ExprKind::Index(object, index)) => Target::Index(*object, *index, sp),
        _ => Target::Ignore,
    }
}

fn assignment(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let Some(left) = node.child_by_field_name("left") else {
        return b.unknown(sp);
    };
    let value = field_expr(b, node, "right");
    let text = node
        .child_by_field_name("operator")
        .map_or("=", |o| o.kind());
    let value = if text == "=" {
        value
    } else {
        let old = expr(b, left);
        let kind = if text == "+=" {
            ExprKind::Concat(vec![old, value])
        } else {
            ExprKind::Binary(operator(text), old, value)
        };
        b.expr(kind, sp)
    };
    let target = target(b, left);
    b.expr(ExprKind::Assign(Box::new(target), value), sp)
}

fn update(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let Some(operand) = kids(node).first().copied() else {
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

fn instance_of(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let value = field_expr(b, node, "left");
    let test = b.expr(ExprKind::Unary(Op::Opaque, value), sp);
    let Some(name_node) = node.child_by_field_name("name") else {
        return test;
    };
    let ty = type_name(b, node.child_by_field_name("right"));
    let name = b.name_of(name_node);
    let var = b.declare(name);
    let typed = b.expr(ExprKind::Cast(value, ty), sp);
    let bind = b.expr(
        ExprKind::Assign(Box::new(Target::Var(var, name_node.into())), typed),
        sp,
    );
    b.expr(ExprKind::Seq(vec![bind, test]), sp)
}

fn invocation(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let name = match node.child_by_field_name("name") {
        Some(name) => b.name_of(name),
        None => Name::NONE,
    };
    let callee = match node.child_by_field_name("object") {
        Some(object) if object.kind() != "super" => {
            let hint = b.hint(object);
            Callee::Method {
                recv: expr(b, object),
                name,
                hint,
            }
        }
        _ => Callee::Own(name),
    };
    let args = arguments(b, node);
    b.expr(ExprKind::Call(Box::new(Call { callee, args })), sp)
}

fn creation(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let class = type_name(b, node.child_by_field_name("type"));
    let args = arguments(b, node);
    let body = child(node, "class_body").map(|body| {
        let id = b.class(class, vec![class]);
        class_body(b, id, body);
        id
    });
    let new = New {
        class,
        callee: None,
        args,
        body,
    };
    b.expr(ExprKind::New(Box::new(new)), node.into())
}

fn lambda(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let name = b.name("lambda");
    let func = b.open(name, sp);
    let mut params = Vec::new();
    if let Some(list) = node.child_by_field_name("parameters") {
        if list.kind() == "identifier" {
            let name = b.name_of(list);
            let slot = b.declare(name).slot;
            params.push(Param {
                slot,
                name,
                ty: Name::NONE,
                sp: list.into(),
                annotations: Vec::new(),
                default: None,
                rest: false,
            });
        } else {
            params = parameters(b, list);
        }
    }
    let body = match node.child_by_field_name("body") {
        Some(body) if body.kind() == "block" => block(b, body),
        Some(body) => {
            let value = expr(b, body);
            one(StmtKind::Return(Some(value)), body.into())
        }
        None => Vec::new(),
    };
    b.close(params, body);
    let class = b.classes.last().copied();
    if let Some(func) = b.func_mut(func) {
        func.inline = true;
        func.class = class;
    }
    b.expr(ExprKind::Closure(func), sp)
}

fn reference(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    let sp: Sp = node.into();
    let parts = kids(node);
    let (Some(first), Some(last)) = (parts.first().copied(), parts.last().copied()) else {
        return b.unknown(sp);
    };
    if first == last || last.kind() != "identifier" {
        return b.unknown(sp);
    }
    let object = expr(b, first);
    let name = b.name_of(last);
    b.expr(ExprKind::Field(object, name), sp)
}
