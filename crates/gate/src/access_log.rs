//! The access log: one JSON object a line, written by a thread of its own. The threads that
//! serve never wait for it; what does not fit in the queue is dropped and counted.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::settings::AccessLog;

/// Hands lines to the writer.
#[derive(Debug, Clone)]
pub(crate) struct LogHandle {
    lines: Option<SyncSender<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
}

impl LogHandle {
    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn send(&self, line: Vec<u8>) {
        if let Some(lines) = &self.lines
            && let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = lines.try_send(line)
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells the writer that no more lines come.
    pub(crate) fn close(&self) {
        if let Some(lines) = &self.lines
            && lines.send(Vec::new()).is_err()
        {
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

/// Opens the log.
///
/// # Errors
/// When the file can't be opened or the thread not started.
pub(crate) fn open(log: &AccessLog, queue: usize) -> io::Result<(LogHandle, LogWriter)> {
    let dropped = Arc::new(AtomicU64::new(0));
    let target: Box<dyn Write + Send> = match log {
        AccessLog::Off => {
            let handle = LogHandle {
                lines: None,
                dropped,
            };
            return Ok((handle, LogWriter(None)));
        }
        AccessLog::Stdout => Box::new(io::stdout()),
        AccessLog::File(path) => Box::new(
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)?,
        ),
    };
    let (sender, receiver) = sync_channel(queue);
    let thread = std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || write_lines(&receiver, target))?;
    let handle = LogHandle {
        lines: Some(sender),
        dropped,
    };
    Ok((handle, LogWriter(Some(thread))))
}

fn write_lines(lines: &Receiver<Vec<u8>>, target: Box<dyn Write + Send>) {
    let mut target = BufWriter::with_capacity(64 * 1024, target);
    let mut failed = false;
    let mut open = true;
    while open {
        let Ok(first) = lines.recv() else {
            return;
        };
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
