//! The table `[hub]`: as written → as meant.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use munjigi_foundation::settings::{HostPort, Item, Key, Schema, Secret, Size, Table};
use munjigi_foundation::tls;

use crate::face::Network;
use crate::jobs::{JobLimits, ResultLimits};

const DAY: Duration = Duration::from_secs(86_400);
/// Port 8000 on loopback: users come through a gate.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8000";

/// `[hub]`, as `munjigi settings hub` prints it.
pub static SCHEMA: &Schema = &Schema {
    place: "[hub]",
    meaning: "takes uploads, keeps jobs, places analyses on workers, serves the pages",
    keys: &[
        Key::new(
            "address",
            "address",
            "\"127.0.0.1:8000\"",
            "",
            "where it listens; users come through a gate",
        ),
        Key::new(
            "data",
            "file name",
            "",
            "",
            "the folder that holds the database, uploads and results; one hub only",
        ),
        Key::new(
            "database",
            "\"sqlite\"",
            "\"sqlite\"",
            "",
            "where users, jobs and events are kept",
        ),
        Key::new(
            "log",
            "\"embedded\"",
            "\"embedded\"",
            "",
            "how events come from workers: posted to this hub",
        ),
        Key::new(
            "events",
            "\"embedded\"",
            "\"embedded\"",
            "",
            "how events reach this hub's sockets: from its own database",
        ),
        Key::new(
            "files",
            "\"local\"",
            "\"local\"",
            "",
            "where results are kept: under `data`",
        ),
        Key::new(
            "event_ttl",
            "duration",
            "\"10m\"",
            "1s to 30d",
            "how long a job's events stay after its last terminal one",
        ),
        Key::new(
            "keep",
            "table",
            "",
            "",
            "how long uploads and results are kept",
        ),
        Key::new(
            "hosts",
            "list of text",
            "[]",
            "256 names",
            "names under which users reach it, with any port; others get 421",
        ),
        Key::new(
            "worker_service",
            "text",
            "\"MODEL-SERVER\"",
            "",
            "under which name workers register",
        ),
        Key::new(
            "worker_silence",
            "duration",
            "\"15s\"",
            "8s to 1h",
            "a worker that posts nothing for so long has lost its analyses, which move; workers post every 2 s",
        ),
        Key::new(
            "gate",
            "url",
            "",
            "",
            "a gate's inner listener, the way to the workers; absent: the gate in the same process",
        ),
        Key::new(
            "gate_admin",
            "list of urls",
            "[]",
            "64 urls",
            "admin faces of the gates that the status page shows",
        ),
        Key::new(
            "gate_admin_token_file",
            "file name",
            "",
            "",
            "holds the token of the gates' admin faces",
        ),
        Key::new(
            "registry",
            "list of urls",
            "[]",
            "8 urls",
            "where workers are found and this hub registers; absent: the registry in the same process",
        ),
        Key::new(
            "trusted",
            "list of networks",
            "[]",
            "256 networks",
            "gates whose X-Forwarded-* counts, beside loopback and the literal addresses of `gate`",
        ),
        Key::new(
            "limits",
            "table",
            "",
            "",
            "what one user and this machine may hold",
        ),
        Key::new(
            "session",
            "duration",
            "\"7d\"",
            "5m to 90d",
            "a session ends when it was not used for so long",
        ),
        Key::new("tls", "table", "", "", "speaks TLS alone at its address"),
        Key::new(
            "ca_file",
            "file name",
            "",
            "",
            "PEM: the only authorities that are believed at https urls; those of the system when absent",
        ),
    ],
};

/// All tables of the hub.
pub static SCHEMAS: &[&Schema] = &[SCHEMA, KEEP, LIMITS];

/// `[hub] keep`.
static KEEP: &Schema = &Schema {
    place: "hub.keep = { … }",
    meaning: "how long files are kept",
    keys: &[
        Key::new(
            "uploads",
            "duration",
            "\"1d\"",
            "1s to 3650d",
            "an upload that nobody touched and no job needs goes after this",
        ),
        Key::new(
            "results",
            "duration",
            "\"30d\"",
            "1s to 3650d",
            "a finished job's results go after this",
        ),
    ],
};

