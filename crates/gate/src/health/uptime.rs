//! How much of the time each backend was well, by its probes: kept by the day, for a month, over
//! restarts. Time in which nobody looked counts neither way.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use munjigi_foundation::clock::Timestamp;

/// Days that are kept.
const WINDOW_DAYS: i64 = 30;
const DAY_MS: i64 = 86_400_000;
/// Backends whose days are kept.
const ENTRIES_MAX: usize = 100_000;
/// Largest file that is read.
const FILE_MAX: u64 = 256 << 20;
const FILE: &str = "uptime.json";

/// Milliseconds up and down of each day, by days since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct Days(BTreeMap<i64, (u64, u64)>);

/// The share of the time that a backend was well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Uptime {
    /// Between 0 and 1.
    pub(crate) share: f64,
    /// How long its probes looked, within the window.
    pub(crate) observed: Duration,
    /// The window's length.
    pub(crate) window: Duration,
}

impl Days {
    fn add(&mut self, day: i64, up: bool, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (good, bad) = self.0.entry(day).or_default();
        let sum = if up { good } else { bad };
        *sum = sum.saturating_add(time);
        self.forget(day);
    }

    fn forget(&mut self, today: i64) {
        self.0
            .retain(|day, _| *day > today - WINDOW_DAYS && *day <= today);
    }

    fn uptime(&self) -> Option<Uptime> {
        let (up, down) = self.0.values().fold((0_u64, 0_u64), |sum, day| {
            (sum.0.saturating_add(day.0), sum.1.saturating_add(day.1))
        });
        let total = up.saturating_add(down);
        (total > 0).then(|| Uptime {
            share: up as f64 / total as f64,
            observed: Duration::from_millis(total),
            window: Duration::from_secs(u64::try_from(WINDOW_DAYS).unwrap_or(0) * 86_400),
        })
    }
}

fn day_of(time: Timestamp) -> i64 {
    time.millis().div_euclid(DAY_MS)
}

/// By service, then by address.
type Entries = HashMap<String, HashMap<String, Days>>;

/// The uptime of all backends, and the file that keeps it.
#[derive(Debug, Default)]
pub(crate) struct Uptimes {
    file: Option<PathBuf>,
    entries: Mutex<(Entries, bool)>,
    /// The file is another process's.
    let_go: AtomicBool,
}

impl Uptimes {
    /// Reads what was kept in the folder `data`. A damaged file is put aside, which is logged.
    pub(crate) fn open(data: &std::path::Path) -> Self {
        let file = data.join(FILE);
        let entries = match read(&file) {
            Ok(entries) => entries,
            Err(error) => {
                let aside = file.with_extension("json.damaged");
                let (shown, aside_shown) = (file.display(), aside.display());
                tracing::warn!(%error, file = %shown, kept_as = %aside_shown, "the uptime of backends can't be read: it begins anew");
                if let Err(error) = std::fs::rename(&file, &aside) {
                    tracing::warn!(%error, file = %shown, "it can't be put aside");
                }
                Entries::new()
            }
        };
        Self {
            file: Some(file),
            entries: Mutex::new((entries, false)),
            let_go: AtomicBool::new(false),
        }
    }

    /// Writes once more, and then leaves the file to the process that takes the place of this one.
    pub(crate) fn let_go(&self, now: Timestamp) {
        self.save(now);
        self.let_go.store(true, Ordering::Relaxed);
    }

