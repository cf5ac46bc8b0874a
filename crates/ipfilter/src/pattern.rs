//! One pattern of a rule: an address, a network, a range, a wildcard, `all`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::problem::Kind;

/// The addresses that a pattern means, first and last one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    V4(u32, u32),
    V6(u128, u128),
    /// Both families.
    All,
}

/// A pattern, and how it was written when it has bits beyond its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) span: Span,
    pub(crate) unaligned: Option<(IpAddr, u8)>,
}

/// What is wrong, and where in the line, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) at: usize,
    pub(crate) length: usize,
    pub(crate) kind: Kind,
}

/// A part of a line, with its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) at: usize,
}

impl Part<'_> {
    pub(crate) fn wrong(self, kind: Kind) -> Wrong {
        Wrong {
            at: self.at,
            length: self.text.len(),
            kind,
        }
    }

    /// The part from `start` on, which is at most its length.
    fn from(self, start: usize) -> Self {
        Self {
            text: self.text.get(start..).unwrap_or_default(),
            at: self.at + start,
        }
    }

    /// Without blanks around.
    pub(crate) fn trimmed(self) -> Self {
        let start = self.text.len() - self.text.trim_ascii_start().len();
        let part = self.from(start);
        part.until(part.text.trim_ascii_end().len())
    }

    fn until(self, end: usize) -> Self {
        Self {
            text: self.text.get(..end).unwrap_or(self.text),
            at: self.at,
        }
    }

    /// Before and behind the first `byte`.
    pub(crate) fn split(self, byte: u8) -> Option<(Self, Self)> {
        let place = self.text.iter().position(|other| *other == byte)?;
        Some((self.until(place), self.from(place + 1)))
    }
}

/// `address/prefix` with the bits beyond the prefix cleared.
pub(crate) fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & !host))
        }
        IpAddr::V6(v6) => {
            let host = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !host))
        }
    }
}

/// The IPv4 address inside an IPv4-mapped one.
pub(crate) fn mapped(address: u128) -> Option<u32> {
    (address >> 32 == 0xffff)
        .then(|| u32::try_from(address & 0xffff_ffff).ok())
        .flatten()
}

impl Pattern {
    fn exact(span: Span) -> Self {
        Self {
            span,
            unaligned: None,
        }
    }

    /// Any pattern but a range.
    pub(crate) fn parse(part: Part<'_>) -> Result<Self, Wrong> {
        match part.text {
            b"all" | b"*" => Ok(Self::exact(Span::All)),
            text if text.contains(&b':') && !text.contains(&b',') => v6(part),
            text if text.first().is_some_and(u8::is_ascii_digit) => v4(part),
            _ => Err(part.wrong(Kind::Pattern)),
        }
    }

    /// A range from `first` to `last`.
    pub(crate) fn range(first: Part<'_>, last: Part<'_>) -> Result<Self, Wrong> {
        let start = Self::parse(first)?.span;
        let end = Self::parse(last)
            .map_err(|wrong| match wrong.kind {
                Kind::Pattern => last.wrong(Kind::RangeEnd),
                _ => wrong,
            })?
            .span;
        let one = |part: Part<'_>, span| match span {
            Span::V4(first, last) if first == last => Ok(Span::V4(first, last)),
            Span::V6(first, last) if first == last => Ok(Span::V6(first, last)),
            _ => Err(part.wrong(Kind::RangeEnd)),
        };
        let wide = |address: u32| 0xffff_0000_0000 | u128::from(address);
        let whole = Wrong {
            at: first.at,
            length: (last.at + last.text.len()).saturating_sub(first.at),
            kind: Kind::RangeBackwards,
        };
        let mixed = Wrong {
            kind: Kind::RangeMixed,
            ..whole
        };
        // An IPv4-mapped end was read as IPv4 by then: beside an end that is not, it is IPv6.
        let is_v6 = |part: Part<'_>| part.text.contains(&b':');
        let (low, high, span) = match (one(first, start)?, one(last, end)?) {
            (Span::V4(low, _), Span::V4(high, _)) if is_v6(first) == is_v6(last) => {
                (u128::from(low), u128::from(high), Span::V4(low, high))
            }
            (Span::V6(low, _), Span::V6(high, _)) => (low, high, Span::V6(low, high)),
            (Span::V4(low, _), Span::V6(high, _)) if is_v6(first) => {
                (wide(low), high, Span::V6(wide(low), high))
            }
            (Span::V6(low, _), Span::V4(high, _)) if is_v6(last) => {
                (low, wide(high), Span::V6(low, wide(high)))
            }
            _ => return Err(mixed),
        };
        if low > high {
            return Err(whole);
        }
        Ok(Self::exact(span))
    }
}

