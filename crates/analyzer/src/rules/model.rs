//! What the engines know of libraries: the tables in `models/*.model`, parsed once.
//!
//! A line is `ACT [OPERAND] PATTERN [CONDITIONS]`:
//!
//! ```text
//! source KIND PATTERN          the call's result, or the field, is attacker-controlled
//! fill   KIND PATTERN(args)    the call writes attacker-controlled data through these arguments
//! sink   RULE PATTERN(args)    these arguments must not be attacker-controlled
//! use    RULE PATTERN          the call itself is the finding (pattern rules), under its conditions
//! clean  RULES PATTERN         the result is harmless for these rules (`all` for every rule)
//! guard  RULES PATTERN(args)   where the result is true, these arguments are harmless for these rules
//! drop   PATTERN               the result carries nothing of its operands
//! keep   PATTERN(args)         the result carries these operands and no others
//! copy   PATTERN(to,from…)     overwrites the first with the others
//! append PATTERN(to,from…)     appends the others to the first
//! ```
//!
//! A pattern is `RECEIVER.name`, `RECEIVER.{name,name}` or a bare name. Receivers are alternatives divided by `|`: the end
//! of a dotted path or a type (`flask.request`, `Statement`, `getWriter()`), `=Type` for exactly this, `~word` for a
//! receiver whose written name contains the word, `*` for anything. Arguments are positions from 0, `2+` for all from
//! there, keyword names, `this` for the receiver. With `()` or arguments a pattern is a call, otherwise a field.
//! Conditions are `if ARG=glob|glob`, `unless ARG=glob|glob` on constants (lower case, without `-`, `_` and blanks), where
//! a `!` before `=` also holds for an argument that is not there.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::finding::Language;

/// Which operand of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sel {
    Arg(usize),
    From(usize),
    Named(&'static str),
    This,
}

