//! Whether cuts have one cause. Tunnels that end without a close frame, again and again after the
//! same time, were ended by a timer of something on the way; those of people who leave end at any
//! time. Pure.
//!
//! A group of cuts within a window is taken for a timer's when chance would not make one like it
//! even once in a million looks: from how many cuts there are around it follows how many fall by
//! chance within the width of the group (Poisson).

/// Widest window, in seconds: 60.0 ± 0.3.
const WINDOW: f64 = 0.6;
/// Of the time, where that is shorter.
const WINDOW_SHARE: f64 = 0.15;
/// Shares of the widest window that are looked through: a sharp timer shows in a narrow one.
const SHARES: [f64; 3] = [1.0, 4.0, 16.0];
/// Nothing is said about shorter times.
const SHORTEST: f64 = 1.0;
/// Groups are taken to be at least so wide.
const NARROWEST: f64 = 0.01;
/// Fewer cuts say nothing.
const LEAST: usize = 3;
/// A group that chance makes more often is none.
const CHANCE: f64 = 1e-6;
/// One that it makes more often does not even cast doubt on another.
const DOUBT: f64 = 1e-2;
/// Cuts within so many seconds, of tunnels that began apart, were made by one event.
const EVENT: f64 = 1.0;
/// And their times differ by more than the moments at which they were cut.
const EVENT_SLACK: f64 = 0.05;

/// What a cut is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Since anything passed.
    Silence,
    /// Since the backend said something.
    BackendSilence,
    /// Since the client did.
    ClientSilence,
    /// Since the tunnel began.
    Age,
}

impl Measure {
    /// The likeliest first.
    pub(crate) const ALL: [Self; 4] = [
        Self::Silence,
        Self::BackendSilence,
        Self::ClientSilence,
        Self::Age,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::BackendSilence => "backend_silence",
            Self::ClientSilence => "client_silence",
            Self::Age => "age",
        }
    }
}

/// One cut; all in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// When, by any clock.
    pub(crate) at: f64,
    pub(crate) silence: f64,
    pub(crate) backend_silence: f64,
    pub(crate) client_silence: f64,
    pub(crate) age: f64,
}

impl Cut {
    fn by(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Silence => self.silence,
            Measure::BackendSilence => self.backend_silence,
            Measure::ClientSilence => self.client_silence,
            Measure::Age => self.age,
        }
    }
}

/// Cuts with one cause.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) measure: Measure,
    /// After so many seconds.
    pub(crate) seconds: f64,
    pub(crate) count: usize,
    /// Of so many cuts that were looked at.
    pub(crate) of: usize,
}

impl Cluster {
    /// True when both may be of one timer.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.measure == other.measure && (self.seconds - other.seconds).abs() < 1.0
    }

    /// True when its timer may have made the cut.
    pub(crate) fn explains(&self, cut: &Cut) -> bool {
        (cut.by(self.measure) - self.seconds).abs() < 1.0
    }
}

/// The largest group of `cuts` with one cause, if there is one.
pub(crate) fn find(cuts: &[Cut]) -> Option<Cluster> {
    let mut best: Option<Cluster> = None;
    for measure in Measure::ALL {
        let found = largest(cuts, measure);
        // Of equals the likelier measure stays: a tunnel on which nothing passed is as old as silent.
        best = match (best, found) {
            (Some(best), Some(found)) if found.count <= best.count => Some(best),
            (best, found) => found.or(best),
        };
    }
    best
}

/// Cuts by one measure, in its order.
struct Sorted(Vec<(f64, f64)>);

impl Sorted {
    fn new(cuts: &[Cut], measure: Measure) -> Self {
        let mut all: Vec<_> = cuts.iter().map(|cut| (cut.by(measure), cut.at)).collect();
        all.sort_by(|left, right| left.0.total_cmp(&right.0));
        Self(all)
    }

    /// The places of values in `from..=to`.
    fn between(&self, from: f64, to: f64) -> std::ops::Range<usize> {
        let begin = self.0.partition_point(|(value, _)| *value < from);
        let end = self.0.partition_point(|(value, _)| *value <= to);
        begin..end.max(begin)
    }

    fn get(&self, places: std::ops::Range<usize>) -> &[(f64, f64)] {
        self.0.get(places).unwrap_or_default()
    }
}

/// A group of cuts by one measure.
struct Group {
    from: f64,
    seconds: f64,
    count: usize,
    width: f64,
    /// How likely chance makes one like it.
    chance: f64,
}

