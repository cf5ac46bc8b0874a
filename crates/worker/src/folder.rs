//! What the worker keeps on its disk. Blocking.
//!
//! ```text
//! data/
//!   lock         held while a worker runs on this folder
//!   server_id    made once
//!   fences       NDJSON: attempts that were deleted or cancelled
//!   analyses/
//!     ANALYZE_ID/
//!       state          JSON: the attempt and how far it is
//!       input/NAME     the uploaded file
//!       output/ tmp/   the model's own
//!       events         NDJSON: every event, before it is sent
//!       result         the packed result
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use munjigi_events::{AnalysisId, EventId, ServerId, UserId};
use munjigi_foundation::clock::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::book::Fence;

/// How often a folder that still fills is removed again, and how long is waited in between.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// How often the lock is tried, and how long is waited in between: a child that is just being started holds what its
/// parent held, until it is another program.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Why the data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("another worker runs on {}", .0.display())]
    Locked(PathBuf),
    #[error("{} holds no server id: \"{found}\"", .path.display())]
    ServerId { path: PathBuf, found: String },
    #[error("{}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FolderError + '_ {
    move |error| FolderError::Io {
        path: path.to_path_buf(),
        error,
    }
}

/// True for an id that can be a folder's name: letters, digits, `-` and `_`, at most 64.
pub(crate) fn plain_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 64
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// How far an attempt is, as far as a restart must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Receiving,
    Running,
    Ready,
    Cut,
    Lost,
}

/// A finished result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Result {
    pub(crate) bytes: u64,
    /// SHA-256, as in `Repr-Digest`: base64.
    pub(crate) sha256: String,
    pub(crate) files: u64,
    /// Why the model failed, when it did.
    pub(crate) error: Option<String>,
}

/// The `state` of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) user: UserId,
    pub(crate) event: EventId,
    pub(crate) analysis: AnalysisId,
    pub(crate) attempt: u32,
    /// The first `seq` that this worker may use.
    pub(crate) first_seq: u64,
    pub(crate) model: String,
    /// As the user named the file.
    pub(crate) name: String,
    pub(crate) stage: Stage,
    /// When `stage` was reached.
    pub(crate) since: Timestamp,
    pub(crate) result: Option<Result>,
}

/// The data folder, locked.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    /// Held until the worker is gone.
    _lock: File,
}

impl Folder {
    /// Makes and locks `root`.
    pub(crate) fn open(root: &Path) -> std::result::Result<Self, FolderError> {
        make_folder(&root.join("analyses")).map_err(at(root))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        for left in (0..LOCK_TRIES).rev() {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if left > 0 => {
                    std::thread::park_timeout(LOCK_PAUSE);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(FolderError::Locked(root.to_path_buf()));
                }
                Err(error) => return Err(at(&path)(error.into())),
            }
        }
        let root = fs::canonicalize(root).map_err(at(root))?;
        Ok(Self { root, _lock: lock })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The id of this folder, made at the first start. It is the worker's id where the settings name none.
    pub(crate) fn id(&self) -> std::result::Result<ServerId, FolderError> {
        let path = self.root.join("server_id");
        let id = match fs::read_to_string(&path) {
            Ok(kept) => kept.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = ulid::Ulid::generate().to_string();
                replace(&path, made.as_bytes()).map_err(at(&path))?;
                made
            }
            Err(error) => return Err(at(&path)(error)),
        };
        if !plain_id(&id) {
            let found = id.chars().take(80).collect();
            return Err(FolderError::ServerId { path, found });
        }
        Ok(ServerId(id))
    }

    /// The folder of an analysis. Its id was checked by [`plain_id`].
    pub(crate) fn analysis(&self, id: &AnalysisId) -> Place {
        Place(self.root.join("analyses").join(id.as_str()))
    }

    /// All analyses on the disk; what has no readable state is removed, for nobody can know what it was.
    pub(crate) fn analyses(&self) -> std::result::Result<Vec<State>, FolderError> {
        let folder = self.root.join("analyses");
        let mut states = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let path = entry.map_err(at(&folder))?.path();
            let place = Place(path);
            match place.state() {
                Ok(state) if self.analysis(&state.analysis) == place => states.push(state),
                _ => {
                    tracing::warn!(folder = %place.0.display(), "removed: it holds no analysis");
                    place.remove().map_err(at(&place.0))?;
                }
            }
        }
        Ok(states)
    }

    /// The fences kept. A last line that was cut by a crash was never promised to anybody.
    pub(crate) fn fences(&self) -> std::result::Result<BTreeMap<AnalysisId, Fence>, FolderError> {
        let path = self.root.join("fences");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(at(&path)(error)),
        };
        let mut fences: BTreeMap<AnalysisId, Fence> = BTreeMap::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(at(&path))?;
            if let Ok((id, fence)) = serde_json::from_str::<(AnalysisId, Fence)>(&line) {
                fences
                    .entry(id)
                    .and_modify(|kept| {
                        if kept.attempt <= fence.attempt {
                            *kept = fence;
                        }
                    })
                    .or_insert(fence);
            }
        }
        Ok(fences)
    }

    /// Keeps one more fence, durably.
    pub(crate) fn add_fence(&self, id: &AnalysisId, fence: Fence) -> io::Result<()> {
        let mut line = serde_json::to_vec(&(id, fence))?;
        // A line cut by a crash before is ended first.
        line.insert(0, b'\n');
        line.push(b'\n');
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.root.join("fences"))?;
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Keeps only these fences.
    pub(crate) fn replace_fences(&self, fences: &BTreeMap<AnalysisId, Fence>) -> io::Result<()> {
        let mut lines = Vec::new();
        for fence in fences {
            serde_json::to_writer(&mut lines, &fence)?;
            lines.push(b'\n');
        }
        replace(&self.root.join("fences"), &lines)
    }

    /// Bytes that a user may still write to the disk.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::statvfs(&self.root)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}

