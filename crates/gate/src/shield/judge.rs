//! Who is banned, decided from signals over time: pure, without a clock. One part of the table
//! knows suspects (clients that something spoke against lately) and bans; both are bounded, and
//! whoever was quiet for longest goes first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use munjigi_foundation::clock::Timestamp;

use super::ban::{Ban, Client, Terms};
use super::signal::{COUNT, Marks, ONE, Signal, Weight, Weights};

/// Signals of a client that are kept with their times; beyond, the two oldest become one.
const KEPT: usize = 16;
/// Bytes of a path that are kept.
const PATH_MAX: usize = 200;
/// What weak signals of a declared crawler count: a quarter; and how many more paths it may miss.
const CRAWLER_WEIGHT: u64 = 4;
const CRAWLER_PATHS: usize = 10;
/// Bytes by which a target grows while somebody types.
const TYPED_MAX: usize = 12;

/// What the settings say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) terms: Terms,
    pub(crate) weights: Weights,
    pub(crate) missing: Missing,
    pub(crate) dry_run: bool,
}

/// When paths that are not there speak against a client.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Missing {
    /// Different ones that it may ask for within `ban.within`.
    pub paths: usize,
    /// And this share of its requests.
    pub share: f64,
}

impl Default for Missing {
    fn default() -> Self {
        Self {
            paths: 20,
            share: 0.8,
        }
    }
}

/// A request with its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) marks: Marks,
    /// Path and query.
    pub(crate) target: &'a [u8],
    /// The answer was what was asked for.
    pub(crate) good: bool,
    /// The path is not there, and is of this shape.
    pub(crate) missing: Option<u64>,
    /// The client declares itself a crawler.
    pub(crate) crawler: bool,
}

/// Signals of the last minute, say, with their times.
#[derive(Debug, Default)]
struct Window(Vec<(Timestamp, Weight)>);

impl Window {
    fn add(&mut self, weight: Weight, now: Timestamp) {
        if self.0.len() >= KEPT
            && let [first, second, ..] = self.0.as_mut_slice()
        {
            second.1 = second.1.saturating_add(first.1);
            self.0.remove(0);
        }
        self.0.push((now, weight));
    }

    /// What is left of it at `now`.
    fn sum(&mut self, within: Duration, now: Timestamp) -> Weight {
        self.0.retain(|(at, _)| now.since(*at) < within);
        self.0
            .iter()
            .fold(0, |sum: Weight, (_, weight)| sum.saturating_add(*weight))
    }
}

/// A client that something spoke against lately.
#[derive(Debug)]
pub(crate) struct Suspect {
    window: Window,
    /// Requests that were answered well, and that were not, since it is known; halved now and then.
    good: u32,
    bad: u32,
    halved: Timestamp,
    /// Shapes of missing paths since then.
    shapes: Vec<u64>,
    first_path: Box<str>,
    first_seen: Timestamp,
    /// The last target with something in it.
    last_target: Box<[u8]>,
    signals: [u32; COUNT],
    requests: u64,
    stamp: u64,
}

impl Suspect {
    fn new(now: Timestamp) -> Self {
        Self {
            window: Window::default(),
            good: 0,
            bad: 0,
            halved: now,
            shapes: Vec::new(),
            first_path: Box::default(),
            first_seen: now,
            last_target: Box::default(),
            signals: [0; COUNT],
            requests: 0,
            stamp: 0,
        }
    }

    fn age(&mut self, within: Duration, now: Timestamp) {
        if now.since(self.halved) >= within {
            self.good /= 2;
            self.bad /= 2;
            self.shapes.clear();
            self.halved = now;
        }
    }

    /// Which part of its requests went wrong, in thousandths.
    fn share(&self) -> u64 {
        let bad = u64::from(self.bad.max(1));
        1_000 * bad / (bad + u64::from(self.good))
    }