fn largest(cuts: &[Cut], measure: Measure) -> Option<Cluster> {
    let sorted = Sorted::new(cuts, measure);
    let looks = (cuts.len() * Measure::ALL.len() * SHARES.len()) as f64;
    let mut groups = Vec::new();
    for (first, _) in sorted.0.iter().filter(|(value, _)| *value >= SHORTEST) {
        for share in SHARES {
            let width = WINDOW.min(first * WINDOW_SHARE) / share;
            let members = sorted.get(sorted.between(*first, first + width));
            if members.len() < LEAST {
                continue;
            }
            let chance = chance(&sorted, members, width) * looks;
            if chance <= DOUBT {
                groups.push(Group {
                    from: *first,
                    seconds: members.get(members.len() / 2)?.0,
                    count: members.len(),
                    width,
                    chance: if is_event(members) { 1.0 } else { chance },
                });
            }
        }
    }
    // A timer lets few live on: of those that reached its time it has at least half.
    let sure = groups.iter().filter(|group| {
        let reached = sorted.between(group.from, f64::INFINITY).len();
        group.chance <= CHANCE && 2 * group.count >= reached
    });
    let best = sure.max_by_key(|group| group.count)?;
    // Several groups of that size are the habits of a program, not one timer.
    let rival = groups.iter().any(|group| {
        let apart = (group.seconds - best.seconds).abs() > best.width.max(group.width);
        apart && 2 * group.count > best.count
    });
    (!rival).then_some(Cluster {
        measure,
        seconds: best.seconds,
        count: best.count,
        of: cuts.len(),
    })
}

/// How likely chance makes a group like this of the cuts around it: where they lie densest, on
/// either side and further away.
fn chance(sorted: &Sorted, members: &[(f64, f64)], width: f64) -> f64 {
    let (Some((low, _)), Some((high, _))) = (members.first(), members.last()) else {
        return 1.0;
    };
    let count = |from: f64, to: f64| sorted.between(from, to).len() as f64;
    let spread = (high - low).max(NARROWEST);
    let below = |from: f64| count(from, *low) - count(*low, *low);
    let above = |to: f64| count(*high, to) - count(*high, *high);
    let (half, double, near) = (low / 2.0, high * 2.0, 3.0 * width);
    let densest = [
        (below(half) + above(double) + 1.0) / (double - half - spread),
        below(half) / half,
        below(low - near) / near,
        above(high + near) / near,
    ]
    .into_iter()
    .fold(0.0, f64::max);
    // The first one makes the place; the others have to fall beside it.
    at_least(members.len().saturating_sub(1), spread * densest)
}

/// The probability of at least `count` events where `mean` are expected (Poisson).
fn at_least(count: usize, mean: f64) -> f64 {
    if mean >= count as f64 {
        return 1.0;
    }
    let mut term = (-mean).exp();
    for number in 1..=count {
        term *= mean / number as f64;
    }
    let mut sum = term;
    let mut number = count;
    while term > sum * f64::EPSILON {
        number += 1;
        term *= mean / number as f64;
        sum += term;
    }
    sum
}

