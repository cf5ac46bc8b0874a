//! Answers of the gate's own: redirects, fixed answers, files, and rejections. Each is a response
//! head like a backend's, so that header rules and compression treat all answers alike.

use std::fs::File;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use crate::compress;
use crate::connection::{After, Connection};
use crate::driver::timer::Timer;
use crate::files::conditional::{Asked, Part};
use crate::files::{self, Found, Wanted};
use crate::forward::client_patience;
use crate::http1::head::{HeadLimits, RequestHead, ResponseHead};
use crate::http1::write::chunk_line;
use crate::http1::{BadMessage, Framing};
use crate::http2::answer::Answering;
use crate::outgoing::{self, Lead, Terms};
use crate::pages::ErrorPages;
use crate::pipeline::{Caller, Stop};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::relay::{self, Patience, WriteEnd};
use crate::settings::{Action, FilesSettings, TimeoutSettings};
use crate::shard::Shard;
use crate::shield;
use crate::ws::page;

/// Heads of our own are as long as their settings.
const LIMITS: HeadLimits = HeadLimits {
    bytes: 1 << 20,
    fields: crate::http1::fields::FIELDS_MAX,
};

/// How long a download waits for room in the queue of the threads for files.
const BUSY: Duration = Duration::from_millis(20);

/// Where the body comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Nothing,
    Bytes(Arc<[u8]>),
    /// The file, where the part begins, its length, and its first bytes.
    File(Arc<File>, u64, u64, Vec<u8>),
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Lines of the head, but for those that frame the body.
    pub(crate) lines: String,
    pub(crate) source: Source,
    /// What the record says of it.
    pub(crate) reason: Reason,
}

impl Reply {
    fn new(status: u16, lines: String, source: Source) -> Self {
        Self {
            status,
            lines,
            source,
            reason: Reason::Done,
        }
    }

    fn length(&self) -> u64 {
        match &self.source {
            Source::Nothing => 0,
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::File(_, _, length, _) => *length,
        }
    }

    /// The head, as answer to a request with `method`.
    pub(crate) fn head(&self, method: &[u8]) -> Result<ResponseHead, BadMessage> {
        let status = StatusCode::from_u16(self.status).ok();
        let title = status.and_then(|status| status.canonical_reason());
        let title = title.unwrap_or("Unknown");
        let length = match self.status {
            204 | 304 => String::new(),
            _ => format!("Content-Length: {}\r\n", self.length()),
        };
        let text = format!(
            "HTTP/1.1 {} {title}\r\n{length}{}\r\n",
            self.status, self.lines
        );
        ResponseHead::parse(text.as_bytes(), method, LIMITS)
    }
}

