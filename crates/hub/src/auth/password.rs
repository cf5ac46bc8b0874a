//! Passwords: argon2id, on threads that may block, few at a time.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use munjigi_foundation::settings::Secret;
use tokio::sync::Semaphore;

/// Shortest and longest password, in bytes of UTF-8.
pub(super) const LENGTH: std::ops::RangeInclusive<usize> = 8..=1_024;
/// Passwords worked on at once: 19 MiB and some 20 ms each.
const AT_ONCE: usize = 2;
/// Requests that may wait for their turn.
const WAITING_MAX: usize = 64;

/// Why a password could not be judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum PasswordError {
    #[error("too many passwords are being checked")]
    Busy,
    #[error("argon2 failed: {0}")]
    Failed(String),
}

/// Hashes and verifies passwords.
#[derive(Debug, Clone)]
pub(super) struct Passwords {
    waiting: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// A hash of nothing: unknown names take as long as known ones.
    nobody: Arc<str>,
}

impl Passwords {
    /// Makes a hash of nothing, which takes as long as any.
    pub(super) async fn new() -> Result<Self, PasswordError> {
        let mut passwords = Self {
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            nobody: Arc::from(""),
        };
        passwords.nobody = passwords
            .hash(Secret::new("nobody's password"))
            .await?
            .into();
        Ok(passwords)
    }

    /// The PHC string of `password`, with a salt of its own.
    pub(super) async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        self.run(move || {
            Argon2::default()
                .hash_password(password.expose().as_bytes())
                .map(|hash| hash.to_string())
                .map_err(|error| PasswordError::Failed(error.to_string()))
        })
        .await?
    }

    /// True when `password` is the one behind `hash`; without one, false after as long a time.
    pub(super) async fn verify(
        &self,
        password: Secret,
        hash: Option<String>,
    ) -> Result<bool, PasswordError> {
        let nobody = Arc::clone(&self.nobody);
        self.run(move || {
            let known = hash.is_some();
            let hash = hash.as_deref().unwrap_or(&nobody);
            let parsed = PasswordHash::new(hash)
                .map_err(|error| PasswordError::Failed(error.to_string()))?;
            let right = Argon2::default()
                .verify_password(password.expose().as_bytes(), &parsed)
                .is_ok();
            Ok(right && known)
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let waiting = self
            .waiting
            .try_acquire()
            .map_err(|_| PasswordError::Busy)?;
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|_| PasswordError::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        })
        .await;
        drop(waiting);
        done.map_err(|error| PasswordError::Failed(error.to_string()))
    }
}
