//! Keeps bans where they outlive the process, off the path of requests: what changed is gathered,
//! handed to the store at once, and handed in again while the store fails; what others that share
//! the store changed is taken in. Sweeps the table.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use munjigi_foundation::clock::{Clock, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ban::{Ban, Client, Terms};
use super::judge::{Rules, Standing};
use super::store::BanStore;
use super::table::Bounds;
use super::{State, alarm};
use crate::snapshot::Snapshot;

/// How often the table is swept, and a store that failed is tried again.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the store is asked what others changed.
const LOOK: Duration = Duration::from_millis(500);
/// Changes that may wait for a store that fails; beyond, they are only in memory.
const WAITING_MAX: usize = 1_000_000;
/// How long the last alarms may take at the end.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// What the store does not know yet: the last word on each client.
#[derive(Debug, Default)]
pub(super) struct Changes {
    waiting: Mutex<HashMap<Client, Option<Ban>>>,
    some: Notify,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, HashMap<Client, Option<Ban>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, client: Client, change: Option<Ban>) {
        let mut waiting = self.lock();
        if waiting.len() < WAITING_MAX || waiting.contains_key(&client) {
            waiting.insert(client, change);
        }
        drop(waiting);
        self.some.notify_one();
    }

    pub(super) fn begin(&self, ban: Ban) {
        self.add(ban.address, Some(ban));
    }

    pub(super) fn end(&self, client: Client) {
        self.add(client, None);
    }

    /// True while our own last word on a client is not handed in.
    fn concern(&self, client: Client) -> bool {
        self.lock().contains_key(&client)
    }

    fn take(&self) -> HashMap<Client, Option<Ban>> {
        std::mem::take(&mut *self.lock())
    }

    /// What the store did not take; a later word on the same client holds.
    fn give_back(&self, changes: HashMap<Client, Option<Ban>>) {
        let mut waiting = self.lock();
        for (client, change) in changes {
            waiting.entry(client).or_insert(change);
        }
    }
}

/// What the keeper works with.
#[derive(Debug, Clone)]
struct Work {
    state: Arc<State>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    store: Option<Arc<dyn BanStore>>,
    clock: Clock,
    /// Another process keeps the bans now: what is over is its affair.
    leaving: Arc<AtomicBool>,
}

/// Runs beside the loops until it is stopped.
#[derive(Debug)]
pub(crate) struct Keeper {
    work: Work,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Keeper {
    /// Reads what is kept, and starts to keep. Must be called on a runtime.
    pub(crate) fn start(
        state: Arc<State>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        store: Option<Arc<dyn BanStore>>,
        clock: Clock,
    ) -> Self {
        let keeper = Self {
            work: Work {
                state,
                snapshot,
                store,
                clock,
                leaving: Arc::default(),
            },
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        keeper.load();
        let (work, stop) = (keeper.work.clone(), keeper.stop.clone());
        keeper.tasks.spawn(keep(work, stop));
        let Work {
            state, snapshot, ..
        } = &keeper.work;
        let told = alarm::tell(Arc::clone(state), Arc::clone(snapshot), keeper.stop.clone());
        keeper.tasks.spawn(told);
        keeper
    }

    /// Takes in what the store has: at the start, and once more when the process before has let go.
    pub(crate) fn load(&self) {
        self.work.load();
    }

    /// Another process serves now. Bans of connections that are still open here reach it through the
    /// store, and its own reach us.
    pub(crate) fn leave(&self) {
        self.work.leaving.store(true, Ordering::Relaxed);
    }

    /// Keeps what is not kept yet, and ends.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_WITHIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("the last bans or alarms were not taken in time");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Work {
    fn load(&self) {
        let Some(store) = &self.store else {
            return;
        };
        let kept = match store.load() {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(%error, "the bans that were kept can't be read: nobody is banned yet");
                return;
            }
        };
        let snapshot = self.snapshot.load();
        let (terms, bounds) = snapshot.shield.as_ref().map_or_else(
            || (Terms::default(), Bounds::default()),
            |shield| (shield.settings.ban, shield.settings.bounds),
        );
        let now = self.clock.now();
        let mut held = 0;
        for ban in kept {
            if ban.dry_run || terms.is_over(&ban, now) {
                self.state.changes.end(ban.address);
            } else {
                held += usize::from(ban.is_on(now));
                self.state.table.put(ban, bounds);
            }
        }
        if held > 0 {
            tracing::info!(bans = held, "bans that were kept hold again");
        }
    }

    /// Hands what changed to the store; true when it took it.
    async fn save(&self) -> bool {
        let changes = self.state.changes.take();
        let Some(store) = self.store.clone().filter(|_| !changes.is_empty()) else {
            return true;
        };
        let saving = tokio::task::spawn_blocking(move || {
            let saved = hand_in(&*store, &changes);
            (saved, changes)
        });
        let Ok((saved, changes)) = saving.await else {
            return false;
        };
        if let Err(error) = &saved {
            self.state
                .figures
                .store_failures
                .fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "bans can't be kept; they hold until the gate ends");
            self.state.changes.give_back(changes);
        }
        saved.is_ok()
    }

