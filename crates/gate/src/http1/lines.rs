//! The lines of a head: start line and fields, each with one meaning or none (RFC 9112 §3 to §5).
//! Every line ends with CR LF, and no other CR or LF is in one: no folding, no bare line end. No
//! blank stands before a colon.
//!
//! One pass, some bytes at a time: this is done for each message, twice per request.

use super::fields::{Field, Name};
use super::{BadMessage, Span, Version, is_tchar, trim};

/// What is left of a head.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Method, target, version.
pub(super) type RequestLine = (Span, Span, Version);
/// Version, status, reason phrase.
pub(super) type StatusLine = (Version, u16, Span);

impl<'a> Lines<'a> {
    /// Of a head from its first line on. Empty lines before that are skipped (RFC 9112 §2.2).
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let mut at = 0;
        while bytes.get(at..at + 2) == Some(b"\r\n") {
            at += 2;
        }
        Self { bytes, at }
    }

    /// Of fields alone: a trailer section.
    pub(super) fn of_fields(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// `method SP target SP version` (RFC 9112 §3).
    pub(super) fn request_line(&mut self) -> Result<RequestLine, BadMessage> {
        let (bytes, start) = (self.bytes, self.at);
        let method = token_end(bytes, start);
        let target = method + 1;
        let end = text_end::<b'!'>(bytes, target);
        let blank = |at: usize| bytes.get(at) == Some(&b' ');
        if method == start || end == target || !blank(method) || !blank(end) {
            return Err(BadMessage::RequestLine);
        }
        let name = bytes.get(target..end).unwrap_or_default();
        if !name.is_ascii() && std::str::from_utf8(name).is_err() {
            return Err(BadMessage::RequestLine);
        }
        let version = self.version(end + 1).filter(|_| self.ends(end + 9));
        let Some(version) = version else {
            return Err(if self.names_a_version(end + 1) {
                BadMessage::Version
            } else {
                BadMessage::RequestLine
            });
        };
        self.at = end + 11;
        Ok((Span::new(start, method), Span::new(target, end), version))
    }

    /// `version SP status [SP reason]` (RFC 9112 §4).
    pub(super) fn status_line(&mut self) -> Result<StatusLine, BadMessage> {
        let (bytes, start) = (self.bytes, self.at);
        let version = self.version(start).ok_or(BadMessage::Version)?;
        let Some([b' ', digits @ ..]) = bytes.get(start + 8..start + 12) else {
            return Err(BadMessage::Version);
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(BadMessage::StatusLine);
        }
        let status = digits
            .iter()
            .fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
        let mut reason = start + 12;
        if bytes.get(reason) == Some(&b' ') {
            reason += 1;
        }
        let end = text_end::<b' '>(bytes, reason);
        if !self.ends(end) || (reason == start + 12 && end > reason) {
            return Err(BadMessage::StatusLine);
        }
        self.at = end + 2;
        // What is not ASCII in it has no meaning any more (RFC 9112 §4): it is left out.
        let is_plain = bytes.get(reason..end).is_some_and(<[u8]>::is_ascii);
        let reason = Span::new(reason, if is_plain { end } else { reason });
        Ok((version, status, reason))
    }

    /// `name ":" OWS value OWS` (RFC 9112 §5); `None` at the empty line that ends the head.
    #[inline(always)]
    pub(super) fn field(&mut self) -> Result<Option<Field>, BadMessage> {
        let (bytes, start) = (self.bytes, self.at);
        let colon = token_end(bytes, start);
        if colon == start {
            return match bytes.get(start..) {
                Some(b"\r\n") => Ok(None),
                _ => Err(BadMessage::Field),
            };
        }
        let end = text_end::<b' '>(bytes, colon + 1);
        self.at = end + 2;
        // As nearly all are written: a blank, and a value without blanks at its ends.
        let tidy = matches!(bytes.get(colon..colon + 3), Some([b':', b' ', first]) if *first > b' ')
            && matches!(bytes.get(end - 1..end + 2), Some([last, b'\r', b'\n']) if *last > b' ');
        let value = if tidy {
            Span::new(colon + 2, end)
        } else {
            self.untidy(colon, end)?
        };
        Ok(Some(Field {
            name: Name::of(bytes.get(start..colon).unwrap_or_default()),
            tidy,
            ours: false,
            key: Span::new(start, colon),
            value,
        }))
    }

    /// The value between a colon, if it is one, and the end of a line, if it is one.
    #[cold]
    fn untidy(&self, colon: usize, end: usize) -> Result<Span, BadMessage> {
        if self.bytes.get(colon) != Some(&b':') || !self.ends(end) {
            return Err(BadMessage::Field);
        }
        let value = self.bytes.get(colon + 1..end).unwrap_or_default();
        Ok(Span::of(self.bytes, trim(value)))
    }

    fn version(&self, at: usize) -> Option<Version> {
        match self.bytes.get(at..at + 8)? {
            b"HTTP/1.1" => Some(Version::Http11),
            b"HTTP/1.0" => Some(Version::Http10),
            _ => None,
        }
    }

    /// A line ends here.
    fn ends(&self, at: usize) -> bool {
        self.bytes.get(at..at + 2) == Some(b"\r\n")
    }

    /// The line ends with a well-formed `HTTP/d.d` (RFC 9112 §2.3), whichever it is.
    fn names_a_version(&self, at: usize) -> bool {
        self.ends(at + 8)
            && matches!(self.bytes.get(at..at + 8), Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
                if major.is_ascii_digit() && minor.is_ascii_digit())
    }
}

