//! What was refused lately: the last refusals one by one, and how many there were of each reason in
//! each minute of the last hour. Each thread writes its own, and only when it refuses; readers put
//! them together. Bounded: so many refusals, so many bytes of each.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use munjigi_foundation::clock::Timestamp;
use munjigi_foundation::telemetry::redact_target;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http1::head::RequestHead;
use crate::reason::Reason;
use crate::target::text;

/// Refusals that are kept, of all threads together.
pub(crate) const KEPT: usize = 2_000;
/// However many threads there are, each keeps so many.
const KEPT_MIN: usize = 50;
/// Characters that are kept of a method, of a host and of a path.
const METHOD_MAX: usize = 20;
const HOST_MAX: usize = 100;
const PATH_MAX: usize = 300;
/// Minutes that are counted.
const MINUTES: usize = 60;
const MINUTE_MILLIS: i64 = 60_000;
const REASONS: usize = Reason::ALL.len();

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Who asks: the IP filter, the shield, client certificates.
    Client,
    /// What is asked for.
    Request,
    /// A message that breaks the rules of HTTP.
    Message,
    /// A broken handshake of a WebSocket.
    WebSocket,
    /// Too much, too many, too slow.
    Limit,
    /// What a connection says before its first request: the PROXY header, TLS.
    Arrival,
}

impl Group {
    const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Request => "request",
            Self::Message => "message",
            Self::WebSocket => "websocket",
            Self::Limit => "limit",
            Self::Arrival => "arrival",
        }
    }
}

impl Reason {
    /// What it is about when it is the gate's refusal; `None` for what went through, what the client
    /// ended, and what is due to a backend.
    #[expect(
        clippy::too_many_lines,
        reason = "one table, which names each reason once"
    )]
    pub(crate) const fn group(self) -> Option<Group> {
        match self {
            Self::IpDenied
            | Self::IpHidden
            | Self::IpClosed
            | Self::Banned
            | Self::BannedClosed
            | Self::ClientCertificate => Some(Group::Client),
            Self::DeniedPath
            | Self::NoRoute
            | Self::InternalPath
            | Self::MethodNotAllowed
            | Self::NoFile
            | Self::ConnectRefused
            | Self::WhereMissing
            | Self::WhereAmbiguous
            | Self::NoSuchInstance => Some(Group::Request),
            Self::BadRequest
            | Self::AmbiguousLength
            | Self::BadChunk
            | Self::BadHost
            | Self::UnknownCoding
            | Self::BadVersion
            | Self::HeadTooLarge
            | Self::TooManyHeaders
            | Self::Http2Protocol => Some(Group::Message),
            Self::OriginRefused
            | Self::WsPlainRequest
            | Self::WsUpgradeMissing
            | Self::WsUpgradeWrong
            | Self::WsConnectionMissing
            | Self::WsConnectionWrong
            | Self::WsKeyMissing
            | Self::WsKeyWrong
            | Self::WsKeyRepeated
            | Self::WsVersionMissing
            | Self::WsVersionWrong
            | Self::WsOriginRefused
            | Self::WsMethodWrong
            | Self::WsOldVersion
            | Self::WsNoExtendedConnect
            | Self::WsBody
            | Self::WsPlainOnTls
            | Self::WsUpgradeLost => Some(Group::WebSocket),
            Self::HeadTimeout
            | Self::RequestTooSlow
            | Self::ReaderTooSlow
            | Self::BodyTooLarge
            | Self::FilesBusy
            | Self::RateLimited
            | Self::TooManyFromAddress
            | Self::TooManyConnections
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Http2Flood
            | Self::Http2Resets => Some(Group::Limit),
            Self::ProxyHeaderTimeout
            | Self::ProxyHeaderMissing
            | Self::ProxyHeaderBad
            | Self::HandshakeTimeout
            | Self::HandshakeFailed
            | Self::PlainOnTls
            | Self::TlsOnPlain => Some(Group::Arrival),
            Self::Done
            | Self::ClientGone
            | Self::RequestCut
            | Self::PreconditionFailed
            | Self::RangeRefused
            | Self::FileCut
            | Self::OwnAnswerFailed
            | Self::InstanceAway
            | Self::DuplicateServerId
            | Self::NoBackend
            | Self::BreakerOpen
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::BackendTlsFailed
            | Self::BackendCertificate
            | Self::BackendClosed
            | Self::BadResponse
            | Self::BadUpgrade
            | Self::ResponseCut
            | Self::ResponseTimeout
            | Self::BackendIdle
            | Self::BackendStalled
            | Self::BackendStreams
            | Self::KeepAliveTimeout
            | Self::TunnelIdle
            | Self::TunnelClosedByClient
            | Self::TunnelClosedByBackend
            | Self::Draining => None,
        }
    }
}

