//! Users and how they get in: links, passwords, sessions, tokens.

mod backoff;
mod http;
mod password;
mod secret;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use munjigi_events::UserId;
use munjigi_foundation::api;
use munjigi_foundation::clock::{Clock, Timestamp};
use munjigi_foundation::settings::Secret;
use tokio_util::sync::CancellationToken;

use self::backoff::Backoff;
use self::password::{PasswordError, Passwords};
use crate::store::users::{self as rows, CredentialRow, Hash, Link, TokenRow, UserRow};
use crate::store::{Store, StoreError};
use crate::user::User;
pub(crate) use http::router;

/// The name of the user made at the first start.
const FIRST_USER: &str = "admin";
/// The session's cookie.
pub(crate) const COOKIE: &str = "munjigi_session";
/// Tells the gate that a sign-in failed; the gate counts it and removes it.
pub(crate) const SIGN_IN_HEADER: &str = "munjigi-sign-in";
/// Sessions of one user; beyond, the oldest ends.
const SESSIONS_MAX: u32 = 50;
/// Tokens of one user.
const TOKENS_MAX: u32 = 100;
/// How often the last use of a token or session is written down.
const USE_EVERY: Duration = Duration::from_secs(300);
/// How often what expired is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// The longest name of a user or a token, in bytes.
const NAME_MAX: usize = 64;

/// How a request is signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential {
    Session(Hash),
    Token(Hash),
}

/// Who asks, and how they got in.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) user: User,
    pub(crate) by: Credential,
}

/// Why somebody is not let in, or a change of users is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// Name or password is wrong: never says which.
    #[error("the name or the password is wrong")]
    Wrong,
    #[error("too many wrong passwords, wait {} s", .0.as_secs().max(1))]
    Wait(Duration),
    #[error("this link is not known")]
    UnknownLink,
    #[error("this link was used before or is too old")]
    SpentLink,
    #[error("too many sign-ins at once")]
    Busy,
    #[error("{0}")]
    Invalid(String),
    #[error("there is a user of that name")]
    Taken,
    #[error("there are {0} users, the most this hub keeps")]
    Full(u32),
    #[error("you have {TOKENS_MAX} tokens, the most one user may keep")]
    TooManyTokens,
    #[error("the first user can't be removed")]
    FirstUser,
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("the password was changed by somebody else meanwhile")]
    Changed,
    #[error("the machine gave no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    #[error("a password could not be checked: {0}")]
    Password(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PasswordError> for AuthError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::Busy,
            PasswordError::Failed(why) => Self::Password(why),
        }
    }
}

/// What is told when a user is removed: their jobs end too.
pub(crate) type Removed = tokio::sync::Notify;

/// The door. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auth(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    session: Duration,
    users_max: u32,
    passwords: Passwords,
    backoff: Mutex<Backoff>,
    /// What long answers of each session and token end by. Bounded by the rows: what ended is taken out.
    live: Mutex<HashMap<Hash, CancellationToken>>,
    removed: Removed,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A door that does not keep the database open.
#[derive(Clone)]
pub(crate) struct WeakAuth(Weak<Inner>);

impl fmt::Debug for WeakAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakAuth")
    }
}

impl WeakAuth {
    /// The door, while the hub runs.
    pub(crate) fn upgrade(&self) -> Result<Auth, AuthError> {
        let inner = self.0.upgrade().ok_or(StoreError::Closed)?;
        Ok(Auth(inner))
    }
}

impl Auth {
    /// The same door, for who outlives the hub.
    pub(crate) fn downgrade(&self) -> WeakAuth {
        WeakAuth(Arc::downgrade(&self.0))
    }

    /// Makes the first user when there is none.
    pub(crate) async fn start(
        store: Store,
        clock: Clock,
        session: Duration,
        users_max: u32,
    ) -> Result<Self, AuthError> {
        if rows::first(&store).await?.is_none() {
            let (id, now) = (new_id(), clock.now());
            let made = store.write(move |tx| {
                Box::pin(async move { rows::insert(tx, &id, FIRST_USER, true, now).await })
            });
            made.await?;
        }
        let passwords = Passwords::new().await?;
        Ok(Self(Arc::new(Inner {
            store,
            clock,
            session,
            users_max,
            passwords,
            backoff: Mutex::default(),
            live: Mutex::default(),
            removed: Removed::new(),
        })))
    }

