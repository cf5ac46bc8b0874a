// Records clean traffic: drives the real program as those do who mean well, and writes what its gate's access log says.
// Each kind of client has a listener of its own, by which the log tells them apart. Run by `tests/scanners/clean record`.
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { shop } from "../browser/stories/archive.js";
import { ask, drop, eventually, openPage, press, shows, startBrowser } from "../browser/stories/harness.js";

const tus = createRequire(new URL("../clients/package.json", import.meta.url))("tus-js-client");
const run = promisify(execFile);
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const KINDS = ["web", "phone", "tus", "tuspy", "api", "curl", "crawler"];
const PASSWORD = "correct horse battery";
const PHONE = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36";
const CRAWLER = "Mozilla/5.0 (compatible; PoliteBot/1.0; +https://crawler.example/bot.html)";
const END_MS = 120_000;
// Ends of a request that no clean client meets: what a gate calls so is no recording to keep.
const FAULTS = /^(bad_|ambiguous|unknown_coding|denied|banned)/;

/** So many ports that nobody listens on now. */
async function freePorts(count) {
  const servers = await Promise.all(Array.from({ length: count }, () => new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => resolve(server));
  })));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** What `munjigi up` runs, with an access log and a listener for each kind of client. */
function settings(ports) {
  const [inner, registry, hub] = ports.slice(KINDS.length);
  const listeners = KINDS.map((name, place) => `[[gate.listener]]\nname = "${name}"\naddress = "127.0.0.1:${ports[place]}"\n`);
  return `[gate]
access_log = "access.log"
${listeners.join("")}[[gate.listener]]
name = "inner"
address = "127.0.0.1:${inner}"
[[gate.route]]
name = "app"
listener = ${JSON.stringify(KINDS)}
path = "/"
service = "HUB"
[[gate.route]]
name = "events"
listener = ["inner"]
path = "/internal"
service = "HUB"
[[gate.route]]
name = "analysis"
listener = ["inner"]
path = "/analysis"
service = "MODEL-SERVER"
where = "metadata.serverId = query.serverId"
timeout = { rate_min = "off" }
[gate.service.HUB]
discovery = "registry"
networks = ["127.0.0.0/8"]
[gate.service.MODEL-SERVER]
discovery = "registry"
networks = ["127.0.0.0/8"]
[gate.registry]
embedded = true
[registry]
address = "127.0.0.1:${registry}"
[hub]
address = "127.0.0.1:${hub}"
data = "hub"
[worker]
address = "127.0.0.1:0"
data = "worker"
model = [ { name = "source", builtin = true } ]
`;
}

async function startProgram(folder) {
  const ports = await freePorts(KINDS.length + 3);
  writeFileSync(join(folder, "site.toml"), settings(ports));
  const child = spawn(process.env.MUNJIGI_BIN, ["run", "site.toml"], { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const line = await Promise.race([
    new Promise((resolve) => createInterface({ input: child.stdout }).once("line", resolve)),
    ended.then((code) => Promise.reject(new Error(`munjigi run ended with ${code}`))),
  ]);
  const at = Object.fromEntries(KINDS.map((name, place) => [name, `http://127.0.0.1:${ports[place]}`]));
  return { at, link: /https?:\/\/\S+/.exec(line)[0], stop: () => (child.kill("SIGTERM"), ended) };
}

/** Signs in by name and password, after so many wrong ones. */
async function signIn(page, origin, name, wrong) {
  await page.goto(`${origin}/jobs?status=DONE`);
  await shows(page, "Sign in to Munjigi");
  await page.type("#name", name);
  for (let time = 0; time < wrong; time += 1) {
    await page.type("#password", "not the password");
    await press(page, "Sign in");
    await shows(page, "Name and password don’t match.");
  }
  await page.type("#password", PASSWORD);
  await press(page, "Sign in");
  await shows(page, "shop.zip");
}

/** Looks at pages and at what is not there; the browser asks for the rest by itself. */
async function lookAround(page, origin, job) {
  for (const path of [job, `${job}/findings`, "/jobs", "/status", "/settings", "/jobs/01UNKNOWN", "/not/here", "/favicon.ico", "/docs/old-manual.html", "/"]) {
    await page.goto(origin + path, { waitUntil: "load" });
    await page.waitForSelector("body");
    await sleep(200);
  }
  await page.reload();
  await page.goBack();
}

/** Somebody at a desk: the printed link, an upload, the job to its end, a password, out and in again. */
async function desk(browser, site) {
  const page = await openPage(browser);
  await page.goto(site.link);
  await shows(page, "Drop an archive or a source file here");
  await drop(page, "shop.zip", shop());
  await eventually(() => page.url().includes("/jobs/"), { within: END_MS, what: "the job's page" });
  const job = new URL(page.url()).pathname;
  await shows(page, "Done", ".outcome", END_MS);
  await page.reload();
  await shows(page, "Done", ".outcome");
  await page.goto(`${site.at.web}${job}/findings`);
  await page.waitForSelector(".finding-item");
  await page.click(".finding-item");
  await page.waitForSelector(".code-row");
  await page.goto(`${site.at.web}/settings`);
  await page.waitForSelector("#new-password");
  await page.type("#new-password", PASSWORD);
  await press(page, "Set password");
  await shows(page, "Password changed");
  const { body: me } = await ask(page, "/api/me");
  const made = await ask(page, "/api/tokens", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ name: "clients" }) });
  await lookAround(page, site.at.web, job);
  await page.goto(`${site.at.web}/jobs`);
  await press(page, "Sign out");
  await shows(page, "Sign in to Munjigi");
  await signIn(page, site.at.web, me.name, 2);
  await page.close();
  return { job, name: me.name, token: made.body.token ?? made.body.secret };
}

