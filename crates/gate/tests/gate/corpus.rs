//! A corpus of messages, each with the section that decides about it: one meaning, or refused.
use munjigi_gate::http1::BadMessage::{self, *};
use munjigi_gate::http1::Framing;
use munjigi_gate::http1::body::Body;
use munjigi_gate::http1::chunked::Chunked;
use munjigi_gate::http1::head::{HeadLimits, RequestHead, ResponseHead, empty_lines, find_end};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 4_096,
    fields: 20,
};

fn request(input: &str) -> Result<RequestHead, BadMessage> {
    let end = find_end(input.as_bytes(), 0, LIMITS)?.expect("the head does not end");
    RequestHead::parse(&input.as_bytes()[..end], LIMITS)
}

fn response(input: &str, method: &str) -> Result<ResponseHead, BadMessage> {
    let end = find_end(input.as_bytes(), 0, LIMITS)?.expect("the head does not end");
    ResponseHead::parse(&input.as_bytes()[..end], method.as_bytes(), LIMITS)
}

/// `head` is everything before the empty line, with `\n` for CR LF.
fn lines(head: &str) -> String {
    format!("{}\r\n\r\n", head.replace('\n', "\r\n"))
}

#[test]
fn requests_with_one_meaning() {
    use Framing::{Chunked as C, Length as L, None as N};
    let cases: &[(&str, &str, Framing, &str)] = &[
        ("9112 3", "GET / HTTP/1.1\nHost: a", N, "/"),
        ("9112 3", "get / HTTP/1.1\nHost: a", N, "/"),
        (
            "9112 3.2.1",
            "GET /a?b=c&d HTTP/1.1\nHost: a",
            N,
            "/a?b=c&d",
        ),
        (
            "9112 3.2.1",
            "GET /%2e%2E//x HTTP/1.1\nHost: a",
            N,
            "/%2e%2E//x",
        ),
        ("9112 3.2.2", "GET http://a/x HTTP/1.1\nHost: a", N, "/x"),
        (
            "9112 3.2.2",
            "GET HTTP://A:80/x HTTP/1.1\nHost: a:80",
            N,
            "/x",
        ),
        ("9112 3.2.2", "GET http://a HTTP/1.1\nHost: a", N, "/"),
        ("9112 3.2.2", "GET http://a?x HTTP/1.1\nHost: a", N, "?x"),
        ("9112 3.2.2", "GET http://a/x HTTP/1.0", N, "/x"),
        ("9112 3.2.4", "OPTIONS * HTTP/1.1\nHost: a", N, "*"),
        ("9112 2.3", "GET / HTTP/1.0", N, "/"),
        ("9112 5", "GET / HTTP/1.1\nHost:a", N, "/"),
        ("9112 5", "GET / HTTP/1.1\nHost: \t a \t ", N, "/"),
        ("9112 5", "GET / HTTP/1.1\nHost: a\nX:", N, "/"),
        (
            "9110 5.5",
            "GET / HTTP/1.1\nHost: a\nX: \u{e4}\u{f6}",
            N,
            "/",
        ),
        ("9110 7.2", "GET / HTTP/1.1\nHost:", N, "/"),
        ("9110 7.2", "GET / HTTP/1.1\nHost: [::1]:80", N, "/"),
        ("9110 7.2", "GET / HTTP/1.1\nHost: a_b.c-d~e:", N, "/"),
        (
            "9112 6.2",
            "POST / HTTP/1.1\nHost: a\nContent-Length: 0",
            L(0),
            "/",
        ),
        (
            "9112 6.2",
            "POST / HTTP/1.1\nHost: a\nContent-Length: 0005",
            L(5),
            "/",
        ),
        ("9112 6.2", "POST / HTTP/1.0\nContent-Length: 5", L(5), "/"),
        (
            "9112 6.3",
            "GET / HTTP/1.1\nHost: a\nContent-Length: 5",
            L(5),
            "/",
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked",
            C,
            "/",
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\nHost: a\ntransfer-encoding: CHUNKED",
            C,
            "/",
        ),
        (
            "9110 5.1",
            "GET / HTTP/1.1\nHost: a\n!#$%&'*+-.^_`|~09azAZ: x",
            N,
            "/",
        ),
    ];
    for (section, head, framing, target) in cases {
        let parsed =
            request(&lines(head)).unwrap_or_else(|e| panic!("RFC {section}: {head:?}: {e}"));
        assert_eq!(parsed.framing, *framing, "RFC {section}: {head:?}");
        assert_eq!(
            parsed.target(),
            target.as_bytes(),
            "RFC {section}: {head:?}"
        );
    }
}

