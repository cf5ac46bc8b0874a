//! Choose backend, and reach it: a connection that was kept, or a new one; another backend when
//! that fails; a place in the queue when all are full.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::backends::{Backend, InFlight, Service, Set};
use crate::decide::{self, Candidate, Routed, Wanted};
use crate::driver::buffer::Buffer;
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::driver::tls::HandshakeError;
use crate::hold;
use crate::http2::backend::{self, Lease};
use crate::pipeline::Stop;
use crate::proxy_protocol;
use crate::queue::{ANY, Place};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::retry;
use crate::service::Outcome;
use crate::settings::{Protocol, RetryOn};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::tls::Way;

/// How a backend is spoken to.
#[derive(Debug)]
pub(crate) enum Link {
    /// A connection for one request at a time.
    Http1(TcpStream),
    /// A place on a connection that many requests share.
    Http2(Lease),
}

/// A connection to the chosen backend.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) link: Link,
    pub(crate) flight: InFlight,
    /// It served a request before.
    pub(crate) reused: bool,
    /// The client is to be told that it stays with this backend.
    pub(crate) new_client: bool,
    /// What was read of the answer already.
    pub(crate) early: RefCell<Option<Buffer>>,
    /// When the request could be sent.
    since: Instant,
    settled: Cell<bool>,
}

impl Upstream {
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.flight.0
    }

    /// The connection, where it is for this request alone.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match &self.link {
            Link::Http1(stream) => Some(stream),
            Link::Http2(_) => None,
        }
    }
}

