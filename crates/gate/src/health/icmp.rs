//! Does the machine answer a ping? By an unprivileged ping socket (icmp(7)), by a raw one where
//! that is not allowed and this process may.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::answer::{echo_reply, echo_request};
use super::probe::Fault;

/// A socket for echoes, and whether it is raw.
fn open(address: IpAddr) -> io::Result<(Socket, bool)> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let (socket, raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, true),
    };
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    Ok((socket, raw))
}

/// Sends an echo request and waits for its reply.
pub(super) async fn ping(address: IpAddr) -> Result<(), Fault> {
    let address = address.to_canonical();
    let (socket, raw) = open(address).map_err(|error| {
        Fault::Unable(format!(
            "a ping can't be sent: {error}; the group of this process must be in net.ipv4.ping_group_range, or it needs CAP_NET_RAW"
        ))
    })?;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| Fault::Unable(error.to_string()))?;
    let identifier = u16::from_be_bytes([nonce[0], nonce[1]]);
    let request = echo_request(address.is_ipv6(), identifier, 1, &nonce);
    let bad = |error: io::Error| Fault::Bad(format!("ping: {error}"));
    let unable = |error: io::Error| Fault::Unable(format!("ping: {error}"));
    // Tokio's sockets of datagrams are the same calls.
    let socket = std::net::UdpSocket::from(OwnedFd::from(socket));
    let socket = tokio::net::UdpSocket::from_std(socket).map_err(unable)?;
    socket.send(&request).await.map_err(bad)?;
    loop {
        let mut packet = [0; 1_024];
        let count = socket.recv(&mut packet).await.map_err(bad)?;
        let packet = packet.get(..count).unwrap_or_default();
        // A raw socket brings the echoes of others, too.
        if echo_reply(packet, address.is_ipv6(), raw) == Some(&nonce[..]) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_answers_a_ping_or_it_is_said_why_none_can_be_sent() {
        let local: IpAddr = [127, 0, 0, 1].into();
        let answer = ping(local).await;
        match open(local) {
            Ok(_) => assert_eq!(answer, Ok(())),
            Err(_) => {
                let Err(Fault::Unable(why)) = answer else {
                    panic!("{answer:?}");
                };
                assert!(why.contains("ping_group_range"), "{why}");
            }
        }
    }
}
