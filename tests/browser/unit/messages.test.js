// One message table a language: the same keys and values in each, and all that the pages ask for.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import en from "../../../web/i18n/en.js";
import ko from "../../../web/i18n/ko.js";
import { t, use } from "../../../web/lib/i18n.js";

const web = fileURLToPath(new URL("../../../web", import.meta.url));
const files = (folder) => readdirSync(folder, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? files(join(folder, entry.name)) : [join(folder, entry.name)]));
const base = (key) => key.replace(/_(one|other)$/, "");
const names = (message) => [...new Set([...message.matchAll(/\{(\w+)\}/g)].map((match) => match[1]))].sort();
const sources = files(web).filter((file) => file.endsWith(".js") && !file.includes("i18n/"));

test("both tables have the same keys", () => {
  assert.deepEqual([...new Set(Object.keys(ko).map(base))].sort(), [...new Set(Object.keys(en).map(base))].sort());
});

test("a message has the same values in both", () => {
  for (const [key, message] of Object.entries(ko)) {
    const english = en[key] ?? en[`${base(key)}_other`];
    assert.deepEqual(names(message), names(english), key);
  }
});

test("plurals are complete", () => {
  for (const key of Object.keys(en).filter((each) => each.endsWith("_one"))) assert.ok(en[`${base(key)}_other`], key);
});

test("the pages ask for no message that is missing, and none is there in vain", () => {
  const known = new Set([...Object.keys(en), ...Object.keys(en).map(base)]);
  const asked = new Set();
  const prefixes = new Set();
  for (const file of sources) {
    const text = readFileSync(file, "utf8");
    for (const [, key] of text.matchAll(/"([a-z_]+\.[A-Za-z_]+)"/g)) if (known.has(key)) asked.add(key);
    for (const [, key] of text.matchAll(/\bt\("([^"]+)"/g)) {
      assert.ok(known.has(key), `${file}: ${key}`);
      asked.add(key);
    }
    for (const [, prefix] of text.matchAll(/`([a-z_]+\.(?:[a-z]+_)?)\$\{/g)) prefixes.add(prefix);
  }
  const idle = [...known].filter((key) => !asked.has(key) && !asked.has(base(key)) && ![...prefixes].some((prefix) => key.startsWith(prefix)) && !/_(one|other)$/.test(key));
  assert.deepEqual(idle.filter((key) => !asked.has(`${key}_other`)), []);
});

test("each signal of the shield is said in the reader's language, and no other", () => {
  const signals = readFileSync(join(web, "../crates/gate/src/shield/signal.rs"), "utf8");
  const codes = [...signals.matchAll(/^    [A-Z]\w+ = "([a-z0-9_]+)", [\d_]+ as /gm)].map(([, code]) => code);
  assert.ok(codes.length > 10, `${codes}`);
  const said = Object.keys(en).filter((key) => key.startsWith("signal.")).map((key) => key.slice("signal.".length));
  assert.deepEqual(said.sort(), codes.sort());
});

test("values are put in as text, plurals by the language's rules", async () => {
  await use("en");
  assert.equal(t("jobs.findings", { n: 1 }), "1 finding");
  assert.equal(t("jobs.findings", { n: 1234 }), "1,234 findings");
  await use("ko");
  assert.equal(t("jobs.findings", { n: 1 }), "발견 1건");
  await use("en");
  assert.equal(t("upload.discard_text", { name: "{size}<b>" }).includes("{size}<b>"), true);
});

test("modules stay small, and so do all assets together", () => {
  // Compressed, both languages and every view; what one page loads is measured in the browser.
  const total = gzipSync(Buffer.concat(files(web).map((file) => readFileSync(file)))).length;
  assert.ok(total < 100_000, `${total} bytes, at most 100,000 are wanted`);
  for (const file of files(web)) {
    if (!file.endsWith(".js") || file.includes("i18n/")) continue;
    const lines = readFileSync(file, "utf8").split("\n").length;
    assert.ok(lines <= 301, `${file} has ${lines} lines, at most 300 are wanted`);
  }
});

test("a name that a module imports is there", () => {
  for (const file of sources) {
    for (const [, names, from] of readFileSync(file, "utf8").matchAll(/import \{([^}]+)\} from "([^"]+)"/g)) {
      const there = readFileSync(join(dirname(file), from), "utf8");
      for (const name of names.split(",").map((part) => part.trim().split(" ")[0])) assert.match(there, new RegExp(`export (async )?(function|const|class) ${name}\\b`), `${file}: ${name} of ${from}`);
    }
  }
});

test("no markup is made from data", () => {
  for (const file of sources) {
    const text = readFileSync(file, "utf8");
    for (const banned of ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]) assert.ok(!text.includes(banned), `${file}: ${banned}`);
  }
  const page = readFileSync(join(web, "index.html"), "utf8");
  assert.ok(!/<style|style=|\son[a-z]+=|<script(?![^>]*\ssrc=)/.test(page), "index.html has an inline script or style");
});
