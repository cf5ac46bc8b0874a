//! Reads a result's archive once: checks its bounds, keeps the members that the face needs, and notes where each
//! finding is. Runs on a blocking thread; its memory does not grow with the archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tar::{Archive, Entry, EntryType};

use super::{Limits, ResultError, coverage, sarif};
use crate::store::results::{Finding, Index, Member, Rule};

/// Small archives may expand to this whatever their ratio.
const RATIO_FREE: u64 = 64 << 20;
/// A rule's card is read from explanations up to this size.
const EXPLANATION_MAX: u64 = 2 << 20;
/// Members that can be asked for.
const MEMBERS_MAX: usize = 100_000;
const PATH_MAX: usize = 4_096;

fn bad(why: impl Into<String>) -> ResultError {
    ResultError::Bad(why.into())
}

/// Reads `archive`, writes `parts`.
pub(super) fn read(archive: &Path, parts: &Path, limits: &Limits) -> Result<Index, ResultError> {
    let file = File::open(archive)?;
    let size = file.metadata()?.len();
    let most = limits
        .expanded_bytes
        .min(RATIO_FREE.max(size.saturating_mul(limits.ratio)));
    let unreadable = |error: io::Error| bad(format!("no tar.zst: {error}"));
    let decoder = zstd::stream::read::Decoder::new(BufReader::new(file)).map_err(unreadable)?;
    let mut reading = Archive::new(decoder.take(most.saturating_add(1)));
    let mut reader = Reader {
        // Read again at the end, for its report.
        out: Counted::new(BufWriter::new(
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(parts)?,
        )),
        index: Index::default(),
        rules: BTreeMap::new(),
        limits: *limits,
    };
    let mut entries = 0_u64;
    let mut expanded = 0_u64;
    let mut seen = BTreeSet::new();
    for entry in reading.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        entries += 1;
        expanded = expanded.saturating_add(entry.size());
        if entries > limits.entries {
            return Err(bad(format!("it has more than {} entries", limits.entries)));
        }
        if expanded > most {
            return Err(bad(format!("it expands to more than {most} bytes")));
        }
        let path = path_of(&entry)?;
        match entry.header().entry_type() {
            EntryType::Directory => continue,
            EntryType::Regular => {}
            other => return Err(bad(format!("{path:?} is {other:?}, not a file"))),
        }
        if !seen.insert(path.clone()) {
            return Err(bad(format!("it has {path:?} twice")));
        }
        reader.member(&path, &mut entry)?;
    }
    reader.finish()
}

/// A member's path: relative, without `..`.
fn path_of<R: Read>(entry: &Entry<'_, R>) -> Result<String, ResultError> {
    let bytes = entry.path_bytes();
    let path = std::str::from_utf8(&bytes)
        .map_err(|_| bad("the name of an entry is no UTF-8"))?
        .trim_start_matches("./")
        .trim_end_matches('/');
    let parts_good = path
        .split('/')
        .all(|part| part != ".." && part != "." && !part.is_empty());
    if path.len() > PATH_MAX || (!path.is_empty() && !parts_good) || path.contains('\0') {
        let shown: String = path.chars().take(100).collect();
        return Err(bad(format!("{shown:?} is no name for an entry")));
    }
    Ok(path.to_owned())
}

struct Reader {
    out: Counted<BufWriter<File>>,
    index: Index,
    rules: BTreeMap<String, Rule>,
    limits: Limits,
}

/// What is read of a finding.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(default)]
    rule_id: String,
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    locations: Vec<Value>,
}

/// What is read of an explanation.
#[derive(Deserialize)]
struct Explained {
    rule: Value,
}

impl Reader {
    fn member<R: Read>(&mut self, path: &str, entry: &mut R) -> Result<(), ResultError> {
        match path {
            "findings.jsonl" => self.findings(path, entry),
            "report.sarif" => self.report(path, entry),
            coverage::MEMBER | "summary.json" => self.keep(path, entry),
            _ if path.starts_with("sources/") => self.keep(path, entry),
            _ if path.starts_with("explanations/") => self.explanation(entry),
            // Read through, to be counted and checked; it stays in the archive.
            _ => copied(entry, &mut io::sink()).map(drop),
        }
    }

    fn note(&mut self, path: &str, start: u64) {
        if self.index.members.len() < MEMBERS_MAX {
            self.index.members.push(Member {
                path: path.to_owned(),
                start,
                length: self.out.count - start,
            });
        }
    }

    fn keep<R: Read>(&mut self, path: &str, entry: &mut R) -> Result<(), ResultError> {
        let start = self.out.count;
        copied(entry, &mut self.out)?;
        self.note(path, start);
        Ok(())
    }

