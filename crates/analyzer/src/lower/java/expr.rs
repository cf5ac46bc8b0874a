//! Expressions of Java.

use tree_sitter::Node;

use super::super::{child, integer, kids, one, operator, pass, plus_chain, unescape};
use super::{block, class_body, field_expr, parameters, switch, type_name};
use crate::ir::{
    Arg, Builder, Call, Callee, ExprId, ExprKind, Lit, Name, New, Op, Param, Sp, StmtKind, Target,
};

pub(super) fn arguments(b: &mut Builder<'_>, node: Node<'_>) -> Vec<Arg> {
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

pub(super) fn expr(b: &mut Builder<'_>, node: Node<'_>) -> ExprId {
    if !b.enter() {
        return b.unknown(node.into());
    }
    let id = expr_inner(b, node);
    b.leave();
    id
}

#[expect(clippy::too_many_lines, reason = "one arm per kind of node: a table")]
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
            ExprKind::Block(body)
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
    let func = b.open(name);
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
