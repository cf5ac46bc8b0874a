//! The backends of a service: what discovery says, what may be used of it, and who gets
//! requests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::backend::{DRAINED, EJECTED, UNHEALTHY};
use crate::balance::Tier;
use crate::network::never_a_backend;
use crate::ring::Ring;
use crate::settings::{Balance, Placement, ServiceSettings};
use crate::sticky;

pub(crate) use crate::backend::{Backend, InFlight};
pub(crate) use crate::service::Service;

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
    /// Whether it is asked first.
    pub placement: Placement,
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

type Key = (String, String);

/// What discovery said last of the backends of a service.
#[derive(Debug, Default)]
struct Known {
    members: Vec<Member>,
    /// Those that are up, each address once, with their places and weights.
    up: Vec<Arc<Backend>>,
    placements: Vec<(Placement, u32)>,
    holders: HashMap<Key, Vec<Arc<Backend>>>,
    remembered: HashMap<Key, Instant>,
    /// Of those that are up, by the value of the sticky cookie.
    tags: HashMap<String, Arc<Backend>>,
    unsure: bool,
}

/// The backends of a service at one moment: what discovery said, and who of them gets requests.
#[derive(Debug, Default)]
pub(crate) struct Set {
    known: Arc<Known>,
    tiers: Vec<Tier>,
    /// Where requests are hashed, to all that are up.
    ring: Option<Arc<Ring>>,
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

/// What lasts longer than the news about a service.
#[derive(Debug, Default, Clone)]
pub(crate) struct Lasting {
    /// What operators said, by address.
    pub(crate) orders: HashMap<SocketAddr, Orders>,
    /// Where the gate is.
    pub(crate) zone: Option<String>,
}

/// What an operator said of one address. It stands above what discovery says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) weight: Option<u32>,
    pub(crate) drained: bool,
}

impl Set {
    /// The set after `news`. Addresses that stay keep their backend, and so their figures.
    #[must_use]
    pub(crate) fn next(
        &self,
        news: &Backends,
        admission: Admission<'_>,
        lasting: &Lasting,
        now: Instant,
    ) -> Self {
        let before = &self.known;
        let nothing_new = news.instances.is_empty() && news.unsure;
        let instances: Vec<Instance> = if nothing_new {
            before.members.iter().map(|m| m.instance.clone()).collect()
        } else {
            news.instances.clone()
        };
        let mut backends: HashMap<SocketAddr, Arc<Backend>> = before
            .members
            .iter()
            .filter_map(|member| member.backend.clone())
            .map(|backend| (backend.address, backend))
            .collect();
        let mut known = Known {
            remembered: before.remember(now),
            unsure: news.unsure,
            ..Known::default()
        };
        let mut seen = HashSet::new();
        for instance in instances.into_iter().take(admission.backends_max) {
            let (address, state) = admission.judge(&instance);
            let backend = address.map(|address| {
                let newcomer = || {
                    let backend = Backend::new(address, instance.weight);
                    if !before.up.is_empty() {
                        backend.warm_up(now);
                    }
                    Arc::new(backend)
                };
                Arc::clone(backends.entry(address).or_insert_with(newcomer))
            });
            known.add(instance, state, backend, &mut seen, now);
        }
        if let Some(sticky) = &admission.settings.sticky {
            let tag = |backend: &Arc<Backend>| (sticky::tag(sticky, backend), Arc::clone(backend));
            known.tags = known.up.iter().map(tag).collect();
        }
        self.arranged(Arc::new(known), admission.settings, lasting)
    }

    /// The same backends, arranged anew after the state of one of them changed.
    #[must_use]
    pub(crate) fn again(&self, settings: &ServiceSettings, lasting: &Lasting) -> Self {
        self.arranged(Arc::clone(&self.known), settings, lasting)
    }

    /// Puts those that take requests into tiers, by what operators and discovery say.
    fn arranged(&self, known: Arc<Known>, settings: &ServiceSettings, lasting: &Lasting) -> Self {
        let mut open: Vec<(Rank, Arc<Backend>)> = Vec::new();
        let mut good = 0;
        for (backend, (placement, weight)) in known.up.iter().zip(&known.placements) {
            let orders = lasting
                .orders
                .get(&backend.address)
                .copied()
                .unwrap_or_default();
            backend.mark(DRAINED, orders.drained);
            backend.set_weight(orders.weight.unwrap_or(*weight));
            if !backend.is(DRAINED) {
                good += usize::from(!backend.is(UNHEALTHY | EJECTED));
                open.push((Rank::of(placement, lasting), Arc::clone(backend)));
            }
        }
        let panic = settings
            .panic_below
            .is_some_and(|below| (good as f64) < below.value() * open.len() as f64);
        open.retain(|(_, backend)| panic || !backend.is(UNHEALTHY | EJECTED));
        open.sort_by_key(|(rank, backend)| (*rank, backend.id));
        let tiers = open
            .chunk_by(|(left, _), (right, _)| left == right)
            .map(|tier| {
                let backends = tier.iter().map(|(_, backend)| Arc::clone(backend));
                Tier::new(backends.collect(), panic)
            })
            .collect();
        let ring = (settings.balance == Balance::ConsistentHash).then(|| {
            let of: Vec<_> = known.up.iter().map(|b| (b.address, b.weight())).collect();
            let same = self.ring.as_ref().filter(|ring| ring.is_of(&of));
            same.map_or_else(|| Arc::new(Ring::new(of)), Arc::clone)
        });
        Self { known, tiers, ring }
    }

