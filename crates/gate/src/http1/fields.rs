//! Header fields: parsed once over one copy of the head's bytes.

use super::lines::Lines;
use super::{BadMessage, Framing, Span, Version, elements, is_token, number, same, trim, write};

/// The most header fields that `limits.headers` can allow.
pub const FIELDS_MAX: usize = 256;

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

    /// By length and first letter, so that most names are compared with none.
    pub(super) fn of(name: &[u8]) -> Self {
        let is = |known: &str| same(name, known);
        let first = name.first().map_or(0, u8::to_ascii_lowercase);
        match (name.len(), first) {
            (2, b't') if is("te") => Self::HopByHop,
            (4, b'h') if is("host") => Self::Host,
            (4, b'd') if is("date") => Self::Date,
            (5, b'p') if is("proxy") => Self::HopByHop,
            (6, b'e') if is("expect") => Self::Expect,
            (6, b'c') if is("cookie") => Self::Cookie,
            (7, b'u') if is("upgrade") => Self::Upgrade,
            (9, b'f') if is("forwarded") => Self::Forwarded,
            (10, b'c') if is("connection") => Self::Connection,
            (10, b'k') if is("keep-alive") => Self::HopByHop,
            (10, b'u') if is("user-agent") => Self::UserAgent,
            (13, b'a') if is("authorization") => Self::Authorization,
            (14, b'c') if is("content-length") => Self::ContentLength,
            (14, b'h') if is("http2-settings") => Self::HopByHop,
            (15, b'x') if is("x-forwarded-for") => Self::XForwardedFor,
            (15, b'm') if is("munjigi-sign-in") => Self::SignIn,
            (16, b'p') if is("proxy-connection") => Self::HopByHop,
            (16, b'x') if is("x-forwarded-host") => Self::XForwardedHost,
            (17, b't') if is("transfer-encoding") => Self::TransferEncoding,
            (17, b'x') if is("x-forwarded-proto") => Self::XForwardedProto,
            (17, b's') if is("sec-websocket-key") => Self::SecWebSocketKey,
            (19, b'p') if is("proxy-authorization") => Self::HopByHop,
            (20, b's') if is("sec-websocket-accept") => Self::SecWebSocketAccept,
            (13.., b'x') if starts_with(name, b"x-forwarded-") => Self::XForwardedOther,
            _ => Self::Other,
        }
    }
}

pub(super) fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: Name,
    /// The line is written as we would write it.
    pub(super) tidy: bool,
    /// It came from us, not from the peer.
    pub(super) ours: bool,
    pub(super) key: Span,
    pub(super) value: Span,
}

/// What `Connection` says, all its fields together.
#[derive(Debug, Clone, Copy, Default)]
struct Options {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// Names of fields that are meant for the next hop alone.
    names: bool,
}

impl Options {
    fn add(&mut self, value: &[u8]) {
        for element in elements(value) {
            match element.len() {
                5 if same(element, "close") => self.close = true,
                10 if same(element, "keep-alive") => self.keep_alive = true,
                7 if same(element, "upgrade") => self.upgrade = true,
                _ => self.names = true,
            }
        }
    }
}

/// Header fields over one copy of the head's bytes.
#[derive(Debug)]
pub(crate) struct Fields {
    bytes: Box<[u8]>,
    fields: Vec<Field>,
    /// Which names there are, or were: most are asked for in vain.
    present: u32,
    options: Options,
}

/// Bytes of a short line: room is made for as many fields as so short ones would be.
const SHORT_LINE: usize = 24;

impl Fields {
    /// The fields of the head `bytes`, whose start line was read from `lines`.
    pub(super) fn parse(
        bytes: &[u8],
        mut lines: Lines<'_>,
        most: usize,
    ) -> Result<Self, BadMessage> {
        let mut fields = Vec::with_capacity((bytes.len() / SHORT_LINE + 1).min(most));
        let mut present = 0;
        let mut options = Options::default();
        while let Some(field) = lines.field()? {
            if fields.len() >= most {
                return Err(BadMessage::TooManyFields);
            }
            present |= field.name.bit();
            if field.name == Name::Connection {
                options.add(field.value.get(bytes));
            }
            fields.push(field);
        }
        Ok(Self {
            bytes: bytes.into(),
            fields,
            present,
            options,
        })
    }

    pub(super) fn part(&self, span: Span) -> &[u8] {
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

    /// Writes the fields that pass, the others and those that are for us alone left out: lines that
    /// are tidy and stand together at once, the others as `put` does it.
    pub(super) fn write(&self, out: &mut Vec<u8>, mut passes: impl FnMut(Name, &[u8]) -> bool) {
        let mut run = Span::default();
        for field in &self.fields {
            let key = self.part(field.key);
            if self.stays(field) || !passes(field.name, key) {
                continue;
            }
            let line = Span {
                start: field.key.start,
                end: field.value.end + 2,
            };
            if field.tidy && line.start == run.end {
                run.end = line.end;
                continue;
            }
            out.extend_from_slice(self.part(run));
            run = Span::default();
            if field.tidy {
                run = line;
            } else {
                write::put(out, key, self.part(field.value));
            }
        }
        out.extend_from_slice(self.part(run));
    }

    fn of(&self, name: Name) -> impl Iterator<Item = &Field> {
        let fields = if self.present & name.bit() == 0 {
            &[]
        } else {
            self.fields.as_slice()
        };
        fields.iter().filter(move |field| field.name == name)
    }

    /// The values of one known field.
    pub(crate) fn all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.of(name).map(|field| self.part(field.value))
    }

