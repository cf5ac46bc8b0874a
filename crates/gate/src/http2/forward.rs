//! Forward, with HTTP/2 on either side or on both: the same order of things as in
//! `crate::forward`, over bodies of either kind.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use http::Response;
use http::uri::Scheme;

use crate::compress::Encoder;
use crate::connection::{After, Connection};
use crate::driver::buffer::Buffer;
use crate::driver::timer::Timer;
use crate::forward::{
    self, Ended, INTERIM_MAX, Order, Plan, Upload, Waiter, bad_response, client_patience,
    delivery_stop, judge, request_lead, response_lead, stalled, upgrade_lead, upload_stop,
    within_response,
};
use crate::http1::body::Body;
use crate::http1::fields::Name;
use crate::http1::head::{RequestHead, ResponseHead};
use crate::http1::{Framing, Version};
use crate::pipeline::{Stop, head_limits};
use crate::reach::Link;
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::relay::{Patience, RelayEnd};
use crate::retry;
use crate::service::Outcome as Verdict;
use crate::settings::{RetryOn, RouteSettings};
use crate::tunnel::{First, Tunnel};
use crate::ws::handshake::{self, Fault};

use super::answer::{self, unanswerable};
use super::backend::{Lease, is_unseen};
use super::body::{self, Party, Pump, Sink, Source, Waiting};
use super::duplex::Duplex;
use super::io::Chunk;
use super::server::Client;
use super::translate::{self, Ask};

/// A request on a stream of a client: its body, and where the response goes.
pub(crate) struct ClientSide<'a> {
    pub(crate) client: &'a Rc<Client>,
    pub(crate) timer: &'a Timer,
    /// Away while it is forwarded.
    pub(super) body: Option<RecvStream>,
    pub(super) respond: RefCell<SendResponse<Chunk>>,
}

impl fmt::Debug for ClientSide<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientSide")
            .field("client", &self.client.peer)
            .finish_non_exhaustive()
    }
}

impl ClientSide<'_> {
    /// Ready when the client reset the stream or went away; before a response was begun.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        self.respond.borrow_mut().poll_reset(context).map(|_| ())
    }
}

/// A small body as a whole, where it may have to be sent twice.
pub(crate) async fn gather(
    side: &mut ClientSide<'_>,
    head: &RequestHead,
    settings: &RouteSettings,
) -> Result<Option<Vec<u8>>, Stop> {
    let (Some(length), Some(body)) = (retry::gathers(head, settings), side.body.as_mut()) else {
        return Ok(None);
    };
    let patience = client_patience(&settings.timeout, Patience::Endless);
    let mut waiting =
        Waiting::new(patience, side.timer, side.timer.core()).on(Party::Sender(side.client));
    let gathered = body::gather(body, length, &mut waiting).await;
    gathered.map(Some).map_err(|end| match end {
        RelayEnd::SourceSlow => upload_stop(end, None),
        RelayEnd::Malformed(error) => Stop::End(error.into()),
        _ => Stop::End(Reason::ClientGone),
    })
}

/// Where a response goes.
#[derive(Clone, Copy)]
enum Output<'a> {
    Http1(&'a Connection),
    Http2 {
        client: &'a Rc<Client>,
        timer: &'a Timer,
        respond: &'a RefCell<SendResponse<Chunk>>,
    },
}

impl Waiter for Output<'_> {
    fn timer(&self) -> &Timer {
        match self {
            Self::Http1(connection) => &connection.timer,
            Self::Http2 { timer, .. } => timer,
        }
    }

    fn peer(&self) -> IpAddr {
        match self {
            Self::Http1(connection) => connection.peer.ip(),
            Self::Http2 { client, .. } => client.peer.ip(),
        }
    }

    fn is_tls(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.stream.is_tls(),
            Self::Http2 { client, .. } => client.stream().is_tls(),
        }
    }

    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(connection) => connection.stream.poll_broken(context),
            Self::Http2 { respond, .. } => respond.borrow_mut().poll_reset(context).map(|_| ()),
        }
    }
}

