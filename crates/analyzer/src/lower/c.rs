//! C to the IR, as a POSIX system would compile it: branches of the preprocessor for Windows are left out.

use std::collections::HashMap;

use tree_sitter::Node;

use super::{child, fields, integer, kids, operator, pass, stmt, unescape};
use crate::ir::{
    Arg, Block, Builder, Call, Callee, Case, ExprId, ExprKind, Lit, Name, Op, Param, Program, Sp,
    StmtKind, Target,
};

/// Macros without parameters whose value is one token: names of functions, text, numbers.
type Macros<'t> = HashMap<&'t str, &'t str>;

struct C<'b, 't> {
    b: &'b mut Builder<'t>,
    macros: Macros<'t>,
    /// Members of unions, each with the first member of its union: they share their place.
    unions: HashMap<&'t str, &'t str>,
}

pub(super) fn lower<'t>(mut b: Builder<'t>, root: Node<'_>) -> Program {
    let mut lowering = C {
        b: &mut b,
        macros: HashMap::new(),
        unions: HashMap::new(),
    };
    let top = lowering.flat(root);
    let mut body = Vec::new();
    lowering.declare_top(&top);
    for node in &top {
        lowering.note_union(*node);
    }
    for node in &top {
        if node.kind() == "function_definition" {
            lowering.function(*node, &mut body);
        }
    }
    for node in top {
        if node.kind() == "declaration" {
            lowering.declaration(node, &mut body, true);
        }
    }
    b.finish(body)
}

/// Macros that say the system is another one.
fn foreign(name: &str) -> bool {
    matches!(
        name,
        "_WIN32" | "WIN32" | "_WIN64" | "_MSC_VER" | "__WINDOWS__" | "_WINDOWS" | "__MINGW32__"
    )
}

