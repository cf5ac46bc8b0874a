//! `munjigi explain request`: the decisions that a request would meet, in order, by the code that
//! serves real requests: the request is written as bytes, parsed and routed like any other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use munjigi_foundation::settings::{Size, format_duration};

use crate::decide::{self, Candidate, Routed, Wanted};
use crate::files::{self, Found};
use crate::forwarded;
use crate::http1::head::RequestHead;
use crate::outgoing::{self, Terms};
use crate::pipeline::{head_limits, rejection_bytes};
use crate::reason::{Reason, Rejection};
use crate::reply::{self, Reply};
use crate::settings::{Action, DiscoverySettings, GateSettings, Protocol, RouteSettings};
use crate::shield;
use crate::snapshot::Snapshot;
use crate::target;
use crate::ws::handshake;

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

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// In the order in which they fall.
    pub decisions: Vec<Decision>,
    /// The route that serves it.
    pub route: Option<String>,
    /// How it ends.
    pub outcome: Outcome,
}

/// How a request ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The gate answers.
    Answer {
        /// The status.
        status: u16,
        /// The code of the problem document; `done` for an answer that the route wants.
        code: &'static str,
        /// The head, with `now` as its date.
        head: String,
    },
    /// A backend answers.
    Forward {
        /// The head that it gets.
        head: String,
        /// Those that may be asked, by address.
        candidates: Vec<String>,
    },
    /// Nobody can say: there is no listener, or the backends are not known here.
    Unknown,
}

/// What becomes of a request, by a running gate's snapshot, or by one made by [`snapshot`].
/// Nothing is counted and no bucket is touched. Reads from the disk where the route serves files.
#[must_use]
pub fn request(snapshot: &Snapshot, asked: Asked<'_>) -> Explanation {
    head(snapshot, &as_bytes(asked), asked.from, asked.listener)
}

/// As [`request`], of a head as it came: its bytes up to the empty line.
#[must_use]
pub fn head(
    snapshot: &Snapshot,
    bytes: &[u8],
    from: IpAddr,
    listener: Option<&str>,
) -> Explanation {
    let mut explanation = Explanation {
        decisions: Vec::new(),
        route: None,
        outcome: Outcome::Unknown,
    };
    match RequestHead::parse(bytes, head_limits(&snapshot.settings().limits)) {
        Ok(head) => Story {
            snapshot,
            from,
            listener,
            head: &head,
            scheme: "http",
            told: &mut explanation,
        }
        .tell(),
        Err(error) => {
            let rejection = Rejection::from(error);
            let bytes = rejection_bytes(&rejection, NOW, true);
            explanation.end(&rejection, head_text(&bytes));
        }
    }
    explanation
}

/// In place of a date.
const NOW: &[u8] = b"now";

/// The head of a whole response.
fn head_text(bytes: &[u8]) -> String {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let head = bytes.get(..end.map_or(bytes.len(), |end| end + 4));
    String::from_utf8_lossy(head.unwrap_or_default()).into_owned()
}

impl Explanation {
    fn say(&mut self, stage: &'static str, verdict: impl Into<String>) {
        self.decisions.push(Decision {
            stage,
            verdict: verdict.into(),
            ends: false,
        });
    }

    fn end(&mut self, rejection: &Rejection, head: String) {
        let (status, code) = (rejection.reason.status(), rejection.reason.code());
        self.decisions.push(Decision {
            stage: "answer",
            verdict: format!("{status} {code}: {}", rejection.detail),
            ends: true,
        });
        self.outcome = Outcome::Answer { status, code, head };
    }
}

/// A snapshot of settings that no gate serves: only static backends are known.
#[must_use]
pub fn snapshot(settings: GateSettings) -> Snapshot {
    let mut snapshot = Snapshot::new(settings, Vec::new(), None);
    snapshot.followed = false;
    for service in snapshot.services.values() {
        if let DiscoverySettings::Static(backends) = &service.settings.discovery {
            crate::discovery::apply_static(service, backends, &snapshot);
        }
    }
    snapshot
}

/// One request on its way.
struct Story<'a> {
    snapshot: &'a Snapshot,
    from: IpAddr,
    listener: Option<&'a str>,
    head: &'a RequestHead,
    /// Of the listener.
    scheme: &'static str,
    told: &'a mut Explanation,
}

/// Losing routes that are named.
const LOSERS_MAX: usize = 20;

