//! From sources to a rule set.

use std::net::IpAddr;

use crate::grammar::{self, Statement};
use crate::key::Key;
use crate::memory::Memory;
use crate::pattern::{Part, Pattern, Span, Wrong};
use crate::problem::{Kind, Problem};
use crate::rules::RuleSet;
use crate::sweep::{self, ALLOW, Fate, LINE_MAX, Rule, Tag};

use crate::{Action, Order, bytes, maker};

/// Collects rules from several sources and compiles them into one [`RuleSet`].
///
/// Sources are numbered from 0 in the order in which they are added; problems and verdicts name
/// them by that number. What is said with [`Builder::order`] and [`Builder::default_action`] wins
/// over `order` and `default` lines of files; two files that both have such a line are a problem.
/// Where neither is said, `deny` is asked first, and the default is `allow` — unless a source has
/// the line format: then it is `deny`, as that format has it.
#[derive(Debug, Default)]
pub struct Builder {
    order: Option<Order>,
    default: Option<Action>,
    said: Said,
    has_line_format: bool,
    /// Names, and how many lines all earlier sources have.
    sources: Vec<(String, u32)>,
    lines: u32,
    v4: Vec<Rule<u32>>,
    v6: Vec<Rule<u128>>,
    /// The line and the action of each rule, by its id.
    tags: Vec<Tag>,
    unaligned: Vec<u8>,
    problems: Vec<Problem>,
}

/// What files said, and which source it was.
#[derive(Debug, Default)]
struct Said {
    order: Option<(Order, usize)>,
    default: Option<(Action, usize)>,
}

impl Builder {
    /// A builder without rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says which list is asked first.
    pub fn order(&mut self, order: Order) -> &mut Self {
        self.order = Some(order);
        self
    }

    /// Says what happens where no rule matches.
    pub fn default_action(&mut self, action: Action) -> &mut Self {
        self.default = Some(action);
        self
    }

    /// Adds patterns that stand in a list; each counts as a line of its own.
    pub fn patterns<'a>(
        &mut self,
        name: &str,
        action: Action,
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> &mut Self {
        self.source(name);
        for text in patterns {
            let Some(line) = self.next_line() else { break };
            let whole = Part {
                text: text.trim_ascii().as_bytes(),
                at: 0,
            };
            let parsed = match whole.split(b'-') {
                Some((first, last)) => Pattern::range(first.trimmed(), last.trimmed()),
                None => Pattern::parse(whole),
            };
            match parsed {
                Ok(pattern) => self.rule(line, action, pattern),
                Err(wrong) => self.wrong(line, wrong),
            }
        }
        self
    }

    /// Adds a file of the line format.
    pub fn lines(&mut self, name: &str, text: &[u8]) -> &mut Self {
        self.source(name);
        self.has_line_format = true;
        for text in grammar::lines(text) {
            let Some(line) = self.next_line() else { break };
            match grammar::statement(text) {
                Ok(Statement::Nothing) => {}
                Ok(Statement::Rule(action, pattern)) => self.rule(line, action, pattern),
                Ok(Statement::Order(order)) => self.say_order(line, order),
                Ok(Statement::Default(action)) => self.say_default(line, action),
                Err(wrong) => self.wrong(line, wrong),
            }
        }
        self
    }

    /// Adds a file of the plain format: networks that all have the same action.
    pub fn plain(&mut self, name: &str, text: &[u8], action: Action) -> &mut Self {
        self.source(name);
        for text in grammar::lines(text) {
            let Some(line) = self.next_line() else { break };
            let read = grammar::networks(text, |pattern| self.rule(line, action, pattern));
            if let Err(wrong) = read {
                self.wrong(line, wrong);
            }
        }
        self
    }

