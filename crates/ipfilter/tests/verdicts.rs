//! A million random verdicts over random rule sets equal those of a loop over all rules.
//!
//! The seed is printed; `MUNJIGI_SEED=N cargo test -p munjigi-ipfilter` runs it again.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::too_many_lines,
    reason = "random numbers are cut to size; the seed is printed; a case is one list of choices"
)]

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use munjigi_ipfilter::{Action, Kind, Order, RuleSet};

const VERDICTS: usize = 1_000_000;

#[expect(clippy::disallowed_methods, reason = "the seed may come from outside")]
fn seed() -> u64 {
    let seed = std::env::var("MUNJIGI_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("MUNJIGI_SEED={seed}");
    seed
}

/// One family's rule, as a person would check it.
struct Simple {
    v6: bool,
    first: u128,
    last: u128,
    action: Action,
    line: u32,
}

/// Random rules as text and as ranges, and addresses worth asking about.
struct Case {
    text: String,
    rules: Vec<Simple>,
    order: Order,
    default: Action,
    borders: Vec<IpAddr>,
}

fn address(random: &mut Rng, v6: bool, near: &[u128]) -> u128 {
    let bits = if v6 { 128 } else { 32 };
    let mask = u128::MAX >> (128 - bits);
    // Rules that lie together: the beginning of an earlier one, other bits behind it.
    if !near.is_empty() && random.u32(..3) > 0 {
        let keep = random.u32(..=bits);
        let host = mask.checked_shr(keep).unwrap_or(0);
        return near[random.usize(..near.len())] & !host & mask | random.u128(..) & host;
    }
    let wide = random.u128(..);
    // Few of the first bits, so that wide rules meet narrow ones.
    match random.u32(..5) {
        0 => wide & mask,
        1 => wide & mask & (mask >> 1 | mask << 3),
        2 => wide & mask >> random.u32(..bits),
        3 if v6 => 0xffff << 32 | wide & u128::from(u32::MAX),
        _ => (wide & 0xff) | (wide & mask) >> (bits - 4) << (bits - 4),
    }
}

fn ip(v6: bool, value: u128) -> IpAddr {
    if v6 {
        Ipv6Addr::from(value).into()
    } else {
        Ipv4Addr::from(value as u32).into()
    }
}

fn is_mapped(value: u128) -> bool {
    value >> 32 == 0xffff
}

fn case(random: &mut Rng) -> Case {
    let mut case = Case {
        text: String::new(),
        rules: Vec::new(),
        order: if random.bool() {
            Order::AllowFirst
        } else {
            Order::DenyFirst
        },
        default: if random.bool() {
            Action::Allow
        } else {
            Action::Deny
        },
        borders: Vec::new(),
    };
    writeln!(case.text, "order {}", case.order).unwrap();
    writeln!(case.text, "default {}", case.default == Action::Allow).unwrap();
    let count = match random.u32(..100) {
        0..10 => random.u32(..4),
        10..90 => random.u32(..60),
        90..99 => random.u32(..600),
        _ => random.u32(..6_000),
    };
    let (mut near4, mut near6) = (Vec::new(), Vec::new());
    for line in 3..count + 3 {
        let v6 = random.bool();
        let near = if v6 { &mut near6 } else { &mut near4 };
        let bits: u32 = if v6 { 128 } else { 32 };
        let base = address(random, v6, near);
        near.push(base);
        let mask = u128::MAX >> (128 - bits);
        let action = if random.bool() {
            Action::Allow
        } else {
            Action::Deny
        };
        let mut add = |v6, first, last| {
            case.rules.push(Simple {
                v6,
                first,
                last,
                action,
                line,
            });
        };
        let pattern = match random.u32(..20) {
            0 => {
                add(false, 0, u128::from(u32::MAX));
                add(true, 0, u128::MAX);
                "all".to_owned()
            }
            1..4 => {
                let other = address(random, v6, near);
                let (first, last) = (base.min(other), base.max(other));
                let mapped = v6 && is_mapped(first) && is_mapped(last);
                let cut = if mapped { u128::from(u32::MAX) } else { mask };
                add(v6 && !mapped, first & cut, last & cut);
                format!("{}-{}", ip(v6, first), ip(v6, last))
            }
            4..6 if !v6 => {
                let keep = 8 * random.u32(1..=3);
                let octets = Ipv4Addr::from(base as u32).octets();
                let shown: Vec<_> = octets[..keep as usize / 8]
                    .iter()
                    .map(u8::to_string)
                    .collect();
                let host = mask >> keep;
                add(false, base & !host, base | host);
                format!("{}.*", shown.join("."))
            }
            _ => {
                let prefix = match random.u32(..3) {
                    0 => bits,
                    1 => random.u32(..=bits),
                    _ => bits - random.u32(..bits / 4),
                };
                let host = mask.checked_shr(prefix).unwrap_or(0);
                if v6 && prefix >= 96 && is_mapped(base) {
                    let low = u128::from(u32::MAX);
                    add(false, base & !host & low, (base | host) & low);
                } else {
                    add(v6, base & !host, base | host);
                }
                format!("{}/{prefix}", ip(v6, base))
            }
        };
        writeln!(case.text, "{action} from {pattern}").unwrap();
    }
    for rule in &case.rules {
        let most = if rule.v6 {
            u128::MAX
        } else {
            u128::from(u32::MAX)
        };
        for at in [rule.first, rule.last] {
            case.borders.push(ip(rule.v6, at));
            case.borders.push(ip(rule.v6, at.saturating_sub(1)));
            case.borders
                .push(ip(rule.v6, at.saturating_add(1).min(most)));
        }
    }
    case
}

/// The verdict, by looking at every rule.
fn brute_force(case: &Case, address: IpAddr) -> (bool, Option<u32>) {
    let (v6, key) = match address.to_canonical() {
        IpAddr::V4(v4) => (false, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (true, u128::from(v6)),
    };
    let second = match case.order.first() {
        Action::Allow => Action::Deny,
        Action::Deny => Action::Allow,
    };
    for action in [case.order.first(), second] {
        let best = case
            .rules
            .iter()
            .filter(|rule| rule.v6 == v6 && rule.action == action)
            .filter(|rule| (rule.first..=rule.last).contains(&key))
            .min_by_key(|rule| (rule.last - rule.first, rule.line));
        if let Some(rule) = best {
            return (action == Action::Allow, Some(rule.line));
        }
    }
    (case.default == Action::Allow, None)
}

#[test]
fn a_million_verdicts_equal_brute_force() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let (mut done, mut sets) = (0, 0);
    while done < VERDICTS {
        let case = case(&mut random);
        let rules = RuleSet::parse(&case.text).unwrap_or_else(|problems| {
            panic!("seed {seed}: {problems:?}\n{}", case.text);
        });
        let reopened = RuleSet::from_bytes(rules.as_bytes()).unwrap();
        sets += 1;
        for turn in 0..500 {
            let near: Vec<u128> = case.rules.iter().map(|rule| rule.first).collect();
            let address = if case.borders.is_empty() || turn % 3 == 0 {
                let v6 = random.bool();
                ip(v6, address(&mut random, v6, &near))
            } else {
                case.borders[random.usize(..case.borders.len())]
            };
            let verdict = rules.verdict(address);
            let (allow, line) = brute_force(&case, address);
            assert_eq!(
                (verdict.allow, verdict.rule.map(|rule| rule.line)),
                (allow, line),
                "seed {seed}, {address}\n{}",
                case.text
            );
            assert_eq!(reopened.verdict(address), verdict);
            done += 1;
        }
    }
    println!("{done} verdicts over {sets} rule sets");
}

#[test]
fn a_rule_changes_no_verdict_outside_its_addresses() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    for _ in 0..300 {
        let case = case(&mut random);
        let before = RuleSet::parse(&case.text).unwrap();
        let v6 = random.bool();
        let bits = if v6 { 128 } else { 32 };
        let base = address(&mut random, v6, &[]);
        let prefix = random.u32(..=bits);
        let added = format!("{}deny from {}/{prefix}\n", case.text, ip(v6, base));
        let after = RuleSet::parse(&added).unwrap();
        let host = (u128::MAX >> (128 - bits)).checked_shr(prefix).unwrap_or(0);
        for address in case.borders {
            let inside = match address.to_canonical() {
                IpAddr::V4(v4) => !v6 && (u128::from(u32::from(v4)) ^ base) & !host == 0,
                IpAddr::V6(address) => v6 && (u128::from(address) ^ base) & !host == 0,
            };
            if !(inside || v6 && is_mapped(base)) {
                let (old, new) = (before.verdict(address), after.verdict(address));
                assert_eq!(old, new, "seed {seed}, {address}\n{added}");
            }
        }
    }
}

