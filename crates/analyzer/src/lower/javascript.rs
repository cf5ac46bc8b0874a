//! JavaScript and TypeScript to the IR.

mod expr;

use std::collections::BTreeSet;

use tree_sitter::Node;

use self::expr::{expr, field_expr, target};
use super::{child, fields, kids, stmt};
use crate::ir::{
    Block, Builder, Case, ClassId, ExprKind, Field, FuncId, Name, Param, Program, Sp, Stmt,
    StmtKind, Target,
};

pub(super) fn lower(mut b: Builder<'_>, root: Node<'_>) -> Program {
    declare_all(&mut b, root);
    let mut body = Vec::new();
    statements(&mut b, kids(root), &mut body);
    b.finish(body)
}

// ── names ──

fn is_function(kind: &str) -> bool {
    matches!(
        kind,
        "function_declaration"
            | "function_expression"
            | "function"
            | "arrow_function"
            | "generator_function"
            | "generator_function_declaration"
            | "method_definition"
    )
}

/// Declares what a function, or the file, binds. Block scopes are taken as the function's: shadowed names share a slot,
/// and each declaration writes it anew.
fn declare_all(b: &mut Builder<'_>, root: Node<'_>) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut work: Vec<Node<'_>> = kids(root);
    while let Some(node) = work.pop() {
        match node.kind() {
            "function_declaration" | "generator_function_declaration" => {
                if let Some(name) = node.child_by_field_name("name") {
                    names.insert(b.slice(name).to_owned());
                }
                continue;
            }
            "class_declaration" | "class" | "abstract_class_declaration" => continue,
            kind if is_function(kind) => continue,
            "variable_declarator" => {
                if let Some(name) = node.child_by_field_name("name") {
                    bound(b, name, &mut names);
                }
            }
            "for_in_statement" => {
                if node.child_by_field_name("kind").is_some()
                    && let Some(left) = node.child_by_field_name("left")
                {
                    bound(b, left, &mut names);
                }
            }
            "import_clause" | "namespace_import" => {
                for part in kids(node) {
                    if part.kind() == "identifier" {
                        names.insert(b.slice(part).to_owned());
                    }
                }
            }
            "import_specifier" => {
                let name = node
                    .child_by_field_name("alias")
                    .or_else(|| node.child_by_field_name("name"));
                if let Some(name) = name {
                    names.insert(b.slice(name).to_owned());
                }
            }
            "catch_clause" => {
                if let Some(name) = node.child_by_field_name("parameter") {
                    bound(b, name, &mut names);
                }
            }
            _ => {}
        }
        work.extend(kids(node));
    }
    for name in names {
        let name = b.name(&name);
        b.declare(name);
    }
}

/// Names that a pattern binds.
fn bound(b: &Builder<'_>, node: Node<'_>, names: &mut BTreeSet<String>) {
    let mut work = vec![node];
    while let Some(node) = work.pop() {
        match node.kind() {
            "identifier" | "shorthand_property_identifier_pattern" => {
                names.insert(b.slice(node).to_owned());
            }
            "assignment_pattern" | "object_assignment_pattern" => {
                work.extend(node.child_by_field_name("left"));
            }
            "pair_pattern" => work.extend(node.child_by_field_name("value")),
            _ => work.extend(kids(node)),
        }
    }
}

// ── functions ──

/// Lowers a function of any form; its closure or its place in a class is the caller's.
fn function(b: &mut Builder<'_>, node: Node<'_>, name: Name, class: Option<ClassId>) -> FuncId {
    let func = b.open(name);
    let mut prologue = Vec::new();
    let mut params = Vec::new();
    if let Some(single) = node.child_by_field_name("parameter") {
        params.push(parameter(b, single, &mut prologue));
    }
    if let Some(list) = node.child_by_field_name("parameters") {
        for part in kids(list) {
            if part.kind() == "this" || b.slice(part).starts_with("this:") {
                continue;
            }
            params.push(parameter(b, part, &mut prologue));
        }
    }
    let mut body = prologue;
    if let Some(part) = node.child_by_field_name("body") {
        if part.kind() == "statement_block" {
            declare_all(b, part);
            if b.enter() {
                statements(b, kids(part), &mut body);
                b.leave();
            }
        } else {
            let value = expr(b, part);
            body.push(stmt(StmtKind::Return(Some(value)), part.into()));
        }
    }
    b.close(params, body);
    if let Some(func) = b.func_mut(func) {
        func.class = class;
    }
    func
}

