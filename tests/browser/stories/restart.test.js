// The program is killed and started again while a page looks on: the page says so, comes back by itself, and nothing is lost.
import assert from "node:assert/strict";
import test from "node:test";
import { largeShop } from "./archive.js";
import { ask, drop, eventually, openPage, shows, startBrowser, startMunjigi, textOf } from "./harness.js";

let site;
let browser;

test.after(async () => {
  await browser?.close();
  await site?.stop();
  site?.remove();
});

test("a page outlives the program's death in the middle of a job", async () => {
  site = await startMunjigi();
  browser = await startBrowser();
  const page = await openPage(browser);
  await page.goto(site.link);
  await page.waitForSelector(".drop");
  await drop(page, "killed.zip", largeShop(300));
  await eventually(() => page.url().includes("/jobs/"), { within: 60_000, what: "the job's page" });
  const eventId = decodeURIComponent(new URL(page.url()).pathname.split("/")[2]);
  await eventually(async () => ["RECEIVING", "RUNNING"].includes(await page.$eval(".analysis", (card) => card.dataset.status)), { what: "work under way" });

  const machines = await openPage(browser);
  await machines.goto(`${site.origin}/status`);
  await shows(machines, "Up", "[data-part=workers]");
  assert.equal((await machines.$$(".status-part.late")).length, 0);

  await site.kill();
  await shows(page, "Reconnecting", ".connection");
  // What was well when the server was last heard no longer looks so.
  await eventually(async () => (await machines.$$(".status-part.late")).length >= 4, { what: "grey parts on the status page" });
  await shows(machines, "No answer since", "[data-part=workers]");
  site = await startMunjigi(site.data, new URL(site.origin).host);

  await eventually(async () => {
    const { body } = await ask(page, `/api/jobs/${eventId}`);
    return body.status === "DONE";
  }, { within: 120_000, what: "the job's end after the restart" });
  await shows(page, "Done", ".outcome", 30_000);
  await eventually(async () => (await machines.$$(".status-part.late")).length === 0, { what: "the status page is well again by itself" });
  const stream = await ask(page, `/api/jobs/${eventId}/events`);
  const sent = stream.body.split("\n").filter((line) => line.startsWith("data:")).map((line) => JSON.parse(line.slice(5))).filter((data) => data.seq);
  assert.equal(Number((await textOf(page, ".stream:last-child .stream-extra")).replace(/\D/g, "")), sent.length);
  const attempt = Math.max(...sent.map((data) => data.attempt));
  assert.equal(Number(await textOf(page, ".tab-count")), sent.filter((data) => data.attempt === attempt && data.finding).length);
  assert.deepEqual(page.faults, []);
});
