//! Any bytes as the head of a request and of a response: what is taken has one meaning, whole lines, and a host.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::http1::Framing;
use munjigi_gate::http1::head::{HeadLimits, RequestHead, ResponseHead, find_end};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(end)) = find_end(bytes, 0, LIMITS) else {
        return;
    };
    // Looking from any earlier point finds the same end.
    for scanned in [0, end / 2, end.saturating_sub(1)] {
        assert!(matches!(find_end(bytes, scanned, LIMITS), Ok(Some(found)) if found == end));
    }
    let head = &bytes[..end];
    if let Ok(request) = RequestHead::parse(head, LIMITS) {
        assert!(!request.method().is_empty());
        assert!(
            !request
                .target()
                .iter()
                .any(|byte| *byte <= b' ' || *byte == 0x7f)
        );
        // A length and a coding at once would be two meanings.
        let lower = head.to_ascii_lowercase();
        let has = |name: &[u8]| lower.windows(name.len()).any(|window| window == name);
        if matches!(request.framing, Framing::Chunked) {
            assert!(has(b"\ntransfer-encoding:") && !has(b"\ncontent-length:"));
        }
    }
    drop(ResponseHead::parse(head, b"GET", LIMITS));
    drop(ResponseHead::parse(head, b"HEAD", LIMITS));
});
