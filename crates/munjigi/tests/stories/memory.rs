//! A gigabyte goes through every role in fixed memory.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use munjigi_testkit::{Client, Ledger, Program};

use crate::binary;

const MIB: u64 = 1 << 20;

/// A body of `mib` MiB that is made while it is sent.
fn body(mib: u64) -> reqwest::Body {
    let block = Bytes::from((0..MIB).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    reqwest::Body::wrap_stream(stream::iter(
        (0..mib).map(move |_| Ok::<_, std::io::Error>(block.clone())),
    ))
}

async fn through(mib: u64, most: u64) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments = [
        "up",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--no-open",
    ];
    let mut program = Program::start(binary(), &arguments, &folder.path().join("log")).unwrap();
    program.line().await.unwrap();
    let runtime: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data.join("runtime.json")).unwrap()).unwrap();
    let token = std::fs::read_to_string(data.join("cli.token")).unwrap();
    let client = Client::new(runtime["url"].as_str().unwrap(), &token);
    let (idle, _) = program.memory().unwrap();

    let path = client
        .create_upload("ballast.bin", mib * MIB)
        .await
        .unwrap();
    assert_eq!(client.append(&path, 0, body(mib)).await.unwrap(), mib * MIB);
    let event_id = client
        .job(path.rsplit('/').next().unwrap(), &["source"])
        .await
        .unwrap();
    let mut ledger = Ledger::default();
    client
        .follow_until(
            &event_id,
            &mut ledger,
            Duration::from_secs(300),
            Ledger::ended,
        )
        .await
        .unwrap();
    assert_eq!(
        ledger.fold().status().as_str(),
        "DONE",
        "{}",
        ledger.story()
    );
    let (_, peak) = program.memory().unwrap();
    println!(
        "{mib} MiB up, dispatched and analysed: idle {} MiB, peak {} MiB",
        idle / MIB,
        peak / MIB
    );
    assert!(peak - idle <= most * MIB, "peak {peak}, idle {idle}");
    assert_eq!(program.stop().await.unwrap(), 0);
}

#[tokio::test]
async fn an_upload_and_its_dispatch_take_fixed_memory() {
    through(256, 192).await;
}

#[tokio::test]
#[ignore = "a gigabyte; run by ./test --long"]
async fn a_gigabyte_and_its_dispatch_take_fixed_memory() {
    through(1024, 192).await;
}
