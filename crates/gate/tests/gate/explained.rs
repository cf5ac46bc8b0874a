//! `explain` says what happens: random settings, random requests over real sockets, and what the
//! client, the backend and the access log saw against what was explained just before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use munjigi_gate::explain::{self, Asked, Outcome};
use munjigi_gate::settings::AccessLog;
use munjigi_gate::{Gate, Wiring};

use crate::support::*;

/// Gates, and requests to each. `MUNJIGI_EXPLAIN_GATES` asks for more.
const GATES: usize = 90;
const REQUESTS: usize = 14;

trait Draw {
    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str;
    /// True once in `times`.
    fn once_in(&mut self, times: usize) -> bool;
}

impl Draw for Rng {
    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.usize(..all.len())]
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.usize(..times) == 0
    }
}

fn route(random: &mut Rng, number: usize) -> String {
    let mut text = format!("[[gate.route]]\nname = \"r{number}\"\n");
    let mut line = |key: &str, value: &str| text += &format!("{key} = {value}\n");
    let prefix = random.of(&["/", "/a", "/a/b", "/{x}", "/a/{x}", "/b/{x}/c", "/files"]);
    let by_prefix = match random.usize(..6) {
        0 => {
            line("path_exact", random.of(&["\"/a\"", "\"/a/b\"", "\"/\""]));
            false
        }
        1 => {
            line(
                "path_regex",
                random.of(&["\"/a.*\"", "\"/[ab]/b\"", "\"/.*/c\""]),
            );
            false
        }
        _ => {
            line("path", &format!("\"{prefix}\""));
            true
        }
    };
    let segment = by_prefix && prefix.contains("{x}");
    if random.once_in(3) {
        line(
            "host",
            random.of(&[
                "\"one.example\"",
                "[\"*.example\"]",
                "[\"two.example\", \"*.one.example\"]",
            ]),
        );
    }
    if random.once_in(3) {
        line(
            "method",
            random.of(&["\"GET\"", "[\"GET\", \"POST\"]", "\"DELETE\""]),
        );
    }
    if random.once_in(4) {
        line(
            "listener",
            random.of(&["\"web\"", "[\"web\", \"inner\"]", "\"inner\""]),
        );
    }
    if random.once_in(4) {
        line(
            "header",
            random.of(&[
                "{ X-Kind = \"1\" }",
                "{ X-Kind = { prefix = \"1\" } }",
                "{ X-Kind = { present = false } }",
            ]),
        );
    }
    if random.once_in(4) {
        line(
            "query",
            random.of(&[
                "{ q = \"1\" }",
                "{ q = { regex = \"[0-9]+\" } }",
                "{ q = { present = true } }",
            ]),
        );
    }
    if random.once_in(5) {
        line(
            "response_headers",
            random.of(&[
                "{ set = { X-From = \"gate\" }, remove = [\"server\"] }",
                "{ add = { X-Path = \"{path}\" } }",
            ]),
        );
    }
    if random.once_in(5) {
        line(
            "error_pages",
            "{ 5xx = \"oops.html\", 404 = \"oops.html\" }",
        );
    }
    if random.once_in(6) {
        line(
            "rate_limit",
            random.of(&[
                "{ requests = 3, per = \"1h\" }",
                "{ requests = 1, per = \"1h\", by = \"header.X-Kind\" }",
            ]),
        );
    }
    if random.once_in(5) {
        line("compression", "{}");
    }
    let kind = random.usize(..8);
    let rewrites = match random.usize(..if by_prefix { 6 } else { 3 }) {
        0 if segment => Some(("rewrite", "{ path = \"/x/{x}\" }")),
        0 => Some(("rewrite", "{ path = \"/fixed\" }")),
        1 => Some(("rewrite", "{ regex = \"/(.)(.*)\", to = \"/$2/$1\" }")),
        3 => Some(("strip_prefix", "true")),
        4 => Some(("rewrite", "{ prefix = \"/internal\" }")),
        _ => None,
    };
    if let (Some((key, value)), 2..) = (rewrites, kind) {
        line(key, value);
    }
    match kind {
        0 => line(
            "redirect",
            random.of(&[
                "{ location = \"https://{host}{path}{query}\" }",
                "{ status = 302, location = \"{path}/\" }",
            ]),
        ),
        1 => line(
            "respond",
            random.of(&[
                "{ status = 200, body = \"hello\" }",
                "{ status = 204 }",
                "{ status = 503, body = \"no\" }",
            ]),
        ),
        2 => line(
            "files",
            random.of(&[
                "{ root = \".\" }",
                "{ root = \".\", spa = true, index = [\"oops.html\"], precompressed = [\"gzip\"] }",
            ]),
        ),
        _ => {
            let service = random.of(&["APP", "APP", "APP", "HUB", "MODELS", "MODELS", "NOBODY"]);
            line("service", &format!("\"{service}\""));
            if random.once_in(if service == "MODELS" { 2 } else { 12 }) {
                let source = if segment && kind < 6 {
                    "{x}"
                } else {
                    "query.id"
                };
                line("where", &format!("\"metadata.serverId = {source}\""));
                if random.once_in(2) {
                    line("where_missing", "\"balance\"");
                }
            }
            if random.once_in(4) {
                line(
                    "request_headers",
                    random.of(&[
                        "{ set = { X-Kind = \"set\" }, remove = [\"accept\"] }",
                        "{ add = { X-Client = \"{client_ip}\" } }",
                    ]),
                );
            }
            if random.once_in(4) {
                line("request_body_max", "\"4B\"");
            }
            if random.once_in(5) {
                line("websocket", "{ origins = [\"https://one.example\"] }");
            }
        }
    }
    text
}

