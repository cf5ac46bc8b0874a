//! The hub: takes uploads, keeps jobs, places analyses on workers, pushes their events, stores results, serves pages.

pub mod store;
pub mod user;
