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

type Headers = &'static [(&'static str, &'static str)];
/// A step: method, headers, body; then the status and headers expected (a `-` value: the header is not there).
type Step = (Method, Headers, &'static [u8], u16, Headers);

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

/// Makes an upload by the first step, then takes the others on it.
async fn story(name: &str, steps: &[Step]) {
    let site = Site::new().await;
    let who = site.admin().await;
    let mut path = "/api/uploads".to_owned();
    for (index, (method, headers, body, status, expected)) in steps.iter().enumerate() {
        let what = format!("{name}, step {index}: {method} {headers:?}");
        let response = step(&site, &who, &path, method, headers, body).await;
        check(&response, *status, expected, &what);
        if headers.contains(&TUS) && response.status() != 405 {
            assert_eq!(response.headers()["tus-resumable"], "1.0.0", "{what}");
        }
        if index == 0 && response.status() == 201 {
            path = response.headers()["location"].to_str().unwrap().to_owned();
        }
    }
}

#[tokio::test]
async fn tus_core() {
    story(
        "one piece after the other",
        &[
            (
                Method::POST,
                &[
                    TUS,
                    ("upload-length", "10"),
                    ("upload-metadata", "filename YS56aXA=,flag"),
                ],
                b"",
                201,
                &[
                    ("upload-expires", "Sun, 22 Nov 2026 03:05:00 GMT"),
                    ("upload-offset", "-"),
                ],
            ),
            (
                Method::HEAD,
                &[TUS],
                b"",
                200,
                &[
                    ("upload-offset", "0"),
                    ("upload-length", "10"),
                    ("upload-metadata", "filename YS56aXA=,flag"),
                    ("cache-control", "no-store"),
                ],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "0")],
                b"0123",
                204,
                &[
                    ("upload-offset", "4"),
                    ("upload-expires", "Sun, 22 Nov 2026 03:05:00 GMT"),
                ],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "0")],
                b"0123",
                409,
                &[("upload-offset", "4")],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "5")],
                b"5",
                409,
                &[("upload-offset", "4")],
            ),
            (
                Method::PATCH,
                &[TUS, ("content-type", "text/plain"), ("upload-offset", "4")],
                b"4",
                415,
                &[],
            ),
            (
                Method::PATCH,
                &[TUS, ("upload-offset", "4")],
                b"4",
                415,
                &[],
            ),
            (Method::PATCH, &[TUS, OCTETS], b"4", 400, &[]),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "-1")],
                b"4",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "four")],
                b"4",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[("tus-resumable", "0.2.2"), OCTETS, ("upload-offset", "4")],
                b"4",
                412,
                &[("tus-version", "1.0.0")],
            ),
            (
                Method::PATCH,
                &[OCTETS, ("upload-offset", "4")],
                b"4",
                412,
                &[("tus-version", "1.0.0")],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "4")],
                b"45678901234567",
                413,
                &[],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "4")],
                b"",
                204,
                &[("upload-offset", "4")],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "4")],
                b"456789",
                204,
                &[("upload-offset", "10"), ("upload-expires", "-")],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "10")],
                b"",
                204,
                &[("upload-offset", "10")],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "10")],
                b"x",
                409,
                &[],
            ),
            (Method::HEAD, &[TUS], b"", 200, &[("upload-offset", "10")]),
            (Method::DELETE, &[TUS], b"", 204, &[]),
            (Method::HEAD, &[TUS], b"", 404, &[("upload-offset", "-")]),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "10")],
                b"x",
                404,
                &[],
            ),
            (Method::DELETE, &[TUS], b"", 404, &[]),
        ],
    )
    .await;
    story(
        "methods said in a header",
        &[
            (Method::POST, &[TUS, ("upload-length", "3")], b"", 201, &[]),
            (
                Method::POST,
                &[
                    TUS,
                    OCTETS,
                    ("upload-offset", "0"),
                    ("x-http-method-override", "PATCH"),
                ],
                b"abc",
                204,
                &[("upload-offset", "3")],
            ),
            (
                Method::POST,
                &[TUS],
                b"",
                405,
                &[("allow", "GET, HEAD, PATCH, DELETE, OPTIONS")],
            ),
            (
                Method::POST,
                &[TUS, ("x-http-method-override", "DELETE")],
                b"",
                204,
                &[],
            ),
            (Method::HEAD, &[TUS], b"", 404, &[]),
        ],
    )
    .await;
}

