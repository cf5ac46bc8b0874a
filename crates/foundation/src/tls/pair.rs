//! A certificate with its chain, and its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{TlsError, files, provider};
use crate::clock::Timestamp;

/// The files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM: the certificate, then those between it and its authority.
    pub certificate: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// DNS names, in lower case; a wildcard begins with `*.`.
    pub names: Vec<String>,
    /// It is good from here on.
    pub not_before: Timestamp,
    /// It is good until here.
    pub not_after: Timestamp,
}

/// A pair as it was read.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) info: CertificateInfo,
}

type Chain = Vec<CertificateDer<'static>>;

fn content(file: &Path, why: impl Into<String>) -> TlsError {
    TlsError::Content {
        file: file.to_owned(),
        why: why.into(),
    }
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = files::read(file)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| content(file, format!("is no PEM file: {error}")))?;
    if chain.is_empty() {
        return Err(content(
            file,
            "holds no certificate (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(chain)
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = files::read(file)?;
    // What the parser met is not told: it may be a part of the key.
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        content(
            file,
            "holds no private key in PEM (-----BEGIN PRIVATE KEY-----)",
        )
    })
}

/// What the first certificate of a chain says.
fn info(file: &Path, certificate: &[u8]) -> Result<CertificateInfo, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| content(file, format!("holds a broken certificate: {error}")))?;
    let named = parsed
        .subject_alternative_name()
        .map_err(|error| content(file, format!("holds a broken certificate: {error}")))?;
    let names = named
        .into_iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let moment = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
    Ok(CertificateInfo {
        names,
        not_before: moment(parsed.validity().not_before.timestamp()),
        not_after: moment(parsed.validity().not_after.timestamp()),
    })
}

impl Pair {
    /// Reads both files, which may be one.
    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let (chain, info) = self.load_certificate()?;
        self.load_key(chain, info)
    }

    /// The certificate with its chain, and what it says.
    pub(super) fn load_certificate(&self) -> Result<(Chain, CertificateInfo), TlsError> {
        let chain = certificates(&self.certificate)?;
        match chain.first() {
            Some(first) => {
                let info = info(&self.certificate, first)?;
                Ok((chain, info))
            }
            None => Err(content(&self.certificate, "holds no certificate")),
        }
    }

    /// The key, which must be that of the certificate.
    pub(super) fn load_key(&self, chain: Chain, info: CertificateInfo) -> Result<Loaded, TlsError> {
        let key = key(&self.key)?;
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            },
            other => content(&self.key, format!("can't be used: {other}")),
        })?;
        Ok(Loaded {
            key: Arc::new(key),
            info,
        })
    }
}