/// `[hub] limits`.
static LIMITS: &Schema = &Schema {
    place: "hub.limits = { … }",
    meaning: "what one user and this machine may hold",
    keys: &[
        Key::new(
            "upload",
            "size",
            "\"4GiB\"",
            "1KiB to 1TiB",
            "the largest upload; larger ones get 413",
        ),
        Key::new(
            "user",
            "size",
            "\"64GiB\"",
            "1KiB to 1024TiB",
            "bytes of all uploads of one user; beyond it 413",
        ),
        Key::new(
            "user_uploads",
            "number",
            "1000",
            "1 to 100000",
            "uploads of one user, finished ones included; beyond it 429",
        ),
        Key::new(
            "receiving",
            "number",
            "64",
            "1 to 4096",
            "uploads received at once; more get 429",
        ),
        Key::new(
            "receiving_user",
            "number",
            "8",
            "1 to 4096",
            "uploads received at once from one user",
        ),
        Key::new(
            "disk_free",
            "size",
            "",
            "0B to 1024TiB",
            "an upload that would leave less free on the disk gets 507; absent: 512MiB, or 5 % of a smaller disk",
        ),
        Key::new(
            "idle",
            "duration",
            "\"60s\"",
            "1s to 1h",
            "an upload request without a byte for so long is ended; what came is kept",
        ),
        Key::new(
            "request",
            "duration",
            "\"60s\"",
            "1s to 10m",
            "a request other than an upload that is not answered after this gets 408",
        ),
        Key::new(
            "connections",
            "number",
            "4096",
            "16 to 1000000",
            "connections served at once; more wait",
        ),
        Key::new(
            "users",
            "number",
            "10000",
            "1 to 1000000",
            "users that an administrator may make",
        ),
        Key::new(
            "sockets_user",
            "number",
            "32",
            "1 to 10000",
            "live WebSockets and event streams of one user; more get 429",
        ),
        Key::new("models", "number", "16", "1 to 64", "models of one job"),
        Key::new(
            "user_jobs",
            "number",
            "100",
            "1 to 100000",
            "unfinished jobs of one user; more get 429",
        ),
        Key::new(
            "attempts",
            "number",
            "3",
            "1 to 100",
            "an analysis that fails on its way so often has failed",
        ),
        Key::new(
            "result",
            "size",
            "\"4GiB\"",
            "1MiB to 1TiB",
            "the largest result that is taken from a worker, packed",
        ),
        Key::new(
            "result_expanded",
            "size",
            "\"16GiB\"",
            "1MiB to 16TiB",
            "the largest result, unpacked",
        ),
        Key::new(
            "result_ratio",
            "number",
            "400",
            "2 to 1000000",
            "how many times larger than packed a result beyond 64MiB may be unpacked",
        ),
        Key::new(
            "result_entries",
            "number",
            "500000",
            "1 to 100000000",
            "files in a result",
        ),
        Key::new(
            "result_idle",
            "duration",
            "\"30s\"",
            "1s to 1h",
            "a result without a byte for so long is fetched again",
        ),
        Key::new(
            "findings",
            "number",
            "100000",
            "1 to 10000000",
            "findings of one analysis that can be asked for; more are in the archive only",
        ),
        Key::new(
            "finding",
            "size",
            "\"4MiB\"",
            "16KiB to 64MiB",
            "the largest finding that can be asked for",
        ),
    ],
};

/// Limits with their defaults: what one user and this machine may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one upload.
    pub upload: Size,
    /// Bytes of all uploads of one user.
    pub user: Size,
    /// Uploads of one user, finished ones included.
    pub user_uploads: u32,
    /// Uploads received at once.
    pub receiving: u32,
    /// Uploads received at once from one user.
    pub receiving_user: u32,
    /// What stays free on the disk; `None`: 512 MiB, or 5 % of a smaller disk.
    pub disk_free: Option<Size>,
    /// How long an upload request may send nothing.
    pub idle: Duration,
    /// How long a request other than an upload may take until its answer begins, its body included.
    pub request: Duration,
    /// Connections served at once.
    pub connections: u32,
    /// Users that may exist.
    pub users: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload: Size::mib(4 << 10),
            user: Size::mib(64 << 10),
            user_uploads: 1_000,
            receiving: 64,
            receiving_user: 8,
            disk_free: None,
            idle: Duration::from_secs(60),
            request: Duration::from_secs(60),
            connections: 4_096,
            users: 10_000,
        }
    }
}

