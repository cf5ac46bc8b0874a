use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Reading;
use super::{Problems, Schema, Secret, Setting};

/// A value with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// One table of a settings document. Reading a key that is wrong records a problem and answers as if it were absent,
/// so that reading goes on and finds the next one.
#[derive(Debug)]
pub struct Table<'a> {
    reading: &'a Reading<'a>,
    schema: &'static Schema,
    entries: Option<&'a DeTable<'a>>,
    span: Range<usize>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Table<'a> {
    pub(super) fn root(
        reading: &'a Reading<'a>,
        schema: &'static Schema,
        table: &'a Spanned<DeTable<'a>>,
    ) -> Self {
        // The whole file is no place to point at: a problem of the root has no caret.
        Self::new(reading, schema, Some(table.get_ref()), 0..0)
    }

    fn new(
        reading: &'a Reading<'a>,
        schema: &'static Schema,
        entries: Option<&'a DeTable<'a>>,
        span: Range<usize>,
    ) -> Self {
        let table = Self {
            reading,
            schema,
            entries,
            span,
            read: RefCell::default(),
        };
        table.refuse_unknown();
        table
    }

    fn refuse_unknown(&self) {
        for key in self.entries.into_iter().flat_map(DeTable::keys) {
            let name = key.get_ref().as_ref();
            match self.schema.key(name) {
                Some(known) if known.later => self.problems().error_with_hint(
                    key.span(),
                    format!("`{name}` is not in this version"),
                    format!("remove it: a later version brings it ({})", known.meaning),
                ),
                Some(_) => {}
                // A schema without keys takes any (the names of services, say).
                None if self.schema.keys.is_empty() => {}
                None => self.problems().error_with_hint(
                    key.span(),
                    format!("unknown key `{name}` in {}", self.schema.place),
                    self.did_you_mean(name),
                ),
            }
        }
    }

    fn did_you_mean(&self, name: &str) -> String {
        let known = self.schema.keys.iter().filter(|key| !key.later);
        let best = known
            .clone()
            .map(|key| (strsim::jaro_winkler(name, key.name), key.name))
            .max_by(|left, right| left.0.total_cmp(&right.0));
        match best {
            Some((likeness, key)) if likeness > 0.8 => format!("did you mean `{key}`?"),
            _ => format!(
                "known keys: {}",
                known.map(|key| key.name).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// Where problems go.
    #[must_use]
    pub fn problems(&self) -> &'a Problems {
        self.reading.problems
    }

    /// The folder against which relative names are resolved.
    #[must_use]
    pub fn base(&self) -> &'a std::path::Path {
        &self.reading.document.base
    }

    /// The name of the settings file, for messages.
    #[must_use]
    pub fn file(&self) -> &'a str {
        &self.reading.document.name
    }

    /// The line of the settings file that byte `offset` is in, from 1.
    #[must_use]
    pub fn line_of(&self, offset: usize) -> usize {
        let before = self.reading.document.text.bytes().take(offset);
        before.filter(|byte| *byte == b'\n').count() + 1
    }

    /// Where the table stands, to point at when something is missing.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        (self.span.end > 0).then(|| self.span.clone())
    }

    /// Where the value of `key` stands, else the table.
    #[must_use]
    pub fn span_of(&self, key: &'static str) -> Option<Range<usize>> {
        self.value(key)
            .map_or_else(|| self.span(), |value| Some(value.span()))
    }

    /// True when the key is written.
    #[must_use]
    pub fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// All names of a table whose keys are free (the services of a gate), with where they stand.
    #[must_use]
    pub fn names(&self) -> Vec<Item<String>> {
        self.entries
            .into_iter()
            .flat_map(DeTable::keys)
            .map(|key| Item {
                value: key.get_ref().to_string(),
                span: key.span(),
            })
            .collect()
    }

    /// All entries of a table whose keys are free, for values that have several forms.
    #[must_use]
    pub fn entries(&self) -> Vec<(Item<String>, &'a Spanned<DeValue<'a>>)> {
        self.entries
            .into_iter()
            .flat_map(DeTable::iter)
            .map(|(key, value)| {
                let name = Item {
                    value: key.get_ref().to_string(),
                    span: key.span(),
                };
                (name, value)
            })
            .collect()
    }

    /// A value of [`Table::entries`] as `T`, when it is right.
    #[must_use]
    pub fn entry<T: Setting>(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Item<T>> {
        self.convert(key, value)
    }

    /// The value as written, for what has several forms.
    #[must_use]
    pub fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(
            self.schema.keys.is_empty() || self.schema.key(key).is_some_and(|known| !known.later),
            "`{key}` is read but not declared in {}",
            self.schema.place
        );
        self.read.borrow_mut().insert(key);
        self.entries?.get(key)
    }

    /// The value of `key` when it is written and right.
    #[must_use]
    pub fn get<T: Setting>(&self, key: &'static str) -> Option<T> {
        self.item(key).map(|item| item.value)
    }

    /// As [`Table::get`], with its place.
    #[must_use]
    pub fn item<T: Setting>(&self, key: &'static str) -> Option<Item<T>> {
        let value = self.value(key)?;
        self.convert(key, value)
    }

    fn convert<T: Setting>(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Item<T>> {
        match T::read(value.get_ref()) {
            Ok(read) => Some(Item {
                value: read,
                span: value.span(),
            }),
            Err(why) => {
                self.problems().error_with_hint(
                    value.span(),
                    format!("`{key}`: {why}"),
                    format!("write {}", T::EXPECTED),
                );
                None
            }
        }
    }

    /// The value of `key`, or `default` when it is absent or wrong.
    #[must_use]
    pub fn or<T: Setting>(&self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// A value that must lie in `range`; else a problem that names the limits, and `default`.
    #[must_use]
    pub fn within<T>(&self, key: &'static str, default: T, range: std::ops::RangeInclusive<T>) -> T
    where
        T: Setting + PartialOrd + std::fmt::Display,
    {
        let Some(value) = self.value(key) else {
            return default;
        };
        let found = match value.get_ref() {
            // A number that the type does not even hold (a negative one, mostly) breaks the same limits.
            DeValue::Integer(number) if T::WHOLE => {
                T::read(value.get_ref()).map_err(|_| number.as_str().to_owned())
            }
            _ => match self.convert::<T>(key, value) {
                Some(item) => Ok(item.value),
                None => return default,
            },
        };
        let found = match found {
            Ok(found) if range.contains(&found) => return found,
            Ok(found) => found.to_string(),
            Err(number) => number,
        };
        let (least, most) = (range.start(), range.end());
        self.problems().error(
            value.span(),
            format!("`{key}` is {found}, it must lie between {least} and {most}"),
        );
        default
    }

    /// A duration that must lie in `range`.
    #[must_use]
    pub fn duration(
        &self,
        key: &'static str,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        match self.item::<Duration>(key) {
            Some(item) if range.contains(&item.value) => item.value,
            Some(item) => {
                self.problems().error(
                    item.span,
                    format!(
                        "`{key}` must lie between {} and {}",
                        super::format_duration(*range.start()),
                        super::format_duration(*range.end())
                    ),
                );
                default
            }
            None => default,
        }
    }

    /// The value of `key`; its absence is a problem.
    #[must_use]
    pub fn required<T: Setting>(&self, key: &'static str) -> Option<T> {
        if self.value(key).is_none() {
            self.missing(key);
        }
        self.get(key)
    }

    /// Records that `key` must be there.
    pub fn missing(&self, key: &'static str) {
        let meaning = self.schema.key(key).map_or("", |known| known.meaning);
        self.problems().absent(
            self.span(),
            format!("{} needs `{key}`", self.schema.place),
            format!("{key}: {meaning}"),
        );
    }

    /// A list; each element that is wrong is a problem of its own. A single value counts as a list of one.
    #[must_use]
    pub fn list<T: Setting>(&self, key: &'static str) -> Option<Vec<Item<T>>> {
        let value = self.value(key)?;
        let elements = match value.get_ref() {
            DeValue::Array(elements) => elements.iter().collect::<Vec<_>>(),
            _ => vec![value],
        };
        Some(
            elements
                .into_iter()
                .filter_map(|element| self.convert(key, element))
                .collect(),
        )
    }

    /// One of `choices`; else a problem that names them, and `default`.
    #[must_use]
    pub fn choice<T: Copy>(&self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        let Some(item) = self.item::<String>(key) else {
            return default;
        };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == item.value) {
            return *choice;
        }
        let names: Vec<_> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        self.problems().error_with_hint(
            item.span,
            format!("`{key}` can't be \"{}\"", item.value),
            format!("write one of {}", names.join(", ")),
        );
        default
    }

    /// The table under `key`.
    #[must_use]
    pub fn table(&self, key: &'static str, schema: &'static Schema) -> Option<Self> {
        let value = self.value(key)?;
        self.as_table(key, value, schema)
    }

    /// A table that stands as a value: for keys that take a word or a table.
    #[must_use]
    pub fn as_table(
        &self,
        key: &str,
        value: &'a Spanned<DeValue<'a>>,
        schema: &'static Schema,
    ) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(entries) => {
                Some(Self::new(self.reading, schema, Some(entries), value.span()))
            }
            other => {
                self.problems().error_with_hint(
                    value.span(),
                    format!("`{key}`: expected a table, found {}", other.type_str()),
                    format!("write {}", schema.place),
                );
                None
            }
        }
    }

    /// The table under `key`, or an empty one when it is absent, so that defaults come from one place.
    #[must_use]
    pub fn table_or_empty(&self, key: &'static str, schema: &'static Schema) -> Self {
        self.table(key, schema)
            .unwrap_or_else(|| Self::new(self.reading, schema, None, self.span.clone()))
    }

    /// The tables of `[[key]]`.
    #[must_use]
    pub fn tables(&self, key: &'static str, schema: &'static Schema) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        match value.get_ref() {
            DeValue::Array(elements) => elements
                .iter()
                .filter_map(|element| self.as_table(key, element, schema))
                .collect(),
            other => {
                self.problems().error_with_hint(
                    value.span(),
                    format!(
                        "`{key}`: expected a list of tables, found {}",
                        other.type_str()
                    ),
                    format!("write {}", schema.place),
                );
                Vec::new()
            }
        }
    }

    /// The named tables of `[key.NAME]`.
    #[must_use]
    pub fn named_tables(
        &self,
        key: &'static str,
        schema: &'static Schema,
    ) -> Vec<(Item<String>, Self)> {
        let Some(DeValue::Table(entries)) = self.value(key).map(Spanned::get_ref) else {
            if let Some(value) = self.value(key) {
                self.problems().error_with_hint(
                    value.span(),
                    format!("`{key}`: expected tables with names"),
                    format!("write {}", schema.place),
                );
            }
            return Vec::new();
        };
        entries
            .iter()
            .filter_map(|(name, value)| {
                let table = self.as_table(name.get_ref(), value, schema)?;
                let name = Item {
                    value: name.get_ref().to_string(),
                    span: name.span(),
                };
                Some((name, table))
            })
            .collect()
    }

    /// A file name, resolved against the settings file's folder.
    #[must_use]
    pub fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.get::<PathBuf>(key).map(|path| self.base().join(path))
    }

    /// A secret given by `file_key` (a file's name) or `env_key` (an environment variable's name).
    #[must_use]
    pub fn secret(&self, file_key: &'static str, env_key: &'static str) -> Option<Secret> {
        let file = self.item::<PathBuf>(file_key);
        let variable = self.item::<String>(env_key);
        match (file, variable) {
            (Some(file), Some(_)) => {
                self.problems().error(
                    file.span,
                    format!("`{file_key}` and `{env_key}` exclude each other"),
                );
                None
            }
            (Some(file), None) => self.secret_file(file_key, &file, None),
            (None, Some(variable)) => {
                match self.reading.document.environment.get(&variable.value) {
                    Some(value) if !value.is_empty() => Some(Secret::new(value)),
                    _ => {
                        self.problems().error(
                            variable.span,
                            format!("the environment variable `{}` is not set", variable.value),
                        );
                        None
                    }
                }
            }
            (None, None) => None,
        }
    }

    /// A secret in the file that `key` names.
    #[must_use]
    pub fn secret_in_file(&self, key: &'static str) -> Option<Secret> {
        let file = self.item::<PathBuf>(key)?;
        self.secret_file(key, &file, None)
    }

    /// As [`Table::secret_in_file`]; `hint` says how to make one when there is none.
    #[must_use]
    pub fn secret_in_file_or(&self, key: &'static str, hint: &str) -> Option<Secret> {
        let file = self.item::<PathBuf>(key)?;
        self.secret_file(key, &file, Some(hint))
    }

    fn secret_file(&self, key: &str, file: &Item<PathBuf>, hint: Option<&str>) -> Option<Secret> {
        let why = match std::fs::read_to_string(self.base().join(&file.value)) {
            Ok(text) if !text.trim().is_empty() => return Some(Secret::new(text.trim())),
            Ok(_) => format!("`{key}`: the file is empty"),
            Err(error) => format!("`{key}`: can't read {}: {error}", file.value.display()),
        };
        let span = file.span.clone();
        match hint {
            Some(hint) => self.problems().error_with_hint(span, why, hint),
            None => self.problems().error(span, why),
        }
        None
    }

    /// Declared keys that were never read: a role's own test asserts that there are none.
    #[must_use]
    pub fn unread(&self) -> Vec<&'static str> {
        let read = self.read.borrow();
        self.schema
            .keys
            .iter()
            .filter(|key| !key.later && !read.contains(key.name))
            .map(|key| key.name)
            .collect()
    }
}
