//! Keeps the backends of every service up to date: one small task for each, on the Tokio runtime
//! beside the loops.

mod dns;
pub mod file;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backends::{Admission, Backends, Discovery, Instance, Service};
use crate::health::keeper::{self, Keeping};
use crate::ip_filter::Filter;
use crate::settings::{BackendSettings, DiscoverySettings};
use crate::snapshot::Snapshot;

/// How often the names of static backends are looked up again.
const NAMES_EVERY: Duration = Duration::from_secs(30);
/// How often the uptime of backends is saved.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// The tasks that follow discovery, by service.
#[derive(Debug)]
pub(crate) struct Followers {
    registry: Mutex<Option<Arc<dyn Discovery>>>,
    keeping: Keeping,
    tasks: TaskTracker,
    stop: CancellationToken,
    running: Mutex<HashMap<String, (Arc<Service>, CancellationToken)>>,
    rules: Mutex<Option<(Arc<Filter>, CancellationToken)>>,
}

impl Followers {
    pub(crate) fn new(registry: Option<Arc<dyn Discovery>>, keeping: Keeping) -> Self {
        Self {
            registry: Mutex::new(registry),
            keeping,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            running: Mutex::new(HashMap::new()),
            rules: Mutex::default(),
        }
    }

    /// Follows the files of the IP filter of `snapshot`, and no other.
    fn follow_rules(&self, snapshot: &Snapshot) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, stop)) = rules.take() {
            stop.cancel();
        }
        if let Some(filter) = snapshot
            .ip_filter
            .as_ref()
            .filter(|filter| filter.has_files())
        {
            let stop = self.stop.child_token();
            self.tasks.spawn(Arc::clone(filter).follow(stop.clone()));
            *rules = Some((Arc::clone(filter), stop));
        }
    }

    /// Keeps certificates up to date with their files, until the gate ends.
    pub(crate) fn watch_files(&self, snapshot: &Arc<ArcSwap<Snapshot>>) {
        let (snapshot, stop) = (Arc::clone(snapshot), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = crate::tls::watch(snapshot) => {}
            }
        });
    }

    /// Follows the services of `snapshot`, and no other.
    pub(crate) fn follow(&self, snapshot: &Snapshot) {
        self.follow_rules(snapshot);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|name, (service, stop)| {
            let stays = snapshot
                .services
                .get(name)
                .is_some_and(|wanted| Arc::ptr_eq(wanted, service));
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (name, service) in &snapshot.services {
            if running.contains_key(name) {
                continue;
            }
            let stop = self.stop.child_token();
            running.insert(name.clone(), (Arc::clone(service), stop.clone()));
            self.start(service, snapshot, stop.clone());
            if keeper::is_needed(service) {
                let kept = keeper::keep(Arc::clone(service), self.keeping.clone(), stop);
                self.tasks.spawn(kept);
            }
        }
    }

    fn start(&self, service: &Arc<Service>, snapshot: &Snapshot, stop: CancellationToken) {
        let rules = Rules {
            service: Arc::clone(service),
            own: snapshot.own.clone(),
            backends_max: snapshot.settings.limits.backends_max,
        };
        let registry = self
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match (&service.settings.discovery, registry) {
            (DiscoverySettings::Static(backends), _) => {
                let (literal, named): (Vec<_>, Vec<_>) = backends
                    .iter()
                    .cloned()
                    .partition(|backend| backend.address.socket_addr().is_some());
                rules.apply(&static_backends(&literal, &[]), false);
                if !named.is_empty() {
                    self.tasks.spawn(follow_names(rules, literal, named, stop));
                }
            }
            (DiscoverySettings::Registry, Some(registry)) => {
                let receiver = registry.watch(&service.name);
                // What is known already counts from the first request on.
                let known = Arc::clone(&receiver.borrow());
                rules.apply(&known, true);
                self.tasks.spawn(follow_registry(rules, receiver, stop));
            }
            (DiscoverySettings::Dns(settings), _) => {
                let followed = dns::follow(rules, settings.clone(), stop);
                self.tasks.spawn(followed);
            }
            (DiscoverySettings::File(file), _) => {
                self.tasks.spawn(file::follow(rules, file.clone(), stop));
            }
            (DiscoverySettings::Registry, None) => {
                tracing::warn!(service = service.name, "there is no registry to ask");
            }
        }
    }

    /// Follows nobody for now: what is known stays.
    pub(crate) fn freeze(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, (_, stop)) in running.drain() {
            stop.cancel();
        }
    }

    /// Follows the services of `snapshot` again, with the registry as it is now.
    pub(crate) fn thaw(&self, registry: Option<Arc<dyn Discovery>>, snapshot: &Snapshot) {
        *self.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        self.follow(snapshot);
    }

    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.keeping.uptimes.save(self.keeping.clock.now());
    }

    /// Leaves the file of uptimes to another process, once it is written.
    pub(crate) fn let_go(&self) {
        self.keeping.uptimes.let_go(self.keeping.clock.now());
    }

    /// Writes it again.
    pub(crate) fn keep_again(&self) {
        self.keeping.uptimes.keep_again();
    }

    /// Saves the uptime of backends now and then.
    pub(crate) fn keep_uptimes(&self) {
        let (keeping, stop) = (self.keeping.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            while stop
                .run_until_cancelled(tokio::time::sleep(SAVE_EVERY))
                .await
                .is_some()
            {
                let keeping = keeping.clone();
                let save = move || keeping.uptimes.save(keeping.clock.now());
                if tokio::task::spawn_blocking(save).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.stop.cancel();
        self.keeping.uptimes.save(self.keeping.clock.now());
    }
}

/// Gives a service of a snapshot that nobody follows its static backends.
pub(crate) fn apply_static(
    service: &Arc<Service>,
    backends: &[BackendSettings],
    snapshot: &Snapshot,
) {
    let rules = Rules {
        service: Arc::clone(service),
        own: snapshot.own.clone(),
        backends_max: snapshot.settings.limits.backends_max,
    };
    rules.apply(&static_backends(backends, &[]), false);
}

/// How news about one service become its backends.
struct Rules {
    service: Arc<Service>,
    own: Vec<SocketAddr>,
    backends_max: usize,
}

impl Rules {
    fn apply(&self, news: &Backends, discovered: bool) {
        let service = &self.service;
        let admission = Admission {
            settings: &service.settings,
            own: &self.own,
            backends_max: self.backends_max,
            discovered,
        };
        let (before, next) = service.renew(news, admission, Instant::now());
        for member in next.members() {
            if let crate::backends::State::Refused(why) = &member.state
                && before.members().iter().all(|old| old.state != member.state)
            {
                let (host, port) = (&member.instance.host, member.instance.port);
                tracing::warn!(service = service.name, host, port, why, "backend refused");
            }
        }
        for value in next.duplicates("serverId") {
            if !before.duplicates("serverId").contains(&value) {
                tracing::error!(
                    service = service.name,
                    server_id = value,
                    code = crate::reason::Reason::DuplicateServerId.code(),
                    "two live instances have the same serverId"
                );
            }
        }
    }
}

fn static_backends(
    literal: &[BackendSettings],
    found: &[(BackendSettings, SocketAddr)],
) -> Backends {
    let instance = |backend: &BackendSettings, address: SocketAddr| Instance {
        host: address.ip().to_string(),
        port: address.port(),
        weight: backend.weight,
        placement: backend.placement.clone(),
        up: true,
        metadata: std::collections::BTreeMap::new(),
    };
    let literal = literal.iter().filter_map(|backend| {
        let address = backend.address.socket_addr()?;
        Some(instance(backend, address))
    });
    let found = found
        .iter()
        .map(|(backend, address)| instance(backend, *address));
    Backends {
        instances: literal.chain(found).collect(),
        unsure: false,
    }
}

/// Static backends with names: looked up now and then, what was known stays when that fails.
async fn follow_names(
    rules: Rules,
    literal: Vec<BackendSettings>,
    named: Vec<BackendSettings>,
    stop: CancellationToken,
) {
    let mut known: HashMap<String, Vec<SocketAddr>> = HashMap::new();
    loop {
        let mut found = Vec::new();
        for backend in &named {
            let name = backend.address.to_string();
            match tokio::net::lookup_host(&name).await {
                Ok(addresses) => {
                    known.insert(name.clone(), addresses.collect());
                }
                Err(error) => {
                    tracing::warn!(%error, name, "the name of a backend can't be looked up");
                }
            }
            for address in known.get(&name).into_iter().flatten() {
                found.push((backend.clone(), *address));
            }
        }
        rules.apply(&static_backends(&literal, &found), false);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(NAMES_EVERY) => {}
        }
    }
}

async fn follow_registry(
    rules: Rules,
    mut receiver: watch::Receiver<Arc<Backends>>,
    stop: CancellationToken,
) {
    loop {
        let news = Arc::clone(&receiver.borrow_and_update());
        rules.apply(&news, true);
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = receiver.changed() => changed,
        };
        if changed.is_err() {
            tracing::warn!(
                service = rules.service.name,
                "the registry is gone; its last word stays"
            );
            return;
        }
    }
}
