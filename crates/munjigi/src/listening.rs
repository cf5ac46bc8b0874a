//! Who listens on an address, as the kernel shows it: for a message that names who is in the way.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

/// State of a socket that listens, in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// A process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    name: String,
    pid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The process that listens on `address`; `None` when it is another user's, or nobody.
pub(crate) fn owner(address: SocketAddr) -> Option<Owner> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| {
            table
                .lines()
                .find_map(|line| inode(line, address).map(str::to_owned))
        })?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| holds(*pid, &socket))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let name = name.trim().chars().filter(|c| !c.is_control()).collect();
    Some(Owner { name, pid })
}

/// The inode of the socket of a line of `/proc/net/tcp` that listens where `address` would.
fn inode(line: &str, address: SocketAddr) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    let (ip, port) = local.split_once(':')?;
    let wanted = u16::from_str_radix(port, 16).ok()? == address.port();
    let ip = ip_of(ip)?;
    let overlaps = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
    (state == LISTENING && wanted && overlaps).then_some(())?;
    fields.nth(5)
}

/// An address as the kernel writes it: words of 32 bits in the order of the machine.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok();
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?.to_ne_bytes()).into());
    }
    let words = [word(0)?, word(1)?, word(2)?, word(3)?].map(u32::to_ne_bytes);
    let bytes: [u8; 16] = words.concat().try_into().ok()?;
    Some(Ipv6Addr::from(bytes).to_canonical())
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path())
            .is_ok_and(|to| to.as_os_str().as_bytes() == socket.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_found() {
        for local in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(local) else {
                // A machine without IPv6.
                assert!(local.contains("::"), "{local}");
                continue;
            };
            let address = listener.local_addr().unwrap();
            let found = owner(address).unwrap();
            assert_eq!(found.pid, std::process::id(), "{local}");
            assert!(!found.name.is_empty());
            drop(listener);
            assert_eq!(owner(address), None, "{local}");
        }
    }

    #[test]
    fn only_what_listens_there_is_in_the_way() {
        let line = |local: &str, state: &str| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0"
            )
        };
        let at: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let here = format!("{:08X}:1F90", u32::from_ne_bytes([127, 0, 0, 1]));
        let there = format!("{:08X}:1F90", u32::from_ne_bytes([10, 0, 0, 1]));
        assert_eq!(inode(&line(&here, "0A"), at), Some("4711"));
        assert_eq!(inode(&line("00000000:1F90", "0A"), at), Some("4711"));
        assert_eq!(inode(&line(&here, "01"), at), None);
        assert_eq!(inode(&line(&there, "0A"), at), None);
        assert_eq!(inode(&line("00000000:1F91", "0A"), at), None);
        for nonsense in [
            "",
            "  sl  local_address rem_address   st",
            "a b c d",
            "0: zz:1F90 x 0A",
        ] {
            assert_eq!(inode(nonsense, at), None);
        }
    }
}
