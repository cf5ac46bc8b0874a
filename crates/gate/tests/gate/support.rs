//! A gate, origins and clients for the stories: real sockets on port 0, nothing mocked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use munjigi_gate::proxy_protocol;
use munjigi_gate::settings::{
    BackendSettings, DiscoverySettings, ListenerSettings, PathPattern, Placement, RouteSettings,
    ServiceSettings,
};
use munjigi_gate::{Backends, Discovery, Gate, GateSettings, Instance, Wiring};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Longest that anything may take before a story fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server of the test: each connection is handed to `serve`, with its number.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Origin {
    pub(crate) fn new(address: SocketAddr, tasks: JoinSet<()>) -> Self {
        Self {
            address,
            _tasks: tasks,
        }
    }
}

pub(crate) async fn origin<F, T>(serve: F) -> Origin
where
    F: Fn(Peer, usize) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        let mut number = 0;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            connections.spawn(serve(Peer::new(stream), number));
            number += 1;
        }
    });
    Origin::new(address, tasks)
}

/// An origin that answers every request with what it received: head and body as text.
pub(crate) async fn echo() -> Origin {
    origin(|mut peer, _| async move {
        while let Some(head) = peer.head().await {
            let body = peer.body_of(&head).await;
            let text = format!("{head}{}", String::from_utf8_lossy(&body));
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            ))
            .await;
        }
    })
    .await
}

/// An origin that answers each request, given by its head, as `answer` says. It counts them.
pub(crate) struct Answering {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<AtomicUsize>,
    _origin: Origin,
}

impl Answering {
    pub(crate) fn count(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

pub(crate) async fn answering<F>(answer: F) -> Answering
where
    F: Fn(&str) -> String + Send + Sync + 'static,
{
    let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let count = Arc::clone(&asked);
    let origin = origin(move |mut peer, _| {
        let (count, answer) = (Arc::clone(&count), Arc::clone(&answer));
        async move {
            while let Some(head) = peer.head().await {
                peer.body_of(&head).await;
                count.fetch_add(1, Ordering::Relaxed);
                let text = answer(&head);
                if text.is_empty() {
                    return;
                }
                peer.send(&text).await;
            }
        }
    })
    .await;
    Answering {
        address: origin.address,
        asked,
        _origin: origin,
    }
}

/// A whole response.
pub(crate) fn response(status: u16, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

/// Origins that answer with their place in the list.
pub(crate) async fn numbered(count: usize) -> Vec<Answering> {
    let mut origins = Vec::new();
    for number in 0..count {
        origins.push(answering(move |_| response(200, "", &number.to_string())).await);
    }
    origins
}

/// An origin that says its name.
pub(crate) async fn named(name: &'static str) -> Answering {
    answering(move |_| response(200, "", name)).await
}

/// An origin that answers in the framing that the path names, and to HEAD with the head alone.
pub(crate) async fn framings() -> Origin {
    origin(|mut peer, _| async move {
        while let Some(head) = peer.head().await {
            let answer = match head.split(' ').nth(1).unwrap() {
                "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\nhello",
                "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n",
                "/close" => "HTTP/1.1 200 OK\r\n\r\nhello",
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n",
                "/empty" => "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
                "/hints" => "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                other => panic!("{other}"),
            };
            let answer = if head.starts_with("HEAD") {
                answer.split_inclusive("\r\n\r\n").next().unwrap()
            } else {
                answer
            };
            peer.send(answer).await;
            if head.contains("/close") {
                return;
            }
        }
    })
    .await
}

/// Where origins wait with their answers until the story lets them go on. Clones are one place.
#[derive(Clone)]
pub(crate) struct Hold(Arc<Place>);

struct Place {
    came: Semaphore,
    may_go: Semaphore,
    here: AtomicUsize,
    most: AtomicUsize,
}

impl Hold {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Place {
            came: Semaphore::new(0),
            may_go: Semaphore::new(0),
            here: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }))
    }

    /// An origin waits, until it may go on.
    pub(crate) async fn wait(&self) {
        let here = self.0.here.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(here, Ordering::SeqCst);
        self.0.came.add_permits(1);
        self.0.may_go.acquire().await.unwrap().forget();
        self.0.here.fetch_sub(1, Ordering::SeqCst);
    }

