//! Listening sockets by what they are for, so that a process can hand them to the one that takes its place: the
//! kernel's queue of a socket lives on as long as one process holds it, and nobody who connects is turned away.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// The listening sockets of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Sockets(Arc<Mutex<BTreeMap<String, Kept>>>);

#[derive(Debug)]
struct Kept {
    descriptors: Vec<OwnedFd>,
    /// Somebody in this process listens on them.
    claimed: bool,
}

/// What a socket is kept under: its role and the address that the settings name. Where those leave the port to the
/// kernel, `name` tells several apart.
#[must_use]
pub fn label(role: &str, name: &str, address: SocketAddr) -> String {
    if address.port() == 0 {
        return format!("{role} {name} {address}");
    }
    format!("{role} {address}")
}

impl Sockets {
    /// The sockets that another process handed over.
    #[must_use]
    pub fn handed_over(all: Vec<(String, Vec<OwnedFd>)>) -> Self {
        let kept = all.into_iter().map(|(label, descriptors)| {
            let kept = Kept {
                descriptors,
                claimed: false,
            };
            (label, kept)
        });
        Self(Arc::new(Mutex::new(kept.collect())))
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Kept>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The sockets kept under `label`, for one who will listen on them.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn claim(&self, label: &str) -> io::Result<Vec<OwnedFd>> {
        self.with(|all| match all.get_mut(label) {
            Some(kept) => {
                kept.claimed = true;
                copies(&kept.descriptors)
            }
            None => Ok(Vec::new()),
        })
    }

    /// Keeps `sockets` under `label`, in place of what was there.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn keep<S: AsFd>(&self, label: &str, sockets: &[S]) -> io::Result<()> {
        let kept = Kept {
            descriptors: copies(sockets)?,
            claimed: true,
        };
        self.with(|all| all.insert(label.to_owned(), kept));
        Ok(())
    }

    /// Listens on `address`: on the socket kept under `label` if there is one, else on a new one, which is kept.
    ///
    /// # Errors
    /// What the kernel says, as it says it.
    pub fn listen(&self, label: &str, address: SocketAddr) -> io::Result<std::net::TcpListener> {
        if let Some(socket) = self.claim(label)?.pop() {
            return Ok(socket.into());
        }
        let socket = super::bind(address, false)?;
        self.keep(label, std::slice::from_ref(&socket))?;
        Ok(socket)
    }

    /// Nobody listens under `label` any more.
    pub fn forget(&self, label: &str) {
        self.with(|all| all.remove(label));
    }

    /// Closes what was handed over and is not wanted by the settings of this process.
    pub fn forget_unclaimed(&self) {
        self.with(|all| all.retain(|_, kept| kept.claimed));
    }

    /// Closes all: who still holds a socket serves it on, nobody gets another one.
    pub fn clear(&self) {
        self.with(BTreeMap::clear);
    }

    /// All of them, to hand over.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn all(&self) -> io::Result<Vec<(String, Vec<OwnedFd>)>> {
        self.with(|all| {
            all.iter()
                .map(|(label, kept)| Ok((label.clone(), copies(&kept.descriptors)?)))
                .collect()
        })
    }
}

fn copies<S: AsFd>(sockets: &[S]) -> io::Result<Vec<OwnedFd>> {
    sockets
        .iter()
        .map(|socket| socket.as_fd().try_clone_to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_over_listens_on_the_same_socket() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let name = label("hub", "", any);
        let before = Sockets::default();
        let first = before.listen(&name, any).unwrap();
        let address = first.local_addr().unwrap();
        let after = Sockets::handed_over(before.all().unwrap());
        drop((first, before));
        let waiting = std::net::TcpStream::connect(address).unwrap();
        let second = after.listen(&name, any).unwrap();
        let (_, peer) = second.accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
    }

    #[test]
    fn what_is_not_claimed_is_closed() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let before = Sockets::default();
        let address = before.listen("a", any).unwrap().local_addr().unwrap();
        let kept = before.listen("b", any).unwrap();
        let after = Sockets::handed_over(before.all().unwrap());
        before.clear();
        assert_eq!(after.claim("b").unwrap().len(), 1);
        after.forget_unclaimed();
        assert!(std::net::TcpStream::connect(address).is_err());
        assert!(std::net::TcpStream::connect(kept.local_addr().unwrap()).is_ok());
    }

    #[test]
    fn ports_left_to_the_kernel_are_told_apart_by_name() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let fixed: SocketAddr = "127.0.0.1:80".parse().unwrap();
        assert_ne!(label("gate", "web", any), label("gate", "inner", any));
        assert_eq!(label("gate", "web", fixed), label("gate", "www", fixed));
    }
}
