//! A head that is taken survives being written anew: one head, with the same meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::http1::Framing;
use munjigi_gate::http1::head::{HeadLimits, RequestHead, ResponseHead, find_end};
use munjigi_gate::http1::write::{self, Delivery, Edits, Forwarding};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
};
/// What we write may be longer than what we read, by what we say about the client.
const WRITTEN: HeadLimits = HeadLimits {
    bytes: 192 * 1024,
    fields: 256,
};

fn request(bytes: &[u8]) {
    let Ok(head) = RequestHead::parse(bytes, LIMITS) else {
        return;
    };
    if head.method() == b"CONNECT" {
        return;
    }
    let mut written = Vec::new();
    let forwarding = Forwarding {
        peer: b"192.0.2.1",
        scheme: "http",
        trusted: false,
        ..Forwarding::default()
    };
    write::request(&mut written, &head, forwarding, "192.0.2.2:80");
    assert_eq!(
        find_end(&written, 0, WRITTEN),
        Ok(Some(written.len())),
        "one head, not two"
    );
    let again = RequestHead::parse(&written, WRITTEN).expect("what we write is valid");
    assert_eq!(head.method(), again.method());
    assert_eq!(head.framing, again.framing);
    assert_eq!(head.upgrade(), again.upgrade());
    if let Some(host) = head.host() {
        assert_eq!(Some(host), again.host());
    }
}

fn response(bytes: &[u8]) {
    let Ok(head) = ResponseHead::parse(bytes, b"GET", LIMITS) else {
        return;
    };
    let framing = match head.framing {
        Framing::UntilClose => Framing::Chunked,
        known => known,
    };
    let delivery = Delivery {
        framing,
        close: false,
        say_keep_alive: false,
        date: b"Sat, 21 Nov 2026 03:05:00 GMT",
        upgrade: false,
        edits: Edits::default(),
    };
    let mut written = Vec::new();
    write::response(&mut written, &head, delivery);
    assert_eq!(
        find_end(&written, 0, WRITTEN),
        Ok(Some(written.len())),
        "one head, not two"
    );
    let again = ResponseHead::parse(&written, b"GET", WRITTEN).expect("what we write is valid");
    assert_eq!((again.status, again.framing), (head.status, framing));
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(end)) = find_end(bytes, 0, LIMITS) {
        request(&bytes[..end]);
        response(&bytes[..end]);
    }
});
