//! What `GET /metrics` shows, in the Prometheus text format.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Phase {
    pub(crate) phase: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Run {
    pub(crate) model: String,
    /// `done`, `failed` or `stopped`.
    pub(crate) outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Why {
    pub(crate) code: &'static str,
}

/// The worker's figures.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) analyses: Family<Phase, Gauge>,
    pub(crate) free_slots: Gauge,
    pub(crate) received: Counter,
    pub(crate) refused: Family<Why, Counter>,
    pub(crate) runs: Family<Run, Counter>,
    pub(crate) findings: Counter,
    pub(crate) events_sent: Counter,
    pub(crate) posts_failed: Counter,
    pub(crate) results_served: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("munjigi_worker"),
            analyses: Family::default(),
            free_slots: Gauge::default(),
            received: Counter::default(),
            refused: Family::default(),
            runs: Family::default(),
            findings: Counter::default(),
            events_sent: Counter::default(),
            posts_failed: Counter::default(),
            results_served: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "analyses",
            "Analyses on this worker",
            metrics.analyses.clone(),
        );
        registry.register(
            "free_slots",
            "Analyses it could take now",
            metrics.free_slots.clone(),
        );
        registry.register_with_unit(
            "received",
            "Uploaded files taken to disk",
            Unit::Bytes,
            metrics.received.clone(),
        );
        registry.register(
            "refused",
            "Requests refused, by code",
            metrics.refused.clone(),
        );
        registry.register("runs", "Runs of models that ended", metrics.runs.clone());
        registry.register("findings", "Findings reported", metrics.findings.clone());
        registry.register(
            "events_sent",
            "Events stored by the hub",
            metrics.events_sent.clone(),
        );
        registry.register(
            "posts_failed",
            "Posts to be repeated",
            metrics.posts_failed.clone(),
        );
        registry.register(
            "results_served",
            "Results fetched",
            metrics.results_served.clone(),
        );
        metrics
    }

    /// As text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "metrics can't be written");
        }
        text
    }
}
