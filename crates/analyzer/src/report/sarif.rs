//! SARIF 2.1.0, the part that we write (OASIS Standard, sections 3.13 to 3.49). One finding is one [`Result`]; every
//! other form (explanations, text, events) is made from it, so that they cannot disagree.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::finding::{Kind, Level, Rule, StepKind};
use crate::lines::Region;
use crate::rank::Reliability;

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// `message` and other texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub text: String,
}

impl Text {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// Where a file is (3.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactLocation {
    /// Relative to the scanned path, percent-encoded.
    pub uri: String,
    pub uri_base_id: String,
}

/// A region with its text (3.30).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snippet {
    #[serde(flatten)]
    pub region: Region,
    pub snippet: Text,
}

/// A region of a file, and what stands around it (3.29).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PhysicalLocation {
    pub artifact_location: ArtifactLocation,
    pub region: Snippet,
    /// Absent where a place only supports another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_region: Option<Snippet>,
}

/// The function that holds a place (3.33).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogicalLocation {
    pub fully_qualified_name: String,
    pub kind: String,
}

/// A place (3.28).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    pub physical_location: PhysicalLocation,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logical_locations: Vec<LogicalLocation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Text>,
}

/// A step of a flow (3.38).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ThreadFlowLocation {
    pub location: Location,
    /// One of the words of contract §8.
    pub kinds: Vec<String>,
    pub importance: String,
}

/// Steps in order (3.37).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadFlow {
    pub locations: Vec<ThreadFlowLocation>,
}

/// A flow (3.36).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CodeFlow {
    pub thread_flows: Vec<ThreadFlow>,
}

/// One additive part of a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    pub feature: String,
    /// Log-odds.
    pub value: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<Location>,
}

/// `properties.munjigi` of a result (contract §8).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub probability: f64,
    pub margin: f64,
    pub base: f64,
    pub contributions: Vec<Contribution>,
    pub reliability: Reliability,
    /// Edits that were executed; none in this version.
    pub counterfactuals: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultProperties {
    pub munjigi: Score,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    /// Unchanged by edits elsewhere in the file; also the finding's id.
    #[serde(rename = "munjigi/v1")]
    pub v1: String,
}

/// A finding (3.27).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Result {
    pub rule_id: String,
    pub rule_index: usize,
    /// Always `fail`.
    pub kind: String,
    /// `error`, `warning` or `note`.
    pub level: String,
    pub message: Text,
    pub locations: Vec<Location>,
    pub partial_fingerprints: Fingerprints,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub code_flows: Vec<CodeFlow>,
    /// The probability, from 0 to 100 (3.27.25).
    pub rank: f64,
    pub properties: ResultProperties,
}

impl Result {
    /// The finding's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.partial_fingerprints.v1
    }

    /// The first location.
    #[must_use]
    pub fn place(&self) -> Option<&PhysicalLocation> {
        self.locations
            .first()
            .map(|location| &location.physical_location)
    }

    /// The steps of the flow, none where there is no flow.
    #[must_use]
    pub fn steps(&self) -> &[ThreadFlowLocation] {
        self.code_flows
            .first()
            .and_then(|flow| flow.thread_flows.first())
            .map_or(&[], |thread| &thread.locations)
    }
}

/// `level` as SARIF writes it.
#[must_use]
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::Note => "note",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

/// The level with this name.
#[must_use]
pub fn level_of(name: &str) -> Option<Level> {
    [Level::Note, Level::Warning, Level::Error]
        .into_iter()
        .find(|level| level_name(*level) == name)
}

/// A step's kind as contract §8 writes it.
#[must_use]
pub fn step_name(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Source => "source",
        StepKind::Propagator => "propagator",
        StepKind::Call => "call",
        StepKind::Return => "return",
        StepKind::Guard => "guard",
        StepKind::Branch => "branch",
        StepKind::Sanitizer => "sanitizer",
        StepKind::Field => "field",
        StepKind::Capture => "capture",
        StepKind::Sink => "sink",
    }
}

/// A rule's kind as contract §8 writes it.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Taint => "taint",
        Kind::State => "state",
        Kind::Pattern => "pattern",
        Kind::Secret => "secret",
        Kind::Dependency => "dependency",
        Kind::Binary => "binary",
    }
}

/// A scanned path: what relative URIs are relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `PATH`, and `PATH2`, … when several paths were scanned.
    pub id: String,
    /// An absolute `file:` URI that ends with a slash; absent for an upload, whose folder means nothing to its reader.
    pub uri: Option<String>,
    pub description: String,
}

/// Something the run has to say that is no finding: a file that was not analysed to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub text: String,
    pub uri: String,
}

