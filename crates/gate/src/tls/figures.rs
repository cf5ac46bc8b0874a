//! Handshakes, counted by what they agreed on.

use rustls::{CipherSuite, ProtocolVersion};

use crate::driver::tls::Agreed;
use crate::stats::Counter;

/// Every suite that is spoken, with its IANA name.
pub(crate) const SUITES: [(ProtocolVersion, CipherSuite, &str); 9] = {
    use CipherSuite as S;
    use ProtocolVersion::{TLSv1_2, TLSv1_3};
    [
        (
            TLSv1_3,
            S::TLS13_AES_128_GCM_SHA256,
            "TLS_AES_128_GCM_SHA256",
        ),
        (
            TLSv1_3,
            S::TLS13_AES_256_GCM_SHA384,
            "TLS_AES_256_GCM_SHA384",
        ),
        (
            TLSv1_3,
            S::TLS13_CHACHA20_POLY1305_SHA256,
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
        (
            TLSv1_2,
            S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ),
        (
            TLSv1_2,
            S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        ),
        (
            TLSv1_2,
            S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        ),
        (
            TLSv1_2,
            S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ),
        (
            TLSv1_2,
            S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        ),
        (
            TLSv1_2,
            S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        ),
    ]
};

/// A version as people write it.
pub(crate) fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "1.3",
        ProtocolVersion::TLSv1_2 => "1.2",
        _ => "other",
    }
}

/// A suite's IANA name.
pub(crate) fn suite_name(suite: CipherSuite) -> &'static str {
    SUITES
        .iter()
        .find(|(_, known, _)| *known == suite)
        .map_or("other", |(_, _, name)| name)
}

/// The handshakes of one side, of one thread.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    full: [Counter; SUITES.len()],
    resumed: [Counter; SUITES.len()],
    failed: Counter,
}

impl Handshakes {
    pub(crate) fn succeeded(&self, agreed: Agreed) {
        let place = SUITES
            .iter()
            .position(|(_, suite, _)| *suite == agreed.suite);
        let counters = if agreed.resumed {
            &self.resumed
        } else {
            &self.full
        };
        if let Some(counter) = place.and_then(|place| counters.get(place)) {
            counter.add(1);
        }
    }

    pub(crate) fn failed(&self) {
        self.failed.add(1);
    }
}

/// The handshakes of one side, of all threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct HandshakeTotals {
    /// Version, suite, whether resumed, how many; those that occurred.
    pub(crate) agreed: Vec<(&'static str, &'static str, &'static str, u64)>,
    pub(crate) failed: u64,
}

impl HandshakeTotals {
    pub(crate) fn of<'a>(sides: impl Iterator<Item = &'a Handshakes> + Clone) -> Self {
        let mut agreed = Vec::new();
        for (place, (version, _, name)) in SUITES.iter().enumerate() {
            let sum = |pick: fn(&Handshakes) -> &[Counter]| {
                let counters = sides.clone().filter_map(|side| pick(side).get(place));
                counters.map(Counter::get).sum::<u64>()
            };
            let kinds = [
                ("full", sum(|side| &side.full)),
                ("resumed", sum(|side| &side.resumed)),
            ];
            for (kind, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
                agreed.push((version_name(*version), *name, kind, count));
            }
        }
        let failed = sides.map(|side| side.failed.get()).sum();
        Self { agreed, failed }
    }
}
