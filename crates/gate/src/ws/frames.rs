//! Where frames begin and end (RFC 6455 §5.2), without looking into them: so that a frame of the
//! gate's own can be put between two of them.

/// Opcodes of control frames (RFC 6455 §11.8).
const CLOSE: u8 = 8;
const PING: u8 = 9;
/// A control frame has no more payload (RFC 6455 §5.5).
const CONTROL_MAX: u64 = 125;

/// Follows one direction of a tunnel.
#[derive(Debug, Default)]
pub struct Frames {
    /// Of the frame under way, as far as it came; stays until the next one begins.
    header: [u8; 14],
    have: u8,
    malformed: bool,
    pinged: bool,
    closed: bool,
    /// The first bytes of a close frame's payload, and how many there are.
    code: [u8; 2],
    code_have: u8,
    /// What is still to come of the payload.
    payload: u64,
    count: u64,
}

impl Frames {
    /// True between two frames, as long as it is known where they are.
    #[must_use]
    pub fn at_border(&self) -> bool {
        !self.malformed && self.have == 0 && self.payload == 0
    }

    /// True once a close frame went by.
    #[must_use]
    pub fn saw_close(&self) -> bool {
        self.closed
    }

    /// The code of the close frame that went by (RFC 6455 §7.4), if it has one.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        (self.code_have == 2).then(|| u16::from_be_bytes(self.code))
    }

    /// True once something went by that no frame may be, whatever extensions were agreed on: from
    /// then on nobody knows where frames begin.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// Frames whose header went by.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True when a ping went by since this was asked last.
    pub fn take_ping(&mut self) -> bool {
        std::mem::take(&mut self.pinged)
    }

    /// Follows `bytes` up to the first border at which `stop`, given what follows there, says so.
    /// Returns how many were followed.
    pub fn follow(&mut self, bytes: &[u8], mut stop: impl FnMut(&[u8]) -> bool) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.malformed {
                return bytes.len();
            }
            if self.payload > 0 {
                let left = usize::try_from(self.payload).unwrap_or(usize::MAX);
                let here = left.min(rest.len());
                self.look_for_code(rest);
                self.payload -= here as u64;
                at += here;
                continue;
            }
            if self.have == 0 && stop(rest) {
                break;
            }
            if let (Some(slot), Some(byte)) =
                (self.header.get_mut(usize::from(self.have)), rest.first())
            {
                *slot = *byte;
            }
            self.have += 1;
            at += 1;
            self.complete_header();
        }
        at
    }

    fn complete_header(&mut self) {
        let [first, second, rest @ ..] = self.header;
        if self.have < 2 {
            return;
        }
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, length, shortest) = match second & 0x7f {
            126 => {
                let [high, low, ..] = rest;
                (2, u64::from(u16::from_be_bytes([high, low])), 126)
            }
            127 => {
                let [a, b, c, d, e, f, g, h, ..] = rest;
                let length = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                (8, length, u64::from(u16::MAX) + 1)
            }
            short => (0, u64::from(short), 0),
        };
        if self.have != 2 + extended + mask {
            return;
        }
        self.have = 0;
        self.count += 1;
        let control = first & 0x08 != 0;
        // The shortest form of a length, its highest bit 0 (§5.2); no control frame in pieces (§5.5).
        let bad_length = length < shortest || i64::try_from(length).is_err();
        let bad_control = control && (length > CONTROL_MAX || first & 0x80 == 0);
        if bad_length || bad_control {
            self.malformed = true;
            return;
        }
        self.payload = length;
        if first & 0x0f == CLOSE {
            self.closed = true;
            // What an earlier one had of a code was too short to be one.
            if self.code_have < 2 {
                self.code_have = 0;
            }
        }
        self.pinged |= first & 0x0f == PING;
    }

    /// Keeps the first two bytes of a close frame's payload, unmasked.
    fn look_for_code(&mut self, payload: &[u8]) {
        let [first, second, k0, k1, ..] = self.header;
        let begun = u64::from(second & 0x7f) - self.payload.min(u64::from(second & 0x7f));
        if first & 0x0f != CLOSE || begun >= 2 || self.code_have != u8::from(begun == 1) {
            return;
        }
        let key = if second & 0x80 == 0 { [0, 0] } else { [k0, k1] };
        let left = usize::try_from(self.payload).unwrap_or(usize::MAX);
        let from = usize::from(self.code_have);
        let slots = self.code.iter_mut().zip(key).skip(from);
        for ((slot, key), byte) in slots.zip(payload.iter().take(left)) {
            *slot = byte ^ key;
            self.code_have += 1;
        }
    }
}

