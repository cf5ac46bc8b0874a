//! Who gets the requests: each method's shares, weights, backups, priorities, zones, sticky
//! clients, operators' orders, slow start.

use std::sync::Arc;
use std::time::Duration;

use munjigi_foundation::settings::Secret;
use munjigi_gate::settings::{Balance, HashSource, StickySettings};
use munjigi_gate::{Gate, GateSettings};

use crate::support::*;

const WEIGHTS: [u32; 4] = [1, 2, 3, 4];

fn weighted(origins: &[Answering], balance: Balance) -> GateSettings {
    let mut settings = settings(&addresses(origins));
    service(&mut settings).balance = balance;
    for (backend, weight) in backends(&mut settings).iter_mut().zip(WEIGHTS) {
        backend.weight = weight;
    }
    settings
}

/// Asks `count` times on one connection; each request with a header of its own.
async fn shares(gate: &Gate, count: usize) -> Vec<usize> {
    let mut client = client(gate).await;
    let mut shares = vec![0; 8];
    for number in 0..count {
        let request = format!("GET /p{number} HTTP/1.1\r\nHost: x\r\nX-Key: k{number}\r\n\r\n");
        client.send(&request).await;
        let (head, body) = client.response().await;
        assert_eq!(status(&head), 200, "{head}");
        shares[String::from_utf8(body).unwrap().parse::<usize>().unwrap()] += 1;
    }
    shares
}

