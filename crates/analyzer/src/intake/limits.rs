//! What bounds an intake, and the readers that hold a stream to it.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bounds of one scan. Each has a default; every one that is met shows in coverage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that all archives of the scan together may expand to. `None`: 20 times the input, at least 256 MiB, at
    /// most 8 GiB.
    pub expanded_bytes: Option<u64>,
    /// Entries that are looked at, folders included. Further ones are counted in one row for each archive.
    pub entries: u64,
    /// How many times larger than its packed form a stream may become.
    pub ratio: u64,
    /// Bytes up to which a stream may expand whatever its ratio.
    pub ratio_floor: u64,
    /// Archives inside archives.
    pub depth: u32,
    /// Largest file whose content is read, in bytes.
    pub file_bytes: u64,
    /// A zip inside another archive is held in memory up to this many bytes, beyond it in the scan's own folder.
    pub memory_bytes: u64,
    /// Findings that are kept, in the order of the input. The files of further ones count as truncated.
    pub findings: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            expanded_bytes: None,
            entries: 500_000,
            ratio: 200,
            ratio_floor: 16 * MIB,
            depth: 6,
            file_bytes: 8 * MIB,
            memory_bytes: 16 * MIB,
            findings: 50_000,
        }
    }
}

impl Limits {
    /// The bound on expanded bytes for an input of `input` bytes.
    #[must_use]
    pub fn expanded_for(&self, input: u64) -> u64 {
        self.expanded_bytes
            .unwrap_or_else(|| input.saturating_mul(20).clamp(256 * MIB, 8 * GIB))
    }
}

/// Why a stream was not read to its end, when the reason is ours and not the stream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Expanded(u64),
    Ratio(u64),
    Checksum,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => write!(f, "cancelled"),
            Self::Expanded(max) => {
                write!(f, "the input expands to more than {max} bytes, the limit")
            }
            Self::Ratio(max) => write!(f, "expands more than {max} times, the limit"),
            Self::Checksum => write!(f, "damaged: the checksum does not match"),
        }
    }
}

impl std::error::Error for Stop {}

impl From<Stop> for io::Error {
    fn from(stop: Stop) -> Self {
        Self::other(stop)
    }
}

/// The [`Stop`] inside an error of one of our readers.
pub(super) fn stop_of(error: &io::Error) -> Option<Stop> {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Stop>())
        .copied()
}

/// An error of reading, in words for coverage.
pub(super) fn why(error: &io::Error) -> String {
    match (stop_of(error), error.kind()) {
        (Some(stop), _) => stop.to_string(),
        (None, io::ErrorKind::UnexpectedEof) => "ends early".to_owned(),
        (None, io::ErrorKind::PermissionDenied) => "permission denied".to_owned(),
        (None, io::ErrorKind::NotFound) => "vanished while it was read".to_owned(),
        (None, _) => format!("damaged: {error}"),
    }
}

/// What one scan has used of its limits.
#[derive(Debug)]
pub(super) struct Budget {
    expanded: Cell<u64>,
    expanded_max: u64,
    entries: Cell<u64>,
    entries_max: u64,
    cancelled: std::sync::Arc<AtomicBool>,
}

impl Budget {
    pub(super) fn new(limits: &Limits, input: u64, cancelled: std::sync::Arc<AtomicBool>) -> Self {
        Self {
            expanded: Cell::new(0),
            expanded_max: limits.expanded_for(input),
            entries: Cell::new(0),
            entries_max: limits.entries,
            cancelled,
        }
    }

    /// Counts one entry; false when that is one too many.
    pub(super) fn entry(&self) -> bool {
        self.entries.set(self.entries.get().saturating_add(1));
        self.entries.get() <= self.entries_max
    }

    pub(super) fn entries_max(&self) -> u64 {
        self.entries_max
    }

    /// Why no further content may be expanded.
    pub(super) fn spent(&self) -> Option<Stop> {
        (self.expanded.get() >= self.expanded_max).then_some(Stop::Expanded(self.expanded_max))
    }

