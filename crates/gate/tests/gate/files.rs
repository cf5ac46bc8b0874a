//! Static files over real sockets.

use std::fs;
use std::os::unix::fs::symlink;

use munjigi_gate::Gate;

use crate::support::*;

async fn get(gate: &Gate, path: &str, fields: &str) -> (String, Vec<u8>) {
    ask(
        gate,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"),
    )
    .await
}

fn site() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("www");
    fs::create_dir_all(root.join("docs/empty")).unwrap();
    fs::create_dir_all(root.join(".git")).unwrap();
    fs::write(root.join("index.html"), "<h1>home</h1>").unwrap();
    fs::write(root.join("docs/index.html"), "<h1>docs</h1>").unwrap();
    fs::write(root.join("app.js"), "let a = 1;").unwrap();
    fs::write(root.join("app.js.br"), "BR").unwrap();
    fs::write(root.join("app.js.gz"), "GZIP").unwrap();
    fs::write(root.join("a b.txt"), "spaces").unwrap();
    fs::write(root.join("empty.txt"), "").unwrap();
    fs::write(root.join(".git/config"), "secret").unwrap();
    fs::write(folder.path().join("secret.txt"), "secret").unwrap();
    symlink("../secret.txt", root.join("out.txt")).unwrap();
    symlink("app.js", root.join("in.js")).unwrap();
    folder
}

