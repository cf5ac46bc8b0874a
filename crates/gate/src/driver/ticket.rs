//! What an event says of its descriptor: all of it stands in the token, so that none of it costs memory.

use std::io;
use std::os::fd::RawFd;

use mio::Token;

/// Bits of a key, and of a descriptor.
const BITS: u32 = 24;
const MOST: usize = (1 << BITS) - 1;

/// A place among the sources of a thread, and who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) key: usize,
    /// Which of the last 2^16 that had this place; an event of an earlier one is not ours.
    pub(super) generation: u16,
    /// Where its number fits.
    pub(super) descriptor: Option<RawFd>,
}

impl Ticket {
    /// The token to register the descriptor with; never that of [`super::REMOTE`].
    ///
    /// # Errors
    /// When the thread has more descriptors than a token has keys.
    pub(super) fn token(self) -> io::Result<Token> {
        if self.key >= MOST {
            return Err(io::Error::other(
                "a thread of the gate has 2^24 connections at most",
            ));
        }
        let descriptor = self
            .descriptor
            .and_then(|number| usize::try_from(number).ok());
        let descriptor = descriptor.unwrap_or(MOST).min(MOST);
        let generation = usize::from(self.generation);
        Ok(Token(
            self.key | generation << BITS | descriptor << (BITS + u16::BITS),
        ))
    }
}

impl From<Token> for Ticket {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the bits beyond are those of other parts"
    )]
    fn from(Token(token): Token) -> Self {
        let descriptor = (token >> (BITS + u16::BITS)) & MOST;
        Self {
            key: token & MOST,
            generation: (token >> BITS) as u16,
            descriptor: (descriptor < MOST).then_some(descriptor as RawFd),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::REMOTE;
    use super::*;

    #[test]
    fn a_token_says_all_of_a_ticket() {
        let ticket = |key, generation, descriptor| Ticket {
            key,
            generation,
            descriptor,
        };
        for ticket in [
            ticket(0, 0, Some(0)),
            ticket(1, 2, Some(3)),
            ticket(MOST - 1, u16::MAX, Some((1 << BITS) - 2)),
            ticket(MOST - 1, u16::MAX, None),
        ] {
            let token = ticket.token().unwrap();
            assert_eq!(Ticket::from(token), ticket);
            assert_ne!(token, REMOTE);
        }
        let beyond = ticket(7, 7, Some(RawFd::MAX)).token().unwrap();
        assert_eq!(Ticket::from(beyond), ticket(7, 7, None));
        ticket(MOST, 0, Some(0)).token().unwrap_err();
    }
}
