//! Sockets of one thread. Each is registered once, edge-triggered, for its whole life; after a
//! short read no second one is tried, since the next edge says when there is more.
//!
//! A connection may carry a TLS session: then all that is read and written passes through it, and
//! whoever uses the connection need not know. `raw_…` is what lies beneath.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mio::Interest;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::inbox::Awaited;
use super::outbox::{Allowance, Letter};
use super::splice::Splice;
use super::tls::{Agreed, HandshakeError, Session};
use super::{Core, Source};

pub(super) fn store(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(stored) if stored.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}

/// A connection, to a client or to a backend.
#[derive(Debug)]
pub(crate) struct TcpStream {
    io: mio::net::TcpStream,
    /// What is written waits in the kernel for our end.
    end_follows: Cell<bool>,
    key: usize,
    core: Rc<Core>,
    /// Boxed: a plain connection pays for a pointer alone.
    tls: Option<Box<RefCell<Session>>>,
}

impl TcpStream {
    pub(super) fn register(core: &Rc<Core>, mut io: mio::net::TcpStream) -> io::Result<Self> {
        // What came already makes an edge at once: a read that finds nothing is saved.
        let (key, token) = core.add_source(
            Source {
                writable: true,
                ..Source::default()
            },
            &io,
        )?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = core.registry.register(&mut io, token, interest);
        let stream = Self {
            io,
            end_follows: Cell::new(false),
            key,
            core: Rc::clone(core),
            tls: None,
        };
        registered?;
        Ok(stream)
    }

