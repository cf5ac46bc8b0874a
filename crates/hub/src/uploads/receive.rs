//! One request's bytes on their way to disk.

use std::io;
use std::sync::atomic::Ordering;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use munjigi_events::UserId;

use super::digest::{Checksum, Digests};
use super::disk::{self, Tail};
use super::error::UploadError;
use super::slots::Turn;
use super::storage::{Uploads, blocking};
use crate::store::uploads::{self as rows, Upload};

/// Bytes gathered before a thread writes them.
const BATCH: usize = 1 << 20;
/// Bytes after which they are put on disk and acknowledged in the row.
const CHECKPOINT: u64 = 32 << 20;

/// What a request says of the bytes it brings.
pub(super) struct Append {
    /// Where they begin.
    pub(super) offset: u64,
    /// Length of the whole upload, when this request says it.
    pub(super) length: Option<u64>,
    /// `Content-Length`, when there is one.
    pub(super) body: Option<u64>,
    /// The upload ends where this request ends, whatever its length (`Upload-Complete: ?1`).
    pub(super) last: bool,
    pub(super) checksum: Option<Checksum>,
    /// SHA-256 of the whole upload.
    pub(super) sha256: Option<[u8; 32]>,
}

/// Why no more bytes came.
enum End {
    Whole,
    Error(fn(u64) -> UploadError),
    Idle,
    TooLong,
    Failed(UploadError),
}

/// Appends `body` to the upload; see [`Uploads::append`].
pub(super) async fn append(
    uploads: &Uploads,
    user: &UserId,
    id: &str,
    append: Append,
    body: Body,
) -> Result<Upload, UploadError> {
    uploads.known(user, id).await?;
    let mut turn = uploads.0.slots.take(id).await.ok_or(UploadError::Locked)?;
    let mut upload = uploads.known(user, id).await?;
    if upload.complete {
        return again(upload, &append);
    }
    if append.offset != upload.received {
        return Err(UploadError::Offset {
            expected: upload.received,
            provided: append.offset,
            length: upload.length,
        });
    }
    announce(uploads, &mut upload, &append).await?;
    let tail = open(uploads, &upload, turn.digests.clone()).await?;
    let receiving = Receiving {
        uploads,
        most: upload.length.unwrap_or(uploads.limits().upload.bytes()),
        upload: &mut upload,
        tail: Some(tail),
        safe: None,
    };
    let outcome = receiving.run(append, body, &mut turn).await;
    let done = match outcome {
        Ok(true) => finish(uploads, upload, turn).await,
        Ok(false) => Ok(upload),
        Err(error) => Err(error),
    };
    if done.as_ref().is_ok_and(|upload| upload.complete) {
        uploads.0.slots.forget(id);
    }
    done
}

/// The same last request once more is fine: its first answer may have been lost.
fn again(upload: Upload, append: &Append) -> Result<Upload, UploadError> {
    if append.offset == upload.received && append.body == Some(0) {
        return Ok(upload);
    }
    Err(UploadError::Complete {
        length: upload.received,
    })
}

/// Judges what the request announces before a byte is read.
async fn announce(
    uploads: &Uploads,
    upload: &mut Upload,
    append: &Append,
) -> Result<(), UploadError> {
    let limits = uploads.limits();
    let end = append.body.map(|body| append.offset.saturating_add(body));
    let length = append.length.or(end.filter(|_| append.last));
    if let (Some(announced), Some(now)) = (upload.length, length)
        && announced != now
    {
        return Err(UploadError::Length { announced, now });
    }
    if let Some(now) = length.filter(|length| *length < upload.received) {
        return Err(UploadError::Length {
            announced: upload.received,
            now,
        });
    }
    let most = upload.length.or(length);
    if let (Some(announced), Some(now)) = (most, end)
        && now > announced
    {
        return Err(UploadError::Beyond { length: announced });
    }
    if most
        .or(end)
        .is_some_and(|most| most > limits.upload.bytes())
    {
        return Err(UploadError::TooLarge(limits.upload));
    }
    if let (None, Some(length)) = (upload.length, append.length) {
        let id = upload.id.clone();
        let set = uploads
            .0
            .wiring
            .store
            .write(move |tx| Box::pin(async move { rows::set_length(tx, &id, length).await }))
            .await?;
        if !set {
            return Err(UploadError::NotFound);
        }
        upload.length = Some(length);
    }
    if append.sha256.is_some() {
        upload.expected_sha256 = append.sha256;
    }
    Ok(())
}

