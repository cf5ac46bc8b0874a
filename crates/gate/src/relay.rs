//! Moving bytes between two sockets: a body is read, re-framed and written on, one buffer at a
//! time. Nothing is read while the other side has no room: that is the back-pressure. A large body
//! of known length, plain on both sides, passes within the kernel as long as much comes at once.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::compress::Encoder;
use crate::driver::Core;
use crate::driver::buffer::{Buffer, LARGE, MEDIUM, SMALL};
use crate::driver::splice::{self, Splice};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::http1::BadMessage;
use crate::http1::body::Body;
use crate::http1::write::chunk_line;
use crate::meter::Meter;
use crate::stats::Counter;

/// Data up to this size is copied behind the head and sent with it in one piece.
const COPY_MAX: usize = 4 * 1024;
/// A piece of a body that costs less to hand on within the kernel than to copy twice.
const MUCH: usize = 16 * 1024;

/// How long to wait for the other side, and by what it is judged.
#[derive(Debug)]
pub(crate) enum Patience {
    /// No byte for so long.
    Idle(Duration),
    /// Slower than a rate.
    Rate(Meter),
    /// As long as it takes.
    Endless,
}

impl Patience {
    fn check_after(&self) -> Option<Duration> {
        match self {
            Self::Idle(limit) => Some(*limit),
            Self::Rate(meter) => Some(meter.next_check()),
            Self::Endless => None,
        }
    }

    /// False when it is exhausted.
    fn waited(&mut self, time: Duration, moved: u64) -> bool {
        match self {
            Self::Idle(limit) => moved > 0 || time < *limit,
            Self::Rate(meter) => {
                meter.received(moved);
                meter.waited(time)
            }
            Self::Endless => true,
        }
    }
}

/// Why a relay ended early.
#[derive(Debug)]
pub(crate) enum RelayEnd {
    /// The source closed before the end of the body, or broke.
    SourceGone,
    /// The target broke.
    TargetGone,
    /// The source kept us waiting for too long.
    SourceSlow,
    /// The target left bytes unread for too long.
    TargetSlow,
    /// The source's chunks are malformed.
    Malformed(BadMessage),
    /// More bytes than the limit allows.
    TooLarge,
    /// Whoever watches the exchange ended it.
    Abandoned,
    /// The data can't be compressed.
    Encoder,
}

/// One direction of an exchange.
pub(crate) struct Relay<'a> {
    pub(crate) from: &'a TcpStream,
    pub(crate) to: &'a TcpStream,
    pub(crate) timer: &'a Timer,
    /// How long we wait for the source.
    pub(crate) reading: Patience,
    /// How long we wait for the target.
    pub(crate) writing: Patience,
    /// Write chunks.
    pub(crate) chunked: bool,
    /// What the data goes through.
    pub(crate) encoder: Option<Box<Encoder>>,
    /// Most bytes of data.
    pub(crate) limit: u64,
    /// Bytes of data that were moved.
    pub(crate) moved: u64,
    /// Something was written, or may have been.
    pub(crate) begun: bool,
    /// Counts what passed without being read.
    pub(crate) spliced: &'a Counter,
    /// A third party whose reset ends the wait for the source.
    pub(crate) watched: Option<&'a TcpStream>,
}

impl std::fmt::Debug for Relay<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Relay")
            .field("moved", &self.moved)
            .finish_non_exhaustive()
    }
}

