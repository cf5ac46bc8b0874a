// What is said in the reader's language of what came in English: the rules of the analyser, and why a job waits.
import assert from "node:assert/strict";
import test from "node:test";
import rules from "../../../web/i18n/rules-ko.js";
import { ruleName, translated } from "../../../web/lib/finding.js";
import { use } from "../../../web/lib/i18n.js";
import { waitingFor } from "../../../web/lib/waiting.js";

const SQL = { ruleId: "sql-injection", ruleName: "SQL injection", ruleHelp: { short: rules["sql-injection"].of } };

test("a rule of ours is explained in Korean, another of its name and one with other words are not", async () => {
  await use("ko");
  try {
    assert.equal(ruleName(SQL), "SQL 삽입");
    assert.match(translated(SQL).fix, /바인딩/);
    // While the analysis runs there is only the rule's id.
    assert.equal(ruleName({ ruleId: "weak-hash" }), "약한 해시 함수");
    for (const other of [{ ...SQL, ruleHelp: { short: "something else" } }, { ...SQL, ruleHelp: undefined }, { ...SQL, ruleHelp: {} , ruleId: "constructor" }]) {
      assert.equal(translated(other)?.name, undefined);
      assert.equal(ruleName(other), "SQL injection");
    }
  } finally {
    await use("en");
  }
  assert.equal(translated(SQL), undefined);
  assert.equal(ruleName(SQL), "SQL injection");
});

test("a Korean card has every part", () => {
  for (const [id, card] of Object.entries(rules)) {
    for (const part of ["of", "name", "short", "why", "fix", "limits"]) assert.ok(card[part]?.length > 3, `${id}: ${part}`);
    // Code stays code.
    for (const part of ["why", "fix", "limits"]) assert.equal((card[part].match(/`/g) ?? []).length % 2, 0, `${id}: ${part}`);
  }
});

test("why a job waits is said in the reader's language", async () => {
  const reasons = ["no worker offers the model `x`; offered: deep, source", "no worker offers the model `x`; none is there", "each worker that offers the model `x` is drained", "all workers are busy"];
  assert.deepEqual(reasons.map(waitingFor), [
    "No worker offers the model x; offered: deep, source. The job waits until one does.",
    "No worker offers the model x; none is there. The job waits until one comes.",
    "Each worker that offers the model x is drained. The job waits until one takes work again.",
    "All workers are busy. The job waits until one is free.",
  ]);
  await use("ko");
  try {
    for (const reason of reasons) assert.match(waitingFor(reason), /[가-힣]/);
  } finally {
    await use("en");
  }
  for (const other of ["the worker is silent", "", undefined, null]) assert.equal(waitingFor(other), undefined);
});
