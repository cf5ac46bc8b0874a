// One finding in full: what and where, the flow beside the code, why it matters, how to fix it, and how sure we are.
import { apiPath, query } from "../lib/api.js";
import { fill, h, say } from "../lib/dom.js";
import { path, percent } from "../lib/format.js";
import { cwesOf, idOf, placeIn, placeOf, ruleName, scoreOf, stepsOf, translated } from "../lib/finding.js";
import { currentLanguage, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { levelOf } from "../lib/store.js";
import { copyButton, iconButton, prose, severity } from "../lib/widgets.js";
import { codeView, kindOf } from "./code.js";
import { scorePanel } from "./score.js";

/** `{ element, step(by) }`; `close` goes back to the list on a narrow page. */
export function findingDetail(finding, { api, signal, eventId, position, move, close }) {
  const steps = stepsOf(finding);
  const score = scoreOf(finding);
  const sourceOf = sources(api, signal, eventId, finding.analyzeId);
  let chosen = steps.length - 1;
  const list = h("ol.flow-steps", { "aria-label": t("flow.steps") });
  const choose = (index, { scroll = true, speak = true } = {}) => {
    chosen = Math.max(0, Math.min(steps.length - 1, index));
    code.select(chosen, scroll);
    [...list.children].forEach((item, at) => item.firstElementChild.setAttribute("aria-current", String(at === chosen)));
    if (scroll) list.children[chosen]?.scrollIntoView({ block: "nearest" });
    const step = steps[chosen];
    if (speak && step?.number) say(t("flow.said", { n: step.number, of: steps.length, text: step.message }));
  };
  const code = codeView({ steps, sourceOf, choose });
  const flow = steps[0]?.number > 0;
  if (flow) fill(list, steps.map((step, index) => stepItem(step, index, steps, choose)));
  if (steps.length > 0) choose(chosen, { scroll: false, speak: false });
  const show = (location) => {
    const { uri, region } = placeIn(location);
    const at = steps.findIndex((step) => step.uri === uri && step.region.startLine === region.startLine);
    if (at >= 0) choose(at);
    else window.scrollTo({ top: 0 });
  };
  const element = h(
    "article.finding",
    { "aria-label": ruleName(finding) },
    head(finding, score, { position, move, close }),
    h(
      "section.finding-part",
      h("div.part-head", h("h3", flow ? t("flow.title") : t("flow.place"), flow && inEnglish()), flow && h("span.keys.muted", h("kbd", "j"), h("kbd", "k"), t("flow.keys"))),
      h(`div.flow${flow ? "" : ".single"}`, flow && list, code.element),
    ),
    help(finding),
    score && h("section.finding-part", h("h3", t("score.title")), scorePanel(score, show)),
    score && h("section.finding-part", h("h3", t("counter.title")), counterfactuals(score.counterfactuals ?? [], score.probability, sourceOf, finding)),
    foot(finding),
  );
  return { element, step: (by) => choose(chosen + by) };
}

function sources(api, signal, eventId, analyzeId) {
  const asked = new Map();
  return (uri) => {
    if (!asked.has(uri)) {
      const url = `${apiPath("jobs", eventId, "sources", analyzeId ?? "")}${query({ path: uri })}`;
      // While the analysis runs there are no sources yet: the finding's own snippets are shown.
      asked.set(uri, api.get(url, { signal, headers: { Accept: "text/plain" } }).then((text) => (typeof text === "string" ? text : undefined), () => undefined));
    }
    return asked.get(uri);
  };
}

function head(finding, score, { position, move, close }) {
  const cwes = cwesOf(finding);
  return h(
    "header.finding-head",
    h(
      "div.finding-top",
      h("div.finding-tags", severity(levelOf(finding)), cwes.map((cwe) => h("span.tag.num", `CWE-${cwe}`)), score && h("span.tag.num", { title: t("score.means") }, t("score.tag", { share: percent(score.probability) }))),
      h(
        "div.finding-bar",
        h("button.link.finding-close", { type: "button", on: { click: close } }, icon("back"), t("findings.list")),
        h("span.finding-position.num.muted", t("findings.position", position)),
        iconButton(t("findings.previous"), "back", () => move(-1)),
        iconButton(t("findings.next"), "next", () => move(1)),
      ),
    ),
    h("h2", { tabindex: "-1" }, ruleName(finding)),
    h("p.finding-message", { lang: "en" }, prose(finding.message?.text), inEnglish()),
    h("p.finding-place", icon("file"), h("code", placeOf(finding))),
  );
}

function stepItem(step, index, steps, choose) {
  // The function is named where the flow enters it.
  const inside = step.inside !== steps[index - 1]?.inside && step.inside;
  const kind = index === 0 ? "source" : index === steps.length - 1 ? "sink" : "between";
  const { startLine } = step.region;
  return h(
    "li",
    h(
      "button.flow-step",
      { type: "button", on: { click: () => choose(index) } },
      h(`span.flow-badge.${kind}.num`, { "aria-hidden": "true" }, String(step.number)),
      h("span.flow-step-text", h("span.flow-step-kind", kindOf(step)), h("span", { lang: "en" }, prose(step.message), inside && h("span.flow-step-inside", t("flow.inside", { name: inside }))), h("span.flow-step-place.num", `${path(step.uri).split("/").pop()}${startLine ? `:${startLine}` : ""}`)),
    ),
  );
}

function help(finding) {
  const card = finding.ruleHelp;
  if (!card) return h("section.finding-part", h("h3", t("help.why")), h("p.muted", t("help.later")));
  const own = translated(finding);
  const text = own ?? card;
  const lang = own ? currentLanguage() : "en";
  const language = languageOf(placeIn(finding.locations?.[0]).uri);
  const examples = card.examples ?? [];
  const mine = examples.filter((example) => example.language === language);
  const shown = mine.length ? mine : examples.slice(0, 1);
  const part = (key, ...content) => h("section.finding-part", { lang }, h("h3", { lang: currentLanguage() }, t(key), !own && inEnglish()), content);
  return [
    part("help.why", text.short && h("p.finding-short", prose(text.short)), text.why && h("p", prose(text.why))),
    part("help.fix", text.fix && h("p", prose(text.fix)), shown.map(exampleOf)),
    text.limits && part("help.limits", h("p", prose(text.limits))),
  ];
}

// What a model wrote itself is shown as it is; who reads another language is told why.
function inEnglish() {
  return currentLanguage() !== "en" && h("span.in-english", { lang: currentLanguage() }, ` ${t("help.in_english")}`);
}

function exampleOf({ vulnerable, fixed, language }) {
  return h(
    "div.examples",
    h("figure.example.bad", h("figcaption", icon("close", 14), t("help.vulnerable"), h("span.muted", language)), h("pre", { tabindex: "0" }, h("code", vulnerable))),
    h("figure.example.good", h("figcaption", icon("check", 14), t("help.fixed"), h("span.muted", language)), h("pre", { tabindex: "0" }, h("code", fixed))),
  );
}

function languageOf(uri) {
  const ending = /\.([A-Za-z]+)$/.exec(uri)?.[1]?.toLowerCase() ?? "";
  return { java: "java", py: "python", js: "javascript", jsx: "javascript", mjs: "javascript", cjs: "javascript", ts: "javascript", tsx: "javascript", c: "c", h: "c" }[ending] ?? ending;
}

function counterfactuals(all, before, sourceOf, finding) {
  if (all.length === 0) return h("p.muted", t("counter.none"));
  return all.map((one) => {
    const { startLine, endLine, newText = "" } = one.edit ?? {};
    const old = h("span");
    sourceOf(placeIn(finding.locations?.[0]).uri).then((text) => {
      const lines = text === undefined ? [] : text.split("\n").slice(startLine - 1, endLine);
      fill(old, lines.map((line) => h("span.diff.minus", `- ${line}\n`)));
    });
    const added = newText.replace(/\n$/, "").split("\n").filter((line, index, lines) => line || lines.length > 1);
    return h(
      "figure.counter",
      h("figcaption", icon(one.verdict === "gone" ? "check" : "bolt", 14), one.verdict === "gone" ? t("counter.gone") : t("counter.changed", { before: percent(before), after: percent(one.probability) })),
      h("pre", { tabindex: "0" }, h("code", old, added.map((line) => h("span.diff.plus", `+ ${line}\n`)))),
    );
  });
}

function foot(finding) {
  return h("footer.finding-foot.muted", h("span", t("finding.rule"), " ", h("code", finding.ruleId ?? "–")), h("span", t("finding.id"), " ", h("code", idOf(finding))), copyButton(idOf(finding), t("finding.copy_id")));
}
