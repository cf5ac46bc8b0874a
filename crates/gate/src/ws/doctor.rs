//! How tunnels ended: the last ones of each route, and what they add up to. Told in the log, in the
//! metrics, on the admin face and by `munjigi explain closed`. Bounded: so many routes, so many
//! ends of each.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use munjigi_foundation::settings::format_duration;
use serde_json::{Value, json};

use super::Side;
use super::cuts::{self, Cluster, Cut, Measure};
use super::end::End;
use super::handshake::Fault;
use crate::metrics::{Page, label};
use crate::stats::{LIFETIMES, Totals};

/// Routes whose ends are kept.
const ROUTES_MAX: usize = 1_000;
/// Cuts of one side of a route that are looked at together.
const CUTS_MAX: usize = 100;
/// Older ones say nothing about today.
const CUTS_AGE: f64 = 86_400.0;
/// Fewer cuts of one hop among others say nothing: it may be one client with a habit.
const HOP_LEAST: usize = 6;
/// Ends of a route that are shown one by one.
const SHOWN_MAX: usize = 20;
/// The same fault is logged once in so many milliseconds.
const TELL_AGAIN: u64 = 10_000;

/// Causes that the security page shows.
const CAUSES_SHOWN: usize = 100;

/// How one tunnel ended.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) route: Box<str>,
    pub(crate) websocket: bool,
    pub(crate) end: End,
    /// The code of the first close frame.
    pub(crate) code: Option<u16>,
    /// All up to the moment at which the first side ended.
    pub(crate) age: Duration,
    /// Since something of the client passed, and of the backend.
    pub(crate) silences: [Duration; 2],
    /// Whose connection to the gate it was: the client's or that of a proxy in front, whomever it names, and the
    /// backend's.
    pub(crate) hops: [Box<str>; 2],
    /// Of the client, and of the backend.
    pub(crate) frames: [u64; 2],
    pub(crate) bytes: [u64; 2],
    /// How often the route pings; to client and backend so many were sent, and this one was the
    /// last that was answered.
    pub(crate) ping: Option<(Duration, [(u32, u32); 2])>,
}

impl Closing {
    fn silence(&self) -> Duration {
        let [client, backend] = self.silences;
        client.min(backend)
    }

    /// As the access log and the admin face show it; times in seconds.
    pub(crate) fn json(&self) -> Value {
        let [client, backend] = self.silences;
        let [hop_of_client, hop_of_backend] = &self.hops;
        let pair = |[client, backend]: [u64; 2]| json!({ "client": client, "backend": backend });
        let mut row = json!({
            "by": self.end.by(),
            "how": self.end.how(),
            "code": self.code,
            "after": rounded(self.age),
            "silentFor": rounded(self.silence()),
            "clientSilentFor": rounded(client),
            "backendSilentFor": rounded(backend),
            "bytes": pair(self.bytes),
            "hops": { "client": hop_of_client, "backend": hop_of_backend },
        });
        if let Some(row) = row.as_object_mut().filter(|_| self.websocket) {
            row.insert("frames".to_owned(), pair(self.frames));
            if let Some((_, [client, backend])) = self.ping {
                let told =
                    |(sent, answered): (u32, u32)| json!({ "sent": sent, "answered": answered });
                let pings = json!({ "client": told(client), "backend": told(backend) });
                row.insert("pings".to_owned(), pings);
            }
        }
        row
    }
}

fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// What is known of one route.
#[derive(Debug, Default)]
struct Ward {
    ping: Option<Duration>,
    /// Of client and backend.
    sides: [Cuts; 2],
    /// The last ends, with their moment.
    last: VecDeque<(f64, Value)>,
}

/// The cuts of one side of a route, and what they add up to.
#[derive(Debug, Default)]
struct Cuts {
    /// Each with its hop.
    cuts: VecDeque<(Cut, Box<str>)>,
    named: Vec<Named>,
}

/// A cause that was found.
#[derive(Debug)]
struct Named {
    /// Who alone has it, where there are others.
    hop: Option<Box<str>>,
    cluster: Cluster,
    /// Of how many cuts it was when it was told in the log.
    told: usize,
    /// When the last of them was.
    last: f64,
}

/// Keeps how tunnels ended.
#[derive(Debug)]
pub(crate) struct Doctor {
    started: Instant,
    wards: Mutex<BTreeMap<Box<str>, Ward>>,
    /// When each fault may be logged again, in milliseconds since the start.
    told: [AtomicU64; Fault::ALL.len()],
}

