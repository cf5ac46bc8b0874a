//! Where backends come from: name servers and files, as they change.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use munjigi_gate::settings::{DiscoverySettings, DnsName, DnsSettings};
use munjigi_gate::{Gate, GateSettings};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::support::{ask, eventually, named, settings, start, status};

fn discovered(discovery: DiscoverySettings) -> GateSettings {
    let mut settings = settings(&[]);
    settings.services.get_mut("APP").unwrap().discovery = discovery;
    settings
}

/// Who answers; `None` for an answer of the gate.
async fn who(gate: &Gate) -> Option<String> {
    let (head, body) = ask(gate, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    (status(&head) == 200).then(|| String::from_utf8(body).unwrap())
}

async fn becomes(gate: &Gate, what: &str, wanted: Option<&str>) {
    eventually(what, || async { who(gate).await.as_deref() == wanted }).await;
}

/// A name server: addresses by name, and one name with SRV records.
#[derive(Default)]
struct Zone {
    addresses: BTreeMap<&'static str, [u8; 4]>,
    /// Weight, port, target.
    services: Vec<(u16, u16, &'static str)>,
    /// Answers nothing.
    silent: bool,
    asked: usize,
}

const SERVICE: &str = "_http._tcp.app.test";

async fn name_server(zone: Zone) -> (SocketAddr, Arc<Mutex<Zone>>, JoinSet<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let zone = Arc::new(Mutex::new(zone));
    let shared = Arc::clone(&zone);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut query = [0; 1500];
        loop {
            let (count, peer) = socket.recv_from(&mut query).await.unwrap();
            let answer = shared.lock().unwrap().answer(&query[..count]);
            if let Some(answer) = answer {
                socket.send_to(&answer, peer).await.unwrap();
            }
        }
    });
    (address, zone, tasks)
}

impl Zone {
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        self.asked += 1;
        if self.silent {
            return None;
        }
        let mut labels = Vec::new();
        let mut at = 12;
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
            at = end;
        }
        let name = labels.join(".");
        let question = &query[12..at + 5];
        let kind = query[at + 2];
        let records: Vec<Vec<u8>> = match kind {
            1 => self
                .addresses
                .get(&*name)
                .map(|ip| ip.to_vec())
                .into_iter()
                .collect(),
            33 if name == SERVICE => self.services.iter().map(service).collect(),
            _ => Vec::new(),
        };
        let mut answer = query[..2].to_vec();
        answer.extend([
            0x81,
            0x80,
            0,
            1,
            0,
            u8::try_from(records.len()).unwrap(),
            0,
            0,
            0,
            0,
        ]);
        answer.extend(question);
        for data in records {
            // The question's name, its kind, class IN, a time to live of 0.
            answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0]);
            answer.push(u8::try_from(data.len()).unwrap());
            answer.extend(data);
        }
        Some(answer)
    }
}

fn service(&(weight, port, target): &(u16, u16, &str)) -> Vec<u8> {
    let mut data = vec![0, 0];
    data.extend(weight.to_be_bytes());
    data.extend(port.to_be_bytes());
    for label in target.split('.') {
        data.push(u8::try_from(label.len()).unwrap());
        data.extend(label.as_bytes());
    }
    data.push(0);
    data
}

fn dns(name: DnsName, server: SocketAddr) -> DiscoverySettings {
    DiscoverySettings::Dns(DnsSettings {
        name,
        servers: vec![server],
        refresh_min: Duration::from_millis(100),
        refresh_max: Duration::from_secs(60),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_follow_srv_records_and_stay_while_nobody_answers() {
    let (first, second) = (named("first").await, named("second").await);
    let (server, zone, _server) = name_server(Zone {
        addresses: BTreeMap::from([("a.test", [127, 0, 0, 1]), ("b.test", [127, 0, 0, 1])]),
        services: vec![(5, first.address.port(), "a.test")],
        ..Zone::default()
    })
    .await;
    let gate = start(discovered(dns(
        DnsName::Services(SERVICE.to_owned()),
        server,
    )))
    .await;
    becomes(&gate, "the first is found", Some("first")).await;
    zone.lock().unwrap().services = vec![(5, second.address.port(), "b.test")];
    becomes(&gate, "the second takes its place", Some("second")).await;
    // A target that is gone, and then a server that is: what is known stays.
    let asked = |zone: &Mutex<Zone>| zone.lock().unwrap().asked;
    for silent in [false, true] {
        {
            let mut zone = zone.lock().unwrap();
            zone.services.clear();
            zone.silent = silent;
        }
        let before = asked(&zone);
        eventually("it asks again", || async { asked(&zone) > before + 2 }).await;
        assert_eq!(who(&gate).await.as_deref(), Some("second"));
    }
    {
        let mut zone = zone.lock().unwrap();
        zone.silent = false;
        zone.services = vec![(5, first.address.port(), "a.test")];
    }
    becomes(&gate, "the first is back", Some("first")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_are_the_addresses_of_a_name() {
    let only = named("only").await;
    let (server, _zone, _server) = name_server(Zone {
        addresses: BTreeMap::from([("app.test", [127, 0, 0, 1])]),
        ..Zone::default()
    })
    .await;
    let name = format!("app.test:{}", only.address.port()).parse().unwrap();
    let gate = start(discovered(dns(DnsName::Addresses(name), server))).await;
    becomes(&gate, "the name is found", Some("only")).await;
}

fn list(file: &Path, backends: &[SocketAddr]) {
    let lines = backends
        .iter()
        .map(|address| format!("{{ address = \"{address}\" }},\n"));
    let fresh = file.with_extension("new");
    std::fs::write(
        &fresh,
        format!("backends = [\n{}]\n", lines.collect::<String>()),
    )
    .unwrap();
    std::fs::rename(&fresh, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_follow_a_file_and_stay_while_it_is_bad() {
    let (first, second) = (named("first").await, named("second").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backends.toml");
    list(&file, &[first.address]);
    let gate = start(discovered(DiscoverySettings::File(file.clone()))).await;
    // Read before the gate serves: no request meets a service without backends.
    assert_eq!(who(&gate).await.as_deref(), Some("first"));
    std::fs::write(&file, "backends = [ nonsense").unwrap();
    // Longer than two looks; then good again: the bad one was passed over.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(who(&gate).await.as_deref(), Some("first"));
    list(&file, &[second.address]);
    becomes(&gate, "the file names another one", Some("second")).await;
    list(&file, &[]);
    becomes(&gate, "the file names none", None).await;
    // A file is discovered, too: what may never be a backend is refused.
    list(
        &file,
        &["169.254.169.254:80".parse().unwrap(), first.address],
    );
    becomes(&gate, "the good one of the file", Some("first")).await;
    assert_eq!(who(&gate).await.as_deref(), Some("first"));
}
