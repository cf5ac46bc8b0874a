//! Reads what `upstream` describes, and says what contradicts itself.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use munjigi_foundation::settings::{HostPort, Size, Table};

use super::upstream_schema as schema;
use super::{
    BackendSettings, Balance, BreakerSettings, EjectionSettings, HashSource, HealthSettings,
    HttpProbe, LimitSettings, Placement, Probe, Protocol, RetryOn, RetrySettings, RouteSettings,
    ServiceSettings, Share, StickySettings, TimeoutSettings,
};

const HOUR: Duration = Duration::from_secs(3_600);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const MILLISECOND: Duration = Duration::from_millis(1);

fn share(table: &Table<'_>, key: &'static str, default: Share) -> Share {
    Share::new(table.within(key, default.value(), 0.0..=1.0))
}

pub(super) fn retry(table: &Table<'_>) -> RetrySettings {
    let defaults = RetrySettings::default();
    let mut on = RetryOn::default();
    let written = table.list::<String>("on");
    for item in written.iter().flatten() {
        let known = RetryOn::NAMES.iter().find(|(name, _)| *name == item.value);
        if let Some((_, failure)) = known {
            on = on.and(*failure);
        } else {
            let names: Vec<_> = RetryOn::NAMES
                .iter()
                .map(|(n, _)| format!("\"{n}\""))
                .collect();
            table.problems().error_with_hint(
                item.span.clone(),
                format!("`on`: \"{}\" is no failure", item.value),
                format!("write one of {}", names.join(", ")),
            );
        }
    }
    let on = if written.is_some() { on } else { defaults.on };
    let attempts = table.within("attempts", defaults.attempts, 1..=10);
    if attempts == 1 && table.has("on") {
        table.problems().warning(
            table.span_of("on"),
            "`on` does nothing: with 1 of `attempts` nothing is sent again",
            "remove `on`, or allow 2 attempts",
        );
    }
    let body_max = table.within("body_max", Size(0), Size(0)..=Size(1 << 20));
    if body_max.bytes() > 0 && (on == RetryOn::CONNECT || attempts == 1) {
        table.problems().warning(
            table.span_of("body_max"),
            "`body_max` does nothing: after a failed connect no body was sent yet",
            "add \"503\", \"timeout\" or \"reset\" to `on`, or remove it",
        );
    }
    RetrySettings {
        attempts,
        on,
        body_max: usize::try_from(body_max.bytes()).unwrap_or(0),
        budget: share(table, "budget", defaults.budget),
        budget_min: table.within("budget_min", defaults.budget_min, 0..=100_000),
    }
}

/// `hedge`, and what it needs of the rest of the route.
pub(super) fn hedge(
    route: &Table<'_>,
    retry: &RetrySettings,
    timeout: &TimeoutSettings,
) -> Option<Duration> {
    let table = route.table("hedge", &schema::HEDGE)?;
    table.required::<Duration>("after")?;
    let after = table.duration("after", HOUR, MILLISECOND..=TEN_MINUTES);
    if retry.attempts < 2 {
        route.problems().error_with_hint(
            route.span_of("hedge"),
            "`hedge` needs a second try, `retry` allows one",
            "write retry = { attempts = 2 }",
        );
    }
    if after >= timeout.response {
        route.problems().warning(
            route.span_of("hedge"),
            "`hedge` does nothing: `timeout.response` is over before",
            "write a shorter `after`",
        );
    }
    Some(after)
}

/// A second try beside the first needs a connection of its own.
pub(super) fn judge_hedge(
    table: &Table<'_>,
    route: &RouteSettings,
    services: &BTreeMap<String, ServiceSettings>,
) {
    let service = services.get(&route.service);
    let http2 = service.is_some_and(|service| service.protocol == Protocol::Http2);
    if http2 && route.hedge_after.is_some() {
        table.problems().error_with_hint(
            table.span_of("hedge"),
            format!(
                "`hedge` does nothing for service {}: it speaks \"h2\"",
                route.service
            ),
            "leave it out, or write protocol = \"http/1.1\" for the service",
        );
    }
}

/// Methods that are never sent again make all of `on` but `connect` idle.
pub(super) fn judge_retry(route: &Table<'_>, retry: &RetrySettings, methods: Option<&[String]>) {
    let idempotent = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
    let never = methods.is_some_and(|methods| {
        !methods.is_empty() && methods.iter().all(|m| !idempotent.contains(&m.as_str()))
    });
    if never && retry.attempts > 1 && retry.on != RetryOn::CONNECT {
        route.problems().warning(
            route.span_of("retry"),
            "the methods of this route are never sent again once they reached a backend",
            "`on` has a use here only for \"connect\"",
        );
    }
}

