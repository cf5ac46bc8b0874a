//! `[gate.ip_filter]`: as written → as meant, and the rules compiled.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use munjigi_foundation::settings::{Excerpt, Key, Problem, Schema, Severity, Table};
use munjigi_ipfilter as ipfilter;
use munjigi_ipfilter::{Action, Builder, Line, Order, RuleSet};
use toml::de::DeValue;

use crate::watch::Watch;

/// Largest file of rules.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Problems of one file that are shown; the rest is counted.
const SHOWN_MAX: usize = 1_000;
/// Warnings that are shown.
const WARNINGS_MAX: usize = 100;
/// The lists in the settings are the first two sources, the files follow.
const LISTS: usize = 2;

/// `[gate.ip_filter]`
pub(super) static IP_FILTER: Schema = Schema {
    place: "[gate.ip_filter]",
    meaning: "who may come in; docs/ip-filter.md describes patterns and files",
    keys: &[
        Key::new(
            "order",
            "text",
            "\"deny,allow\"",
            "\"deny,allow\" or \"allow,deny\"",
            "which list is asked first; the first list with a rule that matches decides",
        ),
        Key::new(
            "default",
            "text",
            "\"allow\"",
            "\"allow\" or \"deny\"",
            "what holds where no rule matches; \"deny\" when there is a file of the line format",
        ),
        Key::new(
            "allow",
            "list of patterns",
            "[]",
            "",
            "who may: addresses, networks, ranges, wildcards, \"all\"",
        ),
        Key::new("deny", "list of patterns", "[]", "", "who may not"),
        Key::new(
            "files",
            "list of file names or tables",
            "[]",
            "0 to 64",
            "more rules, read again when they change; a bare name has the line format",
        ),
        Key::new(
            "reject",
            "text",
            "\"403\"",
            "\"403\", \"404\" or \"close\"",
            "what those get who may not; before TLS and at layer 4 always a close",
        ),
    ],
};

/// One of `files`.
pub(super) static IP_FILE: Schema = Schema {
    place: "gate.ip_filter.files = [{ … }]",
    meaning: "a file of rules",
    keys: &[
        Key::new("path", "file name", "", "", "where it is"),
        Key::new(
            "format",
            "text",
            "\"line\"",
            "\"line\" or \"plain\"",
            "\"line\" has order, default, allow from and deny from; \"plain\" one network a line",
        ),
        Key::new(
            "action",
            "text",
            "",
            "\"allow\" or \"deny\"",
            "what the networks of a plain file get",
        ),
    ],
};

/// What those get who may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reject {
    /// 403, where there is a request to answer.
    #[default]
    Forbidden,
    /// 404, as if there were nothing.
    NotFound,
    /// The connection is closed.
    Close,
}

/// A pattern in the settings file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    /// As written.
    pub pattern: String,
    /// The line of the settings file.
    pub line: usize,
}

/// A file of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFile {
    /// As written.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// `None` for the line format, which says it in each line.
    pub action: Option<Action>,
}

/// `[gate.ip_filter]`
#[derive(Clone)]
pub struct IpFilterSettings {
    /// Wins over what files say.
    pub order: Option<Order>,
    /// Wins over what files say.
    pub default: Option<Action>,
    /// Who may.
    pub allow: Vec<Inline>,
    /// Who may not.
    pub deny: Vec<Inline>,
    /// Further rules.
    pub files: Vec<RuleFile>,
    /// What those get who may not.
    pub reject: Reject,
    /// The settings file, for messages.
    pub file: String,
    /// All of it, compiled when the settings were read; followed when files change.
    pub rules: Arc<ArcSwap<RuleSet>>,
    /// The files as they were before they were read.
    pub(crate) watch: Watch,
}

impl fmt::Debug for IpFilterSettings {
    /// Reload compares by this: all but the content of the files, which are followed anyway.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns = |list: &[Inline]| -> Vec<String> {
            list.iter().map(|inline| inline.pattern.clone()).collect()
        };
        formatter
            .debug_struct("IpFilterSettings")
            .field("order", &self.order)
            .field("default", &self.default)
            .field("allow", &patterns(&self.allow))
            .field("deny", &patterns(&self.deny))
            .field("files", &self.files)
            .field("reject", &self.reject)
            .finish_non_exhaustive()
    }
}

