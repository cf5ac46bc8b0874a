//! As written → as meant. Every problem is recorded; reading goes on to find the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use munjigi_foundation::settings::{HostPort, Item, Rate, Secret, Size, Table, format_duration};

use super::http2::{self, Protocol};
use super::{
    AccessLog, Action, AdminSettings, Direction, GateSettings, HostPattern, Layer4Settings,
    LimitsSettings, ListenerSettings, Lookup, LookupSource, Network, PathPattern, ProxyMode,
    RegistrySettings, RegistrySource, RouteSettings, ServiceSettings, TimeoutSettings, Transport,
    WebSocketSettings,
};
use super::{actions, conditions, discovery, schema, tls, trace, upstream_read, upstream_schema};
use crate::conditions::whole;

const MILLISECOND: Duration = Duration::from_millis(1);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

impl GateSettings {
    /// Reads `[gate]`, which was opened with [`super::SCHEMA`]. `None` when something needed is
    /// missing or wrong; the problems say what.
    #[must_use]
    pub fn read(table: &Table<'_>) -> Option<Self> {
        let defaults = Self::default();
        let (listeners, names) = read_listeners(table);
        let services: BTreeMap<String, ServiceSettings> = table
            .named_tables("service", &schema::SERVICE)
            .into_iter()
            .filter_map(|(name, table)| Some((name.value, read_service(&table)?)))
            .collect();
        Some(Self {
            threads: table.within("threads", defaults.threads, 1..=256),
            access_log: read_access_log(table),
            data: table
                .path("data")
                .unwrap_or_else(|| table.base().join("gate-data")),
            zone: table.get::<String>("zone"),
            trusted: table
                .table_or_empty("client_ip", &schema::CLIENT_IP)
                .list::<Network>("trusted")
                .map(values)
                .unwrap_or_default(),
            routes: table
                .tables("route", &schema::ROUTE)
                .iter()
                .filter_map(|table| {
                    let route = read_route(table, &names)?;
                    upstream_read::judge_hedge(table, &route, &services);
                    Some(route)
                })
                .collect(),
            error_pages: actions::read_error_pages(table),
            services,
            registry: read_registry(&table.table_or_empty("registry", &schema::REGISTRY)),
            admin: read_admin(&table.table_or_empty("admin", &schema::ADMIN)),
            trace: trace::read(table),
            limits: read_limits(&table.table_or_empty("limits", &schema::LIMITS)),
            ip_filter: table
                .table("ip_filter", &super::ip_filter::IP_FILTER)
                .and_then(|table| super::ip_filter::read(&table)),
            shield: super::shield::read(table),
            listeners,
        })
    }
}

fn values<T>(items: Vec<Item<T>>) -> Vec<T> {
    items.into_iter().map(|item| item.value).collect()
}

fn later(table: &Table<'_>, span: Range<usize>, what: &str, now: &str) {
    table.problems().error_with_hint(
        span,
        format!("{what} is not in this version"),
        format!("this version knows {now}"),
    );
}

fn read_access_log(table: &Table<'_>) -> AccessLog {
    match table.get::<String>("access_log").as_deref() {
        None | Some("off") => AccessLog::Off,
        Some("stdout") => AccessLog::Stdout,
        Some(file) => AccessLog::File(table.base().join(file)),
    }
}

/// The listeners, and all names: a route that names one whose table has a problem is right.
fn read_listeners(table: &Table<'_>) -> (Vec<ListenerSettings>, BTreeSet<String>) {
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    let mut names = BTreeSet::new();
    for listener in table.tables("listener", &schema::LISTENER) {
        let name = listener.required::<String>("name");
        // Before the rest of the table is read: a problem there must not hide this one.
        if let Some(name) = name.as_ref().filter(|name| !names.insert((*name).clone())) {
            listener.problems().error(
                listener.span_of("name"),
                format!("there are two listeners `{name}`"),
            );
        }
        let Some(settings) = read_listener(&listener, name) else {
            continue;
        };
        let same_address = |other: &&ListenerSettings| {
            other.address == settings.address
                && settings.address.port() != 0
                && other.is_udp() == settings.is_udp()
        };
        if let Some(other) = listeners.iter().find(same_address) {
            listener.problems().error(
                listener.span_of("address"),
                format!("listener `{}` has this address already", other.name),
            );
        }
        listeners.push(settings);
    }
    if listeners.is_empty() && !table.has("listener") {
        table.missing("listener");
    }
    (listeners, names)
}

