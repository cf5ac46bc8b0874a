//! The protocol over real sockets, as clients speak it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::time::Duration;

use flate2::read::GzDecoder;
use munjigi_eureka::{Client, Instance, Registration, Renewal};
use munjigi_foundation::clock::Clock;
use munjigi_foundation::settings::Secret;
use munjigi_registry::settings::RegistrySettings;
use munjigi_registry::{Kept, Registry};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

struct Site {
    registry: Registry,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    http: reqwest::Client,
}

fn site(kept: Option<Kept>) -> Site {
    site_with(kept, |_| {})
}

fn site_with(kept: Option<Kept>, change: impl FnOnce(&mut RegistrySettings)) -> Site {
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let mut settings = RegistrySettings::at("127.0.0.1:0".parse().unwrap());
    change(&mut settings);
    let registry = Registry::start(settings, kept, Clock::system(), &tasks, &shutdown).unwrap();
    Site {
        registry,
        tasks,
        shutdown,
        http: reqwest::Client::new(),
    }
}

impl Site {
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.registry.url()));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn client(&self, cluster: Option<&str>) -> Client {
        let urls = [Secret::new(&self.registry.url())];
        Client::new(self.http.clone(), &urls, cluster.map(Secret::new)).unwrap()
    }
}

fn instance(id: &str) -> Value {
    json!({"instance": {
        "instanceId": id, "hostName": "m143", "app": "MODEL-SERVER", "ipAddr": "10.0.0.3", "status": "UP",
        "port": {"$": 8000, "@enabled": "true"}, "vipAddress": "model,other",
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
        "metadata": {"serverId": "143"},
    }})
}

#[tokio::test]
async fn an_instance_lives_its_life() {
    let site = site(None);
    let id = "m143%3Amodel%3A8000";
    let (status, _) = site
        .ask(Method::PUT, &format!("/apps/MODEL-SERVER/{id}"), None)
        .await;
    assert_eq!(status, 404, "register first");
    let (status, _) = site
        .ask(
            Method::POST,
            "/apps/model-server",
            Some(instance("m143:model:8000")),
        )
        .await;
    assert_eq!(status, 204);
    for path in ["/apps", "/apps/", "/v2/apps/", "/apps/delta"] {
        let (status, all) = site.ask(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}");
        assert_eq!(all["applications"]["apps__hashcode"], "UP_1_", "{path}");
        let found = &all["applications"]["application"][0]["instance"][0];
        assert_eq!(found["metadata"]["serverId"], "143", "{path}");
    }
    let (status, one) = site
        .ask(Method::GET, &format!("/apps/MODEL-SERVER/{id}"), None)
        .await;
    assert_eq!(
        (status.as_u16(), &one["instance"]["port"]["$"]),
        (200, &json!(8000))
    );
    let (_, vip) = site.ask(Method::GET, "/vips/other", None).await;
    assert_eq!(
        vip["applications"]["application"][0]["name"],
        "MODEL-SERVER"
    );
    let (status, vip) = site.ask(Method::GET, "/vips/nobody", None).await;
    assert_eq!(
        (status.as_u16(), &vip["applications"]["application"]),
        (200, &json!([]))
    );
}

#[tokio::test]
async fn operators_change_an_instance() {
    let site = site(None);
    let registration = Some(instance("m143:model:8000"));
    site.ask(Method::POST, "/apps/model-server", registration)
        .await;
    let path = "/apps/MODEL-SERVER/m143%3Amodel%3A8000";
    assert_eq!(
        site.ask(Method::PUT, &format!("{path}/metadata?a=b"), None)
            .await
            .0,
        200
    );
    assert_eq!(
        site.ask(
            Method::PUT,
            &format!("{path}/status?value=OUT_OF_SERVICE"),
            None
        )
        .await
        .0,
        200
    );
    assert_eq!(
        site.ask(Method::PUT, &format!("{path}/status?value=FINE"), None)
            .await
            .0,
        400
    );
    let (_, app) = site.ask(Method::GET, "/apps/model-server", None).await;
    let shown = &app["application"]["instance"][0];
    assert_eq!(
        (&shown["status"], &shown["metadata"]["a"]),
        (&json!("OUT_OF_SERVICE"), &json!("b"))
    );
    assert_eq!(
        site.ask(Method::DELETE, &format!("{path}/status?value=UP"), None)
            .await
            .0,
        200
    );
    assert_eq!(
        site.ask(Method::PUT, &format!("{path}/"), None).await.0,
        200
    );
    assert_eq!(site.ask(Method::DELETE, path, None).await.0, 200);
    assert_eq!(site.ask(Method::DELETE, path, None).await.0, 404);
    assert_eq!(
        site.ask(Method::GET, "/apps/MODEL-SERVER", None).await.0,
        404
    );
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let site = site(None);
    let (status, problem) = site
        .ask(Method::POST, "/apps/OTHER", Some(instance("a")))
        .await;
    assert_eq!(status, 400);
    assert_eq!(
        problem["detail"],
        "Mismatched appName, expecting OTHER but was MODEL-SERVER"
    );
    let (status, problem) = site
        .ask(Method::POST, "/apps/OTHER", Some(json!({"instance": {}})))
        .await;
    assert_eq!(
        (status.as_u16(), problem["detail"].as_str().unwrap()),
        (400, "Missing hostname")
    );
    let large = json!({"instance": {"hostName": "x".repeat(300_000)}});
    assert_eq!(
        site.ask(Method::POST, "/apps/OTHER", Some(large)).await.0,
        413
    );
    assert_eq!(site.ask(Method::GET, "/nothing", None).await.0, 404);
}