/// One request or connection that was refused.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Refusal {
    pub(crate) time: Timestamp,
    pub(crate) listener: Box<str>,
    pub(crate) client: IpAddr,
    /// The code of its reason.
    pub(crate) reason: &'static str,
    /// What was answered; 0 when nothing was.
    pub(crate) status: u16,
    /// `None` where no head was read: it and the next two.
    pub(crate) method: Option<Box<str>>,
    pub(crate) host: Option<Box<str>>,
    /// With its query; what is secret in it is redacted.
    pub(crate) path: Option<Box<str>>,
    pub(crate) route: Option<Box<str>>,
}

impl Refusal {
    /// Of a connection, before it asked for anything.
    pub(crate) fn of_connection(
        time: Timestamp,
        listener: &str,
        client: IpAddr,
        reason: Reason,
    ) -> Self {
        Self {
            time,
            listener: listener.into(),
            client: client.to_canonical(),
            reason: reason.code(),
            status: 0,
            method: None,
            host: None,
            path: None,
            route: None,
        }
    }

    /// With what was asked for, and what was answered.
    pub(crate) fn of_request(
        mut self,
        head: Option<&RequestHead>,
        route: Option<&str>,
        status: u16,
    ) -> Self {
        self.status = status;
        self.route = route.map(Into::into);
        if let Some(head) = head {
            self.method = Some(cut(&text(head.method()), METHOD_MAX));
            self.host = head.host().map(|host| cut(&text(host), HOST_MAX));
            // Redacted first: a name that is cut no longer tells that its value is secret.
            self.path = Some(cut(&redact_target(&text(head.target())), PATH_MAX));
        }
        self
    }
}

/// So many characters of it, with `…` where there were more.
fn cut(whole: &str, most: usize) -> Box<str> {
    match whole.char_indices().nth(most) {
        None => whole.into(),
        Some((end, _)) => {
            let kept = whole.get(..end).unwrap_or_default();
            format!("{kept}…").into()
        }
    }
}

/// How many of each reason there were in one minute.
#[derive(Debug)]
struct Minute {
    /// Since 1970.
    number: i64,
    counts: Box<[u32; REASONS]>,
}

/// What one thread refused lately, the oldest first.
#[derive(Debug, Default)]
struct Recent {
    last: VecDeque<Refusal>,
    minutes: VecDeque<Minute>,
}

impl Recent {
    fn count(&mut self, number: i64, reason: Reason) {
        if self.minutes.back().is_none_or(|last| last.number != number) {
            if self.minutes.len() >= MINUTES {
                self.minutes.pop_front();
            }
            let counts = Box::new([0; REASONS]);
            self.minutes.push_back(Minute { number, counts });
        }
        let minute = self.minutes.back_mut();
        if let Some(count) = minute.and_then(|minute| minute.counts.get_mut(reason.index())) {
            *count = count.saturating_add(1);
        }
    }
}

/// What to look for among the refusals; what is absent is of no account.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// The code of the reason.
    pub(crate) reason: Option<String>,
    /// A part of the client's address.
    pub(crate) client: Option<String>,
    /// A part of the path or its query, in any case.
    pub(crate) path: Option<String>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit: usize,
}

impl Search {
    fn finds(&self, refusal: &Refusal) -> bool {
        let holds = |whole: &str, part: &str| whole.to_lowercase().contains(&part.to_lowercase());
        let client = || refusal.client.to_string();
        let path = || refusal.path.as_deref().unwrap_or_default();
        let is =
            |part: &Option<String>, found: &dyn Fn(&str) -> bool| part.as_deref().is_none_or(found);
        is(&self.reason, &|reason| reason == refusal.reason)
            && self.since.is_none_or(|since| refusal.time >= since)
            && is(&self.client, &|part| holds(&client(), part))
            && is(&self.path, &|part| holds(path(), part))
    }
}

/// The refusals of all threads.
#[derive(Debug)]
pub(crate) struct Refusals {
    threads: Vec<Mutex<Recent>>,
    /// Of each thread.
    kept: usize,
}