fn read_listener(table: &Table<'_>, name: Option<String>) -> Option<ListenerSettings> {
    let (protocols, transport) = read_protocols(table);
    let layer4 = read_layer4(table, transport);
    let connections_max = table.within("connections_max", 10_000, 1..=1_000_000);
    let connections_per_address = table
        .has("connections_per_address")
        .then(|| table.within("connections_per_address", 1, 1..=1_000_000));
    let address = required_address(table, "address");
    let tls = tls::read_listener_tls(table);
    let proxy_protocol = tls::read_proxy_mode(table);
    if transport == Some(Transport::Udp) {
        let sealed = [
            ("tls", tls.is_some()),
            ("proxy_protocol", proxy_protocol != ProxyMode::Off),
        ];
        for (key, _) in sealed.into_iter().filter(|(_, set)| *set) {
            table.problems().error_with_hint(
                table.span_of(key),
                format!("`{key}` is for streams of bytes, not for datagrams"),
                "write a listener with \"tcp\", or leave it out",
            );
        }
    }
    Some(ListenerSettings {
        name: name?,
        address: address?,
        protocols,
        connections_max,
        connections_per_address,
        layer4,
        tls,
        proxy_protocol,
    })
}

/// What a listener with `tcp` or `udp` says; a problem where another one says it.
fn read_layer4(table: &Table<'_>, transport: Option<Transport>) -> Option<Layer4Settings> {
    let service = table.get::<String>("service");
    let timeout = table.table_or_empty("timeout", &schema::LINE_TIMEOUT);
    let Some(transport) = transport else {
        let keys = ["service", "timeout", "attempts"];
        for key in keys.into_iter().filter(|key| table.has(key)) {
            table.problems().error_with_hint(
                table.span_of(key),
                format!("`{key}` is for listeners with \"tcp\" or \"udp\""),
                "requests are sent to services by [[gate.route]]",
            );
        }
        return None;
    };
    if !table.has("service") {
        table.missing("service");
    }
    let defaults = Layer4Settings::new(transport, &service?);
    let connect_max = Duration::from_secs(600);
    let idle_min = Duration::from_millis(10);
    Some(Layer4Settings {
        connect: timeout.duration("connect", defaults.connect, MILLISECOND..=connect_max),
        idle: timeout.duration("idle", defaults.idle, idle_min..=MONTH),
        attempts: table.within("attempts", defaults.attempts, 1..=10),
        ..defaults
    })
}

/// What a listener speaks: of HTTP, or bytes that are not looked at.
fn read_protocols(table: &Table<'_>) -> (Vec<Protocol>, Option<Transport>) {
    let Some(items) = table.list::<String>("protocols") else {
        return (vec![Protocol::Http1], None);
    };
    if items.is_empty() {
        table.problems().error_with_hint(
            table.span_of("protocols"),
            "`protocols` is empty",
            "write \"http/1.1\", \"h2\", or both",
        );
    }
    let (mut protocols, mut transport) = (Vec::new(), None);
    let many = items.len() > 1;
    for item in items {
        let known = match item.value.as_str() {
            "http/1.1" => Protocol::Http1,
            "h2" => Protocol::Http2,
            "tcp" => {
                transport = Some(Transport::Tcp);
                continue;
            }
            "udp" => {
                transport = Some(Transport::Udp);
                continue;
            }
            "h3" => {
                let known = "\"http/1.1\", \"h2\", \"tcp\" and \"udp\"";
                later(table, item.span, "protocol \"h3\"", known);
                continue;
            }
            other => {
                table.problems().error_with_hint(
                    item.span,
                    format!("\"{other}\" is no protocol"),
                    "write \"http/1.1\", \"h2\", \"tcp\" or \"udp\"",
                );
                continue;
            }
        };
        if !protocols.contains(&known) {
            protocols.push(known);
        }
    }
    if transport.is_some() && many {
        table.problems().error_with_hint(
            table.span_of("protocols"),
            "\"tcp\" and \"udp\" stand alone: their bytes are not looked at",
            "write a listener for each",
        );
    }
    (protocols, transport)
}

/// An address to listen on: a literal one, or `localhost`.
fn required_address(table: &Table<'_>, key: &'static str) -> Option<std::net::SocketAddr> {
    if !table.has(key) {
        table.missing(key);
    }
    let item = table.item::<HostPort>(key)?;
    let literal = if item.value.host == "localhost" {
        Some(([127, 0, 0, 1], item.value.port).into())
    } else {
        item.value.socket_addr()
    };
    if literal.is_none() {
        table.problems().error_with_hint(
            item.span,
            format!("`{key}`: {} is a name", item.value.host),
            "to listen, write an address of this machine, such as \"0.0.0.0:8080\"",
        );
    }
    literal
}

