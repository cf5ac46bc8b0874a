//! Who asks. The sign-in middleware puts a [`User`] into each request's extensions; handlers take it from there.

use munjigi_events::UserId;
use tokio_util::sync::CancellationToken;

/// The signed-in user of one request.
#[derive(Debug, Clone)]
pub struct User {
    pub id: UserId,
    pub name: String,
    /// May see and change what is everyone's: users, workers, gates.
    pub admin: bool,
    /// Cancelled when the session ends or the token is revoked: long answers (WebSocket, SSE) end with it.
    pub signed_out: CancellationToken,
}
