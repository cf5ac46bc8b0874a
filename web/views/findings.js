// The findings of a job: filters, the list, and the chosen one in full.
import { apiPath, query as queryString } from "../lib/api.js";
import { calmly, fill, h } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { compare, filter, idOf, placeOf, ruleName, scoreOf } from "../lib/finding.js";
import { follow } from "../lib/follow.js";
import { t } from "../lib/i18n.js";
import { severityIcon } from "../lib/icons.js";
import { isTerminal, levelOf } from "../lib/store.js";
import { button, emptyState, errorState, placeLine, skeleton } from "../lib/widgets.js";
import { filterBar } from "./finding-filters.js";
import { findingDetail } from "./finding.js";
import { jobFrame } from "./job-frame.js";

const PAGE = 200;
/** Loaded without asking; the rest at the reader's wish. */
const LOAD_MAX = 2000;

export default async function findings(root, context) {
  const { api, live, signal, params, query, go } = context;
  const frame = jobFrame(root, context, "findings");
  const body = h("div.findings");
  root.append(body);
  let state;
  const page = findingsPage(body, { api, signal, eventId: params.eventId, query });
  const soon = calmly(() => {
    if (signal.aborted) return;
    frame.update(state);
    page.takeLive(state);
  });
  try {
    const followed = await follow({
      api,
      live,
      signal,
      eventId: params.eventId,
      changed: (changed) => {
        state = changed;
        soon();
      },
      // The hub's list has what events don't carry: the rule's help, and all of it after the events have expired.
      ended: (over) => page.load(over),
    });
    state = followed.state();
    frame.update(state);
  } catch (error) {
    if (signal.aborted) throw error;
    fill(root, error.status === 404 ? emptyState("search", t("job.unknown"), t("job.unknown_text"), h("a.button.primary", { href: "/jobs" }, t("nav.jobs"))) : errorState(error, () => go(location.pathname + location.search, { replace: true })));
    return t("job.unknown");
  }
  return `${t("job.findings")} · ${state.name ?? ""}`;
}

function findingsPage(body, { api, signal, eventId, query }) {
  let all = [];
  let shown = [];
  let chosen = query.get("finding");
  let detail = null;
  let loaded = false;
  const list = h("ul.finding-list", { "aria-label": t("findings.list") });
  const more = h("div.more");
  const pane = h("div.finding-pane");
  const filters = filterBar(query, () => draw());
  const split = h("div.finding-split", h("div.finding-side", list, more), pane);
  fill(body, filters.element, split);
  fill(list, skeleton(6));

  const remember = () => {
    const search = queryString({ ...filters.asQuery(), finding: chosen });
    history.replaceState(null, "", `${location.pathname}${search}`);
  };
  const mark = (scroll) => {
    for (const item of list.querySelectorAll("a")) {
      if (item.dataset.id !== chosen) item.removeAttribute("aria-current");
      else {
        item.setAttribute("aria-current", "true");
        if (scroll) item.scrollIntoView({ block: "nearest" });
      }
    }
  };
  const open = (finding, { focus = true } = {}) => {
    chosen = finding ? idOf(finding) : null;
    split.dataset.open = String(Boolean(finding));
    mark(focus);
    remember();
    detail = finding ? { finding, ...findingDetail(finding, { api, signal, eventId, position: { at: shown.indexOf(finding) + 1, of: shown.length }, move, close: () => {
      open(null);
      list.querySelector("a")?.focus();
    } }) } : null;
    fill(pane, detail?.element);
    pane.scrollTop = 0;
    if (focus && finding) {
      pane.querySelector("h2")?.focus({ preventScroll: true });
      if (matchMedia("(max-width: 60rem)").matches) split.scrollIntoView({ block: "start" });
    }
  };
  const move = (by) => {
    const at = shown.findIndex((finding) => idOf(finding) === chosen);
    const next = shown[at + by];
    if (next) open(next);
  };
  const draw = () => {
    const active = filters.value();
    shown = filter(all, active).sort(compare);
    filters.update(all, shown.length);
    fill(list, shown.map((finding) => listItem(finding, () => open(finding))));
    split.dataset.empty = String(shown.length === 0);
    if (shown.length === 0) fill(list, h("li", nothing(all.length, loaded, filters)));
    const current = shown.find((finding) => idOf(finding) === chosen) ?? (matchMedia("(min-width: 60.01rem)").matches ? shown[0] : undefined);
    // What the reader looks at is drawn again only when it has become another one (or has got its help).
    if (current && current === detail?.finding) {
      mark(false);
      remember();
    } else open(current ?? null, { focus: false });
  };
  keys(signal, { step: (by) => detail?.step(by), move });
  let waiting = 0;
  let latest = null;
  signal.addEventListener("abort", () => clearTimeout(waiting));
  return {
    // Findings may come by the hundred: the list is drawn again at most twice a second, and a long one less often.
    takeLive(state) {
      latest = state;
      if (loaded || waiting || isTerminal(state.status)) return;
      if (all.length === 0 && state.findings.length === 0 && list.querySelector(".skeleton") === null) return;
      const takeNow = () => {
        waiting = 0;
        if (loaded || latest.findings.length === all.length && all.length > 0) return;
        all = latest.findings.slice();
        draw();
      };
      waiting = setTimeout(takeNow, all.length === 0 ? 0 : 500 + all.length);
    },
    async load(state) {
      const load = async (after) => {
        const answer = await api.get(`${apiPath("jobs", eventId, "findings")}${queryString({ limit: PAGE, after })}`, { signal });
        all = after ? [...all, ...(answer?.findings ?? [])] : (answer?.findings ?? []);
        loaded = true;
        // The first page at once, and what follows when it is all there.
        if (!after || !answer?.next || all.length >= LOAD_MAX) draw();
        if (!answer?.next) fill(more);
        else if (all.length < LOAD_MAX) await load(answer.next);
        else fill(more, button(t("findings.more"), { name: "down", on: () => load(answer.next) }));
      };
      try {
        await load();
      } catch (error) {
        if (signal.aborted) return;
        // A job that failed or was stopped may have kept nothing but its events.
        all = state.findings.slice();
        loaded = true;
        if (all.length > 0 || error.status === 404 || error.status === 409) draw();
        else fill(list, h("li", errorState(error, () => this.load(state))));
      }
    },
  };
}

function nothing(total, loaded, filters) {
  if (total > 0) return emptyState("search", t("findings.none_such"), "", button(t("findings.clear"), { on: filters.clear }));
  return loaded ? emptyState("check", t("findings.none"), t("findings.none_text")) : emptyState("bolt", t("findings.not_yet"), t("findings.not_yet_text"));
}

function listItem(finding, open) {
  const level = levelOf(finding);
  const score = scoreOf(finding);
  const choose = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    open();
  };
  return h(
    "li",
    h(
      "a.finding-item",
      { href: `?finding=${encodeURIComponent(idOf(finding))}`, data: { id: idOf(finding) }, on: { click: choose } },
      severityIcon(level),
      h("span.visually-hidden", `${t(`level.${level}`)}: `),
      h("span.finding-item-text", h("span.finding-item-rule", ruleName(finding)), placeLine(placeOf(finding))),
      score && h("span.num.muted", percent(score.probability)),
    ),
  );
}

// j/k walk the flow, n/p the findings; not while the reader types.
function keys(signal, { step, move }) {
  const acts = { j: () => step(1), k: () => step(-1), n: () => move(1), p: () => move(-1) };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof Element && event.target.closest("input, select, textarea, dialog")) return;
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }, { signal });
}
