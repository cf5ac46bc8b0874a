//! Between the fields of HTTP/2 and the typed heads of the gate. Pure.
//!
//! A request of HTTP/2 is written down as HTTP/1.1 and read by the one strict parser: what it
//! means is decided in one place, whatever version it came by. On the way out it is the other way
//! round: `http1::write` says which fields go on, and its lines become fields of HTTP/2.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use crate::http1::chunked::is_forbidden;
use crate::http1::fields::FIELDS_MAX;
use crate::http1::head::{HeadLimits, RequestHead, ResponseHead};
use crate::http1::{BadMessage, Framing, trim};
use crate::ws::accept_for;

/// Fields that the translation itself adds to a head.
const ADDED: usize = 4;
/// Most messages have no more fields: room for them is made at once.
const FIELDS_USUAL: usize = 12;

/// What the DATA frames behind a request are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// There are none.
    None,
    /// A body.
    Body,
    /// A WebSocket (RFC 8441), opened toward backends with this key.
    WebSocket {
        /// The value of `Sec-WebSocket-Key`.
        key: &'a str,
    },
}

fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Fields that HTTP/2 has no use for (RFC 9113 §8.2.2).
fn is_connection_field(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
    )
}

/// The head of a request that came by HTTP/2 (RFC 9113 §8.3.1).
///
/// # Errors
/// Why it has no one meaning.
pub fn request(
    parts: &http::request::Parts,
    content: Content<'_>,
    limits: HeadLimits,
) -> Result<RequestHead, BadMessage> {
    let websocket = matches!(content, Content::WebSocket { .. });
    let mut out = Vec::with_capacity(1_024);
    let method = if websocket {
        &Method::GET
    } else {
        &parts.method
    };
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    put_target(&mut out, parts, websocket)?;
    out.extend_from_slice(b" HTTP/1.1\r\n");
    put_host(&mut out, parts)?;
    let mut fields = 0;
    put_fields(&mut out, &parts.headers, websocket, &mut fields)?;
    let sized = parts.headers.contains_key(header::CONTENT_LENGTH);
    match content {
        Content::WebSocket { .. } if sized => return Err(BadMessage::ContentLength),
        Content::WebSocket { key } => {
            put(&mut out, b"connection", b"upgrade");
            put(&mut out, b"upgrade", b"websocket");
            put(&mut out, b"sec-websocket-key", key.as_bytes());
        }
        Content::Body if !sized && *method != Method::CONNECT => {
            put(&mut out, b"transfer-encoding", b"chunked");
        }
        Content::Body | Content::None => {}
    }
    out.extend_from_slice(b"\r\n");
    if out.len() > limits.bytes {
        return Err(BadMessage::HeadTooLarge);
    }
    if fields > limits.fields {
        return Err(BadMessage::TooManyFields);
    }
    let most = HeadLimits {
        fields: (limits.fields + ADDED).min(FIELDS_MAX),
        ..limits
    };
    RequestHead::parse(&out, most)
}

fn put_target(
    out: &mut Vec<u8>,
    parts: &http::request::Parts,
    websocket: bool,
) -> Result<(), BadMessage> {
    let known = |scheme: &str| matches!(scheme, "http" | "https");
    if parts.uri.scheme_str().is_some_and(|scheme| !known(scheme)) {
        return Err(BadMessage::Target);
    }
    if parts.method == Method::CONNECT && !websocket {
        let authority = parts.uri.authority().ok_or(BadMessage::Target)?;
        out.extend_from_slice(authority.as_str().as_bytes());
        return Ok(());
    }
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    // An absolute target is of HTTP/1 alone: here it would name a second host.
    let good = path.starts_with('/') || (path == "*" && parts.method == Method::OPTIONS);
    if !good {
        return Err(BadMessage::Target);
    }
    out.extend_from_slice(path.as_bytes());
    Ok(())
}

/// `:authority` and `Host` name one and the same host (RFC 9113 §8.3.1).
fn put_host(out: &mut Vec<u8>, parts: &http::request::Parts) -> Result<(), BadMessage> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(BadMessage::HostRepeated);
    }
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
    match (authority, host.map(HeaderValue::as_bytes)) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            Err(BadMessage::HostDiffers)
        }
        (Some(name), _) | (None, Some(name)) => {
            put(out, b"host", name);
            Ok(())
        }
        (None, None) => Err(BadMessage::HostMissing),
    }
}

