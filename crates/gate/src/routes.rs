//! Which route serves a request: pure look-ups in tables built once per settings.

use std::fmt;

use regex::Regex;
use regex_automata::{Anchored, Input, MatchKind, PatternSet, meta};
use rustc_hash::FxHashMap;

use crate::conditions::Condition;
use crate::http1::head::RequestHead;
use crate::settings::{GateSettings, RouteSettings};
use crate::target;

/// Memory that one thread's search in the regular expressions of one host may take.
const AUTOMATON_BYTES: usize = 32 * 1024 * 1024;

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
        let normal = target::normal_path(written);
        let trimmed = normal.trim_end_matches('/');
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

    /// True for patterns that end before the path may end.
    #[must_use]
    pub fn is_prefix(&self) -> bool {
        matches!(self, Self::Prefix(_) | Self::Template(_))
    }

    /// True when `path`, in the form of [`target::normal_path`], belongs to it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Regex(regex) => regex.is_match(path),
            Self::Prefix(_) | Self::Template(_) => self.rest(path).is_some(),
        }
    }

    /// What follows the prefix or the template in `path`: nothing, or from a slash on. `None`
    /// where it does not fit, and for patterns that stand for whole paths.
    #[must_use]
    pub fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self {
            Self::Exact(_) | Self::Regex(_) => None,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .filter(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Template(segments) => segments.iter().try_fold(path, |path, segment| {
                let path = path.strip_prefix('/')?;
                let (part, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
                let fits = match segment {
                    Segment::Text(text) => text == part,
                    Segment::Capture(_) => !part.is_empty(),
                };
                fits.then_some(rest)
            }),
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

/// A route's place in the file.
type Place = usize;

/// Routes of one host (or of all) on one listener. What its tables hold comes from the settings alone: no request can
/// fill one with keys that collide, and so their hash may be a cheap one.
///
/// In each list the route with more conditions
/// comes first, then the order of the file.
#[derive(Debug, Default)]
struct Paths {
    exact: FxHashMap<String, Vec<Place>>,
    regexes: Regexes,
    prefixes: FxHashMap<String, Vec<Place>>,
    /// By number of segments.
    templates: FxHashMap<usize, Vec<Shape>>,
}

/// Regular expressions as one automaton, so that their number costs nothing.
#[derive(Debug, Default)]
struct Regexes {
    /// In the order of the file.
    places: Vec<Place>,
    written: Vec<String>,
    /// Finds the first that matches.
    first: Option<meta::Regex>,
    /// Finds all that match: for when that first one does not want the request.
    every: Option<meta::Regex>,
}

/// Templates that have text in the same segments: found by that text.
#[derive(Debug)]
struct Shape {
    /// Which segments are text.
    texts: Vec<bool>,
    count: usize,
    /// By the text of those segments, each with a slash before it.
    routes: FxHashMap<String, Vec<Place>>,
}

/// The routes of one listener.
#[derive(Debug, Default)]
struct Hosts {
    exact: FxHashMap<String, Paths>,
    /// By suffix with its dot: `.example.com`.
    wildcards: FxHashMap<String, Paths>,
    any: Paths,
}

/// All routes of the settings, arranged for look-ups whose cost does not grow with their number.
#[derive(Debug)]
pub(crate) struct Routes {
    routes: Vec<RouteSettings>,
    listeners: FxHashMap<String, Hosts>,
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
    /// As written, without `?`.
    pub query: &'a str,
    /// The whole head, for its method and fields.
    pub head: &'a RequestHead,
}

/// The answer to a [`Question`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The place of the route in the file.
    Route(Place),
    /// The path is known, with these methods only.
    OtherMethods(Vec<String>),
    /// Nothing matches.
    None,
}

impl Routes {
    /// Arranges the routes of `settings`.
    #[must_use]
    pub(crate) fn new(settings: &GateSettings) -> Self {
        let mut listeners = FxHashMap::default();
        for listener in &settings.listeners {
            let mut hosts = Hosts::default();
            for (place, route) in settings.routes.iter().enumerate() {
                if route.serves(&listener.name) {
                    hosts.add(place, route);
                }
            }
            hosts.arrange(&settings.routes);
            listeners.insert(listener.name.clone(), hosts);
        }
        Self {
            routes: settings.routes.clone(),
            listeners,
        }
    }

    /// The route at `place`.
    #[must_use]
    pub(crate) fn get(&self, place: Place) -> Option<&RouteSettings> {
        self.routes.get(place)
    }

    /// Finds the most specific route: exact host, longest wildcard, any host; in each exact path,
    /// regexes in file order, longest prefix; with equal paths the one with more conditions, then
    /// file order.
    #[must_use]
    pub(crate) fn find(&self, question: Question<'_>) -> Choice {
        let mut search = Search {
            routes: &self.routes,
            question,
            others: Vec::new(),
        };
        let Some(hosts) = self.listeners.get(question.listener) else {
            return Choice::None;
        };
        let found = hosts
            .exact
            .get(question.host)
            .and_then(|paths| search.paths(paths))
            .or_else(|| search.wildcards(hosts))
            .or_else(|| search.paths(&hosts.any));
        match found {
            Some(place) => Choice::Route(place),
            None if search.others.is_empty() => Choice::None,
            None => Choice::OtherMethods(search.allowed()),
        }
    }

    /// Why each other route did not get the request, in the order of the file; of those on other
    /// hosts and paths only how many there are.
    #[must_use]
    pub(crate) fn losers(&self, question: Question<'_>, winner: Option<Place>) -> Losers {
        let mut losers = Losers::default();
        for (place, route) in self.routes.iter().enumerate() {
            if Some(place) == winner {
                continue;
            }
            if !route.serves(question.listener) {
                losers.listener += 1;
            } else if !route.fits_host(question.host) {
                losers.host += 1;
            } else if !route.path.matches(question.path) {
                losers.path += 1;
            } else {
                let why = if let Some(condition) = route.unmet(question) {
                    format!("not {condition}")
                } else if !route.fits_method(question.head.method()) {
                    "another method".to_owned()
                } else {
                    "less specific".to_owned()
                };
                losers.named.push((route.name.clone(), why));
            }
        }
        losers
    }
}

/// Routes that did not get a request.
#[derive(Debug, Default)]
pub(crate) struct Losers {
    /// How many are for other listeners.
    pub(crate) listener: usize,
    /// How many are for other hosts.
    pub(crate) host: usize,
    /// How many are for other paths.
    pub(crate) path: usize,
    /// Those that fit so far, by name, with what was missing.
    pub(crate) named: Vec<(String, String)>,
}

impl RouteSettings {
    fn serves(&self, listener: &str) -> bool {
        self.listeners
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name == listener))
    }

    fn fits_host(&self, host: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| {
            hosts.iter().any(|pattern| match pattern {
                HostPattern::Exact(name) => name == host,
                HostPattern::Wildcard(suffix) => {
                    host.len() > suffix.len() && host.ends_with(suffix.as_str())
                }
            })
        })
    }

    fn fits_method(&self, method: &[u8]) -> bool {
        self.methods.as_ref().is_none_or(|methods| {
            methods
                .iter()
                .any(|known| known.as_bytes() == method || (known == "GET" && method == b"HEAD"))
        })
    }

    /// The first condition that the request does not fulfil.
    fn unmet(&self, question: Question<'_>) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| !condition.holds(question.head, question.query))
    }

    /// How much it asks for beside host and path: what decides between equal paths.
    fn demands(&self) -> usize {
        usize::from(self.listeners.is_some())
            + usize::from(self.methods.is_some())
            + self.conditions.len()
    }
}