    /// All instances, for operators.
    #[must_use]
    pub(crate) fn members(&self) -> &[Member] {
        &self.known.members
    }

    /// Those that discovery says are up, whatever we think of them.
    #[must_use]
    pub(crate) fn up(&self) -> &[Arc<Backend>] {
        &self.known.up
    }

    /// Those that get requests, the first ones asked first.
    #[must_use]
    pub(crate) fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// Where requests are hashed, to places of [`Set::up`].
    #[must_use]
    pub(crate) fn ring(&self) -> Option<&Ring> {
        self.ring.as_deref()
    }

    /// The backend whose sticky cookie has this value.
    #[must_use]
    pub(crate) fn stuck(&self, value: &str) -> Option<&Arc<Backend>> {
        self.known.tags.get(value)
    }

    /// True when the source can't be asked, or knows nothing yet.
    #[must_use]
    pub(crate) fn unsure(&self) -> bool {
        self.known.unsure
    }

    /// Values of `key` that more than one live backend has.
    #[must_use]
    pub(crate) fn duplicates(&self, key: &str) -> Vec<&str> {
        self.known
            .holders
            .iter()
            .filter(|((known, _), holders)| known == key && well(holders).count() > 1)
            .map(|((_, value), _)| value.as_str())
            .collect()
    }

    /// The one backend whose metadata has `value` under `key`.
    #[must_use]
    pub(crate) fn holder(&self, key: &str, value: &str, now: Instant) -> Holder<'_> {
        let wanted = (key.to_owned(), value.to_owned());
        let holders = self.known.holders.get(&wanted);
        let mut well = well(holders.map_or(&[], Vec::as_slice));
        match (well.next(), well.next()) {
            (Some(single), None) => Holder::One(single),
            (Some(_), Some(_)) => Holder::Several,
            // Up, and its probes fail.
            (None, _) if holders.is_some() => Holder::Away,
            (None, _) => {
                let seen = self.known.remembered.get(&wanted);
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

fn well(backends: &[Arc<Backend>]) -> impl Iterator<Item = &Arc<Backend>> {
    backends.iter().filter(|backend| !backend.is(UNHEALTHY))
}

/// Who is asked first: the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    backup: bool,
    priority: u32,
    elsewhere: bool,
}

impl Rank {
    fn of(placement: &Placement, lasting: &Lasting) -> Self {
        Self {
            backup: placement.backup,
            priority: placement.priority,
            elsewhere: lasting.zone.is_some() && placement.zone != lasting.zone,
        }
    }
}

impl Known {
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
        seen: &mut HashSet<u64>,
        now: Instant,
    ) {
        if let (State::Up, Some(backend)) = (&state, &backend) {
            if seen.insert(backend.id) {
                self.up.push(Arc::clone(backend));
                let weight = instance.weight.max(1);
                self.placements.push((instance.placement.clone(), weight));
            }
            for (key, value) in &instance.metadata {
                let holders = self
                    .holders
                    .entry((key.clone(), value.clone()))
                    .or_default();
                if holders.iter().all(|other| other.id != backend.id) {
                    holders.push(Arc::clone(backend));
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
}

/// Who has a value of a metadata key.
#[derive(Debug)]
pub(crate) enum Holder<'a> {
    /// One live backend.
    One(&'a Arc<Backend>),
    /// More than one live backend: never to be guessed between.
    Several,
    /// None now, one within the last hour, or one whose probes fail.
    Away,
    /// None.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(port: u16, id: &str, up: bool) -> Instance {
        Instance {
            host: "127.0.0.1".to_owned(),
            port,
            weight: 1,
            placement: Placement::default(),
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
            &Lasting::default(),
            start,
        );
        assert_eq!(what(&set, "143", start), "one");
        assert_eq!(what(&set, "144", start), "away");
        assert_eq!(what(&set, "145", start), "unknown");
        let twins = vec![instance(1, "143", true), instance(3, "143", true)];
        let set = set.next(
            &news(twins, false),
            admission(&settings),
            &Lasting::default(),
            later(1),
        );
        assert_eq!(what(&set, "143", later(1)), "several");
        assert_eq!(set.duplicates("serverId"), ["143"]);
        let set = set.next(
            &news(vec![], false),
            admission(&settings),
            &Lasting::default(),
            later(2),
        );
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
            &Lasting::default(),
            now,
        );
        let second = first.next(
            &news(vec![], true),
            admission(&settings),
            &Lasting::default(),
            now,
        );
        assert_eq!(second.up().len(), 1);
        assert!(second.unsure());
        assert_eq!(first.up()[0].id, second.up()[0].id, "figures are kept");
        let third = second.next(
            &news(vec![], false),
            admission(&settings),
            &Lasting::default(),
            now,
        );
        assert!(third.up().is_empty());
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
            let set = Set::default().next(
                &news(vec![candidate], false),
                rules,
                &Lasting::default(),
                Instant::now(),
            );
            let State::Refused(why) = &set.members()[0].state else {
                panic!("{host} was not refused");
            };
            assert!(why.contains(expected), "{host}: {why}");
            assert!(set.up().is_empty());
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
        let set = Set::default().next(
            &news(twice, false),
            admission(&settings),
            &Lasting::default(),
            Instant::now(),
        );
        assert_eq!(set.up().len(), 1);
        assert_eq!(what(&set, "143", Instant::now()), "one");
    }
}
