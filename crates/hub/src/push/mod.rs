//! Events on their way to whoever watches: replay from the store, then live, without a gap and without a double.
//!
//! A follower holds a place (an offset) and nothing else. Whenever something new is stored it reads on from there; a
//! slow one is simply behind, and costs one batch of memory.

mod sockets;
mod sse;
mod ws;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use munjigi_events::{EventId, Status, UserId};
use serde_json::json;
use tokio::sync::watch;

use crate::store::jobs::{self, Job};
use crate::store::{Store, StoreError, ledger};

pub(crate) use sockets::Sockets;
pub(crate) use sse::follow as sse;
pub(crate) use ws::accept as ws;

/// Events read at once: at 256 KiB each, 4 MiB at the most.
const BATCH: u32 = 16;

/// Tells followers that there is more.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<HashMap<EventId, watch::Sender<u64>>>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashMap<EventId, watch::Sender<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed in a job: events up to `last`, or it is gone.
    pub(crate) fn tell(&self, id: &EventId, last: u64) {
        if let Some(followed) = self.lock().get(id) {
            followed.send_replace(last);
        }
    }

    fn follow(&self, id: &EventId) -> watch::Receiver<u64> {
        let mut followed = self.lock();
        followed.retain(|_, sender| sender.receiver_count() > 0);
        followed
            .entry(id.clone())
            .or_insert_with(|| watch::channel(0).0)
            .subscribe()
    }

    /// Jobs that are followed now.
    pub(crate) fn followed(&self) -> usize {
        self.lock()
            .values()
            .filter(|sender| sender.receiver_count() > 0)
            .count()
    }
}

/// Where a client says that it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct From {
    pub(crate) epoch: Option<String>,
    /// The last one that it has.
    pub(crate) offset: Option<u64>,
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// First; and again when something is missing.
    Subscribed {
        event_id: EventId,
        epoch: String,
        /// Nothing is missing between the client's place and the next event.
        recovered: bool,
        /// Of the job.
        status: Status,
    },
    Event {
        epoch: String,
        offset: u64,
        /// The event, as JSON.
        json: String,
    },
}

impl Pushed {
    /// As a message of the WebSocket.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Subscribed {
                event_id,
                epoch,
                recovered,
                status,
            } => json!({
                "type": "subscribed",
                "eventId": event_id,
                "epoch": epoch,
                "recovered": recovered,
                "status": status,
            })
            .to_string(),
            // The event is passed on as it was stored, not read and written again.
            Self::Event {
                epoch,
                offset,
                json,
            } => {
                let epoch = json!(epoch);
                format!(r#"{{"type":"event","epoch":{epoch},"offset":{offset},"data":{json}}}"#)
            }
        }
    }
}

/// Follows one job.
#[derive(Debug)]
pub(crate) struct Follower {
    store: Store,
    event_id: EventId,
    epoch: String,
    /// The last offset given out.
    at: u64,
    news: watch::Receiver<u64>,
    ready: VecDeque<Pushed>,
    ended: bool,
}

impl Follower {
    /// Follows the job `id` of `user`, from where the client is; `None` when there is no such job of theirs.
    pub(crate) async fn open(
        store: &Store,
        live: &Live,
        user: &UserId,
        id: &EventId,
        from: &From,
    ) -> Result<Option<Self>, StoreError> {
        // Before the row is read: what comes after it is told.
        let news = live.follow(id);
        let Some(job) = jobs::find(store.read(), id)
            .await?
            .filter(|job| job.user_id == *user)
        else {
            return Ok(None);
        };
        let (recovered, at) = place(&job, from);
        let subscribed = Pushed::Subscribed {
            event_id: id.clone(),
            epoch: job.epoch.clone(),
            recovered,
            status: job.status,
        };
        Ok(Some(Self {
            store: store.clone(),
            event_id: id.clone(),
            epoch: job.epoch,
            at,
            news,
            ready: VecDeque::from([subscribed]),
            ended: false,
        }))
    }