/// The search for a backend that takes the request. It is kept for further tries.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    pub(crate) shard: &'a Shard,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) routed: &'a Routed<'a>,
    pub(crate) set: &'a Set,
    pub(crate) wanted: &'a Wanted,
    /// Kept connections are out of question.
    pub(crate) fresh: Cell<bool>,
    /// The request may be sent again after it reached a backend.
    pub(crate) repeatable: bool,
    /// The connection is for bytes of which nothing is known.
    bytes: bool,
    /// Backends that failed.
    tried: Vec<u64>,
    tries: Cell<u32>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(
        shard: &'a Shard,
        snapshot: &'a Snapshot,
        routed: &'a Routed<'a>,
        (set, wanted): (&'a Set, &'a Wanted),
        repeatable: bool,
    ) -> Self {
        Self {
            shard,
            snapshot,
            routed,
            set,
            wanted,
            fresh: Cell::new(false),
            repeatable,
            bytes: false,
            tried: Vec::new(),
            tries: Cell::new(0),
        }
    }

    /// The connection is for bytes of which nothing is known: a kept one has spoken HTTP.
    pub(crate) fn passes_bytes(&mut self) {
        self.fresh.set(true);
        self.bytes = true;
    }

    fn service(&self) -> &'a Arc<Service> {
        &self.routed.route.service
    }

    /// True when the request may be tried once more after `failure`; the budget is spent then.
    pub(crate) fn may_repeat(&self, failure: RetryOn) -> bool {
        let settings = &self.routed.settings.retry;
        let safe = failure == RetryOn::CONNECT || self.repeatable;
        let may = safe
            && settings.on.has(failure)
            && self.tries.get() < settings.attempts
            && self.service().spend(settings, self.shard.core.now());
        if may {
            self.shard.stats.retries.add(1);
        }
        may
    }

    /// A kept connection turned out to be closed: that was no try, and the next one is on a
    /// connection that is surely new.
    pub(crate) fn was_stale(&self) {
        self.fresh.set(true);
        self.tries.set(self.tries.get().saturating_sub(1));
        self.shard.stats.retries.add(1);
    }

    /// True when a second backend may be asked beside the first; the budget is spent then.
    pub(crate) fn may_hedge(&self) -> bool {
        let settings = &self.routed.settings.retry;
        let service = self.service();
        let may = matches!(self.wanted, Wanted::Any(_))
            && self.tries.get() < settings.attempts
            && service.set.load().up().len() > 1
            && service.spend(settings, self.shard.core.now());
        if may {
            service.figures.hedges.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// The head of an answer is there.
    pub(crate) fn answered(&self, upstream: &Upstream) {
        let now = self.shard.core.now();
        let took = now.saturating_duration_since(upstream.since);
        self.service().answered(upstream.backend(), took, now);
    }

    /// Notes what became of the request at `upstream`. Only the first word counts.
    pub(crate) fn settle(&self, upstream: &Upstream, outcome: Outcome) {
        if !upstream.settled.replace(true) {
            let now = self.shard.core.now();
            self.service().observe(upstream.backend(), outcome, now);
        }
    }

    /// Leaves `backend` out while there is another.
    pub(crate) fn avoid(&mut self, backend: &Backend) {
        self.tried.push(backend.id);
    }

    /// A connection to a backend; another backend when a connection can't be made.
    ///
    /// # Errors
    /// A rejection with the cause of the last try.
    pub(crate) async fn reach(
        &mut self,
        timer: &Timer,
        record: &mut Record,
    ) -> Result<Upstream, Stop> {
        if self.shard.shared.hold.is_on() {
            Box::pin(hold::wait(self.shard, self.set, timer)).await?;
        }
        if self.tries.get() == 0 {
            self.pass_breaker()?;
        }
        loop {
            let later;
            let set = if self.tries.get() == 0 {
                self.set
            } else {
                later = self.service().set.load_full();
                &later
            };
            let (flight, new_client) = match self.take_place(set)? {
                Some(taken) => taken,
                None => Box::pin(self.queue(timer)).await?,
            };
            let backend = Arc::clone(&flight.0);
            self.tries.set(self.tries.get() + 1);
            record.attempts += 1;
            record.backend = Some(Arc::clone(&backend));
            let kept = self.kept(&backend);
            let reused = kept.is_some();
            let connected = match kept {
                Some(link) => Ok(link),
                None => self.open(timer, &backend, record).await,
            };
            let now = self.shard.core.now();
            match connected {
                Ok(link) => {
                    if !reused {
                        record.connected = Some(now);
                    }
                    return Ok(Upstream {
                        link,
                        flight,
                        reused,
                        new_client,
                        early: RefCell::default(),
                        since: now,
                        settled: Cell::new(false),
                    });
                }
                Err(rejection) => {
                    drop(flight);
                    self.service().observe(&backend, Outcome::Failed, now);
                    self.avoid(&backend);
                    let again = retry::kind(rejection.reason).is_some_and(|f| self.may_repeat(f));
                    if !again {
                        return Err(rejection.into());
                    }
                    backend.failures.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn pass_breaker(&self) -> Result<(), Rejection> {
        let service = self.service();
        service.admit(self.shard.core.now()).map_err(|rest| {
            let detail = format!("too many requests of service {} failed", service.name);
            let seconds = rest.as_secs() + u64::from(rest.subsec_nanos() > 0);
            Rejection::new(Reason::BreakerOpen, detail).retry_after(seconds)
        })
    }

    /// A place at a backend; `None` when all are full.
    fn take_place(&self, set: &Set) -> Result<Option<(InFlight, bool)>, Rejection> {
        let service = self.service();
        let now = self.shard.core.now();
        loop {
            match decide::backend(service, set, self.wanted, &self.tried, now)? {
                Candidate::Full => return Ok(None),
                Candidate::One(backend) => {
                    if let Some(flight) = InFlight::take(&backend, service) {
                        let new_client = self.wanted.is_new_to(service, &backend);
                        return Ok(Some((flight, new_client)));
                    }
                    // Another thread was faster: look again, unless there is no other.
                    if matches!(self.wanted, Wanted::Only(_)) {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Waits until a backend has room.
    async fn queue(&self, timer: &Timer) -> Result<(InFlight, bool), Stop> {
        let service = self.service();
        let Some(limit) = &service.settings.limit else {
            return Err(no_room(Reason::QueueFull, &service.name).into());
        };
        let key = match self.wanted {
            Wanted::Only(backend) => backend.id,
            Wanted::Any(_) => ANY,
        };
        let Some(mut place) = service.queue.enter(key, limit.queue) else {
            return Err(no_room(Reason::QueueFull, &service.name).into());
        };
        service.figures.queued.fetch_add(1, Ordering::Relaxed);
        timer.set(limit.wait);
        loop {
            // Once more now that we are seen: room may have come before.
            if let Some(taken) = self.take_place(&service.set.load_full())? {
                place.served();
                return Ok(taken);
            }
            let turn = poll_fn(|context| wait_for_turn(&mut place, timer, context)).await;
            if !turn {
                return Err(no_room(Reason::QueueTimeout, &service.name).into());
            }
            if let Some(taken) = self.take_place(&service.set.load_full())? {
                place.served();
                return Ok(taken);
            }
            place.wait_on();
        }
    }

    fn kept(&self, backend: &Backend) -> Option<Link> {
        if self.speaks_http2() {
            let kept = self.shard.http2.take(backend.id, self.way_id());
            return kept.map(Link::Http2);
        }
        if self.fresh.get() || self.service().settings.proxy_protocol.is_some() {
            return None;
        }
        // A request that can't be sent twice takes only a connection that was just in use: its
        // backend has hardly closed it meanwhile.
        let limit = self.snapshot.settings.limits.backend_idle;
        let age = if self.repeatable {
            limit
        } else {
            limit.min(Duration::from_secs(1))
        };
        let kept = self.shard.pool.take(backend.id, self.way_id(), age);
        kept.map(Link::Http1)
    }

    /// How backends are called; `None` without TLS.
    fn way(&self) -> Option<&Way> {
        self.service().way.get().map(|way| &**way)
    }

    /// Connections with the same one are as good as each other.
    pub(crate) fn way_id(&self) -> u64 {
        self.way().map_or(0, |way| way.id)
    }

    pub(crate) fn speaks_http2(&self) -> bool {
        !self.bytes && self.service().settings.protocol == Protocol::Http2
    }

    async fn open(
        &self,
        timer: &Timer,
        backend: &Backend,
        record: &Record,
    ) -> Result<Link, Rejection> {
        if self.speaks_http2() {
            let leasing = backend::lease(self, timer, backend, record);
            return Box::pin(leasing).await.map(Link::Http2);
        }
        self.connect(timer, backend, record).await.map(Link::Http1)
    }

    /// A new connection, within `timeout.connect`.
    ///
    /// # Errors
    /// When it does not stand.
    pub(crate) async fn connect(
        &self,
        timer: &Timer,
        backend: &Backend,
        record: &Record,
    ) -> Result<TcpStream, Rejection> {
        timer.set(self.routed.settings.timeout.connect);
        let settings = &self.service().settings;
        let plain = settings.proxy_protocol.is_none() && settings.tls.is_none();
        let mut connecting = pin!(async {
            let stream = TcpStream::connect(&self.shard.core, backend.address)
                .await
                .map_err(ReachError::Connect)?;
            if plain {
                return Ok(stream);
            }
            // What is rare is boxed.
            Box::pin(self.introduce(stream, backend, record)).await
        });
        let outcome = poll_fn(|context: &mut Context<'_>| {
            if let Poll::Ready(result) = connecting.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            timer.poll_expired(context).map(|()| None)
        })
        .await;
        let service = &self.routed.settings.service;
        match outcome {
            Some(Ok(stream)) => {
                let connections = &self.shard.stats.backend_connections;
                connections.add(1);
                Ok(stream)
            }
            Some(Err(error)) => {
                tracing::debug!(%error, backend = backend.name, service, "connect failed");
                let (reason, what) = error.told();
                let detail = format!("a backend of service {service} {what}");
                Err(Rejection::new(reason, detail))
            }
            None => Err(Rejection::new(
                Reason::ConnectTimeout,
                format!("a backend of service {service} did not answer in time"),
            )),
        }
    }

    /// What a new connection says before its first request: whom it comes from, then TLS.
    async fn introduce(
        &self,
        stream: TcpStream,
        backend: &Backend,
        record: &Record,
    ) -> Result<TcpStream, ReachError> {
        let mut stream = stream;
        if let Some(version) = self.service().settings.proxy_protocol {
            let called = record.called.unwrap_or(backend.address);
            let header = proxy_protocol::write(version, record.peer, called);
            let mut left = header.as_slice();
            while !left.is_empty() {
                let written = poll_fn(|context| stream.poll_write(context, &[IoSlice::new(left)]));
                let count = written.await.map_err(ReachError::Connect)?;
                left = left.get(count..).unwrap_or_default();
            }
        }
        let Some(way) = self.way() else {
            return Ok(stream);
        };
        let handshakes = &self.shard.stats.backend_handshakes;
        let name = way.tls.name(backend.address.ip());
        let begun = stream.begin_tls(way.tls.config(), name, way.id);
        let shaken = match begun {
            Ok(()) => poll_fn(|context| stream.poll_handshake(context)).await,
            Err(error) => Err(HandshakeError::Refused(error)),
        };
        match (shaken, stream.agreed()) {
            (Ok(()), Some(agreed)) => handshakes.succeeded(agreed),
            (Ok(()), None) => {}
            (Err(error), _) => {
                handshakes.failed();
                return Err(ReachError::Handshake(error));
            }
        }
        Ok(stream)
    }
}

/// Why a new connection to a backend did not come to stand.
#[derive(Debug, thiserror::Error)]
enum ReachError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("TLS: {0:?}")]
    Handshake(HandshakeError),
}

impl ReachError {
    /// The cause, and what the client is told of the backend.
    fn told(&self) -> (Reason, &'static str) {
        match self {
            Self::Connect(_) => (Reason::ConnectFailed, "can't be reached"),
            Self::Handshake(HandshakeError::Refused(rustls::Error::InvalidCertificate(_))) => (
                Reason::BackendCertificate,
                "showed a certificate that is not believed",
            ),
            Self::Handshake(_) => (Reason::BackendTlsFailed, "does not speak TLS as it should"),
        }
    }
}

/// What the end of a try says about its backend.
pub(crate) fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::BackendTlsFailed
        | Reason::BackendCertificate
        | Reason::BackendClosed
        | Reason::ResponseCut
        | Reason::ResponseTimeout
        | Reason::BackendIdle
        | Reason::BackendStalled => Outcome::Failed,
        _ => Outcome::Neutral,
    }
}

/// True when it is worth looking again, false when the wait is over.
fn wait_for_turn(place: &mut Place<'_>, timer: &Timer, context: &Context<'_>) -> Poll<bool> {
    if place.poll_turn(context).is_ready() {
        return Poll::Ready(true);
    }
    timer.poll_expired(context).map(|()| false)
}

fn no_room(reason: Reason, service: &str) -> Rejection {
    let detail = match reason {
        Reason::QueueTimeout => format!("no backend of service {service} had room in time"),
        _ => format!("all backends of service {service} are full, and so is its queue"),
    };
    Rejection::new(reason, detail).retry_after(1)
}
