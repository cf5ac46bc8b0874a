//! Who is left out for failing real requests, and until when. Pure: it is given the time.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::settings::EjectionSettings;

/// The backends of one service that are left out, by id.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ejections(BTreeMap<u64, Instant>);

impl Ejections {
    /// Leaves `id` out, which had `streak` failures in a row, unless that is too few, or too many
    /// of the `count` backends are out already. True when it is out from now on.
    pub(crate) fn failed(
        &mut self,
        (id, streak): (u64, u32),
        count: usize,
        settings: &EjectionSettings,
        now: Instant,
    ) -> bool {
        let due = streak >= settings.consecutive_failures;
        if !due || self.0.contains_key(&id) || self.0.len() >= settings.at_most.of(count) {
            return false;
        }
        self.0.insert(id, now + settings.time);
        true
    }

    /// Forgets those whose time is over.
    pub(crate) fn end(&mut self, now: Instant) {
        self.0.retain(|_, until| *until > now);
    }

    /// True when `id` is left out.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.0.contains_key(&id)
    }

    /// Forgets all but those that `keep` names: they are gone.
    pub(crate) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.0.retain(|id, _| keep(*id));
    }

    /// When the next one comes back.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::balance::Chance;
    use crate::settings::Share;

    #[test]
    fn never_more_than_at_most_and_never_longer_than_for() {
        for seed in 0..50 {
            let chance = Chance::seeded(seed * 7_919 + 13);
            let count = 1 + chance.below(12);
            let settings = EjectionSettings {
                consecutive_failures: 3,
                time: Duration::from_secs(10),
                at_most: Share::new(chance.below(11) as f64 / 10.0),
            };
            let mut ejections = Ejections::default();
            let mut now = Instant::now();
            let mut streaks = vec![0_u32; count];
            let mut out: BTreeMap<u64, Instant> = BTreeMap::new();
            for _ in 0..500 {
                now += Duration::from_millis(chance.below(900) as u64);
                ejections.end(now);
                out.retain(|_, until| *until > now);
                let same = (0..count as u64).all(|id| ejections.has(id) == out.contains_key(&id));
                assert!(same, "seed {seed}: {ejections:?} instead of {out:?}");
                let id = chance.below(count);
                if chance.below(4) == 0 {
                    streaks[id] = 0;
                    continue;
                }
                streaks[id] += 1;
                let ejected = ejections.failed((id as u64, streaks[id]), count, &settings, now);
                if ejected {
                    assert!(streaks[id] >= 3, "seed {seed}");
                    assert!(out.insert(id as u64, now + settings.time).is_none());
                    streaks[id] = 0;
                }
                assert!(out.len() <= settings.at_most.of(count), "seed {seed}");
                assert_eq!(ejections.next(), out.values().min().copied(), "seed {seed}");
            }
        }
    }
}
