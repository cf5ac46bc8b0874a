//! A stream of HTTP/2 as one end of a tunnel: DATA frames are its bytes, END_STREAM its end
//! (RFC 8441 §5).

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};

use crate::driver::Core;
use crate::driver::buffer::SMALL;
use crate::relay::Pipe;

use super::body::Sink;
use super::io::Chunk;

/// Both halves of a stream.
#[derive(Debug)]
pub(crate) struct Duplex {
    core: Rc<Core>,
    input: RefCell<RecvStream>,
    output: RefCell<SendStream<Chunk>>,
    /// What came and was not read.
    ahead: RefCell<Bytes>,
    ended: Cell<bool>,
}

impl Duplex {
    pub(super) fn new(core: &Rc<Core>, input: RecvStream, output: SendStream<Chunk>) -> Self {
        Self {
            core: Rc::clone(core),
            input: RefCell::new(input),
            output: RefCell::new(output),
            ahead: RefCell::default(),
            ended: Cell::new(false),
        }
    }

    /// Takes the next frame when all before was read.
    fn poll_fill(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.borrow().is_empty() && !self.ended.get() {
            match ready!(self.input.borrow_mut().poll_data(context)) {
                Some(Ok(bytes)) => *self.ahead.borrow_mut() = bytes,
                Some(Err(error)) => {
                    self.ended.set(true);
                    return Poll::Ready(Err(io::Error::other(error)));
                }
                None => self.ended.set(true),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Pipe for Duplex {
    fn core(&self) -> &Rc<Core> {
        &self.core
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_fill(context).map(|_| ())
    }

    fn poll_read(&self, context: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_fill(context))?;
        let mut ahead = self.ahead.borrow_mut();
        let count = ahead.len().min(target.len());
        let (Some(from), Some(to)) = (ahead.get(..count), target.get_mut(..count)) else {
            return Poll::Ready(Ok(0));
        };
        to.copy_from_slice(from);
        ahead.advance(count);
        let mut input = self.input.borrow_mut();
        if let Err(error) = input.flow_control().release_capacity(count) {
            tracing::debug!(%error, "release");
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write(
        &self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut output = self.output.borrow_mut();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let wanted = wanted.min(SMALL);
        let room = ready!(Sink::poll_room(&mut output, wanted, context)).map_err(gone)?;
        let count = room.min(wanted);
        let mut bytes = BytesMut::with_capacity(count);
        for slice in slices {
            let here = (count - bytes.len()).min(slice.len());
            bytes.extend_from_slice(slice.get(..here).unwrap_or_default());
        }
        let sent = output.send_data(Chunk::Bytes(bytes.freeze()), false);
        sent.map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn shutdown_write(&self) {
        if let Err(error) = self.output.borrow_mut().send_data(Chunk::EMPTY, true) {
            tracing::debug!(%error, "end of stream");
        }
    }

    fn cut_write(&self) {
        self.output.borrow_mut().send_reset(h2::Reason::CANCEL);
    }

    fn unsent(&self) -> u64 {
        0
    }

    /// The connection below has its own ways to find a peer that vanished.
    fn keep_alive(&self) {}
}