#[test]
fn lint_names_the_rules_that_never_decide() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    for _ in 0..300 {
        let case = case(&mut random);
        let rules = RuleSet::parse(&case.text).unwrap();
        // A rule of IPv6 may decide right beside the mapped addresses, which it never does.
        let beside = [ip(true, 0xfffe_ffff_ffff), ip(true, 0x1_0000_0000_0000)];
        let mut decides: Vec<u32> = case
            .borders
            .iter()
            .chain(&beside)
            .filter_map(|address| brute_force(&case, *address).1)
            .collect();
        decides.sort_unstable();
        for problem in rules.lint() {
            match problem.kind {
                Kind::Unaligned { .. } => {}
                Kind::Duplicate { .. }
                | Kind::Overruled { .. }
                | Kind::Covered { .. }
                | Kind::Unasked => {
                    assert!(
                        decides.binary_search(&problem.line).is_err(),
                        "seed {seed}: {problem:?}\n{}",
                        case.text
                    );
                }
                _ => panic!("seed {seed}: {problem:?}"),
            }
        }
        // What decides an address decides one beside a border of some rule.
        let idle: Vec<u32> = rules
            .lint()
            .iter()
            .filter(|problem| !matches!(problem.kind, Kind::Unaligned { .. }))
            .map(|problem| problem.line)
            .collect();
        for rule in &case.rules {
            assert!(
                decides.binary_search(&rule.line).is_ok() || idle.contains(&rule.line),
                "seed {seed}: line {} neither decides nor is told\n{}",
                rule.line,
                case.text
            );
        }
    }
}

