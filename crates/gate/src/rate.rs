//! Rate limits: a token bucket for each key, one figure for all threads. A bucket is kept as the
//! time at which it will be full again (GCRA), so that one number is all of its state.
//!
//! The table is bounded. A bucket that is full is as good as a new one and may always go; when
//! none is, the fullest of a few goes, and the time it would have been full at is remembered:
//! whoever comes new to that part of the table starts no better than that. So nobody gets a
//! fresh bucket by pushing the own one out.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http1::fields::Name;
use crate::http1::head::RequestHead;
use crate::target;

/// Parts of the table, each with a lock of its own.
const PARTS: usize = 32;
/// Buckets that are looked at for one to go.
const LOOKED_AT: usize = 8;
/// The hub's session cookie.
const SESSION: &str = "munjigi_session";

/// `rate_limit = { … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in `per`; also the burst.
    pub requests: u32,
    /// How long an empty bucket takes to be full.
    pub per: Duration,
    /// Whose requests share a bucket.
    pub by: LimitBy,
}

/// Whose requests share a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitBy {
    /// Those of one client's address; of IPv6 those of one /64.
    ClientIp,
    /// Those with one value of this header field; without it those of one address.
    Header(String),
    /// Those with one credential (`Authorization`, else the hub's session); without one those of
    /// one address.
    User,
}

impl std::fmt::Display for LimitBy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClientIp => formatter.write_str("client_ip"),
            Self::Header(name) => write!(formatter, "header.{name}"),
            Self::User => formatter.write_str("user"),
        }
    }
}

/// What a bucket is known by: a hash with two secrets, so that nobody can choose whom to meet.
type Key = (u64, u64);