#[tokio::test]
async fn pages_can_not_reach_it() {
    let site = site(None);
    let url = format!("{}/apps/MODEL-SERVER", site.registry.url());
    let from_page = site
        .http
        .post(&url)
        .header("origin", "http://evil.example")
        .json(&instance("a"));
    assert_eq!(from_page.send().await.unwrap().status(), 403);
    let rebound = site.http.get(&url).header("host", "evil.example");
    assert_eq!(rebound.send().await.unwrap().status(), 421);
}

#[tokio::test]
async fn kept_names_need_the_secret() {
    let kept = Kept {
        secret: Secret::new("the-secret-of-all"),
        services: vec!["MODEL-SERVER".to_owned()],
    };
    let site = site(Some(kept));
    let (status, problem) = site
        .ask(Method::POST, "/apps/MODEL-SERVER", Some(instance("a")))
        .await;
    assert_eq!(
        (status.as_u16(), problem["code"].as_str().unwrap()),
        (403, "cluster_secret_needed")
    );
    let mine = Instance::new("model-server", "a", "10.0.0.3", 8000);
    assert!(site.client(Some("another")).register(&mine).await.is_err());
    let client = site.client(Some("the-secret-of-all"));
    client.register(&mine).await.unwrap();
    assert_eq!(
        site.ask(Method::DELETE, "/apps/MODEL-SERVER/a", None)
            .await
            .0,
        403
    );
    assert_eq!(client.renew(&mine).await.unwrap(), Renewal::Renewed);
    let other = Instance::new("other", "b", "10.0.0.4", 80);
    site.client(None).register(&other).await.unwrap();
    client.cancel("MODEL-SERVER", "a").await.unwrap();
    assert_eq!(client.fetch().await.unwrap().applications.len(), 1);
}

