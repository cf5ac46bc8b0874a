//! A service: its settings, its backends, and what all threads know of it together: whose turn it
//! is, who is left out, who waits, whether it rests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::backend::{Backend, DRAINED, EJECTED, UNHEALTHY};
use crate::backends::{Admission, Backends, Lasting, Orders, Set};
use crate::balance::{self, CHANCE, Pick, Question};
use crate::breaker::{Breaker, Change};
use crate::ejection::Ejections;
use crate::queue::Queue;
use crate::retry::Budget;
use crate::settings::{Balance, RetrySettings, ServiceSettings};
use crate::tls::Way;

/// What became of a request at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered.
    Good,
    /// A connect error, a reset, a timeout, or 502, 503, 504 without `Retry-After`.
    Failed,
    /// It says nothing about the backend.
    Neutral,
}

/// Figures of one service.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Second and further tries.
    pub retries: AtomicU64,
    /// Tries that the budget did not allow.
    pub retries_refused: AtomicU64,
    /// Second requests of `hedge`.
    pub hedges: AtomicU64,
    /// Requests that waited for room at a backend.
    pub queued: AtomicU64,
    /// How often the breaker opened.
    pub opened: AtomicU64,
}

/// A service.
#[derive(Debug)]
pub(crate) struct Service {
    /// As routes call it.
    pub name: String,
    /// As `[gate.service.NAME]` says.
    pub settings: ServiceSettings,
    /// The backends; replaced as a whole.
    pub set: ArcSwap<Set>,
    /// Requests in flight, where they are counted (see [`Service::counts_requests`]).
    pub in_flight: AtomicU32,
    pub queue: Queue,
    pub figures: Figures,
    /// How its backends are called over TLS; none for plain ones. Of the same settings, and so
    /// the same for as long as the service lives.
    pub way: OnceLock<Arc<Way>>,
    /// Told when who gets requests is to be looked at again.
    pub changed: Notify,
    /// Another service went on in its place: what is left here ejects nobody.
    succeeded: AtomicBool,
    turn: AtomicUsize,
    ejections: Mutex<Ejections>,
    breaker: Option<Mutex<Breaker>>,
    budget: Mutex<Budget>,
    /// Held while a new set is made of the old one.
    lasting: Mutex<Lasting>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// A service without backends yet. `zone` is where the gate is.
    #[must_use]
    pub(crate) fn new(name: &str, settings: ServiceSettings, zone: Option<&str>) -> Self {
        let now = Instant::now();
        Self {
            name: name.to_owned(),
            set: ArcSwap::default(),
            in_flight: AtomicU32::new(0),
            queue: Queue::default(),
            figures: Figures::default(),
            way: OnceLock::new(),
            changed: Notify::new(),
            succeeded: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            ejections: Mutex::default(),
            breaker: settings.breaker.map(|b| Mutex::new(Breaker::new(b, now))),
            budget: Mutex::new(Budget::new(now)),
            lasting: Mutex::new(Lasting {
                orders: HashMap::new(),
                zone: zone.map(str::to_owned),
            }),
            settings,
        }
    }

    /// Goes on where `previous`, of other settings, stands: with its backends, until discovery
    /// says otherwise, and with what operators said.
    pub(crate) fn succeed(&self, previous: &Self) {
        previous.succeeded.store(true, Ordering::Relaxed);
        let mut lasting = lock(&self.lasting);
        lasting.orders.clone_from(&lock(&previous.lasting).orders);
        let set = previous.set.load();
        let same_ejection = self.settings.ejection == previous.settings.ejection;
        if same_ejection {
            lock(&self.ejections).clone_from(&lock(&previous.ejections));
        }
        for backend in set.up() {
            if !same_ejection {
                backend.mark(EJECTED, false);
            }
            if self.settings.health != previous.settings.health {
                backend.mark(UNHEALTHY, false);
                backend.health().forget();
            }
        }
        self.set
            .store(Arc::new(set.again(&self.settings, &lasting)));
    }

    pub(crate) fn is_in_zone(&self, zone: Option<&str>) -> bool {
        lock(&self.lasting).zone.as_deref() == zone
    }

    /// Takes over what discovery says. Returns the sets before and after.
    pub(crate) fn renew(
        &self,
        news: &Backends,
        admission: Admission<'_>,
        now: Instant,
    ) -> (Arc<Set>, Arc<Set>) {
        let lasting = lock(&self.lasting);
        let before = self.set.load_full();
        let next = Arc::new(before.next(news, admission, &lasting, now));
        self.set.store(Arc::clone(&next));
        drop(lasting);
        lock(&self.ejections).retain(|id| next.up().iter().any(|backend| backend.id == id));
        self.queue.wake_all();
        self.changed.notify_one();
        (before, next)
    }

    /// Arranges the backends anew after the state of one of them changed.
    pub(crate) fn refresh(&self) {
        let lasting = lock(&self.lasting);
        let next = self.set.load().again(&self.settings, &lasting);
        self.set.store(Arc::new(next));
        drop(lasting);
        self.queue.wake_all();
    }

    /// True when the requests of the service are counted together, not only for each backend.
    pub(crate) fn counts_requests(&self) -> bool {
        self.settings.balance == Balance::ConsistentHash || self.settings.limit.is_some()
    }

