//! How a gate learns of backends: from the registry in the same process, or from one over HTTP.

use std::net::IpAddr;
use std::sync::Arc;

use munjigi_eureka::{Instance as Registered, InstanceStatus, Known};
use munjigi_gate::settings::Placement;
use munjigi_gate::{Backends, Discovery, Instance};
use munjigi_registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The registry in the same process: a change is known at once.
#[derive(Debug)]
pub(crate) struct Embedded {
    pub(crate) registry: Registry,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// A registry over HTTP, as it was last fetched.
#[derive(Debug)]
pub(crate) struct OverHttp {
    pub(crate) known: watch::Receiver<Known>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Discovery for Embedded {
    fn watch(&self, service: &str) -> watch::Receiver<Arc<Backends>> {
        let service = service.to_owned();
        let registry = self.registry.clone();
        let look = move || Backends {
            instances: registry.instances(&service).iter().map(instance).collect(),
            unsure: false,
        };
        follow(self.registry.changes(), look, &self.tasks, &self.shutdown)
    }
}

impl Discovery for OverHttp {
    fn watch(&self, service: &str) -> watch::Receiver<Arc<Backends>> {
        let service = service.to_owned();
        let known = self.known.clone();
        let look = move || {
            let known = known.borrow();
            Backends {
                instances: known
                    .applications
                    .instances(&service)
                    .iter()
                    .map(instance)
                    .collect(),
                // A registry that came back knows nobody until everybody has renewed.
                unsure: !known.reachable || known.applications.applications.is_empty(),
            }
        };
        follow(self.known.clone(), look, &self.tasks, &self.shutdown)
    }
}

/// Looks again whenever `changes` changes.
fn follow<T: Send + Sync + 'static>(
    mut changes: watch::Receiver<T>,
    look: impl Fn() -> Backends + Send + 'static,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> watch::Receiver<Arc<Backends>> {
    changes.mark_unchanged();
    let (tell, backends) = watch::channel(Arc::new(look()));
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            changes.mark_unchanged();
            let now = look();
            tell.send_if_modified(|known| {
                let changed = **known != now;
                if changed {
                    *known = Arc::new(now);
                }
                changed
            });
        }
    });
    backends
}

fn instance(registered: &Registered) -> Instance {
    // Some clients write a name where the address belongs.
    let literal = |host: &String| host.parse::<IpAddr>().is_ok();
    let host = [&registered.ip_addr, &registered.host_name]
        .into_iter()
        .find(|host| literal(host))
        .unwrap_or(&registered.ip_addr);
    Instance {
        host: host.clone(),
        port: registered.port.number,
        weight: 1,
        placement: Placement {
            zone: registered.metadata.get("zone").cloned(),
            ..Placement::default()
        },
        up: registered.status == InstanceStatus::Up && registered.port.enabled,
        metadata: registered.metadata.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use munjigi_eureka::{Application, Applications};

    #[tokio::test]
    async fn what_a_registry_says_over_http_is_passed_on() {
        let (tell, known) = watch::channel(Known::default());
        let source = OverHttp {
            known,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        let mut backends = source.watch("MODEL-SERVER");
        assert!(backends.borrow_and_update().unsure);
        let mut registered = Registered::new("model-server", "a", "10.0.0.3", 8000);
        registered
            .metadata
            .insert("serverId".to_owned(), "143".to_owned());
        let applications = Applications {
            applications: vec![Application {
                name: "MODEL-SERVER".to_owned(),
                instances: vec![registered],
            }],
            ..Applications::default()
        };
        tell.send_replace(Known {
            applications: Arc::new(applications),
            reachable: true,
            error: None,
        });
        backends.changed().await.unwrap();
        let now = Arc::clone(&backends.borrow_and_update());
        assert!(!now.unsure && now.instances[0].up);
        assert_eq!(now.instances[0].metadata["serverId"], "143");
    }
}