/// An address as limits see it: of IPv6 a network of 64 bits, which one client has to itself.
#[must_use]
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let upper = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(upper.into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[derive(Debug, Default)]
struct Part {
    places: HashMap<Key, usize>,
    /// Each with the time at which it is full, in nanoseconds since the limiter was made.
    buckets: Vec<(Key, u64)>,
    hand: usize,
    /// When the fullest bucket that had to go is full.
    gone: u64,
}

impl Part {
    /// The bucket of `key`: its place, made anew when it is not there.
    fn bucket(&mut self, key: Key, now: u64, most: usize) -> Option<&mut u64> {
        if let Some(place) = self.places.get(&key) {
            return self.buckets.get_mut(*place).map(|(_, full)| full);
        }
        let place = if self.buckets.len() < most {
            self.buckets.push((key, 0));
            self.buckets.len() - 1
        } else {
            self.make_room(now)?
        };
        self.places.insert(key, place);
        let start = self.gone;
        let bucket = self.buckets.get_mut(place)?;
        *bucket = (key, start);
        Some(&mut bucket.1)
    }

    fn make_room(&mut self, now: u64) -> Option<usize> {
        let length = self.buckets.len();
        let places = (0..LOOKED_AT.min(length)).map(|step| (self.hand + step) % length);
        let place =
            places.min_by_key(|place| self.buckets.get(*place).map_or(u64::MAX, |b| b.1))?;
        self.hand = (self.hand + LOOKED_AT) % length;
        let (key, full) = *self.buckets.get(place)?;
        self.places.remove(&key);
        if full > now {
            self.gone = self.gone.max(full);
        }
        Some(place)
    }
}

/// The buckets of one route.
#[derive(Debug)]
pub(crate) struct Limiter {
    settings: RateLimit,
    /// Nanoseconds that one request takes to come back.
    step: u64,
    per: u64,
    most: usize,
    started: Instant,
    secrets: [RandomState; 2],
    parts: Vec<Mutex<Part>>,
}

impl Limiter {
    /// A limiter with room for `keys` buckets.
    #[must_use]
    pub(crate) fn new(settings: &RateLimit, keys: usize, now: Instant) -> Self {
        let per = u64::try_from(settings.per.as_nanos()).unwrap_or(u64::MAX / 4);
        Self {
            step: (per / u64::from(settings.requests.max(1))).max(1),
            per,
            most: keys.div_ceil(PARTS).max(1),
            settings: settings.clone(),
            started: now,
            secrets: [RandomState::new(), RandomState::new()],
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn settings(&self) -> &RateLimit {
        &self.settings
    }

    /// Buckets that are kept.
    pub(crate) fn count(&self) -> usize {
        self.parts
            .iter()
            .map(|part| {
                part.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .buckets
                    .len()
            })
            .sum()
    }

    fn key(&self, what: &(impl Hash + ?Sized)) -> Key {
        let [first, second] = &self.secrets;
        (first.hash_one(what), second.hash_one(what))
    }

    fn key_of(&self, head: &RequestHead, client: IpAddr) -> Key {
        let named = match &self.settings.by {
            LimitBy::ClientIp => None,
            LimitBy::Header(name) => head.fields.named(name).next().map(|v| self.key(v)),
            LimitBy::User => head
                .fields
                .first(Name::Authorization)
                .map(|value| self.key(value))
                .or_else(|| {
                    let cookies = head.fields.all(Name::Cookie);
                    let session = target::cookie(cookies, SESSION).ok().flatten()?;
                    Some(self.key(session.as_bytes()))
                }),
        };
        named.unwrap_or_else(|| self.key(&network_of(client)))
    }

    /// Takes a token for the request.
    ///
    /// # Errors
    /// How long until there is one.
    pub(crate) fn take(
        &self,
        head: &RequestHead,
        client: IpAddr,
        now: Instant,
    ) -> Result<(), Duration> {
        self.take_for(self.key_of(head, client), now)
    }

    /// As [`Limiter::take`], but takes nothing: what the next request would meet.
    ///
    /// # Errors
    /// How long until there is a token.
    pub(crate) fn look(
        &self,
        head: &RequestHead,
        client: IpAddr,
        now: Instant,
    ) -> Result<(), Duration> {
        let key = self.key_of(head, client);
        let Some(part) = self.part(key) else {
            return Ok(());
        };
        let part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let known = part
            .places
            .get(&key)
            .and_then(|place| part.buckets.get(*place));
        let full = known.map_or(part.gone, |(_, full)| *full);
        self.after(full, self.time(now)).map(drop)
    }

    fn time(&self, now: Instant) -> u64 {
        let now = now.saturating_duration_since(self.started).as_nanos();
        u64::try_from(now).unwrap_or(u64::MAX / 4)
    }

    fn part(&self, key: Key) -> Option<&Mutex<Part>> {
        self.parts
            .get(usize::try_from(key.0 % PARTS as u64).unwrap_or(0))
    }

    /// When a bucket is full after one more request, or how long it can't take one.
    fn after(&self, full: u64, now: u64) -> Result<u64, Duration> {
        let after = full.max(now) + self.step;
        match (after - now).checked_sub(self.per) {
            Some(late) if late > 0 => Err(Duration::from_nanos(late)),
            _ => Ok(after),
        }
    }

    fn take_for(&self, key: Key, now: Instant) -> Result<(), Duration> {
        let now = self.time(now);
        let Some(part) = self.part(key) else {
            return Ok(());
        };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full) = part.bucket(key, now, self.most) {
            *full = self.after(*full, now)?;
        }
        Ok(())
    }
}

/// Whole seconds for `Retry-After`: at least one, and never too few.
#[must_use]
pub(crate) fn retry_after(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(requests: u32, per: Duration, keys: usize, now: Instant) -> Limiter {
        let settings = RateLimit {
            requests,
            per,
            by: LimitBy::ClientIp,
        };
        Limiter::new(&settings, keys, now)
    }

    #[test]
    fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
        let start = Instant::now();
        let limiter = limiter(100, Duration::from_secs(1), 1_000, start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let passed = |ms: u64, asked: usize| {
            (0..asked)
                .filter(|_| limiter.take_for((1, 1), at(ms)).is_ok())
                .count()
        };
        assert_eq!(passed(0, 150), 100);
        assert_eq!(passed(100, 50), 10);
        assert_eq!(passed(105, 50), 0);
        assert_eq!(passed(10_000, 500), 100);
        let wait = limiter.take_for((1, 1), at(10_000)).unwrap_err();
        assert_eq!(wait, Duration::from_millis(10));
        assert_eq!(retry_after(wait), 1);
        assert_eq!(retry_after(Duration::from_millis(1_001)), 2);
        assert_eq!(retry_after(Duration::ZERO), 1);
        assert!(limiter.take_for((2, 1), at(10_000)).is_ok(), "another key");
    }

    #[test]
    fn over_any_span_no_more_passes_than_burst_and_rate() {
        let start = Instant::now();
        for seed in 1..20 {
            let limiter = limiter(7, Duration::from_millis(700), 10, start);
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut now, mut passed) = (0_u64, Vec::new());
            for _ in 0..2_000 {
                now += random.u64(..60);
                let at = start + Duration::from_millis(now);
                if limiter.take_for((seed, 0), at).is_ok() {
                    passed.push(now);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let allowed = 7 + (to - from) / 100;
                    assert!((last - first + 1) as u64 <= allowed, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_bucket_that_was_pushed_out_does_not_come_back_full() {
        let now = Instant::now();
        let limiter = limiter(10, Duration::from_secs(60), PARTS * 16, now);
        let victim = (0, 0);
        for _ in 0..10 {
            assert!(limiter.take_for(victim, now).is_ok());
        }
        assert!(limiter.take_for(victim, now).is_err());
        // A flood of other keys in the same part of the table, again and again.
        for round in 0..3 {
            for n in 1..2_000 {
                let key = (PARTS as u64 * n, round);
                let passed = (0..10).take_while(|_| limiter.take_for(key, now).is_ok());
                assert!(passed.count() <= 10);
            }
            assert!(limiter.take_for(victim, now).is_err(), "round {round}");
        }
        assert!(limiter.count() <= PARTS * 16);
        // Time heals: a minute later all are full.
        let later = now + Duration::from_secs(61);
        assert!(limiter.take_for(victim, later).is_ok());
    }

    #[test]
    fn full_buckets_go_first_and_harm_nobody() {
        let start = Instant::now();
        let limiter = limiter(10, Duration::from_secs(1), PARTS * 8, start);
        for n in 0..100_u64 {
            let at = start + Duration::from_secs(n * 2);
            let passed = (0..20)
                .filter(|_| limiter.take_for((n * PARTS as u64, 0), at).is_ok())
                .count();
            assert_eq!(passed, 10, "each newcomer has a whole bucket");
        }
    }

    #[test]
    fn threads_share_one_bucket() {
        let now = Instant::now();
        let limiter = limiter(1_000, Duration::from_secs(3_600), 1_000, now);
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..500)
                            .filter(|_| limiter.take_for((7, 7), now).is_ok())
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(passed, 1_000);
    }

    #[test]
    fn addresses_of_one_network_share_a_bucket() {
        let check = |address: &str, expected: &str| {
            let network = network_of(address.parse().unwrap());
            assert_eq!(network, expected.parse::<IpAddr>().unwrap());
        };
        check("192.0.2.1", "192.0.2.1");
        check("::ffff:192.0.2.1", "192.0.2.1");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
    }
}