    pub(crate) fn first(&self, name: Name) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// True when one of these fields is written by [`Fields::write`], if it passes there.
    pub(super) fn goes_on(&self, name: Name) -> bool {
        self.of(name).any(|field| !self.stays(field))
    }

    /// True for a field that was meant for us alone.
    fn stays(&self, field: &Field) -> bool {
        self.options.names && !field.ours && self.is_for_us(self.part(field.key))
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
        // What it says was noted when it was read.
        debug_assert_ne!(Name::of(key.as_bytes()), Name::Connection);
        self.fields
            .retain(|field| !field.key.get(bytes).eq_ignore_ascii_case(key.as_bytes()));
    }

    /// Puts one field in the place of all of its name.
    pub(crate) fn replace(&mut self, key: &str, value: &[u8]) {
        self.remove(key);
        let start = self.bytes.len();
        let middle = start + key.len();
        let name = Name::of(key.as_bytes());
        self.present |= name.bit();
        self.fields.push(Field {
            name,
            tidy: false,
            ours: true,
            key: Span::new(start, middle),
            value: Span::new(middle, middle + value.len()),
        });
        self.bytes = [&*self.bytes, key.as_bytes(), value].concat().into();
    }

    /// True when `Connection` has `close`.
    pub(crate) fn says_close(&self) -> bool {
        self.options.close
    }

    /// True when `Connection` has `keep-alive`.
    pub(super) fn says_keep_alive(&self) -> bool {
        self.options.keep_alive
    }

    /// True when `Connection` has `upgrade`.
    pub(crate) fn says_upgrade(&self) -> bool {
        self.options.upgrade
    }

    /// True for a field that `Connection` names: it was meant for us alone.
    fn is_for_us(&self, key: &[u8]) -> bool {
        self.all(Name::Connection)
            .flat_map(elements)
            .any(|element| element.eq_ignore_ascii_case(key))
    }

    /// The one value of `Content-Length`: 1*DIGIT, once (RFC 9110 §8.6).
    fn content_length(&self) -> Result<Option<u64>, BadMessage> {
        let mut values = self.all(Name::ContentLength);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let length = number(value).filter(|length| i64::try_from(*length).is_ok());
        match (length, values.next()) {
            (Some(length), None) => Ok(Some(length)),
            _ => Err(BadMessage::ContentLength),
        }
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

    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, BadMessage> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::{HeadLimits, RequestHead};

    const LINES: [&str; 12] = [
        "Accept: */*\r\n",
        "X-Own: 1\r\n",
        "x-own:2\r\n",
        "Connection: keep-alive, X-Own, traceparent\r\n",
        "Connection:close\r\n",
        "Keep-Alive: 5\r\n",
        "Date:  now \r\n",
        "Cookie: a=b; c=d\r\n",
        "X-Empty:\r\n",
        "X-Blank: \r\n",
        "tracestate: a=1\r\n",
        "traceparent: 00\r\n",
    ];

    fn passes(name: Name) -> bool {
        !matches!(name, Name::Host | Name::Connection | Name::HopByHop)
    }

    #[test]
    fn every_field_that_passes_is_written_once_and_in_order() {
        let limits = HeadLimits {
            bytes: 4096,
            fields: 64,
        };
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let mut text = "GET / HTTP/1.1\r\nHost: a.test\r\n".to_owned();
            for _ in 0..random.usize(..10) {
                text.push_str(LINES[random.usize(..LINES.len())]);
            }
            text.push_str("\r\n");
            let mut fields = RequestHead::parse(text.as_bytes(), limits).unwrap().fields;
            let times = random.usize(..3);
            for number in 0..times {
                fields.remove("tracestate");
                fields.replace("traceparent", number.to_string().as_bytes());
            }
            let named = text.contains(", X-Own");
            let mut expected = Vec::new();
            for (name, key, value) in fields.iter() {
                // A `traceparent` of our own stays, whatever the peer says of its own.
                let own =
                    key.eq_ignore_ascii_case(b"x-own") || (key == b"traceparent" && times == 0);
                if passes(name) && !(named && own) {
                    write::put(&mut expected, key, value);
                }
            }
            let mut written = Vec::new();
            fields.write(&mut written, |name, _| passes(name));
            assert_eq!(
                written.escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
            assert_eq!(fields.says_keep_alive(), named);
            assert_eq!(fields.says_close(), text.contains("Connection:close"));
        }
    }
}
