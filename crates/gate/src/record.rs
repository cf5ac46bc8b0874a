//! What is known of one exchange: filled on the way, counted and logged at its end.

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use munjigi_foundation::telemetry::redact_target;

use crate::backends::Backend;
use crate::driver::tls::Agreed;
use crate::http1::fields::Name;
use crate::http1::head::RequestHead;
use crate::reason::Reason;
use crate::refusals::Refusal;
use crate::service::Outcome;
use crate::settings::{Protocol, RouteSettings};
use crate::shard::Shard;
use crate::shield::{self, Trail};
use crate::snapshot::Snapshot;
use crate::target::text;
use crate::tls::figures::{suite_name, version_name};
use crate::trace::{Context, Finished, to_hex};
use crate::ws::doctor::Closing;
use crate::ws::handshake::Fault;

/// The story of one exchange.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) started: Instant,
    pub(crate) peer: SocketAddr,
    pub(crate) client: Option<IpAddr>,
    pub(crate) route: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) backend: Option<Arc<Backend>>,
    pub(crate) attempts: u32,
    pub(crate) head_read: Option<Instant>,
    pub(crate) connected: Option<Instant>,
    pub(crate) responded: Cell<Option<Instant>>,
    /// What the backend's answer says about it.
    pub(crate) outcome: Cell<Outcome>,
    /// 0 until a response head was sent.
    pub(crate) status: Cell<u16>,
    pub(crate) received: Cell<u64>,
    pub(crate) sent: Cell<u64>,
    pub(crate) tunnel: bool,
    /// By what it came; nothing of HTTP at layer 4.
    pub(crate) protocol: Option<Protocol>,
    /// The place of the route in the file.
    pub(crate) place: Option<usize>,
    /// The hub said that a sign-in failed: what a shield counts against the client.
    pub(crate) sign_in_failed: Cell<bool>,
    /// Whether the shield still has to judge it.
    pub(crate) trail: Cell<Trail>,
    /// What the client's connection is sealed with; kept for the log alone.
    pub(crate) tls: Option<Agreed>,
    /// The address that the client called, for the PROXY header to a backend.
    pub(crate) called: Option<SocketAddr>,
    pub(crate) trace: Option<Box<Context>>,
    /// What is wrong with the handshake of a WebSocket: the first fault that was found.
    fault: Cell<Option<Fault>>,
    /// How the tunnel ended.
    pub(crate) closing: OnceCell<Box<Closing>>,
}

impl Record {
    pub(crate) fn new(started: Instant, peer: SocketAddr) -> Self {
        Self {
            started,
            peer,
            client: None,
            route: None,
            service: None,
            backend: None,
            attempts: 0,
            head_read: None,
            connected: None,
            responded: Cell::new(None),
            outcome: Cell::new(Outcome::Neutral),
            status: Cell::new(0),
            received: Cell::new(0),
            sent: Cell::new(0),
            tunnel: false,
            protocol: None,
            place: None,
            sign_in_failed: Cell::new(false),
            trail: Cell::default(),
            tls: None,
            called: None,
            trace: None,
            fault: Cell::new(None),
            closing: OnceCell::new(),
        }
    }

    /// Notes what is wrong with the handshake of a WebSocket; what follows from it is not noted.
    pub(crate) fn note(&self, fault: Fault) {
        self.fault.set(self.fault.get().or(Some(fault)));
    }

    /// Keeps the names of the route and its service: for a log, a trace, a refusal.
    pub(crate) fn name_route(&mut self, settings: &RouteSettings) {
        self.route = Some(settings.name.clone());
        self.service = Some(settings.service.clone()).filter(|name| !name.is_empty());
    }

    /// Names the route of a refusal: who looks for it wants to know, also where nothing is logged.
    pub(crate) fn name_refused(&mut self, snapshot: &Snapshot, reason: Reason) {
        if self.route.is_some() || reason.group().is_none() {
            return;
        }
        if let Some(settings) = self.place.and_then(|place| snapshot.table.get(place)) {
            self.name_route(settings);
        }
    }

    /// Finish: the one place that counts and logs.
    pub(crate) fn finish(
        &self,
        shard: &Shard,
        listener: &str,
        head: Option<&RequestHead>,
        reason: Reason,
    ) {
        use std::sync::atomic::Ordering::Relaxed;
        let now = shard.core.now();
        let total = now.saturating_duration_since(self.started);
        shard.stats.exchange(self.status.get(), total);
        shard.stats.reason(reason);
        shard.stats.bytes_received.add(self.received.get());
        shard.stats.bytes_sent.add(self.sent.get());
        if let Some(fault) = self.fault.get() {
            let client = self.client.unwrap_or(self.peer.ip());
            shard.stats.fault(fault);
            shard.shared.doctor.tell(fault, listener, client, now);
        }
        if let Some(closing) = self.closing.get() {
            shard.stats.closing(closing);
            shard.shared.doctor.note(closing, now);
        }
        if reason.group().is_some() {
            self.keep_refusal(shard, listener, head, reason);
        }
        if let (true, Some(head)) = (self.trail.get() != Trail::Over, head) {
            // Nothing was answered, or a tunnel was.
            let outcome = (self.status.get(), reason);
            shield::observe(shard, &shard.snapshot(), head, self, outcome);
        }
        if self.sign_in_failed.get() {
            shard.stats.failed_sign_ins.add(1);
        }
        if let Some(backend) = &self.backend
            && is_backend_failure(reason)
        {
            backend.failures.fetch_add(1, Relaxed);
        }
        if let Some(context) = &self.trace
            && context.sampled
        {
            self.tell(shard, (context, listener), head, reason, total);
        }
        if shard.shared.log.is_on() {
            let mut line = self.line(shard, listener, head, reason, total);
            line.push(b'\n');
            shard.shared.log.send(line);
        }
    }

