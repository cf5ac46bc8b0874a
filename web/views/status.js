// The operator's view: workers, what still waits to be cleaned up, gates and registries. Read again every few seconds; what
// could not be read stays, grey, with the time of the last answer.
import { fill, h, setText } from "../lib/dom.js";
import { ago, clock, duration, number, words } from "../lib/format.js";
import { has, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { emptyState, errorState, pageHead, skeleton, timeAgo } from "../lib/widgets.js";
import { gatesPart, registryPart } from "./status-edge.js";

const EVERY_MS = 5000;
/** Whether the server is there at all is asked more often: a figure of a server that is gone must not look well for long. */
const PULSE_MS = 2000;

export default function status(root, { api, me, signal }) {
  root.append(pageHead(t("status.title"), h("p.lead", t("status.lead"))));
  if (!me.admin) {
    root.append(emptyState("key", t("status.admin_only"), t("status.admin_only_text")));
    return t("status.title");
  }
  const parts = [
    part("alarms", "/api/admin/alarms", alarms),
    part("workers", "/api/admin/workers", workers),
    part("cleanup", "/api/admin/cleanup", cleanup),
    part("gates", "/api/admin/gates", gatesPart),
    part("registry", "/api/admin/registry", registryPart),
  ];
  root.append(...parts.map((each) => each.element));
  let gone = false;
  const read = () => Promise.all(parts.map((each) => each.read(api, signal)));
  const beat = async () => {
    if (document.hidden) return;
    const was = gone;
    gone = !(await answers(api, signal));
    if (signal.aborted) return;
    for (const each of parts) each.age(gone);
    // Back again: no need to wait for the next round.
    if (was && !gone) read();
  };
  read();
  const timers = [setInterval(() => !document.hidden && read(), EVERY_MS), setInterval(beat, PULSE_MS)];
  signal.addEventListener("abort", () => timers.forEach(clearInterval));
  return t("status.title");
}

// A server that takes longer than the pulse for its shortest answer is as good as gone.
async function answers(api, signal) {
  try {
    await api.get("/api/health", { signal: AbortSignal.any([signal, AbortSignal.timeout(PULSE_MS)]) });
    return true;
  } catch {
    return false;
  }
}

function part(name, url, draw) {
  const body = h("div.status-body", skeleton(2));
  const stale = h("span.stale.num", { hidden: true, role: "status" });
  const element = h("section.status-part", { data: { part: name }, hidden: name === "alarms" }, h("div.section-head", h("h2", t(`status.${name}`)), stale), body);
  let readAt = 0;
  let reading = false;
  let last = "";
  let failed = false;
  const age = (gone = false) => {
    const late = readAt > 0 && (gone || failed || Date.now() - readAt > 2.5 * EVERY_MS);
    element.classList.toggle("late", late);
    stale.hidden = !late;
    if (late) setText(stale, t("status.stale", { time: clock(readAt), ago: ago(readAt, Date.now()) }));
  };
  const read = async (api, signal) => {
    if (reading) return;
    reading = true;
    try {
      const answer = await api.get(url, { signal });
      readAt = Date.now();
      failed = false;
      // The same answer is not drawn again: focus and selection stay.
      const text = JSON.stringify(answer);
      if (text !== last) {
        last = text;
        redraw(body, draw(answer ?? {}, element));
      }
    } catch (error) {
      failed = true;
      if (!signal.aborted && readAt === 0) {
        element.hidden = false;
        fill(body, errorState(error));
      }
    } finally {
      reading = false;
      age();
    }
  };
  return { element, read, age };
}

// What the reader has opened, and where the focus is, outlasts the next figures.
function redraw(body, content) {
  const summaries = () => [...body.querySelectorAll("summary")];
  const open = summaries().map((summary) => summary.parentElement.open);
  const focused = summaries().indexOf(document.activeElement);
  fill(body, content);
  summaries().forEach((summary, index) => {
    summary.parentElement.open = open[index] ?? false;
  });
  if (focused >= 0) summaries()[focused]?.focus({ preventScroll: true });
}

/** A table that becomes a list of cards where it would not fit. `columns` are names; rows are arrays of cells. */
export function table(caption, columns, rows) {
  return h(
    "div.table-wrap",
    h(
      "table.table",
      h("caption.visually-hidden", caption),
      h("thead", h("tr", columns.map((column) => h("th", { scope: "col" }, column)))),
      h("tbody", rows.map((cells) => h("tr", cells.map((cell, index) => h("td", { data: { label: columns[index] } }, cell))))),
    ),
  );
}

/** A state of a backend, instance or worker: a dot whose form differs, and the word. */
export function health(good, state) {
  const key = `health.${String(state).toLowerCase()}`;
  const word = has(key) ? t(key) : state;
  return h(`span.badge.${good ? "status-done" : "status-failed"}`, h("span.dot", { "aria-hidden": "true" }), word);
}

function workers({ workers: all = [] }) {
  if (all.length === 0) return emptyState("server", t("workers.none"), t("workers.none_text"));
  return table(
    t("status.workers"),
    [t("workers.id"), t("workers.state"), t("workers.models"), t("workers.slots"), t("workers.address"), t("workers.seen")],
    all.map((worker) => [
      h("code", worker.serverId),
      health(!worker.drained && worker.reachable !== false && (worker.status ?? "UP") === "UP", worker.reachable === false ? t("workers.unreachable") : worker.drained ? "drained" : (worker.status ?? "UP")),
      (worker.models ?? []).join(", "),
      slots(worker),
      h("code", worker.address ?? "–"),
      timeAgo(worker.lastSeen),
    ]),
  );
}

// How many slots a worker has free; how many it has in all where that is told.
function slots({ running, capacity, free }) {
  if (capacity === undefined) return h("span.num", t("workers.free", { n: free ?? 0 }));
  const shown = Math.min(16, Math.max(capacity, running ?? 0));
  return h(
    "span.slots",
    h("span.slot-dots", { "aria-hidden": "true" }, Array.from({ length: shown }, (_, index) => h(`span.slot${index < (running ?? 0) ? ".busy" : ""}`))),
    h("span.num", t("workers.busy", { running: running ?? 0, capacity })),
  );
}

function cleanup({ cleanups = [] }) {
  if (cleanups.length === 0) return h("p.calm", icon("check"), t("cleanup.none"));
  return table(
    t("status.cleanup"),
    [t("cleanup.job"), t("cleanup.what"), t("cleanup.worker"), t("cleanup.since"), t("cleanup.attempts"), t("cleanup.error")],
    cleanups.map((row) => [h("a", { href: `/jobs/${encodeURIComponent(row.eventId)}` }, h("code", row.eventId)), words(row.kind ?? "–"), h("code", row.serverId ?? "–"), timeAgo(row.since), h("span.num", number(row.attempts ?? 0)), row.error ?? "–"]),
  );
}

function alarms({ alarms: all = [] }, element) {
  element.hidden = all.length === 0;
  return h("ul.alarms", { role: "alert" }, all.map((alarm) => h("li.alarm", icon("bolt"), h("strong", alarm.code ?? alarm.kind ?? ""), h("span", alarm.message ?? alarm.detail ?? ""), alarm.since && timeAgo(alarm.since))));
}

/** Seconds as a span of time. */
export function uptime(seconds) {
  return h("span.num", duration((seconds ?? Number.NaN) * 1000));
}
