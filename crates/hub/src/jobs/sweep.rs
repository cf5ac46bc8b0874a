//! What has outlived its time goes.

use std::time::Duration;

use super::Jobs;
use crate::store::StoreError;
use crate::store::jobs as rows;

/// Looked at this often, or more often when events live shorter.
const EVERY: Duration = Duration::from_secs(10);
/// Jobs at once.
const BATCH: u32 = 100;
/// An `Idempotency-Key` is known for so long.
const ANSWERS_KEPT: Duration = Duration::from_secs(86_400);

impl Jobs {
    pub(super) async fn sweep(&self) {
        let every = EVERY
            .min(self.0.event_ttl / 4)
            .max(Duration::from_millis(200));
        loop {
            tokio::select! {
                () = self.0.shutdown.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            if let Err(error) = self.sweep_once().await {
                tracing::warn!(%error, "what outlived its time could not be removed");
            }
        }
    }

    async fn sweep_once(&self) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let store = &self.0.store;
        for id in rows::ended_before(store, now.minus(self.0.event_ttl), true, BATCH).await? {
            store
                .write(move |tx| Box::pin(async move { rows::drop_events(tx, &id).await }))
                .await?;
        }
        for id in rows::ended_before(store, now.minus(self.0.keep_results), false, BATCH).await? {
            self.remove(&id).await?;
        }
        for job in rows::of_removed_users(store, BATCH).await? {
            self.end_of_user(&job).await?;
        }
        let before = now.minus(ANSWERS_KEPT);
        store
            .write(move |tx| Box::pin(async move { rows::forget_answers(tx, before).await }))
            .await
    }
}