    /// What comes next; `None` after the last event of a job that has ended, or when the job is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<Pushed>, StoreError> {
        loop {
            if let Some(pushed) = self.ready.pop_front() {
                return Ok(Some(pushed));
            }
            if self.ended {
                return Ok(None);
            }
            self.news.borrow_and_update();
            // The row first: events that it counts are there when they are read after it.
            let Some(job) = jobs::find(self.store.read(), &self.event_id).await? else {
                self.ended = true;
                continue;
            };
            let events =
                ledger::events_after(self.store.read(), &self.event_id, self.at, BATCH).await?;
            if events.is_empty() {
                if job.ended_at.is_some() {
                    self.end(&job);
                } else if self.news.changed().await.is_err() {
                    self.ended = true;
                }
                continue;
            }
            for (offset, json) in events {
                if offset != self.at + 1 {
                    self.ready.push_back(self.missing(&job));
                }
                self.at = offset;
                self.ready.push_back(Pushed::Event {
                    epoch: self.epoch.clone(),
                    offset,
                    json,
                });
            }
        }
    }

    /// The events of a job that ended are given out, or have outlived their time while they were.
    fn end(&mut self, job: &Job) {
        self.ended = true;
        if self.at > 0 && self.at < job.last_offset {
            self.ready.push_back(self.missing(job));
        }
    }

    fn missing(&self, job: &Job) -> Pushed {
        Pushed::Subscribed {
            event_id: self.event_id.clone(),
            epoch: self.epoch.clone(),
            recovered: false,
            status: job.status,
        }
    }
}

/// Whether a client that is at `from` gets all that it has not, and the offset after which it is served.
fn place(job: &Job, from: &From) -> (bool, u64) {
    if job.events_gone {
        return (false, 0);
    }
    let offset = from.offset.unwrap_or(0);
    let known = from.epoch.as_ref().is_none_or(|epoch| *epoch == job.epoch);
    if known && offset <= job.last_offset {
        (true, offset)
    } else {
        (false, 0)
    }
}

#[cfg(test)]
mod tests {
    use munjigi_foundation::clock::Timestamp;

    use super::*;

    fn job(events_gone: bool) -> Job {
        Job {
            event_id: EventId::from("e"),
            user_id: UserId::from("u"),
            upload_id: String::new(),
            upload_held: false,
            name: String::new(),
            size: 0,
            status: Status::Running,
            priority: 3,
            epoch: "now".to_owned(),
            last_offset: 7,
            created_at: Timestamp::default(),
            ended_at: None,
            events_gone,
        }
    }

    #[test]
    fn a_client_is_served_from_its_place_or_told_that_it_can_not_be() {
        for (epoch, offset, gone, expected) in [
            (None, None, false, (true, 0)),
            (Some("now"), Some(0), false, (true, 0)),
            (Some("now"), Some(5), false, (true, 5)),
            (Some("now"), Some(7), false, (true, 7)),
            (Some("now"), Some(8), false, (false, 0)),
            (Some("then"), Some(5), false, (false, 0)),
            (None, Some(5), false, (true, 5)),
            (None, None, true, (false, 0)),
            (Some("now"), Some(7), true, (false, 0)),
        ] {
            let from = From {
                epoch: epoch.map(str::to_owned),
                offset,
            };
            assert_eq!(place(&job(gone), &from), expected, "{from:?}");
        }
    }

    #[test]
    fn messages_are_what_the_contract_says() {
        let event = Pushed::Event {
            epoch: "a\"b".to_owned(),
            offset: 3,
            json: r#"{"seq":7}"#.to_owned(),
        };
        let value: serde_json::Value = serde_json::from_str(&event.message()).unwrap();
        let expected = json!({"type": "event", "epoch": "a\"b", "offset": 3, "data": {"seq": 7}});
        assert_eq!(value, expected);
    }
}
