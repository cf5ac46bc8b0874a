//! Request targets: the path that routes are chosen by, and the parameters of a query.

use std::borrow::Cow;

/// Bytes of a head as text. What is no UTF-8 can match no route but a prefix before it.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    // Good text, as nearly all is, is checked faster than it is searched for faults.
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Path and query of a target.
#[must_use]
pub(crate) fn split(target: &str) -> (&str, Option<&str>) {
    let mark = memchr::memchr(b'?', target.as_bytes());
    let parts = mark.and_then(|at| Some((target.get(..at)?, target.get(at + 1..)?)));
    parts.map_or((target, None), |(path, query)| (path, Some(query)))
}

/// The path that routes are chosen by: unreserved characters decoded, all else that is encoded in
/// capitals, what is not ASCII encoded, dot segments resolved (RFC 3986 §6.2.2). Unless a route
/// rewrites it, the path itself is forwarded as it came.
#[must_use]
pub(crate) fn normal_path(path: &str) -> Cow<'_, str> {
    let plain = memchr::memchr2(b'%', b'.', path.as_bytes()).is_none()
        || !(path.contains('%') || path.contains("/."));
    if plain && path.is_ascii() {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len() + 16);
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (*first, rest) {
            (b'%', [high, low, after @ ..]) if let Some(byte) = hex_byte(*high, *low) => {
                rest = after;
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    normal.push(char::from(byte));
                } else {
                    push_encoded(&mut normal, byte);
                }
            }
            (byte, _) if byte.is_ascii() => normal.push(char::from(byte)),
            (byte, _) => push_encoded(&mut normal, byte),
        }
    }
    Cow::Owned(resolve_dots(&normal))
}

/// The path of a target in that form; `/` for the target that is no path.
#[must_use]
pub(crate) fn path_of(target: &[u8]) -> Cow<'_, str> {
    match text(target) {
        Cow::Borrowed(text) => routed_path(split(text).0),
        Cow::Owned(text) => Cow::Owned(routed_path(split(&text).0).into_owned()),
    }
}

/// The path as it was written, in that form.
#[must_use]
pub(crate) fn routed_path(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') {
        normal_path(path)
    } else {
        Cow::Borrowed("/")
    }
}

/// Puts a byte in its percent-encoded form.
pub(crate) fn push_encoded(text: &mut String, byte: u8) {
    text.push('%');
    for digit in [byte >> 4, byte & 15] {
        let digit = char::from_digit(u32::from(digit), 16).unwrap_or('0');
        text.push(digit.to_ascii_uppercase());
    }
}

/// The path as the most lenient reader may see it: everything decoded (twice), backslashes as
/// slashes, no empty segments, no parameters after `;`, dot segments resolved, in lower case.
pub(crate) fn flattened_path(path: &str) -> Cow<'_, str> {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"/-_".contains(&byte);
    if path.bytes().all(plain) && !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let decoded = decode_where(&decode_where(path, |_| true), |_| true);
    let mut flat = String::with_capacity(decoded.len());
    for segment in decoded.replace('\\', "/").split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        if !name.is_empty() {
            flat.push('/');
            flat.push_str(name);
        }
    }
    flat.make_ascii_lowercase();
    Cow::Owned(resolve_dots(&flat))
}

fn resolve_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => kept.push(""),
            "." => {}
            ".." => {
                kept.truncate(kept.len().saturating_sub(1));
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in kept {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

fn decode_where(text: &str, wanted: impl Fn(u8) -> bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%'
            && let [high, low, after @ ..] = rest
            && let Some(byte) = hex_byte(*high, *low)
            && wanted(byte)
        {
            decoded.push(byte);
            rest = after;
        } else {
            decoded.push(*first);
        }
    }
    match String::from_utf8(decoded) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

/// A segment with all that is encoded decoded, once; `None` when an escape is broken, or what
/// comes out is no UTF-8.
pub(crate) fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let [high, low, after @ ..] = rest else {
                return None;
            };
            bytes.push(hex_byte(*high, *low)?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// A parameter named more than once: backends differ in which one they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repeated;

/// The value of the one parameter `name` of a query, decoded.
///
/// # Errors
/// When it is there more than once with different values.
pub(crate) fn query_parameter(query: &str, name: &str) -> Result<Option<String>, Repeated> {
    single(query_values(query, name).map(Cow::into_owned))
}

/// All values of the parameter `name` of a query, decoded.
pub(crate) fn query_values<'q>(
    query: &'q str,
    name: &'q str,
) -> impl Iterator<Item = Cow<'q, str>> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode_form(key) == name).then(|| decode_form(value))
    })
}

