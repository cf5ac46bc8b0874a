use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use munjigi_foundation::settings::Size;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::site::{As, Site, problem};

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
const OCTETS: (&str, &str) = ("content-type", "application/offset+octet-stream");
const PARTIAL: (&str, &str) = ("content-type", "application/partial-upload");
const OPEN: (&str, &str) = ("upload-complete", "?0");
const LAST: (&str, &str) = ("upload-complete", "?1");

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

async fn step(
    site: &Site,
    who: &As,
    path: &str,
    method: &Method,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut request = site.request(who, method.clone(), path).body(body.to_vec());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn check(response: &Response, status: u16, headers: &[(&str, &str)], what: &str) {
    assert_eq!(response.status(), status, "{what}");
    for (name, value) in headers {
        let found = response
            .headers()
            .get(*name)
            .map(|value| value.to_str().unwrap());
        let expected = (*value != "-").then_some(*value);
        assert_eq!(found, expected, "{what}: {name}");
    }
}

/// `name: value; @tus; …`
fn headers(written: &str) -> Vec<(&str, &str)> {
    let parts = written
        .split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| match part {
            "@tus" => TUS,
            "@octets" => OCTETS,
            "@partial" => PARTIAL,
            "@open" => OPEN,
            "@last" => LAST,
            other => other.split_once(": ").unwrap(),
        })
        .collect()
}

/// Takes the stories of `conformance.txt`.
#[tokio::test]
async fn tus_and_the_draft_are_spoken_exactly() {
    let site = Site::new().await;
    let who = site.admin().await;
    let mut path = String::new();
    let mut steps = 0;
    for line in include_str!("conformance.txt").lines() {
        if line.starts_with("##") {
            path = "/api/uploads".to_owned();
            continue;
        }
        let Some((request, expected)) = line.split_once("=>").filter(|_| !line.starts_with('#'))
        else {
            continue;
        };
        let (head, body) = request.split_once('|').unwrap_or((request, ""));
        let (method, sent) = head.trim().split_once(' ').unwrap_or((head.trim(), ""));
        let (status, expected) = expected
            .trim()
            .split_once(';')
            .unwrap_or((expected.trim(), ""));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let sent = headers(sent);
        let response = step(&site, &who, &path, &method, &sent, body.trim().as_bytes()).await;
        check(&response, status.parse().unwrap(), &headers(expected), line);
        if sent.contains(&TUS) {
            assert_eq!(response.headers()["tus-resumable"], "1.0.0", "{line}");
        }
        if response.status() == 201 {
            path = response.headers()["location"].to_str().unwrap().to_owned();
        }
        steps += 1;
    }
    assert!(steps > 60);
}

