//! From rules that overlap to pieces that do not: which rule decides from which address on.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::key::Key;

/// What decides: a line and its action, as a number. 0 is no rule.
pub(crate) type Tag = u32;

/// The low byte of a tag is free for the table, but for its highest bit, which allows.
pub(crate) const ALLOW: Tag = 0x80;
pub(crate) const TAG_MASK: Tag = 0xffff_ff80;
/// The highest line that a tag can name.
pub(crate) const LINE_MAX: u32 = 0x00ff_ffff;

/// One rule for one family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule<K> {
    pub(crate) first: K,
    pub(crate) last: K,
    pub(crate) tag: Tag,
    /// Its place among all rules.
    pub(crate) id: u32,
}

/// Whether a rule decides anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not seen yet.
    Open,
    /// For at least one address.
    Decides,
    /// The rule with this tag says the same.
    Duplicate(Tag),
    /// One of the list that is asked first.
    Overruled(Tag),
    /// Narrower ones.
    Covered(Tag),
    /// What others leave of it nobody asks for: IPv4-mapped addresses.
    Unasked,
}

/// A rule as the heap sorts it: the one that decides is the least.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bid<K> {
    /// 0 for the list that is asked first.
    list: u8,
    size: K,
    tag: Tag,
    id: u32,
    last: K,
}

/// The pieces in order, the first one from address 0 on: each holds up to the next one. `allow_first`
/// says which list is asked first; `fates` gets an entry for each rule's id.
pub(crate) fn pieces<K: Key>(
    rules: &mut [Rule<K>],
    allow_first: bool,
    fates: &mut [Fate],
) -> Vec<(K, Tag)> {
    rules.sort_unstable_by_key(|rule| rule.first);
    let mut pieces: Vec<(K, Tag)> = Vec::with_capacity(rules.len() * 2 + 1);
    pieces.push((K::default(), 0));
    let mut rest: &[Rule<K>] = rules;
    let mut open: BinaryHeap<Reverse<Bid<K>>> = BinaryHeap::new();
    let mut at = K::default();
    loop {
        if open.is_empty() {
            let Some(next) = rest.first() else {
                return pieces;
            };
            at = next.first;
        }
        let starting = rest.iter().take_while(|rule| rule.first == at).count();
        let (new, later) = rest.split_at_checked(starting).unwrap_or_default();
        open.extend(new.iter().map(|rule| {
            Reverse(Bid {
                list: u8::from((rule.tag & ALLOW != 0) != allow_first),
                size: rule.last.minus(rule.first),
                tag: rule.tag,
                id: rule.id,
                last: rule.last,
            })
        }));
        rest = later;
        let Some(Reverse(best)) = open.peek() else {
            return pieces;
        };
        push(&mut pieces, at, best.tag);
        for rule in new {
            lose(fates, rule, best);
        }
        let next = rest.first();
        let cut = next.filter(|next| next.first <= best.last);
        // The address before a rule that begins behind this one.
        let last = cut.map_or(best.last, |next| K::narrow(next.first.wide() - 1));
        let fate = if K::is_unasked(at, last) {
            Fate::Unasked
        } else {
            Fate::Decides
        };
        set(fates, best.id, fate);
        match cut {
            Some(next) => at = next.first,
            None => {
                let Some(behind) = best.last.next() else {
                    return pieces;
                };
                while open.peek().is_some_and(|Reverse(bid)| bid.last < behind) {
                    open.pop();
                }
                at = behind;
                if open.is_empty() && next.is_none_or(|next| next.first > behind) {
                    push(&mut pieces, behind, 0);
                }
            }
        }
    }
}

fn push<K: Key>(pieces: &mut Vec<(K, Tag)>, at: K, tag: Tag) {
    match pieces.last_mut() {
        Some(last) if last.1 == tag => {}
        Some(last) if last.0 == at => last.1 = tag,
        _ => pieces.push((at, tag)),
    }
}

/// Notes why `rule`, which begins here, does not decide its first address. It may decide another
/// one: then its fate changes later.
fn lose<K: Key>(fates: &mut [Fate], rule: &Rule<K>, best: &Bid<K>) {
    if rule.id == best.id {
        return;
    }
    let fate = if (rule.tag ^ best.tag) & ALLOW != 0 {
        Fate::Overruled(best.tag)
    } else if rule.last.minus(rule.first) == best.size {
        Fate::Duplicate(best.tag)
    } else {
        Fate::Covered(best.tag)
    };
    set(fates, rule.id, fate);
}

