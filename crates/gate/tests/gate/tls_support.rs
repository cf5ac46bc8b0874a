//! Certificates and TLS peers for the stories, made anew for each.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use munjigi_foundation::tls::{ClientAuth, Pair, ServerSettings, TrustSettings};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::support::{Origin, Peer};

/// An authority with a folder for what it makes.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) folder: TempDir,
}

pub(crate) type TlsClient = Peer<client::TlsStream<TcpStream>>;
pub(crate) type TlsPeer = Peer<server::TlsStream<TcpStream>>;

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "an authority for tests");
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Files of a new certificate for `names`, called `file`.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            certificate: self.folder.path().join(format!("{file}.pem")),
            key: self.folder.path().join(format!("{file}.key")),
        };
        replace(&pair.certificate, &certificate.pem());
        replace(&pair.key, &key.serialize_pem());
        pair
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// What a client of this authority is like.
    pub(crate) fn client(&self) -> ClientConfig {
        client_of(
            &[&rustls::version::TLS13, &rustls::version::TLS12],
            self.roots(),
            None,
        )
    }

    pub(crate) fn client_with(&self, pair: &Pair) -> ClientConfig {
        client_of(&[&rustls::version::TLS13], self.roots(), Some(pair))
    }

    pub(crate) fn client_of_version(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> ClientConfig {
        client_of(&[version], self.roots(), None)
    }

    /// What a gate says of a service with backends of this authority.
    pub(crate) fn trust(&self, name: &'static str) -> TrustSettings {
        TrustSettings {
            ca_file: Some(self.ca_file()),
            name: Some(ServerName::try_from(name).unwrap()),
            identity: None,
        }
    }
}

/// Writes beside and renames: what careful people do.
pub(crate) fn replace(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, file).unwrap();
}

pub(crate) fn listener_tls(pairs: &[&Pair]) -> ServerSettings {
    ServerSettings {
        pairs: pairs.iter().map(|pair| (*pair).clone()).collect(),
        client: None,
    }
}

pub(crate) fn asking(ca: PathBuf, optional: bool) -> Option<ClientAuth> {
    Some(ClientAuth { ca, optional })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn read(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&pair.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}

fn client_of(
    versions: &[&'static rustls::SupportedProtocolVersion],
    roots: RootCertStore,
    identity: Option<&Pair>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let (chain, key) = read(pair);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

pub(crate) fn server_of(pair: &Pair) -> ServerConfig {
    let (chain, key) = read(pair);
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

/// A TLS connection, or why there is none.
pub(crate) async fn try_tls(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsClient> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    let connected = tokio::time::timeout(crate::support::PATIENCE, connecting).await;
    Ok(Peer::new(connected.expect("no handshake in time")?))
}

pub(crate) async fn tls(address: SocketAddr, config: ClientConfig, name: &str) -> TlsClient {
    try_tls(address, &Arc::new(config), name).await.unwrap()
}

impl TlsClient {
    /// The certificate that the server showed.
    pub(crate) fn shown(&self) -> Vec<u8> {
        let (_, connection) = self.stream.get_ref();
        connection.peer_certificates().unwrap()[0].to_vec()
    }
}

/// The certificate of a pair's file.
pub(crate) fn der(pair: &Pair) -> Vec<u8> {
    read(pair).0[0].to_vec()
}

/// As [`crate::support::origin`], over TLS. Handshakes that fail are no connections.
pub(crate) async fn tls_origin<F, T>(config: ServerConfig, serve: F) -> Origin
where
    F: Fn(TlsPeer, usize) -> T + Send + Sync + Clone + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        let mut number = 0;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(Peer::new(stream), number).await;
                }
            });
            number += 1;
        }
    });
    Origin::new(address, tasks)
}

/// Answers every request with what it received.
pub(crate) async fn echo_over<S>(mut peer: Peer<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(head) = peer.head().await {
        let body = peer.body_of(&head).await;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            head.len() + body.len()
        );
        peer.send(&answer).await;
        peer.send(&head).await;
        peer.send_bytes(&body).await;
    }
}
