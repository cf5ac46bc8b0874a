//! All that changes together: settings, routes, services. One `Arc` of it is taken at the start
//! of a request, and the request sees nothing else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::backends::Service;
use crate::ip_filter::Filter;
use crate::layer4::Line;
use crate::rate::Limiter;
use crate::routes::Routes;
use crate::settings::{
    Action, GateSettings, PathPattern, ProxyMode, RouteSettings, ServiceSettings,
};
use crate::shield::Shield;
use crate::stats::Counter;
use crate::tls::Credentials;

/// A counter on its own cache line, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(Counter);

/// A route with what belongs to it at run time.
#[derive(Debug)]
pub(crate) struct Route {
    /// Its place in the file.
    pub(crate) place: usize,
    /// Where its requests go; one without backends where the route answers by itself.
    pub(crate) service: Arc<Service>,
    /// Present where it limits.
    pub(crate) limiter: Option<Arc<Limiter>>,
    requests: Arc<[Padded]>,
}

/// How many of this name there were before.
fn nth<'a>(seen: &mut HashMap<&'a str, usize>, name: &'a str) -> usize {
    let count = seen.entry(name).or_default();
    *count += 1;
    *count - 1
}

impl Route {
    pub(crate) fn count(&self, thread: usize) {
        if let Some(counter) = self.requests.get(thread) {
            counter.0.add(1);
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.iter().map(|counter| counter.0.get()).sum()
    }
}

/// Settings, routes and services of one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) settings: Arc<GateSettings>,
    pub(crate) table: Routes,
    pub(crate) routes: Vec<Route>,
    pub(crate) services: HashMap<String, Arc<Service>>,
    /// Addresses that are the gate's own: never backends.
    pub(crate) own: Vec<SocketAddr>,
    /// Who may come in; all when absent.
    pub(crate) ip_filter: Option<Arc<Filter>>,
    /// Bans scanners; nobody when absent.
    pub(crate) shield: Option<Arc<Shield>>,
    /// Layer 4 listeners, by name.
    lines: HashMap<String, Line>,
    /// Somebody keeps its services up to date: what is not known of them is not there.
    pub(crate) followed: bool,
    /// What holds for requests that no route takes.
    pub(crate) no_route: RouteSettings,
    pub(crate) credentials: Arc<Credentials>,
}

impl Snapshot {
    /// Builds a snapshot. Services whose settings stay the same are taken over from `previous`
    /// with their backends and figures.
    #[must_use]
    pub fn new(settings: GateSettings, own: Vec<SocketAddr>, previous: Option<&Self>) -> Self {
        let settings = Arc::new(settings);
        let table = Routes::new(&settings);
        let mut services: HashMap<String, Arc<Service>> = HashMap::new();
        let mut routes = Vec::new();
        let nobody = Arc::new(Service::new("", ServiceSettings::default(), None));
        let counters = previous.map(Self::counters).unwrap_or_default();
        let mut seen = HashMap::new();
        let threads = settings.threads.max(1);
        for (place, route) in settings.routes.iter().enumerate() {
            let service = match route.action {
                Action::Forward => service_of(&settings, &route.service, &mut services, previous),
                Action::Redirect(_) | Action::Respond(_) | Action::Files(_) => Arc::clone(&nobody),
            };
            routes.push(Route {
                place,
                service,
                limiter: limiter(&settings, route, previous),
                // A reload does not set figures back.
                requests: counters
                    .get(&(route.name.as_str(), nth(&mut seen, &route.name)))
                    .map_or_else(
                        || (0..threads).map(|_| Padded::default()).collect(),
                        |known| Arc::clone(known),
                    ),
            });
        }
        let ip_filter = settings.ip_filter.as_ref().map(|wanted| {
            let before = previous.and_then(|previous| previous.ip_filter.as_deref());
            Filter::new(wanted, threads, before)
        });
        let lines = settings
            .listeners
            .iter()
            .filter_map(|listener| {
                let layer4 = listener.layer4.as_ref()?;
                let route = Route {
                    place: usize::MAX,
                    service: service_of(&settings, &layer4.service, &mut services, previous),
                    limiter: None,
                    requests: (0..threads).map(|_| Padded::default()).collect(),
                };
                Some((listener.name.clone(), Line::new(listener, layer4, route)))
            })
            .collect();
        Self {
            ip_filter,
            shield: settings.shield.as_ref().map(Shield::new),
            settings,
            table,
            routes,
            services,
            own,
            lines,
            followed: true,
            no_route: RouteSettings::new("", PathPattern::Prefix(String::new()), ""),
            credentials: Arc::default(),
        }
    }

