//! Every example in `config/` is good, and what is broken is said with line, caret and hint.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn check(folder: &Path, file: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_munjigi"))
        .args(["check", file])
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn every_example_is_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("cluster.secret"),
        "a-secret-that-is-long-enough\n",
    )
    .unwrap();
    let own = rcgen::generate_simple_self_signed(["analysis.example.com".to_owned()]).unwrap();
    fs::write(folder.path().join("web.pem"), own.cert.pem()).unwrap();
    fs::write(
        folder.path().join("web.key"),
        own.signing_key.serialize_pem(),
    )
    .unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(&path, folder.path().join(&name)).unwrap();
        let output = check(folder.path(), &name);
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        seen += 1;
    }
    assert!(seen >= 4);
}

#[test]
fn what_is_broken_is_said_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("unknown_keys", include_str!("broken/unknown_keys.toml")),
        ("wrong_values", include_str!("broken/wrong_values.toml")),
        ("roles_apart", include_str!("broken/roles_apart.toml")),
        ("no_toml", include_str!("broken/no_toml.toml")),
        ("later", include_str!("broken/later.toml")),
    ] {
        fs::write(folder.path().join("munjigi.toml"), text).unwrap();
        let output = check(folder.path(), "munjigi.toml");
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(output.stdout.is_empty());
        insta::assert_snapshot!(name, String::from_utf8(output.stderr).unwrap());
    }
}

#[test]
fn a_file_that_is_not_there_could_not_be_checked() {
    let output = check(Path::new("/"), "no-such-file.toml");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .starts_with("error: no-such-file.toml can't be read")
    );
}

#[test]
fn every_command_shows_an_example() {
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_munjigi"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut all = help(&["--help"]);
    for command in [
        &["up"][..],
        &["run"],
        &["check"],
        &["settings"],
        &["explain", "request"],
        &["explain", "finding"],
        &["scan"],
        &["submit"],
        &["jobs"],
        &["watch"],
        &["cancel"],
        &["result"],
    ] {
        let text = help(&[command, &["--help"]].concat());
        assert!(text.contains("Example"), "{command:?} shows no example");
        all.push_str(&format!("\n==== {}\n{text}", command.join(" ")));
    }
    insta::assert_snapshot!("help", all);
}

#[test]
fn settings_are_printed_for_one_role_and_for_all() {
    for arguments in [
        &["settings"][..],
        &["settings", "gate"],
        &["settings", "worker"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_munjigi"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            text.contains("[[gate.listener]]"),
            arguments.get(1) != Some(&"worker")
        );
    }
}
