//! How many live sockets and event streams each user holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use munjigi_events::UserId;
use munjigi_foundation::api::Problem;

/// When one who holds too many may try again, in seconds.
const AGAIN: u64 = 5;

/// Counts what is live, by user. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    most: u32,
    held: Arc<Mutex<HashMap<UserId, u32>>>,
}

/// One socket or stream; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    sockets: Sockets,
    user: UserId,
}

impl Sockets {
    /// At most `most` for one user.
    pub(crate) fn new(most: u32) -> Self {
        let held = Arc::default();
        Self { most, held }
    }

    /// Takes one more for `user`.
    ///
    /// # Errors
    /// 429 when they hold as many as they may.
    pub(crate) fn take(&self, user: &UserId) -> Result<Held, Problem> {
        let mut held = self.lock();
        let count = held.entry(user.clone()).or_default();
        if *count >= self.most {
            return Err(Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_sockets",
                format!(
                    "a user has at most {} live sockets and event streams",
                    self.most
                ),
            )
            .hint("follow several jobs on one socket, or close the ones you no longer need")
            .retry_after(AGAIN));
        }
        *count += 1;
        drop(held);
        Ok(Held {
            sockets: self.clone(),
            user: user.clone(),
        })
    }

    /// How many are live, of all users.
    pub(crate) fn count(&self) -> u64 {
        self.lock().values().copied().map(u64::from).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.sockets.lock();
        let Some(count) = held.get_mut(&self.user) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            held.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_their_own_share_and_gets_it_back() {
        let sockets = Sockets::new(2);
        let (ann, bob) = (UserId::from("ann"), UserId::from("bob"));
        let first = sockets.take(&ann).unwrap();
        let second = sockets.take(&ann).unwrap();
        let refused = sockets.take(&ann).unwrap_err();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        let others = sockets.take(&bob).unwrap();
        assert_eq!(sockets.count(), 3);
        drop(first);
        let third = sockets.take(&ann).unwrap();
        drop((second, third, others));
        assert_eq!(sockets.count(), 0);
        assert!(
            sockets.lock().is_empty(),
            "nobody is remembered for nothing"
        );
    }
}
