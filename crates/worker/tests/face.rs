//! The worker's face over real sockets, with a stand-in for the hub's `/internal/events` that keeps what it is told.

mod support;

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use support::{Site, digest, python, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_analysis_goes_from_file_to_result_and_is_gone() {
    let site = Site::new().await;
    let worker = site.start(&[]).await;
    let file = vec![7_u8; 300_000];
    let answer = worker.post("a", 1, "source", file.clone()).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["serverId"], worker.server_id());
    assert_eq!(body["analyzeId"], "a");
    let last = site.hub.last("a", "COLLECTING").await;
    assert_eq!(last["error"], Value::Null);

    let events = site.hub.events("a");
    support::assert_gapless(&events, 3);
    let statuses: Vec<&str> = events
        .iter()
        .map(|event| event["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses.first(), Some(&"RECEIVING"));
    assert!(statuses.is_sorted_by_key(|status| {
        ["RECEIVING", "RUNNING", "COLLECTING"]
            .iter()
            .position(|known| known == status)
            .unwrap()
    }));
    for event in &events {
        assert_eq!(event["serverId"], worker.server_id());
        assert_eq!(
            (&event["userId"], &event["eventId"]),
            (&"u".into(), &"e".into())
        );
    }
    let finding = events
        .iter()
        .find(|event| !event["finding"].is_null())
        .unwrap();
    assert_eq!(finding["finding"]["bytes"], 300_000);
    assert_eq!(finding["finding"]["message"]["text"], "my file.zip");

    let result = worker.get("analyzeId=a&attempt=1").await;
    assert_eq!(result.status(), StatusCode::OK);
    let announced = result.headers()["repr-digest"].to_str().unwrap().to_owned();
    let length = result.content_length().unwrap();
    let bytes = result.bytes().await.unwrap();
    assert_eq!(bytes.len() as u64, length);
    assert_eq!(announced, digest(&bytes));
    let files = support::unpack(&bytes);
    // What was announced, and nothing else.
    assert_eq!(files.keys().collect::<Vec<_>>(), ["findings.jsonl"]);
    let part = worker
        .get_with("analyzeId=a", &[("range", "bytes=2-5")])
        .await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.unwrap(), bytes.slice(2..6));

    // The same attempt again is here already; an older one is not wanted.
    assert_eq!(
        worker.post("a", 1, "source", file.clone()).await.status(),
        202
    );
    for _ in 0..2 {
        assert_eq!(worker.delete("analyzeId=a&attempt=1").await.status(), 204);
    }
    assert_eq!(worker.get("analyzeId=a").await.status(), StatusCode::GONE);
    let fenced = worker.post("a", 1, "source", file.clone()).await;
    assert_eq!(fenced.status(), StatusCode::CONFLICT);
    assert_eq!(fenced.json::<Value>().await.unwrap()["code"], "fenced");
    assert_eq!(site.left_over(), Vec::<String>::new());
    assert_eq!(worker.post("a", 2, "source", file).await.status(), 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_the_secret_sees_only_the_health() {
    let site = Site::new().await;
    let worker = site.start(&[]).await;
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", worker.address());
    assert_eq!(
        client.get(url("/health")).send().await.unwrap().status(),
        200
    );
    for path in ["/metrics", "/analysis?analyzeId=a", "/analysis/cancel"] {
        for token in [None, Some("wrong"), Some("")] {
            let request = client.get(url(path));
            let request = match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{path} {token:?}");
            assert_eq!(
                answer.json::<Value>().await.unwrap()["code"],
                "unauthorized"
            );
        }
    }
    let metrics = worker.call("GET", "/metrics").await.text().await.unwrap();
    assert!(metrics.contains("munjigi_worker_free_slots 2"), "{metrics}");
    assert!(
        metrics.contains("munjigi_worker_refused_total{code=\"unauthorized\"} 9"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_said() {
    let site = Site::new().await;
    let worker = site.start(&[]).await;
    let good = "userId=u&eventId=e&analyzeId=a&attempt=1&seq=3&model=source";
    for (query, status, code) in [
        ("", 400, "bad_query"),
        (
            "userId=u&eventId=e&analyzeId=../a&attempt=1&seq=3&model=source",
            400,
            "bad_query",
        ),
        (
            "userId=u&eventId=e&analyzeId=a&attempt=0&seq=3&model=source",
            400,
            "bad_query",
        ),
        (
            "userId=u&eventId=e&analyzeId=a&attempt=1&seq=x&model=source",
            400,
            "bad_query",
        ),
        (
            "userId=u&eventId=e&analyzeId=a&attempt=1&seq=3&model=other",
            400,
            "unknown_model",
        ),
        (&format!("serverId=other&{good}"), 421, "wrong_server"),
    ] {
        let answer = worker.send(query, b"x".to_vec(), &[]).await;
        assert_eq!(answer.status(), status, "{query}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{query}");
    }
    let wrong = digest(b"other bytes");
    for (header, code) in [
        (wrong.as_str(), "digest_mismatch"),
        ("md5=:AA==:", "bad_digest"),
    ] {
        let answer = worker
            .send(good, b"x".to_vec(), &[("repr-digest", header)])
            .await;
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], code);
    }
    // Neither file nor slot stayed, and the attempt may be sent again.
    assert_eq!(site.inputs(), Vec::<String>::new());
    assert_eq!(worker.post("a", 1, "source", "x").await.status(), 202);
    assert_eq!(worker.get("analyzeId=unknown").await.status(), 404);
    assert_eq!(worker.delete("analyzeId=unknown").await.status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_in_a_trailer_counts_and_a_cut_body_leaves_nothing() {
    let site = Site::new().await;
    let worker = site.start(&[]).await;
    let chunked = |trailer: &str| format!("4\r\nabcd\r\n0\r\n{trailer}\r\n");
    let good = format!("Repr-Digest: {}\r\n", digest(b"abcd"));
    let bad = format!("Repr-Digest: {}\r\n", digest(b"abce"));
    for (attempt, body, status) in [
        (1, chunked(&good), "202"),
        (2, chunked(&bad), "400"),
        (3, chunked(""), "400"),
    ] {
        let answer = worker.raw_post("t", attempt, &body, true).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    worker.raw_post("t", 4, "4\r\nab", false).await;
    until("the cut one is known as lost", || async {
        let answer = worker.get("analyzeId=t&attempt=4").await;
        answer.json::<Value>().await.unwrap()["code"] == "lost"
    })
    .await;
    assert_eq!(site.inputs(), Vec::<String>::new());
    // The same attempt again goes on with its seq.
    assert_eq!(worker.post("t", 4, "source", "abcd").await.status(), 202);
    site.hub.last("t", "COLLECTING").await;
    support::assert_gapless(&site.hub.attempt("t", 4), 3);
}

const SLEEPER: &str = r#"
import json, sys, time
for line in sys.stdin:
    order = json.loads(line)
    if order["type"] == "analyze":
        print(json.dumps({"type": "progress", "phase": "sleep", "done": 0}), flush=True)
        while True: time.sleep(1)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_bounded_and_come_back_by_delete_and_cancel() {
    let site = Site::new().await;
    let worker = site.start(&[python("sleeper", site.path(), SLEEPER)]).await;
    for id in ["a", "b"] {
        assert_eq!(worker.post(id, 1, "sleeper", "x").await.status(), 202);
    }
    let full = worker.post("c", 1, "sleeper", "x").await;
    assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(full.headers().contains_key("retry-after"));
    assert_eq!(full.json::<Value>().await.unwrap()["code"], "no_slot");
    assert_eq!(
        worker.get("analyzeId=a").await.status(),
        StatusCode::CONFLICT
    );

    // An older attempt touches nothing; a newer one takes its place.
    assert_eq!(worker.post("a", 2, "sleeper", "x").await.status(), 202);
    let older = worker.post("a", 1, "sleeper", "x").await;
    assert_eq!(older.status(), StatusCode::CONFLICT);
    assert_eq!(worker.delete("analyzeId=a&attempt=1").await.status(), 204);
    assert_eq!(
        worker.get("analyzeId=a").await.status(),
        StatusCode::CONFLICT,
        "still runs"
    );

    assert_eq!(worker.delete("analyzeId=a").await.status(), 204);
    assert_eq!(
        worker
            .call("POST", "/analysis/cancel?analyzeId=b&attempt=5")
            .await
            .status(),
        202
    );
    until("the cancelled one is gone", || async {
        worker.get("analyzeId=b").await.status() == StatusCode::GONE && site.left_over().is_empty()
    })
    .await;
    assert_eq!(worker.post("b", 5, "sleeper", "x").await.status(), 409);
    assert_eq!(worker.post("b", 6, "sleeper", "x").await.status(), 202);
    assert_eq!(worker.delete("analyzeId=b").await.status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_come_from_a_silent_model() {
    let site = Site::new().await;
    let worker = site.start(&[python("sleeper", site.path(), SLEEPER)]).await;
    assert_eq!(worker.post("a", 1, "sleeper", "x").await.status(), 202);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let running: Vec<_> = site
        .hub
        .events("a")
        .into_iter()
        .filter(|event| event["status"] == "RUNNING")
        .collect();
    assert!(running.len() >= 4, "{running:?}");
    assert_eq!(running.last().unwrap()["progress"]["phase"], "sleep");
    assert_eq!(worker.delete("analyzeId=a").await.status(), 204);
}

/// Name, script, and what the reason must name.
const BAD_MODELS: [(&str, &str, &str); 8] = [
    (
        "crash",
        "import sys, os\nfor l in sys.stdin:\n  print('last words', file=sys.stderr)\n  os.abort()",
        "SIGABRT",
    ),
    (
        "exit",
        "import sys\nfor l in sys.stdin: sys.exit(3)",
        "exited with code 3",
    ),
    (
        "garbage",
        "import sys\nfor l in sys.stdin:\n  while True: print('not json')",
        "not the protocol",
    ),
    (
        "line",
        "import sys\nfor l in sys.stdin: print('x' * (2 << 20), flush=True)",
        "longer than",
    ),
    (
        "flood",
        "import sys\nfor l in sys.stdin:\n  while True: print('{\"type\":\"artifact\",\"path\":\"x\"}')",
        "artifacts",
    ),
    (
        "says",
        "import sys\nfor l in sys.stdin: print('{\"type\":\"error\",\"message\":\"no such language\"}', flush=True)",
        "no such language",
    ),
    (
        "eats",
        "import sys\nfor l in sys.stdin: x = bytearray(1 << 30)",
        "memory_max",
    ),
    (
        "hangs",
        "import sys, time\nfor l in sys.stdin:\n  while True: time.sleep(1)",
        "silence_max",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_misbehaves_fails_with_a_reason() {
    let site = Site::new().await;
    let settings: Vec<_> = BAD_MODELS
        .iter()
        .map(|(name, script, _)| python(name, site.path(), script))
        .collect();
    let worker = site
        .start_with(&settings, |settings| {
            settings.slots = BAD_MODELS.len();
            settings.silence_max = Duration::from_secs(15);
            settings.memory_max = 128 << 20;
        })
        .await;
    for (name, _, _) in BAD_MODELS {
        assert_eq!(worker.post(name, 1, name, "x").await.status(), 202);
    }
    for (name, _, reason) in BAD_MODELS {
        let last = site.hub.last(name, "COLLECTING").await;
        let error = last["error"].as_str().unwrap();
        assert!(error.contains(reason), "{name}: {error}");
        if name == "crash" {
            assert!(error.contains("last words"), "{error}");
        }
        // What there is of a result can be fetched all the same.
        assert_eq!(worker.get(&format!("analyzeId={name}")).await.status(), 200);
        assert_eq!(
            worker.delete(&format!("analyzeId={name}")).await.status(),
            204
        );
    }
}

const WRITER: &str = r#"
import json, os, sys
for line in sys.stdin:
    order = json.loads(line)
    if order["type"] == "describe":
        print(json.dumps({"type": "description", "id": "w", "version": "1"}), flush=True)
        continue
    output = order["output"]
    open(output + "/good", "w").write(open(order["input"]).read())
    try: os.symlink("/etc/passwd", output + "/link")
    except OSError: pass
    for path in ["good", "link", "../input/upload", "/etc/passwd"]:
        print(json.dumps({"type": "artifact", "path": path}))
    print(json.dumps({"type": "finding", "result": {"ruleId": "big", "codeFlows": "x" * 400000}}))
    print(json.dumps({"type": "done"}), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_outside_and_events_too_large_are_told_and_left_out() {
    let site = Site::new().await;
    let mut free = python("free", site.path(), WRITER);
    free.sandbox = false;
    let worker = site
        .start(&[python("kept", site.path(), WRITER), free])
        .await;
    for model in ["kept", "free"] {
        assert_eq!(worker.post(model, 1, model, "hello").await.status(), 202);
        let last = site.hub.last(model, "COLLECTING").await;
        assert_eq!(last["error"], Value::Null, "{model}");
        let events = site.hub.events(model);
        let told = |part: &str| {
            events
                .iter()
                .any(|e| e["message"].as_str().is_some_and(|m| m.contains(part)))
        };
        assert!(told("3 artifacts were refused"), "{events:?}");
        assert!(told("larger than an event"), "{events:?}");
        let bytes = worker
            .get(&format!("analyzeId={model}"))
            .await
            .bytes()
            .await
            .unwrap();
        let files = support::unpack(&bytes);
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            [("good".to_owned(), b"hello".to_vec())]
        );
    }
}
