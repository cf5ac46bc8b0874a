//! The events of one attempt on the worker's disk: an event is here before it is sent, and stays until the attempt is
//! deleted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use munjigi_events::{AnalysisId, Event, EventId, Progress, ServerId, Status, UserId};
use munjigi_foundation::clock::{Clock, Timestamp};
use serde_json::Value;
use tokio::sync::Notify;

/// All events of one attempt, on the disk.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// Room that stays for the last events when the rest is used up.
const LOG_BYTES_RESERVE: u64 = 1 << 20;
/// What one post carries.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// Whose events these are: what every event of the attempt begins with.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) user: UserId,
    pub(crate) event: EventId,
    pub(crate) server: ServerId,
    pub(crate) analysis: AnalysisId,
    pub(crate) attempt: u32,
}

/// An event before it has its `seq` and time.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) status: Status,
    pub(crate) progress: Option<Progress>,
    pub(crate) message: Option<String>,
    pub(crate) finding: Option<Value>,
    pub(crate) error: Option<String>,
}

impl Draft {
    pub(crate) fn new(status: Status) -> Self {
        Self {
            status,
            progress: None,
            message: None,
            finding: None,
            error: None,
        }
    }

    pub(crate) fn progress(mut self, progress: Option<Progress>) -> Self {
        self.progress = progress;
        self
    }

    pub(crate) fn message(mut self, message: Option<String>) -> Self {
        self.message = message;
        self
    }
}

/// Why an event was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("the events of this analysis take more than {} MiB", LOG_BYTES_MAX >> 20)]
    Full,
    #[error("the event can't be kept: {0}")]
    Io(#[from] io::Error),
}

/// One attempt's events. Its methods block on the disk.
#[derive(Debug)]
pub(crate) struct EventLog {
    identity: Identity,
    path: PathBuf,
    first_seq: u64,
    clock: Clock,
    inner: Mutex<Inner>,
    /// Told after each append.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<File>,
    bytes: u64,
    next_seq: u64,
    last: Option<Status>,
    /// The hub has all below this `seq`; they end at this byte.
    sent_seq: u64,
    sent_bytes: u64,
}

impl EventLog {
    /// Nothing is read or written yet.
    pub(crate) fn new(identity: Identity, path: PathBuf, first_seq: u64, clock: Clock) -> Self {
        Self {
            identity,
            path,
            first_seq,
            clock,
            inner: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.lock();
        if inner.file.is_none() {
            self.open(&mut inner)?;
        }
        Ok(inner)
    }

    /// Reads what a run before left; a last line that was cut by a crash was never sent, and goes.
    fn open(&self, inner: &mut Inner) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&self.path)?;
        let mut reader = BufReader::new(&file);
        let sent = read_sent(&self.path);
        let (mut bytes, mut next_seq, mut last) = (0_u64, self.first_seq, None);
        let (mut sent_seq, mut sent_bytes) = (self.first_seq, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            let Some(event) = line
                .strip_suffix(b"\n")
                .and_then(|line| Event::parse(line).ok())
                .filter(|event| event.seq == next_seq)
            else {
                break;
            };
            bytes += u64::try_from(length).unwrap_or(0);
            next_seq = event.seq.saturating_add(1);
            last = Some(event.status);
            if event.seq < sent {
                (sent_seq, sent_bytes) = (next_seq, bytes);
            }
        }
        drop(reader);
        file.set_len(bytes)?;
        file.seek(SeekFrom::Start(bytes))?;
        *inner = Inner {
            file: Some(file),
            bytes,
            next_seq,
            last,
            sent_seq,
            sent_bytes,
        };
        Ok(())
    }

    /// Gives `drafts` the next `seq`s and keeps them, durably, in one go. A `COLLECTING` is written even when the log
    /// is full.
    pub(crate) fn append(&self, drafts: Vec<Draft>) -> Result<(), LogError> {
        let mut inner = self.opened()?;
        let mut lines = Vec::new();
        let mut next_seq = inner.next_seq;
        let mut last = inner.last;
        let created_at = self.clock.now();
        for draft in drafts {
            last = Some(draft.status);
            let line = self.event(draft, next_seq, created_at);
            next_seq = next_seq.saturating_add(1);
            lines.extend_from_slice(&line?);
            lines.push(b'\n');
        }
        let bytes = inner
            .bytes
            .saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        let limit = match last {
            Some(Status::Collecting) => LOG_BYTES_MAX,
            _ => LOG_BYTES_MAX - LOG_BYTES_RESERVE,
        };
        if bytes > limit {
            return Err(LogError::Full);
        }
        let before = inner.bytes;
        let Some(file) = inner.file.as_mut() else {
            return Err(LogError::Io(io::Error::other("the log is not open")));
        };
        if let Err(error) = file.write_all(&lines).and_then(|()| file.sync_data()) {
            // What was written in part must not stand before the next line.
            file.set_len(before)?;
            file.seek(SeekFrom::Start(before))?;
            return Err(error.into());
        }
        inner.bytes = bytes;
        inner.next_seq = next_seq;
        inner.last = last;
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    fn event(&self, draft: Draft, seq: u64, created_at: Timestamp) -> io::Result<Vec<u8>> {
        let identity = &self.identity;
        let event = Event {
            user_id: identity.user.clone(),
            event_id: identity.event.clone(),
            server_id: Some(identity.server.clone()),
            analyze_id: identity.analysis.clone(),
            status: draft.status,
            created_at,
            seq,
            attempt: identity.attempt,
            progress: draft.progress,
            message: draft.message,
            finding: draft.finding,
            error: draft.error,
        };
        event
            .to_json()
            .map(String::into_bytes)
            .map_err(io::Error::other)
    }

    /// The last status written.
    pub(crate) fn last(&self) -> io::Result<Option<Status>> {
        Ok(self.opened()?.last)
    }

    /// How many events wait to be sent.
    pub(crate) fn unsent(&self) -> u64 {
        let inner = self.lock();
        inner.next_seq.saturating_sub(inner.sent_seq)
    }

    /// The next events to send, in order; empty when the hub has all.
    pub(crate) fn batch(&self) -> io::Result<Vec<Event>> {
        let inner = self.opened()?;
        let (from, until) = (inner.sent_bytes, inner.bytes);
        drop(inner);
        if from == until {
            return Ok(Vec::new());
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut events = Vec::new();
        let mut bytes = 0;
        for line in BufReader::new(io::Read::take(file, until - from)).split(b'\n') {
            let line = line?;
            bytes += line.len();
            events.push(Event::parse(&line).map_err(io::Error::other)?);
            if events.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES {
                break;
            }
        }
        Ok(events)
    }

    /// The hub has every event up to `stored`: goes on after it, or back to it.
    pub(crate) fn sent(&self, stored: u64) -> io::Result<()> {
        let mut inner = self.opened()?;
        let next = stored
            .saturating_add(1)
            .clamp(self.first_seq, inner.next_seq);
        // Forward from where we are, else from the start: going back is rare.
        let (mut seq, mut bytes) = if next >= inner.sent_seq {
            (inner.sent_seq, inner.sent_bytes)
        } else {
            (self.first_seq, 0)
        };
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(bytes))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while seq < next {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            bytes += u64::try_from(length).unwrap_or(0);
            seq += 1;
        }
        inner.sent_seq = seq;
        inner.sent_bytes = bytes;
        drop(inner);
        // Only a saving: without it a restart sends again what the hub has.
        drop(std::fs::write(sent_path(&self.path), seq.to_string()));
        Ok(())
    }
}