    /// Writes again: no other process took over.
    pub(crate) fn keep_again(&self) {
        self.let_go.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, (Entries, bool)> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For `time` until `now` the backend was up or down.
    pub(crate) fn add(
        &self,
        (service, address): (&str, &str),
        up: bool,
        time: Duration,
        now: Timestamp,
    ) {
        let mut entries = self.lock();
        let count: usize = entries.0.values().map(HashMap::len).sum();
        let known = entries
            .0
            .get(service)
            .is_some_and(|addresses| addresses.contains_key(address));
        if !known && count >= ENTRIES_MAX {
            return;
        }
        entries.1 = true;
        let addresses = entries.0.entry(service.to_owned()).or_default();
        let days = addresses.entry(address.to_owned()).or_default();
        days.add(day_of(now), up, time);
    }

    /// The uptime of one backend; `None` while nothing is known.
    pub(crate) fn of(&self, service: &str, address: &str) -> Option<Uptime> {
        self.lock().0.get(service)?.get(address)?.uptime()
    }

    /// Writes what is not written yet. What was not seen for the whole window is forgotten.
    pub(crate) fn save(&self, now: Timestamp) {
        let Some(file) = &self.file else {
            return;
        };
        if self.let_go.load(Ordering::Relaxed) {
            return;
        }
        let text = {
            let mut entries = self.lock();
            if !std::mem::replace(&mut entries.1, false) {
                return;
            }
            let today = day_of(now);
            for addresses in entries.0.values_mut() {
                addresses.retain(|_, days| {
                    days.forget(today);
                    !days.0.is_empty()
                });
            }
            entries.0.retain(|_, addresses| !addresses.is_empty());
            serde_json::to_vec(&entries.0)
        };
        let written = text
            .map_err(io::Error::other)
            .and_then(|text| write(file, &text));
        if let Err(error) = written {
            tracing::warn!(%error, file = %file.display(), "the uptime of backends can't be kept");
            self.lock().1 = true;
        }
    }
}

fn read(file: &std::path::Path) -> io::Result<Entries> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::new()),
        Err(error) => return Err(error),
        Ok(about) if about.len() > FILE_MAX => {
            return Err(io::Error::other(format!("larger than {FILE_MAX} bytes")));
        }
        Ok(_) => {}
    }
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

/// A draft beside it, then one step: a crash leaves the old or the new file.
fn write(file: &std::path::Path, text: &[u8]) -> io::Result<()> {
    use std::io::Write;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let draft = file.with_extension("json.new");
    let mut written = std::fs::File::create(&draft)?;
    written.write_all(text)?;
    written.sync_all()?;
    std::fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_millis(day * DAY_MS + 5)
    }

    #[test]
    fn a_month_counts_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("gate-data");
        let uptimes = Uptimes::open(&data);
        let one = ("APP", "127.0.0.1:1");
        assert_eq!(uptimes.of(one.0, one.1), None);
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        uptimes.add(one, false, hours(10), at(100));
        uptimes.add(one, true, hours(30), at(120));
        let known = uptimes.of(one.0, one.1).unwrap();
        assert_eq!((known.share, known.observed), (0.75, hours(40)));
        uptimes.save(at(120));
        let again = Uptimes::open(&data);
        assert_eq!(again.of(one.0, one.1), Some(known));
        // The bad day falls out of the window.
        again.add(one, true, hours(1), at(130));
        let known = again.of(one.0, one.1).unwrap();
        assert_eq!((known.share, known.observed), (1.0, hours(31)));
        again.add(("APP", "127.0.0.1:2"), true, hours(1), at(200));
        again.save(at(200));
        assert_eq!(Uptimes::open(&data).of(one.0, one.1), None, "forgotten");
    }

    #[test]
    fn who_has_let_go_writes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (one, minute) = (("APP", "127.0.0.1:1"), Duration::from_secs(60));
        let observed = |uptimes: &Uptimes| uptimes.of(one.0, one.1).unwrap().observed;
        let old = Uptimes::open(folder.path());
        old.add(one, true, minute, at(100));
        old.let_go(at(100));
        let new = Uptimes::open(folder.path());
        assert_eq!(observed(&new), minute, "what was known is handed over");
        new.add(one, true, minute, at(100));
        new.save(at(100));
        for _ in 0..5 {
            old.add(one, false, minute, at(100));
        }
        old.save(at(100));
        assert_eq!(observed(&Uptimes::open(folder.path())), 2 * minute);
        old.keep_again();
        old.save(at(100));
        assert_eq!(observed(&Uptimes::open(folder.path())), 6 * minute);
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        for damaged in [
            "",
            "{",
            "[]",
            "{\"APP\":{\"a\":{\"x\":[1,2]}}}",
            "{\"A\":{\"a\":{\"1\":[-1,2]}}}",
        ] {
            std::fs::write(folder.path().join(FILE), damaged).unwrap();
            let uptimes = Uptimes::open(folder.path());
            assert!(uptimes.lock().0.is_empty(), "{damaged}");
            let aside = folder.path().join("uptime.json.damaged");
            assert_eq!(std::fs::read_to_string(aside).unwrap(), damaged);
        }
    }
}