impl<'a> Output<'a> {
    fn sender(&self) -> Party<'a> {
        match self {
            Self::Http1(_) => Party::None,
            Self::Http2 { client, .. } => Party::Sender(client),
        }
    }

    fn reader(&self) -> Party<'a> {
        match self {
            Self::Http1(_) => Party::None,
            Self::Http2 { client, .. } => Party::Reader(client),
        }
    }
}

/// Where a backend's answers come from.
enum Answers<'a> {
    Http1 {
        plan: Plan<'a>,
        rest: Option<Buffer>,
    },
    Http2 {
        response: ResponseFuture,
        /// The body behind the final head.
        body: Option<RecvStream>,
    },
}

/// How an exchange came to its end.
enum Outcome {
    Delivered {
        close: bool,
        /// The whole request body went through.
        intact: bool,
        reusable: bool,
    },
    /// The backend changed to the protocol that was asked for: what to tell the client.
    Upgraded { lead: Vec<u8> },
}

/// The backend's side of an exchange.
struct Backend<'a> {
    sink: Sink<'a>,
    answers: Answers<'a>,
}

/// Forwards a request of a client that speaks HTTP/2.
pub(crate) async fn run(
    order: &Order<'_>,
    side: &mut ClientSide<'_>,
    record: &mut Record,
) -> Result<Ended, Stop> {
    let Some(body) = side.body.take() else {
        return Err(Stop::End(Reason::ClientGone));
    };
    let output = Output::Http2 {
        client: side.client,
        timer: side.timer,
        respond: &side.respond,
    };
    let mut source = Source::stream(body);
    let mut backend = begin(order, &output, record)?;
    let outcome = both_ways(order, output, &mut source, &mut backend, record).await;
    let touched = source.is_touched();
    let body = source.into_stream();
    match outcome {
        Err(Stop::Unseen) if touched => Err(backend_closed().into()),
        Err(stop) => {
            side.body = body;
            Err(stop)
        }
        Ok(Outcome::Delivered { reusable, .. }) => Ok(ended(Reason::Done, After::Next, reusable)),
        Ok(Outcome::Upgraded { lead }) => {
            let response = translate::response(lead, 101).map_err(unanswerable)?;
            let sent = side.respond.borrow_mut().send_response(response, false);
            let gone = || Stop::End(Reason::ClientGone);
            let (send, body) = (sent.map_err(|_| gone())?, body.ok_or_else(gone)?);
            record.status.set(200);
            let client = Duplex::new(side.timer.core(), body, send);
            let reason = Box::pin(tunnel(order, side, record, &client, backend)).await;
            Ok(ended(reason, After::Gone, false))
        }
    }
}

/// A WebSocket of a client that speaks HTTP/2.
async fn tunnel(
    order: &Order<'_>,
    side: &ClientSide<'_>,
    record: &mut Record,
    client: &Duplex,
    backend: Backend<'_>,
) -> Reason {
    let timer = side.timer;
    let listed = side.client.list();
    record.tunnel = true;
    order.search.settle(order.upstream, Verdict::Good);
    let tunnel = Tunnel::new(order, timer, record, (side.client.stream(), &listed));
    match (backend.sink, backend.answers) {
        (Sink::Http1 { stream, .. }, Answers::Http1 { rest, .. }) => {
            let rest = rest.filter(|rest| !rest.is_empty());
            let first = First {
                rest,
                ..First::default()
            };
            tunnel.run(client, stream, Box::new(first)).await
        }
        (
            Sink::Http2 { stream },
            Answers::Http2 {
                body: Some(body), ..
            },
        ) => {
            let backend = Duplex::new(timer.core(), body, stream);
            tunnel.run(client, &backend, Box::default()).await
        }
        _ => Reason::BadUpgrade,
    }
}

