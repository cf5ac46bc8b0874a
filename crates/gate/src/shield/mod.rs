//! The shield: bans clients that do what scanners do. Each request is judged once, when its answer
//! is known and before a byte of it goes out: `find` says what speaks against its client, `judge` what
//! follows from that, `table` holds it for all threads. Signals, weights and the list are told in
//! docs/shield.md.

mod alarm;
mod ban;
#[cfg(test)]
mod clean_day;
mod find;
mod glob;
mod judge;
mod keeper;
mod list;
mod page;
mod signal;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use munjigi_foundation::clock::Timestamp;

use crate::forward::Waiter;
use crate::http1::fields::Name;
use crate::http1::head::RequestHead;
use crate::pipeline::Stop;
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::settings::ShieldSettings;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::target;

pub use ban::{Ban, Client, Terms};
pub use find::{Request, signals};
pub use glob::Glob;
pub use judge::Missing;
pub use list::DATE as LIST_DATE;
pub use signal::{Marks, Signal, Weights};
pub use store::{BanFile, BanStore, Content, parse};
pub use table::Bounds;

pub(crate) use find::Own;
pub(crate) use keeper::Keeper;
pub(crate) use page::{bans_page, explain, metrics, state_page};
pub(crate) use signal::{KEYS, ONE};

use judge::{Noted, Rules, Seen, Standing};
use signal::COUNT;
use table::Table;

/// The listener of hubs and workers: no user reaches it, and a ban there would stop jobs.
const INNER: &str = "inner";

/// `[gate.shield]` at work: what a snapshot holds of it.
#[derive(Debug)]
pub(crate) struct Shield {
    pub(crate) settings: ShieldSettings,
    rules: Rules,
    own: Own,
}

impl Shield {
    pub(crate) fn new(settings: &ShieldSettings) -> Arc<Self> {
        let own = Own::new(&settings.agents, &settings.payloads).unwrap_or_else(|why| {
            // The settings were refused then, and no gate was made of them.
            tracing::error!(why, "the shield's own rules can't be used");
            Own::default()
        });
        Arc::new(Self {
            rules: Rules {
                terms: settings.ban,
                weights: settings.weights.clone(),
                missing: settings.missing,
                dry_run: settings.dry_run,
            },
            own,
            settings: settings.clone(),
        })
    }

    /// Why nobody bans this client; `None` when it may be.
    pub(crate) fn exempts(&self, snapshot: &Snapshot, client: IpAddr) -> Option<&'static str> {
        let client = client.to_canonical();
        if client.is_loopback() {
            return Some("loopback");
        }
        if snapshot.trusts(client) {
            return Some("a peer of `client_ip.trusted`");
        }
        if self
            .settings
            .never
            .iter()
            .any(|network| network.contains(client))
        {
            return Some("named by `shield.never`");
        }
        let filter = snapshot.ip_filter.as_ref();
        filter
            .is_some_and(|filter| filter.names_as_allowed(client))
            .then_some("named by an `allow` of the IP filter")
    }
}

/// What stays over a reload: the table, the figures, what is to be kept and told.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) table: Table,
    figures: Figures,
    changes: keeper::Changes,
    alarms: alarm::Alarms,
    /// Requests of banned clients that wait for their answer.
    held: AtomicUsize,
}

/// How often each thing happened.
#[derive(Debug)]
struct Figures {
    signals: [AtomicU64; COUNT],
    bans: AtomicU64,
    dry_bans: AtomicU64,
    manual_bans: AtomicU64,
    pardons: AtomicU64,
    evicted: AtomicU64,
    held: AtomicU64,
    store_failures: AtomicU64,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            signals: [const { AtomicU64::new(0) }; COUNT],
            bans: AtomicU64::new(0),
            dry_bans: AtomicU64::new(0),
            manual_bans: AtomicU64::new(0),
            pardons: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            held: AtomicU64::new(0),
            store_failures: AtomicU64::new(0),
        }
    }
}

fn count(figure: &AtomicU64) {
    figure.fetch_add(1, Ordering::Relaxed);
}

