//! `[worker]`: as written → as meant.

use std::path::{Path, PathBuf};
use std::time::Duration;

use munjigi_events::ServerId;
use munjigi_foundation::settings::{HostPort, Key, Schema, Size, Table};
use munjigi_foundation::tls;

use crate::folder::plain_id;

/// `[worker]`.
pub static SCHEMA: Schema = Schema {
    place: "[worker]",
    meaning: "takes files, runs models, serves results",
    keys: &[
        Key::new(
            "address",
            "address",
            "\"127.0.0.1:0\"",
            "",
            "where it listens; port 0 takes any free one",
        ),
        Key::new(
            "advertise",
            "address",
            "",
            "",
            "address given to the registry; absent: the one it listens on",
        ),
        Key::new(
            "server_id",
            "text",
            "",
            "letters, digits, - and _, at most 64",
            "its id in registry and events; absent: made once and kept in data",
        ),
        Key::new(
            "data",
            "folder",
            "\"worker-data\"",
            "",
            "uploaded files, events and results until they are deleted",
        ),
        Key::new(
            "registry",
            "list of urls",
            "",
            "",
            "where it registers; absent: the registry in the same process",
        ),
        Key::new(
            "hub",
            "url",
            "",
            "",
            "where events go: a gate's inner listener; absent: the gate in the same process",
        ),
        Key::new(
            "slots",
            "number",
            "2",
            "1 to 64",
            "analyses at the same time",
        ),
        Key::new(
            "memory_max",
            "size",
            "\"1GiB\"",
            "64MiB to 1TiB",
            "memory of one model with all it starts",
        ),
        Key::new(
            "cpu_max",
            "duration",
            "\"2h\"",
            "1s to 7d",
            "processor time of one process of a model",
        ),
        Key::new(
            "time_max",
            "duration",
            "\"1h\"",
            "1s to 7d",
            "how long one run of a model may take",
        ),
        Key::new(
            "silence_max",
            "duration",
            "\"10m\"",
            "1s to 7d",
            "how long a model may say nothing",
        ),
        Key::new(
            "file_max",
            "size",
            "\"1GiB\"",
            "1MiB to 1TiB",
            "largest file that a model may write",
        ),
        Key::new(
            "output_max",
            "size",
            "\"4GiB\"",
            "1MiB to 16TiB",
            "all files that a model may write",
        ),
        Key::new(
            "processes_max",
            "number",
            "512",
            "4 to 32768",
            "processes and threads of one model",
        ),
        Key::new(
            "upload_max",
            "size",
            "\"4GiB\"",
            "1KiB to 16TiB",
            "largest file that it takes",
        ),
        Key::new(
            "disk_free_min",
            "size",
            "\"256MiB\"",
            "",
            "free disk below which it takes no file",
        ),
        Key::new(
            "idle_max",
            "duration",
            "\"60s\"",
            "1s to 1h",
            "how long an upload may pause before it is cut",
        ),
        Key::new(
            "result_keep",
            "duration",
            "\"7d\"",
            "1h to 365d",
            "how long a result that nobody fetched or deleted is kept",
        ),
        Key::new(
            "model",
            "tables",
            "[{ name = \"source\", builtin = true }]",
            "1 to 64",
            "the models that it offers",
        ),
        Key::later("log", "events through Kafka"),
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

/// `[[worker.model]]`.
pub static MODEL_SCHEMA: Schema = Schema {
    place: "[[worker.model]]",
    meaning: "a model that the worker offers",
    keys: &[
        Key::new(
            "name",
            "text",
            "",
            "letters, digits, - and _, at most 64",
            "what jobs call it",
        ),
        Key::new(
            "builtin",
            "true or false",
            "false",
            "",
            "the analyser in this program",
        ),
        Key::new(
            "command",
            "list of text",
            "",
            "",
            "program and arguments; `format` says what it speaks",
        ),
        Key::new(
            "format",
            "text",
            "\"protocol\"",
            "\"protocol\", \"sarif\"",
            "\"sarif\": any command that writes SARIF over the unpacked input: {input} and {output} in its arguments are replaced",
        ),
        Key::new(
            "read",
            "list of folders",
            "[]",
            "",
            "what it may read beside the system's programs and its input",
        ),
        Key::new(
            "network",
            "true or false",
            "false",
            "",
            "whether it may use the network",
        ),
        Key::new(
            "sandbox",
            "text",
            "\"on\"",
            "\"on\", \"off\"",
            "\"off\" runs it with the worker's own rights",
        ),
    ],
};

/// What a model is run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// This program's own `model` subcommand.
    Builtin,
    /// A program that speaks the model protocol, and its arguments.
    Command {
        program: PathBuf,
        arguments: Vec<String>,
    },
    /// A program that writes SARIF over a tree, and its arguments.
    Sarif {
        program: PathBuf,
        arguments: Vec<String>,
    },
}

/// A model that the worker offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSettings {
    pub name: String,
    pub program: Program,
    pub read: Vec<PathBuf>,
    pub network: bool,
    /// False for `sandbox = "off"`.
    pub sandbox: bool,
}

