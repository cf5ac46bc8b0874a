//! A scan: one thread takes the input apart, some analyse, the caller's puts their answers in order.
//!
//! Files are numbered as they come, and their outcomes are passed on in that order, so that the log is the same
//! whatever the number of threads. What is under way is bounded by the [`Gate`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::around;
use crate::cache::Cache;
use crate::engine::Context;
use crate::file::{Job, Outcome, analyse};
use crate::intake::{
    EntryPath, Halt, Intake, Limits, Meter, measure_file, measure_folder, percent_encoded,
};
use crate::queue::{Feeder, Gate, QUEUE};
use crate::report::coverage::{Coverage, Status};
use crate::report::folder::Folder;
use crate::report::mask::Secrets;
use crate::report::sarif::{self, Base};
use crate::report::spool::Spool;
use crate::report::{Report, summarise};

/// A file that the engines work on for longer is truncated. Engines bound their steps; this catches what they missed.
const FILE_TIME_MAX: Duration = Duration::from_secs(30);
/// Deep syntax trees are walked by recursion in places; the parser's own limit keeps them below this.
const STACK_BYTES: usize = 64 << 20;
/// How often progress is told, and at most how late a cancelled scan is noticed.
const TICK: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(100);

/// What to scan, and how.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// Files, folders or archives.
    pub paths: Vec<PathBuf>,
    /// What the only path is called, when its name on disk means nothing: an upload's `filename`.
    pub name: Option<String>,
    /// Threads that analyse; 0 means 1.
    pub threads: usize,
    /// Where to write the folder of the result (contract §8).
    pub results: Option<PathBuf>,
    /// Where the scan's own folder is made, and removed at the end.
    pub scratch: PathBuf,
    pub limits: Limits,
    /// Where outcomes are kept from scan to scan: an unchanged file is not analysed again.
    pub cache: Option<PathBuf>,
}

impl ScanOptions {
    /// A scan of `paths` on all cores with default limits, its own folder in `TMPDIR`.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            name: None,
            threads: thread::available_parallelism().map_or(1, usize::from),
            results: None,
            scratch: std::env::temp_dir(),
            limits: Limits::default(),
            cache: None,
        }
    }
}

/// How far a scan is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// `unpack` (counting what is there), `analyse`, `report`.
    pub phase: &'static str,
    pub done: u64,
    pub total: u64,
    /// What `done` and `total` count: `files`, `bytes` of the input, `findings`.
    pub unit: &'static str,
    /// In words: files and findings so far.
    pub message: String,
}

/// Who watches a scan. Called from the thread that scans, in the order of the input.
pub trait Observer {
    /// At least every two seconds.
    fn progress(&self, progress: &Progress);
    /// A finding, as soon as its file and those before it are analysed.
    fn finding(&self, result: &sarif::Result);
    /// Asked ten times a second; true ends the scan.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("no path was given to scan")]
    NoPath,
    #[error("a name can be given to one file only")]
    Name,
    #[error("cannot read {path}: {source}", path = path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("cannot write the result folder {path}: {source}", path = path.display())]
    Results { path: PathBuf, source: io::Error },
    #[error("cannot use the temporary folder {path}: {source}", path = path.display())]
    Scratch { path: PathBuf, source: io::Error },
    #[error("cannot use the cache folder {path}: {source}", path = path.display())]
    Cache { path: PathBuf, source: io::Error },
    #[error("cannot start a thread: {source}")]
    Thread { source: io::Error },
    #[error("cancelled")]
    Cancelled,
}

/// A path that was opened.
#[derive(Debug)]
pub(crate) enum Root {
    Folder(PathBuf),
    File { path: PathBuf, place: EntryPath },
}

/// Everything the threads share.
struct Shared<'a> {
    options: &'a ScanOptions,
    roots: Vec<Root>,
    bases: Vec<Base>,
    meter: Meter,
    /// Whether `meter.files_known` counts the whole input.
    countable: bool,
    cancelled: Arc<AtomicBool>,
    gate: Gate,
    scratch: &'a Path,
    /// What the files say for each other; there before the first job is.
    around: OnceLock<Context>,
    cache: Option<Cache>,
    /// Folders that the scan writes to.
    own: Vec<PathBuf>,
}