    /// Who sent a request with these headers; `None` when nobody is signed in by them.
    ///
    /// A token counts before a cookie: who sends one means it.
    pub(crate) async fn who(&self, headers: &HeaderMap) -> Result<Option<Signed>, StoreError> {
        if headers.contains_key(header::AUTHORIZATION) {
            let hash = api::bearer(headers).and_then(secret::hash);
            return match hash {
                Some(hash) => self.signed(Credential::Token(hash)).await,
                None => Ok(None),
            };
        }
        match cookie(headers).and_then(secret::hash) {
            Some(hash) => self.signed(Credential::Session(hash)).await,
            None => Ok(None),
        }
    }

    async fn signed(&self, by: Credential) -> Result<Option<Signed>, StoreError> {
        let inner = &self.0;
        let hash = by.hash();
        // Taken before the row is read: whoever ends the session later finds it and cancels it.
        let signed_out = lock(&inner.live).entry(hash).or_default().clone();
        let row = match by {
            Credential::Session(hash) => rows::session(&inner.store, &hash).await?,
            Credential::Token(hash) => rows::token(&inner.store, &hash).await?,
        };
        let now = inner.clock.now();
        let Some(row) = row.filter(|row| row.expires_at.is_none_or(|end| end > now)) else {
            self.end(&[hash]);
            return Ok(None);
        };
        self.touch(by, &row, now).await?;
        Ok(Some(Signed {
            user: User {
                id: row.user.id,
                name: row.user.name,
                admin: row.user.admin,
                signed_out,
            },
            by,
        }))
    }

    /// Writes the use down, coarsely.
    async fn touch(
        &self,
        by: Credential,
        row: &CredentialRow,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let hash = by.hash();
        match by {
            Credential::Session(_) => {
                let expires_at = now.plus(self.0.session);
                let old = row.expires_at.unwrap_or(now);
                if expires_at.since(old) < USE_EVERY.min(self.0.session / 10) {
                    return Ok(());
                }
                self.0
                    .store
                    .write(move |tx| {
                        Box::pin(async move { rows::extend_session(tx, hash, expires_at).await })
                    })
                    .await
            }
            Credential::Token(_) => {
                if row.used_at.is_some_and(|used| now.since(used) < USE_EVERY) {
                    return Ok(());
                }
                self.0
                    .store
                    .write(move |tx| {
                        Box::pin(async move { rows::touch_token(tx, hash, now).await })
                    })
                    .await
            }
        }
    }

    /// Ends the long answers of sessions and tokens whose rows are gone.
    fn end(&self, ended: &[Hash]) {
        let mut live = lock(&self.0.live);
        for hash in ended {
            if let Some(token) = live.remove(hash) {
                token.cancel();
            }
        }
    }

    /// A new link for `user`, valid for `valid`; older ones no longer work.
    pub(crate) async fn link(&self, user: &UserId, valid: Duration) -> Result<Secret, AuthError> {
        let link = secret::new()?;
        let hash = secret::hash(link.expose()).ok_or(AuthError::UnknownLink)?;
        let (user, expires_at) = (user.clone(), self.0.clock.now().plus(valid));
        self.0
            .store
            .write(move |tx| {
                Box::pin(async move { rows::insert_link(tx, hash, &user, expires_at).await })
            })
            .await?;
        Ok(link)
    }

    /// The user made at the first start.
    pub(crate) async fn first_user(&self) -> Result<UserId, AuthError> {
        let first = rows::first(&self.0.store).await?;
        first.map(|user| user.id).ok_or(AuthError::NotFound("user"))
    }

    /// Uses a link up; gives a session's secret.
    pub(crate) async fn sign_in_by_link(&self, link: &str) -> Result<Secret, AuthError> {
        let hash = secret::hash(link).ok_or(AuthError::UnknownLink)?;
        let now = self.0.clock.now();
        let link = self
            .0
            .store
            .write(move |tx| Box::pin(async move { rows::take_link(tx, hash, now).await }))
            .await?;
        match link {
            Link::Good(user) => self.new_session(user.id).await,
            Link::Spent => Err(AuthError::SpentLink),
            Link::Unknown => Err(AuthError::UnknownLink),
        }
    }

