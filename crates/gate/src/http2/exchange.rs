//! One request of a client's HTTP/2 connection: the stages of `pipeline`, on a stream.

use std::cell::RefCell;
use std::rc::Rc;

use base64::Engine;
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream};
use http::Request;

use crate::connection::After;
use crate::driver::timer::Timer;
use crate::http1::head::{HeadLimits, RequestHead};
use crate::pipeline::{self, Active, Caller, Stop, head_limits};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::settings::Protocol;

use super::forward::ClientSide;
use super::io::Chunk;
use super::server::Open;
use super::translate::{self, Content};

/// Runs one exchange.
pub(super) async fn run(open: Open, request: Request<RecvStream>, respond: SendResponse<Chunk>) {
    let client = Rc::clone(open.client());
    let shard = &client.shard;
    let snapshot = shard.snapshot();
    let mut record = Record::new(shard.core.now(), client.peer);
    record.protocol = Some(Protocol::Http2);
    let active = Active::new(shard);
    let timer = Timer::new(&shard.core);
    let (parts, body) = request.into_parts();
    let limits = head_limits(&snapshot.settings.limits);
    let head = head_of(&parts, body.is_end_stream(), limits);
    let mut side = ClientSide {
        client: &client,
        timer: &timer,
        body: Some(body),
        respond: RefCell::new(respond),
    };
    let (kept, ended) = match head {
        Ok(mut head) => {
            let caller = Caller::Http2(&mut side);
            pipeline::meet(shard, &snapshot, &caller, &mut head, &mut record);
            let stages = pipeline::stages(shard, &snapshot, caller, &head, &mut record);
            let ended = stages.await;
            (Some(head), ended)
        }
        Err(rejection) => (None, Err(rejection.into())),
    };
    drop(active);
    let reason = match ended {
        Ok((reason, _)) => reason,
        Err(Stop::Reject(rejection)) if record.status.get() == 0 => {
            let told = (&rejection, &record);
            let caller = Caller::Http2(&mut side);
            let answered = pipeline::answer(shard, &snapshot, &caller, kept.as_ref(), told);
            if Box::pin(answered).await == After::Gone {
                side.respond.borrow_mut().send_reset(Code::CANCEL);
            }
            rejection.reason
        }
        Err(stop) => {
            // What was begun is never completed.
            side.respond.borrow_mut().send_reset(Code::INTERNAL_ERROR);
            match stop {
                Stop::End(reason) => reason,
                Stop::Reject(rejection) => rejection.reason,
                Stop::Quiet | Stop::NotYet => Reason::ClientGone,
                Stop::Stale | Stop::Unseen | Stop::Again(_) => Reason::BackendClosed,
            }
        }
    };
    record.name_refused(&snapshot, reason);
    record.finish(shard, &client.listener().name, kept.as_ref(), reason);
}

/// Read head: the fields of the request as the one typed head.
fn head_of(
    parts: &http::request::Parts,
    ends: bool,
    limits: HeadLimits,
) -> Result<RequestHead, Rejection> {
    let head = match parts
        .extensions
        .get::<h2::ext::Protocol>()
        .map(h2::ext::Protocol::as_str)
    {
        None if ends => translate::request(parts, Content::None, limits),
        None => translate::request(parts, Content::Body, limits),
        Some("websocket") => {
            let key = websocket_key();
            translate::request(parts, Content::WebSocket { key: &key }, limits)
        }
        Some(_) => {
            let detail = "of the protocols of extended CONNECT only websocket is served";
            return Err(Rejection::new(Reason::ConnectRefused, detail));
        }
    };
    head.map_err(Rejection::from)
}

/// What the gate sends to a backend as `Sec-WebSocket-Key` (RFC 6455 §4.1).
fn websocket_key() -> String {
    let mut nonce = [0_u8; 16];
    if let Err(error) = getrandom::fill(&mut nonce) {
        tracing::debug!(%error, "no randomness for a key: zeros are valid, too");
    }
    base64::engine::general_purpose::STANDARD.encode(nonce)
}
