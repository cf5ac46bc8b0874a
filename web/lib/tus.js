// The wire of one resumable upload (tus 1.0): create, ask, send a chunk, delete. XMLHttpRequest sends the chunks, because
// fetch doesn't tell how much of a body has left.
import { problemOf, ApiError } from "./api.js";

const HEADERS = { "Tus-Resumable": "1.0.0" };
const ENDPOINT = "/api/uploads";
/** No byte left and no answer came for so long: the connection is dead, whatever it says. */
const STALL_MS = 45_000;

let known;

/** What the hub takes: `{ max, checksum }`; asked once. */
export function capabilities() {
  known ??= fetch(ENDPOINT, { method: "OPTIONS", credentials: "same-origin" })
    .then((response) => ({
      max: Number(response.headers.get("Tus-Max-Size")) || undefined,
      checksum:
        /\bchecksum\b/.test(response.headers.get("Tus-Extension") ?? "") &&
        /\bsha256\b/.test(response.headers.get("Tus-Checksum-Algorithm") ?? "") &&
        Boolean(globalThis.crypto?.subtle),
    }))
    .catch(() => {
      known = undefined;
      return { max: undefined, checksum: false };
    });
  return known;
}

function base64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** `filename <base64>` and so on, as Upload-Metadata wants it. */
export function metadata(values) {
  return Object.entries(values)
    .map(([name, value]) => `${name} ${base64(new TextEncoder().encode(value))}`)
    .join(",");
}

async function request(method, url, headers, signal) {
  let response;
  try {
    response = await fetch(url, { method, headers: { ...HEADERS, ...headers }, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError({ status: 0, code: "unreachable" });
  }
  if (response.ok) return response;
  throw problemOf(response.status, await response.text().catch(() => ""), response.headers.get("Retry-After"));
}

function offsetOf(header) {
  const offset = Number(header);
  if (header === null || header === "" || !Number.isSafeInteger(offset) || offset < 0) throw new ApiError({ status: 200, code: "bad_answer" });
  return offset;
}

/** Makes an upload; answers its path. */
export async function create(file, signal) {
  const response = await request("POST", ENDPOINT, { "Upload-Length": String(file.size), "Upload-Metadata": metadata({ filename: file.name }) }, signal);
  const location = response.headers.get("Location");
  if (!location) throw new ApiError({ status: response.status, code: "bad_answer" });
  // Only the path: behind a proxy the hub may not know the name under which we reach it.
  return new URL(location, window.location.href).pathname;
}

/** How many bytes the hub holds for good. */
export async function ask(url, signal) {
  const response = await request("HEAD", url, {}, signal);
  return offsetOf(response.headers.get("Upload-Offset"));
}

/** Deletes an upload; one that is gone already is fine. */
export async function remove(url) {
  try {
    await request("DELETE", url, {});
  } catch (error) {
    if (error.status !== 404 && error.status !== 410) throw error;
  }
}

async function checksum(chunk) {
  const { checksum: wanted } = await capabilities();
  if (!wanted) return {};
  const digest = await crypto.subtle.digest("SHA-256", await chunk.arrayBuffer());
  return { "Upload-Checksum": `sha256 ${base64(new Uint8Array(digest))}` };
}

/** Sends `chunk` at `offset`; `progress(bytes)` tells what has left. Answers the new offset. */
export async function send(url, offset, chunk, progress, signal) {
  const headers = { ...HEADERS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": String(offset), ...(await checksum(chunk)) };
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    let stall;
    const alive = () => {
      clearTimeout(stall);
      stall = setTimeout(() => xhr.abort(), STALL_MS);
    };
    const stop = () => xhr.abort();
    const end = (act) => {
      clearTimeout(stall);
      signal.removeEventListener("abort", stop);
      act();
    };
    xhr.open("PATCH", url);
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.upload.addEventListener("progress", (event) => {
      alive();
      progress(event.loaded);
    });
    xhr.addEventListener("load", () => end(() => {
      if (xhr.status < 200 || xhr.status >= 300) {
        reject(problemOf(xhr.status, xhr.responseText, xhr.getResponseHeader("Retry-After")));
        return;
      }
      try {
        resolve(offsetOf(xhr.getResponseHeader("Upload-Offset")));
      } catch (error) {
        reject(error);
      }
    }));
    xhr.addEventListener("error", () => end(() => reject(new ApiError({ status: 0, code: "unreachable" }))));
    xhr.addEventListener("abort", () => end(() => reject(signal.aborted ? signal.reason : new ApiError({ status: 0, code: "stalled" }))));
    signal.addEventListener("abort", stop);
    alive();
    xhr.send(chunk);
  });
}
