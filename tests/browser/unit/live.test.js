// Where a stream is, and what the next message means for it.
import assert from "node:assert/strict";
import test from "node:test";
import { backoff, Place } from "../../../web/lib/place.js";

test("offsets are taken once, in order, and gaps are noticed", () => {
  const place = new Place();
  for (const [epoch, offset, expected] of [
    ["e1", 1, "take"],
    ["e1", 2, "take"],
    ["e1", 2, "old"],
    ["e1", 4, "gap"],
    ["e1", 3, "take"],
    ["e1", 4, "take"],
    ["e2", 5, "reset"],
  ]) {
    assert.equal(place.judge(epoch, offset), expected, `${epoch}/${offset}`);
  }
  assert.equal(place.offset, 4);
  place.reset();
  assert.equal(place.judge("e2", 1), "take");
});

test("after the hub said that something is gone, the stream goes on from wherever it does", () => {
  const place = new Place();
  place.judge("e1", 1);
  place.skip("e1");
  assert.equal(place.judge("e1", 9), "take");
  assert.equal(place.judge("e1", 11), "gap");
  place.skip("e2");
  assert.equal(place.judge("e2", 3), "take");
});

test("waits grow, stay bounded and are spread", () => {
  let before = -1;
  for (let attempt = 0; attempt < 12; attempt += 1) {
    const least = backoff(attempt, 0);
    const most = backoff(attempt, 1);
    assert.ok(most >= before && most <= 15_000, `attempt ${attempt}: ${most}`);
    assert.ok(least * 2 <= most + 1 && least * 2 >= most - 1, `attempt ${attempt}: ${least} to ${most}`);
    before = most;
  }
});
