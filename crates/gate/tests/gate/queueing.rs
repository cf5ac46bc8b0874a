//! `limit` and `breaker`: when all backends are full, when a service fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use munjigi_gate::GateSettings;
use munjigi_gate::settings::{BreakerSettings, LimitSettings, Share};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

fn limited(addresses: &[std::net::SocketAddr], queue: usize, wait: Duration) -> GateSettings {
    let mut settings = settings(addresses);
    service(&mut settings).limit = Some(LimitSettings {
        requests: 1,
        queue,
        wait,
    });
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_all_full_waits_in_turn_and_not_beyond_the_queue() {
    let hold = Hold::new();
    let origin = held_origin(&hold).await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = limited(&[origin.address], 2, Duration::from_secs(60));
    let socket = folder.path().join("admin.sock");
    settings.admin.socket = Some(socket.clone());
    settings.threads = 2;
    let gate = start(settings).await;
    let waiting = "munjigi_gate_service_waiting{service=\"APP\"}";
    let mut clients = Vec::new();
    for number in 0..3 {
        let mut client = client(&gate).await;
        client.send(GET).await;
        clients.push(client);
        eventually("one more waits", || async {
            hold.most() == 1 && figure(&socket, waiting).await == number
        })
        .await;
    }
    let (head, body) = ask(&gate, GET).await;
    assert_eq!((status(&head), code(&body).as_str()), (503, "queue_full"));
    assert_eq!(header(&head, "retry-after"), Some("1"));
    // One place after the other is freed: they are served in the order they came.
    for (left, client) in clients.iter_mut().enumerate() {
        hold.release(1);
        assert_eq!(status(&client.response().await.0), 200, "{left}");
    }
    assert_eq!(hold.most(), 1, "never more than the limit");
    assert_eq!(figure(&socket, waiting).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_or_leaves_gives_its_place_away() {
    let hold = Hold::new();
    let origin = held_origin(&hold).await;
    let gate = start(limited(&[origin.address], 1, Duration::from_millis(200))).await;
    let mut first = client(&gate).await;
    first.send(GET).await;
    hold.arrival().await;
    let (head, body) = ask(&gate, GET).await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (503, "queue_timeout")
    );
    assert!(header(&head, "retry-after").is_some());
    hold.release(1);
    assert_eq!(status(&first.response().await.0), 200);
    // The place in the queue is free again, and so is the backend.
    hold.release(1);
    assert_eq!(status(&ask(&gate, GET).await.0), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_forgotten_when_many_threads_wait_for_few_places() {
    let hold = Hold::new();
    hold.release(100_000);
    let origins = [held_origin(&hold).await, held_origin(&hold).await];
    let addresses = [origins[0].address, origins[1].address];
    let mut settings = limited(&addresses, 1_000, Duration::from_secs(60));
    settings.threads = 4;
    let gate = Arc::new(start(settings).await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let gate = Arc::clone(&gate);
        tasks.spawn(async move {
            let mut client = client(&gate).await;
            for _ in 0..40 {
                client.send(GET).await;
                assert_eq!(status(&client.response().await.0), 200);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(hold.most() <= 2, "one at each, at any time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_service_gets_a_rest_and_a_trial() {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let origin = answering(move |_| {
        let status = if state.load(Ordering::Relaxed) {
            503
        } else {
            200
        };
        response(status, "", "x")
    })
    .await;
    let mut settings = settings(&[origin.address]);
    service(&mut settings).breaker = Some(BreakerSettings {
        failures: Share::new(0.5),
        requests_min: 5,
        within: Duration::from_secs(60),
        time: Duration::from_millis(300),
    });
    let gate = start(settings).await;
    for _ in 0..5 {
        assert_eq!(status(&ask(&gate, GET).await.0), 503);
    }
    assert_eq!(origin.count(), 5);
    let (head, body) = ask(&gate, GET).await;
    assert_eq!((status(&head), code(&body).as_str()), (503, "breaker_open"));
    assert_eq!(header(&head, "retry-after"), Some("1"));
    broken.store(false, Ordering::Relaxed);
    eventually("it tries again", || async {
        status(&ask(&gate, GET).await.0) == 200
    })
    .await;
    assert_eq!(origin.count(), 6, "one was enough");
    assert_eq!(status(&ask(&gate, GET).await.0), 200);
}
