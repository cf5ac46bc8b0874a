//! Requests that wait for a backend with room, first come, first served. A place that becomes
//! free wakes one of them; one that leaves without taking it wakes the next.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The key of those that take any backend; others wait for the one with their id.
pub(crate) const ANY: u64 = 0;

#[derive(Debug, Default)]
struct Lists {
    next: u64,
    /// By key, then by the order of arrival.
    waiting: HashMap<u64, BTreeMap<u64, Waker>>,
}

impl Lists {
    fn pop(&mut self, key: u64) -> Option<Waker> {
        let list = self.waiting.get_mut(&key)?;
        let first = list.pop_first().map(|(_, waker)| waker);
        if list.is_empty() {
            self.waiting.remove(&key);
        }
        first
    }
}

/// The queue of one service, over all threads.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lists: Mutex<Lists>,
    waiting: AtomicUsize,
}

impl Queue {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place at the end, unless `most` wait already.
    pub(crate) fn enter(&self, key: u64, most: usize) -> Option<Place<'_>> {
        let mut lists = self.lists();
        if self.waiting.load(Ordering::Relaxed) >= most {
            return None;
        }
        let number = lists.next;
        lists.next += 1;
        let place = Place {
            queue: self,
            key,
            number,
            woken: false,
        };
        place.line_up(&mut lists, Waker::noop().clone());
        drop(lists);
        // Whoever frees a place looks for waiters after it has: one of us sees the other.
        fence(Ordering::SeqCst);
        Some(place)
    }

    /// A place at backend `id` became free.
    pub(crate) fn wake(&self, id: u64) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut lists = self.lists();
        let woken = lists.pop(id).or_else(|| lists.pop(ANY));
        if woken.is_some() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        drop(lists);
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    /// Backends came or came back: all look again.
    pub(crate) fn wake_all(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut lists = self.lists();
        let all = std::mem::take(&mut lists.waiting);
        let wakers: Vec<Waker> = all.into_values().flat_map(BTreeMap::into_values).collect();
        self.waiting.fetch_sub(wakers.len(), Ordering::SeqCst);
        drop(lists);
        for waker in wakers {
            waker.wake();
        }
    }
}

/// A place in the queue. Whoever holds it when it is dropped was served or gave up.
#[derive(Debug)]
pub(crate) struct Place<'q> {
    queue: &'q Queue,
    key: u64,
    number: u64,
    /// It was told that there is room, and has not said yet that there was none.
    woken: bool,
}

impl Place<'_> {
    fn line_up(&self, lists: &mut Lists, waker: Waker) {
        let list = lists.waiting.entry(self.key).or_default();
        if list.insert(self.number, waker).is_none() {
            self.queue.waiting.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Ready when it is worth looking again.
    pub(crate) fn poll_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.woken {
            return Poll::Ready(());
        }
        let mut lists = self.queue.lists();
        let waker = lists
            .waiting
            .get_mut(&self.key)
            .and_then(|list| list.get_mut(&self.number));
        match waker {
            Some(waker) => {
                waker.clone_from(context.waker());
                Poll::Pending
            }
            None => {
                self.woken = true;
                Poll::Ready(())
            }
        }
    }

    /// There was no room after all: back to the old place.
    pub(crate) fn wait_on(&mut self) {
        self.woken = false;
        let mut lists = self.queue.lists();
        self.line_up(&mut lists, Waker::noop().clone());
        drop(lists);
        fence(Ordering::SeqCst);
    }

    /// It got its room.
    pub(crate) fn served(mut self) {
        // A wake that came at the same time was meant for room that is left for the next.
        let was_woken = std::mem::replace(&mut self.woken, true);
        let still_there = self.leave();
        if !still_there && !was_woken {
            self.queue.wake(self.key);
        }
        // What is left to drop passes nothing on.
        self.number = u64::MAX;
    }

    /// Leaves the list; false when it was not there any more.
    fn leave(&self) -> bool {
        let mut lists = self.queue.lists();
        let Some(list) = lists.waiting.get_mut(&self.key) else {
            return false;
        };
        let there = list.remove(&self.number).is_some();
        if list.is_empty() {
            lists.waiting.remove(&self.key);
        }
        if there {
            self.queue.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        there
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.number != u64::MAX && !self.leave() {
            // It was woken for room that it did not take.
            self.queue.wake(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn first_come_first_served() {
        let queue = Queue::default();
        let mut first = queue.enter(ANY, 2).unwrap();
        let mut second = queue.enter(ANY, 2).unwrap();
        assert!(queue.enter(ANY, 2).is_none());
        assert_eq!(queue.len(), 2);
        queue.wake(7);
        assert!(second.poll_turn(&context()).is_pending());
        assert!(first.poll_turn(&context()).is_ready());
        first.wait_on();
        queue.wake(7);
        assert!(
            second.poll_turn(&context()).is_pending(),
            "its turn is kept"
        );
        assert!(first.poll_turn(&context()).is_ready());
        first.served();
        assert_eq!(queue.len(), 1);
        queue.wake(7);
        assert!(second.poll_turn(&context()).is_ready());
        second.served();
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn who_leaves_after_being_woken_wakes_the_next() {
        let queue = Queue::default();
        let first = queue.enter(ANY, 9).unwrap();
        let mut second = queue.enter(ANY, 9).unwrap();
        queue.wake(7);
        drop(first);
        assert!(second.poll_turn(&context()).is_ready());
        drop(second);
        let third = queue.enter(ANY, 9).unwrap();
        drop(third);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn who_waits_for_one_backend_is_woken_by_it_alone() {
        let queue = Queue::default();
        let mut any = queue.enter(ANY, 9).unwrap();
        let mut only = queue.enter(7, 9).unwrap();
        queue.wake(8);
        assert!(only.poll_turn(&context()).is_pending());
        assert!(any.poll_turn(&context()).is_ready());
        queue.wake(7);
        assert!(only.poll_turn(&context()).is_ready());
        only.served();
        any.wait_on();
        queue.wake_all();
        assert!(any.poll_turn(&context()).is_ready());
        any.served();
        assert_eq!(queue.len(), 0);
    }
}
