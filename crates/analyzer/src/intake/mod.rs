//! Bytes → files: opens folders, archives and archives in archives, and accounts for every entry.
//!
//! Nothing is written beside the scan's own folder, no link is followed, and what is not read is told with its reason.
//! One file's content is in memory at a time; a stream is never gathered.

mod folder;
mod limits;
mod name;
mod salvage;
mod sniff;
mod tar;
mod tree;
mod zip;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use limits::Limits;
pub use name::{EntryPath, percent_encoded};
pub(crate) use sniff::extension;
pub use tree::{Tree, TreeError, unpack_tree};

use limits::{Budget, Counted, Expanding, Stop, stop_of};
use sniff::{Format, HEAD_BYTES};

use crate::report::coverage::{Row, Status as RowStatus};

const DUPLICATE: &str = "same name as an earlier entry, which is the one that was read";

/// Why an intake stopped as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    #[error("cancelled")]
    Cancelled,
    /// The other side is gone, or could not keep what it was given.
    #[error("{0}")]
    Failed(String),
}

/// A file that is no archive.
pub struct Leaf<'r> {
    pub path: &'r EntryPath,
    /// Its size as its container claims.
    pub declared: Option<u64>,
    pub reader: &'r mut dyn Read,
}

impl std::fmt::Debug for Leaf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf")
            .field("path", self.path)
            .field("declared", &self.declared)
            .finish_non_exhaustive()
    }
}

/// Where an intake puts what it finds.
pub trait Sink {
    /// A file. What is not read is skipped; what becomes of it, the sink writes into coverage.
    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<(), Halt>;
    /// A row of coverage of the intake's own.
    fn row(&mut self, row: Row) -> Result<(), Halt>;
    /// Whether archives inside the input are opened; otherwise they are leaves.
    fn opens_nested(&self) -> bool {
        true
    }
    /// Whether an entry is looked at at all.
    fn wants(&self, _path: &EntryPath) -> bool {
        true
    }
}

/// How far an intake is, readable from other threads.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes of the input as given.
    pub bytes_total: AtomicU64,
    /// Bytes of it that were read.
    pub bytes_read: AtomicU64,
    /// Files that are known to come; 0 when the container cannot tell.
    pub files_known: AtomicU64,
}

/// Reads on both sides of a position.
pub trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// How an archive ended.
#[derive(Debug)]
enum Ended {
    Whole,
    /// Entries may be missing, and why.
    Early(String),
}

/// The reason behind an error of a [`Leaf`]'s reader, in words; or the halt when the scan was cancelled.
pub fn reason_of(error: &io::Error) -> Result<String, Halt> {
    match stop_of(error) {
        Some(Stop::Cancelled) => Err(Halt::Cancelled),
        _ => Ok(limits::why(error)),
    }
}

/// Adds a file, called `name`, to the meter; false when its number of files cannot be told before it is read.
pub(crate) fn measure_file(meter: &Meter, file: &mut File, name: &EntryPath) -> io::Result<bool> {
    meter
        .bytes_total
        .fetch_add(file.metadata()?.len(), Ordering::Relaxed);
    let mut head = Vec::new();
    Read::by_ref(file)
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)?;
    let files = match sniff::format(&head, name.as_bytes()) {
        Some(Format::Zip) => zip::claimed_entries(file)?,
        None | Some(Format::Other(_)) => Some(1),
        Some(_) => None,
    };
    file.seek(SeekFrom::Start(0))?;
    meter
        .files_known
        .fetch_add(files.unwrap_or(0), Ordering::Relaxed);
    Ok(files.is_some())
}

/// Adds what is below a folder to the meter.
pub(crate) fn measure_folder(
    meter: &Meter,
    root: &Path,
    own: &[PathBuf],
    cancelled: &dyn Fn() -> bool,
) -> Result<(), Halt> {
    folder::count(meter, root, own, cancelled)
}

/// One scan's intake.
pub struct Intake<'a> {
    limits: Limits,
    budget: Rc<Budget>,
    sink: &'a mut dyn Sink,
    meter: &'a Meter,
    /// The scan's own folder.
    scratch: &'a Path,
    seen: HashSet<[u8; 16]>,
}

impl std::fmt::Debug for Intake<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<'a> Intake<'a> {
    /// An intake with its limits, for an input of `meter.bytes_total` bytes.
    #[must_use]
    pub fn new(
        limits: Limits,
        cancelled: Arc<AtomicBool>,
        meter: &'a Meter,
        scratch: &'a Path,
        sink: &'a mut dyn Sink,
    ) -> Self {
        let budget = Rc::new(Budget::new(
            &limits,
            meter.bytes_total.load(Ordering::Relaxed),
            cancelled,
        ));
        Self {
            limits,
            budget,
            sink,
            meter,
            scratch,
            seen: HashSet::new(),
        }
    }

