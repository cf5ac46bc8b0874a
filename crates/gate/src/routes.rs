//! Which route serves a request: pure look-ups in tables built once per settings.

use std::collections::HashMap;
use std::fmt;

use regex::Regex;

use crate::settings::{GateSettings, RouteSettings};
use crate::target;

/// A host of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// In lower case.
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: any name below, however deep.
    Wildcard(String),
}

impl std::str::FromStr for HostPattern {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let lower = written.to_ascii_lowercase();
        let (name, wildcard) = match lower.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '[' | ']' | ':');
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("\"{written}\" is no host"));
        }
        Ok(if wildcard {
            Self::Wildcard(format!(".{name}"))
        } else {
            Self::Exact(name.to_owned())
        })
    }
}

/// The path of a route.
#[derive(Debug, Clone)]
pub enum PathPattern {
    /// This path alone.
    Exact(String),
    /// The whole path must match.
    Regex(Regex),
    /// A prefix that ends on a segment border.
    Prefix(String),
    /// A prefix in which `{name}` stands for one segment.
    Template(Vec<Segment>),
}

/// A segment of a path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Text(String),
    /// Any text, known by this name.
    Capture(String),
}

impl PathPattern {
    /// Reads `path`: a prefix, or a template when it holds `{name}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn prefix(written: &str) -> Result<Self, String> {
        if !written.starts_with('/') {
            return Err(format!("\"{written}\" does not begin with \"/\""));
        }
        if written.contains(['?', '#', ' ']) {
            return Err(format!("\"{written}\" holds more than a path"));
        }
        let trimmed = written.trim_end_matches('/');
        if !trimmed.contains('{') {
            return Ok(Self::Prefix(trimmed.to_owned()));
        }
        trimmed
            .split('/')
            .skip(1)
            .map(|segment| {
                let name = segment
                    .strip_prefix('{')
                    .and_then(|rest| rest.strip_suffix('}'));
                match name {
                    Some(name) if !name.is_empty() && !name.contains(['{', '}']) => {
                        Ok(Segment::Capture(name.to_owned()))
                    }
                    None if !segment.contains(['{', '}']) => Ok(Segment::Text(segment.to_owned())),
                    _ => Err(format!("\"{segment}\" is neither text nor {{name}}")),
                }
            })
            .collect::<Result<_, _>>()
            .map(Self::Template)
    }

    /// Captures of a template, empty for other patterns.
    #[must_use]
    pub fn captures(&self) -> Vec<&str> {
        match self {
            Self::Template(segments) => segments
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Capture(name) => Some(name.as_str()),
                    Segment::Text(_) => None,
                })
                .collect(),
            Self::Exact(_) | Self::Regex(_) | Self::Prefix(_) => Vec::new(),
        }
    }

    /// The segment that stands for `name` in `path`.
    #[must_use]
    pub fn captured<'p>(&self, path: &'p str, name: &str) -> Option<&'p str> {
        let Self::Template(segments) = self else {
            return None;
        };
        segments
            .iter()
            .zip(path.split('/').skip(1))
            .find(|(segment, _)| matches!(segment, Segment::Capture(known) if known == name))
            .map(|(_, part)| part)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(formatter, "{path} (exact)"),
            Self::Regex(regex) => write!(formatter, "{regex} (regex)"),
            Self::Prefix(path) if path.is_empty() => formatter.write_str("/"),
            Self::Prefix(path) => formatter.write_str(path),
            Self::Template(segments) => segments.iter().try_for_each(|segment| match segment {
                Segment::Text(text) => write!(formatter, "/{text}"),
                Segment::Capture(name) => write!(formatter, "/{{{name}}}"),
            }),
        }
    }
}

/// `where = "metadata.KEY = SOURCE"`: only the backend whose metadata matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Key of the backend's metadata.
    pub key: String,
    /// Where the request names the value.
    pub source: LookupSource,
    /// A request that names none goes to any backend, instead of 400.
    pub balance_when_missing: bool,
}

/// Where a request names the value of a [`Lookup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupSource {
    /// A parameter of the query.
    Query(String),
    /// A header field.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A segment of the path.
    Path(String),
}

impl fmt::Display for LookupSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(name) => write!(formatter, "query.{name}"),
            Self::Header(name) => write!(formatter, "header.{name}"),
            Self::Cookie(name) => write!(formatter, "cookie.{name}"),
            Self::Path(name) => write!(formatter, "{{{name}}}"),
        }
    }
}