/// `[hub]` as meant.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Where it listens. Port 0: the port of the last start when it is free, else any.
    pub address: SocketAddr,
    /// The folder of everything it keeps.
    pub data: PathBuf,
    /// How long events stay after a job's last terminal one.
    pub event_ttl: Duration,
    /// How long an untouched upload that no job needs is kept.
    pub keep_uploads: Duration,
    /// How long results are kept.
    pub keep_results: Duration,
    /// Names under which users reach it, lower case.
    pub hosts: Vec<String>,
    /// The service name of the workers, as registered.
    pub worker_service: String,
    /// Base url of a gate's inner listener; `None`: the gate in the same process.
    pub gate: Option<String>,
    /// Base urls of gates' admin faces.
    pub gate_admin: Vec<String>,
    /// Token of the gates' admin faces.
    pub gate_admin_token: Option<Secret>,
    /// Base urls of registries; empty: the registry in the same process.
    pub registry: Vec<Secret>,
    /// Gates whose forwarded headers count, beside loopback.
    pub trusted: Vec<Network>,
    /// How long an unused session lives.
    pub session: Duration,
    pub limits: Limits,
    pub jobs: JobLimits,
    /// Speaks TLS alone.
    pub tls: Option<tls::ServerSettings>,
    /// Whom https urls are verified against, alone.
    pub ca_file: Option<PathBuf>,
}

impl HubSettings {
    /// Defaults on `data`, listening on loopback with any port: what `munjigi up` and tests start from.
    #[must_use]
    pub fn embedded(data: PathBuf) -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            data,
            event_ttl: Duration::from_secs(600),
            keep_uploads: DAY,
            keep_results: DAY * 30,
            hosts: Vec::new(),
            worker_service: "MODEL-SERVER".to_owned(),
            gate: None,
            gate_admin: Vec::new(),
            gate_admin_token: None,
            registry: Vec::new(),
            trusted: Vec::new(),
            session: DAY * 7,
            limits: Limits::default(),
            jobs: JobLimits::default(),
            tls: None,
            ca_file: None,
        }
    }

    /// Reads `[hub]`. Problems are recorded in the table's document; `None` when `data` is missing.
    #[must_use]
    pub fn read(table: &Table<'_>) -> Option<Self> {
        refuse_other(table, "database", "sqlite");
        refuse_other(table, "log", "embedded");
        refuse_other(table, "events", "embedded");
        refuse_other(table, "files", "local");
        if table.value("data").is_none() {
            table.missing("data");
        }
        let data = table.path("data");
        let keep = table.table_or_empty("keep", KEEP);
        let limited = table.table_or_empty("limits", LIMITS);
        let kept = Duration::from_secs(1)..=DAY * 3_650;
        let gate = table
            .item::<String>("gate")
            .and_then(|item| url(table, item));
        let mut trusted = networks(table);
        trusted.extend(gate.as_deref().and_then(Network::of_url));
        let read = Self {
            address: address(table),
            data: data.clone().unwrap_or_default(),
            event_ttl: table.duration(
                "event_ttl",
                Duration::from_secs(600),
                Duration::from_secs(1)..=DAY * 30,
            ),
            keep_uploads: keep.duration("uploads", DAY, kept.clone()),
            keep_results: keep.duration("results", DAY * 30, kept),
            hosts: hosts(table),
            worker_service: table
                .or("worker_service", "MODEL-SERVER".to_owned())
                .to_uppercase(),
            gate,
            gate_admin: urls(table, "gate_admin", 64),
            gate_admin_token: table.secret_in_file("gate_admin_token_file"),
            registry: urls(table, "registry", 8)
                .iter()
                .map(|url| Secret::new(url))
                .collect(),
            trusted,
            session: table.duration("session", DAY * 7, Duration::from_secs(300)..=DAY * 90),
            limits: limits(&limited),
            jobs: JobLimits {
                worker_silence: table.duration(
                    "worker_silence",
                    JobLimits::default().worker_silence,
                    Duration::from_secs(8)..=Duration::from_secs(3_600),
                ),
                ..job_limits(&limited)
            },
            tls: table
                .table("tls", &tls::SERVER)
                .and_then(|tls| tls::read_server(&tls)),
            ca_file: tls::read_ca_file(table, "ca_file"),
        };
        data.is_some().then_some(read)
    }
}

