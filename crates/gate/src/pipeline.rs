//! A request, from its first byte to its last. The stages in order, as in
//! docs/life-of-a-request.md:
//!
//! accept (`connection`) → ip filter → read head → shield → route → limits → choose backend → forward, streaming both
//! ways → finish.
//!
//! Each stage passes or returns a [`Stop`] through `?`; `answer` turns a rejection into a
//! response, `Record::finish` counts and logs.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::connection::{After, Connection};
use crate::decide::{self, Routed};
use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::forward::{self, Waiter};
use crate::forwarded;
use crate::hedge;
use crate::http1::Framing;
use crate::http1::head::{self, HeadLimits, RequestHead};
use crate::http2;
use crate::http2::answer::Answering;
use crate::http2::forward::ClientSide;
use crate::ip_filter;
use crate::outgoing::Terms;
use crate::reach::{self, Link, Search, Upstream};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::relay::{self, Patience};
use crate::reply;
use crate::retry;
use crate::service::Outcome;
use crate::settings::{Action, LimitsSettings, Protocol, TimeoutSettings};
use crate::shard::{Listener, Shard};
use crate::shield;
use crate::snapshot::Snapshot;
use crate::target;
use crate::ws::handshake::{self, Fault};

/// How often a request that a backend did not look at is sent again.
const UNSEEN_MAX: u32 = 3;

/// How TLS begins: a handshake record of any version (RFC 8446 §5.1). No method does.
const CLIENT_HELLO: [u8; 2] = [22, 3];

/// Why an exchange ends before its time.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The client gets an answer of ours, if none was begun.
    Reject(Rejection),
    /// The connection is closed.
    End(Reason),
    /// The client left between two requests: nothing happened.
    Quiet,
    /// There is no request yet: the readiness was stale.
    NotYet,
    /// The backend of a shared connection did not look at the request: it may be sent again.
    Unseen,
    /// The connection was closed by its backend before a byte of a response.
    Stale,
    /// The backend's answer is thrown away: another try was granted.
    Again(Outcome),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Reject(rejection)
    }
}

/// Counts an exchange as active for as long as it lives.
pub(crate) struct Active<'a>(&'a Shard);

impl<'a> Active<'a> {
    pub(crate) fn new(shard: &'a Shard) -> Self {
        shard.stats.active.add(1);
        Self(shard)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.stats.active.take(1);
    }
}

/// Runs one exchange.
pub(crate) async fn exchange(shard: &Rc<Shard>, connection: &mut Connection) -> After {
    let snapshot = shard.snapshot();
    let mut record = Record::new(shard.core.now(), connection.peer);
    record.protocol = Some(Protocol::Http1);
    let active = Active::new(shard);
    let mut head = None;
    let ended = run(shard, &snapshot, connection, &mut record, &mut head).await;
    drop(active);
    let (reason, after) = match ended {
        Ok(ended) => ended,
        Err(Stop::Quiet) => {
            connection.stream.say_goodbye();
            return After::Gone;
        }
        Err(Stop::NotYet) => return After::Next,
        Err(Stop::End(reason)) => (reason, After::Gone),
        Err(Stop::Stale | Stop::Unseen | Stop::Again(_)) => (Reason::BackendClosed, After::Gone),
        Err(Stop::Reject(rejection)) if record.status.get() != 0 => (rejection.reason, After::Gone),
        Err(Stop::Reject(rejection)) => {
            let caller = Caller::Http1(connection);
            let answered = answer(
                shard,
                &snapshot,
                &caller,
                head.as_ref(),
                (&rejection, &record),
            );
            let after = Box::pin(answered).await;
            (rejection.reason, after)
        }
    };
    record.name_refused(&snapshot, reason);
    record.finish(shard, &connection.listener().name, head.as_ref(), reason);
    after
}

async fn run(
    shard: &Rc<Shard>,
    snapshot: &Arc<Snapshot>,
    connection: &mut Connection,
    record: &mut Record,
    kept: &mut Option<RequestHead>,
) -> Result<(Reason, After), Stop> {
    let limits = &snapshot.settings.limits;
    let mut head = read_head(shard, connection, limits, record).await?;
    let caller = Caller::Http1(connection);
    meet(shard, snapshot, &caller, &mut head, record);
    let head = &*kept.insert(head);
    stages(shard, snapshot, caller, head, record).await
}

/// Notes who sent a request, and gives it its place in a trace where traces are on.
pub(crate) fn meet(
    shard: &Shard,
    snapshot: &Snapshot,
    caller: &Caller<'_, '_>,
    head: &mut RequestHead,
    record: &mut Record,
) {
    if let Some(tracer) = &shard.shared.tracer {
        let trusted = snapshot.trusts(record.peer.ip().to_canonical());
        record.trace = Some(tracer.begin(head, trusted));
    }
    record.head_read = Some(shard.core.now());
    if shard.shared.log.is_on() {
        record.tls = caller.stream().agreed();
    }
    record.client = Some(forwarded::client(snapshot, record.peer.ip(), head));
}

