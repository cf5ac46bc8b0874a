//! Where analysis begins: the top of the file, each class, each function as a framework would call it.

use crate::finding::{Language, StepKind};
use crate::ir::{ClassId, Func, FuncId, Param, Sp};

use super::call::Given;
use super::machine::{Machine, NO_TRACE, Say};
use super::value::{ObjId, Shape, Taint, Value};

/// Annotations of Java parameters that bind to a request.
const BOUND: &[&str] = &[
    "RequestParam",
    "PathVariable",
    "RequestBody",
    "RequestHeader",
    "CookieValue",
    "ModelAttribute",
    "MatrixVariable",
    "RequestPart",
    "QueryParam",
    "PathParam",
    "FormParam",
    "HeaderParam",
    "CookieParam",
    "BeanParam",
    "FormDataParam",
    "DestinationVariable",
    "Payload",
    "QueryValue",
    "RestQuery",
    "RestPath",
];

/// Annotations of Java methods whose plain parameters bind to a request.
const MAPPED: &[&str] = &[
    "RequestMapping",
    "GetMapping",
    "PostMapping",
    "PutMapping",
    "DeleteMapping",
    "PatchMapping",
    "MessageMapping",
    "POST",
    "PUT",
    "PATCH",
    "QueryMapping",
    "MutationMapping",
];

/// Java types a framework passes that hold no data of a request by themselves.
const PLAIN: &[&str] = &[
    "HttpServletRequest",
    "HttpServletResponse",
    "ServletRequest",
    "ServletResponse",
    "HttpSession",
    "Model",
    "ModelMap",
    "BindingResult",
    "Principal",
    "Authentication",
    "Locale",
    "RedirectAttributes",
    "WebRequest",
    "NativeWebRequest",
    "Pageable",
    "UriComponentsBuilder",
    "Errors",
    "SessionStatus",
    "HttpHeaders",
    "SecurityContext",
    "UriInfo",
    "UserDetails",
    "TimeZone",
    "OutputStream",
    "Writer",
];

/// Last words of Python decorators that make a function a web handler.
const ROUTES: &[&str] = &[
    "route",
    "get",
    "post",
    "put",
    "delete",
    "patch",
    "websocket",
    "api_view",
    "api_route",
    "view_config",
    "expose",
    "options",
    "head",
];