/// Scans, and writes the result folder where one was asked for.
pub fn scan(options: &ScanOptions, observer: &dyn Observer) -> Result<Report, ScanError> {
    let scratch_error = |source| ScanError::Scratch {
        path: options.scratch.clone(),
        source,
    };
    let (roots, bases) = open(options)?;
    let folder = match &options.results {
        Some(path) => Some(Folder::create(path).map_err(|source| results_error(options, source))?),
        None => None,
    };
    let scratch = tempfile::Builder::new()
        .prefix("munjigi-scan-")
        .tempdir_in(&options.scratch)
        .map_err(scratch_error)?;
    let cache_error = |source| ScanError::Cache {
        path: options.cache.clone().unwrap_or_default(),
        source,
    };
    let cache = options
        .cache
        .as_deref()
        .map(Cache::open)
        .transpose()
        .map_err(cache_error)?;
    let spool = Spool::new(scratch.path()).map_err(scratch_error)?;
    // Inside a scanned folder none of them is input.
    let own = [
        options.results.as_deref(),
        options.cache.as_deref(),
        Some(scratch.path()),
    ];
    let mut shared = Shared {
        options,
        roots,
        bases,
        meter: Meter::default(),
        countable: true,
        cancelled: Arc::new(AtomicBool::new(false)),
        gate: Gate::default(),
        scratch: scratch.path(),
        around: OnceLock::new(),
        cache,
        own: own
            .into_iter()
            .flatten()
            .filter_map(|path| path.canonicalize().ok())
            .collect(),
    };
    shared.countable = measure(&shared, observer)?;
    let mut collector = Collector {
        observer,
        folder,
        spool,
        secrets: Secrets::default(),
        coverage: Vec::new(),
        rules: BTreeMap::new(),
        told: None,
    };
    run(&shared, &mut collector)?;
    if let Some(cache) = &shared.cache {
        cache.tidy().map_err(cache_error)?;
    }
    let bases = std::mem::take(&mut shared.bases);
    collector.finish(options, bases)
}

/// Looks whether every path can be read.
fn open(options: &ScanOptions) -> Result<(Vec<Root>, Vec<Base>), ScanError> {
    if options.paths.is_empty() {
        return Err(ScanError::NoPath);
    }
    if options.name.is_some() && options.paths.len() > 1 {
        return Err(ScanError::Name);
    }
    let (mut roots, mut bases) = (Vec::new(), Vec::new());
    for (index, path) in options.paths.iter().enumerate() {
        let input_error = |source| ScanError::Input {
            path: path.clone(),
            source,
        };
        let absolute = path.canonicalize().map_err(input_error)?;
        let kind = absolute.metadata().map_err(input_error)?;
        if kind.is_dir() {
            std::fs::read_dir(&absolute).map_err(input_error)?;
            bases.push(base(index, Some(&absolute), "the scanned folder"));
            roots.push(Root::Folder(absolute));
        } else if kind.is_file() {
            File::open(&absolute).map_err(input_error)?;
            bases.push(match options.name {
                Some(_) => base(index, None, "the upload"),
                None => base(index, absolute.parent(), "the folder of the scanned file"),
            });
            let place = place_of(path, &absolute, options.name.as_deref());
            roots.push(Root::File {
                path: absolute,
                place,
            });
        } else {
            return Err(input_error(io::Error::other("neither a file nor a folder")));
        }
    }
    Ok((roots, bases))
}

