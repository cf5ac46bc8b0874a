//! TLS inside a connection: rustls without its buffers. Ciphertext lies in the thread's own
//! buffers, borrowed while bytes are on the move, so that an idle connection holds its keys alone;
//! nothing here touches a socket.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    CipherSuite, ClientConfig, CommonState, HandshakeKind, ProtocolVersion, ServerConfig,
};

use super::Core;
use super::buffer::{Buffer, MEDIUM, SMALL};

/// Most data of one record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// Data of a record while the peer's window is still small: one that does not fit in the first
/// round trip can't be read before the second.
const RECORD_EARLY: usize = 4 * 1024;
/// Bytes that go in early records.
const EARLY: usize = 32 * 1024;
/// After so long without a write, the peer's window is small again (RFC 5681 §4.1).
const IDLE: Duration = Duration::from_secs(1);
/// A record is longer than its data by at most this much.
const OVERHEAD: usize = 64;
/// Room for an alert.
const ALERT: usize = 256;
/// The content type of a handshake record (RFC 8446 §5.1): the first byte of every client.
const HANDSHAKE: u8 = 22;

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Why a handshake ended early.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The peer speaks something else; what it said so far.
    NotTls(Vec<u8>),
    /// The connection ended or broke.
    Gone,
    /// The peer's hello can't be served, its certificate is not believed, it breaks the protocol.
    Refused(rustls::Error),
}

/// What a handshake agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) version: ProtocolVersion,
    pub(crate) suite: CipherSuite,
    pub(crate) resumed: bool,
    /// HTTP/2 by ALPN (RFC 7301).
    pub(crate) http2: bool,
}

/// The TLS state of one connection.
pub(crate) struct Session {
    core: Rc<Core>,
    side: Side,
    way: u64,
    /// Ciphertext that was read and not yet opened.
    incoming: Option<Buffer>,
    /// `incoming` may hold a whole record.
    more: bool,
    /// Opened data that its reader had no room for, and how much of it was used since.
    opened: Vec<u8>,
    used: usize,
    /// Ciphertext that is not yet written.
    outgoing: Option<Buffer>,
    /// Data that lies sealed in `outgoing` and that its writer was not yet told of.
    accepted: usize,
    /// Data sent since the connection was idle.
    warm: usize,
    wrote: Instant,
    /// Our side has ended: the socket's follows once `outgoing` is written.
    pub(super) ending: bool,
    ended: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    /// The peer said so: all it sent was read.
    Closed,
    /// The stream ended without a word of the peer: what it sent may be cut.
    Cut,
    Failed(rustls::Error),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Session")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// What is to be done once data may be sent.
#[derive(Clone, Copy)]
enum Want<'a> {
    Nothing,
    Seal(&'a [u8]),
    Goodbye,
}

/// What one step did.
enum Did {
    /// Something that needs another step.
    Moved,
    /// So many bytes of data were opened into the reader's buffer.
    Opened(usize),
    Sealed,
    PeerClosed,
    /// Nothing more without more ciphertext.
    Blocked,
    Failed(rustls::Error),
}

impl Session {
    fn new(core: &Rc<Core>, side: Side) -> Self {
        Self {
            core: Rc::clone(core),
            side,
            way: 0,
            incoming: None,
            more: true,
            opened: Vec::new(),
            used: 0,
            outgoing: None,
            accepted: 0,
            warm: 0,
            wrote: core.now(),
            ending: false,
            ended: None,
        }
    }