fn limits(table: &Table<'_>) -> Limits {
    let default = Limits::default();
    let tib = 1_u64 << 40;
    Limits {
        upload: table.within("upload", default.upload, Size(1 << 10)..=Size(tib)),
        user: table.within("user", default.user, Size(1 << 10)..=Size(tib << 10)),
        user_uploads: table.within("user_uploads", default.user_uploads, 1..=100_000),
        receiving: table.within("receiving", default.receiving, 1..=4_096),
        receiving_user: table.within("receiving_user", default.receiving_user, 1..=4_096),
        disk_free: table
            .has("disk_free")
            .then(|| table.within("disk_free", Size(0), Size(0)..=Size(tib << 10))),
        idle: table.duration(
            "idle",
            default.idle,
            Duration::from_secs(1)..=Duration::from_secs(3_600),
        ),
        request: table.duration(
            "request",
            default.request,
            Duration::from_secs(1)..=Duration::from_secs(600),
        ),
        connections: table.within("connections", default.connections, 16..=1_000_000),
        users: table.within("users", default.users, 1..=1_000_000),
    }
}

/// The keys of [`LIMITS`] that hold for jobs.
fn job_limits(table: &Table<'_>) -> JobLimits {
    let default = JobLimits::default();
    let result = default.results;
    let size = |key, usual, least, most| {
        table
            .within(key, Size(usual), Size(least)..=Size(most))
            .bytes()
    };
    let (mib, tib) = (1 << 20, 1 << 40);
    let finding = u64::try_from(result.finding_bytes).unwrap_or(u64::MAX);
    JobLimits {
        models: table.within("models", default.models, 1..=64),
        unfinished: table.within("user_jobs", default.unfinished, 1..=100_000),
        sockets: table.within("sockets_user", default.sockets, 1..=10_000),
        attempts: table.within("attempts", default.attempts, 1..=100),
        worker_silence: default.worker_silence,
        results: ResultLimits {
            archive_bytes: size("result", result.archive_bytes, mib, tib),
            expanded_bytes: size("result_expanded", result.expanded_bytes, mib, 16 * tib),
            ratio: table.within("result_ratio", result.ratio, 2..=1_000_000),
            entries: table.within("result_entries", result.entries, 1..=100_000_000),
            findings: table.within("findings", result.findings, 1..=10_000_000),
            finding_bytes: usize::try_from(size("finding", finding, 16 << 10, 64 * mib))
                .unwrap_or(usize::MAX),
            idle: table.duration(
                "result_idle",
                result.idle,
                Duration::from_secs(1)..=Duration::from_secs(3_600),
            ),
        },
    }
}

fn address(table: &Table<'_>) -> SocketAddr {
    let default = SocketAddr::from(([127, 0, 0, 1], 8_000));
    let Some(item) = table.item::<HostPort>("address") else {
        return default;
    };
    if item.value.host == "localhost" {
        return SocketAddr::from(([127, 0, 0, 1], item.value.port));
    }
    item.value.socket_addr().unwrap_or_else(|| {
        table.problems().error_with_hint(
            item.span,
            format!("`address`: {} is a name, not an address", item.value.host),
            format!("write an address such as \"{DEFAULT_ADDRESS}\""),
        );
        default
    })
}

/// Keys that have one value in this version; the others of the contract come later.
fn refuse_other(table: &Table<'_>, key: &'static str, only: &str) {
    let Some(value) = table.value(key) else {
        return;
    };
    if value.get_ref().as_str() == Some(only) {
        return;
    }
    table.problems().error_with_hint(
        value.span(),
        format!("`{key}` other than \"{only}\" is not in this version"),
        format!("write \"{only}\" or remove the key"),
    );
}

fn hosts(table: &Table<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    for item in table.list::<String>("hosts").unwrap_or_default() {
        let host = item.value.to_ascii_lowercase();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let literal = host.parse::<std::net::IpAddr>().is_ok();
        if host.is_empty() || host.len() > 253 || !(literal || host.chars().all(fits)) {
            table.problems().error_with_hint(
                item.span,
                format!("`hosts`: \"{}\" is no host name", item.value),
                "write a name such as \"example.com\", without scheme and port",
            );
        } else {
            hosts.push(host);
        }
    }
    at_most(table, "hosts", hosts.len(), 256);
    hosts
}

fn networks(table: &Table<'_>) -> Vec<Network> {
    let mut networks = Vec::new();
    for item in table.list::<String>("trusted").unwrap_or_default() {
        match item.value.parse() {
            Ok(network) => networks.push(network),
            Err(why) => table.problems().error_with_hint(
                item.span,
                format!("`trusted`: {why}"),
                "write an address or a network such as \"10.0.0.0/8\"",
            ),
        }
    }
    at_most(table, "trusted", networks.len(), 256);
    networks
}