    fn findings<R: Read>(&mut self, path: &str, entry: &mut R) -> Result<(), ResultError> {
        let start = self.out.count;
        let mut buffer = vec![0; 64 * 1024];
        let mut line = Vec::new();
        let mut line_start = start;
        // A line beyond its limit is in the archive only.
        let mut long = false;
        loop {
            let read = some(entry, &mut buffer)?;
            let chunk = buffer.get(..read).unwrap_or_default();
            if chunk.is_empty() {
                break;
            }
            for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
                self.out.write_all(piece)?;
                let ends = piece.last() == Some(&b'\n');
                long |= line.len() + piece.len() > self.limits.finding_bytes;
                if !long {
                    line.extend_from_slice(piece);
                }
                if ends {
                    if !long {
                        self.finding(&line, line_start);
                    }
                    line.clear();
                    long = false;
                    line_start = self.out.count;
                }
            }
        }
        if !long {
            self.finding(&line, line_start);
        }
        self.note(path, start);
        Ok(())
    }

    fn finding(&mut self, line: &[u8], start: u64) {
        if self.index.findings.len() >= self.limits.findings {
            return;
        }
        let Ok(found) = serde_json::from_slice::<Line>(line) else {
            return;
        };
        let path = found
            .locations
            .first()
            .and_then(|place| place.pointer("/physicalLocation/artifactLocation/uri"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        self.index.findings.push(Finding {
            // SARIF §3.27.10: absent means warning.
            level: found.level.unwrap_or_else(|| "warning".to_owned()),
            rule_id: found.rule_id,
            path: path.to_owned(),
            start,
            length: u64::try_from(line.len()).unwrap_or(0),
        });
    }

    fn explanation<R: Read>(&mut self, entry: &mut R) -> Result<(), ResultError> {
        let mut json = Vec::new();
        let mut limited = entry.take(EXPLANATION_MAX);
        copied(&mut limited, &mut json)?;
        copied(entry, &mut io::sink())?;
        let Ok(Explained { rule: card }) = serde_json::from_slice(&json) else {
            return Ok(());
        };
        let Some(id) = card.get("id").and_then(Value::as_str) else {
            return Ok(());
        };
        let rule = self.rules.entry(id.to_owned()).or_default();
        if rule.card.is_none() {
            rule.name = card.get("name").and_then(Value::as_str).map(str::to_owned);
            rule.cwe = card
                .get("cwe")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|number| number.as_u64().and_then(|n| u32::try_from(n).ok()))
                .collect();
            rule.card = Some(card.to_string());
        }
        Ok(())
    }

    fn report<R: Read>(&mut self, path: &str, entry: &mut R) -> Result<(), ResultError> {
        let start = self.out.count;
        let mut scan = sarif::Runs::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = some(entry, &mut buffer)?;
            let chunk = buffer.get(..read).unwrap_or_default();
            if chunk.is_empty() {
                break;
            }
            scan.feed(chunk);
            self.out.write_all(chunk)?;
        }
        self.note(path, start);
        // What stands between the brackets of `runs`, for a report of several analyses.
        if let Some(runs) = scan.found() {
            self.index.members.push(Member {
                path: sarif::RUNS.to_owned(),
                start: start + runs.start,
                length: runs.end - runs.start,
            });
        }
        Ok(())
    }

    fn member_at(&self, path: &str) -> Option<Member> {
        let members = &self.index.members;
        members.iter().find(|member| member.path == path).cloned()
    }

    fn finish(mut self) -> Result<Index, ResultError> {
        self.out.flush()?;
        let (report, covered) = (
            self.member_at("report.sarif"),
            self.member_at(coverage::MEMBER),
        );
        let end = self.out.count;
        let mut file = self
            .out
            .inner
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        if let Some(covered) = covered
            && let Some(summary) = coverage::summary(&file, &covered)?
        {
            let bytes = serde_json::to_vec(&summary).map_err(io::Error::from)?;
            file.seek(SeekFrom::Start(end))?;
            file.write_all(&bytes)?;
            self.index.members.push(Member {
                path: coverage::SUMMARY.to_owned(),
                start: end,
                length: u64::try_from(bytes.len()).unwrap_or(0),
            });
        }
        file.sync_data()?;
        if let Some(report) = report {
            for (id, descriptor) in sarif::rules(&file, &report)? {
                let rule = self.rules.entry(id).or_default();
                if rule.card.is_none() {
                    *rule = descriptor;
                }
            }
        }
        self.index.rules = self.rules.into_iter().collect();
        Ok(self.index)
    }
}

/// Reads some bytes of a member; what can't be read is the archive's fault.
fn some<R: Read>(entry: &mut R, buffer: &mut [u8]) -> Result<usize, ResultError> {
    loop {
        match entry.read(buffer) {
            Ok(read) => return Ok(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(bad(format!("it is cut: {error}"))),
        }
    }
}

fn copied<R: Read, W: Write>(entry: &mut R, out: &mut W) -> Result<u64, ResultError> {
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = some(entry, &mut buffer)?;
        let chunk = buffer.get(..read).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(bytes);
        }
        out.write_all(chunk)?;
        bytes += u64::try_from(read).unwrap_or(0);
    }
}