/// The worker's settings with everything resolved. Sizes are in bytes.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    pub address: HostPort,
    pub advertise: Option<HostPort>,
    pub server_id: Option<ServerId>,
    pub data: PathBuf,
    /// Empty: the registry in the same process.
    pub registry: Vec<String>,
    /// `None`: the gate in the same process.
    pub hub: Option<String>,
    pub slots: usize,
    pub memory_max: u64,
    pub cpu_max: Duration,
    pub time_max: Duration,
    pub silence_max: Duration,
    pub file_max: u64,
    pub output_max: u64,
    pub processes_max: u64,
    pub upload_max: u64,
    pub disk_free_min: u64,
    pub idle_max: Duration,
    pub result_keep: Duration,
    pub models: Vec<ModelSettings>,
    /// Speaks TLS alone.
    pub tls: Option<tls::ServerSettings>,
    /// Whom https urls are verified against, alone.
    pub ca_file: Option<PathBuf>,
    /// Where the settings file lies: a model's program is never a reason to show that folder.
    pub base: PathBuf,
}

impl WorkerSettings {
    /// What `[worker]` means where nothing is written, on `data`.
    #[must_use]
    pub fn new(data: PathBuf) -> Self {
        Self {
            address: HostPort {
                host: "127.0.0.1".to_owned(),
                port: 0,
            },
            advertise: None,
            server_id: None,
            data,
            registry: Vec::new(),
            hub: None,
            slots: 2,
            memory_max: 1 << 30,
            cpu_max: Duration::from_secs(7_200),
            time_max: Duration::from_secs(3_600),
            silence_max: Duration::from_secs(600),
            file_max: 1 << 30,
            output_max: 4 << 30,
            processes_max: 512,
            upload_max: 4 << 30,
            disk_free_min: 256 << 20,
            idle_max: Duration::from_secs(60),
            result_keep: Duration::from_secs(7 * 86_400),
            models: vec![ModelSettings {
                name: "source".to_owned(),
                program: Program::Builtin,
                read: Vec::new(),
                network: false,
                sandbox: true,
            }],
            tls: None,
            ca_file: None,
            base: PathBuf::new(),
        }
    }

    /// Reads `[worker]`.
    #[must_use]
    pub fn read(table: &Table<'_>) -> Option<Self> {
        let base = table.base();
        let data = table.or("data", PathBuf::from("worker-data"));
        let usual = Self::new(base.join(data));
        let second = Duration::from_secs(1);
        let days = |count: u64| Duration::from_secs(count * 86_400);
        let size = |key, usual, least, most| {
            table
                .within(key, Size(usual), Size(least)..=Size(most))
                .bytes()
        };
        let (kib, mib, tib) = (1 << 10, 1 << 20, 1 << 40);
        let week = second..=days(7);
        Some(Self {
            address: table.or("address", usual.address),
            advertise: table.get("advertise"),
            server_id: server_id(table),
            registry: urls(table, "registry"),
            hub: urls(table, "hub").into_iter().next(),
            slots: table.within("slots", usual.slots, 1..=64),
            memory_max: size("memory_max", usual.memory_max, 64 * mib, tib),
            cpu_max: table.duration("cpu_max", usual.cpu_max, week.clone()),
            time_max: table.duration("time_max", usual.time_max, week.clone()),
            silence_max: table.duration("silence_max", usual.silence_max, week),
            file_max: size("file_max", usual.file_max, mib, tib),
            output_max: size("output_max", usual.output_max, mib, 16 * tib),
            processes_max: table.within("processes_max", usual.processes_max, 4..=32_768),
            upload_max: size("upload_max", usual.upload_max, kib, 16 * tib),
            disk_free_min: size("disk_free_min", usual.disk_free_min, 0, 16 * tib),
            idle_max: table.duration("idle_max", usual.idle_max, second..=second * 3_600),
            result_keep: table.duration(
                "result_keep",
                usual.result_keep,
                second * 3_600..=days(365),
            ),
            models: models(table).unwrap_or(usual.models),
            tls: table
                .table("tls", &tls::SERVER)
                .and_then(|tls| tls::read_server(&tls)),
            ca_file: tls::read_ca_file(table, "ca_file"),
            base: base.to_path_buf(),
            data: usual.data,
        })
    }
}

