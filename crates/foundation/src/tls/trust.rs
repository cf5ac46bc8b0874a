//! The side that calls: whom it believes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use super::files::Files;
use super::pair::certificates;
use super::{Pair, TlsError, provider};

/// `tls = { … }` of what is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustSettings {
    /// PEM: the only authorities that are believed; those of the system when absent.
    pub ca_file: Option<PathBuf>,
    /// The name that certificates must have; the address that is called when absent.
    pub name: Option<ServerName<'static>>,
    /// What is shown when a certificate is asked for.
    pub identity: Option<Pair>,
}

impl TrustSettings {
    fn files(&self) -> Files {
        let pair = self
            .identity
            .iter()
            .flat_map(|pair| [&pair.certificate, &pair.key]);
        Files::new(self.ca_file.iter().chain(pair).cloned().collect())
    }

    /// A configuration for connections that offer `protocols` by ALPN.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn configure(&self, protocols: &[Vec<u8>]) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca_file {
            Some(file) => Arc::new(authorities(file)?),
            None => system_roots()?,
        };
        let builder = believing(roots)?;
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let loaded = pair.load()?;
                let key = SingleCertAndKey::from(loaded.key);
                builder.with_client_cert_resolver(Arc::new(key))
            }
        };
        config.alpn_protocols = protocols.to_vec();
        Ok(config)
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| TlsError::Content {
            file: file.to_owned(),
            why: format!("holds a certificate that can't be an authority: {error}"),
        })?;
    }
    Ok(roots)
}

/// Read once: several hundred certificates.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "certificates of the system");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    Ok(Arc::clone(roots))
}

/// A host as certificates name it; `None` when it is neither a DNS name nor an address.
#[must_use]
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

/// The TLS of connections to one service. Its files are read again by [`ClientTls::refresh`].
#[derive(Debug)]
pub struct ClientTls {
    settings: TrustSettings,
    protocols: Vec<Vec<u8>>,
    files: Files,
    config: ArcSwap<ClientConfig>,
}

impl ClientTls {
    /// Reads the files; `protocols` are offered by ALPN in this order.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(settings: TrustSettings, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        let files = settings.files();
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.to_vec()).collect();
        let config = settings.configure(&protocols)?;
        Ok(Self {
            settings,
            protocols,
            files,
            config: ArcSwap::from_pointee(config),
        })
    }

    /// What it was made of.
    #[must_use]
    pub fn settings(&self) -> &TrustSettings {
        &self.settings
    }

    /// What it offers by ALPN.
    #[must_use]
    pub fn protocols(&self) -> &[Vec<u8>] {
        &self.protocols
    }

    /// For the next connection; sessions are resumed among those of one configuration.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.load_full()
    }

    /// Whom a connection to `address` must reach.
    #[must_use]
    pub fn name(&self, address: std::net::IpAddr) -> ServerName<'static> {
        let literal = || ServerName::IpAddress(address.to_canonical().into());
        self.settings.name.clone().unwrap_or_else(literal)
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// What is wrong with which file; what was read before stays.
    pub fn refresh(&self) -> Result<(), TlsError> {
        self.files.about_to_read();
        let config = self.settings.configure(&self.protocols)?;
        self.config.store(Arc::new(config));
        Ok(())
    }

    /// Reads the files again when they changed. `place` is what the log calls it.
    pub fn look(&self, place: &str) {
        if !self.files.have_settled_differently() {
            return;
        }
        match self.refresh() {
            Ok(()) => tracing::info!(place, "certificates were read again"),
            Err(error) => {
                tracing::error!(%error, place, "changed certificates are refused, those before stay");
            }
        }
    }
}

/// For the HTTP clients of control roles: https urls are verified against `ca_file` alone when
/// there is one, else against the authorities of the system.
///
/// # Errors
/// What is wrong with the file.
pub fn for_urls(ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let settings = TrustSettings {
        ca_file: ca_file.map(Path::to_owned),
        ..TrustSettings::default()
    };
    match settings.configure(&[]) {
        // No https url can be called then; http ones can.
        Err(TlsError::NoRoots) => {
            believing(Arc::new(RootCertStore::empty())).map(|builder| builder.with_no_client_auth())
        }
        other => other,
    }
}

type Believing = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn believing(roots: Arc<RootCertStore>) -> Result<Believing, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| TlsError::Refused(error.to_string()))?;
    Ok(builder.with_root_certificates(roots))
}
