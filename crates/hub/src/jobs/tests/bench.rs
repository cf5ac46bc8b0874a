//! A hub's jobs over real sockets, with a worker that speaks §6 of the contract and does as a test tells it.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use munjigi_eureka::{Application, Applications, Instance};
use munjigi_events::{Event, EventPost, Job as Folded, ServerId};
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::super::*;
use crate::settings::Limits;
use crate::store::ledger;
use crate::uploads::UploadsWiring;
use crate::user::User;

pub(super) const SECRET: &str = "the secret of the cluster";
const SERVER: &str = "143";

/// What the worker does with the next files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Runs the model and has a result.
    Well,
    /// Takes the file, says RUNNING, and no more.
    Silent,
    /// Has no slot.
    Full,
    /// The model fails.
    Fails,
    /// The result is not what its digest says.
    Lies,
    /// Can't be reached.
    Away,
}

#[derive(Debug, Default)]
pub(super) struct Had {
    /// Attempts that are there, with their results.
    pub(super) held: BTreeMap<String, (u32, Option<Vec<u8>>)>,
    /// Attempts up to this one are over.
    pub(super) fenced: BTreeMap<String, u32>,
    pub(super) posts: u32,
    pub(super) cancels: u32,
}

pub(super) struct Worker {
    pub(super) mood: Mutex<Mood>,
    pub(super) had: Mutex<Had>,
    hub: Mutex<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    server_id: String,
    analyze_id: String,
    attempt: u32,
    #[serde(default)]
    event_id: String,
    #[serde(default)]
    user_id: String,
    #[serde(default)]
    seq: u64,
}

fn away() -> Response {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "instance_away", "away").into_response()
}

impl Worker {
    pub(super) fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    fn event(asked: &Asked, seq: u64, status: Status) -> Event {
        Event {
            user_id: asked.user_id.as_str().into(),
            event_id: asked.event_id.as_str().into(),
            server_id: Some(ServerId::from(SERVER)),
            analyze_id: asked.analyze_id.as_str().into(),
            status,
            created_at: Timestamp::from_millis(0),
            seq,
            attempt: asked.attempt,
            progress: None,
            message: None,
            finding: None,
            error: None,
        }
    }

