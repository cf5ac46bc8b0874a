//! The cookie that keeps a client on its backend. Its value is a keyed hash: it names no address,
//! and nobody without the key can tell which backend it means.

use std::io;
use std::path::Path;

use munjigi_foundation::settings::Secret;

use crate::backend::Backend;
use crate::settings::{GateSettings, StickySettings};

/// The file in `data` that holds the gate's own key.
const KEY_FILE: &str = "sticky.key";

/// The value of the cookie for `backend`.
pub(crate) fn tag(settings: &StickySettings, backend: &Backend) -> String {
    let secret = settings.secret.as_ref().map_or("", Secret::expose);
    let key = blake3::derive_key("munjigi gate sticky cookie", secret.as_bytes());
    let hash = blake3::keyed_hash(&key, backend.name.as_bytes()).to_hex();
    hash.chars().take(32).collect()
}

/// The whole field with its line end, for a response to a client that has no such cookie yet.
pub(crate) fn field(settings: &StickySettings, backend: &Backend, secure: bool) -> Vec<u8> {
    let secure = if secure { "; Secure" } else { "" };
    format!(
        "Set-Cookie: {}={}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n",
        settings.cookie,
        tag(settings, backend)
    )
    .into_bytes()
}

/// Gives sticky services without a secret the gate's own, which is kept in its `data` folder. When
/// that can't be, clients lose their backend with the next restart, which is logged.
pub(crate) fn fill_secrets(settings: &mut GateSettings) {
    let lacking = |sticky: &StickySettings| sticky.secret.is_none();
    let mut services = settings.services.values_mut();
    if !services.any(|service| service.sticky.as_ref().is_some_and(lacking)) {
        return;
    }
    let secret = match own_secret(&settings.data) {
        Ok(secret) => secret,
        Err(error) => {
            let file = settings.data.join(KEY_FILE);
            let file = file.display();
            tracing::warn!(%error, %file, "the key of sticky cookies can't be kept: it ends with this process");
            Secret::new(&random_key())
        }
    };
    for service in settings.services.values_mut() {
        if let Some(sticky) = service.sticky.as_mut().filter(|sticky| lacking(sticky)) {
            sticky.secret = Some(secret.clone());
        }
    }
}

fn random_key() -> String {
    let mut bytes = [0_u8; 32];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "no randomness for the key of sticky cookies");
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn own_secret(data: &Path) -> io::Result<Secret> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = data.join(KEY_FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) if text.trim().len() >= 32 => return Ok(Secret::new(text.trim())),
        Ok(_) => {
            let file = file.display();
            tracing::warn!(%file, "the key of sticky cookies is damaged: a new one is made");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::fs::create_dir_all(data)?;
    let key = random_key();
    let draft = data.join(format!("{KEY_FILE}.new"));
    let mut open = std::fs::OpenOptions::new();
    let mut written = open
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    written.write_all(key.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&draft, &file)?;
    Ok(Secret::new(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(secret: &str) -> StickySettings {
        StickySettings {
            cookie: "munjigi".to_owned(),
            secret: Some(Secret::new(secret)),
        }
    }

    #[test]
    fn values_depend_on_key_and_backend_and_name_no_address() {
        let backend = |port| Backend::new(([127, 0, 0, 1], port).into(), 1);
        let one = tag(&settings("a"), &backend(8_000));
        assert_eq!(one, tag(&settings("a"), &backend(8_000)));
        assert_ne!(one, tag(&settings("b"), &backend(8_000)));
        assert_ne!(one, tag(&settings("a"), &backend(8_001)));
        assert_eq!(one.len(), 32);
        let whole =
            |secure| String::from_utf8(field(&settings("a"), &backend(8_000), secure)).unwrap();
        let expected = format!("Set-Cookie: munjigi={one}; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(whole(false), format!("{expected}\r\n"));
        assert_eq!(whole(true), format!("{expected}; Secure\r\n"));
    }

    #[test]
    fn the_key_outlives_a_restart_and_a_damaged_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("gate-data");
        let first = own_secret(&data).unwrap();
        assert_eq!(own_secret(&data).unwrap(), first);
        std::fs::write(data.join(KEY_FILE), "short").unwrap();
        let second = own_secret(&data).unwrap();
        assert_ne!(second, first);
        assert_eq!(own_secret(&data).unwrap(), second);
    }
}
