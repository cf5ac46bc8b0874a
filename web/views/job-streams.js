// Two streams side by side: findings as they arrive, and every event. Both append at their end inside a box of fixed
// height and follow it, unless the reader has scrolled away; nothing else on the page moves.
import { fill, h, setText } from "../lib/dom.js";
import { absolute, clock, words } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { idOf, placeOf, ruleName } from "../lib/finding.js";
import { severityIcon } from "../lib/icons.js";
import { countLevels, emptiness, levelOf } from "../lib/store.js";
import { waitingFor } from "../lib/waiting.js";
import { levelCounts, placeLine } from "../lib/widgets.js";
import { progressText } from "./job-analysis.js";

/** What stands in place of findings; each job has events, so of those there are none only until they are here. */
const NO_FINDINGS = { gone: "job.stream_gone", arriving: "job.arriving", over: "job.no_findings", yet: "job.no_findings_yet" };
const NO_EVENTS = { ...NO_FINDINGS, over: "job.arriving", yet: "job.arriving" };
/** Rows kept on the page. */
const ROWS_MAX = 250;

function stream(title, empty) {
  const list = h("ol.stream-list");
  const nothing = h("p.stream-empty.muted", empty);
  const box = h("div.stream-box", { tabindex: "0", role: "region", "aria-label": title }, nothing, list);
  const extra = h("span.stream-extra");
  const element = h("section.card.stream", h("div.stream-head", h("h2", title), extra), box);
  let following = true;
  box.addEventListener("scroll", () => {
    following = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
  }, { passive: true });
  const append = (rows) => {
    if (rows.length === 0) return;
    list.append(...rows);
    while (list.childElementCount > ROWS_MAX) list.firstElementChild.remove();
    nothing.hidden = true;
    if (following) box.scrollTop = box.scrollHeight;
  };
  const clear = () => {
    fill(list);
    nothing.hidden = false;
  };
  return { element, extra, append, clear, nothing };
}

/** Findings so far. */
export function findingStream(eventId) {
  const part = stream(t("job.findings_so_far"), t("job.arriving"));
  let shown = 0;
  let first;
  let generation = 0;
  let counts;
  const update = (state) => {
    // A new attempt drops its findings, a stream sent again brings new ones: then the list is drawn again.
    if (generation !== state.generation || first !== state.findings[0] || shown > state.findings.length) {
      part.clear();
      shown = 0;
      counts = undefined;
    }
    generation = state.generation;
    [first] = state.findings;
    const fresh = state.findings.slice(shown);
    part.append(fresh.slice(-ROWS_MAX).map((finding) => findingRow(finding, eventId)));
    shown = state.findings.length;
    setText(part.nothing, t(NO_FINDINGS[emptiness(state)]));
    if (counts && fresh.length === 0) return;
    const more = countLevels(fresh);
    counts = Object.fromEntries(Object.entries(more).map(([level, count]) => [level, count + (counts?.[level] ?? 0)]));
    fill(part.extra, levelCounts(counts));
  };
  return { element: part.element, update };
}

function findingRow(finding, eventId) {
  const level = levelOf(finding);
  const address = `/jobs/${encodeURIComponent(eventId)}/findings?finding=${encodeURIComponent(idOf(finding))}`;
  return h(
    "li",
    h(
      "a.stream-finding",
      { href: address },
      severityIcon(level),
      h("span.visually-hidden", `${t(`level.${level}`)}: `),
      h("span.stream-text", h("span.stream-rule", ruleName(finding)), placeLine(placeOf(finding))),
      h("span.num.muted.stream-time", clock(finding.at)),
    ),
  );
}

/** Every event of the job. */
export function eventStream() {
  const part = stream(t("job.events"), t("job.arriving"));
  let taken = 0;
  let first;
  const update = (state) => {
    if (state.events[0] !== first && state.dropped === 0) {
      part.clear();
      taken = 0;
    }
    [first] = state.events;
    const total = state.dropped + state.events.length;
    const fresh = state.events.slice(Math.max(0, state.events.length - (total - taken)));
    part.append(fresh.slice(-ROWS_MAX).map(eventRow));
    taken = total;
    setText(part.extra, total ? t("job.events_count", { n: total }) : "");
    setText(part.nothing, t(NO_EVENTS[emptiness(state)]));
  };
  return { element: part.element, update };
}

function eventRow(event) {
  return h(
    "li.event",
    h("time.num.muted", { datetime: event.createdAt, title: absolute(event.createdAt) }, clock(event.createdAt)),
    h("span.event-status", { data: { status: event.status } }, t(`status.${event.status}`)),
    h("span.event-text", textOf(event)),
  );
}

function textOf(event) {
  if (event.error) return event.error;
  if (event.rule) return t("event.finding", { rule: words(event.rule) });
  if (event.progress) return progressText(event.progress);
  if (event.message) return waitingFor(event.message) ?? event.message;
  return event.serverId ? t("job.worker", { id: event.serverId }) : t(`doing.${event.status}`);
}
