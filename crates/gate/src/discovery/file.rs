//! Backends from a file: `backends = [{ address = "10.0.0.3:8000", weight = 2 }, …]` as TOML, or the same as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::Rules;
use crate::backends::{Backends, Instance};
use crate::settings::Placement;
use crate::watch::Watch;

/// Largest file.
const BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    backends: Vec<Backend>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backend {
    address: SocketAddr,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    backup: bool,
    #[serde(default)]
    priority: u32,
    zone: Option<String>,
    /// Takes requests.
    #[serde(default = "yes")]
    up: bool,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// Reads the file as it is now.
///
/// # Errors
/// What is wrong with it, and where.
fn read(file: &Path) -> Result<Backends, String> {
    let size = std::fs::metadata(file)
        .map_err(|error| error.to_string())?
        .len();
    if size > BYTES_MAX {
        return Err(format!("it is longer than {BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    parse(&text, file.extension().is_some_and(|end| end == "json"))
}

/// The backends that a file lists, as JSON or TOML.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str, json: bool) -> Result<Backends, String> {
    let listed: Listed = if json {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?
    };
    let mut instances = Vec::new();
    for backend in listed.backends {
        if !(1..=1_000).contains(&backend.weight) {
            return Err(format!("{}: a weight is 1 to 1000", backend.address));
        }
        if backend.priority > 1_000 {
            return Err(format!("{}: a priority is 0 to 1000", backend.address));
        }
        instances.push(Instance {
            host: backend.address.ip().to_string(),
            port: backend.address.port(),
            weight: backend.weight,
            placement: Placement {
                backup: backend.backup,
                priority: backend.priority,
                zone: backend.zone,
            },
            up: backend.up,
            metadata: backend.metadata,
        });
    }
    Ok(Backends {
        instances,
        unsure: false,
    })
}

/// Follows the file; a bad one is refused and the last good one stays. Read once before this returns.
pub(super) fn follow(
    rules: Rules,
    file: PathBuf,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let mut watch = Watch::new([file.clone()]);
    take(&rules, &file);
    async move {
        while stop.run_until_cancelled(watch.changed()).await.is_some() {
            take(&rules, &file);
        }
    }
}

fn take(rules: &Rules, file: &Path) {
    let service = &rules.service.name;
    let name = file.display();
    match read(file) {
        Ok(backends) => {
            tracing::info!(
                service,
                "{name} lists {} backends",
                backends.instances.len()
            );
            rules.apply(&backends, true);
        }
        Err(why) => {
            tracing::error!(service, "{name} is not used, what was known stays: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_files_are_read_and_bad_ones_say_why() {
        let good = parse(
            "backends = [ { address = \"10.0.0.3:80\" }, { address = \"[::1]:81\", weight = 3, backup = true, up = false, metadata = { serverId = \"7\" } } ]",
            false,
        )
        .unwrap();
        assert_eq!((good.instances[0].weight, good.instances[0].up), (1, true));
        assert_eq!(good.instances[1].host, "::1");
        assert!(good.instances[1].placement.backup && !good.instances[1].up);
        let json = "{\"backends\":[{\"address\":\"10.0.0.3:80\"}]}";
        assert_eq!(parse(json, true).unwrap().instances.len(), 1);
        assert!(parse("backends = []", false).unwrap().instances.is_empty());
        let check = |text: &str, json: bool, expected: &str| {
            let why = parse(text, json).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        };
        check(
            "backends = [ { adress = \"10.0.0.3:80\" } ]",
            false,
            "adress",
        );
        check(
            "backends = [ { address = \"name:80\" } ]",
            false,
            "socket address",
        );
        check(
            "backends = [ { address = \"10.0.0.3:80\", weight = 0 } ]",
            false,
            "weight",
        );
        check("{\"backends\":[", true, "EOF");
        check("", false, "backends");
    }
}
