//! The two formats, one line at a time. docs/ip-filter.md describes both.

use crate::pattern::{Part, Pattern, Wrong};
use crate::problem::Kind;
use crate::{Action, Order};

/// What a line of the line format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statement {
    Nothing,
    Order(Order),
    Default(Action),
    Rule(Action, Pattern),
}

/// The lines of `text`, without their ends (`\n` or `\r\n`).
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    text.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// Reads a line from left to right.
struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(line: &'a [u8]) -> Self {
        Self { line, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    /// True when there was at least one.
    fn blanks(&mut self) -> bool {
        let from = self.at;
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        self.at > from
    }

    fn until(&mut self, ends: impl Fn(u8) -> bool) -> Part<'a> {
        let at = self.at;
        while self.peek().is_some_and(|byte| !ends(byte)) {
            self.at += 1;
        }
        Part {
            text: self.line.get(at..self.at).unwrap_or_default(),
            at,
        }
    }

    /// Up to a blank or a comment.
    fn word(&mut self) -> Part<'a> {
        self.until(|byte| matches!(byte, b' ' | b'\t' | b'#'))
    }

    /// Up to a comma too.
    fn name(&mut self) -> Part<'a> {
        self.until(|byte| matches!(byte, b' ' | b'\t' | b'#' | b','))
    }

    /// What is left, without blanks at its end.
    fn rest(&self) -> Part<'a> {
        let text = self.line.get(self.at..).unwrap_or_default();
        Part {
            text: text.trim_ascii_end(),
            at: self.at,
        }
    }

    /// Nothing but blanks and a comment that begins with one of `comments`.
    fn end(&mut self, comments: &[u8]) -> Result<(), Wrong> {
        self.blanks();
        match self.peek() {
            None => Ok(()),
            Some(byte) if comments.contains(&byte) => Ok(()),
            Some(_) => Err(self.rest().wrong(Kind::Trailing)),
        }
    }

    /// A pattern; a range may have blanks around its dash.
    fn pattern(&mut self, ends: impl Fn(u8) -> bool) -> Result<Pattern, Wrong> {
        let ends = |byte| ends(byte) || byte == b'-';
        let first = self.until(ends);
        let behind = self.at;
        let apart = self.blanks();
        let next = self.line.get(self.at + 1);
        // `1.2.3.4 -exist` is no range.
        let option = apart && next.is_some_and(u8::is_ascii_alphabetic);
        if self.peek() != Some(b'-') || option {
            self.at = behind;
            return Pattern::parse(first);
        }
        self.at += 1;
        self.blanks();
        let last = self.until(ends);
        Pattern::range(first, last)
    }
}

/// One line of the line format.
pub(crate) fn statement(line: &[u8]) -> Result<Statement, Wrong> {
    let mut cursor = Cursor::new(line);
    cursor.blanks();
    if matches!(cursor.peek(), None | Some(b'#')) {
        return Ok(Statement::Nothing);
    }
    let word = cursor.word();
    let action = match word.text {
        b"allow" => Action::Allow,
        b"deny" => Action::Deny,
        b"order" => return order(&mut cursor),
        b"default" => return default(&mut cursor),
        _ => return Err(word.wrong(Kind::Statement)),
    };
    cursor.blanks();
    let from = cursor.word();
    if from.text != b"from" {
        return Err(from.wrong(Kind::From));
    }
    cursor.blanks();
    let pattern = cursor.pattern(|byte| matches!(byte, b' ' | b'\t' | b'#'))?;
    cursor.end(b"#")?;
    Ok(Statement::Rule(action, pattern))
}

fn order(cursor: &mut Cursor<'_>) -> Result<Statement, Wrong> {
    cursor.blanks();
    let whole = cursor.rest();
    let first = cursor.name();
    cursor.blanks();
    if cursor.peek() != Some(b',') {
        return Err(whole.wrong(Kind::Order));
    }
    cursor.at += 1;
    cursor.blanks();
    let second = cursor.name();
    let order = match (first.text, second.text) {
        (b"allow", b"deny") => Order::AllowFirst,
        (b"deny", b"allow") => Order::DenyFirst,
        _ => return Err(whole.wrong(Kind::Order)),
    };
    cursor.end(b"#")?;
    Ok(Statement::Order(order))
}

