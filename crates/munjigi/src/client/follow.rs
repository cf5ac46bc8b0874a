//! Following a job: a WebSocket that is opened anew as often as it breaks, and resumed by (epoch, offset).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use munjigi_events::{AnalysisId, Event};
use munjigi_foundation::tls::UrlTrust;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

use super::hub::{Hub, refused};
use crate::outcome::Failure;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Longest time without the hub before following ends.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);
/// A socket that says nothing for so long is taken for dead: the hub pings more often.
const SILENCE: Duration = Duration::from_secs(90);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Findings by level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Levels {
    pub(super) error: u64,
    pub(super) warning: u64,
    pub(super) note: u64,
}

/// What following a job came to.
#[derive(Debug)]
pub(super) struct Followed {
    /// The job, as the hub says it at the end.
    pub(super) job: Value,
    pub(super) levels: Levels,
}

/// What is told of a job while it is followed.
pub(super) trait Listener {
    fn event(&mut self, event: &Event, json: &Value);
    fn note(&mut self, text: &str);
}

#[derive(Default)]
struct Position {
    epoch: Option<String>,
    offset: u64,
    /// Attempt and levels of each analysis.
    analyses: BTreeMap<AnalysisId, (u32, Levels)>,
    ended: BTreeSet<AnalysisId>,
    /// Events are missing: what can be counted must be asked for.
    incomplete: bool,
}

/// Why one socket came to its end.
enum Ending {
    /// It broke: open another.
    Broken(String),
    /// The job has ended.
    Ended,
}

