// How a flow is drawn beside code: which lines show, and through which lane each arrow runs. Pure.

/** Lines shown above and below each place. */
const CONTEXT = 3;
/** Gaps of at most so many lines are shown rather than folded. */
const GAP_MAX = 2;
const LANES_MAX = 3;
/** Of a place that spans more lines only the first ones are opened. */
const SPAN_MAX = 12;

/** The lines of one file to show around `places` (`[{ startLine, endLine }]`), of `last` lines in all, as a sorted list. */
export function linesToShow(places, last) {
  const lines = new Set();
  for (const { startLine, endLine } of places) {
    if (!startLine) continue;
    const end = Math.min(endLine ?? startLine, startLine + SPAN_MAX);
    for (let line = Math.max(1, startLine - CONTEXT); line <= Math.min(last, end + CONTEXT); line += 1) lines.add(line);
  }
  return closeGaps([...lines].sort((a, b) => a - b), last);
}

/** Fills gaps that are too small to fold. */
export function closeGaps(lines, last) {
  const out = [];
  for (const line of lines) {
    const before = out.length ? out[out.length - 1] : 0;
    if (line - before - 1 <= GAP_MAX) for (let between = before + 1; between < line; between += 1) out.push(between);
    out.push(line);
  }
  const end = out.length ? out[out.length - 1] : 0;
  if (last - end <= GAP_MAX) for (let after = end + 1; after <= last; after += 1) out.push(after);
  return out;
}

/** Steps gathered into badges: neighbours on one line share one. `[{ line, steps: [index…] }]` in the order of the flow. */
export function badges(steps) {
  const out = [];
  steps.forEach((step, index) => {
    const last = out[out.length - 1];
    if (last && last.uri === step.uri && last.line === step.region.startLine) last.steps.push(index);
    else out.push({ uri: step.uri, line: step.region.startLine, steps: [index] });
  });
  return out;
}

/**
 * Arrows between neighbouring badges of one file. An arrow straight down to the next badge runs in lane 0, through the
 * badges; one that goes up or past other badges gets a lane beside them, so that no two overlap where there is room.
 */
export function arrows(all) {
  const out = [];
  const taken = [];
  for (let index = 0; index + 1 < all.length; index += 1) {
    const from = all[index];
    const to = all[index + 1];
    if (from.uri !== to.uri || from.line === to.line) continue;
    const low = Math.min(from.line, to.line);
    const high = Math.max(from.line, to.line);
    const passes = all.some((badge) => badge.uri === from.uri && badge.line > low && badge.line < high);
    let lane = 0;
    if (to.line < from.line || passes) {
      lane = 1;
      while (lane < LANES_MAX && taken.some((other) => other.lane === lane && other.uri === from.uri && low <= other.high && high >= other.low)) lane += 1;
    }
    const arrow = { uri: from.uri, from: from.line, to: to.line, low, high, lane };
    if (lane > 0) taken.push(arrow);
    out.push(arrow);
  }
  return out;
}

/** What of the arrows a row draws: `[{ lane, upper, lower, end }]`. `upper`/`lower`: the line runs in that half of the row. */
export function segments(all, uri, line) {
  return all
    .filter((arrow) => arrow.uri === uri && arrow.low <= line && line <= arrow.high)
    .map((arrow) => ({ lane: arrow.lane, upper: line > arrow.low, lower: line < arrow.high, end: line === arrow.from || line === arrow.to, head: line === arrow.to && arrow.lane > 0 }));
}

/** What a folded or inserted row between `above` and `below` draws: the lanes that pass it. */
export function passing(all, uri, above, below) {
  return all.filter((arrow) => arrow.uri === uri && arrow.low <= above && arrow.high >= below).map((arrow) => ({ lane: arrow.lane, upper: true, lower: true, end: false, head: false }));
}
