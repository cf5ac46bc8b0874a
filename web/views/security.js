// Whom the gates turn away, and why: refusals, bans, certificates, sockets; and a search in the log of refusals.
import { query } from "../lib/api.js";
import { board, part, table } from "../lib/board.js";
import { calmly, fill, h } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { refusalsOf } from "../lib/refused.js";
import { attempt, button, confirm, emptyState, pageHead, timeAgo, toast } from "../lib/widgets.js";
import { gatesPart } from "./security-gate.js";

export default function security(root, { api, me, signal }) {
  root.append(pageHead(t("security.title"), h("p.lead", t("security.lead"))));
  if (!me.admin) {
    root.append(emptyState("key", t("status.admin_only"), t("status.admin_only_text")));
    return t("security.title");
  }
  const unban = async (address) => {
    const sure = await confirm({ title: t("bans.end_title", { address }), text: t("bans.end_text"), yes: t("bans.end") });
    if (!sure) return;
    await attempt(async () => {
      const { gates } = await api.delete(`/api/admin/bans${query({ address })}`);
      for (const gate of gates.filter(({ ok }) => !ok)) toast(`${gate.url}: ${gate.error}`, { kind: "bad" });
      if (gates.some(({ ok }) => ok)) toast(t("bans.ended", { address }));
    });
    read();
  };
  const log = searchPart(() => log.part.read(api, signal));
  const look = (what) => {
    log.set(what);
    log.part.element.scrollIntoView();
  };
  const gates = part("guards", t("status.gates"), () => "/api/admin/security", (answer) => gatesPart(answer, { unban, look }));
  const read = board(root, [gates, log.part], api, signal);
  return t("security.title");
}

// The log of refusals: what is looked for stays while the figures change.
function searchPart(changed) {
  const reason = h("select", { "aria-label": t("refused.reason"), on: { change: changed } });
  const typed = calmly(changed, 300);
  const input = (label) => h("input", { type: "search", maxlength: 300, "aria-label": label, placeholder: label, on: { input: typed } });
  const client = input(t("refused.client"));
  const path = input(t("refused.path"));
  const clear = () => set({});
  const set = (what) => {
    client.value = what.client ?? "";
    path.value = "";
    offer([what.reason ?? ""]);
    reason.value = what.reason ?? "";
    changed();
  };
  const offer = (known) => {
    const chosen = reason.value;
    const all = [...new Set([...known, chosen])].filter(Boolean).sort();
    fill(reason, h("option", { value: "" }, t("refused.any")), all.map((code) => h("option", { value: code }, code)));
    reason.value = chosen;
  };
  offer([]);
  const wanted = () => query({ reason: reason.value, client: client.value.trim(), path: path.value.trim() });
  const found = part("refusals", t("refused.log"), () => `/api/admin/refusals${wanted()}`, ({ gates = [] }) => {
    offer(gates.flatMap((gate) => gate.reasons ?? []));
    return [gates.filter((gate) => !gate.ok).map((gate) => h("p.problem", `${gate.url}: ${gate.error}`)), refusals(gates, clear)];
  });
  found.element.querySelector(".section-head").after(h("form.filters", { role: "search", on: { submit: (event) => event.preventDefault() } }, reason, client, path));
  return { part: found, set };
}

function refusals(gates, clear) {
  if (gates.length === 0) return emptyState("gate", t("gates.none"), "");
  if (!gates.some((gate) => gate.ok)) return [];
  const rows = refusalsOf(gates);
  const sum = (key) => gates.reduce((all, gate) => all + (gate[key] ?? 0), 0);
  if (sum("kept") === 0) return emptyState("check", t("refused.nothing"), t("refused.nothing_text"));
  if (rows.length === 0) return emptyState("search", t("refused.none_such"), "", button(t("findings.clear"), { on: clear }));
  return [
    h("p.muted.log-count", t("refused.found", { n: rows.length, of: sum("total") })),
    table(
      t("refused.log"),
      [t("refused.time"), t("refused.client"), t("refused.reason"), t("refused.request"), t("gates.listener"), t("gates.route")],
      rows.map((row) => [
        timeAgo(row.time),
        h("code.address", row.client),
        h("span.num", h("code", row.reason), row.status > 0 && h("span.muted.num", ` ${row.status}`)),
        row.method ? h("code.long", `${row.method} ${row.host ?? ""}${row.path ?? ""}`) : h("span.muted", t("refused.no_request")),
        h("code", { title: row.gate }, row.listener),
        row.route ?? "–",
      ]),
    ),
  ];
}
