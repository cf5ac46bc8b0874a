//! A command that writes SARIF, as a model.

use std::ffi::OsString;
use std::path::Path;

use munjigi_analyzer::foreign::Tool;
use munjigi_analyzer::model;
use serde_json::{Value, json};

use crate::support::{Bench, zip_of};

/// Reports each line with the word `eval` in each file below where it stands.
const FINDER: &str = r#"
import json, os, sys
results = []
for folder, _, names in sorted(os.walk(".")):
    for name in sorted(names):
        path = os.path.join(folder, name)
        for number, line in enumerate(open(path, errors="replace"), 1):
            if "eval" in line:
                results.append({"ruleIndex": 0, "message": {"id": "m", "arguments": [name]}, "locations": [
                    {"physicalLocation": {"artifactLocation": {"uri": path, "uriBaseId": "%SRCROOT%"}, "region": {"startLine": number}}}]})
rule = {"id": "py.eval", "name": "Eval", "defaultConfiguration": {"level": "error"},
        "messageStrings": {"m": {"text": "{0} evaluates"}}, "properties": {"tags": ["CWE-95: eval"]}}
log = {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "finder", "rules": [rule]}}, "results": results}]}
out = open(sys.argv[1], "w") if len(sys.argv) > 1 else sys.stdout
json.dump(log, out)
out.close()
sys.exit(1 if results else 0)
"#;

struct Ran {
    lines: Vec<Value>,
    bench: Bench,
}

impl Ran {
    fn last(&self) -> &Value {
        self.lines.last().unwrap()
    }

    fn findings(&self) -> Vec<&Value> {
        let findings = self.lines.iter().filter(|line| line["type"] == "finding");
        findings.map(|line| &line["result"]).collect()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.bench.dir.path().join("out").join(name)).unwrap()
    }
}

/// Runs a Python script as a tool over an upload called `name`; the scratch folder must be empty afterwards.
fn run(script: &str, arguments: &[&str], name: &str, upload: impl AsRef<[u8]>) -> Ran {
    let bench = Bench::new();
    let input = bench.file("blob", upload);
    let output = bench.dir.path().join("out");
    let script = bench.file("tool.py", script);
    let mut command: Vec<OsString> = vec!["python3".into(), script.into()];
    command.extend(arguments.iter().map(OsString::from));
    let lines = exchange(&bench, command, &[analyze(&input, &output, name)]);
    let left: Vec<_> = std::fs::read_dir(bench.scratch.path()).unwrap().collect();
    assert!(left.is_empty(), "left in scratch: {left:?}");
    Ran { lines, bench }
}

