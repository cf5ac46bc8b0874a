//! Compression of responses on routes that ask for it: who gets which coding, and the coding
//! itself, piece by piece. No sockets, and no more memory than an encoder's window.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::http1::fields::Fields;
use crate::http1::head::RequestHead;
use crate::http1::{elements, trim, weighed};

/// Names of fields that vouch for the very bytes of a body, or say that something behind it may:
/// such a body is left as it is.
const DIGESTS: [&str; 5] = [
    "repr-digest",
    "content-digest",
    "digest",
    "content-md5",
    "trailer",
];
/// Fields that a coded body no longer has as the backend wrote them.
const REPLACED: [&str; 3] = ["content-length", "etag", "accept-ranges"];

/// A content coding (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `zstd`
    Zstd,
    /// `br`
    Brotli,
    /// `gzip`
    Gzip,
}

impl Coding {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Its name in `Content-Encoding`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The ending of a file in this coding.
    #[must_use]
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }
}

/// `compression = { … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// The codings that may be used, the preferred one first.
    pub algorithms: Vec<Coding>,
    /// Media types that are worth it: `type/subtype`, `type/*` or `*+suffix`.
    pub types: Vec<String>,
    /// Bodies known to be smaller are left as they are.
    pub size_min: u64,
}

impl Default for Compression {
    fn default() -> Self {
        let types = [
            "text/*",
            "*+json",
            "*+xml",
            "application/json",
            "application/javascript",
            "application/x-ndjson",
            "application/xml",
            "application/wasm",
            "font/otf",
            "font/ttf",
        ];
        Self {
            algorithms: Coding::ALL.to_vec(),
            types: types.map(str::to_owned).to_vec(),
            size_min: 1_024,
        }
    }
}

/// The coding for the client: that with the highest weight, the first of `offered` among equals
/// (RFC 9110 §12.5.3).
#[must_use]
pub(crate) fn negotiate(head: &RequestHead, offered: &[Coding]) -> Option<Coding> {
    negotiate_all(head, offered).first().copied()
}

/// All codings that the client takes, the one to be preferred first.
#[must_use]
pub(crate) fn negotiate_all(head: &RequestHead, offered: &[Coding]) -> Vec<Coding> {
    let mut weights = [None; Coding::ALL.len()];
    let mut others = None;
    for element in head.fields.named("accept-encoding").flat_map(elements) {
        let (name, weight) = weighed(element);
        if name == b"*" {
            others = Some(weight);
        }
        for (coding, slot) in Coding::ALL.iter().zip(&mut weights) {
            let alias = *coding == Coding::Gzip && name.eq_ignore_ascii_case(b"x-gzip");
            if alias || name.eq_ignore_ascii_case(coding.name().as_bytes()) {
                *slot = Some(weight);
            }
        }
    }
    let weight = |coding: &Coding| {
        let mut known = Coding::ALL.iter().zip(weights);
        let own = known.find(|(other, _)| *other == coding);
        own.and_then(|(_, weight)| weight).or(others).unwrap_or(0)
    };
    let mut taken: Vec<Coding> = offered.iter().copied().filter(|c| weight(c) > 0).collect();
    taken.sort_by_key(|coding| std::cmp::Reverse(weight(coding)));
    taken
}

/// What becomes of one response.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The coding it gets.
    pub(crate) coding: Option<Coding>,
    /// Lines for its head.
    pub(crate) added: Vec<u8>,
}

impl Verdict {
    /// The body stays as it is after all.
    pub(crate) fn forget_coding(&mut self) {
        self.coding = None;
        // The line on what the answer depends on stands first, where there is one.
        let vary: &[u8] = b"Vary: Accept-Encoding\r\n";
        let kept = if self.added.starts_with(vary) {
            vary.len()
        } else {
            0
        };
        self.added.truncate(kept);
    }

    /// Names of fields that do not pass.
    pub(crate) fn dropped(&self) -> &'static [&'static str] {
        if self.coding.is_some() {
            &REPLACED
        } else {
            &[]
        }
    }
}

impl Compression {
    fn wants_type(&self, content_type: &[u8]) -> bool {
        let essence = content_type.split(|byte| *byte == b';').next();
        let essence = String::from_utf8_lossy(trim(essence.unwrap_or_default()));
        let essence = essence.to_ascii_lowercase();
        self.types.iter().any(|known| {
            if let Some(kind) = known.strip_suffix('*') {
                essence.starts_with(kind)
            } else if let Some(suffix) = known.strip_prefix('*') {
                essence.ends_with(suffix)
            } else {
                essence == *known
            }
        })
    }

