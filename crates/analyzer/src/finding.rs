//! What an engine says it found, before ranking and explanation.
//!
//! Engines speak in byte spans of one file; only `report` turns spans into lines and UTF-16 columns, so that there is
//! one place where a column can be wrong.

use std::ops::Range;

/// Bytes of one file, end exclusive. Files above 4 GiB are never analysed, so 32 bits are enough.
pub type Span = Range<u32>;

/// Languages with a grammar and a lowering to the IR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    C,
    Java,
    JavaScript,
    Python,
    /// TypeScript and, with `tsx`, its JSX form.
    TypeScript {
        tsx: bool,
    },
}

/// How sure a reader must be to act: SARIF's `level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Information; counts in no score and never fails a scan.
    Note,
    Warning,
    Error,
}

/// `properties.munjigi.kind` of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Taint,
    State,
    Pattern,
    Secret,
    Dependency,
    Binary,
}

/// A rule with the card a reader is shown. All texts are our own words.
#[derive(Debug)]
pub struct Rule {
    /// Stable, lower-case, `language-neutral/kebab`: `sql-injection`.
    pub id: &'static str,
    /// Title in sentence case: `SQL injection`.
    pub name: &'static str,
    pub kind: Kind,
    pub level: Level,
    /// CWE numbers: the first is the weakness itself, as exact as is known; broader ones follow.
    pub cwe: &'static [u16],
    /// One sentence on what is wrong.
    pub short: &'static str,
    /// One paragraph on why it matters.
    pub why: &'static str,
    /// How to mend it, one paragraph.
    pub fix: &'static str,
    /// Examples by language (`java`, `python`, `javascript`, `c`).
    pub examples: &'static [Example],
    /// What the rule can't see or may get wrong.
    pub limits: &'static str,
    /// Log-odds that a finding of this rule is true before anything else is known.
    pub prior: f64,
}

/// A vulnerable snippet beside its mended twin.
#[derive(Debug)]
pub struct Example {
    pub language: &'static str,
    pub vulnerable: &'static str,
    pub fixed: &'static str,
}

/// Role of a step in a flow: SARIF `threadFlowLocation.kinds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepKind {
    Source,
    Propagator,
    Call,
    Return,
    Guard,
    Branch,
    Sanitizer,
    Field,
    Capture,
    Sink,
}

/// One step of a flow. Two neighbours in different functions have `Call`, `Return`, `Field` or `Capture` on one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub kind: StepKind,
    pub span: Span,
    /// The function that holds the step; empty at the top of a file.
    pub function: String,
    /// What happens here, in words: "`id` comes from the request parameter `id`".
    pub message: String,
}

/// One observed fact that moves the score, with the places that show it.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// Stable kebab-case name: `flow-length`, `in-test-code`, `partial-sanitizer`.
    pub name: &'static str,
    /// Added to the margin (log-odds); negative makes the finding less likely.
    pub value: f64,
    pub spans: Vec<Span>,
}

/// A finding in one file.
#[derive(Debug, Clone)]
pub struct Finding {
    pub rule: &'static Rule,
    /// What is wrong here, naming the code at hand.
    pub message: String,
    /// The first location: for a flow, it is overlapped by the sink.
    pub span: Span,
    /// The function that holds `span`; empty at the top of a file.
    pub function: String,
    /// Empty unless the rule's kind is `Taint` (then two or more, source first, sink last).
    pub flow: Vec<Step>,
    pub features: Vec<Feature>,
}

/// One file as the engines see it.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Path inside the scanned input, `/`-separated, not percent-encoded.
    pub path: &'a str,
    pub language: Language,
    pub text: &'a str,
}

/// What the engines say of one file.
#[derive(Debug, Clone, Default)]
pub struct Analysis {
    pub findings: Vec<Finding>,
    /// Why the analysis stopped before its end (a bound counted in steps, or the time guard), if it did.
    pub truncated: Option<&'static str>,
}