impl Doctor {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            wards: Mutex::default(),
            told: [const { AtomicU64::new(0) }; Fault::ALL.len()],
        }
    }

    fn wards(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Ward>> {
        self.wards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.started).as_secs_f64()
    }

    /// Logs a broken handshake, unless one like it was logged just now.
    pub(crate) fn tell(&self, fault: Fault, listener: &str, client: IpAddr, now: Instant) {
        let millis = now.saturating_duration_since(self.started).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        let Some(next) = self.told.get(fault.index()) else {
            return;
        };
        let again = |next: u64| (millis >= next).then(|| millis.saturating_add(TELL_AGAIN));
        if next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, again)
            .is_ok()
        {
            let (code, reason) = (fault.code(), fault.word());
            tracing::info!(code, reason, listener, %client, "broken WebSocket handshake: {}", fault.said());
        }
    }

    /// Notes how a tunnel ended. Only what is known of WebSockets is kept.
    pub(crate) fn note(&self, closing: &Closing, now: Instant) {
        if !closing.websocket {
            return;
        }
        let at = self.seconds(now);
        let mut wards = self.wards();
        if wards.len() >= ROUTES_MAX && !wards.contains_key(&closing.route) {
            wards.pop_first();
        }
        let ward = wards.entry(closing.route.clone()).or_default();
        let found = ward.note(closing, at);
        drop(wards);
        if let Some(told) = found {
            tracing::warn!(route = &*closing.route, "WebSockets: {told}");
        }
    }

    /// In short: what ended how, how long it lived, and the causes that were found, the last one
    /// first.
    pub(crate) fn summary(&self, totals: &Totals, now: Instant) -> Value {
        let now = self.seconds(now);
        let mut causes = Vec::new();
        for (route, ward) in &*self.wards() {
            for mut cause in ward.causes(now) {
                if let Some(cause) = cause.as_object_mut() {
                    cause.insert("route".to_owned(), (&**route).into());
                }
                causes.push(cause);
            }
        }
        let age = |cause: &Value| {
            let age = cause.get("lastAgo").and_then(Value::as_f64);
            age.unwrap_or(f64::MAX)
        };
        causes.sort_by(|left, right| age(left).total_cmp(&age(right)));
        causes.truncate(CAUSES_SHOWN);
        json!({
            "opened": totals.websockets,
            "closed": ends(totals),
            "lifetimes": lifetimes(totals),
            "causes": causes,
        })
    }

    /// For the admin face.
    pub(crate) fn page(&self, totals: &Totals, now: Instant) -> Value {
        let now = self.seconds(now);
        let faults = totals.faults.iter().filter(|(_, count)| *count > 0);
        let faults = faults.map(|(fault, count)| {
            json!({ "code": fault.code(), "reason": fault.word(), "count": count, "said": fault.said() })
        });
        let wards = self.wards();
        let routes = wards.iter().map(|(route, ward)| {
            json!({
                "route": route,
                "causes": ward.causes(now),
                "last": ward.shown(now),
            })
        });
        json!({
            "opened": totals.websockets,
            "handshakes": faults.collect::<Vec<_>>(),
            "closed": ends(totals),
            "lifetimes": lifetimes(totals),
            "routes": routes.collect::<Vec<_>>(),
        })
    }
}

fn ends(totals: &Totals) -> Vec<Value> {
    let ends = totals.closings.iter().filter(|(_, count)| *count > 0);
    ends.map(|(end, count)| json!({ "by": end.by(), "how": end.how(), "count": count }))
        .collect()
}

/// How many tunnels lived up to each bound, in seconds, and longer than the last.
fn lifetimes(totals: &Totals) -> Value {
    let by = totals.lifetimes.iter();
    let by = by.map(|side| json!({ "by": side.by, "counts": side.counts }));
    json!({ "bounds": LIFETIMES, "ended": by.collect::<Vec<_>>() })
}

