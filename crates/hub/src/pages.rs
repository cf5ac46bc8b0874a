//! The pages: `/web`, embedded. One shell for all addresses of pages; assets by the hash of them all, so that a browser
//! keeps them for good and never mixes two versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use include_dir::{Dir, include_dir};
use munjigi_foundation::api::Problem;

static WEB: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../web");

const INDEX: &str = "index.html";
/// Addresses of pages that the shell itself tells apart (web/lib/router.js).
pub(crate) const PAGES: &[&str] = &[
    "/",
    "/uploads",
    "/jobs",
    "/jobs/{eventId}",
    "/jobs/{eventId}/findings",
    "/status",
    "/security",
    "/settings",
];
/// One year, the longest that caches honour.
const FOR_GOOD: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Kept, but asked for each time.
const ASK: HeaderValue = HeaderValue::from_static("no-cache");

/// The embedded pages. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pages(Arc<Inner>);

struct Inner {
    shell: Asset,
    assets: BTreeMap<String, Asset>,
    /// Part of the assets' addresses: changes when one of them does.
    version: String,
}

struct Asset {
    bytes: Bytes,
    etag: HeaderValue,
    kind: HeaderValue,
}

impl Asset {
    fn new(name: &str, bytes: Bytes) -> Self {
        let hash = blake3::hash(&bytes).to_hex();
        let etag: String = hash.chars().take(32).collect();
        Self {
            bytes,
            etag: HeaderValue::from_str(&format!("\"{etag}\"")).unwrap_or(ASK),
            kind: HeaderValue::from_static(kind(name)),
        }
    }

    fn answer(&self, headers: &HeaderMap, keep: HeaderValue) -> Response {
        let mut response = if is_known(headers, &self.etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = Body::from(self.bytes.clone()).into_response();
            let kind = self.kind.clone();
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.etag.clone());
        headers.insert(header::CACHE_CONTROL, keep);
        response
    }
}

/// `If-None-Match` (RFC 9110 §13.1.2).
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let own = etag.to_str().unwrap_or_default();
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == own || one == "*")
}

/// The content type by the ending of a name.
fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" | "webmanifest" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

impl Pages {
    /// Reads the embedded files.
    pub(crate) fn new() -> Self {
        let mut assets = BTreeMap::new();
        collect(&WEB, &mut assets);
        let mut all = blake3::Hasher::new();
        for (name, asset) in &assets {
            all.update(name.as_bytes());
            all.update(asset.etag.as_bytes());
        }
        let version: String = all.finalize().to_hex().chars().take(16).collect();
        let index = assets
            .remove(INDEX)
            .map_or_else(Bytes::new, |index| index.bytes);
        let index = String::from_utf8_lossy(&index)
            .replace("\"/assets/", &format!("\"/assets/~{version}/"));
        Self(Arc::new(Inner {
            shell: Asset::new(INDEX, Bytes::from(index)),
            assets,
            version,
        }))
    }

    /// The one document behind all pages.
    pub(crate) fn shell(&self, headers: &HeaderMap) -> Response {
        self.0.shell.answer(headers, ASK)
    }

    /// The document, whatever the browser has.
    pub(crate) fn shell_whole(&self) -> Response {
        self.0.shell.answer(&HeaderMap::new(), ASK)
    }

    /// The answer where nothing is: the document, which says so, for whoever reads pages; a problem for the others.
    pub(crate) fn missing(&self, request: &Request) -> Response {
        if asks_for_a_page(request) {
            return (StatusCode::NOT_FOUND, self.shell_whole()).into_response();
        }
        Problem::new(
            StatusCode::NOT_FOUND,
            "no_route",
            "there is nothing at this path",
        )
        .into_response()
    }

    fn asset(&self, path: &str, headers: &HeaderMap) -> Response {
        let (version, name) = path
            .strip_prefix('~')
            .and_then(|rest| rest.split_once('/'))
            .map_or((None, path), |(version, name)| (Some(version), name));
        let Some(asset) = self.0.assets.get(name) else {
            return Problem::not_found("file").into_response();
        };
        let keep = match version {
            Some(version) if version == self.0.version => FOR_GOOD,
            _ => ASK,
        };
        asset.answer(headers, keep)
    }
}

