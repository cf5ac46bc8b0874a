//! Who may come in: the rules of `[gate.ip_filter]` at work. A peer is judged when it connects, and
//! the client that a request comes from when its head is read; a peer in `trusted` only by what it
//! names. Files of rules are watched; new rules are compiled beside the loops and swapped in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use munjigi_ipfilter::{RuleSet, Verdict};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::pipeline::Stop;
use crate::reason::{Reason, Rejection};
use crate::settings::{Complaint, IpFilterSettings, Refused, Reject};
use crate::shard::Shard;
use crate::snapshot::Snapshot;

/// Problems of refused files that are kept for operators; the rest is counted.
const PROBLEMS_MAX: usize = 1_000;
/// Rules that the admin face lists, those with the most refusals first.
const TOP: usize = 100;

/// The filter of one gate.
#[derive(Debug)]
pub(crate) struct Filter {
    settings: IpFilterSettings,
    loaded: ArcSwap<Loaded>,
    figures: Arc<Figures>,
}

/// Rules with what they have done so far.
#[derive(Debug)]
struct Loaded {
    rules: Arc<RuleSet>,
    /// For each thread, by [`RuleSet::place`]: only rules that decided take room.
    decided: Vec<Mutex<HashMap<usize, u64>>>,
}

/// How often the gate judged, of one thread: allowed by a rule, by default, denied by a rule, by
/// default.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Verdicts([AtomicU64; 4]);

/// Names of the four, as metrics have them.
pub(crate) const VERDICTS: [(&str, &str); 4] = [
    ("allow", "rule"),
    ("allow", "default"),
    ("deny", "rule"),
    ("deny", "default"),
];

/// What stays when rules change.
#[derive(Debug, Default)]
struct Figures {
    verdicts: Vec<Verdicts>,
    reloads: AtomicU64,
    refused_reloads: AtomicU64,
    /// Of the last reload, when it was refused.
    problems: Mutex<Vec<String>>,
}

impl Figures {
    fn new(threads: usize) -> Self {
        Self {
            verdicts: (0..threads.max(1)).map(|_| Verdicts::default()).collect(),
            ..Self::default()
        }
    }

    fn verdicts(&self) -> [u64; 4] {
        std::array::from_fn(|kind| {
            let of_threads = self.verdicts.iter().filter_map(|thread| thread.0.get(kind));
            of_threads.map(|count| count.load(Ordering::Relaxed)).sum()
        })
    }
}

impl Loaded {
    fn new(rules: Arc<RuleSet>, threads: usize) -> Arc<Self> {
        Arc::new(Self {
            rules,
            decided: (0..threads.max(1)).map(|_| Mutex::default()).collect(),
        })
    }

    /// How often each rule decided.
    fn counts(&self) -> HashMap<usize, u64> {
        let mut all = HashMap::new();
        for thread in &self.decided {
            let counts = thread.lock().unwrap_or_else(PoisonError::into_inner);
            for (place, count) in &*counts {
                *all.entry(*place).or_default() += count;
            }
        }
        all
    }
}

impl Filter {
    /// The filter of `settings`; with the figures of `previous`.
    pub(crate) fn new(
        settings: &IpFilterSettings,
        threads: usize,
        previous: Option<&Self>,
    ) -> Arc<Self> {
        Arc::new(Self {
            loaded: ArcSwap::new(Loaded::new(settings.rules.load_full(), threads)),
            figures: previous.map_or_else(
                || Arc::new(Figures::new(threads)),
                |filter| Arc::clone(&filter.figures),
            ),
            settings: settings.clone(),
        })
    }

    /// The rules that are in force.
    pub(crate) fn rules(&self) -> Arc<RuleSet> {
        Arc::clone(&self.loaded.load().rules)
    }

    /// The verdict in words. Reads the file that the rule is in.
    pub(crate) fn explain(&self, address: IpAddr) -> String {
        explain(&self.settings, address)
    }

    /// True when there are files to follow.
    pub(crate) fn has_files(&self) -> bool {
        !self.settings.files.is_empty()
    }

    /// Where a request can be answered and the settings want an answer, the request is refused
    /// instead, by [`admit`].
    fn closes(&self, shard: &Shard, snapshot: &Snapshot, listener: &str, client: IpAddr) -> bool {
        if snapshot.can_tell(listener) && self.settings.reject != Reject::Close {
            return false;
        }
        !self.judge(shard.index, client).allow
    }

