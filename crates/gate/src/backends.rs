//! Services and their backends: what discovery says, what may be used of it, and the figures
//! that all threads share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::balance;
use crate::network::never_a_backend;
use crate::settings::ServiceSettings;

/// How long an instance that went away is told apart from one that never was.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// Values remembered for one service.
const REMEMBERED_MAX: usize = 10_000;

/// What discovery knows of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Literal address; a name is refused and shown.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Its share, from 1.
    pub weight: u32,
    /// True when it says that it takes requests.
    pub up: bool,
    /// What it says about itself.
    pub metadata: BTreeMap<String, String>,
}

/// What discovery knows of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backends {
    /// All instances, also those that are not up.
    pub instances: Vec<Instance>,
    /// True when the source can't be asked, or came back and knows nothing yet: all that was
    /// known stays.
    pub unsure: bool,
}

/// A source of backends. The gate learns of them through this alone.
pub trait Discovery: Send + Sync + std::fmt::Debug {
    /// The backends of `service`, now and whenever they change.
    fn watch(&self, service: &str) -> watch::Receiver<Arc<Backends>>;
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One address of a service, with its figures. It outlives changes of the set around it.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Unique in this process.
    pub id: u64,
    /// Where it listens.
    pub address: SocketAddr,
    /// The address as text: for logs, and as `Host` where the client sent none.
    pub name: String,
    /// Its share.
    pub weight: u32,
    /// Requests in flight, over all threads.
    pub in_flight: AtomicU32,
    /// Requests sent to it.
    pub requests: AtomicU64,
    /// Of these, how many failed on its side.
    pub failures: AtomicU64,
}

impl Backend {
    pub(crate) fn new(address: SocketAddr, weight: u32) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address,
            name: address.to_string(),
            weight,
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }
}

/// Counts a request in flight for as long as it lives.
#[derive(Debug)]
pub(crate) struct InFlight(pub(crate) Arc<Backend>);

impl InFlight {
    pub(crate) fn new(backend: &Arc<Backend>) -> Self {
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        backend.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(backend))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a discovered instance may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It gets requests.
    Up,
    /// It says that it takes none.
    NotUp,
    /// It may not be used, and why.
    Refused(String),
}

/// An instance as the gate sees it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// As discovered.
    pub instance: Instance,
    /// Whether it may be used.
    pub state: State,
    /// Present unless its address is none.
    pub backend: Option<Arc<Backend>>,
}

/// Where one value of one metadata key leads.
#[derive(Debug, Clone, Default)]
struct Holders {
    up: Vec<Arc<Backend>>,
}

type Key = (String, String);

/// The backends of a service at one moment.
#[derive(Debug, Default)]
pub(crate) struct Set {
    members: Vec<Member>,
    usable: Vec<Arc<Backend>>,
    usable_ids: HashSet<u64>,
    schedule: Vec<u32>,
    holders: HashMap<Key, Holders>,
    remembered: HashMap<Key, Instant>,
    unsure: bool,
}

/// Rules for what discovery says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admission<'a> {
    /// The service's settings.
    pub settings: &'a ServiceSettings,
    /// Addresses that are the gate's own: never backends.
    pub own: &'a [SocketAddr],
    /// Most backends of one service.
    pub backends_max: usize,
    /// True when the addresses were not written by the operator.
    pub discovered: bool,
}

impl Admission<'_> {
    fn judge(&self, instance: &Instance) -> (Option<SocketAddr>, State) {
        let Ok(ip) = instance.host.parse::<std::net::IpAddr>() else {
            let why = format!("\"{}\" is no address", instance.host);
            return (None, State::Refused(why));
        };
        let address = SocketAddr::new(ip, instance.port);
        let refused = |why: &str| (Some(address), State::Refused(why.to_owned()));
        if instance.port == 0 {
            return refused("port 0");
        }
        if self.discovered {
            if let Some(why) = never_a_backend(ip) {
                return refused(why);
            }
            if self.is_own(address) {
                return refused("the gate's own admin address");
            }
            let inside = self
                .settings
                .networks
                .as_ref()
                .is_none_or(|networks| networks.iter().any(|network| network.contains(ip)));
            if !inside {
                return refused("outside of `networks`");
            }
        }
        let state = if instance.up { State::Up } else { State::NotUp };
        (Some(address), state)
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| {
            let same_host = own.ip().to_canonical() == address.ip().to_canonical()
                || (own.ip().is_unspecified() && address.ip().to_canonical().is_loopback());
            own.port() == address.port() && same_host
        })
    }
}