/// A rule that decides for one family decides.
fn set(fates: &mut [Fate], id: u32, fate: Fate) {
    if let Some(slot) = fates.get_mut(id as usize)
        && *slot != Fate::Decides
    {
        *slot = fate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules `(first, last, line, allows)`, deny first.
    fn check(rules: &[(u32, u32, u32, bool)], expected: &[(u32, u32)], fates: &[Fate]) {
        let mut rules: Vec<_> = (0..)
            .zip(rules)
            .map(|(id, (first, last, line, allows))| Rule {
                first: *first,
                last: *last,
                tag: line << 8 | if *allows { ALLOW } else { 0 },
                id,
            })
            .collect();
        let mut found = vec![Fate::Open; rules.len()];
        let pieces: Vec<_> = pieces(&mut rules, false, &mut found)
            .into_iter()
            .map(|(at, tag)| (at, tag >> 8))
            .collect();
        assert_eq!(pieces, expected);
        assert_eq!(found, fates);
    }

    #[test]
    fn what_nobody_asks_for_decides_nothing() {
        use Fate::{Decides, Unasked};
        const MAPPED: u128 = 0xffff_0000_0000;
        const BEHIND: u128 = 0x1_0000_0000_0000;
        let check = |spans: &[(u128, u128)], expected: &[Fate]| {
            let mut rules: Vec<_> = (0..)
                .zip(spans)
                .map(|(id, (first, last))| Rule {
                    first: *first,
                    last: *last,
                    tag: (id + 1) << 8,
                    id,
                })
                .collect();
            let mut fates = vec![Fate::Open; rules.len()];
            pieces(&mut rules, false, &mut fates);
            assert_eq!(fates, expected, "{spans:x?}");
        };
        // A /95 whose lower half a narrower one has: mapped addresses are all that is left.
        check(
            &[
                (MAPPED - (1 << 32), BEHIND - 1),
                (MAPPED - (1 << 32), MAPPED - 1),
            ],
            &[Unasked, Decides],
        );
        check(&[(MAPPED - 1, BEHIND - 1)], &[Decides]);
        check(&[(MAPPED + 7, BEHIND)], &[Decides]);
        // Cut inside by one that begins there, and decides behind.
        check(
            &[(MAPPED, BEHIND + 9), (MAPPED + 5, BEHIND)],
            &[Decides, Decides],
        );
        check(&[(MAPPED, BEHIND), (BEHIND, BEHIND)], &[Unasked, Decides]);
        check(&[(0, u128::MAX)], &[Decides]);
    }

    #[test]
    fn pieces_of_rules() {
        use Fate::{Covered, Decides, Duplicate, Overruled};
        check(&[], &[(0, 0)], &[]);
        check(&[(5, 9, 1, false)], &[(0, 0), (5, 1), (10, 0)], &[Decides]);
        check(&[(0, u32::MAX, 1, false)], &[(0, 1)], &[Decides]);
        // The narrower one is named, and the wider one goes on behind it.
        check(
            &[(0, 9, 1, false), (3, 4, 2, false)],
            &[(0, 1), (3, 2), (5, 1), (10, 0)],
            &[Decides, Decides],
        );
        // Ranges that cross: the smaller one.
        check(
            &[(0, 9, 1, false), (5, 12, 2, false)],
            &[(0, 1), (5, 2), (13, 0)],
            &[Decides, Decides],
        );
        // The other list has no say, however narrow.
        check(
            &[(0, 9, 1, false), (3, 4, 2, true)],
            &[(0, 1), (10, 0)],
            &[Decides, Overruled(1 << 8)],
        );
        check(
            &[(0, 9, 1, true), (3, 4, 2, false)],
            &[(0, 1), (3, 2), (5, 1), (10, 0)],
            &[Decides, Decides],
        );
        check(
            &[(3, 4, 1, false), (3, 4, 2, false)],
            &[(0, 0), (3, 1), (5, 0)],
            &[Decides, Duplicate(1 << 8)],
        );
        check(
            &[(3, 4, 1, false), (3, 3, 2, false), (4, 4, 3, false)],
            &[(0, 0), (3, 2), (4, 3), (5, 0)],
            &[Covered(2 << 8), Decides, Decides],
        );
        let most = u32::MAX;
        check(
            &[(most - 1, most, 1, false), (most, most, 2, true)],
            &[(0, 0), (most - 1, 1)],
            &[Decides, Overruled(1 << 8)],
        );
    }
}