fn put_fields(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    websocket: bool,
    count: &mut usize,
) -> Result<(), BadMessage> {
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in headers {
        *count += 1;
        let bytes = value.as_bytes();
        let te = *name == header::TE && bytes != b"trailers";
        if te || is_connection_field(name.as_str()) || trim(bytes).len() != bytes.len() {
            return Err(BadMessage::Field);
        }
        if *name == header::COOKIE {
            // Split for the sake of compression; one field elsewhere (RFC 9113 §8.2.3).
            if !cookies.is_empty() {
                cookies.extend_from_slice(b"; ");
            }
            cookies.extend_from_slice(bytes);
            continue;
        }
        let ours = *name == header::HOST
            || (websocket
                && (*name == header::SEC_WEBSOCKET_KEY || *name == header::SEC_WEBSOCKET_ACCEPT));
        if !ours {
            put(out, name.as_str().as_bytes(), bytes);
        }
    }
    if !cookies.is_empty() {
        put(out, b"cookie", &cookies);
    }
    Ok(())
}

/// The fields of a head that `http1::write` made, as (name, value); the start line left out.
fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    lines(head).skip(1).filter_map(field)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at_checked(end)?;
        rest = after;
        (!line.is_empty()).then(|| line.strip_suffix(b"\n").unwrap_or(line))
    })
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = line.split_at_checked(colon)?;
    Some((name, trim(value.get(1..).unwrap_or_default())))
}

fn append(map: &mut HeaderMap, all: &Bytes, name: &[u8], value: &[u8]) -> Result<(), BadMessage> {
    let name = HeaderName::from_bytes(name).map_err(|_| BadMessage::Field)?;
    if is_connection_field(name.as_str()) {
        return Ok(());
    }
    let value = if value.is_empty() {
        HeaderValue::from_static("")
    } else {
        HeaderValue::from_maybe_shared(all.slice_ref(value)).map_err(|_| BadMessage::Field)?
    };
    map.try_append(name, value)
        .map(|_| ())
        .map_err(|_| BadMessage::TooManyFields)
}

/// The response whose head `http1::write` wrote, for a client that speaks HTTP/2. The 101 of a
/// WebSocket is its 200 (RFC 8441 §5).
///
/// # Errors
/// When a field can't be written in HTTP/2.
pub fn response(head: Vec<u8>, status: u16) -> Result<Response<()>, BadMessage> {
    let all = Bytes::from(head);
    let mut response = Response::new(());
    let upgraded = status == 101;
    let status = if upgraded { 200 } else { status };
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| BadMessage::Status)?;
    response.headers_mut().reserve(FIELDS_USUAL);
    for (name, value) in fields(&all) {
        if !(upgraded && name.eq_ignore_ascii_case(b"sec-websocket-accept")) {
            append(response.headers_mut(), &all, name, value)?;
        }
    }
    Ok(response)
}

/// The request whose head `http1::write` wrote, for a backend that speaks HTTP/2. `trailers` says
/// that its client takes them; `websocket` asks for one (RFC 8441).
///
/// # Errors
/// When its target or a field can't be written in HTTP/2.
pub fn to_backend(
    head: Vec<u8>,
    scheme: &Scheme,
    fallback_host: &str,
    ask: Ask,
) -> Result<Request<()>, BadMessage> {
    let all = Bytes::from(head);
    let line = all.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next(), words.next());
    let mut request = Request::new(());
    *request.method_mut() = if ask.websocket {
        Method::CONNECT
    } else {
        Method::from_bytes(method.unwrap_or_default()).map_err(|_| BadMessage::RequestLine)?
    };
    let mut host = None;
    request.headers_mut().reserve(FIELDS_USUAL);
    for (name, value) in fields(&all) {
        if name.eq_ignore_ascii_case(b"host") {
            host = Some(value).filter(|host| !host.is_empty());
        } else if !(ask.websocket && name.eq_ignore_ascii_case(b"sec-websocket-key")) {
            append(request.headers_mut(), &all, name, value)?;
        }
    }
    if ask.trailers {
        let value = HeaderValue::from_static("trailers");
        request.headers_mut().insert(header::TE, value);
    }
    if ask.websocket {
        let protocol = h2::ext::Protocol::from_static("websocket");
        request.extensions_mut().insert(protocol);
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    let host = host.unwrap_or(fallback_host.as_bytes());
    parts.authority = Some(Authority::try_from(host).map_err(|_| BadMessage::HostInvalid)?);
    let target = target.unwrap_or(b"/");
    parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| BadMessage::Target)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| BadMessage::Target)?;
    Ok(request)
}