    /// Judges a response with `status`, `fields` and, where it is known, the length of its body.
    #[must_use]
    pub(crate) fn judge(
        &self,
        request: &RequestHead,
        status: u16,
        fields: &Fields,
        length: Option<u64>,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let named = |name: &'static str| fields.named(name).next();
        let typed = named("content-type").is_some_and(|value| self.wants_type(value));
        let transform = !fields
            .named("cache-control")
            .flat_map(elements)
            .any(|element| element.eq_ignore_ascii_case(b"no-transform"));
        let plain = named("content-encoding").is_none() && named("content-range").is_none();
        let undigested = DIGESTS.iter().all(|name| named(name).is_none());
        let whole = !matches!(status, 204 | 206 | 304) && status >= 200;
        if !(transform && (status == 304 || typed && plain && undigested && whole)) {
            return verdict;
        }
        // From here on the answer depends on what the client takes, coded or not.
        if !varies(fields) {
            verdict
                .added
                .extend_from_slice(b"Vary: Accept-Encoding\r\n");
        }
        if !whole || length.is_some_and(|length| length < self.size_min) {
            return verdict;
        }
        verdict.coding = negotiate(request, &self.algorithms);
        if let Some(coding) = verdict.coding {
            let line = format!("Content-Encoding: {}\r\n", coding.name());
            verdict.added.extend_from_slice(line.as_bytes());
            if let Some(tag) = named("etag") {
                verdict.added.extend_from_slice(b"ETag: ");
                if !tag.starts_with(b"W/") {
                    verdict.added.extend_from_slice(b"W/");
                }
                verdict.added.extend_from_slice(tag);
                verdict.added.extend_from_slice(b"\r\n");
            }
        }
        verdict
    }
}

fn varies(fields: &Fields) -> bool {
    fields
        .named("vary")
        .flat_map(elements)
        .any(|element| element == b"*" || element.eq_ignore_ascii_case(b"accept-encoding"))
}

/// How many responses may be compressed at once: each holds an encoder of a few hundred KiB.
#[derive(Debug, Default)]
pub(crate) struct Running(AtomicUsize);

