//! What speaks against a client: one list of signals, each with its stable name, its weight and
//! what it means. A weight is in thousandths of what `ban.after` counts.

use std::fmt;

use munjigi_foundation::settings::Key;

/// What one signal counts, in thousandths.
pub(crate) type Weight = u32;
/// One, as `ban.after` counts.
pub(crate) const ONE: Weight = 1_000;

macro_rules! signals {
    ($($name:ident = $code:literal, $weight:literal as $written:literal, $meaning:literal;)*) => {
        /// One thing that speaks against a client.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Signal {
            $(#[doc = $meaning] $name,)*
        }

        impl Signal {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Stable, snake case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What it counts unless the settings say otherwise, in thousandths.
            pub(crate) const fn weight(self) -> Weight {
                match self { $(Self::$name => $weight,)* }
            }
        }

        /// The keys of `weights = { … }`.
        pub(crate) const KEYS: &[Key] = &[$(Key::new($code, "number", $written, "0 to 100", $meaning),)*];
    };
}

signals! {
    DeniedPath = "denied_path", 1_000 as "1.0", "a path of `deny_path`";
    ScannerAgent = "scanner_agent", 2_000 as "2.0", "a user agent that names a known scanner";
    SecretFile = "secret_file", 3_000 as "3.0", "a file of secrets such as /.env or /.aws/credentials, whatever the answer is";
    DotFile = "dot_file", 2_000 as "2.0", "a name that begins with a dot, such as /.git/HEAD, and that nobody serves; /.well-known/ is none";
    LeftoverFile = "leftover_file", 2_000 as "2.0", "a copy or a dump, such as *.bak or *.sql, that nobody serves";
    ScriptProbe = "script_probe", 1_500 as "1.5", "a script, such as *.php or *.asp, that nobody serves; less from a client that is served well otherwise";
    AdminProbe = "admin_probe", 1_500 as "1.5", "an administrators' page of well-known software that nobody serves; less from a client that is served well otherwise";
    Traversal = "traversal", 2_500 as "2.5", "a path or a query that climbs out of its folder, or names a file of the system";
    EncodedTrick = "encoded_trick", 2_500 as "2.5", "an encoding that hides something: null bytes, overlong dots and slashes, doubly encoded dots and backslashes";
    Log4Shell = "log4shell", 3_000 as "3.0", "a look-up such as ${jndi:…} in the target or a header field";
    SqlInjection = "sql_injection", 2_000 as "2.0", "SQL in the target";
    ScriptInjection = "script_injection", 2_000 as "2.0", "markup or JavaScript in the target";
    CodeInjection = "code_injection", 2_000 as "2.0", "a shell command, PHP, a template or the like in the target, or a function in a header field (Shellshock)";
    BadMethod = "bad_method", 1_000 as "1.0", "a method that is none, or none for a site (TRACE, CONNECT), and that was refused";
    Malformed = "malformed", 1_000 as "1.0", "a request that is no valid HTTP; less from a client that is served well otherwise";
    NotFound = "not_found", 1_000 as "1.0", "another path that is not there, of a client that asks for many such (`missing`)";
    FailedSignIn = "failed_sign_in", 1_000 as "1.0", "a sign-in that the hub refused; less from a client that is served well otherwise";
}

impl Signal {
    /// Its place in [`Signal::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// A person may cause it, too: it counts by the share of the client's requests that went wrong.
    pub(crate) const fn is_weak(self) -> bool {
        matches!(
            self,
            Self::ScriptProbe | Self::AdminProbe | Self::Malformed | Self::FailedSignIn
        )
    }

    /// The signal with this name.
    #[must_use]
    pub fn named(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.code() == code)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

/// How many signals there are.
pub(crate) const COUNT: usize = Signal::ALL.len();

/// A set of signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks(u32);

impl Marks {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn add(&mut self, signal: Signal) {
        self.0 |= 1 << signal.index();
    }

    /// True when `signal` is among them.
    #[must_use]
    pub fn has(self, signal: Signal) -> bool {
        self.0 & (1 << signal.index()) != 0
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are there.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        Signal::ALL
            .iter()
            .copied()
            .filter(move |signal| self.has(*signal))
    }
}

impl FromIterator<Signal> for Marks {
    fn from_iter<T: IntoIterator<Item = Signal>>(signals: T) -> Self {
        let mut marks = Self::NONE;
        signals.into_iter().for_each(|signal| marks.add(signal));
        marks
    }
}

/// What each signal counts, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights(pub(crate) [Weight; COUNT]);

impl Default for Weights {
    fn default() -> Self {
        let mut weights = [0; COUNT];
        for (slot, signal) in weights.iter_mut().zip(Signal::ALL) {
            *slot = signal.weight();
        }
        Self(weights)
    }
}

impl Weights {
    pub(crate) fn of(&self, signal: Signal) -> Weight {
        self.0.get(signal.index()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_one_name_and_its_weight_is_the_one_that_is_shown() {
        let mut names: Vec<_> = Signal::ALL.iter().map(|signal| signal.code()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COUNT);
        for (key, signal) in KEYS.iter().zip(Signal::ALL) {
            assert_eq!(Signal::named(key.name), Some(*signal));
            let shown: f64 = key.default.parse().unwrap();
            assert_eq!(shown * f64::from(ONE), f64::from(signal.weight()));
            // The contract: each counts at least as much as a match of `deny_path`.
            assert!(signal.weight() >= ONE, "{signal}");
        }
    }

    #[test]
    fn marks_are_a_set() {
        let marks: Marks = [Signal::DotFile, Signal::FailedSignIn]
            .into_iter()
            .collect();
        let listed: Vec<_> = marks.iter().collect();
        assert_eq!(listed, [Signal::DotFile, Signal::FailedSignIn]);
        assert!(marks.has(Signal::DotFile) && !marks.has(Signal::Malformed));
        assert!(Marks::NONE.is_empty() && !marks.is_empty());
    }
}