/// The value of the one cookie `name`.
///
/// # Errors
/// As [`query_parameter`].
pub(crate) fn cookie<'a>(
    headers: impl Iterator<Item = &'a [u8]>,
    name: &str,
) -> Result<Option<String>, Repeated> {
    single(headers.flat_map(|header| {
        header.split(|byte| *byte == b';').filter_map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then(|| value.trim_matches('"').to_owned())
        })
    }))
}

/// The one value among `values`.
///
/// # Errors
/// When there are different ones.
pub(crate) fn single(mut values: impl Iterator<Item = String>) -> Result<Option<String>, Repeated> {
    let first = values.next();
    match &first {
        Some(value) if values.any(|other| other != *value) => Err(Repeated),
        _ => Ok(first),
    }
}

fn decode_form(text: &str) -> Cow<'_, str> {
    if text.contains(['%', '+']) {
        Cow::Owned(decode_where(&text.replace('+', " "), |_| true))
    } else {
        Cow::Borrowed(text)
    }
}

/// The host without port, in lower case, without the dot that ends an absolute name.
#[must_use]
pub(crate) fn host_name(authority: &str) -> Cow<'_, str> {
    let host = if authority.starts_with('[') {
        authority.split_inclusive(']').next().unwrap_or_default()
    } else {
        let end = memchr::memchr(b':', authority.as_bytes());
        end.and_then(|end| authority.get(..end))
            .unwrap_or(authority)
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normal() {
        let check = |path: &str, expected: &str| assert_eq!(normal_path(path), expected, "{path}");
        check("/a/b", "/a/b");
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/a/%2e%2e/b", "/b");
        check("/../../b", "/b");
        check("/a/b/..", "/a/");
        check("/a%2Fb", "/a%2Fb");
        check("/a%2fb", "/a%2Fb");
        check("/한", "/%ED%95%9C");
        check("/%61nalysis", "/analysis");
        check("/a//b", "/a//b");
        check("/.", "/");
        check("/%", "/%");
        check("/.well-known/x", "/.well-known/x");
    }

    #[test]
    fn parameters() {
        let check = |query: &str, expected: Result<Option<&str>, Repeated>| {
            let found = query_parameter(query, "serverId");
            assert_eq!(
                found.as_ref().map(Option::as_deref),
                expected.as_ref().map(|o| *o),
                "{query}"
            );
        };
        check("serverId=143", Ok(Some("143")));
        check("a=1&serverId=1%342+&b", Ok(Some("142 ")));
        check("server%49d=7", Ok(Some("7")));
        check("serverId", Ok(Some("")));
        check("a=1", Ok(None));
        check("serverId=1&serverId=1", Ok(Some("1")));
        check("serverId=1&serverId=2", Err(Repeated));
    }

    #[test]
    fn hosts() {
        let check = |authority: &str, expected: &str| assert_eq!(host_name(authority), expected);
        check("Example.COM:8080", "example.com");
        check("example.com.", "example.com");
        check("[::1]:80", "[::1]");
        check("", "");
    }

    #[test]
    fn cookies() {
        let headers = [b"a=1; sid=\"x\"".as_slice(), b"b=2"];
        assert_eq!(cookie(headers.into_iter(), "sid"), Ok(Some("x".to_owned())));
        assert_eq!(cookie(headers.into_iter(), "c"), Ok(None));
        let twice = [b"sid=1; sid=2".as_slice()];
        assert_eq!(cookie(twice.into_iter(), "sid"), Err(Repeated));
    }
}
