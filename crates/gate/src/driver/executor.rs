//! Tasks of one thread: a slab of boxed futures and a run queue. A wake from the same thread is
//! a push to the queue; a wake from another one goes through [`Remote`] and mio's waker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

type Future = Pin<Box<dyn core::future::Future<Output = ()>>>;

struct Queue {
    /// The executor that runs on this thread; 0 when none does.
    owner: Cell<u64>,
    ready: RefCell<VecDeque<usize>>,
}

thread_local! {
    static QUEUE: Queue = const { Queue { owner: Cell::new(0), ready: RefCell::new(VecDeque::new()) } };
}

static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);

/// Wakes that come from other threads. Bounded by the number of tasks: each is queued once.
#[derive(Debug)]
pub(crate) struct Remote {
    owner: u64,
    woken: Mutex<Vec<usize>>,
    waker: mio::Waker,
}

impl Remote {
    pub(super) fn new(waker: mio::Waker) -> Arc<Self> {
        Arc::new(Self {
            owner: NEXT_OWNER.fetch_add(1, Ordering::Relaxed),
            woken: Mutex::new(Vec::new()),
            waker,
        })
    }

    fn push(&self, key: usize) {
        self.woken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(key);
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "cannot wake a thread of the gate");
        }
    }

    /// Moves what other threads woke to the run queue of this one.
    pub(super) fn collect(&self) {
        let woken = std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        QUEUE.with(|queue| queue.ready.borrow_mut().extend(woken));
    }
}

struct TaskWaker {
    key: usize,
    queued: AtomicBool,
    remote: Arc<Remote>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let local = QUEUE.try_with(|queue| {
            let here = queue.owner.get() == self.remote.owner;
            if here {
                queue.ready.borrow_mut().push_back(self.key);
            }
            here
        });
        if !matches!(local, Ok(true)) {
            self.remote.push(self.key);
        }
    }
}

struct Task {
    /// Away while it is polled.
    running: Option<(Future, Waker)>,
    handle: Arc<TaskWaker>,
}

/// The tasks and their run queue.
pub(super) struct Tasks {
    remote: Arc<Remote>,
    slab: RefCell<Slab<Task>>,
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tasks")
            .field("count", &self.slab.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Tasks {
    pub(super) fn new(remote: Arc<Remote>) -> Self {
        QUEUE.with(|queue| queue.owner.set(remote.owner));
        Self {
            remote,
            slab: RefCell::new(Slab::new()),
        }
    }

    pub(super) fn spawn(&self, future: Future) {
        let mut slab = self.slab.borrow_mut();
        let entry = slab.vacant_entry();
        let handle = Arc::new(TaskWaker {
            key: entry.key(),
            queued: AtomicBool::new(false),
            remote: Arc::clone(&self.remote),
        });
        let waker = Waker::from(Arc::clone(&handle));
        waker.wake_by_ref();
        entry.insert(Task {
            running: Some((future, waker)),
            handle,
        });
    }

    pub(super) fn wake_all(&self) {
        for (_, task) in &*self.slab.borrow() {
            task.handle.wake_by_ref();
        }
    }

    #[expect(
        clippy::unused_self,
        reason = "the queue belongs to the tasks, kept per thread"
    )]
    pub(super) fn has_ready(&self) -> bool {
        QUEUE.with(|queue| !queue.ready.borrow().is_empty())
    }

    /// Polls each task that was ready when this was called, once.
    pub(super) fn run_ready(&self, mut before_each: impl FnMut()) {
        let turn = QUEUE.with(|queue| queue.ready.borrow().len());
        for _ in 0..turn {
            let Some(key) = QUEUE.with(|queue| queue.ready.borrow_mut().pop_front()) else {
                return;
            };
            let taken = self.slab.borrow_mut().get_mut(key).and_then(|task| {
                task.handle.queued.store(false, Ordering::Release);
                task.running.take()
            });
            // A late wake of a task that ended, or of one whose place was taken since.
            let Some((mut future, waker)) = taken else {
                continue;
            };
            before_each();
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => {
                    if let Some(task) = self.slab.borrow_mut().get_mut(key) {
                        task.running = Some((future, waker));
                    }
                }
                Poll::Ready(()) => {
                    drop(future);
                    drop(self.slab.borrow_mut().remove(key));
                }
            }
        }
    }

    /// Drops all tasks, outside of any borrow, since their ends may wake others.
    pub(super) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.slab.borrow_mut());
        drop(tasks);
    }
}