#[test]
fn requests_that_are_refused() {
    let cases: &[(&str, &str, BadMessage)] = &[
        ("9112 2.2", "GET / HTTP/1.1\r\nHost: a\n\r\n", LineEnd),
        ("9112 2.2", "GET / HTTP/1.1\nHost: a\n\n", LineEnd),
        ("9112 2.2", "GET / HTTP/1.1\r\nHost: a\r\n\n", LineEnd),
        (
            "9112 2.2",
            "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
            LineEnd,
        ),
        ("9112 2.2", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", LineEnd),
        (
            "9112 2.2",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\nContent-Length: 5\r\n\r\n",
            LineEnd,
        ),
        ("9112 2.2", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", Field),
        ("9112 3", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("9112 3", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("9112 3", "GET /\r\nHost: a\r\n\r\n", RequestLine),
        ("9112 3", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("9112 3", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("9112 3", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", RequestLine),
        ("9112 3", "GET / x HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("9112 3", "GET / http/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("9112 2.3", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", Version),
        ("9112 2.3", "PRI * HTTP/2.0\r\n\r\n", Version),
        ("9112 2.3", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", Version),
        ("9112 2.3", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", Version),
        (
            "9112 2.3",
            "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
            RequestLine,
        ),
        ("9112 2.3", "GET / HTTP/11\r\nHost: a\r\n\r\n", RequestLine),
        ("9112 3.2", "GET x HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("9112 3.2", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("9112 3.2", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        (
            "9112 3.2.2",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            Target,
        ),
        (
            "9112 3.2.2",
            "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
            Target,
        ),
        (
            "9112 3.2.2",
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            Target,
        ),
        (
            "9112 3.2.2",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            HostDiffers,
        ),
        (
            "9112 3.2.2",
            "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
            HostDiffers,
        ),
        ("9112 3.2", "GET / HTTP/1.1\r\n\r\n", HostMissing),
        ("9112 3.2", "GET http://a/ HTTP/1.1\r\n\r\n", HostMissing),
        (
            "9112 3.2",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            HostRepeated,
        ),
        (
            "9112 3.2",
            "GET / HTTP/1.0\r\nHost: a\r\nhOST: b\r\n\r\n",
            HostRepeated,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: [::1%eth0]\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
            HostInvalid,
        ),
        (
            "9110 7.2",
            "GET / HTTP/1.1\r\nHost: a%00\r\n\r\n",
            HostInvalid,
        ),
        ("9112 5.1", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", Field),
        (
            "9112 5.1",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
            Field,
        ),
        (
            "9112 5.1",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n",
            Field,
        ),
        (
            "9112 5.1",
            "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
            Field,
        ),
        ("9112 5.1", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Field),
        (
            "9112 5.1",
            "GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n",
            Field,
        ),
        (
            "9110 5.1",
            "GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: z\r\n\r\n",
            Field,
        ),
        (
            "9112 5.2",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
            Field,
        ),
        (
            "9112 5.2",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
            Field,
        ),
        (
            "9110 5.5",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n",
            Field,
        ),
        (
            "9110 5.5",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \u{7f}\r\n\r\n",
            Field,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            ContentLength,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
            ContentLength,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
            ContentLength,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n",
            ContentLength,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            ContentLength,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5_0\r\n\r\n",
            ContentLength,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            ContentLength,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
            ContentLength,
        ),
        (
            "9110 8.6",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n",
            ContentLength,
        ),
        (
            "9112 6.3",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            ContentLength,
        ),
        (
            "9112 6.3",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            ContentLength,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            BothLengths,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n",
            BothLengths,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            CodingInOldVersion,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            UnknownCoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            UnknownCoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            UnknownCoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            UnknownCoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
            TransferEncoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
            TransferEncoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;x=y\r\n\r\n",
            TransferEncoding,
        ),
        (
            "9112 6.1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n",
            Field,
        ),
        (
            "9110 9.3.8",
            "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            TraceWithBody,
        ),
    ];
    for (section, input, expected) in cases {
        match request(input) {
            Err(error) => assert_eq!(error, *expected, "RFC {section}: {input:?}"),
            Ok(head) => panic!("RFC {section}: {input:?} was taken: {head:?}"),
        }
    }
}

#[test]
fn limits_of_heads() {
    let many: String = (0..20).map(|n| format!("X{n}: y\r\n")).collect();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    assert_eq!(request(&head).unwrap_err(), TooManyFields);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(4_096));
    assert_eq!(request(&long).unwrap_err(), HeadTooLarge);
    let endless = vec![b'x'; 4_096];
    assert_eq!(find_end(&endless, 4_000, LIMITS).unwrap_err(), HeadTooLarge);
    assert_eq!(find_end(&endless[..4_095], 0, LIMITS).unwrap(), None);
    assert_eq!(empty_lines(b"\r\nGET"), 2);
    assert_eq!(empty_lines(b"\r\n\r\nGET"), 4);
    assert_eq!(empty_lines(b"\nGET"), 0);
}

#[test]
fn the_end_of_a_head_is_found_wherever_the_bytes_are_cut() {
    let head = lines("GET / HTTP/1.1\nHost: a\nX: y");
    let bytes = format!("{head}body\r\n\r\n").into_bytes();
    for cut in 0..bytes.len() {
        let first = find_end(&bytes[..cut], 0, LIMITS).unwrap();
        assert_eq!(
            first,
            (cut >= head.len()).then_some(head.len()),
            "cut at {cut}"
        );
        if first.is_none() {
            let second = find_end(&bytes, cut, LIMITS).unwrap();
            assert_eq!(second, Some(head.len()), "looked again from {cut}");
        }
    }
}

#[test]
fn responses_with_one_meaning() {
    use Framing::{Chunked as C, Length as L, None as N, UntilClose as U};
    let cases: &[(&str, &str, &str, Framing)] = &[
        ("9112 4", "HTTP/1.1 200 OK", "GET", U),
        ("9112 4", "HTTP/1.1 200 ", "GET", U),
        ("9112 4", "HTTP/1.0 200 OK\nContent-Length: 3", "GET", L(3)),
        (
            "9112 6.3",
            "HTTP/1.1 200 OK\nContent-Length: 3",
            "GET",
            L(3),
        ),
        ("9112 6.3", "HTTP/1.1 200 OK\nContent-Length: 3", "HEAD", N),
        (
            "9112 6.3",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked",
            "GET",
            C,
        ),
        (
            "9112 6.3",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked",
            "HEAD",
            N,
        ),
        ("9112 6.3", "HTTP/1.1 204 No Content", "GET", N),
        (
            "9112 6.3",
            "HTTP/1.1 204 No Content\nContent-Length: 5",
            "GET",
            N,
        ),
        (
            "9112 6.3",
            "HTTP/1.1 304 Not Modified\nContent-Length: 5",
            "GET",
            N,
        ),
        ("9112 6.3", "HTTP/1.1 100 Continue", "POST", N),
        (
            "9110 15.2",
            "HTTP/1.1 103 Early Hints\nLink: </a>",
            "GET",
            N,
        ),
        (
            "9110 15.2",
            "HTTP/1.1 104 Upload Resumption Supported\nLocation: /a",
            "POST",
            N,
        ),
        (
            "9112 6.3",
            "HTTP/1.1 413 Too Large\nContent-Length: 0",
            "POST",
            L(0),
        ),
    ];
    for (section, head, method, framing) in cases {
        let parsed = response(&lines(head), method)
            .unwrap_or_else(|e| panic!("RFC {section}: {head:?}: {e}"));
        assert_eq!(parsed.framing, *framing, "RFC {section}: {head:?}");
    }
}

#[test]
fn responses_that_are_refused() {
    let cases: &[(&str, &str, BadMessage)] = &[
        ("9112 4", "HTTP/1.1 20 OK\r\n\r\n", StatusLine),
        ("9112 4", "HTTP/1.1 2000 OK\r\n\r\n", StatusLine),
        ("9112 4", "HTTP/1.1 xyz OK\r\n\r\n", StatusLine),
        ("9110 15", "HTTP/1.1 600 Odd\r\n\r\n", Status),
        ("9110 15", "HTTP/1.1 099 Odd\r\n\r\n", Status),
        ("9112 2.3", "HTTP/2.0 200 OK\r\n\r\n", Version),
        ("9112 4", "200 OK\r\n\r\n", Version),
        ("9112 4", "HTTP/1.1 200 O\0K\r\n\r\n", StatusLine),
        ("9112 2.2", "HTTP/1.1 200 OK\nX: y\n\n", LineEnd),
        (
            "9112 5.1",
            "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
            Field,
        ),
        ("9112 5.2", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", Field),
        (
            "9112 6.3",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            ContentLength,
        ),
        (
            "9112 6.3",
            "HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\n",
            ContentLength,
        ),
        (
            "9112 6.3",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            BothLengths,
        ),
        (
            "9112 6.1",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            CodingInOldVersion,
        ),
        (
            "9112 6.1",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            UnknownCoding,
        ),
        (
            "9112 6.1",
            "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "9112 6.1",
            "HTTP/1.1 101 Up\r\nTransfer-Encoding: chunked\r\n\r\n",
            TransferEncoding,
        ),
    ];
    for (section, input, expected) in cases {
        match response(input, "GET") {
            Err(error) => assert_eq!(error, *expected, "RFC {section}: {input:?}"),
            Ok(head) => panic!("RFC {section}: {input:?} was taken: {head:?}"),
        }
    }
}

#[test]
fn upgrades_and_persistence() {
    let upgrade = |head: &str| {
        request(&lines(head))
            .unwrap()
            .upgrade()
            .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
    };
    let start = "GET / HTTP/1.1\nHost: a\n";
    let asked = |rest: &str| upgrade(&format!("{start}{rest}"));
    assert_eq!(
        asked("Connection: Upgrade\nUpgrade: websocket").as_deref(),
        Some("websocket")
    );
    assert_eq!(
        asked("Connection: keep-alive, upgrade\nUpgrade: WebSocket").as_deref(),
        Some("WebSocket")
    );
    assert_eq!(
        asked("Upgrade: websocket"),
        None,
        "RFC 9110 7.8: Connection must name it"
    );
    assert_eq!(
        asked("Connection: Upgrade\nUpgrade: h2c"),
        None,
        "never forwarded"
    );
    assert_eq!(
        asked("Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c, websocket"),
        None
    );
    assert_eq!(
        upgrade("GET / HTTP/1.0\nHost: a\nConnection: Upgrade\nUpgrade: websocket"),
        None
    );

    let keeps = |head: &str| request(&lines(head)).unwrap().keeps_alive();
    assert!(keeps("GET / HTTP/1.1\nHost: a"));
    assert!(!keeps("GET / HTTP/1.1\nHost: a\nConnection: x, Close"));
    assert!(!keeps("GET / HTTP/1.0"));
    assert!(keeps("GET / HTTP/1.0\nConnection: keep-alive"));
}

/// Feeds a chunked body in pieces of `step` bytes.
fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, usize, String), BadMessage> {
    let mut decoder = Chunked::default();
    let mut data = Vec::new();
    let mut consumed = 0;
    for piece in input.chunks(step) {
        let mut piece = piece.to_vec();
        let decoded = decoder.decode(&mut piece)?;
        data.extend_from_slice(&piece[..decoded.data]);
        consumed += decoded.consumed;
        if decoded.done {
            let trailers = String::from_utf8(decoder.trailers().to_vec()).unwrap();
            return Ok((data, consumed, trailers));
        }
    }
    panic!("{:?} did not end", String::from_utf8_lossy(input));
}

#[test]
fn chunks_with_one_meaning() {
    let cases: &[(&str, &str, &str, &str)] = &[
        ("9112 7.1", "0\r\n\r\n", "", ""),
        ("9112 7.1", "5\r\nhello\r\n0\r\n\r\n", "hello", ""),
        (
            "9112 7.1",
            "2\r\nhe\r\n003\r\nllo\r\n000\r\n\r\n",
            "hello",
            "",
        ),
        (
            "9112 7.1",
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            "01234567890123456789",
            "",
        ),
        (
            "9112 7.1.1",
            "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n",
            "hello",
            "",
        ),
        ("9112 7.1.1", "5 ;a\r\nhello\r\n0\r\n\r\n", "hello", ""),
        (
            "9112 7.1.2",
            "0\r\nRepr-Digest: sha-256=:x:\r\n\r\n",
            "",
            "Repr-Digest: sha-256=:x:\r\n",
        ),
        (
            "9110 6.5.1",
            "0\r\nContent-Length: 9\r\nX: y\r\nHost: b\r\n\r\n",
            "",
            "X: y\r\n",
        ),
        (
            "9110 6.5.1",
            "0\r\nTransfer-Encoding: chunked\r\nAuthorization: x\r\n\r\n",
            "",
            "",
        ),
    ];
    for (section, input, data, trailers) in cases {
        let with_more = format!("{input}GET / HTTP/1.1\r\n");
        for step in 1..=with_more.len() {
            let (got, consumed, kept) = decode(with_more.as_bytes(), step)
                .unwrap_or_else(|e| panic!("RFC {section}: {input:?} by {step}: {e}"));
            assert_eq!(got, data.as_bytes(), "RFC {section}: {input:?} by {step}");
            assert_eq!(consumed, input.len(), "RFC {section}: {input:?} by {step}");
            assert_eq!(kept, *trailers, "RFC {section}: {input:?} by {step}");
        }
    }
}

#[test]
fn chunks_that_are_refused() {
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
    let many = format!("{}0\r\n\r\n", "1;xxxxxxxxxx\r\na\r\n".repeat(2_000));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(2_000));
    let cases: &[(&str, &str, BadMessage)] = &[
        ("9112 7.1", "\r\n", Chunk),
        ("9112 7.1", "g\r\n", Chunk),
        ("9112 7.1", "0x5\r\nhello\r\n", Chunk),
        ("9112 7.1", "+5\r\nhello\r\n", Chunk),
        ("9112 7.1", "-1\r\n", Chunk),
        ("9112 7.1", " 5\r\nhello\r\n", Chunk),
        ("9112 7.1", "5_0\r\n", Chunk),
        ("9112 7.1", "5 \r\nhello\r\n", Chunk),
        ("9112 7.1", "5\nhello\r\n", Chunk),
        ("9112 7.1", "5\rXhello\r\n", Chunk),
        ("9112 7.1", "5\r\nhelloX\r\n", Chunk),
        ("9112 7.1", "5\r\nhello\n0\r\n\r\n", Chunk),
        ("9112 7.1", "5\r\nhello\rX0\r\n\r\n", Chunk),
        ("9112 7.1", "FFFFFFFFFFFFFFFF\r\n", Chunk),
        ("9112 7.1", "10000000000000000\r\n", Chunk),
        ("9112 7.1", "0000000000000000000000005\r\n", Chunk),
        ("9112 7.1.1", "5;a\nb\r\nhello\r\n", Chunk),
        ("9112 7.1.1", "5;a\0\r\nhello\r\n", Chunk),
        ("9112 7.1.1", &long, ChunkExtensions),
        ("9112 7.1.1", &many, ChunkExtensions),
        ("9112 7.1.2", "0\r\nX : y\r\n\r\n", Trailers),
        ("9112 7.1.2", "0\r\nX: y\n\r\n", Trailers),
        ("9112 7.1.2", "0\r\nX: y\r\n z\r\n\r\n", Trailers),
        ("9112 7.1.2", "0\r\nX: y\rz\r\n\r\n", Trailers),
        ("9112 7.1.2", &trailers, Trailers),
    ];
    for (section, input, expected) in cases {
        for step in [1, 3, input.len()] {
            let mut decoder = Chunked::default();
            let outcome = input
                .as_bytes()
                .chunks(step)
                .try_for_each(|piece| decoder.decode(&mut piece.to_vec()).map(|_| ()));
            let shown: String = input.chars().take(40).collect();
            assert_eq!(
                outcome,
                Err(*expected),
                "RFC {section}: {shown:?} by {step}"
            );
        }
    }
}

#[test]
fn a_body_of_known_length_takes_no_byte_more() {
    let mut body = Body::new(Framing::Length(5));
    let mut bytes = *b"helGET";
    let piece = body.take(&mut bytes[..3]).unwrap();
    assert_eq!((piece.data, piece.consumed, piece.done), (3, 3, false));
    let mut bytes = *b"loGET / HTTP/1.1";
    let piece = body.take(&mut bytes).unwrap();
    assert_eq!((piece.data, piece.consumed, piece.done), (2, 2, true));
    assert!(Body::new(Framing::None).take(&mut bytes).unwrap().done);
}