    fn judge(&self, thread: usize, address: IpAddr) -> Verdict {
        let loaded = self.loaded.load();
        let verdict = loaded.rules.verdict(address);
        let kind = 2 * usize::from(!verdict.allow) + usize::from(verdict.rule.is_none());
        let verdicts = self.figures.verdicts.get(thread);
        if let Some(figure) = verdicts.and_then(|verdicts| verdicts.0.get(kind)) {
            figure.fetch_add(1, Ordering::Relaxed);
        }
        if let (Some(rule), Some(decided)) = (verdict.rule, loaded.decided.get(thread)) {
            let place = loaded.rules.place(rule);
            let mut counts = decided.lock().unwrap_or_else(PoisonError::into_inner);
            *counts.entry(place).or_default() += 1;
        }
        verdict
    }

    /// Follows the files until `stop`. A bad one is refused, and the running rules stay.
    pub(crate) fn follow(
        self: Arc<Self>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let mut watch = self.settings.watch.clone();
        async move {
            while stop.run_until_cancelled(watch.changed()).await.is_some() {
                let filter = Arc::clone(&self);
                let compiled = move || filter.settings.compile();
                match tokio::task::spawn_blocking(compiled).await {
                    Ok(Ok(rules)) => self.take(rules).await,
                    Ok(Err(refused)) => self.refuse(refused),
                    Err(error) => {
                        tracing::error!(%error, "new IP rules could not be compiled");
                    }
                }
            }
        }
    }