#[tokio::test]
async fn what_is_refused_leaves_nothing() {
    let site = Site::new().await;
    let who = site.admin().await;
    for sent in [
        &[TUS][..],
        &[TUS, ("upload-length", "4294967297")],
        &[LAST, ("upload-length", "6")],
        &[
            TUS,
            OCTETS,
            ("upload-length", "5"),
            ("upload-checksum", "sha1 AAAA"),
        ],
    ] {
        let refused = step(&site, &who, "/api/uploads", &Method::POST, sent, b"hello").await;
        assert!(refused.status().is_client_error());
    }
    assert_eq!(std::fs::read_dir(site.uploads()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_drafts_problems_have_its_types() {
    let site = Site::new().await;
    let who = site.admin().await;
    let made = step(&site, &who, "/api/uploads", &Method::POST, &[OPEN], b"abc").await;
    let path = made.headers()["location"].to_str().unwrap().to_owned();
    let sent = [PARTIAL, LAST, ("upload-offset", "1")];
    let wrong = step(&site, &who, &path, &Method::PATCH, &sent, b"").await;
    let document: Value = wrong.json().await.unwrap();
    let kind = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
    assert_eq!(document["type"], kind);
    assert_eq!(
        (&document["expected-offset"], &document["provided-offset"]),
        (&json!(3), &json!(1))
    );
}

#[tokio::test]
async fn what_is_spoken_is_said() {
    let site = Site::new().await;
    let response = step(
        &site,
        &As::Nobody,
        "/api/uploads",
        &Method::OPTIONS,
        &[],
        b"",
    )
    .await;
    check(
        &response,
        204,
        &[
            ("tus-version", "1.0.0"),
            ("tus-resumable", "1.0.0"),
            ("tus-max-size", "4294967296"),
            (
                "tus-extension",
                "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination",
            ),
            ("tus-checksum-algorithm", "sha1,sha256,blake3"),
            ("upload-limit", "max-size=4294967296"),
            ("accept-patch", "application/partial-upload"),
        ],
        "OPTIONS",
    );
}

async fn create(site: &Site, who: &As, length: usize) -> String {
    let length = length.to_string();
    let origin = site.base();
    let headers = [TUS, ("upload-length", &length), ("origin", &origin)];
    let made = step(site, who, "/api/uploads", &Method::POST, &headers, b"").await;
    assert_eq!(made.status(), 201);
    made.headers()["location"].to_str().unwrap().to_owned()
}

async fn offset(site: &Site, who: &As, path: &str) -> usize {
    let head = step(site, who, path, &Method::HEAD, &[TUS], b"").await;
    assert_eq!(head.status(), 200);
    head.headers()["upload-offset"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// A PATCH that stays open after `sent` bytes.
async fn open_patch(
    site: &Site,
    who: &As,
    path: &str,
    from: usize,
    length: usize,
    sent: &[u8],
) -> TcpStream {
    let As::Token(token) = who else {
        unreachable!()
    };
    let mut stream = TcpStream::connect(site.hub.address()).await.unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nTus-Resumable: 1.0.0\r\n\
         Content-Type: application/offset+octet-stream\r\nUpload-Offset: {from}\r\nContent-Length: {length}\r\n\r\n",
        site.hub.address()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

/// Waits until the hub has written so many bytes of uploads, which the metrics tell.
async fn until_written(site: &Site, bytes: u64) {
    for _ in 0..1_000 {
        let text = site
            .get(&As::Nobody, "/metrics")
            .await
            .text()
            .await
            .unwrap();
        let name = "munjigi_hub_upload_received_bytes_total ";
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        if line.parse::<u64>().unwrap() >= bytes {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unreachable!("the hub does not take the request");
}

#[tokio::test]
async fn a_cut_connection_keeps_what_came() {
    let site = Site::new().await;
    let who = site.admin().await;
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    let path = create(&site, &who, content.len()).await;
    let stream = open_patch(&site, &who, &path, 0, content.len(), &content[..2_500_000]).await;
    drop(stream);
    until_written(&site, 2_500_000).await;
    let received = offset(&site, &who, &path).await;
    assert_eq!(received, 2_500_000);
    let site = site.again().await;
    assert_eq!(offset(&site, &who, &path).await, received);
    let from = received.to_string();
    let rest = step(
        &site,
        &who,
        &path,
        &Method::PATCH,
        &[TUS, OCTETS, ("upload-offset", &from)],
        &content[received..],
    )
    .await;
    assert_eq!(rest.status(), 204);
    let shown: Value = site.get(&who, &path).await.json().await.unwrap();
    let digest: String = Sha256::digest(&content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        (&shown["complete"], &shown["sha256"]),
        (&json!(true), &json!(digest))
    );
}

#[tokio::test]
async fn a_newer_request_takes_over() {
    let site = Site::new().await;
    let who = site.admin().await;
    let path = create(&site, &who, 4 << 20).await;
    let mut old = open_patch(&site, &who, &path, 0, 4 << 20, &vec![1; 3 << 20]).await;
    until_written(&site, 1 << 20).await;
    assert!(offset(&site, &who, &path).await >= 1 << 20);
    let mut answer = String::new();
    old.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 409") && answer.contains("upload_interrupted"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_upload_is_its_owners_alone() {
    let site = Site::new().await;
    let (_, ann) = site.user("ann").await;
    let (_, bob) = site.user("bob").await;
    let path = create(&site, &ann, 3).await;
    let origin = site.base();
    for (method, headers) in [
        (Method::HEAD, &[TUS][..]),
        (Method::GET, &[]),
        (Method::PATCH, &[TUS, OCTETS, ("upload-offset", "0")]),
        (Method::PATCH, &[PARTIAL, LAST, ("upload-offset", "0")]),
        (Method::DELETE, &[TUS]),
        (Method::DELETE, &[]),
    ] {
        let mut headers = headers.to_vec();
        headers.push(("origin", &origin));
        let response = step(&site, &bob, &path, &method, &headers, b"").await;
        assert_eq!(response.status(), 404, "{method}");
    }
    let list: Value = site.get(&bob, "/api/uploads").await.json().await.unwrap();
    assert_eq!(list, json!({ "uploads": [] }));
    let list: Value = site.get(&ann, "/api/uploads").await.json().await.unwrap();
    assert_eq!(list["uploads"][0]["length"], 3);
}

#[tokio::test]
async fn a_digest_announced_is_verified() {
    let site = Site::new().await;
    let who = site.admin().await;
    let right = format!("sha-256=:{}:", base64(&Sha256::digest(b"hello")));
    let wrong = format!("sha-256=:{}:", base64(&Sha256::digest(b"hullo")));
    for (digest, status) in [
        (right.as_str(), 201),
        ("crc32c=:AAAA:", 201),
        ("sha-256=:AAAA:", 400),
    ] {
        let made = step(
            &site,
            &who,
            "/api/uploads",
            &Method::POST,
            &[LAST, ("repr-digest", digest)],
            b"hello",
        )
        .await;
        assert_eq!(made.status(), status, "{digest}");
    }
    let refused = step(
        &site,
        &who,
        "/api/uploads",
        &Method::POST,
        &[LAST, ("repr-digest", &wrong)],
        b"hello",
    )
    .await;
    assert_eq!(
        problem(refused).await,
        (400.try_into().unwrap(), "digest_mismatch".to_owned())
    );
    let files = std::fs::read_dir(site.uploads()).unwrap().count();
    assert_eq!(
        files, 2,
        "an upload that is not what it should be is removed"
    );
}

#[tokio::test]
async fn uploads_expire_and_are_used_up_by_quota() {
    let site = Site::with(|settings| {
        settings.limits.user = Size(10);
        settings.limits.upload = Size(8);
    })
    .await;
    let who = site.admin().await;
    let path = create(&site, &who, 6).await;
    let made = |length: &'static str| {
        let (site, who) = (&site, &who);
        async move {
            problem(
                step(
                    site,
                    who,
                    "/api/uploads",
                    &Method::POST,
                    &[TUS, ("upload-length", length)],
                    b"",
                )
                .await,
            )
            .await
        }
    };
    assert_eq!(
        made("9").await,
        (413.try_into().unwrap(), "upload_too_large".to_owned())
    );
    assert_eq!(
        made("5").await,
        (413.try_into().unwrap(), "quota_exceeded".to_owned())
    );
    site.clock.advance(Duration::from_secs(86_400));
    let head = step(&site, &who, &path, &Method::HEAD, &[TUS], b"").await;
    assert_eq!(
        (head.status().as_u16(), head.headers().get("upload-offset")),
        (410, None)
    );
}

/// 1 GiB through the wire: the memory of this process stays small. Long: `cargo test -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes 1 GiB"]
async fn a_gigabyte_needs_little_memory() {
    let site = Site::new().await;
    let who = site.admin().await;
    let length = 1_usize << 30;
    let path = create(&site, &who, length).await;
    let before = peak();
    let started = std::time::Instant::now();
    let mut stream = open_patch(&site, &who, &path, 0, length, b"").await;
    let piece = vec![42; 1 << 20];
    for _ in 0..1_024 {
        stream.write_all(&piece).await.unwrap();
    }
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 204");
    let grown = peak() - before;
    eprintln!(
        "1 GiB in {:?}, peak {grown} KiB over idle",
        started.elapsed()
    );
    assert!(grown < 64 << 10, "{grown} KiB");
}

/// Peak resident memory of this process, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
