//! The access log: one JSON object a line, written by a thread of its own. The threads that
//! serve never wait for it; what does not fit in the queue is dropped and counted.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::settings::AccessLog;

/// Where lines go.
type Target = Box<dyn Write + Send>;

/// Hands lines to the writer.
#[derive(Debug, Clone)]
pub(crate) struct LogHandle {
    on: Arc<AtomicBool>,
    lines: SyncSender<Vec<u8>>,
    next: Next,
    dropped: Arc<AtomicU64>,
}

/// What the writer writes to from its next line on.
#[derive(Clone, Default)]
struct Next(Arc<Mutex<Option<Target>>>);

impl std::fmt::Debug for Next {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Next")
    }
}

impl Next {
    fn set(&self, target: Target) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }

    fn take(&self) -> Option<Target> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl LogHandle {
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(crate) fn send(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.lines.try_send(line)
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes to `opened` from the next line on; a file that was moved away is left to whoever moved it.
    pub(crate) fn switch(&self, opened: Opened) {
        if let Some(target) = opened.0 {
            self.next.set(target);
            self.on.store(true, Ordering::Relaxed);
        } else {
            self.on.store(false, Ordering::Relaxed);
        }
    }

    /// Tells the writer that no more lines come.
    pub(crate) fn close(&self) {
        if self.lines.send(Vec::new()).is_err() {
            tracing::debug!("the access log's writer has ended already");
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The thread that writes. It ends after [`LogHandle::close`].
#[derive(Debug)]
pub(crate) struct LogWriter(Option<JoinHandle<()>>);

impl LogWriter {
    /// Waits until all lines are written; to be closed before.
    pub(crate) fn join(mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("the access log's writer failed");
        }
    }
}

/// A target that can be written to; none when the log is off.
pub(crate) struct Opened(Option<Target>);

/// Opens where `log` goes.
///
/// # Errors
/// When the file can't be opened.
pub(crate) fn open(log: &AccessLog) -> io::Result<Opened> {
    let target: Target = match log {
        AccessLog::Off => return Ok(Opened(None)),
        AccessLog::Stdout => Box::new(io::stdout()),
        AccessLog::File(path) => Box::new(
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)?,
        ),
    };
    Ok(Opened(Some(target)))
}

/// Starts the writer.
///
/// # Errors
/// When the thread can't be started.
pub(crate) fn start(opened: Opened, queue: usize) -> io::Result<(LogHandle, LogWriter)> {
    let (sender, receiver) = sync_channel(queue);
    let handle = LogHandle {
        on: Arc::default(),
        lines: sender,
        next: Next::default(),
        dropped: Arc::default(),
    };
    handle.switch(opened);
    let next = handle.next.clone();
    let thread = std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || write_lines(&receiver, &next))?;
    Ok((handle, LogWriter(Some(thread))))
}

fn write_lines(lines: &Receiver<Vec<u8>>, next: &Next) {
    let mut target = BufWriter::with_capacity(64 * 1024, Box::new(io::sink()) as Target);
    let mut failed = false;
    let mut open = true;
    while open {
        let Ok(first) = lines.recv() else {
            return;
        };
        if let Some(next) = next.take() {
            target = BufWriter::with_capacity(64 * 1024, next);
            failed = false;
        }
        open = !first.is_empty();
        let mut result = target.write_all(&first);
        // What waits is written together; then the reader of the log sees it at once.
        while open && result.is_ok() {
            let Ok(next) = lines.try_recv() else {
                break;
            };
            open = !next.is_empty();
            result = target.write_all(&next);
        }
        let result = result.and_then(|()| target.flush());
        if let (Err(error), false) = (&result, failed) {
            tracing::error!(%error, "the access log can't be written");
        }
        failed = result.is_err();
    }
}
