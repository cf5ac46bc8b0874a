//! Forward: the request goes to the backend and the response comes back, at the same time, each
//! at the pace of its slower side.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::ops::Deref;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::connection::{After, Connection};
use crate::decide::{self, Routed};
use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::outbox::Allowance;
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::forwarded;
use crate::http1::body::Body;
use crate::http1::fields::Name;
use crate::http1::head::{RequestHead, ResponseHead, find_end};
use crate::http1::{BadMessage, Framing, Version};
use crate::meter::Meter;
use crate::outgoing::{self, Lead, Terms};
use crate::pipeline::{Stop, head_limits};
use crate::reach::{Search, Upstream};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::relay::{self, Patience, Relay, RelayEnd, WriteEnd};
use crate::service::Outcome;
use crate::settings::{RetryOn, TimeoutSettings};
use crate::shard::Shard;
use crate::shield;
use crate::snapshot::Snapshot;
use crate::sticky;
use crate::tunnel::{First, Tunnel};
use crate::ws;
use crate::ws::handshake::{self, Fault};

/// Interim responses (1xx) of one exchange.
pub(crate) const INTERIM_MAX: u32 = 100;

/// What is to be forwarded, and where to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) shard: &'a Shard,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) head: &'a RequestHead,
    pub(crate) routed: &'a Routed<'a>,
    pub(crate) upstream: &'a Upstream,
    pub(crate) search: &'a Search<'a>,
    /// The whole body, where it was read beforehand.
    pub(crate) body: Option<&'a [u8]>,
    /// The request is on its way already.
    pub(crate) sent: bool,
}

impl<'a> Order<'a> {
    pub(crate) fn terms(&self, waiter: &impl Waiter) -> Terms<'a> {
        Terms::new(self.snapshot, self.routed.settings, self.head, waiter)
    }
}

/// An order over a connection of HTTP/1.1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) order: &'a Order<'a>,
    pub(crate) stream: &'a TcpStream,
}

impl<'a> Deref for Plan<'a> {
    type Target = Order<'a>;

    fn deref(&self) -> &Order<'a> {
        self.order
    }
}

/// An exchange that went through.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) reason: Reason,
    pub(crate) after: After,
    /// The backend takes another request on its connection.
    pub(crate) reusable: bool,
}

/// How far the request body is.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    /// Nothing more will be sent to the backend.
    pub(crate) complete: Cell<bool>,
    /// The client owes bytes: then we do not wait for the backend.
    pub(crate) owed: Cell<bool>,
    /// The whole body went through.
    pub(crate) intact: Cell<bool>,
    /// What the client sent behind the body.
    leftover: RefCell<Option<Buffer>>,
}

enum Answer {
    Delivered { close: bool, reusable: bool },
    Upgraded { lead: Vec<u8>, rest: Option<Buffer> },
}

/// Whom an exchange is for.
pub(crate) trait Waiter {
    fn timer(&self) -> &Timer;
    /// The client, or the last proxy before the gate.
    fn peer(&self) -> IpAddr;
    fn is_tls(&self) -> bool;
    fn scheme(&self) -> &'static str {
        if self.is_tls() { "https" } else { "http" }
    }
    /// Ready when the client is gone.
    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()>;
}

impl Waiter for Connection {
    fn timer(&self) -> &Timer {
        &self.timer
    }

    fn peer(&self) -> IpAddr {
        self.peer.ip()
    }

    fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }

    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_broken(context)
    }
}

