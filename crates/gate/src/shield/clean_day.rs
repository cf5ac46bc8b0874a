//! A day of clean traffic: whoever means well is not banned. One day is made up, with clients at their
//! worst; one was recorded from real clients of the real program (`tests/scanners/clean record`), and
//! goes through what judges requests, with the times of a day.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use super::judge::Standing;
use super::signal::{ONE, Signal};
use super::table::{Bounds, Table};
use super::tests::{BROWSER, at, client, seen};
use super::{Client, Shield, look_at};
use crate::http1::head::{HeadLimits, RequestHead};
use crate::reason::Reason;
use crate::settings::ShieldSettings;

/// What one kind of clean client does in a day; each entry is a time in seconds, target and status.
type Day = Vec<(i64, String, u16)>;

fn browser(seed: i64) -> Day {
    let mut day = Vec::new();
    for visit in 0..12 {
        let start = seed + visit * 7_200;
        for (offset, target, status) in [
            (0, "/", 200),
            (0, "/assets/app.1f3c.js", 200),
            (0, "/assets/app.9ab0.css", 200),
            (1, "/favicon.ico", 404),
            (1, "/apple-touch-icon.png", 404),
            (1, "/apple-touch-icon-precomposed.png", 404),
            (2, "/api/models", 200),
            (3, "/api/jobs?limit=50", 200),
            (5, "/api/jobs/01JD3ZK5T1M8Q4V0X6Y7N2B9CE", 200),
            (6, "/api/jobs/01JD3ZK5T1M8Q4V0X6Y7N2B9CE/events", 200),
            (9, "/assets/app.1f3c.js.map", 404),
            (20, "/index.php", 404),
            (25, "/api/sign-in", 401),
            (40, "/old-page.html", 404),
        ] {
            day.push((start + offset, target.to_owned(), status));
        }
    }
    day
}

fn tus(seed: i64) -> Day {
    let mut day = Vec::new();
    for upload in 0..40 {
        let start = seed + upload * 1_800;
        let place = format!("/api/uploads/{:026}", upload * 7_919);
        day.push((start, "/api/uploads".to_owned(), 201));
        for piece in 0..50 {
            day.push((start + piece, place.clone(), 204));
        }
        day.push((start + 60, place, 404));
    }
    day
}

/// It asks for things that are gone, all of them.
fn syncing_api(seed: i64) -> Day {
    (0..8_000)
        .map(|step| {
            (
                seed + step * 10,
                format!("/api/v2/items/{}", 100_000 + step * 37 % 9_000),
                404,
            )
        })
        .collect()
}

fn crawler(seed: i64) -> Day {
    let words = [
        "news", "blog", "shop", "team", "press", "jobs", "events", "docs", "faq", "forum",
    ];
    (0..9_000)
        .map(|step: i64| {
            let word = |place: i64| words[usize::try_from(step / place % 10).unwrap()];
            let (target, status) = match step % 10 {
                0 => ("/robots.txt".to_owned(), 404),
                1..6 => (format!("/{}/{}.php?id={step}", word(1), word(10)), 404),
                6 | 7 => (format!("/{}/{}/{}", word(100), word(10), word(1)), 404),
                _ => (format!("/{}", word(1)), 200),
            };
            (seed + step * 9, target, status)
        })
        .collect()
}

/// Two hundred people behind one address; one in ten follows an old link and mistypes a password.
fn mobile_nat(seed: i64) -> Day {
    let mut day: Day = Vec::new();
    for user in 0..200 {
        for visit in 0..30 {
            let start = seed + (user * 431 + visit * 2_879) % 86_000;
            let asked = browser(start).into_iter().take(14);
            let careless = (user + visit) % 10 == 0;
            day.extend(asked.filter(|(_, target, _)| {
                careless || !matches!(target.as_str(), "/index.php" | "/api/sign-in")
            }));
        }
    }
    day
}

