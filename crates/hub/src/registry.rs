//! The registry as the hub sees it: it registers itself there, and knows who else is there.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use munjigi_eureka::{Client, Instance, Known, Registration, observe};
use munjigi_foundation::clock::Clock;
use munjigi_foundation::settings::Secret;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hub::{StartError, Wiring};

/// The name under which hubs register.
const SERVICE: &str = "HUB";
/// Renewals and how long a lease lasts without one, in seconds. A registry that was restarted knows the hub again
/// after one renewal.
const RENEW_SECS: u32 = 3;
const LEASE_SECS: u32 = 30;
/// How often the registry is asked who is there.
const REFRESH: Duration = Duration::from_secs(1);

/// One registry, for the status page.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Its url without user and password.
    pub(crate) url: String,
    pub(crate) client: Client,
}

/// What the hub has to do with registries. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Registries {
    pub(crate) each: Arc<[Registry]>,
    /// What the first of them that answers says, every second.
    pub(crate) known: watch::Receiver<Known>,
    /// True while a registry knows this hub.
    pub(crate) registered: watch::Receiver<bool>,
}

impl Registries {
    /// Registers the hub that listens at `address` and watches who else is there, on `tasks`, until `shutdown`.
    pub(crate) fn start(
        wiring: &Wiring,
        address: SocketAddr,
        http: &reqwest::Client,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, StartError> {
        let client = |urls: &[Secret]| {
            let secret = Some(wiring.cluster_secret.clone());
            Client::new(http.clone(), urls, secret).map_err(|_| StartError::Registry)
        };
        let each = wiring
            .registry_urls
            .iter()
            .map(|url| {
                Ok(Registry {
                    url: without_secret(url.expose()),
                    client: client(std::slice::from_ref(url))?,
                })
            })
            .collect::<Result<_, StartError>>()?;
        let all = client(&wiring.registry_urls)?;
        let instance = own(reachable(address, &wiring.registry_urls), address.port());
        let clock: Clock = wiring.clock.clone();
        let registration =
            Registration::start(all.clone(), instance, clock, tasks, shutdown.clone());
        Ok(Self {
            each,
            known: observe(all, REFRESH, tasks, shutdown.clone()),
            registered: registration.registered(),
        })
    }
}

fn own(address: IpAddr, port: u16) -> Instance {
    let host = address.to_string();
    let mut own = Instance::new(SERVICE, &format!("{host}:hub:{port}"), &host, port);
    own.lease.renewal_interval_secs = RENEW_SECS;
    own.lease.duration_secs = LEASE_SECS;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    own.metadata.insert("version".to_owned(), version);
    own
}

/// The address to tell others: the one listened on, or the one from which the registry is reached.
fn reachable(address: SocketAddr, urls: &[Secret]) -> IpAddr {
    if !address.ip().is_unspecified() {
        return address.ip();
    }
    let seen = urls.iter().find_map(|url| {
        let url = reqwest::Url::parse(url.expose()).ok()?;
        let there = url.socket_addrs(|| None).ok()?.into_iter().next()?;
        // No packet is sent: the kernel chooses the address that it would send from.
        let any: IpAddr = if there.is_ipv4() {
            [0, 0, 0, 0].into()
        } else {
            address.ip()
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(there).ok()?;
        socket.local_addr().ok()
    });
    seen.map_or(IpAddr::from([127, 0, 0, 1]), |seen| seen.ip())
}

/// Where an instance is reached, as gates write it too.
pub(crate) fn address(instance: &Instance) -> String {
    let (ip, port) = (&instance.ip_addr, instance.port.number);
    ip.parse().map_or_else(
        |_| format!("{ip}:{port}"),
        |ip| SocketAddr::new(ip, port).to_string(),
    )
}

/// A url without user and password.
pub(crate) fn without_secret(url: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_password() {
        assert_eq!(
            without_secret("http://u:secret@10.0.0.2:8761/eureka"),
            "http://10.0.0.2:8761/eureka"
        );
        assert_eq!(without_secret("::"), "(unreadable)");
    }

    #[test]
    fn others_are_told_an_address_that_leads_here() {
        let told = |listening: &str, registry: &str| {
            let urls = [Secret::new(registry)];
            reachable(listening.parse().unwrap(), &urls).to_string()
        };
        assert_eq!(told("10.1.2.3:80", "http://127.0.0.1:1/eureka"), "10.1.2.3");
        assert_eq!(told("0.0.0.0:80", "http://127.0.0.1:1/eureka"), "127.0.0.1");
    }
}