impl Set {
    /// The set after `news`. Addresses that stay keep their backend, and so their figures.
    #[must_use]
    pub(crate) fn next(&self, news: &Backends, admission: Admission<'_>, now: Instant) -> Self {
        let nothing_new = news.instances.is_empty() && news.unsure;
        let instances: Vec<Instance> = if nothing_new {
            self.members.iter().map(|m| m.instance.clone()).collect()
        } else {
            news.instances.clone()
        };
        let mut known: HashMap<(SocketAddr, u32), Arc<Backend>> = self
            .members
            .iter()
            .filter_map(|member| member.backend.clone())
            .map(|backend| ((backend.address, backend.weight), backend))
            .collect();
        let mut set = Self {
            remembered: self.remember(now),
            unsure: news.unsure,
            ..Self::default()
        };
        for instance in instances.into_iter().take(admission.backends_max) {
            let (address, state) = admission.judge(&instance);
            let weight = instance.weight.max(1);
            let backend = address.map(|address| {
                Arc::clone(
                    known
                        .entry((address, weight))
                        .or_insert_with(|| Arc::new(Backend::new(address, weight))),
                )
            });
            set.add(instance, state, backend, now);
        }
        let weights: Vec<u32> = set.usable.iter().map(|backend| backend.weight).collect();
        set.schedule = balance::schedule(&weights);
        set
    }

    fn remember(&self, now: Instant) -> HashMap<Key, Instant> {
        let recent = |seen: Instant| now.saturating_duration_since(seen) < REMEMBERED;
        let mut remembered: HashMap<Key, Instant> = self
            .remembered
            .iter()
            .filter(|(_, seen)| recent(**seen))
            .map(|(key, seen)| (key.clone(), *seen))
            .collect();
        for member in &self.members {
            for pair in &member.instance.metadata {
                if remembered.len() < REMEMBERED_MAX {
                    remembered.insert((pair.0.clone(), pair.1.clone()), now);
                }
            }
        }
        remembered
    }

    fn add(
        &mut self,
        instance: Instance,
        state: State,
        backend: Option<Arc<Backend>>,
        now: Instant,
    ) {
        if let (State::Up, Some(backend)) = (&state, &backend) {
            if self.usable_ids.insert(backend.id) {
                self.usable.push(Arc::clone(backend));
            }
            for (key, value) in &instance.metadata {
                let holders = self
                    .holders
                    .entry((key.clone(), value.clone()))
                    .or_default();
                if holders.up.iter().all(|other| other.id != backend.id) {
                    holders.up.push(Arc::clone(backend));
                }
            }
        } else if state == State::NotUp {
            for (key, value) in &instance.metadata {
                self.remembered.insert((key.clone(), value.clone()), now);
            }
        }
        self.members.push(Member {
            instance,
            state,
            backend,
        });
    }

    /// All instances, for operators.
    #[must_use]
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Those that may get requests.
    #[must_use]
    pub(crate) fn usable(&self) -> &[Arc<Backend>] {
        &self.usable
    }

    /// True when the source can't be asked, or knows nothing yet.
    #[must_use]
    pub(crate) fn unsure(&self) -> bool {
        self.unsure
    }

    /// Values of `key` that more than one live backend has.
    #[must_use]
    pub(crate) fn duplicates(&self, key: &str) -> Vec<&str> {
        self.holders
            .iter()
            .filter(|((known, _), holders)| known == key && holders.up.len() > 1)
            .map(|((_, value), _)| value.as_str())
            .collect()
    }

    /// The one backend whose metadata has `value` under `key`.
    #[must_use]
    pub(crate) fn holder(&self, key: &str, value: &str, now: Instant) -> Holder<'_> {
        let wanted = (key.to_owned(), value.to_owned());
        match self
            .holders
            .get(&wanted)
            .map(|holders| holders.up.as_slice())
        {
            Some([single]) => Holder::One(single),
            Some([_, _, ..]) => Holder::Several,
            _ => {
                let seen = self.remembered.get(&wanted);
                let recent =
                    seen.is_some_and(|seen| now.saturating_duration_since(*seen) < REMEMBERED);
                if recent {
                    Holder::Away
                } else {
                    Holder::Unknown
                }
            }
        }
    }
}

/// Who has a value of a metadata key.
#[derive(Debug)]
pub(crate) enum Holder<'a> {
    /// One live backend.
    One(&'a Arc<Backend>),
    /// More than one live backend: never to be guessed between.
    Several,
    /// None now, one within the last hour.
    Away,
    /// None.
    Unknown,
}

/// A service: its settings, its backends, its turn.
#[derive(Debug)]
pub(crate) struct Service {
    /// As routes call it.
    pub name: String,
    /// As `[gate.service.NAME]` says.
    pub settings: ServiceSettings,
    /// The backends; replaced as a whole.
    pub set: ArcSwap<Set>,
    turn: AtomicUsize,
}

