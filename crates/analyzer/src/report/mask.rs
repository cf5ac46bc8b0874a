//! Masks: a secret that was found shows nowhere, only how long it was.

use std::collections::BTreeSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

/// Shortest secret that is masked wherever it stands; a shorter one only where it was found, since as a word it may be
/// part of anything.
const ANYWHERE_CHARS_MIN: usize = 6;
/// Secrets that are remembered for the whole scan.
const SECRETS_MAX: usize = 50_000;

fn stars(secret: &str, out: &mut String) {
    // White space stays, so that lines keep their numbers.
    out.extend(
        secret
            .chars()
            .map(|c| if c.is_whitespace() { c } else { '*' }),
    );
}

/// A secret that is a word may be part of any name; elsewhere it is masked where it is a literal of its own.
fn is_word(piece: &str) -> bool {
    piece.len() < 12 && piece.chars().all(char::is_alphabetic)
}

const QUOTES: [char; 3] = ['"', '\'', '`'];

/// The part of a match of [`Secrets`] that is the secret: without the quotes that a word stands in.
fn inner(text: &str, found: Range<usize>) -> Range<usize> {
    let quoted = text
        .get(found.clone())
        .is_some_and(|m| m.starts_with(QUOTES) && m.ends_with(QUOTES));
    if quoted {
        found.start + 1..found.end - 1
    } else {
        found
    }
}

/// The pieces of a secret that could show by themselves: its lines, as each may be a snippet.
fn pieces(secret: &str) -> impl Iterator<Item = &str> {
    secret
        .split(['\n', '\r'])
        .flat_map(|line| line.split("\\n"))
        .map(|line| {
            line.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | '+'))
        })
        .filter(|piece| piece.chars().count() >= ANYWHERE_CHARS_MIN)
}

/// The secrets of one text, by place.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Sorted and disjoint.
    ranges: Vec<Range<usize>>,
}

impl Places {
    /// The places where `secrets` stand in `text`: where they were found, and wherever else they are repeated.
    #[must_use]
    pub(crate) fn new(text: &str, secrets: &[Range<usize>]) -> Self {
        let mut ranges: Vec<Range<usize>> = secrets.to_vec();
        let mut known = Secrets::default();
        for secret in secrets.iter().filter_map(|range| text.get(range.clone())) {
            known.add(secret);
        }
        if let Some(finder) = known.finder() {
            ranges.extend(
                finder
                    .find_iter(text)
                    .map(|found| inner(text, found.range())),
            );
        }
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut merged: Vec<Range<usize>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self { ranges: merged }
    }

    /// This part of the text, masked.
    #[must_use]
    pub(crate) fn show(&self, text: &str, part: Range<usize>) -> String {
        let mut out = String::with_capacity(part.len());
        let mut at = part.start;
        let first = self.ranges.partition_point(|range| range.end <= part.start);
        for range in self
            .ranges
            .iter()
            .skip(first)
            .take_while(|range| range.start < part.end)
        {
            let (start, end) = (range.start.max(part.start), range.end.min(part.end));
            out.push_str(text.get(at..start).unwrap_or_default());
            stars(text.get(start..end).unwrap_or_default(), &mut out);
            at = end;
        }
        out.push_str(text.get(at..part.end).unwrap_or_default());
        out
    }
}

/// Secrets by what they say.
#[derive(Debug, Default, Clone)]
pub(crate) struct Secrets(BTreeSet<String>);

impl Secrets {
    /// Remembers a secret.
    pub(crate) fn add(&mut self, secret: &str) {
        for piece in pieces(secret) {
            if self.0.len() >= SECRETS_MAX {
                return;
            }
            if is_word(piece) {
                self.0
                    .extend(QUOTES.map(|quote| format!("{quote}{piece}{quote}")));
            } else {
                self.0.insert(piece.to_owned());
            }
        }
    }

