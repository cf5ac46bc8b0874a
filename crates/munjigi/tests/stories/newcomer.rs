//! What someone meets who uses the commands for the first time, and what they are told.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use munjigi_testkit::eventually;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::main_job::{Up, munjigi, up};
use crate::{VULNERABLE, binary};

const WITHIN: Duration = Duration::from_secs(60);

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn alone(arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .output()
        .await
        .unwrap()
}

/// A file to submit, and its name as an argument.
fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The job that `submit` without `--follow` started.
async fn submitted(up: &Up, data: &Path, arguments: &[&str]) -> (String, Output) {
    let output = munjigi(up, data, &[&["submit"], arguments].concat()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    (said.split_whitespace().next().unwrap().to_owned(), output)
}

async fn status(up: &Up, data: &Path, event_id: &str) -> Value {
    let listed = munjigi(up, data, &["jobs", "--json"]).await;
    let jobs = stdout(&listed);
    let job = jobs.lines().find(|line| line.contains(event_id));
    job.map_or(Value::Null, |job| serde_json::from_str(job).unwrap())
}

#[tokio::test]
async fn a_model_that_nobody_offers_is_said_and_the_job_waits() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = up(&data).await;
    let file = file(folder.path(), "ping.py", VULNERABLE);

    let (event_id, output) = submitted(&up, &data, &[&file, "--model", "sauce"]).await;
    let warned = stderr(&output);
    assert!(
        warned.contains("warning: no worker offers the model `sauce` now; offered: source"),
        "{warned}"
    );
    assert!(
        warned.contains(&format!("munjigi cancel {event_id}")),
        "{warned}"
    );

    // Whoever follows is told the job first, then why it waits and what can be done, once.
    let mut watching = Command::new(binary())
        .args(["watch", &event_id])
        .env("MUNJIGI_HUB", up.runtime["url"].as_str().unwrap())
        .env(
            "MUNJIGI_TOKEN",
            std::fs::read_to_string(data.join("cli.token"))
                .unwrap()
                .trim(),
        )
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut told = Vec::new();
    let reading = async {
        while !told
            .iter()
            .any(|line: &String| line.contains("munjigi cancel"))
        {
            told.push(lines.next_line().await.unwrap().unwrap());
        }
    };
    tokio::time::timeout(WITHIN, reading).await.unwrap();
    assert_eq!(told[0], format!("job {event_id}  ping.py"));
    assert!(
        told.contains(&"QUEUED: no worker offers the model `sauce`; offered: source".to_owned()),
        "{told:#?}"
    );

    // A job that goes on is not deleted, one that has ended not cancelled; each says which command is meant.
    let early = munjigi(&up, &data, &["delete", &event_id]).await;
    assert_eq!(early.status.code(), Some(1));
    assert!(
        stderr(&early).contains("munjigi cancel"),
        "{}",
        stderr(&early)
    );
    assert!(
        munjigi(&up, &data, &["cancel", &event_id])
            .await
            .status
            .success()
    );
    tokio::time::timeout(WITHIN, watching.wait())
        .await
        .unwrap()
        .unwrap();

    assert_eq!(up.program.stop().await.unwrap(), 0);
}

#[tokio::test]
async fn a_job_that_has_ended_is_deleted_and_it_is_said_what_went() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = up(&data).await;
    let file = file(folder.path(), "ping.py", VULNERABLE);
    let (fine, output) = submitted(&up, &data, &[&file]).await;
    assert!(!stderr(&output).contains("warning"), "{}", stderr(&output));
    munjigi(&up, &data, &["watch", &fine]).await;
    let late = munjigi(&up, &data, &["cancel", &fine]).await;
    assert_eq!(late.status.code(), Some(1));
    assert!(
        stderr(&late).contains("munjigi delete"),
        "{}",
        stderr(&late)
    );
    let deleted = munjigi(&up, &data, &["delete", &fine]).await;
    assert_eq!(
        stdout(&deleted).trim(),
        format!("{fine}  deleted: ping.py, its events, 1 finding, 1 result")
    );
    assert_eq!(status(&up, &data, &fine).await, Value::Null);
    let again = munjigi(&up, &data, &["delete", &fine]).await;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(up.program.stop().await.unwrap(), 0);
}

#[tokio::test]
async fn what_can_not_be_uploaded_is_refused_before_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = up(&data).await;
    let empty = file(folder.path(), "empty.zip", "");
    let refused = munjigi(&up, &data, &["submit", &empty, "--follow"]).await;
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(
        said.contains("empty.zip is empty") && said.contains("hint: "),
        "{said}"
    );
    let jobs = munjigi(&up, &data, &["jobs"]).await;
    assert!(stdout(&jobs).contains("no jobs yet"), "{}", stdout(&jobs));
    // The machine's face: only JSON on standard output, the job's id at once beside it.
    let good = file(folder.path(), "ping.py", VULNERABLE);
    let output = munjigi(&up, &data, &["submit", &good, "--follow", "--json"]).await;
    let lines = stdout(&output);
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let job = format!("job: {}\n", first["eventId"].as_str().unwrap());
    assert_eq!(stderr(&output), job);
    assert_eq!(up.program.stop().await.unwrap(), 0);
}

