//! The table `[registry]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use munjigi_foundation::settings::{HostPort, Key, Schema, Size, Table};
use munjigi_foundation::tls;

use crate::guard::Users;
use crate::leases;

const BODY_TIME: Duration = Duration::from_secs(10);

/// `[registry]`
pub static SCHEMA: &Schema = &Schema {
    place: "[registry]",
    meaning: "who is where, by the Eureka protocol",
    keys: &[
        Key::new(
            "address",
            "address",
            "\"127.0.0.1:8761\"",
            "",
            "where it listens; off loopback it needs `auth` or `open`",
        ),
        Key::new("auth", "table", "", "", "who may speak to it"),
        Key::new(
            "open",
            "true or false",
            "false",
            "",
            "anybody who reaches its address may register, but for names kept by [cluster]",
        ),
        Key::new(
            "hosts",
            "list of text",
            "[]",
            "",
            "names by which clients reach it, beside literal addresses and localhost",
        ),
        Key::new("limits", "table", "", "", "what it holds at the most"),
        Key::later("peers", "registries that replicate to each other"),
        Key::new("tls", "table", "", "", "speaks TLS alone at its address"),
    ],
};

/// `[registry] auth`
static AUTH: Schema = Schema {
    place: "registry.auth = { … }",
    meaning: "who may speak to it",
    keys: &[Key::new(
        "basic_file",
        "file name",
        "",
        "",
        "lines user:password, for HTTP basic authentication",
    )],
};

/// `[registry] limits`
static LIMITS: Schema = Schema {
    place: "registry.limits = { … }",
    meaning: "what it holds at the most",
    keys: &[
        Key::new(
            "instances",
            "whole number",
            "100000",
            "1 to 1000000",
            "instances of all applications; one more gets 507",
        ),
        Key::new(
            "metadata",
            "whole number",
            "128",
            "0 to 10000",
            "metadata entries of one instance; more get 400",
        ),
        Key::new(
            "metadata_bytes",
            "size",
            "\"32KiB\"",
            "0B to 256KiB",
            "metadata of one instance, names and values; more gets 400",
        ),
        Key::new(
            "body_time",
            "duration",
            "\"10s\"",
            "1s to 10m",
            "a registration whose body is not there after so long gets 408",
        ),
        Key::new(
            "connections",
            "whole number",
            "8192",
            "1 to 1000000",
            "connections served at once; more wait",
        ),
    ],
};

/// All tables, for `munjigi settings registry`.
pub static SCHEMAS: &[&Schema] = &[SCHEMA, &AUTH, &LIMITS, &tls::SERVER, &tls::PAIR];

/// `[registry]` as meant.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    pub address: SocketAddr,
    /// Who may speak to it; `None`: anybody.
    pub users: Option<Users>,
    /// Names by which clients reach it, beside literal addresses and `localhost`.
    pub hosts: Vec<String>,
    pub limits: leases::Limits,
    /// How long the body of a registration may take.
    pub body_time: Duration,
    pub connections_max: usize,
    /// Speaks TLS alone.
    pub tls: Option<tls::ServerSettings>,
}

