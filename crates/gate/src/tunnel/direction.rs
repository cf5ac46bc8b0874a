//! One direction of a tunnel.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::timer::Timer;
use crate::relay::{self, Patience, Pipe, WriteEnd};
use crate::ws::{Frames, Look, Side, close_frame};

use super::Shared;

/// RFC 6455 §7.4.1: going away.
const GOING_AWAY: u16 = 1001;
/// With so much under way to a peer a ping adds nothing, and might have to wait for room.
const UNDER_WAY: u64 = 16 * 1024;

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its source ended.
    Source,
    /// Its source broke.
    Broken,
    /// Its source answers TCP no more.
    Vanished,
    /// Its target broke.
    Target,
    /// Its target answers TCP no more.
    TargetVanished,
    /// Its target took nothing for too long.
    Stalled,
    /// We said that we go away.
    Drained,
}

/// Whether TCP heard nothing of the peer for too long, or its router said that it is not there (tcp(7), `ETIMEDOUT`);
/// else the peer itself said that it ends.
fn is_vanished(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(kind, TimedOut | HostUnreachable | NetworkUnreachable)
}

/// How the source of a direction ended.
fn broken(kind: io::ErrorKind) -> End {
    if is_vanished(kind) {
        End::Vanished
    } else {
        End::Broken
    }
}

/// How its target did, which is met by who writes.
fn gone(kind: io::ErrorKind) -> End {
    if is_vanished(kind) {
        End::TargetVanished
    } else {
        End::Target
    }
}

/// What a direction that waits wakes up for.
enum Woken {
    Bytes,
    /// The source ended.
    End,
    Broken(io::ErrorKind),
    Ping,
    Leave,
}

/// One direction of a tunnel.
pub(super) struct Direction<'a, F, T> {
    shared: &'a Shared<'a>,
    from: &'a F,
    to: &'a T,
    frames: Frames,
    /// Where it comes from.
    source: Side,
    timer: Timer,
}

impl<'a, F: Pipe, T: Pipe> Direction<'a, F, T> {
    pub(super) fn new(shared: &'a Shared<'a>, from: &'a F, to: &'a T, source: Side) -> Self {
        Self {
            shared,
            from,
            to,
            frames: Frames::default(),
            source,
            timer: Timer::new(from.core()),
        }
    }

    pub(super) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// Reads what is there, until a close frame went by.
    pub(super) fn read_on(
        &mut self,
        buffer: &mut Buffer,
        open: &mut bool,
        context: &mut Context<'_>,
    ) {
        while *open {
            let Poll::Ready(read) = self.from.poll_read(context, buffer.spare()) else {
                return;
            };
            let count = read.unwrap_or(0);
            buffer.fill(count);
            self.frames.follow(buffer.filled(), |_| false);
            buffer.consume(count);
            *open = count > 0 && !self.frames.saw_close();
        }
    }

    /// Passes what is in `next` on, then what comes. All that is not waiting is boxed: an idle tunnel is small.
    pub(super) async fn run(&mut self, next: &mut Option<Buffer>, moved: &Cell<u64>) -> End {
        loop {
            if next.is_some()
                && let Err(end) = Box::pin(self.pass(next, moved)).await
            {
                return end;
            }
            match self.wait(next).await {
                Woken::Bytes => {}
                Woken::Ping => {
                    if let Err(end) = Box::pin(self.ping()).await {
                        return end;
                    }
                }
                Woken::Leave => return Box::pin(self.say_goodbye()).await,
                Woken::End => return Box::pin(self.end(moved)).await,
                Woken::Broken(kind) => {
                    self.to.cut_write();
                    return broken(kind);
                }
            }
        }
    }

    /// The source ended: what was held back of it belongs to nobody else.
    async fn end(&self, moved: &Cell<u64>) -> End {
        if let Err(end) = self.pass_on(&self.held(), moved).await {
            return end;
        }
        self.to.shutdown_write();
        End::Source
    }

