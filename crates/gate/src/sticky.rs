//! The cookie that keeps a client on its backend. Its value is a keyed hash: it names no address,
//! and nobody without the key can tell which backend it means.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The gate's own key: kept in its `data` folder, or, where that can't be, in memory, and handed to
/// the process that takes the place of this one.
#[derive(Debug, Default)]
pub(crate) struct OwnKey(Mutex<Option<Secret>>);

impl OwnKey {
    /// With what the process before handed over.
    pub(crate) fn new(handed: Option<Secret>) -> Self {
        Self(Mutex::new(handed))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Secret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key, when some service needed it.
    pub(crate) fn known(&self) -> Option<Secret> {
        self.lock().clone()
    }

    /// That of the file, else the one that is known, else a new one.
    fn get(&self, data: &Path) -> Secret {
        let mut known = self.lock();
        let key = read(data, known.as_ref()).unwrap_or_else(|error| {
            let file = data.join(KEY_FILE);
            let file = file.display();
            tracing::warn!(%error, %file, "the key of sticky cookies can't be kept: it ends with this process and those that take its place");
            known.clone().unwrap_or_else(random_key)
        });
        *known = Some(key.clone());
        key
    }
}

/// Gives sticky services without a secret the gate's own. When that can't be kept, clients lose
/// their backend with the next restart, which is logged.
pub(crate) fn fill_secrets(settings: &mut GateSettings, own: &OwnKey) {
    let lacking = |sticky: &StickySettings| sticky.secret.is_none();
    let mut services = settings.services.values_mut();
    if !services.any(|service| service.sticky.as_ref().is_some_and(lacking)) {
        return;
    }
    let secret = own.get(&settings.data);
    for service in settings.services.values_mut() {
        if let Some(sticky) = service.sticky.as_mut().filter(|sticky| lacking(sticky)) {
            sticky.secret = Some(secret.clone());
        }
    }
}

fn random_key() -> Secret {
    let mut bytes = [0_u8; 32];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "no randomness for the key of sticky cookies");
    }
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Secret::new(&text)
}

/// The key that is kept in `data`; where there is none, `known` or a new one is kept from now on.
fn read(data: &Path, known: Option<&Secret>) -> io::Result<Secret> {
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
    let key = known.cloned().unwrap_or_else(random_key);
    let draft = data.join(format!("{KEY_FILE}.new"));
    let mut open = std::fs::OpenOptions::new();
    let mut written = open
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    written.write_all(key.expose().as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&draft, &file)?;
    Ok(key)
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
        let key = || OwnKey::default().get(&data);
        let first = key();
        assert_eq!(key(), first);
        std::fs::write(data.join(KEY_FILE), "short").unwrap();
        let second = key();
        assert_ne!(second, first);
        assert_eq!(key(), second);
        // What is kept counts, whatever was handed over.
        assert_eq!(OwnKey::new(Some(first)).get(&data), second);
    }

    #[test]
    fn a_key_that_cant_be_kept_outlives_a_reload_and_a_handover() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("gate-data");
        std::fs::write(&data, "a file where the folder should be").unwrap();
        let own = OwnKey::default();
        assert_eq!(own.known(), None);
        let first = own.get(&data);
        assert_eq!(own.get(&data), first, "a reload");
        let next = OwnKey::new(own.known());
        assert_eq!(next.get(&data), first, "a handover");
        assert_ne!(OwnKey::default().get(&data), first, "a restart");
        // Once it can be kept it is.
        std::fs::remove_file(&data).unwrap();
        assert_eq!(next.get(&data), first);
        assert_eq!(OwnKey::default().get(&data), first);
    }
}
