//! The gates as the hub sees them, over their admin faces: what the status page shows of them, and whom their operators
//! drained.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use munjigi_foundation::tls::UrlTrust;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hub::{GateAdmin, Wiring};
use crate::registry::without_secret;
use crate::settings::HubSettings;

/// A gate's answer is read up to this size.
const STATUS_MAX: usize = 4 << 20;
/// How often the gates are asked whom their operators drained.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Workers that get no new jobs, since an operator of a gate drained them.
pub type Drained = Arc<BTreeSet<SocketAddr>>;

/// True when `address`, as the registry has it, is among the drained.
pub(crate) fn is_drained(drained: &Drained, address: &str) -> bool {
    !drained.is_empty()
        && address
            .parse()
            .is_ok_and(|address| drained.contains(&address))
}

/// A gate's admin face.
pub(crate) struct Gate {
    pub(crate) shown: String,
    client: reqwest::Client,
    url: String,
    admin: GateAdmin,
}

/// The gates that the hub is told of. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gates {
    pub(crate) each: Arc<[Gate]>,
    /// Workers that their operators drained.
    pub(crate) drained: watch::Receiver<Drained>,
}

impl Gates {
    /// Asks the gates whom their operators drained, on `tasks`, until `shutdown`.
    pub(crate) fn start(
        settings: &HubSettings,
        wiring: &Wiring,
        (http, trust): (&reqwest::Client, &UrlTrust),
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, reqwest::Error> {
        let gates = wiring.gate_admin.iter();
        let each: Result<Arc<[Gate]>, _> =
            gates.map(|admin| Gate::new(admin, http, trust)).collect();
        let each = each?;
        let (tell, drained) = watch::channel(Drained::default());
        let service = settings.worker_service.clone();
        let asking = watch_drained(Arc::clone(&each), service, tell, shutdown.clone());
        tasks.spawn(asking);
        Ok(Self { each, drained })
    }
}

/// `GET /backends`, as far as it is of use here.
#[derive(Debug, Deserialize)]
struct Services {
    services: Vec<Service>,
}

#[derive(Debug, Deserialize)]
struct Service {
    name: String,
    backends: Vec<Backend>,
}

#[derive(Debug, Deserialize)]
struct Backend {
    address: String,
    state: String,
}

/// What to look for among the refusals of the gates, as their admin faces take it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefusalSearch {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

/// Why a gate gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error("it can't be reached: {0}")]
    Unreachable(#[from] reqwest::Error),
    #[error("it answers {0}")]
    Refused(reqwest::StatusCode),
    #[error("its answer is longer than {STATUS_MAX} bytes")]
    TooLarge,
    #[error("its answer can't be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl Gate {
    /// A client of a gate's admin face; `http` is shared by those on TCP.
    fn new(
        admin: &GateAdmin,
        http: &reqwest::Client,
        trust: &UrlTrust,
    ) -> Result<Self, reqwest::Error> {
        let (shown, client, url) = match admin {
            GateAdmin::Url { url, .. } => (without_secret(url), http.clone(), url.clone()),
            GateAdmin::Socket(path) => {
                let client = reqwest::Client::builder()
                    .unix_socket(path.as_path())
                    .timeout(Duration::from_secs(5))
                    .no_proxy()
                    .tls_backend_preconfigured(trust.clone())
                    .build()?;
                let url = "http://localhost".to_owned();
                (format!("unix:{}", path.display()), client, url)
            }
        };
        Ok(Self {
            shown,
            client,
            url,
            admin: admin.clone(),
        })
    }

    /// The gate's own status with `url` and `ok`, its connections as one figure.
    pub(crate) async fn shown(&self) -> Map<String, Value> {
        let status = self.status().await.map(|mut status| {
            let active = status.get("connections").and_then(|all| all.get("active"));
            if let Some(active) = active.cloned() {
                status.insert("connections".to_owned(), active);
            }
            status
        });
        self.told(status)
    }

    /// Whom the gate bans, with `url` and `ok`.
    pub(crate) async fn bans(&self) -> Map<String, Value> {
        self.told(self.read("/bans").await)
    }

    /// What guards the gate, and whom it turned away lately, with `url` and `ok`.
    pub(crate) async fn security(&self) -> Map<String, Value> {
        self.told(self.read("/security").await)
    }

    /// The refusals that `search` finds, with `url` and `ok`.
    pub(crate) async fn refusals(&self, search: &RefusalSearch) -> Map<String, Value> {
        let request = self.client.get(format!("{}/refusals", self.url));
        let found = self.send(request.query(search)).await;
        let found = found.and_then(|body| Ok(serde_json::from_slice(&body)?));
        self.told(found)
    }

    /// Ends the ban of `address`: whether there was one, with `url` and `ok`.
    pub(crate) async fn pardon(&self, address: &str) -> Map<String, Value> {
        let request = self
            .client
            .delete(format!("{}/bans", self.url))
            .query(&[("address", address)]);
        let pardoned = self.send(request).await;
        self.told(pardoned.and_then(|body| Ok(serde_json::from_slice(&body)?)))
    }

    /// What a gate says, or why it does not.
    fn told(&self, said: Result<Map<String, Value>, GateError>) -> Map<String, Value> {
        let ok = said.is_ok();
        let mut told = said.unwrap_or_else(|error| {
            let why = Value::String(error.to_string());
            Map::from_iter([("error".to_owned(), why)])
        });
        told.insert("url".to_owned(), Value::String(self.shown.clone()));
        told.insert("ok".to_owned(), Value::Bool(ok));
        told
    }

    pub(crate) async fn status(&self) -> Result<Map<String, Value>, GateError> {
        self.read("/status").await
    }

    /// The addresses of `service` that are drained.
    async fn drained(&self, service: &str) -> Result<BTreeSet<SocketAddr>, GateError> {
        let services: Services = self.read("/backends").await?;
        let of_service = services
            .services
            .into_iter()
            .filter(|known| known.name.eq_ignore_ascii_case(service));
        let backends = of_service.flat_map(|known| known.backends);
        let drained = backends.filter(|backend| backend.state == "drained");
        Ok(drained
            .filter_map(|backend| backend.address.parse().ok())
            .collect())
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, GateError> {
        let body = self.send(self.client.get(format!("{}{path}", self.url)));
        Ok(serde_json::from_slice(&body.await?)?)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, GateError> {
        let mut request = request;
        if let GateAdmin::Url {
            token: Some(token), ..
        } = &self.admin
        {
            request = request.bearer_auth(token.expose());
        }
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        if !response.status().is_success() {
            return Err(GateError::Refused(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > STATUS_MAX {
                return Err(GateError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Tells whom the operators of `gates` drained in `service`, until `shutdown`. Of a gate that does not answer counts what
/// it said last.
async fn watch_drained(
    gates: Arc<[Gate]>,
    service: String,
    tell: watch::Sender<Drained>,
    shutdown: CancellationToken,
) {
    let mut last = vec![BTreeSet::new(); gates.len()];
    while !gates.is_empty() {
        let answers = join_all(gates.iter().map(|gate| gate.drained(&service)));
        let Some(answers) = shutdown.run_until_cancelled(answers).await else {
            return;
        };
        for (last, answer) in last.iter_mut().zip(answers) {
            if let Ok(drained) = answer {
                *last = drained;
            }
        }
        let all: BTreeSet<SocketAddr> = last.iter().flatten().copied().collect();
        tell.send_if_modified(|before| {
            let changed = **before != all;
            if changed {
                tracing::info!(drained = ?all, "workers that get no new jobs");
                *before = Arc::new(all);
            }
            changed
        });
        if shutdown
            .run_until_cancelled(tokio::time::sleep(ASK_EVERY))
            .await
            .is_none()
        {
            return;
        }
    }
}
