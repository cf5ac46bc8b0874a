//! Answers of the gate's own: redirects, fixed answers, error pages, and the hub's word on
//! sign-ins.

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_lead_where_the_operator_says_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
path = \"/old\"
redirect = { status = 301, location = \"https://new.example{rest}{query}\" }
[[gate.route]]
path = \"/self\"
redirect = { location = \"{rest}{query}\" }
[[gate.route]]
path = \"/as/{id}\"
redirect = { location = \"{rest}{id}\" }
[[gate.route]]
path = \"/same\"
redirect = { location = \"{path}/\" }
[[gate.route]]
path = \"/tenant/{id}\"
redirect = { status = 302, location = \"/t?id={id}\" }
[[gate.route]]
path = \"/\"
redirect = { status = 307, location = \"https://{host}{path}{query}\" }
";
    let gate = start(written(folder.path(), &[], text)).await;
    let check = async |asked: &str, code: u16, expected: &str| {
        let request = format!("GET {asked} HTTP/1.1\r\nHost: App.Example:8080\r\n\r\n");
        let (head, body) = ask(&gate, &request).await;
        assert_eq!((status(&head), body.len()), (code, 0), "{asked}");
        assert_eq!(header(&head, "location"), Some(expected), "{asked}");
        assert_eq!(head.matches("\r\n").count(), head.matches('\n').count());
        assert!(!head.contains("\r\nSet-Cookie"), "{head}");
    };
    check("/old/a%20b?c=d", 301, "https://new.example/a%20b?c=d").await;
    check("/old", 301, "https://new.example").await;
    check("/self//evil.example/x", 308, "/evil.example/x").await;
    check("/self/%5C%5Cevil.example", 308, "/%5C%5Cevil.example").await;
    check("/self", 308, "/").await;
    check("/self?x", 308, "/?x").await;
    check("/as/https:evil.example", 308, "/https:evil.example").await;
    check("/same/x", 308, "/same/x/").await;
    check(
        "/tenant/a%0d%0aSet-Cookie:%20x",
        302,
        "/t?id=a%0D%0ASet-Cookie:%20x",
    )
    .await;
    check("/x?y", 307, "https://app.example/x?y").await;
    // Nothing of the request is left on the connection.
    let mut client = client(&gate).await;
    for _ in 0..3 {
        client.send("GET /x HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&client.response().await.0), 307);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fixed_answers_keep_to_the_rules_of_http() {
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
path = \"/\"
respond = { body = \"hello\" }
[[gate.route]]
path = \"/none\"
respond = { status = 204 }
";
    let gate = start(written(folder.path(), &[], text)).await;
    let mut client = client(&gate).await;
    client.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!(
        (status(&head), header(&head, "content-length")),
        (200, Some("5"))
    );
    assert!(header(&head, "date").is_some());
    let head = client.head().await.unwrap();
    assert_eq!(
        (status(&head), header(&head, "content-length")),
        (204, None)
    );
    let (head, body) = client.response().await;
    assert_eq!((status(&head), body.as_slice()), (200, b"hello".as_slice()));
    // A body that nobody reads ends the connection, after the answer.
    client
        .send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde")
        .await;
    let (head, body) = client.response().await;
    assert_eq!((status(&head), body.as_slice()), (200, b"hello".as_slice()));
    assert_eq!(header(&head, "connection"), Some("close"));
    assert_eq!(client.rest().await, b"");
    let (head, _) = ask(&gate, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!(header(&head, "connection"), Some("keep-alive"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn error_pages_are_for_those_who_read_pages() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("404.html"), "<h1>not here</h1>").unwrap();
    std::fs::write(folder.path().join("oops.html"), "<h1>oops</h1>").unwrap();
    std::fs::write(folder.path().join("shop.html"), "<h1>shop</h1>").unwrap();
    let text = "
[gate.error_pages]
404 = \"404.html\"
5xx = \"oops.html\"
[[gate.route]]
path = \"/app\"
service = \"NOBODY\"
[[gate.route]]
path = \"/shop\"
service = \"NOBODY\"
error_pages = { 503 = \"shop.html\" }
";
    let gate = start(written(folder.path(), &[], text)).await;
    let answer = async |path: &str, accept: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        let (head, body) = ask(&gate, &request).await;
        let kind = header(&head, "content-type").unwrap().to_owned();
        (status(&head), kind, String::from_utf8(body).unwrap())
    };
    let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
    let html = "text/html; charset=utf-8".to_owned();
    assert_eq!(
        answer("/", browser).await,
        (404, html.clone(), "<h1>not here</h1>".to_owned())
    );
    assert_eq!(
        answer("/app", browser).await,
        (503, html.clone(), "<h1>oops</h1>".to_owned())
    );
    assert_eq!(
        answer("/shop", browser).await,
        (503, html, "<h1>shop</h1>".to_owned())
    );
    let (status, kind, body) = answer("/shop", "*/*").await;
    assert_eq!((status, kind.as_str()), (503, "application/problem+json"));
    assert_eq!(code(body.as_bytes()), "no_backend");
    let (head, _) = ask(
        &gate,
        "GET /shop HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n",
    )
    .await;
    assert_eq!(header(&head, "retry-after"), Some("2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hubs_word_on_a_failed_sign_in_stays_at_the_gate() {
    let hub = origin(|mut peer, number| async move {
        while let Some(head) = peer.head().await {
            peer.body_of(&head).await;
            let word = if number == 0 {
                "Munjigi-Sign-In: failed\r\n"
            } else {
                ""
            };
            peer.send(&format!(
                "HTTP/1.1 401 Unauthorized\r\n{word}Connection: close\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let text = "[[gate.route]]\npath = \"/\"\nservice = \"HUB\"\n";
    let mut settings = written(folder.path(), &[("HUB", hub.address)], text);
    let socket = folder.path().join("admin.sock");
    settings.admin.socket = Some(socket.clone());
    let gate = start(settings).await;
    for _ in 0..2 {
        let request = "POST /api/sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        let (head, _) = ask(&gate, request).await;
        assert_eq!(status(&head), 401);
        assert_eq!(header(&head, "munjigi-sign-in"), None, "{head}");
    }
    eventually("the failure is counted", || async {
        let page = admin(&socket, "/metrics").await;
        page.lines()
            .any(|line| line == "munjigi_gate_failed_sign_ins_total 1")
    })
    .await;
}