    /// Takes over all of another set.
    pub(crate) fn extend(&mut self, other: &Self) {
        for secret in other
            .0
            .iter()
            .take(SECRETS_MAX.saturating_sub(self.0.len()))
        {
            self.0.insert(secret.clone());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn finder(&self) -> Option<AhoCorasick> {
        if self.0.is_empty() {
            return None;
        }
        AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&self.0)
            .ok()
    }

    /// What replaces them.
    #[must_use]
    pub(crate) fn masker(&self) -> Masker {
        Masker {
            finder: self.finder(),
        }
    }
}

/// Replaces every secret of a set in texts that are not the file where it stood: messages, other files.
#[derive(Debug, Default)]
pub(crate) struct Masker {
    finder: Option<AhoCorasick>,
}

impl Masker {
    /// The text, masked; `None` when there is nothing to mask.
    #[must_use]
    pub(crate) fn mask(&self, text: &str) -> Option<String> {
        let finder = self.finder.as_ref()?;
        let mut out = String::new();
        let mut at = 0;
        for found in finder.find_iter(text) {
            let secret = inner(text, found.range());
            out.push_str(text.get(at..secret.start).unwrap_or_default());
            stars(text.get(secret.clone()).unwrap_or_default(), &mut out);
            at = secret.end;
        }
        (at > 0).then(|| {
            out.push_str(text.get(at..).unwrap_or_default());
            out
        })
    }

    /// Masks the texts of a SARIF value. Names of files and rules stay, since other parts refer to them.
    pub(crate) fn mask_json(&self, value: &mut serde_json::Value) {
        if self.finder.is_none() {
            return;
        }
        match value {
            serde_json::Value::Array(items) => {
                items.iter_mut().for_each(|item| self.mask_json(item));
            }
            serde_json::Value::Object(map) => {
                for (key, item) in map.iter_mut() {
                    match item {
                        serde_json::Value::String(text)
                            if key == "text" || key == "fullyQualifiedName" =>
                        {
                            if let Some(masked) = self.mask(text) {
                                *text = masked;
                            }
                        }
                        other => self.mask_json(other),
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_wherever_it_stands_in_its_text() {
        let text = "p = 'hünter2x'; q = 'hünter2x'; r = 'abc'";
        let first = text.find("hünter2x").unwrap();
        let abc = text.find("abc").unwrap();
        let places = Places::new(text, &[first..first + "hünter2x".len(), abc..abc + 3]);
        let masked = places.show(text, 0..text.len());
        assert_eq!(masked, "p = '********'; q = '********'; r = '***'");
        assert_eq!(masked.chars().count(), text.chars().count());
        assert_eq!(
            places.show(text, first + 1 + 'ü'.len_utf8()..first + 14),
            "******'; q "
        );
    }

    #[test]
    fn a_word_is_masked_where_it_is_a_literal_and_not_inside_names() {
        let text = "password = 'webgoat'; import webgoat.x; y = \"webgoat\"";
        let at = text.find("webgoat").unwrap();
        let places = Places::new(text, std::slice::from_ref(&(at..at + 7)));
        let masked = places.show(text, 0..text.len());
        assert_eq!(
            masked,
            "password = '*******'; import webgoat.x; y = \"*******\""
        );
    }

    #[test]
    fn lines_of_a_long_secret_are_masked_one_by_one_and_elsewhere() {
        let mut secrets = Secrets::default();
        secrets.add("MIIE4bcdef\ngh1jklmnop\n");
        let masker = secrets.masker();
        assert_eq!(
            masker.mask("see gh1jklmnop here").as_deref(),
            Some("see ********** here")
        );
        assert_eq!(masker.mask("nothing"), None);
        let mut value =
            serde_json::json!({"a": [{"text": "xMIIE4bcdefx"}, 1], "uri": "gh1jklmnop"});
        masker.mask_json(&mut value);
        assert_eq!(
            value,
            serde_json::json!({"a": [{"text": "x**********x"}, 1], "uri": "gh1jklmnop"})
        );
        assert_eq!(Secrets::default().masker().mask("x"), None);
    }
}
