//! Any bytes as WebSocket frames: following them in pieces finds the same borders, and with answers
//! to pings put in between, exactly those are taken out.
#![no_main]

use std::hash::{DefaultHasher, Hash, Hasher};

use libfuzzer_sys::fuzz_target;
use munjigi_gate::ws::{Frames, Look, Marks};

/// Borders, whether a close frame was seen with which code, whether frames were lost, their number.
type Seen = (Vec<usize>, bool, Option<u16>, bool, u64);

fn borders(bytes: &[u8], piece: usize) -> Seen {
    let mut frames = Frames::default();
    let (mut found, mut at) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        let mut piece = piece;
        while let Some((first, _)) = piece.split_first() {
            let used = frames.follow(std::slice::from_ref(first), |_| false);
            assert_eq!(used, 1);
            at += used;
            piece = &piece[used..];
            let rest = frames.follow(piece, |_| true);
            at += rest;
            piece = &piece[rest..];
            if frames.at_border() {
                found.push(at);
            }
        }
    }
    (
        found,
        frames.saw_close(),
        frames.close_code(),
        frames.is_malformed(),
        frames.count(),
    )
}

/// What is passed on of `bytes` that arrive in pieces, and how many answers were taken out.
fn sieve(bytes: &[u8], piece: usize, marks: &Marks) -> (Vec<u8>, u32) {
    let mut frames = Frames::default();
    let (mut out, mut held, mut taken) = (Vec::new(), Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        held.extend_from_slice(piece);
        loop {
            let count = frames.follow(&held, |rest| marks.look(rest) != Look::Foreign);
            out.extend(held.drain(..count));
            match marks.look(&held) {
                Look::Ours(length, number) if count == 0 => {
                    marks.answer(number);
                    held.drain(..length);
                    taken += 1;
                }
                Look::Unclear if count == 0 => {
                    assert!(held.len() < 18);
                    break;
                }
                _ if held.is_empty() => break,
                _ => assert!(count > 0),
            }
        }
    }
    out.extend(held);
    (out, taken)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let piece = usize::from(*first).max(1);
    let seen = borders(rest, rest.len().max(1));
    assert_eq!(seen, borders(rest, piece));
    // An answer at each border, but for those that nobody can find any more.
    let mut own = DefaultHasher::new();
    rest.hash(&mut own);
    let own = own.finish().to_le_bytes();
    let marks = Marks::new(own);
    let (mut mixed, mut at, mut put) = (Vec::new(), 0, 0);
    for border in seen.0.iter().take(50) {
        mixed.extend_from_slice(&rest[at..*border]);
        let mask = (put % 2 == 0).then_some([*first, 2, 3, 4]);
        let mut pong = marks.ping(mask);
        pong[0] = 0x8a;
        mixed.extend(pong);
        (at, put) = (*border, put + 1);
    }
    mixed.extend_from_slice(&rest[at..]);
    let again = Marks::new(own);
    (0..put).for_each(|_| drop(again.ping(None)));
    assert_eq!(sieve(&mixed, piece, &again), (rest.to_vec(), put));
});
