//! `tls = { … }` as written → as meant. The files are read, too: what can't work is said before
//! anything starts.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::pair::certificates;
use super::{CertificateInfo, ClientAuth, Pair, ServerSettings, TlsError, TrustSettings};
use crate::clock::Clock;
use crate::settings::{Key, Schema, Table};

const CERTIFICATE: Key = Key::new(
    "certificate",
    "file name",
    "",
    "",
    "PEM: the certificate, then those between it and its authority",
);
const KEY: Key = Key::new(
    "key",
    "file name",
    "",
    "",
    "PEM: the certificate's private key",
);

/// `tls = { … }` of an address that is listened on.
pub static SERVER: Schema = Schema {
    place: "tls = { … }",
    meaning: "TLS 1.2 and 1.3 at this address; the files are read again when they change",
    keys: &[
        CERTIFICATE,
        KEY,
        Key::new(
            "certificates",
            "list of tables",
            "",
            "1 to 1000",
            "several, chosen by the name asked for: exact, then a wildcard for one label, then the first",
        ),
        Key::new(
            "client_ca",
            "file name",
            "",
            "",
            "PEM: clients need a certificate of these authorities",
        ),
        Key::new(
            "client_auth",
            "text",
            "\"required\"",
            "",
            "\"required\", or \"optional\": a client without a certificate is served, too",
        ),
        Key::later("internal", "a certificate of the internal authority"),
        Key::later("acme", "a certificate of a public authority"),
    ],
};

/// One of `certificates`.
pub static PAIR: Schema = Schema {
    place: "certificates = [{ … }]",
    meaning: "one certificate",
    keys: &[CERTIFICATE, KEY],
};

/// `tls = { … }` of what is called.
pub static TRUST: Schema = Schema {
    place: "tls = { … }",
    meaning: "verified TLS; the files are read again when they change",
    keys: &[
        Key::new(
            "ca_file",
            "file name",
            "",
            "",
            "PEM: the only authorities that are believed; those of the system when absent",
        ),
        Key::new(
            "name",
            "text",
            "",
            "",
            "the name that its certificate must have; its address when absent",
        ),
        Key::new(
            "certificate",
            "file name",
            "",
            "",
            "PEM: shown when a certificate is asked for",
        ),
        KEY,
        Key::later("internal", "believes the internal authority"),
    ],
};

/// Most certificates of one address.
const PAIRS_MAX: usize = 1_000;

/// Says what is wrong with a file, at the key that names it.
fn refuse(table: &Table<'_>, key: &'static str, error: &TlsError) {
    let hint = match error {
        TlsError::Read { .. } => {
            "a relative name is looked up beside the settings file; it must be readable for this user"
        }
        TlsError::Content { .. } => "write the name of a PEM file",
        TlsError::Mismatch { .. } => {
            "the first certificate in the file must be the one that was made for this key"
        }
        TlsError::NoRoots | TlsError::Refused(_) => "try another certificate",
    };
    table
        .problems()
        .error_with_hint(table.span_of(key), format!("`{key}`: {error}"), hint);
}

/// `certificate` and `key` of a table; both are needed.
fn read_pair(table: &Table<'_>) -> Option<Pair> {
    for key in ["certificate", "key"] {
        if !table.has(key) {
            table.missing(key);
        }
    }
    let (certificate, key) = (table.path("certificate"), table.path("key"));
    let pair = Pair {
        certificate: certificate?,
        key: key?,
    };
    match pair.load_certificate() {
        Err(error) => refuse(table, "certificate", &error),
        Ok((chain, info)) => {
            check_dates(table, &pair, &info);
            if let Err(error) = pair.load_key(chain, info) {
                refuse(table, "key", &error);
            }
        }
    }
    Some(pair)
}

fn check_dates(table: &Table<'_>, pair: &Pair, info: &CertificateInfo) {
    let now = Clock::system().now();
    let (what, when) = if now > info.not_after {
        ("expired on", info.not_after)
    } else if now < info.not_before {
        ("is not good before", info.not_before)
    } else {
        return;
    };
    table.problems().warning(
        table.span_of("certificate"),
        format!(
            "`certificate`: {} {what} {when}",
            pair.certificate.display()
        ),
        "clients will refuse it: replace the file, which is read again when it changes",
    );
}

/// True when one of `names`, which this version refuses, is written.
fn is_later(table: &Table<'_>, names: &[&str]) -> bool {
    table
        .names()
        .iter()
        .any(|name| names.contains(&name.value.as_str()))
}

/// Reads `tls` of an address that is listened on, opened with [`SERVER`].
#[must_use]
pub fn read_server(table: &Table<'_>) -> Option<ServerSettings> {
    let client = read_client_auth(table);
    let several = table.tables("certificates", &PAIR);
    let single = table.has("certificate") || table.has("key");
    let mut pairs: Vec<Pair> = several.iter().filter_map(read_pair).collect();
    if single && table.has("certificates") {
        table.problems().error_with_hint(
            table.span_of("certificates"),
            "`certificates` and `certificate` exclude each other",
            "put the single one first into `certificates`",
        );
    } else if single {
        pairs.extend(read_pair(table));
    } else if several.is_empty() && !is_later(table, &["internal", "acme"]) {
        table.missing("certificate");
    }
    if several.len() > PAIRS_MAX {
        table.problems().error(
            table.span_of("certificates"),
            format!(
                "`certificates` has {} entries, {PAIRS_MAX} is the limit",
                several.len()
            ),
        );
    }
    let complete = pairs.len() == several.len().max(1);
    complete.then_some(ServerSettings { pairs, client })
}

fn read_client_auth(table: &Table<'_>) -> Option<ClientAuth> {
    let optional = table.choice(
        "client_auth",
        false,
        &[("required", false), ("optional", true)],
    );
    let Some(ca) = table.path("client_ca") else {
        if table.has("client_auth") && !table.has("client_ca") {
            table.problems().error_with_hint(
                table.span_of("client_auth"),
                "`client_auth` without `client_ca` does nothing",
                "remove it, or add `client_ca`",
            );
        }
        return None;
    };
    check_authorities(table, "client_ca", &ca);
    Some(ClientAuth { ca, optional })
}

fn check_authorities(table: &Table<'_>, key: &'static str, file: &std::path::Path) {
    if let Err(error) = certificates(file) {
        refuse(table, key, &error);
    }
}

/// Reads `ca_file` of a table that has urls.
#[must_use]
pub fn read_ca_file(table: &Table<'_>, key: &'static str) -> Option<PathBuf> {
    let file = table.path(key)?;
    check_authorities(table, key, &file);
    Some(file)
}

/// Reads `tls` of what is called, opened with [`TRUST`].
#[must_use]
pub fn read_trust(table: &Table<'_>) -> Option<TrustSettings> {
    let ca_file = read_ca_file(table, "ca_file");
    let name = table.item::<String>("name").and_then(|item| {
        let name = ServerName::try_from(item.value.clone()).ok();
        if name.is_none() {
            table.problems().error_with_hint(
                item.span,
                format!("`name`: \"{}\" is no name", item.value),
                "write a DNS name such as \"model.internal\", or an address",
            );
        }
        name
    });
    let identity = if table.has("certificate") || table.has("key") {
        read_pair(table)
    } else {
        None
    };
    if is_later(table, &["internal"]) {
        return None;
    }
    Some(TrustSettings {
        ca_file,
        name,
        identity,
    })
}
