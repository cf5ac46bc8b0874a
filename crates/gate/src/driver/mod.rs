//! The driver: one thread, one `epoll` (edge-triggered, by mio), one executor. A connection is a
//! future; everything it waits for (bytes, room, a deadline, a wake from elsewhere) lives in this
//! module, so that what stands above reads as straight-line `async` code.
//!
//! Nothing here is shared between threads but the queue of remote wakes. Why not Tokio's
//! current-thread runtime: docs/decisions/0001-gate-driver.md.

pub(crate) mod buffer;
mod executor;
mod inbox;
pub(crate) mod listener;
pub(crate) mod outbox;
pub(crate) mod splice;
pub(crate) mod tcp;
mod ticket;
pub(crate) mod timer;
pub(crate) mod tls;
pub(crate) mod udp;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use slab::Slab;

pub(crate) use executor::Remote;
use executor::Tasks;
use inbox::{Awaited, Inbox};
use outbox::{Delivery, Letter, Outbox};
use ticket::Ticket;

const REMOTE: Token = Token(usize::MAX);
/// Reads and writes a task may do before the others get their turn.
const BUDGET: u32 = 32;

/// Readiness of one descriptor, kept between edges.
#[derive(Debug, Default)]
struct Source {
    /// As in its [`Ticket`].
    generation: u16,
    readable: bool,
    writable: bool,
    /// The peer ended its side: reading stays ready for good, since no further edge will come.
    read_closed: bool,
    /// Reset or error: nothing more will pass.
    broken: bool,
    /// A letter waits for the end of the turn; while it is not writable, for room.
    owes: bool,
    /// A message that was asked for.
    awaited: Awaited,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What the futures of one thread share.
#[derive(Debug)]
pub(crate) struct Core {
    registry: mio::Registry,
    sources: RefCell<Slab<Source>>,
    generation: Cell<u16>,
    tasks: Tasks,
    timers: RefCell<timer::Wheel>,
    buffers: buffer::Pool,
    splices: splice::Pool,
    outbox: Outbox,
    inbox: Inbox,
    started: Instant,
    now: Cell<Instant>,
    /// Milliseconds from the start to `now`.
    elapsed: Cell<u64>,
    budget: Cell<u32>,
    stopped: Cell<bool>,
}

impl Core {
    /// The time at the last return from the kernel.
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// The buffers of this thread.
    pub(crate) fn buffers(&self) -> &buffer::Pool {
        &self.buffers
    }

    fn tick_after(&self, after: Duration) -> u64 {
        let part = u64::from(after.subsec_nanos().div_ceil(1_000_000));
        let after = after.as_secs().saturating_mul(1_000).saturating_add(part);
        let when = self.elapsed.get().saturating_add(after) / timer::TICK_MS;
        // One tick more than the division gives: a limit is never cut short.
        when.saturating_add(1)
    }

    /// Notes the time for all that happens in this turn; the tick that it is in.
    fn look_at_clock(&self) -> u64 {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.started).as_millis();
        self.now.set(now);
        self.elapsed.set(u64::try_from(elapsed).unwrap_or(u64::MAX));
        self.elapsed.get() / timer::TICK_MS
    }

