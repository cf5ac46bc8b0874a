//! Any fields as the head of a request that came by HTTP/2: what is taken has one meaning, and what goes on to a
//! backend, of either version, is one head with one host and nothing between its lines. Any fields as a response
//! and as trailers, too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::http1::Framing;
use munjigi_gate::http1::head::{HeadLimits, RequestHead, find_end};
use munjigi_gate::http1::write::{self, Delivery, Edits, Forwarding};
use munjigi_gate::http2::translate::{self, Ask, Content};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
};

/// Lines of the input: method, scheme and authority and path as a URI, then `name:value` each.
fn parts(bytes: &[u8]) -> Option<http::request::Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut request = http::Request::new(());
    *request.method_mut() = http::Method::from_bytes(lines.next()?).ok()?;
    *request.uri_mut() = http::Uri::try_from(lines.next()?).ok()?;
    *request.headers_mut() = fields(lines);
    Some(request.into_parts().0)
}

fn fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = http::HeaderName::from_bytes(&line[..colon]);
        let value = http::HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            drop(map.try_append(name, value));
        }
    }
    map
}

fn go_on(head: &RequestHead) -> Vec<u8> {
    let forwarding = Forwarding {
        peer: b"127.0.0.1",
        scheme: "http",
        trusted: false,
        target: None,
        edits: Edits::default(),
    };
    let mut out = Vec::new();
    write::request(&mut out, head, forwarding, "127.0.0.1:80");
    out
}

fuzz_target!(|bytes: &[u8]| {
    let Some(parts) = parts(bytes) else {
        return;
    };
    for content in [
        Content::None,
        Content::Body,
        Content::WebSocket {
            key: "dGhlIHNhbXBsZSBub25jZQ==",
        },
    ] {
        let Ok(head) = translate::request(&parts, content, LIMITS) else {
            continue;
        };
        let lines = go_on(&head);
        if head.method() != b"CONNECT" {
            // One head, read by any server as it was meant: the same target, host and framing.
            let most = HeadLimits {
                bytes: 64 * 1024,
                fields: 120,
            };
            assert!(matches!(find_end(&lines, 0, most), Ok(Some(end)) if end == lines.len()));
            let read = RequestHead::parse(&lines, most).expect("what was written can't be read");
            assert_eq!(read.target(), head.target());
            assert_eq!(read.host(), head.host());
            assert_eq!(read.framing, head.framing);
            assert!(content != Content::Body || head.framing != Framing::None);
        }
        let websocket = matches!(content, Content::WebSocket { .. });
        let ask = Ask {
            trailers: true,
            websocket,
        };
        if let Ok(request) =
            translate::to_backend(lines, &http::uri::Scheme::HTTP, "127.0.0.1:80", ask)
        {
            for gone in [
                "connection",
                "transfer-encoding",
                "upgrade",
                "keep-alive",
                "host",
            ] {
                assert!(!request.headers().contains_key(gone));
            }
        }
    }
    let mut response = http::Response::new(());
    *response.headers_mut() = parts.headers.clone();
    let response = response.into_parts().0;
    if let Ok(head) = translate::from_backend(&response, false, b"GET", LIMITS) {
        let mut out = Vec::new();
        let delivery = Delivery {
            framing: head.framing,
            close: false,
            say_keep_alive: false,
            date: b"",
            upgrade: false,
            edits: Edits::default(),
        };
        write::response(&mut out, &head, delivery);
        assert!(translate::response(out, 200).is_ok());
    }
    let lines = translate::trailer_lines(&parts.headers);
    let map = translate::trailer_fields(&lines);
    assert_eq!(translate::trailer_lines(&map), lines);
});
