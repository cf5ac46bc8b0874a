//! The keys of what `upstream` describes.

use munjigi_foundation::settings::{Key, Schema};

/// `retry = { … }`
pub(super) static RETRY: Schema = Schema {
    place: "retry = { … }",
    meaning: "when a request is sent again, to another backend where there is one",
    keys: &[
        Key::new(
            "attempts",
            "whole number",
            "2",
            "1 to 10",
            "tries in all, the first one counted",
        ),
        Key::new(
            "on",
            "list of text",
            "[\"connect\"]",
            "",
            "after which failures: \"connect\", \"502\", \"503\", \"504\", \"timeout\", \"reset\"; what reached a backend is sent again only with an idempotent method",
        ),
        Key::new(
            "body_max",
            "size",
            "\"0B\"",
            "0B to 1MiB",
            "bodies up to this size are read as a whole first, so that idempotent requests with a body can be sent again",
        ),
        Key::new(
            "budget",
            "number",
            "0.2",
            "0 to 1",
            "further tries, as a share of the service's requests of some 10 s",
        ),
        Key::new(
            "budget_min",
            "whole number",
            "10",
            "0 to 100000",
            "further tries in some 10 s that are allowed whatever the share",
        ),
    ],
};

/// `hedge = { … }`
pub(super) static HEDGE: Schema = Schema {
    place: "hedge = { … }",
    meaning: "GET and HEAD without an answer for a while are sent to a second backend, too; the first answer counts",
    keys: &[Key::new(
        "after",
        "duration",
        "",
        "1ms to 10m",
        "how long one backend is waited for alone; the second request counts as a try and against the budget of `retry`",
    )],
};

/// `sticky = { … }`
pub(super) static STICKY: Schema = Schema {
    place: "sticky = { … }",
    meaning: "a cookie that keeps a client on its backend; its value names no address",
    keys: &[
        Key::new("cookie", "text", "", "", "the cookie's name"),
        Key::new(
            "secret_file",
            "file name",
            "",
            "",
            "what the values are keyed with, the same on all gates; a key of its own, kept in `data`, when absent",
        ),
    ],
};

/// `health = { … }`
pub(super) static HEALTH: Schema = Schema {
    place: "health = { … }",
    meaning: "probes: one of `http`, `tcp`, `grpc`, `icmp`; the first one is sent at once and decides alone",
    keys: &[
        Key::new(
            "http",
            "text",
            "",
            "",
            "path of a request, over what the service speaks; over HTTP/1.1 with `port`",
        ),
        Key::new(
            "method",
            "text",
            "\"GET\"",
            "",
            "its method: GET, HEAD or OPTIONS",
        ),
        Key::new(
            "host",
            "text",
            "",
            "",
            "its Host; the backend's address when absent",
        ),
        Key::new(
            "status",
            "list of text",
            "[\"200-399\"]",
            "",
            "good answers, such as \"200\" or \"200-299\"",
        ),
        Key::new(
            "tcp",
            "true or false",
            "false",
            "",
            "does it take a connection",
        ),
        Key::new(
            "grpc",
            "text",
            "",
            "",
            "grpc.health.v1 of this service; \"\" for the server as a whole",
        ),
        Key::new(
            "icmp",
            "true or false",
            "false",
            "",
            "does the machine answer a ping; needs net.ipv4.ping_group_range or CAP_NET_RAW",
        ),
        Key::new(
            "port",
            "whole number",
            "",
            "1 to 65535",
            "where probes go; that of the requests when absent",
        ),
        Key::new(
            "interval",
            "duration",
            "\"2s\"",
            "50ms to 1h",
            "from one probe to the next, a tenth more or less",
        ),
        Key::new(
            "timeout",
            "duration",
            "\"1s\"",
            "10ms to 10m",
            "for one probe",
        ),
        Key::new(
            "rise",
            "whole number",
            "2",
            "1 to 100",
            "good probes in a row until a backend gets requests again",
        ),
        Key::new(
            "fall",
            "whole number",
            "3",
            "1 to 100",
            "bad probes in a row until it gets none",
        ),
    ],
};

/// `ejection = { … }`
pub(super) static EJECTION: Schema = Schema {
    place: "ejection = { … }",
    meaning: "leaves out backends that fail real requests: connect error, reset, timeout, or 502, 503, 504 without Retry-After",
    keys: &[
        Key::new(
            "consecutive_failures",
            "whole number",
            "5",
            "1 to 10000",
            "failures in a row",
        ),
        Key::new("for", "duration", "\"10s\"", "10ms to 1h", "how long"),
        Key::new(
            "at_most",
            "number",
            "0.5",
            "0 to 1",
            "largest share of the backends that are left out at once, rounded down",
        ),
    ],
};

/// `limit = { … }`
pub(super) static LIMIT: Schema = Schema {
    place: "limit = { … }",
    meaning: "requests in flight at one backend; what finds all of them full waits: 503 `queue_full`, `queue_timeout`",
    keys: &[
        Key::new(
            "requests",
            "whole number",
            "",
            "1 to 1000000",
            "at each backend, over all threads; a tunnel counts for its whole life",
        ),
        Key::new(
            "queue",
            "whole number",
            "100",
            "0 to 100000",
            "requests of the service that may wait",
        ),
        Key::new(
            "wait",
            "duration",
            "\"5s\"",
            "1ms to 10m",
            "how long each may wait",
        ),
    ],
};

/// `breaker = { … }`
pub(super) static BREAKER: Schema = Schema {
    place: "breaker = { … }",
    meaning: "answers 503 `breaker_open` for a while when too many requests of the service fail (as for `ejection`)",
    keys: &[
        Key::new(
            "failures",
            "number",
            "0.5",
            "0 to 1",
            "share of failed requests that opens it",
        ),
        Key::new(
            "requests_min",
            "whole number",
            "20",
            "1 to 1000000",
            "requests below which nothing is judged",
        ),
        Key::new(
            "within",
            "duration",
            "\"10s\"",
            "100ms to 1h",
            "the time that is looked at",
        ),
        Key::new(
            "for",
            "duration",
            "\"5s\"",
            "10ms to 1h",
            "how long it stays open; then one request tries, and decides",
        ),
    ],
};

/// One of `backends`.
pub(super) static BACKEND: Schema = Schema {
    place: "backends = [{ … }]",
    meaning: "one backend",
    keys: &[
        Key::new("address", "address", "", "", "where it listens"),
        Key::new("weight", "whole number", "1", "1 to 1000", "its share"),
        Key::new(
            "backup",
            "true or false",
            "false",
            "",
            "only when no other is there",
        ),
        Key::new(
            "priority",
            "whole number",
            "0",
            "0 to 1000",
            "those with a lower number are asked first",
        ),
        Key::new(
            "zone",
            "text",
            "",
            "",
            "where it is; those in the gate's own `zone` come first in their priority",
        ),
    ],
};
