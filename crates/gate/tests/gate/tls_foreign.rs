//! TLS with clients of others: curl, openssl, h2load, where they are installed.

use std::process::Stdio;

use munjigi_gate::settings::Protocol;
use tokio::process::Command;

use crate::http2_support::*;
use crate::support::*;
use crate::tls_support::*;

async fn is_installed(program: &str) -> bool {
    let version = Command::new(program)
        .arg(if program == "openssl" {
            "version"
        } else {
            "--version"
        })
        .stdout(Stdio::null())
        .status();
    version.await.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_to_the_gate() {
    if !is_installed("curl").await {
        return;
    }
    let ca = Authority::new();
    let origin = tls_origin(server_of(&ca.issue("b", &["b.test"])), |peer, _| {
        echo_over(peer)
    })
    .await;
    let mut settings = settings(&[origin.address]);
    settings.listeners[0].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
    settings.services.get_mut("APP").unwrap().tls = Some(ca.trust("b.test"));
    let gate = start(settings).await;
    let port = gate.address("web").unwrap().port();
    let body = ca.folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 2_000_000]).unwrap();
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let output = Command::new("curl")
            .args(["-sS", "--http1.1", "--max-time", "60"])
            .args(version.split('='))
            .arg("--cacert")
            .arg(ca.ca_file())
            .args(["--resolve", &format!("a.test:{port}:127.0.0.1")])
            .args(["--data-binary", &format!("@{}", body.display())])
            .arg(format!("https://a.test:{port}/echo"))
            .arg(format!("https://a.test:{port}/again"))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{version}: {said}");
        let count = output.stdout.iter().filter(|byte| **byte == b'x').count();
        assert!(count >= 4_000_000, "{version}: {count}");
    }
}

/// A gate with both versions over TLS, before a backend that speaks `protocol`.
async fn both_versions(ca: &Authority, backends: Protocol) -> (munjigi_gate::Gate, Origin) {
    let pair = ca.issue("b", &["b.test"]);
    let origin = if backends == Protocol::Http2 {
        let serve = |request: http::Request<h2::RecvStream>, mut respond| async move {
            let body = take(&mut request.into_body()).await.unwrap_or_default();
            let head = http::Response::new(());
            let respond: &mut h2::server::SendResponse<bytes::Bytes> = &mut respond;
            let mut stream = respond.send_response(head, false).unwrap();
            drop(pour(&mut stream, body.into(), true).await);
        };
        tls_origin2(server_of(&pair), serve).await
    } else {
        tls_origin(server_of(&pair), |peer, _| echo_over(peer)).await
    };
    let mut settings = both(&[origin.address]);
    settings.listeners[0].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
    let service = settings.services.get_mut("APP").unwrap();
    service.protocol = backends;
    service.tls = Some(ca.trust("b.test"));
    (start(settings).await, origin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_http2_to_the_gate() {
    if !is_installed("curl").await {
        return;
    }
    let ca = Authority::new();
    let body = ca.folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 2_000_000]).unwrap();
    for backends in [Protocol::Http1, Protocol::Http2] {
        let (gate, _origin) = both_versions(&ca, backends).await;
        let port = gate.address("web").unwrap().port();
        let output = Command::new("curl")
            .args(["-sS", "--http2", "--max-time", "60", "--cacert"])
            .arg(ca.ca_file())
            .args(["--write-out", "<%{http_version} %{num_connects}>"])
            .args(["--resolve", &format!("a.test:{port}:127.0.0.1")])
            .args(["--data-binary", &format!("@{}", body.display())])
            .arg(format!("https://a.test:{port}/echo"))
            .arg(format!("https://a.test:{port}/again"))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{backends:?}: {said}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("<2 1>") && text.ends_with("<2 0>"), "{said}");
        assert!(text.matches('x').count() >= 4_000_000, "{backends:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp2_speaks_to_the_gate() {
    if !is_installed("h2load").await {
        return;
    }
    let ca = Authority::new();
    let body = ca.folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 5_000]).unwrap();
    for backends in [Protocol::Http1, Protocol::Http2] {
        let (gate, _origin) = both_versions(&ca, backends).await;
        let port = gate.address("web").unwrap().port();
        // Four connections with 50 requests at once on each.
        let output = Command::new("h2load")
            .args(["-n", "2000", "-c", "4", "-m", "50", "-d"])
            .arg(&body)
            .args(["--connect-to", &format!("127.0.0.1:{port}")])
            .arg(format!("https://a.test:{port}/"))
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Application protocol: h2"), "{text}");
        assert!(
            text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{backends:?}: {text}"
        );
    }
}

/// What `openssl s_client` says of a handshake, and whether there was one.
async fn s_client(port: u16, ca: &Authority, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(["-servername", "a.test", "-verify_return_error", "-CAfile"])
        .arg(ca.ca_file())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_agrees_on_what_is_safe_alone() {
    if !is_installed("openssl").await {
        return;
    }
    let ca = Authority::new();
    let origin = echo().await;
    let mut settings = settings(&[origin.address]);
    settings.listeners[0].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
    let gate = start(settings).await;
    let port = gate.address("web").unwrap().port();
    let (good, text) = s_client(port, &ca, &["-tls1_3"]).await;
    assert!(good && text.contains("TLSv1.3"), "{text}");
    let (good, text) = s_client(port, &ca, &["-tls1_2", "-cipher", "ECDHE"]).await;
    assert!(good && text.contains("GCM"), "{text}");
    for refused in [
        &[
            "-tls1_2",
            "-cipher",
            "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0",
        ][..],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256:@SECLEVEL=0"],
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
    ] {
        assert!(!s_client(port, &ca, refused).await.0, "{refused:?}");
    }
    // The order is the gate's.
    for (version, option, first, second) in [
        (
            "-tls1_3",
            "-ciphersuites",
            "TLS_AES_256_GCM_SHA384",
            "TLS_AES_128_GCM_SHA256",
        ),
        (
            "-tls1_2",
            "-cipher",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
    ] {
        for order in [format!("{first}:{second}"), format!("{second}:{first}")] {
            let (good, text) = s_client(port, &ca, &[version, option, &order]).await;
            assert!(
                good && text.contains(&format!("Cipher is {first}")),
                "{order}: {text}"
            );
        }
    }
    let ticket = ca.folder.path().join("ticket");
    let ticket = ticket.to_str().unwrap();
    let resumed = async |version| {
        s_client(port, &ca, &[version, "-sess_out", ticket]).await;
        let (good, text) = s_client(port, &ca, &[version, "-sess_in", ticket]).await;
        good && text.contains("Reused")
    };
    assert!(resumed("-tls1_2").await);
}
