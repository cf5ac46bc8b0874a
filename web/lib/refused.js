// What the security page makes of the gates' figures. Pure.
import { duration } from "./format.js";
import { t } from "./i18n.js";

const MINUTE_MS = 60_000;

/** A bar for each count that is not 0: `[{ at, share }]`, the place and the height. By the root, so that one is seen beside a thousand. */
export function bars(counts, most) {
  return counts.flatMap((count, at) => (count > 0 ? [{ at, share: Math.max(0.08, Math.sqrt(count / Math.max(1, most))) }] : []));
}

/** The highest count of one minute and reason. */
export function mostOf(reasons) {
  return Math.max(0, ...reasons.flatMap((row) => row.counts ?? []));
}

/** The same figures as minutes with something in them, the newest first: `[{ at, parts: [{ reason, count }] }]`. */
export function byMinute({ from, reasons = [] }) {
  const start = new Date(from).getTime();
  const out = [];
  for (let place = (reasons[0]?.counts?.length ?? 0) - 1; place >= 0; place -= 1) {
    const parts = reasons.flatMap(({ reason, counts }) => (counts[place] > 0 ? [{ reason, count: counts[place] }] : []));
    if (parts.length > 0) out.push({ at: start + place * MINUTE_MS, parts });
  }
  return out;
}

/** Signals that were seen, the most frequent first: `[{ name, count, weight, meaning }]`. */
export function topSignals(signals = {}) {
  const seen = Object.entries(signals).map(([name, row]) => ({ name, ...row }));
  return seen.filter((row) => row.count > 0).sort((a, b) => b.count - a.count || a.name.localeCompare(b.name));
}

/** How soon something must be done about a certificate: `good`, `soon` (30 days), `now` (7 days) or `over`. */
export function urgency(daysLeft) {
  if (daysLeft < 0) return "over";
  if (daysLeft < 7) return "now";
  return daysLeft < 30 ? "soon" : "good";
}

/** The refusals of all gates, the newest first, each with its gate. */
export function refusalsOf(gates) {
  const all = gates.flatMap(({ url, refusals = [] }) => refusals.map((row) => ({ ...row, gate: url })));
  return all.map((row) => [Date.parse(row.time), row]).sort(([a], [b]) => b - a).map(([, row]) => row);
}

/** What the doctor found, in the reader's language: who cut how many, after what, and what helps. */
export function causeText({ side, hop, measure, seconds, count, of, ping }) {
  const after = t(`cut.${measure}`, { time: duration(seconds * 1000) });
  const why = measure === "age" ? t("cut.why_age") : ping ? t("cut.why_ping", { ping }) : t("cut.why_other");
  return `${t(hop ? "cut.said_hop" : "cut.said", { hop, count, of, side: t(`side.${side}`), after })} ${why}`;
}
