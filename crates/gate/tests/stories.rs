//! The gate over real sockets: each test is one story.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_to_the_backend_and_the_answer_comes_back() {
    let origin = echo().await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    for path in ["/", "/a?b=c", "/a%2Fb//c/?x=%20"] {
        client
            .send(&format!(
                "GET {path} HTTP/1.1\r\nHost: Example.com:8080\r\nX-A: 1\r\n\r\n"
            ))
            .await;
        let (head, body) = client.response().await;
        assert_eq!(status(&head), 200, "{head}");
        assert!(header(&head, "date").is_some());
        let seen = String::from_utf8(body).unwrap();
        assert!(
            seen.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{seen}"
        );
        assert_eq!(header(&seen, "host"), Some("Example.com:8080"));
        assert_eq!(header(&seen, "x-a"), Some("1"));
        assert_eq!(header(&seen, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(header(&seen, "x-forwarded-proto"), Some("http"));
        assert_eq!(header(&seen, "x-forwarded-host"), Some("Example.com:8080"));
        assert_eq!(
            header(&seen, "forwarded"),
            Some("for=127.0.0.1;host=\"Example.com:8080\";proto=http")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_both_ways_in_either_framing() {
    let origin = echo().await;
    let gate = start(settings(&[origin.address])).await;
    let mut client = client(&gate).await;
    client
        .send("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let (head, body) = client.response().await;
    assert_eq!(status(&head), 200);
    assert!(String::from_utf8(body).unwrap().ends_with("\r\n\r\nhello"));
    client
        .send("POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
        .await;
    let (head, body) = client.response().await;
    assert_eq!(status(&head), 200);
    assert!(String::from_utf8(body).unwrap().ends_with("\r\n\r\nhello"));
}
