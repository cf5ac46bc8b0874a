// The uploads of this page: they go on while the reader looks at other views, pause, survive a lost network by
// themselves, and after a reload go on where the hub says they were.
import { api, ApiError, isPassing } from "./api.js";
import { backoff } from "./place.js";
import * as memory from "./memory.js";
import * as tus from "./tus.js";
import { Upload, nextPiece } from "./upload.js";
import { isSameFile, unfinished } from "./unfinished.js";

const AT_ONCE = 2;
/** A chunk that arrives damaged this often in a row points at the machine, not at luck. */
const DAMAGED_MAX = 3;

export class Uploads {
  items = [];
  #user = null;
  #known;
  #listeners = new Set();

  constructor() {
    window.addEventListener("beforeunload", (event) => {
      if (this.items.some((item) => item.state === "uploading" || item.state === "retrying")) event.preventDefault();
    });
    window.addEventListener("online", () => {
      for (const item of this.items) if (item.state === "retrying") item.wake?.();
    });
  }

  /** Whose uploads they are; another user's are neither shown nor sent. */
  setUser(userId) {
    if (this.#user && this.#user !== userId) {
      for (const item of this.items) item.life.abort();
      this.items = [];
      this.#known = undefined;
    }
    this.#user = userId;
    this.#changed();
  }

