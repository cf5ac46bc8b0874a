//! Pings of the gate's own: both sides get them, nobody sees the answers, and all else passes byte
//! for byte.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use munjigi_gate::GateSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::http2_support::{both, client2};
use crate::support::*;
use crate::ws_support::*;

const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// Bytes of the payload of a ping of the gate's: the stories' own pings have another length.
const MARK: usize = 12;

fn pinging(origin: &Origin, every: u64) -> GateSettings {
    let mut settings = both(&[origin.address]);
    settings.routes[0].websocket.ping = Some(Duration::from_millis(every));
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_are_pinged_and_the_answers_are_swallowed() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, mut peers) = taking().await;
    let mut settings = pinging(&origin, 50);
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    let (mut client, mut backend) = pair(&gate, &mut peers).await;
    for _ in 0..3 {
        let ping = client.frame().await;
        assert_eq!(
            (ping.first, ping.masked, ping.payload.len()),
            (PING, false, MARK)
        );
        client
            .send_bytes(&frame(PONG, &ping.payload, Some([1, 2, 3, 4])))
            .await;
        let ping = backend.frame().await;
        assert_eq!(
            (ping.first, ping.masked, ping.payload.len()),
            (PING, true, MARK)
        );
        backend.send_bytes(&frame(PONG, &ping.payload, None)).await;
    }
    // In one piece with frames of their own, and without a mask.
    let ping = client.frame().await;
    let text = frame(0x81, b"from the client", Some([9, 8, 7, 6]));
    let answered = [frame(PONG, &ping.payload, None), text.clone()].concat();
    client.send_bytes(&answered).await;
    let next = loop {
        let frame = backend.frame().await;
        if frame.first != PING {
            break frame;
        }
    };
    assert_eq!(next.raw, text);
    // Answers to pings that nobody sent pass, as do the peers' own.
    for own in [
        frame(PING, b"how are you?", None),
        frame(PONG, b"twelve bytes", None),
        frame(PONG, b"", None),
    ] {
        backend.send_bytes(&own).await;
        let next = loop {
            let frame = client.frame().await;
            if frame.raw == own || frame.first != PING {
                break frame;
            }
        };
        assert_eq!(next.raw, own);
    }
    drop(client);
    let line = &lines(&log, 1).await[0];
    let pings = &line["closed"]["pings"];
    assert!(pings["client"]["answered"].as_u64().unwrap() >= 4, "{line}");
    assert!(
        pings["backend"]["answered"].as_u64().unwrap() >= 3,
        "{line}"
    );
    assert_eq!(line["closed"]["frames"]["client"], 1, "{line}");
    assert_eq!(line["closed"]["frames"]["backend"], 3, "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http2_is_pinged_too() {
    let (origin, mut peers) = taking().await;
    let gate = start(pinging(&origin, 50)).await;
    let client = client2(&gate).await;
    eventually("the gate's settings", || async {
        client.requests.is_extended_connect_protocol_enabled()
    })
    .await;
    let mut request = http::Request::builder()
        .method("CONNECT")
        .uri("http://example.com/live")
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    let protocol = h2::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    let (response, mut stream) = client.begin(request, false).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut backend = peers.recv().await.unwrap();
    let mut seen = Vec::new();
    let ping = loop {
        if let Some(frame) = parse(&seen) {
            break frame;
        }
        seen.extend_from_slice(&body.data().await.unwrap().unwrap());
    };
    assert_eq!(
        (ping.first, ping.masked, ping.payload.len()),
        (PING, false, MARK)
    );
    let text = frame(0x81, b"hello", Some([1, 2, 3, 4]));
    let bytes = [frame(PONG, &ping.payload, Some([5, 6, 7, 8])), text.clone()].concat();
    stream.send_data(bytes.into(), false).unwrap();
    let next = loop {
        let frame = backend.frame().await;
        if frame.first != PING {
            break frame;
        }
    };
    assert_eq!(next.raw, text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_is_never_broken_and_half_an_answer_is_not_lost() {
    let (origin, mut peers) = taking().await;
    let gate = start(pinging(&origin, 40)).await;
    let (mut client, mut backend) = pair(&gate, &mut peers).await;
    assert_eq!(backend.frame().await.first, PING);
    // Half a frame goes on, and no ping comes into it, however long its rest takes.
    let text = frame(0x81, &[b'x'; 300], Some([1, 2, 3, 4]));
    client.send_bytes(&text[..100]).await;
    let ping = loop {
        let ping = client.frame().await;
        if ping.payload.len() == MARK {
            break ping;
        }
    };
    for _ in 0..5 {
        assert_eq!(client.frame().await.first, PING);
    }
    client.send_bytes(&text[100..]).await;
    let next = loop {
        let frame = backend.frame().await;
        if frame.first != PING {
            break frame;
        }
    };
    assert_eq!(next.raw, text);
    // What begins like an answer and is none.
    let mut wrong = ping.payload.clone();
    wrong[11] ^= 0xff;
    let foreign = frame(PONG, &wrong, Some([0; 4]));
    for piece in foreign.chunks(5) {
        client.send_bytes(piece).await;
        assert_eq!(client.frame().await.first, PING);
    }
    let next = loop {
        let frame = backend.frame().await;
        if frame.first != PING {
            break frame;
        }
    };
    assert_eq!(next.raw, foreign);
    // The client ends behind half an answer: the half passes, too.
    let half = &frame(PONG, &ping.payload, None)[..7];
    let last = client.frame().await;
    let half = [&half[..2], &last.payload[..5]].concat();
    client.send_bytes(&half).await;
    AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    let rest = backend.rest().await;
    assert!(rest.ends_with(&half), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_passes_and_ends_the_pings() {
    let (origin, mut peers) = taking().await;
    let gate = start(pinging(&origin, 40)).await;
    let (mut client, mut backend) = pair(&gate, &mut peers).await;
    assert_eq!(client.frame().await.first, PING);
    assert_eq!(backend.frame().await.first, PING);
    // A control frame in pieces: from here on nobody knows where frames begin.
    let garbage = [&[0x09, 0x00][..], &[0x8a; 100]].concat();
    client.send_bytes(&garbage).await;
    let mut seen = Vec::new();
    while !seen.ends_with(&garbage) {
        assert!(backend.fill().await);
        seen.append(&mut backend.buffer);
    }
    client.buffer.clear();
    backend.send("and so on").await;
    let mut told = Vec::new();
    while !told.ends_with(b"and so on") {
        assert!(client.fill().await);
        told.append(&mut client.buffer);
    }
    // Ten times the interval later nothing has come.
    let quiet = async {
        tokio::select! {
            _ = client.fill() => panic!("{:?}", client.buffer),
            _ = backend.fill() => panic!("{:?}", backend.buffer),
        }
    };
    let waited = tokio::time::timeout(Duration::from_millis(400), quiet).await;
    assert!(waited.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_ping_no_frame_is_added_and_with_it_silence_still_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, mut peers) = taking().await;
    let mut quiet = settings(&[origin.address]);
    quiet.routes[0].websocket.idle = Duration::from_millis(400);
    let mut pinging = quiet.clone();
    pinging.routes[0].websocket.ping = Some(Duration::from_millis(50));
    let log = logged(&mut pinging, folder.path());
    let gate = start(quiet).await;
    let (mut client, mut backend) = pair(&gate, &mut peers).await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(backend.rest().await, b"");
    // Answers to pings are no word of a peer.
    let gate = start(pinging).await;
    let (mut client, _backend) = pair(&gate, &mut peers).await;
    let mut pings = 0;
    while client.fill().await {
        while let Some(ping) = parse(&client.buffer) {
            client.buffer.drain(..ping.raw.len());
            client
                .send_bytes(&frame(PONG, &ping.payload, Some([1, 2, 3, 4])))
                .await;
            pings += 1;
        }
    }
    assert!(pings > 0);
    let line = &lines(&log, 1).await[0];
    assert_eq!(
        (&line["closed"]["by"], &line["closed"]["how"]),
        (&"gate".into(), &"idle".into())
    );
}

/// A small generator with a printed seed: failures can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap() % limit
    }
}

/// Frames as peers send them: messages in fragments with control frames between, bits of
/// extensions, all lengths of lengths.
fn stream_of_frames(random: &mut Random, masked: bool) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let big = random.below(40);
    for message in 0..40 {
        let fragments = 1 + random.below(4);
        for fragment in 0..fragments {
            while random.below(4) == 0 {
                let kind = [PING, PONG][random.below(2)];
                let length = [0, 1, 11, 13, 125][random.below(5)];
                frames.push(one(random, kind, length, masked));
            }
            let length = if message == big && fragment == 0 {
                1 << 20
            } else {
                [0, 1, 12, 125, 126, 127, 4_000, 65_535, 65_536][random.below(9)]
            };
            let opcode = if fragment == 0 {
                1 + u8::try_from(random.below(2)).unwrap()
            } else {
                0
            };
            let last = if fragment + 1 == fragments { 0x80 } else { 0 };
            let compressed = if fragment == 0 && random.below(2) == 0 {
                0x40
            } else {
                0
            };
            frames.push(one(random, last | compressed | opcode, length, masked));
        }
    }
    frames
}

fn one(random: &mut Random, first: u8, length: usize, masked: bool) -> Vec<u8> {
    let start = random.below(256);
    let byte = |n: usize| u8::try_from(n % 251).unwrap();
    let payload: Vec<u8> = (start..start + length).map(byte).collect();
    let key = masked.then(|| [(); 4].map(|()| byte(random.below(251))));
    frame(first, &payload, key)
}

/// What one side does: it sends its frames in pieces of any size, answers the gate's pings between
/// them, and keeps what else it gets.
struct Speaker {
    masked: bool,
    answers: Mutex<VecDeque<Vec<u8>>>,
    pinged: AtomicUsize,
}

async fn send(
    mut stream: OwnedWriteHalf,
    frames: Vec<Vec<u8>>,
    seed: u64,
    speaker: Arc<Speaker>,
) -> OwnedWriteHalf {
    let mut random = Random(seed);
    let mut waiting = Vec::new();
    for frame in frames {
        let answers: Vec<_> = speaker.answers.lock().unwrap().drain(..).collect();
        waiting.extend(answers.concat());
        waiting.extend(frame);
        // Some are sent together, some in pieces.
        while waiting.len() > 200_000 || (!waiting.is_empty() && random.below(3) > 0) {
            let most = [3, 20, 70_000][random.below(3)];
            let piece = 1 + random.below(waiting.len().min(most));
            stream.write_all(&waiting[..piece]).await.unwrap();
            waiting.drain(..piece);
            match random.below(40) {
                0 => tokio::time::sleep(Duration::from_millis(60)).await,
                1..10 => tokio::task::yield_now().await,
                _ => {}
            }
        }
        if waiting.is_empty() && random.below(4) == 0 {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    stream.write_all(&waiting).await.unwrap();
    stream
}

/// Reads `count` bytes of the other peer; pings of the gate do not count.
async fn receive(mut stream: OwnedReadHalf, count: usize, speaker: Arc<Speaker>) -> Vec<u8> {
    let (mut buffer, mut got) = (Vec::new(), Vec::new());
    while got.len() < count {
        let read = tokio::time::timeout(PATIENCE * 3, stream.read_buf(&mut buffer)).await;
        assert!(read.unwrap().unwrap() > 0, "the stream ended early");
        while let Some(frame) = parse(&buffer) {
            buffer.drain(..frame.raw.len());
            if frame.first == PING && frame.payload.len() == MARK {
                speaker.pinged.fetch_add(1, Ordering::Relaxed);
                let key = speaker.masked.then_some([3, 1, 4, 1]);
                let answer = crate::ws_support::frame(PONG, &frame.payload, key);
                speaker.answers.lock().unwrap().push_back(answer);
            } else {
                got.extend(frame.raw);
            }
        }
    }
    got
}

fn split(peer: Peer) -> (OwnedReadHalf, OwnedWriteHalf) {
    assert!(peer.buffer.is_empty());
    let stream: TcpStream = peer.stream;
    stream.into_split()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_pass_byte_for_byte_with_pings_and_without() {
    let mut pinged = 0;
    for round in 0..6_u64 {
        let seed = 0x5eed_0000_dead_beef ^ (round << 40);
        println!("seed {seed:#x}");
        let mut random = Random(seed);
        let (origin, mut peers) = taking().await;
        let every = (round % 2 == 0).then_some(10);
        let mut settings = pinging(&origin, 10);
        settings.routes[0].websocket.ping = every.map(Duration::from_millis);
        let gate = start(settings).await;
        let (client, backend) = pair(&gate, &mut peers).await;
        let up = stream_of_frames(&mut random, true);
        let down = stream_of_frames(&mut random, false);
        let (all_up, all_down) = (up.concat(), down.concat());
        let speakers = [true, false].map(|masked| {
            Arc::new(Speaker {
                masked,
                answers: Mutex::default(),
                pinged: AtomicUsize::new(0),
            })
        });
        let ((client_in, client_out), (backend_in, backend_out)) = (split(client), split(backend));
        let [c, b] = &speakers;
        let (_up, _down, got_up, got_down) = tokio::join!(
            tokio::spawn(send(client_out, up, seed ^ 1, Arc::clone(c))),
            tokio::spawn(send(backend_out, down, seed ^ 2, Arc::clone(b))),
            tokio::spawn(receive(backend_in, all_up.len(), Arc::clone(b))),
            tokio::spawn(receive(client_in, all_down.len(), Arc::clone(c))),
        );
        assert!(got_up.unwrap() == all_up, "to the backend, seed {seed:#x}");
        assert!(
            got_down.unwrap() == all_down,
            "to the client, seed {seed:#x}"
        );
        for speaker in &speakers {
            let count = speaker.pinged.load(Ordering::Relaxed);
            assert!(every.is_some() || count == 0);
            pinged += count;
        }
    }
    assert!(pinged > 10, "only {pinged} pings came between the frames");
}
