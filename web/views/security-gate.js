// One gate's card on the security page: what it refused, whom it bans and suspects, certificates, sockets.
import { table } from "../lib/board.js";
import { h, svg } from "../lib/dom.js";
import { absolute, clock, duration, number } from "../lib/format.js";
import { has, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { bars, byMinute, causeText, mostOf, topSignals, urgency } from "../lib/refused.js";
import { button, emptyState, prose, timeAgo, timeLeft } from "../lib/widgets.js";
import { health } from "./status.js";

const HEIGHT = 24;
const SIGNALS = 8;
const SUSPECTS = 20;

// A gate that gave nothing, with what it is and why.
function gateError(gate) {
  return h("div.card.gate", h("div.gate-head", health(false, t("gates.unreachable")), h("code.gate-url", gate.url ?? "")), h("p.problem", gate.error ?? ""));
}

/** A card for each gate. `unban(address)` ends a ban, `look({ reason, client })` searches the log. */
export function gatesPart({ gates = [] }, acts) {
  if (gates.length === 0) return emptyState("gate", t("gates.none"), "");
  return gates.map((gate) => {
    if (!gate.ok) return gateError(gate);
    return h(
      "div.card.gate",
      h("div.gate-head", health(true, t("gates.ok")), h("code.gate-url", gate.url ?? "")),
      guard(t("refused.title"), refused(gate.refused ?? {}, acts)),
      guard(t("bans.title"), bans(gate.bans ?? {}, acts)),
      gate.shield && [guard(t("suspects.title"), suspects(gate.shield, acts)), guard(t("signals.title"), signals(gate.shield))],
      guard(t("certs.title"), certificates(gate.certificates ?? [])),
      guard(t("sockets.title"), sockets(gate.websockets ?? {})),
    );
  });
}

const guard = (title, content) => h("section.guard", h("h3", title), content);
const calm = (text) => h("p.calm", icon("check"), text);
const link = (key, content, on) => h("button.link", { type: "button", data: { key }, on: { click: on } }, content);

// A row for each reason, a bar for each minute; the same as a table of minutes behind it.
function refused({ from, total = 0, reasons = [] }, { look }) {
  if (total === 0) return calm(t("refused.none"));
  const most = mostOf(reasons);
  const minutes = byMinute({ from, reasons });
  return [
    table(
      t("refused.title"),
      [t("refused.reason"), t("refused.about"), t("refused.minutes"), t("refused.count")],
      reasons.map((row) => [
        link(`reason ${row.reason}`, h("code", row.reason), () => look({ reason: row.reason })),
        has(`about.${row.group}`) ? t(`about.${row.group}`) : "–",
        chart(row.counts, most, t("refused.chart", { n: row.total, peak: number(Math.max(...row.counts)) })),
        h("span.num", number(row.total)),
      ]),
    ),
    h(
      "details.routes",
      h("summary", t("refused.table")),
      table(t("refused.table"), [t("refused.minute"), t("refused.title")], minutes.map(({ at, parts }) => [h("time.num", { title: absolute(at) }, clock(at).slice(0, 5)), parts.map(({ reason, count }) => `${reason} ${number(count)}`).join(", ")])),
    ),
  ];
}

function chart(counts, most, label) {
  return svg(
    "svg.minutes",
    { viewBox: `0 0 ${counts.length * 4} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    bars(counts, most).map(({ at, share }) => svg("rect", { x: at * 4, width: 3, y: HEIGHT * (1 - share), height: HEIGHT * share })),
  );
}

// A ban or a suspect, which leads to what the log has of it. Of IPv6 it is a /64, and its addresses begin alike.
const client = (kind, { address }, { look }) => link(`${kind} ${address}`, h("code.address", address), () => look({ client: address.replace(/::\/64$/, ":") }));

// In the reader's language; a newer gate may know other signals than this page.
const meaning = (name, told) => (has(`signal.${name}`) ? t(`signal.${name}`) : told && h("span", { lang: "en" }, prose(told)));

// Signals by name, the most frequent first, with what they mean on hover.
function counted(signals = {}) {
  const all = Object.entries(signals).sort(([, a], [, b]) => b - a);
  const meant = (name) => has(`signal.${name}`) && t(`signal.${name}`);
  return h("span", all.map(([name, count], at) => [at > 0 && ", ", h("span.num", h("code", { title: meant(name) }, name), ` ${number(count)}`)]));
}

function bans({ enabled, dryRun, total = 0, bans: all = [] }, acts) {
  if (!enabled && total === 0) return h("p.muted", t("bans.off"));
  return [
    dryRun && h("p.notice", icon("bolt"), t("bans.dry")),
    all.length === 0
      ? calm(t("bans.none"))
      : table(
          t("bans.title"),
          [t("refused.client"), t("refused.reason"), t("bans.first"), t("gates.requests"), t("bans.until"), t("tokens.action")],
          all.map((ban) => [
            client("ban", ban, acts),
            ban.manual ? t("bans.manual") : counted(ban.signals),
            h("code.long", ban.firstPath || "–"),
            h("span.num", number(ban.count ?? 0)),
            timeLeft(ban.until),
            endButton(ban.address, acts.unban),
          ]),
        ),
    total > all.length && h("p.muted", t("bans.more", { n: total - all.length })),
  ];
}

function endButton(address, unban) {
  const element = button(t("bans.end"), { on: () => unban(address) });
  element.dataset.key = `end ${address}`;
  element.setAttribute("aria-label", `${t("bans.end")}: ${address}`);
  return element;
}

// Who did nothing of the kind for a while has a score of 0 and is none any more.
function suspects({ suspects: known = [], ban = {} }, acts) {
  const all = known.filter(({ score }) => score >= 0.05);
  if (all.length === 0) return calm(t("suspects.none"));
  return table(
    t("suspects.title"),
    [t("refused.client"), t("suspects.score"), t("suspects.signals"), t("bans.first"), t("suspects.since")],
    all.slice(0, SUSPECTS).map((one) => [
      client("suspect", one, acts),
      h("span.num", t("suspects.of", { score: number(one.score, 1), after: ban.after ?? "–" })),
      counted(one.signals),
      h("code.long", one.firstPath || "–"),
      timeAgo(one.firstSeen),
    ]),
  );
}

function signals({ signals: all }) {
  const top = topSignals(all).slice(0, SIGNALS);
  if (top.length === 0) return calm(t("signals.none"));
  return table(t("signals.title"), [t("signals.signal"), t("signals.meaning"), t("signals.seen"), t("signals.weight")], top.map((row) => [h("code", row.name), meaning(row.name, row.meaning), h("span.num", number(row.count)), h("span.num", number(row.weight, 1))]));
}

const BADGES = { good: "done", soon: "cancelled", now: "failed", over: "failed" };

function certificates(all) {
  if (all.length === 0) return h("p.muted", t("certs.none"));
  return table(
    t("certs.title"),
    [t("gates.listener"), t("certs.names"), t("certs.left"), t("certs.until"), t("certs.file")],
    all.map((one) => {
      const state = urgency(one.daysLeft);
      const left = state === "over" ? t("certs.over") : t("certs.days", { n: one.daysLeft });
      return [h("code", one.listener), (one.names ?? []).join(", ") || "–", h(`span.badge.status-${BADGES[state]}`, { data: { urgency: state } }, h("span.dot", { "aria-hidden": "true" }), left), absolute(one.notAfter), h("code.long", one.file)];
    }),
  );
}

function sockets({ lifetimes = {}, causes = [] }) {
  const { bounds = [], ended = [] } = lifetimes;
  const rows = ended.filter(({ counts }) => counts.some((count) => count > 0));
  return [
    causes.map((cause) => h("p.notice", icon("bolt"), h("span", h("strong", cause.route), ` ${causeText(cause)}`))),
    rows.length === 0
      ? h("p.muted", t("sockets.none"))
      : table(
          t("sockets.title"),
          [t("sockets.by"), t("sockets.lived"), t("sockets.figures"), t("sockets.count")],
          rows.map(({ by, counts }) => {
            const span = (at) => (at < bounds.length ? t("sockets.up_to", { time: duration(bounds[at] * 1000) }) : t("sockets.beyond", { time: duration(bounds[at - 1] * 1000) }));
            const told = counts.flatMap((count, at) => (count > 0 ? [`${span(at)}: ${number(count)}`] : []));
            return [t(`side.${by}`), h("div", chart(counts, Math.max(...counts), told.join(", "))), told.join(", "), h("span.num", number(counts.reduce((a, b) => a + b, 0)))];
          }),
        ),
  ];
}
