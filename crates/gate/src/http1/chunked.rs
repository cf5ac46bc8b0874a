//! The chunked transfer coding (RFC 9112 §7.1), decoded strictly and in place.

use super::lines::Lines;
use super::{BadMessage, write};

/// Bytes of one size line with its extensions.
const LINE_MAX: usize = 256;
/// Bytes of all extensions of one body: they are dropped, so many of them only cost.
const EXTENSIONS_MAX: usize = 16 * 1024;
/// Bytes of the trailer section.
const TRAILERS_MAX: usize = 8 * 1024;
/// Fields of the trailer section.
const TRAILER_FIELDS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Size digits seen so far.
    Size {
        digits: u8,
    },
    /// Spaces after the size, good only before an extension.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// A decoder of one body.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    left: u64,
    line: usize,
    extensions: usize,
    trailers: Vec<u8>,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            line: 0,
            extensions: 0,
            trailers: Vec::new(),
        }
    }
}

/// What [`Chunked::decode`] did with its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// So many bytes of data stand at the start of the input now.
    pub data: usize,
    /// So many bytes of the input were used.
    pub consumed: usize,
    /// The body is complete.
    pub done: bool,
}

impl Chunked {
    /// Decodes what is there: moves the data of all chunks to the front of `bytes`.
    ///
    /// # Errors
    /// Why the coding is refused; the message can't be continued then.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BadMessage> {
        let (mut data, mut at) = (0, 0);
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let here = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - at);
                if at != data {
                    bytes.copy_within(at..at + here, data);
                }
                self.left -= here as u64;
                data += here;
                at += here;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                let byte = bytes.get(at).copied().unwrap_or_default();
                self.step(byte)?;
                at += 1;
            }
        }
        Ok(Decoded {
            data,
            consumed: at,
            done: self.state == State::Done,
        })
    }

    fn step(&mut self, byte: u8) -> Result<(), BadMessage> {
        self.state = match (self.state, byte) {
            (State::Size { digits }, _) => self.size(digits, byte)?,
            (State::Blank, b' ' | b'\t') => self.count(State::Blank)?,
            (State::Blank | State::Extension, b';') => self.count(State::Extension)?,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.count(State::Extension)?,
            (State::SizeLf, b'\n') if self.left == 0 => State::Trailers,
            (State::SizeLf, b'\n') => {
                self.line = 0;
                State::Data
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0 },
            (State::Trailers, _) => self.trailer(byte)?,
            _ => return Err(BadMessage::Chunk),
        };
        Ok(())
    }

    fn size(&mut self, digits: u8, byte: u8) -> Result<State, BadMessage> {
        match char::from(byte).to_digit(16) {
            // 15 digits are 2^60 bytes: more is no body, and must not overflow.
            Some(digit) if digits < 15 => {
                self.left = (self.left << 4) | u64::from(digit);
                Ok(State::Size { digits: digits + 1 })
            }
            None if digits > 0 => match byte {
                b'\r' => Ok(State::SizeLf),
                b';' => self.count(State::Extension),
                b' ' | b'\t' => self.count(State::Blank),
                _ => Err(BadMessage::Chunk),
            },
            _ => Err(BadMessage::Chunk),
        }
    }

    fn count(&mut self, next: State) -> Result<State, BadMessage> {
        self.line += 1;
        self.extensions += 1;
        if self.line > LINE_MAX || self.extensions > EXTENSIONS_MAX {
            return Err(BadMessage::ChunkExtensions);
        }
        Ok(next)
    }

    fn trailer(&mut self, byte: u8) -> Result<State, BadMessage> {
        if self.trailers.len() >= TRAILERS_MAX {
            return Err(BadMessage::Trailers);
        }
        let after_cr = self.trailers.last() == Some(&b'\r');
        if (byte == b'\n') != after_cr {
            return Err(BadMessage::Trailers);
        }
        self.trailers.push(byte);
        if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
            self.check_trailers()?;
            return Ok(State::Done);
        }
        Ok(State::Trailers)
    }

    /// Keeps the trailer fields that may be forwarded (RFC 9110 §6.5.1), written anew.
    fn check_trailers(&mut self) -> Result<(), BadMessage> {
        let mut lines = Lines::of_fields(&self.trailers);
        let mut kept = Vec::with_capacity(self.trailers.len());
        let mut count = 0;
        while let Some(field) = lines.field().map_err(|_| BadMessage::Trailers)? {
            count += 1;
            if count > TRAILER_FIELDS_MAX {
                return Err(BadMessage::Trailers);
            }
            let key = field.key.get(&self.trailers);
            if !is_forbidden(key) {
                write::put(&mut kept, key, field.value.get(&self.trailers));
            }
        }
        self.trailers = kept;
        Ok(())
    }

    /// The trailer fields to forward, each with its line end; complete once the body is done.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        if self.state == State::Done {
            &self.trailers
        } else {
            &[]
        }
    }
}

/// Fields for framing, routing, authentication or content, which come too late in a trailer.
pub(crate) fn is_forbidden(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 24] = [
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "max-forwards",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
        "x-forwarded-for",
    ];
    FORBIDDEN
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}
