// Why the score is what it is: each contribution as a bar to the left (less likely) or right (more likely) of the middle.
import { h, svg } from "../lib/dom.js";
import { percent, signed, words } from "../lib/format.js";
import { has, t } from "../lib/i18n.js";

const WIDTH = 200;

/** `show(location)` is called for a contribution whose place the reader wants to see. */
export function scorePanel(score, show) {
  const { probability, margin, base, contributions = [], reliability } = score;
  const rows = [...contributions].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const largest = Math.max(1e-9, Math.abs(base ?? 0), Math.abs(margin ?? 0), ...rows.map((row) => Math.abs(row.value)));
  return h(
    "div.score",
    h("div.score-head", h("span.score-figure.num", percent(probability)), h("span.muted", t("score.means"))),
    h(
      "table.score-table",
      h("caption.visually-hidden", t("score.caption")),
      h("thead.visually-hidden", h("tr", h("th", { scope: "col" }, t("score.feature")), h("th", { scope: "col" }, t("score.bar")), h("th", { scope: "col" }, t("score.value")))),
      h(
        "tbody",
        row(t("score.base"), base ?? 0, largest, { kind: "base", title: t("score.base_text") }),
        rows.map((each) => row(featureName(each.feature), each.value, largest, { title: each.feature, link: each.locations?.length ? () => show(each.locations[0]) : undefined })),
        row(t("score.margin"), margin ?? 0, largest, { kind: "total", title: t("score.margin_text") }),
      ),
    ),
    h("p.score-scale.muted", h("span", `← ${t("score.less")}`), h("span", `${t("score.more")} →`)),
    h("p.reliability", reliabilityText(reliability)),
  );
}

function featureName(feature) {
  const key = `feature.${feature}`;
  if (has(key)) return t(key);
  const text = words(feature);
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function row(label, value, largest, { kind = "", title, link } = {}) {
  const middle = WIDTH / 2;
  const length = Math.max(Math.abs(value) > 0 ? 1.5 : 0, (Math.abs(value) / largest) * (middle - 4));
  return h(
    `tr${kind ? `.${kind}` : ""}`,
    h("th", { scope: "row", title }, link ? h("button.link", { type: "button", title: t("score.show"), on: { click: link } }, label) : label),
    h(
      "td.score-bar",
      svg(
        "svg",
        { viewBox: `0 0 ${WIDTH} 16`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" },
        svg("line.axis", { x1: middle, x2: middle, y1: 0, y2: 16, "vector-effect": "non-scaling-stroke" }),
        svg(`rect.${kind === "total" ? "total" : value < 0 ? "minus" : "plus"}`, { x: value < 0 ? middle - length : middle, y: 3, width: length, height: 10, rx: 1.5 }),
      ),
    ),
    h("td.num.score-value", signed(value)),
  );
}

// Honest about what was never measured.
function reliabilityText(reliability) {
  if (!reliability?.n || reliability.observed === null || reliability.observed === undefined) return t("score.unmeasured");
  return t("score.measured", { n: reliability.n, share: percent(reliability.observed), low: percent(reliability.low), high: percent(reliability.high) });
}
