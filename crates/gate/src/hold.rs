//! Hold: while the hub, registry and workers of this process pass to the process that takes its place, requests to
//! them wait, for a moment at most.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backends::Set;
use crate::driver::timer::Timer;
use crate::reason::{Reason, Rejection};
use crate::shard::Shard;

/// Longest that a request is held.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);
/// How often a held request looks whether it may go on.
const LOOK: Duration = Duration::from_millis(20);

/// Which backends get nothing now.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// Milliseconds after the gate's start until which requests wait; 0 when none does.
    until: AtomicU64,
    addresses: Mutex<Arc<[SocketAddr]>>,
}

impl Hold {
    /// From now on requests to `addresses` wait.
    pub(crate) fn begin(&self, addresses: Vec<SocketAddr>, started: Instant) {
        *self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = addresses.into();
        let until = (started.elapsed() + LONGEST).as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX).max(1);
        self.until.store(until, Ordering::Release);
    }

    /// Those that wait go on.
    pub(crate) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0
    }

    fn concerns(&self, set: &Set) -> bool {
        let held = Arc::clone(
            &self
                .addresses
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        set.up()
            .iter()
            .any(|backend| held.iter().any(|held| is_same(*held, backend.address)))
    }
}

/// A socket on all addresses is reached under each of this machine's, so that the port decides.
pub(crate) fn is_same(held: SocketAddr, backend: SocketAddr) -> bool {
    held.port() == backend.port()
        && (held.ip().is_unspecified() || held.ip().to_canonical() == backend.ip().to_canonical())
}

/// Waits while requests to the backends of `set` are held.
///
/// # Errors
/// 503 after [`LONGEST`].
pub(crate) async fn wait(shard: &Shard, set: &Set, timer: &Timer) -> Result<(), Rejection> {
    let hold = &shard.shared.hold;
    if !hold.concerns(set) {
        return Ok(());
    }
    loop {
        let until = hold.until.load(Ordering::Acquire);
        if until == 0 {
            return Ok(());
        }
        if shard.shared.started.elapsed() >= Duration::from_millis(until) {
            return Err(Rejection::new(
                Reason::NoBackend,
                "the service is being started anew and is not back yet",
            )
            .retry_after(1));
        }
        timer.set(LOOK);
        poll_fn(|context| timer.poll_expired(context)).await;
        timer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_on_all_addresses_is_meant_by_its_port() {
        let check = |held: &str, backend: &str, same: bool| {
            let (held, backend) = (held.parse().unwrap(), backend.parse().unwrap());
            assert_eq!(is_same(held, backend), same, "{held} {backend}");
        };
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("127.0.0.1:80", "127.0.0.1:81", false);
        check("127.0.0.1:80", "10.0.0.1:80", false);
        check("0.0.0.0:80", "10.0.0.1:80", true);
        check("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true);
    }
}
