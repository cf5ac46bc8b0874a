//! Connections that come in.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use mio::Interest;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::tcp::{TcpStream, store};
use super::{Core, Source};

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
        let (key, token) = core.add_source(
            Source {
                readable: true,
                ..Source::default()
            },
            &io,
        )?;
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
                    if !self.has_another() {
                        self.wait_for_event();
                    }
                    return Poll::Ready(
                        TcpStream::register(&self.core, stream).map(|stream| (stream, peer)),
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_event();
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

    /// Asked of poll(2): accept(2) makes a socket before it finds that there is nobody for it, which
    /// costs ten times as much.
    fn has_another(&self) -> bool {
        let mut listener = [PollFd::new(&self.io, PollFlags::IN)];
        // What can't be asked is tried.
        !matches!(
            rustix::event::poll(&mut listener, Some(&Timespec::default())),
            Ok(0)
        )
    }

    /// Nobody is there until the next event.
    fn wait_for_event(&self) {
        if let Some(source) = self.core.sources.borrow_mut().get_mut(self.key) {
            source.readable = false;
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
