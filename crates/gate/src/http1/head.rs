//! Heads: found in the bytes read, parsed once into typed parts over one copy of their bytes.

use std::mem::MaybeUninit;
use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use super::{BadMessage, Framing, Span, Version, elements, is_token, trim};

/// The most header fields that `limits.headers` can allow.
pub const FIELDS_MAX: usize = 256;

/// Limits of one head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of the start line and all fields.
    pub bytes: usize,
    /// Number of fields, at most [`FIELDS_MAX`].
    pub fields: usize,
}

/// Fields that the gate itself acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    /// `Keep-Alive`, `Proxy-Connection`, `Proxy-Authorization`, `TE`, `HTTP2-Settings`, and
    /// `Proxy` (which a CGI backend would take for an environment variable): never forwarded.
    HopByHop,
    Upgrade,
    Expect,
    Date,
    Authorization,
    Cookie,
    UserAgent,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XForwardedOther,
    Forwarded,
    SecWebSocketKey,
    SecWebSocketAccept,
    /// `Munjigi-Sign-In`: the hub's word that a sign-in failed. For the gate, never forwarded.
    SignIn,
}

impl Name {
    fn bit(self) -> u32 {
        1 << self as u32
    }
}

fn classify(name: &[u8]) -> Name {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        2 if is("te") => Name::HopByHop,
        4 if is("host") => Name::Host,
        4 if is("date") => Name::Date,
        5 if is("proxy") => Name::HopByHop,
        6 if is("expect") => Name::Expect,
        6 if is("cookie") => Name::Cookie,
        7 if is("upgrade") => Name::Upgrade,
        9 if is("forwarded") => Name::Forwarded,
        10 if is("connection") => Name::Connection,
        10 if is("keep-alive") => Name::HopByHop,
        10 if is("user-agent") => Name::UserAgent,
        13 if is("authorization") => Name::Authorization,
        14 if is("content-length") => Name::ContentLength,
        14 if is("http2-settings") => Name::HopByHop,
        15 if is("x-forwarded-for") => Name::XForwardedFor,
        15 if is("munjigi-sign-in") => Name::SignIn,
        16 if is("proxy-connection") => Name::HopByHop,
        16 if is("x-forwarded-host") => Name::XForwardedHost,
        17 if is("transfer-encoding") => Name::TransferEncoding,
        17 if is("x-forwarded-proto") => Name::XForwardedProto,
        17 if is("sec-websocket-key") => Name::SecWebSocketKey,
        19 if is("proxy-authorization") => Name::HopByHop,
        20 if is("sec-websocket-accept") => Name::SecWebSocketAccept,
        length if length > 12 && starts_with(name, b"x-forwarded-") => Name::XForwardedOther,
        _ => Name::Other,
    }
}

fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: Name,
    key: Span,
    value: Span,
}

/// Header fields over one copy of the head's bytes.
#[derive(Debug)]
pub(crate) struct Fields {
    bytes: Box<[u8]>,
    fields: Vec<Field>,
    /// Which names there are, or were: most are asked for in vain.
    present: u32,
}

impl Fields {
    fn new(bytes: &[u8], parsed: &[httparse::Header<'_>]) -> Self {
        let mut fields = Vec::with_capacity(parsed.len());
        let mut present = 0;
        for header in parsed {
            let name = classify(header.name.as_bytes());
            present |= name.bit();
            fields.push(Field {
                name,
                key: Span::of(bytes, header.name.as_bytes()),
                value: Span::of(bytes, trim(header.value)),
            });
        }
        Self {
            bytes: bytes.into(),
            fields,
            present,
        }
    }

    fn part(&self, span: Span) -> &[u8] {
        span.get(&self.bytes)
    }

    /// The bytes of the whole head, as they came.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Every field as (what it is to us, name as written, value).
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Name, &[u8], &[u8])> {
        self.fields
            .iter()
            .map(|field| (field.name, self.part(field.key), self.part(field.value)))
    }