impl Relay<'_> {
    /// Sends `lead`, then the body: what is in `buffer` already, and what comes. Hands back what
    /// was read beyond the end.
    pub(crate) async fn run(
        &mut self,
        body: &mut Body,
        mut lead: Vec<u8>,
        buffer: Option<Buffer>,
    ) -> Result<Option<Buffer>, RelayEnd> {
        let mut buffer = buffer;
        let mut size = SMALL;
        let mut much = false;
        if let Some(first) = &mut buffer {
            self.fill_up(first, body).await;
        }
        loop {
            let done = self.forward(body, &mut lead, buffer.as_mut()).await?;
            // Unless the body is done, all that was read belongs to it and is used by now.
            let rest = buffer.take().filter(|rest| !rest.is_empty());
            if done {
                return Ok(rest);
            }
            drop(rest);
            // Before a pause of the source the client gets all that there is.
            if self.encoder.as_ref().is_some_and(|encoder| encoder.holds())
                && !self.from.is_spoilt()
            {
                self.flush(&mut lead).await?;
            }
            if size == SMALL
                && self.encoder.is_none()
                && body.left().is_some_and(|left| left > SMALL as u64)
            {
                size = MEDIUM;
            }
            if much && self.may_splice(body) {
                self.splice(body).await?;
                if body.is_empty() {
                    return Ok(None);
                }
            }
            let Some(read) = self.read(size).await? else {
                if body.ends_with_stream() {
                    self.finish(body).await?;
                    return Ok(None);
                }
                return Err(RelayEnd::SourceGone);
            };
            let count = read.filled().len();
            much = count >= MUCH;
            // Pieces stay small where each costs the loop some time.
            if count == read.capacity() && self.encoder.is_none() {
                size = if size == SMALL { MEDIUM } else { LARGE };
            }
            buffer = Some(read);
        }
    }

    /// What filled a small buffer is hardly all that has come: the rest goes along in the same write.
    async fn fill_up(&mut self, first: &mut Buffer, body: &Body) {
        let held = first.filled().len() as u64;
        let full = first.spare().is_empty() && first.capacity() == SMALL;
        let more = body.left().is_some_and(|left| left > held);
        if !full || !more || self.encoder.is_some() || !first.grow() {
            return;
        }
        let from = self.from;
        let read = poll_fn(|context| match from.poll_read(context, first.spare()) {
            // An end, or an error, shows once more at the next read.
            Poll::Ready(result) => Poll::Ready(result.unwrap_or(0)),
            Poll::Pending => Poll::Ready(0),
        });
        let count = read.await;
        first.fill(count);
        self.note(count);
    }

    /// Sends what the buffer holds of the body; true at its end.
    async fn forward(
        &mut self,
        body: &mut Body,
        lead: &mut Vec<u8>,
        buffer: Option<&mut Buffer>,
    ) -> Result<bool, RelayEnd> {
        let Some(buffer) = buffer else {
            let piece = body.take(&mut []).map_err(RelayEnd::Malformed)?;
            self.encode(lead, &[], piece.done.then_some(&*body)).await?;
            return Ok(piece.done);
        };
        let piece = body
            .take(buffer.filled_mut())
            .map_err(RelayEnd::Malformed)?;
        if self.encoder.is_some() {
            let data = buffer.filled().get(..piece.data).unwrap_or_default();
            self.encode(lead, data, piece.done.then_some(&*body))
                .await?;
            buffer.consume(piece.consumed);
            return Ok(piece.done);
        }
        self.moved += piece.data as u64;
        if self.moved > self.limit {
            return Err(RelayEnd::TooLarge);
        }
        let data = buffer.filled().get(..piece.data).unwrap_or_default();
        self.send(lead, data, piece.done.then_some(&*body)).await?;
        buffer.consume(piece.consumed);
        Ok(piece.done)
    }

    async fn send(
        &mut self,
        lead: &mut Vec<u8>,
        data: &[u8],
        ended: Option<&Body>,
    ) -> Result<(), RelayEnd> {
        let mut tail = Vec::new();
        if self.chunked {
            if !data.is_empty() {
                let mut line = Vec::with_capacity(20);
                chunk_line(&mut line, data.len());
                lead.extend_from_slice(&line);
                tail.extend_from_slice(b"\r\n");
            }
            if let Some(body) = ended {
                tail.extend_from_slice(b"0\r\n");
                tail.extend_from_slice(body.trailers());
                tail.extend_from_slice(b"\r\n");
            }
        }
        if !lead.is_empty() || !data.is_empty() || !tail.is_empty() {
            self.write_all(join(lead, data, &tail)).await?;
        }
        lead.clear();
        Ok(())
    }

    /// Ends a body that ended with its stream.
    async fn finish(&mut self, body: &Body) -> Result<(), RelayEnd> {
        self.encode(&mut Vec::new(), &[], Some(body)).await
    }

    /// Sends data through the encoder, where there is one.
    async fn encode(
        &mut self,
        lead: &mut Vec<u8>,
        data: &[u8],
        ended: Option<&Body>,
    ) -> Result<(), RelayEnd> {
        let Some(encoder) = &mut self.encoder else {
            return self.send(lead, data, ended).await;
        };
        let failed = |_| RelayEnd::Encoder;
        let mut coded = encoder.put(data).map_err(failed)?;
        if ended.is_some()
            && let Some(encoder) = self.encoder.take()
        {
            coded.extend(encoder.finish().map_err(failed)?);
        }
        self.moved += coded.len() as u64;
        self.send(lead, &coded, ended).await
    }

    async fn flush(&mut self, lead: &mut Vec<u8>) -> Result<(), RelayEnd> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        let coded = encoder.flush().map_err(|_| RelayEnd::Encoder)?;
        self.moved += coded.len() as u64;
        self.send(lead, &coded, None).await
    }

    /// True when the rest of the body may pass from socket to socket: plain bytes both ways, of
    /// which nobody wants to see one.
    fn may_splice(&self, body: &Body) -> bool {
        let plain = !self.from.is_tls() && !self.to.is_tls();
        let untouched = self.encoder.is_none() && !self.chunked;
        plain
            && untouched
            && body.left().is_some_and(|left| {
                // What exceeds the limit is read, and refused at the byte that does.
                left > 0 && self.moved.saturating_add(left) <= self.limit
            })
    }

    /// Moves the body from socket to socket while that pays: to its end, or to a piece that is as
    /// cheaply read.
    async fn splice(&mut self, body: &mut Body) -> Result<(), RelayEnd> {
        while let Some(left) = body.left().filter(|left| *left > 0) {
            self.wait_for_source().await?;
            let Some(mut pipe) = Splice::new(self.from.core()) else {
                return Ok(());
            };
            let most = usize::try_from(left).unwrap_or(splice::CAPACITY);
            let count = match self.from.fill(&mut pipe, most) {
                Some(0) => return Err(RelayEnd::SourceGone),
                Some(count) => count,
                None if self.from.is_dry() => continue,
                None => return Ok(()),
            };
            self.note(count);
            self.moved += count as u64;
            self.spliced.add(count as u64);
            body.pass(count);
            self.pour(&mut pipe).await?;
            if count < MUCH {
                break;
            }
        }
        // Who has the connection next goes by its readiness: that is not left stale.
        self.from.is_dry();
        Ok(())
    }

    /// Gives on all that the pipe holds.
    async fn pour(&mut self, pipe: &mut Splice) -> Result<(), RelayEnd> {
        self.begun = true;
        let to = self.to;
        while pipe.held() > 0 {
            let give = |context: &mut Context<'_>| to.poll_pour(context, pipe);
            match wait(&mut self.writing, self.timer, to.core(), &Some(to), give).await {
                Err(Exhausted) => return Err(RelayEnd::TargetSlow),
                Ok(Err(_) | Ok(0)) => return Err(RelayEnd::TargetGone),
                Ok(Ok(_)) => {}
            }
        }
        Ok(())
    }

    /// Waits until a read may bring something, as long as the source's patience lasts.
    async fn wait_for_source(&mut self) -> Result<(), RelayEnd> {
        let (from, watched) = (self.from, self.watched);
        let ready = |context: &mut Context<'_>| match watched {
            Some(watched) if watched.poll_broken(context).is_ready() => Poll::Ready(false),
            _ => from.poll_readable(context).map(|()| true),
        };
        let (timer, nobody) = (self.timer, &None::<&TcpStream>);
        match wait(&mut self.reading, timer, from.core(), nobody, ready).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(RelayEnd::Abandoned),
            Err(Exhausted) => Err(RelayEnd::SourceSlow),
        }
    }

    /// Reads once; `None` at the end of the stream. A buffer is taken only when there is
    /// something to read.
    async fn read(&mut self, size: usize) -> Result<Option<Buffer>, RelayEnd> {
        let from = self.from;
        loop {
            self.wait_for_source().await?;
            let mut buffer = Buffer::new(from.core(), size);
            // Readiness may be stale: then the buffer goes back before we wait again.
            let outcome = poll_fn(|context| {
                Poll::Ready(match from.poll_read(context, buffer.spare()) {
                    Poll::Ready(result) => Some(result),
                    Poll::Pending => None,
                })
            })
            .await;
            match outcome {
                None => {}
                Some(Ok(0)) => return Ok(None),
                Some(Ok(count)) => {
                    buffer.fill(count);
                    self.note(count);
                    return Ok(Some(buffer));
                }
                Some(Err(_)) => return Err(RelayEnd::SourceGone),
            }
        }
    }

    fn note(&mut self, count: usize) {
        if let Patience::Rate(meter) = &mut self.reading {
            meter.received(count as u64);
        }
    }

    async fn write_all(&mut self, parts: [&[u8]; 3]) -> Result<(), RelayEnd> {
        self.begun = true;
        write_all(self.to, parts, &mut self.writing, self.timer)
            .await
            .map_err(|end| match end {
                WriteEnd::Gone(_) => RelayEnd::TargetGone,
                WriteEnd::Slow => RelayEnd::TargetSlow,
            })
    }
}