    fn now(&self) -> Instant {
        self.shared.shard.core.now()
    }

    /// Waits for bytes, which go to `next`, or for something of our own to be said.
    async fn wait(&self, next: &mut Option<Buffer>) -> Woken {
        poll_fn(|context| {
            if self.goes_away() {
                return Poll::Ready(Woken::Leave);
            }
            if self.from.poll_readable(context).is_ready()
                && let Some(woken) = self.read(next, context)
            {
                return Poll::Ready(woken);
            }
            self.poll_ping(context).map(|()| Woken::Ping)
        })
        .await
    }

    /// Reads once, behind what was held back; nothing where the readiness was stale.
    fn read(&self, next: &mut Option<Buffer>, context: &mut Context<'_>) -> Option<Woken> {
        let mut buffer = Buffer::new(self.from.core(), SMALL);
        let held = self.held();
        if let Some(room) = buffer.spare().get_mut(..held.len()) {
            room.copy_from_slice(&held);
        }
        buffer.fill(held.len());
        match self.from.poll_read(context, buffer.spare()) {
            Poll::Ready(Ok(0)) => {
                self.hold(held);
                Some(Woken::End)
            }
            Poll::Ready(Ok(count)) => {
                buffer.fill(count);
                if let Some(pings) = &self.shared.pings {
                    pings.leg(self.source).from.set(self.now());
                }
                *next = Some(buffer);
                Some(Woken::Bytes)
            }
            Poll::Ready(Err(error)) => Some(Woken::Broken(error.kind())),
            Poll::Pending => {
                self.hold(held);
                None
            }
        }
    }

    /// Takes what was held back.
    fn held(&self) -> Vec<u8> {
        let pings = self.shared.pings.as_ref();
        pings.map_or_else(Vec::new, |pings| pings.leg(self.source).held.take())
    }

    fn hold(&self, bytes: Vec<u8>) {
        if let Some(pings) = &self.shared.pings {
            pings.leg(self.source).held.replace(bytes);
        }
    }

    /// The gate ends, and this direction is between two frames.
    fn goes_away(&self) -> bool {
        self.shared.websocket && self.shared.shard.draining() && self.frames.at_border()
    }

    /// Ready when the target is to be pinged, here and now.
    fn poll_ping(&self, context: &Context<'_>) -> Poll<()> {
        while let Some(due) = self.ping_due() {
            if !self.frames.at_border() {
                break;
            }
            if self.now() >= due {
                return Poll::Ready(());
            }
            self.timer.set_at(due);
            if self.timer.poll_expired(context).is_pending() {
                break;
            }
        }
        Poll::Pending
    }

    fn ping_due(&self) -> Option<Instant> {
        self.shared.pings.as_ref()?.due(self.source.other())
    }

    /// Passes what was read on; up to the next border of frames where something of our own is to
    /// be done there.
    async fn pass(&mut self, read: &mut Option<Buffer>, moved: &Cell<u64>) -> Result<(), End> {
        let Some(mut buffer) = read.take() else {
            return Ok(());
        };
        while !buffer.is_empty() {
            let count = self.follow(buffer.filled());
            if count > 0 {
                let part = buffer.filled().get(..count).unwrap_or_default();
                self.pass_on(part, moved).await?;
                buffer.consume(count);
            } else if self.shared.shard.draining() {
                return Err(self.say_goodbye().await);
            } else if !self.swallow(&mut buffer) {
                self.ping().await?;
            }
        }
        Ok(())
    }

