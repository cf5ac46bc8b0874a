//! `GET /api/ws`: events of any number of jobs on one WebSocket, and the way to stop a job.

use std::collections::HashMap;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use munjigi_events::EventId;
use munjigi_foundation::api::Problem;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Follower, From};
use crate::jobs::{Ended, Jobs};
use crate::user::User;

/// What a client says is short.
const MESSAGE_MAX: usize = 16 * 1024;
/// Jobs followed on one socket.
const FOLLOWED_MAX: usize = 64;
/// Messages that wait for the socket; then followers wait.
const QUEUE: usize = 8;
const PING_EVERY: Duration = Duration::from_secs(25);
/// A client that says nothing for so long, not even to pings, is gone.
const SILENT: Duration = Duration::from_secs(80);
/// A message that can't be sent for so long ends the socket: the client resumes by its offset.
const STUCK: Duration = Duration::from_secs(60);
/// How long a client may take to read that its socket ends, and to end it too.
const FAREWELL: Duration = Duration::from_secs(2);
/// Of the contract: the session or token that opened it is no more.
const SIGNED_OUT: u16 = 4401;
/// RFC 6455 §7.4.1: the server goes away.
const GOING_AWAY: u16 = 1001;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Said {
    #[serde(rename_all = "camelCase")]
    Subscribe {
        event_id: String,
        #[serde(default)]
        epoch: Option<String>,
        #[serde(default)]
        offset: Option<u64>,
    },
    #[serde(rename_all = "camelCase")]
    Unsubscribe { event_id: String },
    #[serde(rename_all = "camelCase")]
    Cancel { event_id: String },
}

/// Takes the handshake.
pub(crate) async fn accept(
    State(jobs): State<Jobs>,
    Extension(user): Extension<User>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|rejection| {
        Problem::new(
            rejection.status(),
            "websocket_needed",
            format!("this path takes WebSockets only: {rejection}"),
        )
        .hint("use `ws://` or `wss://`, or `GET /api/jobs/{eventId}/events` for server-sent events")
    })?;
    let held = jobs.sockets().take(&user.id)?;
    Ok(upgrade
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        // Tracked, so that the hub does not end before the socket heard of it.
        .on_upgrade(move |socket| {
            let tasks = jobs.tasks().clone();
            tasks.track_future(async move {
                Session::new(jobs, user).run(socket).await;
                drop(held);
            })
        }))
}

struct Session {
    jobs: Jobs,
    user: User,
    followed: JoinSet<()>,
    by_job: HashMap<EventId, tokio::task::AbortHandle>,
    queue: mpsc::Sender<String>,
    messages: Option<mpsc::Receiver<String>>,
}

