//! Arrival: what a connection says before its first request. Whom it comes from (the PROXY
//! header; the IP filter judges whom a trusted peer names), then how it is sealed (TLS); each by the settings of its listener, both within
//! `limits.handshake`.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::connection::{self, Connection};
use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::tls::HandshakeError;
use crate::ip_filter;
use crate::pipeline;
use crate::proxy_protocol::{self, BadHeader, HEADER_MAX, Version};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::relay::{self, Patience};
use crate::settings::{Protocol, ProxyMode};
use crate::shard::{Listener, Shard};
use crate::shield;
use crate::tls::Door;
use crate::ws::handshake::{self, Fault};

/// True when the listener of a connection asks for more than its requests.
pub(crate) fn has_door(shard: &Shard, listener: &Listener) -> bool {
    let snapshot = shard.snapshot();
    snapshot.credentials.door(&listener.name).is_some()
}

/// Passes a new connection through the door of its listener; false when it ends here.
pub(crate) async fn arrive(shard: &Rc<Shard>, connection: &mut Connection) -> bool {
    let snapshot = shard.snapshot();
    let Some(door) = snapshot.credentials.door(&connection.listener().name) else {
        return true;
    };
    connection.timer.set(snapshot.settings.limits.handshake);
    let passed = async {
        if door.proxy != ProxyMode::Off {
            let speaker = connection.peer.ip();
            read_proxy_header(connection, door.proxy, |peer| snapshot.trusts(peer)).await?;
            let (listener, client) = (&connection.listener().name, connection.peer.ip());
            if snapshot.trusts(speaker)
                && ip_filter::closes_named(shard, &snapshot, listener, client)
            {
                return Err(Reason::IpClosed);
            }
            if shield::closes_named(shard, &snapshot, listener, client) {
                return Err(Reason::BannedClosed);
            }
        }
        if door.tls.is_some() {
            shake_hands(shard, connection, door).await?;
        }
        Ok(())
    };
    let outcome: Result<(), Reason> = passed.await;
    let Err(reason) = outcome else {
        return true;
    };
    if matches!(reason, Reason::PlainOnTls | Reason::WsPlainOnTls) {
        answer_plain(shard, connection, reason).await;
    } else {
        let client = connection.peer.ip();
        shard.turn_away(&connection.listener().name, client, reason);
        if matches!(reason, Reason::IpClosed | Reason::BannedClosed) {
            return false;
        }
        connection.leftover = None;
        connection::linger(&connection.stream, &connection.timer).await;
    }
    false
}

/// Reads the PROXY header, and believes it when the peer is trusted.
async fn read_proxy_header(
    connection: &mut Connection,
    mode: ProxyMode,
    trusts: impl Fn(std::net::IpAddr) -> bool,
) -> Result<(), Reason> {
    let stream = &connection.stream;
    let mut buffer = Buffer::new(stream.core(), SMALL);
    let mut seen = 0;
    let header = loop {
        let peeked = poll_fn(|context: &mut Context<'_>| {
            let room = buffer.spare().get_mut(..HEADER_MAX).unwrap_or_default();
            if let Poll::Ready(result) = stream.poll_peek(context, seen, room) {
                return Poll::Ready(Ok(result));
            }
            let expired = connection.timer.poll_expired(context);
            expired.map(|()| Err(Reason::ProxyHeaderTimeout))
        })
        .await?;
        seen = match peeked {
            Ok(count) if count > 0 => count,
            Ok(_) if seen > 0 => return Err(Reason::ProxyHeaderBad),
            Ok(_) | Err(_) => return Err(Reason::ClientGone),
        };
        let bytes = buffer.spare().get(..seen).unwrap_or_default();
        match proxy_protocol::read(bytes).and_then(|header| match header {
            Some(header) if !mode.takes(header.version) => Err(BadHeader::OtherVersion),
            header => Ok(header),
        }) {
            Ok(Some(header)) => break header,
            Ok(None) if seen < HEADER_MAX => {}
            Ok(None) => return Err(refuse(connection, BadHeader::TooLong)),
            Err(error) => return Err(refuse(connection, error)),
        }
    };
    stream
        .skip_peeked(header.length)
        .map_err(|_| Reason::ClientGone)?;
    if let Some(source) = header.source
        && trusts(connection.peer.ip())
    {
        connection.peer = source;
    }
    Ok(())
}

