// What ended analyses looked at and what they left out, with the reasons.
import { apiPath } from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { number } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { placeLine } from "../lib/widgets.js";

/**
 * The part of the job's page about coverage. `update(state)` asks for what is new; `changed` is called when it came, and
 * `unread()` then says why nothing could be read: `{ damaged, reasons }`, or undefined when something was.
 */
export function coverage({ api, signal }, eventId, changed) {
  const element = h("div.coverages");
  const known = new Map();
  const draw = () => {
    const summaries = [...known].filter(([, summary]) => summary && entriesOf(summary) > 0);
    fill(element, summaries.map(([analyzeId, summary]) => card(summary, apiPath("jobs", eventId, "coverage", analyzeId))));
    changed();
  };
  const ask = async (analyzeId) => {
    known.set(analyzeId, null);
    try {
      known.set(analyzeId, await api.get(apiPath("jobs", eventId, "coverage", analyzeId, "summary"), { signal }));
      if (!signal.aborted) draw();
    } catch (error) {
      // A model need not say what it looked at. When the hub was away, the next change asks again.
      if (!signal.aborted && error.status !== 404) known.delete(analyzeId);
    }
  };
  const update = (state) => {
    for (const [analyzeId, analysis] of state.analyses) if (analysis.status === "DONE" && !known.has(analyzeId)) ask(analyzeId);
  };
  return { element, update, unread: () => unreadOf([...known.values()]) };
}

const entriesOf = ({ analysed, skipped, truncated }) => analysed + skipped + truncated;

function unreadOf(summaries) {
  if (summaries.length === 0 || summaries.some((summary) => !summary || summary.analysed > 0)) return undefined;
  const reasons = summaries.flatMap((summary) => summary.reasons.slice(0, 3).map(({ reason, examples }) => `${examples[0] ?? ""}: ${reason}`));
  const damaged = summaries.some((summary) => summary.truncated > 0 || entriesOf(summary) === 0);
  return { damaged, reasons: [...new Set(reasons)] };
}

function card(summary, whole) {
  const { analysed, skipped, truncated, reasons, otherReasons } = summary;
  const left = skipped + truncated;
  const line = t("coverage.looked_at", { n: entriesOf(summary), done: number(analysed) });
  const link = h("a", { href: whole, download: "coverage.json" }, t("coverage.whole"));
  if (left === 0) return h("p.coverage-line.muted", icon("check", 14), h("span", line), link);
  return h(
    "details.card.coverage",
    h("summary", h("strong", t("coverage.left_out", { n: left })), h("span.muted", line)),
    h(
      "table.coverage-table",
      h("thead", h("tr", h("th", t("coverage.entries")), h("th", t("coverage.why")), h("th", t("coverage.such_as")))),
      h(
        "tbody",
        reasons.map(({ status, reason, count, examples }) =>
          h("tr", h("td.num", number(count)), h("td", status === "truncated" && h("span.muted", `${t("coverage.truncated")} · `), reason), h("td", examples.map((place) => placeLine(place)))),
        ),
        otherReasons > 0 && h("tr", h("td.num", number(otherReasons)), h("td", t("coverage.other")), h("td")),
      ),
    ),
    h("p.coverage-line.muted", link),
  );
}