/// Why a socket ends.
enum End {
    Gone,
    Close(u16, &'static str),
}

impl Session {
    fn new(jobs: Jobs, user: User) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE);
        Self {
            jobs,
            user,
            followed: JoinSet::new(),
            by_job: HashMap::new(),
            queue,
            messages: Some(messages),
        }
    }

    async fn run(mut self, mut socket: WebSocket) {
        let end = self.serve(&mut socket).await;
        self.followed.abort_all();
        if let End::Close(code, reason) = end {
            let frame = CloseFrame {
                code,
                reason: reason.into(),
            };
            let said = say_end(&mut socket, Message::Close(Some(frame)));
            if tokio::time::timeout(FAREWELL, said).await.is_err() {
                tracing::debug!("a socket did not take note of its end");
            }
        }
    }

    async fn serve(&mut self, socket: &mut WebSocket) -> End {
        let Some(mut messages) = self.messages.take() else {
            return End::Gone;
        };
        let (signed_out, shutdown) = (self.user.signed_out.clone(), self.jobs.shutdown().clone());
        // From our side.
        let over = async || {
            tokio::select! {
                biased;
                () = signed_out.cancelled() => End::Close(SIGNED_OUT, "signed out"),
                () = shutdown.cancelled() => End::Close(GOING_AWAY, "the hub is being stopped"),
            }
        };
        let mut heard = Instant::now();
        let mut ping = Instant::now() + PING_EVERY;
        loop {
            let answer = tokio::select! {
                biased;
                end = over() => return end,
                received = socket.recv() => {
                    heard = Instant::now();
                    match received {
                        Some(Ok(Message::Text(text))) => {
                            self.hear(text.as_str()).await.map(Message::text)
                        }
                        Some(Ok(Message::Binary(_))) => {
                            Some(Message::text(error("bad_message", None)))
                        }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Gone,
                    }
                }
                Some(message) = messages.recv() => Some(Message::text(message)),
                Some(_) = self.followed.join_next() => None,
                () = tokio::time::sleep_until(ping) => {
                    if heard.elapsed() > SILENT {
                        return End::Gone;
                    }
                    ping = Instant::now() + PING_EVERY;
                    Some(Message::Ping(bytes::Bytes::new()))
                }
            };
            let Some(answer) = answer else { continue };
            // A client that does not read does not keep its session, or the hub, from ending.
            tokio::select! {
                biased;
                end = over() => return end,
                sent = send(socket, answer) => if sent.is_err() {
                    return End::Gone;
                }
            }
        }
    }

    /// Does what the client says; gives what is to be answered at once.
    async fn hear(&mut self, text: &str) -> Option<String> {
        match serde_json::from_str(text) {
            Ok(Said::Subscribe {
                event_id,
                epoch,
                offset,
            }) => {
                let from = From { epoch, offset };
                self.subscribe(EventId(event_id), from).await
            }
            Ok(Said::Unsubscribe { event_id }) => {
                if let Some(follower) = self.by_job.remove(&EventId(event_id)) {
                    follower.abort();
                }
                None
            }
            Ok(Said::Cancel { event_id }) => {
                let id = EventId(event_id);
                match self.jobs.cancel(&self.user.id, &id).await {
                    Ok(Ended::Cancelling) => None,
                    Ok(Ended::Unknown) => Some(error("not_found", Some(&id))),
                    Ok(Ended::Before) => Some(error("already_ended", Some(&id))),
                    Err(why) => {
                        tracing::error!(%why, "a job can't be cancelled");
                        Some(error("internal", Some(&id)))
                    }
                }
            }
            Err(_) => Some(error("bad_message", None)),
        }
    }

    async fn subscribe(&mut self, id: EventId, from: From) -> Option<String> {
        self.by_job.retain(|_, follower| !follower.is_finished());
        // A second subscription to a job takes the place of the first.
        if let Some(before) = self.by_job.remove(&id) {
            before.abort();
        }
        if self.by_job.len() >= FOLLOWED_MAX {
            return Some(error("too_many_subscriptions", Some(&id)));
        }
        let opened = Follower::open(
            self.jobs.store(),
            self.jobs.live(),
            &self.user.id,
            &id,
            &from,
        )
        .await;
        let mut follower = match opened {
            Ok(Some(follower)) => follower,
            Ok(None) => return Some(error("not_found", Some(&id))),
            Err(why) => {
                tracing::error!(%why, "events can't be read");
                return Some(error("internal", Some(&id)));
            }
        };
        let (queue, followed) = (self.queue.clone(), id.clone());
        let task = self.followed.spawn(async move {
            loop {
                let message = match follower.next().await {
                    Ok(Some(pushed)) => pushed.message(),
                    Ok(None) => return,
                    Err(why) => {
                        tracing::error!(%why, "events can't be read");
                        // The client subscribes again from its place.
                        drop(queue.send(error("internal", Some(&followed))).await);
                        return;
                    }
                };
                if queue.send(message).await.is_err() {
                    return;
                }
            }
        });
        self.by_job.insert(id, task);
        None
    }
}

fn error(code: &str, id: Option<&EventId>) -> String {
    match id {
        Some(id) => json!({"type": "error", "code": code, "eventId": id}).to_string(),
        None => json!({"type": "error", "code": code}).to_string(),
    }
}

/// Says the end and reads on until the client has: with bytes unread a close would be a reset, which the end may not
/// survive.
async fn say_end(socket: &mut WebSocket, end: Message) {
    if send(socket, end).await.is_err() {
        return;
    }
    while let Some(Ok(_)) = socket.recv().await {}
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), ()> {
    match tokio::time::timeout(STUCK, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}
