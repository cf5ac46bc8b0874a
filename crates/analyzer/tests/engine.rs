//! The engines on fixtures: each line marked `expect: rule-id` has a finding of the rule, and no other line has one.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use munjigi_analyzer::engine;
use munjigi_analyzer::finding::{Analysis, Finding, Kind, Language, Source, StepKind};

fn language(path: &Path) -> Language {
    match path.extension().unwrap().to_str().unwrap() {
        "java" => Language::Java,
        "py" => Language::Python,
        "js" => Language::JavaScript,
        "ts" => Language::TypeScript { tsx: false },
        "tsx" => Language::TypeScript { tsx: true },
        "c" => Language::C,
        other => panic!("no language for {other}"),
    }
}

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut files = Vec::new();
    let languages = ["java", "python", "javascript", "typescript", "c"];
    for folder in languages.iter().map(|name| root.join(name)) {
        files.extend(
            fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
    }
    files.sort();
    files
}

fn analyse(path: &Path, text: &str) -> Analysis {
    let source = Source {
        path: "src/file",
        language: language(path),
        text,
    };
    engine::analyse(&source, &|| false)
}

fn line_of(text: &str, at: u32) -> usize {
    text[..at as usize].matches('\n').count() + 1
}

#[test]
fn findings_are_where_the_fixtures_say() {
    let mut wrong = Vec::new();
    for path in fixtures() {
        let text = fs::read_to_string(&path).unwrap();
        let expected: BTreeSet<(usize, String)> = text
            .lines()
            .enumerate()
            .filter_map(|(at, line)| Some((at + 1, line.split_once("expect: ")?.1)))
            .flat_map(|(at, rules)| {
                rules
                    .trim_end_matches(['*', '/', '}'])
                    .split_whitespace()
                    .map(move |rule| (at, rule.to_owned()))
                    .collect::<Vec<_>>()
            })
            .collect();
        let analysis = analyse(&path, &text);
        let found: BTreeSet<(usize, String)> = analysis
            .findings
            .iter()
            .map(|finding| {
                (
                    line_of(&text, finding.span.start),
                    finding.rule.id.to_owned(),
                )
            })
            .collect();
        let name = path.file_name().unwrap().to_str().unwrap();
        wrong.extend(
            expected
                .difference(&found)
                .map(|it| format!("{name}: missing {it:?}")),
        );
        wrong.extend(
            found
                .difference(&expected)
                .map(|it| format!("{name}: not expected {it:?}")),
        );
        assert_eq!(analysis.truncated, None, "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn flows_are_connected() {
    for path in fixtures() {
        let text = fs::read_to_string(&path).unwrap();
        for finding in analyse(&path, &text).findings {
            check_flow(&finding, &text, &path);
        }
    }
}

fn check_flow(finding: &Finding, text: &str, path: &Path) {
    let place = format!(
        "{}:{} {}",
        path.display(),
        line_of(text, finding.span.start),
        finding.rule.id
    );
    if finding.rule.kind != Kind::Taint {
        assert!(finding.flow.is_empty(), "{place}");
        return;
    }
    let [first, .., last] = finding.flow.as_slice() else {
        panic!("{place}: fewer than two steps");
    };
    assert_eq!(first.kind, StepKind::Source, "{place}");
    assert_eq!(last.kind, StepKind::Sink, "{place}");
    assert!(
        last.span.start < finding.span.end && finding.span.start < last.span.end,
        "{place}: the sink lies elsewhere"
    );
    assert_eq!(last.function, finding.function, "{place}");
    let ties = |kind| {
        matches!(
            kind,
            StepKind::Call | StepKind::Return | StepKind::Field | StepKind::Capture
        )
    };
    for pair in finding.flow.windows(2) {
        if pair[0].function != pair[1].function {
            assert!(
                ties(pair[0].kind) || ties(pair[1].kind),
                "{place}: {pair:?}"
            );
        }
    }
    for step in &finding.flow {
        assert!(step.span.start < step.span.end, "{place}: empty step");
        assert!(
            text.get(step.span.start as usize..step.span.end as usize)
                .is_some(),
            "{place}"
        );
        assert!(!step.message.is_empty(), "{place}");
    }
}

#[test]
fn every_rule_has_a_fixture() {
    let mut seen = BTreeSet::new();
    for path in fixtures() {
        let text = fs::read_to_string(&path).unwrap();
        seen.extend(
            analyse(&path, &text)
                .findings
                .iter()
                .map(|finding| finding.rule.id),
        );
    }
    let missing: Vec<_> = engine::rules()
        .iter()
        .map(|rule| rule.id)
        .filter(|id| !seen.contains(id))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_same_text_gives_the_same_findings() {
    for path in fixtures() {
        let text = fs::read_to_string(&path).unwrap();
        let (a, b) = (analyse(&path, &text), analyse(&path, &text));
        assert_eq!(format!("{:?}", a.findings), format!("{:?}", b.findings));
    }
}

#[test]
fn the_time_guard_stops_and_says_so() {
    let path = Path::new("x.java");
    let text = "class A { void f() { g(1); } }\n".repeat(2000);
    let source = Source {
        path: "x.java",
        language: language(path),
        text: &text,
    };
    let analysis = engine::analyse(&source, &|| true);
    assert_eq!(analysis.truncated, Some("time guard"));
}

#[test]
fn properties_of_other_files_choose_algorithms() {
    let text = "class A { void f() throws Exception {\n\
                java.util.Properties p = new java.util.Properties();\n\
                p.load(this.getClass().getResourceAsStream(\"a.properties\"));\n\
                String name = p.getProperty(\"hash\", \"SHA-512\");\n\
                java.security.MessageDigest.getInstance(name);\n} }\n";
    let source = Source {
        path: "A.java",
        language: Language::Java,
        text,
    };
    for (files, expected) in [
        (&["hash=MD5"][..], 1),
        (&["# hash=MD5"][..], 0),
        (&["hash : SHA-256"][..], 0),
        (&["hash=MD5", "hash=SHA-256"][..], 0),
        (&["hash=MD5", "hash=MD5"][..], 1),
        (&[][..], 0),
    ] {
        let mut context = engine::Context::default();
        for file in files {
            context.add_properties(file);
        }
        let found = engine::analyse_in(&source, &context, &|| false).findings;
        assert_eq!(found.len(), expected, "{files:?}");
    }
}

/// Where the findings of a text are, by line.
fn lines(path: &Path, text: &str) -> BTreeSet<(usize, &'static str)> {
    analyse(path, text)
        .findings
        .iter()
        .map(|finding| (line_of(text, finding.span.start), finding.rule.id))
        .collect()
}

#[test]
fn comments_and_dead_code_change_nothing() {
    for path in fixtures() {
        let text = fs::read_to_string(&path).unwrap();
        let python = path.extension().is_some_and(|end| end == "py");
        let c = path.extension().is_some_and(|end| end == "c");
        let tsx = path.extension().is_some_and(|end| end == "tsx");
        if tsx {
            continue; // between elements a comment is text of the page
        }
        let mut mutant = String::new();
        for line in text.lines() {
            mutant.push_str(line);
            let open =
                line.ends_with(") {") && line.starts_with("    ") && !line.contains("switch");
            mutant.push_str(match (python, open) {
                (true, _) => "  # nothing\n\n",
                (false, true) if c => "\nint unused = 3; if (unused > 5) { unused = 4; }\n",
                (false, true)
                    if path.extension().is_some_and(|end| end == "java")
                        && !line.contains("class ") =>
                {
                    "\nint unused = 3; if (unused > 5) { unused = 4; }\n"
                }
                (false, _) => "\n/* nothing */\n",
            });
        }
        let expected: BTreeSet<(usize, &str)> = lines(&path, &text)
            .into_iter()
            .map(|(line, rule)| (line * 2 - 1, rule))
            .collect();
        assert_eq!(lines(&path, &mutant), expected, "{}", path.display());
    }
}
