//! A client's connection of HTTP/2: one task reads and writes its frames, each request is a task
//! of its own. What a client may cost is counted here (`watch`), and what it may take is limited:
//! streams by `http2_streams`, waiting bytes by the windows, header blocks by `head`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream};
use http::Request;

use crate::connection::{Connection, linger};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::live::Listed;
use crate::reason::Reason;
use crate::settings::LimitsSettings;
use crate::shard::{Listener, Seat, Shard};

use super::io::{Chunk, Io, Outbox};
use super::watch::Watch;
use super::{SEND_BUFFER, allowance, exchange};

/// How long a client that was told to go may take to see it.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long the last frames may take to get out of a connection that was cut.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a connection's task and those of its requests share.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) shard: Rc<Shard>,
    pub(crate) peer: SocketAddr,
    seat: Seat,
    listed: Listed,
    outbox: Rc<Outbox>,
    /// Requests under way.
    open: Cell<u32>,
    /// Requests that wait for bytes of the client, and for it to take some.
    pub(super) owing: Cell<u32>,
    pub(super) unread: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

impl Client {
    pub(crate) fn listener(&self) -> &Listener {
        self.seat.listener()
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.outbox.stream()
    }

    fn turn_away(&self, reason: Reason) {
        let client = self.peer.ip();
        self.shard.turn_away(&self.listener().name, client, reason);
    }

    /// A line of its own among the open connections, for a stream that is a tunnel.
    pub(super) fn list(&self) -> Listed {
        let now = self.shard.core.now();
        Listed::new(&self.shard.live, self.seat.listener(), self.peer, now)
    }

    /// Bytes of data that the client sent; `None` while the gate itself gives it no room to send.
    pub(super) fn sent(&self) -> Option<u64> {
        let watch = self.outbox.watch().borrow();
        watch.peer_has_room().then(|| watch.data_in())
    }

    /// Bytes of data that the client took: what was written but for what the kernel still holds.
    pub(super) fn taken(&self) -> u64 {
        let written = self.outbox.watch().borrow().data_out();
        written.saturating_sub(self.stream().unsent())
    }
}

/// Counts a request of a connection for as long as it lives.
#[derive(Debug)]
pub(super) struct Open(Rc<Client>);

impl Open {
    fn new(client: &Rc<Client>) -> Self {
        client.open.set(client.open.get() + 1);
        Self(Rc::clone(client))
    }

