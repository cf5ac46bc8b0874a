//! Events over WebSocket and SSE: gapless by offset and by (analyzeId, attempt, seq), across forced reconnects.

use std::time::Duration;

use futures_util::StreamExt;
use munjigi_events::Event;
use munjigi_testkit::{Client, Ledger, Pushed, Site, SiteKind};

use crate::{binary, slow_model};

const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn nothing_is_missed_across_reconnects() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(
        binary(),
        folder.path(),
        SiteKind::OneProcess,
        Some(&slow_model()),
    )
    .unwrap();
    site.start().await.unwrap();
    let client = site.client().await.unwrap();
    let upload = client
        .upload("wait.txt", b"seconds=6 mib=1\n".to_vec())
        .await
        .unwrap();
    let event_id = client.job(&upload, &["slow", "source"]).await.unwrap();

    let (sockets, streams) = tokio::join!(
        over_sockets(&client, &event_id),
        over_sse(&client, &event_id)
    );
    assert!(sockets.ended() && streams.ended());
    assert_eq!(sockets.events(), streams.events());
    let job = client.get(&format!("/api/jobs/{event_id}")).await.unwrap();
    assert_eq!(job["status"], "DONE", "{job}");
    assert_eq!(sockets.fold().status().as_str(), "DONE");

    // Positions that never were, or are no longer: said, not papered over.
    let mut other = client
        .follow(&event_id, Some(("no-such-epoch".to_owned(), 3)))
        .await
        .unwrap();
    let first = other.next().await.unwrap();
    assert!(
        matches!(
            first,
            Pushed::Subscribed {
                recovered: false,
                ..
            }
        ),
        "{first:?}"
    );
    site.stop().await.unwrap();
}

/// Follows to the end on sockets that are each dropped after a few events.
async fn over_sockets(client: &Client, event_id: &str) -> Ledger {
    let mut ledger = Ledger::default();
    let deadline = tokio::time::Instant::now() + WITHIN;
    while !ledger.ended() {
        assert!(tokio::time::Instant::now() < deadline, "{}", ledger.story());
        let mut socket = client.follow(event_id, ledger.position()).await.unwrap();
        for _ in 0..4 {
            match socket.next().await.unwrap() {
                Pushed::Event {
                    epoch,
                    offset,
                    event,
                } => ledger.take(&epoch, offset, *event).unwrap(),
                Pushed::Subscribed { recovered, .. } => assert!(recovered),
                other => panic!("{other:?}"),
            }
            if ledger.ended() {
                break;
            }
        }
    }
    ledger
}

/// Follows to the end on SSE, resuming by `Last-Event-ID` after every few events.
async fn over_sse(client: &Client, event_id: &str) -> Ledger {
    let mut ledger = Ledger::default();
    let mut last_id: Option<String> = None;
    let deadline = tokio::time::Instant::now() + WITHIN;
    while !ledger.ended() {
        assert!(tokio::time::Instant::now() < deadline, "{}", ledger.story());
        let mut request = reqwest::Client::new()
            .get(format!("{}/api/jobs/{event_id}/events", client.base))
            .bearer_auth(&client.token);
        if let Some(id) = &last_id {
            request = request.header("last-event-id", id);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut stream = answer.bytes_stream();
        let mut text = String::new();
        let mut taken = 0;
        while taken < 3 && !ledger.ended() {
            let Some(chunk) = stream.next().await else {
                break;
            };
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            while let Some((block, rest)) = text.split_once("\n\n") {
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(|value| value.trim().to_owned())
                };
                assert_ne!(
                    field("event:").as_deref(),
                    Some("recovered"),
                    "something is missing"
                );
                if let (Some(id), Some(data)) = (field("id:"), field("data:")) {
                    let event = Event::parse(data.as_bytes()).unwrap();
                    let offset = u64::try_from(ledger.events().len()).unwrap() + 1;
                    assert_ne!(Some(&id), last_id.as_ref(), "ids are unique");
                    ledger.take("sse", offset, event).unwrap();
                    last_id = Some(id);
                    taken += 1;
                }
                text = rest.to_owned();
            }
        }
    }
    ledger
}
