//! Which backend gets a request. Pure but for the figures of the backends: it is given the
//! candidates, a turn and a source of chance.
//!
//! What a choice costs: round robin and the random ones look at one or two places of a schedule,
//! whatever the number of backends. `least_requests` and `least_time` compare all of up to
//! [`EXACT_MAX`] backends, and [`SAMPLES`] of more. A hash is found by halving. All backends are
//! looked at only when the first [`WALK`] steps find none that takes requests.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::backend::{Backend, DRAINED, EJECTED, UNHEALTHY};
use crate::ring::Ring;
use crate::settings::Balance;

/// Longest schedule of a weighted round robin: the weights are scaled down to fit.
const SCHEDULE_MAX: u64 = 65_536;
/// Backends that are compared one by one.
const EXACT_MAX: usize = 64;
/// Of more, so many are compared.
const SAMPLES: usize = 8;
/// Steps along the schedule until all backends are looked through.
const WALK: usize = 32;
/// With a hash: a backend may have so many requests in flight for each that is its share.
const HASH_LOAD: (u64, u64) = (5, 4);
/// So few are never too many.
const HASH_LOAD_MIN: u64 = 8;

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

/// Chance, cheap and good enough to spread requests; never for secrets.
#[derive(Debug)]
pub(crate) struct Chance(Cell<u64>);

impl Chance {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    /// Seeded by what the standard library seeds its maps with.
    pub(crate) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(std::thread::current().id()))
    }

    /// A number below `limit`; 0 when there is none.
    pub(crate) fn below(&self, limit: usize) -> usize {
        // xorshift64*
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        let high = u128::from(state.wrapping_mul(0x2545_f491_4f6c_dd1d));
        usize::try_from((high * limit as u128) >> 64).unwrap_or(0)
    }
}

thread_local! {
    /// The chance of this thread.
    pub(crate) static CHANCE: Chance = Chance::new();
}

/// Backends that are asked before those of the next tier.
#[derive(Debug, Default)]
pub(crate) struct Tier {
    backends: Vec<Arc<Backend>>,
    schedule: Vec<u32>,
    weight: u64,
    /// So few are good that health and ejection are ignored.
    panic: bool,
}

impl Tier {
    pub(crate) fn new(backends: Vec<Arc<Backend>>, panic: bool) -> Self {
        let weights: Vec<u32> = backends.iter().map(|backend| backend.weight()).collect();
        Self {
            schedule: schedule(&weights),
            weight: weights.iter().map(|weight| u64::from(*weight)).sum(),
            backends,
            panic,
        }
    }
}

/// What a choice goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) balance: Balance,
    pub(crate) now: Instant,
    /// Grows by one with every choice of the service.
    pub(crate) turn: usize,
    /// What the request hashes to.
    pub(crate) hash: u64,
    /// Requests in flight at all backends of the service.
    pub(crate) in_flight: u32,
    pub(crate) slow_start: Option<Duration>,
    /// Most requests in flight at one backend.
    pub(crate) limit: Option<u32>,
    /// Left out.
    pub(crate) tried: &'a [u64],
}

/// The outcome of a choice.
#[derive(Debug)]
pub(crate) enum Pick<'a> {
    One(&'a Arc<Backend>),
    /// There are some, and all have as many requests as they may.
    Full,
    None,
}

/// A tier with the question that it is asked.
struct Picking<'a, 'q> {
    tier: &'a Tier,
    question: Question<'q>,
    chance: &'q Chance,
}

/// Chooses among `tiers`; a later one is asked only when nobody of an earlier one is left. The
/// ring holds places of `ringed`.
pub(crate) fn choose<'a>(
    tiers: &'a [Tier],
    ring: Option<(&Ring, &'a [Arc<Backend>])>,
    question: Question<'_>,
    chance: &Chance,
) -> Pick<'a> {
    for tier in tiers {
        let picking = Picking {
            tier,
            question,
            chance,
        };
        let picked = match (question.balance, ring) {
            (Balance::ConsistentHash, Some((ring, all))) => picking.hashed(ring, all),
            _ => picking.pick().map(|place| picking.spare(place)),
        };
        if let Some(backend) = picked {
            return Pick::One(backend);
        }
        if tier.backends.iter().any(|backend| picking.is_open(backend)) {
            return Pick::Full;
        }
    }
    Pick::None
}

