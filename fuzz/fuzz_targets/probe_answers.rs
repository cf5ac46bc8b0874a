//! Any bytes as answers to probes: read or refused, and what we write ourselves is understood.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::health::answer::{echo_reply, echo_request, grpc_request, grpc_status};

fuzz_target!(|bytes: &[u8]| {
    if grpc_status(bytes).is_some() {
        assert!(bytes.len() >= 5);
    }
    for (v6, header) in [(false, false), (false, true), (true, false)] {
        if let Some(payload) = echo_reply(bytes, v6, header) {
            assert!(payload.len() + 8 <= bytes.len());
        }
    }
    let mut echo = echo_request(false, 1, 2, bytes);
    assert_eq!(echo_reply(&echo, false, false), None);
    echo[0] = 0;
    assert_eq!(echo_reply(&echo, false, false), Some(bytes));
    if let Ok(name) = std::str::from_utf8(bytes) {
        // A request has the same frame, and no field that is a number.
        assert_eq!(grpc_status(&grpc_request(name)), Some(0));
    }
});