/// Forwards one request over one connection to a backend.
pub(crate) async fn run(
    plan: Plan<'_>,
    connection: &mut Connection,
    record: &mut Record,
) -> Result<Ended, Stop> {
    let upload = Upload::default();
    // What is rare is boxed: the future of a plain exchange stays small.
    let outcome = if plan.head.framing == Framing::None || plan.body.is_some() {
        if !plan.sent {
            let mut lead = request_lead(plan.order, connection);
            lead.extend_from_slice(plan.body.unwrap_or_default());
            send_head(plan, connection, lead).await?;
        }
        record.received.set(plan.body.map_or(0, <[u8]>::len) as u64);
        upload.complete.set(true);
        upload.intact.set(true);
        respond(plan, connection, record, &upload).await
    } else {
        let lead = request_lead(plan.order, connection);
        let leftover = connection.leftover.take();
        let both = Box::pin(both_ways(
            plan,
            connection,
            record,
            &upload,
            (lead, leftover),
        ))
        .await;
        connection.leftover = upload.leftover.take();
        both
    };
    match outcome? {
        Answer::Upgraded { lead, rest } => {
            record.tunnel = true;
            let early = connection.leftover.take();
            plan.search.settle(plan.upstream, Outcome::Good);
            let first = Box::new(First { lead, early, rest });
            let tunnel = Tunnel::new(
                plan.order,
                &connection.timer,
                record,
                (&connection.stream, &connection.listed),
            );
            let reason = Box::pin(tunnel.run(&connection.stream, plan.stream, first)).await;
            Ok(Ended {
                reason,
                after: After::Gone,
                reusable: false,
            })
        }
        Answer::Delivered { close, reusable } => Ok(Ended {
            reason: Reason::Done,
            after: after(close, upload.intact.get(), plan.head),
            reusable: reusable && upload.intact.get(),
        }),
    }
}

/// What becomes of a connection of HTTP/1 whose response was delivered.
pub(crate) fn after(close: bool, intact: bool, head: &RequestHead) -> After {
    match (close, intact) {
        (false, true) => After::Next,
        (true, true) if !head.keeps_alive() => After::Close,
        _ => After::Linger,
    }
}

pub(crate) fn request_lead(order: &Order<'_>, waiter: &impl Waiter) -> Vec<u8> {
    let fallback = &order.upstream.flight.0.name;
    let sheet = order.shard.core.buffers().sheet();
    order.terms(waiter).request(sheet, fallback)
}

/// The head as the backend gets it.
pub(crate) fn request_head(
    search: &Search<'_>,
    head: &RequestHead,
    waiter: &impl Waiter,
    fallback: &str,
) -> Vec<u8> {
    Terms::new(search.snapshot, search.routed.settings, head, waiter).request(Vec::new(), fallback)
}

async fn send_head(plan: Plan<'_>, connection: &Connection, lead: Vec<u8>) -> Result<(), Stop> {
    let Err(lead) = plan
        .stream
        .post(lead, allowance(&plan.routed.settings.timeout))
    else {
        return Ok(());
    };
    let patience = || Patience::Idle(plan.routed.settings.timeout.idle);
    let stream = plan.stream;
    let written = relay::write_small(stream, [&lead, &[], &[]], patience, &connection.timer);
    written.await.map_err(|end| match end {
        WriteEnd::Gone(_) => Stop::Stale,
        WriteEnd::Slow => stalled().into(),
    })?;
    plan.shard.core.buffers().give_sheet(lead);
    Ok(())
}

pub(crate) fn stalled() -> Rejection {
    Rejection::new(
        Reason::BackendStalled,
        "the backend stopped taking the request",
    )
}

/// Body and response at the same time: a response may come before the body has ended.
async fn both_ways(
    plan: Plan<'_>,
    connection: &Connection,
    record: &Record,
    upload: &Upload,
    (lead, leftover): (Vec<u8>, Option<Buffer>),
) -> Result<Answer, Stop> {
    let mut sending = pin!(send_body(
        plan,
        connection,
        record,
        upload,
        (lead, leftover)
    ));
    let mut responding = pin!(respond(plan, connection, record, upload));
    let mut sent = false;
    poll_fn(|context| {
        if !sent && let Poll::Ready(outcome) = sending.as_mut().poll(context) {
            sent = true;
            if let Err(stop) = outcome {
                return Poll::Ready(Err(stop));
            }
        }
        responding.as_mut().poll(context)
    })
    .await
}

fn allowance(timeout: &TimeoutSettings) -> Allowance {
    Allowance {
        rate_min: timeout.rate_min,
        idle: timeout.idle,
    }
}

pub(crate) fn client_patience(timeout: &TimeoutSettings, otherwise: Patience) -> Patience {
    timeout
        .rate_min
        .map_or(otherwise, |rate| Patience::Rate(Meter::new(rate)))
}

