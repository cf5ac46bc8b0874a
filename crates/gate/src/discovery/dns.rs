//! Backends by name: looked up again when the answer is no longer good, by its time to live. While nobody answers, or
//! the name is gone, what was found last stays; health checks say who of them lives.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use tokio_util::sync::CancellationToken;

use super::Rules;
use crate::backends::{Backends, Instance};
use crate::settings::{DnsName, DnsSettings, Placement};

/// Targets of SRV records that are looked up.
const TARGETS_MAX: usize = 256;

/// Follows the name.
pub(super) async fn follow(rules: Rules, settings: DnsSettings, stop: CancellationToken) {
    let service = &rules.service.name;
    let mut last: Option<Backends> = None;
    loop {
        let looked_up = look_up(&settings);
        let Some(found) = stop.run_until_cancelled(looked_up).await else {
            return;
        };
        let wait = match found {
            Ok((backends, good_for)) => {
                if last.as_ref() != Some(&backends) {
                    rules.apply(&backends, true);
                    last = Some(backends);
                }
                good_for.clamp(settings.refresh_min, settings.refresh_max)
            }
            Err(error) => {
                tracing::warn!(service, %error, "the name can't be looked up, what was known stays");
                settings.refresh_min.max(Duration::from_secs(1))
            }
        };
        if stop
            .run_until_cancelled(tokio::time::sleep(wait))
            .await
            .is_none()
        {
            return;
        }
    }
}

fn resolver(settings: &DnsSettings) -> Result<TokioResolver, NetError> {
    let mut builder = if settings.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = settings.servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
                way.port = server.port();
                way
            });
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    // Nothing is kept: we ask again when an answer is no longer good, and then want a new one.
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = Duration::from_secs(3);
    builder.build()
}

/// The backends, and how long that is good.
async fn look_up(settings: &DnsSettings) -> Result<(Backends, Duration), NetError> {
    // Made anew each time, so that a change of the system's name servers is seen.
    let resolver = resolver(settings)?;
    let mut instances = Vec::new();
    let mut good_for = settings.refresh_max;
    match &settings.name {
        DnsName::Addresses(name) => {
            let (addresses, ttl) = addresses(&resolver, &name.host, name.port).await?;
            good_for = good_for.min(ttl);
            instances.extend(addresses.into_iter().map(|at| instance(at, 1, 0)));
        }
        DnsName::Services(name) => {
            let records = resolver.srv_lookup(name.as_str()).await?;
            for record in records.answers().iter().take(TARGETS_MAX) {
                good_for = good_for.min(Duration::from_secs(u64::from(record.ttl)));
                let RData::SRV(target) = &record.data else {
                    continue;
                };
                let host = target.target.to_string();
                // One target that is not found takes none of the others along.
                let found = addresses(&resolver, &host, target.port).await;
                let Ok((addresses, ttl)) = found else {
                    tracing::warn!(name, host, "the target of an SRV record is not found");
                    continue;
                };
                good_for = good_for.min(ttl);
                let (weight, priority) = (u32::from(target.weight), u32::from(target.priority));
                let found = addresses
                    .into_iter()
                    .map(|at| instance(at, weight, priority));
                instances.extend(found);
            }
            if instances.is_empty() {
                return Err(NetError::from("no target of its SRV records is found"));
            }
        }
    }
    // Servers answer in turn: the order means nothing.
    instances.sort_by(|left, right| (&left.host, left.port).cmp(&(&right.host, right.port)));
    let backends = Backends {
        instances,
        unsure: false,
    };
    Ok((backends, good_for))
}

async fn addresses(
    resolver: &TokioResolver,
    host: &str,
    port: u16,
) -> Result<(Vec<SocketAddr>, Duration), NetError> {
    let found = resolver.lookup_ip(host).await?;
    let ttl = found
        .as_lookup()
        .answers()
        .iter()
        .map(|record| record.ttl)
        .min();
    let addresses = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
    Ok((addresses, Duration::from_secs(u64::from(ttl.unwrap_or(0)))))
}

fn instance(at: SocketAddr, weight: u32, priority: u32) -> Instance {
    Instance {
        host: at.ip().to_string(),
        port: at.port(),
        weight: weight.clamp(1, 1_000),
        placement: Placement {
            priority: priority.min(1_000),
            ..Placement::default()
        },
        up: true,
        metadata: std::collections::BTreeMap::new(),
    }
}
