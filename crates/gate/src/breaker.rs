//! Gives a failing service a rest: closed, open, or half open with one request on trial. Pure: it
//! is given the time.

use std::time::{Duration, Instant};

use crate::settings::BreakerSettings;

/// The time that is looked at has so many parts.
const PARTS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    requests: u32,
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    /// Until then nothing passes.
    Open(Instant),
    /// One request is on its way since then.
    Trial(Instant),
}

/// What changed with the end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Opened,
    Closed,
}

/// The breaker of one service.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    state: State,
    parts: [Part; PARTS],
    current: usize,
    /// When the current part began.
    since: Instant,
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Closed,
            parts: [Part::default(); PARTS],
            current: 0,
            since: now,
        }
    }

    /// Passes a request, or says how long nothing passes.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed => Ok(()),
            State::Open(until) if now < until => Err(until - now),
            // A trial that never ended is given up after as long as the rest took.
            State::Trial(since) if now < since + self.settings.time => {
                Err(since + self.settings.time - now)
            }
            State::Open(_) | State::Trial(_) => {
                self.state = State::Trial(now);
                Ok(())
            }
        }
    }

    /// The end of a request that was admitted.
    pub(crate) fn ended(&mut self, failed: bool, now: Instant) -> Option<Change> {
        match self.state {
            State::Trial(_) if failed => {
                self.state = State::Open(now + self.settings.time);
                Some(Change::Opened)
            }
            State::Trial(_) => {
                self.state = State::Closed;
                self.parts = [Part::default(); PARTS];
                self.since = now;
                Some(Change::Closed)
            }
            // Begun before it opened.
            State::Open(_) => None,
            State::Closed => {
                self.turn(now);
                if let Some(part) = self.parts.get_mut(self.current) {
                    part.requests = part.requests.saturating_add(1);
                    part.failures = part.failures.saturating_add(u32::from(failed));
                }
                (failed && self.is_too_much()).then(|| {
                    self.state = State::Open(now + self.settings.time);
                    Change::Opened
                })
            }
        }
    }

    fn turn(&mut self, now: Instant) {
        let part = self.settings.within / u32::try_from(PARTS).unwrap_or(1);
        let mut turned = 0;
        while now.saturating_duration_since(self.since) >= part {
            self.since += part;
            turned += 1;
            if turned > PARTS {
                self.since = now;
                break;
            }
            self.current = (self.current + 1) % PARTS;
            if let Some(part) = self.parts.get_mut(self.current) {
                *part = Part::default();
            }
        }
    }

    fn is_too_much(&self) -> bool {
        let sum =
            |pick: fn(&Part) -> u32| self.parts.iter().map(|p| u64::from(pick(p))).sum::<u64>();
        let (requests, failures) = (sum(|p| p.requests), sum(|p| p.failures));
        let share = failures as f64 / requests.max(1) as f64;
        requests >= u64::from(self.settings.requests_min) && share >= self.settings.failures.value()
    }

    /// What operators call it.
    pub(crate) fn state(&self) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open(_) => "open",
            State::Trial(_) => "trial",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Chance;
    use crate::settings::Share;

    fn settings() -> BreakerSettings {
        BreakerSettings {
            failures: Share::new(0.5),
            requests_min: 10,
            within: Duration::from_secs(10),
            time: Duration::from_secs(5),
        }
    }

    #[test]
    fn it_opens_rests_tries_and_closes() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(settings(), start);
        for _ in 0..9 {
            assert_eq!(breaker.ended(true, start), None, "too few to judge");
        }
        assert_eq!(breaker.ended(true, start), Some(Change::Opened));
        assert_eq!(breaker.admit(at(1)), Err(Duration::from_secs(4)));
        assert_eq!(breaker.admit(at(5)), Ok(()), "one tries");
        assert!(breaker.admit(at(5)).is_err(), "and no other");
        assert_eq!(breaker.ended(true, at(6)), Some(Change::Opened));
        assert_eq!(breaker.admit(at(11)), Ok(()));
        assert_eq!(breaker.admit(at(16)), Ok(()), "a lost trial is given up");
        assert_eq!(breaker.ended(false, at(17)), Some(Change::Closed));
        for _ in 0..9 {
            assert_eq!(breaker.ended(true, at(17)), None, "it begins anew");
        }
        // What is older than `within` does not count.
        assert_eq!(breaker.ended(true, at(40)), None);
    }

    #[test]
    fn it_opens_exactly_when_the_share_is_reached() {
        for seed in 1..40 {
            let chance = Chance::seeded(seed * 104_729);
            let start = Instant::now();
            let mut breaker = Breaker::new(settings(), start);
            let odds = chance.below(100);
            let (mut requests, mut failures) = (0_u64, 0_u64);
            for step in 0..200_u64 {
                // All within one window: nothing is forgotten.
                let now = start + Duration::from_millis(step);
                assert!(breaker.admit(now).is_ok(), "seed {seed}");
                let failed = chance.below(100) < odds;
                requests += 1;
                failures += u64::from(failed);
                let due = failed && requests >= 10 && failures * 2 >= requests;
                let opened = breaker.ended(failed, now).is_some();
                assert_eq!(opened, due, "seed {seed}: {failures} of {requests}");
                if opened {
                    assert!(breaker.admit(now + Duration::from_secs(4)).is_err());
                    break;
                }
            }
        }
    }
}
