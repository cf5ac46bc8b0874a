//! What a route does with its requests: rewriting, answers of its own, header rules, compression,
//! rate limit, error pages.

use std::sync::Arc;
use std::time::Duration;

use munjigi_foundation::settings::{Item, Key, Schema, Size, Table};

use super::{
    Action, Coding, Compression, Direction, ErrorPages, FilesSettings, HeaderRules, LimitBy, Page,
    PathPattern, RateLimit, Redirect, Respond, Rewrite, Template,
};
use crate::conditions::whole;
use crate::headers::untouchable;
use crate::template::Placeholder;

/// Largest page or body that stands in the settings' memory.
const BODY_MAX: u64 = 256 << 10;

pub(super) static REWRITE: Schema = Schema {
    place: "rewrite = { … }",
    meaning: "changes the path before the request is forwarded; one of `prefix`, `path` and `regex`",
    keys: &[
        Key::new("prefix", "text", "", "", "in place of the route's `path`"),
        Key::new(
            "path",
            "text",
            "",
            "",
            "in place of the whole path; may hold {placeholders}",
        ),
        Key::new(
            "regex",
            "text",
            "",
            "",
            "paths that match as a whole become `to`",
        ),
        Key::new(
            "to",
            "text",
            "",
            "",
            "the new path; $1 or ${name} stand for groups of `regex`",
        ),
    ],
};

pub(super) static REDIRECT: Schema = Schema {
    place: "redirect = { … }",
    meaning: "sends the client elsewhere",
    keys: &[
        Key::new(
            "status",
            "whole number",
            "308",
            "301, 302, 303, 307 or 308",
            "the status; 307 and 308 keep method and body",
        ),
        Key::new(
            "location",
            "text",
            "",
            "",
            "where to; may hold {scheme}, {host}, {hostport}, {path}, {rest}, {query} and segments",
        ),
    ],
};

pub(super) static RESPOND: Schema = Schema {
    place: "respond = { … }",
    meaning: "answers by itself",
    keys: &[
        Key::new("status", "whole number", "200", "200 to 599", "the status"),
        Key::new("body", "text", "\"\"", "up to 256KiB", "the body"),
        Key::new(
            "type",
            "text",
            "\"text/plain; charset=utf-8\"",
            "",
            "the body's media type",
        ),
    ],
};

pub(super) static FILES: Schema = Schema {
    place: "files = { … }",
    meaning: "serves a folder; what begins with a dot or lies outside is never sent",
    keys: &[
        Key::new(
            "root",
            "file name",
            "",
            "",
            "the folder; the whole path is looked up in it (see `strip_prefix`)",
        ),
        Key::new(
            "index",
            "list of text",
            "[\"index.html\"]",
            "up to 8",
            "files that stand for their folder",
        ),
        Key::new(
            "spa",
            "true or false",
            "false",
            "",
            "a path without a file and without a dot in its last segment gets the root's index",
        ),
        Key::new(
            "precompressed",
            "list of text",
            "[]",
            "\"zstd\", \"br\", \"gzip\"",
            "siblings (.zst, .br, .gz) that are sent in place of a file",
        ),
        Key::new("cache_control", "text", "", "", "value of Cache-Control"),
    ],
};

pub(super) static HEADERS: Schema = Schema {
    place: "request_headers or response_headers = { … }",
    meaning: "changes header fields, in this order: remove, set, add",
    keys: &[
        Key::new(
            "remove",
            "list of text",
            "[]",
            "",
            "fields that do not pass",
        ),
        Key::new(
            "set",
            "table",
            "",
            "",
            "fields in place of all of their name; values may hold {placeholders}",
        ),
        Key::new("add", "table", "", "", "fields beside those of their name"),
    ],
};

static NAMES: Schema = Schema {
    place: "{ NAME = \"value\" }",
    meaning: "header fields by name",
    keys: &[],
};

pub(super) static COMPRESSION: Schema = Schema {
    place: "compression = { … }",
    meaning: "compresses responses that are worth it; an empty table turns it on",
    keys: &[
        Key::new(
            "algorithms",
            "list of text",
            "[\"zstd\", \"br\", \"gzip\"]",
            "",
            "what may be used, the preferred one first",
        ),
        Key::new(
            "types",
            "list of text",
            "text, JSON, XML, JavaScript, WebAssembly, plain fonts",
            "",
            "media types: \"type/subtype\", \"type/*\" or \"*+suffix\"",
        ),
        Key::new(
            "size_min",
            "size",
            "\"1KiB\"",
            "",
            "bodies known to be smaller stay as they are",
        ),
    ],
};

