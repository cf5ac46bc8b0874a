//! The storage core: rows and files together, whatever protocol speaks to it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use munjigi_events::UserId;
use munjigi_foundation::clock::{Clock, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::disk::{self, Disk, Promise};
use super::error::UploadError;
use super::receive::{self, Append};
use super::slots::Slots;
use crate::settings::Limits;
use crate::store::uploads::{self as rows, Upload, Usage};
use crate::store::{Store, StoreError};

/// How often expired uploads are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How many go in one sweep; the rest in the next.
const SWEEP_MAX: u32 = 1_000;

/// What the uploads need to work.
#[derive(Debug, Clone)]
pub struct UploadsWiring {
    pub store: Store,
    /// Their folder; made when it is missing. Nothing else lies in it.
    pub folder: PathBuf,
    pub clock: Clock,
    pub limits: Limits,
    /// How long an upload that nobody touches and no job needs is kept.
    pub keep: Duration,
    /// Requests in flight and the sweep run here.
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

/// The uploads of all users. Cheap to clone.
#[derive(Clone)]
pub struct Uploads(pub(super) Arc<Inner>);

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Uploads")
            .field(&self.0.wiring.folder)
            .finish()
    }
}

pub(super) struct Inner {
    pub(super) wiring: UploadsWiring,
    pub(super) slots: Slots,
    receiving: Arc<Semaphore>,
    receiving_of: Mutex<HashMap<UserId, u32>>,
    /// The file system can't allocate ahead; learnt at the first reservation.
    counted: AtomicBool,
    pub(super) figures: Figures,
}

/// What the metrics show.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) created: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// A new upload, as a protocol asks for it.
#[derive(Debug, Clone, Default)]
pub(super) struct New {
    pub(super) name: String,
    pub(super) length: Option<u64>,
    pub(super) metadata: String,
    pub(super) sha256: Option<[u8; 32]>,
}

/// Counts one request that receives bytes, until it is dropped.
pub(super) struct Receiving {
    uploads: Uploads,
    user: UserId,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut users = lock(&self.uploads.0.receiving_of);
        if let Some(count) = users.get_mut(&self.user) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs file work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Uploads {
    /// Opens the folder, brings rows and files together after a crash, and starts the sweep of what expired.
    ///
    /// # Errors
    /// When the folder can't be made or read, or the database fails.
    pub async fn start(wiring: UploadsWiring) -> Result<Self, StoreError> {
        let folder = wiring.folder.clone();
        blocking(move || std::fs::create_dir_all(folder))
            .await
            .map_err(|error| StoreError::Database(sqlx::Error::Io(error)))?;
        let receiving = usize::try_from(wiring.limits.receiving).unwrap_or(usize::MAX);
        let uploads = Self(Arc::new(Inner {
            wiring,
            slots: Slots::default(),
            receiving: Arc::new(Semaphore::new(receiving.min(Semaphore::MAX_PERMITS))),
            receiving_of: Mutex::default(),
            counted: AtomicBool::new(false),
            figures: Figures::default(),
        }));
        uploads.reconcile().await?;
        let sweeping = uploads.clone();
        uploads
            .0
            .wiring
            .tasks
            .spawn(async move { sweeping.sweep_on().await });
        Ok(uploads)
    }

    /// The upload `id` of `user`; `None` also when it is somebody else's.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(&self, user: &UserId, id: &str) -> Result<Option<Upload>, StoreError> {
        if !is_id(id) {
            return Ok(None);
        }
        let upload = rows::find(&self.0.wiring.store, id).await?;
        Ok(upload.filter(|upload| upload.user_id == *user))
    }

