//! Hits to findings: flows in order, words for each step, facts that move the score.

use crate::finding::{Analysis, Feature, Finding, Source, Step, StepKind};
use crate::ir::{FuncId, Sp};
use crate::rules;

use super::machine::{Hit, Machine, Misuse, Say, Trace};

/// Steps shown of one flow; those between are left out first.
const SHOWN: usize = 24;

impl Machine<'_> {
    pub(super) fn report(&self, source: &Source<'_>) -> Analysis {
        let mut findings = Vec::new();
        let test = is_test(source.path);
        for ((sp, rule), hit) in &self.hits {
            findings.extend(self.flow_finding(*sp, *rule, hit, test));
        }
        for ((sp, rule), misuse) in &self.misuses {
            findings.extend(self.misuse_finding(*sp, *rule, misuse, test));
        }
        findings.sort_by(|a, b| {
            (a.span.start, a.span.end, a.rule.id).cmp(&(b.span.start, b.span.end, b.rule.id))
        });
        Analysis {
            findings,
            truncated: self.truncated,
        }
    }

    fn function(&self, id: FuncId) -> String {
        self.program.func(id).map_or_else(String::new, |func| {
            let name = match self.names.text(func.name) {
                "" if id != FuncId(0) => "(anonymous)",
                name => name,
            };
            match func.class.and_then(|class| self.program.class(class)) {
                Some(class) if !class.name.is_none() => {
                    format!("{}.{name}", self.names.text(class.name))
                }
                _ => name.to_owned(),
            }
        })
    }

    fn flow_finding(&self, sp: Sp, rule: usize, hit: &Hit, test: bool) -> Option<Finding> {
        let rule = *rules::TAINT.get(rule)?;
        let mut traces: Vec<Trace> = Vec::new();
        let mut at = hit.trace;
        while let Some(trace) = self.traces.get(at as usize) {
            traces.push(*trace);
            at = trace.parent;
            if traces.len() > 4096 {
                break;
            }
        }
        traces.reverse();
        let first = *traces.first()?;
        let inside = traces.iter().filter(|trace| trace.func != hit.func).count();
        let features = self.features(&traces, hit, test);
        let sink = Step {
            kind: StepKind::Sink,
            span: sp.range(),
            function: self.function(hit.func),
            message: format!(
                "`{}` is given to `{}`",
                self.words(hit.arg),
                self.names.text(hit.callee)
            ),
        };
        let mut flow: Vec<Step> = shown(&traces)
            .into_iter()
            .map(|trace| Step {
                kind: trace.kind,
                span: trace.sp.range(),
                function: self.function(trace.func),
                message: self.say(&trace),
            })
            .collect();
        if let Some(step) = flow.first_mut() {
            step.kind = StepKind::Source;
        }
        flow.push(sink);
        connect(&mut flow);
        let way = if inside == 0 {
            ""
        } else {
            ", by way of other functions"
        };
        let message = format!(
            "{} reaches `{}`{way}: {}",
            capital(&self.origin(&first)),
            self.names.text(hit.callee),
            rule.short
        );
        Some(Finding {
            rule,
            message,
            span: sp.range(),
            function: self.function(hit.func),
            flow,
            features,
        })
    }

    fn origin(&self, first: &Trace) -> String {
        match first.say {
            Say::Source(kind) => format!("{} `{}`", source_words(kind), self.words(first.sp)),
            Say::Param(kind, name) => format!("the {kind} `{}`", self.names.text(name)),
            Say::Filled(kind, name) => {
                format!("{} in `{}`", source_words(kind), self.names.text(name))
            }
            _ => format!("`{}`", self.words(first.sp)),
        }
    }

    /// One step in plain words.
    fn say(&self, trace: &Trace) -> String {
        let text = |name| self.names.text(name);
        match trace.say {
            Say::Source(_) | Say::Param(..) | Say::Filled(..) => {
                format!("{} comes from outside", capital(&self.origin(trace)))
            }
            Say::Assigned(name) => format!("`{}` now holds it", text(name)),
            Say::Built => format!("becomes part of `{}`", self.words(trace.sp)),
            Say::Through(name) => format!("passes through `{}`", text(name)),
            Say::Passed(callee, param) => {
                format!("is passed to `{}` as `{}`", text(callee), text(param))
            }
            Say::Returned(func) if text(func).is_empty() => "is returned".to_owned(),
            Say::Returned(func) => format!("`{}` returns it", text(func)),
            Say::Stored(name) if name.is_none() => "is stored".to_owned(),
            Say::Stored(name) => format!("is stored in `{}`", text(name)),
            Say::Loaded(name) if name.is_none() => "is read back".to_owned(),
            Say::Loaded(name) => format!("is read from `{}`", text(name)),
            Say::Captured(name) => format!("`{}` is shared with the function around", text(name)),
            Say::Cleaned(name) => {
                format!("`{}` makes it harmless elsewhere, but not here", text(name))
            }
            Say::Checked => format!("`{}` checks it, but not for this", self.words(trace.sp)),
            Say::Element => format!("is an element in `{}`", self.words(trace.sp)),
        }
    }

    fn misuse_finding(&self, sp: Sp, rule: usize, misuse: &Misuse, test: bool) -> Option<Finding> {
        let rule = *rules::PATTERN.get(rule)?;
        let callee = self.names.text(misuse.callee);
        let message = match (rule.id, misuse.what.as_str()) {
            ("insecure-cookie", what) => format!(
                "the cookie given to `{callee}` can travel without encryption: `secure` {what}"
            ),
            ("cookie-without-httponly", what) => {
                format!("scripts can read the cookie given to `{callee}`: `httpOnly` {what}")
            }
            (_, "") => format!("`{callee}`: {}", rule.short),
            (_, what) => format!("`{callee}` is told to use `{what}`: {}", rule.short),
        };
        let mut features = Vec::new();
        if !misuse.what.is_empty() {
            features.push(Feature {
                name: "constant-argument",
                value: 0.4,
                spans: vec![misuse.at.range()],
            });
        }
        if test {
            features.push(test_feature());
        }
        Some(Finding {
            rule,
            message,
            span: sp.range(),
            function: self.function(misuse.func),
            flow: Vec::new(),
            features,
        })
    }

    /// Facts that make the finding more or less likely. The weights are priors set by hand; none was measured yet.
    fn features(&self, traces: &[Trace], hit: &Hit, test: bool) -> Vec<Feature> {
        let mut features = Vec::new();
        let spans = |kind: StepKind| -> Vec<_> {
            let mut all: Vec<_> = traces
                .iter()
                .filter(|t| t.kind == kind)
                .map(|t| t.sp.range())
                .collect();
            all.dedup();
            all.truncate(6);
            all
        };
        let mut add = |name, value, spans| features.push(Feature { name, value, spans });
        if let Some(first) = traces.first() {
            let (name, value) = match first.say {
                Say::Source(kind) | Say::Filled(kind, _) => source_weight(kind),
                Say::Param(kind, _) => source_weight(kind),
                _ => ("source-unclear", 0.0),
            };
            add(name, value, vec![first.sp.range()]);
        }
        let steps = traces.len();
        let value = match steps {
            0..=4 => 0.5,
            5..=9 => 0.1,
            10..=16 => -0.2,
            _ => -0.6,
        };
        add("flow-length", value, Vec::new());
        let calls = spans(StepKind::Call);
        if !calls.is_empty() {
            add("flow-across-functions", -0.2, calls);
        }
        let fields = spans(StepKind::Field);
        if !fields.is_empty() {
            add("flow-through-storage", -0.2, fields);
        }
        let partial = spans(StepKind::Sanitizer);
        if !partial.is_empty() {
            add("partial-sanitizer", -0.5, partial);
        }
        let guards = spans(StepKind::Guard);
        if !guards.is_empty() {
            add("guard-present", -0.6, guards);
        }
        if traces.iter().any(|trace| matches!(trace.say, Say::Built)) {
            add("built-text", 0.4, vec![hit.arg.range()]);
        } else if hit.built {
            add("whole-operand", 0.2, vec![hit.arg.range()]);
        }
        let through = traces
            .iter()
            .filter(|trace| matches!(trace.say, Say::Through(_)))
            .count();
        if through > 2 {
            add("unknown-functions", -0.3, Vec::new());
        }
        if test {
            features.push(test_feature());
        }
        features
    }
}