/** Somebody with a phone: one mistyped password, a look at the job, an old bookmark. */
async function phone(browser, site, { job, name }) {
  const page = await openPage(await browser.createBrowserContext(), { width: 390, height: 844 });
  await page.setUserAgent(PHONE);
  await signIn(page, site.at.phone, name, 1);
  await lookAround(page, site.at.phone, job);
  await page.browserContext().close();
}

const source = (bytes) => Buffer.from(`import os\nfrom flask import request\ndef ping():\n    os.system("ping " + request.args["host"])\n${"# padding\n".repeat(bytes / 10)}`);

/** tus-js-client: in chunks, stopped and resumed, one upload ended and asked for once more. */
async function tusClient(site, token) {
  const headers = { authorization: `Bearer ${token}` };
  const upload = (bytes, more) => new Promise((resolve, reject) => {
    const task = new tus.Upload(source(bytes), {
      endpoint: `${site.at.tus}/api/uploads`,
      headers,
      metadata: { filename: "ping.py" },
      chunkSize: 64 * 1024,
      onError: reject,
      onSuccess: () => resolve(task.url),
      ...more(() => task, resolve),
    });
    task.start();
  });
  const whole = await upload(600_000, () => ({}));
  const half = await upload(600_000, (task, stopped) => ({ onChunkComplete: (_, sent) => sent > 200_000 && task().abort().then(() => stopped(task().url)) }));
  await upload(600_000, () => ({ uploadUrl: half }));
  await tus.Upload.terminate(half, { headers });
  for (let time = 0; time < 3; time += 1) await fetch(half, { method: "HEAD", headers: { ...headers, "tus-resumable": "1.0.0" } });
  return new URL(whole).pathname.split("/").pop();
}

async function tuspy(site, token, folder) {
  const file = join(folder, "ping.py");
  writeFileSync(file, source(900_000));
  await run(process.env.PYTHON, [here("../clients/upload.py"), `${site.at.tuspy}/api/uploads`, token, file]);
}

