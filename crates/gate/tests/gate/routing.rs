//! Which route gets a request, and what the route makes of its path and its fields, over real
//! sockets and from settings as an operator writes them.

use std::path::Path;

use crate::support::*;

fn head_of(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_choose_the_route_and_more_of_them_win() {
    let folder = tempfile::tempdir().unwrap();
    let answer = |name: &str, conditions: &str| {
        format!(
            "[[gate.route]]\nname = \"{name}\"\npath = \"/\"\n{conditions}\nrespond = {{ body = \"{name}\" }}\n"
        )
    };
    let text = [
        answer("plain", ""),
        answer("exact", "header = { X-Kind = \"a\" }"),
        answer("two", "header = { X-Kind = \"a\" }\nquery = { q = \"1\" }"),
        answer("prefix", "header = { X-Kind = { prefix = \"b-\" } }"),
        answer("regex", "query = { id = { regex = \"[0-9]+\" } }"),
        answer(
            "absent",
            "header = { Accept = { present = false } }\nquery = { only = { present = true } }",
        ),
        answer("method", "method = \"POST\"\nheader = { X-Kind = \"c\" }"),
        answer("host", "host = \"special.example\""),
    ]
    .concat();
    let gate = start(written(folder.path(), &[], &text)).await;
    let check = async |request: &str, expected: &str| {
        let (line, fields) = request.split_once('\n').unwrap_or((request, "Host: x"));
        let fields: String = fields.lines().map(|l| format!("{l}\r\n")).collect();
        let (head, body) = ask(&gate, &format!("{line} HTTP/1.1\r\n{fields}\r\n")).await;
        assert_eq!(status(&head), 200);
        assert_eq!(head_of(&body), expected, "{request}");
    };
    check("GET /", "plain").await;
    check("GET /\nHost: x\nX-Kind: a", "exact").await;
    check("GET /\nHost: x\nx-kind: A", "plain").await;
    check("GET /?q=1\nHost: x\nX-Kind: a", "two").await;
    check("GET /?q=%31\nHost: x\nX-Kind: a", "two").await;
    check("GET /?q=2\nHost: x\nX-Kind: a", "exact").await;
    check("GET /\nHost: x\nX-Kind: b-1", "prefix").await;
    check("GET /?id=12", "regex").await;
    check("GET /?id=12x", "plain").await;
    check("GET /?only", "absent").await;
    check("GET /?only\nHost: x\nAccept: a", "plain").await;
    check("POST /\nHost: x\nX-Kind: c", "method").await;
    check("GET /\nHost: x\nX-Kind: c", "plain").await;
    check("GET /?id=1\nHost: special.example:80\nX-Kind: a", "host").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_known_with_other_methods_is_405_with_allow() {
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
path_exact = \"/a\"
method = [\"GET\", \"PUT\"]
respond = { body = \"a\" }
[[gate.route]]
path_regex = \"/a|/b\"
method = \"POST\"
respond = { body = \"b\" }
";
    let gate = start(written(folder.path(), &[], text)).await;
    let answer = async |method: &str, path: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut client = client(&gate).await;
        client.send(&request).await;
        let head = client.head().await.unwrap();
        let allow = header(&head, "allow").map(str::to_owned);
        (status(&head), allow)
    };
    assert_eq!(answer("HEAD", "/a").await, (200, None));
    assert_eq!(answer("POST", "/a").await, (200, None));
    let all = Some("GET, HEAD, POST, PUT".to_owned());
    assert_eq!(answer("DELETE", "/a").await, (405, all));
    assert_eq!(answer("GET", "/b").await, (405, Some("POST".to_owned())));
    assert_eq!(answer("GET", "/c").await, (404, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_are_forwarded_as_they_came_unless_the_route_says_otherwise() {
    let origin = echo().await;
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
path = \"/\"
service = \"APP\"
[[gate.route]]
path = \"/strip\"
strip_prefix = true
service = \"APP\"
[[gate.route]]
path = \"/v1\"
rewrite = { prefix = \"/v2/x\" }
service = \"APP\"
[[gate.route]]
path = \"/u/{id}\"
rewrite = { path = \"/users/{id}/show\" }
service = \"APP\"
[[gate.route]]
path_regex = \"/blog/.*\"
rewrite = { regex = \"/blog/([0-9]+)/(.*)\", to = \"/posts/$2/$1\" }
service = \"APP\"
";
    let gate = start(written(folder.path(), &[("APP", origin.address)], text)).await;
    let check = async |asked: &str, expected: &str| {
        let (head, body) = ask(&gate, &format!("GET {asked} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(status(&head), 200);
        let line = head_of(&body).lines().next().unwrap().to_owned();
        assert_eq!(line, format!("GET {expected} HTTP/1.1"), "{asked}");
    };
    check("/a/%2e%2e//b?x=/strip", "/a/%2e%2e//b?x=/strip").await;
    check("/strip/a%20b?q=1", "/a%20b?q=1").await;
    check("/strip", "/").await;
    check("/strip?q", "/?q").await;
    check("/strip//host/x", "/host/x").await;
    check("/stripe", "/stripe").await;
    check("/v1/a", "/v2/x/a").await;
    check("/u/7%2F8/rest?q", "/users/7%2F8/show?q").await;
    check("/blog/2026/title", "/posts/title/2026").await;
    check("/blog/title", "/blog/title").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rewriting_leads_to_the_workers_paths() {
    let hub = echo().await;
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
path = \"/app\"
strip_prefix = true
service = \"HUB\"
[[gate.route]]
path = \"/i\"
rewrite = { prefix = \"/internal\" }
service = \"HUB\"
";
    let gate = start(written(folder.path(), &[("HUB", hub.address)], text)).await;
    for path in [
        "/app/internal/events",
        "/app//internal/events",
        "/app/%69nternal/events",
        "/app/x/../internal",
        "/app/INTERNAL/events",
        "/i/events",
        "/i",
    ] {
        let (head, body) = ask(&gate, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(
            (status(&head), code(&body).as_str()),
            (404, "internal_path"),
            "{path}"
        );
    }
    let (head, _) = ask(&gate, "GET /app/events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&head), 200);
    let mut inner = Peer::connect(gate.address("inner").unwrap()).await;
    inner
        .send("GET /app/internal/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let (head, body) = inner.response().await;
    assert_eq!(status(&head), 200);
    assert!(head_of(&body).starts_with("GET /internal/events "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_rules_change_requests_and_responses() {
    let origin = origin(|mut peer, _| async move {
        while let Some(head) = peer.head().await {
            let body = head.clone();
            peer.send(&format!("HTTP/1.1 200 OK\r\nServer: old\r\nX-Powered-By: php\r\nX-Keep: 1\r\nSet-Cookie: a=1\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
path = \"/t/{tenant}\"
service = \"APP\"
request_headers = { set = { X-Env = \"prod\", X-Tenant = \"{tenant}\" }, add = { X-Via = \"{client_ip}\" }, remove = [\"X-Debug\"] }
response_headers = { set = { Server = \"gate\", Link = \"<{scheme}://{host}{path}>\" }, add = { Set-Cookie = \"b=2\" }, remove = [\"x-powered-by\"] }
[[gate.route]]
path = \"/own\"
respond = { status = 418, body = \"{\\\"a\\\":1}\", type = \"application/json\" }
response_headers = { set = { X-Frame-Options = \"DENY\" } }
[[gate.route]]
path = \"/gone\"
service = \"NOBODY\"
response_headers = { set = { X-Frame-Options = \"DENY\" } }
";
    let gate = start(written(folder.path(), &[("APP", origin.address)], text)).await;
    let request = "GET /t/acme/x HTTP/1.1\r\nHost: x.example\r\nX-Env: dev\r\nx-env: test\r\nX-Debug: 1\r\nX-Via: me\r\n\r\n";
    let (head, body) = ask(&gate, request).await;
    let seen = head_of(&body);
    assert_eq!(header(&seen, "x-env"), Some("prod"));
    assert_eq!(seen.to_lowercase().matches("x-env:").count(), 1, "{seen}");
    assert_eq!(header(&seen, "x-tenant"), Some("acme"));
    assert_eq!(header(&seen, "x-debug"), None);
    assert!(
        seen.contains("X-Via: me\r\n") && seen.contains("X-Via: 127.0.0.1\r\n"),
        "{seen}"
    );
    assert_eq!(header(&head, "server"), Some("gate"));
    assert_eq!(header(&head, "x-powered-by"), None);
    assert_eq!(header(&head, "x-keep"), Some("1"));
    assert_eq!(header(&head, "link"), Some("<http://x.example/t/acme/x>"));
    assert!(
        head.contains("Set-Cookie: a=1\r\n") && head.contains("Set-Cookie: b=2\r\n"),
        "{head}"
    );
    let (head, body) = ask(&gate, "GET /own HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(
        (status(&head), body.as_slice()),
        (418, b"{\"a\":1}".as_slice())
    );
    assert_eq!(header(&head, "content-type"), Some("application/json"));
    assert_eq!(header(&head, "x-frame-options"), Some("DENY"));
    let (head, body) = ask(&gate, "GET /gone HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((status(&head), code(&body).as_str()), (503, "no_backend"));
    assert_eq!(
        header(&head, "x-frame-options"),
        Some("DENY"),
        "also on errors of the gate"
    );
}

#[test]
fn what_routes_can_not_say_is_refused_with_a_hint() {
    let check = |route: &str, expected: &str| {
        let text = format!("[[gate.route]]\npath = \"/a/{{id}}\"\n{route}\n");
        let problems = problems(Path::new(""), &text);
        assert!(problems.contains(expected), "{route}: {problems}");
    };
    let refused = |key: &str, name: &str, expected: &str| {
        check(
            &format!("service = \"S\"\n{key} = {{ set = {{ {name} = \"1\" }} }}"),
            expected,
        );
        check(
            &format!("service = \"S\"\n{key} = {{ remove = [\"{name}\"] }}"),
            expected,
        );
    };
    for name in [
        "Connection",
        "te",
        "Transfer-Encoding",
        "Content-Length",
        "Upgrade",
        "Trailer",
        "Host",
        "X-Forwarded-For",
        "Forwarded",
        "Sec-WebSocket-Key",
        "Proxy",
    ] {
        refused("request_headers", name, "can't touch");
        refused("response_headers", name, "can't touch");
    }
    refused("response_headers", "ETag", "can't touch");
    refused("response_headers", "Date", "can't touch");
    check(
        "service = \"S\"\nrequest_headers = { set = { \"A B\" = \"1\" } }",
        "no name of a header field",
    );
    check(
        "service = \"S\"\nrequest_headers = { set = { A = \"x\\r\\nB: y\" } }",
        "control character",
    );
    check(
        "service = \"S\"\nrequest_headers = { set = { A = \"{what}\" } }",
        "no placeholder {what}",
    );
    check("", "needs one of `service`");
    check("service = \"S\"\nrespond = {}", "needs one of `service`");
    check(
        "redirect = { status = 200, location = \"/\" }",
        "is no redirect",
    );
    check("redirect = {}", "needs `location`");
    check(
        "redirect = { location = \"ftp://x\" }",
        "neither a path nor a URL",
    );
    check(
        "redirect = { location = \"https://{id}.example/\" }",
        "can't stand in the host",
    );
    check(
        "redirect = { location = \"https://{id}/\" }",
        "can't stand in the host",
    );
    check(
        "redirect = { location = \"https://x.example{id}\" }",
        "can't stand in the host",
    );
    check(
        "redirect = { location = \"/a\\r\\nSet-Cookie: x\" }",
        "control character",
    );
    check("redirect = { location = \"/{nothing}\" }", "no placeholder");
    check("respond = { status = 99 }", "must lie between");
    check("respond = { status = 204, body = \"x\" }", "has no body");
    check(
        "respond = { type = \"a\\nb\" }",
        "no value of a header field",
    );
    check("files = { root = \"no-such-folder-here\" }", "is no folder");
    check(
        "service = \"S\"\nstrip_prefix = true\nrewrite = { prefix = \"/\" }",
        "exclude each other",
    );
    check(
        "service = \"S\"\nrewrite = { prefix = \"x\" }",
        "is no path",
    );
    check(
        "service = \"S\"\nrewrite = { path = \"/x?y\" }",
        "is no path",
    );
    check(
        "service = \"S\"\nrewrite = { regex = \"/x\" }",
        "needs one of",
    );
    check(
        "service = \"S\"\nrewrite = { regex = \"(\", to = \"/\" }",
        "unclosed group",
    );
    check(
        "service = \"S\"\nheader = { X = { regex = \"(\" } }",
        "unclosed group",
    );
    check(
        "service = \"S\"\nheader = { X = { } }",
        "needs one of `present`",
    );
    check(
        "service = \"S\"\nheader = { \"X Y\" = \"1\" }",
        "no name of a header field",
    );
    check(
        "service = \"S\"\ncompression = { algorithms = [\"lzma\"] }",
        "no coding",
    );
    check(
        "service = \"S\"\ncompression = { types = [\"html\"] }",
        "no media type",
    );
    check(
        "service = \"S\"\nrate_limit = { per = \"1s\" }",
        "needs `requests`",
    );
    check(
        "service = \"S\"\nrate_limit = { requests = 0 }",
        "must lie between",
    );
    check(
        "service = \"S\"\nrate_limit = { requests = 1, by = \"cookie\" }",
        "can't be \"cookie\"",
    );
    check(
        "service = \"S\"\nerror_pages = { 200 = \"x\" }",
        "no status of an error",
    );
    check(
        "service = \"S\"\nerror_pages = { 404 = \"no-such-file\" }",
        "No such file",
    );
    let exact = problems(
        Path::new(""),
        "[[gate.route]]\npath_exact = \"/a\"\nservice = \"S\"\nstrip_prefix = true\n",
    );
    assert!(exact.contains("no `path` whose prefix"), "{exact}");
}
