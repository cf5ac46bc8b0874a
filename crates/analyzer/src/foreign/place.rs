//! Places in a foreign report → places as ours are (contract §8): relative to the upload, members as `a.zip!/dir/x.java`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::report::RunHead;
use crate::intake::EntryPath;
use crate::report::coverage::Row;
use crate::scan::upload_name;

/// Largest file that is shown beside its findings, in bytes.
const SOURCE_BYTES_MAX: u64 = 8 << 20;
/// Files that are shown.
const SOURCES_MAX: usize = 10_000;

/// `artifactLocation` (SARIF §3.4).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Location {
    uri: Option<String>,
    uri_base_id: Option<String>,
    index: Option<i64>,
}

/// The tree that a tool looked at, and which of its files findings touch.
#[derive(Debug)]
pub(super) struct Places {
    /// Of the upload.
    name: EntryPath,
    archive: bool,
    /// Without links on the way.
    tree: PathBuf,
    touched: BTreeSet<PathBuf>,
    /// The file that was read last, for fingerprints: findings come file by file.
    last: Option<(PathBuf, String)>,
}

impl Places {
    pub(super) fn new(name: &str, tree: &Path, coverage: &[Row]) -> io::Result<Self> {
        let name = upload_name(name);
        let inside = name.member(b"").display();
        Ok(Self {
            archive: coverage.iter().any(|row| row.path.starts_with(&inside)),
            name,
            tree: fs::canonicalize(tree)?,
            touched: BTreeSet::new(),
            last: None,
        })
    }

    /// Rewrites every location of a result; those that lead out of the tree stay as they are. Gives the file of the
    /// first one.
    pub(super) fn rewrite(&mut self, run: &RunHead, value: &mut Value) -> Option<PathBuf> {
        let mut first = None;
        self.walk(run, value, &mut first);
        first
    }

