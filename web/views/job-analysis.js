// One analysis: its phases as steps with the time each took, and how far the present one is.
import { fill, h, setText } from "../lib/dom.js";
import { bytes, duration, number, percent, words } from "../lib/format.js";
import { has, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { isTerminal, PHASES, progressOf } from "../lib/store.js";
import { waitingFor } from "../lib/waiting.js";
import { progressBar, statusBadge } from "../lib/widgets.js";

export function analysisCard() {
  const title = h("h2.analysis-title");
  const where = h("span.muted.num");
  const badge = h("span");
  const steps = [...PHASES, "DONE"].map((phase) => {
    const time = h("span.step-time.num.muted");
    const mark = h("span.step-mark", { "aria-hidden": "true" });
    return { phase, time, mark, word: h("span.step-word"), element: h("li.step", { data: { phase } }) };
  });
  for (const step of steps) step.element.append(step.mark, step.word, step.time);
  const bar = progressBar(t("job.progress"));
  const doing = h("span.doing");
  const share = h("span.num.doing-share");
  const note = h("p.analysis-note");
  const element = h(
    "section.card.analysis",
    h("div.analysis-head", title, where, badge),
    h("ol.steps", { "aria-label": t("job.phases") }, steps.map((step) => step.element)),
    h("div.doing-line", doing, share),
    bar.element,
    note,
  );
  let status = "";
  const update = (analysis, alone) => {
    setText(title, analysis.model ?? t("job.analysis"));
    setText(where, whereOf(analysis));
    if (status !== analysis.status) {
      status = analysis.status;
      fill(badge, statusBadge(status));
      element.dataset.status = status;
    }
    showSteps(steps, analysis);
    const progress = progressOf(analysis);
    const ended = isTerminal(analysis.status);
    bar.element.classList.toggle("still", !progress);
    bar.update(ended ? (analysis.status === "DONE" ? 1 : 0) : progress ? progress.share : 0);
    setText(doing, ended ? t(`doing.${analysis.status}`) : doingOf(analysis, progress));
    setText(share, progress?.share === undefined ? "" : percent(progress.share));
    const waits = waitingFor(analysis.message);
    // Why it waited is of no interest once it no longer does.
    const message = waits && status !== "QUEUED" ? "" : (waits ?? analysis.message ?? "");
    const text = analysis.error ?? message;
    note.classList.toggle("bad", Boolean(analysis.error));
    setText(note, text);
    // The only analysis of an ended job: the outcome above says it already.
    note.hidden = !text || (alone && ended && Boolean(analysis.error));
  };
  return { element, update };
}

function whereOf(analysis) {
  const parts = [];
  if (analysis.serverId) parts.push(t("job.worker", { id: analysis.serverId }));
  if (analysis.tries > 1) parts.push(t("job.attempt", { n: analysis.tries }));
  return parts.join(" · ");
}

function doingOf(analysis, progress) {
  return progress ? progressText(progress) : t(`doing.${analysis.status}`);
}

/** A phase in words with its figures: `Following data flows · 120 of 800 files`. */
export function progressText(progress) {
  const phase = has(`phase.${progress.phase}`) ? t(`phase.${progress.phase}`) : words(progress.phase);
  if (!progress.total && !progress.done) return phase;
  const isBytes = progress.unit === "bytes";
  const figure = (value) => (isBytes ? bytes(value) : number(value));
  const unit = isBytes || !progress.unit ? "" : ` ${has(`unit.${progress.unit}`) ? t(`unit.${progress.unit}`) : progress.unit}`;
  const count = progress.total ? t("doing.of", { done: figure(progress.done), total: figure(progress.total) }) : figure(progress.done);
  return `${phase} · ${count}${unit}`;
}

// A step is done, being done, not reached, or where it ended; each has its own mark.
function showSteps(steps, analysis) {
  const ended = isTerminal(analysis.status) || analysis.status === "CANCELLING";
  const reached = steps.map((step) => step.phase).filter((phase) => analysis.reached[phase]);
  const at = ended && analysis.status !== "DONE" ? (analysis.brokeIn ?? reached[reached.length - 1]) : analysis.status;
  const index = steps.findIndex((step) => step.phase === at);
  steps.forEach((step, position) => {
    const failed = ended && analysis.status !== "DONE" && position === Math.max(0, index);
    const state = failed ? "failed" : position < index || analysis.status === "DONE" ? "done" : position === index ? "now" : "ahead";
    if (step.element.dataset.state !== state) {
      step.element.dataset.state = state;
      if (state === "now") step.element.setAttribute("aria-current", "step");
      else step.element.removeAttribute("aria-current");
      fill(step.mark, state === "done" ? icon("check", 12) : state === "failed" ? icon("close", 12) : null);
    }
    setText(step.word, t(`status.${step.phase}`));
    setText(step.time, timeOf(steps, position, analysis, state));
  });
}

// How long a step took: from its first event to the first one of a later step.
function timeOf(steps, position, analysis, state) {
  const from = analysis.reached[steps[position].phase];
  if (!from || steps[position].phase === "DONE") return "";
  const later = steps.slice(position + 1).map((step) => analysis.reached[step.phase]).find(Boolean);
  const until = later ?? (state === "now" || state === "failed" ? analysis.last : undefined);
  return until ? duration(new Date(until) - new Date(from)) : "";
}
