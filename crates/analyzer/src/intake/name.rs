//! Names of entries: what is safe to show and to join, and how a place is written as a URI.

use std::fmt;
use std::fmt::Write as _;

/// Longest name of an entry, in bytes: Linux's `PATH_MAX`.
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// A place inside the scanned input, `/`-separated, in the bytes that the archive or the file system gave.
///
/// A member of an archive is `a.zip!/dir/x.java`. Nothing says that the bytes are UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Vec<u8>);

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.display())
    }
}

impl EntryPath {
    /// The first part of a place: the name of a file, or of an entry of the scanned folder.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        Self(name.to_vec())
    }

    /// The folder entry `name` below this folder; below nothing it is `name`.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        let mut bytes = self.0.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The member `name` of this archive.
    #[must_use]
    pub fn member(&self, name: &[u8]) -> Self {
        let mut bytes = self.0.clone();
        bytes.extend_from_slice(b"!/");
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The place in words, as coverage shows it: not percent-encoded, U+FFFD for bytes that are no UTF-8.
    #[must_use]
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// The place as a relative URI reference (RFC 3986, section 4.2): every byte outside `pchar` and `/` is
    /// percent-encoded, and a colon too, so that no first segment reads as a scheme.
    #[must_use]
    pub fn uri(&self) -> String {
        percent_encoded(&self.0)
    }

    /// The last segment, after `/` and `!/`.
    #[must_use]
    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// The bytes as given.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Percent-encodes all but unreserved characters, `/` and the sub-delimiters that no reader misunderstands.
#[must_use]
pub fn percent_encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'.' | b'_' | b'~' | b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*'
            | b'+' | b',' | b';' | b'=' | b'@' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            other => write!(out, "%{other:02X}").unwrap_or(()),
        }
    }
    out
}

/// An entry's name without `.` segments and doubled slashes, or why it must not be used.
///
/// A backslash counts as a separator when looking for `..`, since the program that unpacks the archive elsewhere may
/// see it as one.
pub(super) fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Err("name longer than 4096 bytes");
    }
    if name.contains(&0) {
        return Err("name holds a NUL byte");
    }
    let separator = |b: &u8| *b == b'/' || *b == b'\\';
    if name.first().is_some_and(separator)
        || matches!(name, [drive, b':', ..] if drive.is_ascii_alphabetic())
    {
        return Err("absolute name");
    }
    if name.split(separator).any(|part| part == b"..") {
        return Err("name leaves its folder (`..`)");
    }
    let mut out = Vec::with_capacity(name.len());
    for part in name
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
    {
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(part);
    }
    if out.is_empty() {
        Err("empty name")
    } else {
        Ok(out)
    }
}

/// A refused name, shortened so that a row of coverage stays small.
pub(super) fn shown(name: &[u8]) -> &[u8] {
    name.get(..256).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_names_are_refused_and_others_tidied() {
        for (name, expected) in [
            (&b"a/b.c"[..], Ok("a/b.c")),
            (b"./a//b.c", Ok("a/b.c")),
            (b"a/./b", Ok("a/b")),
            (b"..a/b..", Ok("..a/b..")),
            (b"/etc/passwd", Err("absolute name")),
            (b"\\x", Err("absolute name")),
            (b"c:/x", Err("absolute name")),
            (b"a/../../b", Err("name leaves its folder (`..`)")),
            (b"a\\..\\b", Err("name leaves its folder (`..`)")),
            (b"a\0b", Err("name holds a NUL byte")),
            (b"", Err("empty name")),
            (b"./", Err("empty name")),
        ] {
            let got = clean(name);
            assert_eq!(
                got.as_deref().map_err(|e| *e),
                expected.map(str::as_bytes),
                "{name:?}"
            );
        }
        assert!(clean(&[b'a'; 5000]).is_err());
    }

    #[test]
    fn places_are_written_as_uri_and_as_text() {
        let path = EntryPath::new(b"a b.zip").member("dir/\u{e9}#1.java".as_bytes());
        assert_eq!(path.uri(), "a%20b.zip!/dir/%C3%A9%231.java");
        assert_eq!(path.display(), "a b.zip!/dir/\u{e9}#1.java");
        let raw = EntryPath::new(b"").child(b"x\xff:y");
        assert_eq!(
            (raw.uri().as_str(), raw.display().as_str()),
            ("x%FF%3Ay", "x\u{fffd}:y")
        );
        assert_eq!(path.file_name(), "\u{e9}#1.java".as_bytes());
    }
}
