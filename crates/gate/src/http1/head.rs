//! Heads: found in the bytes read, parsed once into typed parts over one copy of their bytes.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use super::fields::{FIELDS_MAX, Fields, Name, starts_with};
use super::lines::Lines;
use super::{BadMessage, Framing, Span, Version, number};

/// Limits of one head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of the start line and all fields.
    pub bytes: usize,
    /// Number of fields, at most [`FIELDS_MAX`].
    pub fields: usize,
}

impl HeadLimits {
    fn fields(self) -> usize {
        self.fields.min(FIELDS_MAX)
    }
}

/// Where the head ends in `bytes`, looked for from `scanned` on (what an earlier look covered).
///
/// # Errors
/// [`BadMessage::HeadTooLarge`] when it does not end within `limits`.
pub fn find_end(
    bytes: &[u8],
    scanned: usize,
    limits: HeadLimits,
) -> Result<Option<usize>, BadMessage> {
    static EMPTY_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n\r\n"));
    let from = scanned.saturating_sub(3);
    let rest = bytes.get(from..).unwrap_or_default();
    // An empty line ends the head, also one that ends with a bare LF: the check of line ends then
    // refuses it, instead of waiting for more.
    let end = match EMPTY_LINE.find(rest) {
        Some(at) => Some(from + at + 3),
        None => memmem::find(rest, b"\n\n").map(|at| from + at + 2),
    };
    match end {
        Some(end) if end <= limits.bytes => Ok(Some(end)),
        None if bytes.len() < limits.bytes => Ok(None),
        _ => Err(BadMessage::HeadTooLarge),
    }
}

/// Bytes of empty lines before a request line, which a server skips (RFC 9112 §2.2).
#[must_use]
pub fn empty_lines(bytes: &[u8]) -> usize {
    match bytes {
        [b'\r', b'\n', b'\r', b'\n', ..] => 4,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    }
}

/// Why a head is refused: a line that ends in another way than with CR LF explains what comes of it.
#[cold]
fn why(bytes: &[u8], error: BadMessage) -> BadMessage {
    let followers = bytes.get(1..).unwrap_or_default();
    let paired = bytes
        .iter()
        .zip(followers)
        .all(|(left, right)| (*left == b'\r') == (*right == b'\n'));
    if paired && bytes.first() != Some(&b'\n') && bytes.last() != Some(&b'\r') {
        error
    } else {
        BadMessage::LineEnd
    }
}

/// How a request names what it wants (RFC 9112 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Origin,
    Asterisk,
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    pub(crate) fields: Fields,
    method: Span,
    target: Span,
    host: Option<Span>,
    form: Form,
    /// Its version.
    pub version: Version,
    /// How the end of its body is known.
    pub framing: Framing,
}

impl RequestHead {
    /// Parses a complete head (`bytes` ends with the empty line).
    ///
    /// # Errors
    /// Why it is refused.
    pub fn parse(bytes: &[u8], limits: HeadLimits) -> Result<Self, BadMessage> {
        let mut lines = Lines::of(bytes);
        let parsed = lines
            .request_line()
            .and_then(|line| Ok((line, Fields::parse(bytes, lines, limits.fields())?)));
        let ((method, target, version), fields) = parsed.map_err(|error| why(bytes, error))?;
        let name = method.get(bytes);
        let host = single_host(&fields, version)?;
        let (form, target, authority) = split_target(name, target.get(bytes))?;
        let host = reconcile_hosts(bytes, &fields, host, authority)?;
        let framing = fields.framing(version)?.unwrap_or(Framing::None);
        if name == b"TRACE" && framing != Framing::None {
            return Err(BadMessage::TraceWithBody);
        }
        Ok(Self {
            method,
            target: Span::of(bytes, target),
            host,
            form,
            version,
            framing,
            fields,
        })
    }

    /// The method as written: methods are case-sensitive (RFC 9110 §9.1).
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.fields.part(self.method)
    }

    /// Path and query in origin form, or `*`.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        let target = self.fields.part(self.target);
        if target.is_empty() { b"/" } else { target }
    }

    /// The target when it is not empty in the absolute form, and whether a `/` is to be put
    /// before it (`http://host?query`).
    #[must_use]
    pub fn needs_slash(&self) -> bool {
        self.form == Form::Origin && !self.target().starts_with(b"/")
    }

    /// Host and port as the client wrote them, without userinfo; `None` in HTTP/1.0 without one.
    #[must_use]
    pub fn host(&self) -> Option<&[u8]> {
        self.host.map(|span| self.fields.part(span))
    }

    /// True when the client will send another request on the connection.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        match self.version {
            Version::Http11 => !self.fields.says_close(),
            Version::Http10 => self.fields.says_keep_alive() && !self.fields.says_close(),
        }
    }

    /// The protocol that the client asks to change to, other than `h2c` (which is never
    /// forwarded): `Upgrade` counts only when `Connection` names it (RFC 9110 §7.8).
    #[must_use]
    pub fn upgrade(&self) -> Option<&[u8]> {
        if self.version != Version::Http11 || !self.fields.says_upgrade() {
            return None;
        }
        let mut values = self.fields.all(Name::Upgrade);
        let value = values.next()?;
        let single = values.next().is_none() && !value.contains(&b',');
        (single && !value.is_empty() && !value.eq_ignore_ascii_case(b"h2c")).then_some(value)
    }

    /// True when the client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1).
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.version == Version::Http11
            && self
                .fields
                .all(Name::Expect)
                .any(|value| value.eq_ignore_ascii_case(b"100-continue"))
    }

    /// True for methods that may be repeated (RFC 9110 §9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(
            self.method(),
            b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
        )
    }
}