/// Forwards a request of a client of HTTP/1 to a backend that speaks HTTP/2.
pub(crate) async fn from_http1(
    order: &Order<'_>,
    connection: &mut Connection,
    record: &mut Record,
) -> Result<Ended, Stop> {
    let leftover = connection.leftover.take();
    let body = Body::new(order.head.framing);
    let mut source = Source::socket(&connection.stream, body, leftover);
    let output = Output::Http1(connection);
    let outcome = match begin(order, &output, record) {
        Err(stop) => Err(stop),
        Ok(mut backend) => both_ways(order, output, &mut source, &mut backend, record)
            .await
            .map(|outcome| (outcome, backend)),
    };
    let touched = source.is_touched();
    let leftover = source.into_rest();
    let (outcome, backend) = match outcome {
        Ok(outcome) => outcome,
        Err(stop) => {
            connection.leftover = leftover;
            return Err(match stop {
                Stop::Unseen if touched => backend_closed().into(),
                stop => stop,
            });
        }
    };
    match outcome {
        Outcome::Delivered { close, intact, .. } => {
            connection.leftover = leftover;
            let after = forward::after(close, intact, order.head);
            Ok(ended(Reason::Done, after, false))
        }
        Outcome::Upgraded { lead } => {
            let (
                Sink::Http2 { stream },
                Answers::Http2 {
                    body: Some(body), ..
                },
            ) = (backend.sink, backend.answers)
            else {
                return Err(Stop::End(Reason::BadUpgrade));
            };
            record.status.set(101);
            record.tunnel = true;
            order.search.settle(order.upstream, Verdict::Good);
            let backend = Duplex::new(connection.timer.core(), body, stream);
            let first = First {
                lead,
                early: leftover,
                rest: None,
            };
            let tunnel = Tunnel::new(
                order,
                &connection.timer,
                record,
                (&connection.stream, &connection.listed),
            );
            let running = tunnel.run(&connection.stream, &backend, Box::new(first));
            Ok(ended(Box::pin(running).await, After::Gone, false))
        }
    }
}

fn ended(reason: Reason, after: After, reusable: bool) -> Ended {
    Ended {
        reason,
        after,
        reusable,
    }
}

fn backend_closed() -> Rejection {
    let detail = "the backend ended the request without an answer";
    Rejection::new(Reason::BackendClosed, detail)
}

/// The request on its way to the backend: what of it goes at once.
fn begin<'a>(
    order: &'a Order<'a>,
    output: &Output<'_>,
    record: &Record,
) -> Result<Backend<'a>, Stop> {
    let lead = request_lead(order, output);
    match &order.upstream.link {
        Link::Http1(stream) => Ok(Backend {
            sink: Sink::Http1 {
                stream,
                lead,
                chunked: order.head.framing == Framing::Chunked,
                watched: false,
            },
            answers: Answers::Http1 {
                plan: Plan { order, stream },
                rest: order.upstream.early.take(),
            },
        }),
        Link::Http2(lease) => begin_stream(order, lease, lead, record),
    }
}

fn begin_stream<'a>(
    order: &'a Order<'a>,
    lease: &Lease,
    lead: Vec<u8>,
    record: &Record,
) -> Result<Backend<'a>, Stop> {
    let head = order.head;
    let ask = Ask {
        trailers: head.fields.named("te").any(|value| value == b"trailers"),
        websocket: handshake::opens(order.head),
    };
    if ask.websocket && !lease.takes_websockets() {
        let fault = Fault::BackendTakesNone;
        record.note(fault);
        let rejection = Rejection::new(Reason::BadUpgrade, fault.said());
        return Err(rejection.hint(fault.hint()).fault(fault).into());
    }
    let fallback = &order.upstream.flight.0.name;
    // That of this connection: a backend may refuse another one.
    let scheme = match order.search.way_id() {
        0 => Scheme::HTTP,
        _ => Scheme::HTTPS,
    };
    let request = translate::to_backend(lead, &scheme, fallback, ask)
        .map_err(|error| Stop::from(Rejection::from(error)))?;
    let ends = head.framing == Framing::None && !ask.websocket;
    let sent = lease.send(request, ends).map_err(|error| {
        tracing::debug!(%error, "a request could not be begun");
        Stop::Unseen
    })?;
    Ok(Backend {
        sink: Sink::Http2 { stream: sent.body },
        answers: Answers::Http2 {
            response: sent.response,
            body: None,
        },
    })
}