/// Why rules can't be used: all that is wrong with them.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Files that can't be read, by their place among `files`, and why.
    pub(crate) unreadable: Vec<(usize, String)>,
    /// What is wrong in the others and in the lists of the settings.
    pub(crate) wrong: Vec<Complaint>,
}

/// A problem of a rule, with the line it is about.
#[derive(Debug, Clone)]
pub(crate) struct Complaint {
    /// The place among `files`; `None` for the lists in the settings.
    pub(crate) file: Option<usize>,
    pub(crate) problem: ipfilter::Problem,
    /// The line; empty beyond the first thousand problems of a file.
    pub(crate) text: String,
}

impl IpFilterSettings {
    /// Reads the files and compiles all rules, at low priority: a million of them take a good part
    /// of a second, which loops and requests need more.
    pub(crate) fn compile(&self) -> Result<RuleSet, Refused> {
        at_low_priority(|| self.read_and_compile().map(|(rules, _)| rules))
    }

    /// The rules, and what the files hold.
    fn read_and_compile(&self) -> Result<(RuleSet, Vec<Vec<u8>>), Refused> {
        let mut texts = Vec::new();
        let mut unreadable = Vec::new();
        for (place, file) in self.files.iter().enumerate() {
            match read_file(file) {
                Ok(text) => texts.push(text),
                Err(why) => {
                    unreadable.push((place, why));
                    texts.push(Vec::new());
                }
            }
        }
        match self.builder(&texts).build() {
            Ok(rules) if unreadable.is_empty() => Ok((rules, texts)),
            built => Err(Refused {
                unreadable,
                wrong: complaints(&texts, &built.err().unwrap_or_default()),
            }),
        }
    }

    fn builder(&self, texts: &[Vec<u8>]) -> Builder {
        let mut builder = Builder::new();
        if let Some(order) = self.order {
            builder.order(order);
        }
        if let Some(default) = self.default {
            builder.default_action(default);
        }
        for (name, action, list) in [
            ("gate.ip_filter.allow", Action::Allow, &self.allow),
            ("gate.ip_filter.deny", Action::Deny, &self.deny),
        ] {
            let patterns = list.iter().map(|inline| inline.pattern.as_str());
            builder.patterns(name, action, patterns);
        }
        for (file, text) in self.files.iter().zip(texts) {
            match file.action {
                None => builder.lines(&file.name, text),
                Some(action) => builder.plain(&file.name, text, action),
            };
        }
        builder
    }

    /// Where a rule stands, as a person writes it: the file with its line.
    #[must_use]
    pub fn place(&self, rule: Line) -> String {
        match self.inline(rule) {
            Some(inline) => format!("{} line {}", self.file, inline.line),
            None => {
                let file = self.file_of(rule.source);
                let name = file.map_or("the rules", |file| file.name.as_str());
                format!("{name} line {}", rule.line)
            }
        }
    }

    /// The rule as it is written. Reads the file it is in.
    #[must_use]
    pub fn text(&self, rule: Line) -> Option<String> {
        if let Some(inline) = self.inline(rule) {
            return Some(inline.pattern.clone());
        }
        let text = read_file(self.file_of(rule.source)?).ok()?;
        let line = text
            .split(|byte| *byte == b'\n')
            .nth((rule.line as usize).checked_sub(1)?)?;
        Some(String::from_utf8_lossy(line.trim_ascii()).into_owned())
    }

    fn inline(&self, rule: Line) -> Option<&Inline> {
        let list = match rule.source {
            0 => &self.allow,
            1 => &self.deny,
            _ => return None,
        };
        list.get((rule.line as usize).checked_sub(1)?)
    }

    fn file_of(&self, source: u32) -> Option<&RuleFile> {
        self.files.get((source as usize).checked_sub(LISTS)?)
    }
}

fn read_file(file: &RuleFile) -> Result<Vec<u8>, String> {
    let opened = std::fs::File::open(&file.path).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    opened
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

/// Runs `work` on a thread that gets the processor when nobody else wants it.
fn at_low_priority<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Of this thread alone: on Linux niceness belongs to threads.
            if let Err(error) = rustix::process::setpriority_process(None, 19) {
                tracing::debug!(%error, "rules are compiled at normal priority");
            }
            work()
        });
        match thread.join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Puts the lines beside the problems, which are in the order of sources and lines.