    async fn say(&self, events: &[Event]) {
        loop {
            let hub = self.hub.lock().unwrap().clone();
            let post = EventPost::new(reqwest::Client::new(), &hub, Secret::new(SECRET));
            match post.post(events).await {
                Ok(_) | Err(munjigi_events::PostError::Refused { .. }) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

async fn take(
    State(worker): State<Arc<Worker>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mood = worker.mood();
    if mood == Mood::Away || asked.server_id != SERVER {
        return away();
    }
    assert_eq!(headers["authorization"], format!("Bearer {SECRET}"));
    let bytes = munjigi_foundation::api::read_body(body, 64 << 20)
        .await
        .unwrap();
    let digest = STANDARD.encode(Sha256::digest(&bytes));
    assert_eq!(headers["repr-digest"], format!("sha-256=:{digest}:"));
    {
        let mut had = worker.had.lock().unwrap();
        had.posts += 1;
        if had
            .fenced
            .get(&asked.analyze_id)
            .is_some_and(|upto| asked.attempt <= *upto)
        {
            return Problem::new(StatusCode::CONFLICT, "fenced", "over").into_response();
        }
        if mood == Mood::Full {
            return Problem::new(StatusCode::TOO_MANY_REQUESTS, "no_slot", "full")
                .retry_after(1)
                .into_response();
        }
        had.held
            .insert(asked.analyze_id.clone(), (asked.attempt, None));
    }
    let (working, what) = (Arc::clone(&worker), asked.clone());
    // A test's worker ends with its runtime.
    tasks().spawn(async move { work(&working, &what, mood).await });
    (
        StatusCode::ACCEPTED,
        Json(json!({"serverId": SERVER, "analyzeId": asked.analyze_id})),
    )
        .into_response()
}

fn tasks() -> TaskTracker {
    TaskTracker::new()
}

async fn work(worker: &Worker, asked: &Asked, mood: Mood) {
    let at = |step: u64, status| Worker::event(asked, asked.seq + step, status);
    worker.say(&[at(0, Status::Receiving)]).await;
    worker.say(&[at(1, Status::Running)]).await;
    if mood == Mood::Silent {
        return;
    }
    let mut found = at(2, Status::Running);
    found.finding = Some(json!({"ruleId": "sql"}));
    let mut last = at(3, Status::Collecting);
    if mood == Mood::Fails {
        last.error = Some("the model crashed".to_owned());
    }
    let result = (mood != Mood::Fails).then(pack);
    if let Some(held) = worker.had.lock().unwrap().held.get_mut(&asked.analyze_id) {
        held.1 = result;
    }
    worker.say(&[found, last]).await;
}

pub(super) const COVERAGE: &str =
    r#"{"files":[{"path":"a b.py","status":"skipped","reason":"binary"}]}"#;

pub(super) fn pack() -> Vec<u8> {
    let encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let mut tar = tar::Builder::new(encoder);
    let finding = json!({"ruleId": "sql", "level": "error", "locations": [{"physicalLocation": {"artifactLocation": {"uri": "a%20b.py"}}}]});
    let report = json!({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "t", "rules": [{"id": "sql", "name": "SQL injection", "properties": {"tags": ["external/cwe/cwe-089"]}}]}}, "results": [finding]}]});
    for (name, text) in [
        ("findings.jsonl", format!("{finding}\n[]\n")),
        ("report.sarif", report.to_string()),
        ("sources/a b.py", "print(1)\n".to_owned()),
        ("coverage.json", COVERAGE.to_owned()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len()).unwrap());
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

async fn give(State(worker): State<Arc<Worker>>, Query(asked): Query<Asked>) -> Response {
    if worker.mood() == Mood::Away {
        return away();
    }
    let had = worker.had.lock().unwrap();
    let over = had
        .fenced
        .get(&asked.analyze_id)
        .is_some_and(|upto| asked.attempt <= *upto);
    match had.held.get(&asked.analyze_id) {
        _ if over => Problem::new(StatusCode::GONE, "deleted", "deleted").into_response(),
        Some((_, Some(result))) => {
            let mut digest = STANDARD.encode(Sha256::digest(result));
            if worker.mood() == Mood::Lies {
                digest = STANDARD.encode([7; 32]);
            }
            (
                [("repr-digest", format!("sha-256=:{digest}:"))],
                result.clone(),
            )
                .into_response()
        }
        Some((_, None)) => {
            Problem::new(StatusCode::CONFLICT, "not_ready", "not yet").into_response()
        }
        None => Problem::not_found("analysis on this worker").into_response(),
    }
}

async fn delete(State(worker): State<Arc<Worker>>, Query(asked): Query<Asked>) -> Response {
    if worker.mood() == Mood::Away {
        return away();
    }
    let mut had = worker.had.lock().unwrap();
    let upto = had.fenced.entry(asked.analyze_id.clone()).or_default();
    *upto = asked.attempt.max(*upto);
    if had
        .held
        .get(&asked.analyze_id)
        .is_some_and(|(attempt, _)| *attempt <= asked.attempt)
    {
        had.held.remove(&asked.analyze_id);
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn stop(State(worker): State<Arc<Worker>>) -> StatusCode {
    worker.had.lock().unwrap().cancels += 1;
    StatusCode::ACCEPTED
}

/// The hub; its data outlives a restart.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) worker: Arc<Worker>,
    gate: String,
    pub(super) hub: Option<Running>,
    http: reqwest::Client,
    pub(super) event_ttl: Duration,
}

pub(super) struct Running {
    pub(super) jobs: Jobs,
    pub(super) base: String,
    pub(super) workers: watch::Sender<Known>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

async fn serve(router: Router, tasks: &TaskTracker, shutdown: CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let limits = munjigi_foundation::listen::Limits::default();
    tasks.spawn(munjigi_foundation::listen::serve(
        listener, router, limits, shutdown,
    ));
    base
}

async fn sign_in(mut request: Request, next: Next) -> Response {
    let name = request
        .headers()
        .get("x-user")
        .map_or("u1", |name| name.to_str().unwrap());
    let user = User {
        id: UserId::from(name),
        name: name.to_owned(),
        admin: true,
        signed_out: CancellationToken::new(),
    };
    request.extensions_mut().insert(user);
    next.run(request).await
}

/// A registry that knows the worker, with these models.
pub(super) fn offering(models: &str) -> Known {
    let mut worker = Instance::new("MODEL-SERVER", "w", "127.0.0.1", 1);
    for (key, value) in [("serverId", SERVER), ("models", models), ("capacity", "4")] {
        worker.metadata.insert(key.to_owned(), value.to_owned());
    }
    let application = Application {
        name: worker.app.clone(),
        instances: vec![worker],
    };
    let applications = Applications {
        applications: vec![application],
        ..Applications::default()
    };
    Known {
        applications: Arc::new(applications),
        reachable: true,
        error: None,
    }
}

/// Status and body of an answer.
pub(super) async fn said(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

impl Bench {
    pub(super) async fn new() -> Self {
        let worker = Arc::new(Worker {
            mood: Mutex::new(Mood::Well),
            had: Mutex::default(),
            hub: Mutex::default(),
        });
        let router = Router::new()
            .route("/analysis", post(take).get(give).delete(delete))
            .route("/analysis/cancel", post(stop))
            .with_state(Arc::clone(&worker));
        let gate = serve(router, &tasks(), CancellationToken::new()).await;
        let mut bench = Self {
            dir: tempfile::tempdir().unwrap(),
            worker,
            gate,
            hub: None,
            http: reqwest::Client::new(),
            event_ttl: Duration::from_secs(600),
        };
        bench.start().await;
        bench
    }

    pub(super) async fn start(&mut self) {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let store = Store::open(&self.dir.path().join("hub.db"), &tasks)
            .await
            .unwrap();
        store
            .write(|tx| {
                Box::pin(async move {
                    sqlx::query("INSERT OR IGNORE INTO users (id, name, admin, created_at) VALUES ('u1', 'u1', 1, 0), ('u2', 'u2', 0, 0)")
                        .execute(tx)
                        .await?;
                    Ok(())
                })
            })
            .await
            .unwrap();
        let clock = Clock::system();
        let uploads = Uploads::start(UploadsWiring {
            store: store.clone(),
            folder: self.dir.path().join("uploads"),
            clock: clock.clone(),
            limits: Limits {
                disk_free: Some(munjigi_foundation::settings::Size(0)),
                ..Limits::default()
            },
            keep: Duration::from_secs(3_600),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        })
        .await
        .unwrap();
        let (workers, registry) = watch::channel(offering("source,deep"));
        let wiring = JobsWiring {
            store,
            uploads: uploads.clone(),
            clock,
            registry,
            drained: watch::channel(Drained::default()).1,
            worker_service: "MODEL-SERVER".to_owned(),
            gate_inner_url: self.gate.clone(),
            trust: munjigi_foundation::tls::for_urls(None).unwrap(),
            cluster_secret: Secret::new(SECRET),
            folder: self.dir.path().join("results"),
            event_ttl: self.event_ttl,
            keep_results: Duration::from_secs(3_600),
            limits: JobLimits::default(),
        };
        let jobs = Jobs::start(wiring, tasks.clone(), shutdown.clone()).unwrap();
        let router = router(jobs.clone())
            .merge(crate::uploads::router(uploads))
            .layer(axum::middleware::from_fn(sign_in));
        let base = serve(router, &tasks, shutdown.clone()).await;
        self.worker.hub.lock().unwrap().clone_from(&base);
        self.hub = Some(Running {
            jobs,
            base,
            workers,
            tasks,
            shutdown,
        });
    }

    /// Everything under way is dropped where it stands.
    pub(super) async fn stop(&mut self) {
        let Running {
            jobs,
            workers,
            tasks,
            shutdown,
            ..
        } = self.hub.take().unwrap();
        shutdown.cancel();
        drop((jobs, workers));
        tasks.close();
        tasks.wait().await;
    }

    pub(super) fn hub(&self) -> &Running {
        self.hub.as_ref().unwrap()
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.hub().base))
    }

    pub(super) async fn upload(&self) -> String {
        let answer = self
            .request(Method::POST, "/api/uploads")
            .header("tus-resumable", "1.0.0")
            .header("upload-length", 5)
            .header("upload-metadata", "filename YS5weQ==")
            .header("content-type", "application/offset+octet-stream")
            .body("hello")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201);
        let place = answer.headers()["location"].to_str().unwrap();
        place.rsplit('/').next().unwrap().to_owned()
    }

    pub(super) async fn post(&self, body: Value, key: Option<&str>) -> (u16, Value) {
        let mut request = self.request(Method::POST, "/api/jobs").json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// A job of a new upload; its `eventId`.
    pub(super) async fn job(&self, models: &[&str]) -> EventId {
        let upload = self.upload().await;
        let (status, job) = self
            .post(json!({"upload": upload, "models": models}), None)
            .await;
        assert_eq!(status, 201, "{job}");
        EventId::from(job["eventId"].as_str().unwrap())
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = said(self.request(Method::GET, path)).await;
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    pub(super) async fn delete(&self, id: &EventId) -> u16 {
        let path = format!("/api/jobs/{id}");
        said(self.request(Method::DELETE, &path)).await.0
    }

    /// Waits until the job's events say `until`; checks what must hold after each look.
    pub(super) async fn wait(&self, id: &EventId, until: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
        loop {
            let events = self.check_invariants(id).await;
            if until(&events) {
                return events;
            }
            let told: Vec<String> = events
                .iter()
                .map(|e| format!("{}#{}.{} {:?}", e.status, e.attempt, e.seq, e.message))
                .collect();
            assert!(
                tokio::time::Instant::now() < deadline,
                "too long: {told:#?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn ended(&self, id: &EventId) -> (Status, Vec<Event>) {
        let all_ended = |events: &[Event]| {
            let mut job = Folded::default();
            for event in events {
                job.fold(event);
            }
            job.analyses
                .values()
                .all(|analysis| analysis.status.is_terminal())
        };
        let events = self.wait(id, all_ended).await;
        let job = rows::find(self.hub().jobs.store().read(), id)
            .await
            .unwrap()
            .unwrap();
        (job.status, events)
    }

    /// Offsets and `seq` have no gaps, attempts grow by one, each analysis ends once, and rows are what the events add
    /// up to: all of one moment.
    pub(super) async fn check_invariants(&self, id: &EventId) -> Vec<Event> {
        let mut reader = self.hub().jobs.store().read().begin().await.unwrap();
        let job = rows::find(&mut *reader, id).await.unwrap().unwrap();
        let analyses = rows::analyses_of(&mut *reader, id).await.unwrap();
        let stored = ledger::events_after(&mut *reader, id, 0, 10_000)
            .await
            .unwrap();
        drop(reader);
        let mut folded = Folded::default();
        let mut events: Vec<Event> = Vec::new();
        for ((offset, json), expected) in stored.into_iter().zip(1..) {
            assert_eq!(offset, expected);
            let event = Event::parse(json.as_bytes()).unwrap();
            if let Some(before) = folded.analyses.get(&event.analyze_id) {
                assert!(!before.status.is_terminal(), "{event:?} after the end");
                assert!(event.attempt <= before.attempt + 1, "{event:?}");
            }
            assert_eq!(folded.fold(&event), munjigi_events::Fold::Next, "{event:?}");
            events.push(event);
        }
        assert_eq!(job.last_offset, u64::try_from(events.len()).unwrap());
        assert_eq!(job.status, folded.status());
        for row in analyses {
            let sum = &folded.analyses[&row.analyze_id];
            let as_row = (
                row.status,
                row.attempt,
                row.seq,
                row.server_id,
                row.findings,
                row.error,
            );
            let as_sum = (
                sum.status,
                sum.attempt,
                sum.seq,
                sum.server_id.clone(),
                sum.findings,
                sum.error.clone(),
            );
            assert_eq!(as_row, as_sum);
        }
        events
    }

    /// Waits until nothing is to be undone.
    pub(super) async fn clean(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let (_, cleanups) = self.get("/api/admin/cleanup").await;
            let unarmed: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM undo")
                .fetch_one(self.hub().jobs.store().read())
                .await
                .unwrap();
            if cleanups == json!({"cleanups": []}) && unarmed == 0 {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{cleanups} {unarmed}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