impl Lookup {
    /// Reads `metadata.KEY = SOURCE`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(written: &str, balance_when_missing: bool) -> Result<Self, String> {
        let (left, right) = written
            .split_once('=')
            .ok_or_else(|| "there is no `=`".to_owned())?;
        let key = left
            .trim()
            .strip_prefix("metadata.")
            .filter(|key| !key.is_empty())
            .ok_or_else(|| format!("\"{}\" is not metadata.KEY", left.trim()))?;
        let right = right.trim();
        let name = |prefix: &str| {
            right
                .strip_prefix(prefix)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
        };
        let source = if let Some(query) = name("query.") {
            LookupSource::Query(query)
        } else if let Some(header) = name("header.") {
            LookupSource::Header(header)
        } else if let Some(cookie) = name("cookie.") {
            LookupSource::Cookie(cookie)
        } else if let Some(path) =
            name("{").and_then(|rest| rest.strip_suffix('}').map(str::to_owned))
        {
            LookupSource::Path(path)
        } else {
            return Err(format!(
                "\"{right}\" is not query.NAME, header.NAME, cookie.NAME or {{name}}"
            ));
        };
        Ok(Self {
            key: key.to_owned(),
            source,
            balance_when_missing,
        })
    }
}

/// Routes of one host (or of all) on one listener; numbers are places in the file.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Vec<usize>>,
    regexes: Vec<(Regex, usize)>,
    prefixes: HashMap<String, Vec<usize>>,
    templates: Vec<(Vec<Segment>, usize)>,
}

/// The routes of one listener.
#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<String, Paths>,
    /// By suffix with its dot: `.example.com`.
    wildcards: HashMap<String, Paths>,
    any: Paths,
}

/// All routes of the settings, arranged for look-ups.
#[derive(Debug)]
pub(crate) struct Routes {
    routes: Vec<RouteSettings>,
    listeners: HashMap<String, Hosts>,
}

/// What a request is routed by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    /// Name of the listener.
    pub listener: &'a str,
    /// Host in lower case, without port.
    pub host: &'a str,
    /// The path in the form of [`target::normal_path`].
    pub path: &'a str,
    /// As written.
    pub method: &'a str,
}

/// The answer to a [`Question`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The place of the route in the file.
    Route(usize),
    /// The path is known, with these methods only.
    OtherMethods(Vec<String>),
    /// Nothing matches.
    None,
}

impl Routes {
    /// Arranges the routes of `settings`.
    #[must_use]
    pub(crate) fn new(settings: &GateSettings) -> Self {
        let mut listeners = HashMap::new();
        for listener in &settings.listeners {
            let mut hosts = Hosts::default();
            for (place, route) in settings.routes.iter().enumerate() {
                let serves = route
                    .listeners
                    .as_ref()
                    .is_none_or(|names| names.contains(&listener.name));
                if serves {
                    hosts.add(place, route);
                }
            }
            hosts.sort(&settings.routes);
            listeners.insert(listener.name.clone(), hosts);
        }
        Self {
            routes: settings.routes.clone(),
            listeners,
        }
    }

    /// The route at `place`.
    #[must_use]
    pub(crate) fn get(&self, place: usize) -> Option<&RouteSettings> {
        self.routes.get(place)
    }

    /// Finds the most specific route: exact host, longest wildcard, any host; in each exact path,
    /// regexes in file order, longest prefix; with equal paths the one with more conditions, then
    /// file order.
    #[must_use]
    pub(crate) fn find(&self, question: Question<'_>) -> Choice {
        let mut search = Search {
            routes: &self.routes,
            method: question.method,
            others: Vec::new(),
        };
        let Some(hosts) = self.listeners.get(question.listener) else {
            return Choice::None;
        };
        let found = hosts
            .exact
            .get(question.host)
            .and_then(|paths| search.paths(paths, question.path))
            .or_else(|| search.wildcards(hosts, question))
            .or_else(|| search.paths(&hosts.any, question.path));
        match found {
            Some(place) => Choice::Route(place),
            None if search.others.is_empty() => Choice::None,
            None => Choice::OtherMethods(search.allowed()),
        }
    }
}

impl Hosts {
    fn add(&mut self, place: usize, route: &RouteSettings) {
        let Some(hosts) = &route.hosts else {
            self.any.add(place, &route.path);
            return;
        };
        for host in hosts {
            let paths = match host {
                HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
                HostPattern::Wildcard(suffix) => self.wildcards.entry(suffix.clone()).or_default(),
            };
            paths.add(place, &route.path);
        }
    }

