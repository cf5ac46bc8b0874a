//! A worker on a folder of its own, and a stand-in for the hub.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response as Answer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use munjigi_foundation::clock::Clock;
use munjigi_foundation::settings::Secret;
use munjigi_worker::{ModelSettings, Program, Wiring, Worker, WorkerSettings};
use reqwest::Response;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SECRET: &str = "the cluster's secret";

/// Waits until `true`, for at most 30 s.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let start = Instant::now();
    while !is().await {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "waited too long until {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

/// Asserts that the `seq`s of one attempt begin with `first` and have no gap.
pub fn assert_gapless(events: &[Value], first: u64) {
    let seqs: Vec<u64> = events
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert!(!seqs.is_empty());
    assert_eq!(seqs, (first..).take(seqs.len()).collect::<Vec<_>>());
}

pub fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(zstd::Decoder::new(archive).unwrap());
    tar.entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes)
        })
        .collect()
}

/// A model in Python, written to `folder`.
pub fn python(name: &str, folder: &Path, script: &str) -> ModelSettings {
    let file = folder.join(format!("{name}.py"));
    std::fs::write(&file, script).unwrap();
    ModelSettings {
        name: name.to_owned(),
        program: Program::Command {
            program: PathBuf::from("python3"),
            arguments: vec![file.display().to_string()],
        },
        read: Vec::new(),
        network: false,
        sandbox: true,
    }
}

#[derive(Debug, Default)]
struct Told {
    events: BTreeMap<(String, u64, u64), Value>,
    refuse_for_now: bool,
    fenced: BTreeSet<String>,
}

/// Keeps events as a hub does: in order, without gaps, once.
#[derive(Debug, Clone, Default)]
pub struct Hub(Arc<Mutex<Told>>);

impl Hub {
    async fn start(&self) -> String {
        let router = axum::Router::new()
            .route("/internal/events", axum::routing::post(take))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let limits = munjigi_foundation::listen::Limits::default();
        TaskTracker::new().spawn(munjigi_foundation::listen::serve(
            listener,
            router,
            limits,
            CancellationToken::new(),
        ));
        url
    }

    pub fn refuse_for_now(&self, refuse: bool) {
        self.0.lock().unwrap().refuse_for_now = refuse;
    }

    pub fn fence(&self, id: &str) {
        self.0.lock().unwrap().fenced.insert(id.to_owned());
    }

    /// All events of an analysis.
    pub fn events(&self, id: &str) -> Vec<Value> {
        let told = self.0.lock().unwrap();
        told.events
            .iter()
            .filter(|((of, ..), _)| of == id)
            .map(|(_, e)| e.clone())
            .collect()
    }

    pub fn attempt(&self, id: &str, attempt: u64) -> Vec<Value> {
        self.events(id)
            .into_iter()
            .filter(|event| event["attempt"] == attempt)
            .collect()
    }

