//! The registry as the hub sees it: it registers itself there, and reads who else is there.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use munjigi_foundation::settings::Secret;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::face::Readiness;
use crate::hub::Wiring;

/// The name under which hubs register.
const SERVICE: &str = "HUB";
/// A lease ends this long after its last renewal.
const LEASE: Duration = Duration::from_secs(30);
/// Five renewals may be lost; a registry that was restarted knows the hub again this soon.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How soon it is tried again when no registry answers.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// The largest answer that is read.
const ANSWER_MAX: usize = 16 << 20;

/// Why a registry gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    #[error("it answered {0}")]
    Refused(reqwest::StatusCode),
    #[error("its answer can't be read: {0}")]
    Unreadable(String),
}

impl From<reqwest::Error> for RegistryError {
    fn from(error: reqwest::Error) -> Self {
        // The url may hold a password.
        Self::Unreachable(error.without_url().to_string())
    }
}

/// One instance of an application.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) status: String,
    pub(crate) metadata: serde_json::Map<String, Value>,
    /// Milliseconds since 1970, when it is said.
    pub(crate) renewed: Option<i64>,
}

/// An application: instances of one name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Application {
    pub(crate) name: String,
    pub(crate) instances: Vec<Instance>,
}

/// Asks registries. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Registries {
    client: reqwest::Client,
    urls: Arc<[String]>,
    secret: Secret,
}

impl Registries {
    pub(crate) fn new(client: reqwest::Client, wiring: &Wiring) -> Self {
        Self {
            client,
            urls: wiring.registry_urls.clone().into(),
            secret: wiring.cluster_secret.clone(),
        }
    }

    /// Where they are.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// All applications, as the registry at `url` knows them.
    pub(crate) async fn applications(&self, url: &str) -> Result<Vec<Application>, RegistryError> {
        let response = self
            .client
            .get(format!("{url}/apps"))
            .header("accept", "application/json")
            .send()
            .await?;
        if !response.status().is_success() {
            return Err(RegistryError::Refused(response.status()));
        }
        let body = bounded(response, ANSWER_MAX).await?;
        let value: Value = serde_json::from_slice(&body)
            .map_err(|error| RegistryError::Unreadable(error.to_string()))?;
        Ok(applications(&value))
    }

