//! Every key of `[gate]`, with default, limit and meaning; also those that a later version builds.

use munjigi_foundation::settings::{Key, Schema};
use munjigi_foundation::tls;

use super::discovery::{self, DNS};
use super::ip_filter::{IP_FILE, IP_FILTER};
use super::trace::TRACE;
use super::upstream_schema::{BACKEND, BREAKER, EJECTION, HEALTH, HEDGE, LIMIT, RETRY, STICKY};
use super::{actions, conditions};

/// `[gate]`
pub(super) static GATE: Schema = Schema {
    place: "[gate]",
    meaning: "the edge: takes connections, finds the service of a request, forwards it",
    keys: &[
        Key::new(
            "threads",
            "whole number",
            "",
            "1 to 256",
            "event loops; one per core when absent",
        ),
        Key::new(
            "access_log",
            "text",
            "\"off\"",
            "",
            "one JSON line for each request: \"off\", \"stdout\", or a file",
        ),
        Key::new(
            "data",
            "file name",
            "\"gate-data\"",
            "",
            "folder for what must outlive a restart: uptime, the key of sticky cookies",
        ),
        Key::new(
            "zone",
            "text",
            "",
            "",
            "where this gate is: backends of the same zone come first in their priority",
        ),
        Key::new("listener", "tables", "", "1 to 64", "where clients connect"),
        Key::new(
            "client_ip",
            "table",
            "",
            "",
            "whose word on the client's address counts",
        ),
        Key::new(
            "route",
            "tables",
            "",
            "0 to 100000",
            "which requests go to which service",
        ),
        Key::new(
            "service",
            "tables by name",
            "",
            "",
            "where the backends of a service are",
        ),
        Key::new(
            "error_pages",
            "table",
            "",
            "files up to 256KiB",
            "pages in place of problem documents, for all routes",
        ),
        Key::new("registry", "table", "", "", "where services are looked up"),
        Key::new(
            "admin",
            "table",
            "",
            "",
            "the gate's own face for operators",
        ),
        Key::new(
            "trace",
            "table",
            "",
            "",
            "where traces go; nowhere when absent",
        ),
        Key::new("limits", "table", "", "", "limits of connections and heads"),
        Key::new(
            "ip_filter",
            "table",
            "",
            "",
            "who may come in; all when absent",
        ),
        Key::later("shield", "bans scanners"),
        Key::later("forward", "the forward proxy"),
        Key::later("ha", "an address shared by two gates"),
        Key::later("acme", "certificates from an authority"),
    ],
};

/// `[[gate.listener]]`
pub(super) static LISTENER: Schema = Schema {
    place: "[[gate.listener]]",
    meaning: "an address where clients connect",
    keys: &[
        Key::new("name", "text", "", "", "what routes call it"),
        Key::new(
            "address",
            "address",
            "",
            "",
            "where it listens; port 0 takes a free one",
        ),
        Key::new(
            "protocols",
            "list of text",
            "[\"http/1.1\"]",
            "",
            "what it speaks: \"http/1.1\", \"h2\" (over TLS by ALPN, else by the first bytes); or \"tcp\" or \"udp\" alone",
        ),
        Key::new(
            "connections_max",
            "whole number",
            "10000",
            "1 to 1000000",
            "connections at once; one more gets 503 and is closed",
        ),
        Key::new(
            "proxy_protocol",
            "text",
            "\"off\"",
            "",
            "the PROXY header that must name the client before its first byte: \"v1\", \"v2\", \"any\" or \"off\"; believed from `client_ip.trusted` alone",
        ),
        Key::new(
            "tls",
            "table",
            "",
            "",
            "speaks TLS alone, with these certificates",
        ),
        Key::new(
            "connections_per_address",
            "whole number",
            "",
            "1 to 1000000",
            "of these, how many one address may have (of IPv6 one /64; trusted peers any); one more gets 503 and is closed",
        ),
        Key::new(
            "service",
            "text",
            "",
            "",
            "where the bytes of a listener with \"tcp\" or \"udp\" go",
        ),
        Key::new(
            "timeout",
            "table",
            "",
            "",
            "limits of a listener with \"tcp\" or \"udp\"",
        ),
        Key::new(
            "attempts",
            "whole number",
            "2",
            "1 to 10",
            "backends that are tried for one connection of a listener with \"tcp\"",
        ),
    ],
};

