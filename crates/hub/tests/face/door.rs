use std::time::Duration;

use futures_util::{SinkExt, StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::site::{As, Site, cookie, problem};

#[tokio::test]
async fn a_link_signs_in_once() {
    let site = Site::new().await;
    let url = site.hub.sign_in_url(&site.base()).await.unwrap();
    let head = site.http.head(url.expose()).send().await.unwrap();
    assert_eq!(head.status(), 204, "looking does not use it up");
    let first = site.http.get(url.expose()).send().await.unwrap();
    assert_eq!(first.status(), 303);
    assert_eq!(first.headers()["location"], "/");
    assert_eq!(first.headers()["referrer-policy"], "no-referrer");
    assert_eq!(first.headers()["cache-control"], "no-store");
    let set = first.headers()["set-cookie"].to_str().unwrap();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax") && set.contains("Path=/"));
    assert!(!set.contains("Secure"));
    let me: Value = site
        .get(&cookie(&first), "/api/me")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&me["name"], &me["admin"], &me["password"]),
        (&json!("admin"), &json!(true), &json!(false))
    );
    let second = site.http.get(url.expose()).send().await.unwrap();
    assert_eq!(second.headers()["cache-control"], "no-store");
    assert!(
        second.headers().get("munjigi-sign-in").is_none(),
        "a reload is no attack"
    );
    assert_eq!(
        problem(second).await,
        (410.try_into().unwrap(), "spent_link".to_owned())
    );
    let guess = format!("{}/sign-in?token=guess", site.base());
    let third = site.http.get(&guess).send().await.unwrap();
    assert_eq!(third.headers()["munjigi-sign-in"], "failed");
    assert_eq!(problem(third).await.0, 401);
    let page = site
        .http
        .get(&guess)
        .header("accept", "text/html")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            page.status().as_u16(),
            page.headers()["content-type"].to_str().unwrap()
        ),
        (401, "text/html; charset=utf-8")
    );
}

#[tokio::test]
async fn a_link_ends_after_ten_minutes_and_with_a_newer_one() {
    let site = Site::new().await;
    let old = site.hub.sign_in_url(&site.base()).await.unwrap();
    let new = site.hub.sign_in_url(&site.base()).await.unwrap();
    assert_eq!(
        site.http.get(old.expose()).send().await.unwrap().status(),
        401
    );
    site.clock.advance(Duration::from_secs(599));
    assert_eq!(
        site.http.get(new.expose()).send().await.unwrap().status(),
        303
    );
    let late = site.hub.sign_in_url(&site.base()).await.unwrap();
    site.clock.advance(Duration::from_secs(600));
    assert_eq!(
        site.http.get(late.expose()).send().await.unwrap().status(),
        410
    );
}

#[tokio::test]
async fn under_https_the_cookie_is_secure() {
    let site = Site::new().await;
    let url = site.hub.sign_in_url(&site.base()).await.unwrap();
    let response = site
        .http
        .get(url.expose())
        .header("x-forwarded-proto", "https")
        .send()
        .await
        .unwrap();
    assert!(
        response.headers()["set-cookie"]
            .to_str()
            .unwrap()
            .ends_with("; Secure")
    );
}

