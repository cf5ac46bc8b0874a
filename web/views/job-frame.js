// What the two faces of a job share: its head (name, status, connection, actions) and the tabs.
import { apiPath } from "../lib/api.js";
import { fill, h, setText } from "../lib/dom.js";
import { bytes, duration } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { isTerminal } from "../lib/store.js";
import { attempt, button, confirm, copyButton, elapsed, pageHead, statusBadge, timeAgo } from "../lib/widgets.js";

/** `update(state)` whenever the job changed. `here` is `progress` or `findings`. */
export function jobFrame(root, { api, live, signal, go, params }, here) {
  const { eventId } = params;
  const badge = h("span.job-badge");
  const name = h("span.job-title", eventId);
  const facts = h("div.facts.muted");
  const actions = h("div.page-actions");
  const base = `/jobs/${encodeURIComponent(eventId)}`;
  const count = h("span.tab-count.num");
  const tab = (face, label, extra) => h("a.tab", { href: face === "progress" ? base : `${base}/findings`, "aria-current": face === here ? "page" : undefined }, label, extra);
  root.append(
    h("a.crumb", { href: "/jobs" }, icon("back"), t("nav.jobs")),
    pageHead([name], badge, connection(live, signal), actions),
    facts,
    h("nav.tabs", { "aria-label": t("job.faces") }, tab("progress", t("job.progress")), tab("findings", t("job.findings"), count)),
  );
  let shown = "";
  let told = "";
  let offered = "";
  const update = (state) => {
    if (state.name) setText(name, state.name);
    const known = `${state.name}${isTerminal(state.status)}${Boolean(endOf(state))}`;
    if (known !== told) {
      told = known;
      fill(facts, factsOf(state, eventId));
    }
    setText(count, String([...state.analyses.values()].reduce((sum, each) => sum + (each.findings ?? 0), 0)));
    if (shown === state.status) return;
    shown = state.status;
    fill(badge, statusBadge(state.status));
    // A button that somebody is about to press stays the same button.
    const kind = state.status === "CANCELLING" || isTerminal(state.status) ? state.status : "live";
    if (kind !== offered) {
      offered = kind;
      fill(actions, actionsOf(state, { api, live, go, eventId }));
    }
    root.dataset.ended = String(isTerminal(state.status));
  };
  return { update };
}

// When the job ended, as far as its events tell: once they have expired nobody knows.
function endOf(state) {
  const last = state.endedAt ?? [...state.analyses.values()].map((each) => each.last).filter(Boolean).sort().pop();
  return isTerminal(state.status) && last ? new Date(last).getTime() : undefined;
}

function factsOf(state, eventId) {
  const end = endOf(state);
  return [
    h("span.num", bytes(state.size ?? Number.NaN)),
    h("span", t("job.begun"), " ", timeAgo(state.createdAt)),
    (end !== undefined || !isTerminal(state.status)) && h("span", end === undefined ? t("job.for") : t("job.took"), " ", elapsed(state.createdAt, () => end)),
    h("span.fact-id", h("code", eventId), copyButton(eventId, t("job.copy_id"))),
  ];
}

function actionsOf(state, { api, live, go, eventId }) {
  if (state.status === "CANCELLING") return [button(t("job.stopping"), { name: "stop", disabled: true })];
  if (!isTerminal(state.status)) {
    const stop = async () => {
      const sure = await confirm({ title: t("job.stop_title"), text: t("job.stop_text"), yes: t("job.stop") });
      if (!sure) return;
      if (!live.cancel(eventId)) await attempt(() => api.delete(apiPath("jobs", eventId)));
    };
    return [button(t("job.stop"), { name: "stop", kind: "danger", on: stop })];
  }
  const remove = async () => {
    const sure = await confirm({ title: t("job.remove_title"), text: t("job.remove_text"), yes: t("job.remove") });
    if (sure && (await attempt(() => api.delete(apiPath("jobs", eventId)), t("job.removed")))) go("/jobs");
  };
  const done = [...state.analyses.values()].filter((each) => each.status === "DONE");
  return [
    done.length > 0 && h("a.button", { href: apiPath("jobs", eventId, "report.sarif"), download: "report.sarif" }, icon("download"), h("span", "SARIF")),
    done.map((each) => h("a.button", { href: apiPath("jobs", eventId, "results", `${each.analyzeId}.tar.zst`), download: `${each.analyzeId}.tar.zst`, title: t("job.archive") }, icon("download"), h("span", done.length > 1 ? each.model : t("job.result")))),
    button(t("job.remove"), { name: "trash", on: remove }),
  ];
}

// Live, reconnecting (since when) or offline; hidden once the job has ended, when there is nothing to wait for.
function connection(live, signal) {
  const text = h("span.num");
  const element = h("span.connection", { role: "status" }, h("span.dot", { "aria-hidden": "true" }), text);
  const show = () => {
    const away = live.state === "reconnecting" || live.state === "offline";
    element.dataset.state = live.state;
    setText(text, away ? t(`live.${live.state}`, { time: duration(Math.floor((Date.now() - live.since) / 1000) * 1000) }) : t(`live.${live.state}`));
  };
  show();
  live.onState(show, signal);
  const timer = setInterval(() => live.state !== "live" && show(), 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return element;
}
