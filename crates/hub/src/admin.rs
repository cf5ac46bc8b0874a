//! What an administrator sees of the rest: workers, gates, registries, alarms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::join_all;
use munjigi_foundation::clock::{Clock, Timestamp};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::hub::{GateAdmin, Wiring};
use crate::registry::{Application, Instance, Registries, RegistryError, text};
use crate::settings::HubSettings;
use crate::uploads::Uploads;

/// A gate's status is read up to this size.
const STATUS_MAX: usize = 4 << 20;
/// Workers that went away are shown for this long.
const GONE_SHOWN: Duration = Duration::from_secs(3_600);
/// Workers remembered.
const WORKERS_MAX: usize = 4_096;

/// A worker as the registry says, now or when it was there last.
#[derive(Debug, Clone)]
struct Worker {
    status: String,
    address: String,
    models: Vec<String>,
    free: u64,
    seen: Timestamp,
}

struct Gate {
    shown: String,
    client: reqwest::Client,
    url: String,
    admin: GateAdmin,
}

/// Reads the surroundings. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admin(Arc<Inner>);

struct Inner {
    registries: Registries,
    worker_service: String,
    gates: Vec<Gate>,
    uploads: Uploads,
    clock: Clock,
    workers: Mutex<BTreeMap<String, Worker>>,
}

impl Admin {
    pub(crate) fn new(
        settings: &HubSettings,
        wiring: &Wiring,
        client: reqwest::Client,
        uploads: Uploads,
    ) -> Result<Self, reqwest::Error> {
        let gates = wiring
            .gate_admin
            .iter()
            .map(|admin| gate(admin, &client))
            .collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Inner {
            registries: Registries::new(client, wiring),
            worker_service: settings.worker_service.clone(),
            gates,
            uploads,
            clock: wiring.clock.clone(),
            workers: Mutex::default(),
        })))
    }
}

fn gate(admin: &GateAdmin, client: &reqwest::Client) -> Result<Gate, reqwest::Error> {
    let (shown, client, url) = match admin {
        GateAdmin::Url { url, .. } => (without_secret(url), client.clone(), url.clone()),
        GateAdmin::Socket(path) => {
            let client = reqwest::Client::builder()
                .unix_socket(path.as_path())
                .timeout(Duration::from_secs(5))
                .no_proxy()
                .build()?;
            (
                format!("unix:{}", path.display()),
                client,
                "http://localhost".to_owned(),
            )
        }
    };
    Ok(Gate {
        shown,
        client,
        url,
        admin: admin.clone(),
    })
}

/// A url without user and password.
fn without_secret(url: &str) -> String {
    let Ok(mut parsed) = reqwest::Url::parse(url) else {
        return "(unreadable)".to_owned();
    };
    if parsed
        .set_username("")
        .and(parsed.set_password(None))
        .is_err()
    {
        return "(unreadable)".to_owned();
    }
    parsed.to_string().trim_end_matches('/').to_owned()
}

/// The paths of an administrator, users and clean-ups apart.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/api/admin/workers", get(workers))
        .route("/api/admin/gates", get(gates))
        .route("/api/admin/registry", get(registry))
        .route("/api/admin/alarms", get(alarms))
        .with_state(admin)
}

async fn workers(State(admin): State<Admin>) -> Response {
    let applications = admin.0.registries.any_applications().await;
    if let Ok(applications) = &applications {
        admin.remember(applications).await;
    }
    let now = admin.0.clock.now();
    let reached = applications.is_ok();
    let known = admin.0.workers.lock().await;
    let workers: Vec<_> = known
        .iter()
        .map(|(server_id, worker)| {
            json!({
                "serverId": server_id,
                "status": worker.status,
                "models": worker.models,
                "free": worker.free,
                "address": worker.address,
                "lastSeen": worker.seen,
                "reachable": reached && worker.seen == now && worker.status == "UP",
            })
        })
        .collect();
    Json(json!({ "workers": workers })).into_response()
}

impl Admin {
    /// Takes what the registry says now; workers that are gone stay for a while, with the time they were seen last.
    async fn remember(&self, applications: &[Application]) {
        let now = self.0.clock.now();
        let mut workers = self.0.workers.lock().await;
        workers.retain(|_, worker| now.since(worker.seen) < GONE_SHOWN);
        for instance in of_service(applications, &self.0.worker_service) {
            let Some(server_id) = instance.metadata.get("serverId").map(text) else {
                continue;
            };
            if workers.len() >= WORKERS_MAX && !workers.contains_key(&server_id) {
                continue;
            }
            workers.insert(server_id, worker(instance, now));
        }
    }
}

fn of_service<'a>(
    applications: &'a [Application],
    service: &'a str,
) -> impl Iterator<Item = &'a Instance> {
    applications
        .iter()
        .filter(move |application| application.name.eq_ignore_ascii_case(service))
        .flat_map(|application| &application.instances)
}

fn worker(instance: &Instance, now: Timestamp) -> Worker {
    let models = instance
        .metadata
        .get("models")
        .map(text)
        .unwrap_or_default();
    let free = instance.metadata.get("capacity").map(text);
    Worker {
        status: instance.status.clone(),
        address: instance.address.clone(),
        models: models
            .split(',')
            .map(str::trim)
            .filter(|model| !model.is_empty())
            .map(str::to_owned)
            .collect(),
        free: free.and_then(|free| free.parse().ok()).unwrap_or(0),
        seen: now,
    }
}

