// The main job in a browser: sign in by the link, drop an archive, watch it, read a finding, stop another one.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { heavyShop, largeShop, shop, zip } from "./archive.js";
import { ask, cutSockets, drop, eventually, openPage, press, screenshot, shows, startBrowser, startMunjigi, textOf } from "./harness.js";

const END_MS = 120_000;
let site;
let browser;
let page;
const files = mkdtempSync(join(tmpdir(), "munjigi-files-"));

test.before(async () => {
  site = await startMunjigi();
  browser = await startBrowser();
  page = await openPage(browser);
});

test.after(async () => {
  await browser?.close();
  await site?.stop();
  site?.remove();
  rmSync(files, { recursive: true, force: true });
});

test.afterEach(() => assert.deepEqual(page.faults.splice(0), [], "the page reported faults"));

const idIn = (url) => decodeURIComponent(new URL(url).pathname.split("/")[2]);

async function upload(name, bytes) {
  await page.goto(`${site.origin}/`);
  await page.waitForSelector(".drop");
  await drop(page, name, bytes);
  await eventually(() => page.url().includes("/jobs/"), { within: END_MS, what: "the job's page after the upload" });
  return idIn(page.url());
}

const ended = (eventId, at = page) => eventually(async () => {
  const { body } = await ask(at, `/api/jobs/${eventId}`);
  return ["DONE", "FAILED", "CANCELLED"].includes(body.status) && body.status;
}, { within: END_MS, what: `the end of ${eventId}` });

test("the printed link signs in, once", async () => {
  const response = await page.goto(site.link);
  assert.equal(response.status(), 200);
  await shows(page, "Drop an archive or a source file here");
  assert.ok(!page.url().includes("token"), "the token stays in the address");
  const other = await openPage(await browser.createBrowserContext());
  await other.goto(site.link);
  await eventually(async () => !(await textOf(other)).includes("Drop an archive"), { what: "a used link signs nobody in" });
  await other.browserContext().close();
});

test("a dropped archive is uploaded, analysed live, and its findings explain themselves", async () => {
  const eventId = await upload("shop.zip", shop());
  await shows(page, "shop.zip", "h1");
  await eventually(async () => (await page.$$(".stream-finding")).length > 0, { within: END_MS, what: "a finding arriving" });
  assert.equal(await ended(eventId), "DONE");
  await shows(page, "Done", ".outcome");
  assert.equal(await page.$eval(".analysis", (card) => card.dataset.status), "DONE");

  await press(page, "Read the findings");
  await page.waitForSelector(".finding-item");
  const sql = await page.evaluateHandle(() => [...document.querySelectorAll(".finding-item")].find((item) => item.innerText.includes("Orders.java")));
  await sql.asElement().click();
  await eventually(async () => (await page.$$(".flow-step")).length >= 2, { what: "the steps of the flow" });
  await eventually(async () => (await page.$$(".code-row .flow-badge")).length >= 2, { what: "numbered badges beside the code" });
  await shows(page, "executeQuery(query)", ".code-body");
  for (const title of ["How the data gets there", "Why it matters", "How to fix it", "How sure this is", "What would make it go away"]) await shows(page, title, ".finding");
  await shows(page, "not measured yet", ".reliability");
  await shows(page, "No changed version", ".finding");
});

test("contributions add up to the sum that is shown", async () => {
  const values = await page.$$eval(".score-table tbody tr", (rows) => rows.map((row) => [row.className, Number(row.querySelector(".score-value").textContent.replace("−", "-"))]));
  const total = values.pop();
  assert.equal(total[0], "total");
  const sum = values.reduce((all, [, value]) => all + value, 0);
  assert.ok(Math.abs(sum - total[1]) <= 0.005 * (values.length + 1) + 1e-9, `${sum} is not ${total[1]}`);
});