fn parameter(b: &mut Builder<'_>, node: Node<'_>, prologue: &mut Block) -> Param {
    let mut pattern = node;
    let mut ty = Name::NONE;
    let mut annotations = Vec::new();
    let mut default = None;
    if matches!(node.kind(), "required_parameter" | "optional_parameter") {
        for mark in kids(node)
            .into_iter()
            .filter(|part| part.kind() == "decorator")
        {
            let text = b.slice(mark).trim_start_matches('@');
            let end = text.find('(').unwrap_or(text.len());
            let text = text.get(..end).unwrap_or_default();
            annotations.push(b.name(text));
        }
        if let Some(written) = node.child_by_field_name("type") {
            let text = b.slice(written).trim_start_matches([':', ' ']);
            let text = super::type_text(text);
            ty = b.name(text);
        }
        default = node
            .child_by_field_name("value")
            .map(|value| expr(b, value));
        pattern = node.child_by_field_name("pattern").unwrap_or(node);
    }
    if pattern.kind() == "assignment_pattern" {
        default = pattern
            .child_by_field_name("right")
            .map(|value| expr(b, value));
        pattern = pattern.child_by_field_name("left").unwrap_or(pattern);
    }
    let rest = pattern.kind() == "rest_pattern";
    if rest {
        pattern = kids(pattern).first().copied().unwrap_or(pattern);
    }
    let sp: Sp = pattern.into();
    let (name, slot) = if pattern.kind() == "identifier" {
        let name = b.name_of(pattern);
        (name, b.declare(name).slot)
    } else {
        // `{ a, b }`: a parameter without a name, taken apart first thing in the body.
        let mut names = BTreeSet::new();
        bound(b, pattern, &mut names);
        for name in names {
            let name = b.name(&name);
            b.declare(name);
        }
        let temp = b.temp();
        let value = b.var(temp, sp);
        let target = target(b, pattern);
        prologue.push(b.assign(target, value, sp));
        (Name::NONE, temp.slot)
    };
    Param {
        slot,
        name,
        ty,
        sp,
        annotations,
        default,
        rest,
    }
}

fn class(b: &mut Builder<'_>, node: Node<'_>, name: Name) -> ClassId {
    let heritage = child(node, "class_heritage");
    let supers = heritage
        .map(|part| {
            let text = b.slice(part).trim_start_matches("extends").trim();
            let end = text.find([' ', '<', '(', '{', '\n']).unwrap_or(text.len());
            let path = text.get(..end).unwrap_or_default();
            let last = path.rsplit('.').next().unwrap_or(path);
            vec![b.name(last)]
        })
        .unwrap_or_default();
    let id = b.class(name, supers);
    if !b.enter() {
        return id;
    }
    b.classes.push(id);
    let members = node
        .child_by_field_name("body")
        .map(kids)
        .unwrap_or_default();
    for member in members {
        let name = match member
            .child_by_field_name("name")
            .or_else(|| member.child_by_field_name("property"))
        {
            Some(name) => b.name_of(name),
            None => Name::NONE,
        };
        match member.kind() {
            "method_definition" => {
                let func = function(b, member, name, Some(id));
                let constructor = b.text_of(name) == "constructor";
                let fixed = b.slice(member).starts_with("static ");
                if let Some(func) = b.func_mut(func) {
                    func.constructor = constructor;
                    func.fixed = fixed;
                }
                if let Some(class) = b.class_mut(id) {
                    class.methods.push(func);
                }
            }
            "field_definition" | "public_field_definition" => {
                let init = member
                    .child_by_field_name("value")
                    .map(|value| expr(b, value));
                if let Some(class) = b.class_mut(id) {
                    class.fields.push(Field {
                        name,
                        ty: Name::NONE,
                        init,
                    });
                }
            }
            _ => {}
        }
    }
    b.classes.pop();
    b.leave();
    id
}

// ── statements ──