    /// Takes in what others changed.
    async fn hear(&self) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let news = match tokio::task::spawn_blocking(move || store.news()).await {
            Ok(Ok(news)) => news,
            Ok(Err(error)) => {
                tracing::debug!(%error, "what others banned can't be read");
                return;
            }
            Err(_) => return,
        };
        let snapshot = self.snapshot.load();
        let bounds = snapshot
            .shield
            .as_ref()
            .map_or_else(Bounds::default, |shield| shield.settings.bounds);
        let now = self.clock.now();
        for (client, change) in news {
            if self.state.changes.concern(client) {
                continue;
            }
            match change {
                Some(ban) if ban.dry_run || !ban.is_on(now) => {}
                Some(ban) => {
                    let standing = self.state.table.look(client, false, || now);
                    if !matches!(standing, Standing::Banned(until) if until >= ban.until) {
                        let noted = self.state.table.put(ban, bounds);
                        for client in noted.evicted {
                            self.state.changes.end(client);
                        }
                    }
                }
                None => drop(self.state.table.pardon(client)),
            }
        }
    }

    fn sweep(&self, now: Timestamp) {
        if self.leaving.load(Ordering::Relaxed) {
            return;
        }
        let snapshot = self.snapshot.load();
        let rules = snapshot.shield.as_ref().map(|shield| &shield.rules);
        let over = match rules {
            Some(rules) => self.state.table.sweep(rules, now),
            None => self.state.table.sweep(&Rules::default(), now),
        };
        for client in over {
            self.state.changes.end(client);
        }
    }
}

fn hand_in(store: &dyn BanStore, changes: &HashMap<Client, Option<Ban>>) -> io::Result<()> {
    let bans: Vec<Ban> = changes.values().flatten().cloned().collect();
    let ended = changes.iter().filter(|(_, change)| change.is_none());
    let ended: Vec<Client> = ended.map(|(client, _)| *client).collect();
    if !bans.is_empty() {
        store.put(&bans)?;
    }
    if !ended.is_empty() {
        store.remove(&ended)?;
    }
    Ok(())
}

async fn keep(work: Work, stop: CancellationToken) {
    let mut well = true;
    let mut swept = Instant::now();
    loop {
        let changed = async {
            if well {
                work.state.changes.some.notified().await;
            } else {
                // A store that fails is not asked for each ban.
                std::future::pending::<()>().await;
            }
        };
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = changed => false,
            () = tokio::time::sleep(LOOK) => {
                work.hear().await;
                false
            }
        };
        let due = swept.elapsed() >= SWEEP;
        if due {
            swept = Instant::now();
            work.sweep(work.clock.now());
        }
        if well || due || stopped {
            well = work.save().await;
        }
        if stopped {
            return;
        }
    }
}
