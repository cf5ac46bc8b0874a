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
        ("no_secret", include_str!("broken/no_secret.toml")),
        ("one_line", include_str!("broken/one_line.toml")),
    ] {
        fs::write(folder.path().join("munjigi.toml"), text).unwrap();
        let output = check(folder.path(), "munjigi.toml");
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(output.stdout.is_empty());
        insta::assert_snapshot!(name, String::from_utf8(output.stderr).unwrap());
    }
}

#[test]
fn a_registry_is_wanted_by_those_who_ask_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let check_route = |route: &str| {
        let listener = "name = \"web\"\naddress = \"127.0.0.1:0\"\nconnections_max = 100";
        let text = format!("[[gate.listener]]\n{listener}\n{route}\n");
        fs::write(folder.path().join("munjigi.toml"), text).unwrap();
        let output = check(folder.path(), "munjigi.toml");
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for own in [
        "[[gate.route]]\npath = \"/\"\nfiles = { root = \".\" }",
        "[[gate.route]]\npath = \"/\"\nrespond = { status = 204 }",
        "[[gate.route]]\npath = \"/\"\nredirect = { location = \"/b\" }",
    ] {
        let (code, said) = check_route(own);
        assert_eq!(code, Some(0), "{own}: {said}");
    }
    for asking in [
        "[[gate.route]]\npath = \"/\"\nservice = \"A\"",
        "[[gate.listener]]\nname = \"mail\"\naddress = \"127.0.0.1:0\"\nconnections_max = 100\nprotocols = [\"tcp\"]\nservice = \"A\"\n\
         [[gate.route]]\npath = \"/\"\nrespond = { status = 204 }",
    ] {
        let (code, said) = check_route(asking);
        assert_eq!(code, Some(1), "{asking}");
        assert!(said.contains("looks services up in a registry"), "{said}");
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
fn rules_of_files_are_checked_with_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let settings = include_str!("broken/ip_filter.toml");
    write("munjigi.toml", settings);
    write(
        "ip.conf",
        "order allow,deny\r\nallow from 10.0.0.1/8\r\ndeny from 999.1.1.1 # no\r\ndefault true # no\r\ndeny 1.2.3.4\r\n",
    );
    write(
        "drop.txt",
        "; a list\n1.2.3.0/24\n1.2.3.0/33\n1.2.3.4 5.6.7.8\n",
    );
    let output = check(folder.path(), "munjigi.toml");
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!("ip_filter", String::from_utf8(output.stderr).unwrap());
    // What is odd is told, and the verdict of any address.
    let good = settings
        .replace("\"10.20.30\", ", "")
        .replace("\"missing.conf\", ", "");
    write("munjigi.toml", &good);
    write("ip.conf", "allow from 10.0.0.1/8\ndeny from 10.20.30.40\n");
    write("drop.txt", "1.2.3.0/24\n1.2.3.0/24\n");
    let output = check(folder.path(), "munjigi.toml");
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    insta::assert_snapshot!("ip_filter_odd", told);
    let explain = |address: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_munjigi"))
            .args(["explain", "ip", address, "--config", "munjigi.toml"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{address}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(explain("1.2.3.4"), "deny: drop.txt line 1: 1.2.3.0/24\n");
    assert_eq!(
        explain("::ffff:10.9.9.9"),
        "allow: ip.conf line 1: allow from 10.0.0.1/8\n"
    );
    assert_eq!(
        explain("10.20.1.1"),
        "deny: munjigi.toml line 13: 10.20.*\n"
    );
    assert_eq!(
        explain("2001:db8::1"),
        "deny: no rule matches, so the default decides\n"
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
        &["explain", "ip"],
        &["explain", "closed"],
        &["explain", "finding"],
        &["scan"],
        &["submit"],
        &["jobs"],
        &["watch"],
        &["cancel"],
        &["delete"],
        &["drain"],
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