    /// All applications, from the first registry that answers.
    pub(crate) async fn any_applications(&self) -> Result<Vec<Application>, RegistryError> {
        let mut last = RegistryError::Unreachable("there is none".to_owned());
        for url in self.urls() {
            match self.applications(url).await {
                Ok(applications) => return Ok(applications),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn send(
        &self,
        method: reqwest::Method,
        url: String,
        body: Option<&Value>,
    ) -> Result<reqwest::StatusCode, RegistryError> {
        let mut request = self
            .client
            .request(method, url)
            .header("munjigi-cluster", self.secret.expose());
        if let Some(body) = body {
            request = request.json(body);
        }
        Ok(request.send().await?.status())
    }
}

/// An answer of at most `limit` bytes.
pub(crate) async fn bounded(
    mut response: reqwest::Response,
    limit: usize,
) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            let long = format!("it is longer than {limit} bytes");
            return Err(RegistryError::Unreadable(long));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads leniently, as Eureka's servers write in several ways: one object instead of a list, numbers as text.
fn applications(value: &Value) -> Vec<Application> {
    let list = &value["applications"]["application"];
    items(list)
        .map(|application| Application {
            name: text(&application["name"]),
            instances: items(&application["instance"]).map(instance).collect(),
        })
        .collect()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    let (many, one) = match value {
        Value::Array(many) => (many.as_slice(), None),
        Value::Null => (&[][..], None),
        one => (&[][..], Some(one)),
    };
    many.iter().chain(one)
}

fn instance(value: &Value) -> Instance {
    let port = match &value["port"] {
        Value::Object(port) => port.get("$").map(text),
        other => Some(text(other)),
    };
    let mut metadata = value["metadata"].as_object().cloned().unwrap_or_default();
    metadata.retain(|key, _| !key.starts_with('@'));
    let renewed = &value["leaseInfo"]["lastRenewalTimestamp"];
    Instance {
        id: text(&value["instanceId"]),
        address: format!("{}:{}", text(&value["ipAddr"]), port.unwrap_or_default()),
        status: text(&value["status"]),
        metadata,
        renewed: renewed
            .as_i64()
            .or_else(|| text(renewed).parse().ok())
            .filter(|time| *time > 0),
    }
}

/// Text, also where a number was written.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// The hub's own registration, kept alive until shutdown.
#[derive(Debug)]
pub(crate) struct Registered {
    /// Tells when a registry knows this hub.
    pub(crate) ready: watch::Receiver<Readiness>,
}

/// What is registered.
struct Own {
    registries: Registries,
    id: String,
    body: Value,
}

impl Registered {
    /// Registers the hub listening at `address`, on `tasks`, until `shutdown`.
    pub(crate) fn start(
        wiring: &Wiring,
        address: SocketAddr,
        client: reqwest::Client,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let (sender, ready) = watch::channel(Readiness::default());
        let registries = Registries::new(client, wiring);
        if registries.urls().is_empty() {
            tracing::warn!("no registry is configured: workers can't be found");
        }
        let address = SocketAddr::new(reachable(address, &registries), address.port());
        let own = own(registries, address);
        let shutdown = shutdown.clone();
        tasks.spawn(async move { own.keep(&sender, shutdown).await });
        Self { ready }
    }
}

/// The address to tell others: the one listened on, or the one from which the registry is reached.
fn reachable(address: SocketAddr, registries: &Registries) -> IpAddr {
    if !address.ip().is_unspecified() {
        return address.ip();
    }
    let seen = registries.urls().iter().find_map(|url| {
        let url = reqwest::Url::parse(url).ok()?;
        let there = url.socket_addrs(|| None).ok()?.into_iter().next()?;
        // No packet is sent: the kernel chooses the address that it would send from.
        let socket = UdpSocket::bind((address.ip(), 0)).ok()?;
        socket.connect(there).ok()?;
        socket.local_addr().ok()
    });
    seen.map_or(IpAddr::from([127, 0, 0, 1]), |seen| seen.ip())
}

fn own(registries: Registries, address: SocketAddr) -> Own {
    let (host, port) = (address.ip().to_string(), address.port());
    let id = format!("{host}:hub:{port}");
    let body = json!({ "instance": {
        "instanceId": id,
        "hostName": host,
        "app": SERVICE,
        "ipAddr": host,
        "status": "UP",
        "port": { "$": port, "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" },
        "countryId": 1,
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn"
        },
        "leaseInfo": {
            "renewalIntervalInSecs": RENEW_EVERY.as_secs(),
            "durationInSecs": LEASE.as_secs()
        },
        "metadata": { "version": env!("CARGO_PKG_VERSION") },
        "vipAddress": SERVICE.to_ascii_lowercase()
    } });
    Own {
        registries,
        id,
        body,
    }
}

impl Own {
    async fn keep(&self, ready: &watch::Sender<Readiness>, shutdown: CancellationToken) {
        let mut at: Option<usize> = None;
        loop {
            let known = self.renew(&mut at).await;
            ready.send_if_modified(|ready| std::mem::replace(&mut ready.registry, known) != known);
            let wait = if known { RENEW_EVERY } else { RETRY_EVERY };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        if let Some(url) = at.and_then(|index| self.registries.urls().get(index)) {
            let cancelled = self
                .registries
                .send(reqwest::Method::DELETE, self.lease(url), None);
            if let Err(error) = cancelled.await {
                tracing::debug!(%error, "the registry was not told that the hub ends; its lease will");
            }
        }
    }

    fn lease(&self, url: &str) -> String {
        format!("{url}/apps/{SERVICE}/{}", self.id)
    }

    /// Renews the lease where it is held, else registers with the first registry that answers.
    async fn renew(&self, at: &mut Option<usize>) -> bool {
        let held = at.take();
        if let Some((index, url)) =
            held.and_then(|index| Some((index, self.registries.urls().get(index)?)))
        {
            let lease = format!("{}?status=UP", self.lease(url));
            match self
                .registries
                .send(reqwest::Method::PUT, lease, None)
                .await
            {
                Ok(status) if status.is_success() => {
                    *at = Some(index);
                    return true;
                }
                // It was restarted, and forgot.
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a registry does not answer"),
            }
        }
        for (index, url) in self.registries.urls().iter().enumerate() {
            let apps = format!("{url}/apps/{SERVICE}");
            match self
                .registries
                .send(reqwest::Method::POST, apps, Some(&self.body))
                .await
            {
                Ok(status) if status.is_success() => {
                    *at = Some(index);
                    return true;
                }
                Ok(status) => tracing::warn!(%status, "a registry refuses this hub"),
                Err(error) => tracing::debug!(%error, "a registry does not answer"),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_are_read_leniently() {
        let value = json!({ "applications": { "versions__delta": "1", "application": {
            "name": "MODEL-SERVER", "instance": [
                { "instanceId": "a", "ipAddr": "10.0.0.1", "port": { "$": "8000", "@enabled": "true" }, "status": "UP",
                  "metadata": { "@class": "x", "serverId": "143" }, "leaseInfo": { "lastRenewalTimestamp": 5 } },
                { "instanceId": "b", "ipAddr": "10.0.0.2", "port": 9, "status": "DOWN" }
            ] } } });
        let read = applications(&value);
        assert_eq!(read.len(), 1);
        let [first, second] = read[0].instances.as_slice() else {
            panic!("{read:?}");
        };
        assert_eq!(
            (first.address.as_str(), first.renewed),
            ("10.0.0.1:8000", Some(5))
        );
        assert_eq!(first.metadata.len(), 1);
        assert_eq!(
            (second.address.as_str(), second.renewed),
            ("10.0.0.2:9", None)
        );
        assert_eq!(applications(&json!({})), []);
        assert_eq!(
            applications(&json!({ "applications": { "application": [] } })),
            []
        );
    }
}