impl Running {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One that runs.
#[derive(Debug)]
struct Turn(Arc<Running>);

impl Turn {
    fn take(running: &Arc<Running>, most: usize) -> Option<Self> {
        let before = running.0.fetch_add(1, Ordering::Relaxed);
        let turn = Self(Arc::clone(running));
        (before < most).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Inner {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
}

/// A body on its way through a coding.
pub(crate) struct Encoder {
    inner: Inner,
    /// Something was put in that was not handed out.
    held: bool,
    _turn: Turn,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Encoder")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder, unless `most` run already.
    ///
    /// # Errors
    /// When the library can't make one.
    pub(crate) fn new(
        coding: Coding,
        running: &Arc<Running>,
        most: usize,
    ) -> io::Result<Option<Box<Self>>> {
        let Some(turn) = Turn::take(running, most) else {
            return Ok(None);
        };
        // Windows of 128 KiB (brotli: 256 KiB): what a response gains beyond is little, and an
        // encoder stays below 1 MiB.
        let inner = match coding {
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3)?;
                encoder.window_log(17)?;
                Inner::Zstd(encoder)
            }
            Coding::Brotli => Inner::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                4_096,
                4,
                18,
            ))),
            Coding::Gzip => {
                let level = flate2::Compression::new(5);
                Inner::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
        };
        Ok(Some(Box::new(Self {
            inner,
            held: false,
            _turn: turn,
        })))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.inner {
            Inner::Zstd(encoder) => encoder,
            Inner::Brotli(encoder) => encoder,
            Inner::Gzip(encoder) => encoder,
        }
    }

    fn ready(&mut self) -> Vec<u8> {
        std::mem::take(match &mut self.inner {
            Inner::Zstd(encoder) => encoder.get_mut(),
            Inner::Brotli(encoder) => encoder.get_mut(),
            Inner::Gzip(encoder) => encoder.get_mut(),
        })
    }

    /// Takes a piece of the body; hands back what is ready to be sent.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn put(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        self.held |= !data.is_empty();
        self.writer().write_all(data)?;
        Ok(self.ready())
    }

    /// True when a flush would bring something.
    pub(crate) fn holds(&self) -> bool {
        self.held
    }

    /// All that was put in so far, so that the client can read it now.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn flush(&mut self) -> io::Result<Vec<u8>> {
        self.held = false;
        self.writer().flush()?;
        Ok(self.ready())
    }

    /// The end of the body.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        match self.inner {
            Inner::Zstd(encoder) => encoder.finish(),
            Inner::Brotli(encoder) => Ok(encoder.into_inner()),
            Inner::Gzip(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::http1::head::{HeadLimits, ResponseHead};

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 4_096,
        fields: 16,
    };

    fn request(accept: &str) -> RequestHead {
        let text = format!("GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {accept}\r\n\r\n");
        RequestHead::parse(text.as_bytes(), LIMITS).unwrap()
    }

    #[test]
    fn the_coding_is_the_clients_choice_then_ours() {
        let check = |accept: &str, expected: Option<&str>| {
            let coding = negotiate(&request(accept), &Coding::ALL);
            assert_eq!(coding.map(Coding::name), expected, "{accept}");
        };
        check("gzip, br, zstd", Some("zstd"));
        check("gzip, br", Some("br"));
        check("GZIP", Some("gzip"));
        check("br;q=0.5, gzip;q=0.9", Some("gzip"));
        check("br;q=0, zstd;q=0.000", None);
        check("*;q=0.1", Some("zstd"));
        check("*, zstd;q=0, br;q=0.1", Some("gzip"));
        check("deflate, identity", None);
        check("", None);
        check("br;q=2", None);
        assert_eq!(negotiate(&request("br"), &[Coding::Gzip]), None);
    }

    #[test]
    fn only_what_compresses_and_may_be_changed_is_coded() {
        let check = |status: u16, fields: &str, length: Option<u64>, coded: bool, vary: bool| {
            let text = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            let head = ResponseHead::parse(text.as_bytes(), b"GET", LIMITS).unwrap();
            let verdict =
                Compression::default().judge(&request("br"), status, &head.fields, length);
            assert_eq!(
                verdict.coding.is_some(),
                coded,
                "{status} {fields} {length:?}"
            );
            let added = String::from_utf8(verdict.added).unwrap();
            assert_eq!(added.contains("Vary: Accept-Encoding"), vary, "{fields}");
            added
        };
        let text = "Content-Type: text/html; charset=utf-8\r\n";
        let with = |more: &str| format!("{text}{more}\r\n");
        check(200, text, Some(1_024), true, true);
        check(200, text, Some(1_023), false, true);
        check(200, text, None, true, true);
        check(404, text, None, true, true);
        check(
            200,
            "Content-Type: application/problem+json\r\n",
            None,
            true,
            true,
        );
        check(200, "Content-Type: image/png\r\n", None, false, false);
        check(200, "", None, false, false);
        check(206, &with("Content-Range: bytes 0-1/5"), None, false, false);
        check(304, "", None, false, true);
        check(200, &with("Content-Encoding: gzip"), None, false, false);
        check(
            200,
            &with("Cache-Control: public, no-transform"),
            None,
            false,
            false,
        );
        check(
            200,
            &with("Repr-Digest: sha-256=:AAA=:"),
            None,
            false,
            false,
        );
        check(
            200,
            &with("Vary: Accept, Accept-Encoding"),
            None,
            true,
            false,
        );
        let added = check(200, &with("ETag: \"a\""), None, true, true);
        assert!(added.contains("ETag: W/\"a\"\r\n"), "{added}");
    }

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            Coding::Zstd => out = zstd::decode_all(bytes).unwrap(),
            Coding::Brotli => {
                brotli::Decompressor::new(bytes, 4_096)
                    .read_to_end(&mut out)
                    .unwrap();
            }
            Coding::Gzip => {
                flate2::read::GzDecoder::new(bytes)
                    .read_to_end(&mut out)
                    .unwrap();
            }
        }
        out
    }

    #[test]
    fn what_goes_in_comes_out_and_a_flush_brings_all_of_it() {
        let running = Arc::new(Running::default());
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding, &running, 1).unwrap().unwrap();
            assert!(Encoder::new(coding, &running, 1).unwrap().is_none());
            let mut coded = encoder.put(b"hello ").unwrap();
            assert!(encoder.holds());
            coded.extend(encoder.flush().unwrap());
            assert!(!encoder.holds() && !coded.is_empty());
            let piece = vec![b'x'; 100_000];
            for _ in 0..20 {
                coded.extend(encoder.put(&piece).unwrap());
            }
            coded.extend(encoder.finish().unwrap());
            let plain = decoded(coding, &coded);
            assert!(plain.starts_with(b"hello x") && plain.len() == 2_000_006);
            assert_eq!(running.count(), 0);
        }
    }
}
