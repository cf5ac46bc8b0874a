//! A resumable upload (tus 1.0): what the hub has acknowledged is never sent again, not by a new run either.

use std::collections::VecDeque;
use std::fs;
use std::io::SeekFrom;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::hub::{Hub, good};
use super::progress::Progress;
use crate::outcome::Failure;

/// Bytes of one request: a cut connection costs at most what of it was not yet durable.
const PIECE: u64 = 16 << 20;
/// Bytes read from the file at once.
const READ: usize = 256 << 10;
/// Failures in a row, without a byte of progress, that end the command.
const FAILURES_MAX: u32 = 8;
/// Unfinished uploads that are remembered.
const REMEMBERED: usize = 100;

/// A file to upload.
pub(super) struct Source {
    path: PathBuf,
    /// Its name, as results will show it.
    name: String,
    length: u64,
    /// What tells that the file is still the same: path, length, time of change.
    key: String,
}

impl Source {
    /// Looks at the file.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let cannot =
            |error| Failure::could_not(format!("{} can't be read: {error}", path.display()));
        let metadata = fs::metadata(path).map_err(cannot)?;
        if !metadata.is_file() {
            return Err(Failure::could_not(format!("{} is no file", path.display()))
                .hint("pack a folder first, for example with `tar -czf app.tar.gz app/`, or use `munjigi scan`"));
        }
        if metadata.len() == 0 {
            return Err(Failure::could_not(format!("{} is empty", path.display()))
                .hint("there is nothing to analyse; was it written to its end?"));
        }
        let whole = path.canonicalize().map_err(cannot)?;
        let changed = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .unwrap_or_default();
        Ok(Self {
            name: whole.file_name().map_or_else(
                || "upload".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            ),
            length: metadata.len(),
            key: format!(
                "{} {} {}",
                whole.display(),
                metadata.len(),
                changed.as_nanos()
            ),
            path: whole,
        })
    }
}

