//! What is seen of the rest: the models that workers offer, for everyone; workers, gates, registries and alarms, for an
//! administrator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::join_all;
use munjigi_eureka::{Application, Instance, InstanceStatus, Known};
use munjigi_foundation::clock::{Clock, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::gates::{Drained, Gate, Gates, RefusalSearch, is_drained};
use crate::registry::{Registries, Registry, address};
use crate::store::{Store, jobs as rows};
use crate::uploads::Uploads;

/// Workers that went away are shown for this long.
const GONE_SHOWN: Duration = Duration::from_secs(3_600);
/// Workers remembered.
const WORKERS_MAX: usize = 4_096;

/// A worker as the registry says, now or when it was there last.
#[derive(Debug, Clone)]
struct Worker {
    status: InstanceStatus,
    address: String,
    models: Vec<String>,
    free: u64,
    seen: Timestamp,
    here: bool,
}

/// What the status page is made from.
pub(crate) struct Sources {
    pub(crate) registries: Registries,
    pub(crate) worker_service: String,
    pub(crate) gates: Gates,
    pub(crate) uploads: Uploads,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
}

/// Reads the surroundings. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admin(Arc<Inner>);

struct Inner {
    sources: Sources,
    workers: Mutex<BTreeMap<String, Worker>>,
}

impl Admin {
    pub(crate) fn new(sources: Sources) -> Self {
        Self(Arc::new(Inner {
            sources,
            workers: Mutex::default(),
        }))
    }

    fn remember(&self, seen: &Known) {
        let sources = &self.0.sources;
        let mut workers = self
            .0
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        remember(
            &mut workers,
            seen,
            &sources.worker_service,
            sources.clock.now(),
        );
    }

    /// Remembers workers as they come and go, until `shutdown`.
    pub(crate) async fn watch_workers(self, shutdown: CancellationToken) {
        let mut known = self.0.sources.registries.known.clone();
        loop {
            let seen = known.borrow_and_update().clone();
            self.remember(&seen);
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = known.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

/// Takes what the registry says now; workers that are gone stay for a while, with the time they were seen last. A
/// registry that can't be asked says nothing about anyone.
fn remember(workers: &mut BTreeMap<String, Worker>, known: &Known, service: &str, now: Timestamp) {
    if !known.reachable {
        return;
    }
    workers.retain(|_, worker| now.since(worker.seen) < GONE_SHOWN);
    for worker in workers.values_mut() {
        worker.here = false;
    }
    for instance in known.applications.instances(service) {
        let Some(server_id) = instance.metadata.get("serverId") else {
            continue;
        };
        if workers.len() < WORKERS_MAX || workers.contains_key(server_id) {
            workers.insert(server_id.clone(), worker(instance, now));
        }
    }
}

fn worker(instance: &Instance, now: Timestamp) -> Worker {
    let of = |key: &str| instance.metadata.get(key).map_or("", String::as_str);
    Worker {
        status: instance.status,
        address: address(instance),
        models: of("models")
            .split(',')
            .map(str::trim)
            .filter(|model| !model.is_empty())
            .map(str::to_owned)
            .collect(),
        free: of("capacity").trim().parse().unwrap_or(0),
        seen: renewed(instance).unwrap_or(now),
        here: true,
    }
}

fn renewed(instance: &Instance) -> Option<Timestamp> {
    let millis = instance.lease.last_renewal_timestamp;
    (millis > 0).then(|| Timestamp::from_millis(millis))
}

/// The paths of an administrator, users and clean-ups apart, and the models.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/api/models", get(models))
        .route("/api/admin/workers", get(workers))
        .route("/api/admin/gates", get(gates))
        .route("/api/admin/bans", get(bans).delete(pardon))
        .route("/api/admin/security", get(security))
        .route("/api/admin/refusals", get(refusals))
        .route("/api/admin/registry", get(registry))
        .route("/api/admin/alarms", get(alarms))
        .with_state(admin)
}

/// The models that may be asked for now.
async fn models(State(admin): State<Admin>) -> Response {
    let models: Vec<_> = admin.0.models().into_iter().map(shown_model).collect();
    Json(json!({ "models": models })).into_response()
}

fn shown_model((name, offer): (String, Offer)) -> Value {
    json!({ "name": name, "workers": offer.workers, "free": offer.free })
}

/// What all workers together offer of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Offer {
    workers: u64,
    /// Slots that are free now.
    free: u64,
}

impl Inner {
    fn models(&self) -> BTreeMap<String, Offer> {
        let drained = self.sources.gates.drained.borrow().clone();
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        offers(&workers, &drained)
    }
}

fn offers(workers: &BTreeMap<String, Worker>, drained: &Drained) -> BTreeMap<String, Offer> {
    let mut offers: BTreeMap<String, Offer> = BTreeMap::new();
    let takes = |worker: &&Worker| {
        worker.here && worker.status == InstanceStatus::Up && !is_drained(drained, &worker.address)
    };
    for worker in workers.values().filter(takes) {
        for model in &worker.models {
            let offer = offers.entry(model.clone()).or_default();
            offer.workers += 1;
            offer.free = offer.free.saturating_add(worker.free);
        }
    }
    offers
}

async fn workers(State(admin): State<Admin>) -> Response {
    let reachable = admin.0.sources.registries.known.borrow().reachable;
    let known = admin
        .0
        .workers
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    // What the hub has given out counts, whether the worker has said so yet or not.
    let running = match rows::running(&admin.0.sources.store).await {
        Ok(running) => running,
        Err(error) => return crate::jobs::failed(error).into_response(),
    };
    let drained = admin.0.sources.gates.drained.borrow().clone();
    let workers: Vec<_> = known
        .iter()
        .map(|(server_id, worker)| {
            let running = running.get(server_id).copied().unwrap_or(0);
            json!({
                "serverId": server_id,
                "status": worker.status.as_str(),
                "drained": is_drained(&drained, &worker.address),
                "models": worker.models,
                "free": worker.free,
                "running": running,
                "capacity": worker.free.saturating_add(running),
                "address": worker.address,
                "lastSeen": worker.seen,
                "reachable": reachable && worker.here && worker.status == InstanceStatus::Up,
            })
        })
        .collect();
    Json(json!({ "workers": workers })).into_response()
}

async fn gates(State(admin): State<Admin>) -> Response {
    let gates = join_all(admin.0.sources.gates.each.iter().map(Gate::shown)).await;
    Json(json!({ "gates": gates })).into_response()
}

/// What guards each gate, and whom it turned away lately.
async fn security(State(admin): State<Admin>) -> Response {
    let gates = join_all(admin.0.sources.gates.each.iter().map(Gate::security)).await;
    Json(json!({ "gates": gates })).into_response()
}

/// Looks among the refusals of each gate.
async fn refusals(State(admin): State<Admin>, Query(search): Query<RefusalSearch>) -> Response {
    let each = admin.0.sources.gates.each.iter();
    let gates = join_all(each.map(|gate| gate.refusals(&search))).await;
    Json(json!({ "gates": gates })).into_response()
}

/// Whom each gate bans, and for what.
async fn bans(State(admin): State<Admin>) -> Response {
    let gates = join_all(admin.0.sources.gates.each.iter().map(Gate::bans)).await;
    Json(json!({ "gates": gates })).into_response()
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Pardon {
    address: String,
}

/// Ends a ban at every gate.
async fn pardon(State(admin): State<Admin>, Query(pardon): Query<Pardon>) -> Response {
    let each = admin.0.sources.gates.each.iter();
    let gates = join_all(each.map(|gate| gate.pardon(&pardon.address))).await;
    Json(json!({ "gates": gates })).into_response()
}

async fn registry(State(admin): State<Admin>) -> Response {
    let each = &admin.0.sources.registries.each;
    let registries = join_all(each.iter().map(shown_registry)).await;
    Json(json!({ "registries": registries })).into_response()
}

async fn shown_registry(registry: &Registry) -> Value {
    match registry.client.fetch().await {
        Ok(all) => json!({
            "url": registry.url,
            "ok": true,
            "applications": all.applications.iter().map(application).collect::<Vec<_>>(),
        }),
        Err(error) => json!({
            "url": registry.url,
            "ok": false,
            "error": error.to_string(),
            "applications": [],
        }),
    }
}

fn application(application: &Application) -> Value {
    let instances: Vec<_> = application
        .instances
        .iter()
        .map(|instance| {
            json!({
                "instanceId": instance.instance_id,
                "address": address(instance),
                "status": instance.status.as_str(),
                "metadata": instance.metadata,
                "lastRenewal": renewed(instance),
            })
        })
        .collect();
    json!({ "name": application.name, "instances": instances })
}

async fn alarms(State(admin): State<Admin>) -> Response {
    let sources = &admin.0.sources;
    let known = sources.registries.known.borrow().clone();
    let mut alarms = worker_alarms(&known, &sources.worker_service);
    match sources.uploads.disk().await {
        Ok(disk) if disk.free >= disk.watermark => {}
        Ok(disk) => alarms.push(alarm(
            "disk_low",
            format!(
                "the disk of the uploads has {} bytes free, {} must stay free",
                disk.free, disk.watermark
            ),
        )),
        Err(error) => alarms.push(alarm(
            "disk_failed",
            format!("the disk of the uploads can't be read: {error}"),
        )),
    }
    for gate in sources.gates.each.iter() {
        if let Err(error) = gate.status().await {
            let message = format!("the gate {} gives no status: {error}", gate.shown);
            alarms.push(alarm("gate_down", message));
        }
    }
    Json(json!({ "alarms": alarms })).into_response()
}

fn alarm(code: &str, message: String) -> Value {
    json!({ "code": code, "message": message })
}

/// No registry, no worker at all, or two under one name.
fn worker_alarms(known: &Known, service: &str) -> Vec<Value> {
    if !known.reachable {
        let why = known.error.as_deref().unwrap_or("it was not asked yet");
        let message = format!("no registry answers: {why}");
        return vec![alarm("registry_down", message)];
    }
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in known.applications.instances(service) {
        if instance.status == InstanceStatus::Up {
            let id = instance.metadata.get("serverId").map_or("", String::as_str);
            *count.entry(id).or_default() += 1;
        }
    }
    if count.is_empty() {
        let message = format!("no worker is registered as {service}");
        return vec![alarm("no_worker", message)];
    }
    count
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(id, count)| {
            let message = format!("{count} workers call themselves {id}");
            alarm("duplicate_server_id", message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use munjigi_eureka::Applications;

    use super::*;

    fn known(workers: &[(&str, InstanceStatus)]) -> Known {
        let instances = workers
            .iter()
            .enumerate()
            .map(|(index, (server_id, status))| {
                let mut one = Instance::new("MODEL-SERVER", &index.to_string(), "127.0.0.1", 1);
                one.status = *status;
                for (key, value) in [
                    ("serverId", *server_id),
                    ("models", "source"),
                    ("capacity", "3"),
                ] {
                    one.metadata.insert(key.to_owned(), value.to_owned());
                }
                one
            })
            .collect();
        let application = Application {
            name: "MODEL-SERVER".to_owned(),
            instances,
        };
        Known {
            applications: Arc::new(Applications {
                applications: vec![application],
                ..Applications::default()
            }),
            reachable: true,
            error: None,
        }
    }

    #[test]
    fn alarms_name_their_cause() {
        use InstanceStatus::{Down, Up};
        let check = |known: &Known, expected: &[&str]| {
            let alarms = worker_alarms(known, "MODEL-SERVER");
            let codes: Vec<_> = alarms
                .iter()
                .map(|alarm| alarm["code"].as_str().unwrap())
                .collect();
            assert_eq!(codes, expected);
        };
        check(&Known::default(), &["registry_down"]);
        check(&known(&[]), &["no_worker"]);
        check(&known(&[("1", Down)]), &["no_worker"]);
        check(&known(&[("1", Up), ("2", Up)]), &[]);
        check(&known(&[("1", Up), ("1", Up)]), &["duplicate_server_id"]);
        check(&known(&[("1", Up), ("1", Down)]), &[]);
    }

    #[test]
    fn workers_that_went_are_shown_for_a_while() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let mut workers = BTreeMap::new();
        let up = InstanceStatus::Up;
        remember(
            &mut workers,
            &known(&[("1", up), ("2", up)]),
            "model-server",
            at(10),
        );
        let expected = Offer {
            workers: 2,
            free: 6,
        };
        assert_eq!(offers(&workers, &Drained::default())["source"], expected);
        let drained = Drained::from(BTreeSet::from([([127, 0, 0, 1], 1).into()]));
        assert!(offers(&workers, &drained).is_empty());
        remember(&mut workers, &known(&[("2", up)]), "MODEL-SERVER", at(20));
        let expected = Offer {
            workers: 1,
            free: 3,
        };
        assert_eq!(offers(&workers, &Drained::default())["source"], expected);
        assert!(!workers["1"].here && workers["2"].here);
        remember(&mut workers, &Known::default(), "MODEL-SERVER", at(30));
        assert!(
            workers["2"].here,
            "a registry that is down says nothing of workers"
        );
        remember(&mut workers, &known(&[]), "MODEL-SERVER", at(3_615));
        assert_eq!(workers.keys().collect::<Vec<_>>(), ["2"]);
    }
}
