//! Connections of HTTP/2 to backends: one carries many requests. A thread keeps a few for each
//! backend; requests beyond what they take wait in a bounded queue, in their order.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;

use crate::backends::Backend;
use crate::driver::Core;
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::reach::Search;
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::settings::LimitsSettings;

use super::SEND_BUFFER;
use super::io::{Chunk, Io, Outbox};
use super::watch::{Allowance, Watch};

/// How long a backend may take to answer a ping.
const PONG: Duration = Duration::from_secs(10);

/// The connections of one thread.
#[derive(Debug, Default)]
pub(crate) struct Pool(Rc<RefCell<HashMap<Kind, Rc<Place>>>>);

/// A backend, and the way it is reached ([`Search::way_id`]): TLS and plain never mix.
type Kind = (u64, u64);

/// What one thread has of one backend.
#[derive(Debug, Default)]
struct Place {
    shared: RefCell<Vec<Rc<Shared>>>,
    /// A connection is being opened.
    opening: Cell<bool>,
    queue: RefCell<VecDeque<(u64, Waker)>>,
    next_ticket: Cell<u64>,
}

/// A connection, as its requests see it.
#[derive(Debug)]
struct Shared {
    /// Gone when no further request may begin.
    sender: RefCell<Option<SendRequest<Chunk>>>,
    open: Cell<usize>,
    streams: usize,
    /// Wakes the task that reads and writes its frames.
    waker: RefCell<Option<Waker>>,
}

/// A place for one request on a connection.
#[derive(Debug)]
pub(crate) struct Lease {
    shared: Rc<Shared>,
    place: Rc<Place>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) response: ResponseFuture,
    pub(super) body: SendStream<Chunk>,
}

impl Lease {
    /// Begins a request; `ends` when it has no body.
    ///
    /// # Errors
    /// When the connection takes no more: then nothing of the request was sent.
    pub(super) fn send(&self, request: Request<()>, ends: bool) -> Result<Sent, h2::Error> {
        let Some(mut sender) = self.shared.sender.borrow().clone() else {
            return Err(h2::Reason::REFUSED_STREAM.into());
        };
        let (response, body) = sender.send_request(request, ends)?;
        Ok(Sent { response, body })
    }

    /// True when the backend takes WebSockets (RFC 8441 §3).
    pub(super) fn takes_websockets(&self) -> bool {
        let sender = self.shared.sender.borrow();
        sender
            .as_ref()
            .is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.open.set(self.shared.open.get() - 1);
        if self.shared.open.get() == 0
            && let Some(waker) = &*self.shared.waker.borrow()
        {
            waker.wake_by_ref();
        }
        self.place.wake_first();
    }
}

impl Shared {
    /// True until the connection broke or its backend said that it goes.
    fn is_open(&self) -> bool {
        let mut slot = self.sender.borrow_mut();
        let Some(sender) = slot.as_mut() else {
            return false;
        };
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(_)) = sender.poll_ready(&mut context) {
            *slot = None;
        }
        slot.is_some()
    }

    /// True while another request may begin.
    fn has_room(&self) -> bool {
        self.is_open()
            && self.sender.borrow().as_ref().is_some_and(|sender| {
                self.open.get() < sender.current_max_send_streams().min(self.streams)
            })
    }
}

impl Place {
    fn lease(self: &Rc<Self>) -> Option<Lease> {
        let list = self.shared.borrow();
        // The one used most: the others may go idle.
        let best = list
            .iter()
            .filter(|shared| shared.has_room())
            .max_by_key(|shared| shared.open.get())?;
        best.open.set(best.open.get() + 1);
        Some(Lease {
            shared: Rc::clone(best),
            place: Rc::clone(self),
        })
    }

    /// True while a request could begin on a connection that stands.
    fn has_room(&self) -> bool {
        self.shared.borrow().iter().any(|shared| shared.has_room())
    }

    /// Connections that take requests, or will when one of theirs has ended.
    fn usable(&self) -> usize {
        let mut list = self.shared.borrow_mut();
        list.retain(|shared| shared.is_open());
        list.len()
    }