    /// The story waits, until one more has come.
    pub(crate) async fn arrival(&self) {
        let came = tokio::time::timeout(PATIENCE, self.0.came.acquire()).await;
        came.expect("nobody came in time").unwrap().forget();
    }

    /// So many may go on, be they here or still to come.
    pub(crate) fn release(&self, count: usize) {
        self.0.may_go.add_permits(count);
    }

    /// The most that were here at once.
    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }
}

/// An origin that holds every request before it answers.
pub(crate) async fn held_origin(hold: &Hold) -> Origin {
    let hold = hold.clone();
    origin(move |mut peer, _| {
        let hold = hold.clone();
        async move {
            while peer.head().await.is_some() {
                hold.wait().await;
                peer.send(&response(200, "", "ok")).await;
            }
        }
    })
    .await
}

pub(crate) fn addresses(origins: &[Answering]) -> Vec<SocketAddr> {
    origins.iter().map(|origin| origin.address).collect()
}

pub(crate) fn service(settings: &mut GateSettings) -> &mut ServiceSettings {
    settings.services.get_mut("APP").unwrap()
}

pub(crate) fn backends(settings: &mut GateSettings) -> &mut Vec<BackendSettings> {
    match &mut service(settings).discovery {
        DiscoverySettings::Static(backends) => backends,
        other => panic!("the settings name no backends: {other:?}"),
    }
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// One end of a connection, with what was read and not used yet.
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) buffer: Vec<u8>,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    /// Writes; a peer that is gone is no failure of the test.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_ok() {
            drop(self.stream.flush().await);
        }
    }

    /// Reads more; false at the end of the stream.
    pub(crate) async fn fill(&mut self) -> bool {
        let mut chunk = vec![0; 64 * 1024];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut chunk))
            .await
            .expect("the other side said nothing in time");
        match read {
            Ok(count) if count > 0 => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            _ => false,
        }
    }

    /// The next head with its empty line; `None` when the stream ends before.
    pub(crate) async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(
                self.fill().await,
                "the stream ended early: {:?}",
                self.text()
            );
        }
        self.buffer.drain(..count).collect()
    }

    /// The body that `head` announces, decoded.
    pub(crate) async fn body_of(&mut self, head: &str) -> Vec<u8> {
        if let Some(length) = header(head, "content-length") {
            return self.exactly(length.parse().unwrap()).await;
        }
        if header(head, "transfer-encoding").is_none() {
            return Vec::new();
        }
        let mut body = Vec::new();
        loop {
            let line = self.line().await;
            let size = usize::from_str_radix(&line, 16).unwrap();
            if size == 0 {
                while !self.line().await.is_empty() {}
                return body;
            }
            body.extend(self.exactly(size).await);
            assert_eq!(self.exactly(2).await, b"\r\n");
        }
    }

    pub(crate) async fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            assert!(self.fill().await, "the stream ended in a line");
        }
    }

    pub(crate) async fn response(&mut self) -> (String, Vec<u8>) {
        let head = self.head().await.expect("no response");
        let body = self.body_of(&head).await;
        (head, body)
    }

    /// Reads until the stream ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Reads the PROXY header that a connection begins with: where it says that it comes from.
    pub(crate) async fn proxied_from(&mut self) -> SocketAddr {
        loop {
            assert!(self.fill().await, "the stream ended in the PROXY header");
            if let Some(header) = proxy_protocol::read(&self.buffer).unwrap() {
                self.buffer.drain(..header.length);
                return header.source.unwrap();
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

/// The value of a field, by its name in lower case.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The stable code of a problem document.
pub(crate) fn code(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap();
    value["code"].as_str().unwrap().to_owned()
}

pub(crate) fn static_service(addresses: &[SocketAddr]) -> ServiceSettings {
    let backends = addresses
        .iter()
        .map(|address| BackendSettings::new((*address).into()))
        .collect();
    ServiceSettings {
        discovery: DiscoverySettings::Static(backends),
        ..ServiceSettings::default()
    }
}

/// Settings of a gate that sends everything on `web` to these backends.
pub(crate) fn settings(addresses: &[SocketAddr]) -> GateSettings {
    let mut settings = GateSettings {
        threads: 1,
        data: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gate-data"),
        ..GateSettings::default()
    };
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.listeners = vec![
        ListenerSettings::new("web", local),
        ListenerSettings::new("inner", local),
    ];
    settings.routes = vec![RouteSettings::new(
        "app",
        PathPattern::prefix("/").unwrap(),
        "APP",
    )];
    settings
        .services
        .insert("APP".to_owned(), static_service(addresses));
    settings
}

pub(crate) async fn start(settings: GateSettings) -> Gate {
    Gate::start(settings, Wiring::default()).await.unwrap()
}

/// A page of the admin face, over its socket.
pub(crate) async fn admin(socket: &std::path::Path, path: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Asks again until `check` holds.
pub(crate) async fn eventually<T: Future<Output = bool>>(what: &str, check: impl Fn() -> T) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(tokio::time::Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A figure of the admin face, by how its line begins.
pub(crate) async fn figure(socket: &std::path::Path, name: &str) -> u64 {
    let page = admin(socket, "/metrics").await;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    let value = value.unwrap_or_else(|| panic!("{name} is not in {page}"));
    value.parse().unwrap()
}

/// A registry that says what the story tells it.
#[derive(Debug)]
pub(crate) struct Told {
    service: &'static str,
    backends: watch::Sender<Arc<Backends>>,
}

impl Discovery for Told {
    fn watch(&self, service: &str) -> watch::Receiver<Arc<Backends>> {
        if service == self.service {
            return self.backends.subscribe();
        }
        watch::Sender::new(Arc::default()).subscribe()
    }
}

impl Told {
    pub(crate) fn tell(&self, instances: Vec<Instance>, unsure: bool) {
        let backends = Backends { instances, unsure };
        self.backends.send_replace(Arc::new(backends));
    }
}

/// A registry that knows the instances of one service.
pub(crate) fn told(service: &'static str, instances: Vec<Instance>) -> Arc<Told> {
    let told = Told {
        service,
        backends: watch::Sender::default(),
    };
    told.tell(instances, false);
    Arc::new(told)
}

/// An instance that calls itself `id`.
pub(crate) fn worker(address: SocketAddr, id: &str) -> Instance {
    Instance {
        host: address.ip().to_string(),
        port: address.port(),
        weight: 1,
        placement: Placement::default(),
        up: true,
        metadata: BTreeMap::from([("serverId".to_owned(), id.to_owned())]),
    }
}

pub(crate) async fn client(gate: &Gate) -> Peer {
    Peer::connect(gate.address("web").unwrap()).await
}

/// One request on a connection of its own.
pub(crate) async fn ask(gate: &Gate, request: &str) -> (String, Vec<u8>) {
    let mut client = client(gate).await;
    client.send(request).await;
    client.response().await
}

/// The settings of a gate as text under `[gate]`, and what is wrong with it.
pub(crate) fn read_in(folder: &std::path::Path, text: &str) -> (Option<GateSettings>, String) {
    use munjigi_foundation::settings::{Document, Environment, Key, Schema};
    static ROOT: Schema = Schema {
        place: "the settings file",
        meaning: "",
        keys: &[Key::new("gate", "table", "", "", "the edge")],
    };
    let file = folder.join("munjigi.toml");
    let document = Document::new(&file, text.to_owned(), Environment::new());
    let (settings, problems) = document.read(&ROOT, |root| {
        let table = root.table("gate", munjigi_gate::settings::SCHEMA)?;
        let settings = GateSettings::read(&table);
        assert_eq!(table.unread(), Vec::<&str>::new());
        settings
    });
    (settings, document.render(&problems, false))
}

/// Settings with one thread, the listeners `web` and `inner`, static services, and what `text`
/// adds: routes, mostly.
pub(crate) fn written(
    folder: &std::path::Path,
    services: &[(&str, SocketAddr)],
    text: &str,
) -> GateSettings {
    let mut whole = "[gate]\nthreads = 1\n".to_owned();
    for name in ["web", "inner"] {
        whole += &format!("[[gate.listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n");
    }
    for (name, address) in services {
        whole += &format!("[gate.service.{name}]\nbackends = [{{ address = \"{address}\" }}]\n");
    }
    whole += text;
    let (settings, problems) = read_in(folder, &whole);
    let mut settings = settings
        .filter(|_| problems.contains(": 0 errors"))
        .unwrap_or_else(|| panic!("{problems}"));
    settings.admin.socket = None;
    settings
}

/// The problems of the same.
pub(crate) fn problems(folder: &std::path::Path, text: &str) -> String {
    let whole =
        format!("[gate]\n[[gate.listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n{text}");
    read_in(folder, &whole).1
}
