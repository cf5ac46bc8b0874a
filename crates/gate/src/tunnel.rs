//! Tunnels: after a 101 the bytes of both sides pass as they are. Nothing of ours cuts a tunnel
//! but `websocket.idle`, and a shutdown, which says so with close frames (1001) between frames.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::forward::Plan;
use crate::live;
use crate::reason::Reason;
use crate::record::Record;
use crate::relay::{self, Patience};
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
        self.0.stats.tunnels.fetch_sub(1, Ordering::Relaxed);
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

/// Runs a tunnel to its end: `lead` (the 101) goes to the client first, then `rest`, which the
/// backend sent behind it.
pub(crate) async fn run(
    plan: Plan<'_>,
    connection: &mut Connection,
    record: &Record,
    lead: Vec<u8>,
    rest: Option<Buffer>,
) -> Reason {
    let shard = plan.shard;
    shard.stats.tunnels.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(shard);
    let early = connection.leftover.take();
    let (client, backend) = (&connection.stream, &plan.upstream.stream);
    keep_alive(client);
    keep_alive(backend);
    let asked = plan.head.upgrade().unwrap_or_default();
    let figures = Rc::new(live::Tunnel {
        route: plan.routed.settings.name.clone(),
        service: plan.routed.settings.service.clone(),
        backend: Arc::clone(&plan.upstream.flight.0),
        received: Cell::new(0),
        sent: Cell::new(0),
        last: Cell::new(shard.core.now()),
    });
    connection.listed.tunnel(&figures);
    let shared = Shared {
        shard,
        figures,
        websocket: asked.eq_ignore_ascii_case(b"websocket"),
        idle: plan.routed.settings.websocket.idle,
    };
    let mut patience = Patience::Idle(Duration::from_secs(30));
    let first = [lead.as_slice(), &[], &[]];
    let greeted = relay::write_all(client, first, &mut patience, &connection.timer).await;
    drop(lead);
    let reason = if greeted.is_err() {
        Reason::ClientGone
    } else {
        let up = Direction::new(&shared, client, backend, true);
        let down = Direction::new(&shared, backend, client, false);
        both(
            &shared,
            &connection.timer,
            (up, early),
            (down, rest),
            record,
        )
        .await
    };
    drop(counted);
    reason
}

/// Runs a tunnel of bytes that nobody asked for by HTTP, to its end.
pub(crate) async fn plain(
    shard: &Shard,
    connection: &Connection,
    backend: &TcpStream,
    (figures, idle): (live::Tunnel, Duration),
    record: &Record,
) -> Reason {
    shard.stats.tunnels.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(shard);
    let client = &connection.stream;
    keep_alive(client);
    keep_alive(backend);
    let figures = Rc::new(figures);
    connection.listed.tunnel(&figures);
    let shared = Shared {
        shard,
        figures,
        websocket: false,
        idle,
    };
    let up = Direction::new(&shared, client, backend, true);
    let down = Direction::new(&shared, backend, client, false);
    let reason = both(&shared, &connection.timer, (up, None), (down, None), record).await;
    drop(counted);
    reason
}

fn keep_alive(stream: &TcpStream) {
    // Finds a peer that vanished without a word in about two minutes.
    let keep_alive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    if let Err(error) = stream.socket().set_tcp_keepalive(&keep_alive) {
        tracing::debug!(%error, "keep-alive");
    }
}

type Start<'a> = (Direction<'a>, Option<Buffer>);

async fn both(
    shared: &Shared<'_>,
    timer: &Timer,
    (mut up, early): Start<'_>,
    (mut down, rest): Start<'_>,
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
async fn await_closes<'a>(timer: &Timer, up: &mut Direction<'a>, down: &mut Direction<'a>) {
    timer.set(CLOSING);
    let mut buffer = Buffer::new(up.from.core(), SMALL);
    let mut open = [!up.frames.saw_close(), !down.frames.saw_close()];
    poll_fn(|context| {
        for (side, direction) in open.iter_mut().zip([&mut *up, &mut *down]) {
            while *side {
                let Poll::Ready(read) = direction.from.poll_read(context, buffer.spare()) else {
                    break;
                };
                let count = read.unwrap_or(0);
                buffer.fill(count);
                direction.frames.follow(buffer.filled(), false);
                buffer.consume(count);
                *side = count > 0 && !direction.frames.saw_close();
            }
        }
        if open == [false, false] {
            return Poll::Ready(());
        }
        timer.poll_expired(context)
    })
    .await;
}

/// One direction of a tunnel.
struct Direction<'a> {
    shared: &'a Shared<'a>,
    from: &'a TcpStream,
    to: &'a TcpStream,
    frames: Frames,
    /// Toward the backend frames are masked.
    upward: bool,
    timer: Timer,
}

impl<'a> Direction<'a> {
    fn new(shared: &'a Shared<'a>, from: &'a TcpStream, to: &'a TcpStream, upward: bool) -> Self {
        Self {
            shared,
            from,
            to,
            frames: Frames::default(),
            upward,
            timer: Timer::new(from.core()),
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