    /// Gives a session's secret for the right password.
    pub(crate) async fn sign_in_by_password(
        &self,
        name: &str,
        password: Secret,
        address: IpAddr,
    ) -> Result<Secret, AuthError> {
        if name.len() > NAME_MAX || password.expose().len() > *password::LENGTH.end() {
            return Err(AuthError::Wrong);
        }
        self.may_try(name, address)?;
        let found = rows::by_name(&self.0.store, name).await?;
        let (user, hash) = found.map_or((None, None), |(user, hash)| (Some(user), hash));
        let right = self.0.passwords.verify(password, hash).await?;
        match user.filter(|_| right) {
            Some(user) => {
                lock(&self.0.backoff).succeeded(name, address);
                self.new_session(user.id).await
            }
            None => {
                self.failed(name, address);
                Err(AuthError::Wrong)
            }
        }
    }

    fn may_try(&self, name: &str, address: IpAddr) -> Result<(), AuthError> {
        let now = self.0.clock.now();
        match lock(&self.0.backoff).wait(name, address, now) {
            Some(wait) => Err(AuthError::Wait(wait)),
            None => Ok(()),
        }
    }

    fn failed(&self, name: &str, address: IpAddr) {
        let now = self.0.clock.now();
        lock(&self.0.backoff).failed(name, address, now);
        tracing::warn!(client = %address, "a sign-in failed");
    }

    async fn new_session(&self, user: UserId) -> Result<Secret, AuthError> {
        let session = secret::new()?;
        let hash = secret::hash(session.expose()).ok_or(AuthError::Wrong)?;
        let now = self.0.clock.now();
        let expires_at = now.plus(self.0.session);
        let ended = self
            .0
            .store
            .write(move |tx| {
                Box::pin(async move {
                    rows::insert_session(tx, hash, &user, now, expires_at, SESSIONS_MAX).await
                })
            })
            .await?;
        self.end(&ended);
        Ok(session)
    }

    /// Ends the session of a request, whoever it is.
    pub(crate) async fn sign_out(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        let Some(hash) = cookie(headers).and_then(secret::hash) else {
            return Ok(());
        };
        self.0
            .store
            .write(move |tx| Box::pin(async move { rows::delete_session(tx, hash).await }))
            .await?;
        self.end(&[hash]);
        Ok(())
    }

    /// True when the user has set a password.
    pub(crate) async fn has_password(&self, user: &UserId) -> Result<bool, AuthError> {
        Ok(rows::password(&self.0.store, user).await?.is_some())
    }

    /// Sets a password; other sessions end. `current` is needed once there is one.
    pub(crate) async fn set_password(
        &self,
        signed: &Signed,
        current: Option<Secret>,
        password: Secret,
        address: IpAddr,
    ) -> Result<(), AuthError> {
        if !password::LENGTH.contains(&password.expose().len()) {
            return Err(AuthError::Invalid(format!(
                "a password has {} to {} bytes",
                password::LENGTH.start(),
                password::LENGTH.end()
            )));
        }
        let user = signed.user.id.clone();
        let before = rows::password(&self.0.store, &user).await?;
        if before.is_some() {
            let name = &signed.user.name;
            self.may_try(name, address)?;
            let current = current.unwrap_or_else(|| Secret::new(""));
            if !self.0.passwords.verify(current, before.clone()).await? {
                self.failed(name, address);
                return Err(AuthError::Wrong);
            }
        }
        let hash = self.0.passwords.hash(password).await?;
        let keep = match signed.by {
            Credential::Session(hash) => Some(hash),
            Credential::Token(_) => None,
        };
        let ended = self
            .0
            .store
            .write(move |tx| {
                Box::pin(async move {
                    rows::set_password(tx, &user, before.as_deref(), &hash, keep).await
                })
            })
            .await?
            .ok_or(AuthError::Changed)?;
        self.end(&ended);
        Ok(())
    }