fn test_feature() -> Feature {
    Feature {
        name: "in-test-code",
        value: -1.2,
        spans: Vec::new(),
    }
}

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| {
        matches!(part, "test" | "tests" | "__tests__" | "spec" | "testing")
            || part.ends_with(".test.js")
            || part.ends_with(".spec.ts")
    })
}

fn source_weight(kind: &str) -> (&'static str, f64) {
    match kind {
        "environment" | "command-line argument" | "argument" => ("source-local", -0.8),
        "input" => ("source-local", -0.4),
        // Who wrote what is stored is not known here.
        "stored" => ("source-stored", -1.0),
        "header" | "cookie" => ("source-remote", 0.4),
        "network" => ("source-remote", 0.2),
        _ => ("source-remote", 0.6),
    }
}

fn source_words(kind: &str) -> &'static str {
    match kind {
        "parameter" => "the request parameter",
        "header" => "the request header",
        "cookie" => "the cookie",
        "query" => "the address of the request",
        "body" => "the body of the request",
        "environment" => "the environment's",
        "argument" => "the command-line argument",
        "input" => "the input",
        "network" => "data from the network",
        "stored" => "the stored value",
        "location" => "the address of the page",
        "message" => "the message from another window",
        _ => "the value",
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if !text.starts_with('`') => first.to_uppercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

/// At most [`SHOWN`] steps, one per place: what is left out lies between two steps of the same function.
fn shown(traces: &[Trace]) -> Vec<Trace> {
    let mut out: Vec<Trace> = Vec::new();
    for (at, trace) in traces.iter().enumerate() {
        let same = out
            .last()
            .is_some_and(|last| last.sp == trace.sp && last.func == trace.func);
        if same && at > 0 && !matters(trace) {
            continue;
        }
        out.push(*trace);
    }
    while out.len() > SHOWN {
        let inner = (1..out.len().saturating_sub(1)).find(|at| {
            let (before, this, after) = (out.get(at - 1), out.get(*at), out.get(at + 1));
            match (before, this, after) {
                (Some(before), Some(this), Some(after)) => {
                    before.func == this.func && this.func == after.func && !matters(this)
                }
                _ => false,
            }
        });
        match inner {
            Some(at) => {
                out.remove(at);
            }
            None => break,
        }
    }
    out
}

fn matters(trace: &Trace) -> bool {
    !matches!(trace.kind, StepKind::Propagator)
}

/// Two neighbours in different functions are tied by a call, a return, a field or a captured variable; where the trace
/// has none of them (an object grew in one function and was read in another), the way is by what is stored.
fn connect(flow: &mut Vec<Step>) {
    let ties = |step: &Step| {
        matches!(
            step.kind,
            StepKind::Call | StepKind::Return | StepKind::Field | StepKind::Capture
        )
    };
    let mut at = 0;
    while at + 1 < flow.len() {
        let (Some(a), Some(b)) = (flow.get(at), flow.get(at + 1)) else {
            break;
        };
        if a.function != b.function && !ties(a) && !ties(b) {
            let last = at + 2 == flow.len();
            if at == 0 && last {
                let step = Step {
                    kind: StepKind::Field,
                    message: "is read here".to_owned(),
                    ..b.clone()
                };
                flow.insert(1, step);
            } else {
                let which = if at == 0 { at + 1 } else { at };
                if let Some(step) = flow.get_mut(which) {
                    step.kind = StepKind::Field;
                }
            }
        }
        at += 1;
    }
}
