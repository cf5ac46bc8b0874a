//! The compiled rule set: verdicts, explanations, lint.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use crate::build::{Builder, COVERED, DUPLICATE, OVERRULED, UNALIGNED_V6, UNASKED};
use crate::bytes::{self, BadBytes};
use crate::key::Key;
use crate::memory::Memory;
use crate::pattern::mapped;
use crate::problem::{Kind, Problem};
use crate::sweep::{ALLOW, Tag};
use crate::table::Table;
use crate::{Action, Order};

/// Compiled rules. `B` holds their bytes: [`Memory`] when they were built here, anything else
/// (a mapped file, say) with [`RuleSet::from_bytes`].
#[derive(Clone)]
pub struct RuleSet<B = Memory> {
    data: B,
    order: Order,
    default: Action,
    rules: u32,
    v4: Table<u32>,
    v6: Table<u128>,
    sources: Vec<Source>,
    idle: Range<usize>,
    unaligned: Range<usize>,
}

#[derive(Debug, Clone)]
struct Source {
    name: String,
    /// Lines of all earlier sources.
    before: u32,
}

/// A place in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Line {
    /// Which source, in the order in which they were added to the builder, from 0.
    pub source: u32,
    /// From 1; in a list of patterns, which of them.
    pub line: u32,
}

/// Whether an address may come in, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// True when it may.
    pub allow: bool,
    /// The most specific rule that matches in the list that decided; `None` where the default did.
    pub rule: Option<Line>,
}

/// A verdict with what it needs to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// The address that was judged: an IPv4-mapped one as IPv4.
    pub address: IpAddr,
    /// What was decided.
    pub verdict: Verdict,
    /// The name of the rule's source.
    pub source: Option<&'a str>,
    /// Which list is asked first.
    pub order: Order,
    /// What holds where no rule matches.
    pub default: Action,
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = if self.verdict.allow {
            Action::Allow
        } else {
            Action::Deny
        };
        write!(formatter, "{action}: ")?;
        let Some(rule) = self.verdict.rule else {
            return write!(formatter, "no rule matches, the default is {action}");
        };
        write!(
            formatter,
            "{} line {}",
            self.source.unwrap_or("the rules"),
            rule.line
        )?;
        if self.order.first() == action {
            write!(formatter, " (the {action} list is asked first)")
        } else {
            write!(formatter, " (no {} rule matches)", self.order.first())
        }
    }
}

impl RuleSet {
    /// Rules of the line format, which docs/ip-filter.md describes: `order`, `default`,
    /// `allow from …` and `deny from …`. Absent, `order` is `deny,allow` and `default` is `false`.
    ///
    /// # Errors
    /// All problems of the text, in its order.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut builder = Builder::new();
        builder.lines("", text.as_bytes());
        builder.build()
    }
}

impl<B: AsRef<[u8]>> RuleSet<B> {
    /// Opens a compiled rule set. It is checked: from bytes that were changed by accident or on
    /// purpose comes an error or a rule set whose look-ups stay within them, never a panic.
    ///
    /// # Errors
    /// Says why the bytes are no rule set of this version.
    pub fn from_bytes(data: B) -> Result<Self, BadBytes> {
        let bytes = data.as_ref();
        let header = bytes::header(bytes)?;
        let part = |at: usize| header.sections.get(at).cloned().unwrap_or(0..0);
        let parts = |at: usize| [0, 1, 2, 3, 4].map(|more| part(at + more));
        let made = Self {
            v4: Table::open(bytes, parts(0)).ok_or(BadBytes::Structure)?,
            v6: Table::open(bytes, parts(5)).ok_or(BadBytes::Structure)?,
            order: if header.flags & bytes::ALLOW_FIRST != 0 {
                Order::AllowFirst
            } else {
                Order::DenyFirst
            },
            default: if header.flags & bytes::DEFAULT_ALLOWS != 0 {
                Action::Allow
            } else {
                Action::Deny
            },
            rules: header.rules,
            sources: bytes
                .get(part(bytes::SOURCES))
                .and_then(decode_sources)
                .ok_or(BadBytes::Structure)?,
            idle: part(bytes::IDLE),
            unaligned: part(bytes::UNALIGNED),
            data,
        };
        Ok(made)
    }

