//! `h2spec`, a suite of 146 checks of RFC 7540 and RFC 7541, against the gate, in clear text and over TLS. It is a program of
//! others: `./test h2spec` installs and runs it.

use std::path::Path;
use std::process::Stdio;

use munjigi_gate::settings::Protocol;

use crate::support::*;
use crate::tls_support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the program h2spec: ./test h2spec"]
async fn h2spec_finds_nothing() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/h2spec/h2spec");
    let ca = Authority::new();
    let origin = echo().await;
    for encrypted in [false, true] {
        let mut settings = settings(&[origin.address]);
        settings.listeners[0].protocols = vec![Protocol::Http2];
        if encrypted {
            settings.listeners[0].tls = Some(listener_tls(&[&ca.issue("a", &["a.test"])]));
        }
        let gate = start(settings).await;
        let port = gate.address("web").unwrap().port().to_string();
        let secure: &[&str] = if encrypted {
            &["--tls", "--insecure"]
        } else {
            &[]
        };
        let output = tokio::process::Command::new(&program)
            .args(["--host", "127.0.0.1", "--port", &port, "--timeout", "5"])
            .args(secure)
            .arg("--strict")
            .stderr(Stdio::inherit())
            .output()
            .await
            .expect("target/h2spec/h2spec can't be run");
        judge(&output.stdout, encrypted);
    }
}

fn judge(output: &[u8], encrypted: bool) {
    let text = String::from_utf8_lossy(output);
    assert!(
        text.contains("146 tests, 146 passed, 0 skipped, 0 failed"),
        "encrypted: {encrypted}\n{text}"
    );
}
