//! Heads as they go out: written anew from their parts, hop-by-hop fields left out
//! (RFC 9110 §7.6.1).

use std::io::Write;
use std::net::IpAddr;

use super::fields::{Fields, Name};
use super::head::{RequestHead, ResponseHead};
use super::{Framing, elements};

/// What a route changes in the fields that pass: names that do not, and lines that come beside
/// them. Names and lines are checked where they are made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edits<'a> {
    /// Names of fields that do not pass, in any case.
    pub dropped: &'a [String],
    /// More of them, in any case.
    pub replaced: &'a [&'static str],
    /// Lines to add, each with its line end.
    pub added: [&'a [u8]; 2],
}

impl Edits<'_> {
    #[inline(always)]
    fn drops(&self, name: &[u8]) -> bool {
        !(self.dropped.is_empty() && self.replaced.is_empty()) && self.names(name)
    }

    fn names(&self, name: &[u8]) -> bool {
        let same = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        self.dropped.iter().any(|other| same(other))
            || self.replaced.iter().any(|other| same(other))
    }

    fn put(&self, out: &mut Vec<u8>) {
        for lines in self.added {
            out.extend_from_slice(lines);
        }
    }
}

/// What the gate says about the client to a backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forwarding<'a> {
    /// The peer of the connection, as it stands in `X-Forwarded-For`.
    pub peer: &'a [u8],
    /// `http` or `https`.
    pub scheme: &'a str,
    /// What the peer says of those before it is believed and kept.
    pub trusted: bool,
    /// In place of the client's target: path and query.
    pub target: Option<&'a [u8]>,
    /// What the route changes.
    pub edits: Edits<'a>,
}

pub(super) fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut left = number;
    let mut at = digits.len();
    loop {
        at -= 1;
        if let (Some(slot), Ok(digit)) = (digits.get_mut(at), u8::try_from(left % 10)) {
            *slot = b'0' + digit;
        }
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

fn put_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            put_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
}