impl Service {
    /// A service without backends yet.
    #[must_use]
    pub(crate) fn new(name: &str, settings: ServiceSettings) -> Self {
        Self {
            name: name.to_owned(),
            settings,
            set: ArcSwap::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// This service under other settings. What it knows of backends goes along, so that figures and kept connections
    /// stay and nobody meets a service without backends; who may still be used is judged when it is followed anew.
    #[must_use]
    pub(crate) fn changed(&self, settings: ServiceSettings) -> Self {
        let same_source = std::mem::discriminant(&self.settings.discovery)
            == std::mem::discriminant(&settings.discovery);
        let next = Self::new(&self.name, settings);
        if same_source {
            next.set.store(self.set.load_full());
        }
        next
    }

    /// Chooses a backend of `set`, leaving out those tried while there is another.
    #[must_use]
    pub(crate) fn choose<'a>(&self, set: &'a Set, tried: &[u64]) -> Option<&'a Arc<Backend>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        balance::choose(
            self.settings.balance,
            &set.usable,
            &set.schedule,
            turn,
            tried,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(port: u16, id: &str, up: bool) -> Instance {
        Instance {
            host: "127.0.0.1".to_owned(),
            port,
            weight: 1,
            up,
            metadata: BTreeMap::from([("serverId".to_owned(), id.to_owned())]),
        }
    }

    fn news(instances: Vec<Instance>, unsure: bool) -> Backends {
        Backends { instances, unsure }
    }

    fn admission(settings: &ServiceSettings) -> Admission<'_> {
        Admission {
            settings,
            own: &[],
            backends_max: 100,
            discovered: true,
        }
    }

    fn what(set: &Set, value: &str, now: Instant) -> &'static str {
        match set.holder("serverId", value, now) {
            Holder::One(_) => "one",
            Holder::Several => "several",
            Holder::Away => "away",
            Holder::Unknown => "unknown",
        }
    }

    #[test]
    fn a_value_leads_to_its_holder_in_all_five_cases() {
        let settings = ServiceSettings::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let set = Set::default().next(
            &news(
                vec![instance(1, "143", true), instance(2, "144", false)],
                false,
            ),
            admission(&settings),
            start,
        );
        assert_eq!(what(&set, "143", start), "one");
        assert_eq!(what(&set, "144", start), "away");
        assert_eq!(what(&set, "145", start), "unknown");
        let twins = vec![instance(1, "143", true), instance(3, "143", true)];
        let set = set.next(&news(twins, false), admission(&settings), later(1));
        assert_eq!(what(&set, "143", later(1)), "several");
        assert_eq!(set.duplicates("serverId"), ["143"]);
        let set = set.next(&news(vec![], false), admission(&settings), later(2));
        assert_eq!(what(&set, "143", later(3_000)), "away");
        assert_eq!(what(&set, "143", later(3_700)), "unknown");
    }

    #[test]
    fn what_is_known_stays_while_the_registry_is_unsure() {
        let settings = ServiceSettings::default();
        let now = Instant::now();
        let first = Set::default().next(
            &news(vec![instance(1, "143", true)], false),
            admission(&settings),
            now,
        );
        let second = first.next(&news(vec![], true), admission(&settings), now);
        assert_eq!(second.usable().len(), 1);
        assert!(second.unsure());
        assert_eq!(
            first.usable()[0].id,
            second.usable()[0].id,
            "figures are kept"
        );
        let third = second.next(&news(vec![], false), admission(&settings), now);
        assert!(third.usable().is_empty());
    }

    #[test]
    fn addresses_that_may_not_be_used_are_refused_and_shown() {
        let settings = ServiceSettings {
            networks: Some(vec![
                "127.0.0.0/8".parse().unwrap(),
                "::/0".parse().unwrap(),
            ]),
            ..ServiceSettings::default()
        };
        let own = ["0.0.0.0:9901".parse().unwrap()];
        let rules = Admission {
            own: &own,
            ..admission(&settings)
        };
        let check = |host: &str, port: u16, expected: &str| {
            let mut candidate = instance(port, "1", true);
            host.clone_into(&mut candidate.host);
            let set = Set::default().next(&news(vec![candidate], false), rules, Instant::now());
            let State::Refused(why) = &set.members()[0].state else {
                panic!("{host} was not refused");
            };
            assert!(why.contains(expected), "{host}: {why}");
            assert!(set.usable().is_empty());
        };
        check("169.254.169.254", 80, "link-local");
        check("fe80::1", 80, "link-local");
        check("10.0.0.1", 80, "networks");
        check("127.0.0.1", 9901, "own admin");
        check("worker.local", 80, "no address");
        check("127.0.0.1", 0, "port 0");
    }

    #[test]
    fn one_address_registered_twice_is_one_backend() {
        let settings = ServiceSettings::default();
        let twice = vec![instance(1, "143", true), instance(1, "143", true)];
        let set = Set::default().next(&news(twice, false), admission(&settings), Instant::now());
        assert_eq!(set.usable().len(), 1);
        assert_eq!(what(&set, "143", Instant::now()), "one");
    }
}
