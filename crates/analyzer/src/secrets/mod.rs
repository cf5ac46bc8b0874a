//! Secrets in any text: tokens known by their form, private keys, and literals given to names that say "secret".
//!
//! One pass of Aho-Corasick over the file finds the words that any pattern needs; a pattern runs only on files that
//! have its word, and the assignment patterns only on lines that do. All patterns are linear (no backtracking) and
//! their repetitions bounded.

mod check;
mod detectors;
mod rules;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use regex::Regex;

use crate::finding::{Feature, Finding, Rule, Span};
use detectors::{BARE, DEFINE, NAMES, QUOTED, TAILS, TOKENS, Token, XML};

/// Hits of one file beyond which further ones are not reported: a file of nothing but keys is one problem.
const HITS_MAX: usize = 500;
/// Longest line that assignment patterns look at, around the word that they need.
const WINDOW_BYTES: usize = 1024;
/// Longest private key, in bytes of its text form.
const PRIVATE_KEY_BYTES_MAX: usize = 16 * 1024;

/// A secret and what is said of it.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub finding: Finding,
    /// The secret's own bytes, to be masked.
    pub secret: Range<usize>,
}

/// All rules of this engine.
#[must_use]
pub(crate) fn rules() -> &'static [&'static Rule] {
    rules::ALL
}

struct Engine {
    words: AhoCorasick,
    tokens: Vec<(&'static Token, Regex)>,
    quoted: Regex,
    define: Regex,
    bare: Regex,
    xml: Regex,
}

#[expect(
    clippy::expect_used,
    reason = "the patterns are constants, and a test compiles each"
)]
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let compile = |pattern: &str| Regex::new(pattern).expect("a constant pattern compiles");
    let words = TOKENS
        .iter()
        .map(|token| token.keyword)
        .chain(NAMES.iter().map(|(name, _)| *name));
    Engine {
        words: AhoCorasickBuilder::new()
            .ascii_case_insensitive(true)
            .build(words)
            .expect("constant words compile"),
        tokens: TOKENS
            .iter()
            .map(|token| (token, compile(token.pattern)))
            .collect(),
        quoted: compile(QUOTED),
        define: compile(DEFINE),
        bare: compile(BARE),
        xml: compile(XML),
    }
});

/// Finds the secrets in a text. `code` is false where values stand without quotes: configuration, data, prose.
#[must_use]
pub(crate) fn scan(text: &str, code: bool) -> Vec<Hit> {
    let engine = &*ENGINE;
    let mut tokens = BTreeSet::new();
    let mut windows: Vec<Range<usize>> = Vec::new();
    for found in engine.words.find_overlapping_iter(text) {
        let word = found.pattern().as_usize();
        if word < TOKENS.len() {
            tokens.insert(word);
        } else if windows.last().is_none_or(|last| last.end < found.end()) {
            windows.push(window(text, found.range()));
        }
    }
    let mut hits = private_keys(text);
    for (token, pattern) in tokens.iter().filter_map(|index| engine.tokens.get(*index)) {
        find_token(text, token, pattern, &mut hits);
    }
    for window in windows {
        assignments(text, &window, code, engine, &mut hits);
        if hits.len() > 4 * HITS_MAX {
            break;
        }
    }
    distinct(hits)
}

/// The line around a word, or a part of it where it is long.
fn window(text: &str, word: Range<usize>) -> Range<usize> {
    let from = text.floor_char_boundary(word.start.saturating_sub(WINDOW_BYTES));
    let to = text.ceil_char_boundary((word.end + WINDOW_BYTES).min(text.len()));
    let before = text.get(from..word.start).unwrap_or_default();
    let after = text.get(word.end..to).unwrap_or_default();
    let start = before.rfind('\n').map_or(from, |at| from + at + 1);
    let end = after.find('\n').map_or(to, |at| word.end + at);
    start..end
}

fn find_token(text: &str, token: &'static Token, pattern: &Regex, hits: &mut Vec<Hit>) {
    let found = pattern
        .captures_iter(text)
        .filter_map(|groups| groups.get(1))
        .take(HITS_MAX);
    for secret in found {
        if let Some(features) = (token.check)(secret.as_str()) {
            let length = secret.as_str().chars().count();
            let message = format!(
                "{} of {length} characters is written here",
                sentence(token.what)
            );
            hits.push(hit(token.rule, message, secret.range(), features));
        }
    }
}

fn sentence(what: &str) -> String {
    let mut chars = what.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_ascii_uppercase().to_string() + chars.as_str()
    })
}

