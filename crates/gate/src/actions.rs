//! What a route does with a request that it does not forward, as the settings say it.

use std::sync::Arc;

use crate::files::FilesSettings;
use crate::template::Template;

/// What becomes of the requests of a route.
#[derive(Debug, Clone, Default)]
pub enum Action {
    /// They go to a backend of the service.
    #[default]
    Forward,
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// They get this answer.
    Respond(Respond),
    /// They get files.
    Files(Arc<FilesSettings>),
}

/// `redirect = { … }`
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Where to.
    pub location: Template,
    /// It names a host; else it is a place on the host that was asked.
    pub absolute: bool,
}

/// `respond = { … }`
#[derive(Debug, Clone)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// The body.
    pub body: Arc<[u8]>,
    /// Its media type.
    pub content_type: String,
}
