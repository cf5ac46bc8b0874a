//! What wrk and h2load can't do: an origin that takes uploads and WebSockets, uploads, idle connections, idle tunnels,
//! a client that asks at a steady pace. One thread; everything over loopback.
//!
//! ```text
//! load origin                       prints its port, serves until it is ended
//! load upload ADDR BYTES COUNT      COUNT uploads of BYTES, one after the other
//! load idle ADDR COUNT              COUNT connections that served one request each; held until stdin ends
//! load tunnels ADDR COUNT           COUNT WebSockets; held until stdin ends
//! load pace ADDR PATH RATE SECONDS  RATE requests a second, each on a connection of its own; prints percentiles
//! load each ADDR PATH RATE SECONDS  the same; prints a line for each: begin, time taken or `-` (µs, Unix time)
//! ```

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest that one connection, head or answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest head that is read.
const HEAD_MAX: usize = 64 * 1024;
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Outcome<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["origin"] => origin().await,
        ["upload", address, bytes, count] => upload(address, number(bytes)?, number(count)?).await,
        ["idle", address, count] => hold(address, number(count)?, idle).await,
        ["tunnels", address, count] => hold(address, number(count)?, tunnel).await,
        ["pace", address, path, rate, seconds] => {
            pace(address, path, number(rate)?, number(seconds)?).await
        }
        ["each", address, path, rate, seconds] => {
            each(address, path, number(rate)?, number(seconds)?).await
        }
        _ => Err("usage: load origin|upload|idle|tunnels|pace|each …".to_owned()),
    }
}

fn number(text: &str) -> Outcome<u64> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn say(line: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| error.to_string())
}

/// One connection with what was read beyond the last head.
struct Peer {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Peer {
    async fn connect(address: &str) -> Outcome<Self> {
        let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
        let stream = connecting
            .map_err(|_| "connecting took too long".to_owned())?
            .map_err(|error| format!("connect: {error}"))?;
        Ok(Self::new(stream))
    }

