//! Which workers there are, as the registry says.

use std::collections::BTreeSet;
use std::sync::Arc;

use munjigi_eureka::{Instance, InstanceStatus, Known};
use munjigi_events::ServerId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::placement::Worker;
use crate::gates::{Drained, is_drained};
use crate::registry::address;

/// Workers remembered.
const WORKERS_MAX: usize = 4_096;

/// The workers known now; what the registry said last while it does not answer.
pub type Workers = Arc<Vec<Worker>>;

/// Tells of the instances of `service` until `shutdown`; while the registry does not answer, they stay.
pub(crate) async fn watch(
    mut registry: watch::Receiver<Known>,
    mut drained: watch::Receiver<Drained>,
    service: String,
    tell: watch::Sender<Workers>,
    shutdown: CancellationToken,
) {
    loop {
        let applications = registry.borrow_and_update().applications.clone();
        let out = drained.borrow_and_update().clone();
        let workers = workers(applications.instances(&service), &out);
        tell.send_if_modified(|before| {
            let changed = **before != workers;
            if changed {
                *before = Arc::new(workers);
            }
            changed
        });
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = registry.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            // Without gates to ask nobody tells.
            Ok(()) = drained.changed() => {}
        }
    }
}

fn workers(instances: &[Instance], drained: &Drained) -> Vec<Worker> {
    let mut seen = BTreeSet::new();
    let mut workers: Vec<Worker> = instances
        .iter()
        .filter_map(|instance| worker(instance, drained))
        .collect();
    // Two of one id: neither is known to be the one that a request would reach.
    workers.sort_by(|a, b| a.server_id.cmp(&b.server_id));
    let twice: BTreeSet<ServerId> = workers
        .iter()
        .filter(|worker| !seen.insert(worker.server_id.clone()))
        .map(|worker| worker.server_id.clone())
        .collect();
    workers.retain(|worker| !twice.contains(&worker.server_id));
    workers.truncate(WORKERS_MAX);
    workers
}

fn worker(instance: &Instance, drained: &Drained) -> Option<Worker> {
    let text = |key: &str| instance.metadata.get(key).map(String::as_str);
    let status = match instance.overridden_status {
        InstanceStatus::Unknown => instance.status,
        overridden => overridden,
    };
    let drained = is_drained(drained, &address(instance));
    Some(Worker {
        server_id: ServerId::from(text("serverId").filter(|id| !id.is_empty())?),
        models: text("models")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|model| !model.is_empty())
            .map(str::to_owned)
            .collect(),
        capacity: text("capacity")
            .and_then(|free| free.trim().parse().ok())
            .unwrap_or(1),
        up: status == InstanceStatus::Up && !drained,
        drained,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, server: &str, capacity: &str) -> Instance {
        let mut instance = Instance::new("MODEL-SERVER", id, "127.0.0.1", 1);
        for (key, value) in [
            ("serverId", server),
            ("models", "source, deep"),
            ("capacity", capacity),
        ] {
            instance.metadata.insert(key.to_owned(), value.to_owned());
        }
        instance
    }

    #[test]
    fn workers_are_what_their_metadata_says() {
        let mut down = instance("c", "3", "4");
        down.overridden_status = InstanceStatus::OutOfService;
        let mut out = instance("g", "7", "1");
        out.ip_addr = "10.0.0.7".to_owned();
        let drained = Drained::from(BTreeSet::from(["10.0.0.7:1".parse().unwrap()]));
        let found = workers(
            &[
                out,
                instance("a", "1", "2"),
                instance("b", "2", "many"),
                down,
                instance("d", "4", "1"),
                instance("e", "4", "1"),
                instance("f", "", "1"),
            ],
            &drained,
        );
        let told: Vec<_> = found
            .iter()
            .map(|worker| (worker.server_id.as_str(), worker.capacity, worker.up))
            .collect();
        assert_eq!(
            told,
            [
                ("1", 2, true),
                ("2", 1, true),
                ("3", 4, false),
                ("7", 1, false)
            ]
        );
        assert!(found[3].drained && !found[2].drained);
        assert_eq!(found[0].models, ["source", "deep"]);
    }
}
