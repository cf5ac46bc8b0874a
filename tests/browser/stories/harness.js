// The real program and a real browser for the stories. `MUNJIGI_BIN` is the program under test.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import puppeteer from "puppeteer-core";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const BROWSERS = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", "/usr/bin/google-chrome-stable"];
const READY_MS = 30_000;
export const SCREENS = join(ROOT, "test-out", "screens");

/** Waits until `check` gives something true; fails with what it gave last. */
export async function eventually(check, { within = 20_000, what = check.toString() } = {}) {
  const end = Date.now() + within;
  let last;
  for (;;) {
    try {
      last = await check();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`not within ${within} ms: ${what}; last: ${last?.message ?? JSON.stringify(last)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A data folder of a story's own. */
export const newFolder = () => mkdtempSync(join(tmpdir(), "munjigi-browser-"));

/** Starts `munjigi up` on a data folder of its own: `{ link, origin, data, stop(), kill() }`. */
export const startMunjigi = (data = newFolder(), address = "127.0.0.1:0") => start(["up", "--data", data, "--listen", address, "--no-open"], data);

/** Starts `munjigi run` with these settings, the same way. */
export function startWith(settings, data) {
  const file = join(data, "munjigi.toml");
  writeFileSync(file, settings);
  return start(["run", file], data);
}

async function start(args, data) {
  const program = process.env.MUNJIGI_BIN;
  if (!program) throw new Error("MUNJIGI_BIN is not set: the program under test");
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  let errors = "";
  child.stderr.on("data", (part) => {
    errors = (errors + part).slice(-4000);
  });
  const link = await new Promise((resolve, reject) => {
    let text = "";
    const late = setTimeout(() => reject(new Error(`no URL within ${READY_MS} ms: ${errors}`)), READY_MS);
    ended.then(({ code }) => reject(new Error(`ended with ${code} before it was ready: ${errors}`)));
    child.stdout.on("data", (part) => {
      text += part;
      const found = /https?:\/\/\S*token=\S+/.exec(text);
      if (!found) return;
      clearTimeout(late);
      resolve(found[0]);
    });
  }).catch((error) => {
    child.kill("SIGKILL");
    throw error;
  });
  return {
    link,
    origin: new URL(link).origin,
    data,
    log: () => errors,
    kill() {
      child.kill("SIGKILL");
      return ended;
    },
    async stop() {
      child.kill("SIGINT");
      const late = setTimeout(() => child.kill("SIGKILL"), 15_000);
      const end = await ended;
      clearTimeout(late);
      return end;
    },
    remove: () => rmSync(data, { recursive: true, force: true }),
  };
}

/** A headless browser. */
export function startBrowser() {
  const executablePath = BROWSERS.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error("no Chromium found: set CHROMIUM");
  return puppeteer.launch({ executablePath, headless: true, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
}

/**
 * A page that remembers what went wrong in it: console errors, exceptions, violations of the policy. Answers of 4xx are no
 * fault of the page, unless an asset is missing. Its sockets can be cut with `cutSockets`.
 */
export async function openPage(context, { width = 1280, height = 800, theme = "light", language = "en" } = {}) {
  const page = await context.newPage();
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`exception: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    const { url = "" } = message.location() ?? {};
    if (/Failed to load resource|WebSocket connection to/.test(message.text()) && !url.includes("/assets/")) return;
    page.faults.push(`console: ${message.text()} ${url}`);
  });
  page.on("dialog", (dialog) => dialog.accept());
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
  await page.evaluateOnNewDocument((wanted) => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
    localStorage.getItem("munjigi.language") ?? localStorage.setItem("munjigi.language", wanted);
    window.sockets = [];
    window.WebSocket = class extends WebSocket {
      constructor(...rest) {
        super(...rest);
        window.sockets.push(this);
      }
    };
  }, language);
  return page;
}

/** Cuts the page's open sockets; answers how many there were. */
export function cutSockets(page) {
  return page.evaluate(() => {
    const open = window.sockets.filter((socket) => socket.readyState === WebSocket.OPEN);
    for (const socket of open) socket.close(4000);
    return open.length;
  });
}

/** Drops a file of these bytes on the page, as a hand would. */
export function drop(page, name, bytes) {
  return page.evaluate(
    (fileName, base64) => {
      const data = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([data], fileName, { lastModified: 1_700_000_000_000 }));
      for (const type of ["dragenter", "dragover", "drop"]) document.querySelector(".drop").dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: transfer }));
    },
    name,
    Buffer.from(bytes).toString("base64"),
  );
}

/** The text that a reader sees. */
export const textOf = (page, selector = "body") => page.$eval(selector, (element) => element.innerText);

/** Waits until the page shows `text`. */
export const shows = (page, text, selector = "body", within = 20_000) => eventually(async () => (await textOf(page, selector)).includes(text), { within, what: `“${text}” in ${selector} of ${page.url()}` });

/** Presses the button (or follows the link) with this text. */
export async function press(page, text) {
  const handle = await eventually(
    async () => {
      const found = await page.evaluateHandle((wanted) => [...document.querySelectorAll("button, a")].find((element) => element.checkVisibility() && (element.innerText.trim() === wanted || element.getAttribute("aria-label") === wanted)), text);
      return found.asElement();
    },
    { what: `a button “${text}” on ${page.url()}` },
  );
  await handle.click();
}

/** What a JSON address answers to this page's user: `{ status, body }`. */
export const ask = (page, path, options = {}) =>
  page.evaluate(
    async (url, init) => {
      const response = await fetch(url, init);
      const text = await response.text();
      try {
        return { status: response.status, body: JSON.parse(text) };
      } catch {
        return { status: response.status, body: text };
      }
    },
    path,
    options,
  );

/** Saves what the page shows, whole. */
export async function screenshot(page, name) {
  mkdirSync(SCREENS, { recursive: true });
  await page.screenshot({ path: join(SCREENS, `${name}.png`), fullPage: true });
}
