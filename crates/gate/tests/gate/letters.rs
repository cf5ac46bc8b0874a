//! Small answers, which go out at the end of a turn: none is lost, whatever the kernel has room for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

const BODY: usize = 4_000;

fn body(number: usize) -> String {
    format!("{number:>8}").repeat(BODY / 8)
}

/// Answers with the number in the path, and counts.
async fn numbers() -> (Origin, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    let origin = origin(move |mut peer, _| {
        let counter = Arc::clone(&counter);
        async move {
            while let Some(head) = peer.head().await {
                let number = head.split([' ', '/']).nth(2).unwrap().parse().unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                peer.send(&(head + &body(number))).await;
            }
        }
    })
    .await;
    (origin, served)
}

fn request(number: usize) -> String {
    format!("GET /{number} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn check(all: &[u8], count: usize) {
    let text = String::from_utf8_lossy(all);
    let bodies: Vec<&str> = text.split("\r\n\r\n").skip(1).collect();
    assert_eq!(bodies.len(), count);
    for (number, rest) in bodies.iter().enumerate() {
        assert!(rest.starts_with(&body(number)), "{number}");
    }
}

/// Asks, one request behind the answer to the other, and reads nothing, until the gate takes no more. How often.
async fn fill(client: &mut TcpStream, served: &AtomicUsize) -> usize {
    for number in 0..100_000 {
        client.write_all(request(number).as_bytes()).await.unwrap();
        let taken = async {
            while served.load(Ordering::Relaxed) <= number {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(400), taken)
            .await
            .is_err()
        {
            return number + 1;
        }
    }
    panic!("the gate takes everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_answers_arrive_at_a_client_that_ended_its_side_before_it_reads() {
    const COUNT: usize = 4_000;
    let (origin, _) = numbers().await;
    let gate = start(settings(&[origin.address])).await;
    let client = TcpStream::connect(gate.address("web").unwrap())
        .await
        .unwrap();
    let (mut reading, mut writing) = client.into_split();
    let asking = tokio::spawn(async move {
        for number in 0..COUNT {
            writing.write_all(request(number).as_bytes()).await.unwrap();
        }
        writing.shutdown().await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut all = Vec::new();
    reading.read_to_end(&mut all).await.unwrap();
    asking.await.unwrap();
    check(&all, COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_stuck_arrives_before_the_end() {
    let (origin, served) = numbers().await;
    let mut settings = settings(&[origin.address]);
    // That nothing is asked for is not what the client is judged by while it owes a read.
    settings.limits.keep_alive = Duration::from_millis(200);
    let gate = start(settings).await;
    let mut client = TcpStream::connect(gate.address("web").unwrap())
        .await
        .unwrap();
    let count = fill(&mut client, &served).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.shutdown().await.unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    check(&all, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_of_an_answer_that_is_stuck_is_judged_as_the_route_says() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, served) = numbers().await;
    let mut settings = settings(&[origin.address]);
    settings.admin.socket = Some(folder.path().join("admin.sock"));
    settings.routes[0].timeout.rate_min = None;
    settings.routes[0].timeout.idle = Duration::from_millis(900);
    let gate = start(settings).await;
    let mut client = TcpStream::connect(gate.address("web").unwrap())
        .await
        .unwrap();
    let count = fill(&mut client, &served).await;
    let socket = folder.path().join("admin.sock");
    let name = "munjigi_gate_ends_total{reason=\"reader_too_slow\"}";
    eventually("the client is told from one without a request", || async {
        figure(&socket, name).await == 1
    })
    .await;
    // The last request was never looked at.
    assert_eq!(served.load(Ordering::Relaxed), count - 1);
}
