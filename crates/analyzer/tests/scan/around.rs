//! What `.properties` files of the input say to the code in it.

use std::fs;

use munjigi_analyzer::{Report, ScanOptions};

use crate::support::{Bench, Seen, gz, places, tar_of, zip_of};

/// Takes the name of its hash from a properties file.
const DIGEST: &str = r#"class Digest {
  void f() throws Exception {
    java.util.Properties names = new java.util.Properties();
    names.load(getClass().getResourceAsStream("names.properties"));
    String name = names.getProperty("hash", "SHA-512");
    java.security.MessageDigest.getInstance(name);
  }
}
"#;
const WEAK: &[u8] = b"hash=MD5\n";

fn rules(report: &Report) -> Vec<String> {
    places(report).into_iter().map(|(_, rule)| rule).collect()
}

#[test]
fn a_constant_comes_from_a_properties_file_of_the_same_input() {
    let code = ("a/Digest.java", DIGEST.as_bytes());
    // The code comes first: what is said after it counts all the same.
    let with = [code, ("z/names.properties", WEAK)];
    let large = [WEAK, &b"# too large\n".repeat(100_000)].concat();
    let library = zip_of(&[("names.properties", WEAK)]);
    let check = |name: &str, bytes: Vec<u8>, expected: &[&str]| {
        let bench = Bench::new();
        let report = bench.scan(&bench.file(name, bytes));
        assert_eq!(rules(&report), expected, "{name}");
    };
    check("with.zip", zip_of(&with), &["weak-hash"]);
    check("with.tar.gz", gz(&tar_of(&with)), &["weak-hash"]);
    check("without.zip", zip_of(&[code]), &[]);
    let differ = [with[0], with[1], ("y/names.properties", b"hash=SHA-256\n")];
    check("differ.zip", zip_of(&differ), &[]);
    check(
        "large.zip",
        zip_of(&[code, ("names.properties", &large)]),
        &[],
    );
    check("library.zip", zip_of(&[code, ("lib/x.jar", &library)]), &[]);

    let bench = Bench::new();
    for (name, bytes) in with {
        bench.file(&format!("p/{name}"), bytes);
    }
    assert_eq!(
        rules(&bench.scan(&bench.dir.path().join("p"))),
        ["weak-hash"]
    );
}

#[test]
fn a_cache_forgets_what_was_said_with_other_properties() {
    let bench = Bench::new();
    bench.file("p/Digest.java", DIGEST);
    let names = bench.file("p/names.properties", WEAK);
    let options = ScanOptions {
        cache: Some(bench.dir.path().join("cache")),
        ..bench.options(&bench.dir.path().join("p"))
    };
    let scan = || rules(&bench.scan_with(&options, &Seen::default()).unwrap());
    assert_eq!(scan(), ["weak-hash"]);
    fs::write(&names, "hash=SHA-256\n").unwrap();
    assert!(scan().is_empty());
    fs::write(&names, WEAK).unwrap();
    assert_eq!(scan(), ["weak-hash"]);
}
