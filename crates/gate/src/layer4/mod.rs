//! Layer 4: listeners whose bytes go to one service as they are. Backends are chosen, reached and
//! judged by the same code as for requests: a listener has a route of its own that takes all.

pub(crate) mod tcp;
pub(crate) mod udp;

use std::sync::Arc;
use std::time::Duration;

use crate::routes::PathPattern;
use crate::settings::{ListenerSettings, RouteSettings};
use crate::snapshot::Route;

/// What a layer 4 listener carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A listener with `protocols = ["tcp"]` or `["udp"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer4Settings {
    /// What it carries.
    pub transport: Transport,
    /// Where it goes.
    pub service: String,
    /// Until a connection to a backend stands.
    pub connect: Duration,
    /// Silence in both directions that ends a connection or a session.
    pub idle: Duration,
    /// Backends that are tried for one connection.
    pub attempts: u32,
}

impl Layer4Settings {
    /// Defaults for `transport` and `service`.
    #[must_use]
    pub fn new(transport: Transport, service: &str) -> Self {
        Self {
            transport,
            service: service.to_owned(),
            connect: Duration::from_secs(5),
            idle: match transport {
                Transport::Tcp => Duration::from_secs(600),
                Transport::Udp => Duration::from_secs(60),
            },
            attempts: 2,
        }
    }
}

/// A layer 4 listener at run time.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) route: Route,
    pub(crate) settings: RouteSettings,
    pub(crate) idle: Duration,
}

impl Line {
    pub(crate) fn new(listener: &ListenerSettings, layer4: &Layer4Settings, route: Route) -> Self {
        let everything = PathPattern::Prefix(String::new());
        let mut settings = RouteSettings::new(&listener.name, everything, &layer4.service);
        settings.timeout.connect = layer4.connect;
        settings.retry.attempts = layer4.attempts;
        Self {
            route,
            settings,
            idle: layer4.idle,
        }
    }

    pub(crate) fn service(&self) -> &Arc<crate::service::Service> {
        &self.route.service
    }
}