impl<'a> Picking<'a, '_> {
    /// It takes requests, apart from its limit.
    fn is_open(&self, backend: &Backend) -> bool {
        let flags = if self.tier.panic {
            DRAINED
        } else {
            DRAINED | UNHEALTHY | EJECTED
        };
        !backend.is(flags) && !self.question.tried.contains(&backend.id)
    }

    fn fits(&self, backend: &Backend) -> bool {
        let flying = || backend.in_flight.load(Ordering::Relaxed);
        self.is_open(backend) && self.question.limit.is_none_or(|limit| flying() < limit)
    }

    fn at(&self, step: usize) -> Option<&'a Arc<Backend>> {
        let schedule = &self.tier.schedule;
        let place = *schedule.get(step % schedule.len().max(1))?;
        self.tier.backends.get(place as usize)
    }

    /// By weight and chance.
    fn any(&self) -> Option<&'a Arc<Backend>> {
        self.at(self.chance.below(self.tier.schedule.len()))
    }

    fn pick(&self) -> Option<&'a Arc<Backend>> {
        match self.question.balance {
            Balance::RoundRobin => self.in_turn(),
            Balance::Random | Balance::ConsistentHash => self.random(),
            Balance::TwoRandom => self.better_of_two(load),
            Balance::PeakEwma => self.better_of_two(|b| cost(b, self.question.now)),
            Balance::LeastRequests => self.least(load),
            Balance::LeastTime => self.least(|b| cost(b, self.question.now)),
        }
    }

    /// The next one in turn that takes requests.
    fn in_turn(&self) -> Option<&'a Arc<Backend>> {
        let turn = self.question.turn;
        (0..WALK)
            .filter_map(|step| self.at(turn.wrapping_add(step)))
            .find(|backend| self.fits(backend))
            .or_else(|| self.look_through())
    }

    /// From anywhere on, the first that takes requests.
    fn look_through(&self) -> Option<&'a Arc<Backend>> {
        let backends = &self.tier.backends;
        let (before, after) = backends.split_at_checked(self.chance.below(backends.len()))?;
        after
            .iter()
            .chain(before)
            .find(|backend| self.fits(backend))
    }

    fn random(&self) -> Option<&'a Arc<Backend>> {
        (0..WALK)
            .filter_map(|_| self.any())
            .find(|backend| self.fits(backend))
            .or_else(|| self.look_through())
    }

    fn better_of_two(&self, score: impl Fn(&Backend) -> u64) -> Option<&'a Arc<Backend>> {
        let first = self.random()?;
        let second = (0..4)
            .filter_map(|_| self.any())
            .find(|other| other.id != first.id && self.fits(other));
        Some(
            second
                .filter(|second| score(second) < score(first))
                .unwrap_or(first),
        )
    }

    /// The one with the lowest score. Equals take turns by weight: whoever's turn it is wins
    /// against them.
    fn least(&self, score: impl Fn(&Backend) -> u64) -> Option<&'a Arc<Backend>> {
        let first = self.in_turn()?;
        let mut best = (score(first), first);
        if best.0 == 0 {
            return Some(first);
        }
        let backends = &self.tier.backends;
        let mut consider = |backend: &'a Arc<Backend>| {
            let score = score(backend);
            if score < best.0 && self.fits(backend) {
                best = (score, backend);
            }
        };
        if backends.len() <= EXACT_MAX {
            let start = self.question.turn % backends.len().max(1);
            let (before, after) = backends.split_at_checked(start)?;
            after.iter().chain(before).for_each(&mut consider);
        } else {
            (0..SAMPLES)
                .filter_map(|_| backends.get(self.chance.below(backends.len())))
                .for_each(&mut consider);
        }
        Some(best.1)
    }

    /// In its slow start a backend gives a part of what falls to it to the others.
    fn spare(&self, picked: &'a Arc<Backend>) -> &'a Arc<Backend> {
        let Some(slow_start) = self.question.slow_start else {
            return picked;
        };
        let ramp = |backend: &Backend| backend.ramp(self.question.now, slow_start);
        let share = ramp(picked);
        if share >= 1_000 || (self.chance.below(1_000) as u64) < share {
            return picked;
        }
        (0..WALK)
            .filter_map(|_| self.any())
            .find(|other| self.fits(other) && ramp(other) >= 1_000)
            .unwrap_or(picked)
    }

    /// The first on the ring that is of this tier and has not far more than its share.
    fn hashed(&self, ring: &Ring, all: &'a [Arc<Backend>]) -> Option<&'a Arc<Backend>> {
        let wanted = u64::from(self.question.in_flight) + 1;
        let mut first = None;
        for place in ring.from(self.question.hash) {
            let Some(backend) = all.get(place) else {
                continue;
            };
            if !self.fits(backend) || !self.has(backend) {
                continue;
            }
            let first = *first.get_or_insert(backend);
            let share = wanted * u64::from(backend.weight()) * HASH_LOAD.0;
            let most = share.div_ceil(HASH_LOAD.1 * self.tier.weight.max(1));
            let flying = u64::from(backend.in_flight.load(Ordering::Relaxed));
            if flying < most.max(HASH_LOAD_MIN) {
                return Some(backend);
            }
            // All share one backend, or what is counted moves under our feet.
            if self.tier.backends.len() == 1 {
                return Some(first);
            }
        }
        first
    }

    fn has(&self, backend: &Arc<Backend>) -> bool {
        let place = self
            .tier
            .backends
            .binary_search_by_key(&backend.id, |other| other.id);
        place.is_ok()
    }
}

/// Requests in flight, by weight.
fn load(backend: &Backend) -> u64 {
    u64::from(backend.in_flight.load(Ordering::Relaxed)) * 1_000_000 / u64::from(backend.weight())
}

/// How long a request would take: its time to answer for each that is before it.
fn cost(backend: &Backend, now: Instant) -> u64 {
    let flying = u64::from(backend.in_flight.load(Ordering::Relaxed));
    let time = match backend.answers_in(now) {
        Some(micros) => micros * (flying + 1),
        // Unknown: one request finds out, further ones do not wait for it there.
        None => flying * 1_000_000,
    };
    time.saturating_mul(1_000) / u64::from(backend.weight())
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

    fn question(balance: Balance) -> Question<'static> {
        Question {
            balance,
            now: Instant::now(),
            turn: 0,
            hash: 0,
            in_flight: 0,
            slow_start: None,
            limit: None,
            tried: &[],
        }
    }

    /// How often each backend is chosen in `count` turns; each choice is told to `chosen`.
    fn shares(
        backends: &[Arc<Backend>],
        question: Question<'_>,
        count: usize,
        mut chosen: impl FnMut(&Backend),
    ) -> Vec<usize> {
        let tiers = [Tier::new(backends.to_vec(), false)];
        let ring = Ring::new(backends.iter().map(|b| (b.address, b.weight())).collect());
        let chance = Chance::seeded(42);
        let mut shares = vec![0; backends.len()];
        for turn in 0..count {
            let hash = crate::ring::stable_hash(&turn.to_be_bytes());
            let question = Question {
                turn,
                hash,
                ..question
            };
            let Pick::One(backend) = choose(&tiers, Some((&ring, backends)), question, &chance)
            else {
                panic!("nobody was chosen");
            };
            chosen(backend);
            let place = backends.iter().position(|b| b.id == backend.id).unwrap();
            shares[place] += 1;
        }
        shares
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
    fn every_method_follows_the_weights_when_all_are_idle() {
        let weights = [1, 2, 3, 4];
        for balance in Balance::ALL {
            let all = backends(&weights);
            let shares = shares(&all, question(balance), 20_000, |_| {});
            for (share, weight) in shares.iter().zip(weights) {
                let fair = 2_000 * weight as usize;
                let exact = matches!(balance, Balance::RoundRobin | Balance::LeastRequests);
                let off = if exact { 1 } else { fair / 5 };
                assert!(share.abs_diff(fair) <= off, "{balance}: {shares:?}");
            }
        }
    }

    #[test]
    fn what_was_tried_or_is_out_is_left_out() {
        for balance in Balance::ALL {
            let all = backends(&[1, 1, 1]);
            let tried = [all[0].id];
            let question = Question {
                tried: &tried,
                ..question(balance)
            };
            all[1].mark(EJECTED, true);
            assert_eq!(shares(&all, question, 50, |_| {}), [0, 0, 50], "{balance}");
            all[2].mark(UNHEALTHY, true);
            let tiers = [Tier::new(all.clone(), false)];
            let chance = Chance::seeded(1);
            let nobody = choose(&tiers, None, question, &chance);
            assert!(matches!(nobody, Pick::None), "{balance}");
            let panic = [Tier::new(all.clone(), true)];
            let somebody = choose(&panic, None, question, &chance);
            assert!(matches!(somebody, Pick::One(_)), "{balance}");
        }
    }

    #[test]
    fn a_later_tier_waits_for_the_earlier_one() {
        let (first, second) = (backends(&[1, 1]), backends(&[1]));
        let tiers = [
            Tier::new(first.clone(), false),
            Tier::new(second.clone(), false),
        ];
        let chance = Chance::seeded(1);
        let limited = Question {
            limit: Some(1),
            ..question(Balance::RoundRobin)
        };
        let check = |expected: &str| {
            let got = match choose(&tiers, None, limited, &chance) {
                Pick::One(backend) if backend.id == second[0].id => "second",
                Pick::One(_) => "first",
                Pick::Full => "full",
                Pick::None => "none",
            };
            assert_eq!(got, expected);
        };
        check("first");
        for backend in &first {
            backend.in_flight.store(1, Ordering::Relaxed);
        }
        check("full");
        for backend in &first {
            backend.mark(DRAINED, true);
        }
        check("second");
        second[0].mark(DRAINED, true);
        check("none");
    }

    #[test]
    fn least_requests_weighs_what_is_in_flight() {
        let all = backends(&[2, 1]);
        let check = |flying: [u32; 2], expected: usize| {
            for (backend, count) in all.iter().zip(flying) {
                backend.in_flight.store(count, Ordering::Relaxed);
            }
            let shares = shares(&all, question(Balance::LeastRequests), 9, |_| {});
            assert_eq!(shares[expected], 9, "{flying:?}: {shares:?}");
        };
        check([2, 0], 1);
        check([1, 1], 0);
        check([3, 2], 0);
        check([9, 3], 1);
    }

    #[test]
    fn in_flight_counts_even_out_also_among_many() {
        // Requests that never end: the least-loaded methods spread them almost evenly.
        for (balance, most) in [
            (Balance::LeastRequests, 12),
            (Balance::TwoRandom, 15),
            (Balance::LeastTime, 13),
        ] {
            let all = backends(&vec![1; 500]);
            for backend in &all {
                backend.answered_in(Duration::from_millis(1), Instant::now(), false);
            }
            let flying = |backend: &Backend| {
                backend.in_flight.fetch_add(1, Ordering::Relaxed);
            };
            let shares = shares(&all, question(balance), 5_000, flying);
            let highest = shares.iter().max().unwrap();
            assert!(*highest <= most, "{balance}: {highest} where 10 are fair");
        }
    }

    #[test]
    fn faster_backends_get_more_by_time() {
        for balance in [Balance::LeastTime, Balance::PeakEwma] {
            let all = backends(&[1, 1, 1, 1]);
            let now = Instant::now();
            for (place, backend) in all.iter().enumerate() {
                let took = Duration::from_millis(if place == 0 { 50 } else { 1 });
                backend.answered_in(took, now, true);
            }
            let question = Question {
                now,
                ..question(balance)
            };
            let shares = shares(&all, question, 1_000, |_| {});
            assert!(shares[0] < 20, "{balance}: {shares:?}");
        }
    }

    #[test]
    fn a_hash_leads_to_one_backend_until_it_has_far_more_than_its_share() {
        let all = backends(&[1, 1, 1, 1]);
        let tiers = [Tier::new(all.clone(), false)];
        let ring = Ring::new(all.iter().map(|b| (b.address, 1)).collect());
        let chance = Chance::seeded(1);
        let mut flying = 0;
        let mut counts = vec![0_u64; 4];
        for _ in 0..400 {
            let question = Question {
                hash: 12_345,
                in_flight: flying,
                ..question(Balance::ConsistentHash)
            };
            let Pick::One(backend) = choose(&tiers, Some((&ring, &all)), question, &chance) else {
                panic!("nobody was chosen");
            };
            backend.in_flight.fetch_add(1, Ordering::Relaxed);
            flying += 1;
            counts[all.iter().position(|b| b.id == backend.id).unwrap()] += 1;
            let most = (u64::from(flying) * 5).div_ceil(16).max(HASH_LOAD_MIN);
            assert!(
                counts.iter().all(|count| *count <= most),
                "{counts:?} of {flying}"
            );
            let owner = counts.iter().filter(|count| **count > 0).count();
            assert!(flying > 8 || owner == 1, "few are never spread");
        }
    }

    #[test]
    fn a_slow_start_gives_its_share_to_others() {
        for balance in Balance::ALL {
            if balance == Balance::ConsistentHash {
                continue;
            }
            let all = backends(&[1, 1, 1, 1]);
            let now = Instant::now();
            all[0].warm_up(now);
            let question = Question {
                now: now + Duration::from_secs(5),
                slow_start: Some(Duration::from_secs(10)),
                ..question(balance)
            };
            // After half of the time it gets 55 % of its quarter.
            let shares = shares(&all, question, 20_000, |_| {});
            assert!(shares[0].abs_diff(2_750) < 300, "{balance}: {shares:?}");
            assert!(
                shares[1..].iter().all(|s| s.abs_diff(5_750) < 400),
                "{balance}: {shares:?}"
            );
        }
    }
}