    /// Reads the folder `root` to its end, without the folders `own` that the caller writes to.
    pub fn folder(&mut self, root: &Path, own: &[PathBuf]) -> Result<(), Halt> {
        folder::read(self, root, own)
    }

    /// Reads the file `file`, which the scan was asked for by itself and which is shown as `name`.
    pub fn input(&mut self, file: &mut File, name: &EntryPath) -> Result<(), Halt> {
        self.opened(file, name, 0, true)
    }

    /// A file on disk; `top` when it is itself what was asked for.
    fn opened(
        &mut self,
        file: &mut File,
        path: &EntryPath,
        depth: u32,
        top: bool,
    ) -> Result<(), Halt> {
        let start = self.meter.bytes_read.load(Ordering::Relaxed);
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let mut head = Vec::new();
        let read = Read::by_ref(file)
            .take(HEAD_BYTES as u64)
            .read_to_end(&mut head);
        if let Err(error) = read.and_then(|_| file.seek(SeekFrom::Start(0))) {
            return self.row(path, RowStatus::Skipped, &limits::why(&error));
        }
        match sniff::format(&head, path.as_bytes()).filter(|_| top || self.sink.opens_nested()) {
            Some(format) => {
                let ended = self.container(path, format, Input::File(file), depth)?;
                self.container_row(path, ended, top)?;
            }
            None => self.sink.leaf(Leaf {
                path,
                declared: Some(size),
                reader: file,
            })?,
        }
        self.meter
            .bytes_read
            .store(start.saturating_add(size), Ordering::Relaxed);
        Ok(())
    }

    /// A member of a container at `depth` archives: itself a container, or a leaf.
    fn member(
        &mut self,
        path: &EntryPath,
        declared: Option<u64>,
        reader: &mut dyn Read,
        depth: u32,
    ) -> Result<(), Halt> {
        if !self.sink.wants(path) {
            return Ok(());
        }
        let mut resumed = Resumed::peek(reader);
        let format = sniff::format(&resumed.head, path.as_bytes());
        match format.filter(|_| self.sink.opens_nested()) {
            Some(format) => {
                let ended = self.container(path, format, Input::Stream(&mut resumed), depth)?;
                self.container_row(path, ended, false)
            }
            None => self.sink.leaf(Leaf {
                path,
                declared,
                reader: &mut resumed,
            }),
        }
    }

    /// Opens a container. `None` when it was left closed, which is then told.
    fn container(
        &mut self,
        path: &EntryPath,
        format: Format,
        input: Input<'_>,
        depth: u32,
    ) -> Result<Option<Ended>, Halt> {
        if let Format::Other(what) = format {
            self.row(
                path,
                RowStatus::Skipped,
                &format!("{what}: not opened in this version"),
            )?;
            return Ok(None);
        }
        if depth > self.limits.depth {
            let reason = format!(
                "nested deeper than {} archives, the limit",
                self.limits.depth
            );
            self.row(path, RowStatus::Skipped, &reason)?;
            return Ok(None);
        }
        let ended = match (format, input) {
            (Format::Zip, Input::File(file)) => zip::read(self, path, file, depth + 1)?,
            (Format::Zip, Input::Stream(stream)) => self.spilled(path, stream, depth + 1)?,
            (format, Input::File(file)) => {
                let mut counted = Counted::new(file, Some(&self.meter.bytes_read));
                self.streamed(path, format, &mut counted, depth + 1)?
            }
            (format, Input::Stream(stream)) => self.streamed(path, format, stream, depth + 1)?,
        };
        Ok(Some(ended))
    }

    fn container_row(
        &mut self,
        path: &EntryPath,
        ended: Option<Ended>,
        top: bool,
    ) -> Result<(), Halt> {
        match ended {
            Some(Ended::Early(reason)) => self.row(path, RowStatus::Truncated, &reason),
            // What was asked for is no entry of anything: its members stand for it.
            Some(Ended::Whole) if !top => self.row(path, RowStatus::Analysed, ""),
            _ => Ok(()),
        }
    }

