//! The storage core without a face: random requests, crashes, full disks.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use fastrand::Rng;
use futures_util::stream;
use munjigi_events::UserId;
use munjigi_foundation::clock::{Clock, Timestamp};
use munjigi_foundation::settings::Size;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::digest::Checksum;
use super::error::UploadError;
use super::receive::Append;
use super::storage::New;
use super::{Upload, Uploads, UploadsWiring, pin, unpin};
use crate::settings::Limits;
use crate::store::Store;

/// A core in a folder, which can crash.
struct Core {
    dir: tempfile::TempDir,
    store: Store,
    uploads: Uploads,
    clock: Clock,
    limits: Limits,
    shutdown: CancellationToken,
}

fn ann() -> UserId {
    UserId::from("ann")
}

impl Core {
    async fn new(limits: Limits) -> Self {
        Self::on(tempfile::tempdir().unwrap(), limits).await
    }

    async fn on(dir: tempfile::TempDir, limits: Limits) -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let store = Store::open(&dir.path().join("hub.db"), &tasks)
            .await
            .unwrap();
        store
            .write(|tx| {
                Box::pin(async move {
                    let insert = "INSERT OR IGNORE INTO users (id, name, admin, created_at) VALUES ('ann', 'ann', 0, 0)";
                    sqlx::query(insert).execute(tx).await?;
                    Ok(())
                })
            })
            .await
            .unwrap();
        let uploads = Uploads::start(UploadsWiring {
            store: store.clone(),
            folder: dir.path().join("uploads"),
            clock: clock.clone(),
            limits,
            keep: Duration::from_secs(3_600),
            tasks,
            shutdown: shutdown.clone(),
        })
        .await
        .unwrap();
        Self {
            dir,
            store,
            uploads,
            clock,
            limits,
            shutdown,
        }
    }

    /// What a crash leaves: nothing is told to end, and bytes that nobody acknowledged lie behind the end.
    async fn crash(self, id: &str) -> Self {
        let file = self.dir.path().join("uploads").join(id);
        OpenOptions::new()
            .append(true)
            .open(file)
            .unwrap()
            .write_all(b"never acknowledged")
            .unwrap();
        std::fs::write(self.dir.path().join("uploads/orphan"), b"x").unwrap();
        let Self { dir, limits, .. } = self;
        let again = Self::on(dir, limits).await;
        assert!(!again.dir.path().join("uploads/orphan").exists());
        again
    }

    async fn create(&self, length: Option<u64>) -> Result<Upload, UploadError> {
        let new = New {
            name: "a.zip".to_owned(),
            length,
            ..New::default()
        };
        self.uploads.create(&ann(), new).await
    }

    async fn append(&self, id: &str, append: Append, body: Body) -> Result<Upload, UploadError> {
        self.uploads.append(&ann(), id, append, body).await
    }

    async fn content(&self, id: &str) -> Vec<u8> {
        use tokio::io::AsyncReadExt as _;
        let (mut file, length) = self.uploads.open(id).await.unwrap();
        let mut content = Vec::new();
        file.read_to_end(&mut content).await.unwrap();
        assert_eq!(u64::try_from(content.len()).unwrap(), length);
        content
    }
}

fn at(offset: u64) -> Append {
    Append {
        offset,
        length: None,
        body: None,
        last: false,
        checksum: None,
        sha256: None,
    }
}

fn limits() -> Limits {
    Limits {
        disk_free: Some(Size(0)),
        ..Limits::default()
    }
}

/// A body in pieces; with `cut`, the client vanishes at its end.
fn body(bytes: &[u8], random: &mut Rng, cut: bool) -> Body {
    let mut pieces: Vec<io::Result<Bytes>> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.usize(1..=rest.len().min(300_000)));
        pieces.push(Ok(Bytes::copy_from_slice(piece)));
        rest = after;
    }
    if cut {
        pieces.push(Err(io::ErrorKind::ConnectionReset.into()));
    }
    Body::from_stream(stream::iter(pieces))
}

/// One request of a kind; what it must not do is judged here, what it did by its caller.
async fn one_request(
    core: &Core,
    id: &str,
    mut append: Append,
    part: &[u8],
    kind: u8,
    random: &mut Rng,
) -> Result<Upload, UploadError> {
    let offset = append.offset;
    match kind {
        0 => {
            append.offset += random.u64(1..=9);
            let wrong = core.append(id, append, Body::from(part.to_vec())).await;
            assert!(
                matches!(wrong, Err(UploadError::Offset { expected, .. }) if expected == offset)
            );
            wrong
        }
        1 => core.append(id, append, body(part, random, true)).await,
        2 => {
            append.checksum = Checksum::new("sha256", vec![0; 32]);
            let wrong = core.append(id, append, body(part, random, false)).await;
            assert!(matches!(wrong, Err(UploadError::Checksum)), "{wrong:?}");
            wrong
        }
        3 => {
            append.checksum = Checksum::new("sha256", Sha256::digest(part).to_vec());
            core.append(id, append, body(part, random, false)).await
        }
        _ => core.append(id, append, body(part, random, false)).await,
    }
}

