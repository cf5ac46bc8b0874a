//! Compression over real sockets: only where a route asks, only what is worth it, and without
//! holding anything back.

use std::io::Read;

use munjigi_gate::Gate;

use crate::support::*;

pub(crate) fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "zstd" => out = zstd::decode_all(bytes).unwrap(),
        "br" => {
            brotli::Decompressor::new(bytes, 4_096)
                .read_to_end(&mut out)
                .unwrap();
        }
        "gzip" => {
            flate2::read::GzDecoder::new(bytes)
                .read_to_end(&mut out)
                .unwrap();
        }
        other => panic!("{other}"),
    }
    out
}

/// Answers `/N` with N bytes of JSON; the query holds further header fields.
async fn json() -> Origin {
    origin(|mut peer, _| async move {
        while let Some(head) = peer.head().await {
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let (path, fields) = target.split_once('?').unwrap_or((&target, ""));
            let size: usize = path.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
            let fields: String = fields
                .split('&')
                .filter(|f| !f.is_empty())
                .map(|f| format!("{}\r\n", f.replace('=', ": ").replace('+', " ")))
                .collect();
            let kind = if fields.contains("Content-Type") { "" } else { "Content-Type: application/json\r\n" };
            let body = "[1,2,3],".repeat(size / 8 + 1);
            let shown = if head.starts_with("HEAD") { 0 } else { size };
            let body: String = body.chars().take(shown).collect();
            peer.send(&format!("HTTP/1.1 200 OK\r\n{kind}{fields}ETag: \"v\"\r\nAccept-Ranges: bytes\r\nContent-Length: {size}\r\n\r\n{body}")).await;
        }
    })
    .await
}

const ROUTES: &str = "
[[gate.route]]
path = \"/\"
service = \"APP\"
[[gate.route]]
path = \"/c\"
service = \"APP\"
compression = {}
[[gate.route]]
path = \"/files\"
strip_prefix = true
files = { root = \".\" }
compression = { algorithms = [\"gzip\"] }
";

async fn get(gate: &Gate, path: &str, accept: &str) -> (String, Vec<u8>) {
    ask(
        gate,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {accept}\r\n\r\n"),
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_compresses_is_compressed_where_a_route_asks() {
    let origin = json().await;
    let folder = tempfile::tempdir().unwrap();
    let plain = "0123456789 ".repeat(200_000);
    std::fs::write(folder.path().join("large.txt"), &plain).unwrap();
    let gate = start(written(folder.path(), &[("APP", origin.address)], ROUTES)).await;
    let expected = "[1,2,3],".repeat(50_000);
    for coding in ["zstd", "br", "gzip"] {
        let (head, body) = get(&gate, "/c/400000", coding).await;
        assert_eq!(header(&head, "content-encoding"), Some(coding));
        assert_eq!(header(&head, "vary"), Some("Accept-Encoding"));
        assert_eq!(header(&head, "etag"), Some("W/\"v\""));
        assert_eq!(header(&head, "content-length"), None);
        assert_eq!(header(&head, "accept-ranges"), None);
        assert!(body.len() < 40_000, "{coding}: {}", body.len());
        assert_eq!(decoded(coding, &body), expected.as_bytes());
    }
    let (head, body) = get(&gate, "/files/large.txt", "gzip").await;
    assert_eq!(header(&head, "content-encoding"), Some("gzip"));
    assert!(header(&head, "etag").unwrap().starts_with("W/\""));
    assert_eq!(decoded("gzip", &body), plain.as_bytes());

    let untouched = async |path: &str, accept: &str| {
        let (head, body) = get(&gate, path, accept).await;
        assert_eq!(
            header(&head, "content-encoding").filter(|c| *c != "deflate"),
            None,
            "{path}"
        );
        assert_eq!(header(&head, "etag"), Some("\"v\""), "{path}");
        assert!(body.starts_with(b"[1,2"), "{path}");
        header(&head, "vary").map(str::to_owned)
    };
    let vary = Some("Accept-Encoding".to_owned());
    assert_eq!(
        untouched("/400000", "br").await,
        None,
        "a route that does not ask"
    );
    assert_eq!(untouched("/c/400000", "identity").await, vary);
    assert_eq!(untouched("/c/400000", "br;q=0").await, vary);
    assert_eq!(untouched("/c/1000", "br").await, vary);
    assert_eq!(
        untouched("/c/9000?Cache-Control=no-transform", "br").await,
        None
    );
    assert_eq!(
        untouched("/c/9000?Content-Type=image/png", "br").await,
        None
    );
    assert_eq!(
        untouched("/c/9000?Content-Encoding=deflate", "br").await,
        None
    );
    assert_eq!(
        untouched("/c/9000?Content-Range=bytes+0-1/2", "br").await,
        None
    );
    assert_eq!(
        untouched("/c/9000?Repr-Digest=sha-256=:AA:", "br").await,
        None
    );
    // The head of the answer to HEAD is the one that GET would get.
    let mut client = client(&gate).await;
    client
        .send("HEAD /c/9000 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: br\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(header(&head, "content-encoding"), Some("br"));
    assert_eq!(header(&head, "content-length"), None);
    client
        .send("GET /c/9000 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: br\r\n\r\n")
        .await;
    let (_, body) = client.response().await;
    assert_eq!(decoded("br", &body).len(), 9_000, "the connection goes on");
    let mut old = Peer::connect(gate.address("web").unwrap()).await;
    old.send("GET /c/9000 HTTP/1.0\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
        .await;
    let head = old.head().await.unwrap();
    assert_eq!(header(&head, "transfer-encoding"), None);
    assert_eq!(decoded("gzip", &old.rest().await).len(), 9_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_pauses_is_not_held_back() {
    let (go, wait) = tokio::sync::watch::channel(0);
    let origin = origin(move |mut peer, _| {
        let mut wait = wait.clone();
        async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for part in 1..=3 {
                wait.wait_for(|turn| *turn >= part).await.unwrap();
                peer.send(&format!("8\r\ndata: {part}\n\r\n")).await;
            }
            peer.send("0\r\n\r\n").await;
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let gate = start(written(folder.path(), &[("APP", origin.address)], ROUTES)).await;
    for coding in ["zstd", "br", "gzip"] {
        go.send_replace(0);
        let mut client = client(&gate).await;
        client
            .send(&format!(
                "GET /c/1 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {coding}\r\n\r\n"
            ))
            .await;
        let head = client.head().await.unwrap();
        assert_eq!(header(&head, "content-encoding"), Some(coding));
        let mut coded = Vec::new();
        for part in 1..=3 {
            go.send_replace(part);
            // What was sent so far can be read before the next part exists.
            let expected = (1..=part)
                .map(|n| format!("data: {n}\n"))
                .collect::<String>();
            while so_far(coding, &coded) != expected.as_bytes() {
                let size = usize::from_str_radix(&client.line().await, 16).unwrap();
                coded.extend(client.exactly(size).await);
                client.exactly(2).await;
            }
        }
    }
}

/// What a reader has by now of a coded stream that goes on.
fn so_far(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read> = match coding {
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4_096)),
        _ => Box::new(flate2::read::GzDecoder::new(bytes)),
    };
    let mut out = Vec::new();
    let mut byte = [0];
    while let Ok(1) = reader.read(&mut byte) {
        out.push(byte[0]);
    }
    out
}