pub(super) fn balance(table: &Table<'_>) -> Balance {
    let choices = Balance::ALL.map(|balance| (balance.name(), balance));
    table.choice("balance", Balance::default(), &choices)
}

pub(super) fn hash(table: &Table<'_>, balance: Balance) -> HashSource {
    let Some(item) = table.item::<String>("hash") else {
        return HashSource::default();
    };
    if balance != Balance::ConsistentHash {
        table.problems().warning(
            item.span.clone(),
            format!("`hash` does nothing with balance \"{balance}\""),
            "write balance = \"consistent_hash\", or remove `hash`",
        );
    }
    HashSource::parse(&item.value).unwrap_or_else(|| {
        table.problems().error_with_hint(
            item.span,
            format!("`hash` can't be \"{}\"", item.value),
            "write \"client_ip\", \"path\", \"header.NAME\", \"cookie.NAME\" or \"query.NAME\"",
        );
        HashSource::default()
    })
}

pub(super) fn sticky(service: &Table<'_>) -> Option<StickySettings> {
    let table = service.table("sticky", &schema::STICKY)?;
    let secret = table.secret_in_file("secret_file");
    table.required::<String>("cookie")?;
    let item = table.item::<String>("cookie")?;
    // RFC 6265 §4.1.1: a token.
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if item.value.is_empty() || item.value.len() > 100 || !item.value.bytes().all(token) {
        table.problems().error_with_hint(
            item.span,
            format!("`cookie`: \"{}\" is no name for a cookie", item.value),
            "letters, digits, `-` and `_` are good",
        );
    }
    Some(StickySettings {
        cookie: item.value,
        secret,
    })
}

pub(super) fn health(service: &Table<'_>) -> Option<HealthSettings> {
    let table = service.table("health", &schema::HEALTH)?;
    let probe = probe(&table);
    let port = table
        .has("port")
        .then(|| table.within("port", 1_u16, 1..=u16::MAX));
    let defaults = HealthSettings::new(Probe::Tcp);
    let shortest = Duration::from_millis(50);
    let settings = HealthSettings {
        port,
        interval: table.duration("interval", defaults.interval, shortest..=HOUR),
        timeout: table.duration(
            "timeout",
            defaults.timeout,
            Duration::from_millis(10)..=TEN_MINUTES,
        ),
        rise: table.within("rise", defaults.rise, 1..=100),
        fall: table.within("fall", defaults.fall, 1..=100),
        probe: probe?,
    };
    if port.is_some() && settings.probe == Probe::Icmp {
        table.problems().warning(
            table.span_of("port"),
            "`port` does nothing: a ping has none",
            "remove it, or write tcp = true",
        );
    }
    Some(settings)
}

fn probe(table: &Table<'_>) -> Option<Probe> {
    let http = table.item::<String>("http");
    let method = table.item::<String>("method");
    let host = table.get::<String>("host");
    let statuses = statuses(table);
    let grpc = table.get::<String>("grpc");
    let kinds = [
        http.as_ref().map(|_| Probe::Tcp),
        grpc.map(Probe::Grpc),
        table.or("tcp", false).then_some(Probe::Tcp),
        table.or("icmp", false).then_some(Probe::Icmp),
    ];
    if kinds.iter().flatten().count() != 1 {
        table.problems().error_with_hint(
            table.span(),
            "`health` has one of `http`, `tcp`, `grpc` and `icmp`",
            "write health = { http = \"/health\" }",
        );
        return None;
    }
    let Some(path) = http else {
        for key in ["method", "host", "status"] {
            if table.has(key) {
                table.problems().error_with_hint(
                    table.span_of(key),
                    format!("`{key}` is for probes by `http` alone"),
                    "remove it",
                );
            }
        }
        return kinds.into_iter().flatten().next();
    };
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !path.value.starts_with('/') || !visible(&path.value) {
        table.problems().error_with_hint(
            path.span,
            format!("`http`: \"{}\" is no path", path.value),
            "write a path such as \"/health\"",
        );
    }
    if let Some(method) = &method
        && !matches!(method.value.as_str(), "GET" | "HEAD" | "OPTIONS")
    {
        table.problems().error_with_hint(
            method.span.clone(),
            format!("`method` can't be \"{}\"", method.value),
            "a probe changes nothing: write \"GET\", \"HEAD\" or \"OPTIONS\"",
        );
    }
    if host
        .as_deref()
        .is_some_and(|host| host.is_empty() || !visible(host))
    {
        table.problems().error_with_hint(
            table.span_of("host"),
            "`host` is no name",
            "write a name such as \"example.com\"",
        );
    }
    Some(Probe::Http(HttpProbe {
        path: path.value,
        method: method.map_or_else(|| "GET".to_owned(), |method| method.value),
        host,
        statuses,
    }))
}

