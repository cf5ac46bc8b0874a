// What is offered of uploads begun earlier.
import assert from "node:assert/strict";
import test from "node:test";
import { isSameFile, unfinished } from "../../../web/lib/unfinished.js";

const remembered = [
  { url: "/api/uploads/a", userId: "u1", name: "a.zip", size: 10, lastModified: 5, offset: 3, key: "k", at: 1 },
  { url: "/api/uploads/b", userId: "u2", name: "b.zip", size: 10, lastModified: 5, offset: 3, key: "k", at: 2 },
];
const known = [
  { id: "a", name: "a.zip", length: 10, received: 7, complete: false, inUse: false, createdAt: "2026-11-21T03:05:00Z" },
  { id: "c", name: "c.zip", length: 4, received: 4, complete: true, inUse: false, createdAt: "2026-11-21T03:06:00Z" },
  { id: "d", name: "d.zip", length: 4, received: 4, complete: true, inUse: true, createdAt: "2026-11-21T03:07:00Z" },
];

test("without the hub's list, what this user's browser remembers is offered", () => {
  assert.deepEqual(unfinished(undefined, remembered, "u1", new Set()).map((each) => each.url), ["/api/uploads/a"]);
});

test("the hub's list wins: its offsets, complete ones, none that a job uses, none it no longer has", () => {
  const complete = { ...remembered[0], url: "/api/uploads/c", name: "c.zip", size: 4 };
  const offers = unfinished(known, [...remembered, complete, { ...remembered[0], url: "/api/uploads/gone" }], "u1", new Set());
  assert.deepEqual(offers.map(({ url, offset, complete }) => [url, offset, complete]), [["/api/uploads/c", 4, true], ["/api/uploads/a", 7, false]]);
  assert.equal(offers[1].lastModified, 5);
});

test("a complete upload that this browser doesn't remember may have been analysed: it is not offered", () => {
  assert.deepEqual(unfinished(known, [], "u1", new Set()).map((each) => each.url), ["/api/uploads/a"]);
});

test("what a file of this page goes on with is not offered again", () => {
  assert.deepEqual(unfinished(known, remembered, "u1", new Set(["/api/uploads/a", "/api/uploads/c"])), []);
});

test("a file is the same by name, size and, where it is known, the time it was changed", () => {
  const file = { name: "a.zip", size: 10, lastModified: 5 };
  assert.ok(isSameFile(file, { name: "a.zip", size: 10 }));
  assert.ok(isSameFile(file, { name: "a.zip", size: 10, lastModified: 5 }));
  for (const other of [{ name: "a.zip", size: 11 }, { name: "b.zip", size: 10 }, { name: "a.zip", size: 10, lastModified: 6 }]) assert.ok(!isSameFile(file, other));
});
