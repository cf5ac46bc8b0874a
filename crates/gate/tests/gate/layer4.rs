//! Layer 4 over real sockets: TCP tunnels and UDP sessions to one service.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use munjigi_gate::settings::AccessLog;
use munjigi_gate::{Gate, GateSettings};
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;

use crate::support::*;

/// Settings with the listener `line`, which goes to `addresses`.
fn line(folder: &Path, protocol: &str, addresses: &[SocketAddr], more: &str) -> GateSettings {
    let backends: Vec<String> = addresses
        .iter()
        .map(|address| format!("{{ address = \"{address}\" }}"))
        .collect();
    let text = format!(
        "[[gate.listener]]\nname = \"line\"\naddress = \"127.0.0.1:0\"\nprotocols = [\"{protocol}\"]\nservice = \"LINE\"\n{more}\n[gate.service.LINE]\nbackends = [{}]\n",
        backends.join(", ")
    );
    let mut settings = written(folder, &[], &text);
    settings.access_log = AccessLog::File(folder.join("access.log"));
    settings
}

fn log(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn connect(gate: &Gate) -> Peer {
    Peer::connect(gate.address("line").unwrap()).await
}

/// Says its name, then repeats all it gets; after the client's end it says goodbye.
async fn named(name: &'static str) -> Origin {
    origin(move |mut peer, _| async move {
        peer.send(&format!("{name}\r\n")).await;
        while peer.fill().await {
            let bytes = std::mem::take(&mut peer.buffer);
            peer.send_bytes(&bytes).await;
        }
        peer.send("bye").await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_passes_both_ways_and_each_side_may_end_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (named("one").await, named("two").await);
    let gate = start(line(folder.path(), "tcp", &[one.address, two.address], "")).await;
    let mut names = Vec::new();
    for _ in 0..4 {
        let mut client = connect(&gate).await;
        names.push(client.line().await);
        let large = vec![b'x'; 300_000];
        let (mut reading, mut writing) = client.stream.into_split();
        let sent = large.clone();
        let sending = tokio::spawn(async move {
            writing.write_all(&sent).await.unwrap();
            // Our side ends; what the backend still says comes through.
            writing.shutdown().await.unwrap();
        });
        let mut all = client.buffer;
        tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut all)
            .await
            .unwrap();
        sending.await.unwrap();
        assert_eq!(all.len(), large.len() + 3);
        assert!(all.ends_with(b"xbye"));
    }
    names.sort();
    assert_eq!(names, ["one", "one", "two", "two"]);
    gate.drain(Duration::from_secs(10)).await;
    let lines = log(folder.path());
    assert_eq!(lines.len(), 4);
    for entry in lines {
        assert_eq!(entry["listener"], "line");
        assert_eq!(entry["service"], "LINE");
        assert_eq!(entry["reason"], "tunnel_closed_by_client");
        assert_eq!(entry["bytesReceived"], 300_000);
        assert_eq!(entry["bytesSent"], 300_008);
        assert_eq!(entry["client"], "127.0.0.1");
        assert!(entry["backend"].is_string() && entry["method"].is_null());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_ends_first_leaves_the_client_its_side() {
    let folder = tempfile::tempdir().unwrap();
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let backend = origin(move |mut peer, _| {
        let told = told.clone();
        async move {
            peer.send("hello").await;
            peer.stream.shutdown().await.unwrap();
            let rest = peer.rest().await;
            told.send(rest).await.unwrap();
        }
    })
    .await;
    let gate = start(line(folder.path(), "tcp", &[backend.address], "")).await;
    let mut client = connect(&gate).await;
    assert_eq!(client.rest().await, b"hello");
    client.send("still here").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), b"still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_tries_another_backend_and_says_when_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let alive = named("alive").await;
    let gate = start(line(
        folder.path(),
        "tcp",
        &[nobody().await, alive.address],
        "",
    ))
    .await;
    for _ in 0..4 {
        assert_eq!(connect(&gate).await.line().await, "alive");
    }
    drop(gate);
    let other = tempfile::tempdir().unwrap();
    let gate = start(line(other.path(), "tcp", &[nobody().await], "attempts = 1")).await;
    assert_eq!(connect(&gate).await.rest().await, b"");
    gate.drain(Duration::from_secs(10)).await;
    assert_eq!(log(other.path())[0]["reason"], "connect_failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_ends_what_is_silent_and_keeps_to_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    let backend = named("one").await;
    let more = "timeout = { idle = \"300ms\" }\nconnections_max = 2\n";
    let mut settings = line(folder.path(), "tcp", &[backend.address], more);
    let socket = folder.path().join("admin.sock");
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let mut first = connect(&gate).await;
    let mut second = connect(&gate).await;
    assert_eq!(
        (first.line().await, second.line().await),
        ("one".to_owned(), "one".to_owned())
    );
    assert_eq!(
        connect(&gate).await.rest().await,
        b"",
        "one too many is closed"
    );
    // Who speaks stays; who is silent goes.
    for _ in 0..5 {
        first.send("x").await;
        first.exactly(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(second.rest().await, b"");
    drop(first);
    eventually("both are logged", || async {
        log(folder.path()).len() == 2
    })
    .await;
    assert_eq!(log(folder.path())[0]["reason"], "tunnel_idle");
    let page = admin(&socket, "/metrics").await;
    assert!(page.contains("munjigi_gate_ends_total{reason=\"too_many_connections\"} 1\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_takes_no_new_connection_and_waits_for_the_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let backend = named("one").await;
    let gate = start(line(folder.path(), "tcp", &[backend.address], "")).await;
    let address = gate.address("line").unwrap();
    let mut client = connect(&gate).await;
    client.line().await;
    let draining = tokio::spawn(gate.drain(Duration::from_secs(20)));
    eventually("the listener is closed", || async {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    client.send("on").await;
    assert_eq!(client.exactly(2).await, b"on");
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"bye");
    draining.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_no_more_connections_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[[gate.route]]\npath = \"/\"\nrespond = { body = \"ok\" }\n";
    let mut settings = written(folder.path(), &[], text);
    settings.listeners[0].connections_per_address = Some(2);
    let gate = start(settings.clone()).await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = client(&gate).await;
        client.send(request).await;
        assert_eq!(status(&client.response().await.0), 200);
        kept.push(client);
    }
    let (head, body) = client(&gate).await.response().await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (503, "too_many_from_address")
    );
    assert_eq!(header(&head, "retry-after"), Some("1"));
    // Another listener has seats of its own, and one that is left is free again.
    let mut inner = Peer::connect(gate.address("inner").unwrap()).await;
    inner.send(request).await;
    assert_eq!(status(&inner.response().await.0), 200);
    kept.pop();
    eventually("a seat is free", || async {
        let mut client = client(&gate).await;
        client.send(request).await;
        status(&client.response().await.0) == 200
    })
    .await;
    // A trusted peer speaks for many.
    settings.trusted = vec!["127.0.0.0/8".parse().unwrap()];
    gate.reload(settings).unwrap();
    for _ in 0..5 {
        let mut client = client(&gate).await;
        client.send(request).await;
        assert_eq!(status(&client.response().await.0), 200);
        kept.push(client);
    }
}

/// A server that answers each datagram with its name and the datagram.
async fn datagrams(name: &'static str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (count, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = [name.as_bytes(), b":", &buffer[..count]].concat();
            // What was too large to be sent back is a failure of the test's own asking.
            drop(socket.send_to(&answer, from).await);
        }
    });
    (address, task)
}

async fn caller(gate: &Gate) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(gate.address("line").unwrap()).await.unwrap();
    socket
}

/// Sends until an answer comes: a datagram may be lost.
async fn say(socket: &UdpSocket, text: &str) -> String {
    let mut buffer = vec![0; 65_536];
    for _ in 0..40 {
        drop(socket.send(text.as_bytes()).await);
        let wait = Duration::from_millis(500);
        if let Ok(Ok(count)) = tokio::time::timeout(wait, socket.recv(&mut buffer)).await {
            return String::from_utf8_lossy(&buffer[..count]).into_owned();
        }
    }
    panic!("no answer to {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_keeps_a_client_with_its_backend_until_it_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let ((one, _first), (two, _second)) = (datagrams("one").await, datagrams("two").await);
    let more = "timeout = { idle = \"400ms\" }\n";
    let mut settings = line(folder.path(), "udp", &[one, two], more);
    settings.threads = 2;
    let gate = start(settings).await;
    let mut seen = Vec::new();
    for number in 0..6 {
        let caller = caller(&gate).await;
        for turn in 0..3 {
            let answer = say(&caller, &format!("{number}.{turn}")).await;
            let (name, text) = answer.split_once(':').unwrap();
            assert_eq!(text, format!("{number}.{turn}"));
            seen.push(name.to_owned());
        }
    }
    // All come from one address, and one address belongs to one backend.
    assert!(seen.iter().all(|name| *name == seen[0]), "{seen:?}");
    let large = "x".repeat(60_000);
    assert_eq!(say(&caller(&gate).await, &large).await.len(), 60_004);
    eventually("silence ends the sessions", || async {
        log(folder.path()).len() == 7
    })
    .await;
    let lines = log(folder.path());
    assert!(
        lines.iter().all(|entry| entry["reason"] == "tunnel_idle"),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .all(|entry| entry["service"] == "LINE" && entry["backend"].is_string())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_leaves_a_backend_that_refuses_and_keeps_to_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let (alive, _task) = datagrams("alive").await;
    // Several where nobody listens, so that one of them would be the client's own.
    let mut addresses = vec![alive];
    for _ in 0..4 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        addresses.push(socket.local_addr().unwrap());
    }
    let more = "connections_max = 2\n";
    let mut settings = line(folder.path(), "udp", &addresses, more);
    let socket = folder.path().join("admin.sock");
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let (first, second) = (caller(&gate).await, caller(&gate).await);
    assert_eq!(say(&first, "a").await, "alive:a");
    assert_eq!(say(&second, "b").await, "alive:b");
    let third = caller(&gate).await;
    let refused = || async {
        drop(third.send(b"c").await);
        let page = admin(&socket, "/metrics").await;
        !page.contains("munjigi_gate_ends_total{reason=\"too_many_connections\"} 0\n")
    };
    eventually("a session too many is refused", refused).await;
    assert_eq!(say(&first, "d").await, "alive:d", "the others go on");
    // A drain waits only for last words.
    gate.drain(Duration::from_secs(20)).await;
    let reasons: Vec<_> = log(folder.path())
        .iter()
        .map(|entry| entry["reason"].clone())
        .collect();
    assert_eq!(
        reasons
            .iter()
            .filter(|reason| *reason == "draining")
            .count(),
        2,
        "{reasons:?}"
    );
}

#[test]
fn what_layer_4_listeners_can_not_say_is_refused() {
    let check = |listener: &str, expected: &str| {
        let text =
            format!("[[gate.listener]]\nname = \"l\"\naddress = \"127.0.0.1:0\"\n{listener}\n");
        let problems = problems(Path::new(""), &text);
        assert!(problems.contains(expected), "{listener}: {problems}");
    };
    check("protocols = [\"tcp\"]", "needs `service`");
    check(
        "protocols = [\"tcp\", \"http/1.1\"]\nservice = \"S\"",
        "stand alone",
    );
    check("service = \"S\"", "is for listeners with");
    check("timeout = { idle = \"1s\" }", "is for listeners with");
    check(
        "protocols = [\"udp\"]\nservice = \"S\"\ntimeout = { idle = \"0s\" }",
        "must lie between",
    );
    check("protocols = [\"sctp\"]", "is no protocol");
    check("connections_per_address = 0", "must lie between");
}
