//! Bodies between the versions: taken from a socket or a stream of frames, given to the other,
//! one piece at a time. A piece is taken only when there is room for it, and a stream's window
//! opens again only when the other side has its bytes: that is the back-pressure.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use crate::compress::Encoder;
use crate::driver::Core;
use crate::driver::buffer::{Buffer, MEDIUM, SMALL};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::http1::BadMessage;
use crate::http1::body::Body;
use crate::http1::write::chunk_line;
use crate::relay::{self, Exhausted, Patience, Progress, RelayEnd, WriteEnd};

use super::io::Chunk;
use super::server::Client;
use super::translate::{trailer_fields, trailer_lines};

/// What a wait is credited with while the gate itself keeps the client from sending.
const AMNESTY: u64 = 1 << 40;

/// Whose bytes on the connection count for a request that waits on one of its streams.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Party<'a> {
    /// Nobody's: a backend.
    None,
    /// A client that owes bytes.
    Sender(&'a Client),
    /// A client that leaves bytes unread.
    Reader(&'a Client),
}

/// The streams of a connection share its road: a stream that waits is credited with an even share
/// of what the whole connection moved, if that is more than its own bytes.
#[derive(Debug)]
struct Share<'a> {
    party: Party<'a>,
    credited: Cell<u64>,
}

impl Share<'_> {
    fn waiting(&self) -> Option<&Cell<u32>> {
        match self.party {
            Party::None => None,
            Party::Sender(client) => Some(&client.owing),
            Party::Reader(client) => Some(&client.unread),
        }
    }
}

impl Progress for Share<'_> {
    fn mark(&self) -> u64 {
        match self.party {
            Party::None => 0,
            Party::Sender(client) => client.sent().unwrap_or(u64::MAX),
            Party::Reader(client) => client.taken(),
        }
    }

    fn since(&self, mark: u64) -> u64 {
        let now = self.mark();
        let closed =
            matches!(self.party, Party::Sender(_)) && (mark == u64::MAX || now == u64::MAX);
        let moved = if closed {
            AMNESTY
        } else {
            let sharers = self.waiting().map_or(1, Cell::get).max(1);
            now.saturating_sub(mark) / u64::from(sharers)
        };
        self.credited.set(self.credited.get().saturating_add(moved));
        moved
    }
}

/// One direction's way to wait.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    patience: Patience,
    timer: &'a Timer,
    core: &'a Core,
    share: Share<'a>,
}

/// Counts a stream among those that wait.
struct Counted<'a>(Option<&'a Cell<u32>>);

impl<'a> Counted<'a> {
    fn new(count: Option<&'a Cell<u32>>) -> Self {
        if let Some(count) = count {
            count.set(count.get() + 1);
        }
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.set(count.get().saturating_sub(1));
        }
    }
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(patience: Patience, timer: &'a Timer, core: &'a Core) -> Self {
        Self {
            patience,
            timer,
            core,
            share: Share {
                party: Party::None,
                credited: Cell::new(0),
            },
        }
    }

    /// Judges a client by its connection as well.
    pub(crate) fn on(mut self, party: Party<'a>) -> Self {
        self.share.party = party;
        self
    }

    async fn wait<T>(
        &mut self,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Exhausted> {
        self.share.credited.set(0);
        let mut counted = None;
        let share = &self.share;
        let poll = |context: &mut Context<'_>| {
            let outcome = poll(context);
            if outcome.is_pending() && counted.is_none() {
                counted = Some(Counted::new(share.waiting()));
            }
            outcome
        };
        relay::wait(&mut self.patience, self.timer, self.core, share, poll).await
    }

    /// Bytes of the stream itself that the last wait brought.
    fn note(&mut self, count: usize) {
        if let Patience::Rate(meter) = &mut self.patience {
            meter.received((count as u64).saturating_sub(self.share.credited.take()));
        }
    }
}

/// A piece of a body, perhaps its last.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) data: Chunk,
    /// Trailer lines, once the body is complete.
    pub(super) end: Option<Vec<u8>>,
}

/// Where a body comes from.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    from: From<'a>,
    /// Something of it was looked at.
    touched: bool,
    /// A piece that was looked for before it was wanted.
    ahead: Option<Result<Piece, RelayEnd>>,
}