#[tokio::test]
async fn a_password_is_set_once_freely_then_with_the_current_one() {
    let site = Site::new().await;
    let (here, there) = (site.admin_session().await, site.admin_session().await);
    let put = |who: As, body: Value| {
        let site = &site;
        async move {
            site.send(&who, Method::PUT, "/api/me/password", &body)
                .await
        }
    };
    assert_eq!(
        problem(put(here.clone(), json!({ "password": "short" })).await)
            .await
            .0,
        400
    );
    assert_eq!(
        put(here.clone(), json!({ "password": "correct horse" }))
            .await
            .status(),
        204
    );
    assert_eq!(
        site.get(&here, "/api/me").await.status(),
        200,
        "this session goes on"
    );
    assert_eq!(
        site.get(&there, "/api/me").await.status(),
        401,
        "other sessions end"
    );
    for body in [
        json!({ "password": "another one" }),
        json!({ "current": "wrong", "password": "another one" }),
    ] {
        let refused = put(here.clone(), body).await;
        assert_eq!(refused.headers()["munjigi-sign-in"], "failed");
        assert_eq!(
            problem(refused).await,
            (403.try_into().unwrap(), "wrong_password".to_owned())
        );
    }
    let body = json!({ "current": "correct horse", "password": "battery staple" });
    assert_eq!(put(here.clone(), body).await.status(), 204);
    for (name, password, status) in [
        ("admin", "correct horse", 401),
        ("admin", "battery staple", 204),
        (" admin ", "battery staple", 204),
        ("nobody", "battery staple", 401),
        ("admin", "", 401),
    ] {
        let body = json!({ "name": name, "password": password });
        let response = site
            .send(&As::Nobody, Method::POST, "/api/sign-in", &body)
            .await;
        assert_eq!(response.status(), status, "{name} {password}");
        assert_eq!(
            response.headers().contains_key("munjigi-sign-in"),
            status == 401
        );
    }
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down() {
    let site = Site::new().await;
    let guess = |from: &'static str| {
        let site = &site;
        async move {
            let body = json!({ "name": "admin", "password": "guess guess" });
            site.request(&As::Nobody, Method::POST, "/api/sign-in")
                .header("x-forwarded-for", from)
                .json(&body)
                .send()
                .await
                .unwrap()
        }
    };
    for _ in 0..5 {
        assert_eq!(guess("192.0.2.1").await.status(), 401);
    }
    let waits = guess("192.0.2.1").await;
    assert!(waits.headers().contains_key("retry-after"));
    assert_eq!(
        problem(waits).await,
        (429.try_into().unwrap(), "wait".to_owned())
    );
    assert_eq!(guess("192.0.2.2").await.status(), 401, "others are free");
    site.clock.advance(Duration::from_secs(2));
    assert_eq!(guess("192.0.2.1").await.status(), 401);
}

