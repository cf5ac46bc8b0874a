//! The program's own log (standard error) and what must never stand in it.

use std::borrow::Cow;

use tracing_subscriber::EnvFilter;

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
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    // Already started, by a test say: that log goes on.
    drop(started);
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
