//! The PROXY header, from proxies before the gate and to backends behind it.

use std::time::Duration;

use munjigi_gate::proxy_protocol::{self, Version};
use munjigi_gate::settings::ProxyMode;
use munjigi_gate::{Gate, GateSettings};

use crate::support::*;
use crate::tls_support::*;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn header_of(version: Version, source: &str) -> Vec<u8> {
    let destination = "198.51.100.7:443".parse().unwrap();
    proxy_protocol::write(version, source.parse().unwrap(), destination)
}

fn settings_of(origin: &Origin, mode: ProxyMode, trusted: &[&str]) -> GateSettings {
    let mut settings = settings(&[origin.address]);
    settings.listeners[0].proxy_protocol = mode;
    settings.trusted = trusted
        .iter()
        .map(|network| network.parse().unwrap())
        .collect();
    settings
}

/// What the backend is told of the client when a connection begins with `first`.
async fn told(gate: &Gate, first: &[u8]) -> Option<String> {
    let mut client = client(gate).await;
    client.send_bytes(&[first, GET].concat()).await;
    let head = client.head().await?;
    let body = client.body_of(&head).await;
    assert_eq!(status(&head), 200);
    let body = String::from_utf8(body).unwrap();
    header(&body, "x-forwarded-for").map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_names_the_client() {
    let origin = echo().await;
    let v1 = header_of(Version::V1, "192.0.2.1:1000");
    let v2 = header_of(Version::V2, "[2001:db8::1]:1000");
    for (mode, takes) in [
        (ProxyMode::V1, [true, false]),
        (ProxyMode::V2, [false, true]),
        (ProxyMode::Any, [true, true]),
    ] {
        let gate = start(settings_of(&origin, mode, &["127.0.0.0/8"])).await;
        let named = |takes: bool, name: &str| takes.then(|| name.to_owned());
        assert_eq!(told(&gate, &v1).await, named(takes[0], "192.0.2.1"));
        assert_eq!(told(&gate, &v2).await, named(takes[1], "2001:db8::1"));
        assert_eq!(
            told(&gate, b"").await,
            None,
            "without one the connection ends"
        );
    }
    let gate = start(settings_of(&origin, ProxyMode::Any, &["10.0.0.0/8"])).await;
    let believed = told(&gate, &v1).await.unwrap();
    assert_eq!(believed, "127.0.0.1", "it is read, and not believed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_may_speak_for_themselves() {
    let origin = echo().await;
    let gate = start(settings_of(&origin, ProxyMode::Any, &["127.0.0.0/8"])).await;
    let mut local = header_of(Version::V2, "192.0.2.1:1000");
    local[12] = 0x20;
    let mut unix = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8".to_vec();
    unix.extend([0; 216]);
    let mut with_more = header_of(Version::V2, "192.0.2.1:1000");
    with_more[15] += 7;
    with_more.extend([0xea, 0, 4, 1, 2, 3, 4]);
    for (first, expected) in [
        (local, "127.0.0.1"),
        (unix, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (with_more, "192.0.2.1"),
    ] {
        assert_eq!(told(&gate, &first).await.unwrap(), expected, "{first:?}");
    }
    let mut connection = client(&gate).await;
    // Byte by byte.
    for byte in [header_of(Version::V2, "192.0.2.1:1000").as_slice(), GET].concat() {
        connection.send_bytes(&[byte]).await;
    }
    let (_, body) = connection.response().await;
    let body = String::from_utf8(body).unwrap();
    assert_eq!(header(&body, "x-forwarded-for"), Some("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_have_limits_and_their_ends_codes() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let origin = echo().await;
    let mut settings = settings_of(&origin, ProxyMode::Any, &["127.0.0.0/8"]);
    settings.limits.handshake = Duration::from_millis(300);
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    let large = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".as_slice(),
        &[0; 5_000],
    ]
    .concat();
    for first in [
        long.as_slice(),
        &large,
        b"PROXY TCP4 1 2 3 4\r\n",
        b"PROX",
        b"\x16\x03\x01",
    ] {
        let mut client = client(&gate).await;
        client.send_bytes(first).await;
        assert!(client.rest().await.is_empty());
    }
    eventually("each has its code", || async {
        let figures = admin(&socket, "/metrics").await;
        [
            "proxy_header_bad\"} 3",
            "proxy_header_timeout\"} 1",
            "proxy_header_missing\"} 1",
        ]
        .iter()
        .all(|line| figures.contains(line))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_follows_the_header() {
    use tokio::io::AsyncWriteExt;
    let ca = Authority::new();
    let origin = echo().await;
    let mut settings = settings_of(&origin, ProxyMode::V2, &["127.0.0.0/8"]);
    settings.listeners[0].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
    let gate = start(settings).await;
    let mut stream = tokio::net::TcpStream::connect(gate.address("web").unwrap())
        .await
        .unwrap();
    stream
        .write_all(&header_of(Version::V2, "192.0.2.1:1000"))
        .await
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(ca.client()));
    let stream = connector
        .connect("a.test".try_into().unwrap(), stream)
        .await
        .unwrap();
    let mut client = Peer::new(stream);
    client.send_bytes(GET).await;
    let (_, body) = client.response().await;
    let body = String::from_utf8(body).unwrap();
    assert_eq!(header(&body, "x-forwarded-for"), Some("192.0.2.1"));
    assert_eq!(header(&body, "x-forwarded-proto"), Some("https"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_are_told_who_comes_and_connections_never_mix() {
    for version in [Version::V1, Version::V2] {
        let origin = origin(|mut peer, number| async move {
            let source = peer.proxied_from().await;
            while peer.head().await.is_some() {
                let text = format!("{number} {source}");
                peer.send(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                ))
                .await;
            }
        })
        .await;
        let mut settings = settings(&[origin.address]);
        settings.services.get_mut("APP").unwrap().proxy_protocol = Some(version);
        let gate = start(settings).await;
        for number in [0, 2] {
            let mut client = client(&gate).await;
            let own = client.stream.local_addr().unwrap();
            for request in [number, number + 1] {
                client.send_bytes(GET).await;
                let (_, body) = client.response().await;
                assert_eq!(String::from_utf8(body).unwrap(), format!("{request} {own}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted_for_the_client_that_is_named() {
    let origin = echo().await;
    let mut settings = settings_of(&origin, ProxyMode::Any, &["127.0.0.0/8", "192.0.2.99/32"]);
    settings.listeners[0].connections_per_address = Some(2);
    let gate = start(settings).await;
    let open = async |source: &str| {
        let mut client = client(&gate).await;
        let first = header_of(Version::V2, source);
        client.send_bytes(&[&first, GET].concat()).await;
        let (head, body) = client.response().await;
        (client, status(&head), body)
    };
    let mut kept = Vec::new();
    // Of IPv6 a /64 is one; a proxy behind a proxy speaks for many, too.
    for (source, expected) in [
        ("192.0.2.1:1", 200),
        ("192.0.2.1:2", 200),
        ("192.0.2.1:3", 503),
        ("192.0.2.2:1", 200),
        ("[2001:db8::1]:1", 200),
        ("[2001:db8::2]:1", 200),
        ("[2001:db8::3]:1", 503),
        ("192.0.2.99:1", 200),
        ("192.0.2.99:2", 200),
        ("192.0.2.99:3", 200),
    ] {
        let (client, status, body) = open(source).await;
        assert_eq!(status, expected, "{source}");
        if status == 503 {
            assert_eq!(code(&body), "too_many_from_address", "{source}");
        }
        kept.push(client);
    }
    kept.remove(0);
    eventually("a place is free again", || async {
        open("192.0.2.1:4").await.1 == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_nobody_believes_counts_as_itself() {
    let origin = echo().await;
    let mut settings = settings_of(&origin, ProxyMode::Any, &["10.0.0.0/8"]);
    settings.listeners[0].connections_per_address = Some(1);
    let gate = start(settings).await;
    let mut first = client(&gate).await;
    let named = header_of(Version::V1, "192.0.2.1:1");
    first.send_bytes(&[&named, GET].concat()).await;
    assert_eq!(status(&first.response().await.0), 200);
    // It is closed before a word was said.
    let mut second = client(&gate).await;
    assert_eq!(
        second.rest().await,
        b"",
        "it is the second one of its address"
    );
}
