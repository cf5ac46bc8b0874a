// Our own line icons on a 16 px grid, and the shapes of severities: a severity has a word and a shape, never colour alone.
import { svg } from "./dom.js";

const PATHS = {
  upload: "M8 10.5v-8M4.5 5.5 8 2l3.5 3.5M2.5 10.5v2a1 1 0 0 0 1 1h9a1 1 0 0 0 1-1v-2",
  jobs: "M2.5 4h2M2.5 8h2M2.5 12h2M7 4h6.5M7 8h6.5M7 12h6.5",
  status: "M1.5 8.5h3l2-5.5 3 10 2-4.5h3",
  settings: "M2 4.5h6M12 4.5h2M2 11.5h2M8 11.5h6M8 4.5a2 2 0 1 0 4 0 2 2 0 1 0-4 0M4 11.5a2 2 0 1 0 4 0 2 2 0 1 0-4 0",
  sun: "M8 5a3 3 0 1 1 0 6 3 3 0 0 1 0-6M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
  moon: "M13.5 9.7A5.8 5.8 0 0 1 6.3 2.5a5.8 5.8 0 1 0 7.2 7.2Z",
  auto: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 2v12",
  language: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M2 8h12M8 2c2 1.7 2.7 3.7 2.7 6S10 12.3 8 14c-2-1.7-2.7-3.7-2.7-6S6 3.7 8 2",
  leave: "M6.5 2.5h-3a1 1 0 0 0-1 1v9a1 1 0 0 0 1 1h3M10.5 11l3-3-3-3M13.5 8h-7",
  check: "m3 8.5 3.5 3.5L13 4.5",
  close: "M4 4l8 8M12 4l-8 8",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  play: "M5 3.2v9.6L12.5 8 5 3.2Z",
  stop: "M4 4h8v8H4z",
  trash: "M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.7 9h6.6l.7-9M6.7 7v4M9.3 7v4",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  download: "M8 2v8M4.5 6.5 8 10l3.5-3.5M2.5 13.5h11",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.3 10.3l3.2 3.2",
  file: "M4 1.5h5l3.5 3.5v9.5H4zM9 1.5V5h3.5",
  back: "M9.5 3.5 5 8l4.5 4.5",
  next: "M6.5 3.5 11 8l-4.5 4.5",
  down: "M3.5 6 8 10.5 12.5 6",
  retry: "M13 8a5 5 0 1 1-1.5-3.5M13 2v3h-3",
  box: "M2.5 5 8 2l5.5 3v6L8 14l-5.5-3zM2.5 5 8 8l5.5-3M8 8v6",
  gate: "M1.5 5.5C4 5.2 6.2 4 8 2c1.8 2 4 3.2 6.5 3.5M3 7.5h10M4.5 7.5V14M11.5 7.5V14",
  shield: "M8 1.5 13.5 3.5v4c0 3.5-2.2 5.8-5.5 7-3.3-1.2-5.5-3.5-5.5-7v-4zM5.5 8 7.3 9.8 10.5 6.3",
  key: "M5.5 7.5a3 3 0 1 1 0 6 3 3 0 0 1 0-6M7.7 8.3l5.8-5.8M11 5l2 2",
  bolt: "M9 1.5 3.5 9H8l-1 5.5L12.5 7H8z",
  plus: "M8 3v10M3 8h10",
  server: "M2.5 2.5h11v4h-11zM2.5 9.5h11v4h-11zM5 4.5h.01M5 11.5h.01",
};

/** A decorative icon, hidden from screen readers: the text beside it says the same. */
export function icon(name, size = 16) {
  return svg(
    "svg.icon",
    { viewBox: "0 0 16 16", width: size, height: size, "aria-hidden": "true", focusable: "false" },
    svg("path", { d: PATHS[name], fill: "none", stroke: "currentColor", "stroke-width": 1.5, "stroke-linecap": "round", "stroke-linejoin": "round" }),
  );
}

const SHAPES = {
  error: "M5.2 1.5h5.6l3.7 3.7v5.6l-3.7 3.7H5.2l-3.7-3.7V5.2z",
  warning: "M8 1.5 15 14H1z",
  note: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2",
};
const MARKS = { error: "M8 4.8v3.7M8 11.2v.01", warning: "M8 6.3v3M8 11.7v.01", note: "M8 7.5v3.3M8 5.2v.01" };

/** The shape of a severity: octagon, triangle or disc, with a mark inside. */
export function severityIcon(level, size = 16) {
  const known = SHAPES[level] ? level : "note";
  return svg(
    `svg.icon.severity-${known}`,
    { viewBox: "0 0 16 16", width: size, height: size, "aria-hidden": "true", focusable: "false" },
    svg("path", { d: SHAPES[known], fill: "currentColor", stroke: "currentColor", "stroke-width": 1, "stroke-linejoin": "round" }),
    svg("path.mark", { d: MARKS[known], fill: "none", "stroke-width": 1.7, "stroke-linecap": "round" }),
  );
}

/** The mark of the product: a gate with a swung roof. */
export function brandMark(size = 24) {
  return svg(
    "svg.brand-mark",
    { viewBox: "0 0 32 32", width: size, height: size, "aria-hidden": "true", focusable: "false" },
    svg("rect", { width: 32, height: 32, rx: 8 }),
    svg("path", {
      d: "M5.5 12.2C9.5 11.6 13 9.8 16 7c3 2.8 6.5 4.6 10.5 5.2M8.5 14.5h15M10 14.5V25M22 14.5V25M14 25v-5.5a2 2 0 0 1 4 0V25",
      fill: "none", stroke: "#fff", "stroke-width": 2.2, "stroke-linecap": "round", "stroke-linejoin": "round",
    }),
  );
}
