//! A hub as its clients reach it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use munjigi_foundation::tls::{self, UrlTrust};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use super::HubArgs;
use crate::outcome::Failure;

/// Where `munjigi up` leaves what client commands need.
const DATA: &str = "munjigi-data";
/// Longest wait for the head of an answer; bodies may take as long as they move.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A hub, and the token that signs requests to it.
#[derive(Clone)]
pub(super) struct Hub {
    http: reqwest::Client,
    trust: UrlTrust,
    base: Url,
    token: String,
}

#[derive(Deserialize)]
struct Runtime {
    url: String,
}

#[derive(Deserialize)]
struct ProblemDocument {
    detail: String,
    hint: Option<String>,
}

impl Hub {
    /// Finds the hub: what was given, else what `munjigi up` left in `./munjigi-data`.
    pub(super) fn find(args: &HubArgs) -> Result<Self, Failure> {
        let local = local_url();
        let given = args.hub.clone().or_else(|| local.clone()).ok_or_else(|| {
            Failure::could_not("no hub is known here").hint(
                "start one with `munjigi up`, or name one with --hub URL --token TOKEN (or MUNJIGI_HUB, MUNJIGI_TOKEN)",
            )
        })?;
        let base = Url::parse(&given)
            .ok()
            .filter(|url| url.host().is_some())
            .ok_or_else(|| {
                Failure::could_not(format!("\"{given}\" is no URL of a hub"))
                    .hint("write it as http://127.0.0.1:8080")
            })?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(Failure::could_not(format!(
                "{}: only http:// and https:// are spoken here",
                base.scheme()
            )));
        }
        let token = args
            .token
            .clone()
            .or_else(|| local_token(&base, local.as_deref()))
            .ok_or_else(|| {
                Failure::could_not(format!("no token for {given} is known here"))
                    .hint("make one in the pages under Settings, and give it with --token or MUNJIGI_TOKEN")
            })?;
        let trust = tls::for_urls(None).map_err(Failure::could_not)?;
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .tls_backend_preconfigured(trust.clone())
            .build()
            .map_err(Failure::could_not)?;
        Ok(Self {
            http,
            trust,
            base,
            token: token.trim().to_owned(),
        })
    }

    /// A request to `path`, which begins with a slash or is a whole URL of this hub.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self
            .base
            .join(path)
            .ok()
            // A Location that leads elsewhere must not get the token.
            .filter(|url| url.origin() == self.base.origin())
            .unwrap_or_else(|| self.base.clone());
        self.http.request(method, url).bearer_auth(&self.token)
    }

    /// How https URLs of the hub are verified.
    pub(super) fn trust(&self) -> UrlTrust {
        self.trust.clone()
    }

    /// The URL of the WebSocket, and the token that signs it.
    pub(super) fn socket(&self) -> (String, &str) {
        let mut url = self.base.clone();
        url.set_path("/api/ws");
        // https becomes wss: both names grow by the same letter.
        let url = url.as_str().replacen("http", "ws", 1);
        (url, &self.token)
    }

    /// Sends a request whose answer's head must come soon.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        match tokio::time::timeout(ANSWER_WITHIN, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => {
                Err(self.unreachable(&format!("no answer within {} s", ANSWER_WITHIN.as_secs())))
            }
        }
    }

    /// The hub does not answer.
    pub(super) fn unreachable(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::could_not(format!("the hub at {} can't be reached: {why}", self.base))
            .hint("is it running? `munjigi up` starts one")
    }

    /// The JSON of a good answer.
    pub(super) async fn json(&self, method: Method, path: &str) -> Result<Value, Failure> {
        let response = self.send(self.request(method, path)).await?;
        let response = good(response).await?;
        response
            .json()
            .await
            .map_err(|error| self.unreachable(&error))
    }
}

/// The answer if it is 2xx, else what it says.
pub(super) async fn good(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(refused(status, &response.text().await.unwrap_or_default()))
}

/// What an answer with an error says.
pub(super) fn refused(status: StatusCode, body: &str) -> Failure {
    let problem: Option<ProblemDocument> = serde_json::from_str(body).ok();
    let detail = problem.as_ref().map_or_else(
        || format!("the hub answers {status}"),
        |problem| problem.detail.clone(),
    );
    if status == StatusCode::UNAUTHORIZED {
        return Failure::could_not(format!("the hub does not take the token: {detail}"))
            .hint("make a new one in the pages under Settings");
    }
    let failure = if status.is_server_error() {
        Failure::could_not(detail)
    } else {
        Failure::no(detail)
    };
    match problem.and_then(|problem| problem.hint) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn local_url() -> Option<String> {
    let text = std::fs::read_to_string(Path::new(DATA).join("runtime.json")).ok()?;
    let runtime: Runtime = serde_json::from_str(&text).ok()?;
    Some(runtime.url)
}

/// The token in the data folder, which belongs to the hub named there: another host never gets it.
fn local_token(base: &Url, local: Option<&str>) -> Option<String> {
    let same = local
        .and_then(|local| Url::parse(local).ok())
        .is_some_and(|local| local.origin() == base.origin());
    let loopback = base.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    });
    if !(same || loopback) {
        return None;
    }
    let token = std::fs::read_to_string(Path::new(DATA).join("cli.token")).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Exit;

    #[test]
    fn what_the_hub_refuses_is_said_in_its_words() {
        let body = r#"{"status":413,"code":"too_large","title":"Payload Too Large","detail":"the upload has 5 GiB, 4 GiB is the limit"}"#;
        assert_eq!(refused(StatusCode::PAYLOAD_TOO_LARGE, body).exit, Exit::No);
        assert_eq!(refused(StatusCode::UNAUTHORIZED, "").exit, Exit::CouldNot);
        assert_eq!(
            refused(StatusCode::BAD_GATEWAY, "<html>").exit,
            Exit::CouldNot
        );
    }

    #[test]
    fn nonsense_is_refused_and_https_becomes_wss() {
        let find = |given: &str| {
            let args = HubArgs {
                hub: Some(given.to_owned()),
                token: Some("t".to_owned()),
            };
            Hub::find(&args)
        };
        let hub = find("https://example.com").ok().unwrap();
        assert_eq!(hub.socket().0, "wss://example.com/api/ws");
        for given in ["ftp://example.com", "nonsense", "http://"] {
            assert!(find(given).is_err(), "{given}");
        }
    }
}
