//! TLS for every address that is listened on and every url that is called: certificates and whom
//! to believe, read from files and read again when these change. TLS 1.2 and 1.3 alone, AEAD
//! suites alone, X25519MLKEM768 offered first; nothing is ever believed unverified.

mod files;
mod pair;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod trust;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

/// How https urls are verified; made by [`for_urls`].
pub use rustls::ClientConfig as UrlTrust;

pub use pair::{CertificateInfo, Pair};
pub use server::{ClientAuth, ServerSettings, ServerTls};
pub use settings::{PAIR, SERVER, TRUST, read_ca_file, read_server, read_trust};
pub use trust::{ClientTls, TrustSettings, for_urls, server_name};

/// Why certificates can't be used. The messages name the file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {}: {why}", file.display())]
    Read {
        /// Which one.
        file: PathBuf,
        /// What the kernel says.
        why: String,
    },
    /// A file holds something else.
    #[error("{} {why}", file.display())]
    Content {
        /// Which one.
        file: PathBuf,
        /// What is missing in it, or wrong.
        why: String,
    },
    /// The key belongs to another certificate.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The system has no roots.
    #[error("the system has no certificates of authorities: name one with `ca_file`")]
    NoRoots,
    /// What rustls refuses for another reason.
    #[error("{0}")]
    Refused(String),
}

/// The cryptography of the whole program: aws-lc-rs with rustls' suites, all of them AEAD.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}
