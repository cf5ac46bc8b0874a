//! Why a request was not forwarded or a connection ended: one list for the client's problem
//! document, the access log and the metrics.

use crate::http1::BadMessage;
use crate::ws::handshake::Fault;

macro_rules! reasons {
    ($($(#[$about:meta])* $name:ident = $code:literal, $status:literal, $title:literal;)*) => {
        /// One cause, with its stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$about])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Stable, snake case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The status that a client gets when nothing was sent yet; 0 where there is no answer.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The status in words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

reasons! {
    /// The exchange went through.
    Done = "done", 0, "";
    /// The client went away, or its connection broke.
    ClientGone = "client_gone", 0, "";
    /// The client ended its side in the middle of a request.
    RequestCut = "request_cut", 400, "Bad Request";
    /// A head that has no one meaning.
    BadRequest = "bad_request", 400, "Bad Request";
    /// `Content-Length` and `Transfer-Encoding`, or one of them twice.
    AmbiguousLength = "ambiguous_length", 400, "Bad Request";
    /// A malformed chunk.
    BadChunk = "bad_chunk", 400, "Bad Request";
    /// `Host` missing, repeated, malformed.
    BadHost = "bad_host", 400, "Bad Request";
    /// A transfer coding other than chunked.
    UnknownCoding = "unknown_coding", 501, "Not Implemented";
    /// CONNECT at a gate.
    ConnectRefused = "connect_not_served", 501, "Not Implemented";
    /// Not HTTP/1.0 or 1.1.
    BadVersion = "http_version", 505, "HTTP Version Not Supported";
    /// The head is larger than `limits.head_bytes`.
    HeadTooLarge = "head_too_large", 431, "Request Header Fields Too Large";
    /// More header fields than `limits.headers`.
    TooManyHeaders = "too_many_headers", 431, "Request Header Fields Too Large";
    /// The head did not end within `limits.head`.
    HeadTimeout = "head_timeout", 408, "Request Timeout";
    /// The client sent its body slower than `rate_min`.
    RequestTooSlow = "request_too_slow", 408, "Request Timeout";
    /// The client left the response unread, slower than `rate_min`.
    ReaderTooSlow = "reader_too_slow", 0, "";
    /// The body is larger than `request_body_max`.
    BodyTooLarge = "body_too_large", 413, "Content Too Large";
    /// The IP filter refused the client.
    IpDenied = "ip_denied", 403, "Forbidden";
    /// The same with `reject = "404"`: the client is not told.
    IpHidden = "not_found", 404, "Not Found";
    /// The same, and the connection was closed.
    IpClosed = "ip_closed", 0, "";
    /// The shield banned the client.
    Banned = "banned", 403, "Forbidden";
    /// The same, and the connection was closed.
    BannedClosed = "banned_closed", 0, "";
    /// A path of `shield.deny_path`.
    DeniedPath = "denied_path", 403, "Forbidden";
    /// No route.
    NoRoute = "no_route", 404, "Not Found";
    /// `/internal/` from outside.
    InternalPath = "internal_path", 404, "Not Found";
    /// A path known with other methods.
    MethodNotAllowed = "method_not_allowed", 405, "Method Not Allowed";
    /// No file of a `files` route.
    NoFile = "no_file", 404, "Not Found";
    /// A file is not as `If-Match` or `If-Unmodified-Since` wants it.
    PreconditionFailed = "precondition_failed", 412, "Precondition Failed";
    /// A range beyond the end of a file.
    RangeRefused = "range_not_satisfiable", 416, "Range Not Satisfiable";
    /// More files are to be read than `limits.file_queue` allows.
    FilesBusy = "files_busy", 503, "Service Unavailable";
    /// A file became shorter while it was sent.
    FileCut = "file_cut", 0, "";
    /// An answer of the gate's own can't be made.
    OwnAnswerFailed = "own_answer_failed", 500, "Internal Server Error";
    /// The client's bucket of a `rate_limit` is empty.
    RateLimited = "rate_limited", 429, "Too Many Requests";
    /// More connections from one address than `connections_per_address`.
    TooManyFromAddress = "too_many_from_address", 503, "Service Unavailable";
    /// The key of a `where` is not in the request.
    WhereMissing = "where_missing", 400, "Bad Request";
    /// The key of a `where` is there twice with different values.
    WhereAmbiguous = "where_ambiguous", 400, "Bad Request";
    /// No backend ever had the value.
    NoSuchInstance = "no_such_instance", 404, "Not Found";
    /// The backend with the value was there within the last hour.
    InstanceAway = "instance_away", 503, "Service Unavailable";
    /// Two live backends with one value.
    DuplicateServerId = "duplicate_server_id", 503, "Service Unavailable";
    /// The service has no backend that may be used.
    NoBackend = "no_backend", 503, "Service Unavailable";
    /// All backends are full, and as many requests wait as `limit.queue` allows.
    QueueFull = "queue_full", 503, "Service Unavailable";
    /// No backend had room within `limit.wait`.
    QueueTimeout = "queue_timeout", 503, "Service Unavailable";
    /// Too many requests of the service failed: `breaker` gives it a rest.
    BreakerOpen = "breaker_open", 503, "Service Unavailable";
    /// An origin that may not open a WebSocket.
    OriginRefused = "origin_refused", 403, "Forbidden";
    // Broken handshakes of WebSockets: told in full by `ws::handshake::Fault`.
    /// A plain request on a route that serves WebSockets only.
    WsPlainRequest = "WS001", 426, "Upgrade Required";
    /// A handshake without `Upgrade`.
    WsUpgradeMissing = "WS002", 426, "Upgrade Required";
    /// A handshake whose `Upgrade` is not `websocket` alone.
    WsUpgradeWrong = "WS003", 426, "Upgrade Required";
    /// A handshake without `Connection`.
    WsConnectionMissing = "WS004", 426, "Upgrade Required";
    /// A handshake whose `Connection` does not name `Upgrade`.
    WsConnectionWrong = "WS005", 426, "Upgrade Required";
    /// A handshake without `Sec-WebSocket-Key`.
    WsKeyMissing = "WS006", 400, "Bad Request";
    /// A `Sec-WebSocket-Key` that is not 16 bytes in base64.
    WsKeyWrong = "WS007", 400, "Bad Request";
    /// More than one `Sec-WebSocket-Key`.
    WsKeyRepeated = "WS008", 400, "Bad Request";
    /// A handshake without `Sec-WebSocket-Version`.
    WsVersionMissing = "WS009", 426, "Upgrade Required";
    /// A `Sec-WebSocket-Version` other than 13.
    WsVersionWrong = "WS010", 426, "Upgrade Required";
    /// A handshake of a page that is not in `origins`.
    WsOriginRefused = "WS011", 400, "Bad Request";
    /// A handshake that is no GET.
    WsMethodWrong = "WS012", 400, "Bad Request";
    /// A handshake by HTTP/1.0.
    WsOldVersion = "WS013", 426, "Upgrade Required";
    /// A request by HTTP/2 that is no extended CONNECT.
    WsNoExtendedConnect = "WS014", 426, "Upgrade Required";
    /// A handshake with a body.
    WsBody = "WS015", 400, "Bad Request";
    /// A handshake in plain HTTP on a TLS port.
    WsPlainOnTls = "WS017", 400, "Bad Request";
    /// A handshake that lost `Upgrade` at a proxy on the way.
    WsUpgradeLost = "WS020", 426, "Upgrade Required";
    /// No PROXY header in time.
    ProxyHeaderTimeout = "proxy_header_timeout", 0, "";
    /// A listener that requires a PROXY header got something else.
    ProxyHeaderMissing = "proxy_header_missing", 0, "";
    /// A PROXY header that can't be read, or of another version than the listener takes.
    ProxyHeaderBad = "proxy_header_bad", 0, "";
    /// The TLS handshake did not end within `limits.handshake`.
    HandshakeTimeout = "tls_handshake_timeout", 0, "";
    /// The TLS handshake failed: no version or suite in common, or no TLS at all.
    HandshakeFailed = "tls_handshake_failed", 0, "";
    /// The client has no certificate of `client_ca`.
    ClientCertificate = "client_certificate_refused", 0, "";
    /// Plain HTTP on a TLS port.
    PlainOnTls = "plain_http_on_tls_port", 400, "Bad Request";
    /// TLS on a port of plain HTTP.
    TlsOnPlain = "tls_on_plain_port", 0, "";
    /// Too many connections on the listener.
    TooManyConnections = "too_many_connections", 503, "Service Unavailable";
    /// The backend refused the connection.
    ConnectFailed = "connect_failed", 502, "Bad Gateway";
    /// The backend did not accept the connection in time.
    ConnectTimeout = "connect_timeout", 504, "Gateway Timeout";
    /// TLS to the backend failed.
    BackendTlsFailed = "backend_tls_failed", 502, "Bad Gateway";
    /// The backend's certificate is not believed.
    BackendCertificate = "backend_certificate_refused", 502, "Bad Gateway";
    /// The backend closed before a response.
    BackendClosed = "backend_closed", 502, "Bad Gateway";
    /// The backend's answer breaks the rules of HTTP.
    BadResponse = "bad_response", 502, "Bad Gateway";
    /// The backend's 101 does not fit the request.
    BadUpgrade = "bad_upgrade", 502, "Bad Gateway";
    /// The backend's answer was cut in the middle of its body.
    ResponseCut = "response_cut", 502, "Bad Gateway";
    /// No response in time.
    ResponseTimeout = "response_timeout", 504, "Gateway Timeout";
    /// The backend fell silent in the middle of its response.
    BackendIdle = "backend_idle", 504, "Gateway Timeout";
    /// The backend stopped taking the request body.
    BackendStalled = "backend_stalled", 504, "Gateway Timeout";
    /// All streams of the backend's HTTP/2 connections are taken, and enough requests wait.
    BackendStreams = "backend_streams", 503, "Service Unavailable";
    /// An HTTP/2 connection broke the rules of its frames.
    Http2Protocol = "http2_protocol_error", 0, "";
    /// An HTTP/2 connection brought too many frames that carry nothing.
    Http2Flood = "http2_flood", 0, "";
    /// Too many streams of an HTTP/2 connection were reset.
    Http2Resets = "http2_resets", 0, "";
    /// The client's connection waited long enough for a next request.
    KeepAliveTimeout = "keep_alive_timeout", 0, "";
    /// A tunnel was silent for `websocket.idle`.
    TunnelIdle = "tunnel_idle", 0, "";
    /// A tunnel was ended by its client.
    TunnelClosedByClient = "tunnel_closed_by_client", 0, "";
    /// A tunnel was ended by its backend.
    TunnelClosedByBackend = "tunnel_closed_by_backend", 0, "";
    /// The gate shuts down.
    Draining = "draining", 503, "Service Unavailable";
}

impl Reason {
    /// Its place in [`Reason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl From<BadMessage> for Reason {
    fn from(error: BadMessage) -> Self {
        match error {
            BadMessage::LineEnd
            | BadMessage::RequestLine
            | BadMessage::StatusLine
            | BadMessage::Field
            | BadMessage::Target
            | BadMessage::TraceWithBody
            | BadMessage::Status => Self::BadRequest,
            BadMessage::HostMissing
            | BadMessage::HostRepeated
            | BadMessage::HostInvalid
            | BadMessage::HostDiffers => Self::BadHost,
            BadMessage::Version => Self::BadVersion,
            BadMessage::ContentLength
            | BadMessage::BothLengths
            | BadMessage::CodingInOldVersion
            | BadMessage::TransferEncoding => Self::AmbiguousLength,
            BadMessage::UnknownCoding => Self::UnknownCoding,
            BadMessage::HeadTooLarge => Self::HeadTooLarge,
            BadMessage::TooManyFields => Self::TooManyHeaders,
            BadMessage::Chunk | BadMessage::ChunkExtensions | BadMessage::Trailers => {
                Self::BadChunk
            }
        }
    }
}

/// A request that is not forwarded, or not to its end. Passed up through `?`; one place answers.
#[derive(Debug)]
pub(crate) struct Rejection {
    /// The cause.
    pub reason: Reason,
    /// What the client is told.
    pub detail: String,
    /// What it may do about it.
    pub hint: Option<&'static str>,
    /// Whole seconds for `Retry-After`.
    pub retry_after: Option<u64>,
    /// For 405.
    pub allow: Option<String>,
    /// What is wrong with the handshake of a WebSocket.
    pub fault: Option<Fault>,
    /// Where that WebSocket is.
    pub url: Option<String>,
}

impl Rejection {
    /// A rejection for `reason`.
    #[must_use]
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            hint: None,
            retry_after: None,
            allow: None,
            fault: None,
            url: None,
        }
    }

    /// With a hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// With `Retry-After`.
    #[must_use]
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// With what is wrong with the handshake behind it.
    #[must_use]
    pub(crate) fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Header fields that belong to it.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, String)> {
        let retry = self.retry_after.map(|s| ("Retry-After", s.to_string()));
        let allow = self.allow.clone().map(|allow| ("Allow", allow));
        let upgrade = self.reason.status() == 426;
        let upgrade = upgrade.then(|| ("Upgrade", "websocket".to_owned()));
        let version = matches!(
            self.fault,
            Some(Fault::VersionMissing | Fault::VersionWrong)
        );
        let version = version.then(|| ("Sec-WebSocket-Version", "13".to_owned()));
        let fields = retry.into_iter().chain(allow);
        fields.chain(upgrade).chain(version)
    }

    /// The RFC 9457 problem document.
    #[must_use]
    pub(crate) fn document(&self) -> Vec<u8> {
        let mut document = serde_json::json!({
            "status": self.reason.status(),
            "code": self.reason.code(),
            "title": self.reason.title(),
            "detail": self.detail,
        });
        if let Some(object) = document.as_object_mut() {
            let mut put = |key: &str, value: Option<&str>| {
                if let Some(value) = value {
                    object.insert(key.to_owned(), value.into());
                }
            };
            put("hint", self.hint);
            put("handshake", self.fault.map(Fault::code));
            put("reason", self.fault.map(Fault::word));
            put("url", self.url.as_deref());
        }
        let mut bytes = document.to_string().into_bytes();
        bytes.push(b'\n');
        bytes
    }
}

impl From<BadMessage> for Rejection {
    fn from(error: BadMessage) -> Self {
        Self::new(error.into(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_one_code() {
        let mut codes: Vec<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
    }
}
