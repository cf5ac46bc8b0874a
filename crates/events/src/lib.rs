//! The event, its log and its store.
//!
//! An event is one JSON object, the same on every way it travels: from worker to hub, in the hub's store, on the
//! WebSocket and on SSE. In this version the log between worker and hub is HTTP ([`post`]) and the store is the hub's
//! own database, which keeps an event in one transaction with the row that it changes.

mod event;
mod fold;
mod post;

pub use event::{
    AnalysisId, EVENT_BYTES_MAX, Event, EventError, EventId, Progress, ServerId, Status, UserId,
};
pub use fold::{Analysis, Fold, Job, job_status};
pub use post::{EventPost, PostError, Stored};