fn read_route(table: &Table<'_>, listeners: &BTreeSet<String>) -> Option<RouteSettings> {
    let service = table.get::<String>("service");
    let path = read_path(table);
    let action = actions::read_action(table, path.as_ref());
    let rewrite = actions::read_rewrite(table, path.as_ref());
    let headers = |key, direction| actions::read_headers(table, key, direction, path.as_ref());
    let request_headers = headers("request_headers", Direction::Request);
    let response_headers = headers("response_headers", Direction::Response);
    let compression = actions::read_compression(table);
    let rate_limit = actions::read_rate_limit(table);
    let error_pages = actions::read_error_pages(table);
    let names = read_listener_names(table, listeners);
    let hosts = read_hosts(table);
    let methods = read_methods(table);
    let conditions = conditions::read(table);
    let lookup = read_lookup(table, path.as_ref());
    let websocket = read_websocket(&table.table_or_empty("websocket", &schema::WEBSOCKET));
    judge_required(table, &websocket, methods.as_deref());
    let timeout = read_timeout(&table.table_or_empty("timeout", &schema::TIMEOUT));
    let request_body_max = table.get::<Size>("request_body_max").map(Size::bytes);
    let retry = upstream_read::retry(&table.table_or_empty("retry", &upstream_schema::RETRY));
    upstream_read::judge_retry(table, &retry, methods.as_deref());
    let hedge_after = upstream_read::hedge(table, &retry, &timeout);
    let name = table.get::<String>("name");
    // All of it was read by now, so that all that is wrong is known.
    let (path, action) = (path?, action?);
    let service = match action {
        Action::Forward => service?,
        Action::Redirect(_) | Action::Respond(_) | Action::Files(_) => String::new(),
    };
    let name = name.unwrap_or_else(|| match action {
        Action::Forward => service.clone(),
        Action::Redirect(_) | Action::Respond(_) | Action::Files(_) => path.to_string(),
    });
    Some(RouteSettings {
        name,
        action,
        rewrite,
        request_headers,
        response_headers,
        compression,
        rate_limit,
        error_pages,
        listeners: names,
        hosts,
        path,
        methods,
        conditions,
        lookup,
        websocket,
        timeout,
        request_body_max,
        retry,
        hedge_after,
        service,
    })
}

fn read_listener_names(table: &Table<'_>, known: &BTreeSet<String>) -> Option<Vec<String>> {
    let names = table.list::<String>("listener")?;
    for name in names.iter().filter(|name| !known.contains(&name.value)) {
        table.problems().absent(
            name.span.clone(),
            format!("there is no listener `{}`", name.value),
            format!(
                "known listeners: {}",
                known.iter().cloned().collect::<Vec<_>>().join(", ")
            ),
        );
    }
    Some(values(names))
}

fn read_hosts(table: &Table<'_>) -> Option<Vec<HostPattern>> {
    let parse = |item: Item<String>| match item.value.parse() {
        Ok(host) => Some(host),
        Err(why) => {
            table.problems().error_with_hint(
                item.span,
                format!("`host`: {why}"),
                "write a name such as \"example.com\" or \"*.example.com\"",
            );
            None
        }
    };
    let hosts = table.list::<String>("host")?;
    Some(hosts.into_iter().filter_map(parse).collect())
}

fn read_methods(table: &Table<'_>) -> Option<Vec<String>> {
    let items = table.list::<String>("method")?;
    for item in &items {
        let good = !item.value.is_empty() && item.value.bytes().all(|b| b.is_ascii_uppercase());
        if !good {
            table.problems().error_with_hint(
                item.span.clone(),
                format!("\"{}\" is no method", item.value),
                "methods are written in capitals, such as \"GET\"",
            );
        }
    }
    Some(values(items))
}

fn read_path(table: &Table<'_>) -> Option<PathPattern> {
    let prefix = table.item::<String>("path");
    let exact = table.item::<String>("path_exact");
    let regex = table.item::<String>("path_regex");
    let written = [&prefix, &exact, &regex];
    if written.iter().filter(|item| item.is_some()).count() > 1 {
        table.problems().error_with_hint(
            table.span(),
            "a route has one of `path`, `path_exact` and `path_regex`",
            "write two routes",
        );
        return None;
    }
    let refuse = |item: &Item<String>, key: &str, why: String| {
        table.problems().error_with_hint(
            item.span.clone(),
            format!("`{key}`: {why}"),
            "write a path such as \"/api\"",
        );
    };
    if let Some(item) = prefix {
        return PathPattern::prefix(&item.value)
            .map_err(|why| refuse(&item, "path", why))
            .ok();
    }
    if let Some(item) = exact {
        if !item.value.starts_with('/') {
            refuse(
                &item,
                "path_exact",
                format!("\"{}\" does not begin with \"/\"", item.value),
            );
            return None;
        }
        let normal = crate::target::normal_path(&item.value).into_owned();
        return Some(PathPattern::Exact(normal));
    }
    if let Some(item) = regex {
        return match whole(&item.value) {
            Ok(regex) => Some(PathPattern::Regex(regex)),
            Err(why) => {
                let problems = table.problems();
                problems.error(item.span, format!("`path_regex`: {why}"));
                None
            }
        };
    }
    table.missing("path");
    None
}

