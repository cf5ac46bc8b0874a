//! Certificates of listeners and whom services believe, as they are now. They are read with the
//! settings, again at each reload, and again when their files change.

pub(crate) mod figures;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use munjigi_foundation::tls::{ClientTls, ServerTls, TlsError};

use crate::settings::{GateSettings, ListenerSettings, ProxyMode, ServiceSettings};
use crate::snapshot::Snapshot;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What a connection of a listener passes before its first request.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) proxy: ProxyMode,
    pub(crate) tls: Option<Arc<ServerTls>>,
}

/// Why credentials can't be used.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The listener or service.
    pub(crate) place: String,
    pub(crate) error: TlsError,
}

/// TLS to the backends of a service.
#[derive(Debug)]
pub(crate) struct Way {
    /// Never 0, and unique in this process: connections of different ways are never mixed.
    pub(crate) id: u64,
    pub(crate) tls: ClientTls,
}

static NEXT_WAY: AtomicU64 = AtomicU64::new(1);

/// All certificates of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    /// Of listeners that need more than a connection.
    doors: HashMap<String, Door>,
    services: HashMap<String, Arc<Way>>,
}

impl Credentials {
    /// Reads all files. What a listener or service has already, by the same settings, is kept
    /// with its sessions and reads its files again.
    ///
    /// # Errors
    /// The first that can't be used; nothing has changed then.
    pub(crate) fn load(settings: &GateSettings, before: Option<&Self>) -> Result<Self, Refused> {
        let mut fresh = Self::default();
        // All are read first, so that a broken one leaves those before it as they were.
        for listener in &settings.listeners {
            fresh.add_listener(listener)?;
        }
        for (name, service) in &settings.services {
            fresh.add_service(name, service)?;
        }
        if let Some(before) = before {
            fresh.keep(before)?;
        }
        Ok(fresh)
    }

    fn add_listener(&mut self, listener: &ListenerSettings) -> Result<(), Refused> {
        if listener.tls.is_none() && listener.proxy_protocol == ProxyMode::Off {
            return Ok(());
        }
        let load = |tls| {
            let place = format!("listener {}", listener.name);
            ServerTls::load(tls, listener.alpn()).map_err(|error| Refused { place, error })
        };
        let tls = listener.tls.clone().map(load).transpose()?.map(Arc::new);
        let proxy = listener.proxy_protocol;
        self.doors
            .insert(listener.name.clone(), Door { proxy, tls });
        Ok(())
    }

    fn add_service(&mut self, name: &str, service: &ServiceSettings) -> Result<(), Refused> {
        let Some(tls) = service.tls.clone() else {
            return Ok(());
        };
        let place = || format!("service {name}");
        let tls = ClientTls::load(tls, service.alpn()).map_err(|error| Refused {
            place: place(),
            error,
        })?;
        let id = NEXT_WAY.fetch_add(1, Ordering::Relaxed);
        self.services
            .insert(name.to_owned(), Arc::new(Way { id, tls }));
        Ok(())
    }

    /// Takes over what stays the same, for the sake of its sessions.
    fn keep(&mut self, before: &Self) -> Result<(), Refused> {
        for (name, door) in &mut self.doors {
            let old = before.doors.get(name).and_then(|old| old.tls.as_ref());
            if let (Some(new), Some(old)) = (&mut door.tls, old)
                && new.settings() == old.settings()
                && new.protocols() == old.protocols()
            {
                let place = || format!("listener {name}");
                old.refresh().map_err(|error| Refused {
                    place: place(),
                    error,
                })?;
                *new = Arc::clone(old);
            }
        }
        for (name, new) in &mut self.services {
            if let Some(old) = before.services.get(name)
                && new.tls.settings() == old.tls.settings()
                && new.tls.protocols() == old.tls.protocols()
            {
                let place = || format!("service {name}");
                old.tls.refresh().map_err(|error| Refused {
                    place: place(),
                    error,
                })?;
                *new = Arc::clone(old);
            }
        }
        Ok(())
    }

    /// What stands before the requests of `listener`; `None` for a plain one.
    pub(crate) fn door(&self, listener: &str) -> Option<&Door> {
        // Most gates behind another have none at all.
        if self.doors.is_empty() {
            return None;
        }
        self.doors.get(listener)
    }

    /// How the backends of `service` are called; `None` without TLS.
    pub(crate) fn service(&self, service: &str) -> Option<&Arc<Way>> {
        self.services.get(service)
    }

    /// Listeners with TLS, by name.
    pub(crate) fn listeners(&self) -> Vec<(&str, &ServerTls)> {
        let mut all: Vec<_> = self
            .doors
            .iter()
            .filter_map(|(name, door)| Some((name.as_str(), door.tls.as_deref()?)))
            .collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }

    /// Reads the files again that changed.
    fn look(&self) {
        for (name, tls) in self.listeners() {
            tls.look(&format!("listener {name}"));
        }
        for (name, way) in &self.services {
            way.tls.look(&format!("service {name}"));
        }
    }
}

/// Reads the files of what is served again whenever they change.
pub(crate) async fn watch(snapshot: Arc<ArcSwap<Snapshot>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let credentials = Arc::clone(&snapshot.load().credentials);
        credentials.look();
    }
}