#[tokio::test]
async fn a_drained_worker_gets_no_new_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = up(&data).await;
    let file = file(folder.path(), "ping.py", VULNERABLE);
    let admin = up.runtime["admin"].as_str().unwrap().to_owned();
    let workers = || async {
        let listed = alone(&["backends", "MODEL-SERVER", "--json", "--admin", &admin]).await;
        let backends = stdout(&listed);
        backends
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|backend| backend["address"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let both = eventually("both workers are known", WITHIN, async || {
        let all = workers().await;
        (all.len() == 2).then_some(all)
    })
    .await
    .unwrap();
    // Until here the hub may not know of the workers, so that none would offer anything.
    let (first, _) = submitted(&up, &data, &[&file]).await;
    assert!(
        munjigi(&up, &data, &["watch", &first])
            .await
            .status
            .success()
    );
    for address in &both {
        let drained = alone(&["drain", "MODEL-SERVER", address, "--admin", &admin]).await;
        let said = stdout(&drained);
        assert!(
            said.contains("no balanced requests") && said.contains("no new jobs"),
            "{said}"
        );
    }
    // With every worker drained a job waits, and says so: nothing is placed, nothing fails.
    let drained = eventually("the hub knows that they are drained", WITHIN, async || {
        let (event_id, output) = submitted(&up, &data, &[&file]).await;
        if stderr(&output).contains("none offers any") {
            return Some(event_id);
        }
        munjigi(&up, &data, &["watch", &event_id]).await;
        None
    })
    .await
    .unwrap();
    eventually("it is said why it waits", WITHIN, async || {
        let job = status(&up, &data, &drained).await;
        let said = job["analyses"][0]["message"].as_str().unwrap_or_default();
        assert_eq!(job["status"], "QUEUED");
        (said == "each worker that offers the model `source` is drained").then_some(())
    })
    .await
    .unwrap();
    let undone = alone(&[
        "drain",
        "MODEL-SERVER",
        &both[1],
        "--undo",
        "--admin",
        &admin,
    ])
    .await;
    assert!(undone.status.success());
    let watched = munjigi(&up, &data, &["watch", &drained]).await;
    assert!(watched.status.success(), "{}", stdout(&watched));
    assert_eq!(up.program.stop().await.unwrap(), 0);
}

#[tokio::test]
async fn a_taken_address_says_who_has_it_and_how_to_take_another() {
    let folder = tempfile::tempdir().unwrap();
    let first = up(&folder.path().join("first")).await;
    let url = first.runtime["url"].as_str().unwrap();
    let listen = url.strip_prefix("http://").unwrap();
    let data = folder.path().join("second");
    let arguments = [
        "up",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        listen,
        "--no-open",
    ];
    let refused = alone(&arguments).await;
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    let owner = format!("by munjigi (process {})", first.program.id().unwrap());
    assert!(said.contains(listen) && said.contains(&owner), "{said}");
    assert!(said.contains("--listen 127.0.0.1:0"), "{said}");
    assert_eq!(first.program.stop().await.unwrap(), 0);
}

#[tokio::test]
async fn filters_and_requests_without_meaning_are_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let settings = file(
        folder.path(),
        "gate.toml",
        "[gate]\n[[gate.listener]]\nname = \"web\"\naddress = \"127.0.0.1:8443\"\n\
         [[gate.listener]]\nname = \"inner\"\naddress = \"127.0.0.1:8080\"\n\
         [[gate.route]]\nname = \"app\"\npath = \"/\"\nlistener = [\"inner\"]\nservice = \"APP\"\n\
         [gate.service.APP]\nbackends = [ { address = \"127.0.0.1:1\" } ]\n",
    );
    let explain = |method: &'static str, url: &'static str| {
        let arguments = ["explain", "request", method, url, "--config", &settings];
        let arguments = arguments.map(str::to_owned);
        async move { alone(&arguments.each_ref().map(String::as_str)).await }
    };
    let inner = explain("GET", "http://127.0.0.1:8080/a").await;
    assert!(
        stdout(&inner).contains("listener inner"),
        "{}",
        stdout(&inner)
    );
    assert!(stdout(&inner).contains("127.0.0.1:1"), "{}", stdout(&inner));
    let web = explain("GET", "http://127.0.0.1:8443/a").await;
    assert!(stdout(&web).contains("listener web"), "{}", stdout(&web));
    let other = explain("GET", "http://127.0.0.1:9/a").await;
    assert!(
        stderr(&other).contains("--listener NAME"),
        "{}",
        stderr(&other)
    );
    for (method, url) in [
        ("http://x/", "GET"),
        ("GET", "http://x/a b"),
        ("GET", "gopher://x/"),
    ] {
        let refused = explain(method, url).await;
        assert_eq!(refused.status.code(), Some(2), "{method} {url}");
        assert!(stderr(&refused).contains("hint: "), "{}", stderr(&refused));
    }
    for filter in ["infoo", "munjigi_gat=debug", "munjigi_gate=loud"] {
        let refused = alone(&["check", &settings, "--log", filter]).await;
        assert_eq!(refused.status.code(), Some(2), "{filter}");
        let said = stderr(&refused);
        assert!(
            said.contains("error: --log") && said.contains("hint: write"),
            "{said}"
        );
    }
    let good = alone(&["check", &settings, "--log", "munjigi_gate=debug,info"]).await;
    assert!(good.status.success());
}