/// The folder of one analysis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn input(&self) -> PathBuf {
        self.0.join("input")
    }

    /// Where the uploaded file lies: named as the user named it, as far as that is a plain file name.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.input().join(file_name(name))
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.0.join("output")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.0.join("tmp")
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.0.join("events")
    }

    pub(crate) fn result(&self) -> PathBuf {
        self.0.join("result")
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        Ok(serde_json::from_slice(&fs::read(self.0.join("state"))?)?)
    }

    /// Makes the folder with its first state, durably.
    pub(crate) fn make(&self, state: &State) -> io::Result<()> {
        make_folder(&self.input())?;
        self.keep(state)?;
        if let Some(parent) = self.0.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    /// Keeps `state`, durably.
    pub(crate) fn keep(&self, state: &State) -> io::Result<()> {
        replace(&self.0.join("state"), &serde_json::to_vec(state)?)
    }

    /// Makes empty folders for the model.
    pub(crate) fn make_run_folders(&self) -> io::Result<()> {
        make_empty(&self.output())?;
        make_empty(&self.temporary())
    }

    /// Removes the uploaded file and what the model left; events, state and result stay.
    pub(crate) fn remove_run(&self) -> io::Result<()> {
        for folder in [self.input(), self.output(), self.temporary()] {
            remove_folder(&folder)?;
        }
        Ok(())
    }

    /// Removes everything, the state first: a crash in between leaves a folder that the next start removes.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(self.0.join("state")) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return fs::remove_file(&self.0);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        remove_folder(&self.0)
    }
}

pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if tries >= REMOVE_TRIES => return Err(error),
            // A model may have closed its folders against us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open_folders(path),
            // After a crash the model of the run before may live, and write, for a moment longer.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                std::thread::park_timeout(REMOVE_PAUSE);
            }
            Err(error) => return Err(error),
        }
        tries += 1;
    }
}