/// Who asks, and over what.
#[derive(Debug)]
pub(crate) enum Caller<'a, 'c> {
    Http1(&'a mut Connection),
    Http2(&'a mut ClientSide<'c>),
}

impl Caller<'_, '_> {
    fn listener(&self) -> &Listener {
        match self {
            Self::Http1(connection) => connection.listener(),
            Self::Http2(side) => side.client.listener(),
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http1,
            Self::Http2(_) => Protocol::Http2,
        }
    }

    /// The connection of the client, which may carry other requests, too.
    fn stream(&self) -> &TcpStream {
        match self {
            Self::Http1(connection) => &connection.stream,
            Self::Http2(side) => side.client.stream(),
        }
    }
}

impl Waiter for Caller<'_, '_> {
    fn timer(&self) -> &Timer {
        match self {
            Self::Http1(connection) => &connection.timer,
            Self::Http2(side) => side.timer,
        }
    }

    fn peer(&self) -> IpAddr {
        match self {
            Self::Http1(connection) => connection.peer.ip(),
            Self::Http2(side) => side.client.peer.ip(),
        }
    }

    fn is_tls(&self) -> bool {
        self.stream().is_tls()
    }

    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(connection) => connection.stream.poll_broken(context),
            Self::Http2(side) => side.poll_gone(context),
        }
    }
}

/// From the head on: ip filter → shield → route → limits, then what the route does.
pub(crate) async fn stages(
    shard: &Shard,
    snapshot: &Snapshot,
    caller: Caller<'_, '_>,
    head: &RequestHead,
    record: &mut Record,
) -> Result<(Reason, After), Stop> {
    let client = record.client.unwrap_or_else(|| record.peer.ip());
    ip_filter::admit(shard, snapshot, client)?;
    let asked = (caller.listener().name.as_str(), head);
    if let Err(stop) = shield::admit(shard, snapshot, asked, record) {
        return Err(Box::pin(shield::hold(shard, snapshot, &caller, stop)).await);
    }

    let routed = decide::route(snapshot, &caller.listener().name, head)?;
    routed.route.count(shard.index);
    if shard.shared.log.is_on() || record.trace.is_some() {
        record.name_route(routed.settings);
    }
    record.place = Some(routed.route.place);
    let websocket = &routed.settings.websocket;
    let fault = handshake::judge(websocket, head, caller.protocol());
    if let Some(fault) = fault {
        record.note(fault);
    }
    let connection = (record.peer.ip(), caller.scheme());
    let site = || forwarded::site(snapshot, connection, head);
    handshake::admit(websocket, fault, head, site)?;
    decide::limits(routed.settings, head)?;
    decide::rate(routed.route, (head, client), shard.core.now(), true)?;
    if !matches!(routed.settings.action, Action::Forward) {
        let terms = Terms::new(snapshot, routed.settings, head, &caller);
        let answered = async {
            let made = reply::make(shard, terms).await?;
            reply::send(shard, &caller, terms, record, made).await
        };
        return Box::pin(answered).await;
    }
    send_on(shard, snapshot, caller, (head, &routed, client), record).await
}

