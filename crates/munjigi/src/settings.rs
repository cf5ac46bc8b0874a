//! The whole settings file: its roles, and what holds between them.

use std::path::Path;

use munjigi_foundation::settings::{Document, Environment, Key, Problem, Schema, Secret, Table};
use munjigi_gate::settings::{GateSettings, RegistrySource};
use munjigi_hub::settings::HubSettings;
use munjigi_registry::settings::RegistrySettings;
use munjigi_worker::settings::WorkerSettings;

use crate::cli::Role;
use crate::outcome::Failure;

/// The root of a settings file.
pub(crate) static ROOT: Schema = Schema {
    place: "the settings file",
    meaning: "one table for each role that runs here",
    keys: &[
        Key::new(
            "cluster",
            "table",
            "",
            "",
            "what gates' registries, hubs and workers share",
        ),
        Key::new("gate", "table", "", "", "the edge"),
        Key::new("registry", "table", "", "", "who is where"),
        Key::new("hub", "table", "", "", "uploads, jobs, pages"),
        Key::new("worker", "table", "", "", "runs models"),
    ],
};

/// `[cluster]`
pub(crate) static CLUSTER: Schema = Schema {
    place: "[cluster]",
    meaning: "what gates' registries, hubs and workers share",
    keys: &[
        Key::new(
            "secret_file",
            "file name",
            "",
            "",
            "holds the secret that hub and workers show each other",
        ),
        Key::new(
            "services",
            "list of text",
            "[\"HUB\", \"MODEL-SERVER\"]",
            "",
            "names that only holders of the secret may register",
        ),
    ],
};

const MAKE_SECRET: &str = "make one with `openssl rand -hex 32 > cluster.secret` (or `head -c 32 /dev/urandom | base64`), \
     the same on every machine, and `chmod 600` it";

/// `[cluster]` as meant.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) secret: Secret,
    pub(crate) services: Vec<String>,
}

/// A settings file as meant.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) cluster: Option<Cluster>,
    pub(crate) gate: Option<GateSettings>,
    pub(crate) registry: Option<RegistrySettings>,
    pub(crate) hub: Option<HubSettings>,
    pub(crate) worker: Option<WorkerSettings>,
}

impl Settings {
    /// The tables beside `[gate]` that `new` says otherwise. What their secrets hold is not looked at.
    pub(crate) fn changed_beside_gate(&self, new: &Self) -> Vec<&'static str> {
        fn differ<T: std::fmt::Debug>(before: &T, after: &T) -> bool {
            format!("{before:?}") != format!("{after:?}")
        }
        let secret = |settings: &Self| {
            let cluster = settings.cluster.as_ref();
            cluster.map(|cluster| cluster.secret.expose().to_owned())
        };
        let all = [
            (
                "[cluster]",
                differ(&self.cluster, &new.cluster) || secret(self) != secret(new),
            ),
            ("[gate]", self.gate.is_some() != new.gate.is_some()),
            ("[registry]", differ(&self.registry, &new.registry)),
            ("[hub]", differ(&self.hub, &new.hub)),
            ("[worker]", differ(&self.worker, &new.worker)),
        ];
        let changed = all.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(table, _)| table).collect()
    }
}

/// The services that only holders of the secret may register, where nothing else is said.
pub(crate) fn default_services() -> Vec<String> {
    vec!["HUB".to_owned(), "MODEL-SERVER".to_owned()]
}

/// The environment, which only the binary reads.
pub(crate) fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Reads a settings file.
pub(crate) fn load(file: &Path) -> Result<Document, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::could_not(format!("{} can't be read: {error}", file.display()))
    })?;
    Ok(Document::new(file, text, environment()))
}

/// The settings of a document, when nothing is wrong with them, and every problem.
pub(crate) fn read(document: &Document, only: &[Role]) -> (Option<Settings>, Vec<Problem>) {
    document.read(&ROOT, |root| {
        let wanted = |role: Role| only.is_empty() || only.contains(&role);
        let cluster = root.table("cluster", &CLUSTER).map(|table| cluster(&table));
        let gate = root.table("gate", munjigi_gate::settings::SCHEMA);
        let registry = root.table("registry", munjigi_registry::settings::SCHEMA);
        let hub = root.table("hub", munjigi_hub::settings::SCHEMA);
        let worker = root.table("worker", &munjigi_worker::settings::SCHEMA);
        // Tables that don't run here are checked all the same; what is between roles counts for those that do.
        let present = Present {
            cluster: cluster.is_some(),
            gate: gate.is_some() && wanted(Role::Gate),
            registry: registry.is_some() && wanted(Role::Registry),
            hub: hub.is_some() && wanted(Role::Hub),
            worker: worker.is_some() && wanted(Role::Worker),
        };
        let settings = Settings {
            cluster: cluster.flatten(),
            gate: gate.as_ref().and_then(GateSettings::read),
            registry: registry.as_ref().and_then(RegistrySettings::read),
            hub: hub.as_ref().and_then(HubSettings::read),
            worker: worker.as_ref().and_then(WorkerSettings::read),
        };
        present.check(
            root,
            &settings,
            [gate.as_ref(), hub.as_ref(), worker.as_ref()],
        );
        Some(Settings {
            gate: settings.gate.filter(|_| present.gate),
            registry: settings.registry.filter(|_| present.registry),
            hub: settings.hub.filter(|_| present.hub),
            worker: settings.worker.filter(|_| present.worker),
            cluster: settings.cluster,
        })
    })
}