#[test]
fn a_day_of_clean_traffic_bans_nobody() {
    let googlebot: &[u8] =
        b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    type Kind<'k> = (&'k str, &'k [u8], fn(i64) -> Day);
    let kinds: [Kind<'_>; 5] = [
        ("192.0.2.1", BROWSER, browser),
        ("192.0.2.2", b"tus-js-client", tus),
        ("192.0.2.3", b"python-requests/2.32", syncing_api),
        ("192.0.2.4", googlebot, crawler),
        ("192.0.2.5", BROWSER, mobile_nat),
    ];
    let table = Table::default();
    let rules = super::judge::Rules::default();
    let mut all = Vec::new();
    for (who, agent, day) in kinds {
        all.extend(
            day(0)
                .into_iter()
                .map(|(second, target, status)| (second, who, agent, target, status)),
        );
    }
    all.sort_by_key(|(second, ..)| *second);
    assert!(
        all.len() > 80_000 && all.last().unwrap().0 > 80_000,
        "{}",
        all.len()
    );
    let mut swept = 0;
    for (number, (second, who, agent, target, status)) in (0..).zip(&all) {
        let now = at(second * 1_000 + number % 1_000);
        if second - swept > 5 {
            swept = *second;
            table.sweep(&rules, now);
        }
        let mut seen = seen(agent, target, *status);
        if target == "/api/sign-in" {
            seen.marks = [Signal::FailedSignIn].into_iter().collect();
        }
        let noted = table.note(client(who), seen, (&rules, Bounds::default()), now);
        assert!(
            noted.ban.is_none(),
            "{who} at {second}: {target}: {:?}",
            noted.ban
        );
    }
}

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// One line of the recording.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    /// Which kind of client it was.
    kind: String,
    /// When, after the kind's first request.
    ms: i64,
    method: String,
    target: String,
    status: u16,
    agent: String,
}

impl Recorded {
    fn head(&self) -> RequestHead {
        let Self {
            method,
            target,
            agent,
            ..
        } = self;
        // Neither a referrer nor what a browser says of its purpose: harder than it was.
        let text =
            format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\nUser-Agent: {agent}\r\n\r\n");
        let limits = HeadLimits {
            bytes: 16 * 1024,
            fields: 10,
        };
        RequestHead::parse(text.as_bytes(), limits).unwrap()
    }

    /// What the hub says of a wrong password.
    fn is_failed_sign_in(&self) -> bool {
        self.target == "/api/sign-in" && self.status == 401
    }
}

fn recording() -> BTreeMap<String, Vec<Recorded>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/scanners/clean.jsonl"
    );
    let text = std::fs::read_to_string(path).unwrap();
    let mut kinds: BTreeMap<String, Vec<Recorded>> = BTreeMap::new();
    for line in text.lines() {
        let recorded: Recorded = serde_json::from_str(line).unwrap();
        kinds
            .entry(recorded.kind.clone())
            .or_default()
            .push(recorded);
    }
    kinds
}

/// Who is there on that day: a kind of the recording as so many clients, behind so many addresses, each
/// with so many visits.
struct Crowd {
    kind: &'static str,
    clients: u32,
    addresses: u32,
    visits: u32,
}

const CROWDS: [Crowd; 8] = [
    Crowd {
        kind: "web",
        clients: 100,
        addresses: 100,
        visits: 6,
    },
    // A mobile network: everybody behind one address.
    Crowd {
        kind: "phone",
        clients: 200,
        addresses: 1,
        visits: 5,
    },
    // An office behind one.
    Crowd {
        kind: "web",
        clients: 40,
        addresses: 1,
        visits: 6,
    },
    Crowd {
        kind: "tus",
        clients: 30,
        addresses: 30,
        visits: 24,
    },
    Crowd {
        kind: "tuspy",
        clients: 30,
        addresses: 30,
        visits: 24,
    },
    Crowd {
        kind: "api",
        clients: 30,
        addresses: 30,
        visits: 24,
    },
    Crowd {
        kind: "curl",
        clients: 30,
        addresses: 30,
        visits: 24,
    },
    Crowd {
        kind: "crawler",
        clients: 5,
        addresses: 5,
        visits: 24,
    },
];

/// One request of the day: when, of which crowd, from where, which one.
type Asked<'r> = (i64, usize, Client, &'r Recorded);

/// The day: visits begin at any time, a third of them within the busiest hour; requests of one follow
/// each other as they were recorded.
fn day<'r>(
    kinds: &'r BTreeMap<String, Vec<Recorded>>,
    random: &mut fastrand::Rng,
) -> Vec<Asked<'r>> {
    let mut day = Vec::new();
    for (place, crowd) in CROWDS.iter().enumerate() {
        let requests = &kinds[crowd.kind];
        let network = u32::from(Ipv4Addr::new(198, 18, u8::try_from(place).unwrap(), 0));
        for number in 0..crowd.clients {
            let address = Ipv4Addr::from(network + number % crowd.addresses + 1);
            let who = Client::of(IpAddr::from(address));
            for _ in 0..crowd.visits {
                let begin = match random.u8(..3) {
                    0 => 12 * HOUR + random.i64(0..HOUR),
                    _ => random.i64(0..DAY),
                };
                day.extend(
                    requests
                        .iter()
                        .map(|asked| (begin + asked.ms, place, who, asked)),
                );
            }
        }
    }
    day.sort_by_key(|(when, place, ..)| (*when, *place));
    day
}

