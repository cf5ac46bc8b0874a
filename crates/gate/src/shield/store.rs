//! Where bans outlive the process. The gate knows the trait; the binary hands in what keeps them:
//! a file here, something that gates share elsewhere.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
}

/// Bans in one file: a line for each that begins or ends, and now and then the file anew.
///
/// A line is added in one write, so kill -9 cuts at most the last one. The file is opened anew
/// for each batch: another process may have written it anew meanwhile.
#[derive(Debug)]
pub struct BanFile {
    path: PathBuf,
    /// Lines in the file, and those of them that hold.
    state: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    written: usize,
    live: HashMap<Client, Ban>,
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

/// Reads the bytes of a file. What follows a line that can't be read is read all the same.
#[must_use]
pub fn parse(bytes: &[u8]) -> Content {
    let mut content = Content::default();
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').zip(1..);
    match lines.next() {
        None => return content,
        Some((first, _)) if first.trim_ascii() == VERSION.as_bytes() => {}
        Some(_) => {
            content.damage = Some((1, "it is no list of bans of this version".to_owned()));
            return content;
        }
    }
    for (line, number) in lines {
        content.lines += 1;
        if !line.ends_with(b"\n") {
            // Cut while it was written.
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
                content.damage.get_or_insert((number, why));
            }
            Ok(Line::Ban(ban)) if content.bans.len() < BANS_MAX => {
                content.bans.insert(ban.address, ban);
            }
            Ok(Line::Ban(_)) => {}
            Ok(Line::End(client)) => {
                content.bans.remove(&client);
            }
            Err(why) => {
                content.damage.get_or_insert((number, why));
            }
        }
    }
    content
}

/// Times as they can be: not before 1970, and the end behind the begin.
fn is_sound(ban: &Ban) -> bool {
    ban.first_seen.millis() >= 0 && ban.since.millis() >= 0 && ban.until >= ban.since
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

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> io::Result<Content> {
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Content::default()),
            Err(error) => Err(error),
            Ok(about) if about.len() > FILE_MAX => Ok(Content {
                damage: Some((0, format!("it is larger than {FILE_MAX} bytes"))),
                ..Content::default()
            }),
            Ok(_) => Ok(parse(&fs::read(&self.path)?)),
        }
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
        if !self.path.exists() || state.written + lines > 2 * state.live.len() + SPARE {
            return self.write_anew(state);
        }
        let mut file = File::options().append(true).open(&self.path)?;
        file.write_all(text)?;
        file.sync_data()?;
        state.written += lines;
        Ok(())
    }

    /// A draft beside it, then one step: a crash leaves the old or the new file.
    fn write_anew(&self, state: &mut Lines) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut text = format!("{VERSION}\n").into_bytes();
        for ban in state.live.values() {
            append(&mut text, &Line::Ban(ban.clone()))?;
        }
        // Two processes share the folder while one takes over from the other.
        let draft = self
            .path
            .with_extension(format!("jsonl.{}", std::process::id()));
        let mut file = File::create(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        state.written = state.live.len();
        Ok(())
    }
}

fn append(text: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line).map_err(io::Error::other)?;
    text.push(b'\n');
    Ok(())
}

impl BanStore for BanFile {
    fn load(&self) -> io::Result<Vec<Ban>> {
        let mut state = self.lock();
        let content = self.read()?;
        state.live = content.bans;
        state.written = content.lines;
        if let Some((line, why)) = content.damage {
            self.put_aside(line, &why);
            self.write_anew(&mut state)?;
        } else if state.written > state.live.len() {
            // A last line that was cut must not become the beginning of the next one.
            self.write_anew(&mut state)?;
        }
        Ok(state.live.values().cloned().collect())
    }

    fn put(&self, bans: &[Ban]) -> io::Result<()> {
        let mut state = self.lock();
        let mut text = Vec::new();
        for ban in bans {
            append(&mut text, &Line::Ban(ban.clone()))?;
            state.live.insert(ban.address, ban.clone());
        }
        self.add(&mut state, &text, bans.len())
    }

    fn remove(&self, clients: &[Client]) -> io::Result<()> {
        let mut state = self.lock();
        let mut text = Vec::new();
        let mut lines = 0;
        for client in clients {
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
