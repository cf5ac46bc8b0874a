//! Where bans outlive the process. The gate knows the trait; the binary hands in what keeps them:
//! a file here, something that gates share elsewhere.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ban::{Ban, Client};

/// What the file begins with.
const VERSION: &str = "{\"bans\":1}";
/// Largest file that is read.
const FILE_MAX: u64 = 256 << 20;
/// Bytes of one line.
const LINE_MAX: usize = 16 * 1024;
/// Bans that are kept.
const BANS_MAX: usize = 1_000_000;
/// Lines that may be of no use before the file is written anew, beside as many as there are bans.
const SPARE: usize = 1_000;
/// How long another process may keep the file to itself, and how often that is looked at.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
const LOCK_LOOK: Duration = Duration::from_millis(2);

/// Keeps bans. Called from a thread that may wait, with several at once, in the order in which they
/// came about.
pub trait BanStore: Debug + Send + Sync {
    /// All that are kept.
    ///
    /// # Errors
    /// When they can't be read; then none are known.
    fn load(&self) -> io::Result<Vec<Ban>>;

    /// Keeps these, in the place of earlier ones of the same clients.
    ///
    /// # Errors
    /// When they can't be kept; they are handed in again.
    fn put(&self, bans: &[Ban]) -> io::Result<()>;

    /// Forgets those of these clients.
    ///
    /// # Errors
    /// When it can't; they are handed in again.
    fn remove(&self, clients: &[Client]) -> io::Result<()>;

    /// What others that share the store changed since it was asked last: the last word on each
    /// client, `None` where its ban was ended. Asked often: cheap while there is nothing.
    ///
    /// # Errors
    /// When it can't be read; it is asked again.
    fn news(&self) -> io::Result<Vec<(Client, Option<Ban>)>>;
}

/// Bans in one file: a line for each that begins or ends, and now and then the file anew.
///
/// A line is added in one write, so kill -9 cuts at most the last one. Two processes share the file
/// while one takes over from the other: each holds `bans.lock` while it reads or writes, and reads
/// what the other one wrote before it writes, so that neither loses a ban of the other.
#[derive(Debug)]
pub struct BanFile {
    path: PathBuf,
    state: Mutex<Lines>,
}

/// What is known of the file.
#[derive(Debug, Default)]
struct Lines {
    /// Kept open, so that no other file takes its number; and how many of its bytes were read.
    file: Option<(File, u64)>,
    /// Lines in the file, and those of them that hold.
    written: usize,
    live: HashMap<Client, Ban>,
    /// What others wrote, until it is asked for.
    news: HashMap<Client, Option<Ban>>,
}

