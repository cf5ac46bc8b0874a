//! Any bytes as a chunked body: read in one piece or in many, it is the same body or the same refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::http1::chunked::Chunked;

/// The data, what was used, and whether it ended; `None` when refused.
fn decode(bytes: &[u8], piece: usize) -> Option<(Vec<u8>, usize, bool)> {
    let mut decoder = Chunked::default();
    let (mut data, mut used, mut done) = (Vec::new(), 0, false);
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        while !piece.is_empty() && !done {
            let decoded = decoder.decode(&mut piece).ok()?;
            assert!(decoded.data <= decoded.consumed && decoded.consumed <= piece.len());
            data.extend_from_slice(&piece[..decoded.data]);
            used += decoded.consumed;
            done = decoded.done;
            assert!(decoded.consumed > 0, "it makes progress");
            piece.drain(..decoded.consumed);
        }
        if done {
            break;
        }
    }
    Some((data, used, done))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let whole = decode(rest, rest.len().max(1));
    let pieces = decode(rest, usize::from(*first).max(1));
    // A refusal may come later when less is seen at once, never not at all for a body that ended.
    match (whole, pieces) {
        (Some(whole), Some(pieces)) => assert_eq!(whole, pieces),
        (None, None) => {}
        (whole, pieces) => panic!("{whole:?} {pieces:?}"),
    }
});
