//! Who closed a tunnel, how, after what silence; and cuts that a timer explains.

use std::path::Path;
use std::time::Duration;

use munjigi_gate::settings::ProxyMode;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::support::*;
use crate::ws_support::*;

/// Lets a tunnel end in one of many ways, and says how the log tells it.
async fn ended(end: impl AsyncFnOnce(Peer, Peer)) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let (origin, mut peers) = taking().await;
    let mut settings = settings(&[origin.address]);
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    let (client, backend) = pair(&gate, &mut peers).await;
    end(client, backend).await;
    let line = lines(&log, 1).await.swap_remove(0);
    assert_eq!(line["tunnel"], true);
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_who_closed_a_tunnel_and_how() {
    let close = |code: u16| frame(0x88, &code.to_be_bytes(), None);
    let masked = |code: u16| frame(0x88, &code.to_be_bytes(), Some([1, 2, 3, 4]));
    let line = ended(async |mut client: Peer, mut backend: Peer| {
        client
            .send_bytes(&frame(0x81, b"hello", Some([0; 4])))
            .await;
        client.send_bytes(&masked(4001)).await;
        assert_eq!(backend.frame().await.payload, b"hello");
        assert_eq!(backend.frame().await.first, 0x88);
        // The one who is asked to close ends the connection (RFC 6455 §7.1.1).
        backend.send_bytes(&close(4001)).await;
        drop(backend);
        client.rest().await;
    })
    .await;
    let closed = &line["closed"];
    assert_eq!(line["reason"], "tunnel_closed_by_client");
    assert_eq!(
        (&closed["by"], &closed["how"]),
        (&json!("client"), &json!("close_frame"))
    );
    assert_eq!(closed["code"], 4001);
    assert_eq!(closed["frames"], json!({ "client": 2, "backend": 1 }));
    assert_eq!(closed["bytes"], json!({ "client": 19, "backend": 4 }));
    assert!(closed["after"].as_f64() >= closed["silentFor"].as_f64());

    let line = ended(async |mut client: Peer, mut backend: Peer| {
        backend.send_bytes(&close(1011)).await;
        drop(backend);
        client.rest().await;
    })
    .await;
    let closed = &line["closed"];
    assert_eq!(line["reason"], "tunnel_closed_by_backend");
    assert_eq!(
        (&closed["how"], &closed["code"]),
        (&json!("close_frame"), &json!(1011))
    );

    let line = ended(async |client: Peer, mut backend: Peer| {
        drop(client);
        backend.rest().await;
    })
    .await;
    let closed = &line["closed"];
    assert_eq!(
        (&closed["by"], &closed["how"]),
        (&json!("client"), &json!("end"))
    );
    assert_eq!(closed["code"], Value::Null);

    let line = ended(async |mut client: Peer, backend: Peer| {
        break_off(backend);
        client.rest().await;
    })
    .await;
    let closed = &line["closed"];
    assert_eq!(
        (&closed["by"], &closed["how"]),
        (&json!("backend"), &json!("reset"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_that_names_its_client_is_the_hop() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, mut peers) = taking().await;
    let mut settings = settings(&[origin.address]);
    settings.listeners[0].proxy_protocol = ProxyMode::V1;
    settings.trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    for (number, balancer) in ["127.0.0.2", "127.0.0.3"].into_iter().enumerate() {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(format!("{balancer}:0").parse().unwrap())
            .unwrap();
        let stream = socket.connect(gate.address("web").unwrap()).await.unwrap();
        let mut client = Peer::new(stream);
        client
            .send("PROXY TCP4 192.0.2.7 198.51.100.1 1000 443\r\n")
            .await;
        client.send(HANDSHAKE).await;
        assert_eq!(status(&client.head().await.unwrap()), 101);
        let mut backend = peers.recv().await.unwrap();
        drop(client);
        backend.rest().await;
        let line = lines(&log, number + 1).await.swap_remove(number);
        assert_eq!(line["client"], "192.0.2.7", "{line}");
        let hops = json!({ "client": balancer, "backend": origin.address.to_string() });
        assert_eq!(line["closed"]["hops"], hops);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_the_gates_own_end() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, mut peers) = taking().await;
    let mut settings = settings(&[origin.address]);
    settings.routes[0].websocket.ping = Some(Duration::from_millis(20));
    let log = logged(&mut settings, folder.path());
    let gate = start(settings).await;
    let (mut client, mut backend) = pair(&gate, &mut peers).await;
    let draining = tokio::spawn(gate.drain(Duration::from_secs(10)));
    for peer in [&mut client, &mut backend] {
        let goodbye = loop {
            let frame = peer.frame().await;
            if frame.first != 0x89 {
                break frame;
            }
        };
        assert_eq!(goodbye.first, 0x88);
        assert_eq!(goodbye.payload[..2], 1001_u16.to_be_bytes());
        assert_eq!(peer.rest().await, b"", "nothing follows a close frame");
    }
    draining.await.unwrap();
    let line = &lines(&log, 1).await[0];
    assert_eq!(line["reason"], "draining");
    assert_eq!(
        (&line["closed"]["by"], &line["closed"]["how"]),
        (&json!("gate"), &json!("drain"))
    );
}

/// Opens tunnels one after the other, and ends each after `lives`, on the client's or the
/// backend's side, without a close frame.
async fn cut(folder: &Path, by_client: bool, lives: &[u64]) -> Value {
    let (origin, mut peers) = taking().await;
    let mut settings = settings(&[origin.address]);
    let socket = folder.join("admin.sock");
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let mut tunnels = JoinSet::new();
    for life in lives {
        let (client, backend) = pair(&gate, &mut peers).await;
        let end = tokio::time::Instant::now() + Duration::from_millis(*life);
        let (mut cutter, mut other) = if by_client {
            (client, backend)
        } else {
            (backend, client)
        };
        tunnels.spawn(async move {
            tokio::time::sleep_until(end).await;
            drop(cutter.stream.shutdown().await);
            other.rest().await;
        });
        tokio::time::sleep(Duration::from_millis(37)).await;
    }
    while tunnels.join_next().await.is_some() {}
    let side = if by_client { "client" } else { "backend" };
    let counted = format!(
        "closed_total{{by=\"{side}\",how=\"end\"}} {}\n",
        lives.len()
    );
    eventually("all ends are counted", || async {
        admin(&socket, "/metrics").await.contains(&counted)
    })
    .await;
    let page: Value = serde_json::from_str(&admin(&socket, "/websockets").await).unwrap();
    let gauge = admin(&socket, "/metrics").await;
    let named = gauge
        .lines()
        .any(|line| line.starts_with("munjigi_gate_websocket_cuts{"));
    let route = page["routes"][0].clone();
    assert_eq!(named, route["causes"] != json!([]), "{page}{gauge}");
    assert_eq!(page["opened"], lives.len());
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_after_the_same_time_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (by_client, side, place) in [
        (true, "client", "in front of this gate"),
        (
            false,
            "backend",
            "of the backend, or of something in front of it",
        ),
    ] {
        let route = cut(folder.path(), by_client, &[3_000; 9]).await;
        let cause = &route["causes"][0];
        assert_eq!(cause["side"], side, "{route}");
        assert_eq!(cause["measure"], "silence", "{route}");
        let seconds = cause["seconds"].as_f64().unwrap();
        assert!((2.7..=3.5).contains(&seconds), "{route}");
        assert!(cause["count"].as_u64().unwrap() >= 5, "{route}");
        assert_eq!(cause["of"], 9, "{route}");
        let said = cause["said"].as_str().unwrap();
        assert!(
            said.contains(&format!("of 9 closed by the {side} side after 3")),
            "{said}"
        );
        assert!(
            said.contains(&format!(
                "an idle timeout {place}; ping = \"2s\" would prevent it"
            )),
            "{said}"
        );
        assert_eq!(route["last"].as_array().unwrap().len(), 9);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_at_any_time_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let lives = [
        310, 1_940, 1_250, 2_730, 540, 3_390, 1_610, 2_240, 3_010, 890, 2_480, 120,
    ];
    let route = cut(folder.path(), true, &lives).await;
    assert_eq!(route["causes"], json!([]));
    assert_eq!(route["last"].as_array().unwrap().len(), lives.len());
}
