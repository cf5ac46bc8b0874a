//! The hub: takes uploads, keeps jobs, places analyses on workers, pushes their events, stores results, serves pages.

mod face;
pub mod settings;
pub mod store;
pub mod uploads;
pub mod user;