/** A program that polls its job to the end, deletes it, and polls on; and one that asks for what an old version had. */
async function api(site, token, upload) {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const call = async (method, path, body) => {
    const response = await fetch(`${site.at.api}/api${path}`, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    return { status: response.status, body: /json/.test(response.headers.get("content-type")) ? JSON.parse(text) : text };
  };
  const { body: { eventId } } = await call("POST", "/jobs", { upload, models: ["source"] });
  await eventually(async () => (await call("GET", `/jobs/${eventId}`)).body.status === "DONE", { within: END_MS, what: "the job's end" });
  for (const path of [`/jobs/${eventId}/findings`, `/jobs/${eventId}/report.sarif`, "/jobs?limit=50", "/models", "/me", "/v1/jobs", "/v1/me", "/projects", "/jobs/latest"]) await call("GET", path);
  await call("DELETE", `/jobs/${eventId}`);
  for (let time = 0; time < 20; time += 1) await call("GET", `/jobs/${eventId}`);
  for (let time = 0; time < 20; time += 1) await call("GET", `/jobs/01JD3ZK5T1M8Q4V0X6Y7N2B9${String(time).padStart(2, "0")}`);
}

/** A shell script in a loop, with a typing error and a stale token. */
async function curl(site, token) {
  const get = (path, ...more) => run("curl", ["-sS", "-o", "/dev/null", "-H", `Authorization: Bearer ${token}`, ...more, `${site.at.curl}${path}`]);
  for (let time = 0; time < 15; time += 1) {
    await get("/api/jobs");
    await get("/api/jobs/01JD3ZK5T1M8Q4V0X6Y7N2B9CE");
  }
  for (const path of ["/api/job", "/api/health", "/ready", "/jobs", "/api/uploads"]) await get(path);
  await get("/", "-I");
  for (let time = 0; time < 5; time += 1) await run("curl", ["-sS", "-o", "/dev/null", `${site.at.curl}/api/me`]);
}

/** Pages of an older site, as other sites still link to them. */
const OLD_LINKS = `about.html contact.html blog/ blog/2019/03/release news/feed.xml index.html index.php download.php?file=setup docs/ docs/install
docs/faq.html team press forum/viewtopic.php?t=12 images/logo.png products/scanner pricing support changelog.txt en/index.html ko/index.html
wiki/Main_Page rss.xml partners jobs.html search?q=munjigi tag/security category/tools page/2 archive/2018 a/b/c`.split(/\s+/);

/** A crawler that says who it is, keeps to a pace, reads robots.txt, and follows links, dead ones too. */
async function crawler(site) {
  const get = async (path) => {
    await sleep(100);
    const response = await fetch(new URL(path, site.at.crawler), { headers: { "user-agent": CRAWLER } });
    return response.text();
  };
  await get("/robots.txt");
  await get("/sitemap.xml");
  const seen = new Set(["/"]);
  for (const path of seen) {
    const text = await get(path);
    for (const [, link] of text.matchAll(/(?:href|src)="([^"#]+)"/g)) {
      const url = new URL(link, site.at.crawler + path);
      if (url.origin === site.at.crawler && seen.size < 60) seen.add(url.pathname + url.search);
    }
  }
  for (const path of OLD_LINKS) await get(`/${path}`);
}

/** The lines of the access log, each as the replay wants it; ends with an error where one is no clean traffic. */
function lines(folder) {
  const all = readFileSync(join(folder, "access.log"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  const asked = all.filter((line) => KINDS.includes(line.listener) && line.method);
  const faulty = asked.filter((line) => FAULTS.test(line.reason));
  if (faulty.length > 0) throw new Error(`not clean: ${JSON.stringify(faulty[0])}`);
  const start = (line) => Math.round(Date.parse(line.time) - line.ms.total);
  const begin = Object.fromEntries(KINDS.map((kind) => [kind, Math.min(...asked.filter((line) => line.listener === kind).map(start))]));
  return asked
    .map((line) => ({ kind: line.listener, ms: start(line) - begin[line.listener], method: line.method, target: line.target.replaceAll("…", "0"), status: line.status, agent: line.userAgent ?? "" }))
    .sort((one, other) => KINDS.indexOf(one.kind) - KINDS.indexOf(other.kind) || one.ms - other.ms);
}

const folder = mkdtempSync(join(tmpdir(), "munjigi-clean-"));
let site;
let browser;
try {
  site = await startProgram(folder);
  browser = await startBrowser();
  const known = await desk(browser, site);
  await phone(browser, site, known);
  const upload = await tusClient(site, known.token);
  await tuspy(site, known.token, folder);
  await api(site, known.token, upload);
  await curl(site, known.token);
  await crawler(site);
  await browser.close();
  browser = undefined;
  await site.stop();
  site = undefined;
  const recorded = lines(folder);
  writeFileSync(process.argv[2], recorded.map((line) => `${JSON.stringify(line)}\n`).join(""));
  for (const kind of KINDS) {
    const own = recorded.filter((line) => line.kind === kind);
    console.log(`${kind}: ${own.length} requests in ${Math.round(Math.max(...own.map((line) => line.ms)) / 1000)} s, ${own.filter((line) => line.status >= 400).length} of them refused`);
  }
} finally {
  await browser?.close();
  await site?.stop();
  rmSync(folder, { recursive: true, force: true });
}