async fn ask_with(gate: &Gate, fields: &str) -> (String, String) {
    let (head, body) = ask(gate, &format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await;
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_keeps_the_weights_of_idle_backends() {
    let origins = numbered(4).await;
    for balance in Balance::ALL {
        // Those by time prefer whoever answers faster: weights alone do not tell.
        if matches!(balance, Balance::LeastTime | Balance::PeakEwma) {
            continue;
        }
        let mut settings = weighted(&origins, balance);
        service(&mut settings).hash = HashSource::Header("x-key".to_owned());
        let gate = start(settings).await;
        let shares = shares(&gate, 1_000).await;
        for (share, weight) in shares.iter().zip(WEIGHTS) {
            let fair = 100 * weight as usize;
            let off = match balance {
                Balance::RoundRobin | Balance::LeastRequests => 1,
                // The ring is fixed, its arcs differ by some percent.
                Balance::ConsistentHash => fair / 2,
                // Some six standard deviations.
                _ => 90,
            };
            assert!(share.abs_diff(fair) <= off, "{balance}: {shares:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_backend_gets_no_more_while_others_are_free() {
    let release = Arc::new(tokio::sync::Notify::new());
    let held = Arc::clone(&release);
    let slow = origin(move |mut peer, _| {
        let held = Arc::clone(&held);
        async move {
            while let Some(_head) = peer.head().await {
                held.notified().await;
                peer.send(&response(200, "", "7")).await;
            }
        }
    })
    .await;
    let fast = numbered(2).await;
    for balance in [Balance::LeastRequests, Balance::LeastTime] {
        let mut settings = settings(&[slow.address, fast[0].address, fast[1].address]);
        service(&mut settings).balance = balance;
        let gate = start(settings).await;
        // Until one request hangs at the slow one.
        let mut waiting = client(&gate).await;
        waiting.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let all = shares(&gate, 30).await;
        assert_eq!(all[0] + all[1], 30, "{balance}: {all:?}");
        release.notify_one();
        assert_eq!(waiting.response().await.1, b"7");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_backend_gets_few_by_time() {
    let slow = origin(|mut peer, _| async move {
        while let Some(_head) = peer.head().await {
            tokio::time::sleep(Duration::from_millis(300)).await;
            peer.send(&response(200, "", "7")).await;
        }
    })
    .await;
    let fast = numbered(2).await;
    for balance in [Balance::LeastTime, Balance::PeakEwma] {
        let mut settings = settings(&[slow.address, fast[0].address, fast[1].address]);
        service(&mut settings).balance = balance;
        let gate = start(settings).await;
        let all = shares(&gate, 60).await;
        assert!(all[7] <= 5, "{balance}: {all:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_keeps_keys_where_they_are_while_others_go() {
    let origins = numbered(4).await;
    let mut settings = settings(&addresses(&origins));
    service(&mut settings).balance = Balance::ConsistentHash;
    for (source, request) in [
        (
            HashSource::Header("x-key".to_owned()),
            "GET / HTTP/1.1\r\nHost: x\r\nX-Key: KEY\r\n\r\n",
        ),
        (
            HashSource::Cookie("sid".to_owned()),
            "GET / HTTP/1.1\r\nHost: x\r\nCookie: a=b; sid=KEY\r\n\r\n",
        ),
        (
            HashSource::Query("id".to_owned()),
            "GET /?a=b&id=KEY HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
        (HashSource::Path, "GET /KEY?a HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        service(&mut settings).hash = source.clone();
        let gate = start(settings.clone()).await;
        let mut client = client(&gate).await;
        let mut owners = async || {
            let mut owners = Vec::new();
            for key in 0..40 {
                client
                    .send(&request.replace("KEY", &format!("k{key}")))
                    .await;
                owners.push(client.response().await.1);
            }
            owners
        };
        let before = owners().await;
        assert_eq!(owners().await, before, "{source:?}");
        assert!(gate.drain_backend("APP", origins[2].address, true));
        let after = owners().await;
        for (before, after) in before.iter().zip(&after) {
            assert_ne!(after, b"2", "{source:?}");
            assert!(before == after || before == b"2", "{source:?}: a key moved");
        }
        assert!(before.iter().any(|owner| owner == b"2"), "{source:?}");
        assert!(gate.drain_backend("APP", origins[2].address, false));
        assert_eq!(owners().await, before, "{source:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_client_address_one_client_stays_and_different_ones_spread() {
    let origins = numbered(4).await;
    let mut settings = settings(&addresses(&origins));
    service(&mut settings).balance = Balance::ConsistentHash;
    settings.trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let gate = start(settings).await;
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..40 {
        let field = format!("X-Forwarded-For: 192.0.2.{number}\r\n");
        let (_, first) = ask_with(&gate, &field).await;
        assert_eq!(ask_with(&gate, &field).await.1, first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_priorities_and_zones_wait_for_those_before_them() {
    let origins = numbered(4).await;
    let mut settings = settings(&addresses(&origins));
    settings.zone = Some("here".to_owned());
    {
        let backends = backends(&mut settings);
        backends[0].placement.backup = true;
        backends[1].placement.priority = 1;
        backends[2].placement.zone = Some("there".to_owned());
        backends[3].placement.zone = Some("here".to_owned());
    }
    let gate = start(settings).await;
    for expected in ["3", "2", "1", "0"] {
        for _ in 0..4 {
            assert_eq!(ask_with(&gate, "").await.1, expected);
        }
        let place: usize = expected.parse().unwrap();
        assert!(gate.drain_backend("APP", origins[place].address, true));
    }
    let (head, body) = ask(&gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((status(&head), code(&body).as_str()), (503, "no_backend"));
    assert!(header(&head, "retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_takes_over_from_one_that_refuses() {
    let origins = numbered(1).await;
    let mut settings = settings(&[nobody().await, origins[0].address]);
    backends(&mut settings)[1].placement.backup = true;
    let gate = start(settings).await;
    for _ in 0..3 {
        let (head, body) = ask_with(&gate, "").await;
        assert_eq!((status(&head), body.as_str()), (200, "0"));
    }
}

fn cookie(head: &str) -> Option<String> {
    let value = header(head, "set-cookie")?;
    let (pair, rest) = value.split_once(';').unwrap();
    assert_eq!(rest, " Path=/; HttpOnly; SameSite=Lax");
    Some(pair.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sticky_client_stays_with_its_backend() {
    let origins = numbered(3).await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&addresses(&origins));
    settings.data = folder.path().join("gate-data");
    service(&mut settings).sticky = Some(StickySettings {
        cookie: "munjigi".to_owned(),
        secret: None,
    });
    let gate = start(settings.clone()).await;
    let (head, first) = ask_with(&gate, "").await;
    let value = cookie(&head).unwrap();
    assert!(!value.contains("127.0.0.1"));
    for origin in &origins {
        assert!(
            !value.contains(&origin.address.port().to_string()),
            "{value}"
        );
    }
    let stay = format!("Cookie: a=b; {value}\r\n");
    for _ in 0..6 {
        let (head, body) = ask_with(&gate, &stay).await;
        assert_eq!((body, cookie(&head)), (first.clone(), None));
    }
    // Without a cookie, or with a forged one, it goes by turns.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let (head, body) = ask_with(
            &gate,
            "Cookie: munjigi=00000000000000000000000000000000\r\n",
        )
        .await;
        assert!(cookie(&head).is_some());
        seen.insert(body);
    }
    assert_eq!(seen.len(), 3);
    // The key outlives the gate.
    drop(gate);
    let gate = start(settings).await;
    for _ in 0..6 {
        assert_eq!(ask_with(&gate, &stay).await.1, first);
    }
    // A backend that is drained gives its clients away, with a new cookie.
    let place: usize = first.parse().unwrap();
    assert!(gate.drain_backend("APP", origins[place].address, true));
    let (head, body) = ask_with(&gate, &stay).await;
    assert_ne!(body, first);
    assert_ne!(cookie(&head).unwrap(), value);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sticky_cookies_are_the_same_on_gates_with_one_secret_and_secure_behind_tls() {
    let origins = numbered(3).await;
    let mut settings = settings(&addresses(&origins));
    settings.trusted = vec!["127.0.0.0/8".parse().unwrap()];
    service(&mut settings).sticky = Some(StickySettings {
        cookie: "stay".to_owned(),
        secret: Some(Secret::new("shared by all gates")),
    });
    let (one, other) = (start(settings.clone()).await, start(settings).await);
    let (head, body) = ask_with(&one, "").await;
    let stay = format!("Cookie: {}\r\n", cookie(&head).unwrap());
    for _ in 0..5 {
        assert_eq!(ask_with(&other, &stay).await.1, body);
    }
    let (head, _) = ask_with(&one, "X-Forwarded-Proto: https\r\n").await;
    assert!(
        header(&head, "set-cookie").unwrap().ends_with("; Secure"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_of_operators_outlive_a_reload() {
    let origins = numbered(2).await;
    let mut settings = settings(&addresses(&origins));
    let gate = start(settings.clone()).await;
    assert!(!gate.drain_backend("APP", nobody().await, true));
    assert!(!gate.drain_backend("OTHER", origins[0].address, true));
    assert!(gate.weigh_backend("APP", origins[0].address, Some(9)));
    let all = shares(&gate, 100).await;
    assert_eq!(all[..2], [90, 10]);
    service(&mut settings).balance = Balance::LeastRequests;
    gate.reload(settings).unwrap();
    let all = shares(&gate, 100).await;
    assert!(all[0].abs_diff(90) <= 1, "{all:?}");
    assert!(gate.weigh_backend("APP", origins[0].address, None));
    let all = shares(&gate, 100).await;
    assert!(all[0].abs_diff(50) <= 1, "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_comes_back_is_spared_at_first() {
    let origins = numbered(2).await;
    let mut settings = settings(&addresses(&origins));
    service(&mut settings).slow_start = Some(Duration::from_secs(3_600));
    let gate = start(settings).await;
    let all = shares(&gate, 100).await;
    assert_eq!(all[..2], [50, 50], "all are new: none is spared");
    gate.drain_backend("APP", origins[0].address, true);
    let all = shares(&gate, 20).await;
    assert_eq!(all[..2], [0, 20]);
    gate.drain_backend("APP", origins[0].address, false);
    // A tenth of its half: 20 of 400.
    let all = shares(&gate, 400).await;
    assert!((2..60).contains(&all[0]), "{all:?}");
}
