//! The desync corpus (`tests/desync/*.toml`) against the gate: each message has one meaning, or is refused and its
//! connection closed; an origin never sees two messages for one, a client never gets two answers for one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;

use crate::support::{self, Peer, header, origin, settings, start, status};

/// After so long, nothing more is to come; below what a peer of a story waits for.
const SILENCE: Duration = Duration::from_secs(2);
const EVIL_REQUEST: &str = "GET /evil?xxxxxxxx HTTP/1.1\r\nHost: a\r\n\r\n";
const EVIL_RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

#[derive(Debug, Deserialize)]
struct Corpus<T> {
    cases: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    class: String,
    rfc: String,
    send: String,
    want: String,
    #[serde(default)]
    sees: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Response {
    class: String,
    rfc: String,
    #[serde(default = "get")]
    ask: String,
    send: String,
    #[serde(default)]
    close: bool,
    want: String,
    #[serde(default)]
    body: usize,
}

fn get() -> String {
    "GET".to_owned()
}

fn corpus<T: DeserializeOwned>(text: &str, least: usize) -> Vec<T> {
    let corpus: Corpus<T> = toml::from_str(text).unwrap();
    assert!(corpus.cases.len() >= least, "the corpus has shrunk");
    corpus.cases
}

/// The bytes that `send` stands for.
fn bytes(send: &str, words: &[(&str, &str)]) -> Vec<u8> {
    let mut text = send.to_owned();
    for (word, meaning) in words {
        text = text.replace(word, meaning);
    }
    let repeat = regex::Regex::new(r"(?s)<(\d+)\*([^>]*)>").unwrap();
    let text = repeat.replace_all(&text, |found: &regex::Captures<'_>| {
        found[2].repeat(found[1].parse().unwrap())
    });
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).unwrap())
        .collect()
}

/// What an origin saw: whole messages, and whatever has more than one meaning.
#[derive(Debug, Default)]
struct Seen {
    messages: Vec<String>,
    faults: Vec<String>,
}

/// True when a head can be read in one way only: the strictest and the most lenient reader agree.
fn is_plain(head: &str) -> bool {
    let lines: Vec<&str> = head.split("\r\n").collect();
    let fields = &lines[1..lines.len() - 2];
    let clean = |line: &&str| !line.contains(['\r', '\n', '\0']);
    let count = |name: &str| {
        let is = |line: &&&str| {
            line.split(':')
                .next()
                .unwrap()
                .trim()
                .eq_ignore_ascii_case(name)
        };
        fields.iter().filter(is).count()
    };
    let named = |line: &&str| {
        line.split_once(':').is_some_and(|(name, _)| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        })
    };
    lines.iter().all(clean)
        && fields.iter().all(named)
        && count("content-length") + count("transfer-encoding") <= 1
        && count("host") == 1
        && header(head, "transfer-encoding").is_none_or(|coding| coding == "chunked")
        && header(head, "content-length")
            .is_none_or(|length| length.bytes().all(|b| b.is_ascii_digit()))
}

async fn watch(mut peer: Peer, seen: Arc<Mutex<Seen>>) {
    while let Some(head) = peer.head().await {
        if !is_plain(&head) {
            seen.lock()
                .unwrap()
                .faults
                .push(format!("{head:?} is not plain"));
            return;
        }
        let Some(body) = whole_body(&mut peer, &head).await else {
            return;
        };
        let start: Vec<&str> = head.split(' ').take(2).collect();
        let message = format!("{} {}", start.join(" "), body);
        seen.lock().unwrap().messages.push(message);
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
    }
}

/// Bytes of a body; `None` when the stream ends in it.
async fn whole_body(peer: &mut Peer, head: &str) -> Option<usize> {
    if let Some(length) = header(head, "content-length") {
        let length = length.parse().unwrap();
        return take(peer, length).await.map(|()| length);
    }
    if header(head, "transfer-encoding").is_none() {
        return Some(0);
    }
    let mut total = 0;
    loop {
        let line = line(peer).await?;
        let size = usize::from_str_radix(&line, 16).ok()?;
        if size == 0 {
            while !self::line(peer).await?.is_empty() {}
            return Some(total);
        }
        take(peer, size + 2).await?;
        total += size;
    }
}

async fn line(peer: &mut Peer) -> Option<String> {
    loop {
        if let Some(at) = peer.buffer.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = peer.buffer.drain(..at + 2).collect();
            return Some(String::from_utf8_lossy(&line[..at]).into_owned());
        }
        if !peer.fill().await {
            return None;
        }
    }
}

async fn take(peer: &mut Peer, count: usize) -> Option<()> {
    while peer.buffer.len() < count {
        if !peer.fill().await {
            return None;
        }
    }
    peer.buffer.drain(..count);
    Some(())
}