    /// Opens a connection; ends when it stands or was refused.
    ///
    /// # Errors
    /// What `connect` says.
    pub(crate) async fn connect(core: &Rc<Core>, address: SocketAddr) -> io::Result<Self> {
        let stream = Self::register(core, mio::net::TcpStream::connect(address)?)?;
        stream.with(|source| source.writable = false);
        poll_fn(|context| stream.poll_writable(context)).await;
        if let Some(error) = stream.io.take_error()? {
            return Err(error);
        }
        stream.io.set_nodelay(true)?;
        Ok(stream)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Source) -> T) -> Option<T> {
        self.core.sources.borrow_mut().get_mut(self.key).map(act)
    }

    /// Its place among the sources of its thread.
    pub(crate) fn key(&self) -> usize {
        self.key
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Ready when a read may bring something: bytes, the end, or an error.
    pub(crate) fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        let Some(tls) = &self.tls else {
            return self.poll_raw_readable(context);
        };
        let mut tls = tls.borrow_mut();
        if !tls.has_something() {
            // Words of the protocol itself go out even when nobody writes.
            self.flush_words(&mut tls, context);
            return self.poll_raw_readable(context);
        }
        if self.core.spend(context.waker()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// The same, for a message that is most likely small: on a plain connection it is read as soon as it is there,
    /// before this task runs.
    pub(crate) fn poll_message(&self, context: &Context<'_>) -> Poll<()> {
        let ready = self.poll_readable(context);
        if ready.is_pending() && self.tls.is_none() {
            self.with(|source| {
                if source.awaited == Awaited::Not && !source.readable {
                    source.awaited = Awaited::Asked;
                }
            });
        }
        ready
    }

    fn poll_raw_readable(&self, context: &Context<'_>) -> Poll<()> {
        let ready = self.with(|source| {
            if !source.readable {
                store(&mut source.reader, context.waker());
            }
            source.readable
        });
        if ready == Some(false) || !self.core.spend(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    pub(crate) fn poll_writable(&self, context: &Context<'_>) -> Poll<()> {
        let ready = self.with(|source| {
            if !source.writable {
                store(&mut source.writer, context.waker());
            }
            source.writable
        });
        if ready == Some(false) || !self.core.spend(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Reads what is there. 0 is the end of the stream; over TLS one that the peer said, since a
    /// stream that just ends may have been cut by anyone (RFC 8446 §6.1).
    pub(crate) fn poll_read(
        &self,
        context: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(tls) = &self.tls else {
            return self.poll_raw_read(context, buffer);
        };
        let mut tls = tls.borrow_mut();
        loop {
            let count = tls.open(buffer);
            if count > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(count));
            }
            self.flush_words(&mut tls, context);
            if let Some(end) = tls.end() {
                return Poll::Ready(end.map(|()| 0));
            }
            if self.receive(&mut tls, context, buffer.len())?.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Reads ciphertext once.
    fn receive(
        &self,
        tls: &mut Session,
        context: &Context<'_>,
        wanted: usize,
    ) -> io::Result<Poll<()>> {
        if self.poll_raw_readable(context).is_pending() {
            return Ok(Poll::Pending);
        }
        let read = self.poll_raw_read(context, tls.spare(wanted));
        tls.received(match &read {
            Poll::Ready(Ok(count)) => Some(*count),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        });
        match read {
            Poll::Ready(result) => result.map(|_| Poll::Ready(())),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn poll_raw_read(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.poll_raw_readable(context).is_pending() {
                return Poll::Pending;
            }
            match self.take(buffer) {
                Ok(count) => {
                    if count < buffer.len() && count > 0 {
                        self.with(|source| source.readable = source.read_closed);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.with(|source| {
                        source.readable = false;
                        source.read_closed = false;
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes what fits of the slices. Over TLS, whoever was told to wait must come again with
    /// the same bytes: they may be sealed already.
    pub(crate) fn poll_write(
        &self,
        context: &Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(tls) = &self.tls else {
            return self.poll_raw_write(context, slices);
        };
        let mut tls = tls.borrow_mut();
        if !tls.is_writing() {
            if self.poll_writable(context).is_pending() {
                return Poll::Pending;
            }
            tls.seal(slices)?;
        }
        match self.poll_flush(&mut tls, context) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(tls.written())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes all ciphertext that waits, then ends our side if that was asked for.
    fn poll_flush(&self, tls: &mut Session, context: &Context<'_>) -> Poll<io::Result<()>> {
        while !tls.outgoing().is_empty() {
            match self.poll_raw_write(context, &[IoSlice::new(tls.outgoing())]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => tls.sent(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if tls.ending {
            self.end_socket();
        }
        Poll::Ready(Ok(()))
    }

    /// Alerts, tickets, answers to key updates: what no writer waits for.
    fn flush_words(&self, tls: &mut Session, context: &Context<'_>) {
        if !tls.is_writing() && !tls.outgoing().is_empty() {
            // What can't be written shows at the next read or write of data.
            drop(self.poll_flush(tls, context));
        }
    }

    fn poll_raw_write(
        &self,
        context: &Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = self.poll_out(context, || self.put(slices));
        if let Poll::Ready(Ok(count)) = written
            && count < wanted
        {
            self.with(|source| source.writable = source.broken);
        }
        written
    }

    /// What is written from now on are the last words of a connection whose end follows at once: both go in one segment
    /// where they fit, and the peer wakes up once.
    pub(crate) fn end_follows(&self) {
        self.end_follows.set(true);
    }

    /// recv(2), without the work that the C library does for threads that may be cancelled.
    fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = match self.take_arrival(buffer)? {
            Some((count, true)) => count,
            Some((count, false)) => return Ok(count),
            None => 0,
        };
        let rest = buffer.get_mut(here..).unwrap_or_default();
        match rustix::net::recv(&self.io, rest, RecvFlags::empty()) {
            Ok((count, _)) => Ok(here + count),
            Err(error) if here == 0 => Err(error.into()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(here),
            Err(error) => {
                self.core.inbox.keep_error(self.key, error);
                self.with(|source| {
                    source.awaited = Awaited::Here;
                    source.read_closed = true;
                });
                Ok(here)
            }
        }
    }

    /// Takes what was read before it was asked for: how much, and whether the kernel may have more of it.
    fn take_arrival(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
        let awaited = self.with(|source| source.awaited).unwrap_or_default();
        if !awaited.is_here() {
            if awaited == Awaited::Asked {
                self.with(|source| source.awaited = Awaited::Not);
            }
            return Ok(None);
        }
        let core = &self.core;
        let taken = core.inbox.take(self.key, buffer, &core.buffers);
        if let Ok((count, false)) = taken {
            return Ok(Some((count, false)));
        }
        self.with(|source| source.awaited = Awaited::Not);
        let (count, _) = taken?;
        let more = awaited == Awaited::HereAndMore && count < buffer.len();
        Ok(Some((count, more)))
    }

    fn put(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let held = if self.end_follows.get() {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        };
        let flags = SendFlags::NOSIGNAL | held;
        let sent = match slices {
            [single] => rustix::net::send(&self.io, single, flags),
            several => {
                debug_assert!(several.len() <= 1024, "IOV_MAX");
                let nothing = &mut SendAncillaryBuffer::default();
                rustix::net::sendmsg(&self.io, several, nothing, flags)
            }
        };
        Ok(sent?)
    }

    /// Hands over bytes that go out at the end of the turn, together with those of other tasks, or before what is
    /// written next. From then on they count as written; an error shows at the next read or write.
    ///
    /// # Errors
    /// The bytes, when they have to be written: over TLS, when they are many or behind others, where the kernel has no
    /// room, or after [`TcpStream::end_follows`].
    pub(crate) fn post(&self, bytes: Vec<u8>, allowance: Allowance) -> Result<(), Vec<u8>> {
        if self.tls.is_some() || self.end_follows.get() {
            return Err(bytes);
        }
        let outbox = &self.core.outbox;
        let mut sources = self.core.sources.borrow_mut();
        let source = sources.get_mut(self.key);
        let Some(source) =
            source.filter(|source| source.writable && !source.broken && !source.owes)
        else {
            return Err(bytes);
        };
        let full = outbox.post(self.key, self.io.as_raw_fd(), bytes, allowance)?;
        source.owes = true;
        drop(sources);
        if full {
            self.core.deliver_all();
        }
        Ok(())
    }

    /// Sends what was handed over in this turn. True when nothing waits for room either.
    pub(crate) fn deliver(&self) -> bool {
        let (owes, writable) = self
            .with(|source| (source.owes, source.writable))
            .unwrap_or_default();
        if owes
            && writable
            && let Some(letter) = self.core.outbox.recall(self.key)
        {
            self.core.deliver(letter);
            return !self.owes();
        }
        !owes
    }

    /// The kernel has no room for what was handed over.
    pub(crate) fn is_stuck(&self) -> bool {
        self.with(|source| source.owes && !source.writable)
            .unwrap_or(false)
    }

    /// What the writer of what did not go out yet leaves the peer.
    pub(crate) fn allowance(&self) -> Option<Allowance> {
        self.core.outbox.ask(self.key, Letter::allowance)
    }

    /// Something that was handed over did not go out yet.
    pub(crate) fn owes(&self) -> bool {
        self.with(|source| source.owes).unwrap_or(false)
    }

    /// Makes a call that gives bytes to the socket, until it takes some or has to wait.
    fn poll_out<T>(
        &self,
        context: &Context<'_>,
        mut call: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            self.deliver();
            if self.poll_writable(context).is_pending() {
                return Poll::Pending;
            }
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.with(|source| source.writable = false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Takes up to `most` bytes into an empty pipe of a plain connection; 0 is the end of the
    /// stream. `None` when nothing can be taken so: there is nothing ([`TcpStream::is_dry`]
    /// tells), or what only a read gets past, as urgent data (RFC 9293 §3.8.5) and errors.
    pub(crate) fn fill(&self, pipe: &mut Splice, most: usize) -> Option<usize> {
        if self.holds_message() {
            return None;
        }
        loop {
            match pipe.take_from(&self.io, most) {
                Ok(count) => return Some(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    fn holds_message(&self) -> bool {
        self.with(|source| source.awaited.is_here())
            .unwrap_or(false)
    }

    /// Gives what a pipe holds to a plain connection, as far as it fits.
    pub(crate) fn poll_pour(
        &self,
        context: &Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<io::Result<usize>> {
        self.poll_out(context, || pipe.give_to(&self.io))
    }

    /// Looks whether a plain connection has really nothing to read; then the next edge says when
    /// there is something.
    pub(crate) fn is_dry(&self) -> bool {
        if self.holds_message() {
            return false;
        }
        match self.io.peek(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.with(|source| {
                    source.readable = false;
                    source.read_closed = false;
                });
                true
            }
            _ => false,
        }
    }

    /// Takes TLS as the side that was called; [`TcpStream::poll_handshake`] follows.
    ///
    /// # Errors
    /// When the configuration can't be used.
    pub(crate) fn expect_tls(&mut self, config: Arc<ServerConfig>) -> Result<(), rustls::Error> {
        let session = Session::server(&self.core, config)?;
        self.tls = Some(Box::new(RefCell::new(session)));
        Ok(())
    }

    /// Takes TLS as the side that calls; [`TcpStream::poll_handshake`] follows. Connections of
    /// one `way`, not 0, are as good as each other.
    ///
    /// # Errors
    /// When the configuration can't be used.
    pub(crate) fn begin_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        way: u64,
    ) -> Result<(), rustls::Error> {
        let session = Session::client(&self.core, config, name, way)?;
        self.tls = Some(Box::new(RefCell::new(session)));
        Ok(())
    }

    /// Goes on without TLS, after a handshake that failed.
    pub(crate) fn give_up_tls(&mut self) {
        self.tls = None;
    }

    /// Moves the handshake on; ready at its end.
    pub(crate) fn poll_handshake(&self, context: &Context<'_>) -> Poll<Result<(), HandshakeError>> {
        let Some(tls) = &self.tls else {
            return Poll::Ready(Ok(()));
        };
        let mut tls = tls.borrow_mut();
        loop {
            let done = tls.shake_hands();
            if let Ok(true) = done {
                // What is left to be sent goes out with the first answer, or before a read.
                return Poll::Ready(Ok(()));
            }
            let flushed = self.poll_flush(&mut tls, context);
            if let Err(error) = done {
                return Poll::Ready(Err(error));
            }
            if let Poll::Ready(Err(_)) = flushed {
                return Poll::Ready(Err(HandshakeError::Gone));
            }
            match self.receive(&mut tls, context, 0) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => return Poll::Pending,
                Err(_) => return Poll::Ready(Err(HandshakeError::Gone)),
            }
        }
    }

    /// What the handshake agreed on; `None` on a plain connection.
    pub(crate) fn agreed(&self) -> Option<Agreed> {
        self.tls.as_ref()?.borrow().agreed()
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Looks at bytes that stay to be read. `Pending` until there is one that was not seen: the
    /// caller says how many it saw. 0 is the end of the stream.
    pub(crate) fn poll_peek(
        &self,
        context: &Context<'_>,
        seen: usize,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.poll_raw_readable(context).is_pending() {
                return Poll::Pending;
            }
            match self.io.peek(buffer) {
                Ok(count) if count > seen || count == 0 => return Poll::Ready(Ok(count)),
                // Bytes that come make an edge, also behind those that stay.
                Ok(_) => {
                    if self.with(|source| source.read_closed || source.broken) != Some(false) {
                        return Poll::Ready(Ok(0));
                    }
                    self.with(|source| source.readable = false);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.with(|source| source.readable = false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Drops the first bytes of what was seen.
    ///
    /// # Errors
    /// What the kernel says, or `UnexpectedEof` when they are not there.
    pub(crate) fn skip_peeked(&self, mut count: usize) -> io::Result<()> {
        let mut bytes = [0; 1_024];
        while count > 0 {
            let part = bytes.get_mut(..count.min(1_024)).unwrap_or_default();
            let read = self.take(part)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            count -= read;
        }
        Ok(())
    }

    /// True when an idle connection can no longer be used: the peer ended it, or sent what
    /// nobody asked for.
    pub(crate) fn is_spoilt(&self) -> bool {
        let ready = self
            .with(|source| (source.readable, source.broken))
            .unwrap_or((true, true));
        match (&self.tls, ready) {
            (_, (_, true)) => true,
            (None, (readable, false)) => readable,
            (Some(tls), (readable, false)) => {
                let mut tls = tls.borrow_mut();
                let nothing_new = !readable || self.drain_raw(&mut tls);
                !nothing_new || tls.is_spoilt()
            }
        }
    }

    /// Reads ciphertext that nobody waits for, until there is none; false when the stream ended.
    fn drain_raw(&self, tls: &mut Session) -> bool {
        loop {
            let read = self.take(tls.spare(0));
            match read {
                Ok(count) if count > 0 => {
                    tls.received(Some(count));
                    if tls.is_spoilt() {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tls.received(None);
                    return self.with(|source| source.readable = false).is_some();
                }
                _ => return false,
            }
        }
    }

    /// Looks with a read whether the readiness is stale, as after a read that happened to fill
    /// its buffer. What it should read is lost: for connections on which nothing may come.
    pub(crate) fn has_nothing_to_read(&self) -> bool {
        if self.tls.is_some() {
            // That was looked at already.
            return !self.is_spoilt();
        }
        match self.take(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.with(|source| source.readable = false);
                true
            }
            _ => false,
        }
    }

    /// Wakes the reader also when the connection is reset while nobody reads.
    pub(crate) fn poll_broken(&self, context: &Context<'_>) -> Poll<()> {
        self.with(|source| {
            if source.broken {
                return Poll::Ready(());
            }
            store(&mut source.reader, context.waker());
            Poll::Pending
        })
        .unwrap_or(Poll::Ready(()))
    }

    /// Forgets who waited, before the connection goes to a pool.
    pub(crate) fn park(&self) {
        self.with(|source| {
            source.reader = None;
            source.writer = None;
        });
    }

    /// Ends our side of the stream; the peer may still send.
    pub(crate) fn shutdown_write(&self) {
        self.say_goodbye();
        if self
            .tls
            .as_ref()
            .is_none_or(|tls| tls.borrow().outgoing().is_empty())
        {
            self.end_socket();
        }
    }

    /// Tells a TLS peer that nothing more comes: before the connection is dropped at a place
    /// where all was said. A plain one is told by its end alone.
    pub(crate) fn say_goodbye(&self) {
        let Some(tls) = &self.tls else {
            return;
        };
        let mut tls = tls.borrow_mut();
        tls.say_goodbye();
        // What does not fit now follows while the connection is read on.
        while !tls.outgoing().is_empty()
            && let Ok(count) = self.put(&[IoSlice::new(tls.outgoing())])
            && count > 0
        {
            tls.sent(count);
        }
    }

    /// Ends our side as one that broke: over TLS without the word that nothing is missing.
    pub(crate) fn cut_write(&self) {
        self.end_socket();
    }

    fn end_socket(&self) {
        self.deliver();
        // The peer may be gone already: then there is nothing to end.
        drop(self.io.shutdown(std::net::Shutdown::Write));
    }

    /// Bytes that were written and that the peer has not taken yet: in the kernel (`SIOCOUTQ`,
    /// tcp(7)), or sealed and waiting for room there.
    pub(crate) fn unsent(&self) -> u64 {
        let sealed = self
            .tls
            .as_ref()
            .map_or(0, |tls| tls.borrow().outgoing().len());
        let owed = match self.owes() {
            true => self.core.outbox.ask(self.key, Letter::unsent),
            false => None,
        };
        self.unsent_in_kernel() + (sealed + owed.unwrap_or(0)) as u64
    }

    fn unsent_in_kernel(&self) -> u64 {
        let mut count: libc::c_int = 0;
        #[expect(
            unsafe_code,
            reason = "no safe wrapper offers SIOCOUTQ; it writes one int that lives on our stack"
        )]
        let result = unsafe { libc::ioctl(self.io.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
        if result == 0 {
            u64::try_from(count).unwrap_or(0)
        } else {
            0
        }
    }

    /// The address that the peer called.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.io.local_addr().ok()
    }

    /// The address at the other end of the connection, whomever a PROXY header names.
    pub(crate) fn remote_address(&self) -> Option<SocketAddr> {
        self.io.peer_addr().ok()
    }

    /// Which TLS configuration it was opened with; 0 for a plain connection.
    pub(crate) fn way(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.borrow().way())
    }

    pub(crate) fn socket(&self) -> socket2::SockRef<'_> {
        socket2::SockRef::from(&self.io)
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        // Closing the descriptor ends its registration too, and costs no call of its own; what was
        // on its way has a generation that is over.
        // A letter goes before the descriptor does.
        let mut sources = self.core.sources.borrow_mut();
        let source = sources.try_remove(self.key);
        drop(sources);
        if source
            .as_ref()
            .is_some_and(|source| source.awaited.is_here())
        {
            self.core.inbox.discard(self.key);
        }
        if source.is_some_and(|source| source.owes)
            && let Some(mut letter) = self.core.outbox.recall(self.key)
        {
            // What does not fit now is lost with the connection.
            letter.deliver();
        }
    }
}
