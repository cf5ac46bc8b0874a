//! Traces: which one an exchange belongs to (W3C Trace Context), and what is told of it to a collector. Off unless
//! `[gate] trace` names one; then `traceparent` passes like any other field.

mod export;
pub mod parent;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

pub(crate) use export::Exporter;
use parent::Parent;

use crate::http1::head::RequestHead;
use crate::settings::TraceSettings;

/// The trace of one exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: [u8; 16],
    /// The span of who asked us.
    pub(crate) parent: Option<[u8; 8]>,
    /// Of the exchange as a whole.
    pub(crate) server: [u8; 8],
    /// Of the request to the backend: the parent of the backend's own.
    pub(crate) client: [u8; 8],
    /// It is told to the collector.
    pub(crate) sampled: bool,
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Context {
    /// Goes on with `parent`, or begins a trace. Only whom we trust decides what is told; else `share` of all traces is,
    /// by their id, so that all gates of a site tell the same ones.
    fn new(parent: Option<Parent>, trusted: bool, share: f64, random: [u8; 32]) -> Self {
        let [a @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = random;
        let [.., b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q] = random;
        let trace = parent.map_or(a, |parent| parent.trace);
        let [.., r, s, t, u, v, w, x, y] = trace;
        let place = u64::from_be_bytes([r, s, t, u, v, w, x, y]) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit into a double")]
        let chosen = (place as f64) < share * (1_u64 << 53) as f64;
        Self {
            trace,
            parent: parent.map(|parent| parent.span),
            server: [b, c, d, e, f, g, h, i],
            client: [j, k, l, m, n, o, p, q],
            sampled: match parent {
                Some(parent) if trusted => parent.sampled,
                _ => chosen,
            },
        }
    }

    /// As the backend gets it.
    fn traceparent(&self) -> String {
        let parent = Parent {
            trace: self.trace,
            span: self.client,
            sampled: self.sampled,
        };
        parent.to_string()
    }
}

/// An exchange as it is told to the collector. Times are after its begin.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) context: Context,
    /// Nanoseconds since 1970.
    pub(crate) began: u64,
    pub(crate) head_read: Option<Duration>,
    pub(crate) connected: Option<Duration>,
    pub(crate) responded: Option<Duration>,
    pub(crate) total: Duration,
    pub(crate) method: String,
    /// Without what may be secret.
    pub(crate) target: String,
    pub(crate) host: Option<String>,
    pub(crate) client: String,
    pub(crate) listener: String,
    pub(crate) route: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    /// The backend is to blame, or the gate.
    pub(crate) failed: bool,
}

/// How many spans went where.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) exported: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

/// Gives exchanges their traces, and hands them to the exporter.
#[derive(Debug)]
pub(crate) struct Tracer {
    share: f64,
    queue: mpsc::Sender<Finished>,
    pub(crate) counts: Arc<Counts>,
}

impl Tracer {
    /// The tracer, and what it hands its exchanges to.
    pub(crate) fn new(settings: &TraceSettings) -> (Self, mpsc::Receiver<Finished>) {
        let (queue, finished) = mpsc::channel(settings.queue);
        let tracer = Self {
            share: settings.sample,
            queue,
            counts: Arc::default(),
        };
        (tracer, finished)
    }

    /// The trace that a request belongs to; the backend will see it in the head.
    pub(crate) fn begin(&self, head: &mut RequestHead, trusted: bool) -> Box<Context> {
        let mut random = [0; 32];
        if let Err(error) = getrandom::fill(&mut random) {
            tracing::debug!(%error, "no randomness for a trace");
        }
        let mut given = head.fields.named("traceparent");
        let parent = given.next().and_then(Parent::parse);
        // Two of them are none (§3.2).
        let parent = parent.filter(|_| given.next().is_none());
        drop(given);
        let context = Context::new(parent, trusted, self.share, random);
        if parent.is_none() {
            head.fields.remove("tracestate");
        }
        head.fields
            .replace("traceparent", context.traceparent().as_bytes());
        Box::new(context)
    }

    /// Tells of an exchange that has ended. What does not fit in the queue is dropped and counted: nobody waits.
    pub(crate) fn finish(&self, finished: Finished) {
        if self.queue.try_send(finished).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn whom_we_trust_decides_and_else_the_share_does() {
        let parent = Parent::parse(GOOD.as_bytes());
        let sampled =
            |parent, trusted, share| Context::new(parent, trusted, share, [7; 32]).sampled;
        assert!(sampled(parent, true, 0.0));
        assert!(!sampled(parent, false, 0.0));
        assert!(sampled(parent, false, 1.0) && sampled(None, false, 1.0));
        assert!(!sampled(None, true, 0.0));
        let context = Context::new(parent, false, 1.0, [7; 32]);
        assert_eq!(
            context.traceparent(),
            "00-0af7651916cd43dd8448eb211c80319c-0707070707070707-01"
        );
        let share = (0..=255_u8)
            .filter(|byte| {
                let mut random = [0; 32];
                random[8] = *byte;
                Context::new(None, false, 0.25, random).sampled
            })
            .count();
        assert_eq!(share, 64);
    }
}
