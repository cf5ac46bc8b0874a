//! Where WebSocket frames begin and end (RFC 6455 §5.2), without looking into them: so that a
//! close frame can be put between two of them.

/// Follows one direction of a tunnel.
#[derive(Debug, Default)]
pub struct Frames {
    header: [u8; 14],
    have: usize,
    payload: u64,
    closed: bool,
}

impl Frames {
    /// True between two frames.
    #[must_use]
    pub fn at_border(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// True once a close frame went by.
    #[must_use]
    pub fn saw_close(&self) -> bool {
        self.closed
    }

    /// Follows `bytes`; with `stop` only up to the first border. Returns how many were followed.
    pub fn follow(&mut self, bytes: &[u8], stop: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if stop && self.at_border() {
                break;
            }
            if self.payload > 0 {
                let left = usize::try_from(self.payload).unwrap_or(usize::MAX);
                let here = left.min(bytes.len() - at);
                self.payload -= here as u64;
                at += here;
                continue;
            }
            if let (Some(slot), Some(byte)) = (self.header.get_mut(self.have), bytes.get(at)) {
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
        let (extended, length) = match second & 0x7f {
            126 => {
                let [high, low, ..] = rest;
                (2, u64::from(u16::from_be_bytes([high, low])))
            }
            127 => {
                let [a, b, c, d, e, f, g, h, ..] = rest;
                (8, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            short => (0, u64::from(short)),
        };
        if self.have == 2 + extended + mask {
            self.have = 0;
            self.payload = length;
            self.closed |= first & 0x0f == 8;
        }
    }
}

/// A close frame with `code`; with a mask toward a server (RFC 6455 §5.3).
#[must_use]
pub fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.bytes().take(123));
    let length = u8::try_from(payload.len()).unwrap_or(125);
    let mut frame = vec![0x88, length | if mask.is_some() { 0x80 } else { 0 }];
    if let Some(mask) = mask {
        frame.extend_from_slice(&mask);
        for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
    }
    frame.extend_from_slice(&payload);
    frame
}

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
                assert_eq!(frames.follow(&stream[at..end], false), end - at);
                at = end;
                assert_eq!(
                    frames.at_border(),
                    borders.contains(&at),
                    "round {round} at {at}"
                );
            }
            assert!(!frames.saw_close());
        }
    }

    #[test]
    fn follow_stops_at_the_first_border() {
        let mut stream = frame(2, true, 10);
        let border = stream.len();
        stream.extend(frame(8, true, 2));
        let mut frames = Frames::default();
        assert_eq!(frames.follow(&stream[..3], false), 3);
        assert_eq!(frames.follow(&stream[3..], true), border - 3);
        assert!(frames.at_border());
        assert_eq!(frames.follow(&stream[border..], true), 0);
        assert_eq!(
            frames.follow(&stream[border..], false),
            stream.len() - border
        );
        assert!(frames.saw_close());
    }

    #[test]
    fn a_close_frame_is_right() {
        assert_eq!(close_frame(1001, "", None), [0x88, 2, 0x03, 0xe9]);
        let masked = close_frame(1001, "", Some([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]);
        let mut frames = Frames::default();
        assert_eq!(frames.follow(&masked, false), masked.len());
        assert!(frames.saw_close() && frames.at_border());
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        let answer = accept_for(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
