//! For tests only: the real program as child processes on ports of their own, a client of its faces, and a ledger
//! that holds what the contract promises of events.

mod client;
mod ledger;
mod program;
mod site;

pub use client::{Client, Follow, Pushed};
pub use ledger::Ledger;
pub use program::Program;
pub use site::{Site, SiteKind, free_port};

use std::time::Duration;

/// Tries `check` every 50 ms until it gives something, for at most `within`.
///
/// # Errors
/// When the time is over; says what was awaited.
pub async fn eventually<T, F>(what: &str, within: Duration, mut check: F) -> anyhow::Result<T>
where
    F: AsyncFnMut() -> Option<T>,
{
    let deadline = tokio::time::Instant::now() + within;
    loop {
        if let Some(found) = check().await {
            return Ok(found);
        }
        if tokio::time::Instant::now() >= deadline {
            anyhow::bail!("not within {within:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