    /// Chooses a backend of `set`, leaving out those tried while there is another.
    #[must_use]
    pub(crate) fn choose<'a>(
        &self,
        set: &'a Set,
        hash: u64,
        tried: &[u64],
        now: Instant,
    ) -> Pick<'a> {
        let settings = &self.settings;
        let question = Question {
            balance: settings.balance,
            now,
            // A further try takes nobody's turn.
            turn: if tried.is_empty() {
                self.turn.fetch_add(1, Ordering::Relaxed)
            } else {
                self.turn.load(Ordering::Relaxed)
            },
            hash,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            slow_start: settings.slow_start,
            limit: settings.limit.map(|limit| limit.requests),
            tried,
        };
        let ring = set.ring().map(|ring| (ring, set.up()));
        CHANCE.with(|chance| {
            let choice = balance::choose(set.tiers(), ring, question, chance);
            match choice {
                Pick::None if !tried.is_empty() => {
                    let question = Question {
                        tried: &[],
                        ..question
                    };
                    balance::choose(set.tiers(), ring, question, chance)
                }
                choice => choice,
            }
        })
    }

    /// True when `backend` may get a request that is stuck to it.
    pub(crate) fn may_use(&self, backend: &Backend, tried: &[u64]) -> bool {
        let flying = || backend.in_flight.load(Ordering::Relaxed);
        !backend.is(DRAINED | UNHEALTHY | EJECTED)
            && !tried.contains(&backend.id)
            && self
                .settings
                .limit
                .is_none_or(|limit| flying() < limit.requests)
    }

    /// Notes how long a backend took to answer, where that is gone by.
    pub(crate) fn answered(&self, backend: &Backend, took: Duration, now: Instant) {
        match self.settings.balance {
            Balance::PeakEwma => backend.answered_in(took, now, true),
            Balance::LeastTime => backend.answered_in(took, now, false),
            _ => {}
        }
    }

    /// Passes a request to the backends, or says how long the service rests.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        self.breaker
            .as_ref()
            .map_or(Ok(()), |breaker| lock(breaker).admit(now))
    }

    /// Notes what became of a request at a backend.
    pub(crate) fn observe(&self, backend: &Backend, outcome: Outcome, now: Instant) {
        if outcome == Outcome::Neutral {
            return;
        }
        let failed = outcome == Outcome::Failed;
        if let Some(settings) = &self.settings.ejection
            && !self.succeeded.load(Ordering::Relaxed)
        {
            if failed {
                let due = (backend.id, backend.failed());
                let count = self.set.load().up().len();
                if lock(&self.ejections).failed(due, count, settings, now) {
                    self.eject(backend, due.1);
                }
            } else {
                backend.succeeded();
            }
        }
        if let Some(breaker) = &self.breaker {
            let change = lock(breaker).ended(failed, now);
            match change {
                Some(Change::Opened) => {
                    self.figures.opened.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        service = self.name,
                        "too many requests failed: the breaker is open"
                    );
                }
                Some(Change::Closed) => {
                    tracing::info!(service = self.name, "the breaker is closed again");
                }
                None => {}
            }
        }
    }

    fn eject(&self, backend: &Backend, failures: u32) {
        backend.mark(EJECTED, true);
        backend.succeeded();
        backend.ejections.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            service = self.name,
            backend = backend.name,
            failures,
            "backend ejected: it failed too often in a row"
        );
        self.changed.notify_one();
    }

    /// Lets those back in whose ejection is over, and says when to look again.
    pub(crate) fn end_ejections(&self, now: Instant) -> Option<Instant> {
        let mut ejections = lock(&self.ejections);
        ejections.end(now);
        for backend in self.set.load().up() {
            let over = backend.is(EJECTED) && !ejections.has(backend.id);
            if over && backend.mark(EJECTED, false) {
                backend.warm_up(now);
                let (service, backend) = (&self.name, &backend.name);
                tracing::info!(
                    service,
                    backend,
                    "ejection over: backend gets requests again"
                );
            }
        }
        ejections.next()
    }

    /// True when one more try is within the budget; then it is spent.
    pub(crate) fn spend(&self, settings: &RetrySettings, now: Instant) -> bool {
        let requests = self.turn.load(Ordering::Relaxed);
        let allowed = lock(&self.budget).spend(requests, settings, now);
        let counter = if allowed {
            &self.figures.retries
        } else {
            &self.figures.retries_refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
        allowed
    }

    /// What operators call the state of the breaker; `None` without one.
    pub(crate) fn breaker_state(&self) -> Option<&'static str> {
        self.breaker.as_ref().map(|breaker| lock(breaker).state())
    }

    /// Stops sending balanced requests to `address`, or takes that back. What was begun goes on,
    /// and `where` still reaches it. The order outlives news from discovery. False when no backend
    /// has the address.
    pub(crate) fn drain(&self, address: SocketAddr, drained: bool, now: Instant) -> bool {
        self.order(address, |orders| orders.drained = drained, now)
    }

    /// Gives `address` another weight, or with `None` its own again. As lasting as
    /// [`Service::drain`].
    pub(crate) fn set_weight(
        &self,
        address: SocketAddr,
        weight: Option<u32>,
        now: Instant,
    ) -> bool {
        let weight = weight.map(|weight| weight.clamp(1, 1_000));
        self.order(address, |orders| orders.weight = weight, now)
    }

    fn order(&self, address: SocketAddr, change: impl FnOnce(&mut Orders), now: Instant) -> bool {
        let set = self.set.load();
        let Some(backend) = set.up().iter().find(|backend| backend.address == address) else {
            return false;
        };
        let mut lasting = lock(&self.lasting);
        change(lasting.orders.entry(address).or_default());
        let orders = lasting.orders.get(&address).copied().unwrap_or_default();
        lasting
            .orders
            .retain(|_, orders| *orders != Orders::default());
        drop(lasting);
        if backend.is(DRAINED) && !orders.drained {
            backend.warm_up(now);
        }
        let (service, backend) = (&self.name, &backend.name);
        tracing::info!(
            service,
            backend,
            drained = orders.drained,
            weight = orders.weight,
            "an operator's order"
        );
        self.refresh();
        self.changed.notify_one();
        true
    }
}
