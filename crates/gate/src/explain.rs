//! `munjigi explain request`: the decisions that a request would meet, in order, by the code that
//! serves real requests: the request is written as bytes, parsed and routed like any other.

use std::net::IpAddr;
use std::time::Instant;

use munjigi_foundation::settings::Size;

use crate::decide::{self, Candidate, Routed, Wanted};
use crate::http1::head::RequestHead;
use crate::pipeline::head_limits;
use crate::reason::Rejection;
use crate::settings::{DiscoverySettings, GateSettings};
use crate::snapshot::Snapshot;

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Decision {
    /// The stage, as in docs/life-of-a-request.md.
    pub stage: &'static str,
    /// What was decided.
    pub verdict: String,
    /// True when the request ends here.
    pub ends: bool,
}

/// A request to explain.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// As written, in capitals.
    pub method: &'a str,
    /// An absolute URL.
    pub url: &'a str,
    /// Further header fields.
    pub headers: &'a [(String, String)],
    /// The peer.
    pub from: IpAddr,
    /// The listener; the first one when absent.
    pub listener: Option<&'a str>,
}

/// The decisions by a running gate's snapshot, or one made by [`snapshot`].
#[must_use]
pub fn request(snapshot: &Snapshot, asked: Asked<'_>) -> Vec<Decision> {
    let mut decisions = Vec::new();
    if let Err(rejection) = decide_all(snapshot, asked, &mut decisions) {
        decisions.push(Decision {
            stage: "answer",
            verdict: format!(
                "{} {}: {}",
                rejection.reason.status(),
                rejection.reason.code(),
                rejection.detail
            ),
            ends: true,
        });
    }
    decisions
}

/// A snapshot of settings that no gate serves: only static backends are known.
#[must_use]
pub fn snapshot(settings: GateSettings) -> Snapshot {
    let snapshot = Snapshot::new(settings, Vec::new(), None);
    for service in snapshot.services.values() {
        if let DiscoverySettings::Static(backends) = &service.settings.discovery {
            crate::discovery::apply_static(service, backends, &snapshot);
        }
    }
    snapshot
}

fn decide_all(
    snapshot: &Snapshot,
    asked: Asked<'_>,
    decisions: &mut Vec<Decision>,
) -> Result<(), Rejection> {
    let mut say = |stage, verdict: String| {
        decisions.push(Decision {
            stage,
            verdict,
            ends: false,
        });
    };
    let settings = snapshot.settings();
    let known = |name: &&str| {
        settings
            .listeners
            .iter()
            .any(|listener| listener.name == **name)
    };
    let first = settings
        .listeners
        .first()
        .map(|listener| listener.name.as_str());
    let Some(listener) = asked.listener.filter(known).or(first) else {
        say("accept", "there is no listener".to_owned());
        return Ok(());
    };
    say(
        "accept",
        format!("listener {listener}, peer {}", asked.from),
    );
    let bytes = as_bytes(asked);
    let head = RequestHead::parse(&bytes, head_limits(&settings.limits))?;
    say(
        "read head",
        format!(
            "{} {}",
            decide::text(head.method()),
            decide::text(head.target())
        ),
    );
    let client = decide::client(snapshot, asked.from, &head);
    say("client", client.to_string());
    let routed = decide::route(snapshot, listener, &head)?;
    say(
        "route",
        format!(
            "{} ({}) to service {}",
            routed.settings.name, routed.settings.path, routed.settings.service
        ),
    );
    decide::limits(routed.settings, &head)?;
    let limit = routed
        .settings
        .request_body_max
        .map_or_else(|| "none".to_owned(), |limit| Size(limit).to_string());
    say("limits", format!("passed; request_body_max {limit}"));
    choose(Instant::now(), &routed, (&head, client), say)
}

/// The backend, and the limits of the exchange with it.
fn choose(
    now: Instant,
    routed: &Routed<'_>,
    (head, client): (&RequestHead, IpAddr),
    mut say: impl FnMut(&'static str, String),
) -> Result<(), Rejection> {
    let service = &routed.route.service;
    let set = service.set.load();
    if set.members().is_empty() && service.settings.discovery == DiscoverySettings::Registry {
        say(
            "choose backend",
            "from the registry, by the service's name".to_owned(),
        );
        if let Some(lookup) = &routed.settings.lookup {
            let rule = format!("only where metadata.{} = {}", lookup.key, lookup.source);
            say("choose backend", rule);
        }
        return Ok(());
    }
    let wanted = decide::wanted(routed, &set, head, client, now)?;
    let how = match wanted {
        Wanted::Any(_) => format!("by {}", service.settings.balance),
        Wanted::Only(_) => "by `where`".to_owned(),
    };
    match decide::backend(service, &set, &wanted, &[], now)? {
        Candidate::One(backend) => say("choose backend", format!("{} {how}", backend.name)),
        Candidate::Full => say("choose backend", "all are full: it waits".to_owned()),
    }
    let timeout = routed.settings.timeout;
    say(
        "forward",
        format!(
            "{} tries; connect {:?}, response {:?}, idle {:?}, rate_min {}",
            routed.settings.retry.attempts,
            timeout.connect,
            timeout.response,
            timeout.idle,
            timeout
                .rate_min
                .map_or_else(|| "off".to_owned(), |rate| format!("{rate}B/s")),
        ),
    );
    Ok(())
}

/// The request as a client would write it.
fn as_bytes(asked: Asked<'_>) -> Vec<u8> {
    let rest = asked
        .url
        .split_once("://")
        .map_or(asked.url, |(_, rest)| rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let slash = if target.starts_with('/') { "" } else { "/" };
    let mut text = format!("{} {slash}{target} HTTP/1.1\r\n", asked.method);
    let names_host = asked
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !names_host {
        text.push_str(&format!("Host: {host}\r\n"));
    }
    for (name, value) in asked.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}
