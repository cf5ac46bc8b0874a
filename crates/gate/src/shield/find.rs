//! What a request says of its client: pure, and quick where there is nothing to say. A target of
//! plain letters is looked at once, a longer look is taken only where a byte asks for it.

use std::cell::RefCell;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::list;
use super::signal::{Marks, Signal};

/// Bytes of a target that are read: what stands behind them is not looked at.
const READ_MAX: usize = 8 * 1024;
/// Times that a target is decoded.
const DECODINGS: usize = 3;
/// Bytes behind a `${` in a header field that are looked at, and how many such places.
const LOOKUP_WINDOW: usize = 200;
const LOOKUPS_MAX: usize = 8;

/// A request, as far as signals need it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// As written.
    pub method: &'a [u8],
    /// Path and query.
    pub target: &'a [u8],
    /// `User-Agent`.
    pub agent: Option<&'a [u8]>,
    /// All bytes of its head.
    pub head: &'a [u8],
    /// The status of its answer.
    pub status: u16,
}

impl<'a> Request<'a> {
    /// The path, and the query.
    fn parts(&self) -> (&'a [u8], &'a [u8]) {
        let end = memchr::memchr(b'?', self.target).unwrap_or(self.target.len());
        let (path, query) = self.target.split_at(end);
        (path, query.get(1..).unwrap_or_default())
    }

    /// Nobody serves it: refused for what it asks for, not for how often or by whom.
    fn is_refused(&self) -> bool {
        matches!(self.status, 400 | 403 | 404 | 405 | 501)
    }
}

/// What an operator adds to the list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    agents: Option<AhoCorasick>,
    payloads: Option<RegexSet>,
}

impl Own {
    /// Parts of user agents, in any case, and regular expressions.
    ///
    /// # Errors
    /// Which expression is none.
    pub(crate) fn new(agents: &[String], payloads: &[String]) -> Result<Self, String> {
        let agents = match agents {
            [] => None,
            agents => AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .build(agents)
                .map(Some)
                .map_err(|error| error.to_string())?,
        };
        let payloads = match payloads {
            [] => None,
            payloads => Some(set(payloads).map_err(|error| in_a_line(&error))?),
        };
        Ok(Self { agents, payloads })
    }
}

/// The last line of an error says what is wrong; those before draw it.
fn in_a_line(error: &regex::Error) -> String {
    let whole = error.to_string();
    let last = whole.lines().last().unwrap_or_default().trim();
    last.trim_start_matches("error: ").to_owned()
}

fn set<S: AsRef<str>>(patterns: &[S]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(patterns)
        .unicode(false)
        .size_limit(4 << 20)
        .build()
}

/// The list, compiled.
struct List {
    agents: Option<AhoCorasick>,
    payloads: RegexSet,
    tricks: RegexSet,
    lookups: RegexSet,
}

/// The groups of payloads, in the order in which they are compiled.
const PAYLOADS: [(&[&str], Signal); 5] = [
    (list::SQL, Signal::SqlInjection),
    (list::MARKUP, Signal::ScriptInjection),
    (list::CODE, Signal::CodeInjection),
    (list::SYSTEM_FILES, Signal::Traversal),
    (list::LOOKUPS, Signal::Log4Shell),
];

static LIST: LazyLock<List> = LazyLock::new(|| {
    let payloads: Vec<&str> = PAYLOADS
        .iter()
        .flat_map(|(group, _)| *group)
        .copied()
        .collect();
    // What can't be compiled finds nothing; a test holds that all of it can.
    let compiled = |patterns: &[&str]| set(patterns).unwrap_or_else(|_| RegexSet::empty());
    List {
        agents: AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostFirst)
            .build(list::AGENTS)
            .ok(),
        payloads: compiled(&payloads),
        tricks: compiled(list::TRICKS),
        lookups: compiled(list::LOOKUPS),
    }
});