/// The next final answer: status and body, and whether the body was whole.
async fn answer(peer: &mut Peer, method: &str) -> Option<(u16, Vec<u8>, bool)> {
    loop {
        let head = peer.head().await?;
        let status = status(&head);
        if status < 200 {
            continue;
        }
        let bodyless = method == "HEAD" || status == 204 || status == 304;
        let mut body = Vec::new();
        if bodyless {
            return Some((status, body, true));
        }
        if let Some(length) = header(&head, "content-length") {
            let length: usize = length.parse().unwrap();
            while peer.buffer.len() < length {
                if !peer.fill().await {
                    return Some((status, std::mem::take(&mut peer.buffer), false));
                }
            }
            body.extend(peer.buffer.drain(..length));
            return Some((status, body, true));
        }
        if header(&head, "transfer-encoding").is_none() {
            return Some((status, peer.rest().await, true));
        }
        loop {
            let size = match line(peer).await {
                Some(line) => usize::from_str_radix(&line, 16).unwrap(),
                None => return Some((status, body, false)),
            };
            if size == 0 {
                while let Some(line) = line(peer).await {
                    if line.is_empty() {
                        return Some((status, body, true));
                    }
                }
                return Some((status, body, false));
            }
            while peer.buffer.len() < size + 2 {
                if !peer.fill().await {
                    return Some((status, body, false));
                }
            }
            body.extend(peer.buffer.drain(..size));
            peer.buffer.drain(..2);
        }
    }
}

#[tokio::test]
async fn no_request_becomes_two() {
    let words = [
        ("<chunked>", "<post>Transfer-Encoding: chunked\r\n\r\n"),
        ("<post>", "POST /a HTTP/1.1\r\nHost: a\r\n"),
        ("<get>", "GET /a HTTP/1.1\r\nHost: a\r\n"),
        ("<evil>", EVIL_REQUEST),
    ];
    assert_eq!(EVIL_REQUEST.len(), 40, "lengths of the corpus count on it");
    let cases: Vec<Request> = corpus(include_str!("../../../../tests/desync/requests.toml"), 180);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    let origin = origin(move |peer, _| watch(peer, Arc::clone(&shared))).await;
    let gate = start(settings(&[origin.address])).await;
    let mut wrong = Vec::new();
    for case in &cases {
        let mut client = support::client(&gate).await;
        client.send_bytes(&bytes(&case.send, &words)).await;
        let mut got = Vec::new();
        let refused = usize::from(case.want != "200");
        while got.len() < case.sees.len() + refused {
            match tokio::time::timeout(SILENCE, answer(&mut client, "GET")).await {
                Ok(Some((status, _, true))) => got.push(status.to_string()),
                _ => break,
            }
        }
        let mut want = vec!["200".to_owned(); case.sees.len()];
        if refused == 1 {
            want.push(case.want.clone());
        } else {
            // Nothing more is to be answered: then the stream may end.
            drop(client.stream.shutdown().await);
        }
        let Ok(rest) = tokio::time::timeout(SILENCE, client.rest()).await else {
            wrong.push(format!(
                "{} (RFC {}): {:?}\n  the connection stays open",
                case.class, case.rfc, case.send
            ));
            continue;
        };
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        if got != want || seen.messages != case.sees || !seen.faults.is_empty() || !rest.is_empty()
        {
            wrong.push(format!(
                "{} (RFC {}): {:?}\n  answered {got:?}, wanted {want:?}; {seen:?}, wanted {:?}; then {:?}",
                case.class,
                case.rfc,
                case.send,
                case.sees,
                String::from_utf8_lossy(&rest)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// Answers `/a` with the case, and everything else as itself.
async fn misbehave(mut peer: Peer, script: Arc<Mutex<(Vec<u8>, bool)>>) {
    while let Some(head) = peer.head().await {
        if !head.contains(" /a ") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
                .await;
            continue;
        }
        let (bytes, close) = script.lock().unwrap().clone();
        peer.send_bytes(&bytes).await;
        if close {
            return;
        }
    }
}

#[tokio::test]
async fn no_response_becomes_two() {
    let words = [
        (
            "<chunked>",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("<evil>", EVIL_RESPONSE),
    ];
    let cases: Vec<Response> = corpus(include_str!("../../../../tests/desync/responses.toml"), 80);
    let script = Arc::new(Mutex::new((Vec::new(), false)));
    let shared = Arc::clone(&script);
    let origin = origin(move |peer, _| misbehave(peer, Arc::clone(&shared))).await;
    let gate = start(settings(&[origin.address])).await;
    let mut wrong = Vec::new();
    for case in &cases {
        *script.lock().unwrap() = (bytes(&case.send, &words), case.close);
        let mut client = support::client(&gate).await;
        client
            .send(&format!("{} /a HTTP/1.1\r\nHost: a\r\n\r\n", case.ask))
            .await;
        let answering = tokio::time::timeout(SILENCE, answer(&mut client, &case.ask)).await;
        let got = answering.unwrap_or_default();
        let (said, right) = match &got {
            Some((_, body, false)) => ("cut".to_owned(), case.want == "cut" && body.len() <= 5),
            // Seen before a byte of the answer went out.
            Some((502, _, true)) => ("502".to_owned(), case.want == "502" || case.want == "cut"),
            Some((status, body, true)) => {
                let whole = body.len() == case.body;
                (status.to_string(), status.to_string() == case.want && whole)
            }
            None => ("nothing".to_owned(), false),
        };
        client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answering = tokio::time::timeout(SILENCE, answer(&mut client, "GET")).await;
        let mut next = answering.unwrap_or_default();
        if next.is_none() {
            let mut fresh = support::client(&gate).await;
            fresh.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
            next = answer(&mut fresh, "GET").await;
        }
        let own = matches!(&next, Some((200, body, true)) if body == b"next");
        if !right || !own {
            wrong.push(format!(
                "{} (RFC {}): {:?}\n  answered {said} {got:?}, wanted {} with {} bytes; the next one got {next:?}",
                case.class, case.rfc, case.send, case.want, case.body
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
