//! Every container that is opened, and how its members are called and counted.

use munjigi_analyzer::report::coverage::Status;

use crate::support::{
    Bench, SERVLET, bz2, entries, expect_row, gz, places, sarif_of, tar_of, zip_of, zst,
};

#[test]
fn the_same_files_are_found_in_every_container() {
    let files: [(&str, &[u8]); 3] = [
        ("src/Login.java", SERVLET.as_bytes()),
        ("README.md", b"hello\n"),
        ("logo.png", b"\x89PNG\r\n\x1a\n\0\0"),
    ];
    let (zip, tar) = (zip_of(&files), tar_of(&files));
    for (name, bytes) in [
        ("a.zip", zip),
        ("a.tar", tar.clone()),
        ("a.tar.gz", gz(&tar)),
        ("a.tgz", gz(&tar)),
        ("a.tar.zst", zst(&tar)),
        ("a.tar.bz2", bz2(&tar)),
        ("nameless", gz(&tar)),
    ] {
        let bench = Bench::new();
        let report = bench.scan(&bench.file(name, bytes));
        let expected = (
            format!("{name}!/src/Login.java"),
            "sql-injection".to_owned(),
        );
        assert_eq!(places(&report), [expected], "{name}");
        assert_eq!(entries(&report), 3, "{name}");
        expect_row(
            &report,
            &format!("{name}!/src/Login.java"),
            Status::Analysed,
            "",
        );
        expect_row(&report, &format!("{name}!/README.md"), Status::Analysed, "");
        expect_row(
            &report,
            &format!("{name}!/logo.png"),
            Status::Skipped,
            "binary",
        );
    }
}

#[test]
fn single_files_are_called_by_their_name() {
    for (name, bytes, uri) in [
        ("Login.java", SERVLET.as_bytes().to_vec(), "Login.java"),
        (
            "Log in#1.java",
            SERVLET.as_bytes().to_vec(),
            "Log%20in%231.java",
        ),
        (
            "Login.java.gz",
            gz(SERVLET.as_bytes()),
            "Login.java.gz!/Login.java",
        ),
        (
            "Login.java.zst",
            zst(SERVLET.as_bytes()),
            "Login.java.zst!/Login.java",
        ),
        (
            "Login.java.bz2",
            bz2(SERVLET.as_bytes()),
            "Login.java.bz2!/Login.java",
        ),
    ] {
        let bench = Bench::new();
        let report = bench.scan(&bench.file(name, bytes));
        assert_eq!(
            places(&report),
            [(uri.to_owned(), "sql-injection".to_owned())]
        );
        assert_eq!(entries(&report), 1, "{name}");
    }
}

#[test]
fn an_upload_is_called_as_it_was_sent() {
    let bench = Bench::new();
    let path = bench.file("blob", zip_of(&[("x.java", SERVLET.as_bytes())]));
    for (name, expected) in [
        ("shop.zip", "shop.zip!/x.java"),
        ("../../e vil.zip", "e%20vil.zip!/x.java"),
        ("..", "upload!/x.java"),
    ] {
        let options = munjigi_analyzer::ScanOptions {
            name: Some(name.to_owned()),
            ..bench.options(&path)
        };
        let report = bench.scan_with(&options, &Default::default()).unwrap();
        assert_eq!(places(&report)[0].0, expected);
        let base = &sarif_of(&report)["runs"][0]["originalUriBaseIds"]["PATH"];
        assert!(
            base["uri"].is_null() && base["description"]["text"].is_string(),
            "{base}"
        );
    }
}

