//! A second user sees nothing of the first one's; a revoked token's socket closes.

use std::time::Duration;

use munjigi_testkit::{Client, Ledger, Pushed, Site, SiteKind};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{VULNERABLE, binary, slow_model};

#[tokio::test]
async fn what_is_not_yours_does_not_exist() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(binary(), folder.path(), SiteKind::OneProcess, None).unwrap();
    site.start().await.unwrap();
    let first = site.client().await.unwrap();
    let upload = first.upload("ping.py", VULNERABLE.into()).await.unwrap();
    let event_id = first.job(&upload, &["source"]).await.unwrap();

    let made = first
        .send(Method::POST, "/api/users", Some(json!({"name": "second"})))
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    let made: Value = made.json().await.unwrap();
    let second = Client::by_link(&first.base, made["signIn"].as_str().unwrap())
        .await
        .unwrap();

    assert_eq!(second.get("/api/jobs").await.unwrap()["jobs"], json!([]));
    let analyze_id =
        first.get(&format!("/api/jobs/{event_id}")).await.unwrap()["analyses"][0]["analyzeId"]
            .clone();
    let analyze_id = analyze_id.as_str().unwrap();
    let job = format!("/api/jobs/{event_id}");
    let upload_path = format!("/api/uploads/{upload}");
    for (method, path) in [
        (Method::GET, job.clone()),
        (Method::DELETE, job.clone()),
        (Method::GET, format!("{job}/events")),
        (Method::GET, format!("{job}/findings")),
        (Method::GET, format!("{job}/report.sarif")),
        (Method::GET, format!("{job}/results/{analyze_id}.tar.zst")),
        (Method::GET, format!("{job}/coverage/{analyze_id}")),
        (Method::GET, format!("{job}/coverage/{analyze_id}/summary")),
        (Method::HEAD, upload_path.clone()),
        (Method::DELETE, upload_path),
    ] {
        let answer = second.send(method.clone(), &path, None).await.unwrap();
        assert_eq!(answer.status(), 404, "{method} {path}");
    }
    let stolen = json!({"upload": upload, "models": ["source"]});
    let answer = second
        .send(Method::POST, "/api/jobs", Some(stolen))
        .await
        .unwrap();
    assert_eq!(answer.status(), 404);
    let answer = second
        .send(Method::GET, "/api/admin/workers", None)
        .await
        .unwrap();
    assert!(
        answer.status() == 403 || answer.status() == 404,
        "{}",
        answer.status()
    );

    let mut socket = second.follow(&event_id, None).await.unwrap();
    let pushed = socket.next().await.unwrap();
    assert!(matches!(pushed, Pushed::Error { .. }), "{pushed:?}");
    socket
        .send(&json!({"type": "cancel", "eventId": event_id}))
        .await
        .unwrap();
    let pushed = socket.next().await.unwrap();
    assert!(matches!(pushed, Pushed::Error { .. }), "{pushed:?}");
    let job = first.get(&format!("/api/jobs/{event_id}")).await.unwrap();
    assert!(
        !job["status"].as_str().unwrap().starts_with("CANCEL"),
        "{job}"
    );
    site.stop().await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_closes_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(
        binary(),
        folder.path(),
        SiteKind::OneProcess,
        Some(&slow_model()),
    )
    .unwrap();
    site.start().await.unwrap();
    let client = site.client().await.unwrap();
    let upload = client
        .upload("wait.txt", b"seconds=20\n".to_vec())
        .await
        .unwrap();
    let event_id = client.job(&upload, &["slow"]).await.unwrap();
    let mut socket = client.follow(&event_id, None).await.unwrap();
    socket.next().await.unwrap();

    let tokens = client.get("/api/tokens").await.unwrap();
    let id = tokens["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .find(|token| token["name"] == "test")
        .unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let revoked = client
        .send(Method::DELETE, &format!("/api/tokens/{id}"), None)
        .await
        .unwrap();
    assert!(revoked.status().is_success(), "{}", revoked.status());
    let closed = tokio::time::timeout(Duration::from_secs(3), async {
        while !matches!(socket.next().await.unwrap(), Pushed::Closed(_)) {}
    });
    closed.await.expect("the socket closes");
    let answer = client.send(Method::GET, "/api/jobs", None).await.unwrap();
    assert_eq!(answer.status(), 401);
    site.stop().await.unwrap();
}

/// Whatever the folders allow that an operator made beforehand.
#[tokio::test]
async fn what_is_kept_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(binary(), folder.path(), SiteKind::Split, None).unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    for made in ["hub", "worker-1", "worker-2"] {
        std::fs::create_dir_all(folder.path().join(made)).unwrap();
        std::fs::set_permissions(folder.path().join(made), open.clone()).unwrap();
    }
    site.start().await.unwrap();
    let client = site.client().await.unwrap();
    let upload = client.upload("ping.py", VULNERABLE.into()).await.unwrap();
    let event_id = client.job(&upload, &["source"]).await.unwrap();
    let mut ledger = Ledger::default();
    client
        .follow_until(
            &event_id,
            &mut ledger,
            Duration::from_secs(120),
            Ledger::ended,
        )
        .await
        .unwrap();
    let mut seen = 0;
    for made in ["hub", "worker-1", "worker-2"] {
        for file in site.files(made).unwrap() {
            let mode = std::fs::metadata(folder.path().join(made).join(&file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{made}/{file} has {mode:o}");
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen} files");
    site.stop().await.unwrap();
}
