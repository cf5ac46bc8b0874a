//! Any bytes as the head of a request and of a response: what is taken has one meaning, whole lines, and a host; and
//! another parser takes the same lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::http1::head::{HeadLimits, RequestHead, ResponseHead, find_end};
use munjigi_gate::http1::{BadMessage, Framing};

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
    // Another parser takes the same lines, and bare line ends, which are none here.
    let counts = |byte: u8| head.iter().filter(|other| **other == byte).count();
    let pairs = head.windows(2).filter(|pair| pair == b"\r\n").count();
    let paired = counts(b'\r') == pairs && counts(b'\n') == pairs;
    let whole = Ok(httparse::Status::Complete(end));
    let mut storage = [httparse::EMPTY_HEADER; LIMITS.fields];
    let taken = httparse::Request::new(&mut storage).parse(head) == whole;
    assert_eq!(
        reads(&RequestHead::parse(head, LIMITS).err()),
        taken && paired
    );
    let mut storage = [httparse::EMPTY_HEADER; LIMITS.fields];
    let taken = httparse::Response::new(&mut storage).parse(head) == whole;
    assert_eq!(
        reads(&ResponseHead::parse(head, b"GET", LIMITS).err()),
        taken && paired
    );
    drop(ResponseHead::parse(head, b"HEAD", LIMITS));
});

/// Whether all lines were read, whatever was found in them.
fn reads(error: &Option<BadMessage>) -> bool {
    !matches!(
        error,
        Some(
            BadMessage::LineEnd
                | BadMessage::RequestLine
                | BadMessage::StatusLine
                | BadMessage::Version
                | BadMessage::Field
                | BadMessage::TooManyFields
        )
    )
}