pub(super) static RATE_LIMIT: Schema = Schema {
    place: "rate_limit = { … }",
    meaning: "a token bucket for each client: 429 with Retry-After when it is empty",
    keys: &[
        Key::new(
            "requests",
            "whole number",
            "",
            "1 to 1000000",
            "requests in `per`; also the burst",
        ),
        Key::new(
            "per",
            "duration",
            "\"1s\"",
            "1ms to 1d",
            "how long an empty bucket takes to be full",
        ),
        Key::new(
            "by",
            "text",
            "\"client_ip\"",
            "",
            "\"client_ip\" (IPv6 by /64), \"header.NAME\", or \"user\" (the credential of the request)",
        ),
    ],
};

pub(super) static ERROR_PAGES: Schema = Schema {
    place: "error_pages = { 404 = \"FILE\", 5xx = \"FILE\" }",
    meaning: "files in place of the gate's own problem documents, for clients whose Accept names their type",
    keys: &[],
};

/// What a route does instead of forwarding; at most one thing, and not with a service.
pub(super) fn read_action(route: &Table<'_>, path: Option<&PathPattern>) -> Option<Action> {
    let redirect = route.table("redirect", &REDIRECT);
    let respond = route.table("respond", &RESPOND);
    let files = route.table("files", &FILES);
    let actions = [
        redirect.map(|table| read_redirect(&table, path).map(Action::Redirect)),
        respond.map(|table| read_respond(&table).map(Action::Respond)),
        files.map(|table| read_files(&table).map(|files| Action::Files(Arc::new(files)))),
    ];
    let keys = ["service", "redirect", "respond", "files"];
    let written = keys.into_iter().filter(|key| route.has(key)).count();
    if written != 1 {
        route.problems().error_with_hint(
            route.span(),
            format!("a route needs one of `service`, `redirect`, `respond` and `files`, this has {written}"),
            "write a route for each",
        );
    }
    if route.has("service") {
        return Some(Action::Forward);
    }
    let action = actions.into_iter().flatten().next()?;
    refuse_idle_keys(route, matches!(action, Some(Action::Files(_))));
    action
}

/// Keys that say something about forwarding do nothing on a route that does not.
fn refuse_idle_keys(route: &Table<'_>, files: bool) {
    let forwarding = [
        "where",
        "where_missing",
        "websocket",
        "retry",
        "hedge",
        "request_headers",
    ];
    let path = ["strip_prefix", "rewrite"].into_iter().filter(|_| !files);
    for key in forwarding
        .into_iter()
        .chain(path)
        .filter(|key| route.has(key))
    {
        route.problems().error_with_hint(
            route.span_of(key),
            format!("`{key}` does nothing on a route that forwards nothing"),
            "remove it",
        );
    }
}

fn template(
    table: &Table<'_>,
    key: &str,
    item: &Item<String>,
    path: Option<&PathPattern>,
) -> Option<Template> {
    let refuse = |why: String, hint: &str| {
        let problems = table.problems();
        problems.error_with_hint(item.span.clone(), format!("`{key}`: {why}"), hint);
    };
    if item.value.chars().any(|c| c.is_control() && c != '\t') {
        refuse(
            "it holds a control character".to_owned(),
            "write it in one line",
        );
        return None;
    }
    Template::parse(&item.value, path)
        .map_err(|why| refuse(why, "a brace that begins no name stands for itself"))
        .ok()
}

