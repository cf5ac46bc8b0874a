//! Sees the frames of a connection go by (RFC 9113 §4.1): counts what only costs us, and knows
//! how much the peer may send and what it took. The frames themselves are `h2`'s business. Pure:
//! it is given the bytes and the time.

use std::time::{Duration, Instant};

use crate::reason::Reason;

/// The client connection preface (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Over what time resets and empty frames are counted.
const PERIOD: Duration = Duration::from_secs(10);
/// The window of a connection before the first WINDOW_UPDATE (RFC 9113 §6.9.2).
const FIRST_WINDOW: i64 = 65_535;
/// Bytes of data that go with one more frame of housekeeping.
const DATA_PER_FRAME: u64 = 512;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// END_STREAM of DATA, ACK of SETTINGS.
const FIRST_FLAG: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Error codes of RST_STREAM by which an endpoint answers mistakes of its peer (RFC 9113 §7):
/// PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM.
const MISTAKES: [u32; 5] = [1, 3, 5, 6, 7];

/// A frame as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: u32,
    /// The first four bytes of the payload, where they say something.
    word: u32,
}

/// Follows the frames of one direction.
#[derive(Debug)]
struct Frames {
    /// Bytes of the preface still to come.
    preface: usize,
    header: [u8; 9],
    have: usize,
    word: [u8; 4],
    word_have: usize,
    /// Bytes of the current frame's payload still to come.
    payload: u32,
    current: Option<Frame>,
}

impl Frames {
    fn new(preface: usize) -> Self {
        Self {
            preface,
            header: [0; 9],
            have: 0,
            word: [0; 4],
            word_have: 0,
            payload: 0,
            current: None,
        }
    }

    fn follow(&mut self, bytes: &[u8], mut seen: impl FnMut(Frame)) {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        let mut rest = bytes.get(skipped..).unwrap_or_default();
        while !rest.is_empty() {
            if self.payload > 0 {
                let here = rest.len().min(self.payload as usize);
                let (part, after) = rest.split_at_checked(here).unwrap_or((rest, &[]));
                self.take_word(part, &mut seen);
                self.payload -= u32::try_from(here).unwrap_or(self.payload);
                rest = after;
                continue;
            }
            let [first, after @ ..] = rest else {
                return;
            };
            if let Some(slot) = self.header.get_mut(self.have) {
                *slot = *first;
            }
            self.have += 1;
            rest = after;
            if self.have == self.header.len() {
                self.have = 0;
                self.begin(&mut seen);
            }
        }
    }

    fn begin(&mut self, seen: &mut impl FnMut(Frame)) {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        let frame = Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            length: u32::from_be_bytes([0, l0, l1, l2]),
            word: 0,
        };
        self.payload = frame.length;
        self.word_have = 0;
        if matches!(kind, RST_STREAM | WINDOW_UPDATE) && frame.length >= 4 {
            self.current = Some(frame);
        } else {
            self.current = None;
            seen(frame);
        }
    }

    /// Collects the first four bytes of a payload that says something.
    fn take_word(&mut self, part: &[u8], seen: &mut impl FnMut(Frame)) {
        let Some(frame) = self.current else {
            return;
        };
        for byte in part {
            let Some(slot) = self.word.get_mut(self.word_have) else {
                break;
            };
            *slot = *byte;
            self.word_have += 1;
        }
        if self.word_have == self.word.len() {
            self.current = None;
            seen(Frame {
                word: u32::from_be_bytes(self.word),
                ..frame
            });
        }
    }
}

/// What a peer may cost us in any 10 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// Streams that it resets, or makes us reset by its mistakes.
    pub(crate) resets: u32,
    /// Frames that carry nothing, beyond those that go with data.
    pub(crate) frames: u32,
}

/// A header block under way.
#[derive(Debug, Clone, Copy)]
struct Block {
    since: Instant,
    /// Its last frame has begun.
    last: bool,
}

/// What is known of a connection by its frames.
#[derive(Debug)]
pub(crate) struct Watch {
    inbound: Frames,
    outbound: Frames,
    allowance: Allowance,
    period: Instant,
    resets: u32,
    frames: i64,
    block: Option<Block>,
    window: i64,
    data_in: u64,
    data_out: u64,
    resets_in: u64,
    resets_out: u64,
    last_in: Instant,
    settled: bool,
    cut: Option<Reason>,
}

impl Watch {
    /// Watches a connection of a client: its preface comes in.
    pub(crate) fn of_client(allowance: Allowance, now: Instant) -> Self {
        Self::new(PREFACE.len(), 0, allowance, now)
    }

    /// Watches a connection to a backend: our preface goes out.
    pub(crate) fn of_backend(allowance: Allowance, now: Instant) -> Self {
        Self::new(0, PREFACE.len(), allowance, now)
    }