/// `timeout = { … }` of a listener.
pub(super) static LINE_TIMEOUT: Schema = Schema {
    place: "[[gate.listener]] timeout = { … }",
    meaning: "limits of a listener with \"tcp\" or \"udp\"",
    keys: &[
        Key::new(
            "connect",
            "duration",
            "\"5s\"",
            "1ms to 10m",
            "until a connection to the backend stands; then another one is tried",
        ),
        Key::new(
            "idle",
            "duration",
            "\"10m\", for udp \"60s\"",
            "10ms to 30d",
            "silence in both directions that ends a connection, or a session",
        ),
    ],
};

/// `[gate.client_ip]`
pub(super) static CLIENT_IP: Schema = Schema {
    place: "[gate.client_ip]",
    meaning: "whose word on the client's address counts",
    keys: &[Key::new(
        "trusted",
        "list of networks",
        "[]",
        "",
        "peers whose X-Forwarded-* and Forwarded are kept and believed",
    )],
};

/// `[[gate.route]]`
pub(super) static ROUTE: Schema = Schema {
    place: "[[gate.route]]",
    meaning: "which requests go to which service; the most specific wins",
    keys: &[
        Key::new(
            "name",
            "text",
            "",
            "",
            "what logs and metrics call it; the service's name when absent",
        ),
        Key::new(
            "listener",
            "list of text",
            "",
            "",
            "only requests of these listeners; all when absent",
        ),
        Key::new(
            "host",
            "list of text",
            "",
            "",
            "only these hosts, exact or \"*.example.com\"; all when absent",
        ),
        Key::new(
            "path",
            "text",
            "",
            "",
            "prefix on a segment border; {name} stands for one segment",
        ),
        Key::new("path_exact", "text", "", "", "this path alone"),
        Key::new(
            "path_regex",
            "text",
            "",
            "",
            "a regular expression that the whole path must match",
        ),
        Key::new(
            "method",
            "list of text",
            "",
            "",
            "only these methods (GET includes HEAD); all when absent",
        ),
        Key::new(
            "header",
            "table",
            "",
            "up to 32 with `query`",
            "only requests with these header fields; a text is the exact value",
        ),
        Key::new(
            "query",
            "table",
            "",
            "",
            "only requests with these parameters; a text is the exact value",
        ),
        Key::new(
            "service",
            "text",
            "",
            "",
            "where the requests go; or one of `redirect`, `respond` and `files`",
        ),
        Key::new(
            "where",
            "text",
            "",
            "",
            "only the backend whose metadata matches: metadata.KEY = query.NAME, header.NAME, cookie.NAME or {name}",
        ),
        Key::new(
            "where_missing",
            "text",
            "\"reject\"",
            "",
            "when the request names none: \"reject\" (400) or \"balance\" (any backend)",
        ),
        Key::new("websocket", "table", "", "", "rules for tunnels"),
        Key::new("timeout", "table", "", "", "limits of each phase"),
        Key::new(
            "request_body_max",
            "size",
            "",
            "",
            "largest request body; no limit when absent",
        ),
        Key::new("retry", "table", "", "", "when a request is sent again"),
        Key::new(
            "hedge",
            "table",
            "",
            "",
            "asks a second backend when the first is slow",
        ),
        Key::later("cache", "keeps responses"),
        Key::new(
            "strip_prefix",
            "true or false",
            "false",
            "",
            "takes the route's `path` away before the request is forwarded",
        ),
        Key::new("rewrite", "table", "", "", "changes the path"),
        Key::new("redirect", "table", "", "", "sends the client elsewhere"),
        Key::new("respond", "table", "", "", "answers by itself"),
        Key::new("files", "table", "", "", "serves a folder"),
        Key::new(
            "request_headers",
            "table",
            "",
            "",
            "changes the fields of requests",
        ),
        Key::new(
            "response_headers",
            "table",
            "",
            "",
            "changes the fields of responses, the gate's own ones included",
        ),
        Key::new("compression", "table", "", "", "compresses responses"),
        Key::new("rate_limit", "table", "", "", "requests per time"),
        Key::new(
            "error_pages",
            "table",
            "",
            "files up to 256KiB",
            "pages in place of problem documents; before those of [gate]",
        ),
    ],
};

