//! The hub: takes uploads, keeps jobs, places analyses on workers, pushes their events, stores results, serves pages.
//!
//! [`Hub::start`] builds it: database, door ([`auth`]), [`uploads`], jobs, then the face that serves them all.

mod admin;
mod auth;
mod face;
mod gates;
mod hub;
pub mod jobs;
mod pages;
mod push;
mod registry;
mod results;
pub mod settings;
pub mod store;
pub mod uploads;
pub mod user;

pub use face::Network;
pub use gates::Drained;
pub use hub::{GateAdmin, Hub, StartError, Wiring};
