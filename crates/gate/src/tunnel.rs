//! Tunnels: after a 101 the bytes of both sides pass as they are. Nothing of ours cuts a tunnel
//! but `websocket.idle`, and a shutdown, which says so with close frames (1001) between frames.
//! Where a route asks for `ping` the gate pings both sides, and takes their answers out.

mod direction;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::backends::Backend;
use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::forward::Order;
use crate::live::{self, Listed};
use crate::reason::Reason;
use crate::record::Record;
use crate::relay::{self, Patience, Pipe};
use crate::shard::Shard;
use crate::ws::doctor::Closing;
use crate::ws::end;
use crate::ws::handshake;
use crate::ws::{Frames, Pings, Side};
use direction::{Direction, End};

/// How long the other side may go on after one side ended.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// How long the peers may take to answer our close frames.
const CLOSING: Duration = Duration::from_secs(2);

/// What both directions know.
struct Shared<'a> {
    shard: &'a Shard,
    figures: Rc<live::Tunnel>,
    hop: IpAddr,
    websocket: bool,
    idle: Duration,
    ping: Option<Duration>,
    pings: Option<Box<Pings>>,
}

/// Counts a tunnel for as long as it lives.
struct Counted<'a>(&'a Shard);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.stats.tunnels.take(1);
    }
}

/// What passes before the bytes of the peers.
#[derive(Debug, Default)]
pub(crate) struct First {
    /// The 101, for the client.
    pub(crate) lead: Vec<u8>,
    /// What the client sent behind its request.
    pub(crate) early: Option<Buffer>,
    /// What the backend sent behind its answer.
    pub(crate) rest: Option<Buffer>,
}

/// A tunnel that is about to begin.
#[derive(Debug)]
pub(crate) struct Tunnel<'a> {
    shard: &'a Shard,
    timer: &'a Timer,
    record: &'a Record,
    figures: Rc<live::Tunnel>,
    /// Whose connection carries it: the client's, or that of a balancer that named the client.
    hop: IpAddr,
    websocket: bool,
    idle: Duration,
    ping: Option<Duration>,
}

impl<'a> Tunnel<'a> {
    /// One that a 101 opened, over the connection `stream` of a client.
    pub(crate) fn new(
        order: &Order<'a>,
        timer: &'a Timer,
        record: &'a Record,
        (stream, listed): (&TcpStream, &Listed),
    ) -> Self {
        let settings = order.routed.settings;
        let names = (settings.name.as_str(), settings.service.as_str());
        let about = (order.upstream.backend(), settings.websocket.idle);
        let websocket = handshake::opens(order.head);
        Self {
            websocket,
            ping: settings.websocket.ping.filter(|_| websocket),
            ..Self::plain(order.shard, names, about, (timer, record), (stream, listed))
        }
    }

    /// One of bytes that nobody asked for by HTTP; it ends after `idle` without a byte.
    pub(crate) fn plain(
        shard: &'a Shard,
        names: (&str, &str),
        (backend, idle): (&Arc<Backend>, Duration),
        (timer, record): (&'a Timer, &'a Record),
        (stream, listed): (&TcpStream, &Listed),
    ) -> Self {
        let figures = Rc::new(live::Tunnel::new(names, backend, shard.core.now()));
        listed.tunnel(&figures);
        Self {
            shard,
            timer,
            record,
            figures,
            hop: stream.remote_address().unwrap_or(record.peer).ip(),
            websocket: false,
            idle,
            ping: None,
        }
    }

    /// Runs it to its end.
    pub(crate) async fn run<C: Pipe, B: Pipe>(
        &self,
        client: &C,
        backend: &B,
        mut first: Box<First>,
    ) -> Reason {
        let shard = self.shard;
        shard.stats.tunnels.add(1);
        let counted = Counted(shard);
        client.keep_alive();
        backend.keep_alive();
        let now = shard.core.now();
        let shared = Shared {
            shard,
            figures: Rc::clone(&self.figures),
            hop: self.hop,
            websocket: self.websocket,
            idle: self.idle,
            ping: self.ping,
            pings: self.ping.map(|every| Box::new(Pings::new(every, now))),
        };
        let patience = || Patience::Idle(Duration::from_secs(30));
        let lead = std::mem::take(&mut first.lead);
        let greeted = relay::write_small(client, [&lead, &[], &[]], patience, self.timer).await;
        drop(lead);
        let reason = if greeted.is_err() {
            Reason::ClientGone
        } else {
            if self.websocket {
                shard.stats.websockets.opened.add(1);
            }
            let mut up = Direction::new(&shared, client, backend, Side::Client);
            let mut down = Direction::new(&shared, backend, client, Side::Backend);
            let ways = (&mut up, &mut down);
            both(&shared, self.timer, ways, &mut first, self.record).await
        };
        drop(counted);
        reason
    }
}

/// How both directions ended, so far.
type Ends = (Option<End>, Option<End>);

/// The moment at which the first side ended, and how silent the sides were then.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    silences: [Duration; 2],
    /// The direction that ended, by its source; none did where the tunnel was just silent.
    first: Option<(Side, End)>,
}

impl Seen {
    fn now(shared: &Shared<'_>, (up, down): Ends) -> Self {
        let at = shared.shard.core.now();
        let figures = &shared.figures;
        let silent = |side| at.saturating_duration_since(figures.heard(side));
        Self {
            at,
            silences: Side::ALL.map(silent),
            first: up
                .map(|end| (Side::Client, end))
                .or_else(|| down.map(|end| (Side::Backend, end))),
        }
    }
}