async fn one_run(seed: u64) {
    eprintln!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let mut content = vec![0; random.usize(1..=3_000_000)];
    random.fill(&mut content);
    let length = u64::try_from(content.len()).unwrap();
    let deferred = random.u8(..3) == 0;
    let mut core = Core::new(limits()).await;
    let id = core.create((!deferred).then_some(length)).await.unwrap().id;
    let mut upload = core.uploads.status(&ann(), &id).await.unwrap();
    while !upload.complete {
        let offset = upload.received;
        let from = usize::try_from(offset).unwrap();
        let left = content.len() - from;
        let size = random.usize(..=left * 2).min(left);
        let part = &content[from..from + size];
        let mut append = at(offset);
        if random.u8(..4) == 0 {
            append.length = Some(length);
        }
        let kind = random.u8(..8);
        if kind == 4 {
            core = core.crash(&id).await;
            continue;
        }
        append.last = kind == 5 && deferred && upload.length.is_none() && size == left;
        let outcome = one_request(&core, &id, append, part, kind, &mut random).await;
        let now = core.uploads.status(&ann(), &id).await.unwrap();
        assert!(now.received >= offset, "seed {seed}: an offset went back");
        if let Ok(answered) = outcome {
            assert_eq!(
                answered.received,
                offset + u64::try_from(size).unwrap(),
                "seed {seed}"
            );
        }
        upload = now;
    }
    assert_eq!(core.content(&id).await, content, "seed {seed}");
    assert_eq!(
        upload.sha256.unwrap(),
        <[u8; 32]>::from(Sha256::digest(&content)),
        "seed {seed}"
    );
    assert_eq!(
        upload.blake3.unwrap(),
        *blake3::hash(&content).as_bytes(),
        "seed {seed}"
    );
    core.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_requests_come_the_bytes_and_digests_are_those_sent() {
    for seed in 1..=12 {
        one_run(seed).await;
    }
}

#[tokio::test]
async fn a_long_request_is_acknowledged_on_its_way() {
    let core = Core::new(limits()).await;
    let id = core.create(Some(80 << 20)).await.unwrap().id;
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let uploads = core.uploads.clone();
    let tasks = TaskTracker::new();
    let writing = {
        let id = id.clone();
        tasks.spawn(async move {
            uploads
                .append(&ann(), &id, at(0), Body::from_stream(stream))
                .await
        })
    };
    let megabyte = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..40 {
        sender.send(Ok(megabyte.clone())).await.unwrap();
    }
    // Nobody stopped the request; what it brought so far was acknowledged in steps.
    let row = core.uploads.get(&ann(), &id).await.unwrap().unwrap();
    assert!(row.received >= 32 << 20, "{}", row.received);
    let head = core.uploads.status(&ann(), &id).await.unwrap();
    assert!(
        head.received >= 38 << 20,
        "HEAD makes all that came durable: {}",
        head.received
    );
    let outcome = writing.await.unwrap();
    assert!(
        matches!(outcome, Err(UploadError::Interrupted { offset }) if offset == head.received),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_silent_request_ends_and_what_came_is_kept() {
    let idle = Duration::from_millis(50);
    let core = Core::new(Limits { idle, ..limits() }).await;
    let id = core.create(Some(100)).await.unwrap().id;
    let stalled = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"0123456789"))]);
    let stalled = futures_util::StreamExt::chain(stalled, stream::pending());
    let outcome = core.append(&id, at(0), Body::from_stream(stalled)).await;
    assert!(
        matches!(outcome, Err(UploadError::Idle { offset: 10, .. })),
        "{outcome:?}"
    );
    assert_eq!(core.uploads.status(&ann(), &id).await.unwrap().received, 10);
}