/// Choose backend → forward, again as long as a failure and the route allow it.
async fn send_on(
    shard: &Shard,
    snapshot: &Snapshot,
    mut caller: Caller<'_, '_>,
    (head, routed, client): (&RequestHead, &Routed<'_>, IpAddr),
    record: &mut Record,
) -> Result<(Reason, After), Stop> {
    let set = routed.route.service.set.load_full();
    let wanted = decide::wanted(routed, &set, head, client, shard.core.now())?;
    let says_client = routed.route.service.settings.proxy_protocol.is_some();
    if says_client {
        record.called = caller.stream().local_address();
    }
    let body = match routed.settings.retry.body_max {
        0 => None,
        _ => Box::pin(gather(&mut caller, head, routed)).await?,
    };
    let repeatable = head.is_idempotent() && (head.framing == Framing::None || body.is_some());
    let mut search = Search::new(shard, snapshot, routed, (&set, &wanted), repeatable);
    let mut upstream = reach(&mut search, &caller, record).await?;
    let mut sent = false;
    if let Some(after) = routed.settings.hedge_after
        && hedge::fits(head)
        && !search.speaks_http2()
    {
        let asked = hedge::ask(&mut search, upstream, head, (&caller, after), record);
        (upstream, sent) = Box::pin(asked).await?;
    }
    let mut unseen = 0;
    loop {
        let order = forward::Order {
            shard,
            snapshot,
            head,
            routed,
            upstream: &upstream,
            search: &search,
            body: body.as_deref(),
            sent,
        };
        let stop = match forwarded(&order, &mut caller, record).await {
            Ok(ended) => {
                search.settle(&upstream, record.outcome.get());
                // A connection that named its client serves no other.
                if let (Link::Http1(stream), true) = (upstream.link, ended.reusable && !says_client)
                {
                    let most = snapshot.settings.limits.backend_idle_max;
                    shard.pool.give(upstream.flight.0.id, stream, most);
                }
                return Ok((ended.reason, ended.after));
            }
            Err(Stop::Unseen) if unseen == UNSEEN_MAX => Stop::Stale,
            Err(stop) => stop,
        };
        unseen += u32::from(matches!(stop, Stop::Unseen));
        settle(&mut search, &upstream, record, stop)?;
        drop(upstream);
        sent = false;
        upstream = reach(&mut search, &caller, record).await?;
    }
}

/// Forward: by whatever the two sides speak.
async fn forwarded(
    order: &forward::Order<'_>,
    caller: &mut Caller<'_, '_>,
    record: &mut Record,
) -> Result<forward::Ended, Stop> {
    match (caller, &order.upstream.link) {
        (Caller::Http1(connection), Link::Http1(stream)) => {
            forward::run(forward::Plan { order, stream }, connection, record).await
        }
        (Caller::Http1(connection), Link::Http2(_)) => {
            Box::pin(http2::forward::from_http1(order, connection, record)).await
        }
        (Caller::Http2(side), _) => Box::pin(http2::forward::run(order, side, record)).await,
    }
}

/// A small body as a whole, where it may have to be sent twice.
async fn gather(
    caller: &mut Caller<'_, '_>,
    head: &RequestHead,
    routed: &Routed<'_>,
) -> Result<Option<Vec<u8>>, Stop> {
    match caller {
        Caller::Http1(connection) => retry::gather(connection, head, routed.settings).await,
        Caller::Http2(side) => http2::forward::gather(side, head, routed.settings).await,
    }
}

/// A connection to a backend, unless the client goes away meanwhile.
async fn reach(
    search: &mut Search<'_>,
    caller: &Caller<'_, '_>,
    record: &mut Record,
) -> Result<Upstream, Stop> {
    let mut reaching = pin!(search.reach(caller.timer(), record));
    poll_fn(|context| {
        if let Poll::Ready(outcome) = reaching.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        let gone = caller.poll_gone(context);
        gone.map(|()| Err(Stop::End(Reason::ClientGone)))
    })
    .await
}

/// Notes how a try ended. Passes when there is to be another one.
fn settle(
    search: &mut Search<'_>,
    upstream: &Upstream,
    record: &Record,
    stop: Stop,
) -> Result<(), Stop> {
    let rejection = match stop {
        // Nothing reached the application: once more, on a connection that is surely new.
        Stop::Stale if upstream.reused && search.repeatable => {
            search.was_stale();
            return Ok(());
        }
        Stop::Unseen => {
            search.was_stale();
            return Ok(());
        }
        Stop::Stale => {
            if !upstream.reused {
                search.settle(upstream, Outcome::Failed);
            }
            let detail = "the backend closed the connection without an answer";
            Rejection::new(Reason::BackendClosed, detail)
        }
        Stop::Again(outcome) => {
            search.settle(upstream, outcome);
            search.avoid(&upstream.flight.0);
            return Ok(());
        }
        Stop::Reject(rejection) => {
            search.settle(upstream, reach::outcome(rejection.reason));
            rejection
        }
        Stop::End(reason) => {
            search.settle(upstream, reach::outcome(reason));
            return Err(Stop::End(reason));
        }
        stop @ (Stop::Quiet | Stop::NotYet) => return Err(stop),
    };
    let again = record.status.get() == 0
        && retry::kind(rejection.reason).is_some_and(|failure| search.may_repeat(failure));
    if !again {
        return Err(rejection.into());
    }
    upstream.flight.0.failures.fetch_add(1, Ordering::Relaxed);
    search.avoid(&upstream.flight.0);
    Ok(())
}

/// Read head: within `limits.head` of its first byte, within `limits.head_bytes`.
async fn read_head(
    shard: &Shard,
    connection: &mut Connection,
    limits: &LimitsSettings,
    record: &Record,
) -> Result<RequestHead, Stop> {
    let most = head_limits(limits);
    let deadline = shard.core.now() + limits.head;
    let mut buffer = connection
        .leftover
        .take()
        .unwrap_or_else(|| Buffer::new(&shard.core, SMALL));
    let mut scanned = 0;
    loop {
        if scanned == 0 {
            buffer.consume(head::empty_lines(buffer.filled()));
        }
        if buffer.filled().starts_with(&CLIENT_HELLO) {
            record.note(Fault::TlsOnPlain);
            return Err(Stop::End(Reason::TlsOnPlain));
        }
        let end = head::find_end(buffer.filled(), scanned, most).map_err(Rejection::from)?;
        if let Some(end) = end {
            let bytes = buffer.filled().get(..end).unwrap_or_default();
            let parsed = RequestHead::parse(bytes, most).map_err(Rejection::from)?;
            buffer.consume(end);
            connection.leftover = Some(buffer).filter(|rest| !rest.is_empty());
            return Ok(parsed);
        }
        scanned = buffer.filled().len();
        if !buffer.make_room() {
            return Err(Rejection::from(crate::http1::BadMessage::HeadTooLarge).into());
        }
        let mut armed = false;
        let read = poll_fn(|context| {
            if let Poll::Ready(result) = connection.stream.poll_read(context, buffer.spare()) {
                return Poll::Ready(Some(result));
            }
            if scanned == 0 {
                return Poll::Ready(None);
            }
            if !armed {
                armed = true;
                connection.timer.set_at(deadline);
            }
            connection.timer.poll_expired(context).map(|()| None)
        })
        .await;
        match read {
            Some(Ok(count)) if count > 0 => buffer.fill(count),
            None if scanned == 0 => return Err(Stop::NotYet),
            _ if buffer.is_empty() => return Err(Stop::Quiet),
            Some(Ok(_)) => {
                let detail = "the connection ended in the middle of the head";
                return Err(Rejection::new(Reason::RequestCut, detail).into());
            }
            Some(Err(_)) => return Err(Stop::End(Reason::ClientGone)),
            None => {
                let detail = "the head did not arrive in time";
                return Err(Rejection::new(Reason::HeadTimeout, detail).into());
            }
        }
    }
}

pub(crate) fn head_limits(limits: &LimitsSettings) -> HeadLimits {
    HeadLimits {
        bytes: limits.head_bytes,
        fields: limits.headers,
    }
}

/// The one place that turns a rejection into a response.
pub(crate) async fn answer(
    shard: &Shard,
    snapshot: &Snapshot,
    caller: &Caller<'_, '_>,
    head: Option<&RequestHead>,
    (rejection, record): (&Rejection, &Record),
) -> After {
    if rejection.reason.status() == 0 {
        return After::Gone;
    }
    let Some(head) = head else {
        let listener = &caller.listener().name;
        shield::observe_unread(shard, snapshot, listener, record, rejection.reason);
        return answer_unread(shard, caller, rejection, record).await;
    };
    let pages = &snapshot.settings.error_pages;
    let settings = record.place.and_then(|place| snapshot.table.get(place));
    let settings = settings.unwrap_or(&snapshot.no_route);
    let terms = Terms::new(snapshot, settings, head, caller);
    let reply = reply::rejection(rejection, head, &[&settings.error_pages, pages]);
    let sent = reply::send(shard, caller, terms, record, reply).await;
    sent.map_or(After::Gone, |(_, after)| after)
}

/// Answers a head that was not understood.
async fn answer_unread(
    shard: &Shard,
    caller: &Caller<'_, '_>,
    rejection: &Rejection,
    record: &Record,
) -> After {
    let status = rejection.reason.status();
    record.status.set(status);
    let connection = match caller {
        Caller::Http1(connection) => connection,
        Caller::Http2(side) => {
            let bytes = shard.with_date(|date| rejection_bytes(rejection, date, false));
            record.sent.set(bytes.len() as u64);
            let (lead, document) = split_head(&bytes);
            let timeout = TimeoutSettings::default();
            let mut answering = Answering::new(side, status, &timeout);
            let sent = answering.put(lead.to_vec(), document, true).await;
            return sent.map_or(After::Gone, |()| After::Next);
        }
    };
    // Nobody knows where the next request begins.
    let bytes = shard.with_date(|date| rejection_bytes(rejection, date, true));
    record.sent.set(bytes.len() as u64);
    let mut patience = Patience::Idle(Duration::from_secs(10));
    let parts = [bytes.as_slice(), &[], &[]];
    let written = relay::write_all(&connection.stream, parts, &mut patience, &connection.timer);
    written.await.map_or(After::Gone, |()| After::Linger)
}

fn split_head(response: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memmem::find(response, b"\r\n\r\n").map_or(response.len(), |at| at + 4);
    response.split_at_checked(end).unwrap_or((response, &[]))
}

/// A rejection as the bytes of a response.
pub(crate) fn rejection_bytes(rejection: &Rejection, date: &[u8], close: bool) -> Vec<u8> {
    let document = rejection.document();
    let mut text = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
        rejection.reason.status(),
        rejection.reason.title(),
        document.len(),
    );
    if !date.is_empty() {
        text.push_str(&format!("Date: {}\r\n", target::text(date)));
    }
    for (name, value) in rejection.fields() {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if close {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&document);
    bytes
}