fn cluster(table: &Table<'_>) -> Option<Cluster> {
    if !table.has("secret_file") {
        table.missing("secret_file");
    }
    let services = table
        .list::<String>("services")
        .map_or_else(default_services, |names| {
            names
                .into_iter()
                .map(|name| name.value.to_uppercase())
                .collect()
        });
    let secret = table.secret_in_file_or("secret_file", MAKE_SECRET)?;
    if secret.expose().len() < 16 {
        table.problems().error_with_hint(
            table.span_of("secret_file"),
            "the cluster's secret is shorter than 16 bytes",
            MAKE_SECRET,
        );
    }
    Some(Cluster { secret, services })
}

/// Which roles run in this process.
#[derive(Clone, Copy)]
struct Present {
    cluster: bool,
    gate: bool,
    registry: bool,
    hub: bool,
    worker: bool,
}

impl Present {
    /// What holds between roles.
    fn check(
        self,
        root: &Table<'_>,
        settings: &Settings,
        [gate, hub, worker]: [Option<&Table<'_>>; 3],
    ) {
        if !(self.gate || self.registry || self.hub || self.worker) {
            root.problems().absent(
                None,
                "there is no role to run",
                "write at least one of [gate], [registry], [hub], [worker]",
            );
        }
        if !self.cluster && self.hub != self.worker {
            let alone = if self.hub { hub } else { worker };
            root.problems().absent(
                alone.and_then(Table::span),
                "a hub and a worker in different processes need a secret in common",
                "write [cluster] with secret_file, the same on both sides",
            );
        }
        if let (Some(table), Some(gate)) = (gate.filter(|_| self.gate), &settings.gate) {
            self.check_gate(table, gate);
        }
        let inner = settings.gate.as_ref().is_some_and(|gate| {
            gate.listeners
                .iter()
                .any(|listener| listener.name == "inner")
        });
        if let (Some(table), Some(hub)) = (hub.filter(|_| self.hub), &settings.hub) {
            self.needs_gate(table, "gate", hub.gate.is_some(), inner);
            self.needs_registry(table, hub.registry.is_empty());
        }
        if let (Some(table), Some(worker)) = (worker.filter(|_| self.worker), &settings.worker) {
            self.needs_gate(table, "hub", worker.hub.is_some(), inner);
            self.needs_registry(table, worker.registry.is_empty());
        }
    }

    fn check_gate(self, table: &Table<'_>, gate: &GateSettings) {
        if matches!(gate.registry.source, Some(RegistrySource::Embedded)) && !self.registry {
            table.problems().absent(
                table.span_of("registry"),
                "gate.registry is embedded, but this process runs no [registry]",
                "write a [registry] table, or gate.registry.urls",
            );
        }
        if gate.asks_registry() && gate.registry.source.is_none() && !self.registry {
            table.problems().absent(
                table.span(),
                "the gate looks services up in a registry, and none is named",
                "write [gate.registry] with urls or embedded = true, or give the services static backends",
            );
        }
        warn_of_open_files(table, gate);
    }

    fn needs_gate(self, table: &Table<'_>, key: &'static str, named: bool, inner: bool) {
        if named || (self.gate && inner) {
            return;
        }
        let (message, hint) = if self.gate {
            (
                format!("`{key}` is absent, and the gate of this process has no listener named \"inner\""),
                "add [[gate.listener]] with name = \"inner\" and an address on loopback or the inner network".to_owned(),
            )
        } else {
            (
                format!("`{key}` is absent, and this process runs no [gate]"),
                format!("write {key} = \"http://HOST:PORT\", the inner listener of a gate"),
            )
        };
        table.problems().absent(table.span(), message, hint);
    }

    fn needs_registry(self, table: &Table<'_>, unnamed: bool) {
        if unnamed && !self.registry {
            table.problems().absent(
                table.span(),
                "`registry` is absent, and this process runs no [registry]",
                "write registry = [\"http://HOST:8761/eureka\"]",
            );
        }
    }
}

/// Each connection of a client takes a descriptor, and so does the backend's side of it.
fn warn_of_open_files(table: &Table<'_>, gate: &GateSettings) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let connections: usize = gate
        .listeners
        .iter()
        .map(|listener| listener.connections_max)
        .sum();
    let needed = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_mul(2)
        .saturating_add(256);
    if limit.is_some_and(|limit| limit < needed) {
        table.problems().warning(
            table.span_of("listener"),
            format!(
                "{connections} connections need about {needed} open files, the limit is {}",
                limit.unwrap_or(0)
            ),
            "raise it (LimitNOFILE= in a systemd unit, ulimit -n), or lower connections_max",
        );
    }
}
