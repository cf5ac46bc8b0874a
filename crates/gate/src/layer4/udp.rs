//! UDP: datagrams of one client address are a session with one backend, until both are silent. A
//! client's address leads to the same backend whenever it comes back, as long as that is there.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::backend::Backend;
use crate::backends::InFlight;
use crate::driver::buffer::{Buffer, MEDIUM};
use crate::driver::timer::Timer;
use crate::driver::udp::UdpSocket;
use crate::ip_filter;
use crate::reason::Reason;
use crate::record::Record;
use crate::ring::stable_hash;
use crate::service::{Outcome, Service};
use crate::shard::{Listener, Seat, Shard};
use crate::shield;
use crate::snapshot::Snapshot;

/// Once the gate ends, a session that is silent for so long is over.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A backend that refused is left alone for so long, while there is another.
const REFUSED: Duration = Duration::from_secs(5);

/// Opens a listening socket; with `share` others may bind the same address.
///
/// # Errors
/// What the kernel says.
pub(crate) fn bind(address: SocketAddr, share: bool) -> io::Result<std::net::UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// One client's session.
#[derive(Debug)]
struct Session {
    socket: UdpSocket,
    backend: Arc<Backend>,
    last: Cell<Instant>,
    received: Cell<u64>,
    sent: Cell<u64>,
}

/// A listener on one thread.
#[derive(Debug)]
struct Desk {
    shard: Rc<Shard>,
    listener: Arc<Listener>,
    socket: UdpSocket,
    sessions: RefCell<HashMap<SocketAddr, Rc<Session>>>,
    refused: RefCell<HashMap<u64, Instant>>,
}

/// Receives datagrams until the listener is closed and its sessions are over.
pub(crate) async fn serve(shard: Rc<Shard>, socket: UdpSocket, listener: Arc<Listener>) {
    let desk = Rc::new(Desk {
        shard,
        listener,
        socket,
        sessions: RefCell::default(),
        refused: RefCell::default(),
    });
    loop {
        let mut buffer = None;
        let received = poll_fn(|context| {
            let closed = desk.listener.closed.load(Ordering::Relaxed);
            // Another process may read from the same socket by now: what is left is for it.
            let over = desk.shard.shared.leaving.load(Ordering::Relaxed)
                || desk.sessions.borrow().is_empty();
            if closed && over {
                return Poll::Ready(None);
            }
            let buffer = buffer.get_or_insert_with(|| Buffer::new(&desk.shard.core, MEDIUM));
            desk.socket.poll_receive(context, buffer.spare()).map(Some)
        })
        .await;
        match (received, buffer) {
            (None, _) => return,
            (Some(Ok((count, client))), Some(mut buffer)) => {
                buffer.fill(count);
                desk.pass(client, buffer.filled());
            }
            (Some(Err(error)), _) => {
                // Such as a client's refusal of an answer: nothing to be done for it here.
                tracing::debug!(%error, listener = desk.listener.name, "receive");
            }
            (Some(Ok(_)), None) => {}
        }
    }
}

impl Desk {
    fn pass(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        let known = self.sessions.borrow().get(&client).map(Rc::clone);
        let session = match known {
            Some(session) => session,
            None if self.listener.closed.load(Ordering::Relaxed) => return,
            None => match self.open(client) {
                Some(session) => session,
                None => return,
            },
        };
        session.last.set(self.shard.core.now());
        match session.socket.send(datagram) {
            Ok(_) => session
                .received
                .set(session.received.get() + datagram.len() as u64),
            // What a refusal means is found where the session reads.
            Err(error) => tracing::debug!(%error, backend = session.backend.name, "send"),
        }
    }

    /// Whether a client without a session may have one.
    fn admit(&self, client: SocketAddr, snapshot: &Snapshot) -> Result<Seat, Reason> {
        let (shard, listener) = (&self.shard, &self.listener.name);
        if ip_filter::closes_at_accept(shard, snapshot, listener, client.ip()) {
            return Err(Reason::IpClosed);
        }
        if shield::closes_at_accept(shard, snapshot, listener, client.ip()) {
            return Err(Reason::BannedClosed);
        }
        Seat::take(&self.listener, client.ip(), snapshot)
    }