/// The parts of one write; what is small is copied behind the head, which is cheaper than a
/// vectored write.
pub(crate) fn join<'a>(lead: &'a mut Vec<u8>, data: &'a [u8], tail: &'a [u8]) -> [&'a [u8]; 3] {
    if lead.is_empty() || data.len() > COPY_MAX {
        return [lead, data, tail];
    }
    lead.extend_from_slice(data);
    lead.extend_from_slice(tail);
    [lead, &[], &[]]
}

/// Patience came to its end.
#[derive(Debug)]
pub(crate) struct Exhausted;

/// Why a write ended early.
#[derive(Debug)]
pub(crate) enum WriteEnd {
    /// The peer is: what the socket said of it.
    Gone(io::ErrorKind),
    Slow,
}

/// Writes all of `parts`, at once where they fit, as what is small nearly always does: only who has to wait pays for
/// the state of waiting.
pub(crate) async fn write_small<P: Pipe>(
    to: &P,
    parts: [&[u8]; 3],
    patience: impl FnOnce() -> Patience,
    timer: &Timer,
) -> Result<(), WriteEnd> {
    let mut parts = parts;
    if are_empty(parts) {
        return Ok(());
    }
    match poll_fn(|context| Poll::Ready(poll_parts(to, parts, context))).await {
        Poll::Ready(Err(error)) => return Err(WriteEnd::Gone(error.kind())),
        Poll::Ready(Ok(0)) => return Err(WriteEnd::Gone(io::ErrorKind::WriteZero)),
        Poll::Ready(Ok(count)) => advance(&mut parts, count),
        Poll::Pending => {}
    }
    if are_empty(parts) {
        return Ok(());
    }
    Box::pin(async move { write_all(to, parts, &mut patience(), timer).await }).await
}

