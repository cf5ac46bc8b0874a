//! Probes over HTTP/2: one request on a connection of its own.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use super::line::Line;
use super::probe::{self, Fault};
use crate::settings::HttpProbe;

pub(super) fn bad(what: &str) -> impl Fn(h2::Error) -> Fault + '_ {
    move |error| Fault::Bad(format!("{what}: {error}"))
}

/// Speaks HTTP/2 over `stream` for as long as `exchange` lasts.
pub(super) async fn over<T>(
    stream: Box<dyn Line>,
    exchange: impl AsyncFnOnce(SendRequest<Bytes>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(64 * 1024)
        .max_header_list_size(16 * 1024)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(bad("HTTP/2"))?;
    let mut asked = pin!(async { exchange(client.ready().await.map_err(bad("HTTP/2"))?).await });
    let mut connection = pin!(connection);
    // Both on this task: what is left of the connection ends with it.
    poll_fn(|context| {
        if let Poll::Ready(outcome) = asked.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(context) {
            let why = ended
                .err()
                .map_or_else(|| "closed".to_owned(), |error| error.to_string());
            // It may have answered before it closed.
            return match asked.as_mut().poll(context) {
                Poll::Pending => Poll::Ready(Err(Fault::Bad(format!("connection: {why}")))),
                ready @ Poll::Ready(_) => ready,
            };
        }
        Poll::Pending
    })
    .await
}

/// Asks for a path, as `health.http` says.
pub(super) async fn check(
    probe: &HttpProbe,
    stream: Box<dyn Line>,
    address: SocketAddr,
    sealed: bool,
) -> Result<(), Fault> {
    let own = address.to_string();
    let host = probe.host.as_deref().unwrap_or(&own);
    let scheme = if sealed { "https" } else { "http" };
    let request = Request::builder()
        .method(probe.method.as_str())
        .uri(format!("{scheme}://{host}{}", probe.path))
        .header("user-agent", "munjigi-health")
        .header("accept", "*/*")
        .body(())
        .map_err(|error| Fault::Unable(error.to_string()))?;
    let asked = async |mut client: SendRequest<Bytes>| {
        let (response, _) = client.send_request(request, true).map_err(bad("request"))?;
        let response = response.await.map_err(bad("answer"))?;
        probe::judge(probe, response.status().as_u16())
    };
    over(stream, asked).await
}
