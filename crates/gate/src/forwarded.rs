//! What is said of a client by the proxies that it came through: its address, and where it sent its
//! request. Only a trusted peer is believed, and of those before it only what such a peer wrote. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::http1::elements;
use crate::http1::fields::Name;
use crate::http1::head::{RequestHead, is_authority};
use crate::snapshot::Snapshot;

/// The client that a request comes from: the peer, or whom a trusted peer names in
/// `X-Forwarded-For`, or where that is absent in `Forwarded` (RFC 7239). Read from the right, the
/// first address that is not trusted itself (what stands left of it may be invented).
pub(crate) fn client(snapshot: &Snapshot, peer: IpAddr, head: &RequestHead) -> IpAddr {
    if !snapshot.trusts(peer) {
        return peer;
    }
    let mut values: Vec<&[u8]> = head.fields.all(Name::XForwardedFor).collect();
    let mut read: fn(&[u8]) -> Option<IpAddr> = node;
    if values.is_empty() {
        values = head.fields.all(Name::Forwarded).collect();
        read = forwarded_for;
    }
    let mut client = peer;
    for element in from_the_right(&values) {
        // Whoever is not named by an address hides behind the one who does not tell.
        let Some(address) = read(element) else { break };
        client = address.to_canonical();
        if !snapshot.trusts(client) {
            break;
        }
    }
    client
}

/// Where a client sent its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Site<'h> {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// With its port, where one was named.
    pub(crate) host: Option<&'h [u8]>,
}

/// Where the client sent its request, as far as is known: what stands in it, or what a trusted peer
/// says in `X-Forwarded-Proto` and `X-Forwarded-Host`, or where one is absent in `Forwarded`. Of
/// several values the first holds, which is the client's own if all proxies are honest; it is for
/// answers to that client alone, never for a decision.
pub(crate) fn site<'h>(
    snapshot: &Snapshot,
    (peer, scheme): (IpAddr, &'static str),
    head: &'h RequestHead,
) -> Site<'h> {
    let as_it_came = Site {
        scheme,
        host: head.host(),
    };
    if snapshot.trusts(peer.to_canonical()) {
        as_said(head, as_it_came)
    } else {
        as_it_came
    }
}

fn as_said<'h>(head: &'h RequestHead, mut site: Site<'h>) -> Site<'h> {
    let first = |name| {
        head.fields
            .first(name)
            .and_then(|value| elements(value).next())
    };
    let said = |name, parameter| {
        let forwarded = || forwarded_parameter(first(Name::Forwarded)?, parameter);
        first(name).or_else(forwarded)
    };
    if let Some(proto) = said(Name::XForwardedProto, "proto") {
        let mut known = ["http", "https"].into_iter();
        let known = known.find(|scheme| proto.eq_ignore_ascii_case(scheme.as_bytes()));
        site.scheme = known.unwrap_or(site.scheme);
    }
    let host = said(Name::XForwardedHost, "host");
    if let Some(host) = host.filter(|host| is_authority(host)) {
        site.host = Some(host);
    }
    site
}

/// The elements of all lists, the last one first.
fn from_the_right<'h>(values: &[&'h [u8]]) -> impl Iterator<Item = &'h [u8]> {
    let values = values.iter().rev();
    values.flat_map(|value| value.rsplit(|byte| *byte == b','))
}

/// The `for` of one element of `Forwarded`. A comma in a quoted string cuts it: what is left is no
/// address then.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    node(forwarded_parameter(element, "for")?)
}

/// One parameter of an element of `Forwarded`, without its quotes.
fn forwarded_parameter<'h>(element: &'h [u8], wanted: &str) -> Option<&'h [u8]> {
    let mut pairs = element.split(|byte| *byte == b';');
    let value = pairs.find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = pair.split_at_checked(equals)?;
        let is_wanted = name.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes());
        is_wanted.then(|| value.get(1..)).flatten()
    })?;
    let value = value.trim_ascii();
    let bare = value.strip_prefix(b"\"");
    let bare = bare.and_then(|value| value.strip_suffix(b"\""));
    Some(bare.unwrap_or(value))
}

/// An address as proxies write it: bare, in brackets, in quotes, with or without a port.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    let bracketed = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = bracketed.unwrap_or(text).parse::<IpAddr>();
    address
        .or_else(|_| text.parse().map(|address: SocketAddr| address.ip()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::HeadLimits;

    #[test]
    fn where_the_client_sent_its_request_is_what_the_peer_says() {
        let check = |fields: &str, scheme: &str, host: &str| {
            let limits = HeadLimits {
                bytes: 1 << 14,
                fields: 64,
            };
            let text = format!("GET / HTTP/1.1\r\nHost: inside:8080\r\n{fields}\r\n");
            let head = RequestHead::parse(text.as_bytes(), limits).unwrap();
            let as_it_came = Site {
                scheme: "http",
                host: head.host(),
            };
            let site = as_said(&head, as_it_came);
            assert_eq!(site.scheme, scheme, "{fields}");
            assert_eq!(site.host, Some(host.as_bytes()), "{fields}");
        };
        check("", "http", "inside:8080");
        check("X-Forwarded-Proto: HTTPS\r\n", "https", "inside:8080");
        check("X-Forwarded-Proto: https, http\r\n", "https", "inside:8080");
        check("X-Forwarded-Proto: gopher\r\n", "http", "inside:8080");
        check(
            "X-Forwarded-Host: a.example:8443\r\n",
            "http",
            "a.example:8443",
        );
        check("X-Forwarded-Host: a.example, b\r\n", "http", "a.example");
        check("X-Forwarded-Host: a/../b\r\n", "http", "inside:8080");
        check("X-Forwarded-Host:\r\n", "http", "inside:8080");
        check(
            "Forwarded: for=192.0.2.1;Proto=https;host=\"a.example:443\", for=10.0.0.1;proto=http\r\n",
            "https",
            "a.example:443",
        );
        check(
            "Forwarded: proto=http;host=b.example\r\nX-Forwarded-Proto: https\r\n",
            "https",
            "b.example",
        );
        check("Forwarded: for=\"a,host=b\"\r\n", "http", "inside:8080");
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        let check = |text: &str, address: Option<&str>| {
            let expected = address.map(|address| address.parse().unwrap());
            assert_eq!(node(text.as_bytes()), expected, "{text}");
        };
        check(" 192.0.2.1 ", Some("192.0.2.1"));
        check("192.0.2.1:80", Some("192.0.2.1"));
        check("\"[2001:db8::1]:80\"", Some("2001:db8::1"));
        check("[2001:db8::1]", Some("2001:db8::1"));
        check("2001:db8::1", Some("2001:db8::1"));
        check("unknown", None);
        check("_hidden", None);
        check("", None);
        assert_eq!(
            forwarded_for(b"proto=http; For = 192.0.2.1"),
            node(b"192.0.2.1")
        );
    }
}
