//! The program's own log (standard error) and what must never stand in it.

use std::borrow::Cow;
use std::sync::OnceLock;

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

/// Starts the program's log on standard error. `filter` is as in the `RUST_LOG` convention (`info`,
/// `info,munjigi_hub=debug`); what can't be parsed falls back to `info`. A second call does nothing.
pub fn start_log(filter: &str, format: LogFormat, colour: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
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
}

/// What the running log tells, as it was said to [`start_log`] or [`set_log_filter`]; `None` before the start.
#[must_use]
pub fn log_filter() -> Option<String> {
    FILTER.get()?.with_current(ToString::to_string).ok()
}

/// Changes what the running log tells.
///
/// # Errors
/// When the filter can't be parsed, or no log runs.
pub fn set_log_filter(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
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