/// Knows how much was written.
struct Counted<W> {
    inner: W,
    count: u64,
}

impl<W> Counted<W> {
    fn new(inner: W) -> Self {
        Self { inner, count: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count += u64::try_from(written).unwrap_or(0);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `tar.zst` of `members`; names are written as they are, also hostile ones.
    fn pack(members: &[(&str, EntryType, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let encoder = zstd::stream::write::Encoder::new(file.reopen().unwrap(), 1).unwrap();
        let mut tar = tar::Builder::new(encoder);
        for (name, kind, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(u64::try_from(bytes.len()).unwrap());
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        file
    }

    fn index(members: &[(&str, EntryType, &[u8])], limits: Limits) -> Result<Index, ResultError> {
        let file = pack(members);
        let parts = tempfile::NamedTempFile::new().unwrap();
        read(file.path(), parts.path(), &limits)
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn findings_rules_and_sources_are_found_again() {
        let finding = br#"{"ruleId":"sql","level":"error","locations":[{"physicalLocation":{"artifactLocation":{"uri":"a.py"}}}]}"#;
        let lines = [finding.as_slice(), b"\n", b"no json\n", finding, b"\n"].concat();
        let report = br#"{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t","rules":[
            {"id":"sql","name":"SQL","shortDescription":{"text":"s"},"properties":{"tags":["external/cwe/cwe-089"]}}]}},
            "results":[{"x":"]}"}]}]}"#;
        let file = pack(&[
            ("findings.jsonl", FILE, &lines),
            ("report.sarif", FILE, report),
            ("sources/a.py", FILE, b"print(1)\n"),
            (
                "coverage.json",
                FILE,
                br#"{"files":[{"path":"a.py","status":"analysed"}]}"#,
            ),
            ("else/x", FILE, b"not kept"),
        ]);
        let parts = tempfile::NamedTempFile::new().unwrap();
        let index = read(file.path(), parts.path(), &Limits::default()).unwrap();
        let bytes = std::fs::read(parts.path()).unwrap();
        let at = |start: u64, length: u64| {
            let start = usize::try_from(start).unwrap();
            &bytes[start..start + usize::try_from(length).unwrap()]
        };
        assert_eq!(index.findings.len(), 2);
        for found in &index.findings {
            assert_eq!(at(found.start, found.length).trim_ascii(), finding);
            assert_eq!(
                (found.level.as_str(), found.path.as_str()),
                ("error", "a.py")
            );
        }
        assert_eq!(index.rules[0].0, "sql");
        assert_eq!(index.rules[0].1.cwe, [89]);
        let source = index
            .members
            .iter()
            .find(|m| m.path == "sources/a.py")
            .unwrap();
        assert_eq!(at(source.start, source.length), b"print(1)\n");
        let runs = index
            .members
            .iter()
            .find(|m| m.path == sarif::RUNS)
            .unwrap();
        let runs = at(runs.start, runs.length);
        assert!(runs.starts_with(b"{\"tool\"") && runs.ends_with(b"}"));
        assert!(!index.members.iter().any(|m| m.path == "else/x"));
        let summary = index
            .members
            .iter()
            .find(|m| m.path == coverage::SUMMARY)
            .unwrap();
        assert!(at(summary.start, summary.length).starts_with(b"{\"analysed\":1,"));
    }

    #[test]
    fn a_hostile_archive_is_refused() {
        let zeros = vec![0; 1 << 20];
        let few = Limits {
            entries: 2,
            expanded_bytes: 1 << 19,
            ..Limits::default()
        };
        for (name, members, limits, part) in [
            (
                "parent",
                vec![("../x", FILE, b"".as_slice())],
                Limits::default(),
                "no name",
            ),
            (
                "absolute",
                vec![("/etc/x", FILE, b"")],
                Limits::default(),
                "no name",
            ),
            (
                "link",
                vec![("x", EntryType::Symlink, b"")],
                Limits::default(),
                "not a file",
            ),
            (
                "device",
                vec![("x", EntryType::Char, b"")],
                Limits::default(),
                "not a file",
            ),
            (
                "twice",
                vec![("x", FILE, b""), ("x", FILE, b"")],
                Limits::default(),
                "twice",
            ),
            (
                "many",
                vec![("x", FILE, b""), ("y", FILE, b""), ("z", FILE, b"")],
                few,
                "entries",
            ),
            ("bomb", vec![("x", FILE, zeros.as_slice())], few, "expands"),
        ] {
            let error = index(&members, limits).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
    }

    #[test]
    fn what_is_no_archive_or_cut_is_refused() {
        let file = pack(&[("x", FILE, &[7; 100_000])]);
        let whole = std::fs::read(file.path()).unwrap();
        let parts = tempfile::NamedTempFile::new().unwrap();
        for bytes in [b"nonsense".as_slice(), &whole[..whole.len() / 2]] {
            std::fs::write(file.path(), bytes).unwrap();
            assert!(read(file.path(), parts.path(), &Limits::default()).is_err());
        }
    }
}
