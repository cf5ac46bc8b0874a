//! `grpc.health.v1.Health/Check` over HTTP/2 with prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};

use super::answer::{grpc_request, grpc_status};
use super::http2::{self, bad};
use super::line::Line;
use super::probe::Fault;

/// Largest message of an answer.
const ANSWER_MAX: usize = 4_096;
/// `SERVING` in grpc.health.v1.
const SERVING: u64 = 1;

/// Asks for the health of `service` over `stream`.
pub(super) async fn check(
    stream: Box<dyn Line>,
    service: &str,
    target: SocketAddr,
    sealed: bool,
) -> Result<(), Fault> {
    let asked = async |client| exchange(client, service, target, sealed).await;
    http2::over(stream, asked).await
}

async fn exchange(
    mut client: h2::client::SendRequest<Bytes>,
    service: &str,
    target: SocketAddr,
    sealed: bool,
) -> Result<(), Fault> {
    let scheme = if sealed { "https" } else { "http" };
    let request = Request::post(format!("{scheme}://{target}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "munjigi-health")
        .body(())
        .map_err(|error| Fault::Unable(error.to_string()))?;
    let (response, mut body) = client
        .send_request(request, false)
        .map_err(bad("request"))?;
    let message = Bytes::from(grpc_request(service));
    body.send_data(message, true).map_err(bad("request"))?;
    let response = response.await.map_err(bad("answer"))?;
    if response.status() != StatusCode::OK {
        return Err(Fault::Bad(format!("status {}", response.status().as_u16())));
    }
    judge_code(response.headers())?;
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(bad("answer"))?;
        answer.extend_from_slice(&data);
        if answer.len() > ANSWER_MAX {
            return Err(Fault::Bad("the answer is too large".to_owned()));
        }
        let taken = body.flow_control().release_capacity(data.len());
        taken.map_err(bad("answer"))?;
    }
    if let Some(trailers) = body.trailers().await.map_err(bad("answer"))? {
        judge_code(&trailers)?;
    }
    match grpc_status(&answer) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(Fault::Bad(format!(
            "grpc.health.v1 status {status}, not SERVING"
        ))),
        None => Err(Fault::Bad(
            "the answer is no grpc.health.v1 message".to_owned(),
        )),
    }
}

fn judge_code(fields: &HeaderMap) -> Result<(), Fault> {
    match fields.get("grpc-status").map(http::HeaderValue::as_bytes) {
        None | Some(b"0") => Ok(()),
        Some(code) => {
            let code: String = String::from_utf8_lossy(code).chars().take(10).collect();
            Err(Fault::Bad(format!("grpc-status {code}")))
        }
    }
}
