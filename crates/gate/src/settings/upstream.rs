//! What `[gate.service.NAME]` and a route's `retry` and `hedge` say about backends: how one is
//! chosen, probed, left out, spared, and when a request is sent again.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use munjigi_foundation::settings::Secret;

/// How a backend is chosen. All respect the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest requests in flight.
    LeastRequests,
    /// Any.
    Random,
    /// Of two any, the one with fewer requests in flight.
    TwoRandom,
    /// The one with the least product of time to answer and requests in flight.
    LeastTime,
    /// Of two any, the one with the lower cost: its worst recent time to answer, fading with time,
    /// by its requests in flight.
    PeakEwma,
    /// The one that a hash of the request leads to, unless it has far more than its share.
    ConsistentHash,
}

impl Balance {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::LeastRequests,
        Self::Random,
        Self::TwoRandom,
        Self::LeastTime,
        Self::PeakEwma,
        Self::ConsistentHash,
    ];

    /// As the settings call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastRequests => "least_requests",
            Self::Random => "random",
            Self::TwoRandom => "two_random",
            Self::LeastTime => "least_time",
            Self::PeakEwma => "peak_ewma",
            Self::ConsistentHash => "consistent_hash",
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What `consistent_hash` looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HashSource {
    /// The client's address.
    #[default]
    ClientIp,
    /// A header field.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A parameter of the query.
    Query(String),
    /// The path as it came.
    Path,
}

impl HashSource {
    /// Reads `client_ip`, `path`, `header.NAME`, `cookie.NAME` or `query.NAME`.
    #[must_use]
    pub fn parse(written: &str) -> Option<Self> {
        let named = |prefix: &str| {
            let name = written.strip_prefix(prefix)?;
            (!name.is_empty()).then(|| name.to_owned())
        };
        match written {
            "client_ip" => Some(Self::ClientIp),
            "path" => Some(Self::Path),
            _ => named("header.")
                .map(Self::Header)
                .or_else(|| named("cookie.").map(Self::Cookie))
                .or_else(|| named("query.").map(Self::Query)),
        }
    }
}

/// A share between 0 and 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    const WHOLE: u32 = 1_000_000;

    /// The share nearest to `value`, which is cut to 0 and 1.
    #[must_use]
    pub fn new(value: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "cut to 0 and 1 before; no number is 0"
        )]
        Self((value.clamp(0.0, 1.0) * f64::from(Self::WHOLE)).round() as u32)
    }

    /// So many of `count`, rounded down.
    #[must_use]
    pub fn of(self, count: usize) -> usize {
        let part = count as u128 * u128::from(self.0) / u128::from(Self::WHOLE);
        usize::try_from(part).unwrap_or(count)
    }

    /// Between 0 and 1.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }
}

/// Which backends are asked first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Only when no other is there.
    pub backup: bool,
    /// Lower ones are asked first.
    pub priority: u32,
    /// Backends in the gate's own zone come before the others of their priority.
    pub zone: Option<String>,
}

/// `sticky = { … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickySettings {
    /// The cookie's name.
    pub cookie: String,
    /// What its values are keyed with; one of the gate's own when absent.
    pub secret: Option<Secret>,
}

/// `health = { … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// What is asked.
    pub probe: Probe,
    /// Another port than that of the requests.
    pub port: Option<u16>,
    /// From one probe to the next, a tenth more or less.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Good probes in a row until a backend gets requests again.
    pub rise: u32,
    /// Bad probes in a row until it gets none.
    pub fall: u32,
}

impl HealthSettings {
    /// Such probes with the default times.
    #[must_use]
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A request over HTTP/1.1.
    Http(HttpProbe),
    /// Does it take a connection?
    Tcp,
    /// `grpc.health.v1.Health/Check` of this service; the server as a whole when empty.
    Grpc(String),
    /// An echo request.
    Icmp,
}

/// `health = { http = "/health", … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Path and query.
    pub path: String,
    /// In capitals.
    pub method: String,
    /// The `Host` field; the backend's address when absent.
    pub host: Option<String>,
    /// Good answers.
    pub statuses: Vec<RangeInclusive<u16>>,
}

impl HttpProbe {
    /// GET of `path`; any 2xx or 3xx is good.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            method: "GET".to_owned(),
            host: None,
            statuses: vec![200..=399],
        }
    }
}

/// `ejection = { … }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionSettings {
    /// Failures in a row after which a backend is left out.
    pub consecutive_failures: u32,
    /// For how long.
    pub time: Duration,
    /// Most backends of the service that are left out at once.
    pub at_most: Share,
}

impl Default for EjectionSettings {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            time: Duration::from_secs(10),
            at_most: Share::new(0.5),
        }
    }
}

/// `limit = { … }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// Requests in flight at one backend, over all threads.
    pub requests: u32,
    /// Requests that may wait while all backends have as many.
    pub queue: usize,
    /// How long each may wait.
    pub wait: Duration,
}

impl LimitSettings {
    /// A limit with the default queue.
    #[must_use]
    pub fn new(requests: u32) -> Self {
        Self {
            requests,
            queue: 100,
            wait: Duration::from_secs(5),
        }
    }
}

/// `breaker = { … }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Share of failures that opens it.
    pub failures: Share,
    /// Requests below which nothing is judged.
    pub requests_min: u32,
    /// The time that is looked at.
    pub within: Duration,
    /// How long it stays open before one request may try again.
    pub time: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: Share::new(0.5),
            requests_min: 20,
            within: Duration::from_secs(10),
            time: Duration::from_secs(5),
        }
    }
}

/// `retry = { … }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySettings {
    /// Tries in all, the first one counted.
    pub attempts: u32,
    /// After which failures.
    pub on: RetryOn,
    /// Bodies up to this size are read as a whole, so that they can be sent again; 0 for none.
    pub body_max: usize,
    /// Further tries by share of the requests of some ten seconds.
    pub budget: Share,
    /// Further tries in some ten seconds that are allowed whatever the share.
    pub budget_min: u32,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn::CONNECT,
            body_max: 0,
            budget: Share::new(0.2),
            budget_min: 10,
        }
    }
}

/// A set of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u8);

impl RetryOn {
    /// The connection could not be made.
    pub const CONNECT: Self = Self(1);
    /// The backend answered 502.
    pub const STATUS_502: Self = Self(2);
    /// The backend answered 503.
    pub const STATUS_503: Self = Self(4);
    /// The backend answered 504.
    pub const STATUS_504: Self = Self(8);
    /// No answer within `timeout.response`.
    pub const TIMEOUT: Self = Self(16);
    /// The connection ended before an answer.
    pub const RESET: Self = Self(32);

    /// Each by the name that the settings use.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("connect", Self::CONNECT),
        ("502", Self::STATUS_502),
        ("503", Self::STATUS_503),
        ("504", Self::STATUS_504),
        ("timeout", Self::TIMEOUT),
        ("reset", Self::RESET),
    ];

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True when `other` is among them.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What an answer with `status` is.
    #[must_use]
    pub const fn of_status(status: u16) -> Option<Self> {
        match status {
            502 => Some(Self::STATUS_502),
            503 => Some(Self::STATUS_503),
            504 => Some(Self::STATUS_504),
            _ => None,
        }
    }
}
