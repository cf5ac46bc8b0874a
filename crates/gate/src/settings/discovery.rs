//! Where the backends of a service come from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use munjigi_foundation::settings::{HostPort, Item, Key, Schema, Table};

use super::BackendSettings;

/// `dns = { … }`
pub(super) static DNS: Schema = Schema {
    place: "dns = { … }",
    meaning: "the name that leads to the backends of a service; what was found last stays while nobody answers",
    keys: &[
        Key::new(
            "name",
            "address",
            "",
            "",
            "NAME:PORT: each of its addresses is a backend",
        ),
        Key::new(
            "srv",
            "text",
            "",
            "",
            "a name with SRV records, such as \"_http._tcp.model.internal\": port, weight and priority come from them",
        ),
        Key::new(
            "servers",
            "list of addresses",
            "",
            "1 to 8",
            "name servers; those of the system when absent",
        ),
        Key::new(
            "refresh_min",
            "duration",
            "\"1s\"",
            "100ms to 1h",
            "asked again at most so often, however short the answer is good for",
        ),
        Key::new(
            "refresh_max",
            "duration",
            "\"30s\"",
            "100ms to 1d",
            "asked again at least so often, however long the answer is good for",
        ),
    ],
};

/// The keys of `[gate.service.NAME]` that say where its backends are.
pub(super) const KEYS: [Key; 3] = [
    Key::new(
        "discovery",
        "text",
        "",
        "",
        "\"static\", \"registry\", \"dns\" or \"file\"; static when there are `backends`",
    ),
    Key::new("dns", "table", "", "", "the name of a service found by DNS"),
    Key::new(
        "file",
        "file name",
        "",
        "",
        "lists the backends of a service found by file, as TOML or JSON; read again when it changes",
    ),
];

/// Where the backends of a service come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DiscoverySettings {
    /// From the registry, by the service's name.
    #[default]
    Registry,
    /// From the settings.
    Static(Vec<BackendSettings>),
    /// From name servers.
    Dns(DnsSettings),
    /// From a file that is watched.
    File(PathBuf),
}

/// `dns = { … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// What is looked up.
    pub name: DnsName,
    /// Whom to ask; those of the system when empty.
    pub servers: Vec<SocketAddr>,
    /// Asked again at most so often.
    pub refresh_min: Duration,
    /// Asked again at least so often.
    pub refresh_max: Duration,
}

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsName {
    /// Its addresses, with this port.
    Addresses(HostPort),
    /// Its SRV records, and the addresses of their targets.
    Services(String),
}

/// Reads `discovery` and what belongs to it. `None` when it is wrong; the problems say what.
pub(super) fn read(
    table: &Table<'_>,
    backends: Option<Vec<BackendSettings>>,
) -> Option<DiscoverySettings> {
    let item = table.item::<String>("discovery");
    let kind = match (item.as_ref().map(|item| item.value.as_str()), &backends) {
        (Some(kind), _) => kind,
        (None, Some(_)) => "static",
        (None, None) => "registry",
    };
    let dns = table.table("dns", &DNS);
    let file = table.path("file");
    for (key, of) in [("backends", "static"), ("dns", "dns"), ("file", "file")] {
        if kind != of && table.has(key) && ["static", "registry", "dns", "file"].contains(&kind) {
            table.problems().error_with_hint(
                table.span_of(key),
                format!("`{key}` belongs to discovery = \"{of}\", not to \"{kind}\""),
                format!("remove it, or write discovery = \"{of}\""),
            );
        }
    }
    let missing = |key: &'static str, known: bool| {
        if !known && !table.has(key) {
            table.missing(key);
        }
    };
    match kind {
        "registry" => Some(DiscoverySettings::Registry),
        "static" => {
            missing("backends", backends.is_some());
            backends.map(DiscoverySettings::Static)
        }
        "dns" => {
            missing("dns", dns.is_some());
            read_dns(&dns?).map(DiscoverySettings::Dns)
        }
        "file" => {
            missing("file", file.is_some());
            file.map(DiscoverySettings::File)
        }
        other => {
            table.problems().error_with_hint(
                table.span_of("discovery"),
                format!("`discovery` can't be \"{other}\""),
                "write \"static\", \"registry\", \"dns\" or \"file\"",
            );
            None
        }
    }
}

fn read_dns(table: &Table<'_>) -> Option<DnsSettings> {
    let name = table.get::<HostPort>("name");
    let services = table.get::<String>("srv");
    let name = match (name, services) {
        (Some(name), None) => Some(DnsName::Addresses(name)),
        (None, Some(services)) => Some(DnsName::Services(services)),
        (Some(_), Some(_)) => {
            table.problems().error_with_hint(
                table.span_of("srv"),
                "`name` and `srv` exclude each other",
                "remove one of them",
            );
            None
        }
        (None, None) => {
            if !table.has("name") && !table.has("srv") {
                table.missing("name");
            }
            None
        }
    };
    let servers = table.list::<HostPort>("servers").unwrap_or_default();
    let literal = |item: &Item<HostPort>| {
        let address = item.value.socket_addr();
        if address.is_none() {
            table.problems().error_with_hint(
                item.span.clone(),
                "`servers`: a name server is named by its address",
                "write \"10.0.0.2:53\"",
            );
        }
        address
    };
    let hour = Duration::from_secs(3_600);
    let short = Duration::from_millis(100);
    let refresh_min = table.duration("refresh_min", Duration::from_secs(1), short..=hour);
    let refresh_max = table.duration("refresh_max", Duration::from_secs(30), short..=hour * 24);
    if refresh_min > refresh_max {
        table.problems().error_with_hint(
            table
                .span_of("refresh_max")
                .or_else(|| table.span_of("refresh_min")),
            "`refresh_max` is shorter than `refresh_min`",
            "make it longer",
        );
    }
    Some(DnsSettings {
        servers: servers.iter().filter_map(literal).collect(),
        name: name?,
        refresh_min,
        refresh_max,
    })
}