/// What a log holds beside its results.
#[derive(Debug)]
pub struct Header<'a> {
    pub rules: &'a [&'static Rule],
    pub bases: &'a [Base],
    pub notifications: &'a [Notification],
}

/// Writes a log, its results one after the other, so that none needs to be held.
pub fn write(
    out: &mut dyn Write,
    header: &Header<'_>,
    results: &mut dyn Iterator<Item = io::Result<Result>>,
) -> io::Result<()> {
    let driver = serde_json::json!({
        "name": "munjigi",
        "version": env!("CARGO_PKG_VERSION"),
        "semanticVersion": env!("CARGO_PKG_VERSION"),
        "shortDescription": { "text": "Source analyser that explains each finding" },
        "rules": header.rules.iter().map(|rule| descriptor(rule)).collect::<Vec<_>>(),
    });
    let bases: serde_json::Map<String, serde_json::Value> = header
        .bases
        .iter()
        .map(|base| (base.id.clone(), base_value(base)))
        .collect();
    let notifications: Vec<_> = header.notifications.iter().map(notification).collect();
    let invocations = serde_json::json!([{
        "executionSuccessful": true,
        "toolExecutionNotifications": notifications,
    }]);
    write!(
        out,
        "{{\"$schema\":\"{SCHEMA}\",\"version\":\"2.1.0\",\"runs\":[{{\"tool\":{{\"driver\":{driver}}},"
    )?;
    write!(
        out,
        "\"columnKind\":\"utf16CodeUnits\",\"originalUriBaseIds\":{},",
        serde_json::Value::Object(bases)
    )?;
    write!(out, "\"invocations\":{invocations},\"results\":[")?;
    for (index, result) in results.enumerate() {
        out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &result?)?;
    }
    out.write_all(b"\n]}]}\n")
}

fn base_value(base: &Base) -> serde_json::Value {
    let mut value = serde_json::json!({ "description": { "text": base.description } });
    if let (Some(uri), Some(map)) = (&base.uri, value.as_object_mut()) {
        map.insert("uri".to_owned(), uri.as_str().into());
    }
    value
}

fn notification(notification: &Notification) -> serde_json::Value {
    serde_json::json!({
        "level": "warning",
        "message": { "text": notification.text },
        "locations": [{ "physicalLocation": { "artifactLocation": { "uri": notification.uri } } }],
    })
}

/// A rule with its card (3.49).
#[must_use]
pub fn descriptor(rule: &Rule) -> serde_json::Value {
    let tags: Vec<String> = rule
        .cwe
        .iter()
        .map(|cwe| format!("external/cwe/cwe-{cwe:03}"))
        .chain(["security".to_owned()])
        .collect();
    let mut value = serde_json::json!({
        "id": rule.id,
        "name": rule.name,
        "shortDescription": { "text": rule.short },
        "fullDescription": { "text": rule.why },
        "defaultConfiguration": { "level": level_name(rule.level) },
        "help": { "text": help_text(rule), "markdown": help_markdown(rule) },
        "properties": { "tags": tags, "munjigi": { "kind": kind_name(rule.kind), "prior": rule.prior } },
    });
    if let (Some(cwe), Some(map)) = (rule.cwe.first(), value.as_object_mut()) {
        map.insert(
            "helpUri".to_owned(),
            format!("https://cwe.mitre.org/data/definitions/{cwe}.html").into(),
        );
    }
    value
}

fn help_text(rule: &Rule) -> String {
    let mut text = format!(
        "{}\n\nWhy it matters: {}\n\nHow to fix it: {}\n",
        rule.short, rule.why, rule.fix
    );
    for example in rule.examples {
        text.push_str(&format!(
            "\nVulnerable ({language}):\n{}\n\nFixed ({language}):\n{}\n",
            example.vulnerable,
            example.fixed,
            language = example.language
        ));
    }
    if !rule.limits.is_empty() {
        text.push_str(&format!("\nLimits: {}\n", rule.limits));
    }
    text
}

fn help_markdown(rule: &Rule) -> String {
    let mut text = format!(
        "{}\n\n## Why it matters\n\n{}\n\n## How to fix it\n\n{}\n",
        rule.short, rule.why, rule.fix
    );
    for example in rule.examples {
        text.push_str(&format!(
            "\nVulnerable:\n\n```{language}\n{}\n```\n\nFixed:\n\n```{language}\n{}\n```\n",
            example.vulnerable,
            example.fixed,
            language = example.language
        ));
    }
    if !rule.limits.is_empty() {
        text.push_str(&format!("\n## Limits\n\n{}\n", rule.limits));
    }
    text
}
