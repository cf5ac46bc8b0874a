//! Choose backend, and reach it: a connection that was kept, or a new one; another backend when
//! that fails.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::backends::{Backend, InFlight, Set};
use crate::decide::{self, Routed, Wanted};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::http2::backend::{self, Lease};
use crate::pipeline::Stop;
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::settings::Protocol;
use crate::shard::Shard;
use crate::snapshot::Snapshot;

/// How a backend is spoken to.
#[derive(Debug)]
pub(crate) enum Link {
    /// A connection for one request at a time.
    Http1(TcpStream),
    /// A place on a connection that many requests share.
    Http2(Lease),
}

/// A connection to the chosen backend.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) link: Link,
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
            if let Some(link) = self.kept(&backend) {
                return Ok(Upstream {
                    link,
                    flight,
                    reused: true,
                });
            }
            match self.open(timer, &backend).await {
                Ok(link) => {
                    record.connected = Some(self.shard.core.now());
                    return Ok(Upstream {
                        link,
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

    fn kept(&self, backend: &Backend) -> Option<Link> {
        if self.speaks_http2() {
            return self.shard.http2.take(backend.id).map(Link::Http2);
        }
        if self.fresh {
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
        self.shard.pool.take(backend.id, age).map(Link::Http1)
    }

    fn speaks_http2(&self) -> bool {
        self.routed.route.service.settings.protocol == Protocol::Http2
    }

    async fn open(&self, timer: &Timer, backend: &Backend) -> Result<Link, Rejection> {
        if self.speaks_http2() {
            return Box::pin(backend::lease(self, timer, backend))
                .await
                .map(Link::Http2);
        }
        self.connect(timer, backend).await.map(Link::Http1)
    }

    /// A new connection, within `timeout.connect`.
    ///
    /// # Errors
    /// When it does not stand.
    pub(crate) async fn connect(
        &self,
        timer: &Timer,
        backend: &Backend,
    ) -> Result<TcpStream, Rejection> {
        timer.set(self.routed.settings.timeout.connect);
        let mut connecting = pin!(TcpStream::connect(&self.shard.core, backend.address));
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
                Err(Rejection::new(
                    Reason::ConnectFailed,
                    format!("a backend of service {service} can't be reached"),
                ))
            }
            None => Err(Rejection::new(
                Reason::ConnectTimeout,
                format!("a backend of service {service} did not answer in time"),
            )),
        }
    }
}
