//! One probe of one backend, on the control runtime.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::line::{self, Line};
use super::{grpc, http2, icmp};
use crate::http1::head::{HeadLimits, ResponseHead, find_end};
use crate::service::Service;
use crate::settings::{HealthSettings, HttpProbe, Probe, Protocol};

/// Largest head of an answer, and all interim ones before it.
const ANSWER_MAX: usize = 32 * 1024;
const LIMITS: HeadLimits = HeadLimits {
    bytes: ANSWER_MAX,
    fields: 100,
};

/// Why there is no good answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The backend is not well.
    Bad(String),
    /// We can't ask: nothing is known of the backend.
    Unable(String),
}

/// Asks the backend at `address` once.
pub(crate) async fn run(
    settings: &HealthSettings,
    service: &Service,
    address: SocketAddr,
) -> Result<(), Fault> {
    let target = settings
        .port
        .map_or(address, |port| (address.ip(), port).into());
    let asked = ask(&settings.probe, service, target, address);
    match tokio::time::timeout(settings.timeout, asked).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Fault::Bad(format!(
            "no answer within {:?}",
            settings.timeout
        ))),
    }
}

async fn ask(
    probe: &Probe,
    service: &Service,
    target: SocketAddr,
    address: SocketAddr,
) -> Result<(), Fault> {
    match probe {
        Probe::Tcp => line::connect(target).await.map(drop),
        // A port of its own is not the one that serves requests.
        Probe::Http(probe) if http2_for(service) && target == address => {
            let sealed = service.way.get().is_some();
            let stream = line::open(service, target, b"h2").await?;
            http2::check(probe, stream, address, sealed).await
        }
        Probe::Http(probe) => {
            let stream = line::open(service, target, b"http/1.1").await?;
            http(probe, stream, address).await
        }
        Probe::Grpc(name) => {
            let sealed = service.way.get().is_some();
            let stream = line::open(service, target, b"h2").await?;
            grpc::check(stream, name, target, sealed).await
        }
        Probe::Icmp => icmp::ping(target.ip()).await,
    }
}

fn http2_for(service: &Service) -> bool {
    service.settings.protocol == Protocol::Http2
}

async fn http(
    probe: &HttpProbe,
    mut stream: Box<dyn Line>,
    address: SocketAddr,
) -> Result<(), Fault> {
    let own = address.to_string();
    let host = probe.host.as_deref().unwrap_or(&own);
    let request = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: munjigi-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        probe.method, probe.path
    );
    let gone = |error: std::io::Error| Fault::Bad(format!("connection: {error}"));
    stream.write_all(request.as_bytes()).await.map_err(gone)?;
    let mut bytes = Vec::new();
    loop {
        let bad = |error: crate::http1::BadMessage| Fault::Bad(format!("answer: {error}"));
        while let Some(end) = find_end(&bytes, 0, LIMITS).map_err(bad)? {
            let head = bytes.get(..end).unwrap_or_default();
            let head = ResponseHead::parse(head, probe.method.as_bytes(), LIMITS).map_err(bad)?;
            if head.status >= 200 {
                return judge(probe, head.status);
            }
            bytes.drain(..end);
        }
        let mut piece = [0; 4_096];
        match stream.read(&mut piece).await.map_err(gone)? {
            0 => {
                return Err(Fault::Bad(
                    "the connection ended without an answer".to_owned(),
                ));
            }
            count => bytes.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
        if bytes.len() > ANSWER_MAX {
            return Err(Fault::Bad("the answer's head is too large".to_owned()));
        }
    }
}

pub(super) fn judge(probe: &HttpProbe, status: u16) -> Result<(), Fault> {
    if probe.statuses.iter().any(|range| range.contains(&status)) {
        Ok(())
    } else {
        Err(Fault::Bad(format!("status {status}")))
    }
}

/// How long until the next probe: the interval, a tenth more or less by `chance` (0 to 1).
pub(crate) fn pause(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_a_tenth() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(second, 0.0), Duration::from_millis(900));
        assert_eq!(pause(second, 0.5), second);
        assert_eq!(pause(second, 7.0), Duration::from_millis(1_100));
    }
}
