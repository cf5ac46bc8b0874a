//! Results: fetched from workers, verified, stored, asked for.
//!
//! A result is kept as the worker packed it (`NAME.tar.zst`) and, beside it, as its `NAME.parts`: the members that the
//! face reads, one after the other, so that nothing is ever unpacked to a path that a worker named. Places in the
//! parts are rows of the database.

mod api;
mod archive;
mod coverage;
mod sarif;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use munjigi_events::{AnalysisId, EventId};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Place;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::store::jobs::Held;
use crate::store::results::Index;

use crate::jobs::ResultLimits as Limits;
pub(crate) use api::router;

/// Parts written at once.
const CHUNK: usize = 1 << 20;

/// Why a result was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResultError {
    /// The way was cut: it is fetched again.
    #[error("the result was cut: {0}")]
    Cut(String),
    /// The worker's fault: fetching it again changes nothing.
    #[error("the result can't be used: {0}")]
    Bad(String),
    /// Ours.
    #[error("the result can't be stored: {0}")]
    Storage(String),
    /// Nobody wants it any more.
    #[error("the result is not wanted any more")]
    Stopped,
}

impl From<io::Error> for ResultError {
    fn from(error: io::Error) -> Self {
        Self::Storage(error.to_string())
    }
}

impl From<object_store::Error> for ResultError {
    fn from(error: object_store::Error) -> Self {
        Self::Storage(error.to_string())
    }
}

/// Where results are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Results {
    objects: Arc<dyn ObjectStore>,
    /// Files on their way in; emptied at each start.
    incoming: PathBuf,
    limits: Limits,
}

/// The name of a result: its attempt is a part of it, so that what an older one left can be removed while a newer one
/// is stored.
pub(crate) fn name(job: &EventId, analysis: &AnalysisId, attempt: u32) -> String {
    format!("{job}/{analysis}.{attempt}")
}

fn archive_of(name: &str) -> Place {
    Place::from(format!("{name}.tar.zst"))
}

fn parts_of(name: &str) -> Place {
    Place::from(format!("{name}.parts"))
}

impl Results {
    /// Opens the store in `folder`.
    ///
    /// # Errors
    /// When the folder can't be made or read.
    pub(crate) fn open(folder: &Path, limits: Limits) -> io::Result<Self> {
        let kept = folder.join("kept");
        let incoming = folder.join("incoming");
        std::fs::create_dir_all(&kept)?;
        match std::fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&incoming)?,
        }
        let objects = LocalFileSystem::new_with_prefix(kept)
            .map_err(io::Error::other)?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        Ok(Self {
            objects: Arc::new(objects),
            incoming,
            limits,
        })
    }

    /// Takes a result from its worker: verified by digest, size, entries and ratio, then stored under `name`.
    pub(crate) async fn take(
        &self,
        name: &str,
        answer: reqwest::Response,
        stop: &CancellationToken,
    ) -> Result<(Held, Index), ResultError> {
        let folder = tempfile_in(&self.incoming)?;
        let archive = folder.join("archive");
        let outcome = async {
            let received = stop.run_until_cancelled(self.receive(&archive, answer));
            let held = received.await.ok_or(ResultError::Stopped)??;
            let (reading, parts, limits) = (archive.clone(), folder.join("parts"), self.limits);
            let parts_file = parts.clone();
            let index =
                tokio::task::spawn_blocking(move || archive::read(&reading, &parts_file, &limits))
                    .await
                    .map_err(|error| ResultError::Storage(error.to_string()))??;
            self.put(&parts_of(name), &parts).await?;
            self.put(&archive_of(name), &archive).await?;
            Ok((held, index))
        }
        .await;
        if let Err(error) = tokio::fs::remove_dir_all(&folder).await {
            tracing::warn!(%error, "a folder for a result on its way can't be removed");
        }
        outcome
    }

    async fn receive(
        &self,
        file: &Path,
        mut answer: reqwest::Response,
    ) -> Result<Held, ResultError> {
        let wanted = digest(answer.headers())
            .ok_or_else(|| ResultError::Bad("it has no Repr-Digest with sha-256".to_owned()))?;
        let too_large = || {
            let most = self.limits.archive_bytes;
            ResultError::Bad(format!("it is larger than {most} bytes"))
        };
        if answer.content_length() > Some(self.limits.archive_bytes) {
            return Err(too_large());
        }
        let mut out = tokio::fs::File::create(file).await?;
        let mut hash = Sha256::new();
        let mut size = 0_u64;
        loop {
            let chunk = tokio::time::timeout(self.limits.idle, answer.chunk()).await;
            let chunk = match chunk {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(error)) => return Err(ResultError::Cut(error.without_url().to_string())),
                Err(_) => return Err(ResultError::Cut("nothing came for long".to_owned())),
            };
            let Some(chunk) = chunk else { break };
            size += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if size > self.limits.archive_bytes {
                return Err(too_large());
            }
            hash.update(&chunk);
            out.write_all(&chunk).await?;
        }
        out.flush().await?;
        let sha256: [u8; 32] = hash.finalize().into();
        if sha256.as_slice() != wanted {
            return Err(ResultError::Bad(
                "its bytes are not those that Repr-Digest names".to_owned(),
            ));
        }
        Ok(Held { sha256, size })
    }

    async fn put(&self, place: &Place, file: &Path) -> Result<(), ResultError> {
        let upload = self.objects.put_multipart(place).await?;
        let mut writer = WriteMultipart::new(upload);
        let mut file = tokio::fs::File::open(file).await?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = file.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            writer.wait_for_capacity(2).await?;
            writer.write(buffer.get(..read).unwrap_or_default());
        }
        writer.finish().await?;
        Ok(())
    }

    /// Removes a result; one that is not there is removed.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), ResultError> {
        for place in [archive_of(name), parts_of(name)] {
            match self.objects.delete(&place).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Bytes of a result's parts.
    pub(crate) async fn part(
        &self,
        name: &str,
        start: u64,
        length: u64,
    ) -> Result<Bytes, ResultError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let range = start..start.saturating_add(length);
        Ok(self.objects.get_range(&parts_of(name), range).await?)
    }

    /// The same, as a stream.
    pub(crate) async fn part_stream(
        &self,
        name: &str,
        start: u64,
        length: u64,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, ResultError> {
        self.stream(&parts_of(name), start, length).await
    }

    /// A part of the archive, as a stream.
    pub(crate) async fn archive_stream(
        &self,
        name: &str,
        start: u64,
        length: u64,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, ResultError> {
        self.stream(&archive_of(name), start, length).await
    }

    async fn stream(
        &self,
        place: &Place,
        start: u64,
        length: u64,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, ResultError> {
        if length == 0 {
            return Ok(futures_util::stream::empty().boxed());
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(start..start.saturating_add(length))),
            ..GetOptions::default()
        };
        let got = self.objects.get_opts(place, options).await?;
        Ok(got
            .into_stream()
            .map(|chunk| chunk.map_err(io::Error::other))
            .boxed())
    }
}

fn tempfile_in(folder: &Path) -> io::Result<PathBuf> {
    let made = folder.join(ulid::Ulid::generate().to_string());
    std::fs::create_dir(&made)?;
    Ok(made)
}

/// The `sha-256` of a `Repr-Digest` field (RFC 9530 §3).
fn digest(headers: &reqwest::header::HeaderMap) -> Option<Vec<u8>> {
    headers
        .get_all("repr-digest")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|member| member.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("sha-256"))
        .and_then(|(_, value)| STANDARD.decode(value.trim_matches(':')).ok())
        .filter(|digest| digest.len() == 32)
}
