//! Is this string a secret? Entropy, checksums, structure, and what placeholders look like.

use flate2::Crc;

/// Shannon entropy of the characters, in bits for each.
pub(super) fn entropy(text: &str) -> f64 {
    let mut counts = [0_u32; 256];
    let mut total = 0_u32;
    for byte in text.bytes() {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count += 1;
        }
        total = total.saturating_add(1);
    }
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / f64::from(total);
            -share * share.log2()
        })
        .sum()
}

/// GitHub's and npm's tokens end with six base-62 digits: the CRC-32 of the thirty characters before them.
/// Source: GitHub's engineering notes on token formats (2021).
pub(super) fn checksum_fits(token: &str) -> bool {
    let Some((_, body)) = token.split_once('_') else {
        return false;
    };
    let split = body.len().saturating_sub(6);
    let (Some(payload), Some(stored)) = (body.get(..split), body.get(split..)) else {
        return false;
    };
    let mut crc = Crc::new();
    crc.update(payload.as_bytes());
    base62(stored) == Some(u64::from(crc.sum()))
}

fn base62(digits: &str) -> Option<u64> {
    digits.bytes().try_fold(0_u64, |n, b| {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            b'A'..=b'Z' => b - b'A' + 10,
            b'a'..=b'z' => b - b'a' + 36,
            _ => return None,
        };
        n.checked_mul(62)?.checked_add(u64::from(digit))
    })
}

/// Whether the first part of a JSON Web Token is a JSON object that names its algorithm (RFC 7515, section 4.1.1).
pub(super) fn is_jwt(token: &str) -> bool {
    let header = token.split('.').next().and_then(base64url);
    let header = header.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    header.is_some_and(|header| header.get("alg").is_some_and(serde_json::Value::is_string))
}

/// Decodes base64url without padding (RFC 4648, section 5).
fn base64url(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0x3fff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Parts of a value that show it stands for another one.
const PLACEHOLDER_PARTS: [&str; 31] = [
    "example",
    "changeme",
    "change_me",
    "change-me",
    "changeit",
    "placeholder",
    "your_",
    "your-",
    "yourpass",
    "yoursecret",
    "yourtoken",
    "yourkey",
    "dummy",
    "redacted",
    "replace",
    "insert",
    "todo",
    "fixme",
    "xxxx",
    "****",
    "....",
    "${",
    "{{",
    "#{",
    "%(",
    "%s",
    "{}",
    "$(",
    "process.env",
    "os.environ",
    "getenv",
];

/// Whole values that are no secret whatever they are assigned to.
const PLACEHOLDERS: [&str; 44] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "null",
    "none",
    "nil",
    "true",
    "false",
    "undefined",
    "string",
    "text",
    "required",
    "optional",
    "hidden",
    "username",
    "default",
    "unknown",
    "disabled",
    "enabled",
    "invalid",
    "bearer",
    "basic",
    "random",
    "generate",
    "generated",
    "unset",
    "missing",
    "foobar",
    "foo",
    "bar",
    "value",
    "test",
    "testing",
    "tests",
    "hello",
    "input",
    "email",
    "object",
    "number",
];

/// Whether a value stands for a secret that is elsewhere, or for none.
pub(super) fn is_placeholder(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    if PLACEHOLDERS.contains(&lower.as_str())
        || PLACEHOLDER_PARTS.iter().any(|part| lower.contains(part))
    {
        return true;
    }
    if value.starts_with('<') && value.ends_with('>') {
        return true;
    }
    let first = value.chars().next();
    if value.chars().all(|c| Some(c) == first)
        || matches!(first, Some('$' | '%' | '@' | '&' | '!')) && is_reference(value)
    {
        return true;
    }
    is_sequence(&lower) || is_words(value) || is_version(value)
}

