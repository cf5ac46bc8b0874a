//! Threads for what would make an event loop wait for a disk: opening files and reading them. A
//! few threads, a bounded queue; a task of a loop waits for its job without blocking the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// The queue is full: the disk is slower than the requests.
#[derive(Debug)]
pub(crate) struct Busy;

/// The threads; dropping the pool ends them after the jobs that wait.
#[derive(Debug)]
pub(crate) struct Pool {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads with room for `waiting` jobs.
    pub(crate) fn start(threads: usize, waiting: usize) -> Self {
        let (jobs, queue) = sync_channel::<Job>(waiting.max(1));
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads.max(1))
            .filter_map(|index| {
                let queue = Arc::clone(&queue);
                std::thread::Builder::new()
                    .name(format!("gate-files-{index}"))
                    .spawn(move || run(&queue))
                    .map_err(|error| tracing::error!(%error, "a thread for files can't be started"))
                    .ok()
            })
            .collect();
        Self {
            jobs: Some(jobs),
            threads,
        }
    }

    /// Hands `work` to a thread.
    ///
    /// # Errors
    /// When as many jobs wait as may wait.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Waiting<T>, Busy> {
        let slot = Arc::new(Mutex::new(Slot {
            outcome: None,
            over: false,
            waker: None,
        }));
        let promise = Promise(Arc::clone(&slot));
        let job: Job = Box::new(move || promise.keep(work()));
        let jobs = self.jobs.as_ref().ok_or(Busy)?;
        jobs.try_send(job).map_err(|_| Busy)?;
        Ok(Waiting(slot))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread for files failed");
            }
        }
    }
}

fn run(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else {
            return;
        };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a job with a file failed");
        }
    }
}

#[derive(Debug)]
struct Slot<T> {
    outcome: Option<T>,
    over: bool,
    waker: Option<Waker>,
}

/// Given to the job: when it is dropped without an outcome, whoever waits learns that, too.
struct Promise<T>(Arc<Mutex<Slot<T>>>);

impl<T> Promise<T> {
    fn keep(self, outcome: T) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.outcome = Some(outcome);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.over = true;
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }
}

/// The outcome to come.
#[derive(Debug)]
pub(crate) struct Waiting<T>(Arc<Mutex<Slot<T>>>);

impl<T> Future for Waiting<T> {
    /// `None` when the job failed.
    type Output = Option<T>;

    fn poll(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.over {
            return Poll::Ready(slot.outcome.take());
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_end_with_their_outcome_or_are_known_to_have_failed() {
        let pool = Pool::start(2, 8);
        let waiting: Vec<_> = (0..6).map(|n| pool.run(move || n * 2).unwrap()).collect();
        for (n, waiting) in waiting.into_iter().enumerate() {
            assert_eq!(waiting.await, Some(n * 2));
        }
        let failing = pool.run(|| panic!("on purpose")).unwrap();
        assert_eq!(failing.await, None::<()>);
        assert_eq!(pool.run(|| 7).unwrap().await, Some(7), "its thread goes on");
    }

    #[tokio::test]
    async fn a_full_queue_says_so() {
        let pool = Pool::start(1, 1);
        let (go, held) = sync_channel::<()>(1);
        let first = pool.run(move || held.recv()).unwrap();
        // One runs or waits; of two more at least one finds no room.
        let more: Vec<_> = (0..2).map(|_| pool.run(|| ())).collect();
        assert!(more.iter().any(Result::is_err));
        go.send(()).unwrap();
        assert!(first.await.unwrap().is_ok());
    }
}
