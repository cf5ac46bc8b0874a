//! `[gate.shield]`: as written → as meant.

use std::path::PathBuf;
use std::time::Duration;

use munjigi_foundation::settings::{Key, Schema, Secret, Table};

use crate::network::Network;
use crate::shield::{Bounds, Glob, KEYS, Missing, ONE, Own, Signal, Terms, Weights};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Patterns of one list.
const PATTERNS_MAX: usize = 1_000;
/// Bytes of one pattern.
const PATTERN_MAX: usize = 256;

/// `[gate.shield]`
pub(super) static SHIELD: Schema = Schema {
    place: "[gate.shield]",
    meaning: "bans scanners; docs/shield.md describes the signals. The listener `inner` is left alone",
    keys: &[
        Key::new(
            "enabled",
            "true or false",
            "true",
            "",
            "false: as if the table were not there",
        ),
        Key::new(
            "ban",
            "table",
            "",
            "",
            "how many signals in what time make a ban, and how long it is",
        ),
        Key::new(
            "deny_path",
            "list of patterns",
            "[]",
            "0 to 1000",
            "paths that get 403 and are a signal; `*` stands for any characters, \"*.php\" for that ending anywhere",
        ),
        Key::new(
            "never",
            "list of networks",
            "[]",
            "",
            "who is never banned, such as a health checker; loopback, peers in `client_ip.trusted` and who an `allow` of the IP filter names never are",
        ),
        Key::new(
            "reject",
            "text",
            "\"403\"",
            "\"403\" or \"close\"",
            "what the banned get; before TLS and at layer 4 always a close",
        ),
        Key::new(
            "dry_run",
            "true or false",
            "false",
            "",
            "bans are only logged, counted and listed",
        ),
        Key::new(
            "weights",
            "table",
            "",
            "",
            "what each signal counts; 0 leaves it out",
        ),
        Key::new(
            "missing",
            "table",
            "",
            "",
            "when paths that are not there speak against a client",
        ),
        Key::new(
            "rules",
            "table",
            "",
            "",
            "more to look for, and where not to look",
        ),
        Key::new(
            "tarpit",
            "table",
            "",
            "",
            "lets the banned wait for their 403; off when absent",
        ),
        Key::new(
            "webhook",
            "table",
            "",
            "",
            "who is told of each ban; nobody when absent",
        ),
        Key::new(
            "clients",
            "whole number",
            "50000",
            "1000 to 1000000",
            "clients that something spoke against lately; beyond, the one that was quiet for longest is forgotten",
        ),
        Key::new(
            "bans",
            "whole number",
            "100000",
            "1000 to 1000000",
            "bans, with those that are over and not forgotten; beyond, the one that ends first makes room",
        ),
    ],
};

pub(super) static BAN: Schema = Schema {
    place: "gate.shield.ban = { … }",
    meaning: "how many signals in what time make a ban, and how long it is",
    keys: &[
        Key::new(
            "after",
            "whole number",
            "5",
            "1 to 1000",
            "what a client's signals may add up to: the request that fills it gets its own answer, the next one is refused",
        ),
        Key::new(
            "within",
            "duration",
            "\"1m\"",
            "1s to 1d",
            "the time that counts for that",
        ),
        Key::new(
            "for",
            "duration",
            "\"1h\"",
            "1s to 365d",
            "how long the first ban is; each further one is twice as long",
        ),
        Key::new(
            "most",
            "duration",
            "\"7d\", or `for` when that is more",
            "1s to 365d",
            "how long a ban is at the most",
        ),
        Key::new(
            "forget",
            "duration",
            "\"1d\"",
            "1m to 365d",
            "after so much time without a ban one offence is forgotten",
        ),
    ],
};

pub(super) static WEIGHTS: Schema = Schema {
    place: "gate.shield.weights = { … }",
    meaning: "what each signal counts for `ban.after`; of several in one request the heaviest does, and half of each further one that is not weak",
    keys: KEYS,
};

pub(super) static MISSING: Schema = Schema {
    place: "gate.shield.missing = { … }",
    meaning: "when paths that are not there speak against a client",
    keys: &[
        Key::new(
            "paths",
            "whole number",
            "20",
            "1 to 1000",
            "different ones that it may ask for within `ban.within`; each more is a signal, if",
        ),
        Key::new(
            "share",
            "number",
            "0.8",
            "0 to 1",
            "its requests since then fail at least to this share",
        ),
    ],
};

pub(super) static RULES: Schema = Schema {
    place: "gate.shield.rules = { … }",
    meaning: "more to look for, and where not to look",
    keys: &[
        Key::new(
            "agents",
            "list of text",
            "[]",
            "0 to 1000",
            "parts of user agents of scanners, in any case",
        ),
        Key::new(
            "payloads",
            "list of regular expressions",
            "[]",
            "0 to 1000",
            "what is hostile in a target that was decoded and put in lower case",
        ),
        Key::new(
            "ignore",
            "list of patterns",
            "[]",
            "0 to 1000",
            "paths whose requests are no signal whatever they are, but for `deny_path`",
        ),
    ],
};