    /// Tar, or one compressed file, which may be a tar.
    fn streamed(
        &mut self,
        path: &EntryPath,
        format: Format,
        stream: &mut dyn Read,
        depth: u32,
    ) -> Result<Ended, Halt> {
        if format == Format::Tar {
            return tar::read(self, path, stream, depth);
        }
        let counted = Counted::new(stream, None);
        let packed = counted.count();
        let buffered = BufReader::with_capacity(64 * 1024, counted);
        let plain: Box<dyn Read + '_> = match format {
            Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
            Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered)),
            _ => zstd_reader(buffered),
        };
        let mut expanding = Expanding::new(plain, &self.budget, packed, &self.limits);
        let mut resumed = Resumed::peek(&mut expanding);
        let inner = inner_name(path.file_name());
        if sniff::format(&resumed.head, &inner) == Some(Format::Tar) {
            return tar::read(self, path, &mut resumed, depth);
        }
        if !self.budget.entry() {
            self.left_out(path, 1, &self.entries_reason())?;
            return Ok(Ended::Whole);
        }
        self.member(&path.member(&inner), None, &mut resumed, depth)?;
        Ok(Ended::Whole)
    }

    /// A zip that is itself a member: its directory is at its end, so it is held whole, in memory or in scratch.
    fn spilled(
        &mut self,
        path: &EntryPath,
        stream: &mut dyn Read,
        depth: u32,
    ) -> Result<Ended, Halt> {
        let mut memory = Vec::new();
        let mut cut = stream
            .take(self.limits.memory_bytes)
            .read_to_end(&mut memory)
            .err();
        let full = u64::try_from(memory.len()).is_ok_and(|n| n >= self.limits.memory_bytes);
        let ended = if full && cut.is_none() {
            let mut file = match tempfile::tempfile_in(self.scratch)
                .and_then(|mut file| file.write_all(&memory).map(|()| file))
            {
                Ok(file) => file,
                Err(error) => {
                    return Ok(Ended::Early(format!(
                        "no room in the scan's own folder: {error}"
                    )));
                }
            };
            drop(memory);
            cut = io::copy(stream, &mut file).err();
            zip::read(self, path, &mut file, depth)?
        } else {
            zip::read(self, path, &mut Cursor::new(memory), depth)?
        };
        match (ended, cut) {
            (Ended::Whole, Some(error)) => Ended::of(&error),
            (ended, _) => Ok(ended),
        }
    }

    fn row(&mut self, path: &EntryPath, status: RowStatus, reason: &str) -> Result<(), Halt> {
        let reason = (status != RowStatus::Analysed).then(|| reason.to_owned());
        self.sink.row(Row {
            reason,
            ..Row::new(path.display(), status)
        })
    }

    /// One row for members that were left out together.
    fn left_out(&mut self, archive: &EntryPath, count: u64, reason: &str) -> Result<(), Halt> {
        if count == 0 {
            return Ok(());
        }
        let row = Row::new(archive.member("…".as_bytes()).display(), RowStatus::Skipped);
        self.sink.row(Row {
            reason: Some(reason.to_owned()),
            count: Some(count),
            ..row
        })
    }

    fn entries_reason(&self) -> String {
        format!(
            "the input has more than {} entries, the limit",
            self.budget.entries_max()
        )
    }

    /// False when an entry of this very place was seen before.
    fn first_of(&mut self, path: &EntryPath) -> bool {
        let hash = blake3::hash(path.as_bytes());
        let mut key = [0; 16];
        for (to, from) in key.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        self.seen.insert(key)
    }

    /// Tells the progress that a member of an outermost zip is done.
    fn advance(&self, bytes: u64, depth: u32) {
        if depth == 1 {
            self.meter.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// A container's bytes.
enum Input<'s> {
    File(&'s mut File),
    Stream(&'s mut dyn Read),
}

/// A stream whose head was looked at, with the error that came after it, if one did.
struct Resumed<'r> {
    head: Vec<u8>,
    at: usize,
    error: Option<io::Error>,
    inner: &'r mut dyn Read,
}

impl<'r> Resumed<'r> {
    fn peek(inner: &'r mut dyn Read) -> Self {
        let mut head = Vec::new();
        let error = inner.take(HEAD_BYTES as u64).read_to_end(&mut head).err();
        Self {
            head,
            at: 0,
            error,
            inner,
        }
    }
}

impl Read for Resumed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.head.get(self.at..).unwrap_or_default().read(buf)?;
        if n > 0 {
            self.at += n;
            return Ok(n);
        }
        match self.error.take() {
            Some(error) if !buf.is_empty() => Err(error),
            _ => self.inner.read(buf),
        }
    }
}

/// A decoder with a window of at most 128 MiB; frames that want more are refused.
fn zstd_reader<'s>(source: impl io::BufRead + 's) -> Box<dyn Read + 's> {
    let decoder = zstd::stream::read::Decoder::with_buffer(source).and_then(|mut decoder| {
        decoder.window_log_max(27)?;
        Ok(decoder)
    });
    match decoder {
        Ok(decoder) => Box::new(decoder),
        Err(error) => Box::new(Failing(Some(error))),
    }
}

/// A stream that could not be opened.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// The name of the one file in `x.c.gz`.
fn inner_name(name: &[u8]) -> Vec<u8> {
    for (suffix, replacement) in [
        (&b".tgz"[..], &b".tar"[..]),
        (b".tzst", b".tar"),
        (b".tbz2", b".tar"),
        (b".gz", b""),
        (b".zst", b""),
        (b".bz2", b""),
    ] {
        let split = name.len().saturating_sub(suffix.len());
        if let Some((stem, end)) = name.split_at_checked(split)
            && !stem.is_empty()
            && end.eq_ignore_ascii_case(suffix)
        {
            return [stem, replacement].concat();
        }
    }
    name.to_vec()
}
