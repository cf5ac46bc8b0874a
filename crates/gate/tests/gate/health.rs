//! Probes, ejection, panic, and what is kept of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use munjigi_gate::settings::{
    EjectionSettings, HealthSettings, HttpProbe, Lookup, PathPattern, Probe, RouteSettings, Share,
};
use munjigi_gate::{Discovery, Gate, GateSettings, Wiring};
use serde_json::Value;

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// A gate with an admin socket and a data folder.
struct Watched {
    gate: Gate,
    folder: tempfile::TempDir,
}

fn checked(addresses: &[SocketAddr], probe: Probe) -> GateSettings {
    let mut settings = settings(addresses);
    service(&mut settings).health = Some(HealthSettings {
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(5),
        ..HealthSettings::new(probe)
    });
    settings
}

async fn watched(settings: GateSettings, wiring: Wiring) -> Watched {
    let folder = tempfile::tempdir().unwrap();
    watched_in(folder, settings, wiring).await
}

async fn watched_in(folder: tempfile::TempDir, settings: GateSettings, wiring: Wiring) -> Watched {
    let mut settings = settings;
    settings.admin.socket = Some(folder.path().join("admin.sock"));
    settings.data = folder.path().join("gate-data");
    let gate = Gate::start(settings, wiring).await.unwrap();
    Watched { gate, folder }
}

impl Watched {
    async fn backends(&self) -> Vec<Value> {
        let page = admin(&self.folder.path().join("admin.sock"), "/backends").await;
        let page: Value = serde_json::from_str(&page).unwrap();
        page["services"][0]["backends"].as_array().unwrap().clone()
    }

    async fn states(&self) -> Vec<String> {
        let backends = self.backends().await;
        let state = |backend: &Value| backend["state"].as_str().unwrap().to_owned();
        backends.iter().map(state).collect()
    }

    async fn until(&self, states: &[&str]) {
        eventually(&format!("{states:?}"), || async {
            self.states().await == states
        })
        .await;
    }

    async fn until_probed(&self, times: u64) {
        eventually("probes", || async {
            let count = |backend: &Value| {
                let probe = &backend["probe"];
                probe["good"].as_u64().unwrap() + probe["bad"].as_u64().unwrap()
            };
            self.backends()
                .await
                .iter()
                .all(|backend| count(backend) >= times)
        })
        .await;
    }

    /// Answers of so many requests.
    async fn answers(&self, count: usize) -> Vec<String> {
        let mut answers = Vec::new();
        for _ in 0..count {
            let (head, body) = ask(&self.gate, GET).await;
            answers.push(match status(&head) {
                200 => String::from_utf8(body).unwrap(),
                status if body.is_empty() => status.to_string(),
                _ if body.starts_with(b"{") => code(&body),
                _ => String::from_utf8(body).unwrap(),
            });
        }
        answers
    }
}

/// An origin whose `/health` answers with a status that the test sets.
async fn moody(name: &'static str, status: &Arc<AtomicU16>) -> Answering {
    let status = Arc::clone(status);
    answering(move |head| {
        if head.starts_with("GET /health ") {
            assert!(head.contains("User-Agent: munjigi-health\r\n"));
            response(status.load(Ordering::Relaxed), "", "")
        } else {
            response(200, "", name)
        }
    })
    .await
}

