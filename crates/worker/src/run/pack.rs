//! Packs what a model left in its output folder into `tar.zst`: regular files beneath the folder only, in a fixed
//! order, so that the same files give the same bytes. Blocking.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Files in one result.
const FILES_MAX: usize = 200_000;
/// Folders inside each other.
const DEPTH_MAX: usize = 64;
const ZSTD_LEVEL: i32 = 3;
/// The model's own cache, which is no part of a result.
const CACHE: &str = ".cache";

/// A packed result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Of the archive.
    pub(crate) bytes: u64,
    /// SHA-256 of the archive.
    pub(crate) sha256: [u8; 32],
    pub(crate) files: u64,
    /// Artifacts that the model named and that were not taken, with the reason.
    pub(crate) refused: Vec<(String, &'static str)>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error("the result has more than {FILES_MAX} files")]
    TooManyFiles,
    #[error("folders of the result are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("packing was stopped")]
    Stopped,
    #[error("the result could not be packed: {0}")]
    Io(#[from] io::Error),
}

/// Packs `artifacts` (paths beneath `output`, files or folders; all of `output` when none was named) into `archive`,
/// durably.
pub(crate) fn pack(
    output: &Path,
    artifacts: &[String],
    archive: &Path,
    stop: &CancellationToken,
) -> Result<Packed, PackError> {
    let root: OwnedFd = File::open(output)?.into();
    let mut refused = Vec::new();
    let mut members = BTreeSet::new();
    if artifacts.is_empty() {
        collect(&root, Path::new(""), 0, &mut members)?;
    }
    for artifact in artifacts {
        match beneath(artifact) {
            None => refused.push((artifact.clone(), "it is no path beneath the output folder")),
            Some(path) => match open(&root, &path) {
                Err(_) => {
                    refused.push((artifact.clone(), "it is not there, or a link leads to it"))
                }
                Ok(file) if is_folder(&file) => collect(&root, &path, 0, &mut members)?,
                Ok(file) if is_regular(&file) => insert(&mut members, path)?,
                Ok(_) => refused.push((artifact.clone(), "it is neither a file nor a folder")),
            },
        }
    }
    let mut packed = write(&root, &members, archive, stop)?;
    packed.refused = refused;
    Ok(packed)
}

/// `artifact` as a plain relative path.
fn beneath(artifact: &str) -> Option<PathBuf> {
    if artifact.is_empty() || artifact.len() > 4_096 || artifact.contains('\0') {
        return None;
    }
    let mut path = PathBuf::new();
    for part in Path::new(artifact).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// Opens beneath `root`; no link anywhere on the way is followed, and nothing is waited for.
fn open(root: &OwnedFd, path: &Path) -> io::Result<File> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(File::from(openat2(
        root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?))
}

fn is_folder(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// A regular file that no other name leads to: a second name could lie outside.
fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
        && fstat(file).is_ok_and(|status| status.st_nlink == 1)
}

fn insert(members: &mut BTreeSet<PathBuf>, path: PathBuf) -> Result<(), PackError> {
    members.insert(path);
    if members.len() > FILES_MAX {
        return Err(PackError::TooManyFiles);
    }
    Ok(())
}

fn collect(
    root: &OwnedFd,
    folder: &Path,
    depth: usize,
    members: &mut BTreeSet<PathBuf>,
) -> Result<(), PackError> {
    if depth > DEPTH_MAX {
        return Err(PackError::TooDeep);
    }
    let opened = open(root, folder)?;
    for entry in rustix::fs::Dir::read_from(&opened).map_err(io::Error::from)? {
        let entry = entry.map_err(io::Error::from)?;
        let name =
            std::ffi::OsStr::new(entry.file_name().to_str().map_err(|_| {
                io::Error::other("a file of the result has a name that is no UTF-8")
            })?);
        if name == "."
            || name == ".."
            || (depth == 0 && folder.as_os_str().is_empty() && name == CACHE)
        {
            continue;
        }
        let path = folder.join(name);
        match open(root, &path) {
            Ok(file) if is_folder(&file) => collect(root, &path, depth + 1, members)?,
            Ok(file) if is_regular(&file) => insert(members, path)?,
            // A link, a pipe, or gone.
            _ => {}
        }
    }
    Ok(())
}

fn write(
    root: &OwnedFd,
    members: &BTreeSet<PathBuf>,
    archive: &Path,
    stop: &CancellationToken,
) -> Result<Packed, PackError> {
    let hashed = Hashed {
        file: File::create(archive)?,
        hash: Sha256::new(),
        bytes: 0,
    };
    let mut tar = tar::Builder::new(zstd::Encoder::new(hashed, ZSTD_LEVEL)?);
    let mut files = 0_u64;
    for member in members {
        if stop.is_cancelled() {
            return Err(PackError::Stopped);
        }
        let file = open(root, member)?;
        if !is_regular(&file) {
            continue;
        }
        let length = file.metadata()?.len();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(length);
        // The model is gone, so the length stands; a file cut all the same must not shift the next one.
        tar.append_data(&mut header, member, Exactly::new(file, length))?;
        files += 1;
    }
    let hashed = tar.into_inner()?.finish()?;
    hashed.file.sync_all()?;
    if let Some(folder) = archive.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(Packed {
        bytes: hashed.bytes,
        sha256: hashed.hash.finalize().into(),
        files,
        refused: Vec::new(),
    })
}

struct Hashed {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += u64::try_from(written).unwrap_or(0);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A reader of exactly so many bytes: longer files are cut, shorter ones are an error.
struct Exactly {
    file: io::Take<File>,
    left: u64,
}

impl Exactly {
    fn new(file: File, length: u64) -> Self {
        Self {
            file: file.take(length),
            left: length,
        }
    }
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.left = self.left.saturating_sub(u64::try_from(read).unwrap_or(0));
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::other(
                "a file of the result became shorter while it was packed",
            ));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn unpack(archive: &Path) -> BTreeMap<String, String> {
        let mut tar = tar::Archive::new(zstd::Decoder::new(File::open(archive).unwrap()).unwrap());
        tar.entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().display().to_string(), text)
            })
            .collect()
    }

    fn folder() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        fs::create_dir_all(output.join("sub/deep")).unwrap();
        fs::create_dir(output.join(".cache")).unwrap();
        fs::write(output.join("a.txt"), "a").unwrap();
        fs::write(output.join("sub/deep/b.txt"), "b").unwrap();
        fs::write(output.join(".cache/c"), "c").unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        let archive = folder.path().join("result");
        (folder, output, archive)
    }

    #[test]
    fn all_files_are_packed_when_none_is_named_and_the_digest_is_the_archive_s() {
        let (_folder, output, archive) = folder();
        let packed = pack(&output, &[], &archive, &CancellationToken::new()).unwrap();
        let bytes = fs::read(&archive).unwrap();
        assert_eq!(packed.bytes, bytes.len() as u64);
        assert_eq!(packed.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(
            unpack(&archive),
            BTreeMap::from([
                ("a.txt".to_owned(), "a".to_owned()),
                ("sub/deep/b.txt".to_owned(), "b".to_owned()),
            ])
        );
        let again = pack(&output, &[], &archive, &CancellationToken::new()).unwrap();
        assert_eq!(again, packed);
    }

    #[test]
    fn nothing_outside_is_packed_whatever_is_named() {
        let (folder, output, archive) = folder();
        let secret = folder.path().join("secret");
        symlink(&secret, output.join("link")).unwrap();
        symlink(folder.path(), output.join("way")).unwrap();
        fs::hard_link(&secret, output.join("twin")).unwrap();
        rustix::fs::mknodat(
            File::open(&output).unwrap(),
            "pipe",
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let named: Vec<String> = [
            "../secret",
            "link",
            "way/secret",
            "twin",
            "pipe",
            "/etc/passwd",
            "",
            "gone",
            "a\0b",
            "sub/../a.txt",
            "./a.txt",
        ]
        .map(str::to_owned)
        .into();
        let packed = pack(&output, &named, &archive, &CancellationToken::new()).unwrap();
        assert_eq!(
            unpack(&archive),
            BTreeMap::from([("a.txt".to_owned(), "a".to_owned())])
        );
        assert_eq!(packed.refused.len(), named.len() - 1);
        // And when all is packed, the same ones stay out.
        pack(&output, &[], &archive, &CancellationToken::new()).unwrap();
        assert_eq!(unpack(&archive).len(), 2);
    }

    #[test]
    fn a_stop_is_heard() {
        let (_folder, output, archive) = folder();
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(matches!(
            pack(&output, &[], &archive, &stop),
            Err(PackError::Stopped)
        ));
    }
}