const EACH: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// Where the token that begins at `at` ends (RFC 9110 §5.6.2).
#[inline(always)]
fn token_end(bytes: &[u8], at: usize) -> usize {
    end_by_words(bytes, at, no_letters, is_tchar)
}

/// Where the first byte from `at` on stands that is below `FLOOR`, or DEL. Tabs pass where blanks do.
#[inline(always)]
fn text_end<const FLOOR: u8>(bytes: &[u8], at: usize) -> usize {
    end_by_words(bytes, at, no_text::<FLOOR>, |byte| {
        let passes = byte >= FLOOR || (byte == b'\t' && FLOOR == b' ');
        passes && byte != 0x7f
    })
}

/// Where bytes that pass end. Of eight at a time `stops` says, by the high bit of the lowest one, which
/// may not pass: each from there on is asked for by itself.
#[inline(always)]
fn end_by_words(
    bytes: &[u8],
    at: usize,
    stops: impl Fn(u64) -> u64,
    passes: impl Fn(u8) -> bool,
) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let (words, _) = rest.as_chunks::<8>();
    let mut end = 0;
    for word in words {
        let stops = stops(u64::from_le_bytes(*word));
        if stops != 0 {
            end += stops.trailing_zeros() as usize / 8;
            break;
        }
        end += 8;
    }
    while rest.get(end).is_some_and(|byte| passes(*byte)) {
        end += 1;
    }
    at + end
}

/// The high bit of each of eight bytes that is neither a letter nor a hyphen, as most are in names.
#[inline(always)]
fn no_letters(word: u64) -> u64 {
    let low = word & !HIGH;
    let lower = low | (EACH * 0x20);
    let letter =
        (lower + EACH * (0x80 - u64::from(b'a'))) & !(lower + EACH * (0x7f - u64::from(b'z')));
    let hyphen = !((low ^ (EACH * u64::from(b'-'))) + EACH * 0x7f);
    (!(letter | hyphen) | word) & HIGH
}