pub(super) static TARPIT: Schema = Schema {
    place: "gate.shield.tarpit = { … }",
    meaning: "lets the banned wait for their 403",
    keys: &[
        Key::new("delay", "duration", "\"10s\"", "100ms to 10m", "how long"),
        Key::new(
            "connections",
            "whole number",
            "64",
            "1 to 100000",
            "how many requests wait at once; others are refused at once",
        ),
    ],
};

pub(super) static WEBHOOK: Schema = Schema {
    place: "gate.shield.webhook = { … }",
    meaning: "who is told of each ban: a POST with JSON",
    keys: &[
        Key::new(
            "url",
            "text",
            "",
            "",
            "http:// or https://; never logged, it may hold a secret",
        ),
        Key::new(
            "token_file",
            "file name",
            "",
            "",
            "holds what is sent as `Authorization: Bearer`",
        ),
        Key::new(
            "ca_file",
            "file name",
            "",
            "",
            "the only authorities believed; those of the system when absent",
        ),
        Key::new(
            "timeout",
            "duration",
            "\"5s\"",
            "100ms to 1m",
            "how long one try may take",
        ),
        Key::new(
            "tries",
            "whole number",
            "3",
            "1 to 10",
            "how often one alarm is tried",
        ),
        Key::new(
            "queue",
            "whole number",
            "256",
            "1 to 100000",
            "alarms that may wait; more are dropped and counted",
        ),
    ],
};

/// `[gate.shield]`
#[derive(Debug, Clone, Default)]
pub struct ShieldSettings {
    /// When and how long.
    pub ban: Terms,
    /// Paths that get 403.
    pub deny_path: Vec<Glob>,
    /// Who is never banned.
    pub never: Vec<Network>,
    /// The banned get no answer.
    pub close: bool,
    /// Nobody is banned.
    pub dry_run: bool,
    /// What signals count.
    pub weights: Weights,
    /// When missing paths count.
    pub missing: Missing,
    /// More scanners, by a part of their user agent.
    pub agents: Vec<String>,
    /// More of what is hostile in targets.
    pub payloads: Vec<String>,
    /// Paths that are not looked at.
    pub ignore: Vec<Glob>,
    /// Lets the banned wait.
    pub tarpit: Option<TarpitSettings>,
    /// Who is told.
    pub webhook: Option<WebhookSettings>,
    /// How much is remembered.
    pub bounds: Bounds,
}

/// `tarpit = { … }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarpitSettings {
    /// How long a banned client waits for its 403.
    pub delay: Duration,
    /// How many wait at once.
    pub connections: usize,
}

/// `webhook = { … }`
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Where alarms are posted.
    pub url: Secret,
    /// What they carry.
    pub token: Option<Secret>,
    /// Who is believed.
    pub ca_file: Option<PathBuf>,
    /// For one try.
    pub timeout: Duration,
    /// How often one is tried.
    pub tries: u32,
    /// How many may wait.
    pub queue: usize,
}

impl WebhookSettings {
    /// True when both are sent to the same place in the same way.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let token = |settings: &Self| {
            settings
                .token
                .as_ref()
                .map(|token| token.expose().to_owned())
        };
        self.url.expose() == other.url.expose()
            && token(self) == token(other)
            && self.ca_file == other.ca_file
            && self.timeout == other.timeout
    }
}

/// Reads `shield`; `None` when it is absent or not enabled.
pub(super) fn read(table: &Table<'_>) -> Option<ShieldSettings> {
    let table = table.table("shield", &SHIELD)?;
    let enabled = table.or("enabled", true);
    let defaults = ShieldSettings::default();
    let rules = table.table_or_empty("rules", &RULES);
    let settings = ShieldSettings {
        ban: read_ban(&table.table_or_empty("ban", &BAN)),
        deny_path: read_globs(&table, "deny_path"),
        never: read_values::<Network>(&table, "never"),
        close: table.choice("reject", false, &[("403", false), ("close", true)]),
        dry_run: table.or("dry_run", defaults.dry_run),
        weights: read_weights(&table.table_or_empty("weights", &WEIGHTS)),
        missing: read_missing(&table.table_or_empty("missing", &MISSING)),
        agents: read_texts(&rules, "agents"),
        payloads: read_payloads(&rules),
        ignore: read_globs(&rules, "ignore"),
        tarpit: table.table("tarpit", &TARPIT).map(|table| TarpitSettings {
            delay: table.duration(
                "delay",
                Duration::from_secs(10),
                Duration::from_millis(100)..=Duration::from_secs(600),
            ),
            connections: table.within("connections", 64, 1..=100_000),
        }),
        webhook: table
            .table("webhook", &WEBHOOK)
            .and_then(|table| read_webhook(&table)),
        bounds: Bounds {
            clients: table.within("clients", defaults.bounds.clients, 1_000..=1_000_000),
            bans: table.within("bans", defaults.bounds.bans, 1_000..=1_000_000),
        },
    };
    enabled.then_some(settings)
}

