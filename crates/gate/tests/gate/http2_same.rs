//! What a route does is the same by whatever version its client and its backend speak: each
//! request is asked over HTTP/1.1 from a backend of HTTP/1.1, then by all other ways.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use munjigi_gate::Gate;
use munjigi_gate::settings::{Protocol, RetryOn};

use crate::compression::decoded;
use crate::http2_support::*;
use crate::support::*;
use crate::tls_support::*;

type Fields = BTreeMap<String, Vec<String>>;

/// Of the answer what a client may rely on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    status: u16,
    fields: Fields,
    body: Vec<u8>,
}

/// Fields of one hop, or that are never twice the same.
const OWN: [&str; 6] = [
    "connection",
    "keep-alive",
    "transfer-encoding",
    "date",
    "te",
    "content-length",
];

fn collect<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>, whole: bool) -> Fields {
    let mut all = Fields::new();
    for (name, value) in fields {
        let name = name.to_ascii_lowercase();
        if OWN.contains(&name.as_str()) && (name != "content-length" || !whole) {
            continue;
        }
        // Which of two backends it was is no part of the story.
        let value = match value.split_once(";") {
            Some((cookie, rest)) if name == "set-cookie" && cookie.starts_with("stay=") => {
                format!("stay=…;{rest}")
            }
            _ => value.to_owned(),
        };
        all.entry(name).or_default().push(value);
    }
    all
}

fn lines(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(": "))
}

/// What the origins do, in either version: status, fields, body.
fn serve(method: &str, target: &str, fields: &Fields, body: &[u8]) -> (u16, Fields, Vec<u8>) {
    let path = target.split('?').next().unwrap();
    let mut answer = vec![("server", "origin"), ("x-kept", "1")];
    let (status, text) = match path {
        "/json" => {
            answer.extend([("content-type", "application/json"), ("etag", "\"v\"")]);
            (200, "[1,2,3],".repeat(5_000))
        }
        "/none" => (204, String::new()),
        "/old" => (304, String::new()),
        "/away" => {
            answer.push(("location", "/elsewhere"));
            (302, "moved".to_owned())
        }
        "/sick" => (503, "not now".to_owned()),
        _ => {
            let mut seen = format!("{method} {target}\n");
            for (name, values) in fields {
                seen += &format!("{name}: {}\n", values.join(" | "));
            }
            (200, seen + &String::from_utf8_lossy(body))
        }
    };
    (
        status,
        collect(answer.into_iter(), false),
        text.into_bytes(),
    )
}

async fn origin_of_http1() -> Origin {
    origin(|mut peer, _| async move {
        while let Some(head) = peer.head().await {
            let body = peer.body_of(&head).await;
            let mut words = head.split(' ');
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            let fields = collect(lines(&head), false);
            let (status, fields, body) = serve(method, target, &fields, &body);
            let mut answer = format!("HTTP/1.1 {status} X\r\n");
            for (name, value) in &fields {
                answer += &format!("{name}: {}\r\n", value[0]);
            }
            if !matches!(status, 204 | 304) {
                answer += &format!("content-length: {}\r\n", body.len());
            }
            peer.send(&(answer + "\r\n")).await;
            if method != "HEAD" && !matches!(status, 204 | 304) {
                peer.send_bytes(&body).await;
            }
        }
    })
    .await
}

async fn origin_of_http2() -> Origin {
    origin2(|request, mut respond| async move {
        let (head, mut stream) = request.into_parts();
        let Ok(body) = take(&mut stream).await else {
            return;
        };
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let mut fields: Vec<(String, String)> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect();
        fields.push(("host".to_owned(), head.uri.authority().unwrap().to_string()));
        let fields = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let fields = collect(fields, false);
        let target = head.uri.path_and_query().unwrap().as_str();
        let (status, fields, body) = serve(head.method.as_str(), target, &fields, &body);
        let mut response = Response::builder().status(status);
        for (name, value) in &fields {
            response = response.header(name, &value[0]);
        }
        let bodyless = matches!(status, 204 | 304);
        if !bodyless {
            response = response.header("content-length", body.len());
        }
        let ends = bodyless || head.method == "HEAD";
        let mut stream = respond
            .send_response(response.body(()).unwrap(), ends)
            .unwrap();
        if !ends {
            stream.send_data(body.into(), true).unwrap();
        }
    })
    .await
}