/// Function declarations come first: they can be called above their place.
fn statements(b: &mut Builder<'_>, nodes: Vec<Node<'_>>, out: &mut Block) {
    for node in &nodes {
        let inner = match node.kind() {
            "export_statement" => node.child_by_field_name("declaration"),
            _ => Some(*node),
        };
        if let Some(inner) = inner.filter(|inner| inner.kind().ends_with("function_declaration")) {
            declared_function(b, inner, out);
        }
    }
    for node in nodes {
        statement(b, node, out);
    }
}

fn declared_function(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let Some(name_node) = node.child_by_field_name("name") else {
        return;
    };
    let name = b.name_of(name_node);
    let func = function(b, node, name, None);
    let closure = b.expr(ExprKind::Closure(func), node.into());
    let var = match b.resolve(name) {
        Some(var) if var.up == 0 => var,
        _ => b.declare(name),
    };
    let assign = b.assign(
        Target::Var(var, name_node.into()),
        closure,
        name_node.into(),
    );
    out.push(assign);
}

fn block(b: &mut Builder<'_>, node: Node<'_>) -> Block {
    let mut out = Vec::new();
    if b.enter() {
        if node.kind() == "statement_block" {
            statements(b, kids(node), &mut out);
        } else if node.kind() == "else_clause" {
            for part in kids(node) {
                out.extend(block(b, part));
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

fn statement(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let sp: Sp = node.into();
    match node.kind() {
        "statement_block" => {
            let body = block(b, node);
            out.push(stmt(StmtKind::Block(body), sp));
        }
        "variable_declaration" | "lexical_declaration" | "using_declaration" => {
            for declarator in kids(node) {
                declarator_statement(b, declarator, out);
            }
        }
        "function_declaration" | "generator_function_declaration" => {}
        "class_declaration" | "abstract_class_declaration" => {
            let name = match node.child_by_field_name("name") {
                Some(name) => b.name_of(name),
                None => Name::NONE,
            };
            class(b, node, name);
        }
        "if_statement" => {
            let cond = field_expr(b, node, "condition");
            let then = field_block(b, node, "consequence");
            let other = field_block(b, node, "alternative");
            out.push(stmt(StmtKind::If { cond, then, other }, sp));
        }
        "for_statement" | "while_statement" | "do_statement" | "for_in_statement" => {
            looping(b, node, out);
        }
        "switch_statement" => switch(b, node, out),
        "try_statement" => trying(b, node, out),
        "return_statement" => {
            let value = kids(node).first().map(|part| expr(b, *part));
            out.push(stmt(StmtKind::Return(value), sp));
        }
        "throw_statement" => {
            let value = kids(node).first().map(|part| expr(b, *part));
            out.push(stmt(StmtKind::Throw(value), sp));
        }
        "break_statement" => out.push(stmt(StmtKind::Break, sp)),
        "continue_statement" => out.push(stmt(StmtKind::Continue, sp)),
        "labeled_statement" | "with_statement" => out.extend(field_block(b, node, "body")),
        "export_statement" => {
            for field in ["declaration", "value"] {
                if let Some(part) = node.child_by_field_name(field) {
                    statement(b, part, out);
                }
            }
        }
        "import_statement" => import(b, node, out),
        "expression_statement" | "ERROR" => {
            for part in kids(node) {
                statement(b, part, out);
            }
        }
        "interface_declaration"
        | "type_alias_declaration"
        | "enum_declaration"
        | "ambient_declaration"
        | "import_alias"
        | "empty_statement"
        | "debugger_statement"
        | "function_signature"
        | "hash_bang_line" => {}
        "internal_module" | "module" => out.extend(field_block(b, node, "body")),
        _ => {
            let value = expr(b, node);
            out.push(stmt(StmtKind::Expr(value), sp));
        }
    }
}

fn declarator_statement(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let (Some(name), value) = (
        node.child_by_field_name("name"),
        node.child_by_field_name("value"),
    ) else {
        return;
    };
    let sp: Sp = node.into();
    let value = match value {
        Some(value) => named_value(b, value, name),
        None => b.unknown(sp),
    };
    let target = target(b, name);
    let assign = b.assign(target, value, sp);
    out.push(assign);
}

/// `const f = () => …`: the function is called `f`.
fn named_value(b: &mut Builder<'_>, value: Node<'_>, name: Node<'_>) -> crate::ir::ExprId {
    if matches!(value.kind(), "arrow_function" | "function_expression")
        && name.kind() == "identifier"
    {
        let name = b.name_of(name);
        return expr::closure(b, value, name);
    }
    expr(b, value)
}

fn looping(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let sp: Sp = node.into();
    if node.kind() == "for_in_statement" {
        let iter = field_expr(b, node, "right");
        let target = match node.child_by_field_name("left") {
            Some(left) => target(b, left),
            None => Target::Ignore,
        };
        let keys = node
            .child_by_field_name("operator")
            .is_some_and(|op| op.kind() == "in");
        let body = field_block(b, node, "body");
        out.push(stmt(
            StmtKind::ForEach {
                target,
                iter,
                body,
                keys,
            },
            sp,
        ));
        return;
    }
    if let Some(init) = node.child_by_field_name("initializer") {
        statement(b, init, out);
    }
    let cond = node
        .child_by_field_name("condition")
        .filter(|part| part.kind() != "empty_statement")
        .map(|part| expr::condition(b, part));
    let body = field_block(b, node, "body");
    let mut update: Vec<Stmt> = Vec::new();
    if let Some(part) = node.child_by_field_name("increment") {
        statement(b, part, &mut update);
    }
    out.push(stmt(
        StmtKind::Loop {
            cond,
            body,
            update,
            post: node.kind() == "do_statement",
        },
        sp,
    ));
}

fn switch(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let value = field_expr(b, node, "value");
    let mut cases = Vec::new();
    let arms = node
        .child_by_field_name("body")
        .map(kids)
        .unwrap_or_default();
    for arm in arms {
        let labels = fields(arm, "value")
            .into_iter()
            .map(|part| expr(b, part))
            .collect();
        let mut body = Vec::new();
        if b.enter() {
            statements(b, fields(arm, "body"), &mut body);
            b.leave();
        }
        cases.push(Case {
            labels,
            default: arm.kind() == "switch_default",
            body,
        });
    }
    out.push(stmt(StmtKind::Switch { value, cases }, node.into()));
}

fn trying(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let body = field_block(b, node, "body");
    let mut catches = Vec::new();
    if let Some(handler) = node.child_by_field_name("handler") {
        let mut caught = Vec::new();
        if let Some(param) = handler.child_by_field_name("parameter") {
            let unknown = b.unknown(param.into());
            let target = target(b, param);
            caught.push(b.assign(target, unknown, param.into()));
        }
        caught.extend(field_block(b, handler, "body"));
        catches.push(caught);
    }
    let last = match node.child_by_field_name("finalizer") {
        Some(part) => field_block(b, part, "body"),
        None => Vec::new(),
    };
    out.push(stmt(
        StmtKind::Try {
            body,
            catches,
            last,
        },
        node.into(),
    ));
}

fn import(b: &mut Builder<'_>, node: Node<'_>, out: &mut Block) {
    let Some(source) = node.child_by_field_name("source") else {
        return;
    };
    let module = expr::module_path(b.slice(source));
    let Some(clause) = child(node, "import_clause") else {
        return;
    };
    for part in kids(clause) {
        match part.kind() {
            // `import x from 'm'`, `import * as x from 'm'`
            "identifier" => bind(b, part, &module, out),
            "namespace_import" => {
                for name in kids(part) {
                    bind(b, name, &module, out);
                }
            }
            "named_imports" => {
                for specifier in kids(part) {
                    let Some(name) = specifier.child_by_field_name("name") else {
                        continue;
                    };
                    let alias = specifier.child_by_field_name("alias").unwrap_or(name);
                    let path = format!("{module}.{}", b.slice(name));
                    bind(b, alias, &path, out);
                }
            }
            _ => {}
        }
    }
}

fn bind(b: &mut Builder<'_>, name_node: Node<'_>, path: &str, out: &mut Block) {
    let path = b.name(path);
    let value = b.expr(ExprKind::Path(path), name_node.into());
    let name = b.name_of(name_node);
    let var = match b.resolve(name) {
        Some(var) => var,
        None => b.declare(name),
    };
    let assign = b.assign(Target::Var(var, name_node.into()), value, name_node.into());
    out.push(assign);
}