#[test]
fn a_folder_is_read_without_following_links() {
    let bench = Bench::new();
    let outside = bench.file("outside/Secret.java", SERVLET);
    let root = bench.dir.path().join("project");
    bench.file("project/src/Login.java", SERVLET);
    bench.file(
        "project/lib/inner.zip",
        zip_of(&[("B.java", SERVLET.as_bytes()), ("dir/", b"")]),
    );
    std::os::unix::fs::symlink(&outside, root.join("link.java")).unwrap();
    std::os::unix::fs::symlink(outside.parent().unwrap(), root.join("linked")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", root.join("zero.java")).unwrap();
    let report = bench.scan(&root);
    let found: Vec<_> = places(&report)
        .into_iter()
        .map(|(place, _)| place)
        .collect();
    assert_eq!(found, ["lib/inner.zip!/B.java", "src/Login.java"]);
    for link in ["link.java", "linked", "zero.java"] {
        expect_row(&report, link, Status::Skipped, "symbolic link");
    }
    expect_row(&report, "lib/inner.zip", Status::Analysed, "");
    assert_eq!(entries(&report), 6);
    let base = sarif_of(&report)["runs"][0]["originalUriBaseIds"]["PATH"]["uri"]
        .as_str()
        .unwrap()
        .to_owned();
    let real = root.canonicalize().unwrap();
    assert_eq!(base, format!("file://{}/", real.display()));
}

#[test]
fn several_paths_have_a_base_each() {
    let bench = Bench::new();
    let (one, two) = (
        bench.file("one/A.java", SERVLET),
        bench.file("two/A.java", SERVLET),
    );
    let mut options = bench.options(&one);
    options.paths.push(two);
    options.results = Some(bench.dir.path().join("out"));
    let report = bench.scan_with(&options, &Default::default()).unwrap();
    let results: Vec<_> = report.results().map(Result::unwrap).collect();
    let bases: Vec<_> = results
        .iter()
        .map(|r| r.place().unwrap().artifact_location.uri_base_id.as_str())
        .collect();
    assert_eq!(bases, ["PATH", "PATH2"]);
    assert_ne!(results[0].id(), results[1].id());
    for source in ["out/sources/A.java", "out/sources/PATH2/A.java"] {
        assert_eq!(
            std::fs::read_to_string(bench.dir.path().join(source)).unwrap(),
            SERVLET
        );
    }
}

#[test]
fn archives_in_archives_are_opened_six_deep() {
    let mut bytes = zip_of(&[("Deep.java", SERVLET.as_bytes())]);
    for level in 0..6 {
        bytes = if level % 2 == 0 {
            gz(&tar_of(&[("in.zip", &bytes), ("note.txt", b"x")]))
        } else {
            zip_of(&[("in.tgz", &bytes)])
        };
    }
    let bench = Bench::new();
    let report = bench.scan(&bench.file("outer.bin", bytes.clone()));
    assert_eq!(places(&report).len(), 1, "{:#?}", report.coverage);
    let deeper = zip_of(&[("once-more.zip", &bytes)]);
    let report = bench.scan(&bench.file("outer2.zip", deeper));
    assert!(places(&report).is_empty());
    let refused: Vec<_> = report
        .coverage
        .files
        .iter()
        .filter(|row| row.status == Status::Skipped)
        .collect();
    assert!(
        matches!(refused.as_slice(), [row] if row.reason.as_deref().unwrap().contains("nested deeper than 6"))
    );
}

#[test]
fn names_that_are_no_utf8_are_shown_and_encoded() {
    let bench = Bench::new();
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..10].copy_from_slice(b"caf\xe9/A.jav");
    header.as_mut_bytes()[10] = b'a';
    header.set_size(SERVLET.len() as u64);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, SERVLET.as_bytes()).unwrap();
    let report = bench.scan(&bench.file("n.tar", builder.into_inner().unwrap()));
    assert_eq!(places(&report)[0].0, "n.tar!/caf%E9/A.java");
    expect_row(&report, "n.tar!/caf\u{fffd}/A.java", Status::Analysed, "");
}

#[test]
fn long_names_of_both_tar_dialects_are_read() {
    let long = format!("{}/Login.java", "folder/".repeat(30));
    let bench = Bench::new();
    let report = bench.scan(&bench.file("gnu.tar", tar_of(&[(&long, SERVLET.as_bytes())])));
    assert_eq!(
        places(&report)[0].0,
        format!("gnu.tar!/{}", long.replace("//", "/"))
    );
    let mut builder = tar::Builder::new(Vec::new());
    let path = format!("p/{}A.java", "x/".repeat(100));
    builder
        .append_pax_extensions([("path", path.as_bytes())])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("short.java").unwrap();
    header.set_size(SERVLET.len() as u64);
    header.set_cksum();
    builder.append(&header, SERVLET.as_bytes()).unwrap();
    let report = bench.scan(&bench.file("pax.tar", builder.into_inner().unwrap()));
    assert_eq!(places(&report)[0].0, format!("pax.tar!/{path}"));
}

#[test]
fn large_zips_with_wide_fields_are_read() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().large_file(true);
    for index in 0..70_000 {
        writer.start_file(format!("f{index}"), options).unwrap();
    }
    writer.start_file("Z.java", options).unwrap();
    std::io::Write::write_all(&mut writer, SERVLET.as_bytes()).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    let bench = Bench::new();
    let report = bench.scan(&bench.file("wide.zip", bytes));
    assert_eq!(entries(&report), 70_001);
    assert_eq!(places(&report)[0].0, "wide.zip!/Z.java");
}

#[test]
fn files_are_left_out_with_a_reason() {
    let bench = Bench::new();
    let large = vec![b'a'; 9 << 20];
    let minified = format!("var a={};", "1+".repeat(9000));
    let bytes = zip_of(&[
        ("large.java", &large),
        ("node_modules/x/index.js", b"x"),
        ("a.rb", b"puts 1\n"),
        ("app.js", minified.as_bytes()),
        ("data.java", b"\0\0\0"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c\0\0"),
        ("folder/", b""),
    ]);
    let report = bench.scan(&bench.file("a.zip", bytes));
    for (name, reason) in [
        ("large.java", "larger than"),
        ("node_modules/x/index.js", "dependency"),
        ("a.rb", "no engine for Ruby"),
        ("app.js", "minified"),
        ("data.java", "binary"),
        ("a.7z", "7z"),
    ] {
        expect_row(&report, &format!("a.zip!/{name}"), Status::Skipped, reason);
    }
    assert_eq!(entries(&report), 6);
}