    /// The last event, once it has `status`.
    pub async fn last(&self, id: &str, status: &str) -> Value {
        let start = Instant::now();
        loop {
            let events = self.events(id);
            match events.last() {
                Some(last) if last["status"] == status => return last.clone(),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            let waited = start.elapsed();
            assert!(
                waited < Duration::from_secs(30),
                "{id} is not {status}: {events:#?}"
            );
        }
    }
}

async fn take(State(hub): State<Hub>, headers: axum::http::HeaderMap, body: Bytes) -> Answer {
    assert_eq!(
        headers["authorization"],
        format!("Bearer {SECRET}").as_str()
    );
    let mut told = hub.0.lock().unwrap();
    if told.refuse_for_now {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let mut stored = BTreeMap::new();
    for line in body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let event: Value = serde_json::from_slice(line).unwrap();
        let id = event["analyzeId"].as_str().unwrap().to_owned();
        if told.fenced.contains(&id) {
            return StatusCode::CONFLICT.into_response();
        }
        let place = (
            id.clone(),
            event["attempt"].as_u64().unwrap(),
            event["seq"].as_u64().unwrap(),
        );
        let last = told
            .events
            .keys()
            .filter(|(of, attempt, _)| *of == id && *attempt == place.1)
            .map(|(_, _, seq)| *seq)
            .max()
            .unwrap_or(2);
        if place.2 == last + 1 {
            told.events.insert(place, event);
            stored.insert(id, last + 1);
        } else {
            stored.insert(id, last);
        }
    }
    Json(json!({"stored": stored})).into_response()
}

/// A folder with a worker's data, and a hub.
#[derive(Debug)]
pub struct Site {
    folder: tempfile::TempDir,
    pub hub: Hub,
    url: String,
}

impl Site {
    pub async fn new() -> Self {
        munjigi_foundation::telemetry::start_log(
            "error,munjigi_worker=warn",
            munjigi_foundation::telemetry::LogFormat::Text,
            false,
        )
        .unwrap();
        let hub = Hub::default();
        let url = hub.start().await;
        Self {
            folder: tempfile::tempdir().unwrap(),
            hub,
            url,
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub async fn start(&self, models: &[ModelSettings]) -> Started {
        self.start_with(models, |_| {}).await
    }

    pub async fn try_start(&self, models: &[ModelSettings]) -> Result<Started, String> {
        self.launch(models, |_| {}).await
    }

    pub async fn start_with(
        &self,
        models: &[ModelSettings],
        change: impl FnOnce(&mut WorkerSettings),
    ) -> Started {
        self.launch(models, change).await.unwrap()
    }

    async fn launch(
        &self,
        models: &[ModelSettings],
        change: impl FnOnce(&mut WorkerSettings),
    ) -> Result<Started, String> {
        let mut settings = WorkerSettings::new(self.path().join("data"));
        settings.models.extend_from_slice(models);
        settings.disk_free_min = 0;
        change(&mut settings);
        let wiring = Wiring {
            cluster_secret: Secret::new(SECRET),
            hub_url: self.url.clone(),
            registry_urls: Vec::new(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_munjigi-worker-child")),
            clock: Clock::system(),
            sockets: Default::default(),
        };
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let worker = Worker::start(settings, wiring, &tasks, shutdown.clone())
            .await
            .map_err(|error| error.to_string())?;
        Ok(Started {
            worker,
            tasks,
            shutdown,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        })
    }

    fn analyses(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.path().join("data/analyses")) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Folders of analyses on the worker's disk.
    pub fn left_over(&self) -> Vec<String> {
        self.analyses()
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    /// Uploaded files on the worker's disk.
    pub fn inputs(&self) -> Vec<String> {
        self.analyses()
            .iter()
            .flat_map(|path| std::fs::read_dir(path.join("input")).into_iter().flatten())
            .map(|entry| entry.unwrap().path().display().to_string())
            .collect()
    }
}

#[derive(Debug)]
pub struct Started {
    worker: Worker,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    client: reqwest::Client,
}

impl Started {
    pub fn address(&self) -> std::net::SocketAddr {
        self.worker.address()
    }

    pub fn server_id(&self) -> String {
        self.worker.server_id().to_string()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(20), self.tasks.wait())
            .await
            .unwrap();
    }

    pub async fn call(&self, method: &str, path: &str) -> Response {
        let url = format!("http://{}{path}", self.address());
        let request = self.client.request(method.parse().unwrap(), url);
        request.bearer_auth(SECRET).send().await.unwrap()
    }

    pub async fn get(&self, query: &str) -> Response {
        self.call("GET", &format!("/analysis?{query}")).await
    }

    pub async fn get_with(&self, query: &str, headers: &[(&str, &str)]) -> Response {
        let url = format!("http://{}/analysis?{query}", self.address());
        let mut request = self.client.get(url).bearer_auth(SECRET);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    pub async fn delete(&self, query: &str) -> Response {
        self.call("DELETE", &format!("/analysis?{query}")).await
    }

    pub async fn until_status(&self, query: &str, status: u16) {
        until(&format!("{query} is {status}"), || async {
            self.get(query).await.status() == status
        })
        .await;
    }

    pub async fn send(&self, query: &str, file: Vec<u8>, headers: &[(&str, &str)]) -> Response {
        let url = format!("http://{}/analysis?{query}", self.address());
        let mut request = self.client.post(url).bearer_auth(SECRET).body(file);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// Sends a file for an attempt whose events begin with `seq` 3.
    pub async fn post(
        &self,
        id: &str,
        attempt: u32,
        model: &str,
        file: impl Into<Vec<u8>>,
    ) -> Response {
        let file = file.into();
        let query = format!(
            "serverId={}&userId=u&eventId=e&analyzeId={id}&attempt={attempt}&seq=3&model={model}&name=my%20file.zip",
            self.server_id()
        );
        let digest = digest(&file);
        self.send(&query, file, &[("repr-digest", &digest)]).await
    }

    /// Streams `bytes` zeros, which are never together in memory.
    pub async fn post_zeros(&self, id: &str, bytes: u64, digest: &str) -> Response {
        let url = format!(
            "http://{}/analysis?userId=u&eventId=e&analyzeId={id}&attempt=1&seq=3&model=source",
            self.address()
        );
        let zeros = tokio_util::io::ReaderStream::new(tokio::io::repeat(0).take(bytes));
        let request = self
            .client
            .post(url)
            .bearer_auth(SECRET)
            .header("repr-digest", digest);
        request
            .body(reqwest::Body::wrap_stream(zeros))
            .send()
            .await
            .unwrap()
    }

    /// Writes a chunked body as it is, and reads the answer unless the connection is to be cut.
    pub async fn raw_post(&self, id: &str, attempt: u32, body: &str, answer: bool) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address())
            .await
            .unwrap();
        let head = format!(
            "POST /analysis?userId=u&eventId=e&analyzeId={id}&attempt={attempt}&seq=3&model=source HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {SECRET}\r\nTransfer-Encoding: chunked\r\nTrailer: Repr-Digest\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut text = String::new();
        if answer {
            stream.read_to_string(&mut text).await.unwrap();
        }
        text
    }
}
