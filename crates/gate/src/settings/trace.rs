//! `trace = { … }`: where traces go.

use munjigi_foundation::settings::{Key, Schema, Table};

/// `trace = { … }`
pub(super) static TRACE: Schema = Schema {
    place: "trace = { … }",
    meaning: "tells a collector of exchanges (W3C Trace Context, OTLP over HTTP); off when absent",
    keys: &[
        Key::new(
            "otlp",
            "text",
            "",
            "",
            "the collector's URL, such as \"http://127.0.0.1:4318\"; spans go to its /v1/traces",
        ),
        Key::new(
            "sample",
            "number",
            "1.0",
            "0 to 1",
            "which share of traces is told; peers in `client_ip.trusted` decide for theirs",
        ),
        Key::new(
            "name",
            "text",
            "\"munjigi-gate\"",
            "",
            "what the collector calls this gate",
        ),
        Key::new(
            "queue",
            "whole number",
            "4096",
            "16 to 1000000",
            "exchanges that may wait to be sent; more are dropped and counted",
        ),
    ],
};

/// `trace = { … }`
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// The collector's URL.
    pub otlp: String,
    /// Which share of traces is told, 0 to 1.
    pub sample: f64,
    /// What the collector calls this gate.
    pub name: String,
    /// Exchanges that may wait to be sent.
    pub queue: usize,
}

impl TraceSettings {
    /// Everything goes to the collector at `otlp`.
    #[must_use]
    pub fn new(otlp: &str) -> Self {
        Self {
            otlp: otlp.to_owned(),
            sample: 1.0,
            name: "munjigi-gate".to_owned(),
            queue: 4_096,
        }
    }
}

/// Reads `trace`; `None` when it is absent or wrong.
pub(super) fn read(table: &Table<'_>) -> Option<TraceSettings> {
    let table = table.table("trace", &TRACE)?;
    let otlp = table.required::<String>("otlp");
    let defaults = TraceSettings::new("");
    let sample = table.within("sample", defaults.sample, 0.0..=1.0);
    let name = table.or("name", defaults.name);
    let queue = table.within("queue", defaults.queue, 16..=1_000_000);
    let otlp = otlp?;
    let host = otlp
        .strip_prefix("http://")
        .map(|rest| rest.split('/').next());
    if host.is_none_or(|host| host.is_none_or(str::is_empty)) {
        table.problems().error_with_hint(
            table.span_of("otlp"),
            format!("`otlp`: \"{otlp}\" is no http:// URL"),
            "write \"http://127.0.0.1:4318\"",
        );
        return None;
    }
    Some(TraceSettings {
        otlp,
        sample,
        name,
        queue,
    })
}
