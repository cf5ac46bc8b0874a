//! The target that a backend sees, where a route changes it. Pure.

use std::fmt;

use regex::Regex;

use crate::template::{Facts, Template};

/// `strip_prefix = true` or `rewrite = { … }`: works on the path in the form that routes are
/// chosen by; the query stays.
#[derive(Debug, Clone)]
pub enum Rewrite {
    /// This text in place of the route's `path`; nothing with `strip_prefix`.
    Prefix(String),
    /// This path in place of the whole one.
    Path(Template),
    /// Where the whole path matches the first, the second is the new one; `$1` or `${name}` in it
    /// stand for groups.
    Regex(Regex, String),
}

impl Rewrite {
    /// Path and query as they are forwarded.
    #[must_use]
    pub(crate) fn target(&self, facts: &Facts<'_>) -> Vec<u8> {
        let path = match self {
            Self::Prefix(prefix) => {
                let rest = facts.pattern.rest(&facts.path).unwrap_or(&facts.path);
                format!("{prefix}{rest}")
            }
            Self::Path(template) => template.fill(facts),
            Self::Regex(regex, replacement) => regex
                .replace(&facts.path, replacement.as_str())
                .into_owned(),
        };
        // Two slashes at the start would make a host of what follows them.
        let path = path.trim_start_matches(['/', '\\']);
        let mut target = Vec::with_capacity(path.len() + 1 + facts.query().len());
        target.push(b'/');
        target.extend_from_slice(path.as_bytes());
        target.extend_from_slice(facts.query());
        target
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) if prefix.is_empty() => formatter.write_str("strip_prefix"),
            Self::Prefix(prefix) => write!(formatter, "prefix {prefix}"),
            Self::Path(path) => write!(formatter, "path {path}"),
            Self::Regex(regex, to) => write!(formatter, "{regex} to {to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::PathPattern;
    use crate::target;
    use crate::template::tests::head;

    #[test]
    fn paths_are_rewritten_and_queries_stay() {
        let check = |pattern: &str, rewrite: &Rewrite, asked: &str, expected: &str| {
            let head = head(asked);
            let pattern = PathPattern::prefix(pattern).unwrap();
            let (path, _) = target::split(asked);
            let facts = Facts {
                head: &head,
                path: target::normal_path(path),
                pattern: &pattern,
                client: [127, 0, 0, 1].into(),
                scheme: "http",
            };
            let target = String::from_utf8(rewrite.target(&facts)).unwrap();
            assert_eq!(target, expected, "{asked} by {rewrite}");
        };
        let strip = Rewrite::Prefix(String::new());
        check("/api", &strip, "/api/x?a=/api/", "/x?a=/api/");
        check("/api", &strip, "/api", "/");
        check("/api", &strip, "/api/", "/");
        check("/api", &strip, "/api//evil.example", "/evil.example");
        check("/api", &strip, "/%61pi/a%2fb/../c", "/c");
        check("/api", &strip, "/api/%2e%2e/%2e%2e/api/x", "/x");
        check("/{v}/api", &strip, "/1/api/x", "/x");
        check("/", &strip, "/x", "/x");
        let prefix = Rewrite::Prefix("/v2".to_owned());
        check("/v1", &prefix, "/v1/a?b", "/v2/a?b");
        let pattern = PathPattern::prefix("/u/{id}").unwrap();
        let path = Rewrite::Path(Template::parse("/users/{id}", Some(&pattern)).unwrap());
        check("/u/{id}", &path, "/u/a%0d%0ab/more?x", "/users/a%0D%0Ab?x");
        let regex = Rewrite::Regex(
            crate::conditions::whole("/(?<y>[0-9]+)/(.*)").unwrap(),
            "/${2}/$y".to_owned(),
        );
        check("/", &regex, "/2026/news", "/news/2026");
        check("/", &regex, "/news", "/news");
    }
}
