//! What is wrong with the opening of a WebSocket (RFC 6455 §4, RFC 8441): each fault has a code of
//! its own, told to the client, the access log and the metrics alike. docs/websocket.md has a
//! section for each. Pure.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use munjigi_foundation::telemetry::redact_target;

use crate::forwarded::Site;
use crate::http1::fields::Name;
use crate::http1::head::RequestHead;
use crate::http1::{Framing, Version, elements};
use crate::reason::{Reason, Rejection};
use crate::settings::{Protocol, WebSocketSettings};
use crate::target::text;

macro_rules! faults {
    ($($(#[$about:meta])* $name:ident = $code:literal, $word:literal, $said:literal, $hint:literal;)*) => {
        /// One fault, with its stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fault {
            $($(#[$about])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Stable: `WS` and a number.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The same as words, snake case.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What is wrong, as a part of a sentence.
            #[must_use]
            pub const fn said(self) -> &'static str {
                match self { $(Self::$name => $said,)* }
            }

            /// How to mend it.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

faults! {
    /// No sign of a handshake.
    PlainRequest = "WS001", "plain_request",
        "this address serves WebSockets only, and this is a plain request",
        "open it as a WebSocket: the scheme is ws:// or wss://, not http:// or https://";
    /// No `Upgrade`.
    UpgradeMissing = "WS002", "upgrade_missing",
        "the handshake has no `Upgrade` field",
        "send `Upgrade: websocket` and `Connection: Upgrade`";
    /// `Upgrade` names another protocol, or several.
    UpgradeWrong = "WS003", "upgrade_wrong",
        "the handshake's `Upgrade` field is not `websocket` alone",
        "send one `Upgrade: websocket`";
    /// No `Connection`.
    ConnectionMissing = "WS004", "connection_missing",
        "the handshake has no `Connection` field",
        "send `Connection: Upgrade`; a proxy on the way has to send it, too";
    /// `Connection` without `Upgrade` in it.
    ConnectionWrong = "WS005", "connection_wrong",
        "the handshake's `Connection` field does not name `Upgrade`",
        "send `Connection: Upgrade`; a proxy on the way has to send it, too";
    /// No `Sec-WebSocket-Key`.
    KeyMissing = "WS006", "key_missing",
        "the handshake has no `Sec-WebSocket-Key`",
        "send 16 random bytes in base64";
    /// A key that is not 16 bytes.
    KeyWrong = "WS007", "key_wrong",
        "the handshake's `Sec-WebSocket-Key` is not 16 bytes in base64",
        "send 16 random bytes in base64: 24 characters";
    /// More than one key.
    KeyRepeated = "WS008", "key_repeated",
        "the handshake has more than one `Sec-WebSocket-Key`",
        "send one; two often come from a proxy that adds its own";
    /// No `Sec-WebSocket-Version`.
    VersionMissing = "WS009", "version_missing",
        "the handshake has no `Sec-WebSocket-Version`",
        "send `Sec-WebSocket-Version: 13`";
    /// Another version than 13.
    VersionWrong = "WS010", "version_wrong",
        "the handshake's `Sec-WebSocket-Version` is not 13",
        "send `Sec-WebSocket-Version: 13`, the version of RFC 6455";
    /// A page that is not in `origins`.
    OriginRefused = "WS011", "origin_refused",
        "this page may not open a WebSocket here",
        "`websocket.origins` of the route lists the pages that may";
    /// Not a GET.
    MethodWrong = "WS012", "method_wrong",
        "the handshake is no GET",
        "send it as a GET";
    /// HTTP/1.0.
    OldVersion = "WS013", "http_1_0",
        "the handshake came by HTTP/1.0, which can't change its protocol",
        "speak HTTP/1.1; a proxy on the way has to, too: `proxy_http_version 1.1;` in nginx";
    /// HTTP/2 without extended CONNECT.
    NoExtendedConnect = "WS014", "http2_without_connect",
        "this address serves WebSockets only, and over HTTP/2 they are opened by an extended CONNECT",
        "send CONNECT with `:protocol` websocket (RFC 8441), or speak HTTP/1.1";
    /// A body.
    Body = "WS015", "body_in_handshake",
        "the handshake has a body",
        "send the handshake without one; frames follow the answer";
    /// A TLS hello on a port of plain HTTP.
    TlsOnPlain = "WS016", "tls_on_plain_port",
        "TLS was spoken on a port of plain HTTP",
        "use ws:// with this port, or give the listener `tls`";
    /// A plain handshake on a TLS port.
    PlainOnTls = "WS017", "plain_on_tls_port",
        "this port speaks TLS, and the handshake came in plain HTTP",
        "use wss:// in place of ws://";
    /// The backend's answer is no 101.
    NotSwitched = "WS018", "not_switched",
        "the backend answered the handshake without changing the protocol",
        "ask the backend's log; the path may be wrong, or serve no WebSockets";
    /// The backend's `Sec-WebSocket-Accept` does not fit the key.
    AcceptWrong = "WS019", "accept_wrong",
        "the backend's `Sec-WebSocket-Accept` does not fit the key",
        "something between gate and backend answers in its place, or the backend makes it from another key";
    /// A proxy on the way dropped `Upgrade` and `Connection`.
    UpgradeLost = "WS020", "upgrade_lost",
        "a proxy on the way dropped `Upgrade` and `Connection` from the handshake",
        "let it pass them on; in nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";";
    /// A backend of HTTP/2 that did not say that it takes WebSockets.
    BackendTakesNone = "WS021", "backend_takes_none",
        "the backend speaks HTTP/2 and takes no WebSockets by it (RFC 8441)",
        "switch extended CONNECT on at the backend, or reach it by HTTP/1.1: `protocol = \"http/1.1\"` for its service";
}

impl Fault {
    /// Its place in [`Fault::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Why a request with this fault is refused, where it is. The others are found once it is too
    /// late to refuse the request, and only noted.
    pub(crate) fn reason(self) -> Option<Reason> {
        Some(match self {
            Self::PlainRequest => Reason::WsPlainRequest,
            Self::UpgradeMissing => Reason::WsUpgradeMissing,
            Self::UpgradeWrong => Reason::WsUpgradeWrong,
            Self::ConnectionMissing => Reason::WsConnectionMissing,
            Self::ConnectionWrong => Reason::WsConnectionWrong,
            Self::KeyMissing => Reason::WsKeyMissing,
            Self::KeyWrong => Reason::WsKeyWrong,
            Self::KeyRepeated => Reason::WsKeyRepeated,
            Self::VersionMissing => Reason::WsVersionMissing,
            Self::VersionWrong => Reason::WsVersionWrong,
            Self::OriginRefused => Reason::WsOriginRefused,
            Self::MethodWrong => Reason::WsMethodWrong,
            Self::OldVersion => Reason::WsOldVersion,
            Self::NoExtendedConnect => Reason::WsNoExtendedConnect,
            Self::Body => Reason::WsBody,
            Self::PlainOnTls => Reason::WsPlainOnTls,
            Self::UpgradeLost => Reason::WsUpgradeLost,
            Self::TlsOnPlain | Self::NotSwitched | Self::AcceptWrong | Self::BackendTakesNone => {
                return None;
            }
        })
    }
}

/// What is wrong with a request's handshake. On a route that serves WebSockets only each request
/// should be one; elsewhere those are looked at that have a sign of it.
#[must_use]
pub(crate) fn judge(
    settings: &WebSocketSettings,
    head: &RequestHead,
    over: Protocol,
) -> Option<Fault> {
    let fields = &head.fields;
    let has_key = fields.first(Name::SecWebSocketKey).is_some();
    let wanted = settings.required || has_key || names_websocket(head);
    if !wanted {
        return None;
    }
    if over == Protocol::Http2 {
        return if opens(head) {
            version(head).or_else(|| origin(settings, head))
        } else {
            Some(Fault::NoExtendedConnect)
        };
    }
    upgrade(head, has_key)
        .or_else(|| key(head))
        .or_else(|| version(head))
        .or_else(|| origin(settings, head))
}

/// True when the request asks to become a WebSocket, in whatever else it fails.
pub(crate) fn opens(head: &RequestHead) -> bool {
    head.upgrade()
        .is_some_and(|asked| asked.eq_ignore_ascii_case(b"websocket"))
}

fn names_websocket(head: &RequestHead) -> bool {
    head.fields
        .all(Name::Upgrade)
        .flat_map(elements)
        .any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// From method to body: whether this is a request to change the protocol to WebSocket.
fn upgrade(head: &RequestHead, has_key: bool) -> Option<Fault> {
    let fields = &head.fields;
    let connection = fields.first(Name::Connection);
    let asks = fields.says_upgrade();
    let mut upgrades = fields.all(Name::Upgrade);
    match (upgrades.next(), upgrades.next()) {
        (None, _) => {
            let version = fields.named("sec-websocket-version").next();
            return Some(if has_key && !asks && came_by_proxy(head) {
                Fault::UpgradeLost
            } else if has_key || version.is_some() {
                Fault::UpgradeMissing
            } else {
                Fault::PlainRequest
            });
        }
        (Some(one), None) if one.eq_ignore_ascii_case(b"websocket") => {}
        _ => return Some(Fault::UpgradeWrong),
    }
    let body = !matches!(head.framing, Framing::None | Framing::Length(0));
    if head.version == Version::Http10 {
        Some(Fault::OldVersion)
    } else if connection.is_none() {
        Some(Fault::ConnectionMissing)
    } else if !asks {
        Some(Fault::ConnectionWrong)
    } else if head.method() != b"GET" {
        Some(Fault::MethodWrong)
    } else {
        body.then_some(Fault::Body)
    }
}

/// Signs of a proxy on the way. No client with a key speaks HTTP/1.0 or ends its connection; nginx
/// does both toward its backends unless it is told otherwise.
fn came_by_proxy(head: &RequestHead) -> bool {
    let named = |name: Name| head.fields.first(name).is_some();
    head.version == Version::Http10
        || head.fields.says_close()
        || named(Name::XForwardedFor)
        || named(Name::XForwardedProto)
        || named(Name::XForwardedHost)
        || named(Name::XForwardedOther)
        || named(Name::Forwarded)
        || ["via", "x-real-ip"]
            .iter()
            .any(|name| head.fields.named(name).next().is_some())
}

/// Who sends bits behind the last byte that are not 0 is sloppy, and understood.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn key(head: &RequestHead) -> Option<Fault> {
    let mut keys = head.fields.all(Name::SecWebSocketKey);
    match (keys.next(), keys.next()) {
        (None, _) => Some(Fault::KeyMissing),
        (Some(_), Some(_)) => Some(Fault::KeyRepeated),
        (Some(key), None) => {
            let good = key.len() == 24 && BASE64.decode(key).is_ok_and(|key| key.len() == 16);
            (!good).then_some(Fault::KeyWrong)
        }
    }
}

fn version(head: &RequestHead) -> Option<Fault> {
    let mut versions = head.fields.named("sec-websocket-version");
    match (versions.next(), versions.next()) {
        (None, _) => Some(Fault::VersionMissing),
        (Some(b"13"), None) => None,
        _ => Some(Fault::VersionWrong),
    }
}

fn origin(settings: &WebSocketSettings, head: &RequestHead) -> Option<Fault> {
    (!knows_origin(settings, head)).then_some(Fault::OriginRefused)
}

/// True unless the route lists pages and this is none of them.
pub(crate) fn knows_origin(settings: &WebSocketSettings, head: &RequestHead) -> bool {
    let Some(origins) = &settings.origins else {
        return true;
    };
    let origin = head.fields.named("origin").next();
    origin.is_some_and(|origin| {
        let mut known = origins.iter();
        known.any(|known| origin.eq_ignore_ascii_case(known.as_bytes()))
    })
}

/// Admits a request to its route, or says what is to be done in place of it.
///
/// # Errors
/// When the route serves WebSockets only, and this opens none.
pub(crate) fn admit<'h>(
    settings: &WebSocketSettings,
    fault: Option<Fault>,
    head: &'h RequestHead,
    site: impl FnOnce() -> Site<'h>,
) -> Result<(), Rejection> {
    match fault {
        Some(fault) if settings.required => Err(refuse(fault, head, site())),
        _ => Ok(()),
    }
}

/// The most of a field of the request that is repeated to its sender.
const REPEATED_MAX: usize = 200;

fn refuse(fault: Fault, head: &RequestHead, site: Site<'_>) -> Rejection {
    let Some(reason) = fault.reason() else {
        return Rejection::new(Reason::BadRequest, fault.said());
    };
    let url = address(head, site);
    let mut detail = fault.said().to_owned();
    if fault == Fault::OriginRefused && head.fields.named("origin").next().is_none() {
        detail += " (the handshake has no `Origin`)";
    }
    if fault == Fault::UpgradeLost
        && let Some(via) = head.fields.named("via").next()
    {
        let via: String = text(via).chars().take(REPEATED_MAX).collect();
        detail += &format!(" (Via: {via})");
    }
    if let Some(url) = &url {
        detail += &format!("; the WebSocket is at {url}");
    }
    let mut rejection = Rejection::new(reason, detail).hint(fault.hint());
    rejection.fault = Some(fault);
    rejection.url = url;
    rejection
}

/// Where the WebSocket is: the address of the request with the right scheme. Tokens are left out.
fn address(head: &RequestHead, site: Site<'_>) -> Option<String> {
    let host = site.host.filter(|host| !host.is_empty())?;
    let is_tls = site.scheme == "https";
    let scheme = if is_tls { "wss" } else { "ws" };
    let target = text(head.target());
    let target = redact_target(&target);
    let slash = if target.starts_with('/') { "" } else { "/" };
    Some(format!("{scheme}://{}{slash}{target}", text(host)))
}

/// True when bytes that came where TLS is spoken begin a handshake in plain HTTP.
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    let lower = bytes.to_ascii_lowercase();
    memchr::memmem::find(&lower, b"\r\nsec-websocket-key:").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::HeadLimits;

    fn head(text: &str) -> RequestHead {
        let limits = HeadLimits {
            bytes: 1 << 14,
            fields: 64,
        };
        RequestHead::parse(text.as_bytes(), limits).unwrap()
    }

    const GOOD: &str = "GET /live?a=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: https://example.com\r\n\r\n";

    fn required() -> WebSocketSettings {
        WebSocketSettings {
            required: true,
            origins: Some(vec!["https://example.com".to_owned()]),
            ..WebSocketSettings::default()
        }
    }

    fn judged(text: &str) -> Option<Fault> {
        judge(&required(), &head(text), Protocol::Http1)
    }

    #[test]
    fn codes_are_in_order_and_those_of_the_reasons() {
        for (place, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(fault.code(), format!("WS{:03}", place + 1));
            assert_eq!(fault.index(), place);
            if let Some(reason) = fault.reason() {
                assert_eq!(reason.code(), fault.code());
                assert!(matches!(reason.status(), 400 | 426), "{fault:?}");
            }
        }
    }

    #[test]
    fn each_fault_has_its_section_in_the_docs() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/websocket.md");
        let page = std::fs::read_to_string(page).unwrap();
        for fault in Fault::ALL {
            let title = format!("### {} `{}`\n", fault.code(), fault.word());
            assert!(
                page.contains(&title),
                "docs/websocket.md has no section {title}"
            );
        }
    }

    /// What is changed of a good handshake, and what is wrong with it then.
    const BROKEN: &[(&str, &str, Fault)] = &[
        ("Upgrade: websocket\r\n", "", Fault::UpgradeMissing),
        ("Upgrade: websocket", "Upgrade: foo", Fault::UpgradeWrong),
        (
            "Upgrade: websocket",
            "Upgrade: websocket, h2c",
            Fault::UpgradeWrong,
        ),
        ("Upgrade: websocket", "Upgrade: h2c", Fault::UpgradeWrong),
        ("Connection: Upgrade\r\n", "", Fault::ConnectionMissing),
        (
            "Connection: Upgrade",
            "Connection: keep-alive",
            Fault::ConnectionWrong,
        ),
        (
            "Connection: Upgrade",
            "Connection: close",
            Fault::ConnectionWrong,
        ),
        (
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "",
            Fault::KeyMissing,
        ),
        (
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZQ==",
            Fault::KeyWrong,
        ),
        (
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZQ",
            Fault::KeyWrong,
        ),
        ("dGhlIHNhbXBsZSBub25jZQ==", "", Fault::KeyWrong),
        (
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version",
            Fault::KeyRepeated,
        ),
        ("Sec-WebSocket-Version: 13\r\n", "", Fault::VersionMissing),
        ("Version: 13", "Version: 8", Fault::VersionWrong),
        ("Version: 13", "Version: 13, 8", Fault::VersionWrong),
        (
            "Origin: https://example.com",
            "Origin: https://evil.example",
            Fault::OriginRefused,
        ),
        ("Origin: https://example.com\r\n", "", Fault::OriginRefused),
        ("GET ", "POST ", Fault::MethodWrong),
        ("HTTP/1.1", "HTTP/1.0", Fault::OldVersion),
        ("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n", Fault::Body),
        (
            "\r\n\r\n",
            "\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::Body,
        ),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            "Via: 1.1 proxy\r\n",
            Fault::UpgradeLost,
        ),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            "X-Forwarded-For: 192.0.2.1\r\n",
            Fault::UpgradeLost,
        ),
        // As nginx sends it when nobody told it otherwise.
        (
            "HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
            "HTTP/1.0\r\nHost: example.com\r\nConnection: close\r\n",
            Fault::UpgradeLost,
        ),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            "",
            Fault::UpgradeMissing,
        ),
    ];

    #[test]
    fn each_fault_is_found() {
        assert_eq!(judged(GOOD), None);
        assert_eq!(
            judged(&GOOD.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n")),
            None
        );
        for (from, to, fault) in BROKEN {
            let changed = GOOD.replacen(*from, to, 1);
            assert_ne!(changed, GOOD, "{from}");
            assert_eq!(judged(&changed), Some(*fault), "{changed}");
        }
        for plain in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nVia: a\r\n\r\n",
        ] {
            assert_eq!(judged(plain), Some(Fault::PlainRequest));
        }
        let plain = head("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let fault = judge(&required(), &plain, Protocol::Http2);
        assert_eq!(fault, Some(Fault::NoExtendedConnect));
    }

    #[test]
    fn elsewhere_only_signs_of_a_handshake_count() {
        let any = WebSocketSettings::default();
        let judged = |text: &str| judge(&any, &head(text), Protocol::Http1);
        for other in [
            "GET / HTTP/1.1\r\nHost: x\r\nVia: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        ] {
            assert_eq!(judged(other), None, "{other}");
        }
        assert_eq!(judged(GOOD), None);
        let broken = GOOD.replace("Connection: Upgrade\r\n", "");
        assert_eq!(judged(&broken), Some(Fault::ConnectionMissing));
    }

    #[test]
    fn a_refusal_names_the_scheme_and_the_address_and_no_token() {
        let settings = required();
        let told = |text: &str, scheme: &'static str| {
            let head = head(text);
            let fault = judge(&settings, &head, Protocol::Http1);
            let site = || Site {
                scheme,
                host: head.host(),
            };
            admit(&settings, fault, &head, site).unwrap_err()
        };
        let plain = told(
            "GET /live?a=1&token=x HTTP/1.1\r\nHost: example.com:8443\r\n\r\n",
            "https",
        );
        let url = plain.url.as_deref();
        assert_eq!(url, Some("wss://example.com:8443/live?a=1&token=…"));
        assert!(
            plain.detail.ends_with("/live?a=1&token=…"),
            "{}",
            plain.detail
        );
        let plain = told("GET http://x?q HTTP/1.1\r\nHost: x\r\n\r\n", "http");
        assert_eq!(plain.url.as_deref(), Some("ws://x/?q"));
        let old = told("GET / HTTP/1.0\r\n\r\n", "http");
        assert_eq!(old.url, None);
        let lost = GOOD.replace(
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            "Via: 1.1 the-proxy\r\n",
        );
        assert!(told(&lost, "http").detail.contains("(Via: 1.1 the-proxy)"));
        let nowhere = GOOD.replace("Origin: https://example.com\r\n", "");
        assert!(told(&nowhere, "http").detail.contains("no `Origin`"));
    }

    #[test]
    fn a_plain_handshake_where_tls_is_spoken_is_known() {
        assert!(is_plain(GOOD.as_bytes()));
        assert!(is_plain(GOOD.to_lowercase().as_bytes()));
        assert!(!is_plain(
            b"GET /sec-websocket-key: HTTP/1.1\r\nHost: x\r\n\r\n"
        ));
    }
}