/// The high bit of the lowest of eight bytes that is below `FLOOR` or DEL; a byte that is subtracted
/// from too much borrows from those above it, whose bits say nothing.
#[inline(always)]
fn no_text<const FLOOR: u8>(word: u64) -> u64 {
    let low = word.wrapping_sub(EACH * u64::from(FLOOR)) & !word;
    let delete = word ^ (EACH * 0x7f);
    let delete = delete.wrapping_sub(EACH) & !delete;
    (low | delete) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::{HeadLimits, find_end};

    type Parsed = (Vec<u8>, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 4096,
        fields: 64,
    };

    fn fields(bytes: &[u8], lines: &mut Lines<'_>) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut fields = Vec::new();
        while let Some(field) = lines.field().ok()? {
            let [key, value] = [field.key, field.value].map(|span| span.get(bytes).to_vec());
            if field.tidy {
                let line = [&key, &b": "[..], &value, b"\r\n"].concat();
                let place = Span {
                    start: field.key.start,
                    end: field.value.end + 2,
                };
                assert_eq!(place.get(bytes), line);
            }
            fields.push((key, value));
        }
        Some(fields)
    }

    fn request(bytes: &[u8]) -> Option<Parsed> {
        let mut lines = Lines::of(bytes);
        let (method, target, version) = lines.request_line().ok()?;
        let first = [method.get(bytes), format!("{version:?}").as_bytes()].concat();
        Some((
            first,
            target.get(bytes).to_vec(),
            fields(bytes, &mut lines)?,
        ))
    }

    fn response(bytes: &[u8]) -> Option<Parsed> {
        let mut lines = Lines::of(bytes);
        let (version, status, reason) = lines.status_line().ok()?;
        let first = format!("{status:03}{version:?}").into_bytes();
        Some((
            first,
            reason.get(bytes).to_vec(),
            fields(bytes, &mut lines)?,
        ))
    }

    /// Another parser, which takes bare line ends, too.
    mod other {
        use super::Parsed;

        fn version(version: Option<u8>) -> &'static str {
            match version {
                Some(0) => "Http10",
                _ => "Http11",
            }
        }

        fn fields(fields: &[httparse::Header<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
            fields
                .iter()
                .map(|field| {
                    let value = crate::http1::trim(field.value);
                    (field.name.into(), value.to_vec())
                })
                .collect()
        }

        fn ends_lines_well(bytes: &[u8]) -> bool {
            let pairs = bytes.windows(2);
            let crs = pairs.filter(|pair| *pair == b"\r\n").count();
            let count = |wanted: u8| bytes.iter().filter(|byte| **byte == wanted).count();
            count(b'\r') == crs && count(b'\n') == crs
        }

        pub(super) fn request(bytes: &[u8]) -> Option<Parsed> {
            let mut storage = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Request::new(&mut storage);
            let done = head.parse(bytes) == Ok(httparse::Status::Complete(bytes.len()));
            (done && ends_lines_well(bytes)).then(|| {
                let first = format!("{}{}", head.method.unwrap(), version(head.version));
                let target = head.path.unwrap().as_bytes().to_vec();
                (first.into_bytes(), target, fields(head.headers))
            })
        }

        pub(super) fn response(bytes: &[u8]) -> Option<Parsed> {
            let mut storage = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Response::new(&mut storage);
            let done = head.parse(bytes) == Ok(httparse::Status::Complete(bytes.len()));
            (done && ends_lines_well(bytes)).then(|| {
                let first = format!("{:03}{}", head.code.unwrap(), version(head.version));
                let reason = head.reason.unwrap().as_bytes().to_vec();
                (first.into_bytes(), reason, fields(head.headers))
            })
        }
    }

    /// A head that is right, or nearly.
    fn any_head(random: &mut fastrand::Rng) -> Vec<u8> {
        let starts: [&[u8]; 12] = [
            b"GET / HTTP/1.1\r\n",
            b"POST /a/b?c=d%20e HTTP/1.0\r\n",
            b"OPTIONS * HTTP/1.1\r\n",
            b"\r\nGET http://a.test/x HTTP/1.1\r\n",
            b"A /\xc3\xa9\t\x7f HTTP/1.1\r\n",
            b"GET /\xff HTTP/1.1\r\n",
            b"GET / HTTP/2.0\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 404 \r\n",
            b"HTTP/1.1 204\r\n",
            b"HTTP/1.1 299 a\tlonger  reason\r\n",
            b"HTTP/1.1 500 caf\xe9\r\n",
        ];
        let lines: [&[u8]; 10] = [
            b"Host: a.test\r\n",
            b"Connection: keep-alive, X-Own\r\n",
            b"Content-Length: 17\r\n",
            b"X-Empty:\r\n",
            b"X-Blanks: \t  \r\n",
            b"x-tab:\ta\tb c \r\n",
            b"!#$%&'*+-.^_`|~0: \xe9\x80\xff\r\n",
            b"X-Long: 0123456789abcdefghijklmnopqrstuvwxyz0123456789\r\n",
            b" folded\r\n",
            b"Blank : x\r\n",
        ];
        let mut head = starts[random.usize(..starts.len())].to_vec();
        for _ in 0..random.usize(..6) {
            let kind = random.usize(..lines.len() + 20);
            head.extend_from_slice(lines[if kind < 20 { kind % 8 } else { kind - 20 }]);
        }
        head.extend_from_slice(b"\r\n");
        for _ in 0..random.usize(..4).saturating_sub(1) {
            let at = random.usize(..head.len());
            let known = b"\r\n\t :/HT1.0\0\x7f\x80\xff,";
            let byte = [known[random.usize(..known.len())], random.u8(..)][random.usize(..2)];
            match random.u8(..3) {
                0 => head[at] = byte,
                1 => head.insert(at, byte),
                _ => drop(head.remove(at)),
            }
        }
        head
    }

    #[test]
    fn eight_bytes_are_judged_as_one_is() {
        let mut random = fastrand::Rng::with_seed(8);
        for _ in 0..100_000 {
            // Mostly such as pass, so that what stops stands at any place, and more above it.
            let eight = [(); 8].map(|()| match random.u8(..4) {
                0 => random.u8(..),
                1 => b'-',
                _ => random.alphabetic() as u8,
            });
            let check = |stops: u64, passes: &dyn Fn(u8) -> bool| {
                let expected = eight.iter().position(|byte| !passes(*byte));
                let found = stops.trailing_zeros() as usize / 8;
                assert_eq!(found, expected.unwrap_or(8), "{eight:?}");
            };
            let word = u64::from_le_bytes(eight);
            let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'-';
            check(no_letters(word), &is_letter);
            let text = |floor| move |byte| byte >= floor && byte != 0x7f;
            check(no_text::<b' '>(word), &text(b' '));
            check(no_text::<b'!'>(word), &text(b'!'));
        }
    }

    #[test]
    fn heads_are_read_as_another_parser_reads_them() {
        let mut random = fastrand::Rng::with_seed(20_261_122);
        let mut taken = [0, 0];
        for _ in 0..200_000 {
            let bytes = any_head(&mut random);
            let Ok(Some(end)) = find_end(&bytes, 0, LIMITS) else {
                continue;
            };
            let head = &bytes[..end];
            let text = String::from_utf8_lossy(head);
            let ours = [request(head), response(head)];
            assert_eq!(ours[0], other::request(head), "{text:?}");
            assert_eq!(ours[1], other::response(head), "{text:?}");
            for (count, parsed) in taken.iter_mut().zip(&ours) {
                *count += u32::from(parsed.is_some());
            }
        }
        assert!(taken.iter().all(|count| *count > 10_000), "{taken:?}");
    }
}