    async fn take(&self, rules: RuleSet) {
        let count = rules.len();
        let threads = self.loaded.load().decided.len();
        let rules = Arc::new(rules);
        let known = self.settings.rules.swap(Arc::clone(&rules));
        let old = self.loaded.swap(Loaded::new(rules, threads));
        self.figures.reloads.fetch_add(1, Ordering::Relaxed);
        self.problems().clear();
        tracing::info!(rules = count, "new IP rules are in force");
        // Whoever lets go of the old rules last gives their memory back: no loop should.
        let mut left = 600;
        drop(known);
        while (Arc::strong_count(&old) > 1 || Arc::strong_count(&old.rules) > 1) && left > 0 {
            left -= 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn refuse(&self, refused: Refused) {
        self.figures.refused_reloads.fetch_add(1, Ordering::Relaxed);
        let problems = self.words(refused);
        for problem in &problems {
            tracing::error!("{problem}");
        }
        tracing::error!("the new IP rules are not used: the running ones stay");
        *self.problems() = problems;
    }

    fn problems(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        let problems = self.figures.problems.lock();
        problems.unwrap_or_else(PoisonError::into_inner)
    }

    /// One line for each problem.
    fn words(&self, refused: Refused) -> Vec<String> {
        let name = |place: Option<usize>| {
            let file = place.and_then(|place| self.settings.files.get(place));
            file.map_or("gate.ip_filter", |file| file.name.as_str())
        };
        let Refused { unreadable, wrong } = refused;
        let unreadable = unreadable.iter();
        let mut words: Vec<String> = unreadable
            .map(|(place, why)| format!("{}: {why}", name(Some(*place))))
            .collect();
        let shown = wrong.iter().take(PROBLEMS_MAX);
        words.extend(
            shown.map(|Complaint { file, problem, .. }| format!("{}: {problem}", name(*file))),
        );
        if wrong.len() > PROBLEMS_MAX {
            words.push(format!("{} more", wrong.len() - PROBLEMS_MAX));
        }
        words
    }

    /// What who may not come in is answered; `None` for a close.
    fn rejection(&self) -> Option<Rejection> {
        match self.settings.reject {
            Reject::Close => None,
            Reject::Forbidden => Some(Rejection::new(
                Reason::IpDenied,
                "this address may not come in",
            )),
            Reject::NotFound => Some(Rejection::new(Reason::IpHidden, "there is nothing here")),
        }
    }

    /// As [`admit`], for a request that is only explained: nothing is counted.
    pub(crate) fn admits(&self, client: IpAddr) -> Result<(), Rejection> {
        if self.loaded.load().rules.verdict(client).allow {
            return Ok(());
        }
        Err(self
            .rejection()
            .unwrap_or_else(|| Rejection::new(Reason::IpClosed, "the connection is closed")))
    }

    /// True when a rule says that this address may come in, and not only the default.
    pub(crate) fn names_as_allowed(&self, address: IpAddr) -> bool {
        let verdict = self.loaded.load().rules.verdict(address);
        verdict.allow && verdict.rule.is_some()
    }

    /// What operators see.
    pub(crate) fn page(&self) -> Value {
        let loaded = self.loaded.load();
        let mut counts: Vec<(usize, u64)> = loaded.counts().into_iter().collect();
        counts.sort_unstable_by_key(|(place, count)| (std::cmp::Reverse(*count), *place));
        let rule = |(place, count): &(usize, u64)| {
            let line = loaded.rules.line_at(*place)?;
            Some(json!({ "rule": self.settings.place(line), "count": count }))
        };
        let sources: Vec<Value> = self
            .by_source(&loaded, &counts)
            .into_iter()
            .map(|(name, count)| json!({ "name": name, "decided": count }))
            .collect();
        let figure = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let figures = &self.figures;
        let [allowed, allowed_by_default, denied, denied_by_default] = figures.verdicts();
        json!({
            "rules": loaded.rules.len(),
            "bytes": loaded.rules.as_bytes().len(),
            "order": loaded.rules.order().to_string(),
            "default": loaded.rules.default_action().to_string(),
            "allowed": { "rule": allowed, "default": allowed_by_default },
            "denied": { "rule": denied, "default": denied_by_default },
            "sources": sources,
            "top": counts.iter().take(TOP).filter_map(rule).collect::<Vec<_>>(),
            "reloads": figure(&figures.reloads),
            "refusedReloads": figure(&figures.refused_reloads),
            "problems": *self.problems(),
        })
    }

    /// How often rules of each source decided.
    fn by_source(&self, loaded: &Loaded, counts: &[(usize, u64)]) -> Vec<(String, u64)> {
        let mut sources: Vec<(String, u64)> = (0..)
            .map_while(|number| loaded.rules.source(number))
            .map(|name| (name.to_owned(), 0))
            .collect();
        for (place, count) in counts {
            let source = loaded
                .rules
                .line_at(*place)
                .map(|line| line.source as usize);
            if let Some(slot) = source.and_then(|source| sources.get_mut(source)) {
                slot.1 += count;
            }
        }
        sources
    }

    /// The metrics: name, labels, value.
    pub(crate) fn metrics(&self) -> Metrics {
        let loaded = self.loaded.load();
        let counts: Vec<(usize, u64)> = loaded.counts().into_iter().collect();
        let figure = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let figures = &self.figures;
        Metrics {
            verdicts: figures.verdicts(),
            sources: self.by_source(&loaded, &counts),
            rules: loaded.rules.len(),
            reloads: [
                ("used", figure(&figures.reloads)),
                ("refused", figure(&figures.refused_reloads)),
            ],
        }
    }
}

/// Figures for the metrics page.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// In the order of [`VERDICTS`].
    pub(crate) verdicts: [u64; 4],
    /// How often rules of each source decided, since they were read.
    pub(crate) sources: Vec<(String, u64)>,
    pub(crate) rules: usize,
    pub(crate) reloads: [(&'static str, u64); 2],
}

/// The verdict on `address` in words, by the rules in force: `deny: ip.conf line 3: deny from 10.*`.
/// Reads the file that the rule is in.
#[must_use]
pub fn explain(settings: &IpFilterSettings, address: IpAddr) -> String {
    let verdict = settings.rules.load().verdict(address);
    let action = if verdict.allow { "allow" } else { "deny" };
    let Some(rule) = verdict.rule else {
        return format!("{action}: no rule matches, so the default decides");
    };
    let place = settings.place(rule);
    match settings.text(rule) {
        Some(text) => format!("{action}: {place}: {text}"),
        None => format!("{action}: {place}"),
    }
}

/// A connection at accept, or the first datagram of a session: true when it is to be closed. A
/// trusted peer speaks for others: whom it names is judged, by [`closes_named`] or by [`admit`].
pub(crate) fn closes_at_accept(
    shard: &Shard,
    snapshot: &Snapshot,
    listener: &str,
    peer: IpAddr,
) -> bool {
    let Some(filter) = &snapshot.ip_filter else {
        return false;
    };
    !snapshot.speaks_for_others(listener, peer) && filter.closes(shard, snapshot, listener, peer)
}

/// Whom the PROXY header of a trusted peer names, or the peer itself when it names nobody: true
/// when the connection is to be closed.
pub(crate) fn closes_named(
    shard: &Shard,
    snapshot: &Snapshot,
    listener: &str,
    client: IpAddr,
) -> bool {
    let filter = snapshot.ip_filter.as_ref();
    filter.is_some_and(|filter| filter.closes(shard, snapshot, listener, client))
}

/// A request's client: may it come in? Asked for each request, so that new rules hold for
/// connections that are open already.
pub(crate) fn admit(shard: &Shard, snapshot: &Snapshot, client: IpAddr) -> Result<(), Stop> {
    let Some(filter) = &snapshot.ip_filter else {
        return Ok(());
    };
    if filter.judge(shard.index, client).allow {
        return Ok(());
    }
    Err(filter
        .rejection()
        .map_or(Stop::End(Reason::IpClosed), Stop::Reject))
}
