//! Any bytes as a tool's report: refused, or findings whose places lie in the upload and a report that reads as JSON.
#![no_main]

use std::cell::Cell;
use std::fs;

use libfuzzer_sys::fuzz_target;
use munjigi_analyzer::foreign::{ConvertError, Listener, Task, convert};
use munjigi_analyzer::intake::Limits;
use serde_json::Value;

#[derive(Default)]
struct Count(Cell<usize>);

impl Listener for Count {
    fn progress(&self, _: &'static str, _: u64, _: &'static str) {}

    fn finding(&self, result: &Value) {
        self.0.set(self.0.get() + 1);
        assert!(result["ruleId"].is_string());
        assert!(matches!(
            result["level"].as_str(),
            Some("error" | "warning" | "note")
        ));
    }

    fn cancelled(&self) -> bool {
        false
    }
}

fuzz_target!(|bytes: &[u8]| {
    let room = tempfile::tempdir().expect("a temporary folder");
    let (tree, report, output) = (
        room.path().join("tree"),
        room.path().join("report"),
        room.path().join("out"),
    );
    fs::create_dir(&tree)
        .and_then(|()| fs::write(tree.join("a"), "one\ntwo\n"))
        .expect("room for the tree");
    fs::write(room.path().join("secret"), "s")
        .and_then(|()| fs::write(&report, bytes))
        .expect("room for the report");
    let task = Task {
        input: &report,
        name: "a.zip",
        output: &output,
        scratch: room.path(),
        limits: Limits::default(),
    };
    let count = Count::default();
    match convert(&task, &report, &tree, Vec::new(), &count) {
        Ok(_) => {
            let read = |name| fs::read_to_string(output.join(name)).expect("part of a result");
            let log: Value = serde_json::from_str(&read("report.sarif")).expect("we write JSON");
            let results = log["runs"]
                .as_array()
                .expect("runs")
                .iter()
                .map(|run| run["results"].as_array().expect("results").len());
            assert_eq!(results.sum::<usize>(), count.0.get());
            assert_eq!(read("findings.jsonl").lines().count(), count.0.get());
            for source in fs::read_dir(output.join("sources")).expect("part of a result") {
                let text = fs::read_to_string(source.expect("a file").path()).expect("a text");
                assert_eq!(text, "one\ntwo\n", "only the tree is shown");
            }
        }
        Err(ConvertError::Report(_)) => {}
        Err(error) => panic!("{error}"),
    }
});
