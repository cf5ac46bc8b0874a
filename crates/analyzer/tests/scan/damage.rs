//! Archives that are cut or changed: what can be read is, the rest is told, nothing panics.

use munjigi_analyzer::intake::Limits;
use munjigi_analyzer::report::coverage::Status;
use munjigi_analyzer::{ScanOptions, scan};
use proptest::prelude::*;

use crate::support::{Bench, SERVLET, Seen, expect_row, gz, places, tar_of, zip_of, zst};

fn many() -> Vec<(String, Vec<u8>)> {
    // Different contents, so that compression leaves something to cut.
    (0..40)
        .map(|n| {
            (
                format!("d/F{n}.java"),
                SERVLET
                    .replace("users", &format!("t{}", n * 7919))
                    .into_bytes(),
            )
        })
        .collect()
}

#[test]
fn what_stands_before_the_cut_is_analysed() {
    let files = many();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let tar = tar_of(&files);
    for (name, bytes) in [
        ("c.zip", zip_of(&files)),
        ("c.tar", tar.clone()),
        ("c.tar.gz", gz(&tar)),
        ("c.tar.zst", zst(&tar)),
    ] {
        let bench = Bench::new();
        let cut = &bytes[..bytes.len() / 2 + 100];
        let report = bench.scan(&bench.file(name, cut));
        let found = places(&report).len();
        // Zstandard's block of 128 KiB holds this archive whole: nothing of it can be read.
        let least = if name == "c.tar.zst" { 0 } else { 10 };
        assert!((least..40).contains(&found), "{name}: {found}");
        let told = report
            .coverage
            .files
            .iter()
            .any(|row| row.status == Status::Truncated);
        assert!(told, "{name}: {:#?}", report.coverage);
        let report_json = crate::support::sarif_of(&report);
        let notes = report_json["runs"][0]["invocations"][0]["toolExecutionNotifications"]
            .as_array()
            .unwrap()
            .len();
        assert!(notes >= 1, "{name}");
    }
}

#[test]
fn garbage_with_the_name_of_an_archive_is_told() {
    let bench = Bench::new();
    let report = bench.scan(&bench.file("g.zip", b"this is no archive"));
    expect_row(&report, "g.zip", Status::Truncated, "not a zip");
    let report = bench.scan(&bench.file("g.tar.gz", b"\x1f\x8b\x08\0garbage garbage garbage"));
    assert_eq!(
        report
            .coverage
            .files
            .iter()
            .filter(|row| row.status == Status::Analysed)
            .count(),
        0
    );
    let report = bench.scan(&bench.file("empty.zip", b""));
    assert!(!report.coverage.files.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn changed_archives_never_panic(
        which in 0_usize..4,
        edits in proptest::collection::vec((0.0_f64..1.0, any::<u8>()), 0..12),
        keep in 0.3_f64..1.0,
    ) {
        let inner = zip_of(&[("x/Login.java", SERVLET.as_bytes()), ("y.txt", b"hello")]);
        let files: [(&str, &[u8]); 3] = [("a/Login.java", SERVLET.as_bytes()), ("in.zip", &inner), ("t.py", b"x = 1\n")];
        let tar = tar_of(&files);
        let mut bytes = match which {
            0 => zip_of(&files),
            1 => tar,
            2 => gz(&tar),
            _ => zst(&tar),
        };
        let at = |share: f64, length: usize| ((length as f64 * share) as usize).min(length.saturating_sub(1));
        for (share, byte) in edits {
            let index = at(share, bytes.len());
            bytes[index] = byte;
        }
        bytes.truncate(at(keep, bytes.len()) + 1);
        let bench = Bench::new();
        let limits = Limits { expanded_bytes: Some(8 << 20), memory_bytes: 512, ..Limits::default() };
        let options = ScanOptions { limits, ..bench.options(&bench.file("p", &bytes)) };
        let report = scan(&options, &Seen::default()).unwrap();
        prop_assert!(!report.coverage.files.is_empty());
        drop(report);
        prop_assert_eq!(std::fs::read_dir(bench.scratch.path()).unwrap().count(), 0);
    }
}