/// Uploads `source`; gives the upload's id.
pub(super) async fn upload(hub: &Hub, source: &Source, memory: &Memory) -> Result<String, Failure> {
    let key = format!("{} {}", hub.socket().0, source.key);
    let (place, mut offset) = match resumed(hub, memory, &key).await? {
        Some(resumed) => resumed,
        None => (create(hub, source).await?, 0),
    };
    memory.remember(&key, &place);
    let progress = Progress::new(&source.name, source.length, offset);
    let mut failures = 0;
    while offset < source.length {
        match send_piece(hub, source, &place, offset, &progress).await {
            Ok(reached) => {
                offset = reached;
                failures = 0;
            }
            Err(Piece::Final(failure)) => return Err(failure),
            Err(Piece::Again(failure)) => {
                failures += 1;
                if failures > FAILURES_MAX {
                    return Err(failure.hint("the same command goes on where it stopped"));
                }
                progress.arrived(offset, failures);
                tokio::time::sleep(Duration::from_millis(100 << failures)).await;
                if let Ok(Some(reached)) = offset_of(hub, &place).await {
                    if reached > offset {
                        failures = 0;
                    }
                    offset = reached;
                }
            }
        }
        progress.arrived(offset, failures);
    }
    progress.finish();
    memory.forget(&key);
    Ok(place
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// An upload that an earlier run began, and how much of it the hub has.
async fn resumed(hub: &Hub, memory: &Memory, key: &str) -> Result<Option<(String, u64)>, Failure> {
    let Some(place) = memory.recall(key) else {
        return Ok(None);
    };
    Ok(offset_of(hub, &place).await?.map(|offset| (place, offset)))
}

async fn offset_of(hub: &Hub, place: &str) -> Result<Option<u64>, Failure> {
    let request = hub
        .request(Method::HEAD, place)
        .header("tus-resumable", "1.0.0");
    let response = hub.send(request).await?;
    let offset = response
        .headers()
        .get("upload-offset")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    Ok(offset.filter(|_| response.status().is_success()))
}

async fn create(hub: &Hub, source: &Source) -> Result<String, Failure> {
    let request = hub
        .request(Method::POST, "/api/uploads")
        .header("tus-resumable", "1.0.0")
        .header("upload-length", source.length)
        .header(
            "upload-metadata",
            format!("filename {}", STANDARD.encode(&source.name)),
        );
    let response = good(hub.send(request).await?).await?;
    response
        .headers()
        .get("location")
        .and_then(|place| place.to_str().ok())
        .map(str::to_owned)
        .ok_or_else(|| Failure::could_not("the hub made an upload and did not say where"))
}

/// Why a piece did not arrive.
enum Piece {
    /// Trying again may help.
    Again(Failure),
    Final(Failure),
}

/// Sends at most one piece; gives the offset that the hub acknowledges.
async fn send_piece(
    hub: &Hub,
    source: &Source,
    place: &str,
    offset: u64,
    progress: &Progress,
) -> Result<u64, Piece> {
    let cannot = |error: std::io::Error| {
        Piece::Final(Failure::could_not(format!(
            "{} can't be read: {error}",
            source.path.display()
        )))
    };
    let mut file = File::open(&source.path).await.map_err(cannot)?;
    file.seek(SeekFrom::Start(offset)).await.map_err(cannot)?;
    let length = PIECE.min(source.length - offset);
    let sent = progress.clone();
    let pieces = ReaderStream::with_capacity(file.take(length), READ).inspect(move |read| {
        if let Ok(bytes) = read {
            sent.sent(u64::try_from(bytes.len()).unwrap_or(0));
        }
    });
    let request = hub
        .request(Method::PATCH, place)
        .header("tus-resumable", "1.0.0")
        .header("content-type", "application/offset+octet-stream")
        .header("content-length", length)
        .header("upload-offset", offset)
        .body(reqwest::Body::wrap_stream(pieces));
    let response = request
        .send()
        .await
        .map_err(|error| Piece::Again(hub.unreachable(&error)))?;
    let status = response.status();
    let reached = response
        .headers()
        .get("upload-offset")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    match (status.is_success(), reached) {
        (true, Some(reached)) if reached > offset => Ok(reached),
        (true, _) => Err(Piece::Final(Failure::could_not(
            "the hub did not say how far the upload is",
        ))),
        (false, _) => {
            let failure = super::hub::refused(status, &response.text().await.unwrap_or_default());
            let passing = status.is_server_error() && status != StatusCode::INSUFFICIENT_STORAGE;
            let again = passing
                || matches!(
                    status,
                    StatusCode::CONFLICT
                        | StatusCode::LOCKED
                        | StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::REQUEST_TIMEOUT
                );
            Err(if again {
                Piece::Again(failure)
            } else {
                Piece::Final(failure)
            })
        }
    }
}

/// Where unfinished uploads lie, kept from run to run in a file of the user.
pub(super) struct Memory(Option<PathBuf>);

#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    uploads: VecDeque<(String, String)>,
}

impl Memory {
    /// In the user's state folder; without one, nothing is remembered.
    pub(super) fn of_user() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the binary is where the environment is read"
        )]
        let folder = std::env::var("XDG_STATE_HOME")
            .ok()
            .filter(|folder| folder.starts_with('/'))
            .or_else(|| {
                std::env::var("HOME")
                    .ok()
                    .map(|home| format!("{home}/.local/state"))
            });
        Self(folder.map(|folder| Path::new(&folder).join("munjigi/uploads.json")))
    }

    fn load(&self) -> Remembered {
        self.0
            .as_ref()
            .and_then(|file| fs::read(file).ok())
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// A memory that can't be kept only costs the resumption by a later run, so that its errors are not the user's.
    fn save(&self, remembered: &Remembered) {
        let (Some(file), Ok(text)) = (&self.0, serde_json::to_vec(remembered)) else {
            return;
        };
        let Some(folder) = file.parent() else { return };
        drop(fs::create_dir_all(folder));
        let fresh = file.with_extension(format!("{}", std::process::id()));
        let options = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh);
        if let Ok(mut opened) = options
            && std::io::Write::write_all(&mut opened, &text).is_ok()
        {
            drop(fs::rename(&fresh, file));
        }
    }

    fn recall(&self, key: &str) -> Option<String> {
        let found = self
            .load()
            .uploads
            .into_iter()
            .find(|(known, _)| known == key);
        found.map(|(_, place)| place)
    }

    fn remember(&self, key: &str, place: &str) {
        let mut remembered = self.load();
        remembered.uploads.retain(|(known, _)| known != key);
        remembered
            .uploads
            .push_back((key.to_owned(), place.to_owned()));
        while remembered.uploads.len() > REMEMBERED {
            remembered.uploads.pop_front();
        }
        self.save(&remembered);
    }

    fn forget(&self, key: &str) {
        let mut remembered = self.load();
        remembered.uploads.retain(|(known, _)| known != key);
        self.save(&remembered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_uploads_are_remembered_up_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory(Some(folder.path().join("deep/uploads.json")));
        assert_eq!(memory.recall("a"), None);
        memory.remember("a", "/api/uploads/1");
        memory.remember("a", "/api/uploads/2");
        assert_eq!(memory.recall("a").as_deref(), Some("/api/uploads/2"));
        for n in 0..REMEMBERED {
            memory.remember(&format!("b{n}"), "/x");
        }
        assert_eq!(memory.recall("a"), None);
        memory.forget("b1");
        assert_eq!(memory.recall("b1"), None);
        assert_eq!(memory.recall("b2").as_deref(), Some("/x"));
    }

    #[test]
    fn a_folder_and_an_empty_file_are_no_upload() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Source::open(folder.path()).is_err());
        assert!(Source::open(&folder.path().join("none")).is_err());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = Source::open(&file).err().unwrap();
        assert!(refused.to_string().contains("file is empty"), "{refused}");
        fs::write(&file, "x").unwrap();
        assert!(Source::open(&file).is_ok());
    }
}