/// Whoever writes the compiled form by hand gets an error or odd verdicts, and harms nobody.
#[test]
fn changed_bytes_are_refused_or_harmless() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let (mut opened, mut refused) = (0, 0);
    while opened < 2_000 {
        let case = case(&mut random);
        let good = RuleSet::parse(&case.text).unwrap().as_bytes().to_vec();
        for _ in 0..40 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..6) {
                let place = random.usize(32..bytes.len());
                bytes[place] = match random.u32(..3) {
                    0 => random.u8(..),
                    1 => bytes[place] ^ 1 << random.u32(..8),
                    _ => [0, 0x7f, 0x80, 0xff][random.usize(..4)],
                };
            }
            munjigi_ipfilter::seal(&mut bytes);
            let Ok(rules) = RuleSet::from_bytes(bytes) else {
                refused += 1;
                continue;
            };
            opened += 1;
            for address in &case.borders {
                let _told = rules.explain(*address).to_string();
            }
            for v6 in [false, true] {
                let any = ip(v6, address(&mut random, v6, &[]));
                assert_eq!(rules.explain(any).verdict, rules.verdict(any));
            }
            let _problems = rules.lint();
        }
    }
    println!("{opened} changed rule sets opened, {refused} refused");
}

/// Enough of them for huge pages and for many records.
#[test]
fn many_rules_decide_where_they_stand() {
    let (count, step) = (150_000_u32, 28_111);
    let mut text = String::from("default true\n");
    for number in 0..count {
        let v4 = Ipv4Addr::from(number.wrapping_mul(step));
        writeln!(
            text,
            "deny from {v4}\ndeny from 2001:db8:{:x}:{:x}::/64",
            number >> 16,
            number & 0xffff
        )
        .unwrap();
    }
    let rules = RuleSet::parse(&text).unwrap();
    assert_eq!(rules.len(), 2 * count as usize);
    let line = |address: IpAddr| rules.verdict(address).rule.map(|rule| rule.line);
    for number in 0..count {
        let v4 = number.wrapping_mul(step);
        assert_eq!(line(Ipv4Addr::from(v4).into()), Some(2 * number + 2));
        assert_eq!(line(Ipv4Addr::from(v4 + 1).into()), None);
        let network = 0x2001_0db8_u128 << 96 | u128::from(number) << 64;
        let v6 = Ipv6Addr::from(network | u128::from(v4));
        assert_eq!(line(v6.into()), Some(2 * number + 3), "{v6}");
    }
    assert_eq!(line("2001:db8:ffff::1".parse().unwrap()), None);
}

/// Neighbours with a value each: more of them than a mark can number, where all else is sparse.
#[test]
fn crowded_neighbours_decide_each_for_themselves() {
    const FIRST: u32 = 10 << 24;
    const SINGLE: u32 = 2_000;
    const STEP: u32 = 8_387;
    const CROWD: u32 = 384;
    let crowded = FIRST + (128 << 16);
    let mut text = String::from("default true\n");
    for number in 0..CROWD {
        let v4 = Ipv4Addr::from(crowded + (number << 8));
        writeln!(text, "deny from {v4}/24").unwrap();
    }
    for number in 0..SINGLE {
        let v4 = Ipv4Addr::from(FIRST + number * STEP);
        writeln!(text, "deny from {v4}").unwrap();
    }
    // Several blocks of one value, between others.
    text.push_str("deny from 10.127.16.0/20\ndeny from 10.127.0.0/17\n");
    let (narrow, wide) = (CROWD + SINGLE + 2, CROWD + SINGLE + 3);
    let rules = RuleSet::parse(&text).unwrap();
    let expected = |v4: u32| {
        let single = (v4 - FIRST) / STEP;
        match (v4 >> 12, v4 >> 15, v4.checked_sub(crowded)) {
            _ if (v4 - FIRST).is_multiple_of(STEP) => Some(CROWD + 2 + single),
            (0xa7f1, ..) => Some(narrow),
            (_, 0x14fe, _) => Some(wide),
            (.., Some(place)) if place >> 8 < CROWD => Some((place >> 8) + 2),
            _ => None,
        }
    };
    for v4 in crowded - (1 << 16)..crowded + ((CROWD + 1) << 8) {
        let verdict = rules.verdict(Ipv4Addr::from(v4).into());
        let found = verdict.rule.map(|rule| rule.line);
        assert_eq!(found, expected(v4), "{}", Ipv4Addr::from(v4));
    }
}
