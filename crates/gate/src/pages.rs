//! Pages of the operator in place of problem documents, for clients that read pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::http1::head::RequestHead;
use crate::http1::{elements, trim};

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub body: Arc<[u8]>,
}

/// `error_pages = { … }`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorPages {
    /// For one status.
    pub exact: BTreeMap<u16, Page>,
    /// For a class of statuses: `4` or `5`.
    pub classes: BTreeMap<u16, Page>,
}

impl ErrorPages {
    /// The page for `status`, when the client says that it takes its type by name: a program that
    /// takes anything gets the problem document with its code.
    #[must_use]
    pub(crate) fn find(&self, status: u16, head: &RequestHead) -> Option<&Page> {
        let page = self
            .exact
            .get(&status)
            .or_else(|| self.classes.get(&(status / 100)))?;
        let essence = page.content_type.split(';').next().unwrap_or_default();
        head.fields
            .named("accept")
            .flat_map(elements)
            .any(|element| {
                let range = element.split(|byte| *byte == b';').next();
                trim(range.unwrap_or_default()).eq_ignore_ascii_case(essence.trim().as_bytes())
            })
            .then_some(page)
    }
}
