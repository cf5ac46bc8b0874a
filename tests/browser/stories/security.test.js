// The security page: what the gate refused, whom it bans, and what guards it; real scanners' requests, a real ban.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { request } from "node:http";
import { createServer } from "node:net";
import { join } from "node:path";
import test from "node:test";
import { ask, eventually, newFolder, openPage, press, screenshot, shows, startBrowser, startWith, textOf } from "./harness.js";

const SCANNER = "203.0.113.7";
const CURIOUS = "198.51.100.9";
const TOKEN = "a token of the admin face, for this story";
let site;
let browser;
let page;

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// A gate with a shield, a listener with TLS whose certificate is about to end, and a hub that knows a second gate which is gone.
function settings(admin) {
  return `
[cluster]
secret_file = "cluster.secret"
[gate]
data = "gate"
[[gate.listener]]
name = "web"
address = "127.0.0.1:0"
[[gate.listener]]
name = "inner"
address = "127.0.0.1:0"
[[gate.listener]]
name = "sealed"
address = "127.0.0.1:0"
tls = { certificate = "edge.pem", key = "edge.key" }
[[gate.route]]
name = "app"
listener = ["web", "sealed"]
path = "/"
service = "HUB"
[[gate.route]]
name = "live"
listener = ["web"]
path = "/live"
service = "HUB"
websocket = { required = true }
[[gate.route]]
name = "events"
listener = ["inner"]
path = "/internal"
service = "HUB"
[gate.client_ip]
trusted = ["127.0.0.1"]
[gate.shield]
deny_path = ["*.php"]
[gate.service.HUB]
discovery = "registry"
networks = ["127.0.0.0/8"]
[gate.registry]
embedded = true
[gate.admin]
address = "127.0.0.1:${admin}"
token_file = "admin.token"
[registry]
address = "127.0.0.1:0"
[hub]
address = "127.0.0.1:0"
data = "hub"
gate_admin = ["http://127.0.0.1:${admin}", "http://127.0.0.1:9"]
gate_admin_token_file = "admin.token"
`;
}

test.before(async () => {
  const data = newFolder();
  const names = ["-subj", "/CN=edge.test", "-addext", "subjectAltName=DNS:edge.test,DNS:*.edge.test"];
  execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "20", ...names, "-keyout", join(data, "edge.key"), "-out", join(data, "edge.pem")], { stdio: "ignore" });
  writeFileSync(join(data, "cluster.secret"), "a secret of the cluster, for this story\n", { mode: 0o600 });
  writeFileSync(join(data, "admin.token"), `${TOKEN}\n`, { mode: 0o600 });
  site = await startWith(settings(await freePort()), data);
  browser = await startBrowser();
  page = await openPage(browser);
  await page.goto(site.link);
  await page.waitForSelector(".drop");
});

test.after(async () => {
  await browser?.close();
  await site?.stop();
  site?.remove();
});

/** What a client gets that a proxy on this machine names. */
function knock(client, path) {
  return new Promise((resolve, reject) => {
    const asked = request(site.origin + path, { headers: { "X-Forwarded-For": client } }, (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode));
    });
    asked.on("error", reject);
    asked.end();
  });
}

const inGate = (text) => shows(page, text, '[data-part="guards"]');
const inLog = (text) => shows(page, text, '[data-part="refusals"]');

async function visit(at = page) {
  await at.bringToFront();
  await at.goto(`${site.origin}/security`);
  await eventually(() => at.evaluate(() => document.querySelector("h1") && document.querySelectorAll(".skeleton").length === 0), { what: "the page without grey lines" });
}

test("where nothing happened the page says what that means, and which gate is gone", async () => {
  await press(page, "Security");
  await inGate("Nothing was refused in the last hour.");
  for (const text of ["Nobody is banned.", "Nothing speaks against anyone now.", "No signal was seen since the gate started.", "edge.test", "edge.pem", "days left", "it can't be reached"]) await inGate(text);
  await inLog("Nothing was refused");
  assert.equal(await page.$eval("[data-urgency]", (badge) => badge.dataset.urgency), "soon");
  assert.equal(await page.$eval(".nav-link[aria-current]", (link) => link.dataset.section), "security");
  await screenshot(page, "security-empty-wide-light");
  assert.deepEqual(page.faults, []);
});

test("what is refused is on the page by itself: reasons, the ban, suspects, signals, the log", async () => {
  for (let number = 0; number < 5; number += 1) assert.equal(await knock(SCANNER, `/shop/${number}.php?reset_token=s3cret`), 403);
  assert.equal(await knock(SCANNER, "/"), 403);
  assert.equal(await knock(CURIOUS, "/%3Cimg%20src=x%20onerror=alert(1)%3E.php"), 403);
  assert.equal(await knock(CURIOUS, "/live"), 426);
  // A socket of the page itself that its client ends.
  await page.evaluate(() => new Promise((resolve) => {
    const socket = new WebSocket(`${location.origin.replace("http", "ws")}/api/ws`);
    socket.onopen = () => socket.close();
    socket.onclose = resolve;
  }));
  for (const text of ["denied_path", "banned", "WS001", "What is asked for", "Who asks", "denied_path 5", "/shop/0.php", CURIOUS]) await inGate(text);
  await inGate("up to");
  await inLog(`GET ${new URL(site.origin).host}/shop/4.php?reset_token=…`);
  await inLog("/%3Cimg%20src=x%20onerror=alert(1)%3E.php");
  assert.ok(!(await textOf(page)).includes("s3cret"));
  assert.equal(await page.$$eval("main img", (all) => all.length), 0);
  // The map in figures, for who does not see it.
  const told = await page.$eval(".minutes", (chart) => chart.getAttribute("aria-label"));
  assert.match(told, /^6 in the last hour, at most \d in a minute$/);
  await page.click(".guard summary");
  await inGate("denied_path 6");
  assert.deepEqual(page.faults, []);
});