    /// How much of `bytes` may be passed on before something of our own is to be done.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        if !self.shared.websocket {
            return bytes.len();
        }
        let draining = self.shared.shard.draining();
        let Some(pings) = &self.shared.pings else {
            let count = self.frames.follow(bytes, |_| draining);
            self.note_close();
            return count;
        };
        let now = self.now();
        let target = self.source.other();
        let due = pings.due(target).is_some_and(|due| now >= due);
        let marks = &pings.leg(self.source).marks;
        let stop = |rest: &[u8]| draining || due || marks.look(rest) != Look::Foreign;
        let count = self.frames.follow(bytes, stop);
        if self.frames.take_ping() {
            pings.leg(target).pinged.set(now);
        }
        // Without borders nothing can be put in, nor be found; behind a close nothing follows.
        if self.frames.is_malformed() || self.frames.saw_close() {
            pings.end();
        }
        self.note_close();
        count
    }

    fn note_close(&self) {
        let closer = &self.shared.figures.closer;
        if self.frames.saw_close() && closer.get().is_none() {
            closer.set(Some(self.source));
        }
    }

    /// Takes the answer to a ping of ours out of the front of `buffer`, or keeps its begin for
    /// later; false when there is none.
    fn swallow(&self, buffer: &mut Buffer) -> bool {
        let Some(pings) = &self.shared.pings else {
            return false;
        };
        let marks = &pings.leg(self.source).marks;
        match marks.look(buffer.filled()) {
            Look::Foreign => return false,
            Look::Ours(length, number) => {
                marks.answer(number);
                buffer.consume(length);
            }
            Look::Unclear => {
                self.hold(buffer.filled().to_vec());
                buffer.consume(buffer.filled().len());
            }
        }
        true
    }

    /// Passes bytes of the source on.
    async fn pass_on(&self, bytes: &[u8], moved: &Cell<u64>) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let figures = &self.shared.figures;
        figures.hear(self.source, self.now());
        self.write(bytes).await?;
        figures.hear(self.source, self.now());
        moved.set(moved.get() + bytes.len() as u64);
        Ok(())
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), End> {
        // A reader that stands still is silent: `idle` is the limit for it, too.
        let patience = || Patience::Idle(self.shared.idle);
        relay::write_small(self.to, [bytes, &[], &[]], patience, &self.timer)
            .await
            .map_err(|end| match end {
                WriteEnd::Gone(kind) => gone(kind),
                WriteEnd::Slow => End::Stalled,
            })?;
        if let Some(pings) = &self.shared.pings {
            pings.leg(self.source.other()).to.set(self.now());
        }
        Ok(())
    }

    /// Pings the target, between two frames of the source.
    async fn ping(&self) -> Result<(), End> {
        let target = self.source.other();
        let Some(pings) = &self.shared.pings else {
            return Ok(());
        };
        let leg = pings.leg(target);
        leg.pinged.set(self.now());
        if self.to.unsent() >= UNDER_WAY {
            return Ok(());
        }
        let frame = leg.marks.ping(self.mask());
        self.write(&frame).await
    }

    /// Toward the backend frames are masked.
    fn mask(&self) -> Option<[u8; 4]> {
        (self.source == Side::Client).then(|| {
            let mut mask = [0; 4];
            if getrandom::fill(&mut mask).is_err() {
                tracing::debug!("no randomness for a mask: zero is valid, too");
            }
            mask
        })
    }

    async fn say_goodbye(&self) -> End {
        if self.frames.saw_close() {
            return End::Drained;
        }
        let frame = close_frame(GOING_AWAY, "the gate goes away", self.mask());
        match self.write(&frame).await {
            Ok(()) => End::Drained,
            Err(end) => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_vanished_is_no_peer_that_reset() {
        for (number, source, target) in [
            (libc::ETIMEDOUT, End::Vanished, End::TargetVanished),
            (libc::EHOSTUNREACH, End::Vanished, End::TargetVanished),
            (libc::ENETUNREACH, End::Vanished, End::TargetVanished),
            (libc::ECONNRESET, End::Broken, End::Target),
            (libc::EPIPE, End::Broken, End::Target),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(broken(error.kind()), source, "{error}");
            assert_eq!(gone(error.kind()), target, "{error}");
        }
    }
}