/// Method, target, header fields, body, listener.
struct Sent {
    method: &'static str,
    host: &'static str,
    target: String,
    headers: Vec<(String, String)>,
    body: &'static str,
    listener: &'static str,
}

fn request(random: &mut Rng, number: usize) -> Sent {
    let path = random.of(&[
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/c",
        "/b/7/c",
        "/b/b",
        "/143",
        "/a/144",
        "/zz/c",
        "/%61/b",
        "/a/../b/b",
        "/files/page.txt",
        "/page.txt",
        "/folder",
        "/internal/events",
        "/a/%69nternal/x",
        "//a",
        "/a/b%2fc",
        "/.hidden",
    ]);
    let query = random.of(&["", "q=1&", "q=x&", "id=143&", "id=145&q=1&", "id=1&id=2&"]);
    let method = random.of(&[
        "GET", "GET", "GET", "GET", "GET", "HEAD", "POST", "POST", "DELETE", "PUT",
    ]);
    let method = if random.once_in(40) {
        "CONNECT"
    } else {
        method
    };
    let mut headers = Vec::new();
    let mut with = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    if random.once_in(2) {
        with("X-Kind", random.of(&["1", "12", "2"]));
    }
    if random.once_in(3) {
        with("Accept", random.of(&["text/html", "*/*"]));
    }
    if random.once_in(3) {
        with("Accept-Encoding", random.of(&["gzip", "br, zstd"]));
    }
    if random.once_in(6) {
        with("X-Forwarded-For", "203.0.113.9");
    }
    if random.once_in(8) {
        with("Connection", "X-Kind");
    }
    if random.once_in(10) {
        with("Upgrade", "websocket");
        with("Connection", "Upgrade");
        with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        with(
            "Origin",
            random.of(&["https://one.example", "https://two.example"]),
        );
    }
    let body = if method == "POST" {
        random.of(&["", "1234", "12345678"])
    } else {
        ""
    };
    if method == "POST" {
        with("Content-Length", &body.len().to_string());
    }
    Sent {
        method,
        host: random.of(&["one.example", "x.one.example:8080", "TWO.example", "other"]),
        target: format!("{path}?{query}case={number}"),
        headers,
        body,
        listener: random.of(&["web", "web", "inner"]),
    }
}