fn default(cursor: &mut Cursor<'_>) -> Result<Statement, Wrong> {
    cursor.blanks();
    let word = cursor.word();
    let action = match word.text {
        b"true" => Action::Allow,
        b"false" => Action::Deny,
        _ => return Err(word.wrong(Kind::Truth)),
    };
    cursor.blanks();
    if cursor.peek() == Some(b'#') {
        return Err(cursor.rest().wrong(Kind::CommentAfterDefault));
    }
    cursor.end(b"")?;
    Ok(Statement::Default(action))
}

/// The networks of one line of the plain format, each handed to `found`.
pub(crate) fn networks(line: &[u8], mut found: impl FnMut(Pattern)) -> Result<(), Wrong> {
    const COMMENTS: &[u8] = b"#;";
    let mut cursor = Cursor::new(line);
    cursor.blanks();
    let first = cursor.peek();
    if first.is_none_or(|byte| COMMENTS.contains(&byte)) {
        return Ok(());
    }
    if first.is_some_and(|byte| byte.is_ascii_alphabetic()) {
        let start = cursor.at;
        let word = cursor.until(|byte| matches!(byte, b' ' | b'\t' | b';' | b'#'));
        match word.text {
            b"ipset" | b"nft" => {
                cursor.blanks();
                return command(&mut cursor, found);
            }
            b"add" | b"create" | b"flush" | b"-exist" | b"COMMIT" => {
                cursor.at = start;
                return command(&mut cursor, found);
            }
            // An IPv6 address may begin with a letter, and so does `all`.
            _ => cursor.at = start,
        }
    }
    let pattern = cursor.pattern(|byte| matches!(byte, b' ' | b'\t' | b'#' | b';'))?;
    cursor.end(COMMENTS)?;
    found(pattern);
    Ok(())
}

fn plain_word<'a>(cursor: &mut Cursor<'a>) -> Part<'a> {
    cursor.blanks();
    cursor.until(|byte| matches!(byte, b' ' | b'\t' | b'{' | b'}' | b'#' | b';'))
}

/// A command of ipset or nftables. Those that make or empty a set say nothing about addresses.
fn command(cursor: &mut Cursor<'_>, found: impl FnMut(Pattern)) -> Result<(), Wrong> {
    let mut word = plain_word(cursor);
    while word.text.first() == Some(&b'-') {
        word = plain_word(cursor);
    }
    match word.text {
        b"create" | b"flush" | b"COMMIT" => return Ok(()),
        b"add" => {}
        _ => return Err(word.wrong(Kind::AddLine)),
    }
    cursor.blanks();
    let behind = cursor.at;
    match plain_word(cursor).text {
        b"table" | b"set" | b"map" if makes_a_set(cursor) => Ok(()),
        b"element" => elements(cursor, found),
        _ => {
            cursor.at = behind;
            ipset(cursor, found)
        }
    }
}

/// True for nftables' `add set …`; an ipset may have that name too. One that brings elements along
/// is not passed over.
fn makes_a_set(cursor: &mut Cursor<'_>) -> bool {
    let rest = cursor.rest().text;
    let family = plain_word(cursor).text;
    let known = matches!(
        family,
        b"ip" | b"ip6" | b"inet" | b"arp" | b"bridge" | b"netdev"
    );
    let brings = rest.windows(8).any(|window| window == b"elements");
    (known || rest.contains(&b'{')) && !brings
}

/// `[-exist] SET NETWORK [timeout N] [packets N] [bytes N] [comment "…"] [-exist]`
fn ipset(cursor: &mut Cursor<'_>, mut found: impl FnMut(Pattern)) -> Result<(), Wrong> {
    let rest = cursor.rest();
    let mut set = plain_word(cursor);
    while set.text.first() == Some(&b'-') {
        set = plain_word(cursor);
    }
    cursor.blanks();
    if set.text.is_empty() || matches!(cursor.peek(), None | Some(b'#' | b';')) {
        return Err(rest.wrong(Kind::AddLine));
    }
    let pattern = cursor.pattern(|byte| matches!(byte, b' ' | b'\t'))?;
    options(cursor)?;
    found(pattern);
    Ok(())
}