    /// The side that is called.
    ///
    /// # Errors
    /// When the configuration can't be used.
    pub(super) fn server(
        core: &Rc<Core>,
        config: Arc<ServerConfig>,
    ) -> Result<Self, rustls::Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(core, Side::Server(connection)))
    }

    /// The side that calls.
    ///
    /// # Errors
    /// When the configuration can't be used.
    pub(super) fn client(
        core: &Rc<Core>,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        way: u64,
    ) -> Result<Self, rustls::Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self {
            way,
            ..Self::new(core, Side::Client(connection))
        })
    }

    pub(super) fn way(&self) -> u64 {
        self.way
    }

    fn state(&self) -> &CommonState {
        match &self.side {
            Side::Server(connection) => connection,
            Side::Client(connection) => connection,
        }
    }

    pub(super) fn agreed(&self) -> Option<Agreed> {
        let state = self.state();
        Some(Agreed {
            version: state.protocol_version()?,
            suite: state.negotiated_cipher_suite()?.suite(),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            http2: state.alpn_protocol() == Some(b"h2"),
        })
    }

    /// Moves the handshake on with what was read; true at its end.
    pub(super) fn shake_hands(&mut self) -> Result<bool, HandshakeError> {
        let said = self.incoming.as_ref().map(Buffer::filled);
        if let (Some(said), Side::Server(_), None) =
            (said, &self.side, self.state().protocol_version())
            && said.first().is_some_and(|first| *first != HANDSHAKE)
        {
            return Err(HandshakeError::NotTls(said.to_vec()));
        }
        while self.state().is_handshaking() && self.more && self.ended.is_none() {
            self.step(Want::Nothing, &mut []);
        }
        match &self.ended {
            Some(End::Failed(error)) => Err(HandshakeError::Refused(error.clone())),
            Some(End::Closed | End::Cut) => Err(HandshakeError::Gone),
            None => Ok(!self.state().is_handshaking()),
        }
    }

    /// True when a read brings something without a byte from the socket.
    pub(super) fn has_something(&self) -> bool {
        self.more || self.used < self.opened.len() || self.ended.is_some()
    }

    /// True when a connection on which nothing should come got data, or its end.
    pub(super) fn is_spoilt(&mut self) -> bool {
        // Opens into nothing: tickets and key updates are no data.
        while self.more && self.opened.is_empty() && self.ended.is_none() {
            self.step(Want::Nothing, &mut []);
        }
        !self.opened.is_empty() || self.ended.is_some()
    }

    /// Opened data, as far as there is some; 0 when the socket must be read first.
    pub(super) fn open(&mut self, out: &mut [u8]) -> usize {
        let mut count = self.take_opened(out);
        while self.more && self.ended.is_none() && self.opened.is_empty() {
            let Some(room) = out.get_mut(count..).filter(|room| !room.is_empty()) else {
                break;
            };
            if let Did::Opened(opened) = self.step(Want::Nothing, room) {
                count += opened;
            }
        }
        count
    }

    fn take_opened(&mut self, out: &mut [u8]) -> usize {
        let ready = self.opened.get(self.used..).unwrap_or_default();
        let count = ready.len().min(out.len());
        if let (Some(target), Some(source)) = (out.get_mut(..count), ready.get(..count)) {
            target.copy_from_slice(source);
        }
        self.used += count;
        if self.used >= self.opened.len() {
            self.opened = Vec::new();
            self.used = 0;
        }
        count
    }

    /// How the peer's side ended, once all it sent was opened: `Ok` when it said so.
    pub(super) fn end(&self) -> Option<std::io::Result<()>> {
        use std::io::{Error, ErrorKind};
        self.ended.as_ref().map(|end| match end {
            End::Closed => Ok(()),
            End::Cut => Err(Error::from(ErrorKind::UnexpectedEof)),
            End::Failed(error) => Err(Error::new(ErrorKind::InvalidData, error.clone())),
        })
    }

    /// Where ciphertext goes that is read for a reader with room for `wanted` bytes.
    pub(super) fn spare(&mut self, wanted: usize) -> &mut [u8] {
        let size = if wanted > SMALL { MEDIUM } else { SMALL };
        let core = &self.core;
        let buffer = self.incoming.get_or_insert_with(|| Buffer::new(core, size));
        // A record that did not fit grows the buffer; none is larger than a medium one.
        buffer.make_room();
        buffer.spare()
    }

    /// What became of a read into [`Session::spare`]: so many bytes (0 is the end of the stream),
    /// or nothing.
    pub(super) fn received(&mut self, read: Option<usize>) {
        match (read, &mut self.incoming) {
            (Some(0), _) => self.end_with(End::Cut),
            (Some(count), Some(buffer)) => {
                buffer.fill(count);
                self.more = true;
            }
            _ => {}
        }
        self.release();
    }

    /// Gives the buffer back when there is nothing in it.
    fn release(&mut self) {
        self.incoming.take_if(|buffer| buffer.is_empty());
    }

    fn has_failed(&self) -> bool {
        matches!(self.ended, Some(End::Failed(_)))
    }

    /// Seals data until a buffer of ciphertext is full. The writer is told how much it was when
    /// all of it is written ([`Session::written`]).
    pub(super) fn seal(&mut self, slices: &[std::io::IoSlice<'_>]) -> std::io::Result<()> {
        if self.has_failed() || self.ending {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        let now = self.core.now();
        if now.saturating_duration_since(self.wrote) > IDLE {
            self.warm = 0;
        }
        self.wrote = now;
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let core = Rc::clone(&self.core);
        let wanted = wanted + 4 * OVERHEAD;
        let size = if wanted > SMALL { MEDIUM } else { SMALL };
        let buffer = self
            .outgoing
            .get_or_insert_with(|| Buffer::new(&core, size));
        // Behind words of the protocol itself, such as session tickets, there may be less room.
        if buffer.spare().len() < wanted && buffer.capacity() < MEDIUM {
            buffer.grow();
        }
        let mut pieces = Pieces::new(slices);
        let mut joined: Option<Buffer> = None;
        loop {
            let room = self
                .outgoing
                .as_mut()
                .map_or(0, |buffer| buffer.spare().len());
            let most = if self.warm < EARLY {
                RECORD_EARLY
            } else {
                RECORD
            };
            let most = most.min(room.saturating_sub(OVERHEAD));
            let piece = pieces.next(most, || {
                joined.get_or_insert_with(|| Buffer::new(&core, SMALL))
            });
            if piece.is_empty() {
                return Ok(());
            }
            let length = piece.len();
            self.seal_one(piece)?;
            self.accepted += length;
            self.warm = self.warm.saturating_add(length);
            pieces.consume(length);
        }
    }

    fn seal_one(&mut self, data: &[u8]) -> std::io::Result<()> {
        loop {
            match self.step(Want::Seal(data), &mut []) {
                Did::Sealed => return Ok(()),
                Did::Failed(error) => return Err(std::io::Error::other(error)),
                // Nothing may be sent any more.
                Did::Blocked => return Err(std::io::ErrorKind::BrokenPipe.into()),
                Did::Moved | Did::Opened(_) | Did::PeerClosed => {}
            }
        }
    }

    /// Ciphertext to be written.
    pub(super) fn outgoing(&self) -> &[u8] {
        self.outgoing.as_ref().map_or(&[], |buffer| buffer.filled())
    }

    /// So many bytes of [`Session::outgoing`] were written.
    pub(super) fn sent(&mut self, count: usize) {
        if let Some(buffer) = &mut self.outgoing {
            buffer.consume(count);
        }
        self.outgoing.take_if(|buffer| buffer.is_empty());
    }

    /// Data whose ciphertext is written by now and that the writer was not told of.
    pub(super) fn written(&mut self) -> usize {
        std::mem::take(&mut self.accepted)
    }

    /// True while a write of data is under way.
    pub(super) fn is_writing(&self) -> bool {
        self.accepted > 0
    }

    /// Ends our side: a `close_notify` follows what was sealed.
    pub(super) fn say_goodbye(&mut self) {
        let ending = std::mem::replace(&mut self.ending, true);
        if ending || self.has_failed() || self.state().is_handshaking() {
            return;
        }
        while !matches!(
            self.step(Want::Goodbye, &mut []),
            Did::Sealed | Did::Failed(_) | Did::Blocked
        ) {}
    }

    /// One step of rustls, with all ciphertext that is there. Data that does not fit in `out` is
    /// kept.
    fn step(&mut self, want: Want<'_>, out: &mut [u8]) -> Did {
        let mut nothing = [];
        let incoming = match &mut self.incoming {
            Some(buffer) => buffer.filled_mut(),
            None => &mut nothing[..],
        };
        let core = &self.core;
        let outgoing = self
            .outgoing
            .get_or_insert_with(|| Buffer::new(core, SMALL));
        let mut desk = Desk {
            want,
            out,
            outgoing,
            opened: &mut self.opened,
        };
        let (discard, did) = match &mut self.side {
            Side::Server(connection) => desk.handle(connection.process_tls_records(incoming)),
            Side::Client(connection) => desk.handle(connection.process_tls_records(incoming)),
        };
        if let Some(buffer) = &mut self.incoming {
            buffer.consume(discard);
        }
        self.outgoing.take_if(|buffer| buffer.is_empty());
        match &did {
            Did::Blocked | Did::Sealed => self.more &= matches!(did, Did::Sealed),
            Did::PeerClosed => self.end_with(End::Closed),
            Did::Failed(error) => {
                if self.ended.is_none() {
                    self.ended = Some(End::Failed(error.clone()));
                    self.more = false;
                    // The alert that tells the peer; after it no step may be made.
                    while self.state().wants_write() {
                        self.step(Want::Nothing, &mut []);
                    }
                }
            }
            Did::Moved | Did::Opened(_) => {}
        }
        self.release();
        did
    }

    fn end_with(&mut self, end: End) {
        self.ended.get_or_insert(end);
        self.more = false;
        if matches!(self.ended, Some(End::Closed)) {
            // What may follow is no part of the stream (RFC 8446 §6.1).
            self.incoming = None;
        }
    }
}

/// What a step works with.
struct Desk<'a> {
    want: Want<'a>,
    out: &'a mut [u8],
    outgoing: &'a mut Buffer,
    opened: &'a mut Vec<u8>,
}