#[tokio::test]
async fn tus_creation() {
    for (headers, body, status, expected) in [
        (&[TUS, ("upload-length", "0")][..], &b""[..], 201, &[][..]),
        (&[TUS], b"", 400, &[]),
        (&[TUS, ("upload-length", "x")], b"", 400, &[]),
        (&[TUS, ("upload-length", "-1")], b"", 400, &[]),
        (
            &[TUS, ("upload-length", "1"), ("upload-defer-length", "1")],
            b"",
            400,
            &[],
        ),
        (&[TUS, ("upload-defer-length", "2")], b"", 400, &[]),
        (&[TUS, ("upload-length", "4294967297")], b"", 413, &[]),
        (
            &[TUS, ("upload-length", "9223372036854775808")],
            b"",
            400,
            &[],
        ),
        (
            &[
                TUS,
                ("upload-length", "1"),
                ("upload-metadata", "filename YQ==,filename YQ=="),
            ],
            b"",
            400,
            &[],
        ),
        (
            &[
                TUS,
                ("upload-length", "1"),
                ("upload-metadata", "filename ***"),
            ],
            b"",
            400,
            &[],
        ),
        (&[TUS, ("upload-length", "3")], b"abc", 415, &[]),
        (
            &[TUS, OCTETS, ("upload-length", "3")],
            b"abc",
            201,
            &[("upload-offset", "3")],
        ),
        (
            &[TUS, OCTETS, ("upload-length", "4")],
            b"abc",
            201,
            &[("upload-offset", "3")],
        ),
        (
            &[("upload-length", "1")],
            b"",
            412,
            &[("tus-version", "1.0.0")],
        ),
    ] {
        let site = Site::new().await;
        let who = site.admin().await;
        let response = step(&site, &who, "/api/uploads", &Method::POST, headers, body).await;
        check(&response, status, expected, &format!("{headers:?}"));
        let files = std::fs::read_dir(site.uploads()).unwrap().count();
        assert_eq!(
            files,
            usize::from(status == 201),
            "{headers:?}: what is refused leaves nothing"
        );
    }
    story(
        "a length said later",
        &[
            (
                Method::POST,
                &[TUS, ("upload-defer-length", "1")],
                b"",
                201,
                &[],
            ),
            (
                Method::HEAD,
                &[TUS],
                b"",
                200,
                &[
                    ("upload-defer-length", "1"),
                    ("upload-length", "-"),
                    ("upload-offset", "0"),
                ],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "0")],
                b"abc",
                204,
                &[("upload-offset", "3")],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "3"), ("upload-length", "2")],
                b"",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "3"), ("upload-length", "5")],
                b"",
                204,
                &[],
            ),
            (
                Method::HEAD,
                &[TUS],
                b"",
                200,
                &[("upload-defer-length", "-"), ("upload-length", "5")],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "3"), ("upload-length", "6")],
                b"de",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "3"), ("upload-length", "5")],
                b"de",
                204,
                &[("upload-offset", "5")],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn tus_checksums() {
    story(
        "a chunk whose checksum is wrong does not count",
        &[
            (Method::POST, &[TUS, ("upload-length", "6")], b"", 201, &[]),
            (
                Method::PATCH,
                &[
                    TUS,
                    OCTETS,
                    ("upload-offset", "0"),
                    ("upload-checksum", "sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0="),
                ],
                b"abd",
                460,
                &[],
            ),
            (Method::HEAD, &[TUS], b"", 200, &[("upload-offset", "0")]),
            (
                Method::PATCH,
                &[
                    TUS,
                    OCTETS,
                    ("upload-offset", "0"),
                    ("upload-checksum", "sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0="),
                ],
                b"abc",
                204,
                &[("upload-offset", "3")],
            ),
            (
                Method::PATCH,
                &[
                    TUS,
                    OCTETS,
                    ("upload-offset", "3"),
                    ("upload-checksum", "md5 qZk+NkcGgWq6PiVxeFDCbA=="),
                ],
                b"def",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[
                    TUS,
                    OCTETS,
                    ("upload-offset", "3"),
                    ("upload-checksum", "sha1"),
                ],
                b"def",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[
                    TUS,
                    OCTETS,
                    ("upload-offset", "3"),
                    (
                        "upload-checksum",
                        "sha256 y49s7dXJZ7C6zdxAcR3l0XQjRhZ4qM4nUvDN7rE9hYk=",
                    ),
                ],
                b"def",
                460,
                &[],
            ),
            (
                Method::PATCH,
                &[
                    TUS,
                    OCTETS,
                    ("upload-offset", "3"),
                    (
                        "upload-checksum",
                        "sha256 y4+ukHRGZb9u7yJzgfSxKDm5q9wcMYOrTTpqU+WN5rE=",
                    ),
                ],
                b"xyz",
                460,
                &[],
            ),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "3")],
                b"def",
                204,
                &[("upload-offset", "6")],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn ietf_draft() {
    story(
        "an empty one first, then its bytes",
        &[
            (
                Method::POST,
                &[
                    OPEN,
                    ("upload-draft-interop-version", "8"),
                    ("content-disposition", "attachment; filename=\"a.zip\""),
                ],
                b"",
                201,
                &[("upload-offset", "0"), OPEN],
            ),
            (
                Method::HEAD,
                &[],
                b"",
                204,
                &[
                    ("upload-offset", "0"),
                    OPEN,
                    ("upload-length", "-"),
                    ("upload-limit", "max-size=4294967296, max-age=86400"),
                    ("cache-control", "no-store"),
                    ("tus-resumable", "-"),
                ],
            ),
            (
                Method::PATCH,
                &[PARTIAL, OPEN, ("upload-offset", "0")],
                b"0123",
                204,
                &[("upload-offset", "4"), OPEN],
            ),
            (
                Method::PATCH,
                &[PARTIAL, OPEN, ("upload-offset", "2")],
                b"23",
                409,
                &[
                    ("upload-offset", "4"),
                    OPEN,
                    ("content-type", "application/problem+json"),
                ],
            ),
            (
                Method::PATCH,
                &[("content-type", "text/plain"), OPEN, ("upload-offset", "4")],
                b"4",
                415,
                &[],
            ),
            (
                Method::PATCH,
                &[PARTIAL, ("upload-offset", "4")],
                b"4",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[PARTIAL, ("upload-complete", "true"), ("upload-offset", "4")],
                b"4",
                400,
                &[],
            ),
            (Method::PATCH, &[PARTIAL, OPEN], b"4", 400, &[]),
            (
                Method::PATCH,
                &[
                    PARTIAL,
                    LAST,
                    ("upload-offset", "4"),
                    ("upload-length", "5"),
                ],
                b"456789",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[PARTIAL, LAST, ("upload-offset", "4")],
                b"456789",
                204,
                &[("upload-offset", "10"), LAST],
            ),
            (
                Method::HEAD,
                &[],
                b"",
                204,
                &[
                    ("upload-offset", "10"),
                    LAST,
                    ("upload-length", "10"),
                    ("upload-limit", "max-size=4294967296"),
                ],
            ),
            (
                Method::PATCH,
                &[PARTIAL, LAST, ("upload-offset", "10")],
                b"x",
                400,
                &[("upload-offset", "10"), LAST],
            ),
            (Method::DELETE, &[], b"", 204, &[]),
            (Method::HEAD, &[], b"", 404, &[("upload-offset", "-")]),
        ],
    )
    .await;
    story(
        "all at once",
        &[
            (
                Method::POST,
                &[LAST, ("upload-length", "5")],
                b"hello",
                201,
                &[("upload-offset", "5"), LAST, ("upload-length", "5")],
            ),
            (
                Method::HEAD,
                &[TUS],
                b"",
                200,
                &[("upload-offset", "5"), ("upload-length", "5")],
            ),
        ],
    )
    .await;
    story(
        "a length that is not kept",
        &[(
            Method::POST,
            &[LAST, ("upload-length", "6")],
            b"hello",
            400,
            &[],
        )],
    )
    .await;
    story(
        "begun by tus, ended by the draft",
        &[
            (Method::POST, &[TUS, ("upload-length", "6")], b"", 201, &[]),
            (
                Method::PATCH,
                &[TUS, OCTETS, ("upload-offset", "0")],
                b"abc",
                204,
                &[],
            ),
            (
                Method::PATCH,
                &[PARTIAL, LAST, ("upload-offset", "3")],
                b"de",
                400,
                &[],
            ),
            (
                Method::PATCH,
                &[PARTIAL, LAST, ("upload-offset", "3")],
                b"def",
                204,
                &[LAST],
            ),
        ],
    )
    .await;
    let site = Site::new().await;
    let who = site.admin().await;
    let made = step(&site, &who, "/api/uploads", &Method::POST, &[OPEN], b"abc").await;
    let path = made.headers()["location"].to_str().unwrap().to_owned();
    let wrong = step(
        &site,
        &who,
        &path,
        &Method::PATCH,
        &[PARTIAL, LAST, ("upload-offset", "1")],
        b"",
    )
    .await;
    let document: Value = wrong.json().await.unwrap();
    assert_eq!(
        document["type"],
        "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
    );
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

/// Waits until the hub has taken the bytes of an open request, which the metrics tell.
async fn until_received(site: &Site, bytes: usize) {
    for _ in 0..500 {
        let text = site
            .get(&As::Nobody, "/metrics")
            .await
            .text()
            .await
            .unwrap();
        if text.contains("munjigi_hub_uploads_receiving 1\n") && bytes == 0 {
            return;
        }
        if bytes > 0
            && text.contains(&format!(
                "munjigi_hub_upload_received_bytes_total {bytes}\n"
            ))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the hub does not take the request");
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
    until_received(&site, 2_500_000).await;
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
    let path = create(&site, &who, 100).await;
    let mut old = open_patch(&site, &who, &path, 0, 100, b"0123456789").await;
    until_received(&site, 0).await;
    assert!(offset(&site, &who, &path).await <= 10);
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
