//! The hub's face: one router, and what every request meets before its handler.

mod origin;

pub use origin::Network;
