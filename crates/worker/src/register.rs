//! Registers the worker as an instance of MODEL-SERVER, and keeps the registry told of its free slots.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use munjigi_eureka::{Client, Instance, Registration};
use munjigi_events::ServerId;
use munjigi_foundation::settings::{HostPort, Secret};
use tokio_util::task::TaskTracker;

use crate::StartError;
use crate::core::Core;

/// The application that gates and hubs know workers by.
const APP: &str = "MODEL-SERVER";
/// A worker that dies is out of the registry within seconds.
const RENEW_SECS: u32 = 3;
const LEASE_SECS: u32 = 9;

/// Registers with `urls`, until the shutdown.
///
/// # Errors
/// When a url can't be one.
pub(crate) fn register(
    core: &Arc<Core>,
    urls: &[String],
    folder_id: &ServerId,
    bound: SocketAddr,
    tasks: &TaskTracker,
) -> Result<(), StartError> {
    let http = crate::client(&core.settings)?;
    let secrets: Vec<Secret> = urls.iter().map(|url| Secret::new(url)).collect();
    let client = Client::new(http, &secrets, Some(core.secret.clone()))?;
    let address = match &core.settings.advertise {
        Some(address) => address.clone(),
        None => HostPort::from(reachable(bound, urls)),
    };
    // The same after a restart, whatever the port: the old address is replaced, not doubled.
    let id = format!("{}:{folder_id}", APP.to_lowercase());
    let mut instance = Instance::new(APP, &id, &address.host, address.port);
    instance.lease.renewal_interval_secs = RENEW_SECS;
    instance.lease.duration_secs = LEASE_SECS;
    let models: Vec<&str> = core.models.keys().map(String::as_str).collect();
    let slots = core.settings.slots.to_string();
    for (key, value) in [
        ("serverId", core.server_id.as_str()),
        ("models", &models.join(",")),
        ("capacity", &core.free.borrow().to_string()),
        ("slots", &slots),
        // Another one after each start: what ran before is lost.
        ("run", &ulid::Ulid::generate().to_string()),
    ] {
        instance.metadata.insert(key.to_owned(), value.to_owned());
    }
    let clock = core.clock.clone();
    let registration = Registration::start(client, instance, clock, tasks, core.shutdown.clone());
    let mut free = core.free.subscribe();
    let shutdown = core.shutdown.clone();
    tasks.spawn(async move {
        while let Some(Ok(())) = shutdown.run_until_cancelled(free.changed()).await {
            let slots = *free.borrow_and_update();
            registration.change_metadata(|metadata| {
                metadata.insert("capacity".to_owned(), slots.to_string());
            });
        }
    });
    Ok(())
}

/// The address by which others reach `bound`: itself, or, where it is every address, the one that leads to the first
/// registry.
fn reachable(bound: SocketAddr, urls: &[String]) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let outward = urls.iter().find_map(|url| {
        let url = reqwest::Url::parse(url).ok()?;
        let to = url.socket_addrs(|| None).ok()?.into_iter().next()?;
        let any: IpAddr = if to.is_ipv4() {
            [0, 0, 0, 0].into()
        } else {
            [0_u16; 8].into()
        };
        // Nothing is sent: connecting a datagram socket only asks the routing table.
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    SocketAddr::new(outward.unwrap_or(bound.ip()), bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_every_address_is_not_advertised() {
        let urls = ["http://127.0.0.1:8761/eureka".to_owned()];
        let check = |bound: &str, expected: &str| {
            assert_eq!(
                reachable(bound.parse().unwrap(), &urls),
                expected.parse().unwrap()
            );
        };
        check("0.0.0.0:81", "127.0.0.1:81");
        check("10.0.0.1:81", "10.0.0.1:81");
    }
}
