//! Who speaks, by what name, from which page: decisions on a request's head, without I/O.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

use axum::http::{HeaderMap, Method, header};

/// Addresses that share a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of one address, when the host of `url` is a literal one.
    #[must_use]
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        let url = reqwest::Url::parse(url).ok()?;
        let host = url.host_str()?;
        host.trim_matches(['[', ']']).parse().ok()
    }

    /// True when `address` lies in it; an IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same_prefix(
                own.to_bits().into(),
                other.to_bits().into(),
                32,
                self.prefix,
            ),
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                same_prefix(own.to_bits(), other.to_bits(), 128, self.prefix)
            }
            _ => false,
        }
    }
}

fn same_prefix(left: u128, right: u128, width: u8, prefix: u8) -> bool {
    let shift = u32::from(width.saturating_sub(prefix));
    // A prefix of 0 shifts all bits of IPv6 out: everything is the same then.
    left.checked_shr(shift).unwrap_or(0) == right.checked_shr(shift).unwrap_or(0)
}

impl FromStr for Network {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let (address, prefix) = match written.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (written, None),
        };
        let address: IpAddr = address
            .parse::<IpAddr>()
            .map_err(|_| format!("\"{written}\" is no address or network"))?
            .to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|prefix| *prefix <= most)
                .ok_or_else(|| format!("\"{prefix}\" is no prefix length (0 to {most})"))?,
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// How a request came here, seen through the gates that are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The client's address.
    pub(crate) client: IpAddr,
    /// The client spoke TLS, to the gate say.
    pub(crate) https: bool,
    /// `Host` as sent, lower case; empty when it is missing or unreadable.
    pub(crate) host: String,
    /// The request carries `X-Forwarded-For` or `Forwarded`: it came through a gate.
    pub(crate) forwarded: bool,
    pub(crate) peer: IpAddr,
}

/// Reads how a request came. What gates add counts only from `trusted` peers and from loopback.
pub(crate) fn arrival(headers: &HeaderMap, peer: SocketAddr, trusted: &[Network]) -> Arrival {
    let peer = peer.ip().to_canonical();
    let believed = peer.is_loopback() || trusted.iter().any(|network| network.contains(peer));
    let text = |name: &str| {
        headers
            .get_all(name)
            .iter()
            .next_back()
            .and_then(|value| value.to_str().ok())
    };
    // The gate replaces what clients send, so that the last entry is the one that it saw.
    let client = text("x-forwarded-for")
        .filter(|_| believed)
        .and_then(|list| list.rsplit(',').next())
        .and_then(|last| last.trim().trim_matches(['[', ']']).parse::<IpAddr>().ok());
    let https = believed
        && text("x-forwarded-proto")
            .is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"));
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host
            .to_str()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
        _ => String::new(),
    };
    Arrival {
        client: client.unwrap_or(peer).to_canonical(),
        https,
        host,
        forwarded: headers.contains_key("x-forwarded-for")
            || headers.contains_key(header::FORWARDED),
        peer,
    }
}

impl Arrival {
    /// The origin of this site, as the client's browser names it.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.host)
    }

    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// True when `Origin` names this site. A missing one does not.
    pub(crate) fn is_same_origin(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else {
            return false;
        };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let Some((scheme, rest)) = origin.split_once("://") else {
            return false;
        };
        let port = if self.https { "443" } else { "80" };
        !self.host.is_empty()
            && scheme == self.scheme()
            && without_port(rest, port) == without_port(&self.host, port)
    }
}

fn without_port<'h>(host: &'h str, default: &str) -> &'h str {
    host.strip_suffix(default)
        .and_then(|host| host.strip_suffix(':'))
        .unwrap_or(host)
}

/// True for methods that change nothing (RFC 9110 §9.2.1).
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}

/// The names under which this hub answers: loopback, this machine's addresses, and the configured ones.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(Vec<String>);

impl Hosts {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(
            names
                .into_iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
        )
    }

    /// Judges a `Host`, with any port.
    pub(crate) fn knows(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else {
            return false;
        };
        if name == "localhost"
            || name.ends_with(".localhost")
            || self.0.iter().any(|own| own == name)
        {
            return true;
        }
        name.parse::<IpAddr>().is_ok_and(|address| {
            self.0.iter().any(|own| own.parse() == Ok(address)) || is_own(address)
        })
    }
}