/// Says with `X-Backend` who it is, and repeats the head it got as its body.
async fn backend() -> Origin {
    origin(|mut peer, _| async move {
        while let Some(head) = peer.head().await {
            peer.body_of(&head).await;
            let length = head.len();
            let body = if head.starts_with("HEAD ") { "" } else { head.as_str() };
            // Nothing that is compressed: the client compares the bytes.
            peer.send(&format!("HTTP/1.1 200 OK\r\nX-Head: {}\r\nContent-Type: message/http\r\nContent-Length: {length}\r\n\r\n{body}", hex(&head))).await;
        }
    })
    .await
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> String {
    let bytes = text.as_bytes().chunks(2);
    let bytes =
        bytes.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

/// What was expected of one request, to be compared with its line of the access log.
struct Expected {
    story: String,
    route: Option<String>,
    status: u16,
    code: &'static str,
    candidates: Option<Vec<String>>,
}

async fn ask_and_compare(gate: &Gate, sent: &Sent, what: &str) -> Expected {
    let url = format!("http://{}{}", sent.host, sent.target);
    let asked = Asked {
        method: sent.method,
        url: &url,
        headers: &sent.headers,
        from: "127.0.0.1".parse().unwrap(),
        listener: Some(sent.listener),
    };
    let explained = explain::request(&gate.snapshot(), asked);
    let fields: String = sent
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let text = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n{}",
        sent.method, sent.target, sent.host, sent.body
    );
    let story = format!("{what}\n{text}\n{explained:#?}");
    let mut client = Peer::connect(gate.address(sent.listener).unwrap()).await;
    client.send(&text).await;
    let head = client
        .head()
        .await
        .unwrap_or_else(|| panic!("no answer\n{story}"));
    let undated = |head: &str| -> String {
        head.lines()
            .filter(|line| !line.starts_with("Date: "))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    let mut expected = Expected {
        route: explained.route.clone(),
        status: status(&head),
        code: "",
        candidates: None,
        story: story.clone(),
    };
    match &explained.outcome {
        Outcome::Answer {
            status: code,
            head: told,
            code: reason,
        } => {
            assert_eq!(undated(&head), undated(told), "{story}");
            assert_eq!(status(&head), *code, "{story}");
            expected.code = reason;
        }
        Outcome::Forward {
            head: told,
            candidates,
        } => {
            assert_eq!(status(&head), 200, "{head}\n{story}");
            assert_eq!(unhex(header(&head, "x-head").unwrap()), *told, "{story}");
            expected.code = "done";
            expected.candidates = Some(candidates.clone());
        }
        Outcome::Unknown => panic!("a running gate knows\n{story}"),
    }
    expected
}

fn compare_log(file: &Path, expected: &BTreeMap<usize, Expected>) {
    let log = std::fs::read_to_string(file).unwrap();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), expected.len());
    for line in lines {
        let target = line["target"].as_str().unwrap();
        let number: usize = target.rsplit_once("case=").unwrap().1.parse().unwrap();
        let told = &expected[&number];
        let story = &told.story;
        assert_eq!(line["status"], told.status, "{line}\n{story}");
        assert_eq!(
            line["route"].as_str(),
            told.route.as_deref(),
            "{line}\n{story}"
        );
        assert_eq!(line["reason"], told.code, "{line}\n{story}");
        if let Some(candidates) = &told.candidates {
            let backend = line["backend"].as_str().unwrap();
            assert!(
                candidates.iter().any(|known| known == backend),
                "{line}\n{story}"
            );
        } else {
            assert_eq!(line["backend"], serde_json::Value::Null, "{line}\n{story}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_explained_is_what_happens() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    let seed = number("MUNJIGI_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}: set MUNJIGI_SEED to repeat");
    let gates =
        number("MUNJIGI_EXPLAIN_GATES").map_or(GATES, |count| usize::try_from(count).unwrap());
    let mut random = Rng::with_seed(seed);
    let origins = [backend().await, backend().await, backend().await];
    let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..gates {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("oops.html"), "<h1>oops</h1>").unwrap();
        std::fs::write(folder.path().join("page.txt"), "a page ".repeat(1_000)).unwrap();
        std::fs::write(folder.path().join("page.txt.gz"), "gz").unwrap();
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        let mut routes: String = (0..random.usize(1..=9))
            .map(|number| route(&mut random, number))
            .collect();
        if !random.once_in(8) {
            routes += "[[gate.route]]\nname = \"rest\"\npath = \"/\"\nservice = \"APP\"\n";
        }
        let more = if random.once_in(3) {
            "[gate.client_ip]\ntrusted = [\"127.0.0.0/8\"]\n"
        } else {
            ""
        };
        let text = format!(
            "{more}[gate.registry]\nembedded = true\n[gate.service.APP]\nbackends = [{{ address = \"{}\" }}, {{ address = \"{}\", weight = 2 }}]\n{routes}",
            addresses[0], addresses[1]
        );
        let mut settings = written(folder.path(), &[("HUB", addresses[2])], &text);
        let file = folder.path().join("access.log");
        settings.access_log = AccessLog::File(file.clone());
        let workers = addresses.iter().zip(["143", "144", "7"]);
        let workers = workers.map(|(address, id)| worker(*address, id));
        let wiring = Wiring {
            discovery: Some(told("MODELS", workers.collect())),
            ..Wiring::default()
        };
        let gate = Gate::start(settings, wiring).await.unwrap();
        let mut expected = BTreeMap::new();
        for number in 0..REQUESTS {
            let sent = request(&mut random, number);
            let what = format!("seed {seed}, gate {round}, request {number}\n{text}");
            let told = ask_and_compare(&gate, &sent, &what).await;
            let kind = format!("{} {}", told.status, told.code);
            *counts.entry(kind).or_default() += 1;
            expected.insert(number, told);
        }
        gate.drain(Duration::from_secs(10)).await;
        compare_log(&file, &expected);
    }
    println!("{counts:?}");
    let forwarded = counts.get("200 done").copied().unwrap_or_default();
    assert!(gates < GATES || (forwarded > 200 && counts.len() > 10));
}
