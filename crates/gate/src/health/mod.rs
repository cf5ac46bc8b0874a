//! Are the backends well? Probes on the control runtime ask them (`keeper`), what they find is
//! one state for all threads, and what was found over days is kept (`uptime`).

pub mod answer;
mod grpc;
mod http2;
mod icmp;
pub(crate) mod keeper;
mod line;
mod probe;
pub(crate) mod uptime;

use std::time::{Duration, Instant};

/// What the probes of one backend found. Pure: it is given each outcome.
#[derive(Debug, Default)]
pub(crate) struct Health {
    verdict: Option<bool>,
    /// Outcomes in a row against the verdict.
    against: u32,
    /// When the verdict last changed.
    pub(crate) since: Option<Instant>,
    /// What the last probe found.
    pub(crate) last: Option<Outcome>,
    pub(crate) good: u64,
    pub(crate) bad: u64,
    /// Why no probe can be sent.
    pub(crate) unable: Option<String>,
}

/// What one probe found.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Why it is bad.
    pub(crate) bad: Option<String>,
    pub(crate) took: Duration,
}

impl Health {
    /// Notes an outcome. Says whether the backend is well when that changed: the first outcome
    /// counts alone, then `rise` good or `fall` bad ones in a row do.
    pub(crate) fn note(
        &mut self,
        outcome: Outcome,
        (rise, fall): (u32, u32),
        now: Instant,
    ) -> Option<bool> {
        let good = outcome.bad.is_none();
        if good {
            self.good += 1;
        } else {
            self.bad += 1;
        }
        self.last = Some(outcome);
        let needed = match self.verdict {
            None => 1,
            Some(verdict) if verdict == good => {
                self.against = 0;
                return None;
            }
            Some(_) if good => rise,
            Some(_) => fall,
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.since = Some(now);
        // Until its first probe it counted as well.
        let before = self.verdict.replace(good).unwrap_or(true);
        (before != good).then_some(good)
    }

    /// What the probes decided; `None` before the first.
    pub(crate) fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// The next outcome counts alone again.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            good: self.good,
            bad: self.bad,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_outcome_counts_alone_then_rise_and_fall() {
        let check = |outcomes: &str, expected: &str| {
            let mut health = Health::default();
            let now = Instant::now();
            let mut seen = String::new();
            for outcome in outcomes.chars() {
                let bad = (outcome == '-').then(|| "refused".to_owned());
                let took = Duration::ZERO;
                let changed = health.note(Outcome { bad, took }, (2, 3), now);
                seen.push(match changed {
                    None => '.',
                    Some(true) => 'U',
                    Some(false) => 'D',
                });
            }
            assert_eq!(seen, expected, "{outcomes}");
        };
        check("+", ".");
        check("-", "D");
        check("-++", "D.U");
        check("-+-+-++", "D.....U");
        check("+---", "...D");
        check("+--+--+---", ".........D");
        check("----++---", "D....U..D");
    }
}
