//! Users of their own for models, when the worker is root: no two runs share one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The users taken: from 64000, above those of people and services, below those that systemd or containers map away.
const FIRST: u32 = 64_000;
const COUNT: u32 = 1_500;

/// Hands out users.
#[derive(Debug, Clone)]
pub(crate) struct Users(Option<Arc<Mutex<BTreeSet<u32>>>>);

/// A user, until it is dropped.
#[derive(Debug)]
pub(crate) struct User {
    id: u32,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

impl User {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// All users of this process: several workers may run in one.
static TAKEN: std::sync::LazyLock<Arc<Mutex<BTreeSet<u32>>>> =
    std::sync::LazyLock::new(Arc::default);

impl Users {
    /// None where the worker is not root.
    pub(crate) fn of_this_process() -> Self {
        let root = rustix::process::geteuid().is_root();
        Self(root.then(|| Arc::clone(&TAKEN)))
    }

    /// One that no run of this process has; processes begin at different ones.
    pub(crate) fn take(&self) -> Option<User> {
        let taken = self.0.as_ref()?;
        let start = std::process::id().wrapping_mul(64) % COUNT;
        let mut users = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let id = (0..COUNT)
            .map(|step| FIRST + (start + step) % COUNT)
            .find(|id| !users.contains(id))?;
        users.insert(id);
        Some(User {
            id,
            taken: Arc::clone(taken),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_share_a_user() {
        let users = Users(Some(Arc::default()));
        let taken: Vec<User> = (0..100).filter_map(|_| users.take()).collect();
        let ids: BTreeSet<u32> = taken.iter().map(User::id).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| (FIRST..FIRST + COUNT).contains(id)));
        drop(taken);
        assert!(ids.contains(&users.take().unwrap().id()));
        assert!(Users(None).take().is_none());
    }
}
