//! Choose backend, and reach it: a connection that was kept, or a new one; another backend when
//! that fails.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::backends::{Backend, InFlight, Set};
use crate::decide::{self, Routed, Wanted};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::driver::tls::HandshakeError;
use crate::pipeline::Stop;
use crate::proxy_protocol;
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::tls::Way;

/// A connection to the chosen backend.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    pub(crate) flight: InFlight,
    /// It served a request before.
    pub(crate) reused: bool,
}

/// The search for a backend that takes the request.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    pub(crate) shard: &'a Shard,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) routed: &'a Routed<'a>,
    pub(crate) set: &'a Set,
    pub(crate) wanted: &'a Wanted,
    /// Kept connections are out of question.
    pub(crate) fresh: bool,
    /// The request may be sent again.
    pub(crate) repeatable: bool,
}

impl Search<'_> {
    /// Choose backend: a kept connection, or a new one; another backend when that fails.
    ///
    /// # Errors
    /// A rejection with the cause of the last try.
    pub(crate) async fn reach(&self, timer: &Timer, record: &mut Record) -> Result<Upstream, Stop> {
        let mut tried = Vec::new();
        loop {
            let service = &self.routed.route.service;
            let backend = decide::backend(service, self.set, self.wanted, &tried)?;
            record.attempts += 1;
            record.backend = Some(Arc::clone(&backend));
            let flight = InFlight::new(&backend);
            if let Some(stream) = self.kept(&backend) {
                return Ok(Upstream {
                    stream,
                    flight,
                    reused: true,
                });
            }
            match self.connect(timer, &backend, record).await {
                Ok(stream) => {
                    record.connected = Some(self.shard.core.now());
                    return Ok(Upstream {
                        stream,
                        flight,
                        reused: false,
                    });
                }
                Err(rejection) => {
                    tried.push(backend.id);
                    if tried.len() >= self.routed.settings.attempts as usize {
                        return Err(rejection.into());
                    }
                    backend.failures.fetch_add(1, Ordering::Relaxed);
                    self.shard.stats.retries.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn kept(&self, backend: &Backend) -> Option<TcpStream> {
        let service = &self.routed.route.service.settings;
        if self.fresh || service.proxy_protocol.is_some() {
            return None;
        }
        // A request that can't be sent twice takes only a connection that was just in use: its
        // backend has hardly closed it meanwhile.
        let limit = self.snapshot.settings.limits.backend_idle;
        let age = if self.repeatable {
            limit
        } else {
            limit.min(Duration::from_secs(1))
        };
        let way = self.way().map_or(0, |way| way.id);
        self.shard.pool.take(backend.id, way, age)
    }

    /// How backends are called; `None` without TLS.
    fn way(&self) -> Option<&Way> {
        let service = &self.routed.route.service;
        service.settings.tls.as_ref()?;
        self.snapshot.credentials.service(&service.name)
    }

    async fn connect(
        &self,
        timer: &Timer,
        backend: &Backend,
        record: &Record,
    ) -> Result<TcpStream, Rejection> {
        timer.set(self.routed.settings.timeout.connect);
        let plain = self.routed.route.service.settings.proxy_protocol.is_none()
            && self.routed.route.service.settings.tls.is_none();
        let mut connecting = pin!(async {
            let stream = TcpStream::connect(&self.shard.core, backend.address)
                .await
                .map_err(ReachError::Connect)?;
            if plain {
                return Ok(stream);
            }
            // What is rare is boxed.
            Box::pin(self.introduce(stream, backend, record)).await
        });
        let outcome = poll_fn(|context: &mut Context<'_>| {
            if let Poll::Ready(result) = connecting.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            timer.poll_expired(context).map(|()| None)
        })
        .await;
        let service = &self.routed.settings.service;
        match outcome {
            Some(Ok(stream)) => {
                let connections = &self.shard.stats.backend_connections;
                connections.fetch_add(1, Ordering::Relaxed);
                Ok(stream)
            }
            Some(Err(error)) => {
                tracing::debug!(%error, backend = backend.name, service, "connect failed");
                let (reason, what) = error.told();
                let detail = format!("a backend of service {service} {what}");
                Err(Rejection::new(reason, detail))
            }
            None => Err(Rejection::new(
                Reason::ConnectTimeout,
                format!("a backend of service {service} did not answer in time"),
            )),
        }
    }

    /// What a new connection says before its first request: whom it comes from, then TLS.
    async fn introduce(
        &self,
        stream: TcpStream,
        backend: &Backend,
        record: &Record,
    ) -> Result<TcpStream, ReachError> {
        let mut stream = stream;
        if let Some(version) = self.routed.route.service.settings.proxy_protocol {
            let called = record.called.unwrap_or(backend.address);
            let header = proxy_protocol::write(version, record.peer, called);
            let mut left = header.as_slice();
            while !left.is_empty() {
                let written = poll_fn(|context| stream.poll_write(context, &[IoSlice::new(left)]));
                let count = written.await.map_err(ReachError::Connect)?;
                left = left.get(count..).unwrap_or_default();
            }
        }
        let Some(way) = self.way() else {
            return Ok(stream);
        };
        let handshakes = &self.shard.stats.backend_handshakes;
        let name = way.tls.name(backend.address.ip());
        let begun = stream.begin_tls(way.tls.config(), name, way.id);
        let shaken = match begun {
            Ok(()) => poll_fn(|context| stream.poll_handshake(context)).await,
            Err(error) => Err(HandshakeError::Refused(error)),
        };
        match (shaken, stream.agreed()) {
            (Ok(()), Some(agreed)) => handshakes.succeeded(agreed),
            (Ok(()), None) => {}
            (Err(error), _) => {
                handshakes.failed();
                return Err(ReachError::Handshake(error));
            }
        }
        Ok(stream)
    }
}

/// Why a new connection to a backend did not come to stand.
#[derive(Debug, thiserror::Error)]
enum ReachError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("TLS: {0:?}")]
    Handshake(HandshakeError),
}

impl ReachError {
    /// The cause, and what the client is told of the backend.
    fn told(&self) -> (Reason, &'static str) {
        match self {
            Self::Connect(_) => (Reason::ConnectFailed, "can't be reached"),
            Self::Handshake(HandshakeError::Refused(rustls::Error::InvalidCertificate(_))) => (
                Reason::BackendCertificate,
                "showed a certificate that is not believed",
            ),
            Self::Handshake(_) => (Reason::BackendTlsFailed, "does not speak TLS as it should"),
        }
    }
}
