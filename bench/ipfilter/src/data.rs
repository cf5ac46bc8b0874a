//! Rules as block lists have them, and addresses to ask about. All from fixed seeds.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// SplitMix64 (Steele, Lea, Flood).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Spread over all of IPv4.
    V4,
    /// Spread over 2000::/3.
    V6,
    /// Nine of ten rules in 1 of 64 /16 networks.
    V4Clustered,
    /// All below 500 /32 networks, as providers have them.
    V6Clustered,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::V4Clustered => "IPv4 in clusters",
            Self::V6Clustered => "IPv6 in clusters",
        }
    }

    pub fn is_v6(self) -> bool {
        matches!(self, Self::V6 | Self::V6Clustered)
    }
}

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    pub v6: bool,
    pub base: u128,
    pub prefix: u32,
}

impl Rule {
    pub fn host_bits(&self) -> u128 {
        let bits = if self.v6 { 128 } else { 32 };
        if self.prefix == 0 {
            return u128::MAX >> (128 - bits);
        }
        (1 << (bits - self.prefix)) - 1
    }
}

pub fn address(v6: bool, value: u128) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from(value))
    } else {
        IpAddr::V4(Ipv4Addr::from(value as u32))
    }
}

fn somewhere(random: &mut Random, family: Family) -> u128 {
    let wide = random.wide();
    match family {
        Family::V4 => wide & 0xffff_ffff,
        Family::V4Clustered if random.next() % 10 == 0 => wide & 0xffff_ffff,
        Family::V4Clustered => {
            let network = (wide >> 64) % 1024;
            (network * 64 + 17) << 16 | wide & 0xffff
        }
        Family::V6 => wide >> 3 | 1 << 125,
        Family::V6Clustered => {
            let provider = (wide >> 96) % 500;
            (0x2a00_0000 + provider * 0x1003) << 96 | wide & (u128::MAX >> 32)
        }
    }
}

/// `count` different networks: mostly single addresses and /24 (IPv6: /64, /48, single addresses).
pub fn rules(family: Family, count: usize, seed: u64) -> Vec<Rule> {
    let mut random = Random::new(seed);
    let mut seen = HashSet::with_capacity(count);
    let mut rules = Vec::with_capacity(count);
    while rules.len() < count {
        let prefix = match (family.is_v6(), random.next() % 10) {
            (false, 0..7) => 32,
            (false, 7..9) => 24,
            (false, _) => 20 + (random.next() % 11) as u32,
            (true, 0..4) => 64,
            (true, 4..7) => 48,
            (true, 7..9) => 128,
            (true, _) => 40 + (random.next() % 80) as u32,
        };
        let mut rule = Rule {
            v6: family.is_v6(),
            base: somewhere(&mut random, family),
            prefix,
        };
        rule.base &= !rule.host_bits();
        if seen.insert(rule) {
            rules.push(rule);
        }
    }
    rules
}

/// Addresses to ask about, no wider than they are: reading them takes the cache away from what is measured.
pub enum Addresses {
    V4(Vec<u32>),
    V6(Vec<u128>),
}

impl Addresses {
    pub fn of(family: Family, list: &[IpAddr]) -> Self {
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(v4) => u32::from(*v4),
            IpAddr::V6(_) => unreachable!("a list has one family"),
        };
        let v6 = |address: &IpAddr| match address {
            IpAddr::V6(v6) => u128::from(*v6),
            IpAddr::V4(_) => unreachable!("a list has one family"),
        };
        if family.is_v6() {
            Self::V6(list.iter().map(v6).collect())
        } else {
            Self::V4(list.iter().map(v4).collect())
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::V4(list) => list.len(),
            Self::V6(list) => list.len(),
        }
    }
}

/// Any addresses.
pub fn uniform(family: Family, count: usize, seed: u64) -> Vec<IpAddr> {
    let mut random = Random::new(seed);
    let any = if family.is_v6() { Family::V6 } else { Family::V4 };
    (0..count)
        .map(|_| address(family.is_v6(), somewhere(&mut random, any)))
        .collect()
}

/// Addresses inside of rules.
pub fn hits(rules: &[Rule], count: usize, seed: u64) -> Vec<IpAddr> {
    let mut random = Random::new(seed);
    (0..count)
        .map(|_| {
            let rule = &rules[(random.next() % rules.len() as u64) as usize];
            address(rule.v6, rule.base | random.wide() & rule.host_bits())
        })
        .collect()
}

/// Addresses where rules are, and outside of all of them.
pub fn misses(family: Family, rules: &[Rule], count: usize, seed: u64) -> Vec<IpAddr> {
    let mut ranges: Vec<(u128, u128)> = rules
        .iter()
        .map(|rule| (rule.base, rule.base | rule.host_bits()))
        .collect();
    ranges.sort_unstable();
    // The furthest end so far, so that one look to the left is enough.
    let mut furthest = 0;
    for range in &mut ranges {
        furthest = furthest.max(range.1);
        range.1 = furthest;
    }
    let mut random = Random::new(seed);
    let mut found = Vec::with_capacity(count);
    for _ in 0..count * 8 {
        let value = somewhere(&mut random, family);
        let before = ranges.partition_point(|range| range.0 <= value);
        if before == 0 || ranges[before - 1].1 < value {
            found.push(address(family.is_v6(), value));
            if found.len() == count {
                break;
            }
        }
    }
    found
}