impl<'a> Story<'a> {
    fn terms(&self, settings: &'a RouteSettings) -> Terms<'a> {
        Terms {
            snapshot: self.snapshot,
            settings,
            head: self.head,
            peer: self.from,
            scheme: self.scheme,
        }
    }

    fn tell(mut self) {
        let listeners = &self.snapshot.settings().listeners;
        let wanted = |name: &str| listeners.iter().find(|listener| listener.name == name);
        let listener = self.listener.and_then(wanted).or(listeners.first());
        let Some(listener) = listener else {
            return self.told.say("accept", "there is no listener");
        };
        if listener.tls.is_some() {
            self.scheme = "https";
        }
        let accepted = format!("listener {}, peer {}", listener.name, self.from);
        self.told.say("accept", accepted);
        if let Some(layer4) = &listener.layer4 {
            let verdict = format!("layer 4: all bytes go to service {}", layer4.service);
            return self.told.say("accept", verdict);
        }
        let (method, target) = (self.head.method(), self.head.target());
        let line = format!("{} {}", target::text(method), target::text(target));
        self.told.say("read head", line);
        let client = forwarded::client(self.snapshot, self.from, self.head);
        self.told.say("client", client.to_string());
        let admitted = self
            .filter(client)
            .and_then(|()| self.shield(&listener.name));
        let routed =
            admitted.and_then(|()| decide::route(self.snapshot, &listener.name, self.head));
        let settings = routed.as_ref().ok().map(|routed| routed.settings);
        let outcome = routed.and_then(|routed| {
            self.route(&listener.name, &routed);
            self.serve(&routed, client)
        });
        if outcome.is_ok() {
            let answer = match &self.told.outcome {
                Outcome::Answer { status, .. } => Some((*status, Reason::Done)),
                Outcome::Forward { .. } | Outcome::Unknown => None,
            };
            self.signals(&listener.name, client, answer);
        }
        if let Err(rejection) = outcome {
            if matches!(rejection.reason, Reason::NoRoute | Reason::MethodNotAllowed) {
                self.losers(&listener.name, None);
            }
            let answer = (rejection.reason.status(), rejection.reason);
            self.signals(&listener.name, client, Some(answer));
            let settings = settings.unwrap_or(&self.snapshot.no_route);
            let pages = [&settings.error_pages, &self.snapshot.settings().error_pages];
            let reply = reply::rejection(&rejection, self.head, &pages);
            let head = self.own_head(settings, &reply);
            self.told.end(&rejection, head);
        }
    }

    fn filter(&mut self, client: IpAddr) -> Result<(), Rejection> {
        let Some(filter) = &self.snapshot.ip_filter else {
            return Ok(());
        };
        self.told.say("ip filter", filter.explain(client));
        filter.admits(client)
    }

    /// The path that nobody may ask for. Who is banned knows the running gate alone.
    fn shield(&self, listener: &str) -> Result<(), Rejection> {
        match shield::of_listener(self.snapshot, listener) {
            Some(shield) => shield::admits_path(shield, self.head),
            None => Ok(()),
        }
    }

    /// What a request says of its client with this answer, or with any that a backend may give.
    fn signals(&mut self, listener: &str, client: IpAddr, answer: Option<(u16, Reason)>) {
        let Some(shield) = shield::of_listener(self.snapshot, listener) else {
            return;
        };
        let verdict = match shield.exempts(self.snapshot, client) {
            Some(why) => format!("never bans {client}: {why}"),
            None => {
                let weigh = |answer| shield::weigh(shield, self.head, answer);
                let signals = weigh(answer.unwrap_or((200, Reason::Done)));
                let mut in_vain = match answer {
                    None => weigh((404, Reason::Done)),
                    Some(_) => Vec::new(),
                };
                in_vain.retain(|signal| !signals.contains(signal));
                shield::explain(&signals, &in_vain, &shield.settings.ban)
            }
        };
        self.told.say("shield", verdict);
    }

    fn route(&mut self, listener: &str, routed: &Routed<'_>) {
        let settings = routed.settings;
        let to = match &settings.action {
            Action::Forward => format!("to service {}", settings.service),
            Action::Redirect(redirect) => format!("redirects to {}", redirect.location),
            Action::Respond(respond) => format!("answers {}", respond.status),
            Action::Files(files) => format!("files of {}", files.root.display()),
        };
        let verdict = format!("{} ({}) {to}", settings.name, settings.path);
        self.told.route = Some(settings.name.clone());
        self.told.say("route", verdict);
        self.losers(listener, Some(routed.route.place));
    }

    /// Why the others did not get it.
    fn losers(&mut self, listener: &str, winner: Option<usize>) {
        let table = &self.snapshot.table;
        let losers = decide::with_question(listener, self.head, |q| table.losers(q, winner));
        for (name, why) in losers.named.iter().take(LOSERS_MAX) {
            self.told.say("not route", format!("{name}: {why}"));
        }
        let unnamed = losers.named.len().saturating_sub(LOSERS_MAX);
        let counted = [
            (unnamed, "more that fit less"),
            (losers.path, "for other paths"),
            (losers.host, "for other hosts"),
            (losers.listener, "for other listeners"),
        ];
        let counted: Vec<String> = counted
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if !counted.is_empty() {
            self.told.say("not route", counted.join(", "));
        }
    }

    fn serve(&mut self, routed: &Routed<'a>, client: IpAddr) -> Result<(), Rejection> {
        let settings = routed.settings;
        let now = Instant::now();
        self.handshake(settings)?;
        decide::limits(settings, self.head)?;
        decide::rate(routed.route, (self.head, client), now, false)?;
        self.limits(settings);
        let terms = self.terms(settings);
        let reply = match &settings.action {
            Action::Forward => return self.choose(routed, client, now),
            Action::Redirect(_) | Action::Respond(_) => reply::fixed(terms),
            Action::Files(files) => {
                let wanted = reply::wanted_file(terms, files)?;
                self.told.say("files", wanted.path.clone());
                let found = files::find(&wanted).unwrap_or(Found::Nothing);
                Some(reply::of_file(terms, files, found)?)
            }
        };
        if let Some(reply) = reply {
            let head = self.own_head(settings, &reply);
            self.told.decisions.push(Decision {
                stage: "answer",
                verdict: head.trim_end().replace("\r\n", "; "),
                ends: true,
            });
            self.told.outcome = Outcome::Answer {
                status: reply.status,
                code: reply.reason.code(),
                head,
            };
        }
        Ok(())
    }

    /// What is wrong with the handshake of a WebSocket.
    fn handshake(&mut self, settings: &RouteSettings) -> Result<(), Rejection> {
        let websocket = &settings.websocket;
        let fault = handshake::judge(websocket, self.head, Protocol::Http1);
        let connection = (self.from, self.scheme);
        let site = || forwarded::site(self.snapshot, connection, self.head);
        handshake::admit(websocket, fault, self.head, site)?;
        if let Some(fault) = fault {
            let verdict = format!("{} {}: noted", fault.code(), fault.word());
            self.told.say("handshake", verdict);
        }
        Ok(())
    }

    fn limits(&mut self, settings: &RouteSettings) {
        let limit = settings
            .request_body_max
            .map_or_else(|| "none".to_owned(), |limit| Size(limit).to_string());
        let mut verdict = format!("passed; request_body_max {limit}");
        if let Some(rate) = &settings.rate_limit {
            let per = format_duration(rate.per);
            verdict += &format!("; rate_limit {} per {per} by {}", rate.requests, rate.by);
        }
        self.told.say("limits", verdict);
    }

    /// The head of an answer of the gate's own.
    fn own_head(&self, settings: &'a RouteSettings, reply: &Reply) -> String {
        let close = reply::must_close(self.head, reply.reason);
        let Ok(head) = reply.head(self.head.method()) else {
            return String::new();
        };
        let terms = self.terms(settings);
        let lead = outgoing::response(Vec::new(), terms, &head, close, &Arc::default(), NOW);
        String::from_utf8_lossy(&lead.bytes).into_owned()
    }

    /// The backend, and what it gets.
    fn choose(
        &mut self,
        routed: &Routed<'a>,
        client: IpAddr,
        now: Instant,
    ) -> Result<(), Rejection> {
        let service = &routed.route.service;
        let settings = routed.settings;
        if let Some(rewrite) = &settings.rewrite
            && let Some(target) = self.terms(settings).target()
        {
            let verdict = format!("{} ({rewrite})", target::text(&target));
            self.told.say("rewrite", verdict);
        }
        let set = service.set.load();
        let known = self.snapshot.followed || !set.members().is_empty();
        if !known && service.settings.discovery == DiscoverySettings::Registry {
            let verdict = "from the registry, by the service's name";
            self.told.say("choose backend", verdict);
            if let Some(lookup) = &settings.lookup {
                let rule = format!("only where metadata.{} = {}", lookup.key, lookup.source);
                self.told.say("choose backend", rule);
            }
            return Ok(());
        }
        let wanted = decide::wanted(routed, &set, self.head, client, now)?;
        let (how, candidates) = match &wanted {
            Wanted::Any(_) => {
                let all = set.up().iter().map(|backend| backend.name.clone());
                (format!("by {}", service.settings.balance), all.collect())
            }
            Wanted::Only(backend) => ("by `where`".to_owned(), vec![backend.name.clone()]),
        };
        match decide::backend(service, &set, &wanted, &[], now)? {
            Candidate::One(backend) => {
                let of = match &wanted {
                    Wanted::Any(_) => format!(" of {}", candidates.len()),
                    Wanted::Only(_) => String::new(),
                };
                let verdict = format!("{} {how}{of}", backend.name);
                self.told.say("choose backend", verdict);
                self.forward(settings, &backend.name, candidates);
            }
            Candidate::Full => self.told.say("choose backend", "all are full: it waits"),
        }
        Ok(())
    }

    fn forward(&mut self, settings: &'a RouteSettings, backend: &str, candidates: Vec<String>) {
        let head = self.terms(settings).request(Vec::new(), backend);
        let head = String::from_utf8_lossy(&head).into_owned();
        let timeout = settings.timeout;
        let verdict = format!(
            "{} tries; connect {:?}, response {:?}, idle {:?}, rate_min {}",
            settings.retry.attempts,
            timeout.connect,
            timeout.response,
            timeout.idle,
            timeout
                .rate_min
                .map_or_else(|| "off".to_owned(), |rate| format!("{rate}B/s")),
        );
        self.told.say("forward", verdict);
        for line in head.trim_end().lines() {
            self.told.say("sends", line);
        }
        self.told.outcome = Outcome::Forward { head, candidates };
    }
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
