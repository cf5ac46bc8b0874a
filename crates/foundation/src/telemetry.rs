//! The program's own log (standard error) and what must never stand in it.

use std::borrow::Cow;
use std::sync::OnceLock;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The way to the filter of the running log: there is one log in a process.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// How the program's own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person at a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to write as a filter.
pub const FILTER_HINT: &str =
    "write error, warn, info, debug, trace or off; more for one part: \"info,munjigi_gate=debug\"";

/// Our own parts, as filters name them.
const PARTS: [&str; 10] = [
    "munjigi",
    "munjigi_analyzer",
    "munjigi_eureka",
    "munjigi_events",
    "munjigi_foundation",
    "munjigi_gate",
    "munjigi_hub",
    "munjigi_ipfilter",
    "munjigi_registry",
    "munjigi_worker",
];

/// A filter that can be meant: a word that is neither a level nor a part of ours would be taken for the name of a
/// library, and silence all the rest.
fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    if filter.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    // Filters by span hold commas of their own: of those the library's own parser is the judge.
    if !filter.contains('[') {
        for directive in filter.split(',').map(str::trim) {
            let (target, level) = match directive.split_once('=') {
                Some((target, level)) => (target.trim(), Some(level.trim())),
                None => (directive, None),
            };
            check_directive(target, level)?;
        }
    }
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}

fn check_directive(target: &str, level: Option<&str>) -> Result<(), String> {
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let room = target.split("::").next().unwrap_or_default();
    let ours = PARTS.contains(&room);
    match level {
        Some(level) if !is_level(level) => Err(format!("\"{level}\" is no level")),
        None if !is_level(target) && !ours => Err(format!("\"{target}\" is no level")),
        Some(_) if room.is_empty() || (room.starts_with("munjigi") && !ours) => {
            Err(format!("\"{target}\" is no part of this program"))
        }
        _ => Ok(()),
    }
}

/// Starts the program's log on standard error. `filter` is as in the `RUST_LOG` convention (`info`,
/// `info,munjigi_hub=debug`). A second call does nothing.
///
/// # Errors
/// Why the filter can't be meant, see [`FILTER_HINT`]; no log runs then.
pub fn start_log(filter: &str, format: LogFormat, colour: bool) -> Result<(), String> {
    let filter = parse_filter(filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    let log = Registry::default().with(filter);
    let started = match format {
        LogFormat::Text => log.with(lines).try_init(),
        LogFormat::Json => log.with(lines.json()).try_init(),
    };
    // Already started, by a test say: that log goes on.
    if started.is_ok() {
        drop(FILTER.set(handle));
    }
    Ok(())
}

/// What the running log tells, as it was said to [`start_log`] or [`set_log_filter`]; `None` before the start.
#[must_use]
pub fn log_filter() -> Option<String> {
    FILTER.get()?.with_current(ToString::to_string).ok()
}

/// Changes what the running log tells.
///
/// # Errors
/// When the filter can't be meant, or no log runs.
pub fn set_log_filter(filter: &str) -> Result<(), String> {
    let filter = parse_filter(filter)?;
    let handle = FILTER.get().ok_or("no log runs in this process")?;
    handle.reload(filter).map_err(|error| error.to_string())
}

/// `target` (path and query) with the value of each `token` parameter replaced, for logs.
#[must_use]
pub fn redact_target(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else {
        return Cow::Borrowed(target);
    };
    if !query.contains("token") {
        return Cow::Borrowed(target);
    }
    let query = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret_name(name) => format!("{name}=…"),
            _ => pair.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("&");
    Cow::Owned(format!("{path}?{query}"))
}

fn is_secret_name(name: &str) -> bool {
    // A percent-encoded name is decoded by whoever reads it, so it counts too.
    let name = name.to_ascii_lowercase();
    name.contains("token") || name.contains('%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_without_meaning_are_refused() {
        for good in [
            "info",
            "WARN",
            "off",
            "3",
            "info,munjigi_gate=debug",
            "munjigi_gate",
            "munjigi_gate::pipeline=trace, warn",
            "sqlx=warn,info",
            "[job{id=1}]=debug",
        ] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for (wrong, said) in [
            ("", "it is empty"),
            ("  ", "it is empty"),
            ("infoo", "\"infoo\" is no level"),
            ("verbose,info", "\"verbose\" is no level"),
            ("info,", "\"\" is no level"),
            ("munjigi_gate=loud", "\"loud\" is no level"),
            ("munjigi_gate=", "\"\" is no level"),
            ("=debug", "\"\" is no part of this program"),
            (
                "munjigi_gat=debug",
                "\"munjigi_gat\" is no part of this program",
            ),
            (
                "munjigi-gate=debug",
                "\"munjigi-gate\" is no part of this program",
            ),
            ("no=such=filter", "\"such=filter\" is no level"),
        ] {
            assert_eq!(parse_filter(wrong).unwrap_err(), said, "{wrong}");
        }
        assert!(parse_filter("[{").is_err());
    }

    #[test]
    fn filters_know_all_parts_of_the_program() {
        let rooms = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for room in std::fs::read_dir(rooms).unwrap() {
            let name = room.unwrap().file_name().into_string().unwrap();
            let part = match name.as_str() {
                "munjigi" => name,
                "testkit" => continue,
                _ => format!("munjigi_{name}"),
            };
            assert!(PARTS.contains(&part.as_str()), "{part}");
        }
    }

    #[test]
    fn tokens_in_a_target_are_redacted() {
        assert_eq!(
            redact_target("/sign-in?token=abc&x=1"),
            "/sign-in?token=…&x=1"
        );
        assert_eq!(
            redact_target("/sign-in?a=1&access_token=abc"),
            "/sign-in?a=1&access_token=…"
        );
        assert_eq!(
            redact_target("/sign-in?%74oken=abc&tokens=1"),
            "/sign-in?%74oken=…&tokens=…"
        );
        assert_eq!(redact_target("/a?b=c"), "/a?b=c");
    }
}
