//! Archives that mean harm. Each is told in coverage, and nothing of it leaves the scan's own folder.

use std::io::Write;

use munjigi_analyzer::intake::Limits;
use munjigi_analyzer::report::coverage::Status;
use munjigi_analyzer::{ScanError, ScanOptions};

use crate::support::{Bench, SERVLET, Seen, entries, expect_row, gz, places, tar_of, zip_of, zst};

/// A stored zip entry as bytes, local and central; each field can lie.
struct Raw<'a> {
    name: &'a [u8],
    local_name: &'a [u8],
    data: &'a [u8],
    flags: u16,
    method: u16,
    mode: u32,
    size: u32,
}

impl<'a> Raw<'a> {
    fn new(name: &'a [u8], data: &'a [u8]) -> Self {
        Self {
            name,
            local_name: name,
            data,
            flags: 0,
            method: 0,
            mode: 0o100_644,
            size: u32::try_from(data.len()).unwrap(),
        }
    }
}

fn raw_zip(entries: &[Raw<'_>]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = u32::try_from(out.len()).unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(entry.data);
        let packed = u32::try_from(entry.data.len()).unwrap();
        let mut fields = Vec::new();
        fields.extend(entry.flags.to_le_bytes());
        fields.extend(entry.method.to_le_bytes());
        fields.extend([0; 4]);
        fields.extend(crc.sum().to_le_bytes());
        fields.extend(packed.to_le_bytes());
        fields.extend(entry.size.to_le_bytes());
        out.extend(b"PK\x03\x04\x14\0");
        out.extend(&fields);
        out.extend(u16::try_from(entry.local_name.len()).unwrap().to_le_bytes());
        out.extend([0; 2]);
        out.extend(entry.local_name);
        out.extend(entry.data);
        directory.extend(b"PK\x01\x02\x14\x03\x14\0");
        directory.extend(&fields);
        directory.extend(u16::try_from(entry.name.len()).unwrap().to_le_bytes());
        directory.extend([0; 8]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(entry.name);
    }
    let start = u32::try_from(out.len()).unwrap();
    let count = u16::try_from(entries.len()).unwrap();
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

#[test]
fn what_a_zip_must_not_hold_is_skipped_and_told() {
    let code = SERVLET.as_bytes();
    let cases = [
        (Raw::new(b"../up.java", code), "leaves its folder"),
        (Raw::new(b"/abs.java", code), "absolute"),
        (Raw::new(b"a\\..\\..\\b.java", code), "leaves its folder"),
        (
            Raw {
                mode: 0o120_777,
                ..Raw::new(b"link.java", b"/etc/passwd")
            },
            "symbolic link",
        ),
        (
            Raw {
                mode: 0o020_666,
                ..Raw::new(b"device.java", b"")
            },
            "device",
        ),
        (
            Raw {
                flags: 1,
                ..Raw::new(b"locked.java", code)
            },
            "encrypted",
        ),
        (
            Raw {
                method: 99,
                ..Raw::new(b"odd.java", code)
            },
            "compression method 99",
        ),
        (
            Raw {
                local_name: b"other.java",
                ..Raw::new(b"liar.java", code)
            },
            "disagree",
        ),
    ];
    let bench = Bench::new();
    let (raws, reasons): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let report = bench.scan(&bench.file("h.zip", raw_zip(&raws)));
    assert_eq!(entries(&report), 8);
    for (raw, reason) in raws.iter().zip(reasons) {
        expect_row(
            &report,
            &format!("h.zip!/{}", std::str::from_utf8(raw.name).unwrap()),
            Status::Skipped,
            reason,
        );
    }
}

#[test]
fn lying_sizes_equal_names_and_foreign_bytes_are_survived() {
    let code = SERVLET.as_bytes();
    let bytes = raw_zip(&[
        Raw {
            size: 7,
            ..Raw::new(b"short.java", code)
        },
        Raw::new(b"twice.java", code),
        Raw::new(b"twice.java", b"class Other {}"),
        Raw::new(b"caf\xe9.java", code),
    ]);
    let bench = Bench::new();
    let report = bench.scan(&bench.file("h.zip", bytes));
    assert_eq!(entries(&report), 4);
    expect_row(&report, "h.zip!/short.java", Status::Truncated, "checksum");
    let twice: Vec<_> = report
        .coverage
        .files
        .iter()
        .filter(|row| row.path == "h.zip!/twice.java")
        .collect();
    assert_eq!(
        twice
            .iter()
            .filter(|row| row.status == Status::Analysed)
            .count(),
        1
    );
    assert!(twice.iter().any(|row| {
        row.reason
            .as_deref()
            .is_some_and(|reason| reason.contains("same name"))
    }));
    let found: Vec<_> = places(&report)
        .into_iter()
        .map(|(place, _)| place)
        .collect();
    assert!(
        found.contains(&"h.zip!/caf%E9.java".to_owned())
            && found.contains(&"h.zip!/twice.java".to_owned())
    );
}

#[test]
fn entries_that_share_their_bytes_are_refused() {
    // Two directory records that point at one local header: the quoted-overlap bomb in small.
    let mut bytes = raw_zip(&[
        Raw::new(b"a.java", SERVLET.as_bytes()),
        Raw::new(b"b.java", SERVLET.as_bytes()),
    ]);
    let second = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    bytes[second + 42..second + 46].copy_from_slice(&[0; 4]);
    bytes[second + 46..second + 52].copy_from_slice(b"a.java");
    let first = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    bytes[first + 46..first + 52].copy_from_slice(b"a.java");
    let bench = Bench::new();
    let report = bench.scan(&bench.file("o.zip", bytes.clone()));
    assert_eq!(entries(&report), 2);
    assert_eq!(
        places(&report).len(),
        1,
        "the second has the name of the first"
    );
    // With a name of its own, the local header gives it away.
    bytes[second + 46..second + 52].copy_from_slice(b"b.java");
    let report = bench.scan(&bench.file("o.zip", bytes));
    expect_row(&report, "o.zip!/b.java", Status::Skipped, "disagree");
}

#[test]
fn links_devices_and_sparse_files_of_a_tar_are_skipped() {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in [
        ("soft.java", tar::EntryType::Symlink),
        ("hard.java", tar::EntryType::Link),
        ("char", tar::EntryType::Char),
        ("block", tar::EntryType::Block),
        ("pipe", tar::EntryType::Fifo),
        ("folder/", tar::EntryType::Directory),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder
            .append_link(&mut header, name, "/etc/passwd")
            .unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..13].copy_from_slice(b"../../up.java");
    header.set_size(SERVLET.len() as u64);
    header.set_cksum();
    builder.append(&header, SERVLET.as_bytes()).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(SERVLET.len() as u64);
    builder
        .append_data(&mut header, "Login.java", SERVLET.as_bytes())
        .unwrap();
    let bench = Bench::new();
    let report = bench.scan(&bench.file("h.tar", builder.into_inner().unwrap()));
    for (name, reason) in [
        ("soft.java", "symbolic link"),
        ("hard.java", "hard link"),
        ("char", "device"),
        ("block", "device"),
        ("pipe", "fifo"),
        ("../../up.java", "leaves its folder"),
    ] {
        expect_row(&report, &format!("h.tar!/{name}"), Status::Skipped, reason);
    }
    assert_eq!(entries(&report), 7);
    assert_eq!(places(&report).len(), 1);
}

#[test]
fn a_long_name_of_a_gigabyte_is_refused_without_memory() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(vec![b'a'; 4096]);
    let bench = Bench::new();
    let report = bench.scan(&bench.file("l.tar", bytes));
    expect_row(&report, "l.tar", Status::Truncated, "larger than 64 KiB");
}

#[test]
fn bombs_end_at_their_limits() {
    let zeros = vec![0_u8; 40 << 20];
    let bench = Bench::new();
    // A gzip of zeros inside a tar: more than 200 times larger, beyond the floor.
    let inner = gz(&zeros);
    let report = bench.scan(&bench.file(
        "b.tar",
        tar_of(&[("zeros.gz", &inner), ("Login.java", SERVLET.as_bytes())]),
    ));
    assert_eq!(
        places(&report).len(),
        1,
        "what stands beside a bomb is analysed"
    );
    assert_eq!(entries(&report), 3);
    // The same as a tar of many files: the ratio of the stream ends it.
    let many: Vec<(String, Vec<u8>)> = (0..40)
        .map(|n| (format!("f{n}.txt"), vec![b' '; 1 << 20]))
        .collect();
    let files: Vec<(&str, &[u8])> = many
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let packed = zst(&tar_of(&files));
    let options = ScanOptions {
        limits: Limits {
            ratio_floor: 1 << 20,
            ..Limits::default()
        },
        ..bench.options(&bench.file("m.tar.zst", packed))
    };
    let report = bench.scan_with(&options, &Seen::default()).unwrap();
    expect_row(
        &report,
        "m.tar.zst",
        Status::Truncated,
        "expands more than 200 times",
    );
    // The bytes of all together.
    let zip = zip_of(&files);
    let limits = Limits {
        expanded_bytes: Some(10 << 20),
        ratio: 1 << 40,
        ..Limits::default()
    };
    let options = ScanOptions {
        limits,
        ..bench.options(&bench.file("s.zip", zip))
    };
    let report = bench.scan_with(&options, &Seen::default()).unwrap();
    assert_eq!(entries(&report), 40);
    expect_row(&report, "s.zip!/…", Status::Skipped, "expands to more than");
}

#[test]
fn entries_beyond_the_limit_are_counted() {
    let files: Vec<(String, &[u8])> = (0..50).map(|n| (format!("f{n}.txt"), &b"x"[..])).collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), *bytes))
        .collect();
    let bench = Bench::new();
    for (name, bytes) in [("e.zip", zip_of(&files)), ("e.tar.gz", gz(&tar_of(&files)))] {
        let limits = Limits {
            entries: 20,
            ..Limits::default()
        };
        let options = ScanOptions {
            limits: limits.clone(),
            ..bench.options(&bench.file(name, bytes))
        };
        let report = bench.scan_with(&options, &Seen::default()).unwrap();
        assert_eq!(entries(&report), 50, "{name}");
        assert_eq!(report.coverage.files.len(), 21, "{name}");
        expect_row(
            &report,
            &format!("{name}!/…"),
            Status::Skipped,
            "more than 20 entries",
        );
    }
    for (name, bytes) in &files {
        bench.file(&format!("folder/{name}"), bytes);
    }
    let options = ScanOptions {
        limits: Limits {
            entries: 20,
            ..Limits::default()
        },
        ..bench.options(&bench.dir.path().join("folder"))
    };
    let report = bench.scan_with(&options, &Seen::default()).unwrap();
    assert_eq!((entries(&report), report.coverage.files.len()), (50, 21));
}