/// `websocket = { … }`
pub(super) static WEBSOCKET: Schema = Schema {
    place: "websocket = { … }",
    meaning: "rules for tunnels",
    keys: &[
        Key::new(
            "idle",
            "duration",
            "\"1h\"",
            "1s to 30d",
            "how long a tunnel may be silent in both directions",
        ),
        Key::new(
            "origins",
            "list of text",
            "",
            "",
            "pages that may open it; not checked when absent",
        ),
        Key::new(
            "ping",
            "duration",
            "",
            "100ms to 1d",
            "pings each side that was silent, or not spoken to, for so long; its answers are swallowed; off when absent",
        ),
        Key::new(
            "required",
            "true or false",
            "false",
            "",
            "serves WebSockets only: any other request gets 426 or 400 with its own code (docs/websocket.md)",
        ),
    ],
};

/// `timeout = { … }`
pub(super) static TIMEOUT: Schema = Schema {
    place: "timeout = { … }",
    meaning: "limits of each phase: of progress, never of a whole body",
    keys: &[
        Key::new(
            "connect",
            "duration",
            "\"5s\"",
            "1ms to 10m",
            "until a connection to the backend stands: 504",
        ),
        Key::new(
            "response",
            "duration",
            "\"60s\"",
            "1ms to 30d",
            "from the end of the request to the head of the response: 504",
        ),
        Key::new(
            "idle",
            "duration",
            "\"60s\"",
            "1ms to 30d",
            "without a byte from the backend, or without room at it: 504 or close",
        ),
        Key::new(
            "rate_min",
            "rate",
            "\"240B/s\"",
            "",
            "slowest client, over any 15 s while it owes bytes or leaves them unread: 408 or close; \"off\" for none",
        ),
    ],
};

/// `[gate.service.NAME]`
pub(super) static SERVICE: Schema = Schema {
    place: "[gate.service.NAME]",
    meaning: "where the backends of a service are, and how one is chosen",
    keys: &[
        discovery::KEYS[0],
        discovery::KEYS[1],
        discovery::KEYS[2],
        Key::new(
            "networks",
            "list of networks",
            "",
            "",
            "discovered addresses outside are refused; all are good when absent",
        ),
        Key::new(
            "protocol",
            "text",
            "\"http/1.1\"",
            "",
            "what the backends speak: \"http/1.1\", or \"h2\" (over TLS by ALPN, else by prior knowledge; needed for gRPC)",
        ),
        Key::new(
            "balance",
            "text",
            "\"round_robin\"",
            "",
            "\"round_robin\", \"least_requests\", \"random\", \"two_random\", \"least_time\", \"peak_ewma\" or \"consistent_hash\", each weighted",
        ),
        Key::new(
            "backends",
            "list of tables",
            "",
            "1 to 10000",
            "the backends of a static service",
        ),
        Key::new("tls", "table", "", "", "verified TLS to the backends"),
        Key::new(
            "proxy_protocol",
            "text",
            "\"off\"",
            "",
            "the PROXY header that names the client to backends: \"v1\", \"v2\" or \"off\"; each request has a connection of its own then",
        ),
        Key::new(
            "hash",
            "text",
            "\"client_ip\"",
            "",
            "what consistent_hash looks at: \"client_ip\", \"path\", \"header.NAME\", \"cookie.NAME\" or \"query.NAME\"",
        ),
        Key::new(
            "sticky",
            "table",
            "",
            "",
            "a cookie that keeps a client on its backend",
        ),
        Key::new("health", "table", "", "", "probes"),
        Key::new("ejection", "table", "", "", "leaves out backends that fail"),
        Key::new(
            "slow_start",
            "duration",
            "",
            "10ms to 1h",
            "how long the share of a backend that came back grows from a tenth to its whole",
        ),
        Key::new(
            "limit",
            "table",
            "",
            "",
            "requests in flight at one backend, and a queue",
        ),
        Key::new("breaker", "table", "", "", "gives a failing service a rest"),
        Key::new(
            "panic_below",
            "number",
            "0",
            "0 to 1",
            "with a smaller share of good backends than this, health and ejection are ignored",
        ),
    ],
};