fn single_host(fields: &Fields, version: Version) -> Result<Option<&[u8]>, BadMessage> {
    let mut hosts = fields.all(Name::Host);
    match (hosts.next(), hosts.next(), version) {
        (_, Some(_), _) => Err(BadMessage::HostRepeated),
        (None, _, Version::Http11) => Err(BadMessage::HostMissing),
        (None, _, Version::Http10) => Ok(None),
        (Some(host), ..) if host.is_empty() || is_authority(host) => Ok(Some(host)),
        (Some(_), ..) => Err(BadMessage::HostInvalid),
    }
}

type Target<'a> = (Form, &'a [u8], Option<&'a [u8]>);

/// (form, path with query, authority of an absolute target).
fn split_target<'a>(method: &[u8], target: &'a [u8]) -> Result<Target<'a>, BadMessage> {
    // A fragment is never sent (RFC 9110 §4.2.5): who reads it may see another path than we.
    if memchr::memchr(b'#', target).is_some() {
        return Err(BadMessage::Target);
    }
    match target {
        // An authority form (RFC 9112 §3.2.3) is no target of a gate.
        _ if method == b"CONNECT" => Ok((Form::Asterisk, target, None)),
        [b'/', ..] => Ok((Form::Origin, target, None)),
        b"*" if method == b"OPTIONS" => Ok((Form::Asterisk, target, None)),
        _ => {
            let rest = after_scheme(target).ok_or(BadMessage::Target)?;
            let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
            let (authority, path) = rest.split_at_checked(end).ok_or(BadMessage::Target)?;
            if !is_authority(authority) {
                return Err(BadMessage::Target);
            }
            Ok((Form::Origin, path, Some(authority)))
        }
    }
}

fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find_map(|scheme| {
            starts_with(target, scheme)
                .then(|| target.get(scheme.len()..))
                .flatten()
        })
}

/// `Host` and the authority of an absolute target must be one and the same: whoever reads only
/// one of them (RFC 9112 §3.2.2) must not see another host than we.
fn reconcile_hosts(
    bytes: &[u8],
    fields: &Fields,
    host: Option<&[u8]>,
    authority: Option<&[u8]>,
) -> Result<Option<Span>, BadMessage> {
    match (host, authority) {
        (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
            Err(BadMessage::HostDiffers)
        }
        (_, Some(authority)) => Ok(Some(Span::of(bytes, authority))),
        (Some(host), None) => Ok(Some(Span::of(fields.bytes(), host))),
        (None, None) => Ok(None),
    }
}

/// `host[:port]` without userinfo, IPv6 in brackets without zone (RFC 3986 §3.2.2).
pub(crate) fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority {
        [b'[', rest @ ..] => {
            let Some(end) = memchr::memchr(b']', rest) else {
                return false;
            };
            let (address, after) = rest.split_at(end);
            let literal = std::str::from_utf8(address)
                .is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
            if !literal {
                return false;
            }
            (&b"v6"[..], after.get(1..).unwrap_or_default())
        }
        _ => {
            let end = memchr::memchr(b':', authority).unwrap_or(authority.len());
            authority.split_at(end)
        }
    };
    let port_is_good = match port {
        [] => true,
        [b':', digits @ ..] => {
            digits.is_empty() || number(digits).is_some_and(|port| u16::try_from(port).is_ok())
        }
        _ => false,
    };
    port_is_good
        && !host.is_empty()
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    pub(crate) fields: Fields,
    reason: Span,
    /// 100 to 599.
    pub status: u16,
    /// Its version.
    pub version: Version,
    /// How the end of its body is known, as answer to the method it was parsed for.
    pub framing: Framing,
}

impl ResponseHead {
    /// Parses a complete head that answers a request with `method`.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn parse(bytes: &[u8], method: &[u8], limits: HeadLimits) -> Result<Self, BadMessage> {
        let mut lines = Lines::of(bytes);
        let parsed = lines
            .status_line()
            .and_then(|line| Ok((line, Fields::parse(bytes, lines, limits.fields())?)));
        let ((version, status, reason), fields) = parsed.map_err(|error| why(bytes, error))?;
        if !(100..600).contains(&status) {
            return Err(BadMessage::Status);
        }
        let framing = response_framing(&fields, version, status, method)?;
        Ok(Self {
            reason,
            status,
            version,
            framing,
            fields,
        })
    }

    /// The reason phrase as written.
    #[must_use]
    pub fn reason(&self) -> &[u8] {
        self.fields.part(self.reason)
    }

    /// True when the backend will take another request on the connection.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        self.framing != Framing::UntilClose
            && match self.version {
                Version::Http11 => !self.fields.says_close(),
                Version::Http10 => self.fields.says_keep_alive(),
            }
    }

    /// The protocol that a 101 changes to.
    #[must_use]
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.fields
            .says_upgrade()
            .then(|| self.fields.first(Name::Upgrade))
            .flatten()
    }
}

/// RFC 9112 §6.3.
fn response_framing(
    fields: &Fields,
    version: Version,
    status: u16,
    method: &[u8],
) -> Result<Framing, BadMessage> {
    let framing = fields.framing(version)?;
    if status < 200 || status == 204 {
        // RFC 9112 §6.1: no Transfer-Encoding here; a length of no body can only mislead.
        return match framing {
            Some(Framing::Chunked) => Err(BadMessage::TransferEncoding),
            _ => Ok(Framing::None),
        };
    }
    if method == b"HEAD" || status == 304 {
        return Ok(Framing::None);
    }
    Ok(framing.unwrap_or(Framing::UntilClose))
}