/// Gives the owner every right on `path` and all folders in it; links are not followed.
fn open_folders(path: &Path) {
    let mut open = vec![path.to_path_buf()];
    while let Some(folder) = open.pop() {
        // What can't be changed shows when it is removed.
        drop(fs::set_permissions(
            &folder,
            fs::Permissions::from_mode(0o700),
        ));
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
}

/// An empty folder, whatever was there.
pub(crate) fn make_empty(path: &Path) -> io::Result<()> {
    remove_folder(path)?;
    make_folder(path)
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Replaces a file durably: whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The last part of `name`, as a plain file name of at most 120 bytes.
fn file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut plain = String::new();
    for c in last.chars() {
        let c = if c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '+') {
            c
        } else {
            '_'
        };
        if plain.len() + c.len_utf8() > 120 {
            break;
        }
        plain.push(c);
    }
    let trimmed = plain.trim_start_matches(['.', '-']);
    if trimmed.is_empty() {
        "upload".to_owned()
    } else {
        trimmed.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: &str) -> State {
        State {
            user: "u".into(),
            event: "e".into(),
            analysis: id.into(),
            attempt: 1,
            first_seq: 3,
            model: "source".to_owned(),
            name: "a.zip".to_owned(),
            stage: Stage::Receiving,
            since: Timestamp::from_millis(0),
            result: None,
        }
    }

    #[test]
    fn a_data_folder_serves_one_worker() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        assert!(matches!(
            Folder::open(root.path()),
            Err(FolderError::Locked(_))
        ));
        let id = folder.id().unwrap();
        assert_eq!(folder.id().unwrap(), id);
        drop(folder);
        let folder = Folder::open(root.path()).unwrap();
        assert_eq!(folder.id().unwrap(), id);
        fs::write(root.path().join("server_id"), "../x").unwrap();
        assert!(matches!(folder.id(), Err(FolderError::ServerId { .. })));
    }

    #[test]
    fn states_are_kept_and_what_has_none_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let kept = state("a");
        folder.analysis(&"a".into()).make(&kept).unwrap();
        let analyses = root.path().join("analyses");
        fs::create_dir_all(analyses.join("b/input")).unwrap();
        fs::create_dir(analyses.join("c")).unwrap();
        fs::write(analyses.join("c/state"), "{").unwrap();
        fs::write(analyses.join("d"), "a stray file").unwrap();
        // A state that belongs to another folder is no one's.
        fs::create_dir(analyses.join("e")).unwrap();
        fs::copy(analyses.join("a/state"), analyses.join("e/state")).unwrap();
        assert_eq!(folder.analyses().unwrap(), [kept]);
        assert_eq!(fs::read_dir(&analyses).unwrap().count(), 1);
    }

    #[test]
    fn fences_survive_a_restart_and_a_cut_line() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let fence = |attempt| Fence {
            attempt,
            at: Timestamp::from_millis(0),
        };
        folder.add_fence(&"a".into(), fence(2)).unwrap();
        let path = root.path().join("fences");
        let mut cut = fs::read(&path).unwrap();
        cut.extend_from_slice(b"[\"b\",{\"att");
        fs::write(&path, cut).unwrap();
        folder.add_fence(&"c".into(), fence(1)).unwrap();
        folder.add_fence(&"a".into(), fence(1)).unwrap();
        let kept = folder.fences().unwrap();
        assert_eq!(
            kept,
            BTreeMap::from([("a".into(), fence(2)), ("c".into(), fence(1))])
        );
        folder
            .replace_fences(&BTreeMap::from([("c".into(), fence(1))]))
            .unwrap();
        assert_eq!(folder.fences().unwrap().len(), 1);
    }

    #[test]
    fn a_folder_that_is_closed_or_still_fills_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("output");
        fs::create_dir_all(folder.join("closed/deep")).unwrap();
        fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let filling = folder.clone();
        let writer = std::thread::spawn(move || {
            for number in 0..2_000 {
                drop(fs::write(filling.join(format!("{number}")), "x"));
            }
        });
        remove_folder(&folder).unwrap();
        writer.join().unwrap();
        assert!(!folder.exists());
        remove_folder(&folder).unwrap();
    }

    #[test]
    fn names_become_plain_file_names() {
        for (name, expected) in [
            ("a.zip", "a.zip"),
            ("../../etc/passwd", "passwd"),
            ("C:\\x\\my file.tar.gz", "my_file.tar.gz"),
            ("소스.zip", "소스.zip"),
            ("..", "upload"),
            ("-rf", "rf"),
            ("", "upload"),
            ("a\0b\n", "a_b_"),
        ] {
            assert_eq!(file_name(name), expected, "{name}");
        }
        assert!(file_name(&"é".repeat(200)).len() <= 120);
    }

    #[test]
    fn ids_are_plain() {
        for (id, plain) in [
            ("01J-a_B", true),
            ("", false),
            ("a/b", false),
            ("..", false),
            ("é", false),
        ] {
            assert_eq!(plain_id(id), plain, "{id}");
        }
        assert!(!plain_id(&"a".repeat(65)));
    }
}