    /// Makes a token; it is shown once.
    pub(crate) async fn new_token(
        &self,
        user: &UserId,
        name: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<(String, Secret), AuthError> {
        let name = good_name(name)?;
        let now = self.0.clock.now();
        if expires_at.is_some_and(|end| end <= now) {
            return Err(AuthError::Invalid("`expires` lies in the past".to_owned()));
        }
        let token = secret::new_token()?;
        let hash = secret::hash(token.expose()).ok_or(AuthError::Wrong)?;
        let row = TokenRow {
            id: new_id().0,
            name,
            created_at: now,
            expires_at,
            used_at: None,
        };
        let (id, user) = (row.id.clone(), user.clone());
        let made = self
            .0
            .store
            .write(move |tx| {
                Box::pin(async move { rows::insert_token(tx, hash, &user, &row, TOKENS_MAX).await })
            })
            .await?;
        if made {
            Ok((id, token))
        } else {
            Err(AuthError::TooManyTokens)
        }
    }

    pub(crate) async fn tokens(&self, user: &UserId) -> Result<Vec<TokenRow>, AuthError> {
        Ok(rows::tokens(&self.0.store, user).await?)
    }

    /// Revokes a token; its sockets are closed.
    pub(crate) async fn revoke(&self, user: &UserId, id: &str) -> Result<(), AuthError> {
        let (user, id) = (user.clone(), id.to_owned());
        let ended = self
            .0
            .store
            .write(move |tx| Box::pin(async move { rows::delete_token(tx, &user, &id).await }))
            .await?
            .ok_or(AuthError::NotFound("token"))?;
        self.end(&[ended]);
        Ok(())
    }

    pub(crate) async fn users(&self) -> Result<Vec<UserRow>, AuthError> {
        Ok(rows::list(&self.0.store).await?)
    }

    pub(crate) async fn user(&self, id: &UserId) -> Result<UserRow, AuthError> {
        let user = rows::find(&self.0.store, id).await?;
        user.ok_or(AuthError::NotFound("user"))
    }

    /// Makes a user without a password.
    pub(crate) async fn new_user(&self, name: &str, admin: bool) -> Result<UserId, AuthError> {
        let name = good_name(name)?;
        let (id, now, most) = (new_id(), self.0.clock.now(), self.0.users_max);
        self.0
            .store
            .write(move |tx| {
                Box::pin(async move {
                    if rows::is_taken(tx, &name).await? {
                        return Ok(Err(AuthError::Taken));
                    }
                    if rows::count(tx).await? >= u64::from(most) {
                        return Ok(Err(AuthError::Full(most)));
                    }
                    rows::insert(tx, &id, &name, admin, now).await?;
                    Ok(Ok(id))
                })
            })
            .await?
    }

    /// Removes a user: nobody gets in by them any more; what they own goes next.
    pub(crate) async fn remove_user(&self, id: &UserId) -> Result<(), AuthError> {
        if self.first_user().await? == *id {
            return Err(AuthError::FirstUser);
        }
        let (id, now) = (id.clone(), self.0.clock.now());
        let ended = self
            .0
            .store
            .write(move |tx| Box::pin(async move { rows::delete(tx, &id, now).await }))
            .await?
            .ok_or(AuthError::NotFound("user"))?;
        self.end(&ended);
        self.0.removed.notify_one();
        Ok(())
    }

    /// Ends when a user was removed.
    pub(crate) async fn user_removed(&self) {
        self.0.removed.notified().await;
    }

    /// Users that were removed and may still own something.
    pub(crate) async fn removed_users(&self) -> Result<Vec<UserId>, StoreError> {
        rows::deleted(&self.0.store).await
    }

    /// Forgets removed users who own nothing any more.
    pub(crate) async fn forget_removed(&self) -> Result<(), StoreError> {
        let forgotten = self
            .0
            .store
            .write(|tx| Box::pin(async move { rows::purge(tx).await }))
            .await?;
        if forgotten > 0 {
            tracing::info!(users = forgotten, "removed users own nothing any more");
        }
        Ok(())
    }

    pub(crate) async fn session_count(&self) -> Result<u64, StoreError> {
        rows::session_count(&self.0.store).await
    }

    /// Removes what expired, until `shutdown`.
    pub(crate) async fn sweep_on(self, shutdown: CancellationToken) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = every.tick() => {}
            }
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "expired sessions could not be removed");
            }
        }
    }

    /// Removes what expired and ends its long answers.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let ended = self
            .0
            .store
            .write(move |tx| Box::pin(async move { rows::expire(tx, now).await }))
            .await?;
        self.end(&ended);
        Ok(())
    }
}

impl Credential {
    fn hash(self) -> Hash {
        match self {
            Self::Session(hash) | Self::Token(hash) => hash,
        }
    }
}

/// The session's cookie among all (RFC 6265 §4.2).
fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value.trim_matches('"'))
}

fn new_id() -> UserId {
    UserId(ulid::Ulid::generate().to_string().to_ascii_lowercase())
}

fn good_name(name: &str) -> Result<String, AuthError> {
    let name = name.trim();
    if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(AuthError::Invalid(format!(
            "a name has 1 to {NAME_MAX} bytes and no control characters"
        )));
    }
    Ok(name.to_owned())
}