    /// Starts a future on this thread.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(Box::pin(future));
    }

    /// Polls every task once: each looks at what changed for all of them, such as a drain.
    pub(crate) fn wake_all(&self) {
        self.tasks.wake_all();
    }

    /// Ends [`Driver::run`] after this turn; what still lives is dropped.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
    }

    /// True while the task may go on; else it should yield (its waker is called).
    fn spend(&self, waker: &Waker) -> bool {
        let left = self.budget.get();
        if left == 0 {
            waker.wake_by_ref();
            return false;
        }
        self.budget.set(left - 1);
        true
    }

    /// Lets the task do one more thing, whatever it has spent.
    pub(crate) fn leave_one(&self) {
        self.budget.set(self.budget.get().max(1));
    }

    /// A place for the readiness of a descriptor: its key, and the token to register it with.
    fn add_source(&self, source: Source, io: &impl AsRawFd) -> io::Result<(usize, Token)> {
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let mut sources = self.sources.borrow_mut();
        let ticket = Ticket {
            key: sources.vacant_key(),
            generation,
            descriptor: Some(io.as_raw_fd()),
        };
        let token = ticket.token()?;
        let key = sources.insert(Source {
            generation,
            ..source
        });
        Ok((key, token))
    }

    fn dispatch(&self, event: &mio::event::Event) {
        let mut sources = self.sources.borrow_mut();
        let ticket = Ticket::from(event.token());
        let Some(source) = sources.get_mut(ticket.key) else {
            return;
        };
        if source.generation != ticket.generation {
            return;
        }
        source.broken |= event.is_error() || (event.is_read_closed() && event.is_write_closed());
        source.read_closed |= event.is_read_closed();
        if event.is_readable() || source.read_closed || source.broken {
            source.readable = true;
            match source.awaited {
                // Who has to wait for room first would leave it lying here.
                Awaited::Asked if !source.broken && (source.writable || !source.owes) => {
                    source.awaited = self.inbox.fetch(ticket, &self.buffers);
                }
                Awaited::Here => source.awaited = Awaited::HereAndMore,
                _ => {}
            }
            if let Some(waker) = &source.reader {
                waker.wake_by_ref();
            }
        }
        if event.is_writable() || source.broken {
            if source.owes && !source.writable {
                // Who writes next waits for it.
                return self.outbox.release(ticket.key);
            }
            source.writable = true;
            if let Some(waker) = &source.writer {
                waker.wake_by_ref();
            }
        }
    }

    /// Sends the letters of this turn.
    fn deliver_all(&self) {
        while let Some(letter) = self.outbox.next() {
            self.deliver(letter);
        }
    }

    /// Sends a letter, and notes what became of it.
    fn deliver(&self, mut letter: Letter) {
        let delivery = letter.deliver();
        let mut sources = self.sources.borrow_mut();
        // A stream takes its letter along when it is dropped.
        let Some(source) = sources.get_mut(letter.key) else {
            return;
        };
        match delivery {
            Delivery::Stuck if !source.broken => {
                source.writable = false;
                // Who waits for what the peer says next has to be patient with it first.
                source.reader.iter().for_each(Waker::wake_by_ref);
                return self.outbox.keep(letter);
            }
            Delivery::Whole if source.writable => {}
            Delivery::Whole => {
                source.writable = true;
                source.writer.iter().for_each(Waker::wake_by_ref);
            }
            Delivery::Stuck | Delivery::Gone => {
                source.broken = true;
                source.readable = true;
                source.writable = true;
                source.reader.iter().for_each(Waker::wake_by_ref);
                source.writer.iter().for_each(Waker::wake_by_ref);
            }
        }
        source.owes = false;
        drop(sources);
        self.buffers.give_sheet(letter.into_sheet());
    }
}

/// Owns the thread: runs its tasks until [`Core::stop`].
#[derive(Debug)]
pub(crate) struct Driver {
    core: Rc<Core>,
    poll: Poll,
    events: Events,
    remote: Arc<Remote>,
}

impl Driver {
    /// # Errors
    /// When the kernel gives no epoll descriptor.
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let remote = Remote::new(mio::Waker::new(&registry, REMOTE)?);
        let now = Instant::now();
        let core = Rc::new(Core {
            registry,
            sources: RefCell::new(Slab::new()),
            generation: Cell::new(0),
            tasks: Tasks::new(Arc::clone(&remote)),
            timers: RefCell::new(timer::Wheel::new()),
            buffers: buffer::Pool::new(),
            splices: splice::Pool::default(),
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            started: now,
            now: Cell::new(now),
            elapsed: Cell::new(0),
            budget: Cell::new(BUDGET),
            stopped: Cell::new(false),
        });
        Ok(Self {
            core,
            poll,
            events: Events::with_capacity(512),
            remote,
        })
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Runs until [`Core::stop`]. Must be called on the thread that made the driver.
    ///
    /// # Errors
    /// When `epoll_wait` fails for another reason than a signal.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        loop {
            let core = &self.core;
            core.tasks.run_ready(|| core.budget.set(BUDGET));
            core.deliver_all();
            if core.stopped.get() {
                break;
            }
            let timeout = self.timeout();
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let tick = core.look_at_clock();
            for event in &self.events {
                if event.token() == REMOTE {
                    self.remote.collect();
                } else {
                    core.dispatch(event);
                }
            }
            core.timers.borrow_mut().advance(tick, Waker::wake_by_ref);
        }
        self.core.tasks.clear();
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if self.core.tasks.has_ready() {
            return Some(Duration::ZERO);
        }
        let tick = self.core.timers.borrow().next_tick()?;
        let when = Duration::from_millis(tick.saturating_mul(timer::TICK_MS));
        let elapsed = self.core.started.elapsed();
        Some(when.saturating_sub(elapsed))
    }
}