/// What may follow a network without changing which addresses are meant.
fn options(cursor: &mut Cursor<'_>) -> Result<(), Wrong> {
    loop {
        cursor.blanks();
        let word = cursor.until(|byte| matches!(byte, b' ' | b'\t' | b'}' | b','));
        match word.text {
            b"" => return Ok(()),
            b"-exist" | b"counter" => {}
            b"timeout" | b"packets" | b"bytes" | b"expires" => {
                cursor.blanks();
                cursor.until(|byte| matches!(byte, b' ' | b'\t' | b'}' | b','));
            }
            b"comment" => quoted(cursor)?,
            _ => return Err(word.wrong(Kind::AddOption)),
        }
    }
}

fn quoted(cursor: &mut Cursor<'_>) -> Result<(), Wrong> {
    cursor.blanks();
    let rest = cursor.rest();
    if cursor.peek() != Some(b'"') {
        return Err(rest.wrong(Kind::AddOption));
    }
    cursor.at += 1;
    cursor.until(|byte| byte == b'"');
    if cursor.peek().is_none() {
        return Err(rest.wrong(Kind::AddOption));
    }
    cursor.at += 1;
    Ok(())
}

/// `[FAMILY] TABLE SET { NETWORK [OPTION …], … }`
fn elements(cursor: &mut Cursor<'_>, mut found: impl FnMut(Pattern)) -> Result<(), Wrong> {
    cursor.blanks();
    let whole = cursor.rest();
    cursor.until(|byte| byte == b'{');
    if cursor.peek().is_none() {
        return Err(whole.wrong(Kind::AddLine));
    }
    cursor.at += 1;
    loop {
        cursor.blanks();
        if cursor.peek() == Some(b'}') {
            break;
        }
        let pattern = cursor.pattern(|byte| matches!(byte, b' ' | b'\t' | b',' | b'}'))?;
        options(cursor)?;
        found(pattern);
        match cursor.peek() {
            Some(b',') => cursor.at += 1,
            Some(b'}') => break,
            _ => return Err(whole.wrong(Kind::AddLine)),
        }
    }
    cursor.at += 1;
    cursor.end(b"#;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Span;

    fn v4(text: &str) -> Span {
        let address = text.parse::<std::net::Ipv4Addr>().unwrap().into();
        Span::V4(address, address)
    }

    #[test]
    fn statements_of_the_line_format() {
        let check = |line: &str, expected: Statement| {
            assert_eq!(statement(line.as_bytes()), Ok(expected), "{line}");
        };
        let rule = |action, span| {
            Statement::Rule(
                action,
                Pattern {
                    span,
                    unaligned: None,
                },
            )
        };
        for nothing in ["", " \t", "# anything", "  # \u{e9}"] {
            check(nothing, Statement::Nothing);
        }
        for line in [
            "order allow,deny",
            " order\tallow , deny ",
            "order allow,deny# x",
        ] {
            check(line, Statement::Order(Order::AllowFirst));
        }
        check("order deny,allow", Statement::Order(Order::DenyFirst));
        check("default true", Statement::Default(Action::Allow));
        check("default false ", Statement::Default(Action::Deny));
        check("allow from all", rule(Action::Allow, Span::All));
        check("deny from all # no one", rule(Action::Deny, Span::All));
        check("\tdeny  from\t1.2.3.4#x", rule(Action::Deny, v4("1.2.3.4")));
        check(
            "deny from 1.2.3.4 - 1.2.3.4",
            rule(Action::Deny, v4("1.2.3.4")),
        );
    }

    #[test]
    fn problems_of_the_line_format() {
        let check = |line: &str, at: usize, length: usize, kind: Kind| {
            let expected = Wrong { at, length, kind };
            assert_eq!(statement(line.as_bytes()), Err(expected), "{line}");
        };
        check("Allow from all", 0, 5, Kind::Statement);
        check("denyfrom 1.2.3.4", 0, 8, Kind::Statement);
        check("\u{feff}", 0, 3, Kind::Statement);
        check("deny", 4, 0, Kind::From);
        check("deny 1.2.3.4", 5, 7, Kind::From);
        check("deny from", 9, 0, Kind::Pattern);
        check("deny from # all", 10, 0, Kind::Pattern);
        check("deny from 1.2.3.4 5.6.7.8", 18, 7, Kind::Trailing);
        check("deny from 1.2.3.4, 5.6.7.8", 10, 8, Kind::Pattern);
        check("deny from 1.2.3.4-", 18, 0, Kind::RangeEnd);
        check("deny from 1.2.3.4-1.2.3.5-1.2.3.6", 25, 8, Kind::Trailing);
        check("order", 5, 0, Kind::Order);
        check("order allow", 6, 5, Kind::Order);
        check("order allow,allow", 6, 11, Kind::Order);
        check("order allow,deny x", 17, 1, Kind::Trailing);
        check("default", 7, 0, Kind::Truth);
        check("default deny", 8, 4, Kind::Truth);
        check("default true # x", 13, 3, Kind::CommentAfterDefault);
        check("default true x", 13, 1, Kind::Trailing);
    }

    #[test]
    fn the_plain_format() {
        let check = |line: &str, expected: &[&str]| {
            let mut all = Vec::new();
            networks(line.as_bytes(), |pattern| all.push(pattern.span)).unwrap();
            let expected: Vec<_> = expected.iter().map(|text| v4(text)).collect();
            assert_eq!(all, expected, "{line}");
        };
        check("", &[]);
        check("# 1.2.3.4", &[]);
        check("; 1.2.3.4", &[]);
        check("1.2.3.4", &["1.2.3.4"]);
        check(" 1.2.3.4/32\t; SBL1", &["1.2.3.4"]);
        check("1.2.3.4#x", &["1.2.3.4"]);
        check("create drop hash:net family inet", &[]);
        check("add drop 1.2.3.4", &["1.2.3.4"]);
        check("ipset add drop 1.2.3.4 -exist", &["1.2.3.4"]);
        check("ipset -exist add drop 1.2.3.4", &["1.2.3.4"]);
        check(
            "add drop 1.2.3.4 timeout 60 packets 0 bytes 0 comment \"a b # c\"",
            &["1.2.3.4"],
        );
        check(
            "add element inet filter drop { 1.2.3.4, 5.6.7.8-5.6.7.8 timeout 1d }",
            &["1.2.3.4", "5.6.7.8"],
        );
        check("nft add element ip filter drop {1.2.3.4}", &["1.2.3.4"]);
        check("add element ip filter drop { }", &[]);
        check("flush set inet filter drop", &[]);
        check("add table inet filter", &[]);
        check("add set filter drop { type ipv4_addr; }", &[]);
        check("add set 1.2.3.4", &["1.2.3.4"]);
        let mut v6 = Vec::new();
        networks(b"fe80::/10", |pattern| v6.push(pattern.span)).unwrap();
        networks(b"add::/16", |pattern| v6.push(pattern.span)).unwrap();
        assert_eq!(v6.len(), 2);
    }

    #[test]
    fn problems_of_the_plain_format() {
        let check = |line: &str, at: usize, length: usize, kind: Kind| {
            let expected = Wrong { at, length, kind };
            assert_eq!(networks(line.as_bytes(), |_| ()), Err(expected), "{line}");
        };
        check("deny from 1.2.3.4", 0, 4, Kind::Pattern);
        check("1.2.3.4 9", 8, 1, Kind::Trailing);
        check("1.2.3.4,5.6.7.8", 0, 15, Kind::Pattern);
        check("add", 3, 0, Kind::AddLine);
        check("add drop", 4, 4, Kind::AddLine);
        check("add drop 1.2.3.0/24 nomatch", 20, 7, Kind::AddOption);
        check("add drop 1.2.3.4,tcp:80", 9, 14, Kind::Pattern);
        check("add drop 1.2.3.4 comment \"x", 25, 2, Kind::AddOption);
        check("add element ip filter drop 1.2.3.4", 12, 22, Kind::AddLine);
        check("add element ip f d { 1.2.3.4", 12, 16, Kind::AddLine);
        check("nft delete element ip f d { 1.2.3.4 }", 4, 6, Kind::AddLine);
        check("ipset", 5, 0, Kind::AddLine);
        check(
            "add set ip f d { elements = { 1.2.3.4 } }",
            8,
            2,
            Kind::Pattern,
        );
    }
}
