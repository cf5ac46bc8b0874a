//! The rules of the engines: what each means to a reader (`cards`), and what the engines know of libraries ([`model`]).

mod injection;
pub(crate) mod model;
mod patterns;
mod reach;

use crate::finding::Rule;

/// Rules about data flow; the position is the rule's bit in a taint's mask.
pub(crate) const TAINT: &[&Rule] = &[
    &injection::SQL,
    &injection::COMMAND,
    &reach::PATH,
    &injection::XSS,
    &injection::LDAP,
    &injection::XPATH,
    &reach::DESERIALIZATION,
    &injection::CODE,
    &reach::TRUST_BOUNDARY,
    &injection::FORMAT,
    &reach::REDIRECT,
    &injection::NOSQL,
    &reach::REQUEST_FORGERY,
    &reach::XML_ENTITY,
    &reach::LIBRARY,
    &injection::TEMPLATE,
];

/// Rules about a call that is wrong by itself.
pub(crate) const PATTERN: &[&Rule] = &[
    &patterns::WEAK_HASH,
    &patterns::WEAK_CIPHER,
    &patterns::WEAK_RANDOM,
    &patterns::INSECURE_COOKIE,
    &patterns::COOKIE_HTTPONLY,
    &patterns::DANGEROUS_FUNCTION,
];

/// All of them.
pub(crate) const ALL: &[&Rule] = &[
    &injection::SQL,
    &injection::COMMAND,
    &reach::PATH,
    &injection::XSS,
    &injection::LDAP,
    &injection::XPATH,
    &reach::DESERIALIZATION,
    &injection::CODE,
    &reach::TRUST_BOUNDARY,
    &injection::FORMAT,
    &reach::REDIRECT,
    &injection::NOSQL,
    &reach::REQUEST_FORGERY,
    &reach::XML_ENTITY,
    &reach::LIBRARY,
    &injection::TEMPLATE,
    &patterns::WEAK_HASH,
    &patterns::WEAK_CIPHER,
    &patterns::WEAK_RANDOM,
    &patterns::INSECURE_COOKIE,
    &patterns::COOKIE_HTTPONLY,
    &patterns::DANGEROUS_FUNCTION,
];

pub(crate) fn taint_index(id: &str) -> Option<usize> {
    TAINT.iter().position(|rule| rule.id == id)
}

pub(crate) fn pattern_index(id: &str) -> Option<usize> {
    PATTERN.iter().position(|rule| rule.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_full_card() {
        assert_eq!(ALL.len(), TAINT.len() + PATTERN.len());
        for rule in TAINT.iter().chain(PATTERN) {
            assert!(ALL.iter().any(|other| other.id == rule.id), "{}", rule.id);
            for text in [rule.name, rule.short, rule.why, rule.fix, rule.limits] {
                assert!(text.len() > 8, "{}", rule.id);
            }
            assert!(
                !rule.cwe.is_empty() && !rule.examples.is_empty(),
                "{}",
                rule.id
            );
            for example in rule.examples {
                assert_ne!(example.vulnerable, example.fixed, "{}", rule.id);
                assert!(matches!(
                    example.language,
                    "java" | "python" | "javascript" | "c"
                ));
            }
        }
    }

    /// The Korean pages hold a translation of each card, which names the English `short` that was translated: who changes
    /// a card here changes it there.
    #[test]
    fn every_card_is_translated() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../web/i18n/rules-ko.js");
        let korean = std::fs::read_to_string(page).unwrap();
        for rule in ALL.iter().chain(crate::secrets::rules()) {
            let card = korean.split(&format!("\"{}\": {{", rule.id)).nth(1);
            let card = card.unwrap_or_else(|| panic!("{} has no Korean card", rule.id));
            let of = card
                .split("of: \"")
                .nth(1)
                .and_then(|of| of.split('"').next());
            assert_eq!(of, Some(rule.short), "{}: the English has changed", rule.id);
        }
    }

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<_> = ALL.iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
    }
}
