use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::absent::Absent;
use crate::{Applications, Client, Instance, Lease};

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
    let instances = |all: &Applications| -> Vec<Instance> {
        let all = all
            .applications
            .iter()
            .flat_map(|application| &application.instances);
        all.map(|instance| Instance {
            lease: Lease::default(),
            last_updated_timestamp: 0,
            ..instance.clone()
        })
        .collect()
    };
    instances(left) == instances(right)
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
