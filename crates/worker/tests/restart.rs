//! A worker that ends, cleanly or not, and starts again on the same data.

mod support;

use serde_json::Value;
use support::{Site, python};

const SLEEPER: &str = "import sys, time\nfor line in sys.stdin:\n  while True: time.sleep(1)";

#[tokio::test(flavor = "multi_thread")]
async fn a_result_survives_a_restart_and_what_was_not_sent_is_sent() {
    let site = Site::new().await;
    let worker = site.start(&[]).await;
    site.hub.refuse_for_now(true);
    assert_eq!(worker.post("a", 1, "source", "x").await.status(), 202);
    worker.until_status("analyzeId=a", 200).await;
    let before = worker.get("analyzeId=a").await.bytes().await.unwrap();
    let id = worker.server_id();
    worker.stop().await;
    assert!(site.hub.events("a").is_empty());

    site.hub.refuse_for_now(false);
    let worker = site.start(&[]).await;
    assert_eq!(worker.server_id(), id);
    let last = site.hub.last("a", "COLLECTING").await;
    assert_eq!(last["attempt"], 1);
    support::assert_gapless(&site.hub.events("a"), 3);
    assert_eq!(
        worker.get("analyzeId=a").await.bytes().await.unwrap(),
        before
    );
    assert_eq!(worker.delete("analyzeId=a").await.status(), 204);
    assert_eq!(site.left_over(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_is_lost_and_fences_hold() {
    let site = Site::new().await;
    let sleeper = python("sleeper", site.path(), SLEEPER);
    let worker = site.start(std::slice::from_ref(&sleeper)).await;
    assert_eq!(worker.post("a", 2, "sleeper", "x").await.status(), 202);
    assert_eq!(worker.post("b", 1, "sleeper", "x").await.status(), 202);
    assert_eq!(worker.delete("analyzeId=b&attempt=4").await.status(), 204);
    worker.stop().await;

    let worker = site.start(&[sleeper]).await;
    let lost = worker.get("analyzeId=a&attempt=2").await;
    assert_eq!(lost.status(), 404);
    assert_eq!(lost.json::<Value>().await.unwrap()["code"], "lost");
    assert_eq!(site.inputs(), Vec::<String>::new());
    assert_eq!(worker.post("a", 2, "sleeper", "x").await.status(), 409);
    assert_eq!(worker.post("a", 3, "sleeper", "x").await.status(), 202);
    assert_eq!(worker.post("b", 4, "sleeper", "x").await.status(), 409);
    assert_eq!(worker.get("analyzeId=b").await.status(), 410);
    assert_eq!(worker.delete("analyzeId=a").await.status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_the_hub_refuses_is_ended() {
    let site = Site::new().await;
    let sleeper = python("sleeper", site.path(), SLEEPER);
    let worker = site.start(&[sleeper]).await;
    assert_eq!(worker.post("a", 1, "sleeper", "x").await.status(), 202);
    // The next sign of life meets it.
    site.hub.fence("a");
    worker.until_status("analyzeId=a", 410).await;
    support::until("nothing is left", || async { site.left_over().is_empty() }).await;
    assert_eq!(worker.post("a", 1, "sleeper", "x").await.status(), 409);
}

/// A small file system of its own for the worker's data, where the test may mount one.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: std::path::PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&path).ok()?;
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(&path)
            .status();
        mount.ok()?.success().then_some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let umount = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        assert!(umount.is_ok_and(|status| status.success()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_no_file_and_can_still_be_emptied() {
    use std::io::Write;
    let site = Site::new().await;
    let Some(small) = Small::mount(site.path().join("data")) else {
        return;
    };
    let worker = site.start(&[]).await;
    let large = worker.post("large", 1, "source", vec![0; 9 << 20]).await;
    assert_eq!(large.status(), 429);
    assert!(large.headers().contains_key("retry-after"));
    assert_eq!(large.json::<Value>().await.unwrap()["code"], "no_disk");
    let file = vec![0; 1 << 20];
    assert_eq!(
        worker.post("a", 1, "source", file.clone()).await.status(),
        202
    );
    site.hub.last("a", "COLLECTING").await;

    // Now it fills up, to the last byte.
    let filler = small.0.join("filler");
    let mut full = std::fs::File::create(&filler).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while full.write_all(&vec![0; size]).is_ok() {}
    }
    let refused = worker.post("b", 1, "source", file).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "no_disk");
    assert_eq!(worker.get("analyzeId=a").await.status(), 200);
    assert_eq!(worker.delete("analyzeId=a").await.status(), 204);
    worker.stop().await;
    std::fs::remove_file(filler).unwrap();
    let worker = site.start(&[]).await;
    assert_eq!(worker.get("analyzeId=a").await.status(), 410);
    assert_eq!(site.left_over(), Vec::<String>::new());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_on_the_same_data_says_so() {
    let site = Site::new().await;
    let worker = site.start(&[]).await;
    let error = site.try_start(&[]).await.unwrap_err();
    assert!(error.contains("another worker runs on"), "{error}");
    worker.stop().await;
    site.start(&[]).await;
}
