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
    /// None where the worker is not root, or root of a container that has no such users: Landlock, seccomp and the
    /// loss of all capabilities must do there.
    pub(crate) fn of_this_process() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}"));
        let there = ["uid_map", "gid_map"]
            .iter()
            .all(|map| read(map).is_ok_and(|map| holds(&map)))
            && read("setgroups").is_ok_and(|groups| groups.trim() == "allow");
        let root = rustix::process::geteuid().is_root();
        Self((root && there).then(|| Arc::clone(&TAKEN)))
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

/// True when a map of users (lines of first inside, first outside, count) holds all of ours.
fn holds(map: &str) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        first <= FIRST && first.saturating_add(count) >= FIRST + COUNT
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_without_our_users_is_seen() {
        assert!(holds("         0          0 4294967295\n"));
        assert!(holds("0 100000 65536\n"));
        assert!(!holds("0 1000 1\n1 100000 60000\n"));
        assert!(!holds("") && !holds("0 0"));
    }

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
