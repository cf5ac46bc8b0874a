use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use munjigi_foundation::settings::Secret;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use crate::{Applications, CodecError, Instance, applications_from_json, instance_to_json};

/// The largest answer that is read: a registry of 100,000 instances is smaller.
const ANSWER_MAX: usize = 256 << 20;
/// A registry that takes longer than this is asked no more; the next one is.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Carries the cluster's secret, which names in `[cluster] services` need.
const CLUSTER_HEADER: &str = "munjigi-cluster";

/// A client of one or several registries that hold the same. The one that answered last is asked first.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    registries: Arc<[Registry]>,
    /// Index of the one that answered last.
    good: Arc<AtomicUsize>,
    cluster: Option<Secret>,
}

/// One registry's base URL, its password apart from it, so that no message shows it.
struct Registry {
    base: Url,
    user: Option<(String, Secret)>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.registries
                    .iter()
                    .map(|registry| registry.base.as_str()),
            )
            .finish()
    }
}

/// A URL that leads to no registry.
#[derive(Debug, thiserror::Error)]
#[error("not the URL of a registry: write http://HOST:8761/eureka or https://…")]
pub struct BadUrl;

/// Why a registry did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the registry can't be reached: {0}")]
    Unreachable(#[from] reqwest::Error),
    #[error("the registry answers {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error("the registry's answer is larger than {ANSWER_MAX} bytes")]
    TooLarge,
    #[error("the registry's answer can't be read: {0}")]
    Unreadable(#[from] CodecError),
}

/// What a registry says to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Renewed,
    /// It does not know the instance: it must register.
    Unknown,
}

impl Client {
    /// A client of the registries at `urls` (`http://user:password@host:8761/eureka`). `cluster` is shown where names
    /// are kept for holders of the secret.
    ///
    /// # Errors
    /// When one is no URL, or there is none.
    pub fn new(
        http: reqwest::Client,
        urls: &[Secret],
        cluster: Option<Secret>,
    ) -> Result<Self, BadUrl> {
        let registries = urls
            .iter()
            .map(|url| Registry::parse(url.expose()))
            .collect::<Result<Arc<[_]>, _>>()?;
        if registries.is_empty() {
            return Err(BadUrl);
        }
        Ok(Self {
            http,
            registries,
            good: Arc::default(),
            cluster,
        })
    }

    /// Registers an instance, or renews what is known of it.
    ///
    /// # Errors
    /// When no registry takes it.
    pub async fn register(&self, instance: &Instance) -> Result<(), ClientError> {
        let body = instance_to_json(instance);
        let path = ["apps", &instance.app];
        self.ask(Method::POST, &path, |request| request.json(&body))
            .await
            .map(drop)
    }

    /// Renews an instance's lease.
    ///
    /// # Errors
    /// When no registry answers.
    pub async fn renew(&self, instance: &Instance) -> Result<Renewal, ClientError> {
        let path = ["apps", &instance.app, &instance.instance_id];
        let query = [
            ("status", instance.status.to_string()),
            (
                "lastDirtyTimestamp",
                instance.last_dirty_timestamp.to_string(),
            ),
        ];
        match self
            .ask(Method::PUT, &path, |request| request.query(&query))
            .await
        {
            Ok(_) => Ok(Renewal::Renewed),
            Err(ClientError::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }) => Ok(Renewal::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Takes an instance out. One that is not known is out already.
    ///
    /// # Errors
    /// When no registry answers.
    pub async fn cancel(&self, app: &str, instance_id: &str) -> Result<(), ClientError> {
        match self
            .ask(Method::DELETE, &["apps", app, instance_id], |request| {
                request
            })
            .await
        {
            Ok(_)
            | Err(ClientError::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Everything the registry holds.
    ///
    /// # Errors
    /// When no registry answers, or the answer can't be read.
    pub async fn fetch(&self) -> Result<Applications, ClientError> {
        let mut response = self.ask(Method::GET, &["apps"], |request| request).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(ClientError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(applications_from_json(&body)?)
    }

    /// Asks one registry after the other, the one that answered last first.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let count = self.registries.len();
        let first = self.good.load(Ordering::Relaxed);
        let mut last = None;
        for index in (0..count).map(|step| (first + step) % count) {
            let Some(registry) = self.registries.get(index) else {
                continue;
            };
            let request = fill(self.request(registry, method.clone(), path));
            match request.send().await {
                Ok(response) if response.status().is_server_error() && count > 1 => {
                    last = Some(refused(response).await);
                }
                Ok(response) => {
                    self.good.store(index, Ordering::Relaxed);
                    if response.status().is_success() {
                        return Ok(response);
                    }
                    return Err(refused(response).await);
                }
                Err(error) => last = Some(ClientError::Unreachable(error.without_url())),
            }
        }
        // There is at least one registry, so that there is a last error.
        Err(last.unwrap_or(ClientError::TooLarge))
    }

    fn request(&self, registry: &Registry, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = registry.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self
            .http
            .request(method, url)
            .timeout(TIMEOUT)
            .header("accept", "application/json");
        if let Some((user, password)) = &registry.user {
            request = request.basic_auth(user, Some(password.expose()));
        }
        if let Some(secret) = &self.cluster {
            request = request.header(CLUSTER_HEADER, secret.expose());
        }
        request
    }
}

async fn refused(response: Response) -> ClientError {
    let status = response.status();
    let body: String = response
        .text()
        .await
        .unwrap_or_default()
        .chars()
        .take(300)
        .collect();
    ClientError::Refused { status, body }
}

impl Registry {
    fn parse(written: &str) -> Result<Self, BadUrl> {
        let mut base = Url::parse(written).map_err(|_| BadUrl)?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(BadUrl);
        }
        let user = (!base.username().is_empty()).then(|| {
            let decoded = |text: &str| percent_decode(text);
            let password = Secret::new(&decoded(base.password().unwrap_or_default()));
            (decoded(base.username()), password)
        });
        base.set_username("").map_err(|()| BadUrl)?;
        base.set_password(None).map_err(|()| BadUrl)?;
        Ok(Self { base, user })
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let decoded = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match decoded {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_kept_apart() {
        let registry = Registry::parse("http://me:p%40ss@127.0.0.1:8761/eureka").unwrap();
        assert_eq!(registry.base.as_str(), "http://127.0.0.1:8761/eureka");
        let (user, password) = registry.user.unwrap();
        assert_eq!((user.as_str(), password.expose()), ("me", "p@ss"));
        for bad in ["ftp://h/eureka", "nonsense", "/eureka", "http://"] {
            assert!(Registry::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let urls = [Secret::new("http://me:hunter2@h:1/eureka")];
        let client = Client::new(reqwest::Client::new(), &urls, None).unwrap();
        assert!(!format!("{client:?}").contains("hunter2"));
    }
}
