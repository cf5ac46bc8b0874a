//! The driver's sockets as `h2` wants them: Tokio's traits over a [`TcpStream`], and the
//! [`Watch`] that sees the frames pass.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::driver::buffer::Buffer;
use crate::driver::tcp::TcpStream;

use super::watch::Watch;

/// A connection as `h2` sees it.
#[derive(Debug)]
pub(crate) struct Io {
    stream: Rc<TcpStream>,
    /// What was read before it was known to be HTTP/2.
    ahead: Option<Buffer>,
    watch: Rc<RefCell<Watch>>,
}

impl Io {
    pub(crate) fn new(
        stream: Rc<TcpStream>,
        ahead: Option<Buffer>,
        watch: Rc<RefCell<Watch>>,
    ) -> Self {
        Self {
            stream,
            ahead,
            watch,
        }
    }

    fn note(&self, bytes: &[u8]) {
        let now = self.stream.core().now();
        self.watch.borrow_mut().received(bytes, now);
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(ahead) = &mut this.ahead {
            let count = ahead.filled().len().min(target.remaining());
            let part = ahead.filled().get(..count).unwrap_or_default();
            target.put_slice(part);
            let now = this.stream.core().now();
            this.watch.borrow_mut().received(part, now);
            ahead.consume(count);
            if ahead.is_empty() {
                this.ahead = None;
            }
            return Poll::Ready(Ok(()));
        }
        // Whoever polls the connection sees the cut next, and says goodbye.
        if this.watch.borrow().cut().is_some() {
            return Poll::Pending;
        }
        let spare = target.initialize_unfilled();
        let count = ready!(this.stream.poll_read(context, spare))?;
        this.note(spare.get(..count).unwrap_or_default());
        target.advance(count);
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

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.shutdown_write();
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