fn server_id(table: &Table<'_>) -> Option<ServerId> {
    let id = table.item::<String>("server_id")?;
    if plain_id(&id.value) {
        return Some(ServerId(id.value));
    }
    table.problems().error_with_hint(
        id.span,
        format!("`server_id` can't be \"{}\"", id.value),
        "letters, digits, - and _, at most 64",
    );
    None
}

fn urls(table: &Table<'_>, key: &'static str) -> Vec<String> {
    let mut good = Vec::new();
    for url in table.list::<String>(key).unwrap_or_default() {
        match reqwest::Url::parse(&url.value) {
            Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => {
                good.push(url.value);
            }
            _ => table.problems().error_with_hint(
                url.span,
                format!("`{key}`: \"{}\" is no url", url.value),
                "write one such as \"http://10.0.0.2:8080\"",
            ),
        }
    }
    good
}

fn models(table: &Table<'_>) -> Option<Vec<ModelSettings>> {
    if !table.has("model") {
        return None;
    }
    let tables = table.tables("model", &MODEL_SCHEMA);
    let mut models: Vec<ModelSettings> = Vec::new();
    for written in &tables {
        if let Some(model) = model(written) {
            if models.iter().any(|other| other.name == model.name) {
                table.problems().error(
                    written.span_of("name"),
                    format!("there are two models named \"{}\"", model.name),
                );
            }
            models.push(model);
        }
    }
    if tables.is_empty() || tables.len() > 64 {
        table.problems().error_with_hint(
            table.span_of("model"),
            format!("`model` has {} entries, it must have 1 to 64", tables.len()),
            "leave it out for the built-in analyser",
        );
    }
    Some(models)
}

fn model(table: &Table<'_>) -> Option<ModelSettings> {
    let name = table.required::<String>("name");
    let builtin = table.or("builtin", false);
    let command = table.list::<String>("command");
    let sarif = table.choice("format", false, &[("protocol", false), ("sarif", true)]);
    let read = table.list::<PathBuf>("read").unwrap_or_default();
    let network = table.or("network", false);
    let sandbox = table.choice("sandbox", true, &[("on", true), ("off", false)]);
    let name = name.filter(|name| {
        let plain = plain_id(name);
        if !plain {
            table.problems().error_with_hint(
                table.span_of("name"),
                format!("`name` can't be \"{name}\""),
                "letters, digits, - and _, at most 64",
            );
        }
        plain
    })?;
    let command: Option<Vec<String>> =
        command.map(|parts| parts.into_iter().map(|part| part.value).collect());
    let program = match (builtin, command) {
        (true, None) if sarif => {
            let message = "`format` is for a `command`: the built-in analyser speaks the protocol";
            table.problems().error(table.span_of("format"), message);
            return None;
        }
        (true, None) => Program::Builtin,
        (false, Some(parts)) if parts.first().is_some_and(|first| !first.is_empty()) => {
            let (program, arguments) = from_command(table.base(), parts);
            if sarif {
                Program::Sarif { program, arguments }
            } else {
                Program::Command { program, arguments }
            }
        }
        (true, Some(_)) => {
            let message = "`builtin` and `command` exclude each other";
            table.problems().error(table.span_of("command"), message);
            return None;
        }
        (false, _) => {
            table.problems().error_with_hint(
                table.span_of("command"),
                format!("the model \"{name}\" has no program"),
                "write builtin = true, or command = [\"PROGRAM\", \"ARGUMENT\"]",
            );
            return None;
        }
    };
    Some(ModelSettings {
        name,
        program,
        read: read
            .iter()
            .map(|path| table.base().join(&path.value))
            .collect(),
        network,
        sandbox,
    })
}

/// A program with a slash, and an argument that names a file, are relative to the settings file.
fn from_command(base: &Path, parts: Vec<String>) -> (PathBuf, Vec<String>) {
    let mut parts = parts.into_iter();
    let program = PathBuf::from(parts.next().unwrap_or_default());
    let program = if program.components().count() > 1 {
        base.join(program)
    } else {
        program
    };
    let arguments = parts
        .map(|part| {
            let file = base.join(&part);
            if !part.starts_with('-') && file.is_file() {
                std::path::absolute(&file)
                    .unwrap_or(file)
                    .display()
                    .to_string()
            } else {
                part
            }
        })
        .collect();
    (program, arguments)
}

