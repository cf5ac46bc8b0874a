//! Is the client too slow? Pure: it is told how long was waited and how much came.

use std::time::Duration;

/// The window of `rate_min`, in seconds of waiting.
pub(crate) const WINDOW: u64 = 15;
const SECOND: Duration = Duration::from_secs(1);
const SLOTS: usize = 16;

/// Bytes per second of waiting, over a sliding window of [`WINDOW`] seconds.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    rate: u64,
    /// Bytes of the last 15 whole seconds of waiting, and of the running one.
    slots: [u64; SLOTS],
    current: usize,
    in_second: Duration,
    seconds: u64,
}

impl Meter {
    pub(crate) fn new(rate: u64) -> Self {
        Self {
            rate,
            slots: [0; SLOTS],
            current: 0,
            in_second: Duration::ZERO,
            seconds: 0,
        }
    }

    /// Until when to wait before the next [`Meter::waited`].
    pub(crate) fn next_check(&self) -> Duration {
        SECOND.saturating_sub(self.in_second)
    }

    pub(crate) fn received(&mut self, bytes: u64) {
        if let Some(slot) = self.slots.get_mut(self.current) {
            *slot = slot.saturating_add(bytes);
        }
    }

    /// Adds waiting; false when the last 15 s of it were slower than the rate.
    pub(crate) fn waited(&mut self, time: Duration) -> bool {
        self.in_second += time;
        while self.in_second >= SECOND {
            self.in_second -= SECOND;
            self.seconds += 1;
            if self.seconds >= WINDOW {
                // All slots but the oldest hold the last 15 whole seconds.
                let oldest = (self.current + 1) % SLOTS;
                let bytes: u64 = self
                    .slots
                    .iter()
                    .enumerate()
                    .filter(|(place, _)| *place != oldest)
                    .map(|(_, bytes)| bytes)
                    .sum();
                if bytes < self.rate.saturating_mul(WINDOW) {
                    return false;
                }
            }
            self.current = (self.current + 1) % SLOTS;
            if let Some(slot) = self.slots.get_mut(self.current) {
                *slot = 0;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` each `every`, and says after how many seconds the meter had enough.
    fn trips_after(rate: u64, every: Duration, bytes: u64, seconds: u64) -> Option<u64> {
        let mut meter = Meter::new(rate);
        let mut time = Duration::ZERO;
        while time < Duration::from_secs(seconds) {
            if !meter.waited(every) {
                return Some((time + every).as_secs());
            }
            time += every;
            meter.received(bytes);
        }
        None
    }

    #[test]
    fn a_client_is_too_slow_after_15_seconds_below_the_rate() {
        let ms = Duration::from_millis;
        assert_eq!(trips_after(240, ms(1_000), 0, 100), Some(15));
        assert_eq!(trips_after(240, ms(250), 0, 100), Some(15));
        assert_eq!(trips_after(240, ms(1_000), 239, 100), Some(15));
        assert_eq!(trips_after(240, ms(1_000), 300, 1_000), None);
        assert_eq!(trips_after(240, ms(100), 30, 1_000), None);
        assert_eq!(trips_after(240, ms(10_000), 2_000, 1_000), Some(20));
        assert_eq!(trips_after(240, ms(10_000), 4_000, 1_000), None);
    }

    #[test]
    fn a_burst_counts_only_within_its_window() {
        let mut meter = Meter::new(240);
        meter.received(1 << 30);
        for second in 1..=15 {
            assert!(meter.waited(SECOND), "second {second}");
        }
        assert!(!meter.waited(SECOND), "the burst left the window");
    }
}