fn exchange(bench: &Bench, command: Vec<OsString>, lines: &[String]) -> Vec<Value> {
    let input = std::io::Cursor::new(lines.join("\n").into_bytes());
    let mut output = Vec::new();
    model::serve_tool(Tool { command }, input, &mut output, bench.scratch.path()).unwrap();
    output
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn analyze(input: &Path, output: &Path, name: &str) -> String {
    json!({"type": "analyze", "analyzeId": "A1", "input": input, "output": output, "name": name,
           "limits": {"outputBytes": 1 << 30, "fileBytes": 1 << 20}})
    .to_string()
}

#[test]
fn its_report_becomes_findings_and_a_result_folder() {
    let upload = zip_of(&[
        ("src/a b.py", b"import os\n  eval(x)\n"),
        ("src/c.py", b"pass\n"),
    ]);
    for arguments in [&[][..], &["{output}"][..]] {
        let ran = run(FINDER, arguments, "my app.zip", &upload);
        assert_eq!(ran.last()["type"], "done", "{:#?}", ran.lines);
        let findings = ran.findings();
        assert_eq!(findings.len(), 1);
        let finding = findings[0];
        assert_eq!(
            (
                &finding["ruleId"],
                &finding["level"],
                &finding["message"]["text"]
            ),
            (
                &json!("py.eval"),
                &json!("error"),
                &json!("a b.py evaluates")
            )
        );
        let uri = "/locations/0/physicalLocation/artifactLocation/uri";
        assert_eq!(finding.pointer(uri).unwrap(), "my%20app.zip!/src/a%20b.py");
        assert!(finding["partialFingerprints"]["munjigi/v1"].is_string());

        assert_eq!(ran.file("findings.jsonl"), format!("{finding}\n"));
        let report: Value = serde_json::from_str(&ran.file("report.sarif")).unwrap();
        assert_eq!(&report["runs"][0]["results"][0], finding);
        let tags = &report["runs"][0]["tool"]["driver"]["rules"][0]["properties"]["tags"];
        assert_eq!(tags[1], "external/cwe/cwe-095");
        let source = ran.file("sources/my app.zip!/src/a b.py");
        assert_eq!(source, "import os\n  eval(x)\n");
        let coverage: Value = serde_json::from_str(&ran.file("coverage.json")).unwrap();
        assert_eq!(coverage["files"].as_array().unwrap().len(), 2);
        let summary: Value = serde_json::from_str(&ran.file("summary.json")).unwrap();
        assert_eq!(summary["findings"]["error"], 1);
    }
}

#[test]
fn a_single_file_is_called_by_its_name() {
    let ran = run(FINDER, &["{output}"], "../up/one.py", "eval(x)\neval(x)\n");
    let findings = ran.findings();
    let uris: Vec<_> = findings
        .iter()
        .map(|finding| &finding["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
        .collect();
    assert_eq!(uris, ["one.py", "one.py"]);
    assert_ne!(
        findings[0]["partialFingerprints"],
        findings[1]["partialFingerprints"]
    );
    assert_eq!(ran.file("sources/one.py"), "eval(x)\neval(x)\n");
}

#[test]
fn its_places_are_filled_in_and_it_stands_in_the_tree() {
    let script = r#"
import json, os, sys
assert os.path.realpath(os.getcwd()) == os.path.realpath(sys.argv[1]), sys.argv
assert os.environ["TMPDIR"] != os.getcwd() and os.path.isdir(os.environ["TMPDIR"])
assert sys.argv[2].startswith("--out=/"), sys.argv
assert sys.stdin.read() == ""
json.dump({"version": "2.1.0", "runs": []}, open(sys.argv[2][6:], "w"))
"#;
    let ran = run(script, &["{input}", "--out={output}"], "a.txt", "x");
    assert_eq!(ran.last()["type"], "done", "{:#?}", ran.lines);
    let report: Value = serde_json::from_str(&ran.file("report.sarif")).unwrap();
    assert_eq!(report["runs"], json!([]));
}

#[test]
fn what_goes_wrong_is_said() {
    for (script, arguments, part) in [
        (
            "print('no findings')",
            &[][..],
            "python3 wrote no SARIF 2.1.0: expected",
        ),
        ("pass", &[], "the report is empty"),
        ("pass", &["{output}"], "there is no report"),
        (
            "print('{\"version\": \"2.0.0\", \"runs\": []}')",
            &[],
            "version \"2.0.0\"",
        ),
        (
            "import sys; sys.exit('bad rules')",
            &["{output}"],
            "there is no report: No such file or directory (os error 2); its last words: bad rules",
        ),
        (
            "import sys; print('why', file=sys.stderr); sys.exit(2)",
            &[],
            "python3 exited with code 2, where 0 and 1 are success; its last words: why",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            &[],
            "was ended by signal 9",
        ),
        (
            "import os, sys; print(os.getcwd(), file=sys.stderr); sys.exit(3)",
            &[],
            "its last words: …/tree",
        ),
    ] {
        let ran = run(script, arguments, "a.zip", zip_of(&[("a", b"a")]));
        assert_eq!(ran.last()["type"], "error", "{script}");
        let message = ran.last()["message"].as_str().unwrap();
        assert!(message.contains(part), "{script}: {message}");
    }
    let bench = Bench::new();
    let input = bench.file("blob", "x");
    let order = analyze(&input, &bench.dir.path().join("out"), "a.txt");
    let lines = exchange(&bench, vec!["/no/such-tool".into()], &[order]);
    let message = lines.last().unwrap()["message"].as_str().unwrap();
    assert!(
        message.starts_with("such-tool can't be started: "),
        "{message}"
    );
}

#[test]
fn a_damaged_or_hostile_upload_is_told_in_coverage() {
    let ran = run(FINDER, &[], "broken.zip", "this is no archive");
    assert_eq!(ran.last()["type"], "done");
    assert!(ran.file("coverage.json").contains("not a zip"));
    let hostile = zip_of(&[
        ("../../evil.py", b"eval(x)"),
        ("large.py", &vec![b'e'; 2 << 20]),
    ]);
    let ran = run(FINDER, &[], "hostile.zip", hostile);
    assert_eq!(ran.last()["type"], "done");
    assert!(ran.findings().is_empty());
    let coverage = ran.file("coverage.json");
    assert!(coverage.contains("leaves its folder"), "{coverage}");
    assert!(coverage.contains("the limit of one file"), "{coverage}");
}

#[test]
fn it_describes_itself_and_ends_when_it_is_cancelled() {
    let bench = Bench::new();
    let input = bench.file("blob", "x");
    let order = analyze(&input, &bench.dir.path().join("out"), "a.txt");
    let script = bench.file("tool.py", "import time; time.sleep(600)");
    let describe = json!({"type": "describe"}).to_string();
    let command = vec!["python3".into(), script.into()];
    let (order_in, mut lines_in) = std::io::pipe().unwrap();
    let (lines_out, output) = std::io::pipe().unwrap();
    let scratch = bench.scratch.path().to_owned();
    let serving =
        std::thread::spawn(move || model::serve_tool(Tool { command }, order_in, output, &scratch));
    use std::io::{BufRead, BufReader, Write};
    writeln!(lines_in, "{describe}\n{order}").unwrap();
    let mut lines = BufReader::new(lines_out).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["id"], "python3");
    while next()["phase"] != "run" {}
    writeln!(lines_in, "{}", json!({"type": "cancel"})).unwrap();
    let last = loop {
        let line = next();
        if line["type"] != "progress" {
            break line;
        }
    };
    assert_eq!(
        (&last["type"], &last["message"]),
        (&json!("error"), &json!("cancelled"))
    );
    drop(lines_in);
    serving.join().unwrap().unwrap();
    assert_eq!(std::fs::read_dir(bench.scratch.path()).unwrap().count(), 0);
}