#[derive(Debug)]
enum From<'a> {
    Socket(FromSocket<'a>),
    Stream(FromStream),
}

/// A body that comes by HTTP/1.1.
#[derive(Debug)]
struct FromSocket<'a> {
    stream: &'a TcpStream,
    body: Body,
    rest: Option<Buffer>,
    size: usize,
}

/// A body that comes by HTTP/2.
#[derive(Debug)]
struct FromStream {
    stream: RecvStream,
    /// All data came: what is left are trailers.
    trailers: bool,
}

impl<'a> Source<'a> {
    /// A body on a socket, of which `rest` was read already.
    pub(crate) fn socket(stream: &'a TcpStream, body: Body, rest: Option<Buffer>) -> Self {
        Self {
            from: From::Socket(FromSocket {
                stream,
                body,
                rest,
                size: SMALL,
            }),
            touched: false,
            ahead: None,
        }
    }

    pub(crate) fn stream(stream: RecvStream) -> Self {
        Self {
            from: From::Stream(FromStream {
                stream,
                trailers: false,
            }),
            touched: false,
            ahead: None,
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Piece, RelayEnd>> {
        if let Some(piece) = self.ahead.take() {
            return Poll::Ready(piece);
        }
        let piece = ready!(match &mut self.from {
            From::Socket(source) => source.poll_next(context),
            From::Stream(source) => source.poll_next(context),
        });
        self.touched = true;
        Poll::Ready(piece)
    }

    /// Ready when the next piece is there.
    pub(crate) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let piece = ready!(self.poll_next(context));
        self.ahead = Some(piece);
        Poll::Ready(())
    }

    /// The whole of it, when all was read already: so are most answers. What is no whole stays to be
    /// taken piece by piece.
    fn whole(&mut self) -> Option<Chunk> {
        let From::Socket(source) = &mut self.from else {
            return None;
        };
        let piece = source.take().map_err(RelayEnd::Malformed).transpose()?;
        self.touched = true;
        match piece {
            Ok(Piece { data, end }) if end.as_ref().is_some_and(Vec::is_empty) => Some(data),
            piece => {
                self.ahead = Some(piece);
                None
            }
        }
    }

    /// Sends the whole of it and its end, where all is here and there is room; how many bytes.
    ///
    /// # Errors
    /// When the target is gone.
    pub(super) fn send_at_once(
        &mut self,
        stream: &mut SendStream<Chunk>,
    ) -> Result<Option<usize>, RelayEnd> {
        let Some(data) = self.whole() else {
            return Ok(None);
        };
        let count = data.as_slice().len();
        stream.reserve_capacity(count);
        if stream.capacity() < count {
            let end = Some(Vec::new());
            self.ahead = Some(Ok(Piece { data, end }));
            return Ok(None);
        }
        let sent = stream.send_data(data, true);
        sent.map_err(|_| RelayEnd::TargetGone).map(|()| Some(count))
    }

    /// The other side has so many bytes of it.
    fn release(&mut self, count: usize) {
        if let From::Stream(source) = &mut self.from
            && let Err(error) = source.stream.flow_control().release_capacity(count)
        {
            tracing::debug!(%error, "release");
        }
    }

    /// True when something of it is gone, so that it can't be sent again.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched
    }

    /// True when it is known that nothing comes.
    pub(crate) fn is_over(&self) -> bool {
        match &self.from {
            From::Socket(source) => source.body.is_empty(),
            From::Stream(source) => source.stream.is_end_stream(),
        }
    }

    /// What was read beyond the end.
    pub(crate) fn into_rest(self) -> Option<Buffer> {
        match self.from {
            From::Socket(source) => source.rest.filter(|rest| !rest.is_empty()),
            From::Stream(_) => None,
        }
    }

    pub(crate) fn into_stream(self) -> Option<RecvStream> {
        match self.from {
            From::Socket(_) => None,
            From::Stream(source) => Some(source.stream),
        }
    }
}

