//! Header rules of a route: fields removed, set and added, on requests and on responses. Fields
//! that frame a message, hold for one hop, or that the gate writes itself can't be touched.

use std::borrow::Cow;

use crate::template::{Facts, Template};

/// Rules for one direction, in the order they act: removed, set (in place of all fields of that
/// name), added.
#[derive(Debug, Clone, Default)]
pub struct HeaderRules {
    dropped: Vec<String>,
    written: Vec<(String, Template)>,
    /// The fields written, when none of them has a placeholder.
    ready: Option<Vec<u8>>,
}

/// Which message a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the backend.
    Request,
    /// From the backend, or from the gate, to the client.
    Response,
}

/// Why no rule may touch `name`.
#[must_use]
pub(crate) fn untouchable(name: &str, direction: Direction) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "te"
        | "upgrade"
        | "trailer"
        | "proxy-authorization"
        | "proxy-authenticate"
        | "http2-settings"
        | "proxy" => Some("it holds for one hop"),
        "content-length" | "transfer-encoding" | "expect" | "host" => {
            Some("it frames or routes the message")
        }
        "content-encoding" | "content-range" | "date" | "etag" | "munjigi-sign-in"
            if direction == Direction::Response =>
        {
            Some("it says what the message is")
        }
        "forwarded" => Some("the gate writes it"),
        _ if lower.starts_with("x-forwarded-") => Some("the gate writes it"),
        _ if lower.starts_with("sec-websocket-") => Some("it belongs to a handshake"),
        _ => None,
    }
}

impl HeaderRules {
    /// Rules that remove, set and add.
    #[must_use]
    pub fn new(
        remove: Vec<String>,
        set: Vec<(String, Template)>,
        add: Vec<(String, Template)>,
    ) -> Self {
        let mut dropped = remove;
        dropped.extend(set.iter().map(|(name, _)| name.clone()));
        let written: Vec<(String, Template)> = set.into_iter().chain(add).collect();
        let ready = written.iter().try_fold(Vec::new(), |mut lines, field| {
            put(&mut lines, &field.0, field.1.literal()?);
            Some(lines)
        });
        Self {
            dropped,
            written,
            ready,
        }
    }

    /// Names of fields that do not pass.
    #[must_use]
    pub(crate) fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// The fields of the rules as lines of a head.
    #[must_use]
    pub(crate) fn lines(&self, facts: &Facts<'_>) -> Cow<'_, [u8]> {
        if let Some(ready) = &self.ready {
            return Cow::Borrowed(ready);
        }
        let mut lines = Vec::with_capacity(128);
        for (name, value) in &self.written {
            put(&mut lines, name, &value.fill(facts));
        }
        Cow::Owned(lines)
    }
}

fn put(lines: &mut Vec<u8>, name: &str, value: &str) {
    lines.extend_from_slice(name.as_bytes());
    lines.extend_from_slice(b": ");
    lines.extend_from_slice(value.as_bytes());
    lines.extend_from_slice(b"\r\n");
}