impl Ward {
    /// What is to be logged, if something was found, or found once more.
    fn note(&mut self, closing: &Closing, at: f64) -> Option<String> {
        let ping = closing.ping.map(|(every, _)| every);
        if ping != self.ping {
            // What was cut by other rules says nothing about these.
            *self = Self {
                ping,
                last: std::mem::take(&mut self.last),
                ..Self::default()
            };
        }
        if self.last.len() >= SHOWN_MAX {
            self.last.pop_front();
        }
        self.last.push_back((at, closing.json()));
        let side = closing.end.cut_by()?;
        let [client_silence, backend_silence] = closing.silences.map(|s| s.as_secs_f64());
        let [client, backend] = &closing.hops;
        let (cuts, hop) = match (side, &mut self.sides) {
            (Side::Client, [cuts, _]) => (cuts, client),
            (Side::Backend, [_, cuts]) => (cuts, backend),
        };
        let cut = Cut {
            at,
            silence: client_silence.min(backend_silence),
            client_silence,
            backend_silence,
            age: closing.age.as_secs_f64(),
        };
        let found = cuts.note(cut, hop)?;
        Some(said(found, side, ping))
    }

    fn named(&self) -> impl Iterator<Item = (Side, &Named)> {
        let sides = Side::ALL.into_iter().zip(&self.sides);
        sides.flat_map(|(side, cuts)| cuts.named.iter().map(move |named| (side, named)))
    }

    fn causes(&self, now: f64) -> Vec<Value> {
        let causes = self.named().map(|(side, named)| {
            let cluster = &named.cluster;
            json!({
                "side": side.name(),
                "hop": named.hop,
                "measure": cluster.measure.name(),
                "seconds": tenth(cluster.seconds),
                "count": cluster.count,
                "of": cluster.of,
                "ping": advice(cluster, self.ping).map(format_duration),
                "lastAgo": (now - named.last).max(0.0).round(),
                "said": said(named, side, self.ping),
            })
        });
        causes.collect()
    }

    /// The last ends, the youngest first.
    fn shown(&self, now: f64) -> Vec<Value> {
        let rows = self.last.iter().rev().map(|(at, row)| {
            let mut row = row.clone();
            if let Some(row) = row.as_object_mut() {
                row.insert("ago".to_owned(), json!((now - at).max(0.0).round()));
            }
            row
        });
        rows.collect()
    }
}

impl Cuts {
    /// What is to be told, if something was found, or found once more: of all cuts, or of those of this one's hop where
    /// others hide its timer.
    fn note(&mut self, cut: Cut, hop: &str) -> Option<&Named> {
        let old = |(first, _): &(Cut, Box<str>)| cut.at - first.at > CUTS_AGE;
        while self.cuts.len() >= CUTS_MAX || self.cuts.front().is_some_and(old) {
            self.cuts.pop_front();
        }
        self.cuts.push_back((cut, hop.into()));
        let all: Vec<Cut> = self.cuts.iter().map(|(cut, _)| *cut).collect();
        let of_all = cuts::find(&all);
        let apart = self.hidden(hop, of_all);
        let cuts = &self.cuts;
        // What is known of a hop goes with its cuts.
        let has_cuts = |hop: &str| cuts.iter().filter(|(_, of)| **of == *hop).count() >= HOP_LEAST;
        self.named
            .retain(|named| named.hop.as_deref().is_none_or(has_cuts));
        let tell_apart = self.name(Some(hop), apart, cut.at, true);
        let tell = self.name(None, of_all, cut.at, !tell_apart);
        let told = tell_apart.then_some(hop);
        let place = self.place(told).filter(|_| tell || tell_apart);
        place.and_then(|place| self.named.get(place))
    }

    /// The timer of `hop`, where there are others and what is known of all does not explain its cuts.
    fn hidden(&self, hop: &str, of_all: Option<Cluster>) -> Option<Cluster> {
        let own = self.cuts.iter().filter(|(_, of)| **of == *hop);
        let own: Vec<Cut> = own.map(|(cut, _)| *cut).collect();
        if own.len() == self.cuts.len() || own.len() < HOP_LEAST {
            return None;
        }
        let found = cuts::find(&own)?;
        let explained = |all: Cluster| own.iter().filter(|cut| all.explains(cut)).count();
        (of_all.map_or(0, explained) < found.count).then_some(found)
    }

    /// Where the cause of `hop`, or of all, is kept.
    fn place(&self, hop: Option<&str>) -> Option<usize> {
        self.named
            .iter()
            .position(|named| named.hop.as_deref() == hop)
    }

    /// Keeps what was found of `hop`, or of all; true if it is to be told, now that something `may` be.
    fn name(&mut self, hop: Option<&str>, found: Option<Cluster>, at: f64, may: bool) -> bool {
        let known = self.place(hop).map(|place| self.named.remove(place));
        let Some(cluster) = found else {
            return false;
        };
        let known = known.filter(|known| known.cluster.is_like(&cluster));
        let told = known.map_or(0, |known| known.told);
        // Told at first, and whenever it is twice as sure.
        let tell = may && cluster.count >= 2 * told.max(1);
        self.named.push(Named {
            hop: hop.map(Into::into),
            cluster,
            told: if tell { cluster.count } else { told },
            last: at,
        });
        tell
    }
}

