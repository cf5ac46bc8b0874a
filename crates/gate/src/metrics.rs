//! The figures in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use crate::figures;
use crate::health::uptime::Uptimes;
use crate::ip_filter::{self, Filter};
use crate::shard::{Listener, Shared};
use crate::shield;
use crate::stats::{BOUNDS, Totals};
use crate::ws::doctor;

/// A page in the making.
pub(crate) struct Page(String);

impl Page {
    pub(crate) fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub(crate) fn put(&mut self, text: std::fmt::Arguments<'_>) {
        if self.0.write_fmt(text).is_err() {
            tracing::error!("a figure can't be written");
        }
    }

    pub(crate) fn single(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        value: impl std::fmt::Display,
    ) {
        self.head(name, kind, help);
        self.put(format_args!("{name} {value}\n"));
    }
}

/// A label's value with what the format forbids escaped.
pub(crate) fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// All metrics of the gate.
pub(crate) fn page(
    shared: &Shared,
    listeners: &[std::sync::Arc<Listener>],
    uptimes: &Uptimes,
) -> String {
    let totals = Totals::of(&shared.threads);
    let mut page = Page(String::with_capacity(8 * 1024));
    totals_part(&mut page, shared, &totals);
    http2_part(&mut page, &totals);
    doctor::metrics(&mut page, &shared.doctor, &totals);
    histogram(&mut page, &totals);
    page.head(
        "munjigi_gate_connections",
        "gauge",
        "Connections of clients that are open.",
    );
    for listener in listeners {
        let count = listener.connections.load(Ordering::Relaxed);
        let name = label(&listener.name);
        page.put(format_args!(
            "munjigi_gate_connections{{listener=\"{name}\"}} {count}\n"
        ));
    }
    tls_part(&mut page, shared, &totals);
    routes_part(&mut page, shared, uptimes);
    let snapshot = shared.snapshot.load();
    if let Some(filter) = &snapshot.ip_filter {
        ip_filter_part(&mut page, filter);
    }
    if snapshot.shield.is_some() {
        shield::metrics(&mut page, &shared.shield, shared.clock.now());
    }
    page.0
}

fn ip_filter_part(page: &mut Page, filter: &Filter) {
    let figures = filter.metrics();
    page.head(
        "munjigi_gate_ip_verdicts_total",
        "counter",
        "Connections and requests that the IP filter judged, by verdict and by what decided.",
    );
    for ((verdict, by), count) in ip_filter::VERDICTS.iter().zip(figures.verdicts) {
        page.put(format_args!(
            "munjigi_gate_ip_verdicts_total{{verdict=\"{verdict}\",by=\"{by}\"}} {count}\n"
        ));
    }
    page.head(
        "munjigi_gate_ip_decided",
        "gauge",
        "How often rules of each source decided, since they were read.",
    );
    for (source, count) in &figures.sources {
        let source = label(source);
        page.put(format_args!(
            "munjigi_gate_ip_decided{{source=\"{source}\"}} {count}\n"
        ));
    }
    page.single(
        "munjigi_gate_ip_rules",
        "gauge",
        "Rules of the IP filter.",
        figures.rules,
    );
    page.head(
        "munjigi_gate_ip_reloads_total",
        "counter",
        "Changed files of rules, by what came of them.",
    );
    for (result, count) in figures.reloads {
        page.put(format_args!(
            "munjigi_gate_ip_reloads_total{{result=\"{result}\"}} {count}\n"
        ));
    }
}

fn totals_part(page: &mut Page, shared: &Shared, totals: &Totals) {
    page.single(
        "munjigi_gate_uptime_seconds",
        "gauge",
        "Seconds since the gate started.",
        shared.started.elapsed().as_secs(),
    );
    page.head(
        "munjigi_gate_requests_total",
        "counter",
        "Requests that ended, by class of the status sent; none where no response was sent.",
    );
    for (class, count) in totals.classes.iter().enumerate() {
        let class = match class {
            0 => "none".to_owned(),
            class => format!("{class}xx"),
        };
        page.put(format_args!(
            "munjigi_gate_requests_total{{class=\"{class}\"}} {count}\n"
        ));
    }
    page.head(
        "munjigi_gate_ends_total",
        "counter",
        "How requests and connections ended, by the code of the problem document.",
    );
    for (reason, count) in &totals.reasons {
        let code = reason.code();
        page.put(format_args!(
            "munjigi_gate_ends_total{{reason=\"{code}\"}} {count}\n"
        ));
    }
    counters_part(page, shared, totals);
}

fn counters_part(page: &mut Page, shared: &Shared, totals: &Totals) {
    let counters = [
        (
            "received_bytes",
            "Bytes of request bodies and tunnels from clients.",
            totals.bytes_received,
        ),
        (
            "sent_bytes",
            "Bytes of responses and tunnels to clients.",
            totals.bytes_sent,
        ),
        (
            "spliced_bytes",
            "Bytes of bodies that passed from socket to socket within the kernel.",
            totals.bytes_spliced,
        ),
        (
            "accepted",
            "Connections of clients that were accepted.",
            totals.accepted,
        ),
        (
            "backend_connections",
            "Connections to backends that were opened.",
            totals.backend_connections,
        ),
        (
            "retries",
            "Second and further tries of requests.",
            totals.retries,
        ),
        (
            "failed_sign_ins",
            "Sign-ins that a hub reported as failed.",
            totals.failed_sign_ins,
        ),
        (
            "access_log_dropped",
            "Lines of the access log that did not fit in its queue.",
            shared.log.dropped(),
        ),
    ];
    for (name, help, value) in counters {
        page.single(
            &format!("munjigi_gate_{name}_total"),
            "counter",
            help,
            value,
        );
    }
    spans_part(page, shared);
    let name = "munjigi_gate_active";
    page.single(
        name,
        "gauge",
        "Requests and tunnels under way.",
        totals.active,
    );
    let name = "munjigi_gate_tunnels";
    page.single(name, "gauge", "Tunnels that are open.", totals.tunnels);
    let (name, count) = ("munjigi_gate_compressions", shared.compressions.count());
    page.single(name, "gauge", "Responses that are being compressed.", count);
}