/// The signal of the payload at `place` of all of them.
fn payload_signal(place: usize) -> Signal {
    let mut before = 0;
    for (group, signal) in PAYLOADS {
        before += group.len();
        if place < before {
            return signal;
        }
    }
    Signal::Log4Shell
}

/// All that speaks against the client of a request with this answer.
pub(crate) fn marks(request: &Request<'_>, own: &Own) -> Marks {
    let mut marks = Marks::NONE;
    if bad_method(request) {
        marks.add(Signal::BadMethod);
    }
    if request
        .agent
        .is_some_and(|agent| is_scanner(agent, request, own))
    {
        marks.add(Signal::ScannerAgent);
    }
    in_fields(request.head, &mut marks);
    let (path, query) = request.parts();
    if own.payloads.is_some() || needs_reading(path, query) {
        in_target(request.target, query.len(), own, &mut marks);
        climbs(path, &mut marks);
        if has_secret(path) {
            marks.add(Signal::SecretFile);
        }
    }
    if request.is_refused() {
        probes(path, &mut marks);
    }
    marks
}

/// As the shield's own list sees a request, for tests from outside.
#[must_use]
pub fn signals(request: &Request<'_>) -> Marks {
    marks(request, &Own::default())
}

fn bad_method(request: &Request<'_>) -> bool {
    if matches!(
        request.method,
        b"GET" | b"HEAD" | b"POST" | b"PUT" | b"PATCH" | b"DELETE" | b"OPTIONS"
    ) {
        return false;
    }
    let among = |names: &[&str]| names.iter().any(|name| name.as_bytes() == request.method);
    request.status >= 400 && (among(list::ODD_METHODS) || !among(list::METHODS))
}

fn is_scanner(agent: &[u8], request: &Request<'_>, own: &Own) -> bool {
    let in_list = |agents: &Option<AhoCorasick>| {
        let agents = agents.as_ref();
        agents.is_some_and(|agents| agents.is_match(agent))
    };
    in_list(&LIST.agents) || in_list(&own.agents) || (agent == list::DIRB && request.is_refused())
}

/// True when the user agent is that of a crawler which says so.
pub(crate) fn is_crawler(agent: &[u8]) -> bool {
    let agent = agent.to_ascii_lowercase();
    let has = |word: &str| memchr::memmem::find(&agent, word.as_bytes()).is_some();
    has("http") && list::CRAWLERS.iter().any(|word| has(word))
}

/// Look-ups and functions in header fields.
fn in_fields(head: &[u8], marks: &mut Marks) {
    let dollars = memchr::memchr_iter(b'$', head);
    let places = dollars.filter(|at| head.get(at + 1) == Some(&b'{'));
    for at in places.take(LOOKUPS_MAX) {
        let end = head.len().min(at + LOOKUP_WINDOW);
        let window = head.get(at..end).unwrap_or_default().to_ascii_lowercase();
        if LIST.lookups.is_match(&window) {
            marks.add(Signal::Log4Shell);
            break;
        }
    }
    if memchr::memmem::find(head, b": () {").is_some() {
        marks.add(Signal::CodeInjection);
    }
}

const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

/// Where a byte may stand without a further look.
const fn plain(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => IN_PATH | IN_QUERY,
        b'/' => IN_PATH,
        b'=' | b'&' | b',' | b':' => IN_QUERY,
        _ => 0,
    }
}

fn needs_reading(path: &[u8], query: &[u8]) -> bool {
    let odd = |bytes: &[u8], place: u8| bytes.iter().any(|byte| plain(*byte) & place == 0);
    odd(path, IN_PATH) || odd(query, IN_QUERY) || memchr::memmem::find(path, b"/.").is_some()
}

