// A job while it runs: its phases, how far each analysis is, the findings as they arrive, and every event.
import { calmly, fill, h, say, setText } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { follow } from "../lib/follow.js";
import { countLevels, isTerminal, progressOf } from "../lib/store.js";
import { emptyState, levelCounts, errorState } from "../lib/widgets.js";
import { analysisCard } from "./job-analysis.js";
import { coverage } from "./job-coverage.js";
import { eventStream, findingStream } from "./job-streams.js";
import { jobFrame } from "./job-frame.js";

export default async function job(root, context) {
  const { signal, params, api, live, go } = context;
  const frame = jobFrame(root, context, "progress");
  const outcome = h("div.outcome-place");
  const cards = h("div.analyses");
  const findings = findingStream(params.eventId);
  const events = eventStream();
  const covered = coverage(context, params.eventId, () => soon());
  root.append(outcome, cards, covered.element, h("div.streams", findings.element, events.element));
  const known = new Map();
  const show = (state) => {
    frame.update(state);
    covered.update(state);
    showOutcome(outcome, state, params.eventId, covered.unread());
    for (const [analyzeId, analysis] of state.analyses) {
      if (!known.has(analyzeId)) {
        const card = analysisCard();
        known.set(analyzeId, card);
        cards.append(card.element);
      }
      known.get(analyzeId).update(analysis, state.analyses.size === 1);
    }
    findings.update(state);
    events.update(state);
    announce(state);
    document.title = titleOf(state);
  };
  let latest;
  const soon = calmly(() => !signal.aborted && show(latest));
  const announce = announcer();
  try {
    const { state } = await follow({
      api,
      live,
      signal,
      eventId: params.eventId,
      changed: (changed) => {
        latest = changed;
        soon();
      },
    });
    latest = state();
    show(latest);
  } catch (error) {
    if (signal.aborted) throw error;
    fill(root, error.status === 404 ? emptyState("search", t("job.unknown"), t("job.unknown_text"), h("a.button.primary", { href: "/jobs" }, t("nav.jobs"))) : errorState(error, () => go(location.pathname, { replace: true })));
    return t("job.unknown");
  }
  return titleOf(latest).replace(/ · Munjigi$/, "");
}

// The tab tells how far the job is while the reader looks elsewhere.
function titleOf(state) {
  const shares = [...state.analyses.values()].map((each) => progressOf(each)?.share).filter((share) => share !== undefined);
  const head = state.status === "RUNNING" && shares.length > 0 ? percent(Math.min(...shares)) : t(`status.${state.status}`);
  return `${head} · ${state.name ?? t("job.title")} · Munjigi`;
}

// For screen readers: a new phase, and the progress in steps of ten percent; not each event.
function announcer() {
  let said = "";
  return (state) => {
    const [analysis] = state.analyses.values();
    if (!analysis) return;
    const { progress } = analysis;
    const tenth = progress?.total ? Math.floor((progress.done / progress.total) * 10) * 10 : 0;
    const text = isTerminal(state.status) || state.status !== "RUNNING" ? t(`status.${state.status}`) : t("job.said", { phase: progress?.phase ?? "", share: String(tenth) });
    if (text === said) return;
    said = text;
    say(text);
  };
}

// `unread`: why nothing of the upload could be read, when that is so.
function showOutcome(place, state, eventId, unread) {
  const key = isTerminal(state.status) ? `${state.status}${state.findings.length}${Boolean(unread)}` : "";
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  if (!key) {
    fill(place);
    return;
  }
  const total = [...state.analyses.values()].reduce((sum, each) => sum + (each.findings ?? 0), 0);
  const reasons = [...new Set([...state.analyses.values()].map((each) => each.error).filter(Boolean))];
  if (state.status === "DONE" && unread) {
    const title = h("strong", t("outcome.nothing"));
    const why = h("p", t(unread.damaged ? "outcome.unread" : "outcome.unfit"));
    fill(place, h("div.outcome.outcome-unread", { role: "alert" }, icon("bolt", 20), h("div.outcome-body", title, why, unread.reasons.map((reason) => h("p", reason)), h("p", t("outcome.unread_text")))));
    return;
  }
  const title = h("strong");
  setText(title, t(`outcome.${state.status}`, { n: total }));
  fill(
    place,
    h(
      `div.outcome.outcome-${state.status.toLowerCase()}`,
      icon({ DONE: "check", FAILED: "bolt", CANCELLED: "stop" }[state.status], 20),
      h("div.outcome-body", title, reasons.map((reason) => h("p", reason)), state.status === "CANCELLED" && h("p", t("outcome.cancelled_text")), state.status === "DONE" && total === 0 && h("p", t("outcome.clean_text"))),
      state.findings.length > 0 && levelCounts(countLevels(state.findings)),
      total > 0 && h("a.button.primary", { href: `/jobs/${encodeURIComponent(eventId)}/findings` }, t("outcome.read"), icon("next")),
    ),
  );
}