    /// For operators who ask who was refused.
    fn keep_refusal(
        &self,
        shard: &Shard,
        listener: &str,
        head: Option<&RequestHead>,
        reason: Reason,
    ) {
        let client = self.client.unwrap_or(self.peer.ip());
        let time = shard.shared.clock.now();
        let refusal = Refusal::of_connection(time, listener, client, reason);
        let refusal = refusal.of_request(head, self.route.as_deref(), self.status.get());
        shard.shared.refusals.note(shard.index, reason, refusal);
    }

    /// Tells the collector of traces.
    fn tell(
        &self,
        shard: &Shard,
        (context, listener): (&Context, &str),
        head: Option<&RequestHead>,
        reason: Reason,
        total: Duration,
    ) {
        let Some(tracer) = &shard.shared.tracer else {
            return;
        };
        let after = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(self.started));
        let now = u64::try_from(shard.shared.clock.now().millis()).unwrap_or(0);
        let total_nanos = u64::try_from(total.as_nanos()).unwrap_or(u64::MAX);
        tracer.finish(Finished {
            context: context.clone(),
            began: now.saturating_mul(1_000_000).saturating_sub(total_nanos),
            head_read: after(self.head_read),
            connected: after(self.connected),
            responded: after(self.responded.get()),
            total,
            method: head.map_or_else(String::new, |head| text(head.method()).into_owned()),
            target: head.map_or_else(String::new, |head| {
                redact_target(&text(head.target())).into_owned()
            }),
            host: head
                .and_then(RequestHead::host)
                .map(|host| text(host).into_owned()),
            client: self
                .client
                .unwrap_or(self.peer.ip().to_canonical())
                .to_string(),
            listener: listener.to_owned(),
            route: self.route.clone(),
            service: self.service.clone(),
            backend: self.backend.as_ref().map(|backend| backend.name.clone()),
            attempts: self.attempts,
            status: self.status.get(),
            reason: reason.code(),
            failed: self.status.get() >= 500 || is_backend_failure(reason),
        });
    }

    fn line(
        &self,
        shard: &Shard,
        listener: &str,
        head: Option<&RequestHead>,
        reason: Reason,
        total: Duration,
    ) -> Vec<u8> {
        let since = |at: Option<Instant>| {
            at.map(|at| milliseconds(at.saturating_duration_since(self.started)))
        };
        let client = self.client.unwrap_or(self.peer.ip().to_canonical());
        // Authorization and Cookie are never among the fields; tokens in the target are redacted.
        let line = serde_json::json!({
            "time": shard.shared.clock.now().to_string(),
            "listener": listener,
            "client": client.to_string(),
            "peer": self.peer.to_string(),
            "protocol": self.protocol.map(Protocol::name),
            "tls": self.tls.map(|tls| serde_json::json!({
                "version": version_name(tls.version),
                "cipher": suite_name(tls.suite),
                "resumed": tls.resumed,
            })),
            "method": head.map(|head| text(head.method())),
            "host": head.and_then(RequestHead::host).map(text),
            "target": head.map(|head| redact_target(&text(head.target())).into_owned()),
            "status": self.status.get(),
            "reason": reason.code(),
            "route": self.route,
            "service": self.service,
            "backend": self.backend.as_ref().map(|backend| &backend.name),
            "attempts": self.attempts,
            "tunnel": self.tunnel,
            "handshake": self.fault.get().map(|fault| serde_json::json!({
                "code": fault.code(),
                "reason": fault.word(),
            })),
            "closed": self.closing.get().map(|closing| closing.json()),
            "bytesReceived": self.received.get(),
            "bytesSent": self.sent.get(),
            "ms": {
                "head": since(self.head_read),
                "connected": since(self.connected),
                "response": since(self.responded.get()),
                "total": milliseconds(total),
            },
            "traceId": self.trace.as_ref().map(|context| to_hex(&context.trace)),
            "spanId": self.trace.as_ref().map(|context| to_hex(&context.server)),
            "userAgent": head.and_then(|head| head.fields.first(Name::UserAgent)).map(text),
        });
        line.to_string().into_bytes()
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// Failures that the backend is to blame for.
pub(crate) fn is_backend_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::BackendTlsFailed
            | Reason::BackendCertificate
            | Reason::BackendClosed
            | Reason::BadResponse
            | Reason::BadUpgrade
            | Reason::ResponseCut
            | Reason::ResponseTimeout
            | Reason::BackendIdle
            | Reason::BackendStalled
    )
}