thread_local! {
    /// What targets are decoded into, so that nothing is allocated for each.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

fn in_target(target: &[u8], query: usize, own: &Own, marks: &mut Marks) {
    let read = target.get(..READ_MAX).unwrap_or(target);
    SCRATCH.with_borrow_mut(|(text, spare)| {
        text.clear();
        text.extend(read.iter().map(u8::to_ascii_lowercase));
        if memchr::memchr(b'%', text).is_some() && LIST.tricks.is_match(text) {
            marks.add(Signal::EncodedTrick);
        }
        plainly(text, spare, target.len() - query);
        for place in LIST.payloads.matches(text) {
            marks.add(payload_signal(place));
        }
        if own.payloads.as_ref().is_some_and(|own| own.is_match(text)) {
            marks.add(Signal::CodeInjection);
        }
    });
}

/// Decodes `text` in place, as often as there is something to decode; `+` in the query, SQL's comments
/// and runs of blanks become one blank.
fn plainly(text: &mut Vec<u8>, spare: &mut Vec<u8>, query_at: usize) {
    let query = text.get_mut(query_at..).unwrap_or_default();
    for byte in query.iter_mut().filter(|byte| **byte == b'+') {
        *byte = b' ';
    }
    for _ in 0..DECODINGS {
        if memchr::memchr(b'%', text).is_none() {
            break;
        }
        spare.clear();
        let decoded = decode(text, spare);
        std::mem::swap(text, spare);
        if !decoded {
            break;
        }
    }
    spare.clear();
    let mut rest = text.as_slice();
    while let [first, after @ ..] = rest {
        rest = after;
        let blank = if first.is_ascii_whitespace() {
            true
        } else if let (b'/', [b'*', inside @ ..]) = (*first, after) {
            match memchr::memmem::find(inside, b"*/") {
                Some(end) => {
                    rest = inside.get(end + 2..).unwrap_or_default();
                    true
                }
                None => false,
            }
        } else {
            false
        };
        match blank {
            false => spare.push(*first),
            true if spare.last() == Some(&b' ') => {}
            true => spare.push(b' '),
        }
    }
    std::mem::swap(text, spare);
}

/// Decodes `%xx` and `%u00xx` once, in lower case; true when there was one.
fn decode(text: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        let escaped = match (*first, after) {
            (b'%', [b'u', a, b, c, d, rest @ ..]) => hex(*a, *b)
                .filter(|high| *high == 0)
                .and_then(|_| Some((hex(*c, *d)?, rest))),
            (b'%', [a, b, rest @ ..]) => hex(*a, *b).map(|byte| (byte, rest)),
            _ => None,
        };
        match escaped {
            Some((byte, after)) => {
                found = true;
                out.push(byte.to_ascii_lowercase());
                rest = after;
            }
            None => out.push(*first),
        }
    }
    found
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// A path that climbs above its root: two steps at least, since sloppy clients leave one where a
/// page's link has it; or a step that only decoding shows.
fn climbs(path: &[u8], marks: &mut Marks) {
    let mut depth = 0_i32;
    let mut lowest = 0;
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        match segment {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        lowest = lowest.min(depth);
    }
    let hidden = || {
        let mut decoded = Vec::with_capacity(path.len());
        decode(path, &mut decoded);
        let steps = |bytes: &[u8]| {
            let segments = bytes.split(|byte| matches!(byte, b'/' | b'\\'));
            segments
                .filter(|segment| segment.starts_with(b"..") && segment.len() < 4)
                .count()
        };
        let plain = path
            .split(|byte| *byte == b'/')
            .filter(|segment| *segment == b"..")
            .count();
        steps(&decoded) > plain
    };
    if lowest <= -2
        || (memchr::memmem::find(path, b"..").is_some() || memchr::memchr(b'%', path).is_some())
            && hidden()
    {
        marks.add(Signal::Traversal);
    }
}

/// What lenient servers make of a path: decoded once, in lower case, parameters of segments dropped.
fn lenient(path: &[u8]) -> Vec<u8> {
    let lower = path.get(..READ_MAX).unwrap_or(path).to_ascii_lowercase();
    let mut decoded = Vec::with_capacity(lower.len());
    decode(&lower, &mut decoded);
    let mut plain = Vec::with_capacity(decoded.len());
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        if !name.is_empty() {
            plain.push(b'/');
            plain.extend_from_slice(name);
        }
    }
    plain
}

