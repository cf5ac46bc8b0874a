//! Traces: what the backend sees of them, and what the collector is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use munjigi_gate::settings::TraceSettings;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use crate::support::{Origin, ask, echo, eventually, figure, header, origin, settings, start};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that keeps what it is told.
async fn collector() -> (Origin, Arc<Mutex<Vec<Span>>>) {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&spans);
    let collector = origin(move |mut peer, _| {
        let kept = Arc::clone(&kept);
        async move {
            while let Some(head) = peer.head().await {
                let body = peer.body_of(&head).await;
                assert!(head.starts_with("POST /v1/traces "), "{head}");
                assert_eq!(
                    header(&head, "content-type"),
                    Some("application/x-protobuf")
                );
                let request = ExportTraceServiceRequest::decode(&*body).unwrap();
                let scopes = request
                    .resource_spans
                    .into_iter()
                    .flat_map(|r| r.scope_spans);
                kept.lock()
                    .unwrap()
                    .extend(scopes.flat_map(|scope| scope.spans));
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    (collector, spans)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_through_the_gate_to_backend_and_collector() {
    let backend = echo().await;
    let (collector, spans) = collector().await;
    let mut settings = settings(&[backend.address]);
    settings.trace = Some(TraceSettings::new(&format!("http://{}", collector.address)));
    let gate = start(settings).await;
    // A client that calls it its own word to the gate takes nothing from the gate's word to the backend.
    let named = "Connection: traceparent\r\n";
    let given = format!("{named}traceparent: 00-{TRACE}-{PARENT}-00\r\ntracestate: a=b\r\n");
    let (_, body) = ask(
        &gate,
        &format!("GET /x?token=hunter2 HTTP/1.1\r\nHost: example.com\r\n{given}\r\n"),
    )
    .await;
    let seen = String::from_utf8(body).unwrap();
    let parts: Vec<String> = header(&seen, "traceparent")
        .unwrap()
        .split('-')
        .map(str::to_owned)
        .collect();
    assert_eq!(seen.matches("traceparent").count(), 1, "{seen}");
    assert_eq!((parts[1].as_str(), parts[3].as_str()), (TRACE, "01"));
    assert_ne!(parts[2], PARENT);
    assert_eq!(header(&seen, "tracestate"), Some("a=b"));

    eventually("the collector is told", || async {
        spans.lock().unwrap().len() == 2
    })
    .await;
    let told = std::mem::take(&mut *spans.lock().unwrap());
    let of = |kind: SpanKind| {
        told.iter()
            .find(|span| span.kind == i32::from(kind))
            .unwrap()
    };
    let (server, client) = (of(SpanKind::Server), of(SpanKind::Client));
    assert_eq!(
        (hex(&server.trace_id), hex(&server.parent_span_id)),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(hex(&client.span_id), parts[2], "the backend's parent");
    assert_eq!(server.name, "GET app");
    let phases: Vec<_> = server
        .events
        .iter()
        .map(|event| event.name.as_str())
        .collect();
    assert_eq!(phases, ["head read", "connected", "response head"]);
    assert!(server.events.is_sorted_by_key(|event| event.time_unix_nano));
    assert!(server.end_time_unix_nano >= server.events[2].time_unix_nano);
    assert!(!format!("{told:?}").contains("hunter2"));

    // Without a trace, and with one that is none: a new one begins, and what was said of the old one goes.
    for bad in ["", "traceparent: 00-0-0-0\r\ntracestate: a=b\r\n"] {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{bad}\r\n");
        let (_, body) = ask(&gate, &request).await;
        let seen = String::from_utf8(body).unwrap();
        let new = header(&seen, "traceparent").unwrap().to_owned();
        assert!(new.len() == 55 && !new.contains(TRACE), "{new}");
        assert_eq!(header(&seen, "tracestate"), None);
    }
    // What is not sent yet is sent at the end.
    gate.drain(Duration::from_secs(5)).await;
    assert_eq!(spans.lock().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_holds_nobody_up() {
    let backend = echo().await;
    let mut settings = settings(&[backend.address]);
    let mut trace = TraceSettings::new("http://127.0.0.1:9");
    trace.queue = 16;
    settings.trace = Some(trace);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    for _ in 0..40 {
        ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    }
    eventually("what could not be sent is counted", || async {
        figure(&socket, "munjigi_gate_spans_dropped_total ").await >= 40
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_a_trace_passes_unchanged() {
    let backend = echo().await;
    let gate = start(settings(&[backend.address])).await;
    let given = format!("00-{TRACE}-{PARENT}-00");
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\ntraceparent: {given}\r\n\r\n");
    let (_, body) = ask(&gate, &request).await;
    let seen = String::from_utf8(body).unwrap();
    assert_eq!(header(&seen, "traceparent"), Some(given.as_str()));
}
