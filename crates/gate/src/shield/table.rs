//! The table of suspects and bans that all threads share. While it is empty a look costs one load;
//! while it is not, a client that is not in it costs a hash and another: a lock is taken only for
//! those that something spoke against.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use munjigi_foundation::clock::Timestamp;

use super::ban::{Ban, Client};
use super::judge::{Noted, Part, Room, Rules, Seen, Standing, SuspectRow};

/// Parts of the table, each with a lock of its own.
const PARTS: usize = 64;
/// Places of the filter in front of it.
const PLACES: usize = 1 << 16;

/// What the whole table may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Clients that something spoke against lately.
    pub clients: usize,
    /// Bans, and those that are over and not forgotten.
    pub bans: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            clients: 50_000,
            bans: 100_000,
        }
    }
}

impl Bounds {
    fn room(self) -> Room {
        Room {
            suspects: self.clients.div_ceil(PARTS),
            bans: self.bans.div_ceil(PARTS),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    hasher: RandomState,
    /// Entries of all parts.
    entries: AtomicUsize,
    /// Entries by the lower bits of their client's hash: where there are none, the client has none.
    filter: Box<[AtomicU32]>,
    parts: Box<[Mutex<Part>]>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            entries: AtomicUsize::new(0),
            filter: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Table {
    /// True while nobody is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.load(Ordering::Relaxed) == 0
    }

    fn hash(&self, client: Client) -> usize {
        // The lower bits are as good as any.
        usize::try_from(self.hasher.hash_one(client) & 0xffff_ffff).unwrap_or_default()
    }

    fn place(&self, hash: usize) -> Option<&AtomicU32> {
        self.filter.get(hash % PLACES)
    }

    fn part(&self, hash: usize) -> Option<MutexGuard<'_, Part>> {
        let part = self.parts.get(hash / PLACES % PARTS)?;
        Some(part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True when the client may be in it.
    fn may_have(&self, hash: usize) -> bool {
        self.place(hash)
            .is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// How a client stands; `refuse` counts a request that is refused for it.
    pub(crate) fn look(
        &self,
        client: Client,
        refuse: bool,
        now: impl FnOnce() -> Timestamp,
    ) -> Standing {
        if self.is_empty() {
            return Standing::Clean;
        }
        let hash = self.hash(client);
        if !self.may_have(hash) {
            return Standing::Clean;
        }
        self.part(hash)
            .map_or(Standing::Clean, |mut part| part.look(client, refuse, now()))
    }

    /// As [`Part::note`].
    pub(crate) fn note(
        &self,
        client: Client,
        seen: Seen<'_>,
        (rules, bounds): (&Rules, Bounds),
        now: Timestamp,
    ) -> Noted {
        let noted = self
            .part(self.hash(client))
            .map(|mut part| part.note(client, seen, (rules, bounds.room()), now));
        self.account(noted.unwrap_or_default())
    }

    /// Takes in a ban.
    pub(crate) fn put(&self, ban: Ban, bounds: Bounds) -> Noted {
        let mut noted = Noted::default();
        if let Some(mut part) = self.part(self.hash(ban.address)) {
            part.put(ban, bounds.room(), &mut noted);
        }
        self.account(noted)
    }

    /// Ends a ban, and forgets what was before. Gives the ban.
    pub(crate) fn pardon(&self, client: Client) -> Option<Ban> {
        let mut noted = Noted::default();
        let ban = self.part(self.hash(client))?.pardon(client, &mut noted);
        self.account(noted);
        ban
    }

    /// Drops what is of no use any more; gives the bans among it.
    pub(crate) fn sweep(&self, rules: &Rules, now: Timestamp) -> Vec<Client> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut evicted = Vec::new();
        for part in &self.parts {
            let noted = part
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .sweep(rules, now);
            evicted.extend(self.account(noted).evicted);
        }
        evicted
    }

    /// Counts entries that came and went in the filter.
    fn account(&self, noted: Noted) -> Noted {
        for client in &noted.added {
            self.entries.fetch_add(1, Ordering::Relaxed);
            if let Some(count) = self.place(self.hash(*client)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        for client in &noted.dropped {
            self.entries.fetch_sub(1, Ordering::Relaxed);
            if let Some(count) = self.place(self.hash(*client)) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        noted
    }

    /// All bans that hold, the newest first.
    pub(crate) fn bans(&self, now: Timestamp) -> Vec<Ban> {
        let mut all = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(part.bans().filter(|ban| ban.is_on(now)).cloned());
        }
        all.sort_by_key(|ban: &Ban| (std::cmp::Reverse(ban.since), ban.address));
        all
    }

    /// The suspects, those with the highest score first.
    pub(crate) fn suspects(&self, within: std::time::Duration, now: Timestamp) -> Vec<SuspectRow> {
        let mut all = Vec::new();
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(part.suspects(within, now));
        }
        all.sort_by(|left: &SuspectRow, right| right.score.total_cmp(&left.score));
        all
    }

    /// Suspects, and bans with those that are over and remembered.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.parts.iter().fold((0, 0), |sum, part| {
            let (suspects, bans) = part.lock().unwrap_or_else(PoisonError::into_inner).counts();
            (sum.0 + suspects, sum.1 + bans)
        })
    }
}
