// The hub's face. Every failure becomes an ApiError with a stable code, so that views can say it in the reader's words.
import { has, t } from "./i18n.js";

/** Longer than any answer of the hub takes; a hub that is silent for so long is as good as gone. */
const TIMEOUT_MS = 20_000;

export class ApiError extends Error {
  constructor({ status, code, title, detail, retryAfter }) {
    super(detail || title || code);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.title = title;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }
}

/** Reads a problem document (RFC 9457); a body that is none still gives an error with the status. */
export function problemOf(status, text, retryAfter) {
  let body = {};
  try {
    body = JSON.parse(text) ?? {};
  } catch {
    // A gate or proxy in between may answer in its own words.
  }
  const word = (value) => (typeof value === "string" ? value : undefined);
  return new ApiError({
    status,
    code: word(body.code) ?? `http_${status}`,
    title: word(body.title),
    detail: word(body.detail),
    retryAfter: Number(retryAfter) || undefined,
  });
}

let onSignedOut = () => {};

/** What to do when the session has ended. */
export function whenSignedOut(act) {
  onSignedOut = act;
}

async function call(method, url, { body, headers, signal, quiet } = {}) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  let text;
  try {
    response = await fetch(url, {
      method,
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      credentials: "same-origin",
      cache: "no-store",
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError({ status: 0, code: limit.aborted ? "timeout" : "unreachable" });
  }
  if (!response.ok) {
    const problem = problemOf(response.status, text, response.headers.get("Retry-After"));
    if (response.status === 401 && !quiet) onSignedOut();
    throw problem;
  }
  if (!text) return null;
  if (!(response.headers.get("Content-Type") ?? "").includes("json")) return text;
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError({ status: response.status, code: "bad_answer" });
  }
}

export const api = {
  get: (url, options) => call("GET", url, options),
  post: (url, body, options) => call("POST", url, { ...options, body }),
  put: (url, body, options) => call("PUT", url, { ...options, body }),
  delete: (url, options) => call("DELETE", url, options),
};

/** A path under /api with each part encoded. */
export function apiPath(...parts) {
  return `/api/${parts.map(encodeURIComponent).join("/")}`;
}

/** `?a=1&b=2` of what is set. */
export function query(values) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== null && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `?${text}` : "";
}

/** An error in the reader's language: our message for the code or status, with the server's detail where it adds something. */
export function explain(error) {
  if (!(error instanceof ApiError)) return String(error?.message ?? error);
  for (const key of [`error.${error.code}`, `error.http_${error.status}`]) {
    if (has(key)) return error.detail && error.status !== 401 ? `${t(key)} (${error.detail})` : t(key);
  }
  return error.detail || error.title || t("error.other", { status: String(error.status) });
}

/** 128 random bits as hex: `crypto.randomUUID` is missing without TLS. */
export function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** True for what a later try may mend. */
export function isPassing(error) {
  // Waiting doesn't mend having too many: the reader has to.
  if (error?.code === "too_many_uploads") return false;
  return error instanceof ApiError && (error.status === 0 || error.status === 429 || error.status === 502 || error.status === 503 || error.status === 504);
}
