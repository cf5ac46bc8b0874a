//! Small reads of a turn are made together, before its tasks run.
//!
//! Who waits for a message that is most likely small, such as a head, asks for it; when an event says that it is
//! there, it is read at once. The calls of a turn then follow each other, and so do the tasks, which find what they
//! wait for in memory: the same idea as that of the outbox.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::buffer::Pool;
use super::ticket::Ticket;

/// What is known of a message that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Awaited {
    /// Nobody asked for it.
    #[default]
    Not,
    /// It is to be read when it comes.
    Asked,
    /// It was read, and there was no more.
    Here,
    /// It was read, and there may be more.
    HereAndMore,
}

impl Awaited {
    /// It was read, and waits in the inbox.
    pub(super) const fn is_here(self) -> bool {
        matches!(self, Self::Here | Self::HereAndMore)
    }
}

/// What came for one connection.
#[derive(Debug)]
struct Arrival {
    key: usize,
    bytes: Vec<u8>,
    taken: usize,
    /// The kernel tells of it once alone: it is kept for whoever reads next.
    error: Option<Errno>,
}

/// What came for the connections of one thread and was not taken yet; one has one at the most.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    arrivals: RefCell<VecDeque<Arrival>>,
}

impl Inbox {
    /// Reads once, for a connection that is open and has nothing here. An end is left to whoever reads next.
    pub(super) fn fetch(&self, ticket: Ticket, buffers: &Pool) -> Awaited {
        let Some(descriptor) = ticket.descriptor else {
            return Awaited::Not;
        };
        let mut bytes = buffers.sheet();
        let room = spare_capacity(&mut bytes);
        let read = rustix::net::recv(socket(descriptor), room, RecvFlags::empty());
        let error = match read {
            Ok((count, _)) if count > 0 => None,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {
                buffers.give_sheet(bytes);
                return Awaited::Not;
            }
            Err(error) => Some(error),
        };
        let filled = bytes.len() == bytes.capacity();
        self.arrivals.borrow_mut().push_back(Arrival {
            key: ticket.key,
            bytes,
            taken: 0,
            error,
        });
        if filled {
            Awaited::HereAndMore
        } else {
            Awaited::Here
        }
    }

    /// Keeps an error for whoever reads next from a connection that has nothing here.
    pub(super) fn keep_error(&self, key: usize, error: Errno) {
        self.arrivals.borrow_mut().push_back(Arrival {
            key,
            bytes: Vec::new(),
            taken: 0,
            error: Some(error),
        });
    }