test("the log is searched by reason, client and path", async () => {
  await visit();
  const rows = () => page.$$eval('[data-part="refusals"] tbody tr', (all) => all.length);
  await inLog("8 of 8 refusals");
  await page.type('[data-part="refusals"] input[placeholder="Path"]', "ONERROR");
  await inLog("1 of 1 refusal");
  await page.type('[data-part="refusals"] input[placeholder="Client"]', "192.0.2.");
  await inLog("No refusal that is kept matches");
  await press(page, "Clear the filters");
  await inLog("8 of 8 refusals");
  await page.select('[data-part="refusals"] select', "banned");
  await inLog("1 of 1 refusal");
  // From a reason of the map, and from a ban, to what there is of it.
  await press(page, "denied_path");
  await eventually(async () => (await rows()) === 6, { what: "six refusals for denied_path" });
  await press(page, SCANNER);
  await eventually(async () => (await rows()) === 6, { what: "six refusals of the scanner" });
  assert.deepEqual(page.faults, []);
});

for (const [shape, width, height] of [["wide", 1280, 800], ["narrow", 390, 844]]) {
  for (const theme of ["light", "dark"]) {
    test(`the page fits: ${shape}, ${theme}`, async () => {
      const at = await openPage(page.browserContext(), { width, height, theme });
      await visit(at);
      await shows(at, "denied_path");
      const over = await at.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(over <= 0, `${over} px too wide`);
      await screenshot(at, `security-${shape}-${theme}`);
      assert.deepEqual(at.faults, []);
      await at.close();
    });
  }
}

test("it reads in Korean", async () => {
  const at = await openPage(page.browserContext(), { language: "ko" });
  await at.evaluateOnNewDocument(() => localStorage.setItem("munjigi.language", "ko"));
  await visit(at);
  await shows(at, "지난 한 시간 동안 거부");
  await shows(at, "차단 해제");
  const keys = (await textOf(at)).match(/\b(?:refused|bans|suspects|signals|certs|sockets|about|side|cut)\.[a-z_]+\b/g) ?? [];
  assert.deepEqual(keys, []);
  await screenshot(at, "security-korean");
  await at.evaluate(() => localStorage.setItem("munjigi.language", "en"));
  await at.close();
});

test("who opens a WebSocket's address in a browser reads what it is for", async () => {
  for (const [shape, width, height] of [["wide", 1280, 800], ["narrow", 390, 844]]) {
    for (const theme of ["light", "dark"]) {
      const at = await openPage(page.browserContext(), { width, height, theme });
      assert.equal((await at.goto(`${site.origin}/live`)).status(), 426);
      for (const text of ["426", "WS001", `ws://${new URL(site.origin).host}/live`]) await shows(at, text);
      const over = await at.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(over <= 0, `${shape}: ${over} px too wide`);
      await screenshot(at, `websocket-426-${shape}-${theme}`);
      assert.deepEqual(at.faults, []);
      await at.close();
    }
  }
});

test("a ban is ended after a question, and the client comes in again", async () => {
  await visit();
  await press(page, `Unban: ${SCANNER}`);
  await shows(page, `Unban ${SCANNER}?`, "dialog");
  await screenshot(page, "security-unban");
  await press(page, "Keep it");
  assert.equal(await knock(SCANNER, "/"), 403);
  await press(page, `Unban: ${SCANNER}`);
  await page.waitForSelector("dialog .danger");
  await page.click("dialog .danger");
  await shows(page, `${SCANNER} may come in again`, "#toasts");
  // The second gate could not be told.
  await shows(page, "it can't be reached", "#toasts");
  await inGate("Nobody is banned.");
  assert.equal(await knock(SCANNER, "/"), 200);
  assert.deepEqual(page.faults, []);
});

test("who is no administrator sees nothing of it", async () => {
  const { status, body } = await ask(page, "/api/users", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name: "ann" }) });
  assert.equal(status, 201);
  const at = await openPage(await browser.createBrowserContext());
  await at.goto(body.signIn);
  await at.waitForSelector(".drop");
  assert.equal((await at.$$('.nav-link[data-section="security"]')).length, 0);
  await at.goto(`${site.origin}/security`);
  await shows(at, "For administrators");
  for (const path of ["/api/admin/security", "/api/admin/refusals"]) assert.equal((await ask(at, path)).status, 403, path);
  await at.browserContext().close();
});