#[derive(Debug, Clone)]
pub(crate) enum Act {
    Source(&'static str),
    Fill(&'static str),
    /// Index in [`super::TAINT`].
    Sink(usize),
    /// Index in [`super::PATTERN`].
    Use(usize),
    Clean(u32),
    Guard(u32),
    Drop,
    Keep,
    Copy,
    Append,
}

#[derive(Debug, Clone)]
pub(crate) enum Recv {
    /// Ends with this path, on a border between segments.
    Path(&'static str),
    Exact(&'static str),
    Hint(&'static str),
    Any,
    None,
}

#[derive(Debug, Clone)]
pub(crate) struct Cond {
    pub(crate) arg: Sel,
    /// One of these must match, or none with `unless`.
    pub(crate) globs: Vec<&'static str>,
    pub(crate) unless: bool,
    /// An absent argument counts as a match.
    pub(crate) absent: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) act: Act,
    pub(crate) recv: Vec<Recv>,
    pub(crate) args: Vec<Sel>,
    pub(crate) conds: Vec<Cond>,
    pub(crate) call: bool,
}

/// The models of one language by last name.
#[derive(Debug, Default)]
pub(crate) struct Models {
    by_name: HashMap<&'static str, Vec<Model>>,
}

impl Models {
    pub(crate) fn named(&self, name: &str) -> &[Model] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a mention of the name may begin something without anything given from outside: a source, a misuse.
    pub(crate) fn begins(&self, name: &str) -> bool {
        self.named(name)
            .iter()
            .any(|model| matches!(model.act, Act::Source(_) | Act::Fill(_) | Act::Use(_)))
    }

    fn parse(text: &'static str) -> (Self, Vec<&'static str>) {
        let mut models = Self::default();
        let mut bad = Vec::new();
        for line in text.lines() {
            let line = line.split(" #").next().unwrap_or(line).trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Some((names, model)) => {
                    for name in names {
                        models.by_name.entry(name).or_default().push(model.clone());
                    }
                }
                None => bad.push(line),
            }
        }
        (models, bad)
    }
}

fn parse_line(line: &'static str) -> Option<(Vec<&'static str>, Model)> {
    let (act, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (act, rest) = match act {
        "drop" => (Act::Drop, rest),
        "keep" => (Act::Keep, rest),
        "copy" => (Act::Copy, rest),
        "append" => (Act::Append, rest),
        _ => {
            let (operand, rest) = rest.split_once(char::is_whitespace)?;
            let act = match act {
                "source" => Act::Source(operand),
                "fill" => Act::Fill(operand),
                "sink" => Act::Sink(super::taint_index(operand)?),
                "use" => Act::Use(super::pattern_index(operand)?),
                "clean" => Act::Clean(rule_mask(operand)?),
                "guard" => Act::Guard(rule_mask(operand)?),
                _ => return None,
            };
            (act, rest.trim_start())
        }
    };
    let (pattern, conds) = match rest.split_once(char::is_whitespace) {
        Some((pattern, conds)) => (pattern, parse_conds(conds)?),
        None => (rest, Vec::new()),
    };
    let (path, args, call) = match pattern.strip_suffix(')') {
        Some(open) => {
            let at = open.rfind('(')?;
            let args = open.get(at + 1..)?;
            (open.get(..at)?, parse_args(args), true)
        }
        None => (pattern, Vec::new(), false),
    };
    let (recv, names) = split_path(path)?;
    Some((
        names,
        Model {
            act,
            recv,
            args,
            conds,
            call,
        },
    ))
}

fn parse_args(text: &'static str) -> Vec<Sel> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(parse_sel)
        .collect()
}

fn parse_sel(part: &'static str) -> Sel {
    if part == "this" {
        Sel::This
    } else if let Some(from) = part.strip_suffix('+').and_then(|n| n.parse().ok()) {
        Sel::From(from)
    } else if let Ok(at) = part.parse() {
        Sel::Arg(at)
    } else {
        Sel::Named(part)
    }
}

fn parse_conds(text: &'static str) -> Option<Vec<Cond>> {
    let mut conds = Vec::new();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let unless = match word {
            "if" => false,
            "unless" => true,
            _ => return None,
        };
        let (arg, globs) = words.next()?.split_once('=')?;
        let (arg, absent) = match arg.strip_suffix('!') {
            Some(arg) => (arg, true),
            None => (arg, false),
        };
        conds.push(Cond {
            arg: parse_sel(arg),
            globs: globs.split('|').collect(),
            unless,
            absent,
        });
    }
    Some(conds)
}

fn split_path(path: &'static str) -> Option<(Vec<Recv>, Vec<&'static str>)> {
    let (recv, names) = if let Some(open) = path.strip_suffix('}') {
        let at = open.rfind('{')?;
        let recv = open.get(..at)?.strip_suffix('.').unwrap_or_default();
        (recv, open.get(at + 1..)?.split(',').collect())
    } else {
        match path.rfind('.') {
            Some(at) => (path.get(..at)?, vec![path.get(at + 1..)?]),
            None => ("", vec![path]),
        }
    };
    let recv = if recv.is_empty() {
        vec![Recv::None]
    } else {
        recv.split('|')
            .map(|part| {
                if part == "*" {
                    Recv::Any
                } else if let Some(hint) = part.strip_prefix('~') {
                    Recv::Hint(hint)
                } else if let Some(exact) = part.strip_prefix('=') {
                    Recv::Exact(exact)
                } else {
                    Recv::Path(part)
                }
            })
            .collect()
    };
    Some((recv, names))
}

fn rule_mask(text: &str) -> Option<u32> {
    if text == "all" {
        return Some(u32::MAX);
    }
    let mut mask = 0;
    for id in text.split(',') {
        mask |= 1 << super::taint_index(id)?;
    }
    Some(mask)
}

/// Whether `path` ends with `end` on a border between segments: `new.` before a type counts as one.
pub(crate) fn ends_with_path(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

impl Recv {
    /// `path` and `ty` of the receiver, and its name as written.
    pub(crate) fn matches(&self, path: &str, ty: &str, hint: &str) -> bool {
        match self {
            Self::Any => true,
            Self::None => path.is_empty() && ty.is_empty() && hint.is_empty(),
            Self::Path(end) => ends_with_path(path, end) || ends_with_path(ty, end),
            Self::Exact(end) => path == *end || (path.is_empty() && ty == *end),
            Self::Hint(word) => contains_word(hint, word),
        }
    }
}

fn contains_word(text: &str, word: &str) -> bool {
    text.len() >= word.len()
        && text
            .as_bytes()
            .windows(word.len())
            .any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// A constant as conditions compare it.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '-' | '_' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

/// `*` at either end stands for anything.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => true,
        (Some(rest), Some(_)) => text.contains(rest.strip_suffix('*').unwrap_or(rest)),
        (Some(end), None) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => pattern == text,
    }
}

static JAVA: LazyLock<Models> =
    LazyLock::new(|| Models::parse(include_str!("models/java.model")).0);
static PYTHON: LazyLock<Models> =
    LazyLock::new(|| Models::parse(include_str!("models/python.model")).0);
static JAVASCRIPT: LazyLock<Models> =
    LazyLock::new(|| Models::parse(include_str!("models/javascript.model")).0);
static C: LazyLock<Models> = LazyLock::new(|| Models::parse(include_str!("models/c.model")).0);

pub(crate) fn models(language: Language) -> &'static Models {
    match language {
        Language::C => &C,
        Language::Java => &JAVA,
        Language::Python => &PYTHON,
        Language::JavaScript | Language::TypeScript { .. } => &JAVASCRIPT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_every_table_is_understood() {
        let tables = [
            include_str!("models/java.model"),
            include_str!("models/python.model"),
            include_str!("models/javascript.model"),
            include_str!("models/c.model"),
        ];
        for table in tables {
            let (models, bad) = Models::parse(table);
            assert_eq!(bad, Vec::<&str>::new());
            assert!(models.by_name.len() > 20);
        }
    }

    #[test]
    fn paths_end_on_a_border() {
        assert!(ends_with_path("flask.request.args", "request.args"));
        assert!(ends_with_path("Statement", "Statement"));
        assert!(!ends_with_path("myrequest.args", "request.args"));
        assert!(ends_with_path("new.java.io.File", "File"));
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("md5", "md5", true),
            ("des/*", "des/cbc/pkcs5padding", true),
            ("*/ecb/*", "aes/ecb/nopadding", true),
            ("*ecb", "desecb", true),
            ("md5", "md55", false),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }
}