    /// The compiled form, for [`RuleSet::from_bytes`]. All that the rule set holds is in it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.data.as_ref()
    }

    /// Whether `address` may come in, and the rule that says so.
    #[must_use]
    #[inline(always)]
    pub fn verdict(&self, address: IpAddr) -> Verdict {
        let tag = match address {
            IpAddr::V4(v4) => self.v4.find(self.data.as_ref(), v4.into()),
            IpAddr::V6(v6) => self.find_v6(v6),
        };
        match self.line_of(tag) {
            None => Verdict {
                allow: self.default == Action::Allow,
                rule: None,
            },
            rule => Verdict {
                allow: tag & ALLOW != 0,
                rule,
            },
        }
    }

    #[inline(always)]
    fn find_v6(&self, address: Ipv6Addr) -> Tag {
        let data = self.data.as_ref();
        let key = u128::from(address);
        if let Some(v4) = mapped(key) {
            return self.find_mapped(v4);
        }
        self.v6.find(data, key)
    }

    /// So that the way of IPv4 stands once where verdicts are asked for.
    #[inline(never)]
    fn find_mapped(&self, v4: u32) -> Tag {
        self.v4.find(self.data.as_ref(), v4)
    }

    #[inline(always)]
    fn line_of(&self, tag: Tag) -> Option<Line> {
        let place = tag >> 8;
        if place == 0 {
            return None;
        }
        if self.sources.len() == 1 {
            return Some(Line {
                source: 0,
                line: place,
            });
        }
        Some(self.line_of_several(place))
    }

    #[inline(never)]
    fn line_of_several(&self, place: u32) -> Line {
        let sources = &self.sources;
        let later = sources.partition_point(|source| source.before < place);
        let source = later.saturating_sub(1);
        let before = sources.get(source).map_or(0, |source| source.before);
        Line {
            source: u32::try_from(source).unwrap_or(u32::MAX),
            line: place.saturating_sub(before),
        }
    }

    /// The verdict on `address`, with what it takes to tell it.
    #[must_use]
    pub fn explain(&self, address: IpAddr) -> Explanation<'_> {
        let verdict = self.verdict(address);
        Explanation {
            address: address.to_canonical(),
            verdict,
            source: verdict.rule.and_then(|rule| self.source(rule.source)),
            order: self.order,
            default: self.default,
        }
    }

    /// What is odd about rules that are right, in the order of the sources: addresses with bits
    /// beyond their prefix (accepted, the bits count as zero), and rules that can never decide.
    #[must_use]
    pub fn lint(&self) -> Vec<Problem> {
        let part = |range: &Range<usize>| self.data.as_ref().get(range.clone()).unwrap_or_default();
        let mut problems = Vec::new();
        self.lint_unaligned(part(&self.unaligned), &mut problems);
        for record in part(&self.idle).chunks_exact(8) {
            let what = u32::read(record);
            let by = record.get(4..).map_or(0, u32::read);
            let by = self.line_of(by).unwrap_or(Line { source: 0, line: 0 });
            let (by_source, by) = (by.source, by.line);
            let kind = match what & 0xff {
                DUPLICATE => Kind::Duplicate { by_source, by },
                OVERRULED => Kind::Overruled { by_source, by },
                COVERED => Kind::Covered { by_source, by },
                UNASKED => Kind::Unasked,
                _ => continue,
            };
            problems.extend(self.found(what >> 8, kind));
        }
        problems.sort_by_key(|problem| (problem.source, problem.line));
        problems
    }

    fn lint_unaligned(&self, mut bytes: &[u8], problems: &mut Vec<Problem>) {
        while let Some((head, rest)) = bytes.split_at_checked(8) {
            let (line, what) = (u32::read(head), head.get(4..).map_or(0, u32::read));
            let width = if what & UNALIGNED_V6 != 0 { 16 } else { 4 };
            let Some((address, rest)) = rest.split_at_checked(width) else {
                return;
            };
            bytes = rest;
            let address = if width == 16 {
                IpAddr::V6(u128::read(address).into())
            } else {
                IpAddr::V4(u32::read(address).into())
            };
            let prefix = u8::try_from(what & 0xff).unwrap_or(u8::MAX);
            problems.extend(self.found(line, Kind::Unaligned { address, prefix }));
        }
    }

    fn found(&self, place: u32, kind: Kind) -> Option<Problem> {
        let line = self.line_of(place.checked_mul(256)?)?;
        Some(Problem {
            line: line.line,
            column: 0,
            length: 0,
            source: line.source,
            kind,
        })
    }

    /// The name of a source.
    #[must_use]
    pub fn source(&self, number: u32) -> Option<&str> {
        let source = self.sources.get(number as usize)?;
        Some(&source.name)
    }

    /// A number for each line of each source, for figures kept per rule: below 2^24, without gaps
    /// between sources.
    #[must_use]
    pub fn place(&self, line: Line) -> usize {
        let before = self
            .sources
            .get(line.source as usize)
            .map_or(0, |source| source.before);
        before.saturating_add(line.line) as usize
    }

    /// The line with the number that [`RuleSet::place`] gave.
    #[must_use]
    pub fn line_at(&self, place: usize) -> Option<Line> {
        self.line_of(u32::try_from(place).ok()?.checked_mul(256)?)
    }

    /// How many rules were compiled; `all` and a list of elements in one line count once each.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules as usize
    }

    /// True when there is no rule: the default decides on every address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// Which list is asked first.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// What holds where no rule matches.
    #[must_use]
    pub fn default_action(&self) -> Action {
        self.default
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for RuleSet<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RuleSet")
            .field("rules", &self.rules)
            .field("order", &self.order)
            .field("default", &self.default)
            .field("bytes", &self.data.as_ref().len())
            .finish_non_exhaustive()
    }
}

fn decode_sources(bytes: &[u8]) -> Option<Vec<Source>> {
    let (count, mut rest) = bytes.split_at_checked(4)?;
    let mut sources: Vec<Source> = Vec::new();
    for _ in 0..u32::read(count) {
        let (head, behind) = rest.split_at_checked(8)?;
        let length = head.get(4..).map_or(0, u32::read) as usize;
        let (name, behind) = behind.split_at_checked(length)?;
        rest = behind;
        let before = u32::read(head);
        if sources.last().is_some_and(|last| last.before > before) {
            return None;
        }
        sources.push(Source {
            name: String::from_utf8_lossy(name).into_owned(),
            before,
        });
    }
    rest.is_empty().then_some(sources)
}
