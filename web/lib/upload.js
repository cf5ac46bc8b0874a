// One upload of this page: its file, its state and its figures.
import { randomKey } from "./api.js";

/** A rate is taken over so many milliseconds. */
const RATE_WINDOW_MS = 8000;

/** Bytes a second over the last samples `[milliseconds, bytes]`; undefined while there is too little to tell. Pure. */
export function rateOf(samples, now) {
  const recent = samples.filter(([at]) => now - at <= RATE_WINDOW_MS);
  if (recent.length < 2) return undefined;
  const [from, before] = recent[0];
  const [to, after] = recent[recent.length - 1];
  return to - from < 400 ? undefined : Math.max(0, ((after - before) * 1000) / (to - from));
}

const PIECE_FIRST = 1024 * 1024;
const PIECE_MIN = 256 * 1024;
const PIECE_MAX = 16 * 1024 * 1024;

/** Bytes of the next piece: what the connection carries in about a second, so that a cut costs no more. Pure. */
export function nextPiece(bytes, milliseconds) {
  const second = Math.round((bytes * 1000) / Math.max(1, milliseconds));
  return Math.min(PIECE_MAX, Math.max(PIECE_MIN, second));
}

/** What tells a file from another without reading it. */
export function fingerprint({ name, size, lastModified }) {
  return `${size}:${lastModified}:${name}`;
}

export class Upload {
  /** `waiting`, `uploading`, `retrying`, `paused`, `failed`, `uploaded`, `starting`, `started`. */
  state = "waiting";
  offset = 0;
  sent = 0;
  /** Bytes that are sent in one request. */
  piece = PIECE_FIRST;
  samples = [];
  error = null;
  eventId = null;
  url = null;
  retryAt = 0;
  key = randomKey();
  life = new AbortController();

  constructor(file, { models, start }) {
    this.id = randomKey();
    this.file = file;
    this.name = file.name;
    this.size = file.size;
    this.models = models;
    this.start = start;
  }

  get done() {
    return Math.min(this.size, this.offset + this.sent);
  }

  get rate() {
    return this.state === "uploading" ? rateOf(this.samples, performance.now()) : undefined;
  }

  sample() {
    const now = performance.now();
    this.samples.push([now, this.done]);
    while (this.samples.length > 2 && now - this.samples[0][0] > RATE_WINDOW_MS) this.samples.shift();
  }
}
