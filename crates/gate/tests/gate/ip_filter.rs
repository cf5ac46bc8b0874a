//! The IP filter over real sockets: at accept, behind proxies, at layer 4, with files that change.
//! 127.0.0.2 may not come in, 127.0.0.1 may.

use std::net::SocketAddr;
use std::path::Path;

use munjigi_gate::{Gate, GateSettings};
use tokio::net::{TcpSocket, UdpSocket};

use crate::http2_support::*;
use crate::support::*;
use crate::tls_support::*;

const DENIED: &str = "127.0.0.2";
const GET: &str = "GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A connection from an address of our own.
async fn from(source: &str, to: SocketAddr) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    Peer::new(socket.connect(to).await.unwrap())
}

fn filtered(folder: &Path, origin: &Origin, more: &str) -> GateSettings {
    let route = "[[gate.route]]\npath = \"/\"\nservice = \"APP\"\n";
    let mut settings = written(
        folder,
        &[("APP", origin.address)],
        &format!("{route}{more}"),
    );
    settings.admin.socket = Some(folder.join("admin.sock"));
    settings
}

async fn web(gate: &Gate, source: &str) -> Peer {
    from(source, gate.address("web").unwrap()).await
}

/// The status that a request gets from `source` with `fields`, and its code when it is refused.
async fn outcome(gate: &Gate, source: &str, fields: &str) -> (u16, String) {
    let mut client = web(gate, source).await;
    client
        .send(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
        .await;
    let (head, body) = client.response().await;
    let code = match status(&head) {
        200 => String::new(),
        _ => code(&body),
    };
    (status(&head), code)
}

async fn page(folder: &Path) -> serde_json::Value {
    serde_json::from_str(&admin(&folder.join("admin.sock"), "/ip-filter").await).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_come_in_gets_what_the_settings_say() {
    let origin = echo().await;
    for (reject, expected) in [
        ("", Some((403, "ip_denied"))),
        ("reject = \"404\"", Some((404, "not_found"))),
        ("reject = \"close\"", None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let rules = format!("[gate.ip_filter]\ndeny = [\"{DENIED}\"]\n{reject}\n");
        let gate = start(filtered(folder.path(), &origin, &rules)).await;
        assert_eq!(outcome(&gate, "127.0.0.1", "").await.0, 200);
        let mut denied = web(&gate, DENIED).await;
        denied.send(GET).await;
        match expected {
            Some((expected, expected_code)) => {
                let (head, body) = denied.response().await;
                assert_eq!(status(&head), expected);
                assert_eq!(code(&body), expected_code);
                assert_eq!(header(&head, "connection"), Some("close"));
                assert!(!denied.fill().await, "it has no next request");
            }
            None => assert!(denied.rest().await.is_empty()),
        }
        let page = page(folder.path()).await;
        assert_eq!(page["denied"]["rule"], 1, "{page}");
        assert_eq!(page["top"][0]["count"], 1, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_tls_and_at_layer_4_the_connection_is_closed() {
    let authority = Authority::new();
    authority.issue("web", &["a.test"]);
    let folder = authority.folder.path();
    let origin = echo().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listeners = format!(
        r#"
        [[gate.listener]]
        name = "sealed"
        address = "127.0.0.1:0"
        tls = {{ certificate = "web.pem", key = "web.key" }}
        [[gate.listener]]
        name = "line"
        address = "127.0.0.1:0"
        protocols = ["tcp"]
        service = "APP"
        [[gate.listener]]
        name = "datagrams"
        address = "127.0.0.1:0"
        protocols = ["udp"]
        service = "NAMES"
        [gate.service.NAMES]
        backends = [{{ address = "{}" }}]
        [gate.ip_filter]
        deny = ["{DENIED}"]
        "#,
        udp.local_addr().unwrap()
    );
    let gate = start(filtered(folder, &origin, &listeners)).await;
    let sealed = gate.address("sealed").unwrap();
    let mut denied = from(DENIED, sealed).await;
    assert!(!denied.fill().await, "closed before a word was said");
    let mut allowed = tls(sealed, authority.client(), "a.test").await;
    allowed.send(GET).await;
    assert_eq!(status(&allowed.head().await.unwrap()), 200);

    let line = gate.address("line").unwrap();
    assert!(!from(DENIED, line).await.fill().await);
    let mut allowed = from("127.0.0.1", line).await;
    allowed.send(GET).await;
    assert_eq!(status(&allowed.head().await.unwrap()), 200);

    let datagrams = gate.address("datagrams").unwrap();
    let denied = UdpSocket::bind((DENIED, 0)).await.unwrap();
    let allowed = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    denied.send_to(b"denied", datagrams).await.unwrap();
    allowed.send_to(b"allowed", datagrams).await.unwrap();
    let mut bytes = [0; 100];
    let received = tokio::time::timeout(PATIENCE, udp.recv_from(&mut bytes));
    let (count, _) = received.await.expect("nothing came").unwrap();
    assert_eq!(&bytes[..count], b"allowed", "the earlier one was dropped");
    let page = page(folder).await;
    assert_eq!(page["denied"]["rule"], 3, "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_trusted_proxy_the_client_is_judged_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let origin = echo().await;
    let rules = r#"
        [gate.client_ip]
        trusted = ["127.0.0.2", "10.0.0.0/8"]
        [gate.ip_filter]
        deny = ["127.0.0.2", "192.0.2.0/24", "2001:db8::/32"]
        "#;
    let gate = start(filtered(folder.path(), &origin, rules)).await;
    let denied = (403, "ip_denied".to_owned());
    let allowed = (200, String::new());
    for (fields, expected) in [
        ("X-Forwarded-For: 192.0.2.7\r\n", &denied),
        ("X-Forwarded-For: 192.0.2.7:4711\r\n", &denied),
        ("X-Forwarded-For: [2001:db8::1]:443\r\n", &denied),
        ("X-Forwarded-For: ::ffff:192.0.2.7\r\n", &denied),
        ("X-Forwarded-For: 198.51.100.1\r\n", &allowed),
        // What stands left of the first that is not trusted may be invented.
        ("X-Forwarded-For: 192.0.2.7, 198.51.100.1\r\n", &allowed),
        (
            "X-Forwarded-For: 198.51.100.1, 192.0.2.7, 10.1.2.3\r\n",
            &denied,
        ),
        (
            "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 192.0.2.7\r\n",
            &denied,
        ),
        ("Forwarded: for=192.0.2.7;proto=https\r\n", &denied),
        (
            "Forwarded: proto=https; For=\"192.0.2.7:4711\"\r\n",
            &denied,
        ),
        ("Forwarded: for=\"[2001:db8::17]:4711\"\r\n", &denied),
        ("Forwarded: for=192.0.2.7, for=198.51.100.1\r\n", &allowed),
        (
            "Forwarded: for=192.0.2.7\r\nX-Forwarded-For: 198.51.100.1\r\n",
            &allowed,
        ),
        // It names nobody: then it is the client itself.
        ("", &denied),
        ("Forwarded: for=unknown\r\n", &denied),
        ("X-Forwarded-For: someone\r\n", &denied),
    ] {
        assert_eq!(&outcome(&gate, DENIED, fields).await, expected, "{fields}");
    }
    // Who is not trusted names nobody.
    let named = outcome(&gate, "127.0.0.1", "X-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!(named.await.0, 200);
    // The proxy's connection serves others too.
    let mut proxy = web(&gate, DENIED).await;
    for (client, expected) in [
        ("192.0.2.7", 403),
        ("198.51.100.1", 200),
        ("192.0.2.7", 403),
    ] {
        proxy
            .send(&format!(
                "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {client}\r\n\r\n"
            ))
            .await;
        assert_eq!(status(&proxy.response().await.0), expected, "{client}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_http2_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let origin = echo().await;
    let rules = r#"
        [gate.client_ip]
        trusted = ["127.0.0.1"]
        [gate.ip_filter]
        deny = ["192.0.2.0/24"]
        "#;
    let mut settings = filtered(folder.path(), &origin, rules);
    settings.listeners[0].protocols = both(&[]).listeners[0].protocols.clone();
    let gate = start(settings).await;
    let proxy = client2(&gate).await;
    for (client, expected) in [
        ("192.0.2.7", 403),
        ("198.51.100.1", 200),
        ("192.0.2.8", 403),
    ] {
        let mut request = get("/");
        let fields = request.headers_mut();
        fields.insert("x-forwarded-for", client.parse().unwrap());
        assert_eq!(
            proxy.ask(request).await.unwrap().status(),
            expected,
            "{client}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_proxy_header_names_is_judged_before_tls() {
    let authority = Authority::new();
    authority.issue("web", &["a.test"]);
    let folder = authority.folder.path();
    let origin = echo().await;
    let more = r#"
        [[gate.listener]]
        name = "sealed"
        address = "127.0.0.1:0"
        proxy_protocol = "v1"
        tls = { certificate = "web.pem", key = "web.key" }
        [[gate.listener]]
        name = "plain"
        address = "127.0.0.1:0"
        proxy_protocol = "v1"
        [[gate.listener]]
        name = "line"
        address = "127.0.0.1:0"
        proxy_protocol = "v1"
        protocols = ["tcp"]
        service = "APP"
        [gate.client_ip]
        trusted = ["127.0.0.2"]
        [gate.ip_filter]
        deny = ["127.0.0.2", "192.0.2.0/24"]
        "#;
    let gate = start(filtered(folder, &origin, more)).await;
    let bad = "PROXY TCP4 192.0.2.7 127.0.0.1 1000 443\r\n";
    let good = "PROXY TCP4 198.51.100.1 127.0.0.1 1000 443\r\n";
    let plain = gate.address("plain").unwrap();
    for (first, source, expected) in [
        (bad, DENIED, 403),
        (good, DENIED, 200),
        ("PROXY UNKNOWN\r\n", DENIED, 403),
        // It is read and not believed.
        (bad, "127.0.0.1", 200),
    ] {
        let mut client = from(source, plain).await;
        client.send(&format!("{first}{GET}")).await;
        let (head, _) = client.response().await;
        assert_eq!(status(&head), expected, "{first} from {source}");
    }
    let line = gate.address("line").unwrap();
    for (first, serves) in [(bad, false), (good, true), ("PROXY UNKNOWN\r\n", false)] {
        let mut client = from(DENIED, line).await;
        client.send(&format!("{first}{GET}")).await;
        assert_eq!(client.head().await.is_some(), serves, "{first}");
    }
    let sealed = gate.address("sealed").unwrap();
    let mut client = from(DENIED, sealed).await;
    client.send(bad).await;
    assert!(!client.fill().await, "closed before TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_followed_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let origin = echo().await;
    replace(
        &folder.join("ip.conf"),
        "default true\ndeny from 10.0.0.1\n",
    );
    replace(&folder.join("drop.txt"), "192.0.2.0/24\n");
    let rules = r#"
        [gate.ip_filter]
        files = ["ip.conf", { path = "drop.txt", format = "plain", action = "deny" }]
        "#;
    let gate = start(filtered(folder, &origin, rules)).await;
    let mut open = web(&gate, DENIED).await;
    open.send(GET).await;
    assert_eq!(status(&open.response().await.0), 200);

    replace(
        &folder.join("drop.txt"),
        "192.0.2.0/24\n127.0.0.2 ; from now on\n",
    );
    eventually("the new rules", || async {
        outcome(&gate, DENIED, "").await.0 == 403
    })
    .await;
    open.send(GET).await;
    assert_eq!(
        status(&open.response().await.0),
        403,
        "open ones are judged too"
    );

    replace(
        &folder.join("ip.conf"),
        "default true\ndeny from 300.0.0.1\nallow\n",
    );
    eventually("the refusal", || async {
        page(folder).await["refusedReloads"] == 1
    })
    .await;
    let told = page(folder).await;
    let problems = told["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{told}");
    assert!(
        problems[0].as_str().unwrap().contains("ip.conf: line 2"),
        "{told}"
    );
    assert_eq!(told["rules"], 3, "the running rules stay");
    assert_eq!(outcome(&gate, DENIED, "").await.0, 403);
    assert_eq!(outcome(&gate, "127.0.0.1", "").await.0, 200);

    replace(&folder.join("ip.conf"), "default true\n");
    replace(&folder.join("drop.txt"), "192.0.2.0/24\n");
    eventually("the better rules", || async {
        outcome(&gate, DENIED, "").await.0 == 200
    })
    .await;
    let told = page(folder).await;
    assert_eq!(told["problems"].as_array().unwrap().len(), 0, "{told}");
    let metrics = admin(&folder.join("admin.sock"), "/metrics").await;
    for line in [
        "munjigi_gate_ip_verdicts_total{verdict=\"deny\",by=\"rule\"}",
        "munjigi_gate_ip_decided{source=\"drop.txt\"} 0",
        "munjigi_gate_ip_rules 1",
        "munjigi_gate_ip_reloads_total{result=\"refused\"}",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[test]
fn lists_settings_and_files_combine_as_one_set() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a.conf", "order allow,deny\ndeny from 10.0.0.1\n");
    write("b.conf", "default true\nallow from 10.0.0.2\n");
    write("c.conf", "default false\n");
    write("list.txt", "10.0.0.3\n");
    let verdicts = |text: &str| {
        let settings = written(folder.path(), &[], &format!("[gate.ip_filter]\n{text}\n"));
        let rules = settings.ip_filter.unwrap().rules.load_full();
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9"]
            .map(|address| rules.verdict(address.parse().unwrap()).allow)
    };
    // No rule at all: all may.
    assert_eq!(verdicts(""), [true; 4]);
    assert_eq!(verdicts("default = \"deny\""), [false; 4]);
    assert_eq!(verdicts("deny = [\"10.0.0.1\"]"), [false, true, true, true]);
    let plain = "files = [{ path = \"list.txt\", format = \"plain\", action = \"deny\" }]";
    assert_eq!(verdicts(plain), [true, true, false, true]);
    // A file of the line format without `default` means deny.
    assert_eq!(verdicts("files = [\"a.conf\"]"), [false; 4]);
    assert_eq!(
        verdicts("files = [\"a.conf\", \"b.conf\"]\nallow = [\"10.0.0.1\"]"),
        [true; 4],
        "the allow list is asked first, as a.conf says, and the default is b.conf's"
    );
    assert_eq!(
        verdicts(
            "files = [\"a.conf\"]\norder = \"deny,allow\"\ndefault = \"allow\"\nallow = [\"10.0.0.1\"]"
        ),
        [false, true, true, true],
        "what the settings say wins over the file"
    );
    let twice = problems(
        folder.path(),
        "[gate.ip_filter]\nfiles = [\"b.conf\", \"c.conf\"]\n",
    );
    assert!(twice.contains("c.conf:1"), "{twice}");
}
