//! `munjigi result`: fetches results, verifies their digest, and unpacks them where the user said, nowhere else.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::HubArgs;
use super::follow::text;
use super::hub::{Hub, good};
use crate::outcome::{Exit, Failure, say};

/// Members of one result.
const ENTRIES_MAX: usize = 500_000;
/// Bytes of one result, unpacked.
const BYTES_MAX: u64 = 64 << 30;

/// `munjigi result`
#[derive(Debug, Args)]
pub(crate) struct ResultArgs {
    /// The job's id, as `submit` and `jobs` print it
    event_id: String,
    /// The folder to put the result into; made when absent, and empty when not
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
}

/// Fetches a job's results.
pub(crate) async fn result(args: ResultArgs) -> Result<Exit, Failure> {
    let hub = Hub::find(&args.hub)?;
    refuse_full(&args.output)?;
    let job = hub
        .json(Method::GET, &format!("/api/jobs/{}", args.event_id))
        .await?;
    let analyses: Vec<&Value> = job
        .get("analyses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|analysis| text(analysis, "status") == "DONE")
        .collect();
    if analyses.is_empty() {
        return Err(Failure::no(format!(
            "the job has no results: {}",
            text(&job, "status")
        )));
    }
    fs::create_dir_all(&args.output).map_err(|error| cannot_write(&args.output, &error))?;
    for analysis in &analyses {
        let analyze_id = text(analysis, "analyzeId");
        let path = format!("/api/jobs/{}/results/{analyze_id}.tar.zst", args.event_id);
        let packed = fetch(&hub, &path, &args.output).await?;
        // One analysis fills the folder, several get a folder each.
        let folder = if analyses.len() == 1 {
            args.output.clone()
        } else {
            args.output
                .join(plain(text(analysis, "model")))
                .join(plain(analyze_id))
        };
        let shown = folder.display().to_string();
        let count = tokio::task::spawn_blocking(move || unpack(packed, &folder))
            .await
            .map_err(Failure::could_not)??;
        say(format!("{shown}: {count} files"));
    }
    Ok(Exit::Good)
}

fn refuse_full(folder: &Path) -> Result<(), Failure> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(
            Failure::could_not(format!("{} is not empty", folder.display()))
                .hint("name a folder that is empty, or does not exist"),
        ),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot_write(folder, &error)),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::could_not(format!("{} can't be written: {error}", path.display()))
}

/// A name of the hub's as the name of one folder.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// Fetches a result into a nameless file beside `folder` and verifies its digest.
async fn fetch(hub: &Hub, path: &str, folder: &Path) -> Result<File, Failure> {
    let response = good(hub.send(hub.request(Method::GET, path)).await?).await?;
    let expected = response
        .headers()
        .get("repr-digest")
        .and_then(|value| value.to_str().ok())
        .and_then(sha256_of)
        .ok_or_else(|| Failure::could_not("the hub sent a result without a SHA-256 digest"))?;
    let mut file = tempfile::tempfile_in(folder).map_err(|error| cannot_write(folder, &error))?;
    let mut hash = Sha256::new();
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| hub.unreachable(&error))?;
        hash.update(&chunk);
        file.write_all(&chunk)
            .map_err(|error| cannot_write(folder, &error))?;
    }
    if hash.finalize().as_slice() != expected.as_slice() {
        return Err(
            Failure::could_not("the result was damaged on its way: its digest is another")
                .hint("fetch it again"),
        );
    }
    Ok(file)
}

/// The SHA-256 of a `Repr-Digest` field (RFC 9530): `sha-256=:BASE64:`.
fn sha256_of(field: &str) -> Option<Vec<u8>> {
    field.split(',').find_map(|part| {
        let encoded = part.trim().strip_prefix("sha-256=:")?.strip_suffix(':')?;
        STANDARD
            .decode(encoded)
            .ok()
            .filter(|digest| digest.len() == 32)
    })
}

