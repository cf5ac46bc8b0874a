//! `header = { … }` and `query = { … }` of a route.

use munjigi_foundation::settings::{Key, Schema, Table};

use super::{Condition, Source, ValueTest};

/// `header = { NAME = … }`
pub(super) static HEADER: Schema = Schema {
    place: "header = { NAME = \"value\" }",
    meaning: "only requests with these header fields; names are free",
    keys: &[],
};

/// `query = { NAME = … }`
pub(super) static QUERY: Schema = Schema {
    place: "query = { NAME = \"value\" }",
    meaning: "only requests with these parameters; names are free",
    keys: &[],
};

/// What may stand in place of `"value"`.
pub(super) static TEST: Schema = Schema {
    place: "header or query = { NAME = { … } }",
    meaning: "what the value must be, where a text does not say it: one of these",
    keys: &[
        Key::new(
            "present",
            "true or false",
            "",
            "",
            "whether it must be there, whatever its value",
        ),
        Key::new("prefix", "text", "", "", "how it begins"),
        Key::new(
            "regex",
            "text",
            "",
            "",
            "a regular expression that the whole value must match",
        ),
    ],
};

/// Conditions of one route.
const CONDITIONS_MAX: usize = 32;

/// Reads both tables of a route.
pub(super) fn read(route: &Table<'_>) -> Vec<Condition> {
    let mut conditions = Vec::new();
    if let Some(table) = route.table("header", &HEADER) {
        for (name, value) in table.entries() {
            if !crate::http1::is_token(name.value.as_bytes()) {
                table.problems().error_with_hint(
                    name.span,
                    format!("\"{}\" is no name of a header field", name.value),
                    "write a name such as \"X-Version\"",
                );
                continue;
            }
            if let Some(test) = read_test(&table, &name.value, value) {
                let source = Source::Header(name.value);
                conditions.push(Condition { source, test });
            }
        }
    }
    if let Some(table) = route.table("query", &QUERY) {
        for (name, value) in table.entries() {
            if let Some(test) = read_test(&table, &name.value, value) {
                let source = Source::Query(name.value);
                conditions.push(Condition { source, test });
            }
        }
    }
    if conditions.len() > CONDITIONS_MAX {
        route.problems().error_with_hint(
            route.span(),
            format!("a route has at most {CONDITIONS_MAX} conditions"),
            "write several routes, or one regular expression",
        );
    }
    conditions
}

type Value<'a> = toml::Spanned<toml::de::DeValue<'a>>;

fn read_test<'a>(table: &Table<'a>, name: &str, value: &'a Value<'a>) -> Option<ValueTest> {
    if !matches!(value.get_ref(), toml::de::DeValue::Table(_)) {
        let text = table.entry::<String>(name, value)?;
        return Some(ValueTest::Exact(text.value));
    }
    let table = table.as_table(name, value, &TEST)?;
    let present = table.get::<bool>("present").map(ValueTest::Present);
    let prefix = table.get::<String>("prefix").map(ValueTest::Prefix);
    let regex = table.item::<String>("regex").and_then(|item| {
        ValueTest::regex(&item.value)
            .map_err(|why| table.problems().error(item.span, format!("`regex`: {why}")))
            .ok()
    });
    let written = ["present", "prefix", "regex"]
        .into_iter()
        .filter(|key| table.has(key))
        .count();
    if written != 1 {
        table.problems().error_with_hint(
            table.span(),
            format!("`{name}` needs one of `present`, `prefix` and `regex`"),
            "a text alone is the exact value",
        );
    }
    present.or(prefix).or(regex)
}