impl State {
    /// What a note came to: figures, the log, what is to be kept and told.
    fn take(&self, noted: &Noted, shield: &Shield) {
        for client in &noted.evicted {
            count(&self.figures.evicted);
            self.changes.end(*client);
        }
        let Some(ban) = &noted.ban else {
            return;
        };
        let (client, reason) = (ban.address, ban.reason());
        let (path, until) = (&ban.first_path, ban.until);
        if ban.dry_run {
            count(&self.figures.dry_bans);
            tracing::warn!(%client, reason, path, %until, "a client would be banned (dry_run)");
        } else {
            count(&self.figures.bans);
            tracing::warn!(%client, reason, path, %until, offences = ban.offences, "a client is banned");
            self.changes.begin(ban.clone());
        }
        if let Some(webhook) = &shield.settings.webhook {
            self.alarms.add(ban.clone(), webhook.queue);
        }
    }

    /// An operator's ban.
    pub(crate) fn ban(&self, ban: Ban, bounds: Bounds) {
        count(&self.figures.manual_bans);
        tracing::warn!(client = %ban.address, until = %ban.until, "a client is banned by an operator");
        let noted = self.table.put(ban.clone(), bounds);
        for client in &noted.evicted {
            self.changes.end(*client);
        }
        self.changes.begin(ban);
    }

    /// An operator's pardon. Gives the ban that ended, if it still held.
    pub(crate) fn pardon(&self, client: Client, now: Timestamp) -> Option<Ban> {
        let ban = self.table.pardon(client)?;
        self.changes.end(client);
        if !ban.is_on(now) {
            return None;
        }
        count(&self.figures.pardons);
        tracing::warn!(%client, "a ban was ended by an operator");
        Some(ban)
    }
}

/// How far the judging of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Trail {
    /// It is not judged: there is no shield here, or it was judged already.
    #[default]
    Over,
    /// Its answer is not known yet.
    Open,
    /// The same, of a client that something spoke against lately.
    Watched,
}

/// A request's client: is it banned? And its path: may anybody ask for it?
pub(crate) fn admit(
    shard: &Shard,
    snapshot: &Snapshot,
    (listener, head): (&str, &RequestHead),
    record: &Record,
) -> Result<(), Stop> {
    let Some(shield) = of_listener(snapshot, listener) else {
        return Ok(());
    };
    let client = record.client.unwrap_or_else(|| record.peer.ip());
    let state = &shard.shared.shield;
    let mut trail = Trail::Open;
    if !state.table.is_empty() {
        let now = || shard.shared.clock.now();
        match state.table.look(Client::of(client), true, now) {
            Standing::Clean => {}
            Standing::Watched => trail = Trail::Watched,
            Standing::Banned(_) if shield.rules.dry_run => trail = Trail::Watched,
            Standing::Banned(until) if shield.exempts(snapshot, client).is_none() => {
                return Err(refusal(shield, until));
            }
            Standing::Banned(_) => {}
        }
    }
    record.trail.set(trail);
    denied(shield, head)
}

/// Paths that nobody may ask for.
fn denied(shield: &Shield, head: &RequestHead) -> Result<(), Stop> {
    let globs = &shield.settings.deny_path;
    if !globs.is_empty() && glob::any_matches(globs, &target::path_of(head.target())) {
        return Err(Rejection::new(Reason::DeniedPath, "nobody may ask for this path").into());
    }
    Ok(())
}

fn refusal(shield: &Shield, until: Timestamp) -> Stop {
    if shield.settings.close {
        return Stop::End(Reason::BannedClosed);
    }
    let detail = format!(
        "this address is banned until {until}: requests from it looked like those of a scanner, or an operator banned it"
    );
    Rejection::new(Reason::Banned, detail).into()
}

