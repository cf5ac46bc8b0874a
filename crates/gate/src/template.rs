//! Text with `{placeholders}`, which a route fills with parts of the request: the place of a
//! redirect, a path, the value of a header field. What is filled in can't break out of its line:
//! control characters are left out, what is not ASCII is percent-encoded.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use crate::http1::head::RequestHead;
use crate::routes::PathPattern;
use crate::target;

/// What a placeholder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placeholder {
    /// `http` or `https`.
    Scheme,
    /// The host without port.
    Host,
    /// The host as the client wrote it, with its port.
    HostPort,
    /// The path, in the form that routes are chosen by.
    Path,
    /// `?` and the query, or nothing.
    Query,
    /// What follows the route's `path`: nothing, or from a slash on.
    Rest,
    /// The client's address.
    ClientIp,
    /// The segment of the route's path with this name.
    Segment(String),
}

const KNOWN: [(&str, Placeholder); 7] = [
    ("scheme", Placeholder::Scheme),
    ("host", Placeholder::Host),
    ("hostport", Placeholder::HostPort),
    ("path", Placeholder::Path),
    ("query", Placeholder::Query),
    ("rest", Placeholder::Rest),
    ("client_ip", Placeholder::ClientIp),
];

impl fmt::Display for Placeholder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Segment(name) => name.as_str(),
            known => KNOWN
                .iter()
                .find(|(_, placeholder)| placeholder == known)
                .map_or("", |(name, _)| name),
        };
        write!(formatter, "{{{name}}}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Fill(Placeholder),
}

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// What the placeholders of one request stand for.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) head: &'a RequestHead,
    /// The path in the form of [`target::normal_path`].
    pub(crate) path: Cow<'a, str>,
    pub(crate) pattern: &'a PathPattern,
    pub(crate) client: IpAddr,
    pub(crate) scheme: &'static str,
}

impl Template {
    /// Reads a text in which `{name}` is a placeholder: one of the known, or a segment that
    /// `pattern` names. A brace before anything but a name stands for itself.
    ///
    /// # Errors
    /// Which placeholder is not known.
    pub fn parse(written: &str, pattern: Option<&PathPattern>) -> Result<Self, String> {
        let segments = pattern.map(PathPattern::captures).unwrap_or_default();
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = written;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
            let (name, behind) = after.split_at(end.unwrap_or(after.len()));
            let Some(behind) = behind.strip_prefix('}').filter(|_| !name.is_empty()) else {
                text.push('{');
                rest = after;
                continue;
            };
            let known = KNOWN.iter().find(|(known, _)| *known == name);
            // A segment hides the meaning that its name has elsewhere.
            let fill = if segments.contains(&name) {
                Placeholder::Segment(name.to_owned())
            } else if let Some((_, placeholder)) = known {
                placeholder.clone()
            } else {
                let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
                return Err(format!(
                    "there is no placeholder {{{name}}}; known are {} and the segments that `path` names",
                    names.join(", ")
                ));
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Fill(fill));
            rest = behind;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts))
    }

    /// The whole text, when it has no placeholder.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text before the first placeholder.
    #[must_use]
    pub fn start(&self) -> &str {
        match self.0.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The placeholders in order, each with the text before it.
    pub fn fills(&self) -> impl Iterator<Item = (String, &Placeholder)> {
        let mut before = String::new();
        self.0.iter().filter_map(move |part| match part {
            Part::Text(text) => {
                before.push_str(text);
                None
            }
            Part::Fill(placeholder) => {
                let so_far = before.clone();
                before.push_str("{}");
                Some((so_far, placeholder))
            }
        })
    }

    /// The text for one request.
    #[must_use]
    pub(crate) fn fill(&self, facts: &Facts<'_>) -> String {
        let mut filled = String::with_capacity(64);
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Fill(placeholder) => facts.put(&mut filled, placeholder),
            }
        }
        filled
    }
}

impl fmt::Display for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => formatter.write_str(text),
            Part::Fill(placeholder) => placeholder.fmt(formatter),
        })
    }
}

impl Facts<'_> {
    fn put(&self, out: &mut String, placeholder: &Placeholder) {
        let host = || String::from_utf8_lossy(self.head.host().unwrap_or_default());
        match placeholder {
            Placeholder::Scheme => out.push_str(self.scheme),
            Placeholder::Host => put_safely(out, target::host_name(&host()).as_bytes()),
            Placeholder::HostPort => put_safely(out, host().as_bytes()),
            Placeholder::Path => put_safely(out, self.path.as_bytes()),
            Placeholder::Query => put_safely(out, self.query()),
            Placeholder::Rest => {
                let rest = self.pattern.rest(&self.path).unwrap_or_default();
                put_safely(out, rest.as_bytes());
            }
            Placeholder::ClientIp => out.push_str(&self.client.to_string()),
            Placeholder::Segment(name) => {
                let segment = self.pattern.captured(&self.path, name).unwrap_or_default();
                put_safely(out, segment.as_bytes());
            }
        }
    }

    /// `?` and the query as written, or nothing.
    pub(crate) fn query(&self) -> &[u8] {
        let target = self.head.target();
        memchr::memchr(b'?', target)
            .and_then(|at| target.get(at..))
            .unwrap_or_default()
    }
}

fn put_safely(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'!'..=b'~' => out.push(char::from(*byte)),
            0x80.. => target::push_encoded(out, *byte),
            // No head that was accepted holds one in its target or host.
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::http1::head::HeadLimits;

    pub(crate) fn head(target: &str) -> RequestHead {
        let text = format!("GET {target} HTTP/1.1\r\nHost: Example.com:8080\r\n\r\n");
        let limits = HeadLimits {
            bytes: 4_096,
            fields: 16,
        };
        RequestHead::parse(text.as_bytes(), limits).unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_typos_refused() {
        let pattern = PathPattern::prefix("/shop/{kind}").unwrap();
        let head = head("/shop/a%20b/x/%2e./y?q=한");
        let facts = Facts {
            head: &head,
            path: "/shop/a%20b/y".into(),
            pattern: &pattern,
            client: [127, 0, 0, 1].into(),
            scheme: "http",
        };
        let check = |written: &str, expected: &str| {
            let template = Template::parse(written, Some(&pattern)).unwrap();
            assert_eq!(template.fill(&facts), expected);
            assert_eq!(template.to_string(), written);
        };
        check(
            "{scheme}://{host}{path}{query}",
            "http://example.com/shop/a%20b/y?q=%ED%95%9C",
        );
        check("//{hostport}/", "//Example.com:8080/");
        check("/{kind}{rest}", "/a%20b/y");
        check("{client_ip}", "127.0.0.1");
        check("{\"group\": \"x\"}", "{\"group\": \"x\"}");
        check("{} { {host", "{} { {host");
        assert!(Template::parse("{hots}", Some(&pattern)).is_err());
        assert!(Template::parse("{kind}", None).is_err());
    }
}
