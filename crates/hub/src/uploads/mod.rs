//! Uploads: one storage core, spoken to by tus 1.0 and by the IETF resumable upload draft.
//!
//! An offset is acknowledged once its bytes are on disk and its row says so; it never goes back. One writer at a time:
//! a newer request asks the older one to stop and goes on where that one stopped.

mod digest;
mod disk;
mod error;
mod http;
mod ietf;
mod receive;
mod slots;
mod storage;
#[cfg(test)]
mod tests;
mod tus;

pub use crate::store::uploads::{Upload, pin, unpin};
pub(crate) use http::router;
pub use storage::{Uploads, UploadsWiring};
