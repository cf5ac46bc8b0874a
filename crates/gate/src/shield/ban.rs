//! Clients as the shield knows them, and bans with all that a person asks about them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use munjigi_foundation::clock::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rate::network_of;

/// Whoever is judged as one: an IPv4 address, or a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(IpAddr);

impl Client {
    /// The client that `address` belongs to; an IPv4-mapped one is IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(network_of(address))
    }

    /// Its address; of IPv6 the first of the network.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(formatter),
            IpAddr::V6(network) => write!(formatter, "{network}/64"),
        }
    }
}

impl FromStr for Client {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let (address, prefix) = match written.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (written, None),
        };
        let no_address = || format!("\"{written}\" is no address");
        let address: IpAddr = address.parse().map_err(|_| no_address())?;
        match (address.to_canonical(), prefix) {
            (_, None) | (IpAddr::V4(_), Some("32")) | (IpAddr::V6(_), Some("64" | "128")) => {
                Ok(Self::of(address))
            }
            _ => Err(format!(
                "\"{written}\" is a network: a ban is for one IPv4 address, or for a /64 of IPv6"
            )),
        }
    }
}

impl Serialize for Client {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Client {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One ban, also after its end for as long as the offence is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ban {
    /// Whom it is for.
    pub address: Client,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Which one it is, as far as earlier ones are remembered.
    pub offences: u32,
    /// Requests that spoke against it, and those that were refused since.
    pub count: u64,
    /// How often each signal was there.
    pub signals: BTreeMap<String, u32>,
    /// The path of the first such request, without its query; empty for an operator's ban.
    pub first_path: String,
    /// When that was.
    pub first_seen: Timestamp,
    /// An operator's word.
    #[serde(default)]
    pub manual: bool,
    /// Only said, not done (`dry_run`).
    #[serde(default)]
    pub dry_run: bool,
}

impl Ban {
    /// A ban by an operator.
    #[must_use]
    pub fn manual(address: Client, since: Timestamp, until: Timestamp) -> Self {
        Self {
            address,
            since,
            until,
            offences: 0,
            count: 0,
            signals: BTreeMap::new(),
            first_path: String::new(),
            first_seen: since,
            manual: true,
            dry_run: false,
        }
    }

    /// True while it holds, or would.
    #[must_use]
    pub fn is_on(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// The reason in a few words: the signals, the most frequent first.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.manual {
            return "manual".to_owned();
        }
        let mut signals: Vec<_> = self.signals.iter().collect();
        signals.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), name.as_str()));
        let words: Vec<_> = signals
            .into_iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        words.join(", ")
    }
}

/// How bans come about and how long they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What a client's signals may add up to.
    pub after: u32,
    /// Within this time.
    pub within: std::time::Duration,
    /// How long the first ban is.
    pub first: std::time::Duration,
    /// How long one is at the most, after doubling.
    pub most: std::time::Duration,
    /// After so much time without a ban an offence is forgotten.
    pub forget: std::time::Duration,
}

impl Default for Terms {
    fn default() -> Self {
        let hours = |hours: u64| std::time::Duration::from_secs(hours * 3_600);
        Self {
            after: 5,
            within: std::time::Duration::from_secs(60),
            first: hours(1),
            most: hours(24 * 7),
            forget: hours(24),
        }
    }
}

impl Terms {
    /// Offences of `ban` that still count at `now`.
    #[must_use]
    pub fn remembered(&self, ban: &Ban, now: Timestamp) -> u32 {
        let quiet = now.since(ban.until).as_millis() / self.forget.as_millis().max(1);
        ban.offences
            .saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX))
    }

    /// How long a ban is after so many offences.
    #[must_use]
    pub fn length(&self, offences: u32) -> std::time::Duration {
        let doubled = 2_u32.checked_pow(offences.min(30)).unwrap_or(u32::MAX);
        self.first
            .saturating_mul(doubled)
            .min(self.most.max(self.first))
    }

    /// True when nothing of a ban is of use any more.
    pub(crate) fn is_over(&self, ban: &Ban, now: Timestamp) -> bool {
        !ban.is_on(now) && self.remembered(ban, now) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_64() {
        let check = |written: &str, expected: &str| {
            let client: Client = written.parse().unwrap();
            assert_eq!(client.to_string(), expected);
            assert_eq!(expected.parse(), Ok(client));
        };
        check("192.0.2.1", "192.0.2.1");
        check("192.0.2.1/32", "192.0.2.1");
        check("::ffff:192.0.2.1", "192.0.2.1");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64");
        check("2001:db8:1:2::/64", "2001:db8:1:2::/64");
        for wrong in [
            "",
            "x",
            "192.0.2.0/24",
            "2001:db8::/32",
            "192.0.2.1/",
            "::/0",
        ] {
            assert!(wrong.parse::<Client>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn bans_double_up_to_the_longest_and_are_forgotten() {
        let terms = Terms::default();
        let hours = |offences| terms.length(offences).as_secs() / 3_600;
        assert_eq!(
            [hours(0), hours(1), hours(3), hours(8), hours(99)],
            [1, 2, 8, 168, 168]
        );
        let at = |hours: i64| Timestamp::from_millis(hours * 3_600_000);
        let mut ban = Ban::manual("192.0.2.1".parse().unwrap(), at(0), at(1));
        ban.offences = 2;
        assert_eq!(terms.remembered(&ban, at(24)), 2);
        assert_eq!(terms.remembered(&ban, at(25)), 1);
        assert!(!terms.is_over(&ban, at(48)));
        assert!(terms.is_over(&ban, at(49)));
    }
}
