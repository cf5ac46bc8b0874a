use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::absent::Absent;
use crate::{Applications, Client, Instance};

/// What is known of a registry.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// As last fetched, and whoever a registry that came back has not named yet.
    pub applications: Arc<Applications>,
    /// False until the registry was asked, and while it can't be.
    pub reachable: bool,
    /// Why it can't be asked.
    pub error: Option<String>,
}

/// Fetches the registry every `refresh` until `shutdown`, and tells whoever watches when something changed.
#[must_use]
pub fn observe(
    client: Client,
    refresh: Duration,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> watch::Receiver<Known> {
    let (tell, known) = watch::channel(Known::default());
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(refresh);
        let (mut absent, mut version) = (Absent::default(), 0);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let fetched = tokio::select! {
                fetched = client.fetch() => fetched,
                () = shutdown.cancelled() => return,
            };
            tell.send_if_modified(|known| match fetched {
                Ok(fetched) => {
                    // A registry that counts anew was restarted, be it too fast to be missed.
                    let away = !known.reachable || fetched.version < version;
                    version = fetched.version;
                    let all = absent.fill(&known.applications, fetched, away, Instant::now());
                    learn(known, all)
                }
                Err(error) => doubt(known, error.to_string()),
            });
        }
    });
    known
}

fn learn(known: &mut Known, applications: Applications) -> bool {
    let changed = !known.reachable || !same(&known.applications, &applications);
    if !known.reachable {
        tracing::info!("the registry answers");
    }
    known.reachable = true;
    known.error = None;
    if changed {
        known.applications = Arc::new(applications);
    }
    changed
}

/// True when nothing differs but when leases were renewed, which happens all the time and means nothing.
fn same(left: &Applications, right: &Applications) -> bool {
    let said = |all| instances(all).map(Instance::said);
    said(left).eq(said(right))
}

fn instances(all: &Applications) -> impl Iterator<Item = &Instance> {
    all.applications
        .iter()
        .flat_map(|application| &application.instances)
}

fn doubt(known: &mut Known, error: String) -> bool {
    let changed = known.reachable || known.error.as_ref() != Some(&error);
    if changed {
        tracing::warn!(%error, "what is known of the registry stays");
    }
    known.reachable = false;
    known.error = Some(error);
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InstanceStatus;

    #[test]
    fn a_renewal_is_no_news() {
        let one = |change: fn(&mut Instance)| {
            let mut instance = Instance::new("HUB", "hub", "10.0.0.3", 1);
            change(&mut instance);
            let mut all = Applications::default();
            all.add("HUB", instance);
            all
        };
        let mut known = Known::default();
        let mut is_news = |all| learn(&mut known, all);
        assert!(is_news(one(|_| {})));
        assert!(!is_news(one(|_| {})));
        assert!(!is_news(one(|instance| {
            instance.lease.last_renewal_timestamp = 7;
            instance.last_updated_timestamp = 7;
        })));
        assert!(is_news(one(
            |instance| instance.status = InstanceStatus::Down
        )));
        assert!(is_news(one(|instance| instance.port.number = 2)));
        assert!(is_news(Applications::default()));
    }
}
