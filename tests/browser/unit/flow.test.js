// How a flow is drawn beside code, how code is coloured and cut, and how a finding is read.
import assert from "node:assert/strict";
import test from "node:test";
import { compare, cwesOf, filter, idOf, placeOf, ruleName, stepsOf } from "../../../web/lib/finding.js";
import { arrows, badges, linesToShow, passing, segments } from "../../../web/lib/flow.js";
import { highlight, pieces } from "../../../web/lib/highlight.js";

const steps = (...lines) => lines.map((startLine) => ({ uri: "a", region: { startLine } }));

test("lines around each place are shown, small gaps too", () => {
  assert.deepEqual(linesToShow([{ startLine: 10 }], 100), [7, 8, 9, 10, 11, 12, 13]);
  assert.deepEqual(linesToShow([{ startLine: 2 }], 100), [1, 2, 3, 4, 5]);
  assert.deepEqual(linesToShow([{ startLine: 5 }, { startLine: 14 }], 20), Array.from({ length: 17 }, (_, index) => index + 1));
  assert.equal(linesToShow([{ startLine: 14 }], 19).at(-1), 19);
  assert.deepEqual(linesToShow([{}], 1), [1]);
});

test("neighbouring steps on one line share a badge; a later visit has its own", () => {
  assert.deepEqual(badges(steps(3, 3, 9, 3)).map((badge) => badge.steps), [[0, 1], [2], [3]]);
});

test("arrows straight down run through the badges, all others beside them without overlap", () => {
  const lanes = (...lines) => arrows(badges(steps(...lines))).map((arrow) => arrow.lane);
  assert.deepEqual(lanes(1, 5, 9), [0, 0]);
  assert.deepEqual(lanes(1, 9, 5), [1, 2]);
  assert.deepEqual(lanes(5, 1), [1]);
  assert.deepEqual(arrows(badges([...steps(1), { uri: "b", region: { startLine: 2 } }])), []);
});

test("a row draws the halves that arrows pass", () => {
  const [arrow] = arrows(badges(steps(2, 5)));
  assert.deepEqual(segments([arrow], "a", 2).map(({ upper, lower }) => [upper, lower]), [[false, true]]);
  assert.deepEqual(segments([arrow], "a", 3).map(({ upper, lower }) => [upper, lower]), [[true, true]]);
  assert.deepEqual(segments([arrow], "a", 5).map(({ upper, lower }) => [upper, lower]), [[true, false]]);
  assert.equal(segments([arrow], "a", 6).length, 0);
  assert.equal(passing([arrow], "a", 2, 3).length, 1);
  assert.equal(passing([arrow], "a", 5, 6).length, 0);
});

test("colours cover exactly the tokens, across lines", () => {
  const { lines, parts } = highlight('int x = 1; // one\n/* two\nlines */ String s = "a\\"b";', "A.java");
  const shown = lines.map((line, index) => parts[index].map(({ from, to, kind }) => `${kind}:${line.slice(from, to)}`));
  assert.deepEqual(shown, [["keyword:int", "number:1", "comment:// one"], ["comment:/* two"], ["comment:lines */", 'string:"a\\"b"']]);
});

test("pieces put together are the line, whatever the marks", () => {
  const text = 'String id = request.getParameter("id");';
  const { parts } = highlight(text, "A.java");
  for (let from = 0; from <= text.length; from += 3) {
    for (let to = from + 1; to <= text.length; to += 5) {
      const out = pieces(text, parts[0], [{ from, to }]);
      assert.equal(out.map((piece) => piece.text).join(""), text);
      assert.equal(out.filter((piece) => piece.marks.length).map((piece) => piece.text).join(""), text.slice(from, to));
    }
  }
});

const finding = {
  ruleId: "sql-injection",
  message: { text: "bad" },
  locations: [{ physicalLocation: { artifactLocation: { uri: "src/a%20b.java" }, region: { startLine: 7 } } }],
  partialFingerprints: { "munjigi/v1": "f1" },
  properties: { tags: ["external/cwe/cwe-089", "external/cwe/cwe-074"], munjigi: { probability: 0.7 } },
};

test("a finding is read whatever is missing", () => {
  assert.equal(placeOf(finding), "src/a b.java:7");
  assert.equal(idOf(finding), "f1");
  assert.equal(ruleName(finding), "SQL injection");
  assert.deepEqual(cwesOf(finding), [89, 74]);
  assert.deepEqual(cwesOf({ ...finding, ruleHelp: { cwe: [564] } }), [564]);
  assert.equal(stepsOf(finding)[0].number, 0);
  for (const broken of [{}, { locations: [] }, { codeFlows: [{}] }, { codeFlows: [{ threadFlows: [{ locations: [{}] }] }] }]) {
    assert.equal(typeof placeOf(broken) + typeof idOf(broken) + typeof ruleName(broken), "stringstringstring");
    assert.ok(Array.isArray(stepsOf(broken)));
    assert.equal(filter([broken], {}).length, 1);
  }
});

test("filters narrow by severity, CWE, path and text; errors and likely ones come first", () => {
  const other = { ...finding, level: "error", ruleId: "weak-hash", properties: { tags: ["external/cwe/cwe-328"] } };
  const all = [finding, other];
  assert.deepEqual(filter(all, { levels: new Set(["error"]) }), [other]);
  assert.deepEqual(filter(all, { cwe: "89" }), [finding]);
  assert.deepEqual(filter(all, { path: "SRC/" }), all);
  assert.deepEqual(filter(all, { text: "weak h" }), [other]);
  assert.deepEqual([...all].sort(compare), [other, finding]);
});
