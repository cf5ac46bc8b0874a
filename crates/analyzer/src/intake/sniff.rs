//! What a stream is, told from its first bytes.

/// Bytes that [`format()`] wants to see.
pub(super) const HEAD_BYTES: usize = 1024;

/// A container that holds other files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Zip,
    Tar,
    Gzip,
    Zstd,
    Bzip2,
    /// Known, and not opened.
    Other(&'static str),
}

/// Magic numbers of containers that are named in coverage and not opened.
const OTHERS: [(&[u8], &str); 11] = [
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"MSCF\0\0\0\0", "cab"),
    (b"!<arch>\n", "ar"),
    (b"070701", "cpio"),
    (b"070707", "cpio"),
    (b"hsqs", "squashfs"),
    (b"\xed\xab\xee\xdb", "rpm"),
    (b"\x1f\x9d", "compress (.Z)"),
];

/// Zip files that are documents: their members are no sources.
const DOCUMENTS: [&str; 9] = [
    "docx", "xlsx", "pptx", "odt", "ods", "odp", "odg", "epub", "vsdx",
];

/// The container that `head` begins, if it is one; `name` decides only where bytes do not.
pub(super) fn format(head: &[u8], name: &[u8]) -> Option<Format> {
    let extension = extension(name);
    if head.starts_with(b"PK\x03\x04")
        || head.starts_with(b"PK\x05\x06")
        || head.starts_with(b"PK\x07\x08")
    {
        if DOCUMENTS.iter().any(|known| extension == *known) {
            return Some(Format::Other("office document"));
        }
        return Some(Format::Zip);
    }
    if head.starts_with(b"\x1f\x8b\x08") {
        return Some(Format::Gzip);
    }
    if head.starts_with(b"\x28\xb5\x2f\xfd") || matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
    {
        return Some(Format::Zstd);
    }
    if matches!(
        head,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..]
    ) {
        return Some(Format::Bzip2);
    }
    if head.get(..512).is_some_and(super::tar::is_header) {
        return Some(Format::Tar);
    }
    if extension == "tar" && head.len() >= 512 && head.iter().all(|b| *b == 0) {
        return Some(Format::Tar);
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(Format::Other(what));
    }
    // A zip may begin with anything (a self-extracting stub): its directory is at the end.
    matches!(extension.as_str(), "zip" | "jar" | "war" | "ear").then_some(Format::Zip)
}

/// The extension in lower case, empty without one.
pub(crate) fn extension(name: &[u8]) -> String {
    let file = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
    match file.iter().rposition(|b| *b == b'.') {
        Some(dot) if dot > 0 => {
            String::from_utf8_lossy(file.get(dot + 1..).unwrap_or_default()).to_ascii_lowercase()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_by_their_bytes() {
        for (head, name, expected) in [
            (&b"PK\x03\x04...."[..], "a", Some(Format::Zip)),
            (
                b"PK\x03\x04....",
                "a.docx",
                Some(Format::Other("office document")),
            ),
            (b"\x1f\x8b\x08\0", "a.java", Some(Format::Gzip)),
            (b"\x28\xb5\x2f\xfd", "a", Some(Format::Zstd)),
            (b"BZh91AY&SY", "a", Some(Format::Bzip2)),
            (b"BZhello world", "a.txt", None),
            (b"Rar!\x1a\x07\0", "a.rar", Some(Format::Other("rar"))),
            (b"#!/bin/sh stub", "a.zip", Some(Format::Zip)),
            (b"int main(void)", "a.c", None),
            (b"", "", None),
        ] {
            assert_eq!(format(head, name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn an_extension_follows_the_last_dot_of_the_last_segment() {
        for (name, expected) in [
            ("a.b/c.TXT", "txt"),
            ("a.b/c", ""),
            (".env", ""),
            ("x.tar.gz", "gz"),
            ("x.", ""),
        ] {
            assert_eq!(extension(name.as_bytes()), expected, "{name}");
        }
    }
}
