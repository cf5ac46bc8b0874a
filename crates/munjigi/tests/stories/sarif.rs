//! A command that writes SARIF, as a model: `format = "sarif"`.

use std::path::PathBuf;
use std::time::Duration;

use munjigi_testkit::{Client, Site, SiteKind, eventually};
use serde_json::{Value, json};

use crate::binary;

async fn ended(client: &Client, upload: &str) -> Value {
    let event_id = client.job(upload, &["slow"]).await.unwrap();
    let path = format!("/api/jobs/{event_id}");
    let patience = Duration::from_secs(60);
    let job = eventually("the job has ended", patience, async || {
        let job = client.get(&path).await.ok()?;
        matches!(job["status"].as_str(), Some("DONE" | "FAILED")).then_some(job)
    });
    job.await.unwrap()
}

#[tokio::test]
async fn any_command_that_writes_sarif_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stories/models/finder.py");
    let model = format!("[\"python3\", {script:?}, \"{{output}}\"], format = \"sarif\"");
    let kind = SiteKind::OneProcess;
    let mut site = Site::new(binary(), folder.path(), kind, Some(&model)).unwrap();
    site.start().await.unwrap();
    let client = site.client().await.unwrap();

    let upload = client.upload("one.py", b"x = 1\neval(x)\n".to_vec());
    let job = ended(&client, &upload.await.unwrap()).await;
    assert_eq!(job["status"], "DONE", "{job}");
    let (event_id, analysis) = (&job["eventId"], &job["analyses"][0]["analyzeId"]);
    let base = format!("/api/jobs/{}", event_id.as_str().unwrap());
    let found = client
        .get(&format!("{base}/findings?cwe=95"))
        .await
        .unwrap();
    let finding = &found["findings"][0];
    assert_eq!(
        (&finding["ruleId"], &finding["level"]),
        (&json!("py.eval"), &json!("error"))
    );
    let place = "/locations/0/physicalLocation/artifactLocation/uri";
    assert_eq!(finding.pointer(place).unwrap(), "one.py");
    let report = client.get(&format!("{base}/report.sarif")).await.unwrap();
    let reached = "/runs/0/tool/driver/properties/reached";
    assert_eq!(
        report.pointer(reached),
        Some(&json!([])),
        "out of the sandbox"
    );
    let analysis = analysis.as_str().unwrap();
    let summary = format!("{base}/coverage/{analysis}/summary");
    assert_eq!(client.get(&summary).await.unwrap()["analysed"], 1);

    let upload = client.upload("broken.py", b"x".to_vec()).await.unwrap();
    let job = ended(&client, &upload).await;
    assert_eq!(job["status"], "FAILED");
    let error = job["analyses"][0]["error"].as_str().unwrap();
    assert!(
        error.contains("python3 wrote no SARIF 2.1.0: there is no report"),
        "{error}"
    );
    assert!(error.contains("the rules are wrong"), "{error}");
    site.stop().await.unwrap();
}