async fn send_body(
    plan: Plan<'_>,
    connection: &Connection,
    record: &Record,
    upload: &Upload,
    (lead, leftover): (Vec<u8>, Option<Buffer>),
) -> Result<(), Stop> {
    let settings = plan.routed.settings;
    let timer = Timer::new(&plan.shard.core);
    let mut body = Body::new(plan.head.framing);
    let mut lead = lead;
    let backend = plan.stream;
    if plan.head.expects_continue() && leftover.is_none() {
        // The client owes nothing until it was told to go on.
        let mut patience = Patience::Idle(settings.timeout.idle);
        let parts = [lead.as_slice(), &[], &[]];
        match relay::write_all(backend, parts, &mut patience, &timer).await {
            Ok(()) => lead.clear(),
            Err(WriteEnd::Slow) => return Err(stalled().into()),
            Err(WriteEnd::Gone(_)) => {
                upload.complete.set(true);
                return Ok(());
            }
        }
        poll_fn(|context| {
            if upload.owed.get() {
                return Poll::Ready(());
            }
            connection.stream.poll_readable(context)
        })
        .await;
    }
    upload.owed.set(true);
    let mut relay = Relay {
        from: &connection.stream,
        to: backend,
        timer: &timer,
        reading: client_patience(&settings.timeout, Patience::Endless),
        writing: Patience::Idle(settings.timeout.idle),
        chunked: plan.head.framing == Framing::Chunked,
        encoder: None,
        limit: settings.request_body_max.unwrap_or(u64::MAX),
        moved: 0,
        begun: false,
        spliced: &plan.shard.stats.bytes_spliced,
        watched: None,
    };
    let outcome = relay.run(&mut body, lead, leftover).await;
    record.received.set(relay.moved);
    upload.owed.set(false);
    upload.complete.set(true);
    match outcome {
        Ok(rest) => {
            upload.intact.set(true);
            *upload.leftover.borrow_mut() = rest;
            Ok(())
        }
        // It may have answered before it closed: the response is looked for.
        Err(RelayEnd::TargetGone) => Ok(()),
        Err(end) => Err(upload_stop(end, settings.request_body_max)),
    }
}

pub(crate) fn upload_stop(end: RelayEnd, limit: Option<u64>) -> Stop {
    let rejection = match end {
        RelayEnd::SourceGone | RelayEnd::TargetGone | RelayEnd::Abandoned => Rejection::new(
            Reason::RequestCut,
            "the connection ended in the middle of the body",
        ),
        RelayEnd::SourceSlow => Rejection::new(
            Reason::RequestTooSlow,
            "the body arrived slower than `rate_min` allows",
        ),
        RelayEnd::TargetSlow => stalled(),
        // Only responses are compressed.
        RelayEnd::Encoder => Rejection::new(Reason::OwnAnswerFailed, "the body can't be coded"),
        RelayEnd::Malformed(error) => Rejection::from(error),
        RelayEnd::TooLarge => decide::body_too_large(limit.unwrap_or(u64::MAX)),
    };
    rejection.into()
}

async fn respond(
    plan: Plan<'_>,
    connection: &Connection,
    record: &Record,
    upload: &Upload,
) -> Result<Answer, Stop> {
    let mut rest = plan.upstream.early.take();
    let mut interim = 0;
    let head = loop {
        let head = read_response_head(plan, connection, upload, &mut rest, interim == 0).await?;
        if interim == 0 {
            plan.search.answered(plan.upstream);
        }
        if head.status == 101 {
            record.responded.set(Some(plan.shard.core.now()));
            return upgrade(plan, connection, (record, upload), &head, rest);
        }
        if head.status >= 200 {
            break head;
        }
        interim += 1;
        if interim > INTERIM_MAX {
            return Err(bad_response("the backend sent too many interim responses").into());
        }
        pass_interim(plan, connection, upload, &head).await?;
    };
    record.responded.set(Some(plan.shard.core.now()));
    let outcome = judge(&head);
    record.outcome.set(outcome);
    if let Some(failure) = RetryOn::of_status(head.status)
        && plan.search.may_repeat(failure)
    {
        return Err(Stop::Again(outcome));
    }
    deliver(plan, connection, record, upload, &head, &mut rest).await
}

/// 502, 503 and 504 are failures, unless the backend says when to come back.
pub(crate) fn judge(head: &ResponseHead) -> Outcome {
    let refused = matches!(head.status, 502..=504);
    if refused && head.fields.named("retry-after").next().is_none() {
        Outcome::Failed
    } else if refused {
        Outcome::Neutral
    } else {
        Outcome::Good
    }
}

