//! Bytes from socket to socket without a copy: the kernel hands its own pages on through a pipe
//! (splice(2)). Pays where much comes at once; a small piece is cheaper read and written.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::Core;

/// Bytes that a pipe holds at most. The kernel counts in pages, of which a piece of a message may
/// fill less: then it holds less.
pub(crate) const CAPACITY: usize = 256 * 1024;
/// Pipes of a thread at a time, of two descriptors each: one for each piece that waits for room.
/// Twice as many are a user's whole share (pipe(7), `pipe-user-pages-soft`).
const MOST: usize = 128;
/// Empty ones that a thread keeps.
const KEPT: usize = 8;

/// The pipes of one thread.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    kept: RefCell<Vec<Ends>>,
    borrowed: Cell<usize>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Beyond a user's share a pipe is two pages small, and this is refused.
        fcntl_setpipe_size(&write, CAPACITY)?;
        Ok(Self { read, write })
    }
}

/// A borrowed pipe.
#[derive(Debug)]
pub(crate) struct Splice {
    core: Rc<Core>,
    /// `None` only while it is dropped.
    ends: Option<Ends>,
    held: usize,
}

impl Splice {
    /// `None` when there is none to be had: bytes can still be copied.
    pub(crate) fn new(core: &Rc<Core>) -> Option<Self> {
        let pool = &core.splices;
        if pool.borrowed.get() >= MOST {
            return None;
        }
        let kept = pool.kept.borrow_mut().pop();
        let ends = match kept.map_or_else(Ends::new, Ok) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::debug!(%error, "no pipe: bytes are copied");
                return None;
            }
        };
        pool.borrowed.set(pool.borrowed.get() + 1);
        Some(Self {
            core: Rc::clone(core),
            ends: Some(ends),
            held: 0,
        })
    }

    /// Bytes that were taken and not given on.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `most` bytes; 0 is the end of the stream.
    pub(super) fn take_from(&mut self, socket: &impl AsFd, most: usize) -> io::Result<usize> {
        let Some(ends) = &self.ends else {
            return Ok(0);
        };
        let most = most.min(CAPACITY);
        let count = splice(socket, None, &ends.write, None, most, SpliceFlags::NONBLOCK)?;
        self.held += count;
        Ok(count)
    }

    /// Gives on what it holds, as far as it fits. The process ignores `SIGPIPE`, which a socket
    /// that was closed brings here whatever the flags.
    pub(super) fn give_to(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else {
            return Ok(0);
        };
        let count = splice(
            &ends.read,
            None,
            socket,
            None,
            self.held,
            SpliceFlags::NONBLOCK,
        )?;
        self.held = self.held.saturating_sub(count);
        Ok(count)
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        let pool = &self.core.splices;
        pool.borrowed.set(pool.borrowed.get().saturating_sub(1));
        // One that still holds something ends with it.
        if self.held > 0 {
            return;
        }
        let mut kept = pool.kept.borrow_mut();
        if kept.len() < KEPT {
            kept.extend(self.ends.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::driver::Driver;

    /// The two ends of a connection; the first does not wait.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// Takes up to `most` bytes as soon as there are some.
    fn take(pipe: &mut Splice, from: &TcpStream, most: usize) -> usize {
        loop {
            match pipe.take_from(from, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::yield_now();
                }
                result => return result.unwrap(),
            }
        }
    }

    #[test]
    fn bytes_pass_in_order_and_no_more_than_wanted() {
        let driver = Driver::new().unwrap();
        let ((from, mut source), (to, mut target)) = (pair(), pair());
        source.write_all(b"hello world").unwrap();
        let mut pipe = Splice::new(driver.core()).unwrap();
        assert_eq!(take(&mut pipe, &from, 5), 5);
        assert_eq!(pipe.held(), 5);
        assert_eq!(pipe.give_to(&to).unwrap(), 5);
        assert_eq!((pipe.held(), take(&mut pipe, &from, 100)), (0, 6));
        assert_eq!(pipe.give_to(&to).unwrap(), 6);
        drop(to);
        let mut text = String::new();
        target.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello world");
        let nothing = pipe.take_from(&from, 1).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(source);
        assert_eq!(take(&mut pipe, &from, 1), 0);
    }

    #[test]
    fn a_target_that_is_gone_is_an_error_and_no_signal() {
        let driver = Driver::new().unwrap();
        let ((from, mut source), (to, target)) = (pair(), pair());
        source.write_all(&[7; 1_000]).unwrap();
        to.shutdown(std::net::Shutdown::Write).unwrap();
        drop(target);
        let mut pipe = Splice::new(driver.core()).unwrap();
        assert_eq!(take(&mut pipe, &from, 1_000), 1_000);
        let refused = pipe.give_to(&to).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(pipe.held(), 1_000);
    }

    #[test]
    fn what_a_pipe_still_holds_goes_with_it() {
        let driver = Driver::new().unwrap();
        let ((from, mut source), (to, mut target)) = (pair(), pair());
        source.write_all(b"old").unwrap();
        let mut pipe = Splice::new(driver.core()).unwrap();
        assert_eq!(take(&mut pipe, &from, 3), 3);
        drop(pipe);
        source.write_all(b"new").unwrap();
        let mut pipe = Splice::new(driver.core()).unwrap();
        assert_eq!(take(&mut pipe, &from, 3), 3);
        assert_eq!(pipe.give_to(&to).unwrap(), 3);
        let mut three = [0; 3];
        target.read_exact(&mut three).unwrap();
        assert_eq!(&three, b"new");
    }

    #[test]
    fn a_thread_has_so_many_and_keeps_few() {
        let driver = Driver::new().unwrap();
        let core = driver.core();
        let pipes: Vec<_> = (0..MOST).map_while(|_| Splice::new(core)).collect();
        // Unless the user's share is smaller.
        assert!(pipes.len() == MOST || Ends::new().is_err());
        assert!(Splice::new(core).is_none());
        drop(pipes);
        assert_eq!(core.splices.kept.borrow().len(), KEPT);
        assert!(Splice::new(core).is_some());
    }
}
