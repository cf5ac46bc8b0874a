//! The registry as a source of backends: what [`munjigi_eureka::watch`] tells, or the registry of
//! the same process, service by service.

use std::sync::Arc;

use munjigi_eureka::{Known, Status, app_name};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backends::{Backends, Discovery, Instance};

/// Backends from a registry.
#[derive(Debug)]
pub struct RegistryBackends {
    known: watch::Receiver<Arc<Known>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl RegistryBackends {
    /// Follows `known`, with one small task for each service on `tasks`, until `stop`.
    #[must_use]
    pub fn new(
        known: watch::Receiver<Arc<Known>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { known, tasks, stop }
    }
}

impl Discovery for RegistryBackends {
    fn watch(&self, service: &str) -> watch::Receiver<Arc<Backends>> {
        let mut known = self.known.clone();
        let app = app_name(service);
        let first = backends(&known.borrow_and_update(), &app);
        let (tell, receiver) = watch::channel(Arc::new(first));
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tell.closed() => return,
                    changed = known.changed() => if changed.is_err() { return },
                }
                let next = backends(&known.borrow_and_update(), &app);
                tell.send_if_modified(|current| {
                    let news = **current != next;
                    if news {
                        *current = Arc::new(next);
                    }
                    news
                });
            }
        });
        receiver
    }
}

fn backends(known: &Known, app: &str) -> Backends {
    let instance = |instance: &Arc<munjigi_eureka::Instance>| Instance {
        host: if instance.ip.is_empty() {
            instance.host.clone()
        } else {
            instance.ip.clone()
        },
        port: instance.port.number,
        weight: 1,
        up: instance.status == Status::Up,
        metadata: instance.metadata.clone(),
    };
    Backends {
        instances: known.applications.instances(app).map(instance).collect(),
        unsure: !known.sure,
    }
}