/// The host without port and brackets; `None` when the port is none.
fn name_of(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => match host.split_once(':') {
            Some((name, _)) => (name, host.get(name.len()..).unwrap_or_default()),
            None => (host, ""),
        },
    };
    let port_ok = match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    (port_ok && !name.is_empty()).then_some(name)
}

/// True for a literal address of this machine: one that a socket can be bound to.
fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if address.is_loopback() {
        return true;
    }
    let never =
        address.is_unspecified() || address.is_multicast() || address == Ipv4Addr::BROADCAST;
    !never && UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                name.parse::<header::HeaderName>().unwrap(),
                value.parse().unwrap(),
            );
        }
        headers
    }

    #[test]
    fn networks() {
        let check = |network: &str, address: &str, expected: bool| {
            let network: Network = network.parse().unwrap();
            assert_eq!(
                network.contains(address.parse().unwrap()),
                expected,
                "{network} {address}"
            );
        };
        check("10.0.0.0/8", "10.200.3.4", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "2001:db8::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("10.0.0.2", "::ffff:10.0.0.2", true);
        check("10.0.0.2", "10.0.0.3", false);
        for bad in ["10.0.0.0/33", "::/129", "x", "10.0.0.0/", "10.0.0/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_is_known_by_name_or_address_with_any_port() {
        let hosts = Hosts::new(["Example.com".to_owned(), "203.0.113.9".to_owned()]);
        for good in [
            "localhost",
            "localhost:8080",
            "app.localhost:1",
            "127.0.0.1:9",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
            "example.com",
            "example.com.:443",
            "203.0.113.9:1",
        ] {
            assert!(hosts.knows(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "evil.com",
            "example.com.evil.com",
            "xexample.com",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "203.0.113.8",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "localhost:x",
            "localhost:1:2",
            "[::1",
            "[::1]x",
            "8.8.8.8",
        ] {
            assert!(!hosts.knows(bad), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_judged_with_the_forwarded_scheme() {
        let gate: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let foreign: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let check =
            |host: &str, proto: &str, origin: Option<&str>, peer: SocketAddr, expected: bool| {
                let mut all = headers(&[("host", host), ("x-forwarded-proto", proto)]);
                if let Some(origin) = origin {
                    all.insert(header::ORIGIN, origin.parse().unwrap());
                }
                let arrival = arrival(&all, peer, &[]);
                assert_eq!(
                    arrival.is_same_origin(&all),
                    expected,
                    "{host} {proto} {origin:?}"
                );
            };
        check(
            "a.test:8080",
            "http",
            Some("http://a.test:8080"),
            gate,
            true,
        );
        check("a.test", "https", Some("https://a.test"), gate, true);
        check("a.test:443", "https", Some("https://a.test"), gate, true);
        check("A.test", "https", Some("https://a.TEST:443"), gate, true);
        check("a.test", "https", Some("http://a.test"), gate, false);
        check("a.test", "https", Some("https://a.test"), foreign, false);
        check("a.test", "http", Some("http://a.test"), foreign, true);
        check(
            "a.test:8080",
            "http",
            Some("http://a.test:8081"),
            gate,
            false,
        );
        check("a.test:8080", "http", Some("http://a.test"), gate, false);
        check("a.test", "http", Some("null"), gate, false);
        check(
            "a.test",
            "http",
            Some("http://a.test.evil.test"),
            gate,
            false,
        );
        check("a.test", "http", None, gate, false);
        check("", "http", Some("http://"), gate, false);
    }

    #[test]
    fn forwarded_addresses_count_from_gates_only() {
        let all = headers(&[
            ("host", "h"),
            ("x-forwarded-for", "198.51.100.7, 203.0.113.5"),
        ]);
        let from = |peer: &str, trusted: &[&str]| {
            let trusted: Vec<Network> = trusted.iter().map(|one| one.parse().unwrap()).collect();
            let arrival = arrival(&all, peer.parse().unwrap(), &trusted);
            assert!(arrival.forwarded);
            arrival.client.to_string()
        };
        assert_eq!(from("127.0.0.1:9", &[]), "203.0.113.5");
        assert_eq!(from("[::ffff:127.0.0.1]:9", &[]), "203.0.113.5");
        assert_eq!(from("10.0.0.2:9", &[]), "10.0.0.2");
        assert_eq!(from("10.0.0.2:9", &["10.0.0.0/8"]), "203.0.113.5");
    }
}
