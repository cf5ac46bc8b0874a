//! `grpc.health.v1.Health/Check` over HTTP/2 with prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};

use super::answer::{grpc_request, grpc_status};
use super::line::Line;
use super::probe::Fault;

/// Largest message of an answer.
const ANSWER_MAX: usize = 4_096;
/// `SERVING` in grpc.health.v1.
const SERVING: u64 = 1;

fn bad(what: &str) -> impl Fn(h2::Error) -> Fault + '_ {
    move |error| Fault::Bad(format!("{what}: {error}"))
}

/// Asks for the health of `service` over `stream`.
pub(super) async fn check(
    stream: Box<dyn Line>,
    service: &str,
    target: SocketAddr,
    sealed: bool,
) -> Result<(), Fault> {
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(64 * 1024)
        .max_header_list_size(16 * 1024)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(bad("HTTP/2"))?;
    let asked = exchange(client, service, target, sealed);
    let mut asked = std::pin::pin!(asked);
    let mut connection = std::pin::pin!(connection);
    // Both on this task: what is left of the connection ends with it.
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(outcome) = asked.as_mut().poll(context) {
            return std::task::Poll::Ready(outcome);
        }
        if let std::task::Poll::Ready(ended) = connection.as_mut().poll(context) {
            let why = ended
                .err()
                .map_or_else(|| "closed".to_owned(), |error| error.to_string());
            // It may have answered before it closed.
            return match asked.as_mut().poll(context) {
                std::task::Poll::Pending => {
                    std::task::Poll::Ready(Err(Fault::Bad(format!("connection: {why}"))))
                }
                ready @ std::task::Poll::Ready(_) => ready,
            };
        }
        std::task::Poll::Pending
    })
    .await
}

async fn exchange(
    client: h2::client::SendRequest<Bytes>,
    service: &str,
    target: SocketAddr,
    sealed: bool,
) -> Result<(), Fault> {
    let mut client = client.ready().await.map_err(bad("HTTP/2"))?;
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