impl Machine<'_> {
    /// Runs everything; findings gather in `hits` and `misuses`.
    pub(super) fn run_file(&mut self) {
        let top = self.add_frame(FuncId(0), None, Value::default());
        self.stack.push(top);
        self.open_entry();
        let program = self.program;
        if let Some(func) = program.func(FuncId(0)) {
            self.block(&func.body);
        }
        // A top that ends early still has functions.
        self.end_frame(top);
        self.state.dead = false;
        self.run_pending();
        for at in 0..program.classes.len() {
            let class = ClassId(u32::try_from(at).unwrap_or(u32::MAX));
            if let Some(proto) = self.protos.get(at).copied() {
                self.open_entry();
                self.init_fields(class, proto);
            }
        }
        self.state.settle();
        for round in 0..2 {
            let before = self.shared();
            self.entries();
            // What one function left in a field or a global, another may have read before.
            if self.spent() || self.shared() == before || round == 1 {
                break;
            }
        }
        if self.spent() {
            self.truncated = self
                .truncated
                .or(Some("more steps than the bound for a file of this size"));
        }
    }

    /// What all functions share: how many sources are in it, and how many constants.
    fn shared(&self) -> (usize, usize) {
        let mut sources = 0;
        let mut constants = 0;
        for id in &self.protos {
            sources += self.deep(&Value::object(*id)).taint.len();
            let fields = self.state.obj(*id).map(|obj| &obj.fields);
            constants += fields.map_or(0, |fields| {
                fields
                    .values()
                    .filter(|value| value.konst.is_known())
                    .count()
            });
        }
        let slots = self.program.func(FuncId(0)).map_or(0, |func| func.slots);
        for cell in 0..slots {
            let value = self.state.cell(cell);
            sources += self.deep(&value).taint.len();
            constants += usize::from(value.konst.is_known());
        }
        (sources, constants)
    }

    fn entries(&mut self) {
        let program = self.program;
        // Constructors first: what they leave in fields the methods read.
        let order = |constructors: bool| {
            move |(_, func): &(usize, &Func)| func.constructor == constructors && !func.inline
        };
        for constructors in [true, false] {
            for (at, func) in program
                .funcs
                .iter()
                .enumerate()
                .skip(1)
                .filter(order(constructors))
            {
                if self.spent() {
                    return;
                }
                let top = func.parent.is_none_or(|parent| parent == FuncId(0));
                if top {
                    self.entry(FuncId(u32::try_from(at).unwrap_or(u32::MAX)), func);
                }
            }
        }
    }

    /// One function, called by nobody we know; what it changes may or may not have happened for the others.
    fn entry(&mut self, id: FuncId, func: &Func) {
        self.open_entry();
        let done = self.path(|m| {
            let this = match func.class {
                Some(class) => m.class_value(class),
                None => Value::default(),
            };
            m.enter(id, Some(0), this);
            m.state.dead = false;
            m.run_pending();
        });
        let paths = std::iter::once(super::state::Delta::default())
            .chain(done)
            .collect();
        self.state.merge(paths);
        self.state.settle();
    }

    /// Runs a function with what a framework would pass.
    fn enter(&mut self, id: FuncId, frame: Option<u32>, this: Value) {
        let program = self.program;
        let Some(func) = program.func(id) else { return };
        let given: Vec<Given> = (0..func.params.len())
            .filter_map(|at| {
                let param = func.params.get(at)?;
                Some(Given {
                    value: self.entry_param(id, at),
                    name: Some(param.name),
                    sp: param.sp,
                    expr: None,
                })
            })
            .collect();
        self.run(id, frame, this, &given, func.name);
    }

    /// Closures made on the way that nobody called.
    fn run_pending(&mut self) {
        let mut rounds = 0;
        while let Some((func, id)) = self.pending.pop() {
            rounds += 1;
            let called = self.called.get(func.0 as usize).copied().unwrap_or(true);
            let top = self
                .program
                .func(func)
                .is_some_and(|func| !func.inline && func.parent == Some(FuncId(0)));
            if called || top || rounds > 4096 || self.spent() {
                continue;
            }
            let Some((frame, this)) = self.made(id) else {
                continue;
            };
            let done = self.path(|m| m.enter(func, Some(frame), this));
            let paths = std::iter::once(super::state::Delta::default())
                .chain(done)
                .collect();
            self.state.merge(paths);
        }
    }

    fn made(&self, id: ObjId) -> Option<(u32, Value)> {
        let obj = self.state.obj(id)?;
        Some((obj.frame, obj.rest.clone()))
    }

    // ── parameters ──

    /// What the framework passes as a parameter.
    pub(super) fn entry_param(&mut self, id: FuncId, at: usize) -> Value {
        let program = self.program;
        let (Some(func), Some(param)) = (program.func(id), self.param(id, at)) else {
            return Value::default();
        };
        let mut value = Value {
            ty: param.ty,
            ..Value::default()
        };
        let kind = match self.language {
            Language::Java => self.java_param(func, param),
            Language::Python => self.python_param(func, param, &mut value),
            Language::C => self.c_param(func, param, at, &mut value),
            Language::JavaScript | Language::TypeScript { .. } => {
                self.javascript_param(func, param, &mut value)
            }
        };
        if let Some(kind) = kind {
            let taint = self.param_taint(id, param, kind);
            value.add_taint(taint);
        }
        value
    }

    fn param_taint(&mut self, id: FuncId, param: &Param, kind: &'static str) -> Taint {
        let at = self.add_trace(
            NO_TRACE,
            StepKind::Source,
            param.sp,
            Say::Param(kind, param.name),
        );
        if let Some(trace) = self.traces.get_mut(at as usize) {
            trace.func = id;
        }
        Taint {
            trace: at,
            root: param.sp.start,
            clean: 0,
        }
    }

    fn java_param(&self, func: &Func, param: &Param) -> Option<&'static str> {
        let ty = self.names.text(param.ty);
        let simple = ty.rsplit('.').next().unwrap_or(ty);
        if matches!(
            simple,
            "int"
                | "long"
                | "short"
                | "byte"
                | "double"
                | "float"
                | "boolean"
                | "Integer"
                | "Long"
                | "Boolean"
                | "UUID"
                | "LocalDate"
        ) {
            return None;
        }
        let has = |names: &[crate::ir::Name], list: &[&str]| {
            names
                .iter()
                .any(|name| list.contains(&self.names.text(*name)))
        };
        if has(&param.annotations, BOUND) {
            return Some("request parameter");
        }
        if has(&func.marks, MAPPED) && param.annotations.is_empty() && !PLAIN.contains(&simple) {
            return Some("request parameter");
        }
        let main = self.names.text(func.name) == "main" && func.fixed && simple == "String";
        main.then_some("command-line argument")
    }

    fn python_param(&self, func: &Func, param: &Param, value: &mut Value) -> Option<&'static str> {
        let name = self.names.text(param.name);
        let ty = self.names.text(param.ty);
        if matches!(name, "self" | "cls") || matches!(ty, "int" | "float" | "bool" | "UUID") {
            return None;
        }
        let request = matches!(name, "request" | "req") || ty.ends_with("Request");
        if request {
            value.path = self.known.request;
            return None;
        }
        let routed = self.is_routed(func);
        let injected = param
            .default
            .is_some_and(|default| self.is_injected(default));
        if routed && !injected {
            return Some("request parameter");
        }
        // Django passes the request first, then what the address holds.
        let first = func
            .params
            .iter()
            .map(|param| self.names.text(param.name))
            .find(|name| *name != "self");
        if first == Some("request")
            && (func.class.is_none() || is_verb(self.names.text(func.name)))
            && !injected
        {
            return Some("part of the address");
        }
        let lambda = first == Some("event") && func.params.len() == 2 && name == "event";
        lambda.then_some("event of the function service")
    }

    /// A decorator makes the function the handler of a route.
    fn is_routed(&self, func: &Func) -> bool {
        func.marks.iter().any(|mark| {
            let text = self.names.text(*mark);
            let last = text.rsplit('.').next().unwrap_or(text);
            ROUTES.contains(&last) && text.contains('.') || last == "api_view"
        })
    }

    /// What a Flask handler returns as text is a page.
    pub(super) fn returned_page(&mut self, value: &Value, sp: Sp) {
        let program = self.program;
        let Some(func) = program.func(self.func()) else {
            return;
        };
        if self.language != Language::Python || !self.pages || !self.is_routed(func) {
            return;
        }
        let from_handler = |taint: &Taint| {
            self.traces
                .get(taint.trace as usize)
                .is_some_and(|trace| trace.kind == StepKind::Return && trace.func != self.func())
        };
        let mut page = Value::default();
        for taint in &value.taint {
            // A page that another handler built is that handler's finding.
            if !from_handler(taint) {
                page.add_taint(*taint);
            }
        }
        let first = value.objs.first().and_then(|id| self.state.obj(*id));
        if let Some(body) = first
            .filter(|obj| obj.shape == Shape::List)
            .and_then(|obj| obj.items.first())
        {
            page.add_taints(&body.taint);
        }
        if let Some(rule) = crate::rules::taint_index("cross-site-scripting") {
            let site = super::call::Site {
                name: self.names.intern("return"),
                recv: Value::default(),
                recv_expr: None,
                hint: crate::ir::Name::NONE,
                args: Vec::new(),
                sp,
            };
            self.reach(rule, &page, sp, &site);
        }
    }

    /// `Depends(…)`: what the framework makes itself.
    fn is_injected(&self, default: crate::ir::ExprId) -> bool {
        let sp = self
            .program
            .expr(default)
            .map(|expr| expr.sp)
            .unwrap_or_default();
        let text = self.slice(sp);
        text.starts_with("Depends") || text.starts_with("Security")
    }

    fn javascript_param(
        &self,
        func: &Func,
        param: &Param,
        value: &mut Value,
    ) -> Option<&'static str> {
        let name = self.names.text(param.name);
        let ty = self.names.text(param.ty);
        match name {
            "req" | "request" | "_req" => value.path = self.known.request,
            "res" | "response" | "reply" => value.path = self.known.response,
            _ if ty.ends_with("Request") => value.path = self.known.request,
            _ if ty.ends_with("Response") => value.path = self.known.response,
            "ctx" | "context" => value.path = param.name,
            "event" if func.params.len() >= 2 && self.second_is_context(func) => {
                return Some("event of the function service");
            }
            _ => {}
        }
        let bound = param.annotations.iter().any(|mark| {
            matches!(
                self.names.text(*mark),
                "Query" | "Param" | "Body" | "Headers" | "Cookies" | "UploadedFile"
            )
        });
        (bound && !matches!(ty, "number" | "boolean")).then_some("request parameter")
    }

    fn second_is_context(&self, func: &Func) -> bool {
        func.params
            .get(1)
            .is_some_and(|param| self.names.text(param.name) == "context")
    }

    fn c_param(
        &mut self,
        func: &Func,
        param: &Param,
        at: usize,
        value: &mut Value,
    ) -> Option<&'static str> {
        let main = matches!(self.names.text(func.name), "main" | "wmain" | "_tmain");
        if main && at == 1 {
            return Some("command-line argument");
        }
        let pointer = self.names.text(param.ty).ends_with('*');
        if pointer && at < 32 {
            let id = self.alloc(Shape::Buffer, param.sp);
            value.add_object(id);
        }
        None
    }

    /// Where a span starts, as bytes of the text; for words about code at hand.
    pub(super) fn words(&self, sp: Sp) -> String {
        let text = self.slice(sp);
        let line = text.lines().next().unwrap_or_default().trim();
        let mut short: String = line.chars().take(60).collect();
        if short.len() < text.trim().len() {
            short.push('…');
        }
        short
    }
}

fn is_verb(name: &str) -> bool {
    matches!(
        name,
        "get" | "post" | "put" | "delete" | "patch" | "dispatch" | "head" | "options"
    )
}
