//! What a file is: the language it is analysed in, plain text that is searched for secrets only, or why it is left out.

use crate::finding::Language;
use crate::intake::{EntryPath, extension};

/// Bytes that decide whether a file is binary.
const SNIFFED_BYTES: usize = 8192;
/// A script of more than this many bytes, with lines longer than [`MINIFIED_LINE_BYTES`] on average, is minified.
const MINIFIED_BYTES: usize = 4096;
const MINIFIED_LINE_BYTES: usize = 400;

/// What is done with a file's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Parsed and analysed, and searched for secrets.
    Source(Language),
    /// Searched for secrets, which is all there is to do: configuration, data, prose. The word names it in coverage.
    Text(&'static str),
    /// A programming language without an engine: searched for secrets only. The word names it in the reason.
    Unsupported(&'static str),
    /// A script that no person wrote in this form.
    Minified,
}

/// A file's text and what to do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub text: String,
    pub class: Class,
}

const BINARY: [&str; 62] = [
    "png", "jpg", "jpeg", "gif", "bmp", "ico", "icns", "webp", "tif", "tiff", "psd", "mp3", "mp4",
    "m4a", "avi", "mov", "mkv", "webm", "wav", "ogg", "flac", "ttf", "otf", "woff", "woff2", "eot",
    "class", "pyc", "pyo", "o", "obj", "so", "dll", "exe", "dylib", "lib", "pdb", "wasm", "dex",
    "bin", "dat", "db", "sqlite", "sqlite3", "mdb", "pdf", "doc", "xls", "ppt", "swf", "jks",
    "keystore", "p12", "pfx", "der", "pack", "idx", "npy", "npz", "onnx", "pt", "parquet",
];

const UNSUPPORTED: [(&str, &str); 45] = [
    ("cc", "C++"),
    ("cpp", "C++"),
    ("cxx", "C++"),
    ("hpp", "C++"),
    ("hh", "C++"),
    ("hxx", "C++"),
    ("inl", "C++"),
    ("cs", "C#"),
    ("go", "Go"),
    ("rs", "Rust"),
    ("rb", "Ruby"),
    ("erb", "Ruby"),
    ("php", "PHP"),
    ("phtml", "PHP"),
    ("kt", "Kotlin"),
    ("kts", "Kotlin"),
    ("scala", "Scala"),
    ("groovy", "Groovy"),
    ("gradle", "Groovy"),
    ("swift", "Swift"),
    ("m", "Objective-C"),
    ("mm", "Objective-C"),
    ("dart", "Dart"),
    ("lua", "Lua"),
    ("pl", "Perl"),
    ("pm", "Perl"),
    ("sh", "shell"),
    ("bash", "shell"),
    ("zsh", "shell"),
    ("ps1", "PowerShell"),
    ("bat", "batch"),
    ("cmd", "batch"),
    ("vb", "Visual Basic"),
    ("r", "R"),
    ("jsp", "JSP"),
    ("jspx", "JSP"),
    ("asp", "ASP"),
    ("aspx", "ASP.NET"),
    ("vue", "Vue"),
    ("svelte", "Svelte"),
    ("clj", "Clojure"),
    ("ex", "Elixir"),
    ("erl", "Erlang"),
    ("s", "assembly"),
    ("asm", "assembly"),
];

/// Why an entry is left out whatever it holds, before a byte of it is read.
#[must_use]
pub(crate) fn left_out(path: &EntryPath) -> Option<&'static str> {
    let mut segments = path.as_bytes().split(|b| *b == b'/').peekable();
    while let Some(segment) = segments.next() {
        let reason = match segment {
            b"node_modules" | b"bower_components" | b"jspm_packages" => {
                "dependency: a package that was installed, not written here"
            }
            b"site-packages" | b".venv" => {
                "dependency: a package that was installed, not written here"
            }
            b".git"
                if segments
                    .peek()
                    .is_some_and(|next| matches!(*next, b"objects" | b"lfs")) =>
            {
                "object store of git"
            }
            _ => continue,
        };
        // The last segment is a file's own name.
        if segments.peek().is_some() {
            return Some(reason);
        }
    }
    BINARY
        .contains(&extension(path.as_bytes()).as_str())
        .then_some("binary: not analysed in this version")
}