fn complaints(texts: &[Vec<u8>], problems: &[ipfilter::Problem]) -> Vec<Complaint> {
    let mut complaints = Vec::with_capacity(problems.len());
    for of_one in problems.chunk_by(|left, right| left.source == right.source) {
        let source = of_one.first().map_or(0, |problem| problem.source as usize);
        let file = source.checked_sub(LISTS);
        let text = file.and_then(|file| texts.get(file));
        let text = text.map_or(&[][..], Vec::as_slice);
        let mut lines = (1..).zip(text.split(|byte| *byte == b'\n'));
        let mut current = None;
        for (count, problem) in of_one.iter().enumerate() {
            let mut text = String::new();
            if count < SHOWN_MAX {
                if current.is_none_or(|(number, _)| number < problem.line) {
                    current = lines.find(|(number, _)| *number == problem.line);
                }
                let line = current.map_or(&[][..], |(_, line): (u32, &[u8])| line);
                text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            }
            complaints.push(Complaint {
                file,
                problem: *problem,
                text,
            });
        }
    }
    complaints
}

/// Reads `[gate.ip_filter]` and compiles its rules; every problem of every file is recorded.
pub(super) fn read(table: &Table<'_>) -> Option<IpFilterSettings> {
    let order = table.has("order").then(|| {
        let orders = [
            ("deny,allow", Order::DenyFirst),
            ("allow,deny", Order::AllowFirst),
        ];
        table.choice("order", Order::DenyFirst, &orders)
    });
    let actions = [("allow", Action::Allow), ("deny", Action::Deny)];
    let default = table
        .has("default")
        .then(|| table.choice("default", Action::Allow, &actions));
    let rejects = [
        ("403", Reject::Forbidden),
        ("404", Reject::NotFound),
        ("close", Reject::Close),
    ];
    let (allow, allow_spans) = read_list(table, "allow");
    let (deny, deny_spans) = read_list(table, "deny");
    let (files, file_spans) = read_files(table);
    let reject = table.choice("reject", Reject::Forbidden, &rejects);
    let settings = IpFilterSettings {
        watch: Watch::new(files.iter().map(|file| file.path.clone())),
        order,
        default,
        allow,
        deny,
        files,
        reject,
        file: table.file().to_owned(),
        rules: Arc::new(ArcSwap::from_pointee(Builder::new().build().ok()?)),
    };
    let spans = Spans {
        lists: [allow_spans, deny_spans],
        files: file_spans,
    };
    match at_low_priority(|| settings.read_and_compile()) {
        Ok((rules, texts)) => {
            warn(table, &settings, &spans, &complaints(&texts, &rules.lint()));
            settings.rules.store(Arc::new(rules));
            Some(settings)
        }
        Err(refused) => {
            record(table, &settings, &spans, refused);
            None
        }
    }
}

/// Where the patterns and files are named in the settings file.
struct Spans {
    lists: [Vec<Range<usize>>; 2],
    files: Vec<Range<usize>>,
}

fn read_list(table: &Table<'_>, key: &'static str) -> (Vec<Inline>, Vec<Range<usize>>) {
    let list = table.list::<String>(key).unwrap_or_default();
    list.into_iter()
        .map(|item| {
            let line = table.line_of(item.span.start);
            let pattern = item.value;
            (Inline { pattern, line }, item.span)
        })
        .unzip()
}

fn read_files(table: &Table<'_>) -> (Vec<RuleFile>, Vec<Range<usize>>) {
    let Some(value) = table.value("files") else {
        return (Vec::new(), Vec::new());
    };
    let elements = match value.get_ref() {
        DeValue::Array(elements) => elements.iter().collect(),
        _ => vec![value],
    };
    if elements.len() > 64 {
        let message = format!("there are {} files, 64 are the most", elements.len());
        table.problems().error(value.span(), message);
    }
    let mut files = Vec::new();
    let mut spans = Vec::new();
    for element in elements {
        let file = if let Some(name) = element.get_ref().as_str() {
            Some((name.to_owned(), None))
        } else if matches!(element.get_ref(), DeValue::Table(_)) {
            let file = table.as_table("files", element, &IP_FILE);
            file.as_ref().and_then(read_file_table)
        } else {
            table.problems().error_with_hint(
                element.span(),
                "`files`: expected a file name or a table",
                "write \"ip.conf\" or { path = \"drop.txt\", format = \"plain\", action = \"deny\" }",
            );
            None
        };
        if let Some((name, action)) = file {
            let path = table.base().join(&name);
            files.push(RuleFile { name, path, action });
            spans.push(element.span());
        }
    }
    (files, spans)
}

