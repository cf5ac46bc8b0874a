//! Tunnels: after a 101 the bytes of both sides pass as they are. Nothing of ours cuts a tunnel
//! but `websocket.idle`, and a shutdown, which says so with close frames (1001) between frames.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::backends::Backend;
use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::timer::Timer;
use crate::forward::Order;
use crate::live::{self, Listed};
use crate::reason::Reason;
use crate::record::Record;
use crate::relay::{self, Patience, Pipe};
use crate::shard::Shard;
use crate::ws::{Frames, close_frame};

/// How long the other side may go on after one side ended.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// How long the peers may take to answer our close frames.
const CLOSING: Duration = Duration::from_secs(2);
/// RFC 6455 §7.4.1: going away.
const GOING_AWAY: u16 = 1001;

/// What both directions know.
struct Shared<'a> {
    shard: &'a Shard,
    figures: Rc<live::Tunnel>,
    websocket: bool,
    idle: Duration,
}

/// Counts a tunnel for as long as it lives.
struct Counted<'a>(&'a Shard);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.stats.tunnels.take(1);
    }
}

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its source ended.
    Source,
    /// Its target broke.
    Target,
    /// We said that we go away.
    Drained,
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
    websocket: bool,
    idle: Duration,
}

impl<'a> Tunnel<'a> {
    /// One that a 101 opened.
    pub(crate) fn new(
        order: Order<'a>,
        timer: &'a Timer,
        record: &'a Record,
        listed: &Listed,
    ) -> Self {
        let settings = order.routed.settings;
        let asked = order.head.upgrade().unwrap_or_default();
        let names = (settings.name.as_str(), settings.service.as_str());
        let about = (order.upstream.backend(), settings.websocket.idle);
        Self {
            websocket: asked.eq_ignore_ascii_case(b"websocket"),
            ..Self::plain(order.shard, names, about, (timer, record, listed))
        }
    }

    /// One of bytes that nobody asked for by HTTP; it ends after `idle` without a byte.
    pub(crate) fn plain(
        shard: &'a Shard,
        (route, service): (&str, &str),
        (backend, idle): (&Arc<Backend>, Duration),
        (timer, record, listed): (&'a Timer, &'a Record, &Listed),
    ) -> Self {
        let figures = Rc::new(live::Tunnel {
            route: route.to_owned(),
            service: service.to_owned(),
            backend: Arc::clone(backend),
            received: Cell::new(0),
            sent: Cell::new(0),
            last: Cell::new(shard.core.now()),
        });
        listed.tunnel(&figures);
        Self {
            shard,
            timer,
            record,
            figures,
            websocket: false,
            idle,
        }
    }

    /// Runs it to its end.
    pub(crate) async fn run<C: Pipe, B: Pipe>(
        &self,
        client: &C,
        backend: &B,
        first: First,
    ) -> Reason {
        let shard = self.shard;
        shard.stats.tunnels.add(1);
        let counted = Counted(shard);
        client.keep_alive();
        backend.keep_alive();
        let shared = Shared {
            shard,
            figures: Rc::clone(&self.figures),
            websocket: self.websocket,
            idle: self.idle,
        };
        let mut patience = Patience::Idle(Duration::from_secs(30));
        let First { lead, early, rest } = first;
        let parts = [lead.as_slice(), &[], &[]];
        let greeted = relay::write_all(client, parts, &mut patience, self.timer).await;
        drop(lead);
        let reason = if greeted.is_err() {
            Reason::ClientGone
        } else {
            let up = Direction::new(&shared, client, backend, true);
            let down = Direction::new(&shared, backend, client, false);
            let ends = (up, early);
            both(&shared, self.timer, ends, (down, rest), self.record).await
        };
        drop(counted);
        reason
    }
}