#[cfg(test)]
mod tests {
    use munjigi_foundation::settings::{Document, Environment};

    use super::*;

    static ROOT: Schema = Schema {
        place: "the settings file",
        meaning: "",
        keys: &[Key::new("worker", "table", "", "", "")],
    };

    fn read(text: &str) -> (Option<WorkerSettings>, String) {
        let document = Document::new("munjigi.toml".as_ref(), text.to_owned(), Environment::new());
        let (settings, problems) = document.read(&ROOT, |root| {
            let table = root.table("worker", &SCHEMA)?;
            let settings = WorkerSettings::read(&table);
            assert_eq!(table.unread(), Vec::<&str>::new());
            settings
        });
        let shown = if problems.is_empty() {
            String::new()
        } else {
            document.render(&problems, false)
        };
        (settings, shown)
    }

    #[test]
    fn what_is_not_written_has_the_printed_default() {
        let (settings, problems) = read("[worker]\n");
        assert_eq!(problems, "");
        let settings = settings.unwrap();
        let usual = WorkerSettings::new(PathBuf::from("worker-data"));
        assert_eq!(format!("{settings:?}"), format!("{usual:?}"));
        // The defaults as printed are the defaults as used.
        let mut written = String::from("[worker]\n");
        for key in SCHEMA.keys.iter().filter(|key| !key.default.is_empty()) {
            written.push_str(&format!("{} = {}\n", key.name, key.default));
        }
        let (again, problems) = read(&written);
        assert_eq!(problems, "");
        assert_eq!(format!("{:?}", again.unwrap()), format!("{usual:?}"));
    }

    #[test]
    fn every_key_of_a_model_is_read() {
        let text = "[worker]\nmodel = [{ name = 'a', builtin = true }]\n".to_owned();
        let document = Document::new("munjigi.toml".as_ref(), text, Environment::new());
        document.read(&ROOT, |root| {
            for table in root
                .table("worker", &SCHEMA)?
                .tables("model", &MODEL_SCHEMA)
            {
                assert!(model(&table).is_some());
                assert_eq!(table.unread(), Vec::<&str>::new());
            }
            Some(())
        });
    }

    #[test]
    fn the_contract_s_example_reads() {
        let (settings, problems) = read(
            r#"
[worker]
address = "0.0.0.0:0"
server_id = "143"
data = "/var/lib/munjigi-worker"
registry = ["http://10.0.0.2:8761/eureka"]
hub = "http://10.0.0.2:8080"
memory_max = "1GiB"
model = [ { name = "source", builtin = true }, { name = "semgrep", command = ["semgrep", "{input}"], format = "sarif" }, { name = "other", command = ["python3", "-x", "y"], read = ["/opt/other"], network = true, sandbox = "off" } ]
"#,
        );
        assert_eq!(problems, "");
        let settings = settings.unwrap();
        assert_eq!(
            settings.models.get(1).map(|model| &model.program),
            Some(&Program::Sarif {
                program: PathBuf::from("semgrep"),
                arguments: vec!["{input}".to_owned()],
            })
        );
        assert_eq!(settings.server_id, Some("143".into()));
        assert_eq!(settings.hub.as_deref(), Some("http://10.0.0.2:8080"));
        let other = settings.models.last().unwrap();
        assert!(other.network && !other.sandbox);
        assert_eq!(
            other.program,
            Program::Command {
                program: PathBuf::from("python3"),
                arguments: vec!["-x".to_owned(), "y".to_owned()],
            }
        );
    }

    #[test]
    fn every_problem_is_told() {
        let (settings, problems) = read(
            r#"
[worker]
server_id = "a/b"
slots = 0
memory_max = "1MiB"
registry = ["10.0.0.2"]
hub = "https://hub"
log = { kafka = {} }
model = [
  { name = "a b", builtin = true },
  { name = "x", builtin = true, command = ["y"] },
  { name = "z" },
  { name = "s", command = ["y"], sandbox = "maybe", format = "xml" },
  { name = "t", builtin = true, format = "sarif" },
  { name = "s", builtin = true },
]
"#,
        );
        assert!(settings.is_none());
        insta::assert_snapshot!(problems);
    }
}