impl Hosts {
    fn add(&mut self, place: Place, route: &RouteSettings) {
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

    fn arrange(&mut self, routes: &[RouteSettings]) {
        let all = self
            .exact
            .values_mut()
            .chain(self.wildcards.values_mut())
            .chain(std::iter::once(&mut self.any));
        for paths in all {
            paths.arrange(routes);
        }
    }
}

impl Paths {
    fn add(&mut self, place: Place, path: &PathPattern) {
        match path {
            PathPattern::Exact(path) => self.exact.entry(path.clone()).or_default().push(place),
            PathPattern::Regex(regex) => {
                self.regexes.places.push(place);
                self.regexes.written.push(regex.as_str().to_owned());
            }
            PathPattern::Prefix(path) => {
                self.prefixes.entry(path.clone()).or_default().push(place);
            }
            PathPattern::Template(segments) => self.add_template(place, segments),
        }
    }

    fn add_template(&mut self, place: Place, segments: &[Segment]) {
        let texts: Vec<bool> = segments
            .iter()
            .map(|segment| matches!(segment, Segment::Text(_)))
            .collect();
        let key: String = segments
            .iter()
            .filter_map(|segment| match segment {
                Segment::Text(text) => Some(["/", text]),
                Segment::Capture(_) => None,
            })
            .flatten()
            .collect();
        let shapes = self.templates.entry(segments.len()).or_default();
        let at = shapes.iter().position(|shape| shape.texts == texts);
        let at = at.unwrap_or_else(|| {
            shapes.push(Shape {
                count: texts.iter().filter(|text| **text).count(),
                texts,
                routes: FxHashMap::default(),
            });
            shapes.len() - 1
        });
        if let Some(shape) = shapes.get_mut(at) {
            shape.routes.entry(key).or_default().push(place);
        }
    }

