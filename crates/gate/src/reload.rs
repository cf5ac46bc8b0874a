//! What a reload changes: found by comparing two settings, said in the log once it is done.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use crate::gate::StartError;
use crate::settings::{GateSettings, ListenerSettings};

/// The difference between two settings, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What is served differently from now on.
    pub live: Vec<String>,
    /// What the new settings say and only a new process does (SIGUSR2, or a restart).
    pub restart: Vec<String>,
}

/// Why a reload changed nothing: all reasons.
#[derive(Debug, thiserror::Error)]
#[error("{}", .reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ReloadError {
    /// At least one.
    pub reasons: Vec<StartError>,
}

impl fmt::Display for Changes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.live.is_empty() {
            return formatter.write_str("nothing changed");
        }
        formatter.write_str(&self.live.join("; "))
    }
}

/// Same name and same address: it goes on, with its connections.
pub(crate) fn stays(before: &ListenerSettings, after: &ListenerSettings) -> bool {
    before.name == after.name
        && before.address == after.address
        && before.is_udp() == after.is_udp()
}

impl Changes {
    /// What changes from `before` to `after`.
    #[must_use]
    pub fn between(before: &GateSettings, after: &GateSettings) -> Self {
        let mut changes = Self::default();
        changes.listeners(&before.listeners, &after.listeners);
        changes.named(
            "route",
            before.routes.iter().map(|route| (&route.name, route)),
            after.routes.iter().map(|route| (&route.name, route)),
        );
        let names = |settings: &GateSettings| {
            let names: Vec<_> = settings.routes.iter().map(|r| r.name.clone()).collect();
            names
        };
        let (old, new) = (names(before), names(after));
        let same_routes = old.len() == new.len() && new.iter().all(|name| old.contains(name));
        if old != new && same_routes {
            changes.live.push("the order of routes".to_owned());
        }
        changes.named("service", before.services.iter(), after.services.iter());
        changes.part("client_ip", &before.trusted, &after.trusted);
        changes.part("ip_filter", &before.ip_filter, &after.ip_filter);
        changes.part("shield", &before.shield, &after.shield);
        changes.part("limits", &before.limits, &after.limits);
        changes.part("access_log", &before.access_log, &after.access_log);
        changes.needs_restart(before, after);
        changes
    }

    fn listeners(&mut self, before: &[ListenerSettings], after: &[ListenerSettings]) {
        for old in before {
            match after.iter().find(|new| new.name == old.name) {
                None => self.live.push(format!("listener {} removed", old.name)),
                Some(new) if new.address != old.address => {
                    let line = format!(
                        "listener {} moved from {} to {}",
                        old.name, old.address, new.address
                    );
                    self.live.push(line);
                }
                Some(new) if differ(old, new) => {
                    self.live.push(format!("listener {} changed", old.name));
                }
                Some(_) => {}
            }
        }
        for new in after {
            if before.iter().all(|old| old.name != new.name) {
                let line = format!("listener {} added on {}", new.name, new.address);
                self.live.push(line);
            }
        }
    }

    /// Things with a name, which several may share.
    fn named<'a, T: Debug + 'a>(
        &mut self,
        what: &str,
        before: impl Iterator<Item = (&'a String, &'a T)>,
        after: impl Iterator<Item = (&'a String, &'a T)>,
    ) {
        let (before, after) = (by_name(before), by_name(after));
        for (name, old) in &before {
            match after.get(name) {
                None => self.live.push(format!("{what} {name} removed")),
                Some(new) if old != new => self.live.push(format!("{what} {name} changed")),
                Some(_) => {}
            }
        }
        for name in after.keys() {
            if !before.contains_key(name) {
                self.live.push(format!("{what} {name} added"));
            }
        }
    }

    fn part<T: Debug>(&mut self, what: &str, before: &T, after: &T) {
        if differ(before, after) {
            self.live.push(format!("{what} changed"));
        }
    }

