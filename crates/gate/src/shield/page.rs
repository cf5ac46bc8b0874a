//! What operators see of the shield: bans and suspects as JSON, figures as metrics, and what
//! `explain request` says.

use std::sync::atomic::{AtomicU64, Ordering};

use munjigi_foundation::clock::Timestamp;
use munjigi_foundation::settings::format_duration;
use serde_json::{Map, Value, json};

use super::list;
use super::signal::{ONE, Signal};
use super::{Ban, Shield, State};
use crate::metrics::Page;

/// Suspects that are listed, those with the highest score first.
const SUSPECTS: usize = 100;

fn load(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

/// A ban with its reason in words.
fn shown(ban: &Ban) -> Value {
    let mut shown = serde_json::to_value(ban).unwrap_or_default();
    if let Some(object) = shown.as_object_mut() {
        object.insert("reason".to_owned(), ban.reason().into());
    }
    shown
}

/// The bans that hold, the newest first.
pub(crate) fn bans_page(
    state: &State,
    shield: Option<&Shield>,
    limit: usize,
    now: Timestamp,
) -> Value {
    let bans = state.table.bans(now);
    json!({
        "enabled": shield.is_some(),
        "dryRun": shield.is_some_and(|shield| shield.settings.dry_run),
        "total": bans.len(),
        "bans": bans.iter().take(limit).map(shown).collect::<Vec<_>>(),
    })
}

/// The shield as a whole: who may be next, what was seen, by what rules.
pub(crate) fn state_page(state: &State, shield: &Shield, now: Timestamp) -> Value {
    let settings = &shield.settings;
    let figures = &state.figures;
    let suspects = state.table.suspects(settings.ban.within, now);
    let signals: Map<String, Value> = Signal::ALL
        .iter()
        .zip(&figures.signals)
        .map(|(signal, count)| {
            let weight = f64::from(settings.weights.of(*signal)) / f64::from(ONE);
            let row =
                json!({ "count": load(count), "weight": weight, "meaning": signal.meaning() });
            (signal.code().to_owned(), row)
        })
        .collect();
    let (known, bans) = state.table.counts();
    json!({
        "dryRun": settings.dry_run,
        "list": list::DATE,
        "ban": {
            "after": settings.ban.after,
            "within": format_duration(settings.ban.within),
            "for": format_duration(settings.ban.first),
            "most": format_duration(settings.ban.most),
            "forget": format_duration(settings.ban.forget),
        },
        "signals": signals,
        "suspects": suspects.iter().take(SUSPECTS).collect::<Vec<_>>(),
        "suspectsKnown": known,
        "bansKnown": bans,
        "bansBegun": load(&figures.bans),
        "bansByOperators": load(&figures.manual_bans),
        "bansDry": load(&figures.dry_bans),
        "pardons": load(&figures.pardons),
        "held": state.held.load(Ordering::Relaxed),
        "alarms": {
            "sent": load(&state.alarms.sent),
            "failed": load(&state.alarms.failed),
            "dropped": load(&state.alarms.dropped),
        },
    })
}

/// The shield's metrics.
pub(crate) fn metrics(page: &mut Page, state: &State, now: Timestamp) {
    let figures = &state.figures;
    labelled(
        page,
        ("munjigi_gate_shield_signals_total", "signal"),
        "What spoke against clients, by signal.",
        Signal::ALL
            .iter()
            .map(|signal| signal.code())
            .zip(&figures.signals),
    );
    labelled(
        page,
        ("munjigi_gate_shield_bans_total", "by"),
        "Bans that began, by whose word: of signals, of an operator, or only said (dry_run).",
        [
            ("signals", &figures.bans),
            ("operator", &figures.manual_bans),
            ("dry_run", &figures.dry_bans),
        ],
    );
    let alarms = &state.alarms;
    labelled(
        page,
        ("munjigi_gate_shield_alarms_total", "result"),
        "Alarms for the webhook, by what became of them.",
        [
            ("sent", &alarms.sent),
            ("failed", &alarms.failed),
            ("dropped", &alarms.dropped),
        ],
    );
    for (name, help, count) in [
        ("pardons", "Bans that an operator ended.", &figures.pardons),
        (
            "evicted",
            "Bans that had to make room or were forgotten.",
            &figures.evicted,
        ),
        (
            "held",
            "Requests of banned clients that waited for their answer.",
            &figures.held,
        ),
        (
            "store_failures",
            "Times that bans could not be kept.",
            &figures.store_failures,
        ),
    ] {
        let name = format!("munjigi_gate_shield_{name}_total");
        page.single(&name, "counter", help, load(count));
    }
    gauges(page, state, now);
}

/// A counter for each of several labels.
fn labelled<'c>(
    page: &mut Page,
    (name, label): (&str, &str),
    help: &str,
    counts: impl IntoIterator<Item = (&'static str, &'c AtomicU64)>,
) {
    page.head(name, "counter", help);
    for (value, count) in counts {
        let count = load(count);
        page.put(format_args!("{name}{{{label}=\"{value}\"}} {count}\n"));
    }
}

fn gauges(page: &mut Page, state: &State, now: Timestamp) {
    let (suspects, known) = state.table.counts();
    for (name, help, value) in [
        (
            "suspects",
            "Clients that something spoke against lately.",
            suspects,
        ),
        ("bans", "Bans that hold.", state.table.bans(now).len()),
        (
            "bans_known",
            "Bans with those that are over and not forgotten.",
            known,
        ),
        (
            "holding",
            "Requests of banned clients that wait for their answer.",
            state.held.load(Ordering::Relaxed),
        ),
    ] {
        page.single(&format!("munjigi_gate_shield_{name}"), "gauge", help, value);
    }
}

/// What the shield makes of a request, in words; `in_vain` is what counts besides if it is answered
/// with 404.
pub(crate) fn explain(
    signals: &[(Signal, f64)],
    in_vain: &[(Signal, f64)],
    terms: &super::Terms,
) -> String {
    let words = |signals: &[(Signal, f64)]| {
        let signals = signals.iter();
        let words = signals
            .map(|(signal, weight)| format!("{signal} counts {weight} ({})", signal.meaning()));
        words.collect::<Vec<_>>().join(", ")
    };
    let mut said = match signals {
        [] => "nothing speaks against the client".to_owned(),
        signals => words(signals),
    };
    if !in_vain.is_empty() {
        said += &format!("; answered with 404, {}", words(in_vain));
    }
    if !signals.is_empty() || !in_vain.is_empty() {
        let (after, within) = (terms.after, format_duration(terms.within));
        said += &format!("; a ban begins at {after} within {within}");
    }
    said
}
