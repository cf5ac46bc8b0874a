// The jobs of this user, the live ones moving.
import { query as queryString } from "../lib/api.js";
import { calmly, fill, h, setText } from "../lib/dom.js";
import { bytes, percent, words } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { countLevels, fold, isTerminal, newJob, progressOf, takeRow } from "../lib/store.js";
import { button, emptyState, errorState, levelCounts, pageHead, progressBar, skeleton, statusBadge, timeAgo } from "../lib/widgets.js";

const PAGE = 30;
/** More live jobs than this are shown as they were when the list was loaded. */
const LIVE_MAX = 20;
const STATUSES = ["", "RUNNING", "QUEUED", "DONE", "FAILED", "CANCELLED"];

export default async function jobs(root, { api, live, query, signal, go }) {
  const status = STATUSES.includes(query.get("status") ?? "") ? (query.get("status") ?? "") : "";
  const list = h("div.rows.card.job-rows");
  const more = h("div.more");
  root.append(
    pageHead(t("jobs.title"), h("div.page-actions", h("a.button.primary", { href: "/" }, icon("plus"), h("span", t("jobs.new"))))),
    h("div.tabs", { role: "group", "aria-label": t("jobs.filter") }, STATUSES.map((each) => h("button.tab", { type: "button", "aria-pressed": String(each === status), on: { click: () => go(each ? `/jobs?status=${each}` : "/jobs") } }, each ? t(`status.${each}`) : t("jobs.all")))),
    list,
    more,
  );
  fill(list, skeleton(5));
  let following = 0;
  const load = async (before) => {
    const answer = await api.get(`/api/jobs${queryString({ limit: PAGE, status, before })}`, { signal });
    const found = answer?.jobs ?? [];
    if (!before) fill(list);
    for (const job of found) {
      const row = jobRow(job);
      list.append(row.element);
      if (!isTerminal(job.status) && following < LIVE_MAX) {
        following += 1;
        followRow(job, row, live, signal);
      }
    }
    const last = found[found.length - 1];
    fill(more, found.length === PAGE && button(t("jobs.more"), { name: "down", on: (event) => {
      event.currentTarget.disabled = true;
      load(answer.next ?? last.eventId).catch((error) => !signal.aborted && fill(more, errorState(error)));
    } }));
    if (list.childElementCount === 0) {
      fill(list, status ? emptyState("search", t("jobs.none_such"), "", h("a.button", { href: "/jobs" }, t("jobs.all"))) : emptyState("box", t("jobs.none"), t("jobs.none_text"), h("a.button.primary", { href: "/" }, t("jobs.new"))));
    }
  };
  load().catch((error) => !signal.aborted && fill(list, errorState(error, () => go(location.pathname + location.search, { replace: true }))));
  return t("jobs.title");
}

/** A job as one line: `element`, and `update(state)` with a folded job while it is live. */
export function jobRow(job) {
  const badge = h("span.job-status");
  const detail = h("span.job-detail.muted");
  const bar = progressBar(t("job.progress_of", { name: job.name }));
  const counts = h("span.job-counts");
  const element = h(
    "a.row.job-row",
    { href: `/jobs/${encodeURIComponent(job.eventId)}` },
    badge,
    h("span.job-main", h("span.job-name", { title: job.name }, job.name ?? job.eventId), h("span.job-under", detail, bar.element)),
    counts,
    h("span.job-size.num.muted", bytes(job.size ?? Number.NaN)),
    h("span.job-when.muted", timeAgo(job.createdAt)),
  );
  let shown = "";
  const update = (state, levels) => {
    if (shown !== state.status) {
      shown = state.status;
      fill(badge, statusBadge(state.status));
    }
    const analyses = [...(state.analyses.values?.() ?? state.analyses)];
    const running = analyses.map((each) => progressOf(each)).find(Boolean);
    bar.element.hidden = isTerminal(state.status) || !running;
    if (running) bar.update(running.share);
    setText(detail, detailOf(analyses, running));
    const total = analyses.reduce((sum, each) => sum + (each.findings ?? 0), 0);
    fill(counts, levels ? levelCounts(levels) : h("span.num", total || state.status === "DONE" ? t("jobs.findings", { n: total }) : ""));
  };
  update({ status: job.status, analyses: job.analyses ?? [] }, job.levels);
  return { element, update };
}

function detailOf(analyses, running) {
  const failed = analyses.find((each) => each.error);
  if (failed) return failed.error;
  const models = [...new Set(analyses.map((each) => each.model).filter(Boolean))].join(", ");
  if (!running) return models;
  return [models, words(running.phase), running.share === undefined ? "" : percent(running.share)].filter(Boolean).join(" · ");
}

function followRow(job, row, live, signal) {
  let state = newJob(job.eventId);
  takeRow(state, job);
  const show = calmly(() => !signal.aborted && row.update(state, state.findings.length ? countLevels(state.findings) : undefined));
  const stop = new AbortController();
  signal.addEventListener("abort", () => stop.abort());
  const handle = live.follow(job.eventId, {
    event: (data) => {
      if (fold(state, data) === "gap") handle.restart();
      show();
      if (isTerminal(state.status)) stop.abort();
    },
    subscribed: ({ status, recovered }) => {
      if (recovered === false) {
        state.status = status ?? state.status;
        show();
      }
    },
    reset: () => {
      state = newJob(job.eventId);
      takeRow(state, job);
    },
    ended: () => isTerminal(state.status),
  }, stop.signal);
}