    fn needs_restart(&mut self, before: &GateSettings, after: &GateSettings) {
        let token = |settings: &GateSettings| {
            let token = settings.admin.token.as_ref();
            token.map(|token| token.expose().to_owned())
        };
        let urls = |settings: &GateSettings| format!("{:?}", settings.registry);
        let fixed = [
            ("threads", before.threads != after.threads),
            ("data", before.data != after.data),
            ("trace", before.trace != after.trace),
            (
                "admin",
                differ(&before.admin, &after.admin) || token(before) != token(after),
            ),
            (
                "registry",
                urls(before) != urls(after) || registry_urls(before) != registry_urls(after),
            ),
            (
                "limits.access_log_lines",
                before.limits.access_log_lines != after.limits.access_log_lines,
            ),
        ];
        let changed = fixed.into_iter().filter(|(_, changed)| *changed);
        self.restart
            .extend(changed.map(|(key, _)| format!("gate.{key}")));
    }
}

fn registry_urls(settings: &GateSettings) -> Vec<String> {
    match &settings.registry.source {
        Some(crate::settings::RegistrySource::Urls(urls)) => {
            urls.iter().map(|url| url.expose().to_owned()).collect()
        }
        _ => Vec::new(),
    }
}

/// By what they show: settings hold regular expressions, which can't be compared otherwise. Secrets show nothing; the
/// few there are get compared by what they hold.
fn differ<T: Debug>(before: &T, after: &T) -> bool {
    format!("{before:?}") != format!("{after:?}")
}

fn by_name<'a, T: Debug + 'a>(
    all: impl Iterator<Item = (&'a String, &'a T)>,
) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, thing) in all {
        map.entry(name.clone())
            .or_default()
            .push(format!("{thing:?}"));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{PathPattern, RouteSettings, ServiceSettings};

    #[test]
    fn each_change_is_said_and_nothing_else() {
        let route = |name: &str, path: &str| {
            RouteSettings::new(name, PathPattern::prefix(path).unwrap(), "APP")
        };
        let mut before = GateSettings {
            threads: 2,
            ..GateSettings::default()
        };
        before.listeners = vec![
            ListenerSettings::new("web", "127.0.0.1:1".parse().unwrap()),
            ListenerSettings::new("inner", "127.0.0.1:2".parse().unwrap()),
            ListenerSettings::new("old", "127.0.0.1:3".parse().unwrap()),
        ];
        before.routes = vec![route("a", "/a"), route("b", "/b"), route("c", "/c")];
        let check = |change: &dyn Fn(&mut GateSettings), live: &[&str], restart: &[&str]| {
            let mut after = before.clone();
            change(&mut after);
            let changes = Changes::between(&before, &after);
            assert_eq!(
                (changes.live, changes.restart),
                (words(live), words(restart))
            );
        };
        check(&|_| {}, &[], &[]);
        check(
            &|after| {
                after.listeners[0].connections_max = 5;
                after.listeners[1].address = "127.0.0.1:9".parse().unwrap();
                after.listeners[2].name = "new".to_owned();
            },
            &[
                "listener web changed",
                "listener inner moved from 127.0.0.1:2 to 127.0.0.1:9",
                "listener old removed",
                "listener new added on 127.0.0.1:3",
            ],
            &[],
        );
        check(
            &|after| {
                after.routes = vec![route("b", "/x"), route("a", "/a"), route("d", "/d")];
                after
                    .services
                    .insert("APP".to_owned(), ServiceSettings::default());
            },
            &[
                "route b changed",
                "route c removed",
                "route d added",
                "service APP added",
            ],
            &[],
        );
        check(
            &|after| after.routes.reverse(),
            &["the order of routes"],
            &[],
        );
        check(
            &|after| {
                after.threads = 3;
                after.data = "elsewhere".into();
                after.admin.token = Some(munjigi_foundation::settings::Secret::new("x"));
                after.limits.headers = 7;
            },
            &["limits changed"],
            &["gate.threads", "gate.data", "gate.admin"],
        );
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}
