// One WebSocket for all jobs that the page follows. It reconnects by itself, resumes each job where it was, and notices
// what is missing: `offset` counts without gaps in one job. Where WebSockets don't pass, server-sent events do.

import { backoff, Place } from "./place.js";

/** A connection that says nothing for so long is asked, by subscribing again, whether it is still there. */
const ASK_AFTER_MS = 25_000;
const ANSWER_WITHIN_MS = 10_000;
/** WebSockets that never open, this often in a row, while HTTP works: something between cuts them. */
const GIVE_UP_SOCKET_AFTER = 3;

export class Live {
  /** `connecting`, `live`, `reconnecting` or `offline`; `since` in milliseconds since the epoch. */
  state = "connecting";
  since = Date.now();
  #socket = null;
  #followed = new Map();
  #listeners = new Set();
  #failures = 0;
  #neverOpened = 0;
  #timer = 0;
  #watch = 0;
  #heard = 0;
  #asked = 0;
  #sse = false;
  #probe;

  /** `probe` asks over HTTP whether the session still holds; it rejects when the hub can't be reached. */
  constructor({ probe }) {
    this.#probe = probe;
    window.addEventListener("online", () => this.#hurry());
    window.addEventListener("offline", () => this.#set("offline"));
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#hurry();
    });
  }

