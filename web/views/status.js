// The operator's view: workers, what still waits to be cleaned up, gates and registries.
import { board, part, table } from "../lib/board.js";
import { h } from "../lib/dom.js";
import { duration, number, words } from "../lib/format.js";
import { has, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { emptyState, pageHead, timeAgo } from "../lib/widgets.js";
import { gatesPart, registryPart } from "./status-edge.js";

export default function status(root, { api, me, signal }) {
  root.append(pageHead(t("status.title"), h("p.lead", t("status.lead"))));
  if (!me.admin) {
    root.append(emptyState("key", t("status.admin_only"), t("status.admin_only_text")));
    return t("status.title");
  }
  const of = (name, draw) => part(name, t(`status.${name}`), () => `/api/admin/${name}`, draw);
  const parts = [of("alarms", alarms), of("workers", workers), of("cleanup", cleanup), of("gates", gatesPart), of("registry", registryPart)];
  parts[0].element.hidden = true;
  board(root, parts, api, signal);
  return t("status.title");
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
