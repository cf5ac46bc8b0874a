//! Pings of the gate's own (RFC 6455 §5.5.2). Each peer is pinged for itself, and its answers are
//! told from those to the pings of the other peer by their payload: eight bytes that only this
//! tunnel knows, and a number.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::Side;
use super::frames::ping_frame;

/// The first byte of a pong: all in one frame, no bits of extensions.
const PONG: u8 = 0x8a;
/// Bytes of a mark.
const MARK: usize = 12;

/// What bytes at a border of frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing of ours.
    Foreign,
    /// The begin of what may be the answer to a ping of ours; at most 17 bytes.
    Unclear,
    /// An answer to the ping of this number; so many bytes.
    Ours(usize, u32),
}

/// The payloads of the pings that one peer got.
#[derive(Debug)]
pub struct Marks {
    own: [u8; 8],
    sent: Cell<u32>,
    answered: Cell<u32>,
}

impl Marks {
    /// Marks that begin with `own`, a number by chance.
    #[must_use]
    pub fn new(own: [u8; 8]) -> Self {
        Self {
            own,
            sent: Cell::new(0),
            answered: Cell::new(0),
        }
    }

    /// The next ping; with a mask toward a server.
    #[must_use]
    pub fn ping(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let number = self.sent.get().saturating_add(1);
        self.sent.set(number);
        ping_frame(&self.mark(number), mask)
    }

    fn mark(&self, number: u32) -> [u8; MARK] {
        let mut mark = [0; MARK];
        let (own, rest) = mark.split_at_mut(self.own.len());
        own.copy_from_slice(&self.own);
        rest.copy_from_slice(&number.to_be_bytes());
        mark
    }

    /// Looks at bytes of the peer that begin at a border. A peer may answer only the last of
    /// several pings (RFC 6455 §5.5.3): then the ones before count as answered, too.
    #[must_use]
    pub fn look(&self, bytes: &[u8]) -> Look {
        if self.sent.get() == self.answered.get() {
            return Look::Foreign;
        }
        let (masked, rest) = match bytes {
            [PONG] => return Look::Unclear,
            [PONG, second, rest @ ..] if usize::from(second & 0x7f) == MARK => {
                (second & 0x80 != 0, rest)
            }
            _ => return Look::Foreign,
        };
        let (key, payload) = match (masked, rest) {
            (false, rest) => ([0; 4], rest),
            (true, [a, b, c, d, rest @ ..]) => ([*a, *b, *c, *d], rest),
            (true, _) => return Look::Unclear,
        };
        let mut mark = [0; MARK];
        let open = payload.iter().zip(key.iter().cycle());
        for (slot, (byte, key)) in mark.iter_mut().zip(open) {
            *slot = byte ^ key;
        }
        let there = payload.len().min(MARK);
        let (own, number) = mark.split_at(self.own.len());
        let compared = there.min(self.own.len());
        if own.get(..compared) != self.own.get(..compared) {
            return Look::Foreign;
        }
        if there < MARK {
            return Look::Unclear;
        }
        let number = number.iter().fold(0, |sum, b| sum << 8 | u32::from(*b));
        if number > self.answered.get() && number <= self.sent.get() {
            let header = if masked { 6 } else { 2 };
            Look::Ours(header + MARK, number)
        } else {
            Look::Foreign
        }
    }

    /// Notes an answer.
    pub fn answer(&self, number: u32) {
        self.answered.set(number.max(self.answered.get()));
    }

    /// Pings sent, and the number of the last one that was answered.
    #[must_use]
    pub fn counts(&self) -> (u32, u32) {
        (self.sent.get(), self.answered.get())
    }
}

/// What is known of one peer.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) marks: Marks,
    /// When bytes last went to it, and came from it; pings and their answers are bytes, too.
    pub(crate) to: Cell<Instant>,
    pub(crate) from: Cell<Instant>,
    /// When it was pinged last, by us or by the other peer.
    pub(crate) pinged: Cell<Instant>,
    /// The begin of a frame of the peer that may be an answer to us: not passed on yet.
    pub(crate) held: RefCell<Vec<u8>>,
}

impl Leg {
    fn new(own: [u8; 8], now: Instant) -> Self {
        Self {
            marks: Marks::new(own),
            to: Cell::new(now),
            from: Cell::new(now),
            pinged: Cell::new(now),
            held: RefCell::default(),
        }
    }
}