/// Counts what is there, for the progress and for the limits; false when files cannot be counted beforehand.
fn measure(shared: &Shared<'_>, observer: &dyn Observer) -> Result<bool, ScanError> {
    let total = u64::try_from(shared.roots.len()).unwrap_or(u64::MAX);
    let mut countable = true;
    let told = Cell::new(None::<Instant>);
    for (root, done) in shared.roots.iter().zip(0..) {
        let tell = || {
            if told.get().is_none_or(|told| told.elapsed() >= TICK) {
                told.set(Some(Instant::now()));
                let message = format!(
                    "{} files found",
                    shared.meter.files_known.load(Ordering::Relaxed)
                );
                observer.progress(&Progress {
                    phase: "unpack",
                    done,
                    total,
                    unit: "inputs",
                    message,
                });
            }
            observer.cancelled()
        };
        match root {
            Root::Folder(path) => {
                measure_folder(&shared.meter, path, &shared.own, &tell)
                    .map_err(|_| ScanError::Cancelled)?;
            }
            Root::File { path, place } => {
                tell();
                let measured = File::open(path)
                    .and_then(|mut file| measure_file(&shared.meter, &mut file, place));
                countable &= measured.map_err(|source| ScanError::Input {
                    path: path.clone(),
                    source,
                })?;
            }
        }
    }
    Ok(countable)
}

fn base(index: usize, folder: Option<&Path>, description: &str) -> Base {
    use std::os::unix::ffi::OsStrExt;
    let uri = folder.map(|folder| {
        let path = percent_encoded(folder.as_os_str().as_bytes());
        format!("file://{}/", path.trim_end_matches('/'))
    });
    let id = if index == 0 {
        "PATH".to_owned()
    } else {
        format!("PATH{}", index + 1)
    };
    Base {
        id,
        uri,
        description: description.to_owned(),
    }
}

/// The first part of every place in an upload called `name`.
pub(crate) fn upload_name(name: &str) -> EntryPath {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let last: String = last.chars().filter(|c| !c.is_control()).collect();
    let usable = !matches!(last.as_str(), "" | "." | "..");
    EntryPath::new(if usable { last.as_bytes() } else { b"upload" })
}

/// The first part of every place in a file: its name as asked for (not the target of a link), or the upload's.
fn place_of(path: &Path, absolute: &Path, name: Option<&str>) -> EntryPath {
    use std::os::unix::ffi::OsStrExt;
    if let Some(name) = name {
        return upload_name(name);
    }
    let name = path
        .file_name()
        .or(absolute.file_name())
        .unwrap_or_default();
    EntryPath::new(name.as_bytes())
}

/// Runs the threads to their end.
fn run(shared: &Shared<'_>, collector: &mut Collector<'_>) -> Result<(), ScanError> {
    let threads = shared.options.threads.clamp(1, 256);
    let (jobs_in, jobs_out) = sync_channel::<Job>(QUEUE);
    let (outcomes_in, outcomes_out) = sync_channel::<Outcome>(QUEUE);
    let jobs_out = Mutex::new(jobs_out);
    thread::scope(|scope| {
        let jobs = &jobs_out;
        let mut workers = Vec::new();
        for index in 0..threads {
            let outcomes = outcomes_in.clone();
            let builder = thread::Builder::new()
                .name(format!("analyse-{index}"))
                .stack_size(STACK_BYTES);
            match builder.spawn_scoped(scope, move || work(shared, jobs, &outcomes)) {
                Ok(worker) => workers.push(worker),
                // Fewer threads are slower, none cannot work.
                Err(source) if workers.is_empty() => return Err(ScanError::Thread { source }),
                Err(_) => break,
            }
        }
        let intake = scope.spawn(move || take_in(shared, jobs_in, outcomes_in));
        let collected = collector.collect(shared, &outcomes_out);
        if collected.is_err() {
            shared.cancelled.store(true, Ordering::Relaxed);
        }
        drop(outcomes_out);
        let taken = intake.join().unwrap_or_else(|panic| resume_unwind(panic));
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        collected?;
        taken.map_err(|_| ScanError::Cancelled)
    })
}

