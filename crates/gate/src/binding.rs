//! Binding: the sockets of listeners, one for each thread, new or of the process before.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use munjigi_foundation::listen::{Sockets, label};
use socket2::SockRef;

use crate::gate::StartError;
use crate::layer4;
use crate::settings::ListenerSettings;

/// A listener that listens, and is not served yet.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) settings: ListenerSettings,
    pub(crate) address: SocketAddr,
    pub(crate) sockets: Vec<OwnedFd>,
}

impl Bound {
    /// What its sockets are for.
    pub(crate) fn label(&self) -> String {
        socket_label(&self.settings)
    }
}

/// What the sockets of a listener are for.
pub(crate) fn socket_label(settings: &ListenerSettings) -> String {
    // The sockets of one kind are no use for the other.
    let role = if settings.is_udp() {
        "gate-udp"
    } else {
        "gate"
    };
    label(role, &settings.name, settings.address)
}

/// Binds every listener once for each thread; all or nothing, with all that is wrong.
pub(crate) fn bind_all(
    listeners: &[ListenerSettings],
    threads: usize,
    sockets: &Sockets,
) -> Result<Vec<Bound>, Vec<StartError>> {
    let mut all = Vec::new();
    let mut reasons = Vec::new();
    for settings in listeners {
        match bind(settings, threads.max(1), sockets) {
            Ok(bound) => all.push(bound),
            Err(source) => reasons.push(StartError::Listen {
                name: settings.name.clone(),
                address: settings.address,
                source,
            }),
        }
    }
    if reasons.is_empty() {
        Ok(all)
    } else {
        Err(reasons)
    }
}

/// Bytes that wait in the kernel for a client beyond those under way to it. Without a limit the kernel takes some
/// megabytes of a body for each client that does not read, and a thousand of them all the memory that it has for TCP.
const UNSENT_MAX: u32 = 128 * 1024;

fn bind(settings: &ListenerSettings, threads: usize, kept: &Sockets) -> io::Result<Bound> {
    let label = socket_label(settings);
    // A listener that only changes its name, and one of the process before us, go on with their sockets: nobody in
    // their queues is turned away.
    let mut sockets: Vec<OwnedFd> = kept.claim(&label)?;
    let open = |address, share| -> io::Result<OwnedFd> {
        Ok(if settings.is_udp() {
            layer4::udp::bind(address, share)?.into()
        } else {
            munjigi_foundation::listen::bind(address, share)?.into()
        })
    };
    if sockets.is_empty() {
        // The first one decides on the port; a port that another program shares with us by
        // SO_REUSEPORT would take our connections, so it must be free at first.
        if settings.address.port() != 0 {
            drop(open(settings.address, false)?);
        }
        sockets.push(open(settings.address, true)?);
    }
    let address = match sockets.first() {
        Some(first) => SockRef::from(first).local_addr()?.as_socket(),
        None => None,
    };
    let address = address.unwrap_or(settings.address);
    while sockets.len() < threads {
        sockets.push(open(address, true)?);
    }
    if !settings.is_udp() {
        for socket in &sockets {
            // Inherited by what it accepts: saves system calls for each connection.
            let socket = SockRef::from(socket);
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_notsent_lowat(UNSENT_MAX)?;
        }
    }
    kept.keep(&label, &sockets)?;
    Ok(Bound {
        settings: settings.clone(),
        address,
        sockets,
    })
}
