// Figures that are read again every few seconds; what could not be read stays, grey, with the time of the last answer.
import { fill, h, setText } from "./dom.js";
import { ago, clock } from "./format.js";
import { t } from "./i18n.js";
import { errorState, skeleton } from "./widgets.js";

const EVERY_MS = 5000;
/** Whether the server is there at all is asked more often: a figure of a server that is gone must not look well for long. */
const PULSE_MS = 2000;

/** Shows `parts` and keeps them fresh until `signal` aborts; answers what reads them now. */
export function board(root, parts, api, signal) {
  root.append(...parts.map((each) => each.element));
  let gone = false;
  const read = () => Promise.all(parts.map((each) => each.read(api, signal)));
  const beat = async () => {
    if (document.hidden) return;
    const was = gone;
    gone = !(await answers(api, signal));
    if (signal.aborted) return;
    for (const each of parts) each.age(gone);
    // Back again: no need to wait for the next round.
    if (was && !gone) read();
  };
  read();
  const timers = [setInterval(() => !document.hidden && read(), EVERY_MS), setInterval(beat, PULSE_MS)];
  signal.addEventListener("abort", () => timers.forEach(clearInterval));
  return read;
}

// A server that takes longer than the pulse for its shortest answer is as good as gone.
async function answers(api, signal) {
  try {
    await api.get("/api/health", { signal: AbortSignal.any([signal, AbortSignal.timeout(PULSE_MS)]) });
    return true;
  } catch {
    return false;
  }
}

/**
 * A part of a board: `url()` says where its figures are, `draw(answer, element)` makes of them what is shown. `read` reads
 * them now, also when they are being read already.
 */
export function part(name, title, url, draw) {
  const body = h("div.status-body", skeleton(2));
  const stale = h("span.stale.num", { hidden: true, role: "status" });
  const element = h("section.status-part", { data: { part: name } }, h("div.section-head", h("h2", title), stale), body);
  let readAt = 0;
  let reading = false;
  let again = false;
  let last = "";
  let failed = false;
  const age = (gone = false) => {
    const late = readAt > 0 && (gone || failed || Date.now() - readAt > 2.5 * EVERY_MS);
    element.classList.toggle("late", late);
    stale.hidden = !late;
    if (late) setText(stale, t("status.stale", { time: clock(readAt), ago: ago(readAt, Date.now()) }));
  };
  const read = async (api, signal) => {
    again = reading;
    if (reading) return;
    reading = true;
    try {
      const answer = await api.get(url(), { signal });
      readAt = Date.now();
      failed = false;
      // The same answer is not drawn again: focus and selection stay.
      const text = JSON.stringify(answer);
      if (text !== last) {
        last = text;
        redraw(body, draw(answer ?? {}, element));
      }
    } catch (error) {
      failed = true;
      if (!signal.aborted && readAt === 0) {
        element.hidden = false;
        fill(body, errorState(error));
      }
    } finally {
      reading = false;
      age();
      if (again && !signal.aborted) read(api, signal);
    }
  };
  return { element, read, age };
}

// What the reader has opened, and where the focus is, outlasts the next figures. Rows come and go: buttons have a key.
function redraw(body, content) {
  const all = (what) => [...body.querySelectorAll(what)];
  const open = all("summary").map((summary) => summary.parentElement.open);
  const focused = all("summary").indexOf(document.activeElement);
  const key = body.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  fill(body, content);
  all("summary").forEach((summary, index) => {
    summary.parentElement.open = open[index] ?? false;
  });
  const again = key ? all("[data-key]").find((element) => element.dataset.key === key) : all("summary")[focused];
  again?.focus({ preventScroll: true });
}

/** A table that becomes a list of cards where it would not fit. `columns` are names; rows are arrays of cells. */
export function table(caption, columns, rows) {
  return h(
    "div.table-wrap",
    h(
      "table.table",
      h("caption.visually-hidden", caption),
      h("thead", h("tr", columns.map((column) => h("th", { scope: "col" }, column)))),
      h("tbody", rows.map((cells) => h("tr", cells.map((cell, index) => h("td", { data: { label: columns[index] } }, cell))))),
    ),
  );
}