async fn both<C: Pipe, B: Pipe>(
    shared: &Shared<'_>,
    timer: &Timer,
    (up, down): (&mut Direction<'_, C, B>, &mut Direction<'_, B, C>),
    first: &mut First,
    record: &Record,
) -> Reason {
    let live::Tunnel { received, sent, .. } = &*shared.figures;
    let mut ends: Ends = (None, None);
    let mut seen: Option<Seen> = None;
    {
        let mut upward = pin!(up.run(&mut first.early, received));
        let mut downward = pin!(down.run(&mut first.rest, sent));
        poll_fn(|context| {
            if ends.0.is_none()
                && let Poll::Ready(end) = upward.as_mut().poll(context)
            {
                ends.0 = Some(end);
            }
            if ends.1.is_none()
                && let Poll::Ready(end) = downward.as_mut().poll(context)
            {
                ends.1 = Some(end);
            }
            if ends != (None, None) {
                seen.get_or_insert_with(|| Seen::now(shared, ends));
                shared.end_pings();
            }
            if is_over(ends) {
                return Poll::Ready(());
            }
            loop {
                let silent = shared.figures.last() + shared.idle;
                // Only a WebSocket's peers owe each other an end; other protocols may half-close.
                let limit = match seen {
                    Some(seen) if shared.websocket => silent.min(seen.at + HALF_CLOSED),
                    _ => silent,
                };
                if shared.shard.core.now() >= limit {
                    return Poll::Ready(());
                }
                timer.set_at(limit);
                if timer.poll_expired(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    };
    record.received.set(received.get());
    record.sent.set(sent.get());
    let seen = seen.unwrap_or_else(|| Seen::now(shared, ends));
    let end = judge(shared, ends, seen.first);
    let frames = [up.frames(), down.frames()];
    let closing = shared.closing(end, seen, frames);
    // A tunnel has one end.
    drop(record.closing.set(Box::new(closing)));
    if end == end::End::Drained {
        Box::pin(await_closes(timer, up, down)).await;
    }
    reason(end)
}

impl Shared<'_> {
    fn end_pings(&self) {
        if let Some(pings) = &self.pings {
            pings.end();
        }
    }

    /// How it ended; `frames` are those of the client and of the backend.
    fn closing(&self, end: end::End, seen: Seen, [up, down]: [&Frames; 2]) -> Closing {
        let figures = &self.figures;
        Closing {
            route: figures.route.clone(),
            websocket: self.websocket,
            end,
            code: match figures.closer.get() {
                Some(Side::Client) => up.close_code(),
                Some(Side::Backend) => down.close_code(),
                None => None,
            },
            age: seen.at.saturating_duration_since(figures.since),
            silences: seen.silences,
            hops: [
                self.hop.to_canonical().to_string().into(),
                figures.backend.name.as_str().into(),
            ],
            frames: [up.count(), down.count()],
            bytes: [figures.received.get(), figures.sent.get()],
            ping: self.ping_counts(),
        }
    }

    fn ping_counts(&self) -> Option<(Duration, [(u32, u32); 2])> {
        let (every, pings) = (self.ping?, self.pings.as_ref()?);
        Some((every, Side::ALL.map(|side| pings.leg(side).marks.counts())))
    }
}

/// Nothing more can pass.
fn is_over(ends: Ends) -> bool {
    // After our close frame the other direction still gets its own.
    let stopped = |end| matches!(end, Some(End::Target | End::TargetVanished | End::Stalled));
    (ends.0.is_some() && ends.1.is_some()) || stopped(ends.0) || stopped(ends.1)
}

/// Who ended it: us, or whoever sent the first close frame, or whose connection ended first.
fn judge(shared: &Shared<'_>, ends: Ends, first: Option<(Side, End)>) -> end::End {
    if matches!(ends, (Some(End::Drained), _) | (_, Some(End::Drained))) {
        return end::End::Drained;
    }
    if let Some(closer) = shared.figures.closer.get() {
        return end::End::closed(closer);
    }
    match first {
        None | Some((_, End::Stalled)) => end::End::Idle,
        Some((_, End::Drained)) => end::End::Drained,
        Some((source, End::Source)) => end::End::ended(source),
        Some((source, End::Broken)) => end::End::broke(source),
        Some((source, End::Vanished)) => end::End::vanished(source),
        Some((source, End::Target)) => end::End::broke(source.other()),
        Some((source, End::TargetVanished)) => end::End::vanished(source.other()),
    }
}

fn reason(end: end::End) -> Reason {
    match end {
        end::End::ClientClosed
        | end::End::ClientEnded
        | end::End::ClientBroke
        | end::End::ClientVanished => Reason::TunnelClosedByClient,
        end::End::BackendClosed
        | end::End::BackendEnded
        | end::End::BackendBroke
        | end::End::BackendVanished => Reason::TunnelClosedByBackend,
        end::End::Idle => Reason::TunnelIdle,
        end::End::Drained => Reason::Draining,
    }
}

/// Both sides were told: reads on for a moment, until each has answered with a close frame of
/// its own or ended.
async fn await_closes<C: Pipe, B: Pipe>(
    timer: &Timer,
    up: &mut Direction<'_, C, B>,
    down: &mut Direction<'_, B, C>,
) {
    timer.set(CLOSING);
    let mut buffer = Buffer::new(timer.core(), SMALL);
    let mut open = [!up.frames().saw_close(), !down.frames().saw_close()];
    poll_fn(|context| {
        let [above, below] = &mut open;
        up.read_on(&mut buffer, above, context);
        down.read_on(&mut buffer, below, context);
        if open == [false, false] {
            return Poll::Ready(());
        }
        timer.poll_expired(context)
    })
    .await;
}