fn are_empty(parts: [&[u8]; 3]) -> bool {
    parts.iter().all(|part| part.is_empty())
}

fn poll_parts<P: Pipe>(
    to: &P,
    parts: [&[u8]; 3],
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    // Each slice points to what is left; empty ones cost nothing.
    match parts {
        [single, [], []] | [[], single, []] => to.poll_write(context, &[IoSlice::new(single)]),
        several => to.poll_write(context, &several.map(IoSlice::new)),
    }
}

/// Leaves out the first `count` bytes, which were written.
fn advance(parts: &mut [&[u8]; 3], count: usize) {
    let mut count = count;
    for part in parts {
        let taken = count.min(part.len());
        *part = part.get(taken..).unwrap_or_default();
        count -= taken;
    }
}

/// Writes all of `parts`.
pub(crate) async fn write_all<P: Pipe>(
    to: &P,
    parts: [&[u8]; 3],
    patience: &mut Patience,
    timer: &Timer,
) -> Result<(), WriteEnd> {
    let mut parts = parts;
    while !are_empty(parts) {
        let write = |context: &mut Context<'_>| poll_parts(to, parts, context);
        match wait(patience, timer, to.core(), &Some(to), write).await {
            Err(Exhausted) => return Err(WriteEnd::Slow),
            Ok(Err(error)) => return Err(WriteEnd::Gone(error.kind())),
            Ok(Ok(0)) => return Err(WriteEnd::Gone(io::ErrorKind::WriteZero)),
            Ok(Ok(count)) => advance(&mut parts, count),
        }
    }
    Ok(())
}

