//! Who may come in: allow and deny rules over IP addresses, compiled into one table of verdicts.
//! One look-up decides and names the rule, whatever the number of rules. No I/O, no async; one
//! dependency, for memory in huge pages.
//!
//! ```
//! use munjigi_ipfilter::RuleSet;
//!
//! let rules = RuleSet::parse("default true\ndeny from 10.20.*\nallow from 10.20.30.40 # office").unwrap();
//! let verdict = rules.verdict("10.20.1.1".parse()?);
//! assert!(!verdict.allow);
//! assert_eq!(verdict.rule.map(|rule| rule.line), Some(2));
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! # Meaning
//! Two lists, `allow` and `deny`. [`Order`] says which is asked first; the first list with a rule
//! that matches decides, else the default does. That is not Apache's `Order`, where the last
//! match wins. How narrow a rule is has no say in the verdict; of the deciding list's rules that
//! match, the most specific one (the smallest; of equals the first) is the one that is named.
//! An IPv4-mapped IPv6 address (`::ffff:1.2.3.4`) is judged as IPv4.
//!
//! # Several sources
//! [`Builder`] combines lists written in settings with files of two formats: the
//! line format ([`RuleSet::parse`], [`Builder::lines`]) and the plain one ([`Builder::plain`]),
//! both described in `docs/ip-filter.md`. Every problem of every source is reported, with line,
//! column and what was expected.
//!
//! # Compiled form
//! A [`RuleSet`] is one run of bytes ([`RuleSet::as_bytes`]) that can be written to a file and
//! used in place, mapped into memory ([`RuleSet::from_bytes`]): versioned, checked when it is
//! opened, read within bounds whatever it holds.

mod build;
mod bytes;
mod grammar;
mod key;
mod maker;
mod memory;
mod pattern;
mod problem;
mod rules;
mod sweep;
mod table;

pub use build::Builder;
pub use bytes::BadBytes;
#[doc(hidden)]
pub use bytes::seal;
pub use memory::Memory;
pub use problem::{Kind, Problem};
pub use rules::{Explanation, Line, RuleSet, Verdict};

use std::fmt;

/// What a rule does, and what happens where no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Action {
    /// The address may come in.
    Allow,
    /// It may not.
    #[default]
    Deny,
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// Which list is asked first. The first list with a rule that matches decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// `allow,deny`
    AllowFirst,
    /// `deny,allow`
    #[default]
    DenyFirst,
}

impl Order {
    /// The list that is asked first.
    #[must_use]
    pub const fn first(self) -> Action {
        match self {
            Self::AllowFirst => Action::Allow,
            Self::DenyFirst => Action::Deny,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AllowFirst => "allow,deny",
            Self::DenyFirst => "deny,allow",
        })
    }
}