fn read_file_table(table: &Table<'_>) -> Option<(String, Option<Action>)> {
    let path = table.required::<String>("path");
    let plain = table.choice("format", false, &[("line", false), ("plain", true)]);
    let actions = [("allow", Some(Action::Allow)), ("deny", Some(Action::Deny))];
    let action = table.choice("action", None, &actions);
    if plain && !table.has("action") {
        table.missing("action");
        return None;
    }
    if !plain && table.has("action") {
        table.problems().error_with_hint(
            table.span_of("action"),
            "a file of the line format says `allow` or `deny` in each line",
            "remove `action`, or write format = \"plain\"",
        );
        return None;
    }
    Some((path?, action))
}

fn record(table: &Table<'_>, settings: &IpFilterSettings, spans: &Spans, refused: Refused) {
    let file_span = |place: usize| spans.files.get(place).cloned().or_else(|| table.span());
    for (place, why) in refused.unreadable {
        let name = settings.files.get(place).map_or("", |file| &file.name);
        let message = format!("`files`: can't read {name}: {why}");
        table.problems().error(file_span(place), message);
    }
    let same_file = |left: &Complaint, right: &Complaint| left.file == right.file;
    for of_one in refused.wrong.chunk_by(same_file) {
        for complaint in of_one.iter().take(SHOWN_MAX) {
            let problem = &complaint.problem;
            tell(table, settings, spans, problem, &complaint.text);
        }
        let more = of_one.len().saturating_sub(SHOWN_MAX);
        if more > 0 {
            let file = of_one.first().and_then(|first| first.file);
            let name = file.and_then(|file| settings.files.get(file));
            let name = name.map_or("the lists", |file| &file.name);
            let message = format!("{more} more problems in {name}");
            let span = file.and_then(file_span).or_else(|| table.span());
            table.problems().error(span, message);
        }
    }
}

/// What is odd about rules that are right.
fn warn(table: &Table<'_>, settings: &IpFilterSettings, spans: &Spans, lint: &[Complaint]) {
    for found in lint.iter().take(WARNINGS_MAX) {
        tell(table, settings, spans, &found.problem, &found.text);
    }
    let more = lint.len().saturating_sub(WARNINGS_MAX);
    if more > 0 {
        let message = format!("{more} more warnings about rules");
        let hint = "only the first hundred are shown";
        table.problems().warning(table.span(), message, hint);
    }
}

/// Shows one problem where it is: in the settings, or in a file that they name.
fn tell(
    table: &Table<'_>,
    settings: &IpFilterSettings,
    spans: &Spans,
    problem: &ipfilter::Problem,
    text: &str,
) {
    let source = problem.source as usize;
    let span = match source.checked_sub(LISTS) {
        None => spans.lists.get(source).and_then(|list| {
            let place = (problem.line as usize).checked_sub(1)?;
            list.get(place).cloned()
        }),
        Some(file) => spans.files.get(file).cloned(),
    };
    let excerpt = settings.file_of(problem.source).map(|file| {
        let start = (problem.column as usize).saturating_sub(1);
        let whole = problem.column == 0;
        Excerpt {
            file: file.name.clone(),
            line: problem.line as usize,
            text: text.to_owned(),
            span: if whole {
                0..text.len()
            } else {
                start..start + problem.length as usize
            },
        }
    });
    let other = |by_source: u32, by: u32| {
        settings.place(Line {
            source: by_source,
            line: by,
        })
    };
    let message = match problem.kind {
        ipfilter::Kind::Duplicate { by_source, by } => {
            format!(
                "this rule never decides: {} says the same",
                other(by_source, by)
            )
        }
        ipfilter::Kind::Overruled { by_source, by } => format!(
            "this rule never decides: {} is of the list that is asked first",
            other(by_source, by)
        ),
        ipfilter::Kind::Covered { by_source, by } => format!(
            "this rule never decides: narrower ones cover it, such as {}",
            other(by_source, by)
        ),
        kind @ ipfilter::Kind::Unasked => format!("this rule {kind}"),
        kind => kind.to_string(),
    };
    table.problems().add(Problem {
        severity: if problem.is_error() {
            Severity::Error
        } else {
            Severity::Warning
        },
        message,
        span: span.or_else(|| table.span()),
        hint: problem.hint(),
        absent: false,
        excerpt,
    });
}
