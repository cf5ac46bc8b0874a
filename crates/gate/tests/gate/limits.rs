//! Rate limits, over real sockets.

use std::time::Duration;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_passes_and_the_next_request_is_told_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
name = \"limited\"
path = \"/\"
respond = { body = \"ok\" }
rate_limit = { requests = 5, per = \"10m\" }
[[gate.route]]
path = \"/key\"
respond = { body = \"ok\" }
rate_limit = { requests = 2, per = \"10m\", by = \"header.X-Key\" }
[[gate.route]]
path = \"/user\"
respond = { body = \"ok\" }
rate_limit = { requests = 1, per = \"10m\", by = \"user\" }
[[gate.route]]
path = \"/free\"
respond = { body = \"ok\" }
";
    let mut settings = written(folder.path(), &[], text);
    settings.threads = 2;
    let socket = folder.path().join("admin.sock");
    settings.admin.socket = Some(socket.clone());
    let again = settings.clone();
    let gate = start(settings).await;
    let answer = async |path: &str, fields: &str| {
        // Each on a connection of its own, and so on either thread.
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let (head, body) = ask(&gate, &request).await;
        let wait = header(&head, "retry-after").map(|wait| wait.parse::<u64>().unwrap());
        if status(&head) == 429 {
            assert_eq!(code(&body), "rate_limited");
        }
        (status(&head), wait)
    };
    for _ in 0..5 {
        assert_eq!(answer("/", "").await, (200, None));
    }
    let (code, wait) = answer("/", "").await;
    assert_eq!(code, 429);
    assert!((1..=120).contains(&wait.unwrap()), "{wait:?}");
    assert_eq!(answer("/free", "").await.0, 200);
    for key in ["a", "b"] {
        let field = format!("X-Key: {key}\r\n");
        let codes = [
            answer("/key", &field).await.0,
            answer("/key", &field).await.0,
            answer("/key", &field).await.0,
        ];
        assert_eq!(codes, [200, 200, 429], "{key}");
    }
    for user in [
        "Authorization: Bearer one\r\n",
        "Cookie: munjigi_session=two\r\n",
        "",
    ] {
        let codes = [answer("/user", user).await.0, answer("/user", user).await.0];
        assert_eq!(codes, [200, 429], "{user}");
    }
    let page = admin(&socket, "/metrics").await;
    assert!(
        page.contains("munjigi_gate_rate_limit_keys{route=\"limited\"} 1\n"),
        "{page}"
    );
    eventually("the refusals are counted", || async {
        let page = admin(&socket, "/metrics").await;
        page.contains("munjigi_gate_ends_total{reason=\"rate_limited\"} 6\n")
    })
    .await;
    // A reload fills no bucket.
    gate.reload(again).unwrap();
    assert_eq!(answer("/", "").await.0, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_fills_again() {
    let folder = tempfile::tempdir().unwrap();
    let text = "
[[gate.route]]
path = \"/\"
respond = { body = \"ok\" }
rate_limit = { requests = 1, per = \"500ms\" }
";
    let gate = start(written(folder.path(), &[], text)).await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(status(&ask(&gate, request).await.0), 200);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(status(&ask(&gate, request).await.0), 200);
}
