//! Static files. A path is resolved beneath its root by the kernel (`openat2(2)`,
//! `RESOLVE_BENEATH`), so that neither `..` nor a link leads out of it; opening and reading
//! happens on threads of its own (`pool`), a chunk at a time.

pub(crate) mod conditional;
pub(crate) mod pool;

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::compress::Coding;
use conditional::{Asked, Part, Validators};

/// What is read at once, and so the memory that one download takes.
pub(crate) const CHUNK: usize = 256 * 1024;

/// `files = { … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesSettings {
    /// The folder.
    pub root: PathBuf,
    /// What stands for a folder, the first that is there.
    pub index: Vec<String>,
    /// A path without a file and without a dot in its last segment gets the root's index.
    pub spa: bool,
    /// Siblings (`app.js.br`) that are sent in place of a file to clients that take them.
    pub precompressed: Vec<Coding>,
    /// Value of `Cache-Control`.
    pub cache_control: Option<String>,
}

/// What is wanted of a root.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) files: Arc<FilesSettings>,
    /// The path as it is forwarded, with its escapes.
    pub(crate) path: String,
    /// Codings that the client takes, the preferred one first.
    pub(crate) codings: Vec<Coding>,
    pub(crate) asked: Asked,
    /// For HEAD nothing is read.
    pub(crate) body: bool,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A file, opened, with the first chunk of what is sent.
    File(Box<Opened>),
    /// A folder that was named without the slash at its end.
    Folder,
    /// Nothing that may be sent.
    Nothing,
}

/// An opened file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: Arc<File>,
    pub(crate) validators: Validators,
    pub(crate) part: Part,
    pub(crate) coding: Option<Coding>,
    pub(crate) content_type: String,
    /// The first bytes of the part, at most [`CHUNK`].
    pub(crate) first: Vec<u8>,
}

impl Opened {
    /// Where the part begins, and its length.
    pub(crate) fn span(&self) -> (u64, u64) {
        match self.part {
            Part::Whole => (0, self.validators.length),
            Part::Range(start, length) => (start, length),
            Part::Unmodified | Part::Failed | Part::Unsatisfiable => (0, 0),
        }
    }
}

/// The segments of a path as names of files: `None` for what is never sent. Each is decoded once;
/// one that is empty, hidden (it begins with a dot, `.well-known` apart) or holds a slash or a
/// zero byte names no file.
fn names(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    if path.is_empty() {
        return Some(Vec::new());
    }
    path.strip_suffix('/')
        .unwrap_or(path)
        .split('/')
        .map(|segment| {
            let name = crate::target::decoded(segment)?;
            let hidden = name.starts_with('.') && name != ".well-known";
            (!name.is_empty() && !hidden && !name.contains(['/', '\0'])).then_some(name)
        })
        .collect()
}

/// The type by the name's ending.
pub(crate) fn content_type(name: &str) -> String {
    let guess = mime_guess::from_path(name).first();
    let guess = guess.map_or_else(|| "application/octet-stream".to_owned(), |m| m.to_string());
    let textual = guess.starts_with("text/")
        || matches!(
            guess.as_str(),
            "application/json" | "application/javascript"
        );
    if textual && !guess.contains("charset") {
        format!("{guess}; charset=utf-8")
    } else {
        guess
    }
}

/// Looks for what is wanted. Blocks: for a thread of the pool.
///
/// # Errors
/// What the disk says; a file that is not there is no error.
pub(crate) fn find(wanted: &Wanted) -> io::Result<Found> {
    let Some(names) = names(&wanted.path) else {
        return Ok(Found::Nothing);
    };
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, &wanted.files.root, folder, Mode::empty())?;
    let name = names.join("/");
    let mut opened = None;
    if wanted.path.ends_with('/') {
        opened = index(&root, &name, wanted)?;
    } else {
        match open(&root, &name)? {
            Some(Entry::Folder) => return Ok(Found::Folder),
            Some(Entry::File(file)) => opened = Some((file, name.clone())),
            None => {}
        }
    }
    if opened.is_none() && wanted.files.spa {
        let last = names.last().map_or("", String::as_str);
        if !last.contains('.') {
            opened = index(&root, "", wanted)?;
        }
    }
    match opened {
        Some((file, name)) => prepare(&root, file, &name, wanted).map(Found::File),
        None => Ok(Found::Nothing),
    }
}

fn index(
    root: &impl std::os::fd::AsFd,
    folder: &str,
    wanted: &Wanted,
) -> io::Result<Option<(File, String)>> {
    for candidate in &wanted.files.index {
        let name = match folder {
            "" => candidate.clone(),
            folder => format!("{folder}/{candidate}"),
        };
        if let Some(Entry::File(file)) = open(root, &name)? {
            return Ok(Some((file, name)));
        }
    }
    Ok(None)
}

enum Entry {
    File(File),
    Folder,
}

/// Opens beneath the root; `None` for what is not there, leads out, or is neither file nor folder.
fn open(root: &impl std::os::fd::AsFd, name: &str) -> io::Result<Option<Entry>> {
    use rustix::io::Errno;
    let name = if name.is_empty() { "." } else { name };
    // Without waiting for the other end of a pipe that lies there.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = rustix::fs::openat2(root, Path::new(name), flags, Mode::empty(), beneath);
    let file = match opened {
        Ok(file) => File::from(file),
        Err(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::XDEV
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::ACCESS
            | Errno::PERM
            | Errno::NXIO
            | Errno::INVAL,
        ) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_file() {
        Some(Entry::File(file))
    } else if kind.is_dir() {
        Some(Entry::Folder)
    } else {
        None
    })
}