impl FromSocket<'_> {
    fn poll_next(&mut self, context: &Context<'_>) -> Poll<Result<Piece, RelayEnd>> {
        loop {
            if let Some(piece) = self.take().map_err(RelayEnd::Malformed)? {
                return Poll::Ready(Ok(piece));
            }
            ready!(self.stream.poll_readable(context));
            // A buffer is taken only now; readiness may be stale, then it goes back.
            let mut buffer = Buffer::new(self.stream.core(), self.size);
            match ready!(self.stream.poll_read(context, buffer.spare())) {
                Ok(0) if self.body.ends_with_stream() => {
                    let end = Some(Vec::new());
                    let data = Chunk::EMPTY;
                    return Poll::Ready(Ok(Piece { data, end }));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(RelayEnd::SourceGone)),
                Ok(count) => {
                    if count == buffer.capacity() {
                        self.size = MEDIUM;
                    }
                    buffer.fill(count);
                    self.rest = Some(buffer);
                }
            }
        }
    }

    /// A piece of what was read already.
    fn take(&mut self) -> Result<Option<Piece>, BadMessage> {
        let Some(mut buffer) = self.rest.take() else {
            let done = self.body.take(&mut [])?.done;
            return Ok(done.then(|| Piece {
                data: Chunk::EMPTY,
                end: Some(self.body.trailers().to_vec()),
            }));
        };
        let piece = self.body.take(buffer.filled_mut())?;
        let end = piece.done.then(|| self.body.trailers().to_vec());
        if piece.data == 0 && end.is_none() {
            return Ok(None);
        }
        let data = if piece.consumed == buffer.filled().len() {
            buffer.truncate(piece.data);
            Chunk::of(buffer)
        } else {
            let data = buffer.filled().get(..piece.data).unwrap_or_default();
            let data = Chunk::Bytes(Bytes::copy_from_slice(data));
            buffer.consume(piece.consumed);
            self.rest = Some(buffer);
            data
        };
        Ok(Some(Piece { data, end }))
    }
}

impl FromStream {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Piece, RelayEnd>> {
        if !self.trailers {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(bytes)) => {
                    let end = self.stream.is_end_stream().then(Vec::new);
                    let data = Chunk::Bytes(bytes);
                    return Poll::Ready(Ok(Piece { data, end }));
                }
                Some(Err(error)) => return Poll::Ready(Err(source_end(&error))),
                None => self.trailers = true,
            }
        }
        let end = match ready!(self.stream.poll_trailers(context)) {
            Ok(Some(fields)) => trailer_lines(&fields),
            Ok(None) => Vec::new(),
            Err(error) => return Poll::Ready(Err(source_end(&error))),
        };
        Poll::Ready(Ok(Piece {
            data: Chunk::EMPTY,
            end: Some(end),
        }))
    }
}

/// What `h2` itself resets in a body is one that differs from its content-length, or trailers
/// that are malformed (RFC 9113 §8.1.1).
fn source_end(error: &h2::Error) -> RelayEnd {
    if error.is_reset() && error.is_library() {
        RelayEnd::Malformed(BadMessage::ContentLength)
    } else {
        RelayEnd::SourceGone
    }
}

/// Where a body goes.
#[derive(Debug)]
pub(crate) enum Sink<'a> {
    Http1 {
        stream: &'a TcpStream,
        /// The head, before it was written.
        lead: Vec<u8>,
        chunked: bool,
        /// Its end is noticed while the source is silent.
        watched: bool,
    },
    Http2 {
        stream: SendStream<Chunk>,
    },
}