    fn wake_first(&self) {
        if let Some((_, waker)) = self.queue.borrow().front() {
            waker.wake_by_ref();
        }
    }

    fn wake_all(&self) {
        for (_, waker) in &*self.queue.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A request in the queue, for as long as it waits.
struct Ticket {
    place: Rc<Place>,
    number: u64,
}

impl Ticket {
    /// `None` when enough wait already.
    fn new(place: &Rc<Place>, most: usize) -> Option<Self> {
        if place.queue.borrow().len() >= most {
            return None;
        }
        let number = place.next_ticket.get();
        place.next_ticket.set(number + 1);
        place
            .queue
            .borrow_mut()
            .push_back((number, Waker::noop().clone()));
        Some(Self {
            place: Rc::clone(place),
            number,
        })
    }

    fn is_first(&self) -> bool {
        let queue = self.place.queue.borrow();
        queue
            .front()
            .is_some_and(|(number, _)| *number == self.number)
    }

    fn store(&self, waker: &Waker) {
        let mut queue = self.place.queue.borrow_mut();
        let own = queue.iter_mut().find(|(number, _)| *number == self.number);
        if let Some((_, stored)) = own {
            stored.clone_from(waker);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queue = self.place.queue.borrow_mut();
        queue.retain(|(number, _)| *number != self.number);
        drop(queue);
        self.place.wake_first();
    }
}

impl Pool {
    fn place(&self, kind: Kind) -> Rc<Place> {
        let mut places = self.0.borrow_mut();
        Rc::clone(places.entry(kind).or_default())
    }

    /// A place on a connection that stands, unless others wait for one.
    pub(crate) fn take(&self, id: u64, way: u64) -> Option<Lease> {
        let place = self.0.borrow().get(&(id, way)).map(Rc::clone)?;
        if !place.queue.borrow().is_empty() {
            return None;
        }
        place.lease()
    }
}

/// Marks that a connection is being opened, for as long as that lasts.
struct Opening(Rc<Place>);

impl Opening {
    fn new(place: &Rc<Place>) -> Self {
        place.opening.set(true);
        Self(Rc::clone(place))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.wake_all();
    }
}

/// A place on a connection to `backend`: opens one when all are full and there may be one more,
/// else waits for its turn, within `timeout.connect`.
///
/// # Errors
/// When no connection stands in time, or too many wait.
pub(crate) async fn lease(
    search: &Search<'_>,
    timer: &Timer,
    backend: &Backend,
    record: &Record,
) -> Result<Lease, Rejection> {
    let shard = search.shard;
    let limits = &search.snapshot.settings.limits;
    let place = shard.http2.place((backend.id, search.way_id()));
    let service = &search.routed.settings.service;
    let busy = || {
        let detail =
            format!("the backends of service {service} have as many requests as they take");
        Rejection::new(Reason::BackendStreams, detail).retry_after(1)
    };
    let deadline = shard.core.now() + search.routed.settings.timeout.connect;
    let ticket = Ticket::new(&place, limits.http2.backend_queue).ok_or_else(busy)?;
    loop {
        if ticket.is_first()
            && let Some(lease) = place.lease()
        {
            return Ok(lease);
        }
        // Where there is room it is the turn of whoever waits longest, not the time for another.
        let may_open = !place.opening.get()
            && place.usable() < limits.http2.backend_connections
            && !place.has_room();
        if may_open {
            let opening = Opening::new(&place);
            open(search, timer, (backend, record), &place).await?;
            drop(opening);
            // Whoever opened it uses it: else a queue could take it away for ever.
            if let Some(lease) = place.lease() {
                return Ok(lease);
            }
            continue;
        }
        timer.set_at(deadline);
        let mut waited = false;
        let in_time = poll_fn(|context| {
            if waited {
                return Poll::Ready(true);
            }
            waited = true;
            ticket.store(context.waker());
            timer.poll_expired(context).map(|()| false)
        })
        .await;
        if !in_time {
            return Err(busy());
        }
    }
}

fn builder(limits: &LimitsSettings) -> h2::client::Builder {
    let http2 = &limits.http2;
    let list = u32::try_from(limits.head_bytes * 4).unwrap_or(u32::MAX);
    // Clients that read slowly must not keep the connection's window from the others: it has
    // room for the windows of all streams.
    let all = u64::from(http2.window) * u64::from(http2.streams);
    let window = u32::try_from(all.min(0x7fff_ffff)).unwrap_or(0x7fff_ffff);
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(http2.window)
        .initial_connection_window_size(window)
        .max_header_list_size(list)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// Why a connection carries no HTTP/2.
enum Refusal {
    Late,
    Tls,
    Other(String),
}

impl Refusal {
    fn told(&self, service: &str, backend: &str) -> Rejection {
        let (reason, why) = match self {
            Self::Late => {
                let detail = format!("a backend of service {service} did not answer in time");
                return Rejection::new(Reason::ConnectTimeout, detail);
            }
            Self::Tls => (Reason::BackendTlsFailed, "not agreed on (ALPN)"),
            Self::Other(why) => (Reason::ConnectFailed, why.as_str()),
        };
        tracing::debug!(error = why, backend, service, "no HTTP/2");
        let detail = format!("a backend of service {service} does not speak HTTP/2");
        Rejection::new(reason, detail)
    }
}

type Connection = h2::client::Connection<Io, Chunk>;

/// Begins to speak; ready when the backend has said its settings.
async fn greet(
    stream: TcpStream,
    limits: &LimitsSettings,
    watch: Watch,
    timer: &Timer,
) -> Result<(SendRequest<Chunk>, Connection, Rc<Outbox>), Refusal> {
    if stream.agreed().is_some_and(|agreed| !agreed.http2) {
        return Err(Refusal::Tls);
    }
    let other = |error: h2::Error| Refusal::Other(error.to_string());
    let outbox = Outbox::new(stream, watch);
    let io = Io::new(&outbox, None);
    let builder = builder(limits);
    let mut handshake = pin!(builder.handshake::<Io, Chunk>(io));
    let greeted = poll_fn(|context| {
        let polled = outbox.turn(context, |context| handshake.as_mut().poll(context));
        if let Poll::Ready(outcome) = polled {
            return Poll::Ready(outcome.map_err(other));
        }
        timer.poll_expired(context).map(|()| Err(Refusal::Late))
    })
    .await;
    let (sender, mut frames) = greeted?;
    poll_fn(|context| {
        let polled = outbox.turn(context, |context| Pin::new(&mut frames).poll(context));
        if let Poll::Ready(outcome) = polled {
            let closed = || Refusal::Other("closed".to_owned());
            return Poll::Ready(Err(outcome.map_or_else(other, |()| closed())));
        }
        if outbox.watch().borrow().settled() {
            return Poll::Ready(Ok(()));
        }
        timer.poll_expired(context).map(|()| Err(Refusal::Late))
    })
    .await?;
    Ok((sender, frames, outbox))
}

/// Opens a connection.
async fn open(
    search: &Search<'_>,
    timer: &Timer,
    (backend, record): (&Backend, &Record),
    place: &Rc<Place>,
) -> Result<(), Rejection> {
    let shard = search.shard;
    let limits = search.snapshot.settings.limits;
    let stream = search.connect(timer, backend, record).await?;
    let allowance = Allowance {
        resets: u32::MAX,
        frames: limits.http2.frames,
    };
    let now = shard.core.now();
    let watch = Watch::of_backend(allowance, now);
    let service = &search.routed.settings.service;
    let (sender, mut frames, outbox) = greet(stream, &limits, watch, timer)
        .await
        .map_err(|refusal| refusal.told(service, &backend.name))?;
    let shared = Rc::new(Shared {
        sender: RefCell::new(Some(sender)),
        open: Cell::new(0),
        streams: limits.http2.streams as usize,
        waker: RefCell::default(),
    });
    place.shared.borrow_mut().push(Rc::clone(&shared));
    let task = Task {
        pings: frames.ping_pong(),
        frames,
        outbox,
        shared,
        timer: Timer::new(&shard.core),
        core: Rc::clone(timer.core()),
        limits,
        idle_since: now,
        asked: None,
        place: Rc::clone(place),
        pool: Rc::clone(&shard.http2.0),
        kind: (backend.id, search.way_id()),
    };
    shard.core.spawn(task.run());
    Ok(())
}

/// Reads and writes the frames of one connection.
struct Task {
    frames: Connection,
    outbox: Rc<Outbox>,
    pings: Option<PingPong>,
    shared: Rc<Shared>,
    timer: Timer,
    core: Rc<Core>,
    limits: LimitsSettings,
    idle_since: Instant,
    /// When the backend was asked for a sign of life.
    asked: Option<Instant>,
    place: Rc<Place>,
    pool: Rc<RefCell<HashMap<Kind, Rc<Place>>>>,
    kind: Kind,
}

impl Task {
    async fn run(mut self) {
        poll_fn(|context| self.poll(context)).await;
        drop(self.shared.sender.take());
        let mut list = self.place.shared.borrow_mut();
        list.retain(|shared| !Rc::ptr_eq(shared, &self.shared));
        let unused = list.is_empty() && !self.place.opening.get();
        drop(list);
        self.place.wake_all();
        if unused && self.place.queue.borrow().is_empty() {
            self.pool.borrow_mut().remove(&self.kind);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let stale = |waker: &Waker| !waker.will_wake(context.waker());
        if self.shared.waker.borrow().as_ref().is_none_or(stale) {
            *self.shared.waker.borrow_mut() = Some(context.waker().clone());
        }
        let room_before = self.shared.has_room();
        let frames = Pin::new(&mut self.frames);
        if let Poll::Ready(outcome) = self.outbox.turn(context, |context| frames.poll(context)) {
            if let Err(error) = outcome {
                tracing::debug!(%error, "an HTTP/2 connection to a backend ended");
            }
            return Poll::Ready(());
        }
        if !room_before && self.shared.has_room() {
            self.place.wake_all();
        }
        if let Some(reason) = self.outbox.watch().borrow().cut() {
            tracing::warn!(
                reason = reason.code(),
                "a backend's HTTP/2 connection is cut"
            );
            return Poll::Ready(());
        }
        if let Some(pings) = &mut self.pings
            && let Poll::Ready(Ok(_)) = pings.poll_pong(context)
        {
            self.asked = None;
        }
        self.look_at_time(context)
    }

    /// Closes a connection that nobody uses, asks a silent backend for a sign.
    fn look_at_time(&mut self, context: &Context<'_>) -> Poll<()> {
        loop {
            let now = self.core.now();
            let idle = self.shared.open.get() == 0;
            if !idle {
                self.idle_since = now;
            }
            let deadline = match self.asked {
                Some(asked) => asked + PONG,
                None if idle => self.idle_since + self.limits.backend_idle,
                None => self.outbox.watch().borrow().last_in() + self.limits.http2.ping,
            };
            if now < deadline {
                self.timer.set_at(deadline);
                if self.timer.poll_expired(context).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            match self.asked {
                Some(asked) if self.outbox.watch().borrow().last_in() <= asked => {
                    tracing::debug!("a backend's HTTP/2 connection gives no sign of life");
                    return Poll::Ready(());
                }
                Some(_) => self.asked = None,
                None if idle => return Poll::Ready(()),
                None => {
                    self.asked = Some(now);
                    let sent = self
                        .pings
                        .as_mut()
                        .map(|pings| pings.send_ping(Ping::opaque()));
                    if let Some(Err(error)) = sent {
                        tracing::debug!(%error, "ping");
                    }
                    context.waker().wake_by_ref();
                }
            }
        }
    }
}

/// True when the backend did not look at a request (RFC 9113 §8.7): its stream stands above the
/// last one of a GOAWAY, or was refused.
pub(super) fn is_unseen(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || refused)
}