fn sent_path(log: &Path) -> PathBuf {
    log.with_extension("sent")
}

/// The first `seq` that was not known to be stored, 0 when that is not known.
fn read_sent(log: &Path) -> u64 {
    std::fs::read_to_string(sent_path(log))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path) -> EventLog {
        let identity = Identity {
            user: "u".into(),
            event: "e".into(),
            server: "143".into(),
            analysis: "a".into(),
            attempt: 2,
        };
        EventLog::new(identity, folder.join("events"), 3, Clock::system())
    }

    fn running(count: usize) -> Vec<Draft> {
        vec![Draft::new(Status::Running); count]
    }

    fn seqs(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn events_go_on_from_the_seq_of_the_dispatch_and_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let first = log(folder.path());
        first.append(vec![Draft::new(Status::Receiving)]).unwrap();
        first.append(running(2)).unwrap();
        assert_eq!(seqs(&first.batch().unwrap()), [3, 4, 5]);
        first.sent(4).unwrap();
        assert_eq!(first.unsent(), 1);
        drop(first);
        // A crash in the middle of a write leaves half a line.
        let path = folder.path().join("events");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(br#"{"userId":"u","eve"#);
        std::fs::write(&path, bytes).unwrap();
        let second = log(folder.path());
        assert_eq!(seqs(&second.batch().unwrap()), [5]);
        second.append(running(1)).unwrap();
        assert_eq!(seqs(&second.batch().unwrap()), [5, 6]);
        assert_eq!(second.last().unwrap(), Some(Status::Running));
    }

    #[test]
    fn the_hub_decides_where_sending_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        log.append(running(600)).unwrap();
        assert_eq!(log.batch().unwrap().len(), BATCH_EVENTS);
        log.sent(602).unwrap();
        assert!(log.batch().unwrap().is_empty());
        // It lost some (a restored backup, say): back to what it has.
        log.sent(10).unwrap();
        assert_eq!(log.batch().unwrap().first().unwrap().seq, 11);
        // It has more than was ever written, or less than was dispatched: as far as there is.
        log.sent(9_999).unwrap();
        assert_eq!(log.unsent(), 0);
        log.sent(0).unwrap();
        assert_eq!(log.batch().unwrap().first().unwrap().seq, 3);
    }
}