    fn new(inbound: usize, outbound: usize, allowance: Allowance, now: Instant) -> Self {
        Self {
            inbound: Frames::new(inbound),
            outbound: Frames::new(outbound),
            allowance,
            period: now,
            resets: 0,
            frames: i64::from(allowance.frames),
            block: None,
            window: FIRST_WINDOW,
            data_in: 0,
            data_out: 0,
            resets_in: 0,
            resets_out: 0,
            last_in: now,
            settled: false,
            cut: None,
        }
    }

    /// Bytes that came from the peer.
    pub(crate) fn received(&mut self, bytes: &[u8], now: Instant) {
        self.last_in = now;
        if now.saturating_duration_since(self.period) >= PERIOD {
            self.period = now;
            self.resets = 0;
            self.frames = i64::from(self.allowance.frames);
        }
        let mut inbound = std::mem::replace(&mut self.inbound, Frames::new(0));
        inbound.follow(bytes, |frame| self.frame_in(frame, now));
        self.inbound = inbound;
        if self.inbound.payload == 0 && self.block.is_some_and(|block| block.last) {
            self.block = None;
        }
    }

    fn frame_in(&mut self, frame: Frame, now: Instant) {
        let flag = frame.flags & FIRST_FLAG != 0;
        // The payload of the frame before is complete by now.
        if self.block.is_some_and(|block| block.last) {
            self.block = None;
        }
        match frame.kind {
            DATA => {
                self.window -= i64::from(frame.length);
                self.data_in += u64::from(frame.length);
                if frame.length > 0 || flag {
                    self.earn(1);
                } else {
                    self.spend();
                }
            }
            HEADERS | CONTINUATION => {
                let since = self.block.map_or(now, |block| block.since);
                let last = frame.flags & END_HEADERS != 0;
                self.block = Some(Block { since, last });
                if frame.kind == HEADERS {
                    self.earn(1);
                } else {
                    self.spend();
                }
            }
            RST_STREAM => {
                self.resets_in += 1;
                self.count_reset();
            }
            SETTINGS if flag => {}
            SETTINGS if !self.settled => self.settled = true,
            _ => self.spend(),
        }
    }

