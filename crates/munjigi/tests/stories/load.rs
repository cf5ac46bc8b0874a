//! Clients that ask without pause and count what fails, an origin that answers them, and WebSockets that stay open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

/// Longest that one answer may take: far more than a held request waits.
const ANSWER: Duration = Duration::from_secs(30);

/// An origin: answers `ok`, echoes WebSockets.
pub(crate) async fn origin() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(answer(stream));
            while connections.try_join_next().is_some() {}
        }
    });
    (address, tasks)
}

async fn answer(mut stream: TcpStream) {
    loop {
        // A gate may send the handshake on a connection that served requests before.
        let mut start = [0; 1024];
        let Ok(count @ 1..) = stream.peek(&mut start).await else {
            return;
        };
        let start = String::from_utf8_lossy(&start[..count]).to_lowercase();
        if start.contains("upgrade: websocket") {
            return echo(stream).await;
        }
        let Some(head) = head_of(&mut stream).await else {
            return;
        };
        let mut body = vec![0; length(&head)];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let sent = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        if sent.await.is_err() {
            return;
        }
    }
}

async fn echo(stream: TcpStream) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_text() || socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn head_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).to_lowercase())
}

fn length(head: &str) -> usize {
    head.lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |value| value.trim().parse().unwrap())
}

/// Requests without pause.
pub(crate) struct Load {
    stop: CancellationToken,
    tasks: JoinSet<Vec<String>>,
    answered: Arc<AtomicU64>,
}

impl Load {
    /// Begins: half of the `clients` keep their connections while they may, half open one for each request.
    pub(crate) fn begin(address: SocketAddr, path: &'static str, clients: usize) -> Self {
        let stop = CancellationToken::new();
        let answered = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let (stop, answered) = (stop.clone(), Arc::clone(&answered));
            tasks.spawn(async move {
                let mut failures = Vec::new();
                let mut kept = None;
                while !stop.is_cancelled() && failures.len() < 10 {
                    match one(address, path, kept.take(), number % 2 == 0).await {
                        Ok(next) => kept = next,
                        Err(why) => failures.push(why),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                failures
            });
        }
        Self {
            stop,
            tasks,
            answered,
        }
    }

    /// Waits for so many more answers.
    pub(crate) async fn more(&self, count: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + count;
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.answered.load(Ordering::Relaxed) < wanted {
            assert!(tokio::time::Instant::now() < end, "no answers in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends; how many were answered, and what failed.
    pub(crate) async fn end(self) -> (u64, Vec<String>) {
        self.stop.cancel();
        let failures = self.tasks.join_all().await.concat();
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

async fn one(
    address: SocketAddr,
    path: &str,
    kept: Option<TcpStream>,
    keep: bool,
) -> Result<Option<TcpStream>, String> {
    let used = kept.is_some();
    let failed = |what: &str| {
        format!(
            "{what} (a connection that was {})",
            if used { "kept" } else { "new" }
        )
    };
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(address)
            .await
            .map_err(|error| failed(&format!("connect: {error}")))?,
    };
    let close = if keep { "" } else { "Connection: close\r\n" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n");
    let asked = async {
        stream.write_all(request.as_bytes()).await.ok()?;
        let head = head_of(&mut stream).await?;
        let mut body = vec![0; length(&head)];
        stream.read_exact(&mut body).await.ok()?;
        Some(head)
    };
    let head = tokio::time::timeout(ANSWER, asked)
        .await
        .map_err(|_| failed("no answer in time"))?
        .ok_or_else(|| failed("cut"))?;
    if !head.starts_with("http/1.1 200") {
        return Err(failed(head.lines().next().unwrap_or_default()));
    }
    Ok((keep && !head.contains("connection: close")).then_some(stream))
}

/// A WebSocket that stays open.
pub(crate) struct Tunnel(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Tunnel {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let url = format!("ws://{address}/socket");
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Self(socket)
    }

    /// True when it still carries a message there and back.
    pub(crate) async fn lives(&mut self) -> bool {
        if self.0.send(Message::text("hello")).await.is_err() {
            return false;
        }
        let echo = tokio::time::timeout(ANSWER, self.0.next()).await;
        matches!(echo, Ok(Some(Ok(Message::Text(text)))) if text.as_str() == "hello")
    }

    /// The code of the close frame that ends it.
    pub(crate) async fn close_code(mut self) -> Option<CloseCode> {
        let end = async {
            loop {
                match self.0.next().await? {
                    Ok(Message::Close(frame)) => return frame.map(|frame| frame.code),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(ANSWER, end).await.unwrap()
    }

    pub(crate) async fn close(mut self) {
        drop(self.0.close(None).await);
    }
}
