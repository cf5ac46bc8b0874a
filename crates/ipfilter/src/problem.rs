//! What is wrong with a source of rules, and what is odd about rules that are right.

use std::fmt;
use std::net::IpAddr;

/// One problem. Small and without text of its own, so that a million of them can be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: u32,
    /// From 1; 0 when the line as a whole is meant.
    pub column: u32,
    /// How many bytes of the line are meant, from `column` on.
    pub length: u32,
    /// Which source, in the order in which they were added to the builder, from 0.
    pub source: u32,
    /// What it is.
    pub kind: Kind,
}

/// What is wrong, or odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The line begins with none of the words of the line format.
    Statement,
    /// `order` is followed by neither of the two orders.
    Order,
    /// `default` is followed by neither `true` nor `false`.
    Truth,
    /// `allow` or `deny` is not followed by `from`.
    From,
    /// Nothing that could be a network.
    Pattern,
    /// Not four numbers.
    Octets,
    /// Not a number from 0 to 255.
    Octet,
    /// `010`: octal for some programs, decimal for others.
    LeadingZero,
    /// Not an IPv6 address.
    V6,
    /// Brackets or a zone around an IPv6 address.
    V6Decorated,
    /// Not a prefix length for this family.
    Prefix {
        /// The longest: 32 or 128.
        longest: u8,
    },
    /// The end of a range is no address.
    RangeEnd,
    /// The range ends before it begins.
    RangeBackwards,
    /// One end is IPv4, the other IPv6.
    RangeMixed,
    /// More text behind a rule.
    Trailing,
    /// A comment behind `default`, which the format does not allow.
    CommentAfterDefault,
    /// An `add` line of ipset or nftables that names no network.
    AddLine,
    /// An option of an `add` line that changes what the rule means.
    AddOption,
    /// More than 16,777,215 lines in one rule set.
    TooManyLines,
    /// A second file with an `order` line.
    OrderTwice,
    /// A second file with a `default` line.
    DefaultTwice,
    /// Accepted: the address has bits beyond its prefix, which count as zero.
    Unaligned {
        /// As written.
        address: IpAddr,
        /// As written.
        prefix: u8,
    },
    /// Accepted, and never decides: the same rule stands before it.
    Duplicate {
        /// The source of the other rule.
        by_source: u32,
        /// The other rule.
        by: u32,
    },
    /// Accepted, and never decides: for each of its addresses a rule of the list that is asked
    /// first does, such as this one.
    Overruled {
        /// The source of the other rule.
        by_source: u32,
        /// The other rule.
        by: u32,
    },
    /// Accepted, and never decides: narrower rules, such as this one, cover all of it.
    Covered {
        /// The source of the other rule.
        by_source: u32,
        /// The other rule.
        by: u32,
    },
    /// Accepted, and never decides: what other rules leave of it are IPv4-mapped addresses, which
    /// are judged as IPv4.
    Unasked,
}

impl Problem {
    /// True when the rules can't be used; false for what lint finds in rules that can.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Unaligned { .. }
                | Kind::Duplicate { .. }
                | Kind::Overruled { .. }
                | Kind::Covered { .. }
                | Kind::Unasked
        )
    }

    /// What to write instead, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self.kind {
            Kind::Statement => "write `order`, `default`, `allow from`, `deny from` or a comment",
            Kind::From => "write `allow from 10.0.0.0/8` or `deny from 10.0.0.0/8`, say",
            Kind::Pattern | Kind::AddLine => {
                "write 1.2.3.4, 10.0.0.0/8, 10.20.*, 1.2.3.4-1.2.3.9, 2001:db8::/32 or all"
            }
            Kind::Octets => "write four numbers with dots, or a wildcard such as 10.20.*",
            Kind::Octet => "write numbers up to 255; a wildcard stands at the end, as in 10.20.*",
            Kind::LeadingZero => "write it without zeros in front",
            Kind::V6Decorated => "write the address alone, without brackets or zone",
            Kind::RangeBackwards => "write the lower address first",
            Kind::Trailing => "begin a new line, or a comment with #",
            Kind::CommentAfterDefault => "give the comment a line of its own",
            Kind::OrderTwice => "leave one `order` line, or say it in the settings",
            Kind::DefaultTwice => "leave one `default` line, or say it in the settings",
            Kind::Unaligned { address, prefix } => {
                let network = crate::pattern::masked(address, prefix);
                return Some(format!("{network}/{prefix} says the same"));
            }
            Kind::Duplicate { .. } | Kind::Overruled { .. } | Kind::Covered { .. } => "remove it",
            Kind::Unasked => "remove it, or write the IPv4 addresses that are meant",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}", self.line)?;
        if self.column > 0 {
            write!(formatter, ", column {}", self.column)?;
        }
        write!(formatter, ": {}", self.kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Statement => "expected order, default, allow or deny",
            Self::Order => "expected allow,deny or deny,allow",
            Self::Truth => "expected true or false",
            Self::From => "expected the word `from`",
            Self::Pattern => "expected an address, a network, a range, a wildcard or all",
            Self::Octets => "expected four numbers from 0 to 255 with dots between them",
            Self::Octet => "expected a number from 0 to 255",
            Self::LeadingZero => "a number with a zero in front could be octal",
            Self::V6 => "expected an IPv6 address",
            Self::V6Decorated => "expected an IPv6 address without brackets and zone",
            Self::Prefix { longest } => {
                return write!(formatter, "expected a prefix length from 0 to {longest}");
            }
            Self::RangeEnd => "expected the last address of the range",
            Self::RangeBackwards => "the range ends before it begins",
            Self::RangeMixed => "the ends of the range are of different families",
            Self::Trailing => "expected the end of the line",
            Self::CommentAfterDefault => "expected the end of the line: no comment may follow here",
            Self::AddLine => "expected add SET NETWORK, or add element TABLE SET { NETWORK, … }",
            Self::AddOption => "this option changes what the rule means and is not understood",
            Self::TooManyLines => "a rule set holds at most 16777215 lines",
            Self::OrderTwice => "order is said in another file already",
            Self::DefaultTwice => "default is said in another file already",
            Self::Unaligned { address, prefix } => {
                return write!(
                    formatter,
                    "{address}/{prefix} has bits beyond its prefix; they count as zero"
                );
            }
            Self::Duplicate { by, .. } => {
                return write!(formatter, "never decides: line {by} says the same");
            }
            Self::Overruled { by, .. } => {
                return write!(
                    formatter,
                    "never decides: line {by} is of the list that is asked first"
                );
            }
            Self::Covered { by, .. } => {
                return write!(
                    formatter,
                    "never decides: narrower rules cover it, from line {by} on"
                );
            }
            Self::Unasked => {
                "never decides: others leave it IPv4-mapped addresses alone, which are judged as IPv4"
            }
        };
        formatter.write_str(text)
    }
}