    pub(super) fn check_cancelled(&self) -> Result<(), Stop> {
        if self.cancelled.load(Ordering::Relaxed) {
            Err(Stop::Cancelled)
        } else {
            Ok(())
        }
    }

    fn expand(&self, bytes: u64) -> Result<(), Stop> {
        self.expanded.set(self.expanded.get().saturating_add(bytes));
        if self.expanded.get() > self.expanded_max {
            Err(Stop::Expanded(self.expanded_max))
        } else {
            Ok(())
        }
    }
}

/// Counts the bytes that pass, for the ratio, and for the progress of the whole input where `meter` is given.
pub(super) struct Counted<'m, R> {
    inner: R,
    count: Rc<Cell<u64>>,
    meter: Option<&'m AtomicU64>,
}

impl<'m, R: Read> Counted<'m, R> {
    pub(super) fn new(inner: R, meter: Option<&'m AtomicU64>) -> Self {
        Self {
            inner,
            count: Rc::new(Cell::new(0)),
            meter,
        }
    }

    pub(super) fn count(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.count)
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let bytes = u64::try_from(n).unwrap_or(u64::MAX);
        self.count.set(self.count.get().saturating_add(bytes));
        if let Some(meter) = self.meter {
            meter.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(n)
    }
}

/// The expanded side of a decompressor: spends the budget, holds the ratio, ends when the scan is cancelled.
pub(super) struct Expanding<R> {
    inner: R,
    budget: Rc<Budget>,
    packed: Rc<Cell<u64>>,
    ratio: u64,
    ratio_floor: u64,
    out: u64,
}

impl<R: Read> Expanding<R> {
    pub(super) fn new(
        inner: R,
        budget: &Rc<Budget>,
        packed: Rc<Cell<u64>>,
        limits: &Limits,
    ) -> Self {
        Self {
            inner,
            budget: Rc::clone(budget),
            packed,
            ratio: limits.ratio,
            ratio_floor: limits.ratio_floor,
            out: 0,
        }
    }
}

impl<R: Read> Read for Expanding<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.budget.check_cancelled()?;
        let n = self.inner.read(buf)?;
        let bytes = u64::try_from(n).unwrap_or(u64::MAX);
        self.out = self.out.saturating_add(bytes);
        self.budget.expand(bytes)?;
        if self.out > self.ratio_floor && self.out > self.packed.get().saturating_mul(self.ratio) {
            return Err(Stop::Ratio(self.ratio).into());
        }
        Ok(n)
    }
}

/// Reads on after [`io::ErrorKind::Interrupted`] and until `buf` is full or the stream ends.
pub(super) fn read_full(reader: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_on_expansion_follows_the_input() {
        let limits = Limits::default();
        for (input, expected) in [
            (0, 256 * MIB),
            (100 * MIB, 2000 * MIB),
            (GIB, 8 * GIB),
            (u64::MAX, 8 * GIB),
        ] {
            assert_eq!(limits.expanded_for(input), expected, "{input}");
        }
        assert_eq!(
            Limits {
                expanded_bytes: Some(7),
                ..limits
            }
            .expanded_for(GIB),
            7
        );
    }

    #[test]
    fn ratio_and_budget_end_a_stream() {
        let limits = Limits {
            expanded_bytes: Some(1000),
            ratio: 10,
            ratio_floor: 50,
            ..Limits::default()
        };
        let budget = Rc::new(Budget::new(&limits, 0, std::sync::Arc::default()));
        let mut all = Vec::new();
        let error = Expanding::new(
            io::repeat(1).take(200),
            &budget,
            Rc::new(Cell::new(9)),
            &limits,
        )
        .read_to_end(&mut all)
        .expect_err("200 bytes out of 9");
        assert_eq!(stop_of(&error), Some(Stop::Ratio(10)));
        let error = Expanding::new(io::repeat(1), &budget, Rc::new(Cell::new(1 << 40)), &limits)
            .read_to_end(&mut all)
            .expect_err("endless");
        assert_eq!(stop_of(&error), Some(Stop::Expanded(1000)));
        assert!(budget.spent().is_some());
    }
}