impl RegistrySettings {
    /// Defaults, at `address`.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            users: None,
            hosts: Vec::new(),
            limits: leases::Limits::default(),
            body_time: BODY_TIME,
            connections_max: 8_192,
            tls: None,
        }
    }

    /// Reads `[registry]`.
    #[must_use]
    pub fn read(table: &Table<'_>) -> Option<Self> {
        let address = table.get::<HostPort>("address").unwrap_or(HostPort {
            host: "127.0.0.1".to_owned(),
            port: 8761,
        });
        let address = resolve(table, &address);
        let users = table.table("auth", &AUTH).map(|auth| users(&auth));
        let open = table.or("open", false);
        if users.is_none() && !open && address.is_some_and(|address| !address.ip().is_loopback()) {
            table.problems().error_with_hint(
                table.span_of("address"),
                "the address is off loopback, and anybody could register there",
                "set auth = { basic_file = \"users\" }, or open = true if the network around it is yours",
            );
        }
        let tls = table
            .table("tls", &tls::SERVER)
            .map(|tls| tls::read_server(&tls));
        let hosts = table.list::<String>("hosts").unwrap_or_default();
        let limits = table.table_or_empty("limits", &LIMITS);
        let default = leases::Limits::default();
        Some(Self {
            address: address?,
            users: match users {
                Some(users) => Some(users?),
                None => None,
            },
            hosts: hosts.into_iter().map(|host| host.value).collect(),
            limits: leases::Limits {
                instances: limits.within("instances", default.instances, 1..=1_000_000),
                metadata: limits.within("metadata", default.metadata, 0..=10_000),
                metadata_bytes: limits
                    .within(
                        "metadata_bytes",
                        Size(default.metadata_bytes),
                        Size(0)..=Size(256 << 10),
                    )
                    .bytes(),
            },
            body_time: limits.duration(
                "body_time",
                BODY_TIME,
                Duration::from_secs(1)..=Duration::from_secs(600),
            ),
            connections_max: limits.within("connections", 8_192, 1..=1_000_000),
            tls: match tls {
                Some(tls) => Some(tls?),
                None => None,
            },
        })
    }
}

fn resolve(table: &Table<'_>, address: &HostPort) -> Option<SocketAddr> {
    if address.host == "localhost" {
        return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, address.port)));
    }
    let found = address.socket_addr();
    if found.is_none() {
        table.problems().error_with_hint(
            table.span_of("address"),
            format!("`address`: {} is no literal address", address.host),
            "write an address of this machine, such as 127.0.0.1:8761 or 0.0.0.0:8761",
        );
    }
    found
}

fn users(auth: &Table<'_>) -> Option<Users> {
    if !auth.has("basic_file") {
        auth.missing("basic_file");
    }
    let text = auth.secret_in_file("basic_file")?;
    match Users::parse(text.expose()) {
        Ok(users) => Some(users),
        Err(line) => {
            auth.problems().error_with_hint(
                auth.span_of("basic_file"),
                format!("`basic_file`: line {line} is not user:password"),
                "write one user a line, with a colon before the password; hashes are not in this version",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use munjigi_foundation::settings::{Document, Environment};

    static ROOT: Schema = Schema {
        place: "the settings file",
        meaning: "",
        keys: &[Key::new("registry", "table", "", "", "")],
    };

    fn check(text: &str, expected: Result<&str, &str>) {
        let document = Document::new("f.toml".as_ref(), text.to_owned(), Environment::new());
        let (read, problems) = document.read(&ROOT, |root| {
            let table = root.table("registry", SCHEMA)?;
            let read = RegistrySettings::read(&table);
            assert_eq!(table.unread(), Vec::<&str>::new());
            read
        });
        match (read, expected) {
            (Some(read), Ok(address)) => assert_eq!(read.address.to_string(), address),
            (None, Err(part)) => {
                assert!(
                    problems
                        .iter()
                        .any(|problem| problem.message.contains(part)),
                    "{problems:?}"
                );
            }
            (read, _) => panic!("{text}: {read:?} {problems:?}"),
        }
    }

    #[test]
    fn settings_are_read() {
        check("[registry]\n", Ok("127.0.0.1:8761"));
        check("[registry]\naddress = 'localhost:0'\n", Ok("127.0.0.1:0"));
        check("[registry]\naddress = '0.0.0.0:1'\n", Err("off loopback"));
        check(
            "[registry]\naddress = '0.0.0.0:1'\nopen = true\n",
            Ok("0.0.0.0:1"),
        );
        check("[registry]\naddress = 'h:1'\n", Err("no literal address"));
        check("[registry]\npeers = []\n", Err("not in this version"));
        check(
            "[registry]\nauth = { basic_file = 'none' }\n",
            Err("can't read none"),
        );
        check(
            "[registry]\nlimits = { instances = 0 }\n",
            Err("between 1 and 1000000"),
        );
    }
}