    /// A session for `client`; `None` once it is counted why there is none.
    fn open(self: &Rc<Self>, client: SocketAddr) -> Option<Rc<Session>> {
        let shard = &self.shard;
        let now = shard.core.now();
        let snapshot = shard.snapshot();
        let line = snapshot.line(&self.listener.name).ok_or(Reason::NoRoute);
        let admitted = line.and_then(|line| Ok((line, self.admit(client, &snapshot)?)));
        let (line, seat) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                shard.turn_away(&self.listener.name, client.ip(), reason);
                return None;
            }
        };
        shard.stats.accepted.add(1);
        line.route.count(shard.index);
        let mut record = Record::new(now, client);
        record.client = Some(client.ip().to_canonical());
        record.route = Some(line.settings.name.clone());
        record.service = Some(line.settings.service.clone());
        record.tunnel = true;
        let opened = self.reach(line.service(), client.ip(), &mut record);
        let (session, flight) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                record.finish(shard, &self.listener.name, None, reason);
                return None;
            }
        };
        let session = Rc::new(session);
        self.sessions
            .borrow_mut()
            .insert(client, Rc::clone(&session));
        let held = (record, seat, flight);
        let answers = answers(
            Rc::clone(self),
            client,
            Rc::clone(&session),
            line.idle,
            held,
        );
        shard.core.spawn(answers);
        Some(session)
    }

    fn reach(
        &self,
        service: &Arc<Service>,
        client: IpAddr,
        record: &mut Record,
    ) -> Result<(Session, InFlight), Reason> {
        let now = self.shard.core.now();
        let mut refused = self.refused.borrow_mut();
        refused.retain(|_, since| now.saturating_duration_since(*since) < REFUSED);
        let avoided: Vec<u64> = refused.keys().copied().collect();
        let set = service.set.load_full();
        let usable = |backend: &&Arc<Backend>| service.may_use(backend, &avoided);
        // Where none is good, one that is not known to be bad yet, then any.
        let backend = nearest(set.up().iter().filter(usable), client)
            .or_else(|| nearest(set.up().iter().filter(|b| service.may_use(b, &[])), client))
            .ok_or(Reason::NoBackend)?;
        record.attempts = 1;
        record.backend = Some(Arc::clone(backend));
        let flight = InFlight::take(backend, service).ok_or(Reason::QueueFull)?;
        let socket = UdpSocket::connect(&self.shard.core, backend.address).map_err(|error| {
            tracing::warn!(%error, backend = backend.name, "a session can't be opened");
            service.observe(backend, Outcome::Failed, now);
            Reason::ConnectFailed
        })?;
        record.connected = Some(now);
        let session = Session {
            socket,
            backend: Arc::clone(backend),
            last: Cell::new(now),
            received: Cell::new(0),
            sent: Cell::new(0),
        };
        Ok((session, flight))
    }
}

/// The backend that a client's address belongs to (rendezvous hashing): the same as long as it is
/// among them, whoever else comes or goes; each as often as its weight says.
fn nearest<'a>(
    backends: impl Iterator<Item = &'a Arc<Backend>>,
    client: IpAddr,
) -> Option<&'a Arc<Backend>> {
    let client = client.to_canonical().to_string();
    let score = |backend: &Backend| {
        let hash = stable_hash(format!("{client} {}", backend.name).as_bytes());
        // In (0, 1), from the upper 32 bits.
        let unit = (f64::from(u32::try_from(hash >> 32).unwrap_or(0)) + 0.5) / 4_294_967_296.0;
        -f64::from(backend.weight()) / unit.ln()
    };
    backends.max_by(|left, right| score(left).total_cmp(&score(right)))
}

