//! A request, from its first byte to its last. The stages in order, as in
//! docs/life-of-a-request.md:
//!
//! accept (`connection`) → read head → route → limits → choose backend → forward, streaming both
//! ways → finish.
//!
//! Each stage passes or returns a [`Stop`] through `?`; `answer` turns a rejection into a
//! response, `Record::finish` counts and logs.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use crate::connection::{After, Connection};
use crate::decide;
use crate::driver::buffer::{Buffer, SMALL};
use crate::forward;
use crate::hedge;
use crate::http1::Framing;
use crate::http1::head::{self, HeadLimits, RequestHead};
use crate::outgoing::Terms;
use crate::reach::{self, Search, Upstream};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::relay::{self, Patience};
use crate::reply;
use crate::retry;
use crate::service::Outcome;
use crate::settings::{Action, LimitsSettings};
use crate::shard::Shard;
use crate::snapshot::Snapshot;

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
struct Active<'a>(&'a Shard);

impl<'a> Active<'a> {
    fn new(shard: &'a Shard) -> Self {
        shard.stats.active.fetch_add(1, Ordering::Relaxed);
        Self(shard)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.stats.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs one exchange.
pub(crate) async fn exchange(shard: &Rc<Shard>, connection: &mut Connection) -> After {
    let snapshot = shard.snapshot();
    let mut record = Record::new(shard.core.now(), connection.peer);
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
        Err(Stop::Stale | Stop::Again(_)) => (Reason::BackendClosed, After::Gone),
        Err(Stop::Reject(rejection)) if record.status.get() != 0 => (rejection.reason, After::Gone),
        Err(Stop::Reject(rejection)) => {
            let answered = answer(
                shard,
                &snapshot,
                connection,
                head.as_ref(),
                (&rejection, &record),
            );
            let after = Box::pin(answered).await;
            (rejection.reason, after)
        }
    };
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
    let head = &*kept.insert(meet(shard, snapshot, connection, record).await?);
    let routed = decide::route(snapshot, &connection.listener().name, head)?;
    routed.route.count(shard.index);
    if shard.shared.log.is_on() || record.trace.is_some() {
        record.route = Some(routed.settings.name.clone());
        record.service = Some(routed.settings.service.clone()).filter(|name| !name.is_empty());
    }
    record.place = Some(routed.route.place);
    decide::limits(routed.settings, head)?;
    let client = record.client.unwrap_or_else(|| connection.peer.ip());
    decide::rate(routed.route, (head, client), shard.core.now(), true)?;
    if !matches!(routed.settings.action, Action::Forward) {
        let terms = Terms::new(snapshot, routed.settings, head, connection);
        let answered = async {
            let made = reply::make(shard, terms).await?;
            reply::send(shard, connection, terms, record, made).await
        };
        return Box::pin(answered).await;
    }

    let set = routed.route.service.set.load_full();
    let wanted = decide::wanted(&routed, &set, head, client, shard.core.now())?;
    let says_client = routed.route.service.settings.proxy_protocol.is_some();
    if says_client {
        record.called = connection.stream.local_address();
    }
    let body = match routed.settings.retry.body_max {
        0 => None,
        _ => Box::pin(retry::gather(connection, head, routed.settings)).await?,
    };
    let repeatable = head.is_idempotent() && (head.framing == Framing::None || body.is_some());
    let mut search = Search::new(shard, snapshot, &routed, (&set, &wanted), repeatable);
    let mut upstream = reach(&mut search, connection, record).await?;
    let mut sent = false;
    if let Some(after) = routed.settings.hedge_after
        && hedge::fits(head)
    {
        let asked = hedge::ask(&mut search, upstream, head, (connection, after), record);
        (upstream, sent) = Box::pin(asked).await?;
    }
    loop {
        let plan = forward::Plan {
            shard,
            snapshot,
            head,
            routed: &routed,
            upstream: &upstream,
            search: &search,
            body: body.as_deref(),
            sent,
        };
        let outcome = forward::run(plan, connection, record).await;
        let stop = match outcome {
            Ok(ended) => {
                search.settle(&upstream, record.outcome.get());
                // A connection that named its client serves no other.
                if ended.reusable && !says_client {
                    let most = snapshot.settings.limits.backend_idle_max;
                    shard.pool.give(upstream.flight.0.id, upstream.stream, most);
                }
                return Ok((ended.reason, ended.after));
            }
            Err(stop) => stop,
        };
        settle(&mut search, &upstream, record, stop)?;
        drop(upstream);
        sent = false;
        upstream = reach(&mut search, connection, record).await?;
    }
}

/// Reads the head of a request, and notes who sent it.
async fn meet(
    shard: &Rc<Shard>,
    snapshot: &Arc<Snapshot>,
    connection: &mut Connection,
    record: &mut Record,
) -> Result<RequestHead, Stop> {
    let mut head = read_head(shard, connection, &snapshot.settings.limits).await?;
    if let Some(tracer) = &shard.shared.tracer {
        let trusted = snapshot.trusts(connection.peer.ip().to_canonical());
        record.trace = Some(tracer.begin(&mut head, trusted));
    }
    record.head_read = Some(shard.core.now());
    if shard.shared.log.is_on() {
        record.tls = connection.stream.agreed();
    }
    record.client = Some(decide::client(snapshot, connection.peer.ip(), &head));
    Ok(head)
}

/// A connection to a backend, unless the client goes away meanwhile.
async fn reach(
    search: &mut Search<'_>,
    connection: &Connection,
    record: &mut Record,
) -> Result<Upstream, Stop> {
    let mut reaching = pin!(search.reach(&connection.timer, record));
    poll_fn(|context| {
        if let Poll::Ready(outcome) = reaching.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        let broken = connection.stream.poll_broken(context);
        broken.map(|()| Err(Stop::End(Reason::ClientGone)))
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
            Some(Ok(count)) if count > 0 => {
                buffer.fill(count);
                if buffer.filled().starts_with(&CLIENT_HELLO) {
                    return Err(Stop::End(Reason::TlsOnPlain));
                }
            }
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
async fn answer(
    shard: &Shard,
    snapshot: &Snapshot,
    connection: &Connection,
    head: Option<&RequestHead>,
    (rejection, record): (&Rejection, &Record),
) -> After {
    if rejection.reason.status() == 0 {
        return After::Gone;
    }
    if let Some(head) = head {
        let pages = &snapshot.settings.error_pages;
        let settings = record.place.and_then(|place| snapshot.table.get(place));
        let settings = settings.unwrap_or(&snapshot.no_route);
        let terms = Terms::new(snapshot, settings, head, connection);
        let reply = reply::rejection(rejection, head, &[&settings.error_pages, pages]);
        let sent = reply::send(shard, connection, terms, record, reply).await;
        return sent.map_or(After::Gone, |(_, after)| after);
    }
    // A head that was not understood: nobody knows where the next request begins.
    let bytes = shard.with_date(|date| rejection_bytes(rejection, date, true));
    record.status.set(rejection.reason.status());
    record.sent.set(bytes.len() as u64);
    let mut patience = Patience::Idle(Duration::from_secs(10));
    let parts = [bytes.as_slice(), &[], &[]];
    let written = relay::write_all(&connection.stream, parts, &mut patience, &connection.timer);
    written.await.map_or(After::Gone, |()| After::Linger)
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
        text.push_str(&format!("Date: {}\r\n", decide::text(date)));
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