fn refuse(connection: &Connection, error: BadHeader) -> Reason {
    let (peer, listener) = (connection.peer, &connection.listener().name);
    tracing::debug!(%peer, listener, %error, "connection refused");
    match error {
        BadHeader::Missing => Reason::ProxyHeaderMissing,
        BadHeader::OtherVersion | BadHeader::Malformed | BadHeader::TooLong => {
            Reason::ProxyHeaderBad
        }
    }
}

impl ProxyMode {
    fn takes(self, version: Version) -> bool {
        match self {
            Self::Off => false,
            Self::V1 => version == Version::V1,
            Self::V2 => version == Version::V2,
            Self::Any => true,
        }
    }
}

async fn shake_hands(
    shard: &Rc<Shard>,
    connection: &mut Connection,
    door: &Door,
) -> Result<(), Reason> {
    let Some(tls) = &door.tls else {
        return Ok(());
    };
    let listener = connection.listener().name.clone();
    if let Err(error) = connection.stream.expect_tls(tls.config()) {
        tracing::error!(%error, listener, "TLS can't be served");
        return Err(Reason::HandshakeFailed);
    }
    let (stream, timer) = (&connection.stream, &connection.timer);
    let outcome = poll_fn(|context: &mut Context<'_>| {
        if let Poll::Ready(outcome) = stream.poll_handshake(context) {
            return Poll::Ready(Some(outcome));
        }
        timer.poll_expired(context).map(|()| None)
    })
    .await;
    let handshakes = &shard.stats.client_handshakes;
    let reason = match outcome {
        Some(Ok(())) => {
            if let Some(agreed) = stream.agreed() {
                handshakes.succeeded(agreed);
            }
            return Ok(());
        }
        // A look whether someone listens is no handshake.
        Some(Err(HandshakeError::Gone)) => Reason::ClientGone,
        None => Reason::HandshakeTimeout,
        Some(Err(HandshakeError::NotTls(said))) if handshake::is_plain(&said) => {
            Reason::WsPlainOnTls
        }
        Some(Err(HandshakeError::NotTls(said)))
            if said.first().is_some_and(u8::is_ascii_alphabetic) =>
        {
            Reason::PlainOnTls
        }
        Some(Err(HandshakeError::NotTls(_))) => Reason::HandshakeFailed,
        Some(Err(HandshakeError::Refused(error))) => {
            let peer = connection.peer;
            tracing::debug!(%peer, listener, %error, "TLS handshake failed");
            refusal(&error)
        }
    };
    if reason != Reason::ClientGone {
        handshakes.failed();
    }
    // What is left to be read is no TLS, or none that could be opened.
    connection.stream.give_up_tls();
    Err(reason)
}

fn refusal(error: &rustls::Error) -> Reason {
    match error {
        rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_) => {
            Reason::ClientCertificate
        }
        _ => Reason::HandshakeFailed,
    }
}

/// Plain HTTP where TLS is spoken: said in plain HTTP, as far as the client takes it at once.
async fn answer_plain(shard: &Shard, connection: &Connection, reason: Reason) {
    let mut record = Record::new(shard.core.now(), connection.peer);
    record.protocol = Some(Protocol::Http1);
    let rejection = if reason == Reason::WsPlainOnTls {
        let fault = Fault::PlainOnTls;
        record.note(fault);
        let rejection = Rejection::new(reason, fault.said());
        rejection.hint(fault.hint()).fault(fault)
    } else {
        Rejection::new(
            reason,
            "this port speaks HTTPS, and was asked in plain HTTP",
        )
        .hint("use https:// in the address")
    };
    let bytes = shard.with_date(|date| pipeline::rejection_bytes(&rejection, date, true));
    let mut patience = Patience::Idle(Duration::from_secs(1));
    let parts = [bytes.as_slice(), &[], &[]];
    let written = relay::write_all(&connection.stream, parts, &mut patience, &connection.timer);
    if written.await.is_ok() {
        record.status.set(rejection.reason.status());
        record.sent.set(bytes.len() as u64);
    }
    record.finish(shard, &connection.listener().name, None, reason);
    connection::linger(&connection.stream, &connection.timer).await;
}