/// What the bytes of a file say.
#[derive(Debug, Default)]
pub struct Content {
    /// The bans, each client's last.
    pub bans: HashMap<Client, Ban>,
    /// Lines of it.
    pub lines: usize,
    /// The first line that can't be read, and why; a last line that was cut is none.
    pub damage: Option<(usize, String)>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Line {
    Ban(Ban),
    End(Client),
}

/// How the lines of some bytes could be read.
#[derive(Debug, Default)]
struct Reading {
    lines: usize,
    /// As of [`Content`].
    damage: Option<(usize, String)>,
    /// The last line has no end.
    cut: bool,
}

/// Reads the bytes of a file. What follows a line that can't be read is read all the same.
#[must_use]
pub fn parse(bytes: &[u8]) -> Content {
    let mut content = Content::default();
    let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
    let (first, rest) = bytes.split_at_checked(end).unwrap_or_default();
    if bytes.is_empty() {
        return content;
    }
    if first.trim_ascii() != VERSION.as_bytes() {
        content.damage = Some((1, "it is no list of bans of this version".to_owned()));
        return content;
    }
    let bans = &mut content.bans;
    let reading = read_lines(rest, 2, |line| match line {
        Line::Ban(ban) if bans.len() < BANS_MAX => {
            bans.insert(ban.address, ban);
        }
        Line::Ban(_) => {}
        Line::End(client) => {
            bans.remove(&client);
        }
    });
    content.lines = reading.lines;
    content.damage = reading.damage;
    content
}

/// Hands each line that can be read to `take`; `number` is that of the first one.
fn read_lines(bytes: &[u8], number: usize, mut take: impl FnMut(Line)) -> Reading {
    let mut reading = Reading::default();
    for (line, number) in bytes.split_inclusive(|byte| *byte == b'\n').zip(number..) {
        reading.lines += 1;
        if !line.ends_with(b"\n") {
            // Cut while it was written.
            reading.cut = true;
            break;
        }
        let read = if line.len() > LINE_MAX {
            Err(format!("it is longer than {LINE_MAX} bytes"))
        } else {
            serde_json::from_slice::<Line>(line).map_err(|error| error.to_string())
        };
        match read {
            Ok(Line::Ban(ban)) if !is_sound(&ban) => {
                let why = "a ban with times that can't be".to_owned();
                reading.damage.get_or_insert((number, why));
            }
            Ok(line) => take(line),
            Err(why) => {
                reading.damage.get_or_insert((number, why));
            }
        }
    }
    reading
}

/// Times as they can be: not before 1970, and the end behind the begin.
fn is_sound(ban: &Ban) -> bool {
    ban.first_seen.millis() >= 0 && ban.since.millis() >= 0 && ban.until >= ban.since
}

impl Lines {
    /// A line that somebody else added.
    fn hear(&mut self, line: Line) {
        match line {
            Line::Ban(ban) if self.live.len() < BANS_MAX => {
                self.news.insert(ban.address, Some(ban.clone()));
                self.live.insert(ban.address, ban);
            }
            Line::Ban(_) => {}
            Line::End(client) => {
                self.live.remove(&client);
                self.news.insert(client, None);
            }
        }
    }

