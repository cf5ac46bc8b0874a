//! Eight large bodies each way at once: every byte arrives, and the gate's memory does not know how large they are.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use munjigi_testkit::{Program, eventually, free_port};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::binary;

const MIB: u64 = 1 << 20;
/// Bytes read or written at once.
const CHUNK: usize = 1 << 20;
const AT_ONCE: u8 = 8;
/// Longest that the gate may take to listen.
const WITHIN: Duration = Duration::from_secs(60);

/// The MiB number `place` of the body of `who`: no two are the same, so that nothing can change places unseen.
fn block(who: u8, place: u64) -> Bytes {
    static PATTERN: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..MIB).map(|n| (n % 251) as u8).collect());
    let mut block = PATTERN.clone();
    block[0] = who;
    block[1..9].copy_from_slice(&place.to_be_bytes());
    block.into()
}

fn digest_of(who: u8, mib: u64) -> String {
    let mut digest = Sha256::new();
    for place in 0..mib {
        digest.update(block(who, place));
    }
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes a body, answers with its digest in `X-Received`, and with a body of its own: that of `AT_ONCE + N` for `/N`.
async fn origin(mib: u64) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            served.spawn(serve(stream, mib));
        }
    });
    (address, tasks)
}

async fn serve(stream: TcpStream, mib: u64) {
    let mut stream = BufReader::with_capacity(CHUNK, stream);
    let (mut who, mut line) = (0, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        if let Some(rest) = line.strip_prefix("PUT /") {
            who = rest.split(' ').next().unwrap().parse::<u8>().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let (mut digest, mut left) = (Sha256::new(), mib * MIB);
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "{left} bytes of the upload are missing");
        digest.update(&chunk[..count]);
        left -= count as u64;
    }
    let received = hex(&digest.finalize());
    let length = mib * MIB;
    let head =
        format!("HTTP/1.1 200 OK\r\nX-Received: {received}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for place in 0..mib {
        stream
            .write_all(&block(AT_ONCE + who, place))
            .await
            .unwrap();
    }
}

async fn there_and_back(client: reqwest::Client, gate: SocketAddr, who: u8, mib: u64) {
    let body = stream::iter((0..mib).map(move |place| Ok::<_, std::io::Error>(block(who, place))));
    let answer = client
        .put(format!("http://{gate}/{who}"))
        .header("content-length", mib * MIB)
        .body(reqwest::Body::wrap_stream(body))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let expected = digest_of(who, mib);
    assert_eq!(answer.headers()["x-received"], expected.as_str());
    let mut digest = Sha256::new();
    let mut body = answer.bytes_stream();
    while let Some(chunk) = body.next().await {
        digest.update(chunk.unwrap());
    }
    assert_eq!(hex(&digest.finalize()), digest_of(AT_ONCE + who, mib));
}

async fn both_ways(mib: u64, most: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (backend, _origin) = origin(mib).await;
    let web = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let file = folder.path().join("gate.toml");
    let text = format!(
        "[gate]\nthreads = 2\n[[gate.listener]]\nname = \"web\"\naddress = \"{web}\"\n\
         [[gate.route]]\npath = \"/\"\nservice = \"APP\"\n\
         [gate.service.APP]\nbackends = [ {{ address = \"{backend}\" }} ]\n",
    );
    std::fs::write(&file, text).unwrap();
    let arguments = ["run", file.to_str().unwrap()];
    let program = Program::start(binary(), &arguments, &folder.path().join("log")).unwrap();
    eventually("the gate listens", WITHIN, async || {
        TcpStream::connect(web).await.ok()
    })
    .await
    .unwrap();
    let (idle, _) = program.memory().unwrap();
    let client = reqwest::Client::builder().build().unwrap();
    let mut under_way = JoinSet::new();
    for who in 0..AT_ONCE {
        under_way.spawn(there_and_back(client.clone(), web, who, mib));
    }
    under_way.join_all().await;
    let (_, peak) = program.memory().unwrap();
    println!(
        "{AT_ONCE} x {mib} MiB each way at once: idle {} MiB, peak {} MiB",
        idle / MIB,
        peak / MIB
    );
    assert!(peak - idle <= most * MIB, "peak {peak}, idle {idle}");
    assert_eq!(program.stop().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_large_bodies_pass_each_way_at_once() {
    both_ways(16, 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "sixteen gigabytes; run by ./test --long"]
async fn eight_gigabytes_pass_each_way_at_once() {
    both_ways(1024, 64).await;
}
