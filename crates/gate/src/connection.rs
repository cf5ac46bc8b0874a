//! A client's connection: waits for requests, runs one exchange after the other, ends cleanly.
//! While it waits it holds no buffer, but for the end of an answer that its client does not take; the exchange is boxed,
//! so that an idle connection is small.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::arrival;
use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::listener::TcpListener;
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::http2;
use crate::ip_filter;
use crate::layer4;
use crate::live::Listed;
use crate::meter::Meter;
use crate::pipeline;
use crate::reason::{Reason, Rejection};
use crate::relay::{self, Patience};
use crate::shard::{Listener, Seat, Shard};
use crate::shield;

/// How long a closed connection is read on, so that the client sees our last answer instead of
/// a reset (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(3);
/// Bytes read meanwhile.
const LINGER_BYTES: u64 = 64 * 1024 * 1024;
/// So soon a client that is busy sends its next request.
const BUSY: Duration = Duration::from_millis(100);
/// After an accept failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) timer: Timer,
    pub(crate) peer: SocketAddr,
    pub(crate) seat: Seat,
    pub(crate) listed: Listed,
    /// What was read beyond the last request.
    pub(crate) leftover: Option<Buffer>,
}

impl Connection {
    pub(crate) fn listener(&self) -> &Listener {
        self.seat.listener()
    }
}

/// What happens to a connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It takes the next request.
    Next,
    /// It is closed; the client may still be sending.
    Linger,
    /// It is closed, as the client asked: nothing more is to come from it.
    Close,
    /// It is closed at once.
    Gone,
}

enum Wake {
    Request,
    /// First the client has to take the end of the last answer.
    Stuck,
    End(Option<Reason>),
}

/// Accept: takes connections until the listener is closed.
pub(crate) async fn accept(shard: Rc<Shard>, socket: TcpListener, listener: Arc<Listener>) {
    let timer = Timer::new(&shard.core);
    loop {
        let accepted = poll_fn(|context| {
            let closed = listener.closed.load(Ordering::Relaxed);
            if closed && shard.shared.leaving.load(Ordering::Relaxed) {
                // Another process listens on this socket: who waits in its queue is taken there.
                return Poll::Ready(None);
            }
            let next = socket.poll_accept(context).map(Some);
            // A closed listener still takes those who were in its queue: the kernel would reset them.
            if closed && next.is_pending() && !socket.may_have_more() {
                return Poll::Ready(None);
            }
            next
        })
        .await;
        match accepted {
            None => return,
            Some(Ok((stream, peer))) => {
                shard.stats.accepted.add(1);
                start(&shard, &listener, stream, peer);
            }
            Some(Err(error)) => {
                tracing::warn!(%error, listener = listener.name, "can't accept connections");
                timer.set(ACCEPT_PAUSE);
                poll_fn(|context: &mut Context<'_>| timer.poll_expired(context)).await;
                timer.clear();
            }
        }
    }
}

fn start(shard: &Rc<Shard>, listener: &Arc<Listener>, stream: TcpStream, peer: SocketAddr) {
    let snapshot = shard.snapshot();
    if ip_filter::closes_at_accept(shard, &snapshot, &listener.name, peer.ip()) {
        shard.turn_away(&listener.name, peer.ip(), Reason::IpClosed);
        return;
    }
    if shield::closes_at_accept(shard, &snapshot, &listener.name, peer.ip()) {
        shard.turn_away(&listener.name, peer.ip(), Reason::BannedClosed);
        return;
    }
    let timer = Timer::new(&shard.core);
    let layer4 = snapshot.line(&listener.name).is_some();
    let seat = match Seat::take(listener, peer.ip(), &snapshot) {
        Ok(seat) => seat,
        Err(reason) => {
            shard.turn_away(&listener.name, peer.ip(), reason);
            // Where TLS is spoken an answer would cost a handshake, and HTTP/2 has no word for it
            // before its settings: the connection is just closed.
            let understood = !layer4 && listener.protocols.http1();
            if understood && !arrival::has_door(shard, listener) {
                shard
                    .core
                    .spawn(async move { refuse(&stream, &timer, reason).await });
            }
            return;
        }
    };
    let listed = Listed::new(&shard.live, listener, peer, shard.core.now());
    let connection = Connection {
        stream,
        timer,
        peer,
        seat,
        listed,
        leftover: None,
    };
    if layer4 {
        let served = layer4::tcp::serve(Rc::clone(shard), connection);
        shard.core.spawn(served);
    } else {
        shard.core.spawn(serve(Rc::clone(shard), connection));
    }
}

/// Answers a connection beyond the limit with 503, as far as it takes it at once.
pub(crate) async fn refuse(stream: &TcpStream, timer: &Timer, reason: Reason) {
    let detail = match reason {
        Reason::TooManyFromAddress => {
            "there are as many connections from this address as `connections_per_address` allows"
        }
        _ => "the listener has as many connections as `connections_max` allows",
    };
    let rejection = Rejection::new(reason, detail).retry_after(1);
    let answer = pipeline::rejection_bytes(&rejection, b"", true);
    let mut patience = Patience::Idle(Duration::from_secs(1));
    let parts = [answer.as_slice(), &[], &[]];
    if relay::write_all(stream, parts, &mut patience, timer)
        .await
        .is_ok()
    {
        stream.shutdown_write();
    }
}

#[expect(
    clippy::manual_async_fn,
    reason = "an async fn holds its arguments twice, for as long as a connection lives"
)]
fn serve(shard: Rc<Shard>, mut connection: Connection) -> impl Future<Output = ()> {
    async move {
        if arrival::has_door(&shard, connection.listener())
            && !Box::pin(arrival::arrive(&shard, &mut connection)).await
        {
            return;
        }
        if connection.listener().protocols.http2() {
            match Box::pin(choose(&shard, &mut connection)).await {
                http2::First::Http1 => {}
                http2::First::Http2 => return Box::pin(http2::serve(shard, connection)).await,
                http2::First::Nothing => return,
            }
        }
        loop {
            match wait_for_request(&shard, &connection).await {
                Wake::Request => {}
                Wake::Stuck if Box::pin(until_taken(&connection)).await => continue,
                Wake::Stuck => return shard.stats.reason(Reason::ReaderTooSlow),
                Wake::End(reason) => {
                    if let Some(reason) = reason {
                        shard.stats.reason(reason);
                    }
                    return connection.stream.say_goodbye();
                }
            }
            match Box::pin(busy(&shard, &mut connection)).await {
                After::Next => {}
                After::Close if connection.leftover.is_none() && !connection.stream.is_spoilt() => {
                    // Before it is closed: bytes that come just now would make the kernel drop what waits for the end.
                    connection.stream.shutdown_write();
                    return;
                }
                After::Linger | After::Close => {
                    connection.leftover = None;
                    return Box::pin(linger(&connection.stream, &connection.timer)).await;
                }
                After::Gone => return,
            }
        }
    }
}

