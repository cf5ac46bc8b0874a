#![expect(
    clippy::indexing_slicing,
    reason = "reading a missing key of a JSON value gives null"
)]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use munjigi_events::Event;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::Ledger;

/// A client of a hub, signed in by token.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    pub base: String,
    pub token: String,
}

/// What came over the WebSocket.
#[derive(Debug, Clone, PartialEq)]
pub enum Pushed {
    Subscribed {
        epoch: String,
        recovered: bool,
        status: String,
    },
    Event {
        epoch: String,
        offset: u64,
        event: Box<Event>,
    },
    Error {
        code: String,
    },
    /// The socket was closed, with this code if one was sent.
    Closed(Option<u16>),
}

/// A subscribed WebSocket.
#[derive(Debug)]
pub struct Follow(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    #[must_use]
    pub fn new(base: &str, token: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: base.trim_end_matches('/').to_owned(),
            token: token.trim().to_owned(),
        }
    }

    /// Signs in by a link that the hub printed, as a browser does, and makes a token.
    ///
    /// # Errors
    /// When the link does not sign in.
    pub async fn by_link(base: &str, link: &str) -> Result<Self> {
        let base = base.trim_end_matches('/');
        let token = link
            .split("token=")
            .nth(1)
            .context("the link holds no token")?;
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let answer = http
            .get(format!("{base}/sign-in?token={token}"))
            .send()
            .await?;
        ensure!(
            answer.status() == StatusCode::SEE_OTHER,
            "sign-in answers {}",
            answer.status()
        );
        let cookie = answer
            .headers()
            .get("set-cookie")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .context("no cookie")?
            .to_owned();
        let made = http
            .post(format!("{base}/api/tokens"))
            .header("cookie", cookie)
            .header("origin", base)
            .json(&json!({"name": "test"}))
            .send()
            .await?;
        ensure!(
            made.status() == StatusCode::CREATED,
            "POST /api/tokens answers {}",
            made.status()
        );
        let body: Value = made.json().await?;
        Ok(Self::new(base, body["token"].as_str().context("no token")?))
    }

    /// Any request, with the token.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .timeout(Duration::from_secs(60))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Ok(request.send().await?)
    }

    /// A JSON answer with status 2xx.
    ///
    /// # Errors
    /// Any other answer.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.send(Method::GET, path, None).await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "GET {path} answers {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Makes an upload of `length` bytes by tus; gives its path.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_upload(&self, name: &str, length: u64) -> Result<String> {
        let created = self
            .http
            .post(format!("{}/api/uploads", self.base))
            .bearer_auth(&self.token)
            .header("tus-resumable", "1.0.0")
            .header("upload-length", length)
            .header(
                "upload-metadata",
                format!("filename {}", STANDARD.encode(name)),
            )
            .send()
            .await?;
        let status = created.status();
        let place = created.headers().get("location").cloned();
        ensure!(
            status == StatusCode::CREATED,
            "POST /api/uploads answers {status}: {}",
            created.text().await?
        );
        let place = place.context("no Location")?;
        let place = place.to_str()?;
        Ok(place.strip_prefix(&self.base).unwrap_or(place).to_owned())
    }

    /// How much of an upload is durable.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn upload_offset(&self, path: &str) -> Result<u64> {
        let head = self
            .http
            .head(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
            .header("tus-resumable", "1.0.0")
            .send()
            .await?;
        let offset = head.headers().get("upload-offset").with_context(|| {
            format!(
                "HEAD {path} answers {} without Upload-Offset",
                head.status()
            )
        })?;
        Ok(offset.to_str()?.parse()?)
    }

    /// Appends to an upload; gives the new offset.
    ///
    /// # Errors
    /// When it is refused or cut.
    pub async fn append(
        &self,
        path: &str,
        offset: u64,
        body: impl Into<reqwest::Body>,
    ) -> Result<u64> {
        let patched = self
            .http
            .patch(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
            .header("tus-resumable", "1.0.0")
            .header("content-type", "application/offset+octet-stream")
            .header("upload-offset", offset)
            .body(body)
            .send()
            .await?;
        let status = patched.status();
        let offset = patched.headers().get("upload-offset").cloned();
        ensure!(
            status == StatusCode::NO_CONTENT,
            "PATCH {path} answers {status}: {}",
            patched.text().await?
        );
        Ok(offset.context("no Upload-Offset")?.to_str()?.parse()?)
    }

    /// Uploads `bytes` under `name`; gives the upload's id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn upload(&self, name: &str, bytes: Vec<u8>) -> Result<String> {
        let path = self
            .create_upload(name, u64::try_from(bytes.len())?)
            .await?;
        self.append(&path, 0, bytes).await?;
        Ok(path.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// Starts a job; gives its `eventId`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn job(&self, upload: &str, models: &[&str]) -> Result<String> {
        let body = json!({"upload": upload, "models": models});
        let answer = self.send(Method::POST, "/api/jobs", Some(body)).await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(
            status == StatusCode::CREATED,
            "POST /api/jobs answers {status}: {text}"
        );
        let job: Value = serde_json::from_str(&text)?;
        Ok(job["eventId"].as_str().context("no eventId")?.to_owned())
    }

    /// Subscribes to a job, going on after `position`.
    ///
    /// # Errors
    /// When the socket is refused.
    pub async fn follow(&self, event_id: &str, position: Option<(String, u64)>) -> Result<Follow> {
        let url = format!("{}/api/ws", self.base.replacen("http", "ws", 1));
        let mut request = url.into_client_request()?;
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {}", self.token).parse()?);
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
        let mut hello = json!({"type": "subscribe", "eventId": event_id});
        if let Some((epoch, offset)) = position {
            hello["epoch"] = epoch.into();
            hello["offset"] = offset.into();
        }
        socket.send(Message::text(hello.to_string())).await?;
        Ok(Follow(socket))
    }

    /// Follows a job until `until` is true of the ledger, reconnecting and resuming as often as the socket breaks.
    ///
    /// # Errors
    /// When an event breaks a promise, something is not recovered, or the time is over.
    pub async fn follow_until(
        &self,
        event_id: &str,
        ledger: &mut Ledger,
        within: Duration,
        until: impl Fn(&Ledger) -> bool,
    ) -> Result<()> {
        let all = async {
            while !until(ledger) {
                if let Ok(mut socket) = self.follow(event_id, ledger.position()).await {
                    read_until(&mut socket, ledger, &until).await?;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        match tokio::time::timeout(within, all).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("not within {within:?}; so far {}", ledger.story()),
        }
    }
}

async fn read_until(
    socket: &mut Follow,
    ledger: &mut Ledger,
    until: &impl Fn(&Ledger) -> bool,
) -> Result<()> {
    while !until(ledger) {
        match socket.next().await? {
            Pushed::Subscribed { recovered, .. } => ensure!(recovered, "something is lost"),
            Pushed::Event {
                epoch,
                offset,
                event,
            } => ledger.take(&epoch, offset, *event)?,
            Pushed::Error { code } => bail!("the hub says {code}"),
            Pushed::Closed(_) => break,
        }
    }
    Ok(())
}

impl Follow {
    /// The next message; a socket that breaks counts as closed.
    ///
    /// # Errors
    /// When a message is not what the contract says.
    pub async fn next(&mut self) -> Result<Pushed> {
        loop {
            let text = match self.0.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => {
                    return Ok(Pushed::Closed(frame.map(|frame| frame.code.into())));
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Ok(Pushed::Closed(None)),
            };
            let value: Value = serde_json::from_str(&text)?;
            let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            return Ok(match value["type"].as_str() {
                Some("subscribed") => Pushed::Subscribed {
                    epoch: word("epoch"),
                    recovered: value["recovered"].as_bool().context("recovered")?,
                    status: word("status"),
                },
                Some("event") => Pushed::Event {
                    epoch: word("epoch"),
                    offset: value["offset"].as_u64().context("offset")?,
                    event: Box::new(Event::parse(value["data"].to_string().as_bytes())?),
                },
                Some("error") => Pushed::Error { code: word("code") },
                _ => bail!("not in the contract: {text}"),
            });
        }
    }

    /// Sends a message of the client.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn send(&mut self, message: &Value) -> Result<()> {
        Ok(self.0.send(Message::text(message.to_string())).await?)
    }
}