/// The intake's thread.
fn take_in(
    shared: &Shared<'_>,
    jobs: SyncSender<Job>,
    outcomes: SyncSender<Outcome>,
) -> Result<(), Halt> {
    let mut feeder = Feeder::new(
        jobs,
        outcomes,
        &shared.gate,
        &shared.cancelled,
        shared.options.limits.file_bytes,
    );
    let (roots, limits) = (&shared.roots, &shared.options.limits);
    let cancelled = &shared.cancelled;
    let context = around::look(roots, &shared.own, limits, shared.scratch, cancelled)?;
    shared.around.get_or_init(|| context);
    for (index, root) in shared.roots.iter().enumerate() {
        feeder.base = index;
        let limits = shared.options.limits.clone();
        let cancelled = Arc::clone(&shared.cancelled);
        match root {
            Root::Folder(path) => {
                Intake::new(
                    limits,
                    cancelled,
                    &shared.meter,
                    shared.scratch,
                    &mut feeder,
                )
                .folder(path, &shared.own)?;
            }
            Root::File { path, place } => match File::open(path) {
                Ok(mut file) => {
                    Intake::new(
                        limits,
                        cancelled,
                        &shared.meter,
                        shared.scratch,
                        &mut feeder,
                    )
                    .input(&mut file, place)?;
                }
                Err(error) => feeder.unreadable(place, &error)?,
            },
        }
    }
    Ok(())
}

/// A worker's thread.
fn work(shared: &Shared<'_>, jobs: &Mutex<Receiver<Job>>, outcomes: &SyncSender<Outcome>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A scan that ends early still empties the queue, so that the intake is not left waiting for room in it.
        if shared.cancelled.load(Ordering::Relaxed) {
            continue;
        }
        let bytes = job.bytes.len();
        let started = Instant::now();
        let deadline =
            || shared.cancelled.load(Ordering::Relaxed) || started.elapsed() > FILE_TIME_MAX;
        let base = shared
            .bases
            .get(job.base)
            .map_or("PATH", |base| base.id.as_str());
        let outcome = remembered(shared, job, base, &deadline);
        shared.gate.leave(bytes);
        if outcomes.send(outcome).is_err() {
            shared.cancelled.store(true, Ordering::Relaxed);
        }
    }
}

/// The outcome of an unchanged file from the cache, or a new one.
fn remembered(shared: &Shared<'_>, job: Job, base: &str, deadline: &dyn Fn() -> bool) -> Outcome {
    let context = shared.around.get_or_init(Context::default);
    let Some((cache, key)) = shared
        .cache
        .as_ref()
        .and_then(|cache| Some((cache, cache.key(&job, base, context)?)))
    else {
        return analyse(job, base, context, deadline);
    };
    if let Some(outcome) = cache.get(&key, &job) {
        return outcome;
    }
    let outcome = analyse(job, base, context, deadline);
    cache.put(&key, &outcome);
    outcome
}

/// What the caller's thread gathers.
struct Collector<'o> {
    observer: &'o dyn Observer,
    folder: Option<Folder>,
    spool: Spool,
    secrets: Secrets,
    coverage: Vec<(usize, crate::report::coverage::Row)>,
    rules: BTreeMap<String, u64>,
    told: Option<Instant>,
}