/// Whether an unknown address is one that a person may have typed: read, not below what programs ask for, and HTML
/// would be taken.
fn asks_for_a_page(request: &Request) -> bool {
    let path = request.uri().path();
    let first = path.split('/').nth(1).unwrap_or_default();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut wanted = request.headers().get_all(header::ACCEPT).iter().peekable();
    let html = wanted.peek().is_none()
        || wanted.any(|value| {
            let value = value.to_str().unwrap_or_default();
            ["text/html", "text/*", "*/*"]
                .iter()
                .any(|kind| value.contains(kind))
        });
    reads && html && !matches!(first, "api" | "internal" | "assets")
}

fn collect(dir: &Dir<'static>, assets: &mut BTreeMap<String, Asset>) {
    for file in dir.files() {
        let name = file.path().to_string_lossy().replace('\\', "/");
        let asset = Asset::new(&name, Bytes::from_static(file.contents()));
        assets.insert(name, asset);
    }
    for dir in dir.dirs() {
        collect(dir, assets);
    }
}

/// The paths of pages and assets.
pub(crate) fn router(pages: Pages) -> Router {
    let shell =
        |State(pages): State<Pages>, headers: HeaderMap| async move { pages.shell(&headers) };
    let asset = |State(pages): State<Pages>, Path(path): Path<String>, headers: HeaderMap| async move {
        pages.asset(&path, &headers)
    };
    let mut router = Router::new().route("/assets/{*path}", get(asset));
    for page in PAGES {
        router = router.route(page, get(shell));
    }
    router.with_state(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_names_assets_by_the_hash_of_all() {
        let pages = Pages::new();
        let text = String::from_utf8(pages.0.shell.bytes.to_vec()).unwrap();
        assert!(text.contains(&format!("\"/assets/~{}/", pages.0.version)));
        assert!(!text.contains("\"/assets/l"));
        let response = pages.shell(&HeaderMap::new());
        assert_eq!(
            response.headers()["content-type"],
            "text/html; charset=utf-8"
        );
        let mut again = HeaderMap::new();
        again.insert(
            header::IF_NONE_MATCH,
            response.headers()[header::ETAG].clone(),
        );
        assert_eq!(pages.shell(&again).status(), 304);
        assert_eq!(pages.shell_whole().status(), 200);
    }

    #[test]
    fn an_unknown_address_is_a_page_for_who_reads_pages() {
        let pages = Pages::new();
        for (method, path, accept, page) in [
            ("GET", "/nothing", Some("text/html,*/*;q=0.8"), true),
            ("GET", "/nothing/there", Some("*/*"), true),
            ("HEAD", "/nothing", None, true),
            ("GET", "/apis", None, true),
            ("GET", "/nothing", Some("application/json"), false),
            ("POST", "/nothing", None, false),
            ("GET", "/api/nothing", Some("text/html"), false),
            ("GET", "/api", Some("text/html"), false),
            ("GET", "/internal/nothing", Some("text/html"), false),
            ("GET", "/assets/nothing", Some("text/html"), false),
        ] {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(accept) = accept {
                request = request.header(header::ACCEPT, accept);
            }
            let response = pages.missing(&request.body(Body::empty()).unwrap());
            assert_eq!(response.status(), 404);
            let kind = match page {
                true => "text/html; charset=utf-8",
                false => "application/problem+json",
            };
            assert_eq!(response.headers()["content-type"], kind, "{method} {path}");
        }
    }

    #[test]
    fn nothing_outside_is_served() {
        let pages = Pages::new();
        for path in [
            "../Cargo.toml",
            "index.html",
            "~x/index.html",
            "",
            "~",
            "~x",
        ] {
            assert_eq!(pages.asset(path, &HeaderMap::new()).status(), 404, "{path}");
        }
    }
}
