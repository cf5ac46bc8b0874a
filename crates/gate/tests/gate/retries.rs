//! When a request is sent again, and when never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use munjigi_gate::settings::{RetryOn, RetrySettings, Share};
use munjigi_gate::{Gate, GateSettings};

use crate::support::*;

const ALL: RetryOn = RetryOn::CONNECT
    .and(RetryOn::STATUS_502)
    .and(RetryOn::STATUS_503)
    .and(RetryOn::STATUS_504)
    .and(RetryOn::TIMEOUT)
    .and(RetryOn::RESET);

fn retrying(addresses: &[std::net::SocketAddr], on: RetryOn, attempts: u32) -> GateSettings {
    let mut settings = settings(addresses);
    settings.routes[0].retry = RetrySettings {
        attempts,
        on,
        ..RetrySettings::default()
    };
    settings
}

async fn get(gate: &Gate) -> (u16, Vec<u8>) {
    let (head, body) = ask(gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    (status(&head), body)
}

/// An origin that fails every request: with an answer, with silence, by closing.
async fn failing(how: &'static str) -> (Origin, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = origin(move |mut peer, _| {
        let count = Arc::clone(&count);
        async move {
            while let Some(head) = peer.head().await {
                peer.body_of(&head).await;
                count.fetch_add(1, Ordering::SeqCst);
                match how {
                    "reset" => return,
                    "timeout" => tokio::time::sleep(PATIENCE).await,
                    status => {
                        let answer = response(status.parse().unwrap(), "", "no");
                        peer.send(&answer).await;
                    }
                }
            }
        }
    })
    .await;
    (origin, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_is_tried_again_only_when_the_route_says_so() {
    for (how, on, final_status) in [
        ("502", RetryOn::STATUS_502, 502),
        ("503", RetryOn::STATUS_503, 503),
        ("504", RetryOn::STATUS_504, 504),
        ("timeout", RetryOn::TIMEOUT, 504),
        ("reset", RetryOn::RESET, 502),
    ] {
        let (bad, asked) = failing(how).await;
        let good = numbered(1).await;
        let mut settings = retrying(&[bad.address, good[0].address], on, 2);
        settings.routes[0].timeout.response = Duration::from_millis(300);
        let gate = start(settings.clone()).await;
        for _ in 0..2 {
            assert_eq!(get(&gate).await, (200, b"0".to_vec()), "{how}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{how}");
        // The same failure with all others on the list, and with no second try.
        let others = RetryOn::NAMES
            .iter()
            .filter(|(_, other)| *other != on)
            .fold(RetryOn::default(), |all, (_, other)| all.and(*other));
        for (on, attempts) in [(others, 3), (ALL, 1)] {
            settings.routes[0].retry.on = on;
            settings.routes[0].retry.attempts = attempts;
            let gate = start(settings.clone()).await;
            let (first, second) = (get(&gate).await.0, get(&gate).await.0);
            assert_eq!([first, second], [final_status, 200], "{how}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reached_a_backend_is_sent_again_only_when_it_is_idempotent_and_without_a_body() {
    for (request, again) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n", true),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
        ("PATCH / HTTP/1.1\r\nHost: x\r\n\r\n", false),
        (
            "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok",
            false,
        ),
        (
            "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            false,
        ),
    ] {
        let (bad, asked) = failing("503").await;
        let gate = start(retrying(&[bad.address], ALL, 3)).await;
        let mut client = client(&gate).await;
        client.send(request).await;
        assert_eq!(status(&client.head().await.unwrap()), 503);
        let expected = if again { 3 } else { 1 };
        assert_eq!(asked.load(Ordering::SeqCst), expected, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_failure_is_tried_again_whatever_the_request() {
    let good = echo().await;
    let settings = settings(&[nobody().await, good.address]);
    let gate = start(settings.clone()).await;
    for _ in 0..4 {
        let request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
        let (head, body) = ask(&gate, request).await;
        assert_eq!(status(&head), 200);
        assert!(body.ends_with(b"body"), "the body was sent whole");
    }
    // Two tries are the default, the first one counted.
    let mut settings = settings;
    let dead = [nobody().await, nobody().await, nobody().await];
    *backends(&mut settings) = dead
        .iter()
        .map(|address| munjigi_gate::settings::BackendSettings::new((*address).into()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    let (status, body) = get(&gate).await;
    assert_eq!((status, code(&body).as_str()), (502, "connect_failed"));
    let page = admin(&socket, "/metrics").await;
    assert!(
        page.contains("munjigi_gate_service_retries_total{service=\"APP\"} 1\n"),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_bodies_are_sent_again_where_the_route_keeps_them() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let fickle = origin(move |mut peer, number| {
        let log = Arc::clone(&log);
        async move {
            while let Some(head) = peer.head().await {
                let body = peer.body_of(&head).await;
                log.lock().unwrap().push(String::from_utf8(body).unwrap());
                if number == 0 {
                    return;
                }
                peer.send(&response(200, "", "done")).await;
            }
        }
    })
    .await;
    let mut settings = retrying(&[fickle.address], ALL, 2);
    settings.routes[0].retry.body_max = 8;
    let gate = start(settings).await;
    let mut client = client(&gate).await;
    // In two pieces, with the next request right behind.
    client
        .send("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nfour")
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("moreGET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    for _ in 0..2 {
        let (head, body) = client.response().await;
        assert_eq!((status(&head), body.as_slice()), (200, &b"done"[..]));
    }
    assert_eq!(*seen.lock().unwrap(), ["fourmore", "fourmore", ""]);
    // One byte too many is streamed, and so never sent twice; nor is a POST.
    for (method, body) in [("PUT", "ninebytes"), ("POST", "x")] {
        let (bad, asked) = failing("reset").await;
        let mut settings = retrying(&[bad.address], ALL, 2);
        settings.routes[0].retry.body_max = 8;
        let gate = start(settings).await;
        let length = body.len();
        let request =
            format!("{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        assert_eq!(status(&ask(&gate, &request).await.0), 502);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_keeps_retries_from_multiplying_the_load() {
    let (bad, asked) = failing("503").await;
    let mut settings = retrying(&[bad.address], ALL, 2);
    settings.routes[0].retry.budget = Share::new(0.1);
    settings.routes[0].retry.budget_min = 2;
    let gate = start(settings).await;
    for _ in 0..100 {
        assert_eq!(get(&gate).await.0, 503);
    }
    let tries = asked.load(Ordering::SeqCst);
    // A tenth of what was sent, by some ten seconds; the machine may be slow.
    assert!((102..=135).contains(&tries), "{tries} for 100 requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_thrown_away_leaves_the_client_connection_in_step() {
    let (bad, _) = failing("503").await;
    let good = numbered(1).await;
    let gate = start(retrying(&[bad.address, good[0].address], ALL, 2)).await;
    let mut client = client(&gate).await;
    for _ in 0..10 {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (head, body) = client.response().await;
        assert_eq!((status(&head), body.as_slice()), (200, &b"0"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_backend_is_asked_when_the_first_is_slow_for_reads_alone() {
    let (silent, asked) = failing("timeout").await;
    let good = numbered(1).await;
    let mut settings = settings(&[silent.address, good[0].address]);
    settings.routes[0].hedge_after = Some(Duration::from_millis(50));
    settings.routes[0].timeout.response = Duration::from_secs(2);
    let gate = start(settings.clone()).await;
    for _ in 0..4 {
        assert_eq!(get(&gate).await, (200, b"0".to_vec()));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "it was asked in its turn");
    assert_eq!(good[0].count(), 4);
    // A POST is never asked twice.
    let request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let gate = start(settings.clone()).await;
    let (head, body) = ask(&gate, request).await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (504, "response_timeout")
    );
    // Nobody answers: it ends after `response`, all the same.
    let (other, _) = failing("timeout").await;
    backends(&mut settings)[1].address = other.address.into();
    settings.routes[0].timeout.response = Duration::from_millis(300);
    let gate = start(settings).await;
    let (status, body) = get(&gate).await;
    assert_eq!((status, code(&body).as_str()), (504, "response_timeout"));
}