#[tokio::test]
async fn a_pinned_upload_stays() {
    let core = Core::new(limits()).await;
    let upload = core.create(Some(0)).await.unwrap();
    assert!(upload.complete);
    let id = upload.id.clone();
    let pinned = core
        .store
        .write(move |tx| Box::pin(async move { pin(tx, &id).await }))
        .await;
    assert!(pinned.unwrap());
    core.clock.advance(Duration::from_secs(7_200));
    core.uploads.sweep().await.unwrap();
    assert!(!core.uploads.remove(&upload.id).await.unwrap());
    assert!(matches!(
        core.uploads.terminate(&ann(), &upload.id).await,
        Err(UploadError::InUse)
    ));
    assert_eq!(core.content(&upload.id).await, b"");
    let id = upload.id.clone();
    core.store
        .write(move |tx| Box::pin(async move { unpin(tx, &id).await }))
        .await
        .unwrap();
    core.uploads.sweep().await.unwrap();
    assert!(
        core.uploads
            .get(&ann(), &upload.id)
            .await
            .unwrap()
            .is_none()
    );
    assert!(core.uploads.open(&upload.id).await.is_err());
    let gone = core
        .store
        .write(|tx| Box::pin(async move { pin(tx, "nothing").await }))
        .await;
    assert!(!gone.unwrap());
}

#[tokio::test]
async fn an_upload_that_lost_its_bytes_goes_at_the_start() {
    let core = Core::new(limits()).await;
    let id = core.create(Some(100)).await.unwrap().id;
    core.append(&id, at(0), Body::from("0123456789"))
        .await
        .unwrap();
    std::fs::write(core.dir.path().join("uploads").join(&id), b"0123").unwrap();
    let Core { dir, limits, .. } = core;
    let again = Core::on(dir, limits).await;
    assert!(again.uploads.get(&ann(), &id).await.unwrap().is_none());
}

#[tokio::test]
async fn only_ids_of_ours_name_files() {
    let core = Core::new(limits()).await;
    for id in [
        "",
        ".",
        "..",
        "../hub.db",
        "/etc/passwd",
        "A0000000000000000000000000",
        "a/b",
    ] {
        assert_eq!(
            core.uploads.open(id).await.unwrap_err().kind(),
            io::ErrorKind::NotFound,
            "{id}"
        );
        assert!(core.uploads.get(&ann(), id).await.unwrap().is_none());
    }
    assert!(core.dir.path().join("hub.db").exists());
}

#[tokio::test]
async fn the_watermark_and_the_quota_are_kept() {
    let tight = Limits {
        disk_free: Some(Size(u64::MAX >> 1)),
        ..limits()
    };
    let core = Core::new(tight).await;
    assert!(matches!(
        core.create(Some(1)).await,
        Err(UploadError::NoSpace)
    ));
    let core = Core::new(Limits {
        user: Size(100),
        user_uploads: 3,
        upload: Size(80),
        ..limits()
    })
    .await;
    assert!(matches!(
        core.create(Some(81)).await,
        Err(UploadError::TooLarge(_))
    ));
    let (first, second) = tokio::join!(core.create(Some(60)), core.create(Some(60)));
    assert!(
        first.is_ok() != second.is_ok(),
        "two at once can't both take the rest"
    );
    assert!(matches!(first.and(second), Err(UploadError::Quota(_))));
    core.create(Some(40)).await.unwrap();
    core.create(Some(0)).await.unwrap();
    assert!(matches!(
        core.create(Some(0)).await,
        Err(UploadError::TooMany(3))
    ));
    let files = std::fs::read_dir(core.dir.path().join("uploads"))
        .unwrap()
        .count();
    assert_eq!(files, 3, "what was refused left nothing behind");
}

/// A file system of 8 MiB, when the test may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("NOT RUN: A FULL DISK (a tmpfs can't be mounted here)");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(
            std::process::Command::new("umount")
                .arg("-l")
                .arg(self.0.path())
                .output(),
        );
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_keeps_what_was_acknowledged() {
    let Some(disk) = SmallDisk::new() else {
        return;
    };
    let dir = tempfile::tempdir_in(disk.0.path()).unwrap();
    let unset = Limits {
        disk_free: None,
        ..limits()
    };
    let core = Core::on(dir, unset).await;
    let stays_free = core.uploads.disk().await.unwrap().watermark;
    assert_eq!(stays_free, (8 << 20) / 20, "5 % of a small disk");
    assert!(matches!(
        core.create(Some(16 << 20)).await,
        Err(UploadError::NoSpace)
    ));
    let id = core.create(None).await.unwrap().id;
    core.append(&id, at(0), Body::from(vec![1; 2 << 20]))
        .await
        .unwrap();
    let outcome = core
        .append(&id, at(2 << 20), Body::from(vec![2; 16 << 20]))
        .await;
    assert!(matches!(outcome, Err(UploadError::NoSpace)), "{outcome:?}");
    let upload = core.uploads.status(&ann(), &id).await.unwrap();
    assert_eq!(upload.received, 2 << 20);
    core.create(Some(1 << 20))
        .await
        .expect("what did not fit is given back");
    core.uploads.terminate(&ann(), &id).await.unwrap();
    core.create(Some(4 << 20)).await.unwrap();
    core.shutdown.cancel();
}