/// Body and response at the same time: a response may come before the body has ended.
async fn both_ways<'a>(
    order: &'a Order<'a>,
    output: Output<'a>,
    source: &mut Source<'_>,
    backend: &mut Backend<'a>,
    record: &Record,
) -> Result<Outcome, Stop> {
    let upload = Upload::default();
    let timer = Timer::new(&order.shard.core);
    let Backend { sink, answers } = backend;
    let sending = Sending {
        order,
        output,
        upload: &upload,
        timer: &timer,
        record,
    };
    let responding = Responding {
        order,
        output,
        upload: &upload,
        record,
    };
    let mut sending = pin!(sending.run(source, sink));
    let mut responding = pin!(responding.run(answers));
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

/// The request's body on its way.
struct Sending<'a, 's> {
    order: &'a Order<'a>,
    output: Output<'a>,
    upload: &'s Upload,
    timer: &'s Timer,
    record: &'s Record,
}

impl Sending<'_, '_> {
    async fn run(&self, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Stop> {
        let upload = self.upload;
        if self.order.head.framing == Framing::None || self.order.body.is_some() {
            let gone = !self.order.sent && self.send_whole(sink).await?;
            if gone {
                return Err(Stop::Stale);
            }
            self.record
                .received
                .set(self.order.body.map_or(0, <[u8]>::len) as u64);
            upload.complete.set(true);
            upload.intact.set(true);
            return Ok(());
        }
        if self.order.head.expects_continue() {
            // The client owes nothing until it was told to go on.
            if self.send_head(sink).await? {
                upload.complete.set(true);
                return Ok(());
            }
            poll_fn(|context| {
                if upload.owed.get() {
                    return Poll::Ready(());
                }
                source.poll_ready(context)
            })
            .await;
        }
        upload.owed.set(true);
        // Boxed, so that the future of a request without a body is small.
        Box::pin(self.pump(source, sink)).await
    }

    async fn pump(&self, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Stop> {
        let (settings, upload) = (self.order.routed.settings, self.upload);
        let core = self.timer.core();
        let reading = client_patience(&settings.timeout, Patience::Endless);
        let writing = Patience::Idle(settings.timeout.idle);
        let mut pump = Pump {
            reading: Waiting::new(reading, self.timer, core).on(self.output.sender()),
            writing: Waiting::new(writing, self.timer, core),
            encoder: None,
            limit: settings.request_body_max.unwrap_or(u64::MAX),
            moved: 0,
        };
        let outcome = pump.run(source, sink).await;
        self.record.received.set(pump.moved);
        upload.owed.set(false);
        upload.complete.set(true);
        match outcome {
            Ok(()) => {
                upload.intact.set(true);
                Ok(())
            }
            // It may have answered before it closed: the response is looked for.
            Err(RelayEnd::TargetGone | RelayEnd::Abandoned) => Ok(()),
            Err(end) => Err(self.stop(end)),
        }
    }

    /// Sends the head, with the body that was read beforehand; true when the backend is gone.
    async fn send_whole(&self, sink: &mut Sink<'_>) -> Result<bool, Stop> {
        let Some(body) = self.order.body else {
            return self.send_head(sink).await;
        };
        let patience = Patience::Idle(self.order.routed.settings.timeout.idle);
        let mut waiting = Waiting::new(patience, self.timer, self.timer.core());
        let chunk = Chunk::Bytes(Bytes::copy_from_slice(body));
        match body::put_all(sink, chunk, &mut waiting).await {
            Ok(()) => Ok(false),
            Err(RelayEnd::TargetSlow) => Err(stalled().into()),
            Err(_) => Ok(true),
        }
    }

    /// Sends the head alone; true when the backend is gone.
    async fn send_head(&self, sink: &mut Sink<'_>) -> Result<bool, Stop> {
        let patience = Patience::Idle(self.order.routed.settings.timeout.idle);
        let mut waiting = Waiting::new(patience, self.timer, self.timer.core());
        match sink.flush(&mut waiting).await {
            Ok(()) => Ok(false),
            Err(RelayEnd::TargetSlow) => Err(stalled().into()),
            Err(_) => Ok(true),
        }
    }

    fn stop(&self, end: RelayEnd) -> Stop {
        match (&self.output, &end) {
            // Nobody is there to take an answer.
            (Output::Http2 { .. }, RelayEnd::SourceGone) => Stop::End(Reason::ClientGone),
            (Output::Http2 { .. }, RelayEnd::Malformed(error)) => Stop::End((*error).into()),
            _ => upload_stop(end, self.order.routed.settings.request_body_max),
        }
    }
}

/// The answers on their way.
struct Responding<'a, 's> {
    order: &'a Order<'a>,
    output: Output<'a>,
    upload: &'s Upload,
    record: &'s Record,
}

impl<'a> Responding<'a, '_> {
    async fn run(&self, answers: &mut Answers<'a>) -> Result<Outcome, Stop> {
        let mut interim = 0;
        let head = loop {
            let head = self.head(answers, interim == 0).await?;
            if interim == 0 {
                self.order.search.answered(self.order.upstream);
            }
            if head.status == 101 {
                self.record.responded.set(Some(self.order.shard.core.now()));
                let told = (self.record, self.upload);
                let lead = upgrade_lead(self.order, told, &head, &self.output)?;
                return Ok(Outcome::Upgraded { lead });
            }
            if head.status >= 200 {
                break head;
            }
            interim += 1;
            if interim > INTERIM_MAX {
                return Err(bad_response("the backend sent too many interim responses").into());
            }
            self.pass_interim(&head).await?;
        };
        self.record.responded.set(Some(self.order.shard.core.now()));
        let outcome = judge(&head);
        self.record.outcome.set(outcome);
        if let Some(failure) = RetryOn::of_status(head.status)
            && self.order.search.may_repeat(failure)
        {
            return Err(Stop::Again(outcome));
        }
        self.deliver(answers, &head).await
    }

    async fn head(&self, answers: &mut Answers<'a>, first: bool) -> Result<ResponseHead, Stop> {
        let (response, body) = match answers {
            Answers::Http1 { plan, rest } => {
                let read =
                    forward::read_response_head(*plan, &self.output, self.upload, rest, first);
                return read.await;
            }
            Answers::Http2 { response, body } => (response, body),
        };
        let limit = self.order.routed.settings.timeout.response;
        let ready = |context: &mut Context<'_>| poll_response(response, context);
        let answer = within_response(limit, &self.output, self.upload, ready).await?;
        let answer = answer.map_err(|error| response_stop(&error))?;
        let (parts, ()) = match answer {
            Answer::Interim(interim) => interim.into_parts(),
            Answer::Final(last) => {
                let (parts, stream) = last.into_parts();
                *body = Some(stream);
                Response::from_parts(parts, ()).into_parts()
            }
        };
        let ends = body.as_ref().is_some_and(RecvStream::is_end_stream);
        let limits = head_limits(&self.order.snapshot.settings.limits);
        let head = self.order.head;
        let opened = handshake::opens(self.order.head) && parts.status.is_success();
        let translated = if opened {
            let key = head.fields.first(Name::SecWebSocketKey).unwrap_or_default();
            translate::websocket_answer(&parts, key, limits)
        } else {
            translate::from_backend(&parts, ends, head.method(), limits)
        };
        translated.map_err(|error| {
            tracing::debug!(%error, "bad response");
            bad_response("the backend's answer is no valid HTTP").into()
        })
    }

    /// 103, 104 and their like go to the client as they come (RFC 9110 §15.2).
    async fn pass_interim(&self, head: &ResponseHead) -> Result<(), Stop> {
        if self.order.head.version == Version::Http10 {
            return Ok(());
        }
        let bytes = self.order.terms(&self.output).interim(head, false);
        match self.output {
            Output::Http1(connection) => {
                let mut sink = to_http1(connection, bytes, false);
                sink.flush(&mut self.writing())
                    .await
                    .map_err(|end| delivery_stop(&end))?;
            }
            Output::Http2 { respond, .. } => {
                let response = translate::response(bytes, head.status).map_err(unanswerable)?;
                let sent = respond.borrow_mut().send_informational(response);
                sent.map_err(|_| Stop::End(Reason::ClientGone))?;
            }
        }
        if head.status == 100 && !self.upload.complete.get() {
            self.upload.owed.set(true);
        }
        Ok(())
    }

    /// How a client is waited for.
    fn writing(&self) -> Waiting<'_> {
        let timeout = &self.order.routed.settings.timeout;
        let patience = client_patience(timeout, Patience::Idle(timeout.idle));
        let timer = self.output.timer();
        Waiting::new(patience, timer, timer.core()).on(self.output.reader())
    }

    async fn deliver(
        &self,
        answers: &mut Answers<'a>,
        head: &ResponseHead,
    ) -> Result<Outcome, Stop> {
        let mut source = match answers {
            Answers::Http1 { plan, rest } => {
                Source::socket(plan.stream, Body::new(head.framing), rest.take())
            }
            Answers::Http2 { body, .. } => Source::stream(body.take().ok_or_else(backend_closed)?),
        };
        let bodyless = head.framing == Framing::None;
        let empty = bodyless || (head.framing == Framing::Length(0) && source.is_over());
        let mut lead = response_lead(self.order, self.upload, head, &self.output, self.record);
        let encoder = lead.encoder.take();
        let empty = empty && encoder.is_none();
        let (close, lead_bytes) = (lead.close, lead.bytes.len() as u64);
        let mut sink = match self.output {
            Output::Http1(connection) => {
                to_http1(connection, lead.bytes, lead.framing == Framing::Chunked)
            }
            Output::Http2 { respond, .. } => {
                let named = head.fields.first(Name::ContentLength).is_some();
                answer::begin(respond, lead.bytes, (head.status, empty), named)?
            }
        };
        self.record.status.set(head.status);
        self.record.sent.set(lead_bytes);
        let at_once = match &mut sink {
            Sink::Http2 { .. } if empty => Ok(Some(0)),
            Sink::Http2 { stream } if encoder.is_none() => source.send_at_once(stream),
            Sink::Http1 { .. } | Sink::Http2 { .. } => Ok(None),
        };
        match at_once.map_err(|end| delivery_stop(&end))? {
            Some(moved) => self.record.sent.set(moved as u64 + lead_bytes),
            // Boxed, so that the future of a small exchange is small.
            None => Box::pin(self.pump(&mut source, &mut sink, encoder, bodyless)).await?,
        }
        // Bytes behind the response belong to no request: such a connection is not used again.
        let intact = self.upload.intact.get();
        let clean = source.into_rest().is_none() && intact;
        Ok(Outcome::Delivered {
            close,
            intact,
            reusable: head.keeps_alive() && clean,
        })
    }

    /// Moves the body, piece by piece.
    async fn pump(
        &self,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
        encoder: Option<Box<Encoder>>,
        bodyless: bool,
    ) -> Result<(), Stop> {
        let timer = self.output.timer();
        let idle = Patience::Idle(self.order.routed.settings.timeout.idle);
        let mut pump = Pump {
            reading: Waiting::new(idle, timer, timer.core()),
            writing: self.writing(),
            encoder,
            limit: u64::MAX,
            moved: 0,
        };
        let outcome = match sink {
            Sink::Http1 { .. } if bodyless => sink.flush(&mut pump.writing).await,
            _ => pump.run(source, sink).await,
        };
        let sent = &self.record.sent;
        sent.set(sent.get() + pump.moved);
        outcome.map_err(|end| delivery_stop(&end))
    }
}

fn to_http1(connection: &Connection, lead: Vec<u8>, chunked: bool) -> Sink<'_> {
    Sink::Http1 {
        stream: &connection.stream,
        lead,
        chunked,
        watched: true,
    }
}

/// A head that came by HTTP/2.
enum Answer {
    Interim(Response<()>),
    Final(Response<RecvStream>),
}

fn poll_response(
    response: &mut ResponseFuture,
    context: &mut Context<'_>,
) -> Poll<Result<Answer, h2::Error>> {
    match ready!(response.poll_informational(context)) {
        Some(interim) => Poll::Ready(interim.map(Answer::Interim)),
        None => Pin::new(response).poll(context).map_ok(Answer::Final),
    }
}

fn response_stop(error: &h2::Error) -> Stop {
    tracing::debug!(%error, "no response");
    if is_unseen(error) {
        Stop::Unseen
    } else if error.is_library() {
        bad_response("the backend's answer is no valid HTTP").into()
    } else {
        backend_closed().into()
    }
}