    /// Compiles what was added.
    ///
    /// # Errors
    /// All problems of all sources, in their order.
    pub fn build(mut self) -> Result<RuleSet, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let order = self
            .order
            .or(self.said.order.map(|said| said.0))
            .unwrap_or_default();
        let silent = if self.has_line_format {
            Action::Deny
        } else {
            Action::Allow
        };
        let default = self
            .default
            .or(self.said.default.map(|said| said.0))
            .unwrap_or(silent);
        let allow_first = order == Order::AllowFirst;
        let mut flags = 0;
        if allow_first {
            flags |= bytes::ALLOW_FIRST;
        }
        if default == Action::Allow {
            flags |= bytes::DEFAULT_ALLOWS;
        }
        let mut fates = vec![Fate::Open; self.tags.len()];
        let pieces = sweep::pieces(&mut self.v4, allow_first, &mut fates);
        self.v4 = Vec::new();
        let v4 = maker::parts(&pieces);
        drop(pieces);
        let pieces = sweep::pieces(&mut self.v6, allow_first, &mut fates);
        self.v6 = Vec::new();
        let tables = [v4, maker::parts(&pieces)];
        drop(pieces);
        let idle = self.idle(&fates);
        let sources = encode_sources(&self.sources);
        let count = u32::try_from(self.tags.len()).unwrap_or(u32::MAX);
        let bytes = bytes::join(flags, count, tables, [idle, self.unaligned, sources]);
        RuleSet::from_bytes(Memory::from(bytes)).map_err(|_| {
            // Only sizes that no memory holds lead here.
            vec![Problem {
                line: 0,
                column: 0,
                length: 0,
                source: 0,
                kind: Kind::TooManyLines,
            }]
        })
    }

    fn source(&mut self, name: &str) {
        self.sources.push((name.to_owned(), self.lines));
    }

    /// The number of the next line among all sources.
    fn next_line(&mut self) -> Option<u32> {
        self.lines += 1;
        if self.lines <= LINE_MAX {
            return Some(self.lines);
        }
        self.problem(self.lines, 0, 0, Kind::TooManyLines);
        self.lines = LINE_MAX;
        None
    }

    fn problem(&mut self, line: u32, column: u32, length: u32, kind: Kind) {
        let before = self.sources.last().map_or(0, |source| source.1);
        self.problems.push(Problem {
            line: line - before,
            column,
            length,
            source: number(self.sources.len()).saturating_sub(1),
            kind,
        });
    }

    fn wrong(&mut self, line: u32, wrong: Wrong) {
        let column = number(wrong.at).saturating_add(1);
        self.problem(line, column, number(wrong.length), wrong.kind);
    }

    fn say_order(&mut self, line: u32, order: Order) {
        let source = self.sources.len();
        if self.said.order.is_some_and(|said| said.1 != source) {
            self.problem(line, 0, 0, Kind::OrderTwice);
        }
        self.said.order = Some((order, source));
    }

    fn say_default(&mut self, line: u32, action: Action) {
        let source = self.sources.len();
        if self.said.default.is_some_and(|said| said.1 != source) {
            self.problem(line, 0, 0, Kind::DefaultTwice);
        }
        self.said.default = Some((action, source));
    }

    fn rule(&mut self, line: u32, action: Action, pattern: Pattern) {
        let tag = line << 8
            | match action {
                Action::Allow => ALLOW,
                Action::Deny => 0,
            };
        let id = number(self.tags.len());
        self.tags.push(tag);
        if matches!(pattern.span, Span::V4(..) | Span::All) {
            let (first, last) = match pattern.span {
                Span::V4(first, last) => (first, last),
                _ => (0, u32::MAX),
            };
            self.v4.push(Rule {
                first,
                last,
                tag,
                id,
            });
        }
        if matches!(pattern.span, Span::V6(..) | Span::All) {
            let (first, last) = match pattern.span {
                Span::V6(first, last) => (first, last),
                _ => (0, u128::MAX),
            };
            self.v6.push(Rule {
                first,
                last,
                tag,
                id,
            });
        }
        if let Some((address, prefix)) = pattern.unaligned {
            encode_unaligned(&mut self.unaligned, line, address, prefix);
        }
    }

    /// Rules that never decide: their line with a kind, and the line of another rule.
    fn idle(&self, fates: &[Fate]) -> Vec<u8> {
        let mut idle = Vec::new();
        for (tag, fate) in self.tags.iter().zip(fates) {
            let (kind, by) = match fate {
                Fate::Open | Fate::Decides => continue,
                Fate::Duplicate(by) => (DUPLICATE, by),
                Fate::Overruled(by) => (OVERRULED, by),
                Fate::Covered(by) => (COVERED, by),
                Fate::Unasked => (UNASKED, &0),
            };
            (tag & !0xff | kind).write(&mut idle);
            by.write(&mut idle);
        }
        idle
    }
}

/// The kinds of rules that never decide, in the low byte of their record.
pub(crate) const DUPLICATE: u32 = 1;
pub(crate) const OVERRULED: u32 = 2;
pub(crate) const COVERED: u32 = 3;
pub(crate) const UNASKED: u32 = 4;
/// The mark of IPv6 beside a prefix length of at most 128.
pub(crate) const UNALIGNED_V6: u32 = 0x1_0000;

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn encode_unaligned(bytes: &mut Vec<u8>, line: u32, address: IpAddr, prefix: u8) {
    line.write(bytes);
    match address {
        IpAddr::V4(v4) => {
            u32::from(prefix).write(bytes);
            u32::from(v4).write(bytes);
        }
        IpAddr::V6(v6) => {
            (UNALIGNED_V6 | u32::from(prefix)).write(bytes);
            u128::from(v6).write(bytes);
        }
    }
}

/// How many sources, then for each the lines before it, the length of its name, its name.
fn encode_sources(sources: &[(String, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    number(sources.len()).write(&mut bytes);
    for (name, before) in sources {
        before.write(&mut bytes);
        number(name.len()).write(&mut bytes);
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes
}
