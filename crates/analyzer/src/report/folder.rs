//! The folder of a result: `findings.jsonl`, `report.sarif`, `explanations/`, `coverage.json`, `summary.json`,
//! `sources/` (contract §8).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::explanations::Explanation;
use super::mask::Masker;
use super::{Report, rule};

const SUMMARY: &str = "summary.json";
/// What a result folder holds, files and folders.
pub(crate) const PARTS: [&str; 6] = [
    "findings.jsonl",
    "report.sarif",
    "explanations",
    "coverage.json",
    SUMMARY,
    "sources",
];
/// Longest name that common file systems take, in bytes.
const FILE_NAME_BYTES_MAX: usize = 255;

/// Told how many findings are written; an error ends the writing.
pub(crate) type Tick<'t> = &'t mut dyn FnMut(u64) -> io::Result<()>;

/// A result folder that is being written.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    /// Files below `sources/`, for the last masking.
    sources: Vec<PathBuf>,
}

impl Folder {
    /// Opens a folder for a new result. An earlier result in it is replaced; anything else of these names is refused.
    pub(crate) fn create(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        for name in ["explanations", "sources"] {
            let part = root.join(name);
            if fs::symlink_metadata(&part).is_err() {
                continue;
            }
            if !root.join(SUMMARY).is_file() {
                let reason = format!("it holds {name:?} that no scan wrote; give an empty folder");
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
            }
            fs::remove_dir_all(&part)?;
        }
        for name in ["findings.jsonl", "report.sarif", "coverage.json", SUMMARY] {
            match fs::remove_file(root.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::create_dir(root.join("explanations"))?;
        fs::create_dir(root.join("sources"))?;
        Ok(Self {
            root: root.to_owned(),
            sources: Vec::new(),
        })
    }

    /// Keeps the masked text of a file that findings touch. `place` has no `..` and is relative.
    pub(crate) fn source(&mut self, place: &str, text: &str) -> io::Result<()> {
        let fits = place
            .split('/')
            .all(|part| !part.is_empty() && part != ".." && part.len() <= FILE_NAME_BYTES_MAX);
        let wanted = self.root.join("sources").join(place);
        let written = if fits {
            wanted
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| write_new(&wanted, text))
                .map(|()| wanted)
        } else {
            Err(io::ErrorKind::InvalidFilename.into())
        };
        let path = match written {
            Ok(path) => path,
            // A name that is too long, or a file where another archive has a folder: kept under the place's digest.
            Err(_) => {
                let digest = blake3::hash(place.as_bytes()).to_hex();
                let path = self.root.join("sources").join(digest.as_str());
                write_new(&path, text)?;
                path
            }
        };
        self.sources.push(path);
        Ok(())
    }

    /// Writes everything else, masked; answers the written files, relative to the folder. `tick` is told the number of
    /// findings that are written, and may end it.
    pub(crate) fn finish(self, report: &Report, tick: Tick<'_>) -> io::Result<Vec<PathBuf>> {
        let mut written = vec![
            PathBuf::from("findings.jsonl"),
            PathBuf::from("report.sarif"),
        ];
        let mut lines = BufWriter::new(File::create(self.root.join("findings.jsonl"))?);
        for (result, done) in report.results().zip(0..) {
            tick(done)?;
            let result = result?;
            serde_json::to_writer(&mut lines, &result)?;
            lines.write_all(b"\n")?;
            let Some(rule) = rule(&result.rule_id) else {
                continue;
            };
            let name = PathBuf::from("explanations").join(format!("{}.json", result.id()));
            let explanation = Explanation::new(rule, result);
            let mut out = BufWriter::new(File::create(self.root.join(&name))?);
            serde_json::to_writer_pretty(&mut out, &explanation)?;
            out.write_all(b"\n")?;
            out.flush()?;
            written.push(name);
        }
        lines.flush()?;
        let mut sarif = BufWriter::new(File::create(self.root.join("report.sarif"))?);
        let total: u64 = report.spool.counts().iter().sum();
        report.write_sarif_from(
            &mut sarif,
            &mut report.results().map(|result| tick(total).and(result)),
        )?;
        sarif.flush()?;
        self.json("coverage.json", &report.coverage, &mut written)?;
        self.mask_sources(&report.masker)?;
        written.extend(
            self.sources
                .iter()
                .filter_map(|path| path.strip_prefix(&self.root).ok())
                .map(Path::to_owned),
        );
        // Last, since its presence says that the result is whole.
        self.json(SUMMARY, &report.summary, &mut written)?;
        Ok(written)
    }

    fn json<T: serde::Serialize>(
        &self,
        name: &str,
        value: &T,
        written: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(self.root.join(name))?);
        serde_json::to_writer_pretty(&mut out, value)?;
        out.write_all(b"\n")?;
        written.push(PathBuf::from(name));
        out.flush()
    }

    /// Secrets that were found after a source was kept.
    fn mask_sources(&self, masker: &Masker) -> io::Result<()> {
        for path in &self.sources {
            if let Some(masked) = masker.mask(&fs::read_to_string(path)?) {
                fs::write(path, masked)?;
            }
        }
        Ok(())
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .create_new(true)
        .open(path)?
        .write_all(text.as_bytes())
}