/// Four numbers with an optional prefix length, or one to three and a wildcard.
fn v4(part: Part<'_>) -> Result<Pattern, Wrong> {
    let (mut rest, mut address, mut count) = (part, 0_u32, 0_u32);
    loop {
        if rest.text == b"*" && (1..4).contains(&count) {
            let free = 8 * (4 - count);
            let first = address << free;
            return Ok(Pattern::exact(Span::V4(
                first,
                first | (u32::MAX >> (32 - free)),
            )));
        }
        let (octet, behind) = octet(rest)?;
        address = address << 8 | octet;
        count += 1;
        match (behind.text.first(), count) {
            (Some(b'.'), 1..4) => rest = behind.from(1),
            (None, 4) => return Ok(Pattern::exact(Span::V4(address, address))),
            (Some(b'/'), 4) => return network_v4(address, behind.from(1)),
            (Some(b'.' | b'/') | None, _) => return Err(part.wrong(Kind::Octets)),
            (Some(_), _) => return Err(part.wrong(Kind::Pattern)),
        }
    }
}

/// A number from 0 to 255, and what follows.
fn octet(part: Part<'_>) -> Result<(u32, Part<'_>), Wrong> {
    let digits = part.text.iter().take_while(|byte| byte.is_ascii_digit());
    let (mut value, mut length) = (0_u32, 0);
    for digit in digits {
        value = value
            .saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'));
        length += 1;
    }
    let number = part.until(length);
    if length == 0 {
        return Err(part.wrong(Kind::Octet));
    }
    if value > 255 {
        return Err(number.wrong(Kind::Octet));
    }
    if length > 1 && part.text.first() == Some(&b'0') {
        return Err(number.wrong(Kind::LeadingZero));
    }
    Ok((value, part.from(length)))
}

fn prefix(part: Part<'_>, longest: u8) -> Result<u8, Wrong> {
    let digits = !part.text.is_empty() && part.text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(part.text)
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse().ok())
        .filter(|prefix| *prefix <= longest)
        .ok_or_else(|| part.wrong(Kind::Prefix { longest }))
}

fn network_v4(address: u32, behind: Part<'_>) -> Result<Pattern, Wrong> {
    Ok(around_v4(address, prefix(behind, 32)?))
}

fn around_v4(address: u32, prefix: u8) -> Pattern {
    let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Pattern {
        span: Span::V4(address & !host, address | host),
        unaligned: (address & host != 0).then(|| (Ipv4Addr::from(address).into(), prefix)),
    }
}

/// An address without dots, as nearly all are. The standard library reads all forms, and looks for dots in each group:
/// a million rules would take a tenth longer. What this leaves to it may be right or wrong.
fn groups(text: &[u8]) -> Option<Ipv6Addr> {
    let gap = text.windows(2).position(|pair| pair == b"::");
    let address = match gap.and_then(|gap| text.split_at_checked(gap)) {
        Some((high, low)) => {
            let (high, before) = row(high)?;
            let (low, behind) = row(low.get(2..)?)?;
            let zeros = 8_u32
                .checked_sub(before + behind)
                .filter(|zeros| *zeros > 0)?;
            high.checked_shl(16 * (zeros + behind)).unwrap_or(0) | low
        }
        None => row(text).filter(|(_, count)| *count == 8)?.0,
    };
    Some(Ipv6Addr::from(address))
}

