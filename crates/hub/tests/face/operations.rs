use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use munjigi_foundation::settings::Secret;
use munjigi_hub::GateAdmin;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::site::{As, Site, problem};

#[tokio::test]
async fn metrics_are_for_this_machine_or_an_administrators_token() {
    let site = Site::new().await;
    let direct = site.get(&As::Nobody, "/metrics").await;
    assert_eq!(direct.status(), 200);
    let text = direct.text().await.unwrap();
    assert!(
        text.contains("# TYPE munjigi_hub_uploads gauge\nmunjigi_hub_uploads 0\n"),
        "{text}"
    );
    let (_, ann) = site.user("ann").await;
    let (_, token) = site.token(&ann).await;
    for header in ["x-forwarded-for", "forwarded"] {
        for (who, status) in [
            (&As::Nobody, 401),
            (&token, 401),
            (&site.admin().await, 200),
        ] {
            let request = site
                .request(who, Method::GET, "/metrics")
                .header(header, "for=192.0.2.1");
            assert_eq!(
                request.send().await.unwrap().status(),
                status,
                "{header} {who:?}"
            );
        }
    }
}

#[tokio::test]
async fn without_a_registry_it_is_healthy_and_not_ready() {
    let site = Site::new().await;
    assert_eq!(site.get(&As::Nobody, "/api/health").await.status(), 200);
    let ready = site.get(&As::Nobody, "/ready").await;
    assert_eq!(ready.status(), 503);
    let ready: Value = ready.json().await.unwrap();
    assert_eq!(
        (&ready["database"], &ready["registry"]),
        (&Value::Bool(true), &Value::Bool(false))
    );
    let alarms: Value = site
        .get(&site.admin().await, "/api/admin/alarms")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(alarms["alarms"][0]["code"], "registry_down");
    let registries: Value = site
        .get(&site.admin().await, "/api/admin/registry")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(registries["registries"][0]["ok"], false);
}

/// An admin face that tells what it was asked, and by what token.
async fn telling() -> (String, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let asked = head.lines().next().unwrap();
            let token = head
                .lines()
                .find(|line| line.starts_with("authorization"))
                .unwrap_or("");
            let body = json!({ "asked": asked, "token": token, "services": [] }).to_string();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, tasks)
}

#[tokio::test]
async fn what_guards_the_gates_is_asked_of_each_and_one_that_is_gone_says_so() {
    let (url, _tasks) = telling().await;
    let token = Some(Secret::new("a token of the gate"));
    let there = GateAdmin::Url {
        url: url.clone(),
        token,
    };
    // Nobody listens on the discard port.
    let gone = GateAdmin::Url {
        url: "http://127.0.0.1:9".to_owned(),
        token: None,
    };
    let site = Site::beside(vec![there, gone]).await;
    let admin = site.admin().await;
    for (path, asked) in [
        ("/api/admin/security", "GET /security HTTP/1.1"),
        ("/api/admin/refusals", "GET /refusals HTTP/1.1"),
        (
            "/api/admin/refusals?reason=denied_path&client=203.0.113.7&path=%2Fa%20b%26&since=15m&limit=5",
            "GET /refusals?reason=denied_path&client=203.0.113.7&path=%2Fa+b%26&since=15m&limit=5 HTTP/1.1",
        ),
    ] {
        let response = site.get(&admin, path).await;
        assert_eq!(response.status(), 200, "{path}");
        let answer: Value = response.json().await.unwrap();
        let (first, second) = (&answer["gates"][0], &answer["gates"][1]);
        assert_eq!(
            (&first["ok"], &first["asked"]),
            (&json!(true), &json!(asked))
        );
        assert_eq!(first["url"], url);
        assert_eq!(first["token"], "authorization: Bearer a token of the gate");
        assert_eq!(second["ok"], false);
        assert!(
            second["error"]
                .as_str()
                .unwrap()
                .contains("can't be reached")
        );
    }
}

#[tokio::test]
async fn who_was_turned_away_is_for_administrators() {
    let site = Site::new().await;
    let admin = site.admin().await;
    let (_, ann) = site.user("ann").await;
    let (_, token) = site.token(&ann).await;
    for (who, path, status) in [
        (&As::Nobody, "/api/admin/security", 401),
        (&ann, "/api/admin/security", 403),
        (&ann, "/api/admin/refusals", 403),
        (&token, "/api/admin/refusals", 403),
        (&admin, "/api/admin/security", 200),
        (&admin, "/api/admin/refusals?path=x", 200),
        (&admin, "/api/admin/refusals?what=x", 400),
    ] {
        assert_eq!(site.get(who, path).await.status(), status, "{path} {who:?}");
    }
}