    /// One more path that is not there: true when it speaks against the client.
    fn misses(&mut self, shape: u64, missing: Missing, crawler: bool) -> bool {
        let most = if crawler {
            missing.paths * CRAWLER_PATHS
        } else {
            missing.paths
        };
        if self.shapes.contains(&shape) {
            return false;
        }
        if self.shapes.len() >= most {
            return self.share() as f64 >= missing.share * 1_000.0;
        }
        self.shapes.push(shape);
        false
    }

    /// What the request counts: its heaviest signal, and half of each further one that is not weak:
    /// a target with SQL, markup and a shell's command at once is no accident.
    fn weigh(&self, marks: Marks, rules: &Rules, crawler: bool) -> Weight {
        let share = self.share();
        let (mut heaviest, mut strongest, mut strong) = (0, 0, 0);
        for signal in marks.iter() {
            let weight = u64::from(rules.weights.of(signal));
            let weight = match (signal.is_weak(), crawler) {
                (false, _) => weight,
                (true, false) => weight * share / 1_000,
                (true, true) => weight * share / 1_000 / CRAWLER_WEIGHT,
            };
            heaviest = weight.max(heaviest);
            if !signal.is_weak() {
                strongest = weight.max(strongest);
                strong += weight;
            }
        }
        let further = if heaviest == strongest {
            strong - strongest
        } else {
            strong
        };
        Weight::try_from(heaviest + further / 2).unwrap_or(Weight::MAX)
    }

    /// A payload that only grew by what somebody types counts once.
    fn is_typing(&self, seen: &Seen<'_>) -> bool {
        let payloads = [
            Signal::SqlInjection,
            Signal::ScriptInjection,
            Signal::CodeInjection,
            Signal::Log4Shell,
        ];
        if seen.marks.iter().any(|signal| !payloads.contains(&signal)) {
            return false;
        }
        let (old, new) = (&self.last_target, seen.target);
        let grown = new.len().abs_diff(old.len());
        (1..=TYPED_MAX).contains(&grown)
            && !old.is_empty()
            && (new.starts_with(old) || old.starts_with(new))
    }
}

/// A suspect, for operators.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SuspectRow {
    pub(crate) address: Client,
    /// What its signals add up to now.
    pub(crate) score: f64,
    pub(crate) requests: u64,
    pub(crate) first_path: String,
    pub(crate) first_seen: Timestamp,
    pub(crate) signals: BTreeMap<String, u32>,
}

/// What a look at a client finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing speaks against it.
    Clean,
    /// Something did lately: also what goes well is noted.
    Watched,
    /// It is banned until then.
    Banned(Timestamp),
}

/// What became of a note.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Noted {
    /// A ban begins.
    pub(crate) ban: Option<Ban>,
    /// Entries that are more now, or fewer.
    pub(crate) added: Vec<Client>,
    pub(crate) dropped: Vec<Client>,
    /// Bans that had to make room.
    pub(crate) evicted: Vec<Client>,
    /// The path that is missing is one too many.
    pub(crate) not_found: bool,
    /// What the request counted, in thousandths.
    pub(crate) weight: Weight,
    /// What its client's signals add up to with it.
    pub(crate) score: Weight,
}

/// One part of the table.
#[derive(Debug, Default)]
pub(crate) struct Part {
    suspects: HashMap<Client, Suspect>,
    /// Suspects by when they were noted last.
    order: BTreeMap<u64, Client>,
    stamp: u64,
    bans: HashMap<Client, Ban>,
    /// Bans by their end.
    ends: BTreeSet<(Timestamp, Client)>,
}

/// How much a part may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) suspects: usize,
    pub(crate) bans: usize,
}

impl Part {
    /// How a client stands. A request that is refused for it is counted.
    pub(crate) fn look(&mut self, client: Client, refuse: bool, now: Timestamp) -> Standing {
        if let Some(ban) = self.bans.get_mut(&client)
            && ban.is_on(now)
            && !ban.dry_run
        {
            ban.count = ban.count.saturating_add(u64::from(refuse));
            return Standing::Banned(ban.until);
        }
        if self.suspects.contains_key(&client) {
            Standing::Watched
        } else {
            Standing::Clean
        }
    }

