// Filters by severity, CWE, path and text; they live in the address, so that a filtered list can be passed on.
import { fill, h, setText } from "../lib/dom.js";
import { cwesOf, fileOf } from "../lib/finding.js";
import { t } from "../lib/i18n.js";
import { icon, severityIcon } from "../lib/icons.js";
import { countLevels } from "../lib/store.js";

const LEVELS = ["error", "warning", "note"];
/** Folders offered for the path. */
const FOLDERS_MAX = 60;

export function filterBar(query, changed) {
  const levels = new Set((query.get("severity") ?? "").split(",").filter((level) => LEVELS.includes(level)));
  let wantedCwe = query.get("cwe") ?? "";
  const text = h("input", { type: "search", value: query.get("q") ?? "", placeholder: t("filter.text"), "aria-label": t("filter.text"), on: { input: () => changed() } });
  const cwe = h("select", { "aria-label": t("filter.cwe"), on: { change: () => {
    wantedCwe = cwe.value;
    changed();
  } } });
  const path = h("input", { type: "text", value: query.get("path") ?? "", placeholder: t("filter.path"), "aria-label": t("filter.path"), list: "folders", on: { input: () => changed() } });
  const folders = h("datalist", { id: "folders" });
  const result = h("span.filter-result.num.muted", { role: "status" });
  const chips = LEVELS.map((level) => {
    const count = h("span.num");
    const chip = h("button.chip", { type: "button", "aria-pressed": String(levels.has(level)), on: { click: () => {
      if (levels.has(level)) levels.delete(level);
      else levels.add(level);
      chip.setAttribute("aria-pressed", String(levels.has(level)));
      changed();
    } } }, severityIcon(level, 14), h("span", t(`level.${level}`)), count);
    return { level, chip, count };
  });
  const value = () => ({ text: text.value, levels, cwe: wantedCwe, path: path.value });
  let offered = "";
  const update = (all, found) => {
    const counts = countLevels(all);
    for (const { level, count } of chips) setText(count, String(counts[level]));
    setText(result, found === all.length ? t("filter.all", { n: found }) : t("filter.some", { n: found, of: all.length }));
    const numbers = [...new Set(all.flatMap((finding) => cwesOf(finding)))].sort((a, b) => a - b);
    const key = numbers.join();
    if (key !== offered || cwe.childElementCount === 0) {
      offered = key;
      fill(cwe, h("option", { value: "" }, t("filter.any_cwe")), numbers.map((number) => h("option", { value: String(number), selected: String(number) === wantedCwe }, `CWE-${number}`)));
    }
    const names = [...new Set(all.map((finding) => fileOf(finding).split("/").slice(0, -1).join("/")).filter(Boolean))].sort().slice(0, FOLDERS_MAX);
    if (folders.childElementCount !== names.length) fill(folders, names.map((name) => h("option", { value: name })));
  };
  const clear = () => {
    levels.clear();
    for (const { chip } of chips) chip.setAttribute("aria-pressed", "false");
    text.value = "";
    path.value = "";
    wantedCwe = "";
    cwe.value = "";
    changed();
  };
  const element = h(
    "div.filters",
    { role: "search", "aria-label": t("filter.label") },
    h("span.filter-text", icon("search"), text),
    h("span.chips", chips.map(({ chip }) => chip)),
    cwe,
    path,
    folders,
    result,
  );
  return { element, value, update, clear, asQuery: () => ({ q: text.value, severity: [...levels].join(","), cwe: wantedCwe, path: path.value }) };
}