/// Each path of the document takes exactly the methods that the document names. That each path of the router is in the
/// document, `hub.rs` tests.
#[tokio::test]
async fn the_description_is_the_router() {
    let site = Site::new().await;
    let admin = site.admin().await;
    let document: Value = site
        .get(&As::Nobody, "/api/openapi.json")
        .await
        .json()
        .await
        .unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase());
        described.insert(path.clone(), methods.collect());
    }
    for (path, methods) in &described {
        let real = path.replace(['{', '}'], "");
        let response = site
            .request(&admin, Method::from_bytes(b"PROPFIND").unwrap(), &real)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 405, "{path} is described and not there");
        let allow = response.headers()["allow"].to_str().unwrap();
        let mut taken: BTreeSet<String> = allow
            .split(',')
            .map(|method| method.trim().to_owned())
            .collect();
        // GET brings HEAD; where HEAD means more it is described.
        if taken.contains("GET") && !methods.contains("HEAD") {
            taken.remove("HEAD");
        }
        assert_eq!(&taken, methods, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_owes_its_body_is_answered() {
    let site = Site::with(|settings| settings.limits.request = Duration::from_millis(200)).await;
    let mut stream = TcpStream::connect(site.hub.address()).await.unwrap();
    let head = "POST /api/sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"),
        "{answer}"
    );
}

#[tokio::test]
async fn pages_come_with_their_policy_and_are_cached_by_content() {
    let site = Site::new().await;
    for page in [
        "/",
        "/jobs",
        "/jobs/x",
        "/jobs/x/findings",
        "/status",
        "/security",
        "/settings",
        "/uploads",
        "/sign-in",
    ] {
        let response = site.get(&As::Nobody, page).await;
        assert_eq!(response.status(), 200, "{page}");
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'")
                && policy.contains("frame-ancestors 'none'")
        );
        assert!(!policy.contains("unsafe"));
        let etag = response.headers()["etag"].clone();
        let again = site
            .request(&As::Nobody, Method::GET, page)
            .header("if-none-match", etag)
            .send()
            .await
            .unwrap();
        assert_eq!(again.status(), 304, "{page}");
    }
    let shell = site.get(&As::Nobody, "/").await.text().await.unwrap();
    let assets: Vec<&str> = shell
        .split('"')
        .filter(|part| part.starts_with("/assets/"))
        .collect();
    assert!(!assets.is_empty());
    for asset in assets {
        let response = site.get(&As::Nobody, asset).await;
        assert_eq!(response.status(), 200, "{asset}");
        assert!(
            response.headers()["cache-control"]
                .to_str()
                .unwrap()
                .contains("immutable"),
            "{asset}"
        );
        let plain = asset
            .replacen(asset.split('/').nth(2).unwrap(), "", 1)
            .replace("//", "/");
        let response = site.get(&As::Nobody, &plain).await;
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["cache-control"].to_str().unwrap()
            ),
            (200, "no-cache"),
            "{plain}"
        );
    }
    // As sent, and as a client sends it that takes `..` for its own.
    for outside in [
        "/assets/%2e%2e/Cargo.toml",
        "/assets/..%2fCargo.toml",
        "/Cargo.toml",
    ] {
        let response = site.get(&As::Nobody, outside).await;
        assert_eq!(response.status(), 404, "{outside}");
        assert!(!response.text().await.unwrap().contains("[workspace]"));
    }
}

#[tokio::test]
async fn an_unknown_address_is_a_page_for_readers_and_a_problem_for_programs() {
    let site = Site::new().await;
    let ask = |path: &'static str, accept: &'static str| {
        let request = site.request(&As::Nobody, Method::GET, path);
        request.header("accept", accept).send()
    };
    let page = ask("/nothing", "text/html,application/xhtml+xml,*/*;q=0.8").await;
    let page = page.unwrap();
    assert_eq!(page.status(), 404);
    assert!(page.headers().contains_key("content-security-policy"));
    // What the browser has of the document does not make the address known.
    let etag = page.headers()["etag"].clone();
    let shell = site.get(&As::Nobody, "/").await.text().await.unwrap();
    assert_eq!(page.text().await.unwrap(), shell);
    let again = site
        .request(&As::Nobody, Method::GET, "/nothing")
        .header("if-none-match", etag);
    assert_eq!(again.send().await.unwrap().status(), 404);
    for (path, accept) in [
        ("/nothing", "application/json"),
        ("/internal/nothing", "text/html"),
        ("/assets/nothing", "text/html"),
    ] {
        let (status, code) = problem(ask(path, accept).await.unwrap()).await;
        let expected = match path {
            "/assets/nothing" => "not_found",
            _ => "no_route",
        };
        assert_eq!((status.as_u16(), code.as_str()), (404, expected), "{path}");
    }
    let (admin, path) = (site.admin().await, "/api/nothing");
    let unknown = site
        .request(&admin, Method::GET, path)
        .header("accept", "text/html");
    assert_eq!(problem(unknown.send().await.unwrap()).await.1, "no_route");
}
