// What the security page makes of the gates' figures.
import assert from "node:assert/strict";
import test from "node:test";
import { use } from "../../../web/lib/i18n.js";
import { bars, byMinute, causeText, mostOf, refusalsOf, topSignals, urgency } from "../../../web/lib/refused.js";

test("a bar for each minute with something in it, small ones seen beside large ones", () => {
  assert.deepEqual(bars([0, 0, 0], 0), []);
  const [one, many] = bars([0, 1, 0, 10_000], 10_000);
  assert.deepEqual([one.at, many.at, many.share], [1, 3, 1]);
  assert.ok(one.share >= 0.05 && one.share < 0.2, `${one.share}`);
  assert.equal(mostOf([]), 0);
  assert.equal(mostOf([{ counts: [1, 7] }, { counts: [3, 2] }, {}]), 7);
});

test("the map as a table: minutes with something in them, the newest first", () => {
  const reasons = [{ reason: "banned", counts: [2, 0, 1] }, { reason: "no_route", counts: [0, 0, 4] }];
  const from = "2026-11-21T12:00:00.000Z";
  assert.deepEqual(byMinute({ from, reasons }), [
    { at: Date.parse("2026-11-21T12:02:00Z"), parts: [{ reason: "banned", count: 1 }, { reason: "no_route", count: 4 }] },
    { at: Date.parse(from), parts: [{ reason: "banned", count: 2 }] },
  ]);
  assert.deepEqual(byMinute({ from }), []);
});

test("signals that were seen, the most frequent first", () => {
  const signals = { traversal: { count: 2, weight: 1 }, dot_file: { count: 5, weight: 1 }, malformed: { count: 0, weight: 1 }, bad_method: { count: 2, weight: 0.5 } };
  assert.deepEqual(topSignals(signals).map(({ name }) => name), ["dot_file", "bad_method", "traversal"]);
  assert.deepEqual(topSignals(undefined), []);
});

test("a certificate warns under 30 days, and under 7 more", () => {
  assert.deepEqual([400, 30, 29, 7, 6, 0, -1].map(urgency), ["good", "good", "soon", "soon", "now", "now", "over"]);
});

test("refusals of several gates are one list, the newest first, and a gate that is gone has none", () => {
  const row = (second, path) => ({ time: `2026-11-21T12:00:0${second}.000Z`, path });
  const gates = [{ url: "a", refusals: [row(5, "/5"), row(1, "/1")] }, { url: "b", ok: false }, { url: "c", refusals: [row(3, "/3"), row(1, "/1 too")] }];
  assert.deepEqual(refusalsOf(gates).map(({ path, gate }) => `${gate} ${path}`), ["a /5", "c /3", "a /1", "c /1 too"]);
});

test("what cuts sockets is said in the reader's language, with what helps", async () => {
  const cause = { side: "client", measure: "silence", seconds: 60, count: 6, of: 6, ping: "30s" };
  await use("en");
  assert.equal(causeText(cause), '6 of 6 were cut by the client side after 1 min 00 s of silence. An idle timeout on the way: ping = "30s" on the route would prevent it.');
  assert.match(causeText({ ...cause, hop: "10.0.0.60" }), /^6 of 6 by way of 10\.0\.0\.60 were cut by the client side/);
  assert.match(causeText({ ...cause, side: "backend", measure: "age", ping: null }), /by the backend side 1 min 00 s after they began\. A limit of age .* does not help/);
  assert.match(causeText({ ...cause, measure: "backend_silence", ping: null }), /without a word of the backend\. A timeout .* pings do not reset/);
  await use("ko");
  try {
    for (const measure of ["silence", "backend_silence", "client_silence", "age"]) assert.match(causeText({ ...cause, measure }), /^6개 중 6개를 .*클라이언트 쪽에서 끊었습니다\. .*ping/);
  } finally {
    await use("en");
  }
});
