//! Jobs from the request to the last event, over real sockets.

mod bench;

use bench::{Bench, Mood, SECRET, said};
use munjigi_events::Event;
use reqwest::Method;
use serde_json::{Value, json};

use super::*;

fn story(events: &[Event]) -> Vec<String> {
    let mut story: Vec<String> = events
        .iter()
        .map(|event| format!("{}#{}", event.status, event.attempt))
        .collect();
    story.dedup();
    story
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_with_its_result_here_and_the_worker_clean() {
    let mut bench = Bench::new().await;
    let id = bench.job(&["source", "deep", "source"]).await;
    let (status, events) = bench.ended(&id).await;
    assert_eq!(status, Status::Done);
    let first = &events[0].analyze_id;
    let of_first: Vec<Event> = events
        .iter()
        .filter(|event| event.analyze_id == *first)
        .cloned()
        .collect();
    let expected = [
        "QUEUED#1",
        "PLACED#1",
        "RECEIVING#1",
        "RUNNING#1",
        "COLLECTING#1",
        "DONE#1",
    ];
    assert_eq!(story(&of_first), expected);
    bench.clean().await;
    assert!(bench.worker.had.lock().unwrap().held.is_empty());

    let (_, job) = bench.get(&format!("/api/jobs/{id}")).await;
    assert_eq!(
        job["analyses"].as_array().unwrap().len(),
        2,
        "models are named once"
    );
    let (_, all) = bench.get(&format!("/api/jobs/{id}/findings")).await;
    assert_eq!(all["findings"].as_array().unwrap().len(), 2);
    assert_eq!(all["findings"][0]["ruleName"], "SQL injection");
    for (filter, count) in [
        ("severity=error&cwe=CWE-89&path=b.py", 2),
        ("severity=warning", 0),
        ("cwe=8", 0),
        (&format!("analyzeId={first}"), 1),
    ] {
        let (_, found) = bench
            .get(&format!("/api/jobs/{id}/findings?{filter}"))
            .await;
        assert_eq!(
            found["findings"].as_array().unwrap().len(),
            count,
            "{filter}"
        );
    }
    let (_, page) = bench.get(&format!("/api/jobs/{id}/findings?limit=1")).await;
    let next = page["next"].as_str().unwrap();
    let (_, page) = bench
        .get(&format!("/api/jobs/{id}/findings?limit=1&after={next}"))
        .await;
    assert_eq!(page["findings"].as_array().unwrap().len(), 1);
    assert!(page.get("next").is_none());
    let (_, report) = bench.get(&format!("/api/jobs/{id}/report.sarif")).await;
    assert_eq!(report["runs"].as_array().unwrap().len(), 2);
    the_archive_is_served_in_parts(&bench, &id, first).await;
    the_coverage_is_served(&bench, &id, first).await;

    // All of it is there after a restart, and goes when it is removed.
    bench.stop().await;
    bench.start().await;
    assert_eq!(
        bench.get(&format!("/api/jobs/{id}")).await.1["status"],
        "DONE"
    );
    assert_eq!(bench.delete(&id).await, 204);
    assert_eq!(bench.get(&format!("/api/jobs/{id}")).await.0, 404);
    bench.clean().await;
    let kept = bench.dir.path().join("results/kept");
    assert_eq!(std::fs::read_dir(kept).unwrap().count(), 0);
}

async fn the_coverage_is_served(bench: &Bench, id: &EventId, analysis: &AnalysisId) {
    let coverage = format!("/api/jobs/{id}/coverage/{analysis}");
    let whole = bench.get(&coverage).await;
    assert_eq!(whole, (200, serde_json::from_str(bench::COVERAGE).unwrap()));
    let (_, summary) = bench.get(&format!("{coverage}/summary")).await;
    assert_eq!(summary["reasons"][0]["examples"], json!(["a b.py"]));
    let (status, problem) = bench.get(&format!("/api/jobs/{id}/coverage/x")).await;
    assert_eq!((status, &problem["code"]), (404, &json!("no_result")));
}

async fn the_archive_is_served_in_parts(bench: &Bench, id: &EventId, analysis: &AnalysisId) {
    let archive = || {
        let path = format!("/api/jobs/{id}/results/{analysis}.tar.zst");
        bench.request(Method::GET, &path)
    };
    let whole = archive().send().await.unwrap();
    let (tag, digest) = (
        whole.headers()["etag"].clone(),
        whole.headers()["repr-digest"].clone(),
    );
    let whole = whole.bytes().await.unwrap();
    assert_eq!(whole, bench::pack());
    for (range, if_range, status) in [
        ("bytes=3-9", None, 206),
        ("bytes=3-9", Some(tag.clone()), 206),
        ("bytes=3-9", Some("\"other\"".parse().unwrap()), 200),
        ("bytes=999999-", None, 416),
    ] {
        let mut request = archive().header("range", range);
        if let Some(tag) = if_range {
            request = request.header("if-range", tag);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        if status == 206 {
            assert_eq!(answer.headers()["repr-digest"], digest);
            assert_eq!(answer.bytes().await.unwrap(), whole[3..=9]);
        }
    }
    let (unchanged, _) = said(archive().header("if-none-match", tag)).await;
    assert_eq!(unchanged, 304);
    let source = format!("/api/jobs/{id}/sources/{analysis}?path=a%2520b.py");
    let (_, text) = said(bench.request(Method::GET, &source)).await;
    assert_eq!(text, "print(1)\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_on_workers_is_tried_again_and_then_said() {
    let bench = Bench::new().await;
    bench.worker.be(Mood::Full);
    let id = bench.job(&["source"]).await;
    let again = |events: &[Event]| events.iter().any(|event| event.attempt == 2);
    bench.wait(&id, again).await;
    bench.worker.be(Mood::Well);
    assert_eq!(
        bench.ended(&id).await.0,
        Status::Done,
        "a full worker costs no try"
    );

    bench.worker.be(Mood::Fails);
    let id = bench.job(&["source"]).await;
    let (status, events) = bench.ended(&id).await;
    assert_eq!(status, Status::Failed);
    assert_eq!(
        events.last().unwrap().error.as_deref(),
        Some("the model crashed")
    );

    bench.worker.be(Mood::Lies);
    let id = bench.job(&["source"]).await;
    let (status, events) = bench.ended(&id).await;
    assert_eq!(status, Status::Failed);
    let error = events.last().unwrap().error.clone().unwrap();
    assert!(
        error.contains("Repr-Digest") && error.contains("3 of 3"),
        "{error}"
    );
    bench.worker.be(Mood::Well);
    bench.clean().await;
    assert!(bench.worker.had.lock().unwrap().held.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_nothing_wherever_it_was() {
    let bench = Bench::new().await;
    for status in [
        Status::Queued,
        Status::Placed,
        Status::Running,
        Status::Collecting,
    ] {
        bench.worker.be(if status == Status::Running {
            Mood::Silent
        } else {
            Mood::Well
        });
        let id = bench.job(&["source"]).await;
        bench
            .wait(&id, |events| {
                events.iter().any(|event| event.status == status)
            })
            .await;
        let answer = bench.delete(&id).await;
        // What had ended meanwhile is removed instead.
        assert!(answer == 202 || answer == 204, "{answer}");
        if answer == 202 {
            assert_eq!(bench.ended(&id).await.0, Status::Cancelled);
        }
        bench.clean().await;
        assert!(bench.worker.had.lock().unwrap().held.is_empty(), "{status}");
        let kept = bench.dir.path().join("results/kept").join(id.as_str());
        assert!(!kept.exists(), "{status}");
    }
    assert!(bench.worker.had.lock().unwrap().cancels > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_out_of_reach_is_cleaned_when_it_is_back() {
    let mut bench = Bench::new().await;
    bench.worker.be(Mood::Silent);
    let id = bench.job(&["source"]).await;
    bench
        .wait(&id, |events| {
            events.iter().any(|event| event.status == Status::Running)
        })
        .await;
    bench.worker.be(Mood::Away);
    assert_eq!(bench.delete(&id).await, 202);
    assert_eq!(bench.ended(&id).await.0, Status::Cancelled);
    let (_, pending) = bench.get("/api/admin/cleanup").await;
    assert_eq!(pending["cleanups"][0]["serverId"], "143", "{pending}");
    assert!(
        pending["cleanups"][0]["error"]
            .as_str()
            .unwrap()
            .contains("503")
    );
    // It outlives the hub's restart.
    bench.stop().await;
    bench.start().await;
    assert_eq!(
        bench.get("/api/admin/cleanup").await.1["cleanups"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    bench.worker.be(Mood::Silent);
    bench.clean().await;
    assert!(bench.worker.had.lock().unwrap().held.is_empty());
}

/// The hub is dropped where it stands, again and again, at moments that a seed decides; cancelled jobs among others.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_dropped_anywhere_goes_on() {
    let mut seed = u64::from(getrandom::u32().unwrap());
    println!("seed {seed}");
    let mut chance = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let mut bench = Bench::new().await;
    let mut cancelled = Vec::new();
    let mut jobs = Vec::new();
    for round in 0..8 {
        let id = bench.job(&["source", "deep"]).await;
        let events = usize::try_from(chance(12)).unwrap();
        bench.wait(&id, |seen| seen.len() >= 2 + events).await;
        if chance(3) == 0 && bench.delete(&id).await == 202 {
            cancelled.push(id.clone());
        } else if bench.get(&format!("/api/jobs/{id}")).await.0 == 404 {
            continue;
        }
        jobs.push(id);
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(chance(20))).await;
            bench.stop().await;
            bench.start().await;
        }
    }
    for id in jobs {
        let (status, events) = bench.ended(&id).await;
        let expected = if cancelled.contains(&id) {
            Status::Cancelled
        } else {
            Status::Done
        };
        assert_eq!(status, expected, "{:?}", story(&events));
    }
    bench.clean().await;
    assert!(bench.worker.had.lock().unwrap().held.is_empty());
}

/// A job that is running, and its last event.
async fn running(bench: &Bench) -> (EventId, Event) {
    bench.worker.be(Mood::Silent);
    let id = bench.job(&["source"]).await;
    let events = bench.wait(&id, |events| events.len() == 4).await;
    (id, events.last().unwrap().clone())
}

/// The event after `last`, changed.
fn next(last: &Event, change: impl FnOnce(&mut Value)) -> String {
    let mut event = json!(last);
    event["seq"] = json!(last.seq + 1);
    change(&mut event);
    event.to_string()
}

async fn post_events(bench: &Bench, secret: &str, body: String) -> (u16, Value) {
    let request = bench.request(Method::POST, "/internal/events");
    let (status, text) = said(request.bearer_auth(secret).body(body)).await;
    (status, serde_json::from_str(&text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_worker_it_was_placed_on_may_speak() {
    let bench = Bench::new().await;
    let (id, last) = running(&bench).await;
    for (field, value, status) in [
        ("serverId", json!("144"), 409),
        ("serverId", json!(null), 409),
        ("attempt", json!(0), 400),
        ("attempt", json!(2), 409),
        ("userId", json!("u2"), 409),
        ("eventId", json!("x"), 409),
        ("analyzeId", json!("x"), 409),
        ("status", json!("DONE"), 409),
        ("status", json!("RECEIVING"), 409),
        ("status", json!("WALKING"), 400),
    ] {
        let body = next(&last, |event| event[field] = value.clone());
        let (got, answer) = post_events(&bench, SECRET, body).await;
        assert_eq!(got, status, "{field} {value}: {answer}");
    }
    assert_eq!(post_events(&bench, SECRET, String::new()).await.0, 400);
    let good = next(&last, |_| {});
    assert_eq!(post_events(&bench, "wrong", good).await.0, 401);
    assert_eq!(bench.check_invariants(&id).await.len(), 4, "nothing stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_once_and_in_order() {
    let bench = Bench::new().await;
    let (id, last) = running(&bench).await;
    let (analysis, good) = (last.analyze_id.as_str(), next(&last, |_| {}));
    let gap = next(&last, |event| event["seq"] = json!(last.seq + 2));
    let (_, answer) = post_events(&bench, SECRET, gap).await;
    assert_eq!(
        answer["stored"][analysis], last.seq,
        "sent again from there"
    );
    let twice = format!("{good}\n{good}\n");
    let (_, answer) = post_events(&bench, SECRET, twice).await;
    assert_eq!(answer["stored"][analysis], last.seq + 1);
    assert_eq!(bench.check_invariants(&id).await.len(), 5);
    // One that may be stored beside one that may not.
    let strange = next(&last, |event| event["analyzeId"] = json!("x"));
    let (status, answer) = post_events(&bench, SECRET, format!("{good}\n{strange}\n")).await;
    let refused = &answer["refused"]["x"];
    assert_eq!((status, refused), (200, &json!("unknown_analysis")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_job_is_checked_and_answered_once() {
    let bench = Bench::new().await;
    let upload = bench.upload().await;
    let good = json!({"upload": upload, "models": ["source"]});
    let (status, first) = bench.post(good.clone(), Some("k")).await;
    assert_eq!((status, &first["status"]), (201, &json!("QUEUED")));
    assert_eq!(
        bench.post(good, Some("k")).await,
        (201, first),
        "the same answer"
    );
    for (body, status, code) in [
        (
            json!({"upload": upload, "models": ["deep"]}),
            422,
            "idempotency_key_reused",
        ),
        (json!({"models": ["source"]}), 400, "bad_json"),
        (json!({"upload": upload, "typo": 1}), 400, "bad_json"),
        (
            json!({"upload": upload, "models": ["../x"]}),
            400,
            "bad_model",
        ),
        (
            json!({"upload": upload, "priority": 6}),
            400,
            "bad_priority",
        ),
        (json!({"upload": "01j", "models": []}), 404, "not_found"),
    ] {
        let key = (status == 422).then_some("k");
        let (got, problem) = bench.post(body, key).await;
        assert_eq!((got, &problem["code"]), (status, &json!(code)));
    }
    let models: Vec<String> = (0..17).map(|n| format!("m{n}")).collect();
    let many = json!({"upload": upload, "models": models});
    assert_eq!(bench.post(many, None).await.1["code"], "too_many_models");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_offers_is_waited_for_and_said() {
    let bench = Bench::new().await;
    let id = bench.job(&["rare"]).await;
    let events = bench.wait(&id, |events| events.len() == 2).await;
    assert_eq!(
        events[1].message.as_deref(),
        Some("no worker offers the model `rare`; offered: deep, source")
    );
    bench
        .hub()
        .workers
        .send_replace(bench::offering("source,rare"));
    assert_eq!(bench.ended(&id).await.0, Status::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_outlived_their_time_are_said_to_be_missing() {
    let mut bench = Bench::new().await;
    let id = bench.job(&["source"]).await;
    let events = bench.ended(&id).await.1.len();
    let path = format!("/api/jobs/{id}/events");
    let (_, text) = said(bench.request(Method::GET, &path)).await;
    assert_eq!(text.matches("\ndata: ").count(), events, "{text}");
    assert!(!text.contains("event: recovered"));
    let odd = bench.request(Method::GET, &path);
    let (_, odd) = said(odd.header("last-event-id", "other:2")).await;
    assert!(
        odd.starts_with("event: recovered\n") && odd.contains("\"recovered\":false"),
        "{odd}"
    );
    assert_eq!(
        odd.matches("id: ").count(),
        events,
        "all of them, from the first"
    );

    bench.stop().await;
    bench.event_ttl = Duration::ZERO;
    bench.start().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let (_, text) = said(bench.request(Method::GET, &path)).await;
        if text.starts_with("event: recovered\n") {
            assert!(
                text.contains("\"status\":\"DONE\"") && !text.contains("id: "),
                "{text}"
            );
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        bench.get(&format!("/api/jobs/{id}")).await.1["status"],
        "DONE"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_is_not_there() {
    let bench = Bench::new().await;
    let id = bench.job(&["source"]).await;
    let analysis = bench.ended(&id).await.1[0].analyze_id.clone();
    for path in [
        String::new(),
        "/events".to_owned(),
        "/findings".to_owned(),
        "/report.sarif".to_owned(),
        format!("/results/{analysis}.tar.zst"),
        format!("/sources/{analysis}?path=a"),
    ] {
        let request = bench.request(Method::GET, &format!("/api/jobs/{id}{path}"));
        let (status, _) = said(request.header("x-user", "u2")).await;
        assert_eq!(status, 404, "{path}");
    }
    let request = bench.request(Method::DELETE, &format!("/api/jobs/{id}"));
    assert_eq!(said(request.header("x-user", "u2")).await.0, 404);
    assert_eq!(bench.get(&format!("/api/jobs/{id}")).await.0, 200);
}
