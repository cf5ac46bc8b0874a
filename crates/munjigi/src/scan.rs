//! `munjigi scan`, and the built-in model that a worker starts.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use munjigi_analyzer::finding::Level;
use munjigi_analyzer::foreign::Tool;
use munjigi_analyzer::report::sarif;
use munjigi_analyzer::{Observer, Progress, Report, ScanOptions, Style};

use crate::client::FailOn;
use crate::outcome::{Exit, Failure};
use crate::signals::{Signals, Told};

/// `munjigi scan`
#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// Files, folders or archives (zip, tar, tar.gz, tar.zst)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How findings are written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Writes them to FILE, not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also writes the whole result to this folder: findings, SARIF, explanations, coverage, sources
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Keeps outcomes here, so that a file that did not change is not analysed again
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// How many threads analyse [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Exit 1 when a finding reaches LEVEL
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    fail_on: FailOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Sarif,
}

/// Scans: 0 when nothing reaches the level, 1 when something does, 2 when it could not run.
pub(crate) fn scan(args: &ScanArgs) -> Result<Exit, Failure> {
    let mut options = ScanOptions::new(args.paths.clone());
    options.results.clone_from(&args.results);
    options.cache.clone_from(&args.cache);
    if let Some(threads) = args.threads {
        options.threads = usize::from(threads);
    }
    let screen = Screen::new();
    stop_on_interrupt(Arc::clone(&screen.stopped))?;
    let report = munjigi_analyzer::scan(&options, &screen).map_err(Failure::could_not)?;
    screen.bar.finish_and_clear();
    write(args, &report)?;
    Ok(if reaches(report.worst_level(), args.fail_on) {
        Exit::No
    } else {
        Exit::Good
    })
}

fn reaches(worst: Option<Level>, level: FailOn) -> bool {
    worst.is_some_and(|worst| match level {
        FailOn::Never => false,
        FailOn::Note => true,
        FailOn::Warning => worst >= Level::Warning,
        FailOn::Error => worst >= Level::Error,
    })
}

fn write(args: &ScanArgs, report: &Report) -> Result<(), Failure> {
    let written = match &args.output {
        Some(file) => File::create(file).and_then(|opened| {
            let mut out = BufWriter::new(opened);
            write_as(args.format, report, &mut out, Style::plain())?;
            out.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .sync_all()
        }),
        None => {
            let style = if io::stdout().is_terminal() {
                Style::coloured()
            } else {
                Style::plain()
            };
            let mut out = BufWriter::new(io::stdout().lock());
            write_as(args.format, report, &mut out, style).and_then(|()| out.flush())
        }
    };
    match written {
        // A reader that went away (`| head`) has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe && args.output.is_none() => Ok(()),
        Err(error) => {
            let target = args.output.as_ref().map_or_else(
                || "standard output".to_owned(),
                |file| file.display().to_string(),
            );
            Err(Failure::could_not(format!(
                "{target} can't be written: {error}"
            )))
        }
        Ok(()) => Ok(()),
    }
}

fn write_as(format: Format, report: &Report, out: &mut dyn Write, style: Style) -> io::Result<()> {
    match format {
        Format::Text => report.write_text(out, style),
        Format::Json => report.write_json(out),
        Format::Sarif => report.write_sarif(out),
    }
}

/// Ends the scan on Ctrl-C, so that its own folder goes with it.
fn stop_on_interrupt(stopped: Arc<AtomicBool>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(Failure::could_not)?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::listen()?
    };
    let waiting = move || {
        runtime.block_on(async { while signals.next().await != Told::Stop {} });
        stopped.store(true, Ordering::Relaxed);
    };
    // It ends with the process: a scan that nobody interrupts has nothing to say to it.
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(waiting)
        .map(drop)
        .map_err(Failure::could_not)
}

/// Progress on standard error, where that is a terminal.
struct Screen {
    bar: ProgressBar,
    stopped: Arc<AtomicBool>,
}

impl Screen {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
        if io::stderr().is_terminal() {
            let style = "{prefix:8} {bar:30} {pos} of {len}  {elapsed}  {msg}";
            bar.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.enable_steady_tick(Duration::from_millis(500));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self {
            bar,
            stopped: Arc::default(),
        }
    }
}

impl Observer for Screen {
    fn progress(&self, progress: &Progress) {
        self.bar.set_prefix(progress.phase);
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
        self.bar.set_message(progress.message.clone());
    }

    fn finding(&self, _: &sarif::Result) {}

    fn cancelled(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// The built-in model, speaking the model protocol with the worker that started it.
pub(crate) fn model() -> Result<Exit, Failure> {
    served(munjigi_analyzer::model::serve(
        io::stdin(),
        io::stdout(),
        &std::env::temp_dir(),
    ))
}

/// A command that writes SARIF, as a model.
pub(crate) fn sarif_model(command: Vec<OsString>) -> Result<Exit, Failure> {
    served(munjigi_analyzer::model::serve_tool(
        Tool { command },
        io::stdin(),
        io::stdout(),
        &std::env::temp_dir(),
    ))
}

fn served(served: io::Result<()>) -> Result<Exit, Failure> {
    served.map_err(|error| Failure::could_not(format!("the worker does not listen: {error}")))?;
    Ok(Exit::Good)
}