    /// Every field as (what it is to us, name, value, line): the line as it came where it is
    /// written as we would write it, else nothing.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (Name, &[u8], &[u8], &[u8])> {
        self.fields.iter().map(|field| {
            let line = Span {
                start: field.key.start,
                end: field.value.end + 2,
            };
            let line = self.part(line);
            let key = self.part(field.key);
            let tidy = field.value.start == field.key.end + 2
                && line.get(key.len()..key.len() + 2) == Some(b": ")
                && line.ends_with(b"\r\n");
            let line = if tidy { line } else { &[] };
            (field.name, key, self.part(field.value), line)
        })
    }

    /// The values of one known field.
    pub(crate) fn all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let fields = if self.present & name.bit() == 0 {
            &[]
        } else {
            self.fields.as_slice()
        };
        fields
            .iter()
            .filter(move |field| field.name == name)
            .map(|field| self.part(field.value))
    }

    pub(crate) fn first(&self, name: Name) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The values of a field by its name, in any case.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(_, key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, _, value)| value)
    }

    /// Takes out all fields of this name.
    pub(crate) fn remove(&mut self, key: &str) {
        let bytes = &self.bytes;
        self.fields
            .retain(|field| !field.key.get(bytes).eq_ignore_ascii_case(key.as_bytes()));
    }

    /// Puts one field in the place of all of its name.
    pub(crate) fn replace(&mut self, key: &str, value: &[u8]) {
        self.remove(key);
        let bytes = [&*self.bytes, key.as_bytes(), value].concat();
        let (_, added) = bytes.split_at(self.bytes.len());
        let (key, value) = added.split_at(key.len());
        let name = classify(key);
        self.present |= name.bit();
        self.fields.push(Field {
            name,
            key: Span::of(&bytes, key),
            value: Span::of(&bytes, value),
        });
        self.bytes = bytes.into_boxed_slice();
    }

    /// True when `Connection` lists `option`.
    pub(crate) fn connection_has(&self, option: &str) -> bool {
        self.all(Name::Connection)
            .flat_map(elements)
            .any(|element| element.eq_ignore_ascii_case(option.as_bytes()))
    }

    /// The one value of `Content-Length`: 1*DIGIT, once (RFC 9110 §8.6).
    fn content_length(&self) -> Result<Option<u64>, BadMessage> {
        let mut values = self.all(Name::ContentLength);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(BadMessage::ContentLength);
        }
        std::str::from_utf8(value)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .filter(|length| i64::try_from(*length).is_ok())
            .map(Some)
            .ok_or(BadMessage::ContentLength)
    }

    /// The length that the head of a message without its body announces.
    pub(crate) fn announced_length(&self) -> Option<u64> {
        self.content_length().ok().flatten()
    }

    /// True when the body is chunked; what else is in `Transfer-Encoding` is an error.
    fn chunked(&self) -> Result<bool, BadMessage> {
        let mut present = false;
        let mut count = 0;
        for value in self.all(Name::TransferEncoding) {
            present = true;
            for coding in value.split(|byte| *byte == b',').map(trim) {
                if coding.eq_ignore_ascii_case(b"chunked") {
                    count += 1;
                } else if is_token(coding) {
                    return Err(BadMessage::UnknownCoding);
                } else {
                    return Err(BadMessage::TransferEncoding);
                }
            }
        }
        match (present, count) {
            (false, _) => Ok(false),
            (true, 1) => Ok(true),
            _ => Err(BadMessage::TransferEncoding),
        }
    }

    fn framing(&self, version: Version) -> Result<Option<Framing>, BadMessage> {
        let length = self.content_length();
        if self.first(Name::TransferEncoding).is_some() {
            if version == Version::Http10 {
                return Err(BadMessage::CodingInOldVersion);
            }
            if !matches!(length, Ok(None)) {
                return Err(BadMessage::BothLengths);
            }
            self.chunked()?;
            return Ok(Some(Framing::Chunked));
        }
        Ok(length?.map(Framing::Length))
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

fn check_line_ends(bytes: &[u8]) -> Result<(), BadMessage> {
    let followers = bytes.get(1..).unwrap_or_default();
    // Each CR stands before an LF, and each LF behind a CR. Without an early end many bytes are
    // compared at a time.
    let paired = bytes
        .iter()
        .zip(followers)
        .fold(true, |paired, (left, right)| {
            paired & ((*left == b'\r') == (*right == b'\n'))
        });
    if paired && bytes.first() != Some(&b'\n') && bytes.last() != Some(&b'\r') {
        Ok(())
    } else {
        Err(BadMessage::LineEnd)
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
        check_line_ends(bytes)?;
        let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let storage = storage
            .get_mut(..limits.fields.min(FIELDS_MAX))
            .unwrap_or_default();
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(bytes, storage) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(BadMessage::RequestLine),
            Err(error) => return Err(request_error(error, bytes)),
        }
        let fields = Fields::new(bytes, parsed.headers);
        let version = match parsed.version {
            Some(0) => Version::Http10,
            Some(1) => Version::Http11,
            _ => return Err(BadMessage::Version),
        };
        let method = parsed.method.unwrap_or_default().as_bytes();
        let target = parsed.path.unwrap_or_default().as_bytes();
        let host = single_host(&fields, version)?;
        let (form, target, authority) = split_target(method, target)?;
        let host = reconcile_hosts(bytes, &fields, host, authority)?;
        let framing = fields.framing(version)?.unwrap_or(Framing::None);
        if method == b"TRACE" && framing != Framing::None {
            return Err(BadMessage::TraceWithBody);
        }
        Ok(Self {
            method: Span::of(bytes, method),
            target: if target.is_empty() {
                Span::default()
            } else {
                Span::of(bytes, target)
            },
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
            Version::Http11 => !self.fields.connection_has("close"),
            Version::Http10 => {
                self.fields.connection_has("keep-alive") && !self.fields.connection_has("close")
            }
        }
    }

    /// The protocol that the client asks to change to, other than `h2c` (which is never
    /// forwarded): `Upgrade` counts only when `Connection` names it (RFC 9110 §7.8).
    #[must_use]
    pub fn upgrade(&self) -> Option<&[u8]> {
        if self.version != Version::Http11 || !self.fields.connection_has("upgrade") {
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

fn request_error(error: httparse::Error, bytes: &[u8]) -> BadMessage {
    match error {
        httparse::Error::TooManyHeaders => BadMessage::TooManyFields,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => BadMessage::Field,
        httparse::Error::Version if names_a_version(bytes) => BadMessage::Version,
        _ => BadMessage::RequestLine,
    }
}

/// True when the first line has three words, the last a well-formed `HTTP/d.d` (RFC 9112 §2.3).
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
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
    if target
        .iter()
        .any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#')
    {
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
        (Some(host), None) => Ok(Some(Span::of(&fields.bytes, host))),
        (None, None) => Ok(None),
    }
}

/// `host[:port]` without userinfo, IPv6 in brackets without zone (RFC 3986 §3.2.2).
fn is_authority(authority: &[u8]) -> bool {
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
            digits.is_empty()
                || std::str::from_utf8(digits).is_ok_and(|text| {
                    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
                })
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
        check_line_ends(bytes)?;
        let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let storage = storage
            .get_mut(..limits.fields.min(FIELDS_MAX))
            .unwrap_or_default();
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut parsed, bytes, storage) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(BadMessage::StatusLine),
            Err(error) => {
                return Err(match error {
                    httparse::Error::TooManyHeaders => BadMessage::TooManyFields,
                    httparse::Error::HeaderName | httparse::Error::HeaderValue => BadMessage::Field,
                    httparse::Error::Version => BadMessage::Version,
                    _ => BadMessage::StatusLine,
                });
            }
        }
        let fields = Fields::new(bytes, parsed.headers);
        let version = if parsed.version == Some(0) {
            Version::Http10
        } else {
            Version::Http11
        };
        let status = parsed
            .code
            .filter(|code| (100..600).contains(code))
            .ok_or(BadMessage::Status)?;
        let framing = response_framing(&fields, version, status, method)?;
        let reason = parsed.reason.unwrap_or_default().as_bytes();
        Ok(Self {
            reason: if reason.is_empty() {
                Span::default()
            } else {
                Span::of(bytes, reason)
            },
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
                Version::Http11 => !self.fields.connection_has("close"),
                Version::Http10 => self.fields.connection_has("keep-alive"),
            }
    }

    /// The protocol that a 101 changes to.
    #[must_use]
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.fields
            .connection_has("upgrade")
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