/// Private keys in PEM (RFC 7468), also inside string literals.
fn private_keys(text: &str) -> Vec<Hit> {
    let mut hits = Vec::new();
    for begin in memchr::memmem::find_iter(text.as_bytes(), b"-----BEGIN ").take(HITS_MAX) {
        let limit = text.floor_char_boundary((begin + PRIVATE_KEY_BYTES_MAX).min(text.len()));
        let Some(block) = text.get(begin..limit) else {
            continue;
        };
        let Some(label_end) = block
            .get(11..)
            .and_then(|rest| rest.find("-----"))
            .map(|at| at + 11)
        else {
            continue;
        };
        let label = block.get(11..label_end).unwrap_or_default();
        let (start, Some(end)) = (label_end + 5, block.find("-----END")) else {
            continue;
        };
        let body = block.get(start..end).unwrap_or_default();
        let key = label.len() < 60 && label.contains("PRIVATE KEY");
        if !key || !check::is_key_body(body) {
            continue;
        }
        let mut features = vec![Feature {
            name: "complete-pem-block",
            value: 0.8,
            spans: Vec::new(),
        }];
        if label.contains("ENCRYPTED") || body.contains("ENCRYPTED") {
            features.push(Feature {
                name: "encrypted-with-a-passphrase",
                value: -1.5,
                spans: Vec::new(),
            });
        }
        let message = format!("A private key (`{}`) is written here", label.trim());
        hits.push(hit(
            &rules::PRIVATE_KEY,
            message,
            begin + start..begin + end,
            features,
        ));
    }
    hits
}

/// Values given to names that say what they are, on one line.
fn assignments(
    text: &str,
    window: &Range<usize>,
    code: bool,
    engine: &Engine,
    hits: &mut Vec<Hit>,
) {
    let line = text.get(window.clone()).unwrap_or_default();
    let pair = |groups: &regex::Captures<'_>| {
        let mut set = groups.iter().skip(1).flatten();
        let (name, value) = (set.next()?, set.next()?);
        Some((
            name.as_str().to_owned(),
            window.start + value.start()..window.start + value.end(),
        ))
    };
    let mut found: Vec<_> = engine
        .quoted
        .captures_iter(line)
        .chain(engine.define.captures_iter(line))
        .filter_map(|groups| pair(&groups))
        .map(|p| (p, true))
        .collect();
    if !code {
        found.extend(
            engine
                .bare
                .captures(line)
                .as_ref()
                .and_then(pair)
                .map(|p| (p, false)),
        );
        found.extend(
            engine
                .xml
                .captures_iter(line)
                .filter_map(|groups| pair(&groups))
                .map(|p| (p, true)),
        );
    }
    for ((name, range), quoted) in found {
        let Some(password) = names_secret(&name) else {
            continue;
        };
        let value = text.get(range.clone()).unwrap_or_default();
        let Some(features) = weigh(&name, value, password, code && quoted) else {
            continue;
        };
        let rule = if password {
            &rules::PASSWORD
        } else {
            &rules::GENERIC
        };
        let message = format!(
            "`{}` is given a literal of {} characters",
            name.trim_matches(['.', '-']),
            value.chars().count()
        );
        hits.push(hit(rule, message, range, features));
    }
}

/// Whether the name means a secret (and then whether a password), not something about one (`tokenUrl`, `passwordField`).
fn names_secret(name: &str) -> Option<bool> {
    let lower = name.to_ascii_lowercase();
    let (at, word, password) = NAMES
        .iter()
        .filter_map(|(word, password)| lower.rfind(word).map(|at| (at, *word, *password)))
        .max_by_key(|(at, word, _)| (at + word.len(), word.len()))?;
    let tail = lower
        .get(at + word.len()..)?
        .trim_matches(|c: char| c == '_' || c == '-' || c.is_ascii_digit());
    let about = ["is", "has", "no", "public", "csrf"].iter().any(|prefix| {
        lower
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(['_', '-']))
    });
    (TAILS.contains(&tail) && !about).then_some(password)
}

/// What speaks for and against a value, or `None` when it is none.
fn weigh(name: &str, value: &str, password: bool, literal_in_code: bool) -> Option<Vec<Feature>> {
    let plain: String = value
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    let named: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    let length = value.chars().count();
    if check::is_placeholder(value)
        || named.ends_with(&plain)
        || value.contains(['\u{fffd}', '(']) && value.contains(')')
    {
        return None;
    }
    let (digit, upper, lower) = (
        value.contains(|c: char| c.is_ascii_digit()),
        value.contains(|c: char| c.is_ascii_uppercase()),
        value.contains(|c: char| c.is_ascii_lowercase()),
    );
    let symbol = value.contains(|c: char| c.is_ascii_punctuation());
    let kinds = if check::is_one_word(value) {
        1
    } else {
        u8::from(digit) + u8::from(upper) + u8::from(lower) + u8::from(symbol)
    };
    let entropy = check::entropy(value);
    let feature = |name, value| Feature {
        name,
        value,
        spans: Vec::new(),
    };
    let mut features = Vec::new();
    if password {
        if length < 6 || value.contains(' ') || (kinds < 2 && !literal_in_code) {
            return None;
        }
        features.push(if kinds >= 3 {
            feature("mixed-characters", 0.8)
        } else {
            feature("few-kinds-of-characters", -0.6)
        });
    } else {
        if length < 12 || value.contains(' ') || entropy < 3.0 || !digit || !(lower || upper) {
            return None;
        }
        features.push(feature("high-entropy", (entropy - 3.0).min(1.2)));
    }
    if literal_in_code {
        features.push(feature("literal-in-code", 0.3));
    }
    Some(features)
}

