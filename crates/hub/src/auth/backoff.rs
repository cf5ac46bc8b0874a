//! How long a name or an address must wait after wrong passwords. Bounded memory, no I/O, `now` is given.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use munjigi_foundation::clock::Timestamp;

/// Names and addresses remembered; beyond, those that failed longest ago are forgotten.
const REMEMBERED: usize = 10_000;
/// A failure is forgotten after this.
const MEMORY: Duration = Duration::from_secs(15 * 60);

/// Whose failures are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// One name from one network: slows down who guesses one password.
    Both(String, IpAddr),
    /// One network: slows down who tries many names.
    Network(IpAddr),
    /// One name: slows down many machines on one name. Never for long, so that nobody can lock its owner out.
    Name(String),
}

impl Key {
    /// Failures without a wait, and the longest wait.
    fn limits(&self) -> (u32, Duration) {
        match self {
            Self::Both(..) => (5, Duration::from_secs(300)),
            Self::Network(_) => (20, Duration::from_secs(300)),
            Self::Name(_) => (50, Duration::from_secs(5)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
}

/// The memory of failures.
#[derive(Debug, Default)]
pub(super) struct Backoff(HashMap<Key, Failures>);

/// A client of IPv6 has a /64 to itself.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => IpAddr::V6((six.to_bits() >> 64 << 64).into()),
    }
}

fn keys(name: &str, address: IpAddr) -> [Key; 3] {
    let network = network(address);
    [
        Key::Both(name.to_owned(), network),
        Key::Network(network),
        Key::Name(name.to_owned()),
    ]
}

impl Backoff {
    /// How long `name` from `address` has to wait before it may try again.
    pub(super) fn wait(&self, name: &str, address: IpAddr, now: Timestamp) -> Option<Duration> {
        keys(name, address)
            .iter()
            .filter_map(|key| {
                let failures = self.0.get(key)?;
                let until = failures.last.plus(delay(key, failures.count));
                (until > now).then(|| until.since(now))
            })
            .max()
    }

    /// Counts a failure.
    pub(super) fn failed(&mut self, name: &str, address: IpAddr, now: Timestamp) {
        if self.0.len() + 3 > REMEMBERED {
            self.forget(now);
        }
        for key in keys(name, address) {
            let failures = self.0.entry(key).or_insert(Failures {
                count: 0,
                last: now,
            });
            if now.since(failures.last) >= MEMORY {
                failures.count = 0;
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
        }
    }

    /// The right password: the name is its owner's again from there.
    pub(super) fn succeeded(&mut self, name: &str, address: IpAddr) {
        let [both, _, _] = keys(name, address);
        self.0.remove(&both);
    }

    fn forget(&mut self, now: Timestamp) {
        self.0
            .retain(|_, failures| now.since(failures.last) < MEMORY);
        if self.0.len() + 3 > REMEMBERED {
            let mut times: Vec<Timestamp> = self.0.values().map(|failures| failures.last).collect();
            times.sort_unstable();
            let middle = times.get(times.len() / 2).copied().unwrap_or(now);
            self.0.retain(|_, failures| failures.last > middle);
        }
    }
}

/// 1 s after the free failures, then twice as long each time.
fn delay(key: &Key, count: u32) -> Duration {
    let (free, most) = key.limits();
    match count.checked_sub(free) {
        None => Duration::ZERO,
        Some(more) => {
            Duration::from_secs(1_u64.checked_shl(more.min(32)).unwrap_or(u64::MAX)).min(most)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn guessing_one_password_gets_slow_and_others_stay_free() {
        let mut backoff = Backoff::default();
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let there: IpAddr = "192.0.2.2".parse().unwrap();
        for _ in 0..4 {
            backoff.failed("ann", here, at(0));
            assert_eq!(backoff.wait("ann", here, at(0)), None);
        }
        backoff.failed("ann", here, at(0));
        assert_eq!(
            backoff.wait("ann", here, at(0)),
            Some(Duration::from_secs(1))
        );
        assert_eq!(backoff.wait("ann", here, at(1)), None);
        backoff.failed("ann", here, at(1));
        assert_eq!(
            backoff.wait("ann", here, at(1)),
            Some(Duration::from_secs(2))
        );
        for _ in 0..10 {
            backoff.failed("ann", here, at(1));
        }
        assert_eq!(
            backoff.wait("ann", here, at(1)),
            Some(Duration::from_secs(300))
        );
        assert_eq!(
            backoff.wait("ann", there, at(1)),
            None,
            "her own machine is free"
        );
        assert_eq!(backoff.wait("bob", there, at(1)), None);
        backoff.failed("ann", here, at(2_000));
        assert_eq!(
            backoff.wait("ann", here, at(2_000)),
            None,
            "forgotten by then"
        );
    }

    #[test]
    fn many_names_from_one_network_get_slow() {
        let mut backoff = Backoff::default();
        for n in 0..21 {
            let one = format!("2001:db8::{n:x}").parse().unwrap();
            backoff.failed(&format!("user{n}"), one, at(0));
        }
        let another = "2001:db8::ffff".parse().unwrap();
        assert_eq!(
            backoff.wait("fresh", another, at(0)),
            Some(Duration::from_secs(2))
        );
        assert_eq!(
            backoff.wait("fresh", "2001:db8:1::1".parse().unwrap(), at(0)),
            None
        );
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut backoff = Backoff::default();
        for n in 0..20_000_u32 {
            let address = IpAddr::V4(n.into());
            backoff.failed(&n.to_string(), address, at(i64::from(n) / 100));
            assert!(backoff.0.len() <= REMEMBERED);
        }
    }
}
