//! House rules that hold because a test holds them: arrows between crates, licences, lengths of files, the README's
//! commands, messages of the pages. Each failure says what to do.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .to_path_buf()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Who may know whom. A new crate needs a line here, and a reason in ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("foundation", &[]),
    ("analyzer", &[]),
    ("ipfilter", &[]),
    ("eureka", &["foundation"]),
    ("events", &["foundation"]),
    ("registry", &["eureka", "foundation"]),
    ("gate", &["eureka", "ipfilter", "foundation"]),
    ("hub", &["events", "eureka", "foundation"]),
    ("worker", &["events", "eureka", "analyzer", "foundation"]),
    (
        "munjigi",
        &[
            "gate",
            "ipfilter",
            "registry",
            "hub",
            "worker",
            "analyzer",
            "events",
            "eureka",
            "foundation",
        ],
    ),
    (
        "fuzz",
        &["gate", "ipfilter", "analyzer", "events", "eureka"],
    ),
    (
        "testkit",
        &[
            "gate",
            "registry",
            "hub",
            "worker",
            "analyzer",
            "events",
            "eureka",
            "foundation",
        ],
    ),
];

#[test]
fn no_room_knows_what_it_need_not() {
    let arrows: BTreeMap<_, BTreeSet<_>> = ARROWS
        .iter()
        .map(|(from, to)| (*from, to.iter().copied().collect()))
        .collect();
    let mut wrong = Vec::new();
    for package in members(&metadata()) {
        let name = short(package["name"].as_str().unwrap());
        let Some(allowed) = arrows.get(name) else {
            wrong.push(format!("{name} has no line in the table of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let Some(to) = dependency["name"]
                .as_str()
                .unwrap()
                .strip_prefix("munjigi-")
            else {
                continue;
            };
            let dev = dependency["kind"] == "dev";
            if !(allowed.contains(to) || (dev && to == "testkit")) {
                wrong.push(format!("{name} must not use {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_analyser_needs_no_runtime_and_no_sockets() {
    let metadata = metadata();
    let reached = reachable(&metadata, "munjigi-analyzer");
    for foreign in ["tokio", "hyper", "reqwest", "mio", "socket2"] {
        assert!(!reached.contains(foreign), "the analyser reaches {foreign}");
    }
}

/// Names of all packages that `from` uses, dev-dependencies apart.
fn reachable(metadata: &Value, from: &str) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            (
                package["id"].as_str().unwrap(),
                package["name"].as_str().unwrap(),
            )
        })
        .collect();
    let normal = |node: &Value| -> Vec<String> {
        node["deps"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dep| {
                dep["dep_kinds"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|kind| kind["kind"].is_null())
            })
            .map(|dep| dep["pkg"].as_str().unwrap().to_owned())
            .collect()
    };
    let edges: BTreeMap<&str, Vec<String>> = nodes
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), normal(node)))
        .collect();
    let start = names.iter().find(|(_, name)| **name == from).unwrap().0;
    let mut open = vec![(*start).to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id.clone()) {
            open.extend(edges[id.as_str()].iter().cloned());
        }
    }
    seen.iter()
        .map(|id| names[id.as_str()].to_owned())
        .collect()
}

fn members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<_> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| ids.contains(package["id"].as_str().unwrap()))
        .collect()
}

fn short(name: &str) -> &str {
    name.strip_prefix("munjigi-").unwrap_or(name)
}

/// Permissive licences (SPDX). Anything else needs a decision, not a line here.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "NCSA",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

fn permissive(expression: &str) -> bool {
    // "(A OR B) AND C": each part joined by AND needs one alternative that is permitted. An older way to write OR is
    // a slash.
    expression.replace('/', " OR ").split(" AND ").all(|part| {
        part.split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim_matches(['(', ')', ' '])))
    })
}

#[test]
fn every_dependency_is_permissive() {
    assert!(permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(permissive("MIT/Apache-2.0") && permissive("GPL-3.0 OR MIT"));
    assert!(!permissive("GPL-3.0-only") && !permissive("MIT AND AGPL-3.0"));
    let metadata = metadata();
    let foreign: Vec<_> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| !permissive(package["license"].as_str().unwrap_or("none")))
        .map(|package| format!("{} is {}", package["name"], package["license"]))
        .collect();
    assert!(foreign.is_empty(), "{}", foreign.join("\n"));
}

fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(
                name.as_str(),
                "target" | "node_modules" | "fixtures" | ".git"
            ) {
                found.extend(files(&path, endings));
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Files that may be longer, with the reason.
const LONGER: &[(&str, &str)] = &[
    ("web/i18n/en.js", "one table of messages: one line each"),
    ("web/i18n/ko.js", "one table of messages: one line each"),
];

#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    let mut check = |folder: &str, endings: &[&str], limit: usize| {
        for file in files(&root().join(folder), endings) {
            let name = file.strip_prefix(root()).unwrap().display().to_string();
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > limit && !LONGER.iter().any(|(longer, _)| *longer == name) {
                long.push(format!(
                    "{name} has {lines} lines, {limit} is the limit: split it"
                ));
            }
        }
    };
    check("crates", &[".rs"], 800);
    check("web", &[".js"], 300);
    check(".", &["ARCHITECTURE.md"], 200);
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn all_pages_together_stay_small() {
    let assets = files(
        &root().join("web"),
        &[".js", ".css", ".html", ".svg", ".woff2", ".png"],
    );
    assert!(!assets.is_empty());
    // A visitor loads one of the two languages.
    let bytes: u64 = assets
        .iter()
        .filter(|file| !(file.ends_with("i18n/ko.js") || file.ends_with("i18n/rules-ko.js")))
        .map(|file| fs::metadata(file).unwrap().len())
        .sum();
    // What one page loads stays under 200,000, which the browser's stories hold; this is all pages together.
    assert!(
        bytes < 275_000,
        "the pages have {bytes} bytes, 275,000 is the limit"
    );
}

#[test]
fn every_command_in_the_readme_exists() {
    let help = Command::new(env!("CARGO_BIN_EXE_munjigi"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let known: BTreeSet<_> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for readme in ["README.md", "README.ko.md", "docs/operations.md"] {
        let text = fs::read_to_string(root().join(readme)).unwrap();
        for line in text.lines() {
            let Some(command) = line.trim_start_matches("$ ").strip_prefix("munjigi ") else {
                continue;
            };
            let name = command.split_whitespace().next().unwrap();
            assert!(
                known.contains(name),
                "{readme} names `munjigi {name}`, --help does not"
            );
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    let mut documents = files(&root().join("docs"), &[".md"]);
    documents.extend(
        fs::read_dir(root())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "md")),
    );
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !document.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