async fn open(
    uploads: &Uploads,
    upload: &Upload,
    digests: Option<Digests>,
) -> Result<Tail, UploadError> {
    let folder = uploads.0.wiring.folder.clone();
    let (id, offset) = (upload.id.clone(), upload.received);
    blocking(move || Tail::open(&folder, &id, offset, digests))
        .await
        .map_err(UploadError::from_io)
}

/// A request in flight.
struct Receiving<'u> {
    uploads: &'u Uploads,
    upload: &'u mut Upload,
    /// Away only while a thread works on it; gone for good when that failed.
    tail: Option<Tail>,
    /// The digests at the last acknowledged offset.
    safe: Option<Digests>,
    /// The upload may not grow beyond it.
    most: u64,
}

impl Receiving<'_> {
    /// Receives to the end; true when the upload is whole. What was acknowledged is in the row, whatever happens.
    async fn run(
        mut self,
        append: Append,
        body: Body,
        turn: &mut Turn,
    ) -> Result<bool, UploadError> {
        let checked = append.checksum.is_some();
        if let Some(tail) = &mut self.tail {
            self.safe = Some(tail.digests.clone());
            tail.checksum = append.checksum;
        }
        let end = self.receive(body, turn, checked).await;
        let matched = self.matched();
        if let End::Failed(_) = end {
            self.give_back().await;
        }
        let mut outcome = match end {
            End::Whole if checked && !matched => Err(UploadError::Checksum),
            End::Failed(error) => Err(error),
            // Nothing of a request with a checksum counts before it was verified.
            other if checked && !matches!(other, End::Whole) => Err(self.ended(&other)),
            other => self.checkpoint().await.and_then(|()| match other {
                End::Whole => Ok(()),
                other => Err(self.ended(&other)),
            }),
        };
        if outcome.is_ok() && append.last && self.upload.length.is_none() {
            outcome = self.close_length().await;
        }
        *turn.digests = self.safe.take();
        outcome.map(|()| self.upload.length == Some(self.upload.received))
    }

    /// On a full disk, bytes that nobody was told of must not keep others, the database too, from working. What was
    /// reserved for a known length stays.
    async fn give_back(&self) {
        if self.upload.length.is_some() {
            return;
        }
        let folder = self.uploads.0.wiring.folder.clone();
        let (id, end) = (self.upload.id.clone(), self.upload.received);
        if let Err(error) = blocking(move || disk::cut(&folder, &id, end)).await {
            tracing::warn!(upload = self.upload.id, %error, "an upload's file could not be cut");
        }
    }

    fn matched(&mut self) -> bool {
        let checksum = self.tail.as_mut().and_then(|tail| tail.checksum.take());
        checksum.is_some_and(Checksum::matches)
    }

    /// What the client is told when its request did not end well.
    fn ended(&self, end: &End) -> UploadError {
        let offset = self.upload.received;
        match end {
            End::Error(error) => error(offset),
            End::Idle => UploadError::Idle {
                offset,
                seconds: self.uploads.limits().idle.as_secs(),
            },
            End::TooLong if self.upload.length.is_none() => {
                UploadError::TooLarge(self.uploads.limits().upload)
            }
            End::TooLong | End::Whole | End::Failed(_) => UploadError::Beyond { length: self.most },
        }
    }

    /// Reads the body to its end and writes it batch by batch.
    async fn receive(&mut self, mut body: Body, turn: &mut Turn, checked: bool) -> End {
        let idle = self.uploads.limits().idle;
        let shutdown = self.uploads.0.wiring.shutdown.clone();
        let mut batch: Vec<Bytes> = Vec::new();
        let mut gathered = 0_usize;
        let mut end = self.upload.received;
        let ended = loop {
            let frame = tokio::select! {
                biased;
                () = turn.wanted() => break End::Error(|offset| UploadError::Interrupted { offset }),
                () = shutdown.cancelled() => break End::Error(|offset| UploadError::Shutdown { offset }),
                frame = tokio::time::timeout(idle, body.frame()) => frame,
            };
            let frame = match frame {
                Err(_) => break End::Idle,
                Ok(None) => break End::Whole,
                Ok(Some(Err(_))) => break End::Error(|offset| UploadError::Cut { offset }),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers say nothing that is understood here.
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            end = end.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            if end > self.most {
                break End::TooLong;
            }
            gathered += bytes.len();
            batch.push(bytes);
            if gathered >= BATCH {
                gathered = 0;
                if let Err(error) = self.push(std::mem::take(&mut batch), checked).await {
                    return End::Failed(error);
                }
            }
        };
        match self.push(batch, true).await {
            Ok(()) => ended,
            Err(error) => End::Failed(error),
        }
    }

    /// Writes `batch`; with enough of it on the way, it is put on disk and acknowledged (unless a checksum must be
    /// judged first).
    async fn push(&mut self, batch: Vec<Bytes>, hold: bool) -> Result<(), UploadError> {
        if batch.is_empty() {
            return Ok(());
        }
        let count: usize = batch.iter().map(Bytes::len).sum();
        self.on_tail(move |tail| tail.push(&batch)).await?;
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.uploads
            .0
            .figures
            .bytes
            .fetch_add(count, Ordering::Relaxed);
        let waiting = self
            .tail
            .as_ref()
            .map_or(0, |tail| tail.written - tail.durable);
        if waiting < CHECKPOINT || hold {
            return Ok(());
        }
        self.check_disk().await?;
        self.checkpoint().await
    }

    /// Puts what came on disk, then says so in the row.
    async fn checkpoint(&mut self) -> Result<(), UploadError> {
        self.on_tail(Tail::sync).await?;
        let Some(tail) = &self.tail else {
            return Ok(());
        };
        let (received, digests) = (tail.durable, tail.digests.clone());
        let (id, expiry) = (self.upload.id.clone(), self.uploads.expiry());
        let there = self
            .uploads
            .0
            .wiring
            .store
            .write(move |tx| {
                Box::pin(async move { rows::advance(tx, &id, received, expiry).await })
            })
            .await?;
        if !there {
            return Err(UploadError::NotFound);
        }
        self.upload.received = received;
        self.upload.expires_at = expiry;
        self.safe = Some(digests);
        Ok(())
    }

    /// An upload without a length has nothing reserved: the watermark is looked at while it grows.
    async fn check_disk(&self) -> Result<(), UploadError> {
        if self.upload.length.is_some() {
            return Ok(());
        }
        let disk = self.uploads.disk().await?;
        if disk.free < disk.watermark {
            return Err(UploadError::NoSpace);
        }
        Ok(())
    }

    /// The last request of an upload whose length was never said says it by ending.
    async fn close_length(&mut self) -> Result<(), UploadError> {
        let (id, length) = (self.upload.id.clone(), self.upload.received);
        self.uploads
            .0
            .wiring
            .store
            .write(move |tx| Box::pin(async move { rows::set_length(tx, &id, length).await }))
            .await?;
        self.upload.length = Some(length);
        Ok(())
    }

    async fn on_tail(
        &mut self,
        work: impl FnOnce(&mut Tail) -> io::Result<()> + Send + 'static,
    ) -> Result<(), UploadError> {
        let Some(mut tail) = self.tail.take() else {
            return Err(UploadError::Io(io::Error::other(
                "the file was closed after a failure",
            )));
        };
        let tail = blocking(move || {
            work(&mut tail)?;
            Ok(tail)
        });
        self.tail = Some(tail.await.map_err(UploadError::from_io)?);
        Ok(())
    }
}

/// All bytes are there: digests verified and written with the row.
pub(super) async fn finish(
    uploads: &Uploads,
    mut upload: Upload,
    mut turn: Turn,
) -> Result<Upload, UploadError> {
    let mut tail = open(uploads, &upload, turn.digests.take()).await?;
    let (sha256, blake3) = blocking(move || tail.finish())
        .await
        .map_err(UploadError::from_io)?;
    if upload
        .expected_sha256
        .is_some_and(|expected| expected != sha256)
    {
        uploads.remove(&upload.id).await?;
        return Err(UploadError::Digest);
    }
    let (id, length, expiry) = (upload.id.clone(), upload.received, uploads.expiry());
    let there = uploads
        .0
        .wiring
        .store
        .write(move |tx| {
            Box::pin(async move { rows::complete(tx, &id, length, sha256, blake3, expiry).await })
        })
        .await?;
    drop(turn);
    if !there {
        return Err(UploadError::NotFound);
    }
    uploads.0.figures.completed.fetch_add(1, Ordering::Relaxed);
    upload.complete = true;
    upload.length = Some(length);
    upload.sha256 = Some(sha256);
    upload.blake3 = Some(blake3);
    upload.expires_at = expiry;
    Ok(upload)
}
