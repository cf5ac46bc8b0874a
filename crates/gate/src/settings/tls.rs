//! `tls` and `proxy_protocol` of listeners and services, as meant and as read.

use munjigi_foundation::settings::Table;
use munjigi_foundation::tls;

use super::{DiscoverySettings, ListenerSettings, Protocol, ServiceSettings};
use crate::proxy_protocol::Version;

/// The PROXY header in front of each connection of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyMode {
    /// None is read: one that comes is no HTTP.
    #[default]
    Off,
    /// Version 1 is required.
    V1,
    /// Version 2 is required.
    V2,
    /// One of both is required.
    Any,
}

impl ListenerSettings {
    /// What TLS offers by ALPN (RFC 7301): the client takes the first that it knows.
    pub(crate) fn alpn(&self) -> &'static [&'static [u8]] {
        let speaks = |protocol| self.protocols.contains(&protocol);
        match (speaks(Protocol::Http1), speaks(Protocol::Http2)) {
            (true, true) => &[b"h2", b"http/1.1"],
            (false, true) => &[b"h2"],
            _ => &[b"http/1.1"],
        }
    }
}

impl ServiceSettings {
    /// What TLS to the backends offers by ALPN.
    pub(crate) fn alpn(&self) -> &'static [&'static [u8]] {
        match self.protocol {
            Protocol::Http1 => &[b"http/1.1"],
            Protocol::Http2 => &[b"h2"],
        }
    }
}

pub(super) fn read_proxy_mode(table: &Table<'_>) -> ProxyMode {
    table.choice(
        "proxy_protocol",
        ProxyMode::Off,
        &[
            ("off", ProxyMode::Off),
            ("v1", ProxyMode::V1),
            ("v2", ProxyMode::V2),
            ("any", ProxyMode::Any),
        ],
    )
}

pub(super) fn read_proxy_out(table: &Table<'_>) -> Option<Version> {
    table.choice(
        "proxy_protocol",
        None,
        &[
            ("off", None),
            ("v1", Some(Version::V1)),
            ("v2", Some(Version::V2)),
        ],
    )
}

/// `tls` of a listener. `None` when there is none, or when it has a problem.
pub(super) fn read_listener_tls(table: &Table<'_>) -> Option<tls::ServerSettings> {
    tls::read_server(&table.table("tls", &tls::SERVER)?)
}

/// `tls` of a service. Backends that are named, all by one name, are known by it.
pub(super) fn read_service_tls(
    table: &Table<'_>,
    discovery: &DiscoverySettings,
) -> Option<tls::TrustSettings> {
    let tls = table.table("tls", &tls::TRUST)?;
    let mut trust = tls::read_trust(&tls)?;
    if trust.name.is_none()
        && let DiscoverySettings::Static(backends) = discovery
    {
        let mut hosts: Vec<&str> = backends.iter().map(|b| b.address.host.as_str()).collect();
        hosts.dedup();
        let named = |host: &&str| host.parse::<std::net::IpAddr>().is_err();
        if let [host] = hosts.as_slice() {
            trust.name = tls::server_name(host);
        } else if hosts.iter().any(named) {
            tls.missing("name");
        }
    }
    Some(trust)
}
