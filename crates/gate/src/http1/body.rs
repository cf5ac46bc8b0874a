//! The body of a message as it comes in: how much of what was read is data, and where it ends.

use super::chunked::Chunked;
use super::{BadMessage, Framing};

/// An incoming body.
#[derive(Debug)]
pub enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunked.
    Chunked(Chunked),
    /// Until the peer closes.
    UntilClose,
}

/// A piece of a body, at the start of the bytes it was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of data at the start.
    pub data: usize,
    /// Bytes used in all.
    pub consumed: usize,
    /// The body is complete.
    pub done: bool,
}

impl Body {
    /// The body that `framing` announces.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Takes what is there; data of chunks is moved together at the front.
    ///
    /// # Errors
    /// When a chunk is malformed.
    pub fn take(&mut self, bytes: &mut [u8]) -> Result<Piece, BadMessage> {
        match self {
            Self::Length(left) => {
                let data = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= data as u64;
                Ok(Piece {
                    data,
                    consumed: data,
                    done: *left == 0,
                })
            }
            Self::Chunked(decoder) => decoder.decode(bytes).map(|decoded| Piece {
                data: decoded.data,
                consumed: decoded.consumed,
                done: decoded.done,
            }),
            Self::UntilClose => Ok(Piece {
                data: bytes.len(),
                consumed: bytes.len(),
                done: false,
            }),
        }
    }

    /// Notes that `count` bytes of a body of known length went by without being seen.
    pub(crate) fn pass(&mut self, count: usize) {
        if let Self::Length(left) = self {
            *left = left.saturating_sub(count as u64);
        }
    }

    /// True when nothing is to come, before anything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// Bytes that are still to come, where that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// True when the end of the stream is the end of the body.
    #[must_use]
    pub fn ends_with_stream(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// Trailer fields of a chunked body that is done.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        match self {
            Self::Chunked(decoder) => decoder.trailers(),
            Self::Length(_) | Self::UntilClose => &[],
        }
    }
}
