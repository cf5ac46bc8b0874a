/// One key of a settings table, as `munjigi settings` prints it.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// What is written there: `duration`, `size`, `address`, `text`, `list of text`, `true or false`, `table` ….
    pub kind: &'static str,
    /// As it would be written; empty when the key is required or absence has a meaning of its own (said in `meaning`).
    pub default: &'static str,
    /// Unit or range, empty when there is none.
    pub limit: &'static str,
    /// One line.
    pub meaning: &'static str,
    /// Known by the contract, built by a later version: refused as "not in this version".
    pub later: bool,
}

impl Key {
    /// A key with everything said.
    #[must_use]
    pub const fn new(
        name: &'static str,
        kind: &'static str,
        default: &'static str,
        limit: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            default,
            limit,
            meaning,
            later: false,
        }
    }

    /// A key that a later version builds.
    #[must_use]
    pub const fn later(name: &'static str, meaning: &'static str) -> Self {
        Self {
            name,
            kind: "",
            default: "",
            limit: "",
            meaning,
            later: true,
        }
    }
}

/// The keys of one table.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Where the table stands: `[gate]`, `[[gate.route]]`, `gate.route.timeout = { … }`.
    pub place: &'static str,
    /// One line on what the table is for.
    pub meaning: &'static str,
    pub keys: &'static [Key],
}

impl Schema {
    /// The declaration of `name`.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