    fn arrange(&mut self, routes: &[RouteSettings]) {
        let exact = self.exact.values_mut();
        let shapes = self.templates.values_mut().flatten();
        let templates = shapes.flat_map(|shape| shape.routes.values_mut());
        for list in exact.chain(self.prefixes.values_mut()).chain(templates) {
            // A stable sort: file order stays among equals.
            list.sort_by_key(|place| std::cmp::Reverse(demands(routes, *place)));
        }
        self.regexes.build();
    }
}

fn demands(routes: &[RouteSettings], place: Place) -> usize {
    routes.get(place).map_or(0, RouteSettings::demands)
}

impl Regexes {
    fn build(&mut self) {
        if self.written.is_empty() {
            return;
        }
        let written = std::mem::take(&mut self.written);
        let build = |kind| {
            // The size of each expression was judged when the settings were read.
            let config = meta::Config::new()
                .match_kind(kind)
                .nfa_size_limit(None)
                .hybrid_cache_capacity(AUTOMATON_BYTES);
            let built = meta::Builder::new().configure(config).build_many(&written);
            built
                .map_err(|error| tracing::error!(%error, "the regular expressions of the routes"))
                .ok()
        };
        self.first = build(MatchKind::LeftmostFirst);
        self.every = build(MatchKind::All);
    }

    /// The first one, in file order, that matches and that `admits` takes.
    fn find(&self, path: &str, mut admits: impl FnMut(Place) -> bool) -> Option<Place> {
        let input = Input::new(path).anchored(Anchored::Yes);
        // Of several that match the one that was written first is preferred.
        let first = self.first.as_ref()?.search_half(&input)?.pattern();
        let place = *self.places.get(first.as_usize())?;
        if admits(place) {
            return Some(place);
        }
        let mut matching = PatternSet::new(self.places.len());
        let every = self.every.as_ref()?;
        every.which_overlapping_matches(&input, &mut matching);
        matching
            .iter()
            .filter(|pattern| *pattern != first)
            .filter_map(|pattern| self.places.get(pattern.as_usize()).copied())
            .find(|place| admits(*place))
    }
}

impl Shape {
    fn places(&self, path: &str) -> Option<&[Place]> {
        let mut key = String::with_capacity(path.len());
        for (part, text) in path.split('/').skip(1).zip(&self.texts) {
            if *text {
                key.push('/');
                key.push_str(part);
            } else if part.is_empty() {
                return None;
            }
        }
        self.routes.get(&key).map(Vec::as_slice)
    }
}

struct Search<'a> {
    routes: &'a [RouteSettings],
    question: Question<'a>,
    /// Routes that fit but for their method.
    others: Vec<Place>,
}

impl Search<'_> {
    fn wildcards(&mut self, hosts: &Hosts) -> Option<Place> {
        if hosts.wildcards.is_empty() {
            return None;
        }
        let host = self.question.host;
        // From the left: the longest suffix first.
        host.match_indices('.')
            .filter(|(dot, _)| *dot > 0)
            .filter_map(|(dot, _)| host.get(dot..))
            .find_map(|suffix| self.paths(hosts.wildcards.get(suffix)?))
    }

    fn paths(&mut self, paths: &Paths) -> Option<Place> {
        let path = self.question.path;
        if let Some(list) = paths.exact.get(path)
            && let Some(place) = self.first(list)
        {
            return Some(place);
        }
        let matching = paths.regexes.find(path, |place| self.admits(place));
        matching.or_else(|| self.prefixes(paths))
    }

    fn prefixes(&mut self, paths: &Paths) -> Option<Place> {
        let mut prefix = self.question.path.trim_end_matches('/');
        let mut depth = prefix.bytes().filter(|byte| *byte == b'/').count();
        loop {
            if let Some(list) = paths.prefixes.get(prefix)
                && let Some(place) = self.first(list)
            {
                return Some(place);
            }
            if let Some(shapes) = paths.templates.get(&depth)
                && let Some(place) = self.templates(shapes, prefix)
            {
                return Some(place);
            }
            let slash = prefix.rfind('/')?;
            prefix = prefix.get(..slash)?;
            depth = depth.saturating_sub(1);
        }
    }

    /// Of templates with as many segments: the one with more text, more conditions, file order.
    fn templates(&mut self, shapes: &[Shape], path: &str) -> Option<Place> {
        let mut fitting: Vec<(usize, Place)> = shapes
            .iter()
            .filter_map(|shape| Some((shape.count, shape.places(path)?)))
            .flat_map(|(count, places)| places.iter().map(move |place| (count, *place)))
            .collect();
        fitting.sort_by_key(|(count, place)| {
            let demands = demands(self.routes, *place);
            (std::cmp::Reverse((*count, demands)), *place)
        });
        fitting
            .into_iter()
            .map(|(_, place)| place)
            .find(|place| self.admits(*place))
    }

    fn first(&mut self, list: &[Place]) -> Option<Place> {
        list.iter().copied().find(|place| self.admits(*place))
    }

    fn admits(&mut self, place: Place) -> bool {
        let Some(route) = self.routes.get(place) else {
            return false;
        };
        if route.unmet(self.question).is_some() {
            return false;
        }
        let admitted = route.fits_method(self.question.head.method());
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

/// True for a path that only workers may post to: the gate forwards it to the hub from the
/// listener `inner` alone. Judged on the path as written and in every form that a backend may
/// read it as.
#[must_use]
pub(crate) fn is_internal(path: &str) -> bool {
    let inside = |path: &str| path == "/internal" || path.starts_with("/internal/");
    inside(path) || inside(&target::flattened_path(path))
}

#[cfg(test)]
mod tests;