pub(crate) fn bad_response(detail: &str) -> Rejection {
    Rejection::new(Reason::BadResponse, detail)
}

pub(crate) async fn read_response_head(
    plan: Plan<'_>,
    waiter: &impl Waiter,
    upload: &Upload,
    rest: &mut Option<Buffer>,
    first: bool,
) -> Result<ResponseHead, Stop> {
    let limits = head_limits(&plan.snapshot.settings.limits);
    let stream = plan.stream;
    let mut scanned = 0;
    loop {
        if let Some(buffer) = rest.as_mut() {
            let bad = |error: BadMessage| {
                tracing::debug!(%error, backend = plan.upstream.flight.0.name, "bad response");
                Stop::from(bad_response("the backend's answer is no valid HTTP"))
            };
            if let Some(end) = find_end(buffer.filled(), scanned, limits).map_err(bad)? {
                let bytes = buffer.filled().get(..end).unwrap_or_default();
                let head = ResponseHead::parse(bytes, plan.head.method(), limits).map_err(bad)?;
                buffer.consume(end);
                return Ok(head);
            }
            scanned = buffer.filled().len();
            if !buffer.make_room() {
                return Err(bad(BadMessage::HeadTooLarge));
            }
        }
        wait_for_response(plan, waiter, upload).await?;
        let mut buffer = rest
            .take()
            .unwrap_or_else(|| Buffer::new(stream.core(), SMALL));
        let read = poll_fn(|context| match stream.poll_read(context, buffer.spare()) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
        match read {
            Some(Ok(count)) if count > 0 => buffer.fill(count),
            // Stale readiness; an empty buffer goes back before we wait again.
            None => {}
            Some(_) if first && buffer.is_empty() && plan.upstream.reused => {
                return Err(Stop::Stale);
            }
            Some(_) => {
                let detail = "the backend closed the connection without an answer";
                return Err(Rejection::new(Reason::BackendClosed, detail).into());
            }
        }
        *rest = Some(buffer).filter(|buffer| !buffer.is_empty());
    }
}

/// Waits for bytes of the backend: as long as `response` allows once the request is sent.
async fn wait_for_response(
    plan: Plan<'_>,
    waiter: &impl Waiter,
    upload: &Upload,
) -> Result<(), Stop> {
    let ready = |context: &mut Context<'_>| plan.stream.poll_message(context);
    within_response(plan.routed.settings.timeout.response, waiter, upload, ready).await
}

/// Waits for `ready`: as long as the client is there, and as `limit` allows once the request is
/// sent.
pub(crate) async fn within_response<T>(
    limit: Duration,
    waiter: &impl Waiter,
    upload: &Upload,
    mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Result<T, Stop> {
    let timer = waiter.timer();
    let mut armed = false;
    poll_fn(|context| {
        if let Poll::Ready(value) = ready(context) {
            return Poll::Ready(Ok(value));
        }
        if waiter.poll_gone(context).is_ready() {
            return Poll::Ready(Err(Stop::End(Reason::ClientGone)));
        }
        if upload.owed.get() {
            armed = false;
            return Poll::Pending;
        }
        if !armed {
            armed = true;
            timer.set(limit);
        }
        timer.poll_expired(context).map(|()| {
            let detail = "the backend did not answer in time";
            Err(Rejection::new(Reason::ResponseTimeout, detail).into())
        })
    })
    .await
}

/// 100, 103, 104 and their like go to the client as they come (RFC 9110 §15.2).
async fn pass_interim(
    plan: Plan<'_>,
    connection: &Connection,
    upload: &Upload,
    head: &ResponseHead,
) -> Result<(), Stop> {
    if plan.head.version == Version::Http10 {
        return Ok(());
    }
    let bytes = plan.terms(connection).interim(head, false);
    write_to_client(plan, connection, [&bytes, &[], &[]]).await?;
    if head.status == 100 && !upload.complete.get() {
        upload.owed.set(true);
    }
    Ok(())
}

/// Sends a whole answer.
async fn send_whole(
    plan: Plan<'_>,
    connection: &Connection,
    mut lead: Vec<u8>,
    data: &[u8],
) -> Result<(), Stop> {
    let joined = relay::join(&mut lead, data, &[])[1].is_empty();
    let rest = if joined { &[] } else { data };
    if joined {
        match connection
            .stream
            .post(lead, allowance(&plan.routed.settings.timeout))
        {
            Ok(()) => return Ok(()),
            Err(bytes) => lead = bytes,
        }
    }
    write_to_client(plan, connection, [&lead, rest, &[]]).await?;
    plan.shard.core.buffers().give_sheet(lead);
    Ok(())
}

async fn write_to_client(
    plan: Plan<'_>,
    connection: &Connection,
    parts: [&[u8]; 3],
) -> Result<(), Stop> {
    let timeout = &plan.routed.settings.timeout;
    let patience = || client_patience(timeout, Patience::Idle(timeout.idle));
    let written = relay::write_small(&connection.stream, parts, patience, &connection.timer);
    written.await.map_err(|end| {
        Stop::End(match end {
            WriteEnd::Gone(_) => Reason::ClientGone,
            WriteEnd::Slow => Reason::ReaderTooSlow,
        })
    })
}

fn upgrade(
    plan: Plan<'_>,
    connection: &Connection,
    (record, upload): (&Record, &Upload),
    head: &ResponseHead,
    rest: Option<Buffer>,
) -> Result<Answer, Stop> {
    let lead = upgrade_lead(plan.order, (record, upload), head, connection)?;
    record.status.set(101);
    Ok(Answer::Upgraded {
        lead,
        rest: rest.filter(|rest| !rest.is_empty()),
    })
}

/// A 101 counts only as the answer to what was asked: nothing goes raw before that.
pub(crate) fn upgrade_lead(
    order: &Order<'_>,
    (record, upload): (&Record, &Upload),
    head: &ResponseHead,
    waiter: &impl Waiter,
) -> Result<Vec<u8>, Stop> {
    let refused = |detail: &str| Err(Rejection::new(Reason::BadUpgrade, detail).into());
    let Some(asked) = order.head.upgrade() else {
        return refused("the backend changed the protocol, which nobody asked for");
    };
    if !head
        .upgrade()
        .is_some_and(|given| given.eq_ignore_ascii_case(asked))
    {
        return refused("the backend changed to another protocol than was asked for");
    }
    if asked.eq_ignore_ascii_case(b"websocket") {
        let key = order
            .head
            .fields
            .first(Name::SecWebSocketKey)
            .unwrap_or_default();
        let expected = ws::accept_for(key);
        let given = head.fields.first(Name::SecWebSocketAccept);
        if given != Some(expected.as_bytes()) {
            let fault = Fault::AcceptWrong;
            record.note(fault);
            return Err(Rejection::new(Reason::BadUpgrade, fault.said())
                .fault(fault)
                .into());
        }
    }
    if !upload.intact.get() {
        return refused("the backend changed the protocol before the request had ended");
    }
    let mut lead = order.terms(waiter).interim(head, true);
    if order.upstream.new_client {
        stick(order, waiter, &mut lead);
    }
    Ok(lead)
}

/// The head of the final answer for the client, and what its body goes through.
pub(crate) fn response_lead(
    order: &Order<'_>,
    upload: &Upload,
    head: &ResponseHead,
    waiter: &impl Waiter,
    record: &Record,
) -> Lead {
    if head.fields.first(Name::SignIn) == Some(b"failed") {
        record.sign_in_failed.set(true);
    }
    if handshake::opens(order.head) {
        record.note(Fault::NotSwitched);
    }
    let shard = order.shard;
    let answered = (head.status, Reason::Done);
    shield::observe(shard, order.snapshot, order.head, record, answered);
    let must_close = shard.leaving() || !upload.complete.get() || !upload.intact.get();
    let running = &shard.shared.compressions;
    let terms = order.terms(waiter);
    let sheet = shard.core.buffers().sheet();
    let mut lead =
        shard.with_date(|date| outgoing::response(sheet, terms, head, must_close, running, date));
    if order.upstream.new_client {
        stick(order, waiter, &mut lead.bytes);
    }
    lead
}

/// Why a response was not delivered to its end.
pub(crate) fn delivery_stop(end: &RelayEnd) -> Stop {
    Stop::End(match end {
        RelayEnd::SourceGone | RelayEnd::TooLarge => Reason::ResponseCut,
        RelayEnd::TargetGone | RelayEnd::Abandoned => Reason::ClientGone,
        RelayEnd::SourceSlow => Reason::BackendIdle,
        RelayEnd::TargetSlow => Reason::ReaderTooSlow,
        RelayEnd::Malformed(_) => Reason::BadResponse,
        RelayEnd::Encoder => Reason::OwnAnswerFailed,
    })
}

/// The length of a body that is known, and of which `rest` holds every byte and none beyond.
fn whole(framing: Framing, rest: Option<&Buffer>) -> Option<u64> {
    let here = rest.map_or(0, |rest| rest.filled().len()) as u64;
    let length = match framing {
        Framing::None => 0,
        Framing::Length(length) => length,
        Framing::Chunked | Framing::UntilClose => return None,
    };
    (here == length).then_some(length)
}

/// Adds the sticky cookie to a head that was written.
fn stick(order: &Order<'_>, waiter: &impl Waiter, lead: &mut Vec<u8>) {
    let Some(sticky) = &order.routed.route.service.settings.sticky else {
        return;
    };
    let connection = (waiter.peer(), waiter.scheme());
    let site = forwarded::site(order.snapshot, connection, order.head);
    let secure = site.scheme == "https";
    let field = sticky::field(sticky, &order.upstream.flight.0, secure);
    // Before the empty line.
    lead.truncate(lead.len().saturating_sub(2));
    lead.extend_from_slice(&field);
    lead.extend_from_slice(b"\r\n");
}

async fn deliver(
    plan: Plan<'_>,
    connection: &Connection,
    record: &Record,
    upload: &Upload,
    head: &ResponseHead,
    rest: &mut Option<Buffer>,
) -> Result<Answer, Stop> {
    let lead = response_lead(plan.order, upload, head, connection, record);
    let close = lead.close;
    record.status.set(head.status);
    if lead.encoder.is_none()
        && let Some(length) = whole(head.framing, rest.as_ref())
    {
        let head_bytes = lead.bytes.len() as u64;
        // Most answers are small and here already: one write, and none of the relay's state.
        let data = rest.as_ref().map_or(&[][..], Buffer::filled);
        if close {
            connection.stream.end_follows();
        }
        send_whole(plan, connection, lead.bytes, data).await?;
        record.sent.set(length + head_bytes);
        return Ok(Answer::Delivered {
            close,
            reusable: head.keeps_alive(),
        });
    }
    // Boxed, so that the future of a small exchange is small.
    let moving = move_body(plan, connection, record, head, (lead, rest.take()));
    Box::pin(moving)
        .await
        .map(|reusable| Answer::Delivered { close, reusable })
}

/// Sends the head and what is there of the body, then what comes. True when the backend's connection may be used
/// again.
async fn move_body(
    plan: Plan<'_>,
    connection: &Connection,
    record: &Record,
    head: &ResponseHead,
    (lead, rest): (Lead, Option<Buffer>),
) -> Result<bool, Stop> {
    let head_bytes = lead.bytes.len() as u64;
    let timeout = &plan.routed.settings.timeout;
    let mut relay = Relay {
        from: plan.stream,
        to: &connection.stream,
        timer: &connection.timer,
        reading: Patience::Idle(timeout.idle),
        writing: client_patience(timeout, Patience::Idle(timeout.idle)),
        chunked: lead.framing == Framing::Chunked,
        encoder: lead.encoder,
        limit: u64::MAX,
        moved: 0,
        begun: false,
        spliced: &plan.shard.stats.bytes_spliced,
        watched: Some(&connection.stream),
    };
    let mut body = Body::new(head.framing);
    let outcome = relay.run(&mut body, lead.bytes, rest).await;
    record.sent.set(relay.moved + head_bytes);
    match outcome {
        // Bytes behind the response belong to no request: such a connection is not used again.
        Ok(rest) => Ok(head.keeps_alive() && rest.is_none()),
        Err(RelayEnd::Malformed(_)) if !relay.begun => {
            record.status.set(0);
            Err(bad_response("the backend's answer is no valid HTTP").into())
        }
        Err(end) => Err(delivery_stop(&end)),
    }
}