/// Passes the backend's datagrams to the client until both sides are silent for `idle`.
async fn answers(
    desk: Rc<Desk>,
    client: SocketAddr,
    session: Rc<Session>,
    idle: Duration,
    (record, seat, flight): (Record, Seat, InFlight),
) {
    let shard = &desk.shard;
    let timer = Timer::new(&shard.core);
    shard.stats.tunnels.add(1);
    let reason = loop {
        match next(&desk, client, &session, &timer, idle).await {
            Some(Ok(())) => session.last.set(shard.core.now()),
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let now = shard.core.now();
                let failed = flight.0.id;
                desk.refused.borrow_mut().insert(failed, now);
                if let Some(line) = shard.snapshot().line(&desk.listener.name) {
                    line.service().observe(&flight.0, Outcome::Failed, now);
                }
                break Reason::ConnectFailed;
            }
            Some(Err(error)) => {
                tracing::debug!(%error, backend = flight.0.name, "receive");
                break Reason::BackendClosed;
            }
            None if shard.draining() => break Reason::Draining,
            None => break Reason::TunnelIdle,
        }
    };
    shard.stats.tunnels.take(1);
    desk.sessions.borrow_mut().remove(&client);
    record.received.set(session.received.get());
    record.sent.set(session.sent.get());
    record.finish(shard, &desk.listener.name, None, reason);
    drop((seat, flight));
    if desk.listener.closed.load(Ordering::Relaxed) {
        // The listener waits for its last session.
        shard.core.wake_all();
    }
}

/// Passes one datagram on; `None` after the silence that ends the session.
async fn next(
    desk: &Desk,
    client: SocketAddr,
    session: &Session,
    timer: &Timer,
    idle: Duration,
) -> Option<io::Result<()>> {
    let core = &desk.shard.core;
    // One buffer for each turn of the loop, not for each session that waits.
    poll_fn(|context| {
        let mut buffer = Buffer::new(core, MEDIUM);
        if let Poll::Ready(read) = session.socket.poll_read(context, buffer.spare()) {
            return Poll::Ready(Some(read.map(|count| {
                buffer.fill(count);
                match desk.socket.send_to(buffer.filled(), client) {
                    Ok(_) => session.sent.set(session.sent.get() + count as u64),
                    Err(error) => tracing::debug!(%error, %client, "send"),
                }
            })));
        }
        let limit = if desk.shard.draining() {
            idle.min(LAST_WORDS)
        } else {
            idle
        };
        let end = session.last.get() + limit;
        if core.now() >= end {
            return Poll::Ready(None);
        }
        timer.set_at(end);
        if timer.poll_expired(context).is_ready() {
            // Rounded: the next look decides.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(weights: &[u32]) -> Vec<Arc<Backend>> {
        (1..)
            .zip(weights)
            .map(|(port, weight)| Arc::new(Backend::new(([127, 0, 0, 1], port).into(), *weight)))
            .collect()
    }

    fn clients() -> impl Iterator<Item = IpAddr> {
        (0..4_000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()))
    }

    #[test]
    fn a_client_stays_with_its_backend_when_others_come_and_go() {
        let all = backends(&[1, 1, 1, 1]);
        let fewer: Vec<_> = all.iter().skip(1).map(Arc::clone).collect();
        let mut moved = 0;
        for client in clients() {
            let before = nearest(all.iter(), client).unwrap();
            let after = nearest(fewer.iter(), client).unwrap();
            if before.id == all[0].id {
                moved += 1;
            } else {
                assert_eq!(before.id, after.id);
            }
        }
        assert!((800..1_200).contains(&moved), "{moved}");
        assert!(nearest([].iter(), [10, 0, 0, 1].into()).is_none());
    }

    #[test]
    fn shares_follow_the_weights() {
        let all = backends(&[3, 1]);
        let first = clients()
            .filter(|client| nearest(all.iter(), *client).unwrap().id == all[0].id)
            .count();
        assert!((2_800..3_200).contains(&first), "{first}");
    }
}
