//! What a result says: SARIF, fingerprints, scores, masks, the folder.

use std::collections::BTreeSet;
use std::path::Path;

use munjigi_analyzer::report::explanations::ExplainError;
use munjigi_analyzer::{ScanError, ScanOptions, Style, explain_finding};
use serde_json::Value;

use crate::support::{Bench, SECRET, SERVLET, Seen, places, properties, sarif_of, zip_of};

fn all_files(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all_files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every location of a result: its own, its steps', its contributions'.
fn locations(result: &Value) -> Vec<Value> {
    let mut found = result["locations"].as_array().unwrap().clone();
    for flow in result["codeFlows"].as_array().into_iter().flatten() {
        for thread in flow["threadFlows"].as_array().unwrap() {
            found.extend(
                thread["locations"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|step| step["location"].clone()),
            );
        }
    }
    for part in result["properties"]["munjigi"]["contributions"]
        .as_array()
        .unwrap()
    {
        found.extend(part["locations"].as_array().into_iter().flatten().cloned());
    }
    found
}

/// The text of a region, counted anew from lines and UTF-16 columns.
fn text_at(text: &str, region: &Value) -> String {
    let number = |key: &str| region[key].as_u64().unwrap() as usize;
    let lines: Vec<&str> = text.split('\n').collect();
    let mut out = String::new();
    for line in number("startLine")..=number("endLine") {
        let units: Vec<u16> = lines[line - 1].encode_utf16().collect();
        let from = if line == number("startLine") {
            number("startColumn") - 1
        } else {
            0
        };
        let to = if line == number("endLine") {
            number("endColumn") - 1
        } else {
            units.len()
        };
        out.push_str(&String::from_utf16(&units[from..to]).unwrap());
        if line != number("endLine") {
            out.push('\n');
        }
    }
    out
}

/// The rules are cards, and each id names one.
fn check_rules(rules: &[Value]) {
    for rule in rules {
        assert!(
            rule["help"]["text"]
                .as_str()
                .is_some_and(|text| text.len() > 40),
            "{rule}"
        );
        assert!(
            rule["properties"]["tags"][0]
                .as_str()
                .unwrap()
                .starts_with("external/cwe/cwe-"),
            "{rule}"
        );
        let kind = rule["properties"]["munjigi"]["kind"].as_str().unwrap();
        assert!(
            [
                "taint",
                "state",
                "pattern",
                "secret",
                "dependency",
                "binary"
            ]
            .contains(&kind)
        );
    }
    let ids: BTreeSet<_> = rules
        .iter()
        .map(|rule| rule["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), rules.len(), "an id names one rule");
}

/// The parts of a score add up, and what was not measured says so.
fn check_score(score: &Value) {
    let number = |value: &Value| value.as_f64().unwrap();
    let parts: f64 = score["contributions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| number(&part["value"]))
        .sum();
    let margin = number(&score["margin"]);
    assert!((number(&score["base"]) + parts - margin).abs() <= 1e-9 * margin.abs().max(1.0));
    let probability = number(&score["probability"]);
    assert!((probability - 1.0 / (1.0 + (-margin).exp())).abs() < 1e-12);
    let unmeasured = serde_json::json!({"low": 0.0, "high": 1.0, "observed": null, "n": 0});
    assert_eq!(score["reliability"], unmeasured);
    assert_eq!(score["counterfactuals"], serde_json::json!([]));
}

/// Every region of `text` holds the text that it says.
fn check_regions(result: &Value, uri: &str, text: &str) {
    for location in locations(result) {
        let place = &location["physicalLocation"];
        for part in ["region", "contextRegion"]
            .into_iter()
            .filter(|part| place[part].is_object())
        {
            if place["artifactLocation"]["uri"] == uri {
                assert_eq!(
                    text_at(text, &place[part]),
                    place[part]["snippet"]["text"],
                    "{place}"
                );
            }
        }
    }
}

#[test]
fn every_result_is_complete_and_its_parts_add_up() {
    let bench = Bench::new();
    let text = SERVLET.replace("String id", "/* \u{1f600}\u{ac00} */ String id");
    bench.file("p/src/Login.java", &text);
    bench.file("p/app.properties", properties());
    let report = bench.scan(&bench.dir.path().join("p"));
    let log = sarif_of(&report);
    assert_eq!(
        (
            log["version"].as_str(),
            log["runs"].as_array().unwrap().len()
        ),
        (Some("2.1.0"), 1)
    );
    let run = &log["runs"][0];
    assert_eq!(run["columnKind"], "utf16CodeUnits");
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    check_rules(rules);
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        let index = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert_eq!(result["kind"], "fail");
        check_score(&result["properties"]["munjigi"]);
        check_regions(result, "src/Login.java", &text);
    }
    let steps = results[1]["codeFlows"][0]["threadFlows"][0]["locations"]
        .as_array()
        .unwrap();
    let shown = steps
        .iter()
        .map(|step| &step["location"])
        .chain(results.iter().map(|result| &result["locations"][0]));
    for location in shown {
        assert!(
            location["physicalLocation"]["contextRegion"]["snippet"]["text"].is_string(),
            "{location}"
        );
    }
    assert!(steps.len() >= 2);
    assert_eq!(
        (&steps[0]["kinds"][0], &steps[steps.len() - 1]["kinds"][0]),
        (&"source".into(), &"sink".into())
    );
}

#[test]
fn a_small_log_looks_like_this() {
    let bench = Bench::new();
    let report = bench.scan(&bench.file("app.properties", properties()));
    let mut log = sarif_of(&report);
    log["runs"][0]["tool"] = Value::Null;
    log["runs"][0]["results"][0]["ruleIndex"] = Value::Null;
    log["runs"][0]["originalUriBaseIds"]["PATH"]["uri"] = "file:///…/".into();
    insta::assert_snapshot!(serde_json::to_string_pretty(&log).unwrap());
}

#[test]
fn a_finding_in_text_looks_like_this() {
    let bench = Bench::new();
    let report = bench.scan(&bench.file("app.properties", properties()));
    let mut text = Vec::new();
    report.write_text(&mut text, Style::plain()).unwrap();
    insta::assert_snapshot!(String::from_utf8(text).unwrap());
}

#[test]
fn the_log_is_the_same_whatever_the_number_of_threads() {
    let bench = Bench::new();
    for n in 0..60 {
        bench.file(
            &format!("p/d{}/F{n}.java", n % 7),
            SERVLET.replace("users", &format!("t{n}")),
        );
        bench.file(&format!("p/d{}/c{n}.properties", n % 5), properties());
    }
    bench.file(
        "p/in.zip",
        zip_of(&[
            ("b/Login.java", SERVLET.as_bytes()),
            ("a/Login.java", SERVLET.as_bytes()),
        ]),
    );
    let mut logs = Vec::new();
    for threads in [1, 4] {
        let options = ScanOptions {
            threads,
            ..bench.options(&bench.dir.path().join("p"))
        };
        let seen = Seen::default();
        let report = bench.scan_with(&options, &seen).unwrap();
        let mut bytes = Vec::new();
        report.write_sarif(&mut bytes).unwrap();
        logs.push((bytes, report.coverage, seen.findings.take()));
    }
    assert_eq!(logs[0].0, logs[1].0);
    assert_eq!(logs[0].1, logs[1].1);
    assert_eq!(logs[0].2, logs[1].2, "findings are told in the same order");
    assert_eq!(logs[0].2.len(), 122);
}

#[test]
fn a_fingerprint_survives_edits_elsewhere_and_is_unique() {
    let bench = Bench::new();
    let id = |text: &str| {
        let report = bench.scan(&bench.file("Login.java", text));
        let ids: Vec<String> = report
            .results()
            .map(|result| result.unwrap().id().to_owned())
            .collect();
        ids
    };
    let original = id(SERVLET);
    assert_eq!(original.len(), 1);
    for edited in [
        SERVLET.replace("import java.sql.*;", "// one\n// more\nimport java.sql.*;"),
        SERVLET.replace("public class", "class Other { void x() {} }\npublic class"),
        SERVLET.replace("  }\n}\n", "  }\n  void more() { int a = 1; }\n}\n"),
        SERVLET.replace("    statement.", "\t\tstatement."),
    ] {
        assert_eq!(id(&edited), original, "{edited}");
    }
    assert_ne!(id(&SERVLET.replace("users", "people")), original);
    let line = "    statement.executeQuery(\"SELECT * FROM users WHERE id = '\" + id + \"'\");\n";
    let twice = id(&SERVLET.replace(line, &line.repeat(2)));
    assert_eq!(
        (twice.len(), twice.iter().collect::<BTreeSet<_>>().len()),
        (2, 2)
    );
}

#[test]
fn the_folder_of_a_result_is_whole_and_holds_no_secret() {
    let bench = Bench::new();
    bench.file("p/a.properties", properties());
    // The same secret where nothing names it, before and after the place where it is found.
    bench.file(
        "p/A.java",
        SERVLET.replace("FROM users", &format!("FROM {SECRET}")),
    );
    bench.file(
        "p/z/Z.java",
        SERVLET.replace("\"id\")", &format!("\"{SECRET}\")")),
    );
    let out = bench.dir.path().join("out");
    let options = ScanOptions {
        results: Some(out.clone()),
        ..bench.options(&bench.dir.path().join("p"))
    };
    let report = bench.scan_with(&options, &Seen::default()).unwrap();
    for name in [
        "findings.jsonl",
        "report.sarif",
        "coverage.json",
        "summary.json",
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let lines = std::fs::read_to_string(out.join("findings.jsonl")).unwrap();
    let results: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let log: Value =
        serde_json::from_slice(&std::fs::read(out.join("report.sarif")).unwrap()).unwrap();
    assert_eq!(Value::Array(results.clone()), log["runs"][0]["results"]);
    assert_eq!(results.len(), 3);
    for result in &results {
        let id = result["partialFingerprints"]["munjigi/v1"]
            .as_str()
            .unwrap();
        assert!(out.join(format!("explanations/{id}.json")).is_file());
        let uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            .as_str()
            .unwrap();
        assert!(out.join("sources").join(uri).is_file());
    }
    let stars = "*".repeat(SECRET.chars().count());
    assert_eq!(
        std::fs::read_to_string(out.join("sources/a.properties")).unwrap(),
        properties().replace(SECRET, &stars)
    );
    let files = all_files(&out);
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        assert!(
            memchr::memmem::find(&bytes, SECRET.as_bytes()).is_none(),
            "{} shows the secret",
            file.display()
        );
    }
    let mut told: Vec<_> = report.files.iter().map(|file| out.join(file)).collect();
    told.sort();
    assert_eq!(told, files, "every file of the folder is told");
    let mut text = Vec::new();
    report.write_text(&mut text, Style::coloured()).unwrap();
    report.write_json(&mut text).unwrap();
    assert!(memchr::memmem::find(&text, SECRET.as_bytes()).is_none());
}

#[test]
fn an_earlier_result_is_replaced_and_foreign_files_are_not() {
    let bench = Bench::new();
    let path = bench.file("Login.java", SERVLET);
    let out = bench.dir.path().join("out");
    let options = ScanOptions {
        results: Some(out.clone()),
        ..bench.options(&path)
    };
    bench.scan_with(&options, &Seen::default()).unwrap();
    bench.file("Login.java", "class Login {}");
    bench.scan_with(&options, &Seen::default()).unwrap();
    assert_eq!(
        std::fs::read_dir(out.join("explanations")).unwrap().count(),
        0
    );
    assert_eq!(
        std::fs::read_to_string(out.join("findings.jsonl")).unwrap(),
        ""
    );
    let foreign = bench.file("mine/sources/keep.txt", "mine");
    let options = ScanOptions {
        results: Some(bench.dir.path().join("mine")),
        ..bench.options(&path)
    };
    let error = bench.scan_with(&options, &Seen::default()).unwrap_err();
    assert!(matches!(error, ScanError::Results { .. }), "{error}");
    assert!(foreign.is_file());
}

#[test]
fn findings_are_explained_by_id() {
    let bench = Bench::new();
    let out = bench.dir.path().join("out");
    let options = ScanOptions {
        results: Some(out.clone()),
        ..bench.options(&bench.file("Login.java", SERVLET))
    };
    let report = bench.scan_with(&options, &Seen::default()).unwrap();
    let id = report.results().next().unwrap().unwrap().id().to_owned();
    let words = explain_finding(&out, &id[..8], Style::plain()).unwrap();
    for part in [
        "CWE-89",
        "Login.java:7",
        "source",
        "sink",
        "How to fix it",
        "margin",
        "has not been measured",
        id.as_str(),
    ] {
        assert!(words.contains(part), "{part} is missing in\n{words}");
    }
    assert!(matches!(
        explain_finding(&out, "zzzz", Style::plain()),
        Err(ExplainError::Unknown { .. })
    ));
    assert!(matches!(
        explain_finding(&bench.dir.path().join("no"), &id, Style::plain()),
        Err(ExplainError::Read { .. })
    ));
    assert!(matches!(
        explain_finding(&out, "../..", Style::plain()),
        Err(ExplainError::Unknown { .. })
    ));
}

#[test]
fn findings_are_told_as_they_come_and_progress_has_phases() {
    let bench = Bench::new();
    let seen = Seen::default();
    let out = bench.dir.path().join("out");
    let bytes = zip_of(&[
        ("B.java", SERVLET.as_bytes()),
        ("A.java", SERVLET.as_bytes()),
    ]);
    let options = ScanOptions {
        results: Some(out),
        ..bench.options(&bench.file("a.zip", bytes))
    };
    let report = bench.scan_with(&options, &seen).unwrap();
    let told: Vec<_> = seen
        .findings
        .borrow()
        .iter()
        .map(|r| r.place().unwrap().artifact_location.uri.clone())
        .collect();
    assert_eq!(
        told,
        ["a.zip!/B.java", "a.zip!/A.java"],
        "in the order of the archive"
    );
    let ordered: Vec<_> = places(&report)
        .into_iter()
        .map(|(place, _)| place)
        .collect();
    assert_eq!(
        ordered,
        ["a.zip!/A.java", "a.zip!/B.java"],
        "ordered in the log"
    );
    let phases: Vec<_> = seen
        .progress
        .borrow()
        .iter()
        .map(|progress| progress.phase)
        .collect();
    let mut distinct = phases.clone();
    distinct.dedup();
    assert_eq!(distinct, ["unpack", "analyse", "report"]);
    assert!(
        seen.progress
            .borrow()
            .iter()
            .all(|progress| progress.done <= progress.total)
    );
}

#[test]
fn a_scan_with_a_cache_says_the_same_and_keeps_no_secret() {
    let bench = Bench::new();
    for n in 0..5 {
        bench.file(
            &format!("p/F{n}.java"),
            SERVLET.replace("users", &format!("t{n}")),
        );
    }
    bench.file("p/a.properties", properties());
    let cache = bench.dir.path().join("cache");
    let options = ScanOptions {
        cache: Some(cache.clone()),
        ..bench.options(&bench.dir.path().join("p"))
    };
    let log = |options: &ScanOptions| {
        let report = bench.scan_with(options, &Seen::default()).unwrap();
        (sarif_of(&report), report.coverage)
    };
    let cold = log(&options);
    assert_eq!(
        all_files(&cache).len(),
        5,
        "one for each file without a secret"
    );
    assert_eq!(log(&options), cold);
    assert_eq!(
        log(&ScanOptions {
            cache: None,
            ..options.clone()
        }),
        cold
    );
    // What is kept is what is told: an entry that was changed shows.
    let kept = all_files(&cache).remove(0);
    let entry =
        String::from_utf8(zstd::decode_all(std::fs::File::open(&kept).unwrap()).unwrap()).unwrap();
    std::fs::write(
        &kept,
        zstd::encode_all(entry.replace("SQL", "LQS").as_bytes(), 1).unwrap(),
    )
    .unwrap();
    assert_ne!(log(&options).0, cold.0);
    std::fs::write(&kept, "broken").unwrap();
    assert_eq!(log(&options), cold);
}