fn has_secret(path: &[u8]) -> bool {
    let hidden = memchr::memchr(b'%', path).is_some();
    if !hidden && memchr::memmem::find(path, b"/.").is_none() {
        return false;
    }
    let plain = lenient(path);
    list::SECRETS
        .iter()
        .any(|name| plain.ends_with(name.as_bytes()))
}

fn ending(segment: &[u8]) -> Option<&[u8]> {
    let at = memchr::memrchr(b'.', segment)?;
    segment.get(at + 1..)
}

fn is_among(name: &[u8], list: &[&str]) -> bool {
    list.iter().any(|known| known.as_bytes() == name)
}

/// What is asked for in vain.
fn probes(path: &[u8], marks: &mut Marks) {
    let plain = lenient(path);
    let segments = || plain.split(|byte| *byte == b'/').skip(1);
    for segment in segments() {
        if segment.len() > 1
            && segment.starts_with(b".")
            && !matches!(segment, b".." | b".well-known")
        {
            marks.add(Signal::DotFile);
        }
        let Some(ending) = ending(segment) else {
            continue;
        };
        if is_among(ending, list::SCRIPTS) {
            marks.add(Signal::ScriptProbe);
        }
        if is_among(ending, list::LEFTOVERS) {
            marks.add(Signal::LeftoverFile);
        }
    }
    let last = segments().last().unwrap_or_default();
    if last.len() > 1 && last.ends_with(b"~") {
        marks.add(Signal::LeftoverFile);
    }
    if is_among(last, list::SECRETS) || list::SECRETS.iter().any(|name| plain == name.as_bytes()) {
        marks.add(Signal::SecretFile);
    }
    let asset = ending(last).is_some_and(|ending| is_among(ending, list::ASSETS));
    let admin = list::ADMIN.iter().any(|known| {
        let rest = plain
            .get(1..)
            .and_then(|plain| plain.strip_prefix(known.as_bytes()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    });
    if admin && !asset {
        marks.add(Signal::AdminProbe);
    }
}

/// What kind of path is missing: two paths that differ only in a number, an identifier or in which
/// picture of a folder they name are one. `None` where clients ask by themselves, or as a page's part.
pub(crate) fn missing_shape(path: &[u8]) -> Option<u64> {
    let plain = lenient(path);
    let last = plain
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    let by_itself = is_among(last, list::EXPECTED)
        || last.starts_with(b"apple-touch-icon")
        || last.starts_with(b"sitemap")
        || plain.starts_with(b"/.well-known/");
    if by_itself {
        return None;
    }
    let asset = ending(last).filter(|ending| is_among(ending, list::ASSETS));
    let mut shape = Vec::with_capacity(plain.len());
    let mut segments = plain.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        shape.push(b'/');
        let is_id = segment.len() > 24
            || segment
                .iter()
                .any(|byte| byte.is_ascii_digit() || !byte.is_ascii());
        match asset {
            Some(ending) if segments.peek().is_none() => {
                shape.extend_from_slice(b"*.");
                shape.extend_from_slice(ending);
            }
            _ if is_id => shape.push(b'*'),
            _ => shape.extend_from_slice(segment),
        }
    }
    Some(crate::ring::stable_hash(&shape))
}

/// Panics where something of the list can't be compiled.
#[cfg(test)]
pub(super) fn check_list() {
    for (patterns, _) in PAYLOADS {
        set(patterns).unwrap();
    }
    set(list::TRICKS).unwrap();
    assert!(LIST.agents.is_some());
    assert!(!LIST.payloads.is_empty() && !LIST.lookups.is_empty() && !LIST.tricks.is_empty());
}