/// `[gate.registry]`
pub(super) static REGISTRY: Schema = Schema {
    place: "[gate.registry]",
    meaning: "where services without static backends are looked up",
    keys: &[
        Key::new(
            "urls",
            "list of text",
            "",
            "1 to 16",
            "Eureka-compatible registries, asked in this order",
        ),
        Key::new(
            "ca_file",
            "file name",
            "",
            "",
            "PEM: the only authorities that are believed at https urls; those of the system when absent",
        ),
        Key::new(
            "embedded",
            "true or false",
            "false",
            "",
            "the registry of this process",
        ),
        Key::new(
            "refresh",
            "duration",
            "\"1s\"",
            "100ms to 5m",
            "how often the registry is asked",
        ),
    ],
};

/// `[gate.admin]`
pub(super) static ADMIN: Schema = Schema {
    place: "[gate.admin]",
    meaning: "the gate's own face for operators",
    keys: &[
        Key::new(
            "socket",
            "file name",
            "\"admin.sock\"",
            "",
            "a Unix socket, mode 0600",
        ),
        Key::new(
            "address",
            "address",
            "",
            "",
            "also on TCP; needs `token_file`",
        ),
        Key::new(
            "token_file",
            "file name",
            "",
            "",
            "holds the token that TCP requests must carry",
        ),
    ],
};