fn statuses(table: &Table<'_>) -> Vec<RangeInclusive<u16>> {
    let Some(items) = table.list::<String>("status") else {
        return vec![200..=399];
    };
    if items.is_empty() {
        table.problems().error_with_hint(
            table.span_of("status"),
            "`status` names no good answer",
            "write status = [\"200-399\"]",
        );
    }
    let mut ranges = Vec::new();
    for item in items {
        let parsed = match item.value.split_once('-') {
            Some((first, last)) => first.parse().and_then(|f| Ok(f..=last.parse()?)),
            None => item.value.parse().map(|status| status..=status),
        };
        match parsed {
            Ok(range) if *range.start() >= 100 && *range.end() <= 599 && !range.is_empty() => {
                ranges.push(range);
            }
            _ => table.problems().error_with_hint(
                item.span,
                format!("`status`: \"{}\" is no status", item.value),
                "write \"200\" or \"200-299\"",
            ),
        }
    }
    ranges
}

pub(super) fn ejection(service: &Table<'_>, backends: Option<usize>) -> Option<EjectionSettings> {
    let table = service.table("ejection", &schema::EJECTION)?;
    let defaults = EjectionSettings::default();
    let shortest = Duration::from_millis(10);
    let settings = EjectionSettings {
        consecutive_failures: table.within(
            "consecutive_failures",
            defaults.consecutive_failures,
            1..=10_000,
        ),
        time: table.duration("for", defaults.time, shortest..=HOUR),
        at_most: share(&table, "at_most", defaults.at_most),
    };
    if let Some(count) = backends
        && settings.at_most.of(count) == 0
    {
        service.problems().warning(
            service.span_of("ejection"),
            format!(
                "`ejection` does nothing: {} of {count} backends, rounded down, is none",
                settings.at_most.value()
            ),
            "write a larger `at_most`, or more backends",
        );
    }
    Some(settings)
}

pub(super) fn limit(service: &Table<'_>) -> Option<LimitSettings> {
    let table = service.table("limit", &schema::LIMIT)?;
    let defaults = LimitSettings::new(1);
    let queue = table.within("queue", defaults.queue, 0..=100_000);
    let wait = table.duration("wait", defaults.wait, MILLISECOND..=TEN_MINUTES);
    table.required::<u32>("requests")?;
    Some(LimitSettings {
        requests: table.within("requests", 1, 1..=1_000_000),
        queue,
        wait,
    })
}

pub(super) fn breaker(service: &Table<'_>) -> Option<BreakerSettings> {
    let table = service.table("breaker", &schema::BREAKER)?;
    let defaults = BreakerSettings::default();
    Some(BreakerSettings {
        failures: share(&table, "failures", defaults.failures),
        requests_min: table.within("requests_min", defaults.requests_min, 1..=1_000_000),
        within: table.duration("within", defaults.within, Duration::from_millis(100)..=HOUR),
        time: table.duration("for", defaults.time, Duration::from_millis(10)..=HOUR),
    })
}

pub(super) fn panic_below(service: &Table<'_>) -> Option<Share> {
    let below = share(service, "panic_below", Share::new(0.0));
    if service.has("panic_below") && !service.has("health") && !service.has("ejection") {
        service.problems().warning(
            service.span_of("panic_below"),
            "`panic_below` does nothing without `health` or `ejection`",
            "add one of them, or remove it",
        );
    }
    (below > Share::new(0.0)).then_some(below)
}

pub(super) fn backends(table: &Table<'_>) -> Option<Vec<BackendSettings>> {
    if !table.has("backends") {
        return None;
    }
    let backends: Vec<BackendSettings> = table
        .tables("backends", &schema::BACKEND)
        .iter()
        .filter_map(|backend| {
            let weight = backend.within("weight", 1, 1..=1_000);
            let placement = Placement {
                backup: backend.or("backup", false),
                priority: backend.within("priority", 0, 0..=1_000),
                zone: backend.get::<String>("zone"),
            };
            Some(BackendSettings {
                address: backend.required::<HostPort>("address")?,
                weight,
                placement,
            })
        })
        .collect();
    if !backends.is_empty() && backends.iter().all(|backend| backend.placement.backup) {
        table.problems().warning(
            table.span_of("backends"),
            "all backends are backups, so none is",
            "remove `backup` from those that should get requests first",
        );
    }
    Some(backends)
}