fn hit(
    rule: &'static Rule,
    message: String,
    secret: Range<usize>,
    mut features: Vec<Feature>,
) -> Hit {
    let offset = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let span: Span = offset(secret.start)..offset(secret.end);
    for feature in &mut features {
        feature.spans.push(span.clone());
    }
    let finding = Finding {
        rule,
        message,
        span,
        function: String::new(),
        flow: Vec::new(),
        features,
    };
    Hit { finding, secret }
}

/// Of overlapping hits the most certain rule's stays: by level, prior, then the longest.
fn distinct(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_by(|a, b| {
        let (x, y) = (a.finding.rule, b.finding.rule);
        (y.level.cmp(&x.level))
            .then(y.prior.total_cmp(&x.prior))
            .then(b.secret.len().cmp(&a.secret.len()))
            .then(a.secret.start.cmp(&b.secret.start))
    });
    let mut taken = std::collections::BTreeMap::<usize, usize>::new();
    let mut kept: Vec<Hit> = Vec::new();
    for hit in hits {
        let overlaps = taken
            .range(..hit.secret.end)
            .next_back()
            .is_some_and(|(_, end)| *end > hit.secret.start);
        if !overlaps && kept.len() < HITS_MAX {
            taken.insert(hit.secret.start, hit.secret.end);
            kept.push(hit);
        }
    }
    kept.sort_by_key(|hit| hit.secret.start);
    kept
}

#[cfg(test)]
mod tests {
    #![expect(clippy::string_slice, reason = "a test fails by panicking")]

    use super::*;

    fn found(text: &str, code: bool) -> Vec<(&'static str, &str)> {
        scan(text, code)
            .into_iter()
            .map(|hit| (hit.finding.rule.id, &text[hit.secret]))
            .collect()
    }

    #[test]
    fn every_pattern_compiles_and_has_its_keyword() {
        for (token, pattern) in &ENGINE.tokens {
            assert_eq!(pattern.captures_len(), 2, "{}", token.pattern);
        }
    }

    /// Tokens are put together here, so that no scanner of this repository sees one.
    #[test]
    fn tokens_are_known_by_their_form() {
        let mixed = "a8Fk2LmQ9xZ7bV4nC6tR1yW3eU5oI0pSdGhJ";
        let hex = "3f9a1c77e2b84d05a6c1f0938b7d2e64";
        for (text, rule) in [
            (
                format!("id = {}{}", "AKIA", "Q3EGRVMS7XK2ZPLT"),
                "secret-aws-key",
            ),
            (
                format!(
                    "aws_secret_access_key = {}{}",
                    "wJx1rXUtn5EMI8K7MDENG9bPxRfiCY", "Abc3Def7Gh"
                ),
                "secret-aws-key",
            ),
            (format!("{}_{mixed}", "ghp"), "secret-github-token"),
            (
                format!("{}-{}", "glpat", &mixed[..20]),
                "secret-gitlab-token",
            ),
            (
                format!("{}_{mixed}", "npm"),
                "secret-package-registry-token",
            ),
            (
                format!("{}-1234567890-{}", "xoxb", &mixed[..24]),
                "secret-chat-token",
            ),
            (
                format!("{}_live_{}", "sk", &mixed[..24]),
                "secret-payment-key",
            ),
            (format!("{}{hex}", "SK"), "secret-messaging-key"),
            (
                format!("{}.{}.{}{}", "SG", &mixed[..22], mixed, &mixed[..7]),
                "secret-messaging-key",
            ),
            (format!("{}{}", "AIza", &mixed[..35]), "secret-google-key"),
            (
                "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLWJ5dGVzLWhlcmU".to_owned(),
                "secret-jwt",
            ),
            (
                "postgres://app:s3cr3tPw9@db:5432/x".to_owned(),
                "secret-connection-string",
            ),
            (
                "Server=db;User=sa;Password=Pa55w0rd!x;".to_owned(),
                "secret-connection-string",
            ),
            (
                "https://bob:hunter2hunter2@example.org/".to_owned(),
                "secret-url-credentials",
            ),
        ] {
            let rules: Vec<_> = found(&text, false)
                .into_iter()
                .map(|(rule, _)| rule)
                .collect();
            assert_eq!(rules, [rule], "{text}");
        }
    }

