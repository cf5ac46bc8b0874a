//! OTLP over HTTP: exchanges become spans, and go to the collector in batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Counts, Finished};
use crate::settings::TraceSettings;

/// Exchanges in one batch.
const BATCH: usize = 512;
/// How long a batch waits to be filled.
const FILL: Duration = Duration::from_secs(1);
/// How long the collector may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long the last batches may take at the end.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Sends what has ended to the collector, until it is stopped.
#[derive(Debug)]
pub(crate) struct Exporter {
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Sender {
    http: reqwest::Client,
    url: String,
    name: String,
    counts: Arc<Counts>,
    /// The last batch was not taken.
    failing: bool,
}

impl Exporter {
    /// # Errors
    /// When the HTTP client can't be made.
    pub(crate) fn start(
        settings: &TraceSettings,
        finished: mpsc::Receiver<Finished>,
        counts: Arc<Counts>,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_WITHIN)
            .build()?;
        let sender = Sender {
            http,
            url: format!("{}/v1/traces", settings.otlp.trim_end_matches('/')),
            name: settings.name.clone(),
            counts,
            failing: false,
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(run(sender, finished, stop.clone()));
        Ok(Self { tasks, stop })
    }

    /// Sends what is there, for a moment, and ends.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_WITHIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("the last spans were not taken in time");
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(mut sender: Sender, mut finished: mpsc::Receiver<Finished>, stop: CancellationToken) {
    let mut batch = Vec::new();
    loop {
        let filled = async {
            while batch.len() < BATCH {
                match finished.recv().await {
                    Some(exchange) => batch.push(exchange),
                    None => return,
                }
            }
        };
        let waiting = tokio::time::timeout(FILL, filled);
        let stopped = stop.run_until_cancelled(waiting).await.is_none();
        while stopped && let Ok(exchange) = finished.try_recv() {
            batch.push(exchange);
        }
        if !batch.is_empty() {
            sender.send(std::mem::take(&mut batch)).await;
        }
        if stopped || finished.is_closed() && finished.is_empty() {
            return;
        }
    }
}

impl Sender {
    async fn send(&mut self, batch: Vec<Finished>) {
        let spans: Vec<Span> = batch.iter().flat_map(spans).collect();
        let count = spans.len() as u64;
        let body = self.message(spans).encode_to_vec();
        let request = self
            .http
            .post(&self.url)
            .header("content-type", "application/x-protobuf")
            .body(body);
        let failure = match request.send().await {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let counter = match &failure {
            None => &self.counts.exported,
            Some(_) => &self.counts.dropped,
        };
        counter.fetch_add(count, Ordering::Relaxed);
        if let (Some(why), false) = (&failure, self.failing) {
            tracing::warn!(
                why,
                "the collector of traces takes no spans: they are dropped"
            );
        }
        if failure.is_none() && self.failing {
            tracing::info!("the collector of traces takes spans again");
        }
        self.failing = failure.is_some();
    }

    fn message(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let resource = Resource {
            attributes: vec![
                text("service.name", &self.name),
                text("service.version", env!("CARGO_PKG_VERSION")),
            ],
            ..Resource::default()
        };
        let scope = InstrumentationScope {
            name: "munjigi.gate".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans,
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        }
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

/// An exchange as two spans: as a whole, and at the backend if it reached one. Names are those of OpenTelemetry's
/// conventions for HTTP; what they lack begins with `munjigi.`.
fn spans(exchange: &Finished) -> Vec<Span> {
    let at = |after: Duration| {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        exchange.began.saturating_add(after)
    };
    let context = &exchange.context;
    let status = Status {
        code: if exchange.failed {
            StatusCode::Error.into()
        } else {
            StatusCode::Unset.into()
        },
        message: if exchange.failed {
            exchange.reason.to_owned()
        } else {
            String::new()
        },
    };
    let phases = [
        ("head read", exchange.head_read),
        ("connected", exchange.connected),
        ("response head", exchange.responded),
    ];
    let events = phases.into_iter().filter_map(|(name, after)| {
        Some(Event {
            time_unix_nano: at(after?),
            name: name.to_owned(),
            ..Event::default()
        })
    });
    let route = exchange.route.as_deref().unwrap_or_default();
    let server = Span {
        trace_id: context.trace.to_vec(),
        span_id: context.server.to_vec(),
        parent_span_id: context
            .parent
            .map(|parent| parent.to_vec())
            .unwrap_or_default(),
        name: format!("{} {route}", exchange.method).trim_end().to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: exchange.began,
        end_time_unix_nano: at(exchange.total),
        attributes: server_attributes(exchange),
        events: events.collect(),
        status: Some(status.clone()),
        ..Span::default()
    };
    let Some(backend) = &exchange.backend else {
        return vec![server];
    };
    let client = Span {
        trace_id: context.trace.to_vec(),
        span_id: context.client.to_vec(),
        parent_span_id: context.server.to_vec(),
        name: exchange.method.clone(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: at(exchange.head_read.unwrap_or_default()),
        end_time_unix_nano: at(exchange.total),
        attributes: vec![
            text("http.request.method", &exchange.method),
            text("network.peer.address", backend),
            text(
                "munjigi.service",
                exchange.service.as_deref().unwrap_or_default(),
            ),
            number("munjigi.attempts", exchange.attempts),
        ],
        status: Some(status),
        ..Span::default()
    };
    vec![server, client]
}

fn server_attributes(exchange: &Finished) -> Vec<KeyValue> {
    let (path, query) = exchange
        .target
        .split_once('?')
        .map_or((exchange.target.as_str(), None), |(path, query)| {
            (path, Some(query))
        });
    let mut attributes = vec![
        text("http.request.method", &exchange.method),
        text("url.path", path),
        text("client.address", &exchange.client),
        text("munjigi.listener", &exchange.listener),
        text("munjigi.reason", exchange.reason),
    ];
    let optional = [
        ("url.query", query),
        ("server.address", exchange.host.as_deref()),
        ("munjigi.route", exchange.route.as_deref()),
    ];
    attributes.extend(
        optional
            .into_iter()
            .filter_map(|(key, value)| Some(text(key, value?))),
    );
    if exchange.status != 0 {
        attributes.push(number("http.response.status_code", exchange.status));
    }
    attributes
}
