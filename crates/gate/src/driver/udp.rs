//! Datagram sockets of one thread.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use mio::{Interest, Token};

use super::tcp::store;
use super::{Core, Source};

/// A socket for datagrams: a listener's, or one that is connected to a backend.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    io: mio::net::UdpSocket,
    key: usize,
    core: Rc<Core>,
}

impl UdpSocket {
    /// # Errors
    /// When epoll does not take the descriptor.
    pub(crate) fn new(core: &Rc<Core>, socket: std::net::UdpSocket) -> io::Result<Self> {
        let mut io = mio::net::UdpSocket::from_std(socket);
        let key = core.sources.borrow_mut().insert(Source {
            readable: true,
            writable: true,
            ..Source::default()
        });
        let registered = core
            .registry
            .register(&mut io, Token(key), Interest::READABLE);
        let socket = Self {
            io,
            key,
            core: Rc::clone(core),
        };
        registered?;
        Ok(socket)
    }

    /// A socket of our own that speaks to `address` alone.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn connect(core: &Rc<Core>, address: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        Self::new(core, socket)
    }

    /// The next datagram and who sent it; what does not fit in `buffer` is cut off.
    pub(crate) fn poll_receive(
        &self,
        context: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.poll(context, || self.io.recv_from(buffer))
    }

    /// The next datagram of a connected socket; an error such as a refusal that came by ICMP.
    pub(crate) fn poll_read(
        &self,
        context: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, || self.io.recv(buffer))
    }

    fn poll<T>(
        &self,
        context: &Context<'_>,
        mut act: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            {
                let mut sources = self.core.sources.borrow_mut();
                if let Some(source) = sources.get_mut(self.key) {
                    store(&mut source.reader, context.waker());
                    if !source.readable {
                        return Poll::Pending;
                    }
                }
            }
            if !self.core.spend(context.waker()) {
                return Poll::Pending;
            }
            match act() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(source) = self.core.sources.borrow_mut().get_mut(self.key) {
                        source.readable = false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Sends to the connected peer.
    ///
    /// # Errors
    /// What the kernel says; with `WouldBlock` the datagram is lost, as any may be.
    pub(crate) fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        self.io.send(datagram)
    }

    /// Sends to `address`.
    ///
    /// # Errors
    /// As [`UdpSocket::send`].
    pub(crate) fn send_to(&self, datagram: &[u8], address: SocketAddr) -> io::Result<usize> {
        self.io.send_to(datagram, address)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if let Err(error) = self.core.registry.deregister(&mut self.io) {
            tracing::debug!(%error, "deregister");
        }
        let source = self.core.sources.borrow_mut().try_remove(self.key);
        drop(source);
    }
}
