//! `where metadata.serverId = query.serverId`: the one instance, or an answer that says why not.

use std::sync::Arc;

use munjigi_gate::settings::{Lookup, PathPattern, RouteSettings};
use munjigi_gate::{Gate, Wiring};

use crate::support::*;

async fn gate(lookup: &str, path: &str, balance: bool, registry: Arc<Told>) -> Gate {
    let mut settings = settings(&[]);
    let mut route = RouteSettings::new(
        "analysis",
        PathPattern::prefix(path).unwrap(),
        "MODEL-SERVER",
    );
    route.lookup = Some(Lookup::parse(lookup, balance).unwrap());
    settings.routes = vec![route];
    settings.services.clear();
    let wiring = Wiring {
        discovery: Some(registry),
        ..Wiring::default()
    };
    Gate::start(settings, wiring).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_instance_that_is_named_gets_the_request() {
    let (first, second) = (named("143").await, named("144").await);
    let registry = told(
        "MODEL-SERVER",
        vec![worker(first.address, "143"), worker(second.address, "144")],
    );
    let gate = gate(
        "metadata.serverId = query.serverId",
        "/analysis",
        false,
        Arc::clone(&registry),
    )
    .await;
    let mut client = client(&gate).await;
    for round in 0..20 {
        let id = if round % 3 == 0 { "143" } else { "144" };
        client.send(&format!("POST /analysis?eventId=x&serverId={id} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")).await;
        let (head, body) = client.response().await;
        assert_eq!((status(&head), body.as_slice()), (200, id.as_bytes()));
    }
    let answer = async |target: &str| {
        let (head, body) = ask(&gate, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        // An instance that still serves answers with its name, which is no document.
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let told = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        (
            status(&head),
            told("code"),
            told("detail"),
            header(&head, "retry-after").is_some(),
        )
    };
    let (code, reason, detail, _) = answer("/analysis?serverId=145").await;
    assert_eq!((code, reason.as_str()), (404, "no_such_instance"));
    assert!(
        detail.contains("serverId") && detail.contains("145"),
        "{detail}"
    );
    let (code, reason, detail, _) = answer("/analysis").await;
    assert_eq!((code, reason.as_str()), (400, "where_missing"));
    assert!(detail.contains("serverId"), "{detail}");
    let (code, reason, ..) = answer("/analysis?serverId=143&serverId=144").await;
    assert_eq!((code, reason.as_str()), (400, "where_ambiguous"));

    let tell = |instances| registry.tell(instances, false);
    tell(vec![
        worker(first.address, "143"),
        worker(second.address, "143"),
    ]);
    eventually("two of one name", || async {
        let (status, reason, ..) = answer("/analysis?serverId=143").await;
        status == 503 && reason == "duplicate_server_id"
    })
    .await;
    let (code, reason, _, retry) = answer("/analysis?serverId=144").await;
    assert_eq!((code, reason.as_str(), retry), (503, "instance_away", true));
    let mut down = worker(first.address, "143");
    down.up = false;
    tell(vec![down]);
    eventually("one that is not up", || async {
        let (status, reason, _, retry) = answer("/analysis?serverId=143").await;
        status == 503 && reason == "instance_away" && retry
    })
    .await;
    tell(vec![worker(second.address, "143")]);
    eventually("one that moved", || async {
        ask(
            &gate,
            "GET /analysis?serverId=143 HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        .await
        .1 == b"144"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_missing_balance_takes_any_instance() {
    let (first, second) = (named("143").await, named("144").await);
    let registry = told(
        "MODEL-SERVER",
        vec![worker(first.address, "143"), worker(second.address, "144")],
    );
    let gate = gate(
        "metadata.serverId = query.serverId",
        "/analysis",
        true,
        registry,
    )
    .await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (_, body) = ask(&gate, "GET /analysis HTTP/1.1\r\nHost: x\r\n\r\n").await;
        seen.push(String::from_utf8(body).unwrap());
    }
    assert_eq!(seen, ["143", "144", "143", "144"]);
    let (head, _) = ask(
        &gate,
        "GET /analysis?serverId=9 HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    .await;
    assert_eq!(status(&head), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_cookies_and_segments_name_instances_too() {
    let (first, second) = (named("143").await, named("144").await);
    let workers = || vec![worker(first.address, "143"), worker(second.address, "144")];
    let cases = [
        (
            "header.X-Server",
            "/a",
            "GET /a HTTP/1.1\r\nHost: x\r\nx-server: 144\r\n\r\n",
        ),
        (
            "cookie.sid",
            "/a",
            "GET /a HTTP/1.1\r\nHost: x\r\nCookie: a=b; sid=144\r\n\r\n",
        ),
        (
            "{id}",
            "/a/{id}/b",
            "GET /a/144/b/c?x HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
    ];
    for (source, path, request) in cases {
        let gate = gate(
            &format!("metadata.serverId = {source}"),
            path,
            false,
            told("MODEL-SERVER", workers()),
        )
        .await;
        let (head, body) = ask(&gate, request).await;
        assert_eq!(
            (status(&head), body.as_slice()),
            (200, b"144".as_slice()),
            "{source}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_unsure_takes_nothing_away() {
    let first = named("143").await;
    let registry = told("MODEL-SERVER", vec![worker(first.address, "143")]);
    let gate = gate(
        "metadata.serverId = query.serverId",
        "/analysis",
        false,
        Arc::clone(&registry),
    )
    .await;
    registry.tell(Vec::new(), true);
    for _ in 0..20 {
        let (head, _) = ask(
            &gate,
            "GET /analysis?serverId=143 HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        .await;
        assert_eq!(status(&head), 200);
    }
}