    /// A request with its answer, of a client that nothing exempts.
    pub(crate) fn note(
        &mut self,
        client: Client,
        seen: Seen<'_>,
        (rules, room): (&Rules, Room),
        now: Timestamp,
    ) -> Noted {
        let mut noted = Noted::default();
        let speaks = !seen.marks.is_empty() || seen.missing.is_some();
        if !speaks && !self.suspects.contains_key(&client) {
            return noted;
        }
        let stamp = self.touch(client, room, now, &mut noted);
        let Some(suspect) = self.suspects.get_mut(&client) else {
            return noted;
        };
        suspect.stamp = stamp;
        let within = rules.terms.within;
        suspect.age(within, now);
        let mut marks = seen.marks;
        if speaks {
            suspect.bad = suspect.bad.saturating_add(1);
        } else if seen.good {
            suspect.good = suspect.good.saturating_add(1);
        }
        if let Some(shape) = seen.missing
            && suspect.misses(shape, rules.missing, seen.crawler)
        {
            marks.add(Signal::NotFound);
            noted.not_found = true;
        }
        if marks.is_empty() {
            return noted;
        }
        if !suspect.is_typing(&seen) {
            noted.weight = suspect.weigh(marks, rules, seen.crawler);
        }
        suspect.last_target = seen.target.get(..PATH_MAX).unwrap_or(seen.target).into();
        suspect.remember(marks, seen.target, now);
        if noted.weight == 0 {
            return noted;
        }
        suspect.window.add(noted.weight, now);
        noted.score = suspect.window.sum(within, now);
        if noted.score >= rules.terms.after.saturating_mul(ONE) {
            self.begin(client, (rules, room), now, &mut noted);
        }
        noted
    }