impl Sink<'_> {
    /// Ready when the side that it leads to is gone.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1 { watched: false, .. } => Poll::Pending,
            Self::Http1 { stream, .. } => stream.poll_broken(context),
            Self::Http2 { stream } => stream.poll_reset(context).map(|_| ()),
        }
    }

    /// Room for `wanted` bytes, or for a part of them.
    pub(super) fn poll_room(
        stream: &mut SendStream<Chunk>,
        wanted: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, RelayEnd>> {
        stream.reserve_capacity(wanted);
        loop {
            let room = stream.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(RelayEnd::TargetGone)),
            }
        }
    }

    /// Waits until there is room at all. Only one byte is reserved: a stream that waits for its
    /// source must not keep the connection's window from the others.
    async fn room(&mut self, waiting: &mut Waiting<'_>) -> Result<(), RelayEnd> {
        let Self::Http2 { stream } = self else {
            return Ok(());
        };
        let room = |context: &mut Context<'_>| Self::poll_room(stream, 1, context);
        let waited = waiting.wait(room).await;
        waited.map_err(|Exhausted| RelayEnd::TargetSlow)??;
        Ok(())
    }

    /// Writes the head if it was not yet.
    pub(crate) async fn flush(&mut self, waiting: &mut Waiting<'_>) -> Result<(), RelayEnd> {
        match self {
            Self::Http1 { stream, lead, .. } if !lead.is_empty() => {
                let lead = std::mem::take(lead);
                write(stream, [&lead, &[], &[]], waiting).await?;
                stream.core().buffers().give_sheet(lead);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn put(
        &mut self,
        piece: Piece,
        waiting: &mut Waiting<'_>,
    ) -> Result<(), RelayEnd> {
        match self {
            Self::Http1 {
                stream,
                lead,
                chunked,
                ..
            } => {
                let lead = std::mem::take(lead);
                write_piece(stream, lead, *chunked, &piece, waiting).await
            }
            Self::Http2 { stream } => send_piece(stream, piece, waiting).await,
        }
    }
}

async fn write(
    stream: &TcpStream,
    parts: [&[u8]; 3],
    waiting: &mut Waiting<'_>,
) -> Result<(), RelayEnd> {
    let written = relay::write_all(stream, parts, &mut waiting.patience, waiting.timer);
    written.await.map_err(|end| match end {
        WriteEnd::Gone(_) => RelayEnd::TargetGone,
        WriteEnd::Slow => RelayEnd::TargetSlow,
    })
}

async fn write_piece(
    stream: &TcpStream,
    mut lead: Vec<u8>,
    chunked: bool,
    piece: &Piece,
    waiting: &mut Waiting<'_>,
) -> Result<(), RelayEnd> {
    let mut tail = Vec::new();
    let data = piece.data.as_slice();
    if chunked {
        if !data.is_empty() {
            let mut line = Vec::with_capacity(20);
            chunk_line(&mut line, data.len());
            lead.extend_from_slice(&line);
            tail.extend_from_slice(b"\r\n");
        }
        if let Some(trailers) = &piece.end {
            tail.extend_from_slice(b"0\r\n");
            tail.extend_from_slice(trailers);
            tail.extend_from_slice(b"\r\n");
        }
    }
    write(stream, [&lead, data, &tail], waiting).await
}

async fn send_piece(
    stream: &mut SendStream<Chunk>,
    piece: Piece,
    waiting: &mut Waiting<'_>,
) -> Result<(), RelayEnd> {
    let Piece { mut data, end } = piece;
    let gone = |_| RelayEnd::TargetGone;
    let plain_end = end.as_ref().is_some_and(Vec::is_empty);
    while !data.is_empty() {
        let wanted = data.as_slice().len();
        let room = |context: &mut Context<'_>| Sink::poll_room(stream, wanted, context);
        let waited = waiting.wait(room).await;
        let room = waited.map_err(|Exhausted| RelayEnd::TargetSlow)??;
        let part = data.split_to(room);
        waiting.note(part.as_slice().len());
        let last = data.is_empty() && plain_end;
        stream.send_data(part, last).map_err(gone)?;
        if last {
            return Ok(());
        }
    }
    match end {
        None => Ok(()),
        Some(lines) if lines.is_empty() => stream.send_data(Chunk::EMPTY, true).map_err(gone),
        Some(lines) => stream.send_trailers(trailer_fields(&lines)).map_err(gone),
    }
}

/// Sends `data` as a whole body.
pub(super) async fn put_all(
    sink: &mut Sink<'_>,
    data: Chunk,
    waiting: &mut Waiting<'_>,
) -> Result<(), RelayEnd> {
    let end = Some(Vec::new());
    sink.put(Piece { data, end }, waiting).await
}

/// Reads a body of `length` bytes as a whole.
pub(super) async fn gather(
    stream: &mut RecvStream,
    length: usize,
    waiting: &mut Waiting<'_>,
) -> Result<Vec<u8>, RelayEnd> {
    let mut body = Vec::with_capacity(length);
    while body.len() < length {
        let data = |context: &mut Context<'_>| stream.poll_data(context);
        let waited = waiting.wait(data).await;
        match waited.map_err(|Exhausted| RelayEnd::SourceSlow)? {
            Some(Ok(bytes)) => {
                waiting.note(bytes.len());
                body.extend_from_slice(&bytes);
                if let Err(error) = stream.flow_control().release_capacity(bytes.len()) {
                    tracing::debug!(%error, "release");
                }
            }
            Some(Err(error)) => return Err(source_end(&error)),
            None => return Err(RelayEnd::SourceGone),
        }
    }
    Ok(body)
}

/// One direction of an exchange.
#[derive(Debug)]
pub(crate) struct Pump<'a> {
    /// How long we wait for the source.
    pub(crate) reading: Waiting<'a>,
    /// How long we wait for the sink.
    pub(crate) writing: Waiting<'a>,
    /// What the data goes through.
    pub(crate) encoder: Option<Box<Encoder>>,
    /// Most bytes of data.
    pub(crate) limit: u64,
    /// Bytes of data that were moved.
    pub(crate) moved: u64,
}

impl Pump<'_> {
    /// Moves a whole body.
    pub(crate) async fn run(
        &mut self,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), RelayEnd> {
        loop {
            sink.room(&mut self.writing).await?;
            let piece = self.next(source, sink).await?;
            let count = piece.data.as_slice().len();
            let done = piece.end.is_some();
            let piece = self.encode(piece)?;
            self.put(piece, sink).await?;
            source.release(count);
            if done {
                return Ok(());
            }
        }
    }

    async fn put(&mut self, piece: Piece, sink: &mut Sink<'_>) -> Result<(), RelayEnd> {
        let count = piece.data.as_slice().len();
        self.moved += count as u64;
        if self.moved > self.limit {
            return Err(RelayEnd::TooLarge);
        }
        if count == 0 && piece.end.is_none() {
            return Ok(());
        }
        sink.put(piece, &mut self.writing).await
    }

    /// Sends data through the encoder, where there is one.
    fn encode(&mut self, piece: Piece) -> Result<Piece, RelayEnd> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(piece);
        };
        let failed = |_| RelayEnd::Encoder;
        let mut coded = encoder.put(piece.data.as_slice()).map_err(failed)?;
        if piece.end.is_some()
            && let Some(encoder) = self.encoder.take()
        {
            coded.extend(encoder.finish().map_err(failed)?);
        }
        Ok(Piece {
            data: Chunk::Bytes(coded.into()),
            end: piece.end,
        })
    }

    /// Before a pause of the source the sink gets all that there is.
    async fn flush(&mut self, sink: &mut Sink<'_>) -> Result<(), RelayEnd> {
        sink.flush(&mut self.writing).await?;
        let Some(encoder) = self.encoder.as_mut().filter(|encoder| encoder.holds()) else {
            return Ok(());
        };
        let coded = encoder.flush().map_err(|_| RelayEnd::Encoder)?;
        let piece = Piece {
            data: Chunk::Bytes(coded.into()),
            end: None,
        };
        self.put(piece, sink).await
    }

    async fn next(
        &mut self,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Piece, RelayEnd> {
        // A head goes out with the first bytes when they are there, and does not wait for them.
        let at_once = poll_fn(|context| match source.poll_next(context) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => Poll::Ready(None),
        });
        if let Some(piece) = at_once.await {
            let piece = piece?;
            self.reading.note(piece.data.as_slice().len());
            return Ok(piece);
        }
        self.flush(sink).await?;
        let next = |context: &mut Context<'_>| {
            if sink.poll_gone(context).is_ready() {
                return Poll::Ready(Err(RelayEnd::Abandoned));
            }
            source.poll_next(context)
        };
        let waited = self.reading.wait(next).await;
        let piece = waited.map_err(|Exhausted| RelayEnd::SourceSlow)??;
        self.reading.note(piece.data.as_slice().len());
        Ok(piece)
    }
}