test("the flow is walked by keyboard, and filters narrow the list", async () => {
  const chosen = () => page.$$eval(".flow-step", (steps) => steps.findIndex((step) => step.getAttribute("aria-current") === "true"));
  const last = await chosen();
  await page.keyboard.press("k");
  assert.equal(await chosen(), last - 1);
  await page.keyboard.press("j");
  assert.equal(await chosen(), last);
  const all = (await page.$$(".finding-item")).length;
  await page.type('input[type="search"]', "Orders.java");
  await eventually(async () => (await page.$$(".finding-item")).length < all, { what: "fewer findings" });
  assert.match(page.url(), /q=Orders\.java/);
  await page.$eval('input[type="search"]', (input) => {
    input.value = "nothing is called this";
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  await shows(page, "No finding matches the filters");
  await press(page, "Clear the filters");
  await eventually(async () => (await page.$$(".finding-item")).length === all, { what: "all findings again" });
});

test("what was left out is told with its reason", async () => {
  const eventId = await upload("mixed.zip", zip({ "src/a.py": "print(1)\n", "logo.png": Buffer.from([0x89, 0x50, 0x4e, 0x47, 0, 0, 0]) }));
  assert.equal(await ended(eventId), "DONE");
  await shows(page, "1 entry left out", ".coverage");
  await shows(page, "1 of 2 entries looked at", ".coverage");
  await page.click(".coverage summary");
  await shows(page, "logo.png", ".coverage-table");
  await shows(page, "binary", ".coverage-table");
  await screenshot(page, "job-left-out");
});

test("a damaged archive is not called clean", async () => {
  const eventId = await upload("broken.zip", Buffer.from("this is no archive"));
  assert.equal(await ended(eventId), "DONE");
  await shows(page, "Nothing could be read", ".outcome-unread");
  await shows(page, "broken.zip", ".outcome-unread");
  assert.ok(!(await textOf(page)).includes("Nothing was found"));
  await screenshot(page, "job-unread");
});

test("names from outside are text, never markup", async () => {
  const name = `<img src=x onerror="alert(1)"> & 'quotes' 한글.zip`;
  const eventId = await upload(name, shop());
  await shows(page, name, "h1");
  assert.equal(await ended(eventId), "DONE");
  await page.goto(`${site.origin}/jobs`);
  await shows(page, name, ".job-rows");
  await page.goto(`${site.origin}/jobs/${eventId}/findings`);
  await page.waitForSelector(".finding-item");
  await eventually(async () => (await page.$$(".code-row")).length > 3, { what: "the code of a file under an odd name" });
  assert.equal((await page.$$("img")).length, 0);
});

test("cut sockets lose no event, and two tabs see the same", async () => {
  const eventId = await upload("cut.zip", largeShop(150));
  const second = await openPage(page.browserContext());
  await second.goto(`${site.origin}/jobs/${eventId}`);
  let cuts = 0;
  while (cuts < 5) {
    const { body } = await ask(page, `/api/jobs/${eventId}`);
    if (["DONE", "FAILED"].includes(body.status)) break;
    cuts += await cutSockets(page);
    await eventually(async () => (await page.$eval(".connection", (element) => element.dataset.state)) === "live", { what: "live again" });
  }
  assert.ok(cuts > 0, "the job was over before a socket could be cut");
  assert.equal(await ended(eventId), "DONE");
  await shows(page, "Done", ".outcome");
  await shows(second, "Done", ".outcome");
  const counts = async (at) => ({ events: await textOf(at, ".stream:last-child .stream-extra"), findings: await textOf(at, ".tab-count") });
  assert.deepEqual(await counts(page), await counts(second));
  const stream = await ask(page, `/api/jobs/${eventId}/events`);
  const sent = stream.body.split("\n").filter((line) => line.startsWith("data:")).map((line) => JSON.parse(line.slice(5))).filter((data) => data.seq);
  assert.equal(Number((await counts(page)).events.replace(/\D/g, "")), sent.length);
  assert.equal(Number((await counts(page)).findings), sent.filter((data) => data.finding).length);
  assert.deepEqual(second.faults, []);
  await second.close();
});

test("a running job is stopped from its page and leaves nothing", async () => {
  const eventId = await upload("stopped.zip", largeShop(400));
  await press(page, "Stop the analysis");
  await shows(page, "Stop this analysis?", "dialog");
  await page.click("dialog .button.danger");
  await shows(page, "Stopped", ".outcome", END_MS);
  assert.equal(await ended(eventId), "CANCELLED");
  const results = await ask(page, `/api/jobs/${eventId}/findings`);
  assert.ok(results.status === 404 || results.status === 409 || results.body.findings.length === 0, `findings of a stopped job: ${results.status}`);
  await eventually(async () => (await ask(page, "/api/admin/cleanup")).body.cleanups.length === 0, { what: "no cleanup pending" });
});

test("an upload that a reload has interrupted goes on where it was", async () => {
  const size = 40 * 1024 * 1024;
  const path = join(files, "heavy.zip");
  writeFileSync(path, heavyShop(size));
  await page.goto(`${site.origin}/`);
  const wire = await page.createCDPSession();
  await wire.send("Network.enable");
  await wire.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 12 * 1024 * 1024 });
  const picker = await page.waitForSelector("#picker");
  await picker.uploadFile(path);
  const shares = new Set();
  await eventually(async () => {
    shares.add(await textOf(page, ".upload-share"));
    const { offset } = await page.evaluate(() => JSON.parse(localStorage.getItem("munjigi.uploads") ?? "[]").at(-1) ?? {});
    return offset > 0 && shares.size >= 3;
  }, { what: "progress that moves and a first chunk for good" });
  await press(page, "Pause");
  await shows(page, "paused", ".upload");
  await page.reload();
  await wire.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
  await shows(page, "Unfinished uploads");
  const offsets = [];
  page.on("request", (request) => request.method() === "PATCH" && offsets.push(Number(request.headers()["upload-offset"])));
  const again = await page.waitForSelector(".resumable input[type=file]");
  await again.uploadFile(path);
  await eventually(() => page.url().includes("/jobs/"), { within: END_MS, what: "the job's page" });
  assert.ok(offsets[0] > 0, `began again at ${offsets[0]}`);
  assert.equal(await ended(idIn(page.url())), "DONE");
});

