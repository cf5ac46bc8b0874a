//! Secrets that are made here: sessions, tokens, links. Each has 256 random bits; only its SHA-256 is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use munjigi_foundation::settings::Secret;
use sha2::{Digest, Sha256};

use crate::store::users::Hash;

/// What API tokens begin with, so that scanners for leaked secrets know them.
const TOKEN_PREFIX: &str = "mjg_";
/// Longer ones are not even hashed.
const LENGTH_MAX: usize = 128;

/// A new secret for a session or a link.
pub(super) fn new() -> Result<Secret, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Secret::new(&URL_SAFE_NO_PAD.encode(bytes)))
}

/// A new API token.
pub(super) fn new_token() -> Result<Secret, getrandom::Error> {
    new().map(|secret| Secret::new(&format!("{TOKEN_PREFIX}{}", secret.expose())))
}

/// What is kept of a secret. Looking it up by its hash tells nothing by the time it takes: who guesses secrets does
/// not choose hashes.
pub(super) fn hash(secret: &str) -> Option<Hash> {
    (secret.len() <= LENGTH_MAX).then(|| Sha256::digest(secret.as_bytes()).into())
}
