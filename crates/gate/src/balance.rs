//! Which backend gets a request. Pure: it is given the candidates and a turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backends::Backend;
use crate::settings::Balance;

/// Longest schedule of a weighted round robin: the weights are scaled down to fit.
const SCHEDULE_MAX: u64 = 65_536;

/// The order in which a weighted round robin goes through `weights`: each place as often as its
/// weight says, its turns spread evenly over the round.
#[must_use]
pub(crate) fn schedule(weights: &[u32]) -> Vec<u32> {
    let divisor = weights
        .iter()
        .copied()
        .fold(0, greatest_common_divisor)
        .max(1);
    let total: u64 = weights
        .iter()
        .map(|weight| u64::from(weight / divisor))
        .sum();
    let scale = total.div_ceil(SCHEDULE_MAX).max(1);
    let mut turns: Vec<(u64, u32)> = Vec::new();
    for (place, weight) in (0_u32..).zip(weights) {
        let count = (u64::from(weight / divisor) / scale).max(1);
        // Turn k of `count` stands at (2k + 1) / 2count of the round.
        turns.extend((0..count).map(|k| (((2 * k + 1) << 32) / (2 * count), place)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, place)| place).collect()
}

fn greatest_common_divisor(left: u32, right: u32) -> u32 {
    if right == 0 {
        left
    } else {
        greatest_common_divisor(right, left % right)
    }
}

/// Chooses among `usable`, leaving out those in `tried` while there is another.
#[must_use]
pub(crate) fn choose<'a>(
    balance: Balance,
    usable: &'a [Arc<Backend>],
    schedule: &[u32],
    turn: usize,
    tried: &[u64],
) -> Option<&'a Arc<Backend>> {
    let fresh = |backend: &&Arc<Backend>| !tried.contains(&backend.id);
    match balance {
        Balance::RoundRobin => {
            let length = schedule.len().max(1);
            (0..length)
                .filter_map(|step| {
                    let place = *schedule.get((turn.wrapping_add(step)) % length)?;
                    usable.get(place as usize)
                })
                .find(fresh)
                .or_else(|| usable.get(turn % usable.len().max(1)))
        }
        Balance::LeastRequests => {
            let start = turn % usable.len().max(1);
            let (before, after) = usable.split_at_checked(start)?;
            // From a moving start, so that equals take turns.
            let rotated = || after.iter().chain(before);
            let load = |backend: &&Arc<Backend>| {
                let flying = u64::from(backend.in_flight.load(Ordering::Relaxed)) + 1;
                flying * 1_000_000 / u64::from(backend.weight.max(1))
            };
            rotated()
                .filter(fresh)
                .min_by_key(load)
                .or_else(|| rotated().min_by_key(load))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(weights: &[u32]) -> Vec<Arc<Backend>> {
        weights
            .iter()
            .enumerate()
            .map(|(place, weight)| {
                let port = u16::try_from(place + 1).unwrap();
                Arc::new(Backend::new(([127, 0, 0, 1], port).into(), *weight))
            })
            .collect()
    }

    #[test]
    fn a_schedule_holds_each_by_its_weight_and_spreads_them() {
        let check = |weights: &[u32], expected: &[u32]| assert_eq!(schedule(weights), expected);
        check(&[], &[]);
        check(&[7], &[0]);
        check(&[1, 1, 1], &[0, 1, 2]);
        check(&[2, 2], &[0, 1]);
        check(&[3, 1], &[0, 0, 1, 0]);
        check(&[5, 1, 1], &[0, 0, 0, 1, 2, 0, 0]);
        let large: Vec<u32> = (0..10_000).map(|place| 1 + place % 1_000).collect();
        assert!(schedule(&large).len() <= 100_000);
    }

    #[test]
    fn round_robin_keeps_the_shares() {
        let usable = backends(&[3, 1]);
        let order = schedule(&[3, 1]);
        let first = (0..400)
            .filter_map(|turn| choose(Balance::RoundRobin, &usable, &order, turn, &[]))
            .filter(|backend| backend.id == usable[0].id)
            .count();
        assert_eq!(first, 300);
    }

    #[test]
    fn what_was_tried_is_left_out_while_there_is_another() {
        let usable = backends(&[1, 1]);
        for balance in [Balance::RoundRobin, Balance::LeastRequests] {
            for turn in 0..4 {
                let chosen = choose(balance, &usable, &[0, 1], turn, &[usable[0].id]).unwrap();
                assert_eq!(chosen.id, usable[1].id);
            }
            let all = [usable[0].id, usable[1].id];
            assert!(choose(balance, &usable, &[0, 1], 0, &all).is_some());
            assert!(choose(balance, &[], &[], 0, &[]).is_none());
        }
    }

    #[test]
    fn least_requests_weighs_what_is_in_flight() {
        let usable = backends(&[2, 1]);
        let check = |flying: [u32; 2], expected: usize| {
            for (backend, count) in usable.iter().zip(flying) {
                backend.in_flight.store(count, Ordering::Relaxed);
            }
            for turn in 0..4 {
                let chosen = choose(Balance::LeastRequests, &usable, &[], turn, &[]).unwrap();
                assert_eq!(chosen.id, usable[expected].id, "{flying:?}");
            }
        };
        check([0, 0], 0);
        check([2, 0], 1);
        check([2, 1], 0);
        check([9, 9], 0);
    }
}