const ROUTES: &str = "
[[gate.route]]
path = \"/\"
files = { root = \"www\", precompressed = [\"br\", \"gzip\"], cache_control = \"max-age=60\" }
[[gate.route]]
path = \"/static\"
strip_prefix = true
files = { root = \"www\" }
[[gate.route]]
path = \"/spa\"
strip_prefix = true
files = { root = \"www\", spa = true }
[[gate.route]]
path = \"/full\"
files = { root = \"www\" }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_served_with_all_that_belongs_to_them() {
    let site = site();
    let gate = start(written(site.path(), &[], ROUTES)).await;
    let (head, body) = get(&gate, "/app.js?v=1", "").await;
    assert_eq!(
        (status(&head), body.as_slice()),
        (200, b"let a = 1;".as_slice())
    );
    assert_eq!(
        header(&head, "content-type"),
        Some("text/javascript; charset=utf-8")
    );
    assert_eq!(header(&head, "accept-ranges"), Some("bytes"));
    assert_eq!(header(&head, "cache-control"), Some("max-age=60"));
    assert_eq!(header(&head, "vary"), Some("Accept-Encoding"));
    assert_eq!(header(&head, "x-content-type-options"), Some("nosniff"));
    let tag = header(&head, "etag").unwrap().to_owned();
    let date = header(&head, "last-modified").unwrap().to_owned();

    let mut client = client(&gate).await;
    client
        .send("HEAD /app.js HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(header(&head, "content-length"), Some("10"));
    client
        .send(&format!(
            "GET /app.js HTTP/1.1\r\nHost: x\r\nIf-None-Match: {tag}\r\n\r\n"
        ))
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(
        (status(&head), header(&head, "etag")),
        (304, Some(tag.as_str()))
    );
    client
        .send(&format!(
            "GET /app.js HTTP/1.1\r\nHost: x\r\nIf-Modified-Since: {date}\r\n\r\n"
        ))
        .await;
    assert_eq!(status(&client.head().await.unwrap()), 304);
    client
        .send("GET /app.js HTTP/1.1\r\nHost: x\r\nRange: bytes=4-6\r\n\r\n")
        .await;
    let (head, body) = client.response().await;
    assert_eq!((status(&head), body.as_slice()), (206, b"a =".as_slice()));
    assert_eq!(header(&head, "content-range"), Some("bytes 4-6/10"));
    client
        .send("GET /app.js HTTP/1.1\r\nHost: x\r\nRange: bytes=99-\r\n\r\n")
        .await;
    let (head, body) = client.response().await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (416, "range_not_satisfiable")
    );
    assert_eq!(header(&head, "content-range"), Some("bytes */10"));
    client
        .send("GET /app.js HTTP/1.1\r\nHost: x\r\nIf-Match: \"other\"\r\n\r\n")
        .await;
    let (head, body) = client.response().await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (412, "precondition_failed")
    );

    let (head, body) = get(&gate, "/app.js", "Accept-Encoding: gzip, br\r\n").await;
    assert_eq!(
        (body.as_slice(), header(&head, "content-encoding")),
        (b"BR".as_slice(), Some("br"))
    );
    assert_ne!(header(&head, "etag"), Some(tag.as_str()));
    let (head, body) = get(&gate, "/app.js", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(
        (body.as_slice(), header(&head, "content-encoding")),
        (b"GZIP".as_slice(), Some("gzip"))
    );
    assert_eq!(
        header(&head, "content-type"),
        Some("text/javascript; charset=utf-8")
    );

    let (head, body) = get(&gate, "/empty.txt", "").await;
    assert_eq!((status(&head), body.len()), (200, 0));
    let (_, body) = get(&gate, "/a%20b.txt", "").await;
    assert_eq!(body, b"spaces");
    for (path, expected) in [
        ("/", "<h1>home</h1>"),
        ("/docs/", "<h1>docs</h1>"),
        ("/in.js", "let a = 1;"),
    ] {
        let (head, body) = get(&gate, path, "").await;
        assert_eq!(
            (status(&head), String::from_utf8(body).unwrap().as_str()),
            (200, expected)
        );
    }
    let (head, _) = get(&gate, "/docs?a=b", "").await;
    assert_eq!(
        (status(&head), header(&head, "location")),
        (308, Some("/docs/?a=b"))
    );
    let (head, body) = ask(
        &gate,
        "POST /app.js HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (405, "method_not_allowed")
    );
    assert_eq!(header(&head, "allow"), Some("GET, HEAD"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_the_root_is_served() {
    let site = site();
    let gate = start(written(site.path(), &[], ROUTES)).await;
    for path in [
        "/out.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/docs/..%2f..%2fsecret.txt",
        "/static/../../secret.txt",
        "/static/%2e%2e%2fsecret.txt",
        "/.git/config",
        "/static/.git/config",
        "/docs/empty/",
        "/app.js/",
        "/app.js/x",
        "/none",
        "/a%00.txt",
        "//secret.txt",
        "/full/app.js",
        "/spa/none.js",
    ] {
        let (head, body) = get(&gate, path, "").await;
        assert_eq!(status(&head), 404, "{path}");
        assert_eq!(code(&body), "no_file", "{path}");
    }
    let (_, body) = get(&gate, "/static/app.js", "").await;
    assert_eq!(
        body, b"let a = 1;",
        "the prefix is taken away where the route says so"
    );
    for path in ["/spa/", "/spa/users/7", "/spa"] {
        let (head, body) = get(&gate, path, "").await;
        assert_eq!(
            (status(&head), body.as_slice()),
            (200, b"<h1>home</h1>".as_slice()),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_streams_whole_and_in_part_beside_others() {
    let site = site();
    let large: Vec<u8> = (0..40_000_000_u32)
        .map(|n| (n / 7).to_le_bytes()[0])
        .collect();
    fs::write(site.path().join("www/large.bin"), &large).unwrap();
    let gate = start(written(site.path(), &[], ROUTES)).await;
    let mut slow = client(&gate).await;
    slow.send("GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let head = slow.head().await.unwrap();
    assert_eq!(header(&head, "content-length"), Some("40000000"));
    // While that one is not read, the others are served.
    for _ in 0..20 {
        let (_, body) = get(&gate, "/app.js", "").await;
        assert_eq!(body, b"let a = 1;");
    }
    let (head, body) = get(&gate, "/large.bin", "Range: bytes=1000000-20999999\r\n").await;
    assert_eq!(status(&head), 206);
    assert!(body == large[1_000_000..21_000_000]);
    assert!(slow.exactly(large.len()).await == large);
    // The connection goes on after it.
    slow.send("GET /app.js HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(slow.response().await.1, b"let a = 1;");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_shrinks_is_never_completed() {
    let site = site();
    let file = site.path().join("www/shrinking.bin");
    fs::write(&file, vec![b'x'; 30_000_000]).unwrap();
    let gate = start(written(site.path(), &[], ROUTES)).await;
    let mut client = client(&gate).await;
    client
        .send("GET /shrinking.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(header(&head, "content-length"), Some("30000000"));
    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(1_000)
        .unwrap();
    let body = client.rest().await;
    assert!(body.len() < 30_000_000, "{}", body.len());
}