fn read_redirect(table: &Table<'_>, path: Option<&PathPattern>) -> Option<Redirect> {
    let status = table.or("status", 308_u16);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        table.problems().error_with_hint(
            table.span_of("status"),
            format!("`status`: {status} is no redirect"),
            "write 301, 302, 303, 307 or 308",
        );
    }
    if !table.has("location") {
        table.missing("location");
    }
    let item = table.item::<String>("location")?;
    let location = template(table, "location", &item, path)?;
    let refuse = |why: &str, hint: &str| {
        let problems = table.problems();
        problems.error_with_hint(item.span.clone(), format!("`location`: {why}"), hint);
    };
    let text = item.value.as_str();
    if text.is_empty() || text.contains([' ', '\t', '"', '<', '>', '\\']) || !text.is_ascii() {
        refuse("this is no URL", "percent-encode what a URL can't hold");
        return None;
    }
    let schemes = ["http://", "https://", "{scheme}://"];
    let absolute = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    let relative = ["/", "{path}", "{rest}"]
        .iter()
        .any(|start| text.starts_with(start));
    if absolute.is_none() && !relative {
        refuse(
            "it is neither a path nor a URL",
            "begin with \"/\", \"https://\", \"{scheme}://\" or \"{path}\"",
        );
        return None;
    }
    // What a client may write must never become the host that it is sent to.
    let mut in_host = absolute.is_some();
    for (before, fill) in location.fills() {
        let after_scheme = before.split_once("://").map_or("", |(_, rest)| rest);
        in_host &= !after_scheme.contains(['/', '?', '#']);
        let harmless = match fill {
            Placeholder::Scheme | Placeholder::Host | Placeholder::HostPort => true,
            // Nothing, or from "/" or "?" on.
            Placeholder::Path | Placeholder::Rest | Placeholder::Query => !after_scheme.is_empty(),
            Placeholder::ClientIp | Placeholder::Segment(_) => false,
        };
        if in_host && !harmless {
            refuse(
                &format!("{fill} can't stand in the host: a client would choose where it is sent"),
                "write the host, or {host}",
            );
            return None;
        }
        in_host &= *fill != Placeholder::Path;
    }
    Some(Redirect {
        status,
        absolute: absolute.is_some(),
        location,
    })
}

fn read_respond(table: &Table<'_>) -> Option<Respond> {
    let status = table.within("status", 200_u16, 200..=599);
    let body = table.or("body", String::new());
    if body.len() as u64 > BODY_MAX {
        table.problems().error_with_hint(
            table.span_of("body"),
            "`body` is larger than 256KiB",
            "serve a file: `files`",
        );
    }
    if matches!(status, 204 | 304) && !body.is_empty() {
        table.problems().error(
            table.span_of("body"),
            format!("an answer with {status} has no body"),
        );
    }
    let content_type = table.item::<String>("type");
    let content_type = match content_type {
        Some(item) => field_value(table, "type", &item)?,
        None => "text/plain; charset=utf-8".to_owned(),
    };
    Some(Respond {
        status,
        body: body.into_bytes().into(),
        content_type,
    })
}

/// A value that can stand in a header field.
fn field_value(table: &Table<'_>, key: &str, item: &Item<String>) -> Option<String> {
    let good = !item.value.is_empty() && item.value.bytes().all(|b| (b' '..=b'~').contains(&b));
    if !good {
        table.problems().error_with_hint(
            item.span.clone(),
            format!("`{key}`: this is no value of a header field"),
            "write visible ASCII characters in one line",
        );
    }
    good.then(|| item.value.trim().to_owned())
}

fn codings(table: &Table<'_>, key: &'static str) -> Option<Vec<Coding>> {
    let items = table.list::<String>(key)?;
    let parse = |item: Item<String>| {
        let coding = Coding::ALL.into_iter().find(|c| c.name() == item.value);
        if coding.is_none() {
            table.problems().error_with_hint(
                item.span,
                format!("`{key}`: \"{}\" is no coding of this gate", item.value),
                "write \"zstd\", \"br\" or \"gzip\"",
            );
        }
        coding
    };
    Some(items.into_iter().filter_map(parse).collect())
}

fn read_files(table: &Table<'_>) -> Option<FilesSettings> {
    if !table.has("root") {
        table.missing("root");
    }
    let root = table.path("root");
    if let Some(root) = &root
        && !root.is_dir()
    {
        table.problems().error_with_hint(
            table.span_of("root"),
            format!("`root`: {} is no folder", root.display()),
            "names are relative to the settings file",
        );
    }
    let index = table.list::<String>("index").map(|items| {
        let good = |item: &Item<String>| {
            let plain = !item.value.is_empty() && !item.value.contains(['/', '\0']);
            if !plain || item.value.starts_with('.') {
                table.problems().error_with_hint(
                    item.span.clone(),
                    format!("`index`: \"{}\" is no name of a file", item.value),
                    "write \"index.html\"",
                );
            }
            plain
        };
        items
            .into_iter()
            .filter(good)
            .map(|item| item.value)
            .collect::<Vec<_>>()
    });
    let index = index.unwrap_or_else(|| vec!["index.html".to_owned()]);
    if index.len() > 8 {
        table
            .problems()
            .error(table.span_of("index"), "`index` has more than 8 names");
    }
    let cache_control = table.item::<String>("cache_control");
    Some(FilesSettings {
        index,
        spa: table.or("spa", false),
        precompressed: codings(table, "precompressed").unwrap_or_default(),
        cache_control: cache_control.and_then(|item| field_value(table, "cache_control", &item)),
        root: root?,
    })
}

