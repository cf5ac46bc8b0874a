//! The child's side of the model protocol, over pipes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use munjigi_analyzer::model;
use serde_json::{Value, json};

use crate::support::{Bench, SECRET, SERVLET, properties, zip_of};

/// Serves these lines to the end, and answers what came back.
fn exchange(bench: &Bench, lines: &[String]) -> Vec<Value> {
    let input = std::io::Cursor::new(lines.join("\n").into_bytes());
    let mut output = Vec::new();
    model::serve(input, &mut output, bench.scratch.path()).unwrap();
    output
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn analyze(input: &Path, output: &Path) -> String {
    json!({"type": "analyze", "analyzeId": "A1", "input": input, "output": output, "name": "shop.zip", "limits": {"threads": 2}})
        .to_string()
}

fn kinds(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["type"].as_str().unwrap())
        .collect()
}

#[test]
fn a_worker_hears_description_progress_findings_artifacts_and_the_end() {
    let bench = Bench::new();
    let input = bench.file(
        "blob",
        zip_of(&[
            ("Login.java", SERVLET.as_bytes()),
            ("a.properties", properties().as_bytes()),
        ]),
    );
    let output = bench.dir.path().join("out");
    let lines = exchange(
        &bench,
        &[
            json!({"type": "describe"}).to_string(),
            analyze(&input, &output),
        ],
    );
    assert_eq!(lines[0]["type"], "description");
    assert_eq!(
        (&lines[0]["id"], &lines[0]["streaming"]),
        (&json!("source"), &json!(false))
    );
    let kinds = kinds(&lines);
    assert_eq!(kinds.last(), Some(&"done"), "{lines:#?}");
    assert!(kinds.contains(&"progress"));
    let findings: Vec<_> = lines
        .iter()
        .filter(|line| line["type"] == "finding")
        .collect();
    assert_eq!(findings.len(), 2);
    assert_eq!(
        findings[0]["result"]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
        "shop.zip!/Login.java"
    );
    let artifacts: Vec<_> = lines
        .iter()
        .filter(|line| line["type"] == "artifact")
        .collect();
    for path in [
        "findings.jsonl",
        "report.sarif",
        "coverage.json",
        "summary.json",
        "sources",
        "explanations",
    ] {
        assert!(
            artifacts.iter().any(|artifact| artifact["path"] == path),
            "{path}"
        );
        assert!(output.join(path).exists(), "{path}");
    }
    assert!(!serde_json::to_string(&lines).unwrap().contains(SECRET));
}

#[test]
fn lines_that_are_no_requests_are_answered_by_errors_only() {
    let bench = Bench::new();
    let lines = [
        "nonsense".to_owned(),
        "{\"type\":\"fly\"}".to_owned(),
        "{\"type\":\"analyze\"}".to_owned(),
        "[".repeat(5000),
        "{\"type\":\"input\",\"bytes\":5,\"complete\":true}".to_owned(),
        "\u{0}\u{0}".to_owned(),
        "x".repeat(3 << 20),
        String::new(),
        analyze(Path::new("/nowhere/at/all"), &bench.dir.path().join("out")),
        json!({"type": "cancel"}).to_string(),
        json!({"type": "describe"}).to_string(),
    ];
    let answers = exchange(&bench, &lines);
    let mut expected = vec!["error"; 8];
    expected.push("description");
    assert_eq!(kinds(&answers), expected, "{answers:#?}");
    assert!(
        answers[7]["message"]
            .as_str()
            .unwrap()
            .contains("cannot read /nowhere/at/all")
    );
}

#[test]
fn a_cancelled_analysis_ends_with_an_error_and_the_next_one_runs() {
    let bench = Bench::new();
    let files: Vec<(String, &[u8])> = (0..4000)
        .map(|n| (format!("F{n}.java"), SERVLET.as_bytes()))
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), *bytes))
        .collect();
    let large = bench.file("large.zip", zip_of(&files));
    let small = bench.file("small.zip", zip_of(&[("Login.java", SERVLET.as_bytes())]));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let child_input = theirs.try_clone().unwrap();
    let scratch = bench.scratch.path().to_owned();
    let child = std::thread::spawn(move || model::serve(child_input, theirs, &scratch));
    let mut send = ours.try_clone().unwrap();
    let mut lines = BufReader::new(ours)
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    writeln!(send, "{}", analyze(&large, &bench.dir.path().join("out1"))).unwrap();
    lines.find(|line| line["type"] == "finding").unwrap();
    writeln!(send, "{}", json!({"type": "cancel"})).unwrap();
    let cancelled = std::time::Instant::now();
    let end = lines
        .find(|line| line["type"] == "error" || line["type"] == "done")
        .unwrap();
    assert_eq!(
        (&end["type"], &end["message"]),
        (&json!("error"), &json!("cancelled"))
    );
    assert!(cancelled.elapsed().as_secs_f64() < 2.0);
    writeln!(send, "{}", analyze(&small, &bench.dir.path().join("out2"))).unwrap();
    let end = lines
        .find(|line| line["type"] == "error" || line["type"] == "done")
        .unwrap();
    assert_eq!(end["type"], "done");
    send.shutdown(std::net::Shutdown::Write).unwrap();
    child.join().unwrap().unwrap();
}
