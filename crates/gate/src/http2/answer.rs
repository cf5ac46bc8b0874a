//! Answers on a stream: heads that `http1::write` wrote, and the bodies of the gate's own ones.

use std::cell::RefCell;

use bytes::Bytes;
use h2::server::SendResponse;

use crate::forward::{bad_response, client_patience, delivery_stop};
use crate::http1::BadMessage;
use crate::pipeline::Stop;
use crate::reason::Reason;
use crate::relay::Patience;
use crate::settings::TimeoutSettings;

use super::body::{Party, Piece, Sink, Waiting};
use super::forward::ClientSide;
use super::io::Chunk;
use super::translate;

/// Sends a head; `ends` when nothing follows it.
///
/// # Errors
/// When it can't be written in HTTP/2, or the client is gone.
pub(super) fn begin<'s>(
    respond: &RefCell<SendResponse<Chunk>>,
    lead: Vec<u8>,
    (status, ends): (u16, bool),
    named_length: bool,
) -> Result<Sink<'s>, Stop> {
    let mut response = translate::response(lead, status).map_err(unanswerable)?;
    if !named_length {
        // The end of the body is the stream's.
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
    }
    let sent = respond.borrow_mut().send_response(response, ends);
    let stream = sent.map_err(|_| Stop::End(Reason::ClientGone))?;
    Ok(Sink::Http2 { stream })
}

pub(super) fn unanswerable(error: BadMessage) -> Stop {
    tracing::debug!(%error, "a response can't be written in HTTP/2");
    bad_response("the backend's answer can't be written in HTTP/2").into()
}

/// An answer of the gate's own on its way.
pub(crate) struct Answering<'a> {
    side: &'a ClientSide<'a>,
    status: u16,
    /// Not there before the head was sent.
    sink: Option<Sink<'a>>,
    waiting: Waiting<'a>,
}

impl<'a> Answering<'a> {
    pub(crate) fn new(side: &'a ClientSide<'a>, status: u16, timeout: &TimeoutSettings) -> Self {
        let patience = client_patience(timeout, Patience::Idle(timeout.idle));
        let waiting = Waiting::new(patience, side.timer, side.timer.core());
        Self {
            side,
            status,
            sink: None,
            waiting: waiting.on(Party::Reader(side.client)),
        }
    }

    /// Sends the head, unless it was sent, then a piece of the body, perhaps its last.
    ///
    /// # Errors
    /// When the client is gone or reads too slowly.
    pub(crate) async fn put(&mut self, lead: Vec<u8>, data: &[u8], last: bool) -> Result<(), Stop> {
        let ends = last && data.is_empty();
        let sink = match &mut self.sink {
            Some(sink) => sink,
            slot => {
                let sink = begin(&self.side.respond, lead, (self.status, ends), true)?;
                if ends {
                    return Ok(());
                }
                slot.insert(sink)
            }
        };
        if data.is_empty() && !last {
            return Ok(());
        }
        let piece = Piece {
            data: Chunk::Bytes(Bytes::copy_from_slice(data)),
            end: last.then(Vec::new),
        };
        let put = sink.put(piece, &mut self.waiting).await;
        put.map_err(|end| delivery_stop(&end))
    }
}
