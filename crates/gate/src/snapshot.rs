//! All that changes together: settings, routes, services. One `Arc` of it is taken at the start
//! of a request, and the request sees nothing else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backends::Service;
use crate::routes::Routes;
use crate::settings::{GateSettings, RouteSettings};

/// A counter on its own cache line, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU64);

/// A route with what belongs to it at run time.
#[derive(Debug)]
pub(crate) struct Route {
    /// Its place in the file.
    pub(crate) place: usize,
    pub(crate) service: Arc<Service>,
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
            counter.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests
            .iter()
            .map(|counter| counter.0.load(Ordering::Relaxed))
            .sum()
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
        let counters = previous.map(Self::counters).unwrap_or_default();
        let mut seen = HashMap::new();
        let threads = settings.threads.max(1);
        for (place, route) in settings.routes.iter().enumerate() {
            let service = services.entry(route.service.clone()).or_insert_with(|| {
                let wanted = settings.service(&route.service);
                let zone = settings.zone.as_deref();
                let old = previous.and_then(|previous| previous.services.get(&route.service));
                match old {
                    Some(old) if old.settings == wanted && old.is_in_zone(zone) => Arc::clone(old),
                    old => {
                        let service = Service::new(&route.service, wanted, zone);
                        if let Some(old) = old {
                            service.succeed(old);
                        }
                        Arc::new(service)
                    }
                }
            });
            routes.push(Route {
                place,
                service: Arc::clone(service),
                // A reload does not set figures back.
                requests: counters
                    .get(&(route.name.as_str(), nth(&mut seen, &route.name)))
                    .map_or_else(
                        || (0..threads).map(|_| Padded::default()).collect(),
                        |known| Arc::clone(known),
                    ),
            });
        }
        Self {
            settings,
            table,
            routes,
            services,
            own,
        }
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

    /// True when the peer's word on those before it is believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.settings
            .trusted
            .iter()
            .any(|network| network.contains(peer))
    }

    /// The settings that this snapshot was made of.
    #[must_use]
    pub fn settings(&self) -> &GateSettings {
        &self.settings
    }
}
