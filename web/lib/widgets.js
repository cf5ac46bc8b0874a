// Small parts that several views share.
import { fill, h, say, setText } from "./dom.js";
import { absolute, ago, duration, percent } from "./format.js";
import { explain } from "./api.js";
import { icon, severityIcon } from "./icons.js";
import { t } from "./i18n.js";

const TICK_MS = 1000;
const ticking = new Set();

// One timer for all times on the page; an element that left the page is forgotten.
setInterval(() => {
  if (document.hidden) return;
  for (const tick of ticking) tick();
}, TICK_MS);

function ticks(element, update) {
  update();
  let wasThere = false;
  const tick = () => {
    wasThere ||= element.isConnected;
    if (wasThere && !element.isConnected) ticking.delete(tick);
    else update();
  };
  ticking.add(tick);
  return element;
}

// A relative time that stays true, with the absolute one on hover.
function moment(then, tell) {
  if (!then) return h("span.muted", "–");
  const at = new Date(then).getTime();
  const element = h("time.num", { datetime: new Date(at).toISOString(), title: absolute(at) });
  return ticks(element, () => setText(element, tell(at, Date.now())));
}

/** How long ago it was. */
export const timeAgo = (then) => moment(then, ago);

/** How long it still is until then. */
export const timeLeft = (then) => moment(then, (at, now) => duration(at - now));

/** A span that grows from `from` until `to` says when it ended (undefined: it goes on). */
export function elapsed(from, to) {
  const element = h("span.num");
  return ticks(element, () => setText(element, duration((to() ?? Date.now()) - new Date(from).getTime())));
}

/** A status: a dot whose form differs, and the word. */
export function statusBadge(status) {
  return h(`span.badge.status-${status.toLowerCase()}`, { data: { status } }, h("span.dot", { "aria-hidden": "true" }), t(`status.${status}`));
}

/** The word and shape of a severity. */
export function severity(level) {
  return h(`span.severity.severity-${level}`, severityIcon(level), t(`level.${level}`));
}

/** Counts by severity, tabular; levels without any are shown quietly. */
export function levelCounts(counts) {
  return h(
    "span.level-counts",
    ["error", "warning", "note"].map((level) =>
      h(
        `span.level-count${counts[level] ? "" : ".none"}`,
        { title: t(`level.${level}`) },
        severityIcon(level, 14),
        h("span.num", String(counts[level])),
        h("span.visually-hidden", ` ${t(`level.${level}`)}`),
      ),
    ),
  );
}

/** A text in which `code` between backticks is set as code. */
export function prose(text) {
  return String(text ?? "")
    .split(/`([^`]+)`/)
    .map((part, index) => (index % 2 ? h("code.inline", part) : part));
}

/** A path of which the file's name and the line stay readable when there is little room. */
export function placeLine(place) {
  const [, folder = "", file, line = ""] = /^(.*\/)?(.*?)(:\d+)?$/s.exec(place);
  return h("span.place", { title: place }, folder && h("span.place-folder", folder), h("span.place-file", file), line && h("span.place-line.num", line));
}

/** A progress bar: `update(share, label)`, without a share it moves to and fro. */
export function progressBar(label) {
  const bar = h("div.bar-fill");
  const element = h("div.bar", { role: "progressbar", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100" }, bar);
  const update = (share, text) => {
    const known = share !== undefined;
    element.classList.toggle("unknown", !known);
    bar.style.setProperty("transform", known ? `scaleX(${Math.max(0, Math.min(1, share))})` : "");
    if (known) element.setAttribute("aria-valuenow", String(Math.floor(share * 100)));
    else element.removeAttribute("aria-valuenow");
    const value = text ?? (known ? percent(share) : t("progress.unknown"));
    if (element.getAttribute("aria-valuetext") !== value) element.setAttribute("aria-valuetext", value);
  };
  update(0);
  return { element, update };
}

/** A button with an icon. */
export function button(label, { name, kind = "", title, on, type = "button", disabled } = {}) {
  return h(`button.button${kind ? `.${kind}` : ""}`, { type, title, disabled, on: on ? { click: on } : undefined }, name && icon(name), h("span", label));
}

/** A button that shows only its icon; its name is for screen readers and the hover. */
export function iconButton(label, name, on) {
  return h("button.icon-button", { type: "button", title: label, "aria-label": label, on: { click: on } }, icon(name));
}

/** What a view shows when there is nothing: what it is for, and what to do. */
export function emptyState(name, title, text, ...actions) {
  return h("div.empty", h("span.empty-icon", icon(name, 24)), h("h2", title), text && h("p", text), actions.length > 0 && h("div.actions", actions));
}

/** What a view shows when it could not be had, with a way on. */
export function errorState(error, again) {
  return h(
    "div.empty.failed",
    { role: "alert" },
    h("span.empty-icon", icon("bolt", 24)),
    h("h2", t("error.title")),
    h("p", explain(error)),
    again && h("div.actions", button(t("action.again"), { name: "retry", on: again })),
  );
}

/** Grey lines where something will be: of the size it will have. */
export function skeleton(lines) {
  return h("div.skeleton", { "aria-hidden": "true" }, Array.from({ length: lines }, () => h("div.skeleton-line")));
}

/** A message at the edge of the page that goes away by itself unless it is an error. */
export function toast(text, { kind = "good" } = {}) {
  const region = document.getElementById("toasts");
  const close = () => element.remove();
  const element = h(`div.toast.${kind}`, { role: kind === "bad" ? "alert" : "status" }, icon(kind === "bad" ? "bolt" : "check"), h("span", text), iconButton(t("action.close"), "close", close));
  region.append(element);
  while (region.children.length > 4) region.firstElementChild.remove();
  if (kind !== "bad") setTimeout(close, 5000);
}

/** Runs `act`; a failure becomes a toast. Answers true when it went well. */
export async function attempt(act, done) {
  try {
    await act();
    if (done) {
      toast(done);
      say(done);
    }
    return true;
  } catch (error) {
    if (error?.name !== "AbortError") toast(explain(error), { kind: "bad" });
    return false;
  }
}

/** Asks before something that can't be undone. Resolves to true or false. */
export function confirm({ title, text, yes, kind = "danger" }) {
  return new Promise((resolve) => {
    const accept = button(yes, { kind, on: () => dialog.close("yes") });
    const dialog = h(
      "dialog.dialog",
      { "aria-labelledby": "dialog-title" },
      h("h2", { id: "dialog-title" }, title),
      h("p", text),
      h("div.actions", button(t("action.no"), { on: () => dialog.close("no") }), accept),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A button that copies a text and says so. */
export function copyButton(text, label = t("action.copy")) {
  const element = button(label, {
    name: "copy",
    on: async () => {
      // Without TLS there is no clipboard: the text is selected for the reader's own copy.
      try {
        await navigator.clipboard.writeText(text);
        fill(element, icon("check"), h("span", t("action.copied")));
        setTimeout(() => fill(element, icon("copy"), h("span", label)), 2000);
      } catch {
        toast(t("action.copy_by_hand"), { kind: "bad" });
      }
    },
  });
  return element;
}

/** The head of a page. The heading takes the focus after a navigation. */
export function pageHead(title, ...more) {
  return h("header.page-head", h("h1", { tabindex: "-1" }, title), more);
}