/// A rejection: a page of the operator where there is one that the client reads, else the problem
/// document.
pub(crate) fn rejection(rejection: &Rejection, head: &RequestHead, pages: &[&ErrorPages]) -> Reply {
    let status = rejection.reason.status();
    let page = pages.iter().find_map(|pages| pages.find(status, head));
    let person = rejection.fault.filter(|_| page::is_wanted(head));
    let (content_type, body) = match (page, person) {
        (Some(page), _) => (page.content_type.as_str(), Arc::clone(&page.body)),
        (None, Some(fault)) => (
            "text/html; charset=utf-8",
            page::render(rejection, fault).into(),
        ),
        (None, None) => ("application/problem+json", rejection.document().into()),
    };
    let mut lines = format!("Content-Type: {content_type}\r\nCache-Control: no-store\r\n");
    for (name, value) in rejection.fields() {
        lines.push_str(&format!("{name}: {value}\r\n"));
    }
    if page.is_none() && person.is_some() {
        for (name, value) in page::fields() {
            lines.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    Reply {
        status,
        lines,
        source: Source::Bytes(body),
        reason: rejection.reason,
    }
}

/// What the route answers by itself, but for files; `None` when it does not.
pub(crate) fn fixed(terms: Terms<'_>) -> Option<Reply> {
    match &terms.settings.action {
        Action::Forward | Action::Files(_) => None,
        Action::Redirect(redirect) => {
            let mut location = redirect.location.fill(&terms.facts());
            if !redirect.absolute {
                location = on_this_host(&location);
            }
            let lines = format!("Location: {location}\r\n");
            Some(Reply::new(redirect.status, lines, Source::Nothing))
        }
        Action::Respond(respond) => {
            let lines = if respond.body.is_empty() {
                String::new()
            } else {
                format!("Content-Type: {}\r\n", respond.content_type)
            };
            let source = Source::Bytes(Arc::clone(&respond.body));
            Some(Reply::new(respond.status, lines, source))
        }
    }
}

/// A place on this host stays one: it begins with one slash, since two would make a host of what
/// follows, and none might begin with a scheme.
fn on_this_host(location: &str) -> String {
    format!("/{}", location.trim_start_matches(['/', '\\']))
}

/// Which file a request wants.
///
/// # Errors
/// When its method is none for files.
pub(crate) fn wanted_file(
    terms: Terms<'_>,
    files: &Arc<FilesSettings>,
) -> Result<Wanted, Rejection> {
    let method = terms.head.method();
    if !matches!(method, b"GET" | b"HEAD") {
        let mut rejection = Rejection::new(Reason::MethodNotAllowed, "files can only be read");
        rejection.allow = Some("GET, HEAD".to_owned());
        return Err(rejection);
    }
    let target = terms.target();
    let target = target.as_deref().unwrap_or_else(|| terms.head.target());
    let codings = match files.precompressed.as_slice() {
        [] => Vec::new(),
        offered => compress::negotiate_all(terms.head, offered),
    };
    Ok(Wanted {
        files: Arc::clone(files),
        path: crate::target::path_of(target).into_owned(),
        codings,
        asked: Asked::of(&terms.head.fields),
        body: method == b"GET",
    })
}

/// What was found as an answer.
///
/// # Errors
/// When nothing was found, or a precondition failed.
pub(crate) fn of_file(
    terms: Terms<'_>,
    files: &FilesSettings,
    found: Found,
) -> Result<Reply, Rejection> {
    match found {
        Found::Nothing => Err(Rejection::new(Reason::NoFile, "there is no such file")),
        Found::Folder => {
            let facts = terms.facts();
            let query = String::from_utf8_lossy(facts.query()).into_owned();
            let place = format!("{}/{query}", facts.path);
            let lines = format!("Location: {}\r\n", on_this_host(&place));
            Ok(Reply::new(308, lines, Source::Nothing))
        }
        Found::File(opened) => {
            let lines = files::lines(&opened, files);
            let (start, length) = opened.span();
            let source = Source::File(opened.file, start, length, opened.first);
            match opened.part {
                Part::Whole => Ok(Reply::new(200, lines, source)),
                Part::Range(..) => Ok(Reply::new(206, lines, source)),
                Part::Unmodified => Ok(Reply::new(304, lines, Source::Nothing)),
                Part::Failed => Err(Rejection::new(
                    Reason::PreconditionFailed,
                    "the file is not the one that the request means",
                )),
                Part::Unsatisfiable => {
                    let detail = "the file ends before the range begins";
                    let refused = Rejection::new(Reason::RangeRefused, detail);
                    let mut reply = rejection(&refused, terms.head, &[]);
                    let whole = opened.validators.length;
                    reply
                        .lines
                        .push_str(&format!("Content-Range: bytes */{whole}\r\n"));
                    Ok(reply)
                }
            }
        }
    }
}

/// The answer of a route that does not forward.
///
/// # Errors
/// What stands in its way.
pub(crate) async fn make(shard: &Shard, terms: Terms<'_>) -> Result<Reply, Rejection> {
    let Action::Files(files) = &terms.settings.action else {
        return fixed(terms).ok_or_else(broken);
    };
    let wanted = wanted_file(terms, files)?;
    let root = files.root.clone();
    let waiting = shard
        .shared
        .files(terms.snapshot)
        .run(move || files::find(&wanted));
    let waiting = waiting.map_err(|files::pool::Busy| {
        Rejection::new(Reason::FilesBusy, "too many files are being read").retry_after(1)
    })?;
    match waiting.await {
        Some(Ok(found)) => of_file(terms, files, found),
        Some(Err(error)) => {
            tracing::error!(%error, root = %root.display(), "a file can't be read");
            Err(broken())
        }
        None => Err(broken()),
    }
}

fn broken() -> Rejection {
    Rejection::new(
        Reason::OwnAnswerFailed,
        "the answer can't be made; the gate's log says why",
    )
}

/// With a body still under way nobody knows where the next request begins.
pub(crate) fn must_close(head: &RequestHead, reason: Reason) -> bool {
    reason == Reason::RequestCut
        || head.framing != Framing::None
        || head.upgrade().is_some()
        || head.method() == b"CONNECT"
}

/// Sends an answer.
///
/// # Errors
/// Why it did not arrive.
pub(crate) async fn send(
    shard: &Shard,
    caller: &Caller<'_, '_>,
    terms: Terms<'_>,
    record: &Record,
    reply: Reply,
) -> Result<(Reason, After), Stop> {
    let head = reply.head(terms.head.method()).map_err(|error| {
        tracing::error!(%error, route = terms.settings.name, "an answer of a route is no HTTP");
        Stop::End(Reason::OwnAnswerFailed)
    })?;
    // Who may not come in has no next request, unless a proxy brings those of others.
    let denied = matches!(
        reply.reason,
        Reason::IpDenied | Reason::IpHidden | Reason::Banned
    );
    let must_close = shard.leaving()
        || must_close(terms.head, reply.reason)
        || (denied && !terms.snapshot.trusts(terms.peer));
    let running = &shard.shared.compressions;
    let lead = shard
        .with_date(|date| outgoing::response(Vec::new(), terms, &head, must_close, running, date));
    let after = match lead.close {
        false => After::Next,
        // The client asked for it, and sends nothing more.
        true if terms.head.framing == Framing::None && !terms.head.keeps_alive() => After::Close,
        true => After::Linger,
    };
    let answered = (reply.status, reply.reason);
    shield::observe(shard, terms.snapshot, terms.head, record, answered);
    record.status.set(reply.status);
    let body = head.framing != Framing::None;
    let mut sending = Sending::new(caller, &terms.settings.timeout, record, lead);
    record.responded.set(Some(shard.core.now()));
    if !body {
        sending.put(&[], true).await?;
    } else {
        match reply.source {
            Source::Nothing => sending.put(&[], true).await?,
            Source::Bytes(bytes) => sending.put(&bytes, true).await?,
            Source::File(file, start, length, first) => {
                send_file(
                    &mut sending,
                    shard.shared.files(terms.snapshot),
                    file,
                    (start, length),
                    first,
                )
                .await?;
            }
        }
    }
    Ok((reply.reason, after))
}

async fn send_file(
    sending: &mut Sending<'_>,
    pool: &files::pool::Pool,
    file: Arc<File>,
    (start, length): (u64, u64),
    first: Vec<u8>,
) -> Result<(), Stop> {
    let mut chunk = first;
    let (mut at, mut left) = (start, length);
    loop {
        let count = (chunk.len() as u64).min(left);
        at += count;
        left -= count;
        sending.put(&chunk, left == 0).await?;
        if left == 0 {
            return Ok(());
        }
        drop(std::mem::take(&mut chunk));
        let read = loop {
            let file = Arc::clone(&file);
            match pool.run(move || files::read(&file, at, left)) {
                Ok(reading) => break reading.await,
                // What was begun waits for its turn.
                Err(files::pool::Busy) => sending.pause().await,
            }
        };
        match read {
            Some(Ok(read)) if !read.is_empty() => chunk = read,
            // It became shorter, or can't be read: what was promised can't be kept.
            _ => return Err(Stop::End(Reason::FileCut)),
        }
    }
}

/// A body on its way to the client.
struct Sending<'a> {
    to: To<'a>,
    record: &'a Record,
    lead: Lead,
}

/// Where it goes.
enum To<'a> {
    Http1(&'a Connection, Patience),
    Http2(Answering<'a>, &'a Timer),
}

impl<'a> Sending<'a> {
    fn new(
        caller: &'a Caller<'_, '_>,
        timeout: &TimeoutSettings,
        record: &'a Record,
        lead: Lead,
    ) -> Self {
        let to = match caller {
            Caller::Http1(connection) => {
                let idle = Patience::Idle(timeout.idle.max(Duration::from_millis(1)));
                To::Http1(connection, client_patience(timeout, idle))
            }
            Caller::Http2(side) => {
                let answering = Answering::new(side, record.status.get(), timeout);
                To::Http2(answering, side.timer)
            }
        };
        Self { to, record, lead }
    }

    async fn pause(&self) {
        let timer = match &self.to {
            To::Http1(connection, _) => &connection.timer,
            To::Http2(_, timer) => timer,
        };
        timer.set(BUSY);
        poll_fn(|context| timer.poll_expired(context)).await;
    }

    async fn put(&mut self, data: &[u8], last: bool) -> Result<(), Stop> {
        let failed = |error: std::io::Error| {
            tracing::error!(%error, "a response can't be compressed");
            Stop::End(Reason::OwnAnswerFailed)
        };
        let coded;
        let data = if let Some(encoder) = &mut self.lead.encoder {
            let mut out = encoder.put(data).map_err(failed)?;
            if last && let Some(encoder) = self.lead.encoder.take() {
                out.extend(encoder.finish().map_err(failed)?);
            }
            coded = out;
            coded.as_slice()
        } else {
            data
        };
        let lead = std::mem::take(&mut self.lead.bytes);
        let bytes = match &mut self.to {
            To::Http1(connection, patience) => {
                let chunked = self.lead.framing == Framing::Chunked;
                write(connection, patience, (lead, data), chunked, last).await?
            }
            To::Http2(answering, _) => {
                let bytes = lead.len() + data.len();
                answering.put(lead, data, last).await?;
                bytes
            }
        };
        self.record.sent.set(self.record.sent.get() + bytes as u64);
        Ok(())
    }
}

/// Writes a piece by HTTP/1; says how many bytes that were.
async fn write(
    connection: &Connection,
    patience: &mut Patience,
    (mut lead, data): (Vec<u8>, &[u8]),
    chunked: bool,
    last: bool,
) -> Result<usize, Stop> {
    let mut tail: &[u8] = &[];
    if chunked {
        if !data.is_empty() {
            let mut line = Vec::with_capacity(20);
            chunk_line(&mut line, data.len());
            lead.extend_from_slice(&line);
        }
        tail = match (data.is_empty(), last) {
            (true, true) => b"0\r\n\r\n",
            (false, true) => b"\r\n0\r\n\r\n",
            (false, false) => b"\r\n",
            (true, false) => &[],
        };
    }
    let parts = [lead.as_slice(), data, tail];
    let written = relay::write_all(&connection.stream, parts, patience, &connection.timer);
    written.await.map_err(|end| {
        Stop::End(match end {
            WriteEnd::Gone(_) => Reason::ClientGone,
            WriteEnd::Slow => Reason::ReaderTooSlow,
        })
    })?;
    Ok(parts.iter().map(|part| part.len()).sum())
}
