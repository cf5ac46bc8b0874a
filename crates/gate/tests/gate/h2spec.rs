//! `h2spec`, a suite of 146 checks of RFC 7540 and RFC 7541, against the gate. It is a program of
//! others: `./test h2spec` installs and runs it.

use std::path::Path;
use std::process::Stdio;

use munjigi_gate::settings::Protocol;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the program h2spec: ./test h2spec"]
async fn h2spec_finds_nothing() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/h2spec/h2spec");
    let origin = echo().await;
    let mut settings = settings(&[origin.address]);
    settings.listeners[0].protocols = vec![Protocol::Http2];
    let gate = start(settings).await;
    let port = gate.address("web").unwrap().port().to_string();
    let output = tokio::process::Command::new(program)
        .args(["--host", "127.0.0.1", "--port", &port, "--timeout", "5"])
        .arg("--strict")
        .stderr(Stdio::inherit())
        .output()
        .await
        .expect("target/h2spec/h2spec can't be run");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(
        text.contains("146 tests, 146 passed, 0 skipped, 0 failed"),
        "see above"
    );
}
