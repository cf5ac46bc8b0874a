//! Sockets of one thread. Each is registered once, edge-triggered, for its whole life; after a
//! short read no second one is tried, since the next edge says when there is more.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use mio::Interest;

use super::{Core, Source};

fn store(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(stored) if stored.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}

/// A connection, to a client or to a backend.
#[derive(Debug)]
pub(crate) struct TcpStream {
    io: mio::net::TcpStream,
    key: usize,
    core: Rc<Core>,
}

impl TcpStream {
    fn register(core: &Rc<Core>, mut io: mio::net::TcpStream) -> io::Result<Self> {
        // What came already makes an edge at once: a read that finds nothing is saved.
        let (key, token) = core.add_source(Source {
            writable: true,
            ..Source::default()
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = core.registry.register(&mut io, token, interest);
        let stream = Self {
            io,
            key,
            core: Rc::clone(core),
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

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Ready when a read may bring something: bytes, the end, or an error.
    pub(crate) fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
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

    /// Reads what is there. 0 is the end of the stream.
    pub(crate) fn poll_read(
        &self,
        context: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.poll_readable(context).is_pending() {
                return Poll::Pending;
            }
            match (&self.io).read(buffer) {
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

    /// Writes what fits of the slices.
    pub(crate) fn poll_write(
        &self,
        context: &Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        loop {
            if self.poll_writable(context).is_pending() {
                return Poll::Pending;
            }
            let result = match slices {
                [single] => (&self.io).write(single),
                several => (&self.io).write_vectored(several),
            };
            match result {
                Ok(count) => {
                    if count < wanted {
                        self.with(|source| source.writable = source.broken);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.with(|source| source.writable = false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// True when an idle connection can no longer be used: the peer ended it, or sent what
    /// nobody asked for.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.with(|source| source.readable || source.broken)
            .unwrap_or(true)
    }

    /// Looks with a read whether the readiness is stale, as after a read that happened to fill
    /// its buffer. What it should read is lost: for connections on which nothing may come.
    pub(crate) fn has_nothing_to_read(&self) -> bool {
        match (&self.io).read(&mut [0]) {
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
        // The peer may be gone already: then there is nothing to end.
        drop(self.io.shutdown(std::net::Shutdown::Write));
    }

    /// Bytes that were written and that the peer has not taken yet (`SIOCOUTQ`, tcp(7)).
    pub(crate) fn unsent(&self) -> u64 {
        use std::os::fd::AsRawFd;
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

    pub(crate) fn socket(&self) -> socket2::SockRef<'_> {
        socket2::SockRef::from(&self.io)
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        // Closing the descriptor ends its registration too, and costs no call of its own; what was
        // on its way has a generation that is over.
        let mut sources = self.core.sources.borrow_mut();
        let source = sources.try_remove(self.key);
        drop(sources);
        drop(source);
    }
}

/// One thread's share of a listening address (`SO_REUSEPORT`).
#[derive(Debug)]
pub(crate) struct TcpListener {
    io: mio::net::TcpListener,
    key: usize,
    core: Rc<Core>,
}

impl TcpListener {
    /// # Errors
    /// When epoll does not take the descriptor.
    pub(crate) fn new(core: &Rc<Core>, listener: std::net::TcpListener) -> io::Result<Self> {
        let mut io = mio::net::TcpListener::from_std(listener);
        let (key, token) = core.add_source(Source {
            readable: true,
            ..Source::default()
        });
        let registered = core.registry.register(&mut io, token, Interest::READABLE);
        let listener = Self {
            io,
            key,
            core: Rc::clone(core),
        };
        registered?;
        Ok(listener)
    }

    /// True unless the last look at the queue found it empty.
    pub(crate) fn may_have_more(&self) -> bool {
        self.core
            .sources
            .borrow()
            .get(self.key)
            .is_some_and(|source| source.readable)
    }

    /// The next connection. Errors of one connection are skipped; what stays is an error of ours
    /// (no descriptors left), after which the caller waits before it tries again.
    pub(crate) fn poll_accept(
        &self,
        context: &Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        loop {
            {
                let mut sources = self.core.sources.borrow_mut();
                if let Some(source) = sources.get_mut(self.key)
                    && !source.readable
                {
                    store(&mut source.reader, context.waker());
                    return Poll::Pending;
                }
            }
            if !self.core.spend(context.waker()) {
                return Poll::Pending;
            }
            match self.io.accept() {
                Ok((stream, peer)) => {
                    return Poll::Ready(
                        TcpStream::register(&self.core, stream).map(|stream| (stream, peer)),
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(source) = self.core.sources.borrow_mut().get_mut(self.key) {
                        source.readable = false;
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if let Err(error) = self.core.registry.deregister(&mut self.io) {
            tracing::debug!(%error, "deregister");
        }
        let source = self.core.sources.borrow_mut().try_remove(self.key);
        drop(source);
    }
}