/// `strip_prefix` or `rewrite`.
pub(super) fn read_rewrite(route: &Table<'_>, path: Option<&PathPattern>) -> Option<Rewrite> {
    let strip = route.or("strip_prefix", false);
    let table = route.table("rewrite", &REWRITE);
    let has_prefix = path.is_none_or(PathPattern::is_prefix);
    let refuse = |key: &'static str| {
        route.problems().error_with_hint(
            route.span_of(key),
            format!("`{key}`: the route has no `path` whose prefix could be taken"),
            "use `path`, or rewrite = { regex = \"…\", to = \"…\" }",
        );
    };
    if strip && !has_prefix {
        refuse("strip_prefix");
    }
    let Some(table) = table else {
        return strip.then(|| Rewrite::Prefix(String::new()));
    };
    if strip {
        route.problems().error_with_hint(
            route.span_of("strip_prefix"),
            "`strip_prefix` and `rewrite` exclude each other",
            "rewrite = { prefix = \"/\" } strips, too",
        );
    }
    if table.has("prefix") && !has_prefix {
        refuse("rewrite");
    }
    let plain = |key: &'static str| {
        let item = table.item::<String>(key)?;
        let good = item.value.starts_with('/')
            && item.value.bytes().all(|b| (b'!'..=b'~').contains(&b))
            && !item.value.contains(['?', '#', '\\']);
        if !good {
            table.problems().error_with_hint(
                item.span.clone(),
                format!("`{key}`: \"{}\" is no path", item.value),
                "write a path such as \"/api\"; the query stays as it is",
            );
        }
        good.then_some(item)
    };
    let prefix = plain("prefix").map(|p| Rewrite::Prefix(p.value.trim_end_matches('/').to_owned()));
    let whole_path = plain("path").and_then(|p| template(&table, "path", &p, path));
    let to = plain("to");
    let regex = table.item::<String>("regex").and_then(|item| {
        let problems = table.problems();
        whole(&item.value)
            .map_err(|why| problems.error(item.span, format!("`regex`: {why}")))
            .ok()
    });
    let written = ["prefix", "path", "regex"]
        .into_iter()
        .filter(|key| table.has(key))
        .count();
    if written != 1 || table.has("regex") != table.has("to") {
        table.problems().error_with_hint(
            table.span(),
            "`rewrite` needs one of `prefix`, `path`, or `regex` with `to`",
            "rewrite = { prefix = \"/v2\" }",
        );
    }
    prefix
        .or(whole_path.map(Rewrite::Path))
        .or_else(|| Some(Rewrite::Regex(regex?, to?.value)))
}

/// `request_headers` or `response_headers`.
pub(super) fn read_headers(
    route: &Table<'_>,
    key: &'static str,
    direction: Direction,
    path: Option<&PathPattern>,
) -> Option<Arc<HeaderRules>> {
    let table = route.table(key, &HEADERS)?;
    let may = |name: &str, span: std::ops::Range<usize>| {
        let why = if crate::http1::is_token(name.as_bytes()) {
            untouchable(name, direction)
        } else {
            Some("it is no name of a header field")
        };
        if let Some(why) = why {
            table.problems().error_with_hint(
                span,
                format!("`{key}` can't touch {name}: {why}"),
                "remove it",
            );
        }
        why.is_none()
    };
    let remove: Vec<String> = table
        .list::<String>("remove")
        .unwrap_or_default()
        .into_iter()
        .filter(|item| may(&item.value, item.span.clone()))
        .map(|item| item.value)
        .collect();
    let fields = |which: &'static str| -> Vec<(String, Template)> {
        let Some(fields) = table.table(which, &NAMES) else {
            return Vec::new();
        };
        fields
            .entries()
            .into_iter()
            .filter(|(name, _)| may(&name.value, name.span.clone()))
            .filter_map(|(name, value)| {
                let item = fields.entry::<String>(&name.value, value)?;
                if item.value.trim() != item.value || !item.value.is_ascii() {
                    table.problems().error(
                        item.span,
                        format!(
                            "`{}`: a value is ASCII, without spaces around it",
                            name.value
                        ),
                    );
                    return None;
                }
                Some((
                    name.value.clone(),
                    template(&fields, &name.value, &item, path)?,
                ))
            })
            .collect()
    };
    Some(Arc::new(HeaderRules::new(
        remove,
        fields("set"),
        fields("add"),
    )))
}