/// The pings of one tunnel.
#[derive(Debug)]
pub(crate) struct Pings {
    every: Duration,
    client: Leg,
    backend: Leg,
    /// Off once frames can't be told apart, or one of the peers ends.
    on: Cell<bool>,
}

impl Pings {
    /// Pings for each `every` in which not both directions between the gate and a peer were used.
    pub(crate) fn new(every: Duration, now: Instant) -> Self {
        let mut own = [[0; 8]; 2];
        for own in &mut own {
            if let Err(error) = getrandom::fill(own) {
                tracing::debug!(%error, "no randomness for the marks of pings: zeros are valid, too");
            }
        }
        let [client, backend] = own;
        Self {
            every,
            client: Leg::new(client, now),
            backend: Leg::new(backend, now),
            on: Cell::new(true),
        }
    }

    pub(crate) fn leg(&self, side: Side) -> &Leg {
        match side {
            Side::Client => &self.client,
            Side::Backend => &self.backend,
        }
    }

    /// When `side` is to be pinged. Whoever has just been pinged by the other peer has the same
    /// time to answer it: of several pings it might answer only the last.
    pub(crate) fn due(&self, side: Side) -> Option<Instant> {
        let leg = self.leg(side);
        let quiet = leg.to.get().min(leg.from.get());
        self.on
            .get()
            .then(|| quiet.max(leg.pinged.get()) + self.every)
    }

    /// No more of them; answers that are on their way are still taken out.
    pub(crate) fn end(&self) {
        self.on.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::frames::control_frame;

    const OWN: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    fn answer(ping: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        control_frame(10, &ping[2..], mask)
    }

    #[test]
    fn an_answer_is_known_once_it_is_whole_and_only_once() {
        for mask in [None, Some([7, 0, 9, 1])] {
            let marks = Marks::new(OWN);
            let first = answer(&marks.ping(None), mask);
            let second = answer(&marks.ping(None), mask);
            for end in 1..first.len() {
                assert_eq!(marks.look(&first[..end]), Look::Unclear, "{end}");
            }
            let mut more = first.clone();
            more.extend([0x81, 1, 2]);
            assert_eq!(marks.look(&more), Look::Ours(first.len(), 1));
            // The last one stands for all before.
            assert_eq!(marks.look(&second), Look::Ours(second.len(), 2));
            marks.answer(2);
            assert_eq!(marks.look(&first), Look::Foreign);
            assert_eq!(marks.look(&second), Look::Foreign);
            assert_eq!(marks.counts(), (2, 2));
        }
    }

    #[test]
    fn nothing_else_is_held_back() {
        let marks = Marks::new(OWN);
        let early = answer(&Marks::new(OWN).ping(None), None);
        assert_eq!(marks.look(&early), Look::Foreign, "nothing was sent");
        let ping = marks.ping(None);
        let foreign = answer(&Marks::new([9; 8]).ping(None), None);
        let mut fragment = answer(&ping, None);
        fragment[0] = 0x0a;
        let mut compressed = answer(&ping, None);
        compressed[0] = 0xca;
        for bytes in [
            &foreign[..],
            &foreign[..3],
            &fragment,
            &compressed,
            &ping,
            &control_frame(10, b"", None),
            &control_frame(10, &[1; 13], None),
            &[],
        ] {
            assert_eq!(marks.look(bytes), Look::Foreign, "{bytes:?}");
        }
    }

    #[test]
    fn a_leg_is_pinged_when_one_direction_was_quiet() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let pings = Pings::new(Duration::from_secs(30), start);
        let leg = pings.leg(Side::Client);
        assert_eq!(pings.due(Side::Client), Some(at(30)));
        // Much goes to it, nothing comes from it.
        leg.to.set(at(25));
        assert_eq!(pings.due(Side::Client), Some(at(30)));
        leg.from.set(at(20));
        assert_eq!(pings.due(Side::Client), Some(at(50)));
        // It does not answer: it is pinged on and on.
        leg.pinged.set(at(50));
        assert_eq!(pings.due(Side::Client), Some(at(80)));
        assert_eq!(pings.due(Side::Backend), Some(at(30)));
        pings.end();
        assert_eq!(pings.due(Side::Backend), None);
    }
}