/// Lets a banned client wait for its answer, where the settings want that and there is room.
pub(crate) async fn hold(
    shard: &Shard,
    snapshot: &Snapshot,
    caller: &impl Waiter,
    stop: Stop,
) -> Stop {
    let banned = matches!(&stop, Stop::Reject(rejection) if rejection.reason == Reason::Banned);
    let tarpit = snapshot
        .shield
        .as_ref()
        .and_then(|shield| shield.settings.tarpit);
    let Some(tarpit) = tarpit.filter(|_| banned) else {
        return stop;
    };
    let state = &shard.shared.shield;
    let Some(_place) = Place::take(&state.held, tarpit.connections) else {
        return stop;
    };
    count(&state.figures.held);
    let timer = caller.timer();
    timer.set(tarpit.delay);
    let went = poll_fn(|context: &mut Context<'_>| {
        if shard.leaving() || timer.poll_expired(context).is_ready() {
            return Poll::Ready(false);
        }
        caller.poll_gone(context).map(|()| true)
    });
    if went.await {
        Stop::End(Reason::ClientGone)
    } else {
        stop
    }
}

/// A place among those that wait, for as long as it lives.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(held: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Self(held);
        (held.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's answer is known, and nothing of it is sent: judges the request, once.
pub(crate) fn observe(
    shard: &Shard,
    snapshot: &Snapshot,
    head: &RequestHead,
    record: &Record,
    (status, reason): (u16, Reason),
) {
    let trail = record.trail.replace(Trail::Over);
    let Some(shield) = snapshot.shield.as_ref().filter(|_| trail != Trail::Over) else {
        return;
    };
    let seen = look_at(shield, head, record.sign_in_failed.get(), (status, reason));
    if seen.marks.is_empty() && seen.missing.is_none() && trail != Trail::Watched {
        return;
    }
    let client = record.client.unwrap_or_else(|| record.peer.ip());
    note(shard, snapshot, shield, (client, seen));
}

/// What a request with this answer says of its client.
fn look_at<'h>(
    shield: &Shield,
    head: &'h RequestHead,
    sign_in_failed: bool,
    (status, reason): (u16, Reason),
) -> Seen<'h> {
    let denied = reason == Reason::DeniedPath;
    let agent = head.fields.first(Name::UserAgent);
    let request = Request {
        method: head.method(),
        target: head.target(),
        agent,
        head: head.fields.bytes(),
        // What nobody may ask for is one signal, not a search in vain, too.
        status: if denied { 200 } else { status },
    };
    let mut marks = find::marks(&request, &shield.own);
    let ignored = || glob::any_matches(&shield.settings.ignore, &target::path_of(head.target()));
    let mut missing = None;
    if status == 404 && !is_part_of_page(head) {
        missing = find::missing_shape(path_bytes(head.target()));
    }
    if (!marks.is_empty() || missing.is_some()) && ignored() {
        (marks, missing) = (Marks::NONE, None);
    }
    if denied {
        marks.add(Signal::DeniedPath);
    }
    if sign_in_failed {
        marks.add(Signal::FailedSignIn);
    }
    if is_malformed(reason) {
        marks.add(Signal::Malformed);
    }
    if reason == Reason::ConnectRefused {
        marks.add(Signal::BadMethod);
    }
    let matters = !marks.is_empty() || missing.is_some();
    Seen {
        marks,
        target: head.target(),
        good: (100..400).contains(&status),
        missing,
        crawler: matters && agent.is_some_and(find::is_crawler),
    }
}

fn path_bytes(target: &[u8]) -> &[u8] {
    target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default()
}

/// A picture, a font or a script that a page of the same site asks for: what is missing of a page
/// is its author's fault.
fn is_part_of_page(head: &RequestHead) -> bool {
    let kind = head
        .fields
        .named("sec-fetch-dest")
        .next()
        .unwrap_or_default();
    if matches!(
        kind,
        b"image" | b"font" | b"script" | b"style" | b"audio" | b"video" | b"track" | b"manifest"
    ) {
        return true;
    }
    let host = head.host().unwrap_or_default();
    let referer = head.fields.named("referer").next().unwrap_or_default();
    let rest = [&b"https://"[..], b"http://"]
        .iter()
        .find_map(|scheme| referer.strip_prefix(*scheme));
    rest.is_some_and(|rest| {
        let authority = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
        !host.is_empty() && authority.eq_ignore_ascii_case(host)
    })
}

