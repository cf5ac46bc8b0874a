//! Nanoseconds per look-up, for growing rule sets, beside other structures. `bench/ipfilter/run`
//! runs it; docs/benchmarks.md says what came out.
//!
//! A figure is the median over rounds of: the time of 10⁶ look-ups of prepared addresses, divided
//! by 10⁶. `free`: no look-up waits for another; `chain`: each waits for the one before. Sizes and
//! structures take turns, so each first asks about a quarter of its addresses untimed, the last
//! ones: what the one before left in the cache is no property of this one.

mod data;
mod engines;
mod report;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use data::{Addresses, Family};
use engines::{Engine, Kind};
use report::Row;

/// Counts the bytes that are held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ADDRESSES: usize = 1_000_000;
/// One of so many addresses is asked about before the clock starts.
const WARM_SHARE: usize = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let own_only = arguments.iter().any(|argument| argument == "--own");
    let rounds = if quick { 3 } else { 7 };
    let sizes: &[usize] = if quick {
        &[10, 1_000, 100_000, 1_000_000]
    } else {
        &[10, 1_000, 100_000, 1_000_000, 5_000_000]
    };
    let mut rows = Vec::new();
    for family in [Family::V4, Family::V6, Family::V4Clustered, Family::V6Clustered] {
        let of_family = one_family(family, sizes, rounds, own_only);
        of_family.iter().for_each(|row| println!("{row}"));
        rows.extend(of_family);
    }
    println!("\n{}", report::table(&rows));
    if let Some(place) = arguments.iter().position(|argument| argument == "--svg")
        && let Some(file) = arguments.get(place + 1)
        && let Err(error) = std::fs::write(file, report::plot(&rows))
    {
        eprintln!("error: {file} can't be written: {error}");
    }
}

/// One structure with rules of one size, and what it was asked.
struct Built {
    engine: Box<dyn Engine>,
    seconds: f64,
    bytes: usize,
    /// Nanoseconds of each round, for each set of addresses.
    free: Vec<Vec<f64>>,
    chain: Vec<Vec<f64>>,
}

/// All structures at one size.
struct Case {
    size: usize,
    sets: Vec<(&'static str, Addresses)>,
    built: Vec<Built>,
}

/// All sizes and structures take turns, round by round: a noisy minute hits all of them, and what
/// is compared was measured in the same ones.
fn one_family(family: Family, sizes: &[usize], rounds: usize, own_only: bool) -> Vec<Row> {
    let mut cases: Vec<Case> = sizes.iter().map(|size| build(family, *size, own_only)).collect();
    for round in 1..=rounds {
        eprintln!("{}: round {round} of {rounds}", family.name());
        cases.iter_mut().for_each(one_round);
    }
    cases.into_iter().flat_map(|case| rows(family, case)).collect()
}

fn build(family: Family, size: usize, own_only: bool) -> Case {
    let rules = data::rules(family, size, 7);
    let sets = [
        ("uniform", data::uniform(family, ADDRESSES, 11)),
        ("hit", data::hits(&rules, ADDRESSES, 13)),
        ("miss", data::misses(family, &rules, ADDRESSES, 17)),
    ];
    let sets: Vec<_> = sets
        .iter()
        .filter(|(_, addresses)| !addresses.is_empty())
        .map(|(name, addresses)| (*name, Addresses::of(family, addresses)))
        .collect();
    let mut built = Vec::new();
    for kind in Kind::ALL {
        if (own_only && *kind != Kind::Munjigi) || !kind.can(family, size) {
            continue;
        }
        let source = engines::prepare(*kind, family, &rules);
        let before = HELD.load(Ordering::Relaxed);
        let start = processor_time();
        let Some(engine) = engines::build(*kind, family, &source) else {
            continue;
        };
        let seconds = processor_time() - start;
        let held = HELD.load(Ordering::Relaxed).saturating_sub(before);
        built.push(Built {
            bytes: engine.bytes().unwrap_or(held),
            engine,
            seconds,
            free: vec![Vec::new(); sets.len()],
            chain: vec![Vec::new(); sets.len()],
        });
    }
    Case { size, sets, built }
}

fn one_round(case: &mut Case) {
    for (at, (_, addresses)) in case.sets.iter().enumerate() {
        for built in &mut case.built {
            let engine = &built.engine;
            let count = engine.most(case.size, addresses.len());
            let other = addresses.len() - count / WARM_SHARE..addresses.len();
            black_box(engine.free(black_box(addresses), other));
            built.free[at].push(time(count, || engine.free(black_box(addresses), 0..count)));
            built.chain[at].push(time(count, || engine.chain(black_box(addresses), 0..count)));
        }
    }
}

fn rows(family: Family, case: Case) -> Vec<Row> {
    let Case { size, sets, built } = case;
    let row = |at: usize, addresses: &'static str, built: &Built| Row {
        family: family.name(),
        rules: size,
        engine: built.engine.name(),
        addresses,
        free: median(built.free[at].clone()),
        chain: median(built.chain[at].clone()),
        build: built.seconds,
        bytes_per_rule: built.bytes as f64 / size as f64,
    };
    let sets = sets.iter().enumerate();
    sets.flat_map(|(at, (name, _))| built.iter().map(move |built| (at, *name, built)))
        .map(|(at, name, built)| row(at, name, built))
        .collect()
}

/// Nanoseconds of each of `count` look-ups.
fn time(count: usize, run: impl Fn() -> u64) -> f64 {
    let start = processor_time();
    black_box(run());
    (processor_time() - start) * 1e9 / count as f64
}

/// Seconds that this thread ran: what other programs took of the machine is left out.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