impl Collector<'_> {
    /// Takes outcomes until all threads are done, and passes them on in order.
    fn collect(
        &mut self,
        shared: &Shared<'_>,
        outcomes: &Receiver<Outcome>,
    ) -> Result<(), ScanError> {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        loop {
            match outcomes.recv_timeout(POLL) {
                Ok(outcome) => {
                    let more = outcomes.try_iter().take(QUEUE);
                    waiting.extend(
                        std::iter::once(outcome)
                            .chain(more)
                            .map(|outcome| (outcome.sequence, outcome)),
                    );
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Some(outcome) = waiting.remove(&next) {
                self.keep(shared, outcome)?;
                next += 1;
            }
            shared.gate.release(next);
            self.tell(|this| this.progress(shared));
            if self.observer.cancelled() {
                return Err(ScanError::Cancelled);
            }
        }
        Ok(())
    }

    fn keep(&mut self, shared: &Shared<'_>, mut outcome: Outcome) -> Result<(), ScanError> {
        let room = shared
            .options
            .limits
            .findings
            .saturating_sub(self.spool.counts().iter().sum());
        if u64::try_from(outcome.results.len()).is_ok_and(|length| length > room) {
            outcome.results.truncate(usize::try_from(room).unwrap_or(0));
            outcome.row.status = Status::Truncated;
            outcome.row.reason = Some(format!(
                "the input has more than {} findings, the limit",
                shared.options.limits.findings
            ));
        }
        self.secrets.extend(&outcome.secrets);
        for result in &outcome.results {
            self.spool
                .push(outcome.base, &outcome.path, result)
                .map_err(|source| ScanError::Scratch {
                    path: shared.options.scratch.clone(),
                    source,
                })?;
            *self.rules.entry(result.rule_id.clone()).or_insert(0) += 1;
            self.observer.finding(result);
        }
        if let (Some(folder), Some(text)) = (&mut self.folder, &outcome.source) {
            let place = match outcome.base {
                0 => outcome.path.to_string(),
                base => format!("PATH{}/{}", base + 1, outcome.path),
            };
            folder
                .source(&place, text)
                .map_err(|source| results_error(shared.options, source))?;
        }
        self.coverage.push((outcome.base, outcome.row));
        Ok(())
    }

    fn progress(&self, shared: &Shared<'_>) -> Progress {
        let rows = u64::try_from(self.coverage.len()).unwrap_or(u64::MAX);
        let files = shared.meter.files_known.load(Ordering::Relaxed);
        // Archives inside the input hold more files than were counted: then only bytes tell how far it is.
        let (done, total, unit) = if shared.countable && rows <= files {
            (rows, files, "files")
        } else {
            let read = shared.meter.bytes_read.load(Ordering::Relaxed);
            (
                read,
                shared.meter.bytes_total.load(Ordering::Relaxed),
                "bytes",
            )
        };
        let findings: u64 = self.spool.counts().iter().sum();
        let message = format!("{rows} files, {findings} findings");
        Progress {
            phase: "analyse",
            done,
            total: total.max(done),
            unit,
            message,
        }
    }

    /// Tells the progress when it is time again.
    fn tell(&mut self, progress: impl FnOnce(&Self) -> Progress) {
        if self.told.is_none_or(|told| told.elapsed() >= TICK) {
            self.told = Some(Instant::now());
            self.observer.progress(&progress(self));
        }
    }

    /// Orders what was gathered and writes the folder.
    fn finish(mut self, options: &ScanOptions, bases: Vec<Base>) -> Result<Report, ScanError> {
        self.spool.finish().map_err(|source| ScanError::Scratch {
            path: options.scratch.clone(),
            source,
        })?;
        self.coverage
            .sort_by(|(a_base, a), (b_base, b)| (a_base, &a.path).cmp(&(b_base, &b.path)));
        let coverage = Coverage {
            files: self.coverage.into_iter().map(|(_, row)| row).collect(),
        };
        let counts = self.spool.counts();
        let input = options
            .paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let input = options.name.clone().map_or(input, |name| vec![name]);
        let summary = summarise(input, &coverage, counts, self.rules);
        let masker = self.secrets.masker();
        let mut report = Report {
            spool: self.spool,
            masker,
            bases,
            coverage,
            summary,
            files: Vec::new(),
        };
        let Some(folder) = self.folder else {
            return Ok(report);
        };
        let total: u64 = counts.iter().sum();
        let observer = self.observer;
        let mut told = Instant::now();
        let tell = |done| {
            let message = format!("{total} findings");
            observer.progress(&Progress {
                phase: "report",
                done,
                total,
                unit: "findings",
                message,
            });
        };
        tell(0);
        report.files = folder
            .finish(&report, &mut |done| {
                if told.elapsed() >= TICK {
                    told = Instant::now();
                    tell(done);
                }
                if observer.cancelled() {
                    Err(io::ErrorKind::Interrupted.into())
                } else {
                    Ok(())
                }
            })
            .map_err(|source| match observer.cancelled() {
                true => ScanError::Cancelled,
                false => results_error(options, source),
            })?;
        tell(total);
        Ok(report)
    }
}

fn results_error(options: &ScanOptions, source: io::Error) -> ScanError {
    ScanError::Results {
        path: options.results.clone().unwrap_or_default(),
        source,
    }
}
