//! What operators tell a running gate about single backends. It holds until the gate ends, also
//! while discovery brings news and settings are reloaded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::backends::Service;
use crate::gate::Gate;

impl Gate {
    fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.snapshot().services.get(name).map(Arc::clone)
    }

    /// Sends no more balanced requests to a backend, or takes that back. Requests in flight and
    /// tunnels go on, `where` still reaches it. False when there is no such backend.
    pub fn drain_backend(&self, service: &str, address: SocketAddr, drained: bool) -> bool {
        let service = self.service(service);
        service.is_some_and(|service| service.drain(address, drained, Instant::now()))
    }

    /// Gives a backend another weight (1 to 1000), or its own again. False when there is no such
    /// backend.
    pub fn weigh_backend(&self, service: &str, address: SocketAddr, weight: Option<u32>) -> bool {
        let service = self.service(service);
        service.is_some_and(|service| service.set_weight(address, weight, Instant::now()))
    }
}
