//! What the stories share: an input, a scan of it, and its outputs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use munjigi_analyzer::report::coverage::{Row, Status};
use munjigi_analyzer::report::sarif;
use munjigi_analyzer::{Observer, Progress, Report, ScanError, ScanOptions, scan};
use serde_json::Value;

/// A servlet with an SQL injection from line 5 to line 7.
pub(crate) const SERVLET: &str = r#"import java.sql.*;
import javax.servlet.http.*;
public class Login extends HttpServlet {
  protected void doGet(HttpServletRequest request, HttpServletResponse response) throws Exception {
    String id = request.getParameter("id");
    Statement statement = connection.createStatement();
    statement.executeQuery("SELECT * FROM users WHERE id = '" + id + "'");
  }
}
"#;

/// A literal that is found as a password.
pub(crate) const SECRET: &str = "hunter2-Zebra9";

pub(crate) fn properties() -> String {
    format!("db.user=app\ndb.password={SECRET}\n")
}

/// Keeps what a scan tells.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) progress: RefCell<Vec<Progress>>,
    pub(crate) findings: RefCell<Vec<sarif::Result>>,
    /// Ends the scan at the first time it is asked.
    pub(crate) cancel: bool,
}

impl Observer for Seen {
    fn progress(&self, progress: &Progress) {
        self.progress.borrow_mut().push(progress.clone());
    }

    fn finding(&self, result: &sarif::Result) {
        self.findings.borrow_mut().push(result.clone());
    }

    fn cancelled(&self) -> bool {
        self.cancel
    }
}

/// An input in a folder of its own, and a folder for the scan's scratch.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) scratch: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    /// Writes a file of the input.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn options(&self, path: &Path) -> ScanOptions {
        ScanOptions {
            scratch: self.scratch.path().to_owned(),
            threads: 2,
            ..ScanOptions::new(vec![path.to_owned()])
        }
    }

    /// Scans with default options; the scratch folder must be empty afterwards.
    pub(crate) fn scan(&self, path: &Path) -> Report {
        self.scan_with(&self.options(path), &Seen::default())
            .unwrap()
    }

    pub(crate) fn scan_with(
        &self,
        options: &ScanOptions,
        seen: &Seen,
    ) -> Result<Report, ScanError> {
        let report = scan(options, seen);
        let left: Vec<_> = std::fs::read_dir(self.scratch.path()).unwrap().collect();
        assert!(left.is_empty(), "left in scratch: {left:?}");
        report
    }
}

pub(crate) fn sarif_of(report: &Report) -> Value {
    let mut bytes = Vec::new();
    report.write_sarif(&mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Places and rules of all findings.
pub(crate) fn places(report: &Report) -> Vec<(String, String)> {
    report
        .results()
        .map(|result| {
            let result = result.unwrap();
            (
                result.place().unwrap().artifact_location.uri.clone(),
                result.rule_id,
            )
        })
        .collect()
}

/// Rows by path; a path that has several keeps the last.
pub(crate) fn rows(report: &Report) -> BTreeMap<String, Row> {
    report
        .coverage
        .files
        .iter()
        .map(|row| (row.path.clone(), row.clone()))
        .collect()
}

/// Entries of the coverage, all statuses together.
pub(crate) fn entries(report: &Report) -> u64 {
    [Status::Analysed, Status::Skipped, Status::Truncated]
        .map(|status| report.coverage.count(status))
        .iter()
        .sum()
}

#[track_caller]
pub(crate) fn expect_row(report: &Report, path: &str, status: Status, reason: &str) {
    let rows = rows(report);
    let row = rows
        .get(path)
        .unwrap_or_else(|| panic!("no row for {path}: {rows:#?}"));
    assert_eq!(row.status, status, "{row:?}");
    let told = row.reason.as_deref().unwrap_or_default();
    assert!(told.contains(reason), "{row:?} does not say {reason:?}");
    assert_eq!(row.reason.is_some(), status != Status::Analysed, "{row:?}");
}

/// A zip by another implementation.
pub(crate) fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in files {
        match name.strip_suffix('/') {
            Some(folder) => writer.add_directory(folder, options).unwrap(),
            None => {
                writer.start_file(*name, options).unwrap();
                writer.write_all(bytes).unwrap();
            }
        }
    }
    writer.finish().unwrap().into_inner()
}

/// A tar by another implementation.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(crate) fn bz2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
