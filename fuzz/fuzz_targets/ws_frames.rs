//! Any bytes as WebSocket frames: following them in pieces finds the same borders.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::ws::Frames;

fn borders(bytes: &[u8], piece: usize) -> (Vec<usize>, bool) {
    let mut frames = Frames::default();
    let (mut found, mut at) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        let mut piece = piece;
        while let Some((first, _)) = piece.split_first() {
            let used = frames.follow(std::slice::from_ref(first), false);
            assert_eq!(used, 1);
            at += used;
            piece = &piece[used..];
            let rest = frames.follow(piece, true);
            at += rest;
            piece = &piece[rest..];
            if frames.at_border() {
                found.push(at);
            }
        }
    }
    (found, frames.saw_close())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    assert_eq!(borders(rest, rest.len().max(1)), borders(rest, usize::from(*first).max(1)));
});
