//! The driver's sockets as `h2` wants them: Tokio's traits over a [`TcpStream`], the [`Watch`]
//! that sees the frames pass, and the [`Outbox`] that short ones leave by together.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::tcp::TcpStream;

use super::watch::Watch;

/// What `h2` writes at once and is no longer waits for the end of the turn.
const SHORT: usize = SMALL / 2;

/// Frames on their way out. `h2` writes and flushes behind every DATA frame; here short writes are
/// kept until its task's turn is over, and go out in one, with TLS in one record.
#[derive(Debug)]
pub(crate) struct Outbox {
    stream: TcpStream,
    watch: RefCell<Watch>,
    waiting: RefCell<Option<Buffer>>,
    /// Why nothing more can be written.
    failed: Cell<Option<io::ErrorKind>>,
}

impl Outbox {
    pub(crate) fn new(stream: TcpStream, watch: Watch) -> Rc<Self> {
        Rc::new(Self {
            stream,
            watch: RefCell::new(watch),
            waiting: RefCell::default(),
            failed: Cell::default(),
        })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn watch(&self) -> &RefCell<Watch> {
        &self.watch
    }

    /// One turn of a task that writes here: what was written is sent at its end, as far as there is
    /// room; the task is woken when there is more.
    pub(crate) fn turn<T>(
        &self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let outcome = poll(context);
        // Whoever spent its turn on reading still says what it has to say.
        self.stream.core().leave_one();
        if let Poll::Ready(Err(error)) = self.poll_flush(context) {
            // `h2` is told when it reads.
            self.failed.set(Some(error.kind()));
            context.waker().wake_by_ref();
        }
        outcome
    }

    fn poll_flush(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let mut slot = self.waiting.borrow_mut();
        while let Some(buffer) = &mut *slot {
            let count = ready!(self.poll_send(context, &[IoSlice::new(buffer.filled())]))?;
            buffer.consume(count);
            slot.take_if(|buffer| buffer.is_empty());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&self, context: &Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let count = ready!(self.stream.poll_write(context, slices))?;
        let mut watch = self.watch.borrow_mut();
        let mut left = count;
        for slice in slices {
            let here = left.min(slice.len());
            watch.sent(slice.get(..here).unwrap_or_default());
            left -= here;
        }
        Poll::Ready(Ok(count))
    }

    /// Keeps `slices` for the end of the turn; false when there is no room for all of them.
    fn keep(&self, slices: &[IoSlice<'_>], total: usize) -> bool {
        let mut slot = self.waiting.borrow_mut();
        let buffer = slot.get_or_insert_with(|| Buffer::new(self.stream.core(), SMALL));
        if buffer.spare().len() < total {
            return false;
        }
        for slice in slices {
            if let Some(room) = buffer.spare().get_mut(..slice.len()) {
                room.copy_from_slice(slice);
                buffer.fill(slice.len());
            }
        }
        true
    }

    fn check(&self) -> io::Result<()> {
        match self.failed.get() {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }
}

/// A connection as `h2` sees it.
#[derive(Debug)]
pub(crate) struct Io {
    outbox: Rc<Outbox>,
    /// What was read before it was known to be HTTP/2.
    ahead: Option<Buffer>,
}

impl Io {
    pub(crate) fn new(outbox: &Rc<Outbox>, ahead: Option<Buffer>) -> Self {
        Self {
            outbox: Rc::clone(outbox),
            ahead,
        }
    }

    fn note(&self, bytes: &[u8]) {
        let now = self.outbox.stream.core().now();
        self.outbox.watch.borrow_mut().received(bytes, now);
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(mut ahead) = this.ahead.take() {
            let count = ahead.filled().len().min(target.remaining());
            let part = ahead.filled().get(..count).unwrap_or_default();
            target.put_slice(part);
            this.note(part);
            ahead.consume(count);
            this.ahead = Some(ahead).filter(|ahead| !ahead.is_empty());
            return Poll::Ready(Ok(()));
        }
        this.outbox.check()?;
        // Whoever polls the connection sees the cut next, and says goodbye.
        if this.outbox.watch.borrow().cut().is_some() {
            return Poll::Pending;
        }
        let stream = &this.outbox.stream;
        // By way of a buffer: `target` would have to be filled with zeros first.
        let mut buffer = Buffer::new(stream.core(), SMALL);
        let room = buffer.spare().get_mut(..target.remaining().min(SMALL));
        let count = ready!(stream.poll_read(context, room.unwrap_or_default()))?;
        buffer.fill(count);
        this.note(buffer.filled());
        target.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outbox = &self.outbox;
        outbox.check()?;
        let total = slices.iter().map(|slice| slice.len()).sum();
        if total <= SHORT && outbox.keep(slices, total) {
            return Poll::Ready(Ok(total));
        }
        ready!(outbox.poll_flush(context))?;
        if total <= SHORT && outbox.keep(slices, total) {
            return Poll::Ready(Ok(total));
        }
        outbox.poll_send(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: [`Outbox::turn`] does it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.outbox.poll_flush(context))?;
        self.outbox.stream.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

/// A piece of a body on its way into frames: bytes of another frame, or a part of a buffer of the
/// driver, which goes back to its list when all of it was written.
#[derive(Debug)]
pub(crate) enum Chunk {
    Bytes(Bytes),
    Part {
        buffer: Rc<Buffer>,
        start: usize,
        end: usize,
    },
}

impl Chunk {
    pub(crate) const EMPTY: Self = Self::Bytes(Bytes::new());

    /// What `buffer` holds. A buffer that is nearly empty is not kept for it.
    pub(crate) fn of(buffer: Buffer) -> Self {
        let count = buffer.filled().len();
        if count < buffer.capacity() / 2 {
            return Self::Bytes(Bytes::copy_from_slice(buffer.filled()));
        }
        Self::Part {
            buffer: Rc::new(buffer),
            start: 0,
            end: count,
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Part { buffer, start, end } => {
                buffer.filled().get(*start..*end).unwrap_or_default()
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// Takes the first `count` bytes away, without a copy.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.split_to(count.min(bytes.len()))),
            Self::Part { buffer, start, end } => {
                let middle = (*start + count).min(*end);
                let first = Self::Part {
                    buffer: Rc::clone(buffer),
                    start: *start,
                    end: middle,
                };
                *start = middle;
                first
            }
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.as_slice().len()
    }

    fn chunk(&self) -> &[u8] {
        self.as_slice()
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count.min(bytes.len())),
            Self::Part { start, end, .. } => *start = (*start + count).min(*end),
        }
    }
}