impl Desk<'_> {
    /// Handles a state; with how much ciphertext was used.
    fn handle<Data>(&mut self, status: UnbufferedStatus<'_, '_, Data>) -> (usize, Did) {
        let mut discard = status.discard;
        let did = match status.state {
            Err(error) => Did::Failed(error),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut opened = 0;
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            discard += record.discard;
                            opened += self.deliver(record.payload, opened);
                        }
                        Err(error) => return (discard, Did::Failed(error)),
                    }
                }
                Did::Opened(opened)
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => loop {
                match data.encode(self.outgoing.spare()) {
                    Ok(count) => {
                        self.outgoing.fill(count);
                        break Did::Moved;
                    }
                    Err(EncodeError::InsufficientSize(_)) if self.outgoing.grow() => {}
                    Err(error) => break Did::Failed(rustls::Error::General(error.to_string())),
                }
            },
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It lies in `outgoing`, in front of all that follows.
                data.done();
                Did::Moved
            }
            Ok(ConnectionState::PeerClosed) => Did::PeerClosed,
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let sealed = match self.want {
                    Want::Nothing => return (discard, Did::Blocked),
                    Want::Seal(data) => traffic.encrypt(data, self.outgoing.spare()),
                    Want::Goodbye => {
                        if self.outgoing.spare().len() < ALERT {
                            self.outgoing.grow();
                        }
                        traffic.queue_close_notify(self.outgoing.spare())
                    }
                };
                match sealed {
                    Ok(count) => {
                        self.outgoing.fill(count);
                        Did::Sealed
                    }
                    Err(error) => Did::Failed(rustls::Error::General(error.to_string())),
                }
            }
            Ok(_) => Did::Blocked,
        };
        (discard, did)
    }

    /// Hands over data of a record behind `at`; what does not fit is kept. How much was.
    fn deliver(&mut self, data: &[u8], at: usize) -> usize {
        let room = self.out.get_mut(at..).unwrap_or_default();
        let fits = if self.opened.is_empty() {
            data.len().min(room.len())
        } else {
            0
        };
        let (now, later) = data.split_at_checked(fits).unwrap_or((data, &[]));
        if let Some(target) = room.get_mut(..now.len()) {
            target.copy_from_slice(now);
        }
        self.opened.extend_from_slice(later);
        now.len()
    }
}