/// `[gate.limits]`
pub(super) static LIMITS: Schema = Schema {
    place: "[gate.limits]",
    meaning: "limits of connections and heads",
    keys: &[
        Key::new(
            "head_bytes",
            "size",
            "\"32KiB\"",
            "1KiB to 192KiB",
            "largest head, of a request (431) or a response (502)",
        ),
        Key::new(
            "headers",
            "whole number",
            "100",
            "1 to 256",
            "most header fields, of a request (431) or a response (502)",
        ),
        Key::new(
            "head",
            "duration",
            "\"30s\"",
            "100ms to 10m",
            "from the first byte of a head to its end: 408",
        ),
        Key::new(
            "handshake",
            "duration",
            "\"10s\"",
            "100ms to 10m",
            "from a new connection to the end of its PROXY header and TLS handshake",
        ),
        Key::new(
            "keep_alive",
            "duration",
            "\"75s\"",
            "100ms to 1h",
            "how long a client's connection may wait for its next request",
        ),
        Key::new(
            "backend_idle",
            "duration",
            "\"4s\"",
            "100ms to 10m",
            "how long a backend's connection is kept for the next request; below what backends allow",
        ),
        Key::new(
            "backend_idle_max",
            "whole number",
            "1024",
            "0 to 10000",
            "connections kept for one backend by one thread",
        ),
        Key::new(
            "backends_max",
            "whole number",
            "10000",
            "1 to 100000",
            "backends of one service; more are left out",
        ),
        Key::new(
            "access_log_lines",
            "whole number",
            "8192",
            "16 to 1000000",
            "lines that may wait to be written; more are dropped and counted",
        ),
        Key::new(
            "rate_limit_keys",
            "whole number",
            "100000",
            "1000 to 10000000",
            "clients that one route's rate limit tells apart; the fullest bucket makes room",
        ),
        Key::new(
            "compressions_max",
            "whole number",
            "256",
            "0 to 100000",
            "responses compressed at once, each with up to 1 MiB; more go as they are",
        ),
        Key::new(
            "file_threads",
            "whole number",
            "4",
            "1 to 64",
            "threads that open and read files for `files`",
        ),
        Key::new(
            "file_queue",
            "whole number",
            "1024",
            "1 to 100000",
            "files that may wait for such a thread: 503",
        ),
        Key::new(
            "http2_streams",
            "whole number",
            "128",
            "1 to 10000",
            "requests at once on one HTTP/2 connection; more are refused (REFUSED_STREAM)",
        ),
        Key::new(
            "http2_window",
            "size",
            "\"256KiB\"",
            "64KiB to 16MiB",
            "bytes of one HTTP/2 body that may wait in the gate for the other side",
        ),
        Key::new(
            "http2_connection_window",
            "size",
            "\"1MiB\"",
            "64KiB to 256MiB",
            "bytes of all bodies of one HTTP/2 connection that may",
        ),
        Key::new(
            "http2_resets",
            "whole number",
            "200",
            "1 to 1000000",
            "streams that a client may reset, or make the gate reset, in 10 s: then its connection is closed",
        ),
        Key::new(
            "http2_frames",
            "whole number",
            "1000",
            "10 to 1000000",
            "frames of a connection in 10 s that carry nothing (PING, SETTINGS, empty DATA), beyond those that go with data: then it is closed",
        ),
        Key::new(
            "http2_backend_connections",
            "whole number",
            "4",
            "1 to 256",
            "HTTP/2 connections to one backend, of each thread",
        ),
        Key::new(
            "http2_backend_queue",
            "whole number",
            "1024",
            "1 to 1000000",
            "requests that may wait for a stream of one HTTP/2 backend, in each thread: more get 503",
        ),
        Key::new(
            "http2_ping",
            "duration",
            "\"20s\"",
            "100ms to 1h",
            "silence of an HTTP/2 backend with requests under way, after which it is asked for a sign",
        ),
        Key::new(
            "drain",
            "duration",
            "\"10s\"",
            "100ms to 1h",
            "how long requests in flight may take at the end (SIGTERM); then they are cut",
        ),
        Key::new(
            "drain_max",
            "duration",
            "\"1h\"",
            "100ms to 30d",
            "how long tunnels go on after another process took over (SIGUSR2); then they get 1001",
        ),
    ],
};

/// All tables of the gate, for `munjigi settings gate`.
pub static ALL: &[&Schema] = &[
    &GATE,
    &LISTENER,
    &LINE_TIMEOUT,
    &CLIENT_IP,
    &ROUTE,
    &conditions::HEADER,
    &conditions::QUERY,
    &conditions::TEST,
    &actions::REWRITE,
    &actions::REDIRECT,
    &actions::RESPOND,
    &actions::FILES,
    &actions::HEADERS,
    &actions::COMPRESSION,
    &actions::RATE_LIMIT,
    &actions::ERROR_PAGES,
    &WEBSOCKET,
    &TIMEOUT,
    &RETRY,
    &HEDGE,
    &SERVICE,
    &BACKEND,
    &DNS,
    &TRACE,
    &STICKY,
    &HEALTH,
    &EJECTION,
    &LIMIT,
    &BREAKER,
    &REGISTRY,
    &ADMIN,
    &LIMITS,
    &tls::SERVER,
    &tls::PAIR,
    &tls::TRUST,
    &IP_FILTER,
    &IP_FILE,
];
