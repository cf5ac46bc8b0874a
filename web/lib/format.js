// Figures as people read them. Pure: the time is given.
import { currentLanguage, t } from "./i18n.js";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A size in binary units with at most three digits: `1.46 GiB`. */
export function bytes(count) {
  if (!Number.isFinite(count) || count < 0) return "–";
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${number(value, digits)} ${UNITS[unit]}`;
}

/** A rate in binary units a second. */
export function rate(bytesPerSecond) {
  return `${bytes(bytesPerSecond)}/s`;
}

/** A number with the language's separators and exactly `digits` decimals. */
export function number(value, digits = 0) {
  return value.toLocaleString(currentLanguage(), { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A number with its sign, a true minus included: `+0.83`, `−1.20`. */
export function signed(value, digits = 2) {
  const text = number(Math.abs(value), digits);
  if (Number(Math.abs(value).toFixed(digits)) === 0) return text;
  return value < 0 ? `−${text}` : `+${text}`;
}

/** A share as whole percent; never 0 or 100 unless it is exactly that, since both would claim certainty. */
export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  let whole = Math.round(share * 100);
  if (whole >= 100 && share < 1) whole = 99;
  if (whole <= 0 && share > 0) whole = 1;
  return `${number(whole)} %`;
}

/** A span of time in its two largest parts: `850 ms`, `4.2 s`, `3 min 05 s`, `2 h 10 min`. */
export function duration(milliseconds) {
  if (!Number.isFinite(milliseconds)) return "–";
  const ms = Math.max(0, milliseconds);
  if (ms < 1000) return t("span.ms", { v: number(Math.round(ms)) });
  if (ms < 9950) return t("span.s", { v: number(ms / 1000, 1) });
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return t("span.s", { v: number(seconds) });
  const pad = (value) => String(value).padStart(2, "0");
  if (seconds < 3600) return t("span.min", { m: String(Math.floor(seconds / 60)), s: pad(seconds % 60) });
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1440) return t("span.h", { h: String(Math.floor(minutes / 60)), m: pad(minutes % 60) });
  return t("span.d", { d: number(Math.floor(minutes / 1440)), h: String(Math.floor(minutes / 60) % 24) });
}

/** How long ago `then` is, both in milliseconds since the epoch. A clock a little ahead is still "just now". */
export function ago(then, now) {
  const seconds = Math.floor((now - then) / 1000);
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 5) return t("ago.now");
  if (seconds < 60) return t("ago.s", { v: number(seconds) });
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return t("ago.min", { v: number(minutes) });
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return t("ago.h", { v: number(hours) });
  return t("ago.d", { v: number(Math.floor(hours / 24)) });
}

/** A point in time in full, for the hover. */
export function absolute(then) {
  const date = new Date(then);
  if (Number.isNaN(date.getTime())) return "–";
  return date.toLocaleString(currentLanguage(), { dateStyle: "medium", timeStyle: "long" });
}

/** The time of day with seconds, for streams. */
export function clock(then) {
  const date = new Date(then);
  if (Number.isNaN(date.getTime())) return "–";
  const pad = (value) => String(value).padStart(2, "0");
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
}

/** A percent-encoded uri as people read it; what isn't valid stays as it is. */
export function path(uri) {
  try {
    return decodeURIComponent(uri);
  } catch {
    return uri;
  }
}

/** A stable kebab-case name as words: `flow-length` → `flow length`. */
export function words(name) {
  return String(name).replace(/[-_]+/g, " ");
}