/// The slices of a write, taken record by record.
struct Pieces<'a> {
    slices: &'a [std::io::IoSlice<'a>],
    /// Used of the first one.
    at: usize,
}

impl<'a> Pieces<'a> {
    fn new(slices: &'a [std::io::IoSlice<'a>]) -> Self {
        let mut pieces = Self { slices, at: 0 };
        pieces.consume(0);
        pieces
    }

    /// The next `most` bytes in one piece: of one slice, or joined of several in `scratch`.
    fn next<'b>(&'b self, most: usize, scratch: impl FnOnce() -> &'b mut Buffer) -> &'b [u8] {
        let Some((first, rest)) = self.slices.split_first() else {
            return &[];
        };
        let first = first.get(self.at..).unwrap_or_default();
        if let Some(piece) = first.get(..most) {
            return piece;
        }
        if rest.iter().all(|slice| slice.is_empty()) {
            return first;
        }
        let joined = scratch();
        joined.consume(joined.filled().len());
        for part in std::iter::once(first).chain(rest.iter().map(|slice| &**slice)) {
            let room = most.saturating_sub(joined.filled().len());
            let spare = joined.spare();
            let count = part.len().min(room).min(spare.len());
            if let (Some(target), Some(source)) = (spare.get_mut(..count), part.get(..count)) {
                target.copy_from_slice(source);
            }
            joined.fill(count);
        }
        joined.filled()
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
        while let Some((first, rest)) = self.slices.split_first()
            && self.at >= first.len()
        {
            self.at -= first.len();
            self.slices = rest;
        }
    }
}