    #[test]
    fn literals_given_to_telling_names_are_found() {
        for (text, code, secret) in [
            ("String password = \"hunter2x\";", true, Some("hunter2x")),
            ("#define DB_PASSWORD \"s3cr3t-pw\"", true, Some("s3cr3t-pw")),
            (
                "const char password[] = \"hunter2x\";",
                true,
                Some("hunter2x"),
            ),
            ("conn.setPassword(\"hunter2x\");", true, Some("hunter2x")),
            (
                "if (password.equals(\"hunter2x\")) {",
                true,
                Some("hunter2x"),
            ),
            ("cfg = {'password': 'hunter2x'}", true, Some("hunter2x")),
            (
                "const password: string = 'hunter2x'",
                true,
                Some("hunter2x"),
            ),
            (
                "props.put(\"password\", \"hunter2x\");",
                true,
                Some("hunter2x"),
            ),
            (
                "SECRET_KEY = '9f$kd83jdMz02kd8Xq'",
                true,
                Some("9f$kd83jdMz02kd8Xq"),
            ),
            ("DB_PASSWORD=hunter2x", false, Some("hunter2x")),
            ("  password: hunter2x # prod", false, Some("hunter2x")),
            ("<password>hunter2x</password>", false, Some("hunter2x")),
            (
                "<property name=\"db.password\" value=\"hunter2x\"/>",
                false,
                Some("hunter2x"),
            ),
            ("password = os.environ['DB_PASSWORD']", true, None),
            (
                "String password = request.getParameter(\"password\");",
                true,
                None,
            ),
            ("tokenUrl = \"https://a.example/token9\"", true, None),
            ("passwordField = \"pw-input9\"", true, None),
            ("password: ${DB_PASSWORD}", false, None),
            ("<input type=\"password\" name=\"password\">", false, None),
            ("password = \"password\"", true, None),
            ("label.password = 'Enter your password'", true, None),
            ("token = 'abcdef'", true, None),
            ("\"parse-passwd\": \"^1.0.0\"", false, None),
            ("table.password=Contraseña", false, None),
            ("wget --password=$PW \"$URL9/x\"", true, None),
            ("x.getString(\"user.token.name\")", true, None),
        ] {
            let secrets: Vec<_> = found(text, code)
                .into_iter()
                .map(|(_, secret)| secret)
                .collect();
            assert_eq!(secrets, secret.into_iter().collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn private_keys_are_found_in_files_and_in_literals() {
        let body =
            "MIIEpAIBAAKCAQEA7bq3xV9kT2mZ8wYc1uR5nJ6sD4fG0hL\nQpWxEoKaUvBtIy3rN8zMjC2eHg7lS9d";
        let text = format!(
            "x\n-----BEGIN RSA PRIVATE {}-----\n{body}\n-----END RSA PRIVATE KEY-----\n",
            "KEY"
        );
        let hits = found(&text, false);
        assert_eq!(hits.len(), 1);
        assert_eq!((hits[0].0, hits[0].1.trim()), ("secret-private-key", body));
        let short = text.replace(body, "MIIEvQIBADANBgkqhkiG9w0BAQEF");
        assert_eq!(found(&short, false).len(), 1);
        let code = "\"-----BEGIN PRIVATE KEY-----\" + encode(key.getEncoded(), StandardCharsets.US_ASCII) + \"-----END PRIVATE KEY-----\"";
        assert!(found(code, true).is_empty());
        let public = text.replace("RSA PRIVATE", "PUBLIC");
        assert!(found(&public, false).is_empty());
    }

    #[test]
    fn a_megabyte_of_hostile_text_is_read_in_linear_time() {
        for piece in [
            "password = \"",
            "secret",
            "://a:",
            "eyJ",
            "-----BEGIN ",
            "key-",
            "token='\\",
            "AKIA",
        ] {
            let text = piece.repeat(1_000_000 / piece.len());
            let before = std::time::Instant::now();
            let hits = scan(&text, false);
            assert!(hits.len() <= HITS_MAX);
            assert!(
                before.elapsed().as_secs() < 60,
                "{piece} took {:?}",
                before.elapsed()
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in "(password|secret|=|\"|'|:|-----BEGIN |PRIVATE KEY-----|://|@|[a-zA-Z0-9é😀\n ]){0,80}") {
            for hit in scan(&text, false) {
                assert!(text.get(hit.secret).is_some());
            }
        }
    }
}