  onChange(act, signal) {
    this.#listeners.add(act);
    signal.addEventListener("abort", () => this.#listeners.delete(act));
  }

  /** Adds a file; one that was half sent before goes on where it was. */
  add(file, choice) {
    const item = new Upload(file, choice);
    const before = this.remembered().find((each) => !each.complete && isSameFile(file, each));
    if (before) {
      item.url = before.url;
      item.key = before.key ?? item.key;
    }
    this.items.push(item);
    this.#next();
    return item;
  }

  /** Uploads begun earlier that no file of this page goes on with. */
  remembered() {
    return unfinished(this.#known, memory.all(), this.#user, new Set(this.items.map((item) => item.url)));
  }

  /** Asks the hub which uploads it holds; without an answer the browser's memory has to do. */
  async sync(signal) {
    const answer = await api.get("/api/uploads", { signal });
    this.#known = answer?.uploads;
    const there = new Set((this.#known ?? []).map((each) => `/api/uploads/${encodeURIComponent(each.id)}`));
    for (const each of memory.all()) if (each.userId === this.#user && !there.has(each.url)) memory.forget(each.url);
    this.#changed();
  }

  pause(item) {
    item.state = "paused";
    item.life.abort();
    this.#changed();
    this.#next();
    if (!item.url) return;
    // How much of the chunk that was cut off has been kept, only the hub knows.
    tus.ask(item.url).then((offset) => {
      if (item.state !== "paused") return;
      item.offset = offset;
      item.sent = 0;
      this.#changed();
    }, () => {});
  }

  resume(item) {
    item.state = "waiting";
    item.error = null;
    this.#next();
  }

  /** Starts the analysis of what is uploaded. */
  async startJob(item) {
    item.state = "starting";
    item.error = null;
    this.#changed();
    try {
      item.eventId = await this.startUploaded(item, item.models);
      item.state = "started";
    } catch (error) {
      item.error = error;
      item.state = "uploaded";
    }
    this.#changed();
  }

  /** Starts the analysis of a complete upload; answers the job's id. The same upload asked twice is one job. */
  async startUploaded({ url, key }, models) {
    const upload = decodeURIComponent(url.split("/").pop());
    const { eventId } = await api.post("/api/jobs", { upload, models }, { headers: { "Idempotency-Key": key ?? `upload-${upload}` } });
    this.#drop(url);
    return eventId;
  }

  /** Stops it and deletes what the hub holds of it. */
  async discard(item) {
    item.life.abort();
    this.items = this.items.filter((each) => each !== item);
    this.#changed();
    this.#next();
    if (item.url && item.state !== "started") await this.discardRemembered(item);
  }

  async discardRemembered({ url }) {
    await tus.remove(url);
    this.#drop(url);
    this.#changed();
  }

  #drop(url) {
    memory.forget(url);
    this.#known = this.#known?.filter((each) => `/api/uploads/${encodeURIComponent(each.id)}` !== url);
  }

  #changed() {
    for (const act of this.#listeners) act();
  }

  #next() {
    const running = this.items.filter((item) => item.state === "uploading" || item.state === "retrying").length;
    for (const item of this.items.filter((each) => each.state === "waiting").slice(0, Math.max(0, AT_ONCE - running))) {
      item.life = new AbortController();
      item.state = "uploading";
      this.#run(item, item.life.signal);
    }
    this.#changed();
  }

  async #run(item, signal) {
    let failures = 0;
    let damaged = 0;
    for (;;) {
      try {
        await this.#place(item, signal);
        while (item.offset < item.size) {
          await this.#sendChunk(item, signal);
          failures = 0;
          damaged = 0;
        }
        break;
      } catch (error) {
        if (signal.aborted) return;
        damaged += error.status === 460 ? 1 : 0;
        if (!this.#again(item, error, damaged)) {
          item.error = error;
          item.state = "failed";
          this.#changed();
          this.#next();
          return;
        }
        await this.#wait(item, error, failures, signal);
        if (signal.aborted) return;
        failures += 1;
      }
    }
    item.state = "uploaded";
    this.#changed();
    this.#next();
    if (item.start) await this.startJob(item);
  }

  // 409: someone else (another tab) moved the offset; 423: the hub still ends the request that we lost; 460: damaged on
  // its way; 404 and 410: it has expired, and a new one begins.
  #again(item, error, damaged) {
    if (error.status === 404 || error.status === 410) {
      if (!item.url) return false;
      memory.forget(item.url);
      item.url = null;
      item.offset = 0;
      return true;
    }
    if (error.status === 460) return damaged < DAMAGED_MAX;
    return isPassing(error) || error.status === 409 || error.status === 423 || error.status === 408 || error.status === 500;
  }

  async #wait(item, error, failures, signal) {
    const quick = error.status === 409 || error.status === 460 || error.status === 404 || error.status === 410;
    const ms = Math.max((error.retryAfter ?? 0) * 1000, quick && failures === 0 ? 0 : backoff(failures + 1, Math.random()));
    if (ms === 0) return;
    item.state = "retrying";
    item.error = error;
    item.retryAt = Date.now() + ms;
    this.#changed();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      item.wake = () => {
        clearTimeout(timer);
        resolve();
      };
      signal.addEventListener("abort", item.wake, { once: true });
    });
    if (signal.aborted) return;
    item.state = "uploading";
    item.samples = [];
    this.#changed();
  }

  async #place(item, signal) {
    if (item.url) {
      item.offset = await tus.ask(item.url, signal);
    } else {
      const { max } = await tus.capabilities();
      if (max && item.size > max) throw new ApiError({ status: 413, code: "too_large" });
      item.url = await tus.create(item.file, signal);
      item.offset = 0;
      this.#remember(item);
    }
    item.error = null;
    item.sent = 0;
    item.samples = [];
    item.sample();
    this.#changed();
  }

  async #sendChunk(item, signal) {
    // A piece that is cut is lost as a whole, since it is checked as a whole.
    const chunk = item.file.slice(item.offset, Math.min(item.offset + item.piece, item.size));
    const began = performance.now();
    try {
      item.offset = await tus.send(item.url, item.offset, chunk, (sent) => {
        item.sent = sent;
        item.sample();
        this.#changed();
      }, signal);
    } catch (error) {
      // The file itself can no longer be read: changed or removed since it was chosen.
      if (error?.name === "NotReadableError" || error?.name === "NotFoundError") throw new ApiError({ status: 400, code: "file_changed" });
      throw error;
    }
    item.piece = nextPiece(chunk.size, performance.now() - began);
    item.sent = 0;
    item.sample();
    this.#remember(item);
    this.#changed();
  }

  #remember(item) {
    const { name, size, lastModified } = item.file;
    memory.put({ url: item.url, userId: this.#user, name, size, lastModified, offset: item.offset, key: item.key, at: Date.now() });
  }
}
