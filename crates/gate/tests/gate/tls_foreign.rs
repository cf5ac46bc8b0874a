//! TLS with clients of others: curl, openssl, h2load, where they are installed.

use std::path::PathBuf;
use std::process::Stdio;

use munjigi_gate::Gate;
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

/// A file of so many `x`.
fn file_of(ca: &Authority, size: usize) -> PathBuf {
    let file = ca.folder.path().join("body");
    std::fs::write(&file, vec![b'x'; size]).unwrap();
    file
}

/// What a program says that ends well.
async fn said(command: &mut Command) -> String {
    let output = command.output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What curl says when it sends two megabytes to a gate that repeats them, and again.
async fn curl(ca: &Authority, gate: &Gate, arguments: &[&str]) -> String {
    let port = gate.address("web").unwrap().port();
    let body = file_of(ca, 2_000_000);
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "60", "--cacert"])
        .arg(ca.ca_file())
        .args(["--resolve", &format!("a.test:{port}:127.0.0.1")])
        .args(["--data-binary", &format!("@{}", body.display())])
        .args(arguments)
        .args(["echo", "again"].map(|path| format!("https://a.test:{port}/{path}")));
    let said = said(&mut curl).await;
    let count = said.matches('x').count();
    assert!(count >= 4_000_000, "{arguments:?}: {count}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_to_the_gate() {
    if !is_installed("curl").await {
        return;
    }
    let ca = Authority::new();
    let (gate, _origin) = encrypted(&ca, &[Protocol::Http1], Protocol::Http1).await;
    for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
        curl(&ca, &gate, &[&["--http1.1"], version].concat()).await;
    }
}

const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// A gate that speaks `front` over TLS, before a backend that speaks `back` over TLS and repeats bodies.
async fn encrypted(ca: &Authority, front: &[Protocol], back: Protocol) -> (Gate, Origin) {
    let pair = ca.issue("b", &["b.test"]);
    let origin = if back == Protocol::Http2 {
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
    let mut settings = settings(&[origin.address]);
    settings.listeners[0].protocols = front.to_vec();
    settings.listeners[0].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
    let service = settings.services.get_mut("APP").unwrap();
    service.protocol = back;
    service.tls = Some(ca.trust("b.test"));
    (start(settings).await, origin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_http2_to_the_gate() {
    if !is_installed("curl").await {
        return;
    }
    let ca = Authority::new();
    for back in BOTH {
        let (gate, _origin) = encrypted(&ca, &BOTH, back).await;
        let connections = ["--write-out", "<%{http_version} %{num_connects}>"];
        let text = curl(&ca, &gate, &[&["--http2"][..], &connections].concat()).await;
        assert!(text.contains("<2 1>") && text.ends_with("<2 0>"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp2_speaks_to_the_gate() {
    if !is_installed("h2load").await {
        return;
    }
    let ca = Authority::new();
    let body = file_of(&ca, 5_000);
    for back in BOTH {
        let (gate, _origin) = encrypted(&ca, &BOTH, back).await;
        let port = gate.address("web").unwrap().port();
        // Four connections with 50 requests at once on each.
        let mut h2load = Command::new("h2load");
        h2load
            .args(["-n", "2000", "-c", "4", "-m", "50", "-d"])
            .arg(&body)
            .args(["--connect-to", &format!("127.0.0.1:{port}")])
            .arg(format!("https://a.test:{port}/"));
        let text = said(&mut h2load).await;
        assert!(text.contains("Application protocol: h2"), "{text}");
        assert!(
            text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{back:?}: {text}"
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
