//! What a connection of HTTP/2 may cost: floods, resets, header bombs, clients that stand still.

use std::time::{Duration, Instant};

use munjigi_gate::Gate;

use crate::http2_support::*;
use crate::support::*;

const ENHANCE_YOUR_CALM: u32 = 11;

/// A gate with an admin socket, to read its figures.
async fn watched(change: impl FnOnce(&mut munjigi_gate::GateSettings)) -> (Gate, Origin, Figures) {
    let origin = echo().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = both(&[origin.address]);
    settings.admin.socket = Some(folder.path().join("admin.sock"));
    change(&mut settings);
    (start(settings).await, origin, Figures(folder))
}

struct Figures(tempfile::TempDir);

impl Figures {
    async fn get(&self, name: &str) -> u64 {
        figure(&self.0.path().join("admin.sock"), name).await
    }

    async fn becomes(&self, name: &str, least: u64) {
        eventually(name, || async { self.get(name).await >= least }).await;
    }
}

fn ends(reason: &str) -> String {
    format!("munjigi_gate_ends_total{{reason=\"{reason}\"}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_carry_nothing_end_the_connection() {
    let (gate, _origin, figures) = watched(|_| {}).await;
    let floods = [
        ("PING", frame(6, 0, 0, &[0; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("an unknown kind", frame(0xfa, 0, 0, b"x")),
    ];
    for (place, (name, flood)) in floods.iter().enumerate() {
        let mut raw = Raw::open(&gate).await;
        // Some are nothing unusual.
        raw.send(&flood.repeat(100)).await;
        raw.send(&frame(1, 0x5, 1, &block("/", &[]))).await;
        assert!(raw.next_of(0).await.is_some(), "{name}");
        raw.send(&flood.repeat(2_000)).await;
        assert_eq!(raw.goodbye().await, Some(ENHANCE_YOUR_CALM), "{name}");
        figures
            .becomes(&ends("http2_flood"), place as u64 + 1)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data_and_endless_blocks_end_it_too() {
    let (gate, _origin, figures) = watched(|_| {}).await;
    let mut empty = Raw::open(&gate).await;
    empty.send(&frame(1, 0x4, 1, &block("/", &[]))).await;
    empty.send(&frame(0, 0, 1, &[]).repeat(2_000)).await;
    assert_eq!(empty.goodbye().await, Some(ENHANCE_YOUR_CALM));
    // CVE-2024-27919 and its kin: a header block without an end.
    let mut endless = Raw::open(&gate).await;
    endless.send(&frame(1, 0x1, 1, &block("/", &[]))).await;
    endless
        .send(&frame(9, 0, 1, &field("x", "y")).repeat(2_000))
        .await;
    assert!(endless.goodbye().await.is_some_and(|code| code != 0));
    // One whose blocks are empty.
    let mut hollow = Raw::open(&gate).await;
    hollow.send(&frame(1, 0x1, 1, &block("/", &[]))).await;
    hollow.send(&frame(9, 0, 1, &[]).repeat(2_000)).await;
    assert!(hollow.goodbye().await.is_some_and(|code| code != 0));
    figures.becomes(&ends("http2_flood"), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_at_once_end_it() {
    let (gate, _origin, figures) = watched(|_| {}).await;
    // CVE-2023-44487.
    let mut rapid = Raw::open(&gate).await;
    let mut bytes = Vec::new();
    for number in 0..2_000 {
        let stream = number * 2 + 1;
        bytes.extend(frame(1, 0x5, stream, &block("/", &[])));
        bytes.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
    }
    rapid.send(&bytes).await;
    assert_eq!(rapid.goodbye().await, Some(ENHANCE_YOUR_CALM));
    figures
        .becomes("munjigi_gate_http2_resets_total{by=\"client\"}", 100)
        .await;
    // CVE-2025-8671: the gate is made to reset them, by windows that overflow.
    let mut made = Raw::open(&gate).await;
    let mut bytes = Vec::new();
    for number in 0..2_000 {
        let stream = number * 2 + 1;
        bytes.extend(frame(1, 0x5, stream, &block("/", &[])));
        bytes.extend(frame(8, 0, stream, &[0x7f, 0xff, 0xff, 0xff]));
    }
    made.send(&bytes).await;
    assert!(made.goodbye().await.is_some_and(|code| code != 0));
    figures
        .becomes("munjigi_gate_http2_resets_total{by=\"gate\"}", 100)
        .await;
    // A few are what every client does.
    let client = client2(&gate).await;
    for _ in 0..50 {
        let (response, mut stream) = client.begin(get("/"), true).await.unwrap();
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
    }
    assert_eq!(client.ask(get("/")).await.unwrap().status(), 200);
    assert_eq!(figures.get("munjigi_gate_active ").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_bombs_are_refused() {
    let (gate, _origin, figures) = watched(|_| {}).await;
    // RFC 7541 §6.2.1: a field of 4 KB enters the table; then one byte each stands for all of it.
    let mut bomb = Raw::open(&gate).await;
    let mut fields = block("/", &[]);
    fields.push(0x40);
    fields.extend(&field("x", &"y".repeat(3_900))[1..]);
    fields.extend(vec![0xbe; 12_000]);
    bomb.send(&frame(1, 0x5, 1, &fields)).await;
    assert!(bomb.goodbye().await.is_some_and(|code| code != 0));
    // Somewhat too large is 431, with its document.
    let client = client2(&gate).await;
    let mut large = get("/");
    for number in 0..10 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        let value = "y".repeat(4_000).parse().unwrap();
        large.headers_mut().insert(name, value);
    }
    let answer = client.ask(large).await.unwrap();
    assert_eq!(
        (answer.status(), code(&answer.body).as_str()),
        (431, "head_too_large")
    );
    assert_eq!(client.ask(get("/")).await.unwrap().status(), 200);
    figures.becomes(&ends("head_too_large"), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_allowed_are_refused() {
    let hold = Hold::new();
    let origin = held_origin(&hold).await;
    let mut settings = both(&[origin.address]);
    settings.limits.http2.streams = 3;
    let gate = start(settings).await;
    let mut raw = Raw::open(&gate).await;
    let said = raw.next_of(4).await.unwrap();
    assert!(
        said.payload
            .windows(6)
            .any(|part| part == [0, 3, 0, 0, 0, 3])
    );
    for number in 0..5 {
        raw.send(&frame(1, 0x5, number * 2 + 1, &block("/", &[])))
            .await;
    }
    for stream in [7, 9] {
        let reset = raw.next_of(3).await.unwrap();
        assert_eq!(
            (reset.stream, reset.payload.as_slice()),
            (stream, &[0, 0, 0, 7][..])
        );
    }
    hold.release(3);
    for _ in 0..3 {
        assert_eq!(raw.next_of(0).await.unwrap().payload, b"ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_end_is_cut_in_time() {
    let (gate, _origin, figures) = watched(|settings| {
        settings.limits.head = Duration::from_millis(300);
    })
    .await;
    let fields = block("/", &[]);
    let whole = frame(1, 0x5, 1, &fields);
    // In the middle of the preface, of a frame, before the last of the block.
    for (place, first) in [&PREFACE[..10], &whole[..20], &frame(1, 0x1, 1, &fields)]
        .iter()
        .enumerate()
    {
        let mut raw = if place == 0 {
            let stream = tokio::net::TcpStream::connect(gate.address("web").unwrap()).await;
            let mut raw = Peer::new(stream.unwrap());
            raw.send_bytes(first).await;
            raw.rest().await;
            continue;
        } else {
            Raw::open(&gate).await
        };
        raw.send(first).await;
        let code = raw.goodbye().await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "case {place}");
    }
    figures.becomes(&ends("head_timeout"), 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_kindly() {
    let (gate, _origin, figures) = watched(|settings| {
        settings.limits.keep_alive = Duration::from_millis(300);
    })
    .await;
    let client = client2(&gate).await;
    assert_eq!(client.ask(get("/")).await.unwrap().status(), 200);
    client.connection.await.unwrap().unwrap();
    figures.becomes(&ends("keep_alive_timeout"), 1).await;
    // Pings keep nothing open.
    let mut raw = Raw::open(&gate).await;
    raw.send(&frame(4, 1, 0, &[])).await;
    let start = Instant::now();
    loop {
        raw.send(&frame(6, 0, 0, &[3; 8])).await;
        match raw.next().await {
            None => break,
            Some(frame) if frame.kind == 6 && frame.flags == 0 => {
                raw.send(&crate::http2_support::frame(6, 1, 0, &frame.payload))
                    .await;
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        assert!(start.elapsed() < PATIENCE, "it is still open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_makes_no_room_is_judged_by_rate_min() {
    let origin = origin(|mut peer, _| async move {
        while peer.head().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
                .await;
            let piece = vec![7; 1 << 16];
            for _ in 0..152 {
                peer.send_bytes(&piece).await;
            }
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = both(&[origin.address]);
    settings.admin.socket = Some(folder.path().join("admin.sock"));
    let gate = start(settings).await;
    let figures = Figures(folder);
    // A window of nothing: not a byte can be sent.
    let mut raw = Raw::open_with(&gate, &[0, 4, 0, 0, 0, 0]).await;
    raw.send(&frame(1, 0x5, 1, &block("/", &[]))).await;
    let mut slow = Raw::open(&gate).await;
    let mut post = block("/", &[]);
    post.splice(..field(":method", "GET").len(), field(":method", "POST"));
    slow.send(&frame(1, 0x4, 1, &post)).await;
    slow.send(&frame(0, 0, 1, b"x")).await;
    assert_eq!(raw.next_of(1).await.unwrap().stream, 1);
    let reset = tokio::time::timeout(PATIENCE * 3, raw.next_of(3)).await;
    assert_eq!(reset.unwrap().unwrap().stream, 1);
    figures.becomes(&ends("reader_too_slow"), 1).await;
    // An upload that is owed gets its answer.
    figures.becomes(&ends("request_too_slow"), 1).await;
}
