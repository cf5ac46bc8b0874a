//! Heads as a route wants them to go out: to a backend, and to a client. Pure but for the
//! counting of encoders; `munjigi explain request` writes the same bytes.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::compress::{Compression, Encoder, Running, Verdict};
use crate::forward::Waiter;
use crate::forwarded;
use crate::http1::head::{RequestHead, ResponseHead};
use crate::http1::write::{self, AddressText, Delivery, Edits, Forwarding};
use crate::http1::{Framing, Version};
use crate::settings::RouteSettings;
use crate::snapshot::Snapshot;
use crate::target;
use crate::template::Facts;

/// A request and the route that serves it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) settings: &'a RouteSettings,
    pub(crate) head: &'a RequestHead,
    /// Of the client's connection.
    pub(crate) peer: IpAddr,
    pub(crate) scheme: &'static str,
}

impl<'a> Terms<'a> {
    /// Those of a request of `client`.
    pub(crate) fn new(
        snapshot: &'a Snapshot,
        settings: &'a RouteSettings,
        head: &'a RequestHead,
        client: &impl Waiter,
    ) -> Self {
        Self {
            snapshot,
            settings,
            head,
            peer: client.peer(),
            scheme: client.scheme(),
        }
    }

    /// What placeholders stand for.
    pub(crate) fn facts(&self) -> Facts<'a> {
        Facts {
            head: self.head,
            path: target::path_of(self.head.target()),
            pattern: &self.settings.path,
            client: forwarded::client(self.snapshot, self.peer, self.head),
            scheme: self.scheme,
        }
    }

    /// The target for the backend, where it is another than the client's. `*` stays.
    pub(crate) fn target(&self) -> Option<Vec<u8>> {
        let rewrite = self.settings.rewrite.as_ref()?;
        (self.head.target() != b"*").then(|| rewrite.target(&self.facts()))
    }

    /// The head for the backend, on `sheet`; `fallback` is its `Host` when the client named none.
    pub(crate) fn request(&self, sheet: Vec<u8>, fallback: &str) -> Vec<u8> {
        let mut lead = sheet;
        let peer = self.peer.to_canonical();
        let target = self.target();
        let rules = self.settings.request_headers.as_deref();
        let lines = rules.map(|rules| rules.lines(&self.facts()));
        let edits = Edits {
            dropped: rules.map(|rules| rules.dropped()).unwrap_or_default(),
            replaced: &[],
            added: [lines.as_deref().unwrap_or_default(), &[]],
        };
        let text = AddressText::of(peer);
        let forwarding = Forwarding {
            peer: text.as_bytes(),
            scheme: self.scheme,
            trusted: self.snapshot.trusts(peer),
            target: target.as_deref(),
            edits,
        };
        write::request(&mut lead, self.head, forwarding, fallback);
        lead
    }

    fn response_lines(&self) -> Option<(&'a [String], Cow<'a, [u8]>)> {
        let rules = self.settings.response_headers.as_deref()?;
        Some((rules.dropped(), rules.lines(&self.facts())))
    }

    /// The head of an interim answer or of a 101: no body, no compression.
    pub(crate) fn interim(&self, response: &ResponseHead, upgrade: bool) -> Vec<u8> {
        let mut lead = Vec::with_capacity(256);
        let rules = upgrade.then(|| self.response_lines()).flatten();
        let delivery = Delivery {
            framing: Framing::None,
            close: false,
            say_keep_alive: false,
            date: &[],
            upgrade,
            edits: edits(rules.as_ref(), &Verdict::default(), &[]),
        };
        write::response(&mut lead, response, delivery);
        lead
    }
}

fn edits<'e>(
    rules: Option<&'e (&'e [String], Cow<'e, [u8]>)>,
    verdict: &Verdict,
    coded: &'e [u8],
) -> Edits<'e> {
    Edits {
        dropped: rules.map(|(dropped, _)| *dropped).unwrap_or_default(),
        replaced: verdict.dropped(),
        added: [
            rules.map(|(_, lines)| lines.as_ref()).unwrap_or_default(),
            coded,
        ],
    }
}

/// The head for the client, and how its body is to be sent.
#[derive(Debug)]
pub(crate) struct Lead {
    pub(crate) bytes: Vec<u8>,
    pub(crate) framing: Framing,
    /// The connection ends after the response.
    pub(crate) close: bool,
    /// What the body goes through.
    pub(crate) encoder: Option<Box<Encoder>>,
}

/// Writes the final head for the client on `sheet`. `must_close`: for reasons beside the request's own.
pub(crate) fn response(
    sheet: Vec<u8>,
    terms: Terms<'_>,
    response: &ResponseHead,
    must_close: bool,
    running: &Arc<Running>,
    date: &[u8],
) -> Lead {
    let old_client = terms.head.version == Version::Http10;
    let compression = terms.settings.compression.as_deref();
    let (verdict, encoder) = compression.map_or_else(Default::default, |compression| {
        compress(terms, compression, response, running)
    });
    let framing = match response.framing {
        Framing::None => Framing::None,
        Framing::Length(length) if encoder.is_none() => Framing::Length(length),
        _ if old_client => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let close = must_close || !terms.head.keeps_alive() || framing == Framing::UntilClose;
    let rules = terms.response_lines();
    let mut bytes = sheet;
    let delivery = Delivery {
        framing,
        close,
        say_keep_alive: old_client && !close,
        date,
        upgrade: false,
        edits: edits(rules.as_ref(), &verdict, &verdict.added),
    };
    write::response(&mut bytes, response, delivery);
    Lead {
        bytes,
        framing,
        close,
        encoder,
    }
}

fn compress(
    terms: Terms<'_>,
    compression: &Compression,
    response: &ResponseHead,
    running: &Arc<Running>,
) -> (Verdict, Option<Box<Encoder>>) {
    let length = match response.framing {
        Framing::Length(length) => Some(length),
        // The head of the answer to a HEAD says what a GET would get.
        Framing::None => response.fields.announced_length(),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let mut verdict = compression.judge(terms.head, response.status, &response.fields, length);
    let Some(coding) = verdict.coding else {
        return (verdict, None);
    };
    if response.framing == Framing::None {
        return (verdict, None);
    }
    let most = terms.snapshot.settings.limits.compressions_max;
    let encoder = Encoder::new(coding, running, most).unwrap_or_else(|error| {
        tracing::warn!(%error, "a response can't be compressed");
        None
    });
    if encoder.is_none() {
        // As it is, then; that it might have been another form is still said.
        verdict.forget_coding();
    }
    (verdict, encoder)
}