pub(super) fn read_compression(route: &Table<'_>) -> Option<Arc<Compression>> {
    let table = route.table("compression", &COMPRESSION)?;
    let defaults = Compression::default();
    let types = table.list::<String>("types").map(|items| {
        let good = |item: &Item<String>| {
            let stars = item.value.matches('*').count();
            let form = item.value.ends_with("/*") || item.value.starts_with("*+") || stars == 0;
            let good = stars <= 1 && form && (item.value.contains('/') || stars == 1);
            if !good {
                table.problems().error_with_hint(
                    item.span.clone(),
                    format!("`types`: \"{}\" is no media type", item.value),
                    "write \"text/html\", \"text/*\" or \"*+json\"",
                );
            }
            good
        };
        let lower = |item: Item<String>| item.value.to_ascii_lowercase();
        items.into_iter().filter(good).map(lower).collect()
    });
    Some(Arc::new(Compression {
        algorithms: codings(&table, "algorithms").unwrap_or(defaults.algorithms),
        types: types.unwrap_or(defaults.types),
        size_min: table.or("size_min", Size(defaults.size_min)).bytes(),
    }))
}

pub(super) fn read_rate_limit(route: &Table<'_>) -> Option<RateLimit> {
    let table = route.table("rate_limit", &RATE_LIMIT)?;
    if !table.has("requests") {
        table.missing("requests");
    }
    let requests = table.within("requests", 1_u32, 1..=1_000_000);
    let range = Duration::from_millis(1)..=Duration::from_secs(86_400);
    let per = table.duration("per", Duration::from_secs(1), range);
    let by = match table.item::<String>("by") {
        None => LimitBy::ClientIp,
        Some(item) => match item.value.as_str() {
            "client_ip" => LimitBy::ClientIp,
            "user" => LimitBy::User,
            other => match other.strip_prefix("header.") {
                Some(name) if crate::http1::is_token(name.as_bytes()) => {
                    LimitBy::Header(name.to_owned())
                }
                _ => {
                    table.problems().error_with_hint(
                        item.span.clone(),
                        format!("`by` can't be \"{other}\""),
                        "write \"client_ip\", \"header.NAME\" or \"user\"",
                    );
                    LimitBy::ClientIp
                }
            },
        },
    };
    Some(RateLimit { requests, per, by })
}

/// `error_pages` of the gate or of a route: the files are read now, so that an error never waits
/// for a disk.
pub(super) fn read_error_pages(table: &Table<'_>) -> ErrorPages {
    let mut pages = ErrorPages::default();
    let Some(table) = table.table("error_pages", &ERROR_PAGES) else {
        return pages;
    };
    for (name, value) in table.entries() {
        let class = match name.value.as_str() {
            "4xx" => Some(4),
            "5xx" => Some(5),
            _ => None,
        };
        let status = name
            .value
            .parse::<u16>()
            .ok()
            .filter(|s| (400..=599).contains(s));
        if class.is_none() && status.is_none() {
            table.problems().error_with_hint(
                name.span,
                format!("`error_pages`: \"{}\" is no status of an error", name.value),
                "write 404, 4xx or 5xx",
            );
            continue;
        }
        let Some(file) = table.entry::<String>(&name.value, value) else {
            continue;
        };
        match read_page(&table.base().join(&file.value)) {
            Ok(page) => {
                if let Some(class) = class {
                    pages.classes.insert(class, page);
                } else if let Some(status) = status {
                    pages.exact.insert(status, page);
                }
            }
            Err(why) => table
                .problems()
                .error(file.span, format!("`error_pages`: {}: {why}", file.value)),
        }
    }
    pages
}

fn read_page(file: &std::path::Path) -> Result<Page, String> {
    let size = std::fs::metadata(file)
        .map_err(|error| error.to_string())?
        .len();
    if size > BODY_MAX {
        return Err("it is larger than 256KiB".to_owned());
    }
    let body = std::fs::read(file).map_err(|error| error.to_string())?;
    Ok(Page {
        content_type: crate::files::content_type(&file.to_string_lossy()),
        body: body.into(),
    })
}