/// Decodes and classifies a file's content; `Err` says why it is left out.
pub(crate) fn content(path: &EntryPath, bytes: &[u8]) -> Result<Text, &'static str> {
    let text = decode(bytes)?;
    let class = class(path, &text);
    Ok(Text { text, class })
}

/// UTF-8, UTF-16 with a byte order mark, else Latin-1 when nothing looks binary. Marks are left out of the text.
fn decode(bytes: &[u8]) -> Result<String, &'static str> {
    let utf16 = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = rest
            .chunks_exact(2)
            .filter_map(|pair| pair.try_into().ok().map(unit));
        char::decode_utf16(units)
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect::<String>()
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => return decode_8bit(rest),
        [0xff, 0xfe, rest @ ..] => return Ok(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => return Ok(utf16(rest, u16::from_be_bytes)),
        _ => {}
    }
    decode_8bit(bytes)
}

fn decode_8bit(bytes: &[u8]) -> Result<String, &'static str> {
    let head = bytes.get(..SNIFFED_BYTES).unwrap_or(bytes);
    let control = head
        .iter()
        .filter(|b| matches!(b, 0x01..=0x08 | 0x0e..=0x1a | 0x1c..=0x1f))
        .count();
    if head.contains(&0) || control * 10 > head.len() {
        return Err("binary: not analysed in this version");
    }
    Ok(match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    })
}

fn class(path: &EntryPath, text: &str) -> Class {
    let extension = extension(path.as_bytes());
    let language = match extension.as_str() {
        "java" => Language::Java,
        "py" | "pyw" | "wsgi" => Language::Python,
        "js" | "mjs" | "cjs" | "jsx" => Language::JavaScript,
        "ts" | "mts" | "cts" => Language::TypeScript { tsx: false },
        "tsx" => Language::TypeScript { tsx: true },
        "c" => Language::C,
        "h" if is_cpp(text) => return Class::Unsupported("C++"),
        "h" => Language::C,
        "" => match shebang(text) {
            Some(class) => return class,
            None => return Class::Text("text"),
        },
        other => return by_table(other, path, text),
    };
    let script = matches!(language, Language::JavaScript | Language::TypeScript { .. });
    if script && is_minified(path, text) {
        Class::Minified
    } else {
        Class::Source(language)
    }
}

fn by_table(extension: &str, path: &EntryPath, text: &str) -> Class {
    if let Some((_, name)) = UNSUPPORTED.iter().find(|(known, _)| *known == extension) {
        return Class::Unsupported(name);
    }
    Class::Text(match extension {
        "css" if is_minified(path, text) => return Class::Minified,
        "json" | "json5" | "jsonc" | "ipynb" => "json",
        "yml" | "yaml" => "yaml",
        "xml" | "xsd" | "xsl" | "xslt" | "pom" | "svg" | "plist" | "wsdl" => "xml",
        "html" | "htm" | "xhtml" | "ejs" | "hbs" | "mustache" => "html",
        "properties" | "ini" | "cfg" | "conf" | "env" => "properties",
        "toml" => "toml",
        "md" | "markdown" | "rst" | "adoc" => "prose",
        "sql" => "sql",
        _ => "text",
    })
}

/// The language of a script without an extension.
fn shebang(text: &str) -> Option<Class> {
    let line = text.strip_prefix("#!")?.lines().next()?;
    let mut words = line.split_ascii_whitespace();
    let program = words.next()?.rsplit('/').next()?;
    let program = if program == "env" {
        words.find(|word| !word.starts_with('-') && !word.contains('='))?
    } else {
        program
    };
    let stem = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    Some(match stem {
        "python" | "pypy" => Class::Source(Language::Python),
        "node" | "nodejs" => Class::Source(Language::JavaScript),
        "sh" | "bash" | "dash" | "zsh" | "ksh" => Class::Unsupported("shell"),
        "perl" => Class::Unsupported("Perl"),
        "ruby" => Class::Unsupported("Ruby"),
        "php" => Class::Unsupported("PHP"),
        _ => return None,
    })
}

