//! WebSockets (RFC 6455): what a gate between two of their peers has to know.
//!
//! ```text
//! frames     where frames begin and end       ping    pings of the gate's own, and their answers
//! handshake  what is wrong with an opening    page    the same for people who came by browser
//! end        who ended a tunnel, and how      cuts    whether ends have one cause (pure)
//! doctor     how tunnels ended, kept and told
//! ```

pub(crate) mod cuts;
pub(crate) mod doctor;
pub(crate) mod end;
mod frames;
pub mod handshake;
pub(crate) mod page;
mod ping;

pub use frames::{Frames, close_frame};
pub(crate) use ping::Pings;
pub use ping::{Look, Marks};

/// What a server must answer to a client's `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
#[must_use]
pub fn accept_for(key: &[u8]) -> String {
    use base64::Engine;
    use sha1::{Digest, Sha1};
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finalize())
}

/// Which side of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Backend,
}

impl Side {
    pub(crate) const ALL: [Self; 2] = [Self::Client, Self::Backend];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        let answer = accept_for(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
