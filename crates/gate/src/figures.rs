//! What operators see of services and backends: as JSON for the admin face, as metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, EJECTED, UNHEALTHY};
use crate::backends::{Member, Service, State};
use crate::health::uptime::{Uptime, Uptimes};
use crate::metrics::{Page, label};

fn load(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

/// The state of an instance, and why.
fn state(member: &Member) -> (&'static str, Option<String>) {
    match (&member.state, &member.backend) {
        (State::Refused(why), _) => ("refused", Some(why.clone())),
        (State::NotUp, _) => ("not_up", None),
        (State::Up, None) => ("up", None),
        (State::Up, Some(backend)) => {
            let why = if backend.is(UNHEALTHY) {
                backend
                    .health()
                    .last
                    .as_ref()
                    .and_then(|last| last.bad.clone())
            } else if backend.is(EJECTED) {
                Some("failed too often in a row".to_owned())
            } else {
                None
            };
            (backend.state(), why)
        }
    }
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1_000_000.0
}

fn member(member: &Member, service: &Service, uptimes: &Uptimes) -> Value {
    let (state, why) = state(member);
    let mut shown = json!({
        "address": format!("{}:{}", member.instance.host, member.instance.port),
        "state": state,
        "why": why,
        "weight": member.instance.weight,
        "inFlight": 0,
        "requests": 0,
        "failures": 0,
        "backup": member.instance.placement.backup,
        "priority": member.instance.placement.priority,
        "zone": member.instance.placement.zone,
        "metadata": member.instance.metadata,
    });
    if let (Some(backend), Some(object)) = (&member.backend, shown.as_object_mut()) {
        object.insert("address".to_owned(), backend.name.clone().into());
        object.extend(backend_figures(backend, service, uptimes));
    }
    shown
}

fn backend_figures(
    backend: &Backend,
    service: &Service,
    uptimes: &Uptimes,
) -> serde_json::Map<String, Value> {
    let now = Instant::now();
    let mut object = serde_json::Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("weight", backend.weight().into());
    put("inFlight", backend.in_flight.load(Ordering::Relaxed).into());
    put("requests", load(&backend.requests).into());
    put("failures", load(&backend.failures).into());
    put("ejections", load(&backend.ejections).into());
    if let Some(slow_start) = service.settings.slow_start {
        let ramp = backend.ramp(now, slow_start) as f64 / 1_000.0;
        put("slowStart", ramp.into());
    }
    if let Some(micros) = backend.answers_in(now) {
        put("answersIn", seconds(Duration::from_micros(micros)).into());
    }
    if service.settings.health.is_some() {
        put("probe", probe(backend, now));
        let uptime = uptimes.of(&service.name, &backend.name);
        put(
            "uptime",
            uptime.map_or(Value::Null, |uptime| shown_uptime(&uptime)),
        );
    }
    object
}

fn probe(backend: &Backend, now: Instant) -> Value {
    let health = backend.health();
    let last = health.last.as_ref();
    json!({
        "healthy": health.verdict(),
        "since": health.since.map(|since| now.saturating_duration_since(since).as_secs()),
        "good": health.good,
        "bad": health.bad,
        "took": last.map(|last| seconds(last.took)),
        "error": health.unable.clone().or_else(|| last.and_then(|last| last.bad.clone())),
    })
}

fn shown_uptime(uptime: &Uptime) -> Value {
    json!({
        "share": (uptime.share * 1_000_000.0).round() / 1_000_000.0,
        "windowDays": uptime.window.as_secs() / 86_400,
        "observedSeconds": uptime.observed.as_secs(),
    })
}

/// A service for the admin face.
pub(crate) fn service(service: &Service, uptimes: &Uptimes) -> Value {
    let set = service.set.load();
    let members = set.members().iter();
    let figures = &service.figures;
    json!({
        "name": service.name,
        "balance": service.settings.balance.to_string(),
        "unsure": set.unsure(),
        "waiting": service.queue.len(),
        "queued": load(&figures.queued),
        "retries": load(&figures.retries),
        "retriesRefused": load(&figures.retries_refused),
        "hedges": load(&figures.hedges),
        "breaker": service.breaker_state(),
        "breakerOpened": load(&figures.opened),
        "backends": members.map(|known| member(known, service, uptimes)).collect::<Vec<_>>(),
    })
}

const STATES: [&str; 6] = ["up", "unhealthy", "ejected", "drained", "not_up", "refused"];

type OfService = fn(&Service) -> u64;
type OfBackend = fn(&Backend) -> Option<f64>;

const OF_SERVICES: [(&str, &str, &str, OfService); 6] = [
    (
        "waiting",
        "gauge",
        "Requests that wait for room at a backend.",
        |s| s.queue.len() as u64,
    ),
    (
        "queued_total",
        "counter",
        "Requests that waited for room at a backend.",
        |s| load(&s.figures.queued),
    ),
    (
        "retries_total",
        "counter",
        "Second and further tries that were made.",
        |s| load(&s.figures.retries),
    ),
    (
        "retries_refused_total",
        "counter",
        "Tries that the budget did not allow.",
        |s| load(&s.figures.retries_refused),
    ),
    (
        "hedges_total",
        "counter",
        "Requests that a second backend was asked, too.",
        |s| load(&s.figures.hedges),
    ),
    (
        "breaker_opened_total",
        "counter",
        "How often the breaker opened.",
        |s| load(&s.figures.opened),
    ),
];

const OF_BACKENDS: [(&str, &str, &str, OfBackend); 8] = [
    (
        "in_flight",
        "gauge",
        "Requests in flight at each backend.",
        |b| Some(f64::from(b.in_flight.load(Ordering::Relaxed))),
    ),
    (
        "requests_total",
        "counter",
        "Requests sent to each backend.",
        |b| Some(load(&b.requests) as f64),
    ),
    (
        "failures_total",
        "counter",
        "Requests that failed on the backend's side.",
        |b| Some(load(&b.failures) as f64),
    ),
    (
        "ejections_total",
        "counter",
        "How often each backend was left out for its failures.",
        |b| Some(load(&b.ejections) as f64),
    ),
    ("weight", "gauge", "The share of each backend.", |b| {
        Some(f64::from(b.weight()))
    }),
    (
        "probes_good_total",
        "counter",
        "Probes that went well.",
        |b| probed(b, |health| health.good as f64),
    ),
    ("probes_bad_total", "counter", "Probes that did not.", |b| {
        probed(b, |health| health.bad as f64)
    }),
    (
        "probe_seconds",
        "gauge",
        "How long the last probe took.",
        |b| {
            let health = b.health();
            health.last.as_ref().map(|last| seconds(last.took))
        },
    ),
];

fn probed(backend: &Backend, pick: fn(&crate::health::Health) -> f64) -> Option<f64> {
    let health = backend.health();
    (health.good + health.bad > 0).then(|| pick(&health))
}

/// The metrics of services and backends.
pub(crate) fn metrics(page: &mut Page, services: &[&Arc<Service>], uptimes: &Uptimes) {
    page.head(
        "munjigi_gate_backends",
        "gauge",
        "Known backends of each service, by state.",
    );
    for service in services {
        let set = service.set.load();
        let name = label(&service.name);
        for wanted in STATES {
            let count = set
                .members()
                .iter()
                .filter(|known| state(known).0 == wanted)
                .count();
            page.put(format_args!(
                "munjigi_gate_backends{{service=\"{name}\",state=\"{wanted}\"}} {count}\n"
            ));
        }
    }
    for (figure, kind, help, of) in OF_SERVICES {
        page.head(&format!("munjigi_gate_service_{figure}"), kind, help);
        for service in services {
            let (name, value) = (label(&service.name), of(service));
            page.put(format_args!(
                "munjigi_gate_service_{figure}{{service=\"{name}\"}} {value}\n"
            ));
        }
    }
    for (figure, kind, help, of) in OF_BACKENDS {
        page.head(&format!("munjigi_gate_backend_{figure}"), kind, help);
        each_backend(services, |service, backend| {
            if let Some(value) = of(backend) {
                let (name, address) = (label(&service.name), &backend.name);
                page.put(format_args!(
                    "munjigi_gate_backend_{figure}{{service=\"{name}\",backend=\"{address}\"}} {value}\n"
                ));
            }
        });
    }
    let help =
        "Share of the time that each backend was well, over up to 30 days in which it was probed.";
    page.head("munjigi_gate_backend_uptime_ratio", "gauge", help);
    each_backend(services, |service, backend| {
        if let Some(uptime) = uptimes.of(&service.name, &backend.name) {
            let (name, address, share) = (label(&service.name), &backend.name, uptime.share);
            page.put(format_args!(
                "munjigi_gate_backend_uptime_ratio{{service=\"{name}\",backend=\"{address}\"}} {share}\n"
            ));
        }
    });
}

fn each_backend(services: &[&Arc<Service>], mut act: impl FnMut(&Service, &Backend)) {
    for service in services {
        for backend in service.set.load().up() {
            act(service, backend);
        }
    }
}