    /// The depth is that of the JSON, which its reader bounds.
    fn walk(&mut self, run: &RunHead, value: &mut Value, first: &mut Option<PathBuf>) {
        match value {
            Value::Array(all) => {
                for one in all {
                    self.walk(run, one, first);
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    if name != "artifactLocation" && name != "analysisTarget" {
                        self.walk(run, member, first);
                        continue;
                    }
                    let Some(file) = self.file(run, member) else {
                        continue;
                    };
                    let uri = self.place(&file).uri();
                    *member = json!({ "uri": uri, "uriBaseId": "PATH" });
                    if self.touched.len() < SOURCES_MAX {
                        self.touched.insert(file.clone());
                    }
                    first.get_or_insert(file);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// The file of the tree, relative to it, that a location means.
    fn file(&self, run: &RunHead, location: &Value) -> Option<PathBuf> {
        let location = Location::deserialize(location).ok()?;
        let named = match (&location.uri, location.index) {
            (Some(_), _) => location,
            (None, Some(index)) => {
                let index = usize::try_from(index).ok()?;
                run.artifacts.get(index)?.location.clone()
            }
            (None, None) => return None,
        };
        let path = path_of(named.uri.as_deref()?)?;
        let base = named.uri_base_id.as_deref().and_then(|id| run.base(id));
        let path = match base.and_then(path_of) {
            Some(base) if path.is_relative() => base.join(path),
            _ => path,
        };
        self.inside(&path)
    }

    /// `path` relative to the tree, when it leads to a file there.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        // Absolute as it is; else from the tree, which is the tool's working folder.
        let real = fs::canonicalize(self.tree.join(path)).ok()?;
        let relative = real.strip_prefix(&self.tree).ok()?;
        let plain = relative
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        (plain && real.is_file()).then(|| relative.to_owned())
    }

    fn place(&self, file: &Path) -> EntryPath {
        use std::os::unix::ffi::OsStrExt;
        if self.archive {
            self.name.member(file.as_os_str().as_bytes())
        } else {
            self.name.clone()
        }
    }

    /// The files that findings touch, with their places and texts; unreadable ones are left out.
    pub(super) fn sources(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.touched.iter().filter_map(|file| {
            let text = text_of(&self.tree.join(file))?;
            Some((self.place(file).display(), text))
        })
    }

    /// A line of a file of the tree, without the space around it.
    pub(super) fn line(&mut self, file: &Path, number: u64) -> Option<&str> {
        if self.last.as_ref().is_none_or(|(last, _)| last != file) {
            let text = text_of(&self.tree.join(file)).unwrap_or_default();
            self.last = Some((file.to_owned(), text));
        }
        let (_, text) = self.last.as_ref()?;
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        text.lines().nth(index).map(str::trim)
    }
}

fn text_of(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(SOURCE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= SOURCE_BYTES_MAX);
    fits.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// The path that a URI names: relative, or absolute where it is a `file:` URI or a plain path, as some tools write.
fn path_of(uri: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let text = match uri.strip_prefix("file:") {
        // An authority is this machine, whatever it is called (RFC 8089).
        Some(rest) => match rest.strip_prefix("//") {
            Some(rest) => rest.split_at_checked(rest.find('/')?)?.1,
            None => rest,
        },
        None if uri.contains("://") => return None,
        None => uri,
    };
    let bytes = decoded(text);
    if bytes.is_empty() || bytes.contains(&0) {
        return None;
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// Percent-decoding (RFC 3986 §2.1); what is no escape stays.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%')
            .then(|| std::str::from_utf8(after.get(..2)?).ok())
            .flatten()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escape.unwrap_or(*first));
        rest = match escape {
            Some(_) => after.get(2..).unwrap_or_default(),
            None => after,
        };
    }
    bytes
}

/// `originalUriBaseIds` (SARIF §3.14.14).
pub(super) type Bases = BTreeMap<String, Location>;

impl RunHead {
    /// The URI that a base stands for, when it is said.
    fn base(&self, id: &str) -> Option<&str> {
        self.original_uri_base_ids.get(id)?.uri.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::coverage::Status;

    #[test]
    fn uris_name_paths() {
        for (uri, path) in [
            ("src/a.py", Some("src/a.py")),
            ("src/a%20b.py", Some("src/a b.py")),
            ("100%.py", Some("100%.py")),
            ("%+1.py", Some("%+1.py")),
            ("file:///tree/a.py", Some("/tree/a.py")),
            ("file://host/tree/a.py", Some("/tree/a.py")),
            ("file:/tree/a.py", Some("/tree/a.py")),
            ("/tree/a.py", Some("/tree/a.py")),
            ("https://example.com/a.py", None),
            ("file://host", None),
            ("a%00b", None),
            ("", None),
        ] {
            assert_eq!(path_of(uri), path.map(PathBuf::from), "{uri}");
        }
    }

    #[test]
    fn places_are_ours_inside_the_tree_and_untouched_outside() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("src")).unwrap();
        fs::write(tree.join("src/a b.py"), "one\n  two  \n").unwrap();
        fs::write(root.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(root.path().join("secret"), tree.join("link")).unwrap();
        let row = Row::new("x.zip!/src/a b.py".to_owned(), Status::Analysed);
        let mut places = Places::new("/evil/../x.zip", &tree, &[row]).unwrap();
        let run: RunHead = serde_json::from_value(json!({
            "tool": {"driver": {"name": "t"}},
            "artifacts": [{"location": {"uri": "src/a%20b.py"}}],
            "originalUriBaseIds": {"SRC": {"uri": format!("file://{}/src/", tree.display())}},
        }))
        .unwrap();
        let absolute = format!("file://{}/src/a%20b.py", tree.display());
        let mut check = |location: Value, expected: Option<&str>| {
            let mut value =
                json!({"locations": [{"physicalLocation": {"artifactLocation": location}}]});
            let before = value.clone();
            let file = places.rewrite(&run, &mut value);
            match expected {
                Some(uri) => assert_eq!(
                    value.pointer("/locations/0/physicalLocation/artifactLocation"),
                    Some(&json!({"uri": uri, "uriBaseId": "PATH"})),
                ),
                None => assert_eq!((file, value), (None, before)),
            }
        };
        let place = Some("x.zip!/src/a%20b.py");
        check(json!({"uri": "src/a%20b.py"}), place);
        check(json!({"uri": "./src/../src/a%20b.py"}), place);
        check(json!({"uri": absolute}), place);
        check(json!({"uri": "a%20b.py", "uriBaseId": "SRC"}), place);
        check(
            json!({"uri": "src/a%20b.py", "uriBaseId": "%SRCROOT%"}),
            place,
        );
        check(json!({"index": 0}), place);
        for outside in [
            "../secret",
            "link",
            "src",
            "no.py",
            "/etc/passwd",
            "http://x/y",
        ] {
            check(json!({ "uri": outside }), None);
        }
        check(json!({"index": 9}), None);
        check(json!({"index": -1}), None);
        check(json!(7), None);
        assert_eq!(places.line(Path::new("src/a b.py"), 2), Some("two"));
        assert_eq!(places.line(Path::new("src/a b.py"), 0), None);
        let sources: Vec<_> = places.sources().collect();
        assert_eq!(
            sources,
            [("x.zip!/src/a b.py".to_owned(), "one\n  two  \n".to_owned())]
        );
    }
}