/// Groups with a colon between each, and how many: at most eight.
fn row(text: &[u8]) -> Option<(u128, u32)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    let (mut value, mut count) = (0, 0);
    let (mut group, mut digits) = (0, 0);
    for byte in text.iter().chain(b":") {
        match char::from(*byte).to_digit(16) {
            Some(digit) if digits < 4 => {
                group = group << 4 | digit;
                digits += 1;
            }
            None if *byte == b':' && digits > 0 && count < 8 => {
                value = value << 16 | u128::from(group);
                count += 1;
                (group, digits) = (0, 0);
            }
            _ => return None,
        }
    }
    Some((value, count))
}

fn standard(text: &[u8]) -> Option<Ipv6Addr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn v6(part: Part<'_>) -> Result<Pattern, Wrong> {
    let (address, behind) = match part.split(b'/') {
        Some((address, behind)) => (address, Some(behind)),
        None => (part, None),
    };
    let Some(parsed) = groups(address.text).or_else(|| standard(address.text)) else {
        let decorated = address.text.contains(&b'%') || address.text.first() == Some(&b'[');
        return Err(address.wrong(if decorated {
            Kind::V6Decorated
        } else {
            Kind::V6
        }));
    };
    let value = u128::from(parsed);
    let prefix = behind.map_or(Ok(128), |behind| prefix(behind, 128))?;
    if let (Some(v4), 96..) = (mapped(value), prefix) {
        return Ok(around_v4(v4, prefix - 96));
    }
    let host = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ok(Pattern {
        span: Span::V6(value & !host, value | host),
        unaligned: (value & host != 0).then_some((parsed.into(), prefix)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Pattern, Wrong> {
        let part = Part {
            text: text.as_bytes(),
            at: 0,
        };
        match part.split(b'-') {
            Some((first, last)) => Pattern::range(first, last),
            None => Pattern::parse(part),
        }
    }

    #[test]
    fn what_patterns_mean() {
        let check = |text: &str, first: &str, last: &str| {
            let expected = match (first.parse().unwrap(), last.parse().unwrap()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => Span::V4(first.into(), last.into()),
                (IpAddr::V6(first), IpAddr::V6(last)) => Span::V6(first.into(), last.into()),
                _ => panic!("{text}"),
            };
            assert_eq!(parse(text).unwrap().span, expected, "{text}");
        };
        check("1.2.3.4", "1.2.3.4", "1.2.3.4");
        check("10.*", "10.0.0.0", "10.255.255.255");
        check("10.20.*", "10.20.0.0", "10.20.255.255");
        check("10.20.30.*", "10.20.30.0", "10.20.30.255");
        check("1.2.3.4/0", "0.0.0.0", "255.255.255.255");
        check("1.2.3.130/25", "1.2.3.128", "1.2.3.255");
        check("1.2.3.4/31", "1.2.3.4", "1.2.3.5");
        check("1.2.3.4/32", "1.2.3.4", "1.2.3.4");
        check("5.6.7.8-5.6.7.99", "5.6.7.8", "5.6.7.99");
        check("2001:db8::1", "2001:db8::1", "2001:db8::1");
        check(
            "2001:db8::/33",
            "2001:db8::",
            "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff",
        );
        check("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        check("::1-::2", "::1", "::2");
        check("::ffff:1.2.3.4", "1.2.3.4", "1.2.3.4");
        check("::ffff:1.2.3.4/120", "1.2.3.0", "1.2.3.255");
        check("::ffff:0:0/96", "0.0.0.0", "255.255.255.255");
        check("::ffff:1.2.3.4-::ffff:1.2.3.9", "1.2.3.4", "1.2.3.9");
        check("::1-::ffff:1.2.3.9", "::1", "::ffff:1.2.3.9");
        assert_eq!(parse("all").unwrap().span, Span::All);
        assert_eq!(parse("*").unwrap().span, Span::All);
    }

    #[test]
    fn the_short_way_reads_ipv6_as_the_standard_library_does() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut taken = 0;
        for _ in 0..200_000 {
            let count = random.usize(1..10);
            let parts = [
                "", "", "0", "1", "a", "BcD", "ffff", "0db8", "00001", "g", "1.2.3.4", "+1",
            ];
            let kinds = random.usize(3..=parts.len());
            let parts: Vec<_> = (0..count).map(|_| parts[random.usize(..kinds)]).collect();
            let text = parts.join(":");
            let own = groups(text.as_bytes());
            let expected = standard(text.as_bytes());
            assert!(
                own.is_none() || own == expected,
                "{text}: {own:?}, {expected:?}"
            );
            // All that has no dot is read in the short way.
            assert!(
                own == expected || text.contains('.'),
                "{text}: {expected:?}"
            );
            taken += u32::from(own.is_some());
        }
        assert!(taken > 1_000, "{taken}");
    }

    #[test]
    fn what_is_wrong_and_where() {
        let check = |text: &str, kind: Kind, at: usize, length: usize| {
            assert_eq!(
                parse(text).unwrap_err(),
                Wrong { at, length, kind },
                "{text}"
            );
        };
        check("", Kind::Pattern, 0, 0);
        check("example.com", Kind::Pattern, 0, 11);
        check("1.2.3", Kind::Octets, 0, 5);
        check("1.2.3.4.5", Kind::Octets, 0, 9);
        check("1.2.3/24", Kind::Octets, 0, 8);
        check("999.1.1.1", Kind::Octet, 0, 3);
        check("1.2.99999999999.1", Kind::Octet, 4, 11);
        check("1.2..1", Kind::Octet, 4, 2);
        check("1.2.3.", Kind::Octet, 6, 0);
        check("1.*.3.4", Kind::Octet, 2, 5);
        check("1.2.3.4.*", Kind::Octets, 0, 9);
        check("10.20.*.*", Kind::Octet, 6, 3);
        check("1.02.3.4", Kind::LeadingZero, 2, 2);
        check("1.2.3.4x", Kind::Pattern, 0, 8);
        check("1.2.3.4/33", Kind::Prefix { longest: 32 }, 8, 2);
        check("1.2.3.4/", Kind::Prefix { longest: 32 }, 8, 0);
        check("1.2.3.4/+8", Kind::Prefix { longest: 32 }, 8, 2);
        check("::/129", Kind::Prefix { longest: 128 }, 3, 3);
        check("2001:db8:::", Kind::V6, 0, 11);
        check("[::1]", Kind::V6Decorated, 0, 5);
        check("fe80::1%eth0", Kind::V6Decorated, 0, 12);
        check("1.2.3.4-", Kind::RangeEnd, 8, 0);
        check("1.2.3.4-1.2.3.0/24", Kind::RangeEnd, 8, 10);
        check("all-1.2.3.4", Kind::RangeEnd, 0, 3);
        check("1.2.3.9-1.2.3.4", Kind::RangeBackwards, 0, 15);
        check("1.2.3.4-::1", Kind::RangeMixed, 0, 11);
        check("1.2.3.4-::ffff:1.2.3.9", Kind::RangeMixed, 0, 22);
    }

    #[test]
    fn bits_beyond_the_prefix_are_told() {
        let unaligned = |text: &str| parse(text).unwrap().unaligned;
        assert_eq!(unaligned("1.2.3.128/25"), None);
        assert_eq!(unaligned("2001:db8::/32"), None);
        assert_eq!(
            unaligned("1.2.3.130/25"),
            Some(("1.2.3.130".parse().unwrap(), 25))
        );
        assert_eq!(
            unaligned("2001:db8::1/64"),
            Some(("2001:db8::1".parse().unwrap(), 64))
        );
    }
}
