//! A head that is taken survives being written anew: one head, the same meaning, nothing of what
//! was meant for this hop. Seeded; the fuzz target `http1_rewrite` does the same on any bytes.

use fastrand::Rng;
use munjigi_gate::http1::Framing;
use munjigi_gate::http1::head::{HeadLimits, RequestHead, ResponseHead, find_end};
use munjigi_gate::http1::write::{self, Delivery, Edits, Forwarding};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 64 * 1024,
    fields: 200,
};

const FIELDS: &[&str] = &[
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 5, 5\r\n",
    "content-length:5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "transfer-encoding:\tchunked \r\n",
    "Transfer-Encoding : chunked\r\n",
    "TE: trailers\r\n",
    "Connection: close\r\n",
    "Connection: Content-Length, Host\r\n",
    "Connection: Transfer-Encoding\r\n",
    "Connection: upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Upgrade: h2c\r\n",
    "Keep-Alive: 5\r\n",
    "Host: b\r\n",
    "X-Forwarded-For: 1.2.3.4\r\n",
    "Forwarded: for=1.2.3.4\r\n",
    "X: y\r\n z\r\n",
    "X: y\n",
    "X: \r\n",
    "Expect: 100-continue\r\n",
    "Cookie: a=b\r\n",
    "\u{e9}: x\r\n",
    "Date: x\r\n",
];

fn head(random: &mut Rng, starts: &[&str]) -> String {
    let mut text = String::from(*random.choice(starts).unwrap());
    for _ in 0..5 {
        text.push_str(random.choice(FIELDS).unwrap());
    }
    text.push_str("\r\n");
    text
}

#[test]
fn requests_are_written_with_the_meaning_that_they_were_read_with() {
    let mut random = Rng::with_seed(0x5eed_0001);
    let mut taken = 0;
    let starts = [
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /x?y HTTP/1.1\r\nHost: a\r\n",
        "PUT http://a/x HTTP/1.1\r\nHost: a\r\n",
        "GET http://a?x HTTP/1.1\r\nHost: a\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a:80\r\n",
        "GET / HTTP/1.0\r\n",
    ];
    for case in 0..200_000 {
        let text = head(&mut random, &starts);
        let Ok(head) = RequestHead::parse(text.as_bytes(), LIMITS) else {
            continue;
        };
        taken += 1;
        let mut written = Vec::new();
        let forwarding = Forwarding {
            peer: b"2001:db8::1",
            scheme: "http",
            trusted: case % 2 == 0,
            ..Forwarding::default()
        };
        write::request(&mut written, &head, forwarding, "127.0.0.1:80");
        let shown = String::from_utf8_lossy(&written).into_owned();
        let why = format!("case {case}:\n{text}\nwas written as\n{shown}");
        assert_eq!(
            find_end(&written, 0, LIMITS).unwrap(),
            Some(written.len()),
            "{why}"
        );
        let again = RequestHead::parse(&written, LIMITS).unwrap_or_else(|e| panic!("{e}: {why}"));
        assert_eq!(again.framing, head.framing, "{why}");
        assert_eq!(again.method(), head.method(), "{why}");
        assert_eq!(again.upgrade(), head.upgrade(), "{why}");
        let lower = shown.to_ascii_lowercase();
        for gone in ["\r\nte:", "\r\nkeep-alive:", "h2c"] {
            assert!(!lower.contains(gone), "{why}");
        }
        assert_eq!(lower.matches("\r\nhost:").count(), 1, "{why}");
        assert_eq!(lower.matches("\r\nx-forwarded-for:").count(), 1, "{why}");
        assert_eq!(lower.matches("\r\nforwarded:").count(), 1, "{why}");
        assert!(shown.contains("for=\"[2001:db8::1]\""), "{why}");
    }
    assert!(taken > 10_000, "{taken}");
}

#[test]
fn responses_are_written_with_the_meaning_that_they_were_read_with() {
    let mut random = Rng::with_seed(0x5eed_0002);
    let mut taken = 0;
    let starts = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.1 103 Early Hints\r\n",
        "HTTP/1.1 404 \r\n",
    ];
    for case in 0..200_000 {
        let text = head(&mut random, &starts);
        let Ok(head) = ResponseHead::parse(text.as_bytes(), b"GET", LIMITS) else {
            continue;
        };
        taken += 1;
        let framing = match head.framing {
            Framing::UntilClose => Framing::Chunked,
            known => known,
        };
        let mut written = Vec::new();
        let delivery = Delivery {
            framing,
            close: case % 2 == 0,
            say_keep_alive: false,
            date: b"Sat, 21 Nov 2026 03:05:00 GMT",
            upgrade: false,
            edits: Edits::default(),
        };
        write::response(&mut written, &head, delivery);
        let shown = String::from_utf8_lossy(&written).into_owned();
        let why = format!("case {case}:\n{text}\nwas written as\n{shown}");
        assert_eq!(
            find_end(&written, 0, LIMITS).unwrap(),
            Some(written.len()),
            "{why}"
        );
        let again =
            ResponseHead::parse(&written, b"GET", LIMITS).unwrap_or_else(|e| panic!("{e}: {why}"));
        assert_eq!(
            (again.status, again.framing),
            (head.status, framing),
            "{why}"
        );
        let dates = shown.to_ascii_lowercase().matches("\r\ndate:").count();
        assert!(head.status < 200 || dates > 0, "{why}");
    }
    assert!(taken > 10_000, "{taken}");
}
