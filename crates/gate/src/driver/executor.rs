//! Tasks of one thread: a slab of boxed futures and a run queue. A wake from the same thread is
//! a push to the queue; a wake from another one goes through [`Remote`] and mio's waker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
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
    /// Those that never ran.
    fresh: RefCell<VecDeque<usize>>,
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
            fresh: RefCell::default(),
        }
    }

    pub(super) fn spawn(&self, future: Future) {
        let mut slab = self.slab.borrow_mut();
        let entry = slab.vacant_entry();
        let handle = Arc::new(TaskWaker {
            key: entry.key(),
            queued: AtomicBool::new(true),
            remote: Arc::clone(&self.remote),
        });
        self.fresh.borrow_mut().push_back(entry.key());
        entry.insert(Task {
            running: Some((future, Waker::from(Arc::clone(&handle)))),
            handle,
        });
    }

    pub(super) fn wake_all(&self) {
        for (_, task) in &*self.slab.borrow() {
            task.handle.wake_by_ref();
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.fresh.borrow().is_empty() || QUEUE.with(|queue| !queue.ready.borrow().is_empty())
    }

    /// Polls each task that was ready when this was called, once, and each new one right behind the
    /// one that started it: it has its first words to say, and need not wait for the next turn.
    pub(super) fn run_ready(&self, mut before_each: impl FnMut()) {
        let turn = QUEUE.with(|queue| queue.ready.borrow().len());
        self.run_fresh(&mut before_each);
        for _ in 0..turn {
            let Some(key) = QUEUE.with(|queue| queue.ready.borrow_mut().pop_front()) else {
                return;
            };
            self.run(key, &mut before_each);
            self.run_fresh(&mut before_each);
        }
    }

    fn run_fresh(&self, before_each: &mut impl FnMut()) {
        loop {
            let Some(key) = self.fresh.borrow_mut().pop_front() else {
                return;
            };
            self.run(key, before_each);
        }
    }

    fn run(&self, key: usize, before_each: &mut impl FnMut()) {
        let taken = self.slab.borrow_mut().get_mut(key).and_then(|task| {
            task.handle.queued.store(false, Ordering::Release);
            task.running.take()
        });
        // A late wake of a task that ended, or of one whose place was taken since.
        let Some((mut future, waker)) = taken else {
            return;
        };
        before_each();
        let poll = || future.as_mut().poll(&mut Context::from_waker(&waker));
        // A fault in one task must not take the other connections of the thread with it.
        match std::panic::catch_unwind(AssertUnwindSafe(poll)).unwrap_or(Poll::Ready(())) {
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

    /// Drops all tasks, outside of any borrow, since their ends may wake others.
    pub(super) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.slab.borrow_mut());
        drop(tasks);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::Driver;

    #[test]
    fn a_new_task_runs_right_behind_the_one_that_started_it() {
        let driver = Driver::new().unwrap();
        let core = driver.core();
        let said = Rc::new(std::cell::RefCell::new(Vec::new()));
        let say = |word: &'static str| {
            let said = Rc::clone(&said);
            async move { said.borrow_mut().push(word) }
        };
        let (inner, both) = (say("second"), [say("third"), say("fourth")]);
        let (first, spawner) = (say("first"), Rc::clone(core));
        core.spawn(async move {
            first.await;
            spawner.spawn(inner);
            let [third, fourth] = both;
            let again = Rc::clone(&spawner);
            spawner.spawn(async move {
                third.await;
                again.spawn(fourth);
            });
        });
        core.spawn(say("fifth"));
        core.tasks.run_ready(|| {});
        // In one turn, in the order of their beginning.
        assert_eq!(
            *said.borrow(),
            ["first", "fifth", "second", "third", "fourth"]
        );
        assert!(!core.tasks.has_ready());
    }
}