/// A control frame; with a mask toward a server (RFC 6455 §5.3). A payload beyond 125 bytes is
/// cut.
pub(super) fn control_frame(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = payload.get(..payload.len().min(125)).unwrap_or_default();
    let length = u8::try_from(payload.len()).unwrap_or(125);
    let mut frame = vec![
        0x80 | opcode,
        length | if mask.is_some() { 0x80 } else { 0 },
    ];
    if let Some(mask) = mask {
        frame.extend_from_slice(&mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        frame.extend(masked.map(|(byte, key)| byte ^ key));
    } else {
        frame.extend_from_slice(payload);
    }
    frame
}

/// A ping with `payload`.
pub(super) fn ping_frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    control_frame(PING, payload, mask)
}

/// A close frame with `code`; with a mask toward a server (RFC 6455 §5.3).
#[must_use]
pub fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.bytes().take(123));
    control_frame(CLOSE, &payload, mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, masked: bool, length: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        let bit = if masked { 0x80 } else { 0 };
        if length < 126 {
            frame.push(bit | u8::try_from(length).unwrap());
        } else if let Ok(length) = u16::try_from(length) {
            frame.push(bit | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        } else {
            frame.push(bit | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
        if masked {
            frame.extend_from_slice(&[1, 2, 3, 4]);
        }
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    #[test]
    fn the_code_is_that_of_the_first_close_frame_with_one_however_it_arrives() {
        let bytes = [0x88, 1, 7, 0x88, 3, 3, 0xe8, b'x', 0x88, 2, 3, 0xe9];
        for piece in 1..=bytes.len() {
            let mut frames = Frames::default();
            for piece in bytes.chunks(piece) {
                assert_eq!(frames.follow(piece, |_| false), piece.len());
            }
            assert_eq!(frames.close_code(), Some(1_000), "in pieces of {piece}");
        }
    }

    #[test]
    fn borders_are_found_however_the_bytes_arrive() {
        let mut seed = 0x1234_5678_9abc_def1_u64;
        let mut random = move |limit: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % limit as u64).unwrap()
        };
        for round in 0..300 {
            let mut stream = Vec::new();
            let mut borders = vec![0];
            for _ in 0..5 {
                let length = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000][random(8)];
                stream.extend(frame(2, random(2) == 0, length));
                borders.push(stream.len());
            }
            let mut frames = Frames::default();
            let mut at = 0;
            while at < stream.len() {
                let end = (at + 1 + random(9_000)).min(stream.len());
                assert_eq!(frames.follow(&stream[at..end], |_| false), end - at);
                at = end;
                assert_eq!(
                    frames.at_border(),
                    borders.contains(&at),
                    "round {round} at {at}"
                );
            }
            assert!(!frames.saw_close() && !frames.is_malformed());
            assert_eq!(frames.count(), 5);
        }
    }

    #[test]
    fn follow_stops_at_the_first_border() {
        let mut stream = frame(2, true, 10);
        let border = stream.len();
        stream.extend(frame(8, true, 2));
        let mut frames = Frames::default();
        assert_eq!(frames.follow(&stream[..3], |_| false), 3);
        assert_eq!(frames.follow(&stream[3..], |_| true), border - 3);
        assert!(frames.at_border());
        assert_eq!(frames.follow(&stream[border..], |_| true), 0);
        assert_eq!(
            frames.follow(&stream[border..], |_| false),
            stream.len() - border
        );
        assert!(frames.saw_close());
    }

    #[test]
    fn a_close_frame_is_right_and_its_code_is_read() {
        assert_eq!(close_frame(1001, "", None), [0x88, 2, 0x03, 0xe9]);
        let masked = close_frame(1001, "", Some([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]);
        let long = close_frame(4000, "a reason", Some([9, 8, 7, 6]));
        let bare = control_frame(CLOSE, &[], None);
        for (bytes, code) in [(masked, Some(1001)), (long, Some(4000)), (bare, None)] {
            for piece in 1..=bytes.len() {
                let mut frames = Frames::default();
                for part in bytes.chunks(piece) {
                    assert_eq!(frames.follow(part, |_| false), part.len());
                }
                assert!(frames.saw_close() && frames.at_border());
                assert_eq!(frames.close_code(), code);
            }
        }
    }

    #[test]
    fn what_is_no_frame_ends_the_looking() {
        for bad in [
            &[0x82, 126, 0, 125][..], // a length in a longer form than it needs
            &[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255], // the same
            &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], // the highest bit is set
            &[0x09, 0],               // a control frame in pieces
            &[0x88, 126, 0, 200],     // one that is too long
        ] {
            let mut frames = Frames::default();
            let mut stream = frame(1, false, 5);
            stream.extend_from_slice(bad);
            stream.extend([7; 40]);
            assert_eq!(frames.follow(&stream, |_| false), stream.len(), "{bad:?}");
            assert!(frames.is_malformed() && !frames.at_border(), "{bad:?}");
            assert_eq!(frames.follow(&stream, |_| true), stream.len(), "{bad:?}");
        }
        // Opcodes and bits of extensions are no fault.
        let mut frames = Frames::default();
        assert_eq!(frames.follow(&[0xf3, 0, 0x73, 0], |_| false), 4);
        assert!(!frames.is_malformed());
    }
}
