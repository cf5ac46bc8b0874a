//! Who may speak to the registry, and who may change which names.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use munjigi_foundation::api::{Problem, same_secret};
use munjigi_foundation::settings::Secret;

use crate::Shared;

/// Carries the cluster's secret.
pub(crate) const CLUSTER_HEADER: &str = "munjigi-cluster";

/// Users and passwords of HTTP basic authentication (RFC 7617).
#[derive(Clone)]
pub struct Users(Vec<Secret>);

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

impl Users {
    /// Reads lines `user:password`; blank lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// The number of the first line that is none.
    pub fn parse(text: &str) -> Result<Self, usize> {
        text.lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(number, line)| match line.split_once(':') {
                // A hash is no password: taken as one, whoever reads the file could sign in with it.
                Some((user, password))
                    if !user.is_empty() && !password.is_empty() && !password.starts_with('$') =>
                {
                    Ok(Secret::new(line))
                }
                _ => Err(number),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn has(&self, pair: &[u8]) -> bool {
        // All are compared, so that the time says nothing of which one is close.
        self.0.iter().fold(false, |found, known| {
            same_secret(known.expose().as_bytes(), pair) | found
        })
    }
}

/// Lets a request pass, or says why not.
pub(crate) fn admit(shared: &Shared, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if shows_secret(shared, headers) {
        return Ok(());
    }
    if let Some(users) = &shared.settings.users {
        return match basic(headers) {
            Some(pair) if users.has(&pair) => Ok(()),
            _ => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "this registry asks for a user and a password",
            )),
        };
    }
    // Without users, what protects it from pages in a browser on this network is that they can't name it, and say
    // where they come from.
    if !method.is_safe() && headers.contains_key(header::ORIGIN) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "origin_refused",
            "a page may not change the registry",
        ));
    }
    if known_host(shared, headers) {
        Ok(())
    } else {
        Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown_host",
            "this registry is not known under that host",
        )
        .hint("name it by its address, or add the name to [registry] hosts"))
    }
}

/// Lets a change to `application` pass, or says why not.
pub(crate) fn admit_change(
    shared: &Shared,
    headers: &HeaderMap,
    application: &str,
) -> Result<(), Problem> {
    let Some(kept) = &shared.kept else {
        return Ok(());
    };
    if shared.settings.users.is_some()
        || !kept
            .services
            .iter()
            .any(|name| name.eq_ignore_ascii_case(application))
    {
        return Ok(());
    }
    if shows_secret(shared, headers) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "cluster_secret_needed",
        format!("{application} is kept for holders of the cluster's secret"),
    )
    .hint("send it as Munjigi-Cluster, or take the name out of [cluster] services"))
}

/// Whether the request comes from a holder of the cluster's secret.
fn shows_secret(shared: &Shared, headers: &HeaderMap) -> bool {
    let shown = headers.get(CLUSTER_HEADER).map(HeaderValue::as_bytes);
    let kept = shared
        .kept
        .as_ref()
        .map(|kept| kept.secret.expose().as_bytes());
    shown
        .zip(kept)
        .is_some_and(|(shown, kept)| same_secret(shown, kept))
}

/// The `user:password` of an `Authorization: Basic` header.
fn basic(headers: &HeaderMap) -> Option<Vec<u8>> {
    use base64::Engine;
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("basic")
        .then(|| {
            base64::engine::general_purpose::STANDARD
                .decode(encoded.trim())
                .ok()
        })
        .flatten()
}

/// A literal address, or a name of this machine: what a page of a foreign site can't make a browser send.
fn known_host(shared: &Shared, headers: &HeaderMap) -> bool {
    let Some(host) = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
    else {
        // HTTP/1.0 clients send none; browsers always do.
        return true;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok()
        || shared
            .settings
            .hosts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_lines() {
        let users = Users::parse("# ours\nme:se:cret\n\nyou:other\n").unwrap();
        assert!(users.has(b"me:se:cret") && users.has(b"you:other"));
        assert!(!users.has(b"me:se") && !users.has(b"# ours"));
        assert_eq!(Users::parse("me:x\nyou\n").unwrap_err(), 2);
        assert_eq!(Users::parse("me:$argon2id$v=19\n").unwrap_err(), 1);
        assert_eq!(format!("{users:?}"), "Users(2)");
    }
}