fn is_malformed(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BadRequest
            | Reason::AmbiguousLength
            | Reason::BadChunk
            | Reason::BadHost
            | Reason::UnknownCoding
            | Reason::BadVersion
    )
}

/// A request whose head could not be read. A trusted peer brings those of others, and does not say
/// whose this one is.
pub(crate) fn observe_unread(
    shard: &Shard,
    snapshot: &Snapshot,
    listener: &str,
    record: &Record,
    reason: Reason,
) {
    let Some(shield) = of_listener(snapshot, listener) else {
        return;
    };
    let client = record.peer.ip();
    if !is_malformed(reason) || snapshot.trusts(client.to_canonical()) {
        return;
    }
    let seen = Seen {
        marks: [Signal::Malformed].into_iter().collect(),
        target: b"",
        good: false,
        missing: None,
        crawler: false,
    };
    note(shard, snapshot, shield, (client, seen));
}

fn note(shard: &Shard, snapshot: &Snapshot, shield: &Shield, (client, seen): (IpAddr, Seen<'_>)) {
    if shield.exempts(snapshot, client).is_some() {
        return;
    }
    let state = &shard.shared.shield;
    let rules = (&shield.rules, shield.settings.bounds);
    let noted = state
        .table
        .note(Client::of(client), seen, rules, shard.shared.clock.now());
    let mut marks = seen.marks;
    if noted.not_found {
        marks.add(Signal::NotFound);
    }
    for signal in marks.iter() {
        if let Some(figure) = state.figures.signals.get(signal.index()) {
            count(figure);
        }
    }
    if noted.ban.is_some() || !noted.evicted.is_empty() {
        state.take(&noted, shield);
    }
}

/// A connection at accept, or the first datagram of a session: true when it is to be closed, since
/// its peer is banned. A trusted peer speaks for others: [`closes_named`] and [`admit`] judge them.
pub(crate) fn closes_at_accept(
    shard: &Shard,
    snapshot: &Snapshot,
    listener: &str,
    peer: IpAddr,
) -> bool {
    if snapshot.shield.is_none() || shard.shared.shield.table.is_empty() {
        return false;
    }
    !snapshot.speaks_for_others(listener, peer) && closes_named(shard, snapshot, listener, peer)
}

/// As [`closes_at_accept`], for the client that a PROXY header names. Where a request can be
/// answered and the settings want an answer, the request is refused instead.
pub(crate) fn closes_named(
    shard: &Shard,
    snapshot: &Snapshot,
    listener: &str,
    client: IpAddr,
) -> bool {
    let Some(shield) = of_listener(snapshot, listener) else {
        return false;
    };
    let state = &shard.shared.shield;
    if shield.rules.dry_run || state.table.is_empty() {
        return false;
    }
    if snapshot.can_tell(listener) && !shield.settings.close {
        return false;
    }
    let now = || shard.shared.clock.now();
    let standing = state.table.look(Client::of(client), true, now);
    matches!(standing, Standing::Banned(_)) && shield.exempts(snapshot, client).is_none()
}

/// As `explain request` asks: whether a path may be asked for at all.
pub(crate) fn admits_path(shield: &Shield, head: &RequestHead) -> Result<(), Rejection> {
    match denied(shield, head) {
        Err(Stop::Reject(rejection)) => Err(rejection),
        _ => Ok(()),
    }
}

/// The shield, where it judges the requests of a listener.
pub(crate) fn of_listener<'s>(snapshot: &'s Snapshot, listener: &str) -> Option<&'s Shield> {
    snapshot.shield.as_deref().filter(|_| listener != INNER)
}

/// As `explain request` asks: the signals of a request with this answer, with what they count.
pub(crate) fn weigh(
    shield: &Shield,
    head: &RequestHead,
    answer: (u16, Reason),
) -> Vec<(Signal, f64)> {
    let seen = look_at(shield, head, false, answer);
    let weight = |signal: Signal| f64::from(shield.settings.weights.of(signal)) / f64::from(ONE);
    seen.marks
        .iter()
        .map(|signal| (signal, weight(signal)))
        .collect()
}