/// Follows `event_id` to its end.
pub(super) async fn follow(
    hub: &Hub,
    event_id: &str,
    listener: &mut dyn Listener,
) -> Result<Followed, Failure> {
    let mut position = Position::default();
    let mut lost_since: Option<tokio::time::Instant> = None;
    let mut wait = Duration::from_millis(200);
    loop {
        let before = position.offset;
        let why = match one_socket(hub, event_id, &mut position, listener).await? {
            Ending::Ended => break,
            Ending::Broken(why) => why,
        };
        if position.offset > before {
            lost_since = None;
            wait = Duration::from_millis(200);
        }
        let since = *lost_since.get_or_insert_with(tokio::time::Instant::now);
        if since.elapsed() > GIVE_UP_AFTER {
            return Err(hub.unreachable(&why));
        }
        listener.note(&format!("reconnecting: {why}"));
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
    let job = hub
        .json(Method::GET, &format!("/api/jobs/{event_id}"))
        .await?;
    let levels = if position.incomplete {
        count_findings(hub, event_id).await?
    } else {
        position
            .analyses
            .values()
            .fold(Levels::default(), |sum, (_, levels)| sum.plus(*levels))
    };
    Ok(Followed { job, levels })
}

async fn one_socket(
    hub: &Hub,
    event_id: &str,
    position: &mut Position,
    listener: &mut dyn Listener,
) -> Result<Ending, Failure> {
    let mut socket = match open(hub, event_id, position).await? {
        Ok(socket) => socket,
        Err(why) => return Ok(Ending::Broken(why)),
    };
    loop {
        let text = match tokio::time::timeout(SILENCE, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => text,
            Ok(Some(Ok(Message::Close(_))) | None) => {
                return Ok(Ending::Broken("the hub closed the socket".to_owned()));
            }
            Ok(Some(Ok(_))) => continue,
            Ok(Some(Err(error))) => return Ok(Ending::Broken(error.to_string())),
            Err(_) => return Ok(Ending::Broken("the socket is silent".to_owned())),
        };
        let Ok(message) = serde_json::from_str::<Value>(&text) else {
            return Ok(Ending::Broken(
                "the hub sent something that is no JSON".to_owned(),
            ));
        };
        if position.take(&message, listener)? && has_ended(hub, event_id, position).await? {
            drop(socket.close(None).await);
            return Ok(Ending::Ended);
        }
    }
}

async fn connect(request: Request, trust: UrlTrust) -> Result<(Socket, Response), SocketError> {
    let trust = Connector::Rustls(Arc::new(trust));
    tokio_tungstenite::connect_async_tls_with_config(request, None, false, Some(trust)).await
}

/// Opens a socket and subscribes. The inner error is one that passes.
async fn open(
    hub: &Hub,
    event_id: &str,
    position: &Position,
) -> Result<Result<Socket, String>, Failure> {
    let (url, token) = hub.socket();
    let mut request = url.into_client_request().map_err(Failure::could_not)?;
    let signed = format!("Bearer {token}")
        .parse()
        .map_err(|_| Failure::could_not("the token holds characters that no token has"))?;
    request.headers_mut().insert("authorization", signed);
    let mut socket = match connect(request, hub.trust()).await {
        Ok((socket, _)) => socket,
        // Those that this one takes the place of may not be given back yet.
        Err(SocketError::Http(response)) if response.status() == StatusCode::TOO_MANY_REQUESTS => {
            return Ok(Err("the hub has too many sockets of this user".to_owned()));
        }
        Err(SocketError::Http(response)) if response.status().is_client_error() => {
            let body = response.body().as_deref().unwrap_or_default();
            return Err(refused(response.status(), &String::from_utf8_lossy(body)));
        }
        Err(error) => return Ok(Err(error.to_string())),
    };
    let hello = match &position.epoch {
        Some(epoch) => {
            json!({"type": "subscribe", "eventId": event_id, "epoch": epoch, "offset": position.offset})
        }
        None => json!({"type": "subscribe", "eventId": event_id}),
    };
    match socket.send(Message::text(hello.to_string())).await {
        Ok(()) => Ok(Ok(socket)),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// The hub's own word on whether the job has ended, once every one of its analyses was seen to.
async fn has_ended(hub: &Hub, event_id: &str, position: &Position) -> Result<bool, Failure> {
    let job = hub
        .json(Method::GET, &format!("/api/jobs/{event_id}"))
        .await?;
    let ended = matches!(text(&job, "status"), "DONE" | "FAILED" | "CANCELLED");
    let analyses = job
        .get("analyses")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    Ok(ended && (position.incomplete || position.ended.len() >= analyses))
}

impl Position {
    /// Takes a message; true when the job may have ended.
    fn take(&mut self, message: &Value, listener: &mut dyn Listener) -> Result<bool, Failure> {
        match text(message, "type") {
            "subscribed" => {
                if message.get("recovered").and_then(Value::as_bool) == Some(false) {
                    self.incomplete = true;
                    self.epoch = None;
                    self.offset = 0;
                    listener.note("earlier events are no longer kept");
                }
                Ok(matches!(
                    text(message, "status"),
                    "DONE" | "FAILED" | "CANCELLED"
                ))
            }
            "event" => {
                self.epoch = Some(text(message, "epoch").to_owned());
                self.offset = message
                    .get("offset")
                    .and_then(Value::as_u64)
                    .unwrap_or(self.offset);
                let data = message.get("data").unwrap_or(&Value::Null);
                let Ok(event) = serde_json::from_value::<Event>(data.clone()) else {
                    return Err(Failure::could_not(
                        "the hub sent an event that this version can't read",
                    ));
                };
                self.count(&event);
                listener.event(&event, data);
                Ok(event.status.is_terminal())
            }
            "error" => Err(Failure::no(match text(message, "code") {
                "not_found" => "there is no such job".to_owned(),
                code => format!("the hub says {code}"),
            })),
            _ => Ok(false),
        }
    }

    fn count(&mut self, event: &Event) {
        let (attempt, levels) = self.analyses.entry(event.analyze_id.clone()).or_default();
        if event.attempt > *attempt {
            // What an attempt that was given up found is found again.
            *attempt = event.attempt;
            *levels = Levels::default();
        }
        if event.attempt < *attempt {
            return;
        }
        if let Some(finding) = &event.finding {
            levels.add(text(finding, "level"));
        }
        if event.status.is_terminal() {
            self.ended.insert(event.analyze_id.clone());
        }
    }
}

impl Levels {
    fn add(&mut self, level: &str) {
        match level {
            "error" => self.error += 1,
            "note" => self.note += 1,
            // SARIF's default, where nothing is written.
            _ => self.warning += 1,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            error: self.error + other.error,
            warning: self.warning + other.warning,
            note: self.note + other.note,
        }
    }
}

async fn count_findings(hub: &Hub, event_id: &str) -> Result<Levels, Failure> {
    let mut levels = Levels::default();
    let mut after = String::new();
    loop {
        let page = hub
            .json(
                Method::GET,
                &format!("/api/jobs/{event_id}/findings?limit=500{after}"),
            )
            .await?;
        for finding in page
            .get("findings")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            levels.add(text(finding, "level"));
        }
        match page.get("next") {
            Some(Value::String(next)) => after = format!("&after={next}"),
            Some(Value::Number(next)) => after = format!("&after={next}"),
            _ => return Ok(levels),
        }
    }
}

/// A list of a JSON object, empty when there is none.
pub(super) fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A text of a JSON object, empty when there is none.
pub(super) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