/// Exchange after exchange while the next request follows soon: what holds one then serves the next, and an idle
/// connection is small again a moment later.
async fn busy(shard: &Rc<Shard>, connection: &mut Connection) -> After {
    loop {
        connection.listed.request(shard.core.now());
        let after = pipeline::exchange(shard, connection).await;
        if after != After::Next || !follows(shard, connection).await {
            return after;
        }
    }
}

/// True when the next request comes within [`BUSY`].
async fn follows(shard: &Shard, connection: &Connection) -> bool {
    matches!(wait(shard, connection, BUSY).await, Wake::Request)
}

/// Which protocol a new connection speaks: what TLS agreed on, or what its first bytes say.
async fn choose(shard: &Rc<Shard>, connection: &mut Connection) -> http2::First {
    let speaks_http1 = connection.listener().protocols.http1();
    match connection.stream.agreed() {
        Some(agreed) if agreed.http2 => return http2::First::Http2,
        Some(_) if speaks_http1 => return http2::First::Http1,
        _ if !speaks_http1 => return http2::First::Http2,
        _ => {}
    }
    if let Wake::End(reason) = wait_for_request(shard, connection).await {
        if let Some(reason) = reason {
            shard.stats.reason(reason);
        }
        return http2::First::Nothing;
    }
    http2::detect(shard, connection).await
}

/// Waits for a request for as long as `limits.keep_alive` allows.
async fn wait_for_request(shard: &Shard, connection: &Connection) -> Wake {
    let limit = shard.snapshot().settings.limits.keep_alive;
    wait(shard, connection, limit).await
}

async fn wait(shard: &Shard, connection: &Connection, limit: Duration) -> Wake {
    let mut armed = false;
    poll_fn(|context| {
        let wake = poll_request(shard, connection, context, (limit, &mut armed));
        let taken = match wake {
            Poll::Ready(_) => connection.stream.deliver(),
            Poll::Pending => !connection.stream.is_stuck(),
        };
        if taken {
            wake
        } else {
            Poll::Ready(Wake::Stuck)
        }
    })
    .await
}

fn poll_request(
    shard: &Shard,
    connection: &Connection,
    context: &Context<'_>,
    (limit, armed): (Duration, &mut bool),
) -> Poll<Wake> {
    // First what is there: a request that has arrived is answered, also while the gate drains.
    if connection.leftover.is_some() || connection.stream.poll_message(context).is_ready() {
        return Poll::Ready(Wake::Request);
    }
    if shard.draining() {
        return Poll::Ready(Wake::End(None));
    }
    if !*armed {
        *armed = true;
        connection.timer.set(limit);
    }
    let expired = connection.timer.poll_expired(context);
    expired.map(|()| Wake::End(Some(Reason::KeepAliveTimeout)))
}

/// Waits until the client has room for the end of the last answer; false when its patience ends before.
async fn until_taken(connection: &Connection) -> bool {
    let stream = &connection.stream;
    let Some(allowance) = stream.allowance() else {
        return true;
    };
    let mut patience = match allowance.rate_min {
        Some(rate) => Patience::Rate(Meter::new(rate)),
        None => Patience::Idle(allowance.idle),
    };
    let room = |context: &mut Context<'_>| stream.poll_writable(context);
    let (timer, progress) = (&connection.timer, Some(stream));
    let waited = relay::wait(&mut patience, timer, stream.core(), &progress, room);
    waited.await.is_ok()
}

/// Ends our side and reads on for a while what the client still sends.
pub(crate) async fn linger(stream: &TcpStream, timer: &Timer) {
    stream.shutdown_write();
    timer.set(LINGER);
    let mut buffer = Buffer::new(stream.core(), SMALL);
    let mut left = LINGER_BYTES;
    loop {
        let read = poll_fn(|context| {
            if let Poll::Ready(result) = stream.poll_read(context, buffer.spare()) {
                return Poll::Ready(result.unwrap_or(0));
            }
            timer.poll_expired(context).map(|()| 0)
        })
        .await;
        left = left.saturating_sub(read as u64);
        if read == 0 || left == 0 {
            return;
        }
    }
}
