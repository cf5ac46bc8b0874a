//! kill -9 and restart in each phase, in one process and with every role a process of its own: jobs finish or are
//! cancelled, no file is left over, no event is lost or doubled.

use std::time::Duration;

use munjigi_events::Status;
use munjigi_testkit::{Client, Ledger, Site, SiteKind, eventually};
use reqwest::Method;

use crate::{binary, slow_model};

const WITHIN: Duration = Duration::from_secs(120);

/// Where the kill falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Uploading,
    Reached(Status),
    Cancelling,
}

/// Runs one job of `seconds` and kills `victim` when `phase` is reached; the job must end as it would have.
async fn survive(site: &mut Site, victim: &str, phase: Phase, seconds: u32) {
    let client = site.client().await.unwrap();
    let mut file = format!("seconds={seconds} mib=24\n").into_bytes();
    file.resize(24 << 20, b'.');
    let upload = upload(site, &client, victim, phase, file).await;
    let event_id = client.job(&upload, &["slow"]).await.unwrap();
    let mut ledger = Ledger::default();

    match phase {
        Phase::Uploading => {}
        Phase::Reached(status) => {
            let reached =
                |ledger: &Ledger| ledger.events().iter().any(|event| event.status == status);
            client
                .follow_until(&event_id, &mut ledger, WITHIN, reached)
                .await
                .unwrap();
            site.kill(victim).await.unwrap();
            site.start().await.unwrap();
        }
        Phase::Cancelling => {
            let running = |ledger: &Ledger| {
                ledger
                    .events()
                    .iter()
                    .any(|event| event.status == Status::Running)
            };
            client
                .follow_until(&event_id, &mut ledger, WITHIN, running)
                .await
                .unwrap();
            let path = format!("/api/jobs/{event_id}");
            let answer = client.send(Method::DELETE, &path, None).await.unwrap();
            assert_eq!(answer.status(), 202);
            site.kill(victim).await.unwrap();
            site.start().await.unwrap();
        }
    }

    let ended = client
        .follow_until(&event_id, &mut ledger, WITHIN, Ledger::ended)
        .await;
    if let Err(error) = ended {
        panic!("{victim} at {phase:?}: {error:#}\n{}", site.log_tails());
    }
    println!("{victim} killed at {phase:?}: {}", ledger.story());
    let expected = if phase == Phase::Cancelling {
        Status::Cancelled
    } else {
        Status::Done
    };
    assert_eq!(ledger.fold().status(), expected, "{}", ledger.story());
    let job = client.get(&format!("/api/jobs/{event_id}")).await.unwrap();
    assert_eq!(job["status"], expected.as_str());
    nothing_left(site, &client, &event_id, expected).await;
}

/// Uploads `file`; when the kill falls into the upload, in two parts with the kill between and within them.
async fn upload(
    site: &mut Site,
    client: &Client,
    victim: &str,
    phase: Phase,
    file: Vec<u8>,
) -> String {
    if phase != Phase::Uploading {
        return client.upload("wait.txt", file).await.unwrap();
    }
    let length = u64::try_from(file.len()).unwrap();
    let path = client.create_upload("wait.txt", length).await.unwrap();
    let half = file.len() / 2;
    let acknowledged = client
        .append(&path, 0, file[..half].to_vec())
        .await
        .unwrap();
    site.kill(victim).await.unwrap();
    site.start().await.unwrap();
    let offset = client.upload_offset(&path).await.unwrap();
    assert!(
        offset >= acknowledged,
        "{acknowledged} bytes were acknowledged, {offset} are there"
    );
    let from = usize::try_from(offset).unwrap();
    assert_eq!(
        client
            .append(&path, offset, file[from..].to_vec())
            .await
            .unwrap(),
        length
    );
    path.rsplit('/').next().unwrap().to_owned()
}

/// Workers hold nothing of the job, and neither does the hub of a cancelled one.
async fn nothing_left(site: &Site, client: &Client, event_id: &str, status: Status) {
    let clean = eventually(
        "nothing is left over",
        Duration::from_secs(30),
        async || {
            let mut left = Vec::new();
            for worker in ["worker-1", "worker-2"] {
                let files = site.files(worker).unwrap();
                left.extend(
                    files
                        .into_iter()
                        .filter(|name| name.contains("ballast") || name.contains("input")),
                );
            }
            if status == Status::Cancelled {
                let files = site.files("hub").unwrap();
                left.extend(files.into_iter().filter(|name| name.contains(event_id)));
            }
            let pending = client.get("/api/admin/cleanup").await.ok()?;
            (left.is_empty() && pending["cleanups"] == serde_json::json!([])).then_some(())
        },
    );
    if let Err(error) = clean.await {
        panic!(
            "{error:#}: worker-1 {:?}, worker-2 {:?}, hub {:?}, cleanup {:?}",
            site.files("worker-1"),
            site.files("worker-2"),
            site.files("hub"),
            client.get("/api/admin/cleanup").await
        );
    }
}

const PHASES: &[Phase] = &[
    Phase::Uploading,
    Phase::Reached(Status::Queued),
    Phase::Reached(Status::Placed),
    Phase::Reached(Status::Receiving),
    Phase::Reached(Status::Running),
    Phase::Reached(Status::Collecting),
    Phase::Cancelling,
];

async fn chaos(kind: SiteKind, victims: &[&str], phases: &[Phase], seconds: u32) {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(binary(), folder.path(), kind, Some(&slow_model())).unwrap();
    site.start().await.unwrap();
    for phase in phases {
        for victim in victims {
            survive(&mut site, victim, *phase, seconds).await;
        }
    }
    for (name, code) in site.stop().await.unwrap() {
        assert_eq!(code, 0, "{name}");
    }
}

#[tokio::test]
async fn one_process_survives_kill_9_in_each_phase() {
    chaos(SiteKind::OneProcess, &["all"], PHASES, 2).await;
}

#[tokio::test]
async fn the_hub_survives_kill_9_in_each_phase() {
    chaos(SiteKind::Split, &["hub"], PHASES, 2).await;
}

#[tokio::test]
async fn jobs_survive_kill_9_of_gate_and_registry() {
    let phases = [
        Phase::Uploading,
        Phase::Reached(Status::Running),
        Phase::Cancelling,
    ];
    chaos(SiteKind::Split, &["gate", "registry"], &phases, 2).await;
}

#[tokio::test]
async fn jobs_survive_kill_9_of_both_workers() {
    let phases = [
        Phase::Reached(Status::Receiving),
        Phase::Reached(Status::Running),
        Phase::Reached(Status::Collecting),
        Phase::Cancelling,
    ];
    chaos(SiteKind::Split, &["worker-1", "worker-2"], &phases, 2).await;
}

#[tokio::test]
#[ignore = "many minutes; run by ./test --long"]
async fn jobs_of_ten_seconds_survive_kill_9_of_every_process_twice() {
    for _ in 0..2 {
        chaos(SiteKind::OneProcess, &["all", "worker-2"], PHASES, 10).await;
        chaos(
            SiteKind::Split,
            &["hub", "gate", "registry", "worker-1", "worker-2"],
            PHASES,
            10,
        )
        .await;
    }
}