fn read_lookup(table: &Table<'_>, path: Option<&PathPattern>) -> Option<Lookup> {
    let balance = table.choice(
        "where_missing",
        false,
        &[("reject", false), ("balance", true)],
    );
    let Some(item) = table.item::<String>("where") else {
        if table.has("where_missing") && !table.has("where") {
            table.problems().error_with_hint(
                table.span_of("where_missing"),
                "`where_missing` without `where` does nothing",
                "remove it, or add `where`",
            );
        }
        return None;
    };
    let lookup = match Lookup::parse(&item.value, balance) {
        Ok(lookup) => lookup,
        Err(why) => {
            table.problems().error_with_hint(
                item.span,
                format!("`where`: {why}"),
                "write \"metadata.serverId = query.serverId\"",
            );
            return None;
        }
    };
    if let (LookupSource::Path(name), Some(path)) = (&lookup.source, path)
        && !path.captures().contains(&name.as_str())
    {
        table.problems().error_with_hint(
            item.span,
            format!("`where`: the path has no segment {{{name}}}"),
            format!("write it into `path`, such as \"/things/{{{name}}}\""),
        );
    }
    Some(lookup)
}

fn read_websocket(table: &Table<'_>) -> WebSocketSettings {
    let defaults = WebSocketSettings::default();
    let idle = table.duration("idle", defaults.idle, Duration::from_secs(1)..=MONTH);
    let ping = table.has("ping").then(|| {
        let range = Duration::from_millis(100)..=Duration::from_secs(86_400);
        table.duration("ping", Duration::from_secs(30), range)
    });
    if let Some(ping) = ping.filter(|ping| *ping >= idle) {
        let (ping, idle) = (format_duration(ping), format_duration(idle));
        table.problems().error_with_hint(
            table.span_of("ping"),
            format!("`ping` of {ping} never comes: a tunnel ends after `idle` of {idle}"),
            "answers to pings are no word of a peer: raise `idle`, or ping more often",
        );
    }
    WebSocketSettings {
        idle,
        ping,
        required: table.or("required", defaults.required),
        origins: table.list::<String>("origins").map(values),
    }
}

/// A handshake is a GET.
fn judge_required(route: &Table<'_>, websocket: &WebSocketSettings, methods: Option<&[String]>) {
    if websocket.required && methods.is_some_and(|methods| methods.iter().all(|m| m != "GET")) {
        route.problems().error_with_hint(
            route.span_of("method"),
            "`websocket.required` needs GET: no other method opens a WebSocket",
            "add \"GET\", or remove `method`",
        );
    }
}

fn read_timeout(table: &Table<'_>) -> TimeoutSettings {
    let defaults = TimeoutSettings::default();
    let connect_max = Duration::from_secs(600);
    TimeoutSettings {
        connect: table.duration("connect", defaults.connect, MILLISECOND..=connect_max),
        response: table.duration("response", defaults.response, MILLISECOND..=MONTH),
        idle: table.duration("idle", defaults.idle, MILLISECOND..=MONTH),
        rate_min: table.or("rate_min", Rate(defaults.rate_min)).0,
    }
}

fn read_service(table: &Table<'_>) -> Option<ServiceSettings> {
    let backends = upstream_read::backends(table);
    let count = backends.as_ref().map(Vec::len);
    let discovery = discovery::read(table, backends);
    let discovery = discovery?;
    let tls = tls::read_service_tls(table, &discovery);
    let protocol = read_protocol(table);
    let proxy_protocol = tls::read_proxy_out(table);
    if protocol == Protocol::Http2 && proxy_protocol.is_some() {
        table.problems().error_with_hint(
            table.span_of("proxy_protocol"),
            "`proxy_protocol` does not go with \"h2\": one connection carries the requests of many clients",
            "leave it out: each request has `Forwarded` and `X-Forwarded-For`",
        );
    }
    let balance = upstream_read::balance(table);
    let slow_start = table.has("slow_start").then(|| {
        let range = Duration::from_millis(10)..=Duration::from_secs(3_600);
        table.duration("slow_start", Duration::from_secs(10), range)
    });
    Some(ServiceSettings {
        protocol,
        tls,
        proxy_protocol,
        discovery,
        networks: table.list::<Network>("networks").map(values),
        balance,
        hash: upstream_read::hash(table, balance),
        sticky: upstream_read::sticky(table),
        health: upstream_read::health(table),
        ejection: upstream_read::ejection(table, count),
        slow_start,
        limit: upstream_read::limit(table),
        breaker: upstream_read::breaker(table),
        panic_below: upstream_read::panic_below(table),
    })
}

