//! A hub of its own for each test, on a port of its own.

use std::path::Path;
use std::time::Duration;

use munjigi_foundation::clock::{Clock, Timestamp};
use munjigi_foundation::settings::Secret;
use munjigi_hub::settings::HubSettings;
use munjigi_hub::{GateAdmin, Hub, StartError, Wiring};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) hub: Hub,
    pub(crate) clock: Clock,
    pub(crate) http: Client,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// How a request is signed in.
#[derive(Clone, Debug)]
pub(crate) enum As {
    Nobody,
    Token(String),
    Cookie(String),
}

pub(crate) fn settings(data: &Path) -> HubSettings {
    HubSettings::embedded(data.to_path_buf())
}

async fn start(
    settings: HubSettings,
    gate_admin: Vec<GateAdmin>,
    clock: Clock,
    (tasks, shutdown): (&TaskTracker, &CancellationToken),
) -> Result<Hub, StartError> {
    let wiring = Wiring {
        cluster_secret: Secret::new("a secret of the cluster"),
        gate_inner_url: "http://127.0.0.1:9".to_owned(),
        gate_admin,
        // Nobody listens on the discard port: a registry that is down.
        registry_urls: vec![Secret::new("http://127.0.0.1:9/eureka")],
        public_url: Some("https://munjigi.test".to_owned()),
        clock,
        sockets: Default::default(),
    };
    Hub::start(settings, wiring, tasks, shutdown.clone()).await
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A hub whose settings were changed.
    pub(crate) async fn with(change: impl FnOnce(&mut HubSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(&dir.path().join("hub"));
        change(&mut settings);
        Self::on(dir, settings).await
    }

    /// A hub that knows these gates.
    pub(crate) async fn beside(gates: Vec<GateAdmin>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir.path().join("hub"));
        Self::made(dir, settings, gates).await
    }

    pub(crate) async fn on(dir: tempfile::TempDir, settings: HubSettings) -> Self {
        Self::made(dir, settings, Vec::new()).await
    }

    async fn made(dir: tempfile::TempDir, settings: HubSettings, gates: Vec<GateAdmin>) -> Self {
        let clock = Clock::manual(Timestamp::parse("2026-11-21T03:05:00Z").unwrap());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let hub = start(settings, gates, clock.clone(), (&tasks, &shutdown))
            .await
            .unwrap();
        Self {
            dir,
            hub,
            clock,
            http: Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .timeout(Duration::from_secs(20))
                .build()
                .unwrap(),
            tasks,
            shutdown,
        }
    }

    /// Ends the hub and starts it again on the same data.
    pub(crate) async fn again(mut self) -> Self {
        let address = self.hub.address();
        self.stop().await;
        (self.tasks, self.shutdown) = (TaskTracker::new(), CancellationToken::new());
        self.hub = self.second().await.unwrap();
        assert_eq!(self.hub.address(), address, "the port is kept");
        self
    }

    /// Ends the hub; returns once all of it has.
    pub(crate) async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A second hub on the same data.
    pub(crate) async fn second(&self) -> Result<Hub, StartError> {
        let settings = settings(&self.dir.path().join("hub"));
        let life = (&self.tasks, &self.shutdown);
        start(settings, Vec::new(), self.clock.clone(), life).await
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.hub.address())
    }

    pub(crate) fn uploads(&self) -> std::path::PathBuf {
        self.dir.path().join("hub/uploads")
    }

    pub(crate) fn request(&self, who: &As, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base()));
        match who {
            As::Nobody => request,
            As::Token(token) => request.bearer_auth(token),
            As::Cookie(cookie) => request.header("cookie", cookie),
        }
    }

    pub(crate) async fn get(&self, who: &As, path: &str) -> Response {
        self.request(who, Method::GET, path).send().await.unwrap()
    }

    /// A JSON request as a page of ours sends it.
    pub(crate) async fn send(
        &self,
        who: &As,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Response {
        self.request(who, method, path)
            .header("origin", self.base())
            .json(body)
            .send()
            .await
            .unwrap()
    }

    /// The first user, by token.
    pub(crate) async fn admin(&self) -> As {
        As::Token(self.hub.cli_token().await.unwrap().expose().to_owned())
    }

    /// The first user, by a link.
    pub(crate) async fn admin_session(&self) -> As {
        let url = self.hub.sign_in_url(&self.base()).await.unwrap();
        self.follow(url.expose()).await
    }

    /// Signs in by a link.
    pub(crate) async fn follow(&self, url: &str) -> As {
        let response = self.http.get(url).send().await.unwrap();
        assert_eq!(response.status(), 303);
        cookie(&response)
    }

    /// Somebody else, with a session.
    pub(crate) async fn user(&self, name: &str) -> (String, As) {
        let admin = self.admin().await;
        let made = self
            .send(&admin, Method::POST, "/api/users", &json!({ "name": name }))
            .await;
        assert_eq!(made.status(), 201);
        let made: Value = made.json().await.unwrap();
        let session = self.follow(made["signIn"].as_str().unwrap()).await;
        (made["userId"].as_str().unwrap().to_owned(), session)
    }

    /// A token made by `who`, which is a session.
    pub(crate) async fn token(&self, who: &As) -> (String, As) {
        let made = self
            .send(who, Method::POST, "/api/tokens", &json!({ "name": "t" }))
            .await;
        assert_eq!(made.status(), 201);
        let made: Value = made.json().await.unwrap();
        let token = made["token"].as_str().unwrap().to_owned();
        (made["id"].as_str().unwrap().to_owned(), As::Token(token))
    }
}

pub(crate) fn cookie(response: &Response) -> As {
    let set = response.headers()["set-cookie"].to_str().unwrap();
    As::Cookie(set.split(';').next().unwrap().to_owned())
}

/// The stable code of a problem document, with its status.
pub(crate) async fn problem(response: Response) -> (StatusCode, String) {
    let status = response.status();
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status.as_u16());
    (status, body["code"].as_str().unwrap().to_owned())
}
