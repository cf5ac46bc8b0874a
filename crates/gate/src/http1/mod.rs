//! HTTP/1.1, sans-I/O: bytes in, typed heads and body pieces out. One message has one meaning
//! here or is refused (RFC 9110, RFC 9112); a head is never forwarded as it came, it is written
//! anew from its parts. No sockets, no clock, no allocation beyond the head itself.

pub mod body;
pub mod chunked;
pub mod fields;
pub mod head;
mod lines;
pub mod write;

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// A line of the head ends with a bare LF or holds a bare CR (RFC 9112 §2.2).
    #[error("a line of the head does not end with CR LF")]
    LineEnd,
    /// RFC 9112 §3.
    #[error("the request line is malformed")]
    RequestLine,
    /// RFC 9112 §4.
    #[error("the status line is malformed")]
    StatusLine,
    /// RFC 9112 §5: name, whitespace before the colon, folded lines, control characters.
    #[error("a header field is malformed")]
    Field,
    /// RFC 9112 §2.3.
    #[error("the protocol version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    /// RFC 9112 §3.2.
    #[error("the request target is malformed")]
    Target,
    /// RFC 9112 §3.2: HTTP/1.1 without `Host`.
    #[error("the Host header is missing")]
    HostMissing,
    /// RFC 9112 §3.2: more than one.
    #[error("there is more than one Host header")]
    HostRepeated,
    /// RFC 9110 §7.2.
    #[error("the Host header is malformed")]
    HostInvalid,
    /// RFC 9112 §3.2.2: an absolute target that names another host than `Host`.
    #[error("the request target and the Host header name different hosts")]
    HostDiffers,
    /// RFC 9112 §6.3: no number, or more than one.
    #[error("the Content-Length header is malformed or repeated")]
    ContentLength,
    /// RFC 9112 §6.1: both lengths.
    #[error("there are both Transfer-Encoding and Content-Length")]
    BothLengths,
    /// RFC 9112 §6.1: `Transfer-Encoding` in HTTP/1.0.
    #[error("there is a Transfer-Encoding in HTTP/1.0")]
    CodingInOldVersion,
    /// RFC 9112 §6.1: malformed or `chunked` more than once.
    #[error("the Transfer-Encoding header is malformed")]
    TransferEncoding,
    /// RFC 9112 §6.1: a coding that this gate does not know.
    #[error("the transfer coding is not known")]
    UnknownCoding,
    /// RFC 9110 §9.3.8: TRACE with content.
    #[error("a TRACE request has no content")]
    TraceWithBody,
    /// RFC 9110 §15.2: not 100 to 599.
    #[error("the status code is out of range")]
    Status,
    /// RFC 9110 §5.4, limit `limits.head_bytes`.
    #[error("the head is too large")]
    HeadTooLarge,
    /// RFC 9110 §5.4, limit `limits.headers`.
    #[error("there are too many header fields")]
    TooManyFields,
    /// RFC 9112 §7.1: size line, data end.
    #[error("a chunk is malformed")]
    Chunk,
    /// RFC 9112 §7.1.1: extensions beyond the limit.
    #[error("the chunk extensions are too long")]
    ChunkExtensions,
    /// RFC 9112 §7.1.2.
    #[error("the trailer section is malformed or too large")]
    Trailers,
}

/// The protocol version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// The body of a response that ends with the connection.
    UntilClose,
}

/// Where a part of a head stands in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(in crate::http1) start: u32,
    pub(in crate::http1) end: u32,
}

impl Span {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "heads are limited to far less than 4 GiB"
    )]
    fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The span of `part`, which lies inside of `whole`.
    fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        Self::new(start, start + part.len())
    }

    fn get(self, whole: &[u8]) -> &[u8] {
        whole
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// Whether a text without control characters is `known`, a name of lower-case letters, digits and
/// hyphens, in any case: what such a name has is alike but for one bit only to a capital or a
/// control character. Without an early end many are compared at a time.
#[inline(always)]
fn same(text: &[u8], known: &str) -> bool {
    let pairs = text.iter().zip(known.as_bytes());
    text.len() == known.len()
        && pairs.fold(0, |all, (own, other)| all | ((own | 0x20) ^ other)) == 0
}

/// 1*DIGIT as a number, where it fits.
fn number(digits: &[u8]) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    rest.iter().try_fold(digit(first)?, |number, byte| {
        number.checked_mul(10)?.checked_add(digit(byte)?)
    })
}

/// Trims spaces and tabs (RFC 9110 §5.6.3).
pub(crate) fn trim(value: &[u8]) -> &[u8] {
    let mut value = value;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a comma-separated list, trimmed, empty ones left out (RFC 9110 §5.6.1).
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

/// What an element of `Accept` or `Accept-Encoding` names, without its parameters, and its weight in
/// thousandths (RFC 9110 §12.4.2).
pub(crate) fn weighed(element: &[u8]) -> (&[u8], u32) {
    let mut parts = element.split(|byte| *byte == b';').map(trim);
    let name = parts.next().unwrap_or_default();
    let weight = parts
        .find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q=")))
        .map_or(1_000, thousandths);
    (name, weight)
}

/// A weight such as `0.5` (RFC 9110 §12.4.2) in thousandths; what is none counts as 0.
fn thousandths(value: &[u8]) -> u32 {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let good = matches!(whole, "0" | "1") && fraction.len() <= 3;
    if !good || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let padded = format!("{whole}{fraction:0<3}");
    padded.parse::<u32>().unwrap_or(0).min(1_000)
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_tchar(*byte))
}

/// A character of a token (RFC 9110 §5.6.2).
#[inline]
fn is_tchar(byte: u8) -> bool {
    TCHAR.get(usize::from(byte)).is_some_and(|is| *is)
}

#[expect(
    clippy::indexing_slicing,
    reason = "done by the compiler, which would say so"
)]
static TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut letters: &[u8] =
        b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    while let [letter, rest @ ..] = letters {
        table[*letter as usize] = true;
        letters = rest;
    }
    table
};
