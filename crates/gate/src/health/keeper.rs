//! Keeps one service: probes its backends, ends ejections, arranges its backends anew when the
//! state of one changes. One task for each service that needs it, on the control runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use munjigi_foundation::clock::Clock;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::probe::{self, Fault};
use super::uptime::Uptimes;
use crate::backend::{Backend, UNHEALTHY};
use crate::balance::Chance;
use crate::service::Service;
use crate::settings::HealthSettings;

/// Probes at once, over all services.
pub(crate) const PROBES_MAX: usize = 256;
/// A gap longer than so many intervals was no observation: the machine slept.
const GAP_MAX: u32 = 4;

/// What all keepers share.
#[derive(Debug, Clone)]
pub(crate) struct Keeping {
    pub(crate) uptimes: Arc<Uptimes>,
    pub(crate) clock: Clock,
    pub(crate) probes: Arc<Semaphore>,
}

/// True for services that need a keeper.
pub(crate) fn is_needed(service: &Service) -> bool {
    service.settings.health.is_some() || service.settings.ejection.is_some()
}

/// Runs until `stop`.
pub(crate) async fn keep(service: Arc<Service>, keeping: Keeping, stop: CancellationToken) {
    let mut probing = Probing::default();
    loop {
        let next = service.end_ejections(Instant::now());
        service.refresh();
        if let Some(health) = &service.settings.health {
            probing.follow(&service, health, &keeping);
        }
        let over = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = service.changed.notified() => {}
            () = over => {}
        }
    }
}

/// The probes of one service: a task for each backend, by its id.
#[derive(Debug, Default)]
struct Probing {
    tasks: JoinSet<()>,
    running: HashMap<u64, AbortHandle>,
}

impl Probing {
    fn follow(&mut self, service: &Arc<Service>, settings: &HealthSettings, keeping: &Keeping) {
        while self.tasks.try_join_next().is_some() {}
        let set = service.set.load();
        let mut running = HashMap::with_capacity(set.up().len());
        for backend in set.up() {
            let known = self.running.remove(&backend.id);
            let task = known.unwrap_or_else(|| {
                let (service, backend) = (Arc::clone(service), Arc::clone(backend));
                let watched = watch(service, backend, settings.clone(), keeping.clone());
                self.tasks.spawn(watched)
            });
            running.insert(backend.id, task);
        }
        for gone in self.running.values() {
            gone.abort();
        }
        self.running = running;
    }
}

/// Probes one backend, at once and then again and again.
async fn watch(
    service: Arc<Service>,
    backend: Arc<Backend>,
    settings: HealthSettings,
    keeping: Keeping,
) {
    let seed = Chance::new().below(usize::MAX) as u64;
    let chance = Chance::seeded(seed ^ backend.id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut told_unable = false;
    let mut last: Option<Instant> = None;
    let mut first = true;
    loop {
        let Ok(permit) = keeping.probes.acquire().await else {
            return;
        };
        let started = Instant::now();
        let found = probe::run(&settings, &service, backend.address).await;
        drop(permit);
        let now = Instant::now();
        let verdict = backend.health().verdict();
        if let (Some(verdict), Some(last)) = (verdict, last) {
            let gap = now - last;
            if gap <= settings.interval * GAP_MAX + settings.timeout {
                let whose = (service.name.as_str(), backend.name.as_str());
                keeping
                    .uptimes
                    .add(whose, verdict, gap, keeping.clock.now());
            }
        }
        last = Some(now);
        match found {
            Err(Fault::Unable(why)) => {
                if !std::mem::replace(&mut told_unable, true) {
                    let (service, backend) = (&service.name, &backend.name);
                    tracing::error!(
                        service,
                        backend,
                        why,
                        "a backend can't be probed: its state stays as it is"
                    );
                }
                backend.health().unable = Some(why);
            }
            Ok(()) => note(&service, &backend, &settings, None, now - started),
            Err(Fault::Bad(why)) => note(&service, &backend, &settings, Some(why), now - started),
        }
        // The first pause is any part of the interval: so probes are spread over it.
        let part = chance.below(1_000) as f64 / 1_000.0;
        let pause = if first {
            settings.interval.mul_f64(part)
        } else {
            probe::pause(settings.interval, part).saturating_sub(now - started)
        };
        first = false;
        tokio::time::sleep(pause).await;
    }
}

fn note(
    service: &Service,
    backend: &Backend,
    settings: &HealthSettings,
    bad: Option<String>,
    took: Duration,
) {
    let now = Instant::now();
    let mut health = backend.health();
    health.unable = None;
    let why = bad.clone().unwrap_or_default();
    let changed = health.note(Outcome { bad, took }, (settings.rise, settings.fall), now);
    drop(health);
    let (name, address) = (&service.name, &backend.name);
    match changed {
        None => return,
        Some(true) => {
            backend.warm_up(now);
            backend.mark(UNHEALTHY, false);
            tracing::info!(
                service = name,
                backend = address,
                "backend is healthy again"
            );
        }
        Some(false) => {
            backend.mark(UNHEALTHY, true);
            tracing::warn!(
                service = name,
                backend = address,
                why,
                "backend is unhealthy"
            );
        }
    }
    service.changed.notify_one();
}
