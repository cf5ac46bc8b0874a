//! Consistent hashing: where a key leads stays the same while others come and go, and is the
//! same on every gate. Pure.

use std::net::{IpAddr, SocketAddr};

/// Points of a backend of weight 1.
const POINTS: u64 = 160;
/// Points of all backends together; beyond it each gets fewer.
const POINTS_MAX: u64 = 1 << 20;
const PLACE_BITS: u32 = 24;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// A hash that is the same in every process and version: FNV-1a, its bits mixed at the end.
#[must_use]
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn address_hash(address: SocketAddr) -> u64 {
    let mut bytes = Vec::with_capacity(18);
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
    stable_hash(&bytes)
}

/// Points on a circle, each of one backend.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ring {
    of: Vec<(SocketAddr, u32)>,
    /// Hash in the upper 40 bits, the backend's place in the lower 24.
    points: Vec<u64>,
}

impl Ring {
    /// The ring of these addresses with their weights; places are those in the list.
    #[must_use]
    pub(crate) fn new(of: Vec<(SocketAddr, u32)>) -> Self {
        let total: u64 = of
            .iter()
            .map(|(_, weight)| u64::from(*weight) * POINTS)
            .sum();
        // By powers of two, so that a backend more or less rarely moves all others.
        let mut shift = 0;
        while total >> shift > POINTS_MAX {
            shift += 1;
        }
        let mut points = Vec::new();
        for (place, (address, weight)) in (0_u64..=PLACE_MASK).zip(&of) {
            let own = address_hash(*address);
            let count = ((u64::from(*weight) * POINTS) >> shift).max(1);
            points.extend((0..count).map(|k| {
                let hash = mix(own ^ mix(k.wrapping_add(1)));
                hash & !PLACE_MASK | place
            }));
        }
        points.sort_unstable();
        Self { of, points }
    }

    /// True when it was made of the same.
    #[must_use]
    pub(crate) fn is_of(&self, of: &[(SocketAddr, u32)]) -> bool {
        self.of == of
    }

    /// The places from `hash` on, around the circle; a place comes more than once.
    pub(crate) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|point| *point < hash);
        let (before, after) = self.points.split_at(start);
        after
            .iter()
            .chain(before)
            .map(|point| usize::try_from(point & PLACE_MASK).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u16) -> Vec<(SocketAddr, u32)> {
        (1..=count)
            .map(|n| {
                let [high, low] = n.to_be_bytes();
                (SocketAddr::from(([10, 0, high, low], 8_000)), 1)
            })
            .collect()
    }

    fn owners(of: &[(SocketAddr, u32)], keys: u64) -> Vec<SocketAddr> {
        let ring = Ring::new(of.to_vec());
        (0..keys)
            .map(|key| of[ring.from(stable_hash(&key.to_be_bytes())).next().unwrap()].0)
            .collect()
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(stable_hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_ne!(stable_hash(b"a"), stable_hash(b"b"));
    }

    #[test]
    fn shares_follow_the_weights() {
        let mut of = addresses(10);
        of[0].1 = 3;
        let owners = owners(&of, 60_000);
        for (address, weight) in &of {
            let got = owners.iter().filter(|owner| *owner == address).count();
            let fair = 5_000 * *weight as usize;
            assert!(
                got > fair * 7 / 10 && got < fair * 13 / 10,
                "{address}: {got} of {fair}"
            );
        }
    }

    #[test]
    fn one_more_or_less_moves_only_its_own_keys() {
        let many = addresses(20);
        let fewer = &many[..19];
        let (with, without) = (owners(&many, 20_000), owners(fewer, 20_000));
        let last = many[19].0;
        let mut moved = 0;
        for (with, without) in with.iter().zip(&without) {
            assert!(with == without || *with == last);
            moved += usize::from(with != without);
        }
        assert!(
            (600..1_500).contains(&moved),
            "{moved} of 20000 for one of 20"
        );
        // The order in which discovery names them is of no account.
        let reversed: Vec<_> = many.iter().rev().copied().collect();
        assert_eq!(owners(&reversed, 2_000), with[..2_000]);
    }

    #[test]
    fn many_heavy_backends_stay_within_the_limit() {
        let of: Vec<_> = addresses(2_000)
            .into_iter()
            .map(|(a, _)| (a, 1_000))
            .collect();
        assert!(Ring::new(of).points.len() as u64 <= POINTS_MAX);
        assert_eq!(Ring::new(Vec::new()).from(7).next(), None);
    }
}