#[tokio::test]
async fn a_registration_is_kept_changed_and_taken_out() {
    let site = site(None);
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let mut mine = Instance::new("model-server", "a", "10.0.0.3", 8000);
    mine.lease.renewal_interval_secs = 1;
    mine.lease.duration_secs = 2;
    let mut changes = site.registry.changes();
    let kept = Registration::start(
        site.client(None),
        mine,
        Clock::system(),
        &tasks,
        shutdown.clone(),
    );
    changes.changed().await.unwrap();
    assert_eq!(site.registry.instances("MODEL-SERVER").len(), 1);
    kept.change_metadata(|metadata| drop(metadata.insert("capacity".to_owned(), "1".to_owned())));
    changes.changed().await.unwrap();
    let found = site.registry.instances("model-server");
    assert_eq!(found[0].metadata["capacity"], "1");
    // It outlives its lease by renewals, and is back when the registry forgets it.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(site.registry.instances("MODEL-SERVER").len(), 1);
    site.client(None).cancel("MODEL-SERVER", "a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(site.registry.instances("MODEL-SERVER").len(), 1);
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    assert!(site.registry.instances("MODEL-SERVER").is_empty());
    site.shutdown.cancel();
    site.tasks.close();
    site.tasks.wait().await;
}

#[tokio::test]
async fn a_silent_instance_is_out_when_its_lease_ends() {
    let site = site(None);
    let mut mine = Instance::new("model-server", "a", "10.0.0.3", 8000);
    mine.lease.duration_secs = 1;
    site.client(None).register(&mine).await.unwrap();
    let mut changes = site.registry.changes();
    let out = tokio::time::timeout(Duration::from_secs(3), async {
        while !site.registry.instances("MODEL-SERVER").is_empty() {
            changes.changed().await.unwrap();
        }
    });
    out.await.expect("at most 2 s after the lease ended");
}

/// Asks for `path` with header fields: the answer's status, its fields, its bytes as sent.
async fn raw(site: &Site, path: &str, fields: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = site.http.get(format!("{}{path}", site.registry.url()));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, response.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn answers_are_packed_and_tagged_until_something_changes() {
    let site = site(None);
    let register = async |id| {
        let registration = Some(instance(id));
        site.ask(Method::POST, "/apps/model-server", registration)
            .await
    };
    register("a").await;
    for path in ["/apps", "/apps/delta", "/apps/model-server", "/vips/model"] {
        let (_, plain_fields, plain) = raw(&site, path, &[]).await;
        assert!(!plain_fields.contains_key("content-encoding"), "{path}");
        assert_eq!(plain_fields["vary"], "accept-encoding");
        let (status, fields, packed) = raw(&site, path, &[("accept-encoding", "gzip")]).await;
        assert_eq!(
            (status, &fields["content-encoding"], &fields["content-type"]),
            (200, &"gzip".parse().unwrap(), &plain_fields["content-type"]),
            "{path}"
        );
        let mut unpacked = Vec::new();
        GzDecoder::new(packed.as_slice())
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, plain, "{path}");

        let tag = fields["etag"].to_str().unwrap();
        for known in [tag, "*", &format!("\"other\", {tag}")] {
            let (status, fields, body) = raw(&site, path, &[("if-none-match", known)]).await;
            assert_eq!((status, body.len()), (304, 0), "{path} {known}");
            assert_eq!(fields["etag"], tag);
        }
        let other = raw(&site, path, &[("if-none-match", "\"other\"")]).await;
        assert_eq!(other.0, 200);
        // A renewal is no change; a registration is.
        let renewed = site.ask(Method::PUT, "/apps/MODEL-SERVER/a", None).await;
        assert_eq!(renewed.0, 200);
        let (status, ..) = raw(&site, path, &[("if-none-match", tag)]).await;
        assert_eq!(status, 304, "{path}");
        register("b").await;
        let (status, fields, body) = raw(&site, path, &[("if-none-match", tag)]).await;
        assert_eq!(status, 200, "{path}");
        assert_ne!(fields["etag"], tag);
        let all: Value = serde_json::from_slice(&body).unwrap();
        assert!(all.to_string().contains("\"instanceId\":\"b\""), "{path}");
        site.ask(Method::DELETE, "/apps/MODEL-SERVER/b", None).await;
    }
    let (status, ..) = raw(&site, "/apps/nobody", &[("if-none-match", "*")]).await;
    assert_eq!(status, 404, "what is not there has no state");
}

#[tokio::test]
async fn a_registry_that_started_again_has_other_tags() {
    let (one, two) = (site(None), site(None));
    let tag = async |site| raw(site, "/apps", &[]).await.1["etag"].clone();
    assert_ne!(tag(&one).await, tag(&two).await);
}

#[tokio::test]
async fn metadata_has_a_limit_in_bytes_and_a_body_one_in_time() {
    let site = site_with(None, |settings| {
        settings.limits.metadata_bytes = 100;
        settings.body_time = Duration::from_millis(200);
    });
    let mut large = instance("a");
    large["instance"]["metadata"]["more"] = json!("x".repeat(100));
    let (status, problem) = site
        .ask(Method::POST, "/apps/model-server", Some(large))
        .await;
    assert_eq!(
        (status.as_u16(), problem["code"].as_str().unwrap()),
        (400, "too_much_metadata")
    );
    let registration = Some(instance("a"));
    site.ask(Method::POST, "/apps/model-server", registration)
        .await;
    let path = format!("/apps/MODEL-SERVER/a/metadata?more={}", "x".repeat(100));
    assert_eq!(site.ask(Method::PUT, &path, None).await.0, 400);

    let mut stream = TcpStream::connect(site.registry.address()).await.unwrap();
    let head =
        "POST /eureka/apps/MODEL-SERVER HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // The connection ends with the answer: what is left of the body is nobody's.
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"),
        "{answer}"
    );
}