fn read_ban(table: &Table<'_>) -> Terms {
    let defaults = Terms::default();
    let first = table.duration("for", defaults.first, SECOND..=YEAR);
    let most = table.duration("most", defaults.most.max(first), SECOND..=YEAR);
    if most < first {
        table.problems().error_with_hint(
            table.span_of("most"),
            "`most` is less than `for`: not even the first ban would fit",
            "write a longer time, or leave it out",
        );
    }
    Terms {
        after: table.within("after", defaults.after, 1..=1_000),
        within: table.duration("within", defaults.within, SECOND..=DAY),
        first,
        most,
        forget: table.duration("forget", defaults.forget, SECOND * 60..=YEAR),
    }
}

fn read_weights(table: &Table<'_>) -> Weights {
    let mut weights = Weights::default();
    for (slot, signal) in weights.0.iter_mut().zip(Signal::ALL) {
        let default = f64::from(signal.weight()) / f64::from(ONE);
        let weight = table.within(signal.code(), default, 0.0..=100.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 100,000"
        )]
        let thousandths = (weight * f64::from(ONE)).round() as u32;
        *slot = thousandths;
    }
    weights
}

fn read_missing(table: &Table<'_>) -> Missing {
    let defaults = Missing::default();
    Missing {
        paths: table.within("paths", defaults.paths, 1..=1_000),
        share: table.within("share", defaults.share, 0.0..=1.0),
    }
}

fn read_values<T: munjigi_foundation::settings::Setting>(
    table: &Table<'_>,
    key: &'static str,
) -> Vec<T> {
    let items = table.list::<T>(key).unwrap_or_default();
    items.into_iter().map(|item| item.value).collect()
}

/// Not too many of them.
fn bounded<T>(table: &Table<'_>, key: &'static str, list: Vec<T>) -> Vec<T> {
    if list.len() > PATTERNS_MAX {
        let message = format!(
            "`{key}` has {} elements, {PATTERNS_MAX} are the most",
            list.len()
        );
        table.problems().error(table.span_of(key), message);
    }
    list
}

fn read_globs(table: &Table<'_>, key: &'static str) -> Vec<Glob> {
    let mut globs = Vec::new();
    for item in bounded(table, key, table.list::<String>(key).unwrap_or_default()) {
        match Glob::parse(&item.value) {
            Ok(glob) => {
                if glob.takes_all() {
                    let message = format!("`{key}`: \"{}\" is every path", item.value);
                    table.problems().warning(
                        item.span,
                        message,
                        "name those that are meant, such as \"*.php\"",
                    );
                }
                globs.push(glob);
            }
            Err(why) => table.problems().error_with_hint(
                item.span,
                format!("`{key}`: {why}"),
                "write a path such as \"/public/*\", or an ending such as \"*.php\"",
            ),
        }
    }
    globs
}

fn read_texts(table: &Table<'_>, key: &'static str) -> Vec<String> {
    let mut texts = Vec::new();
    for item in bounded(table, key, table.list::<String>(key).unwrap_or_default()) {
        // One or two letters are in every user agent.
        if (3..=PATTERN_MAX).contains(&item.value.len()) {
            texts.push(item.value);
        } else {
            let message = format!(
                "`{key}`: \"{}\" must have 3 to {PATTERN_MAX} characters",
                item.value
            );
            table.problems().error(item.span, message);
        }
    }
    texts
}

fn read_payloads(table: &Table<'_>) -> Vec<String> {
    let mut payloads = Vec::new();
    for item in bounded(
        table,
        "payloads",
        table.list::<String>("payloads").unwrap_or_default(),
    ) {
        let one = std::slice::from_ref(&item.value);
        match Own::new(&[], one) {
            Ok(_) if item.value.len() <= 4 * PATTERN_MAX && !item.value.is_empty() => {
                payloads.push(item.value);
            }
            Ok(_) => {
                let message = format!(
                    "`payloads`: an expression has 1 to {} characters",
                    4 * PATTERN_MAX
                );
                table.problems().error(item.span, message);
            }
            Err(why) => table
                .problems()
                .error(item.span, format!("`payloads`: {why}")),
        }
    }
    if let Err(why) = Own::new(&[], &payloads) {
        let message = format!("`payloads`: all together: {why}");
        table.problems().error_with_hint(
            table.span_of("payloads"),
            message,
            "write fewer or simpler ones",
        );
        payloads.clear();
    }
    payloads
}

fn read_webhook(table: &Table<'_>) -> Option<WebhookSettings> {
    let url = table.required::<String>("url");
    let settings = WebhookSettings {
        url: Secret::new(url.as_deref().unwrap_or_default()),
        token: table.secret_in_file("token_file"),
        ca_file: munjigi_foundation::tls::read_ca_file(table, "ca_file"),
        timeout: table.duration(
            "timeout",
            Duration::from_secs(5),
            Duration::from_millis(100)..=Duration::from_secs(60),
        ),
        tries: table.within("tries", 3, 1..=10),
        queue: table.within("queue", 256, 1..=100_000),
    };
    let url = url?;
    let good = reqwest::Url::parse(&url)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    if !good {
        table.problems().error_with_hint(
            table.span_of("url"),
            "`url`: this is no http:// or https:// URL",
            "write \"https://alarms.example.com/hook\"",
        );
        return None;
    }
    Some(settings)
}
