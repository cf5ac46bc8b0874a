//! What a route may ask of a request beside host, path and method: header fields and parameters
//! of the query. Pure.

use std::borrow::Cow;
use std::fmt;

use regex::Regex;

use crate::http1::head::RequestHead;
use crate::target;

/// Where a condition looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A header field, by its name in any case.
    Header(String),
    /// A parameter of the query, by its name as decoded.
    Query(String),
}

/// What a value must be.
#[derive(Debug, Clone)]
pub enum ValueTest {
    /// There (`true`), or not there (`false`), whatever its value.
    Present(bool),
    /// This text.
    Exact(String),
    /// It begins with this text.
    Prefix(String),
    /// The whole value matches.
    Regex(Regex),
}

impl ValueTest {
    /// The test of a regular expression that the whole value must match.
    ///
    /// # Errors
    /// What is wrong with the expression.
    pub fn regex(written: &str) -> Result<Self, String> {
        whole(written).map(Self::Regex)
    }

    fn holds<'v>(&self, mut values: impl Iterator<Item = Cow<'v, str>>) -> bool {
        match self {
            Self::Present(wanted) => values.next().is_some() == *wanted,
            Self::Exact(text) => values.any(|value| value == text.as_str()),
            Self::Prefix(text) => values.any(|value| value.starts_with(text.as_str())),
            Self::Regex(regex) => values.any(|value| regex.is_match(&value)),
        }
    }
}

/// A regular expression that must match from the first to the last character.
///
/// # Errors
/// The last line of what is wrong with it.
pub(crate) fn whole(written: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{written})$")).map_err(|error| {
        let why = error.to_string();
        let last = why.lines().last().unwrap_or_default();
        last.trim_start_matches("error: ").to_owned()
    })
}

/// `header = { NAME = … }` or `query = { NAME = … }`: one entry of it. With several values of one
/// name it is enough that one of them fits.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Where it looks.
    pub source: Source,
    /// What must be there.
    pub test: ValueTest,
}

impl Condition {
    /// True when the request fits.
    #[must_use]
    pub(crate) fn holds(&self, head: &RequestHead, query: &str) -> bool {
        match &self.source {
            Source::Header(name) => {
                let values = head.fields.named(name).map(String::from_utf8_lossy);
                self.test.holds(values)
            }
            Source::Query(name) => self.test.holds(target::query_values(query, name)),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Header(name) => write!(formatter, "header {name}")?,
            Source::Query(name) => write!(formatter, "query {name}")?,
        }
        match &self.test {
            ValueTest::Present(true) => formatter.write_str(" present"),
            ValueTest::Present(false) => formatter.write_str(" absent"),
            ValueTest::Exact(text) => write!(formatter, " = \"{text}\""),
            ValueTest::Prefix(text) => write!(formatter, " begins with \"{text}\""),
            ValueTest::Regex(regex) => write!(formatter, " matches {regex}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::HeadLimits;

    fn holds(source: Source, test: ValueTest) -> bool {
        let bytes = b"GET /x?a=1&a=2&b=x%20y&c HTTP/1.1\r\nHost: x\r\nX-Kind: one\r\nx-kind: two\r\nX-Raw: \xff\r\n\r\n";
        let limits = HeadLimits {
            bytes: 4_096,
            fields: 16,
        };
        let head = RequestHead::parse(bytes, limits).unwrap();
        Condition { source, test }.holds(&head, "a=1&a=2&b=x%20y&c")
    }

    #[test]
    fn conditions_of_header_fields_and_of_the_query() {
        let header = |name: &str, test| holds(Source::Header(name.to_owned()), test);
        let query = |name: &str, test| holds(Source::Query(name.to_owned()), test);
        let exact = |text: &str| ValueTest::Exact(text.to_owned());
        let prefix = |text: &str| ValueTest::Prefix(text.to_owned());
        let regex = |text: &str| ValueTest::regex(text).unwrap();
        assert!(header("X-KIND", exact("two")) && !header("X-Kind", exact("Two")));
        assert!(header("X-Kind", prefix("on")) && !header("X-Kind", prefix("ne")));
        assert!(header("X-Kind", regex("o.e")) && !header("X-Kind", regex("o")));
        assert!(header("X-Kind", ValueTest::Present(true)));
        assert!(!header("X-Kind", ValueTest::Present(false)));
        assert!(header("X-Other", ValueTest::Present(false)));
        assert!(header("X-Raw", ValueTest::Present(true)));
        assert!(query("a", exact("2")) && !query("a", exact("3")));
        assert!(query("b", exact("x y")) && query("c", exact("")));
        assert!(query("c", ValueTest::Present(true)) && !query("A", ValueTest::Present(true)));
        assert!(ValueTest::regex("(").is_err());
    }
}