test("a second user sees none of it", async () => {
  const { body: list } = await ask(page, "/api/jobs");
  const [{ eventId }] = list.jobs;
  await page.goto(`${site.origin}/settings`);
  await page.waitForSelector("#user-name");
  await page.type("#user-name", "minji");
  await press(page, "Add a user");
  const secret = await page.waitForSelector(".secret code");
  const link = await secret.evaluate((element) => element.textContent);
  const other = await openPage(await browser.createBrowserContext());
  await other.goto(link);
  await shows(other, "Drop an archive");
  await other.goto(`${site.origin}/jobs/${eventId}`);
  await shows(other, "There is no such job");
  for (const path of ["", "/findings", "/events", "/report.sarif"]) assert.equal((await ask(other, `/api/jobs/${eventId}${path}`)).status, 404, path);
  assert.deepEqual((await ask(other, "/api/jobs")).body.jobs, []);
  await other.goto(`${site.origin}/status`);
  await shows(other, "For administrators");
  assert.deepEqual(other.faults, []);
  await other.browserContext().close();
});

test("a finished job is deleted from its page", async () => {
  const eventId = await upload("gone.zip", shop());
  assert.equal(await ended(eventId), "DONE");
  await press(page, "Delete");
  await page.waitForSelector("dialog[open]");
  await page.click("dialog .button.danger");
  await eventually(() => new URL(page.url()).pathname === "/jobs", { what: "the list of jobs" });
  assert.equal((await ask(page, `/api/jobs/${eventId}`)).status, 404);
});