/// Writes the head of a request to a backend.
pub fn request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    forwarding: Forwarding<'_>,
    fallback_host: &str,
) {
    out.extend_from_slice(head.method());
    out.push(b' ');
    match forwarding.target {
        Some(target) => out.extend_from_slice(target),
        None => {
            if head.needs_slash() {
                out.push(b'/');
            }
            out.extend_from_slice(head.target());
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = head.host().unwrap_or(fallback_host.as_bytes());
    put(out, b"Host", host);
    let fields = &head.fields;
    fields.write(out, |name, key| {
        let passes = match name {
            Name::Host
            | Name::ContentLength
            | Name::TransferEncoding
            | Name::Connection
            | Name::HopByHop
            | Name::Upgrade
            | Name::XForwardedFor
            | Name::Forwarded => false,
            Name::XForwardedProto | Name::XForwardedHost | Name::XForwardedOther => {
                forwarding.trusted
            }
            _ => true,
        };
        passes && !forwarding.edits.drops(key)
    });
    forwarding.edits.put(out);
    put_framing(out, head.framing);
    put_forwarding(out, fields, forwarding, host);
    if let Some(protocol) = head.upgrade() {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
        put(out, b"Upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
}

fn put_forwarding(out: &mut Vec<u8>, fields: &Fields, forwarding: Forwarding<'_>, host: &[u8]) {
    let chain = |out: &mut Vec<u8>, name| {
        if forwarding.trusted {
            for value in fields.all(name).filter(|value| !value.is_empty()) {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
            }
        }
    };
    out.extend_from_slice(b"X-Forwarded-For: ");
    chain(out, Name::XForwardedFor);
    out.extend_from_slice(forwarding.peer);
    out.extend_from_slice(b"\r\n");
    let kept = |name| forwarding.trusted && fields.goes_on(name);
    if !kept(Name::XForwardedProto) {
        put(out, b"X-Forwarded-Proto", forwarding.scheme.as_bytes());
    }
    if !kept(Name::XForwardedHost) {
        put(out, b"X-Forwarded-Host", host);
    }
    out.extend_from_slice(b"Forwarded: ");
    chain(out, Name::Forwarded);
    out.extend_from_slice(b"for=");
    // RFC 7239 §6: IPv6 in brackets and quotes.
    let (open, close) = if forwarding.peer.contains(&b':') {
        (&b"\"["[..], &b"]\""[..])
    } else {
        (&b""[..], &b""[..])
    };
    out.extend_from_slice(open);
    out.extend_from_slice(forwarding.peer);
    out.extend_from_slice(close);
    out.extend_from_slice(b";host=\"");
    out.extend_from_slice(host);
    out.extend_from_slice(b"\";proto=");
    out.extend_from_slice(forwarding.scheme.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// An address as text that takes no memory of its own.
pub(crate) struct AddressText {
    bytes: [u8; 48],
    length: usize,
}

impl AddressText {
    pub(crate) fn of(address: IpAddr) -> Self {
        let mut text = Self {
            bytes: [0; 48],
            length: 0,
        };
        match address {
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        text.put(b'.');
                    }
                    for power in [100, 10, 1] {
                        if octet >= power || power == 1 {
                            text.put(b'0' + octet / power % 10);
                        }
                    }
                }
            }
            IpAddr::V6(address) => {
                let mut rest = text.bytes.as_mut_slice();
                // The longest one has 45 characters (RFC 4291 §2.2).
                let written = write!(rest, "{address}");
                let left = rest.len();
                debug_assert!(written.is_ok(), "no address is longer");
                text.length = text.bytes.len() - left;
            }
        }
        text
    }

    fn put(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// How a response goes to its client.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// How the end of the body will be known to the client.
    pub framing: Framing,
    /// The connection ends after this response.
    pub close: bool,
    /// The client spoke HTTP/1.0 and asked to keep the connection.
    pub say_keep_alive: bool,
    /// For a response without `Date` (RFC 9110 §6.6.1).
    pub date: &'a [u8],
    /// The response is a 101 whose `Upgrade` is to be passed on.
    pub upgrade: bool,
    /// What the route changes.
    pub edits: Edits<'a>,
}

/// Writes the head of a response to a client; also an interim one.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, delivery: Delivery<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    put_number(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
    let fields = &head.fields;
    let bodyless = delivery.framing == Framing::None && head.status >= 200 && head.status != 204;
    let mut dated = head.status < 200;
    let offers = offers_websocket(head);
    fields.write(out, |name, key| {
        let passes = match name {
            Name::TransferEncoding
            | Name::Connection
            | Name::HopByHop
            | Name::Upgrade
            // Meant for the gate: it counts them.
            | Name::SignIn => false,
            // The length of a body that is not sent (HEAD, 304) tells the client something.
            Name::ContentLength => bodyless,
            Name::Date => {
                dated = true;
                true
            }
            _ => true,
        };
        passes && !delivery.edits.drops(key)
    });
    delivery.edits.put(out);
    if !dated {
        put(out, b"Date", delivery.date);
    }
    put_framing(out, delivery.framing);
    if delivery.upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
        if let Some(protocol) = head.upgrade() {
            put(out, b"Upgrade", protocol);
        }
    } else if offers {
        put(out, b"Upgrade", b"websocket");
        let more = match (delivery.close, delivery.say_keep_alive) {
            (true, _) => &b"Upgrade, close"[..],
            (false, true) => b"Upgrade, keep-alive",
            (false, false) => b"Upgrade",
        };
        put(out, b"Connection", more);
    } else if delivery.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if delivery.say_keep_alive {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// A 426 has to say what to change to (RFC 9110 §15.5.22); of what it may name only WebSockets can
/// pass the gate.
fn offers_websocket(head: &ResponseHead) -> bool {
    head.status == 426
        && head
            .fields
            .all(Name::Upgrade)
            .flat_map(elements)
            .any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// The size line of a chunk of `size` bytes.
pub(crate) fn chunk_line(line: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    line.clear();
    let significant = usize::BITS - size.leading_zeros();
    for digit in (0..significant.div_ceil(4).max(1)).rev() {
        if let Some(hex) = DIGITS.get((size >> (digit * 4)) & 15) {
            line.push(*hex);
        }
    }
    line.extend_from_slice(b"\r\n");
}