/// `^1.0.0`, `~2.3`, `1.0.0-beta`: a version of a package called `…-password`.
fn is_version(value: &str) -> bool {
    let digits = value.trim_start_matches(['^', '~', 'v', '=', '>', '<']);
    let core = digits.split('-').next().unwrap_or_default();
    core.contains('.')
        && core
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// One word of any language, capitalised or not: `letmein`, `Contraseña`.
pub(super) fn is_one_word(value: &str) -> bool {
    let mut chars = value.chars();
    chars.next().is_some_and(char::is_alphabetic)
        && chars.all(|c| c.is_alphabetic() && !c.is_uppercase())
}

/// Whether a PEM block's body is a key: base64 and nothing else (headers and escapes of a literal apart), or at least a
/// line's worth of it in one piece, which code that puts a key together has not.
pub(super) fn is_key_body(text: &str) -> bool {
    let symbol = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let symbols = text.chars().filter(|c| symbol(*c)).count();
    let pure = text
        .chars()
        .all(|c| symbol(c) || c.is_whitespace() || c == '\\');
    entropy(text) >= 3.0 && (has_base64_run(text) || (pure && symbols >= 24))
}

fn has_base64_run(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '/' | '='))
        .any(|run| run.len() >= 40 && entropy(run) >= 3.0)
}

/// `$NAME`, `%NAME%`, `@name@`, `&anchor`, `!tag`: a reference in some configuration language.
fn is_reference(value: &str) -> bool {
    let inner = value.trim_matches(|c| matches!(c, '$' | '%' | '@' | '&' | '!'));
    let closed =
        value.starts_with(['$', '&', '!']) || value.chars().next() == value.chars().next_back();
    closed
        && !inner.is_empty()
        && inner
            .chars()
            .all(|c| c.is_ascii_uppercase() || matches!(c, '_' | '.' | '-'))
        || closed
            && inner
                .chars()
                .all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.' | '-'))
}

/// Ascending characters only (`1234567890`, `abcdefgh`): typed, not made.
fn is_sequence(value: &str) -> bool {
    value.len() >= 8
        && value
            .as_bytes()
            .windows(2)
            .all(|w| matches!(w, [a, b] if *b == a.wrapping_add(1) || (*a == b'9' && *b == b'0')))
}

/// A phrase, a path, an identifier of a message: lower-case words and separators without a digit.
fn is_words(value: &str) -> bool {
    let words = value.split_whitespace().count();
    let separated = value.contains(['.', '-', '_', '/', ':']);
    words >= 3
        || value.starts_with(['/', '.'])
        || value.contains("://")
        || (separated
            && value
                .chars()
                .all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '-' | '_' | '/' | ':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_counts_bits_for_each_character() {
        assert!(entropy("aaaa").abs() < 1e-9);
        assert!((entropy("abcd") - 2.0).abs() < 1e-9);
        assert!(entropy("").abs() < 1e-9);
    }

    #[test]
    fn checksums_tell_real_tokens() {
        // Built here as GitHub builds them: thirty characters, then their CRC-32 in base 62.
        let payload = "zZ9yY8xX7wW6vV5uU4tT3sS2rR1qQ0";
        let mut crc = Crc::new();
        crc.update(payload.as_bytes());
        let mut n = crc.sum();
        let mut tail = Vec::new();
        for _ in 0..6 {
            let digit =
                b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[n as usize % 62];
            tail.insert(0, char::from(digit));
            n /= 62;
        }
        let token = format!("ghp_{payload}{}", tail.iter().collect::<String>());
        assert!(checksum_fits(&token));
        assert!(!checksum_fits(&token.replace("zZ9", "zZ8")));
        assert!(!checksum_fits("nothing"));
        assert!(!checksum_fits("a_b"));
    }

    #[test]
    fn a_jwt_has_an_algorithm() {
        assert!(is_jwt("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig"));
        assert!(!is_jwt("eyJzdWIiOiIxIn0.eyJzdWIiOiIxIn0.sig"));
        assert!(!is_jwt("e!"));
    }

    #[test]
    fn placeholders_are_told_from_secrets() {
        for value in [
            "changeme",
            "YOUR_API_KEY",
            "${DB_PASSWORD}",
            "$DB_PASSWORD",
            "%PASSWORD%",
            "@password@",
            "xxxxxxxx",
            "aaaaaaaa",
            "12345678",
            "abcdefgh",
            "user.password.label",
            "/run/secrets/db",
            "https://a.b/c",
            "enter your password",
            "null",
            "<password>",
            "test-password-field",
        ] {
            assert!(is_placeholder(value), "{value}");
        }
        for value in [
            "hunter2!",
            "S3cr3tP4ss",
            "p@ssw0rd99",
            "$aB3xY9!kk",
            "correcthorse",
            "tr0ub4dor&3",
            "!Qaz2wsx",
        ] {
            assert!(!is_placeholder(value), "{value}");
        }
    }
}
