//! Small writes of a turn go out together, at its end.
//!
//! A task that answers hands its bytes over and goes on; the calls of all tasks of a turn then follow each other. The
//! kernel's path of a send stays in the caches, and so does ours: a request costs less of the processor
//! (docs/benchmarks.md; the same idea as cohort scheduling, Larus and Parkes, USENIX 2002).
//!
//! What was handed over counts as written, as what lies in the kernel's buffer does. Where the kernel does not take it
//! all, the rest waits for room, and so does whoever writes next.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustix::net::{SendFlags, Shutdown};

/// Bytes of one letter: a head, and a small body behind it.
const LETTER_MAX: usize = 16 * 1024;
/// Letters that go out together: with many more, those who wait for the first one wait long.
const LETTERS_MAX: usize = 16;

/// What whoever wrote a letter leaves a peer that does not take it: as [`crate::settings::TimeoutSettings`] says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// Bytes per second.
    pub(crate) rate_min: Option<u64>,
    /// Without any progress, where there is no rate.
    pub(crate) idle: Duration,
}

/// Bytes for one connection.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) key: usize,
    /// Of a stream that takes the letter along when it is dropped: it is open as long as the letter is here.
    socket: RawFd,
    bytes: Vec<u8>,
    sent: usize,
    allowance: Allowance,
}

/// How far a letter came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    /// There is no room for the rest.
    Stuck,
    /// The connection is gone: the next read or write says how.
    Gone,
}

impl Letter {
    /// Sends what the kernel takes.
    pub(super) fn deliver(&mut self) -> Delivery {
        loop {
            let rest = self.bytes.get(self.sent..).unwrap_or_default();
            let sent = rustix::net::send(self.socket(), rest, SendFlags::NOSIGNAL);
            match sent.map_err(io::Error::from) {
                Ok(count) if count == rest.len() => return Delivery::Whole,
                Ok(count) => {
                    self.sent += count;
                    return Delivery::Stuck;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Delivery::Stuck,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // Also where the kernel had no memory: half an answer is none.
                    if let Err(error) = rustix::net::shutdown(self.socket(), Shutdown::Both) {
                        tracing::debug!(%error, "shutdown");
                    }
                    return Delivery::Gone;
                }
            }
        }
    }

    fn socket(&self) -> BorrowedFd<'_> {
        #[expect(
            unsafe_code,
            reason = "a shared handle would cost each idle connection an allocation; the stream outlives its letter"
        )]
        // SAFETY: `TcpStream` recalls its letter before it closes its descriptor.
        unsafe {
            BorrowedFd::borrow_raw(self.socket)
        }
    }

    /// Bytes that are left of it.
    pub(super) fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn allowance(&self) -> Allowance {
        self.allowance
    }

    /// The memory that it was written on.
    pub(super) fn into_sheet(self) -> Vec<u8> {
        self.bytes
    }
}

/// The letters of one thread; a connection has one at the most.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Of this turn.
    waiting: RefCell<VecDeque<Letter>>,
    /// Those the kernel had no room for.
    stuck: RefCell<FxHashMap<usize, Letter>>,
}

impl Outbox {
    /// Takes a letter for a connection that has none. True when it is time to deliver.
    ///
    /// # Errors
    /// The bytes, when they are too many.
    pub(super) fn post(
        &self,
        key: usize,
        socket: RawFd,
        bytes: Vec<u8>,
        allowance: Allowance,
    ) -> Result<bool, Vec<u8>> {
        if bytes.len() > LETTER_MAX {
            return Err(bytes);
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(Letter {
            key,
            socket,
            bytes,
            sent: 0,
            allowance,
        });
        Ok(waiting.len() >= LETTERS_MAX)
    }

    /// The next letter of this turn.
    pub(super) fn next(&self) -> Option<Letter> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Keeps a letter until there is room.
    pub(super) fn keep(&self, letter: Letter) {
        self.stuck.borrow_mut().insert(letter.key, letter);
    }

    /// There is room for the letter of one connection: it goes out in this turn.
    pub(super) fn release(&self, key: usize) {
        let letter = self.stuck.borrow_mut().remove(&key);
        self.waiting.borrow_mut().extend(letter);
    }

    /// The letter of one connection, wherever it waits.
    pub(super) fn recall(&self, key: usize) -> Option<Letter> {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.iter().position(|letter| letter.key == key) {
            Some(place) => waiting.remove(place),
            None => self.stuck.borrow_mut().remove(&key),
        }
    }

    /// Asks the letter of one connection.
    pub(super) fn ask<T>(&self, key: usize, about: impl FnOnce(&Letter) -> T) -> Option<T> {
        let (waiting, stuck) = (self.waiting.borrow(), self.stuck.borrow());
        let letter = waiting.iter().find(|letter| letter.key == key);
        letter.or_else(|| stuck.get(&key)).map(about)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::io::Read;
    use std::net::TcpListener;
    use std::rc::Rc;
    use std::task::Poll;
    use std::thread;

    use super::super::tcp::TcpStream;
    use super::super::{Core, Driver};
    use super::*;

    const PATIENT: Allowance = Allowance {
        rate_min: None,
        idle: Duration::from_secs(60),
    };

    /// Runs `act` with one end of a connection on a driver of its own.
    fn with_stream<F: Future<Output = ()> + 'static>(
        peer: &TcpListener,
        act: impl FnOnce(Rc<Core>, TcpStream) -> F + 'static,
    ) {
        let address = peer.local_addr().unwrap();
        let mut driver = Driver::new().unwrap();
        let core = Rc::clone(driver.core());
        driver.core().spawn(async move {
            let stream = TcpStream::connect(&core, address).await.unwrap();
            act(Rc::clone(&core), stream).await;
            core.stop();
        });
        driver.run().unwrap();
    }

    /// Of connections that the kernel buffers little for.
    fn listener() -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = socket2::SockRef::from(&listener);
        socket.set_recv_buffer_size(4_096).unwrap();
        listener
    }