    /// Somebody else wrote the whole file.
    fn replace(&mut self, bans: HashMap<Client, Ban>) {
        let before = std::mem::replace(&mut self.live, bans);
        for (client, ban) in &self.live {
            if before.get(client) != Some(ban) {
                self.news.insert(*client, Some(ban.clone()));
            }
        }
        let gone = before
            .into_keys()
            .filter(|old| !self.live.contains_key(old));
        self.news.extend(gone.map(|client| (client, None)));
    }
}

impl BanFile {
    /// Bans in the folder `data`, which is made when it is needed.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            path: data.join("bans.jsonl"),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Lines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps other processes from the file for as long as what it gives lives.
    #[expect(
        clippy::disallowed_methods,
        reason = "a file's lock tells nobody when it is free; only threads for files come here, for LOCK_WITHIN at most"
    )]
    fn hold(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let lock = self.path.with_extension("lock");
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WITHIN => {
                    std::thread::sleep(LOCK_LOOK);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::other("another process keeps bans.lock"));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn about(&self) -> io::Result<Option<Metadata>> {
        match fs::metadata(&self.path) {
            Ok(about) => Ok(Some(about)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes in what others wrote; mends what is damaged. To be called while it is held.
    fn follow(&self, state: &mut Lines) -> io::Result<()> {
        let Some(about) = self.about()? else {
            // It is written anew with the next change.
            state.file = None;
            return Ok(());
        };
        let reading = match state.file.take() {
            Some((file, read))
                if is_same(&file, &about)? && (read..=FILE_MAX).contains(&about.len()) =>
            {
                let tail = read_from(&file, read, about.len())?;
                state.file = Some((file, about.len()));
                let first = state.written + 2;
                let reading = read_lines(&tail, first, |line| state.hear(line));
                state.written += reading.lines;
                reading
            }
            _ => self.read_whole(state, about.len())?,
        };
        if let Some((line, why)) = reading.damage {
            self.put_aside(line, &why);
            self.write_anew(state)
        } else if reading.cut {
            // What is added must not go on with half a line.
            self.write_anew(state)
        } else {
            Ok(())
        }
    }

    fn read_whole(&self, state: &mut Lines, length: u64) -> io::Result<Reading> {
        let file = File::options().read(true).append(true).open(&self.path)?;
        if length > FILE_MAX {
            let damage = Some((0, format!("it is larger than {FILE_MAX} bytes")));
            let lines = 0;
            return Ok(Reading {
                lines,
                damage,
                cut: false,
            });
        }
        let bytes = read_from(&file, 0, length)?;
        let content = parse(&bytes);
        state.file = Some((file, length));
        state.written = content.lines;
        state.replace(content.bans);
        Ok(Reading {
            lines: content.lines,
            damage: content.damage,
            cut: !bytes.is_empty() && !bytes.ends_with(b"\n"),
        })
    }

    /// What can't be read is kept beside the file, for a person to look at.
    fn put_aside(&self, line: usize, why: &str) {
        let aside = self.path.with_extension("jsonl.damaged");
        let (file, kept_as) = (self.path.display(), aside.display());
        tracing::warn!(%file, %kept_as, line, why, "the list of bans is damaged: what can be read of it holds");
        if let Err(error) = fs::rename(&self.path, &aside) {
            tracing::warn!(%error, %file, "it can't be put aside");
        }
    }

    /// Adds lines; writes the file anew when most of it is of no use.
    fn add(&self, state: &mut Lines, text: &[u8], lines: usize) -> io::Result<()> {
        let spare = 2 * state.live.len() + SPARE;
        match &mut state.file {
            Some((file, read)) if state.written + lines <= spare => {
                file.write_all(text)?;
                file.sync_data()?;
                *read += text.len() as u64;
                state.written += lines;
                Ok(())
            }
            _ => self.write_anew(state),
        }
    }

    /// A draft beside it, then one step: a crash leaves the old or the new file.
    fn write_anew(&self, state: &mut Lines) -> io::Result<()> {
        let mut text = format!("{VERSION}\n").into_bytes();
        for ban in state.live.values() {
            append(&mut text, &Line::Ban(ban.clone()))?;
        }
        let draft = self.path.with_extension("jsonl.new");
        let mut options = File::options();
        let options = options.create(true).truncate(true).write(true);
        let mut file = options.open(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        let file = File::options().read(true).append(true).open(&self.path)?;
        state.file = Some((file, text.len() as u64));
        state.written = state.live.len();
        Ok(())
    }
}

fn is_same(file: &File, about: &Metadata) -> io::Result<bool> {
    let own = file.metadata()?;
    Ok(own.ino() == about.ino() && own.dev() == about.dev())
}

fn read_from(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(to.saturating_sub(from)).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

fn append(text: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line).map_err(io::Error::other)?;
    text.push(b'\n');
    Ok(())
}

impl BanStore for BanFile {
    fn load(&self) -> io::Result<Vec<Ban>> {
        let mut state = self.state();
        if self.about()?.is_some() {
            let _held = self.hold()?;
            self.follow(&mut state)?;
            if state.written > state.live.len() {
                self.write_anew(&mut state)?;
            }
        }
        state.news.clear();
        Ok(state.live.values().cloned().collect())
    }

    fn put(&self, bans: &[Ban]) -> io::Result<()> {
        let mut state = self.state();
        let _held = self.hold()?;
        self.follow(&mut state)?;
        let mut text = Vec::new();
        for ban in bans {
            append(&mut text, &Line::Ban(ban.clone()))?;
            state.news.remove(&ban.address);
            state.live.insert(ban.address, ban.clone());
        }
        self.add(&mut state, &text, bans.len())
    }

    fn remove(&self, clients: &[Client]) -> io::Result<()> {
        let mut state = self.state();
        if self.about()?.is_none() && state.live.is_empty() {
            return Ok(());
        }
        let _held = self.hold()?;
        self.follow(&mut state)?;
        let mut text = Vec::new();
        let mut lines = 0;
        for client in clients {
            state.news.remove(client);
            if state.live.remove(client).is_some() {
                append(&mut text, &Line::End(*client))?;
                lines += 1;
            }
        }
        if lines == 0 {
            return Ok(());
        }
        self.add(&mut state, &text, lines)
    }

    fn news(&self) -> io::Result<Vec<(Client, Option<Ban>)>> {
        let mut state = self.state();
        let changed = match (self.about()?, &state.file) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(about), Some((file, read))) => !is_same(file, &about)? || about.len() != *read,
        };
        if changed {
            let _held = self.hold()?;
            self.follow(&mut state)?;
        }
        Ok(std::mem::take(&mut state.news).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use munjigi_foundation::clock::Timestamp;

    use super::*;

    fn ban(address: &str, until: i64) -> Ban {
        let mut ban = Ban::manual(
            address.parse().unwrap(),
            Timestamp::from_millis(1),
            Timestamp::from_millis(until),
        );
        ban.signals.insert("dot_file".to_owned(), 3);
        ban
    }

    fn loaded(folder: &Path) -> Vec<Ban> {
        let mut bans = BanFile::new(folder).load().unwrap();
        bans.sort_by_key(|ban| ban.address);
        bans
    }

    #[test]
    fn a_file_that_grows_too_large_is_put_aside_unread() {
        let folder = tempfile::tempdir().unwrap();
        let store = BanFile::new(folder.path());
        store.put(&[ban("192.0.2.1", 5)]).unwrap();
        let file = File::options().write(true).open(&store.path).unwrap();
        file.set_len(FILE_MAX + 1).unwrap();
        store.put(&[ban("192.0.2.2", 6)]).unwrap();
        let aside = fs::metadata(store.path.with_extension("jsonl.damaged")).unwrap();
        assert_eq!(aside.len(), FILE_MAX + 1);
        let both = [ban("192.0.2.1", 5), ban("192.0.2.2", 6)];
        assert_eq!(loaded(folder.path()), both);
    }

    #[test]
    fn bans_outlive_the_process_and_the_last_word_holds() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("gate-data");
        let store = BanFile::new(&data);
        assert_eq!(store.load().unwrap(), []);
        store
            .put(&[ban("192.0.2.1", 5), ban("2001:db8::1", 6)])
            .unwrap();
        store.put(&[ban("192.0.2.1", 9)]).unwrap();
        assert_eq!(loaded(&data), [ban("192.0.2.1", 9), ban("2001:db8::", 6)]);
        store
            .remove(&["2001:db8::".parse().unwrap(), "192.0.2.7".parse().unwrap()])
            .unwrap();
        assert_eq!(loaded(&data), [ban("192.0.2.1", 9)]);
        // What another process wrote anew is added to, too.
        store.put(&[ban("192.0.2.3", 3)]).unwrap();
        assert_eq!(loaded(&data).len(), 2);
    }

    /// What a store hears of others, by client.
    fn heard(store: &BanFile) -> Vec<(String, Option<i64>)> {
        let mut news: Vec<_> = store
            .news()
            .unwrap()
            .into_iter()
            .map(|(client, ban)| (client.to_string(), ban.map(|ban| ban.until.millis())))
            .collect();
        news.sort();
        news
    }

    #[test]
    fn two_processes_lose_no_ban_of_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (BanFile::new(folder.path()), BanFile::new(folder.path()));
        assert_eq!((old.load().unwrap(), new.load().unwrap()), (vec![], vec![]));
        assert_eq!((heard(&old), heard(&new)), (vec![], vec![]));
        old.put(&[ban("192.0.2.1", 5)]).unwrap();
        new.put(&[ban("192.0.2.2", 6)]).unwrap();
        let said = |address: &str, until| vec![(address.to_owned(), until)];
        assert_eq!(heard(&new), said("192.0.2.1", Some(5)));
        assert_eq!(heard(&old), said("192.0.2.2", Some(6)));
        assert_eq!((heard(&old), heard(&new)), (vec![], vec![]), "said once");
        // Whoever writes the file anew has all of it; the other one goes on with the new file.
        let batch = |round: i64| -> Vec<Ban> {
            let first = 100 + round * 50;
            (first..first + 50)
                .map(|until| ban("192.0.2.3", until))
                .collect()
        };
        for round in 0..60 {
            let (one, other) = if round % 7 < 3 {
                (&old, &new)
            } else {
                (&new, &old)
            };
            one.put(&batch(round)).unwrap();
            if round % 10 == 0 {
                let until = batch(round).last().unwrap().until.millis();
                assert_eq!(heard(other), said("192.0.2.3", Some(until)));
            }
        }
        let lines = fs::read_to_string(folder.path().join("bans.jsonl")).unwrap();
        assert!(lines.lines().count() <= SPARE + 60);
        old.remove(&["192.0.2.2".parse().unwrap()]).unwrap();
        let told = heard(&new);
        assert!(told.contains(&("192.0.2.2".to_owned(), None)), "{told:?}");
        let last = batch(59).pop().unwrap();
        assert_eq!(loaded(folder.path()), [ban("192.0.2.1", 5), last]);
        // A person has written it: what is gone is over.
        fs::write(folder.path().join("bans.jsonl"), format!("{VERSION}\n")).unwrap();
        assert_eq!(heard(&new).len(), 2);
        assert_eq!(new.load().unwrap(), []);
    }

    #[test]
    fn two_processes_at_once_lose_nothing_either() {
        let folder = tempfile::tempdir().unwrap();
        let stores = [BanFile::new(folder.path()), BanFile::new(folder.path())];
        std::thread::scope(|scope| {
            for (place, store) in stores.iter().enumerate() {
                scope.spawn(move || {
                    for round in 0..20 {
                        store
                            .put(&[ban(&format!("198.51.{place}.{round}"), 5)])
                            .unwrap();
                        store.put(&[ban("192.0.2.1", 9 + round)]).unwrap();
                        if round % 7 == 6 {
                            store.load().unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(loaded(folder.path()).len(), 41);
        for store in stores {
            assert_eq!(store.load().unwrap().len(), 41);
        }
    }

    #[test]
    fn the_file_does_not_grow_with_what_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = BanFile::new(folder.path());
        store.load().unwrap();
        for round in 0..SPARE as i64 * 2 {
            store.put(&[ban("192.0.2.1", round)]).unwrap();
        }
        let lines = fs::read_to_string(folder.path().join("bans.jsonl")).unwrap();
        assert!(lines.lines().count() <= SPARE + 4);
        assert_eq!(loaded(folder.path()).len(), 1);
    }

    #[test]
    fn a_cut_line_is_dropped_and_a_damaged_file_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bans.jsonl");
        let aside = folder.path().join("bans.jsonl.damaged");
        let store = BanFile::new(folder.path());
        store.load().unwrap();
        store
            .put(&[ban("192.0.2.1", 5), ban("192.0.2.2", 5)])
            .unwrap();
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 7]).unwrap();
        let first = loaded(folder.path());
        assert_eq!(first.len(), 1);
        assert!(!aside.exists());
        // And what is added stands on a line of its own.
        let store = BanFile::new(folder.path());
        store.load().unwrap();
        store.put(&[ban("192.0.2.3", 5)]).unwrap();
        assert_eq!(loaded(folder.path()).len(), 2);
        let good = serde_json::to_string(&Line::Ban(ban("192.0.2.9", 5))).unwrap();
        for damaged in [
            "x".to_owned(),
            "{\"bans\":2}\n".to_owned(),
            format!("{VERSION}\n{{\"ban\":{{}}}}\n"),
            format!("{VERSION}\nnothing\n{good}\n"),
        ] {
            fs::write(&file, &damaged).unwrap();
            let kept = loaded(folder.path());
            assert_eq!(
                kept.len(),
                usize::from(damaged.contains(&good)),
                "{damaged}"
            );
            assert_eq!(fs::read_to_string(&aside).unwrap(), damaged);
            assert_eq!(loaded(folder.path()), kept, "and it is sound again");
        }
    }
}