    /// Bytes that went to the peer.
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        let mut outbound = std::mem::replace(&mut self.outbound, Frames::new(0));
        outbound.follow(bytes, |frame| self.frame_out(frame));
        self.outbound = outbound;
    }

    fn frame_out(&mut self, frame: Frame) {
        match frame.kind {
            DATA => {
                self.data_out += u64::from(frame.length);
                self.earn(1 + u64::from(frame.length) / DATA_PER_FRAME);
            }
            WINDOW_UPDATE if frame.stream == 0 => self.window += i64::from(frame.word),
            RST_STREAM => {
                self.resets_out += 1;
                if MISTAKES.contains(&frame.word) {
                    self.count_reset();
                }
            }
            _ => {}
        }
    }

    fn count_reset(&mut self) {
        self.resets += 1;
        if self.resets > self.allowance.resets {
            self.cut.get_or_insert(Reason::Http2Resets);
        }
    }

    fn spend(&mut self) {
        self.frames -= 1;
        if self.frames < 0 {
            self.cut.get_or_insert(Reason::Http2Flood);
        }
    }

    fn earn(&mut self, frames: u64) {
        let earned = i64::try_from(frames).unwrap_or(i64::MAX);
        let most = i64::from(self.allowance.frames);
        self.frames = self.frames.saturating_add(earned).min(most);
    }

    /// Why the connection is to be ended, once the allowance is used up.
    pub(crate) fn cut(&self) -> Option<Reason> {
        self.cut
    }

    /// Since when a header block is incomplete.
    pub(crate) fn block_since(&self) -> Option<Instant> {
        self.block.map(|block| block.since)
    }

    /// The peer may send data, as far as the connection is asked.
    pub(crate) fn peer_has_room(&self) -> bool {
        self.window > 0
    }

    /// Bytes of data that came in, padding included.
    pub(crate) fn data_in(&self) -> u64 {
        self.data_in
    }

    /// Bytes of data that went out.
    pub(crate) fn data_out(&self) -> u64 {
        self.data_out
    }

    /// Streams that the peer reset, and that this side reset, since this was asked the last time.
    pub(crate) fn take_resets(&mut self) -> (u64, u64) {
        (
            std::mem::take(&mut self.resets_in),
            std::mem::take(&mut self.resets_out),
        )
    }

    /// The peer has said its settings, which is its first frame.
    pub(crate) fn settled(&self) -> bool {
        self.settled
    }

    /// When the last byte came in.
    pub(crate) fn last_in(&self) -> Instant {
        self.last_in
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWANCE: Allowance = Allowance {
        resets: 5,
        frames: 10,
    };
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// Feeds `bytes` in pieces of each size and hands back what is known then.
    fn after(bytes: &[u8], check: impl Fn(&Watch)) {
        for step in [1, 7, bytes.len().max(1)] {
            let now = Instant::now();
            let mut watch = Watch::of_client(ALLOWANCE, now);
            watch.received(PREFACE, now);
            for piece in bytes.chunks(step) {
                watch.received(piece, now);
            }
            check(&watch);
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_counted() {
        let cut = |kind: u8, flags: u8, payload: &[u8], times: usize, expected: Option<Reason>| {
            let bytes = frame(kind, flags, 1, payload).repeat(times);
            after(&bytes, |watch| {
                assert_eq!(watch.cut(), expected, "kind {kind}, {times} times");
            });
        };
        let flood = Some(Reason::Http2Flood);
        cut(PING, 0, &[0; 8], 10, None);
        cut(PING, 0, &[0; 8], 11, flood);
        cut(SETTINGS, 0, &[0; 6], 11, None);
        cut(SETTINGS, 0, &[0; 6], 12, flood);
        cut(SETTINGS, FIRST_FLAG, &[], 100, None);
        cut(2, 0, &[0; 5], 11, flood);
        cut(WINDOW_UPDATE, 0, &[0, 0, 0, 1], 11, flood);
        cut(CONTINUATION, 0, &[], 11, flood);
        cut(7, 0, &[0; 8], 11, flood);
        cut(0xfa, 0, b"x", 11, flood);
        cut(DATA, 0, &[], 11, flood);
        cut(DATA, FIRST_FLAG, &[], 100, None);
        cut(DATA, 0, b"x", 100, None);
        cut(RST_STREAM, 0, &[0, 0, 0, 8], 5, None);
        cut(RST_STREAM, 0, &[0, 0, 0, 8], 6, Some(Reason::Http2Resets));
    }

    #[test]
    fn what_goes_with_data_is_free_and_time_forgives() {
        let now = Instant::now();
        let mut watch = Watch::of_client(ALLOWANCE, now);
        watch.received(PREFACE, now);
        let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 64, 0]);
        for _ in 0..1_000 {
            watch.sent(&frame(DATA, 0, 1, &[0; 4_096]));
            watch.received(&update.repeat(8), now);
        }
        assert_eq!(watch.cut(), None);
        let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
        for second in 0..60 {
            watch.received(&reset.repeat(5), now + Duration::from_secs(second * 11));
        }
        assert_eq!(watch.cut(), None);
        assert_eq!(watch.take_resets(), (300, 0));
    }

    #[test]
    fn resets_that_the_peer_provokes_count_like_its_own() {
        let provoked = |code: u8, expected: Option<Reason>| {
            let mut watch = Watch::of_client(ALLOWANCE, Instant::now());
            watch.sent(&frame(RST_STREAM, 0, 1, &[0, 0, 0, code]).repeat(6));
            assert_eq!(watch.cut(), expected, "code {code}");
        };
        for code in [1, 3, 5, 6, 7] {
            provoked(code, Some(Reason::Http2Resets));
        }
        for code in [0, 2, 8, 11] {
            provoked(code, None);
        }
    }

    #[test]
    fn a_header_block_is_open_until_its_last_byte() {
        let open = |bytes: &[u8], expected: bool| {
            after(bytes, |watch| {
                assert_eq!(watch.block_since().is_some(), expected, "{bytes:?}");
            });
        };
        let whole = frame(HEADERS, END_HEADERS, 1, b"abc");
        open(&whole, false);
        open(&whole[..10], true);
        open(&frame(HEADERS, 0, 1, b"abc"), true);
        let mut two = frame(HEADERS, 0, 1, b"abc");
        two.extend(frame(CONTINUATION, END_HEADERS, 1, b"d"));
        open(&two, false);
        two.extend(frame(HEADERS, 0, 3, b""));
        open(&two, true);
    }

    #[test]
    fn the_window_of_the_connection_is_known() {
        let mut data = Vec::new();
        for _ in 0..4 {
            data.extend(frame(DATA, 0, 1, &[0; 16_383]));
        }
        let now = Instant::now();
        let mut watch = Watch::of_client(ALLOWANCE, now);
        watch.received(PREFACE, now);
        watch.received(&data, now);
        assert!(watch.peer_has_room());
        watch.received(&frame(DATA, 0, 1, &[0; 3]), now);
        assert!(!watch.peer_has_room());
        watch.sent(&frame(WINDOW_UPDATE, 0, 3, &[0, 1, 0, 0]));
        assert!(!watch.peer_has_room());
        watch.sent(&frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]));
        assert!(watch.peer_has_room());
        assert_eq!(watch.data_in(), 65_535);
    }
}