async fn gates(State(admin): State<Admin>) -> Response {
    let gates = join_all(admin.0.gates.iter().map(Gate::shown)).await;
    Json(json!({ "gates": gates })).into_response()
}

impl Gate {
    /// The gate's own status under `url` and `ok`.
    async fn shown(&self) -> Value {
        let mut shown = match self.status().await {
            Ok(status) => status,
            Err(error) => Map::from_iter([("error".to_owned(), Value::String(error.to_string()))]),
        };
        let ok = !shown.contains_key("error");
        shown.insert("url".to_owned(), Value::String(self.shown.clone()));
        shown.insert("ok".to_owned(), Value::Bool(ok));
        Value::Object(shown)
    }

    async fn status(&self) -> Result<Map<String, Value>, RegistryError> {
        let mut request = self.client.get(format!("{}/status", self.url));
        if let GateAdmin::Url {
            token: Some(token), ..
        } = &self.admin
        {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await?;
        if !response.status().is_success() {
            return Err(RegistryError::Refused(response.status()));
        }
        let body = crate::registry::bounded(response, STATUS_MAX).await?;
        serde_json::from_slice(&body).map_err(|error| RegistryError::Unreadable(error.to_string()))
    }
}

async fn registry(State(admin): State<Admin>) -> Response {
    let registries = &admin.0.registries;
    let shown = registries.urls().iter().map(|url| async move {
        match registries.applications(url).await {
            Ok(applications) => json!({
                "url": without_secret(url),
                "ok": true,
                "applications": applications.iter().map(application).collect::<Vec<_>>(),
            }),
            Err(error) => json!({
                "url": without_secret(url),
                "ok": false,
                "error": error.to_string(),
                "applications": [],
            }),
        }
    });
    Json(json!({ "registries": join_all(shown).await })).into_response()
}

fn application(application: &Application) -> Value {
    let instances: Vec<_> = application
        .instances
        .iter()
        .map(|instance| {
            json!({
                "instanceId": instance.id,
                "address": instance.address,
                "status": instance.status,
                "metadata": instance.metadata,
                "lastRenewal": instance.renewed.map(Timestamp::from_millis),
            })
        })
        .collect();
    json!({ "name": application.name, "instances": instances })
}

async fn alarms(State(admin): State<Admin>) -> Response {
    let applications = admin.0.registries.any_applications().await;
    let disk = admin.0.uploads.disk_free().await.ok();
    let least = admin.0.uploads.limits().disk_free.bytes();
    let mut alarms = match &applications {
        Ok(applications) => worker_alarms(applications, &admin.0.worker_service),
        Err(error) => vec![alarm(
            "registry_down",
            format!("no registry answers: {error}"),
        )],
    };
    if let Some(free) = disk.filter(|free| *free < least) {
        alarms.push(alarm(
            "disk_low",
            format!("the disk of the uploads has {free} bytes free, {least} must stay free"),
        ));
    }
    for gate in join_all(admin.0.gates.iter().map(Gate::shown)).await {
        if gate["ok"] == false {
            alarms.push(alarm(
                "gate_down",
                format!(
                    "the gate {} does not answer: {}",
                    text(&gate["url"]),
                    text(&gate["error"])
                ),
            ));
        }
    }
    Json(json!({ "alarms": alarms })).into_response()
}

fn alarm(code: &str, message: String) -> Value {
    json!({ "code": code, "message": message })
}

/// No worker at all, or two under one name.
fn worker_alarms(applications: &[Application], service: &str) -> Vec<Value> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for instance in of_service(applications, service) {
        if instance.status == "UP" {
            let id = instance
                .metadata
                .get("serverId")
                .map(text)
                .unwrap_or_default();
            *count.entry(id).or_default() += 1;
        }
    }
    let mut alarms: Vec<_> = count
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(id, count)| {
            alarm(
                "duplicate_server_id",
                format!("{count} workers call themselves {id}"),
            )
        })
        .collect();
    if count.is_empty() {
        alarms.push(alarm(
            "no_worker",
            format!("no worker is registered as {service}"),
        ));
    }
    alarms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, server_id: &str, status: &str) -> Instance {
        Instance {
            id: id.to_owned(),
            address: "127.0.0.1:1".to_owned(),
            status: status.to_owned(),
            metadata: Map::from_iter([("serverId".to_owned(), json!(server_id))]),
            renewed: None,
        }
    }

    #[test]
    fn alarms_name_their_cause() {
        let application = |instances| {
            vec![Application {
                name: "MODEL-SERVER".to_owned(),
                instances,
            }]
        };
        let codes = |applications: &[Application]| -> Vec<String> {
            worker_alarms(applications, "MODEL-SERVER")
                .iter()
                .map(|alarm| text(&alarm["code"]))
                .collect()
        };
        assert_eq!(codes(&[]), ["no_worker"]);
        assert_eq!(
            codes(&application(vec![instance("a", "1", "DOWN")])),
            ["no_worker"]
        );
        assert_eq!(codes(&application(vec![instance("a", "1", "UP")])), [""; 0]);
        let twice = application(vec![instance("a", "1", "UP"), instance("b", "1", "UP")]);
        assert_eq!(codes(&twice), ["duplicate_server_id"]);
    }

    #[test]
    fn a_shown_url_has_no_password() {
        assert_eq!(
            without_secret("http://u:secret@10.0.0.2:8761/eureka"),
            "http://10.0.0.2:8761/eureka"
        );
        assert_eq!(without_secret("::"), "(unreadable)");
    }
}
