//! The side that is called: certificates chosen by the name that the client asks for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::files::Files;
use super::pair::{Loaded, certificates};
use super::{CertificateInfo, Pair, TlsError, provider};

/// How often files are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// The certificate that a client must or may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// PEM: its authorities.
    pub ca: PathBuf,
    /// A client without one is served, too; one with a wrong one never.
    pub optional: bool,
}

/// `tls = { … }` of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// At least one; the first where no name fits.
    pub pairs: Vec<Pair>,
    /// Whom clients must be.
    pub client: Option<ClientAuth>,
}

impl ServerSettings {
    fn files(&self) -> Files {
        let pairs = self
            .pairs
            .iter()
            .flat_map(|pair| [&pair.certificate, &pair.key]);
        let authority = self.client.iter().map(|client| &client.ca);
        Files::new(pairs.chain(authority).cloned().collect())
    }
}

/// Certificates by name.
#[derive(Debug)]
struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
    infos: Vec<CertificateInfo>,
}

impl ByName {
    fn load(pairs: &[Pair]) -> Result<Self, TlsError> {
        let loaded: Vec<Loaded> = pairs.iter().map(Pair::load).collect::<Result<_, _>>()?;
        let none = || TlsError::Refused("there is no certificate".to_owned());
        let first = loaded.first().ok_or_else(none)?;
        let mut by_name = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            first: Arc::clone(&first.key),
            infos: loaded.iter().map(|pair| pair.info.clone()).collect(),
        };
        for pair in &loaded {
            for name in &pair.info.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut by_name.wildcard, rest),
                    None => (&mut by_name.exact, name.as_str()),
                };
                map.entry(name.to_owned())
                    .or_default()
                    .push(Arc::clone(&pair.key));
            }
        }
        Ok(by_name)
    }

    /// Those for `name`: exact, else a wildcard for its first label, else the first of all.
    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let first = std::slice::from_ref(&self.first);
        let Some(name) = name else {
            return first;
        };
        let name = name.to_ascii_lowercase();
        if let Some(keys) = self.exact.get(&name) {
            return keys;
        }
        name.split_once('.')
            .and_then(|(_, rest)| self.wildcard.get(rest))
            .map_or(first, Vec::as_slice)
    }
}

/// Hands out certificates; what it holds is replaced while it serves.
#[derive(Debug)]
struct Resolver(ArcSwap<ByName>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_name = self.0.load();
        let keys = by_name.find(hello.server_name());
        // Of several for one name (ECDSA and RSA), the first that the client can check.
        let offered = hello.signature_schemes();
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(offered).is_some();
        keys.iter().find(usable).or_else(|| keys.first()).cloned()
    }
}

/// Client certificates' authorities as they were read.
type Authorities = Vec<rustls::pki_types::CertificateDer<'static>>;

/// The TLS of one address. Its files are read again by [`ServerTls::refresh`]; connections that
/// stand are not touched by that.
#[derive(Debug)]
pub struct ServerTls {
    settings: ServerSettings,
    protocols: Vec<Vec<u8>>,
    files: Files,
    resolver: Arc<Resolver>,
    config: ArcSwap<ServerConfig>,
    authorities: Mutex<Authorities>,
}

impl ServerTls {
    /// Reads the files; `protocols` are offered by ALPN in this order.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(settings: ServerSettings, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        let files = settings.files();
        let resolver = Arc::new(Resolver(ArcSwap::from_pointee(ByName::load(
            &settings.pairs,
        )?)));
        let authorities = read_authorities(&settings)?;
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.to_vec()).collect();
        let config = configure(&settings, &authorities, &resolver, &protocols)?;
        Ok(Self {
            settings,
            protocols,
            files,
            resolver,
            config: ArcSwap::from_pointee(config),
            authorities: Mutex::new(authorities),
        })
    }

    /// What it was made of.
    #[must_use]
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// What it offers by ALPN.
    #[must_use]
    pub fn protocols(&self) -> &[Vec<u8>] {
        &self.protocols
    }

    /// For the next handshake.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// What its certificates say, in the order of the settings.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.resolver.0.load().infos.clone()
    }

    /// Reads the files again, all or nothing. Sessions are resumed across it, unless other
    /// clients are let in now.
    ///
    /// # Errors
    /// What is wrong with which file; what was read before goes on serving.
    pub fn refresh(&self) -> Result<(), TlsError> {
        self.files.about_to_read();
        let by_name = ByName::load(&self.settings.pairs)?;
        let authorities = read_authorities(&self.settings)?;
        let mut known = self
            .authorities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *known != authorities {
            // With new tickets: an old one may be of a client that is no longer let in.
            let config = configure(
                &self.settings,
                &authorities,
                &self.resolver,
                &self.protocols,
            )?;
            self.config.store(Arc::new(config));
            *known = authorities;
        }
        self.resolver.0.store(Arc::new(by_name));
        Ok(())
    }

    /// True when the files changed and have come to rest.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.files.have_settled_differently()
    }

    /// Reads the files again whenever they change, until `this` is dropped. `place` is what the
    /// log calls it.
    pub async fn watch(this: Weak<Self>, place: String) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(tls) = this.upgrade() else {
                return;
            };
            tls.look(&place);
        }
    }

    /// Reads the files again when they changed.
    pub fn look(&self, place: &str) {
        if !self.has_changed() {
            return;
        }
        match self.refresh() {
            Ok(()) => tracing::info!(place, "certificates were read again"),
            Err(error) => {
                tracing::error!(%error, place, "changed certificates are refused, those before go on serving");
            }
        }
    }
}

fn read_authorities(settings: &ServerSettings) -> Result<Authorities, TlsError> {
    settings
        .client
        .as_ref()
        .map_or_else(|| Ok(Vec::new()), |client| certificates(&client.ca))
}

fn refused(error: impl std::fmt::Display) -> TlsError {
    TlsError::Refused(error.to_string())
}

fn configure(
    settings: &ServerSettings,
    authorities: &Authorities,
    resolver: &Arc<Resolver>,
    protocols: &[Vec<u8>],
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(refused)?;
    let builder = match &settings.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            for certificate in authorities {
                roots
                    .add(certificate.clone())
                    .map_err(|error| TlsError::Content {
                        file: client.ca.clone(),
                        why: format!("holds a certificate that can't be an authority: {error}"),
                    })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                Arc::clone(provider()),
            );
            let verifier = if client.optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            builder.with_client_cert_verifier(verifier.build().map_err(refused)?)
        }
    };
    let resolver: Arc<dyn ResolvesServerCert> = Arc::<Resolver>::clone(resolver);
    let mut config = builder.with_cert_resolver(resolver);
    // Keys of tickets are made anew every few hours, and belong to this address alone: a session
    // of an address that asks for no certificate can't be resumed at one that does.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(refused)?;
    config.alpn_protocols = protocols.to_vec();
    // The strongest suite that both know, whatever a client would rather have: auditors ask for an order of the server.
    config.ignore_client_order = true;
    Ok(config)
}