    /// The suspect's place is the newest one; makes it, and room for it.
    fn touch(&mut self, client: Client, room: Room, now: Timestamp, noted: &mut Noted) -> u64 {
        self.stamp += 1;
        let stamp = self.stamp;
        if let Some(known) = self.suspects.get(&client) {
            self.order.remove(&known.stamp);
        } else {
            while self.suspects.len() >= room.suspects.max(1)
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.suspects.remove(&oldest);
                noted.dropped.push(oldest);
            }
            self.suspects.insert(client, Suspect::new(now));
            noted.added.push(client);
        }
        self.order.insert(stamp, client);
        stamp
    }

    /// A ban begins; the suspect's account is settled with it.
    fn begin(
        &mut self,
        client: Client,
        (rules, room): (&Rules, Room),
        now: Timestamp,
        noted: &mut Noted,
    ) {
        let Some(suspect) = self.suspects.get_mut(&client) else {
            return;
        };
        let before = self.bans.get(&client);
        if before.is_some_and(|ban| ban.is_on(now)) {
            // A dry ban, or a request that was under way: one is enough.
            suspect.window = Window::default();
            return;
        }
        let offences = before.map_or(0, |ban| rules.terms.remembered(ban, now));
        let ban = Ban {
            address: client,
            since: now,
            until: now.plus(rules.terms.length(offences)),
            offences: offences.saturating_add(1),
            count: suspect.requests,
            signals: suspect.counts(),
            first_path: suspect.first_path.to_string(),
            first_seen: suspect.first_seen,
            manual: false,
            dry_run: rules.dry_run,
        };
        self.forget(client, noted);
        self.put(ban.clone(), room, noted);
        noted.ban = Some(ban);
    }

    fn forget(&mut self, client: Client, noted: &mut Noted) {
        if let Some(suspect) = self.suspects.remove(&client) {
            self.order.remove(&suspect.stamp);
            noted.dropped.push(client);
        }
    }

    /// Takes a ban in, in the place of an earlier one; the one that ends first makes room.
    pub(crate) fn put(&mut self, ban: Ban, room: Room, noted: &mut Noted) {
        let client = ban.address;
        self.remove(client, noted);
        while self.bans.len() >= room.bans.max(1)
            && let Some((_, first)) = self.ends.pop_first()
        {
            self.bans.remove(&first);
            noted.dropped.push(first);
            noted.evicted.push(first);
        }
        self.ends.insert((ban.until, client));
        self.bans.insert(client, ban);
        noted.added.push(client);
    }

    /// Ends a ban and forgets its offences. Gives it when it was there.
    pub(crate) fn remove(&mut self, client: Client, noted: &mut Noted) -> Option<Ban> {
        let ban = self.bans.remove(&client)?;
        self.ends.remove(&(ban.until, client));
        noted.dropped.push(client);
        Some(ban)
    }

    /// As if nothing had ever spoken against the client.
    pub(crate) fn pardon(&mut self, client: Client, noted: &mut Noted) -> Option<Ban> {
        self.forget(client, noted);
        self.remove(client, noted)
    }

    /// Drops suspects that were quiet and bans whose offences are forgotten.
    pub(crate) fn sweep(&mut self, rules: &Rules, now: Timestamp) -> Noted {
        let mut noted = Noted::default();
        let quiet = rules.terms.within.saturating_mul(4);
        let old: Vec<Client> = self
            .suspects
            .iter_mut()
            .filter_map(|(client, suspect)| {
                let over = now.since(suspect.halved) >= quiet;
                (over && suspect.window.sum(rules.terms.within, now) == 0).then_some(*client)
            })
            .collect();
        for client in old {
            self.forget(client, &mut noted);
        }
        let over: Vec<Client> = self
            .ends
            .iter()
            .take_while(|(until, _)| *until <= now)
            .filter(|(_, client)| {
                self.bans
                    .get(client)
                    .is_none_or(|ban| rules.terms.is_over(ban, now))
            })
            .map(|(_, client)| *client)
            .collect();
        for client in over {
            if self.remove(client, &mut noted).is_some() {
                noted.evicted.push(client);
            }
        }
        noted
    }

    pub(crate) fn bans(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values()
    }

    pub(crate) fn suspects(&mut self, within: Duration, now: Timestamp) -> Vec<SuspectRow> {
        let rows = self
            .suspects
            .iter_mut()
            .map(|(client, suspect)| SuspectRow {
                address: *client,
                score: f64::from(suspect.window.sum(within, now)) / f64::from(ONE),
                requests: suspect.requests,
                first_path: suspect.first_path.to_string(),
                first_seen: suspect.first_seen,
                signals: suspect.counts(),
            });
        rows.filter(|row| row.requests > 0).collect()
    }

    /// Suspects and bans.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.suspects.len(), self.bans.len())
    }
}

impl Suspect {
    fn remember(&mut self, marks: Marks, target: &[u8], now: Timestamp) {
        if self.requests == 0 {
            self.first_path = path_of(target);
            self.first_seen = now;
        }
        self.requests = self.requests.saturating_add(1);
        for (count, signal) in self.signals.iter_mut().zip(Signal::ALL) {
            *count = count.saturating_add(u32::from(marks.has(*signal)));
        }
    }

    fn counts(&self) -> BTreeMap<String, u32> {
        let named = Signal::ALL.iter().zip(self.signals);
        named
            .filter(|(_, count)| *count > 0)
            .map(|(signal, count)| (signal.code().to_owned(), count))
            .collect()
    }
}

/// The path of a target, as text without control characters, cut.
fn path_of(target: &[u8]) -> Box<str> {
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    let text = String::from_utf8_lossy(path.get(..PATH_MAX).unwrap_or(path));
    text.chars()
        .filter(|c| !c.is_control())
        .collect::<String>()
        .into()
}