/// What became of one crowd.
#[derive(Debug, Default, Clone)]
struct Outcome {
    requests: usize,
    refused: usize,
    addresses: HashSet<Client>,
    top: u32,
    bans: usize,
}

fn replay(day: &[Asked<'_>]) -> Vec<Outcome> {
    let shield = Shield::new(&ShieldSettings::default());
    let bounds = shield.settings.bounds;
    let table = Table::default();
    let mut outcomes = vec![Outcome::default(); CROWDS.len() + 1];
    let mut swept = 0;
    for (when, place, who, asked) in day {
        let now = at(*when);
        // As the keeper does; who was swept begins anew, without its good requests.
        if when - swept >= 5_000 {
            swept = *when;
            table.sweep(&shield.rules, now);
        }
        let outcome = &mut outcomes[*place];
        outcome.requests += 1;
        outcome.refused += usize::from(asked.status >= 400);
        outcome.addresses.insert(*who);
        let standing = table.look(*who, true, || now);
        if matches!(standing, Standing::Banned(_)) {
            continue;
        }
        let head = asked.head();
        let answer = (asked.status, Reason::Done);
        let seen = look_at(&shield, &head, asked.is_failed_sign_in(), answer);
        if seen.marks.is_empty() && seen.missing.is_none() && standing == Standing::Clean {
            continue;
        }
        let noted = table.note(*who, seen, (&shield.rules, bounds), now);
        outcome.top = outcome.top.max(noted.score);
        if let Some(ban) = noted.ban {
            outcome.bans += 1;
            println!(
                "banned: {who}, a client of the kind {}: {}, {}",
                asked.kind,
                asked.target,
                ban.reason()
            );
        }
    }
    outcomes
}

/// A few requests of a scanner at noon: a replay that could not ban would prove nothing. It is the
/// last one of the outcomes.
fn scanner() -> Vec<Recorded> {
    let asked = |target: &&str| Recorded {
        kind: "scanner".to_owned(),
        ms: 12 * HOUR,
        method: "GET".to_owned(),
        target: (*target).to_owned(),
        status: 404,
        agent: String::from_utf8(BROWSER.to_vec()).unwrap(),
    };
    ["/.env", "/.git/HEAD", "/wp-login.php", "/x.bak"]
        .iter()
        .map(asked)
        .collect()
}

#[test]
fn a_recorded_day_of_clean_traffic_bans_nobody() {
    let kinds = recording();
    let names: Vec<_> = kinds.keys().map(String::as_str).collect();
    let wanted = ["api", "crawler", "curl", "phone", "tus", "tuspy", "web"];
    assert_eq!(names, wanted);
    let mut random = fastrand::Rng::with_seed(0x5eed);
    let mut day = day(&kinds, &mut random);
    let hours = (day.last().unwrap().0 - day[0].0 + HOUR / 2) / HOUR;
    assert_eq!(hours, 24);
    let scans = scanner();
    let noon = day.partition_point(|(when, ..)| *when < 12 * HOUR);
    let who = client("203.0.113.1");
    let scan = scans
        .iter()
        .map(|asked| (asked.ms, CROWDS.len(), who, asked));
    day.splice(noon..noon, scan);

    let mut outcomes = replay(&day);
    let hostile = outcomes.pop().unwrap();
    assert_eq!((hostile.requests, hostile.bans), (scans.len(), 1));
    println!("kind      clients  addresses  requests  refused  top score  bans");
    for (crowd, outcome) in CROWDS.iter().zip(&outcomes) {
        println!(
            "{:<9} {:>7}  {:>9}  {:>8}  {:>7}  {:>9.2}  {:>4}",
            crowd.kind,
            crowd.clients,
            outcome.addresses.len(),
            outcome.requests,
            outcome.refused,
            f64::from(outcome.top) / f64::from(ONE),
            outcome.bans
        );
        assert!(outcome.requests >= 8 * outcome.addresses.len());
    }
    let sum = |figure: fn(&Outcome) -> usize| outcomes.iter().map(figure).sum::<usize>();
    println!(
        "in all: {} requests from {} addresses in {hours} h, {} bans; a scanner among them is banned",
        sum(|outcome| outcome.requests),
        sum(|outcome| outcome.addresses.len()),
        sum(|outcome| outcome.bans)
    );
    assert_eq!(sum(|outcome| outcome.bans), 0);
    // What is clean is noted all the same, in vain or not.
    assert!(outcomes.iter().any(|outcome| outcome.top > 0));
    assert!(sum(|outcome| outcome.refused) > 10_000);
}