    /// With certificates that were read for these settings.
    #[must_use]
    pub(crate) fn with(mut self, credentials: Arc<Credentials>) -> Self {
        for (name, service) in &self.services {
            if let Some(way) = credentials.service(name) {
                // A service that goes on has it already.
                service.way.get_or_init(|| Arc::clone(way));
            }
        }
        self.credentials = credentials;
        self
    }

    /// The counters of all routes, by name; several of one name are told apart by their order.
    fn counters(&self) -> HashMap<(&str, usize), &Arc<[Padded]>> {
        let mut seen = HashMap::new();
        let named = self.routes.iter().filter_map(|route| {
            let name = self.route_settings(route)?.name.as_str();
            Some(((name, nth(&mut seen, name)), &route.requests))
        });
        named.collect()
    }

    pub(crate) fn route_settings(&self, route: &Route) -> Option<&RouteSettings> {
        self.table.get(route.place)
    }

    /// The layer 4 listener of this name.
    pub(crate) fn line(&self, listener: &str) -> Option<&Line> {
        if self.lines.is_empty() {
            return None;
        }
        self.lines.get(listener)
    }

    /// True when the peer's word on those before it is believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.settings
            .trusted
            .iter()
            .any(|network| network.contains(peer))
    }

    /// True when `peer` speaks for others on `listener`, whom it can name there: then they are
    /// judged, and not the peer.
    pub(crate) fn speaks_for_others(&self, listener: &str, peer: IpAddr) -> bool {
        let door = self.credentials.door(listener);
        let may_name =
            self.line(listener).is_none() || door.is_some_and(|door| door.proxy != ProxyMode::Off);
        may_name && self.trusts(peer)
    }

    /// True when whoever connects to `listener` can be told why it is refused: over TLS that would
    /// cost a handshake, and layer 4 has no words for it.
    pub(crate) fn can_tell(&self, listener: &str) -> bool {
        let door = self.credentials.door(listener);
        let is_sealed = door.is_some_and(|door| door.tls.is_some());
        !is_sealed && self.line(listener).is_none()
    }

    /// The settings that this snapshot was made of.
    #[must_use]
    pub fn settings(&self) -> &GateSettings {
        &self.settings
    }
}

/// The service by its name: the one of before when nothing of it changed, else a new one that
/// takes over what it can.
fn service_of(
    settings: &GateSettings,
    name: &str,
    services: &mut HashMap<String, Arc<Service>>,
    previous: Option<&Snapshot>,
) -> Arc<Service> {
    let make = || {
        let wanted = settings.service(name);
        let zone = settings.zone.as_deref();
        let old = previous.and_then(|previous| previous.services.get(name));
        match old {
            Some(old) if old.settings == wanted && old.is_in_zone(zone) => Arc::clone(old),
            old => {
                let service = Service::new(name, wanted, zone);
                if let Some(old) = old {
                    service.succeed(old);
                }
                Arc::new(service)
            }
        }
    };
    Arc::clone(services.entry(name.to_owned()).or_insert_with(make))
}

/// The buckets of a route's rate limit: those of before when the limit is the same, so that a
/// reload fills none.
fn limiter(
    settings: &GateSettings,
    route: &RouteSettings,
    previous: Option<&Snapshot>,
) -> Option<Arc<Limiter>> {
    let wanted = route.rate_limit.as_ref()?;
    let known = previous.and_then(|previous| {
        previous
            .routes
            .iter()
            .filter(|old| {
                previous
                    .route_settings(old)
                    .is_some_and(|old| old.name == route.name)
            })
            .filter_map(|old| old.limiter.as_ref())
            .find(|limiter| limiter.settings() == wanted)
    });
    let keys = settings.limits.rate_limit_keys;
    let made = || Arc::new(Limiter::new(wanted, keys, Instant::now()));
    Some(known.map_or_else(made, Arc::clone))
}
