//! The connections that are open, for operators who ask. Each thread knows its own; nothing of it is looked at but on
//! demand.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use slab::Slab;

use crate::backends::Backend;
use crate::shard::Listener;
use crate::ws::Side;

/// The open connections of one thread.
#[derive(Debug, Default)]
pub(crate) struct Live(RefCell<Slab<Entry>>);

#[derive(Debug)]
struct Entry {
    peer: SocketAddr,
    listener: Arc<Listener>,
    since: Instant,
    /// Of the last request's begin.
    last: Instant,
    requests: u32,
    tunnel: Option<Rc<Tunnel>>,
}

/// What both directions of a tunnel count.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) route: Box<str>,
    pub(crate) service: Box<str>,
    pub(crate) backend: Arc<Backend>,
    /// Bytes from the client.
    pub(crate) received: Cell<u64>,
    /// Bytes to the client.
    pub(crate) sent: Cell<u64>,
    pub(crate) since: Instant,
    /// When something of the client passed last, and of the backend: microseconds since then.
    heard: [Cell<u64>; 2],
    /// Who sent the first close frame.
    pub(crate) closer: Cell<Option<Side>>,
}

impl Tunnel {
    pub(crate) fn new(
        (route, service): (&str, &str),
        backend: &Arc<Backend>,
        now: Instant,
    ) -> Self {
        Self {
            route: route.into(),
            service: service.into(),
            backend: Arc::clone(backend),
            received: Cell::new(0),
            sent: Cell::new(0),
            since: now,
            heard: [Cell::new(0), Cell::new(0)],
            closer: Cell::new(None),
        }
    }

    /// Something of `side` passed.
    pub(crate) fn hear(&self, side: Side, now: Instant) {
        let [client, backend] = &self.heard;
        let heard = match side {
            Side::Client => client,
            Side::Backend => backend,
        };
        let micros = now.saturating_duration_since(self.since).as_micros();
        // Rounded up: a limit of silence is never cut short.
        heard.set(u64::try_from(micros).unwrap_or(u64::MAX).saturating_add(1));
    }

    /// When something of `side` passed last; at its begin, if nothing did.
    pub(crate) fn heard(&self, side: Side) -> Instant {
        let [client, backend] = &self.heard;
        let heard = match side {
            Side::Client => client,
            Side::Backend => backend,
        };
        self.since + Duration::from_micros(heard.get())
    }

    /// When something passed last, either way.
    pub(crate) fn last(&self) -> Instant {
        self.heard(Side::Client).max(self.heard(Side::Backend))
    }
}

/// Lists a connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct Listed {
    live: Rc<Live>,
    key: usize,
}

impl Listed {
    pub(crate) fn new(
        live: &Rc<Live>,
        listener: &Arc<Listener>,
        peer: SocketAddr,
        now: Instant,
    ) -> Self {
        let key = live.0.borrow_mut().insert(Entry {
            peer,
            listener: Arc::clone(listener),
            since: now,
            last: now,
            requests: 0,
            tunnel: None,
        });
        Self {
            live: Rc::clone(live),
            key,
        }
    }

    fn with(&self, act: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.live.0.borrow_mut().get_mut(self.key) {
            act(entry);
        }
    }

    /// A request begins.
    pub(crate) fn request(&self, now: Instant) {
        self.with(|entry| {
            entry.last = now;
            entry.requests = entry.requests.saturating_add(1);
        });
    }

    /// The connection is a tunnel from now on.
    pub(crate) fn tunnel(&self, tunnel: &Rc<Tunnel>) {
        self.with(|entry| entry.tunnel = Some(Rc::clone(tunnel)));
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let gone = self.live.0.borrow_mut().try_remove(self.key);
        drop(gone);
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Rows at the most.
    pub(crate) limit: usize,
    /// Only tunnels.
    pub(crate) tunnels: bool,
}

/// One connection, as operators see it. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) listener: String,
    pub(crate) peer: String,
    pub(crate) age: f64,
    pub(crate) silent_for: f64,
    pub(crate) requests: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tunnel: Option<TunnelRow>,
}

/// What a tunnel is and has moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TunnelRow {
    pub(crate) route: String,
    pub(crate) service: String,
    pub(crate) backend: String,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

impl Live {
    /// The oldest connections first, and how many there are in all.
    pub(crate) fn list(&self, wanted: Wanted, now: Instant) -> (Vec<Row>, usize) {
        let entries = self.0.borrow();
        let mut some: Vec<&Entry> = entries
            .iter()
            .map(|(_, entry)| entry)
            .filter(|entry| !wanted.tunnels || entry.tunnel.is_some())
            .collect();
        let total = some.len();
        if let Some(last) = wanted.limit.checked_sub(1)
            && total > wanted.limit
        {
            some.select_nth_unstable_by_key(last, |entry| entry.since);
        }
        some.truncate(wanted.limit);
        some.sort_by_key(|entry| entry.since);
        (
            some.into_iter().map(|entry| entry.row(now)).collect(),
            total,
        )
    }
}

impl Entry {
    fn row(&self, now: Instant) -> Row {
        let since = |then: Instant| seconds(now.saturating_duration_since(then));
        let last = self
            .tunnel
            .as_ref()
            .map_or(self.last, |tunnel| tunnel.last());
        Row {
            listener: self.listener.name.clone(),
            peer: self.peer.to_string(),
            age: since(self.since),
            silent_for: since(last),
            requests: self.requests,
            tunnel: self.tunnel.as_ref().map(|tunnel| TunnelRow {
                route: tunnel.route.to_string(),
                service: tunnel.service.to_string(),
                backend: tunnel.backend.name.clone(),
                bytes_received: tunnel.received.get(),
                bytes_sent: tunnel.sent.get(),
            }),
        }
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ListenerSettings;

    #[test]
    fn the_oldest_come_first_and_the_answer_is_bounded() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let listener = Arc::new(Listener::new(
            &ListenerSettings::new("web", address),
            address,
        ));
        let live = Rc::new(Live::default());
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let listed: Vec<Listed> = [5, 1, 3, 2, 4]
            .into_iter()
            .map(|second| Listed::new(&live, &listener, address, at(second)))
            .collect();
        listed[1].request(at(6));
        let wanted = Wanted {
            limit: 2,
            tunnels: false,
        };
        let (rows, total) = live.list(wanted, at(10));
        assert_eq!(total, 5);
        let times: Vec<_> = rows.iter().map(|row| (row.age, row.silent_for)).collect();
        assert_eq!(times, [(9.0, 4.0), (8.0, 8.0)]);
        let tunnels = Wanted {
            tunnels: true,
            ..wanted
        };
        assert_eq!(live.list(tunnels, at(10)).1, 0);
        drop(listed);
        assert_eq!(live.list(wanted, at(10)), (Vec::new(), 0));
    }
}