const ROUTES: &str = "
[[gate.route]]
path = \"/BACK/plain\"
strip_prefix = true
service = \"BACK\"
request_body_max = \"64KiB\"
[[gate.route]]
path = \"/BACK/ruled\"
rewrite = { prefix = \"/new\" }
service = \"BACK\"
request_headers = { remove = [\"X-Debug\"], set = { X-Client = \"{client_ip} {scheme} {hostport}\" }, add = { X-Via = \"gate\" } }
response_headers = { set = { X-Scheme = \"{scheme}\" }, remove = [\"Server\"] }
error_pages = { 502 = \"oops.html\" }
[[gate.route]]
path = \"/BACK/packed\"
strip_prefix = true
service = \"BACK\"
compression = {}
";

const OWN_ROUTES: &str = "
[[gate.route]]
path = \"/redirect\"
redirect = { status = 301, location = \"{scheme}://{hostport}/new{rest}{query}\" }
[[gate.route]]
path = \"/fixed\"
method = [\"GET\", \"POST\"]
respond = { body = \"hello\", type = \"text/plain\" }
response_headers = { set = { X-Own = \"{path}\" } }
[[gate.route]]
path = \"/nothing\"
respond = { status = 204 }
[[gate.route]]
path = \"/files\"
strip_prefix = true
files = { root = \"www\", precompressed = [\"br\"], cache_control = \"max-age=60\" }
[[gate.route]]
path = \"/packed-files\"
strip_prefix = true
files = { root = \"www\" }
compression = {}
[[gate.route]]
path = \"/gone\"
service = \"NOBODY\"
";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("www");
    std::fs::create_dir_all(root.join("docs")).unwrap();
    std::fs::write(folder.path().join("404.html"), "<h1>no such page</h1>").unwrap();
    std::fs::write(folder.path().join("oops.html"), "<h1>oops</h1>").unwrap();
    std::fs::write(root.join("index.html"), "<h1>home</h1>").unwrap();
    std::fs::write(root.join("docs/index.html"), "<h1>docs</h1>").unwrap();
    std::fs::write(root.join("app.js"), "let a = 1;").unwrap();
    std::fs::write(root.join("app.js.br"), "BR").unwrap();
    std::fs::write(root.join("large.txt"), "0123456789 ".repeat(200_000)).unwrap();
    folder
}

/// A request: method, path, fields, body.
type Asked = (
    &'static str,
    String,
    Vec<(&'static str, &'static str)>,
    usize,
);

fn asked(service: &str) -> Vec<Asked> {
    let get = |path: &str, fields: &[(&'static str, &'static str)]| -> Asked {
        ("GET", path.replace("BACK", service), fields.to_vec(), 0)
    };
    let with = |method: &'static str, path: &str, body: usize| -> Asked {
        (method, path.replace("BACK", service), Vec::new(), body)
    };
    vec![
        get(
            "/BACK/plain/a%20b?c=d&e",
            &[("x-own", "v"), ("cookie", "a=b")],
        ),
        get(
            "/BACK/plain/x",
            &[
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "https"),
            ],
        ),
        with("POST", "/BACK/plain/x", 50_000),
        with("PUT", "/BACK/plain/x", 1),
        with("POST", "/BACK/plain/x", 70_000),
        with("HEAD", "/BACK/plain/json", 0),
        get("/BACK/plain/none", &[]),
        get("/BACK/plain/old", &[("if-none-match", "\"v\"")]),
        get("/BACK/plain/away", &[]),
        get("/BACK/plain/sick", &[]),
        get("/BACK/ruled/x?y", &[("x-debug", "1"), ("x-client", "me")]),
        get("/BACK/packed/json", &[("accept-encoding", "br")]),
        get(
            "/BACK/packed/json",
            &[("accept-encoding", "gzip, zstd;q=0.5")],
        ),
        get("/BACK/packed/json", &[]),
        with("HEAD", "/BACK/packed/json", 0),
        get("/BACK/packed/none", &[("accept-encoding", "br")]),
        get("/redirect/a?b", &[]),
        get("/fixed", &[]),
        with("HEAD", "/fixed", 0),
        with("POST", "/fixed", 10_000),
        with("PUT", "/fixed", 10),
        get("/nothing", &[]),
        get("/files/", &[]),
        get("/files/docs", &[]),
        get("/files/app.js", &[("accept-encoding", "br")]),
        get("/files/app.js", &[("range", "bytes=4-6")]),
        get("/files/app.js", &[("range", "bytes=90-")]),
        with("HEAD", "/files/large.txt", 0),
        get("/files/large.txt", &[]),
        get("/files/none", &[("accept", "text/html")]),
        get("/files/none", &[("accept", "application/json")]),
        with("POST", "/files/app.js", 0),
        get("/packed-files/large.txt", &[("accept-encoding", "zstd")]),
        get("/elsewhere", &[("accept", "text/html")]),
        get("/elsewhere", &[]),
        get("/gone", &[]),
    ]
}

async fn over_http1<S>(peer: &mut Peer<S>, (method, path, fields, body): &Asked) -> Seen
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: a.test:81\r\nConnection: close\r\n");
    for (name, value) in fields {
        text += &format!("{name}: {value}\r\n");
    }
    if *body > 0 {
        text += &format!("Content-Length: {body}\r\n");
    }
    peer.send(&(text + "\r\n")).await;
    peer.send_bytes(&vec![b'x'; *body]).await;
    let head = peer.head().await.unwrap();
    let status = status(&head);
    let bodyless = *method == "HEAD" || matches!(status, 204 | 304);
    let body = match bodyless {
        true => Vec::new(),
        false => peer.body_of(&head).await,
    };
    let fields = collect(lines(&head), true);
    Seen {
        status,
        fields,
        body,
    }
}

async fn over_http2(client: &Client, (method, path, fields, body): &Asked, scheme: &str) -> Seen {
    let mut request = Request::builder()
        .method(*method)
        .uri(format!("{scheme}://a.test:81{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    if *body > 0 {
        request = request.header("content-length", *body);
    }
    let request = request.body(()).unwrap();
    let (response, mut stream) = client.begin(request, *body == 0).await.unwrap();
    let data = Bytes::from(vec![b'x'; *body]);
    let sending = tokio::spawn(async move {
        // An answer may come before all of it was sent.
        drop(pour(&mut stream, data, true).await);
    });
    let answer = answer(response).await.unwrap();
    sending.abort();
    let fields = answer.head.headers.iter();
    let fields = fields.map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    Seen {
        status: answer.status(),
        fields: collect(fields, true),
        body: answer.body,
    }
}

/// A gate with both origins, its settings written as an operator would.
async fn gate_of(
    ca: Option<&Authority>,
    one: SocketAddr,
    two: SocketAddr,
) -> (Gate, tempfile::TempDir) {
    let folder = folder();
    let tls = ca.map(|ca| ca.issue("a", &["a.test"])).map(|pair| {
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        format!("tls = {{ certificate = \"{certificate}\", key = \"{key}\" }}")
    });
    std::fs::write(folder.path().join("sticky.key"), "0123456789abcdef").unwrap();
    let sticky = "sticky = { cookie = \"stay\", secret_file = \"sticky.key\" }";
    let text = format!(
        "[gate]
threads = 1
error_pages = {{ 404 = \"404.html\" }}
[[gate.listener]]
name = \"web\"
address = \"127.0.0.1:0\"
protocols = [\"http/1.1\", \"h2\"]
{}
[gate.service.ONE]
backends = [{{ address = \"{one}\" }}]
{sticky}
[gate.service.TWO]
protocol = \"h2\"
backends = [{{ address = \"{two}\" }}]
{sticky}
[gate.service.NOBODY]
backends = [{{ address = \"{}\" }}]
{}{}{OWN_ROUTES}",
        tls.unwrap_or_default(),
        nobody().await,
        ROUTES.replace("BACK", "ONE"),
        ROUTES.replace("BACK", "TWO"),
    );
    let (settings, problems) = read_in(folder.path(), &text);
    let mut settings = settings
        .filter(|_| problems.contains(": 0 errors"))
        .unwrap_or_else(|| panic!("{problems}"));
    settings.admin.socket = None;
    (start(settings).await, folder)
}

/// The names of the services do not count, nor where an encoder was flushed.
fn told(seen: Seen) -> Seen {
    let mut seen = seen;
    if let Some(coding) = seen.fields.get("content-encoding")
        && seen.body != b"BR"
        && !seen.body.is_empty()
    {
        seen.body = decoded(&coding[0], &seen.body);
    }
    let text = String::from_utf8_lossy(&seen.body).into_owned();
    if text.contains("TWO") {
        seen.body = text.replace("TWO", "ONE").into_bytes();
    }
    seen
}

fn compare(what: &str, asked: &Asked, seen: Seen, expected: &Seen) {
    let (seen, expected) = (told(seen), &told(expected.clone()));
    let show =
        |seen: &Seen| String::from_utf8_lossy(&seen.body[..seen.body.len().min(600)]).into_owned();
    assert!(
        seen == *expected,
        "{what}: {asked:?}\n{} {:?}\n{}\ninstead of\n{} {:?}\n{}",
        seen.status,
        seen.fields,
        show(&seen),
        expected.status,
        expected.fields,
        show(expected),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_gives_the_same_answer() {
    let (one, two) = (origin_of_http1().await, origin_of_http2().await);
    let (gate, _folder) = gate_of(None, one.address, two.address).await;
    let client2 = client2(&gate).await;
    for (first, second) in asked("ONE").into_iter().zip(asked("TWO")) {
        let expected = over_http1(&mut client(&gate).await, &first).await;
        let seen = over_http2(&client2, &first, "http").await;
        compare("HTTP/2 to HTTP/1", &first, seen, &expected);
        let seen = over_http1(&mut client(&gate).await, &second).await;
        compare("HTTP/1 to HTTP/2", &second, seen, &expected);
        let seen = over_http2(&client2, &second, "http").await;
        compare("HTTP/2 to HTTP/2", &second, seen, &expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_gives_the_same_answer_over_tls() {
    let ca = Authority::new();
    let (one, two) = (origin_of_http1().await, origin_of_http2().await);
    let (gate, _folder) = gate_of(Some(&ca), one.address, two.address).await;
    let address = gate.address("web").unwrap();
    let client2 = sealed2(&gate, &ca, "a.test").await;
    let mut secure = 0;
    for (first, second) in asked("ONE").into_iter().zip(asked("TWO")) {
        let mut client = tls(address, ca.client(), "a.test").await;
        let expected = over_http1(&mut client, &first).await;
        let body = String::from_utf8_lossy(&expected.body);
        secure += usize::from(body.contains("x-forwarded-proto: https"));
        let seen = over_http2(&client2, &first, "https").await;
        compare("HTTP/2 to HTTP/1", &first, seen, &expected);
        let seen = over_http2(&client2, &second, "https").await;
        compare("HTTP/2 to HTTP/2", &second, seen, &expected);
    }
    assert!(secure > 3, "the backends and the rules learn of TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coded_stream_that_pauses_is_not_held_back() {
    use std::io::Read;
    let (go, wait) = tokio::sync::watch::channel(0);
    let origin = origin2(move |_, mut respond| {
        let mut wait = wait.clone();
        async move {
            let head = Response::builder().header("content-type", "text/event-stream");
            let mut stream = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            for part in 1..=3 {
                wait.wait_for(|turn| *turn >= part).await.unwrap();
                let last = part == 3;
                stream
                    .send_data(format!("data: {part}\n").into(), last)
                    .unwrap();
            }
        }
    })
    .await;
    let (gate, _folder) = gate_of(None, origin.address, origin.address).await;
    let client = client2(&gate).await;
    let mut request = get("/TWO/packed/x");
    request
        .headers_mut()
        .insert("accept-encoding", "gzip".parse().unwrap());
    let (response, _) = client.begin(request, true).await.unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let mut stream = response.into_body();
    let mut coded = Vec::new();
    for part in 1..=3 {
        go.send_replace(part);
        // What was sent so far can be read before the next part exists.
        let expected: String = (1..=part).map(|part| format!("data: {part}\n")).collect();
        loop {
            let mut out = Vec::new();
            let mut reader = flate2::read::GzDecoder::new(coded.as_slice());
            let mut byte = [0];
            while let Ok(1) = reader.read(&mut byte) {
                out.push(byte[0]);
            }
            if out == expected.as_bytes() {
                break;
            }
            let piece = tokio::time::timeout(PATIENCE, stream.data()).await.unwrap();
            coded.extend(piece.unwrap().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rate_holds_for_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
path = \"/\"
respond = { body = \"ok\" }
rate_limit = { requests = 4, per = \"10m\" }
";
    let mut settings = written(folder.path(), &[], text);
    settings.listeners[0].protocols = vec![Protocol::Http1, Protocol::Http2];
    let gate = start(settings).await;
    let two = client2(&gate).await;
    for _ in 0..2 {
        assert_eq!(two.ask(get("/")).await.unwrap().status(), 200);
        let (head, _) = ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&head), 200);
    }
    let refused = two.ask(get("/")).await.unwrap();
    assert_eq!(
        (refused.status(), code(&refused.body).as_str()),
        (429, "rate_limited")
    );
    assert!(refused.field("retry-after").is_some());
    // The connection goes on.
    assert_eq!(two.ask(get("/")).await.unwrap().status(), 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_its_body_is_sent_again_whatever_the_versions() {
    let sick = response(503, "", "sick");
    for backends in [Protocol::Http1, Protocol::Http2] {
        let number = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&number);
        // Of each pair of requests the first fails.
        let fails = move || asked.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        let origin = if backends == Protocol::Http1 {
            let sick = sick.clone();
            origin(move |mut peer, _| {
                let (fails, sick) = (fails.clone(), sick.clone());
                async move {
                    while let Some(head) = peer.head().await {
                        let body = peer.body_of(&head).await;
                        let text = String::from_utf8(body).unwrap();
                        let good = response(200, "", &text);
                        peer.send(if fails() { &sick } else { &good }).await;
                    }
                }
            })
            .await
        } else {
            origin2(move |request, mut respond| {
                let fails = fails.clone();
                async move {
                    let body = take(&mut request.into_body()).await.unwrap();
                    let status = if fails() { 503 } else { 200 };
                    let head = Response::builder().status(status).body(()).unwrap();
                    let mut stream = respond.send_response(head, false).unwrap();
                    stream.send_data(body.into(), true).unwrap();
                }
            })
            .await
        };
        let mut settings = both(&[origin.address, origin.address]);
        service(&mut settings).protocol = backends;
        let retry = &mut settings.routes[0].retry;
        (retry.attempts, retry.body_max) = (2, 64 * 1024);
        retry.on = RetryOn::CONNECT.and(RetryOn::STATUS_503);
        let gate = start(settings).await;
        let two = client2(&gate).await;
        let again = |status: u16, what: &str| {
            assert_eq!(status, 200, "{backends:?} {what}");
            assert_eq!(number.swap(0, Ordering::SeqCst), 2, "{backends:?} {what}");
        };
        let seen = over_http1(
            &mut client(&gate).await,
            &("PUT", "/".into(), vec![], 5_000),
        )
        .await;
        again(seen.status, "HTTP/1, PUT");
        let seen = over_http2(&two, &("PUT", "/".into(), vec![], 5_000), "http").await;
        assert_eq!(seen.body, vec![b'x'; 5_000]);
        again(seen.status, "HTTP/2, PUT");
        let seen = over_http2(&two, &("GET", "/".into(), vec![], 0), "http").await;
        again(seen.status, "HTTP/2, GET");
        // What is not idempotent is sent once.
        let seen = over_http2(&two, &("POST", "/".into(), vec![], 5), "http").await;
        assert_eq!((seen.status, number.load(Ordering::SeqCst)), (503, 1));
    }
}
