//! The main job by command line: `up`, `submit --follow`, findings; the worker's copy is gone; a restart goes on.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use munjigi_testkit::{Client, Program};
use serde_json::Value;
use tokio::process::Command;

use crate::{VULNERABLE, binary};

pub(crate) struct Up {
    pub(crate) program: Program,
    pub(crate) line: String,
    pub(crate) runtime: Value,
}

pub(crate) async fn up(data: &Path) -> Up {
    let arguments = [
        "up",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--no-open",
    ];
    let log = data.with_extension("log");
    let mut program = Program::start(binary(), &arguments, &log).unwrap();
    let line = program.line().await.unwrap();
    let runtime = std::fs::read(data.join("runtime.json")).unwrap();
    Up {
        program,
        line,
        runtime: serde_json::from_slice(&runtime).unwrap(),
    }
}

pub(crate) async fn munjigi(up: &Up, data: &Path, arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .env("MUNJIGI_HUB", up.runtime["url"].as_str().unwrap())
        .env(
            "MUNJIGI_TOKEN",
            std::fs::read_to_string(data.join("cli.token"))
                .unwrap()
                .trim(),
        )
        .output()
        .await
        .unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The worker answers 410 for what the hub has collected.
async fn workers_copy_is_gone(up: &Up, data: &Path, done: &Value) {
    let inner = up.runtime["inner"].as_str().unwrap();
    let secret = std::fs::read_to_string(data.join("cluster.secret")).unwrap();
    let gone = reqwest::Client::new()
        .get(format!(
            "{inner}/analysis?serverId={}&analyzeId={}",
            done["serverId"].as_str().unwrap(),
            done["analyzeId"].as_str().unwrap()
        ))
        .bearer_auth(secret.trim())
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 410);
}

/// `munjigi result` writes what a result holds.
async fn result_is_fetched(up: &Up, data: &Path, folder: &Path, event_id: &str) {
    let out = folder.join("out");
    let result = munjigi(up, data, &["result", event_id, "-o", out.to_str().unwrap()]).await;
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    let found = walk(&out);
    for name in [
        "findings.jsonl",
        "report.sarif",
        "coverage.json",
        "summary.json",
    ] {
        assert!(
            found.iter().any(|path| path.ends_with(name)),
            "{name} is not in {found:?}"
        );
    }
}

#[tokio::test]
async fn an_archive_becomes_findings_with_one_command() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = up(&data).await;
    assert!(
        up.line.contains("http://127.0.0.1:") && up.line.contains("token="),
        "{}",
        up.line
    );
    let file = folder.path().join("ping.py");
    std::fs::write(&file, VULNERABLE).unwrap();

    let submitted = munjigi(
        &up,
        &data,
        &["submit", file.to_str().unwrap(), "--follow", "--json"],
    )
    .await;
    assert!(
        submitted.status.success(),
        "{}",
        String::from_utf8_lossy(&submitted.stderr)
    );
    let lines = lines(&submitted);
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(summary["status"], "DONE", "{summary}");
    let done = lines.iter().find(|line| line["status"] == "DONE").unwrap();
    let event_id = done["eventId"].as_str().unwrap();

    workers_copy_is_gone(&up, &data, done).await;

    // The findings are there, by API and as files.
    let client = Client::new(
        up.runtime["url"].as_str().unwrap(),
        &std::fs::read_to_string(data.join("cli.token")).unwrap(),
    );
    let findings = client
        .get(&format!("/api/jobs/{event_id}/findings"))
        .await
        .unwrap();
    let first = &findings["findings"][0];
    assert_eq!(
        first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
        "ping.py"
    );
    result_is_fetched(&up, &data, folder.path(), event_id).await;

    // What could not be read is not called clean.
    let broken = folder.path().join("broken.zip");
    std::fs::write(&broken, "this is no archive").unwrap();
    let arguments = ["submit", broken.to_str().unwrap(), "--follow"];
    let output = munjigi(&up, &data, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = "source: nothing was analysed: nothing could be read; broken.zip: not a zip archive";
    assert!(said.contains(line), "{said}");
    assert!(
        said.contains("\nDONE, but nothing was analysed\n"),
        "{said}"
    );
    assert!(!said.contains("munjigi result"), "{said}");
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        warned.contains("warning: no finding here does not mean"),
        "{warned}"
    );
    assert_eq!(summary["analyses"][0]["coverage"]["analysed"], 1);

    // --fail-on makes findings an exit code.
    let failing = munjigi(
        &up,
        &data,
        &["submit", file.to_str().unwrap(), "--fail-on", "warning"],
    )
    .await;
    assert_eq!(failing.status.code(), Some(1));
    assert_eq!(up.program.stop().await.unwrap(), 0);
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("ping.py");
    std::fs::write(&file, VULNERABLE).unwrap();
    let first = up(&data).await;
    let submitted = munjigi(
        &first,
        &data,
        &["submit", file.to_str().unwrap(), "--follow"],
    )
    .await;
    assert!(submitted.status.success());
    first.program.kill().await.unwrap();

    let started = tokio::time::Instant::now();
    let second = up(&data).await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let jobs = munjigi(&second, &data, &["jobs", "--json"]).await;
    let text = String::from_utf8_lossy(&jobs.stdout).into_owned();
    assert!(jobs.status.success() && text.contains("DONE"), "{text}");

    // Nobody else can work on the same data meanwhile.
    let other = Command::new(binary())
        .args([
            "up",
            "--data",
            data.to_str().unwrap(),
            "--listen",
            "127.0.0.1:0",
            "--no-open",
        ])
        .output()
        .await
        .unwrap();
    assert_eq!(other.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&other.stderr).contains("error: "));
    assert_eq!(second.program.stop().await.unwrap(), 0);
}

#[tokio::test]
async fn what_holds_secrets_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = up(&data).await;
    for name in ["runtime.json", "cli.token", "cluster.secret", "admin.sock"] {
        let mode = std::fs::metadata(data.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(up.program.stop().await.unwrap(), 0);
    // The link was printed, never logged.
    let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
    let token = up
        .line
        .split("token=")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    assert!(!log.contains(token));
}

#[tokio::test]
async fn commands_without_a_hub_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.py");
    std::fs::write(&file, VULNERABLE).unwrap();
    let output = Command::new(binary())
        .args([
            "submit",
            file.to_str().unwrap(),
            "--hub",
            "http://127.0.0.1:9",
            "--token",
            "x",
            "--follow",
        ])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.starts_with("error: ") && error.contains("hint: "),
        "{error}"
    );
}