async fn both<C: Pipe, B: Pipe>(
    shared: &Shared<'_>,
    timer: &Timer,
    (mut up, early): (Direction<'_, C, B>, Option<Buffer>),
    (mut down, rest): (Direction<'_, B, C>, Option<Buffer>),
    record: &Record,
) -> Reason {
    let live::Tunnel { received, sent, .. } = &*shared.figures;
    let mut ends = (None, None);
    let reason = {
        let mut upward = pin!(up.run(early, received));
        let mut downward = pin!(down.run(rest, sent));
        let mut deadline: Option<Instant> = None;
        poll_fn(|context| {
            if ends.0.is_none()
                && let Poll::Ready(end) = upward.as_mut().poll(context)
            {
                ends.0 = Some(end);
                deadline = Some(shared.shard.core.now() + HALF_CLOSED);
            }
            if ends.1.is_none()
                && let Poll::Ready(end) = downward.as_mut().poll(context)
            {
                ends.1 = Some(end);
                deadline.get_or_insert(shared.shard.core.now() + HALF_CLOSED);
            }
            if let Some(reason) = outcome(ends) {
                return Poll::Ready(reason);
            }
            loop {
                let silent = shared.figures.last.get() + shared.idle;
                // Only a WebSocket's peers owe each other an end; other protocols may half-close.
                let limit = match deadline {
                    Some(deadline) if shared.websocket => silent.min(deadline),
                    _ => silent,
                };
                if shared.shard.core.now() >= limit {
                    return Poll::Ready(after_one(ends));
                }
                timer.set_at(limit);
                if timer.poll_expired(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    };
    record.received.set(received.get());
    record.sent.set(sent.get());
    if reason == Reason::Draining {
        Box::pin(await_closes(timer, &mut up, &mut down)).await;
    }
    reason
}

/// The reason once nothing more can pass.
fn outcome(ends: (Option<End>, Option<End>)) -> Option<Reason> {
    match ends {
        (Some(End::Drained), Some(End::Drained)) => Some(Reason::Draining),
        (Some(End::Drained), Some(_)) | (Some(_), Some(End::Drained)) => Some(Reason::Draining),
        (Some(End::Target), _) => Some(Reason::TunnelClosedByBackend),
        (_, Some(End::Target)) => Some(Reason::TunnelClosedByClient),
        (Some(_), Some(_)) => Some(after_one(ends)),
        _ => None,
    }
}

/// Whoever ended first; neither: it was silent for too long.
fn after_one(ends: (Option<End>, Option<End>)) -> Reason {
    match ends {
        (Some(_), _) => Reason::TunnelClosedByClient,
        (None, Some(_)) => Reason::TunnelClosedByBackend,
        (None, None) => Reason::TunnelIdle,
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
    let mut buffer = Buffer::new(up.from.core(), SMALL);
    let mut open = [!up.frames.saw_close(), !down.frames.saw_close()];
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

/// One direction of a tunnel.
struct Direction<'a, F, T> {
    shared: &'a Shared<'a>,
    from: &'a F,
    to: &'a T,
    frames: Frames,
    /// Toward the backend frames are masked.
    upward: bool,
    timer: Timer,
}

impl<'a, F: Pipe, T: Pipe> Direction<'a, F, T> {
    fn new(shared: &'a Shared<'a>, from: &'a F, to: &'a T, upward: bool) -> Self {
        Self {
            shared,
            from,
            to,
            frames: Frames::default(),
            upward,
            timer: Timer::new(from.core()),
        }
    }

    /// Reads what is there, until a close frame went by.
    fn read_on(&mut self, buffer: &mut Buffer, open: &mut bool, context: &mut Context<'_>) {
        while *open {
            let Poll::Ready(read) = self.from.poll_read(context, buffer.spare()) else {
                return;
            };
            let count = read.unwrap_or(0);
            buffer.fill(count);
            self.frames.follow(buffer.filled(), false);
            buffer.consume(count);
            *open = count > 0 && !self.frames.saw_close();
        }
    }

    async fn run(&mut self, first: Option<Buffer>, moved: &Cell<u64>) -> End {
        let mut next = first;
        loop {
            if let Some(mut buffer) = next.take() {
                // Boxed, as all that is not waiting: an idle tunnel is small.
                if let Err(end) = Box::pin(self.pass(&mut buffer, moved)).await {
                    return end;
                }
                continue;
            }
            if self.goes_away() {
                return Box::pin(self.say_goodbye()).await;
            }
            let ready = poll_fn(|context| {
                if self.goes_away() {
                    return Poll::Ready(false);
                }
                self.from.poll_readable(context).map(|()| true)
            })
            .await;
            if !ready {
                continue;
            }
            let mut buffer = Buffer::new(self.from.core(), SMALL);
            let read = poll_fn(
                |context| match self.from.poll_read(context, buffer.spare()) {
                    Poll::Ready(result) => Poll::Ready(Some(result)),
                    Poll::Pending => Poll::Ready(None),
                },
            )
            .await;
            match read {
                None => {}
                Some(Ok(0)) => {
                    self.to.shutdown_write();
                    return End::Source;
                }
                Some(Err(_)) => {
                    self.to.cut_write();
                    return End::Source;
                }
                Some(Ok(count)) => {
                    self.shared.figures.last.set(self.shared.shard.core.now());
                    buffer.fill(count);
                    next = Some(buffer);
                }
            }
        }
    }

    /// The gate ends, and this direction is between two frames.
    fn goes_away(&self) -> bool {
        self.shared.websocket && self.shared.shard.draining() && self.frames.at_border()
    }

    /// Passes what was read on; while the gate ends, only up to the next border of frames.
    async fn pass(&mut self, buffer: &mut Buffer, moved: &Cell<u64>) -> Result<(), End> {
        while !buffer.is_empty() {
            let stop = self.shared.shard.draining();
            let count = if self.shared.websocket {
                self.frames.follow(buffer.filled(), stop)
            } else {
                buffer.filled().len()
            };
            if count == 0 {
                return Err(self.say_goodbye().await);
            }
            let part = buffer.filled().get(..count).unwrap_or_default();
            self.write(part).await?;
            buffer.consume(count);
            moved.set(moved.get() + count as u64);
            self.shared.figures.last.set(self.shared.shard.core.now());
        }
        Ok(())
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), End> {
        // A reader that stands still is silent: `idle` is the limit for it, too.
        let mut patience = Patience::Idle(self.shared.idle);
        relay::write_all(self.to, [bytes, &[], &[]], &mut patience, &self.timer)
            .await
            .map_err(|_| End::Target)
    }

    async fn say_goodbye(&self) -> End {
        if self.frames.saw_close() {
            return End::Drained;
        }
        let mask = self.upward.then(|| {
            let mut mask = [0; 4];
            if getrandom::fill(&mut mask).is_err() {
                tracing::debug!("no randomness for a mask: zero is valid, too");
            }
            mask
        });
        let frame = close_frame(GOING_AWAY, "the gate goes away", mask);
        match self.write(&frame).await {
            Ok(()) => End::Drained,
            Err(end) => end,
        }
    }
}