/// True when all were cut at one moment and had begun apart: a proxy that was restarted, a network
/// that broke.
fn is_event(members: &[(f64, f64)]) -> bool {
    let spread = |pick: fn(&(f64, f64)) -> f64| {
        let values = || members.iter().map(pick);
        values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min)
    };
    let (times, moments) = (spread(|member| member.0), spread(|member| member.1));
    moments <= EVENT && times > moments + EVENT_SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator with a printed seed: failures can be repeated.
    struct Random(u64);

    impl Random {
        /// In 0..1.
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.next()).sum::<f64>() - 6.0
        }
    }

    const SEED: u64 = 0x00d0_c70e_5eed_0001;
    /// As many cuts as are kept of one side of a route.
    const KEPT: usize = 100;

    fn silent(at: f64, silence: f64) -> Cut {
        Cut {
            at,
            silence,
            backend_silence: silence,
            client_silence: silence,
            age: silence,
        }
    }

    #[test]
    fn a_timer_is_named_after_few_cuts() {
        let mut random = Random(SEED);
        for (seconds, jitter) in [
            (60.0, 0.02),
            (60.0, 0.3),
            (30.0, 0.1),
            (350.0, 0.3),
            (3600.0, 0.3),
            (2.0, 0.01),
        ] {
            for round in 0..50 {
                let mut cuts = Vec::new();
                for number in 0..6 {
                    let late = jitter * (2.0 * random.next() - 1.0);
                    cuts.push(silent(f64::from(number) * 7.0, seconds + late));
                }
                let cluster =
                    find(&cuts).unwrap_or_else(|| panic!("{seconds} ± {jitter}, round {round}"));
                assert_eq!(
                    (cluster.measure, cluster.count, cluster.of),
                    (Measure::Silence, 6, 6)
                );
                assert!((cluster.seconds - seconds).abs() <= 0.3);
            }
        }
        let sharp: Vec<_> = (0..3)
            .map(|n| silent(f64::from(n) * 11.0, 60.004 + f64::from(n) * 0.002))
            .collect();
        assert_eq!(find(&sharp).map(|cluster| cluster.count), Some(3));
        assert_eq!(find(&sharp[..2]), None);
    }

    #[test]
    fn a_timer_is_found_among_people_who_leave() {
        let mut random = Random(SEED);
        let mut found = 0;
        for _ in 0..100 {
            let mut cuts = Vec::new();
            for number in 0..60_u32 {
                let at = f64::from(number) * 13.0;
                cuts.push(if number % 5 == 0 {
                    silent(at, 60.0 + 0.05 * random.next())
                } else {
                    silent(at, -20.0 * random.next().ln())
                });
            }
            if let Some(cluster) = find(&cuts) {
                assert!((cluster.seconds - 60.0).abs() < 0.3, "{cluster:?}");
                assert!(cluster.count >= 12 && cluster.of == 60, "{cluster:?}");
                found += 1;
            }
        }
        // Now and then people leave together, too, and make it doubtful.
        assert!(found >= 95, "{found}");
    }

    #[test]
    fn age_and_silence_are_told_apart() {
        let mut random = Random(SEED);
        let mut cuts = |cut: &dyn Fn(f64, f64, f64) -> Cut| {
            (0..12)
                .map(|number| {
                    let (one, two) = (40.0 * random.next(), 40.0 * random.next());
                    cut(f64::from(number) * 17.0, one, two)
                })
                .collect::<Vec<_>>()
        };
        let old = cuts(&|at, one, two| Cut {
            silence: one.min(two),
            backend_silence: one,
            client_silence: two,
            ..silent(at, 900.1)
        });
        let found = find(&old).unwrap();
        assert_eq!((found.measure, found.count), (Measure::Age, 12));
        // The client talks, the backend does not: nginx counts the backend's bytes alone.
        let one_way = cuts(&|at, one, two| Cut {
            silence: one,
            client_silence: one,
            age: 60.0 + two * 9.0,
            ..silent(at, 60.03)
        });
        let found = find(&one_way).unwrap();
        assert_eq!((found.measure, found.count), (Measure::BackendSilence, 12));
        let chatty = cuts(&|at, one, two| Cut {
            age: 100.0 + one * 50.0,
            backend_silence: 100.0 + one,
            client_silence: 100.0 + two,
            ..silent(at, 100.01)
        });
        assert_eq!(find(&chatty).unwrap().measure, Measure::Silence);
    }

    #[test]
    fn chance_is_never_named() {
        println!("seed {SEED:#x}");
        let mut random = Random(SEED);
        type Shape = (&'static str, fn(&mut Random) -> f64);
        let shapes: [Shape; 7] = [
            ("any time within two minutes", |r| 120.0 * r.next()),
            ("within five seconds", |r| 5.0 * r.next()),
            ("memoryless, 20 s", |r| -20.0 * r.next().ln()),
            ("memoryless, 1 s", |r| -r.next().ln()),
            ("about a minute", |r| 60.0 + 3.0 * r.normal()),
            ("whole seconds", |r| {
                (1.0 + 12.0 * r.next()).floor() + 0.004 * r.next()
            }),
            ("long tails", |r| r.next().powi(-2)),
        ];
        for (name, shape) in shapes {
            let mut kept = std::collections::VecDeque::new();
            let mut at = 0.0;
            for number in 0..500 {
                at += 5.0 * random.next();
                let (one, two) = (shape(&mut random), shape(&mut random));
                kept.push_back(Cut {
                    at,
                    silence: one.min(two),
                    backend_silence: one,
                    client_silence: two,
                    age: one.max(two) + shape(&mut random),
                });
                if kept.len() > KEPT {
                    kept.pop_front();
                }
                let found = find(kept.make_contiguous());
                assert_eq!(found, None, "{name}, cut {number}");
            }
        }
    }

    #[test]
    fn what_breaks_all_at_once_is_no_timer() {
        let mut random = Random(SEED);
        for round in 0..20 {
            // Begun within two seconds, cut together a minute later.
            let cuts: Vec<_> = (0..80)
                .map(|_| silent(1_000.0 + 0.01 * random.next(), 58.0 + 2.0 * random.next()))
                .collect();
            assert_eq!(find(&cuts), None, "round {round}");
        }
        // Begun together and cut together: a timer would look the same.
        let cuts: Vec<_> = (0..6)
            .map(|n| silent(1_000.0 + f64::from(n) * 0.01, 60.0 + f64::from(n) * 0.01))
            .collect();
        assert_eq!(find(&cuts).map(|cluster| cluster.count), Some(6));
    }
}