    /// Goes on in the next turn.
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

    async fn write(stream: &TcpStream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let slices = [io::IoSlice::new(bytes)];
            let count = poll_fn(|context| stream.poll_write(context, &slices)).await;
            bytes = &bytes[count.unwrap()..];
        }
    }

    /// What a peer reads, little at a time.
    fn read_slowly(listener: &TcpListener) -> Vec<u8> {
        let (mut peer, _) = listener.accept().unwrap();
        let (mut all, mut some) = (Vec::new(), vec![0; 1_500]);
        loop {
            match peer.read(&mut some).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&some[..count]),
            }
        }
    }

    #[test]
    fn what_is_posted_and_what_is_written_arrive_in_order_at_a_slow_reader() {
        let refusals = Rc::new(Cell::new(0));
        for seed in 0..6 {
            let listener = listener();
            let near = listener.try_clone().unwrap();
            let reader = thread::spawn(move || read_slowly(&listener));
            let expected = Rc::new(RefCell::new(Vec::new()));
            let (all, refused) = (Rc::clone(&expected), Rc::clone(&refusals));
            with_stream(&near, move |_, stream| async move {
                stream.socket().set_send_buffer_size(8_192).unwrap();
                let mut random = fastrand::Rng::with_seed(seed);
                for number in 0..400_u32 {
                    if random.u8(..3) == 0 {
                        next_turn().await;
                    }
                    let piece = vec![(number % 251) as u8; random.usize(1..20_000)];
                    all.borrow_mut().extend_from_slice(&piece);
                    if random.u8(..4) == 0 {
                        write(&stream, &piece).await;
                    } else if let Err(piece) = stream.post(piece, PATIENT) {
                        refused.set(refused.get() + 1);
                        write(&stream, &piece).await;
                    }
                }
                if !stream.deliver() {
                    poll_fn(|context| stream.poll_writable(context)).await;
                }
                assert!(!stream.owes());
            });
            let arrived = reader.join().unwrap();
            assert!(arrived == *expected.borrow(), "seed {seed}");
        }
        // Letters were stuck, or too long, and others wrote behind them.
        assert!(refusals.get() > 100, "{refusals:?}");
    }

    #[test]
    fn a_letter_goes_out_at_the_end_of_the_turn_or_with_its_stream() {
        let listener = listener();
        let near = listener.try_clone().unwrap();
        let reader = thread::spawn(move || read_slowly(&listener));
        with_stream(&near, |_, stream| async move {
            stream.post(b"one letter,".to_vec(), PATIENT).unwrap();
            stream.post(b" ".to_vec(), PATIENT).unwrap_err();
            assert!(stream.owes() && stream.unsent() >= 11);
            next_turn().await;
            assert!(!stream.owes());
            stream.post(b" another".to_vec(), PATIENT).unwrap();
        });
        assert_eq!(reader.join().unwrap(), b"one letter, another");
    }

    #[test]
    fn who_waits_for_a_peer_that_is_gone_is_told() {
        let listener = listener();
        let near = listener.try_clone().unwrap();
        with_stream(&near, move |_, stream| async move {
            let (peer, _) = listener.accept().unwrap();
            socket2::SockRef::from(&peer)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(peer);
            // The turn is the same: no event told of the reset.
            stream.post(b"anyone there?".to_vec(), PATIENT).unwrap();
            poll_fn(|context| stream.poll_broken(context)).await;
            assert!(!stream.owes());
            assert!(stream.post(b"hello?".to_vec(), PATIENT).is_err());
        });
    }
}
