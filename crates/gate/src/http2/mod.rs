//! HTTP/2 (RFC 9113), from clients and to backends. Frames, HPACK and flow control are the `h2`
//! crate's, polled on the driver's own loop; what a request means and where it goes is decided
//! by the same code as for HTTP/1.1.
//!
//! ```text
//! io         the driver's sockets as h2 wants them      watch      counts frames, ends floods
//! server     a client's connection: a task              exchange   one of its requests: a task
//! backend    connections to backends, shared by requests
//! translate  fields of HTTP/2 <-> typed heads           body       bodies between the versions
//! forward    an exchange with HTTP/2 on either side     answer     answers on a stream
//! duplex     a stream as a tunnel's end
//! ```

pub(crate) mod answer;
pub(crate) mod backend;
mod body;
mod duplex;
mod exchange;
pub(crate) mod forward;
mod io;
mod server;
pub mod translate;
mod watch;

use std::future::poll_fn;
use std::task::Poll;

use crate::connection::Connection;
use crate::driver::buffer::{Buffer, SMALL};
use crate::settings::Http2Limits;
use crate::shard::Shard;

pub(crate) use server::serve;
use watch::{Allowance, PREFACE};

/// Bytes of one stream that wait to be written: enough to keep a socket busy, since all of it
/// may go out at once.
const SEND_BUFFER: usize = 64 * 1024;

fn allowance(limits: &Http2Limits) -> Allowance {
    Allowance {
        resets: limits.resets,
        frames: limits.frames,
    }
}

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    Http1,
    Http2,
    /// Nothing came in time, or the client left.
    Nothing,
}

/// Reads until it is plain whether a client begins with the preface of HTTP/2. What was read
/// stays in `connection.leftover`.
pub(crate) async fn detect(shard: &Shard, connection: &mut Connection) -> First {
    let mut buffer = Buffer::new(&shard.core, SMALL);
    connection.timer.set(shard.snapshot().settings.limits.head);
    loop {
        let read = poll_fn(
            |context| match connection.stream.poll_read(context, buffer.spare()) {
                Poll::Ready(result) => Poll::Ready(result.unwrap_or(0)),
                Poll::Pending => connection.timer.poll_expired(context).map(|()| 0),
            },
        )
        .await;
        buffer.fill(read);
        let filled = buffer.filled();
        let compared = filled.len().min(PREFACE.len());
        let same = filled.get(..compared) == PREFACE.get(..compared);
        let known = !same || compared == PREFACE.len() || read == 0;
        if known {
            let first = match (filled.is_empty(), same && compared == PREFACE.len()) {
                (true, _) => First::Nothing,
                (false, true) => First::Http2,
                (false, false) => First::Http1,
            };
            connection.leftover = Some(buffer).filter(|buffer| !buffer.is_empty());
            return first;
        }
    }
}