fn tenth(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

/// How often to ping against a timer: twice in its time. Nothing helps against one of age, and
/// what is pinged more often already was cut by another one.
fn advice(cluster: &Cluster, ping: Option<Duration>) -> Option<Duration> {
    let silence = cluster.measure != Measure::Age;
    let faster = ping.is_none_or(|ping| ping.as_secs_f64() >= cluster.seconds);
    let half = cluster.seconds / 2.0;
    let half = if half >= 1.0 {
        half.round()
    } else {
        (half * 10.0).floor() / 10.0
    };
    (silence && faster).then(|| Duration::from_secs_f64(half.max(0.1)))
}

/// In words: "6 of 6 closed by the client side after 60 s of silence: …".
fn said(named: &Named, side: Side, ping: Option<Duration>) -> String {
    let cluster = &named.cluster;
    let (seconds, name) = (tenth(cluster.seconds), side.name());
    let hop = named.hop.as_ref();
    let hop = hop.map_or_else(String::new, |hop| format!(" by way of {hop}"));
    let after = match cluster.measure {
        Measure::Silence => format!("after {seconds} s of silence"),
        Measure::BackendSilence => format!("after {seconds} s without a word of the backend"),
        Measure::ClientSilence => format!("after {seconds} s without a word of the client"),
        Measure::Age => format!("{seconds} s after they began"),
    };
    let place = match side {
        Side::Client => "in front of this gate",
        Side::Backend => "of the backend, or of something in front of it",
    };
    let cause = match (cluster.measure, advice(cluster, ping)) {
        (Measure::Age, _) => format!("a limit of age {place}; `ping` does not help against it"),
        (_, Some(ping)) => {
            let ping = format_duration(ping);
            format!("an idle timeout {place}; ping = \"{ping}\" would prevent it")
        }
        (_, None) => {
            let ping = format_duration(ping.unwrap_or_default());
            format!("a timeout {place} that pings each {ping} do not reset")
        }
    };
    format!(
        "{} of {}{hop} closed by the {name} side {after}: {cause}",
        cluster.count, cluster.of
    )
}

/// The figures of handshakes and ends.
pub(crate) fn metrics(page: &mut Page, doctor: &Doctor, totals: &Totals) {
    page.single(
        "munjigi_gate_websockets_opened_total",
        "counter",
        "WebSockets that were opened.",
        totals.websockets,
    );
    let name = "munjigi_gate_websocket_faults_total";
    page.head(
        name,
        "counter",
        "Broken handshakes of WebSockets, refused or only noted, by their code.",
    );
    for (fault, count) in &totals.faults {
        let (code, reason) = (fault.code(), fault.word());
        page.put(format_args!(
            "{name}{{code=\"{code}\",reason=\"{reason}\"}} {count}\n"
        ));
    }
    let name = "munjigi_gate_tunnels_closed_total";
    page.head(
        name,
        "counter",
        "Tunnels that ended, by who ended them and how.",
    );
    for (end, count) in &totals.closings {
        let (by, how) = (end.by(), end.how());
        page.put(format_args!(
            "{name}{{by=\"{by}\",how=\"{how}\"}} {count}\n"
        ));
    }
    lifetimes_metric(page, totals);
    let name = "munjigi_gate_websocket_cuts";
    page.head(
        name,
        "gauge",
        "Of the last cuts of WebSockets, those that one timer on the way explains.",
    );
    for (route, ward) in &*doctor.wards() {
        for (side, named) in ward.named() {
            let (route, side, cluster) = (label(route), side.name(), &named.cluster);
            let (measure, seconds) = (cluster.measure.name(), tenth(cluster.seconds));
            let hop = label(named.hop.as_deref().unwrap_or_default());
            page.put(format_args!(
                "{name}{{route=\"{route}\",side=\"{side}\",hop=\"{hop}\",measure=\"{measure}\",seconds=\"{seconds}\"}} {}\n",
                cluster.count
            ));
        }
    }
}

/// The lifetimes as a histogram.
fn lifetimes_metric(page: &mut Page, totals: &Totals) {
    let name = "munjigi_gate_tunnel_lifetime_seconds";
    let help = "How long tunnels lived, by who ended them.";
    page.head(name, "histogram", help);
    for side in &totals.lifetimes {
        let (by, mut sum) = (side.by, 0_u64);
        for (bound, count) in LIFETIMES.iter().zip(&side.counts) {
            sum += count;
            page.put(format_args!(
                "{name}_bucket{{by=\"{by}\",le=\"{bound}\"}} {sum}\n"
            ));
        }
        let all: u64 = side.counts.iter().sum();
        let (seconds, millis) = (side.millis / 1_000, side.millis % 1_000);
        page.put(format_args!(
            "{name}_bucket{{by=\"{by}\",le=\"+Inf\"}} {all}\n\
             {name}_sum{{by=\"{by}\"}} {seconds}.{millis:03}\n\
             {name}_count{{by=\"{by}\"}} {all}\n"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closing(end: End, silent: f64, ping: Option<u64>) -> Closing {
        let silent = Duration::from_secs_f64(silent);
        Closing {
            route: "live".into(),
            websocket: true,
            end,
            code: None,
            age: silent,
            silences: [silent; 2],
            hops: ["10.0.0.1".into(), "10.1.0.1:80".into()],
            frames: [0; 2],
            bytes: [0; 2],
            ping: ping.map(|every| (Duration::from_secs(every), [(0, 0); 2])),
        }
    }

    /// Notes six cuts and says what was logged.
    fn six(end: End, silent: f64, ping: Option<u64>) -> Vec<String> {
        let mut ward = Ward::default();
        let note = |number: u8| {
            let at = f64::from(number) * 5.0;
            let late = f64::from(number) * 0.003;
            ward.note(&closing(end, silent + late, ping), at)
        };
        (0..6).filter_map(note).collect()
    }

    #[test]
    fn a_cause_is_told_in_words_and_not_with_each_cut() {
        let told = six(End::ClientEnded, 60.0, None);
        let whole = "3 of 3 closed by the client side after 60 s of silence: an idle timeout in front of this gate; ping = \"30s\" would prevent it";
        assert_eq!(told.first().map(String::as_str), Some(whole));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[1].starts_with("6 of 6 closed by the client side after 60 s"),
            "{told:?}"
        );
        let told = six(End::BackendBroke, 30.0, Some(40)).pop().unwrap();
        assert!(
            told.contains("by the backend side after 30 s of silence"),
            "{told}"
        );
        assert!(told.ends_with("ping = \"15s\" would prevent it"), "{told}");
        let told = six(End::BackendBroke, 300.0, Some(40)).pop().unwrap();
        assert!(told.ends_with("that pings each 40s do not reset"), "{told}");
        for own in [
            End::Idle,
            End::Drained,
            End::ClientClosed,
            End::BackendClosed,
        ] {
            assert_eq!(six(own, 60.0, None), Vec::<String>::new(), "{own:?}");
        }
        let age = Named {
            hop: None,
            cluster: Cluster {
                measure: Measure::Age,
                seconds: 899.97,
                count: 9,
                of: 12,
            },
            told: 9,
            last: 0.0,
        };
        assert_eq!(
            said(&age, Side::Client, None),
            "9 of 12 closed by the client side 900 s after they began: a limit of age in front of this gate; `ping` does not help against it"
        );
        let mut short = age;
        short.cluster.measure = Measure::BackendSilence;
        short.cluster.seconds = 1.5;
        assert!(said(&short, Side::Client, None).ends_with("ping = \"700ms\" would prevent it"));
    }

    /// Notes a cut of each of `hops` in turn, `rounds` times, by what `cut` makes of its place; what was logged.
    fn turns(
        ward: &mut Ward,
        hops: &[&str],
        rounds: u32,
        cut: impl Fn(usize, f64) -> Closing,
    ) -> Vec<String> {
        let mut told = Vec::new();
        for number in 0..rounds {
            for (place, hop) in hops.iter().enumerate() {
                let mut closing = cut(place, f64::from(number));
                closing.hops[0] = (*hop).into();
                let at = f64::from(number) * 20.0 + place as f64;
                told.extend(ward.note(&closing, at));
            }
        }
        told
    }

    fn causes(ward: &Ward) -> Vec<(Value, Value, Value)> {
        let causes = ward.causes(1_000.0);
        let part = |cause: &Value, name: &str| cause[name].clone();
        let causes = causes.iter();
        causes
            .map(|cause| {
                (
                    part(cause, "hop"),
                    part(cause, "measure"),
                    part(cause, "seconds"),
                )
            })
            .collect()
    }

    #[test]
    fn balancers_with_timers_of_their_own_are_told_apart() {
        let mut ward = Ward::default();
        // Two with timers, and others whose clients leave when they like.
        let hops = ["10.0.0.60", "10.0.0.75", "10.7.0.1", "10.7.0.2"];
        let told = turns(&mut ward, &hops, 12, |place, number| {
            let silent = [60.0, 75.0, 3.0 + 7.3 * number, 5.0 + 9.1 * number][place];
            closing(End::ClientEnded, silent + 0.003 * number, None)
        });
        let silence = json!("silence");
        let first = (json!("10.0.0.60"), silence.clone(), json!(60.0));
        let second = (json!("10.0.0.75"), silence, json!(75.0));
        assert_eq!(causes(&ward), [first, second], "{told:?}");
        let words = "6 of 6 by way of 10.0.0.75 closed by the client side after 75 s of silence: an idle timeout in front of this gate";
        assert!(told.iter().any(|told| told.starts_with(words)), "{told:?}");
        assert_eq!(
            told.len(),
            4,
            "each at first, and when twice as sure: {told:?}"
        );
    }

    #[test]
    fn many_balancers_are_not_told_with_each_cut_and_forgotten_with_their_cuts() {
        let mut ward = Ward::default();
        let hops: Vec<String> = (0..12).map(|number| format!("10.0.0.{number}")).collect();
        let hops: Vec<&str> = hops.iter().map(String::as_str).collect();
        let timers = |place: usize, number: f64| {
            let silent = if place.is_multiple_of(2) { 60.0 } else { 75.0 };
            closing(End::ClientEnded, silent + 0.003 * number, None)
        };
        let told = turns(&mut ward, &hops, 30, timers);
        assert!(told.len() <= 2 * hops.len(), "{}: {told:?}", told.len());
        assert!(causes(&ward).len() >= 8, "{:?}", causes(&ward));
        let habit = |_: usize, number: f64| closing(End::ClientEnded, 2.0 + 3.7 * number, None);
        turns(&mut ward, &["10.9.9.9"], 100, habit);
        assert_eq!(causes(&ward), []);
    }

    #[test]
    fn a_timer_that_all_share_is_one_of_nobody() {
        let mut ward = Ward::default();
        // A minute of the backend's silence; one hop's clients said nothing either, the others' did.
        let told = turns(
            &mut ward,
            &["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            20,
            |place, number| {
                let mut closing = closing(End::ClientEnded, 60.0 + 0.003 * number, None);
                let spoke = Duration::from_secs_f64(1.3 + 2.9 * number);
                if place > 0 {
                    closing.silences[0] = spoke;
                }
                closing.age = Duration::from_secs_f64(90.0 + 31.0 * number);
                closing
            },
        );
        let shared = (Value::Null, json!("backend_silence"), json!(60.0));
        assert_eq!(causes(&ward), [shared], "{told:?}");
        assert!(
            told.iter().all(|told| !told.contains("by way of")),
            "{told:?}"
        );
    }

    #[test]
    fn other_rules_begin_a_new_story_and_memory_is_bounded() {
        let start = Instant::now();
        let doctor = Doctor::new(start);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let causes = || doctor.page(&Totals::default(), at(4_000))["routes"][0].clone();
        for number in 0..300 {
            doctor.note(&closing(End::ClientEnded, 60.0, None), at(number));
        }
        let page = causes();
        assert_eq!(page["causes"][0]["count"], CUTS_MAX, "{page}");
        assert_eq!(page["causes"][0]["lastAgo"], 3_701.0, "{page}");
        assert_eq!(page["causes"][0]["ping"], "30s", "{page}");
        assert_eq!(page["last"].as_array().unwrap().len(), SHOWN_MAX);
        doctor.note(&closing(End::ClientClosed, 5.0, Some(30)), at(301));
        assert_eq!(causes()["causes"], json!([]));
        for number in 0..ROUTES_MAX * 2 {
            let mut closing = closing(End::Idle, 1.0, None);
            closing.route = format!("{number}").into();
            doctor.note(&closing, at(400));
        }
        assert_eq!(doctor.wards().len(), ROUTES_MAX);
        let mut other = closing(End::ClientEnded, 60.0, None);
        other.websocket = false;
        other.route = "layer 4".into();
        doctor.note(&other, at(500));
        assert!(!doctor.wards().contains_key("layer 4"));
    }
}
