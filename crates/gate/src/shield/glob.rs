//! Patterns of paths: `*` stands for any characters, also for none and for `/`.

use std::borrow::Cow;
use std::fmt;

use crate::target;

/// Longest pattern, in bytes.
const LONGEST: usize = 256;

/// A pattern such as `*.php` or `/public/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    written: String,
    lower: String,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, lower case.
    pub fn parse(written: &str) -> Result<Self, String> {
        if written.len() > LONGEST {
            return Err(format!("a pattern has {LONGEST} characters at the most"));
        }
        if !written.starts_with(['/', '*']) {
            return Err(format!("\"{written}\" does not begin with \"/\" or \"*\""));
        }
        if let Some(odd) = written
            .chars()
            .find(|c| !c.is_ascii_graphic() || "?#".contains(*c))
        {
            return Err(format!(
                "\"{written}\" holds {odd:?}, which no path has: it is matched with the query left out, and decoded"
            ));
        }
        Ok(Self {
            written: written.to_owned(),
            lower: written.to_ascii_lowercase(),
        })
    }

    /// True when there is no path that it does not match.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.written
            .trim_start_matches('/')
            .bytes()
            .all(|byte| byte == b'*')
            && self.written != "/"
    }
}

/// True when one of `globs` matches the path, as it is (dot segments resolved), or as the most lenient
/// server may read it: decoded, in lower case, without parameters of segments or a slash at its end.
pub(crate) fn any_matches(globs: &[Glob], path: &str) -> bool {
    if globs.is_empty() {
        return false;
    }
    let odd = |byte: u8| byte.is_ascii_uppercase() || b"%;\\".contains(&byte);
    let flat = if path.bytes().any(odd) || path.contains("//") {
        target::flattened_path(path)
    } else {
        Cow::Borrowed(path)
    };
    let trimmed = flat.trim_end_matches('/');
    globs.iter().any(|glob| {
        fits(glob.written.as_bytes(), path.as_bytes())
            || fits(glob.lower.as_bytes(), flat.as_bytes())
            || fits(glob.lower.as_bytes(), trimmed.as_bytes())
    })
}

impl fmt::Display for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.written)
    }
}

/// A step back is only ever taken to the last `*`, so it takes at most pattern × text steps.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if text.get(from) == Some(byte) => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((place, taken)) = star else {
                    return false;
                };
                star = Some((place, taken + 1));
                at = place + 1;
                from = taken + 1;
            }
        }
    }
    pattern
        .get(at..)
        .unwrap_or_default()
        .iter()
        .all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_characters() {
        let check = |pattern: &str, path: &str, expected: bool| {
            let glob = Glob::parse(pattern).unwrap();
            assert_eq!(any_matches(&[glob], path), expected, "{pattern} {path}");
        };
        check("*.php", "/index.php", true);
        check("*.php", "/a/b.c/x.php", true);
        check("*.php", "/INDEX.PHP", true);
        check("*.php", "/index%2ephp", true);
        check("*.php", "/index.%70hp;x=1", true);
        check("*.php", "/index.php/", true);
        check("*.php", "/index.phpx", false);
        check("*.php", "/php", false);
        check("/public/*", "/public/a", true);
        check("/public/*", "/public/a/b", true);
        check("/public/*", "//public//a", true);
        check("/public/*", "/%70ublic/a", true);
        check("/public/*", "/public", false);
        check("/public/*", "/publications/a", false);
        check("/a*b*c", "/aXbYbZc", true);
        check("/a*b*c", "/aXbYbZ", false);
        check("/exact", "/exact", true);
        check("/exact", "/exact/more", false);
        check("*", "/", true);
        assert!(fits(b"**a**", b"a") && fits(b"", b"") && !fits(b"", b"a"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in [
            "",
            "public/*",
            "/a b",
            "/a?b",
            "/a#b",
            "/\u{e4}",
            &"/a".repeat(200),
        ] {
            assert!(Glob::parse(wrong).is_err(), "{wrong}");
        }
        let all = |pattern: &str| Glob::parse(pattern).unwrap().takes_all();
        assert!(all("*") && all("/*") && all("//**") && !all("/") && !all("/a*"));
    }
}