fn spans_part(page: &mut Page, shared: &Shared) {
    if let Some(tracer) = &shared.tracer {
        let spans = [
            (
                "exported",
                "Spans that the collector took.",
                &tracer.counts.exported,
            ),
            (
                "dropped",
                "Exchanges and spans that it did not.",
                &tracer.counts.dropped,
            ),
        ];
        for (name, help, count) in spans {
            let name = format!("munjigi_gate_spans_{name}_total");
            page.single(&name, "counter", help, count.load(Ordering::Relaxed));
        }
    }
}

fn http2_part(page: &mut Page, totals: &Totals) {
    let [connections, requests, received, sent] = totals.http2;
    page.single(
        "munjigi_gate_http2_connections_total",
        "counter",
        "Connections of clients that spoke HTTP/2.",
        connections,
    );
    page.single(
        "munjigi_gate_http2_requests_total",
        "counter",
        "Requests that came by HTTP/2.",
        requests,
    );
    let name = "munjigi_gate_http2_resets_total";
    page.head(
        name,
        "counter",
        "Streams of clients that were reset, by who did it.",
    );
    page.put(format_args!("{name}{{by=\"client\"}} {received}\n"));
    page.put(format_args!("{name}{{by=\"gate\"}} {sent}\n"));
}

fn histogram(page: &mut Page, totals: &Totals) {
    let name = "munjigi_gate_request_duration_seconds";
    page.head(
        name,
        "histogram",
        "From the first byte of a request to the last of its response.",
    );
    let mut below = 0;
    for (place, count) in totals.durations.iter().enumerate() {
        below += count;
        let bound = BOUNDS.get(place).map_or_else(
            || "+Inf".to_owned(),
            |micros| {
                std::time::Duration::from_micros(*micros)
                    .as_secs_f64()
                    .to_string()
            },
        );
        page.put(format_args!("{name}_bucket{{le=\"{bound}\"}} {below}\n"));
    }
    let sum = std::time::Duration::from_micros(totals.duration_micros).as_secs_f64();
    page.put(format_args!("{name}_sum {sum}\n{name}_count {below}\n"));
}

fn tls_part(page: &mut Page, shared: &Shared, totals: &Totals) {
    let name = "munjigi_gate_tls_handshakes_total";
    page.head(
        name,
        "counter",
        "TLS handshakes with clients and backends, by what they agreed on and how they ended.",
    );
    for (side, handshakes) in [
        ("client", &totals.client_handshakes),
        ("backend", &totals.backend_handshakes),
    ] {
        for (version, cipher, result, count) in &handshakes.agreed {
            page.put(format_args!(
                "{name}{{side=\"{side}\",version=\"{version}\",cipher=\"{cipher}\",result=\"{result}\"}} {count}\n"
            ));
        }
        let failed = handshakes.failed;
        page.put(format_args!(
            "{name}{{side=\"{side}\",version=\"\",cipher=\"\",result=\"failed\"}} {failed}\n"
        ));
    }
    let name = "munjigi_gate_tls_certificate_expiry_seconds";
    page.head(
        name,
        "gauge",
        "When each certificate expires, in seconds since 1970.",
    );
    let snapshot = shared.snapshot.load();
    for (listener, tls) in snapshot.credentials.listeners() {
        let listener = label(listener);
        for (place, certificate) in tls.certificates().iter().enumerate() {
            let names = label(&certificate.names.join(","));
            let seconds = certificate.not_after.millis() / 1_000;
            page.put(format_args!(
                "{name}{{listener=\"{listener}\",certificate=\"{place}\",names=\"{names}\"}} {seconds}\n"
            ));
        }
    }
}

fn routes_part(page: &mut Page, shared: &Shared, uptimes: &Uptimes) {
    let snapshot = shared.snapshot.load();
    page.head(
        "munjigi_gate_route_requests_total",
        "counter",
        "Requests of each route.",
    );
    for route in &snapshot.routes {
        if let Some(settings) = snapshot.route_settings(route) {
            let (name, count) = (label(&settings.name), route.requests());
            page.put(format_args!(
                "munjigi_gate_route_requests_total{{route=\"{name}\"}} {count}\n"
            ));
        }
    }
    page.head(
        "munjigi_gate_rate_limit_keys",
        "gauge",
        "Clients that a route's rate limit keeps a bucket for.",
    );
    for route in &snapshot.routes {
        if let (Some(limiter), Some(settings)) = (&route.limiter, snapshot.route_settings(route)) {
            let (name, count) = (label(&settings.name), limiter.count());
            page.put(format_args!(
                "munjigi_gate_rate_limit_keys{{route=\"{name}\"}} {count}\n"
            ));
        }
    }
    let mut services: Vec<_> = snapshot.services.values().collect();
    services.sort_by(|left, right| left.name.cmp(&right.name));
    figures::metrics(page, &services, uptimes);
}
