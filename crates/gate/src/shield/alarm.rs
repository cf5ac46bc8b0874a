//! Alarms: each ban is posted to a webhook, one after the other, a few times each.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::State;
use super::ban::Ban;
use crate::settings::WebhookSettings;
use crate::snapshot::Snapshot;

/// Between two tries; doubled each time.
const PAUSE: Duration = Duration::from_millis(500);

/// Alarms that wait.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    waiting: Mutex<VecDeque<Ban>>,
    some: Notify,
    pub(super) sent: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Alarms {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Ban>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, ban: Ban, most: usize) {
        let mut waiting = self.lock();
        if waiting.len() >= most {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back(ban);
        drop(waiting);
        self.some.notify_one();
    }
}

/// What is posted. `text` is for chats, which show that field.
fn message(ban: &Ban) -> Value {
    let verb = if ban.dry_run {
        "would be banned"
    } else {
        "is banned"
    };
    let text = format!(
        "{} {verb} until {}: {}, first for {}",
        ban.address,
        ban.until,
        ban.reason(),
        ban.first_path
    );
    json!({
        "event": "ban",
        "text": text,
        "reason": ban.reason(),
        "ban": ban,
    })
}

/// Posts alarms until `stop`.
pub(super) async fn tell(
    state: Arc<State>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    stop: CancellationToken,
) {
    let alarms = &state.alarms;
    let mut made: Option<(WebhookSettings, reqwest::Client)> = None;
    loop {
        let next = alarms.lock().pop_front();
        let Some(ban) = next else {
            if stop
                .run_until_cancelled(alarms.some.notified())
                .await
                .is_none()
            {
                return;
            }
            continue;
        };
        let shield = snapshot.load().shield.clone();
        let Some(webhook) = shield
            .as_ref()
            .and_then(|shield| shield.settings.webhook.as_ref())
        else {
            // A reload took the webhook away.
            continue;
        };
        if made
            .as_ref()
            .is_none_or(|(settings, _)| !settings.is_same(webhook))
        {
            match client(webhook.ca_file.as_deref(), webhook.timeout) {
                Ok(client) => made = Some((webhook.clone(), client)),
                Err(why) => {
                    alarms.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(why, "the webhook can't be called");
                    continue;
                }
            }
        }
        let Some((_, client)) = &made else { continue };
        let message = message(&ban);
        let posted = post(client, webhook, &message);
        match stop.run_until_cancelled(posted).await {
            Some(Ok(())) => {
                alarms.sent.fetch_add(1, Ordering::Relaxed);
            }
            Some(Err(why)) => {
                alarms.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(why, client = %ban.address, "an alarm was not taken");
            }
            None => return,
        }
    }
}

fn client(ca_file: Option<&Path>, timeout: Duration) -> Result<reqwest::Client, String> {
    let trust = munjigi_foundation::tls::for_urls(ca_file).map_err(|error| error.to_string())?;
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(timeout)
        .tls_backend_preconfigured(trust)
        .build()
        .map_err(|error| error.to_string())
}

/// Tries until it is taken, `tries` times at the most.
async fn post(
    client: &reqwest::Client,
    webhook: &WebhookSettings,
    message: &Value,
) -> Result<(), String> {
    let mut pause = PAUSE;
    let mut left = webhook.tries;
    loop {
        let mut request = client.post(webhook.url.expose()).json(message);
        if let Some(token) = &webhook.token {
            request = request.bearer_auth(token.expose());
        }
        let why = match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => format!("it answers {}", answer.status()),
            // Without the URL: it may hold a secret.
            Err(error) => error.without_url().to_string(),
        };
        left = left.saturating_sub(1);
        if left == 0 {
            return Err(why);
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2);
    }
}