fn read_protocol(table: &Table<'_>) -> Protocol {
    table.choice(
        "protocol",
        Protocol::Http1,
        &[("http/1.1", Protocol::Http1), ("h2", Protocol::Http2)],
    )
}

fn read_registry(table: &Table<'_>) -> RegistrySettings {
    let defaults = RegistrySettings::default();
    let embedded = table.or("embedded", false);
    let urls = table.list::<String>("urls");
    for url in urls.iter().flatten() {
        let good = ["http://", "https://"]
            .iter()
            .any(|scheme| url.value.starts_with(scheme));
        if !good {
            table.problems().error_with_hint(
                url.span.clone(),
                "`urls`: this is no URL",
                "write \"http://10.0.0.2:8761/eureka\"",
            );
        }
    }
    let source = match (embedded, urls) {
        (true, Some(_)) => {
            table.problems().error_with_hint(
                table.span_of("urls"),
                "`urls` and `embedded` exclude each other",
                "remove one of them",
            );
            None
        }
        (true, None) => Some(RegistrySource::Embedded),
        (false, Some(urls)) => Some(RegistrySource::Urls(
            urls.iter().map(|url| Secret::new(&url.value)).collect(),
        )),
        (false, None) => None,
    };
    let range = Duration::from_millis(100)..=Duration::from_secs(300);
    RegistrySettings {
        source,
        ca_file: munjigi_foundation::tls::read_ca_file(table, "ca_file"),
        refresh: table.duration("refresh", defaults.refresh, range),
    }
}

fn read_admin(table: &Table<'_>) -> AdminSettings {
    let token = table.secret_in_file("token_file");
    let address = if table.has("address") {
        if !table.has("token_file") {
            table.problems().error_with_hint(
                table.span_of("address"),
                "the admin face on TCP needs `token_file`",
                "without a token leave `address` out: the socket is there anyway",
            );
        }
        required_address(table, "address")
    } else {
        None
    };
    let socket = table
        .path("socket")
        .unwrap_or_else(|| table.base().join(PathBuf::from("admin.sock")));
    AdminSettings {
        socket: Some(socket),
        address,
        token,
    }
}

fn read_limits(table: &Table<'_>) -> LimitsSettings {
    let defaults = LimitsSettings::default();
    let hour = Duration::from_secs(3_600);
    let ten_minutes = Duration::from_secs(600);
    let short = Duration::from_millis(100);
    let head_bytes = table.within(
        "head_bytes",
        Size(defaults.head_bytes as u64),
        Size(1 << 10)..=Size(192 << 10),
    );
    LimitsSettings {
        head_bytes: usize::try_from(head_bytes.bytes()).unwrap_or(defaults.head_bytes),
        headers: table.within(
            "headers",
            defaults.headers,
            1..=crate::http1::fields::FIELDS_MAX,
        ),
        head: table.duration("head", defaults.head, short..=ten_minutes),
        handshake: table.duration("handshake", defaults.handshake, short..=ten_minutes),
        keep_alive: table.duration("keep_alive", defaults.keep_alive, short..=hour),
        backend_idle: table.duration("backend_idle", defaults.backend_idle, short..=ten_minutes),
        backend_idle_max: table.within("backend_idle_max", defaults.backend_idle_max, 0..=10_000),
        backends_max: table.within("backends_max", defaults.backends_max, 1..=100_000),
        access_log_lines: table.within(
            "access_log_lines",
            defaults.access_log_lines,
            16..=1_000_000,
        ),
        rate_limit_keys: table.within(
            "rate_limit_keys",
            defaults.rate_limit_keys,
            1_000..=10_000_000,
        ),
        compressions_max: table.within("compressions_max", defaults.compressions_max, 0..=100_000),
        file_threads: table.within("file_threads", defaults.file_threads, 1..=64),
        file_queue: table.within("file_queue", defaults.file_queue, 1..=100_000),
        drain: table.duration("drain", defaults.drain, short..=hour),
        drain_max: table.duration("drain_max", defaults.drain_max, short..=MONTH),
        http2: http2::read_limits(table),
    }
}
