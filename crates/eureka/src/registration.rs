use std::collections::BTreeMap;
use std::time::Duration;

use munjigi_foundation::clock::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Client, ClientError, Instance, Renewal};

/// How long taking an instance out may hold up the end of the process.
const CANCEL_WITHIN: Duration = Duration::from_secs(2);
/// Between tries while no registry takes the instance.
const RETRY: Duration = Duration::from_millis(500);

/// An instance that is kept registered: registered, renewed, registered again when the registry forgot it or the
/// instance changed, and taken out at shutdown.
#[derive(Debug, Clone)]
pub struct Registration {
    instance: watch::Sender<Instance>,
    registered: watch::Receiver<bool>,
}

impl Registration {
    /// Starts keeping `instance` registered, until `shutdown`. Its lease says how often it is renewed.
    #[must_use]
    pub fn start(
        client: Client,
        instance: Instance,
        clock: Clock,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, instances) = watch::channel(instance);
        let (tell, registered) = watch::channel(false);
        tasks.spawn(async move {
            let mut keeper = Keeper {
                client,
                clock,
                instances,
                tell,
            };
            tokio::select! {
                () = keeper.keep() => {}
                () = shutdown.cancelled() => {}
            }
            keeper.take_out().await;
        });
        Self {
            instance: sender,
            registered,
        }
    }

    /// Changes the instance's metadata; the registry is told at once. Metadata that stays the same costs nothing.
    pub fn change_metadata(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        self.instance.send_if_modified(|instance| {
            let before = instance.metadata.clone();
            change(&mut instance.metadata);
            instance.metadata != before
        });
    }

    /// True while the registry has taken the instance as it is.
    #[must_use]
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.clone()
    }
}

struct Keeper {
    client: Client,
    clock: Clock,
    instances: watch::Receiver<Instance>,
    tell: watch::Sender<bool>,
}

impl Keeper {
    async fn keep(&mut self) {
        loop {
            let mut instance = self.instances.borrow_and_update().clone();
            // A registry keeps the copy with the higher time: it must grow with each change.
            instance.last_dirty_timestamp = self.clock.now().millis();
            let interval =
                Duration::from_secs(u64::from(instance.lease.renewal_interval_secs.max(1)));
            match self.client.register(&instance).await {
                Ok(()) => {
                    self.said(true, None);
                    self.renew(&instance, interval).await;
                }
                Err(error) => {
                    self.said(false, Some(&error));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Renews until the instance changes or must register again.
    async fn renew(&mut self, instance: &Instance, interval: Duration) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                changed = self.instances.changed() => match changed {
                    Ok(()) => return,
                    // Nobody can change it any more; it stays registered as it is.
                    Err(_) => tokio::time::sleep(interval).await,
                },
            }
            match self.client.renew(instance).await {
                Ok(Renewal::Renewed) => self.said(true, None),
                Ok(Renewal::Unknown) => return,
                Err(error) => {
                    self.said(false, Some(&error));
                    return;
                }
            }
        }
    }

    fn said(&self, registered: bool, why: Option<&ClientError>) {
        let changed = self.tell.send_if_modified(|before| {
            let changed = *before != registered;
            *before = registered;
            changed
        });
        if !changed {
            return;
        }
        let instance = self.instances.borrow();
        let (app, id) = (instance.app.as_str(), instance.instance_id.as_str());
        match why {
            None => tracing::info!(app, id, "registered"),
            Some(why) => tracing::warn!(app, id, %why, "not registered; trying again"),
        }
    }

    async fn take_out(&self) {
        let (app, id) = {
            let instance = self.instances.borrow();
            (instance.app.clone(), instance.instance_id.clone())
        };
        let cancelled = tokio::time::timeout(CANCEL_WITHIN, self.client.cancel(&app, &id)).await;
        if !matches!(cancelled, Ok(Ok(()))) {
            tracing::debug!(app, id, "could not be taken out; its lease will end");
        }
    }
}