    fn new(stream: TcpStream) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("nodelay: {error}");
        }
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        let written = self.stream.write_all(bytes).await;
        written.map_err(|error| format!("write: {error}"))
    }

    /// The next head with its empty line; `None` when the stream ends before its first byte.
    async fn head(&mut self) -> Outcome<Option<String>> {
        loop {
            if let Some(at) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.rest.drain(..at + 4).collect();
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            if self.rest.len() > HEAD_MAX {
                return Err("the head is too long".to_owned());
            }
            let read = self.stream.read_buf(&mut self.rest).await;
            match read.map_err(|error| format!("read: {error}"))? {
                0 if self.rest.is_empty() => return Ok(None),
                0 => return Err("the stream ended in a head".to_owned()),
                _ => {}
            }
        }
    }

    async fn answer(&mut self) -> Outcome<String> {
        tokio::time::timeout(PATIENCE, self.head())
            .await
            .map_err(|_| "no answer in time".to_owned())??
            .ok_or_else(|| "closed without an answer".to_owned())
    }

    /// Reads `length` bytes of a body and throws them away.
    async fn discard(&mut self, length: u64) -> Outcome<()> {
        let here = self
            .rest
            .len()
            .min(usize::try_from(length).unwrap_or(usize::MAX));
        self.rest.drain(..here);
        let mut left = length - here as u64;
        let mut buffer = vec![0; 256 * 1024];
        while left > 0 {
            let most = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.stream.read(&mut buffer[..most]).await;
            match read.map_err(|error| format!("read: {error}"))? {
                0 => return Err("the stream ended in a body".to_owned()),
                count => left -= count as u64,
            }
        }
        Ok(())
    }

    /// Reads chunks until the last one.
    async fn discard_chunks(&mut self) -> Outcome<()> {
        loop {
            let line = loop {
                if let Some(at) = self.rest.windows(2).position(|two| two == b"\r\n") {
                    let line: Vec<u8> = self.rest.drain(..at + 2).collect();
                    break String::from_utf8_lossy(&line).trim().to_owned();
                }
                let read = self.stream.read_buf(&mut self.rest).await;
                if read.map_err(|error| format!("read: {error}"))? == 0 {
                    return Err("the stream ended in a chunk".to_owned());
                }
            };
            let size = u64::from_str_radix(&line, 16).map_err(|_| format!("chunk size {line}"))?;
            self.discard(size + 2).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

async fn origin() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    say(&address.port().to_string())?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(|error| error.to_string())?;
                connections.spawn(serve(Peer::new(stream)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Takes bodies, answers with two bytes; a WebSocket stays open in silence.
async fn serve(mut peer: Peer) -> Outcome<()> {
    while let Some(head) = peer.head().await? {
        if let Some(key) = field(&head, "sec-websocket-key") {
            let accept = munjigi_gate::ws::accept_for(key.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            peer.send(answer.as_bytes()).await?;
            // Not a byte of buffer while it is silent: the origin's memory is not what is measured.
            let mut byte = [0];
            while peer
                .stream
                .read(&mut byte)
                .await
                .is_ok_and(|count| count > 0)
            {}
            return Ok(());
        }
        if let Some(length) = field(&head, "content-length") {
            peer.discard(number(length)?).await?;
        } else if field(&head, "transfer-encoding").is_some() {
            peer.discard_chunks().await?;
        }
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await?;
    }
    Ok(())
}

async fn upload(address: &str, bytes: u64, count: u64) -> Outcome<()> {
    let block = vec![b'x'; 256 * 1024];
    let mut peer = Peer::connect(address).await?;
    let start = Instant::now();
    for _ in 0..count {
        let head =
            format!("POST /upload HTTP/1.1\r\nHost: bench\r\nContent-Length: {bytes}\r\n\r\n");
        peer.send(head.as_bytes()).await?;
        let mut left = bytes;
        while left > 0 {
            let here = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            peer.send(&block[..here]).await?;
            left -= here as u64;
        }
        let answer = peer.answer().await?;
        if !answer.starts_with("HTTP/1.1 200") {
            return Err(format!("answered {answer}"));
        }
        let length = field(&answer, "content-length").map_or(Ok(0), number)?;
        peer.discard(length).await?;
    }
    say(&format!("seconds {:.6}", start.elapsed().as_secs_f64()))
}

/// Opens `count` connections with `open`, says so, holds them until standard input ends.
async fn hold<F>(address: &str, count: u64, open: F) -> Outcome<()>
where
    F: AsyncFn(&str) -> Outcome<TcpStream>,
{
    let mut held = Vec::new();
    for number in 0..count {
        let opened = open(address).await;
        held.push(opened.map_err(|problem| format!("connection {number}: {problem}"))?);
    }
    say(&format!("held {}", held.len()))?;
    let mut end = Vec::new();
    let read = tokio::task::spawn_blocking(move || {
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut end)
    })
    .await;
    read.map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let open = held.iter().filter(|stream| is_open(stream)).count();
    say(&format!("open {open}"))
}

/// True unless the other side has closed it.
fn is_open(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

async fn idle(address: &str) -> Outcome<TcpStream> {
    let mut peer = Peer::connect(address).await?;
    peer.send(b"GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n")
        .await?;
    let answer = peer.answer().await?;
    let length = field(&answer, "content-length").map_or(Ok(0), number)?;
    peer.discard(length).await?;
    Ok(peer.stream)
}

async fn tunnel(address: &str) -> Outcome<TcpStream> {
    let mut peer = Peer::connect(address).await?;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    peer.send(head.as_bytes()).await?;
    let answer = peer.answer().await?;
    if !answer.starts_with("HTTP/1.1 101") {
        return Err(format!("answered {answer}"));
    }
    // A masked "hi", so that the tunnel has moved bytes before it is silent.
    peer.send(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await?;
    Ok(peer.stream)
}

/// When a request began, and how long it took; `None` when it failed.
type Asked = (SystemTime, Option<Duration>);

/// Asks at a steady pace.
async fn asked(address: &str, path: &str, rate: u64, seconds: u64) -> Vec<Asked> {
    let start = Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..rate * seconds {
        let due = start
            + Duration::from_secs(1) * u32::try_from(number).unwrap_or(0)
                / u32::try_from(rate.max(1)).unwrap_or(1);
        tokio::time::sleep_until(due.into()).await;
        let (address, path) = (address.to_owned(), path.to_owned());
        asking.spawn(async move { (SystemTime::now(), ask(address, path).await.ok()) });
    }
    asking.join_all().await
}

async fn each(address: &str, path: &str, rate: u64, seconds: u64) -> Outcome<()> {
    let mut lines = String::new();
    for (began, took) in asked(address, path, rate, seconds).await {
        let began = began
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let took = took.map_or_else(|| "-".to_owned(), |took| took.as_micros().to_string());
        lines += &format!("{} {took}\n", began.as_micros());
    }
    say(lines.trim_end())
}

async fn pace(address: &str, path: &str, rate: u64, seconds: u64) -> Outcome<()> {
    let all = asked(address, path, rate, seconds).await;
    let mut times: Vec<u128> = all
        .iter()
        .filter_map(|(_, took)| Some((*took)?.as_micros()))
        .collect();
    let failed = all.len() - times.len();
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let at = |thousandths: usize| times.get((times.len() * thousandths / 1000).min(last));
    let show = |thousandths| at(thousandths).map_or_else(|| "-".to_owned(), ToString::to_string);
    say(&format!(
        "requests {} failed {failed} p50 {} p99 {} p99.9 {} max {}",
        times.len(),
        show(500),
        show(990),
        show(999),
        show(1000)
    ))
}

async fn ask(address: String, path: String) -> Outcome<Duration> {
    let start = Instant::now();
    let mut peer = Peer::connect(&address).await?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    peer.send(head.as_bytes()).await?;
    let answer = peer.answer().await?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(format!("answered {answer}"));
    }
    let length = field(&answer, "content-length").map_or(Ok(0), number)?;
    peer.discard(length).await?;
    Ok(start.elapsed())
}
