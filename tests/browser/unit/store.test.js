// The store folds a job's events as the hub does: the same table as crates/events/src/fold.rs, and seeded streams.
import assert from "node:assert/strict";
import test from "node:test";
import { countLevels, emptiness, fold, isTerminal, jobStatus, newJob, progressOf, takeRow } from "../../../web/lib/store.js";

const at = "2026-11-21T03:05:00.000Z";
const event = (attempt, seq, status, more = {}) => ({ userId: "u", eventId: "e", serverId: null, analyzeId: "a", status, createdAt: at, seq, attempt, ...more });

test("events fold in order, once", () => {
  const job = newJob("e");
  for (const [each, expected] of [
    [event(1, 2, "PLACED"), "gap"],
    [event(1, 1, "QUEUED"), "next"],
    [event(1, 1, "QUEUED"), "old"],
    [event(1, 2, "PLACED"), "next"],
    [event(1, 4, "RUNNING"), "gap"],
    [event(2, 2, "RUNNING"), "gap"],
    [event(2, 1, "QUEUED"), "next"],
    [event(1, 3, "RUNNING"), "old"],
    [event(2, 2, "FAILED"), "next"],
  ]) {
    assert.equal(fold(job, each), expected, `${each.attempt}/${each.seq}`);
  }
  assert.equal(job.status, "FAILED");
});

test("a job is what its analyses are", () => {
  for (const [statuses, expected] of [
    [["DONE", "DONE"], "DONE"],
    [["DONE", "FAILED"], "FAILED"],
    [["DONE", "RUNNING"], "RUNNING"],
    [["FAILED", "RUNNING"], "RUNNING"],
    [["RUNNING", "QUEUED"], "QUEUED"],
    [["CANCELLED", "CANCELLING"], "CANCELLING"],
    [["CANCELLED", "DONE"], "CANCELLED"],
    [[], "QUEUED"],
  ]) {
    assert.equal(jobStatus(statuses), expected, statuses.join());
  }
});

test("a new attempt starts without the findings of the old one", () => {
  const job = newJob("e");
  const finding = { ruleId: "sql-injection", level: "error" };
  fold(job, event(1, 1, "QUEUED"));
  fold(job, event(1, 2, "RUNNING", { finding, serverId: "143" }));
  assert.deepEqual(countLevels(job.findings), { error: 1, warning: 0, note: 0 });
  fold(job, event(2, 1, "CANCELLING"));
  assert.equal(job.findings.length, 0);
  assert.equal(job.analyses.get("a").findings, 0);
  assert.equal(job.status, "CANCELLING");
});

test("a job that is stopped still shows how far it had come; a second try starts over", () => {
  const job = newJob("e");
  fold(job, event(1, 1, "QUEUED"));
  fold(job, event(1, 2, "RUNNING"));
  fold(job, event(2, 1, "QUEUED"));
  assert.deepEqual([Object.keys(job.analyses.get("a").reached), job.analyses.get("a").tries], [["QUEUED"], 2]);
  fold(job, event(2, 2, "PLACED"));
  fold(job, event(3, 1, "CANCELLING"));
  assert.deepEqual([Object.keys(job.analyses.get("a").reached), job.analyses.get("a").tries], [["QUEUED", "PLACED", "CANCELLING"], 2]);
});

test("a model that failed broke in the phase before it was collected", () => {
  const job = newJob("e");
  fold(job, event(1, 1, "QUEUED"));
  fold(job, event(1, 2, "RUNNING"));
  fold(job, event(1, 3, "COLLECTING", { error: "out of memory" }));
  fold(job, event(1, 4, "FAILED"));
  assert.equal(job.analyses.get("a").brokeIn, "RUNNING");
  assert.equal(job.analyses.get("a").error, "out of memory");
});

test("the row gives names; events give states, until events are gone", () => {
  const job = newJob("e");
  const row = { name: "a.zip", size: 3, createdAt: at, status: "RUNNING", analyses: [{ analyzeId: "a", model: "source", status: "RUNNING", serverId: "1", attempt: 1, findings: 2 }] };
  takeRow(job, row);
  assert.equal(job.status, "RUNNING");
  assert.equal(fold(job, event(1, 1, "QUEUED")), "next");
  assert.equal(job.analyses.get("a").model, "source");
  assert.equal(job.analyses.get("a").findings, 0);
  job.incomplete = true;
  takeRow(job, { ...row, status: "DONE", analyses: [{ ...row.analyses[0], status: "DONE" }] });
  assert.equal(job.status, "DONE");
  assert.equal(job.analyses.get("a").findings, 2);
});

test("progress without a total has no share; an ended analysis has none at all", () => {
  assert.equal(progressOf({ status: "RUNNING", progress: { phase: "parse", done: 3 } }).share, undefined);
  assert.equal(progressOf({ status: "RUNNING", progress: { phase: "parse", done: 3, total: 4 } }).share, 0.75);
  assert.equal(progressOf({ status: "RUNNING", progress: { phase: "parse", done: 9, total: 4 } }).share, 1);
  assert.equal(progressOf({ status: "DONE", progress: { phase: "parse", done: 3, total: 4 } }), undefined);
});

// A small generator, so that a failing stream can be made again from its seed.
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

test("whatever is repeated or comes late, the fold is that of the clean stream", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const next = random(seed);
    const stream = [];
    for (const analyzeId of ["a", "b"]) {
      let attempt = 1;
      for (let seq = 1; seq <= 12; seq += 1) {
        stream.push({ ...event(attempt, seq, seq === 1 ? "QUEUED" : "RUNNING"), analyzeId, ...(next() < 0.3 ? { finding: { ruleId: `r${seq}` } } : {}) });
        if (next() < 0.15) {
          attempt += 1;
          seq = 0;
          if (attempt > 3) break;
        }
      }
    }
    const clean = newJob("e");
    for (const each of stream) assert.equal(fold(clean, each), "next", `seed ${seed}`);
    const noisy = newJob("e");
    stream.forEach((each, index) => {
      fold(noisy, each);
      // Something from before, again; something from later, too early.
      assert.notEqual(fold(noisy, stream[Math.floor(next() * (index + 1))]), "next", `seed ${seed}`);
      const ahead = stream[index + 2];
      if (ahead && ahead.analyzeId === each.analyzeId && ahead.attempt === each.attempt) assert.equal(fold(noisy, ahead), "gap", `seed ${seed}`);
    });
    assert.deepEqual([...noisy.analyses], [...clean.analyses], `seed ${seed}`);
    assert.deepEqual(noisy.findings, clean.findings, `seed ${seed}`);
    assert.equal(noisy.events.length, stream.length, `seed ${seed}`);
  }
});

test("the three ends are terminal", () => {
  assert.deepEqual(["DONE", "FAILED", "CANCELLED", "CANCELLING", "RUNNING"].map(isTerminal), [true, true, true, false, false]);
});

test("an empty list says why it is empty", () => {
  const job = newJob("e");
  takeRow(job, { status: "DONE", analyses: [{ analyzeId: "a", model: "m", status: "DONE", findings: 3 }] });
  assert.equal(emptiness(job), "arriving");
  fold(job, event(1, 1, "QUEUED"));
  assert.equal(emptiness(job), "yet");
  fold(job, event(1, 2, "DONE"));
  assert.equal(emptiness(job), "over");
  job.incomplete = true;
  assert.equal(emptiness(job), "gone");
});