/// Who × from which page × which method: what the contract says of sign-in, Origin and administrators.
#[tokio::test]
async fn who_may_do_what() {
    let site = Site::new().await;
    let admin = site.admin_session().await;
    let (_, user) = site.user("ann").await;
    let (_, token) = site.token(&user).await;
    let own = site.base();
    let other_port = "http://127.0.0.1:1".to_owned();
    let foreign = "http://evil.test".to_owned();
    let cases: &[(&As, Method, &str, Option<&String>, u16)] = &[
        (&As::Nobody, Method::GET, "/api/me", None, 401),
        (&As::Nobody, Method::POST, "/api/uploads", Some(&own), 401),
        (&As::Nobody, Method::GET, "/api/ws", Some(&own), 401),
        (&As::Nobody, Method::GET, "/api/nothing", None, 401),
        (
            &As::Token("mjg_wrong".to_owned()),
            Method::GET,
            "/api/me",
            None,
            401,
        ),
        (
            &As::Cookie("munjigi_session=wrong".to_owned()),
            Method::GET,
            "/api/me",
            None,
            401,
        ),
        (&user, Method::GET, "/api/me", None, 200),
        (&user, Method::GET, "/api/me", Some(&foreign), 200),
        (&user, Method::POST, "/api/uploads", None, 403),
        (&user, Method::POST, "/api/uploads", Some(&foreign), 403),
        (&user, Method::POST, "/api/uploads", Some(&other_port), 403),
        (
            &user,
            Method::POST,
            "/api/uploads",
            Some(&"null".to_owned()),
            403,
        ),
        (&user, Method::POST, "/api/uploads", Some(&own), 412),
        (&user, Method::GET, "/api/ws", None, 403),
        (&user, Method::GET, "/api/ws", Some(&foreign), 403),
        (&user, Method::GET, "/api/nothing", Some(&own), 404),
        (&token, Method::GET, "/api/me", None, 200),
        (&token, Method::POST, "/api/uploads", None, 412),
        (&token, Method::POST, "/api/uploads", Some(&foreign), 412),
        (&token, Method::POST, "/api/tokens", None, 403),
        (&user, Method::GET, "/api/admin/workers", None, 403),
        (&user, Method::GET, "/api/users", None, 403),
        (&token, Method::GET, "/api/admin/alarms", None, 403),
        (&user, Method::DELETE, "/api/users/x", Some(&own), 403),
        (&admin, Method::GET, "/api/admin/workers", None, 200),
        (&admin, Method::GET, "/api/admin/users", None, 200),
        (&admin, Method::DELETE, "/api/users/x", Some(&own), 404),
        (&admin, Method::DELETE, "/api/users/x", None, 403),
    ];
    for (who, method, path, origin, status) in cases {
        let mut request = site.request(who, method.clone(), path);
        if let Some(origin) = origin {
            request = request.header("origin", *origin);
        }
        let response = request.send().await.unwrap();
        assert_eq!(
            response.status(),
            *status,
            "{who:?} {method} {path} {origin:?}"
        );
        assert!(response.headers().contains_key("content-security-policy"));
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn a_foreign_name_is_421() {
    let site = Site::new().await;
    let port = site.hub.address().port();
    for (host, path, status) in [
        (format!("localhost:{port}"), "/", 200),
        ("munjigi.test".to_owned(), "/", 200),
        ("munjigi.test:1".to_owned(), "/api/health", 200),
        ("[::1]".to_owned(), "/", 200),
        ("evil.test".to_owned(), "/", 421),
        (format!("evil.test:{port}"), "/api/health", 421),
        ("evil.test".to_owned(), "/assets/app.js", 421),
        ("evil.test".to_owned(), "/metrics", 421),
        ("munjigi.test.evil.test".to_owned(), "/", 421),
    ] {
        let response = site
            .request(&As::Nobody, Method::GET, path)
            .header("host", &host)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status, "{host} {path}");
    }
}

#[tokio::test]
async fn tokens_are_shown_once_end_and_are_revoked() {
    let site = Site::new().await;
    let (_, ann) = site.user("ann").await;
    let (_, bob) = site.user("bob").await;
    let (id, token) = site.token(&ann).await;
    let list: Value = site.get(&ann, "/api/tokens").await.json().await.unwrap();
    let As::Token(secret) = &token else {
        unreachable!()
    };
    assert!(!list.to_string().contains(secret.as_str()) && secret.starts_with("mjg_"));
    assert_eq!(
        (
            &list["tokens"][0]["id"],
            &list["tokens"][0]["name"],
            &list["tokens"][0]["expires"]
        ),
        (&json!(id), &json!("t"), &Value::Null)
    );
    assert_eq!(site.get(&token, "/api/me").await.status(), 200);
    let list: Value = site.get(&ann, "/api/tokens").await.json().await.unwrap();
    assert_eq!(list["tokens"][0]["lastUsed"], "2026-11-21T03:05:00.000Z");
    let path = format!("/api/tokens/{id}");
    assert_eq!(
        site.send(&bob, Method::DELETE, &path, &Value::Null)
            .await
            .status(),
        404,
        "foreign is unknown"
    );
    assert_eq!(
        site.send(&ann, Method::DELETE, &path, &Value::Null)
            .await
            .status(),
        204
    );
    assert_eq!(site.get(&token, "/api/me").await.status(), 401);
    let expiring = json!({ "name": "short", "expires": "2026-11-21T03:06:00Z" });
    let made: Value = site
        .send(&ann, Method::POST, "/api/tokens", &expiring)
        .await
        .json()
        .await
        .unwrap();
    let short = As::Token(made["token"].as_str().unwrap().to_owned());
    assert_eq!(site.get(&short, "/api/me").await.status(), 200);
    site.clock.advance(Duration::from_secs(60));
    assert_eq!(site.get(&short, "/api/me").await.status(), 401);
    for bad in [
        json!({ "name": "" }),
        json!({ "name": "x", "expires": "yesterday" }),
        json!({ "name": "x", "expires": "2020-01-01T00:00:00Z" }),
        json!({}),
        json!([]),
    ] {
        assert_eq!(
            site.send(&ann, Method::POST, "/api/tokens", &bad)
                .await
                .status(),
            400,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_session_slides_and_ends() {
    let site = Site::new().await;
    let (used, unused) = (site.admin_session().await, site.admin_session().await);
    for _ in 0..3 {
        site.clock.advance(Duration::from_secs(6 * 86_400));
        assert_eq!(site.get(&used, "/api/me").await.status(), 200);
    }
    assert_eq!(site.get(&unused, "/api/me").await.status(), 401);
    assert_eq!(
        site.send(&used, Method::POST, "/api/sign-out", &Value::Null)
            .await
            .status(),
        204
    );
    assert_eq!(site.get(&used, "/api/me").await.status(), 401);
}

#[tokio::test]
async fn a_removed_user_is_out() {
    let site = Site::new().await;
    let admin = site.admin_session().await;
    let (id, ann) = site.user("ann").await;
    let (_, token) = site.token(&ann).await;
    let sent = [("tus-resumable", "1.0.0"), ("upload-length", "5")];
    let made = sent.iter().fold(
        site.request(&token, Method::POST, "/api/uploads"),
        |request, (name, value)| request.header(*name, *value),
    );
    assert_eq!(made.send().await.unwrap().status(), 201);
    let again = json!({ "name": "ann" });
    assert_eq!(
        problem(site.send(&admin, Method::POST, "/api/users", &again).await)
            .await
            .1,
        "name_taken"
    );
    assert_eq!(
        site.send(
            &admin,
            Method::DELETE,
            &format!("/api/users/{id}"),
            &Value::Null
        )
        .await
        .status(),
        204
    );
    for who in [&ann, &token] {
        assert_eq!(site.get(who, "/api/me").await.status(), 401);
    }
    assert_eq!(
        site.send(&admin, Method::POST, "/api/users", &again)
            .await
            .status(),
        201,
        "the name is free again"
    );
    for _ in 0..500 {
        if std::fs::read_dir(site.uploads()).unwrap().count() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        std::fs::read_dir(site.uploads()).unwrap().count(),
        0,
        "what was theirs is gone"
    );
    let me: Value = site.get(&admin, "/api/me").await.json().await.unwrap();
    let own = format!("/api/users/{}", me["userId"].as_str().unwrap());
    assert_eq!(
        problem(site.send(&admin, Method::DELETE, &own, &Value::Null).await)
            .await
            .1,
        "first_user"
    );
}

#[tokio::test]
async fn users_survive_a_restart_and_a_second_hub_is_refused() {
    let site = Site::new().await;
    let (_, ann) = site.user("ann").await;
    let error = site.second().await.unwrap_err().to_string();
    assert!(error.contains("another hub"), "{error}");
    let site = site.again().await;
    let me: Value = site.get(&ann, "/api/me").await.json().await.unwrap();
    assert_eq!(me["name"], "ann");
}

/// What a page is told when it wants a socket.
async fn refused(site: &Site, who: &As) -> u16 {
    let request = handshake(site, who);
    match tokio_tungstenite::connect_async(request).await {
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let problem: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem["code"], "too_many_sockets");
            assert!(response.headers().contains_key("retry-after"));
            response.status().as_u16()
        }
        other => unreachable!("{other:?}"),
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

fn handshake(site: &Site, who: &As) -> http::Request<()> {
    let mut request = format!("ws://{}/api/ws", site.hub.address())
        .into_client_request()
        .unwrap();
    let (name, value) = match who {
        As::Token(token) => ("authorization", format!("Bearer {token}")),
        As::Cookie(cookie) => ("cookie", cookie.clone()),
        As::Nobody => unreachable!(),
    };
    let headers = request.headers_mut();
    headers.insert(name, value.parse().unwrap());
    headers.insert("origin", site.base().parse().unwrap());
    request
}

/// A WebSocket as a page opens it.
async fn socket(site: &Site, who: &As) -> Socket {
    let request = handshake(site, who);
    tokio_tungstenite::connect_async(request).await.unwrap().0
}

/// The code with which the hub closes a socket.
async fn closed(mut socket: Socket) -> u16 {
    while let Some(message) = socket.next().await {
        if let Message::Close(Some(frame)) = message.unwrap() {
            return frame.code.into();
        }
    }
    0
}

#[tokio::test]
async fn whoever_is_out_loses_their_sockets() {
    let site = Site::new().await;
    let admin = site.admin_session().await;
    let (id, ann) = site.user("ann").await;
    let (token_id, token) = site.token(&ann).await;
    let (_, kept) = site.token(&ann).await;
    let by_token = socket(&site, &token).await;
    let path = format!("/api/tokens/{token_id}");
    site.send(&ann, Method::DELETE, &path, &Value::Null).await;
    assert_eq!(closed(by_token).await, 4401, "a revoked token");

    let by_session = socket(&site, &ann).await;
    let password = json!({ "password": "a new password" });
    site.send(&kept, Method::PUT, "/api/me/password", &password)
        .await;
    assert_eq!(closed(by_session).await, 4401, "a password set elsewhere");

    let signed_out = socket(&site, &admin).await;
    let second = site.admin_session().await;
    site.send(&admin, Method::POST, "/api/sign-out", &Value::Null)
        .await;
    assert_eq!(closed(signed_out).await, 4401, "signed out");

    let removed = socket(&site, &kept).await;
    let path = format!("/api/users/{id}");
    site.send(&second, Method::DELETE, &path, &Value::Null)
        .await;
    assert_eq!(closed(removed).await, 4401, "a removed user");
}

#[tokio::test]
async fn a_hub_that_stops_tells_every_socket_even_one_that_does_not_read() {
    let site = Site::new().await;
    let admin = site.admin().await;
    let mut busy = socket(&site, &admin).await;
    let quiet = socket(&site, &admin).await;
    // Answers that nobody reads fill what lies between, until the hub can't send.
    let mut stuck = socket(&site, &admin).await;
    for _ in 0..1_000 {
        let mut nonsense = stream::iter((0..100).map(|_| Ok(Message::text("nonsense"))));
        let sent = stuck.send_all(&mut nonsense);
        let waited = tokio::time::timeout(Duration::from_millis(500), sent);
        if waited.await.is_err() {
            break;
        }
    }
    busy.send(Message::text("nonsense")).await.unwrap();
    let (stopped, quiet, busy) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(15), site.stop()),
        closed(quiet),
        closed(busy)
    );
    assert_eq!((quiet, busy), (1001, 1001));
    stopped.expect("the hub waits for nobody who does not read");
}

#[tokio::test]
async fn a_user_holds_so_many_live_sockets_and_no_more() {
    let site = Site::with(|settings| settings.jobs.sockets = 2).await;
    let admin = site.admin().await;
    let (_, ann) = site.user("ann").await;
    let first = socket(&site, &admin).await;
    let _second = socket(&site, &admin).await;
    assert_eq!(refused(&site, &admin).await, 429);
    let stream = site.get(&admin, "/api/jobs/x/events").await;
    assert_eq!(problem(stream).await.1, "too_many_sockets");
    // Another's are their own, and what is closed is given back.
    let _other = socket(&site, &ann).await;
    drop(first);
    let metrics = async || {
        site.get(&As::Nobody, "/metrics")
            .await
            .text()
            .await
            .unwrap()
    };
    while !metrics().await.contains("\nmunjigi_hub_sockets 2\n") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _again = socket(&site, &admin).await;
    assert_eq!(refused(&site, &admin).await, 429);
}
