// The code with the flow beside its lines: numbered badges, the arrows between them, the marked part of each line, and
// under the chosen step what happens there.
import { fill, h } from "../lib/dom.js";
import { path } from "../lib/format.js";
import { arrows, badges, closeGaps, linesToShow, passing, segments } from "../lib/flow.js";
import { highlight, pieces } from "../lib/highlight.js";
import { t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { prose } from "../lib/widgets.js";

/** Of a longer line only the part around the first mark is shown. */
const COLUMNS_MAX = 500;
/** Lines that one click unfolds. */
const UNFOLD = 40;

/**
 * `steps` as `stepsOf` gives them; `sourceOf(uri)` resolves to a file's text or undefined. `choose(index)` is called when
 * the reader picks a step. Answers `{ element, select(index, scroll) }`.
 */
export function codeView({ steps, sourceOf, choose }) {
  const element = h("div.code-files");
  const uris = [...new Set(steps.map((step) => step.uri))];
  const all = badges(steps);
  const flow = { steps, all, edges: arrows(all), choose, chosen: -1 };
  const files = uris.map((uri) => codeFile(uri, flow, sourceOf));
  element.append(...files.map((file) => file.element));
  return {
    element,
    select(index, scroll) {
      flow.chosen = index;
      for (const file of files) file.draw();
      if (scroll) element.querySelector(".code-note")?.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    },
  };
}

function codeFile(uri, flow, sourceOf) {
  const body = h("div.code-body", { tabindex: "0", role: "region", "aria-label": path(uri) });
  const element = h("section.code-file", h("header.code-head", icon("file"), h("span.code-path", path(uri))), body);
  const places = flow.steps.filter((step) => step.uri === uri);
  let text = fromSnippets(places);
  let shown = linesToShow(places.map((step) => step.region), text.last);
  const lanes = Math.max(0, ...flow.edges.filter((edge) => edge.uri === uri).map((edge) => edge.lane));
  body.style.setProperty("--lanes", String(lanes));
  const unfold = (from, to) => {
    const fresh = [];
    for (let line = from; line <= Math.min(to, from + UNFOLD - 1); line += 1) fresh.push(line);
    shown = closeGaps([...new Set([...shown, ...fresh])].sort((a, b) => a - b), text.last);
    draw();
  };
  const draw = () => {
    const all = rows({ uri, flow, text, shown, unfold });
    fill(body, all.length > 0 ? h("div.code-lines", all) : h("p.code-none.muted", t("code.none")));
  };
  draw();
  sourceOf(uri).then((source) => {
    if (source === undefined) return;
    text = fromSource(source, uri);
    shown = linesToShow(places.map((step) => step.region), text.last);
    draw();
  });
  return { element, draw };
}

function fromSource(source, uri) {
  const { lines, parts } = highlight(source.replace(/\r\n?/g, "\n"), uri);
  if (lines.length > 1 && lines[lines.length - 1] === "") lines.pop();
  return { last: lines.length, line: (number) => ({ text: lines[number - 1] ?? "", parts: parts[number - 1] ?? [] }), has: () => true, whole: true };
}

// Until (or instead of) the file itself: what the finding carries of it.
function fromSnippets(places) {
  const known = new Map();
  for (const { region, context } of places) {
    for (const part of [region, context]) {
      const snippet = part?.snippet?.text;
      if (snippet === undefined || !part.startLine) continue;
      // The snippet of a region begins at its column, not at the line's begin; the wider one wins.
      if (part === region && context?.snippet) continue;
      const { lines, parts } = highlight(snippet.replace(/\r\n?/g, "\n").replace(/\n$/, ""), places[0].uri);
      const indent = part === region ? (region.startColumn ?? 1) - 1 : 0;
      lines.forEach((line, index) => {
        const shift = index === 0 ? indent : 0;
        if (!known.has(part.startLine + index)) known.set(part.startLine + index, { text: " ".repeat(Math.min(shift, 200)) + line, parts: parts[index].map((each) => ({ ...each, from: each.from + shift, to: each.to + shift })) });
      });
    }
  }
  return { last: Math.max(0, ...known.keys()), line: (number) => known.get(number) ?? { text: "", parts: [] }, has: (number) => known.has(number), whole: false };
}

function rows({ uri, flow, text, shown, unfold }) {
  const out = [];
  let before = 0;
  for (const line of shown) {
    if (!text.has(line)) continue;
    if (line > before + 1) out.push(gapRow(uri, flow, before, line, text, unfold));
    out.push(lineRow(uri, flow, line, text.line(line)));
    const note = noteRow(uri, flow, line);
    if (note) out.push(note);
    before = line;
  }
  if (text.whole && before < text.last) out.push(gapRow(uri, flow, before, text.last + 1, text, unfold));
  return out;
}

function gapRow(uri, flow, above, below, text, unfold) {
  const count = below - above - 1;
  const label = t("code.folded", { n: count });
  return h(
    "div.code-row.code-gap",
    flowCell(passing(flow.edges, uri, above, below), []),
    h("span.code-number"),
    text.whole ? h("button.code-unfold", { type: "button", on: { click: () => unfold(above + 1, below - 1) } }, icon("down", 12), label) : h("span.code-unfold.muted", "⋯"),
  );
}

function lineRow(uri, flow, line, { text, parts }) {
  const here = flow.all.filter((badge) => badge.uri === uri && badge.line === line && flow.steps[badge.steps[0]].number > 0);
  const marks = marksOf(uri, flow, line, text.length);
  const chosen = flow.steps[flow.chosen];
  const isChosen = chosen && chosen.uri === uri && chosen.region.startLine === line;
  return h(
    `div.code-row${isChosen ? ".chosen" : ""}${marks.length ? ".marked" : ""}`,
    flowCell(segments(flow.edges, uri, line), here.map((badge) => badgeButton(badge, flow))),
    h("span.code-number.num", String(line)),
    h("code.code-text", lineParts(text, parts, marks, flow)),
  );
}

function flowCell(lines, buttons) {
  return h(
    "span.code-flow",
    lines.map((line) => h(`span.lane${line.upper ? ".upper" : ""}${line.lower ? ".lower" : ""}${line.end ? ".end" : ""}${line.head ? ".head" : ""}`, { "aria-hidden": "true", style: { "--lane": String(line.lane) } })),
    h("span.badges", buttons),
  );
}

function badgeButton(badge, flow) {
  const first = badge.steps[0];
  const last = badge.steps[badge.steps.length - 1];
  const number = flow.steps[first].number;
  const label = first === last ? String(number) : `${number}–${flow.steps[last].number}`;
  const kind = last === flow.steps.length - 1 ? "sink" : first === 0 ? "source" : "between";
  // Several steps on one line: each press goes to the next of them.
  const press = () => {
    const at = badge.steps.indexOf(flow.chosen);
    flow.choose(badge.steps[(at + 1) % badge.steps.length]);
  };
  return h(`button.flow-badge.${kind}.num`, { type: "button", "aria-label": t("code.step", { number: label }), "aria-pressed": String(badge.steps.includes(flow.chosen)), on: { click: press } }, label);
}

function marksOf(uri, flow, line, length) {
  const marks = [];
  flow.steps.forEach((step, index) => {
    const { startLine, startColumn = 1, endLine = startLine, endColumn } = step.region;
    if (step.uri !== uri || !startLine || line < startLine || line > endLine) return;
    const from = line === startLine ? startColumn - 1 : 0;
    const to = line === endLine && endColumn ? endColumn - 1 : length;
    if (to > from) marks.push({ from: Math.min(from, length), to: Math.min(to, length), index });
  });
  return marks;
}

function lineParts(text, parts, marks, flow) {
  const offset = text.length > COLUMNS_MAX ? Math.max(0, (marks[0]?.from ?? 0) - 120) : 0;
  const cut = text.slice(offset, offset + COLUMNS_MAX);
  const moved = (list) => list.map((each) => ({ ...each, from: each.from - offset, to: each.to - offset })).filter((each) => each.to > 0 && each.from < cut.length).map((each) => ({ ...each, from: Math.max(0, each.from) }));
  const shifted = moved(marks);
  const out = pieces(cut, moved(parts), shifted).map((piece) => {
    const kind = piece.kind ? `.tok-${piece.kind}` : "";
    if (piece.marks.length === 0) return piece.kind ? h(`span${kind}`, piece.text) : piece.text;
    const chosen = piece.marks.some((position) => shifted[position].index === flow.chosen);
    return h(`mark${kind}${chosen ? ".chosen" : ""}`, piece.text);
  });
  return [offset > 0 && h("span.muted", "… "), out.length ? out : " ", offset + COLUMNS_MAX < text.length && h("span.muted", " …")];
}

function noteRow(uri, flow, line) {
  const step = flow.steps[flow.chosen];
  if (!step || step.uri !== uri || !step.message) return null;
  const end = step.region.startLine;
  if (end !== line) return null;
  return h(
    "div.code-row.code-note",
    flowCell(passing(flow.edges, uri, line, line + 1), []),
    h("span.code-number"),
    h("div.code-note-text", step.number > 0 && h("strong.num", `${step.number} · ${kindOf(step)}`), h("span", prose(step.message))),
  );
}

/** The kind of a step in words. */
export function kindOf(step) {
  const known = ["source", "sink", "sanitizer", "call", "return", "guard", "branch", "field", "capture", "propagator"];
  const kind = known.find((each) => step.kinds.includes(each)) ?? "propagator";
  return t(`step.${kind}`);
}