fn http() -> Probe {
    Probe::Http(HttpProbe::new("/health"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unhealthy_backend_gets_nothing_until_it_is_well_again() {
    let (one, other) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(204)));
    let origins = [moody("one", &one).await, moody("other", &other).await];
    let gate = watched(checked(&addresses(&origins), http()), Wiring::default()).await;
    gate.until_probed(1).await;
    gate.until(&["up", "up"]).await;
    assert_eq!(gate.answers(4).await, ["one", "other", "one", "other"]);
    one.store(500, Ordering::Relaxed);
    gate.until(&["unhealthy", "up"]).await;
    assert_eq!(gate.answers(4).await, ["other"; 4]);
    assert_eq!(gate.backends().await[0]["why"], "status 500");
    other.store(404, Ordering::Relaxed);
    gate.until(&["unhealthy", "unhealthy"]).await;
    assert_eq!(gate.answers(1).await, ["no_backend"]);
    one.store(301, Ordering::Relaxed);
    gate.until(&["up", "unhealthy"]).await;
    assert_eq!(gate.answers(2).await, ["one", "one"]);
    let page = admin(&gate.folder.path().join("admin.sock"), "/metrics").await;
    assert!(page.contains("munjigi_gate_backends{service=\"APP\",state=\"unhealthy\"} 1\n"));
    assert!(page.contains("munjigi_gate_backend_probe_seconds{service=\"APP\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_probe_is_sent_at_once_and_counts_alone() {
    let bad = Arc::new(AtomicU16::new(500));
    let origins = [moody("one", &bad).await];
    let mut settings = checked(&addresses(&origins), http());
    let health = service(&mut settings).health.as_mut().unwrap();
    health.interval = Duration::from_secs(3_600);
    health.fall = 100;
    let gate = watched(settings, Wiring::default()).await;
    gate.until(&["unhealthy"]).await;
    assert_eq!(gate.backends().await[0]["probe"]["bad"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_probe_asks_and_takes_for_good_is_as_the_settings_say() {
    let asked = answering(|head| {
        let expected = head.starts_with("HEAD /ready?x HTTP/1.1\r\nHost: app.example\r\n");
        response(if expected { 418 } else { 200 }, "", "")
    })
    .await;
    let probe = HttpProbe {
        path: "/ready?x".to_owned(),
        method: "HEAD".to_owned(),
        host: Some("app.example".to_owned()),
        statuses: vec![200..=200, 418..=418],
    };
    let elsewhere = nobody().await;
    let mut settings = checked(&[elsewhere], Probe::Http(probe.clone()));
    service(&mut settings).health.as_mut().unwrap().port = Some(asked.address.port());
    let gate = watched(settings, Wiring::default()).await;
    gate.until_probed(2).await;
    assert_eq!(gate.states().await, ["up"]);
    // Only what is listed is good.
    let probe = HttpProbe {
        statuses: vec![200..=200],
        ..probe
    };
    let gate = watched(
        checked(&[asked.address], Probe::Http(probe)),
        Wiring::default(),
    )
    .await;
    gate.until(&["unhealthy"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_answers_to_probes_are_bad() {
    for (answer, why) in [
        ("", "without an answer"),
        ("HTTP/1.1 200 OK\r\nbroken\r\n\r\n", "answer"),
        ("nonsense\r\n\r\n", "answer"),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n",
            "status 503",
        ),
    ] {
        let origin = answering(move |_| answer.to_owned()).await;
        let gate = watched(checked(&[origin.address], http()), Wiring::default()).await;
        gate.until(&["unhealthy"]).await;
        let shown = gate.backends().await[0]["why"].as_str().unwrap().to_owned();
        assert!(shown.contains(why), "{shown}");
    }
    let silent = origin(|mut peer, _| async move { while peer.fill().await {} }).await;
    let mut settings = checked(&[silent.address], http());
    service(&mut settings).health.as_mut().unwrap().timeout = Duration::from_millis(50);
    let gate = watched(settings, Wiring::default()).await;
    gate.until(&["unhealthy"]).await;
    let shown = gate.backends().await[0]["why"].to_string();
    assert!(shown.contains("no answer within 50ms"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_enough_for_tcp() {
    let origin = numbered(1).await;
    let gate = watched(
        checked(&[origin[0].address, nobody().await], Probe::Tcp),
        Wiring::default(),
    )
    .await;
    gate.until(&["up", "unhealthy"]).await;
    gate.until_probed(3).await;
    assert_eq!(gate.answers(3).await, ["0"; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_finds_this_machine_or_says_what_it_lacks() {
    let origin = numbered(1).await;
    let gate = watched(checked(&addresses(&origin), Probe::Icmp), Wiring::default()).await;
    eventually("a ping", || async {
        let probe = gate.backends().await[0]["probe"].clone();
        let lacks = probe["error"]
            .as_str()
            .is_some_and(|why| why.contains("ping_group_range"));
        probe["good"].as_u64().unwrap() > 1 || lacks
    })
    .await;
    // Nothing is known against it either way.
    assert_eq!(gate.answers(1).await, ["0"]);
}

/// A gRPC server whose health is what the test says: a status of grpc.health.v1, or 100 and more
/// for a `grpc-status` alone.
async fn grpc(serving: &Arc<AtomicU32>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Arc::clone(serving);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = Arc::clone(&serving);
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    let status = serving.load(Ordering::Relaxed);
                    let mut head =
                        http::Response::builder().header("content-type", "application/grpc");
                    if status >= 100 {
                        head = head.header("grpc-status", status - 100);
                        respond.send_response(head.body(()).unwrap(), true).unwrap();
                        continue;
                    }
                    let mut body = respond
                        .send_response(head.body(()).unwrap(), false)
                        .unwrap();
                    let message = vec![0, 0, 0, 0, 2, 8, u8::try_from(status).unwrap()];
                    body.send_data(Bytes::from(message), false).unwrap();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    body.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_service_says_itself_how_it_is() {
    let serving = Arc::new(AtomicU32::new(1));
    let address = grpc(&serving).await;
    let plain = numbered(1).await;
    let probe = Probe::Grpc("model.Service".to_owned());
    let gate = watched(
        checked(&[address, plain[0].address], probe),
        Wiring::default(),
    )
    .await;
    gate.until(&["up", "unhealthy"]).await;
    gate.until_probed(2).await;
    for (status, why) in [(2, "status 2, not SERVING"), (105, "grpc-status 5")] {
        serving.store(status, Ordering::Relaxed);
        gate.until(&["unhealthy", "unhealthy"]).await;
        let shown = gate.backends().await[0]["why"].to_string();
        assert!(shown.contains(why), "{shown}");
        serving.store(1, Ordering::Relaxed);
        gate.until(&["up", "unhealthy"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_good_ones_all_are_asked_where_that_is_wanted() {
    let bad = Arc::new(AtomicU16::new(500));
    let origins = [moody("one", &bad).await, moody("other", &bad).await];
    let mut settings = checked(&addresses(&origins), http());
    service(&mut settings).panic_below = Some(Share::new(0.5));
    let gate = watched(settings, Wiring::default()).await;
    gate.until(&["unhealthy", "unhealthy"]).await;
    assert_eq!(gate.answers(2).await, ["one", "other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_counts_for_where_and_while_the_registry_is_down() {
    let (one, other) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
    let origins = [moody("one", &one).await, moody("other", &other).await];
    let both = vec![
        worker(origins[0].address, "1"),
        worker(origins[1].address, "2"),
    ];
    let registry = told("APP", both);
    let mut settings = checked(&[], http());
    service(&mut settings).discovery = munjigi_gate::settings::DiscoverySettings::Registry;
    let mut only = RouteSettings::new("only", PathPattern::prefix("/only").unwrap(), "APP");
    only.lookup = Some(Lookup::parse("metadata.serverId = query.serverId", false).unwrap());
    settings.routes.push(only);
    let wiring = Wiring {
        discovery: Some(Arc::clone(&registry) as Arc<dyn Discovery>),
        ..Wiring::default()
    };
    let gate = watched(settings, wiring).await;
    let only = async |id: &str| {
        let request = format!("GET /only?serverId={id} HTTP/1.1\r\nHost: x\r\n\r\n");
        ask(&gate.gate, &request).await
    };
    gate.until_probed(1).await;
    assert_eq!(only("1").await.1, b"one");
    one.store(500, Ordering::Relaxed);
    gate.until(&["unhealthy", "up"]).await;
    let (head, body) = only("1").await;
    assert_eq!(
        (status(&head), code(&body).as_str()),
        (503, "instance_away")
    );
    assert!(header(&head, "retry-after").is_some());
    assert_eq!(only("2").await.1, b"other");
    // The registry goes: who passes stays, who does not gets nothing, who recovers comes back.
    registry.tell(Vec::new(), true);
    eventually("the news", || async {
        let page = admin(&gate.folder.path().join("admin.sock"), "/backends").await;
        page.contains("\"unsure\":true")
    })
    .await;
    assert_eq!(gate.states().await, ["unhealthy", "up"]);
    assert_eq!(gate.answers(2).await, ["other"; 2]);
    one.store(200, Ordering::Relaxed);
    gate.until(&["up", "up"]).await;
    assert_eq!(only("1").await.1, b"one");
    // A worker that moved keeps its name: who is dead does not count.
    let twins = vec![worker(nobody().await, "2"), worker(origins[1].address, "2")];
    registry.tell(twins, false);
    gate.until(&["unhealthy", "up"]).await;
    assert_eq!(only("2").await.1, b"other");
    let twins = vec![
        worker(origins[0].address, "2"),
        worker(origins[1].address, "2"),
    ];
    registry.tell(twins, false);
    gate.until(&["up", "up"]).await;
    eventually("two live ones", || async {
        code(&only("2").await.1) == "duplicate_server_id"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uptime_is_kept_over_a_restart_and_its_window_is_said() {
    let origin = numbered(1).await;
    let settings = checked(&[origin[0].address, nobody().await], Probe::Tcp);
    let gate = watched(settings.clone(), Wiring::default()).await;
    gate.until(&["up", "unhealthy"]).await;
    let observed = |backend: &Value| backend["uptime"]["observedSeconds"].as_u64().unwrap_or(0);
    eventually("a second of probes", || async {
        gate.backends()
            .await
            .iter()
            .all(|backend| observed(backend) >= 1)
    })
    .await;
    let Watched { gate, folder } = gate;
    gate.drain(Duration::from_secs(5)).await;
    let mut again = settings;
    service(&mut again).health.as_mut().unwrap().interval = Duration::from_secs(3_600);
    let gate = watched_in(folder, again, Wiring::default()).await;
    let backends = gate.backends().await;
    assert_eq!(backends[0]["uptime"]["share"], 1.0);
    assert_eq!(backends[1]["uptime"]["share"], 0.0);
    assert_eq!(backends[0]["uptime"]["windowDays"], 30);
    assert!(backends.iter().all(|backend| observed(backend) >= 1));
}

fn ejecting(addresses: &[SocketAddr], time: Duration, at_most: f64) -> GateSettings {
    let mut settings = settings(addresses);
    settings.routes[0].retry.attempts = 1;
    service(&mut settings).ejection = Some(EjectionSettings {
        consecutive_failures: 3,
        time,
        at_most: Share::new(at_most),
    });
    settings
}

const LONG: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_failure_ejects_and_nothing_else_does() {
    for (answer, ejects) in [
        (response(502, "", ""), true),
        (response(503, "", ""), true),
        (response(504, "", ""), true),
        (String::new(), true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\ncut".to_owned(),
            true,
        ),
        (response(503, "Retry-After: 1\r\n", ""), false),
        (response(500, "", ""), false),
        (response(404, "", ""), false),
    ] {
        let shown = answer.clone();
        let cut = answer.contains("cut");
        let bad = origin(move |mut peer, _| {
            let answer = answer.clone();
            async move {
                while let Some(_head) = peer.head().await {
                    peer.send(&answer).await;
                    if cut || answer.is_empty() {
                        return;
                    }
                }
            }
        })
        .await;
        let good = numbered(1).await;
        let gate = watched(
            ejecting(&[bad.address, good[0].address], LONG, 0.5),
            Wiring::default(),
        )
        .await;
        for _ in 0..6 {
            let mut client = client(&gate.gate).await;
            client
                .send(&GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
                .await;
            client.rest().await;
        }
        let expected = if ejects { "ejected" } else { "up" };
        gate.until(&[expected, "up"]).await;
        if ejects {
            assert_eq!(gate.answers(4).await, ["0"; 4], "{shown:?}");
            assert_eq!(gate.backends().await[0]["ejections"], 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_eject_and_at_most_so_many_are_out() {
    let good = numbered(1).await;
    let dead = [nobody().await, nobody().await, nobody().await];
    let addresses = [dead[0], dead[1], dead[2], good[0].address];
    let gate = watched(ejecting(&addresses, LONG, 0.5), Wiring::default()).await;
    gate.answers(40).await;
    let states = gate.states().await;
    let out = states.iter().filter(|state| *state == "ejected").count();
    assert_eq!(out, 2, "half of four: {states:?}");
    // One alone is never left out by a half.
    let gate = watched(ejecting(&dead[..1], LONG, 0.5), Wiring::default()).await;
    assert_eq!(gate.answers(6).await, ["connect_failed"; 6]);
    assert_eq!(gate.states().await, ["up"]);
    let gate = watched(ejecting(&dead[..1], LONG, 1.0), Wiring::default()).await;
    assert_eq!(gate.answers(4).await[3], "no_backend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_silent_or_falls_silent_is_ejected() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"] {
        let silent = origin(move |mut peer, _| async move {
            while let Some(_head) = peer.head().await {
                peer.send(answer).await;
            }
        })
        .await;
        let good = numbered(1).await;
        let mut settings = ejecting(&[silent.address, good[0].address], LONG, 0.5);
        settings.routes[0].timeout.response = Duration::from_millis(100);
        settings.routes[0].timeout.idle = Duration::from_millis(100);
        let gate = watched(settings, Wiring::default()).await;
        for _ in 0..6 {
            let mut client = client(&gate.gate).await;
            client
                .send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .await;
            client.rest().await;
        }
        gate.until(&["ejected", "up"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ejected_backend_comes_back_after_its_time() {
    let broken = Arc::new(AtomicU16::new(503));
    let state = Arc::clone(&broken);
    let bad = answering(move |_| response(state.load(Ordering::Relaxed), "", "back")).await;
    let good = numbered(1).await;
    let time = Duration::from_millis(300);
    let gate = watched(
        ejecting(&[bad.address, good[0].address], time, 0.5),
        Wiring::default(),
    )
    .await;
    gate.answers(6).await;
    broken.store(200, Ordering::Relaxed);
    let asked = bad.count();
    assert_eq!(asked, 3);
    gate.until(&["up", "up"]).await;
    eventually("it is asked again", || async {
        gate.answers(1).await == ["back"]
    })
    .await;
}