    pub(super) fn client(&self) -> &Rc<Client> {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if let Some(waker) = &*self.0.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

type Frames = h2::server::Connection<Io, Chunk>;

/// Why a connection ended.
enum End {
    /// After its last frame.
    Closed,
    /// By what it did, or by its network.
    Broken(h2::Error),
    /// It did not take our last words.
    GivenUp,
}

/// Serves a connection whose client speaks HTTP/2, to its end.
pub(crate) async fn serve(shard: Rc<Shard>, connection: Connection) {
    let Connection {
        stream,
        timer,
        peer,
        seat,
        listed,
        leftover,
    } = connection;
    let limits = shard.snapshot().settings.limits;
    let now = shard.core.now();
    let outbox = Outbox::new(stream, Watch::of_client(allowance(&limits.http2), now));
    let io = Io::new(&outbox, leftover);
    shard.stats.http2.connections.add(1);
    timer.set(limits.head);
    let mut handshake = pin!(builder(&limits).handshake::<Io, Chunk>(io));
    let greeted = poll_fn(|context| {
        let polled = outbox.turn(context, |context| handshake.as_mut().poll(context));
        if let Poll::Ready(outcome) = polled {
            return Poll::Ready(Some(outcome));
        }
        timer.poll_expired(context).map(|()| None)
    })
    .await;
    let frames = match greeted {
        Some(Ok(frames)) => frames,
        Some(Err(error)) if error.is_io() => return,
        Some(Err(_)) => {
            shard.turn_away(&seat.listener().name, peer.ip(), Reason::Http2Protocol);
            return linger(outbox.stream(), &timer).await;
        }
        None => return shard.turn_away(&seat.listener().name, peer.ip(), Reason::HeadTimeout),
    };
    let client = Rc::new(Client {
        shard: Rc::clone(&shard),
        peer,
        seat,
        listed,
        outbox: Rc::clone(&outbox),
        open: Cell::new(0),
        owing: Cell::new(0),
        unread: Cell::new(0),
        waker: RefCell::default(),
    });
    let mut session = Session {
        frames,
        client,
        limits,
        idle_since: now,
        leaving: None,
        cut: None,
    };
    let end = poll_fn(|context| session.poll(&timer, context)).await;
    session.count();
    if let End::Broken(error) = &end
        && error.is_library()
    {
        session.client.turn_away(broken(error));
    }
    // The streams' tasks hold the connection's seat until they have seen its end.
    drop(session);
    farewell(end, outbox.stream(), &timer).await;
}

/// The last answer is seen only by a client that is read on for a while.
async fn farewell(end: End, stream: &TcpStream, timer: &Timer) {
    match end {
        End::GivenUp => {}
        End::Broken(error) if error.is_io() => {}
        End::Broken(error) => {
            tracing::debug!(%error, "an HTTP/2 connection was ended");
            linger(stream, timer).await;
        }
        End::Closed => linger(stream, timer).await,
    }
}

fn broken(error: &h2::Error) -> Reason {
    if error.reason() == Some(Code::ENHANCE_YOUR_CALM) {
        Reason::Http2Flood
    } else {
        Reason::Http2Protocol
    }
}

fn builder(limits: &LimitsSettings) -> h2::server::Builder {
    let http2 = &limits.http2;
    // Heads beyond `head_bytes` get a 431 with its document; `h2` ends what is far larger.
    let list = u32::try_from(limits.head_bytes * 4).unwrap_or(u32::MAX);
    let resets = http2.resets as usize;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(http2.streams)
        .initial_window_size(http2.window)
        .initial_connection_window_size(http2.connection_window)
        .max_header_list_size(list)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(resets)
        .max_concurrent_reset_streams(resets)
        .max_local_error_reset_streams(Some(resets.max(1_024)))
        .enable_connect_protocol();
    builder
}

/// A connection at work.
struct Session {
    frames: Frames,
    client: Rc<Client>,
    limits: LimitsSettings,
    /// When the last request ended.
    idle_since: Instant,
    /// Since when the client knows that it should go.
    leaving: Option<Instant>,
    /// Since when it is being ended.
    cut: Option<Instant>,
}

impl Session {
    fn poll(&mut self, timer: &Timer, context: &mut Context<'_>) -> Poll<End> {
        let client = Rc::clone(&self.client);
        let now = client.shard.core.now();
        let stale = |waker: &Waker| !waker.will_wake(context.waker());
        if client.waker.borrow().as_ref().is_none_or(stale) {
            *client.waker.borrow_mut() = Some(context.waker().clone());
        }
        if client.shard.leaving() && self.leaving.is_none() {
            self.leave(now);
        }
        let frames = |context: &mut Context<'_>| self.poll_frames(context);
        if let Poll::Ready(end) = client.outbox.turn(context, frames) {
            return Poll::Ready(end);
        }
        self.count();
        if client.open.get() > 0 {
            self.idle_since = now;
        }
        let reason = client.outbox.watch().borrow().cut();
        if let (Some(reason), None) = (reason, self.cut) {
            self.cut(reason, Code::ENHANCE_YOUR_CALM, context);
        }
        self.look_at_time(timer, context)
    }

    /// Reads and writes frames, and starts what is asked, until there is nothing to do.
    fn poll_frames(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            match ready!(self.frames.poll_accept(context)) {
                Some(Ok((request, respond))) => self.start(request, respond),
                Some(Err(error)) => return Poll::Ready(End::Broken(error)),
                None => return Poll::Ready(End::Closed),
            }
        }
    }

    fn start(&self, request: Request<RecvStream>, respond: SendResponse<Chunk>) {
        let client = &self.client;
        let mut respond = respond;
        // A reset stream no longer counts for `h2`, while its task may not have seen it yet.
        if client.open.get() >= self.limits.http2.streams {
            return respond.send_reset(Code::REFUSED_STREAM);
        }
        let requests = &client.shard.stats.http2.requests;
        requests.add(1);
        client.listed.request(client.shard.core.now());
        let open = Open::new(client);
        let exchange = exchange::run(open, request, respond);
        client.shard.core.spawn(exchange);
    }

    /// Hands what was counted to the figures.
    fn count(&self) {
        let (received, sent) = self.client.outbox.watch().borrow_mut().take_resets();
        let stats = &self.client.shard.stats.http2;
        if received > 0 {
            stats.resets_received.add(received);
        }
        if sent > 0 {
            stats.resets_sent.add(sent);
        }
    }

    /// GOAWAY, first with the largest id: requests that are on their way are still taken
    /// (RFC 9113 §6.8).
    fn leave(&mut self, now: Instant) {
        self.leaving = Some(now);
        self.frames.graceful_shutdown();
    }

    fn cut(&mut self, reason: Reason, code: Code, context: &Context<'_>) {
        let now = self.client.shard.core.now();
        tracing::debug!(peer = %self.client.peer, reason = reason.code(), "an HTTP/2 connection is cut");
        if reason != Reason::Draining {
            self.client.turn_away(reason);
        }
        self.cut = Some(now);
        self.frames.abrupt_shutdown(code);
        context.waker().wake_by_ref();
    }

    /// Deadlines: of a header block, of a connection without requests, of one that should go.
    fn look_at_time(&mut self, timer: &Timer, context: &Context<'_>) -> Poll<End> {
        loop {
            let now = self.client.shard.core.now();
            let idle = self.client.open.get() == 0;
            let block = self.client.outbox.watch().borrow().block_since();
            let deadline = match (self.cut, block, self.leaving) {
                (Some(since), ..) => Some(since + LAST_WORDS),
                (None, Some(since), _) => Some(since + self.limits.head),
                (None, None, Some(since)) if idle => Some(since.max(self.idle_since) + GOODBYE),
                (None, None, None) if idle => Some(self.idle_since + self.limits.keep_alive),
                _ => None,
            };
            let Some(deadline) = deadline else {
                timer.clear();
                return Poll::Pending;
            };
            if now < deadline {
                timer.set_at(deadline);
                if timer.poll_expired(context).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            match (self.cut, block, self.leaving) {
                (Some(_), ..) => return Poll::Ready(End::GivenUp),
                (None, Some(_), _) => {
                    self.cut(Reason::HeadTimeout, Code::ENHANCE_YOUR_CALM, context);
                }
                (None, None, Some(_)) => self.cut(Reason::Draining, Code::NO_ERROR, context),
                (None, None, None) => {
                    self.client.shard.stats.reason(Reason::KeepAliveTimeout);
                    self.leave(now);
                    context.waker().wake_by_ref();
                }
            }
        }
    }
}