#[test]
fn a_zip_that_is_too_large_for_memory_goes_through_scratch() {
    let bench = Bench::new();
    let inner = zip_of(&[("Login.java", SERVLET.as_bytes())]);
    let limits = Limits {
        memory_bytes: 64,
        ..Limits::default()
    };
    let options = ScanOptions {
        limits,
        ..bench.options(&bench.file("o.tar", tar_of(&[("in.zip", &inner)])))
    };
    let report = bench.scan_with(&options, &Seen::default()).unwrap();
    assert_eq!(places(&report)[0].0, "o.tar!/in.zip!/Login.java");
}

#[test]
fn a_cancelled_scan_ends_at_once_and_leaves_nothing() {
    let bench = Bench::new();
    let mut builder = tar::Builder::new(Vec::new());
    for n in 0..2000 {
        let mut header = tar::Header::new_gnu();
        header.set_size(SERVLET.len() as u64);
        builder
            .append_data(&mut header, format!("F{n}.java"), SERVLET.as_bytes())
            .unwrap();
    }
    builder.get_mut().flush().unwrap();
    let path = bench.file("c.tar", builder.into_inner().unwrap());
    let before = std::time::Instant::now();
    let error = bench
        .scan_with(
            &bench.options(&path),
            &Seen {
                cancel: true,
                ..Seen::default()
            },
        )
        .unwrap_err();
    assert!(matches!(error, ScanError::Cancelled), "{error}");
    assert!(
        before.elapsed().as_secs_f64() < 3.0,
        "{:?}",
        before.elapsed()
    );
}

