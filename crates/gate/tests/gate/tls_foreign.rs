//! TLS with clients of others: curl and openssl, where they are installed.

use std::process::Stdio;

use tokio::process::Command;

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
    let ticket = ca.folder.path().join("ticket");
    let ticket = ticket.to_str().unwrap();
    let resumed = async |version| {
        s_client(port, &ca, &[version, "-sess_out", ticket]).await;
        let (good, text) = s_client(port, &ca, &[version, "-sess_in", ticket]).await;
        good && text.contains("Reused")
    };
    assert!(resumed("-tls1_2").await);
}