  /**
   * Follows a job until `signal` aborts. `handlers`: `event(data)` for each event once and in order; `subscribed(message)`;
   * `reset()` when all is sent again from the first event; `error(code)`.
   */
  follow(eventId, handlers, signal) {
    const one = { eventId, handlers, place: new Place(), asked: 0, source: null };
    const all = this.#followed.get(eventId) ?? new Set();
    all.add(one);
    this.#followed.set(eventId, all);
    signal.addEventListener("abort", () => {
      one.source?.close();
      all.delete(one);
      if (all.size > 0 || this.#followed.get(eventId) !== all) return;
      this.#followed.delete(eventId);
      if (this.#followed.size === 0) this.#close();
      else if (this.#open()) this.#socket.send(JSON.stringify({ type: "unsubscribe", eventId }));
    });
    if (this.#sse) this.#listen(one);
    else if (this.#open()) this.#subscribe(one);
    else this.#connect();
    return { restart: () => this.#restart(one) };
  }

  /** Tells about each change of `state`. */
  onState(act, signal) {
    this.#listeners.add(act);
    signal.addEventListener("abort", () => this.#listeners.delete(act));
  }

  /** Asks over the socket to stop a job; false when there is no socket to ask over. */
  cancel(eventId) {
    if (!this.#open()) return false;
    this.#socket.send(JSON.stringify({ type: "cancel", eventId }));
    return true;
  }

  #open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  #set(state) {
    if (this.state === state) return;
    // "Reconnecting" lasts from the first moment without a connection to the next one with.
    if (!(this.state === "reconnecting" && state === "offline") && !(this.state === "offline" && state === "reconnecting")) this.since = Date.now();
    this.state = state;
    for (const act of this.#listeners) act(state);
  }

  #all() {
    return [...this.#followed.values()].flatMap((all) => [...all]);
  }

  #connect() {
    if (this.#socket || this.#sse || this.#timer || this.#followed.size === 0) return;
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/ws`);
    this.#socket = socket;
    let opened = false;
    socket.addEventListener("open", () => {
      opened = true;
      this.#failures = 0;
      this.#neverOpened = 0;
      this.#heard = Date.now();
      this.#asked = 0;
      this.#set("live");
      for (const one of this.#all()) this.#subscribe(one);
      clearInterval(this.#watch);
      this.#watch = setInterval(() => this.#check(), 5000);
    });
    socket.addEventListener("message", (message) => {
      this.#heard = Date.now();
      this.#asked = 0;
      this.#take(message.data);
    });
    socket.addEventListener("close", () => {
      if (this.#socket === socket) this.#lost(opened);
    });
  }

  #close() {
    clearInterval(this.#watch);
    clearTimeout(this.#timer);
    this.#timer = 0;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
    if (this.state !== "offline") this.#set("connecting");
  }

  #lost(opened) {
    this.#socket = null;
    clearInterval(this.#watch);
    if (this.#followed.size === 0) return;
    if (!opened) this.#neverOpened += 1;
    this.#set(navigator.onLine ? "reconnecting" : "offline");
    const wait = backoff(this.#failures, Math.random());
    this.#failures += 1;
    this.#timer = setTimeout(async () => {
      this.#timer = 0;
      // A socket that never opens tells no reason; HTTP does: signed out, gone, or only WebSockets are cut.
      if (this.#neverOpened > 0) {
        try {
          await this.#probe();
          if (this.#neverOpened >= GIVE_UP_SOCKET_AFTER) return this.#useEvents();
        } catch (error) {
          if (error?.status === 401) return;
          this.#neverOpened = 1;
        }
      }
      this.#connect();
    }, wait);
  }

  #hurry() {
    if (this.#followed.size === 0 || this.#sse) return;
    if (this.#open()) {
      this.#check(0);
      return;
    }
    if (this.#socket) return;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#failures = 0;
    this.#connect();
  }

  #check(askAfter = ASK_AFTER_MS) {
    const now = Date.now();
    if (this.#asked && now - this.#asked > ANSWER_WITHIN_MS) {
      const socket = this.#socket;
      this.#lost(true);
      socket?.close();
    } else if (!this.#asked && now - this.#heard > askAfter) {
      const [one] = this.#all();
      if (!one) return;
      this.#asked = now;
      this.#subscribe(one);
    }
  }

  #subscribe(one) {
    if (!this.#open()) return;
    const message = { type: "subscribe", eventId: one.eventId };
    if (one.place.epoch !== undefined) Object.assign(message, { epoch: one.place.epoch, offset: one.place.offset });
    this.#socket.send(JSON.stringify(message));
  }

  #restart(one) {
    if (Date.now() - one.asked < 2000) return;
    one.asked = Date.now();
    one.place.reset();
    one.handlers.reset?.();
    this.#subscribe(one);
  }

  #take(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (message.type === "event") {
      for (const one of this.#followed.get(message.data?.eventId) ?? []) this.#event(one, message);
    } else if (message.type === "subscribed") {
      for (const one of this.#followed.get(message.eventId) ?? []) this.#subscribed(one, message);
    } else if (message.type === "error") {
      const ones = message.eventId ? [...(this.#followed.get(message.eventId) ?? [])] : this.#all();
      for (const one of ones) {
        one.handlers.error?.(message.code);
        // The hub could not read the events just now; they are still there.
        if (message.code === "internal") setTimeout(() => this.#followed.get(one.eventId)?.has(one) && this.#subscribe(one), backoff(3, Math.random()));
      }
    }
  }

  #event(one, { epoch, offset, data }) {
    const verdict = one.place.judge(epoch, offset);
    if (verdict === "take") one.handlers.event(data);
    else if (verdict === "reset") this.#restart(one);
    else if (verdict === "gap" && Date.now() - one.asked > 2000) {
      one.asked = Date.now();
      this.#subscribe(one);
    }
  }

  #subscribed(one, message) {
    if (message.recovered === false) one.place.skip(message.epoch);
    else if (one.place.epoch === undefined) one.place.epoch = message.epoch;
    one.handlers.subscribed?.(message);
  }

  #useEvents() {
    this.#sse = true;
    for (const one of this.#all()) this.#listen(one);
  }

  // The browser itself reconnects and sends Last-Event-ID; the store drops what comes twice.
  #listen(one) {
    const source = new EventSource(`/api/jobs/${encodeURIComponent(one.eventId)}/events`);
    one.source = source;
    const parse = (text) => {
      try {
        return JSON.parse(text);
      } catch {
        return undefined;
      }
    };
    source.addEventListener("open", () => this.#set("live"));
    source.addEventListener("message", (message) => {
      const data = parse(message.data);
      if (!data) return;
      one.handlers.event(data);
      if (one.handlers.ended?.()) source.close();
    });
    source.addEventListener("recovered", (message) => {
      const data = parse(message.data);
      if (data) one.handlers.subscribed?.(data);
    });
    source.addEventListener("error", () => {
      this.#set(navigator.onLine ? "reconnecting" : "offline");
      // After an answer that is no stream (a gate's 502, say) the browser gives up; we don't.
      if (source.readyState !== EventSource.CLOSED || one.handlers.ended?.()) return;
      setTimeout(() => {
        if (this.#followed.get(one.eventId)?.has(one)) this.#listen(one);
      }, backoff(4, Math.random()));
    });
  }
}
