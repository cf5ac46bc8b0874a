// Figures as people read them, in both languages.
import assert from "node:assert/strict";
import test from "node:test";
import { ago, bytes, duration, path, percent, signed } from "../../../web/lib/format.js";
import { use } from "../../../web/lib/i18n.js";
import { nextPiece, rateOf } from "../../../web/lib/upload.js";

test.beforeEach(() => use("en"));

test("sizes have three digits", () => {
  for (const [count, expected] of [[0, "0 B"], [812, "812 B"], [1000, "0.98 KiB"], [1024, "1.00 KiB"], [10_240, "10.0 KiB"], [1_048_576, "1.00 MiB"], [1_073_741_824, "1.00 GiB"], [734_003_200, "700 MiB"], [Number.NaN, "–"], [-1, "–"]]) {
    assert.equal(bytes(count), expected);
  }
});

test("spans show their two largest parts", () => {
  for (const [ms, expected] of [[0, "0 ms"], [850, "850 ms"], [4200, "4.2 s"], [59_400, "59 s"], [59_900, "1 min 00 s"], [185_000, "3 min 05 s"], [7_800_000, "2 h 10 min"], [90_000_000, "1 d 1 h"], [Number.POSITIVE_INFINITY, "–"]]) {
    assert.equal(duration(ms), expected);
  }
});

test("times are relative, and a clock that is ahead is still now", async () => {
  const now = 1_800_000_000_000;
  for (const [before, expected] of [[-3000, "just now"], [4000, "just now"], [42_000, "42 s ago"], [120_000, "2 min ago"], [7_200_000, "2 h ago"], [200_000_000, "2 d ago"]]) {
    assert.equal(ago(now - before, now), expected);
  }
  await use("ko");
  assert.equal(ago(now - 42_000, now), "42초 전");
});

test("a share claims certainty only where there is some", () => {
  for (const [share, expected] of [[0, "0 %"], [0.001, "1 %"], [0.5, "50 %"], [0.9999, "99 %"], [1, "100 %"], [Number.NaN, "–"]]) {
    assert.equal(percent(share), expected);
  }
});

test("signed values carry a true minus, and zero has no sign", () => {
  assert.deepEqual([0.834, -1.2, 0, -0.001].map((value) => signed(value)), ["+0.83", "−1.20", "0.00", "0.00"]);
});

test("paths are decoded, and left alone where they can't be", () => {
  assert.equal(path("a.zip!/b%20c.java"), "a.zip!/b c.java");
  assert.equal(path("100%"), "100%");
});

test("a rate needs some time, and is over the last seconds only", () => {
  assert.equal(rateOf([], 0), undefined);
  assert.equal(rateOf([[0, 0], [100, 1000]], 100), undefined);
  assert.equal(rateOf([[0, 0], [1000, 1000]], 1000), 1000);
  assert.equal(rateOf([[0, 0], [20_000, 100], [21_000, 1100]], 21_000), 1000);
});

test("the next piece is what a second carries, within limits", () => {
  assert.equal(nextPiece(1 << 20, 500), 2 << 20);
  assert.equal(nextPiece(1 << 20, 2000), 512 << 10);
  assert.equal(nextPiece(1 << 20, 60_000), 256 << 10);
  assert.equal(nextPiece(1 << 20, 0), 16 << 20);
});