    /// Copies what came for a connection; how much, and whether nothing of it is left.
    ///
    /// # Errors
    /// The one that came in place of bytes.
    pub(super) fn take(
        &self,
        key: usize,
        buffer: &mut [u8],
        buffers: &Pool,
    ) -> Result<(usize, bool), Errno> {
        let mut arrivals = self.arrivals.borrow_mut();
        // Tasks run in the order of their events: it is nearly always the first one.
        let mut places = arrivals.iter_mut().enumerate();
        let Some((place, arrival)) = places.find(|(_, arrival)| arrival.key == key) else {
            return Ok((0, true));
        };
        let rest = arrival.bytes.get(arrival.taken..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        arrival.taken += count;
        let whole = arrival.taken == arrival.bytes.len();
        if whole && let Some(arrival) = arrivals.remove(place) {
            buffers.give_sheet(arrival.bytes);
            if let Some(error) = arrival.error {
                return Err(error);
            }
        }
        Ok((count, whole))
    }

    /// Forgets what came for a connection that is gone.
    pub(super) fn discard(&self, key: usize) {
        self.arrivals
            .borrow_mut()
            .retain(|arrival| arrival.key != key);
    }
}

fn socket<'a>(descriptor: RawFd) -> BorrowedFd<'a> {
    #[expect(
        unsafe_code,
        reason = "the event has the number alone; a handle would cost each idle connection memory"
    )]
    // SAFETY: the event's generation is that of a source which is there, and `TcpStream` removes its source before it
    // closes its descriptor. No stream has a duplicate, which would keep its registration behind that.
    unsafe {
        BorrowedFd::borrow_raw(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{ErrorKind, Write};
    use std::net::TcpListener;
    use std::rc::Rc;
    use std::task::Poll;
    use std::time::Duration;

    use super::super::outbox::Allowance;
    use super::super::tcp::TcpStream;
    use super::super::{Core, Driver};

    /// Runs `act` with a stream on a driver of its own, and the other end of it.
    fn with_ends<F: Future<Output = ()> + 'static>(
        act: impl FnOnce(Rc<Core>, TcpStream, std::net::TcpStream) -> F + 'static,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut driver = Driver::new().unwrap();
        let core = Rc::clone(driver.core());
        driver.core().spawn(async move {
            let stream = TcpStream::connect(&core, address).await.unwrap();
            let (peer, _) = listener.accept().unwrap();
            act(Rc::clone(&core), stream, peer).await;
            core.stop();
        });
        driver.run().unwrap();
    }

    async fn read(stream: &TcpStream, most: usize) -> Vec<u8> {
        let mut buffer = vec![0; most];
        let count = poll_fn(|context| stream.poll_read(context, &mut buffer)).await;
        buffer.truncate(count.unwrap());
        buffer
    }

    /// Waits until a message is there; first it has to be asked for.
    async fn message(stream: &TcpStream, come: impl FnOnce()) {
        let mut come = Some(come);
        poll_fn(|context| {
            let here = stream.poll_message(context);
            if let Some(come) = come.take() {
                assert!(here.is_pending());
                come();
            }
            here
        })
        .await;
    }

    fn held(core: &Core) -> usize {
        core.inbox.arrivals.borrow().len()
    }

    #[test]
    fn what_was_asked_for_is_read_before_its_task_runs() {
        with_ends(|core, stream, mut peer| async move {
            for asked in [true, false, true] {
                let mut come = || peer.write_all(b"a head").unwrap();
                if asked {
                    message(&stream, come).await;
                } else {
                    come();
                    poll_fn(|context| stream.poll_readable(context)).await;
                }
                assert_eq!(held(&core), usize::from(asked));
                // In parts, as far as there is room.
                assert_eq!(read(&stream, 2).await, b"a ");
                assert_eq!(read(&stream, 100).await, b"head");
                assert_eq!(held(&core), 0);
                let nothing = poll_fn(|context| Poll::Ready(stream.poll_readable(context))).await;
                assert!(nothing.is_pending());
            }
        });
    }

    #[test]
    fn what_comes_behind_a_message_is_not_missed() {
        with_ends(|core, stream, mut peer| async move {
            let mut random = fastrand::Rng::with_seed(7);
            let (mut sent, mut read_so_far) = (0_u64, 0_u64);
            for _ in 0..500 {
                let most = [20, 20_000][random.usize(..2)];
                // More comes while the first part waits, with an event of its own or without.
                let pieces = [
                    random.usize(1..most),
                    [0, 1, random.usize(1..most)][random.usize(..3)],
                ];
                let pieces = pieces.map(|count| {
                    let piece: Vec<u8> =
                        (sent..).take(count).map(|at| at.to_le_bytes()[0]).collect();
                    sent += count as u64;
                    piece
                });
                message(&stream, || peer.write_all(&pieces[0]).unwrap()).await;
                assert_eq!(held(&core), 1);
                peer.write_all(&pieces[1]).unwrap();
                if random.bool() {
                    next_turn().await;
                }
                while read_so_far < sent {
                    for byte in read(&stream, random.usize(1..30_000)).await {
                        assert_eq!(byte, read_so_far.to_le_bytes()[0]);
                        read_so_far += 1;
                    }
                }
            }
            message(&stream, || drop(peer)).await;
            assert_eq!(read(&stream, 10).await, b"");
        });
    }

    #[test]
    fn the_next_one_at_a_place_finds_nothing_of_the_last_one() {
        with_ends(|core, stream, mut peer| async move {
            message(&stream, || peer.write_all(b"of the last one").unwrap()).await;
            let key = stream.key();
            assert_eq!(held(&core), 1);
            drop(stream);
            assert_eq!(held(&core), 0);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let next = TcpStream::connect(&core, address).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            assert_eq!(next.key(), key);
            message(&next, || peer.write_all(b"own").unwrap()).await;
            assert_eq!(read(&next, 100).await, b"own");
        });
    }

    fn reset(peer: std::net::TcpStream) {
        let socket = socket2::SockRef::from(&peer);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
    }

    async fn error(stream: &TcpStream) -> ErrorKind {
        let mut buffer = [0; 10];
        let read = poll_fn(|context| stream.poll_read(context, &mut buffer)).await;
        read.unwrap_err().kind()
    }

    #[test]
    fn a_reset_in_place_of_a_message_is_told() {
        with_ends(|core, stream, peer| async move {
            message(&stream, || reset(peer)).await;
            assert_eq!(held(&core), 0);
            assert_eq!(error(&stream).await, ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn a_reset_behind_a_message_is_told_behind_it() {
        with_ends(|core, stream, mut peer| async move {
            let first = vec![7; 8 * 1024];
            message(&stream, || peer.write_all(&first).unwrap()).await;
            assert_eq!(held(&core), 1);
            // No event tells of it before the next turn.
            reset(peer);
            assert_eq!(read(&stream, 100_000).await, first);
            assert_eq!(error(&stream).await, ErrorKind::ConnectionReset);
            assert_eq!(held(&core), 0);
            // What the error was kept on is no sheet.
            assert!(core.buffers.sheet().capacity() >= 8 * 1024);
        });
    }

    #[test]
    fn nothing_is_read_for_a_stream_whose_peer_takes_nothing() {
        with_ends(|core, stream, mut peer| async move {
            let allowance = Allowance {
                rate_min: None,
                idle: Duration::from_secs(60),
            };
            while !stream.is_stuck() {
                stream.post(vec![0; 16 * 1024], allowance).unwrap();
                next_turn().await;
            }
            let mut waited = false;
            message(&stream, || {
                peer.write_all(b"more, please").unwrap();
                waited = true;
            })
            .await;
            assert!(waited && stream.is_stuck());
            assert_eq!(held(&core), 0);
            assert_eq!(read(&stream, 100).await, b"more, please");
        });
    }

    async fn next_turn() {
        let mut come_back = true;
        poll_fn(|context| {
            if std::mem::take(&mut come_back) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}