impl<'t> C<'_, 't> {
    // ── preprocessor ──

    /// Children with the branches of the preprocessor that hold here put in their place, and macros noted.
    fn flat<'n>(&mut self, root: Node<'n>) -> Vec<Node<'n>> {
        let mut out = Vec::new();
        let mut work = kids(root);
        work.reverse();
        while let Some(node) = work.pop() {
            match node.kind() {
                "preproc_ifdef" | "preproc_if" | "preproc_elif" | "preproc_elifdef"
                | "preproc_else" => {
                    let mut chosen = self.branch(node);
                    chosen.reverse();
                    work.extend(chosen);
                }
                "preproc_def" => self.note_macro(node),
                "linkage_specification" | "declaration_list" => {
                    let mut inner = match node.child_by_field_name("body") {
                        Some(body) => vec![body],
                        None => kids(node),
                    };
                    inner.reverse();
                    work.extend(inner);
                }
                _ => out.push(node),
            }
        }
        out
    }

    fn branch<'n>(&self, node: Node<'n>) -> Vec<Node<'n>> {
        let alternative = node.child_by_field_name("alternative");
        let text = self.b.slice(node);
        let negated = text.starts_with("#ifndef");
        let condition = node
            .child_by_field_name("name")
            .or_else(|| node.child_by_field_name("condition"))
            .map_or("", |part| self.b.slice(part));
        let words = || condition.split(|c: char| !c.is_alphanumeric() && c != '_');
        let off =
            condition == "0" || (words().any(foreign) && !negated && !condition.contains('!'));
        if off {
            return alternative.into_iter().collect();
        }
        let skip = |part: &Node<'_>| {
            Some(*part) == alternative
                || Some(*part) == node.child_by_field_name("name")
                || Some(*part) == node.child_by_field_name("condition")
        };
        let on = negated || condition == "1" || words().any(foreign);
        let mut parts: Vec<Node<'n>> = kids(node).into_iter().filter(|part| !skip(part)).collect();
        if !on {
            // Not known: what stands in either branch may be there.
            parts.extend(alternative);
        }
        parts
    }

    fn note_macro(&mut self, node: Node<'_>) {
        let (Some(name), Some(value)) = (
            node.child_by_field_name("name"),
            node.child_by_field_name("value"),
        ) else {
            return;
        };
        let value = self.b.slice(value).trim();
        let token = value.starts_with(['"', 'L']) && value.ends_with('"')
            || value.chars().all(|c| c.is_alphanumeric() || c == '_');
        if token && !value.is_empty() {
            let name = self.b.slice(name);
            self.macros.insert(name, value);
        }
    }

    /// A union declared at the top, by itself or in a `typedef`.
    fn note_union(&mut self, node: Node<'_>) {
        let union = if node.kind() == "union_specifier" {
            Some(node)
        } else {
            node.child_by_field_name("type")
                .filter(|ty| ty.kind() == "union_specifier")
        };
        let Some(body) = union.and_then(|union| union.child_by_field_name("body")) else {
            return;
        };
        let mut first = None;
        for member in kids(body) {
            for declarator in fields(member, "declarator") {
                if let Some(name) = declared(declarator) {
                    let name = self.b.slice(name);
                    self.unions.insert(name, first.get_or_insert(name));
                }
            }
        }
    }

    // ── declarations ──

    fn declare_top(&mut self, top: &[Node<'_>]) {
        for node in top {
            match node.kind() {
                "function_definition" => {
                    if let Some(name) = node.child_by_field_name("declarator").and_then(declared) {
                        let name = self.b.name_of(name);
                        self.b.declare(name);
                    }
                }
                "declaration" => {
                    for declarator in fields(*node, "declarator") {
                        if is_prototype(declarator) {
                            continue;
                        }
                        if let Some(name) = declared(declarator) {
                            let name = self.b.name_of(name);
                            self.b.declare(name);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn function(&mut self, node: Node<'_>, out: &mut Block) {
        let Some(declarator) = node.child_by_field_name("declarator") else {
            return;
        };
        let Some(name_node) = declared(declarator) else {
            return;
        };
        let name = self.b.name_of(name_node);
        let func = self.b.open(name);
        let params = match parameter_list(declarator) {
            Some(list) => self.parameters(list),
            None => Vec::new(),
        };
        let body = match node.child_by_field_name("body") {
            Some(body) => self.block(body),
            None => Vec::new(),
        };
        self.b.close(params, body);
        let closure = self.b.expr(ExprKind::Closure(func), name_node.into());
        if let Some(var) = self.b.resolve(name) {
            let assign = self.b.assign(
                Target::Var(var, name_node.into()),
                closure,
                name_node.into(),
            );
            out.push(assign);
        }
    }

    fn parameters(&mut self, list: Node<'_>) -> Vec<Param> {
        let mut params = Vec::new();
        for node in kids(list) {
            if node.kind() != "parameter_declaration" {
                continue;
            }
            let declarator = node.child_by_field_name("declarator");
            let Some(name_node) = declarator.and_then(declared) else {
                continue;
            };
            let pointer = declarator
                .is_some_and(|d| matches!(d.kind(), "pointer_declarator" | "array_declarator"));
            let base = node
                .child_by_field_name("type")
                .map_or("", |ty| self.b.slice(ty));
            let ty = if pointer {
                format!("{base} *")
            } else {
                base.to_owned()
            };
            let ty = self.b.name(&ty);
            let name = self.b.name_of(name_node);
            let slot = self.b.declare(name).slot;
            params.push(Param {
                slot,
                name,
                ty,
                sp: name_node.into(),
                annotations: Vec::new(),
                default: None,
                rest: false,
            });
        }
        params
    }

    fn declaration(&mut self, node: Node<'_>, out: &mut Block, top: bool) {
        let ty = node.child_by_field_name("type");
        let is_struct = ty.is_some_and(|ty| match ty.kind() {
            "struct_specifier" | "union_specifier" => true,
            "type_identifier" => !self.b.slice(ty).ends_with("_t"),
            _ => false,
        });
        // Another file may change what is neither constant nor static.
        let text = self.b.slice(node);
        let open = top && !text.starts_with("static") && !text.contains("const ");
        for declarator in fields(node, "declarator") {
            if is_prototype(declarator) {
                continue;
            }
            let Some(name_node) = declared(declarator) else {
                continue;
            };
            let sp: Sp = declarator.into();
            let (shape, init) = if declarator.kind() == "init_declarator" {
                (
                    declarator.child_by_field_name("declarator"),
                    declarator.child_by_field_name("value"),
                )
            } else {
                (Some(declarator), None)
            };
            let array = shape.is_some_and(|shape| shape.kind() == "array_declarator");
            let pointers = shape.is_some_and(is_pointer_array);
            let plain = shape.is_some_and(|shape| shape.kind() == "identifier");
            let value = match init {
                Some(init) if init.kind() == "initializer_list" => self.expr(init),
                Some(init) if !array => {
                    let value = self.expr(init);
                    if open && matches!(self.b.kind(value), Some(ExprKind::Lit(Lit::Int(_)))) {
                        self.b.unknown(sp)
                    } else {
                        value
                    }
                }
                _ if array => {
                    let name = self.b.name(if pointers { "array" } else { "buffer" });
                    self.b.expr(ExprKind::Fresh(name), sp)
                }
                _ if plain && is_struct => {
                    let name = self.b.name("struct");
                    self.b.expr(ExprKind::Fresh(name), sp)
                }
                _ => self.b.unknown(sp),
            };
            let name = self.b.name_of(name_node);
            let var = if top {
                match self.b.resolve(name) {
                    Some(var) => var,
                    None => self.b.declare(name),
                }
            } else {
                self.b.declare(name)
            };
            let assign = self.b.assign(Target::Var(var, name_node.into()), value, sp);
            out.push(assign);
        }
    }

    // ── statements ──

    fn block(&mut self, node: Node<'_>) -> Block {
        let mut out = Vec::new();
        if self.b.enter() {
            if node.kind() == "compound_statement" {
                for part in self.flat(node) {
                    self.statement(part, &mut out);
                }
            } else {
                self.statement(node, &mut out);
            }
            self.b.leave();
        }
        out
    }

    fn field_block(&mut self, node: Node<'_>, field: &str) -> Block {
        match node.child_by_field_name(field) {
            Some(part) if part.kind() == "else_clause" => {
                let mut out = Vec::new();
                for inner in kids(part) {
                    out.extend(self.block(inner));
                }
                out
            }
            Some(part) => self.block(part),
            None => Vec::new(),
        }
    }

    fn statement(&mut self, node: Node<'_>, out: &mut Block) {
        let sp: Sp = node.into();
        match node.kind() {
            "compound_statement" => {
                let body = self.block(node);
                out.push(stmt(StmtKind::Block(body), sp));
            }
            "declaration" => self.declaration(node, out, false),
            "expression_statement" => {
                for part in kids(node) {
                    let value = self.expr(part);
                    out.push(stmt(StmtKind::Expr(value), sp));
                }
            }
            "if_statement" => {
                let cond = self.field_expr(node, "condition");
                let then = self.field_block(node, "consequence");
                let other = self.field_block(node, "alternative");
                out.push(stmt(StmtKind::If { cond, then, other }, sp));
            }
            "while_statement" | "do_statement" | "for_statement" => self.looping(node, out),
            "switch_statement" => self.switch(node, out),
            "return_statement" => {
                let value = kids(node).first().map(|part| self.expr(*part));
                out.push(stmt(StmtKind::Return(value), sp));
            }
            "break_statement" => out.push(stmt(StmtKind::Break, sp)),
            "continue_statement" => out.push(stmt(StmtKind::Continue, sp)),
            "labeled_statement" | "attributed_statement" => {
                for part in kids(node) {
                    if part.kind() != "statement_identifier" {
                        out.extend(self.block(part));
                    }
                }
            }
            "function_definition" => self.function(node, out),
            // Where to go on is not followed; what stands between is taken as run.
            "goto_statement"
            | "type_definition"
            | "preproc_include"
            | "preproc_function_def"
            | "preproc_call"
            | "struct_specifier"
            | "union_specifier"
            | "enum_specifier" => {}
            "ERROR" => {
                for part in kids(node) {
                    self.statement(part, out);
                }
            }
            _ => {
                let value = self.expr(node);
                out.push(stmt(StmtKind::Expr(value), sp));
            }
        }
    }

    fn looping(&mut self, node: Node<'_>, out: &mut Block) {
        if let Some(init) = node.child_by_field_name("initializer") {
            self.statement(init, out);
        }
        let cond = node
            .child_by_field_name("condition")
            .map(|part| self.expr(part));
        let body = self.field_block(node, "body");
        let mut update = Vec::new();
        if let Some(part) = node.child_by_field_name("update") {
            self.statement(part, &mut update);
        }
        out.push(stmt(
            StmtKind::Loop {
                cond,
                body,
                update,
                post: node.kind() == "do_statement",
            },
            node.into(),
        ));
    }

    fn switch(&mut self, node: Node<'_>, out: &mut Block) {
        let value = self.field_expr(node, "condition");
        let arms = match node.child_by_field_name("body") {
            Some(body) => self.flat(body),
            None => Vec::new(),
        };
        let mut cases = Vec::new();
        for arm in arms
            .into_iter()
            .filter(|arm| arm.kind() == "case_statement")
        {
            let label = arm.child_by_field_name("value");
            let labels: Vec<ExprId> = label.map(|part| self.expr(part)).into_iter().collect();
            let mut body = Vec::new();
            if self.b.enter() {
                for part in self
                    .flat(arm)
                    .into_iter()
                    .filter(|part| Some(*part) != label)
                {
                    self.statement(part, &mut body);
                }
                self.b.leave();
            }
            cases.push(Case {
                default: labels.is_empty(),
                labels,
                body,
            });
        }
        out.push(stmt(StmtKind::Switch { value, cases }, node.into()));
    }

    // ── expressions ──

    fn field_expr(&mut self, node: Node<'_>, field: &str) -> ExprId {
        match node.child_by_field_name(field) {
            Some(part) => self.expr(part),
            None => self.b.unknown(node.into()),
        }
    }

    fn all(&mut self, node: Node<'_>) -> Vec<ExprId> {
        kids(node).into_iter().map(|part| self.expr(part)).collect()
    }

    fn expr(&mut self, node: Node<'_>) -> ExprId {
        if !self.b.enter() {
            return self.b.unknown(node.into());
        }
        let id = self.expr_inner(node);
        self.b.leave();
        id
    }

    #[expect(clippy::too_many_lines, reason = "one arm per kind of node: a table")]
    fn expr_inner(&mut self, node: Node<'_>) -> ExprId {
        let sp: Sp = node.into();
        let kind = match node.kind() {
            "identifier" | "field_identifier" => return self.identifier(node),
            "string_literal" => return self.string(node),
            "concatenated_string" => ExprKind::Concat(self.all(node)),
            "number_literal" => ExprKind::Lit(integer(self.b.slice(node))),
            "char_literal" => ExprKind::Lit(character(self.b.slice(node))),
            "true" => ExprKind::Lit(Lit::Bool(true)),
            "false" => ExprKind::Lit(Lit::Bool(false)),
            "null" => ExprKind::Lit(Lit::Null),
            "field_expression" => {
                let object = self.field_expr(node, "argument");
                let name = node
                    .child_by_field_name("field")
                    .map_or("", |part| self.b.slice(part));
                let name = self.unions.get(name).copied().unwrap_or(name);
                let name = self.b.name(name);
                ExprKind::Field(object, name)
            }
            "subscript_expression" => {
                let object = self.field_expr(node, "argument");
                let index = self.field_expr(node, "index");
                ExprKind::Index(object, index)
            }
            "pointer_expression" => {
                let inner = self.field_expr(node, "argument");
                if self.b.slice(node).starts_with('&') {
                    ExprKind::AddrOf(inner)
                } else {
                    ExprKind::Deref(inner)
                }
            }
            "call_expression" => return self.call(node),
            "binary_expression" => return self.binary(node),
            "unary_expression" => {
                let value = self.field_expr(node, "argument");
                let op = match node
                    .child_by_field_name("operator")
                    .map(|op| self.b.slice(op))
                {
                    Some("!") => Op::Not,
                    Some("-") => Op::Neg,
                    _ => Op::Opaque,
                };
                ExprKind::Unary(op, value)
            }
            "update_expression" => return self.update(node),
            "assignment_expression" => return self.assignment(node),
            "conditional_expression" => {
                let cond = self.field_expr(node, "condition");
                let then = self.field_expr(node, "consequence");
                let other = self.field_expr(node, "alternative");
                ExprKind::Cond(cond, then, other)
            }
            "comma_expression" => {
                let left = self.field_expr(node, "left");
                let right = self.field_expr(node, "right");
                ExprKind::Seq(vec![left, right])
            }
            "cast_expression" => {
                let value = self.field_expr(node, "value");
                let ty = node
                    .child_by_field_name("type")
                    .map_or("", |ty| self.b.slice(ty));
                let ty = self.b.name(ty);
                ExprKind::Cast(value, ty)
            }
            "initializer_list" => ExprKind::List(self.all(node)),
            "initializer_pair" => return self.field_expr(node, "value"),
            "compound_literal_expression" => return self.field_expr(node, "value"),
            "sizeof_expression"
            | "offsetof_expression"
            | "alignof_expression"
            | "gnu_asm_expression"
            | "type_descriptor" => ExprKind::Unknown,
            _ => {
                let parts = self.all(node);
                return pass(self.b, parts, sp);
            }
        };
        self.b.expr(kind, sp)
    }

    fn identifier(&mut self, node: Node<'_>) -> ExprId {
        let sp: Sp = node.into();
        let mut text = self.b.slice(node);
        for _ in 0..4 {
            let name = self.b.name(text);
            self.b.mention(name);
            if let Some(var) = self.b.resolve(name) {
                return self.b.var(var, sp);
            }
            match self.macros.get(text) {
                Some(value) => text = value,
                None => break,
            }
        }
        if text == "NULL" {
            return self.b.expr(ExprKind::Lit(Lit::Null), sp);
        }
        if text.ends_with('"') {
            return self
                .b
                .string(text.trim_start_matches('L').trim_matches('"'), sp);
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return self.b.expr(ExprKind::Lit(integer(text)), sp);
        }
        let name = self.b.name(text);
        self.b.expr(ExprKind::Free(name), sp)
    }

    fn string(&mut self, node: Node<'_>) -> ExprId {
        let mut value = String::new();
        for part in kids(node) {
            match part.kind() {
                "escape_sequence" => unescape(self.b.slice(part), &mut value),
                _ => value.push_str(self.b.slice(part)),
            }
        }
        self.b.string(&value, node.into())
    }

    fn call(&mut self, node: Node<'_>) -> ExprId {
        let sp: Sp = node.into();
        let Some(function) = node.child_by_field_name("function") else {
            return self.b.unknown(sp);
        };
        let callee = if function.kind() == "field_expression" {
            let name = function
                .child_by_field_name("field")
                .map_or("", |part| self.b.slice(part));
            let name = self.b.name(name);
            Callee::Method {
                recv: self.field_expr(function, "argument"),
                name,
                hint: Name::NONE,
            }
        } else {
            Callee::Func(self.expr(function))
        };
        let args = node
            .child_by_field_name("arguments")
            .map(kids)
            .unwrap_or_default();
        let args = args
            .into_iter()
            .map(|part| Arg {
                expr: self.expr(part),
                name: None,
                spread: false,
            })
            .collect();
        self.b
            .expr(ExprKind::Call(Box::new(Call { callee, args })), sp)
    }

    fn binary(&mut self, node: Node<'_>) -> ExprId {
        let sp: Sp = node.into();
        let left = self.field_expr(node, "left");
        let right = self.field_expr(node, "right");
        let kind = match node
            .child_by_field_name("operator")
            .map_or("", |op| op.kind())
        {
            "&&" => ExprKind::And(left, right),
            "||" => ExprKind::Or(left, right),
            op => ExprKind::Binary(operator(op), left, right),
        };
        self.b.expr(kind, sp)
    }

    fn target(&mut self, node: Node<'_>) -> Target {
        let sp: Sp = node.into();
        let id = self.expr(node);
        match self.b.kind(id) {
            Some(ExprKind::Var(var)) => Target::Var(*var, sp),
            Some(ExprKind::Field(object, name)) => Target::Field(*object, *name, sp),
            Some(ExprKind::Index(object, index)) => Target::Index(*object, *index, sp),
            Some(ExprKind::Deref(pointer)) => Target::Deref(*pointer, sp),
            _ => Target::Ignore,
        }
    }

    fn assignment(&mut self, node: Node<'_>) -> ExprId {
        let sp: Sp = node.into();
        let Some(left) = node.child_by_field_name("left") else {
            return self.b.unknown(sp);
        };
        let value = self.field_expr(node, "right");
        let op = node
            .child_by_field_name("operator")
            .map_or("=", |op| op.kind());
        let value = if op == "=" {
            value
        } else {
            let old = self.expr(left);
            self.b.expr(ExprKind::Binary(operator(op), old, value), sp)
        };
        let target = self.target(left);
        self.b.expr(ExprKind::Assign(Box::new(target), value), sp)
    }

    fn update(&mut self, node: Node<'_>) -> ExprId {
        let sp: Sp = node.into();
        let Some(operand) = node.child_by_field_name("argument") else {
            return self.b.unknown(sp);
        };
        let old = self.expr(operand);
        let one = self.b.expr(ExprKind::Lit(Lit::Int(1)), sp);
        let op = if self.b.slice(node).contains("++") {
            Op::Add
        } else {
            Op::Sub
        };
        let value = self.b.expr(ExprKind::Binary(op, old, one), sp);
        let target = self.target(operand);
        self.b.expr(ExprKind::Assign(Box::new(target), value), sp)
    }
}

/// The name that a declarator declares, under pointers, arrays, parameters and initialisers.
fn declared(node: Node<'_>) -> Option<Node<'_>> {
    let mut at = node;
    for _ in 0..32 {
        if matches!(
            at.kind(),
            "identifier" | "field_identifier" | "type_identifier"
        ) {
            return Some(at);
        }
        at = match at.child_by_field_name("declarator") {
            Some(inner) => inner,
            None => kids(at)
                .into_iter()
                .find(|part| part.kind().ends_with("declarator") || part.kind() == "identifier")?,
        };
    }
    None
}

/// `int f(int);`, but not `int (*f)(int);`
fn is_prototype(node: Node<'_>) -> bool {
    let mut at = node;
    for _ in 0..32 {
        match at.kind() {
            "function_declarator" => {
                return at
                    .child_by_field_name("declarator")
                    .is_some_and(|inner| inner.kind() == "identifier");
            }
            "pointer_declarator" => match at.child_by_field_name("declarator") {
                Some(inner) => at = inner,
                None => return false,
            },
            _ => return false,
        }
    }
    false
}

fn parameter_list(node: Node<'_>) -> Option<Node<'_>> {
    let mut at = node;
    for _ in 0..32 {
        if at.kind() == "function_declarator" {
            return at
                .child_by_field_name("parameters")
                .or_else(|| child(at, "parameter_list"));
        }
        at = at.child_by_field_name("declarator")?;
    }
    None
}

/// `char *argv[]`: an array whose elements are pointers.
fn is_pointer_array(node: Node<'_>) -> bool {
    node.kind() == "pointer_declarator"
        || node.parent().is_some_and(|parent| {
            parent.kind() == "pointer_declarator"
                || parent
                    .parent()
                    .is_some_and(|outer| outer.kind() == "pointer_declarator")
        })
}

fn character(text: &str) -> Lit {
    let inner = text.trim_start_matches('L').trim_matches('\'');
    let mut value = String::new();
    unescape(inner, &mut value);
    match value.chars().next() {
        Some(c) => Lit::Int(i64::from(u32::from(c))),
        None => Lit::Number,
    }
}