/// A header with what C does not have at the start of a line.
fn is_cpp(text: &str) -> bool {
    text.lines().take(4000).map(str::trim_start).any(|line| {
        [
            "class ",
            "namespace ",
            "template <",
            "template<",
            "public:",
            "private:",
            "protected:",
            "using namespace ",
        ]
        .iter()
        .any(|start| line.starts_with(start))
    })
}

fn is_minified(path: &EntryPath, text: &str) -> bool {
    let name = path.file_name();
    if memchr::memmem::find(name, b".min.").is_some() {
        return true;
    }
    let lines = memchr::memchr_iter(b'\n', text.as_bytes()).count() + 1;
    text.len() > MINIFIED_BYTES && text.len() / lines > MINIFIED_LINE_BYTES
}

/// A language's name in coverage.
#[must_use]
pub(crate) fn language_name(language: Language) -> &'static str {
    match language {
        Language::C => "c",
        Language::Java => "java",
        Language::JavaScript => "javascript",
        Language::Python => "python",
        Language::TypeScript { .. } => "typescript",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(name: &str, bytes: &[u8]) -> Result<Class, &'static str> {
        content(&EntryPath::new(name.as_bytes()), bytes).map(|text| text.class)
    }

    #[test]
    fn files_are_classified_by_name_and_content() {
        let long = format!("var a={};", "1+".repeat(5000));
        for (name, text, expected) in [
            ("A.java", "class A {}", Class::Source(Language::Java)),
            ("a.PY", "x = 1", Class::Source(Language::Python)),
            (
                "a.tsx",
                "x",
                Class::Source(Language::TypeScript { tsx: true }),
            ),
            (
                "a.h",
                "struct a { int class_id; };",
                Class::Source(Language::C),
            ),
            ("a.h", "namespace a {}", Class::Unsupported("C++")),
            (
                "run",
                "#!/usr/bin/env -S python3.12\n",
                Class::Source(Language::Python),
            ),
            ("run", "#!/bin/bash\n", Class::Unsupported("shell")),
            ("run", "hello", Class::Text("text")),
            (".env", "A=b", Class::Text("text")),
            ("a.min.js", "x", Class::Minified),
            ("a.js", &long, Class::Minified),
            ("a.json", &long, Class::Text("json")),
            ("a.go", "package a", Class::Unsupported("Go")),
        ] {
            assert_eq!(
                class_of(name, text.as_bytes()),
                Ok(expected),
                "{name}: {text:.40}"
            );
        }
        assert!(class_of("a.c", b"a\0b").is_err());
        assert!(class_of("a.txt", &[1; 100]).is_err());
    }

    #[test]
    fn texts_are_decoded() {
        for (bytes, expected) in [
            (&b"\xef\xbb\xbfa"[..], "a"),
            (b"\xff\xfea\0\xe9\0", "a\u{e9}"),
            (b"\xfe\xff\0a\xd8", "a"),
            (b"caf\xe9", "caf\u{e9}"),
            (b"", ""),
        ] {
            assert_eq!(decode(bytes).as_deref(), Ok(expected), "{bytes:?}");
        }
    }

    #[test]
    fn installed_packages_and_binaries_are_left_out_unread() {
        for (path, out) in [
            ("a/node_modules/x/i.js", true),
            ("a/node_modules", false),
            (".git/objects/ab/cd", true),
            (".git/config", false),
            ("x.PNG", true),
            ("src/x.c", false),
        ] {
            assert_eq!(
                left_out(&EntryPath::new(path.as_bytes())).is_some(),
                out,
                "{path}"
            );
        }
    }
}