    fn sort(&mut self, routes: &[RouteSettings]) {
        let all = self
            .exact
            .values_mut()
            .chain(self.wildcards.values_mut())
            .chain(std::iter::once(&mut self.any));
        for paths in all {
            for list in paths.exact.values_mut().chain(paths.prefixes.values_mut()) {
                // A stable sort: file order stays among equals.
                list.sort_by_key(|place| {
                    routes
                        .get(*place)
                        .is_none_or(|route| route.methods.is_none())
                });
            }
            paths.templates.sort_by_key(|(segments, _)| {
                let texts = segments
                    .iter()
                    .filter(|s| matches!(s, Segment::Text(_)))
                    .count();
                (std::cmp::Reverse(segments.len()), std::cmp::Reverse(texts))
            });
        }
    }
}

impl Paths {
    fn add(&mut self, place: usize, path: &PathPattern) {
        match path {
            PathPattern::Exact(path) => self.exact.entry(path.clone()).or_default().push(place),
            PathPattern::Regex(regex) => self.regexes.push((regex.clone(), place)),
            PathPattern::Prefix(path) => {
                self.prefixes.entry(path.clone()).or_default().push(place);
            }
            PathPattern::Template(segments) => self.templates.push((segments.clone(), place)),
        }
    }
}

struct Search<'a> {
    routes: &'a [RouteSettings],
    method: &'a str,
    others: Vec<usize>,
}

impl Search<'_> {
    fn wildcards(&mut self, hosts: &Hosts, question: Question<'_>) -> Option<usize> {
        if hosts.wildcards.is_empty() {
            return None;
        }
        let host = question.host;
        // From the left: the longest suffix first.
        host.match_indices('.')
            .filter_map(|(dot, _)| host.get(dot..))
            .find_map(|suffix| {
                let paths = hosts.wildcards.get(suffix)?;
                self.paths(paths, question.path)
            })
    }

    fn paths(&mut self, paths: &Paths, path: &str) -> Option<usize> {
        if let Some(list) = paths.exact.get(path)
            && let Some(place) = self.first(list)
        {
            return Some(place);
        }
        for (regex, place) in &paths.regexes {
            if regex.is_match(path) && self.admits(*place) {
                return Some(*place);
            }
        }
        self.prefixes(paths, path)
    }

    fn prefixes(&mut self, paths: &Paths, path: &str) -> Option<usize> {
        let mut prefix = path.trim_end_matches('/');
        let mut depth = prefix.bytes().filter(|byte| *byte == b'/').count();
        loop {
            if let Some(list) = paths.prefixes.get(prefix)
                && let Some(place) = self.first(list)
            {
                return Some(place);
            }
            for (segments, place) in &paths.templates {
                if segments.len() == depth && fits(segments, prefix) && self.admits(*place) {
                    return Some(*place);
                }
            }
            let slash = prefix.rfind('/')?;
            prefix = prefix.get(..slash)?;
            depth = depth.saturating_sub(1);
        }
    }

    fn first(&mut self, list: &[usize]) -> Option<usize> {
        list.iter().copied().find(|place| self.admits(*place))
    }

    fn admits(&mut self, place: usize) -> bool {
        let Some(route) = self.routes.get(place) else {
            return false;
        };
        let admitted = route.methods.as_ref().is_none_or(|methods| {
            methods
                .iter()
                .any(|method| method == self.method || (method == "GET" && self.method == "HEAD"))
        });
        if !admitted {
            self.others.push(place);
        }
        admitted
    }

    fn allowed(&self) -> Vec<String> {
        let mut allowed: Vec<String> = self
            .others
            .iter()
            .filter_map(|place| self.routes.get(*place)?.methods.clone())
            .flatten()
            .collect();
        if allowed.iter().any(|method| method == "GET") {
            allowed.push("HEAD".to_owned());
        }
        allowed.sort_unstable();
        allowed.dedup();
        allowed
    }
}

fn fits(segments: &[Segment], path: &str) -> bool {
    segments
        .iter()
        .zip(path.split('/').skip(1))
        .all(|(segment, part)| match segment {
            Segment::Text(text) => text == part,
            Segment::Capture(_) => !part.is_empty(),
        })
}

/// True for a path that only workers may post to: the gate forwards it to the hub from the
/// listener `inner` alone. Judged on the path as written and in every form that a backend may
/// read it as.
#[must_use]
pub(crate) fn is_internal(path: &str) -> bool {
    let inside = |path: &str| path == "/internal" || path.starts_with("/internal/");
    inside(path) || inside(&target::flattened_path(path))
}