/// Unpacks into `folder` after every member was found harmless; gives the number of files.
fn unpack(mut packed: File, folder: &Path) -> Result<usize, Failure> {
    let broken =
        |error: io::Error| Failure::could_not(format!("the result can't be unpacked: {error}"));
    packed.rewind().map_err(broken)?;
    let mut count = 0;
    each_member(&packed, |path, _| {
        count += usize::from(harmless(path).is_some());
        Ok(())
    })?;
    packed.rewind().map_err(broken)?;
    each_member(&packed, |path, content| {
        let Some(path) = harmless(path) else {
            return Ok(());
        };
        let target = folder.join(path);
        let mut write = || -> io::Result<()> {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = File::options().write(true).create_new(true).open(&target)?;
            io::copy(content, &mut file)?;
            Ok(())
        };
        write().map_err(|error| cannot_write(&target, &error))
    })?;
    Ok(count)
}

/// Runs `act` for each regular file; anything that is neither file nor folder, and any name that leads out, is an
/// error.
fn each_member(
    packed: &File,
    mut act: impl FnMut(&Path, &mut dyn Read) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let broken =
        |error: io::Error| Failure::could_not(format!("the result can't be unpacked: {error}"));
    let mut archive = tar::Archive::new(zstd::Decoder::new(packed).map_err(broken)?);
    let mut bytes = 0_u64;
    for (number, entry) in archive.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let kind = entry.header().entry_type();
        bytes = bytes.saturating_add(entry.size());
        if number >= ENTRIES_MAX || bytes > BYTES_MAX {
            return Err(Failure::could_not(format!(
                "the result holds more than {ENTRIES_MAX} members or {} GiB",
                BYTES_MAX >> 30
            )));
        }
        let refuse = |why: &str| {
            Failure::could_not(format!("the result holds \"{}\", {why}", path.display()))
                .hint("nothing of it was unpacked: its worker is broken or hostile")
        };
        if harmless(&path).is_none() {
            return Err(refuse("which leads out of the folder"));
        }
        match kind {
            tar::EntryType::Directory => {}
            tar::EntryType::Regular | tar::EntryType::Continuous => act(&path, &mut entry)?,
            _ => return Err(refuse("which is no regular file")),
        }
    }
    Ok(())
}

/// The path, when it stays beneath the folder it is joined to.
fn harmless(path: &Path) -> Option<PathBuf> {
    let parts: PathBuf = path
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect::<Option<_>>()?;
    (!path.as_os_str().is_empty()).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(members: &[(&str, tar::EntryType)]) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut archive = tar::Builder::new(zstd::Encoder::new(file, 1).unwrap());
        for (name, kind) in members {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            // The crate refuses bad names, as it should; a hostile worker does not use it.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            if kind.is_symlink() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            let content: &[u8] = if kind.is_file() { b"text" } else { b"" };
            header.set_size(content.len() as u64);
            header.set_cksum();
            archive.append(&header, content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_result_is_unpacked_beneath_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let count = unpack(
            packed(&[
                ("sources", tar::EntryType::Directory),
                ("sources/a.py", tar::EntryType::Regular),
                ("./report.sarif", tar::EntryType::Regular),
            ]),
            folder.path(),
        )
        .unwrap();
        assert_eq!(count, 2);
        assert_eq!(
            fs::read(folder.path().join("sources/a.py")).unwrap(),
            b"text"
        );
    }

    #[test]
    fn a_hostile_result_writes_nothing() {
        for (name, kind) in [
            ("../out", tar::EntryType::Regular),
            ("a/../../out", tar::EntryType::Regular),
            ("/tmp/out", tar::EntryType::Regular),
            ("link", tar::EntryType::Symlink),
            ("hard", tar::EntryType::Link),
            ("device", tar::EntryType::Char),
            ("pipe", tar::EntryType::Fifo),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = packed(&[("good", tar::EntryType::Regular), (name, kind)]);
            assert!(unpack(file, folder.path()).is_err(), "{name}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
        }
    }

    #[test]
    fn digests() {
        let digest = STANDARD.encode([7_u8; 32]);
        assert_eq!(
            sha256_of(&format!("md5=:x:, sha-256=:{digest}:")),
            Some(vec![7; 32])
        );
        assert_eq!(sha256_of("sha-256=:AAAA:"), None);
        assert_eq!(sha256_of("sha-512=:AAAA:"), None);
    }
}