/// What a request to a backend asks for beside its fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask {
    /// The client takes trailers (`TE: trailers`, RFC 9110 §10.1.4).
    pub trailers: bool,
    /// It opens a WebSocket by extended CONNECT.
    pub websocket: bool,
}

/// The head of a backend's response that came by HTTP/2, as answer to `method`; `ends` says that
/// no DATA follows.
///
/// # Errors
/// Why it is refused.
pub fn from_backend(
    parts: &http::response::Parts,
    ends: bool,
    method: &[u8],
    limits: HeadLimits,
) -> Result<ResponseHead, BadMessage> {
    let status = parts.status;
    let mut out = Vec::with_capacity(1_024);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    put_response_fields(&mut out, parts)?;
    let bodyless = status.is_informational() || status == StatusCode::NO_CONTENT;
    let sized = parts.headers.contains_key(header::CONTENT_LENGTH);
    if !ends && !sized && !bodyless {
        put(&mut out, b"transfer-encoding", b"chunked");
    }
    let mut head = finish_response(out, method, limits)?;
    if ends && head.framing == Framing::UntilClose {
        head.framing = Framing::Length(0);
    }
    Ok(head)
}

/// A backend's 2xx to an extended CONNECT (RFC 8441 §5) as the 101 that it is to clients of
/// HTTP/1.1, which sent `key`.
///
/// # Errors
/// Why it is refused.
pub fn websocket_answer(
    parts: &http::response::Parts,
    key: &[u8],
    limits: HeadLimits,
) -> Result<ResponseHead, BadMessage> {
    let mut out = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
    put(&mut out, b"connection", b"upgrade");
    put(&mut out, b"upgrade", b"websocket");
    put(
        &mut out,
        b"sec-websocket-accept",
        accept_for(key).as_bytes(),
    );
    put_response_fields(&mut out, parts)?;
    finish_response(out, b"GET", limits)
}

fn put_response_fields(out: &mut Vec<u8>, parts: &http::response::Parts) -> Result<(), BadMessage> {
    for (name, value) in &parts.headers {
        let bytes = value.as_bytes();
        if is_connection_field(name.as_str()) || trim(bytes).len() != bytes.len() {
            return Err(BadMessage::Field);
        }
        put(out, name.as_str().as_bytes(), bytes);
    }
    Ok(())
}

fn finish_response(
    mut out: Vec<u8>,
    method: &[u8],
    limits: HeadLimits,
) -> Result<ResponseHead, BadMessage> {
    out.extend_from_slice(b"\r\n");
    if out.len() > limits.bytes {
        return Err(BadMessage::HeadTooLarge);
    }
    let most = HeadLimits {
        fields: (limits.fields + ADDED).min(FIELDS_MAX),
        ..limits
    };
    ResponseHead::parse(&out, method, most)
}

/// Trailer fields as lines, those left out that come too late in a trailer (RFC 9110 §6.5.1).
#[must_use]
pub fn trailer_lines(trailers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in trailers {
        if !is_forbidden(name.as_str().as_bytes()) {
            put(&mut out, name.as_str().as_bytes(), trim(value.as_bytes()));
        }
    }
    out
}

/// Lines of trailer fields as HTTP/2 has them; what it can't carry is left out.
#[must_use]
pub fn trailer_fields(text: &[u8]) -> HeaderMap {
    let all = Bytes::copy_from_slice(text);
    let mut map = HeaderMap::new();
    for (name, value) in lines(&all).filter_map(field) {
        if let Err(error) = append(&mut map, &all, name, value) {
            tracing::debug!(%error, "a trailer field was left out");
        }
    }
    map
}