fn prepare(
    root: &impl std::os::fd::AsFd,
    file: File,
    name: &str,
    wanted: &Wanted,
) -> io::Result<Box<Opened>> {
    let mut chosen = (file, None);
    for coding in &wanted.codings {
        let mut sibling = name.to_owned();
        sibling.push_str(coding.ending());
        if let Some(Entry::File(file)) = open(root, &sibling)? {
            chosen = (file, Some(*coding));
            break;
        }
    }
    let (file, coding) = chosen;
    let metadata = file.metadata()?;
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    let mut validators = Validators::new(metadata.len(), metadata.mtime(), nanoseconds);
    if let Some(coding) = coding {
        // Two forms of one file never share a strong tag (RFC 9110 §8.8.3.3).
        validators.tag = format!(
            "{}-{}\"",
            validators.tag.trim_end_matches('"'),
            coding.name()
        );
    }
    let mut opened = Box::new(Opened {
        part: conditional::judge(&wanted.asked, &validators),
        validators,
        file: Arc::new(file),
        coding,
        content_type: content_type(name),
        first: Vec::new(),
    });
    let (start, length) = opened.span();
    if wanted.body && length > 0 {
        opened.first = read(&opened.file, start, length)?;
    }
    Ok(opened)
}

/// Reads from `start` on at most `left` bytes and at most [`CHUNK`]; nothing at the file's end.
/// Blocks: for a thread of the pool.
///
/// # Errors
/// What the disk says.
pub(crate) fn read(file: &File, start: u64, left: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        match file.read_at(rest, start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The head lines of what was found, without its length.
pub(crate) fn lines(opened: &Opened, settings: &FilesSettings) -> String {
    let validators = &opened.validators;
    let mut lines = format!(
        "ETag: {}\r\nLast-Modified: {}\r\nAccept-Ranges: bytes\r\n",
        validators.tag,
        httpdate::fmt_http_date(validators.modified)
    );
    if let Some(value) = &settings.cache_control {
        push(&mut lines, "Cache-Control", value);
    }
    if !settings.precompressed.is_empty() {
        push(&mut lines, "Vary", "Accept-Encoding");
    }
    match opened.part {
        Part::Whole | Part::Range(..) => {
            push(&mut lines, "Content-Type", &opened.content_type);
            push(&mut lines, "X-Content-Type-Options", "nosniff");
            if let Some(coding) = opened.coding {
                push(&mut lines, "Content-Encoding", coding.name());
            }
        }
        Part::Unmodified | Part::Failed | Part::Unsatisfiable => {}
    }
    if let Part::Range(start, length) = opened.part {
        let (last, whole) = (start + length - 1, validators.length);
        let range = format!("bytes {start}-{last}/{whole}");
        push(&mut lines, "Content-Range", &range);
    }
    lines
}

fn push(lines: &mut String, name: &str, value: &str) {
    if write!(lines, "{name}: {value}\r\n").is_err() {
        tracing::error!("a line of a head can't be written");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_become_names_or_nothing() {
        let check = |path: &str, expected: Option<&[&str]>| {
            let names = names(path);
            let names = names
                .as_ref()
                .map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(names.as_deref(), expected, "{path}");
        };
        check("/", Some(&[]));
        check("/a/b.js", Some(&["a", "b.js"]));
        check("/a/", Some(&["a"]));
        check("/a%20b/%ED%95%9C", Some(&["a b", "한"]));
        check("/.well-known/x", Some(&[".well-known", "x"]));
        for path in [
            "/..",
            "/../x",
            "/%2e%2e/x",
            "/%2E./x",
            "/a/..%2fb",
            "/a%2Fb",
            "/a%00",
            "//a",
            "/a//b",
            "/.git/config",
            "/a/.env",
            "/.",
            "a",
            "",
            "/%ff",
            "/%zz",
            "/%",
        ] {
            check(path, None);
        }
        // Decoded once: what is left is a name with a percent sign, not a way up.
        check("/%252e%252e", Some(&["%2e%2e"]));
    }

    #[test]
    fn nothing_outside_of_the_root_is_found() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("www");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("in"), "inside").unwrap();
        symlink("in", root.join("link")).unwrap();
        symlink(outside.path().join("secret"), root.join("out")).unwrap();
        symlink("../../", root.join("up")).unwrap();
        symlink("/proc/self/root/etc", root.join("magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let made = rustix::fs::mknodat(
            CWD,
            root.join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::from(0o600),
            0,
        );
        made.unwrap();
        let what = |path: &str| {
            let wanted = Wanted {
                files: Arc::new(FilesSettings {
                    root: root.clone(),
                    index: vec!["index.html".to_owned()],
                    spa: false,
                    precompressed: Vec::new(),
                    cache_control: None,
                }),
                path: path.to_owned(),
                codings: Vec::new(),
                asked: Asked::default(),
                body: true,
            };
            match find(&wanted).unwrap() {
                Found::File(opened) => String::from_utf8(opened.first).unwrap(),
                Found::Folder => "folder".to_owned(),
                Found::Nothing => "nothing".to_owned(),
            }
        };
        assert_eq!(what("/in"), "inside");
        assert_eq!(what("/link"), "inside");
        for path in [
            "/out",
            "/up",
            "/up/",
            "/magic",
            "/magic/passwd",
            "/loop",
            "/pipe",
            "/in/x",
        ] {
            assert_eq!(what(path), "nothing", "{path}");
        }
    }
}
