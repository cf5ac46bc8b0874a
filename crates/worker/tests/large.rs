//! A gigabyte through fixed memory. Run by `./test --long`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use support::Site;

const BYTES: u64 = 1 << 30;
const MORE_MAX: u64 = 64 << 20;

/// The most memory this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes a gigabyte"]
async fn a_gigabyte_is_taken_in_little_memory() {
    let site = Site::new().await;
    let worker = site.start(&[]).await;
    let mut hash = Sha256::new();
    let mebibyte = vec![0; 1 << 20];
    for _ in 0..BYTES >> 20 {
        hash.update(&mebibyte);
    }
    let digest = format!("sha-256=:{}:", STANDARD.encode(hash.finalize()));
    let before = peak();
    let begun = Instant::now();
    assert_eq!(worker.post_zeros("a", BYTES, &digest).await.status(), 202);
    let took = begun.elapsed();
    let more = peak() - before;
    assert!(more <= MORE_MAX, "{} MiB more after {took:?}", more >> 20);
    site.hub.last("a", "COLLECTING").await;
    assert_eq!(worker.delete("analyzeId=a").await.status(), 204);
    println!("1 GiB in {took:?}, {} MiB more", more >> 20);
}
