//! WebSockets by hand, for the stories: frames as bytes, and peers that say nothing by themselves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use munjigi_gate::ws::accept_for;
use munjigi_gate::{Gate, GateSettings};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::support::*;

pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub(crate) const HANDSHAKE: &str = "GET /live?a=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: https://example.com\r\n\r\n";

/// What a backend answers to the handshake in `head`.
pub(crate) fn switch(head: &str) -> String {
    let accept = accept_for(header(head, "sec-websocket-key").unwrap_or("").as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// An origin that takes WebSockets and hands them to the story.
pub(crate) async fn taking() -> (Origin, tokio::sync::mpsc::Receiver<Peer>) {
    let (taken, peers) = tokio::sync::mpsc::channel(100);
    let origin = origin(move |mut peer, _| {
        let taken = taken.clone();
        async move {
            let head = peer.head().await.unwrap();
            peer.send(&switch(&head)).await;
            drop(taken.send(peer).await);
        }
    })
    .await;
    (origin, peers)
}

/// A client whose handshake went well.
pub(crate) async fn opened(address: SocketAddr) -> Peer {
    let mut client = Peer::connect(address).await;
    client.send(HANDSHAKE).await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), 101, "{head}");
    client
}

/// Client and backend of one tunnel.
pub(crate) async fn pair(
    gate: &Gate,
    peers: &mut tokio::sync::mpsc::Receiver<Peer>,
) -> (Peer, Peer) {
    let client = opened(gate.address("web").unwrap()).await;
    (client, peers.recv().await.unwrap())
}

/// A frame.
pub(crate) fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    if payload.len() < 126 {
        bytes.push(bit | u8::try_from(payload.len()).unwrap());
    } else if let Ok(length) = u16::try_from(payload.len()) {
        bytes.push(bit | 126);
        bytes.extend(length.to_be_bytes());
    } else {
        bytes.push(bit | 127);
        bytes.extend((payload.len() as u64).to_be_bytes());
    }
    let key = mask.unwrap_or_default();
    bytes.extend(mask.iter().flatten());
    let masked = payload.iter().zip(key.iter().cycle());
    bytes.extend(masked.map(|(byte, key)| byte ^ key));
    bytes
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) masked: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) raw: Vec<u8>,
}

/// The first frame of `bytes`, when it is whole.
pub(crate) fn parse(bytes: &[u8]) -> Option<Frame> {
    let [first, second, rest @ ..] = bytes else {
        return None;
    };
    let masked = second & 0x80 != 0;
    let (length, extended) = match second & 0x7f {
        126 => (
            usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().unwrap())),
            2,
        ),
        127 => {
            let length = u64::from_be_bytes(rest.get(..8)?.try_into().unwrap());
            (usize::try_from(length).unwrap(), 8)
        }
        short => (usize::from(short), 0),
    };
    let start = 2 + extended + if masked { 4 } else { 0 };
    let payload = bytes.get(start..start + length)?;
    let key = if masked {
        bytes[start - 4..start].to_vec()
    } else {
        vec![0; 4]
    };
    Some(Frame {
        first: *first,
        masked,
        payload: payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(b, k)| b ^ k)
            .collect(),
        raw: bytes[..start + length].to_vec(),
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = parse(&self.buffer) {
                self.buffer.drain(..frame.raw.len());
                return frame;
            }
            assert!(self.fill().await, "the stream ended in a frame");
        }
    }
}

/// Closes without a word of TCP's goodbye: the peer sees a reset.
pub(crate) fn break_off(peer: Peer) {
    let stream: TcpStream = peer.stream;
    let stream = stream.into_std().unwrap();
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

/// Writes the access log to a file in `folder`.
pub(crate) fn logged(settings: &mut GateSettings, folder: &Path) -> PathBuf {
    let file = folder.join("access.log");
    settings.access_log = munjigi_gate::settings::AccessLog::File(file.clone());
    file
}

/// The lines of an access log, once there are as many.
pub(crate) async fn lines(file: &Path, count: usize) -> Vec<serde_json::Value> {
    let read = || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<serde_json::Value>>()
    };
    eventually("the lines of the access log", async || {
        read().len() >= count
    })
    .await;
    read()
}