/// What counts as progress of a peer while it is waited for, beside what the wait brings itself.
pub(crate) trait Progress {
    /// A mark to count from.
    fn mark(&self) -> u64;
    /// Bytes since then.
    fn since(&self, mark: u64) -> u64;
}

/// What carries bytes both ways: a socket, or a stream of HTTP/2.
pub(crate) trait Pipe {
    fn core(&self) -> &Rc<Core>;
    /// Ready when a read may bring something: bytes, the end, or an error.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()>;
    /// Reads what is there. 0 is the end.
    fn poll_read(&self, context: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Writes what fits of the slices.
    fn poll_write(
        &self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;
    /// Ends our side; the peer may still send.
    fn shutdown_write(&self);
    /// Ends our side as one that broke.
    fn cut_write(&self);
    /// Bytes that were written and that the peer has not taken yet, where that is known.
    fn unsent(&self) -> u64;
    /// Finds a peer that vanished without a word.
    fn keep_alive(&self);
}

impl Pipe for TcpStream {
    fn core(&self) -> &Rc<Core> {
        self.core()
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_readable(context)
    }

    fn poll_read(&self, context: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read(context, target)
    }

    fn poll_write(
        &self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write(context, slices)
    }

    fn shutdown_write(&self) {
        self.shutdown_write();
    }

    fn cut_write(&self) {
        self.cut_write();
    }

    fn unsent(&self) -> u64 {
        self.unsent()
    }

    fn keep_alive(&self) {
        let keep_alive = keep_alive_of(self.key());
        if let Err(error) = self.socket().set_tcp_keepalive(&keep_alive) {
            tracing::debug!(%error, "keep-alive");
        }
    }
}

/// After 60 to 119 s of silence a peer is asked, and after six questions without an answer it is gone: found within two
/// to four minutes. Each connection has times of its own: of thousands that began together, and were asked together, the
/// kernel loses questions and answers where its queue is full (`net.core.netdev_max_backlog`), those of the same ones
/// each time, and takes living peers for dead.
fn keep_alive_of(connection: usize) -> socket2::TcpKeepalive {
    let place = connection as u64;
    socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60 + place % 60))
        .with_interval(Duration::from_secs(10 + place / 60 % 10))
        .with_retries(6)
}

/// What a peer took of what was written before: a write that fits no byte says nothing about a
/// slow but steady reader.
impl<P: Pipe> Progress for Option<&P> {
    fn mark(&self) -> u64 {
        self.map_or(0, P::unsent)
    }

    fn since(&self, mark: u64) -> u64 {
        mark.saturating_sub(self.mark())
    }
}

/// Waits for `poll`, as long as `patience` lasts. The timer is touched only when there is
/// something to wait for.
pub(crate) async fn wait<T>(
    patience: &mut Patience,
    timer: &Timer,
    core: &Core,
    progress: &impl Progress,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Result<T, Exhausted> {
    let mut since = None;
    let outcome = loop {
        let step = poll_fn(|context| {
            if let Poll::Ready(value) = poll(context) {
                return Poll::Ready(Some(value));
            }
            if since.is_none() {
                since = Some((core.now(), progress.mark()));
                match patience.check_after() {
                    Some(limit) => timer.set(limit),
                    None => timer.clear(),
                }
            }
            timer.poll_expired(context).map(|()| None)
        })
        .await;
        let Some((start, before)) = since.take() else {
            break step;
        };
        let waited = core.now().saturating_duration_since(start);
        let moved = progress.since(before);
        let rated = matches!(patience, Patience::Rate(_));
        if !patience.waited(waited, moved) && (rated || step.is_none()) {
            break None;
        }
        if step.is_some() {
            break step;
        }
    };
    outcome.ok_or(Exhausted)
}