    /// The newest uploads of `user`, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self, user: &UserId, limit: u32) -> Result<Vec<Upload>, StoreError> {
        rows::list(&self.0.wiring.store, user, limit).await
    }

    /// The bytes of a complete upload and how many there are.
    ///
    /// # Errors
    /// `NotFound` when there is no such file; otherwise what the disk says.
    pub async fn open(&self, id: &str) -> io::Result<(tokio::fs::File, u64)> {
        if !is_id(id) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = tokio::fs::File::open(disk::path(&self.0.wiring.folder, id)).await?;
        let length = file.metadata().await?.len();
        Ok((file, length))
    }

    /// Removes row and file, unless a job needs the upload; true when it is gone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove(&self, id: &str) -> Result<bool, StoreError> {
        if !is_id(id) {
            return Ok(true);
        }
        let row = id.to_owned();
        let removed = self
            .0
            .wiring
            .store
            .write(move |tx| Box::pin(async move { rows::delete_unused(tx, &row).await }))
            .await?;
        if !removed {
            return Ok(rows::find(&self.0.wiring.store, id).await?.is_none());
        }
        self.0.figures.removed.fetch_add(1, Ordering::Relaxed);
        self.remove_file(id).await;
        self.0.slots.forget(id);
        Ok(true)
    }

    /// Removes what `user` has and no job needs: the user is gone.
    pub(crate) async fn remove_all_of(&self, user: &UserId) -> Result<(), StoreError> {
        for id in rows::unused_of(&self.0.wiring.store, user).await? {
            drop(self.0.slots.take(&id).await);
            self.remove(&id).await?;
        }
        Ok(())
    }

    /// A file that can't be removed now goes at the next start: its row is gone.
    async fn remove_file(&self, id: &str) {
        let (folder, name) = (self.0.wiring.folder.clone(), id.to_owned());
        if let Err(error) = blocking(move || disk::remove(&folder, &name)).await {
            tracing::warn!(upload = id, %error, "an upload's file could not be removed");
        }
    }

    /// Makes a new upload: disk reserved, row written.
    pub(super) async fn create(&self, user: &UserId, new: New) -> Result<Upload, UploadError> {
        let wiring = &self.0.wiring;
        if new
            .length
            .is_some_and(|length| length > wiring.limits.upload.bytes())
        {
            return Err(UploadError::TooLarge(wiring.limits.upload));
        }
        let now = wiring.clock.now();
        let upload = Upload {
            id: ulid::Ulid::generate().to_string().to_ascii_lowercase(),
            user_id: user.clone(),
            name: new.name,
            length: new.length,
            received: 0,
            complete: false,
            sha256: None,
            blake3: None,
            expected_sha256: new.sha256,
            used: 0,
            metadata: new.metadata,
            created_at: now,
            expires_at: now.plus(wiring.keep),
        };
        self.reserve(&upload).await?;
        match self.insert(&upload).await {
            Ok(()) => {}
            Err(error) => {
                self.remove_file(&upload.id).await;
                return Err(error);
            }
        }
        self.0.figures.created.fetch_add(1, Ordering::Relaxed);
        if upload.length == Some(0) {
            return self.finish_if_whole(upload).await;
        }
        Ok(upload)
    }

    /// Reserves the disk: the watermark must stay free.
    async fn reserve(&self, upload: &Upload) -> Result<(), UploadError> {
        let wiring = &self.0.wiring;
        let mut needed = upload.length.unwrap_or(0);
        if self.0.counted.load(Ordering::Relaxed) {
            needed = needed.saturating_add(rows::usage(&wiring.store).await?.missing);
        }
        let (folder, id, length) = (wiring.folder.clone(), upload.id.clone(), upload.length);
        let stays_free = wiring.limits.disk_free;
        let made = blocking(move || {
            let disk = disk::disk(&folder, stays_free)?;
            if disk.free < needed.saturating_add(disk.watermark) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk::create(&folder, &id, length)
        });
        match made.await.map_err(UploadError::from_io)? {
            Promise::Allocated => {}
            Promise::Counted => self.0.counted.store(true, Ordering::Relaxed),
        }
        Ok(())
    }

    /// Writes the row, unless that breaks the user's quota; judged inside the transaction.
    async fn insert(&self, upload: &Upload) -> Result<(), UploadError> {
        let limits = self.0.wiring.limits;
        let row = upload.clone();
        let refused = self
            .0
            .wiring
            .store
            .write(move |tx| {
                Box::pin(async move {
                    let usage = rows::usage_of(tx, &row.user_id).await?;
                    let refused = over_quota(usage, &row, &limits);
                    if refused.is_none() {
                        rows::insert(tx, &row).await?;
                    }
                    Ok(refused)
                })
            })
            .await?;
        refused.map_or(Ok(()), Err)
    }

    /// Where the upload stands. Whoever writes to it is asked to stop, so that the answer stays true.
    pub(super) async fn status(&self, user: &UserId, id: &str) -> Result<Upload, UploadError> {
        self.known(user, id).await?;
        let turn = self.0.slots.take(id).await.ok_or(UploadError::Locked)?;
        let upload = self.known(user, id).await?;
        drop(turn);
        self.finish_if_whole(upload).await
    }

    /// Removes an upload for its user.
    pub(super) async fn terminate(&self, user: &UserId, id: &str) -> Result<(), UploadError> {
        self.known(user, id).await?;
        let turn = self.0.slots.take(id).await.ok_or(UploadError::Locked)?;
        let gone = self.remove(id).await?;
        drop(turn);
        self.0.slots.forget(id);
        if gone {
            Ok(())
        } else {
            Err(UploadError::InUse)
        }
    }

    /// Appends what `body` holds. Runs to its end even when the caller is dropped: a client that vanishes keeps what
    /// came.
    pub(super) async fn append(
        &self,
        user: &UserId,
        id: &str,
        append: Append,
        body: axum::body::Body,
    ) -> Result<Upload, UploadError> {
        let receiving = self.receiving(user)?;
        let (uploads, user, id) = (self.clone(), user.clone(), id.to_owned());
        let running = self.0.wiring.tasks.spawn(async move {
            let outcome = receive::append(&uploads, &user, &id, append, body).await;
            drop(receiving);
            outcome
        });
        running
            .await
            .unwrap_or_else(|error| Err(UploadError::Io(io::Error::other(error))))
    }

    fn receiving(&self, user: &UserId) -> Result<Receiving, UploadError> {
        let limits = &self.0.wiring.limits;
        let permit = Arc::clone(&self.0.receiving)
            .try_acquire_owned()
            .map_err(|_| UploadError::Busy(limits.receiving))?;
        let mut users = lock(&self.0.receiving_of);
        let count = users.entry(user.clone()).or_insert(0);
        if *count >= limits.receiving_user {
            return Err(UploadError::Busy(limits.receiving_user));
        }
        *count += 1;
        drop(users);
        Ok(Receiving {
            uploads: self.clone(),
            user: user.clone(),
            _permit: permit,
        })
    }

    /// The upload when it is `user`'s and has not expired.
    pub(super) async fn known(&self, user: &UserId, id: &str) -> Result<Upload, UploadError> {
        let upload = self.get(user, id).await?.ok_or(UploadError::NotFound)?;
        if upload.used == 0 && upload.expires_at <= self.0.wiring.clock.now() {
            return Err(UploadError::Expired);
        }
        Ok(upload)
    }

    /// An upload all of whose bytes are there is complete, also when a crash came between.
    pub(super) async fn finish_if_whole(&self, upload: Upload) -> Result<Upload, UploadError> {
        if upload.complete || upload.length != Some(upload.received) {
            return Ok(upload);
        }
        let turn = self
            .0
            .slots
            .take(&upload.id)
            .await
            .ok_or(UploadError::Locked)?;
        let finished = receive::finish(self, upload.clone(), turn).await;
        self.0.slots.forget(&upload.id);
        finished
    }

    /// How long until it expires.
    pub(super) fn left(&self, upload: &Upload) -> Duration {
        upload.expires_at.since(self.0.wiring.clock.now())
    }

    pub(super) fn expiry(&self) -> Timestamp {
        self.0.wiring.clock.now().plus(self.0.wiring.keep)
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.0.figures
    }

    /// Requests that receive bytes now.
    pub(crate) fn receiving_now(&self) -> u64 {
        let free = self.0.receiving.available_permits();
        u64::from(self.0.wiring.limits.receiving)
            .saturating_sub(u64::try_from(free).unwrap_or(u64::MAX))
    }

    pub(crate) async fn usage(&self) -> Result<Usage, StoreError> {
        rows::usage(&self.0.wiring.store).await
    }

    /// The disk of the uploads.
    pub(crate) async fn disk(&self) -> io::Result<Disk> {
        let folder = self.0.wiring.folder.clone();
        let stays_free = self.0.wiring.limits.disk_free;
        blocking(move || disk::disk(&folder, stays_free)).await
    }

    /// The limits, for those who show them.
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.wiring.limits
    }

    async fn sweep_on(&self) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.wiring.shutdown.cancelled() => return,
                _ = every.tick() => {}
            }
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "expired uploads could not be removed");
            }
        }
    }

    /// Removes what expired and no job needs.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        let wiring = &self.0.wiring;
        for id in rows::expired(&wiring.store, wiring.clock.now(), SWEEP_MAX).await? {
            // A writer that is at work touches the row at its next checkpoint; judged again once it has stopped.
            let Some(turn) = self.0.slots.take(&id).await else {
                continue;
            };
            let row = rows::find(&wiring.store, &id).await?;
            if row.is_some_and(|row| row.expires_at <= wiring.clock.now())
                && self.remove(&id).await?
            {
                tracing::info!(upload = id, "an upload has expired and was removed");
            }
            drop(turn);
            self.0.slots.forget(&id);
        }
        Ok(())
    }

    /// After a crash: files without a row go, rows without their bytes go too.
    async fn reconcile(&self) -> Result<(), StoreError> {
        let wiring = &self.0.wiring;
        let uploads = rows::all(&wiring.store).await?;
        let known: BTreeSet<String> = uploads.iter().map(|upload| upload.id.clone()).collect();
        let folder = wiring.folder.clone();
        let files = blocking(move || files(&folder, &known))
            .await
            .map_err(|error| StoreError::Database(sqlx::Error::Io(error)))?;
        for upload in uploads {
            let there = files.get(&upload.id).copied();
            if there.is_some_and(|length| length >= upload.received) {
                continue;
            }
            tracing::error!(
                upload = upload.id,
                acknowledged = upload.received,
                there,
                "an upload lost its bytes"
            );
            self.remove(&upload.id).await?;
        }
        Ok(())
    }
}

/// Removes files that nobody knows; gives the lengths of the others.
fn files(folder: &Path, known: &BTreeSet<String>) -> io::Result<HashMap<String, u64>> {
    let mut lengths = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if known.contains(&name) {
            lengths.insert(name, entry.metadata()?.len());
        } else if entry.file_type()?.is_file() {
            tracing::info!(file = name, "a file without an upload was removed");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(lengths)
}

fn over_quota(usage: Usage, upload: &Upload, limits: &Limits) -> Option<UploadError> {
    if usage.uploads >= u64::from(limits.user_uploads) {
        return Some(UploadError::TooMany(limits.user_uploads));
    }
    let bytes = usage.bytes.saturating_add(upload.length.unwrap_or(0));
    (bytes > limits.user.bytes()).then_some(UploadError::Quota(limits.user))
}

/// Ids are made here: anything else names no upload, and never a file.
fn is_id(id: &str) -> bool {
    id.len() == 26
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}