fn locked(thread: &Mutex<Recent>) -> MutexGuard<'_, Recent> {
    thread.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Refusals {
    pub(crate) fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        Self {
            threads: (0..threads).map(|_| Mutex::default()).collect(),
            kept: (KEPT / threads).max(KEPT_MIN),
        }
    }

    /// Notes what `thread` refused. Nobody but a reader shares the lock.
    pub(crate) fn note(&self, thread: usize, reason: Reason, refusal: Refusal) {
        let Some(thread) = self.threads.get(thread) else {
            return;
        };
        let mut recent = locked(thread);
        recent.count(refusal.time.millis().div_euclid(MINUTE_MILLIS), reason);
        if recent.last.len() >= self.kept {
            recent.last.pop_front();
        }
        recent.last.push_back(refusal);
    }

    /// Those that `search` finds, the newest first; how many are kept in all, and for what reasons.
    pub(crate) fn search(&self, search: &Search) -> Value {
        let mut found = Vec::new();
        let mut reasons = BTreeSet::new();
        let mut kept = 0;
        for thread in &self.threads {
            let recent = locked(thread);
            kept += recent.last.len();
            reasons.extend(recent.last.iter().map(|refusal| refusal.reason));
            let finds = |refusal: &&Refusal| search.finds(refusal);
            found.extend(recent.last.iter().rev().filter(finds).cloned());
        }
        let total = found.len();
        found.sort_by_key(|refusal| std::cmp::Reverse(refusal.time));
        found.truncate(search.limit);
        json!({ "kept": kept, "total": total, "reasons": reasons, "refusals": found })
    }

    /// How many there were of each reason in each minute of the last hour, the oldest minute first;
    /// the most frequent reason first.
    pub(crate) fn minutes(&self, now: Timestamp) -> Value {
        let last = now.millis().div_euclid(MINUTE_MILLIS);
        let first = last - i64::try_from(MINUTES).unwrap_or(i64::MAX) + 1;
        let mut counts = vec![[0_u64; MINUTES]; REASONS];
        for thread in &self.threads {
            for minute in &locked(thread).minutes {
                let Ok(place) = usize::try_from(minute.number - first) else {
                    continue;
                };
                for (row, count) in counts.iter_mut().zip(&*minute.counts) {
                    if let Some(sum) = row.get_mut(place) {
                        *sum += u64::from(*count);
                    }
                }
            }
        }
        let rows = Reason::ALL.iter().zip(counts);
        let mut rows: Vec<_> = rows
            .map(|(reason, counts)| (*reason, counts.iter().sum::<u64>(), counts))
            .filter(|(_, total, _)| *total > 0)
            .collect();
        rows.sort_by_key(|(reason, total, _)| (std::cmp::Reverse(*total), reason.code()));
        let shown = rows.iter().map(|(reason, total, counts)| {
            let group = reason.group().map(Group::word);
            let counts = counts.as_slice();
            json!({ "reason": reason.code(), "group": group, "total": total, "counts": counts })
        });
        json!({
            "from": Timestamp::from_millis(first.saturating_mul(MINUTE_MILLIS)),
            "total": rows.iter().map(|(_, total, _)| total).sum::<u64>(),
            "reasons": shown.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_795_262_400_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(NOON + millis)
    }

    fn refusal(millis: i64, client: &str, reason: Reason, path: &str) -> Refusal {
        let client = client.parse().unwrap();
        let mut refusal = Refusal::of_connection(at(millis), "web", client, reason);
        refusal.path = Some(path.into());
        refusal
    }

    fn note(refusals: &Refusals, thread: usize, reason: Reason, millis: i64, path: &str) {
        let client = format!("203.0.113.{}", thread + 1);
        refusals.note(thread, reason, refusal(millis, &client, reason, path));
    }

    fn found(refusals: &Refusals, search: &Search) -> Vec<String> {
        let page = refusals.search(search);
        let rows = page["refusals"].as_array().unwrap().iter();
        rows.map(|row| row["path"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_search_names_the_newest_of_all_threads_first() {
        let refusals = Refusals::new(2);
        note(&refusals, 0, Reason::DeniedPath, 1_000, "/a.php");
        note(&refusals, 1, Reason::NoRoute, 2_000, "/B?x=1");
        note(&refusals, 0, Reason::Banned, 3_000, "/c");
        let all = || Search {
            limit: 10,
            ..Search::default()
        };
        let word = |word: &str| Some(word.to_owned());
        for (search, expected) in [
            (all(), vec!["/c", "/B?x=1", "/a.php"]),
            (Search { limit: 1, ..all() }, vec!["/c"]),
            (
                Search {
                    reason: word("no_route"),
                    ..all()
                },
                vec!["/B?x=1"],
            ),
            (
                Search {
                    client: word("113.1"),
                    ..all()
                },
                vec!["/c", "/a.php"],
            ),
            (
                Search {
                    path: word("/b?"),
                    ..all()
                },
                vec!["/B?x=1"],
            ),
            (
                Search {
                    since: Some(at(2_000)),
                    ..all()
                },
                vec!["/c", "/B?x=1"],
            ),
            (
                Search {
                    reason: word("route"),
                    ..all()
                },
                vec![],
            ),
        ] {
            assert_eq!(found(&refusals, &search), expected, "{search:?}");
        }
        let page = refusals.search(&Search { limit: 1, ..all() });
        assert_eq!((&page["kept"], &page["total"]), (&json!(3), &json!(3)));
        assert_eq!(
            page["reasons"],
            json!(["banned", "denied_path", "no_route"])
        );
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go() {
        let refusals = Refusals::new(4);
        for number in 0..5_000 {
            note(&refusals, 1, Reason::NoRoute, number, &format!("/{number}"));
        }
        let page = refusals.search(&Search {
            limit: 1,
            ..Search::default()
        });
        assert_eq!(page["kept"], KEPT / 4);
        assert_eq!(page["refusals"][0]["path"], "/4999");
        assert_eq!(Refusals::new(1_000).kept, KEPT_MIN);
        let long = "ä".repeat(PATH_MAX + 1);
        assert_eq!(cut(&long, PATH_MAX).chars().count(), PATH_MAX + 1);
        assert!(cut(&long, PATH_MAX).ends_with('…'));
        assert_eq!(&*cut("ä", 1), "ä");
    }

    #[test]
    fn the_last_hour_is_counted_by_minute_and_reason() {
        let refusals = Refusals::new(2);
        let minute = |minute: i64| minute * MINUTE_MILLIS;
        for (thread, reason, millis) in [
            (0, Reason::NoRoute, minute(-60)),
            (0, Reason::NoRoute, minute(-59)),
            (0, Reason::Banned, minute(0)),
            (1, Reason::Banned, minute(0) + 59_999),
            (1, Reason::Banned, minute(-1)),
            (1, Reason::RateLimited, minute(1)),
        ] {
            note(&refusals, thread, reason, millis, "/");
        }
        let page = refusals.minutes(at(30_000));
        assert_eq!(page["from"], json!(at(minute(-59))));
        assert_eq!(page["total"], 4, "{page}");
        let codes: Vec<_> = page["reasons"].as_array().unwrap().iter().collect();
        assert_eq!(
            codes.len(),
            2,
            "the oldest minute and the next are not shown"
        );
        let banned = codes[0];
        assert_eq!(banned["reason"], "banned");
        assert_eq!(banned["group"], "client");
        let counts = banned["counts"].as_array().unwrap();
        assert_eq!(counts.len(), MINUTES);
        assert_eq!((&counts[58], &counts[59]), (&json!(1), &json!(2)));
        assert_eq!(codes[1]["counts"][0], 1);
        // A day with something in each minute takes no more room than an hour.
        for number in 0..1_440 {
            note(&refusals, 0, Reason::NoRoute, minute(number), "/");
        }
        assert_eq!(locked(&refusals.threads[0]).minutes.len(), MINUTES);
        assert_eq!(refusals.minutes(at(minute(1_439)))["total"], 60);
    }

    #[test]
    fn only_the_gates_own_refusals_are_refusals() {
        for (reason, group) in [
            (Reason::Done, None),
            (Reason::ClientGone, None),
            (Reason::BackendClosed, None),
            (Reason::Banned, Some(Group::Client)),
            (Reason::WsKeyWrong, Some(Group::WebSocket)),
            (Reason::HandshakeFailed, Some(Group::Arrival)),
        ] {
            assert_eq!(reason.group(), group, "{reason:?}");
        }
        // What names a client's mistake is one of them.
        for reason in Reason::ALL {
            let is_own = matches!(
                reason,
                Reason::RequestCut | Reason::PreconditionFailed | Reason::RangeRefused
            );
            if (400..500).contains(&reason.status()) && !is_own {
                assert!(reason.group().is_some(), "{reason:?}");
            }
        }
    }
}
