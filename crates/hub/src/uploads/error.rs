//! What can go wrong with an upload, sorted by who must act, and its one table to status codes.

use std::io;

use axum::http::StatusCode;
use munjigi_foundation::api::Problem;
use munjigi_foundation::settings::Size;

use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// Unknown, or somebody else's.
    #[error("there is no such upload")]
    NotFound,
    #[error("the upload has expired")]
    Expired,
    #[error("the upload is longer than {0}, the most this hub takes")]
    TooLarge(Size),
    #[error("your uploads would hold more than {0}")]
    Quota(Size),
    #[error("you have {0} uploads, the most one user may keep")]
    TooMany(u32),
    #[error("there is not enough free disk for this upload")]
    NoSpace,
    #[error("the upload goes on at offset {expected}, not at {provided}")]
    Offset {
        expected: u64,
        provided: u64,
        length: Option<u64>,
    },
    #[error("the upload is complete with {length} bytes")]
    Complete { length: u64 },
    #[error("the upload's length was announced as {announced}, now it would be {now}")]
    Length { announced: u64, now: u64 },
    #[error("the request brings bytes beyond the upload's length of {length}")]
    Beyond { length: u64 },
    #[error("another request still writes to this upload")]
    Locked,
    /// A newer request took over; what came until then is kept.
    #[error("a newer request took this upload over at offset {offset}")]
    Interrupted { offset: u64 },
    #[error("no byte came for {seconds} s; {offset} bytes are kept")]
    Idle { offset: u64, seconds: u64 },
    /// The client left; nobody reads this answer, the log may.
    #[error("the request ended before its end; {offset} bytes are kept")]
    Cut { offset: u64 },
    #[error("the checksum does not match; nothing of this request is kept")]
    Checksum,
    #[error("the upload's digest is not the one announced; the upload was removed")]
    Digest,
    #[error("{0} uploads are received at once, the most this hub takes")]
    Busy(u32),
    #[error("a job needs this upload")]
    InUse,
    #[error("the hub shuts down; {offset} bytes are kept")]
    Shutdown { offset: u64 },
    #[error("the upload's file failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UploadError {
    /// The status and stable code of each cause.
    pub(crate) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::Expired => (StatusCode::GONE, "upload_expired"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large"),
            Self::Quota(_) => (StatusCode::PAYLOAD_TOO_LARGE, "quota_exceeded"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_uploads"),
            Self::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            Self::Offset { .. } => (StatusCode::CONFLICT, "offset_mismatch"),
            Self::Complete { .. } => (StatusCode::CONFLICT, "upload_complete"),
            Self::Length { .. } => (StatusCode::BAD_REQUEST, "length_mismatch"),
            Self::Beyond { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "beyond_length"),
            Self::Locked => (StatusCode::LOCKED, "upload_locked"),
            Self::Interrupted { .. } => (StatusCode::CONFLICT, "upload_interrupted"),
            Self::Idle { .. } => (StatusCode::REQUEST_TIMEOUT, "upload_idle"),
            Self::Cut { .. } => (StatusCode::BAD_REQUEST, "body_cut"),
            Self::Checksum => (checksum_mismatch(), "checksum_mismatch"),
            Self::Digest => (StatusCode::BAD_REQUEST, "digest_mismatch"),
            Self::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_receiving"),
            Self::InUse => (StatusCode::CONFLICT, "upload_in_use"),
            Self::Shutdown { .. } => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
            Self::Io(_) | Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// What the client learns; causes that are ours go to the log instead.
    pub(crate) fn problem(&self) -> Problem {
        let (status, code) = self.status();
        let problem = Problem::new(status, code, self.to_string());
        match self {
            Self::Io(error) => {
                tracing::error!(%error, "an upload's file failed");
                Problem::internal()
            }
            Self::Store(error) => {
                tracing::error!(%error, "an upload's row could not be changed");
                Problem::internal()
            }
            Self::NoSpace => problem
                .hint("try again once others were removed")
                .retry_after(60),
            Self::Quota(_) | Self::TooMany(_) => {
                problem.hint("remove uploads or jobs that you no longer need")
            }
            Self::Busy(_) | Self::Locked | Self::Shutdown { .. } => problem.retry_after(5),
            Self::InUse => problem.hint("remove the job, the upload goes with it"),
            Self::Offset { .. } | Self::Interrupted { .. } => {
                problem.hint("ask for the offset with HEAD and go on there")
            }
            _ => problem,
        }
    }

    /// Keeps "the disk is full" apart from what is broken.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io(error),
        }
    }
}

/// 460 of tus 1.0 (checksum extension), which no registry of status codes has.
fn checksum_mismatch() -> StatusCode {
    StatusCode::from_u16(460).unwrap_or(StatusCode::BAD_REQUEST)
}