fn urls(table: &Table<'_>, key: &'static str, most: usize) -> Vec<String> {
    let urls: Vec<String> = table
        .list::<String>(key)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|item| url(table, item))
        .collect();
    at_most(table, key, urls.len(), most);
    urls
}

fn at_most(table: &Table<'_>, key: &'static str, count: usize, most: usize) {
    if count > most {
        table.problems().error(
            table.span_of(key),
            format!("`{key}` has {count} entries, {most} at the most are taken"),
        );
    }
}

fn url(table: &Table<'_>, item: Item<String>) -> Option<String> {
    let parsed = reqwest::Url::parse(&item.value);
    match parsed {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Some(item.value.trim_end_matches('/').to_owned())
        }
        _ => {
            // The text may hold a password: it is pointed at, not repeated.
            table.problems().error_with_hint(
                item.span,
                "this is no url",
                "write a url such as \"http://127.0.0.1:8080\"",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use munjigi_foundation::settings::{Document, Environment};

    use super::*;

    static ROOT: Schema = Schema {
        place: "the settings file",
        meaning: "",
        keys: &[Key::new("hub", "table", "", "", "the hub")],
    };

    fn read(text: &str) -> (Option<HubSettings>, String) {
        let document = Document::new("munjigi.toml".as_ref(), text.to_owned(), Environment::new());
        let (settings, problems) = document.read(&ROOT, |root| {
            let table = root.table("hub", SCHEMA)?;
            let settings = HubSettings::read(&table);
            assert_eq!(table.unread(), Vec::<&str>::new());
            settings
        });
        (settings, document.render(&problems, false))
    }

    #[test]
    fn the_defaults_are_the_contract() {
        let (settings, _) = read("[hub]\ndata = 'd'\n");
        let settings = settings.unwrap();
        assert_eq!(settings.address.to_string(), "127.0.0.1:8000");
        assert_eq!(settings.event_ttl, Duration::from_secs(600));
        assert_eq!(
            (settings.keep_uploads, settings.keep_results),
            (DAY, DAY * 30)
        );
        assert_eq!(settings.limits.upload.to_string(), "4GiB");
        assert_eq!(settings.worker_service, "MODEL-SERVER");
        // The defaults as printed are the defaults as used.
        let mut written = String::from("[hub]\ndata = 'd'\n");
        for key in SCHEMA.keys.iter().filter(|key| !key.default.is_empty()) {
            written.push_str(&format!("{} = {}\n", key.name, key.default));
        }
        for (table, schema) in [("keep", KEEP), ("limits", LIMITS)] {
            written.push_str(&format!("[hub.{table}]\n"));
            for key in schema.keys.iter().filter(|key| !key.default.is_empty()) {
                written.push_str(&format!("{} = {}\n", key.name, key.default));
            }
        }
        let (again, problems) = read(&written);
        assert!(problems.contains(" 0 errors"), "{problems}");
        assert_eq!(format!("{:?}", again.unwrap()), format!("{settings:?}"));
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let (settings, problems) = read(
            "[hub]\naddress = 'hub:1'\ndatabase = { postgres_env = 'X' }\nlog = { kafka = {} }\nkeep = { uploads = '0s', result = '1d' }\n\
             hosts = ['https://a']\ngate = 'ftp://x'\nregistry = ['https:']\ntrusted = ['10.0.0.0/33']\n\
             limits = { upload = '1B', receiving = 0, sockets_user = 0, findings = 0, result_idle = '0s' }\nworker_silence = '3s'\ntls = {}\n",
        );
        assert!(settings.is_none());
        for part in [
            "`address`: hub is a name",
            "`database` other than \"sqlite\" is not in this version",
            "`log` other than",
            "`uploads` must lie between 1s and 3650d",
            "did you mean `results`",
            "is no host name",
            "this is no url",
            "`trusted`: ",
            "`upload` is 1B, it must lie between 1KiB and 1TiB",
            "`receiving` is 0",
            "`sockets_user` is 0",
            "`findings` is 0",
            "`result_idle` must lie between 1s and 1h",
            "`worker_silence` must lie between 8s and 1h",
            "tls = { … } needs `certificate`",
            "[hub] needs `data`",
        ] {
            assert!(problems.contains(part), "{part}:\n{problems}");
        }
    }
}