#[test]
fn inputs_that_are_missing_are_errors() {
    let bench = Bench::new();
    let error = bench
        .scan_with(
            &bench.options(&bench.dir.path().join("none")),
            &Seen::default(),
        )
        .unwrap_err();
    assert!(matches!(error, ScanError::Input { .. }), "{error}");
    let options = ScanOptions {
        paths: vec![],
        ..bench.options(bench.dir.path())
    };
    assert!(matches!(
        bench.scan_with(&options, &Seen::default()),
        Err(ScanError::NoPath)
    ));
}

#[test]
fn a_scan_does_not_read_what_it_writes() {
    let bench = Bench::new();
    bench.file("p/Login.java", SERVLET);
    bench.file("p/out/old.java", SERVLET);
    bench.file("p/tmp/.keep", "");
    let root = bench.dir.path().join("p");
    let options = ScanOptions {
        results: Some(root.join("out")),
        scratch: root.join("tmp"),
        ..bench.options(&root)
    };
    let report = bench.scan_with(&options, &Seen::default()).unwrap();
    assert_eq!((places(&report).len(), entries(&report)), (1, 2));
    expect_row(&report, "out/…", Status::Skipped, "what this scan writes");
}

#[test]
fn findings_beyond_the_limit_are_left_out_whatever_the_number_of_threads() {
    let files: Vec<(String, &[u8])> = (0..20)
        .map(|n| (format!("F{n:02}.java"), SERVLET.as_bytes()))
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), *bytes))
        .collect();
    let bench = Bench::new();
    let path = bench.file("f.zip", zip_of(&files));
    for threads in [1, 4] {
        let limits = Limits {
            findings: 7,
            ..Limits::default()
        };
        let report = bench
            .scan_with(
                &ScanOptions {
                    limits,
                    threads,
                    ..bench.options(&path)
                },
                &Seen::default(),
            )
            .unwrap();
        let found: Vec<_> = places(&report)
            .into_iter()
            .map(|(place, _)| place)
            .collect();
        assert_eq!(
            found,
            (0..7)
                .map(|n| format!("f.zip!/F{n:02}.java"))
                .collect::<Vec<_>>()
        );
        expect_row(
            &report,
            "f.zip!/F07.java",
            Status::Truncated,
            "more than 7 findings",
        );
        assert_eq!(report.coverage.count(Status::Truncated), 13);
    }
}
